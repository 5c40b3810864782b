"""What the service answers, as classes; the schemas of the API's answers are made from them."""

from typing import Any

import msgspec

from service.domain.state import Anomaly, ContractState, JsonObject
from service.domain.timeline import Basis, Pending
from service.feed.shown import Event
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


class RateSource(msgspec.Struct, kw_only=True):
    """Where rates are from: the data set, and the package and version that carries it, with the days of its first and last rates."""

    data_set: str
    package: str
    version: str
    first_on: str
    last_on: str


class CrossRateTold(msgspec.Struct, kw_only=True):
    """A rate through the euro: units of `quote` for one of `base`. `rate` and `inverse` are rounded to twelve digits, to be read; amounts
    are converted by `quote_per_euro` / `base_per_euro`, unrounded."""

    base: str
    quote: str
    base_per_euro: str
    quote_per_euro: str
    rate: str
    inverse: str


class ConvertedAmount(msgspec.Struct, kw_only=True):
    amount: str
    figure_id: str


class ConvertedFigure(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A standing figure in another currency than it was stated in. What else it says stands in the state."""

    figure_id: str
    stated_currency: str
    amount: str | None = None
    low: str | None = None
    high: str | None = None


class NotConverted(msgspec.Struct, kw_only=True):
    """A standing figure that has no rate, and why."""

    figure_id: str
    stated_currency: str
    reason: str


class ValueConverted(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The value in another currency, for display; no part of the state or its hash.

    `rate_on` is the day of the rates: the last that has any on or before `asked_on`; absent before the first.
    """

    currency: str
    asked_on: str
    source: RateSource
    rates: list[CrossRateTold]
    figures: list[ConvertedFigure]
    not_converted: list[NotConverted]
    rate_on: str | None = None
    best: ConvertedFigure | None = None
    low: ConvertedAmount | None = None
    high: ConvertedAmount | None = None


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
    converted: ValueConverted | None = None


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


class RevisionChange(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a revision changed in the state. `patch` makes the state after it from the state before, by operations of RFC 6902.

    `target_revision` is the event that a correction, a void or an erasure names; `erased_by` is the erasure of what this one said.
    """

    revision: int
    position: int
    event_id: str
    event_type: str
    recorded_at: str
    recorded_by: str
    sentence: str
    patch: list[JsonObject]
    state_hash: str
    effective_on: str | None = None
    source: JsonObject | None = None
    target_revision: int | None = None
    erased_by: str | None = None


class HistoryAsOf(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the states of a history are told for; what was known goes from revision to revision."""

    effective_on: str
    time_zone: str
    published_by: str | None = None


class HistoryPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[RevisionChange]
    as_of: HistoryAsOf
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class Comparison(msgspec.Struct, kw_only=True):
    """How a contract at one point differs from itself at another. `patch` makes the second state from the first (RFC 6902)."""

    contract_id: str
    sentence: str
    patch: list[JsonObject]
    from_revision: int
    from_state_hash: str
    from_as_of: AsOf
    to_revision: int
    to_state_hash: str
    to_as_of: AsOf


class OcdsPackage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A release package or a record package of the Open Contracting Data Standard 1.1."""

    uri: str
    version: str
    extensions: list[str]
    publishedDate: str  # noqa: N815 - the standard's names
    publisher: JsonObject
    releases: list[JsonObject] | msgspec.UnsetType = msgspec.UNSET
    records: list[JsonObject] | msgspec.UnsetType = msgspec.UNSET


class CloudEvent(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event as CNCF CloudEvents 1.0 has it. `data` is the event; `sequence` its position, with leading zeros."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    dataschema: str
    ledger: str
    sequence: str
    cursor: str
    correlationid: str | None = None
    causationid: str | None = None
    data: Event


class EventPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[Event]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class ServerSentEvents(str):
    """A stream of server-sent events, as the HTML standard has them."""

    __slots__ = ()


class FeedPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Events in the order of the log. `next` is the cursor to go on from, also at the head."""

    items: list[Event]
    has_more: bool
    next: str


class ImportLine(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What became of a line: `recorded`, `refused`, or `held_back`, since an earlier line of its contract was refused."""

    line: int
    fate: str
    contract_id: str | None = None
    event_id: str | None = None
    position: int | None = None
    revision: int | None = None
    code: str | None = None
    rule: str | None = None
    pointer: str | None = None
    detail: str | None = None


class ImportOutcome(msgspec.Struct, kw_only=True):
    """What became of the lines that were sent now. `not_recorded` has the first of those that were refused or held back."""

    import_id: str
    status: str
    lines: int
    recorded: int
    already_recorded: int
    refused: int
    held_back: int
    last_line: int
    not_recorded: list[ImportLine]


class Import(msgspec.Struct, kw_only=True):
    """An import: what has become of its lines so far, over all sendings."""

    import_id: str
    status: str
    recorded: int
    refused: int
    held_back: int
    last_line: int
    created_at: str


class ImportLinePage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[ImportLine]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class LedgerAnswer(msgspec.Struct, kw_only=True):
    """A ledger: a book of contracts of its own."""

    ledger_id: str
    name: str
    time_zone: str
    unique_reference_schemes: list[str]
    if_match_required: bool
    public_log: bool
    strict: bool


class LedgerPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[LedgerAnswer]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class Range(msgspec.Struct, kw_only=True):
    """Decimals: the least and the greatest that may be meant; equal where each amount is stated as one."""

    low: str
    high: str


class Commitment(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A sum over contracts, of one basis: of money in one currency, or of a quantity in one unit. `contracts` is the address of the
    contracts that make it."""

    basis: str
    committed: Range
    delivered: str
    remaining: Range
    contracts: str
    party: str | None = None
    product: str | None = None
    currency: str | None = None
    unit: str | None = None
    year: str | None = None


class CommitmentPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[Commitment]
    as_of: AsOf
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class ContractCommitments(msgspec.Struct, kw_only=True):
    """What one contract commits to, line by line."""

    contract_id: str
    revision: int
    title: str
    status: str
    lines: list[Commitment]


class ContractCommitmentsPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[ContractCommitments]
    as_of: AsOf
    next: str | None = None


class Deadline(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A day on which something about a contract ends, opens or falls due: `due_on` as stated, and of it the day that counts."""

    contract_id: str
    title: str
    kind: str
    due_on: str
    counts_on: str
    sentence: str
    rests_on: list[int]
    about: str | None = None
    hypothetical: bool | None = None


class DeadlinePage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[Deadline]
    as_of: AsOf
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class PartyName(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A name that contracts give a party, and its language where they state it."""

    name: str
    language: str | None = None
    contracts: int


class PartyTold(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A party over all contracts: by the names, roles and identifiers that they state. `merges` are the ids that turned out to be it."""

    party_id: str
    names: list[PartyName]
    roles: list[str]
    identifiers: list[JsonObject]
    relations: list[JsonObject]
    merges: list[str]
    contract_count: int
    former_contract_count: int
    contracts: str


class PartyPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[PartyTold]
    as_of: AsOf
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


def encode(answer: Any) -> bytes:
    return msgspec.json.encode(answer)
