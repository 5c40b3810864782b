"""The kept checkpoint: the last one signed of each ledger, outside the database and the data folder.

Whoever restores an older copy of either does not restore this, so a database that is behind it, or has another root at its size, is found
out: by us, before a reader holds two histories. It is written, and on disk, before a signature is published. Without it nothing is signed.
"""

import asyncio
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from service.database import DURABILITY, Database, is_url, refuse_unsafe
from service.errors import HistoryForked, OperatorError, StoreUnusable
from service.log.checkpoint import Checkpoint
from service.log.heads import replace_file, sync_folder
from service.log.notes import NoteError
from service.log.proofs import consistency, root_at
from service.log.tree import verify_consistency

STORE_SECONDS: Final = 5
"""How long the store may take to answer; then nothing is signed for now."""
MAX_SWAPS: Final = 10
"""How often a checkpoint is kept anew because another process kept one in between; then the request is to be sent again."""
_SIZE = "SELECT max(b.last_position) FROM batches b WHERE b.ledger_id = %(ledger_id)s::uuid"
Answer = TypeVar("Answer")


class CheckpointStore(Protocol):
    """Where the last checkpoint of each ledger is kept. StoreUnusable when it cannot be read or written."""

    def read(self, ledger_id: str) -> Checkpoint | None: ...

    def read_all(self) -> "dict[str, Checkpoint | StoreUnusable]":
        """What is kept of all ledgers, by ledger_id; what is there of one and is no checkpoint hides nothing of the others."""
        ...

    def swap(self, ledger_id: str, known: Checkpoint | None, kept: Checkpoint) -> bool:
        """Keep a checkpoint in place of the one known, or of none; False when another is there. Once True, it is on disk."""
        ...


class FolderStore:
    """A folder with a file for each ledger, the text of its checkpoint; processes take turns by a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, ledger_id: str) -> Checkpoint | None:
        try:
            return self._read(ledger_id)
        except OSError as error:
            raise _unusable(str(self._folder), error.strerror or str(error)) from error

    def read_all(self) -> dict[str, Checkpoint | StoreUnusable]:
        try:
            # Not by a pattern: glob takes a folder that it may not read for one that is empty.
            files = [file for file in self._files() if file.suffix == ".checkpoint"]
            return {file.stem: _tried(file.read_bytes(), str(file)) for file in files}
        except OSError as error:
            raise _unusable(str(self._folder), error.strerror or str(error)) from error

    def swap(self, ledger_id: str, known: Checkpoint | None, kept: Checkpoint) -> bool:
        try:
            self._make()
            with (self._folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._read(ledger_id) != known:
                    return False
                replace_file(self._file(ledger_id), kept.text().encode())
                sync_folder(self._folder)
        except OSError as error:
            raise _unusable(str(self._folder), error.strerror or str(error)) from error
        return True

    def _files(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _file(self, ledger_id: str) -> Path:
        return self._folder / f"{ledger_id}.checkpoint"

    def _read(self, ledger_id: str) -> Checkpoint | None:
        try:
            return _parsed(self._file(ledger_id).read_bytes(), str(self._file(ledger_id)))
        except FileNotFoundError:
            return None

    def _make(self) -> None:
        missing = [folder for folder in (self._folder, *self._folder.parents) if not folder.exists()]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in reversed(missing):
            sync_folder(folder.parent)


class PostgresStore:
    """A table in a second database, for when several machines sign."""

    _WHERE = "the kept checkpoint in the second database"
    _TABLE = """
    CREATE TABLE IF NOT EXISTS kept_checkpoints (
        deployment text NOT NULL, ledger_id uuid NOT NULL, checkpoint text NOT NULL, PRIMARY KEY (deployment, ledger_id))
    """
    _READ = "SELECT k.checkpoint FROM kept_checkpoints k WHERE k.deployment = %s AND k.ledger_id = %s"
    _READ_ALL = "SELECT k.ledger_id::text, k.checkpoint FROM kept_checkpoints k WHERE k.deployment = %s"
    _FIRST = "INSERT INTO kept_checkpoints (deployment, ledger_id, checkpoint) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
    _NEXT = "UPDATE kept_checkpoints SET checkpoint = %s WHERE deployment = %s AND ledger_id = %s AND checkpoint = %s"

    def __init__(self, url: str, deployment: str) -> None:
        self._url, self._deployment = url, deployment
        self._is_made = False

    def read(self, ledger_id: str) -> Checkpoint | None:
        def run(connection: psycopg.Connection[Any]) -> Checkpoint | None:
            row = connection.execute(self._READ, [self._deployment, ledger_id]).fetchone()
            return _parsed(row[0].encode(), self._WHERE) if row else None

        return self._run(run)

    def read_all(self) -> dict[str, Checkpoint | StoreUnusable]:
        def run(connection: psycopg.Connection[Any]) -> dict[str, Checkpoint | StoreUnusable]:
            rows = connection.execute(self._READ_ALL, [self._deployment]).fetchall()
            return {ledger_id: _tried(text.encode(), self._WHERE) for ledger_id, text in rows}

        return self._run(run)

    def swap(self, ledger_id: str, known: Checkpoint | None, kept: Checkpoint) -> bool:
        def run(connection: psycopg.Connection[Any]) -> bool:
            if known is None:
                done = connection.execute(self._FIRST, [self._deployment, ledger_id, kept.text()])
            else:
                done = connection.execute(self._NEXT, [kept.text(), self._deployment, ledger_id, known.text()])
            return done.rowcount == 1

        return self._run(run)

    def _run(self, run: Callable[[psycopg.Connection[Any]], Answer]) -> Answer:
        """Over a connection of its own: it is needed once a second at most, and a kept one would have to be looked after."""
        limits = f"-c statement_timeout={STORE_SECONDS}s -c lock_timeout={STORE_SECONDS}s"
        try:
            with psycopg.connect(self._url, autocommit=True, connect_timeout=STORE_SECONDS, options=limits) as connection:
                refuse_unsafe(connection.execute(DURABILITY).fetchone() or ())
                if not self._is_made:
                    self._make(connection)
                return run(connection)
        except psycopg.Error as error:
            raise _unusable("the second database", str(error).strip().partition("\n")[0]) from error
        except OperatorError as error:
            raise _unusable("the second database", str(error)) from error

    def _make(self, connection: psycopg.Connection[Any]) -> None:
        # IF NOT EXISTS takes the right to make tables even where there is nothing to make.
        if connection.execute("SELECT to_regclass('kept_checkpoints')").fetchone() == (None,):
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(hashtext('contract-ledger kept checkpoints'))")
                connection.execute(self._TABLE)
        self._is_made = True


def open_store(where: str, deployment: str, database_url: str) -> CheckpointStore:
    """The store that LEDGER_CHECKPOINT_STORE names, a postgresql:// URL or a folder, in which each deployment has one of its own.
    OperatorError for another URL, and for the ledger's own database, which would be restored together with what it is to be compared
    with."""
    if where.startswith(("postgresql://", "postgres://")) and is_url(where):
        if _place(where) == _place(database_url):
            raise OperatorError("LEDGER_CHECKPOINT_STORE names the ledger's own database: name another one, on another server.")
        return PostgresStore(where, deployment)
    if "://" in where:
        raise OperatorError(
            "LEDGER_CHECKPOINT_STORE is neither a folder nor the URL of a Postgres, such as postgresql://user@host/database."
        )
    name = quote(deployment, safe="")
    return FolderStore(Path(where).absolute() / (name if name.strip(".") else name.replace(".", "%2E")))


def is_within(where: str, folder: Path | None) -> bool:
    """Whether a store is a folder within another, which would be restored from a backup together with it."""
    return folder is not None and "://" not in where and Path(where).resolve().is_relative_to(folder.resolve())


async def keep(store: CheckpointStore, database: Database, ledger_id: str, checkpoint: Checkpoint, signed: Checkpoint | None) -> None:
    """Keep a checkpoint that is about to be signed, in place of an earlier one that it continues.

    `signed` is the newest that the database says was signed. Once this returns, a checkpoint of this size or a greater one of the same
    history is on disk. HistoryForked when the database is behind the kept one or has another root; StoreUnusable when nothing can be
    kept, or when nothing is there though something was signed.
    """
    for _ in range(MAX_SWAPS):
        kept = await asyncio.to_thread(store.read, ledger_id)
        if kept is None and signed is not None:
            raise StoreUnusable(
                f"A checkpoint of size {signed.size} was signed, and none is kept: the store was emptied or is another one. Put it back; "
                "or let an operator say that the database is the newest copy, by `contract-ledger epoch begin`."
            )
        if kept is not None:
            await _check_continues(database, ledger_id, kept, checkpoint)
            if kept.size >= checkpoint.size:
                return
        if await asyncio.to_thread(store.swap, ledger_id, kept, checkpoint):
            return
    raise StoreUnusable("Other processes keep checkpoints of this ledger at the same moment; try again.")


async def check(database: Database, ledger_id: str, origin: str, kept: Checkpoint) -> None:
    """HistoryForked unless the ledger of an origin has the history that was kept: at the kept size, the kept root."""
    await _check_reached(database, ledger_id, origin, kept)
    if await root_at(database, ledger_id, kept.size) != kept.root:
        raise forked(f"it has another root at size {kept.size} than the one kept")


async def _check_continues(database: Database, ledger_id: str, kept: Checkpoint, checkpoint: Checkpoint) -> None:
    """HistoryForked unless one of the two trees is proven to continue the other: another process may have kept the greater one."""
    await _check_reached(database, ledger_id, checkpoint.origin, kept)
    first, second = sorted((kept, checkpoint), key=lambda one: one.size)
    path = await consistency(database, ledger_id, first.size, second.size)
    if not verify_consistency(first.size, second.size, first.root, second.root, path):
        raise forked(f"its tree of {checkpoint.size} events does not go together with the one of {kept.size} events that was kept")


async def _check_reached(database: Database, ledger_id: str, origin: str, kept: Checkpoint) -> None:
    if kept.origin != origin:
        raise forked(f"it is {origin}, and the checkpoint kept is one of {kept.origin}")
    size = (await database.rows(_SIZE, {"ledger_id": ledger_id}))[0][0]
    if size < kept.size:
        raise forked(f"it has {size} events, and the checkpoint kept is one of {kept.size}")


def forked(why: str) -> HistoryForked:
    """The refusal of a database that is not the one that was signed for."""
    return HistoryForked(
        f"The ledger is not the one that was signed before: {why}. The database is an older copy, or another history. Restore the newest "
        "copy, or begin a new epoch with `contract-ledger epoch begin`."
    )


def _parsed(text: bytes, where: str) -> Checkpoint:
    try:
        return Checkpoint.parse(text.decode())
    except (NoteError, UnicodeDecodeError) as error:
        raise StoreUnusable(
            f"What is kept in {where} is no checkpoint ({error}), so whether the database is behind it is not known. Put it back from a "
            "backup; or, if the database is sure to be the newest copy, remove it and begin a new epoch."
        ) from error


def _tried(text: bytes, where: str) -> Checkpoint | StoreUnusable:
    try:
        return _parsed(text, where)
    except StoreUnusable as error:
        return error


def _unusable(where: str, why: str) -> StoreUnusable:
    return StoreUnusable(f"Checkpoints are kept in {where}, which cannot be used ({why}); until then nothing is signed.")


def _place(url: str) -> tuple[object, ...]:
    known = conninfo_to_dict(url)
    return known.get("host"), str(known.get("port") or 5432), known.get("dbname")
