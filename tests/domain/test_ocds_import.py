"""Open Contracting releases as events: what each becomes, and what is refused, at which place."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.exchange.ocds_import import Planned, from_ocds, idempotency_key
from service.exchange.ocds_read import MAX_OCDS_DEPTH, Refusal, Unreadable, read

TODAY = date(2026, 11, 22)
Json = dict[str, Any]
PARTIES = [{"id": "b", "name": "Buyer", "roles": ["buyer"]}, {"id": "s", "name": "Supplier", "roles": ["supplier"]}]


KEY = "1f585c78c3e33b6839f68fc8740fb271e38cc22dfa7ee6dc96cd641f590f132d"


def contract(**members: Any) -> Json:
    return {"id": "c", "title": "Cells", "dateSigned": "2024-01-26T09:00:00Z", **members}


def release(release_id: str = "r1", day: str = "2024-02-01", *contracts: Json, **members: Any) -> Json:
    told = list(contracts) or [contract()]
    return {
        "ocid": "o-1",
        "id": release_id,
        "date": f"{day}T00:00:00Z",
        "tag": ["contract"],
        "parties": PARTIES,
        "contracts": told,
        **members,
    }


def planned(*releases: Json) -> tuple[list[Planned], list[Refusal]]:
    return from_ocds(read(json.dumps({"releases": list(releases)})), lambda _: [], TODAY)


def events(*releases: Json) -> list[tuple[str, str]]:
    """Types and days of what releases of one contract make, none refused."""
    made, refusals = planned(*releases)
    assert refusals == []
    return [(request["event_type"], request["effective_on"]) for known in made for step in known.steps for request in step.requests]


def data(*releases: Json) -> Json:
    """The data of the last event."""
    made, refusals = planned(*releases)
    assert refusals == []
    found: Json = made[-1].steps[-1].requests[-1]["data"]
    return found


def reason(*releases: Any) -> str:
    """Why the last release is refused."""
    _, refusals = planned(*releases)
    return refusals[-1].reason


def test_a_contract_signed_before_its_release_opens_as_signed_and_one_to_be_signed_as_reported() -> None:
    assert events(release()) == [("contract.signed", "2024-01-26")]
    assert events(release(day="2024-01-01")) == [("contract.reported", "2024-01-01"), ("contract.signed", "2024-01-26")]


def test_an_active_contract_without_a_day_of_signing_was_signed_by_the_day_of_its_release() -> None:
    assert data(release("r1", "2024-02-01", {"id": "c", "title": "Cells", "status": "active"}))["signed_by"] == "2024-02-01"


def test_a_signing_of_an_earlier_day_than_the_first_report_says_who_signed() -> None:
    told = release("r1", "2024-02-01", {"id": "c", "title": "Cells"}), release("r2", "2024-02-02")
    assert events(*told) == [("contract.reported", "2024-02-01"), ("contract.signed", "2024-01-26")]
    signing = data(*told)
    assert (signing["title"], [party["party_id"] for party in signing["parties"]]) == ("Cells", ["b", "s"])


def test_a_signing_of_a_day_by_which_no_supplier_was_told_says_who_signed() -> None:
    buyer_alone = {"parties": PARTIES[:1]}
    told = release("r1", "2024-01-01", {"id": "c", "title": "Cells"}, **buyer_alone), release("r2", "2024-02-02")
    assert events(*told) == [("contract.reported", "2024-01-01"), ("contract.reported", "2024-02-02"), ("contract.signed", "2024-01-26")]
    signing = data(*told)
    assert ("title" in signing, [party["party_id"] for party in signing["parties"]]) == (False, ["b", "s"])


def test_amounts_are_the_digits_that_were_written() -> None:
    text = json.dumps(release(contracts=[contract(value={"amount": 1, "currency": "USD"})]))
    for written, kept in (
        ("4308660000.10", "4308660000.10"),
        ("0.1", "0.1"),
        ("1e3", "1000"),
        ("12345678901234567890.12",) * 2,
        ("5.000", "5.00"),
        ("-0.0", "0.0"),
    ):
        (known,), _ = from_ocds(read(text.replace('"amount": 1', f'"amount": {written}')), lambda _: [], TODAY)
        assert known.steps[0].requests[0]["data"]["figures"][0]["amount"] == kept


def test_an_amendment_says_what_differs_from_what_stood() -> None:
    first = release(contracts=[contract(period={"endDate": "2025-12-31T23:59:59Z"}, value={"amount": 100, "currency": "USD"})])
    amended = contract(
        period={"endDate": "2026-06-30T23:59:59Z"},
        value={"amount": 150, "currency": "USD"},
        amendments=[{"id": "a1", "date": "2024-05-05T00:00:00Z", "rationale": "more"}],
    )
    made, refusals = planned(first, release("r2", "2024-06-01", amended))
    assert refusals == []
    terms, value = made[0].steps[1].requests
    assert (terms["event_type"], terms["effective_on"]) == ("terms.amended", "2024-05-05")
    assert terms["data"]["changes"] == [{"path": "/period/end_on", "from": "2025-12-31", "to": "2026-06-30"}]
    assert (value["event_type"], value["effective_on"], value["data"]["replaces"]) == ("value.revised", "2024-05-05", "ocds-1")
    assert value["source"] == {"kind": "filing", "via": "OCDS", "published_on": "2024-06-01", "external_id": "r2"}
    # What was told of an amendment is not told again.
    assert events(first, release("r2", "2024-06-01", amended), release("r3", "2024-07-01", amended))[-1] == ("note.added", "2024-07-01")


def test_an_amendment_of_which_nothing_earlier_is_known_is_a_note() -> None:
    assert data(release(contracts=[contract(amendments=[{"id": "a1", "rationale": "more"}])])) == {"text": "Amendment a1: more"}


def test_milestones_are_scheduled_met_and_missed_on_their_days() -> None:
    due = {"id": "m", "title": "Line ready", "dueDate": "2024-09-30T00:00:00Z"}
    first = release(contracts=[contract(milestones=[due])])
    met = release("r2", "2024-10-02", contract(milestones=[{"id": "m", "status": "met", "dateMet": "2024-09-28T10:00:00Z"}]))
    missed = release("r2", "2024-10-02", contract(milestones=[{"id": "m", "status": "notMet"}]))
    assert events(first)[1:] == [("milestone.scheduled", "2024-01-26")]
    assert events(first, met)[2:] == [("milestone.met", "2024-09-28")]
    late = release("r2", "2024-10-02", contract(milestones=[{"id": "m", "status": "met", "dateMet": "2024-01-01T10:00:00Z"}]))
    assert events(first, late)[2:] == [("milestone.met", "2024-01-26")]
    assert data(first, late) == {"milestone_id": "m", "text": "On 2024-01-01."}
    assert events(first, missed)[2:] == [("milestone.missed", "2024-10-02")]


def test_what_a_release_tells_otherwise_without_an_amendment_is_reported() -> None:
    told = data(
        release(), release("r2", "2024-03-01", contract(title="Packs", items=[{"id": "i", "quantity": 8, "unit": {"name": "Miles"}}]))
    )
    assert told == {
        "stage": "reported",
        "title": "Packs",
        "items": [{"item_id": "i", "description": "i", "quantity": "8", "unit": "x-miles"}],
    }


def test_a_value_that_is_taken_back_is_withdrawn() -> None:
    first = release(contracts=[contract(value={"amount": 100, "currency": "USD"})])
    assert events(first, release("r2", "2024-03-01", contract(value=None)))[-1] == ("figure.withdrawn", "2024-03-01")


def test_an_end_is_told_as_far_as_the_standard_tells_it() -> None:
    ended = release("r2", "2024-05-01", contract(status="terminated"))
    assert events(release(), ended)[-1] == ("contract.terminated", "2024-05-01")
    unsigned = {"id": "c", "title": "Cells"}
    assert events(release("r1", "2024-02-01", unsigned), release("r2", "2024-03-01", {**unsigned, "status": "cancelled"}))[-1] == (
        "contract.cancelled",
        "2024-03-01",
    )


def test_a_release_of_a_contract_that_says_nothing_new_is_known_by_a_note() -> None:
    assert (
        "implementation/transactions" in data(release(), release("r2", "2024-03-01", contract(implementation={"transactions": []})))["text"]
    )


def test_only_the_suppliers_of_its_award_are_a_contracts_own() -> None:
    awards = [{"id": "a", "suppliers": [{"id": "s", "name": "Supplier"}]}]
    other = {"id": "x", "name": "Other", "roles": ["supplier", "tenderer"]}
    told = data(release("r1", "2024-02-01", contract(awardID="a"), awards=awards, parties=[*PARTIES, other]))
    assert [party["party_id"] for party in told["parties"]] == ["b", "s"]


def test_each_contract_of_a_release_is_a_contract_of_its_own_with_other_keys() -> None:
    made, _ = planned(release("r1", "2024-02-01", contract(), contract(id="d")))
    assert [known.contract_id for known in made] == ["c", "d"]
    assert len({idempotency_key(known, known.steps[0], index) for known in made for index in (0, 1)}) == 4


def test_the_same_release_makes_the_same_requests_under_the_same_keys_in_whatever_document_it_stands() -> None:
    requests = [
        [(idempotency_key(known, step, 0), step.requests) for known in from_ocds(document, lambda _: [], TODAY)[0] for step in known.steps]
        for document in (release(), {"releases": [release()]}, {"records": [{"ocid": "o-1", "releases": [release()]}]})
    ]
    assert len(requests[0]) == 1
    assert requests[0] == requests[1] == requests[2]
    # Keys are kept by the services that were sent them.
    assert requests[0][0][0] == KEY


def test_ids_with_slashes_make_no_contract_of_another_process() -> None:
    one, other = release("r1", "2024-02-01", contract(id="b/c"), ocid="a"), release("r2", "2024-02-01", contract(id="c"), ocid="a/b")
    made, _ = planned(one, other)
    assert len({known.reference for known in made}) == 2


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"ocid": None}, "ocid: it has none"),
        ({"id": None}, "id: it has none"),
        ({"date": None}, "date: it has none"),
        ({"date": "soon"}, "date: it is no date"),
        ({"date": "0001-01-01T00:00:00Z"}, "date: it is no date from 1000"),
        ({"date": 20240101}, "date: it is no date"),
        ({"id": "a\u202eb"}, "id: it is no text"),
        ({"contracts": None}, "it tells of no contract"),
        ({"contracts": {}}, "contracts: it should be a list"),
        ({"contracts": [[]]}, "contracts/0: it should be an object"),
        ({"contracts": [{}]}, "contracts/0/id: it has none"),
        ({"contracts": [contract(), contract()]}, "contracts/1/id: c stands twice"),
        ({"contracts": [contract(title=None)]}, "title: it has none"),
        ({"contracts": [contract(title="x" * 301)]}, "contract.signed /data/title: it should have at most 300 characters"),
        ({"contracts": [contract(dateSigned="2024-02-30T00:00:00Z")]}, "dateSigned: it is no date"),
        ({"contracts": [contract(value={"amount": 1, "currency": "XYZ"})]}, "no currency of ISO 4217 has the code XYZ"),
        ({"contracts": [contract(value={"amount": 1})]}, "value/currency: it has none"),
        ({"contracts": [contract(value={"amount": -1, "currency": "USD"})]}, "value/amount: it is below zero"),
        ({"contracts": [contract(value={"amount": "1", "currency": "USD"})]}, "value/amount: it should be a number"),
        ({"contracts": [contract(value={"amount": True, "currency": "USD"})]}, "value/amount: it should be a number"),
        ({"contracts": [contract(value={"amount": 0.001, "currency": "USD"})]}, "USD has 2 digits after the point"),
        ({"contracts": [contract(value={"amount": 10**29, "currency": "USD"})]}, "value/amount: it has too many digits"),
        ({"contracts": [contract(period={"startDate": "2024-02-01T00:00:00Z", "endDate": "2024-01-01T00:00:00Z"})]}, "the end is before"),
        ({"contracts": [contract(items=[{"id": "i"}, {"id": "i"}])]}, "contracts/0/items/1/id: i stands twice"),
        ({"contracts": [contract(items=[{"id": "a b"}])]}, "item_id: it should be an id"),
        ({"contracts": [contract(items=[{"id": str(n)} for n in range(1_001)])]}, "contracts/0/items: it has more than 1,000 entries"),
        ({"parties": [{**PARTIES[0], "roles": 5}]}, "parties/0/roles: it should be a list"),
        ({"parties": [{**PARTIES[0], "identifier": {"scheme": {}, "id": "x"}}]}, "scheme: it should be text"),
        ({"buyer": {"id": "x"}}, "buyer/name: it has none"),
        ({"parties": []}, "parties: none has a role"),
        ({"parties": PARTIES[:1]}, "no supplier stands by then"),
        ({"parties": [{"id": "b", "roles": ["buyer"]}]}, "parties/0/name: it has none"),
        ({"parties": [*PARTIES, PARTIES[0]]}, "parties/2/id: b stands twice"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_a_reason(told: Json, why: str) -> None:
    made, refusals = planned({**release(), **told})
    assert made == []
    assert [why in refusal.reason for refusal in refusals] == [True], refusals


def test_a_release_that_is_refused_leaves_the_others_of_the_contract() -> None:
    bad = release("r2", "2024-03-01", contract(period={"startDate": "x"}))
    later = release("r3", "2024-04-01", contract(title="Packs", period={"startDate": "2024-03-01T00:00:00Z"}))
    made, refusals = planned(release(), bad, later)
    assert [step.release.release_id for step in made[0].steps] == ["r1", "r3"]
    assert [(refusal.place, refusal.release_id) for refusal in refusals] == [("/releases/1/contracts/0", "r2")]


def test_packages_within_packages_twins_and_what_is_no_release_are_refused() -> None:
    assert "package, where a release is expected" in reason({"releases": [release()]})
    assert reason(release(), release()) == "another release of the document has its id"
    assert "no release" in reason([release()])
    assert "no release" in reason("release")
    for document in (None, 1, "x", {}, {"releases": 1}, {"records": [1]}, {"records": "x"}, [None]):
        made, refusals = from_ocds(document, lambda _: [], TODAY)
        assert (made, len(refusals)) == ([], 1)


def test_a_release_may_come_alone_in_a_list_in_a_record_and_as_a_compiled_release() -> None:
    for document in (
        release(),
        [release()],
        {"ocid": "o-1", "releases": [release()], "compiledRelease": release("x", tag=["compiled"])},
        {"records": [{"ocid": "o-1", "releases": [{"url": "https://example.com/r1"}], "compiledRelease": release()}]},
    ):
        made, refusals = from_ocds(document, lambda _: [], TODAY)
        assert refusals == []
        assert [step.release.release_id for known in made for step in known.steps] == ["r1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no"),
        (b'{"amount": NaN}', "NaN is no number"),
        (b'{"amount": -Infinity}', "-Infinity is no number"),
        (b'{"ocid": 1, "ocid": 2}', "'ocid' stands twice"),
        (b"[" * 100_000, "deep"),
        (b"[" * (MAX_OCDS_DEPTH + 2) + b"]" * (MAX_OCDS_DEPTH + 2), "deep"),
    ],
)
def test_text_that_is_no_open_contracting_data_is_unreadable(text: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(text)


def test_numbers_of_any_size_are_read_and_refused_without_being_written_out() -> None:
    for number in ("1e999999999", "9" * 100_000, "1e-999999999"):
        text = json.dumps(release(contracts=[contract(value={"amount": 0, "currency": "USD"})])).replace(
            '"amount": 0', f'"amount": {number}'
        )
        made, (refusal,) = from_ocds(read(text), lambda _: [], TODAY)
        assert made == []
        assert "too many digits" in refusal.reason


def test_what_the_ledger_has_and_cannot_be_read_is_a_reason_and_no_failure() -> None:
    erased = {
        "event_id": "e",
        "event_type": "contract.signed",
        "position": 1,
        "revision": 1,
        "schema_version": 1,
        "effective_on": "2024-01-26",
    }
    made, (refusal,) = from_ocds(read(json.dumps(release())), lambda _: [erased], TODAY)
    assert made == []
    assert "cannot be read whole: revision 1" in refusal.reason


def test_a_supplier_that_left_is_one_no_more_though_a_merge_keeps_its_entry() -> None:
    """As our own releases tell of a novation: a merge (OCDS, "Merging") takes no entry out of a list, so its members are null."""
    award = {"id": "a", "suppliers": [{"id": "s", "name": "Supplier"}]}
    told = contract(awardID="a")
    first = release("r1", "2024-02-01", told, awards=[award])
    left = {"id": "s", "name": None, "roles": None, "identifier": {"scheme": None, "id": None}}
    now = {"id": "n", "name": "New", "roles": ["supplier"]}
    suppliers = [{"id": "s", "name": None}, {"id": "n", "name": "New"}]
    second = release("r2", "2024-03-01", told, parties=[PARTIES[0], left, now], awards=[{"id": "a", "suppliers": suppliers}])
    assert [(party["party_id"], party["roles"]) for party in data(first, second)["parties"]] == [("b", ["buyer"]), ("n", ["supplier"])]
    third = release(
        "r3", "2024-04-01", contract(awardID="a", title="Packs"), parties=[{"id": "s"}], awards=[{"id": "a", "suppliers": [{"id": "s"}]}]
    )
    assert "parties" not in data(first, second, third)
    unknown = release("r1", "2024-02-01", told, awards=[{"id": "a", "suppliers": [{"id": "x"}]}])
    assert reason(unknown) == "supplier/name: it has none"


def test_the_language_of_a_name_stays_with_the_name() -> None:
    (made,), _ = planned(release())
    (signing,) = made.steps[0].requests
    parties = [{**party, "language": "ko"} for party in signing["data"]["parties"]]
    recorded = {
        **signing,
        "data": {**signing["data"], "parties": parties},
        "event_id": "e",
        "position": 1,
        "revision": 1,
        "schema_version": 2,
    }
    told = release("r2", "2024-03-01", parties=[PARTIES[0], {**PARTIES[1], "name": "Another name"}])
    made_now, refusals = from_ocds(read(json.dumps(told)), lambda _: [recorded], TODAY)
    assert refusals == []
    stated = made_now[0].steps[0].requests[-1]["data"]["parties"]
    assert [(party["name"], party.get("language")) for party in stated] == [("Buyer", "ko"), ("Another name", None)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "c", "2024-01-01", "USD", "buyer", "é"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "title", "amount", "currency", "roles"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*release(), "buyer", "awards"]),
    st.sampled_from([*contract(), "value", "period", "items", "milestones", "amendments"]),
    JSON,
    JSON,
)
def test_whatever_stands_in_a_release_it_is_planned_or_refused(member: str, of_contract: str, one: Any, other: Any) -> None:
    told = release(contracts=[contract(**{of_contract: other})], **({member: one} if member != "contracts" else {}))
    told["parties"] = [*PARTIES, {"id": "x", "name": "Other", "roles": other, "identifier": one}] if member == "buyer" else told["parties"]
    made, refusals = planned(release(), {**told, "id": told["id"] if member == "id" else "r2"})
    assert sum(len(known.steps) for known in made) + len(refusals) >= 2
