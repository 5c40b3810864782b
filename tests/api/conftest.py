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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest 9.2 schemathesis gives the tests of all operations one node id; xdist and --last-failed tell tests apart by theirs."""
    for item in items:
        label = getattr(item, "operation_label", None)
        if label is not None and label not in item.nodeid:
            item._id = item._id.with_params(label)
