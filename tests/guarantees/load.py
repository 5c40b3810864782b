"""Clients in processes of their own, which append at random, retry with the same key until they are answered, and tell what they saw."""

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

PROCESSES = 2
SECONDS = 60
PARTIES = [
    {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
    {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
]
DAYS = ("2022-07-06", "2023", "2023-Q2", "2023-06", "2024-01-26", "2025-03-01", "2031-01-01")


@dataclass(frozen=True, slots=True)
class Work:
    """What one client process is to do: so many requests, spread over the services, by so many at a time."""

    urls: Sequence[str]
    ledger: str
    key: str
    requests: int
    seed: int
    at_a_time: int = 8
    contracts: Sequence[str] = ()


@dataclass(slots=True)
class Answer:
    """A request as it was sent, and the answer it came to; `refusals` are what it met on the way (a status, or a failure's name)."""

    path: str
    idempotency_key: str
    body: bytes
    status: int
    receipt: bytes
    replayed: bool
    refusals: list[str] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of its receipt."""
        return orjson.loads(self.receipt)["events"] if self.status == 201 else []


def at_work(pool: ProcessPoolExecutor, works: Sequence[Work]) -> "Future[list[Answer]]":
    """The answers of all clients, when all have ended."""
    running = [pool.submit(run, work) for work in works]
    told: Future[list[Answer]] = Future()

    def collect(_: Future[list[Answer]]) -> None:
        if all(future.done() for future in running) and not told.done():
            failure = next((error for future in running if (error := future.exception())), None)
            if failure:
                told.set_exception(failure)
            else:
                told.set_result([answer for future in running for answer in future.result()])

    for future in running:
        future.add_done_callback(collect)
    return told


def run(work: Work) -> list[Answer]:
    """Do the work in this process."""
    return asyncio.run(_run(work))


async def _run(work: Work) -> list[Answer]:
    limits = httpx.Limits(max_connections=work.at_a_time)
    headers = {"Authorization": f"Bearer {work.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=20, limits=limits, trust_env=False) as client:
        return await send_all(client, work)


async def send_all(client: httpx.AsyncClient, work: Work) -> list[Answer]:
    """Do the work with a client that is there."""
    chance = random.Random(work.seed)
    contracts = list(work.contracts)
    left = iter(range(work.requests))
    answers: list[Answer] = []

    async def one_after_the_other() -> None:
        for _ in left:
            path, body = _some_request(chance, contracts)
            answer = await append(client, work, path, orjson.dumps(body), str(uuid.UUID(int=chance.getrandbits(128))))
            answers.append(answer)
            if answer.status == 201 and path == "/contracts/reported":
                contracts.append(orjson.loads(answer.receipt)["contract_id"])

    await asyncio.gather(*(one_after_the_other() for _ in range(work.at_a_time)))
    return answers


async def append(client: httpx.AsyncClient, work: Work, path: str, body: bytes, idempotency_key: str) -> Answer:
    """Send a request until it is answered for good: a refusal to connect, a broken connection and 503 are tried again."""
    refusals: list[str] = []
    deadline = time.monotonic() + SECONDS
    headers = {"Idempotency-Key": idempotency_key, "Content-Type": "application/json"}
    while True:
        url = work.urls[(len(refusals) + os.getpid()) % len(work.urls)]
        try:
            told = await client.post(f"{url}/v1/ledgers/{work.ledger}{path}", content=body, headers=headers)
            if told.status_code != 503:
                replayed = told.headers.get("idempotent-replayed") == "true"
                return Answer(path, idempotency_key, body, told.status_code, told.content, replayed, refusals)
            refusals.append("503 " + told.json()["code"])
        except httpx.TransportError as error:
            refusals.append(type(error).__name__)
        assert time.monotonic() < deadline, f"no answer to {idempotency_key} in {SECONDS} s: {Counter(refusals)}"
        await asyncio.sleep(0.05)


def _some_request(chance: random.Random, contracts: Sequence[str]) -> tuple[str, dict[str, Any]]:
    if not contracts or chance.random() < 0.15:
        return "/contracts/reported", opening(chance.choice(DAYS[:4]))
    contract = f"/contracts/{chance.choice(contracts)}"
    kind = chance.choices(list(_MAKERS), weights=[weight for weight, _ in _MAKERS.values()])[0]
    return f"{contract}/{kind}", _MAKERS[kind][1](chance)


def envelope(effective_on: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"effective_on": effective_on, "source": {"kind": "news", "name": "Reuters"}, "data": data}


def opening(effective_on: str = "2022-07-06") -> dict[str, Any]:
    """A request that opens a contract as reported."""
    items = [{"item_id": "cells", "description": "cylindrical cells", "quantity": "1000", "unit": "EA"}]
    data = {"stage": "reported", "title": "Cells", "kind": "supply", "parties": PARTIES, "items": items}
    return envelope(effective_on, {**data, "period": {"start_on": "2023", "duration": "P4Y"}})


def note(text: str = "seen", effective_on: str = "2024-01-26") -> dict[str, Any]:
    """A request that adds a note."""
    return envelope(effective_on, {"text": text})


def figure(figure_id: str, amount: str = "1000", effective_on: str = "2024-01-26") -> dict[str, Any]:
    """A request that states a figure."""
    stated = {"figure_id": figure_id, "amount": amount, "currency": "KRW", "basis": "reported", "bound": "about", "scope": "total"}
    return envelope(effective_on, {"figure": stated})


def delivery(delivery_id: str, effective_on: str = "2024-03-15") -> dict[str, Any]:
    """A request that records a delivery."""
    data = {"delivery_id": delivery_id, "item_id": "cells", "quantity": "7", "unit": "EA", "delivered_on": effective_on}
    return envelope(effective_on, data)


def _random_id(chance: random.Random) -> str:
    return f"{chance.getrandbits(40):010x}"


def _several(chance: random.Random) -> dict[str, Any]:
    day = chance.choice(DAYS)
    return {
        "events": [
            {"event_type": "note.added", **note("first of three", day)},
            {"event_type": "figure.stated", **figure(_random_id(chance), "500", day)},
            {"event_type": "delivery.recorded", **delivery(_random_id(chance), "2024-04-01")},
        ]
    }


def _figure(chance: random.Random) -> dict[str, Any]:
    """A few ids, so that some are taken, and revisions find what they replace."""
    return figure(f"figure-{chance.randrange(20)}", str(chance.randrange(1, 10**12)), chance.choice(DAYS))


def _revision(chance: random.Random) -> dict[str, Any]:
    stated = figure(_random_id(chance), str(chance.randrange(1, 10**12)))["data"]["figure"]
    data = {"replaces": f"figure-{chance.randrange(20)}", "value": stated, "reason": "quantity"}
    return envelope(chance.choice(DAYS), data)


def _extension(chance: random.Random) -> dict[str, Any]:
    later = {"new_end_on": f"{chance.randrange(2027, 2060)}-12-31"} if chance.random() < 0.5 else {}
    added = {"added_quantity": {"item_id": "cells", "quantity": "5", "unit": "EA"}, "via": "amendment"}
    return envelope(chance.choice(DAYS), {**added, **later})


_MAKERS: dict[str, tuple[float, Callable[[random.Random], dict[str, Any]]]] = {
    "note-added": (4, lambda chance: note("x" * chance.randrange(1, 400), chance.choice(DAYS))),
    "figure-stated": (4, _figure),
    "value-revised": (2, _revision),
    "delivery-recorded": (3, lambda chance: delivery(_random_id(chance))),
    "delivery-started": (1, lambda chance: envelope(chance.choice(DAYS), {"partial": True})),
    "contract-signed": (1, lambda chance: envelope(chance.choice(DAYS), {"signed_by": "2024-01-26"})),
    "order-extended": (1, _extension),
    "agreement-linked": (1, lambda chance: envelope(chance.choice(DAYS), {"relation": "joint-development", "title": "trucks"})),
    "contract-completed": (0.1, lambda chance: envelope(chance.choice(DAYS), {"by": "both"})),
    "events": (2, _several),
}
