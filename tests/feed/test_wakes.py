"""Whoever waits for events is woken: at once by this process or another, and when all notices are lost, by a look at the heads."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest

from service.database import Database as Connections
from service.feed import wakes as waking
from service.feed.wakes import CHANNEL, Wakes
from tests.conftest import Database
from tests.servers import make_ledger, rows, wait_for

LONG = 60.0
LEDGER = "00000000-0000-7000-8000-000000000001"
LISTENERS = f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN {CHANNEL}'"


@asynccontextmanager
async def woken(database: Database) -> AsyncIterator[Wakes]:
    connections = Connections(database.service_url, 2)
    await connections.open()
    wakes = Wakes(connections)
    yield wakes
    await wakes.close()
    await connections.close()


async def until(wakes: Wakes, ledger_id: str, position: int) -> float:
    """How long it was waited."""
    began = time.monotonic()
    await wakes.beyond(ledger_id, position, LONG)
    return time.monotonic() - began


async def listening(database: Database, count: int) -> None:
    """So many processes have asked to be told."""
    await asyncio.to_thread(wait_for, lambda: len(rows(database.superuser_url, LISTENERS)) == count, f"{count} listeners")


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks: only a notice wakes."""
    monkeypatch.setattr(waking, "POLL_SECONDS", LONG)


@pytest.mark.usefixtures("deaf")
async def test_who_waits_in_the_same_process_is_woken_without_the_database() -> None:
    nowhere = Connections("postgresql://nobody@127.0.0.1:1/nothing", 2)
    wakes, ledger_id = Wakes(nowhere), str(uuid4())
    waiting = [asyncio.create_task(until(wakes, ledger_id, position)) for position in (3, 4)]
    await asyncio.sleep(0)
    wakes.committed(str(uuid4()), 9)
    wakes.committed(ledger_id, 5)
    assert max(await asyncio.gather(*waiting)) < LONG / 2
    assert await until(wakes, ledger_id, 4) < LONG / 2, "what is known to be there is not waited for"
    await wakes.close()


@pytest.mark.usefixtures("deaf")
async def test_other_processes_are_told_and_only_of_what_was_committed_last(database: Database) -> None:
    ledger_id, other = str(uuid4()), str(uuid4())
    async with woken(database) as here, woken(database) as there:
        await listening(database, 2)
        waiting = [asyncio.create_task(until(there, known, 7)) for known in (ledger_id, other)]
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            for position in range(1, 9):
                here.committed(ledger_id, position)
            here.committed(other, 8)
            assert max(await asyncio.gather(*waiting)) < LONG / 2
            told = await asyncio.to_thread(lambda: [notice.payload for notice in connection.notifies(timeout=0.2)])
    assert sorted(told) == sorted([f"{ledger_id} 8", f"{other} 8"])


async def test_who_is_told_nothing_finds_out_by_looking(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "POLL_SECONDS", 0.05)
    name = make_ledger(database.service_url)
    ((ledger_id,),) = rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", name)
    async with woken(database) as wakes:
        waiting = asyncio.create_task(until(wakes, ledger_id, 0))
        with psycopg.connect(database.superuser_url, autocommit=True) as connection:
            connection.execute("INSERT INTO batches (ledger_id, last_position, recorded_at) VALUES (%s, 4, now())", [ledger_id])
        assert await waiting < LONG / 2


@pytest.mark.usefixtures("deaf")
async def test_a_listener_whose_connection_is_killed_listens_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "AGAIN_SECONDS", 0.05)
    async with woken(database) as here, woken(database) as there:
        await listening(database, 2)
        killed = rows(database.superuser_url, LISTENERS.replace("SELECT pid", "SELECT pg_terminate_backend(pid), pid"))
        lost = {pid for _, pid in killed}

        def again() -> bool:
            found = {pid for (pid,) in rows(database.superuser_url, LISTENERS)}
            return len(found) == 2 and not found & lost

        await asyncio.to_thread(wait_for, again, "two new listeners")
        waiting = asyncio.create_task(until(there, LEDGER, 0))
        await asyncio.sleep(0)
        here.committed(LEDGER, 1)
        assert await waiting < LONG / 2


@pytest.mark.usefixtures("deaf")
async def test_nobody_waits_once_the_service_ends(database: Database) -> None:
    async with woken(database) as wakes:
        waiting = asyncio.create_task(until(wakes, LEDGER, 0))
        await asyncio.sleep(0)
        wakes.end()
        assert await waiting < LONG / 2
        assert await until(wakes, LEDGER, 0) < LONG / 2


async def test_a_wait_ends_with_its_time(database: Database) -> None:
    async with woken(database) as wakes:
        await wakes.beyond(LEDGER, 0, 0.01)
        assert not wakes._waiting, "nothing is left of who has gone"
