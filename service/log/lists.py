"""Lists of contracts: what is wanted, and the statement that finds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.projections.filters import SORTED_DAYS, near_terms

# A list's conditions are put together for what is asked: one statement for all would have one plan for all.
_LISTED = """
FROM contracts c
WHERE c.ledger_id = %(ledger_id)s::uuid
  AND c.generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
"""
_HAS_TERMS = "AND c.filters @> %(terms)s::text[]"
_HAS_ONE_TERM = "AND c.filters && %(any_term)s::text[]"
_IS_ONE_OF = "AND c.contract_id = ANY(%(contract_ids)s::uuid[])"
# The index finds what lies near; what the state says decides.
_HAS_TOTAL = """
AND c.filters && %(near)s::text[]
AND EXISTS (
    SELECT FROM jsonb_array_elements(c.state::jsonb #> '{value,by_currency}') AS total
    WHERE total ->> 'currency' = %(total_in)s
      AND (total #>> '{low,amount}')::numeric <= %(value_to)s::numeric
      AND (total #>> '{high,amount}')::numeric >= %(value_from)s::numeric
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which contracts a list is of, and in what order: every condition that is given has to be met."""

    terms: Sequence[str] = ()
    any_term: Sequence[str] = ()
    contract_ids: Sequence[str] = ()
    total_in: str | None = None
    value_from: str | None = None
    value_to: str | None = None
    days: Sequence[tuple[str, str | None, str | None]] = ()
    """Days by their name, each from a day to a day, both included; a contract without the day is left out."""
    sort: str = "contract_id"

    @property
    def sorted_day(self) -> str | None:
        """The day that the list is sorted by; None for one in the order of ids."""
        day = self.sort.removeprefix("-")
        return day if day in SORTED_DAYS else None


def list_query(wanted: Wanted, after: tuple[str, str] | None) -> tuple[str, dict[str, Any]]:
    """The statement for a page of a list and its parameters. `after` is the day (if the list is sorted by one) and id of the last item."""
    conditions, parameters = _conditions(wanted)
    compared, direction = ("<", "DESC") if wanted.sort.startswith("-") else (">", "ASC")
    place = f"c.filters[{SORTED_DAYS[wanted.sorted_day]}]" if wanted.sorted_day else None
    if after is not None:
        parameters |= {"after_day": f"{wanted.sorted_day}={after[0]}", "after": after[1]}
        key = f"({place}, c.contract_id) {compared} (%(after_day)s, %(after)s::uuid)" if place else "c.contract_id > %(after)s::uuid"
        conditions.append(f"AND {key}")
    order = f"{place} {direction}, c.contract_id {direction}" if place else "c.contract_id"
    day = f"substr({place}, {len(wanted.sorted_day) + 2})" if place and wanted.sorted_day else "''"
    # Every part is written here; what is asked comes as parameters.
    chosen = f"SELECT c.contract_id::text, c.revision, c.state, {day} {_LISTED}"
    return f"{chosen} {' '.join(conditions)} ORDER BY {order} LIMIT %(limit)s", parameters


def count_query(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """The statement that counts a list up to a limit, and its parameters."""
    conditions, parameters = _conditions(wanted)
    return f"SELECT count(*) FROM (SELECT {_LISTED} {' '.join(conditions)} LIMIT %(limit)s) found", parameters  # noqa: S608


def _conditions(wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
    conditions: list[str] = []
    parameters: dict[str, Any] = {}
    if wanted.terms:
        conditions.append(_HAS_TERMS)
        parameters["terms"] = list(wanted.terms)
    if wanted.any_term:
        conditions.append(_HAS_ONE_TERM)
        parameters["any_term"] = list(wanted.any_term)
    if wanted.contract_ids:
        conditions.append(_IS_ONE_OF)
        parameters["contract_ids"] = list(wanted.contract_ids)
    if wanted.total_in is not None:
        conditions.append(_HAS_TOTAL)
        parameters |= {"total_in": wanted.total_in, "value_from": wanted.value_from or "0"}
        parameters |= {"value_to": wanted.value_to or "Infinity", "near": near_terms(wanted.total_in, wanted.value_from, wanted.value_to)}
    for name, first, last in wanted.days:
        place = f"c.filters[{SORTED_DAYS[name]}]"
        conditions.append(f"AND {place} BETWEEN %({name}_from)s AND %({name}_to)s")
        # Without a first day the least there is, so that a contract without the day, which has nothing there, is left out.
        parameters |= {f"{name}_from": f"{name}={first or '0001-01-01'}", f"{name}_to": f"{name}={last or '9999-12-31'}"}
    return conditions, parameters
