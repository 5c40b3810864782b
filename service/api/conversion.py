"""A contract's value shown in another currency, at the European Central Bank's rates: beside the state and outside its hash.

Nothing is converted in silence: the answer names the data set, its version, the rate day and both rates, and what has no rate.
"""

import asyncio
from collections.abc import Iterator
from datetime import date
from decimal import Context, Decimal
from typing import Any, Final

import orjson

from service.api.answers import ConvertedAmount, ConvertedFigure, CrossRateTold, NotConverted, RateSource, ValueConverted
from service.domain.money import plain
from service.reference_rates import DATA_SET, PACKAGE, CrossRate, ReferenceRates, convert, reference_rates

_SHOWN: Final = Context(prec=12)
"""Rates are rounded to so many digits where they are shown; amounts are converted by the unrounded ones."""
JsonObject = dict[str, Any]


async def converted(state: bytes, currency: str, asked_on: str) -> ValueConverted:
    """The value of a state in a currency, at the rates of the last rate day on or before the day asked for."""
    rates = await asyncio.to_thread(reference_rates)
    return _Conversion(rates, currency, asked_on).value(orjson.loads(state)["value"])


class _Conversion:
    """One currency, one rate day, and the rates that were used on the way."""

    def __init__(self, rates: ReferenceRates, currency: str, asked_on: str) -> None:
        self._rates = rates
        self._currency = currency
        self._asked_on = asked_on
        self._rate_on = rates.rate_day(date.fromisoformat(asked_on))
        self._used: dict[str, CrossRate] = {}

    def value(self, value: JsonObject) -> ValueConverted:
        stated = value.get("figures", [])
        shown = {figure["figure_id"]: figure for figure in self._figures(stated)}
        best: JsonObject = value.get("best", {})
        return ValueConverted(
            currency=self._currency,
            asked_on=self._asked_on,
            rate_on=self._rate_on,
            source=RateSource(
                data_set=DATA_SET,
                package=PACKAGE,
                version=self._rates.released,
                first_on=self._rates.first_on,
                last_on=self._rates.last_on,
            ),
            rates=[_told(self._used[base]) for base in sorted(self._used)],
            best=_figure(shown[best["figure_id"]]) if best.get("figure_id") in shown else None,
            low=self._extreme(value.get("low"), best),
            high=self._extreme(value.get("high"), best),
            figures=[_figure(figure) for figure in shown.values()],
            not_converted=[
                NotConverted(
                    figure_id=figure["figure_id"],
                    stated_currency=figure["currency"],
                    reason=self._rates.why_not(figure["currency"], self._currency, self._rate_on),
                )
                for figure in stated
                if figure["figure_id"] not in shown
            ],
        )

    def _figures(self, stated: list[JsonObject]) -> Iterator[JsonObject]:
        """The figures that can be shown, with their amounts in the currency."""
        for figure in stated:
            amounts = {name: self._amount(figure[name], figure["currency"]) for name in ("amount", "low", "high") if name in figure}
            if None not in amounts.values():
                yield figure | amounts

    def _extreme(self, extreme: JsonObject | None, best: JsonObject) -> ConvertedAmount | None:
        """The least or greatest standing figure, which is in best's currency."""
        amount = self._amount(extreme["amount"], best["currency"]) if extreme else None
        return ConvertedAmount(amount=amount, figure_id=extreme["figure_id"]) if extreme and amount is not None else None

    def _amount(self, amount: str, stated: str) -> str | None:
        """An amount in the currency; as it was stated where that is its own, None where there is no rate."""
        if stated == self._currency:
            return amount
        cross = self._rates.cross(stated, self._currency, self._rate_on) if self._rate_on else None
        if cross is None:
            return None
        self._used[stated] = cross
        return convert(amount, cross.exact, self._currency)


def _figure(figure: JsonObject) -> ConvertedFigure:
    return ConvertedFigure(
        figure_id=figure["figure_id"],
        stated_currency=figure["currency"],
        amount=figure.get("amount"),
        low=figure.get("low"),
        high=figure.get("high"),
    )


def _told(cross: CrossRate) -> CrossRateTold:
    exact = cross.exact
    return CrossRateTold(
        base=cross.base,
        quote=cross.quote,
        base_per_euro=cross.base_per_euro,
        quote_per_euro=cross.quote_per_euro,
        rate=_rounded(exact.numerator, exact.denominator),
        inverse=_rounded(exact.denominator, exact.numerator),
    )


def _rounded(numerator: int, denominator: int) -> str:
    return plain(_SHOWN.divide(Decimal(numerator), Decimal(denominator)))
