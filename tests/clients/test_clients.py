"""The clients that openapi-generator makes by the committed options compile, and play the case against the live service.

Each plays `play.*`: opens, appends with a key and If-Match, repeats, meets a 412 and reads its Problem, pages through a list, follows the
feed by long poll, reads what was known on two days, proves an event, and reads answers with types and members that are new to it.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.cli.case import EVENTS
from tests.api.bodies import REPORTED, note, open_contract, record
from tests.api.running import RunningService, running
from tests.clients.future import DATA, EVENT_TYPE, future_of
from tests.clients.toolchains import BUILDS, Missing, generate
from tests.conftest import Database
from tests.servers import ROOT

PLAYS: Final = Path(__file__).parent
PLAY_SECONDS: Final = 120
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPES: Final = [event_type for event_type, _ in EVENTS]


@dataclass(frozen=True)
class Clients:
    """The generated clients, and the service that they talk to."""

    folder: Path
    service: RunningService
    future: str

    def program(self, language: str, source: str, name: str) -> list[str]:
        """How to start a program, built with the client of its language. Without the toolchain the test is skipped, but for CI."""
        suffix, build = BUILDS[language]
        folder = self.folder / f"{name}-{language}"
        folder.mkdir()
        # Java wants the file to be called as its class.
        program = folder / f"{name.title() if language == 'java' else name}{suffix}"
        program.write_text(source)
        try:
            return build(self.folder / "build" / "clients" / language, program)
        except Missing as missing:
            if "CI" in os.environ:
                raise
            pytest.skip(f"the client in {language} is not built: {missing}")

    def access(self, ledger: str) -> dict[str, str]:
        case = self.folder / "case.json"
        case.write_text(json.dumps([{"event_type": event_type, "body": body} for event_type, body in EVENTS]))
        named = {"LEDGER_URL": self.service.url, "LEDGER_API_KEY": self.service.admin, "LEDGER_NAME": ledger}
        return os.environ | named | {"LEDGER_FUTURE_URL": self.future, "CASE": str(case), "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def clients(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("clients")
    try:
        generate(folder)
    except Missing as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(f"no client is generated: {missing}")
    with running(database, tmp_path_factory.mktemp("data")) as service, future_of(service.url) as future:
        yield Clients(folder, service, future)


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A program that runs, and is ended with the block."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def played(command: list[str], environment: dict[str, str], api: httpx.Client) -> dict[str, list[dict[str, Any]]]:
    """What a play says, by step. Once it follows the feed, a note is added."""
    said: dict[str, list[dict[str, Any]]] = {}
    with started(command, environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            told = json.loads(line)
            said.setdefault(told.pop("step"), []).append(told)
            if "following" in said and "followed" not in said:
                record(api, said["opened"][0]["contract_id"], "note.added", note("seen by whoever waits"))
        assert process.wait(PLAY_SECONDS) == 0, process.stderr.read()[-3_000:]
    return said


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", BUILDS)
def test_a_client_plays_the_case(clients: Clients, language: str) -> None:
    ledger = f"played-in-{language}"
    clients.service.make_ledger(ledger)
    command = clients.program(language, (PLAYS / f"play{BUILDS[language][0]}").read_text(), "play")
    with clients.service.client(clients.service.admin, ledger=ledger) as api:
        others = [open_contract(api, REPORTED) for _ in range(4)]
        said = played(command, clients.access(ledger), api)
        contract_id = said["opened"][0]["contract_id"]
        events = api.get(f"/contracts/{contract_id}/events").json()["items"]
        now = api.get(f"/contracts/{contract_id}").json()
    assert [event["event_type"] for event in events] == [*TYPES, "note.added"]
    assert said["opened"][0]["revision"] == 1
    assert said["played"] == [{"revision": 9, "same_again": True, "anomalies": []}]
    assert said["refused"] == [{"status": 412, "code": "stale-revision", "current_revision": 9}]
    assert said["listed"] == [{"pages": 3, "contracts": sorted([*others, contract_id])}]
    assert said["following"] == [{"event_types": TYPES}]
    assert said["followed"] == [{"event_types": ["note.added"], "text": "seen by whoever waits"}]
    best = {"amount": "1000000000000", "currency": "KRW"}
    assert said["past"] == [
        {"published_by": "2022-07-06", "status": "negotiating", "flagged": 0} | best,
        {"published_by": "2024-01-26", "status": "delivering", "flagged": 1} | best,
    ]
    assert said["proved"] == [{"included": True, "forged": False}]
    future = {"event_type": EVENT_TYPE, "data": DATA, "known": "contract.reported", "title": now["state"]["title"]}
    assert said["future"] == [future]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", BUILDS)
def test_the_program_of_the_page_prints_what_the_page_shows(clients: Clients, language: str) -> None:
    blocks = dict(BLOCK.findall((ROOT / "docs" / "clients.md").read_text()))
    ledger = f"shown-in-{language}"
    clients.service.make_ledger(ledger)
    command = clients.program(language, blocks[language], "snippet")
    ran = subprocess.run(command, env=clients.access(ledger), capture_output=True, text=True, check=False, timeout=PLAY_SECONDS)
    assert (ran.stdout, ran.returncode) == (blocks["text"], 0), ran.stderr[-3_000:]
