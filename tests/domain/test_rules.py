"""The hard rules, each given a history, when an event comes, then accepted or refused by its name."""

from datetime import date

import pytest

from service.domain.contract import MAX_EVENTS, decide
from service.domain.events import EVENT_TYPES
from service.domain.figures import MAX_FIGURES
from service.domain.state import Contract
from service.errors import AnomaliesRefused, NotAllowedNow, Refused, StaleRevision
from tests.domain.histories import (
    BUYER,
    CELLS,
    CONTRACT,
    NEEDS_AN_EVENT,
    SUPPLIER,
    TODAY,
    Log,
    Sent,
    corrected,
    delivered,
    events_of,
    figure,
    flagged_in,
    log_of,
    noted,
    refused,
    reported,
    revised,
    sent,
    signed,
    stated,
    told,
    voided,
)

COMPLETED = sent("contract.completed", "2026-03-01", {})
SUPERSEDED = sent("contract.superseded", "2026-03-01", {"successor": {"scheme": "DART", "id": "2"}})
CANCELLED = sent("contract.cancelled", "2023-03-01", {"cause": "the talks failed"})
TERMINATED = sent("contract.terminated", "2026-03-01", {"by": "Isuzu Motors", "cause": "notice"})


def extended(effective_on: str = "2025-01-01", via: str = "amendment", **data: object) -> Sent:
    return sent("order.extended", effective_on, {"via": via, **data})


def linked(effective_on: str = "2025-01-01") -> Sent:
    return sent("agreement.linked", effective_on, {"relation": "framework"})


def started(effective_on: str = "2024-06-01", **data: object) -> Sent:
    return sent("delivery.started", effective_on, data)


OPEN = [reported(items=[CELLS]), stated(figure("f1"))]
SIGNED = [*OPEN, signed()]


# The first event


@pytest.mark.parametrize("event_type", sorted(set(EVENT_TYPES) - {"contract.reported", "contract.signed"}))
def test_no_other_event_than_reported_or_signed_opens_a_contract(event_type: str) -> None:
    data = EVENT_TYPES[event_type]
    assert not data.opens
    with pytest.raises(NotAllowedNow) as caught:
        decide(object.__new__(data), Contract(), Contract(), 1, TODAY, effective_on="2024")
    assert caught.value.rule == "first-event-opens"


def test_a_contract_opens_as_reported_or_as_signed() -> None:
    for opening in (reported(), signed(title="Cells", kind="supply", parties=[SUPPLIER, BUYER])):
        assert log_of(opening).rows[CONTRACT].revision == 1


@pytest.mark.parametrize("missing", ["title", "kind", "parties"])
def test_what_opens_states_title_kind_and_parties(missing: str) -> None:
    full = {"title": "Cells", "kind": "supply", "parties": [SUPPLIER, BUYER]}
    less = {name: member for name, member in full.items() if name != missing}
    for opening in (reported(**{missing: None}), signed(**less)):
        assert faulty(opening) == [f"/data/{missing}"]
    assert faulty(reported(title=None, kind=None, parties=None)) == ["/data/title", "/data/kind", "/data/parties"]
    assert faulty(signed(**less), noted()) == [f"/events/0/data/{missing}"]


def faulty(*events: Sent) -> list[str]:
    """The pointers of a request that opens a contract and is refused for its data."""
    log = Log().at(TODAY)
    with pytest.raises(Refused) as caught:
        log.append(*events)
    assert log.rows == {}
    return [fault.pointer for fault in caught.value.errors]


def test_a_figure_of_what_opens_derives_from_one_that_stands_before_it() -> None:
    def opened(*figures: Sent) -> Sent:
        return reported(figures=list(figures))

    derived = figure("b", derived_from={"figure_id": "a"})
    assert faulty(opened(derived)) == ["/data/figures/0/derived_from/figure_id"]
    assert faulty(opened(derived, figure("a"))) == ["/data/figures/0/derived_from/figure_id"]
    assert faulty(opened(figure("a"), figure("a", "2"))) == ["/data/figures/1/figure_id"]
    log = log_of(opened(figure("a"), derived))
    assert refused(log, signed(figures=[figure("c", derived_from={"figure_id": "nothing"})])) == "known-figure"
    log.append(signed(figures=[figure("c", derived_from={"figure_id": "a"})]))


def test_a_report_recurs_with_its_stage_alone() -> None:
    log = log_of(reported())
    log.append(sent("contract.reported", "2023-01-01", {"stage": "denied"}))
    assert log.rows[CONTRACT].revision == 2


def test_a_member_stated_again_replaces_the_one_that_stood_and_a_period_member_by_member() -> None:
    state = told(
        reported(items=[CELLS], period={"start_on": "2023", "duration": "P4Y"}, references=[{"scheme": "DART", "id": "1"}]),
        signed(title="Batteries", items=[{"item_id": "packs", "description": "packs"}], period={"end_on": "2026-12-31"}),
    ).state
    assert (state.title, state.kind, [item.item_id for item in state.items]) == ("Batteries", "supply", ["packs"])
    assert [party.party_id for party in state.parties] == ["lges", "isuzu"]
    assert state.references == [{"scheme": "DART", "id": "1", "rests_on": [1]}]
    assert state.period
    assert (state.period.start_on, state.period.duration, state.period.end_on) == ("2023", "P4Y", "2026-12-31")
    assert (state.period.stated_in, state.period.rests_on) == ({"start_on": 1, "duration": 1, "end_on": 2}, [1, 2])


# Signed once


def test_a_contract_is_signed_once() -> None:
    assert refused(log_of(*SIGNED), signed("2025-01-01")) == "signed-once"


def test_a_second_signing_is_refused_though_it_takes_effect_before_the_first_or_the_first_is_still_to_come() -> None:
    assert refused(log_of(*SIGNED), signed("2023-01-01")) == "signed-once"
    assert refused(log_of(*OPEN, signed("2030-01-01")), signed("2026-01-01")) == "signed-once"
    assert refused(log_of(*OPEN), signed("2026-01-01"), signed("2026-01-02")) == "signed-once"


# A supplier and a buyer


@pytest.mark.parametrize(
    ("parties", "withheld", "rule"),
    [
        ([SUPPLIER, BUYER], [], None),
        ([SUPPLIER], [], "supplier-and-buyer"),
        ([BUYER], [], "supplier-and-buyer"),
        ([{**SUPPLIER, "roles": ["supplier", "buyer"]}], [], None),
        ([{**SUPPLIER, "roles": ["manufacturer"]}, BUYER], [], "supplier-and-buyer"),
        ([SUPPLIER], ["/parties/buyer"], None),
        ([BUYER], ["/parties/supplier"], None),
        ([BUYER], ["/parties/buyer"], "supplier-and-buyer"),
        ([{**SUPPLIER, "roles": ["broker"]}], ["/parties"], None),
        ([{**SUPPLIER, "roles": ["broker"]}], ["/parties/supplier"], "supplier-and-buyer"),
        ([{**SUPPLIER, "roles": ["broker"]}], ["/value"], "supplier-and-buyer"),
    ],
)
def test_a_signed_contract_has_a_supplier_and_a_buyer_each_named_or_withheld(parties: list[Sent], withheld: list[str], rule: str) -> None:
    kept = {"withheld": [{"path": path, "reason": "kept"} for path in withheld]} if withheld else {}
    opening = signed(title="Cells", kind="supply", parties=parties, **kept)
    carried = [reported(parties=parties), signed(**kept)]
    for history in ([opening], carried):
        log = log_of(*history[:-1])
        if rule:
            assert refused(log, history[-1]) == rule
        else:
            log.append(history[-1])


def test_the_parties_that_stand_by_the_signing_count_and_not_those_of_later() -> None:
    log = log_of(reported(parties=[SUPPLIER]), reported("2025-01-01"))
    assert refused(log, signed("2024-01-26")) == "supplier-and-buyer"
    log.append(signed("2025-01-01"))


# After an end

COURSE = [
    delivered("d1", "2024-06-01"),
    sent("delivery.suspended", "2024-07-01", {}),
    sent("option.granted", "2024-07-01", {"option_id": "o1", "kind": "term"}),
    sent("milestone.scheduled", "2024-07-01", {"milestone_id": "m1", "title": "Start of production"}),
    sent("dispute.raised", "2024-07-01", {"reference": "1"}),
    sent("force_majeure.declared", "2024-07-01", {"reference": "1"}),
    sent("disclosure.withheld", "2024-07-01", {"withheld": [{"path": "/value", "reason": "kept"}]}),
]
_JUDGED = {"delivery_id": "d1", "item_id": "cells", "quantity": "1", "unit": "EA"}
_CONDITION = {"condition_id": "c1", "title": "Approval"}
_PARTY = {"party_id": "p1", "name": "A party", "roles": ["broker"]}
AFTER_END: dict[str, list[Sent]] = {
    "accepted": [
        started("2026-04-01"),
        delivered("late", "2026-04-01"),
        stated(figure("f2"), "2026-04-01"),
        revised("f1", figure("f3"), "2026-04-01", reason="actuals"),
        noted("2026-04-01"),
        sent("figure.withdrawn", "2026-04-01", {"figure_id": "f1", "reason": "wrong"}),
        sent("delivery.accepted", "2026-04-01", _JUDGED),
        sent("delivery.rejected", "2026-04-01", _JUDGED),
        sent("delivery.completed", "2026-04-01", {}),
        sent("disclosure.filed", "2026-04-01", {}),
        sent("disclosure.withheld", "2026-04-01", {"withheld": [{"path": "/quantity", "reason": "kept"}]}),
        sent("disclosure.released", "2026-04-01", {"paths": ["/value"]}),
        sent("dispute.raised", "2026-04-01", {"reference": "2"}),
        sent("dispute.resolved", "2026-04-01", {"reference": "1"}),
        sent("contract.labelled", None, {"set": ["late"]}),
        corrected(stated(figure("f1", "9"))),
        voided(1),
    ],
    "refused": [
        sent("party.added", "2026-04-01", {"party": _PARTY}),
        sent("party.replaced", "2026-04-01", {"replaces": "lges", "party": _PARTY}),
        sent("party.identified", "2026-04-01", {"party_id": "lges", "name": "LGES"}),
        sent("option.granted", "2026-04-01", {"option_id": "o2", "kind": "term"}),
        sent("option.exercised", "2026-04-01", {"option_id": "o1", "exercised_on": "2026-04-01"}),
        sent("option.lapsed", "2026-04-01", {"option_id": "o1"}),
        sent("terms.amended", "2026-04-01", {"amendment_id": "a1", "changes": [{"path": "/title", "from": "Cells", "to": "Packs"}]}),
        sent("delivery.suspended", "2026-04-01", {}),
        sent("delivery.resumed", "2026-04-01", {}),
        sent("milestone.scheduled", "2026-04-01", {"milestone_id": "m2", "title": "End of production"}),
        sent("milestone.met", "2026-04-01", {"milestone_id": "m1"}),
        sent("milestone.missed", "2026-04-01", {"milestone_id": "m1"}),
        sent("condition.satisfied", "2026-04-01", _CONDITION),
        sent("condition.failed", "2026-04-01", _CONDITION),
        sent("force_majeure.declared", "2026-04-01", {"reference": "2"}),
        sent("force_majeure.lifted", "2026-04-01", {"reference": "1"}),
        sent("contract.cancelled", "2026-04-01", {}),
        sent("contract.superseded", "2026-04-01", {}),
        reported("2026-04-01"),
        revised("f1", figure("f3"), "2026-04-01", reason="renegotiation"),
        revised("f1", figure("f3"), "2026-04-01", reason="price_index"),
        extended("2026-04-01", new_end_on="2028"),
        linked("2026-04-01"),
        sent("contract.completed", "2026-04-01", {}),
        sent("contract.terminated", "2026-04-01", {}),
    ],
}


def test_what_comes_after_an_end_is_decided_for_every_event_type() -> None:
    told = {event["event_type"] for events in AFTER_END.values() for event in events}
    assert told == set(EVENT_TYPES) - {"contract.signed", *NEEDS_AN_EVENT}  # they have tests of their own


@pytest.mark.parametrize("end", [COMPLETED, TERMINATED, SUPERSEDED], ids=["completed", "terminated", "superseded"])
@pytest.mark.parametrize("event", AFTER_END["accepted"], ids=lambda event: event["event_type"])
def test_after_an_end_late_facts_are_recorded(end: Sent, event: Sent) -> None:
    log = log_of(*SIGNED, *COURSE, end)
    log.append(event)
    assert log.rows[CONTRACT].revision == 5 + len(COURSE)


@pytest.mark.parametrize("end", [COMPLETED, TERMINATED, SUPERSEDED], ids=["completed", "terminated", "superseded"])
@pytest.mark.parametrize("event", AFTER_END["refused"], ids=lambda event: event["event_type"])
def test_after_an_end_nothing_else_is(end: Sent, event: Sent) -> None:
    assert refused(log_of(*SIGNED, *COURSE, end), event) == "after-end"


def test_after_an_end_no_contract_is_signed() -> None:
    assert refused(log_of(*OPEN, SUPERSEDED), signed("2026-04-01")) == "after-end"


def test_a_truth_recorded_late_is_not_refused_for_the_end_that_came_after() -> None:
    log = log_of(*SIGNED, COMPLETED)
    log.append(extended("2026-02-28", new_end_on="2028"))
    assert log.rows[CONTRACT].revision == 5


def test_on_the_day_of_the_end_what_is_recorded_later_comes_after_it() -> None:
    assert refused(log_of(*SIGNED, COMPLETED), linked("2026-03-01")) == "after-end"


def test_an_end_still_to_come_refuses_nothing_before_it() -> None:
    log = log_of(*SIGNED, sent("contract.terminated", "2027-03-01", {}))
    log.append(linked("2026-11-01"))
    assert refused(log, linked("2027-03-02")) == "after-end"


# Terminate what is signed


def test_only_a_signed_contract_is_terminated() -> None:
    assert refused(log_of(*OPEN), TERMINATED) == "terminate-signed"
    log_of(*SIGNED).append(TERMINATED)


def test_a_contract_is_not_terminated_on_a_day_before_its_signing() -> None:
    log = log_of(*SIGNED)
    assert refused(log, {**TERMINATED, "effective_on": "2024-01-25"}) == "terminate-signed"
    log.append({**TERMINATED, "effective_on": "2024-01-26"})


def test_only_a_signed_contract_is_completed() -> None:
    assert refused(log_of(*OPEN), COMPLETED) == "complete-signed"
    assert refused(log_of(*OPEN, sent("contract.reported", "2023-01-01", {"stage": "denied"})), COMPLETED) == "complete-signed"
    log = log_of(*SIGNED)
    assert refused(log, {**COMPLETED, "effective_on": "2024-01-25"}) == "complete-signed"
    log.append(COMPLETED)


def test_only_what_is_not_signed_by_then_is_cancelled() -> None:
    assert refused(log_of(*SIGNED), {**CANCELLED, "effective_on": "2024-01-26"}) == "cancel-unsigned"
    log_of(*OPEN).append({**CANCELLED, "effective_on": "2026-03-01"})
    log = log_of(*SIGNED)
    log.append(CANCELLED)
    assert flagged_in(log) == ["no-longer-fits.3"]


# A new end


def test_a_new_end_is_later_than_the_end_then_standing() -> None:
    log = log_of(*OPEN, signed(period={"end_on": "2026-12-31"}))
    for new_end_on in ("2026-12-31", "2026-12", "2026", "2026-12-30", "2025"):
        assert refused(log, extended(new_end_on=new_end_on)) == "end-moves-later"
    log.append(extended(new_end_on="2027-01-01"))
    assert refused(log, extended("2025-02-01", new_end_on="2027-01-01")) == "end-moves-later"
    log.append(extended("2025-02-01", new_end_on="2027-01"))


def test_a_new_end_is_held_against_the_end_that_start_and_duration_make() -> None:
    log = log_of(reported(period={"start_on": "2023", "duration": "P4Y"}), signed())
    assert refused(log, extended(new_end_on="2026")) == "end-moves-later"
    log.append(extended(new_end_on="2027"))


def test_a_new_end_is_held_against_the_end_at_its_own_day() -> None:
    log = log_of(*OPEN, signed(period={"end_on": "2026-12-31"}), extended("2026-06-01", new_end_on="2028"))
    log.append(extended("2026-05-31", new_end_on="2029"))
    assert flagged_in(log) == ["no-longer-fits.4"]


def test_without_an_end_any_new_end_is_the_first() -> None:
    log_of(*OPEN, signed()).append(extended(new_end_on="2024-02-01"))


@pytest.mark.parametrize(("via", "rule"), [("renewal", "within-max-end"), ("amendment", None)])
def test_a_new_end_is_within_the_latest_end_unless_amended(via: str, rule: str | None) -> None:
    log = log_of(*OPEN, signed(period={"end_on": "2026-12-31", "max_end_on": "2028"}))
    if rule:
        assert refused(log, extended(via=via, new_end_on="2029-01-01")) == rule
        log.append(extended(via=via, new_end_on="2028-12-31"))
    else:
        log.append(extended(via=via, new_end_on="2029-01-01"))


# Known targets, unique ids


def test_an_option_that_was_never_granted_is_not_used() -> None:
    log = log_of(*SIGNED)
    assert refused(log, extended(via="option", option_id="o1", new_end_on="2028-12-31")) == "known-option"
    assert refused(log, extended(via="option", new_end_on="2028-12-31")) == "known-option"
    assert refused(log, extended(option_id="o1", new_end_on="2028-12-31")) == "known-option"


def test_an_extension_that_adds_nothing_is_refused_as_a_fault_of_its_data() -> None:
    with pytest.raises(Refused, match="adds something") as refusal:
        log_of(*SIGNED).append(extended())
    assert [fault.pointer for fault in refusal.value.errors] == ["/data"]


def test_the_id_of_a_figure_that_was_not_placed_is_taken_and_known() -> None:
    unplaced = revised("f1", figure("f2"), effective_on="2022-07-01")
    log = log_of(*SIGNED, unplaced)
    assert '"unplaced_figures":["f2"]' in log.rows[CONTRACT].state
    assert refused(log, stated(figure("f2"))) == "unique-figure"
    assert log.append(stated(figure("f3", derived_from={"figure_id": "f2"}))).revision == 5
    assert '"unplaced":[4,5]' in log.rows[CONTRACT].state


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (revised("nothing", figure("f2")), "known-figure"),
        (stated(figure("f2", derived_from={"figure_id": "nothing"})), "known-figure"),
        (reported("2024-01-01", figures=[figure("f2", derived_from={"figure_id": "f3"})]), "known-figure"),
        (noted(figure_id="nothing"), "known-figure"),
        (noted(item_id="nothing"), "known-item"),
        (noted(anomaly_id="figures-conflict.1.2"), "known-anomaly"),
        (noted(event_id="00000000-0000-7000-8000-000000000099"), "known-event"),
        (started(item_id="nothing"), "known-item"),
        (delivered("d1", "2024-06-01", item_id="nothing"), "known-item"),
        (extended(added_quantity={"quantity": "1", "unit": "EA", "item_id": "nothing"}), "known-item"),
        (stated(figure("f1")), "unique-figure"),
        (revised("f1", figure("f1")), "unique-figure"),
        (reported("2024-01-01", figures=[figure("f2"), figure("f1")]), "unique-figure"),
    ],
)
def test_what_an_event_refers_to_is_known_and_its_own_ids_are_new(event: Sent, rule: str) -> None:
    assert refused(log_of(*SIGNED), event) == rule


@pytest.mark.parametrize(
    "event",
    [
        stated(figure("f2", derived_from={"figure_id": "f1"})),
        reported("2024-01-01", figures=[figure("f2"), figure("f3", derived_from={"figure_id": "f2"})]),
        noted(figure_id="f1"),
        noted(item_id="cells"),
        started(item_id="cells"),
        delivered("d1", "2024-06-01"),
        extended(added_quantity={"quantity": "1", "unit": "EA", "item_id": "cells"}),
    ],
)
def test_an_event_that_refers_to_what_is_known_is_accepted(event: Sent) -> None:
    assert log_of(*SIGNED).append(event).revision == 4


def test_ids_and_targets_are_judged_over_the_whole_contract_whatever_the_days() -> None:
    log = log_of(*OPEN, stated(figure("future"), "2031-01-01"))
    log.append(noted("2023-01-01", figure_id="future"))
    log.append(revised("future", figure("nearer"), "2024-01-01"))
    assert refused(log, stated(figure("future"), "2023-01-01")) == "unique-figure"


def test_a_replaced_figure_is_known_and_its_id_is_taken() -> None:
    log = log_of(*SIGNED, revised("f1", figure("f2")))
    assert refused(log, stated(figure("f1"))) == "unique-figure"
    log.append(stated(figure("f3", derived_from={"figure_id": "f1"})))
    log.append(noted(figure_id="f1"))


def test_a_delivery_id_is_used_once_in_a_contract_and_may_be_used_in_another() -> None:
    log = log_of(*SIGNED, delivered("d1", "2024-06-01"))
    assert refused(log, delivered("d1", "2024-07-01")) == "unique-delivery"
    assert refused(log, delivered("d2", "2024-07-01"), delivered("d2", "2024-07-01")) == "unique-delivery"
    assert refused(log, delivered("d2", "2024-07-01"), delivered("d1", "2024-07-01")) == "unique-delivery"
    other = CONTRACT[:-1] + "2"
    log.append(reported(items=[CELLS]), delivered("d1", "2024-06-01"), contract_id=other)
    assert log.rows[other].revision == 2


def test_a_note_is_about_an_event_of_its_own_contract() -> None:
    log = log_of(*SIGNED)
    log.append(noted(event_id=log.history()[1].event_id))
    other = CONTRACT[:-1] + "2"
    log.append(reported(), contract_id=other)
    assert refused(log, noted(event_id=log.history(other)[0].event_id)) == "known-event"


# Limits


def test_a_contract_has_a_most_of_standing_figures() -> None:
    batch = [figure(f"g{number}", str(1000 + number)) for number in range(MAX_FIGURES - 1)]
    log = log_of(*OPEN, *(reported("2024-01-01", figures=part) for part in (batch[:50], batch[50:])))
    assert refused(log, stated(figure("one-more"))) == "figures-limit"


def test_at_the_most_of_figures_one_may_still_be_revised() -> None:
    batch = [figure(f"g{number}", str(1000 + number)) for number in range(MAX_FIGURES - 1)]
    log = log_of(*OPEN, *(reported("2024-01-01", figures=part) for part in (batch[:50], batch[50:])))
    log.append(revised("f1", figure("f2")))


def test_a_contract_has_a_most_of_events() -> None:
    (note,) = events_of(noted())
    opened = Contract(told(reported()).state)
    decide(note.data, opened, opened, MAX_EVENTS, TODAY, effective_on=note.effective_on)
    with pytest.raises(NotAllowedNow) as caught:
        decide(note.data, opened, opened, MAX_EVENTS + 1, TODAY, effective_on=note.effective_on)
    assert caught.value.rule == "events-limit"


# A request is decided as a whole


def test_a_request_whose_last_event_is_refused_leaves_nothing_of_the_first() -> None:
    assert refused(log_of(*OPEN), stated(figure("f2")), TERMINATED) == "terminate-signed"


def test_each_event_of_a_request_is_judged_after_those_before_it() -> None:
    log = log_of(*OPEN)
    receipt = log.append(signed(), stated(figure("f2")), revised("f2", figure("f3")), TERMINATED)
    assert receipt.revision == 6


def test_each_request_of_a_batch_has_its_own_fate() -> None:
    log = log_of(*OPEN)
    batch = log.commit(log.request(TERMINATED), log.request(signed()), log.request(signed()), log.request(TERMINATED))
    rules = [getattr(outcome, "rule", None) for outcome in batch.outcomes]
    assert rules == ["terminate-signed", None, "signed-once", None]
    assert log.rows[CONTRACT].revision == 4


def test_append_with_stale_revision_is_refused() -> None:
    log = log_of(*OPEN)
    with pytest.raises(StaleRevision) as caught:
        log.append(noted(), expected_revision=1)
    assert caught.value.members == {"expected_revision": 1, "current_revision": 2}
    log.append(noted(), expected_revision=2)


# strict


def test_strict_refuses_what_would_be_flagged_and_names_it() -> None:
    log = log_of(*SIGNED)
    with pytest.raises(AnomaliesRefused, match="delivery in 2023-06 came before the signing"):
        log.append(started("2023-06"), strict=True)
    assert log.rows[CONTRACT].revision == 3
    log.append(started("2024-06"), strict=True)


def test_strict_does_not_refuse_for_what_was_flagged_before() -> None:
    log = log_of(*SIGNED, started("2023-06"))
    assert flagged_in(log) == ["delivery-before-signing.3.4"]
    log.append(noted(), strict=True)


def test_strict_refuses_what_adds_to_an_anomaly_that_stood() -> None:
    log = log_of(*SIGNED, delivered("d1", "2024-06-01", "150"))
    assert flagged_in(log) == ["delivered-more-than-ordered.4"]
    for late in ("2024-06-02", "2024-05-01"):
        with pytest.raises(AnomaliesRefused, match="151 EA of cells delivered, 100 ordered"):
            log.append(delivered("d2", late, "1"), strict=True)
    log.append(delivered("d3", "2024-06-02", "0"), strict=True)
    log.append(delivered("d4", "2024-06-02", "1", unit="KWH"), strict=True)
    judged = {"delivery_id": "d1", "item_id": "cells", "unit": "EA"}
    log.append(sent("delivery.accepted", "2024-06-03", {**judged, "quantity": "151"}))
    for kind in ("accepted", "rejected"):
        with pytest.raises(AnomaliesRefused, match="cells accepted or rejected, 150 delivered"):
            log.append(sent(f"delivery.{kind}", "2024-06-04", {**judged, "quantity": "0.5"}), strict=True)
    assert log.rows[CONTRACT].revision == 7


def test_strict_does_not_refuse_for_what_only_the_calendar_brought() -> None:
    withheld = [{"path": "/value", "reason": "kept", "until": "2026-12-31"}]
    log = log_of(*OPEN, signed(withheld=withheld), day=date(2026, 11, 22))
    assert flagged_in(log) == []
    log.at(date(2027, 1, 2)).append(noted("2027-01-02"), strict=True)
    assert flagged_in(log) == ["withheld-past-its-day.3"]


def test_a_receipt_names_the_anomalies_that_its_request_raised() -> None:
    log = log_of(*SIGNED)
    assert b'"anomalies":[]' in log.append(noted()).body
    raised = log.append(started("2023-06")).body
    assert b'"anomalies":[{"anomaly_id":"delivery-before-signing.3.5","rule":"delivery-before-signing"}]' in raised
    assert b'"anomalies":[]' in log.append(noted()).body
