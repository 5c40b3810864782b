"""Every code block of the guides runs, in the order of its page, and prints what the block after it shows."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import quote

import jsonschema_rs
import pytest

from service.embedded.binaries import wheel_binaries
from tests.api.documented import document
from tests.conftest import Server
from tests.drift.served import Served, environment
from tests.servers import ROOT

DOCS: Final = ROOT / "docs"
BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK: Final = "@@ the end of a block @@"
PAGE_SECONDS: Final = 120


@dataclass(frozen=True)
class Block:
    """A block of code, and what it prints as the page shows it; None where the page shows nothing."""

    code: str
    shown: str | None


def blocks(page: str) -> tuple[str, list[Block]]:
    """The language of a page, which has one, and its blocks. A block of `text` is what the one before it prints; requests and samples
    are not run."""
    found = [(language, code) for language, code in BLOCK.findall((DOCS / page).read_text()) if language not in ("", "json")]
    languages = {language for language, _ in found} - {"text"}
    assert len(languages) == 1, f"{page} speaks {languages}"
    assert not any(one == another == "text" for (one, _), (another, _) in pairwise(found))
    outputs = [text if language == "text" else None for language, text in [*found[1:], ("", "")]]
    return languages.pop(), [Block(code, shown) for (language, code), shown in zip(found, outputs, strict=True) if language != "text"]


def pasted(language: str, code: list[Block]) -> tuple[list[str], str]:
    """The command that runs blocks, and what it is given to read."""
    if language in ("bash", "sh"):
        return ["bash", "-euo", "pipefail"], "".join(f"{block.code}\necho '{MARK}'\n" for block in code)
    assert language == "python"
    return [sys.executable, "-"], "".join(f"{block.code}\nprint({MARK!r}, flush=True)\n" for block in code)


def as_shown(printed: str, shown: str) -> bool:
    """Whether what was printed is what a page shows: line by line, with `…` for anything in a line, or alone in one for any lines."""
    patterns = [r"(.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r" *\n" for line in shown.splitlines()]
    return re.fullmatch("".join(patterns), printed) is not None


def run(command: list[str], script: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command in an empty folder, given a script. What it has left running when it ends, or its time is up, is ended."""
    path = f"{Path(sys.executable).parent}:{wheel_binaries()}:/usr/local/bin:/usr/bin:/bin"
    known = environment(PATH=path, HOME=str(folder), NO_PROXY="127.0.0.1", COLUMNS="200", **settings)
    with (folder / "script").open("w+") as given, (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        given.write(script)
        given.seek(0)
        process = subprocess.Popen(command, stdin=given, stdout=out, stderr=err, env=known, cwd=folder, start_new_session=True)
        try:
            process.wait(PAGE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    return subprocess.CompletedProcess(command, process.wait(), (folder / "out").read_text(), (folder / "err").read_text())


def check(code: list[Block], ran: subprocess.CompletedProcess[str]) -> None:
    """That every block ran to its end, and printed what the page shows."""
    assert ran.returncode == 0, ran.stdout[-2_000:] + ran.stderr[-2_000:]
    for block, printed in zip(code, ran.stdout.split(f"{MARK}\n")[:-1], strict=True):
        assert block.shown is None or as_shown(printed, block.shown), f"{block.code}\nprinted\n{printed}"


@contextmanager
def databases(server: Server) -> Iterator[dict[str, str]]:
    """What the page calls the roles and databases, and what they are called here: made as the README says, and gone at the end."""
    suffix = secrets.token_hex(6)
    names = {name: f"{name}_{suffix}" for name in ("ledger_owner", "ledger_service", "ledger_drill", "ledger")}
    try:
        server.execute("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'choose-one'", names["ledger_owner"])
        for name in ("ledger", "ledger_drill"):
            server.execute("CREATE DATABASE {} OWNER {}", names[name], names["ledger_owner"])
        yield names
    finally:
        for name in ("ledger", "ledger_drill"):
            server.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", names[name])
        for name in ("ledger_service", "ledger_owner"):
            server.execute("DROP ROLE IF EXISTS {}", names[name])


def as_here(text: str, server: Server, names: dict[str, str], folder: Path) -> str:
    """The page with the names, addresses and folders of this test in place of its own."""
    text = re.sub(r"(db\.example|\$OWNER)/(\w+)", lambda url: f"{url[1]}/{names[url[2]]}", text)
    text = re.sub(r"//(ledger_\w+):", lambda role: f"//{names[role[1]]}:", text)
    http, metrics = free_ports(2)
    for theirs, ours in (
        ("db.example", quote(server.socket_folder, safe="")),
        ("/var/lib/contract-ledger", str(folder / "data")),
        ("/srv/contract-ledger-kept", str(folder / "kept")),
        ("8000", str(http)),
        ("9464", str(metrics)),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    return text


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def test_the_page_for_production_works_as_it_is_pasted(server: Server, tmp_path: Path) -> None:
    language, code = blocks("production.md")
    command, script = pasted(language, code)
    with databases(server) as names:
        check(code, run(command, as_here(script, server, names, tmp_path), tmp_path))


@pytest.mark.parametrize("page", ["quickstart.md", "appending.md", "times.md", "following.md", "imports.md", "replays.md", "ocds.md"])
def test_a_guide_works_as_it_is_pasted(served: Served, page: str, tmp_path: Path) -> None:
    access = {"LEDGER_URL": served.url, "LEDGER_DATA_DIR": str(served.folder), "XDG_STATE_HOME": str(served.folder.parent / "state")}
    demo = run(["contract-ledger", "demo"], "", tmp_path, **access)
    assert demo.returncode == 0, demo.stderr
    language, code = blocks(page)
    key = {"LEDGER_API_KEY": served.key} if language == "python" else {}
    check(code, run(*pasted(language, code), tmp_path, **access, **key))


def test_what_a_page_shows_is_compared_line_by_line() -> None:
    assert as_shown("a 1\nb\n", "a …\nb\n")
    assert not as_shown("a 1\nb\n", "a …\n")
    assert not as_shown("a 1\nc\n", "a …\nb\n")
    assert as_shown("b\n", "…\nb\n")
    assert as_shown("a\na\nb\n", "…\nb\n")
    assert not as_shown("b\na\n", "…\nb\n")


@pytest.mark.parametrize(
    ("page", "schema"),
    [
        ("erasure.md", "EventErasedRequest"),
        ("imports.md", None),
        ("replays.md", "StartReplayRequest"),
        ("sealed.md", "FigureStatedRequest"),
    ],
)
def test_a_request_that_a_page_shows_is_such_as_the_document_allows(page: str, schema: str | None) -> None:
    shown = [json.loads(code) for language, code in BLOCK.findall((DOCS / page).read_text()) if language == "json"]
    assert shown
    for body in shown:
        # A line names its contract and its type beside what the path of that type takes.
        named = schema or "".join(map(str.title, re.split("[._]", body.pop("event_type")))) + "Request"
        allowed = {"$ref": f"#/components/schemas/{named}", "components": document()["components"]}
        jsonschema_rs.Draft202012Validator(allowed, validate_formats=True).validate({n: m for n, m in body.items() if n != "contract"})


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\((?:\.\./)?([\w.-]+)\)", (DOCS / "README.md").read_text()))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= linked
