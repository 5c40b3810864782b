"""Contracts over HTTP: opened and carried on by events, a path per event type; read as they are, were, and were believed to be."""

import hashlib
import secrets
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field
from uuid_utils import uuid7

from service.api import answers
from service.api.conversion import converted
from service.api.envelope import read_body, read_event, read_events
from service.api.events import ContractEventsQuery, contract_event_page
from service.api.examples import example
from service.api.operations import (
    Call,
    Day,
    Documented,
    Flag,
    QueryModel,
    etag_response,
    json_response,
    match_revision,
    route,
)
from service.api.times import TimesQuery, times_of
from service.domain.contract import EVENT_TYPES
from service.domain.money import CurrencyCode
from service.errors import (
    AnomaliesRefused,
    BodyTooLarge,
    ContractNotFound,
    HistoryForked,
    KeyRequired,
    KeyReused,
    Malformed,
    MemberFault,
    NotAllowedNow,
    NothingToMatch,
    ReferenceTaken,
    Refused,
    RevisionRequired,
    StaleRevision,
    Unavailable,
    UnsupportedMediaType,
)
from service.log.header import canonical, state_hash
from service.log.read import CurrentState, Times
from service.log.requests import Append, NewEvent, Receipt

CONTRACTS = "/v1/ledgers/{ledger}/contracts"
CONTRACT = CONTRACTS + "/{contract_id}"
MAX_KEY_LENGTH = 255
_OPENINGS = {"contract.signed": (CONTRACTS, "open_contract"), "contract.reported": (CONTRACTS + "/reported", "report_contract")}
_APPEND_PROBLEMS = (
    Malformed,
    KeyRequired,
    NotAllowedNow,
    ReferenceTaken,
    BodyTooLarge,
    UnsupportedMediaType,
    Refused,
    KeyReused,
    AnomaliesRefused,
    Unavailable,
)
_RECEIPT = (
    "The answer is a receipt, without the data that was sent. A request that is sent again with its Idempotency-Key has no second effect "
    "and gets the same receipt."
)
_CONTRACT_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_EMPTY_ID = "00000000-0000-0000-0000-000000000000"

router = APIRouter()


class AppendQuery(QueryModel):
    strict: Annotated[Flag, Field(description="Refuse (422) what would otherwise be accepted and flagged as an anomaly.")] = "false"
    validate_only: Annotated[Flag, Field(description="Answer 200 with what would be, and write nothing; needs no Idempotency-Key.")] = (
        "false"
    )


_AS_USUAL = AppendQuery()


class ContractQuery(TimesQuery):
    currency: Annotated[
        CurrencyCode | None, Field(description="Show the value in this currency too, at the European Central Bank's reference rates.")
    ] = None
    rate_on: Annotated[
        Day | None,
        Field(description="The day of those rates, or the last before it that has any; the day the contract is told for if not said."),
    ] = None


async def _append(call: Call, event_type: str | None, *, opening: bool) -> Response:
    request = call.request
    query = call.query(AppendQuery) if request.scope["query_string"] else _AS_USUAL
    validate_only = query.validate_only == "true"
    key = secrets.token_bytes(16) if validate_only and "idempotency-key" not in request.headers else idempotency_key(call)
    contract_id = str(uuid7()) if opening else call.contract_id
    expected = _expected_revision(call, opening=opening)
    body = await read_body(request)
    events: list[NewEvent] = read_events(body) if event_type is None else [read_event(event_type, body)]
    for new in events:
        if new.fact.extra_right is not None:
            call.principal.require(new.fact.extra_right, call.ledger.ledger_id)
    receipt = await call.services.writers.append(
        Append(
            ledger=call.ledger,
            contract_id=contract_id,
            opening=opening,
            events=events,
            recorded_by=call.principal.principal_id,
            key=key,
            canonical=canonical(body),
            expected_revision=expected,
            revision_required=call.ledger.if_match_required and not opening and "if-match" not in request.headers,
            strict=query.strict == "true" or call.ledger.strict,
            validate_only=validate_only,
        )
    )
    return _receipt_response(call, receipt, opening=opening, validate_only=validate_only)


def _expected_revision(call: Call, *, opening: bool) -> int | None:
    """The revision that the contract has to be at, by the request's preconditions; None where any will do."""
    sent = dict(call.request.scope["headers"])
    if b"if-none-match" in sent and not opening:
        fault = MemberFault("header:If-None-Match", "not with an append to a contract")
        raise Malformed("If-None-Match is for reads; send If-Match with the ETag of the contract as you read it.", (fault,))
    if b"if-match" not in sent:
        return None
    expected = match_revision(call.request.headers["if-match"])
    if opening and expected != 0:
        members = {"current_revision": 0} | ({} if expected is None else {"expected_revision": expected})
        raise NothingToMatch(
            "An opening makes a contract, which has no revision before it: leave If-Match out, or append to the contract that you read.",
            (),
            **members,
        )
    return None if opening else expected


def idempotency_key(call: Call) -> bytes:
    """16 bytes of SHA-256 of principal, method, path and the key that was sent."""
    sent = call.request.headers.get("idempotency-key", "").strip()
    if not sent:
        raise KeyRequired(
            "Send Idempotency-Key with a value of your own for this request, such as a UUID: "
            "a retry with the same key has no second effect."
        )
    if len(sent) > MAX_KEY_LENGTH or not sent.isprintable() or not sent.isascii():
        fault = MemberFault("header:Idempotency-Key", f"at most {MAX_KEY_LENGTH} printable ASCII characters")
        raise Malformed(f"{fault.pointer}: {fault.detail}.", (fault,))
    # An id in a path is the same in upper case, and all else in a path is in lower case.
    scope = (call.principal.principal_id, call.request.method, call.request.scope["path"].lower(), sent)
    return hashlib.sha256("\n".join(scope).encode()).digest()[:16]


def _receipt_response(call: Call, receipt: Receipt, *, opening: bool, validate_only: bool) -> Response:
    if validate_only:
        return json_response(receipt.body)
    headers = {"ETag": f'"{receipt.revision}"'}
    if opening:
        headers["Location"] = f"/v1/ledgers/{call.ledger.name}/contracts/{receipt.contract_id}"
    if receipt.replayed:
        headers["Idempotent-Replayed"] = "true"
    return json_response(receipt.body, 201, headers)


async def _read_contract(call: Call) -> Response:
    if not call.request.scope["query_string"]:
        return _contract_response(call, await call.services.reader.current(call.ledger, call.contract_id))
    query = call.query(ContractQuery)
    if query.rate_on is not None and query.currency is None:
        raise Refused("rate_on is the day of a conversion: say a currency.", (MemberFault("query:rate_on", "only with currency"),))
    times = times_of(query)
    reader = call.services.reader
    told = await (reader.current(call.ledger, call.contract_id) if times == Times() else reader.at(call.ledger, call.contract_id, times))
    if query.currency is None:
        return _contract_response(call, told)
    shown = await converted(told.state, query.currency, query.rate_on.isoformat() if query.rate_on else told.as_of.effective_on)
    return _contract_response(call, told, b',"converted":' + answers.encode(shown))


def _contract_response(call: Call, told: CurrentState, more: bytes = b"") -> Response:
    """The answer, spliced from stored JSON. Its ETag covers all but `as_of`."""
    digest = state_hash(told.as_of.effective_on, told.state)
    answer = b'{"contract_id":"%s","revision":%d,"state":%s,"state_hash":"%s",%s' % (
        told.contract_id.encode(),
        told.revision,
        told.state,
        digest.encode(),
        told.beside[1:-1] + more,
    )
    etag = f'"{told.revision}.{hashlib.sha256(answer).hexdigest()[:16]}"'
    return etag_response(call, etag, answer + b',"as_of":' + answers.encode(told.as_of) + b"}")


def _declare_appends() -> None:
    """A path per event type, all by one mechanism, from the classes."""
    for event_type, (path, operation_id) in _OPENINGS.items():
        _declare_append(path, operation_id, f"Open a contract by {event_type}", event_type, opening=True)
    for event_type in sorted(EVENT_TYPES):
        name = event_type.replace(".", "-").replace("_", "-")
        operation_id = "record_" + event_type.replace(".", "_")
        summary = EVENT_TYPES[event_type].summary.rstrip(".")
        _declare_append(f"{CONTRACT}/{name}", operation_id, summary, event_type, opening=False)
    _declare_append(f"{CONTRACT}/events", "record_events", "Record several events, all or none", None, opening=False)


def _declare_append(path: str, operation_id: str, summary: str, event_type: str | None, *, opening: bool) -> None:
    async def handler(call: Call) -> Response:
        return await _append(call, event_type, opening=opening)

    body = f"{EVENT_TYPES[event_type].__name__}Request" if event_type else "RecordEventsRequest"
    documented = Documented(
        operation_id=operation_id,
        tag="contracts",
        summary=summary,
        description=f"{_about(event_type)} {_RECEIPT}",
        query=AppendQuery,
        body=body,
        example=example(event_type),
        appends=True,
        conditional=not opening,
        answers={201: ("Recorded", answers.Receipt), 200: ("What would be recorded (validate_only)", answers.Receipt)},
        problems=(*_APPEND_PROBLEMS, NothingToMatch) if opening else (*_APPEND_PROBLEMS, ContractNotFound, StaleRevision, RevisionRequired),
    )
    route(router, "POST", path, "contracts:write", documented, handler)


def _about(event_type: str | None) -> str:
    if event_type is None:
        return "One to a hundred events of one contract; each is judged after those before it."
    return " ".join((EVENT_TYPES[event_type].__doc__ or "").split())


async def _list_contract_events(call: Call) -> Response:
    query = call.query(ContractEventsQuery)
    return await contract_event_page(call, call.contract_id, query)


def _declare_reads() -> None:
    route(
        router,
        "GET",
        CONTRACT,
        "contracts:read",
        Documented(
            operation_id="get_contract",
            tag="contracts",
            summary="A contract as it is, was, or was believed to be",
            description=(
                "Today, as known now; or for another day, as known at a position, an instant or a revision, or of what was published by a "
                "day. `as_of` says which, and `rests_on` names the events behind the answer. With `currency` the value is shown in that "
                "currency too, under `converted`: at the reference rates of a day, which are no part of the state or its hash."
            ),
            query=ContractQuery,
            answers={200: ("The contract", answers.Contract), 304: ("Not changed", None)},
            problems=(Refused, ContractNotFound),
            etag=True,
        ),
        _read_contract,
    )
    route(
        router,
        "GET",
        f"{CONTRACT}/events",
        "contracts:read",
        Documented(
            operation_id="list_contract_events",
            tag="contracts",
            summary="The events of a contract, in the order of recording",
            description="In pages, each event as it was sent and with its place in the log.",
            query=ContractEventsQuery,
            answers={200: ("A page of events", answers.EventPage)},
            paged=True,
            problems=(Malformed, Refused, ContractNotFound, HistoryForked),
        ),
        _list_contract_events,
    )


# Routes are tried in this order, and a single contract is read most.
_declare_reads()
_declare_appends()
