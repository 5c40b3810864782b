"""Plays the case by the generated Python client, and prints what it met: a JSON object a line."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from contract_ledger_client import (
    AgreementLinkedRequest,
    ApiClient,
    ApiException,
    AuditApi,
    Configuration,
    ContractReportedRequest,
    ContractsApi,
    ContractSignedRequest,
    DeliveryStartedRequest,
    EventsApi,
    FigureStatedRequest,
    InclusionProof,
    Problem,
    RecordEventsRequest,
)

LEDGER = os.environ["LEDGER_NAME"]
CASE = [event["body"] | {"event_type": event["event_type"]} for event in json.loads(Path(os.environ["CASE"]).read_text())]


def client(url: str) -> ApiClient:
    return ApiClient(Configuration(host=url, access_token=os.environ["LEDGER_API_KEY"]))


def say(step: str, **members: Any) -> None:
    print(json.dumps({"step": step} | members), flush=True)


def body(index: int) -> dict[str, Any]:
    return {name: member for name, member in CASE[index].items() if name != "event_type"}


def root(proof: InclusionProof, leaf: bytes) -> bytes:
    """RFC 9162, section 2.1.3.2: the root that a path leads to."""
    at, last, told = proof.index, proof.size - 1, leaf
    for sibling in map(base64.b64decode, proof.path):
        if at % 2 or at == last:
            told = hashlib.sha256(b"\x01" + sibling + told).digest()
            while not at % 2 and at:
                at, last = at // 2, last // 2
        else:
            told = hashlib.sha256(b"\x01" + told + sibling).digest()
        at, last = at // 2, last // 2
    return told if last == 0 else b""


here = client(os.environ["LEDGER_URL"])
contracts, events, audit = ContractsApi(here), EventsApi(here), AuditApi(here)

opened = contracts.report_contract(LEDGER, ContractReportedRequest.model_validate(body(0)), idempotency_key="play-1")
contract_id = opened.contract_id
say("opened", contract_id=contract_id, revision=opened.revision)
batch = RecordEventsRequest.model_validate({"events": CASE[1:4]})
stated = contracts.record_events(LEDGER, contract_id, batch, idempotency_key="play-2", if_match='"1"')
linked = AgreementLinkedRequest.model_validate(body(4))
contracts.record_agreement_linked(LEDGER, contract_id, linked, idempotency_key="play-5", if_match=f'"{stated.revision}"')
negotiated = ContractReportedRequest.model_validate(body(5))
contracts.record_contract_reported(LEDGER, contract_id, negotiated, idempotency_key="play-6", if_match='"5"')
signing = ContractSignedRequest.model_validate(body(6))
signed = contracts.record_contract_signed(LEDGER, contract_id, signing, idempotency_key="play-7", if_match='"6"')
started = DeliveryStartedRequest.model_validate(body(7))
contracts.record_delivery_started(LEDGER, contract_id, started, idempotency_key="play-8", if_match='"7"')
figure = FigureStatedRequest.model_validate(body(8))
last = contracts.record_figure_stated(LEDGER, contract_id, figure, idempotency_key="play-9", if_match='"8"')
again = contracts.record_figure_stated(LEDGER, contract_id, figure, idempotency_key="play-9", if_match='"8"')
say("played", revision=last.revision, same_again=again == last, anomalies=[anomaly.rule for anomaly in again.anomalies])

try:
    contracts.record_figure_stated(LEDGER, contract_id, figure, idempotency_key="play-10", if_match='"3"')
except ApiException as refused:
    problem: Problem = refused.data
    say("refused", status=problem.status, code=problem.code, current_revision=problem.current_revision)

pages = 0
listed: list[str] = []
page = contracts.list_contracts(LEDGER, limit=2)
while True:
    pages, listed = pages + 1, listed + [item.contract_id for item in page.items]
    if page.next is None:
        break
    page = contracts.list_contracts(LEDGER, limit=2, after=page.next)
say("listed", pages=pages, contracts=listed)

feed = events.list_events(LEDGER, contract_id=contract_id, limit=4)
followed = list(feed.items)
while feed.has_more:
    feed = events.list_events(LEDGER, contract_id=contract_id, limit=4, after=feed.next)
    followed += feed.items
say("following", event_types=[event.event_type for event in followed])
feed = events.list_events(LEDGER, contract_id=contract_id, after=feed.next, wait=30)
say("followed", event_types=[event.event_type for event in feed.items], text=(feed.items[0].data or {})["text"])

for published_by in ("2022-07-06", "2024-01-26"):
    past = contracts.get_contract(LEDGER, contract_id, effective_on="2023-07-01", published_by=published_by)
    best = past.state.value.best
    assert best is not None
    say(
        "past", published_by=published_by, status=past.state.status, amount=best.amount, currency=best.currency, flagged=len(past.anomalies)
    )

proof = audit.get_event_proof(LEDGER, signed.events[0].event_id)
told = proof.checkpoint.split("\n")[2]
leaf = bytes.fromhex(signed.events[0].event_hash)
say(
    "proved",
    included=base64.b64encode(root(proof, leaf)).decode() == told,
    forged=base64.b64encode(root(proof, told.encode())).decode() == told,
)

future = client(os.environ["LEDGER_FUTURE_URL"])
unknown = EventsApi(future).list_events(LEDGER, limit=2).items
state = ContractsApi(future).get_contract(LEDGER, contract_id).state
say("future", event_type=unknown[0].event_type, data=unknown[0].data, known=unknown[1].event_type, title=state.title)
