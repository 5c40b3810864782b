"""The value of a contract: the best figure, the range, the currencies, the conflicts; never an average."""

from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.domain.figures import Figure
from service.domain.state import Extreme, Value
from tests.domain.histories import (
    CELLS,
    Sent,
    delivered,
    figure,
    histories,
    reported,
    revised,
    sent,
    signed,
    stated,
    told,
)

BASES = ["contractual", "disclosed", "confirmed", "reported", "estimated", "computed"]
FX = {"rate": "1300", "base": "USD", "quote": "KRW"}


def value(*figures: Sent) -> Value:
    """The value that figures make, each stated by an event of its own on the same day."""
    return told(reported(), *(stated(one) for one in figures)).state.value


def best(*figures: Sent) -> str | None:
    found = value(*figures).best
    return found.figure_id if found else None


def conflicts(*figures: Sent) -> list[tuple[list[str], str]]:
    return [(conflict.figures, conflict.difference_percent) for conflict in value(*figures).conflicts]


# What a figure may be


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"amount": None}, "a figure has either an amount, or a low and a high"),
        ({"low": "1", "high": "2"}, "a figure has either an amount, or a low and a high"),
        ({"low": "1"}, "a figure has either an amount, or a low and a high"),
        ({"amount": None, "low": "1"}, "a range has both a low and a high"),
        ({"amount": None, "high": "1"}, "a range has both a low and a high"),
        ({"amount": None, "low": "2", "high": "1"}, "low is above high"),
        ({"amount": None, "low": "10", "high": "9"}, "low is above high"),
        ({"derived_from": {"figure_id": "f1"}}, "a figure cannot derive from itself"),
        ({"basis": "guessed"}, "Input should be"),
        ({"bound": "roughly"}, "Input should be"),
        ({"scope": "monthly"}, "Input should be"),
        ({"vat": "perhaps"}, "Input should be"),
        ({"currency": "ZZZ"}, "no currency of ISO 4217"),
        ({"amount": "1.5"}, "KRW has 0 digits"),
        ({"amount": 1}, "valid string"),
        ({"note": ""}, "at least 1 character"),
        ({"unknown": "x"}, "nexpected"),
    ],
)
def test_a_figure_with_a_fault_is_refused(members: Sent, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TypeAdapter(Figure).validate_python(figure("f1", **members))


def test_a_range_may_be_a_point() -> None:
    point = value(figure("f1", None, low="5", high="5"))
    assert (point.low, point.high) == (Extreme(amount="5", figure_id="f1"), Extreme(amount="5", figure_id="f1"))


# The best


@pytest.mark.parametrize(("firmer", "softer"), [(BASES[i], BASES[j]) for i in range(6) for j in range(i + 1, 6)])
def test_the_firmest_basis_is_best_whatever_came_last(firmer: str, softer: str) -> None:
    one, other = figure("firm", basis=firmer), figure("soft", basis=softer)
    assert best(one, other) == best(other, one) == "firm"


def test_among_equals_the_root_of_a_derivation_is_best_though_the_derived_came_later() -> None:
    assert best(figure("root"), figure("derived", derived_from={"figure_id": "root"})) == "root"
    assert best(figure("root"), figure("other"), figure("derived", derived_from={"figure_id": "root"})) == "other"


def test_a_firmer_derived_figure_goes_before_its_root() -> None:
    assert best(figure("root"), figure("derived", basis="confirmed", derived_from={"figure_id": "root"})) == "derived"


def test_among_roots_the_latest_effect_is_best_then_the_latest_recorded() -> None:
    early, late = stated(figure("early"), "2024-02-01"), stated(figure("late"), "2024-02-02")
    for events in ([early, late], [late, early]):
        assert told(reported(), *events).state.value.best.figure_id == "late"  # type: ignore[union-attr]
    assert best(figure("first"), figure("second")) == "second"


def test_a_coarse_effect_counts_from_its_first_day() -> None:
    events = [stated(figure("day"), "2024-02-02"), stated(figure("month"), "2024-02")]
    assert told(reported(), *events).state.value.best.figure_id == "day"  # type: ignore[union-attr]


@pytest.mark.parametrize("scope", ["annual", "unit"])
def test_only_the_scope_total_makes_best_low_and_high(scope: str) -> None:
    whole = value(figure("total", "1000"), figure("other", "7", scope=scope, basis="contractual"))
    assert whole.best
    assert (whole.best.figure_id, whole.low, whole.high) == ("total", *[Extreme(amount="1000", figure_id="total")] * 2)
    alone = value(figure("other", "7", scope=scope))
    assert (alone.best, alone.low, alone.high, alone.by_currency, alone.support) == (None, None, None, [], 0)
    assert alone.status == "estimated"


def test_one_vat_is_compared_and_it_is_that_of_the_best() -> None:
    found = value(
        figure("net", "1000", vat="excluded", basis="confirmed"),
        figure("gross", "1100", vat="included"),
        figure("net-2", "990", vat="excluded"),
    )
    assert (found.low, found.high) == (Extreme(amount="990", figure_id="net-2"), Extreme(amount="1000", figure_id="net"))
    assert found.conflicts == []


def test_an_unstated_vat_is_an_unknown_one() -> None:
    found = value(figure("f1", "1000"), figure("f2", "1002", vat="unknown"))
    assert (found.low, found.high) == (Extreme(amount="1000", figure_id="f1"), Extreme(amount="1002", figure_id="f2"))


# The range


def test_low_and_high_are_the_least_and_the_greatest_standing_figures_in_the_best_currency() -> None:
    found = value(
        figure("a", "1000", basis="disclosed"),
        figure("b", "900"),
        figure("c", None, low="950", high="1200"),
        figure("usd", "1.00", "USD"),
    )
    assert (found.low, found.high) == (Extreme(amount="900", figure_id="b"), Extreme(amount="1200", figure_id="c"))


def test_amounts_are_compared_as_numbers_and_shown_as_stated() -> None:
    found = value(figure("a", "9.50", "USD"), figure("b", "10.5", "USD"), figure("c", "100.00", "USD"))
    assert (found.low, found.high) == (Extreme(amount="9.50", figure_id="a"), Extreme(amount="100.00", figure_id="c"))


def test_about_does_not_widen_and_a_bound_opens_its_side() -> None:
    for bound, above, below in [("exact", False, False), ("about", False, False), ("at_least", True, False), ("at_most", False, True)]:
        found = value(figure("a", "1000", bound=bound))
        assert (found.open_above, found.open_below) == (above, below)
        assert (found.low, found.high) == (Extreme(amount="1000", figure_id="a"),) * 2


def test_a_bound_in_another_currency_or_scope_opens_nothing() -> None:
    others = [figure("usd", "1.00", "USD", bound="at_least"), figure("annual", "5", scope="annual", bound="at_least")]
    found = value(figure("a", "1000", basis="disclosed"), *others, figure("vat", "9", vat="included", bound="at_most"))
    assert (found.open_above, found.open_below) == (False, False)


def test_each_currency_has_its_best_low_and_high_the_best_currency_first() -> None:
    found = value(
        figure("krw", "1000", basis="disclosed"),
        figure("usd-1", "3.00", "USD"),
        figure("usd-2", "2.00", "USD", basis="estimated"),
        figure("eur", "1.00", "EUR"),
        figure("aud", "1.00", "AUD", scope="annual"),
    )
    told = [(one.currency, one.best.figure_id, one.low.amount, one.high.amount) for one in found.by_currency]
    assert told == [("KRW", "krw", "1000", "1000"), ("EUR", "eur", "1.00", "1.00"), ("USD", "usd-1", "2.00", "3.00")]


def test_support_counts_the_distinct_sources_of_figures_in_the_best_currency() -> None:
    reuters: dict[str, Any] = {"name": "Reuters"}
    events = [
        stated(figure("a"), published_on="2024-01-01", **reuters),
        stated(figure("b"), published_on="2024-02-02", url="https://example.com/b", **reuters),
        stated(figure("c"), name="Nikkei"),
        stated(figure("usd", "1.00", "USD"), name="Yonhap"),
        stated(figure("d"), name="Nikkei", attributed_to="Isuzu"),
    ]
    assert told(reported(), *events).state.value.support == 3


def test_a_figure_stands_on_its_own_source_where_it_names_one() -> None:
    own = {"kind": "party", "name": "Isuzu"}
    stands = told(reported(), stated(figure("a", source=own), name="Reuters"), stated(figure("b"), name="Reuters")).state
    assert [one.source for one in stands.figures] == [own, {"kind": "news", "name": "Reuters"}]
    assert stands.value.support == 2


# The status


@pytest.mark.parametrize("basis", BASES)
def test_a_firm_basis_makes_a_known_value_and_any_other_an_estimated_one(basis: str) -> None:
    assert value(figure("f1", basis=basis)).status == ("known" if basis in ("contractual", "disclosed", "confirmed") else "estimated")


def test_withheld_unknown_and_zero_are_three_values() -> None:
    assert value().status == "unknown"
    kept = told(reported(), signed(withheld=[{"path": "/value", "reason": "not in the filing"}])).state.value
    assert (kept.status, kept.best, [part.path for part in kept.withheld]) == ("withheld", None, ["/value"])
    zero = value(figure("nothing", "0", basis="contractual"))
    assert (zero.status, zero.low, zero.high) == ("known", *[Extreme(amount="0", figure_id="nothing")] * 2)
    assert zero.best
    assert zero.best.amount == "0"
    span = value(figure("span", None, low="0", high="0"))
    assert (span.status, span.low) == ("estimated", Extreme(amount="0", figure_id="span"))


def test_a_figure_stands_beside_what_is_withheld() -> None:
    withheld = [{"path": "/value", "reason": "not in the filing"}]
    state = told(reported(), stated(figure("f1")), signed(withheld=withheld)).state
    assert (state.value.status, state.marks) == ("estimated", ["withheld"])
    assert [part.path for part in state.value.withheld] == ["/value"]


def test_a_quantity_is_known_estimated_withheld_or_unknown_and_zero_is_known() -> None:
    unstated = {"item_id": "cells", "description": "cells"}
    kept = [{"path": "/quantity", "reason": "not in the filing"}]
    cases = {
        "unknown": [reported(items=[unstated])],
        "withheld": [reported(items=[unstated]), signed(withheld=kept)],
        "estimated": [reported(items=[CELLS]), signed(withheld=kept)],
        "known": [reported(), signed(items=[{**CELLS, "quantity": "0"}])],
    }
    assert {status: told(*events).state.quantity.status for status, events in cases.items()} == {status: status for status in cases}


# Revisions


def test_a_revision_replaces_the_figure_it_names_from_its_day_on() -> None:
    events = [reported(), stated(figure("old", "1000")), revised("old", figure("new", "1100"), "2024-03-01")]
    before, after = told(*events, day="2024-02-29").state, told(*events, day="2024-03-01").state
    assert ([one.figure_id for one in before.figures], before.replaced_figures) == (["old"], [])
    assert [one.figure_id for one in after.figures] == ["new"]
    assert [(one.figure_id, one.replaced_by, one.rests_on) for one in after.replaced_figures] == [("old", "new", [2, 3])]
    assert after.value.low == Extreme(amount="1100", figure_id="new")


def test_a_revision_leaves_other_figures_as_they_are() -> None:
    state = told(reported(), stated(figure("a")), stated(figure("b")), revised("a", figure("c"))).state
    assert [one.figure_id for one in state.figures] == ["b", "c"]


def test_a_revision_may_be_softer_than_what_it_replaces() -> None:
    events = [reported(), stated(figure("old", basis="disclosed")), revised("old", figure("new", "1100", basis="estimated"))]
    assert told(*events).state.value.status == "estimated"


def test_a_revision_whose_figure_is_not_there_is_kept_unplaced() -> None:
    events = [
        {**reported(), "source": {"kind": "news", "published_on": "2022-07-06"}},
        stated(figure("old"), published_on="2024-06-01"),
        {**revised("old", figure("new")), "source": {"kind": "news", "published_on": "2024-05-01"}},
    ]
    state = told(*events, published_by="2024-05-31").state
    assert (state.unplaced, state.figures) == ([3], [])
    assert told(*events, published_by="2024-06-01").state.unplaced == []


# Conflicts


@pytest.mark.parametrize(
    ("one", "other", "percent"),
    [
        ("990", "1000", None),
        ("989", "1000", "1.10"),
        ("1000", "989", "1.10"),
        ("1000", "1000", None),
        ("0", "0", None),
        ("0", "1", "100.00"),
        ("1", "1000000000000", "100.00"),
        ("99000", "100000", None),
        ("98999", "100000", "1.00"),
    ],
)
def test_exact_figures_conflict_when_they_differ_by_more_than_one_percent_of_the_greater(one: str, other: str, percent: str | None) -> None:
    assert conflicts(figure("a", one), figure("b", other)) == ([(["a", "b"], percent)] if percent else [])


@pytest.mark.parametrize("loose", [{"bound": "about"}, {"basis": "estimated"}])
@pytest.mark.parametrize(("one", "percent"), [("970", None), ("969", "3.10"), ("980", None)])
def test_where_one_is_about_or_estimated_three_percent_are_tolerated(loose: Sent, one: str, percent: str | None) -> None:
    expected = [(["a", "b"], percent)] if percent else []
    assert conflicts(figure("a", one, **loose), figure("b", "1000")) == expected
    assert conflicts(figure("a", one), figure("b", "1000", **loose)) == expected


@pytest.mark.parametrize("bound", ["at_least", "at_most"])
def test_a_bound_conflicts_only_with_what_it_excludes(bound: str) -> None:
    within, beyond = ("2000", "500") if bound == "at_least" else ("500", "2000")
    assert conflicts(figure("a", "1000", bound=bound), figure("b", within)) == []
    assert conflicts(figure("b", within), figure("a", "1000", bound=bound)) == []
    percent = "50.00"
    assert conflicts(figure("a", "1000", bound=bound), figure("b", beyond)) == [(["a", "b"], percent)]
    assert conflicts(figure("b", beyond), figure("a", "1000", bound=bound)) == [(["b", "a"], percent)]


def test_two_open_bounds_conflict_only_when_nothing_lies_between() -> None:
    assert conflicts(figure("a", "1000", bound="at_least"), figure("b", "2000", bound="at_least")) == []
    assert conflicts(figure("a", "1000", bound="at_least"), figure("b", "2000", bound="at_most")) == []
    assert conflicts(figure("a", "2000", bound="at_least"), figure("b", "1000", bound="at_most")) == [(["a", "b"], "50.00")]


def test_ranges_conflict_when_a_gap_is_between_them() -> None:
    span = figure("a", None, low="900", high="1000")
    assert conflicts(span, figure("b", "950")) == []
    assert conflicts(span, figure("b", "1000")) == []
    assert conflicts(span, figure("b", "1010")) == []
    assert conflicts(span, figure("b", "1100")) == [(["a", "b"], "9.09")]
    assert conflicts(span, figure("b", None, low="990", high="2000")) == []
    assert conflicts(span, figure("b", None, low="100", high="500")) == [(["a", "b"], "40.00")]


def test_figures_of_one_root_do_not_conflict() -> None:
    first, second = {"figure_id": "root"}, {"figure_id": "child"}
    family = [figure("root", "1000"), figure("child", "1500", derived_from=first), figure("grandchild", "2000", derived_from=second)]
    assert conflicts(*family) == []
    assert conflicts(*family, figure("other", "1000")) == [(["child", "other"], "33.33"), (["grandchild", "other"], "50.00")]


def test_figures_of_one_root_do_not_conflict_when_the_root_was_replaced() -> None:
    children = [stated(figure(name, amount, derived_from={"figure_id": "root"})) for name, amount in (("a", "1000"), ("b", "1500"))]
    events = [reported(), stated(figure("root")), *children, revised("root", figure("new", "1000"))]
    assert [conflict.figures for conflict in told(*events).state.value.conflicts] == [["b", "new"]]


def test_figures_of_different_scope_or_vat_do_not_conflict() -> None:
    assert conflicts(figure("a", "1000"), figure("b", "2000", scope="annual")) == []
    assert conflicts(figure("a", "1000", vat="included"), figure("b", "2000", vat="excluded")) == []
    assert conflicts(figure("a", "1000", scope="annual"), figure("b", "2000", scope="annual")) == [(["a", "b"], "50.00")]


def test_currencies_are_compared_only_at_a_rate_that_the_log_carries() -> None:
    krw, usd = figure("krw", "1300000"), figure("usd", "500.00", "USD")
    assert conflicts(krw, usd) == []
    assert conflicts(krw, {**usd, "fx": FX}) == [(["krw", "usd"], "50.00")]
    assert conflicts({**usd, "fx": FX}, krw) == [(["usd", "krw"], "50.00")]
    assert conflicts({**krw, "fx": FX}, usd) == [(["krw", "usd"], "50.00")]
    assert conflicts(krw, {**usd, "amount": "1000.00", "fx": FX}) == []
    inverse = {"rate": "0.001", "base": "KRW", "quote": "USD"}
    assert conflicts(krw, {**usd, "fx": inverse}) == [(["krw", "usd"], "61.54")]


DERIVED = figure("usd-1", "1000.00", "USD", derived_from={"figure_id": "krw-1"})


def test_a_figure_and_the_one_it_derives_from_make_a_rate() -> None:
    family = [figure("krw-1", "1300000"), DERIVED]
    assert conflicts(*family, figure("krw-2", "1313000")) == []
    assert conflicts(*family, figure("usd-2", "500.00", "USD")) == [(["krw-1", "usd-2"], "50.00"), (["usd-1", "usd-2"], "50.00")]
    assert conflicts(*family, figure("krw-2", "2600000")) == [(["krw-1", "krw-2"], "50.00"), (["usd-1", "krw-2"], "50.00")]
    assert conflicts(*family, figure("eur", "1.00", "EUR")) == []


OTHER = {"rate": "1000", "base": "USD", "quote": "KRW"}


def test_a_rate_that_a_figure_carries_goes_before_one_of_its_derivation() -> None:
    family = [figure("krw-1", "1300000"), {**DERIVED, "fx": OTHER}]
    assert conflicts(*family, figure("krw-2", "1300000")) == [(["usd-1", "krw-2"], "23.08")]


def test_a_rate_that_a_figure_carries_goes_before_one_of_the_others_family() -> None:
    family = [figure("krw-1", "1300000"), DERIVED]
    found = conflicts(*family, figure("usd-2", "1300.00", "USD", fx=OTHER))
    assert found == [(["usd-1", "usd-2"], "23.08")]


def test_a_figure_is_converted_by_its_own_derivation_though_another_of_its_root_says_otherwise() -> None:
    """As the case has it: two newspapers convert one figure in won at rates of two days."""
    family = [figure("krw-1", "1300000"), DERIVED, {**DERIVED, "figure_id": "usd-3", "amount": "1100.00"}]
    assert conflicts(*family, figure("krw-2", "1300000")) == []


@pytest.mark.parametrize("carried", [{"fx": FX}, {"fx": FX, "scope": "unit"}, {"fx": FX, "scope": "annual"}])
def test_a_rate_that_an_unrelated_figure_carries_says_nothing_of_two_others(carried: Sent) -> None:
    krw, usd = figure("krw", "1300000"), figure("usd", "500.00", "USD")
    assert ["krw", "usd"] not in [figures for figures, _ in conflicts(krw, usd, {**figure("third", "1.00", "EUR"), **carried})]


def test_a_family_of_figures_says_nothing_of_two_others() -> None:
    family = [figure("krw-1", "1300000", scope="annual"), {**DERIVED, "scope": "annual"}]
    assert conflicts(*family, figure("krw-2", "1300000"), figure("usd-2", "500.00", "USD")) == []


@pytest.mark.parametrize(
    "derived",
    [
        {**DERIVED, "scope": "unit"},
        {**DERIVED, "vat": "included"},
        {**{name: member for name, member in DERIVED.items() if name != "amount"}, "low": "900.00", "high": "1000.00"},
        {**DERIVED, "amount": "0"},
    ],
)
def test_only_two_amounts_of_one_kind_make_a_rate(derived: Sent) -> None:
    found = conflicts(figure("krw-1", "1300000"), derived, figure("usd-2", "500.00", "USD"))
    assert ["krw-1", "usd-2"] not in [figures for figures, _ in found]


def test_a_replaced_figure_makes_no_rate() -> None:
    events = [reported(), stated(figure("krw-1", "1300000")), stated(DERIVED), revised("krw-1", figure("krw-2", "9900000"))]
    assert told(*events).state.value.conflicts == []


def test_a_rate_of_zero_converts_nothing() -> None:
    assert conflicts(figure("krw", "1"), figure("usd", "500.00", "USD", fx={**FX, "rate": "0"})) == []


def test_a_conflict_rests_on_both_events() -> None:
    (found,) = value(figure("a", "1000"), figure("b", "2000")).conflicts
    assert found.rests_on == [2, 3]


# Sums are exact


def test_what_is_ordered_and_delivered_is_summed_exactly() -> None:
    most = "9" * 28
    added = sent("order.extended", "2024-03-01", {"via": "amendment", "added_quantity": {"quantity": "0.000000000001", "unit": "EA"}})
    deliveries = [delivered("d1", "2024-04-01", most), delivered("d2", "2024-04-02", "0.000000000001")]
    state = told(reported(), signed(items=[{**CELLS, "quantity": most}]), added, *deliveries).state
    assert state.items[0].ordered == most + ".000000000001"
    assert state.delivery
    assert state.delivery.totals[0].quantity == most + ".000000000001"


# Whatever the figures


@settings(max_examples=40, deadline=None)
@given(histories(near=True))
def test_the_value_is_always_made_of_standing_figures(history: list[Sent]) -> None:
    state = told(*history, day="2026-03-01").state
    value, ids = state.value, {one.figure_id for one in state.figures}
    total = [one for one in state.figures if one.scope == "total"]
    assert (value.best is None) == (not total)
    for one in value.by_currency:
        best = next(known for known in total if known.figure_id == one.best.figure_id)
        assert (best.amount, best.low, best.high, best.currency) == (one.best.amount, one.best.low, one.best.high, one.currency)
        assert {one.low.figure_id, one.high.figure_id} <= ids
        assert Decimal(one.low.amount) <= Decimal(one.high.amount)
    if value.best:
        assert value.best in state.figures
        assert value.by_currency[0].currency == value.best.currency
        assert BASES.index(value.best.basis) == min(BASES.index(one.basis) for one in total)
        assert 1 <= value.support <= len(state.figures)
    assert all(set(conflict.figures) <= ids and 1 <= Decimal(conflict.difference_percent) <= 100 for conflict in value.conflicts)


amounts = st.integers(0, 10_000).map(str)


@settings(max_examples=40, deadline=None)
@given(st.lists(amounts, min_size=3, max_size=3), st.lists(st.sampled_from(BASES), min_size=3, max_size=3))
def test_the_order_of_telling_changes_neither_range_nor_conflicts(amounts: list[str], bases: list[str]) -> None:
    figures = [figure(f"f{i}", amount, basis=basis) for i, (amount, basis) in enumerate(zip(amounts, bases, strict=True))]
    told = [value(*order) for order in permutations(figures)]
    assert len({(one.low.amount, one.high.amount, one.status) for one in told if one.low and one.high}) == 1
    assert len({frozenset((frozenset(conflict.figures), conflict.difference_percent) for conflict in one.conflicts) for one in told}) == 1


def test_at_most_a_hundred_conflicts_are_told() -> None:
    figures = [figure(f"f{number}", str(10**number)) for number in range(20)]
    assert len(value(*figures).conflicts) == 100
