"""Corrections and voids: an event that was recorded wrong is stated anew, or taken out. What was recorded stays in the log for all to see.

A correction names the original, never another correction, and states its data whole; the last one that is not voided counts. The event
keeps its revision in the order. A void takes out an event, a correction (what stood before it counts again) or a void. Both count from
when they are known, on every day: they have no effective day of their own.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, cast

import msgspec
from msgspec.structs import replace
from pydantic import TypeAdapter, ValidationError

from service.domain.dates import BusinessDate
from service.domain.events import (
    EVENT_TYPES,
    UPCASTS,
    EventData,
    RecordedEvent,
    Source,
    Text,
    Uuid,
    decode_data,
    event_type,
    first_day_of,
    newest,
    stated,
)
from service.domain.faults import refusal
from service.domain.parts import JsonObject
from service.domain.state import Contract
from service.errors import MemberFault, NotAllowedNow, Refused

RULES = {
    "corrects-original": "A correction names the original: neither a correction nor a void, and nothing that cannot be undone.",
    "voids-what-stands": "A void names an event that is not voided already; a correction one that is not voided.",
    "cannot-be-undone": "An erasure and a reveal cannot be undone, and what is erased can be neither corrected nor voided.",
    "opening-stands": "The event that opened a contract is corrected, not voided: without it there is no contract.",
}
FLAGS = {
    "correction-unsettles": "An event that was recorded before a correction or a void does not fit any more with it.",
}
FINAL = frozenset({"event.erased", "sealed.revealed"})
"""The types of events that cannot be undone."""
_revision = attrgetter("revision")
_TARGET = "/data/target"


class _Act(EventData):
    """What corrections and voids have in common: the event they act on, which they are resolved with before anything is folded."""

    __slots__ = ()
    dayless = True
    rewrites = True
    target: Uuid

    def event_ids(self) -> tuple[str, ...]:
        return (self.target,)

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:  # noqa: ARG002
        """An act whose target is there is resolved and not folded, so what is folded has none."""
        return False

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        """Never called, since an act that is folded has no place."""


@event_type("event.corrected")
class EventCorrected(_Act):
    """An event was recorded wrong: its data are stated anew, whole, and its source or its day with them where those were wrong too.

    The data are of the type of the event that `target` names, by the newest version of its schema, as reads show it, or by the one that
    it was recorded with; they are judged as that event would be.
    """

    acts = "corrects"
    target: Uuid
    data: JsonObject
    source: Source | None = None
    effective_on: BusinessDate | None = None

    def reference_ids(self) -> tuple[tuple[str, str], ...]:
        """Those of its data, which are judged with the event they are for: what is no reference is left out here."""
        references = self.data.get("references")
        found = [entry for entry in references if isinstance(entry, dict)] if isinstance(references, list) else []
        pairs = [(entry.get("scheme"), entry.get("id")) for entry in found]
        return tuple([(scheme, known) for scheme, known in pairs if isinstance(scheme, str) and isinstance(known, str)])


@event_type("event.voided")
class EventVoided(_Act):
    """An event should not have been recorded: it counts no more, nor does the correction or the void that it was."""

    acts = "voids"
    target: Uuid
    reason: Text


def resolve(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """The events as they stand by the corrections and voids among them, in no particular order.

    An act whose target is not among them is kept, for the fold to place apart.
    """
    acts = acts_of(events)
    if not acts:
        return list(events)
    known = {event.event_id for event in events}
    voided, corrections = _in_force(acts)
    standing = [
        _corrected(event, corrections.get(event.event_id)) for event in events if not event.data.acts and event.event_id not in voided
    ]
    if any(act.hypothetical for act in acts if act.data.acts == "voids" and act.event_id not in voided and _target(act) in known):
        # What is left where something is only supposed not to have happened is supposed too.
        standing = [replace(event, hypothetical=True) for event in standing]
    return standing + [act for act in acts if _target(act) not in known and act.event_id not in voided]


def acts_of(events: Iterable[RecordedEvent]) -> list[RecordedEvent]:
    """The corrections and voids among events, in the order of recording."""
    acts = [event for event in events if event.data.acts]
    if acts:
        acts.sort(key=_revision)
    return acts


def spans_of(acts: Sequence[RecordedEvent]) -> list[tuple[int, int]]:
    """The first and the last revision of the acts on each event that more than one act changed, be it by a void of another."""
    originals: dict[str, str] = {}
    spans: dict[str, tuple[int, int]] = {}
    for act in acts:
        original = originals[act.event_id] = originals.get(_target(act), _target(act))
        spans[original] = spans.get(original, (act.revision, 0))[0], act.revision
    return [span for span in spans.values() if span[0] < span[1]]


def _in_force(acts: Sequence[RecordedEvent]) -> tuple[set[str], dict[str, RecordedEvent]]:
    """The ids of what is voided, and by the id of each corrected event the correction that counts.

    From the last act to the first, since whether one is in force only those after it can say.
    """
    voided: set[str] = set()
    corrections: dict[str, RecordedEvent] = {}
    for act in reversed(acts):
        if act.event_id in voided:
            continue
        if act.data.acts == "voids":
            voided.add(_target(act))
        else:
            corrections.setdefault(_target(act), act)
    return voided, corrections


def _target(act: RecordedEvent) -> str:
    return cast("_Act", act.data).target


def _corrected(event: RecordedEvent, act: RecordedEvent | None) -> RecordedEvent:
    """An event as a correction states it; its revision, id and position stay."""
    if act is None:
        return event
    correction = cast("EventCorrected", act.data)
    effective_on = correction.effective_on or event.effective_on
    return replace(
        event,
        data=_replacement(event, correction),
        source=event.source if correction.source is None else stated(correction.source),
        effective_on=effective_on,
        day=first_day_of(event.data.event_type, effective_on or None),
        hypothetical=event.hypothetical or act.hypothetical,
        corrected_by=act.revision,
    )


def _replacement(event: RecordedEvent, correction: EventCorrected) -> EventData:
    name = event.data.event_type
    return decode_data(name, EVENT_TYPES[name].schema_version, _as_of_newest(name, event.schema_version, correction.data))


def _as_of_newest(name: str, schema_version: int, data: JsonObject) -> JsonObject:
    """The data of a correction as of the newest version: of the version that its target was recorded with, else of the newest they fit.

    Reads show what an earlier version recorded as of the newest, and an import records it so: the correction may be of either.
    msgspec.ValidationError where they are no data of any.
    """
    if not UPCASTS[name]:
        return data
    latest = EVENT_TYPES[name].schema_version
    for version in dict.fromkeys((schema_version, *range(latest, 0, -1))):
        try:
            known = newest(name, version, data)
            decode_data(name, latest, known)
        except msgspec.ValidationError:
            continue
        return known
    return newest(name, schema_version, data)


def check_act(act: RecordedEvent, history: Sequence[RecordedEvent]) -> RecordedEvent:
    """The original that a correction or a void, as the next event of `history`, changes.

    NotAllowedNow with the rule that refuses the target, Refused with a pointer for each fault of a correction's data.
    """
    by_id = {event.event_id: event for event in history}
    target = by_id.get(_target(act))
    if target is None:
        raise NotAllowedNow("known-event", f"The contract has no event {_target(act)}.", _TARGET)
    if target.data.is_erased:
        raise NotAllowedNow("cannot-be-undone", "The event is erased: what it said is not known any more.", _TARGET)
    if target.data.event_type in FINAL:
        raise NotAllowedNow("cannot-be-undone", f"{_named(target)} cannot be corrected or voided.", _TARGET)
    if target.event_id in _in_force(acts_of(history))[0]:
        raise NotAllowedNow("voids-what-stands", f"{_named(target)} is voided already; void that void to bring it back.", _TARGET)
    if act.data.acts == "corrects":
        _check_correction(cast("EventCorrected", act.data), target)
    elif target.revision == 1:
        raise NotAllowedNow("opening-stands", f"{_named(target)} opened the contract: correct it, or end the contract.", _TARGET)
    while target.data.acts:
        target = by_id[_target(target)]
    return target


def _named(event: RecordedEvent) -> str:
    return f"Revision {event.revision}, {event.data.event_type},"


def _check_correction(correction: EventCorrected, target: RecordedEvent) -> None:
    if target.data.acts:
        raise NotAllowedNow("corrects-original", f"{_named(target)} is no original: correct the event it names, or void it.", _TARGET)
    if target.data.dayless and correction.effective_on is not None:
        fault = MemberFault("/data/effective_on", f"{target.data.event_type} has no effective day of its own")
        raise Refused(f"{fault.pointer}: {fault.detail}.", (fault,))
    try:
        _validator(target.data.event_type)(_as_of_newest(target.data.event_type, target.schema_version, correction.data))
    except ValidationError as error:
        raise refusal(error, "/data/data") from None
    except msgspec.ValidationError as error:
        raise Refused(f"/data/data: {error}.", (MemberFault("/data/data", str(error)),)) from None


@cache
def _validator(event_type: str) -> Any:
    return TypeAdapter(EVENT_TYPES[event_type]).validator.validate_python


def delivery_ids(history: Sequence[RecordedEvent]) -> dict[str, int]:
    """Every delivery id that an event ever introduced, as recorded or corrected, with the revision that did: none is used anew."""
    introduced: dict[str, int] = {}
    if not any(event.data.acts for event in history):
        for event in history:
            for delivery_id in event.data.delivery_ids():
                introduced.setdefault(delivery_id, event.revision)
        return introduced
    originals: dict[str, RecordedEvent] = {}
    for event in history:
        originals[event.event_id] = event
        data = event.data
        if data.acts == "corrects" and (original := originals.get(_target(event))) is not None:
            data = _replacement(original, cast("EventCorrected", data))
        for delivery_id in data.delivery_ids():
            introduced.setdefault(delivery_id, event.revision)
    return introduced
