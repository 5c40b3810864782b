"""Corrections and voids over HTTP: what is told of them, what is refused with which rule at which place, and a replay that agrees."""

from typing import Any

import httpx
import pytest

from service.audit.rebuild import rebuild
from service.audit.replay import verify
from tests.api.bodies import REPORTED, Json, delivery, event, figure, note, open_and_sign, open_contract, record, with_key
from tests.api.running import RunningService

STATED = event({"figure": figure("krw-1")})
NOWHERE = "01890000-0000-7000-8000-0000000000ff"


def recorded(api: httpx.Client, contract_id: str, event_type: str, body: Json) -> str:
    """The event_id of a recorded event."""
    answer = record(api, contract_id, event_type, body)
    assert answer.status_code == 201, answer.text
    event_id: str = answer.json()["events"][0]["event_id"]
    return event_id


def corrected(target: str, data: Json, **more: Any) -> Json:
    return event({"target": target, "data": data} | more, None)


def voided(target: str) -> Json:
    return event({"target": target, "reason": "recorded twice"}, None)


def told(api: httpx.Client, contract_id: str, **times: Any) -> Json:
    answer = api.get(f"/contracts/{contract_id}", params=times)
    assert answer.status_code == 200, answer.text
    contract: Json = answer.json()
    return contract


def amounts(contract: Json) -> list[str]:
    return [known["amount"] for known in contract["state"]["value"].get("figures", [])]


def test_a_correction_is_told_now_and_what_stood_before_at_any_time_before(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "figure.stated", STATED)
    first = told(api, contract_id)
    act = recorded(api, contract_id, "event.corrected", corrected(target, {"figure": figure("krw-1", "1100000000000")}))
    second = told(api, contract_id)
    assert (amounts(first), amounts(second)) == (["1000000000000"], ["1100000000000"])
    assert [entry.get("corrected_by") for entry in second["rests_on"]] == [None, None, 4]
    assert told(api, contract_id, revision=3)["state"] == first["state"]
    recorded(api, contract_id, "event.voided", voided(act))
    assert told(api, contract_id)["state_hash"] == first["state_hash"]
    assert told(api, contract_id, revision=4)["state"] == second["state"]
    stored = api.get(f"/events/{act}").json()
    assert "effective_on" not in stored
    assert stored["data"]["target"] == target


def test_history_and_comparison_say_what_was_corrected_and_voided(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "figure.stated", STATED)
    act = recorded(api, contract_id, "event.corrected", corrected(target, {"figure": figure("krw-1", "9")}))
    recorded(api, contract_id, "event.voided", voided(act))
    items = api.get(f"/contracts/{contract_id}/history").json()["items"]
    assert items[3]["sentence"] == "event.corrected of revision 3, figure.stated, on the word of LG Energy Solution: changed value."
    assert items[4]["sentence"] == "event.voided of revision 4, event.corrected, on the word of LG Energy Solution: changed value."
    assert [item.get("target_revision") for item in items] == [None, None, None, 3, 4]
    assert all(operation["path"].startswith("/value/") for operation in items[3]["patch"])
    compared = api.get(f"/contracts/{contract_id}/compare", params={"from_revision": 3, "to_revision": 5}).json()
    assert compared["patch"] == []
    assert compared["sentence"].endswith("nothing differs; between them revision 4 corrects revision 3, revision 5 voids revision 4.")
    early = api.get(f"/contracts/{contract_id}/history", params={"effective_on": "2023-01-01"}).json()["items"]
    assert early[3]["sentence"].endswith("changes nothing in the state of 2023-01-01.")


def test_what_a_correction_unsettles_is_in_its_receipt_and_refused_by_strict(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "figure.stated", STATED)
    revision = {"replaces": "krw-1", "value": figure("krw-2"), "reason": "renegotiation"}
    recorded(api, contract_id, "value.revised", event(revision, "2024-06-01"))
    body = corrected(target, {"figure": figure("krw-9")})
    path = f"/contracts/{contract_id}/event-corrected"
    strict = api.post(path, json=body, params={"strict": "true"}, headers=with_key())
    assert (strict.status_code, strict.json()["code"]) == (422, "anomalies-refused")
    would = api.post(path, json=body, params={"validate_only": "true"})
    answer = api.post(path, json=body, headers=with_key())
    raised = [{"anomaly_id": "correction-unsettles.4.5", "rule": "correction-unsettles"}]
    assert would.json()["anomalies"] == answer.json()["anomalies"] == raised
    (flagged,) = told(api, contract_id)["anomalies"]
    assert flagged["sentence"] == "revision 4 refers to what is not there, since revision 5 corrected or voided another"


def test_a_target_that_cannot_be_acted_on_is_refused_with_the_rule_and_the_place(api: httpx.Client) -> None:
    contract_id, other = open_and_sign(api), open_contract(api, REPORTED)
    opening = api.get(f"/contracts/{contract_id}/events").json()["items"][0]["event_id"]
    of_other = recorded(api, other, "note.added", note())
    target = recorded(api, contract_id, "figure.stated", STATED)
    correction = recorded(api, contract_id, "event.corrected", corrected(target, STATED["data"]))
    void = recorded(api, contract_id, "event.voided", voided(target))
    before = api.get(f"/contracts/{contract_id}").json()["revision"]
    for event_type, body, rule in (
        ("event.corrected", corrected(of_other, {"text": "x"}), "known-event"),
        ("event.corrected", corrected(NOWHERE, {"text": "x"}), "known-event"),
        ("event.corrected", corrected(correction, STATED["data"]), "corrects-original"),
        ("event.corrected", corrected(void, {"target": target, "reason": "x"}), "corrects-original"),
        ("event.corrected", corrected(target, STATED["data"]), "voids-what-stands"),
        ("event.voided", voided(of_other), "known-event"),
        ("event.voided", voided(target), "voids-what-stands"),
        ("event.voided", voided(opening), "opening-stands"),
    ):
        answer = record(api, contract_id, event_type, body)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["rule"]) == (409, "not-allowed-now", rule)
        assert problem["errors"][0]["pointer"] == "/data/target"
    assert api.get(f"/contracts/{contract_id}").json()["revision"] == before


def test_a_correction_that_names_itself_by_guess_names_nothing(api: httpx.Client) -> None:
    """An event has no id before it is recorded, so one that names itself, or another of its request, names what is not there."""
    contract_id = open_and_sign(api)
    events = [{"event_type": "note.added", **note()}, {"event_type": "event.voided", **voided(NOWHERE)}]
    answer = api.post(f"/contracts/{contract_id}/events", json={"events": events}, headers=with_key())
    assert (answer.status_code, answer.json()["rule"], answer.json()["errors"][0]["pointer"]) == (
        409,
        "known-event",
        "/events/1/data/target",
    )


@pytest.mark.parametrize(
    ("data", "more", "pointer"),
    [
        ({"text": "a note"}, {}, "/data/data/figure"),
        ({"figure": figure("krw-1", "0.5")}, {}, "/data/data/figure/amount"),
        ({"figure": {**figure("krw-1"), "unknown": 1}}, {}, "/data/data/figure/unknown"),
        (STATED["data"], {"effective_on": "2023-02-30"}, "/data/effective_on"),
        (STATED["data"], {"effective_on": "2023-Q5"}, "/data/effective_on"),
        (STATED["data"], {"effective_on": "0000-01-01"}, "/data/effective_on"),
        (STATED["data"], {"effective_on": "9999-01-01"}, "/data/effective_on"),
        (STATED["data"], {"source": {"kind": "rumour"}}, "/data/source/kind"),
        (STATED["data"], {"event_type": "note.added"}, "/data/event_type"),
        ([], {}, "/data/data"),
    ],
)
def test_what_a_correction_states_is_judged_as_the_event_that_it_corrects(api: httpx.Client, data: Any, more: Json, pointer: str) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "figure.stated", STATED)
    answer = record(api, contract_id, "event.corrected", corrected(target, data, **more))
    assert (answer.status_code, answer.json()["code"]) == (422, "refused"), answer.text
    assert pointer in [fault["pointer"] for fault in answer.json()["errors"]]


@pytest.mark.parametrize("event_type", ["event.corrected", "event.voided", "contract.labelled"])
def test_what_has_no_effective_day_is_not_sent_with_one(api: httpx.Client, event_type: str) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "note.added", note())
    data = {
        "event.corrected": {"target": target, "data": {"text": "x"}},
        "event.voided": {"target": target, "reason": "x"},
        "contract.labelled": {"set": ["x"]},
    }[event_type]
    alone = record(api, contract_id, event_type, event(data, "2024-01-01"))
    among = {
        "events": [{"event_type": event_type, **event(data, "2024-01-01")}, {"event_type": "note.added", **event({"text": "x"}, None)}]
    }
    batch = api.post(f"/contracts/{contract_id}/events", json=among, headers=with_key())
    assert (alone.status_code, alone.json()["errors"][0]["pointer"]) == (422, "/effective_on")
    assert (batch.status_code, batch.json()["errors"][0]["pointer"]) == (422, "/events/0/effective_on")
    assert record(api, contract_id, event_type, event(data, None)).status_code == 201
    missing = record(api, contract_id, "note.added", event({"text": "x"}, None))
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (422, "/effective_on")


@pytest.mark.parametrize("effective_on", ["0000", "0000-01-01", "9999", "9999-12-31", "2023-02-30", "2023-Q5", "2023-13", "23-01-01"])
def test_a_day_that_is_none_or_beyond_all_calendars_is_refused(api: httpx.Client, effective_on: str) -> None:
    answer = record(api, open_and_sign(api), "note.added", event({"text": "x"}, effective_on))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/effective_on")


def test_an_instant_to_come_is_refused_and_before_the_first_event_there_is_no_contract(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    to_come = api.get(f"/contracts/{contract_id}", params={"known_at": "2999-01-01T00:00:00Z"})
    assert (to_come.status_code, to_come.json()["errors"][0]["pointer"]) == (422, "query:known_at")
    before = api.get(f"/contracts/{contract_id}", params={"known_at": "1999-01-01T00:00:00Z"})
    assert (before.status_code, before.json()["code"]) == (404, "contract-not-found")


def test_a_replay_agrees_with_what_corrections_and_voids_left(service: RunningService) -> None:
    service.make_ledger("corrected")
    with service.client(service.admin, ledger="corrected") as api:
        contract_id = open_and_sign(api)
        ids = [recorded(api, contract_id, "delivery.recorded", delivery(name)) for name in ("d-1", "d-2", "d-3")]
        recorded(api, contract_id, "event.corrected", corrected(ids[0], delivery("d-4")["data"], effective_on="2029-01-01"))
        recorded(api, contract_id, "event.voided", voided(ids[1]))
        recorded(api, contract_id, "contract.labelled", event({"set": ["seen"]}, None))
        taken = record(api, contract_id, "delivery.recorded", delivery("d-4"))
        assert (taken.status_code, taken.json()["rule"]) == (409, "unique-delivery")
        before = told(api, contract_id)
        url = service.database.service_url
        assert verify(url, "corrected", lambda *_: None, 1).difference is None
        rebuilt = rebuild(url, "corrected", lambda *_: None)
        assert (rebuilt.changed, rebuilt.difference) == (0, None)
        assert verify(url, "corrected", lambda *_: None, 1).difference is None
        after = told(api, contract_id)
        assert {**after, "as_of": None} == {**before, "as_of": None}
        assert after["pending"] == [{"revision": 3, "event_type": "delivery.recorded", "effective_on": "2029-01-01"}]
