"""A clock that jumps must not poison a ledger: nothing is recorded while clocks disagree, and instants only ever rise."""

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from service.cli import admin
from service.database import Database
from service.embedded import reachable_binaries, server_account
from service.errors import ClockUntrusted, OperatorError
from service.log.ledger import Ledger
from service.log.turn import turn, turn_back
from tests.guarantees.load import envelope, note, opening
from tests.servers import OwnPostgres, make_key, make_ledger, rows, serving, verified, wait_for

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian package faketime)")

AN_HOUR_BACK, A_YEAR_ON, RIGHT = "-3600", "+1y", "+0"


class Clock:
    """The clock of the processes that run under it; setting it takes effect at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(RIGHT)
        file.chmod(0o644)

    def set(self, offset: str) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(offset + "\n")
        draft.chmod(0o644)
        draft.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }


@contextmanager
def postgres_under(clock: Clock, own: OwnPostgres) -> Iterator[None]:
    """The cluster, run with a clock of its own."""
    account = server_account()
    binaries = reachable_binaries(own.folder, account)
    command = [str(binaries / "postgres"), "-D", str(own.server.cluster), "-c", "listen_addresses="]
    process = subprocess.Popen(
        [*command, "-c", f"unix_socket_directories={own.server.socket_folder}", "-c", "shared_buffers=64MB"],
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **clock.environment},
        cwd=own.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.uid if account.switch else None,
        group=account.gid if account.switch else None,
        extra_groups=[] if account.switch else None,
    )
    try:
        wait_for(lambda: answers(own.service_url), "PostgreSQL is ready")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return bool(rows(url, "SELECT 1"))
    except psycopg.OperationalError:
        return False


@dataclass(frozen=True, slots=True)
class Clocks:
    """A service and its database, each under a clock of its own."""

    postgres: Clock
    service: Clock
    owner_url: str
    service_url: str
    ledger: str
    api: httpx.Client

    def set(self, postgres: str, service: str) -> None:
        self.postgres.set(postgres)
        self.service.set(service)

    def open(self) -> str:
        """The path of a new contract."""
        answer = self.api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"})
        assert answer.status_code == 201, answer.text
        return f"/contracts/{answer.json()['contract_id']}"

    def append(self, contract: str, key: str) -> httpx.Response:
        return self.api.post(f"{contract}/note-added", json=note(key), headers={"Idempotency-Key": key})

    def refused(self, contract: str, key: str) -> str:
        """The sentence with which an append is refused for the clocks' sake."""
        answer = self.append(contract, key)
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "clock-untrusted", "30")
        return str(answer.json()["detail"])

    def recorded_at(self, contract: str, key: str) -> str:
        answer = self.append(contract, key)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["events"][0]["recorded_at"])


@pytest.fixture(scope="module")
def running_clocks(own_cluster: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clock, Clock, str, str]]:
    """(clock of Postgres, clock of the service, address of the service, key)"""
    of_postgres, of_service = Clock(own_cluster.folder / "clock-postgres"), Clock(own_cluster.folder / "clock-service")
    folder = tmp_path_factory.mktemp("data")
    with (
        postgres_under(of_postgres, own_cluster),
        serving(own_cluster.service_url, folder, environment=of_service.environment) as service,
    ):
        yield of_postgres, of_service, service.url, make_key(own_cluster.service_url)


@pytest.fixture
def clocks(running_clocks: tuple[Clock, Clock, str, str], own_cluster: OwnPostgres) -> Iterator[Clocks]:
    of_postgres, of_service, url, key = running_clocks
    ledger = make_ledger(own_cluster.service_url)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{url}/v1/ledgers/{ledger}", headers=headers, timeout=30, trust_env=False) as api:
        found = Clocks(of_postgres, of_service, own_cluster.owner_url, own_cluster.service_url, ledger, api)
        yield found
        found.set(RIGHT, RIGHT)


@pytest.mark.parametrize("jump", [AN_HOUR_BACK, A_YEAR_ON])
@pytest.mark.parametrize("whose", ["postgres", "service"])
def test_one_clock_that_jumps_stops_appends_until_it_is_right_again(clocks: Clocks, whose: str, jump: str) -> None:
    contract = clocks.open()
    before = clocks.recorded_at(contract, "before")
    clocks.set(*((jump, RIGHT) if whose == "postgres" else (RIGHT, jump)))
    assert "apart" in clocks.refused(contract, "meanwhile")
    assert clocks.api.get(contract).json()["revision"] == 2
    clocks.set(RIGHT, RIGHT)
    assert before < clocks.recorded_at(contract, "meanwhile")
    verified(clocks.service_url, clocks.ledger)


def test_both_clocks_set_back_an_hour_stop_appends_until_an_operator_accepts_the_clock(clocks: Clocks) -> None:
    contract = clocks.open()
    before = clocks.recorded_at(contract, "before")
    clocks.set(AN_HOUR_BACK, AN_HOUR_BACK)
    assert "clock accept" in clocks.refused(contract, "after")
    accept(clocks)
    instants = [before, *(clocks.recorded_at(contract, key) for key in ("after", "again", "once more"))]
    assert [micros(later) - micros(earlier) for earlier, later in itertools.pairwise(instants)] == [1, 1, 1]
    clocks.set(RIGHT, RIGHT)
    assert micros(clocks.recorded_at(contract, "right")) - micros(instants[-1]) > 1
    verified(clocks.service_url, clocks.ledger)


def test_one_visit_to_next_year_by_both_clocks_can_be_accepted_and_lived_with(clocks: Clocks) -> None:
    contract = clocks.open()
    before = clocks.recorded_at(contract, "before")
    clocks.set(A_YEAR_ON, A_YEAR_ON)
    future = clocks.recorded_at(contract, "from the future")
    assert int(future[:4]) - int(before[:4]) == 1
    clocks.set(RIGHT, RIGHT)
    assert "ahead of the clock" in clocks.refused(contract, "after")
    assert clocks.api.get(contract).status_code == 200
    accept(clocks)
    assert micros(clocks.recorded_at(contract, "after")) - micros(future) == 1
    assert micros(clocks.recorded_at(contract, "again")) - micros(future) == 2
    verified(clocks.service_url, clocks.ledger)


def test_an_acceptance_does_not_cover_a_later_jump(clocks: Clocks) -> None:
    contract = clocks.open()
    clocks.set(A_YEAR_ON, A_YEAR_ON)
    clocks.recorded_at(contract, "a year on")
    clocks.set(RIGHT, RIGHT)
    accept(clocks)
    clocks.set("+2y", "+2y")
    clocks.recorded_at(contract, "two years on")
    clocks.set(RIGHT, RIGHT)
    clocks.refused(contract, "after")


def test_a_clock_that_is_not_behind_cannot_be_accepted(clocks: Clocks) -> None:
    clocks.open()
    with psycopg.connect(clocks.owner_url, autocommit=True) as connection, pytest.raises(OperatorError, match="nothing to accept"):
        admin.accept_clock(connection, clocks.ledger)


def pending_end(clocks: Clocks) -> str:
    """A contract that is to be cancelled half a year from now."""
    contract = clocks.open()
    later = (datetime.now(UTC) + timedelta(days=180)).date().isoformat()
    ending = envelope(later, {"by": "both"})
    answer = clocks.api.post(f"{contract}/contract-cancelled", json=ending, headers={"Idempotency-Key": "ending"})
    assert answer.status_code == 201, answer.text
    return contract


def stored_status(clocks: Clocks, contract: str) -> str:
    query = "SELECT state::json ->> 'status' FROM contracts WHERE contract_id = %s"
    return str(rows(clocks.service_url, query, contract.rpartition("/")[2])[0][0])


async def turned(clocks: Clocks) -> tuple[int, int]:
    """How many rows a turn of the day in this process, whose clock is right, refreshes; forward, and back."""
    database = Database(clocks.service_url, 2)
    await database.open()
    try:
        query = "SELECT ledger_id::text, name, time_zone, if_match_required FROM ledgers WHERE name = %s"
        ledger = Ledger(*rows(clocks.service_url, query, clocks.ledger)[0])
        return await turn(database, ledger, set()), await turn_back(database, ledger, datetime.now(UTC).date())
    finally:
        await database.close()


def test_a_clock_of_the_database_that_jumps_does_not_turn_the_day(clocks: Clocks) -> None:
    contract = pending_end(clocks)
    clocks.set(A_YEAR_ON, RIGHT)
    with pytest.raises(ClockUntrusted, match="apart"):
        asyncio.run(turned(clocks))
    assert stored_status(clocks, contract) == "reported"


def test_what_both_clocks_together_turned_to_next_year_is_turned_back(clocks: Clocks, tmp_path: Path) -> None:
    contract = pending_end(clocks)
    clocks.set(A_YEAR_ON, A_YEAR_ON)
    # A service turns the day when it starts.
    with serving(clocks.service_url, tmp_path, environment=clocks.service.environment):
        wait_for(lambda: stored_status(clocks, contract) == "cancelled", "the row is settled for next year")
    clocks.set(RIGHT, RIGHT)
    assert asyncio.run(turned(clocks)) == (0, 1)
    assert stored_status(clocks, contract) == "reported"
    verified(clocks.service_url, clocks.ledger)


def accept(clocks: Clocks) -> None:
    with psycopg.connect(clocks.owner_url, autocommit=True) as connection:
        admin.accept_clock(connection, clocks.ledger)


def micros(instant: str) -> int:
    """Microseconds of an instant within some years of another."""
    since = datetime.fromisoformat(instant) - datetime(2020, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
