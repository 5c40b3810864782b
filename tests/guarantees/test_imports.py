"""Promise 1 for imports: whatever is killed in the middle, an import that is sent again records every line, once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import orjson
import pytest

from tests.guarantees.conftest import Pair
from tests.guarantees.load import PARTIES, note, opening
from tests.guarantees.test_durability import size
from tests.servers import OwnPostgres, client, make_key, make_ledger, rows, serving, verified, wait_for

CONTRACTS, LINES = 1_500, 6_000
ONCE = """
SELECT count(*), count(DISTINCT position), min(line), max(line) FROM import_lines WHERE import_id = %s::uuid AND position IS NOT NULL
"""


def body_of(contracts: int) -> bytes:
    """Four lines a contract."""
    data = {"signed_by": "2022-07-01", "title": "Batteries", "kind": "supply", "parties": PARTIES}
    signed = {"event_type": "contract.signed", "effective_on": "2022-07-01", "source": {"kind": "party"}, "data": data}
    four = [signed, *[{"event_type": "note.added", **note()}] * 3]
    return b"".join(orjson.dumps({"contract": f"c-{number}", **line}) + b"\n" for number in range(contracts) for line in four)


def send(api: httpx.Client, body: bytes, import_id: str) -> httpx.Response:
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": import_id}
    return api.post("/imports", content=(body[at : at + 65_536] for at in range(0, len(body), 65_536)), headers=headers, timeout=120)


def outcome_or_failure(api: httpx.Client, body: bytes, import_id: str) -> int:
    """The status of the answer; 0 where the connection broke."""
    try:
        return send(api, body, import_id).status_code
    except httpx.TransportError:
        return 0


def assert_recorded_once(url: str, ledger: str, import_id: str, lines: int) -> None:
    assert rows(url, ONCE, import_id) == [(lines, lines, 1, lines)]
    assert size(url, ledger) == lines
    assert verified(url, ledger).events == lines


@pytest.fixture
def sender() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.mark.parametrize("killed", ["service", "postgres", "both"])
def test_an_import_that_a_kill_ended_is_sent_again_and_nothing_is_lost_or_doubled(
    own_cluster: OwnPostgres, sender: ThreadPoolExecutor, tmp_path: Path, killed: str
) -> None:
    import_id, body = str(uuid4()), body_of(CONTRACTS)
    with own_cluster.running() as postgres:
        url = postgres.service_url
        ledger, key = make_ledger(url), make_key(url)
        with serving(url, tmp_path) as service, client(service, ledger, key) as api:
            sending = sender.submit(outcome_or_failure, api, body, import_id)

            def kill() -> None:
                if killed != "postgres":
                    service.kill()
                if killed != "service":
                    postgres.kill()
                    postgres.restart()

            wait_for(lambda: size(url, ledger) > 500, "an import that is under way")
            kill()
            status = sending.result()
            assert status in {0, 200, 503}
            if killed != "postgres":
                assert status == 0
                service.start()
            before = size(url, ledger)
            assert before == LINES if status == 200 else 0 < before < LINES
            with client(service, ledger, key) as again:
                outcome = send(again, body, import_id).json()
                assert (outcome["status"], outcome["already_recorded"], outcome["recorded"]) == ("complete", before, LINES - before)
        assert_recorded_once(url, ledger, import_id, LINES)


def test_a_shutdown_ends_an_import_after_what_it_took_and_it_goes_on_later(pair: Pair, sender: ThreadPoolExecutor, tmp_path: Path) -> None:
    url, ledger, import_id, body = pair.database.service_url, pair.ledger(), str(uuid4()), body_of(CONTRACTS)
    with serving(url, tmp_path) as service, client(service, ledger, pair.key) as api:
        sending = sender.submit(outcome_or_failure, api, body, import_id)
        wait_for(lambda: size(url, ledger) > 500, "an import that is under way")
        service.terminate()
        service.wait()
        assert "Application shutdown complete" in service.log
        sending.result()
        service.start()
        assert send(api, body, import_id).json()["status"] == "complete"
    assert_recorded_once(url, ledger, import_id, LINES)


def test_the_same_import_through_two_services_at_once_records_each_line_once(pair: Pair, sender: ThreadPoolExecutor) -> None:
    ledger, import_id, body = pair.ledger(), str(uuid4()), body_of(400)
    first, second = pair.clients(ledger)
    with first, second:
        answers = [sending.result().json() for sending in [sender.submit(send, api, body, import_id) for api in (first, second)]]
    assert sum(answer["recorded"] for answer in answers) == 1_600
    assert sum(answer["already_recorded"] for answer in answers) == 1_600
    assert_recorded_once(pair.database.service_url, ledger, import_id, 1_600)


def test_appends_are_answered_while_an_import_runs(pair: Pair, sender: ThreadPoolExecutor) -> None:
    """Appends that come one after the other get their turns: none waits for the end of the import."""
    ledger, import_id, body = pair.ledger(), str(uuid4()), body_of(CONTRACTS)
    importing, appending = pair.clients(ledger)
    url = pair.database.service_url
    with importing, appending:
        opened = appending.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"}).json()
        sending = sender.submit(send, importing, body, import_id)
        wait_for(lambda: size(url, ledger) > 500, "an import that is under way")
        answered = 0
        while not sending.done():
            path = f"/contracts/{opened['contract_id']}/note-added"
            assert appending.post(path, json=note(), headers={"Idempotency-Key": str(uuid4())}).status_code == 201
            answered += 1
        assert sending.result().json()["status"] == "complete"
    assert answered > 5
    query = "SELECT position FROM events WHERE contract_id = %s::uuid ORDER BY revision"
    positions = [row[0] for row in rows(url, query, opened["contract_id"])]
    assert positions[1] < LINES
    assert size(url, ledger) == LINES + answered + 1
    verified(url, ledger)
