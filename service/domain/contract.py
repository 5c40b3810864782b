"""A contract: decide whether an event may join it, fold its events, and say what it is on a day.

`decide` judges a new event, `evolve` folds one in, `settle` gives the state for a day, `judge` the anomalies. All are pure: no clock,
no I/O, no randomness. What is particular to an event type stands with its class in the subject modules imported here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import asdict

from service.domain import agreement, delivery, ending, figures, notes, orders
from service.domain.dates import first_day, last_day
from service.domain.events import EVENT_TYPES, EventData, RecordedEvent
from service.domain.figures import value_of
from service.domain.state import (
    Anomaly,
    CoarseDate,
    Contract,
    ContractState,
    Facts,
    JsonObject,
    Period,
    Quantity,
    StandingFigure,
    TermEnd,
    UnsignedDelivery,
    Value,
    anomaly,
)
from service.domain.terms import term_end
from service.errors import NotAllowedNow

SUBJECTS = (agreement, delivery, ending, figures, notes, orders)
"""The modules whose event types are registered by importing them."""
MAX_EVENTS = 10_000
_JUDGED = frozenset({"figures-conflict", "withheld-past-its-day"})


def _getters(
    parts: dict[str, tuple[str, ...]],
) -> tuple[tuple[str, Callable[[Any], Any], tuple[tuple[str, Callable[[Any], Any]], ...]], ...]:
    """For each part its name, what gets it from the facts, and the same for its members."""
    return tuple((name, attrgetter(name), tuple((member, attrgetter(member)) for member in members)) for name, members in parts.items())


_DATED_PARTS = _getters(
    {
        "opening": ("effective_on",),
        "report": ("effective_on",),
        "signing": ("effective_on", "signed_on", "signed_by"),
        "period": ("start_on", "end_on", "max_end_on"),
        "delivery": ("started_on",),
        "ending": ("effective_on", "notice_on"),
    }
)
_DATED_ENTRIES = _getters({"withheld": ("until",), "extensions": ("effective_on", "new_end_on"), "agreements": ("effective_on",)})
_parts_of = attrgetter("opening", "report", "signing", "period", "delivery", "ending", "notes")
_entries_of = attrgetter(
    *("parties", "items", "value.figures", "replaced_figures", "withheld", "extensions", "agreements", "explanations"),
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
    early = facts.opening is None and event.revision != 1
    if early:
        sentence = f"{data.event_type} takes effect in {event.effective_on}, before the contract was opened"
        contract.flag("before-opening", [event.revision], sentence)
    if not data.is_placed(contract):
        figures.keep_apart(contract, event.revision, data.figure_ids())
        return
    if not early:
        # What was allowed when it was recorded may not fit what was recorded later about earlier days.
        try:
            check_place(data, contract)
        except NotAllowedNow as refusal:
            contract.flag("no-longer-fits", [event.revision], f"{data.event_type} no longer fits: {refusal.detail}")
    data.apply(contract, event)
    if event.hypothetical:
        facts.hypothetical = True


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
    coarse = _coarse_dates(facts)
    shown = asdict(facts)
    shown["value"] = value_of(facts)
    return ContractState(
        **shown,
        status=status,
        status_rests_on=rests_on,
        marks=["withheld"] if facts.withheld else [],
        quantity=_quantity(facts),
        term_end=end,
        uncertain=coarse,
        unsettled=[entry for entry in coarse if last_day(entry.date) > day] if coarse else [],
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
    for name, part_of, members in _DATED_PARTS:
        if part := part_of(facts):
            for member, date_of in members:
                if (text := date_of(part)) and len(text) < 10:
                    rests_on = [part.stated_in[member]] if isinstance(part, Period) else part.rests_on[:1]
                    yield CoarseDate(path=f"/{name}/{member}", date=text, rests_on=rests_on)


def _coarse_in_entries(facts: Facts) -> Iterator[CoarseDate]:
    for name, entries_of, members in _DATED_ENTRIES:
        for index, entry in enumerate(entries_of(facts)):
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


def turning_day(state: ContractState, known: Facts, pending: Iterable[str], day: date) -> date | None:
    """The next day after `day`, of which the state is, on which the view would be another without any new event; None when none is known.

    The state turns by the facts in effect, the anomalies by all that is `known`.
    """
    days = [first_day(effective_on) for effective_on in pending]
    days += [last_day(coarse.date) for coarse in state.unsettled]
    days += [last_day(part.until) + timedelta(days=1) for part in known.withheld if part.until]
    if state.period and state.period.start_on:
        days.append(first_day(state.period.start_on))
    if state.term_end:
        days.append(last_day(state.term_end.end_on) + timedelta(days=1))
    return min((turn for turn in days if turn > day), default=None)


def revisions_of(facts: Facts) -> set[int]:
    """Every revision that the facts rest on; those under `unplaced` are not among them."""
    revisions = [*facts.terms_rest_on, *facts.stated_in.values()]
    for part in _parts_of(facts):
        if part is not None:
            revisions += part.rests_on
    for entries in _entries_of(facts):
        for entry in entries:
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
