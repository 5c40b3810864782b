"""Every code block of the guides runs, in the order of its page, and prints what the block after it shows."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.drift.test_readme import Served, environment, serving
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
    """The language of a page, which has one, and its blocks. A block of `text` is what the one before it prints."""
    found = BLOCK.findall((DOCS / page).read_text())
    languages = {language for language, _ in found} - {"text"}
    assert len(languages) == 1, f"{page} speaks {languages}"
    assert not any(one == another == "text" for (one, _), (another, _) in zip(found, found[1:], strict=False))
    outputs = [text if language == "text" else None for language, text in [*found[1:], ("", "")]]
    return languages.pop(), [Block(code, shown) for (language, code), shown in zip(found, outputs, strict=True) if language != "text"]


def pasted(language: str, code: list[Block]) -> tuple[list[str], str]:
    """The command that runs blocks, and what it is given to read."""
    if language == "bash":
        return ["bash", "-euo", "pipefail"], "".join(f"{block.code}\necho '{MARK}'\n" for block in code)
    assert language == "python"
    return [sys.executable, "-"], "".join(f"{block.code}\nprint({MARK!r}, flush=True)\n" for block in code)


def as_shown(printed: str, shown: str) -> bool:
    """Whether what was printed is what a page shows: line by line, with `…` for anything."""
    lines, wanted = (text.rstrip("\n").split("\n") for text in (printed, shown))
    patterns = [".*".join(re.escape(part) for part in line.rstrip().split("…")) for line in wanted]
    return len(lines) == len(wanted) and all(re.fullmatch(pattern, line.rstrip()) for pattern, line in zip(patterns, lines, strict=True))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    folder = Path(tempfile.mkdtemp(prefix="contract-ledger-guides-"))
    # As root, the account that runs the embedded server has to walk through.
    folder.chmod(0o755)
    try:
        with serving(folder) as service:
            yield service
    finally:
        shutil.rmtree(folder)


def run(command: list[str], script: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    known = environment(PATH=path, HOME=str(folder), NO_PROXY="127.0.0.1", COLUMNS="200", **settings)
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False, env=known, cwd=folder, timeout=PAGE_SECONDS)


def check(code: list[Block], ran: subprocess.CompletedProcess[str]) -> None:
    """That every block ran to its end, and printed what the page shows."""
    assert ran.returncode == 0, ran.stdout[-2_000:] + ran.stderr[-2_000:]
    for block, printed in zip(code, ran.stdout.split(f"{MARK}\n")[:-1], strict=True):
        assert block.shown is None or as_shown(printed, block.shown), f"{block.code}\nprinted\n{printed}"


@pytest.mark.parametrize("page", ["quickstart.md", "appending.md", "times.md"])
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
