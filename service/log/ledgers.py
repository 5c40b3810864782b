"""Making ledgers: a row, its lock, and the first row of its log, all or none."""

from collections.abc import Sequence
from typing import Any

import psycopg
from uuid_utils import uuid7

from service.log.ledger import Ledger
from service.log.read import Reader
from service.projections.contracts import LAYOUT

_MAKE = """
WITH made AS (
    INSERT INTO ledgers (ledger_id, name, time_zone, layout) VALUES (%(ledger_id)s::uuid, %(name)s, %(time_zone)s, %(layout)s)
    ON CONFLICT (name) DO NOTHING RETURNING ledger_id
), lock AS (
    INSERT INTO ledger_locks (ledger_id) SELECT ledger_id FROM made
), head AS (
    INSERT INTO batches (ledger_id, last_position, recorded_at, frontier) SELECT ledger_id, 0, '1970-01-01T00:00:00Z', '' FROM made
)
SELECT count(*) FROM made
"""
_COLUMNS = "ledger_id::text, name, time_zone, if_match_required, unique_reference_schemes, public_log, strict"
_ALL = f"SELECT {_COLUMNS} FROM ledgers ORDER BY name"  # noqa: S608
_VISIBLE = "name > %(after)s AND (%(ledger_ids)s::uuid[] IS NULL OR ledger_id = ANY(%(ledger_ids)s::uuid[]))"
_PAGE = f"SELECT {_COLUMNS} FROM ledgers WHERE {_VISIBLE} ORDER BY name LIMIT %(limit)s"  # noqa: S608
_COUNT = f"SELECT count(*) FROM (SELECT FROM ledgers WHERE {_VISIBLE} LIMIT %(limit)s) found"  # noqa: S608


def make_parameters(name: str, time_zone: str) -> dict[str, Any]:
    return {"ledger_id": str(uuid7()), "name": name, "time_zone": time_zone, "layout": LAYOUT}


def make_ledger(connection: psycopg.Connection[Any], name: str, time_zone: str) -> bool:
    """Make a ledger from a command; False if there is one of the name."""
    row = connection.execute(_MAKE, make_parameters(name, time_zone)).fetchone()
    return bool(row and row[0])


async def create_ledger(reader: Reader, name: str, time_zone: str) -> tuple[Ledger, bool]:
    """The ledger of the name, and whether this call made it."""
    rows = await reader.database.rows(_MAKE, make_parameters(name, time_zone))
    ledger, _ = await reader.ledger(name)
    return ledger, bool(rows[0][0])


async def all_ledgers(reader: Reader) -> list[Ledger]:
    """Every ledger of the database, by name."""
    return [Ledger(*row) for row in await reader.database.rows(_ALL)]


async def ledgers_after(reader: Reader, name: str, limit: int, ledger_ids: Sequence[str] | None) -> list[Ledger]:
    """The ledgers after a name, by name; only those of the ids, if ids are given."""
    parameters = {"after": name, "limit": limit, "ledger_ids": ledger_ids}
    return [Ledger(*row) for row in await reader.database.rows(_PAGE, parameters)]


async def count_ledgers(reader: Reader, limit: int, ledger_ids: Sequence[str] | None) -> int:
    """How many ledgers there are, or are of the ids; no more than the limit are counted."""
    rows = await reader.database.rows(_COUNT, {"after": "", "limit": limit, "ledger_ids": ledger_ids})
    return int(rows[0][0])
