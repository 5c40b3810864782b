"""The migrations make exactly the tables that the code knows, from nothing, however often and at however many places they are run."""

import multiprocessing
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, create_engine

from service.audit.book import open_connection
from service.errors import OperatorError
from service.log.append import BATCH_SECONDS
from service.migration import check_migrated, current_metadata_diff, migrate, migration_sql, newest_revision, timeouts
from service.tables import metadata
from tests.conftest import Database, Server
from tests.servers import rows

# Counters of a few thousand at most, and alembic's own table.
ACCEPTED_BY_SQUAWK = "prefer-bigint-over-int,prefer-text-field"

COLUMNS = """
SELECT table_name::text, column_name::text, data_type::text, udt_name::text, is_nullable::text, column_default::text
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2
"""
# A primary key's NOT NULL is a constraint of its own from PostgreSQL 18 on, with a name that Postgres gives.
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass AND contype IN ('c', 'f', 'p', 'u', 'x')
ORDER BY 1, 2
"""
INDEXES = """
SELECT tablename::text, indexname::text, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1, 2
"""
TRIGGERS = """
SELECT tgrelid::regclass::text, tgname::text, tgenabled::text, pg_get_triggerdef(oid) FROM pg_trigger
WHERE NOT tgisinternal ORDER BY 1, 2
"""
FUNCTIONS = "SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
RIGHTS = "SELECT relname::text, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"


@dataclass(frozen=True, slots=True)
class Fresh:
    """An empty database of an owner, and a service's role that is not there yet."""

    server: Server
    name: str
    owner: str
    role: str
    password: str

    @property
    def owner_url(self) -> str:
        return self.server.url(self.name, self.owner, self.password)

    @property
    def service_url(self) -> str:
        return self.server.url(self.name, self.role, self.password)

    @property
    def superuser_url(self) -> str:
        return self.server.superuser_url(self.name)

    def migrate(self) -> str:
        return migrate(self.owner_url, self.service_url)

    @contextmanager
    def another_database(self) -> Iterator["Fresh"]:
        """A second one of the same owner and role."""
        other = Fresh(self.server, f"{self.name}_b", self.owner, self.role, self.password)
        self.server.execute("CREATE DATABASE {} OWNER {}", other.name, other.owner)
        try:
            yield other
        finally:
            self.server.execute("DROP DATABASE {} WITH (FORCE)", other.name)

    def catalogue(self) -> dict[str, list[tuple[str, ...]]]:
        """All that a migration makes in a database."""
        queries = {"columns": COLUMNS, "constraints": CONSTRAINTS, "indexes": INDEXES, "triggers": TRIGGERS, "functions": FUNCTIONS}
        return {name: rows(self.superuser_url, query) for name, query in {**queries, "rights": RIGHTS}.items()}


@contextmanager
def fresh_database(server: Server, *options: str) -> Iterator[Fresh]:
    name = f"fresh_{secrets.token_hex(5)}"
    made = Fresh(server, name, f"{name}_owner", f"{name}_service", secrets.token_hex(8))
    statement = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}").format(sql.Identifier(made.owner), sql.SQL(" ".join(options)), made.password)
    with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
        connection.execute(statement)
    server.execute("CREATE DATABASE {} OWNER {}", made.name, made.owner)
    try:
        yield made
    finally:
        server.execute("DROP DATABASE {} WITH (FORCE)", made.name)
        server.execute("DROP ROLE IF EXISTS {}", made.role)
        server.execute("DROP ROLE {}", made.owner)


@pytest.fixture
def fresh(server: Server) -> Iterator[Fresh]:
    with fresh_database(server, "CREATEROLE") as made:
        yield made


def engine_of(url: str) -> Engine:
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))


def test_alembic_finds_no_difference_between_migrated_tables_and_the_code(database: Database) -> None:
    engine = engine_of(database.owner_url)
    with engine.connect() as connection:
        assert current_metadata_diff(connection) == []
    engine.dispose()


def test_migrated_columns_constraints_and_indexes_are_those_of_the_code(database: Database, fresh: Fresh) -> None:
    """Alembic compares neither checks nor names nor defaults of expressions; Postgres itself says what either has made."""
    engine = engine_of(fresh.owner_url)
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.exec_driver_sql("CREATE TABLE alembic_version ()")
    engine.dispose()
    for query in (COLUMNS, CONSTRAINTS, INDEXES):
        by_code, by_migration = (rows(url, query) for url in (fresh.superuser_url, database.superuser_url))
        assert by_code == by_migration
        assert by_code


def test_a_fresh_database_is_migrated_with_its_role_and_can_be_used(fresh: Fresh) -> None:
    assert fresh.migrate() == newest_revision()
    check_migrated(fresh.service_url)
    assert rows(fresh.service_url, "SELECT count(*) FROM events") == [(0,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(fresh.service_url, "DELETE FROM events")


def test_migrating_again_changes_nothing(fresh: Fresh) -> None:
    fresh.migrate()
    before = fresh.catalogue()
    assert fresh.migrate() == newest_revision()
    assert fresh.catalogue() == before


@pytest.fixture(scope="module")
def operators() -> Iterator[ProcessPoolExecutor]:
    """Alembic is for one thread of a process."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield processes


def migrate_at_once(operators: ProcessPoolExecutor, databases: Sequence[Fresh]) -> list[str]:
    running = [operators.submit(migrate, found.owner_url, found.service_url) for found in databases]
    return [migration.result() for migration in running]


def test_migrations_of_one_database_at_the_same_time_both_succeed(fresh: Fresh, operators: ProcessPoolExecutor) -> None:
    assert migrate_at_once(operators, [fresh, fresh]) == [newest_revision()] * 2
    check_migrated(fresh.service_url)


def test_two_databases_of_one_cluster_migrated_at_the_same_time_share_the_role(fresh: Fresh, operators: ProcessPoolExecutor) -> None:
    with fresh.another_database() as other:
        assert migrate_at_once(operators, [fresh, other]) == [newest_revision()] * 2
        for migrated in (fresh, other):
            check_migrated(migrated.service_url)
            assert rows(migrated.service_url, "SHOW lock_timeout") == [("5s",)]


def test_the_services_time_limits_hold_in_its_database_only(fresh: Fresh) -> None:
    fresh.migrate()
    settings = "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"
    limits = "SELECT " + ", ".join(f"current_setting('{setting}')" for setting in settings)
    assert rows(fresh.service_url, limits) == [("5s", "30s", "30s", "25s")]
    assert rows(fresh.owner_url, limits) == [("0", "0", "0", "0")]
    elsewhere = fresh.server.url("postgres", fresh.role, fresh.password)
    assert rows(elsewhere, limits) == [("0", "0", "0", "0")]


ROLE_SETTINGS = """
SELECT unnest(s.setconfig) FROM pg_db_role_setting s
JOIN pg_roles r ON r.oid = s.setrole JOIN pg_database d ON d.oid = s.setdatabase
WHERE r.rolname = %s AND d.datname = current_database()
"""


def test_postgres_looks_for_a_service_that_has_fallen_silent_on_the_network(fresh: Fresh) -> None:
    """The tests speak to Postgres by a socket file, where these settings are taken and read 0."""
    fresh.migrate()
    stated = dict(setting.split("=") for (setting,) in rows(fresh.superuser_url, ROLE_SETTINGS, fresh.role))
    expected = {"tcp_keepalives_idle": "5s", "tcp_keepalives_interval": "2s", "tcp_keepalives_count": "3", "tcp_user_timeout": "10s"}
    assert {name: stated.get(name) for name in expected} == expected


def test_a_postgresql_16_is_given_only_the_limits_that_it_knows() -> None:
    assert timeouts(170000).keys() - timeouts(160013).keys() == {"transaction_timeout"}


def test_a_batch_has_less_time_than_postgres_gives_a_transaction() -> None:
    assert int(timeouts(180000)["transaction_timeout"].rstrip("s")) > BATCH_SECONDS


def test_a_walk_through_a_whole_ledger_is_under_no_time_limit(fresh: Fresh) -> None:
    fresh.migrate()
    with open_connection(fresh.service_url) as connection:
        row = connection.execute("SELECT current_setting('statement_timeout'), current_setting('transaction_timeout')").fetchone()
    assert row == ("0", "0")


def test_limits_that_an_operator_has_set_stay_as_they_are(fresh: Fresh) -> None:
    fresh.migrate()
    rows(fresh.superuser_url, f"ALTER ROLE {fresh.role} IN DATABASE {fresh.name} SET lock_timeout = '7s'")
    fresh.migrate()
    assert rows(fresh.service_url, "SHOW lock_timeout") == [("7s",)]


def test_an_owner_who_may_not_make_roles_is_told_the_sql_for_an_administrator(server: Server) -> None:
    with fresh_database(server) as fresh:
        with pytest.raises(OperatorError, match="Have an administrator run") as refusal:
            fresh.migrate()
        told = str(refusal.value)
        assert fresh.password not in told
        # What it says is what it takes.
        statements = told.partition(":\n")[2].replace("'...'", f"'{fresh.password}'")
        with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
            connection.execute(statements.encode())
        assert fresh.migrate() == newest_revision()
        check_migrated(fresh.service_url)
        assert rows(fresh.service_url, "SHOW lock_timeout") == [("5s",)]


def test_one_role_for_both_is_refused(fresh: Fresh) -> None:
    with pytest.raises(OperatorError, match="two roles"):
        migrate(fresh.owner_url, fresh.owner_url)


def test_a_database_that_is_not_migrated_is_said_to_be_so(fresh: Fresh) -> None:
    with pytest.raises(OperatorError, match="at migration none, and this release needs"):
        check_migrated(fresh.owner_url)


def test_the_sql_for_an_administrator_makes_the_same_database(fresh: Fresh) -> None:
    fresh.migrate()
    with fresh.another_database() as by_hand:
        with psycopg.connect(by_hand.owner_url, autocommit=True) as connection:
            connection.execute(migration_sql(by_hand.role).encode())
        assert by_hand.catalogue() == fresh.catalogue()
        check_migrated(by_hand.service_url)


def squawk(statements: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("squawk")),
        "--pg-version=16",
        f"--exclude={ACCEPTED_BY_SQUAWK}",
        "--stdin-filepath=migration.sql",
    ]
    return subprocess.run(command, input=statements, capture_output=True, text=True, check=False, timeout=60)


def test_squawk_finds_nothing_in_the_migrations() -> None:
    found = squawk(migration_sql("ledger_service"))
    assert found.returncode == 0, found.stdout


def test_squawk_would_find_what_locks_a_table_for_long() -> None:
    found = squawk("ALTER TABLE events ADD COLUMN other bigint NOT NULL; CREATE INDEX other ON events (other);")
    assert found.returncode == 1
    assert "require-concurrent-index-creation" in found.stdout
