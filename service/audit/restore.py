"""Restore: a whole ledger out of its bundle into another database, byte for byte: headers, bodies, positions, hashes, batches and tree.

The bundle is read twice: nothing is written before all of it was found to hang together and to make the root of its checkpoint. Until the
projection is built the ledger has a layout that no release writes, so nothing is appended to it; a restore that was ended goes on there.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, LiteralString

import orjson
import psycopg

from service.audit.book import Connection, open_connection
from service.audit.bundle_file import BundleFile, Read, opened
from service.audit.rebuild import rebuild
from service.audit.restorable import STEP_EVENTS, Check, check_ids
from service.errors import OperatorError
from service.log.checkpoint import Checkpoint
from service.log.epochs import follows_of
from service.log.header import event_hash
from service.log.ledger import zone
from service.log.notes import Note, NoteError, Verifier
from service.log.tiles import full_tiles
from service.log.tree import Extension, Full, extend
from service.projections.contracts import RESTORING

STEP_BYTES = 16_777_216
_LEDGER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_EPOCH = re.compile("[1-9][0-9]{0,8}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_FOUND = """
SELECT l.ledger_id::text, l.name, l.layout, b.last_position, b.frontier FROM ledgers l
CROSS JOIN LATERAL (SELECT * FROM batches b WHERE b.ledger_id = l.ledger_id ORDER BY b.last_position DESC LIMIT 1) b
WHERE l.ledger_id = %(ledger_id)s::uuid OR l.name = %(name)s
"""
_MAKE = """
WITH made AS (
    INSERT INTO ledgers (ledger_id, name, time_zone, epoch, layout, if_match_required, unique_reference_schemes, public_log, strict)
    VALUES (
        %(ledger_id)s::uuid, %(name)s, %(time_zone)s, %(epoch)s, %(layout)s, %(if_match_required)s, %(schemes)s, %(public_log)s, %(strict)s
    )
    RETURNING ledger_id
), lock AS (
    INSERT INTO ledger_locks (ledger_id) SELECT ledger_id FROM made
)
INSERT INTO batches (ledger_id, last_position, recorded_at, frontier) SELECT ledger_id, 0, '1970-01-01T00:00:00Z', '' FROM made
"""
_EPOCH_NOTE = """
INSERT INTO epochs (ledger_id, epoch, note) VALUES (%(ledger_id)s::uuid, %(epoch)s, %(note)s) ON CONFLICT (ledger_id, epoch) DO NOTHING
"""
_ONE_RESTORE = "SELECT pg_try_advisory_lock(hashtextextended('contract-ledger restore ' || %s, 0))"
_LOCK = "SELECT FROM ledger_locks WHERE ledger_id = %s::uuid FOR NO KEY UPDATE"
_EVENTS = """
COPY events (ledger_id, position, contract_id, revision, event_id, event_type, recorded_at, header, event_hash) FROM STDIN
"""
_PAYLOADS = "COPY payloads (ledger_id, position, body, sealed) FROM STDIN"
_BATCHES = """
INSERT INTO batches (ledger_id, last_position, recorded_at, frontier)
SELECT %(ledger_id)s::uuid, b.last_position, b.recorded_at, decode(b.frontier, 'hex')
FROM jsonb_to_recordset(%(batches)s::jsonb) AS b(last_position bigint, recorded_at timestamptz, frontier text)
"""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored; of the events, `found` were there from a restore that was ended."""

    ledger: str
    events: int
    found: int
    contracts: int
    seconds: float


def restore(database_url: str, file: Path, progress: Progress, verifier_key: str | None = None, owner_url: str | None = None) -> Restored:
    """Put the ledger of a bundle into a migrated database that has none of its id or name, or goes on with that.

    OperatorError, before anything is written, for a bundle that is not whole, not of a whole ledger, without sealed values that the
    ledger has, not the tree of its checkpoint, with an id twice, or not signed by the key that is given; and for one that tells of epochs
    where the owner of the tables, who alone may write those, is not at hand.
    """
    began = time.monotonic()
    with opened(file) as bundle:
        _check_opening(bundle, verifier_key)
        begun = _beginnings(bundle, verifier_key)
        if begun and owner_url is None:
            raise OperatorError("The bundle tells of epochs, which only the owner of the tables may write: set LEDGER_MIGRATION_URL.")
        check = Check(bundle)
        check.run(progress)
    if doubtful := check.doubtful():
        with opened(file) as bundle:
            check_ids(bundle, doubtful)
    with opened(file) as bundle, open_connection(database_url) as connection:
        try:
            tree = _begin(connection, bundle)
            if begun and owner_url is not None:
                _write_epochs(owner_url, bundle.opening.ledger_id, begun)
            _write(connection, bundle, tree, progress)
        except psycopg.Error as error:
            raise OperatorError(f"The database refused: {str(error).strip()}. What was written stays: run the same again.") from error
        name, size = bundle.opening.ledger, bundle.checkpoint.size
    rebuilt = rebuild(database_url, name, progress, is_restored=True)
    return Restored(name, size, tree.size, rebuilt.contracts, time.monotonic() - began)


def _check_opening(bundle: BundleFile, verifier_key: str | None) -> None:
    opening = bundle.opening
    if opening.kind != "ledger":
        raise OperatorError(f"This bundle is of a {opening.kind}: what restores is the bundle of a whole ledger.")
    if not _UUID.fullmatch(opening.ledger_id) or not _LEDGER_NAME.fullmatch(opening.ledger):
        bundle.refuse("names a ledger that there cannot be")
    try:
        zone(opening.time_zone)
        signed = verifier_key is None or _is_signed(
            _pinned(verifier_key, bundle.checkpoint.origin), bundle.checkpoint.origin, Note.parse(opening.checkpoint)
        )
    except NoteError as error:
        raise OperatorError(f"The signature cannot be verified: {error}.") from None
    except (KeyError, ValueError):
        bundle.refuse("names a time zone that there is not")
    if not signed:
        raise OperatorError("The checkpoint of the bundle is not signed by the key that was given.")
    # Nothing else in a bundle is signed: the zone says what days are, the name whose log it is.
    named = [line.removeprefix("time zone ") for line in bundle.checkpoint.extensions if line.startswith("time zone ")]
    if named not in ([], [opening.time_zone]) or bundle.checkpoint.origin.split("/")[-2:-1] not in ([], [opening.ledger]):
        bundle.refuse("names another time zone or another ledger than its checkpoint")


def _pinned(verifier_key: str, origin: str) -> Verifier:
    """A key as it was pinned; where that was in an earlier epoch of the log, as it signs in this one (docs/bundle-format.md)."""
    pinned = Verifier.parse(verifier_key)
    (log, _, epoch), (same, _, later) = pinned.name.rpartition("/"), origin.rpartition("/")
    is_later = log == same and epoch.isdecimal() and later.isdecimal() and int(epoch) < int(later)
    return replace(pinned, name=origin) if is_later else pinned


def _is_signed(pinned: Verifier, origin: str, note: Note) -> bool:
    """Whether a key that was pinned signed a checkpoint of an origin. A signature is over the text alone, and one key signs for many logs:
    the name beside it is anybody's to write, so a key of an epoch of a log signs for no other origin."""
    return (pinned.name == origin or not pinned.name.rpartition("/")[2].isdecimal()) and pinned.signed(note)


def _beginnings(bundle: BundleFile, verifier_key: str | None) -> dict[int, str]:
    """The signed notes that the epochs of the log began with, by epoch. OperatorError for what does not lead to the checkpoint's."""
    log, _, last = bundle.checkpoint.origin.rpartition("/")
    begun: dict[int, str] = {}
    for beginning in bundle.opening.epochs or ():
        try:
            note = Note.parse(beginning.checkpoint)
            checkpoint = Checkpoint.parse(note.text)
            pinned = None if verifier_key is None else _pinned_ever(verifier_key, checkpoint.origin)
        except NoteError as error:
            bundle.refuse(f"tells of an epoch by a note that is none: {error}")
        of, _, epoch = checkpoint.origin.rpartition("/")
        if of != log or not _EPOCH.fullmatch(epoch) or not _EPOCH.fullmatch(last) or not follows_of(checkpoint):
            bundle.refuse("tells of an epoch of another log, or by a note that does not begin one")
        if not max([1, *begun]) < int(epoch) <= int(last):
            bundle.refuse("tells of epochs out of their order, or after that of its checkpoint")
        if pinned is not None and not _is_signed(pinned, checkpoint.origin, note):
            bundle.refuse(f"tells of epoch {epoch} by a note that is not signed by the key that was given")
        begun[int(epoch)] = beginning.checkpoint
    return begun


def _pinned_ever(verifier_key: str, origin: str) -> Verifier:
    """A key as it was pinned, as it signs in any epoch of its log."""
    pinned = Verifier.parse(verifier_key)
    return replace(pinned, name=origin) if pinned.name.rpartition("/")[0] == origin.rpartition("/")[0] else pinned


def _write_epochs(owner_url: str, ledger_id: str, begun: dict[int, str]) -> None:
    """Write the notes of epochs; those that an earlier run wrote are there. They come before the events: a ledger whose restore was ended
    has them when it is gone on with."""
    with open_connection(owner_url) as connection, connection.transaction():
        for epoch, note in begun.items():
            connection.execute(_EPOCH_NOTE, {"ledger_id": ledger_id, "epoch": epoch, "note": note})


def _begin(connection: Connection, bundle: BundleFile) -> Extension:
    """The ledger, made, or found as an earlier restore left it; the tree that it has. OperatorError when there is another."""
    opening = bundle.opening
    if connection.execute(_ONE_RESTORE, [opening.ledger_id]).fetchone() != (True,):
        raise OperatorError(f"Another restore of ledger {opening.ledger} runs; wait for it to end.")
    found = connection.execute(_FOUND, {"ledger_id": opening.ledger_id, "name": opening.ledger}).fetchall()
    if not found:
        connection.execute(_MAKE, _made(bundle))
        return Extension(b"", 0, [])
    ledger_id, name, layout, position, frontier = found[0]
    if (ledger_id, name, len(found)) != (opening.ledger_id, opening.ledger, 1) or layout != RESTORING:
        raise OperatorError(
            f"The database has a ledger {name} ({ledger_id}) already, and nothing is restored over it: restore into another "
            "database, which `contract-ledger migrate --data-dir FOLDER` makes without a ledger."
        )
    return Extension(frontier, position, [])


def _made(bundle: BundleFile) -> dict[str, Any]:
    opening, policies = bundle.opening, bundle.opening.policies
    epoch = bundle.checkpoint.origin.rpartition("/")[2]
    return {
        "ledger_id": opening.ledger_id,
        "name": opening.ledger,
        "time_zone": opening.time_zone,
        "epoch": int(epoch) if _EPOCH.fullmatch(epoch) else 1,
        "layout": RESTORING,
        "if_match_required": policies is not None and policies.if_match_required,
        "public_log": policies is not None and policies.public_log,
        "strict": policies is not None and policies.strict,
        "schemes": policies.unique_reference_schemes if policies else [],
    }


def _write(connection: Connection, bundle: BundleFile, there: Extension, progress: Progress) -> None:
    """Write the events after those that are there, which have to be the same, a step of whole batches in a transaction."""
    events = bundle.events()
    tree = Extension(b"", 0, [])
    for read in islice(events, there.size):
        tree = extend(tree.frontier, tree.size, (event_hash(read.line.header.encode()),))
    if tree.frontier != there.frontier:
        raise OperatorError(f"What is there of ledger {bundle.opening.ledger} was restored from another bundle.")
    for step in _steps(events):
        tree = _write_step(connection, bundle.opening.ledger_id, tree, step)
        progress(tree.size, bundle.checkpoint.size, "events")


def _steps(events: Iterator[Read]) -> Iterator[list[Read]]:
    """Events in steps of whole batches."""
    step: list[Read] = []
    size = 0
    for read in events:
        step.append(read)
        size += len(read.line.body or "")
        if read.line.ends_batch and (len(step) >= STEP_EVENTS or size >= STEP_BYTES):
            yield step
            step, size = [], 0
    if step:
        yield step


def _write_step(connection: Connection, ledger_id: str, tree: Extension, step: Sequence[Read]) -> Extension:
    """The tree with the events of a step, once these are committed."""
    leaves = [event_hash(read.line.header.encode()) for read in step]
    grown, batches, done = tree, [], 0
    full: list[Full] = []
    for count, read in enumerate(step, 1):
        if read.line.ends_batch:
            grown, done = extend(grown.frontier, grown.size, leaves[done:count]), count
            full += grown.full
            batches.append({"last_position": grown.size, "recorded_at": read.header.recorded_at, "frontier": grown.frontier.hex()})
    with connection.transaction():
        connection.execute(_LOCK, [ledger_id])
        _copy(connection, _EVENTS, (_event_row(ledger_id, read, leaf) for read, leaf in zip(step, leaves, strict=True)))
        _copy(connection, _PAYLOADS, (_payload_row(ledger_id, read, read.line.body) for read in step if read.line.body is not None))
        connection.execute(_BATCHES, {"ledger_id": ledger_id, "batches": orjson.dumps(batches).decode()})
        for statement, parameters in full_tiles(ledger_id, sorted(full)):
            connection.execute(statement, parameters)
    return grown


def _copy(connection: Connection, statement: LiteralString, rows: Iterable[Sequence[Any]]) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _event_row(ledger_id: str, read: Read, leaf: bytes) -> Sequence[Any]:
    header = read.header
    known = (header.position, header.contract_id, header.revision, header.event_id, header.event_type, header.recorded_at)
    return (ledger_id, *known, read.line.header.encode(), leaf)


def _payload_row(ledger_id: str, read: Read, body: str) -> Sequence[Any]:
    return (ledger_id, read.header.position, body.encode(), None if read.line.sealed is None else read.line.sealed.encode())
