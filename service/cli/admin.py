"""What the operator's commands do in the database: ledgers, keys, and the two acceptances."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from uuid_utils import uuid7

from service.access import FIND_KEY, MIN_KEY_LENGTH, RIGHTS, key_hash, new_key
from service.cli.deployment import API_KEY_FILE, keep_secret, kept_key, opened
from service.domain.events import MAX_NAME
from service.errors import OperatorError
from service.log.decide import CLOCK_TOLERANCE
from service.log.heads import Head, read_heads, replace_head
from service.log.ledger import Switches, instant, is_time_zone
from service.log.ledgers import make_ledger
from service.log.read import Reader
from service.log.references import MAX_UNIQUE_SCHEMES, write_policy

Connection = psycopg.Connection[tuple[Any, ...]]
LOG = ("batches", "events", "payloads")
_KEY_TEXT = re.compile(r"[\x21-\x7e]+")
_LEDGER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_LEDGERS = """
SELECT l.name, l.time_zone, l.created_at,
       (SELECT max(last_position) FROM batches b WHERE b.ledger_id = l.ledger_id)
FROM ledgers l ORDER BY l.name
"""
_KEYS = """
SELECT k.key_id::text, p.name, k.created_at, k.expires_at, k.revoked_at,
       coalesce((
           SELECT array_agg(coalesce(l.name, '(all)') || ': ' || array_to_string(g.rights, ', ') ORDER BY l.name)
           FROM grants g LEFT JOIN ledgers l USING (ledger_id) WHERE g.principal_id = k.principal_id
       ), '{}')
FROM api_keys k JOIN principals p USING (principal_id) ORDER BY k.created_at
"""
_INSERT_KEY = """
INSERT INTO api_keys (key_id, principal_id, key_hash, expires_at)
VALUES (%s, %s, %s, clock_timestamp() + make_interval(days => %s))
"""
_REVOKE = "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_id = %s AND revoked_at IS NULL RETURNING key_id"
_CLOCKS = """
SELECT clock_timestamp(), b.recorded_at FROM batches b
WHERE b.ledger_id = %s ORDER BY b.last_position DESC LIMIT 1
"""
_HEAD = """
SELECT b.last_position, encode(e.event_hash, 'hex')
FROM batches b LEFT JOIN events e ON e.ledger_id = b.ledger_id AND e.position = b.last_position
WHERE b.ledger_id = %s ORDER BY b.last_position DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class FirstKey:
    """The key to show: None when the database has keys and none of them is known here. `refused` says LEDGER_API_KEY is not one of them."""

    key: str | None
    made: bool
    refused: bool = False


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as lists show it; its text is not known to anybody but its holder."""

    key_id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    grants: list[str]


def first_key(connection: Connection, folder: Path, given: str | None) -> FirstKey:
    """The first key, made in a database that has none, and kept in the data folder; otherwise the one that is known here."""
    if given is not None:
        _check_key_text(given)
    kept = kept_key(folder)
    with connection.transaction():
        # Services that start at the same moment make one first key between them.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('contract-ledger first key'))")
        if not connection.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone():
            key = given or kept or new_key()
            if key != kept:
                keep_secret(folder / API_KEY_FILE, key)
            _insert_key(connection, "first key", RIGHTS, [None], key, None)
            return FirstKey(key, made=True)
    if given is not None and kept is None and _is_valid(connection, given):
        keep_secret(folder / API_KEY_FILE, given)
    known = next((key for key in (kept, given) if key is not None and _is_valid(connection, key)), None)
    return FirstKey(known, made=False, refused=given is not None and not _is_valid(connection, given))


def may_change_log(connection: Connection) -> bool:
    """Whether the role of a connection has more rights on the log than to add to it and to read it."""
    row = connection.execute(
        "SELECT bool_or(has_table_privilege(name, 'UPDATE, DELETE, TRUNCATE')) FROM unnest(%s::text[]) name", [list(LOG)]
    )
    return row.fetchone() == (True,)


def _check_key_text(key: str) -> None:
    if len(key) < MIN_KEY_LENGTH or not _KEY_TEXT.fullmatch(key):
        raise OperatorError(
            f"LEDGER_API_KEY has to be at least {MIN_KEY_LENGTH} printable characters without spaces (it has {len(key)}): "
            "`openssl rand -hex 32` makes one; unset it to have one made."
        )


def _is_valid(connection: Connection, key: str) -> bool:
    return connection.execute(FIND_KEY, {"key_hash": key_hash(key)}).fetchone() is not None


def make_key(connection: Connection, name: str, rights: Sequence[str], ledgers: Sequence[str], expires_days: int | None) -> tuple[str, str]:
    """A new key as (key_id, text): the rights in the ledgers, or in all of them where none is named."""
    unknown = [right for right in rights if right not in RIGHTS]
    if unknown:
        raise OperatorError(f"There is no right {unknown[0]}; there are {', '.join(RIGHTS)}.")
    key = new_key()
    with connection.transaction():
        ledger_ids: list[str | None] = [ledger_id(connection, ledger) for ledger in dict.fromkeys(ledgers)]
        return _insert_key(connection, name, rights, ledger_ids or [None], key, expires_days), key


def _insert_key(
    connection: Connection, name: str, rights: Sequence[str], ledger_ids: Sequence[str | None], key: str, expires_days: int | None
) -> str:
    """A key of a principal of its own; its key_id."""
    principal_id, key_id = str(uuid7()), str(uuid7())
    connection.execute("INSERT INTO principals (principal_id, name) VALUES (%s, %s)", [principal_id, name])
    for granted in ledger_ids:
        connection.execute(
            "INSERT INTO grants (principal_id, ledger_id, rights) VALUES (%s, %s, %s)", [principal_id, granted, list(dict.fromkeys(rights))]
        )
    connection.execute(_INSERT_KEY, [key_id, principal_id, key_hash(key), expires_days])
    return key_id


def list_keys(connection: Connection) -> list[KeyRow]:
    """Every key, in the order of making."""
    return [KeyRow(*row) for row in connection.execute(_KEYS).fetchall()]


def revoke_key(connection: Connection, key_id: str) -> None:
    """End a key; services that remember it let go of it within seconds."""
    if not _UUID.fullmatch(key_id.lower()) or not connection.execute(_REVOKE, [key_id]).fetchone():
        raise OperatorError(f"There is no key {key_id} that is not revoked already; `contract-ledger keys list` shows their ids.")


def ledger_id(connection: Connection, name: str) -> str:
    """The id of a ledger by its name. OperatorError, with the names there are, for another."""
    row = connection.execute("SELECT ledger_id::text FROM ledgers WHERE name = %s", [name]).fetchone()
    if row is None:
        names = ", ".join(ledger_names(connection)) or "none"
        raise OperatorError(f"There is no ledger {name} (there are: {names}); `contract-ledger ledgers create {name}` makes it.")
    return str(row[0])


def ledger_names(connection: Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute("SELECT name FROM ledgers ORDER BY name").fetchall()]


def list_ledgers(connection: Connection) -> list[tuple[Any, ...]]:
    """(name, time zone, instant of making, events) of every ledger, by name."""
    return connection.execute(_LEDGERS).fetchall()


def create_ledger(connection: Connection, name: str, time_zone: str) -> bool:
    """Make a ledger; False when it is there with this time zone. OperatorError when it is there with another."""
    if not _LEDGER_NAME.fullmatch(name):
        raise OperatorError(f"{name!r} is no name for a ledger: it has 1 to 63 lower-case letters, digits and hyphens.")
    if not is_time_zone(time_zone):
        raise OperatorError(f"{time_zone!r} is no time zone of the IANA database; write one such as Asia/Seoul.")
    if make_ledger(connection, name, time_zone):
        return True
    row = connection.execute("SELECT time_zone FROM ledgers WHERE name = %s", [name]).fetchone()
    if row and row[0] != time_zone:
        raise OperatorError(f"Ledger {name} is there with the time zone {row[0]}, which is fixed: choose another name.")
    return False


def set_policy(service_url: str, name: str, schemes: Sequence[str], switches: Switches) -> list[str]:
    """Set the policy of a ledger: its unique schemes, and what it switches; the schemes, sorted. OperatorError where that cannot be."""
    faulty = next((scheme for scheme in schemes if len(scheme) > MAX_NAME or not scheme.strip() or not scheme.isprintable()), None)
    if faulty is not None:
        raise OperatorError(f"{faulty!r} is no name of a scheme: it has 1 to {MAX_NAME} printable characters, and not only spaces.")
    if len(set(schemes)) > MAX_UNIQUE_SCHEMES:
        raise OperatorError(f"A ledger has at most {MAX_UNIQUE_SCHEMES} unique schemes.")
    return asyncio.run(_set_policy(service_url, name, schemes, switches))


async def _set_policy(service_url: str, name: str, schemes: Sequence[str], switches: Switches) -> list[str]:
    async with opened(service_url) as database:
        ledger, _ = await Reader(database).ledger(name)
        return [*(await write_policy(database, ledger, schemes, switches)).unique_reference_schemes]


def clocks(connection: Connection, ledger: str) -> tuple[datetime, datetime]:
    """The database's clock, and the instant of the ledger's last batch."""
    row = connection.execute(_CLOCKS, [ledger_id(connection, ledger)]).fetchone()
    assert row is not None, "a ledger begins with the row of position 0"
    return row[0], row[1]


def accept_clock(connection: Connection, ledger: str) -> None:
    """Let the ledger go on after its last instant, which is ahead of the clock. OperatorError if it is not; takes the owner."""
    now, last = clocks(connection, ledger)
    if last <= now + CLOCK_TOLERANCE:
        raise OperatorError(
            f"The last event of ledger {ledger} ({instant(last)}) is not ahead of the clock ({instant(now)}): there is nothing to accept."
        )
    connection.execute("UPDATE ledgers SET clock_accepted_at = %s WHERE name = %s", [last, ledger])


def accept_head(connection: Connection, heads_folder: Path, ledger: str) -> tuple[Head, Head | None]:
    """Keep the database's head of a ledger as the head: (the one kept before, the new one); None for a ledger without events.

    OperatorError when the database has the kept head, so that nothing is lost.
    """
    found = ledger_id(connection, ledger)
    kept = read_heads(heads_folder).get(found)
    if kept is None:
        raise OperatorError(f"No head of ledger {ledger} is kept in {heads_folder}: there is nothing to accept.")
    if _has_head(connection, found, kept):
        raise OperatorError(
            f"The database has event {kept.position} of ledger {ledger}, the last one known here: there is nothing to accept."
        )
    row = connection.execute(_HEAD, [found]).fetchone()
    head = Head(row[0], row[1]) if row and row[1] is not None else None
    replace_head(heads_folder, found, head)
    return kept, head


def _has_head(connection: Connection, found: str, head: Head) -> bool:
    statement = "SELECT 1 FROM events WHERE ledger_id = %s AND position = %s AND event_hash = decode(%s, 'hex')"
    return connection.execute(statement, [found, head.position, head.event_hash]).fetchone() is not None
