"""Reconciliation: contract by contract, slowly and for ever, what is stored is compared with the fold of the log.

A pass over a ledger has a row among the replays. A pass that found nothing is gone over by the next in the same row; one that found a
difference stays as it is, and the ledger is left alone until a rebuild, or a verify without a difference, has come after it.
"""

import select
import sys
import time
from typing import Any, NamedTuple

import msgspec
import structlog
from uuid_utils import uuid7

from service import __version__
from service.audit.book import LAST_ID, Book, Chunk, Connection, Difference, open_book, open_connection
from service.audit.replay import Course, verify_chunk
from service.projections.contracts import RESTORING

LOCK = 1_668_443_747, 0
"""The advisory lock of the one process that reconciles."""
IDLE_SECONDS = 10

_LOCK = "SELECT pg_try_advisory_lock(%s, %s)"
_LEDGERS = "SELECT name FROM ledgers ORDER BY name"
_NEWEST = """
SELECT p.replay_id::text, p.status, p.course, p.seconds, p.difference IS NULL OR EXISTS (
    SELECT FROM replays a WHERE a.ledger_id = p.ledger_id AND a.status = 'done' AND a.ended_at > p.ended_at
        AND (a.kind = 'rebuild' OR (a.kind = 'verify' AND a.difference IS NULL)))
FROM replays p WHERE p.ledger_id = %(ledger_id)s::uuid AND p.kind = 'reconcile' ORDER BY p.replay_id DESC LIMIT 1
"""
STANDING = """
SELECT count(*) FROM (
    SELECT DISTINCT ON (r.ledger_id) r.ledger_id, r.difference, r.ended_at FROM replays r
    WHERE r.kind = 'reconcile' ORDER BY r.ledger_id, r.replay_id DESC
) p WHERE p.difference IS NOT NULL AND NOT EXISTS (
    SELECT FROM replays a WHERE a.ledger_id = p.ledger_id AND a.status = 'done' AND a.ended_at > p.ended_at
        AND (a.kind = 'rebuild' OR (a.kind = 'verify' AND a.difference IS NULL)))
"""
"""How many ledgers have a difference that nothing has put right since."""
_BEGIN = """
INSERT INTO replays (ledger_id, replay_id, kind, status, software_version, total, head, started_at)
VALUES (%(ledger_id)s::uuid, %(replay_id)s::uuid, 'reconcile', 'running', %(software_version)s, %(head)s, %(head)s, clock_timestamp())
"""
_AGAIN = """
UPDATE replays SET status = 'running', events = 0, contracts = 0, erased = 0, seconds = 0, total = %(head)s, head = %(head)s,
    head_hash = NULL, software_version = %(software_version)s, started_at = clock_timestamp(), ended_at = NULL, course = NULL
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid
"""
_SAVE = """
UPDATE replays SET status = %(status)s, events = %(events)s, contracts = %(contracts)s, erased = %(erased)s, course = %(course)s,
    total = greatest(total, %(events)s), difference_at = %(difference_at)s, difference = %(difference)s, seconds = %(seconds)s,
    ended_at = CASE WHEN %(status)s = 'done' THEN clock_timestamp() END
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid
"""
_NEXT = """
SELECT contract_id::text FROM events e WHERE ledger_id = %(ledger_id)s::uuid AND contract_id > %(after)s::uuid
ORDER BY e.contract_id LIMIT 1
"""
_log = structlog.get_logger()


class _Pass(NamedTuple):
    """A pass over a ledger, so far."""

    replay_id: str
    course: Course
    seconds: float


def reconcile(url: str, contracts_per_minute: int) -> None:
    """Go from contract to contract until the process that started this one is gone; at once, where another one does it already."""
    with open_connection(url) as connection:
        if connection.execute(_LOCK, LOCK).fetchone() != (True,):
            return
        while True:
            looked = 0
            for (name,) in connection.execute(_LEDGERS).fetchall():
                if reconcile_next(connection, name):
                    looked += 1
                    if _is_over(60 / contracts_per_minute):
                        return
            if not looked and _is_over(IDLE_SECONDS):
                return


def _is_over(seconds: float) -> bool:
    """Wait so long, or until nobody holds the other end of standard input."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def reconcile_next(connection: Connection, name: str) -> bool:
    """Compare the next contract of a ledger; False where there is none to compare."""
    began = time.monotonic()
    book = open_book(connection, name, is_restored=True)
    if not book.head or book.layout == RESTORING or (current := _current_pass(connection, book)) is None:
        return False
    course = current.course
    found = connection.execute(_NEXT, {"ledger_id": book.ledger.ledger_id, "after": course.after}).fetchone()
    chunk = Chunk(course.after, found[0] if found else LAST_ID, 0)
    _, told = verify_chunk(connection, book, chunk)
    if told.difference is not None:
        # Looked at once more, with the ledger as it is now: an alarm has to be one.
        _, told = verify_chunk(connection, open_book(connection, name), chunk)
    course.add(chunk, told)
    _save(connection, book, current._replace(seconds=current.seconds + time.monotonic() - began), is_over=found is None)
    if told.difference is not None:
        _alarm(name, told.difference)
    return True


def _current_pass(connection: Connection, book: Book) -> _Pass | None:
    """The pass over a ledger, begun if there is none; None where a difference stands that nothing has put right."""
    ledger_id, head = book.ledger.ledger_id, {"head": book.head, "software_version": __version__}
    row = connection.execute(_NEWEST, {"ledger_id": ledger_id}).fetchone()
    if row is not None and not row[4]:
        return None
    if row is None or (row[1] == "done" and _found_something(connection, ledger_id, row[0])):
        replay_id = str(uuid7())
        connection.execute(_BEGIN, head | {"ledger_id": ledger_id, "replay_id": replay_id})
        return _Pass(replay_id, Course(), 0.0)
    if row[1] == "done":
        connection.execute(_AGAIN, head | {"ledger_id": ledger_id, "replay_id": row[0]})
        return _Pass(row[0], Course(), 0.0)
    return _Pass(row[0], msgspec.json.decode(row[2], type=Course) if row[2] else Course(), row[3])


def _found_something(connection: Connection, ledger_id: str, replay_id: str) -> bool:
    statement = "SELECT difference IS NOT NULL FROM replays WHERE ledger_id = %s::uuid AND replay_id = %s::uuid"
    return connection.execute(statement, [ledger_id, replay_id]).fetchone() == (True,)


def _save(connection: Connection, book: Book, current: _Pass, *, is_over: bool) -> None:
    course = current.course
    where, sentence = course.difference or (None, None)
    status = "done" if is_over or sentence else "running"
    members: dict[str, Any] = {"events": course.events, "contracts": course.contracts, "erased": course.erased, "seconds": current.seconds}
    members |= {"difference_at": where, "difference": sentence, "status": status}
    members |= {"course": msgspec.json.encode(course).decode() if status == "running" else None}
    connection.execute(_SAVE, members | {"ledger_id": book.ledger.ledger_id, "replay_id": current.replay_id})


def _alarm(ledger: str, difference: Difference) -> None:
    _log.critical(
        "a projection is not the fold of its log: verify the ledger, and rebuild it if the log is sound",
        ledger=ledger,
        where=difference.where,
        difference=difference.sentence,
    )
