"""Promise 6, as far as this stage goes: with what the API shows, and SHA-256, a stranger checks that the log hangs together."""

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.guarantees.conftest import Pair
from tests.guarantees.load import Work, at_work

HEADER = (
    *("body_digest", "causation_id", "contract_id", "correlation_id", "effective_on", "event_id", "event_type", "hypothetical"),
    *("position", "prev", "recorded_at", "recorded_by", "revision", "schema_version"),
)


def header_hash(event: dict[str, Any], ledger_id: str) -> str:
    """SHA-256(0x00 || header), the header made again by the standard library from what the API shows."""
    header = {name: event[name] for name in HEADER if name in event} | {"ledger_id": ledger_id, "schema": "contract-ledger/header/v1"}
    canonical = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"\0" + canonical.encode()).hexdigest()


def test_headers_hash_to_what_receipts_promised_and_chain_within_each_contract(pair: Pair, pool: ProcessPoolExecutor) -> None:
    ledger = pair.ledger()
    works = [Work(urls=pair.urls, ledger=ledger, key=pair.key, requests=60, seed=seed) for seed in (71, 72)]
    answers = at_work(pool, works).result()
    promised = {event["event_id"]: event["event_hash"] for answer in answers for event in answer.events}
    with pair.clients(ledger)[0] as api:
        known = api.get(pair.first.url + "/v1/ledgers").json()["items"]
        ledger_id = next(item["ledger_id"] for item in known if item["name"] == ledger)
        page = api.get("/events", params={"limit": "500"}).json()
    assert not page["has_more"]
    assert len(page["items"]) == len(promised) > 60
    last = dict[str, str]()
    for event in page["items"]:
        assert header_hash(event, ledger_id) == event["event_hash"] == promised[event["event_id"]]
        assert event["prev"] == last.get(event["contract_id"], "0" * 64)
        last[event["contract_id"]] = event["event_hash"]
