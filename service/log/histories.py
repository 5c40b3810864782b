"""The events of contracts, ready for the fold: read from the log, and of contracts that were asked for lately held in memory."""

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from psycopg import AsyncConnection

from service.database import Database
from service.domain.erasure import ERASED
from service.domain.events import RecordedEvent
from service.log.ledger import Ledger, zone
from service.log.stored import recorded_event

MAX_HELD_BYTES = 16 * 1024 * 1024
"""How much of the log, as stored, is held in memory; decoded it takes less than twice as much."""
HELD_SECONDS = 60
"""For how long a history is held after it was read whole, however often it is asked for."""

# In one row each: a thousand rows are told, taken and made one by one, and wake the event loop with every eight kilobytes.
_HEADERS = """
SELECT array_agg(e.position ORDER BY e.revision), array_agg(e.header ORDER BY e.revision) FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = %(contract_id)s::uuid AND e.revision >= %(revision)s
"""
# By one walk over the index, in half the time that it takes to look up the body of each event beside its header.
_BODIES = """
SELECT array_agg(p.position), array_agg(p.body) FROM payloads p
WHERE p.ledger_id = %(ledger_id)s::uuid AND p.position = ANY(ARRAY(
    SELECT e.position FROM events e
    WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = %(contract_id)s::uuid AND e.revision > %(revision)s))
"""
_position = attrgetter("position")
_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Held:
    """A contract's events up to one of them, whose header, which holds the hash of the one before it, stands for all."""

    events: list[RecordedEvent]
    last_header: bytes
    size: int
    until: float


_NOTHING = _Held([], b"", 0, 0)


class Histories:
    """Reads the events of contracts for one process.

    Events never change, so what was read a moment ago is not read again. Each time the log is asked whether it still has the last event
    that is held, and for those after it: with an erasure among them, or in a log that is another (a restored one), all is read anew.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self.held_bytes = 0
        """How much of the log is held, as stored."""

    async def upto(self, ledger: Ledger, contract_id: str, position: int) -> list[RecordedEvent]:
        """The events of a contract up to a position, in the order of recording. UNREADABLE for what was damaged in the log."""
        key = (ledger.ledger_id, ledger.time_zone, contract_id)
        known = self._held.get(key, _NOTHING)
        whole = await self._carry_on(ledger, contract_id, known)
        if whole is _NOTHING and known is not _NOTHING:
            whole = await self._carry_on(ledger, contract_id, _NOTHING)
        self._hold(key, whole)
        return whole.events[: bisect_right(whole.events, position, key=_position)]

    async def _carry_on(self, ledger: Ledger, contract_id: str, known: _Held) -> _Held:
        """What is known of a contract with all that came after it; nothing, where the log does not bear out what is known."""
        parameters = {"ledger_id": ledger.ledger_id, "contract_id": contract_id, "revision": len(known.events)}

        async def headers_and_bodies(connection: AsyncConnection[Any]) -> tuple[Any, Any]:
            async with connection.pipeline():
                headers = await connection.execute(_HEADERS, parameters, binary=True)
                bodies = await connection.execute(_BODIES, parameters, binary=True)
            return await headers.fetchone(), await bodies.fetchone()

        (positions, headers), (stored, contents) = await self._database.read(headers_and_bodies)
        bodies = dict(zip(stored or (), contents or (), strict=True))
        if known.events:
            if headers is None or headers[0] != known.last_header:
                return _NOTHING
            positions, headers = positions[1:], headers[1:]
        if not headers:
            return known
        local = zone(ledger.time_zone)
        events = [recorded_event(header, bodies.get(position), local) for position, header in zip(positions, headers, strict=True)]
        if known.events and any(event.data.event_type == ERASED for event in events):
            return _NOTHING
        size = known.size + sum(map(len, headers)) + sum(map(len, contents or ()))
        return _Held([*known.events, *events], headers[-1], size, known.until or time.monotonic() + HELD_SECONDS)

    def _hold(self, key: _Key, whole: _Held) -> None:
        """Hold a history, in place of those that were not asked for the longest time; none that would take all there is."""
        former = self._drop(key)
        if not whole.events or whole.size > MAX_HELD_BYTES:
            return
        self._held[key] = whole
        self.held_bytes += whole.size
        while self.held_bytes > MAX_HELD_BYTES:
            self._drop(next(iter(self._held)))
        if former is None or former.until != whole.until:
            asyncio.get_running_loop().call_later(HELD_SECONDS, self._let_go, key, whole.until)

    def _drop(self, key: _Key) -> _Held | None:
        held = self._held.pop(key, None)
        self.held_bytes -= held.size if held else 0
        return held

    def _let_go(self, key: _Key, until: float) -> None:
        """What another process erases, and what was damaged and is mended, shall not be told from here for long."""
        if (held := self._held.get(key)) is not None and held.until == until:
            self._drop(key)
