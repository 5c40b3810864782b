"""What changed: in a contract from revision to revision, and between any two points of its times. As JSON Patches (RFC 6902), and told."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Response
from jsonpatch import JsonPatch
from pydantic import Field, create_model

from service.api import answers
from service.api.contracts import CONTRACT
from service.api.operations import Call, Day, Documented, QueryModel, json_response, route
from service.api.pages import PageQuery, counted, cursor_in, page_headers, place_in
from service.api.times import TimesQuery, times_of
from service.domain.contract import encode_state
from service.domain.erasure import ERASED
from service.domain.events import RecordedEvent
from service.domain.timeline import tell
from service.errors import ContractNotFound, HistoryForked, Malformed, Refused
from service.log.header import state_hash
from service.log.read import CurrentState
from service.log.stored import StoredEvent

MAX_FOLDED = 20_000
MAX_NAMED = 10
JsonObject = dict[str, Any]
# What only repeats which events say so, and would be named with every change.
_GROUNDS = frozenset({"status", "status_rests_on", "terms_rest_on", "stated_in"})

router = APIRouter()


class HistoryQuery(PageQuery):
    effective_on: Annotated[Day | None, Field(description="The day the states are told for; today in the ledger's zone if not said.")] = (
        None
    )
    published_by: Annotated[Day | None, Field(description="Of what the sources had published by the end of this day.")] = None


_POINTS = {"from": "At the first point: ", "to": "At the second point: "}
_TIMES: dict[str, Any] = {
    f"{side}_{name}": (field.annotation, Field(default=None, description=f"{words}{field.description}"))
    for side, words in _POINTS.items()
    for name, field in TimesQuery.model_fields.items()
}
CompareQuery = create_model("CompareQuery", __base__=QueryModel, **_TIMES)


async def _list_history(call: Call) -> Response:
    query = call.query(HistoryQuery)
    contract_id, reader = call.contract_id, call.services.reader
    listed = f"history of {contract_id} in {call.ledger.ledger_id} {call.epoch}"
    after = int(place_in(listed, query.after, "[1-9][0-9]{0,8}")) if query.after else 0
    limit = _affordable(after, query.limit)
    # The revision that the cursor stands at is read again: without it, there is no such contract here.
    seen = 1 if after else 0
    stored = await reader.contract_events(call.ledger, contract_id, after - seen, seen + limit + 1)
    if not stored:
        having = f" with a revision {after}" if after else ""
        raise ContractNotFound(f"Ledger {call.ledger.name} has no contract {contract_id}{having}.")
    shown, more = stored[seen : seen + limit], len(stored) > seen + limit
    _, _, today = await reader.head(call.ledger)
    told_for = _ToldFor(query.effective_on or today, query.published_by)
    events = await reader.history(call.ledger, contract_id, stored[-1].header.position)
    page = answers.HistoryPage(
        items=await asyncio.to_thread(_changes, shown, events, told_for),
        as_of=answers.HistoryAsOf(
            effective_on=told_for.effective_on.isoformat(),
            time_zone=call.ledger.time_zone,
            published_by=query.published_by.isoformat() if query.published_by else None,
        ),
        next=cursor_in(listed, str(shown[-1].header.revision)) if more else None,
    )
    page.count, page.count_is_exact = counted(await reader.last_revision(call.ledger, contract_id) if query.count else None)
    return json_response(page, 200, page_headers(call.request, page.next))


@dataclass(frozen=True, slots=True)
class _ToldFor:
    effective_on: date
    published_by: date | None

    def state(self, events: Iterable[RecordedEvent]) -> bytes:
        return encode_state(tell(events, self.effective_on, self.published_by).state)


def _affordable(after: int, limit: int) -> int:
    """How many revisions a page shows: each is a fold of all events up to it, so a long contract has short pages."""
    folded, revisions = after, 0
    while revisions < limit and (folded := folded + after + revisions + 1) <= MAX_FOLDED:
        revisions += 1
    return max(revisions, 1)


def _changes(shown: Sequence[StoredEvent], events: Sequence[RecordedEvent], told_for: _ToldFor) -> list[answers.RevisionChange]:
    """What each of some events in a row changed, in the state that they and those before them make."""
    if not shown:
        return []
    first = shown[0].header.revision
    before = orjson.loads(told_for.state(events[: first - 1])) if first > 1 else {}
    changes = []
    originals = {event.event_id: event for event in events}
    for stored, event in zip(shown, events[first - 1 :], strict=False):
        names_another = event.data.acts or event.data.event_type == ERASED
        target = originals.get(event.data.event_ids()[0]) if names_another else None
        encoded = told_for.state(events[: event.revision])
        after = orjson.loads(encoded)
        digest = state_hash(told_for.effective_on.isoformat(), encoded)
        changes.append(_change(stored, event, target, told_for, (before, after), digest))
        before = after
    return changes


def _change(
    stored: StoredEvent,
    event: RecordedEvent,
    target: RecordedEvent | None,
    told_for: _ToldFor,
    states: tuple[JsonObject, JsonObject],
    digest: str,
) -> answers.RevisionChange:
    header, patch = stored.header, _patch(*states)
    words = "; ".join(_differences(*states, patch)) or _why_nothing(event, told_for)
    about = f" of {header.effective_on}" if header.effective_on else ""
    if target is not None:
        about = f" of revision {target.revision}, {target.data.event_type}"
    return answers.RevisionChange(
        revision=header.revision,
        position=header.position,
        event_id=header.event_id,
        event_type=header.event_type,
        recorded_at=header.recorded_at,
        recorded_by=header.recorded_by,
        sentence=f"{header.event_type}{about}, {_word(event)}: {words}.",
        patch=patch,
        state_hash=digest,
        effective_on=header.effective_on,
        source=event.source or None,
        target_revision=target.revision if target else None,
        erased_by=stored.erased_by,
    )


def _patch(before: JsonObject, after: JsonObject) -> list[JsonObject]:
    """What makes one state from another: add, remove, replace. Nothing is moved, since what looks alike need not be the same."""
    patch: list[JsonObject] = JsonPatch.from_diff(before, after, optimization=False).patch
    return patch


def _differences(before: JsonObject, after: JsonObject, patch: Sequence[JsonObject]) -> Iterator[str]:
    """In words, what differs between two states by their patch: the status, then the parts that came, changed, went."""
    was, now = before.get("status", "nothing"), after.get("status", "nothing")
    if was != now:
        yield f"status from {was} to {now}"
    touched = {operation["path"].split("/")[1] for operation in patch} - _GROUNDS
    for verb, names in (
        ("added", touched - before.keys()),
        ("changed", touched & before.keys() & after.keys()),
        ("removed", touched - after.keys()),
    ):
        if names:
            yield f"{verb} {', '.join(sorted(names)).replace('_', ' ')}"


def _why_nothing(event: RecordedEvent, told_for: _ToldFor) -> str:
    if told_for.published_by is not None and event.published_by > told_for.published_by:
        return f"changes nothing, since it was published after {told_for.published_by}"
    if event.day > told_for.effective_on:
        return f"changes nothing on {told_for.effective_on}, since it takes effect later"
    if event.data.acts or event.data.is_erased:
        return f"changes nothing in the state of {told_for.effective_on}"
    return "changes nothing in the state but what it rests on"


def _word(event: RecordedEvent) -> str:
    """On whose word: the name of the source, or what kind it is; nobody's where that is erased."""
    source = event.source
    if event.data.is_erased:
        return "whose content is erased"
    name = source.get("name") or source["kind"]
    return f"on the word of {name} via {source['via']}" if "via" in source else f"on the word of {name}"


async def _compare(call: Call) -> Response:
    query = call.query(CompareQuery)
    first, second = [await call.services.reader.at(call.ledger, call.contract_id, times_of(query, f"{side}_")) for side in _POINTS]
    states = orjson.loads(first.state), orjson.loads(second.state)
    patch = await asyncio.to_thread(_patch, *states)
    words = "; ".join(_differences(*states, patch)) or ("only what the state rests on differs" if patch else "nothing differs")
    words += await _acts_between(call, first, second)
    compared = answers.Comparison(
        contract_id=call.contract_id,
        sentence=f"From revision {first.revision} on {first.as_of.effective_on} to revision {second.revision} "
        f"on {second.as_of.effective_on}: {words}.",
        patch=patch,
        from_revision=first.revision,
        from_state_hash=state_hash(first.as_of.effective_on, first.state),
        from_as_of=first.as_of,
        to_revision=second.revision,
        to_state_hash=state_hash(second.as_of.effective_on, second.state),
        to_as_of=second.as_of,
    )
    return json_response(compared)


async def _acts_between(call: Call, first: CurrentState, second: CurrentState) -> str:
    """In words, the corrections and voids that were recorded from one point to the other, in either direction."""
    if first.revision == second.revision:
        return ""
    earlier, later = sorted((first, second), key=lambda told: told.revision)
    events = await call.services.reader.history(call.ledger, call.contract_id, later.as_of.known_position)
    revisions = {event.event_id: event.revision for event in events}
    said = [
        f"revision {event.revision} {event.data.acts} revision {revisions.get(event.data.event_ids()[0], 'that is gone')}"
        for event in events
        if event.data.acts and event.revision > earlier.revision
    ]
    more = f" and {len(said) - MAX_NAMED} more" if len(said) > MAX_NAMED else ""
    return f"; between them {', '.join(said[:MAX_NAMED])}{more}" if said else ""


route(
    router,
    "GET",
    f"{CONTRACT}/history",
    "contracts:read",
    Documented(
        operation_id="list_contract_history",
        tag="contracts",
        summary="What each revision of a contract changed",
        description=(
            "In pages, by revision: the change in the state of a day that each event made when it became known, as a JSON Patch (RFC 6902) "
            "and in a sentence. The patches in a row, from an empty object on, make the state as known now. A page of a long contract may "
            "show fewer than `limit`."
        ),
        query=HistoryQuery,
        answers={200: ("A page of changes", answers.HistoryPage)},
        paged=True,
        problems=(Malformed, Refused, ContractNotFound, HistoryForked),
    ),
    _list_history,
)
route(
    router,
    "GET",
    f"{CONTRACT}/compare",
    "contracts:read",
    Documented(
        operation_id="get_contract_comparison",
        tag="contracts",
        summary="How a contract differs between two points of its times",
        description=(
            "Each point is a day, something known and something published, as for the contract itself; what is not said is today and now. "
            "The difference is a JSON Patch (RFC 6902) from the first state to the second, and a sentence."
        ),
        query=CompareQuery,
        answers={200: ("The difference", answers.Comparison)},
        problems=(Refused, ContractNotFound),
    ),
    _compare,
)
