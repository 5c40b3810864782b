"""Terms of lists: what a contract has and what a question looks for meet exactly when they should."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.projections import filters
from service.projections.filters import near_terms, terms_of_text, words
from tests.domain.histories import CELLS, figure, reported, signed, stated, told

amounts = st.one_of(
    st.decimals(min_value=0, max_value=10**28, places=0),
    st.decimals(min_value=0, max_value=1_000, places=12),
    st.integers(-12, 27).map(lambda exponent: Decimal(10) ** exponent),
    st.integers(0, 27).map(lambda exponent: Decimal(10) ** exponent * 2 - 1),
).map(lambda amount: format(amount, "f"))


@settings(max_examples=300)
@given(amounts, amounts, amounts, amounts)
def test_ranges_that_meet_have_a_term_in_common(one: str, other: str, third: str, fourth: str) -> None:
    low, high = sorted([one, other], key=Decimal)
    value_from, value_to = sorted([third, fourth], key=Decimal)
    has = set(filters._total_terms("USD", low, high))
    if Decimal(low) <= Decimal(value_to) and Decimal(high) >= Decimal(value_from):
        assert has & set(near_terms("USD", value_from, value_to))
    if Decimal(high) >= Decimal(value_from):
        assert has & set(near_terms("USD", value_from, None))
    if Decimal(low) <= Decimal(value_to):
        assert has & set(near_terms("USD", None, value_to))
    assert not has & set(near_terms("KRW", None, None))


def test_amounts_that_lie_apart_have_no_term_in_common() -> None:
    has = set(filters._total_terms("USD", "763000000", "765000000"))
    assert has & set(near_terms("USD", "760000000", "769999999"))
    assert not has & set(near_terms("USD", "770000000", "80000000000"))
    assert not has & set(near_terms("USD", "0", "759999999"))


def test_few_terms_stand_for_any_range() -> None:
    assert len(filters._total_terms("USD", "1", "9" * 28)) == 1
    assert len(filters._total_terms("USD", "100", "130")) <= filters.MAX_NEAR + 3
    assert len(near_terms("USD", None, None)) < 100
    assert len(near_terms("USD", "0.11", "9" * 27 + "8")) < 250


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LG Energy Solution", ["lg", "energy", "solution"]),
        ("Isuzu-Motors (Elf)", ["isuzu", "motors", "elf"]),
        ("Straße ＬＧ", ["strasse", "lg"]),
        ("Türkiye İş Bankası", ["türkiye", "iş", "bankası"]),
        ("이차전지", ["이차", "차전", "전지"]),
        ("LG에너지솔루션", ["lg", "에너", "너지", "지솔", "솔루", "루션"]),
        ("円筒形電池", ["円筒", "筒形", "形電", "電池"]),
        ("ｲｽｽﾞ いすゞ", ["イス", "スズ", "いす", "すゞ"]),
        ("モーター・カー", ["モー", "ータ", "ター", "カー"]),
        ("車", ["車"]),
        ("이차", ["이차"]),
        ("!? —", []),
        ("", []),
    ],
)
def test_the_words_of_a_text(text: str, found: list[str]) -> None:
    assert list(words(text)) == found


def test_a_text_of_syllables_taken_apart_has_the_same_words() -> None:
    assert list(words("\u1100\u1161\u1102\u1161")) == list(words("가나"))


def test_the_first_words_are_kept() -> None:
    many = " ".join(f"w{number}" for number in range(300))
    assert filters._word_terms(("title", many)) == ("word=title", *(f"word=w{number}" for number in range(filters.MAX_WORDS - 1)))
    assert terms_of_text("x" * 300) == list(filters._word_terms(("x" * 300,)))


def test_the_days_stand_first_and_are_empty_where_there_are_none() -> None:
    view = told(reported(period={"start_on": "2023", "duration": "P4Y"}))
    assert filters.filters_of(view.state)[:2] == ["signed_on=", "ends_on=2026-12-31"]
    view = told(reported(), signed(signed_by="2024-01"))
    assert filters.filters_of(view.state)[:2] == ["signed_on=2024-01-01", "ends_on="]


def test_a_contract_has_its_terms() -> None:
    view = told(reported(references=[{"scheme": "DART", "id": "1"}], items=[CELLS]), stated(figure("f", "763000000", "USD")))
    terms = filters.filters_of(view.state)
    assert {
        "party=lges role=supplier", "role=buyer", "status=reported", "currency=USD", "reference=DART:1", "product=cells",
        "near=USD e8", "word=cells", "word=isuzu",
    } <= set(terms)  # fmt: skip
    assert len(terms) == len(set(terms))
