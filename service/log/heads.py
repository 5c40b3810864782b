"""The last event that this deployment committed to each ledger, kept outside the database.

A database that lacks it was restored from an older copy, or lost commits: what readers saw as recorded would be recorded anew under the
same positions. So appends stop until an operator speaks (`contract-ledger epoch begin`).
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec
import structlog
from psycopg import AsyncConnection

from service.errors import HistoryForked, HistoryLost, OperatorError
from service.log.decide import Batch
from service.log.ledger import Ledger

WRITE_SECONDS = 1.0

_HASHES = """
SELECT l.ledger_id::text, encode(e.event_hash, 'hex')
FROM jsonb_to_recordset(%s::jsonb) AS k(ledger_id uuid, position bigint)
JOIN ledgers l USING (ledger_id) LEFT JOIN events e ON e.ledger_id = k.ledger_id AND e.position = k.position
"""
_log = structlog.get_logger()


class Head(NamedTuple):
    """A position and the hash of its event, in hex."""

    position: int
    event_hash: str


_NONE = Head(0, "")


class _Members(TypedDict):
    """A head in its file."""

    position: int
    event_hash: str


class Heads:
    """The kept heads of all ledgers: in memory after each commit, in files about once a second, checked at every connect."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heads: dict[str, Head] = read_heads(folder)
        self._lost: dict[str, Head] = {}
        self._forked: dict[str, str] = {}
        self._unwritten: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.on_commit: list[Callable[[str, int], None]] = []
        """Told of each commit of this process: the ledger_id and the last position. Called on the way to the receipts: it must be quick."""

    def require(self, ledger: Ledger, position: int) -> None:
        """HistoryLost when the ledger's log ends before its kept head, or was found to lack it; HistoryForked when it is refused."""
        if ledger.ledger_id in self._forked:
            raise HistoryForked(self._forked[ledger.ledger_id])
        kept = self._heads.get(ledger.ledger_id)
        lost = self._lost.get(ledger.ledger_id) or (kept if kept and position < kept.position else None)
        if lost:
            raise HistoryLost(
                f"Ledger {ledger.name} lacks event {lost.position}, which was committed before: the database is an older copy. "
                f"Restore the newer one, or accept the loss with `contract-ledger epoch begin {ledger.name}` "
                f"(`head accept {ledger.name}` where nothing was ever signed) and start again."
            )

    def refuse(self, ledger_id: str, why: str) -> None:
        """Let nothing be appended to a ledger whose history is not the one that was signed."""
        self._forked[ledger_id] = why

    def accept(self, ledger_id: str) -> None:
        """The ledger has the history that was signed, after all: the database that did not is not the one behind the newest connection."""
        self._forked.pop(ledger_id, None)

    def committed(self, batch: Batch) -> None:
        """Take note of a batch's last event. Where it wrote none, of the last that its receipts tell of: when that was committed, the
        answer may have been lost."""
        ledger_id, last = batch.ledger.ledger_id, Head(batch.position, batch.last_hash)
        if not batch.written:
            last = Head(*batch.found)
            if last.position <= self._heads.get(ledger_id, _NONE).position:
                return
        self._heads[ledger_id] = last
        self._unwritten.add(ledger_id)
        for tell in self.on_commit:
            tell(ledger_id, last.position)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon())

    async def check(self, connection: AsyncConnection[Any]) -> None:
        """Look for the kept heads in the database behind a new connection."""
        # What is committed while the database answers is not what it was asked about.
        asked = dict(self._heads)
        heads = [{"ledger_id": ledger_id, "position": head.position} for ledger_id, head in asked.items()]
        for ledger_id, event_hash in await (await connection.execute(_HASHES, [json.dumps(heads)])).fetchall():
            head = asked[ledger_id]
            if event_hash == head.event_hash:
                self._lost.pop(ledger_id, None)
            elif ledger_id not in self._lost:
                self._lost[ledger_id] = head
                _log.critical("the database lacks an event that was committed", ledger_id=ledger_id, position=head.position)

    async def close(self) -> None:
        """Write what is not written yet."""
        self._closing.set()
        if self._writing:
            await asyncio.wait([self._writing])
        await self._write()

    async def _write_soon(self) -> None:
        while self._unwritten:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), WRITE_SECONDS)
            await self._write()
            if self._closing.is_set():
                return

    async def _write(self) -> None:
        """Write the heads that are not written yet; those that cannot be are tried again with the next."""
        taken = {ledger_id: self._heads[ledger_id] for ledger_id in self._unwritten}
        self._unwritten.clear()
        try:
            await asyncio.to_thread(keep_heads, self._folder, taken)
        except (OSError, OperatorError) as error:
            self._unwritten |= taken.keys()
            _log.critical("the heads of the log cannot be kept", error=str(error))


def read_heads(folder: Path) -> dict[str, Head]:
    """The heads kept in a folder, by ledger_id."""
    files = folder.glob("*.json") if folder.is_dir() else ()
    return {file.stem: _read_head(file) for file in files}


def _read_head(file: Path) -> Head:
    try:
        return Head(**msgspec.json.decode(file.read_bytes(), type=_Members))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OperatorError(
            f"The kept head {file} cannot be read ({error}), so whether the database lacks what was committed is not known. "
            "Put the file back from a backup; or, if this database is sure to be the newest copy, delete it."
        ) from error


def keep_head(folder: Path, ledger_id: str, head: Head, *, backwards: bool = False) -> None:
    """Keep a ledger's head; one that is ahead of it stays, written by another process, unless told to go backwards."""
    keep_heads(folder, {ledger_id: head}, backwards=backwards)


def replace_head(folder: Path, ledger_id: str, head: Head | None) -> None:
    """Keep a ledger's head in place of any that was kept; or none, for a ledger without events."""
    if head is None:
        (folder / f"{ledger_id}.json").unlink(missing_ok=True)
    else:
        keep_head(folder, ledger_id, head, backwards=True)


def keep_heads(folder: Path, heads: Mapping[str, Head], *, backwards: bool = False) -> None:
    """Keep heads by ledger_id. Once it returns, a power cut leaves them whole."""
    if not heads:
        return
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for ledger_id, head in heads.items():
            file = folder / f"{ledger_id}.json"
            if backwards or not file.exists() or _read_head(file).position <= head.position:
                replace_file(file, msgspec.json.encode(head._asdict()))
        sync_folder(folder)


def replace_file(file: Path, content: bytes) -> None:
    """Under its name a file is whole, the old or the new: what is renamed is on disk before."""
    unfinished = file.with_suffix(".new")
    with unfinished.open("wb") as target:
        unfinished.chmod(0o600)
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(file)


def sync_folder(folder: Path) -> None:
    """Names given and taken in a folder survive a power cut once this returns."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
