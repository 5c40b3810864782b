"""The feed over HTTP: the log in its order, page by page; who is at its head may wait for what comes."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.events import EVENTS, EventQuery, check_sealed, shown_events
from service.api.exports import UUID_PATTERN
from service.api.following import check_still_allowed, until_over
from service.api.operations import WHOLE, Call, Cursor, Documented, Limit, QueryModel, json_response, route
from service.api.pages import page_headers
from service.domain.contract import EVENT_TYPES
from service.errors import FeedBusy, HistoryForked, Malformed, MemberFault, Refused
from service.feed.pages import Asked, Feed, Page
from service.log.read import WantedEvents

MAX_WAIT_SECONDS = 60
MAX_EVENT_TYPES = 50

router = APIRouter()


class FollowQuery(QueryModel):
    after: Cursor | None = None
    from_position: Annotated[
        int | None,
        Field(
            ge=1,
            le=2**53 - 1,
            description="Begin at this position, in place of `after`; one more than the ledger has for what comes from now on.",
        ),
        WHOLE,
    ] = None
    event_type: Annotated[
        str | None, Field(max_length=2_000, description=f"Only events of this type, or of these, at most {MAX_EVENT_TYPES}, `a,b`.")
    ] = None
    contract_id: Annotated[str | None, Field(pattern=UUID_PATTERN, description="Only events of this contract.")] = None


class FeedQuery(EventQuery, FollowQuery):
    limit: Limit = 50
    wait: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="How many seconds to wait for an event when there is none after the cursor: the answer comes with the first.",
        ),
        WHOLE,
    ] = 0


def asked_of(call: Call, query: FollowQuery, limit: int) -> Asked:
    """What a follower asks for. Refused for two beginnings, and for types of events that there are not."""
    if query.after is not None and query.from_position is not None:
        raise Refused("query:from_position: give it or `after`, not both.", (MemberFault("query:from_position", "given with `after`"),))
    contract_ids = None if query.contract_id is None else (query.contract_id.lower(),)
    return Asked(call.ledger, call.epoch, WantedEvents(_event_types(query.event_type), contract_ids), limit)


def _event_types(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    wanted = sorted(set(text.split(",")))
    unknown = next((event_type for event_type in wanted if event_type not in EVENT_TYPES), None)
    if unknown is not None:
        # An empty page with a cursor at the end would let a slip of the pen pass over everything.
        fault = MemberFault("query:event_type", f"there is no event type {unknown[:60]}")
        raise Refused(f"{fault.pointer}: {fault.detail}; there are {', '.join(sorted(EVENT_TYPES))}.", (fault,))
    if len(wanted) > MAX_EVENT_TYPES:
        raise Refused(f"query:event_type: at most {MAX_EVENT_TYPES} types.", (MemberFault("query:event_type", "too many types"),))
    return tuple(wanted)


async def _list_events(call: Call) -> Response:
    query = call.query(FeedQuery)
    check_sealed(call, query.sealed)
    feed, asked = call.services.feed, asked_of(call, query, query.limit)
    cursor = query.after if query.after is not None else await feed.begin(asked, query.from_position)
    page = await feed.page(asked, cursor)
    if query.wait and not (page.events or page.has_more) and call.request.method != "HEAD":
        page = await _awaited(call, feed, asked, page, query)
        check_sealed(call, query.sealed)
    shown = answers.FeedPage(items=await shown_events(call, page.events, query), has_more=page.has_more, next=page.next)
    return json_response(shown, 200, page_headers(call.request, page.next if page.has_more else None))


async def _awaited(call: Call, feed: Feed, asked: Asked, page: Page, query: FeedQuery) -> Page:
    """The first page that has something, or the last one when the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + query.wait
    with feed.follower():
        async with until_over(call.request) as over:
            while not (page.events or page.has_more or over.done() or loop.time() >= deadline):
                await feed.wakes.beyond(asked.ledger.ledger_id, page.position, deadline - loop.time(), over)
                page = await feed.shared_page(asked, page.next)
    await check_still_allowed(call)
    return page


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
            "missed or seen twice. With `wait` the answer comes when there is an event, or after so many seconds without any. A filter "
            "leaves out events and still moves on: where it looks far for few, a page may have no items and yet `has_more`."
        ),
        query=FeedQuery,
        answers={200: ("A page of events, with the cursor to go on from", answers.FeedPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked, FeedBusy),
    ),
    _list_events,
)
