"""Delivers a ledger's events to a webhook: in the order of each contract, at least once, and whatever fails holds up its own contract only.

A webhook has one cursor. What lies behind it was delivered, or its contract is held: a hold names the first event of a contract that could
not be delivered, and is tried again, ever more rarely, until it is given up (`dead`) and somebody speaks. Behind the cursor nothing of the
other contracts waits. What was done is written after it was done: whoever is killed in between delivers it once more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import islice
from secrets import SystemRandom
from typing import Final, NamedTuple

import orjson
from uuid_utils import uuid7

from service.feed.cloudevents import cloud_event
from service.feed.sending import Outcome, Sender
from service.feed.shown import event_answer
from service.feed.subscriptions import ACTIVE, DEAD, ENDED, RETRYING, Attempt, Hold, Moved, Webhook, move_on, taken_up
from service.log.ledger import Ledger
from service.log.read import Reader, WantedEvents
from service.log.stored import UNREADABLE, StoredEvent
from service.metrics import deliveries

PAGE_EVENTS: Final = 100
_EVENTS_TO_CATCH_UP: Final = 10
"""Of a contract that was held, before the others have their turn."""
CONTRACTS_AT_A_TIME: Final = 8
WAITS: Final = (5, 30, 120, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 57_600)
"""After the first failure of an event, the second, ...; after the last it is given up, a day and a half later."""
JITTER: Final = 0.2
"""By which part of a wait two that failed together are set apart at most."""
WRITE_SECONDS: Final = 5
"""Between two times that a cursor is kept which moves over events that are not wanted."""
FAILURES_IN_A_ROW: Final = 10
"""Of events that were tried for the first time. After so many the endpoint counts as down, and is only tried now and then."""
PROBE_SECONDS: Final = 30
"""Between two events of other contracts than those that are held, by which an endpoint that is down is tried."""
_DAMAGED: Final = Outcome(
    None, "not sent: what is stored of the event cannot be read; `contract-ledger verify` says where it is damaged", 0
)
"""What comes of an event that is not any more what was recorded: its contract is held, like one that the endpoint refuses."""
_chance = SystemRandom()


class Next(NamedTuple):
    """The next events of a log that are wanted, the position up to which there are no others, and whether there are more beyond."""

    events: list[StoredEvent]
    position: int
    more: bool


ReadNext = Callable[[Ledger, int, WantedEvents], Awaitable[Next]]
"""Reads what comes after a position."""


class Lease(NamedTuple):
    """A webhook that a worker delivers to."""

    ledger: Ledger
    epoch: int
    worker: str
    webhook_id: str


class Deliverer:
    """Delivers to one webhook, for as long as its lease is ours."""

    def __init__(self, reader: Reader, read_next: ReadNext, sender: Sender, slots: asyncio.Semaphore, lease: Lease) -> None:
        self._reader = reader
        self._slots = slots
        self._read_next = read_next
        self._sender = sender
        self._ledger, self._epoch, self._worker, webhook_id = lease
        self._key = {"ledger_id": self._ledger.ledger_id, "webhook_id": webhook_id}
        self._client = sender.client()
        self._webhook: Webhook | None = None
        self._holds: dict[str, Hold] = {}
        self._moved = Moved()
        self._written, self._write_at = 0, 0.0
        self._probe_at = 0.0
        self._rests_until = 0.0  # by a clock that other threads can read, as /metrics does
        self.changed = asyncio.Event()
        """Set when somebody changed the webhook from outside."""
        self.leased_until = 0.0
        """By the loop's clock; nothing is sent later."""

    @property
    def ledger_id(self) -> str:
        return self._ledger.ledger_id

    @property
    def position(self) -> int:
        return self._webhook.position if self._webhook else 0

    @property
    def is_stalled(self) -> bool:
        """Whether the endpoint counts as down, so that it is only tried now and then."""
        return self._webhook is not None and self._webhook.failures >= FAILURES_IN_A_ROW

    @property
    def is_resting(self) -> bool:
        """Whether the endpoint asked to be sent nothing for a while that is not over."""
        return time.monotonic() < self._rests_until

    def held(self) -> Counter[str]:
        """How many contracts it holds back, by the state of the hold."""
        return Counter(hold.status for hold in [*self._holds.values()])

    @property
    def is_over(self) -> bool:
        """Whether nothing may be sent, since the lease has run out or is about to."""
        return asyncio.get_running_loop().time() >= self.leased_until

    async def close(self) -> None:
        await self._client.aclose()

    def reread(self) -> None:
        """Forget what is known of the webhook, and take it up anew with the next step; also that its endpoint asked for a rest, since who
        changed it may know better."""
        self._webhook, self._rests_until = None, 0.0

    def is_as_known(self, version: int, epoch: int) -> bool:
        """Whether nobody changed the webhook from outside, nor began an epoch, before which the database may have been an older copy."""
        was, self._epoch = self._epoch, epoch
        return self._webhook is not None and self._webhook.version == version and epoch == was

    async def step(self) -> bool | None:
        """Deliver some of what is due; whether anything was done, or None when there is nothing to be done any more."""
        if self._webhook is None and not await self._take_up():
            return None
        webhook = self._webhook
        assert webhook is not None
        if webhook.status != ACTIVE:
            return None
        if self.is_resting:
            return False
        done = await self._try_again(webhook)
        if webhook.status == ACTIVE and not self.is_resting:
            done = await (self._probe(webhook) if self.is_stalled else self._deliver_next(webhook)) or done
        await self._write(webhook)
        return done

    async def _write(self, webhook: Webhook) -> None:
        """Keep what was done, at once; how far the cursor came over events that are not wanted, every now and then."""
        now = asyncio.get_running_loop().time()
        if self._moved == Moved() and (webhook.position == self._written or now < self._write_at):
            return
        moved, self._moved = self._moved, Moved()
        async with self._slots:
            is_ours = await move_on(self._reader.database, self._worker, webhook, self._written, moved)
        if is_ours:
            self._written, self._write_at = webhook.position, now + WRITE_SECONDS
        else:
            self._webhook = None

    def seconds_left(self) -> float:
        """Until the next contract that is held is due, or an endpoint that is down, or asked for a rest, is to be tried."""
        if self.is_resting:
            return max(0.0, self._rests_until - time.monotonic())
        left = self._probe_at - asyncio.get_running_loop().time() if self.is_stalled else float("inf")
        due = [_due_at(hold) for hold in self._retried()]
        return max(0.0, min([left, *((when - datetime.now(UTC)).total_seconds() for when in due)]))

    def _retried(self) -> list[Hold]:
        """The holds that are tried again at their times. What failed in front of a cursor that stayed, since others of its page were not
        sent, lies behind none yet: it keeps its attempts until the cursor has passed it."""
        return [hold for hold in self._holds.values() if hold.next_attempt_at and (hold.position <= self.position or not hold.attempts)]

    async def _take_up(self) -> bool:
        async with self._slots:
            found = await taken_up(self._reader.database, self._key)
        if found is None:
            return False
        self._webhook, self._holds = found
        self._moved, self._written = Moved(), self._webhook.position
        return True

    # What comes next

    async def _deliver_next(self, webhook: Webhook) -> bool:
        """Deliver the next events of the log, and move the cursor behind them; whether there were any."""
        found = await self._read_next(self._ledger, webhook.position, wanted_by(webhook))
        by_contract: dict[str, list[StoredEvent]] = {}
        for event in found.events:
            if event.header.contract_id not in self._holds:
                by_contract.setdefault(event.header.contract_id, []).append(event)
        left = iter(by_contract.values())
        while some := list(islice(left, CONTRACTS_AT_A_TIME)):
            arrived = await asyncio.gather(*(self._deliver_in_order(webhook, events) for events in some))
            if not all(each or events[0].header.contract_id in self._holds for each, events in zip(arrived, some, strict=True)):
                return True  # some were not sent, so the cursor stays: what was delivered of the page is delivered again
            if webhook.status != ACTIVE:
                return True
        webhook.position = found.position
        return bool(found.events) or found.more

    async def _probe(self, webhook: Webhook) -> bool:
        """Try an endpoint that is down by the next event that would be its turn; whether there is more to be done. What is held may be
        refused for its own sake for ever: without others the endpoint would never be known to be well."""
        now = asyncio.get_running_loop().time()
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_SECONDS
        found = await self._read_next(self._ledger, webhook.position, wanted_by(webhook))
        event = next((event for event in found.events if event.header.contract_id not in self._holds), None)
        if event is None:
            webhook.position = found.position
            self._probe_at = 0.0 if found.more else self._probe_at
            return found.more
        if await self._deliver_in_order(webhook, [event], is_probe=True) or event.header.contract_id in self._holds:
            webhook.position = event.header.position
        return True

    async def _deliver_in_order(
        self, webhook: Webhook, events: Sequence[StoredEvent], hold: Hold | None = None, *, is_probe: bool = False
    ) -> bool:
        """Deliver events of one contract, which may be held, until one fails, which then is held; whether all were delivered. False without
        a hold: the lease was about to run out."""
        attempts = hold.attempts if hold else 0
        for event in events:
            if hold is None and (why := self._not_tried(webhook, is_probe=is_probe)):
                self._hold(event, 0, why)
                return False
            outcome = await self._send(webhook, event)
            if outcome is None:
                return False
            if not outcome.delivered:
                # What is tried again tells nothing new: one contract that is never taken would make the endpoint count as down.
                webhook.failures += 0 if hold or outcome is _DAMAGED else 1
                self._failed(webhook, event, attempts + 1, outcome)
                return False
            self._arrived(webhook)
            attempts = 0
        return True

    def _not_tried(self, webhook: Webhook, *, is_probe: bool) -> str:
        """Why an event is held before it was tried, so that the cursor moves on and nothing is sent twice; empty where it is tried."""
        if self.is_resting:
            return "not tried: the endpoint asked to wait"
        return "not tried: the endpoint is down" if webhook.failures >= FAILURES_IN_A_ROW and not is_probe else ""

    async def _send(self, webhook: Webhook, event: StoredEvent) -> Outcome | None:
        """Send an event once, and take note of it; None where it must not be sent any more."""
        if self.is_over or self.is_resting or webhook.status != ACTIVE:
            return None
        header, at = event.header, datetime.now(UTC)
        try:
            body = orjson.dumps(cloud_event(event_answer(event, self._epoch), self._ledger.name))
        except UNREADABLE:
            outcome = _DAMAGED
        else:
            outcome = await self._sender.send(self._client, webhook.url, webhook.secrets, header.event_id, body)
            deliveries.add(outcome.result, outcome.milliseconds)
        tried = str(uuid7()), at, header.position, header.contract_id, header.event_id
        self._moved.attempts.append(Attempt(*tried, outcome.status_code, outcome.failure, outcome.milliseconds))
        return outcome

    def _failed(self, webhook: Webhook, event: StoredEvent, attempts: int, outcome: Outcome) -> None:
        self._rests_until = max(self._rests_until, time.monotonic() + outcome.rest_seconds)
        self._hold(event, attempts, outcome.failure or "", outcome.rest_seconds)
        if outcome.status_code == HTTPStatus.GONE:
            webhook.status, webhook.ended_because = ENDED, "the endpoint answered 410 Gone"

    def _arrived(self, webhook: Webhook) -> None:
        """After an endpoint was down, what waits need not wait until its time has come."""
        if webhook.failures >= FAILURES_IN_A_ROW:
            self._moved.retry_all = True
            for hold in self._holds.values():
                if hold.status == RETRYING:
                    hold.next_attempt_at = datetime.now(UTC)
        webhook.failures = 0

    def _hold(self, event: StoredEvent, attempts: int, failure: str, at_least_seconds: float = 0) -> None:
        contract_id, is_dead = event.header.contract_id, attempts > len(WAITS)
        wait = 0.0 if is_dead else WAITS[max(attempts, 1) - 1]
        seconds = None if is_dead else max(wait * _chance.uniform(1 - JITTER, 1 + JITTER), at_least_seconds)
        due = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        self._holds[contract_id] = Hold(contract_id, event.header.position, DEAD if is_dead else RETRYING, attempts, due, failure)
        self._moved.held[contract_id] = (self._holds[contract_id], seconds)
        self._moved.let_go.discard(contract_id)

    # What could not be delivered

    async def _try_again(self, webhook: Webhook) -> bool:
        """Deliver what is due of the contracts that are held; whether there was any. While the endpoint is down one is tried at a time."""
        now = datetime.now(UTC)
        due = sorted((hold for hold in self._retried() if _due_at(hold) <= now), key=_due_at)
        some = due[: 1 if webhook.failures >= FAILURES_IN_A_ROW else CONTRACTS_AT_A_TIME]
        await asyncio.gather(*(self._catch_up(webhook, hold) for hold in some))
        return bool(some)

    async def _catch_up(self, webhook: Webhook, hold: Hold) -> None:
        """Deliver what lies behind the cursor of a contract that is held, and let it go when it is all delivered."""
        wanted = WantedEvents(wanted_by(webhook).event_types, (hold.contract_id,))
        async with self._slots:
            events = await self._reader.wanted_events(self._ledger, hold.position - 1, webhook.position, _EVENTS_TO_CATCH_UP, wanted)
        if not await self._deliver_in_order(webhook, events, hold):
            return
        if len(events) == _EVENTS_TO_CATCH_UP:
            hold.position, hold.attempts, hold.next_attempt_at = events[-1].header.position + 1, 0, datetime.now(UTC)
            self._moved.held[hold.contract_id] = (hold, 0.0)
            return
        self._holds.pop(hold.contract_id, None)
        self._moved.held.pop(hold.contract_id, None)
        self._moved.let_go.add(hold.contract_id)


def wanted_by(webhook: Webhook) -> WantedEvents:
    """Which events a webhook is sent."""
    return WantedEvents(tuple(webhook.event_types) or None, tuple(webhook.contract_ids) or None)


def _due_at(hold: Hold) -> datetime:
    assert hold.next_attempt_at is not None
    return hold.next_attempt_at
