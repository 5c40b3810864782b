"""Figures: what a value is, according to whom. Stated, revised, and drawn together into the contract's value.

Nothing is averaged and nothing is converted silently: the value is the set of standing figures, the best of them by basis, the range
in each currency, and the conflicts between figures that do not derive from one another.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from itertools import combinations, islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from service.domain.dates import BusinessDate, first_day
from service.domain.events import STRICT, EventData, Id, Name, RecordedEvent, Source, Text, event_type, stated
from service.domain.money import CurrencyCode, DecimalText, check_minor_units, plain
from service.domain.state import (
    Best,
    Conflict,
    Contract,
    CurrencyRange,
    Extreme,
    Facts,
    JsonObject,
    ReplacedFigure,
    StandingFigure,
    Value,
)
from service.errors import NotAllowedNow

Basis = Literal["contractual", "disclosed", "confirmed", "reported", "estimated", "computed"]
_RANK = {"contractual": 0, "disclosed": 1, "confirmed": 2, "reported": 3, "estimated": 4, "computed": 5}
_FIRM = {"contractual", "disclosed", "confirmed"}
MAX_FIGURES = 100
MAX_REPLACED_FIGURES = 1_000
MAX_CONFLICTS = 100
_TOLERANCE = Decimal("0.01")
_LOOSE_TOLERANCE = Decimal("0.03")
Rates = dict[tuple[str, str], Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """The figure this one was derived from, and who said so."""

    __pydantic_config__ = STRICT

    figure_id: Id
    asserted_by: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FxRate:
    """A rate of exchange that the source itself used: one `base` is `rate` in `quote`."""

    __pydantic_config__ = STRICT

    rate: DecimalText
    base: CurrencyCode
    quote: CurrencyCode
    rate_on: BusinessDate | None = None
    rate_source: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureData:
    """What a value is, according to whom: one amount, or a low and a high."""

    __pydantic_config__ = STRICT

    figure_id: Id
    amount: DecimalText | None = None
    low: DecimalText | None = None
    high: DecimalText | None = None
    currency: CurrencyCode
    basis: Basis
    bound: Literal["exact", "about", "at_least", "at_most"]
    scope: Literal["total", "annual", "unit"]
    vat: Literal["excluded", "included", "unknown"] | None = None
    source: Source | None = None
    derived_from: Derivation | None = None
    fx: FxRate | None = None
    note: Text | None = None


def _check_figure(figure: FigureData) -> FigureData:
    """Data faults of a figure: neither or both of amount and range, low above high, more digits than the currency has."""
    if (figure.amount is None) == (figure.low is None and figure.high is None):
        raise PydanticCustomError("figure_amount", "a figure has either an amount, or a low and a high")
    if (figure.low is None) != (figure.high is None):
        raise PydanticCustomError("figure_range", "a range has both a low and a high")
    if figure.low is not None and figure.high is not None and Decimal(figure.low) > Decimal(figure.high):
        raise PydanticCustomError("figure_range", "low is above high", {"member": "low"})
    if figure.derived_from and figure.derived_from.figure_id == figure.figure_id:
        raise PydanticCustomError("figure_derivation", "a figure cannot derive from itself", {"member": "derived_from"})
    if figure.scope != "unit":
        for member in ("amount", "low", "high"):
            if amount := getattr(figure, member):
                check_minor_units(member, amount, figure.currency)
    return figure


Figure = Annotated[FigureData, AfterValidator(_check_figure)]
Figures = Annotated[list[Figure], Field(min_length=1, max_length=50)]


@event_type("figure.stated")
class FigureStated(EventData):
    """A source states a figure for the contract."""

    figure: Figure

    def check_whole(self, whole: Contract) -> None:
        check_new_figures(whole, [self.figure])

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return has_origin(at, self.figure)

    def figure_ids(self) -> tuple[str, ...]:
        return (self.figure.figure_id,)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        add_figure(contract, self.figure, event)


@event_type("value.revised")
class ValueRevised(EventData):
    """The value changed: a new figure replaces the one it names, from its day on."""

    replaces: Id
    value: Figure
    reason: Literal["quantity", "price_index", "fx", "option", "renegotiation", "actuals"]
    amendment_id: Id | None = None

    def check_whole(self, whole: Contract) -> None:
        check_known_figure(whole, self.replaces)
        check_new_figures(whole, [self.value], leaving=0 if whole.figure(self.replaces) is None else 1)
        if len(whole.facts.replaced_figures) >= MAX_REPLACED_FIGURES:
            raise NotAllowedNow("figures-limit", f"A contract's value is revised at most {MAX_REPLACED_FIGURES} times.")

    def allowed_after_end(self) -> bool:
        return self.reason == "actuals"

    def is_placed(self, at: Contract) -> bool:
        return at.knows_figure(self.replaces) and has_origin(at, self.value)

    def figure_ids(self) -> tuple[str, ...]:
        return (self.value.figure_id,)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        replaced = contract.figure(self.replaces)
        if replaced is None:
            # Known but replaced already: the world was told in another order, so the fold keeps both and flags it.
            sentence = f"the revision names {self.replaces}, which another revision had replaced by then"
            contract.flag("revises-replaced-figure", [event.revision], sentence)
        else:
            _replace(contract, replaced, self.value.figure_id, event)
            _flag_fall(contract, replaced, self.value, event)
        add_figure(contract, self.value, event)


def check_new_figures(whole: Contract, figures: Sequence[FigureData], leaving: int = 0) -> None:
    """Refuse a figure_id that is taken, a derivation from a figure that is not known, or too many figures beside those that leave."""
    new: set[str] = set()
    for figure in figures:
        if whole.has_heard_of_figure(figure.figure_id) or figure.figure_id in new:
            raise NotAllowedNow(
                "unique-figure", f"The contract has a figure {figure.figure_id} already; give the new one an id of its own."
            )
        if figure.derived_from and figure.derived_from.figure_id not in new:
            check_known_figure(whole, figure.derived_from.figure_id)
        new.add(figure.figure_id)
    if len(whole.facts.figures) + len(whole.facts.unplaced_figures) - leaving + len(new) > MAX_FIGURES:
        raise NotAllowedNow("figures-limit", f"A contract holds at most {MAX_FIGURES} standing figures.")


def check_known_figure(whole: Contract, figure_id: str) -> None:
    if not whole.has_heard_of_figure(figure_id):
        raise NotAllowedNow("known-figure", f"The contract has no figure {figure_id}; state it first with figure.stated.")


def has_origin(at: Contract, figure: FigureData) -> bool:
    """Whether the figure that this one derives from is there; so it is where it derives from none."""
    return figure.derived_from is None or at.knows_figure(figure.derived_from.figure_id)


def add_figure(contract: Contract, figure: FigureData, event: RecordedEvent) -> None:
    contract.facts.figures.append(
        StandingFigure(
            figure_id=figure.figure_id,
            amount=figure.amount,
            low=figure.low,
            high=figure.high,
            currency=figure.currency,
            basis=figure.basis,
            bound=figure.bound,
            scope=figure.scope,
            vat=figure.vat,
            source=event.source if figure.source is None else stated(figure.source),
            derived_from=None if figure.derived_from is None else stated(figure.derived_from),
            fx=None if figure.fx is None else stated(figure.fx),
            note=figure.note,
            effective_on=event.effective_on,
            rests_on=[event.revision],
        )
    )


def keep_apart(contract: Contract, revision: int, figure_ids: Iterable[str]) -> None:
    """An event, or figures of one, without what they refer to: kept under `unplaced`, and their ids are taken."""
    unplaced = contract.facts.unplaced
    if revision not in unplaced[-1:]:
        unplaced.append(revision)
    contract.facts.unplaced_figures.extend(figure_ids)


def _replace(contract: Contract, old: StandingFigure, replaced_by: str, event: RecordedEvent) -> None:
    contract.facts.figures.remove(old)
    contract.facts.replaced_figures.append(
        ReplacedFigure(
            figure_id=old.figure_id,
            replaced_by=replaced_by,
            derived_from=old.derived_from["figure_id"] if old.derived_from else None,
            rests_on=[*old.rests_on, event.revision],
        )
    )


def _flag_fall(contract: Contract, old: StandingFigure, new: FigureData, event: RecordedEvent) -> None:
    if (old.currency, old.scope) != (new.currency, new.scope):
        return
    before, after = _high(old), Decimal(new.amount or new.high or "0")
    if before and after <= before / 2:
        sentence = f"the value fell from {plain(before)} to {plain(after)} {old.currency}, by half or more"
        contract.flag("value-halved", [event.revision], sentence)


_decimal = lru_cache(16_384)(Decimal)


def _low(figure: StandingFigure) -> Decimal:
    return _decimal(figure.amount or figure.low or "0")


def _high(figure: StandingFigure) -> Decimal:
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
    return figures[0] if len(figures) == 1 else min(figures, key=_preference)


def _preference(figure: StandingFigure) -> tuple[int, bool, int, int]:
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
    low, high = _low(least), _high(greatest)
    for figure in figures[1:]:
        if (below := _low(figure)) < low:
            least, low = figure, below
        if (above := below if figure.amount else _high(figure)) > high:
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
    low, high = _low(one) * factor, _high(one) * factor
    gap_above = Decimal(0) if one.bound == "at_least" or other.bound == "at_most" else _low(other) - high
    gap_below = Decimal(0) if one.bound == "at_most" or other.bound == "at_least" else low - _high(other)
    gap, greater = max(gap_above, gap_below), max(high, _high(other))
    loose = _is_loose(one) or _is_loose(other)
    if not greater or gap <= greater * (_LOOSE_TOLERANCE if loose else _TOLERANCE):
        return None
    return plain((100 * gap / greater).quantize(Decimal("0.01"), ROUND_HALF_EVEN))
