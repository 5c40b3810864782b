"""Replay: walk the whole log, check every byte of it, fold every contract, and compare with what is stored.

The walk goes by contract, in chunks of about CHUNK_EVENTS events, each read in one short snapshot with its rows: so a row and its events
always belong together while appends go on, memory is bounded by a chunk, and chunks can be shared among processes. That the log has no
gaps, and that its instants rise, is checked by position.
"""

import gc
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import psycopg

from service.database import connect, contracts, deliveries, insert_rows, rows_json
from service.domain.dates import first_day
from service.domain.events import RecordedEvent, decode_body
from service.errors import OperatorError
from service.log.header import NO_PREVIOUS, SCHEMA, Header, body_digest, decode_header, event_hash
from service.log.ledger import Ledger, zone
from service.log.read import local_day
from service.projections.contracts import LAYOUT, ContractRow, contract_row, contract_rows_json, project

CHUNK_EVENTS = 10_000
POSITIONS_A_LOOK = 200_000
CATCH_UP_CONTRACTS = 200
DELETE_ROWS = 5_000
SMALL_LEDGER = 50_000
"""Below this many events one process is quicker than starting several."""

Progress = Callable[[int, int, str], None]
Connection = psycopg.Connection[tuple[Any, ...]]
_LEDGER = """
SELECT ledger_id::text, name, time_zone, if_match_required, generation, layout,
       (SELECT coalesce(max(last_position), 0) FROM batches b WHERE b.ledger_id = l.ledger_id), clock_timestamp()
FROM ledgers l WHERE name = %s
"""
_SIZES = "SELECT contract_id::text, max(revision) FROM events WHERE ledger_id = %s::uuid GROUP BY contract_id ORDER BY contract_id"
_EVENTS = """
SELECT e.contract_id::text, e.position, e.revision, e.event_id::text, e.event_type, e.recorded_at, e.header, e.event_hash,
       (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id > %(after)s::uuid AND e.contract_id <= %(upto)s::uuid
ORDER BY e.contract_id, e.revision
"""
_ROWS = """
SELECT contract_id::text, revision, position, encode(last_hash, 'hex'), last_on, has_pending, settled_on,
       holds_until, filters, state, beside
FROM contracts
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s
  AND contract_id > %(after)s::uuid AND contract_id <= %(upto)s::uuid
"""
_DELIVERIES = """
SELECT contract_id::text, delivery_id, revision FROM deliveries
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s
  AND contract_id > %(after)s::uuid AND contract_id <= %(upto)s::uuid
"""
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
_COPIES = ("ledger_id", "contract_id", "position", "event_id", "event_type", "schema")
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Difference(NamedTuple):
    """Where what is stored is not what the log says, in a sentence."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verify found: the first difference (in the order of the walk), or none."""

    ledger: str
    events: int
    contracts: int
    seconds: float
    peak_bytes: int
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What rebuild wrote: `changed` rows differed from the live ones, which are gone now."""

    ledger: str
    contracts: int
    events: int
    seconds: float
    changed: int
    difference: Difference | None


class _Found(Exception):
    """A difference was found; the walk of the contract ends."""

    def __init__(self, where: str, sentence: str) -> None:
        super().__init__(sentence)
        self.difference = Difference(where, sentence)


class _Chunk(NamedTuple):
    """The contracts after one id up to another."""

    after: str
    upto: str
    events: int


class _Told(NamedTuple):
    """What a chunk came to."""

    events: int
    contracts: int
    peak_bytes: int
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class _Book:
    """The ledger that is replayed: its live generation, its head and its day when the replay began."""

    ledger: Ledger
    generation: int
    layout: int
    head: int
    today: date


def verify(database_url: str, ledger: str, progress: Progress, processes: int = 0) -> Verdict:
    """Check a whole ledger: hashes, chains, digests, copies, order, and each contract's row against the fold of its events.

    `processes` 0 uses one for each core, up to four. OperatorError when there is no such ledger.
    """
    began = time.monotonic()
    with _connect(database_url) as connection:
        book = _open_book(connection, ledger)
        chunks = list(_chunks(connection, book))
    total = sum(chunk.events for chunk in chunks)
    events, found, difference = 0, 0, None
    peaks: dict[int, int] = {os.getpid(): _peak_bytes()}
    for worker, told in _walk(database_url, book, chunks, processes, total):
        events, found = events + told.events, found + told.contracts
        peaks[worker] = max(peaks.get(worker, 0), told.peak_bytes)
        difference = difference or told.difference
        progress(events, total, "events")
    if difference is None and book.layout != LAYOUT:
        difference = Difference(f"ledger {ledger}", f"its rows have layout {book.layout}, not {LAYOUT}: run `contract-ledger rebuild`")
    return Verdict(ledger, events, found, time.monotonic() - began, sum(peaks.values()), difference)


def _walk(url: str, book: _Book, chunks: Sequence[_Chunk], processes: int, total: int) -> Iterator[tuple[int, _Told]]:
    """What the check of the order and each chunk came to, with the process that did it."""
    workers = processes or min(os.cpu_count() or 1, 4)
    if workers == 1 or total <= SMALL_LEDGER:
        _start_worker(url, book)
        try:
            yield _verify_order()
            yield from (_verify_chunk(chunk) for chunk in chunks)
        finally:
            _end_worker()
        return
    # A forked process is there at once; one that is spawned imports everything anew, but forking is safe on Linux only.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_process, initargs=(url, book)) as pool:
        order = pool.submit(_verify_order)
        yield from pool.map(_verify_chunk, chunks)
        yield order.result()


def _start_process(url: str, book: _Book) -> None:
    gc.disable()  # a chunk makes no cycles, and the collector would walk all of its rows again and again
    _start_worker(url, book)


_worker: tuple[Connection, _Book] | None = None


def _start_worker(url: str, book: _Book) -> None:
    global _worker  # noqa: PLW0603 - a process of the pool keeps its connection
    _worker = _connect(url), book


def _end_worker() -> None:
    global _worker  # noqa: PLW0603
    if _worker:
        _worker[0].close()
    _worker = None


def _verify_order() -> tuple[int, _Told]:
    assert _worker is not None
    return os.getpid(), _Told(0, 0, _peak_bytes(), _check_order(*_worker))


def _verify_chunk(chunk: _Chunk) -> tuple[int, _Told]:
    assert _worker is not None
    connection, book = _worker
    events, rows, ids = _read_chunk(connection, book, chunk)
    count, found, difference = 0, 0, None
    for contract_id, group in groupby(events, key=itemgetter(0)):
        found += 1
        stored = list(group)
        count += len(stored)
        try:
            history = _check_chain(book.ledger, contract_id, stored)
            if book.layout == LAYOUT:
                _check_row(contract_id, rows.pop(contract_id, None), history, stored[-1])
                _check_deliveries(contract_id, ids.pop(contract_id, {}), history)
        except _Found as error:
            difference = difference or error.difference
            rows.pop(contract_id, None)
            ids.pop(contract_id, None)
    for contract_id in (*rows, *ids) if book.layout == LAYOUT else ():
        difference = difference or Difference(f"contract {contract_id}", "it has a row, and no event")
    return os.getpid(), _Told(count, found, _peak_bytes(), difference)


def _read_chunk(
    connection: Connection, book: _Book, chunk: _Chunk
) -> tuple[list[tuple[Any, ...]], dict[str, ContractRow], dict[str, dict[str, int]]]:
    """The events, rows and delivery ids of a chunk, in one snapshot."""
    parameters = {"ledger_id": book.ledger.ledger_id, "generation": book.generation, "after": chunk.after, "upto": chunk.upto}
    members = ContractRow.__struct_fields__
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        events = connection.execute(_EVENTS, parameters, binary=True).fetchall()
        rows = {row[0]: ContractRow(**dict(zip(members, row, strict=True))) for row in connection.execute(_ROWS, parameters, binary=True)}
        ids: dict[str, dict[str, int]] = {}
        for contract_id, delivery_id, revision in connection.execute(_DELIVERIES, parameters):
            ids.setdefault(contract_id, {})[delivery_id] = revision
    return events, rows, ids


def _check_chain(ledger: Ledger, contract_id: str, stored: Sequence[tuple[Any, ...]]) -> list[RecordedEvent]:
    """The events of a contract, after every check that needs no other contract."""
    prev = NO_PREVIOUS
    history = []
    for revision, row in enumerate(stored, 1):
        _, position, _, _, _, _, header, stored_hash, body = row
        if event_hash(header) != stored_hash:
            raise _Found(f"position {position}", "the header is not the one that was hashed")
        try:
            known = decode_header(header)
        except msgspec.DecodeError as error:
            raise _Found(f"position {position}", f"the header cannot be read: {error}") from None
        _check_header(ledger, contract_id, revision, prev, known, row)
        history.append(_check_body(ledger, known, body))
        prev = stored_hash.hex()
    return history


def _check_header(ledger: Ledger, contract_id: str, revision: int, prev: str, known: Header, row: tuple[Any, ...]) -> None:
    _, position, column_revision, event_id, event_type, recorded_at, _, _, _ = row
    if known.prev != prev or known.revision != revision or column_revision != revision:
        raise _Found(
            f"position {position}",
            f"contract {contract_id} has revision {known.revision} where {revision} with prev {prev[:16]}… belongs",
        )
    in_header = (known.ledger_id, known.contract_id, known.position, known.event_id, known.event_type, known.schema)
    in_columns = (ledger.ledger_id, contract_id, position, event_id, event_type, SCHEMA)
    if in_header != in_columns:
        name, header, column = next(pair for pair in zip(_COPIES, in_header, in_columns, strict=True) if pair[1] != pair[2])
        raise _Found(f"position {position}", f"{name} is {column} in its column and {header} in the header")
    try:
        first_day(known.effective_on or "")
        same_instant = datetime.fromisoformat(known.recorded_at) == recorded_at
    except ValueError as error:
        raise _Found(f"position {position}", f"the header holds a day or an instant that is none: {error}") from None
    if not same_instant:
        raise _Found(f"position {position}", f"recorded_at is {recorded_at} in its column and {known.recorded_at} in the header")


def _check_body(ledger: Ledger, known: Header, body: bytes | None) -> RecordedEvent:
    if body is None:
        raise _Found(f"position {known.position}", "the body is missing, and no erasure explains it")
    if body_digest(body) != known.body_digest:
        raise _Found(f"position {known.position}", "the body is not the one whose digest the header holds")
    try:
        data, source = decode_body(known.event_type, known.schema_version, body)
    except (msgspec.DecodeError, KeyError) as error:
        raise _Found(f"position {known.position}", f"the body cannot be read as {known.event_type}: {error}") from None
    return RecordedEvent(
        event_id=known.event_id,
        position=known.position,
        revision=known.revision,
        recorded_on=local_day(known.recorded_at, zone(ledger.time_zone)),
        effective_on=known.effective_on or "",
        data=data,
        source=source,
        hypothetical=bool(known.hypothetical),
    )


def _check_row(contract_id: str, row: ContractRow | None, history: Sequence[RecordedEvent], last: tuple[Any, ...]) -> None:
    """A projected row is the fold of the events at the row's own day."""
    if row is None:
        raise _Found(f"contract {contract_id}", "it has events, and no row")
    folded = _fold(contract_id, history, last, row.settled_on)
    for name in ContractRow.__struct_fields__:
        if getattr(folded, name) != getattr(row, name):
            raise _Found(f"contract {contract_id}", f"{name} in its row is not the fold of its {len(history)} events")


def _fold(contract_id: str, history: Sequence[RecordedEvent], last: tuple[Any, ...], day: date) -> ContractRow:
    """The fold is total over what was validated; a forged body is not."""
    try:
        return fold_row(contract_id, history, last[7].hex(), day)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _Found(f"contract {contract_id}", f"its events cannot be folded: {error!r}") from error


def fold_row(contract_id: str, history: Sequence[RecordedEvent], last_hash: str, day: date) -> ContractRow:
    """The row that all events of a contract make, settled on a day."""
    return contract_row(
        contract_id,
        project(history, day),
        revision=history[-1].revision,
        position=history[-1].position,
        last_hash=last_hash,
        last_on=max(first_day(event.effective_on) for event in history),
        day=day,
    )


def _delivery_ids(history: Sequence[RecordedEvent]) -> dict[str, int]:
    return {delivery_id: event.revision for event in history for delivery_id in event.data.delivery_ids()}


def _check_deliveries(contract_id: str, stored: dict[str, int], history: Sequence[RecordedEvent]) -> None:
    if stored != _delivery_ids(history):
        raise _Found(f"contract {contract_id}", "its delivery ids are not those of its events")


def _connect(url: str) -> Connection:
    """A connection for a long walk: no limit on a statement, instants in UTC."""
    connection = connect(url, autocommit=True)
    connection.execute("SET timezone = 'UTC'")
    connection.execute("SET statement_timeout = 0")
    # Compiling these short queries, or starting workers for them, takes longer than running them.
    connection.execute("SET jit = off")
    connection.execute("SET max_parallel_workers_per_gather = 0")
    return connection


def _open_book(connection: Connection, name: str) -> _Book:
    row = connection.execute(_LEDGER, [name]).fetchone()
    if row is None:
        raise OperatorError(f"There is no ledger {name}; `contract-ledger ledgers list` shows those there are.")
    ledger = Ledger(*row[:4])
    return _Book(ledger, row[4], row[5], row[6], row[7].astimezone(zone(ledger.time_zone)).date())


def _chunks(connection: Connection, book: _Book) -> Iterator[_Chunk]:
    """The whole ledger, in chunks of about CHUNK_EVENTS events; the first and the last reach to the ends of all ids."""
    after, upto, events = _FIRST_ID, _FIRST_ID, 0
    with connection.transaction(), connection.cursor("sizes") as cursor:
        cursor.itersize = 5_000
        for contract_id, revisions in cursor.execute(_SIZES, [book.ledger.ledger_id]):
            if events and events + revisions > CHUNK_EVENTS:
                yield _Chunk(after, upto, events)
                after, events = upto, 0
            upto, events = contract_id, events + revisions
    yield _Chunk(after, _LAST_ID, events)


def _check_order(connection: Connection, book: _Book) -> Difference | None:
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


def _check_ends(connection: Connection, book: _Book) -> Difference | None:
    """Nothing stands before the log's first position or beyond its head."""
    parameters = {"ledger_id": book.ledger.ledger_id}
    if connection.execute(_BEGINNING, parameters).fetchone() is None:
        return Difference("position 0", "the row that the log begins with is missing, or has another recorded_at")
    outside = connection.execute(_OUTSIDE, parameters).fetchone()
    if outside and outside[0] is not None:
        return Difference(f"position {outside[0]}", "there is an event, a body or a batch outside the log, which goes from 1 to its head")
    return None


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_LOCK = "SELECT 1 FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_ONE_REBUILD = "SELECT pg_try_advisory_lock(hashtextextended('contract-ledger rebuild ' || %s, 0))"
_MOVED = "SELECT DISTINCT contract_id::text FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position > %(position)s"
_HEAD = "SELECT max(last_position) FROM batches WHERE ledger_id = %(ledger_id)s::uuid"
_SWAP = "UPDATE ledgers SET generation = %(generation)s, layout = %(layout)s WHERE ledger_id = %(ledger_id)s::uuid"
_STALE = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE ledger_id = %(ledger_id)s::uuid AND generation <> %(generation)s LIMIT %(rows)s))
"""
_UPSERT_ROWS = insert_rows(contracts, upsert=True)
_INSERT_DELIVERIES = insert_rows(deliveries) + " ON CONFLICT DO NOTHING"


def rebuild(database_url: str, ledger: str, progress: Progress) -> Rebuilt:
    """Write the projection of a ledger anew beside the live one, compare the two, and put the new one in its place.

    Appends go on: what they change meanwhile is folded again, at the end under the ledger's lock. OperatorError when another rebuild runs.
    """
    began = time.monotonic()
    with _connect(database_url) as connection:
        book = _open_book(connection, ledger)
        if connection.execute(_ONE_REBUILD, [book.ledger.ledger_id]).fetchone() != (True,):
            raise OperatorError(f"Another rebuild of ledger {ledger} runs; wait for it to end.")
        _delete_stale(connection, book, book.generation)
        chunks = list(_chunks(connection, book))
        total = sum(chunk.events for chunk in chunks)
        events, found, changed, difference = 0, 0, 0, None
        for chunk in chunks:
            told, differ = _rebuild_chunk(connection, book, chunk)
            events, found, changed = events + told.events, found + told.contracts, changed + differ
            difference = difference or told.difference
            progress(events, total, "events")
        _swap(connection, book)
        _delete_stale(connection, book, book.generation + 1)
    return Rebuilt(ledger, found, events, time.monotonic() - began, changed, difference)


def _rebuild_chunk(connection: Connection, book: _Book, chunk: _Chunk) -> tuple[_Told, int]:
    """Fold a chunk, write its rows under the next generation, and count the live rows that are not the same."""
    events, rows, ids = _read_chunk(connection, book, chunk)
    folded: list[ContractRow] = []
    delivered: list[dict[str, Any]] = []
    count, changed, difference = 0, 0, None
    for contract_id, group in groupby(events, key=itemgetter(0)):
        stored = list(group)
        count += len(stored)
        history, row = _checked_fold(book, contract_id, stored)
        folded.append(row)
        delivered += (
            {"generation": book.generation + 1, "contract_id": contract_id, "delivery_id": name, "revision": revision}
            for name, revision in _delivery_ids(history).items()
        )
        row_was, ids_were = rows.pop(contract_id, None), ids.pop(contract_id, {})
        try:
            if book.layout == LAYOUT:
                _check_row(contract_id, row_was, history, stored[-1])
                _check_deliveries(contract_id, ids_were, history)
        except _Found as error:
            changed, difference = changed + 1, difference or error.difference
    for contract_id in {**rows, **ids} if book.layout == LAYOUT else ():
        changed, difference = changed + 1, difference or Difference(f"contract {contract_id}", "it has a row, and no event")
    with connection.transaction():
        connection.execute(_LOCK, {"ledger_id": book.ledger.ledger_id})
        _write_rows(connection, book, folded, delivered)
    return _Told(count, len(folded), 0, difference), changed


def _checked_fold(book: _Book, contract_id: str, stored: Sequence[tuple[Any, ...]]) -> tuple[list[RecordedEvent], ContractRow]:
    """The events of a contract and the row they make today. OperatorError when they are not what was recorded."""
    try:
        history = _check_chain(book.ledger, contract_id, stored)
        return history, _fold(contract_id, history, stored[-1], book.today)
    except _Found as error:
        raise OperatorError(f"The log itself is not intact, so nothing is rebuilt from it: {error.difference}") from None


def _write_rows(connection: Connection, book: _Book, rows: Sequence[ContractRow], delivered: Sequence[dict[str, Any]]) -> None:
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    connection.execute(_UPSERT_ROWS, ledger_id | {"contracts": contract_rows_json(rows, book.generation + 1)})
    if delivered:
        connection.execute(_INSERT_DELIVERIES, ledger_id | {"deliveries": rows_json(delivered)})


def _swap(connection: Connection, book: _Book) -> None:
    """Fold again what was appended meanwhile, first without the lock, at last with it, and make the new generation live."""
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    position = book.head
    while True:
        head = (connection.execute(_HEAD, ledger_id).fetchone() or (0,))[0]
        moved = [row[0] for row in connection.execute(_MOVED, ledger_id | {"position": position})]
        if len(moved) <= CATCH_UP_CONTRACTS:
            break
        for contract_id in moved:
            _refold(connection, book, contract_id)
        position = head
    with connection.transaction():
        connection.execute(_LOCK, ledger_id)
        for (contract_id,) in connection.execute(_MOVED, ledger_id | {"position": position}).fetchall():
            _refold(connection, book, contract_id)
        connection.execute(_SWAP, ledger_id | {"generation": book.generation + 1, "layout": LAYOUT})


def _refold(connection: Connection, book: _Book, contract_id: str) -> None:
    """Fold one contract under the ledger's lock, which is taken here where it is not held yet."""
    with connection.transaction():
        connection.execute(_LOCK, {"ledger_id": book.ledger.ledger_id})
        statement = _EVENTS.replace("e.contract_id > %(after)s::uuid AND e.contract_id <=", "e.contract_id =")
        parameters = {"ledger_id": book.ledger.ledger_id, "upto": contract_id}
        stored = connection.execute(statement, parameters, binary=True).fetchall()
        history, row = _checked_fold(book, contract_id, stored)
        delivered = [
            {"generation": book.generation + 1, "contract_id": contract_id, "delivery_id": name, "revision": revision}
            for name, revision in _delivery_ids(history).items()
        ]
        _write_rows(connection, book, [row], delivered)


def _delete_stale(connection: Connection, book: _Book, live: int) -> None:
    """Take away the rows of every generation but the live one, in short transactions."""
    for table in ("contracts", "deliveries"):
        parameters = {"ledger_id": book.ledger.ledger_id, "generation": live, "rows": DELETE_ROWS}
        while connection.execute(_STALE.format(table=table), parameters).rowcount:
            pass
