"""A contract: decide whether an event may join it, fold its events, and say what it is on a day.

`decide` judges a new event, `evolve` folds one in, `settle` gives the state for a day, `judge` the anomalies. All are pure: no clock,
no I/O, no randomness. What is particular to an event type stands with its class in the subject modules imported here.
"""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from operator import attrgetter
from typing import Any

import msgspec

from service.domain import agreement, delivery, ending, figures, notes, orders
from service.domain.dates import first_day, is_coarse, last_day
from service.domain.events import EVENT_TYPES, EventData, RecordedEvent
from service.domain.figures import value_of
from service.domain.state import Anomaly, CoarseDate, Contract, ContractState, Facts, Quantity, TermEnd, Value, anomaly
from service.domain.terms import term_end
from service.errors import NotAllowedNow

SUBJECTS = (agreement, delivery, ending, figures, notes, orders)
"""The modules whose event types are registered by importing them."""
MAX_EVENTS = 10_000
_JUDGED = frozenset({"figures-conflict", "withheld-past-its-day"})
_DATED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("opening", ("effective_on",)),
    ("report", ("effective_on",)),
    ("signing", ("effective_on", "signed_on", "signed_by")),
    ("period", ("start_on", "end_on", "max_end_on")),
    ("delivery", ("started_on",)),
    ("ending", ("effective_on", "notice_on")),
    ("withheld", ("until",)),
    ("figures", ("effective_on",)),
    ("extensions", ("effective_on", "new_end_on")),
    ("agreements", ("effective_on",)),
)
_encoder = msgspec.json.Encoder(order="sorted")
_facts_decoder = msgspec.json.Decoder(Facts)


def decide(data: EventData, whole: Contract, at: Contract, revision: int, day: date) -> None:
    """Raise NotAllowedNow when a hard rule refuses the event as `revision` of its contract.

    `whole` is everything known of the contract, `at` the contract at the event's own place in time.
    """
    if revision == 1 and not data.opens:
        raise NotAllowedNow("first-event-opens", "A contract opens with contract.reported or contract.signed.")
    if revision > MAX_EVENTS:
        raise NotAllowedNow("events-limit", f"A contract holds at most {MAX_EVENTS} events.")
    data.check_whole(whole)
    if (anomaly_id := data.anomaly_id()) and anomaly_id not in {a.anomaly_id for a in judge(whole, day)}:
        raise NotAllowedNow("known-anomaly", f"The contract has no anomaly {anomaly_id}.")
    check_place(data, at)


def check_place(data: EventData, at: Contract) -> None:
    """The hard rules that look at the contract at the event's own place in time."""
    ending = at.facts.ending
    if ending is not None and not data.allowed_after_end():
        raise NotAllowedNow(
            "after-end",
            f"The contract was {ending.kind} in {ending.effective_on} (revision {ending.rests_on[0]}); after that only late deliveries, "
            f"figures, revisions to actuals and notes are recorded, not {data.event_type}.",
        )
    data.check_place(at)


def evolve(contract: Contract, event: RecordedEvent) -> None:
    """Fold one event in. Total: what no longer fits, or takes effect before the opening, is flagged; what has no target is kept apart."""
    facts, data = contract.facts, event.data
    if not data.is_placed(contract):
        facts.unplaced.append(event.revision)
        return
    if facts.opening is None and event.revision != 1:
        sentence = f"{data.event_type} takes effect in {event.effective_on}, before the contract was opened"
        contract.flag("before-opening", [event.revision], sentence)
    else:
        _flag_misfit(contract, event)
    data.apply(contract, event)
    if event.hypothetical:
        facts.hypothetical = True


def _flag_misfit(contract: Contract, event: RecordedEvent) -> None:
    """What was allowed when it was recorded may not fit what was recorded later about earlier days."""
    try:
        check_place(event.data, contract)
    except NotAllowedNow as refusal:
        contract.flag("no-longer-fits", [event.revision], f"{event.data.event_type} no longer fits: {refusal.detail}")


def fold(events: Iterable[RecordedEvent]) -> Contract:
    """The contract that events make, given in the order of (effective_on, revision)."""
    contract = Contract()
    for event in events:
        evolve(contract, event)
    return contract


def settle(facts: Facts, day: date) -> ContractState:
    """The state that the facts make on a day: status, value, what is uncertain and unsettled."""
    end = term_end(facts)
    status, rests_on = _status(facts, end, day)
    coarse = list(_coarse_dates(facts))
    return ContractState(
        **{name: getattr(facts, name) for name in Facts.__struct_fields__},
        status=status,
        status_rests_on=rests_on,
        marks=["withheld"] if facts.withheld else [],
        value=value_of(facts),
        quantity=_quantity(facts),
        term_end=end,
        uncertain=coarse,
        unsettled=[entry for entry in coarse if last_day(entry.date) > day],
    )


def _status(facts: Facts, end: TermEnd | None, day: date) -> tuple[str, list[int]]:
    """The first status that applies, and the revisions that say so."""
    signing, period = facts.signing, facts.period
    if facts.ending:
        return facts.ending.kind, facts.ending.rests_on
    if signing and end and last_day(end.end_on) < day:
        return "expired", sorted({*signing.rests_on, *end.rests_on})
    if facts.delivery:
        return "delivering", facts.delivery.rests_on[:1]
    if signing and period and period.start_on and first_day(period.start_on) <= day:
        return "in_force", sorted({*signing.rests_on, period.stated_in["start_on"]})
    if signing:
        return "signed", signing.rests_on
    if facts.report:
        return facts.report.stage, facts.report.rests_on
    return "unknown", []


def _quantity(facts: Facts) -> Quantity:
    """Whether the quantity is known (a signed contract states it), estimated (reports do), withheld or unknown."""
    withheld = [part for part in facts.withheld if part.path == "/quantity" or part.path.startswith(("/quantity/", "/items"))]
    stated = [item for item in facts.items if item.quantity is not None]
    if stated:
        signed = facts.signing is not None and any(set(item.rests_on) & set(facts.signing.rests_on) for item in stated)
        return Quantity(status="known" if signed else "estimated", withheld=withheld)
    return Quantity(status="withheld" if withheld else "unknown", withheld=withheld)


def _coarse_dates(facts: Facts) -> Iterator[CoarseDate]:
    """Every coarse date that the facts rest on: its path in the state, its text, the revision that stated it."""
    for name, members in _DATED:
        part: Any = getattr(facts, name)
        if not part:
            continue
        entries = enumerate(part) if isinstance(part, list) else ((None, part),)
        for index, entry in entries:
            for member in members:
                text = getattr(entry, member)
                if text and is_coarse(text):
                    path = f"/{name}/{member}" if index is None else f"/{name}/{index}/{member}"
                    yield CoarseDate(path=path, date=text, rests_on=_stated_in(entry, member))


def _stated_in(part: Any, member: str) -> list[int]:
    stated_in: dict[str, int] = getattr(part, "stated_in", {})
    return [stated_in[member]] if member in stated_in else part.rests_on[:1]


def judge(whole: Contract, day: date, value: Value | None = None) -> list[Anomaly]:
    """Every anomaly of what is known: those met in the fold, those the facts and their value show, each with the notes that explain it.

    `value` is the value of the facts, where it is at hand.
    """
    facts = whole.facts
    anomalies = [known for known in whole.anomalies if known.rule not in _JUDGED]
    for conflict in (value or value_of(facts)).conflicts:
        sentence = f"{' and '.join(conflict.figures)} differ by {conflict.difference_percent} % and have no root in common"
        _add(anomalies, anomaly("figures-conflict", conflict.rests_on, sentence))
    for part in facts.withheld:
        if part.until and last_day(part.until) < day:
            sentence = f"{part.path} was withheld until {part.until} and is not released"
            _add(anomalies, anomaly("withheld-past-its-day", part.rests_on, sentence))
    if facts.explanations:
        for known in anomalies:
            known.explained_by = [e.rests_on[0] for e in facts.explanations if e.anomaly_id == known.anomaly_id]
    return anomalies


def _add(anomalies: list[Anomaly], found: Anomaly) -> None:
    """An id is made of rule and revisions: what the same events show twice is one anomaly, of two sentences."""
    same = next((known for known in anomalies if known.anomaly_id == found.anomaly_id), None)
    if same is None:
        anomalies.append(found)
    else:
        same.sentence += f"; {found.sentence}"


def turning_day(facts: Facts, known: Facts, uncertain: Iterable[CoarseDate], pending: Iterable[str], day: date) -> date | None:
    """The next day after `day` on which the view would be another without any new event; None when none is known.

    The state turns by the facts in effect, the anomalies by all that is `known`.
    """
    end = term_end(facts)
    days = [first_day(effective_on) for effective_on in pending]
    days += [last_day(coarse.date) for coarse in uncertain]
    days += [last_day(part.until) + timedelta(days=1) for part in known.withheld if part.until]
    if facts.period and facts.period.start_on:
        days.append(first_day(facts.period.start_on))
    if end:
        days.append(last_day(end.end_on) + timedelta(days=1))
    return min((turn for turn in days if turn > day), default=None)


_parts_of = attrgetter(*(name for name in Facts.__struct_fields__ if name not in ("kind", "title", "notes", "hypothetical", "unplaced")))


def revisions_of(facts: Facts) -> set[int]:
    """Every revision that the facts rest on."""
    revisions: set[int] = set()
    for part in filter(None, _parts_of(facts)):
        if not isinstance(part, list):
            revisions.update(getattr(part, "rests_on", ()))
            continue
        for entry in part:
            if isinstance(entry, int):
                revisions.add(entry)
            else:
                revisions.update(entry["rests_on"] if isinstance(entry, dict) else entry.rests_on)
    return revisions


def encode_state(state: ContractState) -> bytes:
    """The canonical bytes (RFC 8785) of the public state."""
    return _encoder.encode(state)


def decode_facts(state: bytes) -> Facts:
    """The facts within a stored state."""
    return _facts_decoder.decode(state)


__all__ = ["EVENT_TYPES", "decide", "decode_facts", "encode_state", "evolve", "fold", "judge", "revisions_of", "settle"]
