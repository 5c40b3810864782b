"""Reference rates: exact, of the last day that has any, and silent where there are none."""

from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.money import minor_digits
from service.reference_rates import ReferenceRates, convert, reference_rates


@pytest.fixture(scope="module")
def rates() -> ReferenceRates:
    return reference_rates()


def per_unit(rates: ReferenceRates, base: str, quote: str, day: str) -> Decimal:
    """A cross rate to two digits, as a newspaper shows it."""
    cross = rates.cross(base, quote, day)
    assert cross is not None
    return Decimal(cross.exact.numerator) / Decimal(cross.exact.denominator)


def test_an_amount_in_dollars_at_a_given_rate_is_exact_in_won() -> None:
    assert convert("4308660000", Fraction(Decimal("1379.6")), "KRW") == "5944227336000"


@pytest.mark.parametrize(
    ("amount", "rate", "currency", "converted"),
    [
        ("1", "0.5", "KRW", "0"),
        ("3", "0.5", "KRW", "2"),
        ("5", "0.5", "KRW", "2"),
        ("1", "0.005", "USD", "0.00"),
        ("1", "0.015", "USD", "0.02"),
        ("1", "0.025", "USD", "0.02"),
        ("1", "0.0250000000000000000000000001", "USD", "0.03"),
        ("1", "0.0005", "KWD", "0.000"),
        ("0", "1379.6", "KRW", "0"),
        ("9" * 28 + "." + "9" * 2, "1", "USD", "9" * 28 + ".99"),
        ("1", "1", "USD", "1.00"),
    ],
)
def test_a_result_is_rounded_half_even_to_the_minor_unit(amount: str, rate: str, currency: str, converted: str) -> None:
    assert convert(amount, Fraction(Decimal(rate)), currency) == converted


@settings(max_examples=100)
@given(
    st.decimals(min_value=0, max_value=10**28, places=2),
    st.decimals(min_value="0.0001", max_value=40_000, places=4),
    st.decimals(min_value="0.0001", max_value=40_000, places=4),
    st.sampled_from(["KRW", "USD", "KWD"]),
)
def test_a_cross_rate_is_not_rounded_before_the_result(amount: Decimal, base: Decimal, quote: Decimal, currency: str) -> None:
    # The slow way: so many digits that no rounding between can tell.
    exact = Context(prec=400)
    unrounded = exact.divide(exact.multiply(amount, quote), base)
    expected = unrounded.quantize(Decimal(1).scaleb(-minor_digits(currency)), ROUND_HALF_EVEN, exact)
    assert Decimal(convert(format(amount, "f"), Fraction(quote) / Fraction(base), currency)) == expected


def test_the_rates_of_the_case_are_those_of_its_days(rates: ReferenceRates) -> None:
    assert round(per_unit(rates, "USD", "KRW", "2022-07-05"), 2) == Decimal("1310.95")
    assert round(per_unit(rates, "USD", "KRW", "2022-07-06"), 2) == Decimal("1308.53")


def test_a_rate_is_the_text_of_the_file(rates: ReferenceRates) -> None:
    assert rates.per_euro("KRW", "2022-07-05") == "1348.97"
    assert rates.per_euro("USD", "2022-07-05") == "1.029"
    assert rates.per_euro("EUR", "2022-07-05") == "1"


@pytest.mark.parametrize(
    ("day", "rate_day"),
    [
        ("2022-07-05", "2022-07-05"),
        ("2022-07-08", "2022-07-08"),
        ("2022-07-09", "2022-07-08"),
        ("2022-07-10", "2022-07-08"),
        ("2022-04-18", "2022-04-14"),  # Good Friday to Easter Monday
        ("1999-01-04", "1999-01-04"),
        ("1999-01-03", None),
        ("0001-01-01", None),
    ],
)
def test_the_rate_day_is_the_last_on_or_before(rates: ReferenceRates, day: str, rate_day: str | None) -> None:
    assert rates.rate_day(date.fromisoformat(day)) == rate_day


def test_after_the_last_rate_the_last_holds(rates: ReferenceRates) -> None:
    assert rates.rate_day(date(9999, 12, 31)) == rates.last_on


@pytest.mark.parametrize(
    ("base", "quote", "day", "why"),
    [
        ("KRW", "USD", None, "the rates begin on 1999-01-04"),
        ("VND", "USD", "2022-07-05", "the data set has no rates of VND"),
        ("USD", "VND", "2022-07-05", "the data set has no rates of VND"),
        ("RUB", "USD", "2022-07-05", "RUB has no rate on 2022-07-05; its rates begin on 2005-04-01 and end on 2022-03-01"),
        ("USD", "HRK", "2023-01-02", "HRK has no rate on 2023-01-02; its rates begin on 2005-04-01 and end on 2022-12-30"),
        ("INR", "USD", "1999-01-04", "INR has no rate on 1999-01-04; its rates begin on 2009-01-02 and end on"),
        ("ISK", "USD", "2010-01-04", "ISK has no rate on 2010-01-04; its rates begin on 1999-01-04 and end on"),
    ],
)
def test_what_has_no_rate_is_said(rates: ReferenceRates, base: str, quote: str, day: str | None, why: str) -> None:
    assert day is None or rates.cross(base, quote, day) is None
    assert rates.why_not(base, quote, day).startswith(why)


def test_an_ended_currency_has_its_rates_until_it_ended(rates: ReferenceRates) -> None:
    assert rates.cross("RUB", "USD", "2022-03-01") is not None
    assert rates.cross("HRK", "EUR", "2022-12-30") is not None


def test_the_rates_are_read_once(rates: ReferenceRates) -> None:
    assert reference_rates() is rates
