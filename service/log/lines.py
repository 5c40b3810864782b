"""The lines of imports: recorded in chunks by the ledger's writer, each line once and with a fate of its own.

Which lines were recorded, and where, is written in the transaction that records them, under the ledger's lock: a line that is sent again
finds its position, whatever happened in between. A contract's lines keep their order: where one is refused, those after it are held back.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import AsyncConnection

from service.errors import EventExists, HeldBack, LedgerError, LineChanged
from service.inserts import insert_rows, rows_json
from service.log.append import WRITE, look_up, send_references, send_tiles, write_parameters
from service.log.decide import Batch, Rows
from service.log.decision import Decision
from service.log.heads import Heads
from service.log.imports import ALREADY, HELD_BACK, KNOWN_LINES, RECORDED, REFUSED, Import, kind_of
from service.log.pipeline import Pipeline
from service.log.requests import Append, NewEvent
from service.tables import import_lines

SHARE_LINES = 100
"""How many lines are decided before they are sent, to be written while the next are decided; other work has its turn in between."""
MAX_DETAIL = 1_000

_WRITE_LINES = insert_rows(import_lines, upsert=True)
_COUNT = """
UPDATE imports SET recorded = recorded + %(recorded)s, refused = refused + %(refused)s, held_back = held_back + %(held_back)s,
    last_line = greatest(last_line, %(last)s)
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid
"""


def with_id(new: NewEvent, event_id: str) -> NewEvent:
    """A new event that keeps the id which it had before."""
    return replace(new, event_id=event_id)


def line_digest(salt: bytes, canonical: bytes) -> bytes:
    """What is kept of a line, to tell another under its number."""
    return hashlib.sha256(salt + canonical).digest()[:16]


@dataclass(slots=True)
class Line:
    """A line as it was read: an event for a contract, or what is wrong with it."""

    number: int
    digest: bytes = b""
    contract_id: str | None = None
    new: NewEvent | None = None
    refusal: LedgerError | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a line."""

    line: int
    kind: str
    refusal: LedgerError | None = None


@dataclass(slots=True, eq=False)
class LineChunk:
    """Lines of an import that go to the writer together; `fates` are those of its first lines, in their order."""

    of: Import
    lines: Sequence[Line]
    fates: list[Fate] = field(default_factory=list)
    stopped: bool = False
    """Whether a line was met that the import is not to go beyond."""

    @property
    def is_settled(self) -> bool:
        return self.stopped or len(self.fates) == len(self.lines)

    def refuse_next(self, refusal: LedgerError) -> None:
        """The next line is one that the database refuses."""
        self.lines[len(self.fates)].refusal = refusal

    async def advance(self, connection: AsyncConnection[Any], heads: Heads, limit: int, seconds: float) -> Batch:
        """Settle the next lines in one transaction. Raises as `append.transact` does; then nothing has changed here."""
        done = len(self.fates)
        part = _Part(self.of, self.lines[done : done + limit])
        async with Pipeline(connection) as pipeline:
            await part.look_up(pipeline, heads)
            await part.write(pipeline, time.perf_counter() + seconds)
        self.fates += part.fates
        self.of.held = part.held
        self.stopped = part.stopped
        return part.batch


class _Part:
    """The lines of one transaction."""

    def __init__(self, of: Import, lines: Sequence[Line]) -> None:
        self._import = of
        self._lines = lines
        self._appends = _by_contract(of, lines)
        self.batch = Batch(of.ledger, list(self._appends.values()))
        self.held = dict(of.held)
        self.fates: list[Fate] = []
        self.stopped = False
        self._line_rows: list[dict[str, Any]] = []
        self._changes: Counter[str] = Counter()
        self._known: dict[int, tuple[int | None, bytes | None, str | None]] = {}
        self._decisions: dict[str, Decision] = {}

    async def look_up(self, pipeline: Pipeline, heads: Heads) -> None:
        """Lock the ledger, and read what the lines need to be decided."""
        await look_up(pipeline, self.batch, heads)
        between = {"first": str(self._lines[0].number), "last": str(self._lines[-1].number)}
        pipeline.send(KNOWN_LINES, self._import.parameters | between)
        (known,) = await pipeline.results()
        self._known = {line: (position, digest, code) for line, position, digest, code in pipeline.rows(known)}

    async def write(self, pipeline: Pipeline, deadline: float) -> None:
        """Decide the lines in shares, each while the database writes the one before it, and commit."""
        for first in range(0, len(self._lines), SHARE_LINES):
            whole = self._decide(self._lines[first : first + SHARE_LINES], deadline)
            await self._send(pipeline)
            if not whole:
                break
        await self._send_contracts(pipeline)
        count = {kind: str(self._changes[kind]) for kind in (RECORDED, REFUSED, HELD_BACK)}
        send_references(pipeline, self.batch)
        send_tiles(pipeline, self.batch)
        pipeline.send(_COUNT, self._import.parameters | count | {"last": str(self.fates[-1].line)})
        pipeline.send("COMMIT")
        *_, end = await pipeline.results()
        if end.command_status != b"COMMIT":
            raise psycopg.OperationalError(f"COMMIT was answered {end.command_status!r}")

    async def _send(self, pipeline: Pipeline, *, ends: bool = False) -> None:
        rows, self.batch.rows = self.batch.rows, Rows()
        if rows.events or rows.contracts or (ends and self.batch.written):
            pipeline.send(WRITE, write_parameters(self.batch, rows, ends=ends))
        if self._line_rows:
            pipeline.send(_WRITE_LINES, {"ledger_id": self._import.ledger.ledger_id, "import_lines": rows_json(self._line_rows)})
            self._line_rows = []
        await asyncio.sleep(0)

    async def _send_contracts(self, pipeline: Pipeline) -> None:
        """Send what the decisions leave of their contracts."""
        for index, decision in enumerate(self._decisions.values(), 1):
            if decision.recorded:
                decision.finish()
                self.batch.keep_contract(decision.append, decision)
                self.batch.recorded_at = decision.recorded_at
            if index % SHARE_LINES == 0:
                await self._send(pipeline)
        await self._send(pipeline, ends=True)

    def _decide(self, lines: Iterable[Line], deadline: float) -> bool:
        """Decide the next lines; whether others may follow, or the import ends here, or the time is over."""
        for line in lines:
            position, digest, code = known = self._known.get(line.number, (None, None, None))
            if position is not None:
                fate = already(line, digest)
            else:
                refusal = line.refusal or self._held_back(line) or self._place(line)
                fate = _fate(line, refusal)
                self._note(line, fate, None if known == (None, None, None) else kind_of(position, code))
            self.fates.append(fate)
            if self._ends_at(line, fate):
                self.stopped = True
                return False
            if time.perf_counter() > deadline:
                return False
        return True

    def _held_back(self, line: Line) -> LedgerError | None:
        refused = self.held.get(line.contract_id or "")
        return None if refused is None else HeldBack(f"Line {refused} of the same contract was refused.")

    def _place(self, line: Line) -> LedgerError | None:
        """Record a line; or why it is refused."""
        batch, new = self.batch, line.new
        assert new is not None
        assert line.contract_id is not None
        try:
            if new.event_id in batch.event_ids:
                return EventExists(f"The ledger has an event {new.event_id} already.")
            decision = self._decision(line.contract_id)
            decision.place(new, batch.position + 1)
        except LedgerError as refusal:
            return refusal
        batch.keep_event(decision)
        return None

    def _decision(self, contract_id: str) -> Decision:
        decision = self._decisions.get(contract_id)
        if decision is None:
            decision = self.batch.decision(self._appends[contract_id])
            decision.begin()
            self._decisions[contract_id] = decision
        return decision

    def _ends_at(self, line: Line, fate: Fate) -> bool:
        """Whether the import is not to go beyond a line: one that does not say whose it is may be of any of the contracts after it."""
        if fate.refusal is None:
            return False
        return line.contract_id is None or isinstance(fate.refusal, LineChanged) or self._import.stop_on_refusal

    def _note(self, line: Line, fate: Fate, before: str | None) -> None:
        """Write down the fate of a line, and count it."""
        if before is not None:
            self._changes[before] -= 1
        self._changes[fate.kind] += 1
        if fate.kind == REFUSED and line.contract_id is not None:
            self.held.setdefault(line.contract_id, line.number)
        self._line_rows.append(self._row(line, fate.refusal))

    def _row(self, line: Line, refusal: LedgerError | None) -> dict[str, Any]:
        row = {"import_id": self._import.import_id, "line": line.number}
        if refusal is None:
            return row | {"position": self.batch.position, "digest": "\\x" + line.digest.hex()}
        return row | {"contract_id": line.contract_id, **told(refusal)}


def told(refusal: LedgerError) -> Mapping[str, str | None]:
    """What is kept and told of a refusal: its code, the rule or the place of the first fault, and a sentence."""
    rule = refusal.members.get("rule")
    return {
        "code": refusal.code,
        "rule": None if rule is None else str(rule),
        "pointer": refusal.errors[0].pointer if refusal.errors else None,
        "detail": refusal.detail[:MAX_DETAIL],
    }


def already(line: Line, digest: bytes | None) -> Fate:
    """The fate of a line that was recorded before under a digest."""
    if digest is None or digest == line.digest:
        return Fate(line.number, ALREADY)
    return Fate(
        line.number,
        REFUSED,
        LineChanged(
            f"Line {line.number} was recorded with another content before. What is recorded stays: send the lines as they were, "
            "or the whole file as another import."
        ),
    )


def _fate(line: Line, refusal: LedgerError | None) -> Fate:
    if refusal is None:
        return Fate(line.number, RECORDED)
    return Fate(line.number, HELD_BACK if isinstance(refusal, HeldBack) else REFUSED, refusal)


def _by_contract(of: Import, lines: Iterable[Line]) -> dict[str, Append]:
    """The events of the lines by contract, for what has to be looked up."""
    events: dict[str, list[NewEvent]] = {}
    for line in lines:
        if line.new is not None and line.contract_id is not None:
            events.setdefault(line.contract_id, []).append(line.new)
    return {
        contract_id: Append(
            ledger=of.ledger,
            contract_id=contract_id,
            opening=False,
            events=found,
            recorded_by=of.recorded_by,
            key=b"",
            canonical=b"",
        )
        for contract_id, found in events.items()
    }
