"""Events over HTTP: one by its id, a contract's, and the log in its order."""

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import orjson
import structlog
from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.operations import (
    WHOLE,
    Call,
    Cursor,
    Documented,
    Flag,
    Limit,
    QueryModel,
    etag_response,
    json_response,
    route,
)
from service.api.pages import MAX_IDS, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.contract import EVENT_TYPES
from service.domain.events import newest
from service.domain.faults import MAX_LABEL
from service.domain.parts import JsonObject
from service.errors import ContractNotFound, EventNotFound, HistoryForked, Malformed, MemberFault, Refused
from service.log.cursor import cursor_at
from service.log.header import Header, SealedPart
from service.log.read import Sieve, Stretch
from service.log.stored import StoredEvent

MAX_WAIT_SECONDS = 30
EVENTS = "/v1/ledgers/{ledger}/events"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

router = APIRouter()
_log = structlog.get_logger()


class EventQuery(QueryModel):
    raw: Annotated[
        Flag,
        Field(description="Show each event as it is stored too, byte for byte, and its data by the `schema_version` it was recorded with."),
    ] = "false"
    sealed: Annotated[
        Flag,
        Field(description="With values and salts of what is sealed; takes the right `sealed:read`, and each event shown so is logged."),
    ] = "false"


class ContractEventsQuery(EventQuery, PageQuery):
    pass


class FeedQuery(EventQuery):
    after: Cursor | None = None
    from_position: Annotated[
        int | None,
        Field(
            ge=1,
            le=2**53 - 1,
            description="Begin with the event at this position, in place of `after`; one beyond the newest waits for it.",
        ),
        WHOLE,
    ] = None
    limit: Limit = 50
    event_type: Annotated[str | None, Field(max_length=2_000, description="Only events of these types, with commas between them.")] = None
    contract_id: Annotated[
        str | None,
        Field(max_length=37 * MAX_IDS, description=f"Only events of these contracts: up to {MAX_IDS} ids with commas between them."),
    ] = None
    wait: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="For so many seconds at most an answer without events waits for some. It comes as soon as there are any.",
        ),
        WHOLE,
    ] = 0


class Place(NamedTuple):
    """Where a reader of the log goes on from: a position, and its cursor."""

    position: int
    cursor: str


async def _get_event(call: Call) -> Response:
    query = call.query(EventQuery)
    check_sealed(call, query.sealed)
    stored = await call.services.reader.event(call.ledger, known_event_id(call))
    (answer,) = await _answers(call, [stored], query)
    shown = "raw" if query.raw == "true" else answer.schema_version
    if stored.erased_by is not None:
        shown = f"{shown}.erased"
    return etag_response(call, f'"{stored.event_hash[:16]}.{shown}{".sealed" if query.sealed == "true" else ""}"', answer)


def known_event_id(call: Call) -> str:
    """The event_id of a path. EventNotFound for what cannot be one."""
    event_id: str = call.request.path_params["event_id"].lower()
    if not _UUID.fullmatch(event_id):
        raise EventNotFound(f"Ledger {call.ledger.name} has no event {event_id[:100]!r}; an event_id is a UUID.")
    return event_id


def check_sealed(call: Call, asked: str) -> None:
    """Forbidden when what is sealed is asked for without the right to it."""
    if asked == "true":
        call.principal.require("sealed:read", call.ledger.ledger_id)


async def sealed_parts(call: Call, stored: Sequence[StoredEvent]) -> dict[int, list[SealedPart]]:
    """What stored events seal, by position, for a caller with the right. Who sees it, and of which events, is logged; what they see is
    not."""
    parts = await call.services.reader.sealed_parts(call.ledger, stored)
    shown = [event.header.event_id for event in stored if event.header.position in parts]
    if shown:
        request_id = call.request.scope.get("request_id", "")
        _log.info(
            "sealed data read", principal_id=call.principal.principal_id, ledger=call.ledger.name, event_ids=shown, request_id=request_id
        )
    return parts


async def _answers(call: Call, stored: Sequence[StoredEvent], query: EventQuery) -> list[answers.Event]:
    parts = await sealed_parts(call, stored) if query.sealed == "true" else {}
    return [event_answer(event, call.epoch, parts.get(event.header.position, ()), raw=query.raw == "true") for event in stored]


async def _list_events(call: Call) -> Response:
    query = call.query(FeedQuery)
    check_sealed(call, query.sealed)
    sieve, place = sieve_of(query.event_type, query.contract_id), await beginning(call, query.after, query.from_position)
    place, stretch = await next_stretch(call, place, query.limit, sieve, query.wait)
    items = await _answers(call, stretch.events, query)
    page = answers.FeedPage(items=items, has_more=stretch.more, next=place.cursor)
    return json_response(page, 200, page_headers(call.request, place.cursor if stretch.more else None))


async def next_stretch(call: Call, place: Place, limit: int, sieve: Sieve, seconds: float) -> tuple[Place, Stretch]:
    """The next events after a place that pass a sieve, and the place to go on from. Without any it is waited for some, so long at most."""
    loop, reader, wakes = asyncio.get_running_loop(), call.services.reader, call.services.wakes
    deadline = loop.time() + seconds
    while True:
        stretch = await reader.stretch(call.ledger, place.position, limit, sieve)
        if stretch.end is not None:
            place = Place(stretch.end[0], cursor_at(call.epoch, *stretch.end))
        left = deadline - loop.time()
        if stretch.events or stretch.more or left <= 0 or wakes.is_over:
            return place, stretch
        await wakes.beyond(call.ledger.ledger_id, place.position, left)


async def beginning(call: Call, after: str | None, from_position: int | None) -> Place:
    """The place that a reader of the log begins at. Refused for two of them, or one that the log has not reached."""
    if after is not None and from_position is not None:
        raise Refused("`after` and `from_position` exclude one another.", (MemberFault("query:from_position", "excludes `after`"),))
    if after is not None:
        return Place(await call.services.reader.resume(call.ledger, call.epoch, after), after)
    position = (from_position or 1) - 1
    event_hash = await call.services.reader.hash_at(call.ledger, position)
    if event_hash is None:
        head, _ = await call.services.reader.newest(call.ledger)
        detail = f"the ledger has {head} events so far, so the greatest is {head + 1}"
        raise Refused(f"query:from_position: {detail}.", (MemberFault("query:from_position", detail),))
    return Place(position, cursor_at(call.epoch, position, event_hash))


def sieve_of(event_type: str | None, contract_id: str | None) -> Sieve:
    """What a reader of the log wants of it. Refused for a type that there is not: an empty page with a cursor at the end would let a slip
    of the pen pass over everything."""
    event_types = event_type.split(",") if event_type is not None else []
    for unknown in (name for name in event_types if name not in EVENT_TYPES):
        fault = MemberFault("query:event_type", f"there is no event type {unknown[:MAX_LABEL]}")
        raise Refused(f"{fault.pointer}: {fault.detail}; there are {', '.join(sorted(EVENT_TYPES))}.", (fault,))
    contract_ids = contract_id.lower().split(",") if contract_id is not None else []
    if len(contract_ids) > MAX_IDS or not all(_UUID.fullmatch(known) for known in contract_ids):
        fault = MemberFault("query:contract_id", f"1 to {MAX_IDS} contract_ids with commas between them")
        raise Refused(f"{fault.pointer}: {fault.detail}.", (fault,))
    return Sieve(event_types, contract_ids)


async def contract_event_page(call: Call, contract_id: str, query: ContractEventsQuery) -> Response:
    """A page of a contract's events, by revision."""
    check_sealed(call, query.sealed)
    listed = f"events of {contract_id} in {call.ledger.ledger_id} {call.epoch}"
    revision = int(place_in(listed, query.after, "[1-9][0-9]{0,8}")) if query.after else 0
    limit = query.limit
    # The event that the cursor stands at is read again: without it, there is no such contract here.
    seen = 1 if revision else 0
    stored = await call.services.reader.contract_events(call.ledger, contract_id, revision - seen, seen + limit + 1)
    if not stored:
        having = f" with a revision {revision}" if revision else ""
        raise ContractNotFound(f"Ledger {call.ledger.name} has no contract {contract_id}{having}.")
    stored = stored[seen:]
    items = await _answers(call, stored[:limit], query)
    more = cursor_in(listed, str(items[-1].revision)) if len(stored) > limit else None
    count, is_exact = counted(await call.services.reader.last_revision(call.ledger, contract_id) if query.count else None)
    page = answers.EventPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


def event_answer(stored: StoredEvent, epoch: int, parts: Sequence[SealedPart] = (), *, raw: bool = False) -> answers.Event:
    """A stored event as the API shows it: the header's members, what was sent, by the newest version of its type or `raw`, and of what is
    sealed the given values."""
    header = stored.header
    body = orjson.loads(stored.body) if stored.body is not None else {}
    schema_version, data = (header.schema_version, body.get("data")) if raw else _newest(header, body.get("data"))
    return answers.Event(
        event_id=header.event_id,
        event_type=header.event_type,
        contract_id=header.contract_id,
        position=header.position,
        revision=header.revision,
        schema_version=schema_version,
        recorded_at=header.recorded_at,
        recorded_by=header.recorded_by,
        event_hash=stored.event_hash,
        prev=header.prev,
        body_digest=header.body_digest,
        cursor=cursor_at(epoch, header.position, stored.event_hash),
        effective_on=header.effective_on,
        correlation_id=header.correlation_id,
        causation_id=header.causation_id,
        hypothetical=header.hypothetical,
        data=data,
        source=body.get("source"),
        evidence=body.get("evidence"),
        raw=_raw(stored) if raw else None,
        sealed_digest=header.sealed_digest,
        sealed=_sealed_members(body, parts) if "sealed" in body else None,
        erased_by=stored.erased_by,
    )


def _newest(header: Header, data: JsonObject | None) -> tuple[int, JsonObject | None]:
    """The newest version of an event's type, and its data as of that; those of a version that this release does not know as they are."""
    known = EVENT_TYPES.get(header.event_type)
    if data is None or known is None or header.schema_version >= known.schema_version:
        return header.schema_version, data
    return known.schema_version, newest(header.event_type, header.schema_version, data)


def _raw(stored: StoredEvent) -> answers.RawEvent:
    return answers.RawEvent(header=stored.header_bytes.decode(), body=None if stored.body is None else stored.body.decode())


def _sealed_members(body: dict[str, Any], parts: Sequence[SealedPart]) -> list[answers.SealedMember]:
    """What an event seals: digests and days by path, and with them the given values and salts."""
    members = {
        path: answers.SealedMember(path=path, digest=digest, until=body.get("sealed_until", {}).get(path))
        for path, digest in body["sealed"].items()
    }
    for part in parts:
        if part.path in members:  # else it is not what was recorded, as `verify` says
            members[part.path].value, members[part.path].salt = part.value, part.salt
    return list(members.values())


route(
    router,
    "GET",
    EVENTS,
    "contracts:read",
    Documented(
        operation_id="list_events",
        tag="events",
        summary="The events of the ledger, in the order of the log",
        description=(
            "Gapless, from position 1. `next` is always there, at the head of the log too: ask again with it to go on, and nothing is "
            "missed or seen twice. A filter leaves out events and still moves on. With `wait` the answer comes when there are events, or "
            "empty when the time is up: so the log is followed without a pause and without many requests."
        ),
        query=FeedQuery,
        answers={200: ("A page of events, with the cursor to go on from", answers.FeedPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked),
    ),
    _list_events,
)
route(
    router,
    "GET",
    EVENTS + "/{event_id}",
    "contracts:read",
    Documented(
        operation_id="get_event",
        tag="events",
        summary="One event as it was recorded",
        description=(
            "What was sent, its place in the log, and the hashes that bind it there. Data sent by an earlier version of their schema "
            "are shown as of the newest; `raw=true` shows what is stored, byte for byte, to be hashed."
        ),
        query=EventQuery,
        answers={200: ("The event", answers.Event), 304: ("Not changed", None)},
        problems=(Refused, EventNotFound),
        etag=True,
    ),
    _get_event,
)
