"""Epochs: an operator says that a ledger goes on from what the database has, though more, or another history, was signed before.

A new epoch is a new log for whoever verifies: its origin is another. It begins with a checkpoint of the point where it goes on, which
names in an extension line what it follows: `follows <origin> <size> <root>`, the last that was signed of the epoch before. Cursors carry
the epoch, so those given before are refused.
"""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from service.database import Database
from service.errors import HistoryForked, OperatorError, StoreUnusable
from service.log.checkpoint import Checkpoint, origin_of
from service.log.heads import Head, read_heads, replace_head
from service.log.kept import CheckpointStore, check
from service.log.notes import Note, Signer
from service.log.tree import EMPTY, root_of

_LEDGER = "SELECT l.ledger_id::text, l.time_zone FROM ledgers l WHERE l.name = %(name)s"
# Separate statements: what comes after the lock sees what was committed before it.
_LOCK = "SELECT FROM ledger_locks k WHERE k.ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_STANDS = """
SELECT l.epoch, b.last_position, b.frontier, encode(e.event_hash, 'hex')
FROM ledgers l JOIN batches b ON b.ledger_id = l.ledger_id
LEFT JOIN events e ON e.ledger_id = b.ledger_id AND e.position = b.last_position
WHERE l.ledger_id = %(ledger_id)s::uuid ORDER BY b.last_position DESC LIMIT 1
"""
_HAS_HEAD = """
SELECT 1 FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position = %(position)s AND e.event_hash = decode(%(event_hash)s, 'hex')
"""
_EPOCHS = "SELECT p.epoch, p.begun_at, p.note FROM epochs p WHERE p.ledger_id = %(ledger_id)s::uuid ORDER BY p.epoch"
_RECORD = "INSERT INTO epochs (ledger_id, epoch, note) VALUES (%(ledger_id)s::uuid, %(epoch)s, %(note)s)"
_RAISE = "UPDATE ledgers SET epoch = %(epoch)s WHERE ledger_id = %(ledger_id)s::uuid"


class Epoch(NamedTuple):
    """An epoch that an operator began, and the signed checkpoint that it began with."""

    epoch: int
    begun_at: datetime
    note: str


@dataclass(frozen=True, slots=True)
class Authority:
    """In whose name an epoch is begun: the deployment, its keys, and where it keeps what it signed and committed."""

    deployment: str
    signers: Sequence[Signer]
    store: CheckpointStore
    heads_folder: Path


@dataclass(frozen=True, slots=True)
class Begun:
    """What the ledger goes on from, what was signed before, and the last event that was kept, if that is lost."""

    beginning: Checkpoint
    follows: Checkpoint
    lost: Head | None


class _Stand(NamedTuple):
    """Where a ledger stands in the database."""

    ledger_id: str
    time_zone: str
    epoch: int
    size: int
    root: bytes
    last_hash: str | None


async def epochs(database: Database, ledger_id: str) -> list[Epoch]:
    """The epochs that were begun in a ledger, the oldest first; the first epoch of all is begun by nobody, and is not among them."""
    return [Epoch(*row) for row in await database.rows(_EPOCHS, {"ledger_id": ledger_id})]


async def begin(database: Database, authority: Authority, name: str, signed: Checkpoint | None) -> Begun:
    """Begin a new epoch of a ledger, as the owner of the tables, with no service running; one that was killed halfway is finished.

    `signed` is the newest checkpoint that the database says was signed. OperatorError when the database has all that was kept, so that
    there is nothing to accept, or when no key or no store is at hand.
    """
    if not authority.signers:
        raise OperatorError("A new epoch begins with a signed note: set LEDGER_SIGNING_KEY to a key of this deployment.")
    async with database.transaction() as connection:
        stand = await _locked(connection, name)
        kept = await asyncio.to_thread(_kept, authority.store, stand.ledger_id)
        lost = await _lost_head(connection, stand, authority.heads_folder)
        begun = await _unfinished(connection, stand, kept, lost)
        if begun is None:
            await _require_fork(database, stand, origin_of(authority.deployment, name, stand.epoch), kept or signed, lost, kept is None)
            begun = _begun(authority, name, stand, kept or signed, lost)
            await _record(connection, authority, stand, begun)
    # The database first: what is kept is replaced only by what is there. The checkpoint last: until then this can be run again.
    replace_head(authority.heads_folder, stand.ledger_id, Head(stand.size, stand.last_hash) if stand.last_hash else None)
    if not await asyncio.to_thread(authority.store.swap, stand.ledger_id, kept, begun.beginning):
        raise OperatorError("Another process keeps checkpoints of this ledger: stop every service, and run this again.")
    return begun


def follows_of(beginning: Checkpoint) -> str:
    """What a checkpoint that begins an epoch says that it follows: origin, size and root; empty for any other checkpoint."""
    return next((line.removeprefix("follows ") for line in beginning.extensions if line.startswith("follows ")), "")


def _said(ended: Checkpoint) -> str:
    return f"{ended.origin} {ended.size} {base64.b64encode(ended.root).decode()}"


async def _locked(connection: AsyncConnection[Any], name: str) -> _Stand:
    known = await (await connection.execute(_LEDGER, {"name": name})).fetchone()
    if known is None:
        raise OperatorError(f"There is no ledger {name}; `contract-ledger ledgers list` tells those there are.")
    await connection.execute(_LOCK, {"ledger_id": known[0]})
    row = await (await connection.execute(_STANDS, {"ledger_id": known[0]})).fetchone()
    assert row is not None, "a ledger begins with the row of position 0"
    if row[2] is None:
        raise OperatorError(f"The tree of ledger {name} is not built: run `contract-ledger migrate` first.")
    return _Stand(known[0], known[1], row[0], row[1], root_of(row[2]), row[3])


def _kept(store: CheckpointStore, ledger_id: str) -> Checkpoint | None:
    try:
        return store.read(ledger_id)
    except StoreUnusable as error:
        raise OperatorError(error.detail) from error


async def _lost_head(connection: AsyncConnection[Any], stand: _Stand, folder: Path) -> Head | None:
    """The kept head, if the database lacks it."""
    head = read_heads(folder).get(stand.ledger_id)
    if head is None or await (await connection.execute(_HAS_HEAD, {"ledger_id": stand.ledger_id, **head._asdict()})).fetchone():
        return None
    return head


async def _unfinished(connection: AsyncConnection[Any], stand: _Stand, kept: Checkpoint | None, lost: Head | None) -> Begun | None:
    """The epoch that was begun in the database, and not yet accepted in what is kept."""
    rows = await (await connection.execute(_EPOCHS, {"ledger_id": stand.ledger_id})).fetchall()
    if not rows or rows[-1][0] != stand.epoch or kept is None:
        return None
    beginning = Checkpoint.parse(Note.parse(rows[-1][2]).text)
    return Begun(beginning, kept, lost) if follows_of(beginning) == _said(kept) else None


async def _require_fork(
    database: Database, stand: _Stand, origin: str, last: Checkpoint | None, lost: Head | None, is_emptied: bool
) -> None:
    """OperatorError when the database has all that was signed and committed."""
    if lost is not None or (is_emptied and last is not None):
        return
    try:
        if last is not None:
            await check(database, stand.ledger_id, origin, last)
    except HistoryForked:
        return
    known = f"the checkpoint of {last.size} events that is kept" if last else "every event known here"
    raise OperatorError(f"The database has {known}: there is nothing to accept, and no new epoch is needed.")


def _begun(authority: Authority, name: str, stand: _Stand, last: Checkpoint | None, lost: Head | None) -> Begun:
    """Where the new epoch begins. Where nothing was signed before it follows the empty tree."""
    ended = last or Checkpoint(origin_of(authority.deployment, name, stand.epoch), 0, EMPTY)
    log, _, epoch = ended.origin.rpartition("/")
    if log != f"{authority.deployment}/{name}" or not epoch.isdecimal():
        raise OperatorError(f"What is kept is a checkpoint of {ended.origin}, not of ledger {name} of {authority.deployment}.")
    origin = origin_of(authority.deployment, name, max(int(epoch), stand.epoch) + 1)
    extensions = (f"time zone {stand.time_zone}", f"follows {_said(ended)}")
    return Begun(Checkpoint(origin, stand.size, stand.root, extensions), ended, lost)


async def _record(connection: AsyncConnection[Any], authority: Authority, stand: _Stand, begun: Begun) -> None:
    origin, text = begun.beginning.origin, begun.beginning.text()
    note = Note(text, tuple(signer.sign(origin, text) for signer in authority.signers)).format()
    parameters = {"ledger_id": stand.ledger_id, "epoch": int(origin.rpartition("/")[2]), "note": note}
    await connection.execute(_RECORD, parameters)
    await connection.execute(_RAISE, parameters)
