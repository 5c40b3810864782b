"""Erasure: the content of an event is taken away for good. That it was recorded, when, as what type and by whom stays, and every proof.

An erased event keeps its place in the fold, where it says nothing but that it is a gap. Its day of publication is gone with its source,
so the gap counts as published always: an answer that may lack something says so.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Final

import msgspec
from msgspec.structs import replace

from service.domain.events import EVENT_TYPES, EventData, RecordedEvent, Text, Uuid, event_type
from service.domain.parts import Gap
from service.domain.sealing import REVEALED
from service.domain.state import Contract
from service.errors import MemberFault, NotAllowedNow, Refused

RULES = {
    "erased-once": "What is erased is gone: it is not erased again.",
    "never-erased": "An erasure and a void are not erased: what they say is that something else does not count.",
    "quotes-erased-too": (
        "What quotes an event, a correction of it or a reveal of what it seals, is erased before it or in the same request."
    ),
}
ERASED: Final = "event.erased"
NEVER_ERASED: Final = frozenset({ERASED, "event.voided"})
_TARGET = "/data/target"


@event_type(ERASED)
class EventErased(EventData):
    """What an event of the contract said is erased, for good, from wherever it is kept: body, salts, sealed values, state, lists.

    What quotes it is erased before it, or by other erasures in the same request. It says so itself by no more than `legal_basis`, which
    stays: name nobody in it.
    """

    dayless = True
    rewrites = True
    extra_right = "ledger:admin"
    target: Uuid
    legal_basis: Text

    def event_ids(self) -> tuple[str, ...]:
        return (self.target,)

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        """What is erased shows as a gap by itself, also where the erasure was recorded later than what is asked for."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Erased(EventData):
    """What stands where the data of an erased event stood, by its header; `by` is the revision of the erasure, where that is known."""

    is_erased: ClassVar[bool] = True
    event_type: str  # type: ignore[misc]
    schema_version: int  # type: ignore[misc]
    dayless: bool  # type: ignore[misc]
    by: int | None = None

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        gap = Gap(
            revision=event.revision,
            event_type=self.event_type,
            effective_on=event.effective_on or None,
            rests_on=[] if self.by is None else [self.by],
        )
        contract.facts.erased.append(gap)


def erased_data(event_type: str, schema_version: int) -> Erased:
    """What an event without a body says. KeyError for a type that this release does not know."""
    return Erased(event_type=event_type, schema_version=schema_version, dayless=EVENT_TYPES[event_type].dayless)


def erase(history: Iterable[RecordedEvent], target: str) -> list[RecordedEvent]:
    """Events without what one of them said."""
    return [_gap(event) if event.event_id == target else event for event in history]


def _gap(event: RecordedEvent) -> RecordedEvent:
    return replace(event, data=erased_data(event.data.event_type, event.schema_version), source={}, sealed=None)


def erasures_of(events: Iterable[RecordedEvent]) -> dict[str, int]:
    """By the id of each erased event the revision of its erasure."""
    found: dict[str, int] = {}
    for event in events:
        data: Any = event.data
        if data.event_type == ERASED:
            found[data.target] = event.revision
    return found


def with_erasures(events: list[RecordedEvent]) -> list[RecordedEvent]:
    """Events in the order of the fold, where those that are erased know by which of the others. Erasures come before every day."""
    erasures: dict[str, int] = {}
    for event in events:
        if not event.data.dayless:
            break
        data: Any = event.data
        if data.event_type == ERASED:
            erasures[data.target] = event.revision
    if not erasures:
        return events
    return [_erased_by(event, erasures.get(event.event_id)) for event in events]


def _erased_by(event: RecordedEvent, by: int | None) -> RecordedEvent:
    data: Any = event.data
    return replace(event, data=dataclasses.replace(data, by=by)) if by is not None and data.is_erased else event


class _Target(msgspec.Struct):
    target: str


class _Body(msgspec.Struct):
    data: _Target


_decode = msgspec.json.Decoder(_Body).decode


def read_target(body: bytes) -> str:
    """The id of the event that an erasure names, by its stored body. msgspec.DecodeError for another body."""
    return _decode(body).data.target


def check_gaps(history: Sequence[RecordedEvent]) -> None:
    """ValueError where a body is missing of the whole history of a contract that no erasure in it names."""
    gaps = {event.event_id for event in history if event.data.is_erased}
    if gaps and gaps - erasures_of(history).keys():
        raise ValueError("a body is missing, and no erasure explains it")


def check_erasure(erasure: RecordedEvent, history: Sequence[RecordedEvent], together: Collection[str]) -> None:
    """Refuse an erasure as the next event of `history`; `together` are the ids of all that its request erases.

    NotAllowedNow with the rule that refuses the target, Refused for an erasure that is only supposed.
    """
    if erasure.hypothetical:
        fault = MemberFault("/hypothetical", "an erasure cannot be supposed: what it erases is gone")
        raise Refused(f"{fault.pointer}: {fault.detail}.", (fault,))
    data: Any = erasure.data
    target = next((event for event in history if event.event_id == data.target), None)
    if target is None:
        raise NotAllowedNow("known-event", f"The contract has no event {data.target}.", _TARGET)
    named = f"Revision {target.revision}, {target.data.event_type},"
    if target.data.is_erased:
        raise NotAllowedNow("erased-once", f"{named} is erased already.", _TARGET)
    if target.data.event_type in NEVER_ERASED:
        raise NotAllowedNow("never-erased", f"{named} cannot be erased.", _TARGET)
    if quoting := [str(event.revision) for event in history if _quotes(event, data.target) and event.event_id not in together]:
        many = len(quoting) > 1
        sentence = f"{named} is quoted by revision{'s' if many else ''} {', '.join(quoting)}: erase {'them' if many else 'it'} with it."
        raise NotAllowedNow("quotes-erased-too", sentence, _TARGET)


def _quotes(event: RecordedEvent, event_id: str) -> bool:
    """Whether an event repeats what another said, or sealed."""
    data = event.data
    return not data.is_erased and (data.acts == "corrects" or data.event_type == REVEALED) and event_id in data.event_ids()
