"""Wakes whoever waits for a ledger's next events, in whichever process they were recorded.

Within a process the writer says so after its commit. To the others it is told by NOTIFY: after the commit, from another connection, one at
a time, with all that was committed meanwhile, since a NOTIFY within the append would have the commits of the whole cluster wait for one
another. Whether a notice comes or not, the heads of the ledgers that are waited for are looked at every POLL_SECONDS: so a notice may be
lost, with its connection or with Postgres, and nobody misses an event.
"""

import asyncio
import json
from contextlib import suppress

import psycopg
import structlog

from service.background import Background
from service.database import Database
from service.errors import LedgerError

CHANNEL = "contract_ledger"
POLL_SECONDS = 1.0
"""How often is looked for what nobody has told of."""
GATHER_SECONDS = 0.005
"""How long a notice waits for what is committed next, before it goes to other processes."""
AGAIN_SECONDS = 1.0
"""After a lost connection."""

_NOTIFY = """
SELECT pg_notify(%(channel)s, w.ledger_id || ' ' || w.position)
FROM jsonb_to_recordset(%(newest)s::jsonb) AS w(ledger_id text, position text)
"""
_HEADS = """
SELECT w.ledger_id::text, (SELECT max(b.last_position) FROM batches b WHERE b.ledger_id = w.ledger_id)
FROM unnest(%(ledger_ids)s::uuid[]) AS w(ledger_id)
"""
_log = structlog.get_logger()


class Wakes:
    """What is known of the heads of ledgers in this process, and who waits for them to move."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._untold: dict[str, int] = {}
        self._to_tell = asyncio.Event()
        self.is_over = False
        """Whether the service ends, so that nobody should wait any more."""
        self._tasks = [
            Background("telling other processes of events", self._notify, AGAIN_SECONDS),
            Background("listening for events of other processes", self._listen, AGAIN_SECONDS),
            Background("looking for events that nobody told of", self._poll, AGAIN_SECONDS),
        ]

    async def beyond(self, ledger_id: str, position: int, seconds: float) -> None:
        """Wait until a ledger may have events past a position, for so many seconds at most; not at all once the service ends."""
        if self.is_over or self._newest.get(ledger_id, 0) > position:
            return
        woken = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(ledger_id, set())
        waiting.add(woken)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(woken, seconds)
        finally:
            waiting.discard(woken)
            if not waiting and self._waiting.get(ledger_id) is waiting:
                del self._waiting[ledger_id]

    def committed(self, ledger_id: str, position: int) -> None:
        """A batch was committed by this process, up to a position."""
        self._untold[ledger_id] = position
        self._to_tell.set()
        self._reached(ledger_id, position)

    def end(self) -> None:
        """Let everyone who waits go at once: the service ends."""
        self.is_over = True
        for ledger_id in [*self._waiting]:
            self._wake(ledger_id)

    async def close(self) -> None:
        """End what runs beside the requests."""
        self.end()
        for task in self._tasks:
            await task.close()

    def _reached(self, ledger_id: str, position: int) -> None:
        if position > self._newest.get(ledger_id, 0):
            self._newest[ledger_id] = position
            self._wake(ledger_id)

    def _wake(self, ledger_id: str) -> None:
        for woken in self._waiting.pop(ledger_id, ()):
            if not woken.done():
                woken.set_result(None)

    async def _notify(self) -> None:
        """Tell the other processes what this one committed."""
        while True:
            await self._to_tell.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._to_tell.clear()
            newest = [{"ledger_id": ledger_id, "position": str(position)} for ledger_id, position in self._untold.items()]
            self._untold.clear()
            try:
                await self._database.rows(_NOTIFY, {"channel": CHANNEL, "newest": json.dumps(newest)})
                self._tasks[0].is_well()
            except (psycopg.Error, LedgerError) as error:
                _log.warning("other processes were not told of events; they look by themselves", reason=_first_line(error))

    async def _listen(self) -> None:
        """Hear what other processes committed."""
        while True:
            try:
                async with await self._database.connect_apart() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._tasks[1].is_well()
                    async for notice in connection.notifies():
                        self._heard(notice.payload)
            except psycopg.Error as error:
                _log.warning("events of other processes are not heard of; they are looked for", reason=_first_line(error))
            await asyncio.sleep(AGAIN_SECONDS)

    def _heard(self, payload: str) -> None:
        ledger_id, _, position = payload.partition(" ")
        if position.isdecimal():
            self._reached(ledger_id, int(position))

    async def _poll(self) -> None:
        """Look at the heads of what is waited for."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._waiting:
                continue
            before = {ledger_id: self._newest.get(ledger_id, 0) for ledger_id in self._waiting}
            try:
                for ledger_id, position in await self._database.rows(_HEADS, {"ledger_ids": [*before]}):
                    self._looked(ledger_id, before[ledger_id], position or 0)
                self._tasks[2].is_well()
            except (psycopg.Error, LedgerError) as error:
                _log.warning("the heads of the ledgers cannot be looked at", reason=_first_line(error))

    def _looked(self, ledger_id: str, before: int, position: int) -> None:
        """What the database has counts, also where that is less than it had before: then it was restored."""
        if position < before == self._newest.get(ledger_id):
            self._newest[ledger_id] = position
        self._reached(ledger_id, position)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
