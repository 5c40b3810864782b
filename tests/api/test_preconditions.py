"""If-Match and If-None-Match: an append on what was read, a read of what is new."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.api.bodies import REPORTED, SIGNED, head_of, note, open_contract, record, revision_of, with_key
from tests.api.running import RunningService


@pytest.fixture(scope="module")
def careful(service: RunningService) -> Iterator[httpx.Client]:
    """Requests below a ledger whose policy requires If-Match."""
    service.make_ledger("careful")
    with service.client(service.admin) as admin:
        answer = admin.put("/v1/ledgers/careful/policy", json={"if_match_required": True})
        assert (answer.status_code, answer.json().get("if_match_required")) == (200, True), answer.text
    with service.client(service.admin, ledger="careful") as client:
        yield client


@pytest.mark.parametrize("spelling", ['"{revision}"', 'W/"{revision}"', "*", "{etag}"])
def test_an_append_on_what_was_read_is_recorded(api: httpx.Client, spelling: str) -> None:
    contract_id = open_contract(api)
    etag = api.get(f"/contracts/{contract_id}").headers["etag"]
    assert etag.startswith('"1.')
    answer = record(api, contract_id, "note.added", note(), if_match=spelling.format(revision=1, etag=etag))
    assert answer.status_code == 201


def test_the_etag_of_a_receipt_is_good_for_the_next_append(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    first = record(api, contract_id, "note.added", note("one"))
    second = record(api, contract_id, "note.added", note("two"), if_match=first.headers["etag"])
    assert (second.status_code, second.headers["etag"]) == (201, '"3"')


@pytest.mark.parametrize(("if_match", "expected"), [('"0"', 0), ('"1"', 1), ('"3"', 3), ('"999999999"', 999_999_999)])
def test_an_append_with_a_stale_revision_is_refused_with_both_revisions(api: httpx.Client, if_match: str, expected: int) -> None:
    contract_id = open_contract(api)
    assert record(api, contract_id, "note.added", note()).status_code == 201
    answer = record(api, contract_id, "note.added", note(), if_match=if_match)
    assert answer.status_code == 412
    problem = answer.json()
    assert (problem["expected_revision"], problem["current_revision"]) == (expected, 2)
    assert '"2"' in problem["detail"]
    assert revision_of(api, contract_id) == 2


@pytest.mark.parametrize(
    "if_match",
    ["", "1", "one", '"one"', '"-1"', '"1", "2"', '"1"x', '""1""', '"1.zz"', '"1.0123456789abcde"', '"1', '"9999999999"', "w/1", "\xff"],
)
def test_an_if_match_that_this_service_never_gave_is_malformed(api: httpx.Client, if_match: str) -> None:
    contract_id = open_contract(api)
    headers = {**with_key(), "If-Match": if_match.encode("latin-1")}
    answer = api.post(f"/contracts/{contract_id}/note-added", json=note(), headers=headers)
    assert answer.status_code == 400
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["header:If-Match"]
    assert revision_of(api, contract_id) == 1


def test_of_many_appends_on_the_same_revision_one_is_recorded(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)

    def send(index: int) -> int:
        with service.client(service.admin, ledger="main") as client:
            return record(client, contract_id, "note.added", note(str(index)), if_match='"1"').status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(send, range(12)))
    assert statuses == [201] + [412] * 11
    assert revision_of(api, contract_id) == 2


def test_a_ledger_may_require_if_match(careful: httpx.Client) -> None:
    contract_id = open_contract(careful)
    answer = record(careful, contract_id, "note.added", note())
    assert answer.status_code == 428
    assert answer.json()["code"] == "if-match-required"
    assert record(careful, contract_id, "note.added", note(), if_match='"1"').status_code == 201


def test_what_was_recorded_before_a_ledger_required_if_match_is_told_again(service: RunningService) -> None:
    service.make_ledger("become-careful")
    with service.client(service.admin, ledger="become-careful") as client:
        contract_id, key = open_contract(client), with_key()
        path = f"/contracts/{contract_id}/note-added"
        first = client.post(path, json=note("one"), headers=key)
        assert client.put("/policy", json={"if_match_required": True}).status_code == 200
        again = client.post(path, json=note("one"), headers=key)
        assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (201, first.content, "true")
        assert client.post(path, json=note("another"), headers=key).json()["code"] == "idempotency-key-reused"
        assert client.post(path, json=note("two"), headers=with_key()).status_code == 428
        assert revision_of(client, contract_id) == 2


@pytest.mark.parametrize("member", ["if_match_required", "public_log", "strict"])
@pytest.mark.parametrize("sent", ["yes", "false", 1, 0])
def test_what_a_policy_switches_is_sent_as_true_or_false(service: RunningService, member: str, sent: str | int) -> None:
    with service.client(service.admin) as admin:
        answer = admin.put("/v1/ledgers/main/policy", json={member: sent})
    assert (answer.status_code, answer.json().get("errors", [{}])[0].get("pointer")) == (422, f"/{member}")


def test_a_ledger_that_requires_if_match_requires_it_of_a_rehearsal_too(careful: httpx.Client) -> None:
    contract_id = open_contract(careful)
    path, params = f"/contracts/{contract_id}/note-added", {"validate_only": "true"}
    assert careful.post(path, json=note(), params=params).status_code == 428
    assert careful.post(path, json=note(), params=params, headers={"If-Match": '"1"'}).status_code == 200
    assert careful.post(path, json=note(), params=params, headers={"If-Match": '"2"'}).status_code == 412


# Openings


@pytest.mark.parametrize("path", ["/contracts", "/contracts/reported"])
@pytest.mark.parametrize(
    ("if_match", "members"), [('"1"', {"expected_revision": 1}), ('"3.0123456789abcdef"', {"expected_revision": 3}), ("*", {})]
)
def test_an_opening_on_a_contract_that_was_read_is_refused(api: httpx.Client, path: str, if_match: str, members: dict[str, int]) -> None:
    head = head_of(api)
    body = SIGNED if path == "/contracts" else REPORTED
    answer = api.post(path, json=body, headers={**with_key(), "If-Match": if_match})
    assert (answer.status_code, answer.json()["code"]) == (412, "nothing-to-match")
    problem = answer.json()
    assert {name: problem[name] for name in ("expected_revision", "current_revision") if name in problem} == members | {
        "current_revision": 0
    }
    assert api.post(path, json=body, params={"validate_only": "true"}, headers={"If-Match": if_match}).status_code == 412
    assert head_of(api) == head


def test_an_opening_may_ask_that_there_be_nothing_yet(api: httpx.Client) -> None:
    # Revision 0 is "not yet", and no ETag is that of a contract to come.
    for headers in ({"If-Match": '"0"'}, {"If-None-Match": "*"}, {"If-None-Match": '"1"'}):
        assert api.post("/contracts", json=SIGNED, headers=with_key() | headers).status_code == 201


def test_an_opening_with_an_odd_if_match_is_malformed(api: httpx.Client) -> None:
    answer = api.post("/contracts", json=SIGNED, headers={**with_key(), "If-Match": "one"})
    assert answer.status_code == 400
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["header:If-Match"]


@pytest.mark.parametrize("if_none_match", ["*", '"1"', '"7"', "x"])
def test_an_append_with_if_none_match_is_refused_and_not_recorded(api: httpx.Client, if_none_match: str) -> None:
    contract_id = open_contract(api)
    headers = {**with_key(), "If-None-Match": if_none_match}
    answer = api.post(f"/contracts/{contract_id}/note-added", json=note(), headers=headers)
    assert answer.status_code == 400
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["header:If-None-Match"]
    assert revision_of(api, contract_id) == 1


# Reads


def test_a_read_of_what_is_known_answers_304_without_a_body(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    (event_id,) = (entry["event_id"] for entry in api.get(f"/contracts/{contract_id}/events").json()["items"])
    for path in (f"/contracts/{contract_id}", f"/contracts/{contract_id}?revision=1", f"/events/{event_id}"):
        etag = api.get(path).headers["etag"]
        for spelling in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = api.get(path, headers={"If-None-Match": spelling})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
            assert answer.headers["cache-control"] == "private, no-cache"
            assert answer.headers["vary"] == "Authorization, Accept"


@pytest.mark.parametrize("if_none_match", ['"1"', '"other"', "nonsense", "", "\xff"])
def test_a_read_of_what_is_not_known_is_answered(api: httpx.Client, if_none_match: str) -> None:
    contract_id = open_contract(api)
    answer = api.get(f"/contracts/{contract_id}", headers={"If-None-Match": if_none_match.encode("latin-1")})
    assert answer.status_code == 200


def test_an_append_makes_another_etag(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    etag = api.get(f"/contracts/{contract_id}").headers["etag"]
    record(api, contract_id, "note.added", note())
    answer = api.get(f"/contracts/{contract_id}", headers={"If-None-Match": etag})
    assert answer.status_code == 200
    assert answer.headers["etag"].startswith('"2.')


def test_an_etag_does_not_depend_on_what_else_the_ledger_recorded(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    before = api.get(f"/contracts/{contract_id}")
    assert api.post("/contracts", json=SIGNED, headers=with_key()).status_code == 201
    after = api.get(f"/contracts/{contract_id}")
    assert after.json()["as_of"]["known_position"] == before.json()["as_of"]["known_position"] + 1
    assert after.headers["etag"] == before.headers["etag"]


def test_the_same_answer_has_the_same_etag_by_whichever_way_it_was_asked_for(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    now = api.get(f"/contracts/{contract_id}")
    folded = api.get(f"/contracts/{contract_id}", params={"effective_on": now.json()["as_of"]["effective_on"]})
    assert folded.headers["etag"] == now.headers["etag"]
    assert folded.json() == now.json()
