"""Erasure: the one way by which a body leaves the log, open only to who records the erasure in the same transaction."""

from alembic import context, op

revision = "0007"
down_revision = "0006"

# The trigger fires for the owner too, in every session_replication_role. `xmin` is the transaction that wrote a row: what was recorded
# before erases nothing any more.
TRIGGER = """
CREATE FUNCTION refuse_unless_erased() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (
        SELECT FROM public.events e
        JOIN public.events a ON a.ledger_id = e.ledger_id AND a.contract_id = e.contract_id
        WHERE e.ledger_id = OLD.ledger_id AND e.position = OLD.position AND e.event_type NOT IN ('event.erased', 'event.voided')
          AND a.event_type = 'event.erased' AND a.xmin = pg_current_xact_id()::xid
          AND e.event_id::text = (
              SELECT convert_from(p.body, 'UTF8')::jsonb #>> '{data,target}' FROM public.payloads p
              WHERE p.ledger_id = a.ledger_id AND p.position = a.position)
    ) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
DROP TRIGGER refuse_change ON payloads;
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON payloads FOR EACH ROW EXECUTE FUNCTION refuse_unless_erased();
ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change;
"""

# The copies of what an event said: docs/erasure.md lists them, and a test finds no other.
ERASE = """
CREATE FUNCTION erase(of_ledger uuid, positions bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
    live integer;
    targets text[];
    concerned uuid[];
BEGIN
    DELETE FROM public.payloads p WHERE p.ledger_id = of_ledger AND p.position = ANY(positions);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone = 0 OR gone <> cardinality(positions) THEN
        RAISE EXCEPTION 'there is nothing to erase' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT array_agg('%' || e.event_id || '%'), array_agg(DISTINCT e.contract_id) INTO targets, concerned
        FROM public.events e WHERE e.ledger_id = of_ledger AND e.position = ANY(positions);
    UPDATE public.idempotency i SET salt = '', digest = '' WHERE i.ledger_id = of_ledger AND i.receipt LIKE ANY(targets);
    UPDATE public.import_lines l SET digest = NULL WHERE l.ledger_id = of_ledger AND l.position = ANY(positions);
    UPDATE public.import_lines l SET pointer = NULL, detail = NULL
        WHERE l.ledger_id = of_ledger AND l.position IS NULL AND l.contract_id = ANY(concerned);
    DELETE FROM public.deliveries d USING public.events e
        WHERE e.ledger_id = of_ledger AND e.position = ANY(positions)
          AND d.ledger_id = of_ledger AND d.contract_id = e.contract_id AND d.revision = e.revision;
    SELECT l.generation INTO live FROM public.ledgers l WHERE l.ledger_id = of_ledger;
    DELETE FROM public.contracts c WHERE c.ledger_id = of_ledger AND c.contract_id = ANY(concerned) AND c.generation <> live;
    -- Of the live generation the outlook is told anew by who erases; of others it is not told any more.
    DELETE FROM public.outlook_heads o WHERE o.ledger_id = of_ledger AND o.generation <> live;
    DELETE FROM public.outlooks o WHERE o.ledger_id = of_ledger AND o.generation <> live;
    DELETE FROM public.deadlines o WHERE o.ledger_id = of_ledger AND o.generation <> live;
    DELETE FROM public.commitments o WHERE o.ledger_id = of_ledger AND o.generation <> live;
    DELETE FROM public.parties o WHERE o.ledger_id = of_ledger AND o.generation <> live;
END
$$;
REVOKE ALL ON FUNCTION erase(uuid, bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION erase(uuid, bigint[]) TO {role};
"""


def upgrade() -> None:
    op.execute(TRIGGER)
    op.execute(ERASE.replace("{role}", context.config.attributes["service_role"]))
