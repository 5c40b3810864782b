"""Parties: added, replaced by a novation, identified as one and the same."""

from typing import Any

import pytest

from service.domain.parties import MAX_PARTIES
from service.errors import Refused
from tests.domain.histories import BUYER, SUPPLIER, Sent, flagged_in, log_of, refused, reported, sent, signed, told

OPEN = [reported(), signed()]
LEI = {"scheme": "LEI", "id": "EXAMPLE0000000000001"}
DUNS = {"scheme": "DUNS", "id": "1"}


def party(party_id: str, *roles: str, **data: Any) -> Sent:
    return {"party_id": party_id, "name": f"The party {party_id}", "roles": list(roles) or ["broker"], **data}


def added(party_id: str = "p1", effective_on: str = "2025-01-01", **data: Any) -> Sent:
    return sent("party.added", effective_on, {"party": party(party_id, **data)})


def replaced(replaces: str = "lges", party_id: str = "p2", effective_on: str = "2025-02-01") -> Sent:
    return sent("party.replaced", effective_on, {"replaces": replaces, "party": party(party_id, "supplier")})


def identified(party_id: str = "isuzu", effective_on: str = "2025-03-01", **data: Any) -> Sent:
    return sent("party.identified", effective_on, {"party_id": party_id, **data})


def ids(*events: Sent, **times: str) -> list[str]:
    return [known.party_id for known in told(*events, **times).state.parties]


def test_a_party_that_is_added_stands_from_its_day_on() -> None:
    assert ids(*OPEN, added(), day="2024-12-31") == ["lges", "isuzu"]
    assert ids(*OPEN, added(), day="2025-01-01") == ["lges", "isuzu", "p1"]


def test_by_a_novation_one_party_steps_out_and_another_in() -> None:
    log_of(*OPEN, replaced())
    state = told(*OPEN, replaced()).state
    assert [(known.party_id, known.roles) for known in state.parties] == [("isuzu", ["buyer"]), ("p2", ["supplier"])]
    (former,) = state.former_parties
    assert (former.party_id, former.became, former.by, former.effective_on, former.rests_on) == (
        "lges",
        "p2",
        "replaced",
        "2025-02-01",
        [1, 3],
    )


def test_identifying_a_party_adds_to_it_and_merges_what_was_the_same() -> None:
    history = [*OPEN, added(identifiers=[LEI], roles=["buyer", "payer"]), identified(name="Isuzu", identifiers=[DUNS, LEI], merges=["p1"])]
    log_of(*history)
    state = told(*history).state
    isuzu = state.parties[1]
    assert (isuzu.name, isuzu.roles, isuzu.identifiers, isuzu.rests_on) == ("Isuzu", ["buyer", "payer"], [DUNS, LEI], [1, 3, 4])
    assert [(former.party_id, former.became, former.by) for former in state.former_parties] == [("p1", "isuzu", "identified")]


def test_a_name_has_its_language_and_another_name_its_own() -> None:
    korean = added("p1", name="엘지에너지솔루션", language="ko")
    latin = added("p2", name="LG Enaji Soryushon", language="ja-Latn")
    state = told(
        *OPEN, korean, latin, identified("p1", name="LG Energy Solution"), identified("lges", identifiers=[LEI], merges=["p2"])
    ).state
    assert [(known.party_id, known.name, known.language) for known in state.parties] == [
        ("lges", "LG Energy Solution", None),
        ("isuzu", "Isuzu Motors", None),
        ("p1", "LG Energy Solution", None),
    ]
    assert [(former.name, former.language) for former in state.former_parties] == [("LG Enaji Soryushon", "ja-Latn")]
    state = told(*OPEN, korean, identified("p1", identifiers=[LEI]), identified("isuzu", name="いすゞ自動車", language="ja")).state
    assert [known.language for known in state.parties] == [None, "ja", "ko"]


@pytest.mark.parametrize("language", ["korean", "KO", "ko_KR", "ko-kr", "zh-hant", "ko-", "", "k", 5, "i-klingon"])
def test_a_language_is_a_tag_in_the_recommended_spelling(language: Any) -> None:
    with pytest.raises(Refused, match="/data/party/language: it should"):
        log_of(*OPEN, added(language=language))


def test_a_language_without_a_name_is_of_nothing() -> None:
    with pytest.raises(Refused, match="/data/language: the language is that of a name"):
        log_of(*OPEN, identified(language="ko", identifiers=[LEI]))


def test_ids_of_parties_are_new_or_known() -> None:
    log = log_of(*OPEN, added(), replaced())
    for event in (added(), added("lges"), replaced("isuzu", "p1"), replaced("isuzu", "lges")):
        assert refused(log, event) == "unique-party"
    for event in (replaced("nobody"), identified("nobody", name="x"), identified(merges=["nobody"])):
        assert refused(log, event) == "known-party"


def test_a_party_that_has_left_by_then_cannot_leave_again() -> None:
    history = [*OPEN, replaced(), replaced("lges", "p3", "2025-04-01")]
    log_of(*history)
    assert told(*history).state.unplaced == [4]
    assert ids(*history) == ["isuzu", "p2"]


def test_a_party_that_was_one_already_by_a_later_truth_joins_once() -> None:
    log = log_of(*OPEN, added())
    log.append(reported("2024-06-01", parties=[SUPPLIER, BUYER, party("p1", "financier")]))
    assert flagged_in(log) == ["joins-twice.3.4"]
    view = told(*OPEN, added(), reported("2024-06-01", parties=[SUPPLIER, BUYER, party("p1", "financier")]))
    assert [(known.party_id, known.roles) for known in view.state.parties][2:] == [("p1", ["broker"])]


@pytest.mark.parametrize(("data", "words"), [({}, "gives a name, identifiers"), ({"merges": ["isuzu"]}, "merged into itself")])
def test_an_identification_says_something_that_can_be(data: Sent, words: str) -> None:
    with pytest.raises(Refused, match=words):
        log_of(*OPEN).append(identified(**data))


def test_a_contract_has_a_most_of_parties() -> None:
    log = log_of(*OPEN, *(added(f"g{number}") for number in range(MAX_PARTIES - 2)))
    assert refused(log, added("one-more")) == "parts-limit"
    log.append(replaced())


def test_a_merge_of_a_party_that_joins_later_is_unplaced_and_the_rest_of_the_identification_counts() -> None:
    history = [*OPEN, added("p1", "2025-06-01"), identified("isuzu", "2025-03-01", merges=["p1"], identifiers=[LEI])]
    state = log_of(*history) and told(*history).state
    assert state.unplaced == [4]
    assert [(known.party_id, known.identifiers) for known in state.parties] == [("lges", None), ("isuzu", [LEI]), ("p1", None)]
    assert told(*history[:2], added("p1", "2025-01-01"), history[3]).state.unplaced == []
