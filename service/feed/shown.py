"""How an event is shown to who reads or follows the log: what was sent, its place, and the hashes that bind it there."""

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from service.domain.contract import EVENT_TYPES
from service.domain.events import newest
from service.domain.parts import JsonObject
from service.log.cursor import cursor_at
from service.log.header import Header, SealedPart
from service.log.stored import StoredEvent


class RawEvent(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The bytes of an event as they are stored and were hashed, as text (UTF-8): of the header, and of the body, which holds the salt."""

    header: str
    body: str | None = None


class SealedMember(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A member of `data` that is sealed. `value` and `salt`, for a reader with the right, make `digest`: what a reveal states.

    The digest is SHA-256 of canonical [salt, path, value].
    """

    path: str
    digest: str
    until: str | None = None
    value: Any = msgspec.UNSET
    salt: str | None = None


class Event(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event as recorded. `data` is by the schema of its type and `schema_version`: the newest, to which what was sent by an earlier one
    is brought, or with `raw=true` the one it was sent and stored by. An event that is erased has neither `data` nor `source`, and names
    the event that erased it in `erased_by`."""

    event_id: str
    event_type: str
    contract_id: str
    position: int
    revision: int
    schema_version: int
    recorded_at: str
    recorded_by: str
    event_hash: str
    prev: str
    body_digest: str
    cursor: str
    effective_on: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    hypothetical: bool | None = None
    data: JsonObject | None = None
    source: JsonObject | None = None
    evidence: list[JsonObject] | None = None
    raw: RawEvent | None = None
    sealed_digest: str | None = None
    sealed: list[SealedMember] | None = None
    erased_by: str | None = None


def event_answer(stored: StoredEvent, epoch: int, parts: Sequence[SealedPart] = (), *, raw: bool = False) -> Event:
    """A stored event as the API shows it: the header's members, what was sent, by the newest version of its type or `raw`, and of what is
    sealed the given values."""
    header = stored.header
    body = orjson.loads(stored.body) if stored.body is not None else {}
    schema_version, data = (header.schema_version, body.get("data")) if raw else _newest(header, body.get("data"))
    return Event(
        event_id=header.event_id,
        event_type=header.event_type,
        contract_id=header.contract_id,
        position=header.position,
        revision=header.revision,
        schema_version=schema_version,
        recorded_at=header.recorded_at,
        recorded_by=header.recorded_by,
        event_hash=stored.event_hash,
        prev=header.prev,
        body_digest=header.body_digest,
        cursor=cursor_at(epoch, header.position, stored.event_hash),
        effective_on=header.effective_on,
        correlation_id=header.correlation_id,
        causation_id=header.causation_id,
        hypothetical=header.hypothetical,
        data=data,
        source=body.get("source"),
        evidence=body.get("evidence"),
        raw=_raw(stored) if raw else None,
        sealed_digest=header.sealed_digest,
        sealed=_sealed_members(body, parts) if "sealed" in body else None,
        erased_by=stored.erased_by,
    )


def _newest(header: Header, data: JsonObject | None) -> tuple[int, JsonObject | None]:
    """The newest version of an event's type, and its data as of that; those of a version that this release does not know as they are."""
    known = EVENT_TYPES.get(header.event_type)
    if data is None or known is None or header.schema_version >= known.schema_version:
        return header.schema_version, data
    return known.schema_version, newest(header.event_type, header.schema_version, data)


def _raw(stored: StoredEvent) -> RawEvent:
    return RawEvent(header=stored.header_bytes.decode(), body=None if stored.body is None else stored.body.decode())


def _sealed_members(body: dict[str, Any], parts: Sequence[SealedPart]) -> list[SealedMember]:
    """What an event seals: digests and days by path, and with them the given values and salts."""
    members = {
        path: SealedMember(path=path, digest=digest, until=body.get("sealed_until", {}).get(path))
        for path, digest in body["sealed"].items()
    }
    for part in parts:
        if part.path in members:  # else it is not what was recorded, as `verify` says
            members[part.path].value, members[part.path].salt = part.value, part.salt
    return list(members.values())
