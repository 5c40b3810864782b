"""References of schemes that a ledger declares unique: who holds which, judged and written under the ledger's lock.

The table `unique_references` has a row for each reference of such a scheme that a contract holds (`domain.references` says which those
are), and its primary key is the last guard. An append that names none of them reads and writes nothing of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.database import Database
from service.domain.references import ReferenceId, held_references
from service.errors import Internal, LedgerNotFound, MemberFault, ReferencesShared, ReferenceTaken
from service.inserts import insert_rows, rows_json
from service.log.ledger import Ledger, Switches, zone
from service.log.stored import UNREADABLE, recorded_event
from service.tables import unique_references

MAX_UNIQUE_SCHEMES = 20
MAX_SHARED = 20
PAGE_CONTRACTS = 200
STATING = ("contract.reported", "contract.signed", "event.corrected", "event.voided", "event.erased")
"""The types of events that say what references a contract holds, or take back what one said."""

# Each by itself, which the limit commands: a plan that was made while the table was small would read all that there are for ever after.
HOLDERS = """
SELECT u.scheme, u.id, u.contract_id::text
FROM jsonb_to_recordset(%(wanted)s::jsonb) AS w(scheme text, id text)
CROSS JOIN LATERAL (
    SELECT scheme, id, contract_id FROM unique_references
    WHERE ledger_id = %(ledger_id)s::uuid AND scheme = w.scheme AND id = w.id
    LIMIT 1
) u
"""
RELEASE = "DELETE FROM unique_references WHERE ledger_id = %(ledger_id)s::uuid AND contract_id = ANY(%(contract_ids)s::uuid[])"
HOLD = insert_rows(unique_references)

_LOCK = "SELECT FROM ledger_locks WHERE ledger_id = %(ledger_id)s::uuid FOR NO KEY UPDATE"
_HEAD = "SELECT last_position FROM batches WHERE ledger_id = %(ledger_id)s::uuid ORDER BY last_position DESC LIMIT 1"
_MOVED = "SELECT DISTINCT e.contract_id::text FROM events e WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position > %(position)s"
_CONTRACTS = """
SELECT c.contract_id::text FROM contracts c
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.contract_id > %(after)s::uuid
  AND c.generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
ORDER BY c.contract_id LIMIT %(limit)s
"""
_STATED = """
SELECT e.contract_id::text, e.header, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[]) AND e.event_type = ANY(%(types)s)
ORDER BY e.contract_id, e.revision
"""
_POLICY = """
UPDATE ledgers SET unique_reference_schemes = %(schemes)s, if_match_required = %(if_match_required)s, public_log = %(public_log)s,
    strict = %(strict)s
WHERE ledger_id = %(ledger_id)s::uuid
"""
_CLEAR = "DELETE FROM unique_references WHERE ledger_id = %(ledger_id)s::uuid"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"


class Holdings:
    """Who holds the references that a batch names, as the batch goes on. Without a scheme that is unique there is nothing to hold."""

    def __init__(self) -> None:
        self.schemes: frozenset[str] = frozenset()
        self.changed: dict[str, set[ReferenceId]] = {}
        """What contracts hold now of which the batch has changed that."""
        self._holders: dict[ReferenceId, str] = {}

    def of_schemes(self, references: Iterable[ReferenceId]) -> set[ReferenceId]:
        """Those of the references whose scheme is unique."""
        return {reference for reference in references if reference[0] in self.schemes}

    def load(self, rows: Iterable[Sequence[str]]) -> None:
        """Take the holders (scheme, id, contract_id) of what the batch names."""
        self._holders = {(scheme, known): contract_id for scheme, known, contract_id in rows}

    def check(self, contract_id: str, references: Iterable[ReferenceId]) -> set[ReferenceId]:
        """What a contract would hold. ReferenceTaken where another holds some of it."""
        held = self.of_schemes(references)
        for reference in sorted(held):
            holder = self._holders.get(reference, contract_id)
            if holder != contract_id:
                raise ReferenceTaken(*reference, holder)
        return held

    def take(self, contract_id: str, held: set[ReferenceId]) -> None:
        """A contract holds these from now on, and nothing else."""
        if self.changed.get(contract_id) == held:
            return
        self._holders = {reference: holder for reference, holder in self._holders.items() if holder != contract_id}
        self._holders |= dict.fromkeys(held, contract_id)
        self.changed[contract_id] = held


def wanted_json(references: Iterable[ReferenceId]) -> str:
    """References as the document that HOLDERS takes."""
    return orjson.dumps([{"scheme": scheme, "id": known} for scheme, known in references]).decode()


def holdings_json(held: Mapping[str, Iterable[ReferenceId]]) -> str:
    """What contracts hold as the document that HOLD takes."""
    return rows_json(
        [
            {"scheme": scheme, "id": known, "contract_id": contract_id}
            for contract_id, references in held.items()
            for scheme, known in sorted(references)
        ]
    )


async def write_policy(database: Database, ledger: Ledger, schemes: Iterable[str], switches: Switches) -> Ledger:
    """Set the policy of a ledger, whole: exactly these schemes are unique in it, and it is switched so; the ledger as it is then.
    ReferencesShared where contracts share a reference of the schemes; then nothing is set.

    The ledger's contracts are read before its lock is taken; with it, those that have moved since.
    """
    declared = sorted(set(schemes))
    position = (await database.rows(_HEAD, {"ledger_id": ledger.ledger_id}))[0][0]
    async with database.connection() as connection:
        held = await _held_in(connection, ledger, declared) if declared else {}
    async with database.transaction() as connection:
        await connection.execute(_LOCK, {"ledger_id": ledger.ledger_id})
        moved = await connection.execute(_MOVED, {"ledger_id": ledger.ledger_id, "position": position})
        if declared and (contract_ids := [row[0] for row in await moved.fetchall()]):
            held |= await _held_by(connection, ledger, contract_ids, declared)
        _refuse_shared(held)
        await _write(connection, ledger, {"schemes": declared, **switches}, held)
    return replace(ledger, unique_reference_schemes=declared, **switches)


async def _held_in(connection: AsyncConnection[Any], ledger: Ledger, schemes: Sequence[str]) -> dict[str, set[ReferenceId]]:
    """What the contracts of a ledger hold, a page of them at a time."""
    held: dict[str, set[ReferenceId]] = {}
    after = _FIRST_ID
    while True:
        parameters = {"ledger_id": ledger.ledger_id, "after": after, "limit": PAGE_CONTRACTS}
        page = [row[0] for row in await (await connection.execute(_CONTRACTS, parameters)).fetchall()]
        if not page:
            return held
        held |= await _held_by(connection, ledger, page, schemes)
        after = page[-1]


async def _held_by(
    connection: AsyncConnection[Any], ledger: Ledger, contract_ids: Sequence[str], schemes: Sequence[str]
) -> dict[str, set[ReferenceId]]:
    """What contracts hold. Internal where what is stored of one cannot be read."""
    parameters = {"ledger_id": ledger.ledger_id, "contract_ids": list(contract_ids), "types": list(STATING)}
    rows = await (await connection.execute(_STATED, parameters)).fetchall()
    held: dict[str, set[ReferenceId]] = {contract_id: set() for contract_id in contract_ids}
    for contract_id, group in groupby(rows, key=itemgetter(0)):
        try:
            history = [recorded_event(header, body, zone(ledger.time_zone)) for _, header, body in group]
        except UNREADABLE:
            raise Internal(
                f"What is stored of contract {contract_id} cannot be read, so nothing is declared; "
                f"`contract-ledger verify --ledger {ledger.name}` says where."
            ) from None
        held[contract_id] = {reference for reference in held_references(history) if reference[0] in schemes}
    return held


def _refuse_shared(held: Mapping[str, set[ReferenceId]]) -> None:
    holders: dict[ReferenceId, list[str]] = defaultdict(list)
    for contract_id, references in held.items():
        for reference in references:
            holders[reference].append(contract_id)
    shared = sorted((reference, sorted(found)) for reference, found in holders.items() if len(found) > 1)
    if shared:
        told = [
            f"{':'.join(reference)} is one of the contracts {', '.join(found[:MAX_SHARED])}" for reference, found in shared[:MAX_SHARED]
        ]
        faults = tuple(MemberFault("/unique_reference_schemes", sentence) for sentence in told)
        raise ReferencesShared(f"References that contracts share: {len(shared)}, so nothing is declared; {told[0]}.", faults)


async def _write(connection: AsyncConnection[Any], ledger: Ledger, policy: dict[str, Any], held: Mapping[str, set[ReferenceId]]) -> None:
    ledger_id = {"ledger_id": ledger.ledger_id}
    changed = await connection.execute(_POLICY, ledger_id | policy)
    if not changed.rowcount:
        raise LedgerNotFound(f"There is no ledger {ledger.name}.")
    await connection.execute(_CLEAR, ledger_id)
    await connection.execute(HOLD, ledger_id | {"unique_references": holdings_json(held)})
