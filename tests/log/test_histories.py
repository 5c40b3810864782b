"""Histories that are held in memory: they say what the log says, erasures and another log included, and take no more room than there is."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from service.database import Database as Connections
from service.log import histories
from service.log.histories import Histories
from service.log.ledger import Ledger
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import note, opening
from tests.servers import in_process, make_key, make_ledger, rows

LAST = 1_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """A ledger that a service appends to, and what reads it apart from that service, as another process would."""

    database: Database
    api: httpx.AsyncClient
    connections: Connections
    ledger: Ledger
    held: Histories

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.api.post(path, json=body, headers={"Idempotency-Key": secrets.token_hex()})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def open(self, notes: int) -> str:
        """The id of a new contract with so many notes."""
        contract_id: str = (await self.post("/contracts/reported", opening()))["contract_id"]
        for number in range(notes):
            await self.note(contract_id, f"note {number}")
        return contract_id

    async def note(self, contract_id: str, text: str) -> str:
        """The id of a new note."""
        event_id: str = (await self.post(f"/contracts/{contract_id}/note-added", note(text)))["events"][0]["event_id"]
        return event_id

    async def assert_true(self, contract_id: str, position: int = LAST) -> int:
        """What is held is what is read anew; how many events those are."""
        told = await self.held.upto(self.ledger, contract_id, position)
        assert told == await Histories(self.connections).upto(self.ledger, contract_id, position)
        return len(told)


@pytest.fixture
async def told(database: Database, tmp_path: Path) -> AsyncIterator[Told]:
    url, name = database.service_url, make_ledger(database.service_url)
    connections = Connections(url, 4)
    await connections.open()
    ledger = Ledger(*rows(url, "SELECT ledger_id::text, name, time_zone FROM ledgers WHERE name = %s", name)[0])
    async with in_process(Settings(database_url=url, data_dir=tmp_path)) as make, make(name, make_key(url)) as api:
        yield Told(database, api, connections, ledger, Histories(connections))
    await connections.close()


async def test_what_is_held_is_what_the_log_says_at_every_position_and_after_more_events(told: Told) -> None:
    contract_id, other = await told.open(5), await told.open(1)
    for _ in range(2):
        assert [await told.assert_true(contract_id, position) for position in range(9)] == [0, 1, 2, 3, 4, 5, 6, 6, 6]
        assert [await told.assert_true(other, position) for position in (6, 7, 8)] == [0, 1, 2]
    await told.note(contract_id, "one more")
    assert await told.assert_true(contract_id, 8) == 6
    assert await told.assert_true(contract_id) == 7
    assert await told.assert_true("00000000-0000-7000-8000-000000000000") == 0


async def test_what_another_process_erased_is_told_no_more(told: Told) -> None:
    contract_id = await told.open(2)
    event_id = await told.note(contract_id, "secret")
    before = await told.held.upto(told.ledger, contract_id, LAST)
    assert "secret" in repr(before)
    erasure = {"source": {"kind": "system"}, "data": {"target": event_id, "legal_basis": "asked for"}}
    await told.post(f"/contracts/{contract_id}/event-erased", erasure)
    known_before_the_erasure = await told.held.upto(told.ledger, contract_id, before[-1].position)
    assert known_before_the_erasure[-1].data.is_erased
    assert "secret" not in repr(known_before_the_erasure)
    assert await told.assert_true(contract_id) == 5


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM events WHERE ledger_id = %(ledger_id)s AND position = 4",
        "UPDATE events SET header = convert_to(replace(convert_from(header, 'UTF8'), 'system', 'others'), 'UTF8') WHERE position = 4",
        "DELETE FROM events WHERE ledger_id = %(ledger_id)s",
    ],
    ids=["cut", "changed", "gone"],
)
async def test_nothing_is_told_from_memory_that_the_log_does_not_bear_out(told: Told, change: str) -> None:
    """As when an older copy of the database was put in the place of the one that was read."""
    contract_id = await told.open(3)
    assert await told.assert_true(contract_id) == 4
    with psycopg.connect(told.database.superuser_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER USER")
        connection.execute(change.encode(), {"ledger_id": told.ledger.ledger_id})
        connection.execute("ALTER TABLE events ENABLE TRIGGER USER")
    await told.assert_true(contract_id)


async def test_those_asked_for_last_are_held_as_far_as_there_is_room(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    contracts = [await told.open(2) for _ in range(5)]
    for contract_id in contracts:
        await told.assert_true(contract_id)
    of_one = told.held.held_bytes // 5
    monkeypatch.setattr(histories, "MAX_HELD_BYTES", 3 * of_one + of_one // 2)
    for contract_id in [*contracts, *reversed(contracts)]:
        assert await told.assert_true(contract_id) == 3
        assert 2 * of_one < told.held.held_bytes <= histories.MAX_HELD_BYTES
    monkeypatch.setattr(histories, "MAX_HELD_BYTES", of_one // 2)
    assert await told.assert_true(contracts[0]) == 3
    assert told.held.held_bytes < 3 * of_one


async def test_nothing_is_held_for_long_however_often_it_is_asked_for(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "HELD_SECONDS", 0.3)
    contract_id = await told.open(1)
    first, deadline = (await told.held.upto(told.ledger, contract_id, LAST))[0], time.monotonic() + 10
    assert (await told.held.upto(told.ledger, contract_id, LAST))[0] is first
    while (await told.held.upto(told.ledger, contract_id, LAST))[0] is first:
        assert time.monotonic() < deadline, "what is asked for again and again is held for ever"
        await told.note(contract_id, "more")
    while told.held.held_bytes:
        assert time.monotonic() < deadline, "what nobody asks for is held for ever"
        await asyncio.sleep(0.01)
