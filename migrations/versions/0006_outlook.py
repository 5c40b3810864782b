"""What lies ahead of all contracts of a ledger: deadlines, commitments, parties; and how far they follow the log."""

from alembic import context, op

revision = "0006"
down_revision = "0005"

TABLES = """
CREATE TABLE outlook_heads (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    filled_to uuid,
    PRIMARY KEY (ledger_id, generation)
);

CREATE TABLE outlooks (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    contract_id uuid NOT NULL,
    outlook text NOT NULL,
    PRIMARY KEY (ledger_id, generation, contract_id)
);

CREATE TABLE deadlines (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    contract_id uuid NOT NULL,
    number integer NOT NULL,
    counts_on date NOT NULL,
    kind text NOT NULL,
    deadline text NOT NULL,
    PRIMARY KEY (ledger_id, generation, contract_id, number)
);
CREATE INDEX deadlines_counts_on ON deadlines (ledger_id, generation, counts_on, contract_id, number);

CREATE TABLE commitments (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    by_party boolean NOT NULL,
    by_product boolean NOT NULL,
    party text COLLATE "C" NOT NULL,
    product text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    unit text COLLATE "C" NOT NULL,
    year text COLLATE "C" NOT NULL,
    basis text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    committed_low numeric NOT NULL,
    committed_high numeric NOT NULL,
    delivered numeric NOT NULL,
    remaining_low numeric NOT NULL,
    remaining_high numeric NOT NULL,
    lines bigint NOT NULL,
    PRIMARY KEY (ledger_id, generation, by_party, by_product, party, product, currency, unit, year, basis, status)
);

CREATE TABLE parties (
    ledger_id uuid NOT NULL,
    generation integer NOT NULL,
    party_id text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    form text NOT NULL,
    words text[] NOT NULL,
    contracts bigint NOT NULL,
    PRIMARY KEY (ledger_id, generation, party_id, digest)
);
CREATE INDEX parties_words ON parties USING gin (words);
"""
PRIVILEGES = "GRANT SELECT, INSERT, UPDATE, DELETE ON outlook_heads, outlooks, deadlines, commitments, parties TO {role};"


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
