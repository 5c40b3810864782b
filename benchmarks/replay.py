"""How fast a log is replayed, beside its floor: the same rows copied out and taken apart, and nothing done with them.

Run as a module it is the process that is measured.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.mixture import TEN_EVENTS
from benchmarks.others import SCHEMA, notification_rates
from benchmarks.report import progress, say
from benchmarks.stand import LEDGER, ROOT, Stand, stand
from benchmarks.verify import EVENTS_A_CONTRACT, build, replayed
from service.audit.book import Difference, open_book, open_connection
from service.audit.crew import Crew
from service.audit.replay import verify
from service.audit.span import check_span, read_span
from service.audit.walk import Walk, spans_of
from service.database import Database
from service.log.proofs import inclusion

LEAST_WALK = 200_000
LEAST_WHOLE = 120_000
LEAST_GAIN = 1.6
LEAST_RATIO = 5
MOST_BYTES_A_CONTRACT = 200
MOST_PROOF_MS = 5.0
PROOFS = 500
SMALLER = 5
"""How many times as many events the larger ledger has, beside which memory is held."""
OTHER_CONTRACTS = 5_000
MANY = 1_000


def replay(events: int, keep: Path | None) -> bool:
    """Build the ledger, or take the one that was kept, and replay it; whether all bars are met."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    smaller = events // SMALLER // EVENTS_A_CONTRACT * EVENTS_A_CONTRACT
    with stand() as at:
        build(at, smaller)
        small = replayed(at, smaller)
    with stand(keep) as at:
        build(at, events)
        say(f"\nreplay: {events} events in {events // EVENTS_A_CONTRACT} contracts, on {at.measured_on}")
        good = _rates(at, events)
        large = replayed(at, events)
        good = _is(_proof_ms(at, events), "proof at the head, p99 in ms", most=MOST_PROOF_MS) and good
        grown = (large.peak_bytes - small.peak_bytes) / (large.contracts - small.contracts)
        say(f"verify peak memory: {small.peak_bytes / 1e6:.0f} MB at {smaller} events, {large.peak_bytes / 1e6:.0f} MB at {events}")
        return _is(grown, "verify memory a further contract, in bytes", most=MOST_BYTES_A_CONTRACT) and good


def _rates(at: Stand, events: int) -> bool:
    floor, walk, walk_on_two, whole, whole_on_two = (
        _rate(at, events, what, processes) for what, processes in (("floor", 1), ("walk", 1), ("walk", 2), ("whole", 1), ("whole", 2))
    )
    say(f"floor (COPY, rows taken apart): {floor:.0f} events/s")
    apart = 1 / (1 / whole - 1 / walk)
    good = [
        _is(walk, "walk (hash, chain, tree, digests), one process, events/s", least=LEAST_WALK, floor=floor),
        _is(whole, "with fold and comparison, one process, events/s", least=LEAST_WHOLE, floor=floor),
        _is(walk_on_two / walk, "walk on two processes, times one", least=LEAST_GAIN),
        _is(whole_on_two / whole, "with fold and comparison on two processes, times one", least=LEAST_GAIN),
    ]
    say(f"fold and comparison by themselves, one process: {apart:.0f} events/s")
    of_ten, of_many = _other_rates(at)
    say(f"eventsourcing, its notification log read and decoded in sections of 10, its own: {of_ten:.0f} events/s")
    say(f"eventsourcing, the same in sections of {MANY}: {of_many:.0f} events/s")
    good.append(_is(walk / of_ten, "walk, times eventsourcing in its own sections", least=LEAST_RATIO))
    _is(walk / of_many, f"walk, times eventsourcing in sections of {MANY}")
    return all(good)


def _is(figure: float, what: str, *, least: float | None = None, most: float | None = None, floor: float | None = None) -> bool:
    """Say a figure, beside its floor and its bar."""
    beside = f" ({figure / floor:.2f} of the floor)" if floor else ""
    good = (least is None or figure >= least) and (most is None or figure <= most)
    bar = "" if good else f"  below {least}" if least is not None else f"  above {most}"
    say(f"{what}: {figure:.0f}{beside}{bar}" if abs(figure) >= 100 else f"{what}: {figure:.2f}{beside}{bar}")
    return good


def _rate(at: Stand, events: int, what: str, processes: int) -> float:
    """Events a second, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.replay", at.service_url, what, str(processes)]
    with progress(f"{what}, {processes} process(es)", events):
        told = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    if told["found"]:
        raise SystemExit(f"The replay found: {told['found']}")
    return events / float(told["seconds"])


def _other_rates(at: Stand) -> list[float]:
    bodies = [(dict(request[0].data), dict(request[0].source)) for round_ in TEN_EVENTS for request in round_]
    with psycopg.connect(at.superuser_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        with progress("eventsourcing", OTHER_CONTRACTS * len(bodies)) as advance:
            rates = notification_rates(at.superuser_url, OTHER_CONTRACTS, bodies, (10, MANY), advance)
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    return rates


def _proof_ms(at: Stand, events: int) -> float:
    """How long a proof of any event takes, at the 99th of a hundred."""

    async def timed() -> list[float]:
        database, taken = Database(at.service_url, 2), []
        await database.open()
        for index in random.Random(1).choices(range(events), k=PROOFS):
            began = time.perf_counter()
            await inclusion(database, at.ledger.ledger_id, index, events)
            taken.append(1_000 * (time.perf_counter() - began))
        await database.close()
        return taken

    return sorted(asyncio.run(timed()))[PROOFS * 99 // 100]


def _floor(url: str) -> None:
    with open_connection(url) as connection:
        book = open_book(connection, LEDGER)
        for span in spans_of(book):
            for _ in read_span(connection, book.ledger.ledger_id, span):
                pass


def _walk(url: str, processes: int) -> Difference | None:
    """Along the log as `verify` goes, without the fold."""
    with open_connection(url) as connection:
        book = open_book(connection, LEDGER)
    spans = spans_of(book)
    with Crew(url, book.head, processes) as crew, open_connection(url) as connection:
        walk = Walk(connection, book)
        for span, checked in zip(spans, crew.in_order(check_span, book, spans), strict=True):
            walk.join(span, checked)
        walk.end()
    return walk.difference


def _main(url: str, what: str, processes: str) -> None:
    def silent(*_: object) -> None:
        pass

    replays: dict[str, Callable[[], object]] = {
        "floor": lambda: _floor(url),
        "walk": lambda: _walk(url, int(processes)),
        "whole": lambda: verify(url, LEDGER, silent, int(processes)).difference,
    }
    began = time.perf_counter()
    found = replays[what]()
    print(json.dumps({"seconds": time.perf_counter() - began, "found": str(found) if found else None}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
