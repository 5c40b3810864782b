"""Imports: events by the line, recorded in chunks by the ledger's writer, each line once and with a fate of its own.

Which lines were recorded, and where, is written in the transaction that records them, under the ledger's lock: a line that is sent again
finds its position, whatever happened in between. A contract's lines keep their order: where one is refused, those after it are held back.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection

from service.database import Database, import_lines, insert_rows, rows_json
from service.errors import EventExists, HeldBack, ImportNotFound, ImportOfAnother, LedgerError, LineChanged
from service.log.append import DELIVERY_IDS, END, EVENT_IDS, HEAD_AND_STATES, HISTORIES, LOCK, write_parameters
from service.log.append import WRITE as WRITE_EVENTS
from service.log.decide import Append, Batch, Decision, NewEvent, Rows
from service.log.header import new_salts
from service.log.heads import Heads
from service.log.ledger import Ledger

SHARE_LINES = 100
"""How many lines are decided before they are sent, to be written while the next are decided; other work has its turn in between."""
MAX_DETAIL = 1_000
RECORDED, ALREADY, REFUSED, HELD_BACK = "recorded", "already_recorded", "refused", "held_back"
OPEN, COMPLETE, INCOMPLETE, STOPPED = "open", "complete", "incomplete", "stopped"

_BEGIN = """
INSERT INTO imports (ledger_id, import_id, recorded_by, salt, status)
VALUES (%(ledger_id)s::uuid, %(import_id)s::uuid, %(recorded_by)s::uuid, %(salt)s, 'open')
ON CONFLICT (ledger_id, import_id) DO UPDATE SET status = 'open' WHERE imports.recorded_by = excluded.recorded_by
RETURNING salt, last_line
"""
_HELD = """
SELECT contract_id::text, min(line) FROM import_lines
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid AND position IS NULL AND contract_id IS NOT NULL
  AND line < %(from_line)s
GROUP BY contract_id
"""
_KNOWN = """
SELECT line, position, digest, code FROM import_lines
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid AND line BETWEEN %(first)s AND %(last)s
"""
_WRITE_LINES = insert_rows(import_lines, upsert=True)
_COUNT = """
UPDATE imports SET recorded = recorded + %(recorded)s, refused = refused + %(refused)s, held_back = held_back + %(held_back)s,
    last_line = greatest(last_line, %(last)s)
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid
"""
_END = "UPDATE imports SET status = %(status)s WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid"
_IMPORT = """
SELECT status, recorded, refused, held_back, last_line, created_at FROM imports
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid
"""
_LINE = """
SELECT line, position, contract_id::text, code, rule, pointer, detail FROM import_lines
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid AND line > %(after)s AND
"""
_LINES = _LINE.removesuffix("AND\n") + "ORDER BY import_lines.line LIMIT %(limit)s"
_NOT_RECORDED = _LINE + "position IS NULL ORDER BY import_lines.line LIMIT %(limit)s"
_PLACES = """
SELECT position, event_id::text, contract_id::text, revision FROM events
WHERE ledger_id = %(ledger_id)s::uuid AND position = ANY(%(positions)s)
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


@dataclass(slots=True)
class Import:
    """An import whose lines are being sent. `held` names the contracts of which a line was refused, with that line."""

    ledger: Ledger
    import_id: str
    recorded_by: str
    salt: bytes
    last_line: int
    held: dict[str, int]
    stop_on_refusal: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        return {"ledger_id": self.ledger.ledger_id, "import_id": self.import_id}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an import is."""

    status: str
    recorded: int
    refused: int
    held_back: int
    last_line: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStanding:
    """What has become of a line, as it is kept."""

    line: int
    position: int | None
    contract_id: str | None
    code: str | None
    rule: str | None
    pointer: str | None
    detail: str | None
    event_id: str | None = None
    revision: int | None = None

    @property
    def kind(self) -> str:
        return kind_of(self.position, self.code)


def kind_of(position: int | None, code: str | None) -> str:
    if position is not None:
        return RECORDED
    return HELD_BACK if code == HeldBack.code else REFUSED


async def begin(database: Database, ledger: Ledger, import_id: str, recorded_by: str, from_line: int) -> Import:
    """The import of an id, new or taken up again. ImportOfAnother if another principal began it."""
    whose = {"ledger_id": ledger.ledger_id, "import_id": import_id, "recorded_by": recorded_by}
    rows = await database.rows(_BEGIN, {**whose, "salt": new_salts(1)[0]})
    if not rows:
        raise ImportOfAnother("This id is of an import that another principal began; take an id of your own.")
    held = await database.rows(_HELD, {**whose, "from_line": from_line}) if from_line > 1 and rows[0][1] else []
    return Import(ledger, import_id, recorded_by, rows[0][0], rows[0][1], dict(held))


async def end(database: Database, of: Import, status: str) -> None:
    """Write down how the sending of an import ended."""

    async def run(connection: AsyncConnection[Any]) -> None:
        await connection.execute(_END, of.parameters | {"status": status})

    await database.read(run)


async def known_lines(database: Database, of: Import, first: int, last: int) -> dict[int, bytes | None]:
    """The digests of the lines that are recorded of a range; None for one that was cleared."""
    rows = await database.rows(_KNOWN, of.parameters | {"first": first, "last": last})
    return {line: digest for line, position, digest, _ in rows if position is not None}


async def standing(database: Database, ledger: Ledger, import_id: str) -> Standing:
    """How far an import is. ImportNotFound if there is none."""
    rows = await database.rows(_IMPORT, {"ledger_id": ledger.ledger_id, "import_id": import_id})
    if not rows:
        raise ImportNotFound(f"Ledger {ledger.name} has no import {import_id}.")
    return Standing(*rows[0])


async def lines_after(
    database: Database, ledger: Ledger, import_id: str, after: int, limit: int, *, recorded_too: bool
) -> list[LineStanding]:
    """The lines of an import after a number, or those that were not recorded."""
    statement = _LINES if recorded_too else _NOT_RECORDED
    whose = {"ledger_id": ledger.ledger_id, "import_id": import_id}
    rows = await database.rows(statement, whose | {"after": after, "limit": limit}, planned_anew=True)
    positions = sorted(row[1] for row in rows if row[1] is not None)
    found = await database.rows(_PLACES, whose | {"positions": positions}) if positions else []
    places = {position: (event_id, contract_id, revision) for position, event_id, contract_id, revision in found}
    return [_line_standing(row, places.get(row[1])) for row in rows]


def _line_standing(row: Sequence[Any], place: tuple[str, str, int] | None) -> LineStanding:
    line, position, contract_id, code, rule, pointer, detail = row
    event_id, of_contract, revision = place or (None, contract_id, None)
    return LineStanding(
        line=line,
        position=position,
        contract_id=of_contract,
        code=code,
        rule=rule,
        pointer=pointer,
        detail=detail,
        event_id=event_id,
        revision=revision,
    )


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
        await part.look_up(connection, heads)
        await part.write(connection, time.perf_counter() + seconds)
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
        self._event_ids: set[str] = set()
        self._decisions: dict[str, Decision] = {}

    async def look_up(self, connection: AsyncConnection[Any], heads: Heads) -> None:
        """Lock the ledger, and read what the lines need to be decided."""
        batch = self.batch
        parameters = batch.lookups() | self._import.parameters | {"first": self._lines[0].number, "last": self._lines[-1].number}
        given = {line.new.event_id for line in self._lines if line.new and line.new.event_id}
        referred = {event_id for line in self._lines if line.new for event_id in line.new.fact.event_ids()}
        parameters["event_ids"] = "{" + ",".join(given | referred) + "}"
        async with connection.pipeline():
            await connection.execute("BEGIN")
            await connection.execute(LOCK, parameters)
            states = await connection.execute(HEAD_AND_STATES, parameters)
            known = await connection.execute(_KNOWN, parameters)
            taken = await connection.execute(DELIVERY_IDS, parameters) if parameters["ids"] else None
            events = await connection.execute(EVENT_IDS, parameters) if given or referred else None
        rows = await states.fetchall()
        try:
            batch.begin(rows[0][:6] if rows else None, time.time())
            heads.require(batch.ledger, batch.position)
        except LedgerError:
            await connection.rollback()
            raise
        batch.load((row[6:] for row in rows if row[6] is not None), [])
        known_events = await events.fetchall() if events else []
        batch.load_ids(await taken.fetchall() if taken else [], known_events)
        self._event_ids = {event_id for _, event_id in known_events}
        self._known = {line: (position, digest, code) for line, position, digest, code in await known.fetchall()}
        if missing := batch.histories_needed():
            wanted = {"ledger_id": batch.ledger.ledger_id, "contract_ids": missing}
            batch.load_histories(await (await connection.execute(HISTORIES, wanted)).fetchall())

    async def write(self, connection: AsyncConnection[Any], deadline: float) -> None:
        """Decide the lines in shares, each while the database writes the one before it, and commit."""
        batch = self.batch
        async with connection.pipeline():
            for first in range(0, len(self._lines), SHARE_LINES):
                whole = self._decide(self._lines[first : first + SHARE_LINES], deadline)
                await self._send(connection)
                if not whole:
                    break
            await self._send_contracts(connection)
            count = {kind: self._changes[kind] for kind in (RECORDED, REFUSED, HELD_BACK)}
            await connection.execute(_COUNT, self._import.parameters | count | {"last": self.fates[-1].line})
            if batch.written:
                end = {"ledger_id": batch.ledger.ledger_id, "position": batch.position, "recorded_at": batch.recorded_at}
                await connection.execute(END, end)
            commit = await connection.execute("COMMIT")
        if commit.statusmessage != "COMMIT":
            raise psycopg.OperationalError(f"COMMIT was answered {commit.statusmessage}")

    async def _send(self, connection: AsyncConnection[Any]) -> None:
        rows, self.batch.rows = self.batch.rows, Rows()
        if rows.events or rows.contracts:
            await connection.execute(WRITE_EVENTS, write_parameters(self.batch, rows))
        if self._line_rows:
            await connection.execute(_WRITE_LINES, {"ledger_id": self._import.ledger.ledger_id, "import_lines": rows_json(self._line_rows)})
            self._line_rows = []
        await asyncio.sleep(0)

    async def _send_contracts(self, connection: AsyncConnection[Any]) -> None:
        """Send what the decisions leave of their contracts."""
        for index, decision in enumerate(self._decisions.values(), 1):
            if decision.recorded:
                decision.finish()
                self.batch.keep_contract(decision.append, decision)
                self.batch.recorded_at = decision.recorded_at
            if index % SHARE_LINES == 0:
                await self._send(connection)
        await self._send(connection)

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
            if new.event_id in self._event_ids:
                return EventExists(f"The ledger has an event {new.event_id} already.")
            decision = self._decision(line.contract_id)
            decision.place(new, batch.position + 1)
        except LedgerError as refusal:
            return refusal
        batch.keep_event(decision)
        if new.event_id:
            self._event_ids.add(new.event_id)
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
