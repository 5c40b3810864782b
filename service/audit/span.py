"""A span of the log: positions that are read in one short snapshot, each event checked by itself and against those before it in the span.

What needs more than a span is left open, and closed by whoever joins the spans in their order (`walk`): so spans can be shared among
processes. This runs for every event of a ledger, and its speed is that of the walk.
"""

import select
import struct
from array import array
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import msgspec
import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from service.audit.book import Book, Connection, Difference, Found
from service.audit.chain import check_body, miscopied
from service.domain.erasure import ERASED
from service.log.header import LEAF, SCHEMA, Header, decode_header
from service.log.tree import HASH_BYTES, TILE_WIDTH

SPAN_EVENTS = 20 * TILE_WIDTH
EARLIER = "it was recorded before the event in front of it"
_2000 = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# A body without an event is a row without a revision; these rows come first. A full join would meet them in their places, but has no order
# of its own, and to sort its rows takes as long as to make them.
# Where the statistics know of no row in the span, as in a log that grew since, a nested loop would go through all bodies for each event.
_SPAN = """
SET LOCAL enable_nestloop = off;
COPY (
    (
        SELECT p.position, NULL::integer, NULL::timestamptz, NULL::bytea, NULL::uuid, NULL::text, NULL::bytea, NULL::bytea, NULL::bytea
        FROM payloads p
        WHERE p.ledger_id = '{ledger_id}' AND p.position > {after} AND p.position <= {upto} AND NOT EXISTS (
            SELECT FROM events e
            WHERE e.ledger_id = '{ledger_id}' AND e.position > {after} AND e.position <= {upto} AND e.position = p.position
        )
        ORDER BY p.position
    ) UNION ALL (
        SELECT e.position, e.revision, e.recorded_at, e.event_hash, e.contract_id,
               e.contract_id::text || e.event_id::text || e.event_type, e.header, p.body, p.sealed
        FROM (SELECT * FROM events WHERE ledger_id = '{ledger_id}' AND position > {after} AND position <= {upto}) e
        LEFT JOIN (SELECT * FROM payloads WHERE ledger_id = '{ledger_id}' AND position > {after} AND position <= {upto}) p USING (position)
        ORDER BY e.position
    )
) TO STDOUT (FORMAT binary)
"""
_NOWHERE = 2**63
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_FIXED = struct.Struct(">hiqiiiqi32si16si")
_LENGTH = struct.Struct(">i")
_POSITION = struct.Struct(">6xq")
_REVISION_BYTES = 4
AT_FIRST = bytes(HASH_BYTES + _REVISION_BYTES)
"""Where a contract stands before its first event: the hash that this follows, and the revision 0."""
PASSED = struct.Struct(f">16s{len(AT_FIRST)}sq{len(AT_FIRST)}s")


class Span(NamedTuple):
    """The positions after one up to another."""

    after: int
    upto: int


Row = tuple[int, int, int, bytes, bytes, bytes, bytes, bytes | None, bytes | None]
"""Position, revision, instant in microseconds since 2000, hash, contract, the texts of contract, event and type, header, body, sealed."""


class Checked(NamedTuple):
    """What a span came to; with a difference, what stood before it. It goes from process to process, so what there is of each event and of
    each contract is packed: as objects, the two would spend as much on it as on a quarter of the checks."""

    leaves: bytes
    """The hashes of the events, one behind the other."""
    instants: "array[int]"
    """Of each event, in microseconds since 2000."""
    contracts: bytes
    """Of each contract as PASSED: its id, where it stood before its first event in the span and the position of that, and where it stands
    after its last."""
    erased_from: set[str]
    """The contracts of events that erase, or are without a body: only a contract's whole history tells whether that is right."""
    difference: Difference | None


def check_span(connection: Connection, book: Book, span: Span) -> Checked:
    """Every event of a span is what was hashed, says what its columns say, has the body of its digest, and follows the one before it."""
    seen = _Seen([], array("q"), {}, {}, set())
    difference = None
    try:
        _check(read_span(connection, book.ledger.ledger_id, span), book.ledger.ledger_id, span, seen)
    except Found as error:
        difference = error.difference
    return Checked(b"".join(seen.leaves), seen.instants, _passed(seen.first, seen.last), seen.erased_from, difference)


class _Seen(NamedTuple):
    """What a span has come to so far."""

    leaves: list[bytes]
    instants: "array[int]"
    first: dict[bytes, tuple[bytes, int]]
    """By contract, where it stood before its first event in the span, and the position of that."""
    last: dict[bytes, tuple[bytes, int]]
    """By contract, the hash of its last event in the span, and its revision."""
    erased_from: set[str]


def _check(rows: Iterator[Row], ledger_id: str, span: Span, seen: _Seen) -> None:
    leaves, instants, first, last, erased_from = seen
    expected = span.after
    for row in rows:
        expected += 1
        position, revision, instant, event_hash, contract_id = row[:5]
        if position != expected:
            raise missing(expected)
        if instants and instant < instants[-1]:
            raise Found(f"position {position}", EARLIER)
        known = _check_header(row, ledger_id)
        if row[7] is None or known.event_type == ERASED:
            erased_from.add(known.contract_id)
        check_body(known, row[7], row[8])
        before = last.get(contract_id)
        if before is None:
            first[contract_id] = _followed(known), position
        elif before[0].hex() != known.prev or before[1] + 1 != revision:
            raise does_not_follow(position, known.prev, revision, before)
        last[contract_id] = event_hash, revision
        leaves.append(event_hash)
        instants.append(instant)
    if expected != span.upto:
        raise missing(expected + 1)


def _followed(known: Header) -> bytes:
    """Where the contract of an event stood before it, by its header."""
    try:
        prev, revision = bytes.fromhex(known.prev), (known.revision - 1).to_bytes(_REVISION_BYTES)
    except (ValueError, OverflowError):
        prev = revision = b""
    if prev.hex() != known.prev or len(prev) != HASH_BYTES:
        raise Found(f"position {known.position}", f"it is revision {known.revision} after {known.prev[:16]}…, and no event is followed so")
    return prev + revision


def _passed(first: Mapping[bytes, tuple[bytes, int]], last: Mapping[bytes, tuple[bytes, int]]) -> bytes:
    """The contracts of a span, packed."""
    return b"".join(
        [
            PASSED.pack(contract_id, before, position, last_hash + revision.to_bytes(_REVISION_BYTES))
            for (contract_id, (before, position)), (last_hash, revision) in zip(first.items(), last.values(), strict=True)
        ]
    )


def stand(at: bytes) -> tuple[bytes, int]:
    """The hash and the revision of the event at which a contract stands."""
    return at[:HASH_BYTES], int.from_bytes(at[HASH_BYTES:])


def _check_header(row: Row, ledger_id: str) -> Header:
    """The header of an event, which is what was hashed and says what the columns say."""
    position, revision, instant, event_hash, _, names, header, _, _ = row
    if sha256(LEAF + header).digest() != event_hash:
        raise Found(f"position {position}", "the header is not the one that was hashed")
    try:
        known = decode_header(header)
        recorded = (datetime.fromisoformat(known.recorded_at) - _2000) // _MICROSECOND
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise Found(f"position {position}", f"the header cannot be read: {error}") from None
    if (
        recorded != instant
        or known.position != position
        or known.revision != revision
        or (known.contract_id + known.event_id + known.event_type).encode() != names
        or known.ledger_id != ledger_id
        or known.schema != SCHEMA
    ):
        texts = names.decode()
        columns = (ledger_id, texts[:36], position, texts[36:72], texts[72:], SCHEMA, revision, _datetime(instant))
        raise miscopied(known, columns)
    return known


def _datetime(instant: int) -> datetime | None:
    """An instant in microseconds since 2000; None for one that no header can hold."""
    try:
        return _2000 + instant * _MICROSECOND
    except OverflowError:
        return None


def missing(position: int) -> Found:
    return Found(f"position {position}", "there is no event, and the log has later ones or a later head")


def does_not_follow(position: int, prev: str, revision: int, before: tuple[bytes, int]) -> Found:
    """An event that is not the next of its contract after `before`, a hash and a revision."""
    sentence = f"it is revision {revision} after {prev[:16]}…, and its contract stands at revision {before[1]}, {before[0].hex()[:16]}…"
    return Found(f"position {position}", sentence)


def read_span(connection: Connection, ledger_id: str, span: Span) -> Iterator[Row]:
    """The events of a span in their order. Found for a body without an event."""
    fixed, size, length = _FIXED.unpack_from, _FIXED.size, _LENGTH.unpack_from
    stray = _NOWHERE
    for row in copied(connection, _SPAN.format(ledger_id=ledger_id, after=span.after, upto=span.upto)):
        if len(row) < size or (fields := fixed(row))[3] < 0:
            stray = min(stray, _POSITION.unpack_from(row)[0])
            continue
        _, _, position, _, revision, _, instant, _, event_hash, _, contract_id, long = fields
        if position > stray:
            break
        first = size + long
        (long,) = length(row, first)
        second = first + 4 + long
        (long,) = length(row, second)
        third = second + 4
        body = None
        if long >= 0:
            body, third = row[third : third + long], third + long
        (long,) = length(row, third)
        yield (
            position,
            revision,
            instant,
            event_hash,
            contract_id,
            row[size:first],
            row[first + 4 : second],
            body,
            row[third + 4 :] if long >= 0 else None,
        )
    if stray != _NOWHERE:
        raise Found(f"position {stray}", "there is a body without an event")


def copied(connection: Connection, statement: str) -> Iterator[bytes]:
    """The rows of a binary COPY, in whose format a signature stands before the tuples and a trailer behind them.

    What is buffered already is not waited for: that would cost as much as to check it. Whoever reads no further closes the generator,
    which leaves the connection fit for what comes next.
    """
    pgconn = connection.pgconn
    began = pgconn.exec_(statement.encode())
    if began.status != ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(began)
    try:
        yield from _tuples(pgconn)
    finally:
        _end(pgconn)


def _tuples(pgconn: PGconn) -> Iterator[bytes]:
    skip, size = len(_SIGNATURE), 0
    while size >= 0:
        size, data = pgconn.get_copy_data(1)
        if size == 0:
            select.select([pgconn.socket], [], [])
            pgconn.consume_input()
        elif size > 0:
            row, skip = bytes(data)[skip:], 0
            if len(row) > len(_TRAILER):
                yield row


def _end(pgconn: PGconn) -> None:
    """Take what is still to come, and what the server says at the end."""
    for result in iter(pgconn.get_result, None):
        if result.status == ExecStatus.COPY_OUT:
            while pgconn.get_copy_data(0)[0] > 0:
                pass
        elif result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
