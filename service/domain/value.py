"""The value of a contract: its standing figures drawn together.

Nothing is averaged and nothing is converted silently: the value is the set of standing figures, the best of them by basis, the range
in each currency, and the conflicts between figures that do not derive from one another.
"""

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from itertools import combinations, islice
from typing import Any

from service.domain.dates import first_day
from service.domain.money import plain
from service.domain.parts import JsonObject, StandingFigure
from service.domain.state import Best, Conflict, CurrencyRange, Extreme, Facts, Value

_RANK = {"contractual": 0, "disclosed": 1, "confirmed": 2, "reported": 3, "estimated": 4, "computed": 5}
BASES = tuple(_RANK)
_FIRM = {"contractual", "disclosed", "confirmed"}
MAX_CONFLICTS = 100
_TOLERANCE = Decimal("0.01")
_LOOSE_TOLERANCE = Decimal("0.03")
_WITHIN, _LOOSELY_WITHIN = 1 - _TOLERANCE, 1 - _LOOSE_TOLERANCE
Rates = dict[tuple[str, str], Decimal]

_decimal = lru_cache(16_384)(Decimal)


def _low(figure: StandingFigure) -> Decimal:
    return _decimal(figure.amount or figure.low or "0")


def high_of(figure: StandingFigure) -> Decimal:
    return _decimal(figure.amount or figure.high or "0")


def is_open(figure: StandingFigure) -> bool:
    """Whether a figure says how much: one whose amount is sealed counts for nothing."""
    return bool(figure.amount or (figure.low and figure.high))


def value_of(facts: Facts) -> Value:
    """The value that a contract's standing figures make: best, range, currencies, support, conflicts.

    A figure whose amount is sealed is listed, and counts for nothing.
    """
    listed = figures = facts.value.figures
    if facts.sealed:
        figures = [figure for figure in listed if is_open(figure)]
    withheld = [part for part in facts.withheld if part.path == "/value" or part.path.startswith(("/value/", "/figures"))]
    kinds = _kinds(figures)
    conflicts = _conflicts(facts, figures, kinds) if len(figures) > 1 else []
    total = [figure for figure in figures if figure.scope == "total"]
    if not total:
        status = _firmness(figures) or ("withheld" if withheld or len(figures) < len(listed) else "unknown")
        return Value(status=status, figures=listed, withheld=withheld, conflicts=conflicts)
    best = _best(total)
    currencies = kinds["total", best.vat or "unknown"]
    same = currencies[best.currency]
    ranges = [_range(best, same)]
    if len(currencies) > 1:
        others = sorted(currency for currency in currencies if currency != best.currency)
        ranges += [_range(_best(currencies[currency].figures), currencies[currency]) for currency in others]
    bounds = {figure.bound for figure in same.figures}
    return Value(
        status=_firmness(figures) or "unknown",
        best=best,
        low=ranges[0].low,
        high=ranges[0].high,
        open_above="at_least" in bounds,
        open_below="at_most" in bounds,
        by_currency=ranges,
        support=len({_source_key(figure.source) for figure in figures if figure.currency == best.currency}),
        figures=listed,
        conflicts=conflicts,
        withheld=withheld,
    )


class _Alike:
    """Figures of one scope, VAT and currency, with the least and the greatest of them; among equals the first."""

    __slots__ = ("figures", "greatest", "high", "least", "low")

    def __init__(self, first: StandingFigure) -> None:
        self.figures = [first]
        self.least = self.greatest = first
        self.low, self.high = _low(first), high_of(first)

    def add(self, figure: StandingFigure) -> None:
        self.figures.append(figure)
        low = _low(figure)
        high = low if figure.amount else high_of(figure)
        if low < self.low:
            self.least, self.low = figure, low
        if high > self.high:
            self.greatest, self.high = figure, high


_Kinds = dict[tuple[str, str], dict[str, _Alike]]


def _kinds(figures: Sequence[StandingFigure]) -> _Kinds:
    """The figures by scope and VAT, and within these by currency."""
    kinds: _Kinds = {}
    for figure in figures:
        kind = kinds.setdefault((figure.scope, figure.vat or "unknown"), {})
        if alike := kind.get(figure.currency):
            alike.add(figure)
        else:
            kind[figure.currency] = _Alike(figure)
    return kinds


def _firmness(figures: Sequence[StandingFigure]) -> str | None:
    if not figures:
        return None
    return "estimated" if _FIRM.isdisjoint({figure.basis for figure in figures}) else "known"


def _best(figures: Sequence[StandingFigure]) -> StandingFigure:
    return figures[0] if len(figures) == 1 else min(figures, key=preference)


def preference(figure: StandingFigure) -> tuple[int, bool, int, int]:
    """The firmest basis comes first; among equals a root of a derivation, then the latest."""
    return _RANK[figure.basis], figure.derived_from is not None, -first_day(figure.effective_on).toordinal(), -figure.rests_on[0]


def _range(best: StandingFigure, alike: _Alike) -> CurrencyRange:
    """The range of the figures in the currency of the best of them."""
    low, high = alike.least, alike.greatest
    return CurrencyRange(
        currency=best.currency,
        best=Best(figure_id=best.figure_id, amount=best.amount, low=best.low, high=best.high),
        low=Extreme(amount=low.amount or low.low or "0", figure_id=low.figure_id),
        high=Extreme(amount=high.amount or high.high or "0", figure_id=high.figure_id),
    )


def _source_key(source: JsonObject) -> tuple[Any, ...]:
    """Two figures have one source when the same body says it, whenever it was published."""
    stated = source.get
    return stated("kind"), stated("name"), stated("attributed_to"), stated("via")


def _conflicts(facts: Facts, figures: Sequence[StandingFigure], kinds: _Kinds) -> list[Conflict]:
    """The conflicts between figures of one scope and VAT that have no root in common, the first MAX_CONFLICTS of them."""
    apart = [kind for kind in kinds if not _agree([*kinds[kind].values()])]
    if not apart:
        return []
    return list(islice(_compare(facts, [[f for f in figures if (f.scope, f.vat or "unknown") == kind] for kind in apart]), MAX_CONFLICTS))


def _agree(currencies: Sequence[_Alike]) -> bool:
    """Whether all figures of a kind lie within what is tolerated of any two: the common case, told without comparing each with each."""
    alike = currencies[0]
    if len(currencies) > 1:
        return False
    if len(alike.figures) == 1 or alike.low >= alike.high * _WITHIN:
        return True
    return alike.low >= alike.high * _LOOSELY_WITHIN and sum(not _is_loose(figure) for figure in alike.figures) < 2


def _is_loose(figure: StandingFigure) -> bool:
    return figure.bound == "about" or figure.basis == "estimated"


def _compare(facts: Facts, kinds: Sequence[Sequence[StandingFigure]]) -> Iterator[Conflict]:
    figures = facts.value.figures
    origins = {figure.figure_id: figure.derived_from for figure in facts.replaced_figures}
    origins |= {figure.figure_id: figure.derived_from for figure in facts.withdrawn_figures}
    origins |= {f.figure_id: f.derived_from["figure_id"] if f.derived_from else None for f in figures}
    own = _rates(figures)
    families: dict[str, Rates] = {}
    for figure in figures:
        root = _root(figure.figure_id, origins)
        families[root] = own[figure.figure_id] | families.get(root, {})  # what was stated first counts
    for kind in kinds:
        rooted = [(_root(figure.figure_id, origins), figure) for figure in kind]
        for (root, one), (other_root, other) in combinations(rooted, 2):
            if root == other_root:
                continue
            rates = own[one.figure_id], own[other.figure_id], families[root], families[other_root]
            if conflict := _conflict(one, other, rates):
                yield conflict


def _conflict(one: StandingFigure, other: StandingFigure, rates: Sequence[Rates]) -> Conflict | None:
    if one.currency == other.currency and (one.amount or one.low) == (other.amount or other.high):
        return None
    factor = Decimal(1) if one.currency == other.currency else _factor((one.currency, other.currency), rates)
    if factor is None or not (percent := _excess(one, other, factor)):
        return None
    rests_on = sorted({*one.rests_on, *other.rests_on})
    return Conflict(figures=[one.figure_id, other.figure_id], difference_percent=percent, rests_on=rests_on)


def _factor(pair: tuple[str, str], rates: Sequence[Rates]) -> Decimal | None:
    """What two figures are compared at: a rate that one of them carries, else one of a figure that shares a root with one of them.

    A rate that any other figure carries says nothing of these two.
    """
    return next((known[pair] for known in rates if pair in known), None)


def _root(figure_id: str, origins: dict[str, str | None]) -> str:
    seen = set()
    while (origin := origins.get(figure_id)) and figure_id not in seen:
        seen.add(figure_id)
        figure_id = origin
    return figure_id


def _rates(figures: Sequence[StandingFigure]) -> dict[str, Rates]:
    """What one unit of a currency is in another, by figure: by the rate that it carries, else by what it and its origin say.

    A rate counts both ways.
    """
    rates: dict[str, Rates] = {figure.figure_id: {} for figure in figures}
    by_id = {figure.figure_id: figure for figure in figures}
    for figure in figures:
        own = rates[figure.figure_id]
        if figure.fx:
            _add_rate(own, figure.fx["base"], figure.fx["quote"], "1", figure.fx["rate"])
        origin = by_id.get(figure.derived_from["figure_id"]) if figure.derived_from else None
        if origin and origin.amount and figure.amount and _is_same_kind(origin, figure):
            _add_rate(own, origin.currency, figure.currency, origin.amount, figure.amount)
    return rates


def _is_same_kind(one: StandingFigure, other: StandingFigure) -> bool:
    """Whether two figures say the same thing, so that only their currencies set them apart."""
    return (one.scope, one.vat or "unknown") == (other.scope, other.vat or "unknown")


def _add_rate(rates: Rates, base: str, quote: str, one: str, other: str) -> None:
    """An amount `one` of the base is `other` of the quote."""
    before, after = _decimal(one), _decimal(other)
    if before and after and base != quote and (base, quote) not in rates:
        rates[base, quote], rates[quote, base] = after / before, before / after


def _excess(one: StandingFigure, other: StandingFigure, factor: Decimal) -> str | None:
    """By how many percent of the greater two figures differ, where that is more than is tolerated."""
    low, high = _low(one) * factor, high_of(one) * factor
    gap_above = Decimal(0) if one.bound == "at_least" or other.bound == "at_most" else _low(other) - high
    gap_below = Decimal(0) if one.bound == "at_most" or other.bound == "at_least" else low - high_of(other)
    gap, greater = max(gap_above, gap_below), max(high, high_of(other))
    loose = _is_loose(one) or _is_loose(other)
    if not greater or gap <= greater * (_LOOSE_TOLERANCE if loose else _TOLERANCE):
        return None
    return plain((100 * gap / greater).quantize(Decimal("0.01"), ROUND_HALF_EVEN))
