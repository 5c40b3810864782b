"""Imports: what has become of each line, so that one that is sent again goes on where it ended."""

from alembic import context, op

revision = "0005"
down_revision = "0003"

TABLES = """
CREATE TABLE imports (
    ledger_id uuid NOT NULL,
    import_id uuid NOT NULL,
    recorded_by uuid NOT NULL,
    salt bytea NOT NULL,
    status text NOT NULL,
    recorded bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    held_back bigint NOT NULL DEFAULT 0,
    last_line bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, import_id)
) WITH (fillfactor = 70);

CREATE TABLE import_lines (
    ledger_id uuid NOT NULL,
    import_id uuid NOT NULL,
    line bigint NOT NULL,
    position bigint,
    digest bytea,
    contract_id uuid,
    code text,
    rule text,
    pointer text,
    detail text,
    PRIMARY KEY (ledger_id, import_id, line)
);
CREATE INDEX import_lines_refused ON import_lines (ledger_id, import_id, line) WHERE position IS NULL;
"""
PRIVILEGES = "GRANT SELECT, INSERT, UPDATE ON imports, import_lines TO {role};"


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
