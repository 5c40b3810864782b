# ruff: noqa: S608 - the statements are put together from each other's parts
"""Webhooks as they are kept: who is sent what, how far that is, which contracts are held back, and what was tried.

A worker that has a webhook's lease moves it on; whoever changes it from outside counts its version on, and the worker, which writes only
what is of the version it knows, reads it again.
"""

import secrets
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from uuid_utils import uuid7

from service.database import Database
from service.errors import ContractNotHeld, TooManyWebhooks, WebhookNotFound
from service.log.ledger import Ledger
from service.log.once import kept_of, made_before

ACTIVE, PAUSED, ENDED = "active", "paused", "ended"
RETRYING, DEAD = "retrying", "dead"
MAX_WEBHOOKS: Final = 1_000
"""Of a ledger."""
KEPT_ATTEMPTS: Final = 1_000
"""Of a webhook, the newest."""
BOTH_SECRETS_HOURS: Final = 24
"""For how long after a rotation deliveries are signed with the secrets of before too."""
PREVIOUS_SECRETS: Final = 3
"""That sign after rotations: the answer to one may have been lost, and the endpoint know only what was before it."""
_SECRET_BYTES = 32

_COLUMNS = """
ledger_id::text, webhook_id::text, url, event_types, contract_ids::text[], status, ended_because, secret,
CASE WHEN previous_until > clock_timestamp() THEN previous_secrets ELSE ARRAY[]::text[] END,
position, failures, version, created_by::text, created_at
"""
_OF = " WHERE ledger_id = %(ledger_id)s::uuid AND webhook_id = %(webhook_id)s::uuid"
_FIND = f"SELECT {_COLUMNS} FROM webhooks{_OF}"
_LIST = f"""
SELECT {_COLUMNS} FROM webhooks
WHERE ledger_id = %(ledger_id)s::uuid AND webhook_id > %(after)s::uuid ORDER BY webhooks.webhook_id LIMIT %(limit)s
"""
_BY_KEY = """
SELECT webhook_id::text, salt, request_digest FROM webhooks WHERE ledger_id = %(ledger_id)s::uuid AND request_key = %(request_key)s
"""
_COUNT = "SELECT count(*) FROM webhooks WHERE ledger_id = %(ledger_id)s::uuid"
_CREATE = """
INSERT INTO webhooks (ledger_id, webhook_id, url, event_types, contract_ids, status, secret, position, created_by, request_key, salt,
    request_digest)
VALUES (%(ledger_id)s::uuid, %(webhook_id)s::uuid, %(url)s, %(event_types)s::text[], %(contract_ids)s::uuid[], 'active', %(secret)s,
    %(position)s, %(created_by)s::uuid, %(request_key)s, %(salt)s, %(request_digest)s)
ON CONFLICT DO NOTHING RETURNING webhook_id
"""
_CHANGE = f"UPDATE webhooks SET version = version + 1, {{}}{_OF} RETURNING {_COLUMNS}"
_IF_HELD = f"""
UPDATE webhooks SET version = version + 1, failures = 0{_OF} AND EXISTS (
    SELECT FROM webhook_holds h
    WHERE h.ledger_id = webhooks.ledger_id AND h.webhook_id = webhooks.webhook_id AND h.contract_id = %(contract_id)s::uuid
        AND h.position = coalesce(%(skipped)s, h.position))
RETURNING {_COLUMNS}
"""
_DELETE = tuple(f"DELETE FROM {table}{_OF}" for table in ("webhooks", "webhook_holds", "webhook_attempts"))
_STATUS = "status = %(status)s, ended_because = %(because)s, failures = 0"
_ROTATE = """
previous_secrets = (secret || CASE WHEN previous_until > clock_timestamp() THEN previous_secrets ELSE ARRAY[]::text[] END)[1:%(most)s],
    previous_until = clock_timestamp() + make_interval(hours => %(hours)s), secret = %(secret)s
"""
_REPLAY = "position = least(position, %(position)s), failures = 0"
_HOLDS = "SELECT contract_id::text, position, status, attempts, next_attempt_at, failure FROM webhook_holds" + _OF
_HELD = _HOLDS + " AND contract_id > %(after)s::uuid ORDER BY webhook_holds.contract_id LIMIT %(limit)s"
_COUNT_HELD = f"SELECT count(*) FROM (SELECT FROM webhook_holds{_OF} LIMIT %(limit)s) found"
_COUNT_ATTEMPTS = "SELECT count(*) FROM webhook_attempts" + _OF
_FORGET_LATER_HOLDS = "DELETE FROM webhook_holds" + _OF + " AND position > %(position)s"
_RETRY_ALL = "UPDATE webhook_holds SET next_attempt_at = clock_timestamp()" + _OF + " AND status = 'retrying'"
_RETRY = """
UPDATE webhook_holds SET status = 'retrying', attempts = 0, next_attempt_at = clock_timestamp(),
    position = coalesce(%(skipped)s + 1, position)
WHERE ledger_id = %(ledger_id)s::uuid AND webhook_id = %(webhook_id)s::uuid AND contract_id = %(contract_id)s::uuid RETURNING contract_id
"""
_ATTEMPTS = f"""
SELECT attempt_id::text, attempted_at, position, contract_id::text, event_id::text, status_code, failure, milliseconds
FROM webhook_attempts{_OF} AND (%(before)s::uuid IS NULL OR attempt_id < %(before)s::uuid)
ORDER BY webhook_attempts.attempt_id DESC LIMIT %(limit)s
"""
_MOVE_ON = f"""
UPDATE webhooks SET position = %(position)s, failures = %(failures)s, status = %(status)s, ended_because = %(because)s{_OF}
    AND worker = %(worker)s::uuid AND version = %(version)s AND position = %(was)s RETURNING version
"""
_HOLD = """
INSERT INTO webhook_holds (ledger_id, webhook_id, contract_id, position, status, attempts, next_attempt_at, failure)
VALUES (%(ledger_id)s::uuid, %(webhook_id)s::uuid, %(contract_id)s::uuid, %(at)s, %(hold_status)s, %(attempts)s,
    clock_timestamp() + make_interval(secs => %(seconds)s), %(failure)s)
ON CONFLICT (ledger_id, webhook_id, contract_id) DO UPDATE SET position = excluded.position, status = excluded.status,
    attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at, failure = excluded.failure
"""
_LET_GO = "DELETE FROM webhook_holds" + _OF + " AND contract_id = ANY(%(contract_ids)s::uuid[])"
_TRIED = """
INSERT INTO webhook_attempts (ledger_id, webhook_id, attempt_id, attempted_at, position, contract_id, event_id, status_code, failure,
    milliseconds)
VALUES (%(ledger_id)s::uuid, %(webhook_id)s::uuid, %(attempt_id)s::uuid, %(attempted_at)s, %(at)s, %(contract_id)s::uuid,
    %(event_id)s::uuid, %(status_code)s, %(failure)s, %(milliseconds)s)
"""
_FORGET = f"""
DELETE FROM webhook_attempts{_OF} AND attempt_id <= (
    SELECT attempt_id FROM webhook_attempts{_OF} ORDER BY webhook_attempts.attempt_id DESC OFFSET %(kept)s LIMIT 1)
"""


@dataclass(slots=True)
class Webhook:
    """A webhook as it is kept. `secrets` sign: the one that holds, and for a while those before."""

    ledger_id: str
    webhook_id: str
    url: str
    event_types: list[str]
    contract_ids: list[str]
    status: str
    ended_because: str | None
    secret: str
    previous_secrets: list[str]
    position: int
    failures: int
    version: int
    created_by: str
    created_at: datetime

    @property
    def secrets(self) -> list[str]:
        return [self.secret, *self.previous_secrets]

    @property
    def key(self) -> dict[str, Any]:
        return {"ledger_id": self.ledger_id, "webhook_id": self.webhook_id}


@dataclass(slots=True)
class Hold:
    """A contract that a webhook holds back: from `position` on nothing of it was delivered."""

    contract_id: str
    position: int
    status: str
    attempts: int
    next_attempt_at: datetime | None
    failure: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An event that was sent, or was to be."""

    attempt_id: str
    attempted_at: datetime
    position: int
    contract_id: str
    event_id: str
    status_code: int | None
    failure: str | None
    milliseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A webhook that is asked for, to be sent what comes after a position. `key` and `canonical` tell a retry from another request."""

    url: str
    event_types: Sequence[str]
    contract_ids: Sequence[str]
    position: int
    created_by: str
    key: bytes
    canonical: bytes


@dataclass(slots=True)
class Moved:
    """What a worker has done since it last wrote: holds that are new or other by contract, contracts that are let go, attempts."""

    held: dict[str, tuple[Hold, float | None]] = field(default_factory=dict)
    """With the seconds until the next attempt; None for one that is given up."""
    let_go: set[str] = field(default_factory=set)
    attempts: list[Attempt] = field(default_factory=list)
    retry_all: bool = False


def new_secret() -> str:
    """A secret as Standard Webhooks has it: 256 random bits."""
    return f"whsec_{b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


async def create(database: Database, ledger: Ledger, wish: Wish) -> tuple[Webhook, bool]:
    """A new webhook; or the one that the same request made before, and True. KeyReused when its key came with another body,
    TooManyWebhooks when the ledger has MAX_WEBHOOKS."""
    if known := await _asked_before(database, ledger, wish):
        return known, True
    if await count_webhooks(database, ledger) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"Ledger {ledger.name} has {MAX_WEBHOOKS} webhooks; delete one that is not needed.")
    webhook_id = str(uuid7())
    parameters = kept_of(wish) | {
        "ledger_id": ledger.ledger_id,
        "webhook_id": webhook_id,
        "url": wish.url,
        "event_types": list(wish.event_types),
        "contract_ids": list(wish.contract_ids),
        "secret": new_secret(),
        "position": wish.position,
        "created_by": wish.created_by,
    }
    if await database.rows(_CREATE, parameters):
        return await find(database, ledger, webhook_id), False
    # The unique index is the guard: whoever lost the race finds who won it, or that it was deleted already.
    return await create(database, ledger, wish)


async def _asked_before(database: Database, ledger: Ledger, wish: Wish) -> Webhook | None:
    made = await made_before(database, _BY_KEY, ledger, wish)
    return None if made is None else await find(database, ledger, made)


async def find(database: Database, ledger: Ledger, webhook_id: str) -> Webhook:
    """A webhook. WebhookNotFound if there is none."""
    rows = await database.rows(_FIND, {"ledger_id": ledger.ledger_id, "webhook_id": webhook_id})
    if not rows:
        raise _not_found(ledger, webhook_id)
    return Webhook(*rows[0])


async def webhooks_after(database: Database, ledger: Ledger, after: str, limit: int) -> list[Webhook]:
    """The webhooks of a ledger after one, in the order they were made."""
    rows = await database.rows(_LIST, {"ledger_id": ledger.ledger_id, "after": after, "limit": limit})
    return [Webhook(*row) for row in rows]


async def set_status(database: Database, ledger: Ledger, webhook_id: str, status: str) -> Webhook:
    """Pause it, or let it go on; also one that its endpoint ended."""
    return await _change(database, ledger, webhook_id, _STATUS, {"status": status, "because": None})


async def rotate(database: Database, ledger: Ledger, webhook_id: str) -> Webhook:
    """Give it a new secret; for BOTH_SECRETS_HOURS those before sign too."""
    return await _change(
        database, ledger, webhook_id, _ROTATE, {"secret": new_secret(), "hours": BOTH_SECRETS_HOURS, "most": PREVIOUS_SECRETS}
    )


async def replay(database: Database, ledger: Ledger, webhook_id: str, position: int) -> Webhook:
    """Send everything after a position again, also what was given up."""
    return await _change(database, ledger, webhook_id, _REPLAY, {"position": position}, _FORGET_LATER_HOLDS)


async def retry(database: Database, ledger: Ledger, webhook_id: str, contract_id: str, skipped: int | None = None) -> Webhook:
    """Try a contract that is held now, from its first event that was not delivered or, if its position is given, from what comes after it.
    ContractNotHeld if it is not held, or not at that position."""
    parameters = _key(ledger, webhook_id) | {"contract_id": contract_id, "skipped": skipped}
    # The webhook's row comes first everywhere: it is the lock. Nothing is raised within: that would cost the connection.
    async with database.transaction() as connection:
        row = await (await connection.execute(_IF_HELD, parameters)).fetchone()
        if row is not None:
            await connection.execute(_RETRY, parameters)
    if row is None:
        await find(database, ledger, webhook_id)
        at = "" if skipped is None else f" from position {skipped} on"
        raise ContractNotHeld(f"Webhook {webhook_id} does not hold back contract {contract_id}{at}.")
    return Webhook(*row)


async def delete(database: Database, ledger: Ledger, webhook_id: str) -> None:
    """Forget it. WebhookNotFound if there is none."""
    async with database.transaction() as connection:
        deleted = [(await connection.execute(statement, _key(ledger, webhook_id))).rowcount for statement in _DELETE]
    if not deleted[0]:
        raise _not_found(ledger, webhook_id)


async def count_webhooks(database: Database, ledger: Ledger) -> int:
    """How many webhooks a ledger has."""
    return int((await database.rows(_COUNT, {"ledger_id": ledger.ledger_id}))[0][0])


async def held(database: Database, webhook: Webhook, after: str, limit: int) -> list[Hold]:
    """The contracts that it holds back, after one."""
    rows = await database.rows(_HELD, webhook.key | {"after": after, "limit": limit})
    return [Hold(*row) for row in rows]


async def count_held(database: Database, webhook: Webhook, limit: int) -> int:
    """How many contracts it holds back; no more than the limit are counted."""
    return int((await database.rows(_COUNT_HELD, webhook.key | {"limit": limit}))[0][0])


async def attempts_before(database: Database, webhook: Webhook, before: str | None, limit: int) -> list[Attempt]:
    """What was tried, the newest first: before an attempt, if one is given."""
    rows = await database.rows(_ATTEMPTS, webhook.key | {"before": before, "limit": limit})
    return [Attempt(*row) for row in rows]


async def count_attempts(database: Database, webhook: Webhook) -> int:
    """How many attempts are kept."""
    return int((await database.rows(_COUNT_ATTEMPTS, webhook.key))[0][0])


async def taken_up(database: Database, key: dict[str, Any]) -> tuple[Webhook, dict[str, Hold]] | None:
    """A webhook with all that it holds back, by contract, for its worker; None if it is gone."""

    async def run(connection: AsyncConnection[Any]) -> tuple[list[Any], list[Any]]:
        # In this order: what is changed between the two is found by its version.
        found = await (await connection.execute(_FIND, key)).fetchall()
        return found, await (await connection.execute(_HOLDS, key)).fetchall()

    found, holds = await database.read(run)
    return (Webhook(*found[0]), {row[0]: Hold(*row) for row in holds}) if found else None


async def move_on(database: Database, worker: str, webhook: Webhook, was: int, moved: Moved) -> bool:
    """Write what a worker has done since the cursor was at a position; False, and nothing is written, when it is not its own any more, was
    changed from outside, or is in an older copy of the database, whose cursor is elsewhere."""
    members = {name: getattr(webhook, name) for name in ("position", "failures", "status", "version")}
    async with database.transaction() as connection:
        state = members | {"worker": worker, "because": webhook.ended_because, "was": was}
        if not (await connection.execute(_MOVE_ON, webhook.key | state)).rowcount:
            return False
        if moved.let_go:
            await connection.execute(_LET_GO, webhook.key | {"contract_ids": sorted(moved.let_go)})
        async with connection.pipeline():
            if moved.retry_all:
                await connection.execute(_RETRY_ALL, webhook.key)
            for hold, seconds in moved.held.values():
                await connection.execute(_HOLD, webhook.key | _members(hold) | {"seconds": seconds})
            for attempt in moved.attempts:
                named = {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__ if name != "position"}
                await connection.execute(_TRIED, webhook.key | named | {"at": attempt.position})
            if moved.attempts:
                await connection.execute(_FORGET, webhook.key | {"kept": KEPT_ATTEMPTS})
    return True


def _members(hold: Hold) -> dict[str, Any]:
    said = {"contract_id": hold.contract_id, "at": hold.position, "hold_status": hold.status}
    return said | {"attempts": hold.attempts, "failure": hold.failure}


def _key(ledger: Ledger, webhook_id: str) -> dict[str, Any]:
    return {"ledger_id": ledger.ledger_id, "webhook_id": webhook_id}


async def _change(
    database: Database, ledger: Ledger, webhook_id: str, what: str, parameters: dict[str, Any], besides: str | None = None
) -> Webhook:
    async with database.transaction() as connection:
        row = await (await connection.execute(_CHANGE.format(what), parameters | _key(ledger, webhook_id))).fetchone()
        if row is not None and besides is not None:
            await connection.execute(besides, parameters | _key(ledger, webhook_id))
    if row is None:
        raise _not_found(ledger, webhook_id)
    return Webhook(*row)


def _not_found(ledger: Ledger, webhook_id: str) -> WebhookNotFound:
    return WebhookNotFound(f"Ledger {ledger.name} has no webhook {webhook_id}.")
