"""The service as `make run` starts it, for pages whose blocks are pasted."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.servers import ROOT, wait_for

START_SECONDS: Final = 90
STOP_SECONDS: Final = 60


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | more


class Served:
    """A running `contract-ledger serve`: where it is, and how to get in."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.key = (folder / "api-key").read_text().strip()

    def paste(self, pasted: list[str]) -> list[str]:
        """What each block prints, pasted one after the other into one bash."""
        mark = f"@@{secrets.token_hex(8)}"
        script = "".join(f"{block}\necho {mark}\n" for block in pasted)
        settings = environment(LEDGER_URL=self.url, LEDGER_DATA_DIR=str(self.folder), NO_PROXY="127.0.0.1")
        ran = subprocess.run(["bash", "-euo", "pipefail"], input=script, capture_output=True, text=True, check=False, env=settings)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout[-2_000:]
        return ran.stdout.split(f"{mark}\n")[:-1]

    def events(self) -> int:
        """How many events the ledger `main` has."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return len(httpx.get(f"{self.url}/v1/ledgers/main/events?limit=500", headers=headers, trust_env=False).json()["items"])


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """The service as `make run` starts it, on a port that the system chose."""
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--port", "0"],
            cwd=ROOT,
            env=environment(LEDGER_DATA_DIR=str(folder / "data")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def address() -> re.Match[str] | None:
        assert process.poll() is None, said.read_text()
        return re.search(r"serves at (http://\S+:\d+)", said.read_text())

    try:
        yield Served(folder / "data", wait_for(address, "the service says where it is", START_SECONDS)[1])
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
