"""A stream of events for one follower: what there is, then what comes, and a sign of life in between."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import psycopg
import structlog

from service.errors import Unavailable
from service.feed.frames import heartbeat, opening
from service.feed.pages import Asked, Feed, Page
from service.log.cursor import cursor_at

HEARTBEAT_SECONDS = 15.0
STREAM_SECONDS = 3_600.0
"""Then a stream ends, to be resumed: so that followers spread over the processes that there are."""
FIRST_EVENTS = 16
MOST_EVENTS = 256
"""How many events a stream reads at once: twice as many each time that they went in one piece."""
PACE_SECONDS = 0.01
"""Between two reads of a stream at least: what comes meanwhile goes in one piece, and an event that comes alone waits for nothing."""
SHARE_SECONDS = 0.0002
"""By how much that grows with each other follower of the process: many are told in larger pieces."""
AGAIN_SECONDS = 1.0
"""Between two tries while the database cannot be reached."""
_log = structlog.get_logger()


class Stream:
    """What one follower is told, from a cursor on."""

    def __init__(self, feed: Feed, asked: Asked, cursor: str, check: Callable[[], Awaitable[None]]) -> None:
        """`check` is called at the start and with each heartbeat; what it raises ends the stream."""
        self._feed = feed
        self._asked = replace(asked, limit=FIRST_EVENTS)
        self._cursor = cursor
        self._check = check
        self._beat_at = self._read_at = 0.0
        self._is_at_head = False

    async def pieces(self, over: "asyncio.Future[None]") -> AsyncGenerator[bytes]:
        """What is sent, piece by piece, until `over` is done or the stream's time has come. HistoryForked when the log is another by now;
        while the database cannot be reached it waits."""
        yield opening()
        until = time.monotonic() + STREAM_SECONDS
        while not over.done() and time.monotonic() < until:
            try:
                piece = await self._next_piece(over)
            except (psycopg.OperationalError, Unavailable) as error:
                _log.info("a stream waits for the database", reason=str(error).partition("\n")[0])
                await asyncio.wait({over}, timeout=AGAIN_SECONDS)
            else:
                if piece:
                    yield piece

    async def _next_piece(self, over: "asyncio.Future[None]") -> bytes:
        """The next events; a heartbeat, where one is due or the head is reached; or nothing."""
        if time.monotonic() >= self._beat_at:
            await self._check()
        await asyncio.sleep(self._read_at - time.monotonic())
        page = await self._feed.shared_page(self._asked, self._cursor)
        if page.events:
            return self._told(page)
        self._cursor = page.next
        is_at_head, self._is_at_head = self._is_at_head, not page.has_more
        if time.monotonic() >= self._beat_at or is_at_head < self._is_at_head:
            self._beat_at = time.monotonic() + HEARTBEAT_SECONDS
            return heartbeat(self._cursor)
        if self._is_at_head:
            await self._feed.wakes.beyond(self._asked.ledger.ledger_id, page.position, self._beat_at - time.monotonic(), over)
        return b""

    def _told(self, page: Page) -> bytes:
        if self._is_at_head:
            self._read_at = time.monotonic() + PACE_SECONDS + (self._feed.followers - 1) * SHARE_SECONDS
        piece, count = page.frames
        is_whole = count == len(page.events)
        last = page.events[count - 1]
        self._cursor = page.next if is_whole else cursor_at(page.epoch, last.header.position, last.event_hash)
        self._asked = replace(self._asked, limit=min(2 * self._asked.limit, MOST_EVENTS) if is_whole else count)
        return piece
