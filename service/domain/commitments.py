"""Commitments: what a contract commits to, what of it is delivered and what remains, in lines that can be added up across contracts.

Money stands by currency and basis: of each basis the best figure for the total, at one VAT. What derives from another standing figure is
the same money told again, and is left out; so is a figure whose amount is sealed. Nothing is spread: an amount has a year only where an
event states one, and the product of a contract with several items is not told for its total. Quantities stand by item, unit and year.
What is hypothetical commits nobody.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from service.domain.money import add, plain
from service.domain.parts import Item, JsonObject, StandingFigure
from service.domain.state import ContractState
from service.domain.value import is_open, preference

UNSCHEDULED: Final = "unscheduled"
STATED: Final = "stated"
"""The basis of a quantity, and of a delivered amount in a currency that no figure for the total is in."""
STANDING: Final = ("signed", "in_force", "delivering", "suspended")
"""The statuses in which a contract commits its parties, and has not ended."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An amount (with a currency) or a quantity (with a unit) of one product, year and basis. Without a product it is of several."""

    basis: str
    year: str
    product: str = ""
    currency: str = ""
    unit: str = ""
    committed_low: str = "0"
    committed_high: str = "0"
    delivered: str = "0"
    remaining_low: str = "0"
    remaining_high: str = "0"


def commitments_of(state: ContractState) -> list[Line]:
    """The lines of a contract: money, then quantities. None of what is hypothetical, or is agreed by nobody yet."""
    if state.hypothetical or state.signing is None:
        return []
    return [*_money(state), *_quantities(state)]


def _money(state: ContractState) -> Iterator[Line]:
    product = state.items[0].item_id if len(state.items) == 1 else ""
    delivered = _delivered_values(state)
    committed = _committed(state)
    for (currency, basis), (low, high) in committed.items():
        done = _sum(value["amount"] for value in delivered if value["currency"] == currency)
        left_low, left_high = (_left(state, low, done), _left(state, high, done))
        yield Line(
            basis=basis,
            year=UNSCHEDULED,
            product=product,
            currency=currency,
            committed_low=low,
            committed_high=high,
            remaining_low=left_low,
            remaining_high=left_high,
        )
        yield from _delivered_lines(delivered, currency, basis, product)
    known = {currency for currency, _ in committed}
    for currency in sorted({value["currency"] for value in delivered} - known):
        yield from _delivered_lines(delivered, currency, STATED, product)


def _committed(state: ContractState) -> dict[tuple[str, str], tuple[str, str]]:
    """By currency and basis, the least and the greatest that the best figure for the total says."""
    best = state.value.best
    if best is None:
        return {}
    figures = [figure for figure in state.value.figures if is_open(figure)]
    standing = {figure.figure_id for figure in figures}
    alike: dict[tuple[str, str], list[StandingFigure]] = {}
    for figure in figures:
        again = figure.derived_from is not None and figure.derived_from["figure_id"] in standing
        if figure.scope == "total" and not again and (figure.vat or "unknown") == (best.vat or "unknown"):
            alike.setdefault((figure.currency, figure.basis), []).append(figure)
    chosen = {key: min(figures, key=preference) for key, figures in sorted(alike.items())}
    return {key: (figure.amount or figure.low or "0", figure.amount or figure.high or "0") for key, figure in chosen.items()}


def _delivered_values(state: ContractState) -> list[JsonObject]:
    """What was delivered, in money: as recorded with the deliveries, else the total that the end of the contract states."""
    values = [msgspec.to_builtins(value) for value in state.delivery.values] if state.delivery else []
    stated = state.ending.delivered_value if state.ending else None
    if stated and all(value["currency"] != stated["currency"] for value in values):
        values.append({"amount": stated["amount"], "currency": stated["currency"], "year": UNSCHEDULED})
    return values


def _delivered_lines(delivered: Sequence[JsonObject], currency: str, basis: str, product: str) -> Iterator[Line]:
    for value in delivered:
        if value["currency"] == currency:
            item_id = value.get("item_id", product)
            yield Line(basis=basis, year=value["year"], product=item_id, currency=currency, delivered=value["amount"])


def _quantities(state: ContractState) -> Iterator[Line]:
    totals = state.delivery.totals if state.delivery else []
    done = {(total.item_id, total.unit): total.quantity for total in totals if total.quantity is not None}
    for item in state.items:
        if item.ordered is None or item.unit is None:
            continue
        delivered = done.pop((item.item_id, item.unit), "0")
        scheduled = _scheduled(state, item)
        for year, quantity in sorted(scheduled.items()):
            yield _quantity(item, year, committed_low=quantity, committed_high=quantity)
        rest = _difference(item.ordered, _sum(scheduled.values()))
        left = _left(state, item.ordered, delivered)
        yield _quantity(
            item,
            UNSCHEDULED,
            committed_low=rest,
            committed_high=rest,
            delivered=delivered,
            remaining_low=left,
            remaining_high=left,
        )
    for (item_id, unit), quantity in sorted(done.items()):
        yield Line(basis=STATED, year=UNSCHEDULED, product=item_id, unit=unit, delivered=quantity)


def _quantity(item: Item, year: str, **amounts: str) -> Line:
    return Line(basis=STATED, year=year, product=item.item_id, unit=item.unit or "", **amounts)


def _scheduled(state: ContractState, item: Item) -> dict[str, str]:
    """The least volumes that the terms promise of an item, by year; a business date lies within one."""
    years: dict[str, str] = {}
    for volume in (state.terms or {}).get("volumes", ()):
        if volume["item_id"] == item.item_id and "minimum" in volume:
            year = volume["period"][:4]
            years[year] = plain(add(years.get(year, "0"), volume["minimum"]))
    return years


def _left(state: ContractState, committed: str, delivered: str) -> str:
    """What remains: nothing after an end, and never less than nothing."""
    return "0" if state.ending else _difference(committed, delivered)


def _difference(one: str, other: str) -> str:
    return plain(max(add(one, f"-{other}"), Decimal(0)))


def _sum(amounts: Iterable[str]) -> str:
    total = "0"
    for amount in amounts:
        total = plain(add(total, amount))
    return total
