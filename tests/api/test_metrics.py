"""/metrics: what the service counted, as Prometheus reads it, on a port that only this machine reaches."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import OperatorError
from service.metrics import MetricsServer, Requests, Standing
from service.settings import Settings
from tests.api.bodies import note, open_contract, record, with_key
from tests.api.running import RunningService, running
from tests.conftest import NewDatabase
from tests.servers import wait_for

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True, slots=True)
class Measured:
    """A service that counts, and where it tells what it counted."""

    service: RunningService
    port: int

    def samples(self) -> Samples:
        answer = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False)
        assert answer.status_code == 200
        families = text_string_to_metric_families(answer.text)
        return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    """A sample, by its name and all its labels; 0 where nothing was counted yet."""
    return samples.get((f"contract_ledger_{name}", frozenset(labels.items())), 0.0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def measured(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    port = free_port()
    with new_database() as database, running(database, tmp_path_factory.mktemp("measured"), metrics_port=port) as served:
        served.make_ledger("main")
        yield Measured(served, port)


def test_requests_are_counted_by_operation_and_status(measured: Measured) -> None:
    before = measured.samples()
    with measured.service.client(measured.service.admin, ledger="main") as client:
        contract_id = open_contract(client)
        for index in range(3):
            record(client, contract_id, "note.added", note(str(index)))
        assert client.get(f"/contracts/{contract_id}").status_code == 200
        assert client.get("/contracts/x").status_code == 404
        assert client.get("/nowhere").status_code == 404
        assert client.head("/contracts").status_code == 200
    after = measured.samples()
    counted = {
        (operation, status): value(after, "requests_total", operation=operation, status=status)
        - value(before, "requests_total", operation=operation, status=status)
        for operation, status in (
            *(("open_contract", "201"), ("record_note_added", "201"), ("get_contract", "200"), ("get_contract", "404")),
            *(("none", "404"), ("list_contracts", "200")),
        )
    }
    assert counted == {
        ("open_contract", "201"): 1,
        ("record_note_added", "201"): 3,
        ("get_contract", "200"): 1,
        ("get_contract", "404"): 1,
        ("none", "404"): 1,
        ("list_contracts", "200"): 1,
    }


def test_the_time_of_requests_is_a_histogram(measured: Measured) -> None:
    with measured.service.client(measured.service.admin, ledger="main") as client:
        for _ in range(5):
            assert client.get("/contracts").status_code == 200
    samples = measured.samples()
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples.items()
        if name == "contract_ledger_request_seconds_bucket" and ("operation", "list_contracts") in labels
    }
    counts = [buckets[bound] for bound in sorted(buckets)]
    assert counts == sorted(counts)
    count = value(samples, "request_seconds_count", operation="list_contracts")
    assert counts[-1] == count >= 5
    assert 0 < value(samples, "request_seconds_sum", operation="list_contracts") < 30 * count


def test_commits_are_counted_with_their_sizes_and_times(measured: Measured) -> None:
    before = measured.samples()
    with measured.service.client(measured.service.admin, ledger="main") as client, ThreadPoolExecutor(4) as pool:
        for contract_id in pool.map(lambda _: open_contract(client), range(8)):
            assert record(client, contract_id, "note.added", note()).status_code == 201
        items = [{"event_type": "note.added"} | note()] * 5
        assert (
            client.post(f"/contracts/{contract_id}/events", json={"events": items}, headers={"Idempotency-Key": "five"}).status_code == 201
        )
    after = measured.samples()
    grown = {
        name: value(after, name) - value(before, name)
        for name in ("batch_requests_count", "batch_requests_sum", "commit_seconds_count", "commit_seconds_sum")
    }
    assert grown["batch_requests_sum"] == 17
    assert 9 <= grown["batch_requests_count"] == grown["commit_seconds_count"] <= 17
    assert grown["commit_seconds_sum"] > 0


def test_the_queue_and_the_connections_are_told(measured: Measured) -> None:
    # Counted for the process, in which other tests may have let commits fail.
    failed = value(measured.samples(), "failed_commits_total")
    with measured.service.client(measured.service.admin, ledger="main") as client:
        open_contract(client)
    samples = measured.samples()
    assert value(samples, "appends_waiting") == 0
    assert value(samples, "failed_commits_total") == failed
    assert value(samples, "database_connections", state="idle") + value(samples, "database_connections", state="busy") >= 1
    assert value(samples, "database_waiting") == 0
    assert value(samples, "database_errors_total") == 0


def test_metrics_name_no_contract_ledger_or_caller(measured: Measured) -> None:
    with measured.service.client(measured.service.admin, ledger="main") as client:
        contract_id = open_contract(client)
        assert client.get(f"/contracts/{contract_id}").status_code == 200
    text = httpx.get(f"http://127.0.0.1:{measured.port}/metrics", trust_env=False).text
    assert contract_id not in text
    assert '"main"' not in text
    assert {name for (_, labels) in measured.samples() for name, _ in labels} == {"operation", "status", "le", "state", "result"}


def test_metrics_are_not_on_the_port_of_the_api_and_only_on_loopback(measured: Measured) -> None:
    with measured.service.client(measured.service.admin) as client:
        assert client.get("/metrics").status_code == 404
    with (
        pytest.raises(OSError, match=r"refused|unreachable"),
        socket.create_connection((address_of_this_machine(), measured.port), timeout=5),
    ):
        pass


def address_of_this_machine() -> str:
    """An address by which others would reach it; where there is none, another of loopback than the one that is listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # uvicorn leaves by SystemExit
def test_a_service_whose_port_for_metrics_is_taken_ends_and_says_why(new_database: NewDatabase, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, new_database() as database:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match="ended while it started"), running(database, tmp_path, metrics_port=port):
            pass
        with pytest.raises(OperatorError, match=f"LEDGER_METRICS_PORT: port {port} on 127.0.0.1 is in use"):
            MetricsServer(port, Requests(), Standing(int, dict, int, int, lambda: ({}, {})))


def test_nothing_is_counted_or_told_if_no_port_is_set() -> None:
    assert Settings().metrics_port is None


def test_deliveries_are_counted_by_result_and_held_contracts_and_followers_are_told(measured: Measured) -> None:
    before = measured.samples()
    with measured.service.client(measured.service.admin, ledger="main") as client, ThreadPoolExecutor(1) as thread:
        # No address of loopback may be sent to here: nothing is ever answered.
        made = client.post("/webhooks", json={"url": "https://localhost:9/"}, headers=with_key())
        assert made.status_code == 201, made.text
        open_contract(client)
        wait_for(lambda: value(measured.samples(), "webhook_contracts_held", state="retrying") == 1, "the contract is held")
        after = measured.samples()
        name = "webhook_attempts_total"
        assert value(after, name, result="unanswered") > value(before, name, result="unanswered")
        assert value(after, name, result="delivered") == value(before, name, result="delivered")
        assert value(after, "webhook_attempt_seconds_count") > value(before, "webhook_attempt_seconds_count")
        assert value(after, "webhooks", state="well") == 1
        head = client.get("/events", params={"limit": 500}).json()["next"]
        waiting = thread.submit(client.get, "/events", params={"after": head, "wait": 20})
        wait_for(lambda: value(measured.samples(), "followers") == 1, "one follower")
        open_contract(client)
        assert waiting.result().status_code == 200
        assert value(measured.samples(), "followers") == 0
        assert client.delete(f"/webhooks/{made.json()['webhook_id']}").status_code < 300
