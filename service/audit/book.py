"""The ledger that is replayed, in chunks of contracts, each read in one short snapshot with its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from service.database import connect
from service.domain.references import ReferenceId
from service.errors import OperatorError
from service.log.ledger import Ledger, zone
from service.projections.contracts import RESTORING, ContractRow, unknown_layout

CHUNK_EVENTS = 10_000

Row = tuple[Any, ...]
Connection = psycopg.Connection[tuple[Any, ...]]
_LEDGER = """
SELECT ledger_id::text, name, time_zone, if_match_required, generation, layout,
       (SELECT coalesce(max(last_position), 0) FROM batches b WHERE b.ledger_id = l.ledger_id), clock_timestamp()
FROM ledgers l WHERE name = %s
"""
_SIZES = """
SELECT contract_id::text, max(revision) FROM events
WHERE ledger_id = %s::uuid AND contract_id >= %s::uuid GROUP BY contract_id ORDER BY contract_id
"""
_EVENTS = """
SELECT contract_id::text, position, revision, event_id::text, event_type, recorded_at, header, event_hash
FROM events
WHERE ledger_id = %(ledger_id)s::uuid AND contract_id >= %(first)s::uuid AND contract_id <= %(upto)s::uuid
ORDER BY events.contract_id, revision
"""  # by the column, which the index gives in order, and not by its text
_EVENTS_OF_ONE = _EVENTS.replace("contract_id >= %(first)s::uuid AND contract_id <=", "contract_id =")
# By one walk over the index: to look up the body of each event beside it takes twice as long.
_BODIES = "SELECT position, body, sealed FROM payloads WHERE ledger_id = %(ledger_id)s::uuid AND position = ANY(%(positions)s::bigint[])"
# Of the generation that is live in this snapshot: a rebuild may have put another in its place since the walk began.
_ROWS = """
SELECT contract_id::text, revision, position, encode(last_hash, 'hex'), last_on, has_pending, settled_on,
       holds_until, filters, state, beside
FROM contracts
WHERE ledger_id = %(ledger_id)s::uuid AND generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
  AND contract_id >= %(first)s::uuid AND contract_id <= %(upto)s::uuid
"""
_DELIVERIES = """
SELECT contract_id::text, delivery_id, revision FROM deliveries
WHERE ledger_id = %(ledger_id)s::uuid AND generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
  AND contract_id >= %(first)s::uuid AND contract_id <= %(upto)s::uuid
"""
_SCHEMES = "SELECT unique_reference_schemes FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid"
_HELD = """
SELECT contract_id::text, scheme, id FROM unique_references
WHERE ledger_id = %(ledger_id)s::uuid AND contract_id >= %(first)s::uuid AND contract_id <= %(upto)s::uuid
"""
FIRST_ID = "00000000-0000-0000-0000-000000000000"
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Difference(NamedTuple):
    """Where what is stored is not what the log says, in a sentence."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


class Found(Exception):
    """A difference was found; the walk of the contract ends."""

    def __init__(self, where: str, sentence: str) -> None:
        super().__init__(sentence)
        self.difference = Difference(where, sentence)


class Chunk(NamedTuple):
    """The contracts after one id up to another."""

    after: str
    upto: str
    events: int


class StillRestored(OperatorError):
    """The ledger is not restored to its end: a part of it says nothing of the whole."""

    def __init__(self, ledger: str) -> None:
        super().__init__(f"Ledger {ledger}: {unknown_layout(RESTORING)}.")


@dataclass(frozen=True, slots=True)
class Book:
    """The ledger that is replayed: its live generation, its head and its day when the replay began."""

    ledger: Ledger
    generation: int
    layout: int
    head: int
    today: date


class Stored(NamedTuple):
    """What is stored of a chunk: events by contract and revision, their bodies by position, and by contract rows, delivery ids, and the
    references it holds of the ledger's unique schemes."""

    events: list[Row]
    bodies: dict[int, Row]
    rows: dict[str, ContractRow]
    delivery_ids: dict[str, dict[str, int]]
    schemes: frozenset[str]
    held: dict[str, set[ReferenceId]]


def open_connection(url: str) -> Connection:
    """A connection for a long walk: no limit on a statement or a transaction, instants in UTC."""
    connection = connect(url, autocommit=True)
    connection.execute("SET timezone = 'UTC'")
    connection.execute("SET statement_timeout = 0")
    if connection.info.server_version >= 170000:
        connection.execute("SET transaction_timeout = 0")
    # Compiling these short queries, or starting workers for them, takes longer than running them.
    connection.execute("SET jit = off")
    connection.execute("SET max_parallel_workers_per_gather = 0")
    return connection


def open_book(connection: Connection, name: str, *, is_restored: bool = False) -> Book:
    """A ledger as it is now. OperatorError when there is none; StillRestored for one that a restore has not ended, unless it is the
    restore that asks."""
    row = connection.execute(_LEDGER, [name]).fetchone()
    if row is None:
        raise OperatorError(f"There is no ledger {name}; `contract-ledger ledgers list` shows those there are.")
    if row[5] == RESTORING and not is_restored:
        raise StillRestored(name)
    ledger = Ledger(*row[:4])
    return Book(ledger, row[4], row[5], row[6], row[7].astimezone(zone(ledger.time_zone)).date())


def chunks_of(connection: Connection, book: Book, after: str = FIRST_ID, most: int | None = None) -> Iterator[Chunk]:
    """The ledger after a contract, in chunks of about CHUNK_EVENTS events, or `most`; the last reaches to the end of all ids."""
    upto, events = after, 0
    most = min(most or CHUNK_EVENTS, CHUNK_EVENTS)
    with connection.transaction(), connection.cursor("sizes") as cursor:
        cursor.itersize = 5_000
        for contract_id, revisions in cursor.execute(_SIZES, [book.ledger.ledger_id, _next_id(after)]):
            if events and events + revisions > most:
                yield Chunk(after, upto, events)
                after, events = upto, 0
            upto, events = contract_id, events + revisions
    yield Chunk(after, LAST_ID, events)


def read_chunk(connection: Connection, book: Book, chunk: Chunk) -> Stored:
    """The events, rows and delivery ids of a chunk, in one snapshot."""
    parameters = _bounds(book, chunk)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        events, bodies = _read_events(connection, _EVENTS, parameters)
        rows = {row[0]: ContractRow(*row) for row in connection.execute(_ROWS, parameters, binary=True)}
        ids: dict[str, dict[str, int]] = {}
        for contract_id, delivery_id, revision in connection.execute(_DELIVERIES, parameters):
            ids.setdefault(contract_id, {})[delivery_id] = revision
        schemes = read_schemes(connection, book)
        held: dict[str, set[ReferenceId]] = {}
        for contract_id, scheme, known in connection.execute(_HELD, parameters):
            held.setdefault(contract_id, set()).add((scheme, known))
    return Stored(events, bodies, rows, ids, schemes, held)


def read_events(connection: Connection, book: Book, chunk: Chunk) -> tuple[list[Row], dict[int, Row]]:
    """The events of a chunk, and by position their bodies, in one snapshot."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return _read_events(connection, _EVENTS, _bounds(book, chunk))


def _bounds(book: Book, chunk: Chunk) -> dict[str, Any]:
    return {"ledger_id": book.ledger.ledger_id, "first": _next_id(chunk.after), "upto": chunk.upto}


def _next_id(after: str) -> str:
    """The first id after one; after FIRST_ID, where a walk begins, that one itself: an auditor leaves out no contract."""
    return after if after in (FIRST_ID, LAST_ID) else str(UUID(int=UUID(after).int + 1))


def read_schemes(connection: Connection, book: Book) -> frozenset[str]:
    """The schemes of references that are unique in the ledger at this moment."""
    row = connection.execute(_SCHEMES, {"ledger_id": book.ledger.ledger_id}).fetchone()
    return frozenset(row[0] if row else ())


def read_contract(connection: Connection, book: Book, contract_id: str) -> tuple[list[Row], dict[int, Row]]:
    """The events of one contract, and by position their bodies: rows of position, body and what is sealed."""
    return _read_events(connection, _EVENTS_OF_ONE, {"ledger_id": book.ledger.ledger_id, "upto": contract_id})


def _read_events(connection: Connection, statement: str, parameters: dict[str, Any]) -> tuple[list[Row], dict[int, Row]]:
    events = connection.execute(statement, parameters, binary=True).fetchall()
    positions = sorted(event[1] for event in events)
    wanted = {"ledger_id": parameters["ledger_id"], "positions": "{" + ",".join(map(str, positions)) + "}"}
    return events, {row[0]: row for row in connection.execute(_BODIES, wanted, binary=True).fetchall()}
