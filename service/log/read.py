"""Reading: current states straight from their rows, past states folded from the log, and pages of the log itself."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from psycopg import AsyncConnection

from service.database import Database
from service.domain.contract import encode_state
from service.domain.erasure import ERASED, read_target
from service.domain.events import RecordedEvent
from service.domain.timeline import View, tell
from service.errors import ContractNotFound, EventNotFound, HistoryForked, Internal, LedgerNotFound, MemberFault, Refused
from service.log.cursor import cursor_at, parse_cursor
from service.log.header import NO_PREVIOUS, Header, SealedPart, read_sealed
from service.log.histories import Histories
from service.log.ledger import Ledger, instant, zone
from service.log.lists import Wanted, count_query, list_query
from service.log.stored import StoredEvent, stored_event
from service.projections.contracts import encode_beside

_CURRENT = """
SELECT c.contract_id::text, c.revision, c.settled_on, c.holds_until, c.state, c.beside
FROM contracts c
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.contract_id = ANY(%(contract_ids)s::uuid[])
  AND c.generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
"""
_HEAD = """
SELECT last_position, recorded_at, clock_timestamp() FROM batches
WHERE ledger_id = %(ledger_id)s::uuid ORDER BY last_position DESC LIMIT 1
"""
_ERASURES = """
SELECT e.event_id::text,
       (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[]) AND e.event_type = %(event_type)s
"""
_POSITION_OF_REVISION = """
SELECT position FROM events WHERE ledger_id = %(ledger_id)s::uuid AND contract_id = %(contract_id)s::uuid AND revision = %(revision)s
"""
_RECORDED_AT = "SELECT recorded_at FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position = %(position)s"
# The newest batch that was whole by the instant (the first is of 1970), and the events of the next that were recorded by it.
POSITION_AT = """
WITH whole AS (
    SELECT last_position FROM batches
    WHERE ledger_id = %(ledger_id)s::uuid AND recorded_at <= greatest(%(known_at)s::timestamptz, '1970-01-01T00:00:00Z')
    ORDER BY recorded_at DESC LIMIT 1
), next AS (
    SELECT last_position FROM batches
    WHERE ledger_id = %(ledger_id)s::uuid AND last_position > (SELECT last_position FROM whole)
    ORDER BY last_position LIMIT 1
)
SELECT coalesce(max(position), (SELECT last_position FROM whole)) FROM events
WHERE ledger_id = %(ledger_id)s::uuid AND recorded_at <= %(known_at)s
  AND position > (SELECT last_position FROM whole) AND position <= (SELECT last_position FROM next)
"""
# The body by a subquery, wherever events are read with theirs: for a ledger that the statistics do not know yet, a join is planned as
# if the ledger had one payload, and goes through all of them for each event.
_EVENT = """
SELECT e.header, e.event_hash, (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND """
_EVENT_BY_ID = _EVENT + "e.event_id = %(event_id)s::uuid"
_EVENTS_AFTER = _EVENT + "e.position > %(after)s ORDER BY e.position LIMIT %(limit)s"
_WANTED = "e.position > %(after)s AND e.position <= %(upto)s AND (%(event_types)s::text[] IS NULL OR e.event_type = ANY(%(event_types)s)) "
_WANTED_EVENTS = _EVENT + _WANTED + "ORDER BY e.position LIMIT %(limit)s"
_WANTED_OF_CONTRACTS = _EVENT + "e.contract_id = ANY(%(contract_ids)s::uuid[]) AND " + _WANTED + "ORDER BY e.position LIMIT %(limit)s"
_CONTRACT_EVENTS = _EVENT + "e.contract_id = %(contract_id)s::uuid AND e.revision > %(after)s ORDER BY e.revision LIMIT %(limit)s"
_SEALED = """
SELECT position, sealed FROM payloads
WHERE ledger_id = %(ledger_id)s::uuid AND position = ANY(%(positions)s::bigint[]) AND sealed IS NOT NULL
"""
_LAST_REVISION = """
SELECT coalesce(max(revision), 0) FROM events WHERE ledger_id = %(ledger_id)s::uuid AND contract_id = %(contract_id)s::uuid
"""
_NEWEST = """
SELECT position, encode(event_hash, 'hex') FROM events WHERE ledger_id = %(ledger_id)s::uuid ORDER BY position DESC LIMIT 1
"""
_HASH_AT = "SELECT event_hash FROM events WHERE ledger_id = %(ledger_id)s::uuid AND position = %(position)s"
_LAST_FINISHED = """
SELECT min(holds_until) FROM contracts c
WHERE c.ledger_id = %(ledger_id)s::uuid AND holds_until IS NOT NULL
  AND c.generation = (SELECT generation FROM ledgers WHERE ledger_id = %(ledger_id)s::uuid)
"""
_LEDGER = """
SELECT ledger_id::text, name, time_zone, if_match_required, unique_reference_schemes, public_log, strict, epoch
FROM ledgers WHERE name = %(name)s
"""


class AsOf(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What an answer holds for. `final` once a later event is recorded: then the same question has the same answer for ever."""

    effective_on: str
    known_position: int
    known_at: str
    time_zone: str
    published_by: str | None = None
    final: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times a question is put at; None is today, or now. `revision` and the two `known_` exclude one another.

    `prefix` is what their names began with, for who asks at several.
    """

    effective_on: date | None = None
    known_position: int | None = None
    known_at: datetime | None = None
    published_by: date | None = None
    revision: int | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class CurrentState:
    """A contract now: its row's JSON, and what it holds for."""

    contract_id: str
    revision: int
    state: bytes
    beside: bytes
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class WantedEvents:
    """Which events are wanted, by members of their headers: of some types, of some contracts; None for all."""

    event_types: tuple[str, ...] | None = None
    contract_ids: tuple[str, ...] | None = None

    def has(self, header: Header) -> bool:
        """Whether an event of such a header is among them."""
        of_type = self.event_types is None or header.event_type in self.event_types
        return of_type and (self.contract_ids is None or header.contract_id in self.contract_ids)


EVERYTHING = WantedEvents()


class Reader:
    """Reads for the requests of one process. Those that want a current state at the same moment share one query."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._histories = Histories(database)
        self._waiting: dict[str, tuple[Ledger, dict[str, list[asyncio.Future[CurrentState]]]]] = {}
        self._flights: dict[str, asyncio.Task[None]] = {}

    async def ledger(self, name: str) -> tuple[Ledger, int]:
        """A ledger by its name, and its epoch. LedgerNotFound if there is none."""
        rows = await self.database.rows(_LEDGER, {"name": name})
        if not rows:
            raise LedgerNotFound(f"There is no ledger {name}; PUT /v1/ledgers/{name} makes it.")
        *members, epoch = rows[0]
        return Ledger(*members), epoch

    async def current(self, ledger: Ledger, contract_id: str) -> CurrentState:
        """A contract as known now, effective today: from its row, or folded afresh where the row's day has passed."""
        future: asyncio.Future[CurrentState] = asyncio.get_running_loop().create_future()
        _, wanted = self._waiting.setdefault(ledger.ledger_id, (ledger, {}))
        wanted.setdefault(contract_id, []).append(future)
        if ledger.ledger_id not in self._flights:
            self._flights[ledger.ledger_id] = asyncio.create_task(self._fly(ledger.ledger_id))
        return await future

    async def _fly(self, ledger_id: str) -> None:
        """Answer those that wait, one query for all, until nobody waits."""
        try:
            while ledger_id in self._waiting:
                ledger, wanted = self._waiting.pop(ledger_id)
                try:
                    await self._answer(ledger, wanted)
                except Exception as error:  # noqa: BLE001 - it is handed to everyone who waits
                    for future in (future for futures in wanted.values() for future in futures if not future.done()):
                        future.set_exception(error)
        finally:
            del self._flights[ledger_id]

    async def _answer(self, ledger: Ledger, wanted: dict[str, list[asyncio.Future[CurrentState]]]) -> None:
        parameters = {"ledger_id": ledger.ledger_id, "contract_ids": "{" + ",".join(wanted) + "}"}

        async def head_and_rows(connection: AsyncConnection[Any]) -> tuple[Any, dict[str, Any]]:
            async with connection.pipeline():
                head = await connection.execute(_HEAD, parameters)
                cursor = await connection.execute(_CURRENT, parameters)
            return await head.fetchone(), {row[0]: row for row in await cursor.fetchall()}

        newest, rows = await self.database.read(head_and_rows)
        if newest is None:
            raise LedgerNotFound(f"There is no ledger {ledger.name}.")
        position, recorded_at, now = newest
        today = now.astimezone(zone(ledger.time_zone)).date()
        as_of = AsOf(
            effective_on=today.isoformat(),
            known_position=position,
            known_at=instant(recorded_at),
            time_zone=ledger.time_zone,
            final=False,
        )
        for contract_id, futures in wanted.items():
            told: CurrentState | Exception
            try:
                told = await self._current_state(ledger, contract_id, rows.get(contract_id), today, as_of)
            except Exception as error:  # noqa: BLE001 - of this contract, so it is handed to those alone who asked for it
                told = error
            for future in (future for future in futures if not future.done()):
                if isinstance(told, Exception):
                    future.set_exception(told)
                else:
                    future.set_result(told)

    async def _current_state(self, ledger: Ledger, contract_id: str, row: Sequence[Any] | None, today: date, as_of: AsOf) -> CurrentState:
        if row is None:
            raise ContractNotFound(f"Ledger {ledger.name} has no contract {contract_id}.")
        _, revision, settled_on, holds_until, state, beside = row
        if settled_on <= today and (holds_until is None or today < holds_until):
            return CurrentState(contract_id, revision, state.encode(), beside.encode(), as_of)
        told = tell(await self.history(ledger, contract_id, as_of.known_position), today)
        return folded_state(contract_id, revision, told, as_of)

    async def history(self, ledger: Ledger, contract_id: str, position: int) -> list[RecordedEvent]:
        """The events of a contract up to a position."""
        events = await self._histories.upto(ledger, contract_id, position)
        await self._check_gaps(ledger, {event.event_id: contract_id for event in events if event.data.is_erased})
        return events

    async def erasures(self, ledger: Ledger, contract_ids: Sequence[str]) -> dict[str, str]:
        """By the ids of the events of some contracts that are erased, those of their erasures."""
        parameters = {"ledger_id": ledger.ledger_id, "contract_ids": list(contract_ids), "event_type": ERASED}
        rows = await self.database.rows(_ERASURES, parameters)
        return {read_target(body): event_id for event_id, body in rows}

    async def _check_gaps(self, ledger: Ledger, gaps: Mapping[str, str]) -> dict[str, str]:
        """The erasures of events (with their contracts) that have no body. Internal where there is none for one."""
        if not gaps:
            return {}
        erasures = await self.erasures(ledger, sorted(set(gaps.values())))
        if lost := gaps.keys() - erasures.keys():
            raise Internal(
                f"The body of event {min(lost)} is missing, and no erasure explains it. "
                f"`contract-ledger verify --ledger {ledger.name}` says where the ledger is damaged."
            )
        return erasures

    async def at(self, ledger: Ledger, contract_id: str, times: Times) -> CurrentState:
        """A contract as known, published and effective at given times, folded from the log."""
        head, head_at, now = (await self.database.rows(_HEAD, {"ledger_id": ledger.ledger_id}))[0]
        position = await self._known_position(ledger, contract_id, times, head, now)
        events = await self.history(ledger, contract_id, position)
        if not events:
            raise ContractNotFound(f"Ledger {ledger.name} knew no contract {contract_id} at position {position}.")
        known_at = await self.recorded_at(ledger, position) if position < head else head_at
        effective_on = times.effective_on or now.astimezone(zone(ledger.time_zone)).date()
        as_of = AsOf(
            effective_on=effective_on.isoformat(),
            known_position=position,
            known_at=instant(known_at),
            published_by=times.published_by.isoformat() if times.published_by else None,
            time_zone=ledger.time_zone,
            final=head_at > known_at,
        )
        told = tell(events, effective_on, times.published_by)
        return folded_state(contract_id, events[-1].revision, told, as_of)

    async def _known_position(self, ledger: Ledger, contract_id: str, times: Times, head: int, now: datetime) -> int:
        parameters = {"ledger_id": ledger.ledger_id, "contract_id": contract_id}
        if times.revision is not None:
            rows = await self.database.rows(_POSITION_OF_REVISION, parameters | {"revision": times.revision})
            if not rows:
                raise ContractNotFound(f"Ledger {ledger.name} has no contract {contract_id} with a revision {times.revision}.")
            return int(rows[0][0])
        if times.known_at is not None:
            if times.known_at > now:
                raise _refused(times.prefix + "known_at", f"the instant is in the future; it is {instant(now)} now")
            return int((await self.database.rows(POSITION_AT, parameters | {"known_at": times.known_at}))[0][0])
        if times.known_position is not None and times.known_position > head:
            raise _refused(times.prefix + "known_position", f"the ledger has {head} events so far")
        return head if times.known_position is None else times.known_position

    async def position_at(self, ledger: Ledger, known_at: datetime) -> int | None:
        """The ledger's last position at an instant; None for one in the future."""
        _, _, now = (await self.database.rows(_HEAD, {"ledger_id": ledger.ledger_id}))[0]
        if known_at > now:
            return None
        return int((await self.database.rows(POSITION_AT, {"ledger_id": ledger.ledger_id, "known_at": known_at}))[0][0])

    async def recorded_at(self, ledger: Ledger, position: int) -> datetime:
        """The instant at which an event was recorded."""
        rows = await self.database.rows(_RECORDED_AT, {"ledger_id": ledger.ledger_id, "position": position})
        recorded_at: datetime = rows[0][0] if rows else datetime.fromtimestamp(0, UTC)
        return recorded_at

    async def event(self, ledger: Ledger, event_id: str) -> StoredEvent:
        """One event. EventNotFound if the ledger has none with the id."""
        rows = await self.database.rows(_EVENT_BY_ID, {"ledger_id": ledger.ledger_id, "event_id": event_id})
        if not rows:
            raise EventNotFound(f"Ledger {ledger.name} has no event {event_id}.")
        return (await self._told(ledger, rows))[0]

    async def events(self, ledger: Ledger, after: int, limit: int) -> list[StoredEvent]:
        """The events after a position, in the order of the log."""
        parameters = {"ledger_id": ledger.ledger_id, "after": after, "limit": limit}
        return await self._told(ledger, await self.database.rows(_EVENTS_AFTER, parameters))

    async def wanted_events(self, ledger: Ledger, after: int, upto: int, limit: int, wanted: WantedEvents) -> list[StoredEvent]:
        """The events after a position, up to another, that are wanted, in the order of the log."""
        parameters = {"ledger_id": ledger.ledger_id, "after": after, "upto": upto, "limit": limit}
        parameters["event_types"] = None if wanted.event_types is None else list(wanted.event_types)
        if wanted.contract_ids is None:
            return await self._told(ledger, await self.database.rows(_WANTED_EVENTS, parameters))
        parameters["contract_ids"] = list(wanted.contract_ids)
        return await self._told(ledger, await self.database.rows(_WANTED_OF_CONTRACTS, parameters, planned_anew=True))

    async def _told(self, ledger: Ledger, rows: Sequence[Sequence[Any]]) -> list[StoredEvent]:
        """Rows as events, where those that are erased name their erasures."""
        events = [stored_event(row) for row in rows]
        gaps = {event.header.event_id: event.header.contract_id for event in events if event.body is None}
        if not gaps:
            return events
        erasures = await self._check_gaps(ledger, gaps)
        return [replace(event, erased_by=erasures[event.header.event_id]) if event.body is None else event for event in events]

    async def sealed_parts(self, ledger: Ledger, events: Sequence[StoredEvent]) -> dict[int, list[SealedPart]]:
        """The values and salts of what is sealed in some events, by position: for a reader with the right to them alone."""
        positions = sorted(event.header.position for event in events if event.header.sealed_digest)
        if not positions:
            return {}
        rows = await self.database.rows(_SEALED, {"ledger_id": ledger.ledger_id, "positions": positions})
        return {position: read_sealed(sealed) for position, sealed in rows}

    async def newest(self, ledger: Ledger) -> tuple[int, str]:
        """The position and the hash of the newest event; 0 and zeros before the first."""
        rows = await self.database.rows(_NEWEST, {"ledger_id": ledger.ledger_id})
        return (rows[0][0], rows[0][1]) if rows else (0, NO_PREVIOUS)

    async def contract_events(self, ledger: Ledger, contract_id: str, after: int, limit: int) -> list[StoredEvent]:
        """The events of a contract after a revision, in the order of recording."""
        parameters = {"ledger_id": ledger.ledger_id, "contract_id": contract_id, "after": after, "limit": limit}
        return await self._told(ledger, await self.database.rows(_CONTRACT_EVENTS, parameters))

    async def head(self, ledger: Ledger) -> tuple[int, datetime, date]:
        """The ledger's last position, its instant, and today in the ledger's zone."""
        position, recorded_at, now = (await self.database.rows(_HEAD, {"ledger_id": ledger.ledger_id}))[0]
        return position, recorded_at, now.astimezone(zone(ledger.time_zone)).date()

    async def contracts(self, ledger: Ledger, wanted: Wanted, after: tuple[str, str] | None, limit: int) -> list[Sequence[Any]]:
        """Contracts that are wanted after a place: (contract_id, revision, state, day), in the order that is wanted."""
        statement, parameters = list_query(wanted, after)
        # A prepared plan would end up walking the whole ledger for a rare term, once common ones had been asked for.
        return [*await self.database.rows(statement, parameters | {"ledger_id": ledger.ledger_id, "limit": limit}, planned_anew=True)]

    async def count(self, ledger: Ledger, wanted: Wanted, limit: int) -> int:
        """How many contracts are wanted; no more than the limit are counted."""
        statement, parameters = count_query(wanted)
        parameters |= {"ledger_id": ledger.ledger_id, "limit": limit}
        return int((await self.database.rows(statement, parameters, planned_anew=True))[0][0])

    async def last_revision(self, ledger: Ledger, contract_id: str) -> int:
        """The revision of a contract's newest event, which is how many events it has; 0 for a contract that there is not."""
        rows = await self.database.rows(_LAST_REVISION, {"ledger_id": ledger.ledger_id, "contract_id": contract_id})
        return int(rows[0][0])

    async def next_turn(self, ledger: Ledger) -> date | None:
        """The earliest day on which a row stops to hold; rows whose day has come are refreshed by the turn of the day."""
        rows = await self.database.rows(_LAST_FINISHED, {"ledger_id": ledger.ledger_id})
        turn: date | None = rows[0][0]
        return turn

    async def hash_at(self, ledger: Ledger, position: int) -> str:
        """The hash of the event at a position, zeros before the first; empty where there is none."""
        if not position:
            return NO_PREVIOUS
        rows = await self.database.rows(_HASH_AT, {"ledger_id": ledger.ledger_id, "position": position})
        return rows[0][0].hex() if rows else ""

    async def cursor_before(self, ledger: Ledger, epoch: int, position: int) -> str:
        """The cursor after which the event at a position comes, which may be the next one to be recorded. Refused for a later one."""
        event_hash = await self.hash_at(ledger, position - 1)
        if not event_hash:
            head, _ = await self.newest(ledger)
            raise _refused("from_position", f"the ledger has {head} events so far")
        return cursor_at(epoch, position - 1, event_hash)

    async def resume(self, ledger: Ledger, epoch: int, cursor: str, pointer: str = "query:after") -> int:
        """The position a cursor stands at. Malformed for what is no cursor, HistoryForked for one of another history."""
        cursor_epoch, position, hash_prefix = parse_cursor(cursor, pointer)
        stands_at = await self.hash_at(ledger, position)
        if cursor_epoch != epoch or stands_at[: len(hash_prefix)] != hash_prefix:
            raise HistoryForked(
                f"Event {position} of this ledger is not the one the cursor stands at: the cursor is of another ledger, or the ledger "
                "was restored from an older copy. Read again from the start, or from a position known to be shared.",
                (MemberFault(pointer, "a cursor of another history"),),
            )
        return position


def folded_state(contract_id: str, revision: int, told: View, as_of: AsOf) -> CurrentState:
    """An answer from a fold."""
    return CurrentState(contract_id, revision, encode_state(told.state), encode_beside(told), as_of)


def _refused(parameter: str, detail: str) -> Refused:
    return Refused(f"{parameter}: {detail}.", (MemberFault(f"query:{parameter}", detail),))
