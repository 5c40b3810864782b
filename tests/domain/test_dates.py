"""Business dates: what they mean, when they take effect, and where a term ends."""

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.domain.dates import BusinessDate, Duration, end_of, first_day, is_coarse, last_day

business_date = TypeAdapter(BusinessDate).validate_python
duration = TypeAdapter(Duration).validate_python

years = st.integers(1000, 2999)
exact = st.dates(date(1000, 1, 1), date(2999, 12, 31)).map(date.isoformat)
months = st.builds("{:04}-{:02}".format, years, st.integers(1, 12))
quarters = st.builds("{:04}-Q{}".format, years, st.integers(1, 4))
coarse = st.one_of(years.map(str), quarters, months)
any_date = st.one_of(exact, coarse)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2023", "2023-01-01", "2023-12-31"),
        ("2023-Q1", "2023-01-01", "2023-03-31"),
        ("2023-Q2", "2023-04-01", "2023-06-30"),
        ("2023-Q3", "2023-07-01", "2023-09-30"),
        ("2023-Q4", "2023-10-01", "2023-12-31"),
        ("2023-06", "2023-06-01", "2023-06-30"),
        ("2023-12", "2023-12-01", "2023-12-31"),
        ("2023-02", "2023-02-01", "2023-02-28"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        ("1900-02", "1900-02-01", "1900-02-28"),
        ("2000-02", "2000-02-01", "2000-02-29"),
        ("2023-06-15", "2023-06-15", "2023-06-15"),
        ("2024-02-29", "2024-02-29", "2024-02-29"),
        ("1000", "1000-01-01", "1000-12-31"),
        ("2999", "2999-01-01", "2999-12-31"),
        ("2999-Q4", "2999-10-01", "2999-12-31"),
        ("2999-12", "2999-12-01", "2999-12-31"),
        ("2999-12-31", "2999-12-31", "2999-12-31"),
    ],
)
def test_a_business_date_takes_effect_on_its_first_day_and_is_settled_on_its_last(text: str, first: str, last: str) -> None:
    assert business_date(text) == text
    assert first_day(text).isoformat() == first
    assert last_day(text).isoformat() == last
    assert is_coarse(text) == (first != last)


NO_BUSINESS_DATES = [
    "", "23", "0999", "3000", "2023-", "2023-0", "2023-00", "2023-13", "2023-6", "2023-Q0", "2023-Q5", "2023-q1", "2023Q1", "2023-Q1-01",
    "2023-02-29", "2023-04-31", "2023-06-00", "2023-06-32", "2100-02-29", "2023/06/15", "20230615", "2023-W01-1", "2023-06-15T00:00",
    " 2023", "2023 ", "2023\n", "2023-06-15\n", "２０２３", "2023-06-1", "+2023", "-2023",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_BUSINESS_DATES)
def test_what_is_no_business_date_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        business_date(text)


def test_a_business_date_is_text_and_nothing_else() -> None:
    for value in (2023, date(2023, 6, 15), None, 2023.0):
        with pytest.raises(ValidationError):
            business_date(value)


@given(any_date)
def test_every_business_date_begins_before_it_ends_and_names_whole_units(text: str) -> None:
    assert business_date(text) == text
    assert first_day(text) <= last_day(text)
    assert is_coarse(text) == (first_day(text) < last_day(text))
    if is_coarse(text):
        assert first_day(text).day == 1
        assert last_day(text) == date(2999, 12, 31) or (last_day(text) + timedelta(days=1)).day == 1


@given(exact)
def test_a_day_belongs_to_the_month_quarter_and_year_it_is_in(text: str) -> None:
    day = date.fromisoformat(text)
    for unit in (text[:4], text[:7], f"{text[:4]}-Q{(day.month + 2) // 3}"):
        assert first_day(unit) <= day <= last_day(unit)


@given(years)
def test_quarters_and_months_divide_a_year_without_gap(year: int) -> None:
    for units in ([f"{year}-Q{n}" for n in range(1, 5)], [f"{year}-{n:02}" for n in range(1, 13)]):
        assert first_day(units[0]) == date(year, 1, 1)
        assert last_day(units[-1]) == date(year, 12, 31)
        assert all(last_day(one) + timedelta(days=1) == first_day(other) for one, other in pairwise(units))


# Terms


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ("2023", "P4Y", "2026"),
        ("2023-06", "P1Y", "2024-05"),
        ("2023-06-15", "P1Y", "2024-06-14"),
        ("2023", "P1Y", "2023"),
        ("2023-06", "P1M", "2023-06"),
        ("2023-06-15", "P1D", "2023-06-15"),
        ("2023-Q2", "P1Y", "2024-Q1"),
        ("2023-Q4", "P3M", "2023-Q4"),
        ("2023-Q4", "P6M", "2024-Q1"),
        ("2023-01-01", "P1Y", "2023-12-31"),
        ("2023-12-31", "P1D", "2023-12-31"),
        ("2023-06-15", "P2W", "2023-06-28"),
        ("2023-06-15", "P1Y6M", "2024-12-14"),
        ("2023-06-15", "P1Y2M3W4D", "2024-09-08"),
        ("2023", "P18M", "2024"),
        ("2023", "P10D", "2023"),
        ("2023-06", "P45D", "2023-07"),
        # A month without the day: the term ends with that month.
        ("2024-01-31", "P1M", "2024-02-29"),
        ("2023-01-31", "P1M", "2023-02-28"),
        ("2023-03-31", "P1M", "2023-04-30"),
        # Leap days
        ("2024-02-29", "P1Y", "2025-02-28"),
        ("2024-02-29", "P4Y", "2028-02-28"),
        ("2023-02-28", "P1Y", "2024-02-27"),
        ("2023-03-01", "P1Y", "2024-02-29"),
        ("2024-02", "P1Y", "2025-01"),
        ("2024-02-28", "P1D", "2024-02-28"),
        ("2024-02-28", "P2D", "2024-02-29"),
        # The end of the calendar
        ("2999", "P1Y", "2999"),
        ("2999-12", "P1M", "2999-12"),
        ("2999-12-31", "P1D", "2999-12-31"),
        ("2990-06-15", "P9Y", "2999-06-14"),
    ],
)
def test_a_term_ends_with_the_last_unit_at_the_precision_of_its_start(start: str, length: str, end: str) -> None:
    assert duration(length) == length
    assert end_of(start, length) == end


@pytest.mark.parametrize(
    ("start", "length"),
    [
        ("2023", "P0Y"),
        ("2023", "P0D"),
        ("2023-06-15", "P0M"),
        ("2023-06-15", "P0Y0M0W0D"),
        ("2999", "P2Y"),
        ("2999-12-31", "P2D"),
        ("2000", "P999Y9999M999W99999D"),
        ("2999", "P999Y9999M999W99999D"),
    ],
)
def test_what_makes_no_term_is_a_value_error(start: str, length: str) -> None:
    assert duration(length) == length
    with pytest.raises(ValueError, match="make no term"):
        end_of(start, length)


@pytest.mark.parametrize("text", ["", "P", "4Y", "P4", "P-4Y", "P4Y ", "P1.5Y", "PT4H", "P1M1Y", "p4y", "P4Y\n", "P1000Y", "P4Y4Y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        duration(text)


durations = st.tuples(st.integers(0, 30), st.integers(0, 40), st.integers(0, 60), st.integers(0, 400))


@given(any_date, durations)
def test_an_end_is_a_business_date_as_precise_as_the_start_and_not_before_it(start: str, parts: tuple[int, int, int, int]) -> None:
    text = "P" + "".join(f"{count}{unit}" for count, unit in zip(parts, "YMWD", strict=True))
    try:
        end = end_of(start, text)
    except ValueError:
        assume(any(parts))
        assert first_day(start).year + parts[0] + (parts[1] + 12) / 12 + (7 * parts[2] + parts[3] + 31) / 365 > 2999
        return
    assert any(parts)
    assert business_date(end) == end
    assert len(end) == len(start)
    assert ("Q" in end) == ("Q" in start)
    assert first_day(start) <= first_day(end)


@given(st.dates(date(1000, 1, 1), date(2990, 1, 1)), st.integers(1, 3_000))
def test_a_term_of_days_has_that_many_days(start: date, count: int) -> None:
    end = date.fromisoformat(end_of(start.isoformat(), f"P{count}D"))
    assert (end - start).days + 1 == count


@given(st.integers(1000, 2900), st.integers(1, 12), st.integers(1, 90))
def test_a_term_from_a_month_spans_that_many_months(year: int, month: int, count: int) -> None:
    end = first_day(end_of(f"{year:04}-{month:02}", f"P{count}M"))
    assert (end.year - year) * 12 + end.month - month + 1 == count


@given(st.dates(date(1000, 1, 1), date(2900, 12, 31)), st.integers(1, 50))
def test_a_term_of_years_is_a_term_of_twelve_times_as_many_months(start: date, years: int) -> None:
    assert end_of(start.isoformat(), f"P{years}Y") == end_of(start.isoformat(), f"P{12 * years}M")
