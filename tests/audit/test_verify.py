"""Verify finds whatever was changed in the database behind the service's back, and nothing where nothing was."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from service.audit import book, walk
from service.audit.replay import verify
from service.errors import OperatorError
from service.log.header import body_digest, canonical, event_hash
from tests.audit.conftest import Filled
from tests.servers import make_ledger, rows

TABLES = ("batches", "events", "payloads", "tiles", "checkpoints", "contracts", "deliveries")


@pytest.fixture(scope="module")
def superuser(filled: Filled) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """One whom no trigger and no check holds, in a database whose tables are put aside to be restored."""
    with psycopg.connect(filled.database.superuser_url, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            connection.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
        connection.execute("ALTER TABLE events DROP CONSTRAINT events_hash_check")
        yield connection


@contextmanager
def damaged(superuser: psycopg.Connection[tuple[Any, ...]], statement: str | sql.Composed, *parameters: Any) -> Iterator[int]:
    """The database after a statement, which changed so many rows; all is well again at the end."""
    try:
        yield superuser.execute(statement.encode() if isinstance(statement, str) else statement, parameters).rowcount
    finally:
        with superuser.transaction():
            for table in TABLES:
                superuser.execute(f"TRUNCATE {table}")
                superuser.execute(f"INSERT INTO {table} TABLE kept_{table}")


def found(filled: Filled) -> str:
    """Where verify says that something differs; empty if nothing does."""
    difference = filled.verdict().difference
    return str(difference) if difference else ""


def test_an_untouched_ledger_is_verified_whole(filled: Filled) -> None:
    verdict = filled.verdict()
    assert verdict.difference is None
    query = """
        SELECT count(*), count(DISTINCT contract_id) FROM events JOIN ledgers USING (ledger_id) WHERE name = %s
    """
    assert rows(filled.database.service_url, query, filled.ledger) == [(verdict.events, verdict.contracts)]
    assert verdict.events > 100


def test_a_contract_whose_id_is_nil_is_looked_at_like_any_other(filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]]) -> None:
    nil = "00000000-0000-0000-0000-000000000000"
    row = f"""SELECT (jsonb_populate_record(c, '{{"contract_id": "{nil}"}}')).* FROM contracts c ORDER BY c.contract_id LIMIT 1"""
    with damaged(superuser, f"INSERT INTO contracts {row}"):
        assert found(filled) == f"contract {nil}: it has a row, and no event"


OTHER_ID = "gen_random_uuid()"
MIDDLE = "(SELECT max(position) / 2 FROM events)"
FLIPS: Mapping[tuple[str, str], str] = {
    ("batches", "ledger_id"): OTHER_ID,
    ("batches", "last_position"): "last_position + 1000",
    ("batches", "recorded_at"): "recorded_at + interval '1 microsecond'",
    ("batches", "frontier"): "CASE frontier WHEN '' THEN sha256('') ELSE set_byte(frontier, 0, get_byte(frontier, 0) # 1) END",
    ("checkpoints", "ledger_id"): OTHER_ID,
    ("checkpoints", "epoch"): "epoch + 1",
    ("checkpoints", "size"): "size + 1000",
    ("checkpoints", "root"): "set_byte(root, 0, get_byte(root, 0) # 1)",
    ("checkpoints", "note"): "replace(note, 'time zone UTC', 'time zone GMT')",
    ("tiles", "ledger_id"): OTHER_ID,
    ("tiles", "level"): "level + 3",
    ("tiles", "number"): "number + 1000",
    ("tiles", "hashes"): "set_byte(hashes, 8191, get_byte(hashes, 8191) # 1)",
    ("tiles", "root"): "set_byte(root, 0, get_byte(root, 0) # 1)",
    ("events", "ledger_id"): OTHER_ID,
    ("events", "position"): "position + 1000",
    ("events", "contract_id"): OTHER_ID,
    ("events", "revision"): "revision + 1000",
    ("events", "event_id"): OTHER_ID,
    ("events", "event_type"): "event_type || 'x'",
    ("events", "recorded_at"): "recorded_at + interval '1 microsecond'",
    ("events", "header"): "set_byte(header, 20, get_byte(header, 20) # 1)",
    ("events", "event_hash"): "set_byte(event_hash, 31, get_byte(event_hash, 31) # 1)",
    ("payloads", "ledger_id"): OTHER_ID,
    ("payloads", "position"): "position + 1000",
    ("payloads", "body"): "set_byte(body, 20, get_byte(body, 20) # 1)",
    ("payloads", "sealed"): "coalesce(sealed, '') || '[]'::bytea",
    ("contracts", "ledger_id"): OTHER_ID,
    ("contracts", "generation"): "generation + 1",
    ("contracts", "contract_id"): OTHER_ID,
    ("contracts", "revision"): "revision + 1",
    ("contracts", "position"): "position - 1",
    ("contracts", "last_hash"): "set_byte(last_hash, 0, get_byte(last_hash, 0) # 1)",
    ("contracts", "last_on"): "last_on + 1",
    ("contracts", "has_pending"): "NOT has_pending",
    ("contracts", "settled_on"): "'1999-01-01'",
    ("contracts", "holds_until"): "'2999-01-01'",
    ("contracts", "filters"): "filters || 'currency=USD'::text",
    ("contracts", "state"): """replace(state, '"status":"', '"status":"x')""",
    ("contracts", "beside"): """replace(beside, '"anomalies":[', '"anomalies": [')""",
    ("deliveries", "ledger_id"): OTHER_ID,
    ("deliveries", "generation"): "generation + 1",
    ("deliveries", "contract_id"): OTHER_ID,
    ("deliveries", "delivery_id"): "delivery_id || 'x'",
    ("deliveries", "revision"): "revision + 1",
}


def test_the_table_of_flips_names_every_column(filled: Filled) -> None:
    query = """
        SELECT table_name::text, column_name::text FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = ANY(%s)
    """
    assert set(rows(filled.database.service_url, query, list(TABLES))) == set(FLIPS)


# A commit more or less says nothing: a batch row that is gone leaves a log that could have been written so.
CASES = [(table, column, which) for table, column in FLIPS for which in ("first", "middle", "last")]
CASES.remove(("batches", "ledger_id", "middle"))
# So does a checkpoint more or less.
CASES = [case for case in CASES if case[:2] != ("checkpoints", "ledger_id")]


@pytest.mark.parametrize(("table", "column", "which"), CASES)
def test_a_flip_in_any_column_is_found(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], table: str, column: str, which: str
) -> None:
    order = {
        "batches": "last_position",
        "tiles": "level, number",
        "checkpoints": "epoch, size",
        "contracts": "contract_id",
        "deliveries": "contract_id, delivery_id",
    }.get(table, "position")
    place = {"first": "0", "middle": "n / 2", "last": "n - 1"}[which]
    statement = f"""
        UPDATE {table} SET {column} = {FLIPS[table, column]} WHERE ctid = (
            SELECT ctid FROM (SELECT ctid, row_number() OVER (ORDER BY {order}) - 1 AS at, count(*) OVER () AS n FROM {table}) r
            WHERE at = {place})
    """
    with damaged(superuser, statement) as changed:
        assert changed == 1
        assert found(filled)
    assert not found(filled)


@pytest.mark.parametrize("table", ["events", "payloads"])
def test_a_flip_of_any_byte_of_a_header_or_a_body_is_found(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], table: str
) -> None:
    column = {"events": "header", "payloads": "body"}[table]
    length = superuser.execute(f"SELECT octet_length({column}) FROM {table} WHERE position = {MIDDLE}").fetchone()
    assert length
    for at in range(0, length[0], 13):
        flip = f"UPDATE {table} SET {column} = set_byte({column}, {at}, get_byte({column}, {at}) # 4) WHERE position = {MIDDLE}"
        with damaged(superuser, flip) as changed:
            assert changed == 1
            assert found(filled), f"byte {at}"


# By way of a place that is free, since a position is unique at any moment.
SWAP = """
    DO $$ DECLARE middle bigint := (SELECT max(position) / 2 FROM events); BEGIN
        UPDATE {table} SET position = -1 WHERE position = middle;
        UPDATE {table} SET position = middle WHERE position = middle + 1;
        UPDATE {table} SET position = middle + 1 WHERE position = -1;
    END $$
"""
DAMAGES: Mapping[str, tuple[str, ...]] = {
    "an event dropped from the middle": (f"DELETE FROM events WHERE position = {MIDDLE}",),
    "an event dropped with its body": (
        f"DELETE FROM payloads WHERE position = {MIDDLE}",
        f"DELETE FROM events WHERE position = {MIDDLE}",
    ),
    "a body dropped": (f"DELETE FROM payloads WHERE position = {MIDDLE}",),
    "the last event cut": ("DELETE FROM events WHERE position = (SELECT max(position) FROM events)",),
    "the tail of events and bodies cut": (
        f"DELETE FROM payloads WHERE position > {MIDDLE}",
        f"DELETE FROM events WHERE position > {MIDDLE}",
    ),
    "the tail cut, batches too": (
        f"DELETE FROM batches WHERE last_position > {MIDDLE}",
        f"DELETE FROM payloads WHERE position > {MIDDLE}",
        f"DELETE FROM events WHERE position > {MIDDLE}",
    ),
    "the last batch cut": ("DELETE FROM batches WHERE last_position = (SELECT max(last_position) FROM batches)",),
    "all events of a contract dropped": (
        f"DELETE FROM events WHERE contract_id = (SELECT contract_id FROM events WHERE position = {MIDDLE})",
    ),
    "an event written twice": (
        """INSERT INTO events SELECT ledger_id, position + 1, contract_id, revision + 1, gen_random_uuid(), event_type, recorded_at,
           header, event_hash FROM events ORDER BY position DESC LIMIT 1""",
    ),
    "an event written twice, with batch and body": (
        "INSERT INTO batches SELECT ledger_id, last_position + 1, recorded_at FROM batches ORDER BY last_position DESC LIMIT 1",
        "INSERT INTO payloads SELECT ledger_id, position + 1, body FROM payloads ORDER BY position DESC LIMIT 1",
        """INSERT INTO events SELECT ledger_id, position + 1, contract_id, revision + 1, gen_random_uuid(), event_type, recorded_at,
           header, event_hash FROM events ORDER BY position DESC LIMIT 1""",
    ),
    "a body without an event": ("INSERT INTO payloads SELECT ledger_id, position - 10000, body FROM payloads WHERE position = 1",),
    "a body without an event beyond the head": (
        "INSERT INTO payloads SELECT ledger_id, position + 10000, body FROM payloads WHERE position = 1",
    ),
    "an event at position 0": (
        """INSERT INTO events SELECT ledger_id, 0, contract_id, revision + 1000, gen_random_uuid(), event_type, recorded_at,
           header, event_hash FROM events WHERE position = 1""",
    ),
    "two bodies swapped": (SWAP.format(table="payloads"),),
    "two events swapped": (SWAP.format(table="events"),),
    "every batch dropped": ("DELETE FROM batches",),
    "an earlier batch": ("INSERT INTO batches SELECT ledger_id, -5, recorded_at FROM batches WHERE last_position = 0",),
    "a batch that ends within a request": (
        """UPDATE batches b SET last_position = e.position - 1 FROM events e, events f
           WHERE e.position = b.last_position AND f.position = e.position - 1 AND f.recorded_at = e.recorded_at
             AND b.last_position < (SELECT max(last_position) FROM batches)""",
    ),
    "a row of a contract dropped": ("DELETE FROM contracts WHERE contract_id = (SELECT min(contract_id::text)::uuid FROM contracts)",),
    "a row of a contract that never was": (
        """INSERT INTO contracts SELECT ledger_id, generation, gen_random_uuid(), revision, position, last_hash, last_on, has_pending,
           settled_on, holds_until, filters, state, beside FROM contracts LIMIT 1""",
    ),
    "rows of two contracts swapped": (
        """UPDATE contracts c SET state = o.state, beside = o.beside, filters = o.filters FROM contracts o
           WHERE c.contract_id = (SELECT min(contract_id::text)::uuid FROM contracts)
             AND o.contract_id = (SELECT max(contract_id::text)::uuid FROM contracts)""",
    ),
    "a delivery id dropped": ("DELETE FROM deliveries WHERE ctid = (SELECT ctid FROM deliveries LIMIT 1)",),
    "a delivery id that never was": (
        "INSERT INTO deliveries SELECT ledger_id, generation, contract_id, 'never', revision FROM deliveries LIMIT 1",
    ),
    "a delivery id of a contract that never was": (
        "INSERT INTO deliveries SELECT ledger_id, generation, gen_random_uuid(), 'never', 1 FROM deliveries LIMIT 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_dropped_cut_inserted_or_swapped_is_found(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], damage: str
) -> None:
    with damaged(superuser, "SELECT 1"):
        changed = [superuser.execute(statement.encode()).rowcount for statement in DAMAGES[damage]]
        # A DO block does not say how many.
        assert changed[-1] != 0
        assert found(filled)


FORGED: Mapping[str, Mapping[str, Any]] = {
    "another day": {"effective_on": "2019-01-01"},
    "no such day": {"effective_on": "2023-02-31"},
    "no day": {"effective_on": None},
    "another type": {"event_type": "note.withdrawn"},
    "no such instant": {"recorded_at": "yesterday"},
    "another writer": {"recorded_by": "00000000-0000-7000-8000-00000000beef"},
    "an unknown version": {"schema_version": 99},
    "an unknown layout": {"schema": "contract-ledger/header/v2"},
    "an unknown member": {"amount": "1"},
    "a hypothesis": {"hypothetical": True},
    "a revision that is text": {"revision": "2"},
    "a forged digest": {"body_digest": "0" * 64},
}


@pytest.mark.parametrize("forgery", FORGED)
@pytest.mark.parametrize("last_of_its_contract", [False, True])
def test_a_header_rewritten_with_its_hash_is_found(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], forgery: str, last_of_its_contract: bool
) -> None:
    """The database's own check of the hash is content then; the chain, the copies or the row is not."""
    last = "=" if last_of_its_contract else "<"
    query = f"""
        SELECT e.position, header FROM events e JOIN contracts c USING (ledger_id, contract_id)
        WHERE e.revision {last} c.revision AND event_type = 'figure.stated' ORDER BY e.position LIMIT 1
    """
    row = superuser.execute(query.encode()).fetchone()
    assert row
    members = {**json.loads(row[1]), **FORGED[forgery]}
    header = canonical({name: member for name, member in members.items() if member is not None})
    statement = "UPDATE events SET header = %s, event_hash = %s WHERE position = %s"
    with damaged(superuser, statement, header, event_hash(header), row[0]):
        assert found(filled)


@pytest.mark.parametrize("prev", ["", "0" * 62, "0" * 66, "00 " * 32, "zero" * 16])
def test_a_first_event_that_names_its_beginning_otherwise_is_found(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], prev: str
) -> None:
    row = superuser.execute("SELECT position, header FROM events WHERE revision = 1 ORDER BY position LIMIT 1").fetchone()
    assert row
    header = canonical({**json.loads(row[1]), "prev": prev})
    statement = "UPDATE events SET header = %s, event_hash = %s WHERE position = %s"
    with damaged(superuser, statement, header, event_hash(header), row[0]):
        assert "no event is followed so" in found(filled)


BODIES: Mapping[str, Any] = {
    "no JSON": b"{",
    "no object": b"[]",
    "no data": b'{"salt":"00","source":{"kind":"news"}}',
    "another amount": {"amount": "1"},
    "an amount that is no number": {"amount": "a trillion"},
    "an unknown currency": {"currency": "XXX"},
    "a currency of another kind": {"currency": 7},
    "a basis nobody knows": {"basis": "hearsay"},
}


@pytest.mark.parametrize("forgery", BODIES)
def test_a_body_rewritten_with_its_digest_and_the_headers_hash_is_found(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], forgery: str
) -> None:
    query = """
        SELECT position, header, body FROM events JOIN payloads USING (ledger_id, position)
        WHERE event_type = 'figure.stated' ORDER BY position DESC LIMIT 1
    """
    row = superuser.execute(query).fetchone()
    assert row
    position, header, body = row[0], json.loads(row[1]), BODIES[forgery]
    if isinstance(body, dict):
        stood = json.loads(row[2])
        body = canonical({**stood, "data": {"figure": {**stood["data"]["figure"], **body}}})
    forged = canonical({**header, "body_digest": body_digest(body)})
    with damaged(superuser, "UPDATE payloads SET body = %s WHERE position = %s", body, position):
        superuser.execute("UPDATE events SET header = %s, event_hash = %s WHERE position = %s", [forged, event_hash(forged), position])
        superuser.execute("UPDATE contracts SET last_hash = %s WHERE last_hash = %s", [event_hash(forged), event_hash(row[1])])
        assert found(filled)


@pytest.mark.parametrize("position", [-3, 0, 10_000])
def test_a_contract_made_up_outside_the_log_is_found(filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], position: int) -> None:
    """Its events chain and hash, and its row is their fold."""
    row = superuser.execute("SELECT header, body FROM events JOIN payloads USING (ledger_id, position) WHERE position = 1").fetchone()
    assert row
    made_up = {"contract_id": "00000000-0000-7000-8000-00000000beef", "event_id": "00000000-0000-7000-8000-00000000feed"}
    header = canonical({**json.loads(row[0]), **made_up, "position": position})
    parameters = {**made_up, "position": position, "header": header, "hash": event_hash(header)}
    with damaged(superuser, "SELECT 1"):
        for statement in (
            """INSERT INTO events SELECT ledger_id, %(position)s, %(contract_id)s, 1, %(event_id)s, event_type, recorded_at,
               %(header)s, %(hash)s FROM events WHERE position = 1""",
            "INSERT INTO payloads SELECT ledger_id, %(position)s, body FROM payloads WHERE position = 1",
        ):
            superuser.execute(statement, parameters)
        assert "outside the log" in found(filled)


def test_the_difference_names_the_place(filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]]) -> None:
    middle = superuser.execute(f"SELECT {MIDDLE}".encode()).fetchone()
    assert middle
    with damaged(superuser, f"UPDATE payloads SET body = body || ' ' WHERE position = {MIDDLE}"):
        assert found(filled).startswith(f"position {middle[0]}: the body")


@pytest.mark.parametrize("which", [MIDDLE, "(SELECT max(position) FROM events)"])
def test_a_body_whose_event_is_gone_is_named_in_its_place_and_after_what_comes_before_it(
    filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]], which: str
) -> None:
    at = superuser.execute(f"SELECT {which}".encode()).fetchone()
    assert at
    with damaged(superuser, f"DELETE FROM events WHERE position = {at[0]}"):
        assert found(filled) == f"position {at[0]}: there is a body without an event"
        superuser.execute(f"UPDATE payloads SET body = body || ' ' WHERE position = {at[0] - 1}".encode())
        assert found(filled).startswith(f"position {at[0] - 1}: the body is not")


def test_another_ledger_of_the_database_is_of_no_concern(filled: Filled, superuser: psycopg.Connection[tuple[Any, ...]]) -> None:
    other = make_ledger(filled.database.service_url)
    with damaged(superuser, f"DELETE FROM events WHERE position = {MIDDLE}"):
        assert verify(filled.database.service_url, other, lambda *_: None).difference is None
    superuser.execute(
        "DELETE FROM kept_batches WHERE last_position = 0 AND ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)", [other]
    )


def test_an_empty_ledger_is_content(filled: Filled) -> None:
    empty = make_ledger(filled.database.service_url)
    verdict = verify(filled.database.service_url, empty, lambda *_: None)
    assert (verdict.events, verdict.contracts, verdict.difference) == (0, 0, None)


@pytest.mark.parametrize("collects", [True, False])
def test_a_walk_in_one_process_is_not_held_up_by_the_collector_and_leaves_it_as_it_was(
    filled: Filled, collects: bool, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(gc.enable)
    if not collects:
        gc.disable()
    during: list[bool] = []
    verdict = verify(filled.database.service_url, filled.ledger, lambda *_: during.append(gc.isenabled()), 1)
    assert verdict.difference is None
    assert set(during) == {False}
    assert gc.isenabled() == collects


def test_a_ledger_that_is_not_there_is_said_to_be_so(filled: Filled) -> None:
    with pytest.raises(OperatorError, match="There is no ledger nowhere"):
        verify(filled.database.service_url, "nowhere", lambda *_: None)


async def test_verifying_while_appends_go_on_is_content(filled: Filled) -> None:
    verdicts = [filled.verdict()]
    filling = asyncio.create_task(filled.fill(150, seed=92))
    while not filling.done():
        verdicts.append(await asyncio.to_thread(filled.verdict))
    await filling
    assert len({verdict.events for verdict in verdicts}) > 1
    assert {str(verdict.difference) for verdict in verdicts} == {"None"}


async def test_memory_is_bounded_by_a_chunk_and_not_by_the_ledger(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "CHUNK_EVENTS", 100)
    monkeypatch.setattr(walk, "SPAN_EVENTS", 256)

    alone = replace(filled, ledger=make_ledger(filled.database.service_url))
    await alone.fill(120, seed=92)

    def peak() -> tuple[int, int]:
        alone.verdict()
        tracemalloc.start()
        try:
            events = alone.verdict().events
            return events, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, bytes_of_small = peak()
    await alone.fill(600, seed=93)
    large, bytes_of_large = peak()
    assert large > 2.5 * small
    assert bytes_of_large < 1.5 * bytes_of_small
