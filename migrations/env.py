"""Runs the migrations in one transaction, under a lock, so that two runs at once are safe; or writes their SQL."""

from alembic import context
from sqlalchemy import Connection, text

from service.tables import metadata

# "contract-ledger" as a number, for pg_advisory_xact_lock: two migrations of one database wait for each other.
MIGRATION_LOCK = 0x636C6564676572


def run(connection: Connection | None) -> None:
    context.configure(
        connection=connection,
        dialect_name="postgresql",
        target_metadata=metadata,
        literal_binds=connection is None,
        # Written out, a % stays one: only a driver would have it doubled.
        dialect_opts={"paramstyle": "named"},
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.execute("SET LOCAL lock_timeout = '10s'")
        context.execute("SET LOCAL statement_timeout = '15min'")
        if connection is not None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        context.run_migrations()


run(None if context.is_offline_mode() else context.config.attributes["connection"])
