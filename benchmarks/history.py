"""How long a contract at past times takes: one of a thousand events at any times, and one of ten beside its current state.

The contracts are written by requests to the service, and read by one client, one request after the other, since what is measured is how
long an answer takes and not how many there are. A long contract has all there is to fold: reports, a signing, figures and their
revisions, deliveries, milestones, notes; one event in fifty is a correction or a void. The service holds the events of a contract for a
minute, so the first question about a contract is told apart.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from http.client import HTTPConnection
from random import Random
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from benchmarks.report import progress, say
from benchmarks.stand import LEDGER, Stand, serving, stand

LONG_EVENTS, LONG_CONTRACTS = 1_000, 4
FIRST_QUESTIONS = 24
SHORT_EVENTS, SHORT_CONTRACTS = 10, 100
READS, WARM_UP_READS = 2_000, 200
MOST_MILLISECONDS, MOST_RATIO = 20, 3.0
_ACT_EVERY = 50
_FIRST_ON = date(2022, 7, 1)
_DAYS = 1_500
_PARTIES = [
    {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
    {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
]
_OPENING = {
    "stage": "reported",
    "title": "Cylindrical batteries for the electric Elf truck",
    "kind": "supply",
    "parties": _PARTIES,
    "items": [{"item_id": "cells", "description": "Cylindrical cells", "quantity": "100000000", "unit": "EA"}],
    "period": {"start_on": "2023", "duration": "P4Y"},
}
Json = dict[str, Any]


@dataclass(slots=True)
class _Written:
    """A contract that was written: its id, its events as they were sent with their ids, and the positions they went to."""

    contract_id: str
    sent: list[Json] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


class _Client:
    """One connection to the service, which answers in JSON."""

    def __init__(self, address: str, key: str) -> None:
        self._connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def append(self, path: str, body: Json) -> Json:
        headers = self._headers | {"Idempotency-Key": str(uuid4())}
        self._connection.request("POST", f"/v1/ledgers/{LEDGER}/contracts{path}", json.dumps(body), headers)
        return self._answer(201)

    def seconds(self, contract_id: str, **times: object) -> float:
        """How long a contract takes to be told, from the request to the last byte."""
        query = f"?{urlencode(times)}" if times else ""
        began = time.perf_counter()
        self._connection.request("GET", f"/v1/ledgers/{LEDGER}/contracts/{contract_id}{query}", headers=self._headers)
        self._answer(200)
        return time.perf_counter() - began

    def _answer(self, status: int) -> Json:
        response = self._connection.getresponse()
        body = response.read()
        if response.status != status:
            raise SystemExit(f"The service answered {response.status}: {body[:500]!r}")
        answer: Json = json.loads(body) if status == 201 else {}
        return answer


def past_reads() -> bool:
    """Measure, and whether past states are told quickly enough."""
    with ExitStack() as stack:
        at = stack.enter_context(stand())
        environment = {"LEDGER_DATABASE_URL": at.service_url, "LEDGER_DATA_DIR": str(at.folder / "service")}
        client = _Client(stack.enter_context(serving("service.app:create_app", "--factory", **environment)), at.key)
        random = Random(2022)
        long = _write(client, random, [LONG_EVENTS] * (LONG_CONTRACTS + FIRST_QUESTIONS))
        short = _write(client, random, [SHORT_EVENTS] * SHORT_CONTRACTS)
        at.vacuum()
        return _measure(at, client, random, long, short)


def _measure(at: Stand, client: _Client, random: Random, long: list[_Written], short: list[_Written]) -> bool:
    unasked, long = long[:FIRST_QUESTIONS], long[FIRST_QUESTIONS:]

    def past(contracts: list[_Written], reads: int) -> list[float]:
        chosen = (random.choice(contracts) for _ in range(reads))
        return [client.seconds(contract.contract_id, **_times(random, contract)) for contract in chosen]

    def now(reads: int) -> list[float]:
        return [client.seconds(random.choice(short).contract_id) for _ in range(reads)]

    for contracts in (long, short):
        past(contracts, WARM_UP_READS)
    now(WARM_UP_READS)
    first = [client.seconds(contract.contract_id, **_times(random, contract)) for contract in unasked]
    took = past(long, READS)
    pairs = [(median(past(short, READS // 10)), median(now(READS // 10))) for _ in range(5)]
    ratio = median(then / current for then, current in pairs)
    p99 = quantiles(took, n=100)[98] * 1_000
    say(f"\nhistory: contracts of {LONG_EVENTS} and of {SHORT_EVENTS} events, one client, on {at.measured_on}")
    say(f"  {LONG_EVENTS} events at any times: median {median(took) * 1_000:.1f} ms, p99 {p99:.1f} ms, longest {max(took) * 1_000:.1f} ms")
    say(f"  the first question about each of {FIRST_QUESTIONS}: median {median(first) * 1_000:.1f} ms, longest {max(first) * 1_000:.1f} ms")
    say(f"  {SHORT_EVENTS} events: {pairs[0][0] * 1_000:.2f} ms at any times, {pairs[0][1] * 1_000:.2f} ms now")
    say(f"past read p99, {LONG_EVENTS} events: {p99:.1f} ms")
    say(f"past read / current read, {SHORT_EVENTS} events: {ratio:.2f}")
    if p99 > MOST_MILLISECONDS or ratio > MOST_RATIO:
        say(f"  above {MOST_MILLISECONDS} ms, or above {MOST_RATIO:.1f}")
    return p99 <= MOST_MILLISECONDS and ratio <= MOST_RATIO


def _times(random: Random, contract: _Written) -> Json:
    """Some of the times that a contract can be told for, at least one."""
    asked: Json = {
        "effective_on": _some_day(random),
        "published_by": _some_day(random),
        "known_position": random.choice(contract.positions),
    }
    names = random.sample(sorted(asked), random.randint(1, 3))
    return {name: asked[name] for name in names}


def _some_day(random: Random) -> str:
    return (_FIRST_ON + timedelta(random.randrange(_DAYS))).isoformat()


def _write(client: _Client, random: Random, sizes: list[int]) -> list[_Written]:
    written = []
    with progress("writing the contracts", sum(sizes)) as advance:
        for number, size in enumerate(sizes):
            written.append(_write_one(client, random, size))
            advance(sum(sizes[: number + 1]))
    return written


def _write_one(client: _Client, random: Random, size: int) -> _Written:
    opening = {"effective_on": _FIRST_ON.isoformat(), "source": _source(random, _FIRST_ON.isoformat()), "data": _OPENING}
    receipt = client.append("/reported", opening)
    contract = _Written(receipt["contract_id"])
    _keep(contract, [opening], receipt)
    contents = _contents(random)
    while len(contract.sent) < size:
        # A correction names an event that has an id, so each request has those of the requests before it to choose from.
        count = min(_ACT_EVERY, size - len(contract.sent))
        request = [next(contents) for _ in range(count - 1)]
        request.append(_act(random, contract) if len(contract.sent) >= _ACT_EVERY else next(contents))
        _keep(contract, request, client.append(f"/{contract.contract_id}/events", {"events": request}))
    return contract


def _keep(contract: _Written, sent: list[Json], receipt: Json) -> None:
    contract.sent += sent
    contract.event_ids += [event["event_id"] for event in receipt["events"]]
    contract.positions += [event["position"] for event in receipt["events"]]


def _act(random: Random, contract: _Written) -> Json:
    """A correction of a delivery or a note that was recorded, or a void of one that no other act names."""
    free = [n for n, event in enumerate(contract.sent) if event.get("event_type") in ("delivery.recorded", "note.added")]
    number = random.choice(free)
    target, event = contract.event_ids[number], contract.sent[number]
    contract.sent[number] = {**event, "event_type": "acted on"}
    source = _source(random, _some_day(random))
    if random.random() < 0.3:
        return {"event_type": "event.voided", "source": source, "data": {"target": target, "reason": "recorded twice"}}
    return {
        "event_type": "event.corrected",
        "source": source,
        "data": {"target": target, "data": event["data"], "effective_on": _some_day(random)},
    }


def _contents(random: Random) -> Iterator[Json]:
    """Events of a contract, without end; the signing comes first, all others at any days."""
    yield _event(random, "contract.signed", {"signed_by": "2022-08-01"}, "2022-08-01")
    number, stated_on = 0, ""
    while True:
        number += 1
        on = _some_day(random)
        if number % 20 == 3 and number < 500:
            stated_on = on
            yield _event(random, "figure.stated", {"figure": _figure(f"f-{number}", random)}, on)
        elif number % 20 == 7 and number < 500:
            data = {"replaces": f"f-{number - 4}", "value": _figure(f"f-{number}", random), "reason": "quantity"}
            yield _event(random, "value.revised", data, max(on, stated_on))
        elif number % 20 == 11:
            data = {"milestone_id": f"m-{number}", "title": "A step", "due_on": "2027-01-01"}
            yield _event(random, "milestone.scheduled", data, on)
        elif number % 3:
            data = {"delivery_id": f"d-{number}", "item_id": "cells", "quantity": "1200", "unit": "EA", "delivered_on": on}
            yield _event(random, "delivery.recorded", data, on)
        else:
            yield _event(random, "note.added", {"text": "The press repeats its estimate."}, on)


def _event(random: Random, event_type: str, data: Json, on: str) -> Json:
    return {"event_type": event_type, "effective_on": on, "source": _source(random, on), "data": data}


def _figure(name: str, random: Random) -> Json:
    amount = f"{random.randint(995, 1005)}000000000"
    known = {"figure_id": name, "amount": amount, "currency": "KRW", "basis": "reported", "bound": "about", "scope": "total"}
    return {**known, "note": "may rise: the buyer may order more"}


def _source(random: Random, on: str) -> Json:
    """Half of the events were published on their own day, the others later."""
    later = (date.fromisoformat(on) + timedelta(random.choice((0, 30)))).isoformat()
    return {"kind": "filing", "name": "LG Energy Solution", "published_on": later}
