"""The running service against its own document: generated requests, right and wrong, and what each answer has to be.

Schemathesis makes the requests from the document and checks that no answer is a fault of the server, that its status, media type, headers
and body are documented, that wrong requests are refused, that nothing answers without a key, and that other methods are refused.
"""

import re
import time
from collections.abc import Iterator
from typing import Final
from uuid import uuid4

import httpx
import pytest
import schemathesis

from service.audit.replay import verify
from tests.api.bodies import REPORTED, event, figure, open_contract, record
from tests.api.documented import document
from tests.api.running import RunningService

SECONDS_AN_OPERATION: Final = 1.5
LEDGER_NAME: Final = 63
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What a schema allows a rule may still refuse; and where two addresses overlap, `Allow` names the methods of both.
LEFT_OUT: Final = ("positive_data_acceptance", "allow_header_conformance")
# These try every boundary of every member; the other appends share their envelopes and figures with them.
THOROUGH: Final = (
    *("list_contracts", "get_contract", "list_contract_events", "list_events", "get_event", "list_ledgers", "create_ledger"),
    *("record_events", "record_value_revised"),
)
schemathesis.serializer.alias("application/x-ndjson", "text/plain")
schema = schemathesis.openapi.from_dict(
    document(),
    config=schemathesis.Config.from_dict(
        {
            "generation": {"deterministic": True, "mode": "all", "max-examples": 25, "no-shrink": True},
            "checks": {name: {"enabled": False} for name in LEFT_OUT},
            "phases": {"coverage": {"enabled": False}},
            "operations": [{"include-operation-id": list(THOROUGH), "phases": {"coverage": {"enabled": True}}}],
        }
    ),
)


class Attempts:
    """Where each operation is tried, and for how long: on a contract of its own, since some end theirs."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api
        self._places: dict[str, dict[str, str]] = {}
        self._deadlines: dict[str, float] = {}

    def are_over(self, operation: str) -> bool:
        return time.monotonic() > self._deadlines.setdefault(operation, time.monotonic() + SECONDS_AN_OPERATION)

    def places(self, operation: str) -> dict[str, str]:
        """What stands in the places of a path, so that requests reach further than to a 404."""
        if operation not in self._places:
            contract_id = open_contract(self._api, REPORTED)
            receipt = record(self._api, contract_id, "figure.stated", event({"figure": figure("krw-1")})).json()
            import_id = str(uuid4())
            self._api.post("/imports", headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": import_id}, content=b"1\n")
            self._places[operation] = {
                "ledger": "main",
                "contract_id": contract_id,
                "event_id": receipt["events"][0]["event_id"],
                "import_id": import_id,
            }
            if "{replay_id}" in operation:
                started = self._api.post("/replays", json={"kind": "book"}, headers={"Idempotency-Key": str(uuid4())})
                self._places[operation]["replay_id"] = started.json()["replay_id"]
            if "{webhook_id}" in operation:
                made = self._api.post("/webhooks", json={"url": "https://localhost:1/"}, headers={"Idempotency-Key": str(uuid4())})
                self._places[operation]["webhook_id"] = made.json()["webhook_id"]
        return self._places[operation]


@pytest.fixture(scope="module")
def attempts(service: RunningService, api: httpx.Client) -> Iterator[Attempts]:
    yield Attempts(api)
    check_log(service, api)


# A stream does not end; its bad input has tests of its own.
@schema.exclude(operation_id="stream_events").parametrize()
def test_the_service_answers_as_its_document_says(case: schemathesis.Case, service: RunningService, attempts: Attempts) -> None:
    if attempts.are_over(case.operation.label):
        return
    reach_further(case, attempts.places(case.operation.label))
    if case.headers.get("Authorization"):
        case.headers["Authorization"] = f"Bearer {service.admin}"
    case.call_and_validate(base_url=service.url)


def reach_further(case: schemathesis.Case, places: dict[str, str]) -> None:
    """Put things that exist in the places of those that cannot, so that the service looks at the rest of the request."""
    for name, value in case.path_parameters.items():
        if isinstance(value, str) and (UUID.fullmatch(value) or (name == "ledger" and len(value) <= LEDGER_NAME)):
            case.path_parameters[name] = places[name]
    # Headers that the document does not have are nobody's fault, and are to be ignored.
    known = {parameter.name for parameter in case.operation.headers} | {"Authorization"}
    for name in [name for name in case.headers if name not in known]:
        del case.headers[name]
    # The generator's idea of an If-Match that the pattern allows; it would hide the body behind a 400.
    if case.headers.get("If-Match") == "0":
        del case.headers["If-Match"]
    # A poll for what never comes would take its whole time.
    if isinstance(case.query, dict) and case.query.get("wait") in range(1, 61):
        case.query["wait"] = 1
    if case.method == "POST":
        case.headers.setdefault("Idempotency-Key", str(uuid4()))


def check_log(service: RunningService, api: httpx.Client) -> None:
    """Whatever was sent: nothing that got into the log keeps anyone from reading it, and each contract is the fold of its events."""
    page = api.get("/events", params={"limit": 500}).json()
    while page["items"]:
        page = api.get("/events", params={"limit": 500, "after": page["next"]}).json()
    for item in api.get("/contracts", params={"limit": 500}).json()["items"]:
        assert api.get(f"/contracts/{item['contract_id']}").json()["state"] == item["state"]
    assert verify(service.database.service_url, "main", lambda *_: None, processes=1).difference is None
