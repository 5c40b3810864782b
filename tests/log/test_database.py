"""What Postgres itself holds: nobody changes the log, nothing is served where a commit could be lost, and connections come back."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from service import database as connections
from service.embedded import EmbeddedPostgres
from service.embedded import postgres as embedded
from service.errors import OperatorError
from service.settings import Settings
from tests.conftest import Database, NewDatabase
from tests.guarantees.load import delivery, note, opening
from tests.servers import in_process, make_key, make_ledger, rows, verified

LOG = ("batches", "events", "payloads", "tiles", "checkpoints")
_DIGEST = """
SELECT (SELECT md5(string_agg(e::text, '|' ORDER BY ledger_id, position)) FROM events e),
       (SELECT md5(string_agg(p::text, '|' ORDER BY ledger_id, position)) FROM payloads p),
       (SELECT md5(string_agg(b::text, '|' ORDER BY ledger_id, last_position)) FROM batches b),
       (SELECT md5(string_agg(t::text, '|' ORDER BY ledger_id, level, number)) FROM tiles t),
       (SELECT md5(string_agg(c::text, '|' ORDER BY ledger_id, epoch, size)) FROM checkpoints c)
"""


@asynccontextmanager
async def service_on(database: Database, folder: Path, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client of a service in this process, and the path of a contract with a few events in a new ledger."""
    async with AsyncExitStack() as stack:
        stated = Settings(database_url=database.service_url, data_dir=folder, **settings)
        make = await stack.enter_async_context(in_process(stated))
        ledger = make_ledger(database.service_url)
        api = await stack.enter_async_context(make(ledger, make_key(database.service_url)))
        opened = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"})
        path = f"/contracts/{opened.json()['contract_id']}"
        assert (await api.post(f"{path}/delivery-recorded", json=delivery("one"), headers={"Idempotency-Key": "one"})).status_code == 201
        yield api, path


@pytest.fixture(scope="module")
async def filled(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """The module's database, with a log in it."""
    async with service_on(database, tmp_path_factory.mktemp("data")):
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            connection.execute("INSERT INTO tiles SELECT ledger_id, 7, 0, decode(repeat('00', 8192), 'hex'), sha256('') FROM ledgers")
            connection.execute("INSERT INTO checkpoints SELECT ledger_id, 1, 0, sha256(''), '' FROM ledgers")
        return database


@pytest.fixture
def unchanged(filled: Database) -> Iterator[Database]:
    """The log is afterwards what it was before."""
    before = rows(filled.superuser_url, _DIGEST)
    assert None not in before[0]
    yield filled
    assert rows(filled.superuser_url, _DIGEST) == before


CHANGES = (
    "UPDATE {table} SET ledger_id = ledger_id",
    "DELETE FROM {table}",
    "DELETE FROM {table} WHERE false",
    "TRUNCATE {table}",
    "TRUNCATE {table} CASCADE",
    "MERGE INTO {table} t USING {table} s ON t.ledger_id = s.ledger_id WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM {table} RETURNING 1) SELECT count(*) FROM gone",
    "DO $$ BEGIN EXECUTE 'DELETE FROM {table}'; END $$",
    "SELECT * FROM {table} FOR UPDATE",
    "SELECT * FROM {table} FOR KEY SHARE",
    "BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE",
    "ALTER TABLE {table} DISABLE TRIGGER refuse_change",
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} ENABLE REPLICA TRIGGER refuse_change",
    "DROP TRIGGER refuse_change ON {table}",
    "ALTER TRIGGER refuse_change ON {table} RENAME TO other",
    "CREATE TRIGGER mine BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON INSERT TO {table} DO INSTEAD NOTHING",
    "CREATE POLICY mine ON {table} USING (false)",
    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {table} OWNER TO ledger_service",
    "ALTER TABLE {table} RENAME TO other",
    "ALTER TABLE {table} ADD COLUMN other integer",
    "ALTER TABLE {table} SET UNLOGGED",
    "ALTER TABLE {table} SET SCHEMA pg_temp",
    "CREATE TEMP TABLE child () INHERITS ({table})",
    "CREATE INDEX mine ON {table} (ledger_id)",
    "CREATE UNIQUE INDEX ON {table} ((1))",
    "DROP TABLE {table}",
    "DROP TABLE {table} CASCADE",
    "CLUSTER {table} USING {table}_pkey",
    "REINDEX TABLE {table}",
    "COMMENT ON TABLE {table} IS 'mine'",
    "CREATE PUBLICATION mine FOR TABLE {table}",
    "COPY {table} FROM PROGRAM 'true'",
    "COPY {table} TO '/dev/null'",
)
BEYOND = (
    "INSERT INTO batches SELECT * FROM batches ON CONFLICT (ledger_id, last_position) DO UPDATE SET recorded_at = now()",
    "ALTER TABLE events DROP CONSTRAINT events_hash_check",
    "ALTER TABLE events DROP CONSTRAINT events_pkey",
    "SET session_replication_role = replica",
    "BEGIN; SET LOCAL session_replication_role = replica",
    "SELECT set_config('session_replication_role', 'replica', false)",
    "ALTER ROLE ledger_service SET session_replication_role = replica",
    "ALTER ROLE ledger_service SUPERUSER",
    "ALTER ROLE ledger_service BYPASSRLS",
    "SET ROLE ledger_owner",
    "SET SESSION AUTHORIZATION ledger_owner",
    "GRANT ledger_owner TO ledger_service",
    "REASSIGN OWNED BY ledger_owner TO ledger_service",
    "CREATE ROLE mine",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$",
    "CREATE FUNCTION refuse_change(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION refuse_change() RENAME TO other",
    "ALTER FUNCTION refuse_change() SET search_path = pg_temp",
    "DROP FUNCTION refuse_change()",
    "DROP FUNCTION refuse_change() CASCADE",
    "UPDATE pg_trigger SET tgenabled = 'D'",
    "DELETE FROM pg_class WHERE relname = 'events'",
    "SET allow_system_table_mods = on",
    "CREATE TABLE public.events2 ()",
    "CREATE SCHEMA mine",
    "DROP SCHEMA public CASCADE",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION refuse_change()",
    "ALTER SYSTEM SET fsync = off",
    "SELECT pg_reload_conf()",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT lo_import('/dev/null')",
    "CREATE EXTENSION file_fdw",
    "UPDATE ledger_locks SET ledger_id = gen_random_uuid()",
    "UPDATE ledger_locks SET ledger_id = ledger_id",
    "DELETE FROM ledger_locks",
    "UPDATE ledgers SET name = name || 'x'",
    "UPDATE ledgers SET clock_accepted_at = now() + interval '1 year'",
    "UPDATE ledgers SET epoch = 2",
    "DELETE FROM ledgers",
    "UPDATE idempotency SET receipt = ''",
    "DELETE FROM idempotency",
    "UPDATE principals SET name = ''",
    "DELETE FROM principals",
    "DELETE FROM api_keys",
    "UPDATE alembic_version SET version_num = ''",
)


@pytest.mark.parametrize("statement", [*(change.format(table=table) for change in CHANGES for table in LOG), *BEYOND])
def test_the_services_role_is_refused(unchanged: Database, statement: str) -> None:
    with psycopg.connect(unchanged.service_url, autocommit=True) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement.encode())


TRICKS = (
    "SET row_security = off; DELETE FROM events",
    "SET search_path = pg_temp, public; CREATE TEMP TABLE events AS TABLE public.events; DELETE FROM events",
    "CREATE TEMP TABLE payloads (LIKE public.payloads); INSERT INTO payloads SELECT * FROM public.payloads; TRUNCATE payloads",
    "CREATE TEMP VIEW mine AS SELECT * FROM events; DELETE FROM mine",
    "CREATE TEMP VIEW mine AS SELECT 1 AS a; CREATE RULE r AS ON INSERT TO mine DO INSTEAD DELETE FROM events; INSERT INTO mine VALUES (1)",
    """CREATE FUNCTION pg_temp.sly() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM public.events'; SELECT pg_temp.sly()""",
    """CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'; SET search_path = pg_temp, public;
       INSERT INTO events SELECT ledger_id, position + 9999, contract_id, revision + 9999, gen_random_uuid(), event_type, recorded_at,
           'forged', 'forged' FROM events LIMIT 1""",
    "GRANT ALL ON events TO ledger_service; DELETE FROM events",
    "SET default_transaction_deferrable = on; SET CONSTRAINTS ALL DEFERRED; DELETE FROM events",
    "PREPARE mine AS DELETE FROM events; EXECUTE mine",
    "DECLARE mine CURSOR WITH HOLD FOR SELECT * FROM events; FETCH 1 FROM mine; DELETE FROM events WHERE CURRENT OF mine",
    "VACUUM FULL events",
    "INSERT INTO events SELECT * FROM events ON CONFLICT DO NOTHING",
    "SET synchronous_commit = off; SET statement_timeout = 0; UPDATE events SET event_type = 'x'",
)


@pytest.mark.parametrize("trick", TRICKS)
def test_the_services_role_changes_nothing_by_a_trick(unchanged: Database, trick: str) -> None:
    with psycopg.connect(unchanged.service_url, autocommit=True) as connection:
        for statement in trick.split(";"):
            with suppress(psycopg.Error):
                connection.execute(statement.encode())


@pytest.mark.parametrize("table", [*LOG, "ledger_locks"])
@pytest.mark.parametrize("change", ["UPDATE {} SET ledger_id = ledger_id", "DELETE FROM {}", "TRUNCATE {}", "TRUNCATE {} CASCADE"])
@pytest.mark.parametrize("who", ["owner", "superuser", "superuser in the replication role"])
def test_even_the_owner_and_the_superuser_are_refused_by_the_triggers(unchanged: Database, table: str, change: str, who: str) -> None:
    url = unchanged.owner_url if who == "owner" else unchanged.superuser_url
    with psycopg.connect(url, autocommit=True) as connection:
        if who.endswith("role"):
            connection.execute("SET session_replication_role = replica")
        with pytest.raises(InsufficientPrivilege, match="append-only"):
            connection.execute(change.format(table).encode())


def test_the_services_rights_are_those_and_no_more(filled: Database) -> None:
    add, keep = {"INSERT", "SELECT"}, {"DELETE", "INSERT", "SELECT", "UPDATE"}
    query = """
        SELECT table_name, array_agg(privilege_type::text) FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND grantee IN ('ledger_service', 'PUBLIC') GROUP BY table_name
    """
    assert {table: set(rights) for table, rights in rows(filled.superuser_url, query)} == {
        **dict.fromkeys((*LOG, "ledgers", "idempotency", "principals", "deployment", "signing_keys"), add),
        "ledger_locks": {*add, "UPDATE"},
        **dict.fromkeys(("contracts", "deliveries", "webhooks", "webhook_holds"), keep),
        **dict.fromkeys(("outlook_heads", "outlooks", "deadlines", "commitments", "parties"), keep),
        "unique_references": {*add, "DELETE"},
        **{table: {*add, "UPDATE"} for table in ("grants", "api_keys", "imports", "import_lines", "signing_times", "replays")},
        "epochs": {"SELECT"},
        "cosignatures": add,
        "witnesses": {*add, "DELETE"},
        "webhook_attempts": {*add, "DELETE"},
        "alembic_version": {"SELECT"},
    }
    columns = """
        SELECT table_name, column_name FROM information_schema.role_column_grants g
        WHERE grantee = 'ledger_service' AND privilege_type = 'UPDATE' AND table_name = 'ledgers' ORDER BY 2
    """
    assert rows(filled.superuser_url, columns) == [
        ("ledgers", "generation"),
        ("ledgers", "if_match_required"),
        ("ledgers", "layout"),
        ("ledgers", "public_log"),
        ("ledgers", "strict"),
        ("ledgers", "unique_reference_schemes"),
    ]


def test_a_header_that_is_not_the_one_hashed_is_refused_by_the_database(unchanged: Database) -> None:
    forged = """
        INSERT INTO events SELECT ledger_id, position + 1, contract_id, revision + 1, gen_random_uuid(), event_type, recorded_at,
            header || ' ', event_hash FROM events ORDER BY position DESC LIMIT 1
    """
    with psycopg.connect(unchanged.service_url, autocommit=True) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(forged)


async def refused_at_start(url: str, folder: Path) -> str:
    """Why the service does not start."""
    with pytest.raises(OperatorError) as refusal:
        async with asyncio.timeout(20), in_process(Settings(database_url=url, data_dir=folder)):
            pass
    return str(refusal.value)


@pytest.mark.parametrize("scope", ["DATABASE {name}", "ROLE ledger_service IN DATABASE {name}"])
async def test_the_service_does_not_start_where_commits_are_not_waited_for(new_database: NewDatabase, tmp_path: Path, scope: str) -> None:
    with new_database() as database:
        rows(database.superuser_url, f"ALTER {scope.format(name=database.name)} SET synchronous_commit = off")
        assert "synchronous_commit = off" in await refused_at_start(database.service_url, tmp_path)


async def test_the_service_does_not_start_where_a_crash_could_lose_commits(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe = {name: value for name, value in embedded.PROMISED.items() if name not in ("fsync", "full_page_writes")}
    monkeypatch.setattr(embedded, "PROMISED", unsafe)
    with EmbeddedPostgres(own_folder / "postgres", {"shared_buffers": "16MB", "max_connections": "20"}) as server:
        url = server.url("postgres", server.superuser)
        for setting in ("fsync", "full_page_writes"):
            rows(url, f"ALTER SYSTEM SET {setting} = off")
            rows(url, "SELECT pg_reload_conf()")
            assert f"{setting} = off" in await refused_at_start(url, own_folder)
            rows(url, f"ALTER SYSTEM RESET {setting}")
            rows(url, "SELECT pg_reload_conf()")


async def test_the_service_does_not_start_without_its_database(database: Database, tmp_path: Path) -> None:
    gone = database.service_url.replace(database.name, "nowhere")
    assert 'database "nowhere" does not exist' in await refused_at_start(gone, tmp_path)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """Not pytest's: that one is closed to the account which runs the server for root."""
    folder = Path(tempfile.mkdtemp(prefix="contract-ledger-unsafe-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def maintenance_url(database: Database) -> str:
    return database.superuser_url.replace(database.name, "postgres")


async def end_connections(database: Database) -> None:
    """What a restart of Postgres does to the service's connections, though it is only they that end."""
    query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND usename = 'ledger_service'"
    assert await asyncio.to_thread(rows, maintenance_url(database), query, database.name)


async def test_appends_do_not_notice_that_postgres_ended_all_connections(database: Database, tmp_path: Path) -> None:
    async with service_on(database, tmp_path) as (api, contract):
        for revision in range(3, 6):
            await end_connections(database)
            answer = await api.post(f"{contract}/note-added", json=note(), headers={"Idempotency-Key": str(revision)})
            assert (answer.status_code, answer.json().get("revision")) == (201, revision), answer.text


READS = {"contract": "", "list": "/contracts", "page of the log": "/events", "readiness": "http://service/readyz"}


@pytest.mark.parametrize("read", READS)
async def test_reads_do_not_notice_that_postgres_ended_all_connections(database: Database, tmp_path: Path, read: str) -> None:
    async with service_on(database, tmp_path, pool_connections=4) as (api, contract):
        await asyncio.gather(*(api.get("/events") for _ in range(20)))
        await end_connections(database)
        assert [(await api.get(READS[read] or contract)).status_code for _ in range(6)] == [200] * 6


async def test_reads_do_not_notice_that_postgres_was_restarted(own_folder: Path) -> None:
    server = EmbeddedPostgres(own_folder / "postgres", {"shared_buffers": "16MB", "max_connections": "20"})
    with server:
        pool = connections.Database(server.url("postgres", server.superuser), 4)
        await pool.open()
        try:
            # All four connections are made, and idle.
            await asyncio.gather(*(pool.rows("SELECT pg_sleep(0.05)") for _ in range(8)))
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            assert [await pool.rows("SELECT %(n)s::int", {"n": n}) for n in range(12)] == [[(n,)] for n in range(12)]
        finally:
            await pool.close()


async def test_a_read_that_fails_on_a_sound_connection_is_not_run_again(database: Database) -> None:
    rows(database.superuser_url, "CREATE SEQUENCE tries; GRANT USAGE ON tries TO ledger_service")
    pool = connections.Database(f"{database.service_url}&options=-c%20statement_timeout%3D100ms", 2)
    await pool.open()
    try:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await pool.rows("SELECT nextval('tries'), pg_sleep(20)")
    finally:
        await pool.close()
    assert rows(database.superuser_url, "SELECT last_value, is_called FROM tries") == [(1, True)]
    rows(database.superuser_url, "DROP SEQUENCE tries")


async def test_no_request_is_answered_500_while_postgres_is_away(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WAIT_SECONDS", 1)
    async with service_on(database, tmp_path) as (api, contract):
        await asyncio.to_thread(rows, maintenance_url(database), f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        try:
            await end_connections(database)
            asked = [api.get(contract), api.get("/contracts"), api.get("/events"), api.get("http://service/readyz")]
            asked += [api.post(f"{contract}/note-added", json=note(), headers={"Idempotency-Key": "while away"})]
            answers = await asyncio.gather(*asked)
        finally:
            await asyncio.to_thread(rows, maintenance_url(database), f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
        assert [answer.status_code for answer in answers] == [503] * 5
        assert {answer.headers["retry-after"] for answer in answers} == {"1"}
        assert await until_ready(api)
        answer = await api.post(f"{contract}/note-added", json=note(), headers={"Idempotency-Key": "while away"})
        assert (answer.status_code, answer.json()["revision"]) == (201, 3)
        verified(database.service_url, str(api.base_url).rstrip("/").rpartition("/")[2])


async def until_ready(api: httpx.AsyncClient) -> bool:
    """Readiness, asked until it is there."""
    async with asyncio.timeout(30):
        while (await api.get("http://service/readyz")).status_code != 200:  # noqa: ASYNC110 - that is what a prober does
            await asyncio.sleep(0.05)
    return True


async def test_a_service_that_falls_silent_within_a_pipeline_lets_go_of_the_lock_in_time(database: Database) -> None:
    """Such a session waits for no statement, so that no other limit ends it."""
    rows(database.superuser_url, f"ALTER ROLE ledger_service IN DATABASE {database.name} SET transaction_timeout = '500ms'")
    ledger = make_ledger(database.service_url)
    lock = "SELECT 1 FROM ledger_locks JOIN ledgers USING (ledger_id) WHERE name = %s FOR NO KEY UPDATE OF ledger_locks"
    with psycopg.connect(database.service_url, autocommit=True) as silent, suppress(psycopg.OperationalError), silent.pipeline():
        silent.execute("BEGIN")
        # Flushed without a sync, as the first part of a batch is.
        assert silent.execute(lock, [ledger]).fetchall() == [(1,)]
        began = time.monotonic()
        assert await asyncio.to_thread(rows, database.service_url, lock, ledger) == [(1,)]
        assert time.monotonic() - began > 0.3, "nobody held the lock"
    rows(database.superuser_url, f"ALTER ROLE ledger_service IN DATABASE {database.name} SET transaction_timeout = '25s'")
