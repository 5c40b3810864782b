"""Hours of an endpoint that fails, by a clock that the test moves on: nobody waits for them.

The deliverer is the service's own, over its database and to a receiver that runs; only what it takes for the time is moved.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from service.database import Database as Connections
from service.feed import delivering
from service.feed.delivering import PAGE_EVENTS, PROBE_SECONDS, WAITS, Deliverer, Lease, Next
from service.feed.sending import Sender, read_networks
from service.log.ledger import Ledger
from service.log.read import Reader, WantedEvents
from tests.api.bodies import open_contract
from tests.conftest import Database
from tests.feed.test_webhooks import LOOPBACK, Receiver, api, comes, grown, hook, receiver, service
from tests.servers import rows

__all__ = ["api", "receiver", "service"]
HOUR = 3_600


class Clock:
    """The time, and as much more as was passed over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        clock, loop, real = self, asyncio.get_running_loop(), asyncio.get_running_loop().time

        class Moved(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + timedelta(seconds=clock.ahead)

        monkeypatch.setattr(delivering, "datetime", Moved)
        monkeypatch.setattr(delivering, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + self.ahead))
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)

    async def drive(self, deliverer: Deliverer, seconds: float) -> None:
        """Let so many seconds pass for a deliverer, of which only those are waited in which it has something to do."""
        until = self.ahead + seconds
        while self.ahead < until:
            if not await deliverer.step():
                self.ahead = min(until, self.ahead + max(0.001, deliverer.seconds_left()))


@pytest.fixture
async def connections(database: Database) -> AsyncIterator[Connections]:
    made = Connections(database.service_url, 2)
    await made.open()
    yield made
    await made.close()


def leased(database: Database, api: httpx.Client, webhook_id: str) -> Lease:
    """The lease of a webhook, which is taken from the service."""
    api.post(f"/webhooks/{webhook_id}/pause")
    comes(lambda: rows(database.service_url, "SELECT 1 FROM webhooks WHERE webhook_id = %s AND worker IS NULL", webhook_id), "it is free")
    worker = str(uuid4())
    taken = "UPDATE webhooks SET status = 'active', worker = %s, leased_until = clock_timestamp() + '1 day' WHERE webhook_id = %s"
    rows(database.superuser_url, taken, worker, webhook_id)
    query = "SELECT l.ledger_id::text, name, time_zone FROM ledgers l JOIN webhooks w USING (ledger_id) WHERE w.webhook_id = %s"
    return Lease(Ledger(*rows(database.service_url, query, webhook_id)[0]), 1, worker, webhook_id)


@asynccontextmanager
async def delivering_to(connections: Connections, lease: Lease) -> AsyncIterator[Deliverer]:
    reader, sender = Reader(connections), Sender(read_networks(LOOPBACK))

    async def read_next(ledger: Ledger, after: int, wanted: WantedEvents) -> Next:
        found = await reader.events(ledger, after, PAGE_EVENTS)
        return Next(found, found[-1].header.position if found else after, more=False)

    deliverer = Deliverer(reader, read_next, sender, asyncio.Semaphore(2), lease)
    deliverer.leased_until = float("inf")
    try:
        yield deliverer
    finally:
        await deliverer.close()
        sender.close()


async def test_an_hour_of_answers_500_is_a_bounded_number_of_tries_after_which_everything_comes_at_once_and_in_order(
    database: Database, connections: Connections, api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "WAITS", WAITS)  # those of the service, not the short ones of the other tests
    lease = leased(database, api, hook(api, receiver))
    contracts = [grown(api, 1) for _ in range(15)]
    receiver.answer(500)
    clock = Clock(monkeypatch)
    async with delivering_to(connections, lease) as deliverer:
        await clock.drive(deliverer, HOUR)
        assert deliverer.is_stalled
        assert deliverer.held() == {"retrying": len(contracts)}
        due_within_an_hour = 6  # 5 s, 30 s, 2 min, 5 min and 15 min one after the other, and the first of all; half an hour follows
        assert len(contracts) <= len(receiver.got()) <= len(contracts) * (due_within_an_hour + 2)
        receiver.answer()
        fresh = open_contract(api)
        await clock.drive(deliverer, 2 * PROBE_SECONDS)
        assert receiver.arrived(fresh) == [1]
        assert [receiver.arrived(contract_id) for contract_id in contracts] == [[1, 2]] * len(contracts)
        assert (deliverer.held(), deliverer.is_stalled) == ({}, False)


async def test_what_failed_keeps_its_attempts_while_the_cursor_stays(
    database: Database, connections: Connections, api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = leased(database, api, hook(api, receiver))
    bad, slow = open_contract(api), grown(api, 1)
    receiver.answer(contracts={bad: (422, 0), slow: (200, 1)})
    clock = Clock(monkeypatch)
    async with delivering_to(connections, lease) as deliverer:
        step = asyncio.create_task(deliverer.step())
        await asyncio.to_thread(comes, lambda: len(receiver.got()) == 2, "one of each is on its way")
        deliverer.leased_until = 0.0
        assert await step
        assert (receiver.arrived(slow), deliverer.position) == ([1], 0), "the second was not sent, so the cursor stays"
        deliverer.leased_until = float("inf")
        clock.ahead += 1  # by now what failed is due
        receiver.answer(contracts={bad: (422, 0)})
        await deliverer.step()
        assert deliverer.position == 3
        await deliverer.step()
        assert [deliverer._holds[bad].attempts, len([line for line in receiver.got() if line["status"] == 422])] == [2, 2]
