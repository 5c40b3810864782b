"""Load by wrk: connections kept alive, each with one request in flight."""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import progress

CONNECTIONS = 64
SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Measured:
    """What wrk saw in one run. Its latencies count for a stalled connection also the requests that it could not send meanwhile."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def __str__(self) -> str:
        return f"{self.rate:7.0f} requests/s   p50 {self.p50_ms:6.1f} ms   p99 {self.p99_ms:6.1f} ms"


def program() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("The benchmarks make their load with wrk: install it (apt-get install wrk, brew install wrk) and run again.")
    return found


def run(what: str, address: str, seconds: int, *arguments: str) -> Measured:
    """A run of wrk; the arguments are load.lua's. SystemExit when a request was refused or got no answer."""
    command = [
        *(program(), "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s", "--timeout", "20s"),
        *("--script", str(SCRIPT), address, "--", *arguments),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait(process, what, seconds)
        finally:
            process.kill()
        output, errors = process.communicate()
    result = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if result is None or "WRONG" in errors:
        raise SystemExit(f"{what} failed:\n{output}{errors}")
    measured = Measured(**json.loads(result.removeprefix("RESULT ")))
    if measured.refused or measured.broken or not measured.requests:
        raise SystemExit(f"{what}: of {measured.requests} requests {measured.refused} were refused and {measured.broken} got no answer.")
    return measured


def _wait(process: subprocess.Popen[str], what: str, seconds: int) -> None:
    began = time.monotonic()
    with progress(what, seconds) as advance:
        while process.poll() is None:
            advance(time.monotonic() - began)
            time.sleep(0.1)
