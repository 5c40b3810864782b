"""The policy that a ledger's admins set says whether it requires If-Match, and whether it refuses what it would flag."""

from alembic import context, op

revision = "0014"
down_revision = "0013"

UPGRADE = "ALTER TABLE ledgers ADD COLUMN strict boolean NOT NULL DEFAULT false;"
PRIVILEGES = "GRANT UPDATE (if_match_required, strict) ON ledgers TO {role};"


def upgrade() -> None:
    op.execute(UPGRADE)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
