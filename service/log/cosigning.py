"""Has a ledger's witnesses cosign its checkpoints, beside everything else: nobody waits for a witness, and nothing fails by one."""

import asyncio
import time
from typing import Any, Final, NamedTuple

import httpx
import psycopg
import structlog

from service.database import Database
from service.errors import LedgerError, OperatorError
from service.log.checkpoint import Checkpoint
from service.log.notes import Note, Verifier
from service.log.proofs import consistency
from service.log.witness import Witness, WitnessError, cosign

ASK_AGAIN_SECONDS: Final = 30
MAX_WITNESSES: Final = 16

_TO_ASK = """
SELECT w.url, w.verifier_key, (
    SELECT coalesce(max(c.size), 0) FROM cosignatures c
    WHERE c.ledger_id = w.ledger_id AND c.epoch = %(epoch)s AND c.name = w.name AND c.size <= %(size)s)
FROM witnesses w WHERE w.ledger_id = %(ledger_id)s::uuid AND NOT EXISTS (
    SELECT FROM cosignatures c
    WHERE c.ledger_id = w.ledger_id AND c.epoch = %(epoch)s AND c.size = %(size)s AND c.name = w.name)
"""
_STORE = """
INSERT INTO cosignatures (ledger_id, epoch, size, name, line)
VALUES (%(ledger_id)s::uuid, %(epoch)s, %(size)s, %(name)s, %(line)s) ON CONFLICT DO NOTHING RETURNING size
"""
_LINES = """
SELECT c.line FROM cosignatures c
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.epoch = %(epoch)s AND c.size = %(size)s ORDER BY c.name
"""
_WITNESSES = "SELECT w.url, w.verifier_key FROM witnesses w WHERE w.ledger_id = %s::uuid ORDER BY w.name"
_ADD = "INSERT INTO witnesses (ledger_id, name, url, verifier_key) VALUES (%s::uuid, %s, %s, %s) ON CONFLICT DO NOTHING"
_REMOVE = "DELETE FROM witnesses WHERE ledger_id = %s::uuid AND name = %s"
_log = structlog.get_logger()
Connection = psycopg.Connection[tuple[Any, ...]]


class _Asked(NamedTuple):
    """A checkpoint that witnesses were asked for, and until when they are not asked again."""

    epoch: int
    size: int
    until: float


class Cosigning:
    """Asks the witnesses of all ledgers; at any time one checkpoint of a ledger, the newest."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client = httpx.AsyncClient(trust_env=False)
        self._asked: dict[str, _Asked] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def ask(self, ledger_id: str, epoch: int, note: str) -> None:
        """Have a signed checkpoint cosigned by who has not done so, unless they were asked just now; returns at once."""
        parsed, now, asking = Note.parse(note), time.monotonic(), self._asking.get(ledger_id)
        size, last = Checkpoint.parse(parsed.text).size, self._asked.get(ledger_id)
        if (asking and not asking.done()) or (last and last[:2] == (epoch, size) and now < last.until):
            return
        self._asked[ledger_id] = _Asked(epoch, size, now + ASK_AGAIN_SECONDS)
        self._asking[ledger_id] = asyncio.create_task(self._ask_all(ledger_id, epoch, size, parsed))

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _ask_all(self, ledger_id: str, epoch: int, size: int, note: Note) -> None:
        try:
            rows = await self._database.rows(_TO_ASK, {"ledger_id": ledger_id, "epoch": epoch, "size": size})
            witnesses = [(Witness(url, Verifier.parse(key)), seen) for url, key, seen in rows]
            await asyncio.gather(*(self._ask(ledger_id, epoch, witness, seen, note) for witness, seen in witnesses))
        except (LedgerError, psycopg.Error) as error:
            _log.warning("witnesses are not asked", ledger_id=ledger_id, error=str(error))

    async def _ask(self, ledger_id: str, epoch: int, witness: Witness, seen: int, note: Note) -> None:
        async def prove(old: int, size: int) -> list[bytes]:
            return await consistency(self._database, ledger_id, old, size)

        try:
            cosigned = await cosign(self._client, witness, note, seen, prove)
        except WitnessError as error:
            _log.warning("a witness does not cosign", ledger_id=ledger_id, witness=witness.verifier.name, why=str(error))
            return
        size, name = Checkpoint.parse(note.text).size, witness.verifier.name
        stored = {"ledger_id": ledger_id, "epoch": epoch, "size": size, "name": name, "line": cosigned.signature.line()}
        await self._database.rows(_STORE, stored)


async def cosignatures(database: Database, ledger_id: str, epoch: int, size: int) -> str:
    """The lines of witnesses that go under the checkpoint of a size; empty if there are none."""
    rows = await database.rows(_LINES, {"ledger_id": ledger_id, "epoch": epoch, "size": size})
    return "".join(line for (line,) in rows)


def witnesses_of(connection: Connection, ledger_id: str) -> list[Witness]:
    """The witnesses of a ledger, by name."""
    return [Witness(url, Verifier.parse(key)) for url, key in connection.execute(_WITNESSES, [ledger_id]).fetchall()]


def add_witness(connection: Connection, ledger_id: str, witness: Witness) -> None:
    """Ask a witness from now on. OperatorError when the ledger has one of this name, or as many as can be."""
    if len(witnesses_of(connection, ledger_id)) >= MAX_WITNESSES:
        raise OperatorError(f"A ledger has at most {MAX_WITNESSES} witnesses.")
    name = witness.verifier.name
    if not connection.execute(_ADD, [ledger_id, name, witness.url, str(witness.verifier)]).rowcount:
        raise OperatorError(f"The ledger has a witness {name}: remove it first, to name it anew.")


def remove_witness(connection: Connection, ledger_id: str, name: str) -> None:
    """Ask a witness no more; what it has cosigned stays. OperatorError when there is none of the name."""
    if not connection.execute(_REMOVE, [ledger_id, name]).rowcount:
        raise OperatorError(f"The ledger has no witness {name}; `contract-ledger witness list` tells those there are.")
