"""Checkpoints and proofs over HTTP: an auditor with a pinned key proves what is in the log, and that a later log continues an earlier."""

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
import psycopg
import pytest

from service.log.checkpoint import Checkpoint
from service.log.notes import Note, Verifier
from service.log.tree import EMPTY, verify_consistency, verify_inclusion
from tests.api.bodies import SIGNED, with_key
from tests.api.running import RunningService, running
from tests.conftest import Database, NewDatabase
from tests.guarantees.load import note

SIGN_SECONDS = 20


@pytest.fixture
def audited(service: RunningService, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client at a ledger of the test's own, in Seoul."""
    name = f"audited-{abs(hash(request.node.name)) % 10**9}"
    service.make_ledger(name, "Asia/Seoul")
    with service.client(service.admin, ledger=name) as client:
        yield client


def pinned(client: httpx.Client) -> Verifier:
    (key,) = client.get("/log/keys").json()["keys"]
    return Verifier.parse(key["verifier_key"])


def newest(client: httpx.Client, verifier: Verifier, least: int = 0) -> Checkpoint:
    """The newest checkpoint, whose signature holds; asked for until it covers so many events."""
    deadline = time.monotonic() + SIGN_SECONDS
    while True:
        told = client.get("/log/checkpoint")
        assert told.status_code == 200, told.text
        signed = Note.parse(told.text)
        assert verifier.signed(signed)
        checkpoint = Checkpoint.parse(signed.text)
        if checkpoint.size >= least:
            return checkpoint
        assert time.monotonic() < deadline, f"no checkpoint of {least} events within {SIGN_SECONDS} s"
        time.sleep(0.05)


def append(client: httpx.Client, events: int) -> list[str]:
    """The ids of new events, the first of which opens a contract."""
    opened = client.post("/contracts", json=SIGNED, headers=with_key()).json()
    ids = [opened["events"][0]["event_id"]]
    for number in range(events - 1):
        path = f"/contracts/{opened['contract_id']}/note-added"
        ids.append(client.post(path, json=note(str(number)), headers=with_key()).json()["events"][0]["event_id"])
    return ids


def hashes(encoded: list[str]) -> list[bytes]:
    return [base64.b64decode(one) for one in encoded]


def test_an_empty_log_has_a_checkpoint(audited: httpx.Client) -> None:
    checkpoint = newest(audited, pinned(audited))
    assert (checkpoint.size, checkpoint.root, checkpoint.extensions) == (0, EMPTY, ("time zone Asia/Seoul",))
    deployment, name, epoch = checkpoint.origin.split("/")
    assert deployment.startswith("ledger-")
    assert audited.base_url.path.endswith(f"/{name}/")
    assert epoch == "1"


def test_each_event_is_proven_to_be_in_the_log(audited: httpx.Client) -> None:
    ids, verifier = append(audited, 5), pinned(audited)
    checkpoint = newest(audited, verifier, 5)
    for index, event_id in enumerate(ids):
        proof = audited.get(f"/events/{event_id}/proof", params={"size": 5}).json()
        assert (proof["index"], proof["position"], proof["size"]) == (index, index + 1, 5)
        leaf = base64.b64decode(proof["leaf_hash"])
        assert leaf.hex() == audited.get(f"/events/{event_id}").json()["event_hash"]
        assert verify_inclusion(index, 5, leaf, hashes(proof["path"]), checkpoint.root)
        assert Checkpoint.parse(Note.parse(proof["checkpoint"]).text) == checkpoint


def test_a_proof_is_written_as_a_tlog_proof_for_who_asks_for_text(audited: httpx.Client) -> None:
    ids = append(audited, 3)
    newest(audited, pinned(audited), 3)
    told = audited.get(f"/events/{ids[1]}/proof", headers={"Accept": "text/plain"})
    head, _, checkpoint = told.text.partition("\n\n")
    first, index, *path = head.split("\n")
    assert (first, index) == ("c2sp.org/tlog-proof@v1", "index 1")
    assert pinned(audited).signed(Note.parse(checkpoint))
    leaf = bytes.fromhex(audited.get(f"/events/{ids[1]}").json()["event_hash"])
    told_of = Checkpoint.parse(Note.parse(checkpoint).text)
    assert verify_inclusion(1, told_of.size, leaf, hashes(path), told_of.root)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/plain;q=0, application/json", "application/json"),
        ("text/plain;q=0.2, application/json;q=0.3", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.1, text/plain", "text/plain"),
        ("TEXT/PLAIN", "text/plain"),
        ("text/*", "text/plain"),
        ("image/png", "application/json"),
        ("text/plain;q=much", "text/plain"),
    ],
)
def test_what_a_proof_is_written_as_goes_by_the_weights_that_the_caller_states(audited: httpx.Client, accept: str, media_type: str) -> None:
    (event_id,) = append(audited, 1)
    newest(audited, pinned(audited), 1)
    told = audited.get(f"/events/{event_id}/proof", headers={"Accept": accept})
    assert told.headers["content-type"].partition(";")[0] == media_type


def test_later_checkpoints_continue_earlier_ones(audited: httpx.Client) -> None:
    verifier, kept = pinned(audited), []
    for size in (0, 2, 5, 9):
        if size:
            append(audited, size - kept[-1].size)
        kept.append(newest(audited, verifier, size))
    for earlier, later in pairwise(kept):
        told = audited.get("/log/consistency", params={"from": earlier.size, "to": later.size}).json()
        assert (told["from"], told["to"]) == (earlier.size, later.size)
        assert verify_consistency(earlier.size, later.size, earlier.root, later.root, hashes(told["path"]))


def test_at_most_one_checkpoint_a_second_is_signed(audited: httpx.Client) -> None:
    verifier, started, sizes = pinned(audited), time.monotonic(), set()
    for _ in range(20):
        append(audited, 1)
        sizes.add(newest(audited, verifier).size)
    assert 1 <= len(sizes) <= time.monotonic() - started + 1


def test_at_most_one_checkpoint_a_second_is_signed_however_many_ask_for_one_at_once(audited: httpx.Client) -> None:
    verifier, started = pinned(audited), time.monotonic()

    def appended_and_asked(_: int) -> int:
        append(audited, 1)
        return newest(audited, verifier).size

    with ThreadPoolExecutor(16) as pool:
        sizes = {*pool.map(appended_and_asked, range(64))}
    assert 1 <= len(sizes) <= time.monotonic() - started + 1


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"from": 0, "to": 3}, 404),
        ({"from": 2**53 - 1, "to": 2**53 - 1}, 404),
        ({"from": 2, "to": 1}, 422),
        ({"from": 2**53, "to": 2**60}, 422),
        ({"from": -1, "to": 1}, 422),
        ({"from": 1}, 422),
        ({}, 422),
        ({"from": "1e0", "to": "1"}, 422),
    ],
)
def test_sizes_that_were_never_signed_are_refused_in_words(audited: httpx.Client, query: dict[str, str | int], status: int) -> None:
    append(audited, 3)
    answer = audited.get("/log/consistency", params=query)
    assert answer.status_code == status, answer.text
    assert answer.json()["errors"]


def test_an_event_is_not_proven_against_a_tree_that_is_too_small(audited: httpx.Client) -> None:
    newest(audited, pinned(audited))
    (event_id,) = append(audited, 1)
    answer = audited.get(f"/events/{event_id}/proof", params={"size": 0})
    assert (answer.status_code, answer.json()["code"]) == (422, "refused")
    assert audited.get(f"/events/{event_id}/proof", params={"size": 7}).json()["code"] == "checkpoint-not-found"


def test_what_a_ledger_opens_is_read_without_a_token(audited: httpx.Client, service: RunningService) -> None:
    append(audited, 2)
    newest(audited, pinned(audited), 2)
    opened = ["/log/checkpoint", "/log/keys", "/log/tile/0/000.p/2", "/log/tile/entries/000.p/2", "/log/consistency?from=2&to=2"]
    closed = ["/events", "/contracts", "/log/tile/0/000.p/2"]
    name = audited.base_url.path.split("/")[-2]
    with service.client(None, ledger=name) as stranger, service.client(None, ledger="nowhere") as nowhere:
        for path in opened:
            assert stranger.get(path).status_code == nowhere.get(path).status_code == 401
        with service.client(service.admin) as admin:
            assert admin.put(f"/v1/ledgers/{name}/policy", json={"public_log": True}).json()["public_log"]
        for path in opened:
            assert stranger.get(path).status_code == 200
        assert stranger.get("/log/tile/0/000.p/2").headers["Cache-Control"] == "public, max-age=31536000, immutable"
        for path in closed[:2]:
            assert stranger.get(path).status_code == 401
        assert nowhere.get(closed[2]).status_code == 401


def test_a_process_with_another_key_serves_and_signs_nothing(database: Database, service: RunningService, tmp_path: Path) -> None:
    other = base64.b64encode(bytes(32)).decode()
    service.make_ledger("unsigned")
    with running(database, tmp_path, signing_key=other) as another, another.client(another.admin, ledger="unsigned") as client:
        append(client, 1)
        answer = client.get("/log/checkpoint")
        assert (answer.status_code, answer.json()["code"]) == (503, "not-signed")
        with service.client(service.admin, ledger="unsigned") as first:
            signed = first.get("/log/checkpoint").text
        assert client.get("/log/checkpoint").text == signed


def test_a_database_behind_the_kept_checkpoint_is_not_signed_for(new_database: NewDatabase, tmp_path: Path) -> None:
    with new_database() as database, running(database, tmp_path) as service:
        service.make_ledger("main")
        with service.client(service.admin, ledger="main") as client:
            append(client, 3)
            newest(client, pinned(client), 3)
            with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
                superuser.execute("SET session_replication_role = replica")
                for table in ("checkpoints", "batches", "events", "payloads"):
                    superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
                superuser.execute("TRUNCATE checkpoints")
                superuser.execute("DELETE FROM batches WHERE last_position = 3")
                superuser.execute("DELETE FROM events WHERE position = 3")
                superuser.execute("DELETE FROM payloads WHERE position = 3")
            answer = client.get("/log/checkpoint")
            assert (answer.status_code, answer.json()["code"]) == (409, "history-forked")
            assert "epoch begin" in answer.json()["detail"]
