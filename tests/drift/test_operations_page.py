"""docs/operations.md lists every operation once, by the name that clients have for it, with the right that it takes."""

import re
from pathlib import Path
from typing import Final

from service.api.operations_page import operations_page
from tests.api.documented import operations
from tests.api.test_access import EITHER_RIGHT, PRIVATE, right_for

PAGE: Final = Path(__file__).parents[2] / "docs" / "operations.md"
ROW: Final = re.compile(r"^\| `(\w+)` \| `([A-Z]+) ([^`]+)` \| ([^|]+) \|", re.MULTILINE)


def test_the_committed_page_says_what_the_code_says() -> None:
    assert PAGE.read_text() == operations_page(), "docs/operations.md says something else than the code: run `make generate`"


def test_the_page_has_every_operation_once() -> None:
    shown = [(name, method, path) for name, method, path, _ in ROW.findall(operations_page())]
    assert sorted(shown) == sorted((known.operation_id, known.method, known.path) for known in operations())


def test_the_page_names_the_right_that_an_operation_takes() -> None:
    shown = {name: re.findall(r"`([a-z:]+)`", right) for name, _, _, right in ROW.findall(operations_page())}
    for operation in PRIVATE:
        wanted = right_for(operation)
        named = shown.pop(operation.operation_id)
        assert named == ([wanted] if wanted else []) or (operation.operation_id in EITHER_RIGHT and "audit:read" in named)
    assert set().union(*shown.values()) == set()
