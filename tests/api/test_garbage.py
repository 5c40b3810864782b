"""What a request leaves behind is gone with its answer. What holds itself would stay until the collector finds it, which stops the whole
process for the time of a hundred requests."""

import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.bodies import REPORTED, open_contract
from tests.api.running import RunningService

TIMES = 40


@contextmanager
def nothing_collected() -> Iterator[list[Any]]:
    """What is left for the collector by the time the block ends."""
    left: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "contracts/reported", 201),
        ("POST", "contracts/reported?validate_only=true", 200),
        ("GET", "contracts/{contract_id}", 200),
        ("HEAD", "contracts/{contract_id}", 200),
        ("GET", "contracts/{contract_id}?effective_on=2023-01-01", 200),
        ("GET", "contracts", 200),
        ("GET", "events", 200),
        ("GET", "export", 200),
        ("GET", "log/tile/0/000.p/1", 200),
        ("GET", "contracts/{contract_id}/events", 200),
        ("GET", "contracts/{contract_id}/ocds", 200),
        ("GET", "commitments?by=year", 200),
        ("GET", "deadlines", 200),
        ("GET", "parties", 200),
        ("GET", "log/checkpoint", 200),
        ("GET", "bundle", 200),
        ("GET", "contracts/none", 404),
        ("GET", "contracts?limit=none", 422),
        ("POST", "contracts/{contract_id}/contract-signed", 422),
        ("PUT", "contracts", 405),
    ],
)
def test_an_answer_leaves_nothing_to_the_collector(service: RunningService, api: httpx.Client, method: str, path: str, status: int) -> None:
    address = f"/v1/ledgers/main/{path}".format(contract_id=open_contract(api))
    with closing(HTTPConnection("127.0.0.1", service.port)) as connection:  # whose own requests leave nothing

        def ask() -> int:
            key = {"Idempotency-Key": str(uuid4())} if method == "POST" and "validate_only" not in path else {}
            headers = key | {"Authorization": f"Bearer {service.admin}", "Content-Type": "application/json"}
            connection.request(method, address, json.dumps(REPORTED) if method == "POST" else None, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        ask()
        with nothing_collected() as left:
            assert {ask() for _ in range(TIMES)} == {status}
    assert len(left) < TIMES, Counter(type(one).__qualname__ for one in left).most_common(9)
