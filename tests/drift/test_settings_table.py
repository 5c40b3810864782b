"""README's table of settings says what settings.py says: every variable, and the default of each."""

import re
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from service.settings import Settings

README = Path(__file__).parents[2] / "README.md"
_DEFAULT = re.compile(r"Default (.+?)(?:\.(?: |$)|$)")


def table() -> dict[str, dict[str, str]]:
    """The table whose rows name LEDGER_* variables: for each variable its cells, by the heading of their column."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in README.read_text().splitlines() if line.startswith("|")
    ]
    found: dict[str, dict[str, str]] = {}
    heading: list[str] = []
    for before, row in zip([[], *rows], rows, strict=False):
        if all(re.fullmatch(r":?-+:?", cell) for cell in row):
            heading = [cell.lower() for cell in before]
        elif variable := re.fullmatch(r"`(LEDGER_[A-Z_]+)`", row[0]):
            assert variable[1] not in found, f"{variable[1]} stands twice"
            found[variable[1]] = dict(zip(heading, row, strict=True))
    return found


def default_text(setting: Field[Any]) -> str:
    """The default as the table has to say it: the value, or for what depends on the account the words of the meaning; else nothing."""
    if setting.default is not None:
        return str(setting.default)
    stated = _DEFAULT.search(setting.metadata["meaning"])
    return stated[1] if stated else ""


def plain(text: str) -> str:
    """A cell without its marks: no quotes, no separators within numbers, and a dash for nothing."""
    bare = text.replace("`", "").strip()
    return "" if bare in {"-", "–", "—", "none"} else re.sub(r"(?<=\d)[,_](?=\d{3})", "", bare)


def as_it_should_be() -> str:
    """The table, to be pasted."""
    rows = [f"| `{s.metadata['variable']}` | {s.metadata['meaning']} | {default_text(s) or '–'} |" for s in fields(Settings)]
    return "\n".join(["", "| Variable | Meaning | Default |", "| --- | --- | --- |", *rows])


def test_the_readme_lists_every_setting_and_no_other() -> None:
    assert set(table()) == {setting.metadata["variable"] for setting in fields(Settings)}, as_it_should_be()


def test_the_readme_states_every_default() -> None:
    stated = {variable: plain(row.get("default", "(no column Default)")) for variable, row in table().items()}
    assert stated == {setting.metadata["variable"]: plain(default_text(setting)) for setting in fields(Settings)}, as_it_should_be()
