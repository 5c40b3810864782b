"""Wake-ups: who waits for a ledger's next event learns that there is one.

A commit of this process wakes its own waiters at once. Those of other processes hear of it by NOTIFY, sent from a connection of its own
after the commit, never inside the append, and many commits at a time. A wake-up is a hint and nothing more: what there is, is read from
the log, and whoever hears no hint looks by itself. So no event is missed whatever fails here.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from service.background import Background
from service.database import Database
from service.errors import LedgerError

CHANNEL = "contract_ledger"
APPLICATION = "contract-ledger feed"
POLL_SECONDS = 1.0
"""Between two looks for what no NOTIFY told of."""
NOTIFY_SECONDS = 0.02
"""Between two NOTIFYs of a process at least; what is committed meanwhile goes in the next."""
AGAIN_SECONDS = 1.0
"""After a failure, before a connection is made again."""
NOTIFY_LEDGERS = 100
"""How many ledgers one NOTIFY names; the text of one has less than 8,000 bytes."""

_NOTIFY = "SELECT pg_notify(%s, %s)"
# One of the few queries over several ledgers: those that somebody in this process waits for.
_HEADS = """
SELECT l.ledger_id::text, coalesce((
    SELECT b.last_position FROM batches b WHERE b.ledger_id = l.ledger_id ORDER BY b.last_position DESC LIMIT 1
), 0)
FROM unnest(%(ledger_ids)s::uuid[]) AS l(ledger_id)
"""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FAILURES = (psycopg.Error, LedgerError, OSError, TimeoutError)
_log = structlog.get_logger()


class Wakes:
    """The waiters of one process, and how they hear of commits here and elsewhere."""

    def __init__(self, database: Database, url: str) -> None:
        """Begin. `url` is where NOTIFY and LISTEN have a connection each: not through a pooler that shares them between transactions."""
        self._database = database
        self._url = url
        self._sender = str(uuid4())
        self._known: dict[str, int] = {}
        """The last position of each ledger, as far as this process has heard."""
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}
        """By ledger, who waits for what comes after which position."""
        self._unsent: set[str] = set()
        self._heard: set[str] = set()
        """What others told of, to be looked for."""
        self._doubted: set[str] = set()
        """Where somebody was told that there is more, and may have found that there is not: in a database that is an older copy now."""
        self._to_send, self._to_look, self._followed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._tasks = (
            Background("the task that tells of commits", self._send, AGAIN_SECONDS),
            Background("the task that hears of commits", self._listen, AGAIN_SECONDS),
            Background("the task that looks for commits", self._look, AGAIN_SECONDS),
        )

    async def beyond(self, ledger_id: str, position: int, timeout: float, over: "asyncio.Future[None] | None" = None) -> None:  # noqa: ASYNC109
        """Return when the ledger may have events past a position, or after so many seconds, or when `over` is done. It may return too
        early, and then there is nothing to be read yet."""
        self._followed.set()
        if self._known.get(ledger_id, 0) > position:
            self._doubted.add(ledger_id)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(ledger_id, {})
        waiting[woken] = position
        try:
            await asyncio.wait({woken} if over is None else {woken, over}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del waiting[woken]
            if not waiting and self._waiting.get(ledger_id) is waiting:
                del self._waiting[ledger_id]

    def committed(self, ledger_id: str, position: int) -> None:
        """Take note that this process has committed up to a position: its own waiters are woken, the others are told soon."""
        self._learn(ledger_id, position)
        self._unsent.add(ledger_id)
        self._to_send.set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def close(self) -> None:
        """End the tasks; who waits goes on until its time is over."""
        await asyncio.gather(*(task.close() for task in self._tasks))

    def _learn(self, ledger_id: str, position: int) -> None:
        self._known[ledger_id] = position
        for woken, after in self._waiting.get(ledger_id, {}).items():
            if after < position and not woken.done():
                woken.set_result(None)

    async def _send(self) -> None:
        """Tell other processes of commits."""
        while True:
            await self._to_send.wait()
            try:
                async with self._connection() as connection:
                    # Nothing of it is to last, so it need not wait for a disk.
                    await connection.execute("SET synchronous_commit = off")
                    await self._send_over(connection)
            except _FAILURES as error:
                # What was to be told is found by those who look for it.
                _log.warning("commits are not told of for a while", reason=_reason(error))
                await asyncio.sleep(AGAIN_SECONDS)

    async def _send_over(self, connection: AsyncConnection[TupleRow]) -> None:
        while True:
            await self._to_send.wait()
            named = [self._unsent.pop() for _ in range(min(NOTIFY_LEDGERS, len(self._unsent)))]
            if not self._unsent:
                self._to_send.clear()
            await connection.execute(_NOTIFY, [CHANNEL, " ".join([self._sender, *named])])
            await asyncio.sleep(NOTIFY_SECONDS)

    async def _listen(self) -> None:
        """Hear of the commits of other processes, once somebody follows a ledger here."""
        await self._followed.wait()
        while True:
            try:
                async with self._connection() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    async for told in connection.notifies():
                        self._hear(told.payload)
            except _FAILURES as error:
                _log.warning("commits of other processes are only looked for, for a while", reason=_reason(error))
            await asyncio.sleep(AGAIN_SECONDS)

    def _hear(self, payload: str) -> None:
        """Whoever may connect may send anything: of what is told nothing is believed but that it is worth a look."""
        sender, *named = payload.split(" ")
        if sender != self._sender:
            self._heard.update(ledger_id for ledger_id in named[:NOTIFY_LEDGERS] if _UUID.fullmatch(ledger_id))
            self._to_look.set()

    async def _look(self) -> None:
        """Look for what others told of, and now and then for everything that somebody waits for."""
        look_at = 0.0
        while True:
            if not (self._waiting or self._doubted):
                self._followed.clear()
                await self._followed.wait()
            await self._pause(look_at - time.monotonic())
            named, self._heard = self._heard, set()
            self._to_look.clear()
            if time.monotonic() >= look_at:
                named |= self._waiting.keys() | self._doubted
                self._doubted.clear()
                look_at = time.monotonic() + POLL_SECONDS
            try:
                await self._look_for(sorted(named))
            except _FAILURES as error:
                _log.warning("there was no looking for commits", reason=_reason(error))
                await asyncio.sleep(AGAIN_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until something is heard."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._to_look.wait(), seconds)

    async def _look_for(self, ledger_ids: list[str]) -> None:
        if not ledger_ids:
            return
        before = {ledger_id: self._known.get(ledger_id) for ledger_id in ledger_ids}
        for ledger_id, position in await self._database.rows(_HEADS, {"ledger_ids": ledger_ids}):
            known = self._known.get(ledger_id)
            # What this process has committed while the database answered is not taken back; what an older copy lacks is.
            if known is None or known == before[ledger_id] or known < position:
                self._learn(ledger_id, position)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        connection = await AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            application_name=APPLICATION,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        async with connection:
            yield connection


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
