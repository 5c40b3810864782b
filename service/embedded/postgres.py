"""The server on its data folder: made once, started, stopped."""

import errno
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil
from psycopg import pq

from service.embedded.account import Account, server_account
from service.embedded.binaries import check_major_version, reachable_binaries
from service.embedded.folder import SOCKET_FILE, FolderLock, make_socket_folder, open_log, sync_folder, write_secret
from service.embedded.processes import ended_within, forget_stale_pid, shut_down, stop_leftovers
from service.errors import OperatorError

SUPERUSER = "postgres"
START_SECONDS = 120  # crash recovery reads at most max_wal_size

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

    def revive(self) -> None:
        """Start it again after it ended by itself: it recovers what was committed. OperatorError when it cannot."""
        stop_leftovers(self.cluster)
        account = server_account()
        self._launch(reachable_binaries(self.folder, account), account)

    def stop(self) -> None:
        """Fast shutdown: open transactions roll back, everything committed is kept."""
        process, self._process = self._process, None
        try:
            if process is not None:
                shut_down(process.send_signal, lambda seconds: ended_within(process, seconds))
        finally:
            self._lock.release()

    def _make_folder(self, account: Account) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            # The server's account walks through to its cluster but reads nothing else.
            self.folder.chmod(0o711 if account.switch else 0o700)
        if not self.folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.folder))
        closed = account.closed_part(self.folder)
        if closed is not None:
            raise OperatorError(
                f"The account {account.name}, which runs the embedded PostgreSQL, cannot enter {closed}: "
                f"choose a data folder it can reach, or allow it with `chmod a+x {closed}`."
            )

    def _start_locked(self, account: Account) -> None:
        stop_leftovers(self.cluster)
        binaries = reachable_binaries(self.folder, account)
        self.password = self._read_password()
        self._make_cluster(binaries, account)
        self.socket_folder = make_socket_folder(self.folder / "socket", account)
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
        write_secret(draft, secrets.token_urlsafe(32))
        draft.rename(file)
        sync_folder(self.folder)
        return self._read_password()

    def _make_cluster(self, binaries: Path, account: Account) -> None:
        for half_made in self.folder.glob("cluster.*.initialising"):
            shutil.rmtree(half_made, ignore_errors=True)
        if not self.cluster.exists():
            self._initialise(binaries, account)
        check_major_version(self.cluster, binaries)
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
        sync_folder(self.folder)

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
        with open_log(self.log) as log:
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
        for file in (self.cluster / "postmaster.pid", self.socket_folder / f"{SOCKET_FILE}.lock"):
            forget_stale_pid(file)
        socket = str(self.socket_folder).replace('"', '""')
        settings = {**self._settings, "unix_socket_directories": f'"{socket}"'}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with open_log(self.log) as log:
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
