"""Replays as they are kept: a row each, from the wish to the verdict; those that commands ran stand among them.

Here are the rows, and what is asked about them. Who works on them stands in `service.audit.replaying` and `service.audit.worker`.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection
from uuid_utils import uuid7

from service import __version__
from service.audit.book import Difference
from service.database import Database
from service.errors import ReplayEnded, ReplayNotFound, ReplayRuns, TooManyReplays
from service.log.ledger import Ledger
from service.log.once import kept_of, made_before
from service.log.tree import root_of

VERIFY, REBUILD, BOOK, RECONCILE = "verify", "rebuild", "book", "reconcile"
WAITING, RUNNING, CANCELLED, FAILED, DONE = "waiting", "running", "cancelled", "failed", "done"
MAX_OPEN = 20
"""Replays of a ledger that wait or run at a time."""

_COLUMNS = """
replay_id::text, kind, status, known_position, effective_on, requested_by::text, software_version, head, head_hash, head_root, events,
total, contracts, erased, changed, difference_at, difference, failure, digest, seconds, created_at, started_at, ended_at, (
    SELECT c.note FROM checkpoints c
    WHERE c.ledger_id = r.ledger_id AND c.size >= r.head
      AND c.epoch = (SELECT l.epoch FROM ledgers l WHERE l.ledger_id = r.ledger_id) ORDER BY c.size LIMIT 1)
"""
_OF_LEDGER = f"SELECT {_COLUMNS} FROM replays r WHERE ledger_id = %(ledger_id)s::uuid"  # noqa: S608
_BY_ID = _OF_LEDGER + " AND replay_id = %(replay_id)s::uuid"
_PAGE = (
    _OF_LEDGER
    + " AND (%(before)s::uuid IS NULL OR replay_id < %(before)s::uuid) AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
    + " ORDER BY r.replay_id DESC LIMIT %(limit)s"
)
_COUNT = """
SELECT count(*) FROM (
    SELECT FROM replays WHERE ledger_id = %(ledger_id)s::uuid AND (%(kind)s::text IS NULL OR kind = %(kind)s) LIMIT %(limit)s
) found
"""
_BY_KEY = """
SELECT replay_id::text, salt, request_digest FROM replays WHERE ledger_id = %(ledger_id)s::uuid AND request_key = %(request_key)s
"""
_AT_WORK = """
SELECT replay_id::text, (
    SELECT count(*) FROM replays WHERE ledger_id = %(ledger_id)s::uuid AND status IN ('waiting', 'running') AND kind <> 'reconcile'
)
FROM (VALUES (1)) one(row) LEFT JOIN replays ON ledger_id = %(ledger_id)s::uuid AND status IN ('waiting', 'running') AND kind = %(kind)s
    AND known_position IS NOT DISTINCT FROM %(known_position)s::bigint AND effective_on IS NOT DISTINCT FROM %(effective_on)s::date
"""
_ASK = """
INSERT INTO replays (ledger_id, replay_id, kind, status, known_position, effective_on, requested_by, request_key, salt, request_digest,
    software_version)
VALUES (%(ledger_id)s::uuid, %(replay_id)s::uuid, %(kind)s, 'waiting', %(known_position)s, %(effective_on)s, %(requested_by)s::uuid,
    %(request_key)s, %(salt)s, %(request_digest)s, %(software_version)s)
ON CONFLICT DO NOTHING RETURNING replay_id
"""
_CANCEL = """
UPDATE replays SET status = 'cancelled', ended_at = clock_timestamp(), worker = NULL, leased_until = NULL
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid AND status IN ('waiting', 'running') AND kind <> 'reconcile'
"""
_RESUME = """
UPDATE replays SET status = 'waiting', ended_at = NULL, failure = NULL, attempts = 0
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid AND status IN ('cancelled', 'failed') AND kind <> 'reconcile'
"""
_FRONTIER = """
SELECT b.frontier FROM replays r JOIN batches b ON b.ledger_id = r.ledger_id AND b.last_position = r.head
WHERE r.ledger_id = %(ledger_id)s::uuid AND r.replay_id = %(replay_id)s::uuid
"""
_KEEP_ROOT = """
UPDATE replays SET head_root = %(head_root)s WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid
"""
_RECORD = """
INSERT INTO replays (ledger_id, replay_id, kind, status, known_position, effective_on, software_version, head, head_hash, events, total,
    contracts, erased, changed, difference_at, difference, failure, digest, seconds, started_at, ended_at)
SELECT l.ledger_id, %(replay_id)s::uuid, %(kind)s, %(status)s, %(known_position)s, %(effective_on)s, %(software_version)s, b.last_position,
    e.event_hash, %(events)s, %(events)s, %(contracts)s, %(erased)s, %(changed)s, %(difference_at)s, %(difference)s, %(failure)s,
    %(digest)s, %(seconds)s, clock_timestamp() - make_interval(secs => %(seconds)s), clock_timestamp()
FROM ledgers l
CROSS JOIN LATERAL (
    SELECT last_position FROM batches
    WHERE ledger_id = l.ledger_id AND (%(head)s::bigint IS NULL OR last_position <= %(head)s) ORDER BY last_position DESC LIMIT 1
) b
LEFT JOIN events e ON e.ledger_id = l.ledger_id AND e.position = b.last_position
WHERE l.name = %(ledger)s
RETURNING ledger_id::text
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A replay as it is kept."""

    replay_id: str
    kind: str
    status: str
    known_position: int | None
    effective_on: date | None
    requested_by: str | None
    software_version: str
    head: int | None
    head_hash: bytes | None
    head_root: bytes | None
    events: int
    total: int
    contracts: int
    erased: int
    changed: int
    difference_at: str | None
    difference: str | None
    failure: str | None
    digest: bytes | None
    seconds: float
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    checkpoint: str | None
    """The first signed note of the ledger's epoch that covers the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A replay that is asked for. `key` and `canonical` tell a retry from another request."""

    kind: str
    known_position: int | None = None
    effective_on: date | None = None
    requested_by: str
    key: bytes
    canonical: bytes


async def ask(database: Database, ledger: Ledger, wish: Wish) -> tuple[Run, bool]:
    """The replay of a wish, and whether it was asked for by the same request before.

    KeyReused when the key came with another body, ReplayRuns when one like it waits or runs, TooManyReplays beyond MAX_OPEN.
    """
    known = await _asked_before(database, ledger, wish)
    if known is not None:
        return known, True
    replay_id = str(uuid7())
    parameters = kept_of(wish) | {
        "ledger_id": ledger.ledger_id,
        "replay_id": replay_id,
        "kind": wish.kind,
        "known_position": wish.known_position,
        "effective_on": wish.effective_on,
        "requested_by": wish.requested_by,
        "software_version": __version__,
    }
    at_work = (await database.rows(_AT_WORK, parameters))[0]
    if at_work[0] is None and at_work[1] >= MAX_OPEN:
        raise TooManyReplays(f"{at_work[1]} replays of ledger {ledger.name} wait or run; wait for one to end, or cancel one.")
    if at_work[0] is None and await database.rows(_ASK, parameters):
        return await find(database, ledger, replay_id), False
    # The unique indexes are the guard: whoever lost the race finds who won it.
    known = await _asked_before(database, ledger, wish)
    if known is not None:
        return known, True
    at_work = (await database.rows(_AT_WORK, parameters))[0]
    raise ReplayRuns(wish.kind, at_work[0] or replay_id)


async def _asked_before(database: Database, ledger: Ledger, wish: Wish) -> Run | None:
    made = await made_before(database, _BY_KEY, ledger, wish)
    return None if made is None else await find(database, ledger, made)


async def find(database: Database, ledger: Ledger, replay_id: str) -> Run:
    """A replay as it stands. ReplayNotFound if there is none."""
    rows = await database.rows(_BY_ID, {"ledger_id": ledger.ledger_id, "replay_id": replay_id})
    if not rows:
        raise ReplayNotFound(f"Ledger {ledger.name} has no replay {replay_id}.")
    return Run(*rows[0])


async def runs_before(database: Database, ledger: Ledger, before: str | None, kind: str | None, limit: int) -> list[Run]:
    """The replays of a ledger, the newest first: those before one, of a kind if one is given."""
    parameters = {"ledger_id": ledger.ledger_id, "before": before, "kind": kind, "limit": limit}
    return [Run(*row) for row in await database.rows(_PAGE, parameters, planned_anew=True)]


async def count_runs(database: Database, ledger: Ledger, kind: str | None, limit: int) -> int:
    """How many replays a ledger has; no more than the limit are counted."""
    rows = await database.rows(_COUNT, {"ledger_id": ledger.ledger_id, "kind": kind, "limit": limit}, planned_anew=True)
    return int(rows[0][0])


async def cancel(database: Database, ledger: Ledger, replay_id: str) -> Run:
    """A replay, cancelled: its worker ends within moments. ReplayEnded for one that has an outcome."""
    return await _change(database, ledger, replay_id, _CANCEL, (CANCELLED,))


async def resume(database: Database, ledger: Ledger, replay_id: str) -> Run:
    """A replay that was cancelled or failed, waiting again: it goes on where it ended. ReplayEnded for one that is done.

    ReplayRuns when one like it waits or runs already.
    """
    try:
        return await _change(database, ledger, replay_id, _RESUME, (WAITING, RUNNING))
    except psycopg.errors.UniqueViolation:
        run = await find(database, ledger, replay_id)
        like = {"kind": run.kind, "known_position": run.known_position, "effective_on": run.effective_on}
        at_work = (await database.rows(_AT_WORK, {"ledger_id": ledger.ledger_id} | like))[0]
        raise ReplayRuns(run.kind, at_work[0] or replay_id) from None


async def _change(database: Database, ledger: Ledger, replay_id: str, statement: str, already: tuple[str, ...]) -> Run:
    """A replay after a change that its status allows, or that was made already."""

    async def run(connection: AsyncConnection[Any]) -> None:
        await connection.execute(statement, {"ledger_id": ledger.ledger_id, "replay_id": replay_id})

    await database.read(run)
    found = await find(database, ledger, replay_id)
    if found.status not in already or found.kind == RECONCILE:
        raise ReplayEnded(f"Replay {replay_id} is {found.status}, and its history stays as it is; ask for another.")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command's replay came to. `head` is the last position that it is of; that of the ledger if not said."""

    kind: str
    ledger: str
    seconds: float
    events: int = 0
    contracts: int = 0
    difference: Difference | None = None
    erased: int = 0
    changed: int = 0
    failure: str | None = None
    digest: bytes | None = None
    head: int | None = None
    known_position: int | None = None
    effective_on: date | None = None


def record(connection: psycopg.Connection[Any], outcome: Outcome) -> None:
    """Write the replay of a command into the history."""
    members = {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__ if name != "difference"}
    where, sentence = outcome.difference or (None, None)
    named = {"difference_at": where, "difference": sentence, "status": FAILED if outcome.failure else DONE}
    replay_id = str(uuid7())
    row = connection.execute(_RECORD, members | named | {"replay_id": replay_id, "software_version": __version__}).fetchone()
    if row is not None:
        keep_root(connection, row[0], replay_id)


def keep_root(connection: psycopg.Connection[Any], ledger_id: str, replay_id: str) -> None:
    """Write the root of the tree that ends at a replay's head beside it; where no batch ends there, none is known without work."""
    key = {"ledger_id": ledger_id, "replay_id": replay_id}
    row = connection.execute(_FRONTIER, key, binary=True).fetchone()
    if row is not None and row[0] is not None:
        connection.execute(_KEEP_ROOT, key | {"head_root": root_of(row[0])})


def listed(connection: psycopg.Connection[Any], ledger_id: str, limit: int) -> list[Run]:
    """The newest replays of a ledger, for a command."""
    parameters = {"ledger_id": ledger_id, "before": None, "kind": None, "limit": limit}
    return [Run(*row) for row in connection.execute(_PAGE, parameters).fetchall()]
