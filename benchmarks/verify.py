"""How fast `verify` replays a whole ledger, and in how much memory. Run as a module it is the process that is measured."""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from benchmarks.load import Plan, load
from benchmarks.mixture import TEN_EVENTS
from benchmarks.report import Advance, progress, say
from benchmarks.stand import LEDGER, ROOT, Stand, resident_bytes, settled_position, stand

LEAST_RATE = 100_000
MOST_BYTES = 500_000_000
EVENTS_A_CONTRACT = sum(len(request) for request in TEN_EVENTS)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a verify found and took."""

    events: int
    contracts: int
    seconds: float
    difference: str | None
    peak_bytes: int


def verify_rate(events: int, keep: Path | None) -> bool:
    """Build the ledger, or take the one that was kept, and verify it; whether it was quick and small enough."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with stand(keep) as at:
        build(at, events)
        found = replayed(at, events)
        measured_on = at.measured_on
    if found.difference or found.events != events:
        raise SystemExit(f"verify read {found.events} of {events} events and found: {found.difference}")
    rate = found.events / found.seconds
    say(f"\nverify: {events} events in {found.contracts} contracts, on {measured_on}")
    say(f"verify rate: {rate:.0f} events/s ({found.seconds:.1f} s)")
    say(f"verify peak memory: {found.peak_bytes / 1e6:.0f} MB")
    if rate < LEAST_RATE or found.peak_bytes > MOST_BYTES:
        say(f"  slower than {LEAST_RATE} events/s, or more than {MOST_BYTES / 1e6:.0f} MB")
    return rate >= LEAST_RATE and found.peak_bytes <= MOST_BYTES


def build(at: Stand, events: int) -> None:
    """Fill the ledger with contracts of ten events, unless it was kept with them."""
    there = settled_position(at)
    if there == events:
        return
    if there:
        raise SystemExit(f"The kept ledger has {there} events, not {events}: choose another folder, or remove it.")
    plan = Plan(at.ledger, at.principal_id, events // EVENTS_A_CONTRACT, TEN_EVENTS, datetime.now(UTC) - timedelta(hours=2))
    with progress("building the ledger", events) as advance:
        load(at.service_url, plan, advance)
    at.build_trees()
    at.vacuum()


def replayed(at: Stand, events: int) -> Replayed:
    """Verify the ledger by a process of its own, whose memory is watched."""
    command = [sys.executable, "-m", "benchmarks.verify", at.service_url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process, progress("verify", events) as advance:
        memory = Memory(process.pid)
        assert process.stdout is not None
        try:
            told = _follow(process.stdout, advance)
        finally:
            peak = memory.stop()
            process.terminate()
    if told is None:
        raise SystemExit("verify ended without a verdict.")
    return Replayed(**told, peak_bytes=peak)


def _follow(lines: IO[str], advance: Advance) -> dict[str, Any] | None:
    for line in lines:
        told: dict[str, Any] = json.loads(line)
        if "done" not in told:
            return told
        advance(told["done"])
    return None


class Memory:
    """Watches the resident memory of a process and its descendants, ten times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self._peak = max(self._peak, resident_bytes(self._pid))


def _main(url: str) -> None:
    from service.audit.replay import verify

    verdict = verify(url, LEDGER, lambda done, *_: print(json.dumps({"done": done}), flush=True))
    found = None if verdict.difference is None else str(verdict.difference)
    told = {"events": verdict.events, "contracts": verdict.contracts, "seconds": verdict.seconds, "difference": found}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
