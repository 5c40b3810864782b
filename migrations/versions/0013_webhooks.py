"""Webhooks: subscriptions with a cursor each, the contracts that each holds back, and what was tried."""

from alembic import context, op

revision = "0013"
down_revision = "0012"

TABLES = """
CREATE TABLE webhooks (
    ledger_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    url text NOT NULL,
    event_types text[] NOT NULL,
    contract_ids uuid[] NOT NULL,
    status text NOT NULL,
    ended_because text,
    secret text NOT NULL,
    previous_secrets text[] NOT NULL DEFAULT '{}',
    previous_until timestamptz,
    position bigint NOT NULL,
    failures integer NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 1,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    request_key bytea NOT NULL,
    salt bytea NOT NULL,
    request_digest bytea NOT NULL,
    worker uuid,
    leased_until timestamptz,
    PRIMARY KEY (ledger_id, webhook_id)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX webhooks_request_key ON webhooks (ledger_id, request_key);

CREATE TABLE webhook_holds (
    ledger_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    contract_id uuid NOT NULL,
    position bigint NOT NULL,
    status text NOT NULL,
    attempts integer NOT NULL,
    next_attempt_at timestamptz,
    failure text NOT NULL,
    PRIMARY KEY (ledger_id, webhook_id, contract_id)
);

CREATE TABLE webhook_attempts (
    ledger_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    attempt_id uuid NOT NULL,
    attempted_at timestamptz NOT NULL,
    position bigint NOT NULL,
    contract_id uuid NOT NULL,
    event_id uuid NOT NULL,
    status_code integer,
    failure text,
    milliseconds integer NOT NULL,
    PRIMARY KEY (ledger_id, webhook_id, attempt_id)
);
"""
PRIVILEGES = """
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks, webhook_holds TO {role};
GRANT SELECT, INSERT, DELETE ON webhook_attempts TO {role};
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
