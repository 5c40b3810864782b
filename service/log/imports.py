"""What is kept of imports: each with its counts, and of each line the position it was recorded at, or why it was not."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from service.database import Database
from service.errors import HeldBack, ImportNotFound, ImportOfAnother
from service.log.header import new_salts
from service.log.ledger import Ledger

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
KNOWN_LINES = """
SELECT line, position, digest, code FROM import_lines
WHERE ledger_id = %(ledger_id)s::uuid AND import_id = %(import_id)s::uuid AND line BETWEEN %(first)s AND %(last)s
"""


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
    rows = await database.rows(KNOWN_LINES, of.parameters | {"first": first, "last": last})
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
