"""A contract: decide whether an event may join it, fold its events, and say what it is on a day.

`decide` judges a new event, `evolve` folds one in, `settle` gives the state for a day, `judge` the anomalies. All are pure: no clock,
no I/O, no randomness. What is particular to an event type stands with its class in the subject modules imported here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from itertools import chain
from operator import attrgetter
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import asdict

from service.domain import (
    agreement,
    amendments,
    corrections,
    delivery,
    disclosure,
    disputes,
    ending,
    erasure,
    figures,
    labels,
    milestones,
    notes,
    options,
    orders,
    parties,
    performance,
    sealing,
)
from service.domain.dates import first_day, last_day, on
from service.domain.events import EVENT_TYPES, EventData, RecordedEvent, check_room
from service.domain.parts import JsonObject, Part, Period, StandingFigure, UnsignedDelivery
from service.domain.state import Anomaly, CoarseDate, Contract, ContractState, Facts, Quantity, TermEnd, Value, anomaly
from service.domain.terms import term_end
from service.domain.value import value_of
from service.errors import NotAllowedNow

RULES = {
    "first-event-opens": (
        "A contract opens with contract.reported or contract.signed. What opens it states title, kind and parties, without which it is "
        "refused as faulty (422)."
    ),
    "events-limit": "A contract holds so many events and no more.",
    "parts-limit": "A list of the state, such as its options or disputes, holds so many entries and no more.",
    "known-anomaly": "A note about an anomaly names one that stands.",
    "known-event": "An event that a note is about, or that is corrected, voided or erased, is one of the same contract.",
    "after-end": (
        "After a contract was completed, terminated, cancelled or superseded only late deliveries, figures, revisions "
        "to actuals, disclosures, disputes, corrections, voids, erasures, reveals, labels and notes are recorded."
    ),
}
FLAGS = {
    "before-opening": "An event takes effect before the contract was opened.",
    "no-longer-fits": (
        "An event was allowed when it was recorded, and is not any more after what was recorded later about earlier days. An extension, "
        "an exercised option or an end is then kept under `unplaced`; anything else still says what it says."
    ),
}

SUBJECTS = (
    agreement,
    parties,
    figures,
    orders,
    options,
    amendments,
    delivery,
    performance,
    milestones,
    disclosure,
    sealing,
    disputes,
    ending,
    labels,
    notes,
    corrections,
    erasure,
)
"""The modules whose event types are registered by importing them."""
MAX_EVENTS = 10_000
_ONE_DAY = timedelta(days=1)
_JUDGED = frozenset({"figures-conflict", "withheld-past-its-day", "milestone-past-its-day", "sealed-past-its-day"})


def _members_of_parts() -> tuple[dict[str, type[Part]], dict[str, type[Part]]]:
    """The members of the facts that are one part, and those that are a list of parts, with the class of each."""
    single: dict[str, type[Part]] = {}
    listed: dict[str, type[Part]] = {}
    for name, hint in get_type_hints(Facts).items():
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, Part):
                (listed if get_origin(hint) is list else single)[name] = kind
    return single, listed


def _getter(member: str) -> Callable[[Any], Any]:
    """What gets a dated member of a part: `window/end_on` is one within an object, which may be absent."""
    outer, _, inner = member.partition("/")
    get = attrgetter(outer)
    return (lambda part: (get(part) or {}).get(inner)) if inner else get


_Members = tuple[tuple[str, Callable[[Any], Any]], ...]


def _dated(parts: dict[str, type[Part]]) -> tuple[Callable[[Facts], tuple[Any, ...]], tuple[tuple[str, _Members], ...]]:
    """What gets the parts with dated members from the facts, all at once, and for each its name and what gets those members."""
    dated = {name: part for name, part in parts.items() if part.dated}
    return attrgetter(*dated), tuple((name, tuple((member, _getter(member)) for member in part.dated)) for name, part in dated.items())


_PARTS, _LISTS = _members_of_parts()
_dated_parts_of, _DATED_PARTS = _dated(_PARTS)
_dated_entries_of, _DATED_ENTRIES = _dated(_LISTS)
_parts_of, _entries_of = attrgetter(*_PARTS), attrgetter(*_LISTS, "value.figures")
_encoder = msgspec.json.Encoder(order="sorted")
_facts_decoder = msgspec.json.Decoder(Facts)


def decide(data: EventData, whole: Contract, at: Contract, revision: int, day: date, *, effective_on: str, sealed: int = 0) -> None:
    """Raise NotAllowedNow when a hard rule refuses the event as `revision` of its contract, Refused when an opening lacks what it states.

    `whole` is everything known of the contract, `at` the contract at the event's own place in time; `day` is today. `data` is what is
    public of the event, without its `sealed` members, which no rule sees.
    """
    if sealed:
        check_room([*whole.facts.sealed, *whole.facts.revealed], "sealed members, with those that were revealed", sealed)
    if revision == 1 and not data.opens:
        raise NotAllowedNow("first-event-opens", "A contract opens with contract.reported or contract.signed.")
    check_limit(revision)
    data.check_whole(whole)
    if (anomaly_id := data.anomaly_id()) and anomaly_id not in {a.anomaly_id for a in judge(whole, day)}:
        raise NotAllowedNow("known-anomaly", f"The contract has no anomaly {anomaly_id}.")
    check_place(data, effective_on, at)


def check_limit(revision: int) -> None:
    if revision > MAX_EVENTS:
        raise NotAllowedNow("events-limit", f"A contract holds at most {MAX_EVENTS} events.")


def check_place(data: EventData, effective_on: str, at: Contract) -> None:
    """The hard rules that look at the contract at the event's own place in time."""
    ending = at.facts.ending
    if ending is not None and not data.allowed_after_end():
        raise NotAllowedNow(
            "after-end",
            f"The contract was {ending.kind} {on(ending.effective_on)} (revision {ending.rests_on[0]}); after that only late deliveries, "
            "figures, revisions to actuals, disclosures, disputes, corrections, voids, erasures, reveals, labels and notes are recorded, "
            f"not {data.event_type}.",
        )
    data.check_place(at)
    if data.judged_by_day:
        data.check_day(at, effective_on)


def evolve(contract: Contract, event: RecordedEvent) -> None:
    """Fold one event in. Total: what takes effect before the opening, or no longer fits, is flagged; what has no target is kept apart, and
    so is what no longer fits and would undo what was recorded later (`folds_unfit`)."""
    facts, data = contract.facts, event.data
    early = facts.opening is None and event.revision != 1 and not data.dayless and not _lost_its_opening(facts)
    if early:
        sentence = f"{data.event_type} takes effect {on(event.effective_on)}, before the contract was opened"
        contract.flag("before-opening", [event.revision], sentence)
    if event.sealed is not None:
        sealing.list_sealed(facts, event)
    if not data.is_placed(contract):
        figures.keep_apart(contract, event.revision, data.figure_ids())
        return
    if not early:
        # What was allowed when it was recorded may not fit what was recorded later about earlier days.
        try:
            check_place(data, event.effective_on, contract)
        except NotAllowedNow as refusal:
            contract.flag("no-longer-fits", [event.revision], f"{data.event_type} no longer fits: {refusal.detail}")
            if not data.folds_unfit:
                figures.keep_apart(contract, event.revision, data.figure_ids())
                return
    data.apply(contract, event)
    if event.hypothetical:
        facts.hypothetical = True


def _lost_its_opening(facts: Facts) -> bool:
    return any(gap.revision == 1 for gap in facts.erased)


def fold(events: Iterable[RecordedEvent]) -> Contract:
    """The contract that events make, given in the order of (effective_on, revision)."""
    contract = Contract()
    for event in events:
        evolve(contract, event)
    return contract


def carry_on(contract: Contract, events: Iterable[RecordedEvent]) -> Contract:
    """The contract that further events make, as a copy: by way of its JSON, which takes a small part of the time of another fold."""
    further = Contract(_facts_decoder.decode(_encoder.encode(contract.facts)), [*contract.anomalies])
    for event in events:
        evolve(further, event)
    return further


def settle(facts: Facts, day: date) -> ContractState:
    """The state that the facts make on a day: status, value, what is uncertain and unsettled."""
    end = term_end(facts)
    status, rests_on = _status(facts, end, day)
    coarse = _coarse_dates(facts)
    if end is not None and end.by == "duration" and len(end.end_on) < 10:
        coarse.append(CoarseDate(path="/term_end/end_on", date=end.end_on, rests_on=end.rests_on))
    shown = asdict(facts)
    shown["value"] = value_of(facts)
    return ContractState(
        **shown,
        status=status,
        status_rests_on=rests_on,
        marks=_marks(facts),
        open_options=[option.option_id for option in facts.options if options.is_open(option, day)] if facts.options else [],
        quantity=_quantity(facts),
        term_end=end,
        uncertain=coarse,
        unsettled=[entry for entry in coarse if last_day(entry.date) > day] if coarse else [],
    )


def _status(facts: Facts, end: TermEnd | None, day: date) -> tuple[str, list[int]]:
    """The first status that applies, and the revisions that say so."""
    if facts.ending:
        return facts.ending.kind, facts.ending.rests_on
    if facts.signing and end and last_day(end.end_on) < day:
        return "expired", sorted({*facts.signing.rests_on, *end.rests_on})
    if facts.suspensions and (stopped := performance.suspended_by(facts)):
        return "suspended", sorted({revision for suspension in stopped for revision in suspension.rests_on})
    if facts.delivery:
        return "delivering", facts.delivery.rests_on[:1]
    return _status_before_deliveries(facts, day)


def _status_before_deliveries(facts: Facts, day: date) -> tuple[str, list[int]]:
    signing, period = facts.signing, facts.period
    if signing and period and period.start_on and first_day(period.start_on) <= day:
        return "in_force", sorted({*signing.rests_on, period.stated_in["start_on"]})
    if signing:
        return "signed", signing.rests_on
    if facts.report:
        return facts.report.stage, facts.report.rests_on
    return "unknown", []


def _marks(facts: Facts) -> list[str]:
    """What stands beside the status."""
    disputed = facts.disputes and any(dispute.status == "raised" for dispute in facts.disputes)
    marks = [*(["disputed"] if disputed else []), *(["withheld"] if facts.withheld else [])]
    return [*marks, "sealed"] if facts.sealed else marks


def _quantity(facts: Facts) -> Quantity:
    """Whether the quantity is known (a signed contract states it), estimated (reports do), withheld or unknown."""
    withheld = [part for part in facts.withheld if part.path == "/quantity" or part.path.startswith(("/quantity/", "/items"))]
    stated = [item for item in facts.items if item.quantity is not None]
    if stated:
        signed = facts.signing is not None and any(set(item.rests_on) & set(facts.signing.rests_on) for item in stated)
        return Quantity(status="known" if signed else "estimated", withheld=withheld)
    is_sealed = any(part.path.startswith("/items/") and part.path.endswith("/quantity") for part in facts.sealed)
    return Quantity(status="withheld" if withheld or is_sealed else "unknown", withheld=withheld)


def _coarse_dates(facts: Facts) -> list[CoarseDate]:
    """Every coarse date that the facts rest on: its path in the state, its text, the revision that stated it.

    Coarse is what is shorter than a day's ten characters, as `is_coarse` says; this is told at each append, without a call for each date.
    """
    found = [*_coarse_in_parts(facts), *_coarse_in_entries(facts), *_coarse_in_figures(facts.value.figures)]
    if facts.delivery and facts.delivery.unsigned:
        found += _coarse_in_unsigned(facts.delivery.unsigned)
    if facts.terms:
        found += _coarse_in_terms(facts.terms, facts.terms_rest_on)
    return found


def _coarse_in_parts(facts: Facts) -> Iterator[CoarseDate]:
    for part, (name, members) in zip(_dated_parts_of(facts), _DATED_PARTS, strict=True):
        if part is not None:
            for member, date_of in members:
                if (text := date_of(part)) and len(text) < 10:
                    rests_on = [part.stated_in[member]] if isinstance(part, Period) else part.rests_on[:1]
                    yield CoarseDate(path=f"/{name}/{member}", date=text, rests_on=rests_on)


def _coarse_in_entries(facts: Facts) -> Iterator[CoarseDate]:
    for entries, (name, members) in zip(_dated_entries_of(facts), _DATED_ENTRIES, strict=True):
        if entries:
            for index, entry in enumerate(entries):
                for member, date_of in members:
                    if (text := date_of(entry)) and len(text) < 10:
                        yield CoarseDate(path=f"/{name}/{index}/{member}", date=text, rests_on=entry.rests_on[:1])


def _coarse_in_figures(figures: Sequence[StandingFigure]) -> Iterator[CoarseDate]:
    for index, figure in enumerate(figures):
        published_on = figure.source.get("published_on", "")
        if len(figure.effective_on) == 10 == len(published_on) and figure.fx is None:
            continue
        rate_on = figure.fx.get("rate_on", "") if figure.fx else ""
        for member, text in (("effective_on", figure.effective_on), ("source/published_on", published_on), ("fx/rate_on", rate_on)):
            if text and len(text) < 10:
                yield CoarseDate(path=f"/value/figures/{index}/{member}", date=text, rests_on=figure.rests_on[:1])


def _coarse_in_unsigned(deliveries: Sequence[UnsignedDelivery]) -> Iterator[CoarseDate]:
    for index, known in enumerate(deliveries):
        if len(known.delivered_on) < 10:
            yield CoarseDate(path=f"/delivery/unsigned/{index}/delivered_on", date=known.delivered_on, rests_on=known.rests_on)


def _coarse_in_terms(terms: JsonObject, rests_on: list[int]) -> Iterator[CoarseDate]:
    for name, member in (("prices", "valid_from"), ("volumes", "period")):
        for index, entry in enumerate(terms.get(name, ())):
            if member in entry and len(entry[member]) < 10:
                yield CoarseDate(path=f"/terms/{name}/{index}/{member}", date=entry[member], rests_on=rests_on)


def judge(whole: Contract, day: date, value: Value | None = None) -> list[Anomaly]:
    """Every anomaly of what is known: those met in the fold, those the facts and their value show, each with the notes that explain it.

    `value` is the value of the facts, where it is at hand.
    """
    facts = whole.facts
    anomalies = [known for known in whole.anomalies if known.rule not in _JUDGED]
    for conflict in (value or value_of(facts)).conflicts:
        sentence = f"{' and '.join(conflict.figures)} differ by {conflict.difference_percent} % and have no root in common"
        _add(anomalies, anomaly("figures-conflict", conflict.rests_on, sentence))
    if facts.withheld or facts.milestones or facts.sealed:
        for found in _past_their_day(facts, day):
            _add(anomalies, found)
    if facts.explanations:
        for known in anomalies:
            known.explained_by = [e.rests_on[0] for e in facts.explanations if e.anomaly_id == known.anomaly_id]
    return anomalies


def _past_their_day(facts: Facts, day: date) -> Iterator[Anomaly]:
    """What should have come by a day that has passed."""
    for part in facts.withheld:
        if part.until and last_day(part.until) < day:
            sentence = f"{part.path} was withheld until {part.until} and is not released"
            yield anomaly("withheld-past-its-day", part.rests_on, sentence)
    for sealed in facts.sealed:
        if sealed.until and last_day(sealed.until) < day:
            sentence = f"{sealed.path} of revision {sealed.rests_on[0]} was sealed until {sealed.until} and is not revealed"
            yield anomaly("sealed-past-its-day", sealed.rests_on, sentence)
    for milestone in facts.milestones:
        if milestone.status == "scheduled" and milestone.due_on and last_day(milestone.due_on) < day:
            sentence = f"the milestone {milestone.milestone_id} was due {on(milestone.due_on)}, and is neither met nor missed"
            yield anomaly("milestone-past-its-day", milestone.rests_on, sentence)


def _add(anomalies: list[Anomaly], found: Anomaly) -> None:
    """An id is made of rule and revisions: what the same events show twice is one anomaly, of two sentences."""
    same = next((known for known in anomalies if known.anomaly_id == found.anomaly_id), None)
    if same is None:
        anomalies.append(found)
    else:
        same.sentence += f"; {found.sentence}"


def turning_day(state: ContractState, known: Facts, pending: Iterable[str], day: date) -> date | None:
    """The next day after `day`, of which the state is, on which the view would be another without any new event; None when none is known.

    The state turns by the facts in effect, the anomalies by all that is `known`.
    """
    days = [first_day(effective_on) for effective_on in pending]
    days += [last_day(coarse.date) for coarse in state.unsettled]
    if known.withheld:
        days += [last_day(part.until) + _ONE_DAY for part in known.withheld if part.until]
    if known.sealed:
        days += [last_day(part.until) + _ONE_DAY for part in known.sealed if part.until]
    if known.milestones:
        days += [last_day(part.due_on) + _ONE_DAY for part in known.milestones if part.due_on]
    if state.options:
        days += options.turning_days(state.options)
    if state.period and state.period.start_on:
        days.append(first_day(state.period.start_on))
    if state.term_end:
        days.append(last_day(state.term_end.end_on) + _ONE_DAY)
    days = [turn for turn in days if turn > day]
    return min(days) if days else None


def revisions_of(facts: Facts) -> set[int]:
    """Every revision that the facts rest on; those under `unplaced` are not among them."""
    revisions = [*facts.terms_rest_on, *facts.stated_in.values()]
    for part in _parts_of(facts):
        if part is not None:
            revisions += part.rests_on
    for entry in chain.from_iterable(_entries_of(facts)):
        revisions += entry.rests_on
    for reference in facts.references:
        revisions += reference["rests_on"]
    if facts.delivery:
        for known in facts.delivery.unsigned:
            revisions += known.rests_on
    return set(revisions)


def encode_state(state: ContractState) -> bytes:
    """The canonical bytes (RFC 8785) of the public state."""
    return _encoder.encode(state)


def decode_facts(state: bytes) -> Facts:
    """The facts within a stored state."""
    return _facts_decoder.decode(state)


__all__ = ["EVENT_TYPES", "decide", "decode_facts", "encode_state", "evolve", "fold", "judge", "revisions_of", "settle"]
