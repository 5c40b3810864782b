"""Amendments: title, period and terms changed at a path, from what stands to what shall stand."""

from typing import Any

import pytest

from service.errors import NotAllowedNow, Refused
from tests.domain.histories import CELLS, Sent, flagged_in, log_of, refused, reported, sent, signed, told

TERMS = {
    "payment": "30 days",
    "renewal": {"automatic": True, "notice_days": 90},
    "volumes": [{"item_id": "cells", "period": "2024", "minimum": "10"}, {"item_id": "cells", "period": "2025"}],
}
OPEN = [reported(items=[CELLS], period={"start_on": "2024", "end_on": "2026-12-31", "max_end_on": "2028"}), signed(terms=TERMS)]


def change(path: str, *, to: Any = None, **stands: Any) -> Sent:
    """A change to `to`, of what stands by `was`."""
    known = {"path": path} | ({"from": stands["was"]} if "was" in stands else {})
    return known | ({} if to is None else {"to": to})


def amended(*changes: Sent, effective_on: str = "2025-01-01", amendment_id: str = "a1", **data: Any) -> Sent:
    return sent("terms.amended", effective_on, {"amendment_id": amendment_id, "changes": list(changes), **data})


def test_what_is_amended_stands_from_the_day_on_and_rests_on_the_amendment() -> None:
    event = amended(
        change("/title", was="Cells", to="Batteries"),
        change("/period/end_on", was="2026-12-31", to="2027-06"),
        change("/terms/payment", was="30 days"),
        change("/terms/renewal/notice_days", was=90, to=180),
        change("/terms/volumes/0", was={"period": "2024", "minimum": "10", "item_id": "cells"}),
        change("/terms/volumes/-", to={"item_id": "cells", "period": "2026", "take_or_pay": False}),
        change("/terms/governing_law", to="Japan"),
        rationale="the price follows lithium",
        treatment="prospective",
    )
    assert log_of(*OPEN, event)
    assert told(*OPEN, event, day="2024-12-31").state.terms == TERMS
    state = told(*OPEN, event).state
    assert state.terms == {
        "renewal": {"automatic": True, "notice_days": 180},
        "volumes": [{"item_id": "cells", "period": "2025"}, {"item_id": "cells", "period": "2026", "take_or_pay": False}],
        "governing_law": "Japan",
    }
    assert (state.title, state.stated_in, state.terms_rest_on) == ("Batteries", {"kind": 1, "title": 3}, [2, 3])
    assert state.period
    assert (state.period.end_on, state.period.stated_in) == ("2027-06", {"start_on": 1, "end_on": 3, "max_end_on": 1})
    (amendment,) = state.amendments
    assert (amendment.amendment_id, amendment.rationale, amendment.treatment) == ("a1", "the price follows lithium", "prospective")
    assert amendment.paths[:2] == ["/title", "/period/end_on"]


@pytest.mark.parametrize(
    "path", ["/parties", "/items/0", "/value", "/titles", "/title/x", "/period/rests_on", "/period/end_on/x", "/terms/prize", "/rests_on"]
)
def test_only_title_period_and_terms_are_amended(path: str) -> None:
    with pytest.raises(Refused, match="only /title, /period and /terms") as caught:
        log_of(*OPEN).append(amended(change(path, was="x", to="y")))
    assert [fault.pointer for fault in caught.value.errors] == ["/data/changes/0/path"]


@pytest.mark.parametrize(
    ("broken", "member"),
    [
        (change("/title", was="Cells"), "to"),
        (change("/title", was="Cells", to=7), "to"),
        (change("/period/end_on", was="2026-12-31", to="2026-13"), "to"),
        (change("/period", to={"start_on": "2027", "end_on": "2026"}), "to"),
        (change("/terms/renewal", to={"automatic": "yes"}), "to"),
        (change("/terms/payment"), "from"),
        (change("/terms/volumes/00/minimum", was="1", to="2"), "path"),
        (change("/terms/volumes/01", to={"item_id": "cells"}), "path"),
    ],
)
def test_a_change_to_what_can_never_stand_is_a_fault_of_the_data(broken: Sent, member: str) -> None:
    with pytest.raises(Refused) as caught:
        log_of(*OPEN).append(amended(broken))
    assert [fault.pointer for fault in caught.value.errors] == [f"/data/changes/0/{member}"]


@pytest.mark.parametrize(
    "other",
    [
        change("/title", was="cells", to="Batteries"),
        change("/period/start_on", to="2025"),
        change("/period/start_on", was="2024-01-01", to="2025"),
        change("/period/duration", was="P1Y", to="P2Y"),
        change("/terms/renewal/notice_days", was="90", to=180),
        change("/terms/renewal/automatic", was=1, to=False),
        change("/terms/volumes/2", was={"item_id": "cells"}),
        change("/terms/volumes/-", was={"item_id": "cells"}),
        change("/terms/volumes/x/minimum", to="1"),
        change("/terms/volumes/7/minimum", to="1"),
        change("/terms/incoterm/rule", to="DAP"),
    ],
)
def test_an_amendment_starts_from_what_stands(other: Sent) -> None:
    assert refused(log_of(*OPEN), amended(other)) == "amends-what-stands"


@pytest.mark.parametrize(
    ("second", "pointer"),
    [
        (change("/period/start_on", was="2025", to="2026"), "/data/changes/1/from"),
        (change("/terms/volumes/7/minimum", to="1"), "/data/changes/1/path"),
        (change("/terms/volumes/0/color", to="red"), "/data/changes"),
    ],
)
def test_a_refused_amendment_names_the_change_that_does_not_fit(second: Sent, pointer: str) -> None:
    with pytest.raises(NotAllowedNow) as caught:
        log_of(*OPEN).append(amended(change("/title", was="Cells", to="Batteries"), second))
    assert [fault.pointer for fault in caught.value.errors] == [pointer]


@pytest.mark.parametrize(
    "odd",
    [
        change("/terms/renewal/notice_days", was=90, to="soon"),
        change("/terms/volumes/0/period", was="2024"),
        change("/terms/volumes/0/color", to="red"),
        change("/period/start_on", was="2024", to="2027"),
    ],
)
def test_what_the_changes_make_is_a_contract_still(odd: Sent) -> None:
    assert refused(log_of(*OPEN), amended(odd)) == "amended-terms-fit"


def test_a_latest_end_binds_an_amendment_too_unless_it_is_amended_with_it() -> None:
    log = log_of(*OPEN)
    longer = change("/period/end_on", was="2026-12-31", to="2029")
    assert refused(log, amended(longer)) == "within-max-end"
    assert refused(log, amended(change("/period/max_end_on", was="2028", to="2025"))) == "within-max-end"
    log.append(amended(longer, change("/period/max_end_on", was="2028", to="2030")))
    log.append(amended(change("/period/max_end_on", was="2030"), amendment_id="a2", effective_on="2025-02-01"))


def test_an_end_beyond_the_latest_that_stood_so_does_not_bind_what_leaves_it() -> None:
    beyond = sent("order.extended", "2024-06-01", {"via": "amendment", "new_end_on": "2029"})
    log = log_of(*OPEN, beyond)
    log.append(amended(change("/title", was="Cells", to="Batteries"), change("/period/start_on", was="2024", to="2024-02")))


def test_a_term_may_be_shortened_by_amendment_and_terms_stated_where_none_stood() -> None:
    log = log_of(reported(period={"start_on": "2024", "end_on": "2026"}))
    log.append(amended(change("/period/end_on", was="2026", to="2025"), change("/terms/payment", to="cash")))
    log.append(
        amended(change("/terms", was={"payment": "cash"}), change("/period", was={"start_on": "2024", "end_on": "2025"}), amendment_id="a2")
    )
    state = log.rows[next(iter(log.rows))].state
    assert '"payment"' not in state
    assert '"period"' not in state


def test_an_amendment_has_an_id_of_its_own() -> None:
    log = log_of(*OPEN, amended(change("/title", was="Cells", to="Batteries")))
    assert refused(log, amended(change("/title", was="Batteries", to="Cells"))) == "unique-amendment"


def test_an_amendment_that_no_longer_starts_from_what_stands_is_flagged_and_says_what_stands_all_the_same() -> None:
    history = [*OPEN, amended(change("/title", was="Cells", to="Batteries")), reported("2024-06-01", title="Packs")]
    log = log_of(*history)
    assert flagged_in(log) == ["no-longer-fits.3"]
    assert told(*history).state.title == "Batteries"


def test_an_amendment_of_what_is_not_there_changes_nothing_and_stands_as_made() -> None:
    event = amended(change("/terms/volumes/0/minimum", was="10", to="20"))
    state = told(reported(), event).state
    assert (state.terms, state.amendments[0].rests_on) == (None, [2])
