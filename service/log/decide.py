"""What a batch decides under the ledger's lock: each request in order, each with its own fate. Pure once its rows are loaded."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
from uuid_utils import uuid7

from service.domain.contract import decide, evolve, judge
from service.domain.corrections import delivery_ids, resolve
from service.domain.dates import first_day
from service.domain.erasure import ERASED, check_gaps, erase
from service.domain.events import EventData, RecordedEvent, place_in_fold
from service.domain.references import ReferenceId, held_references
from service.domain.sealing import REVEALED, check_reveal, sealed_members
from service.domain.state import Anomaly, Contract
from service.domain.timeline import View, admit, whole_of
from service.errors import (
    AnomaliesRefused,
    ClockUntrusted,
    ContractNotFound,
    Internal,
    KeyReused,
    LedgerError,
    LedgerNotFound,
    MemberFault,
    NotAllowedNow,
    ProjectionUnknown,
    ReferenceTaken,
    Refused,
    StaleRevision,
)
from service.log.header import (
    NO_PREVIOUS,
    SCHEMA,
    SealedPart,
    body_bytes,
    body_digest,
    event_hash,
    header_bytes,
    new_salts,
    sealed_bytes,
    sealed_digest,
    sealed_map,
)
from service.log.ledger import Ledger, instant, zone
from service.log.read import UNREADABLE, recorded_event
from service.log.references import Holdings
from service.projections.contracts import (
    LAYOUT,
    Beside,
    ContractRow,
    contract_row,
    decode_contract,
    extend,
    project,
)

CLOCK_TOLERANCE = timedelta(seconds=5)
_TICK = timedelta(microseconds=1)
_UNSET = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A validated event that has no place in the log yet; `data` is what was sent, `fact` the same as its class."""

    fact: EventData
    effective_on: str | None
    data: dict[str, Any]
    source: dict[str, Any]
    evidence: list[Any] | None = None
    sealed: Sequence[SealedPart] = ()
    """What is left out of `data` and `fact`, which are what everyone sees."""
    correlation_id: str | None = None
    causation_id: str | None = None
    hypothetical: bool | None = None
    event_id: str | None = None
    """The id that an imported event had before; else it gets one when it is placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """A request to append events to one contract, all or none. `key` and `canonical` tell a retry from another request."""

    ledger: Ledger
    contract_id: str
    opening: bool
    events: Sequence[NewEvent]
    recorded_by: str
    key: bytes
    canonical: bytes
    expected_revision: int | None = None
    strict: bool = False
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to an append, as the bytes of its JSON; the same for every retry."""

    body: bytes
    contract_id: str
    revision: int
    replayed: bool = False


@dataclass(slots=True)
class _Standing:
    """A contract while its requests are decided: its row, and all of its events where the fold needs them."""

    row: ContractRow | None
    history: list[RecordedEvent] | None = None
    is_damaged: bool = False


@dataclass(slots=True)
class _Kept:
    """A key that was used; salt and digest are empty once something of the request is erased."""

    salt: bytes
    digest: bytes
    receipt: bytes


def request_digest(salt: bytes, canonical: bytes) -> bytes:
    """What is kept of a request's body, to tell another body under the same key."""
    return hashlib.sha256(salt + canonical).digest()


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
        self.rows = Rows()
        self.salts = new_salts(sum(1 + len(append.events) for append in appends))
        self.written = 0
        """How many events have been decided."""
        self.generation = 0
        self.position = 0
        self.last_hash = ""
        self.recorded_at = _UNSET
        self._now = self.recorded_at
        self._day = date.min
        self._standings: dict[str, _Standing] = {}
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
        now, self.position, recorded_at, self.generation, layout, accepted_at, schemes = head
        self._now, self.recorded_at = now.astimezone(UTC), recorded_at.astimezone(UTC)
        if layout != LAYOUT:
            raise ProjectionUnknown(
                f"The projection of ledger {self.ledger.name} has layout {layout} and this release writes {LAYOUT}; "
                "run the release that made it, or `contract-ledger rebuild` with this one."
            )
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
            self._standings[row[0]] = _Standing(ContractRow(*row))
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
            standing = self._standings.setdefault(append.contract_id, _Standing(None))
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

    def references_needed(self) -> set[ReferenceId]:
        """The references, of schemes that are unique in the ledger, whose holders must be known: those that requests state, and those
        that could stand again with what rewrites other events."""
        if not self.holdings.schemes:
            return set()
        stated = [new.fact for append in self.appends for new in append.events]
        stated += [event.data for standing in self._standings.values() for event in standing.history or ()]
        return self.holdings.of_schemes(reference for fact in stated for reference in fact.reference_ids())

    def decide(self, appends: Sequence[Append]) -> Rows:
        """Decide the next requests of the batch in order, and give what they write. A refusal is its outcome and leaves no trace."""
        self.rows = Rows()
        for append in appends:
            try:
                self.outcomes.append(self._decide(append))
            except LedgerError as refusal:
                self.outcomes.append(refusal)
        self.written += len(self.rows.events)
        return self.rows

    def _decide(self, append: Append) -> Receipt:
        if (kept := self._kept.get(append.key)) and not append.validate_only:
            return _replay(kept, append)
        standing = self._standings[append.contract_id]
        if standing.row is None and not append.opening:
            raise ContractNotFound(f"Ledger {self.ledger.name} has no contract {append.contract_id}.")
        current = standing.row.revision if standing.row else 0
        if append.expected_revision is not None and append.expected_revision != current:
            raise StaleRevision(append.expected_revision, current)
        return self.decision(append).run()

    def decision(self, append: Append) -> "Decision":
        """A decision on a contract as it stands. Internal where what is stored of it cannot be read."""
        standing = self._standings[append.contract_id]
        if standing.is_damaged:
            raise _damaged(append)
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
        self.written += 1
        if decision.held is not None:
            self.holdings.take(decision.append.contract_id, decision.held)
        self._event_ids.add((decision.append.contract_id, row["event_id"]))
        self.event_ids.add(row["event_id"])

    def keep_contract(self, append: Append, decision: "Decision") -> None:
        """Take what a decision leaves of its contract into what the batch will write."""
        self._standings[append.contract_id] = _Standing(decision.row, decision.history)
        self.rows.contracts[append.contract_id] = decision.row
        for delivery_id, revision in decision.delivery_ids.items():
            self._delivery_ids.add((append.contract_id, delivery_id))
            self.rows.deliveries.append(self._delivery_row(append.contract_id, delivery_id, revision))


@dataclass(slots=True)
class Decision:
    """One request being decided: its events get their places, one after the other."""

    batch: Batch
    append: Append
    standing: _Standing
    event_rows: list[dict[str, Any]] = field(default_factory=list)
    payload_rows: list[dict[str, Any]] = field(default_factory=list)
    delivery_ids: dict[str, int] = field(default_factory=dict)
    erased: list[int] = field(default_factory=list)
    """The positions of the events that are erased."""
    stood_deliveries: dict[str, int] = field(default_factory=dict)
    """The delivery ids that stood before anything was erased, with the revisions that introduced them."""
    added_to: list[Anomaly] = field(default_factory=list)
    """Anomalies that stood before, and that the request adds to: sought for where it is strict."""
    held: set[ReferenceId] | None = None
    """What the contract holds of references in unique schemes, where the request may have changed it."""
    recorded_at: datetime = _UNSET
    history: list[RecordedEvent] | None = None
    row: ContractRow = None  # type: ignore[assignment]
    contract: Contract = None  # type: ignore[assignment]
    beside: Beside = None  # type: ignore[assignment]
    recorded: list[RecordedEvent] = field(default_factory=list)

    def run(self) -> Receipt:
        batch = self.batch
        self.begin()
        before = self._flagged_before(self.contract, self.beside)
        for index, new in enumerate(self.append.events):
            try:
                self.place(new, batch.position + index + 1)
            except (NotAllowedNow, ReferenceTaken, Refused) as refusal:
                if len(self.append.events) > 1:
                    refusal.errors = _of_event(index, refusal)
                raise
        told = self.finish()
        raised = [found for found in told.anomalies if found.anomaly_id not in before]
        if self.append.strict and (raised or self.added_to):
            raise _strict_refusal([*raised, *self.added_to])
        receipt = self._receipt(raised)
        if not self.append.validate_only:
            batch.keep(self.append, self, receipt)
        return receipt

    def begin(self) -> None:
        """Take up the contract as it stands. Internal where its row cannot be read."""
        self.recorded_at = self.batch.next_instant()
        self.history = None if self.standing.history is None else list(self.standing.history)
        try:
            self.contract, self.beside = decode_contract(self.standing.row)
        except UNREADABLE:
            raise _damaged(self.append) from None

    def finish(self) -> View:
        """The view of the contract with the events that were placed, of which `row` is made."""
        stood, batch, recorded = self.standing.row, self.batch, self.recorded
        if self.history is None:
            told = extend(self.beside.rests_on, self.contract, recorded, batch.day)
            last_on = max(event.day for event in recorded)
            last_on = max(last_on, stood.last_on) if stood else last_on
        else:
            told = project(self.history, batch.day)
            last_on = max(event.day for event in resolve(self.history))
        self.row = contract_row(
            self.append.contract_id,
            told,
            revision=recorded[-1].revision,
            position=recorded[-1].position,
            last_hash=self._last_hash(),
            last_on=last_on,
            day=batch.day,
        )
        return told

    def _flagged_before(self, contract: Contract, beside: Beside) -> set[str]:
        """The anomalies that stood today without the request: those of the row, unless the calendar has turned since."""
        stood, day = self.standing.row, self.batch.day
        if stood is None:
            return set()
        if stood.holds_on(day):
            return {known.anomaly_id for known in beside.anomalies}
        return {known.anomaly_id for known in judge(contract if self.history is None else whole_of(self.history), day)}

    def place(self, new: NewEvent, position: int) -> None:
        """Give an event its place. A LedgerError refuses it, and then nothing of it is left here."""
        stood, batch, contract = self.standing.row, self.batch, self.contract
        event = RecordedEvent(
            event_id=new.event_id or str(uuid7()),
            position=position,
            revision=(stood.revision if stood else 0) + len(self.recorded) + 1,
            recorded_on=self.recorded_at.astimezone(zone(batch.ledger.time_zone)).date(),
            effective_on=new.effective_on or "",
            day=first_day(new.effective_on) if new.effective_on else date.min,
            data=new.fact,
            source=new.source,
            hypothetical=bool(new.hypothetical),
            schema_version=new.fact.schema_version,
            sealed=sealed_members(new.fact, new.data, sealed_map(new.sealed), _until(new.sealed)) if new.sealed else None,
        )
        batch.check_ids(self.append.contract_id, new.fact, set(self.delivery_ids))
        if self.append.strict:
            self._find_what_it_adds_to(new.fact)
        if self.history is None:
            decide(new.fact, contract, contract, event.revision, batch.day, effective_on=event.effective_on, sealed=len(new.sealed))
            self._hold(event.data.reference_ids())
            evolve(contract, event)
        else:
            admit(event, self.history, batch.day, self._erased_together(new.fact))
            if new.fact.event_type == REVEALED:
                self._check_reveal(new.fact, self.history)
            self.history = self._rewritten([*self.history, event], new.fact)
        self.delivery_ids |= dict.fromkeys(new.fact.delivery_ids(), event.revision)
        if new.fact.acts:
            introduced = delivery_ids(self.history or ())
            self.delivery_ids |= {delivery_id: by for delivery_id, by in introduced.items() if by == event.revision}
        self._write(event, new)
        self.recorded.append(event)

    def _rewritten(self, history: list[RecordedEvent], fact: Any) -> list[RecordedEvent]:
        """All events with a new one, its place in the fold known: what it erases says nothing any more."""
        left = erase(history, fact.target) if fact.event_type == ERASED else history
        if self.batch.holdings.schemes:
            self.held = self.batch.holdings.check(self.append.contract_id, held_references(left))
        if fact.event_type == ERASED:
            self.stood_deliveries = self.stood_deliveries or delivery_ids(history)
            self.erased += [event.position for event in history if event.event_id == fact.target]
        return left

    def _hold(self, stated: Iterable[ReferenceId]) -> None:
        """Hold what the last event of the fold states: it replaces what stood. ReferenceTaken where another holds some of it."""
        if self.batch.holdings.schemes and (references := set(stated)):
            self.held = self.batch.holdings.check(self.append.contract_id, references)

    def _find_what_it_adds_to(self, fact: EventData) -> None:
        whole = self.contract if self.history is None else whole_of(self.history)
        if found := fact.adds_to(whole):
            self.added_to.append(found)

    def _erased_together(self, fact: EventData) -> frozenset[str]:
        """What the request erases, for one of its erasures."""
        if fact.event_type != ERASED:
            return frozenset()
        return frozenset(event_id for new in self.append.events if new.fact.event_type == ERASED for event_id in new.fact.event_ids())

    def _check_reveal(self, reveal: Any, history: Sequence[RecordedEvent]) -> None:
        given = [SealedPart(path=part.path, value=part.value, salt=part.salt) for part in reveal.parts]
        check_reveal(reveal, sorted(resolve(history), key=place_in_fold), sealed_map(given))

    def _write(self, event: RecordedEvent, new: NewEvent) -> None:
        body = body_bytes(new.data, new.source, new.evidence, self.batch.salts.pop().hex(), new.sealed)
        recorded_at = instant(self.recorded_at)
        header = header_bytes(
            {
                "body_digest": body_digest(body),
                "causation_id": new.causation_id,
                "contract_id": self.append.contract_id,
                "correlation_id": new.correlation_id,
                "effective_on": new.effective_on,
                "event_id": event.event_id,
                "event_type": event.data.event_type,
                "hypothetical": new.hypothetical,
                "ledger_id": self.batch.ledger.ledger_id,
                "position": event.position,
                "prev": self._last_hash(),
                "recorded_at": recorded_at,
                "recorded_by": self.append.recorded_by,
                "revision": event.revision,
                "schema": SCHEMA,
                "schema_version": event.data.schema_version,
                "sealed_digest": sealed_digest(sealed_map(new.sealed)) if new.sealed else None,
            }
        )
        self.event_rows.append(
            {
                "position": event.position,
                "contract_id": self.append.contract_id,
                "revision": event.revision,
                "event_id": event.event_id,
                "event_type": event.data.event_type,
                "recorded_at": recorded_at,
                "header": header.decode(),
                "event_hash": "\\x" + event_hash(header).hex(),
            }
        )
        self.payload_rows.append({"position": event.position, "body": body.decode()})
        if new.sealed:
            self.payload_rows[-1]["sealed"] = sealed_bytes(new.sealed).decode()

    def _last_hash(self) -> str:
        if self.event_rows:
            last: str = self.event_rows[-1]["event_hash"]
            return last[2:]
        return self.standing.row.last_hash if self.standing.row else NO_PREVIOUS

    def _receipt(self, raised: Sequence[Anomaly]) -> Receipt:
        events = [
            {
                "event_id": row["event_id"],
                "position": row["position"],
                "recorded_at": row["recorded_at"],
                "event_hash": row["event_hash"][2:],
            }
            for row in self.event_rows
        ]
        body = {
            "contract_id": self.append.contract_id,
            "revision": self.row.revision,
            "events": [] if self.append.validate_only else events,
            "anomalies": [{"anomaly_id": found.anomaly_id, "rule": found.rule} for found in raised],
        }
        return Receipt(orjson.dumps(body), self.append.contract_id, self.row.revision)


def _has_lost_a_body(history: Sequence[RecordedEvent]) -> bool:
    """Whether a body is missing without an erasure."""
    try:
        check_gaps(history)
    except ValueError:
        return True
    return False


def _until(sealed: Sequence[SealedPart]) -> dict[str, str]:
    return {part.path: part.until for part in sealed if part.until}


def _replay(kept: _Kept, append: Append) -> Receipt:
    if kept.digest and request_digest(kept.salt, append.canonical) != kept.digest:
        raise KeyReused(
            "This Idempotency-Key came with another body before. A key stands for one request: use a new one for a new request."
        )
    receipt = orjson.loads(kept.receipt)
    return Receipt(kept.receipt, receipt["contract_id"], receipt["revision"], replayed=True)


def _damaged(append: Append) -> Internal:
    return Internal(
        f"What is stored of contract {append.contract_id} cannot be read, so nothing is recorded of it. "
        f"`contract-ledger verify --ledger {append.ledger.name}` says where; if only its row is at fault, `rebuild` writes it anew."
    )


def _of_event(index: int, refusal: LedgerError) -> tuple[MemberFault, ...]:
    """The faults of one event of several, by pointers into the request."""
    faults = refusal.errors or (MemberFault("", refusal.detail),)
    return tuple(MemberFault(f"/events/{index}{fault.pointer}", fault.detail) for fault in faults)


def _strict_refusal(raised: Sequence[Anomaly]) -> AnomaliesRefused:
    sentences = "; ".join(found.sentence for found in raised)
    return AnomaliesRefused(
        f"{sentences}. Without strict=true the event is accepted and flagged.",
        tuple(MemberFault("", f"{found.rule}: {found.sentence}") for found in raised),
    )


def uuid_array(values: Iterable[str]) -> str:
    """A Postgres array literal of values that need no escaping."""
    return "{" + ",".join(values) + "}"
