"""What the tests of pages share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drift.served import Served, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A service of the page's own."""
    folder = Path(tempfile.mkdtemp(prefix="contract-ledger-pages-"))
    # As root, the account that runs the embedded server has to walk through.
    folder.chmod(0o755)
    try:
        with serving(folder) as service:
            yield service
    finally:
        shutil.rmtree(folder)
