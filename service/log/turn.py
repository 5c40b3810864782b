"""The turn of the day: rows whose state the calendar has changed are folded anew, in chunks, under the ledger's lock.

A clock that jumps must not settle rows for a day that has not come. So nothing is turned while the clocks of database and process are
apart, and rows that both clocks together had settled for a later day are folded anew once the clocks are right again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection

from service.background import Background
from service.database import Database
from service.domain.erasure import check_gaps
from service.errors import ClockUntrusted, LedgerError
from service.inserts import insert_rows, rows_of
from service.log.decide import CLOCK_TOLERANCE
from service.log.ledger import Ledger, zone
from service.log.ledgers import all_ledgers
from service.log.outlook import replace_outlooks
from service.log.read import Reader
from service.log.stored import recorded_event
from service.projections.contracts import LAYOUT, ContractRow, contract_row, project, projected
from service.tables import contracts

CHUNK = 100
LOOK_SECONDS = 30
ROWS_A_LOOK = 10_000

_LOCK = "SELECT FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_LEDGER = "SELECT generation, layout, clock_timestamp() FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid"
_LOOK = """
SELECT clock_timestamp(), l.layout, b.recorded_at, EXISTS (
    SELECT FROM contracts c WHERE c.ledger_id = l.ledger_id AND c.generation = l.generation AND c.holds_until <= %(today)s
)
FROM ledgers l
CROSS JOIN LATERAL (SELECT recorded_at FROM batches WHERE ledger_id = l.ledger_id ORDER BY last_position DESC LIMIT 1) b
WHERE l.ledger_id = %(ledger_id)s::uuid
"""
_DUE = """
SELECT contract_id::text, revision, position, encode(last_hash, 'hex'), last_on FROM contracts
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND holds_until <= %(today)s
  AND contract_id <> ALL(%(passed_by)s::uuid[])
ORDER BY holds_until LIMIT %(chunk)s
"""
_SETTLED = """
SELECT contract_id::text, settled_on FROM contracts c
WHERE ledger_id = %(ledger_id)s::uuid AND contract_id > %(after)s::uuid
  AND generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
ORDER BY c.contract_id LIMIT %(limit)s
"""
_SETTLED_LATER = """
SELECT contract_id::text, revision, position, encode(last_hash, 'hex'), last_on FROM contracts
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND settled_on > %(today)s
  AND contract_id = ANY(%(contract_ids)s::uuid[])
"""
_EVENTS = """
SELECT e.header, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body,
       e.contract_id::text
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[])
"""
_UPSERT = insert_rows(contracts, upsert=True)
_FIRST_ID = str(UUID(int=0))
# What a body raises that is not the one recorded: the fold is total over what was validated.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, msgspec.MsgspecError)
_log = structlog.get_logger()


class Turning:
    """The task that turns the day of every ledger, at start and after every midnight of its zone. If it dies, it is begun again."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader
        self._seen: dict[str, tuple[date, date]] = {}
        """The day that each ledger was last turned to, and the day of its newest batch then."""
        self._background = Background("the turn of the day", self._run, LOOK_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether the task died, and has not come round since."""
        return self._background.has_died

    async def close(self) -> None:
        """End the task; what it had not committed is due again at the next start."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            try:
                for ledger in await all_ledgers(self._reader):
                    await self._turn(ledger)
                self._background.is_well()
            except (psycopg.Error, LedgerError) as error:
                _log.warning("the turn of the day waits", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _turn(self, ledger: Ledger) -> None:
        """Refresh all rows of a ledger that are due; a ledger whose lock or rows cannot be had does not keep the others waiting."""
        try:
            look = await _look(self._database, ledger)
            if look is None:
                return
            if self._may_have_been_ahead(ledger, look):
                await turn_back(self._database, ledger, look.today)
            self._seen[ledger.ledger_id] = look.today, look.newest_on
            due, passed_by = look.due, set[str]()
            while due:
                before = len(passed_by)
                due = await turn(self._database, ledger, passed_by) > 0 or len(passed_by) > before
        except psycopg.Error as error:
            _log.warning("the turn of the day passes a ledger by", ledger=ledger.name, error=str(error))

    def _may_have_been_ahead(self, ledger: Ledger, look: "_Look") -> bool:
        """Whether rows may be settled for a later day: always before the first look, and once after each trace of a clock ahead."""
        seen = self._seen.get(ledger.ledger_id)
        return seen is None or (seen != (look.today, look.newest_on) and max(seen[0], look.newest_on) > look.today)


class _Look(NamedTuple):
    """What a ledger shows without its lock: its day, the day of its newest batch, and whether a row is due."""

    today: date
    newest_on: date
    due: bool


async def _look(database: Database, ledger: Ledger) -> _Look | None:
    """None where the rows have a layout that this release does not know. ClockUntrusted when the clocks are apart."""
    today = datetime.now(UTC).astimezone(zone(ledger.time_zone)).date()
    rows = await database.rows(_LOOK, {"ledger_id": ledger.ledger_id, "today": today}, planned_anew=True)
    if not rows or rows[0][1] != LAYOUT:
        return None
    now, _, newest_at, due = rows[0]
    _check_clocks(now)
    return _Look(today, newest_at.astimezone(zone(ledger.time_zone)).date(), due)


def _check_clocks(now: datetime) -> None:
    """The same tolerance as for an append: else one jump of a clock would settle rows for a day that has not come."""
    apart = abs(now.timestamp() - time.time())
    if apart > CLOCK_TOLERANCE.total_seconds():
        raise ClockUntrusted(f"The clocks of the database and of this process are {apart:.0f} s apart; set them right.")


async def turn(database: Database, ledger: Ledger, passed_by: set[str]) -> int:
    """Refresh a chunk of the rows that are due, but for those of contracts that are `passed_by`; how many. To these come the contracts of
    the chunk that cannot be read. The lock is taken only when rows are due."""
    look = await _look(database, ledger)
    if look is None or not look.due:
        return 0
    refreshed, unreadable = await _refresh(database, ledger, _DUE, {"chunk": CHUNK, "passed_by": sorted(passed_by)})
    passed_by |= unreadable
    return refreshed


async def turn_back(database: Database, ledger: Ledger, today: date) -> int:
    """Refresh the rows that were settled for a later day, while the clocks were ahead; how many."""
    after, refreshed = _FIRST_ID, 0
    while True:
        parameters = {"ledger_id": ledger.ledger_id, "after": after, "limit": ROWS_A_LOOK}
        rows = await database.rows(_SETTLED, parameters, planned_anew=True)
        later = [contract_id for contract_id, settled_on in rows if settled_on > today]
        for start in range(0, len(later), CHUNK):
            refreshed += (await _refresh(database, ledger, _SETTLED_LATER, {"contract_ids": later[start : start + CHUNK]}))[0]
        if len(rows) < ROWS_A_LOOK:
            return refreshed
        after = rows[-1][0]


async def _refresh(database: Database, ledger: Ledger, which: str, parameters: dict[str, Any]) -> tuple[int, set[str]]:
    """Fold the rows that a query finds anew, under the ledger's lock; how many were written, and the contracts that cannot be read."""
    async with database.transaction() as connection:
        await connection.execute(_LOCK, {"ledger_id": ledger.ledger_id})
        row = await (await connection.execute(_LEDGER, {"ledger_id": ledger.ledger_id})).fetchone()
        if row is None or row[1] != LAYOUT:
            return 0, set()
        generation, _, now = row
        _check_clocks(now)
        today = now.astimezone(zone(ledger.time_zone)).date()
        parameters = {**parameters, "ledger_id": ledger.ledger_id, "generation": generation, "today": today}
        due = await (await connection.execute(which, parameters)).fetchall()
        rows = await _folded(connection, ledger, due, today) if due else []
        if rows:
            await connection.execute(_UPSERT, {"ledger_id": ledger.ledger_id, **rows_of(contracts, projected(rows, generation))})
            await replace_outlooks(connection, ledger.ledger_id, generation, [(row.contract_id, row.state) for row in rows])
        return len(rows), {row[0] for row in due} - {row.contract_id for row in rows}


async def _folded(connection: AsyncConnection[Any], ledger: Ledger, due: Sequence[Any], today: date) -> list[ContractRow]:
    """The rows as of today. One whose events cannot be read stays as it is, and is told: it must not keep the others waiting."""
    parameters = {"ledger_id": ledger.ledger_id, "contract_ids": [row[0] for row in due]}
    stored: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for header, body, contract_id in await (await connection.execute(_EVENTS, parameters)).fetchall():
        stored[contract_id].append((header, body))
    rows = []
    for row in due:
        try:
            rows.append(_fold(ledger, row, stored[row[0]], today))
        except _UNREADABLE as error:
            _log.critical("a contract cannot be folded; verify its ledger", ledger=ledger.name, contract_id=row[0], error=repr(error))
    return rows


def _fold(ledger: Ledger, row: Sequence[Any], stored: Sequence[tuple[Any, Any]], today: date) -> ContractRow:
    contract_id, revision, position, last_hash, last_on = row
    history = [recorded_event(header, body, zone(ledger.time_zone)) for header, body in stored]
    check_gaps(history)
    told = project(history, today)
    return contract_row(contract_id, told, revision=revision, position=position, last_hash=last_hash, last_on=last_on, day=today)
