"""An erasure looks for its receipts by the contract that each begins with, and only in those for the events: a request that erases a
hundred events read every receipt of the ledger a hundred times over, and in a large ledger never came to an end in its time."""

from alembic import op

revision = "0015"
down_revision = "0014"

ERASE = """
CREATE OR REPLACE FUNCTION erase(of_ledger uuid, positions bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
    live integer;
    targets text[];
    openings text[];
    concerned uuid[];
BEGIN
    DELETE FROM public.payloads p WHERE p.ledger_id = of_ledger AND p.position = ANY(positions);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone = 0 OR gone <> cardinality(positions) THEN
        RAISE EXCEPTION 'there is nothing to erase' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT array_agg('%' || e.event_id || '%'), array_agg(DISTINCT e.contract_id) INTO targets, concerned
        FROM public.events e WHERE e.ledger_id = of_ledger AND e.position = ANY(positions);
    openings := ARRAY(SELECT '{"contract_id":"' || contract_id || '"%' FROM unnest(concerned) contract_id);
    UPDATE public.idempotency i SET salt = '', digest = ''
        WHERE i.ledger_id = of_ledger AND i.receipt LIKE ANY(openings) AND i.receipt LIKE ANY(targets);
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
"""


def upgrade() -> None:
    op.execute(ERASE)
