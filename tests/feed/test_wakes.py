"""Wake-ups: a commit here wakes at once, one elsewhere by NOTIFY; and whatever fails of that, nothing is missed, only later."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from service.database import Database as Connections
from service.feed import wakes
from service.feed.wakes import APPLICATION, CHANNEL, Wakes
from tests.conftest import Database
from tests.servers import make_ledger, rows

NEVER = 1_000.0


@asynccontextmanager
async def waking(url: str) -> AsyncIterator[Wakes]:
    connections = Connections(url, 2)
    await connections.open()
    made = Wakes(connections, url)
    try:
        yield made
    finally:
        await made.close()
        await connections.close()


def ledger_id_of(database: Database) -> str:
    name = make_ledger(database.service_url)
    return str(rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", name)[0][0])


def put_batch(database: Database, ledger_id: str, position: int) -> None:
    """A head that this process has not heard of."""
    rows(database.superuser_url, "INSERT INTO batches VALUES (%s, %s, now(), '')", ledger_id, position)


async def within(seconds: float, waiting: "asyncio.Future[None]") -> float:
    """How long it was until somebody who waits was woken."""
    began = time.monotonic()
    await asyncio.wait_for(asyncio.shield(waiting), seconds)
    return time.monotonic() - began


async def is_listening(database: Database) -> None:
    """Once somebody listens, as Postgres knows it."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = %s AND query LIKE 'LISTEN%%'"
    async with asyncio.timeout(20):
        while not rows(database.superuser_url, query, database.name, APPLICATION)[0][0]:  # noqa: ASYNC110 - Postgres tells nobody
            await asyncio.sleep(0.02)


async def test_a_commit_wakes_who_waits_in_the_same_process_without_the_database() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    here = Wakes(Connections(nowhere, 2), nowhere)
    ledger_id, other_id = str(uuid4()), str(uuid4())
    woken, asleep, ahead = (asyncio.ensure_future(here.beyond(*place, NEVER)) for place in ((ledger_id, 4), (other_id, 4), (ledger_id, 5)))
    await asyncio.sleep(0)
    here.committed(ledger_id, 5)
    assert await within(1, woken) < 0.5
    await here.beyond(ledger_id, 4, NEVER)  # who comes later has not missed it
    assert (asleep.done(), ahead.done(), here.waiting) == (False, False, 2)
    for waiting in (asleep, ahead):
        waiting.cancel()
    await asyncio.wait([asleep, ahead])
    assert here.waiting == 0
    await here.close()


async def test_a_waiter_is_let_go_at_its_time_and_when_it_is_over() -> None:
    here = Wakes(Connections("postgresql://", 2), "postgresql://nobody@127.0.0.1:1/nothing")
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(here.beyond(str(uuid4()), 0, NEVER, over))
    await here.beyond(str(uuid4()), 0, 0.01)
    assert not waiting.done()
    over.set_result(None)
    await within(1, waiting)
    await here.close()


async def test_a_commit_of_another_process_is_told_by_notify(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_SECONDS", NEVER)
    ledger_id = ledger_id_of(database)
    async with waking(database.service_url) as here, waking(database.service_url) as there:
        waiting = asyncio.ensure_future(here.beyond(ledger_id, 0, NEVER))
        await is_listening(database)
        for position in range(1, 50):
            put_batch(database, ledger_id, position)
            there.committed(ledger_id, position)
        assert await within(10, waiting) < 5


async def test_what_a_stranger_sends_on_the_channel_is_only_a_hint(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "POLL_SECONDS", NEVER)
    ledger_id = ledger_id_of(database)
    async with waking(database.service_url) as here:
        waiting = asyncio.ensure_future(here.beyond(ledger_id, 0, NEVER))
        await is_listening(database)
        for payload in ("", "x", f"x {'y' * 7_000}", f"x '; DROP {ledger_id.upper()}", f"x {uuid4()}", f"x {ledger_id}"):
            rows(database.service_url, "SELECT pg_notify(%s, %s)", CHANNEL, payload)
        rows(database.service_url, "SELECT pg_notify(%s, %s)", CHANNEL, f"x {ledger_id}")
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        put_batch(database, ledger_id, 1)
        rows(database.service_url, "SELECT pg_notify(%s, %s)", CHANNEL, f"x {ledger_id}")
        await within(10, waiting)


async def test_where_no_notify_comes_through_who_waits_looks_by_itself(database: Database) -> None:
    ledger_id = ledger_id_of(database)
    async with waking(database.service_url) as here:
        waiting = asyncio.ensure_future(here.beyond(ledger_id, 0, NEVER))
        await is_listening(database)
        put_batch(database, ledger_id, 1)
        await within(10, waiting)


async def test_a_ledger_that_is_an_older_copy_by_now_is_believed(database: Database) -> None:
    """Else who follows it would be told without end that there is more."""
    ledger_id = ledger_id_of(database)
    async with waking(database.service_url) as here:
        here.committed(ledger_id, 9)
        async with asyncio.timeout(20):
            while True:
                began = time.monotonic()
                await here.beyond(ledger_id, 5, 0.2)
                if time.monotonic() - began > 0.1:
                    break
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("ended", ["NOTIFY", "LISTEN"])
async def test_a_connection_that_is_killed_is_made_again(database: Database, ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that falls in between is found by looking, the next is told by NOTIFY again."""
    monkeypatch.setattr(wakes, "AGAIN_SECONDS", 0.05)
    ledger_id = ledger_id_of(database)
    async with waking(database.service_url) as here, waking(database.service_url) as there:
        for position in range(1, 5):
            waiting = asyncio.ensure_future(here.beyond(ledger_id, position - 1, NEVER))
            await is_listening(database)
            put_batch(database, ledger_id, position)
            there.committed(ledger_id, position)
            await within(10, waiting)
            # A connection that tells is made when there is something to tell.
            await killed(database, ended, lambda: there.committed(ledger_id, position))  # noqa: B023 - it is called here


async def killed(database: Database, ended: str, use: Callable[[], None]) -> None:
    """Once a connection is ended, by its administrator, that told or heard of commits."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name = %s AND query {} 'LISTEN%%'"
    query = query.format("LIKE" if ended == "LISTEN" else "NOT LIKE")
    use()
    async with asyncio.timeout(20):
        while not rows(database.superuser_url, query, database.name, APPLICATION):
            await asyncio.sleep(0.02)
            use()
