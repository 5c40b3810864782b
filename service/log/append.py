"""The append: the one way into the log. One writer at a time per ledger, many requests per commit.

Requests gather while a batch is in flight; when it returns, everything waiting goes in the next. A batch is one transaction: lock the
ledger's row; read clock, head, states and keys; decide each request in order; write everything; commit. A receipt goes out only when
COMMIT answered COMMIT.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
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
from service.log.decide import Append, Batch, Receipt, Rows
from service.log.heads import Heads
from service.log.ledger import Ledger
from service.metrics import commits
from service.projections.contracts import contract_rows_json
from service.settings import Settings

MAX_BATCH_REQUESTS = 256
SHARE_REQUESTS = 8
"""How many requests of a batch are decided before they are sent, to be written while the next are decided."""
MAX_BATCH_BYTES = 4_194_304
MAX_QUEUE_BYTES = 67_108_864
BATCH_SECONDS = 20
DRAIN_SECONDS = 25
TOLD_WITHIN_SECONDS = 0.01
"""How long a certain outcome waits at most for the next batch to be on its way, such as when another process holds the lock."""
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
SELECT e.contract_id::text, e.header, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[])
ORDER BY e.contract_id, e.revision
"""
# One statement, since each costs the client as much as deciding a request.
WRITE = f"""
WITH e AS ({insert_rows(events, bytes_as_text=("header",))}),
     p AS ({insert_rows(payloads, bytes_as_text=("body", "sealed"))}),
     k AS ({insert_rows(idempotency)}),
     d AS ({insert_rows(deliveries)})
{insert_rows(contracts, upsert=True)}
"""
END = "INSERT INTO batches (ledger_id, last_position, recorded_at) VALUES (%(ledger_id)s::uuid, %(position)s, %(recorded_at)s)"


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


async def transact(
    connection: AsyncConnection[Any], appends: Sequence[Append], heads: Heads, meanwhile: Callable[[], None] = lambda: None
) -> Batch:
    """Decide and commit requests of one ledger in one transaction; each has its outcome in the batch.

    `meanwhile` is called when everything is sent and only the database has work to do. Raises psycopg's errors: DataError and
    IntegrityError when nothing was written, OperationalError when the outcome may be unknown.
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
    await _decide_and_write(connection, batch, meanwhile)
    return batch


async def _decide_and_write(connection: AsyncConnection[Any], batch: Batch, meanwhile: Callable[[], None]) -> None:
    """Decide the batch in shares, each while the database writes the one before it, and commit."""
    commit = None
    async with connection.pipeline():
        for first in range(0, len(batch.appends), SHARE_REQUESTS):
            rows = batch.decide(batch.appends[first : first + SHARE_REQUESTS])
            if rows.events:
                await connection.execute(WRITE, write_parameters(batch, rows))
        if batch.written:
            end = {"ledger_id": batch.ledger.ledger_id, "position": batch.position, "recorded_at": batch.recorded_at}
            await connection.execute(END, end)
            commit = await connection.execute("COMMIT")
            meanwhile()
    if commit is None:
        await connection.rollback()
    elif commit.statusmessage != "COMMIT":
        raise psycopg.OperationalError(f"COMMIT was answered {commit.statusmessage}")


def write_parameters(batch: Batch, rows: Rows) -> dict[str, Any]:
    """Rows as the parameters of WRITE."""
    return {
        "ledger_id": batch.ledger.ledger_id,
        "events": rows_json(rows.events),
        "payloads": rows_json(rows.payloads),
        "idempotency": rows_json(rows.keys),
        "deliveries": rows_json(rows.deliveries),
        "contracts": contract_rows_json(rows.contracts.values(), batch.generation),
    }


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
        self._untold: list[tuple[_Waiting, Receipt | LedgerError]] = []
        """Outcomes that are certain, and not told yet."""
        self.task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        return len(self._queue)

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
        return await waiting.answer

    async def drain(self) -> None:
        """Refuse new requests, decide those that wait, and end the task."""
        self._draining = True
        self._wake.set()
        await asyncio.wait([self.task], timeout=DRAIN_SECONDS)

    def abandon(self) -> None:
        """Answer everything that waits for a writer that died."""
        self._tell()
        for waiting in self._queue:
            waiting.resolve(OutcomeUnknown("The writer of this ledger failed; retry with the same Idempotency-Key."))
        self._queue.clear()

    async def _run(self) -> None:
        while self._queue or not self._draining:
            if not self._queue:
                self._tell()
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            try:
                await self._settle(batch)
            except BaseException:
                self._queue.extendleft(reversed(batch))  # to be answered when it is known that this writer died
                raise
        self._tell()

    def _tell(self) -> None:
        """Answer the requests whose outcome is certain.

        While others wait that is done when their batch is being written: to take it up before would leave this process busy with answers
        while the database waits for the next decisions, and idle while the database writes (docs/decisions/0011).
        """
        untold, self._untold = self._untold, []
        for waiting, outcome in untold:
            waiting.resolve(outcome)

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
            self._untold += zip(batch, decided.outcomes, strict=True)
            asyncio.get_running_loop().call_later(TOLD_WITHIN_SECONDS, self._tell)

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
                started = time.perf_counter()
                async with asyncio.timeout(BATCH_SECONDS), self._database.connection() as connection:
                    batch = await transact(connection, appends, self._heads, self._tell)
                commits.add(len(appends), time.perf_counter() - started)
                self._heads.committed(batch)
                return batch
            except _FAILURES as error:
                commits.failed += 1
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
        writer = self._writer(append.ledger)
        receipt = await writer.submit(append)
        # What a writer had committed before it died does not make it live.
        if self._writers.get(append.ledger.ledger_id) is writer:
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

    def waiting(self) -> int:
        """How many requests wait for the next batch of their ledger."""
        return sum(writer.waiting for writer in list(self._writers.values()))

    async def drain(self) -> None:
        """Decide everything that waits, then stop."""
        self._draining = True
        await asyncio.gather(*(writer.drain() for writer in list(self._writers.values())))
