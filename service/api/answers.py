"""What the service answers, as classes; the schemas of the API's answers are made from them."""

from typing import Any

import msgspec

from service.domain.state import Anomaly, ContractState, JsonObject
from service.domain.timeline import Basis, Pending
from service.log.read import AsOf

PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Accept"}
"""Headers of every answer, problems too: whoever keeps one asks again before using it."""


class ReceiptEvent(msgspec.Struct, kw_only=True):
    """An event as it was recorded, without its content."""

    event_id: str
    position: int
    recorded_at: str
    event_hash: str


class RaisedAnomaly(msgspec.Struct, kw_only=True):
    anomaly_id: str
    rule: str


class Receipt(msgspec.Struct, kw_only=True):
    """The answer to an append. A retry with the same key gets the same bytes."""

    contract_id: str
    revision: int
    events: list[ReceiptEvent]
    anomalies: list[RaisedAnomaly]


class Contract(msgspec.Struct, kw_only=True):
    """A contract at the times in `as_of`. `state` is what `state_hash` covers; the rest stands beside it."""

    contract_id: str
    revision: int
    state: ContractState
    state_hash: str
    anomalies: list[Anomaly]
    pending: list[Pending]
    rests_on: list[Basis]
    as_of: AsOf


class ContractItem(msgspec.Struct, kw_only=True):
    contract_id: str
    revision: int
    state: ContractState


class ContractPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[ContractItem]
    as_of: AsOf
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class Event(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event as recorded. `data` is what was sent, by the schema of its type and `schema_version`."""

    event_id: str
    event_type: str
    contract_id: str
    position: int
    revision: int
    schema_version: int
    recorded_at: str
    recorded_by: str
    event_hash: str
    prev: str
    body_digest: str
    cursor: str
    effective_on: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    hypothetical: bool | None = None
    data: JsonObject | None = None
    source: JsonObject | None = None
    evidence: list[JsonObject] | None = None


class EventPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[Event]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class FeedPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Events in the order of the log. `next` is the cursor to go on from, also at the head."""

    items: list[Event]
    has_more: bool
    next: str


class LedgerAnswer(msgspec.Struct, kw_only=True):
    """A ledger: a book of contracts of its own."""

    ledger_id: str
    name: str
    time_zone: str


class LedgerPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[LedgerAnswer]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


def encode(answer: Any) -> bytes:
    return msgspec.json.encode(answer)
