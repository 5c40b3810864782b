"""The append: the one way into the log. One writer at a time per ledger, many requests per commit.

Requests gather while a batch is in flight; when it returns, everything waiting goes in the next. A batch is one transaction: lock the
ledger's row; read clock, head, states and keys; decide each request in order; write everything; commit. A receipt goes out only when
COMMIT answered COMMIT.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from service.database import FAILURES, Database
from service.errors import (
    DeadlinePassed,
    Internal,
    LedgerError,
    OutcomeUnknown,
    QueueFull,
    Refused,
    Unavailable,
)
from service.inserts import insert_rows, rows_of
from service.log.chunks import Chunk, Chunks
from service.log.decide import Batch, Rows, uuid_array
from service.log.heads import Heads
from service.log.ledger import Ledger
from service.log.outlook import replace_outlooks
from service.log.pipeline import Pipeline
from service.log.references import HOLD, HOLDERS, RELEASE, holdings_json, wanted_json
from service.log.requests import Append, Receipt
from service.log.tiles import full_tiles
from service.metrics import commits
from service.projections.contracts import projected
from service.settings import Settings
from service.tables import batches, contracts, deliveries, events, idempotency, payloads

MAX_BATCH_REQUESTS = 256
FIRST_SHARE_REQUESTS = 8
"""How many requests of a batch are decided before they are sent, to be written while the next are decided."""
TOLD_FIRST = 10
"""How many outcomes of the batch before are told while a batch's states are read: what these callers ask next fills that time."""
MAX_BATCH_BYTES = 4_194_304
MAX_QUEUE_BYTES = 67_108_864
BATCH_SECONDS = 20
DECIDE_SECONDS = 1.0
"""How long requests of a batch are begun to be decided, be there one or more: those that are left come with the next batch."""
HEAVY_EVENTS = 50_000
"""A batch that takes more events to be folded than these is decided in a thread: other requests are answered meanwhile."""
DRAIN_SECONDS = 25
TOLD_WITHIN_SECONDS = 0.01
"""How long a certain outcome waits at most for the next batch to be on its way, such as when another process holds the lock."""
_SHUTTING_DOWN = "The service is shutting down; retry with the same Idempotency-Key."

_log = structlog.get_logger()

# What is looked up stands apart from the lock: a statement takes a new snapshot, where one with the lock in it would read the old state.
LOCK = "SELECT FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
# The head, once, or beside each of the contracts concerned that there are, without its filters, which are made anew; what few requests
# find stands in the first row alone. Each delivery is looked up by itself, which the limit commands: the plan that was made while the table
# was small would read all deliveries of the ledger for ever after.
LOOKUPS = """
SELECT clock_timestamp(), b.last_position, b.recorded_at, l.generation, l.layout, l.clock_accepted_at,
       l.unique_reference_schemes, CASE WHEN row_number() OVER () = 1 THEN encode(b.frontier, 'hex') END,
       CASE WHEN row_number() OVER () = 1 THEN (
           SELECT jsonb_agg(jsonb_build_array(encode(i.key, 'hex'), encode(i.salt, 'hex'), encode(i.digest, 'hex'), i.receipt))
           FROM idempotency i WHERE i.ledger_id = %(ledger_id)s::uuid AND i.key = ANY(%(keys)s::bytea[])
       ) END,
       CASE WHEN row_number() OVER () = 1 AND %(delivery_ids)s <> '[]' THEN (
           SELECT jsonb_agg(jsonb_build_array(d.contract_id, d.delivery_id))
           FROM jsonb_to_recordset(%(delivery_ids)s::jsonb) AS s(c text, d text)
           CROSS JOIN LATERAL (
               SELECT contract_id, delivery_id FROM deliveries
               WHERE ledger_id = l.ledger_id AND generation = l.generation AND contract_id = s.c::uuid AND delivery_id = s.d
               LIMIT 1
           ) d
       ) END,
       CASE WHEN row_number() OVER () = 1 AND %(event_ids)s <> '{}' THEN (
           SELECT jsonb_agg(jsonb_build_array(e.contract_id, e.event_id))
           FROM events e WHERE e.ledger_id = %(ledger_id)s::uuid AND e.event_id = ANY(%(event_ids)s::uuid[])
       ) END,
       c.contract_id::text, c.revision, c.position, encode(c.last_hash, 'hex'), c.last_on, c.has_pending, c.settled_on,
       c.holds_until, '{}'::text[], c.state, c.beside
FROM ledgers l
CROSS JOIN LATERAL (
    SELECT last_position, recorded_at, frontier FROM batches WHERE ledger_id = l.ledger_id ORDER BY last_position DESC LIMIT 1
) b
LEFT JOIN contracts c ON c.ledger_id = l.ledger_id AND c.generation = l.generation
    AND c.contract_id = ANY(%(contract_ids)s::uuid[])
WHERE l.ledger_id = %(ledger_id)s::uuid
"""
HISTORIES = """
SELECT e.contract_id::text, e.header, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[])
ORDER BY e.contract_id, e.revision
"""
# One statement, since each costs the client as much as deciding a request.
WRITE = f"""
WITH e AS ({insert_rows(events)}),
     p AS ({insert_rows(payloads)}),
     k AS ({insert_rows(idempotency)}),
     d AS ({insert_rows(deliveries)}),
     b AS ({insert_rows(batches)})
{insert_rows(contracts, upsert=True)}
"""
# After what it erases by is written: the database lets nothing go without its erasure in the same transaction.
ERASE = "SELECT public.erase(%(ledger_id)s::uuid, %(positions)s::bigint[])"
_LEFT_DELIVERIES = insert_rows(deliveries)


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


def _nothing(most: int | None = None) -> None:
    """What there is to do meanwhile where nobody waits."""


async def transact(
    connection: AsyncConnection[Any], appends: Sequence[Append], heads: Heads, meanwhile: Callable[[int | None], None] = _nothing
) -> Batch:
    """Decide and commit requests of one ledger in one transaction; each has its outcome in the batch, but for the last that there was no
    time for.

    `meanwhile` is called when only the database has work to do: with the number of outcomes that there is time to tell while the states
    are read, and with None when everything is sent. Raises psycopg's errors: DataError and IntegrityError when nothing was written,
    OperationalError when the outcome may be unknown.
    """
    batch = Batch(appends[0].ledger, appends)
    async with Pipeline(connection) as pipeline:
        await look_up(pipeline, batch, heads, meanwhile)
        if batch.weight > HEAVY_EVENTS:
            is_written = await asyncio.to_thread(_decide_and_write, pipeline, batch)
        else:
            is_written = _decide_and_write(pipeline, batch)
        if batch.erased_from:
            async with pipeline.paused():
                await replace_outlooks(connection, batch.ledger.ledger_id, batch.generation, batch.erased_from)
        pipeline.send("COMMIT" if is_written else "ROLLBACK")
        meanwhile(None)
        *_, end = await pipeline.results()
    if is_written and end.command_status != b"COMMIT":
        raise psycopg.OperationalError(f"COMMIT was answered {end.command_status!r}")
    return batch


async def look_up(pipeline: Pipeline, batch: Batch, heads: Heads, meanwhile: Callable[[int | None], None] = _nothing) -> None:
    """Begin, with the ledger's lock, and read what the batch needs to be decided. A LedgerError where nothing may be written now."""
    parameters = batch.lookups()
    pipeline.send("BEGIN")
    pipeline.send(LOCK, parameters)
    pipeline.send(LOOKUPS, parameters)
    meanwhile(TOLD_FIRST)
    *_, found = await pipeline.results()
    rows = pipeline.rows(found)
    batch.begin(rows[0][:8] if rows else None, time.time())
    heads.require(batch.ledger, batch.position)
    batch.load((row[11:] for row in rows if row[11] is not None), *(few or () for few in rows[0][8:11]))
    if missing := batch.histories_needed():
        pipeline.send(HISTORIES, {"ledger_id": batch.ledger.ledger_id, "contract_ids": uuid_array(missing)})
        (histories,) = await pipeline.results()
        batch.load_histories(pipeline.rows(histories))
    if wanted := batch.references_needed():
        pipeline.send(HOLDERS, {"ledger_id": batch.ledger.ledger_id, "wanted": wanted_json(wanted)})
        (holders,) = await pipeline.results()
        batch.holdings.load(pipeline.rows(holders))


def _decide_and_write(pipeline: Pipeline, batch: Batch) -> bool:
    """Decide the batch in shares, each while the database writes the one before it, as far as its time goes; whether there is anything to
    commit."""
    until = time.perf_counter() + DECIDE_SECONDS
    for share, ends in _shares(batch.appends):
        rows = batch.decide(share, lambda: time.perf_counter() > until)
        is_last = ends or batch.is_over
        if rows.events or (is_last and batch.written):
            pipeline.send(WRITE, write_parameters(batch, rows, ends=is_last))
            if rows.erased:
                _erase(pipeline, batch, rows)
        if is_last:
            break
    send_references(pipeline, batch)
    send_tiles(pipeline, batch)
    return batch.written > 0


def _erase(pipeline: Pipeline, batch: Batch, rows: Rows) -> None:
    """Take away, for good, what the erasures that were just written name."""
    ledger_id = batch.ledger.ledger_id
    pipeline.send(ERASE, {"ledger_id": ledger_id, "positions": uuid_array(map(str, rows.erased))})
    if rows.left_deliveries:
        pipeline.send(_LEFT_DELIVERIES, {"ledger_id": ledger_id, **rows_of(deliveries, rows.left_deliveries)})
    batch.erased_from += [(row.contract_id, row.state) for row in rows.contracts.values()]


def send_references(pipeline: Pipeline, batch: Batch) -> None:
    """Send what the contracts of a batch hold after it, where that has changed: what is let go of first, since another may take it."""
    if changed := batch.holdings.changed:
        ledger_id = {"ledger_id": batch.ledger.ledger_id}
        pipeline.send(RELEASE, ledger_id | {"contract_ids": uuid_array(changed)})
        pipeline.send(HOLD, ledger_id | {"unique_references": holdings_json(changed)})


def send_tiles(pipeline: Pipeline, batch: Batch) -> None:
    """Send the tiles of the tree that the events of a batch, all written by now, have made full."""
    for statement, parameters in full_tiles(batch.ledger.ledger_id, batch.tree.full if batch.written else ()):
        pipeline.send(statement, parameters)


def _shares(appends: Sequence[Append]) -> Iterator[tuple[Sequence[Append], bool]]:
    """The shares of a batch, and whether one is the last: each twice as large as the one before, since the database is slower to write
    than this process to decide, and every statement has its price."""
    first, size = 0, FIRST_SHARE_REQUESTS
    while first < len(appends):
        yield appends[first : first + size], first + size >= len(appends)
        first, size = first + size, 2 * size


def write_parameters(batch: Batch, rows: Rows, *, ends: bool) -> dict[str, Any]:
    """Rows as the parameters of WRITE; the last of a batch `ends` it, and writes the new head."""
    head = [batch.head()] if ends else []
    return {
        "ledger_id": batch.ledger.ledger_id,
        **rows_of(events, rows.events),
        **rows_of(payloads, rows.payloads),
        **rows_of(idempotency, rows.keys),
        **rows_of(deliveries, rows.deliveries),
        **rows_of(batches, head),
        **rows_of(contracts, projected(rows.contracts.values(), batch.generation)),
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
        self._chunks = Chunks(database, heads)
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

    async def settle_chunk(self, chunk: Chunk) -> None:
        """Record the lines of a chunk between batches of requests. LedgerError when it could not be gone on with."""
        if self._draining:
            raise Unavailable("The service is shutting down; send the import again under its id.")
        settled = self._chunks.add(chunk)
        self._wake.set()
        await settled

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
        self._chunks.abandon()

    async def _run(self) -> None:
        while self._queue or self._chunks or not self._draining:
            if self._queue:
                await self._run_batch()
            if self._chunks:
                self._tell()
                await self._chunks.advance()
            elif not self._queue:
                self._tell()
                self._wake.clear()
                await self._wake.wait()
        self._tell()

    async def _run_batch(self) -> None:
        batch, started = self._take(), time.perf_counter()
        try:
            await self._settle(batch)
        except BaseException:
            self._queue.extendleft(reversed(batch))  # to be answered when it is known that this writer died
            raise
        self._chunks.requests_took(time.perf_counter() - started)

    def _tell(self, most: int | None = None) -> None:
        """Answer the requests whose outcome is certain, or `most` of them.

        While others wait that is done, but for a few, when their batch is being written: to take it up before would leave this process
        busy with answers while the database waits for the next decisions, and idle while the database writes (docs/decisions/0011).
        """
        untold, self._untold = self._untold[:most], [] if most is None else self._untold[most:]
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
            count = len(decided.outcomes)
            self._untold += zip(batch[:count], decided.outcomes, strict=True)
            self._put_back(batch[count:])
            asyncio.get_running_loop().call_later(TOLD_WITHIN_SECONDS, self._tell)

    def _put_back(self, left: Sequence[_Waiting]) -> None:
        """Requests that there was no time for come first in the next batch."""
        self._queue.extendleft(reversed(left))
        self._queued_bytes += sum(len(waiting.append.canonical) for waiting in left)

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
                commits.add(len(batch.outcomes), time.perf_counter() - started)
                self._heads.committed(batch)
                return batch
            except FAILURES as error:
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

    async def settle_chunk(self, ledger: Ledger, chunk: Chunk) -> None:
        """Record the lines of a chunk of an import in a ledger's log. LedgerError when it could not be gone on with."""
        await self._writer(ledger).settle_chunk(chunk)

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
