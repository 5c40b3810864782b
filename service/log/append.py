"""The append: the one way into the log. One writer at a time per ledger, many requests per commit.

Requests gather while a batch is in flight; when it returns, everything waiting goes in the next. A batch is one transaction: lock the
ledger's row; read clock, head, states and keys; decide each request in order; write everything; commit. A receipt goes out only when
COMMIT answered COMMIT.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from service.database import Database, contracts, deliveries, events, idempotency, insert_rows, payloads, rows_json
from service.errors import (
    DatabaseUnreachable,
    DeadlinePassed,
    Internal,
    LedgerError,
    OutcomeUnknown,
    QueueFull,
    Refused,
    Unavailable,
)
from service.log.decide import Append, Batch, Receipt
from service.log.heads import Heads
from service.log.ledger import Ledger
from service.projections.contracts import contract_rows_json
from service.settings import Settings

MAX_BATCH_REQUESTS = 256
MAX_BATCH_BYTES = 4_194_304
MAX_QUEUE_BYTES = 67_108_864
BATCH_SECONDS = 20
DRAIN_SECONDS = 25
_SHUTTING_DOWN = "The service is shutting down; retry with the same Idempotency-Key."
_FAILURES = (psycopg.OperationalError, psycopg.InterfaceError, DatabaseUnreachable, TimeoutError)

_log = structlog.get_logger()

# What is read stands apart from the lock: each statement takes a new snapshot, where one with the lock in it would read the old state.
LOCK = "SELECT FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
# The head, once, or beside each of the contracts concerned that there are.
HEAD_AND_STATES = """
SELECT clock_timestamp(), b.last_position, b.recorded_at, l.generation, l.layout, l.clock_accepted_at,
       c.contract_id::text, c.revision, c.position, encode(c.last_hash, 'hex'), c.last_on, c.has_pending, c.settled_on,
       c.holds_until, c.filters, c.state, c.beside
FROM ledgers l
CROSS JOIN LATERAL (
    SELECT last_position, recorded_at FROM batches WHERE ledger_id = l.ledger_id ORDER BY last_position DESC LIMIT 1
) b
LEFT JOIN contracts c ON c.ledger_id = l.ledger_id AND c.generation = l.generation
    AND c.contract_id = ANY(%(contract_ids)s::uuid[])
WHERE l.ledger_id = %(ledger_id)s::uuid
"""
KEYS = "SELECT key, salt, digest, receipt FROM idempotency WHERE ledger_id = %(ledger_id)s::uuid AND key = ANY(%(keys)s::bytea[])"
DELIVERY_IDS = """
SELECT contract_id::text, delivery_id FROM deliveries d
WHERE ledger_id = %(ledger_id)s::uuid
  AND generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
  AND (contract_id, delivery_id) IN (SELECT i.c::uuid, i.d FROM jsonb_to_recordset(%(ids)s::jsonb) AS i(c text, d text))
"""
EVENT_IDS = """
SELECT contract_id::text, event_id::text FROM events
WHERE ledger_id = %(ledger_id)s::uuid AND event_id = ANY(%(event_ids)s::uuid[])
"""
HISTORIES = """
SELECT e.header, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[])
ORDER BY e.contract_id, e.revision
"""
# One statement, since each costs the client as much as deciding a request.
WRITE = f"""
WITH e AS ({insert_rows(events, bytes_as_text=("header",))}),
     p AS ({insert_rows(payloads, bytes_as_text=("body",))}),
     k AS ({insert_rows(idempotency)}),
     d AS ({insert_rows(deliveries)}),
     c AS ({insert_rows(contracts, upsert=True)})
INSERT INTO batches (ledger_id, last_position, recorded_at) VALUES (%(ledger_id)s::uuid, %(position)s, %(recorded_at)s)
"""  # noqa: S608 - every part is made of our own tables


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request in the queue, and where its answer goes."""

    append: Append
    deadline: float
    answer: asyncio.Future[Receipt] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def resolve(self, outcome: Receipt | LedgerError) -> None:
        if self.answer.done():
            return
        if isinstance(outcome, LedgerError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


async def transact(connection: AsyncConnection[Any], appends: Sequence[Append], heads: Heads) -> Batch:
    """Decide and commit requests of one ledger in one transaction; each has its outcome in the batch.

    Raises psycopg's errors: DataError and IntegrityError when nothing was written, OperationalError when the outcome may be unknown.
    """
    batch = Batch(appends[0].ledger, appends)
    parameters = batch.lookups()
    async with connection.pipeline():
        await connection.execute("BEGIN")
        await connection.execute(LOCK, parameters)
        states = await connection.execute(HEAD_AND_STATES, parameters)
        keys = await connection.execute(KEYS, parameters)
        taken = await connection.execute(DELIVERY_IDS, parameters) if parameters["ids"] else None
        known = await connection.execute(EVENT_IDS, parameters) if parameters["event_ids"] != "{}" else None
    rows = await states.fetchall()
    try:
        batch.begin(rows[0][:6] if rows else None, time.time())
        heads.require(batch.ledger, batch.position)
    except LedgerError:
        await connection.rollback()
        raise
    batch.load((row[6:] for row in rows if row[6] is not None), await keys.fetchall())
    batch.load_ids(await taken.fetchall() if taken else [], await known.fetchall() if known else [])
    if missing := batch.histories_needed():
        wanted = {"ledger_id": batch.ledger.ledger_id, "contract_ids": missing}
        batch.load_histories(await (await connection.execute(HISTORIES, wanted)).fetchall())
    batch.decide()
    if batch.written:
        await _write(connection, batch)
    else:
        await connection.rollback()
    return batch


async def _write(connection: AsyncConnection[Any], batch: Batch) -> None:
    async with connection.pipeline():
        await connection.execute(
            WRITE,
            {
                "ledger_id": batch.ledger.ledger_id,
                "events": rows_json(batch.event_rows),
                "payloads": rows_json(batch.payload_rows),
                "idempotency": rows_json(batch.key_rows),
                "deliveries": rows_json(batch.delivery_rows),
                "contracts": contract_rows_json(batch.changed_rows, batch.generation),
                "position": batch.position,
                "recorded_at": batch.recorded_at,
            },
        )
        commit = await connection.execute("COMMIT")
    if commit.statusmessage != "COMMIT":
        raise psycopg.OperationalError(f"COMMIT was answered {commit.statusmessage}")


class Writer:
    """The one writer of a ledger in this process: a queue, and a task that commits what waits in it."""

    def __init__(self, database: Database, settings: Settings, heads: Heads) -> None:
        self._database = database
        self._settings = settings
        self._heads = heads
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._draining = False
        self.task = asyncio.create_task(self._run())

    async def submit(self, append: Append) -> Receipt:
        """The receipt of a request, or its refusal. The request is decided even when the caller is cancelled."""
        if self._draining:
            raise Unavailable(_SHUTTING_DOWN)
        if len(self._queue) >= self._settings.queue_requests or self._queued_bytes > MAX_QUEUE_BYTES:
            raise QueueFull(f"{len(self._queue)} requests wait for ledger {append.ledger.name}; retry with the same Idempotency-Key.")
        waiting = _Waiting(append, time.monotonic() + self._settings.deadline_seconds)
        self._queue.append(waiting)
        self._queued_bytes += len(append.canonical)
        self._wake.set()
        return await asyncio.shield(waiting.answer)

    async def drain(self) -> None:
        """Refuse new requests, decide those that wait, and end the task."""
        self._draining = True
        self._wake.set()
        await asyncio.wait([self.task], timeout=DRAIN_SECONDS)

    def abandon(self) -> None:
        """Answer everything that waits for a writer that died."""
        for waiting in self._queue:
            waiting.resolve(OutcomeUnknown("The writer of this ledger failed; retry with the same Idempotency-Key."))
        self._queue.clear()

    async def _run(self) -> None:
        while self._queue or not self._draining:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            try:
                await self._settle(batch)
            except BaseException:
                for waiting in batch:
                    waiting.resolve(OutcomeUnknown("The writer of this ledger failed; retry with the same Idempotency-Key."))
                raise

    def _take(self) -> list[_Waiting]:
        """Everything that waits, up to the bounds of a batch; what waited too long is answered and left out."""
        batch: list[_Waiting] = []
        size = 0
        now = time.monotonic()
        while self._queue and len(batch) < MAX_BATCH_REQUESTS and size < MAX_BATCH_BYTES:
            waiting = self._queue.popleft()
            self._queued_bytes -= len(waiting.append.canonical)
            if waiting.deadline < now:
                waiting.resolve(DeadlinePassed("The request waited too long and was not recorded; retry with the same Idempotency-Key."))
                continue
            size += len(waiting.append.canonical)
            batch.append(waiting)
        return batch

    async def _settle(self, batch: list[_Waiting]) -> None:
        """Commit a batch and answer its requests. A fault in the data of one is found by halving; no other suffers from it."""
        if not batch:
            return
        try:
            decided = await self._commit([waiting.append for waiting in batch])
        except psycopg.Error as error:
            await self._bisect(batch, error)
        except LedgerError as refusal:
            for waiting in batch:
                waiting.resolve(refusal)
        else:
            for waiting, outcome in zip(batch, decided.outcomes, strict=True):
                waiting.resolve(outcome)

    async def _bisect(self, batch: list[_Waiting], error: psycopg.Error) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
            return
        # Only the first line: what follows quotes the rows, and the service's own log keeps nothing of contracts.
        _log.error("append refused by the database", sqlstate=error.sqlstate, error=error.diag.message_primary)
        if isinstance(error, psycopg.DataError):
            batch[0].resolve(Refused(f"The database refuses the content: {error.diag.message_primary}."))
        else:
            batch[0].resolve(Internal("The request could not be recorded, and nothing of it was. The fault is logged."))

    async def _commit(self, appends: Sequence[Append]) -> Batch:
        """Run the batch; once again by the same path if the connection failed: under the lock the keys say what was recorded."""
        for last_try in (False, True):
            try:
                async with asyncio.timeout(BATCH_SECONDS), self._database.connection() as connection:
                    batch = await transact(connection, appends, self._heads)
                self._heads.committed(batch)
                return batch
            except _FAILURES as error:
                _log.warning("append failed", again=not last_try, error=str(error) or type(error).__name__)
                if last_try:
                    raise OutcomeUnknown(
                        "The database failed while the request was recorded, so whether it was is not known. "
                        "Retry with the same Idempotency-Key: it is recorded once, and the answer is its receipt."
                    ) from error
                await self._database.recover()
        raise AssertionError


class Writers:
    """The writers of all ledgers of this process, made on demand."""

    def __init__(self, database: Database, settings: Settings, heads: Heads) -> None:
        self._database = database
        self._settings = settings
        self._heads = heads
        self._writers: dict[str, Writer] = {}
        self._draining = False
        self.failed: set[str] = set()
        """The ledgers whose writer died, and has not given a receipt since."""

    async def append(self, append: Append) -> Receipt:
        """Append a request to its ledger's log: its receipt, or the LedgerError that refuses it."""
        receipt = await self._writer(append.ledger).submit(append)
        self.failed.discard(append.ledger.name)
        return receipt

    def _writer(self, ledger: Ledger) -> Writer:
        writer = self._writers.get(ledger.ledger_id)
        if writer is None:
            if self._draining:
                raise Unavailable(_SHUTTING_DOWN)
            writer = self._writers[ledger.ledger_id] = Writer(self._database, self._settings, self._heads)
            writer.task.add_done_callback(lambda task: self._ended(ledger, writer, task))
        return writer

    def _ended(self, ledger: Ledger, writer: Writer, task: asyncio.Task[None]) -> None:
        """A task that ends on its own has died: readiness fails, and what waited is told so."""
        self._writers.pop(ledger.ledger_id, None)
        if not task.cancelled() and task.exception() is None:
            return
        self.failed.add(ledger.name)
        _log.critical("the writer of a ledger died", ledger=ledger.name, exc_info=None if task.cancelled() else task.exception())
        writer.abandon()

    async def drain(self) -> None:
        """Decide everything that waits, then stop."""
        self._draining = True
        await asyncio.gather(*(writer.drain() for writer in list(self._writers.values())))
