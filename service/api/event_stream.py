"""The feed as server-sent events: one answer that goes on for as long as the caller listens."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

import structlog
from fastapi import APIRouter, Response
from starlette.types import Receive, Scope, Send

from service.api.answers import PRIVATE, ServerSentEvents
from service.api.connection import CONNECTION
from service.api.events import EVENTS
from service.api.feed import FollowQuery, asked_of
from service.api.following import check_still_allowed, until_over
from service.api.operations import Call, Documented, head_of_stream, route
from service.api.problems import problem_of
from service.errors import FeedBusy, HistoryForked, Malformed, MemberFault, Refused
from service.feed.frames import ending
from service.feed.stream import Stream

SLOW_SECONDS = 30.0
"""How long a caller may take for one piece; then the connection is broken off, and the caller resumes where it was."""
MAX_CURSOR = 200
_HEADERS = PRIVATE | {"X-Accel-Buffering": "no"}
_MEDIA_TYPE = "text/event-stream"
_LAST_EVENT_ID = "header:Last-Event-ID"

router = APIRouter()
_log = structlog.get_logger()


class EventStream(Response):
    """An answer that is sent piece by piece until it is over."""

    media_type = _MEDIA_TYPE

    def __init__(self, call: Call, stream: Stream) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._call = call
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as place:
            # Taken before the answer begins, so that who finds none is told by a status.
            try:
                place.enter_context(self._call.services.feed.follower())
            except FeedBusy as busy:
                await problem_of(self._call.request, busy)(scope, receive, send)
                return
            await self._answer(scope, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with until_over(self._call.request) as over, aclosing(self._pieces(over)) as pieces:
            async for piece in pieces:
                if not await _sent(send, piece):
                    await _break_off(scope, over)
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self, over: "asyncio.Future[None]") -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._stream.pieces(over)) as pieces:
                async for piece in pieces:
                    yield piece
        except Exception as error:  # noqa: BLE001 - the status has been sent: the caller is told within the stream
            yield ending(bytes(problem_of(self._call.request, error).body))


async def _sent(send: Send, piece: bytes) -> bool:
    """Whether the caller took what came before, within its time, so that there is room for this piece."""
    try:
        async with asyncio.timeout(SLOW_SECONDS):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError:
        return False
    return True


async def _break_off(scope: Scope, over: "asyncio.Future[None]") -> None:
    _log.info("a stream was broken off, since its reader is too slow", path=scope["path"], request_id=scope.get("request_id", ""))
    if connection := scope.get(CONNECTION):
        connection.abort()
        await over


async def _stream_events(call: Call) -> Response:
    query = call.query(FollowQuery)
    feed, asked = call.services.feed, asked_of(call, query, 1)
    cursor, pointer = _resumed(call), _LAST_EVENT_ID
    if cursor is None:
        cursor, pointer = query.after, "query:after"
    if cursor is None:
        cursor = await feed.begin(asked, query.from_position)
    # What is wrong with a cursor is told by a status, while there still is one to tell.
    await feed.page(asked, cursor, pointer)
    if call.request.method == "HEAD":
        return head_of_stream(_HEADERS, _MEDIA_TYPE)
    return EventStream(call, Stream(feed, asked, cursor, lambda: check_still_allowed(call)))


def _resumed(call: Call) -> str | None:
    """The cursor of `Last-Event-ID`, which a client sends by itself when it connects anew."""
    cursor: str | None = call.request.headers.get("last-event-id")
    if cursor and len(cursor) > MAX_CURSOR:
        raise Malformed(f"{_LAST_EVENT_ID}: not a cursor that this service gave.", (MemberFault(_LAST_EVENT_ID, "not a cursor"),))
    return cursor or None


route(
    router,
    "GET",
    EVENTS + "/stream",
    "contracts:read",
    Documented(
        operation_id="stream_events",
        tag="events",
        summary="The events of the ledger as server-sent events",
        description=(
            "What there is after the cursor, then what comes, in the order of the log: `data` is an event as elsewhere, `id` its cursor. "
            "`Last-Event-ID` resumes, and goes before `after` and `from_position`. Between events a comment shows that the stream lives. "
            "It ends after an hour, when the service stops, and for a reader that is too slow: ask again with the last `id`. An event "
            "`problem` comes last where the right is gone, or the log is another (`history-forked`)."
        ),
        query=FollowQuery,
        answers={200: ("Server-sent events", ServerSentEvents)},
        problems=(Malformed, Refused, HistoryForked, FeedBusy),
        resumable=True,
    ),
    _stream_events,
)
