"""Following the log page by page: long polls, filters that move on, where one may begin, and what is refused."""

import base64
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.api.feed import MAX_WAIT_SECONDS
from service.feed import pages
from service.log.cursor import cursor_at
from tests.api.bodies import SIGNED, head_of, note, open_contract, record, with_key
from tests.api.running import RunningService
from tests.servers import ROOT, rows, wait_for

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


def test_the_loop_of_the_page_follows_the_feed(api: httpx.Client, contract_id: str) -> None:
    (shown,) = re.findall("```python\n(.*?)```", (ROOT / "docs" / "feed.md").read_text(), re.DOTALL)
    names: Json = {"api": api}
    exec(shown, names)
    followed = names["follow"](at_head(api))
    for text in ("one", "two"):
        record(api, contract_id, "note.added", note(text))
        assert next(followed)["data"] == {"text": text}
    followed = names["follow"]()
    assert [next(followed)["position"] for _ in range(3)] == [1, 2, 3]


def at_head(api: httpx.Client) -> str:
    """A cursor after which there is nothing yet."""
    cursor: str = feed(api, from_position=head_of(api) + 1)["next"]
    return cursor


def followers(service: RunningService) -> int:
    """How many wait in the service, which runs in this process."""
    count: int = service.app.state.services.feed.wakes.waiting
    return count


def while_it_waits(service: RunningService, act: Callable[[], object], **query: Any) -> tuple[Json, float]:
    """What a poll is answered when something is done while it waits, and how long after that."""
    with ThreadPoolExecutor(1) as pool, service.client(service.admin, ledger="main") as other:
        waiting = pool.submit(feed, other, **query)
        wait_for(lambda: followers(service) == 1, "the poll waits")
        began = time.monotonic()
        act()
        page = waiting.result(40)
        return page, time.monotonic() - began


def test_who_waits_at_the_head_is_answered_by_the_next_event(service: RunningService, api: httpx.Client, contract_id: str) -> None:
    page, seconds = while_it_waits(service, lambda: record(api, contract_id, "note.added", note()), after=at_head(api), wait=30)
    assert seconds < 5
    assert [item["position"] for item in page["items"]] == [head_of(api)]
    assert (page["next"], page["has_more"]) == (page["items"][0]["cursor"], False)


def test_who_waits_for_one_contract_is_not_answered_by_another(service: RunningService, api: httpx.Client, contract_id: str) -> None:
    cursor, other_id = at_head(api), open_contract(api)

    def act() -> None:
        record(api, other_id, "note.added", note())
        record(api, contract_id, "note.added", note())

    page, _ = while_it_waits(service, act, after=cursor, wait=30, contract_id=contract_id.upper())
    assert [item["contract_id"] for item in page["items"]] == [contract_id]
    assert feed(api, after=page["next"])["items"] == []


def test_a_poll_whose_time_is_over_answers_a_cursor_past_what_it_left_out(
    service: RunningService, api: httpx.Client, contract_id: str
) -> None:
    cursor = at_head(api)
    act = lambda: record(api, contract_id, "note.added", note())  # noqa: E731
    page, seconds = while_it_waits(service, act, after=cursor, wait=2, event_type="contract.signed")
    assert 0.5 < seconds < 5
    assert (page["items"], page["has_more"]) == ([], False)
    assert page["next"] == at_head(api) != cursor


def test_a_poll_with_something_to_tell_does_not_wait(api: httpx.Client, contract_id: str) -> None:
    began = time.monotonic()
    assert feed(api, wait=MAX_WAIT_SECONDS)["items"]
    assert api.head("/events", params={"after": at_head(api), "wait": MAX_WAIT_SECONDS}).status_code == 200
    assert time.monotonic() - began < 5


def test_filters_and_pages_together_show_each_event_once(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a page ends because it looked far enough."""
    ids = [open_contract(api) for _ in range(3)]
    for number in range(9):
        record(api, ids[number % 3], "note.added", note(str(number)))
    everything = every(api)
    assert [item["position"] for item in everything] == list(range(1, head_of(api) + 1))
    monkeypatch.setattr(pages, "SCAN_EVENTS", 4)
    for query in ({"event_type": "contract.signed"}, {"event_type": "note.added,contract.signed", "contract_id": ids[1]}):
        wanted = query["event_type"].split(",")
        known = [item for item in everything if item["event_type"] in wanted]
        known = [item for item in known if item["contract_id"] == query.get("contract_id", item["contract_id"])]
        assert known
        assert every(api, limit=2, **query) == known
    assert every(api, event_type="contract.completed") == [], "a filter that never matches comes to its end"


def every(api: httpx.Client, **query: Any) -> list[Json]:
    """What a reader with a cursor sees from the start to the head."""
    page = feed(api, **query)
    found = page["items"]
    while page["has_more"]:
        page = feed(api, after=page["next"], **query)
        found += page["items"]
    return list(found)


def test_a_reader_may_begin_at_a_position(api: httpx.Client, contract_id: str) -> None:
    head = head_of(api)
    assert [item["position"] for item in feed(api, from_position=head - 1)["items"]] == [head - 1, head]
    assert feed(api, from_position=1, limit=1) == feed(api, limit=1)
    assert feed(api, from_position=head + 1) == {"items": [], "has_more": False, "next": at_head(api)}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"from_position": 10**6}, "query:from_position"),
        ({"from_position": 0}, "query:from_position"),
        ({"from_position": 1, "after": "MS4wLjA"}, "query:from_position"),
        ({"wait": MAX_WAIT_SECONDS + 1}, "query:wait"),
        ({"wait": "1.5"}, "query:wait"),
        ({"contract_id": "1"}, "query:contract_id"),
        ({"event_type": "note.added,"}, "query:event_type"),
        ({"event_type": "note.added,note_added"}, "query:event_type"),
        ({"event_type": "x" * 2_001}, "query:event_type"),
    ],
    ids=str,
)
def test_what_a_follower_cannot_ask_for_is_refused(api: httpx.Client, query: Json, pointer: str) -> None:
    for path in ("/events", "/events/stream"):
        answer = api.get(path, params=query)
        if path.endswith("stream") and "wait" in query:
            pointer = "query:wait"
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), answer.text


def test_a_cursor_of_another_history_is_told_as_a_fork(service: RunningService, api: httpx.Client, contract_id: str) -> None:
    """Of another ledger, forged, of another epoch, or past the head."""
    service.make_ledger("aside")
    with service.client(service.admin, ledger="aside") as aside:
        assert aside.post("/contracts", json=SIGNED, headers=with_key()).status_code == 201
        foreign = feed(aside)["next"]
    first = feed(api, limit=1)["items"][0]
    forged = [cursor_at(1, 1, "0" * 64), cursor_at(2, 1, first["event_hash"]), cursor_at(1, 10**6, first["event_hash"])]
    for cursor in (foreign, *forged):
        for path in ("/events", "/events/stream"):
            answer = api.get(path, params={"after": cursor} | ({"wait": 30} if path == "/events" else {}))
            assert (answer.status_code, answer.json()["code"]) == (409, "history-forked"), answer.text
        resumed = api.get("/events/stream", headers={"Last-Event-ID": cursor})
        assert (resumed.status_code, resumed.json()["errors"][0]["pointer"]) == (409, "header:Last-Event-ID")
    assert api.get("/events/stream", headers={"Last-Event-ID": "x" * 201}).json()["code"] == "malformed"


def test_an_event_is_told_as_a_cloud_event_to_who_accepts_that(api: httpx.Client, contract_id: str) -> None:
    receipt = record(api, contract_id, "note.added", note() | {"correlation_id": str(uuid4())}).json()["events"][0]
    path = f"/events/{receipt['event_id']}"
    plain, told = api.get(path), api.get(path, headers={"Accept": f"{CLOUD_EVENT};q=1, */*"})
    event, made = plain.json(), told.json()
    assert told.headers["content-type"] == CLOUD_EVENT
    assert made.pop("data") == event
    assert made == {
        "specversion": "1.0",
        "id": event["event_id"],
        "source": "/v1/ledgers/main",
        "type": "note.added",
        "subject": contract_id,
        "time": event["recorded_at"],
        "datacontenttype": "application/json",
        "dataschema": "urn:contract-ledger:events:note.added.v2",
        "ledger": "main",
        "sequence": f"{event['position']:019}",
        "cursor": event["cursor"],
        "correlationid": event["correlation_id"],
    }
    again = api.get(path, headers={"Accept": CLOUD_EVENT, "If-None-Match": told.headers["etag"]})
    assert again.status_code == 304
    assert plain.headers["etag"] != told.headers["etag"]
    refused = (f"{CLOUD_EVENT};q=0, application/json", f"{CLOUD_EVENT};q=0", f"{CLOUD_EVENT};q=0.1, */*;q=0.9")
    for accepts in ("*/*", "application/json", f"application/json, {CLOUD_EVENT}", "text/html", *refused):
        assert api.get(path, headers={"Accept": accepts}).headers["content-type"] == "application/json"
    for accepts in (f"application/json;q=0.5, {CLOUD_EVENT}", CLOUD_EVENT.upper(), "application/json;q=0, application/*"):
        assert api.get(path, headers={"Accept": accepts}).headers["content-type"] == CLOUD_EVENT


def test_an_event_that_is_held_since_before_an_epoch_is_told_anew_with_its_cursor(service: RunningService) -> None:
    ledger_id = service.make_ledger("restored")
    with service.client(service.admin, ledger="restored") as api:
        assert api.post("/contracts", json=SIGNED, headers=with_key()).status_code == 201
        before = api.get(f"/events/{feed(api)['items'][0]['event_id']}")
        rows(service.database.superuser_url, "UPDATE ledgers SET epoch = 2 WHERE ledger_id = %s", ledger_id)
        wait_for(lambda: api.get("/log/epochs").json()["epoch"] == 2, "the service knows of the epoch")
        after = api.get(f"/events/{before.json()['event_id']}", headers={"If-None-Match": before.headers["etag"]})
        assert after.status_code == 200
        assert api.get("/events", params={"after": after.json()["cursor"]}).status_code == 200


@pytest.mark.parametrize("spell", ["1.+1.{}", "1.01.{}", "1.0_1.{}", "01.1.{}", "1.\u0661.{}", "1.1 .{}"])
def test_a_place_spelt_otherwise_is_no_cursor(api: httpx.Client, spell: str) -> None:
    event_hash = feed(api, limit=1)["items"][0]["event_hash"]
    cursor = base64.urlsafe_b64encode(spell.format(event_hash[:16]).encode()).decode().rstrip("=")
    answer = api.get("/events", params={"after": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def test_the_bytes_of_a_cursor_spelt_otherwise_are_none(api: httpx.Client) -> None:
    cursor = feed(api, limit=1)["next"]
    for spelt in (cursor + "=", cursor + "====", cursor[:4] + "!" + cursor[4:]):
        assert api.get("/events", params={"after": spelt}).status_code == 400
