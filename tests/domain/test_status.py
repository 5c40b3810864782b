"""The status for a day, the marks beside it, the dates that are uncertain, and what each part rests on."""

import pytest

from service.domain.dates import end_of, last_day
from tests.domain.histories import (
    BUYER,
    CELLS,
    SUPPLIER,
    Sent,
    delivered,
    events_of,
    figure,
    log_of,
    noted,
    reported,
    sent,
    signed,
    stated,
    told,
)


def status(*events: Sent, day: str) -> str:
    return told(*events, day=day).state.status


STARTED = sent("delivery.started", "2024-06-01", {})
COMPLETED = sent("contract.completed", "2026-03-01", {})
TERMINATED = sent("contract.terminated", "2026-03-01", {})
SIGNED = [reported(period={"start_on": "2025", "end_on": "2026-12-31"}), signed("2024-01-26")]


@pytest.mark.parametrize(
    ("events", "day", "expected"),
    [
        ([reported()], "2022-07-05", "unknown"),
        ([reported()], "2022-07-06", "reported"),
        ([reported(stage="negotiating")], "2023-01-01", "negotiating"),
        ([reported(stage="denied")], "2023-01-01", "denied"),
        ([reported(), signed("2024-01-26")], "2024-01-25", "reported"),
        ([reported(), signed("2024-01-26")], "2024-01-26", "signed"),
        (SIGNED, "2024-12-31", "signed"),
        (SIGNED, "2025-01-01", "in_force"),
        (SIGNED, "2026-12-31", "in_force"),
        (SIGNED, "2027-01-01", "expired"),
        ([*SIGNED, STARTED], "2024-06-01", "delivering"),
        ([*SIGNED, STARTED], "2026-12-31", "delivering"),
        ([*SIGNED, STARTED], "2027-01-01", "expired"),
        ([reported(), STARTED], "2024-06-01", "delivering"),
        ([reported(items=[CELLS]), delivered("d1", "2024-06")], "2024-06-01", "delivering"),
        ([*SIGNED, COMPLETED], "2026-02-28", "in_force"),
        ([*SIGNED, COMPLETED], "2026-03-01", "completed"),
        ([*SIGNED, STARTED, COMPLETED], "2027-01-01", "completed"),
        ([*SIGNED, STARTED, TERMINATED], "2027-01-01", "terminated"),
        ([reported(period={"end_on": "2022"})], "2024-01-01", "reported"),
        ([reported(period={"start_on": "2022"}), signed("2024-01-26")], "2024-01-26", "in_force"),
    ],
)
def test_the_status_is_the_first_that_applies_on_the_day(events: list[Sent], day: str, expected: str) -> None:
    assert status(*events, day=day) == expected


def test_the_latest_stage_counts_by_its_effect_and_not_by_its_recording() -> None:
    denied = sent("contract.reported", "2022-08-01", {"stage": "denied"})
    negotiating = sent("contract.reported", "2022-07-15", {"stage": "negotiating"})
    assert status(reported(), denied, negotiating, day="2022-07-20") == "negotiating"
    assert status(reported(), denied, negotiating, day="2022-08-01") == "denied"


def test_a_stage_after_the_signing_does_not_undo_it() -> None:
    assert (
        status(reported(), signed("2024-01-26"), sent("contract.reported", "2024-02-01", {"stage": "denied"}), day="2024-02-01") == "signed"
    )


def test_the_first_of_two_ends_counts_whichever_was_recorded_first() -> None:
    late, early = ({**COMPLETED, "effective_on": day} for day in ("2026-12-31", "2026-02-01"))
    for end, other, expected in ((late, TERMINATED, "terminated"), (TERMINATED, early, "completed")):
        log_of(*SIGNED, end, other)
        assert status(*SIGNED, end, other, day="2027-01-01") == expected


def test_the_status_rests_on_the_events_that_say_so() -> None:
    days = {"2022-07-06": [1], "2024-01-26": [2], "2024-06-01": [3], "2027-01-01": [1, 2], "2030-01-01": [4]}
    events = [*SIGNED, STARTED, {**COMPLETED, "effective_on": "2029"}]
    assert {day: told(*events, day=day).state.status_rests_on for day in days} == days


def test_a_contract_on_a_day_before_its_first_effect_is_an_answer_without_facts() -> None:
    view = told(reported(), day="2022-07-05")
    state = view.state
    assert (state.status, state.status_rests_on, state.parties, state.title) == ("unknown", [], [], None)
    assert (state.value.status, state.quantity.status, view.rests_on, view.anomalies) == ("unknown", "unknown", [], [])
    assert [pending.revision for pending in view.pending] == [1]


def test_withheld_is_a_mark_beside_the_status() -> None:
    state = told(reported(), signed(withheld=[{"path": "/quantity", "reason": "kept"}])).state
    assert (state.status, state.marks) == ("signed", ["withheld"])


def test_what_is_hypothetical_marks_the_state_from_its_day_on() -> None:
    events = [reported(), sent("order.extended", "2026-06-01", {"via": "renewal", "new_end_on": "2030"}, hypothetical=True)]
    assert not told(*events, day="2026-05-31").state.hypothetical
    assert told(*events, day="2026-06-01").state.hypothetical


# The end of the term


@pytest.mark.parametrize(
    ("periods", "expected"),
    [
        ([{}], None),
        ([{"start_on": "2023"}], None),
        ([{"duration": "P4Y"}], None),
        ([{"start_on": "2023", "duration": "P4Y"}], ("2026", "duration", [1])),
        ([{"start_on": "2023"}, {"duration": "P4Y"}], ("2026", "duration", [1, 2])),
        ([{"start_on": "2023", "duration": "P4Y"}, {"end_on": "2026-12-31"}], ("2026-12-31", "stated", [2])),
        ([{"end_on": "2026-12-31"}, {"start_on": "2023", "duration": "P9Y"}], ("2026-12-31", "stated", [1])),
        ([{"start_on": "2023", "duration": "P4Y"}, {"start_on": "2024-06"}], ("2028-05", "duration", [1, 2])),
        ([{"duration": "P999Y"}, {"start_on": "2999"}], None),
    ],
)
def test_a_term_ends_as_stated_else_as_start_and_duration_make_it(periods: list[Sent], expected: tuple[str, str, list[int]] | None) -> None:
    opening, *more = [reported(period=period) for period in periods]
    end = told(opening, *more).state.term_end
    assert (end and (end.end_on, end.by, end.rests_on)) == expected


def test_an_extension_moves_the_end() -> None:
    extended = sent("order.extended", "2026-06-01", {"via": "amendment", "new_end_on": "2028"})
    state = told(*SIGNED, extended).state
    assert state.term_end
    assert (state.term_end.end_on, state.term_end.by, state.term_end.rests_on) == ("2028", "stated", [3])
    assert [(one.via, one.new_end_on, one.rests_on) for one in state.extensions] == [("amendment", "2028", [3])]


def test_an_extension_without_an_end_states_no_period() -> None:
    added = {"via": "amendment", "added_value": {"amount": "100", "currency": "KRW"}}
    state = told(reported(), signed(), sent("order.extended", "2025-01-01", added)).state
    assert (state.period, state.term_end, state.extensions[0].added_value) == (None, None, {"amount": "100", "currency": "KRW"})
    assert (state.value.status, state.figures) == ("unknown", [])


# Coarse dates


def test_every_coarse_date_is_listed_where_it_stands_and_as_unsettled_until_its_last_day() -> None:
    events = [
        reported("2022-Q3", period={"start_on": "2023", "end_on": "2026", "max_end_on": "2028"}),
        signed("2024-01", signed_on="2024-01", signed_by="2024", withheld=[{"path": "/value", "reason": "kept", "until": "2025-Q1"}]),
        stated(figure("f1"), "2024-02"),
        sent("delivery.started", "2023-06", {}),
        sent("order.extended", "2025-Q2", {"via": "amendment", "new_end_on": "2027"}),
        sent("agreement.linked", "2024-Q4", {"relation": "framework"}),
        sent("contract.terminated", "2025-11", {"notice_on": "2025-09"}),
    ]
    state = told(*events, day="2025-11-15").state
    expected = {
        "/opening/effective_on": ("2022-Q3", [1]),
        "/report/effective_on": ("2022-Q3", [1]),
        "/signing/effective_on": ("2024-01", [2]),
        "/signing/signed_on": ("2024-01", [2]),
        "/signing/signed_by": ("2024", [2]),
        "/period/start_on": ("2023", [1]),
        "/period/end_on": ("2027", [5]),
        "/period/max_end_on": ("2028", [1]),
        "/delivery/started_on": ("2023-06", [4]),
        "/ending/effective_on": ("2025-11", [7]),
        "/ending/notice_on": ("2025-09", [7]),
        "/withheld/0/until": ("2025-Q1", [2]),
        "/value/figures/0/effective_on": ("2024-02", [3]),
        "/extensions/0/effective_on": ("2025-Q2", [5]),
        "/extensions/0/new_end_on": ("2027", [5]),
        "/agreements/0/effective_on": ("2024-Q4", [6]),
    }
    assert {entry.path: (entry.date, entry.rests_on) for entry in state.uncertain} == expected
    assert {entry.path for entry in state.unsettled} == {
        "/period/end_on", "/period/max_end_on", "/ending/effective_on", "/extensions/0/new_end_on"
    }  # fmt: skip


def test_coarse_dates_within_figures_terms_and_deliveries_are_listed_too() -> None:
    price = {"item_id": "cells", "unit_price": "1.5", "currency": "USD", "per_unit": "EA"}
    terms = {
        "prices": [{**price, "valid_from": "2024-01-01"}, {**price, "valid_from": "2025"}, price],
        "volumes": [{"item_id": "cells", "period": "2025-Q1", "minimum": "1"}],
    }
    rate = {"rate": "1310.95", "base": "USD", "quote": "KRW"}
    events = [
        reported(items=[CELLS]),
        delivered("d1", "2024-01-02", effective_on="2024-01-05"),
        delivered("d2", "2024-01", effective_on="2024-01-05"),
        stated(figure("f1", fx={**rate, "rate_on": "2024-01"}), "2024-02-01", published_on="2024"),
        stated(figure("f2", fx=rate, source={"kind": "news", "published_on": "2024-02-01"}), "2024-02-01", published_on="2024"),
    ]
    expected = {
        "/delivery/started_on": ("2024-01", [3]),
        "/delivery/unsigned/1/delivered_on": ("2024-01", [3]),
        "/value/figures/0/source/published_on": ("2024", [4]),
        "/value/figures/0/fx/rate_on": ("2024-01", [4]),
    }
    found = told(*events).state.uncertain
    assert {entry.path: (entry.date, entry.rests_on) for entry in found} == expected
    of_terms = told(reported(), signed(terms=terms)).state.uncertain
    assert [(entry.path, entry.date, entry.rests_on) for entry in of_terms] == [
        ("/terms/prices/1/valid_from", "2025", [2]),
        ("/terms/volumes/0/period", "2025-Q1", [2]),
    ]


def test_an_end_counted_from_a_coarse_start_is_coarse_too() -> None:
    events = [reported(period={"start_on": "2023", "duration": "P4Y"}), signed()]
    found = told(*events, day="2026-12-30").state
    assert [(entry.path, entry.date, entry.rests_on) for entry in found.uncertain] == [
        ("/period/start_on", "2023", [1]),
        ("/term_end/end_on", "2026", [1]),
    ]
    assert [entry.path for entry in found.unsettled] == ["/term_end/end_on"]
    assert told(*events, day="2026-12-31").state.unsettled == []
    stated_end = told(*events, sent("order.extended", "2025-01-01", {"via": "amendment", "new_end_on": "2028"})).state
    assert [entry.path for entry in stated_end.uncertain] == ["/period/start_on", "/period/end_on", "/extensions/0/new_end_on"]
    exact = told(reported(period={"start_on": "2023-06-15", "duration": "P4Y"})).state
    assert exact.uncertain == []


def test_title_kind_and_notes_say_which_events_they_rest_on() -> None:
    events = [reported(), noted("2024-01-01"), signed(title="Cells for trucks"), noted("2025-01-01"), noted("2024-06-01")]
    state = told(*events).state
    assert state.stated_in == {"kind": 1, "title": 3}
    assert state.notes
    assert (state.notes.count, state.notes.rests_on) == (3, [4])


def test_a_day_is_never_uncertain() -> None:
    assert told(*SIGNED[1:], reported("2022-07-06")).state.uncertain == []


def test_a_coarse_date_is_settled_on_its_last_day() -> None:
    events = [reported("2026-02")]
    assert [len(told(*events, day=day).state.unsettled) for day in ("2026-02-01", "2026-02-27", "2026-02-28")] == [2, 2, 0]
    assert len(told(*events, day="2026-02-28").state.uncertain) == 2


# The other parts


def test_the_parts_of_a_state_are_these() -> None:
    linked = {"relation": "joint-development", "title": "Electrification", "parties": ["lges"], "reference": {"scheme": "DART", "id": "9"}}
    terms = {"payment": "30 days", "prices": [{"item_id": "cells", "unit_price": "1.5", "currency": "USD", "per_unit": "EA"}]}
    ending = {
        "by": "Isuzu",
        "cause": "notice",
        "notice_on": "2025-01-01",
        "terminated_value": {"amount": "10", "currency": "KRW"},
        "delivered_value": {"amount": "90", "currency": "KRW"},
        "successor": {"scheme": "DART", "id": "10"},
    }
    events = [
        reported(items=[CELLS], parties=[{**SUPPLIER, "identifiers": [{"scheme": "LEI", "id": "x"}]}, BUYER]),
        signed(terms=terms),
        sent("agreement.linked", "2024-02-01", linked),
        sent("contract.terminated", "2025-06-01", ending),
        noted("2025-07-01"),
    ]
    state = told(*events).state
    assert state.parties[0].identifiers == [{"scheme": "LEI", "id": "x"}]
    assert (state.terms, state.terms_rest_on) == (terms, [2])
    (agreement,) = state.agreements
    assert {name: getattr(agreement, name) for name in linked} == linked
    assert state.ending
    assert {name: getattr(state.ending, name) for name in ending} == ending
    assert state.notes
    assert (state.ending.kind, state.notes.count, state.notes.rests_on, state.items[0].ordered) == ("terminated", 1, [5], "100")
    assert [basis.revision for basis in told(*events).rests_on] == [1, 2, 3, 4, 5]


def test_what_the_state_rests_on_is_named_with_its_source() -> None:
    events = [reported(), stated(figure("f1"), name="Reuters", published_on="2024-02-01")]
    basis = told(*events).rests_on[1]
    recorded = events_of(*events)[1]
    assert (basis.revision, basis.position, basis.event_id) == (2, recorded.position, recorded.event_id)
    assert (basis.event_type, basis.effective_on) == ("figure.stated", "2024-02-01")
    assert basis.source == {"kind": "news", "name": "Reuters", "published_on": "2024-02-01"}


def test_deliveries_are_totalled_by_item_and_unit_and_start_with_the_first() -> None:
    events = [
        reported(items=[CELLS, {"item_id": "packs", "description": "packs"}]),
        delivered("d1", "2024-03-01", "10"),
        delivered("d2", "2024-02-01", "2.50", effective_on="2024-03-02"),
        delivered("d3", "2024-04-01", "1", unit="KWH"),
        delivered("d4", "2024-05-01", "7", item_id="packs"),
    ]
    found = told(*events).state.delivery
    assert found
    assert (found.started_on, found.count, found.rests_on) == ("2024-02-01", 4, [3, 5])
    assert [(one.item_id, one.unit, one.quantity) for one in found.totals] == [
        ("cells", "EA", "12.50"),
        ("cells", "KWH", "1"),
        ("packs", "EA", "7"),
    ]


def test_deliveries_that_began_in_part_go_on_in_full() -> None:
    partial = sent("delivery.started", "2023-06", {"partial": True, "place": "Fujisawa", "lot": "A"})
    first = told(reported(), partial).state.delivery
    assert first
    assert (first.started_on, first.partial, first.place, first.lot) == ("2023-06", True, "Fujisawa", "A")
    later = told(reported(), partial, STARTED).state.delivery
    assert later
    assert (later.started_on, later.partial, later.rests_on) == ("2023-06", False, [2])


@pytest.mark.parametrize("length", ["P1Y", "P18M", "P90D"])
def test_a_contract_expires_the_day_after_the_last_day_of_its_term(length: str) -> None:
    last = last_day(end_of("2025-06", length))
    events = [reported(period={"start_on": "2025-06", "duration": length}), signed("2024-01-26")]
    assert status(*events, day=last.isoformat()) == "in_force"
    assert status(*events, day=last.replace(day=1).isoformat()) in ("in_force", "signed")
    assert told(*events, day=last.isoformat()).holds_until is not None
