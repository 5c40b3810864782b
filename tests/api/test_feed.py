"""Following the log page by page: long polls, filters that move on, where one may begin, and what is refused."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.api.feed import MAX_WAIT_SECONDS
from service.log.cursor import cursor_at
from tests.api.bodies import head_of, note, open_contract, record, with_key
from tests.api.running import RunningService
from tests.servers import wait_for

Json = dict[str, Any]
CLOUD_EVENT = "application/cloudevents+json"


@pytest.fixture(scope="module")
def contract_id(api: httpx.Client) -> str:
    return open_contract(api)


def feed(api: httpx.Client, **query: Any) -> Json:
    answer = api.get("/events", params=query)
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


def at_head(api: httpx.Client) -> str:
    """A cursor after which there is nothing yet."""
    cursor: str = feed(api, from_position=head_of(api) + 1)["next"]
    return cursor


def positions(page: Json) -> list[int]:
    return [item["position"] for item in page["items"]]


def test_who_waits_at_the_head_is_answered_by_the_next_event(service: RunningService, api: httpx.Client, contract_id: str) -> None:
    cursor = at_head(api)
    with ThreadPoolExecutor(1) as pool, service.client(service.admin, ledger="main") as other:
        waiting = pool.submit(feed, other, after=cursor, wait=30)
        followers = service_followers(service)
        wait_for(lambda: followers() == 1, "the poll waits")
        began = time.monotonic()
        receipt = record(api, contract_id, "note.added", note()).json()
        page = waiting.result(10)
    assert time.monotonic() - began < 5
    assert [item["event_id"] for item in page["items"]] == [receipt["events"][0]["event_id"]]
    assert page["next"] == page["items"][0]["cursor"]
    assert page["has_more"] is False


def service_followers(service: RunningService) -> Any:
    """How many wait in the service, which runs in this process."""
    return lambda: service.app.state.services.feed.followers
