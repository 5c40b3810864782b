"""From a commit to those who follow: how long an event takes to a subscriber, beside what Postgres alone takes by LISTEN/NOTIFY.

Two processes of the service share a database. One takes 500 appends a second; followers hear of them from it and from the other one, so
that both ways are measured: within a process, and by NOTIFY. An event's time runs from its `recorded_at`, which is read before the commit,
to the frame in the follower's hand, on one machine and by one clock: it holds the commit too, and is told too long rather than too short.
"""

import asyncio
import time
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import psycopg
import uvloop

from benchmarks.report import say
from benchmarks.stand import GUARDED, LEDGER, Stand, serving, stand

APPENDS_A_SECOND = 500
SECONDS = 10
FOLLOWERS = 2
"""At each process."""
CONNECTIONS = 32
MOST_P99 = 50.0
"""Milliseconds."""
_PARTIES = [{"party_id": "a", "name": "A", "roles": ["supplier"]}, {"party_id": "b", "name": "B", "roles": ["buyer"]}]
_BODY = orjson.dumps(
    {
        "effective_on": "2024-01-26",
        "source": {"kind": "filing", "name": "A"},
        "data": {
            "signed_on": "2024-01-26",
            "title": "Cells",
            "kind": "supply",
            "parties": _PARTIES,
            "items": [{"item_id": "cells", "description": "cells"}],
            "period": {"start_on": "2024-02", "end_on": "2026-12-31"},
        },
    }
)


def delays() -> bool:
    """Measure and tell; whether the ninety-ninth percentile is below the bar for both ways."""
    with ExitStack() as stack:
        at = stack.enter_context(stand())
        urls = [stack.enter_context(_service(at, name)) for name in ("one", "two")]
        found, receipts = uvloop.run(_measured(at, urls))
        plain = uvloop.run(_plain(at))
    say(f"\nfeed: {APPENDS_A_SECOND} appends/s for {SECONDS} s, {FOLLOWERS} streams a process, on {at.measured_on}")
    say(f"  LISTEN/NOTIFY in the transaction, by itself     {_told(plain)}")
    say(f"  the receipt, to who appends                     {_told(receipts)}")
    good = True
    for way, times in zip(("the process that commits", "another process"), found, strict=True):
        good = _percentile(times, 99) < MOST_P99 and good
        ratio = _percentile(times, 99) / _percentile(plain, 99)
        say(f"  to followers of {way:<25}   {_told(times)}   p99 {ratio:.1f} times   (below {MOST_P99:.0f} ms)")
    return good


def _service(at: Stand, name: str) -> AbstractContextManager[str]:
    environment = {"LEDGER_DATABASE_URL": at.service_url, "LEDGER_DATA_DIR": str(at.folder / name)}
    return serving("service.app:create_app", "--factory", *GUARDED, **environment)


async def _measured(at: Stand, urls: list[str]) -> tuple[list[list[float]], list[float]]:
    """The times to followers of each process, and to those who append, in milliseconds."""
    receipts: list[float] = []
    found: list[list[float]] = [[] for _ in urls]
    following = [asyncio.create_task(_follow(at, url, times)) for url, times in zip(urls, found, strict=True) for _ in range(FOLLOWERS)]
    await asyncio.sleep(1)
    begin = time.monotonic()
    await asyncio.gather(*(_append(at, urls[0], begin, number, receipts) for number in range(CONNECTIONS)))
    await asyncio.sleep(1)
    for task in following:
        task.cancel()
    expected = APPENDS_A_SECOND * SECONDS * FOLLOWERS
    for times in found:
        if len(times) < expected:
            raise SystemExit(f"Of {expected} events that followers were to see, they saw {len(times)}.")
    return found, receipts


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port, limit=1_048_576)


async def _follow(at: Stand, url: str, times: list[float]) -> None:
    reader, writer = await _connect(url)
    writer.write(_head(at, "GET", "/events/stream").encode() + b"\r\n")
    while line := await reader.readline():
        if line.startswith(b"data: "):
            recorded_at = datetime.fromisoformat(orjson.loads(line[6:])["recorded_at"])
            times.append((time.time() - recorded_at.timestamp()) * 1_000)


async def _append(at: Stand, url: str, begin: float, number: int, receipts: list[float]) -> None:
    """One connection's share of the appends, each at its time."""
    reader, writer = await _connect(url)
    head = _head(at, "POST", "/contracts") + f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\nIdempotency-Key: "
    for turn in range(number, APPENDS_A_SECOND * SECONDS, CONNECTIONS):
        await asyncio.sleep(max(0.0, begin + turn / APPENDS_A_SECOND - time.monotonic()))
        sent = time.monotonic()
        writer.write(f"{head}{uuid4()}\r\n\r\n".encode() + _BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 201"):
            raise SystemExit(f"An append was answered {answer[:200]!r}.")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        await reader.readexactly(int(length.removeprefix(b"content-length: ")))
        receipts.append((time.monotonic() - sent) * 1_000)
    writer.close()


def _head(at: Stand, method: str, path: str) -> str:
    return f"{method} /v1/ledgers/{LEDGER}{path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {at.key}\r\n"


async def _plain(at: Stand) -> list[float]:
    """The reference: transactions that end in NOTIFY, and one connection that listens."""
    times: list[float] = []
    async with (
        await psycopg.AsyncConnection.connect(at.service_url, autocommit=True) as listener,
        await psycopg.AsyncConnection.connect(at.superuser_url, autocommit=True) as writer,
    ):
        await writer.execute("CREATE TABLE plain (n bigint, body text)")
        await listener.execute("LISTEN plain")
        listening = asyncio.create_task(_listen(listener, times))
        begin = time.monotonic()
        for turn in range(APPENDS_A_SECOND * SECONDS):
            await asyncio.sleep(max(0.0, begin + turn / APPENDS_A_SECOND - time.monotonic()))
            async with writer.transaction():
                await writer.execute("INSERT INTO plain VALUES (%s, %s)", [turn, _BODY.decode()])
                await writer.execute("SELECT pg_notify('plain', %s)", [repr(time.time())])
        await asyncio.sleep(0.5)
        listening.cancel()
    return times


async def _listen(listener: "psycopg.AsyncConnection[tuple[object, ...]]", times: list[float]) -> None:
    async for told in listener.notifies():
        times.append((time.time() - float(told.payload)) * 1_000)  # noqa: PERF401 - it goes on without end


def _percentile(times: list[float], percent: int) -> float:
    return sorted(times)[len(times) * percent // 100]


def _told(times: list[float]) -> str:
    return f"p50 {_percentile(times, 50):6.1f} ms   p99 {_percentile(times, 99):6.1f} ms"
