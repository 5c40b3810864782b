"""`python -m benchmarks.bundle [EVENTS]`: how much memory a bundle takes to be made, verified, folded and restored, in a process each.

Measured with half of the events and with all of them (200,000): exits 1 where a step grows by more than it may for each contract more.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import psycopg

from benchmarks.load import Plan, load
from benchmarks.mixture import TEN_EVENTS
from benchmarks.report import progress, say
from benchmarks.stand import LEDGER, ROOT, Stand, resident_bytes, serving, stand
from benchmarks.verify import EVENTS_A_CONTRACT, Memory
from service.audit import verify
from service.log.signing import new_seed

SHARES = (2, 1)
"""The ledger is measured with half of its events, and with all; both are more than one process rebuilds alone."""
MOST_BYTES_A_CONTRACT = 2_000
APP = "service.app:create_app"


class Taken(NamedTuple):
    """What a step took."""

    seconds: float
    peak_bytes: int


def memory(events: int) -> bool:
    """Measure; whether no step grows by more than MOST_BYTES_A_CONTRACT for each contract more."""
    sizes = [events // share // EVENTS_A_CONTRACT * EVENTS_A_CONTRACT for share in SHARES]
    with ExitStack() as stack:
        found = [_measure(stack.enter_context(stand()), stack.enter_context(stand()), size) for size in sizes]
    small, large = found
    contracts = (sizes[1] - sizes[0]) // EVENTS_A_CONTRACT
    good = True
    say(f"\nbundles of {sizes[0]:,} and {sizes[1]:,} events, {EVENTS_A_CONTRACT} a contract")
    for step, taken in large.items():
        grown = (taken.peak_bytes - small[step].peak_bytes) / contracts
        good = good and grown <= MOST_BYTES_A_CONTRACT
        rate = sizes[1] / taken.seconds
        peaks = " and ".join(f"{one[step].peak_bytes / 1e6:.0f}" for one in found)
        say(f"{step}: {rate:,.0f} events/s, peak memory {peaks} MB, {grown:,.0f} bytes a contract more")
    return good


def _measure(at: Stand, other: Stand, events: int) -> dict[str, Taken]:
    plan = Plan(at.ledger, at.principal_id, events // EVENTS_A_CONTRACT, TEN_EVENTS, datetime.now(UTC) - timedelta(hours=2))
    with progress("building the ledger", events) as advance:
        load(at.service_url, plan, advance)
    at.build_trees()
    at.vacuum()
    file = at.folder / "bundle.ndjson"
    made, key = _fetched(at, file)
    program = at.folder / "verify.py"
    program.write_bytes(Path(verify.__file__).read_bytes())
    service = [sys.executable, "-m", "service"]
    # The other database has a ledger of the same name, which is empty: it is another.
    _forget_ledger(other)
    return {
        "made": made,
        "verified": _run([sys.executable, "-I", "-S", str(program), str(file), "--key", key]),
        "folded": _run([*service, "fold", str(file)]),
        "restored": _run([*service, "restore", str(file), "--key", key], LEDGER_DATABASE_URL=other.service_url),
    }


def _fetched(at: Stand, file: Path) -> tuple[Taken, str]:
    """The whole ledger's bundle in a file, what it took the service more than it had, and the verifier key."""
    signs = {"LEDGER_SIGNING_KEY": new_seed(), "LEDGER_CHECKPOINT_STORE": str(at.folder / "kept")}
    environment = {"LEDGER_DATABASE_URL": at.service_url, "LEDGER_DATA_DIR": str(at.folder / "service"), **signs}
    headers = {"Authorization": f"Bearer {at.key}"}
    with serving(APP, "--factory", **environment) as url, httpx.Client(base_url=f"{url}/v1/ledgers/{LEDGER}", headers=headers) as api:
        (pid,) = (child.pid for child in psutil.Process().children() if APP in child.cmdline())
        key = str(api.get("/log/keys").raise_for_status().json()["keys"][0]["verifier_key"])
        before, began, watched = resident_bytes(pid), time.monotonic(), Memory(pid)
        with api.stream("GET", "/bundle", params={"sealed": "true"}, timeout=None) as answer, file.open("wb") as target:
            for piece in answer.raise_for_status().iter_bytes():
                target.write(piece)
        return Taken(time.monotonic() - began, watched.stop() - before), key


def _run(command: Sequence[str], **environment: str) -> Taken:
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        watched = Memory(process.pid)
        status = process.wait()
        peak = watched.stop()
    if status:
        raise SystemExit(f"{command[:4]} ended with {status}")
    return Taken(time.monotonic() - began, peak)


def _forget_ledger(at: Stand) -> None:
    with psycopg.connect(at.superuser_url, autocommit=True) as connection:
        connection.execute("UPDATE ledgers SET name = 'other' WHERE name = %s", [LEDGER])


if __name__ == "__main__":
    sys.exit(0 if memory(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000) else 1)
