"""The case that the ledger carries from the first day: LG Energy Solution and Isuzu Motors, nine events, and what they answer."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.domain.contract import encode_state
from service.domain.parts import StandingFigure
from service.domain.state import CurrencyRange, Value
from service.domain.timeline import View
from service.log.header import state_hash
from service.projections.contracts import LAYOUT, decode_beside
from tests.domain.histories import CONTRACT, TODAY, Log, Sent, told

GOLDEN = Path(__file__).parent.parent / "golden" / "case"
EVENTS: list[Sent] = json.loads((GOLDEN / "events.json").read_text())
QUESTIONS = {file.stem: json.loads(file.read_text()) for file in sorted(GOLDEN.glob("*.json")) if file.stem != "events"}
TRILLION = "1000000000000"
LATE = "delivery-before-signing.7.8"


def ask(effective_on: str = TODAY.isoformat(), published_by: str | None = None) -> View:
    return told(*EVENTS, day=effective_on, published_by=published_by)


def answer(events: list[Sent], effective_on: str, published_by: str | None) -> dict[str, Any]:
    """What an answer says, without the parts of the state that repeat the events."""
    view = told(*events, day=effective_on, published_by=published_by)
    state = view.state
    said = {name: getattr(state, name) for name in ("status", "status_rests_on", "marks", "term_end", "value", "quantity", "delivery")}
    said |= {"agreements": state.agreements, "uncertain": state.uncertain, "unsettled": state.unsettled, "unplaced": state.unplaced}
    said |= {"anomalies": view.anomalies, "pending": view.pending, "rests_on": [basis.revision for basis in view.rests_on]}
    told_json: dict[str, Any] = msgspec.to_builtins(said | {"holds_until": view.holds_until})
    return {name: member for name, member in told_json.items() if member is not None}


def test_the_nine_events_are_there_and_the_rules_accept_them_with_one_anomaly() -> None:
    log = Log().at(TODAY)
    for event in EVENTS:
        log.append(event)
    assert len(log.history()) == 9
    assert [known.anomaly_id for known in decode_beside(log.rows[CONTRACT]).anomalies] == [LATE]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_the_golden_one(question: str) -> None:
    golden = QUESTIONS[question]
    assert answer(EVENTS, golden["effective_on"], golden.get("published_by")) == golden["answer"]


def test_there_is_a_golden_answer_for_each_question() -> None:
    assert set(QUESTIONS) == {
        "1-2-4-by-2022-07-06", "1-2-4-by-2024-01-26", "3-by-2022-07-06", "3-by-2024-01-26",
        "now", "before-the-first-effect", "on-the-day-of-the-reports", "after-the-term",
    }  # fmt: skip


# The questions of the case, as its page puts and answers them


def best_of(value: Value) -> StandingFigure:
    assert value.best is not None
    return value.best


def in_dollars(value: Value) -> CurrencyRange:
    return next(one for one in value.by_currency if one.currency == "USD")


def test_question_1_the_value_as_published_by_the_day_of_the_reports_and_on_whose_word() -> None:
    state = ask(published_by="2022-07-06").state
    best = best_of(state.value)
    assert state.value.status == "estimated"
    assert (best.currency, best.amount, best.basis, best.bound, best.source["via"]) == ("KRW", TRILLION, "reported", "about", "Reuters")
    dollars = in_dollars(state.value)
    assert (dollars.low.amount, dollars.high.amount) == ("763000000", "765000000")
    derived = {one.figure_id: one.derived_from for one in state.figures if one.currency == "USD"}
    assert derived == {"usd-763": {"figure_id": "krw-1"}, "usd-765": {"figure_id": "krw-1"}}
    assert (state.value.conflicts, state.marks, state.value.support) == ([], [], 1)


def test_question_1_by_the_disclosure_the_best_is_the_same_and_value_and_quantity_are_withheld() -> None:
    before, after = ask(published_by="2022-07-06").state, ask(published_by="2024-01-26").state
    assert best_of(after.value) == best_of(before.value)
    assert {one.figure_id for one in after.figures} - {one.figure_id for one in before.figures} == {"krw-2"}
    assert (after.value.status, after.marks, after.quantity.status) == ("estimated", ["withheld"], "withheld")
    assert [part.path for part in after.withheld] == ["/value", "/quantity"]


def test_question_2_best_low_high_support_and_conflicts_in_won_and_in_dollars() -> None:
    value = ask(published_by="2024-01-26").state.value
    assert value.low
    assert value.high
    assert (value.low.amount, value.high.amount, value.open_above, value.open_below) == (TRILLION, TRILLION, False, False)
    assert (value.support, value.conflicts) == (2, [])
    assert [one.currency for one in value.by_currency] == ["KRW", "USD"]
    assert in_dollars(value).best.figure_id == "usd-763"


def test_question_3_effective_in_july_2023_the_two_days_of_publication_give_two_answers() -> None:
    early, late = ask("2023-07-01", "2022-07-06"), ask("2023-07-01", "2024-01-26")
    assert (early.state.status, early.state.delivery, early.anomalies, early.pending) == ("negotiating", None, [], [])
    assert late.state.status == "delivering"
    assert late.state.delivery
    assert (late.state.delivery.started_on, late.state.delivery.partial) == ("2023-06", True)
    assert ("/delivery/started_on", "2023-06") in [(entry.path, entry.date) for entry in late.state.uncertain]
    assert [(pending.revision, pending.event_type) for pending in late.pending] == [(7, "contract.signed"), (9, "figure.stated")]
    (anomaly,) = late.anomalies
    assert (anomaly.anomaly_id, anomaly.events) == (LATE, [7, 8])
    assert anomaly.sentence == "delivery in 2023-06 came before the latest possible signing day, 2024-01-26"


def test_question_4_the_end_of_the_term_on_the_press_and_then_on_the_filing() -> None:
    press, filing = ask(published_by="2022-07-06"), ask(published_by="2024-01-26")
    assert press.state.term_end
    assert filing.state.term_end
    assert (press.state.term_end.end_on, press.state.term_end.by, press.state.term_end.rests_on) == ("2026", "duration", [1])
    assert (filing.state.term_end.end_on, filing.state.term_end.by, filing.state.term_end.rests_on) == ("2026-12-31", "stated", [7])
    sources = {basis.revision: basis.source["kind"] for basis in filing.rests_on}
    assert (sources[1], sources[7]) == ("news", "filing")


def test_question_5_each_answer_names_the_events_it_rests_on() -> None:
    assert [basis.revision for basis in ask(published_by="2022-07-06").rests_on] == [1, 2, 3, 4, 5, 6]
    assert [basis.revision for basis in ask("2023-07-01", "2024-01-26").rests_on] == [1, 2, 3, 4, 5, 6, 8]
    assert [basis.revision for basis in ask().rests_on] == [1, 2, 3, 4, 5, 6, 8, 7, 9]
    assert all(basis.position and basis.event_id for basis in ask().rests_on)


def test_the_case_folds_to_the_frozen_bytes_and_their_hash() -> None:
    """When this fails, states that were answered before get another `state_hash`: that takes a new layout, and a word in the docs."""
    frozen = json.loads((GOLDEN.parent / "state" / f"layout-{LAYOUT}.json").read_text())
    state = encode_state(ask(frozen["effective_on"], frozen["published_by"]).state)
    assert state == frozen["state"].encode()
    assert state_hash(frozen["effective_on"], state) == frozen["state_hash"]


def test_the_state_of_the_first_layout_still_has_the_hash_it_had() -> None:
    frozen = json.loads((GOLDEN.parent / "log" / "state.json").read_text())
    assert state_hash(frozen["effective_on"], frozen["state"].encode()) == frozen["state_hash"]


def test_an_expectation_that_the_order_grows_is_a_note_on_a_figure_and_no_right() -> None:
    state = ask().state
    assert best_of(state.value).note == "may rise: Isuzu may order more"
    assert (state.extensions, state.value.open_above) == ([], False)


def test_the_two_also_agreed_to_work_jointly() -> None:
    assert [(one.relation, one.title) for one in ask().state.agreements] == [("joint-development", "Electrification of Isuzu's trucks")]


def test_hypothetical_continuations_carry_their_mark_to_the_end() -> None:
    def continued(event_type: str, effective_on: str, data: Sent) -> Sent:
        return {"event_type": event_type, "effective_on": effective_on, "source": {"kind": "system"}, "data": data, "hypothetical": True}

    disclosed = {
        "figure_id": "krw-3",
        "amount": "1100000000000",
        "currency": "KRW",
        "basis": "disclosed",
        "bound": "exact",
        "scope": "total",
    }
    extension = {"via": "amendment", "new_end_on": "2028-12-31", "added_value": {"amount": "200000000000", "currency": "KRW"}}
    log = Log().at(TODAY)
    for event in EVENTS:
        log.append(event)
    log.append(continued("order.extended", "2026-06-01", extension | {"added_quantity": {"quantity": "5000000", "unit": "EA"}}))
    log.append(continued("value.revised", "2026-09-01", {"replaces": "krw-1", "value": disclosed, "reason": "renegotiation"}))
    log.append(continued("contract.completed", "2028-12-31", {"cause": "everything was delivered"}))
    state = told(*EVENTS, day=TODAY).state
    assert not state.hypothetical
    row = log.rows[CONTRACT]
    assert ('"hypothetical":true' in row.state, row.has_pending) == (True, True)
    assert '"status":"known"' in row.state
    assert '"end_on":"2028-12-31"' in row.state
