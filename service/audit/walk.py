"""The walk along the log: its spans joined in their order, with what no span tells by itself.

That is, that each contract goes on from where it stood, that instants rise from batch to batch, that the tree which the batches, tiles and
checkpoints are of is that of these events, and that nothing stands outside the log. Memory grows with the contracts, not with the events:
of each, the hash and the revision of its last event are kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

from service.audit.book import Book, Connection, Difference, Found, read_contract
from service.audit.chain import check_chain
from service.audit.span import AT_FIRST, EARLIER, PASSED, SPAN_EVENTS, Checked, Span, does_not_follow, stand
from service.audit.tree import Growing
from service.log.tree import HASH_BYTES

_BATCHES = """
SELECT b.last_position, timestamptz_send(b.recorded_at), b.frontier FROM batches b
WHERE b.ledger_id = %(ledger_id)s::uuid AND b.last_position > %(after)s AND b.last_position <= %(upto)s ORDER BY b.last_position
"""
_BEGINNING = """
SELECT 1 FROM batches WHERE ledger_id = %(ledger_id)s::uuid AND last_position = 0 AND recorded_at = '1970-01-01T00:00:00Z'
"""
_OUTSIDE = """
WITH head AS (SELECT coalesce(max(last_position), 0) AS last FROM batches WHERE ledger_id = %(ledger_id)s::uuid)
SELECT min(position) FROM (
    SELECT position FROM events, head WHERE ledger_id = %(ledger_id)s::uuid AND position > last
    UNION ALL SELECT position FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position < 1
    UNION ALL SELECT position FROM payloads, head WHERE ledger_id = %(ledger_id)s::uuid AND position > last
    UNION ALL SELECT position FROM payloads WHERE ledger_id = %(ledger_id)s::uuid AND position < 1
    UNION ALL SELECT last_position FROM batches WHERE ledger_id = %(ledger_id)s::uuid AND last_position < 0
) o
"""
_NEVER = -(2**63)
_BATCH = "the batch that ends here has another recorded_at than its last event, or ends within a request"


def spans_of(book: Book) -> list[Span]:
    """The whole log, up to the head."""
    return [Span(after, min(after + SPAN_EVENTS, book.head)) for after in range(0, book.head, SPAN_EVENTS)]


class Walk:
    """A log that is walked along. Its spans are checked by whoever has the time, and joined here in their order."""

    def __init__(self, connection: Connection, book: Book) -> None:
        self.difference: Difference | None = None
        """The first that was found; what comes after it is not looked at."""
        self._connection = connection
        self._book = book
        self._growing = Growing(connection, book)
        # By contract, the hash of its last event and the revision behind it.
        self._stands: dict[bytes, bytes] = {}
        self._erased_from: set[str] = set()
        self._instant = _NEVER
        self._batch_instant = _NEVER

    def join(self, span: Span, checked: Checked) -> None:
        """Add the next span."""
        self._look(lambda: self._join(span, checked))

    def end(self) -> None:
        """Look at what stands outside the spans, once all of them are joined."""
        self._look(self._end)

    def _look(self, look: Callable[[], None]) -> None:
        if self.difference is None:
            try:
                look()
            except Found as error:
                self.difference = error.difference

    def _join(self, span: Span, checked: Checked) -> None:
        if checked.difference is not None:
            raise Found(*checked.difference)
        self._join_contracts(checked)
        batches = self._batches(span)
        self._join_batches(span, checked.instants, batches)
        leaves = [checked.leaves[at : at + HASH_BYTES] for at in range(0, len(checked.leaves), HASH_BYTES)]
        self._growing.step(leaves, {position: frontier for position, _, frontier in batches})
        self._erased_from |= checked.erased_from

    def _join_contracts(self, checked: Checked) -> None:
        """Each contract goes on from where it stood."""
        stands = self._stands
        for contract_id, before, position, after in PASSED.iter_unpack(checked.contracts):
            stood = stands.get(contract_id, AT_FIRST)
            if stood != before:
                prev, last = stand(before)
                raise does_not_follow(position, prev.hex(), last + 1, stand(stood))
            stands[contract_id] = after

    def _batches(self, span: Span) -> list[tuple[int, int, bytes | None]]:
        """The batches that end in a span: their last position, their instant in microseconds since 2000, and their frontier."""
        parameters = {"ledger_id": self._book.ledger.ledger_id, "after": span.after, "upto": span.upto}
        found = self._connection.execute(_BATCHES, parameters, binary=True)
        return [(position, int.from_bytes(instant, signed=True), frontier) for position, instant, frontier in found]

    def _join_batches(self, span: Span, instants: Sequence[int], batches: Sequence[tuple[int, int, Any]]) -> None:
        """A batch has the instant of its last event, and the event after it is of another request, so it is later."""
        if instants[0] < self._instant:
            raise Found(f"position {span.after + 1}", EARLIER)
        if instants[0] <= self._batch_instant:
            raise Found(f"position {span.after}", _BATCH)
        for position, instant, _ in batches:
            index = position - span.after
            if instants[index - 1] != instant or (index < len(instants) and instants[index] <= instant):
                raise Found(f"position {position}", _BATCH)
        self._instant = instants[-1]
        self._batch_instant = self._instant if batches and batches[-1][0] == span.upto else _NEVER

    def _end(self) -> None:
        parameters = {"ledger_id": self._book.ledger.ledger_id}
        if self._connection.execute(_BEGINNING, parameters).fetchone() is None:
            raise Found("position 0", "the row that the log begins with is missing, or has another recorded_at")
        outside = self._connection.execute(_OUTSIDE, parameters).fetchone()
        if outside and outside[0] is not None:
            raise Found(f"position {outside[0]}", "there is an event, a body or a batch outside the log, which goes from 1 to its head")
        self._growing.end()
        for contract_id in sorted(self._erased_from):
            check_chain(self._book.ledger, *read_contract(self._connection, self._book, contract_id))
