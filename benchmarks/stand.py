"""What is measured, and beside what: a real PostgreSQL with its promises on, the service and the empty endpoint as processes."""

import fcntl
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from service import access
from service.embedded import EmbeddedPostgres
from service.errors import OperatorError
from service.log.ledger import Ledger
from service.log.ledgers import make_ledger
from service.log.tiles import build_trees
from service.migration import migrate

LEDGER = "main"
PREFIX = "contract-ledger-bench-"
OWNER, SERVICE, DATABASE = "ledger_owner", "ledger_service", "ledger"
# As `serve` has it; the same for the service and for the empty endpoint, but that the service guards its connections.
GUARDED = ("--http", "service.api.connection:Connection")
UVICORN = [
    *("--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "on", "--workers", "1"),
    *("--no-access-log", "--no-server-header", "--no-proxy-headers", "--timeout-keep-alive", "75", "--log-level", "warning"),
]
START_SECONDS = 60
STOP_SECONDS = 40
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Stand:
    """A migrated database with a ledger, and a key that may do everything in it."""

    folder: Path
    service_url: str
    superuser_url: str
    version: str
    ledger: Ledger
    principal_id: str
    key: str

    @property
    def measured_on(self) -> str:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"{cores} cores, PostgreSQL {self.version} (fsync on), Python {platform.python_version()}"

    def build_trees(self) -> None:
        """The tree of events that were written without it."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            build_trees(connection, lambda *_: None)

    def vacuum(self) -> None:
        """As a ledger that has stood for a while: statistics taken, no row left to be looked at for the first time."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")


def settled_position(at: Stand) -> int:
    """The number of events, once nothing is in flight any more."""
    with psycopg.connect(at.service_url, autocommit=True) as connection:
        known, counted = -1, _events(connection)
        while counted != known:
            time.sleep(0.2)
            known, counted = counted, _events(connection)
    return counted


def _events(connection: psycopg.Connection[Any]) -> int:
    row: Any = connection.execute("SELECT count(*) FROM events").fetchone()
    return int(row[0])


def work_place() -> Path:
    """Where temporary folders are made, on a disk: /tmp is memory on many machines, where a commit costs nothing."""
    place = Path("/var/tmp")
    return place if place.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def work_folder() -> Iterator[Path]:
    """A temporary folder. What a run left behind that was killed is removed first, with the server that runs on it."""
    for left in work_place().glob(f"{PREFIX}*"):
        # Another run's, another user's, or gone at this moment: theirs.
        with suppress(OSError, OperatorError), held(left / "lock"):
            if (left / "data" / "cluster").exists():
                # A start ends whatever still runs there.
                EmbeddedPostgres(left / "data").__enter__().stop()
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=work_place()))
    # As root, the server's ordinary account has to walk through.
    folder.chmod(0o755)
    (folder / "lock").touch()
    with held(folder / "lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends. OSError when another has it, or it is not there."""
    with file.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def stand(folder: Path | None = None) -> Iterator[Stand]:
    """The database in a folder that is kept, or in one that is removed at the end."""
    with ExitStack() as stack:
        folder = folder or stack.enter_context(work_folder())
        server = stack.enter_context(EmbeddedPostgres(folder / "data"))
        yield _prepared(server, folder)


def _prepared(server: EmbeddedPostgres, folder: Path) -> Stand:
    passwords = folder / "passwords"
    if not passwords.exists():
        passwords.touch(mode=0o600)
        passwords.write_text(f"{secrets.token_hex(16)} {secrets.token_hex(16)} {access.new_key()}")
    owner, service, key = passwords.read_text().split()
    with psycopg.connect(server.url("postgres", server.superuser), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone():
            role = sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(sql.Identifier(OWNER), owner)
            connection.execute(role)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))
        version = str(connection.execute("SHOW server_version").fetchall()[0][0]).partition(" ")[0]
    service_url = server.url(DATABASE, SERVICE, service)
    migrate(server.url(DATABASE, OWNER, owner), service_url)
    with psycopg.connect(service_url, autocommit=True) as connection:
        make_ledger(connection, LEDGER, "UTC")
        principal_id = _principal(connection, key)
        row: Any = connection.execute("SELECT ledger_id::text, name, time_zone FROM ledgers WHERE name = %s", [LEDGER]).fetchone()
    superuser_url = server.url(DATABASE, server.superuser)
    return Stand(folder, service_url, superuser_url, version, Ledger(*row), principal_id, key)


def _principal(connection: psycopg.Connection[Any], key: str) -> str:
    known = connection.execute("SELECT principal_id::text FROM api_keys WHERE key_hash = %s", [access.key_hash(key)]).fetchone()
    if known:
        return str(known[0])
    principal: Any = connection.execute(
        "INSERT INTO principals (principal_id, name) VALUES (gen_random_uuid(), 'benchmarks') RETURNING principal_id::text"
    ).fetchone()
    connection.execute("INSERT INTO grants VALUES (%s, NULL, %s)", [principal[0], list(access.RIGHTS)])
    connection.execute(
        "INSERT INTO api_keys (key_id, principal_id, key_hash) VALUES (gen_random_uuid(), %s, %s)",
        [principal[0], access.key_hash(key)],
    )
    return str(principal[0])


@contextmanager
def process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, ended with the block. It does not see Ctrl-C: we end it, after what it is needed for."""
    started = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, start_new_session=True)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            started.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@contextmanager
def serving(app: str, *options: str, **environment: str) -> Iterator[str]:
    """An application under uvicorn, by its address."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", app, *UVICORN, "--port", str(port), *options]
    with process(command, **environment) as server:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if server.poll() is not None:
                raise SystemExit(f"{app} did not start (exit code {server.returncode}).")
            if time.monotonic() > deadline:
                raise SystemExit(f"{app} did not listen within {START_SECONDS} s.")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def service_and_empty(at: Stand, app: str = "service.app:create_app") -> Iterator[dict[str, str]]:
    """Both by their addresses. Only one of them is under load at a time; the other waits and costs nothing."""
    environment = {"LEDGER_DATABASE_URL": at.service_url, "LEDGER_DATA_DIR": str(at.folder / "service")}
    with serving(app, "--factory", *GUARDED, **environment) as service, serving("benchmarks.empty:app") as empty:
        yield {"service": service, "empty": empty}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex(("127.0.0.1", port)) == 0


def resident_bytes(pid: int) -> int:
    """The resident memory of a process and all its descendants."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total
