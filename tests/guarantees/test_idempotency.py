"""Promise 3: a request that succeeded, retried with its key, has one effect and the same receipt."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.guarantees.conftest import Pair
from tests.guarantees.load import envelope, note, opening
from tests.servers import client, make_key

TWINS = 12


@pytest.fixture
def ledger(pair: Pair) -> str:
    return pair.ledger()


def send(api: httpx.Client, path: str, body: object, key: str, **headers: str) -> httpx.Response:
    return api.post(path, json=body, headers={"Idempotency-Key": key, **headers})


def open_contract(api: httpx.Client) -> str:
    """The path of a new contract."""
    answer = send(api, "/contracts/reported", opening(), "opening")
    assert answer.status_code == 201, answer.text
    return f"/contracts/{answer.json()['contract_id']}"


def count_events(api: httpx.Client) -> int:
    page = api.get("/events", params={"limit": "500"}).json()
    assert not page["has_more"]
    return len(page["items"])


def is_replay(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("idempotent-replayed") == "true")


def assert_one_effect(answers: Sequence[httpx.Response]) -> None:
    """All have the same receipt, and one of them is not a replay."""
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert [is_replay(answer) for answer in answers].count(False) == 1


def test_a_retry_gets_the_same_receipt_from_either_service_also_after_the_revision_moved_on(pair: Pair, ledger: str) -> None:
    first, second = pair.clients(ledger)
    with first, second:
        contract = open_contract(first)
        original = send(first, f"{contract}/note-added", note(), "once", **{"If-Match": '"1"'})
        assert (original.status_code, is_replay(original)) == (201, False)
        for revision in (2, 3):
            assert send(second, f"{contract}/note-added", note(), f"other {revision}").status_code == 201
        for api in (first, second):
            again = send(api, f"{contract}/note-added", note(), "once", **{"If-Match": '"1"'})
            assert (again.status_code, again.content, again.headers["etag"]) == (201, original.content, '"2"')
            assert is_replay(again)
        assert count_events(first) == 4


def test_a_retried_opening_names_the_same_contract(pair: Pair, ledger: str) -> None:
    first, second = pair.clients(ledger)
    with first, second:
        answers = [send(api, "/contracts/reported", opening(), "opening") for api in (first, second, first)]
        assert_one_effect(answers)
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert count_events(first) == 1


def test_the_same_json_written_otherwise_is_the_same_body(pair: Pair, ledger: str) -> None:
    body = note('é \\ "quoted"')
    backwards = json.dumps(dict(reversed(body.items())), indent=3, ensure_ascii=True)
    with pair.clients(ledger)[0] as api:
        contract = open_contract(api)
        original = send(api, f"{contract}/note-added", body, "k")
        assert original.request.content != backwards.encode()
        again = api.post(f"{contract}/note-added", content=backwards, headers={"Idempotency-Key": "k", "Content-Type": "application/json"})
        assert_one_effect([original, again])


@pytest.mark.parametrize(
    "changed",
    [
        note("seen "),
        note("seen", "2024-01"),
        {**note("seen"), "hypothetical": True},
        {**note("seen"), "source": {"kind": "news", "name": "reuters"}},
    ],
    ids=["text", "day", "mark", "source"],
)
def test_the_key_with_another_body_is_refused_and_records_nothing(pair: Pair, ledger: str, changed: dict[str, object]) -> None:
    first, second = pair.clients(ledger)
    with first, second:
        contract = open_contract(first)
        original = send(first, f"{contract}/note-added", note("seen"), "once")
        refused = send(second, f"{contract}/note-added", changed, "once")
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-key-reused")
        assert count_events(first) == 2
        again = send(second, f"{contract}/note-added", note("seen"), "once")
        assert (again.content, is_replay(again)) == (original.content, True)


@pytest.mark.parametrize("apart", [False, True], ids=["in one service", "in two services"])
def test_twins_sent_at_the_same_moment_have_one_effect(pair: Pair, ledger: str, apart: bool) -> None:
    first, second = pair.clients(ledger)
    with first, second, ThreadPoolExecutor(TWINS) as threads:
        contract = open_contract(first)
        for attempt in range(4):

            def send_twin(twin: int, key: str = f"twins {attempt}") -> httpx.Response:
                return send(second if apart and twin % 2 else first, f"{contract}/note-added", note(), key)

            assert_one_effect(list(threads.map(send_twin, range(TWINS))))
            assert count_events(first) == 2 + attempt


def test_twins_that_open_a_contract_in_two_services_open_one(pair: Pair, ledger: str) -> None:
    first, second = pair.clients(ledger)
    with first, second, ThreadPoolExecutor(TWINS) as threads:
        answers = list(threads.map(lambda twin: send((first, second)[twin % 2], "/contracts/reported", opening(), "both"), range(TWINS)))
        assert_one_effect(answers)
        assert count_events(first) == 1


def test_a_retry_that_writes_the_contract_id_in_upper_case_is_the_same_request(pair: Pair, ledger: str) -> None:
    with pair.clients(ledger)[0] as api:
        contract = open_contract(api)
        base, _, contract_id = contract.rpartition("/")
        answers = [send(api, f"{path}/note-added", note(), "same") for path in (contract, f"{base}/{contract_id.upper()}")]
        assert_one_effect(answers)
        assert count_events(api) == 2


def test_a_key_means_another_request_for_another_principal_or_path_or_ledger(pair: Pair, ledger: str) -> None:
    with pair.clients(ledger)[0] as api, client(pair.first, ledger, make_key(pair.database.service_url)) as stranger:
        contract = open_contract(api)
        answers = [
            send(api, f"{contract}/note-added", note(), "same"),
            send(stranger, f"{contract}/note-added", note(), "same"),
            send(api, f"{contract}/delivery-started", envelope("2024-01-26", {}), "same"),
            send(api, "/contracts/reported", opening(), "same"),
        ]
        assert [(answer.status_code, is_replay(answer)) for answer in answers] == [(201, False)] * 4
        assert count_events(api) == 5
    elsewhere = pair.ledger()
    with pair.clients(elsewhere)[0] as api:
        answer = send(api, "/contracts/reported", opening(), "same")
        assert (answer.status_code, is_replay(answer)) == (201, False)


def test_a_refusal_is_not_kept_so_the_same_key_is_decided_anew(pair: Pair, ledger: str) -> None:
    first, second = pair.clients(ledger)
    with first, second:
        contract = open_contract(first)
        stale = send(first, f"{contract}/note-added", note(), "k", **{"If-Match": '"2"'})
        assert (stale.status_code, stale.json()["current_revision"]) == (412, 1)
        assert send(first, f"{contract}/note-added", note(), "other").status_code == 201
        now = send(second, f"{contract}/note-added", note(), "k", **{"If-Match": '"2"'})
        assert (now.status_code, now.json()["revision"], is_replay(now)) == (201, 3, False)


def test_validate_only_neither_takes_nor_answers_a_key(pair: Pair, ledger: str) -> None:
    with pair.clients(ledger)[0] as api:
        contract = open_contract(api)
        looked = api.post(f"{contract}/note-added?validate_only=true", json=note(), headers={"Idempotency-Key": "k"})
        assert (looked.status_code, looked.json()["events"], looked.json()["revision"]) == (200, [], 2)
        recorded = send(api, f"{contract}/note-added", note(), "k")
        assert (recorded.status_code, is_replay(recorded)) == (201, False)
        looked = api.post(f"{contract}/note-added?validate_only=true", json=note("other"), headers={"Idempotency-Key": "k"})
        assert (looked.status_code, looked.json()["revision"]) == (200, 3)
        assert count_events(api) == 2
