"""The log as it is followed: by long poll, from anywhere, sifted, and nothing missed or seen twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.pages import MAX_IDS
from service.log import read
from tests.api.bodies import Json, head_of, note, open_contract, record
from tests.api.running import RunningService
from tests.conftest import Database
from tests.servers import client, make_key, make_ledger, serving


@pytest.fixture(scope="module")
def book(service: RunningService) -> Iterator[httpx.Client]:
    """A ledger with three contracts of a note each, in turn."""
    service.make_ledger("followed")
    with service.client(service.admin, ledger="followed") as client:
        for contract_id in [open_contract(client) for _ in range(3)]:
            record(client, contract_id, "note.added", note())
        yield client


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def followed(api: httpx.Client, **params: Any) -> tuple[list[Json], Json]:
    """Everything from a place up to the head, and the last page."""
    items: list[Json] = []
    while True:
        page = api.get("/events", params=params).raise_for_status().json()
        items += page["items"]
        if not page["has_more"]:
            return items, page
        params = {name: value for name, value in params.items() if name != "from_position"} | {"after": page["next"]}


def faulty(api: httpx.Client, **params: Any) -> str:
    answer = api.get("/events", params=params)
    assert answer.status_code == 422, answer.text
    return str(answer.json()["errors"][0]["pointer"])


def test_a_wait_ends_as_soon_as_there_is_an_event(book: httpx.Client, threads: ThreadPoolExecutor) -> None:
    contract_id = book.get("/events?limit=1").json()["items"][0]["contract_id"]
    place = followed(book)[1]["next"]
    waiting = threads.submit(book.get, "/events", params={"after": place, "wait": 30}, timeout=60)
    record(book, contract_id, "note.added", note("seen at once"))
    answer = waiting.result(timeout=25).json()
    assert [item["data"]["text"] for item in answer["items"]] == ["seen at once"]
    assert answer["next"] == answer["items"][-1]["cursor"]


def test_a_wait_in_vain_ends_with_its_time_at_the_same_place(book: httpx.Client) -> None:
    place = followed(book)[1]["next"]
    answer = book.get("/events", params={"after": place, "wait": 1}).json()
    assert answer == {"items": [], "has_more": False, "next": place}


def test_a_wait_for_what_does_not_come_moves_on_over_what_does(book: httpx.Client, threads: ThreadPoolExecutor) -> None:
    contract_id = book.get("/events?limit=1").json()["items"][0]["contract_id"]
    place = followed(book)[1]["next"]
    waiting = threads.submit(book.get, "/events", params={"after": place, "wait": 2, "event_type": "contract.terminated"})
    record(book, contract_id, "note.added", note())
    answer = waiting.result(timeout=25).json()
    assert answer["items"] == []
    assert followed(book, after=answer["next"])[0] == [], "the cursor stands behind the note"


@pytest.mark.parametrize("wait", ["-1", "31", "1.5", "x"])
def test_a_wait_has_bounds(book: httpx.Client, wait: str) -> None:
    assert faulty(book, wait=wait) == "query:wait"


def test_the_log_is_followed_from_any_position(book: httpx.Client) -> None:
    everything = followed(book)[0]
    for position in (1, 2, len(everything)):
        assert followed(book, from_position=position, limit=2)[0] == everything[position - 1 :]
    head = head_of(book)
    assert book.get("/events", params={"from_position": head + 1}).json() == followed(book)[1] | {"items": []}


@pytest.mark.parametrize(("params", "pointer"), [({"from_position": "0"}, "from_position"), ({"from_position": "99999"}, "from_position")])
def test_a_position_that_the_log_has_not_reached_is_refused(book: httpx.Client, params: Json, pointer: str) -> None:
    assert faulty(book, **params) == f"query:{pointer}"


def test_a_cursor_and_a_position_exclude_one_another(book: httpx.Client) -> None:
    assert faulty(book, from_position=1, after=followed(book)[1]["next"]) == "query:from_position"


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_a_sieve_of_types_and_contracts_leaves_the_rest_out(book: httpx.Client, limit: int) -> None:
    everything = followed(book)[0]
    one, other = everything[0]["contract_id"], everything[2]["contract_id"]
    sieves = (
        ({"event_type": "note.added"}, lambda item: item["event_type"] == "note.added"),
        ({"event_type": "note.added,contract.signed"}, lambda _: True),
        ({"contract_id": one}, lambda item: item["contract_id"] == one),
        ({"contract_id": f"{one.upper()},{other}"}, lambda item: item["contract_id"] in {one, other}),
        ({"contract_id": one, "event_type": "note.added"}, lambda item: item["contract_id"] == one and item["event_type"] == "note.added"),
    )
    for sieve, wanted in sieves:
        found, last = followed(book, limit=limit, **sieve)
        assert found == [item for item in everything if wanted(item)]
        assert followed(book, after=last["next"])[0] == []


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"event_type": "note.added,"}, "event_type"),
        ({"event_type": "note.aded"}, "event_type"),
        ({"contract_id": "1"}, "contract_id"),
        ({"contract_id": ""}, "contract_id"),
        ({"contract_id": ",".join(["00000000-0000-7000-8000-000000000000"] * (MAX_IDS + 1))}, "contract_id"),
    ],
)
def test_a_sieve_that_lets_nothing_through_by_a_slip_is_refused(book: httpx.Client, params: Json, pointer: str) -> None:
    assert faulty(book, **params) == f"query:{pointer}"


def test_a_long_log_is_sifted_a_part_at_a_time(book: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "SIFTED_EVENTS", 2)
    everything = followed(book)[0]
    page = book.get("/events", params={"event_type": "contract.terminated"}).json()
    assert (page["items"], page["has_more"]) == ([], True)
    assert page["next"] == everything[1]["cursor"]
    notes = [item for item in everything if item["event_type"] == "note.added"]
    assert followed(book, event_type="note.added")[0] == notes


def test_who_waits_does_not_hold_up_the_end_of_the_service(database: Database, tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    ledger, key = make_ledger(database.service_url), make_key(database.service_url)
    with serving(database.service_url, tmp_path) as service, client(service, ledger, key) as api:
        place = api.get("/events").json()["next"]
        waiting = [threads.submit(api.get, "/events", params={"after": place, "wait": 30}) for _ in range(3)]
        api.get("/events")
        service.terminate()
        answers = [answer.result(timeout=15) for answer in waiting]
        assert service.wait() in {0, -15}
    assert [(answer.status_code, answer.json()["next"]) for answer in answers] == [(200, place)] * 3
