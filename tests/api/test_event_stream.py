"""Server-sent events: resumed without a gap, alive between events, bounded for who reads slowly, and ended in peace or with a reason."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from service.api import event_stream
from service.feed import pages, stream
from service.feed.pages import Feed
from tests.api.bodies import head_of, note, open_contract, record
from tests.api.running import RunningService, running
from tests.api.streams import Frame, frames, until_head
from tests.conftest import NewDatabase
from tests.servers import wait_for

Json = dict[str, Any]
SLOW_CHARACTERS = 4_000
EVENTS = 100


@pytest.fixture(scope="module")
def contract_id(api: httpx.Client) -> str:
    return open_contract(api)


@contextlib.contextmanager
def listening(
    service: RunningService, key: str | None = None, headers: dict[str, str] | None = None, **query: Any
) -> Iterator[httpx.Response]:
    base = f"{service.url}/v1/ledgers/main"
    given = {"Authorization": f"Bearer {key or service.admin}", **(headers or {})}
    with (
        httpx.Client(base_url=base, headers=given, timeout=20, trust_env=False) as client,
        client.stream("GET", "/events/stream", params=query) as answer,
    ):
        if answer.status_code != 200:
            answer.read()
        yield answer


def followers(service: RunningService) -> int:
    count: int = service.app.state.services.feed.followers
    return count


def told(read: list[Frame]) -> list[int]:
    return [frame.event["position"] for frame in read if frame.data]


def test_a_stream_tells_what_there_is_and_what_comes(service: RunningService, api: httpx.Client, contract_id: str) -> None:
    for number in range(40):
        record(api, contract_id, "note.added", note("x" * 50 * number))
    with listening(service) as answer:
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert answer.headers["cache-control"] == "private, no-cache"
        reading = frames(answer)
        head = head_of(api)
        before = [next(reading) for _ in range(head + 2)]
        assert before[0].retry
        assert told(before) == list(range(1, head + 1))
        assert [frame.event for frame in before if frame.data] == api.get("/events", params={"limit": 500}).json()["items"]
        assert all(frame.cursor == frame.event["cursor"] for frame in before if frame.data)
        assert before[-1].comment
        record(api, contract_id, "note.added", note())
        record(api, contract_id, "note.added", note())
        assert told([next(reading), next(reading)]) == [head + 1, head + 2]


def test_a_stream_that_broke_off_anywhere_is_resumed_without_a_gap(
    service: RunningService, api: httpx.Client, contract_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.1)
    for number in range(10):
        record(api, contract_id, "note.added", note(str(number)))
    seen: list[int] = []
    last = ""
    while len(seen) < head_of(api):
        headers = {"Last-Event-ID": last} if last else {}
        with listening(service, headers=headers, from_position=1) as answer:
            read = [frame for frame, _ in zip(frames(answer), range(4), strict=False)]
        seen += told(read)
        last = next((frame.cursor for frame in reversed(read) if frame.cursor), last)
    assert seen == list(range(1, head_of(api) + 1))


def test_heartbeats_move_the_place_past_what_a_filter_leaves_out(
    service: RunningService, api: httpx.Client, contract_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.1)
    with listening(service, event_type="contract.completed") as answer:
        reading = (frame for frame in frames(answer) if frame.cursor)
        first = next(reading)
        record(api, contract_id, "note.added", note())
        record(api, contract_id, "note.added", note())
        moved = next(frame for frame in reading if frame.cursor != first.cursor)
        assert (moved.data, first.data) == ("", "")
    with listening(service, headers={"Last-Event-ID": first.cursor}) as answer:
        assert told(until_head(answer)) == [head_of(api) - 1, head_of(api)]


def test_who_reads_slowly_is_broken_off_and_resumes(new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "SLOW_SECONDS", 0.3)
    with new_database() as database, running(database, tmp_path, send_bytes=8_192) as service:
        service.make_ledger("main")
        with service.client(service.admin, ledger="main") as api:
            contract_id = open_contract(api)
            for _ in range(EVENTS):
                assert record(api, contract_id, "note.added", note("x" * SLOW_CHARACTERS)).status_code == 201
        received = taken_slowly(service)
        wait_for(lambda: followers(service) == 0, "it was broken off")
        *_, last = [line for line in received.decode().splitlines() if line.startswith("id: ")]
        whole = received.count(b"\n\n") - 2  # but for the head of the answer and the first frame
        with listening(service, headers={"Last-Event-ID": last.removeprefix("id: ")}) as answer:
            assert told(until_head(answer))[-1] == EVENTS + 1
    assert 0 < whole < EVENTS


def taken_slowly(service: RunningService) -> bytes:
    """What a client gets of a stream that takes some bytes now and then, until it is broken off."""
    received = b""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", service.port))
        request = f"GET /v1/ledgers/main/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin}\r\n\r\n"
        slow.sendall(request.encode())
        deadline = time.monotonic() + 20
        with contextlib.suppress(ConnectionResetError):
            while piece := slow.recv(1_000):
                received += piece
                time.sleep(0.01)
                assert time.monotonic() < deadline, "it goes on, however slowly it is read"
    return received


def test_a_stream_ends_when_its_key_is_revoked(service: RunningService, contract_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("service.access.CACHE_SECONDS", 0)
    key = service.make_key(("contracts:read",))
    with listening(service, key) as answer:
        reading = frames(answer)
        next(frame for frame in reading if frame.comment)
        with psycopg.connect(service.database.owner_url) as connection:
            connection.execute(
                "UPDATE api_keys SET revoked_at = now() WHERE key_id = (SELECT key_id FROM api_keys ORDER BY created_at DESC LIMIT 1)"
            )
        *_, last = reading
    assert (last.name, last.event["code"], last.event["status"]) == ("problem", "unauthorized", 401)


def test_a_stream_tells_that_the_ledger_has_begun_another_epoch(
    service: RunningService, contract_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(service.app.state.services.ledgers, "_seconds", 0)
    service.app.state.services.ledgers._ledgers._known.clear()
    with listening(service) as answer:
        reading = frames(answer)
        next(frame for frame in reading if frame.comment)
        with psycopg.connect(service.database.superuser_url) as connection:
            connection.execute("UPDATE ledgers SET epoch = epoch + 1 WHERE name = 'main'")
        try:
            *_, last = reading
        finally:
            with psycopg.connect(service.database.superuser_url) as connection:
                connection.execute("UPDATE ledgers SET epoch = epoch - 1 WHERE name = 'main'")
    assert (last.name, last.event["code"]) == ("problem", "history-forked")


def test_streams_and_polls_end_in_peace_when_the_service_stops(new_database: NewDatabase, tmp_path: Path) -> None:
    with new_database() as database, ThreadPoolExecutor(2) as pool:
        with running(database, tmp_path) as service:
            service.make_ledger("main")
            streamed, polled = pool.submit(_all_of, service), pool.submit(_poll, service)
            wait_for(lambda: followers(service) == 2, "both wait")
            began = time.monotonic()
        read, answer = streamed.result(10), polled.result(10)
    assert time.monotonic() - began < 15
    assert read[-1].comment, "the last frame is whole, and no problem"
    assert (answer.status_code, answer.json()["items"]) == (200, [])
    assert "next" in answer.json()


def _poll(service: RunningService) -> httpx.Response:
    with service.client(service.admin, ledger="main") as client:
        return client.get("/events", params={"wait": 60})


def _all_of(service: RunningService) -> list[Frame]:
    with listening(service) as answer:
        return list(frames(answer))


def test_followers_have_a_bound(service: RunningService, api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_FOLLOWERS", 1)
    after = api.get("/events", params={"from_position": head_of(api) + 1}).json()["next"]
    with listening(service) as first:
        reading = frames(first)
        next(reading)
        wait_for(lambda: followers(service) == 1, "one listens")
        with listening(service) as second:
            assert (second.status_code, second.json()["code"], second.headers["retry-after"]) == (503, "feed-busy", "5")
        assert api.get("/events", params={"after": after, "wait": 1}).json()["code"] == "feed-busy"
        assert api.get("/events", params={"after": after}).status_code == 200
    wait_for(lambda: followers(service) == 0, "it has gone")


def test_of_two_that_come_for_the_last_place_together_one_is_told_by_a_status(
    service: RunningService, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_FOLLOWERS", 1)
    came, read = threading.Barrier(2, timeout=10), Feed.page

    async def together(feed: Feed, *asked: Any) -> Any:
        """Both have been looked at, and neither listens yet."""
        page = await read(feed, *asked)
        await asyncio.to_thread(came.wait)
        return page

    monkeypatch.setattr(Feed, "page", together)

    def status(_: int) -> int:
        with listening(service) as answer:
            if answer.status_code == 200:
                wait_for(lambda: len(statuses) == 1, "the other was answered")
            statuses.append(answer.status_code)
            return answer.status_code

    statuses: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(status, range(2))) == [200, 503]


def test_the_headers_of_a_stream_are_to_be_had_alone(api: httpx.Client) -> None:
    answer = api.head("/events/stream")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
