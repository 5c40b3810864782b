"""Schemes of references that a ledger declares unique, and who holds which."""

from alembic import context, op

revision = "0008"
down_revision = "0007"

TABLES = """
ALTER TABLE ledgers ADD COLUMN unique_reference_schemes text[] NOT NULL DEFAULT '{}';

CREATE TABLE unique_references (
    ledger_id uuid NOT NULL,
    scheme text NOT NULL,
    id text NOT NULL,
    contract_id uuid NOT NULL,
    PRIMARY KEY (ledger_id, scheme, id)
);
CREATE INDEX unique_references_contract_id ON unique_references (ledger_id, contract_id);
"""
PRIVILEGES = """
GRANT SELECT, INSERT, DELETE ON unique_references TO {role};
GRANT UPDATE (unique_reference_schemes) ON ledgers TO {role};
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
