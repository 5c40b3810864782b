"""Two services over one database, and client processes: shared by all tests of a worker, each of which has a ledger of its own."""

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import Database, NewDatabase
from tests.guarantees.load import PROCESSES
from tests.servers import OwnPostgres, Service, client, make_key, make_ledger


@dataclass(frozen=True, slots=True)
class Pair:
    """A service with two worker processes and a service with one: three writers of every ledger."""

    database: Database
    key: str
    first: Service
    second: Service

    @property
    def urls(self) -> list[str]:
        return [self.first.url, self.second.url]

    def ledger(self) -> str:
        """A new ledger."""
        return make_ledger(self.database.service_url)

    def clients(self, ledger: str) -> tuple[httpx.Client, httpx.Client]:
        """A client for each service."""
        return client(self.first, ledger, self.key), client(self.second, ledger, self.key)


@pytest.fixture(scope="session")
def pair(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    # Two machines: each keeps heads of its own.
    folders = [tmp_path_factory.mktemp("data") for _ in range(2)]
    with new_database() as database:
        first, second = Service(database.service_url, folders[0], workers=2), Service(database.service_url, folders[1])
        try:
            first.launch()
            second.start()
            first.await_ready()
            yield Pair(database, make_key(database.service_url), first, second)
        finally:
            first.stop()
            second.stop()


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes for clients."""
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield processes


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[OwnPostgres]:
    """A migrated PostgreSQL that does not run: a test starts it, may kill it, and makes ledgers of its own in it."""
    # Not pytest's folder: that one is closed to the account which runs the server for root.
    folder = Path(tempfile.mkdtemp(prefix="contract-ledger-own-"))
    folder.chmod(0o755)
    try:
        postgres = OwnPostgres(folder / "postgres")
        postgres.prepare()
        yield postgres
        postgres.server.stop()
    finally:
        shutil.rmtree(folder)
