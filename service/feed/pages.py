"""Pages of the feed: the events after a cursor, those of them that are wanted, and the cursor to go on from."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from service.errors import FeedBusy
from service.feed.frames import frames
from service.feed.wakes import Wakes
from service.log.cursor import cursor_at
from service.log.ledger import Ledger
from service.log.read import EVERYTHING, Reader, WantedEvents
from service.log.stored import StoredEvent

SCAN_EVENTS = 20_000
"""How far one page looks for what a filter wants; then it ends, with a cursor to go on from."""
MAX_FOLLOWERS = 2_000
SHARED_READS = 2
"""How many reads the followers of a process have under way at a time: the rest of its connections are for others."""


@dataclass(frozen=True)
class Page:
    """Events after a cursor. `next` is past everything that was looked at, wanted or not."""

    epoch: int
    events: list[StoredEvent]
    next: str
    position: int
    """That of `next`."""
    has_more: bool

    @cached_property
    def frames(self) -> tuple[bytes, int]:
        """The events as a stream sends them, as many as it sends at once, and how many those are; made once for all who are told them."""
        return frames(self.events, self.epoch)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a follower asks for: which ledger, in which epoch, which of its events, and how many at a time."""

    ledger: Ledger
    epoch: int
    wanted: WantedEvents = EVERYTHING
    limit: int = 50

    def key(self, cursor: str) -> "_Key":
        """What is the same for all who are told the same from a cursor."""
        return self.ledger.ledger_id, self.epoch, self.wanted, self.limit, cursor


_Key = tuple[str, int, WantedEvents, int, str]


class Feed:
    """What the followers of one process share: wake-ups, and what they read when they are woken together."""

    def __init__(self, reader: Reader, wakes: Wakes) -> None:
        self.wakes = wakes
        self._reader = reader
        self._flights: dict[_Key, asyncio.Task[Page]] = {}
        self._slots = asyncio.Semaphore(SHARED_READS)
        self.followers = 0

    @contextmanager
    def follower(self) -> Iterator[None]:
        """One who waits for what comes, for the time of the block. FeedBusy when there are MAX_FOLLOWERS already."""
        if self.followers >= MAX_FOLLOWERS:
            raise FeedBusy(f"This process has {MAX_FOLLOWERS} requests that wait for what comes; ask again, or without `wait`.")
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1

    def waiting(self) -> int:
        """How many wait for what comes."""
        return self.followers

    async def begin(self, asked: Asked, from_position: int | None) -> str:
        """The cursor of one who begins at a position, or at the first event. Refused where the log does not reach so far."""
        return await self._reader.cursor_before(asked.ledger, asked.epoch, from_position or 1)

    async def page(self, asked: Asked, cursor: str, pointer: str = "query:after") -> Page:
        """The events after a cursor. Malformed for what is no cursor, HistoryForked for one of another history; `pointer` says where it
        stood."""
        ledger, limit = asked.ledger, asked.limit
        after = await self._reader.resume(ledger, asked.epoch, cursor, pointer)
        if asked.wanted == EVERYTHING:
            events = await self._reader.events(ledger, after, limit + 1)
            return self._page(asked, events, cursor, after, at_end=True)
        # Read before the events: a cursor that passes over what the filter leaves out must pass over nothing newer.
        position, event_hash = await self._reader.newest(ledger)
        at_end = asked.wanted.contract_ids is not None or position <= after + SCAN_EVENTS
        if not at_end:
            position, event_hash = after + SCAN_EVENTS, await self._reader.hash_at(ledger, after + SCAN_EVENTS)
        events = await self._reader.wanted_events(ledger, after, position, limit + 1, asked.wanted)
        end = cursor_at(asked.epoch, position, event_hash) if position > after else cursor
        return self._page(asked, events, end, max(position, after), at_end=at_end)

    @staticmethod
    def _page(asked: Asked, events: list[StoredEvent], end: str, position: int, *, at_end: bool) -> Page:
        """A page of at most so many events; `end` is where it ends if it has them all."""
        told = events[: asked.limit]
        if told and (len(events) > asked.limit or asked.wanted == EVERYTHING):
            last = told[-1]
            end, position = cursor_at(asked.epoch, last.header.position, last.event_hash), last.header.position
        return Page(asked.epoch, told, end, position, len(events) > asked.limit or not at_end)

    async def shared_page(self, asked: Asked, cursor: str) -> Page:
        """The same, read once for all who ask for it at the same moment; so it may lack what was committed since another asked."""
        key = asked.key(cursor)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(asked, cursor))
        # Shielded: one who waits may go away without taking the answer from the others.
        return await asyncio.shield(flight)

    async def _fly(self, asked: Asked, cursor: str) -> Page:
        try:
            async with self._slots:
                return await self.page(asked, cursor)
        finally:
            del self._flights[asked.key(cursor)]
