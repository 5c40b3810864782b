"""The task of the service that has webhooks delivered to, each by one process of all that share the database.

A webhook is leased: as long as its process lives, it moves the lease on. What a killed one has left is taken over when the lease has run
out, by any other, and goes on from where it was last written.
"""

import asyncio
import contextlib
from collections import Counter
from typing import Final
from uuid import uuid4

import psycopg
import structlog

from service.background import Background
from service.errors import LedgerError
from service.feed.delivering import PAGE_EVENTS, Deliverer, Lease, Next
from service.feed.pages import SCAN_EVENTS
from service.feed.sending import Sender
from service.feed.subscriptions import DEAD, RETRYING
from service.feed.wakes import Wakes
from service.log.ledger import Ledger
from service.log.read import EVERYTHING, Reader, WantedEvents
from service.log.stored import StoredEvent

LOOK_SECONDS: Final = 3
LEASE_SECONDS: Final = 15
MARGIN_SECONDS: Final = 2
"""Before its lease runs out a process sends nothing any more."""
AGAIN_SECONDS: Final = 1
CONNECTIONS: Final = 2
"""How many of the process's connections the deliveries use at a time: the rest is for requests."""
MAX_CLAIMED: Final = 100
MORE_SECONDS: Final = 0.3
"""After a look that took up so many, until the next: so that others that start at the same time have some too."""

WEBHOOK_STATES: Final = ("well", "down", "resting")

# Two of the few queries over all ledgers: whichever of them has webhooks.
_RENEW = """
UPDATE webhooks SET worker = CASE WHEN status = 'active' THEN worker END,
    leased_until = CASE WHEN status = 'active' THEN clock_timestamp() + make_interval(secs => %(seconds)s) END
WHERE worker = %(worker)s::uuid
RETURNING webhook_id::text, status, version, (SELECT epoch FROM ledgers l WHERE l.ledger_id = webhooks.ledger_id)
"""
_CLAIM = """
UPDATE webhooks SET worker = %(worker)s::uuid, leased_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE (ledger_id, webhook_id) IN (
    SELECT ledger_id, webhook_id FROM webhooks
    WHERE status = 'active' AND (leased_until IS NULL OR leased_until < clock_timestamp()
        OR worker = %(worker)s::uuid AND webhook_id <> ALL(%(attended)s::uuid[]))
    ORDER BY webhooks.webhook_id LIMIT %(most)s FOR UPDATE SKIP LOCKED)
RETURNING webhook_id::text, (SELECT name FROM ledgers l WHERE l.ledger_id = webhooks.ledger_id)
"""
_RELEASE = "UPDATE webhooks SET worker = NULL, leased_until = NULL WHERE worker = %(worker)s::uuid"
_log = structlog.get_logger()


class Webhooks:
    """Finds webhooks that nobody delivers to, and delivers to them. If the task dies, it is begun again."""

    def __init__(self, reader: Reader, wakes: Wakes, sender: Sender) -> None:
        self.sender = sender
        self._database = reader.database
        self._reader = reader
        self._wakes = wakes
        self._worker = str(uuid4())
        self._deliverers: dict[str, Deliverer] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._reading: dict[tuple[str, int], asyncio.Task[list[StoredEvent]]] = {}
        self._wake = asyncio.Event()
        self._background = Background("the task of the webhooks", self._run, LOOK_SECONDS)

    def wake(self) -> None:
        """A webhook was made or changed: look now."""
        self._wake.set()

    def standing(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many webhooks this process delivers to, and how many contracts they hold back, each by state."""
        ours = [*self._deliverers.values()]
        states = Counter("down" if one.is_stalled else "resting" if one.is_resting else "well" for one in ours)
        return dict.fromkeys(WEBHOOK_STATES, 0) | states, dict.fromkeys((RETRYING, DEAD), 0) | sum((one.held() for one in ours), Counter())

    async def close(self) -> None:
        """Deliver no more, and leave what there is to others."""
        await self._background.close()
        for webhook_id in [*self._tasks]:
            await self._let_go(webhook_id)
        self.sender.close()
        with contextlib.suppress(psycopg.Error, LedgerError):
            await self._database.rows(_RELEASE + " RETURNING webhook_id", {"worker": self._worker})

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            seconds: float = LOOK_SECONDS
            try:
                await self._renew()
                if await self._claim() == MAX_CLAIMED:
                    seconds = MORE_SECONDS
                self._background.is_well()
            except (psycopg.Error, LedgerError) as error:
                _log.warning("the webhooks wait", reason=str(error).partition("\n")[0])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    async def _renew(self) -> None:
        """Move the leases on; deliver no more to what is another's now, and look anew at what was changed."""
        leased_until = asyncio.get_running_loop().time() + LEASE_SECONDS - MARGIN_SECONDS
        rows = await self._database.rows(_RENEW, {"worker": self._worker, "seconds": LEASE_SECONDS})
        ours = {webhook_id: known for webhook_id, status, *known in rows if status == "active"}
        for webhook_id in self._tasks.keys() - ours.keys():
            await self._let_go(webhook_id)
        for webhook_id in ours.keys() & self._deliverers.keys():
            deliverer, task = self._deliverers[webhook_id], self._tasks[webhook_id]
            deliverer.leased_until = leased_until
            if task.done():  # it had ended, or died, and there is something to be delivered again
                if task.exception() is not None:
                    _log.critical("the deliveries to a webhook died and are begun again", exc_info=task.exception())
                self._tasks[webhook_id] = asyncio.create_task(self._attend(deliverer))
            if not deliverer.is_as_known(*ours[webhook_id]) or task.done():
                deliverer.reread()
                deliverer.changed.set()

    async def _claim(self) -> int:
        """Take up what nobody delivers to, and say how much that was; also what was leased to this process and is not known here, since the
        answer to an earlier claim was lost, or what came after it failed: its lease is moved on like the others."""
        leased_until = asyncio.get_running_loop().time() + LEASE_SECONDS - MARGIN_SECONDS
        named = {"worker": self._worker, "seconds": LEASE_SECONDS, "most": MAX_CLAIMED, "attended": [*self._deliverers]}
        rows = await self._database.rows(_CLAIM, named)
        for webhook_id, name in rows:
            await self._let_go(webhook_id)
            ledger, epoch = await self._reader.ledger(name)
            made = Deliverer(self._reader, self._read, self.sender, self._slots, Lease(ledger, epoch, self._worker, webhook_id))
            made.leased_until = leased_until
            self._deliverers[webhook_id] = made
            self._tasks[webhook_id] = asyncio.create_task(self._attend(made))
        return len(rows)

    async def _let_go(self, webhook_id: str) -> None:
        task, deliverer = self._tasks.pop(webhook_id, None), self._deliverers.pop(webhook_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if deliverer is not None:
            await deliverer.close()

    async def _attend(self, deliverer: Deliverer) -> None:
        """Deliver whenever there is something, until there will be nothing any more."""
        while True:
            if deliverer.is_over:  # the database is slow to move the lease on, and need not be asked for events meanwhile
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            try:
                done = await deliverer.step()
            except (psycopg.Error, LedgerError) as error:
                _log.warning("a webhook waits", reason=str(error).partition("\n")[0])
                deliverer.reread()
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if done is None:
                return
            if not done:
                await self._pause(deliverer)

    async def _pause(self, deliverer: Deliverer) -> None:
        """Wait for the next event, for what is held to be due, or for a change from outside."""
        seconds = min(deliverer.seconds_left(), LEASE_SECONDS)
        changed = asyncio.create_task(deliverer.changed.wait())
        waits: set[asyncio.Task[object]] = {changed}
        if not (deliverer.is_stalled or deliverer.is_resting):
            waits.add(asyncio.create_task(self._wakes.beyond(deliverer.ledger_id, deliverer.position, seconds)))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        deliverer.changed.clear()

    async def _read(self, ledger: Ledger, after: int, wanted: WantedEvents) -> Next:
        """The next events that are wanted: those who ask for what comes after the same position share one reading, and sift it by
        themselves, as a thousand do that wait at the head."""
        found = await self._shared(ledger, after)
        more = len(found) > PAGE_EVENTS
        if wanted == EVERYTHING or not more:
            events = [event for event in found[:PAGE_EVENTS] if wanted.has(event.header)]
            return Next(events, found[:PAGE_EVENTS][-1].header.position if found else after, more)
        async with self._slots:
            head, _ = await self._reader.newest(ledger)
            end = min(head, after + SCAN_EVENTS)
            events = await self._reader.wanted_events(ledger, after, end, PAGE_EVENTS, wanted)
        if len(events) == PAGE_EVENTS:
            end = events[-1].header.position
        return Next(events, end, end < head)

    async def _next(self, ledger: Ledger, after: int) -> list[StoredEvent]:
        async with self._slots:
            return await self._reader.events(ledger, after, PAGE_EVENTS + 1)

    async def _shared(self, ledger: Ledger, after: int) -> list[StoredEvent]:
        key = (ledger.ledger_id, after)
        if (reading := self._reading.get(key)) is None:
            self._reading[key] = reading = asyncio.create_task(self._next(ledger, after))
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        return await asyncio.shield(reading)
