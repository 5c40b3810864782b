"""The chain of a contract: its events as they are stored, each checked and held against the one before it, and read for the fold."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

from service.audit.book import Found, Row
from service.domain.erasure import ERASED, erased_data, read_target
from service.domain.events import EventData, RecordedEvent, SealedMembers, decode_body, first_day_of
from service.domain.sealing import read_sealed_members
from service.domain.state import JsonObject
from service.log.header import (
    LEAF,
    NO_PREVIOUS,
    SCHEMA,
    Header,
    Heading,
    decode_header,
    decode_heading,
    read_sealed_map,
    sealed_digest,
)
from service.log.ledger import Ledger, zone

_NO_PAYLOAD: Row = (0, None, None)
_COPIES = ("ledger_id", "contract_id", "position", "event_id", "event_type", "schema", "revision", "recorded_at")


def check_chain(ledger: Ledger, stored: Sequence[Row], bodies: Mapping[int, Row]) -> list[RecordedEvent]:
    """The events of a contract, once each is what was hashed, follows the one before it, and stands in columns that say the same.

    Given as rows, with the bodies by position.
    """
    prev = NO_PREVIOUS
    for revision, row in enumerate(stored, 1):
        known = _check_header(ledger.ledger_id, row)
        if known.prev != prev or known.revision != revision:
            sentence = f"contract {known.contract_id} has revision {known.revision} where {revision} with prev {prev[:16]}… belongs"
            raise Found(f"position {known.position}", sentence)
        check_body(known, *bodies.get(known.position, _NO_PAYLOAD)[1:])
        prev = row[7].hex()
    return read_history(ledger, stored, bodies)


def _check_header(ledger_id: str, row: Row) -> Header:
    """The header of an event, which is what was hashed and says what the columns say."""
    contract_id, position, revision, event_id, event_type, recorded_at, header, stored_hash = row
    if sha256(LEAF + header).digest() != stored_hash:
        raise Found(f"position {position}", "the header is not the one that was hashed")
    known = _read_header(header, position)
    columns = (ledger_id, contract_id, position, event_id, event_type, SCHEMA, revision, recorded_at)
    if _said(known) != columns:
        raise miscopied(known, columns)
    return known


def check_body(known: Header, body: bytes | None, sealed: bytes | None) -> None:
    """What is stored of an event's body is what the header has the digests of. Whether none may be stored, only its contract tells."""
    if body is None:
        if sealed is not None:
            raise Found(f"position {known.position}", "sealed values are stored, and the body that seals them is not")
        return
    if sha256(body).hexdigest() != known.body_digest:
        raise Found(f"position {known.position}", "the body is not the one whose digest the header holds")
    if sealed is not None or known.sealed_digest is not None:
        _check_sealed(known, body, sealed)


def read_history(ledger: Ledger, stored: Sequence[Row], bodies: Mapping[int, Row]) -> list[RecordedEvent]:
    """The events of a contract, given as rows that are known to be what was hashed, with the bodies by position. Found for what this
    release cannot read, and for a body that is missing, or there, against what an erasure says."""
    erasures, history = _erasures(stored, bodies), []
    local = None if ledger.time_zone == "UTC" else zone(ledger.time_zone)
    for _, position, revision, event_id, _, recorded_at, header, _ in stored:
        known = _read_heading(header, position)
        body = bodies.get(position, _NO_PAYLOAD)[1]
        data, source = _read_body(known, body, erasures.get(event_id))
        history.append(
            RecordedEvent(
                event_id=event_id,
                position=position,
                revision=revision,
                recorded_on=recorded_at.date() if local is None else recorded_at.astimezone(local).date(),
                effective_on=known.effective_on or "",
                day=_read_day(known),
                data=data,
                source=source,
                hypothetical=known.hypothetical is True,
                schema_version=known.schema_version,
                sealed=None if body is None or known.sealed_digest is None else _read_sealed_members(known, data, body),
            )
        )
    return history


def _read_header(header: bytes, position: int) -> Header:
    """The header, whose instant is one."""
    try:
        known = decode_header(header)
        _read_instant(known.recorded_at)
    except (msgspec.DecodeError, ValueError) as error:
        raise Found(f"position {position}", f"the header cannot be read: {error}") from None
    return known


def _read_heading(header: bytes, position: int) -> Heading:
    """Of a header that was checked, what the fold takes."""
    try:
        return decode_heading(header)
    except msgspec.DecodeError as error:
        raise Found(f"position {position}", f"the header cannot be read: {error}") from None


def _read_day(known: Heading) -> date:
    try:
        return first_day_of(known.event_type, known.effective_on)
    except ValueError as error:
        raise Found(f"position {known.position}", f"the header holds a day of effect that is none: {error}") from None


# The events of a request have one instant, and stand beside one another.
_read_instant = lru_cache(1_024)(datetime.fromisoformat)


def _said(known: Header) -> tuple[Any, ...]:
    """What a header says of what the columns say too, in the order of _COPIES."""
    ids = known.ledger_id, known.contract_id, known.position, known.event_id
    return *ids, known.event_type, known.schema, known.revision, _read_instant(known.recorded_at)


def miscopied(known: Header, columns: Sequence[Any]) -> Found:
    """Which of the columns, as named in _COPIES, is not what the header says."""
    said = _said(known)
    index = next(index for index, column in enumerate(columns) if said[index] != column)
    return Found(f"position {columns[2]}", f"{_COPIES[index]} is {columns[index]} in its column and {said[index]} in the header")


def _erasures(stored: Sequence[Row], bodies: Mapping[int, Row]) -> dict[str, int]:
    """By the id of each event that an erasure among them names, the erasure's revision. What is no erasure is found with its digest."""
    found: dict[str, int] = {}
    for row in stored:
        if row[4] == ERASED:
            with suppress(msgspec.DecodeError, TypeError):
                found[read_target(bodies.get(row[1], _NO_PAYLOAD)[1])] = row[2]
    return found


def _read_body(known: Heading, body: bytes | None, erased_by: int | None) -> tuple[EventData, JsonObject]:
    where = f"position {known.position}"
    if body is None:
        if erased_by is None:
            raise Found(where, "the body is missing, and no erasure explains it")
        try:
            return erased_data(known.event_type, known.schema_version), {}
        except KeyError:
            raise Found(where, f"this release does not know the type {known.event_type}") from None
    if erased_by is not None:
        raise Found(where, f"the body is still there, and revision {erased_by} erased it")
    return _decode(known, body)


def _decode(known: Heading, body: bytes) -> tuple[EventData, JsonObject]:
    try:
        return decode_body(known.event_type, known.schema_version, body)
    except (msgspec.DecodeError, KeyError) as error:
        raise Found(f"position {known.position}", f"the body cannot be read as {known.event_type}: {error}") from None


def _check_sealed(known: Header, body: bytes, sealed: bytes | None) -> None:
    """The header's digest covers the map of what is sealed, and the map each value that is stored with its salt."""
    where = f"position {known.position}"
    if known.sealed_digest is None:
        raise Found(where, "sealed values are stored, and the header knows of none")
    members = _read_sealed_members(known, _decode(known, body)[0], body)
    try:
        stored = read_sealed_map(sealed or b"[]")
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise Found(where, f"what is sealed cannot be read: {error}") from None
    if sealed_digest(members.digests) != known.sealed_digest:
        raise Found(where, "the map of what is sealed is not the one whose digest the header holds")
    if stored != members.digests:
        paths = sorted(path for path in {**stored, **members.digests} if stored.get(path) != members.digests.get(path))
        raise Found(where, f"the sealed value or salt of {', '.join(paths)} is not the one whose digest the body holds")


def _read_sealed_members(known: Heading, data: EventData, body: bytes) -> SealedMembers:
    try:
        return read_sealed_members(data, known.schema_version, body)
    except (msgspec.DecodeError, ValueError) as error:
        raise Found(f"position {known.position}", f"what is sealed cannot be read: {type(error).__name__}") from None
