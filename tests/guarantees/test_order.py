"""Promise 2: positions in a ledger are gapless and in commit order: a reader with a cursor misses no event and sees none twice."""

import itertools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from tests.guarantees.conftest import Pair
from tests.guarantees.load import Answer, Work, at_work, note, opening
from tests.servers import verified

REQUESTS = 150


def follow(api: httpx.Client, done: Callable[[], bool], limit: int) -> list[dict[str, Any]]:
    """What a reader with a cursor, who waits where there is nothing new, sees until it is at the head after they ended."""
    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        ended = done()
        page = api.get("/events", params={"limit": str(limit), "wait": "1", **after}).raise_for_status().json()
        seen += page["items"]
        if "next" in page:
            after = {"after": page["next"]}
        if ended and not page["has_more"]:
            return seen


def snapshots(url: str, ledger: str, done: Callable[[], bool]) -> list[tuple[int, int, int]]:
    """(events, last position, head) as snapshots show them while writers run."""
    query = """
        SELECT count(e.position), coalesce(max(e.position), 0),
               (SELECT max(last_position) FROM batches b WHERE b.ledger_id = l.ledger_id)
        FROM ledgers l LEFT JOIN events e USING (ledger_id) WHERE l.name = %s GROUP BY l.ledger_id
    """
    found: list[tuple[int, int, int]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        while not done():
            found += connection.execute(query, [ledger]).fetchall()
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What writers were answered, and what was seen meanwhile."""

    ledger: str
    answers: list[Answer]
    by_small_pages: list[dict[str, Any]]
    by_large_pages: list[dict[str, Any]]
    prefixes: list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def seen(pair: Pair, pool: ProcessPoolExecutor) -> Seen:
    ledger = pair.ledger()
    works = [Work(urls=pair.urls, ledger=ledger, key=pair.key, requests=REQUESTS, seed=seed, at_a_time=16) for seed in (1, 2)]
    first, second = pair.clients(ledger)
    with first, second, ThreadPoolExecutor(3) as readers:
        load = at_work(pool, works)
        small = readers.submit(follow, first, load.done, 7)
        large = readers.submit(follow, second, load.done, 500)
        looks = readers.submit(snapshots, pair.database.service_url, ledger, load.done)
        return Seen(ledger, load.result(), small.result(), large.result(), looks.result())


def test_readers_with_cursors_see_every_event_once_while_three_processes_write(pair: Pair, seen: Seen) -> None:
    acknowledged = sorted(event["position"] for answer in seen.answers for event in answer.events)
    assert len(acknowledged) > REQUESTS
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert [event["position"] for event in seen.by_small_pages] == acknowledged
    assert seen.by_small_pages == seen.by_large_pages
    assert verified(pair.database.service_url, seen.ledger).events == len(acknowledged)


def test_every_snapshot_shows_a_prefix_of_the_log(seen: Seen) -> None:
    assert len(set(seen.prefixes)) > 3
    assert all(count == last == head for count, last, head in seen.prefixes)


def test_instants_rise_from_request_to_request_and_are_one_within_a_request(seen: Seen) -> None:
    recorded = sorted((answer.events for answer in seen.answers if answer.events), key=lambda events: events[0]["position"])
    assert any(len(events) > 1 for events in recorded)
    assert all(len({event["recorded_at"] for event in events}) == 1 for events in recorded)
    instants = [events[0]["recorded_at"] for events in recorded]
    assert all(earlier < later for earlier, later in itertools.pairwise(instants))


def test_revisions_of_each_contract_are_gapless_in_the_order_of_the_log(seen: Seen) -> None:
    revisions: dict[str, int] = {}
    for event in seen.by_large_pages:
        assert event["revision"] == revisions.get(event["contract_id"], 0) + 1
        revisions[event["contract_id"]] = event["revision"]
    assert max(revisions.values()) > 3


def test_one_of_many_that_expect_the_same_revision_wins(pair: Pair) -> None:
    first, second = pair.clients(pair.ledger())
    rounds, rivals = 8, 12
    with first, second, ThreadPoolExecutor(rivals) as threads:
        opened = first.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "open"})
        contract = f"/contracts/{opened.json()['contract_id']}"

        def bid(revision: int, rival: int) -> httpx.Response:
            api = (first, second)[rival % 2]
            headers = {"Idempotency-Key": f"{revision} {rival}", "If-Match": f'"{revision}"'}
            return api.post(f"{contract}/note-added", json=note(f"{revision} by {rival}"), headers=headers)

        for revision in range(1, rounds + 1):
            answers = list(threads.map(bid, [revision] * rivals, range(rivals)))
            winners = [answer for answer in answers if answer.status_code == 201]
            assert [winner.json()["revision"] for winner in winners] == [revision + 1]
            losers = [answer.json() for answer in answers if answer.status_code != 201]
            assert [(loser["status"], loser["expected_revision"], loser["current_revision"]) for loser in losers] == [
                (412, revision, revision + 1)
            ] * (rivals - 1)
        assert first.get(contract).json()["revision"] == rounds + 1
