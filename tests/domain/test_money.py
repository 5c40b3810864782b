"""Money: decimal text as stated, currencies of ISO 4217, and the digits that they allow."""

from decimal import Decimal

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.domain.events import EVENT_TYPES
from service.domain.figures import Figure
from service.domain.money import CurrencyCode, DecimalText, Money, minor_digits, plain
from tests.domain.histories import figure

decimal_text = TypeAdapter(DecimalText).validate_python
currency_code = TypeAdapter(CurrencyCode).validate_python
money = TypeAdapter(Money).validate_python
figure_data = TypeAdapter(Figure).validate_python
MOST = "9" * 28 + "." + "9" * 12


@pytest.mark.parametrize(
    ("currency", "digits"),
    [
        ("KRW", 0),
        ("JPY", 0),
        ("USD", 2),
        ("EUR", 2),
        ("CNY", 2),
        ("VND", 0),
        ("KWD", 3),
        ("TND", 3),
        ("CLF", 4),
        ("HRK", 2),
        ("BGN", 2),
        ("DEM", 2),
        ("ITL", 0),
    ],
)
def test_a_currency_has_its_minor_units(currency: str, digits: int) -> None:
    assert minor_digits(currency) == digits
    exact = "1" + ("." + "5" * digits if digits else "")
    assert money({"amount": exact, "currency": currency}).amount == exact
    with pytest.raises(ValidationError, match=f"{currency} has {digits} digits after the point, the amount has {digits + 1}"):
        money({"amount": "1." + "5" * (digits + 1), "currency": currency})


@pytest.mark.parametrize("code", ["", "KR", "KRWW", "krw", "ZZZ", "QQQ", "US$", "XXX", "XAU", "XFO", "DDM", "KRW\n", 410, None])
def test_what_is_no_currency_of_iso_4217_is_refused(code: object) -> None:
    with pytest.raises(ValidationError):
        currency_code(code)


def test_every_current_currency_is_known() -> None:
    codes = [currency.code for currency in iso4217.Currency if currency.exponent is not None]
    assert {"KRW", "JPY", "USD", "EUR"} < set(codes)
    assert all(currency_code(code) == code for code in codes)


@pytest.mark.parametrize("text", ["0", "1", "1000000000000", "12.50", "0.000000000001", "9" * 28, MOST])
def test_a_decimal_is_kept_as_it_was_sent(text: str) -> None:
    assert decimal_text(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "01", "00", ".5", "1.", "1e3", "1E3", "1,000", "1_000", " 1", "1 ", "1\n", "NaN", "Infinity", "0x1", "１", "١",
     "9" * 29, "1." + "1" * 13, 1, 1.5, True, None, Decimal(1)],
)  # fmt: skip
def test_what_is_no_plain_decimal_text_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        decimal_text(text)


@pytest.mark.parametrize("amount", ["1.0", "1.00", "0.0"])
def test_a_zero_after_the_point_is_a_digit_too(amount: str) -> None:
    with pytest.raises(ValidationError, match="KRW has 0 digits"):
        money({"amount": amount, "currency": "KRW"})


def test_money_has_an_amount_and_a_currency_and_nothing_else() -> None:
    for members in ({"amount": "1"}, {"currency": "KRW"}, {"amount": "1", "currency": "KRW", "note": "x"}):
        with pytest.raises(ValidationError):
            money(members)


@pytest.mark.parametrize("scope", ["total", "annual"])
def test_minor_units_bind_amounts(scope: str) -> None:
    assert figure_data(figure("f1", "1.55", "USD", scope=scope)).amount == "1.55"
    with pytest.raises(ValidationError, match="KRW has 0 digits"):
        figure_data(figure("f1", "1.55", "KRW", scope=scope))
    for member in ("low", "high"):
        with pytest.raises(ValidationError, match="KRW has 0 digits"):
            figure_data(figure("f1", None, "KRW", scope=scope, **{"low": "1", "high": "2", member: "1.5"}))


def test_minor_units_do_not_bind_a_price_by_the_unit_or_a_rate() -> None:
    rate = {"rate": "1310.954321", "base": "USD", "quote": "KRW"}
    assert figure_data(figure("f1", "0.123456", "KRW", scope="unit", fx=rate)).amount == "0.123456"
    price = {"item_id": "cells", "unit_price": "0.123456", "currency": "KRW", "per_unit": "EA"}
    signed = TypeAdapter(EVENT_TYPES["contract.signed"]).validate_python({"terms": {"prices": [price]}})
    assert signed.terms.prices[0].unit_price == "0.123456"


@given(st.decimals(min_value=0, max_value=Decimal(10) ** 27, places=12))
def test_a_number_is_written_plainly_and_reads_back(number: Decimal) -> None:
    assert "E" not in plain(number)
    assert Decimal(plain(number)) == number
