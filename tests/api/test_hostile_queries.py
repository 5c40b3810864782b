"""Whatever stands in a query parameter or in a place of a path: an answer that the document promises, in time, and never a 5xx.

The client holds every answer against the OpenAPI document; a status that an operation does not document fails there.
"""

from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import orjson
import pytest

from tests.api.bodies import SIGNED, event, open_contract
from tests.api.documented import Operation, document, operations
from tests.api.running import RunningService
from tests.servers import wait_for

VALUES: Final = [
    *("", "%00", "%FF", "%ED%A0%80", "%F0%9F%98%80", "%0D%0AX:y", "%25", "%27%3B--", "%5C", "*", "_", ":", "x:", ",", ",,", "a%2C" * 200),
    *("0", "-1", "1e999", "NaN", "9" * 5_000, "9223372036854775808", "2147483648", "1" + "0" * 28, "0.0000000000001", "null", "true", "[]"),
    *("0000-00-00", "2023-02-30", "0001-01-01", "9999-12-31", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00%2B23:59", "2023-Q5"),
    *("XXX", "XAU", "krw", "USD", "a" * 3_000),
]
SEGMENTS: Final = ["%00", "%FF", "%2e%2e", "%2F", "%ED%A0%80", "%F0%9F%98%80", "%0D%0A", "'", "%25", "*", ";", "a" * 5_000, "A" * 36]
BESIDE: Final = {"value_from": "currency=KRW", "value_to": "currency=KRW", "rate_on": "currency=USD", "revision": "currency=USD"}
READS: Final = [operation for operation in operations() if operation.method == "GET" and "{ledger}" in operation.path]


def parameters(operation: Operation) -> list[str]:
    """The names of an operation's query parameters."""
    known: dict[str, Any] = document()["components"].get("parameters", {})
    told = [part if "name" in part else known[part["$ref"].rpartition("/")[2]] for part in operation.documented.get("parameters", [])]
    return [part["name"] for part in told if part["in"] == "query"]


@pytest.fixture(scope="module")
def places(api: httpx.Client) -> dict[str, str]:
    contract_id = open_contract(api, SIGNED)
    event_id: str = api.get(f"/contracts/{contract_id}/events").json()["items"][0]["event_id"]
    import_id = str(uuid4())
    line = event({"text": "a note"}) | {"contract": contract_id, "event_type": "note.added"}
    sent = api.post("/imports", content=orjson.dumps(line), headers={"Idempotency-Key": import_id, "Content-Type": "application/x-ndjson"})
    assert sent.status_code == 200, sent.text
    replay_id = told_book(api)
    # No name of this machine's own leads to where deliveries may go.
    asked = api.post("/webhooks", json={"url": "https://localhost:1/"}, headers={"Idempotency-Key": "a webhook"})
    assert asked.status_code == 201, asked.text
    ids = {"contract_id": contract_id, "event_id": event_id, "import_id": import_id, "replay_id": replay_id}
    ids["webhook_id"] = asked.json()["webhook_id"]
    return {"ledger": "main", "party_id": "lges", "level": "0", "tile": "000.p/1", **ids}


def told_book(api: httpx.Client) -> str:
    """The id of a replay that has told a book."""
    asked = api.post("/replays", json={"kind": "book"}, headers={"Idempotency-Key": "a book"})
    assert asked.status_code == 202, asked.text
    address = f"/replays/{asked.json()['replay_id']}"
    wait_for(lambda: api.get(address).json()["status"] == "done", "the book is told")
    replay_id: str = asked.json()["replay_id"]
    return replay_id


@pytest.mark.parametrize("operation", READS, ids=lambda operation: operation.operation_id)
def test_any_value_of_any_parameter_is_answered_as_documented(
    service: RunningService, places: dict[str, str], operation: Operation
) -> None:
    with service.client(service.admin, follow_redirects=False) as client:
        for name in parameters(operation):
            for value in VALUES:
                answer = client.get(f"{operation.at(**places)}?{name}={value}&{BESIDE.get(name, '')}")
                assert answer.status_code < 500, f"{name}={value}: {answer.text}"
        for query in ("x=1", "limit=1&limit=2", "&".join(f"x{n}=1" for n in range(60)), "%00=1", "=", "&&", "%FF=%FF", "limit"):
            assert client.get(f"{operation.at(**places)}?{query}").status_code in (200, 422), query


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.operation_id)
def test_any_place_of_any_path_is_answered_as_documented(service: RunningService, places: dict[str, str], operation: Operation) -> None:
    with service.client(service.admin) as client:
        for name in places:
            if f"{{{name}}}" not in operation.path:
                continue
            for segment in SEGMENTS:
                path = operation.at(**places | {name: segment})
                answer = client.request(operation.method, path, json={}, headers={"Idempotency-Key": quote(name)})
                assert 400 <= answer.status_code < 500, f"{path}: {answer.status_code}"
