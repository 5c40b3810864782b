"""Replay: walk along the whole log and check every byte of it, fold every contract, and compare with what is stored.

The log is walked along by position, as it was written (`walk`). Contracts are folded from it in chunks of about CHUNK_EVENTS events, each
read in one short snapshot with its rows: so a row and its events always belong together while appends go on, and memory is bounded by a
chunk. Both go on at the same time, in pieces that are shared among processes.
"""

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

import msgspec

from service.audit.book import (
    FIRST_ID,
    Book,
    Chunk,
    Connection,
    Difference,
    Found,
    Row,
    chunks_of,
    open_book,
    open_connection,
    read_chunk,
)
from service.audit.chain import check_chain, read_history
from service.audit.crew import Crew
from service.audit.outlook import check_outlook
from service.audit.span import Checked, Span, check_span
from service.audit.walk import Walk, spans_of
from service.domain.corrections import delivery_ids, resolve
from service.domain.events import RecordedEvent
from service.domain.references import ReferenceId, held_references
from service.log.ledger import Ledger
from service.projections.contracts import LAYOUT, ContractRow, contract_row, project, unknown_layout

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verify found: the first difference (in the order of the walk), or none."""

    ledger: str
    events: int
    contracts: int
    seconds: float
    peak_bytes: int
    difference: Difference | None
    erased: int = 0
    """How many of the events are erased; each by another of its contract."""


class Told(NamedTuple):
    """What a chunk came to."""

    events: int
    contracts: int
    peak_bytes: int
    difference: Difference | None
    erased: int = 0


class Course(msgspec.Struct):
    """How far a walk is, and what it has found: enough for another process to go on from, after the last contract that is done."""

    after: str = FIRST_ID
    events: int = 0
    contracts: int = 0
    erased: int = 0
    changed: int = 0
    difference: Difference | None = None
    head: int | None = None
    """Of a rebuild: the head when it began, and the generation that it writes."""
    generation: int | None = None
    misheld: list[str] = []
    """Of a rebuild: the contracts whose unique references are to be written anew."""
    different: int = 0
    """Of a book: the contracts that cannot be told, and the digest of the lines so far, in hex."""
    digest: str = ""

    def add(self, chunk: Chunk, told: "Told") -> None:
        """A chunk is done."""
        self.after = chunk.upto
        self.events, self.contracts, self.erased = self.events + told.events, self.contracts + told.contracts, self.erased + told.erased
        self.difference = self.difference or told.difference


def verify(database_url: str, ledger: str, progress: Progress, processes: int = 0, course: Course | None = None) -> Verdict:
    """Check a whole ledger: hashes, chains, digests, copies, order, and each contract's row against the fold of its events.

    `processes` 0 uses one for each core, up to four. `course` is brought forward with each chunk, before `progress` is told, which may
    end the walk by an exception; given again, it goes on from there. OperatorError when there is no such ledger.
    """
    began = time.monotonic()
    course = course or Course()
    with open_connection(database_url) as connection:
        book = open_book(connection, ledger)
        chunks = list(chunks_of(connection, book, course.after))
    peaks: dict[int, int] = {os.getpid(): _peak_bytes()}
    pieces = _in_turn(spans_of(book), chunks)
    with Crew(database_url, book.head, processes) as crew, open_connection(database_url) as connection:
        walk = Walk(connection, book)
        for piece, done in zip(pieces, crew.in_order(_verify_piece, book, pieces), strict=True):
            if isinstance(piece, Span):
                walk.join(piece, cast(Checked, done))
                continue
            worker, told = cast("tuple[int, Told]", done)
            course.add(piece, told)
            peaks[worker] = max(peaks.get(worker, 0), told.peak_bytes)
            progress(course.events, max(course.events, book.head), "events")
        walk.end()
    difference = walk.difference or course.difference
    if difference is None and book.layout != LAYOUT:
        difference = Difference(f"ledger {ledger}", unknown_layout(book.layout))
    if difference is None:
        with open_connection(database_url) as connection:
            difference = check_outlook(connection, open_book(connection, ledger))
    seconds = time.monotonic() - began
    return Verdict(ledger, course.events, course.contracts, seconds, sum(peaks.values()), difference, course.erased)


def _in_turn(spans: Sequence[Span], chunks: Sequence[Chunk]) -> list[Span | Chunk]:
    """The pieces of both ways through a ledger, in such turns that both end together."""
    pieces: list[Span | Chunk] = []
    for number, chunk in enumerate(chunks, 1):
        pieces += spans[len(pieces) - number + 1 : len(spans) * number // len(chunks)]
        pieces.append(chunk)
    return pieces


def _verify_piece(connection: Connection, book: Book, piece: Span | Chunk) -> Checked | tuple[int, Told]:
    return check_span(connection, book, piece) if isinstance(piece, Span) else _check_chunk(connection, book, piece, read_history)


def verify_chunk(connection: Connection, book: Book, chunk: Chunk) -> tuple[int, Told]:
    """What the contracts of a chunk come to, their chains included, and the process that looked."""
    return _check_chunk(connection, book, chunk, check_chain)


def _check_chunk(
    connection: Connection, book: Book, chunk: Chunk, read: Callable[[Ledger, list[Row], dict[int, Row]], list[RecordedEvent]]
) -> tuple[int, Told]:
    events, bodies, rows, ids, schemes, held = read_chunk(connection, book, chunk)
    count, found, erased, difference = 0, 0, 0, None
    for contract_id, group in groupby(events, key=itemgetter(0)):
        found += 1
        stored = list(group)
        count += len(stored)
        try:
            history = read(book.ledger, stored, bodies)
            check_references(contract_id, held.pop(contract_id, set()), schemes, history)
            erased += sum(1 for event in history if event.data.is_erased)
            if book.layout == LAYOUT:
                check_row(contract_id, rows.pop(contract_id, None), history, stored[-1])
                check_deliveries(contract_id, ids.pop(contract_id, {}), history)
        except Found as error:
            difference = difference or error.difference
            rows.pop(contract_id, None)
            ids.pop(contract_id, None)
            held.pop(contract_id, None)
    for contract_id in (*rows, *ids, *held) if book.layout == LAYOUT else held:
        difference = difference or Difference(f"contract {contract_id}", "it has a row, and no event")
    return os.getpid(), Told(count, found, _peak_bytes(), difference, erased)


def check_row(contract_id: str, row: ContractRow | None, history: Sequence[RecordedEvent], last: tuple[Any, ...]) -> None:
    """A projected row is the fold of the events at the row's own day."""
    if row is None:
        raise Found(f"contract {contract_id}", "it has events, and no row")
    folded = fold_stored(contract_id, history, last, row.settled_on)
    if folded != row:
        name = next(name for name in ContractRow.__struct_fields__ if getattr(folded, name) != getattr(row, name))
        raise Found(f"contract {contract_id}", f"{name} in its row is not the fold of its {len(history)} events")


def fold_stored(contract_id: str, history: Sequence[RecordedEvent], last: tuple[Any, ...], day: date) -> ContractRow:
    """The fold is total over what was validated; a forged body is not."""
    try:
        return fold_row(contract_id, history, last[7].hex(), day)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Found(f"contract {contract_id}", f"its events cannot be folded: {type(error).__name__}") from error


def fold_row(contract_id: str, history: Sequence[RecordedEvent], last_hash: str, day: date) -> ContractRow:
    """The row that all events of a contract make, settled on a day."""
    return contract_row(
        contract_id,
        project(history, day),
        revision=history[-1].revision,
        position=history[-1].position,
        last_hash=last_hash,
        last_on=max(event.day for event in resolve(history)),
        day=day,
    )


def check_deliveries(contract_id: str, stored: dict[str, int], history: Sequence[RecordedEvent]) -> None:
    if stored != delivery_ids(history):
        raise Found(f"contract {contract_id}", "its delivery ids are not those of its events")


def check_references(contract_id: str, stored: set[ReferenceId], schemes: frozenset[str], history: Sequence[RecordedEvent]) -> None:
    if stored != held_of(schemes, history):
        raise Found(f"contract {contract_id}", "the references it holds are not those of its events")


def held_of(schemes: frozenset[str], history: Sequence[RecordedEvent]) -> set[ReferenceId]:
    """What a contract of these events holds in schemes that are unique."""
    return {reference for reference in held_references(history) if reference[0] in schemes} if schemes else set()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
