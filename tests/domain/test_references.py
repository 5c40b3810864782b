"""Who holds a reference of a unique scheme: whatever is recorded in whatever order, no two contracts have it on a day to come."""

from datetime import date, timedelta
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.references import held_references
from service.domain.timeline import tell
from service.errors import NotAllowedNow, ReferenceTaken, Refused
from service.log.requests import Receipt
from tests.domain.histories import CONTRACT, Log, Sent, corrected, events_of, noted, reported, signed, voided

FIRST = date(2025, 3, 1)
CONTRACTS = (CONTRACT, "00000000-0000-7000-8000-0000000000c2", "00000000-0000-7000-8000-0000000000c3")
_IDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=2, unique=True)
_DAYS = st.integers(-40, 60).map(lambda days: (FIRST + timedelta(days=days)).isoformat())


def naming(effective_on: str, *ids: str, scheme: str = "DART") -> Sent:
    return reported(effective_on, references=[{"scheme": scheme, "id": known} for known in ids])


_NAMING = st.builds(lambda day, ids: naming(day, *ids), _DAYS, _IDS)
_REQUESTS = st.one_of(
    _NAMING,
    st.builds(lambda day, ids: signed(day, references=[{"scheme": "DART", "id": known} for known in ids]), _DAYS, _IDS),
    _DAYS.map(noted),
    st.builds(corrected, _NAMING, st.integers(0, 9)),
    st.builds(voided, st.integers(0, 9)),
)
_STEPS = st.lists(
    st.tuples(st.integers(0, 20), st.lists(st.tuples(st.sampled_from(CONTRACTS), _REQUESTS), min_size=1, max_size=3)), max_size=9
)


def told_on(log: Log, contract_id: str, day: date) -> set[tuple[str, str]]:
    """The references in a contract's state of a day."""
    return {(known["scheme"], known["id"]) for known in tell(log.history(contract_id), day).state.references}


@settings(max_examples=120, deadline=None)
@given(st.lists(_IDS, min_size=3, max_size=3), _STEPS)
def test_what_contracts_hold_is_theirs_alone_and_has_all_that_they_will_show(
    openings: list[list[str]], steps: list[tuple[int, list[tuple[str, Sent]]]]
) -> None:
    log = Log(unique_schemes=("DART",)).at(FIRST)
    asked = [(0, [(contract_id, naming("2025-01-01", *ids))]) for contract_id, ids in zip(CONTRACTS, openings, strict=True)]
    for days, requests in asked + steps:
        log.at(log.day + timedelta(days=days))
        appends = [log.request(sent, contract_id=contract_id) for contract_id, sent in requests]
        for outcome in log.commit(*appends).outcomes:
            assert isinstance(outcome, Receipt | NotAllowedNow | ReferenceTaken | Refused)
        held = {contract_id: held_references(log.history(contract_id)) for contract_id in log.rows}
        assert {known: of for known, of in log.held.items() if of} == {known: of for known, of in held.items() if of}
        everything = list(chain.from_iterable(held.values()))
        assert len(everything) == len(set(everything))
        for contract_id in log.rows:
            for later in (0, 1, 15, 30, 45, 60, 100):
                assert told_on(log, contract_id, log.day + timedelta(days=later)) <= held[contract_id]


def test_what_was_replaced_is_let_go_of_and_what_is_to_be_replaced_is_not() -> None:
    today = date(2025, 3, 1)
    first, second, ahead = naming("2025-01-01", "a"), naming("2025-02-01", "b"), naming("2025-06-01", "c")
    assert held_references(events_of(first, second, recorded_on=today)) == {("DART", "b")}
    assert held_references(events_of(first, ahead, recorded_on=today)) == {("DART", "a"), ("DART", "c")}
    assert held_references(events_of(second, first, recorded_on=today)) == {("DART", "b")}
    assert held_references(events_of(first, ahead, naming("2025-03-01", "d"), recorded_on=today)) == {("DART", "c"), ("DART", "d")}
    assert held_references(events_of(first, second, voided(1), recorded_on=today)) == {("DART", "a")}
    assert held_references(events_of(noted(), recorded_on=today)) == set()
