"""Whether a ledger requires If-Match is part of the policy that its admins set."""

from alembic import context, op

revision = "0014"
down_revision = "0013"

PRIVILEGES = "GRANT UPDATE (if_match_required) ON ledgers TO {role};"


def upgrade() -> None:
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
