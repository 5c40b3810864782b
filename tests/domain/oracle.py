"""The times of a contract told again, slowly and apart: which events count on a day, as what, in which order. For tests to compare with."""

import calendar
from datetime import date

import msgspec
import orjson

from service.domain.events import RecordedEvent, decode_body


def days_of(text: str) -> list[date]:
    """Every day that a business date may mean, by looking through the calendar."""
    year = int(text[:4])
    all_days = [date(year, month, day) for month in range(1, 13) for day in range(1, calendar.monthrange(year, month)[1] + 1)]
    if "Q" in text:
        return [day for day in all_days if f"{year}-Q{1 + (day.month - 1) // 3}" == text]
    return [day for day in all_days if day.isoformat().startswith(text)]


def published(events: list[RecordedEvent], by: date | None) -> list[RecordedEvent]:
    """The events that were published by a day."""
    return [event for event in events if by is None or not _published_on(event) > by]


def _published_on(event: RecordedEvent) -> date:
    published_on = event.source.get("published_on")
    return event.recorded_on if published_on is None else max(days_of(published_on))


def oracle(events: list[RecordedEvent], effective_on: date, by: date | None) -> tuple[list[RecordedEvent], list[RecordedEvent]]:
    """The events in effect as they stand, in the order of the fold, and those still to come."""
    known = published(events, by)
    stand = [_as_corrected(event, known) for event in known if _counts(event, known)]
    days = {event.revision: min(days_of(event.effective_on)) if _has_day(event) else date.min for event in stand}
    in_order = [
        event for day in sorted(set(days.values())) for event in sorted(stand, key=lambda e: e.revision) if days[event.revision] == day
    ]
    return [e for e in in_order if not days[e.revision] > effective_on], [e for e in in_order if days[e.revision] > effective_on]


def _has_day(event: RecordedEvent) -> bool:
    return event.data.event_type not in ("contract.labelled", "event.corrected", "event.voided")


def _of_type(events: list[RecordedEvent], event_type: str, target: str) -> list[RecordedEvent]:
    return [event for event in events if event.data.event_type == event_type and vars_of(event)["target"] == target]


def vars_of(event: RecordedEvent) -> dict[str, object]:
    """What the data of an event say, as JSON."""
    stated: dict[str, object] = {name: getattr(event.data, name) for name in event.data.__dataclass_fields__}  # type: ignore[attr-defined]
    return stated


def _voided(event: RecordedEvent, known: list[RecordedEvent]) -> bool:
    """Whether a void names it that is not voided itself."""
    return any(not _voided(void, known) for void in _of_type(known, "event.voided", event.event_id))


def _counts(event: RecordedEvent, known: list[RecordedEvent]) -> bool:
    """Whether it is handed to the fold: not what is voided, and an act only where the event that it acts on is not known."""
    if event.data.event_type in ("event.corrected", "event.voided"):
        target = vars_of(event)["target"]
        return not _voided(event, known) and all(other.event_id != target for other in known)
    return not _voided(event, known)


def _as_corrected(event: RecordedEvent, known: list[RecordedEvent]) -> RecordedEvent:
    """The event as the last correction of it says that is not voided, and hypothetical where what it stands by is."""
    corrections = [act for act in _of_type(known, "event.corrected", event.event_id) if not _voided(act, known)]
    supposed = any(act.hypothetical for act in known if act.data.event_type == "event.voided" and _acts(act, known))
    event = msgspec.structs.replace(event, hypothetical=True) if supposed and _has_no_target(event) else event
    if not corrections:
        return event
    act = max(corrections, key=lambda act: act.revision)
    stated = vars_of(act)
    data, _ = decode_body(event.data.event_type, 1, orjson.dumps({"data": stated["data"], "source": {}}))
    source = orjson.loads(msgspec.json.encode(stated["source"])) if stated["source"] is not None else event.source
    return msgspec.structs.replace(
        event,
        data=data,
        source={name: member for name, member in source.items() if member is not None},
        effective_on=stated["effective_on"] or event.effective_on,
        hypothetical=event.hypothetical or act.hypothetical,
        corrected_by=act.revision,
    )


def _has_no_target(event: RecordedEvent) -> bool:
    return event.data.event_type not in ("event.corrected", "event.voided")


def _acts(act: RecordedEvent, known: list[RecordedEvent]) -> bool:
    return not _voided(act, known) and any(other.event_id == vars_of(act)["target"] for other in known)
