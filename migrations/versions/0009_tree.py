"""The tree: what each batch leaves open of it, and its tiles as they become full."""

from alembic import context, op

revision = "0009"
down_revision = "0008"

# Batches that were recorded before have no frontier until `migrate` has built their tree, which it does in short transactions of its own.
TABLES = """
ALTER TABLE batches ADD COLUMN frontier bytea;

CREATE TABLE tiles (
    ledger_id uuid NOT NULL,
    level integer NOT NULL,
    number bigint NOT NULL,
    hashes bytea STORAGE EXTERNAL NOT NULL,
    root bytea NOT NULL,
    PRIMARY KEY (ledger_id, level, number),
    CONSTRAINT tiles_hashes_check CHECK (octet_length(hashes) = 8192),
    CONSTRAINT tiles_root_check CHECK (octet_length(root) = 32)
);
"""

# Nobody but the owner may UPDATE batches at all, and it only what is missing.
REFUSAL = """
CREATE FUNCTION refuse_but_frontier() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.frontier IS NULL AND NEW.frontier IS NOT NULL
       AND (NEW.ledger_id, NEW.last_position, NEW.recorded_at) = (OLD.ledger_id, OLD.last_position, OLD.recorded_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
DROP TRIGGER refuse_change ON batches;
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON batches FOR EACH ROW EXECUTE FUNCTION refuse_but_frontier();
ALTER TABLE batches ENABLE ALWAYS TRIGGER refuse_change;

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON tiles FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON tiles FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE tiles ENABLE ALWAYS TRIGGER refuse_change;
ALTER TABLE tiles ENABLE ALWAYS TRIGGER refuse_truncate;
"""
PRIVILEGES = "GRANT SELECT, INSERT ON tiles TO {role}"


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(REFUSAL)
    op.execute(PRIVILEGES.format(role=context.config.attributes["service_role"]))
