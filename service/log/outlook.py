"""The outlook of a ledger: deadlines, commitments and parties over all contracts, which follow the log when they are asked for.

An append writes nothing of it. Whoever asks first lets it catch up: from the contracts of the events since, each taken as its row stands.
What changes rows beside the log (the turn of the day) replaces their contributions in its own transaction.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from service.database import Database
from service.errors import LedgerNotFound, OutlookBehind
from service.inserts import insert_rows, rows_json
from service.log.ledger import Ledger
from service.projections.outlook import AMOUNTS, DIMENSIONS, Changes, outlook_of
from service.tables import commitments, deadlines, outlooks, parties

FOLLOW_SECONDS = 2
"""How long a request lets the outlook catch up; what is not reached by then is told by the position in its answer."""
FOLLOW_CONTRACTS = 500
FOLLOW_EVENTS = 2_000
_FIRST_ID = UUID(int=0)

_STANDS = """
SELECT l.generation, b.last_position, h.position, h.filled_to
FROM ledgers l
CROSS JOIN LATERAL (SELECT last_position FROM batches WHERE ledger_id = l.ledger_id ORDER BY last_position DESC LIMIT 1) b
LEFT JOIN outlook_heads h ON h.ledger_id = l.ledger_id AND h.generation = l.generation
WHERE l.ledger_id = %(ledger_id)s::uuid
"""
_BEGIN = """
INSERT INTO outlook_heads (ledger_id, generation, position, filled_to)
VALUES (%(ledger_id)s::uuid, %(generation)s, %(position)s, %(filled_to)s) ON CONFLICT DO NOTHING
"""
_LOCK = """
SELECT position, filled_to FROM outlook_heads WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s FOR UPDATE
"""
_MOVE = """
UPDATE outlook_heads SET position = %(position)s, filled_to = %(filled_to)s
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s
"""
_NEXT_CONTRACTS = """
SELECT contract_id::text, state FROM contracts c
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND contract_id > %(filled_to)s::uuid
ORDER BY c.contract_id LIMIT %(limit)s
"""
_NEXT_EVENTS = """
SELECT position, contract_id::text FROM events e
WHERE ledger_id = %(ledger_id)s::uuid AND position > %(position)s
ORDER BY e.position LIMIT %(limit)s
"""
_STATES = """
SELECT contract_id::text, state FROM contracts
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND contract_id = ANY(%(contract_ids)s::uuid[])
"""
_KEPT = _STATES.replace("state FROM contracts", "outlook FROM outlooks")
_DROP_DEADLINES = """
DELETE FROM deadlines
WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s AND contract_id = ANY(%(contract_ids)s::uuid[])
"""
_KEY = ", ".join(("ledger_id", "generation", *DIMENSIONS))
_ADD_COMMITMENTS = f"{insert_rows(commitments)} ON CONFLICT ({_KEY}) DO UPDATE SET " + ", ".join(
    f"{name} = commitments.{name} + excluded.{name}" for name in (*AMOUNTS, "lines")
)
_ADD_PARTIES = (
    f"{insert_rows(parties)} ON CONFLICT (ledger_id, generation, party_id, digest) "
    "DO UPDATE SET contracts = parties.contracts + excluded.contracts"
)
# Only what a change touched can have come to nothing; each row is looked up by itself, as the limit commands, whatever the plan's age.
_IS_THE_SAME = " AND ".join(f"{name} = r.{name}" for name in ("generation", *DIMENSIONS))
_DROP_EMPTY_COMMITMENTS = f"""
DELETE FROM commitments WHERE ctid = ANY(ARRAY(
    SELECT c.ctid
    FROM jsonb_to_recordset(%(commitments)s::jsonb) AS r(generation int, by_party boolean, by_product boolean,
        party text, product text, currency text, unit text, year text, basis text, status text)
    CROSS JOIN LATERAL (
        SELECT ctid FROM commitments WHERE ledger_id = %(ledger_id)s::uuid AND {_IS_THE_SAME} AND lines = 0 LIMIT 1
    ) c))
"""  # noqa: S608
_DROP_EMPTY_PARTIES = """
DELETE FROM parties WHERE ctid = ANY(ARRAY(
    SELECT p.ctid
    FROM jsonb_to_recordset(%(parties)s::jsonb) AS r(generation int, party_id text, digest text)
    CROSS JOIN LATERAL (
        SELECT ctid FROM parties
        WHERE ledger_id = %(ledger_id)s::uuid AND generation = r.generation AND party_id = r.party_id AND digest = r.digest
          AND contracts = 0
        LIMIT 1
    ) p))
"""
_UPSERT_OUTLOOKS = insert_rows(outlooks, upsert=True)
_INSERT_DEADLINES = insert_rows(deadlines)


class Stand(NamedTuple):
    """Where the outlook of a ledger stands: the generation of its rows, and the position up to which it follows the log."""

    generation: int
    position: int


class Outlooks:
    """The outlooks of all ledgers, as one process lets them follow."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._following: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def follow(self, ledger: Ledger) -> Stand:
        """Let the outlook catch up, for a while. OutlookBehind while it has not been filled for the first time."""
        stand = await self._stand(ledger)
        if isinstance(stand, Stand):
            return stand
        until = time.monotonic() + FOLLOW_SECONDS
        # One of this process at a time: the others find its work done, and wait without a connection.
        async with self._following[ledger.ledger_id]:
            while not isinstance(stand := await self._stand(ledger), Stand):
                if time.monotonic() > until:
                    break
                await self._step(ledger)
        if isinstance(stand, Stand):
            return stand
        generation, position, filled_to = stand[0], stand[2], stand[3]
        if position is None or filled_to is not None:
            raise _behind(ledger)
        return Stand(generation, position)

    async def check(self, ledger: Ledger, stand: Stand) -> None:
        """OutlookBehind when a rebuild has put other rows in the place of those that were read: they may not have been all any more."""
        found = await self._stand(ledger)
        if found[0] != stand.generation:
            raise _behind(ledger)

    async def _stand(self, ledger: Ledger) -> Stand | list[Any]:
        """Where it stands, if that is at the head; else generation, head, and position and place of filling so far."""
        rows = await self._database.rows(_STANDS, {"ledger_id": ledger.ledger_id})
        if not rows:
            raise LedgerNotFound(f"There is no ledger {ledger.name}.")
        generation, head, position, filled_to = rows[0]
        return Stand(generation, head) if position == head and filled_to is None else [*rows[0]]

    async def _step(self, ledger: Ledger) -> None:
        """Take in a chunk, under the lock of the outlook's head."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_STANDS, {"ledger_id": ledger.ledger_id})).fetchone()
            if row is None:
                return
            at = {"ledger_id": ledger.ledger_id, "generation": row[0]}
            if row[2] is None:
                await connection.execute(_BEGIN, at | {"position": row[1], "filled_to": _FIRST_ID})
            locked = await (await connection.execute(_LOCK, at)).fetchone()
            if locked is not None:
                await self._advance(connection, at, *locked)

    async def _advance(self, connection: AsyncConnection[Any], at: dict[str, Any], position: int, filled_to: UUID | None) -> None:
        if filled_to is not None:
            found = at | {"filled_to": filled_to, "limit": FOLLOW_CONTRACTS}
            states = await (await connection.execute(_NEXT_CONTRACTS, found)).fetchall()
            filled_to = UUID(states[-1][0]) if len(states) == FOLLOW_CONTRACTS else None
        else:
            wanted = at | {"position": position, "limit": FOLLOW_EVENTS}
            events = await (await connection.execute(_NEXT_EVENTS, wanted)).fetchall()
            position = events[-1][0] if events else position
            ids = sorted({row[1] for row in events})
            states = await (await connection.execute(_STATES, at | {"contract_ids": ids})).fetchall()
        await _take_in(connection, at, states)
        await connection.execute(_MOVE, at | {"position": position, "filled_to": filled_to})


def _behind(ledger: Ledger) -> OutlookBehind:
    return OutlookBehind(f"Commitments, deadlines and parties of ledger {ledger.name} are being made from its contracts.")


async def replace_outlooks(connection: AsyncConnection[Any], ledger_id: str, generation: int, states: Iterable[tuple[str, str]]) -> None:
    """Replace the contributions of contracts whose rows (id and state) a transaction changes beside the log, under the ledger's lock.

    Nothing is done while a ledger has no outlook: what fills it reads the rows as they stand then.
    """
    at = {"ledger_id": ledger_id, "generation": generation}
    if await (await connection.execute(_LOCK, at)).fetchone() is not None:
        await _take_in(connection, at, [*states])


async def _take_in(connection: AsyncConnection[Any], at: dict[str, Any], states: Sequence[Sequence[Any]]) -> None:
    """Put the contributions of these contracts in the place of those that stood. The caller holds the lock of the head."""
    if not states:
        return
    rows = await (await connection.execute(_KEPT, at | {"contract_ids": [row[0] for row in states]})).fetchall()
    kept: dict[str, str] = {row[0]: row[1] for row in rows}
    changes = await asyncio.to_thread(_changes, at["generation"], kept, states)
    if not changes.contract_ids:
        return
    sums, forms = rows_json(changes.commitments), rows_json(changes.parties)
    if kept:
        await connection.execute(_DROP_DEADLINES, at | {"contract_ids": changes.contract_ids})
    await connection.execute(_UPSERT_OUTLOOKS, at | {"outlooks": rows_json(changes.outlooks)})
    await connection.execute(_INSERT_DEADLINES, at | {"deadlines": rows_json(changes.deadlines)})
    await connection.execute(_ADD_COMMITMENTS, at | {"commitments": sums})
    await connection.execute(_ADD_PARTIES, at | {"parties": forms})
    if kept:
        await connection.execute(_DROP_EMPTY_COMMITMENTS, at | {"commitments": sums})
        await connection.execute(_DROP_EMPTY_PARTIES, at | {"parties": forms})


def _changes(generation: int, kept: dict[str, str], states: Sequence[Sequence[Any]]) -> Changes:
    changes = Changes(generation)
    for contract_id, state in states:
        changes.replace(contract_id, kept.get(contract_id), outlook_of(state))
    return changes
