"""The turn of the day: rows whose state the calendar has changed are folded anew, in chunks, under the ledger's lock."""

import asyncio
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from service.database import Database, contracts, insert_rows
from service.errors import LedgerError
from service.log.ledger import Ledger, zone
from service.log.ledgers import all_ledgers
from service.log.read import Reader, recorded_event
from service.projections.contracts import LAYOUT, ContractRow, contract_row, contract_rows_json, project

CHUNK = 100
LOOK_SECONDS = 30

_LOCK = "SELECT FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_LEDGER = "SELECT generation, layout, clock_timestamp() FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid"
_DUE = """
SELECT contract_id::text, revision, position, encode(last_hash, 'hex'), last_on FROM contracts
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND holds_until <= %(today)s
ORDER BY holds_until LIMIT %(chunk)s
"""
_EVENTS = """
SELECT e.header, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[])
"""
_UPSERT = insert_rows(contracts, upsert=True)
_log = structlog.get_logger()


async def keep_turning(database: Database, reader: Reader) -> None:
    """Refresh what is due in every ledger, at start and after every midnight of the ledger's zone, for ever."""
    while True:
        try:
            for ledger in await all_ledgers(reader):
                await _turn_all(database, ledger)
        except (psycopg.Error, LedgerError) as error:
            _log.warning("the turn of the day waits for the database", error=str(error))
        await asyncio.sleep(LOOK_SECONDS)


async def _turn_all(database: Database, ledger: Ledger) -> None:
    while await turn(database, ledger) == CHUNK:
        pass


async def turn(database: Database, ledger: Ledger) -> int:
    """Refresh a chunk of the rows that are due; how many there were."""
    async with database.connection() as connection, connection.transaction():
        await connection.execute(_LOCK, {"ledger_id": ledger.ledger_id})
        row = await (await connection.execute(_LEDGER, {"ledger_id": ledger.ledger_id})).fetchone()
        if row is None or row[1] != LAYOUT:
            return 0
        generation, today = row[0], row[2].astimezone(zone(ledger.time_zone)).date()
        parameters = {"ledger_id": ledger.ledger_id, "generation": generation, "today": today, "chunk": CHUNK}
        due = await (await connection.execute(_DUE, parameters)).fetchall()
        if due:
            rows = await _folded(connection, ledger, due, today)
            await connection.execute(_UPSERT, {"ledger_id": ledger.ledger_id, "contracts": contract_rows_json(rows, generation)})
        return len(due)


async def _folded(connection: AsyncConnection[Any], ledger: Ledger, due: list[Any], today: Any) -> list[ContractRow]:
    contract_ids = [row[0] for row in due]
    cursor = await connection.execute(_EVENTS, {"ledger_id": ledger.ledger_id, "contract_ids": contract_ids})
    histories: dict[str, list[Any]] = {contract_id: [] for contract_id in contract_ids}
    for header, body in await cursor.fetchall():
        contract_id, event = recorded_event(header, body, zone(ledger.time_zone))
        histories[contract_id].append(event)
    return [
        contract_row(
            contract_id,
            project(histories[contract_id], today),
            revision=revision,
            position=position,
            last_hash=last_hash,
            last_on=last_on,
            day=today,
        )
        for contract_id, revision, position, last_hash, last_on in due
    ]
