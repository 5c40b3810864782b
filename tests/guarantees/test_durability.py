"""Promise 1: an acknowledged event is on disk, once, for ever: whatever is killed, and whoever hangs up."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.guarantees.conftest import Pair
from tests.guarantees.load import Answer, Work, at_work, note, opening
from tests.servers import OwnPostgres, Service, client, make_key, make_ledger, rows, serving, verified, wait_for

REQUESTS = 80
_SIZE = "SELECT max(last_position) FROM batches JOIN ledgers USING (ledger_id) WHERE name = %s"


def size(url: str, ledger: str) -> int:
    """How many events a ledger has; 0 while the database cannot be asked."""
    try:
        return int(rows(url, _SIZE, ledger)[0][0])
    except psycopg.OperationalError:
        return 0


def start_load(pool: ProcessPoolExecutor, urls: list[str], ledger: str, key: str) -> "Future[list[Answer]]":
    return at_work(pool, [Work(urls=urls, ledger=ledger, key=key, requests=REQUESTS, seed=seed) for seed in (11, 12)])


def assert_kept_once(answers: list[Answer], url: str, ledger: str) -> None:
    """Every acknowledged event is in the log, once; the log has no other; and all of it verifies."""
    acknowledged = Counter(event["event_id"] for answer in answers for event in answer.events)
    assert len(acknowledged) > REQUESTS
    assert set(acknowledged.values()) == {1}
    query = "SELECT event_id::text FROM events JOIN ledgers USING (ledger_id) WHERE name = %s"
    assert Counter(row[0] for row in rows(url, query, ledger)) == acknowledged
    assert verified(url, ledger).events == len(acknowledged)


def assert_each_key_answers_its_receipt(answers: list[Answer], api: httpx.Client) -> None:
    for answer in answers:
        if answer.status != 201:
            continue
        headers = {"Idempotency-Key": answer.idempotency_key, "Content-Type": "application/json"}
        again = api.post(answer.path, content=answer.body, headers=headers)
        assert (again.status_code, again.content) == (201, answer.receipt)
        assert again.headers["idempotent-replayed"] == "true"


def assert_only_refused_meanwhile(answers: list[Answer]) -> None:
    """While something is down a client meets broken connections and 503, and no other failure."""
    assert {answer.status for answer in answers} <= {201, 409, 412}
    assert {refusal[:3] for answer in answers for refusal in answer.refusals if refusal[0].isdigit()} <= {"503"}


@pytest.mark.parametrize("killed", ["service", "postgres", "both"])
def test_a_kill_under_load_loses_no_acknowledged_event(
    own_cluster: OwnPostgres, pool: ProcessPoolExecutor, tmp_path: Path, killed: str
) -> None:
    with own_cluster.running() as postgres:
        ledger, key = make_ledger(postgres.service_url), make_key(postgres.service_url)
        with serving(postgres.service_url, tmp_path) as service:
            load = start_load(pool, [service.url], ledger, key)
            wait_for(lambda: size(postgres.service_url, ledger) > REQUESTS // 2, "half of the load")
            if killed != "postgres":
                service.kill()
            if killed != "service":
                postgres.kill()
                postgres.restart()
            assert not load.done(), "the kill came too late for anyone to notice"
            if killed != "postgres":
                service.start()
            answers = load.result()

            assert_only_refused_meanwhile(answers)
            assert_kept_once(answers, postgres.service_url, ledger)
            with client(service, ledger, key) as api:
                assert_each_key_answers_its_receipt(answers, api)
            assert size(postgres.service_url, ledger) == sum(len(answer.events) for answer in answers)


def test_a_shutdown_under_load_decides_what_it_took_and_refuses_the_rest(pair: Pair, pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    url, ledger = pair.database.service_url, pair.ledger()
    with serving(url, tmp_path) as service:
        load = start_load(pool, [service.url], ledger, pair.key)
        wait_for(lambda: size(url, ledger) > REQUESTS // 2, "half of the load")
        service.terminate()
        service.wait()
        assert "Application shutdown complete" in service.log
        kept = [json.loads(file.read_text())["position"] for file in (tmp_path / "heads").glob("*.json")]
        assert kept == [size(url, ledger)]
        service.start()
        answers = load.result()
        assert any(answer.refusals for answer in answers), "the shutdown came too late for anyone to notice"
        assert_only_refused_meanwhile(answers)
        # What was taken was answered: a request whose connection broke had not been read, so nothing was recorded of it before.
        assert not any(answer.replayed for answer in answers)
        assert_kept_once(answers, url, ledger)


class _Lock:
    """The ledger's lock, held by another session."""

    def __init__(self, url: str, ledger: str) -> None:
        self._connection = psycopg.connect(url)
        query = "SELECT 1 FROM ledger_locks JOIN ledgers USING (ledger_id) WHERE name = %s FOR NO KEY UPDATE OF ledger_locks"
        self._connection.execute(query, [ledger])

    def wait_for_a_writer(self) -> None:
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_blocking_pids(pid) @> ARRAY[%s::int]"
        mine = self._connection.info.backend_pid
        wait_for(lambda: self._connection.execute(waiting, [mine]).fetchone(), "a writer waits for the lock")

    def release(self) -> None:
        self._connection.close()


@pytest.fixture
def ledger(pair: Pair) -> str:
    return pair.ledger()


@pytest.fixture
def locked(pair: Pair, ledger: str) -> Iterator[_Lock]:
    with pair.clients(ledger)[1] as api:
        assert api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"}).status_code == 201
    lock = _Lock(pair.database.service_url, ledger)
    yield lock
    lock.release()


def send_and_hang_up(service: Service, ledger: str, api_key: str, path: str, key: str) -> None:
    """A whole request, and then no interest in its answer."""
    body = json.dumps(note()).encode()
    head = (
        f"POST /v1/ledgers/{ledger}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + body)


def test_a_request_whose_client_hung_up_is_decided_whether_queued_or_being_committed(pair: Pair, ledger: str, locked: _Lock) -> None:
    service = pair.second
    with client(service, ledger, pair.key) as api:
        opened = api.get("/events").json()["items"][0]
        path = f"/contracts/{opened['contract_id']}/note-added"
        send_and_hang_up(service, ledger, pair.key, path, "in the transaction")
        locked.wait_for_a_writer()
        send_and_hang_up(service, ledger, pair.key, path, "in the queue")
        assert api.get("/events").json()["items"] == [opened]
        locked.release()
        wait_for(lambda: size(pair.database.service_url, ledger) == 3, "both are recorded")
        for revision, key in ((2, "in the transaction"), (3, "in the queue")):
            again = api.post(path, json=note(), headers={"Idempotency-Key": key})
            assert (again.status_code, again.json()["revision"]) == (201, revision)
            assert again.headers["idempotent-replayed"] == "true"
        assert size(pair.database.service_url, ledger) == 3
        verified(pair.database.service_url, ledger)
