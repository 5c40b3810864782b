"""The times of a contract: what of its events is published by a day and in effect on a day, and the view they make together."""

from collections.abc import Iterable, Sequence
from datetime import date

import msgspec

from service.domain.contract import fold, judge, revisions_of, settle, turning_day
from service.domain.events import EVENT_TYPES, RecordedEvent, place_in_fold
from service.domain.parts import JsonObject
from service.domain.state import Anomaly, Contract, ContractState


class Pending(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event that is known and takes effect later."""

    revision: int
    event_type: str
    effective_on: str


class Basis(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event that the state rests on, and on whose word."""

    revision: int
    position: int
    event_id: str
    event_type: str
    effective_on: str
    source: JsonObject


class View(msgspec.Struct, kw_only=True):
    """A contract on a day: its state, and beside it what is flagged, what is still to come, and what the state rests on."""

    state: ContractState
    anomalies: list[Anomaly]
    pending: list[Pending]
    rests_on: list[Basis]
    holds_until: date | None


def basis(event: RecordedEvent) -> Basis:
    return Basis(
        revision=event.revision,
        position=event.position,
        event_id=event.event_id,
        event_type=event.data.event_type,
        effective_on=event.effective_on,
        source=event.source,
    )


def tell(events: Iterable[RecordedEvent], effective_on: date, published_by: date | None = None) -> View:
    """The contract effective on a day, from events in any order, of those published by a day if one is given."""
    told = sorted((e for e in events if published_by is None or e.published_by <= published_by), key=place_in_fold)
    in_effect = [event for event in told if event.day <= effective_on]
    later = told[len(in_effect) :]
    contract = fold(in_effect)
    whole = fold(told) if later else contract
    return view(contract, whole, [basis(event) for event in in_effect], later, effective_on)


def view(contract: Contract, whole: Contract, known: Sequence[Basis], later: Sequence[RecordedEvent], effective_on: date) -> View:
    """The view of a folded contract; `whole` is folded from `later` events too, `known` covers at least what the state rests on."""
    revisions = revisions_of(contract.facts)
    rests_on = [entry for entry in known if entry.revision in revisions]
    if contract.facts.labels:
        rests_on.sort(key=_after_every_day)
    state = settle(contract.facts, effective_on)
    return View(
        state=state,
        anomalies=judge(whole, effective_on, state.value if whole is contract else None),
        pending=[Pending(revision=event.revision, event_type=event.data.event_type, effective_on=event.effective_on) for event in later],
        rests_on=rests_on,
        holds_until=turning_day(state, whole.facts, (event.effective_on for event in later), effective_on),
    )


def _after_every_day(entry: Basis) -> tuple[bool, int]:
    """What holds on every day stands last, as recorded; the others as they were folded."""
    dayless = EVENT_TYPES[entry.event_type].dayless
    return dayless, entry.revision if dayless else 0
