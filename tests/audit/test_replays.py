"""Replays over HTTP: asked for, worked on by a process of their own, told of while they run, cancelled, killed, resumed."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.running import RunningService, running
from tests.conftest import NewDatabase
from tests.guarantees.load import opening
from tests.servers import wait_for


@pytest.fixture(scope="module")
def service(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with new_database() as database, running(database, tmp_path_factory.mktemp("data")) as served:
        served.make_ledger("main")
        yield served


@pytest.fixture(scope="module")
def api(service: RunningService) -> Iterator[httpx.Client]:
    with service.client(service.admin, ledger="main") as client:
        yield client


def open_contract(api: httpx.Client, key: str) -> str:
    answer = api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    contract_id: str = answer.json()["contract_id"]
    return contract_id


def started(api: httpx.Client, key: str, **wanted: Any) -> dict[str, Any]:
    answer = api.post("/replays", json=wanted, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    replay: dict[str, Any] = answer.json()
    assert answer.headers["location"].endswith(f"/replays/{replay['replay_id']}")
    return replay


def ended(api: httpx.Client, replay: dict[str, Any]) -> dict[str, Any]:
    """The replay, once it has ended."""

    def look() -> dict[str, Any] | None:
        answer = api.get(f"/replays/{replay['replay_id']}")
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.json()["status"] not in ("waiting", "running") else None

    return wait_for(look, "the replay has ended")


def test_a_sound_ledger_is_verified_over_http(api: httpx.Client) -> None:
    for number in range(5):
        open_contract(api, f"open {number}")
    asked = started(api, "verify", kind="verify")
    assert (asked["kind"], asked["status"]) == ("verify", "waiting")
    done = ended(api, asked)
    assert (done["status"], done["verdict"]) == ("done", "sound"), done
    assert (done["events_done"], done["events_total"], done["contracts_done"], done["head"]["position"]) == (5, 5, 5, 5)
