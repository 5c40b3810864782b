"""Ledgers to be audited: a database with one, filled with random requests through the service in this process."""

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.audit.replay import Verdict, verify
from service.settings import Settings
from tests.conftest import Database, NewDatabase
from tests.guarantees.load import Work, send_all
from tests.servers import in_process, make_key, make_ledger

REQUESTS = 700


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with a filled ledger, and a client of the service that fills it."""

    database: Database
    ledger: str
    key: str
    make_client: Callable[[str, str], httpx.AsyncClient]

    async def fill(self, requests: int, seed: int) -> None:
        async with self.make_client(self.ledger, self.key) as client:
            work = Work(urls=["http://service"], ledger=self.ledger, key=self.key, requests=requests, seed=seed)
            answers = await send_all(client, work)
        assert {201} <= {answer.status for answer in answers} <= {201, 409}

    async def sign(self) -> None:
        """Have a checkpoint signed of what there is."""
        async with self.make_client(self.ledger, self.key) as client:
            answer = await client.get("/log/checkpoint")
        assert answer.status_code == 200, answer.text

    def verdict(self) -> Verdict:
        return verify(self.database.service_url, self.ledger, lambda _done, _total, _unit: None, processes=1)


@pytest.fixture(scope="module")
async def filled(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    folder: Path = tmp_path_factory.mktemp("data")
    with new_database() as database:
        signs = {"signing_key": base64.b64encode(bytes(32)).decode(), "checkpoint_store": str(folder / "kept")}
        async with in_process(Settings(database_url=database.service_url, data_dir=folder, **signs)) as make:
            made = Filled(database, make_ledger(database.service_url), make_key(database.service_url), make)
            await made.sign()
            for share in range(2):
                await made.fill(REQUESTS // 2, seed=91 + share)
                await made.sign()
            yield made
