"""The real service in processes of its own, and a PostgreSQL of a test's own: both to be started, killed and waited for.

Everything listens on loopback or on a socket file, on ports the system chose, and ends with the block that started it.
"""

import gc
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import psycopg
from psycopg import sql

from service.access import RIGHTS
from service.app import create_app
from service.audit.replay import Verdict, verify
from service.cli import admin
from service.embedded import EmbeddedPostgres
from service.log.ledgers import make_ledger as insert_ledger
from service.settings import Settings

ROOT: Final = Path(__file__).parent.parent
START_SECONDS: Final = 60
STOP_SECONDS: Final = 40
# Where Python keeps no bytecode, every start of a service would compile it all again.
_BYTECODE: Final = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / ".pytest_cache" / "bytecode")}
_LISTENING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found | None], what: str, seconds: float = 30) -> Found:
    """What a condition comes to, once that is true; it is asked until a deadline."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


def make_key(service_url: str) -> str:
    """A key of a new principal with every right in every ledger."""
    with psycopg.connect(service_url, autocommit=True) as connection:
        return admin.make_key(connection, "a test", RIGHTS, [], None)[1]


def make_ledger(service_url: str, time_zone: str = "UTC") -> str:
    """The name of a new ledger: tests that share a database have one each."""
    name = f"test-{secrets.token_hex(6)}"
    with psycopg.connect(service_url, autocommit=True) as connection:
        assert insert_ledger(connection, name, time_zone)
    return name


def verified(service_url: str, ledger: str) -> Verdict:
    """The verdict on a whole ledger, which must be without a difference."""
    verdict = verify(service_url, ledger, lambda _done, _total, _unit: None, processes=1)
    assert verdict.difference is None, str(verdict.difference)
    return verdict


class Service:
    """uvicorn with the service, in processes of its own; a restart listens on the same port."""

    def __init__(
        self, database_url: str, data_dir: Path, *, workers: int = 1, port: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self._workers = workers
        self._environment = {"LEDGER_DATABASE_URL": database_url, "LEDGER_DATA_DIR": str(data_dir), **(environment or {})}
        self._log = data_dir / f"service-{secrets.token_hex(4)}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def launch(self) -> None:
        """Start, without waiting for anything."""
        command = [
            *(sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory", "--no-access-log"),
            *("--http", "service.api.connection:Connection"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self._workers)),
        ]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(_BYTECODE if sys.dont_write_bytecode else {}), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A group of its own, so that a kill reaches its workers and nothing else.
                start_new_session=True,
            )

    def start(self) -> None:
        """Start, and wait until it is ready to serve."""
        self.launch()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until it is ready to serve; the port is known then."""
        listening = wait_for(lambda: self._died_or(_LISTENING.search(self.log)), "a port in the service's log", START_SECONDS)
        self.port = int(listening[1])
        wait_for(lambda: self._died_or(self.ready()), "the service is ready", START_SECONDS)

    def _died_or(self, found: Found | None) -> Found | None:
        assert self._process is not None
        assert self._process.poll() is None, f"the service ended with {self._process.returncode}:\n{self.log[-3_000:]}"
        return found

    def ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """kill -9, workers and all."""
        self._signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """SIGTERM to the parent, as a supervisor sends it."""
        assert self._process is not None
        self._process.terminate()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        assert self._process is not None
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            raise

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self._process is None or self._process.poll() is not None:
            return
        self.terminate()
        self.wait()


@contextmanager
def serving(database_url: str, data_dir: Path, *, workers: int = 1, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A service that is ready, for the time of the block."""
    service = Service(database_url, data_dir, workers=workers, environment=environment)
    try:
        service.start()
        yield service
    finally:
        service.stop()


def client(service: Service, ledger: str, key: str, seconds: float = 30) -> httpx.Client:
    """A client whose paths are below a ledger."""
    return httpx.Client(
        base_url=f"{service.url}/v1/ledgers/{ledger}", headers={"Authorization": f"Bearer {key}"}, timeout=seconds, trust_env=False
    )


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[Callable[[str, str], httpx.AsyncClient]]:
    """The service in the test's own loop, with its start and its shutdown: makes clients by ledger and key."""
    app = create_app(settings)
    thresholds = gc.get_threshold()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def make(ledger: str, key: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(transport=transport, base_url=f"http://service/v1/ledgers/{ledger}", headers=headers)

    try:
        async with app.router.lifespan_context(app):
            yield make
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class OwnPostgres:
    """A PostgreSQL that one test may kill, restart and misconfigure, in a folder of its own: migrated, with one database."""

    SETTINGS: Final[Mapping[str, str]] = {"shared_buffers": "64MB", "max_connections": "60"}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = EmbeddedPostgres(folder, self.SETTINGS)
        self._owner_password, self._service_password = secrets.token_hex(16), secrets.token_hex(16)

    @property
    def owner_url(self) -> str:
        return self.server.url("ledger", "ledger_owner", self._owner_password)

    @property
    def service_url(self) -> str:
        return self.server.url("ledger", "ledger_service", self._service_password)

    def prepare(self) -> None:
        """Make the cluster and migrate it; it is stopped afterwards."""
        from service.migration import migrate

        with self.server:
            make_role = sql.SQL("CREATE ROLE ledger_owner LOGIN CREATEROLE PASSWORD {}").format(self._owner_password)
            with psycopg.connect(self.server.url("postgres", self.server.superuser), autocommit=True) as connection:
                connection.execute(make_role)
                connection.execute("CREATE DATABASE ledger OWNER ledger_owner")
            migrate(self.owner_url, self.service_url)

    def kill(self) -> None:
        """kill -9 of the postmaster; its children end when they notice."""
        assert self.server.pid
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.stop()

    def restart(self) -> None:
        """Start after a kill or a stop, as the service would: with crash recovery."""
        self.server = EmbeddedPostgres(self.folder, self.SETTINGS)
        self.server.start()

    @contextmanager
    def running(self) -> Iterator["OwnPostgres"]:
        """It runs, until the end of the block."""
        self.restart()
        try:
            yield self
        finally:
            self.server.stop()


def rows(url: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a query, or none for a statement without any, in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), parameters)
        return cursor.fetchall() if cursor.description else []
