"""The chunks of imports that wait at a ledger's writer, and how much of one is taken at a time.

After each batch of requests comes a part of one chunk, in a transaction of its own. While requests come, that part is as large as can be
written in the time that a batch of requests takes: a request then waits for one batch, one part and its own batch, where without an
import it would wait for two batches. While none come, the whole chunk is taken at once.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
import structlog
from psycopg import AsyncConnection

from service.database import FAILURES, Database
from service.errors import Internal, LedgerError, OutcomeUnknown, Refused
from service.log.decide import Batch
from service.log.heads import Heads
from service.metrics import commits

MAX_CHUNK_LINES = 500
MIN_CHUNK_LINES = 8
IN_USE_SECONDS = 1.0
"""For how long after a request a ledger counts as one in use."""
CHUNK_SECONDS = 0.2
"""How long a part of a chunk takes at most, about, in a ledger that nobody else uses."""
TRANSACTION_SECONDS = 20
_WEIGHT = 0.2

_log = structlog.get_logger()


class Chunk(Protocol):
    """Lines that are recorded in their order, a part at a time."""

    @property
    def is_settled(self) -> bool: ...

    async def advance(self, connection: AsyncConnection[Any], heads: Heads, limit: int, seconds: float) -> Batch:
        """Settle so many of the next lines, or as many as can be decided in the time, in one transaction."""
        ...

    def refuse_next(self, refusal: LedgerError) -> None:
        """The next line is one that the database refuses."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    chunk: Chunk
    most: int = MAX_CHUNK_LINES
    """Lines in a part; fewer while a line is looked for that the database refuses."""
    settled: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Chunks:
    """What waits of imports at one writer, each in its turn."""

    def __init__(self, database: Database, heads: Heads) -> None:
        self._database = database
        self._heads = heads
        self._waiting: deque[_Waiting] = deque()
        self._batch_seconds = 0.0
        self._line_seconds = 0.001
        self._requests_at = float("-inf")

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, chunk: Chunk) -> asyncio.Future[None]:
        """Put a chunk into the queue. The future is done when all of its lines are settled, or it fails with a LedgerError."""
        waiting = _Waiting(chunk)
        self._waiting.append(waiting)
        return waiting.settled

    def requests_took(self, seconds: float) -> None:
        """Take note of how long a batch of requests took."""
        self._batch_seconds += _WEIGHT * (seconds - self._batch_seconds)
        self._requests_at = time.monotonic()

    async def advance(self) -> None:
        """Settle a part of the chunk whose turn it is. Never fails: who waits for the chunk is told."""
        waiting = self._waiting[0]
        try:
            await self._advance(waiting)
        except LedgerError as error:
            self._end(waiting, error)
        else:
            if waiting.chunk.is_settled:
                self._end(waiting)
            else:
                self._waiting.rotate(-1)

    def abandon(self) -> None:
        """Tell everyone who waits that the writer died."""
        while self._waiting:
            self._end(self._waiting[0], OutcomeUnknown("The writer of this ledger failed; send the import again under its id."))

    def _end(self, waiting: _Waiting, error: LedgerError | None = None) -> None:
        self._waiting.remove(waiting)
        if waiting.settled.done():
            return
        if error is None:
            waiting.settled.set_result(None)
        else:
            waiting.settled.set_exception(error)

    async def _advance(self, waiting: _Waiting) -> None:
        limit, seconds = self._part()
        limit = min(limit, waiting.most)
        try:
            await self._commit(waiting.chunk, limit, seconds)
        except psycopg.Error as error:
            self._look_for_fault(waiting, limit, error)
        else:
            waiting.most = min(waiting.most * 2, MAX_CHUNK_LINES)

    def _part(self) -> tuple[int, float]:
        """How many lines to take, and for how long they may be decided."""
        in_use = time.monotonic() - self._requests_at < IN_USE_SECONDS
        seconds = min(self._batch_seconds, CHUNK_SECONDS) if in_use else CHUNK_SECONDS
        return max(MIN_CHUNK_LINES, min(int(seconds / self._line_seconds), MAX_CHUNK_LINES)), seconds

    async def _commit(self, chunk: Chunk, limit: int, seconds: float) -> None:
        """Run a part; once again if the connection failed: under the lock it is known which lines were recorded."""
        for last_try in (False, True):
            try:
                started = time.perf_counter()
                async with asyncio.timeout(TRANSACTION_SECONDS), self._database.connection() as connection:
                    batch = await chunk.advance(connection, self._heads, limit, seconds)
                self._took(time.perf_counter() - started, batch)
                return
            except FAILURES as error:
                commits.failed += 1
                _log.warning("a chunk of an import failed", again=not last_try, error=str(error) or type(error).__name__)
                if last_try:
                    raise OutcomeUnknown(
                        "The database failed while lines were recorded. Send the import again under its id: no line is recorded twice."
                    ) from error
                await self._database.recover()

    def _took(self, seconds: float, batch: Batch) -> None:
        self._heads.committed(batch)
        if batch.written:
            commits.add(1, seconds)
            self._line_seconds += _WEIGHT * (seconds / batch.written - self._line_seconds)

    def _look_for_fault(self, waiting: _Waiting, limit: int, error: psycopg.Error) -> None:
        """Nothing of the part was recorded: take half of it next, or refuse the line that is left alone."""
        if limit > 1:
            waiting.most = limit // 2
            return
        # Only the first line: what follows quotes the rows, and the service's own log keeps nothing of contracts.
        _log.error("a line refused by the database", sqlstate=error.sqlstate, error=error.diag.message_primary)
        if isinstance(error, psycopg.DataError):
            waiting.chunk.refuse_next(Refused(f"The database refuses the content: {error.diag.message_primary}."))
        else:
            waiting.chunk.refuse_next(Internal("The line could not be recorded. The fault is logged."))
