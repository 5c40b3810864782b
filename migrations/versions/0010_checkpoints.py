"""Checkpoints: what was signed, by which keys, in whose name; and whether strangers may read the tree."""

from alembic import context, op

revision = "0010"
down_revision = "0009"

TABLES = """
ALTER TABLE ledgers ADD COLUMN public_log boolean NOT NULL DEFAULT false;

CREATE TABLE deployment (
    one boolean PRIMARY KEY DEFAULT true,
    name text NOT NULL,
    CONSTRAINT deployment_one_check CHECK (one)
);

CREATE TABLE signing_keys (
    public_key bytea PRIMARY KEY,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at timestamptz
);

CREATE TABLE checkpoints (
    ledger_id uuid NOT NULL,
    epoch integer NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    note text NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, epoch, size)
);
"""
# One root for a size: what was signed stays as it was signed.
REFUSAL = """
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON checkpoints FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER refuse_truncate;
"""
PRIVILEGES = """
GRANT SELECT, INSERT ON deployment, signing_keys, checkpoints TO {role};
GRANT UPDATE (retired_at) ON signing_keys TO {role};
GRANT UPDATE (public_log) ON ledgers TO {role};
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(REFUSAL)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
