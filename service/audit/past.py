"""The whole book as it was believed to be: every contract as known at a position, in effect on a day, one a line (NDJSON).

The first line says what the book is of, the last how much it holds, with a digest of all lines before it: a book that was cut off has no
such line. Nothing of a book is kept: it is told anew from the log each time, line by line the same until something of it is erased.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import msgspec

from service.audit.book import Book, Chunk, Connection, Difference, Found, chunks_of, open_book, open_connection, read_events
from service.audit.chain import check_chain
from service.audit.crew import Crew
from service.audit.replay import Course, Progress
from service.domain.contract import encode_state
from service.domain.events import RecordedEvent
from service.domain.state import Anomaly
from service.domain.timeline import Pending, tell
from service.errors import OperatorError
from service.log.header import state_hash
from service.log.ledger import instant
from service.log.read import POSITION_AT

SCHEMA = "contract-ledger/book/v1"
BOOK_CHUNK_EVENTS = 2_000
"""Less than for other walks, since what a chunk comes to are whole states."""

_HEAD = """
SELECT b.last_position, (SELECT event_hash FROM events e WHERE e.ledger_id = b.ledger_id AND e.position = %(position)s),
       (SELECT recorded_at FROM events e WHERE e.ledger_id = b.ledger_id AND e.position = %(position)s)
FROM batches b WHERE b.ledger_id = %(ledger_id)s::uuid ORDER BY b.last_position DESC LIMIT 1
"""
_NOW = "SELECT clock_timestamp()"
_NOTE = """
SELECT c.note FROM checkpoints c JOIN ledgers l USING (ledger_id)
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.epoch = l.epoch AND c.size >= %(position)s ORDER BY c.size LIMIT 1
"""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Times:
    """What a book is of: what the ledger knew at a position, in effect on a day."""

    known_position: int
    effective_on: date


class Heading(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The first line. `known_hash` is the hash of the event at `known_position`; with position 0 there is none."""

    schema: str
    ledger: str
    ledger_id: str
    time_zone: str
    known_position: int
    effective_on: str
    known_hash: str | None = None
    known_at: str | None = None


class BookLine(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A contract; or, where its events are not what was recorded, the place at which they are not."""

    contract_id: str
    revision: int
    state: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    state_hash: str | None = None
    anomalies: list[Anomaly] | msgspec.UnsetType = msgspec.UNSET
    pending: list[Pending] | msgspec.UnsetType = msgspec.UNSET
    difference: Difference | None = None


class Ending(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The last line: `different` counts the contracts that cannot be told, `digest` is that of all lines before this one.

    `checkpoint` is the first signed note of the ledger's epoch that covers `known_position`, once there is one.
    """

    contracts: int
    events: int
    different: int
    digest: str
    checkpoint: str | None = None


class _Told(NamedTuple):
    """A chunk as lines."""

    lines: list[bytes]
    events: int
    different: int
    difference: Difference | None


class Telling:
    """A book that is told: `lines` gives its bytes, and its course grows with them.

    The digest is a chain, so that another process can go on with it: SHA-256 of the first line, and from each line to the next SHA-256 of
    the digest so far and the line.
    """

    def __init__(self, url: str, ledger: str, times: Times, processes: int = 0, course: Course | None = None) -> None:
        self._url = url
        self._ledger = ledger
        self._times = times
        self._processes = processes
        self.course = course or Course()

    @property
    def digest(self) -> bytes:
        """Of the lines so far."""
        return bytes.fromhex(self.course.digest)

    def lines(self, progress: Progress) -> Iterator[bytes]:
        """Its lines in order, many at a time, without those that its course has behind it, which is brought forward before `progress` is
        told. OperatorError when there is no such ledger, or it has not got so far."""
        course = self.course
        with open_connection(self._url) as connection:
            book = open_book(connection, self._ledger)
            heading = self._heading(connection, book)
            chunks = list(chunks_of(connection, book, course.after, BOOK_CHUNK_EVENTS))
        if not course.digest:
            course.digest = hashlib.sha256(heading).hexdigest()
            yield heading
        with Crew(self._url, book.head, self._processes) as crew:
            work = partial(_tell_chunk, times=self._times)
            for chunk, told in zip(chunks, crew.in_order(work, book, chunks), strict=True):
                self._bring_forward(chunk, told)
                yield b"".join(told.lines)
                progress(course.events, self._times.known_position, "events")
        yield self._ending(book)

    def _bring_forward(self, chunk: Chunk, told: _Told) -> None:
        course, digest = self.course, self.digest
        for line in told.lines:
            digest = hashlib.sha256(digest + line).digest()
        course.after, course.digest = chunk.upto, digest.hex()
        course.contracts, course.events = course.contracts + len(told.lines), course.events + told.events
        course.different, course.difference = course.different + told.different, course.difference or told.difference

    def _ending(self, book: Book) -> bytes:
        course = self.course
        with open_connection(self._url) as connection:
            signed = connection.execute(_NOTE, {"ledger_id": book.ledger.ledger_id, "position": self._times.known_position}).fetchone()
        ending = Ending(
            contracts=course.contracts,
            events=course.events,
            different=course.different,
            digest=course.digest,
            checkpoint=signed[0] if signed else None,
        )
        return _encode(ending) + b"\n"

    def _heading(self, connection: Connection, book: Book) -> bytes:
        position = self._times.known_position
        row = connection.execute(_HEAD, {"ledger_id": book.ledger.ledger_id, "position": position}).fetchone()
        if row is None or row[0] < position:
            raise OperatorError(f"Ledger {self._ledger} has no event {position}; it has {row[0] if row else 0} so far.")
        heading = Heading(
            schema=SCHEMA,
            ledger=book.ledger.name,
            ledger_id=book.ledger.ledger_id,
            time_zone=book.ledger.time_zone,
            known_position=position,
            effective_on=self._times.effective_on.isoformat(),
            known_hash=row[1].hex() if row[1] is not None else None,
            known_at=instant(row[2]) if row[2] is not None else None,
        )
        return _encode(heading) + b"\n"


def times_of(url: str, ledger: str, known_position: int | None, known_at: datetime | None, effective_on: date | None) -> Times:
    """The times of a book: the head and today for what is not said. OperatorError for an instant in the future."""
    with open_connection(url) as connection:
        book = open_book(connection, ledger)
        position = known_position
        if known_at is not None:
            now = (connection.execute(_NOW).fetchone() or (known_at,))[0]
            if known_at > now:
                raise OperatorError(f"{instant(known_at)} is in the future; it is {instant(now)} now.")
            found = connection.execute(POSITION_AT, {"ledger_id": book.ledger.ledger_id, "known_at": known_at}).fetchone()
            position = found[0] if found else 0
    return Times(book.head if position is None else position, effective_on or book.today)


def _tell_chunk(connection: Connection, book: Book, chunk: Chunk, times: Times) -> _Told:
    events, bodies = read_events(connection, book, chunk)
    lines: list[bytes] = []
    known, different, first = 0, 0, None
    for contract_id, group in groupby(events, key=itemgetter(0)):
        stored = list(group)
        revision = sum(1 for row in stored if row[1] <= times.known_position)
        if not revision:
            continue
        known += revision
        try:
            # The whole chain, not what was known of it alone: an erasure that came later explains what is missing in it.
            history = check_chain(book.ledger, stored, bodies)[:revision]
            lines.append(_line(contract_id, history, times.effective_on))
        except Found as found:
            different, first = different + 1, first or found.difference
            lines.append(_encode(BookLine(contract_id=contract_id, revision=revision, difference=found.difference)) + b"\n")
    return _Told(lines, known, different, first)


def _line(contract_id: str, history: Sequence[RecordedEvent], day: date) -> bytes:
    try:
        told = tell(history, day)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Found(f"contract {contract_id}", f"its events cannot be folded: {type(error).__name__}") from error
    state = encode_state(told.state)
    line = BookLine(
        contract_id=contract_id,
        revision=history[-1].revision,
        state=msgspec.Raw(state),
        state_hash=state_hash(day.isoformat(), state),
        anomalies=told.anomalies,
        pending=told.pending,
    )
    return _encode(line) + b"\n"
