"""Lists of contracts by the day they were signed and the day they end: the first two places of `filters`."""

from alembic import op

revision = "0002"
down_revision = "0001"

INDEXES = """
CREATE INDEX contracts_signed_on ON contracts (ledger_id, generation, (filters[1]), contract_id);
CREATE INDEX contracts_ends_on ON contracts (ledger_id, generation, (filters[2]), contract_id);
"""


def upgrade() -> None:
    op.execute(INDEXES)
