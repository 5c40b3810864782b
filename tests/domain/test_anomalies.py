"""The soft rules: what breaks the textbook is accepted, flagged, and may be explained."""

import re
from datetime import date, timedelta
from pathlib import Path

import pytest

import service.domain
from service.domain.dates import on
from service.domain.delivery import MAX_UNSIGNED_DELIVERIES
from service.domain.state import Anomaly
from service.domain.timeline import tell
from tests.domain.histories import (
    CELLS,
    CONTRACT,
    Sent,
    corrected,
    delivered,
    figure,
    log_of,
    noted,
    reported,
    revised,
    sent,
    signed,
    stated,
    told,
)

COMPLETED = sent("contract.completed", "2026-03-01", {})


def started(effective_on: str, **data: object) -> Sent:
    return sent("delivery.started", effective_on, data)


def flagged(*events: Sent, **times: str) -> list[tuple[str, str]]:
    """What is flagged in a history that the rules accept: the id and the sentence of each anomaly."""
    assert log_of(*events).rows[CONTRACT].revision == len(events)
    return [(known.anomaly_id, known.sentence) for known in told(*events, **times).anomalies]


def rules(*events: Sent) -> list[str]:
    return [anomaly_id for anomaly_id, _ in flagged(*events)]


def test_every_soft_rule_has_its_test_here() -> None:
    folder = Path(service.domain.__file__).parent
    text = "\n".join(file.read_text() for file in folder.glob("*.py"))
    known = set(re.findall(r'(?:flag|anomaly)\(\s*"([a-z-]+)"', text))
    tests = Path(__file__).read_text()
    assert len(known) >= 9
    assert {rule for rule in known if f'"{rule}.' not in tests} == set()


# Corrections (what they unsettle is in test_corrections.py)


def test_an_event_that_no_longer_fits_with_a_correction_is_flagged_with_it() -> None:
    history = [reported(), stated(figure("f1")), revised("f1", figure("f2")), corrected(stated(figure("f9")))]
    sentence = "revision 3 refers to what is not there, since revision 4 corrected or voided another"
    assert flagged(*history) == [("correction-unsettles.3.4", sentence)]


# Delivery before signing


def test_a_delivery_before_the_signing_is_flagged_and_says_by_which_day() -> None:
    by_day = [reported(), signed(signed_on="2024-01-20"), started("2023-06")]
    assert flagged(*by_day) == [("delivery-before-signing.2.3", "delivery in 2023-06 came before the signing on 2024-01-20")]
    latest = [reported(), signed(signed_by="2024-01-26"), started("2023-06")]
    assert flagged(*latest) == [
        ("delivery-before-signing.2.3", "delivery in 2023-06 came before the latest possible signing day, 2024-01-26")
    ]
    unsaid = [reported(), signed("2024-01-26"), started("2023-06")]
    assert flagged(*unsaid) == [("delivery-before-signing.2.3", "delivery in 2023-06 came before the signing, in effect on 2024-01-26")]


def test_the_day_of_signing_goes_before_the_latest_possible_one() -> None:
    signing = signed(signed_on="2023-06-01", signed_by="2024-01-26")
    assert flagged(reported(), signing, started("2023-07-01")) == []
    assert rules(reported(), signing, started("2023-05-31")) == ["delivery-before-signing.2.3"]


@pytest.mark.parametrize("day", ["2024-01-26", "2024-01-27", "2025"])
def test_a_delivery_from_the_signing_on_is_not_flagged(day: str) -> None:
    assert flagged(reported(), signed(signed_on="2024-01-26"), started(day)) == []


def test_a_coarse_signing_day_counts_by_what_it_may_be() -> None:
    assert rules(reported(), signed(signed_on="2024-01"), started("2024-01-15")) == []
    assert rules(reported(), signed(signed_by="2024-01"), started("2024-01-15")) == ["delivery-before-signing.2.3"]
    assert rules(reported(), signed(signed_by="2024-01"), started("2024-01-31")) == []


def test_a_delivery_is_flagged_whichever_was_recorded_first() -> None:
    assert rules(reported(), started("2023-06"), signed(signed_by="2024-01-26")) == ["delivery-before-signing.2.3"]
    recorded = [reported(items=[CELLS]), signed(), delivered("d1", "2023-06-01", effective_on="2024-02-01")]
    assert rules(*recorded) == ["delivery-before-signing.2.3"]


def test_a_signing_flags_each_delivery_before_it() -> None:
    deliveries = [delivered("d1", "2023-07-01"), delivered("d2", "2023-08"), started("2023-06"), delivered("d3", "2024-01-27")]
    events = [reported(items=[CELLS]), *deliveries, signed(signed_on="2024-01-26", effective_on="2024-02-01")]
    assert flagged(*events) == [
        ("delivery-before-signing.4.6", "delivery in 2023-06 came before the signing on 2024-01-26"),
        ("delivery-before-signing.2.6", "delivery on 2023-07-01 came before the signing on 2024-01-26"),
        ("delivery-before-signing.3.6", "delivery in 2023-08 came before the signing on 2024-01-26"),
    ]
    before, after = told(*events, day="2024-01-31").state.delivery, told(*events).state.delivery
    assert before
    assert after
    assert [(kept.delivered_on, kept.rests_on) for kept in before.unsigned] == [
        ("2023-06", [4]), ("2023-07-01", [2]), ("2023-08", [3]), ("2024-01-27", [5])
    ]  # fmt: skip
    assert after.unsigned == []


def test_of_more_deliveries_than_are_kept_for_a_signing_the_earliest_are_flagged() -> None:
    days = [(date(2023, 1, 1) + timedelta(days=number)).isoformat() for number in range(MAX_UNSIGNED_DELIVERIES + 2)]
    deliveries = [delivered(f"d{number}", day, effective_on="2023-12-01") for number, day in enumerate(reversed(days))]
    view = told(reported(items=[CELLS]), *deliveries, signed())
    flags = [known for known in view.anomalies if known.rule == "delivery-before-signing"]
    assert len(flags) == MAX_UNSIGNED_DELIVERIES
    assert {day for day in days if any(day in known.sentence for known in flags)} == {*days[:MAX_UNSIGNED_DELIVERIES]}


def test_a_signing_still_to_come_is_known_and_flags_the_delivery() -> None:
    events = [reported(), signed(signed_by="2024-01-26"), started("2023-06")]
    view = told(*events, day="2023-07-01")
    assert [known.anomaly_id for known in view.anomalies] == ["delivery-before-signing.2.3"]
    assert [pending.revision for pending in view.pending] == [2]
    unpublished = [
        {**event, "source": {"kind": "news", "published_on": day}}
        for event, day in zip(events, ["2022-07-06", "2024-01-26", "2023-06-15"], strict=True)
    ]
    assert told(*unpublished, day="2023-07-01", published_by="2023-12-31").anomalies == []


# A period that starts before the signing that states it


def test_a_start_stated_by_the_signing_before_the_signing_is_flagged() -> None:
    signing = signed(signed_on="2024-01-26", period={"start_on": "2023"})
    assert flagged(reported(), signing) == [("start-before-signing.2", "the period starts in 2023, before the signing on 2024-01-26")]
    by = signed(signed_by="2024-01-26", period={"start_on": "2023"})
    assert flagged(reported(), by) == [
        ("start-before-signing.2", "the period starts in 2023, before the latest possible signing day, 2024-01-26")
    ]


@pytest.mark.parametrize("start_on", ["2024", "2024-01", "2024-01-26", "2025"])
def test_a_start_that_may_be_the_signing_day_is_not_flagged(start_on: str) -> None:
    assert flagged(reported(), signed(signed_on="2024-01-26", period={"start_on": start_on})) == []


def test_a_start_that_only_a_report_stated_is_not_flagged() -> None:
    assert flagged(reported(period={"start_on": "2023"}), signed(signed_on="2024-01-26", period={"end_on": "2026"})) == []


# Delivery after the end


@pytest.mark.parametrize("event", [started("2027-02-01"), delivered("d1", "2027-02")], ids=["started", "recorded"])
def test_a_delivery_after_the_end_of_the_term_is_flagged(event: Sent) -> None:
    events = [reported(items=[CELLS]), signed(period={"end_on": "2026"}), event]
    day = event["effective_on"]
    assert flagged(*events) == [("delivery-after-end.2.3", f"delivery {on(day)} came after the term's end, 2026")]


def test_a_delivery_after_the_contract_was_ended_is_flagged() -> None:
    events = [reported(items=[CELLS]), signed(period={"end_on": "2030"}), COMPLETED, delivered("d1", "2026-03-02")]
    assert flagged(*events) == [("delivery-after-end.3.4", "delivery on 2026-03-02 came after the contract was completed on 2026-03-01")]


def test_a_delivery_that_may_be_in_time_is_not_flagged() -> None:
    assert flagged(reported(items=[CELLS]), signed(period={"end_on": "2026-12-15"}), delivered("d1", "2026-12")) == []
    assert flagged(reported(items=[CELLS]), signed(), COMPLETED, delivered("d1", "2026-03-01")) == []


def test_a_term_that_was_extended_in_time_does_not_flag_the_delivery() -> None:
    extended = sent("order.extended", "2026-06-01", {"via": "amendment", "new_end_on": "2028"})
    events = [reported(items=[CELLS]), signed(period={"end_on": "2026"}), delivered("d1", "2027-02")]
    assert rules(*events) == ["delivery-after-end.2.3"]
    assert rules(*events, extended) == []


# More delivered than ordered


def test_more_delivered_than_ordered_is_flagged_where_the_total_passes_the_order() -> None:
    events = [reported(), signed(items=[CELLS]), delivered("d1", "2024-03-01", "60"), delivered("d2", "2024-04-01", "40")]
    assert flagged(*events) == []
    over = [*events, delivered("d3", "2024-05-01", "0.5"), delivered("d4", "2024-06-01", "1")]
    assert flagged(*over) == [("delivered-more-than-ordered.5", "100.5 EA of cells delivered, 100 ordered")]


def test_what_an_extension_adds_is_ordered_too() -> None:
    added = sent("order.extended", "2024-03-15", {"via": "amendment", "added_quantity": {"quantity": "10", "unit": "EA"}})
    events = [reported(), signed(items=[CELLS]), delivered("d1", "2024-03-01", "100"), added, delivered("d2", "2024-04-01", "10")]
    assert flagged(*events) == []
    assert rules(*events, delivered("d3", "2024-05-01", "1")) == ["delivered-more-than-ordered.6"]


def test_what_is_added_to_an_unknown_order_does_not_make_it_known() -> None:
    unstated = {"item_id": "cells", "description": "cells", "unit": "EA"}
    added = sent("order.extended", "2024-03-15", {"via": "amendment", "added_quantity": {"quantity": "10", "unit": "EA"}})
    events = [reported(items=[unstated]), signed(), added, delivered("d1", "2024-04-01", "1000")]
    assert flagged(*events) == []
    state = told(*events).state
    assert (state.items[0].ordered, state.quantity.status) == (None, "unknown")
    assert state.extensions[0].added_quantity == {"quantity": "10", "unit": "EA"}


def test_units_are_never_converted_so_another_unit_is_not_compared() -> None:
    assert flagged(reported(), signed(items=[CELLS]), delivered("d1", "2024-03-01", "1000", unit="KWH")) == []


def test_of_another_item_or_without_an_order_nothing_is_more_than_ordered() -> None:
    unstated = {"item_id": "cells", "description": "cells"}
    assert flagged(reported(items=[unstated]), signed(), delivered("d1", "2024-03-01", "1000")) == []
    packs = {**CELLS, "item_id": "packs"}
    assert flagged(reported(items=[unstated, packs]), signed(), delivered("d1", "2024-03-01", "1000")) == []


def test_an_order_stated_after_more_was_delivered_is_flagged() -> None:
    unstated = {"item_id": "cells", "description": "cells"}
    events = [reported(items=[unstated]), delivered("d1", "2023-06-01", "150"), signed("2024-01-26", items=[CELLS])]
    assert ("delivered-more-than-ordered.3", "150 EA of cells delivered, 100 ordered") in flagged(*events)


# A value that falls


@pytest.mark.parametrize(
    ("before", "after", "falls"), [("1000", "500", True), ("1000", "501", False), ("1000", "0", True), ("0", "0", False), ("1", "2", False)]
)
def test_a_value_that_falls_by_half_or_more_is_flagged(before: str, after: str, falls: bool) -> None:
    events = [reported(), stated(figure("f1", before)), revised("f1", figure("f2", after))]
    expected = [("value-halved.3", f"the value fell from {before} to {after} KRW, by half or more")]
    assert flagged(*events) == (expected if falls else [])


def test_a_range_falls_by_its_high() -> None:
    spans = [figure("f1", None, low="100", high="1000"), figure("f2", None, low="100", high="500")]
    assert rules(reported(), stated(spans[0]), revised("f1", spans[1])) == ["value-halved.3"]


@pytest.mark.parametrize("other", [{"currency": "USD"}, {"scope": "annual"}])
def test_values_that_cannot_be_compared_do_not_fall(other: Sent) -> None:
    assert flagged(reported(), stated(figure("f1", "1000")), revised("f1", figure("f2", "1", **other))) == []


# A withheld member past its day


@pytest.mark.parametrize(("until", "last"), [("2026-06-15", "2026-06-15"), ("2026-06", "2026-06-30"), ("2026-Q2", "2026-06-30")])
def test_what_is_still_withheld_past_its_day_is_flagged(until: str, last: str) -> None:
    events = [reported(), signed(withheld=[{"path": "/value", "reason": "kept", "until": until}])]
    assert told(*events, day=last).anomalies == []
    next_day = last[:-2] + f"{int(last[-2:]) + 1:02}" if last != "2026-06-30" else "2026-07-01"
    (found,) = told(*events, day=next_day).anomalies
    assert (found.anomaly_id, found.sentence) == ("withheld-past-its-day.2", f"/value was withheld until {until} and is not released")


def test_without_a_day_nothing_is_past_it() -> None:
    assert flagged(reported(), signed(withheld=[{"path": "/value", "reason": "kept"}])) == []


def test_two_members_that_one_event_withholds_are_one_anomaly_of_two_sentences() -> None:
    kept = [{"path": path, "reason": "kept", "until": "2024"} for path in ("/value", "/quantity")]
    assert flagged(reported(), signed(withheld=kept)) == [
        (
            "withheld-past-its-day.2",
            "/value was withheld until 2024 and is not released; /quantity was withheld until 2024 and is not released",
        )
    ]


def test_what_is_still_sealed_past_its_day_is_flagged() -> None:
    sealed = [{"path": "/figure/note", "value": "in confidence", "until": "2026-06-15"}]
    log = log_of(reported(), stated(figure("f1")) | {"sealed": sealed}, day=date(2026, 6, 15))
    assert tell(log.history(), date(2026, 6, 15)).anomalies == []
    (found,) = tell(log.history(), date(2026, 6, 16)).anomalies
    sentence = "/figure/note of revision 2 was sealed until 2026-06-15 and is not revealed"
    assert (found.anomaly_id, found.sentence) == ("sealed-past-its-day.2", sentence)


# Figures that conflict


def test_figures_that_conflict_are_flagged() -> None:
    assert flagged(reported(), stated(figure("a", "1000")), stated(figure("b", "2000"))) == [
        ("figures-conflict.2.3", "a and b differ by 50.00 % and have no root in common")
    ]


def test_a_conflict_that_a_revision_settles_is_gone() -> None:
    events = [reported(), stated(figure("a", "1000")), stated(figure("b", "2000")), revised("b", figure("c", "1001"))]
    assert rules(*events) == []


def test_conflicts_of_figures_that_one_event_states_are_one_anomaly() -> None:
    figures = [figure(f"f{number}", str(number * 1000)) for number in (1, 2, 3)]
    ((anomaly_id, sentence),) = flagged(reported(figures=figures))
    assert anomaly_id == "figures-conflict.1"
    assert sentence.count("have no root in common") == 3


# What was allowed once, and the opening


def test_an_effect_before_the_opening_is_flagged() -> None:
    events = [reported("2022-07-06"), stated(figure("f1"), "2022-07-05"), stated(figure("f2"), "2022-07-06")]
    assert flagged(*events) == [("before-opening.2", "figure.stated takes effect on 2022-07-05, before the contract was opened")]


def test_an_effect_before_the_opening_is_flagged_also_where_it_cannot_be_placed() -> None:
    events = [reported("2022-07-06", items=[CELLS]), delivered("d1", "2022-07-05")]
    assert rules(*events) == ["before-opening.2"]
    assert told(*events).state.unplaced == [2]


def test_a_later_effect_that_no_longer_fits_is_flagged_and_kept() -> None:
    linked = sent("agreement.linked", "2026-06-01", {"relation": "framework"})
    events = [reported(), signed(), linked, COMPLETED]
    ((anomaly_id, sentence),) = flagged(*events)
    assert anomaly_id == "no-longer-fits.3"
    assert sentence.startswith("agreement.linked no longer fits: The contract was completed on 2026-03-01 (revision 4)")
    assert len(told(*events).state.agreements) == 1


def test_a_revision_of_what_another_had_replaced_by_then_is_flagged_and_both_are_kept() -> None:
    events = [reported(), stated(figure("a")), revised("a", figure("b"), "2024-03-01"), revised("a", figure("c"), "2024-02-15")]
    assert rules(*events) == ["revises-replaced-figure.3"]
    state = told(*events).state
    assert [one.figure_id for one in state.figures] == ["c", "b"]


# Ids, order, explanations


def test_an_anomaly_is_named_by_its_rule_and_its_revisions_and_keeps_that_name() -> None:
    events = [reported(), signed(signed_by="2024-01-26"), started("2023-06")]
    first = told(*events).anomalies
    later = told(*events, noted(), stated(figure("f1"))).anomalies
    assert [(known.anomaly_id, known.rule, known.events) for known in first] == [
        ("delivery-before-signing.2.3", "delivery-before-signing", [2, 3])
    ]
    assert later == first


def test_a_note_explains_an_anomaly() -> None:
    events = [reported(), stated(figure("a", "1000")), stated(figure("b", "2000")), noted(anomaly_id="figures-conflict.2.3"), noted()]
    log = log_of(*events)
    log.append(noted(anomaly_id="figures-conflict.2.3"))
    (found,) = told(*events, noted(anomaly_id="figures-conflict.2.3")).anomalies
    assert found.explained_by == [4, 6]
    assert b'"explained_by":[4,6]' in log.rows[CONTRACT].beside.encode()


def test_a_note_explains_no_other_anomaly() -> None:
    events = [reported(), signed(signed_by="2024-01-26"), started("2023-06"), noted(anomaly_id="delivery-before-signing.2.3")]
    conflicting = [stated(figure("a", "1000")), stated(figure("b", "2000"))]
    explained = {known.anomaly_id: known.explained_by for known in told(*events, *conflicting).anomalies}
    assert explained == {"delivery-before-signing.2.3": [4], "figures-conflict.5.6": []}


def test_anomalies_stand_beside_the_state_and_not_in_it() -> None:
    assert not {"anomalies", "pending"} & set(told(reported()).state.__struct_fields__)
    assert Anomaly.__struct_fields__ == ("anomaly_id", "rule", "events", "sentence", "explained_by")


# Parties, options, milestones, withdrawn figures


def test_a_party_that_joins_and_was_one_by_then_is_flagged() -> None:
    party = {"party_id": "p1", "name": "A party", "roles": ["broker"]}
    supplier, buyer = reported()["data"]["parties"]
    earlier = reported("2024-06-01", parties=[supplier, buyer, party])
    history = [reported(), sent("party.added", "2025-01-01", {"party": party}), earlier]
    assert flagged(*history) == [("joins-twice.2.3", "p1 joins, and was a party by then")]


# What no longer fits after what was recorded later


TERM = [reported(), signed(period={"end_on": "2026-12-31"})]
GRANTED = sent("option.granted", "2024-02-01", {"option_id": "o1", "kind": "term"})
LAPSED = sent("option.lapsed", "2024-07-01", {"option_id": "o1"})


def extended(effective_on: str, new_end_on: str, **data: str) -> Sent:
    return sent("order.extended", effective_on, {"via": "amendment", "new_end_on": new_end_on, **data})


def test_an_extension_that_no_longer_moves_the_end_is_flagged_and_leaves_it() -> None:
    history = [*TERM, extended("2026-06-01", "2028"), extended("2026-05-31", "2029")]
    assert rules(*history) == ["no-longer-fits.3"]
    state = told(*history).state
    assert state.term_end
    assert (state.term_end.end_on, state.term_end.rests_on) == ("2029", [4])
    assert ([one.new_end_on for one in state.extensions], state.unplaced) == (["2029"], [3])


def test_an_extension_after_an_end_that_was_recorded_later_is_flagged_and_not_folded() -> None:
    history = [*TERM, extended("2026-06-01", "2028"), COMPLETED]
    assert rules(*history) == ["no-longer-fits.3"]
    state = told(*history).state
    assert state.term_end
    assert (state.status, state.term_end.end_on, state.extensions, state.unplaced) == ("completed", "2026-12-31", [], [3])


def test_of_two_ends_the_first_counts_whichever_was_recorded_first() -> None:
    terminated = sent("contract.terminated", "2026-06-01", {})
    history = [*TERM, terminated, COMPLETED]
    assert rules(*history) == ["no-longer-fits.3"]
    state = told(*history).state
    assert state.ending
    assert (state.status, state.ending.rests_on, state.unplaced) == ("completed", [4], [3])
    assert told(*history, day="2026-02-28").state.ending is None


def test_an_end_that_no_longer_fits_does_not_end_the_contract() -> None:
    cancelled, late = sent("contract.cancelled", "2024-03-01", {}), signed("2024-02-01")
    history = [reported(), cancelled, late]
    assert rules(*history) == ["no-longer-fits.2"]
    assert (told(*history).state.status, told(*history).state.unplaced) == ("signed", [2])


def test_an_option_that_had_lapsed_by_then_counts_neither_as_exercised_nor_as_used() -> None:
    exercised = sent("option.exercised", "2024-08-01", {"option_id": "o1", "exercised_on": "2024-08-01"})
    used = extended("2024-09-01", "2028", via="option", option_id="o1")
    history = [*TERM, GRANTED, exercised, used, LAPSED]
    assert rules(*history) == ["no-longer-fits.4", "no-longer-fits.5"]
    state = told(*history).state
    assert state.term_end
    assert (state.options[0].status, state.options[0].times, state.term_end.end_on) == ("lapsed", 0, "2026-12-31")
    assert state.unplaced == [4, 5]


def test_what_no_longer_fits_fits_again_on_a_day_before_what_was_recorded_later() -> None:
    history = [*TERM, extended("2025-06-01", "2028"), sent("contract.terminated", "2025-03-01", {}, published_on="2025-09-01")]
    assert rules(*history) == ["no-longer-fits.3"]
    before = told(*(dict(event, source={"kind": "news", "published_on": "2025"} | event["source"]) for event in history))
    assert before.state.unplaced == [3]
    by_then = told(*history[:3], {**history[3]}, published_by="2025-08-31")
    assert by_then.anomalies == []


# A signing ahead of its day


@pytest.mark.parametrize(
    ("effective_on", "signed_on", "ahead"),
    [
        ("2024-01-26", "2999-01-01", True),
        ("2024-01-26", "2026-11-23", True),
        ("2024-01-26", "2026-11-22", False),  # in effect before it was signed: an agreement may say so
        ("2024-01-26", "2026-11", False),
        ("2027-01-01", "2027-01-01", False),  # announced
        ("2027", "2027-12-31", False),
    ],
)
def test_a_signing_that_stands_as_made_before_its_day_is_flagged(effective_on: str, signed_on: str, ahead: bool) -> None:
    sentence = f"signed {on(signed_on)}, after its day of effect, {effective_on}, and after it was recorded"
    expected = [("signed-ahead.2", sentence)] if ahead else []
    assert flagged(reported(), signed(effective_on, signed_on=signed_on)) == expected


# Milestones, acceptance, figures that are gone


def test_a_milestone_that_passes_its_day_is_flagged_until_it_is_met_or_missed() -> None:
    scheduled = sent("milestone.scheduled", "2024-02-01", {"milestone_id": "m1", "title": "SOP", "due_on": "2024-Q2"})
    sentence = "the milestone m1 was due in 2024-Q2, and is neither met nor missed"
    on_time, late = (told(reported(), signed(), scheduled, day=day) for day in ("2024-06-30", "2024-07-01"))
    assert (on_time.anomalies, on_time.holds_until) == ([], date(2024, 7, 1))
    assert [(known.anomaly_id, known.sentence) for known in late.anomalies] == [("milestone-past-its-day.3", sentence)]
    for what in ("met", "missed"):
        assert rules(reported(), signed(), scheduled, sent(f"milestone.{what}", "2024-08-01", {"milestone_id": "m1"})) == []


def test_more_judged_than_delivered_is_flagged_once() -> None:
    judged = {"delivery_id": "d1", "item_id": "cells", "unit": "EA"}
    accepted = sent("delivery.accepted", "2024-06-02", {**judged, "quantity": "9"})
    rejected = sent("delivery.rejected", "2024-06-03", {**judged, "quantity": "2"})
    history = [reported(items=[CELLS]), signed(), delivered("d1", "2024-06-01"), accepted, rejected, rejected]
    assert flagged(*history) == [("judged-more-than-delivered.5", "11 EA of cells accepted or rejected, 10 delivered")]


def test_a_figure_that_is_withdrawn_after_it_was_replaced_is_flagged() -> None:
    withdrawn = sent("figure.withdrawn", "2024-05-01", {"figure_id": "f1", "reason": "wrong"})
    history = [reported(), stated(figure("f1")), revised("f1", figure("f2")), withdrawn]
    assert flagged(*history) == [("withdraws-absent-figure.4", "f1 is withdrawn, which another revision had replaced by then")]
