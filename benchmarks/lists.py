"""How fast the lists over a ledger of many contracts are: each question many times, through the whole service but the socket.

The contracts are as the service would have folded them, and differ in party, product, days, amounts and words. Each question is asked
for a page of fifty, from the start and from a place within; a percentile is of all times it was asked.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from statistics import quantiles
from typing import Any

import httpx
import psycopg

from benchmarks.load import contract_id
from benchmarks.report import progress, say
from benchmarks.stand import LEDGER, Stand, stand
from service.api.envelope import read_event
from service.app import create_app
from service.domain.events import RecordedEvent
from service.inserts import insert_rows, rows_of
from service.projections.contracts import contract_row, project, projected
from service.settings import Settings
from service.tables import contracts

CONTRACTS = 100_000
MOST_SECONDS = 0.03
TIMES = 300
_CHUNK = 500
_PARTIES, _PRODUCTS = 500, 50
_SOURCE = {"kind": "filing", "name": "LG Energy Solution", "published_on": "2024-01-26"}
_WORDS = ("배터리", "電池", "cells", "modules", "양극재", "セル", "anode", "truck")
QUESTIONS = {
    "all": "/contracts",
    "by party and role": "/contracts?party=party-7&role=supplier",
    "by product": "/contracts?product=product-7",
    "by status": "/contracts?status=in_force",
    "by currency and value": "/contracts?currency=USD&value_from=7000000&value_to=7500000",
    "by words": "/contracts?text=cells",
    "by Hangul": "/contracts?text=배터",
    "by Kana": "/contracts?text=セル",
    "the latest signed": "/contracts?sort=-signed_on",
    "the latest signed of a party": "/contracts?party=party-7&sort=-signed_on",
    "the next to end": "/contracts?sort=ends_on&ends_from=2027-01-01",
    "deadlines": "/deadlines?from=2026-01-01",
    "deadlines of a month": "/deadlines?from=2028-03-01&to=2028-03-31",
    "days of notice": "/deadlines?kind=notice",
    "milestones that passed": "/deadlines?from=2020-01-01&kind=milestone",
    "parties": "/parties",
    "parties by words": "/parties?text=parti",
    "parties by Hangul": "/parties?text=에너",
    "a party": "/parties/party-7",
    "the party of all": "/parties/isuzu",
    "commitments": "/commitments",
    "commitments by year": "/commitments?by=year",
    "commitments by party": "/commitments?by=party",
    "commitments by product and year": "/commitments?by=product,year",
    "commitments by party, product and year": "/commitments?by=party,product,year",
    "commitments of a party by product": "/commitments?party=party-7&by=product",
    "commitments in a currency of all statuses": "/commitments?currency=USD&status=expired,signed,in_force,delivering&by=year",
    "contracts of a commitment": "/commitments/contracts?party=party-7&currency=USD&basis=contractual",
}


def list_times(contracts_wanted: int) -> bool:
    """Build the ledger, ask everything, and print it; whether every question was answered in time."""
    with stand() as at:
        _build(at, contracts_wanted)
        at.vacuum()
        say(f"\nlists: {contracts_wanted} contracts, on {at.measured_on}; each question {TIMES} times")
        return asyncio.run(_ask_all(at))


async def _ask_all(at: Stand) -> bool:
    good = True
    async with _client(at) as client:
        began = time.perf_counter()
        while (await client.get("/commitments")).status_code != 200:
            pass
        say(f"  the outlook was filled in {time.perf_counter() - began:.1f} s")
        at.vacuum()
        for name, question in QUESTIONS.items():
            middle, worst = await _ask(client, question)
            good = good and worst <= MOST_SECONDS
            say(f"  {name}: p50 {1e3 * middle:.1f} ms, p99 {1e3 * worst:.1f} ms{'' if worst <= MOST_SECONDS else '  TOO SLOW'}")
    return good


async def _ask(client: httpx.AsyncClient, question: str) -> tuple[float, float]:
    """The median and the 99th percentile of the seconds it takes, page after page."""
    taken, path = [], question
    for number in range(TIMES + 5):
        began = time.perf_counter()
        answer = await client.get(path)
        taken.append(time.perf_counter() - began)
        if answer.status_code != 200:
            raise SystemExit(f"{path} was answered {answer.status_code}: {answer.text[:300]}")
        if number % 2:
            path = question
        elif "next" in answer.links:
            path = f"{question}{'&' if '?' in question else '?'}after={answer.json()['next']}"
    hundredths = quantiles(taken[5:], n=100)  # the first are for warming up
    return hundredths[49], hundredths[98]


@asynccontextmanager
async def _client(at: Stand) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(database_url=at.service_url, data_dir=at.folder, metrics_port=0))
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {at.key}"}
    client = httpx.AsyncClient(transport=transport, base_url=f"http://service/v1/ledgers/{LEDGER}", headers=headers, timeout=60)
    async with app.router.lifespan_context(app), client:
        yield client


def _build(at: Stand, contracts_wanted: int) -> None:
    chunks = [range(first, min(first + _CHUNK, contracts_wanted)) for first in range(0, contracts_wanted, _CHUNK)]
    with (
        psycopg.connect(at.service_url, autocommit=True) as connection,
        get_context("spawn").Pool(2) as pool,
        progress("building the ledger", contracts_wanted) as advance,
    ):
        for done, rows in enumerate(pool.imap_unordered(_rows, chunks)):
            connection.execute(insert_rows(contracts), {"ledger_id": at.ledger.ledger_id, **rows})
            advance((done + 1) * _CHUNK)


def _rows(numbers: range) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    return rows_of(contracts, projected([_row(number, today) for number in numbers], 1))


def _row(number: int, today: date) -> Any:
    history = [_event(revision, event_type, day, data) for revision, (event_type, day, data) in enumerate(_history(number), 1)]
    told = project(history, today)
    last_on = max(event.day for event in history)
    return contract_row(
        contract_id(number), told, revision=len(history), position=number + 1, last_hash="00" * 32, last_on=last_on, day=today
    )


def _event(revision: int, event_type: str, day: date, data: dict[str, Any]) -> RecordedEvent:
    new = read_event(event_type, {"effective_on": day.isoformat(), "source": _SOURCE, "data": data})
    return RecordedEvent(
        event_id="",
        position=revision,
        revision=revision,
        recorded_on=day,
        effective_on=day.isoformat(),
        day=day,
        data=new.fact,
        source=_SOURCE,
        hypothetical=False,
    )


def _history(number: int) -> Iterator[tuple[str, date, dict[str, Any]]]:
    """Signed on one of 1,800 days, for two to eight years; every second one delivers, every fourth has options, every tenth ends."""
    signed = date(2020, 1, 1) + timedelta(days=number * 7 % 1_800)
    party, item_id = f"party-{number % _PARTIES}", f"product-{number % _PRODUCTS}"
    unit = {"item_id": item_id, "unit": "EA"}
    name = f"{'에너지솔루션' if number % 3 else 'Parti Holdings'} {number % _PARTIES}"
    amount = str((10 + number * 11 % 90) * 10 ** (4 + number % 6) + number % 1_000)
    figure = {"figure_id": "f", "amount": amount, "currency": ("USD", "KRW", "EUR")[number % 3], "scope": "total", "bound": "exact"}
    yield (
        "contract.signed",
        signed,
        {
            "signed_on": signed.isoformat(),
            "title": f"Supply of {_WORDS[number % 8]} and {_WORDS[number // 8 % 8]} {number % 1_000}",
            "kind": "supply",
            "parties": [
                {"party_id": party, "name": name, "roles": ["supplier"]},
                {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
            ],
            "items": [unit | {"description": _WORDS[number % 8], "quantity": "10000"}],
            "period": {"start_on": (signed + timedelta(days=30)).isoformat(), "duration": f"P{2 + number % 7}Y"},
            "figures": [figure | {"basis": ("contractual", "disclosed", "reported", "estimated")[number % 4]}],
            "terms": {"renewal": {"automatic": True, "notice_days": 90}},
        },
    )
    day = signed + timedelta(days=60)
    yield "milestone.scheduled", day, {"milestone_id": "line", "title": "The line runs", "due_on": (day + timedelta(days=700)).isoformat()}
    if number % 2:
        data = unit | {"delivery_id": "d", "quantity": "10", "delivered_on": day.isoformat()}
        yield "delivery.recorded", day, data | {"value": {"amount": "1000", "currency": figure["currency"]}}
    if number % 10 == 0:
        yield "contract.completed", day, {}
