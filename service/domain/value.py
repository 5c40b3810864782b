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
Rates = dict[tuple[str, str], Decimal]

_decimal = lru_cache(16_384)(Decimal)


def _low(figure: StandingFigure) -> Decimal:
    return _decimal(figure.amount or figure.low or "0")


def high_of(figure: StandingFigure) -> Decimal:
    return _decimal(figure.amount or figure.high or "0")


def value_of(facts: Facts) -> Value:
    """The value that a contract's standing figures make: best, range, currencies, support, conflicts."""
    figures = facts.value.figures
    withheld = [part for part in facts.withheld if part.path == "/value" or part.path.startswith(("/value/", "/figures"))]
    conflicts = _conflicts(facts) if len(figures) > 1 else []
    total = [figure for figure in figures if figure.scope == "total"]
    if not total:
        status = _firmness(figures) or ("withheld" if withheld else "unknown")
        return Value(status=status, figures=figures, withheld=withheld, conflicts=conflicts)
    best = _best(total)
    currencies: dict[str, list[StandingFigure]] = {best.currency: []}
    for figure in total:
        if figure.vat == best.vat or (figure.vat or "unknown") == (best.vat or "unknown"):
            currencies.setdefault(figure.currency, []).append(figure)
    same = currencies.pop(best.currency)
    ranges = [_range(best, same)]
    if currencies:
        ranges += [_range(_best(others), others) for _, others in sorted(currencies.items())]
    bounds = {figure.bound for figure in same}
    return Value(
        status=_firmness(figures) or "unknown",
        best=best,
        low=ranges[0].low,
        high=ranges[0].high,
        open_above="at_least" in bounds,
        open_below="at_most" in bounds,
        by_currency=ranges,
        support=len({_source_key(figure.source) for figure in figures if figure.currency == best.currency}),
        figures=figures,
        conflicts=conflicts,
        withheld=withheld,
    )


def _firmness(figures: Sequence[StandingFigure]) -> str | None:
    if not figures:
        return None
    return "estimated" if _FIRM.isdisjoint({figure.basis for figure in figures}) else "known"


def _best(figures: Sequence[StandingFigure]) -> StandingFigure:
    return figures[0] if len(figures) == 1 else min(figures, key=preference)


def preference(figure: StandingFigure) -> tuple[int, bool, int, int]:
    """The firmest basis comes first; among equals a root of a derivation, then the latest."""
    return _RANK[figure.basis], figure.derived_from is not None, -first_day(figure.effective_on).toordinal(), -figure.rests_on[0]


def _range(best: StandingFigure, same: Sequence[StandingFigure]) -> CurrencyRange:
    """The range of the figures in the currency of the best of them."""
    (low, _), (high, _) = _extremes(same)
    return CurrencyRange(
        currency=best.currency,
        best=Best(figure_id=best.figure_id, amount=best.amount, low=best.low, high=best.high),
        low=Extreme(amount=low.amount or low.low or "0", figure_id=low.figure_id),
        high=Extreme(amount=high.amount or high.high or "0", figure_id=high.figure_id),
    )


def _extremes(figures: Sequence[StandingFigure]) -> tuple[tuple[StandingFigure, Decimal], tuple[StandingFigure, Decimal]]:
    """The least and the greatest of figures in one currency, with what they say; among equals the first."""
    least = greatest = figures[0]
    low, high = _low(least), high_of(greatest)
    for figure in figures[1:]:
        if (below := _low(figure)) < low:
            least, low = figure, below
        if (above := below if figure.amount else high_of(figure)) > high:
            greatest, high = figure, above
    return (least, low), (greatest, high)


def _source_key(source: JsonObject) -> tuple[Any, ...]:
    """Two figures have one source when the same body says it, whenever it was published."""
    stated = source.get
    return stated("kind"), stated("name"), stated("attributed_to"), stated("via")


def _conflicts(facts: Facts) -> list[Conflict]:
    """The conflicts between figures of one scope and VAT that have no root in common, the first MAX_CONFLICTS of them."""
    kinds: dict[tuple[str, str], list[StandingFigure]] = {}
    for figure in facts.value.figures:
        kinds.setdefault((figure.scope, figure.vat or "unknown"), []).append(figure)
    apart = [kind for kind in kinds.values() if len(kind) > 1 and not _agree(kind)]
    return list(islice(_compare(facts, apart), MAX_CONFLICTS)) if apart else []


def _agree(figures: Sequence[StandingFigure]) -> bool:
    """Whether all lie within what is tolerated of any two: the common case, told without comparing each with each."""
    if len({figure.currency for figure in figures}) > 1:
        return False
    (_, low), (_, high) = _extremes(figures)
    if low >= high * (1 - _TOLERANCE):
        return True
    return low >= high * (1 - _LOOSE_TOLERANCE) and sum(not _is_loose(figure) for figure in figures) < 2


def _is_loose(figure: StandingFigure) -> bool:
    return figure.bound == "about" or figure.basis == "estimated"


def _compare(facts: Facts, kinds: Sequence[Sequence[StandingFigure]]) -> Iterator[Conflict]:
    figures = facts.value.figures
    origins = {figure.figure_id: figure.derived_from for figure in facts.replaced_figures}
    origins |= {figure.figure_id: figure.derived_from for figure in facts.withdrawn_figures}
    origins |= {f.figure_id: f.derived_from["figure_id"] if f.derived_from else None for f in figures}
    rates = _rates(figures)
    for kind in kinds:
        rooted = [(_root(figure.figure_id, origins), figure) for figure in kind]
        for (root, one), (other_root, other) in combinations(rooted, 2):
            if root != other_root and (conflict := _conflict(one, other, rates)):
                yield conflict


def _conflict(one: StandingFigure, other: StandingFigure, rates: Rates) -> Conflict | None:
    if one.currency == other.currency and (one.amount or one.low) == (other.amount or other.high):
        return None
    factor = Decimal(1) if one.currency == other.currency else rates.get((one.currency, other.currency))
    if factor is None or not (percent := _excess(one, other, factor)):
        return None
    rests_on = sorted({*one.rests_on, *other.rests_on})
    return Conflict(figures=[one.figure_id, other.figure_id], difference_percent=percent, rests_on=rests_on)


def _root(figure_id: str, origins: dict[str, str | None]) -> str:
    seen = set()
    while (origin := origins.get(figure_id)) and figure_id not in seen:
        seen.add(figure_id)
        figure_id = origin
    return figure_id


def _rates(figures: Sequence[StandingFigure]) -> Rates:
    """What one unit of a currency is in another: by a rate that a standing figure carries, else by two of which one derives from the other.

    The rate that was stated first counts, and it counts both ways.
    """
    rates: Rates = {}
    for figure in figures:
        if figure.fx:
            _add_rate(rates, figure.fx["base"], figure.fx["quote"], "1", figure.fx["rate"])
    by_id = {figure.figure_id: figure for figure in figures}
    for figure in figures:
        origin = by_id.get(figure.derived_from["figure_id"]) if figure.derived_from else None
        if origin and origin.amount and figure.amount and _is_same_kind(origin, figure):
            _add_rate(rates, origin.currency, figure.currency, origin.amount, figure.amount)
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
