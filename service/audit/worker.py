"""What the service has done by other processes, `python -m service.audit.worker`: `replay <ledger_id> <replay_id> <lease>`,
`book <ledger> <position> <day>` (to standard output), and `reconcile <contracts a minute>`.

A replay keeps in its row how far it is, under its lease: whoever was given another takes over from there, and this process ends. It ends
with the service that started it, too, which holds the other end of its standard input.
"""

import os
import select
import signal
import sys
import time
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from datetime import date
from pathlib import Path
from typing import Any, Never

import msgspec
import psycopg
import structlog

from service import __version__
from service.audit.book import Connection, Difference, StillRestored, open_connection
from service.audit.outside import Outside
from service.audit.past import Telling, Times
from service.audit.rebuild import LogDamaged, rebuild
from service.audit.reconcile import reconcile
from service.audit.replay import Course, verify
from service.audit.runs import BOOK, DONE, FAILED, REBUILD, VERIFY, keep_root
from service.errors import OperatorError
from service.telemetry import configure_logging

NICENESS = 10
"""Requests come first."""
SAVE_SECONDS = 0.5
TRY_AGAIN = 75
"""The exit status of a worker that met something which may be over soon (EX_TEMPFAIL)."""

_JOB = """
UPDATE replays r SET started_at = coalesce(r.started_at, clock_timestamp()), software_version = %(software_version)s, failure = NULL,
    head = coalesce(r.known_position, b.last_position), total = coalesce(r.known_position, b.last_position), head_hash = (
        SELECT event_hash FROM events e WHERE e.ledger_id = r.ledger_id AND e.position = coalesce(r.known_position, b.last_position))
FROM ledgers l CROSS JOIN LATERAL (SELECT max(last_position) AS last_position FROM batches WHERE ledger_id = l.ledger_id) b
WHERE l.ledger_id = r.ledger_id AND r.ledger_id = %(ledger_id)s::uuid AND r.replay_id = %(replay_id)s::uuid AND r.worker = %(worker)s::uuid
    AND r.status = 'running'
RETURNING l.name, r.kind, r.known_position, r.effective_on, r.course, r.seconds
"""
_SAVE = """
UPDATE replays SET events = %(events)s, total = greatest(%(total)s, total), contracts = %(contracts)s, erased = %(erased)s,
    changed = %(changed)s, difference_at = %(difference_at)s, difference = %(difference)s, course = %(course)s, seconds = %(seconds)s,
    attempts = CASE WHEN %(is_further)s THEN 0 ELSE attempts END
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid AND worker = %(worker)s::uuid AND status = 'running'
"""
_END = """
UPDATE replays SET status = %(status)s, failure = %(failure)s, digest = %(digest)s, course = NULL, ended_at = clock_timestamp(),
    worker = NULL, leased_until = NULL
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid AND worker = %(worker)s::uuid AND status = 'running'
"""
_log = structlog.get_logger()


class Job:
    """A replay in the hands of this process."""

    def __init__(self, url: str, ledger_id: str, replay_id: str, worker: str) -> None:
        self._url = url
        self._key = {"ledger_id": ledger_id, "replay_id": replay_id, "worker": worker}
        self._connection: Connection | None = None
        self._saved_at = time.monotonic()
        with open_connection(url) as connection:
            row = connection.execute(_JOB, self._key | {"software_version": __version__}).fetchone()
            if row is None:
                _end()
            keep_root(connection, ledger_id, replay_id)
        self.ledger, self.kind, self.known_position, self.effective_on, course, self._seconds = row
        self._from = course
        self._began = time.monotonic() - self._seconds
        self.course = msgspec.json.decode(course, type=Course) if course else Course()
        self._total = 0

    def run(self) -> None:
        """Work on it until it is done or has failed. What may be over soon is raised: psycopg.Error, or an OperatorError of one."""
        digest = None
        try:
            if self.kind == VERIFY:
                verdict = _kept_outside().verify(verify, self._url, self.ledger, self.progress, course=self.course)
                self.course.difference = verdict.difference
            elif self.kind == REBUILD:
                rebuild(self._url, self.ledger, self.progress, course=self.course)
            elif self.kind == BOOK:
                digest = self._tell_book()
        except LogDamaged as damaged:
            self.course.difference = damaged.difference
            self._finish(FAILED, str(damaged))
        except StillRestored as error:
            self._finish(FAILED, str(error))
        else:
            self._finish(DONE, None, digest)

    def _tell_book(self) -> bytes:
        """Tell a book to nobody: what it holds, and its digest."""
        telling = Telling(self._url, self.ledger, Times(self.known_position, self.effective_on), course=self.course)
        deque(telling.lines(self.progress), maxlen=0)
        return telling.digest

    def progress(self, _done: int, total: int, _phase: str) -> None:
        """Told by the walk after each chunk. Ends this process when nobody wants its work any more."""
        self._total = total
        if select.select([sys.stdin], [], [], 0)[0] and not os.read(sys.stdin.fileno(), 1):
            _end()
        if time.monotonic() >= self._saved_at + SAVE_SECONDS or self._connection is None:
            self._save()

    def _save(self) -> None:
        # Connected late: the processes of the walk are forked before.
        self._connection = self._connection or open_connection(self._url)
        self._saved_at = time.monotonic()
        course, difference = self.course, self.course.difference or Difference(None, None)  # type: ignore[arg-type]
        members: dict[str, Any] = {name: getattr(course, name) for name in ("events", "contracts", "erased", "changed")}
        members |= {"difference_at": difference.where, "difference": difference.sentence, "seconds": time.monotonic() - self._began}
        members |= {"total": self._total, "course": msgspec.json.encode(course).decode()}
        members["is_further"] = members["course"] != self._from
        if self._connection.execute(_SAVE, self._key | members).rowcount == 0:
            _end()

    def _finish(self, status: str, failure: str | None, digest: bytes | None = None) -> None:
        self._save()
        assert self._connection is not None
        self._connection.execute(_END, self._key | {"status": status, "failure": failure, "digest": digest})
        self._connection.close()


def _kept_outside() -> Outside:
    """Where the service that started this keeps what it signed and committed."""
    store, folder = os.environ.get("LEDGER_CHECKPOINT_STORE"), os.environ.get("LEDGER_DATA_DIR")
    return Outside(store or None, Path(folder) / "heads" if folder else None)


def _end() -> Never:
    """Nobody waits for what this process would still find: it was cancelled, another has taken over, or its service is gone."""
    os._exit(0)


def main() -> None:
    """Do what the arguments say, on the database of LEDGER_DATABASE_URL."""
    configure_logging(os.environ.get("LEDGER_LOG_FORMAT", "console"))
    os.nice(NICENESS)
    # Ctrl-C in a terminal is meant for the service, which ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    url, (task, *given) = os.environ["LEDGER_DATABASE_URL"], sys.argv[1:]
    try:
        if task == "replay":
            Job(url, *given).run()
        elif task == "book":
            _write_book(url, *given)
        elif task == "reconcile":
            reconcile(url, int(given[0]))
    except (psycopg.Error, OperatorError, BrokenProcessPool) as error:
        _log.warning("broken off, to be gone on with later", task=sys.argv[1:], reason=str(error).partition("\n")[0])
        sys.exit(TRY_AGAIN)


def _write_book(url: str, ledger: str, position: str, day: str) -> None:
    for piece in Telling(url, ledger, Times(int(position), date.fromisoformat(day))).lines(lambda *_: None):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
