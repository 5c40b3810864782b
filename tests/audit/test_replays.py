"""Replays over HTTP: asked for, worked on by a process of their own, told of and listed; books; what a service finds by itself."""

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import psycopg
import pytest

from service.audit import reconcile, reconciling, replaying, verify
from service.audit.book import open_connection
from service.audit.past import Telling, Times
from service.audit.runs import MAX_OPEN
from service.errors import NotSigned
from service.log.signing import Signing
from service.log.tree import extend, root_of
from tests.api.bodies import event, note
from tests.api.running import RunningService, running
from tests.conftest import Database, NewDatabase
from tests.guarantees.load import Work, opening, run
from tests.servers import ROOT, rows, wait_for

REQUESTS = 150
NEVER = str(uuid4())


@pytest.fixture(scope="module")
def service(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """With the ledger `main`, filled at random, and a few things erased."""
    with new_database() as database, running(database, tmp_path_factory.mktemp("data"), reconcile_contracts_per_minute=0) as served:
        served.make_ledger("main", "Asia/Seoul")
        run(Work(urls=[served.url], ledger="main", key=served.admin, requests=REQUESTS, seed=17))
        yield served


@pytest.fixture(scope="module")
def api(service: RunningService) -> Iterator[httpx.Client]:
    with service.client(service.admin, ledger="main") as client:
        yield client


@pytest.fixture
def ledger(service: RunningService) -> Iterator[httpx.Client]:
    """A ledger of a test's own, with three contracts."""
    name = f"test-{uuid4().hex[:8]}"
    service.make_ledger(name)
    with service.client(service.admin, ledger=name) as client:
        for number in range(3):
            open_contract(client, f"open {number}")
        yield client


def name_of(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/").rpartition("/")[2]


def open_contract(client: httpx.Client, key: str) -> str:
    answer = client.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    contract_id: str = answer.json()["contract_id"]
    return contract_id


def asked(client: httpx.Client, key: str | None = None, **wanted: Any) -> httpx.Response:
    return client.post("/replays", json=wanted, headers={"Idempotency-Key": key or str(uuid4())})


def ended(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """The replay that was asked for, once it has ended."""
    assert answer.status_code == 202, answer.text
    address = answer.headers["location"].partition(name_of(client))[2]

    def look() -> dict[str, Any] | None:
        told: dict[str, Any] = client.get(address).json()
        return told if told["status"] not in ("waiting", "running") else None

    return wait_for(look, "the replay has ended")


def lines_of(client: httpx.Client, replay: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.get(f"/replays/{replay['replay_id']}/book")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in answer.content.splitlines()]


def change(service: RunningService, query: str, *parameters: Any) -> None:
    rows(service.database.superuser_url, query, *parameters)


def tree_root(service: RunningService, ledger: str) -> str:
    """The root of the tree over all events, made from their hashes alone."""
    query = "SELECT event_hash FROM events JOIN ledgers USING (ledger_id) WHERE name = %s ORDER BY position"
    return root_of(extend(b"", 0, [row[0] for row in rows(service.database.service_url, query, ledger)]).frontier).hex()


def test_a_sound_ledger_is_verified_over_http(service: RunningService, api: httpx.Client) -> None:
    answer = asked(api, kind="verify")
    assert (answer.json()["kind"], answer.json()["status"]) == ("verify", "waiting")
    done = ended(api, answer)
    head = api.get("/events", params={"limit": 500}).json()["items"][-1]
    assert (done["status"], done["verdict"]) == ("done", "sound"), done
    assert done["events_done"] == done["events_total"] == head["position"]
    assert (done["head"]["position"], done["head"]["event_hash"]) == (head["position"], head["event_hash"])
    assert done["head"]["root"] == tree_root(service, "main")
    assert done["contracts_done"] > 10
    assert done["events_per_second"] > 0
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    assert "difference" not in done


def test_a_replay_has_the_signed_checkpoint_that_covers_what_it_ran_against(ledger: httpx.Client) -> None:
    open_contract(ledger, "one")
    answer = asked(ledger, kind="verify")
    head = ended(ledger, answer)["head"]
    # One is signed when the answer is asked for, if none was before: so it may be of later events.
    open_contract(ledger, "two")
    first = verify.Checkpoint(head["checkpoint"])
    assert (first.size, first.root.hex()) == (head["position"], head["root"]) == (head["checkpoint_size"], head["root"])
    (pinned,) = ledger.get("/log/keys").json()["keys"]
    assert first.signer([verify.Key(pinned["verifier_key"])]) is not None
    listed = ledger.get("/replays").json()["items"][0]
    assert listed["head"] == head


def test_what_is_signed_later_is_proven_to_continue_what_a_replay_ran_against(
    service: RunningService, ledger: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_contract(ledger, "one")
    monkeypatch.setattr(Signing, "covering", _not_signed)
    address = asked(ledger, kind="verify").headers["Location"]
    done = wait_for(lambda: found if (found := ledger.get(service.url + address).json())["status"] == "done" else None, "it is done")
    assert "checkpoint" not in done["head"], "where nothing can be signed, the replay is told all the same"
    monkeypatch.undo()
    open_contract(ledger, "two")
    head = ledger.get(service.url + address).json()["head"]
    note, size = verify.Checkpoint(head["checkpoint"]), head["checkpoint_size"]
    assert size > head["position"]
    path = [base64.b64decode(one) for one in head["checkpoint_path"]]
    assert verify.verify_consistency(head["position"], size, bytes.fromhex(head["root"]), note.root, path)


async def _not_signed(*_: object) -> None:
    raise NotSigned("a test")


def test_a_rebuild_over_http_changes_nothing_on_a_sound_ledger(api: httpx.Client) -> None:
    done = ended(api, asked(api, kind="rebuild"))
    assert (done["verdict"], done["changed_contracts"]) == ("sound", 0)
    assert ended(api, asked(api, kind="verify"))["verdict"] == "sound"


def test_a_damaged_row_is_found_named_and_put_right_by_a_rebuild(service: RunningService, ledger: httpx.Client) -> None:
    contract_id = open_contract(ledger, "to be damaged")
    change(service, "UPDATE contracts SET state = replace(state, '\"kind\"', '\"kinb\"') WHERE contract_id = %s", contract_id)
    found = ended(ledger, asked(ledger, kind="verify"))
    assert (found["status"], found["verdict"]) == ("done", "different")
    assert found["difference"]["where"] == f"contract {contract_id}"
    assert "state in its row is not the fold" in found["difference"]["sentence"]
    rebuilt = ended(ledger, asked(ledger, kind="rebuild"))
    assert (rebuilt["verdict"], rebuilt["changed_contracts"]) == ("different", 1)
    assert rebuilt["difference"]["where"] == f"contract {contract_id}"
    assert ended(ledger, asked(ledger, kind="verify"))["verdict"] == "sound"


def test_nothing_is_rebuilt_from_a_damaged_log_and_the_place_is_named(service: RunningService, ledger: httpx.Client) -> None:
    change(service, "ALTER TABLE payloads DISABLE TRIGGER USER")
    where = "position = 2 AND ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)"
    change(service, f"UPDATE payloads SET body = body || ' '::bytea WHERE {where}", name_of(ledger))
    done = ended(ledger, asked(ledger, kind="rebuild"))
    assert (done["status"], done["verdict"]) == ("failed", "different")
    assert done["difference"]["where"] == "position 2"
    assert "not intact" in done["failure"]
    # Mended, it goes on.
    change(service, f"UPDATE payloads SET body = substring(body FOR octet_length(body) - 1) WHERE {where}", name_of(ledger))
    enable = "ALTER TABLE payloads ENABLE ALWAYS TRIGGER {}"
    change(service, f"{enable.format('refuse_change')}; {enable.format('refuse_truncate')}")
    assert ledger.post(f"/replays/{done['replay_id']}/resume").status_code == 200
    address = f"/replays/{done['replay_id']}"
    wait_for(lambda: ledger.get(address).json()["status"] == "done", "the replay is done")
    assert "failure" not in ledger.get(address).json()


def test_an_empty_ledger_is_replayed_to_nothing(service: RunningService) -> None:
    service.make_ledger("empty")
    with service.client(service.admin, ledger="empty") as client:
        for kind in ("verify", "rebuild", "book"):
            done = ended(client, asked(client, kind=kind))
            assert (done["verdict"], done["events_done"], done["head"]["position"]) == ("sound", 0, 0)
        heading, ending = lines_of(client, done)
        assert (heading["known_position"], ending["contracts"]) == (0, 0)


# The book


@pytest.mark.parametrize(
    "times", [{"known_position": 40}, {"known_position": 97, "effective_on": "2023-04-15"}, {"effective_on": "2031-06-30"}]
)
def test_each_contract_of_a_book_is_what_the_service_answers_of_it_at_that_time(api: httpx.Client, times: dict[str, Any]) -> None:
    done = ended(api, asked(api, kind="book", **times))
    assert (done["status"], done["verdict"]) == ("done", "sound"), done
    heading, *lines, ending = lines_of(api, done)
    assert {name: heading[name] for name in times} == times
    assert heading["schema"] == "contract-ledger/book/v1"
    assert heading["effective_on"] == done["effective_on"]
    assert heading["known_position"] == done["known_position"]
    assert done["head"]["position"] == heading["known_position"]
    assert done["head"]["event_hash"] == heading["known_hash"]
    assert [line["contract_id"] for line in lines] == sorted(line["contract_id"] for line in lines)
    assert len(lines) == ending["contracts"] == done["contracts_done"] > 5
    assert sum(line["revision"] for line in lines) == ending["events"] == heading["known_position"]
    params = {"known_position": heading["known_position"], "effective_on": heading["effective_on"]}
    for line in lines:
        told = api.get(f"/contracts/{line['contract_id']}", params=params).json()
        assert line == {name: told[name] for name in ("contract_id", "revision", "state", "state_hash", "anomalies", "pending")}
        assert told["as_of"]["known_at"] <= heading["known_at"]


def test_a_book_holds_exactly_the_contracts_that_were_known(api: httpx.Client) -> None:
    events = api.get("/events", params={"limit": 500}).json()["items"]
    known = {event["contract_id"] for event in events[:25]}
    *_, replay = [ended(api, asked(api, kind="book", known_at=events[24]["recorded_at"]))]
    until = replay["known_position"]
    assert until >= 25
    assert {line["contract_id"] for line in lines_of(api, replay)[1:-1]} == {event["contract_id"] for event in events[:until]} >= known


def test_a_book_of_before_counts_the_events_that_were_known(api: httpx.Client) -> None:
    """They are all that it has to tell: a progress of 25 of 100 would say for ever that it is not done."""
    done = ended(api, asked(api, kind="book", known_position=25))
    assert (done["status"], done["events_done"], done["events_total"]) == ("done", 25, 25)
    assert "seconds_left" not in done


def test_a_book_is_byte_by_byte_the_same_each_time_and_says_its_digest(api: httpx.Client) -> None:
    done = ended(api, asked(api, kind="book", known_position=60, effective_on="2024-01-01"))
    address = f"/replays/{done['replay_id']}/book"
    first, second = api.get(address).content, api.get(address).content
    assert first == second
    *before, last = first.splitlines(keepends=True)
    digest = b""
    for line in before:
        digest = hashlib.sha256(digest + line).digest()
    ending = orjson.loads(last)
    assert digest.hex() == ending["digest"] == done["book_digest"]
    assert ending["checkpoint"] == done["head"]["checkpoint"]


def test_a_book_told_by_several_processes_is_the_same(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(100, date(2024, 1, 1))
    alone = b"".join(Telling(service.database.service_url, "main", times, processes=1).lines(lambda *_: None))
    monkeypatch.setattr("service.audit.crew.SMALL_LEDGER", 0)
    monkeypatch.setattr("service.audit.past.BOOK_CHUNK_EVENTS", 10)
    together = b"".join(Telling(service.database.service_url, "main", times, processes=2).lines(lambda *_: None))
    assert together == alone


def test_what_was_erased_later_is_a_gap_in_the_book_of_before(ledger: httpx.Client) -> None:
    contract_id = open_contract(ledger, "with a note")
    body = note("what nobody may read")
    noted = ledger.post(f"/contracts/{contract_id}/note-added", json=body, headers={"Idempotency-Key": "note"}).json()["events"][0]
    position = noted["position"]
    before = lines_of(ledger, ended(ledger, asked(ledger, kind="book", known_position=position)))
    erasure = event({"target": noted["event_id"], "legal_basis": "asked for"}, None)
    erased = ledger.post(f"/contracts/{contract_id}/event-erased", json=erasure, headers={"Idempotency-Key": "erase"})
    assert erased.status_code == 201, erased.text
    after = lines_of(ledger, ended(ledger, asked(ledger, kind="book", known_position=position)))
    assert before[-1]["digest"] != after[-1]["digest"]
    line = next(line for line in after if line.get("contract_id") == contract_id)
    told = ledger.get(f"/contracts/{contract_id}", params={"known_position": position}).json()
    assert line["state_hash"] == told["state_hash"]
    assert ended(ledger, asked(ledger, kind="verify"))["erased_events"] == 1


def test_a_contract_whose_events_were_changed_has_its_line_in_the_book_and_no_state(service: RunningService, ledger: httpx.Client) -> None:
    change(service, "ALTER TABLE payloads DISABLE TRIGGER USER")
    where = "position = 3 AND ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)"
    change(service, f"UPDATE payloads SET body = body || ' '::bytea WHERE {where}", name_of(ledger))
    done = ended(ledger, asked(ledger, kind="book"))
    assert (done["status"], done["verdict"], done["difference"]["where"]) == ("done", "different", "position 3")
    _, *lines, ending = lines_of(ledger, done)
    assert (ending["contracts"], ending["different"]) == (3, 1)
    (damaged,) = [line for line in lines if "state" not in line]
    assert damaged["difference"][0] == "position 3"


def test_a_process_tells_only_so_many_books_at_a_time(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ended(api, asked(api, kind="book", known_position=5))
    monkeypatch.setattr(replaying, "MAX_BOOKS", 0)
    refused = api.get(f"/replays/{done['replay_id']}/book")
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "books-busy", "10")


def test_there_is_a_book_once_a_book_is_told_and_only_of_a_book(api: httpx.Client) -> None:
    done = ended(api, asked(api, kind="verify"))
    refused = api.get(f"/replays/{done['replay_id']}/book")
    assert (refused.status_code, refused.json()["code"]) == (409, "replay-unfinished")


# Asking, and what is refused


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({}, "/kind"),
        ({"kind": "audit"}, "/kind"),
        ({"kind": "reconcile"}, "/kind"),
        ({"kind": ["verify"]}, "/kind"),
        ({"kind": "verify", "more": 1}, "/more"),
        ({"kind": "verify", "known_position": 3}, "/known_position"),
        ({"kind": "rebuild", "effective_on": "2024-01-01"}, "/effective_on"),
        ({"kind": "book", "known_position": 10_000}, "/known_position"),
        ({"kind": "book", "known_position": 0}, "/known_position"),
        ({"kind": "book", "known_position": -1}, "/known_position"),
        ({"kind": "book", "known_position": 2**53 + 1}, "/known_position"),
        ({"kind": "book", "known_position": "3"}, "/known_position"),
        ({"kind": "book", "known_position": 1.5}, "/known_position"),
        ({"kind": "book", "known_position": True}, "/known_position"),
        ({"kind": "book", "known_position": 3, "known_at": "2026-01-01T00:00:00Z"}, "/known_at"),
        ({"kind": "book", "known_at": "2999-01-01T00:00:00Z"}, "/known_at"),
        ({"kind": "book", "known_at": "2026-02-30T00:00:00Z"}, "/known_at"),
        ({"kind": "book", "known_at": "0000-01-01T00:00:00Z"}, "/known_at"),
        ({"kind": "book", "known_at": "2026-01-01T00:00:00"}, "/known_at"),
        ({"kind": "book", "known_at": "2026-01-01T00:00:00+99:00"}, "/known_at"),
        ({"kind": "book", "known_at": "9999-12-31T23:59:59-23:59"}, "/known_at"),
        ({"kind": "book", "known_at": "0001-01-01T00:00:00+23:59"}, None),
        ({"kind": "book", "known_at": 1}, "/known_at"),
        ({"kind": "book", "effective_on": "0000-01-01"}, "/effective_on"),
        ({"kind": "book", "effective_on": "2023-02-29"}, "/effective_on"),
        ({"kind": "book", "effective_on": "2023-06"}, "/effective_on"),
        ({"kind": "book", "effective_on": "20230601"}, "/effective_on"),
        ({"kind": "book", "effective_on": "tomorrow"}, "/effective_on"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_with_a_pointer(api: httpx.Client, wanted: dict[str, Any], pointer: str | None) -> None:
    answer = asked(api, **wanted)
    if pointer is None:
        assert ended(api, answer)["known_position"] == 0
        return
    assert answer.status_code == 422, answer.text
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"kind":"verify","kind":"book"}', b'{"kind":null}', b"\xff", b"{" * 100_000])
def test_what_is_no_request_is_refused(api: httpx.Client, body: bytes) -> None:
    headers = {"Idempotency-Key": "no request", "Content-Type": "application/json"}
    assert api.post("/replays", content=body, headers=headers).status_code in (400, 422)


def test_the_same_key_and_body_start_one_replay_and_another_body_is_refused(ledger: httpx.Client) -> None:
    first, again = asked(ledger, "once", kind="verify"), asked(ledger, "once", kind="verify")
    assert first.status_code == again.status_code == 202
    assert (first.headers.get("idempotent-replayed"), again.headers.get("idempotent-replayed")) == (None, "true")
    assert first.json()["replay_id"] == again.json()["replay_id"]
    other = asked(ledger, "once", kind="rebuild")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    done = ended(ledger, first)
    assert asked(ledger, "once", kind="verify").json() == done
    without = ledger.post("/replays", json={"kind": "verify"})
    assert (without.status_code, without.json()["code"]) == (400, "idempotency-key-required")


def test_no_more_replays_wait_than_a_ledger_may_have(service: RunningService, ledger: httpx.Client) -> None:
    fill = """
        INSERT INTO replays (ledger_id, replay_id, kind, status, known_position, effective_on, software_version, leased_until)
        SELECT ledger_id, gen_random_uuid(), 'book', 'waiting', n, '2020-01-01', 'a test', 'infinity'
        FROM ledgers, generate_series(1, %s) n WHERE name = %s
    """
    rows(service.database.service_url, fill, MAX_OPEN, name_of(ledger))
    refused = asked(ledger, kind="book")
    assert (refused.status_code, refused.json()["code"]) == (409, "too-many-replays")
    rows(service.database.service_url, "UPDATE replays SET status = 'cancelled' WHERE software_version = 'a test'")


def test_each_kind_takes_its_right(service: RunningService, ledger: httpx.Client) -> None:
    name, statuses = name_of(ledger), {}
    for right in ("contracts:read", "audit:read", "ledger:admin"):
        with service.client(service.make_key([right]), ledger=name) as client:
            for kind in ("verify", "rebuild", "book"):
                answer = asked(client, kind=kind)
                statuses[right, kind] = answer.status_code
                if answer.status_code == 202:
                    done = ended(client, answer)
                    assert client.get("/replays").status_code == 200
                    assert client.post(f"/replays/{done['replay_id']}/cancel").status_code == 409
            statuses[right, "list"] = client.get("/replays").status_code
    assert {what for what, status in statuses.items() if status == 403} == {
        *(("contracts:read", kind) for kind in ("verify", "rebuild", "book", "list")),
        ("audit:read", "rebuild"),
        ("ledger:admin", "verify"),
        ("ledger:admin", "book"),
    }
    rebuilt = next(item for item in ledger.get("/replays").json()["items"] if item["kind"] == "rebuild")
    with service.client(service.make_key(["audit:read"]), ledger=name) as client:
        assert client.post(f"/replays/{rebuilt['replay_id']}/cancel").status_code == 403


def test_a_replay_that_there_is_not_is_not_found(api: httpx.Client, ledger: httpx.Client) -> None:
    done = ended(ledger, asked(ledger, kind="verify"))
    for client, replay_id in ((api, NEVER), (api, "x"), (api, done["replay_id"])):
        for method, path in (("GET", ""), ("GET", "/book"), ("POST", "/cancel"), ("POST", "/resume")):
            answer = client.request(method, f"/replays/{replay_id}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "replay-not-found")


def test_the_history_is_told_in_pages_the_newest_first(api: httpx.Client, ledger: httpx.Client) -> None:
    done = [ended(ledger, asked(ledger, kind=kind)) for kind in ("verify", "book", "rebuild", "verify")]
    told, after = [], None
    while True:
        page = ledger.get("/replays", params={"limit": 3} | ({"after": after} if after else {})).json()
        told += page["items"]
        after = page.get("next")
        if after is None:
            break
    assert told == done[::-1]
    assert ledger.get("/replays", params={"kind": "verify", "count": "exact"}).json() == {
        "items": [done[3], done[0]],
        "count": 2,
        "count_is_exact": True,
    }
    page = ledger.get("/replays", params={"limit": 1}).json()
    assert api.get("/replays", params={"after": page["next"]}).status_code == 409
    assert ledger.get("/replays", params={"after": page["next"], "kind": "verify"}).status_code == 409


# What the service finds by itself


def test_reconciliation_goes_over_all_contracts_and_alarms_at_the_first_difference(service: RunningService, ledger: httpx.Client) -> None:
    url, name = service.database.service_url, name_of(ledger)

    def look(times: int) -> dict[str, Any]:
        with open_connection(url) as connection:
            for _ in range(times):
                reconcile.reconcile_next(connection, name)
        (told,) = ledger.get("/replays", params={"kind": "reconcile", "limit": 1}).json()["items"]
        told["head"] = {"position": told["head"]["position"]}  # the checkpoint that covers it comes when the next is signed
        return dict(told)

    first = look(2)
    assert (first["status"], first["contracts_done"]) == ("running", 2)
    over = look(2)
    assert (over["status"], over["verdict"], over["contracts_done"]) == ("done", "sound", 3)
    # The next pass stands in its place.
    assert look(1)["replay_id"] == first["replay_id"]
    assert rows(url, reconcile.STANDING) == [(0,)]
    contract_id = open_contract(ledger, "to be damaged")
    change(service, "UPDATE contracts SET has_pending = NOT has_pending WHERE contract_id = %s", contract_id)
    found = look(10)
    assert (found["status"], found["verdict"], found["difference"]["where"]) == ("done", "different", f"contract {contract_id}")
    assert rows(url, reconcile.STANDING) == [(1,)]
    # It is told once, and left alone until somebody has looked.
    assert look(3) == found
    assert ended(ledger, asked(ledger, kind="verify"))["verdict"] == "different"
    assert look(1) == found
    assert ended(ledger, asked(ledger, kind="rebuild"))["changed_contracts"] == 1
    assert rows(url, reconcile.STANDING) == [(0,)]
    again = look(5)
    assert again["replay_id"] != found["replay_id"]
    assert again["verdict"] == "sound"
    refused = ledger.post(f"/replays/{again['replay_id']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "replay-ended")


def test_a_row_without_events_and_events_without_a_row_are_found_by_reconciliation(service: RunningService, ledger: httpx.Client) -> None:
    name, kept = name_of(ledger), "CREATE TABLE kept AS SELECT * FROM contracts WHERE contract_id = %s"
    contract_id = open_contract(ledger, "the last")
    change(service, kept, contract_id)
    change(service, "DELETE FROM contracts WHERE contract_id = %s", contract_id)
    with open_connection(service.database.service_url) as connection:
        while reconcile.reconcile_next(connection, name):
            pass
    (found,) = ledger.get("/replays", params={"kind": "reconcile"}).json()["items"]
    assert found["difference"] == {"where": f"contract {contract_id}", "sentence": "it has events, and no row"}
    stray = "ffffffff-0000-7000-8000-000000000001"
    assert ended(ledger, asked(ledger, kind="rebuild"))["status"] == "done"
    change(service, "UPDATE kept SET contract_id = %s, generation = generation + 1", stray)
    change(service, "INSERT INTO contracts SELECT * FROM kept")
    change(service, "DROP TABLE kept")
    with open_connection(service.database.service_url) as connection:
        while reconcile.reconcile_next(connection, name):
            pass
    found = ledger.get("/replays", params={"kind": "reconcile"}).json()["items"][0]
    assert found["difference"] == {"where": f"contract {stray}", "sentence": "it has a row, and no event"}


def test_one_process_of_a_deployment_reconciles_and_ends_with_its_service(
    new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "FIRST_SECONDS", 0)
    monkeypatch.setattr(reconciling, "LOOK_SECONDS", 0.2)
    held = """
        SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    with new_database() as database:
        with running(database, tmp_path, reconcile_contracts_per_minute=60_000) as served:
            served.make_ledger("main")
            with served.client(served.admin, ledger="main") as client:
                contract_id = open_contract(client, "to be damaged")
                wait_for(lambda: client.get("/replays", params={"kind": "reconcile"}).json()["items"], "a pass")
                assert len(rows(database.superuser_url, held)) == 1
                # Another one finds that it is done.
                another = [sys.executable, "-m", "service.audit.worker", "reconcile", "60"]
                environment = {"LEDGER_DATABASE_URL": database.service_url, "PATH": ""}
                assert subprocess.run(another, env=environment, cwd=ROOT, stdin=subprocess.PIPE, timeout=30, check=True).returncode == 0
                rows(database.superuser_url, "UPDATE contracts SET revision = 7 WHERE contract_id = %s", contract_id)
                wait_for(lambda: rows(database.service_url, reconcile.STANDING) == [(1,)], "an alarm")
                assert client.get("/replays", params={"kind": "reconcile"}).json()["items"][0]["verdict"] == "different"
            with served.client(None) as anyone:
                assert anyone.get("/readyz").status_code == 200
        wait_for(lambda: not rows(database.superuser_url, held), "the process is gone")


# Commands


def command(database: Database, *words: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {"LEDGER_DATABASE_URL": database.service_url, "PATH": "", "COLUMNS": "250"}
    return subprocess.run(
        [sys.executable, "-m", "service", *words], env=environment, cwd=ROOT, capture_output=True, timeout=60, check=False
    )


def test_commands_write_what_they_did_into_the_history(service: RunningService, ledger: httpx.Client) -> None:
    name = name_of(ledger)
    assert command(service.database, "verify", "--ledger", name).returncode == 0
    assert command(service.database, "rebuild", "--ledger", name).returncode == 0
    told = command(service.database, "book", "--ledger", name, "--known-position", "2", "--effective-on", "2024-01-01")
    assert told.returncode == 0
    book, rebuilt, verified = ledger.get("/replays").json()["items"]
    assert [book["kind"], rebuilt["kind"], verified["kind"]] == ["book", "rebuild", "verify"]
    for run_, events in ((book, 2), (rebuilt, 3), (verified, 3)):
        assert (run_["status"], run_["verdict"], run_["events_done"], run_["head"]["position"]) == ("done", "sound", events, events)
    assert told.stdout == ledger.get(f"/replays/{book['replay_id']}/book").content
    assert orjson.loads(told.stdout.splitlines()[-1])["digest"] == book["book_digest"]
    listed = command(service.database, "replays", "--ledger", name).stdout.decode()
    assert [kind in listed for kind in ("verify", "rebuild", "book")] == [True] * 3
    assert "position 2, 2024-01-01" in listed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--known-position", "99"], "has no event 99; it has 3 so far"),
        (["--known-at", "2999-01-01T00:00:00Z"], "is in the future"),
        (["--known-at", "yesterday"], "should be an instant"),
        (["--known-at", "2024-01-01T00:00:00"], "should be an instant"),
        (["--effective-on", "0000-01-01"], "should be a day"),
        (["--known-position", "1", "--known-at", "2024-01-01T00:00:00Z"], "both say what was known"),
        (["--ledger", "nowhere"], "nowhere"),
    ],
)
def test_a_book_that_cannot_be_is_refused_in_a_sentence(
    service: RunningService, ledger: httpx.Client, words: list[str], sentence: str
) -> None:
    answer = command(service.database, "book", "--ledger", name_of(ledger), *words)
    assert (answer.returncode, answer.stdout) == (1, b"")
    assert sentence in answer.stderr.decode()
    assert "Traceback" not in answer.stderr.decode()


def test_the_service_may_not_take_a_replay_out_of_the_history(service: RunningService) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(service.database.service_url, "DELETE FROM replays")
