"""One request being decided: its events get their places, one after the other, and the contract its row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import orjson
from uuid_utils import uuid7

from service.domain.contract import decide, evolve, judge
from service.domain.corrections import delivery_ids, resolve
from service.domain.dates import first_day
from service.domain.erasure import ERASED, erase
from service.domain.events import EventData, RecordedEvent
from service.domain.references import ReferenceId, held_references
from service.domain.sealing import REVEALED, check_reveal, sealed_members
from service.domain.state import Anomaly, Contract
from service.domain.timeline import View, admit, whole_of
from service.errors import (
    AnomaliesRefused,
    Internal,
    LedgerError,
    MemberFault,
    NotAllowedNow,
    ReferenceTaken,
    Refused,
)
from service.log.header import (
    NO_PREVIOUS,
    SCHEMA,
    SealedPart,
    body_bytes,
    body_digest,
    event_hash,
    header_bytes,
    sealed_bytes,
    sealed_digest,
    sealed_map,
)
from service.log.ledger import instant, zone
from service.log.requests import Append, NewEvent, Receipt
from service.log.stored import UNREADABLE
from service.projections.contracts import (
    Beside,
    ContractRow,
    contract_row,
    decode_contract,
    extend,
    project,
)

if TYPE_CHECKING:
    from service.log.decide import Batch

_UNSET = datetime.fromtimestamp(0, UTC)


@dataclass(slots=True)
class Standing:
    """A contract while its requests are decided: its row, and all of its events where the fold needs them."""

    row: ContractRow | None
    history: list[RecordedEvent] | None = None
    is_damaged: bool = False


@dataclass(slots=True)
class Decision:
    """One request being decided: its events get their places, one after the other."""

    batch: "Batch"
    append: Append
    standing: Standing
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
            raise _strict_refusal([*raised, *self.added_to], self.append)
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
            raise damaged(self.append) from None

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
        check_reveal(reveal, history, {event.event_id for event in resolve(history)}, sealed_map(given))

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
                "header": header,
                "event_hash": "\\x" + event_hash(header).hex(),
            }
        )
        self.payload_rows.append({"position": event.position, "body": body})
        if new.sealed:
            self.payload_rows[-1]["sealed"] = "\\x" + sealed_bytes(new.sealed).hex()

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


def _until(sealed: Sequence[SealedPart]) -> dict[str, str]:
    return {part.path: part.until for part in sealed if part.until}


def damaged(append: Append) -> Internal:
    """The refusal of a request to a contract that cannot be read."""
    return Internal(
        f"What is stored of contract {append.contract_id} cannot be read, so nothing is recorded of it. "
        f"`contract-ledger verify --ledger {append.ledger.name}` says where; if only its row is at fault, `rebuild` writes it anew."
    )


def _of_event(index: int, refusal: LedgerError) -> tuple[MemberFault, ...]:
    """The faults of one event of several, by pointers into the request."""
    faults = refusal.errors or (MemberFault("", refusal.detail),)
    return tuple(MemberFault(f"/events/{index}{fault.pointer}", fault.detail) for fault in faults)


def _strict_refusal(raised: Sequence[Anomaly], append: Append) -> AnomaliesRefused:
    sentences = "; ".join(found.sentence for found in raised)
    by_policy = f"The policy of ledger {append.ledger.name} refuses what would be flagged."
    return AnomaliesRefused(
        f"{sentences}. {by_policy if append.ledger.strict else 'Without strict=true the event is accepted and flagged.'}",
        tuple(MemberFault("", f"{found.rule}: {found.sentence}") for found in raised),
    )
