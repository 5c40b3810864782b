"""The plans of the log's queries: with thousands of rows in place none reads a whole table, whether the plan is of one use or of all."""

import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import psycopg
import pytest

from service.access import FIND_KEY
from service.audit.span import Span, read_span
from service.database import Database as ServiceDatabase
from service.log import append, histories, imports, outlook, read, references, turn
from service.log.lists import Wanted
from tests.conftest import Database, NewDatabase

CONTRACTS: Final = 3_000
EVENTS_EACH: Final = 3
# What a query may meet on its way, of 9,000 events and 3,000 contracts that each ledger has.
MOST_ROWS: Final = 800
# The tables that grow; the others hold a row a ledger or a key, and reading them whole is right.
GROWING: Final = {
    *("events", "payloads", "contracts", "batches", "idempotency", "deliveries", "unique_references", "api_keys", "grants"),
    *("outlooks", "parties", "commitments"),
}
LEDGER, CONTRACT = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-9000-000000000007"

FILL = """
INSERT INTO ledgers (ledger_id, name, time_zone, layout)
    SELECT ('00000000-0000-7000-8000-' || lpad(l::text, 12, '0'))::uuid, 'ledger-' || l, 'UTC', 1 FROM generate_series(1, 3) l;
INSERT INTO ledger_locks SELECT ledger_id FROM ledgers;
CREATE TEMPORARY VIEW made AS
    SELECT ledger_id, ('00000000-0000-7000-9000-' || lpad(c::text, 12, '0'))::uuid AS contract_id, c,
           date '2026-01-01' + c % 300 AS day
    FROM ledgers, generate_series(1, {contracts}) c;
INSERT INTO events (ledger_id, position, contract_id, revision, event_id, event_type, recorded_at, header, event_hash)
    SELECT ledger_id, (r - 1) * {contracts} + c, contract_id, r, gen_random_uuid(),
           CASE WHEN c % 1000 = 7 THEN 'note.added' ELSE 'figure.stated' END,
           timestamptz '2026-01-01' + ((r - 1) * {contracts} + c) * interval '1 second', header, sha256('\\x00'::bytea || header)
    FROM made, generate_series(1, {events}) r, LATERAL (SELECT convert_to(repeat('h', 400) || c || '.' || r, 'UTF8') AS header) h;
INSERT INTO payloads SELECT ledger_id, position, convert_to(repeat('b', 300), 'UTF8') FROM events;
INSERT INTO batches SELECT ledger_id, position, recorded_at, '' FROM events WHERE position % 2 = 0;
INSERT INTO batches SELECT ledger_id, 0, '1970-01-01T00:00:00Z', '' FROM ledgers;
INSERT INTO tiles SELECT ledger_id, 0, n, decode(repeat('00', 8192), 'hex'), decode(repeat('00', 32), 'hex')
    FROM ledgers, generate_series(0, 8) n;
INSERT INTO contracts
    SELECT ledger_id, 1, contract_id, {events}, c, '\\x00', '2026-01-01', false, '2026-01-01',
           CASE WHEN c % 10 = 0 THEN day END,
           ARRAY['signed_on=' || day, 'ends_on=' || (day + 1000), 'status=in_force', 'role=buyer', 'party=party-' || c % 500,
                 'reference=DART:' || c], repeat('s', 800), repeat('b', 400)
    FROM made;
INSERT INTO deliveries SELECT ledger_id, 1, contract_id, 'delivery-' || c, 2 FROM made;
INSERT INTO outlooks SELECT ledger_id, 1, contract_id, '' FROM made;
INSERT INTO parties SELECT ledger_id, 1, 'party-' || c, '', '', '{{}}', 1 FROM made;
INSERT INTO commitments SELECT ledger_id, 1, true, false, 'party-' || c, '', '', '', '', '', '', 0, 0, 0, 0, 0, 1 FROM made;
INSERT INTO unique_references SELECT ledger_id, 'DART', c::text, contract_id FROM made;
INSERT INTO principals (principal_id, name) SELECT contract_id, 'someone' FROM made WHERE ledger_id = '{ledger}';
INSERT INTO grants SELECT principal_id, '{ledger}', ARRAY['contracts:read'] FROM principals;
INSERT INTO api_keys (key_id, principal_id, key_hash) SELECT principal_id, principal_id, sha256(uuid_send(principal_id)) FROM principals;
INSERT INTO idempotency SELECT ledger_id, substr(sha256(convert_to(c::text, 'UTF8')), 1, 16), '\\x00', '\\x00', '{{}}' FROM made;
INSERT INTO imports SELECT ledger_id, '{ledger}', ledger_id, '\\x00', 'open' FROM ledgers;
INSERT INTO import_lines (ledger_id, import_id, line, position, contract_id)
    SELECT ledger_id, '{ledger}', position, nullif(position, position / 1000 * 1000), contract_id FROM events;
"""

VALUES: Final[dict[str, Any]] = {
    "ledger_id": LEDGER,
    "name": "ledger-1",
    "generation": 1,
    "contract_id": CONTRACT,
    "contract_ids": [CONTRACT],
    "positions": [1_000, 2_000],
    "event_id": CONTRACT,
    "event_ids": [CONTRACT],
    "event_type": None,
    "event_types": ["figure.stated"],
    "upto": 8_500,
    "revision": 2,
    "position": 8_000,
    "after": 8_000,
    "limit": 51,
    "chunk": 100,
    "passed_by": [],
    "known_at": "2026-01-01T00:10:00Z",
    "today": "2026-01-12",
    "import_id": LEDGER,
    "first": 501,
    "last": 1_000,
    "from_line": 2_000,
    "keys": ["\\x00000000000000000000000000000000"],
    "key_hash": b"x" * 32,
    "types": ["contract.reported"],
    "wanted": json.dumps([{"scheme": "DART", "id": "7"}]),
    "filled_to": CONTRACT,
    "parties": json.dumps([{"generation": 1, "party_id": "party-7", "digest": ""}]),
    "commitments": json.dumps(
        [
            {"generation": 1, "by_party": True, "by_product": False, "party": "party-7"}
            | dict.fromkeys(("product", "currency", "unit", "year", "basis", "status"), "")
        ]
    ),
    "delivery_ids": json.dumps([{"c": CONTRACT, "d": "delivery-7"}]),
}
"""A value for each parameter by its name; a query with another parameter wants one here."""


def queries_of(module: ModuleType) -> dict[str, str]:
    """The whole queries among a module's constants; one that ends in AND is the beginning of others."""
    reads = re.compile(r"\s*(SELECT|WITH)\b(?!.*\bINSERT\b)(?!.*\bAND\s*$)", re.DOTALL)
    constants = {name: value for name, value in vars(module).items() if isinstance(value, str) and name.isupper()}
    return {f"{module.__name__.rpartition('.')[2]}.{name}": value for name, value in constants.items() if reads.match(value)}


MODULES: Final = (append, read, histories, turn, imports, references, outlook)
QUERIES: Final = {name: query for module in MODULES for name, query in queries_of(module).items()} | {"access.FIND_KEY": FIND_KEY}
CHANGES: Final = {name: getattr(outlook, name) for name in ("_DROP_EMPTY_COMMITMENTS", "_DROP_EMPTY_PARTIES")}
del QUERIES["append.ERASE"]  # it reads nothing: a call that is refused without an erasure, and goes through all receipts (docs/erasure.md)
OTHERWISE: Final[dict[str, dict[str, Any]]] = {
    "turn._SETTLED": {"after": CONTRACT},
    "references._CONTRACTS": {"after": CONTRACT},
    "references._MOVED": {"position": 8_900},
}
"""Values that differ for one query."""
MORE: Final[list[tuple[str, dict[str, Any]]]] = [
    ("append.LOOKUPS", {"keys": [f"\\x{i:032x}" for i in range(256)]}),
    ("append.HISTORIES", {"contract_ids": [f"{CONTRACT[:-4]}{i:04}" for i in range(256)]}),
    ("read._CURRENT", {"contract_ids": [f"{CONTRACT[:-4]}{i:04}" for i in range(256)]}),
    ("read._EVENTS_AFTER", {"after": 0, "limit": 501}),
    ("read._EVENTS_AFTER", {"after": 4_000}),
    ("read._WANTED_EVENTS", {"event_types": None}),
    ("read._WANTED_OF_CONTRACTS", {"after": 0}),
    ("read.POSITION_AT", {"known_at": "0001-01-01T00:00:00Z"}),
    ("read.POSITION_AT", {"known_at": "2026-01-01T00:10:01Z"}),
    ("read.POSITION_AT", {"known_at": "2999-01-01T00:00:00Z"}),
]
PLANNED_ANEW: Final = {"read._WANTED_OF_CONTRACTS"}
OFTEN: Final = [(name, parameters) for name, parameters in MORE if name not in PLANNED_ANEW]


@pytest.fixture(scope="module")
def filled(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute(FILL.format(contracts=CONTRACTS, events=EVENTS_EACH, ledger=LEDGER))
        connection.execute("ANALYZE")
        yield connection


@pytest.fixture(scope="module")
def grown(new_database: NewDatabase) -> Iterator[psycopg.Connection[Any]]:
    """A connection that prepared every query when the database was empty, and no statistics since: as in the first minutes of a service."""
    with new_database() as database, psycopg.connect(database.superuser_url, autocommit=True) as connection:
        for table in GROWING:
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, query in (QUERIES | CHANGES).items():
            connection.execute(f'PREPARE "{name}" AS {numbered(query)}')
            run_prepared(connection, name, OTHERWISE.get(name, {}))
        connection.execute(FILL.format(contracts=CONTRACTS, events=EVENTS_EACH, ledger=LEDGER))
        yield connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for nested in plan.get("Plans", ()):
        yield from nodes(nested)


def explained(connection: psycopg.Connection[Any], statement: str) -> list[dict[str, Any]]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def plan_of_one_use(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan for these parameters, run, so that the rows it really met are known."""
    written = psycopg.ClientCursor(connection).mogrify(query, VALUES | parameters)
    return explained(connection, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {written}")


def plan_of_all_uses(connection: psycopg.Connection[Any], query: str) -> list[dict[str, Any]]:
    """The nodes of the plan that Postgres makes for a prepared statement, whatever its parameters."""
    return explained(connection, f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(query)}")


def names_in(query: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"%\((\w+)\)s", query)))


def numbered(query: str) -> str:
    """The query with its parameters as `PREPARE` wants them."""
    names = names_in(query)
    return re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", query)


def run_prepared(connection: psycopg.Connection[Any], name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan that the prepared statement of a query has, run with some values."""
    names = names_in((QUERIES | CHANGES)[name])
    values = ", ".join(f"%({name})s" for name in names)
    written = psycopg.ClientCursor(connection).mogrify(
        f'EXECUTE "{name}" ({values})' if names else f'EXECUTE "{name}"', VALUES | parameters
    )
    return explained(connection, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {written}")


def rows_met(plan: list[dict[str, Any]]) -> dict[str, float]:
    """The rows that each step of a plan met, kept or dropped, by what it is."""
    return {
        f"{node['Node Type']} {node.get('Relation Name', '')}": node["Actual Loops"]
        * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0))
        for node in plan
    }


def check_plan_of_one_use(connection: psycopg.Connection[Any], query: str, parameters: dict[str, Any]) -> None:
    plan = plan_of_one_use(connection, query, parameters)
    assert read_whole(plan) == set()
    assert {step: rows for step, rows in rows_met(plan).items() if rows > MOST_ROWS} == {}


def read_whole(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"} & GROWING


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_log_reads_no_more_than_it_needs(filled: psycopg.Connection[Any], name: str) -> None:
    check_plan_of_one_use(filled, QUERIES[name], OTHERWISE.get(name, {}))
    assert read_whole(plan_of_all_uses(filled, QUERIES[name])) == set()


@pytest.mark.parametrize(("name", "parameters"), MORE, ids=[f"{name} {index}" for index, (name, _) in enumerate(MORE)])
def test_many_at_once_or_few_among_many_are_found_by_an_index(
    filled: psycopg.Connection[Any], name: str, parameters: dict[str, Any]
) -> None:
    check_plan_of_one_use(filled, QUERIES[name], parameters)


@pytest.mark.parametrize(("name", "parameters"), [*((name, OTHERWISE.get(name, {})) for name in QUERIES | CHANGES), *OFTEN])
def test_a_plan_made_while_nothing_was_there_is_good_for_what_comes(
    grown: psycopg.Connection[Any], name: str, parameters: dict[str, Any]
) -> None:
    plan = run_prepared(grown, name, parameters)
    assert {step: rows for step, rows in rows_met(plan).items() if rows > MOST_ROWS} == {}


async def test_a_list_is_planned_for_its_own_filters(filled: psycopg.Connection[Any], database: Database) -> None:
    service = ServiceDatabase(database.service_url, 2)
    await service.open()
    try:
        reader = read.Reader(service)
        ledger, _ = await reader.ledger("ledger-1")
        for _ in range(10):
            assert len(await reader.contracts(ledger, Wanted(terms=["status=in_force"]), None, 501)) == 501
            assert len(await reader.contracts(ledger, Wanted(terms=["reference=DART:1234"]), None, 51)) == 1
        prepared = await service.rows("SELECT count(*) FROM pg_prepared_statements WHERE position('filters @>' in statement) > 0")
    finally:
        await service.close()
    assert prepared == [(0,)]


def test_a_query_without_an_index_would_be_found(filled: psycopg.Connection[Any]) -> None:
    query = "SELECT FROM events WHERE ledger_id = %(ledger_id)s::uuid AND header = ''"
    assert read_whole(plan_of_one_use(filled, "SELECT FROM events WHERE header = 'x'", {})) == {"events"}
    assert read_whole(plan_of_all_uses(filled, query.replace("ledger_id = %(ledger_id)s::uuid AND ", ""))) == {"events"}


def index_entries_read(connection: psycopg.Connection[Any]) -> int:
    """How many entries of the indexes of events and bodies were read by now."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    summed = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname IN ('events', 'payloads')"
    row = connection.execute(summed).fetchone()
    assert row is not None
    return int(row[0])


def test_a_span_of_the_walk_meets_each_row_a_few_times_where_statistics_know_of_none(new_database: NewDatabase) -> None:
    with new_database() as database, psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE events SET (autovacuum_enabled = false)")
        connection.execute("ALTER TABLE payloads SET (autovacuum_enabled = false)")
        connection.execute(FILL.format(contracts=600, events=EVENTS_EACH, ledger=LEDGER))
        upto = 600 * EVENTS_EACH
        before = index_entries_read(connection)
        assert sum(1 for _ in read_span(connection, LEDGER, Span(0, upto))) == upto
        assert index_entries_read(connection) - before <= 6 * upto
