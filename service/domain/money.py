"""Amounts, quantities and currencies: decimal text as stated, never a binary float."""

from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache
from typing import Annotated

import iso4217
from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

_DECIMAL = r"^(0|[1-9][0-9]{0,27})(\.[0-9]{1,12})?$"

DecimalText = Annotated[
    str,
    Field(
        pattern=_DECIMAL,
        min_length=1,
        max_length=41,
        title="DecimalString",
        description="A non-negative decimal number as a string, kept as sent: `1000000000000`, `12.50`.",
        examples=["1000000000000"],
    ),
]


_WITHDRAWN_WITHOUT_DIGITS = frozenset({"ADP", "BEF", "BYB", "BYR", "ESP", "GRD", "ITL", "LUF", "MGF", "PTE", "ROL", "TPE", "TRL"})
_WITHDRAWN_WITH_TWO = frozenset(
    {
        *("AFA", "ANG", "ATS", "AZM", "BGL", "BGN", "CSD", "CUC", "CYP", "DEM", "EEK", "FIM", "FRF", "GHC", "GWP", "HRK", "IEP", "LTL"),
        *("LVL", "MRO", "MTL", "MZM", "NLG", "RUR", "SDD", "SIT", "SKK", "SLL", "SRG", "STD", "TMM", "VEB", "VEF", "YUM", "ZMK", "ZWD"),
        *("ZWL", "ZWN", "ZWR"),
    }
)
"""Currencies withdrawn since the euro came (ISO 4217, list three), by their digits: contracts of their time are still told."""


@lru_cache(1024)
def minor_digits(currency: str) -> int:
    """How many digits after the point an amount in this currency has or had (ISO 4217). ValueError for no currency."""
    if currency in _WITHDRAWN_WITHOUT_DIGITS:
        return 0
    if currency in _WITHDRAWN_WITH_TWO:
        return 2
    digits = iso4217.Currency(currency).exponent
    if digits is None:
        raise ValueError(f"{currency} is a code without minor units, not money")
    return int(digits)


def _known(currency: str) -> str:
    try:
        minor_digits(currency)
    except ValueError:
        raise PydanticCustomError("unknown_currency", "no currency of ISO 4217 has the code {code}", {"code": currency}) from None
    return currency


CurrencyCode = Annotated[
    str,
    Field(
        pattern=r"^[A-Z]{3}$",
        title="CurrencyCode",
        description="An ISO 4217 alphabetic code: `KRW`, `USD`.",
        examples=["KRW"],
    ),
    AfterValidator(_known),
]


def check_minor_units(member: str, amount: str, currency: str) -> None:
    """Refuse an amount with more digits after the point than its currency has (KRW 0, USD 2)."""
    digits = len(amount.partition(".")[2])
    allowed = minor_digits(currency)
    if digits > allowed:
        raise PydanticCustomError(
            "minor_units",
            "{currency} has {allowed} digits after the point, the amount has {digits}",
            {"currency": currency, "allowed": allowed, "digits": digits, "member": member},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyData:
    """An amount of money in one currency."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    amount: DecimalText
    currency: CurrencyCode


def _check_money(money: MoneyData) -> MoneyData:
    check_minor_units("amount", money.amount, money.currency)
    return money


Money = Annotated[MoneyData, AfterValidator(_check_money)]


# Sums are exact: ten thousand amounts of 28 digits before the point and 12 after it make 44 digits.
EXACT = Context(prec=60)


def add(one: str, other: str) -> Decimal:
    """The sum of two decimals to its last digit."""
    return EXACT.add(Decimal(one), Decimal(other))


def plain(number: Decimal) -> str:
    """A decimal as plain digits, without exponent."""
    return format(number, "f")
