"""One PostgreSQL for the whole run, one migrated template in it, and a clone of that for each module.

The process that pytest was started as owns the server. The fixtures ask for it by a file, so that a run of
pure tests starts none, and under xdist the workers share one.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import psycopg
import pytest
from psycopg import sql

from service.embedded import EmbeddedPostgres
from service.errors import OperatorError

# Commands are told in whatever width they choose themselves: xdist gives its workers the terminal's.
os.environ.pop("COLUMNS", None)

OWNER: Final = "ledger_owner"
SERVICE: Final = "ledger_service"
TEMPLATE: Final = "ledger_template"
PREFIX: Final = "contract-ledger-tests-"
WAIT_SECONDS: Final = 150
SMALL: Final = {"shared_buffers": "128MB", "max_wal_size": "1GB", "max_connections": "200"}


@dataclass(frozen=True, slots=True)
class Server:
    """The run's server: where it listens, and how each role gets in."""

    folder: str
    socket_folder: str
    superuser: str
    superuser_password: str
    owner_password: str
    service_password: str

    def url(self, database: str, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@/{database}?host={self.socket_folder}"

    def superuser_url(self, database: str = "postgres") -> str:
        return self.url(database, self.superuser, self.superuser_password)

    def database(self, name: str) -> "Database":
        return Database(
            name,
            owner_url=self.url(name, OWNER, self.owner_password),
            service_url=self.url(name, SERVICE, self.service_password),
            superuser_url=self.superuser_url(name),
        )

    def execute(self, query: str, *names: str) -> None:
        """A statement outside any transaction; each {} is an identifier."""
        with psycopg.connect(self.superuser_url(), autocommit=True) as connection:
            connection.execute(sql.SQL(query).format(*map(sql.Identifier, names)))


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database: `owner_url` migrates, `service_url` appends and reads."""

    name: str
    owner_url: str
    service_url: str
    superuser_url: str


NewDatabase: TypeAlias = Callable[[], AbstractContextManager[Database]]


class ServerOfTheRun:
    """Starts the server when the file `wanted` appears, and says how to get in by the file `ready`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # As root, the server's ordinary account has to walk through.
        self.folder.chmod(0o755)
        self._lock = hold(self.folder / "run.lock")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server-of-the-run", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not (self.folder / "wanted").exists():
            if self._stopping.wait(0.02):
                return
        try:
            with EmbeddedPostgres(self.folder / "server", SMALL) as server:
                self._publish(_prepared(server, self.folder))
                self._stopping.wait()
        except (OperatorError, psycopg.Error) as error:
            self._publish({"error": str(error)})

    def _publish(self, content: dict[str, str]) -> None:
        draft = self.folder / "ready.draft"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(content))
        draft.rename(self.folder / "ready")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        os.close(self._lock)
        shutil.rmtree(self.folder, ignore_errors=True)


def _prepared(server: EmbeddedPostgres, folder: Path) -> dict[str, str]:
    """The owner may make roles and is no superuser; `migrate` makes the service's role, as in earnest."""
    password = secrets.token_hex(16)
    role = sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(sql.Identifier(OWNER), password)
    with psycopg.connect(server.url("postgres", server.superuser), autocommit=True) as connection:
        connection.execute(role)
    return asdict(
        Server(
            folder=str(folder),
            socket_folder=str(server.socket_folder),
            superuser=server.superuser,
            superuser_password=server.password,
            owner_password=password,
            service_password=secrets.token_hex(16),
        )
    )


def hold(file: Path) -> int:
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


def _sweep_killed_runs() -> None:
    """A run that was killed leaves its server behind, and ten of those eat the machine's memory."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Another run's, another user's, or gone at this moment: theirs.
        with contextlib.suppress(OSError, OperatorError):
            if (folder / "run.lock").exists():
                _sweep(folder)


def _sweep(folder: Path) -> None:
    lock = hold(folder / "run.lock")
    try:
        if (folder / "server" / "cluster").exists():
            # A start ends whatever still runs there.
            EmbeddedPostgres(folder / "server", SMALL).__enter__().stop()
        shutil.rmtree(folder)
    finally:
        os.close(lock)


_of_the_run: pytest.StashKey[ServerOfTheRun] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # What a shell runs behind its back is deaf to Ctrl-C, and so would be the commands that tests interrupt.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _sweep_killed_runs()
        config.stash[_of_the_run] = ServerOfTheRun()
        # Services that a test starts keep their checkpoints there, and not in the home of who runs the tests.
        os.environ["XDG_STATE_HOME"] = str(config.stash[_of_the_run].folder / "state")


def pytest_unconfigure(config: pytest.Config) -> None:
    server = config.stash.get(_of_the_run, None)
    if server is not None:
        server.stop()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: tells a worker where to ask for the server."""
    node.workerinput["folder_of_the_run"] = str(node.config.stash[_of_the_run].folder)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The run's PostgreSQL; started for the first who asks."""
    worker = getattr(request.config, "workerinput", None)
    folder = Path(worker["folder_of_the_run"]) if worker else request.config.stash[_of_the_run].folder
    (folder / "wanted").touch()
    deadline = time.monotonic() + WAIT_SECONDS
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline, f"no server in {folder} after {WAIT_SECONDS} s"
        time.sleep(0.02)
    answer: dict[str, str] = json.loads((folder / "ready").read_text())
    assert "error" not in answer, answer["error"]
    return Server(**answer)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of the migrated template; made by the first worker that wants it, while the others wait."""
    done = Path(server.folder, "template.done")
    with Path(server.folder, "template.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _make_template(server)
            done.touch()
    return TEMPLATE


def _make_template(server: Server) -> None:
    # Imported late: tests of the domain need no database, nor wait for what it imports.
    from service.migration import migrate

    server.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", TEMPLATE)
    server.execute("CREATE DATABASE {} OWNER {}", TEMPLATE, OWNER)
    made = server.database(TEMPLATE)
    migrate(made.owner_url, made.service_url)
    # A database somebody is connected to cannot be cloned.
    server.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", TEMPLATE)


@pytest.fixture(scope="session")
def new_database(server: Server, template: str) -> NewDatabase:
    """Makes clones of the migrated template: `with new_database() as database:`; dropped at the end."""

    @contextmanager
    def clone() -> Iterator[Database]:
        name = f"ledger_{secrets.token_hex(6)}"
        # Medians on two cores, of the migrated template: file_copy 188 ms, wal_log 231 ms.
        server.execute("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy", name, template, OWNER)
        _copy_rights_and_settings(server, template, name)
        try:
            yield server.database(name)
        finally:
            server.execute("DROP DATABASE {} WITH (FORCE)", name)

    return clone


RIGHTS = """
UPDATE pg_database SET datacl = (SELECT datacl FROM pg_database WHERE oid = %(source)s) WHERE oid = %(target)s
"""
SETTINGS = """
INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig)
SELECT %(target)s, setrole, setconfig FROM pg_db_role_setting WHERE setdatabase = %(source)s
"""


def _copy_rights_and_settings(server: Server, source: str, target: str) -> None:
    """CREATE DATABASE leaves out GRANTs on the database itself, and ALTER ROLE ... IN DATABASE."""
    with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
        found: dict[str, int] = dict(connection.execute("SELECT datname, oid FROM pg_database").fetchall())
        for statement in (RIGHTS, SETTINGS):
            connection.execute(statement, {"source": found[source], "target": found[target]})


@pytest.fixture(scope="module")
def database(new_database: NewDatabase) -> Iterator[Database]:
    """The module's own clone of the migrated template."""
    with new_database() as clone:
        yield clone
