"""Whatever happens in the life of a contract, in whatever order it is recorded: promises of the fold, on random histories."""

import copy
import dataclasses
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.audit.replay import fold_row
from service.domain.contract import decode_facts, encode_state, evolve, fold, settle
from service.domain.events import EVENT_TYPES, RecordedEvent
from service.domain.state import Contract
from service.domain.timeline import View, tell
from service.projections.contracts import encode_beside, project
from tests.domain.histories import (
    BUSINESS_DATES,
    CELLS,
    CONTRACT,
    DAYS,
    NEEDS_AN_EVENT,
    TODAY,
    Log,
    Sent,
    accepted,
    append_if_allowed,
    corrected,
    days_between,
    delivered,
    events_of,
    figure,
    histories,
    log_of,
    noted,
    openings,
    reported,
    requests,
    requests_on,
    sent,
    signed,
    stated,
)
from tests.domain.oracle import days_of, oracle, published

OTHER = "00000000-0000-7000-8000-0000000000c2"
SOME_DAYS = (date(2021, 1, 1), date(2024, 2, 29), date(2025, 6, 30), TODAY, date(2028, 3, 1), date(2032, 1, 1))


def test_random_histories_draw_every_event_type() -> None:
    assert set(requests_on(BUSINESS_DATES)) == set(EVENT_TYPES) - NEEDS_AN_EVENT


def assert_row_is_fold(log: Log, contract_id: str) -> None:
    row, history = log.rows[contract_id], log.history(contract_id)
    assert row == fold_row(contract_id, history, row.last_hash, row.settled_on)
    for day in {log.day, *SOME_DAYS, row.holds_until or TODAY}:
        told = project(history, day)
        if row.holds_on(day):
            assert (row.state, row.beside) == (encode_state(told.state).decode(), encode_beside(told).decode())


steps = st.lists(st.tuples(st.integers(0, 400), st.lists(requests(), min_size=1, max_size=3)), max_size=7)


@settings(max_examples=80, deadline=None)
@given(openings(), steps)
def test_the_row_written_with_each_append_is_the_fold_of_all_events(opening: Sent, steps: list[tuple[int, list[Sent]]]) -> None:
    log = Log().at(date(2025, 3, 1))
    log.append(opening)
    assert_row_is_fold(log, CONTRACT)
    for days, events in steps:
        log.at(log.day + timedelta(days=days))
        if append_if_allowed(log, *events):
            assert_row_is_fold(log, CONTRACT)


@settings(max_examples=40, deadline=None)
@given(openings(), openings(), st.lists(st.tuples(st.booleans(), requests()), min_size=1, max_size=8))
def test_requests_of_one_batch_leave_the_rows_that_requests_one_by_one_leave(
    opening: Sent, other: Sent, requests: list[tuple[bool, Sent]]
) -> None:
    together, apart = Log().at(TODAY), Log().at(TODAY)
    for log in (together, apart):
        log.append(opening)
        log.append(other, contract_id=OTHER)
    # All made beforehand, so that corrections and voids name the same events in both.
    made, alike = (
        [log.request(event, contract_id=OTHER if second else CONTRACT) for second, event in requests] for log in (together, apart)
    )
    batch = together.commit(*made)
    alone = [apart.commit(request).outcomes[0] for request in alike]
    assert [type(outcome) for outcome in batch.outcomes] == [type(outcome) for outcome in alone]
    for contract_id in (CONTRACT, OTHER):
        assert_row_is_fold(together, contract_id)
        assert together.rows[contract_id].state == apart.rows[contract_id].state


def test_an_extended_row_is_written_without_reading_the_history() -> None:
    log = log_of(reported(items=[CELLS]), signed())
    batch = log.commit(log.request(delivered("d1", "2024-03")))
    assert batch.histories_needed() == []
    assert_row_is_fold(log, CONTRACT)


# The times: which events count, in which order, told by another implementation, day by day.


def views(told: View) -> tuple[bytes, bytes]:
    return encode_state(told.state), encode_beside(told)


@settings(max_examples=50, deadline=None)
@given(histories(), DAYS, st.none() | DAYS)
def test_every_prefix_is_told_as_a_slow_oracle_selects_and_orders_its_events(
    history: list[Sent], effective_on: str, published_by: str | None
) -> None:
    events, day = accepted(history), date.fromisoformat(effective_on)
    by = published_by and date.fromisoformat(published_by)
    for count in range(len(events) + 1):
        prefix = events[:count]
        in_effect, later = oracle(prefix, day, by or None)
        told = tell(prefix, day, by or None)
        assert [(pending.revision, pending.effective_on) for pending in told.pending] == [(e.revision, e.effective_on) for e in later]
        assert told.state == settle(fold(in_effect).facts, day)
        flagged = {anomaly.anomaly_id for anomaly in fold([*in_effect, *later]).anomalies if anomaly.rule != "no-longer-fits"}
        assert flagged <= {anomaly.anomaly_id for anomaly in told.anomalies}
        assert {basis.revision for basis in told.rests_on} <= {event.revision for event in in_effect}


@settings(max_examples=40, deadline=None)
@given(histories(), DAYS, st.none() | DAYS, st.randoms(use_true_random=False))
def test_events_given_in_any_order_make_the_same_view(
    history: list[Sent], effective_on: str, published_by: str | None, random: Random
) -> None:
    events, day = accepted(history), date.fromisoformat(effective_on)
    by = date.fromisoformat(published_by) if published_by else None
    shuffled = list(events)
    random.shuffle(shuffled)
    assert views(tell(shuffled, day, by)) == views(tell(events, day, by))


@settings(max_examples=40, deadline=None)
@given(histories(), requests(), DAYS)
def test_an_event_effective_later_does_not_change_an_earlier_day(history: list[Sent], later: Sent, effective_on: str) -> None:
    log = Log().at(TODAY)
    for request in history:
        append_if_allowed(log, request)
    before = log.history()
    if EVENT_TYPES[later["event_type"]].dayless or not append_if_allowed(log, later):
        return
    after = log.history()
    first = min(days_of(later["effective_on"]))
    for day in (date.fromisoformat(effective_on), first - timedelta(days=1), *SOME_DAYS):
        if day < first:
            assert encode_state(tell(after, day).state) == encode_state(tell(before, day).state)


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(0, 30), requests(), DAYS)
def test_to_correct_and_then_correct_back_or_void_the_correction_leaves_the_state_as_it_was(
    history: list[Sent], turn: int, like: Sent, effective_on: str
) -> None:
    log = Log().at(TODAY)
    for request in history:
        append_if_allowed(log, request)
    before = log.history()
    if EVENT_TYPES[like["event_type"]].acts or not append_if_allowed(log, corrected(like, turn)):
        return
    act = log.history()[-1]
    (original,) = [event for event in before if event.event_id in act.data.event_ids()]
    as_it_was = {
        "target": original.event_id,
        "data": orjson.loads(log.stored[CONTRACT][original.revision - 1][1])["data"],
    }
    if any(original.event_id in event.data.event_ids() for event in before if event.data.acts):
        return  # what stood before was a correction, or a void of one
    days = (date.fromisoformat(effective_on), *SOME_DAYS)
    for undo in (sent("event.voided", None, {"target": act.event_id, "reason": "x"}), sent("event.corrected", None, as_it_was)):
        undone = Log().at(TODAY)
        vars(undone).update(copy.deepcopy(vars(log)))
        if append_if_allowed(undone, undo):
            for day in days:
                assert encode_state(tell(undone.history(), day).state) == encode_state(tell(before, day).state)


@settings(max_examples=40, deadline=None)
@given(histories(), st.lists(requests(), min_size=1, max_size=4), DAYS, st.none() | DAYS)
def test_what_was_known_is_told_the_same_whatever_is_recorded_later(
    history: list[Sent], later: list[Sent], effective_on: str, published_by: str | None
) -> None:
    log = Log().at(TODAY)
    for request in history:
        append_if_allowed(log, request)
    day, by = date.fromisoformat(effective_on), date.fromisoformat(published_by) if published_by else None
    before, known = views(tell(log.history(), day, by)), len(log.history())
    for request in later:
        append_if_allowed(log, request)
    assert views(tell(log.history()[:known], day, by)) == before


@settings(max_examples=40, deadline=None)
@given(histories(), DAYS)
def test_what_is_published_later_does_not_change_what_was_known_before(history: list[Sent], published_by: str) -> None:
    events, by = accepted(history), date.fromisoformat(published_by)
    known = published(events, by)
    for day in SOME_DAYS:
        assert views(tell(events, day, by)) == views(tell(known, day))


@settings(max_examples=100, deadline=None)
@given(st.lists(requests(), max_size=10), st.data())
def test_the_fold_never_fails_whatever_events_it_is_given(requests: list[Sent], data: st.DataObject) -> None:
    """Neither the rules nor the order hold: any subset, from any revision on, twice signed, without targets."""
    events = events_of(*requests)
    chosen = data.draw(st.lists(st.sampled_from(events), unique_by=lambda event: event.revision)) if events else []
    contract = Contract()
    for event in chosen:
        evolve(contract, event)
    for day in SOME_DAYS:
        told = tell(chosen, day)
        assert encode_state(settle(contract.facts, day))
        assert told.state.status
        assert {event.revision for event in chosen} >= {basis.revision for basis in told.rests_on}


@settings(max_examples=50, deadline=None)
@given(histories())
def test_anomalies_have_ids_of_their_own_and_name_known_revisions(history: list[Sent]) -> None:
    events = accepted(history)
    for day in SOME_DAYS:
        anomalies = tell(events, day).anomalies
        ids = [anomaly.anomaly_id for anomaly in anomalies]
        assert len(ids) == len(set(ids))
        assert all(anomaly.events and set(anomaly.events) <= set(range(1, len(events) + 1)) for anomaly in anomalies)


# The calendar: between two turning days nothing changes.


def assert_holds(events: list[RecordedEvent], first: date, last: date) -> None:
    """Every change from one day to the next falls on the `holds_until` of the day before."""
    told = [(day, tell(events, day)) for day in days_between(first, last)]
    for (_, before), (day, after) in pairwise(told):
        assert before.holds_until is None or before.holds_until >= day
        if before.holds_until != day:
            assert views(after) == views(before), f"the view of {day} is another, and {before.holds_until} was said"
            assert after.holds_until == before.holds_until


@settings(max_examples=25, deadline=None)
@given(histories(near=True, most=6))
@example([reported("2026-01-15", period={"start_on": "2026-Q1", "end_on": "2026-02"})])
@example([reported("2025"), signed("2026", withheld=[{"path": "/value", "reason": "kept", "until": "2026-02"}])])
@example([reported("2025"), signed("2026-05", withheld=[{"path": "/value", "reason": "kept", "until": "2026-01-20"}])])
def test_a_view_holds_until_the_day_it_names(history: list[Sent]) -> None:
    assert_holds(accepted(history, date(2026, 1, 10)), date(2025, 11, 20), date(2027, 1, 10))


def test_the_turning_days_of_a_contract_are_these() -> None:
    events = events_of(
        reported("2026-01-10", period={"start_on": "2026-03", "duration": "P2M"}, items=[CELLS]),
        signed("2026-02-01", withheld=[{"path": "/value", "reason": "kept", "until": "2026-06-15"}]),
        delivered("d1", "2026-08"),
    )
    turns = []
    day: date | None = date(2026, 1, 1)
    while day is not None:
        turns.append((day.isoformat(), tell(events, day).state.status))
        day = tell(events, day).holds_until
    assert turns == [
        ("2026-01-01", "unknown"),
        ("2026-01-10", "reported"),
        ("2026-02-01", "signed"),
        ("2026-03-01", "in_force"),
        ("2026-03-31", "in_force"),  # the coarse start is settled
        ("2026-04-30", "in_force"),  # the coarse end is settled
        ("2026-05-01", "expired"),  # March and April
        ("2026-06-16", "expired"),  # the value is withheld past its day
        ("2026-08-01", "expired"),
        ("2026-08-31", "expired"),  # the coarse delivery is settled
    ]


# The state as bytes.


@settings(max_examples=50, deadline=None)
@given(histories(), DAYS)
def test_a_state_is_its_own_canonical_json_and_reads_back_as_it_was(history: list[Sent], effective_on: str) -> None:
    day = date.fromisoformat(effective_on)
    told = tell(accepted(history), day)
    state = encode_state(told.state)
    assert state == rfc8785.dumps(orjson.loads(state))
    assert b"null" not in state.replace(b"nullable", b"")
    assert encode_state(settle(decode_facts(state), day)) == state
    assert encode_beside(told) == rfc8785.dumps(orjson.loads(encode_beside(told)))


def members_of(value: object, name: str) -> Iterator[Any]:
    """Every member of this name, at any depth."""
    if isinstance(value, dict):
        yield from ([value[name]] if name in value else [])
    for element in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from members_of(element, name)


def at_path(value: Any, path: str) -> object:
    for part in path.split("/")[1:]:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def dates_in(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every member that holds a business date, with its path, by its name."""
    if isinstance(value, dict | list):
        for name, member in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(member, str) and str(name).endswith(("_on", "_by", "until", "valid_from", "period")) and name != "replaced_by":
                yield f"{path}/{name}", member
            yield from dates_in(member, f"{path}/{name}")


@settings(max_examples=60, deadline=None)
@given(histories(), DAYS)
def test_every_revision_that_a_state_names_stands_beside_it_and_every_coarse_date_is_listed(history: list[Sent], effective_on: str) -> None:
    view = tell(accepted(history), date.fromisoformat(effective_on))
    state = orjson.loads(encode_state(view.state))
    named = {revision for rests_on in members_of(state, "rests_on") for revision in rests_on} | {*state.get("terms_rest_on", [])}
    named |= {revision for stated_in in members_of(state, "stated_in") for revision in stated_in.values()}
    assert {basis.revision for basis in view.rests_on} == named
    assert all(at_path(state, entry["path"]) == entry["date"] for entry in state.get("uncertain", []))
    facts = {name: member for name, member in state.items() if name not in ("term_end", "uncertain", "unsettled", "value", "quantity")}
    facts["value"] = {"figures": state["value"].get("figures", [])}
    coarse = {(path, text) for path, text in dates_in(facts) if len(text) < 10}
    end = state.get("term_end", {})
    coarse |= {("/term_end/end_on", end["end_on"])} if end.get("by") == "duration" and len(end["end_on"]) < 10 else set()
    assert {(entry["path"], entry["date"]) for entry in state.get("uncertain", [])} == coarse


def keys_of(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield key
            yield from keys_of(member)
    elif isinstance(value, list):
        for element in value:
            yield from keys_of(element)


@settings(max_examples=40, deadline=None)
@given(histories())
def test_a_state_holds_no_contract_id_no_position_and_no_instant(history: list[Sent]) -> None:
    log = Log().at(TODAY)
    for request in history:
        append_if_allowed(log, request)
    state = log.rows[CONTRACT].state
    assert not {"contract_id", "event_id", "position", "recorded_at", "recorded_by", "recorded_on"} & set(keys_of(orjson.loads(state)))
    for event in log.history():
        assert event.event_id not in state
        assert str(event.position) not in state
    assert CONTRACT not in state
    assert TODAY.isoformat() not in state or TODAY.isoformat() in str(history)


@settings(max_examples=40, deadline=None)
@given(histories())
def test_events_recorded_elsewhere_make_the_same_state(history: list[Sent]) -> None:
    here = accepted(history)
    there = [msgspec.structs.replace(event, position=event.position * 7, recorded_on=date(2031, 5, 5)) for event in here]
    for day in SOME_DAYS:
        assert encode_state(tell(here, day).state) == encode_state(tell(there, day).state)


def test_what_is_stated_is_kept_as_it_was_sent() -> None:
    sent_figure = figure("f1", "0.50", "USD", vat="excluded", note="키로와트시 😀", source={"kind": "party", "name": "LGES"})
    state = orjson.loads(encode_state(tell(events_of(reported(), stated(sent_figure)), TODAY).state))
    stands = state["value"]["figures"][0]
    assert {name: stands[name] for name in sent_figure} == sent_figure
    assert stands["rests_on"] == [2]


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_event_data_are_frozen_and_say_what_they_are(event_type: str) -> None:
    cls = EVENT_TYPES[event_type]
    assert cls.event_type == event_type
    assert cls.summary.endswith(".")
    assert dataclasses.fields(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_note_of_another_contract_changes_nothing_here() -> None:
    log = log_of(reported())
    log.append(reported(), contract_id=OTHER)
    before = log.rows[CONTRACT]
    log.append(noted(), contract_id=OTHER)
    assert log.rows[CONTRACT] == before
