"""The events that make the ledger say of a contract what a release does: an opening where there is no contract yet, else what is new."""

from collections.abc import Iterator, Sequence
from typing import Any

from service.domain.amendments import TermsAmended
from service.domain.events import RecordedEvent
from service.domain.figures import ValueRevised
from service.domain.notes import NoteAdded
from service.domain.parts import StandingFigure
from service.domain.state import Facts
from service.domain.timeline import whole_of
from service.errors import Refused
from service.exchange.ocds_contract import REFERENCE, Amended, Milestone, Said, reference_of
from service.exchange.ocds_read import JsonObject

Update = tuple[str, str, JsonObject]
"""An event's type, its day of effect and its data."""
FIGURE = "ocds-"
_PERIOD_MEMBERS = {"period/startDate": "start_on", "period/endDate": "end_on", "period/maxExtentDate": "max_end_on"}
_SIGNED = frozenset({"active", "terminated"})
_OUTCOME = {"met": "milestone.met", "notMet": "milestone.missed"}


def updates(facts: Facts | None, events: Sequence[RecordedEvent], said: Said) -> Iterator[Update]:
    """The events of a release, given what stands. Refused where there is no contract yet and the release cannot open one."""
    made: list[Update] = []
    if facts is None:
        made += _opening(said)
        facts = Facts()
        made += _told_amendments(said.amendments, said)
    else:
        made += _amended(facts, events, said)
        made += _restated(facts, said, made)
        made += _revalued(facts, events, said)
        made += _signed_later(facts, events, said)
    made += _of_milestones(facts, said, _since(events, made, said))
    made += _ended(facts, said)
    yield from made or [_nothing_new(said)]


def _since(events: Sequence[RecordedEvent], made: Sequence[Update], said: Said) -> str:
    """Since when the contract is as the release says: since its opening, if that was told on the same day, else since the release."""
    if not events:
        return made[0][1]
    opening = events[0]
    return opening.effective_on if opening.source.get("published_on") == said.day else said.day


def _opening(said: Said) -> Iterator[Update]:
    """Signed on its day, if that is not after the release; else reported on the day of the release, and perhaps signed later."""
    if said.title is None:
        raise Refused("title: it has none, and no contract is known by its id")
    if not said.parties:
        raise Refused("parties: none has a role in the contract")
    signed_on = said.signed_on if said.signed_on and said.signed_on <= said.day else None
    signed = signed_on is not None or (said.signed_on is None and said.status in _SIGNED)
    members = _members(said, basis="contractual" if signed else "disclosed")
    if signed:
        yield "contract.signed", signed_on or said.day, {**_signing(said), **members}
        return
    yield "contract.reported", said.day, {"stage": "reported", **members}
    if said.signed_on:
        yield "contract.signed", said.signed_on, _signing(said)


def _signing(said: Said) -> JsonObject:
    """The day of signing; where it is not told, the day of the release is the latest that it may be."""
    return {"signed_on": said.signed_on} if said.signed_on else {"signed_by": said.day}


def _members(said: Said, basis: str) -> JsonObject:
    references = [
        {"scheme": "ocid", "id": said.release.ocid},
        {"scheme": REFERENCE, "id": reference_of(said.release.ocid, said.contract_id)},
    ]
    members: JsonObject = {"title": said.title, "kind": "supply", "references": references, "parties": said.parties}
    more = {"items": said.items, "period": said.period, "figures": [_figure(1, said.value, basis)] if said.value else []}
    return members | {name: member for name, member in more.items() if member}


def _figure(number: int, value: JsonObject, basis: str) -> JsonObject:
    return {"figure_id": f"{FIGURE}{number}", **value, "basis": basis, "bound": "exact", "scope": "total"}


def _amended(facts: Facts, events: Sequence[RecordedEvent], said: Said) -> Iterator[Update]:
    """New amendments: the latest says what differs from what stood, the others that they were made."""
    told = set(_told_of(events))
    new = sorted((known for known in said.amendments if known.amendment_id not in told), key=lambda known: known.day or said.day)
    if not new:
        return
    changes = list(_changes(facts, said))
    yield from _told_amendments(new[:-1], said)
    if changes:
        data: JsonObject = {"amendment_id": new[-1].amendment_id, "changes": changes}
        rationale = {"rationale": new[-1].rationale} if new[-1].rationale else {}
        yield "terms.amended", _day_of(new[-1], events, said), {**data, **rationale}
    elif _new_value(facts, said) is None:
        yield from _told_amendments(new[-1:], said)


def _told_of(events: Sequence[RecordedEvent]) -> Iterator[str]:
    """The amendments that events tell of, be it in a note."""
    for event in events:
        if isinstance(event.data, TermsAmended | ValueRevised) and event.data.amendment_id:
            yield event.data.amendment_id
        elif isinstance(event.data, NoteAdded) and event.data.text.startswith(_AMENDMENT):
            yield event.data.text.removeprefix(_AMENDMENT).partition(":")[0]


_AMENDMENT = "Amendment "


def _told_amendments(amendments: Sequence[Amended], said: Said) -> Iterator[Update]:
    for known in amendments:
        words = known.rationale or "the release does not say why, nor what it changed"
        yield "note.added", known.day or said.day, {"text": f"{_AMENDMENT}{known.amendment_id}: {words}"[:5_000]}


def _day_of(amendment: Amended, events: Sequence[RecordedEvent], said: Said) -> str:
    """The day of an amendment; not before what it amends took effect, or the fold would lay that over it."""
    latest = max((event.day.isoformat() for event in events if event.day.isoformat() <= said.day and event.day.year > 1), default=said.day)
    return max(amendment.day or said.day, latest)


def _changes(facts: Facts, said: Said) -> Iterator[JsonObject]:
    if said.title and said.title != facts.title:
        yield {"path": "/title", "from": facts.title, "to": said.title}
    gone = {ours for theirs, ours in _PERIOD_MEMBERS.items() if theirs in said.gone}
    for member in ("start_on", "end_on", "max_end_on", "duration"):
        stood, now = getattr(facts.period, member, None), said.period.get(member)
        if now is not None and now != stood:
            yield {"path": f"/period/{member}", **({"from": stood} if stood else {}), "to": now}
        elif member in gone and now is None and stood is not None:
            yield {"path": f"/period/{member}", "from": stood}


def _restated(facts: Facts, said: Said, made: Sequence[Update]) -> Iterator[Update]:
    """What the release tells otherwise, and no amendment of it: as a further report."""
    members: JsonObject = {}
    if not any(event_type == "terms.amended" for event_type, _, _ in made):
        if said.title and said.title != facts.title:
            members["title"] = said.title
        if period := {name: day for name, day in said.period.items() if day != getattr(facts.period, name, None)}:
            members["period"] = period
    if said.parties and (parties := _parties_now(facts, said)) is not None:
        members["parties"] = parties
    stood = [_item(item) for item in facts.items]
    if said.items and sorted(stood, key=_item_id) != sorted(said.items, key=_item_id):
        members["items"] = said.items
    if members:
        yield "contract.reported", said.day, {"stage": "reported", **members}


def _item_id(item: JsonObject) -> str:
    return str(item["item_id"])


def _item(item: Any) -> JsonObject:
    members = {"item_id": item.item_id, "description": item.description, "quantity": item.ordered or item.quantity, "unit": item.unit}
    return {name: member for name, member in members.items() if member is not None}


def _parties_now(facts: Facts, said: Said) -> list[JsonObject] | None:
    """The parties that stand after the release, those whom it does not know among them; None if they are the same."""
    stood = {party.party_id: _party(party) for party in facts.parties}
    others = [party for party_id, party in stood.items() if party_id not in said.left]
    now = [_over(stood.get(party["party_id"], {}), party) for party in said.parties]
    same = {party_id: _as_set(party) for party_id, party in stood.items()}
    return None if {party["party_id"]: _as_set(party) for party in [*now, *others]} == same else [*now, *others]


def _party(party: Any) -> JsonObject:
    members = {name: getattr(party, name) for name in ("party_id", "name", "language", "roles", "identifiers", "relation")}
    return {name: member for name, member in members.items() if member is not None}


def _over(stood: JsonObject, said: JsonObject) -> JsonObject:
    """A party as it stood, with what a release says of it; the language stays that of the name."""
    return {name: member for name, member in stood.items() if name != "language" or stood.get("name") == said["name"]} | said


def _as_set(party: JsonObject) -> JsonObject:
    return {**party, "roles": sorted(party["roles"])}


def _value(facts: Facts) -> StandingFigure | None:
    """The figure that releases stated, as it stands."""
    return next((figure for figure in reversed(facts.figures) if figure.figure_id.startswith(FIGURE)), None)


def _new_value(facts: Facts, said: Said) -> JsonObject | None:
    stood = _value(facts)
    same = stood is not None and said.value == {"amount": stood.amount, "currency": stood.currency}
    return None if same else said.value


def _revalued(facts: Facts, events: Sequence[RecordedEvent], said: Said) -> Iterator[Update]:
    stood, new = _value(facts), _new_value(facts, said)
    if new is None:
        if stood is not None and "value" in said.gone:
            yield "figure.withdrawn", said.day, {"figure_id": stood.figure_id, "reason": "The release states no value any more."}
        return
    signed = facts.signing is not None or said.signed_on is not None or said.status in _SIGNED
    figure = _figure(_next_number(facts), new, "contractual" if signed else "disclosed")
    if stood is None:
        yield "figure.stated", said.day, {"figure": figure}
        return
    told = set(_told_of(events))
    amendment = max((known for known in said.amendments if known.amendment_id not in told), key=lambda known: known.day or "", default=None)
    data = {"replaces": stood.figure_id, "value": figure, "reason": "renegotiation"}
    if amendment is None:
        yield "value.revised", said.day, data
    else:
        yield "value.revised", _day_of(amendment, events, said), {**data, "amendment_id": amendment.amendment_id}


def _next_number(facts: Facts) -> int:
    standing, replaced, withdrawn = facts.figures, facts.replaced_figures, facts.withdrawn_figures
    ids = [*(one.figure_id for one in standing), *(one.figure_id for one in replaced), *(one.figure_id for one in withdrawn)]
    return 1 + sum(figure_id.startswith(FIGURE) for figure_id in ids)


def _signed_later(facts: Facts, events: Sequence[RecordedEvent], said: Said) -> Iterator[Update]:
    if facts.signing is None:
        if said.signed_on or said.status in _SIGNED:
            day = said.signed_on or said.day
            yield "contract.signed", day, {**_signing(said), **_untold_by(day, facts, events, said)}
    elif said.signed_on and said.signed_on != facts.signing.signed_on:
        stood = facts.signing.signed_on or facts.signing.signed_by or facts.signing.effective_on
        yield "note.added", said.day, {"text": f"The release says that the contract was signed on {said.signed_on}; {stood} stands."}


def _untold_by(day: str, facts: Facts, events: Sequence[RecordedEvent], said: Said) -> JsonObject:
    """Who signed, where by the day of the signing no supplier and buyer stand yet, since releases told of them later; and what."""
    then = whole_of([event for event in events if event.day.isoformat() <= day]).facts
    if {"supplier", "buyer"} <= {role for party in then.parties for role in party.roles}:
        return {}
    members = {"title": facts.title, "kind": facts.kind} if then.title is None else {}
    parties = _parties_now(facts, said) if said.parties else None
    return {**members, "parties": parties or [_party(party) for party in facts.parties]}


def _of_milestones(facts: Facts, said: Said, since: str) -> Iterator[Update]:
    """Milestones that are new, moved, met or missed. A new one stands `since` a day; it is met on its own day, if that is not before."""
    stood = {known.milestone_id: known for known in facts.milestones}
    for told in said.milestones:
        known = stood.get(told.milestone_id)
        scheduled_on = known.effective_on if known else min(since, told.met_on or since)
        status = known.status if known else ""
        if known is None or (known.title, known.due_on) != (told.title, told.due_on or known.due_on):
            scheduled_on = said.day if known else scheduled_on
            due_on = {"due_on": told.due_on} if told.due_on else {}
            yield "milestone.scheduled", scheduled_on, {"milestone_id": told.milestone_id, "title": told.title, **due_on}
            status = "scheduled"
        if (outcome := _outcome(told)) and f"milestone.{status}" != outcome:
            yield _came(told, outcome, scheduled_on, said)


def _came(told: Milestone, outcome: str, scheduled_on: str, said: Said) -> Update:
    """What became of a milestone. It cannot take effect before the milestone does; an earlier day is told in words."""
    day = told.met_on if told.met_on and outcome == "milestone.met" else said.day
    text = {"text": f"On {day}."} if day < scheduled_on else {}
    return outcome, max(day, scheduled_on), {"milestone_id": told.milestone_id, **text}


def _outcome(told: Milestone) -> str | None:
    return _OUTCOME.get(told.status or "") or ("milestone.met" if told.met_on and told.status is None else None)


def _ended(facts: Facts, said: Said) -> Iterator[Update]:
    """Cancelled is never signed; terminated may be completed, expired or ended early, and OCDS does not say which."""
    if facts.ending is not None or said.status not in ("cancelled", "terminated"):
        return
    signed = facts.signing is not None or said.signed_on is not None
    end = said.period.get("end_on") or getattr(facts.period, "end_on", None)
    if said.status == "cancelled":
        yield ("contract.terminated" if signed else "contract.cancelled"), said.day, {"cause": "The release says: cancelled."}
    elif end is None or end >= said.day:
        yield "contract.terminated", said.day, {"cause": "The release says: terminated, be it completed or ended early."}


def _nothing_new(said: Said) -> Update:
    """A release that the ledger has no event for is known by a note."""
    tags = said.release.said.get("tag")
    words = ", ".join(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ""
    kept_out = f" It holds what the ledger does not keep: {', '.join(said.unkept)}." if said.unkept else ""
    return "note.added", said.day, {"text": f"A release ({words or 'without a tag'}) says nothing new of the contract.{kept_out}"[:5_000]}
