"""The guard: no appends to a ledger whose history is not the one signed, at the start, after a reconnect and when signing finds out.

The kept heads (`service.log.heads`) do the same for what this deployment committed; what is compared here is the kept checkpoint, which
other machines write too, and which nobody restores together with the data folder.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from psycopg import AsyncConnection

from service.errors import StoreUnusable
from service.log.checkpoint import Checkpoint, origin_of
from service.log.heads import Heads
from service.log.kept import CheckpointStore, forked
from service.log.tree import EMPTY, root_of

LEAVE_ALONE_SECONDS: Final = 30
"""How long a store that could not be read is not asked again by connections, each of which would wait for it."""
# A checkpoint is of the end of a batch, and batches are only ever added: so a database that has none there has another history.
THERE = """
SELECT l.ledger_id::text, l.name, l.epoch, h.last_position, b.last_position, b.frontier
FROM jsonb_to_recordset(%s::jsonb) AS k(ledger_id uuid, size bigint)
JOIN ledgers l ON l.ledger_id = k.ledger_id
CROSS JOIN LATERAL (SELECT max(n.last_position) AS last_position FROM batches n WHERE n.ledger_id = l.ledger_id) h
LEFT JOIN batches b ON b.ledger_id = l.ledger_id AND b.last_position = k.size
"""
_SIGNED = """
SELECT l.ledger_id::text, l.name FROM ledgers l
WHERE EXISTS (SELECT FROM checkpoints c WHERE c.ledger_id = l.ledger_id)
    OR EXISTS (SELECT FROM epochs p, deployment d WHERE p.ledger_id = l.ledger_id AND starts_with(p.note, d.name || '/'))
"""
_log = structlog.get_logger()


class Guard:
    """Compares what is kept with the database behind each connection."""

    def __init__(self, store: CheckpointStore, deployment: str, heads: Heads) -> None:
        self._store, self._deployment, self._heads = store, deployment, heads
        self._not_before = 0.0

    async def check(self, connection: AsyncConnection[Any]) -> None:
        """Refuse appends to ledgers whose history is not the one kept, and to those alone; what cannot be compared is told in the log."""
        if time.monotonic() < self._not_before:
            return
        try:
            # First what is kept, then the database: what is signed meanwhile is in both.
            found = await asyncio.to_thread(self._store.read_all)
        except StoreUnusable as error:
            self._not_before = time.monotonic() + LEAVE_ALONE_SECONDS
            _log.error("whether the database is the one that was signed for is not known", why=error.detail)
            return
        kept = {ledger_id: one for ledger_id, one in found.items() if isinstance(one, Checkpoint)}
        asked = json.dumps([{"ledger_id": ledger_id, "size": checkpoint.size} for ledger_id, checkpoint in kept.items()])
        for row in await (await connection.execute(THERE, [asked])).fetchall():
            self._judge(row[0], fork(self._deployment, kept[row[0]], row))
        for ledger_id, name in await (await connection.execute(_SIGNED)).fetchall():
            if ledger_id not in kept:
                known = found.get(ledger_id)
                why = known.detail if isinstance(known, StoreUnusable) else "it was signed, and none is kept: the store was emptied"
                _log.error("whether the database is the one that was signed for is not known", ledger=name, why=why)

    def _judge(self, ledger_id: str, why: str | None) -> None:
        if why is None:
            self._heads.accept(ledger_id)
            return
        _log.critical("the database is not the one that was signed for", ledger_id=ledger_id, why=why)
        self._heads.refuse(ledger_id, forked(why).detail)


def fork(deployment: str, kept: Checkpoint, there: Sequence[Any]) -> str | None:
    """Why a ledger, as a row of THERE, is not the one of which a checkpoint is kept; None if it is."""
    _, name, epoch, head, size, frontier = there
    origin = origin_of(deployment, name, epoch)
    if kept.origin != origin:
        return f"it is {origin}, and the checkpoint kept is one of {kept.origin}"
    if head < kept.size:
        return f"it has {head} events, and the checkpoint kept is one of {kept.size}"
    if frontier is None or (root_of(frontier) if size else EMPTY) != kept.root:
        return f"it has another root at size {kept.size} than the one kept"
    return None
