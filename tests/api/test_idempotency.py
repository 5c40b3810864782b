"""Idempotency-Key over HTTP: one request, one effect, one receipt, however often and however it is sent again."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.api.bodies import SIGNED, event, figure, head_of, note, open_contract, record, revision_of, with_key
from tests.api.running import RunningService, make_key_of

REPLAYED = "idempotent-replayed"


@pytest.mark.parametrize("path", ["/contracts", "/contracts/{id}/note-added", "/contracts/{id}/events"])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": ""}])
def test_an_append_without_a_key_is_malformed(api: httpx.Client, path: str, headers: dict[str, str]) -> None:
    contract_id = open_contract(api)
    answer = api.post(path.format(id=contract_id), json=note(), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["code"] == "idempotency-key-required"
    assert revision_of(api, contract_id) == 1


@pytest.mark.parametrize("key", [b"k" * 256, b"k" * 60_000, b"a\tb", b"caf\xc3\xa9", b"\xff"])
def test_a_key_is_printable_ascii_of_limited_length(api: httpx.Client, key: bytes) -> None:
    contract_id = open_contract(api)
    answer = api.post(f"/contracts/{contract_id}/note-added", json=note(), headers={b"Idempotency-Key": key})
    assert answer.status_code == 400
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["header:Idempotency-Key"]


def test_a_key_may_have_255_characters(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    assert record(api, contract_id, "note.added", note(), key="~ !" + "k" * 252).status_code == 201


def test_a_request_sent_again_gets_the_same_receipt_and_has_no_second_effect(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    first = record(api, contract_id, "note.added", note(), key="again")
    head = head_of(api)
    second = record(api, contract_id, "note.added", note(), key="again")
    assert (first.status_code, second.status_code) == (201, 201)
    assert REPLAYED not in first.headers
    assert second.headers[REPLAYED] == "true"
    assert second.content == first.content
    assert second.headers["etag"] == first.headers["etag"]
    assert head_of(api) == head


def test_an_opening_sent_again_gets_the_same_contract(api: httpx.Client) -> None:
    headers = with_key()
    first, second = (api.post("/contracts", json=SIGNED, headers=headers) for _ in range(2))
    assert second.headers[REPLAYED] == "true"
    assert second.content == first.content
    assert second.headers["location"] == first.headers["location"]


def test_a_request_sent_again_gets_its_receipt_though_the_contract_has_moved_on(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    first = record(api, contract_id, "note.added", note("one"), key="moved", if_match='"1"')
    assert record(api, contract_id, "contract.terminated", event({"by": "Isuzu"})).status_code == 201
    second = record(api, contract_id, "note.added", note("one"), key="moved", if_match='"1"')
    assert second.status_code == 201
    assert second.content == first.content
    assert second.headers["etag"] == '"2"'


@pytest.mark.parametrize(
    "spelling",
    [
        json.dumps(note("값"), ensure_ascii=True),
        json.dumps(note("값"), ensure_ascii=False, indent=4),
        json.dumps(dict(reversed(note("값").items())), ensure_ascii=False),
    ],
)
def test_the_same_content_spelt_otherwise_is_the_same_request(api: httpx.Client, spelling: str) -> None:
    contract_id = open_contract(api)
    path, headers = f"/contracts/{contract_id}/note-added", with_key()
    first = api.post(path, json=note("값"), headers=headers)
    second = api.post(path, content=spelling.encode(), headers=headers | {"Content-Type": "application/json; charset=utf-8"})
    assert second.status_code == 201
    assert second.content == first.content


@pytest.mark.parametrize(
    "other",
    [note("another"), note() | {"effective_on": "2024-03-02"}, note() | {"hypothetical": True}, event({"text": "a note "})],
)
def test_a_key_that_was_used_for_another_body_is_refused(api: httpx.Client, other: dict[str, Any]) -> None:
    contract_id = open_contract(api)
    headers = with_key()
    assert api.post(f"/contracts/{contract_id}/note-added", json=note(), headers=headers).status_code == 201
    answer = api.post(f"/contracts/{contract_id}/note-added", json=other, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency-key-reused"
    assert revision_of(api, contract_id) == 2


def test_a_key_counts_for_one_path(api: httpx.Client) -> None:
    one, other = open_contract(api), open_contract(api)
    headers = with_key()
    answers = [api.post(f"/contracts/{contract_id}/note-added", json=note(), headers=headers) for contract_id in (one, other)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert all(REPLAYED not in answer.headers for answer in answers)


def test_a_key_counts_for_one_principal(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)
    headers = with_key()
    path = f"/contracts/{contract_id}/note-added"
    assert api.post(path, json=note(), headers=headers).status_code == 201
    with service.client(service.make_key(["contracts:write"]), ledger="main") as other:
        answer = other.post(path, json=note("of another"), headers=headers)
    assert answer.status_code == 201
    assert REPLAYED not in answer.headers


def test_another_api_key_of_the_principal_gets_the_same_receipt(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)
    first = record(api, contract_id, "note.added", note(), key="rotated")
    event_id = first.json()["events"][0]["event_id"]
    rotated = make_key_of(service.database, api.get(f"/events/{event_id}").json()["recorded_by"])
    with service.client(rotated, ledger="main") as client:
        second = record(client, contract_id, "note.added", note(), key="rotated")
    assert second.content == first.content
    assert second.headers[REPLAYED] == "true"


def test_a_refused_request_is_decided_anew(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    revision = event({"replaces": "krw-1", "reason": "fx", "value": figure("krw-2")})
    assert record(api, contract_id, "value.revised", revision, key="anew").status_code == 409
    assert record(api, contract_id, "figure.stated", event({"figure": figure("krw-1")})).status_code == 201
    answer = record(api, contract_id, "value.revised", revision, key="anew")
    assert answer.status_code == 201
    assert REPLAYED not in answer.headers


def test_a_stale_request_is_decided_anew_with_the_same_key(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    assert record(api, contract_id, "note.added", note(), key="stale", if_match='"7"').status_code == 412
    assert record(api, contract_id, "note.added", note(), key="stale", if_match='"1"').status_code == 201


def test_the_same_request_sent_many_times_at_once_has_one_effect(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)

    def send(_: int) -> httpx.Response:
        with service.client(service.admin, ledger="main") as client:
            return record(client, contract_id, "note.added", note(), key="at once")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    assert revision_of(api, contract_id) == 2


def test_the_same_opening_sent_many_times_at_once_opens_one_contract(service: RunningService, api: httpx.Client) -> None:
    head = head_of(api)
    headers = with_key()

    def send(_: int) -> str:
        with service.client(service.admin, ledger="main") as client:
            return client.post("/contracts", json=SIGNED, headers=headers).headers["location"]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(send, range(16)))) == 1
    assert head_of(api) == head + 1
