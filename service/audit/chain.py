"""The chain: every check of a stored event that needs no other contract, and of the order in which all of them stand."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

from service.audit.book import Book, Connection, Difference, Found, Row
from service.domain.erasure import ERASED, erased_data, read_target
from service.domain.events import EventData, RecordedEvent, SealedMembers, decode_body, first_day_of
from service.domain.sealing import read_sealed_members
from service.domain.state import JsonObject
from service.log.header import LEAF, NO_PREVIOUS, SCHEMA, Header, decode_header, read_sealed, sealed_digest, sealed_map
from service.log.ledger import Ledger, zone

POSITIONS_A_LOOK = 200_000
_ORDER = """
SELECT count(*) FILTER (WHERE position > %(after)s), min(position) FILTER (WHERE recorded_at < before)
FROM (
    SELECT position, recorded_at, lag(recorded_at) OVER (ORDER BY position) AS before
    FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position >= %(after)s AND position <= %(upto)s
) o
"""
_GAP = """
SELECT min(p) FROM generate_series(%(after)s + 1, %(upto)s) AS p
WHERE NOT EXISTS (SELECT 1 FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position = p)
"""
# The event after a batch is of another request, so it is later.
_BATCHES = """
SELECT min(b.last_position) FROM batches b
LEFT JOIN events e ON e.ledger_id = b.ledger_id AND e.position = b.last_position
LEFT JOIN events n ON n.ledger_id = b.ledger_id AND n.position = b.last_position + 1
WHERE b.ledger_id = %(ledger_id)s::uuid AND b.last_position > %(after)s AND b.last_position <= %(upto)s
  AND (e.recorded_at IS DISTINCT FROM b.recorded_at OR n.recorded_at <= b.recorded_at)
"""
_ORPHANS = """
SELECT min(p.position) FROM payloads p
WHERE p.ledger_id = %(ledger_id)s::uuid AND p.position > %(after)s AND p.position <= %(upto)s
  AND NOT EXISTS (SELECT 1 FROM events e WHERE e.ledger_id = p.ledger_id AND e.position = p.position)
"""
_OUTSIDE = """
WITH head AS (SELECT coalesce(max(last_position), 0) AS last FROM batches WHERE ledger_id = %(ledger_id)s::uuid)
SELECT min(position) FROM (
    SELECT position FROM events, head WHERE ledger_id = %(ledger_id)s::uuid AND position > last
    UNION ALL SELECT position FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position < 1
    UNION ALL SELECT position FROM payloads, head WHERE ledger_id = %(ledger_id)s::uuid AND position > last
    UNION ALL SELECT position FROM payloads WHERE ledger_id = %(ledger_id)s::uuid AND position < 1
    UNION ALL SELECT last_position FROM batches WHERE ledger_id = %(ledger_id)s::uuid AND last_position < 0
) o
"""
_BEGINNING = """
SELECT 1 FROM batches WHERE ledger_id = %(ledger_id)s::uuid AND last_position = 0 AND recorded_at = '1970-01-01T00:00:00Z'
"""
_NO_PAYLOAD: Row = (0, None, None)
_COPIES = ("ledger_id", "contract_id", "position", "event_id", "event_type", "schema", "revision", "recorded_at")


def check_chain(ledger: Ledger, contract_id: str, stored: Sequence[Row], bodies: Mapping[int, Row]) -> list[RecordedEvent]:
    """The events of a contract, once each is what was hashed, follows the one before it, and stands in columns that say the same.

    Given as rows, with the bodies by position. This runs for every event of a ledger.
    """
    prev, history = NO_PREVIOUS, []
    erasures = _erasures(stored, bodies)
    ledger_id, local = ledger.ledger_id, None if ledger.time_zone == "UTC" else zone(ledger.time_zone)
    for revision, row in enumerate(stored, 1):
        _, position, column_revision, event_id, event_type, recorded_at, header, stored_hash = row
        if sha256(LEAF + header).digest() != stored_hash:
            raise Found(f"position {position}", "the header is not the one that was hashed")
        known, day = _read_header(header, position)
        if known.prev != prev or known.revision != revision:
            sentence = f"contract {contract_id} has revision {known.revision} where {revision} with prev {prev[:16]}… belongs"
            raise Found(f"position {position}", sentence)
        if (
            known.position != position
            or known.event_id != event_id
            or known.event_type != event_type
            or known.contract_id != contract_id
            or known.ledger_id != ledger_id
            or known.schema != SCHEMA
            or column_revision != revision
            or _read_instant(known.recorded_at) != recorded_at
        ):
            raise _miscopied(known, (ledger_id, contract_id, position, event_id, event_type, SCHEMA, column_revision, recorded_at))
        payload = bodies.get(position, _NO_PAYLOAD)
        data, source = _read_body(known, payload[1], erasures.get(event_id))
        sealed = None
        if payload[1] is not None and (known.sealed_digest is not None or payload[2] is not None):
            sealed = _read_sealed(known, data, payload)
        history.append(
            RecordedEvent(
                event_id=event_id,
                position=position,
                revision=revision,
                recorded_on=recorded_at.date() if local is None else recorded_at.astimezone(local).date(),
                effective_on=known.effective_on or "",
                day=day,
                data=data,
                source=source,
                hypothetical=known.hypothetical is True,
                schema_version=known.schema_version,
                sealed=sealed,
            )
        )
        prev = stored_hash.hex()
    return history


def _read_header(header: bytes, position: int) -> tuple[Header, date]:
    """The header, and its day of effect; that and its instant are such."""
    try:
        known = decode_header(header)
        day = first_day_of(known.event_type, known.effective_on)
        _read_instant(known.recorded_at)
    except msgspec.DecodeError as error:
        raise Found(f"position {position}", f"the header cannot be read: {error}") from None
    except ValueError as error:
        raise Found(f"position {position}", f"the header holds a day or an instant that is none: {error}") from None
    return known, day


# The events of a request have one instant, and stand beside one another.
_read_instant = lru_cache(1_024)(datetime.fromisoformat)


def _miscopied(known: Header, columns: Sequence[Any]) -> Found:
    """Which of the columns, as named in _COPIES, is not what the header says."""
    said = [getattr(known, name) for name in _COPIES]
    meant = [*said[:-1], _read_instant(known.recorded_at)]
    index = next(index for index, column in enumerate(columns) if meant[index] != column)
    return Found(f"position {columns[2]}", f"{_COPIES[index]} is {columns[index]} in its column and {said[index]} in the header")


def _erasures(stored: Sequence[Row], bodies: Mapping[int, Row]) -> dict[str, int]:
    """By the id of each event that an erasure among them names, the erasure's revision. What is no erasure is found with its digest."""
    found: dict[str, int] = {}
    for row in stored:
        if row[4] == ERASED:
            with suppress(msgspec.DecodeError, TypeError):
                found[read_target(bodies.get(row[1], _NO_PAYLOAD)[1])] = row[2]
    return found


def _read_body(known: Header, body: bytes | None, erased_by: int | None) -> tuple[EventData, JsonObject]:
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
    if sha256(body).hexdigest() != known.body_digest:
        raise Found(f"position {known.position}", "the body is not the one whose digest the header holds")
    try:
        return decode_body(known.event_type, known.schema_version, body)
    except (msgspec.DecodeError, KeyError) as error:
        raise Found(f"position {known.position}", f"the body cannot be read as {known.event_type}: {error}") from None


def _read_sealed(known: Header, data: EventData, payload: Row) -> SealedMembers:
    """What the event seals, once the header's digest covers the map, and the map each value that is stored with its salt."""
    where = f"position {known.position}"
    if known.sealed_digest is None:
        raise Found(where, "sealed values are stored, and the header knows of none")
    try:
        members = read_sealed_members(data, known.schema_version, payload[1])
        stored = sealed_map(read_sealed(payload[2] or b"[]"))
    except (msgspec.DecodeError, ValueError) as error:
        raise Found(where, f"what is sealed cannot be read: {type(error).__name__}") from None
    if sealed_digest(members.digests) != known.sealed_digest:
        raise Found(where, "the map of what is sealed is not the one whose digest the header holds")
    if stored != members.digests:
        paths = sorted(path for path in {**stored, **members.digests} if stored.get(path) != members.digests.get(path))
        raise Found(where, f"the sealed value or salt of {', '.join(paths)} is not the one whose digest the body holds")
    return members


def check_order(connection: Connection, book: Book) -> Difference | None:
    """Positions are gapless from 1 to the head, instants never fall, batches end where an event stands, no body is without its event."""
    for after in range(0, book.head, POSITIONS_A_LOOK):
        upto = min(after + POSITIONS_A_LOOK, book.head)
        parameters = {"ledger_id": book.ledger.ledger_id, "after": after, "upto": upto}
        count, early = connection.execute(_ORDER, parameters).fetchone() or (0, None)
        if count != upto - after:
            missing = connection.execute(_GAP, parameters).fetchone() or (upto,)
            return Difference(f"position {missing[0]}", "there is no event, and the log has later ones or a later head")
        if early:
            return Difference(f"position {early}", "it was recorded before the event in front of it")
        for statement, sentence in (
            (_BATCHES, "the batch that ends here has another recorded_at than its last event, or ends within a request"),
            (_ORPHANS, "there is a body without an event"),
        ):
            row = connection.execute(statement, parameters).fetchone()
            if row and row[0] is not None:
                return Difference(f"position {row[0]}", sentence)
    return _check_ends(connection, book)


def _check_ends(connection: Connection, book: Book) -> Difference | None:
    """Nothing stands before the log's first position or beyond its head."""
    parameters = {"ledger_id": book.ledger.ledger_id}
    if connection.execute(_BEGINNING, parameters).fetchone() is None:
        return Difference("position 0", "the row that the log begins with is missing, or has another recorded_at")
    outside = connection.execute(_OUTSIDE, parameters).fetchone()
    if outside and outside[0] is not None:
        return Difference(f"position {outside[0]}", "there is an event, a body or a batch outside the log, which goes from 1 to its head")
    return None
