"""Events as they lie in the log, and how they are made ready for the fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from service.domain.erasure import erased_data
from service.domain.events import EventData, RecordedEvent, decode_body, first_day_of
from service.domain.parts import JsonObject
from service.domain.sealing import read_sealed_members
from service.log.header import Header, decode_header


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it lies in the log; without a body when that was erased."""

    header: Header
    event_hash: str
    body: bytes | None
    header_bytes: bytes
    erased_by: str | None = None
    """The event that erased it."""


UNREADABLE = (msgspec.DecodeError, KeyError, TypeError, ValueError)
"""What reading a stored event or state raises when it is not what was stored."""


def recorded_event(header: bytes, body: bytes | None, time_zone: ZoneInfo) -> RecordedEvent:
    """A stored event for the fold; without a body it is one that was erased. Days of recording are days in the ledger's zone. UNREADABLE
    when it was damaged."""
    known = decode_header(header)
    data: EventData
    source: JsonObject
    if body is None:
        data, source = erased_data(known.event_type, known.schema_version), {}
    else:
        data, source = decode_body(known.event_type, known.schema_version, body)
    return RecordedEvent(
        event_id=known.event_id,
        position=known.position,
        revision=known.revision,
        recorded_on=local_day(known.recorded_at, time_zone),
        effective_on=known.effective_on or "",
        day=first_day_of(known.event_type, known.effective_on),
        data=data,
        source=source,
        hypothetical=bool(known.hypothetical),
        schema_version=known.schema_version,
        sealed=read_sealed_members(data, known.schema_version, body) if known.sealed_digest and body is not None else None,
    )


def local_day(recorded_at: str, time_zone: ZoneInfo) -> date:
    """The day of an instant in a time zone."""
    if time_zone.key == "UTC":
        return date.fromisoformat(recorded_at[:10])
    return datetime.fromisoformat(recorded_at).astimezone(time_zone).date()


def stored_event(row: Sequence[Any]) -> StoredEvent:
    """A row of header, hash and body."""
    return StoredEvent(decode_header(row[0]), row[1].hex(), row[2], row[0])
