"""The data folder: where it is, who holds it, where the server listens, and files that survive a power cut."""

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from service.embedded.account import Account
from service.errors import OperatorError

LOG_BYTES = 10_000_000

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the closing zero included.
SOCKET_PATH_BYTES = 103
SOCKET_FILE = ".s.PGSQL.5432"


def default_data_folder() -> Path:
    if os.geteuid() == 0:
        # root's home is closed to the ordinary account under which the server runs.
        return Path("/var/lib/contract-ledger")
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share"
    return root / "contract-ledger"


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


def make_socket_folder(wanted: Path, account: Account) -> Path:
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


def open_log(file: Path) -> BinaryIO:
    if file.exists() and file.stat().st_size > LOG_BYTES:
        file.rename(file.with_suffix(".log.1"))
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def write_secret(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        target.write(text + "\n")
        target.flush()
        os.fsync(target.fileno())


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
