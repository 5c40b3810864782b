"""What the service refuses by what it holds: things that are not there (404) and events that a rule forbids now (409)."""

from typing import Any

import httpx
import pytest

from tests.api.bodies import (
    FILING,
    REPORTED,
    SIGNED,
    changed,
    delivery,
    event,
    figure,
    head_of,
    note,
    open_contract,
    record,
    with_key,
)

Step = tuple[str, dict[str, Any]]
NOWHERE = "01890000-0000-7000-8000-0000000000ff"
TERMINATED: Step = ("contract.terminated", event({"by": "Isuzu", "cause": "notice"}, "2025-01-01"))
COMPLETED: Step = ("contract.completed", event({"by": "Isuzu"}, "2025-01-01"))
STATED: Step = ("figure.stated", event({"figure": figure("krw-1")}))


def extended(effective_on: str = "2025-06-01", **data: Any) -> Step:
    return "order.extended", event({"via": "amendment"} | data, effective_on)


def revised(replaces: str = "krw-1", figure_id: str = "krw-2", reason: str = "fx", effective_on: str = "2024-06-01", **more: Any) -> Step:
    data = {"replaces": replaces, "reason": reason, "value": figure(figure_id, **more)}
    return "value.revised", event(data, effective_on)


def signed(**data: Any) -> Step:
    return "contract.signed", event(data, "2024-01-26")


RULES: list[tuple[str, dict[str, Any], list[Step], Step]] = [
    ("signed-once", SIGNED, [], signed(signed_on="2024-02-01")),
    ("signed-once", REPORTED, [signed(signed_on="2024-01-26")], signed()),
    ("after-end", SIGNED, [TERMINATED], extended(new_end_on="2027-12-31")),
    ("after-end", SIGNED, [COMPLETED], extended(new_end_on="2027-12-31")),
    ("after-end", SIGNED, [TERMINATED], ("contract.completed", event({}, "2025-02-01"))),
    ("after-end", SIGNED, [COMPLETED], ("contract.terminated", event({}, "2025-02-01"))),
    ("after-end", SIGNED, [STATED, TERMINATED], revised(effective_on="2025-06-01")),
    ("after-end", SIGNED, [TERMINATED], ("agreement.linked", event({"relation": "framework"}, "2025-06-01"))),
    ("after-end", SIGNED, [TERMINATED], ("contract.reported", event({"stage": "denied"}, "2025-06-01"))),
    ("terminate-signed", REPORTED, [], TERMINATED),
    ("complete-signed", REPORTED, [], COMPLETED),
    ("known-delivery", SIGNED, [("delivery.recorded", delivery("d"))], ("delivery.accepted", delivery("e"))),
    ("known-figure", SIGNED, [], revised("krw-1")),
    ("known-figure", SIGNED, [], ("figure.stated", event({"figure": figure("a", derived_from={"figure_id": "b"})}))),
    ("known-figure", SIGNED, [], ("note.added", event({"text": "x", "about": {"kind": "figure", "id": "krw-1"}}))),
    ("unique-figure", SIGNED, [STATED], STATED),
    ("unique-figure", SIGNED, [STATED], revised("krw-1", "krw-1")),
    ("unique-figure", SIGNED, [STATED, revised()], ("figure.stated", event({"figure": figure("krw-1")}))),
    ("unique-figure", REPORTED, [STATED], signed(figures=[figure("krw-1")])),
    ("known-item", SIGNED, [], ("delivery.started", event({"item_id": "trucks"}))),
    ("known-item", SIGNED, [], ("delivery.recorded", changed(delivery("d"), "/data/item_id", "trucks"))),
    ("known-item", SIGNED, [], extended(added_quantity={"quantity": "1", "unit": "EA", "item_id": "trucks"})),
    ("known-item", SIGNED, [], ("note.added", event({"text": "x", "about": {"kind": "item", "id": "trucks"}}))),
    ("unique-delivery", SIGNED, [("delivery.recorded", delivery("d"))], ("delivery.recorded", delivery("d", "7"))),
    ("known-event", SIGNED, [], ("note.added", event({"text": "x", "about": {"kind": "event", "id": NOWHERE}}))),
    ("known-anomaly", SIGNED, [], ("note.added", event({"text": "x", "about": {"kind": "anomaly", "id": "value-halved.2"}}))),
    ("end-moves-later", SIGNED, [], extended(new_end_on="2026-12-31")),
    ("end-moves-later", SIGNED, [], extended(new_end_on="2026")),
    ("within-max-end", SIGNED, [], extended(new_end_on="2029-01-01", via="renewal")),
    ("known-option", SIGNED, [], extended(new_end_on="2027-12-31", via="option", option_id="one")),
    ("supplier-and-buyer", REPORTED, [], signed(parties=[{"party_id": "a", "name": "A", "roles": ["supplier"]}])),
]


@pytest.mark.parametrize(("rule", "opening", "steps", "refused"), RULES, ids=[f"{rule}-{i}" for i, (rule, *_) in enumerate(RULES)])
def test_an_event_that_a_rule_forbids_now_is_refused_by_the_rules_name(
    api: httpx.Client, rule: str, opening: dict[str, Any], steps: list[Step], refused: Step
) -> None:
    contract_id = open_contract(api, opening)
    for event_type, body in steps:
        assert record(api, contract_id, event_type, body).status_code == 201
    head = head_of(api)
    answer = record(api, contract_id, *refused)
    assert answer.status_code == 409, answer.text
    problem = answer.json()
    assert (problem["code"], problem["rule"]) == ("not-allowed-now", rule)
    assert problem["detail"].endswith(".")
    assert head_of(api) == head


ALLOWED: list[tuple[dict[str, Any], list[Step], Step]] = [
    (SIGNED, [TERMINATED], ("delivery.recorded", delivery("late"))),
    (SIGNED, [TERMINATED], ("figure.stated", event({"figure": figure("krw-9")}, "2025-06-01"))),
    (SIGNED, [TERMINATED], ("note.added", event({"text": "after the end"}, "2025-06-01"))),
    (SIGNED, [STATED, TERMINATED], revised(reason="actuals", effective_on="2025-06-01")),
    # A truth recorded late is not refused for what came after it.
    (SIGNED, [TERMINATED], extended("2024-06-01", new_end_on="2027-12-31")),
    (SIGNED, [], extended(new_end_on="2029-12-31")),
    (REPORTED, [], signed(parties=[{"party_id": "a", "name": "A", "roles": ["supplier", "buyer"]}])),
    (
        REPORTED,
        [],
        signed(
            parties=[{"party_id": "a", "name": "A", "roles": ["supplier"]}],
            withheld=[{"path": "/parties/buyer", "reason": "not in the filing"}],
        ),
    ),
]


@pytest.mark.parametrize(("opening", "steps", "allowed"), ALLOWED)
def test_what_is_true_late_or_beside_the_rule_is_recorded(
    api: httpx.Client, opening: dict[str, Any], steps: list[Step], allowed: Step
) -> None:
    contract_id = open_contract(api, opening)
    for step in [*steps, allowed]:
        answer = record(api, contract_id, *step)
        assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("missing", ["title", "kind", "parties"])
@pytest.mark.parametrize(("path", "body"), [("/contracts", SIGNED), ("/contracts/reported", REPORTED)])
def test_an_opening_states_title_kind_and_parties(api: httpx.Client, path: str, body: dict[str, Any], missing: str) -> None:
    data = {name: member for name, member in body["data"].items() if name != missing}
    answer = api.post(path, json=body | {"data": data}, headers=with_key())
    assert (answer.status_code, answer.json()["code"]) == (422, "refused")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [f"/data/{missing}"]
    assert answer.json()["detail"].startswith(f"/data/{missing}: ")


def test_an_event_of_another_contract_is_not_known_here(api: httpx.Client) -> None:
    one, other = open_contract(api), open_contract(api)
    event_id = record(api, one, "note.added", note()).json()["events"][0]["event_id"]
    about = event({"text": "x", "about": {"kind": "event", "id": event_id}}, source=FILING)
    assert record(api, other, "note.added", about).json()["rule"] == "known-event"
    assert record(api, one, "note.added", about).status_code == 201


NO_CONTRACTS = [NOWHERE, "x", "0", "reported", NOWHERE.replace("-", ""), NOWHERE + "0", "%20", "..%2f..", "%00", "%FF", "null", "{id}"]


@pytest.mark.parametrize("contract_id", NO_CONTRACTS)
def test_a_contract_that_is_not_there_is_not_found(api: httpx.Client, contract_id: str) -> None:
    path = f"/contracts/{contract_id}"
    answers = [
        api.get(path),
        api.get(path, params={"effective_on": "2024-01-01"}),
        api.get(f"{path}/events"),
        api.post(f"{path}/note-added", json=note(), headers=with_key()),
        api.post(f"{path}/events", json={"events": [{"event_type": "note.added"} | note()]}, headers=with_key()),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["code"] for answer in answers} <= {"contract-not-found", "not-found"}


def test_a_contract_is_found_by_its_id_in_upper_case_too(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    assert api.get(f"/contracts/{contract_id.upper()}").json()["contract_id"] == contract_id
    assert record(api, contract_id.upper(), "note.added", note()).status_code == 201


@pytest.mark.parametrize("event_id", [NOWHERE, "x", "%00", "%FF", NOWHERE + "0"])
def test_an_event_that_is_not_there_is_not_found(api: httpx.Client, event_id: str) -> None:
    answer = api.get(f"/events/{event_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "event-not-found")


def test_a_rule_that_refuses_one_of_several_events_says_which(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    items = [{"event_type": "note.added"} | note()] * 2 + [{"event_type": "contract.signed"} | SIGNED]
    answer = api.post(f"/contracts/{contract_id}/events", json={"events": items}, headers=with_key())
    assert (answer.status_code, answer.json()["rule"]) == (409, "signed-once")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/events/2"]
