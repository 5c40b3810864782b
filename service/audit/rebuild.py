"""Rebuild: write the projection of a ledger anew from its log, beside the live one, and put it in its place."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from msgspec.structs import asdict

from service.audit.book import (
    Book,
    Chunk,
    Connection,
    Difference,
    Found,
    Row,
    chunks_of,
    open_book,
    open_connection,
    read_chunk,
    read_contract,
    read_schemes,
)
from service.audit.chain import check_chain
from service.audit.crew import Crew
from service.audit.replay import Course, Progress, Told, check_deliveries, check_references, check_row, fold_stored, held_of
from service.domain.corrections import delivery_ids
from service.domain.events import RecordedEvent
from service.errors import OperatorError
from service.inserts import insert_rows, rows_of
from service.log.references import HOLD, RELEASE, holdings_json
from service.projections.contracts import LAYOUT, ContractRow, projected
from service.tables import contracts, deliveries

CATCH_UP_CONTRACTS = 200
DELETE_ROWS = 5_000
WRITE_ROWS = 500
"""Rows that are written under the ledger's lock at a time."""
_LOCK = "SELECT 1 FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_ONE_REBUILD = "SELECT pg_try_advisory_lock(hashtextextended('contract-ledger rebuild ' || %s, 0))"
_MOVED = "SELECT DISTINCT contract_id::text FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position > %(position)s"
_GENERATION = "SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid"
# What an erasure took away meanwhile, or another rebuild between two parts of this one.
_MISSING = """
SELECT contract_id::text FROM events e WHERE ledger_id = %(ledger_id)s::uuid AND revision = 1 AND NOT EXISTS (
    SELECT FROM contracts c WHERE c.ledger_id = e.ledger_id AND c.generation = %(generation)s AND c.contract_id = e.contract_id)
"""
_HEAD = "SELECT max(last_position) FROM batches WHERE ledger_id = %(ledger_id)s::uuid"
_SWAP = "UPDATE ledgers SET generation = %(generation)s, layout = %(layout)s WHERE ledger_id = %(ledger_id)s::uuid"
_STALE = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE ledger_id = %(ledger_id)s::uuid AND generation <> %(generation)s LIMIT %(rows)s))
"""
_FORGET_DELIVERIES = """
DELETE FROM deliveries
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND contract_id = %(contract_id)s::uuid
"""
_UPSERT_ROWS = insert_rows(contracts, upsert=True)
_INSERT_DELIVERIES = insert_rows(deliveries) + " ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What rebuild wrote: `changed` rows differed from the live ones, which are gone now."""

    ledger: str
    contracts: int
    events: int
    seconds: float
    changed: int
    difference: Difference | None


class LogDamaged(OperatorError):
    """The log itself is not intact, so nothing is rebuilt from it."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(f"The log itself is not intact, so nothing is rebuilt from it: {difference}")
        self.difference = difference

    def __reduce__(self) -> Any:
        return LogDamaged, (self.difference,)


class RebuildRuns(OperatorError):
    """Another rebuild of the ledger runs."""


def rebuild(
    database_url: str, ledger: str, progress: Progress, processes: int = 0, course: Course | None = None, *, is_restored: bool = False
) -> Rebuilt:
    """Write the projection of a ledger anew beside the live one, compare the two, and put the new one in its place.

    Appends go on: what they change meanwhile is folded again, at the end under the ledger's lock. `course` is as of `verify`: given again,
    the rebuild goes on with the rows that it has written. RebuildRuns when another runs, LogDamaged when there is nothing to build on,
    StillRestored for a ledger that a restore has not ended, unless it is the restore that asks.
    """
    began = time.monotonic()
    course = course or Course()
    with open_connection(database_url) as connection:
        head = open_book(connection, ledger, is_restored=is_restored).head
    with Crew(database_url, head, processes) as crew, open_connection(database_url) as connection:
        book = open_book(connection, ledger, is_restored=is_restored)
        if connection.execute(_ONE_REBUILD, [book.ledger.ledger_id]).fetchone() != (True,):
            raise RebuildRuns(f"Another rebuild of ledger {ledger} runs; wait for it to end.")
        # Under the lock, since the one before may just have put its rows in place.
        book = _taken_up(connection, open_book(connection, ledger, is_restored=is_restored), course)
        if book.generation + 1 == course.generation:
            _build(connection, crew, book, course, progress)
        _delete_stale(connection, book, course.generation or 0)
    return Rebuilt(ledger, course.contracts, course.events, time.monotonic() - began, course.changed, course.difference)


def _taken_up(connection: Connection, book: Book, course: Course) -> Book:
    """The ledger as it was when the rebuild began; the course begins anew where it has none, or another has put rows in its place."""
    if course.generation == book.generation:
        return book  # its rows were put in place, and then it was interrupted
    if course.generation != book.generation + 1 or course.head is None:
        _begin_anew(course)
        course.head, course.generation = book.head, book.generation + 1
        _delete_stale(connection, book, book.generation)
    return replace(book, head=course.head)


def _begin_anew(course: Course) -> None:
    """Forget what a course had come to."""
    for name, value in asdict(Course()).items():
        setattr(course, name, value)


def _build(connection: Connection, crew: Crew, book: Book, course: Course, progress: Progress) -> None:
    """Write the rows of the next generation chunk by chunk, and put them in place."""
    chunks = list(chunks_of(connection, book, course.after))
    total = course.events + sum(chunk.events for chunk in chunks)
    for chunk, made in zip(chunks, crew.in_order(_rebuild_chunk, book, chunks), strict=True):
        course.add(chunk, made.told)
        course.changed += made.changed
        course.misheld = [*course.misheld, *made.misheld] if made.misheld else course.misheld
        progress(course.events, total, "events")
    _swap(connection, book, set(course.misheld))


class _Made(NamedTuple):
    """What a chunk came to: how many of its live rows are not what was made, and which contracts' references are to be written anew."""

    told: Told
    changed: int
    misheld: list[str]


def _rebuild_chunk(connection: Connection, book: Book, chunk: Chunk) -> _Made:
    """Fold a chunk, write its rows under the next generation, and compare the live ones.

    What contracts hold of unique references is written at the end, for those of which it differs: these rows have no generation.
    """
    events, bodies, rows, ids, schemes, held = read_chunk(connection, book, chunk)
    misheld: set[str] = set()
    folded: list[ContractRow] = []
    delivered: list[dict[str, Any]] = []
    count, changed, difference = 0, 0, None
    for contract_id, group in groupby(events, key=itemgetter(0)):
        stored = list(group)
        count += len(stored)
        history, row = _checked_fold(book, contract_id, stored, bodies)
        folded.append(row)
        delivered += (
            {"generation": book.generation + 1, "contract_id": contract_id, "delivery_id": name, "revision": revision}
            for name, revision in delivery_ids(history).items()
        )
        row_was, ids_were, held_was = rows.pop(contract_id, None), ids.pop(contract_id, {}), held.pop(contract_id, set())
        try:
            if held_was != held_of(schemes, history):
                misheld.add(contract_id)
            check_references(contract_id, held_was, schemes, history)
            if book.layout == LAYOUT:
                check_row(contract_id, row_was, history, stored[-1])
                check_deliveries(contract_id, ids_were, history)
        except Found as error:
            changed, difference = changed + 1, difference or error.difference
    misheld.update(held)
    for contract_id in {**rows, **ids, **held} if book.layout == LAYOUT else ():
        changed, difference = changed + 1, difference or Difference(f"contract {contract_id}", "it has a row, and no event")
    for start in range(0, len(folded), WRITE_ROWS):
        rows_now = folded[start : start + WRITE_ROWS]
        ids_now = {row.contract_id for row in rows_now}
        with connection.transaction():
            _lock(connection, book)
            _write_rows(connection, book, rows_now, [row for row in delivered if row["contract_id"] in ids_now])
    return _Made(Told(count, len(folded), 0, difference), changed, sorted(misheld))


def _checked_fold(
    book: Book, contract_id: str, stored: Sequence[Row], bodies: Mapping[int, Row]
) -> tuple[list[RecordedEvent], ContractRow]:
    """The events of a contract and the row they make today. LogDamaged when they are not what was recorded."""
    try:
        history = check_chain(book.ledger, stored, bodies)
        return history, fold_stored(contract_id, history, stored[-1], book.today)
    except Found as error:
        raise LogDamaged(error.difference) from None


def _lock(connection: Connection, book: Book) -> None:
    """Take the ledger's lock. RebuildRuns when the rows that are written have been put in place meanwhile: then they are not ours."""
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    connection.execute(_LOCK, ledger_id)
    if connection.execute(_GENERATION, ledger_id).fetchone() != (book.generation,):
        raise RebuildRuns(f"Another rebuild of ledger {book.ledger.name} has put its rows in place meanwhile.")


def _write_rows(connection: Connection, book: Book, rows: Sequence[ContractRow], delivered: Sequence[dict[str, Any]]) -> None:
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    connection.execute(_UPSERT_ROWS, ledger_id | rows_of(contracts, projected(rows, book.generation + 1)))
    if delivered:
        connection.execute(_INSERT_DELIVERIES, ledger_id | rows_of(deliveries, delivered))


def _swap(connection: Connection, book: Book, misheld: Iterable[str]) -> None:
    """Fold again what was appended meanwhile, first without the lock, at last with it, and make the new generation live."""
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    position = book.head
    for (contract_id,) in connection.execute(_MISSING, ledger_id | {"generation": book.generation + 1}).fetchall():
        _refold(connection, book, contract_id)
    while True:
        head = (connection.execute(_HEAD, ledger_id).fetchone() or (0,))[0]
        moved = [row[0] for row in connection.execute(_MOVED, ledger_id | {"position": position})]
        if len(moved) <= CATCH_UP_CONTRACTS:
            break
        for contract_id in moved:
            _refold(connection, book, contract_id)
        position = head
    with connection.transaction():
        _lock(connection, book)
        for (contract_id,) in connection.execute(_MOVED, ledger_id | {"position": position}).fetchall():
            _refold(connection, book, contract_id)
        _hold_anew(connection, book, sorted(misheld))
        connection.execute(_SWAP, ledger_id | {"generation": book.generation + 1, "layout": LAYOUT})


def _refold(connection: Connection, book: Book, contract_id: str) -> None:
    """Fold one contract under the ledger's lock, which is taken here where it is not held yet."""
    with connection.transaction():
        _lock(connection, book)
        next_generation = {"generation": book.generation + 1}
        stored, bodies = read_contract(connection, book, contract_id)
        history, row = _checked_fold(book, contract_id, stored, bodies)
        delivered = [
            {**next_generation, "contract_id": contract_id, "delivery_id": name, "revision": revision}
            for name, revision in delivery_ids(history).items()
        ]
        # What was erased since the chunk was read has left its ids there.
        connection.execute(_FORGET_DELIVERIES, {"ledger_id": book.ledger.ledger_id, "contract_id": contract_id} | next_generation)
        _write_rows(connection, book, [row], delivered)


def _hold_anew(connection: Connection, book: Book, contract_ids: Sequence[str]) -> None:
    """Write what contracts hold by their events, under the ledger's lock."""
    schemes, held = read_schemes(connection, book), {}
    for contract_id in contract_ids:
        stored, bodies = read_contract(connection, book, contract_id)
        held[contract_id] = held_of(schemes, check_chain(book.ledger, stored, bodies) if stored else ())
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    connection.execute(RELEASE, ledger_id | {"contract_ids": list(contract_ids)})
    connection.execute(HOLD + " ON CONFLICT DO NOTHING", ledger_id | {"unique_references": holdings_json(held)})


def _delete_stale(connection: Connection, book: Book, live: int) -> None:
    """Take away the rows of every generation but the live one, in short transactions."""
    for table in ("contracts", "deliveries", "outlook_heads", "outlooks", "deadlines", "commitments", "parties"):
        parameters = {"ledger_id": book.ledger.ledger_id, "generation": live, "rows": DELETE_ROWS}
        while connection.execute(_STALE.format(table=table), parameters).rowcount:
            pass
