"""The log, its projections, and who may do what: the tables of service.database, the triggers and the privileges."""

from alembic import context, op

revision = "0001"
down_revision = None

LOG = ("batches", "events", "payloads")

TABLES = """
CREATE TABLE ledgers (
    ledger_id uuid PRIMARY KEY,
    name text NOT NULL CONSTRAINT ledgers_name_key UNIQUE,
    time_zone text NOT NULL,
    epoch integer NOT NULL DEFAULT 1,
    generation integer NOT NULL DEFAULT 1,
    layout integer NOT NULL,
    if_match_required boolean NOT NULL DEFAULT false,
    clock_accepted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE ledger_locks (
    ledger_id uuid PRIMARY KEY
);

CREATE TABLE batches (
    ledger_id uuid NOT NULL,
    last_position bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (ledger_id, last_position)
);
CREATE INDEX batches_recorded_at ON batches (ledger_id, recorded_at);

CREATE TABLE events (
    ledger_id uuid NOT NULL,
    position bigint NOT NULL,
    contract_id uuid NOT NULL,
    revision integer NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    recorded_at timestamptz NOT NULL,
    header bytea NOT NULL,
    event_hash bytea NOT NULL,
    PRIMARY KEY (ledger_id, position),
    CONSTRAINT events_ledger_id_contract_id_revision_key UNIQUE (ledger_id, contract_id, revision),
    CONSTRAINT events_ledger_id_event_id_key UNIQUE (ledger_id, event_id),
    CONSTRAINT events_hash_check CHECK (event_hash = sha256('\\x00'::bytea || header)),
    CONSTRAINT events_header_check CHECK (octet_length(header) <= 4096)
);

CREATE TABLE payloads (
    ledger_id uuid NOT NULL,
    position bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (ledger_id, position)
);

CREATE TABLE contracts (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    contract_id uuid NOT NULL,
    revision integer NOT NULL,
    position bigint NOT NULL,
    last_hash bytea NOT NULL,
    last_on date NOT NULL,
    has_pending boolean NOT NULL,
    settled_on date NOT NULL,
    holds_until date,
    filters text[] STORAGE EXTERNAL NOT NULL,
    state text NOT NULL,
    beside text NOT NULL,
    PRIMARY KEY (ledger_id, generation, contract_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX contracts_filters ON contracts USING gin (filters);
CREATE INDEX contracts_holds_until ON contracts (ledger_id, generation, holds_until) WHERE holds_until IS NOT NULL;

CREATE TABLE deliveries (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    contract_id uuid NOT NULL,
    delivery_id text NOT NULL,
    revision integer NOT NULL,
    PRIMARY KEY (ledger_id, generation, contract_id, delivery_id)
);

CREATE TABLE idempotency (
    ledger_id uuid NOT NULL,
    key bytea NOT NULL,
    salt bytea NOT NULL,
    digest bytea NOT NULL,
    receipt text NOT NULL,
    PRIMARY KEY (ledger_id, key)
);

CREATE TABLE principals (
    principal_id uuid PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE grants (
    principal_id uuid NOT NULL CONSTRAINT grants_principal_id_fkey REFERENCES principals (principal_id),
    ledger_id uuid,
    rights text[] NOT NULL,
    CONSTRAINT grants_principal_id_ledger_id_key UNIQUE NULLS NOT DISTINCT (principal_id, ledger_id)
);

CREATE TABLE api_keys (
    key_id uuid PRIMARY KEY,
    principal_id uuid NOT NULL CONSTRAINT api_keys_principal_id_fkey REFERENCES principals (principal_id),
    key_hash bytea NOT NULL CONSTRAINT api_keys_key_hash_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);
"""

# The triggers fire in every session_replication_role; only the tables' owner could take them away.
REFUSAL = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
"""

REFUSE_CHANGES = """
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_truncate;
"""

# FOR NO KEY UPDATE on the lock row needs the right to UPDATE it; nothing ever does, and the trigger sees to it: without its lock row a
# ledger would have no order.
PRIVILEGES = """
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role};
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT, INSERT ON batches, events, payloads, ledgers, ledger_locks, idempotency, principals TO {role};
GRANT UPDATE ON ledger_locks TO {role};
GRANT UPDATE (generation, layout) ON ledgers TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON contracts, deliveries TO {role};
GRANT SELECT, INSERT, UPDATE ON grants, api_keys TO {role};
GRANT SELECT ON alembic_version TO {role};
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(REFUSAL)
    for table in (*LOG, "ledger_locks"):
        op.execute(REFUSE_CHANGES.format(table=table))
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
