"""Epochs that operators began, each with the signed checkpoint that it begins with; witnesses, and what they cosigned."""

from alembic import context, op

revision = "0012"
down_revision = "0011"

TABLES = """
CREATE TABLE epochs (
    ledger_id uuid NOT NULL,
    epoch integer NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note text NOT NULL,
    PRIMARY KEY (ledger_id, epoch)
);

CREATE TABLE witnesses (
    ledger_id uuid NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    verifier_key text NOT NULL,
    PRIMARY KEY (ledger_id, name)
);

CREATE TABLE cosignatures (
    ledger_id uuid NOT NULL,
    epoch integer NOT NULL,
    size bigint NOT NULL,
    name text NOT NULL,
    line text NOT NULL,
    PRIMARY KEY (ledger_id, epoch, size, name)
);
"""
REFUSAL = """
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_truncate;
"""
# Beginning an epoch takes the owner.
PRIVILEGES = """
GRANT SELECT ON epochs TO {role};
GRANT SELECT, INSERT ON cosignatures TO {role};
GRANT SELECT, INSERT, DELETE ON witnesses TO {role};
"""


def upgrade() -> None:
    op.execute(TABLES)
    for table in ("epochs", "cosignatures"):
        op.execute(REFUSAL.format(table=table))
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
