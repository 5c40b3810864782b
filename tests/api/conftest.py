"""The service over HTTP: one for each module of tests, with the ledger `main`."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.running import RunningService, running
from tests.conftest import Database


@pytest.fixture(scope="module")
def service(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running(database, tmp_path_factory.mktemp("data")) as served:
        served.make_ledger("main")
        yield served


@pytest.fixture(scope="module")
def api(service: RunningService) -> Iterator[httpx.Client]:
    """Requests below the ledger `main`, with every right."""
    with service.client(service.admin, ledger="main") as client:
        yield client
