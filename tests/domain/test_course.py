"""How a contract goes: deliveries judged and stopped, milestones, conditions, disclosures, disputes, labels, figures taken back."""

from typing import Any

import pytest

from service.domain.labels import MAX_LABELS
from service.errors import NotAllowedNow, Refused
from tests.domain.histories import (
    CELLS,
    TODAY,
    Sent,
    delivered,
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
)

OPEN = [reported(items=[CELLS]), signed()]


def judged(kind: str, quantity: str = "10", effective_on: str = "2024-06-02", **data: Any) -> Sent:
    members = {"delivery_id": "d1", "item_id": "cells", "quantity": quantity, "unit": "EA", **data}
    return sent(f"delivery.{kind}", effective_on, members)


def suspended(effective_on: str = "2024-07-01", **data: Any) -> Sent:
    return sent("delivery.suspended", effective_on, data)


def resumed(effective_on: str = "2024-08-01", **data: Any) -> Sent:
    return sent("delivery.resumed", effective_on, data)


def milestone(what: str, effective_on: str = "2024-02-01", **data: Any) -> Sent:
    return sent(f"milestone.{what}", effective_on, {"milestone_id": "m1", **data})


def withheld(*paths: str, effective_on: str = "2024-02-01", **data: Any) -> Sent:
    return sent("disclosure.withheld", effective_on, {"withheld": [{"path": path, "reason": "kept", **data} for path in paths]})


def released(*paths: str, effective_on: str = "2024-03-01") -> Sent:
    return sent("disclosure.released", effective_on, {"paths": list(paths)})


def dispute(what: str, effective_on: str, reference: str = "1") -> Sent:
    return sent(f"dispute.{what}", effective_on, {"reference": reference})


def labelled(**data: Any) -> Sent:
    return sent("contract.labelled", None, data)


def withdrawn(figure_id: str = "f1", effective_on: str = "2024-05-01") -> Sent:
    return sent("figure.withdrawn", effective_on, {"figure_id": figure_id, "reason": "the newspaper was wrong"})


# Deliveries


def test_what_is_accepted_and_rejected_is_totalled_by_item_and_unit() -> None:
    history = [*OPEN, delivered("d1", "2024-06-01", "20"), judged("accepted", "12.5"), judged("rejected", "1"), judged("accepted", "2")]
    assert flagged_in(log_of(*history)) == []
    acceptance = told(*history).state.acceptance
    assert acceptance
    assert [(total.item_id, total.unit, total.quantity) for total in acceptance.accepted] == [("cells", "EA", "14.5")]
    assert [total.quantity for total in acceptance.rejected] == ["1"]


def test_a_delivery_is_judged_once_it_is_recorded() -> None:
    log = log_of(*OPEN, delivered("d1", "2024-06-01"))
    assert refused(log_of(*OPEN), judged("accepted")) == "known-delivery"
    assert refused(log, judged("accepted", unit="KWH")) == "known-delivery"
    assert refused(log, judged("rejected", item_id="packs")) == "known-item"
    assert refused(log, judged("accepted", delivery_id="d2")) == "known-delivery"
    assert refused(log, judged("accepted", delivery_id="d2"), delivered("d2", "2024-06-02")) == "known-delivery"
    log.append(judged("accepted", effective_on="2024-05-31"))
    assert '"unplaced":[4]' in log.rows[next(iter(log.rows))].state


def test_a_delivery_is_judged_in_the_request_that_records_it_and_never_by_another_contract() -> None:
    log = log_of(*OPEN, delivered("d1", "2024-06-01"))
    log.append(delivered("d2", "2024-06-02"), judged("accepted", delivery_id="d2"), judged("rejected", "0", delivery_id="d1"))
    other = "00000000-0000-7000-8000-0000000000c2"
    log.append(OPEN[0], contract_id=other)
    log.append(delivered("d3", "2024-06-01"), contract_id=other)
    with pytest.raises(NotAllowedNow, match="no delivery d3"):
        log.append(judged("accepted", delivery_id="d3"))
    assert log.append(judged("accepted", delivery_id="d3"), contract_id=other).revision == 3


def test_suspended_deliveries_make_a_suspended_contract_until_they_go_on() -> None:
    history = [*OPEN, delivered("d1", "2024-06-01"), suspended(reason="flood"), resumed()]
    log_of(*history)
    assert [told(*history, day=day).state.status for day in ("2024-06-30", "2024-07-01", "2024-07-31", "2024-08-01")] == [
        *("delivering", "suspended", "suspended", "delivering"),
    ]
    assert told(*history, day="2024-07-01").state.status_rests_on == [4]
    (suspension,) = told(*history).state.suspensions
    assert (suspension.suspended_on, suspension.resumed_on, suspension.rests_on) == ("2024-07-01", "2024-08-01", [4, 5])


def test_a_contract_is_suspended_once_every_item_is() -> None:
    packs = {"item_id": "packs", "description": "packs"}
    history = [reported(items=[CELLS, packs]), signed(), suspended(item_id="cells"), suspended(item_id="packs"), resumed(item_id="cells")]
    log_of(*history)
    assert [told(*history[:count]).state.status for count in (3, 4)] == ["signed", "suspended"]
    assert told(*history).state.status == "signed"


def test_an_end_goes_before_a_suspension() -> None:
    history = [reported(period={"end_on": "2024-07-15"}), signed(), suspended()]
    assert [told(*history, day=day).state.status for day in ("2024-07-15", "2024-07-16")] == ["suspended", "expired"]


def test_only_what_was_suspended_is_resumed() -> None:
    assert refused(log_of(*OPEN), resumed()) == "known-suspension"
    assert refused(log_of(*OPEN, suspended()), resumed(item_id="cells")) == "known-suspension"
    assert told(*OPEN, suspended(), resumed("2024-06-01")).state.unplaced == [4]


def test_deliveries_that_are_complete_do_not_end_the_contract() -> None:
    history = [
        *OPEN,
        delivered("d1", "2024-06-01"),
        sent("delivery.completed", "2024-07-01", {"item_id": "cells", "delivered_on": "2024-06"}),
    ]
    log_of(*history)
    state = told(*history).state
    assert (state.status, state.completions[0].completed_on, state.completions[0].item_id) == ("delivering", "2024-06", "cells")


# Milestones and conditions


def test_a_milestone_is_scheduled_scheduled_anew_missed_and_met() -> None:
    history = [
        *OPEN,
        milestone("scheduled", title="SOP", due_on="2024-Q2"),
        milestone("scheduled", "2024-03-01", title="Start", due_on="2024-Q3"),
        milestone("missed", "2024-10-01"),
        milestone("met", "2024-11-01"),
    ]
    log_of(*history)
    stood = [told(*history[:count]).state.milestones[0] for count in (3, 4, 5, 6)]
    assert [(known.status, known.due_on, known.rests_on) for known in stood] == [
        ("scheduled", "2024-Q2", [3]),
        ("scheduled", "2024-Q3", [4]),
        ("missed", "2024-Q3", [4, 5]),
        ("met", "2024-Q3", [4, 6]),
    ]


def test_only_a_milestone_that_is_known_is_met_or_missed() -> None:
    for what in ("met", "missed"):
        assert refused(log_of(*OPEN), milestone(what)) == "known-milestone"
    assert told(*OPEN, milestone("scheduled", title="SOP"), milestone("met", "2024-01-31")).state.unplaced == [4]


def test_a_condition_is_what_was_last_said_of_it() -> None:
    failed, satisfied = (
        sent(f"condition.{what}", day, {"condition_id": "c1", "title": "Approval", "due_on": "2024-03"})
        for what, day in (("failed", "2024-02-01"), ("satisfied", "2024-02-15"))
    )
    state = told(*OPEN, satisfied, failed).state
    assert [(known.condition_id, known.status, known.effective_on, known.rests_on) for known in state.conditions] == [
        ("c1", "satisfied", "2024-02-15", [3])
    ]
    assert told(*OPEN, failed).state.conditions[0].status == "failed"


# Disclosure


def test_what_a_filing_keeps_back_is_withheld_until_it_is_released() -> None:
    filed = sent(
        "disclosure.filed",
        "2024-01-27",
        {"title": "Filing", "contains": ["/title"], "withheld": [{"path": "/value", "reason": "secret", "until": "2026"}]},
    )
    history = [*OPEN, filed, withheld("/quantity"), released("/value")]
    log_of(*history)
    kept = told(*history, day="2024-02-29").state
    assert (kept.marks, kept.value.status, kept.quantity.status) == (["withheld"], "withheld", "estimated")
    assert [part.path for part in kept.withheld] == ["/value", "/quantity"]
    free = told(*history).state
    assert [part.path for part in free.withheld] == ["/quantity"]
    assert [(part.path, part.effective_on, part.rests_on) for part in free.released] == [("/value", "2024-03-01", [3, 5])]
    assert (free.filings[0].contains, free.filings[0].withheld) == (["/title"], ["/value"])


def test_what_is_withheld_anew_takes_the_place_of_what_was() -> None:
    state = told(*OPEN, withheld("/value", until="2025"), withheld("/value", effective_on="2024-03-01", until="2027")).state
    assert [(part.path, part.until, part.rests_on) for part in state.withheld] == [("/value", "2027", [4])]


def test_only_what_is_withheld_is_released() -> None:
    log = log_of(*OPEN, withheld("/value"))
    assert refused(log, released("/value", "/quantity")) == "known-withheld"
    log.append(released("/value", effective_on="2024-01-31"))
    assert told(*OPEN, withheld("/value"), released("/value", effective_on="2024-01-31")).state.unplaced == [4]


def test_a_release_of_what_is_withheld_later_is_unplaced_and_releases_the_rest() -> None:
    later = sent("disclosure.withheld", "2024-05-01", {"withheld": [{"path": "/quantity", "reason": "secret"}]})
    history = [*OPEN, withheld("/value"), later, released("/value", "/quantity")]
    log_of(*history)
    state = told(*history).state
    assert ([part.path for part in state.withheld], [part.path for part in state.released]) == (["/quantity"], ["/value"])
    assert state.unplaced == [5]


def test_what_was_released_in_time_is_not_flagged_when_its_day_has_passed() -> None:
    assert flagged_in(log_of(*OPEN, withheld("/value", until="2025"))) == ["withheld-past-its-day.3"]
    assert flagged_in(log_of(*OPEN, withheld("/value", until="2025"), released("/value"))) == []


# Disputes and force majeure


def test_a_contract_is_marked_as_disputed_while_a_dispute_is_open() -> None:
    history = [*OPEN, dispute("raised", "2024-03-01"), dispute("raised", "2024-03-02", "2"), dispute("resolved", "2024-04-01")]
    history += [withheld("/value"), dispute("resolved", "2024-05-01", "2")]
    log_of(*history)
    marks = [told(*history, day=day).state.marks for day in ("2024-02-28", "2024-03-01", "2024-04-30", "2024-05-01")]
    assert marks == [["withheld"], ["disputed", "withheld"], ["disputed", "withheld"], ["withheld"]]
    first = told(*history).state.disputes[0]
    assert (first.reference, first.status, first.raised_on, first.resolved_on, first.rests_on) == (
        "1",
        "resolved",
        "2024-03-01",
        "2024-04-01",
        [3, 5],
    )


def test_force_majeure_is_declared_and_lifted_and_leaves_the_status() -> None:
    declared = sent("force_majeure.declared", "2024-03-01", {"reference": "flood"})
    lifted = sent("force_majeure.lifted", "2024-04-01", {"reference": "flood"})
    log_of(*OPEN, declared, lifted)
    state = told(*OPEN, declared, lifted).state
    assert [(known.reference, known.status, known.lifted_on) for known in state.force_majeure] == [("flood", "lifted", "2024-04-01")]
    assert (state.status, state.marks) == ("signed", [])


@pytest.mark.parametrize(
    ("begins", "ends", "rule"),
    [("dispute.raised", "dispute.resolved", "dispute"), ("force_majeure.declared", "force_majeure.lifted", "force-majeure")],
)
def test_what_begins_has_a_reference_of_its_own_and_what_ends_a_known_one(begins: str, ends: str, rule: str) -> None:
    begun = sent(begins, "2024-03-01", {"reference": "1"})
    assert refused(log_of(*OPEN, begun), begun) == f"unique-{rule}"
    assert refused(log_of(*OPEN, begun), sent(ends, "2024-03-01", {"reference": "2"})) == f"known-{rule}"
    assert told(*OPEN, begun, sent(ends, "2024-02-01", {"reference": "1"})).state.unplaced == [4]


# Labels


def labels(*events: Sent, **times: str) -> list[tuple[str, list[int]]]:
    return [(known.label, known.rests_on) for known in told(*events, **times).state.labels]


def test_labels_hold_on_every_day_in_the_order_they_were_put() -> None:
    history = [*OPEN, labelled(set=["to review", "전지"]), labelled(remove=["to review"], set=["전지", "done"])]
    log = log_of(*history)
    for day in ("2021-01-01", "2024-06-01", "2031-01-01"):
        assert labels(*history, day=day) == [("done", [4]), ("전지", [3])]
    view = told(*history)
    assert (view.pending, view.anomalies, view.state.status) == ([], [], "signed")
    assert not log.rows[next(iter(log.rows))].has_pending


def test_a_label_leaves_the_row_what_the_fold_says() -> None:
    log = log_of(*OPEN, labelled(set=["a"]), delivered("d1", "2024-06-01"), labelled(set=["b"]), noted())
    assert [stood.label for stood in told(*OPEN, labelled(set=["a"]), labelled(set=["b"])).state.labels] == ["a", "b"]
    assert log.rows[next(iter(log.rows))].last_on == TODAY.replace(month=1, day=1)


@pytest.mark.parametrize("label", ["", " a", "a ", "a\nb", "x" * 61, "\u0000"])
def test_a_label_is_a_short_string(label: str) -> None:
    with pytest.raises(Refused):
        log_of(*OPEN).append(labelled(set=[label]))


def test_labels_are_set_or_removed_and_of_a_number() -> None:
    with pytest.raises(Refused, match="set, removed, or both"):
        log_of(*OPEN).append(labelled())
    log = log_of(*OPEN, labelled(set=[f"l{number}" for number in range(MAX_LABELS)]))
    assert refused(log, labelled(set=["one more"])) == "labels-limit"
    log.append(labelled(set=["one more"], remove=["l1"]))


# Figures that are taken back


def test_a_figure_that_is_withdrawn_counts_until_its_day() -> None:
    history = [*OPEN, stated(figure("f1", basis="disclosed")), stated(figure("f2", "2000")), withdrawn()]
    log_of(*history)
    before, after = told(*history, day="2024-04-30").state, told(*history).state
    assert before.value.best
    assert after.value.best
    assert (before.value.best.figure_id, after.value.best.figure_id, after.value.conflicts) == ("f1", "f2", [])
    (gone,) = after.withdrawn_figures
    assert (gone.figure_id, gone.reason, gone.effective_on, gone.rests_on) == ("f1", "the newspaper was wrong", "2024-05-01", [3, 5])


def test_a_withdrawn_figure_is_known_and_its_id_is_taken() -> None:
    log = log_of(*OPEN, stated(figure("f1")), withdrawn())
    assert refused(log, stated(figure("f1"))) == "unique-figure"
    assert refused(log, withdrawn("nothing")) == "known-figure"
    log.append(stated(figure("f2", derived_from={"figure_id": "f1"})))
    log.append(noted(figure_id="f1"))


def test_figures_of_one_root_do_not_conflict_though_the_root_was_withdrawn() -> None:
    derived = [stated(figure(f"d{count}", str(1000 * count), derived_from={"figure_id": "f1"})) for count in (1, 2)]
    assert told(*OPEN, stated(figure("f1")), *derived, withdrawn()).state.value.conflicts == []


def test_a_revision_of_a_withdrawn_figure_states_another_and_is_flagged() -> None:
    history = [*OPEN, stated(figure("f1")), withdrawn(), revised("f1", figure("f2"), "2024-06-01")]
    log_of(*history)
    (anomaly,) = told(*history).anomalies
    assert anomaly.sentence == "the revision names f1, which was withdrawn by then"
    assert [known.figure_id for known in told(*history).state.figures] == ["f2"]
