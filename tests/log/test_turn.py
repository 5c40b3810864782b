"""The turn of the day: what the calendar changes in a contract's state shows at once in reads, and soon in rows and lists.

A ledger's day is moved on here by moving the ledger, as its owner, from the last time zone to the first: 26 hours later, by its own
calendar, than a moment ago.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from service.access import Keyring
from service.api.operations import LedgerDirectory, Services
from service.app import create_app
from service.database import Database as Connections
from service.feed.pages import Feed
from service.feed.wakes import Wakes
from service.log import turn as turning
from service.log.append import Writers
from service.log.cosigning import Cosigning
from service.log.heads import Heads
from service.log.ledger import Ledger
from service.log.outlook import Outlooks
from service.log.read import Reader
from service.log.signing import Signing
from service.log.turn import turn, turn_back
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import PARTIES, envelope, note
from tests.servers import in_process, make_key, make_ledger, rows, verified, wait_for

LAST_ZONE, FIRST_ZONE = "Etc/GMT+12", "Pacific/Kiritimati"


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger through a service in this process whose rows nobody turns unasked."""

    database: Database
    name: str
    api: httpx.AsyncClient
    connections: Connections

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.api.post(path, json=body, headers={"Idempotency-Key": secrets.token_hex()})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def open(self, body: dict[str, Any]) -> str:
        """The path of a new contract."""
        return f"/contracts/{(await self.post('/contracts/reported', body))['contract_id']}"

    def row(self, path: str) -> dict[str, Any]:
        """The stored row of a contract."""
        query = """
            SELECT json_build_object('settled_on', settled_on, 'holds_until', holds_until, 'has_pending', has_pending,
                'revision', revision, 'state', state::json, 'beside', beside::json)
            FROM contracts WHERE contract_id = %s
        """
        return dict(rows(self.database.service_url, query, path.rpartition("/")[2])[0][0])

    def move_on(self) -> None:
        """The ledger's day passes."""
        self.move(FIRST_ZONE)

    def move_back(self) -> None:
        """The day that passed has not come after all."""
        self.move(LAST_ZONE)

    def move(self, zone: str) -> None:
        rows(self.database.owner_url, "UPDATE ledgers SET time_zone = %s WHERE name = %s", zone, self.name)

    def status(self, path: str) -> str:
        """The status in the stored row of a contract."""
        return str(self.row(path)["state"]["status"])

    @property
    def ledger(self) -> Ledger:
        query = "SELECT ledger_id::text, name, time_zone, if_match_required FROM ledgers WHERE name = %s"
        return Ledger(*rows(self.database.service_url, query, self.name)[0])

    async def turn(self) -> int:
        return await turn(self.connections, self.ledger, set())


@asynccontextmanager
async def book_of(database: Database, folder: Path) -> AsyncIterator[Book]:
    stated = Settings(database_url=database.service_url, data_dir=folder)
    connections, heads = Connections(database.service_url, 4), Heads(folder)
    await connections.open()
    reader, writers = Reader(connections), Writers(connections, stated, heads)
    app = create_app(stated)
    # What the service's start puts together, but for the turning.
    keyring, directory = Keyring(connections), LedgerDirectory(reader, seconds=0)
    signing, cosigning, wakes = Signing(connections, stated), Cosigning(connections), Wakes(connections, database.service_url)
    app.state.services = Services(reader, writers, keyring, directory, Outlooks(connections), signing, cosigning, Feed(reader, wakes))
    name, key = make_ledger(database.service_url, LAST_ZONE), make_key(database.service_url)
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://service/v1/ledgers/{name}", headers=headers) as api:
        yield Book(database, name, api, connections)
    await writers.drain()
    await wakes.close()
    await heads.close()
    await connections.close()


@pytest.fixture
async def book(database: Database, tmp_path: Path) -> AsyncIterator[Book]:
    async with book_of(database, tmp_path) as made:
        yield made


def today(zone: str) -> date:
    return datetime.now(UTC).astimezone(ZoneInfo(zone)).date()


def tomorrow() -> str:
    """The day after today where the ledger is at first; there, where it moves to, it has begun."""
    return (today(LAST_ZONE) + timedelta(days=1)).isoformat()


def signed(period: dict[str, str], **members: Any) -> dict[str, Any]:
    return envelope("2024-01-26", {"signed_by": "2024-01-26", "period": period, **members})


def plain_opening() -> dict[str, Any]:
    data = {"stage": "reported", "title": "Cells", "kind": "supply", "parties": PARTIES}
    return envelope("2022-07-06", data)


async def pending_end(book: Book) -> str:
    """A contract whose completion takes effect tomorrow."""
    contract = await book.open(plain_opening())
    await book.post(f"{contract}/contract-cancelled", envelope(tomorrow(), {"by": "both"}))
    return contract


CHANGES: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "an event takes effect": ("contract-cancelled", envelope("TOMORROW", {"by": "both"}), ("reported", "cancelled")),
    "the term ends": ("contract-signed", signed({"start_on": "2024-02", "end_on": "TODAY"}), ("in_force", "expired")),
    "the period begins": ("contract-signed", signed({"start_on": "TOMORROW"}), ("signed", "in_force")),
}


def dated(body: Any) -> Any:
    """A body with its days filled in."""
    if isinstance(body, dict):
        return {name: dated(member) for name, member in body.items()}
    return {"TOMORROW": tomorrow(), "TODAY": today(LAST_ZONE).isoformat()}.get(body, body)


@pytest.mark.parametrize("change", CHANGES)
async def test_what_a_day_changes_shows_at_once_in_a_read_and_after_the_turn_in_the_row(book: Book, change: str) -> None:
    kind, body, (before, after) = CHANGES[change]
    contract = await book.open(plain_opening())
    await book.post(f"{contract}/{kind}", dated(body))
    row = book.row(contract)
    assert (row["state"]["status"], row["holds_until"]) == (before, tomorrow())

    book.move_on()
    verified(book.database.service_url, book.name)
    told = (await book.api.get(contract)).json()
    assert (told["state"]["status"], told["as_of"]["effective_on"]) == (after, today(FIRST_ZONE).isoformat())
    assert book.row(contract) == row

    assert await book.turn() == 1
    turned = book.row(contract)
    assert (turned["state"], turned["beside"]["pending"]) == (told["state"], told["pending"])
    assert (turned["settled_on"], turned["has_pending"]) == (today(FIRST_ZONE).isoformat(), False)
    assert turned["holds_until"] is None or turned["holds_until"] > today(FIRST_ZONE).isoformat()
    assert (await book.api.get(contract)).json()["state"] == told["state"]
    assert await book.turn() == 0
    verified(book.database.service_url, book.name)


async def test_a_day_that_was_withheld_until_yesterday_raises_its_anomaly(book: Book) -> None:
    contract = await book.open(plain_opening())
    withheld = [{"path": "/value", "reason": "not yet", "until": today(LAST_ZONE).isoformat()}]
    await book.post(f"{contract}/contract-signed", signed({"start_on": "2024-02"}, withheld=withheld))
    assert [found["rule"] for found in book.row(contract)["beside"]["anomalies"]] == []
    book.move_on()
    expected = ["withheld-past-its-day"]
    assert [found["rule"] for found in (await book.api.get(contract)).json()["anomalies"]] == expected
    assert await book.turn() == 1
    assert [found["rule"] for found in book.row(contract)["beside"]["anomalies"]] == expected


async def test_a_list_says_the_last_day_that_is_finished_until_the_turn(book: Book) -> None:
    contract = await pending_end(book)
    other = await book.open(plain_opening())

    async def listed(**params: str) -> tuple[dict[str, str], str]:
        page = (await book.api.get("/contracts", params=params)).json()
        return {item["contract_id"]: item["state"]["status"] for item in page["items"]}, page["as_of"]["effective_on"]

    ids = contract.rpartition("/")[2], other.rpartition("/")[2]
    assert await listed() == ({ids[0]: "reported", ids[1]: "reported"}, today(LAST_ZONE).isoformat())
    before = today(LAST_ZONE).isoformat()
    book.move_on()
    assert await listed() == ({ids[0]: "reported", ids[1]: "reported"}, before)
    assert await listed(status="cancelled") == ({}, before)
    assert await book.turn() == 1
    after = today(FIRST_ZONE).isoformat()
    assert await listed() == ({ids[0]: "cancelled", ids[1]: "reported"}, after)
    assert await listed(status="cancelled") == ({ids[0]: "cancelled"}, after)


async def test_due_rows_are_turned_in_chunks_each_a_transaction(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning, "CHUNK", 4)
    contracts = [await pending_end(book) for _ in range(9)]
    book.move_on()
    assert [await book.turn() for _ in range(4)] == [4, 4, 1, 0]
    assert {book.row(contract)["state"]["status"] for contract in contracts} == {"cancelled"}
    verified(book.database.service_url, book.name)


async def test_an_append_to_a_row_that_is_due_needs_no_turn(book: Book) -> None:
    contract = await pending_end(book)
    book.move_on()
    await book.post(f"{contract}/note-added", note("late", "2024-01-26"))
    row = book.row(contract)
    assert (row["state"]["status"], row["revision"], row["has_pending"]) == ("cancelled", 3, False)
    assert await book.turn() == 0
    verified(book.database.service_url, book.name)


async def test_turns_and_appends_at_the_same_time_lose_nothing(book: Book) -> None:
    contracts = [await pending_end(book) for _ in range(5)]
    book.move_on()
    appends = [book.post(f"{contract}/note-added", note(f"{n}")) for n in range(4) for contract in contracts]
    await asyncio.gather(*appends, *(book.turn() for _ in range(4)))
    assert [book.row(contract)["revision"] for contract in contracts] == [6] * 5
    assert {book.row(contract)["state"]["status"] for contract in contracts} == {"cancelled"}
    verified(book.database.service_url, book.name)


async def test_rows_of_an_unknown_layout_are_left_alone(book: Book) -> None:
    contract = await pending_end(book)
    book.move_on()
    rows(book.database.owner_url, "UPDATE ledgers SET layout = 99 WHERE name = %s", book.name)
    assert await book.turn() == 0
    assert book.row(contract)["state"]["status"] == "reported"


async def test_a_service_that_starts_turns_what_came_due_while_it_was_down(database: Database, tmp_path: Path) -> None:
    async with book_of(database, tmp_path) as book:
        contract = await pending_end(book)
        book.move_on()
        async with in_process(Settings(database_url=database.service_url, data_dir=tmp_path)):
            await asyncio.to_thread(wait_for, lambda: book.row(contract)["state"]["status"] == "cancelled", "the row is turned")
        verified(database.service_url, book.name)


@asynccontextmanager
async def locked(book: Book) -> AsyncIterator[None]:
    """Another session holds the ledger's lock."""
    async with await psycopg.AsyncConnection.connect(book.database.service_url) as connection:
        await connection.execute("SELECT FROM ledger_locks WHERE ledger_id = %s FOR NO KEY UPDATE", [book.ledger.ledger_id])
        yield
        await connection.rollback()


async def test_a_ledger_in_which_nothing_is_due_is_looked_at_without_its_lock(book: Book) -> None:
    contract = await pending_end(book)
    async with locked(book), asyncio.timeout(4):
        assert await book.turn() == 0
    book.move_on()
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with locked(book):
        turn_of_the_row = asyncio.create_task(book.turn())
        await asyncio.to_thread(wait_for, lambda: rows(book.database.superuser_url, waits), "the turn waits for the lock", 4)
        assert book.status(contract) == "reported"
    assert await turn_of_the_row == 1


async def test_rows_that_were_settled_for_a_later_day_are_due_again(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning, "ROWS_A_LOOK", 2)
    contracts = [await pending_end(book) for _ in range(4)]
    other = await book.open(plain_opening())
    before = [book.row(contract) for contract in contracts]
    book.move_on()
    assert await book.turn() == 4
    book.move_back()
    assert {book.status(contract) for contract in contracts} == {"cancelled"}
    assert await turn_back(book.connections, book.ledger, today(LAST_ZONE)) == 4
    assert [book.row(contract) for contract in contracts] == before
    assert book.status(other) == "reported"
    assert await turn_back(book.connections, book.ledger, today(LAST_ZONE)) == 0
    verified(book.database.service_url, book.name)


async def test_a_running_service_turns_forward_and_back_with_the_day(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turning, "LOOK_SECONDS", 0.02)
    async with book_of(database, tmp_path) as book:
        contract = await pending_end(book)
        async with in_process(Settings(database_url=database.service_url, data_dir=tmp_path)):
            for move, status in ((book.move_on, "cancelled"), (book.move_back, "reported"), (book.move_on, "cancelled")):
                move()
                await asyncio.to_thread(wait_for, lambda status=status: book.status(contract) == status, f"the row is {status}", 10)


def damage(book: Book, contract: str) -> None:
    """Nothing that is stored of a contract's events can be read any more."""
    forge = f"""
        ALTER TABLE payloads DISABLE TRIGGER refuse_change;
        UPDATE payloads p SET body = 'forged' FROM events e WHERE e.ledger_id = p.ledger_id AND e.position = p.position
            AND e.contract_id = '{contract.rpartition("/")[2]}';
        ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change;
    """
    rows(book.database.owner_url, forge)


async def test_a_contract_that_cannot_be_read_spoils_no_other_that_is_read_at_the_same_moment(book: Book) -> None:
    broken, sound = await pending_end(book), await pending_end(book)
    damage(book, broken)
    book.move_on()
    # Those that are asked for at the same moment share one query.
    answers = await asyncio.gather(*(book.api.get(contract) for contract in (broken, sound, f"/contracts/{uuid4()}") * 2))
    assert [answer.status_code for answer in answers] == [500, 200, 404] * 2
    assert answers[1].json()["state"]["status"] == "cancelled"


async def test_a_contract_that_cannot_be_read_keeps_no_other_from_its_turn(book: Book) -> None:
    broken, sound = await pending_end(book), await pending_end(book)
    damage(book, broken)
    book.move_on()
    with capture_logs() as said:
        assert [await book.turn(), await book.turn()] == [1, 0]
    assert (book.status(broken), book.status(sound)) == ("reported", "cancelled")
    assert {entry["contract_id"] for entry in said if entry["log_level"] == "critical"} == {broken.rpartition("/")[2]}


async def test_as_many_contracts_as_a_chunk_has_that_cannot_be_read_keep_no_other_from_its_turn(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turning, "CHUNK", 2)
    async with book_of(database, tmp_path) as book:
        contracts = [await pending_end(book) for _ in range(7)]
        for contract in contracts[:3]:
            damage(book, contract)
        book.move_on()
        async with in_process(Settings(database_url=database.service_url, data_dir=tmp_path)):
            await asyncio.to_thread(
                wait_for, lambda: {book.status(contract) for contract in contracts[3:]} == {"cancelled"}, "the others are turned", 10
            )
        assert {book.status(contract) for contract in contracts[:3]} == {"reported"}


async def test_a_turn_that_dies_fails_readiness_and_is_begun_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turning, "LOOK_SECONDS", 0.02)
    name = make_ledger(database.service_url)
    change = "UPDATE ledgers SET time_zone = %s WHERE name = %s"
    async with in_process(Settings(database_url=database.service_url, data_dir=tmp_path)) as make, make(name, "") as api:

        async def until_ready_is(status: int) -> None:
            async with asyncio.timeout(10):
                while (await api.get("http://service/readyz")).status_code != status:  # noqa: ASYNC110 - that is what a prober does
                    await asyncio.sleep(0.02)

        await until_ready_is(200)
        rows(database.owner_url, change, "Mars/Phobos", name)
        try:
            await until_ready_is(503)
            assert "turn of the day died" in (await api.get("http://service/readyz")).json()["detail"]
        finally:
            rows(database.owner_url, change, "UTC", name)
        await until_ready_is(200)
