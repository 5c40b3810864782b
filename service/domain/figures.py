"""Figures: what a value is, according to whom. Stated, revised, withdrawn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from service.domain.dates import BusinessDate
from service.domain.events import STRICT, EventData, Id, Name, RecordedEvent, Source, Text, event_type, stated
from service.domain.money import CurrencyCode, DecimalText, check_minor_units, plain
from service.domain.parts import ReplacedFigure, StandingFigure, WithdrawnFigure
from service.domain.state import Contract
from service.domain.value import high_of
from service.errors import NotAllowedNow

RULES = {
    "known-figure": "A figure that is referred to was stated.",
    "unique-figure": "A figure has an id of its own.",
    "figures-limit": "So many figures stand, and so many were replaced or withdrawn, and no more.",
}
FLAGS = {
    "figures-conflict": (
        "Figures of one scope and VAT, and of no common root, differ by more than 1 % (3 % where one is `about` or estimated). In two "
        "currencies they are compared at a rate that one of them carries in `fx` or makes with the figure it derives from, else at such "
        "a rate of a figure that shares a root with one of them; never at that of an unrelated figure."
    ),
    "revises-replaced-figure": "A revision names a figure that another revision had replaced, or its source withdrawn, by then.",
    "value-halved": "A value falls by half or more.",
    "withdraws-absent-figure": "A figure is withdrawn that does not stand any more by then.",
}

Basis = Literal["contractual", "disclosed", "confirmed", "reported", "estimated", "computed"]
MAX_FIGURES = 100
MAX_REPLACED_FIGURES = 1_000


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


def _check_rate(fx: FxRate) -> FxRate:
    if not Decimal(fx.rate):
        raise PydanticCustomError("fx_rate", "a rate is above zero", {"member": "rate"})
    if fx.base == fx.quote:
        raise PydanticCustomError("fx_pair", "a rate is between two currencies", {"member": "quote"})
    return fx


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
    fx: Annotated[FxRate, AfterValidator(_check_rate)] | None = None
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


def _check_figures(figures: list[FigureData]) -> list[FigureData]:
    """Data faults among the figures of one body: an id that stands twice, a figure before the one it derives from."""
    places: dict[str, int] = {}
    for index, figure in enumerate(figures):
        if places.setdefault(figure.figure_id, index) != index:
            raise PydanticCustomError("twice", "{id} stands twice", {"id": figure.figure_id, "member": f"{index}/figure_id"})
    for index, figure in enumerate(figures):
        if figure.derived_from and places.get(figure.derived_from.figure_id, -1) > index:
            raise PydanticCustomError(
                "figure_order", "the figure it derives from stands after it", {"member": f"{index}/derived_from/figure_id"}
            )
    return figures


Figures = Annotated[list[Figure], Field(min_length=1, max_length=50), AfterValidator(_check_figures)]


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
        _check_gone(whole)

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
            sentence = f"the revision names {self.replaces}, {_gone(contract, self.replaces)} by then"
            contract.flag("revises-replaced-figure", [event.revision], sentence)
        else:
            _replace(contract, replaced, self.value.figure_id, event)
            _flag_fall(contract, replaced, self.value, event)
        add_figure(contract, self.value, event)


@event_type("figure.withdrawn")
class FigureWithdrawn(EventData):
    """A source takes a figure back; it no longer counts."""

    figure_id: Id
    reason: Text

    def check_whole(self, whole: Contract) -> None:
        check_known_figure(whole, self.figure_id)
        _check_gone(whole)

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return at.knows_figure(self.figure_id)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        figure = contract.figure(self.figure_id)
        if figure is None:
            sentence = f"{self.figure_id} is withdrawn, {_gone(contract, self.figure_id)} by then"
            contract.flag("withdraws-absent-figure", [event.revision], sentence)
            return
        contract.facts.figures.remove(figure)
        contract.facts.withdrawn_figures.append(
            WithdrawnFigure(
                figure_id=figure.figure_id,
                reason=self.reason,
                effective_on=event.effective_on,
                derived_from=figure.derived_from["figure_id"] if figure.derived_from else None,
                rests_on=[*figure.rests_on, event.revision],
            )
        )


def _gone(contract: Contract, figure_id: str) -> str:
    """In words, that a figure which is known does not stand."""
    withdrawn = any(known.figure_id == figure_id for known in contract.facts.withdrawn_figures)
    return "which was withdrawn" if withdrawn else "which another revision had replaced"


def _check_gone(whole: Contract) -> None:
    if len(whole.facts.replaced_figures) + len(whole.facts.withdrawn_figures) >= MAX_REPLACED_FIGURES:
        raise NotAllowedNow("figures-limit", f"A contract's figures are replaced or withdrawn at most {MAX_REPLACED_FIGURES} times.")


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
    if new.amount is None and new.high is None:
        return  # it is sealed
    before, after = high_of(old), Decimal(new.amount or new.high or "0")
    if before and after <= before / 2:
        sentence = f"the value fell from {plain(before)} to {plain(after)} {old.currency}, by half or more"
        contract.flag("value-halved", [event.revision], sentence)
