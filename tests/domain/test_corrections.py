"""Corrections and voids: what counts, what is refused, what they unsettle. What was recorded stays."""

from datetime import date
from typing import Any

import pytest

from service.domain.contract import encode_state
from service.domain.timeline import View, tell
from service.errors import NotAllowedNow, Refused
from service.projections.contracts import decode_beside
from tests.domain.histories import (
    BUYER,
    CELLS,
    CONTRACT,
    SUPPLIER,
    TODAY,
    Log,
    Sent,
    delivered,
    figure,
    flagged_in,
    log_of,
    noted,
    reported,
    revised,
    sent,
    signed,
    stated,
)

OPEN = [reported(items=[CELLS]), signed(), stated(figure("f1", "1000"))]
FIGURE = 3


def id_of(log: Log, revision: int) -> str:
    return log.history()[revision - 1].event_id


def correct(log: Log, revision: int, data: Sent, source: Sent | None = None, effective_on: str | None = None, **options: Any) -> None:
    """State an event of the log anew."""
    members = {"target": id_of(log, revision), "data": data, "source": source, "effective_on": effective_on}
    said = {name: member for name, member in members.items() if member is not None}
    log.append(sent("event.corrected", None, said, kind="party", name="the desk"), **options)


def void(log: Log, revision: int, **options: Any) -> None:
    log.append(sent("event.voided", None, {"target": id_of(log, revision), "reason": "recorded twice"}), **options)


def view(log: Log, day: date | str = TODAY, published_by: str | None = None) -> View:
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return tell(log.history(), day, date.fromisoformat(published_by) if published_by else None)


def amounts(log: Log, **asked: Any) -> dict[str, str | None]:
    return {known.figure_id: known.amount for known in view(log, **asked).state.figures}


def rule_of(log: Log, event: Sent) -> tuple[str, str]:
    """The rule that refuses a correction or a void, and the place in it; a refusal leaves no trace."""
    before = log.position, dict(log.rows)
    with pytest.raises(NotAllowedNow) as caught:
        log.append(event)
    assert (log.position, log.rows) == before
    return caught.value.rule, caught.value.errors[0].pointer


# What counts


def test_a_correction_counts_from_when_it_is_known_and_what_was_recorded_can_be_asked_for_still() -> None:
    log = log_of(*OPEN)
    before = view(log)
    correct(log, FIGURE, {"figure": figure("f1", "1100")})
    assert amounts(log) == {"f1": "1100"}
    assert encode_state(tell(log.history()[:FIGURE], TODAY).state) == encode_state(before.state)
    assert [(basis.revision, basis.corrected_by) for basis in view(log).rests_on] == [(1, None), (2, None), (3, 4)]
    assert view(log).pending == []


def test_the_last_correction_that_is_not_voided_counts_and_a_void_of_it_brings_back_what_stood() -> None:
    log = log_of(*OPEN)
    for amount in ("1100", "1200"):
        correct(log, FIGURE, {"figure": figure("f1", amount)})
    assert amounts(log) == {"f1": "1200"}
    void(log, 5)
    assert amounts(log) == {"f1": "1100"}
    void(log, 4)
    assert amounts(log) == {"f1": "1000"}
    void(log, 6)  # the void of the last correction
    assert amounts(log) == {"f1": "1200"}


def test_to_correct_back_leaves_the_state_as_it_was() -> None:
    log = log_of(*OPEN)
    before = encode_state(view(log).state)
    correct(log, FIGURE, {"figure": figure("f1", "7")}, {"kind": "party"}, "2020-01-01")
    assert encode_state(view(log).state) != before
    correct(log, FIGURE, {"figure": figure("f1", "1000")})
    assert encode_state(view(log).state) == before
    assert log.rows[CONTRACT].state.encode() == before


def test_an_event_that_is_voided_counts_no_more_and_its_figure_may_be_stated_anew() -> None:
    log = log_of(*OPEN)
    void(log, FIGURE)
    assert amounts(log) == {}
    log.append(stated(figure("f1", "5")))
    assert amounts(log) == {"f1": "5"}


def test_a_correction_may_move_an_event_which_keeps_its_revision_in_the_order() -> None:
    log = log_of(*OPEN, revised("f1", figure("f2", "2000"), "2025-01-01"))
    correct(log, 4, {"replaces": "f1", "value": figure("f2", "2000"), "reason": "fx"}, effective_on="2027-01-01")
    assert amounts(log) == {"f1": "1000"}
    assert [(pending.revision, pending.effective_on) for pending in view(log).pending] == [(4, "2027-01-01")]
    assert log.rows[CONTRACT].has_pending
    assert amounts(log, day="2027-01-01") == {"f2": "2000"}
    void(log, 5)
    assert (log.rows[CONTRACT].last_on, log.rows[CONTRACT].has_pending) == (date(2025, 1, 1), False)


def test_a_correction_of_the_source_is_whose_word_the_figure_is_on() -> None:
    log = log_of(*OPEN)
    correct(log, FIGURE, {"figure": figure("f1")}, {"kind": "filing", "name": "LG"})
    assert view(log).state.figures[0].source == {"kind": "filing", "name": "LG"}
    assert view(log).rests_on[-1].source == {"kind": "filing", "name": "LG"}


def test_a_label_is_corrected_and_voided_like_any_event() -> None:
    log = log_of(*OPEN, sent("contract.labelled", None, {"set": ["a"]}), noted())
    correct(log, 4, {"set": ["b"]})
    assert [label.label for label in view(log).state.labels] == ["b"]
    void(log, 4)
    assert view(log).state.labels == []


def test_before_a_correction_is_published_the_event_stands_as_recorded_and_before_the_event_is_the_correction_has_no_place() -> None:
    log = log_of(reported(items=[CELLS]), signed(), stated(figure("f1", "1000"), published_on="2024-02-01"))
    log.append(
        sent("event.corrected", None, {"target": id_of(log, 3), "data": {"figure": figure("f1", "9")}}, published_on="2024-05-01"),
    )
    known = log.history()
    assert [known.amount for known in tell(known[2:], TODAY, date(2024, 3, 1)).state.figures] == ["1000"]
    assert [known.amount for known in tell(known[2:], TODAY, date(2024, 5, 1)).state.figures] == ["9"]
    assert tell([known[3]], TODAY).state.unplaced == [4]


def test_what_stands_by_something_only_supposed_is_hypothetical() -> None:
    for event_type, data in (("event.voided", {"reason": "what if"}), ("event.corrected", {"data": {"figure": figure("f1", "9")}})):
        log = log_of(*OPEN)
        log.append(sent(event_type, None, {"target": id_of(log, FIGURE), **data}, hypothetical=True))
        assert view(log).state.hypothetical
        void(log, 4)
        assert not view(log).state.hypothetical


# What is refused


def test_a_correction_names_an_original_of_the_same_contract() -> None:
    log = log_of(*OPEN)
    correct(log, FIGURE, {"figure": figure("f1", "9")})
    void(log, FIGURE)
    data = {"figure": figure("f1", "9")}
    for target, rule in (
        (id_of(log, 4), "corrects-original"),
        (id_of(log, 5), "corrects-original"),
        (id_of(log, 3), "voids-what-stands"),
        ("00000000-0000-7000-8000-000000000000", "known-event"),
    ):
        assert rule_of(log, sent("event.corrected", None, {"target": target, "data": data})) == (rule, "/data/target")


def test_a_void_names_what_is_not_voided_and_not_the_opening() -> None:
    log = log_of(*OPEN)
    void(log, FIGURE)
    for revision, rule in ((FIGURE, "voids-what-stands"), (1, "opening-stands")):
        assert rule_of(log, sent("event.voided", None, {"target": id_of(log, revision), "reason": "x"})) == (rule, "/data/target")
    void(log, 2)  # the signing, while the report stands
    assert view(log).state.status == "reported"


@pytest.mark.parametrize(
    ("revision", "data", "pointer"),
    [
        (FIGURE, {"figure": {**figure("f1", None), "low": "9", "high": "1"}}, "/data/data/figure/low"),
        (FIGURE, {"text": "of another type"}, "/data/data/figure"),
        (FIGURE, {}, "/data/data/figure"),
        (FIGURE, {"figure": figure("f1", "1.5")}, "/data/data/figure/amount"),
        (2, {"signed_on": "2023-02-30"}, "/data/data/signed_on"),
        (2, {"period": {"start_on": "2023-Q5"}}, "/data/data/period/start_on"),
    ],
)
def test_the_data_of_a_correction_are_whole_and_of_the_type_that_they_correct(revision: int, data: Sent, pointer: str) -> None:
    with pytest.raises(Refused) as caught:
        correct(log_of(*OPEN), revision, data)
    assert pointer in [fault.pointer for fault in caught.value.errors]


def test_what_has_no_day_of_its_own_is_not_given_one() -> None:
    log = log_of(*OPEN, sent("contract.labelled", None, {"set": ["a"]}))
    with pytest.raises(Refused) as caught:
        correct(log, 4, {"set": ["b"]}, effective_on="2024-01-01")
    assert caught.value.errors[0].pointer == "/data/effective_on"
    for event_type, data in (
        ("contract.labelled", {"set": ["a"]}),
        ("event.voided", {"target": id_of(log, 4), "reason": "x"}),
        ("event.corrected", {"target": id_of(log, 4), "data": {"set": ["b"]}}),
    ):
        with pytest.raises(Refused) as caught:
            log.append(sent(event_type, "2024-01-01", data))
        assert [fault.pointer for fault in caught.value.errors] == ["/effective_on"]


DELIVERIES = [delivered("d1", "2024-03-01"), delivered("d2", "2024-03-02")]


@pytest.mark.parametrize(
    ("events", "revision", "data", "rule"),
    [
        ([], 2, {"parties": [SUPPLIER]}, "supplier-and-buyer"),
        ([stated(figure("f2"))], FIGURE, {"figure": figure("f2")}, "unique-figure"),
        ([stated(figure("f2"))], FIGURE, {"figure": figure("f3", derived_from={"figure_id": "f9"})}, "known-figure"),
        ([revised("f1", figure("f2"))], 4, {"replaces": "f7", "value": figure("f2"), "reason": "fx"}, "known-figure"),
        (DELIVERIES, 5, delivered("d1", "2024-03-02")["data"], "unique-delivery"),
        ([noted()], 4, {"text": "x", "about": {"kind": "event", "id": "00000000-0000-7000-8000-000000000000"}}, "known-event"),
    ],
)
def test_what_the_event_would_be_refused_for_its_correction_is(events: list[Sent], revision: int, data: Sent, rule: str) -> None:
    log = log_of(*OPEN, *events)
    event = sent("event.corrected", None, {"target": id_of(log, revision), "data": data})
    assert rule_of(log, event) == (rule, "/data/data")


def test_the_opening_is_not_corrected_to_lack_what_it_states() -> None:
    log = log_of(*OPEN)
    with pytest.raises(Refused) as caught:
        correct(log, 1, {"stage": "reported", "title": "Cells", "kind": "supply"})
    assert [fault.pointer for fault in caught.value.errors] == ["/data/data/parties"]


def test_what_a_void_brings_back_is_judged_too() -> None:
    log = log_of(*OPEN)
    correct(log, FIGURE, {"figure": figure("f2", "1000")})
    log.append(stated(figure("f1", "5")))
    event = sent("event.voided", None, {"target": id_of(log, 4), "reason": "x"})
    assert rule_of(log, event) == ("unique-figure", "/data/target")


def test_an_event_that_is_moved_beyond_the_end_is_refused_as_it_would_be_there() -> None:
    log = log_of(*OPEN, sent("agreement.linked", "2024-03-01", {"relation": "framework"}), sent("contract.completed", "2026-01-01", {}))
    data = {"target": id_of(log, 4), "data": {"relation": "framework"}, "effective_on": "2026-02-01"}
    assert rule_of(log, sent("event.corrected", None, data)) == ("after-end", "/data/data")
    correct(log, 4, {"relation": "successor"})


def test_a_delivery_id_is_never_used_anew() -> None:
    log = log_of(*OPEN, *DELIVERIES)
    correct(log, 4, delivered("d3", "2024-03-01")["data"])
    assert {name for _, name in log.delivery_ids} == {"d1", "d2", "d3"}
    for taken in ("d1", "d3"):
        with pytest.raises(NotAllowedNow, match=f"delivery {taken} already"):
            log.append(delivered(taken, "2024-04-01"))
    void(log, 6)
    correct(log, 4, delivered("d3", "2024-03-01")["data"])


def test_a_refusal_among_several_events_names_its_place() -> None:
    log = log_of(*OPEN)
    with pytest.raises(Refused) as caught:
        log.append(noted(), sent("event.corrected", None, {"target": id_of(log, FIGURE), "data": {}}))
    assert caught.value.errors[0].pointer == "/events/1/data/data/figure"


# What is unsettled


def test_an_event_that_a_correction_leaves_without_its_target_is_flagged_with_it() -> None:
    log = log_of(*OPEN, revised("f1", figure("f2", "2000")))
    correct(log, FIGURE, {"figure": figure("f9", "1000")})
    assert flagged_in(log) == ["correction-unsettles.4.5"]
    assert view(log).state.unplaced == [4]
    log.append(noted(anomaly_id="correction-unsettles.4.5"))
    assert decode_beside(log.rows[CONTRACT]).anomalies[0].explained_by == [6]
    void(log, 5)
    assert flagged_in(log) == []


def test_a_void_unsettles_what_rested_on_the_event() -> None:
    log = log_of(*OPEN, delivered("d1", "2024-03-01"), sent("contract.terminated", "2026-01-01", {}))
    void(log, 2)
    assert "correction-unsettles.2.5" not in flagged_in(log)
    assert "correction-unsettles.5.6" in flagged_in(log)
    assert "no-longer-fits.5" not in flagged_in(log)
    void(log, 6)
    assert [known for known in flagged_in(log) if known.startswith("correction")] == []


def test_what_did_not_fit_before_a_correction_is_not_laid_to_it() -> None:
    log = log_of(*OPEN, sent("agreement.linked", "2025-01-01", {"relation": "framework"}), sent("contract.completed", "2024-06-01", {}))
    correct(log, FIGURE, {"figure": figure("f1", "9")})
    assert flagged_in(log) == ["no-longer-fits.4"]


def test_of_several_corrections_the_one_that_unsettles_is_named() -> None:
    log = log_of(*OPEN, revised("f1", figure("f2", "2000")))
    for figure_id, amount in (("f1", "1"), ("f1", "2"), ("f9", "2"), ("f9", "3"), ("f9", "4")):
        correct(log, FIGURE, {"figure": figure(figure_id, amount)})
    assert flagged_in(log) == ["correction-unsettles.4.7"]


def test_strict_refuses_a_correction_that_unsettles() -> None:
    log = log_of(reported(parties=[SUPPLIER, BUYER], items=[CELLS]), signed(), *OPEN[2:], revised("f1", figure("f2", "2000")))
    with pytest.raises(Exception, match="since revision 5"):
        correct(log, FIGURE, {"figure": figure("f9")}, strict=True)


def test_what_is_unsettled_is_told_in_one_sentence() -> None:
    """The reason why it does not fit is a sentence of its own, within another here."""
    extended = sent("order.extended", "2024-06-01", {"new_end_on": "2027-12-31", "via": "renewal"})
    opening = {"title": "Cells", "kind": "supply", "parties": [SUPPLIER, BUYER]}
    log = log_of(signed(**opening, period={"end_on": "2026-12-31"}), extended)
    correct(log, 1, {**opening, "period": {"end_on": "2028-12-31"}})
    (flagged,) = view(log).anomalies
    assert flagged.sentence.endswith("a new end is later than that, since revision 3 corrected or voided another")
