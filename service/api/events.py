"""Events over HTTP: one by its id, a contract's, and the log in its order."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import structlog
from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.accepting import preferred
from service.api.operations import (
    Call,
    Documented,
    Flag,
    QueryModel,
    etag_response,
    json_response,
    route,
)
from service.api.pages import PageQuery, counted, cursor_in, page_headers, place_in
from service.errors import ContractNotFound, EventNotFound, Refused
from service.feed.cloudevents import MEDIA_TYPE, cloud_event
from service.feed.shown import Event, event_answer
from service.log.header import SealedPart
from service.log.stored import StoredEvent

EVENTS = "/v1/ledgers/{ledger}/events"

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


async def _get_event(call: Call) -> Response:
    query = call.query(EventQuery)
    check_sealed(call, query.sealed)
    stored = await call.services.reader.event(call.ledger, call.id_in_path("event", EventNotFound))
    (answer,) = await shown_events(call, [stored], query)
    shown = "raw" if query.raw == "true" else answer.schema_version
    if stored.erased_by is not None:
        shown = f"{shown}.erased"
    shown = f"{shown}.sealed" if query.sealed == "true" else shown
    # The cursor that is shown tells the epoch.
    tag = f"{stored.event_hash[:16]}.{call.epoch}.{shown}"
    if preferred(call.request, "application/json", MEDIA_TYPE) != MEDIA_TYPE:
        return etag_response(call, f'"{tag}"', answer)
    made = msgspec.json.encode(cloud_event(answer, call.ledger.name))
    return etag_response(call, f'"{tag}.cloudevent"', made, MEDIA_TYPE)


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


async def shown_events(call: Call, stored: Sequence[StoredEvent], query: EventQuery) -> list[Event]:
    parts = await sealed_parts(call, stored) if query.sealed == "true" else {}
    return [event_answer(event, call.epoch, parts.get(event.header.position, ()), raw=query.raw == "true") for event in stored]


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
    items = await shown_events(call, stored[:limit], query)
    more = cursor_in(listed, str(items[-1].revision)) if len(stored) > limit else None
    count, is_exact = counted(await call.services.reader.last_revision(call.ledger, contract_id) if query.count else None)
    page = answers.EventPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


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
            "are shown as of the newest; `raw=true` shows what is stored, byte for byte, to be hashed. With "
            "`Accept: application/cloudevents+json` as a CloudEvent, with the event as its `data`."
        ),
        query=EventQuery,
        answers={200: ("The event", (Event, answers.CloudEvent)), 304: ("Not changed", None)},
        problems=(Refused, EventNotFound),
        etag=True,
    ),
    _get_event,
)
