"""Replays: what is asked for, how far it is, and what came of it."""

from alembic import context, op

revision = "0011"
down_revision = "0010"

TABLES = """
CREATE TABLE replays (
    ledger_id uuid NOT NULL,
    replay_id uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    known_position bigint,
    effective_on date,
    requested_by uuid,
    request_key bytea,
    salt bytea,
    request_digest bytea,
    software_version text NOT NULL,
    head bigint,
    head_hash bytea,
    head_root bytea,
    events bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    contracts bigint NOT NULL DEFAULT 0,
    erased bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    difference_at text,
    difference text,
    failure text,
    digest bytea,
    course text,
    seconds double precision NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    worker uuid,
    leased_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    ended_at timestamptz,
    PRIMARY KEY (ledger_id, replay_id)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX replays_at_work ON replays (ledger_id, kind, known_position, effective_on) NULLS NOT DISTINCT
    WHERE status IN ('waiting', 'running');
CREATE UNIQUE INDEX replays_request_key ON replays (ledger_id, request_key) WHERE request_key IS NOT NULL;
"""
PRIVILEGES = "GRANT SELECT, INSERT, UPDATE ON replays TO {role};"


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
