"""The times of a contract: what was published by a day, what is in effect on a day, and what is still to come."""

from datetime import date

import msgspec
import orjson
import pytest

from service.domain.dates import last_day
from service.domain.events import EVENT_TYPES, decode_body
from service.domain.timeline import tell
from tests.domain.histories import (
    CELLS,
    CONTRACT,
    TODAY,
    Log,
    Sent,
    delivered,
    events_of,
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


def published(event: Sent, published_on: str) -> Sent:
    return {**event, "source": {**event["source"], "published_on": published_on}}


@pytest.mark.parametrize(
    ("published_on", "counts_from"),
    [("2024-05-15", "2024-05-15"), ("2024-05", "2024-05-31"), ("2024-Q2", "2024-06-30"), ("2024", "2024-12-31")],
)
def test_a_publication_counts_from_the_last_day_that_it_may_mean(published_on: str, counts_from: str) -> None:
    events = events_of(published(reported(), published_on))
    assert events[0].published_by == date.fromisoformat(counts_from) == last_day(published_on)
    before = date.fromisoformat(counts_from[:-2] + f"{int(counts_from[-2:]) - 1:02}")
    assert tell(events, TODAY, before).state.status == "unknown"
    assert tell(events, TODAY, events[0].published_by).state.status == "reported"


def test_without_a_publication_the_day_of_recording_counts() -> None:
    (event,) = events_of(reported(), recorded_on=date(2025, 3, 4))
    assert event.published_by == date(2025, 3, 4)
    assert tell([event], TODAY, date(2025, 3, 3)).pending == []
    assert tell([event], TODAY, date(2025, 3, 4)).state.status == "reported"


@pytest.mark.parametrize(("time_zone", "day"), [("UTC", "2026-11-22"), ("Asia/Seoul", "2026-11-23"), ("America/New_York", "2026-11-22")])
def test_the_day_of_recording_is_a_day_in_the_ledgers_zone(time_zone: str, day: str) -> None:
    log = Log(time_zone)
    log.now = log.now.replace(year=2026, month=11, day=22, hour=15, minute=30)
    log.append(reported())
    assert log.history()[0].recorded_on.isoformat() == day
    assert log.rows[CONTRACT].settled_on.isoformat() == day


def test_what_is_not_published_by_a_day_is_neither_in_the_state_nor_pending() -> None:
    events = [
        published(reported(), "2022-07-06"),
        published(signed("2024-01-26"), "2024-01-26"),
        published(stated(figure("f1"), "2030"), "2024-01-27"),
    ]
    by_report, by_signing, by_all = (told(*events, published_by=day) for day in ("2022-07-06", "2024-01-26", "2024-01-27"))
    assert (by_report.state.status, by_report.pending) == ("reported", [])
    assert (by_signing.state.status, by_signing.pending) == ("signed", [])
    assert [(one.revision, one.event_type, one.effective_on) for one in by_all.pending] == [(3, "figure.stated", "2030")]


def test_events_of_one_day_are_folded_as_they_were_recorded() -> None:
    stages = [sent("contract.reported", "2022-07-06", {"stage": stage}) for stage in ("negotiating", "denied")]
    assert told(reported("2022-07-06"), *stages).state.status == "denied"
    assert told(reported("2022-07-06"), *stages[::-1]).state.status == "negotiating"


def test_a_coarse_date_comes_before_or_with_the_days_within_it() -> None:
    events = [
        reported("2022"),
        sent("contract.reported", "2023-06-02", {"stage": "denied"}),
        sent("contract.reported", "2023-06", {"stage": "negotiating"}),
    ]
    assert told(*events, day="2023-06-01").state.status == "negotiating"
    assert told(*events, day="2023-06-02").state.status == "denied"


def test_events_still_to_come_are_pending_in_the_order_of_their_effect() -> None:
    events = [reported(), noted("2031"), noted("2028-Q2"), noted("2029"), noted("2028-05")]
    view = told(*events)
    assert [(one.revision, one.effective_on) for one in view.pending] == [(3, "2028-Q2"), (5, "2028-05"), (4, "2029"), (2, "2031")]
    assert view.holds_until == date(2028, 4, 1)


def test_an_event_takes_effect_on_its_day_and_is_then_no_longer_pending() -> None:
    events = [reported(), stated(figure("f1"), "2024-02-29")]
    before, after = told(*events, day="2024-02-28"), told(*events, day="2024-02-29")
    assert (len(before.pending), before.holds_until, before.state.figures) == (1, date(2024, 2, 29), [])
    assert (after.pending, after.holds_until, len(after.state.figures)) == ([], None, 1)


def test_a_revision_in_effect_before_its_figure_is_unplaced_and_the_figure_stands() -> None:
    events = [reported("2022"), stated(figure("old"), "2024-03-01"), revised("old", figure("new"), "2024-02-01")]
    state = told(*events).state
    assert (state.unplaced, [one.figure_id for one in state.figures], state.replaced_figures) == ([3], ["old"], [])
    assert 3 not in [basis.revision for basis in told(*events).rests_on]


REFERRING = [
    sent("delivery.started", "2024-02-01", {"item_id": "cells"}),
    delivered("d1", "2024-02-01"),
    sent("order.extended", "2024-02-01", {"via": "amendment", "added_quantity": {"quantity": "1", "unit": "EA", "item_id": "cells"}}),
    stated(figure("new", derived_from={"figure_id": "old"}), "2024-02-01"),
    noted("2024-02-01", item_id="cells"),
    noted("2024-02-01", figure_id="old"),
]


@pytest.mark.parametrize("event", REFERRING, ids=lambda event: event["event_type"])
def test_an_event_that_names_what_is_not_there_at_its_place_is_unplaced_and_changes_nothing_else(event: Sent) -> None:
    late, later = reported("2024-03-01", items=[CELLS]), stated(figure("old"), "2024-03-02")
    events = [reported("2022"), late, later, event]
    assert log_of(*events).rows[CONTRACT].revision == 4
    state, without = told(*events).state, told(*events[:3]).state
    assert state.unplaced == [4]
    assert msgspec.structs.replace(state, unplaced=[], unplaced_figures=[]) == without
    assert told(reported("2022"), late, later, {**event, "effective_on": "2024-03-03"}).state.unplaced == []


def test_a_delivery_is_placed_by_what_is_published_of_its_items() -> None:
    opening = {**reported("2022", items=[CELLS]), "source": {"kind": "news", "published_on": "2024-01-26"}}
    delivery = {**delivered("d1", "2023-06-01"), "source": {"kind": "news", "published_on": "2023-06-01"}}
    early, late = (told(opening, delivery, published_by=day).state for day in ("2023-12-31", "2024-01-26"))
    assert (early.unplaced, early.delivery, early.status) == ([2], None, "unknown")
    assert (late.unplaced, late.status) == ([], "delivering")


def test_a_report_is_folded_without_a_figure_whose_origin_is_not_there() -> None:
    derived = [figure("a", derived_from={"figure_id": "old"}), figure("b", derived_from={"figure_id": "a"}), figure("c")]
    events = [reported("2022"), stated(figure("old"), "2024-03-01"), reported("2024-02-01", stage="negotiating", figures=derived)]
    state = told(*events).state
    assert (state.status, state.unplaced, state.unplaced_figures) == ("negotiating", [3], ["a", "b"])
    assert [one.figure_id for one in state.figures] == ["c", "old"]


def test_what_is_unplaced_and_hypothetical_does_not_mark_the_state() -> None:
    events = [reported("2022"), stated(figure("old"), "2024-03-01"), {**revised("old", figure("new"), "2024-02-01"), "hypothetical": True}]
    assert not told(*events).state.hypothetical


def test_no_events_are_an_answer_without_facts() -> None:
    view = tell([], TODAY)
    assert (view.state.status, view.anomalies, view.pending, view.rests_on, view.holds_until) == ("unknown", [], [], [], None)


# Reading stored bodies


def test_a_body_of_a_type_or_version_that_is_not_known_is_a_key_error() -> None:
    body = orjson.dumps({"data": {"text": "x"}, "source": {"kind": "news"}, "salt": "00"})
    assert decode_body("note.added", 1, body)[1] == {"kind": "news"}
    for event_type, version in (("note.removed", 1), ("note.added", 3), ("note.added", 0)):
        with pytest.raises(KeyError):
            decode_body(event_type, version, body)


def test_the_event_types_are_those_of_the_catalogue_so_far() -> None:
    assert set(EVENT_TYPES) == {
        "agreement.linked", "condition.failed", "condition.satisfied", "contract.cancelled", "contract.completed", "contract.labelled",
        "contract.reported", "contract.signed", "contract.superseded", "contract.terminated", "delivery.accepted", "delivery.completed",
        "delivery.recorded", "delivery.rejected", "delivery.resumed", "delivery.started", "delivery.suspended", "disclosure.filed",
        "disclosure.released", "disclosure.withheld", "dispute.raised", "dispute.resolved", "event.corrected", "event.erased",
        "event.voided", "figure.stated", "figure.withdrawn", "force_majeure.declared", "force_majeure.lifted", "milestone.met",
        "milestone.missed",
        "milestone.scheduled", "note.added", "option.exercised", "option.granted", "option.lapsed", "order.extended", "party.added",
        "party.identified", "party.replaced", "sealed.revealed", "terms.amended", "value.revised",
    }  # fmt: skip
