"""Which of a contract's events an answer counts, and as what: some are of a later time, some are corrected, some voided."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from service.domain.dates import first_day, last_day

Json = dict[str, Any]


def standing(events: Sequence[Json], as_of: Json) -> list[Json]:
    """Events with what an answer takes them to say: data, source and day as corrected, and how they were changed under `changed`."""
    known = [event for event in events if not _unheard(event, as_of)]
    voided, corrections = _acts(known)
    return [_stands(event, voided, corrections) for event in events]


def _acts(known: Iterable[Json]) -> tuple[dict[str, int], dict[str, Json]]:
    """By event_id, the revision of the void and the correction that count: an act is judged by those after it."""
    voided: dict[str, int] = {}
    corrections: dict[str, Json] = {}
    for event in sorted(known, key=lambda event: -event["revision"]):
        data = event.get("data")
        if data is None or event.get("event_id") in voided:
            continue
        if event["event_type"] == "event.voided":
            voided[data["target"]] = event["revision"]
        elif event["event_type"] == "event.corrected":
            corrections.setdefault(data["target"], event)
    return voided, corrections


def _stands(event: Json, voided: dict[str, int], corrections: dict[str, Json]) -> Json:
    event_id = event.get("event_id", "")
    if event_id in voided:
        return event | {"changed": f"voided by r{voided[event_id]}", "voided": True}
    if event_id not in corrections:
        return event
    correction = corrections[event_id]
    stated = {name: correction["data"][name] for name in ("data", "source", "effective_on") if name in correction["data"]}
    return event | stated | {"changed": f"corrected by r{correction['revision']}"}


def left_out(event: Json, as_of: Json) -> str | None:
    """Why an event, as it stands, is not part of an answer; None if it is."""
    if why := _unheard(event, as_of):
        return why
    if event.get("voided"):
        return str(event["changed"])
    if "effective_on" in event and first_day(event["effective_on"]).isoformat() > as_of["effective_on"]:
        return "in effect later"
    return None


def _unheard(event: Json, as_of: Json) -> str | None:
    if event["position"] > as_of["known_position"]:
        return "recorded later"
    if "published_by" in as_of and _published_on(event, as_of["time_zone"]).isoformat() > as_of["published_by"]:
        return "published later"
    return None


def _published_on(event: Json, time_zone: str) -> date:
    published_on = event.get("source", {}).get("published_on")
    if published_on:
        return last_day(published_on)
    return datetime.fromisoformat(event["recorded_at"]).astimezone(ZoneInfo(time_zone)).date()
