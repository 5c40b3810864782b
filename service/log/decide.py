"""What a batch decides under the ledger's lock: each request in order, each with its own fate. Pure once its rows are loaded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import orjson

from service.domain.corrections import delivery_ids
from service.domain.dates import first_day
from service.domain.erasure import ERASED, check_gaps
from service.domain.events import EventData, RecordedEvent
from service.domain.references import ReferenceId
from service.errors import (
    ClockUntrusted,
    ContractNotFound,
    LedgerError,
    LedgerNotFound,
    NotAllowedNow,
    ProjectionUnknown,
    RevisionRequired,
    StaleRevision,
    TreeUnknown,
)
from service.log.decision import Decision, Standing, damaged
from service.log.header import (
    new_salts,
)
from service.log.ledger import Ledger, instant, zone
from service.log.once import check_same, request_digest
from service.log.references import Holdings
from service.log.requests import Append, Receipt
from service.log.stored import UNREADABLE, recorded_event
from service.log.tree import Extension, extend
from service.projections.contracts import LAYOUT, ContractRow, unknown_layout

CLOCK_TOLERANCE = timedelta(seconds=5)
_TICK = timedelta(microseconds=1)
_UNSET = datetime.fromtimestamp(0, UTC)


@dataclass(slots=True)
class _Kept:
    """A key that was used; salt and digest are empty once something of the request is erased."""

    salt: bytes
    digest: bytes
    receipt: bytes


@dataclass(slots=True)
class Rows:
    """What decided requests write, but for the head of the log."""

    events: list[dict[str, Any]] = field(default_factory=list)
    payloads: list[dict[str, Any]] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    contracts: dict[str, ContractRow] = field(default_factory=dict)
    erased: list[int] = field(default_factory=list)
    """The positions of what is erased, by erasures among the events."""
    left_deliveries: list[dict[str, Any]] = field(default_factory=list)
    """Delivery ids that an erased event introduced, and that another one states too."""


class Batch:
    """The requests of one commit: what they look up, what they decide, what they write."""

    def __init__(self, ledger: Ledger, appends: Sequence[Append]) -> None:
        self.ledger = ledger
        self.appends = appends
        self.outcomes: list[Receipt | LedgerError] = []
        self.is_over = False
        """Whether it ends before its last request, since there is no time for more."""
        self.rows = Rows()
        self.salts = new_salts(sum(1 + len(append.events) for append in appends))
        self.written = 0
        """How many events have been decided."""
        self.generation = 0
        self.position = 0
        self.last_hash = ""
        self.found = 0, ""
        """The last event, by position and hash, of the receipts that were given before."""
        self.recorded_at = _UNSET
        self._now = self.recorded_at
        self._day = date.min
        self._frontier, self._size = b"", 0
        self._leaves: list[bytes] = []
        self._standings: dict[str, Standing] = {}
        self._kept: dict[bytes, _Kept] = {}
        self._delivery_ids: set[tuple[str, str]] = set()
        self._event_ids: set[tuple[str, str]] = set()
        self.event_ids: set[str] = set()
        """Those of the ids looked up that events of the ledger have, whatever their contract; and of events that were imported since."""
        self.holdings = Holdings()
        self.erased_from: list[tuple[str, str]] = []
        """Contracts (id and state) of shares that erase something: what was made of what they said before has to go too."""

    def lookups(self) -> dict[str, Any]:
        """The parameters of the first flush: what the requests of the batch need to be decided."""
        ids = [
            {"c": append.contract_id, "d": delivery_id}
            for append in self.appends
            for new in append.events
            for delivery_id in (*new.fact.delivery_ids(), *new.fact.known_delivery_ids())
        ]
        event_ids = {event_id for append in self.appends for new in append.events for event_id in new.fact.event_ids()}
        event_ids |= {new.event_id for append in self.appends for new in append.events if new.event_id}
        return {
            "ledger_id": self.ledger.ledger_id,
            "contract_ids": uuid_array({append.contract_id for append in self.appends if not append.opening}),
            "keys": uuid_array({f'"\\\\x{append.key.hex()}"' for append in self.appends}),
            "delivery_ids": orjson.dumps(ids).decode(),
            "event_ids": uuid_array(event_ids),
        }

    def begin(self, head: Sequence[Any] | None, process_seconds: float) -> None:
        """Take the head of the log, and refuse the batch when the clocks cannot be trusted or the projection is not known."""
        if head is None:
            raise LedgerNotFound(f"There is no ledger {self.ledger.name}.")
        now, self.position, recorded_at, self.generation, layout, accepted_at, schemes, frontier = head
        self._now, self.recorded_at = now.astimezone(UTC), recorded_at.astimezone(UTC)
        if layout != LAYOUT:
            raise ProjectionUnknown(f"Ledger {self.ledger.name}: {unknown_layout(layout)}.")
        if frontier is None:
            raise TreeUnknown(f"The tree of ledger {self.ledger.name} is not built yet: run `contract-ledger migrate` to its end.")
        self._frontier, self._size = bytes.fromhex(frontier), self.position
        self._check_clocks(process_seconds, accepted_at)
        self.holdings.schemes = frozenset(schemes)
        self._day = self._now.astimezone(zone(self.ledger.time_zone)).date()

    def _check_clocks(self, process_seconds: float, accepted_at: datetime | None) -> None:
        """One jump of a clock must not poison a ledger: its instants only ever rise."""
        apart = abs(self._now.timestamp() - process_seconds)
        if apart > CLOCK_TOLERANCE.total_seconds():
            raise ClockUntrusted(f"The clocks of the database and of this process are {apart:.0f} s apart; set them right.")
        accepted = accepted_at is not None and self.recorded_at <= accepted_at + CLOCK_TOLERANCE
        if self.recorded_at > self._now + CLOCK_TOLERANCE and not accepted:
            raise ClockUntrusted(
                f"The last event of ledger {self.ledger.name} was recorded at {instant(self.recorded_at)}, which is ahead of the clock "
                f"({instant(self._now)}). If the clock is right now, run `contract-ledger clock accept {self.ledger.name}`."
            )

    def load(
        self,
        states: Iterable[Sequence[Any]],
        keys: Iterable[Sequence[str]] = (),
        delivery_ids: Iterable[Sequence[str]] = (),
        event_ids: Iterable[Sequence[str]] = (),
    ) -> None:
        """Take the rows of the contracts concerned, the receipts of keys that were used before (key, salt, digest in hex), the delivery
        ids that are used, and the contracts of events that are referred to."""
        for row in states:
            self._standings[row[0]] = Standing(ContractRow(*row))
        for key, salt, digest, receipt in keys:
            self._kept[bytes.fromhex(key)] = _Kept(bytes.fromhex(salt), bytes.fromhex(digest), receipt.encode())
        self._delivery_ids = {(row[0], row[1]) for row in delivery_ids}
        self._event_ids = {(row[0], row[1]) for row in event_ids}
        self.event_ids = {event_id for _, event_id in self._event_ids}

    def histories_needed(self) -> list[str]:
        """The contracts whose events must be read: an event of the batch is not the last of its fold, acts on another, or something is
        pending."""
        needed: dict[str, None] = {}
        last_days: dict[str, date] = {}
        for append in self.appends:
            standing = self._standings.setdefault(append.contract_id, Standing(None))
            row = standing.row
            last_on = last_days.get(append.contract_id, row.last_on if row else date.min)
            for new in append.events:
                # What has no day meets nothing that has one; but what rewrites another event takes all of them.
                day = first_day(new.effective_on) if new.effective_on else last_on
                if day < last_on or day > self._day or new.fact.rewrites or (row is not None and row.has_pending):
                    needed[append.contract_id] = None
                last_on = max(last_on, day)
            last_days[append.contract_id] = last_on
        for contract_id in needed:
            self._standings[contract_id].history = []
        return [contract_id for contract_id in needed if self._standings[contract_id].row is not None]

    def load_histories(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take the events (contract, header, body) of the contracts that need them."""
        for contract_id, header, body in rows:
            standing = self._standings[contract_id]
            try:
                event = recorded_event(header, body, zone(self.ledger.time_zone))
            except UNREADABLE:
                standing.is_damaged = True
            else:
                if standing.history is not None:
                    standing.history.append(event)
        for standing in self._standings.values():
            if standing.history:
                standing.is_damaged = standing.is_damaged or _has_lost_a_body(standing.history)

    @property
    def weight(self) -> int:
        """How many events are folded, about, to decide the batch: all of a contract for each that is not the last of its fold."""
        return sum(len(append.events) * len(self._standings[append.contract_id].history or ()) for append in self.appends)

    def references_needed(self) -> set[ReferenceId]:
        """The references, of schemes that are unique in the ledger, whose holders must be known: those that requests state, and those
        that could stand again with what rewrites other events."""
        if not self.holdings.schemes:
            return set()
        stated = [new.fact for append in self.appends for new in append.events]
        stated += [event.data for standing in self._standings.values() for event in standing.history or ()]
        return self.holdings.of_schemes(reference for fact in stated for reference in fact.reference_ids())

    def decide(self, appends: Sequence[Append], is_over: Callable[[], bool] = lambda: False) -> Rows:
        """Decide the next requests of the batch in order, and give what they write. A refusal is its outcome and leaves no trace. Once one
        is decided, the batch ends where its time `is_over`."""
        self.rows = Rows()
        for append in appends:
            if self.outcomes and is_over():
                self.is_over = True
                break
            try:
                self.outcomes.append(self._decide(append))
            except LedgerError as refusal:
                self.outcomes.append(refusal)
        self.written += len(self.rows.events)
        return self.rows

    def _decide(self, append: Append) -> Receipt:
        if (kept := self._kept.get(append.key)) and not append.validate_only:
            return self._replay(kept, append)
        if append.revision_required:
            raise RevisionRequired("Send If-Match with the ETag of the contract as you read it; this ledger requires it.")
        standing = self._standings[append.contract_id]
        if standing.row is None and not append.opening:
            raise ContractNotFound(f"Ledger {self.ledger.name} has no contract {append.contract_id}.")
        current = standing.row.revision if standing.row else 0
        if append.expected_revision is not None and append.expected_revision != current:
            raise StaleRevision(append.expected_revision, current)
        return self.decision(append).run()

    def _replay(self, kept: _Kept, append: Append) -> Receipt:
        if kept.digest:
            check_same(kept.salt, kept.digest, append.canonical)
        receipt = orjson.loads(kept.receipt)
        last = receipt["events"][-1]
        self.found = max(self.found, (last["position"], last["event_hash"]))
        return Receipt(kept.receipt, receipt["contract_id"], receipt["revision"], replayed=True)

    def decision(self, append: Append) -> "Decision":
        """A decision on a contract as it stands. Internal where what is stored of it cannot be read."""
        standing = self._standings[append.contract_id]
        if standing.is_damaged:
            raise damaged(append)
        return Decision(self, append, standing)

    def check_ids(self, contract_id: str, fact: EventData, new_delivery_ids: set[str]) -> None:
        """The ids that only an index knows: delivery ids are new or, where referred to, known; events referred to are of the contract.

        `new_delivery_ids` are those of the request so far, and get those of the event.
        """
        for delivery_id in fact.delivery_ids():
            if (contract_id, delivery_id) in self._delivery_ids or delivery_id in new_delivery_ids:
                raise NotAllowedNow("unique-delivery", f"The contract has a delivery {delivery_id} already; each has an id of its own.")
            new_delivery_ids.add(delivery_id)
        for delivery_id in fact.known_delivery_ids():
            if (contract_id, delivery_id) not in self._delivery_ids and delivery_id not in new_delivery_ids:
                raise NotAllowedNow("known-delivery", f"The contract has no delivery {delivery_id}; record it first.")
        for event_id in fact.event_ids():
            if (contract_id, event_id) not in self._event_ids:
                pointer = "/data/target" if fact.acts or fact.event_type == ERASED else None
                raise NotAllowedNow("known-event", f"The contract has no event {event_id}.", pointer)

    @cached_property
    def tree(self) -> Extension:
        """The tree with the events of the batch, once all are decided."""
        return extend(self._frontier, self._size, self._leaves)

    def head(self) -> dict[str, Any]:
        """The row that ends the batch."""
        return {
            "last_position": self.position,
            "recorded_at": instant(self.recorded_at),
            "frontier": "\\x" + self.tree.frontier.hex(),
        }

    def next_instant(self) -> datetime:
        return max(self.recorded_at + _TICK, self._now)

    @property
    def day(self) -> date:
        return self._day

    def keep(self, append: Append, decision: "Decision", receipt: Receipt) -> None:
        """Take a decided request into what the batch will write."""
        row = decision.row
        self.rows.events += decision.event_rows
        self.rows.payloads += decision.payload_rows
        self.position, self.recorded_at = row.position, decision.recorded_at
        self.last_hash = row.last_hash
        self._leaves += [bytes.fromhex(event["event_hash"][2:]) for event in decision.event_rows]
        self.keep_contract(append, decision)
        if decision.held is not None:
            self.holdings.take(append.contract_id, decision.held)
        if decision.erased:
            self._keep_erasures(append.contract_id, decision)
        self._event_ids.update((append.contract_id, row["event_id"]) for row in decision.event_rows)
        salt = self.salts.pop()
        digest = request_digest(salt, append.canonical)
        self._kept[append.key] = _Kept(salt, digest, receipt.body)
        self.rows.keys.append(
            {
                "key": "\\x" + append.key.hex(),
                "salt": "\\x" + salt.hex(),
                "digest": "\\x" + digest.hex(),
                "receipt": receipt.body.decode(),
            }
        )

    def _keep_erasures(self, contract_id: str, decision: "Decision") -> None:
        """Take what a decision erases; delivery ids that no other event states are free again."""
        self.rows.erased += decision.erased
        left = delivery_ids(decision.history or ())
        for delivery_id, revision in decision.stood_deliveries.items():
            if delivery_id not in left:
                self._delivery_ids.discard((contract_id, delivery_id))
            elif left[delivery_id] != revision:
                self.rows.left_deliveries.append(self._delivery_row(contract_id, delivery_id, left[delivery_id]))

    def _delivery_row(self, contract_id: str, delivery_id: str, revision: int) -> dict[str, Any]:
        return {"generation": self.generation, "contract_id": contract_id, "delivery_id": delivery_id, "revision": revision}

    def keep_event(self, decision: "Decision") -> None:
        """Take the event that a decision has placed last, while others of the batch are placed before the decision is finished."""
        row = decision.event_rows[-1]
        self.rows.events.append(row)
        self.rows.payloads.append(decision.payload_rows[-1])
        self.position, self.last_hash = row["position"], row["event_hash"][2:]
        self._leaves.append(bytes.fromhex(self.last_hash))
        self.written += 1
        if decision.held is not None:
            self.holdings.take(decision.append.contract_id, decision.held)
        self._event_ids.add((decision.append.contract_id, row["event_id"]))
        self.event_ids.add(row["event_id"])

    def keep_contract(self, append: Append, decision: "Decision") -> None:
        """Take what a decision leaves of its contract into what the batch will write."""
        self._standings[append.contract_id] = Standing(decision.row, decision.history)
        self.rows.contracts[append.contract_id] = decision.row
        for delivery_id, revision in decision.delivery_ids.items():
            self._delivery_ids.add((append.contract_id, delivery_id))
            self.rows.deliveries.append(self._delivery_row(append.contract_id, delivery_id, revision))


def _has_lost_a_body(history: Sequence[RecordedEvent]) -> bool:
    """Whether a body is missing without an erasure."""
    try:
        check_gaps(history)
    except ValueError:
        return True
    return False


def uuid_array(values: Iterable[str]) -> str:
    """A Postgres array literal of values that need no escaping."""
    return "{" + ",".join(values) + "}"
