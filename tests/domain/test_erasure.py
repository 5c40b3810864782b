"""Erasure in the fold: whatever is taken out of whatever life, what is left is told, listed and added to, and its row is its fold."""

import json
from copy import deepcopy
from datetime import date
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cli.prose import Told
from service.cli.story import _facts, history
from service.domain.contract import decode_facts, encode_state, settle
from service.domain.erasure import NEVER_ERASED, check_gaps, erasures_of
from service.domain.events import RecordedEvent
from service.domain.timeline import tell
from service.errors import Refused
from service.projections.contracts import contract_row, project
from tests.domain.histories import CONTRACT, TODAY, Log, Sent, figure, histories, log_of, noted, refused, reported, sent, signed, stated
from tests.domain.test_golden_bodies import EFFECTIVE_ON, ENDS, OF_AN_EVENT, aimed, request_of

DAYS = [date(2022, 1, 1), date(2023, 12, 1), date(2024, 6, 1), TODAY, date(2040, 1, 1)]


def erased(target: RecordedEvent | str, **options: Any) -> dict[str, Any]:
    event_id = target if isinstance(target, str) else target.event_id
    return sent("event.erased", None, {"target": event_id, "legal_basis": "asked for"}, **options)


def erase(log: Log, revision: int) -> None:
    """Erase an event with what quotes it, where it may be and is not yet."""
    events = log.history()
    target = events[revision - 1]
    if target.data.event_type in NEVER_ERASED or target.data.is_erased:
        return
    quoting = [event for event in events if event.data.acts == "corrects" and target.event_id in event.data.event_ids()]
    log.append(*(erased(event) for event in (target, *quoting)))


@cache
def _life(end: str) -> Log:
    log = Log().at(TODAY)
    for event_type in EFFECTIVE_ON:
        if event_type not in {*ENDS, "contract.cancelled", *OF_AN_EVENT} - {end}:
            log.append(aimed(request_of(event_type), log))
    return log


def assert_told(log: Log) -> None:
    """The row is the fold of the events, which can be told on any day, at any revision, and in words."""
    events = log.history()
    check_gaps(events)
    row, view = log.rows[CONTRACT], project(events, log.day)
    folded = contract_row(
        CONTRACT, view, revision=row.revision, position=row.position, last_hash=row.last_hash, last_on=row.last_on, day=log.day
    )
    assert folded == row
    gaps = {event.event_id: event.revision for event in events if event.data.is_erased}
    by = {gaps[event_id]: revision for event_id, revision in erasures_of(events).items()}
    assert {(gap.revision, *gap.rests_on) for gap in view.state.erased} <= set(by.items())
    for day in DAYS:
        for known in (events, events[: len(events) // 2]):
            state = encode_state(tell(known, day).state)
            assert encode_state(settle(decode_facts(state), day)) == state
    as_of = {"known_position": 10**10, "effective_on": TODAY.isoformat(), "time_zone": "UTC"}
    stored = [_answered(event) for event in events]
    answer = {"state": json.loads(row.state), "as_of": as_of, "anomalies": [], "pending": []}
    words = [word for _, lines in _facts(Told(answer, stored)) for word in lines] + [line.plain for line in history(as_of, stored)]
    assert sum("the content is erased" in word for word in words) == len(gaps)


def _answered(event: RecordedEvent) -> dict[str, Any]:
    """An event as the service answers it; of those that are there only what the words of a story need."""
    known = {"event_id": event.event_id, "event_type": event.data.event_type, "revision": event.revision, "position": event.position}
    known |= {"recorded_at": "2026-01-01T00:00:00Z"} | ({"effective_on": event.effective_on} if event.effective_on else {})
    if event.data.is_erased:
        return known
    return known | {"source": event.source, "data": request_of(event.data.event_type)["data"]}


def test_any_one_event_of_a_life_may_be_erased() -> None:
    for revision in range(1, len(_life(ENDS[0]).history()) + 1):
        log = deepcopy(_life(ENDS[0]))
        erase(log, revision)
        assert_told(log)
        log.append(noted())
        assert log.rows[CONTRACT].state == encode_state(project(log.history(), log.day).state).decode()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, len(EFFECTIVE_ON) - 5), unique=True, max_size=30), st.sampled_from(ENDS))
def test_whatever_is_erased_the_rest_is_told(revisions: list[int], end: str) -> None:
    log = deepcopy(_life(end))
    for revision in revisions:
        erase(log, revision)
    assert_told(log)


@settings(max_examples=40, deadline=None)
@given(histories(near=True), st.lists(st.tuples(st.integers(1, 8), st.integers(0, 9)), max_size=6))
def test_a_history_goes_on_whatever_is_erased_on_the_way(requests: list[Sent], erasures: list[tuple[int, int]]) -> None:
    log = Log().at(TODAY)
    for turn, request in enumerate(requests):
        log.commit(log.request(request))
        for revision in [number for when, number in erasures if when == turn]:
            erase(log, revision % len(log.history()) + 1)
        assert_told(log)


def test_an_erasure_is_recorded_after_an_end_too() -> None:
    log = log_of(reported(), signed(), noted("2024-02-01"), sent("contract.terminated", "2026-03-01", {}))
    erase(log, 4)
    assert tell(log.history(), TODAY).state.ending is None
    log.append(sent("contract.terminated", "2026-03-01", {}))
    erase(log, 3)
    assert [gap.revision for gap in tell(log.history(), TODAY).state.erased] == [3, 4]


def test_everything_that_may_be_erased_leaves_a_contract_of_gaps() -> None:
    log = deepcopy(_life(ENDS[0]))
    for revision in range(1, len(log.history()) + 1):
        erase(log, revision)
    assert_told(log)
    state = json.loads(log.rows[CONTRACT].state)
    assert state.keys() == {"erased", "quantity", "status", "value"}
    assert log.rows[CONTRACT].filters == ["signed_on=", "ends_on=", "status=unknown"]


def test_an_event_of_later_effect_is_a_gap_only_on_its_days_and_pending_before() -> None:
    log = log_of(reported(), stated(figure("a"), "2030-01-01"))
    erase(log, 2)
    now, later = (tell(log.history(), day) for day in (TODAY, date(2030, 1, 1)))
    assert (now.state.erased, [entry.revision for entry in now.pending]) == ([], [2])
    assert [gap.revision for gap in later.state.erased] == [2]


def test_what_was_voided_is_no_gap_in_the_state() -> None:
    log = log_of(reported(), noted())
    log.append(sent("event.voided", None, {"target": log.history()[1].event_id, "reason": "twice"}))
    erase(log, 2)
    assert tell(log.history(), TODAY).state.erased == []
    assert tell(log.history(), TODAY).state.unplaced == []


def test_ids_that_are_erased_are_free_again() -> None:
    log = log_of(reported(), signed(), stated(figure("a")))
    assert refused(log, stated(figure("a"))) == "unique-figure"
    erase(log, 3)
    log.append(stated(figure("a", "7")))
    assert_told(log)


def test_what_follows_an_erased_opening_is_not_flagged_as_before_it() -> None:
    log = log_of(reported(), signed(), noted())
    erase(log, 1)
    erase(log, 2)
    log.append(noted())
    assert project(log.history(), TODAY).anomalies == []


def test_an_erasure_refers_to_what_is_there_and_is_never_supposed() -> None:
    log = log_of(reported(), noted())
    assert refused(log, erased("01890000-0000-7000-8000-0000000000ff")) == "known-event"
    with pytest.raises(Refused, match="/hypothetical"):
        log.append(erased(log.history()[1], hypothetical=True))
    erase(log, 2)
    assert refused(log, erased(log.history()[1])) == "erased-once"
    assert refused(log, erased(log.history()[2])) == "never-erased"


def test_a_body_that_is_missing_without_an_erasure_is_no_gap() -> None:
    log = log_of(reported(), noted(), noted())
    erase(log, 2)
    log.stored[CONTRACT][2] = (log.stored[CONTRACT][2][0], None)
    with pytest.raises(ValueError, match="no erasure explains it"):
        check_gaps(log.history())
