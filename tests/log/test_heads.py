"""The kept heads: a database that lacks what this deployment committed takes no more appends until an operator speaks."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from service.cli import admin
from service.errors import OperatorError
from service.log import heads as kept_heads
from service.log.decide import Batch
from service.log.heads import Head, Heads, keep_head, read_heads
from service.log.ledger import Ledger
from service.settings import Settings
from tests.conftest import Database, NewDatabase, Server
from tests.guarantees.load import note, opening
from tests.servers import ROOT, in_process, make_key, make_ledger, rows, verified, wait_for


@dataclass(frozen=True, slots=True)
class Deployment:
    """A database, a data folder beside it, and two ledgers."""

    database: Database
    folder: Path
    key: str
    ledgers: tuple[str, str]

    @property
    def heads(self) -> Path:
        return self.folder / "heads"

    @asynccontextmanager
    async def running(self, database: Database | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
        """The service, perhaps on another copy of the database; a client for each ledger."""
        settings = Settings(database_url=(database or self.database).service_url, data_dir=self.folder)
        async with AsyncExitStack() as stack:
            make = await stack.enter_async_context(in_process(settings))
            first = await stack.enter_async_context(make(self.ledgers[0], self.key))
            yield first, await stack.enter_async_context(make(self.ledgers[1], self.key))

    def ledger_id(self, index: int = 0) -> str:
        return str(rows(self.database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", self.ledgers[index])[0][0])


@pytest.fixture
def deployment(new_database: NewDatabase, tmp_path: Path) -> Iterator[Deployment]:
    with new_database() as database:
        ledgers = make_ledger(database.service_url), make_ledger(database.service_url)
        yield Deployment(database, tmp_path, make_key(database.service_url), ledgers)


@contextmanager
def copy_of(server: Server, database: Database) -> Iterator[Database]:
    """A copy of a database as it is now, to be restored later."""
    name = f"copy_{secrets.token_hex(6)}"
    # Nobody may be connected to what is copied.
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database.name}'")
    server.execute("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, database.name)
    rows(server.superuser_url(name), "GRANT CREATE ON SCHEMA public TO ledger_owner")
    try:
        yield server.database(name)
    finally:
        server.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


async def open_contract(api: httpx.AsyncClient) -> str:
    """The path of a new contract."""
    answer = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": secrets.token_hex()})
    assert answer.status_code == 201, answer.text
    return f"/contracts/{answer.json()['contract_id']}"


async def append(api: httpx.AsyncClient, contract: str) -> httpx.Response:
    return await api.post(f"{contract}/note-added", json=note(), headers={"Idempotency-Key": secrets.token_hex()})


async def recorded(api: httpx.AsyncClient, contract: str, times: int = 1) -> int:
    """The contract's revision after so many appends."""
    revision = 0
    for _ in range(times):
        answer = await append(api, contract)
        assert answer.status_code == 201, answer.text
        revision = answer.json()["revision"]
    return revision


def assert_history_lost(answer: httpx.Response, position: int) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"], answer.headers["retry-after"]) == (503, "history-lost", "60")
    assert f"lacks event {position}," in problem["detail"]
    assert "epoch begin" in problem["detail"]


async def test_an_older_copy_takes_no_appends_and_answers_reads(server: Server, deployment: Deployment) -> None:
    async with deployment.running() as (api, other):
        contract, elsewhere = await open_contract(api), await open_contract(other)
    with copy_of(server, deployment.database) as copy:
        async with deployment.running() as (api, _):
            assert await recorded(api, contract, 3) == 4
        async with deployment.running(copy) as (api, other):
            assert_history_lost(await append(api, contract), 4)
            told = await api.get(contract)
            assert (told.status_code, told.json()["revision"]) == (200, 1)
            assert len((await api.get("/events")).json()["items"]) == 1
            # A ledger that lost nothing goes on.
            assert await recorded(other, elsewhere) == 2
            assert_history_lost(await append(api, contract), 4)
        # The newer one is still good.
        async with deployment.running() as (api, _):
            assert await recorded(api, contract) == 5


async def test_an_operator_accepts_the_loss_and_the_older_copy_goes_on(server: Server, deployment: Deployment) -> None:
    async with deployment.running() as (api, _):
        contract = await open_contract(api)
    with copy_of(server, deployment.database) as copy:
        async with deployment.running() as (api, _):
            await recorded(api, contract, 3)
        with psycopg.connect(copy.service_url, autocommit=True) as connection:
            kept, accepted = admin.accept_head(connection, deployment.heads, deployment.ledgers[0])
            assert [head and head.position for head in (kept, accepted)] == [4, 1]
            with pytest.raises(OperatorError, match="nothing to accept"):
                admin.accept_head(connection, deployment.heads, deployment.ledgers[0])
        async with deployment.running(copy) as (api, _):
            assert await recorded(api, contract) == 2
        verified(copy.service_url, deployment.ledgers[0])


async def test_another_history_of_the_same_length_or_longer_is_found_out(server: Server, deployment: Deployment, tmp_path: Path) -> None:
    async with deployment.running() as (api, _):
        contract = await open_contract(api)
    with copy_of(server, deployment.database) as copy:
        async with deployment.running() as (api, _):
            await recorded(api, contract, 2)
        # Somebody who knows nothing of the kept heads goes on with the older copy.
        stranger = replace(deployment, folder=tmp_path / "elsewhere")
        stranger.folder.mkdir()
        async with stranger.running(copy) as (api, _):
            await recorded(api, contract, 5)
        async with deployment.running(copy) as (api, _):
            assert_history_lost(await append(api, contract), 3)
            assert (await api.get(contract)).json()["revision"] == 6


def rename(server: Server, old: str, new: str) -> None:
    """Rename a database, whoever is connected to it."""
    server.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", old)
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{old}'")
    server.execute("ALTER DATABASE {} RENAME TO {}", old, new)
    server.execute("ALTER DATABASE {} ALLOW_CONNECTIONS true", new)


async def test_a_copy_restored_beneath_a_running_service_is_noticed_when_it_reconnects(server: Server, deployment: Deployment) -> None:
    async with deployment.running() as (api, _):
        contract = await open_contract(api)
    name = deployment.database.name
    with copy_of(server, deployment.database) as copy:
        async with deployment.running() as (api, _):
            await recorded(api, contract, 3)
            await asyncio.to_thread(rename, server, name, f"{name}_newer")
            await asyncio.to_thread(rename, server, copy.name, name)
            assert_history_lost(await append(api, contract), 4)
            await asyncio.to_thread(rename, server, name, copy.name)
            await asyncio.to_thread(rename, server, f"{name}_newer", name)
            # The newer one is back, and found good with the next connection.
            assert await recorded(api, contract) == 5


async def test_the_head_is_on_disk_about_a_second_after_its_commit_without_a_shutdown(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_heads, "WRITE_SECONDS", 0.02)
    file = deployment.heads / f"{deployment.ledger_id()}.json"

    def kept() -> int:
        return int(json.loads(file.read_text())["position"]) if file.exists() else 0

    async with deployment.running() as (api, _):
        contract = await open_contract(api)
        # Again and again, so that a commit meets the writing of the one before it.
        for position in range(2, 60):
            await recorded(api, contract)
            await asyncio.sleep(0.001 * (position % 30))
        await asyncio.to_thread(wait_for, lambda: kept() == 59, "the last head is kept", 5)


async def test_a_connection_made_while_commits_go_on_finds_nothing_lost(deployment: Deployment) -> None:
    ledger = Ledger(deployment.ledger_id(), deployment.ledgers[0], "UTC")
    async with deployment.running() as (api, _):
        await recorded(api, await open_contract(api), 40)
    query = "SELECT position, encode(event_hash, 'hex') FROM events WHERE ledger_id = %s ORDER BY position"
    history = [Head(*row) for row in rows(deployment.database.service_url, query, ledger.ledger_id)]
    keep_head(deployment.heads, ledger.ledger_id, history[0], backwards=True)
    heads = Heads(deployment.heads)
    async with await psycopg.AsyncConnection.connect(deployment.database.service_url, autocommit=True) as connection:
        for head in history[1:]:
            looking = asyncio.create_task(heads.check(connection))
            # It has asked, and a batch is committed before it is answered.
            await asyncio.sleep(0)
            batch = Batch(ledger, [])
            batch.written = 1
            batch.position, batch.last_hash = head
            heads.committed(batch)
            await looking
            heads.require(ledger, head.position)
    await heads.close()


def test_a_head_never_goes_backwards_unless_told(tmp_path: Path) -> None:
    keep_head(tmp_path, "a", Head(5, "five"))
    keep_head(tmp_path, "a", Head(4, "four"))
    keep_head(tmp_path, "b", Head(1, "one"))
    assert read_heads(tmp_path) == {"a": Head(5, "five"), "b": Head(1, "one")}
    keep_head(tmp_path, "a", Head(4, "four"), backwards=True)
    assert read_heads(tmp_path)["a"] == Head(4, "four")


BROKEN = {
    "empty": b"",
    "cut short": b'{"position": 5, "event',
    "another thing": b"[]",
    "without its hash": b'{"position": 5}',
    "zeros": b"\0" * 96,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_head_that_a_power_cut_or_a_person_has_broken_is_told_by_its_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(OperatorError, match=f"{file} cannot be read .* Put the file back from a backup"):
        Heads(tmp_path)
    with pytest.raises(OperatorError, match="cannot be read"):
        keep_head(tmp_path, "a", Head(6, "six"))
    assert file.read_bytes() == content
    keep_head(tmp_path, "a", Head(4, "four"), backwards=True)
    assert read_heads(tmp_path) == {"a": Head(4, "four")}


async def test_a_service_does_not_start_with_a_head_it_cannot_read(deployment: Deployment) -> None:
    deployment.heads.mkdir()
    (deployment.heads / f"{deployment.ledger_id()}.json").touch()
    with pytest.raises(OperatorError, match="cannot be read"):
        async with deployment.running():
            pass


async def test_a_head_that_cannot_be_written_now_is_written_as_soon_as_it_can_be(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_heads, "WRITE_SECONDS", 0.02)
    deployment.heads.mkdir()
    # A folder stands where the file is to be drafted.
    obstacle = deployment.heads / f"{deployment.ledger_id()}.new"
    obstacle.mkdir()
    async with deployment.running() as (api, _):
        with capture_logs() as said:
            contract = await open_contract(api)
            told = {"event": "the heads of the log cannot be kept", "log_level": "critical"}
            await asyncio.to_thread(wait_for, lambda: any(entry.items() >= told.items() for entry in said), "it is told", 5)
        assert await recorded(api, contract) == 2
        obstacle.rmdir()
        await asyncio.to_thread(wait_for, lambda: read_heads(deployment.heads), "the head is kept", 5)
    assert [head.position for head in read_heads(deployment.heads).values()] == [2]


UNTIL_KILLED = """
import itertools, sys
from pathlib import Path
from service.log.heads import Head, keep_head
for position in itertools.count(1):
    keep_head(Path(sys.argv[1]), "a", Head(position, f"{position:064x}"))
    print(position, flush=True)
"""


def test_a_process_killed_at_any_moment_leaves_a_whole_head_that_is_not_older_than_it_said(tmp_path: Path) -> None:
    for lines in (1, 17, 60):
        command = [sys.executable, "-c", UNTIL_KILLED, str(tmp_path / str(lines))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            said = [int(process.stdout.readline()) for _ in range(lines)]
            process.kill()
        assert read_heads(tmp_path / str(lines))["a"].position >= said[-1]
