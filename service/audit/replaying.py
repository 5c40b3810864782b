"""The task of the service that has replays worked on: one at a time, in a process of its own, since a walk takes a whole processor.

A replay is leased: as long as the service that has its worker lives, it moves the lease on. What a killed service or worker has left is
found when the lease has run out, by any service on the database, and goes on from where it was last saved.
"""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import structlog

from service.background import Background
from service.database import Database
from service.errors import BooksBusy, LedgerError, Unavailable

LOOK_SECONDS = 5
WATCH_SECONDS = 0.1
LEASE_SECONDS = 15
RENEW_SECONDS = 3
PIECE_BYTES = 65_536
MAX_BOOKS = 2
MAX_ATTEMPTS = 5
"""Workers that end without getting any further; then the replay has failed."""

# One of the few queries over all ledgers: whichever of them has something to do.
_DUE = """
SELECT ledger_id::text, replay_id::text FROM replays r
WHERE status IN ('waiting', 'running') AND kind <> 'reconcile' AND (leased_until IS NULL OR leased_until < clock_timestamp())
ORDER BY r.created_at LIMIT 10
"""
_CLAIM = """
UPDATE replays SET status = 'running', worker = %(worker)s::uuid, attempts = attempts + 1,
    leased_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid AND status IN ('waiting', 'running')
    AND (leased_until IS NULL OR leased_until < clock_timestamp())
RETURNING replay_id
"""
_OF_WORKER = """
WHERE ledger_id = %(ledger_id)s::uuid AND replay_id = %(replay_id)s::uuid AND worker = %(worker)s::uuid AND status = 'running'
RETURNING attempts
"""
_RENEW = "UPDATE replays SET leased_until = clock_timestamp() + make_interval(secs => %(seconds)s)" + _OF_WORKER  # noqa: S608
_RELEASE = "UPDATE replays SET status = 'waiting', worker = NULL, leased_until = NULL, attempts = attempts - 1" + _OF_WORKER  # noqa: S608
_BROKEN_OFF = """
UPDATE replays SET worker = NULL, status = CASE WHEN attempts < %(most)s THEN 'waiting' ELSE 'failed' END,
    leased_until = CASE WHEN attempts < %(most)s THEN clock_timestamp() + make_interval(secs => attempts) END,
    ended_at = CASE WHEN attempts < %(most)s THEN NULL ELSE clock_timestamp() END,
    failure = CASE WHEN attempts < %(most)s THEN NULL ELSE %(failure)s END
""" + _OF_WORKER  # fmt: skip
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Lease:
    ledger_id: str
    replay_id: str
    worker: str

    @property
    def parameters(self) -> dict[str, Any]:
        return {"ledger_id": self.ledger_id, "replay_id": self.replay_id, "worker": self.worker, "seconds": LEASE_SECONDS}


class Replaying:
    """Finds replays that nobody works on, and has them worked on. If the task dies, it is begun again."""

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._url = url
        self._wake = asyncio.Event()
        self._background = Background("the task of the replays", self._run, LOOK_SECONDS)

    def wake(self) -> None:
        """Something was asked for, or cancelled: look now."""
        self._wake.set()

    async def close(self) -> None:
        """End the task and its worker; what that had saved is gone on from at the next start."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                while lease := await self._claim():
                    await self._attend(lease)
            except (psycopg.Error, LedgerError, OSError) as error:
                _log.warning("the replays wait", reason=str(error))
            await self._pause(LOOK_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until something is asked for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _claim(self) -> _Lease | None:
        """The lease of the oldest replay that nobody works on."""
        for ledger_id, replay_id in await self._database.rows(_DUE):
            lease = _Lease(ledger_id, replay_id, str(uuid4()))
            if await self._database.rows(_CLAIM, lease.parameters):
                return lease
        return None

    async def _attend(self, lease: _Lease) -> None:
        """Have a replay worked on to its end."""
        process = start_worker(self._url, "replay", lease.ledger_id, lease.replay_id, lease.worker)
        try:
            await self._watch(process, lease)
            if process.returncode:
                failure = f"Its process ended {MAX_ATTEMPTS} times without getting any further (exit status {process.returncode})."
                await self._database.rows(_BROKEN_OFF, lease.parameters | {"most": MAX_ATTEMPTS, "failure": failure})
        except asyncio.CancelledError:
            await end_worker(process)
            with contextlib.suppress(psycopg.Error, LedgerError):
                await self._database.rows(_RELEASE, lease.parameters)
            raise
        finally:
            await end_worker(process)

    async def _watch(self, process: subprocess.Popen[bytes], lease: _Lease) -> None:
        """Until the worker ends, move its lease on; end it once that is no more its own."""
        renew_at = time.monotonic() + RENEW_SECONDS
        while process.poll() is None:
            self._wake.clear()
            await self._pause(WATCH_SECONDS)
            if time.monotonic() < renew_at and not self._wake.is_set():
                continue
            renew_at = time.monotonic() + RENEW_SECONDS
            try:
                if not await self._database.rows(_RENEW, lease.parameters):
                    await end_worker(process)
                    return
            except (psycopg.Error, LedgerError) as error:
                _log.warning("the lease of a replay could not be moved on", replay_id=lease.replay_id, reason=str(error))


class Books:
    """The books that this process has told at the moment."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._told = 0

    def pieces(self, ledger: str, known_position: int, effective_on: str) -> AsyncIterator[bytes]:
        """A book, piece by piece. BooksBusy when MAX_BOOKS are told already."""
        if self._told >= MAX_BOOKS:
            raise BooksBusy(f"This process tells {MAX_BOOKS} books already; ask again.")
        return self._counted(_book_pieces(self._url, ledger, known_position, effective_on))

    async def _counted(self, pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        self._told += 1
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            self._told -= 1


async def _book_pieces(url: str, ledger: str, known_position: int, effective_on: str) -> AsyncGenerator[bytes]:
    """A book as it is told by a process of its own, which waits while nobody reads. Unavailable when that ends before the book does."""
    process = start_worker(url, "book", ledger, str(known_position), effective_on, stdout=subprocess.PIPE)
    assert isinstance(process.stdout, io.BufferedReader)
    try:
        while piece := await asyncio.to_thread(process.stdout.read1, PIECE_BYTES):
            yield piece
        if await asyncio.to_thread(process.wait):
            raise Unavailable("The book could not be told to its end.")
    finally:
        await end_worker(process)


def start_worker(url: str, task: str, *arguments: str, stdout: int | None = None) -> "subprocess.Popen[bytes]":
    """A process for a task, which ends when this one does: it holds the other end of its standard input."""
    command = [sys.executable, "-m", "service.audit.worker", task, *arguments]
    return subprocess.Popen(command, env=os.environ | {"LEDGER_DATABASE_URL": url}, stdin=subprocess.PIPE, stdout=stdout)


async def end_worker(process: "subprocess.Popen[bytes]") -> None:
    """End a process that was started so, if it has not ended."""
    if process.poll() is None:
        process.kill()
    await asyncio.shield(asyncio.to_thread(_bury, process))


def _bury(process: "subprocess.Popen[bytes]") -> None:
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
