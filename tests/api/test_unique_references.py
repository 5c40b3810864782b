"""Schemes of references that a ledger declares unique: each id is that of one contract, whoever asks at the same moment."""

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from tests.api.bodies import REPORTED, SIGNED, changed, event, open_contract, record, with_key
from tests.api.running import RunningService
from tests.servers import verified

Json = dict[str, Any]
DART: Final = "DART"


def naming(*ids: str, body: Json = REPORTED, scheme: str = DART, **more: Any) -> Json:
    """An opening that states references."""
    return changed(body, "/data/references", [{"scheme": scheme, "id": known} for known in ids]) | more


def restating(*ids: str, effective_on: str = "2023-01-01") -> Json:
    """A later report that states references, in place of those before."""
    return event({"stage": "negotiating", "references": [{"scheme": DART, "id": known} for known in ids]}, effective_on)


def declare(api: httpx.Client, *schemes: str) -> httpx.Response:
    return api.put("/policy", json={"unique_reference_schemes": list(schemes)})


def opened(api: httpx.Client, body: Json, **params: str) -> httpx.Response:
    return api.post("/contracts/reported", json=body, headers=with_key(), params=params)


def assert_taken(answer: httpx.Response, holder: str, reference: str = "DART:1") -> None:
    assert (answer.status_code, answer.json()["code"]) == (409, "reference-taken"), answer.text
    assert answer.json()["contract_id"] == holder
    assert holder in answer.json()["detail"]
    assert reference in answer.json()["detail"]


@pytest.fixture
def ledger(service: RunningService) -> Iterator[str]:
    """A ledger that is whole at the end."""
    name = f"unique-{with_key()['Idempotency-Key'][:8]}"
    service.make_ledger(name)
    yield name
    verified(service.database.service_url, name)


@pytest.fixture
def api(service: RunningService, ledger: str) -> Iterator[httpx.Client]:
    """A ledger of which the references to DART are unique."""
    with service.client(service.admin, ledger=ledger) as client:
        answer = declare(client, DART)
        assert (answer.status_code, answer.json()["unique_reference_schemes"]) == (200, [DART]), answer.text
        yield client


def test_a_reference_that_another_contract_holds_is_refused_and_names_the_holder(api: httpx.Client) -> None:
    holder = open_contract(api, naming("0", "1"))
    answer = opened(api, naming("1", "2"))
    assert_taken(answer, holder)
    assert answer.json()["errors"][0]["pointer"] == "/data/references"
    # What is refused leaves no trace: what it named besides is free.
    assert api.get("/events").json()["has_more"] is False
    assert open_contract(api, naming("2"))


def test_another_scheme_takes_as_many_as_come(api: httpx.Client) -> None:
    assert open_contract(api, naming("1", scheme="LEI")) != open_contract(api, naming("1", scheme="LEI"))
    assert open_contract(api, naming("1"))


def test_a_contract_states_its_own_reference_again(api: httpx.Client) -> None:
    contract_id = open_contract(api, naming("1"))
    assert record(api, contract_id, "contract.reported", restating("1", "2")).status_code == 201
    assert record(api, contract_id, "contract.signed", naming("2", body=SIGNED)).status_code == 201


def test_a_reference_that_is_replaced_is_free(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2")).status_code == 201
    second = open_contract(api, naming("1"))
    assert_taken(record(api, first, "contract.reported", restating("1", effective_on="2023-02")), second)


def test_a_replacement_ahead_of_its_day_takes_and_does_not_free(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2", effective_on="2999-01-01")).status_code == 201
    assert_taken(opened(api, naming("1")), first)
    assert_taken(opened(api, naming("2")), first, "DART:2")


def test_a_reference_of_days_gone_by_takes_nothing(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2", effective_on="2023-05")).status_code == 201
    # Told late, and replaced by what is known of a later day.
    assert record(api, first, "contract.reported", restating("3", effective_on="2023-04")).status_code == 201
    assert open_contract(api, naming("3"))


def last_event(api: httpx.Client, contract_id: str) -> str:
    event_id: str = api.get(f"/contracts/{contract_id}/events").json()["items"][-1]["event_id"]
    return event_id


def voided(target: str) -> Json:
    return event({"target": target, "reason": "recorded by mistake"}, None)


def test_a_void_frees_what_was_stated_and_takes_what_stood_before(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2")).status_code == 201
    second = open_contract(api, naming("1"))
    restated = last_event(api, first)
    # 1 would be the first contract's again, and it is the second's by now.
    assert_taken(record(api, first, "event.voided", voided(restated)), second)
    assert record(api, second, "contract.reported", restating("4")).status_code == 201
    assert record(api, first, "event.voided", voided(restated)).status_code == 201
    assert_taken(opened(api, naming("1")), first)
    assert open_contract(api, naming("2"))


def test_a_correction_takes_and_frees(api: httpx.Client) -> None:
    first, second = open_contract(api, naming("1")), open_contract(api, naming("2"))
    correction = {"target": last_event(api, first), "data": naming("2")["data"]}
    assert_taken(record(api, first, "event.corrected", event(correction, None)), second, "DART:2")
    correction["data"] = naming("3")["data"]
    assert record(api, first, "event.corrected", event(correction, None)).status_code == 201
    third = open_contract(api, naming("1"))
    assert_taken(opened(api, naming("3")), first, "DART:3")
    # To void the correction would bring 1 back.
    assert_taken(record(api, first, "event.voided", voided(last_event(api, first))), third)


def test_several_events_of_one_request_are_one_contracts(api: httpx.Client) -> None:
    holder = open_contract(api, naming("1"))
    contract_id = open_contract(api, naming("5"))
    events = [{"event_type": "contract.reported", **restating("6")}, {"event_type": "contract.reported", **restating("1")}]
    answer = api.post(f"/contracts/{contract_id}/events", json={"events": events}, headers=with_key())
    assert_taken(answer, holder)
    assert answer.json()["errors"][0]["pointer"] == "/events/1/data/references"
    assert_taken(opened(api, naming("5")), contract_id, "DART:5")
    answer = api.post(f"/contracts/{contract_id}/events", json={"events": [events[0], events[0]]}, headers=with_key())
    assert answer.status_code == 201, answer.text
    assert open_contract(api, naming("5"))


def test_validate_only_tells_what_is_taken_and_takes_nothing(api: httpx.Client) -> None:
    assert opened(api, naming("1"), validate_only="true").status_code == 200
    holder = open_contract(api, naming("1"))
    assert_taken(opened(api, naming("1"), validate_only="true"), holder)


def test_a_retry_is_answered_with_its_receipt(api: httpx.Client) -> None:
    headers = with_key()
    first = api.post("/contracts/reported", json=naming("1"), headers=headers)
    again = api.post("/contracts/reported", json=naming("1"), headers=headers)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
