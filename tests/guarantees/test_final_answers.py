"""Promise 5: an answer once final (effective on a day, as known at a position) can be given again, the same, at any later time."""

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from service.audit.rebuild import rebuild
from tests.guarantees.conftest import Pair
from tests.guarantees.load import Work, at_work, envelope, note, opening

DAYS = ("2021-01-01", "2022-07-06", "2023-07-01", "2024-03-20", "2026-01-01", "2032-01-01")
REQUESTS = 80


@pytest.fixture(scope="module")
def ledger(pair: Pair) -> str:
    return pair.ledger()


@pytest.fixture(scope="module")
def api(pair: Pair, ledger: str) -> Iterator[httpx.Client]:
    with pair.clients(ledger)[1] as found:
        yield found


def questions(api: httpx.Client, contracts: list[str], head: int, chance: random.Random) -> list[tuple[str, dict[str, str]]]:
    """Questions at past positions and instants; each has an answer, or will be answered that nothing was known."""
    events = api.get("/events", params={"limit": "500"}).json()["items"]
    asked = []
    for _ in range(60):
        known: dict[str, str] = {"known_position": str(chance.randrange(1, head))}
        if chance.random() < 0.5:
            at = datetime.fromisoformat(chance.choice(events)["recorded_at"]) + timedelta(microseconds=chance.choice((-1, 0, 1)))
            known = {"known_at": at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
        if chance.random() < 0.3:
            known["published_by"] = chance.choice(DAYS)
        asked.append((f"/contracts/{chance.choice(contracts)}", {"effective_on": chance.choice(DAYS), **known}))
    return asked


def test_final_answers_are_the_same_after_more_events_late_ones_too_and_a_rebuild(
    pair: Pair, pool: ProcessPoolExecutor, api: httpx.Client, ledger: str
) -> None:
    contracts = [
        api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": str(n)}).json()["contract_id"] for n in range(3)
    ]

    def load(seed: int) -> None:
        works = [Work(urls=pair.urls, ledger=ledger, key=pair.key, requests=REQUESTS, seed=seed + n, contracts=contracts) for n in (0, 1)]
        at_work(pool, works).result()

    load(51)
    head = api.get("/events", params={"limit": "500"}).json()["items"][-1]["position"]
    asked = questions(api, contracts, head, random.Random(5))
    before = [api.get(path, params=params) for path, params in asked]
    final = [
        (question, answer)
        for question, answer in zip(asked, before, strict=True)
        if answer.status_code == 404 or answer.json()["as_of"]["final"]
    ]
    assert len(final) > 40
    assert len({answer.content for _, answer in final}) > 10

    load(61)
    rebuild(pair.database.service_url, ledger, lambda _done, _total, _unit: None)
    for (path, params), answer in final:
        again = api.get(path, params=params)
        assert again.status_code == answer.status_code
        if answer.status_code == 200:
            assert (again.content, again.headers["etag"]) == (answer.content, answer.headers["etag"])


def test_an_answer_becomes_final_with_the_next_recorded_event(pair: Pair) -> None:
    with pair.clients(pair.ledger())[0] as api:
        contract = api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"}).json()["contract_id"]
        question = {"known_position": "1", "effective_on": "2023-01-01"}
        assert api.get(f"/contracts/{contract}", params=question).json()["as_of"]["final"] is False
        assert api.get(f"/contracts/{contract}").json()["as_of"]["final"] is False
        api.post(f"/contracts/{contract}/note-added", json=note(), headers={"Idempotency-Key": "note"})
        told = api.get(f"/contracts/{contract}", params=question).json()
        assert (told["as_of"]["final"], told["revision"]) == (True, 1)


def test_an_ordinary_event_effective_later_changes_no_earlier_day(pair: Pair) -> None:
    with pair.clients(pair.ledger())[0] as api:
        contract = api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"}).json()["contract_id"]
        earlier = {"effective_on": "2023-07-01"}
        before = api.get(f"/contracts/{contract}", params=earlier).json()
        body = envelope("2023-07-02", {"by": "both"})
        assert api.post(f"/contracts/{contract}/contract-cancelled", json=body, headers={"Idempotency-Key": "end"}).status_code == 201
        after = api.get(f"/contracts/{contract}", params=earlier).json()
        assert (after["state"], after["state_hash"]) == (before["state"], before["state_hash"])
        assert api.get(f"/contracts/{contract}").json()["state"]["status"] == "cancelled"
