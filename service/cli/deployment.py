"""What a deployment keeps on this machine, and the database that a command works with.

<data folder>/
  api-key          the first key, so that commands on this machine need no typing
  passwords.json   of the roles in the embedded database
  signing-key      what signs the checkpoints of the embedded database
  heads/           the last committed event of each ledger
  (and what service.embedded keeps there)
"""

import json
import logging
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from service.database import Database, connect, is_url
from service.embedded import SOCKET_FILE, EmbeddedPostgres, FolderLock, default_data_folder
from service.errors import LedgerError, OperatorError
from service.log.signing import default_store, new_seed
from service.settings import Settings

DATABASE = "ledger"
OWNER = "ledger_owner"
SERVICE = "ledger_service"
API_KEY_FILE = "api-key"
PASSWORDS_FILE = "passwords.json"
SIGNING_KEY_FILE = "signing-key"
_CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Databases:
    """Where a command connects: as the service's role, and as the owner of the tables where that is known."""

    service_url: str
    owner_url: str | None

    def owner(self) -> str:
        """The owner's URL. OperatorError when it was not told."""
        if self.owner_url is None:
            raise OperatorError("This takes the owner of the tables: set LEDGER_MIGRATION_URL as well.")
        return self.owner_url


def data_folder(settings: Settings) -> Path:
    """The data folder, made known to nobody yet: it may be missing."""
    return (settings.data_dir or default_data_folder()).absolute()


def make_data_folder(folder: Path) -> Path:
    """The folder, there and writable. OperatorError if that cannot be."""
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            # As the embedded PostgreSQL makes it, which may be wanted there another day: root's runs under another account.
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise OperatorError(
            f"The data folder {folder} cannot be written: make it writable for this account, or choose another by LEDGER_DATA_DIR."
        )
    return folder


@contextmanager
def databases(settings: Settings, *, made: bool = False) -> Iterator[Databases]:
    """The database that the settings name, else the embedded one: as it runs, or started for the time of the block. With `made` it is made,
    without tables, in a data folder that has none."""
    if settings.database_url is not None:
        yield named_databases(settings)
        return
    folder = data_folder(settings)
    if not (made and _is_fresh(folder)) and _is_served(folder):
        yield _running(folder)
    else:
        with EmbeddedPostgres(folder) as server:
            yield prepare(server)


def named_databases(settings: Settings) -> Databases:
    """The databases that the settings name. OperatorError for a URL that cannot be read."""
    for variable, url in (("LEDGER_DATABASE_URL", settings.database_url), ("LEDGER_MIGRATION_URL", settings.migration_url)):
        if not is_url(url or ""):
            raise OperatorError(
                f"{variable} is no URL of a Postgres: write it as postgresql://user:password@host/database, and of a password what is "
                "neither letter nor digit by its number, such as %2F for a slash."
            )
    assert settings.database_url is not None
    return Databases(settings.database_url, settings.migration_url)


def role_name(settings: Settings) -> str:
    """The service's role, as LEDGER_DATABASE_URL names it, else as the embedded database does."""
    if settings.database_url is None:
        return SERVICE
    return str(conninfo_to_dict(named_databases(settings).service_url).get("user") or SERVICE)


def prepare(server: EmbeddedPostgres) -> Databases:
    """The roles and the database of an embedded server, made where they are missing, with the kept passwords."""
    passwords = _passwords(server.folder)
    with connect(server.url("postgres", server.superuser), autocommit=True) as connection:
        for role, password in passwords.items():
            _set_role(connection, role, password)
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))
    return _urls(server, passwords)


def _set_role(connection: psycopg.Connection[TupleRow], role: str, password: str) -> None:
    """The owner is made here, and may make roles; the service's role is made by the migration, so that it belongs to the owner."""
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    if known or role == OWNER:
        statement = "ALTER ROLE {} PASSWORD {}" if known else "CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}"
        connection.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(password)))


def _urls(server: EmbeddedPostgres, passwords: dict[str, str]) -> Databases:
    return Databases(server.url(DATABASE, SERVICE, passwords[SERVICE]), server.url(DATABASE, OWNER, passwords[OWNER]))


def _passwords(folder: Path) -> dict[str, str]:
    text = _read_secret(folder / PASSWORDS_FILE)
    if text is None:
        text = json.dumps({OWNER: secrets.token_urlsafe(32), SERVICE: secrets.token_urlsafe(32)})
        keep_secret(folder / PASSWORDS_FILE, text)
    passwords: dict[str, str] = json.loads(text)
    return passwords


def _is_fresh(folder: Path) -> bool:
    """Whether there is no database in the folder. OperatorError for one that this account may not look into."""
    try:
        return not (folder / _CLUSTER).exists()
    except OSError as error:
        raise _unusable(error) from error


def _is_served(folder: Path) -> bool:
    """Whether a service uses the folder at the moment. OperatorError for a folder without a database."""
    lock = FolderLock(folder)
    try:
        (folder / _CLUSTER).stat()
        lock.acquire()
    except FileNotFoundError:
        raise OperatorError(
            f"There is no database in {folder}: name the folder of one with --data-dir, set LEDGER_DATABASE_URL, or make one: "
            "`contract-ledger serve` with a ledger main and a key, `contract-ledger migrate` without."
        ) from None
    except OSError as error:
        raise _unusable(error) from error
    except OperatorError:
        return True
    lock.release()
    return False


def _unusable(error: OSError) -> OperatorError:
    return OperatorError(f"{error.filename} cannot be used ({error.strerror}): run this as the account that runs the service.")


def _running(folder: Path) -> Databases:
    """The embedded database of a service that runs, through its socket."""
    server = EmbeddedPostgres(folder)
    elsewhere = server.folder / "socket-elsewhere"
    if not (server.socket_folder / SOCKET_FILE).exists() and elsewhere.is_symlink():
        server.socket_folder = elsewhere.readlink()
    return _urls(server, _passwords(server.folder))


def kept_key(folder: Path) -> str | None:
    """The key kept in the data folder, if there is one."""
    text = _read_secret(folder / API_KEY_FILE)
    return text.strip() if text else None


def own_signing_key(folder: Path) -> str:
    """The key, or keys, in the data folder that sign checkpoints; made if there is none, and by one process only."""
    file = folder / SIGNING_KEY_FILE
    if _read_secret(file) is None:
        keep_secret(file, new_seed())
    return (_read_secret(file) or "").strip()


def add_signing_key(folder: Path, seed: str) -> None:
    """Have another key sign beside the one in the data folder."""
    keep_secret(folder / SIGNING_KEY_FILE, f"{own_signing_key(folder)},{seed}")


def with_own_signing(settings: Settings, folder: Path) -> Settings:
    """The settings with what an embedded database signs by, and where it keeps what it signed, unless they say otherwise."""
    if settings.database_url is not None:
        return settings
    return replace(settings, signing_key=settings.signing_key or own_signing_key(folder), checkpoint_store=checkpoint_store(settings))


def checkpoint_store(settings: Settings) -> str | None:
    """Where the last checkpoints are kept; None where no setting says so for a database of one's own."""
    own = settings.database_url is None
    return settings.checkpoint_store or (str(default_store(os.environ.get("XDG_STATE_HOME"))) if own else None)


def command_key(settings: Settings) -> str:
    """The key for a command over HTTP: LEDGER_API_KEY, else the one kept in the data folder."""
    folder = data_folder(settings)
    key = settings.api_key or kept_key(folder)
    if key is None:
        raise OperatorError(
            f"There is no key: set LEDGER_API_KEY, or name the data folder of the service with --data-dir ({folder / API_KEY_FILE} "
            "is not there)."
        )
    return key


def _read_secret(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError(f"{file} cannot be read ({error.strerror}): run this as the account that runs the service.") from error


def keep_secret(file: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all."""
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        target.write(text + "\n")
        target.flush()
        os.fsync(target.fileno())
    draft.replace(file)
    handle = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """A connection for a command, in autocommit. OperatorError for what the database refuses."""
    options: dict[str, Any] = {"autocommit": True}
    with connect(url, **options) as connection:
        try:
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise OperatorError(f"The database does not let this role do that: {error.diag.message_primary}.") from error
        except psycopg.Error as error:
            raise OperatorError(f"The database refused: {str(error).strip()}") from error


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """The service's own connections, for a command that does what the service would. OperatorError for what is refused."""
    pool = logging.getLogger("psycopg.pool")
    level = pool.level
    # What is refused is told in a sentence; that its connection is let go of is nothing to tell.
    pool.setLevel(logging.ERROR)
    database = Database(url, 2)
    await database.open()
    try:
        yield database
    except LedgerError as refusal:
        raise OperatorError("\n".join([refusal.detail, *(f"- {fault.detail}" for fault in refusal.errors[1:])])) from refusal
    finally:
        await database.close()
        pool.setLevel(level)


def command_name() -> str:
    """The command as the user has to type it: by its name where the shell finds it, else by its path."""
    program = Path(sys.argv[0]).absolute()
    if program.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m service"
    found = shutil.which(program.name)
    return program.name if found and Path(found).resolve() == program.resolve() else shlex.quote(str(program))
