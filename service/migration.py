"""Migrations: run as the owner of the tables, from the files that the package carries."""

from contextlib import suppress
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from service.database import connect
from service.errors import OperatorError
from service.log.tiles import Told, build_trees

_LIMITS = """
SELECT split_part(unnest(setconfig), '=', 1) FROM pg_db_role_setting
WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = %s)
  AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# A client that vanishes within a pipeline leaves a transaction that waits for no statement and counts as busy: only the last five end it,
# and with it the lock on its ledger. A batch has less time than transaction_timeout.
_TIMEOUTS = {
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "5s",
    "tcp_keepalives_interval": "2s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
    "transaction_timeout": "25s",
}
_SINCE = {"transaction_timeout": 170000}


def migrations_folder() -> Path:
    """The migrations: inside an installed package, or beside the sources in a checkout."""
    inside = Path(__file__).parent / "migrations"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "migrations"


def migrate(owner_url: str, service_url: str, told: Told = lambda *_: None) -> str:
    """Bring the database to the newest tables, give the service's role its rights, and build the trees of events that are older than the
    tree, of which `told` hears; the revision reached.

    Makes the service's role if the owner may. OperatorError, with the SQL for an administrator, if not. Safe to run twice at once.
    """
    service = conninfo_to_dict(service_url)
    role, password = str(service.get("user") or ""), str(service.get("password") or "")
    if not role or role == conninfo_to_dict(owner_url).get("user"):
        raise OperatorError("LEDGER_DATABASE_URL and LEDGER_MIGRATION_URL must name two roles: the service must not own the log.")
    with connect(owner_url, autocommit=True) as connection:
        _make_role(connection, role, password)
    config = _config(role)
    engine = create_engine(_sqlalchemy_url(owner_url))
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except DBAPIError as error:
        raise OperatorError(f"The migration did not run, and changed nothing: {error.orig}") from error
    finally:
        engine.dispose()
    with connect(owner_url, autocommit=True) as connection:
        build_trees(connection, told)
    return newest_revision()


def migration_sql(role: str) -> str:
    """All migrations as SQL, for an administrator to read or run, and for linters."""
    buffer = StringIO()
    config = _config(role)
    config.output_buffer = buffer
    command.upgrade(config, "head", sql=True)
    return buffer.getvalue()


def newest_revision() -> str:
    return str(ScriptDirectory.from_config(_config("")).get_current_head())


def check_migrated(service_url: str) -> None:
    """OperatorError unless the database has the tables of this release."""
    with connect(service_url, autocommit=True) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            row = None
        except psycopg.errors.InsufficientPrivilege:
            raise OperatorError(
                "The role in LEDGER_DATABASE_URL has no rights on the tables: run `contract-ledger migrate` with this URL."
            ) from None
    current, newest = row[0] if row else "none", newest_revision()
    if current != newest:
        raise OperatorError(
            f"The database is at migration {current}, and this release needs {newest}: run `contract-ledger migrate` "
            "with LEDGER_MIGRATION_URL (the owner) and LEDGER_DATABASE_URL (the service's role)."
        )


def current_metadata_diff(connection: Connection) -> list[object]:
    """What differs between the tables in a database and the tables in the code."""
    from alembic.autogenerate import compare_metadata

    from service.tables import metadata

    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, metadata))


def _config(role: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", "postgresql+psycopg://")
    config.attributes["service_role"] = psycopg.sql.Identifier(role).as_string(None)
    return config


def timeouts(server_version: int) -> dict[str, str]:
    """The time limits of the service's role, as far as a server knows them."""
    return {setting: value for setting, value in _TIMEOUTS.items() if server_version >= _SINCE.get(setting, 0)}


def _make_role(connection: psycopg.Connection[tuple[object, ...]], role: str, password: str) -> None:
    name = sql.Identifier(role)
    make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password))
    database = connection.info.dbname
    limits = {
        setting: sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
            name, sql.Identifier(database), sql.SQL(setting), sql.Literal(value)
        )
        for setting, value in timeouts(connection.info.server_version).items()
    }
    try:
        # Two migrations at once may both find something missing; the lock makes the second wait and find it.
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('contract-ledger role'))")
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                # Of another database of the cluster the lock knows nothing.
                with suppress(psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject), connection.transaction():
                    connection.execute(make)
            # What stands was made so by an administrator, or by an operator who knows better.
            standing = {row[0] for row in connection.execute(_LIMITS, [role]).fetchall()}
            for setting, statement in limits.items():
                if setting not in standing:
                    connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        shown = sql.SQL("CREATE ROLE {} LOGIN PASSWORD '...'").format(name)
        statements = ";\n  ".join(part.as_string(connection) for part in (shown, *limits.values()))
        raise OperatorError(
            f"The owner may not make the service's role {role}. Have an administrator run, then migrate again:\n  {statements};"
        ) from error


def _sqlalchemy_url(owner_url: str) -> str:
    """A libpq URL for SQLAlchemy, which cannot read one whose host is a socket folder."""
    parts = conninfo_to_dict(owner_url)
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parts.items())
    return str(make_url(f"postgresql+psycopg://?{query}").render_as_string(hide_password=False))
