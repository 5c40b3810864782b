"""Contracts written straight into a ledger, as the service would have: decided by its own batches, inserted by its own statement.

What is left out is the service's way in: HTTP, the ledger's lock, idempotency keys, the waiting for the disk. Several processes share
the work, since the place of every event in the log can be told beforehand.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing import get_context
from typing import Any

import psycopg

from benchmarks.mixture import Request, append
from benchmarks.report import Advance
from service.inserts import rows_of
from service.log.append import HISTORIES, WRITE, write_parameters
from service.log.decide import Batch
from service.log.ledger import Ledger, instant
from service.log.requests import Receipt
from service.projections.contracts import LAYOUT, ContractRow
from service.tables import batches

CHUNK_CONTRACTS = 500
MOST_PROCESSES = 4
_MEMBERS = ContractRow.__struct_fields__

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Contracts numbered from 0, each made by `rounds` of requests; a round goes through all contracts before the next begins."""

    ledger: Ledger
    principal_id: str
    contracts: int
    rounds: Sequence[Request]
    began_at: datetime

    @property
    def events(self) -> int:
        return self.contracts * sum(len(request) for request in self.rounds)

    def chunks(self) -> list[range]:
        return [range(first, min(first + CHUNK_CONTRACTS, self.contracts)) for first in range(0, self.contracts, CHUNK_CONTRACTS)]

    def place(self, turn: int, chunk: range) -> tuple[int, datetime]:
        """The position before a chunk's events in a round, and an instant later than those of all chunks before it."""
        before = sum(len(request) for request in self.rounds[:turn]) * self.contracts
        at = self.began_at + timedelta(milliseconds=turn * self.contracts + chunk.start)
        return before + chunk.start * len(self.rounds[turn]), at


def contract_id(number: int) -> str:
    """Ids are scattered over the index, as those of contracts that were opened in many years are over the log."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64 >> 32:08x}-0000-7000-8000-{number:012x}"


def load(url: str, plan: Plan, advance: Advance) -> None:
    """Write a plan into an empty ledger; `advance` is told how many events are in, about."""
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    chunks = plan.chunks()
    # On Ctrl-C it is we who end them.
    with get_context("spawn").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        shares = [pool.apply_async(_load_share, (url, plan, chunks[start::processes])) for start in range(processes)]
        with psycopg.connect(url, autocommit=True) as connection:
            while not all(share.ready() for share in shares):
                advance(plan.events * _batches(connection, plan) / (len(chunks) * len(plan.rounds)))
                time.sleep(0.5)
        for share in shares:
            share.get()


def _batches(connection: Connection, plan: Plan) -> int:
    row: Any = connection.execute("SELECT count(*) FROM batches WHERE ledger_id = %s::uuid", [plan.ledger.ledger_id]).fetchone()
    return int(row[0])


def _load_share(url: str, plan: Plan, chunks: Sequence[range]) -> None:
    """A share of the chunks, through all rounds. Nobody was told that these events are recorded, so the disk may lag behind."""
    rows: dict[int, ContractRow] = {}
    with psycopg.connect(url, autocommit=True, prepare_threshold=1, options="-c synchronous_commit=off") as connection:
        for turn in range(len(plan.rounds)):
            for chunk in chunks:
                rows |= _load_chunk(connection, plan, turn, chunk, rows)


def _load_chunk(connection: Connection, plan: Plan, turn: int, chunk: range, rows: dict[int, ContractRow]) -> dict[int, ContractRow]:
    batch = _decided(connection, plan, turn, chunk, rows)
    batch.rows.keys.clear()
    changed = list(batch.rows.contracts.values())
    # The rows of contracts are what the last round leaves of them.
    if turn < len(plan.rounds) - 1:
        batch.rows.contracts.clear()
    with connection.transaction():
        # Without its frontier: the batches of all processes make one tree, which is built when they are done.
        head = {"last_position": batch.position, "recorded_at": instant(batch.recorded_at)}
        connection.execute(WRITE, write_parameters(batch, batch.rows, ends=False) | rows_of(batches, [head]))
    return dict(zip(chunk, changed, strict=True))


def _decided(connection: Connection, plan: Plan, turn: int, chunk: range, rows: dict[int, ContractRow]) -> Batch:
    position, at = plan.place(turn, chunk)
    request = plan.rounds[turn]
    appends = [append(plan.ledger, plan.principal_id, contract_id(number), number, request, opening=turn == 0) for number in chunk]
    batch = Batch(plan.ledger, appends)
    batch.begin((at, position, at - timedelta(microseconds=1), 1, LAYOUT, None, (), ""), at.timestamp())
    batch.load([[getattr(rows[number], member) for member in _MEMBERS] for number in chunk if number in rows])
    if missing := batch.histories_needed():
        wanted = {"ledger_id": plan.ledger.ledger_id, "contract_ids": missing}
        batch.load_histories(connection.execute(HISTORIES, wanted).fetchall())
    batch.decide(appends)
    refused = [outcome for outcome in batch.outcomes if not isinstance(outcome, Receipt)]
    if refused:
        raise SystemExit(f"The service refuses the benchmark's own contracts: {refused[0]}")
    return batch
