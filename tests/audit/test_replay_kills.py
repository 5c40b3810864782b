"""A replay outlives whoever works on it: its process killed, its service killed, cancelled, with appends and other rebuilds meanwhile."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import psutil
import pytest

from service.audit.rebuild import rebuild
from tests.conftest import Database, NewDatabase
from tests.guarantees.load import opening
from tests.servers import Service, client, make_key, make_ledger, rows, serving, verified, wait_for

CONTRACTS: Final = 60
# Small chunks, each of which but the first waits while a file is there, and writes down where it begins.
SLOW: Final = """
import os, sys
if "service.audit.worker" in sys.orig_argv:
    import time
    from pathlib import Path
    from service.audit import book
    folder = Path(__file__).parent

    def slowly(read):
        def read_slowly(connection, of, chunk):
            with (folder / "read").open("a") as trace:
                trace.write(f"{os.getpid()} {chunk.after}\\n")
            while (folder / "hold").exists() and chunk.after != book.FIRST_ID:
                time.sleep(0.01)
            return read(connection, of, chunk)
        return read_slowly

    book.CHUNK_EVENTS, book.read_chunk = 20, slowly(book.read_chunk)
    from service.audit import past
    past.BOOK_CHUNK_EVENTS, past.read_events = 20, slowly(past.read_events)
"""
ROWS: Final = """
    SELECT contract_id, c.revision, c.position, last_hash, filters, state, beside
    FROM contracts c JOIN ledgers l USING (ledger_id, generation) WHERE name = %s ORDER BY contract_id
"""


@dataclass(slots=True)
class Held:
    """A service whose replays stop after their first chunk while `hold` is there."""

    service: Service
    database: Database
    folder: Path
    key: str

    @property
    def hold(self) -> Path:
        return self.folder / "hold"

    def worker(self) -> psutil.Process | None:
        """The process that works on a replay at the moment."""
        assert self.service._process is not None
        for process in psutil.Process(self.service._process.pid).children(recursive=True):
            try:
                if "replay" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def first_reads(self) -> list[str]:
        """After which contract each worker began."""
        begun: dict[str, str] = {}
        for line in (self.folder / "read").read_text().splitlines():
            pid, after = line.split()
            begun.setdefault(pid, after)
        return list(begun.values())


@pytest.fixture(scope="module")
def running(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "sitecustomize.py").write_text(SLOW)
    with new_database() as database:
        data = tmp_path_factory.mktemp("data")
        with serving(database.service_url, data, environment={"PYTHONPATH": str(folder)}) as service:
            yield Held(service, database, folder, make_key(database.service_url))


@pytest.fixture
def held(running: Held) -> Iterator[Held]:
    running.hold.touch()
    (running.folder / "read").unlink(missing_ok=True)
    yield running
    running.hold.unlink(missing_ok=True)


@pytest.fixture
def api(held: Held) -> Iterator[httpx.Client]:
    """A client of a ledger of its own, with enough contracts for some chunks."""
    ledger = make_ledger(held.database.service_url)
    with client(held.service, ledger, held.key) as made:
        for number in range(CONTRACTS):
            open_contract(made, f"open {number}")
        yield made


def ledger_of(api: httpx.Client) -> str:
    return str(api.base_url).rstrip("/").rpartition("/")[2]


def open_contract(api: httpx.Client, key: str) -> None:
    answer = api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text


def begun(api: httpx.Client, kind: str) -> str:
    """The address of a replay that has done its first chunk and goes no further."""
    asked = api.post("/replays", json={"kind": kind}, headers={"Idempotency-Key": kind})
    assert asked.status_code == 202, asked.text
    address = f"/replays/{asked.json()['replay_id']}"
    wait_for(lambda: api.get(address).json()["events_done"] >= 20, "the first chunk is done")
    assert api.get(address).json()["status"] == "running"
    return address


def ended(api: httpx.Client, address: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        told: dict[str, Any] = api.get(address).json()
        return told if told["status"] not in ("waiting", "running") else None

    return wait_for(look, "the replay has ended")


@pytest.mark.parametrize("kind", ["verify", "rebuild"])
def test_a_replay_whose_process_is_killed_goes_on_after_the_last_contract_it_had_done(held: Held, api: httpx.Client, kind: str) -> None:
    address, before = begun(api, kind), rows(held.database.service_url, ROWS, ledger_of(api))
    worker = wait_for(held.worker, "a worker")
    worker.kill()
    held.hold.unlink()
    told = ended(api, address)
    assert (told["status"], told["verdict"]) == ("done", "sound"), told
    assert (told["contracts_done"], told["events_done"]) == (CONTRACTS, CONTRACTS)
    first, second = held.first_reads()
    assert first < second
    assert rows(held.database.service_url, ROWS, ledger_of(api)) == before
    verified(held.database.service_url, ledger_of(api))


def test_a_book_whose_process_is_killed_goes_on_and_is_the_book_that_is_told_without(held: Held, api: httpx.Client) -> None:
    address = begun(api, "book")
    wait_for(held.worker, "a worker").kill()
    held.hold.unlink()
    told = ended(api, address)
    assert (told["status"], told["contracts_done"], told["events_done"]) == ("done", CONTRACTS, CONTRACTS), told
    first, second = held.first_reads()
    assert first < second
    ending = orjson.loads(api.get(f"{address}/book").content.splitlines()[-1])
    assert ending == {"contracts": CONTRACTS, "events": CONTRACTS, "different": 0, "digest": told["book_digest"]}


def test_a_replay_of_a_killed_service_is_taken_up_by_the_next_and_its_old_worker_lets_go(held: Held, api: httpx.Client) -> None:
    address = begun(api, "rebuild")
    orphan = wait_for(held.worker, "a worker")
    assert held.service._process is not None
    os.kill(held.service._process.pid, signal.SIGKILL)
    held.service.wait()
    held.service.start()
    open_contract(api, "after the restart")
    # As if the time of the lease were over.
    rows(held.database.service_url, "UPDATE replays SET leased_until = clock_timestamp() WHERE status = 'running'")
    wait_for(held.worker, "another worker")
    held.hold.unlink()
    told = ended(api, address)
    assert (told["status"], told["verdict"], told["changed_contracts"]) == ("done", "sound", 0), told
    wait_for(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the old worker is gone")
    verified(held.database.service_url, ledger_of(api))


def test_a_service_that_stops_leaves_its_replay_to_the_next_start_at_once(held: Held, api: httpx.Client) -> None:
    address = begun(api, "verify")
    held.service.stop()
    assert rows(held.database.service_url, "SELECT status, leased_until FROM replays WHERE ended_at IS NULL") == [("waiting", None)]
    held.service.start()
    held.hold.unlink()
    assert ended(api, address)["verdict"] == "sound"
    first, second = held.first_reads()
    assert first < second


def test_a_replay_is_cancelled_within_moments_and_resumed_where_it_ended(held: Held, api: httpx.Client) -> None:
    address = begun(api, "verify")
    worker = wait_for(held.worker, "a worker")
    cancelled = api.post(f"{address}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert "ended_at" in cancelled
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "its worker is gone", 5)
    assert api.post(f"{address}/cancel").json() == cancelled
    assert api.get(address).json() == cancelled

    resumed = api.post(f"{address}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "waiting")
    held.hold.unlink()
    told = ended(api, address)
    assert (told["verdict"], told["events_done"]) == ("sound", CONTRACTS)
    first, second = held.first_reads()
    assert first < second
    for word in ("cancel", "resume"):
        refused = api.post(f"{address}/{word}")
        assert (refused.status_code, refused.json()["code"]) == (409, "replay-ended")


def test_of_one_kind_one_replay_of_a_ledger_runs_at_a_time(held: Held, api: httpx.Client) -> None:
    for kind in ("rebuild", "verify"):
        asked = api.post("/replays", json={"kind": kind}, headers={"Idempotency-Key": "one"} | {"Idempotency-Key": f"one {kind}"})
        again = api.post("/replays", json={"kind": kind}, headers={"Idempotency-Key": f"another {kind}"})
        assert (again.status_code, again.json()["code"]) == (409, "replay-runs")
        assert again.json()["replay_id"] == asked.json()["replay_id"]
    replay_id = asked.json()["replay_id"]
    assert api.post(f"/replays/{replay_id}/cancel").status_code == 200
    second = api.post("/replays", json={"kind": "verify"}, headers={"Idempotency-Key": "in its place"})
    assert second.status_code == 202
    refused = api.post(f"/replays/{replay_id}/resume")
    assert (refused.status_code, refused.json()["replay_id"]) == (409, second.json()["replay_id"])
    held.hold.unlink()
    for replay in api.get("/replays").json()["items"]:
        ended(api, f"/replays/{replay['replay_id']}")


def test_a_rebuild_that_another_overtook_while_it_was_cancelled_ends_well(held: Held, api: httpx.Client) -> None:
    """The other takes away the rows that were written, and begins a generation itself."""
    address, ledger = begun(api, "rebuild"), ledger_of(api)
    before = rows(held.database.service_url, ROWS, ledger)
    assert api.post(f"{address}/cancel").status_code == 200
    no_lock = """
        SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = %s)
    """
    wait_for(lambda: not rows(held.database.superuser_url, no_lock, held.database.name), "the lock is free")
    assert rebuild(held.database.service_url, ledger, lambda *_: None).changed == 0
    api.post(f"{address}/resume")
    held.hold.unlink()
    assert ended(api, address)["verdict"] == "sound"
    assert rows(held.database.service_url, ROWS, ledger) == before
    verified(held.database.service_url, ledger)


def test_rows_that_are_missing_in_the_new_generation_are_made_before_it_is_put_in_place(held: Held, api: httpx.Client) -> None:
    address, ledger = begun(api, "rebuild"), ledger_of(api)
    before = rows(held.database.service_url, ROWS, ledger)
    gone = """
        DELETE FROM contracts c USING ledgers l WHERE l.ledger_id = c.ledger_id AND l.name = %s AND c.generation = l.generation + 1
        RETURNING 1
    """
    assert rows(held.database.superuser_url, gone, ledger)
    held.hold.unlink()
    assert ended(api, address)["verdict"] == "sound"
    assert rows(held.database.service_url, ROWS, ledger) == before


def test_a_rebuild_over_http_goes_beside_appends(held: Held, api: httpx.Client) -> None:
    address, over = begun(api, "rebuild"), threading.Event()
    appended = 0

    def append() -> None:
        nonlocal appended
        while not over.is_set():
            open_contract(api, f"meanwhile {appended}")
            appended += 1

    appending = threading.Thread(target=append)
    appending.start()
    try:
        held.hold.unlink()
        told = ended(api, address)
    finally:
        over.set()
        appending.join()
    assert (told["status"], told["changed_contracts"]) == ("done", 0), told
    assert appended > 0
    assert verified(held.database.service_url, ledger_of(api)).events == CONTRACTS + appended


def test_a_replay_whose_process_gets_nowhere_fails_and_says_so(held: Held, api: httpx.Client) -> None:
    asked = api.post("/replays", json={"kind": "book"}, headers={"Idempotency-Key": "book"})
    address = f"/replays/{asked.json()['replay_id']}"
    rows(held.database.service_url, "UPDATE replays SET attempts = 4 WHERE replay_id = %s", asked.json()["replay_id"])
    # Its process ends as soon as it reads: of the ledger there is no such table any more.
    rows(held.database.superuser_url, "ALTER TABLE payloads RENAME TO payloads_away")
    try:
        wait_for(lambda: api.get(address).json()["status"] == "failed", "it failed")
    finally:
        rows(held.database.superuser_url, "ALTER TABLE payloads_away RENAME TO payloads")
    assert "without getting any further" in api.get(address).json()["failure"]
    held.hold.unlink()
    assert api.post(f"{address}/resume").status_code == 200
    assert ended(api, address)["verdict"] == "sound"
