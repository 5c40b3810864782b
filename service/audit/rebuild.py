"""Rebuild: write the projection of a ledger anew from its log, beside the live one, and put it in its place."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

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
from service.audit.replay import Progress, Told, check_deliveries, check_references, check_row, fold_stored, held_of
from service.domain.corrections import delivery_ids
from service.domain.events import RecordedEvent
from service.errors import OperatorError
from service.log.references import HOLD, RELEASE, holdings_json
from service.projections.contracts import LAYOUT, ContractRow, projected
from service.tables import contracts, deliveries, insert_rows, rows_of

CATCH_UP_CONTRACTS = 200
DELETE_ROWS = 5_000
_LOCK = "SELECT 1 FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_ONE_REBUILD = "SELECT pg_try_advisory_lock(hashtextextended('contract-ledger rebuild ' || %s, 0))"
_MOVED = "SELECT DISTINCT contract_id::text FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position > %(position)s"
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


def rebuild(database_url: str, ledger: str, progress: Progress) -> Rebuilt:
    """Write the projection of a ledger anew beside the live one, compare the two, and put the new one in its place.

    Appends go on: what they change meanwhile is folded again, at the end under the ledger's lock. OperatorError when another rebuild runs.
    """
    began = time.monotonic()
    with open_connection(database_url) as connection:
        book = open_book(connection, ledger)
        if connection.execute(_ONE_REBUILD, [book.ledger.ledger_id]).fetchone() != (True,):
            raise OperatorError(f"Another rebuild of ledger {ledger} runs; wait for it to end.")
        _delete_stale(connection, book, book.generation)
        chunks = list(chunks_of(connection, book))
        total = sum(chunk.events for chunk in chunks)
        events, found, changed, difference = 0, 0, 0, None
        misheld: set[str] = set()
        for chunk in chunks:
            told, differ = _rebuild_chunk(connection, book, chunk, misheld)
            events, found, changed = events + told.events, found + told.contracts, changed + differ
            difference = difference or told.difference
            progress(events, total, "events")
        _swap(connection, book, misheld)
        _delete_stale(connection, book, book.generation + 1)
    return Rebuilt(ledger, found, events, time.monotonic() - began, changed, difference)


def _rebuild_chunk(connection: Connection, book: Book, chunk: Chunk, misheld: set[str]) -> tuple[Told, int]:
    """Fold a chunk, write its rows under the next generation, and count the live rows that are not the same.

    The contracts whose references are not those of their events are added to `misheld`: these rows have no generation.
    """
    events, bodies, rows, ids, schemes, held = read_chunk(connection, book, chunk)
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
    with connection.transaction():
        connection.execute(_LOCK, {"ledger_id": book.ledger.ledger_id})
        _write_rows(connection, book, folded, delivered)
    return Told(count, len(folded), 0, difference), changed


def _checked_fold(
    book: Book, contract_id: str, stored: Sequence[Row], bodies: Mapping[int, Row]
) -> tuple[list[RecordedEvent], ContractRow]:
    """The events of a contract and the row they make today. OperatorError when they are not what was recorded."""
    try:
        history = check_chain(book.ledger, contract_id, stored, bodies)
        return history, fold_stored(contract_id, history, stored[-1], book.today)
    except Found as error:
        raise OperatorError(f"The log itself is not intact, so nothing is rebuilt from it: {error.difference}") from None


def _write_rows(connection: Connection, book: Book, rows: Sequence[ContractRow], delivered: Sequence[dict[str, Any]]) -> None:
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    connection.execute(_UPSERT_ROWS, ledger_id | rows_of(contracts, projected(rows, book.generation + 1)))
    if delivered:
        connection.execute(_INSERT_DELIVERIES, ledger_id | rows_of(deliveries, delivered))


def _swap(connection: Connection, book: Book, misheld: Iterable[str]) -> None:
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
        _hold_anew(connection, book, sorted(misheld))
        connection.execute(_SWAP, ledger_id | {"generation": book.generation + 1, "layout": LAYOUT})


def _refold(connection: Connection, book: Book, contract_id: str) -> None:
    """Fold one contract under the ledger's lock, which is taken here where it is not held yet."""
    with connection.transaction():
        connection.execute(_LOCK, {"ledger_id": book.ledger.ledger_id})
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
        held[contract_id] = held_of(schemes, check_chain(book.ledger, contract_id, stored, bodies) if stored else ())
    ledger_id = {"ledger_id": book.ledger.ledger_id}
    connection.execute(RELEASE, ledger_id | {"contract_ids": list(contract_ids)})
    connection.execute(HOLD + " ON CONFLICT DO NOTHING", ledger_id | {"unique_references": holdings_json(held)})


def _delete_stale(connection: Connection, book: Book, live: int) -> None:
    """Take away the rows of every generation but the live one, in short transactions."""
    for table in ("contracts", "deliveries", "outlook_heads", "outlooks", "deadlines", "commitments", "parties"):
        parameters = {"ledger_id": book.ledger.ledger_id, "generation": live, "rows": DELETE_ROWS}
        while connection.execute(_STALE.format(table=table), parameters).rowcount:
            pass
