"""What is read of a ledger's outlook: sums of commitments, deadlines from day to day, parties by id. Statements made for what is asked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from service.database import Database
from service.log.ledger import Ledger
from service.log.outlook import Stand
from service.projections.outlook import AMOUNTS, PartyForm, decode_form

PLACES: Final = ("party", "product", "currency", "unit", "year", "basis")
"""What sums are told apart by, in the order of a list. Currency, unit and basis always tell them apart: nothing is added across them."""
_ALWAYS: Final = frozenset({"currency", "unit", "basis"})
_OF_LEDGER = "WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedSums:
    """Which sums are wanted: told apart `by` more than always, of contracts in one of the statuses, where a place is as in `where`."""

    by: frozenset[str]
    statuses: Sequence[str]
    where: dict[str, str]

    @property
    def places(self) -> list[str]:
        """The members that tell the sums apart, in their order."""
        return [name for name in PLACES if name in _ALWAYS or name in self.by or name in self.where]


def sums_query(ledger: Ledger, stand: Stand, wanted: WantedSums, after: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The statement for sums after a place, by their places, and its parameters but the limit."""
    places = wanted.places
    conditions, parameters = _conditions(ledger, stand, wanted)
    if after:
        conditions += f" AND ({', '.join(places)}) > ({', '.join(f'%(after_{name})s' for name in places)})"
        parameters |= {f"after_{name}": value for name, value in zip(places, after, strict=True)}
    told = ", ".join(f"trim_scale(sum({name}))::text" for name in AMOUNTS)
    keys = ", ".join(places)
    # Every part is written here; what is asked comes as parameters.
    return f"SELECT {keys}, {told} FROM commitments {conditions} GROUP BY {keys} ORDER BY {keys} LIMIT %(limit)s", parameters  # noqa: S608


async def sums(
    database: Database, ledger: Ledger, stand: Stand, wanted: WantedSums, after: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """Sums after a place, by their places, as members and amounts."""
    statement, parameters = sums_query(ledger, stand, wanted, after)
    rows = await database.rows(statement, parameters | {"limit": limit}, planned_anew=True)
    return [dict(zip((*wanted.places, *AMOUNTS), row, strict=True)) for row in rows]


async def count_sums(database: Database, ledger: Ledger, stand: Stand, wanted: WantedSums, limit: int) -> int:
    """How many sums there are; no more than the limit are counted."""
    conditions, parameters = _conditions(ledger, stand, wanted)
    keys = ", ".join(wanted.places)
    statement = f"SELECT count(*) FROM (SELECT FROM commitments {conditions} GROUP BY {keys} LIMIT %(limit)s) found"  # noqa: S608
    return int((await database.rows(statement, parameters | {"limit": limit}, planned_anew=True))[0][0])


def _conditions(ledger: Ledger, stand: Stand, wanted: WantedSums) -> tuple[str, dict[str, Any]]:
    names = {*wanted.by, *wanted.where}
    parameters: dict[str, Any] = {
        "ledger_id": ledger.ledger_id,
        "generation": stand.generation,
        "by_party": "party" in names,
        "by_product": "product" in names,
        "statuses": list(wanted.statuses),
    }
    more = "".join(f" AND {name} = %({name})s" for name in wanted.where)
    conditions = f"{_OF_LEDGER} AND by_party = %(by_party)s AND by_product = %(by_product)s AND status = ANY(%(statuses)s){more}"
    return conditions, parameters | wanted.where


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDays:
    """Which deadlines are wanted: of a kind, from a day, to a day."""

    first: str
    last: str | None = None
    kind: str | None = None


_DEADLINES = """
SELECT counts_on::text, contract_id::text, number, deadline FROM deadlines d
{conditions} ORDER BY d.counts_on, d.contract_id, d.number LIMIT %(limit)s
"""


def deadlines_query(ledger: Ledger, stand: Stand, wanted: WantedDays, after: tuple[str, str, int] | None) -> tuple[str, dict[str, Any]]:
    """The statement for deadlines after a place (day, contract, number), and its parameters but the limit."""
    conditions = f"{_OF_LEDGER} AND counts_on >= %(first)s::date"
    parameters: dict[str, Any] = {"ledger_id": ledger.ledger_id, "generation": stand.generation, "first": wanted.first}
    if wanted.last is not None:
        conditions += " AND counts_on <= %(last)s::date"
        parameters["last"] = wanted.last
    if wanted.kind is not None:
        conditions += " AND kind = %(kind)s"
        parameters["kind"] = wanted.kind
    if after is not None:
        conditions += " AND (counts_on, contract_id, number) > (%(day)s::date, %(contract_id)s::uuid, %(number)s)"
        parameters |= dict(zip(("day", "contract_id", "number"), after, strict=True))
    return _DEADLINES.format(conditions=conditions), parameters


async def deadlines_after(
    database: Database, ledger: Ledger, stand: Stand, wanted: WantedDays, after: tuple[str, str, int] | None, limit: int
) -> list[tuple[str, str, int, str]]:
    """Deadlines after a place, by day: (day, contract, number, the deadline as JSON)."""
    statement, parameters = deadlines_query(ledger, stand, wanted, after)
    return [(*row,) for row in await database.rows(statement, parameters | {"limit": limit}, planned_anew=True)]


async def count_deadlines(database: Database, ledger: Ledger, stand: Stand, wanted: WantedDays, limit: int) -> int:
    """How many deadlines there are; no more than the limit are counted."""
    statement, parameters = deadlines_query(ledger, stand, wanted, None)
    counted = f"SELECT count(*) FROM ({statement}) found"  # noqa: S608
    return int((await database.rows(counted, parameters | {"limit": limit}, planned_anew=True))[0][0])


PARTIES: Final = """
SELECT party_id FROM parties p {conditions} GROUP BY p.party_id ORDER BY p.party_id LIMIT %(limit)s
"""
_FORMS = f"""
SELECT party_id, form, contracts FROM parties p {_OF_LEDGER} AND party_id = ANY(%(party_ids)s) ORDER BY p.party_id, p.digest
"""  # noqa: S608
Forms = list[tuple[PartyForm, int]]


def parties_query(ledger: Ledger, stand: Stand, words: Sequence[str], after: str) -> tuple[str, dict[str, Any]]:
    """The statement for the ids of parties that one form with all these words has, after an id; and its parameters but the limit."""
    conditions = f"{_OF_LEDGER} AND party_id > %(after)s"
    parameters: dict[str, Any] = {"ledger_id": ledger.ledger_id, "generation": stand.generation, "after": after}
    if words:
        conditions += " AND words @> %(words)s::text[]"
        parameters["words"] = list(words)
    return PARTIES.format(conditions=conditions), parameters


async def parties_after(
    database: Database, ledger: Ledger, stand: Stand, words: Sequence[str], after: str, limit: int
) -> list[tuple[str, Forms]]:
    """Parties by id, each with its forms and how many contracts state each."""
    statement, parameters = parties_query(ledger, stand, words, after)
    rows = await database.rows(statement, parameters | {"limit": limit}, planned_anew=True)
    return [*await forms_of(database, ledger, stand, [row[0] for row in rows])]


async def forms_of(database: Database, ledger: Ledger, stand: Stand, party_ids: Sequence[str]) -> Iterator[tuple[str, Forms]]:
    """The forms of parties, by id."""
    parameters = {"ledger_id": ledger.ledger_id, "generation": stand.generation, "party_ids": list(party_ids)}
    rows = await database.rows(_FORMS, parameters)
    grouped = groupby(rows, key=itemgetter(0))
    return ((party_id, [(decode_form(form), count) for _, form, count in group]) for party_id, group in grouped)


async def count_parties(database: Database, ledger: Ledger, stand: Stand, words: Sequence[str], limit: int) -> int:
    """How many parties there are; no more than the limit are counted."""
    statement, parameters = parties_query(ledger, stand, words, "")
    counted = f"SELECT count(*) FROM ({statement}) found"  # noqa: S608
    return int((await database.rows(counted, parameters | {"limit": limit}, planned_anew=True))[0][0])
