"""Business dates: days as contracts and newspapers state them, sometimes only a year, a quarter or a month.

A business date is kept as the text that was stated (`2023`, `2023-Q2`, `2023-06`, `2023-06-15`). It takes effect on its
first day; until its last day has passed it is unsettled. Durations are ISO 8601 (`P4Y`, `P18M`, `P6W`, `P90D`).
"""

import re
from datetime import date, timedelta
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

_BUSINESS_DATE = r"^[12][0-9]{3}(-Q[1-4]|-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?$"
_DURATION = r"^P([0-9]{1,3}Y)?([0-9]{1,4}M)?([0-9]{1,4}W)?([0-9]{1,5}D)?$"
_DURATION_PARTS = re.compile(r"(\d+)([YMWD])")
_CACHE_SIZE = 16_384


def _exists(text: str) -> str:
    try:
        first_day(text)
    except ValueError:
        raise PydanticCustomError("no_such_day", "there is no such day in the calendar") from None
    return text


BusinessDate = Annotated[
    str,
    Field(
        pattern=_BUSINESS_DATE,
        min_length=4,
        max_length=10,
        title="BusinessDate",
        description="A year, quarter, month or day from 1000 to 2999: `2023`, `2023-Q2`, `2023-06`, `2023-06-15`.",
        examples=["2023-06"],
    ),
    AfterValidator(_exists),
]
Duration = Annotated[
    str,
    Field(
        pattern=_DURATION,
        min_length=3,
        max_length=20,
        title="Duration",
        description="An ISO 8601 duration in years, months, weeks and days, such as `P4Y`.",
        examples=["P4Y"],
    ),
]


@lru_cache(_CACHE_SIZE)
def first_day(text: str) -> date:
    """The day on which a business date takes effect. ValueError when there is no such day."""
    if len(text) == 10:
        return date.fromisoformat(text)
    year = int(text[:4])
    if len(text) == 4:
        return date(year, 1, 1)
    if text[5] == "Q":
        return date(year, 3 * int(text[6]) - 2, 1)
    return date(year, int(text[5:7]), 1)


@lru_cache(_CACHE_SIZE)
def last_day(text: str) -> date:
    """The last day that a business date may mean."""
    first = first_day(text)
    months = {4: 12, 7: 3 if "Q" in text else 1}.get(len(text))
    return first if months is None else _add_months(first, months) - timedelta(days=1)


def on(text: str) -> str:
    """A business date within a sentence: `on 2023-06-15`, `in 2023-06`."""
    return f"{'in' if is_coarse(text) else 'on'} {text}"


def is_coarse(text: str) -> bool:
    """Whether a business date names more than one day."""
    return len(text) < 10


@lru_cache(_CACHE_SIZE)
def end_of(start: str, duration: str) -> str:
    """The last unit, at the start's precision, of a term: 2023 + P4Y = 2026; 2023-06-15 + P1Y = 2024-06-14.

    ValueError when the term is empty or ends after the year 2999.
    """
    parts = {unit: int(count) for count, unit in _DURATION_PARTS.findall(duration)}
    day = _add_months(first_day(start), 12 * parts.get("Y", 0) + parts.get("M", 0))
    day += timedelta(days=7 * parts.get("W", 0) + parts.get("D", 0) - 1)
    if day < first_day(start) or day.year > 2999:
        raise ValueError(f"{start} and {duration} make no term")
    return _at_precision(day, start)


def _add_months(day: date, months: int) -> date:
    """A day `months` later; where that month has no such day, the first of the month after it."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    try:
        return day.replace(year=year, month=month + 1)
    except ValueError:
        return _add_months(date(year, month + 1, 1), 1)


def _at_precision(day: date, like: str) -> str:
    if len(like) == 7 and "Q" in like:
        return f"{day.year:04d}-Q{(day.month + 2) // 3}"
    return day.isoformat()[: len(like)]
