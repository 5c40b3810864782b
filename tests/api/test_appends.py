"""Appends over HTTP: contracts opened and carried on, several events at once, rehearsed, or held to the strict rules."""

from typing import Any

import httpx
import pytest

from service.api.examples import EXAMPLES
from service.domain.events import EVENT_TYPES
from service.log import append
from tests.api.bodies import (
    PARTIES,
    REPORTED,
    SIGNED,
    delivery,
    event,
    figure,
    head_of,
    note,
    open_and_sign,
    open_contract,
    path_of,
    record,
    revision_of,
    with_key,
)
from tests.api.documented import operation_of
from tests.api.running import RunningService

RECEIPT = {"contract_id", "revision", "events", "anomalies"}
RECEIPT_EVENT = {"event_id", "position", "recorded_at", "event_hash"}


@pytest.mark.parametrize(("path", "body", "status"), [("/contracts", SIGNED, "signed"), ("/contracts/reported", REPORTED, "reported")])
def test_a_contract_opens_with_a_receipt_a_location_and_an_etag(api: httpx.Client, path: str, body: dict[str, Any], status: str) -> None:
    answer = api.post(path, json=body, headers=with_key())
    assert answer.status_code == 201
    receipt = answer.json()
    assert set(receipt) == RECEIPT
    assert [set(entry) for entry in receipt["events"]] == [RECEIPT_EVENT]
    assert receipt["revision"] == 1
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["location"] == f"/v1/ledgers/main/contracts/{receipt['contract_id']}"
    assert "Isuzu" not in answer.text

    read = api.get(f"/contracts/{receipt['contract_id']}").json()
    assert read["revision"] == 1
    assert read["state"]["opening"]["stage"] == status


def test_a_receipt_says_when_and_where_the_event_was_recorded(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    before = head_of(api)
    receipt = record(api, contract_id, "note.added", note()).json()
    (entry,) = receipt["events"]
    stored = api.get(f"/events/{entry['event_id']}").json()
    assert entry["position"] == before + 1
    assert {name: stored[name] for name in RECEIPT_EVENT} == entry
    assert stored["revision"] == receipt["revision"] == 2


EXAMPLE_NEEDS = {
    **dict.fromkeys(("contract.completed", "contract.terminated", "terms.amended"), "contract.signed"),
    **dict.fromkeys(("delivery.accepted", "delivery.rejected"), "delivery.recorded"),
    **dict.fromkeys(("milestone.met", "milestone.missed"), "milestone.scheduled"),
    **dict.fromkeys(("option.exercised", "option.lapsed"), "option.granted"),
    "delivery.resumed": "delivery.suspended",
    "disclosure.released": "disclosure.filed",
    "dispute.resolved": "dispute.raised",
    "force_majeure.lifted": "force_majeure.declared",
}
"""What an example refers to: the example of another type, of figure.stated where none is named."""


NAMES_AN_EVENT = {"event.corrected", "event.erased", "event.voided", "sealed.revealed"}
"""Types whose target has an id that the ledger gave: each has tests of its own."""


@pytest.mark.parametrize("event_type", sorted(set(EVENT_TYPES) - NAMES_AN_EVENT))
def test_every_event_type_has_a_path_that_records_its_example(api: httpx.Client, event_type: str) -> None:
    path = f"/v1/ledgers/main/contracts/{{}}/{path_of(event_type)}"
    operation = operation_of("POST", path)
    assert operation is not None
    assert operation.operation_id == "record_" + event_type.replace(".", "_")

    contract_id = open_contract(api, EXAMPLES["contract.reported"])
    needed = EXAMPLE_NEEDS.get(event_type, "figure.stated")
    if needed != event_type:
        assert record(api, contract_id, needed, EXAMPLES[needed]).status_code == 201
    revision = revision_of(api, contract_id)
    answer = record(api, contract_id, event_type, EXAMPLES[event_type])
    assert answer.status_code == 201, answer.text
    assert answer.headers["etag"] == f'"{revision + 1}"'
    assert "location" not in answer.headers

    stored = api.get(f"/events/{answer.json()['events'][0]['event_id']}").json()
    sent = EXAMPLES[event_type]
    assert stored["event_type"] == event_type
    assert {name: stored[name] for name in sent} == sent


def test_what_was_sent_is_kept_member_for_member(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    sent = event(
        {"text": 'Ünïcode 값 😀   "quoted" \\ \t'},
        "2024-Q2",
        {"kind": "news", "name": "연합뉴스", "url": "https://example.org/a?b=c", "published_on": "2024"},
        evidence=[{"name": "a.pdf", "media_type": "application/pdf", "sha256": "0" * 64}],
        correlation_id="01890000-0000-7000-8000-000000000001",
        causation_id="01890000-0000-7000-8000-000000000002",
        hypothetical=True,
    )
    answer = record(api, contract_id, "note.added", sent)
    assert answer.status_code == 201, answer.text
    stored = api.get(f"/events/{answer.json()['events'][0]['event_id']}").json()
    assert {name: stored[name] for name in sent} == sent
    assert api.get(f"/contracts/{contract_id}").json()["state"]["hypothetical"] is True


# Several events at once


def item(event_type: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"event_type": event_type} | body


FIGURE = item("figure.stated", event({"figure": figure("krw-1")}))
REVISION = item("value.revised", event({"replaces": "krw-1", "reason": "actuals", "value": figure("krw-2", "900000000000")}))
NOTE = item("note.added", note())


def post_events(api: httpx.Client, contract_id: str, items: list[Any], **headers: str) -> httpx.Response:
    return api.post(f"/contracts/{contract_id}/events", json={"events": items}, headers=with_key(**headers))


def test_several_events_are_recorded_together(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    before = head_of(api)
    answer = post_events(api, contract_id, [FIGURE, REVISION, NOTE])
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert receipt["revision"] == 4
    assert answer.headers["etag"] == '"4"'
    assert [entry["position"] for entry in receipt["events"]] == [before + 1, before + 2, before + 3]
    assert len({entry["recorded_at"] for entry in receipt["events"]}) == 1
    assert api.get(f"/contracts/{contract_id}").json()["state"]["value"]["best"]["figure_id"] == "krw-2"


def test_a_hundred_events_are_recorded_together_and_one_more_is_refused(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    refused = post_events(api, contract_id, [NOTE] * 101)
    assert refused.status_code == 422
    assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/events"]
    assert post_events(api, contract_id, [NOTE] * 100).json()["revision"] == 101


@pytest.mark.parametrize(
    ("items", "status", "pointer"),
    [
        ([NOTE, NOTE, NOTE, item("figure.stated", event({"figure": figure("f", "1.5")}))], 422, "/events/3/data/figure/amount"),
        ([NOTE, item("figure.stated", event({"figure": figure("f", 1)}))], 422, "/events/1/data/figure/amount"),
        ([NOTE, item("contract.invented", note())], 422, "/events/1/event_type"),
        ([NOTE, item("note.added", event({"text": "x"}, "2024-02-30"))], 422, "/events/1/effective_on"),
        ([NOTE, {name: member for name, member in NOTE.items() if name != "source"}], 422, "/events/1/source"),
        ([NOTE, "note.added"], 422, "/events/1"),
        ([NOTE, NOTE | {"contract_id": "x"}], 422, "/events/1/contract_id"),
        ([], 422, "/events"),
        ([FIGURE, FIGURE], 409, "/events/1"),
        ([NOTE, item("value.revised", event({"replaces": "none", "reason": "fx", "value": figure("f")}))], 409, "/events/1"),
        ([item("delivery.recorded", delivery("d")), item("delivery.recorded", delivery("d"))], 409, "/events/1"),
    ],
)
def test_of_several_events_either_all_are_recorded_or_none(api: httpx.Client, items: list[Any], status: int, pointer: str) -> None:
    contract_id = open_contract(api)
    before = head_of(api)
    answer = post_events(api, contract_id, items)
    assert answer.status_code == status, answer.text
    assert [fault["pointer"] for fault in answer.json().get("errors", [])] == [pointer]
    assert head_of(api) == before
    assert revision_of(api, contract_id) == 1


# Rehearsed


def test_a_rehearsed_append_says_what_would_be_and_writes_nothing(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    before = head_of(api)
    answer = api.post(f"/contracts/{contract_id}/delivery-started", json=event({}, "2023-06"), params={"validate_only": "true"})
    assert answer.status_code == 200
    assert answer.json() == {
        "contract_id": contract_id,
        "revision": 3,
        "events": [],
        "anomalies": [{"anomaly_id": "delivery-before-signing.2.3", "rule": "delivery-before-signing"}],
    }
    assert not {"etag", "location", "idempotent-replayed"} & set(answer.headers)
    assert head_of(api) == before
    assert revision_of(api, contract_id) == 2


def test_a_rehearsed_opening_makes_no_contract(api: httpx.Client) -> None:
    answer = api.post("/contracts", json=SIGNED, params={"validate_only": "true"})
    assert answer.status_code == 200
    assert api.get(f"/contracts/{answer.json()['contract_id']}").status_code == 404


@pytest.mark.parametrize(
    ("event_type", "body", "status"),
    [
        ("contract.signed", event({}), 409),
        ("figure.stated", event({"figure": figure("f", "0.1")}), 422),
        ("note.added", {}, 422),
    ],
)
def test_a_rehearsed_append_is_refused_as_the_append_would_be(api: httpx.Client, event_type: str, body: Any, status: int) -> None:
    contract_id = open_contract(api)
    rehearsed = api.post(f"/contracts/{contract_id}/{path_of(event_type)}", json=body, params={"validate_only": "true"})
    refused = record(api, contract_id, event_type, body)
    assert rehearsed.status_code == refused.status_code == status
    assert rehearsed.json()["code"] == refused.json()["code"]


def test_a_rehearsed_append_leaves_its_key_unused(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    path, headers = f"/contracts/{contract_id}/note-added", with_key()
    assert api.post(path, json=note("one"), params={"validate_only": "true"}, headers=headers).status_code == 200
    assert api.post(path, json=note("another"), headers=headers).status_code == 201


# Strict


def test_a_flagged_event_is_accepted_and_its_receipt_names_the_anomaly(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    answer = record(api, contract_id, "delivery.started", event({}, "2023-06"))
    assert answer.status_code == 201
    (raised,) = answer.json()["anomalies"]
    assert raised == {"anomaly_id": "delivery-before-signing.2.3", "rule": "delivery-before-signing"}
    (shown,) = api.get(f"/contracts/{contract_id}").json()["anomalies"]
    assert shown["anomaly_id"] == raised["anomaly_id"]
    assert "2024-01-26" in shown["sentence"]
    # A later event of its own raises nothing anew.
    assert record(api, contract_id, "note.added", note()).json()["anomalies"] == []


@pytest.mark.parametrize("rehearsed", ["true", "false"])
def test_a_strict_append_refuses_what_would_be_flagged(api: httpx.Client, rehearsed: str) -> None:
    contract_id = open_and_sign(api)
    answer = api.post(
        f"/contracts/{contract_id}/delivery-started",
        json=event({}, "2023-06"),
        params={"strict": "true", "validate_only": rehearsed},
        headers=with_key(),
    )
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "anomalies-refused"
    assert [fault["detail"].partition(":")[0] for fault in problem["errors"]] == ["delivery-before-signing"]
    assert revision_of(api, contract_id) == 2


def test_a_strict_ledger_refuses_what_would_be_flagged_until_its_policy_is_another(service: RunningService) -> None:
    service.make_ledger("strict")
    with service.client(service.admin, ledger="strict") as client:
        assert client.put("/policy", json={"strict": True}).json()["strict"] is True
        contract_id = open_and_sign(client)
        path = f"/contracts/{contract_id}/delivery-started"
        for params in ({}, {"strict": "false"}, {"validate_only": "true"}):
            answer = client.post(path, json=event({}, "2023-06"), params=params, headers=with_key())
            assert (answer.status_code, answer.json()["code"]) == (422, "anomalies-refused"), params
            assert "The policy of ledger strict refuses" in answer.json()["detail"]
        assert record(client, contract_id, "note.added", note()).status_code == 201
        assert client.put("/policy", json={}).json()["strict"] is False
        answer = client.post(path, json=event({}, "2023-06"), headers=with_key())
        assert [raised["rule"] for raised in answer.json()["anomalies"]] == ["delivery-before-signing"]


def test_a_strict_append_accepts_what_is_plain(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    answer = api.post(
        f"/contracts/{contract_id}/delivery-started", json=event({}, "2024-06"), params={"strict": "true"}, headers=with_key()
    )
    assert answer.status_code == 201
    assert answer.json()["anomalies"] == []


def test_a_strict_opening_refuses_a_start_before_the_signing(api: httpx.Client) -> None:
    body = SIGNED | {"data": SIGNED["data"] | {"period": {"start_on": "2023"}, "parties": PARTIES}}
    assert api.post("/contracts", json=body, params={"strict": "true"}, headers=with_key()).status_code == 422
    assert [raised["rule"] for raised in api.post("/contracts", json=body, headers=with_key()).json()["anomalies"]] == [
        "start-before-signing"
    ]


def test_while_a_request_that_takes_many_folds_is_decided_others_are_answered(
    service: RunningService, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "HEAVY_EVENTS", 20)
    contract_id, answered, decide = open_contract(api), [], append._decide_and_write
    for number in range(9):
        record(api, contract_id, "note.added", note(str(number)))

    def asked_meanwhile(pipeline: Any, batch: Any) -> bool:
        if batch.weight > append.HEAVY_EVENTS:
            answered.append(httpx.get(f"{service.url}/livez", timeout=10, trust_env=False).status_code)
        return decide(pipeline, batch)

    monkeypatch.setattr(append, "_decide_and_write", asked_meanwhile)
    late = [{"event_type": "note.added", **note("late"), "effective_on": "2024-02-01"} for _ in range(3)]
    recorded = api.post(f"/contracts/{contract_id}/events", json={"events": late}, headers=with_key())
    assert (recorded.status_code, recorded.json()["revision"], answered) == (201, 13, [200])
