"""Whatever is killed, who follows a ledger through it sees every event once, in order: two processes serve, and their Postgres dies."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from uuid import uuid4

import httpx
import psutil
import pytest

from service.feed.wakes import APPLICATION
from tests.api.bodies import SIGNED
from tests.api.streams import frames
from tests.servers import OwnPostgres, Service, client, make_key, make_ledger, rows, serving, wait_for

EVENTS: Final = 30
SECONDS: Final = 90


def append(url: str, ledger: str, key: str) -> None:
    """Record one event, through whatever happens: sent again with its key until it is answered for good."""
    headers = {"Idempotency-Key": str(uuid4())}
    with httpx.Client(base_url=f"{url}/v1/ledgers/{ledger}", headers={"Authorization": f"Bearer {key}"}, trust_env=False) as api:

        def is_recorded() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return api.post("/contracts", json=SIGNED, headers=headers, timeout=30).status_code == 201
            return False

        wait_for(is_recorded, "an event is recorded", SECONDS)


def poll(api: httpx.Client) -> list[int]:
    """The positions that a long poll finds, from the first to the last of EVENTS."""
    seen: list[int] = []
    after: dict[str, str] = {}
    deadline = time.monotonic() + SECONDS
    while len(seen) < EVENTS and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = api.get("/events", params={"wait": 20, "limit": 7, **after})
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                page = answer.json()
                seen += [item["position"] for item in page["items"]]
                after = {"after": page["next"]}
    return seen


def listen(api: httpx.Client) -> list[int]:
    """The positions that a stream tells, which is resumed where it ends, as a browser does."""
    seen: list[int] = []
    resume: dict[str, str] = {}
    deadline = time.monotonic() + SECONDS
    while len(seen) < EVENTS and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError), api.stream("GET", "/events/stream", headers=resume) as answer:
            if answer.status_code != 200:
                continue
            for frame in frames(answer):
                resume = {"Last-Event-ID": frame.cursor} if frame.cursor else resume
                if frame.data:
                    seen.append(frame.event["position"])
                if len(seen) >= EVENTS:
                    break
    return seen


@pytest.fixture(scope="module")
def two(own_cluster: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "other").mkdir()
    url = own_cluster.service_url
    with own_cluster.running(), serving(url, folder) as first, serving(url, folder / "other") as second:
        yield first, second


def kill_postgres(own: OwnPostgres) -> None:
    own.kill()
    own.restart()


def kill_connections(own: OwnPostgres) -> None:
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    rows(own.server.url("postgres", own.server.superuser), query, APPLICATION)


@pytest.mark.parametrize("kill", [kill_connections, kill_postgres], ids=["connections", "Postgres"])
def test_followers_see_every_event_once_through_a_kill(
    own_cluster: OwnPostgres, two: tuple[Service, Service], kill: Callable[[OwnPostgres], Any]
) -> None:
    own = own_cluster
    ledger, key = make_ledger(own.service_url), make_key(own.service_url)
    writing, reading = two
    with client(reading, ledger, key) as one, client(reading, ledger, key) as other, ThreadPoolExecutor(2) as pool:
        polled, listened = pool.submit(poll, one), pool.submit(listen, other)
        for number in range(EVENTS):
            if number % 10 == 5:
                kill(own)
            append((writing if number % 2 else reading).url, ledger, key)
        assert polled.result(SECONDS) == list(range(1, EVENTS + 1))
        assert listened.result(SECONDS) == list(range(1, EVENTS + 1))


STREAMS: Final = 500
MOST_BYTES: Final = 100_000_000
"""That the process may grow by: 200 kB a stream."""


async def test_five_hundred_streams_hear_of_everything_from_one_process_in_bounded_memory(
    own_cluster: OwnPostgres, two: tuple[Service, Service]
) -> None:
    ledger, key = make_ledger(own_cluster.service_url), make_key(own_cluster.service_url)
    writing, reading = two
    assert reading._process is not None
    process = psutil.Process(reading._process.pid)
    append(writing.url, ledger, key)
    before = process.memory_info().rss
    counts = [0] * STREAMS
    listeners = [asyncio.create_task(count_events(reading.port, ledger, key, counts, number)) for number in range(STREAMS)]
    try:
        await reached(counts, 1)
        for _ in range(5):
            await asyncio.to_thread(append, writing.url, ledger, key)
        await reached(counts, 6)
        assert process.memory_info().rss - before < MOST_BYTES
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.wait(listeners)


async def count_events(port: int, ledger: str, key: str, counts: list[int], number: int) -> None:
    """Listen to a stream, and count its events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /v1/ledgers/{ledger}/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    writer.write(request.encode())
    try:
        while line := await reader.readline():
            counts[number] += line.startswith(b"data: ")
    finally:
        writer.close()


async def reached(counts: list[int], wanted: int) -> None:
    """Once everybody has seen so many events, and nobody more."""
    async with asyncio.timeout(SECONDS):
        while min(counts) < wanted:  # noqa: ASYNC110 - what is waited for comes over the network
            await asyncio.sleep(0.05)
    assert max(counts) == wanted
