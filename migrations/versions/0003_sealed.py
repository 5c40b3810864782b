"""Values and salts of sealed members, beside the public body: whatever takes a body away takes them with it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE payloads ADD COLUMN sealed bytea")
