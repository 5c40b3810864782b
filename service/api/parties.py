"""Parties over HTTP: who stands in the contracts of a ledger, by party_id, under which names and with which identifiers."""

from collections import Counter
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.operations import Call, Documented, QueryModel, json_response, route
from service.api.outlook import LongCursor, stand_and_times
from service.api.pages import MAX_COUNT, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.events import Word
from service.domain.parts import JsonObject
from service.errors import HistoryForked, Malformed, MemberFault, OutlookBehind, PartyNotFound, Refused
from service.log.outlook_lists import Forms, count_parties, forms_of, parties_after
from service.projections.filters import words

PARTIES = "/v1/ledgers/{ledger}/parties"
_PARTY_ID = "[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}"

router = APIRouter()


class PartiesQuery(PageQuery):
    after: LongCursor | None = None
    role: Annotated[Word | None, Field(description="Only parties that have this role in a contract.")] = None
    text: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description=(
                "Words of the id and of one name; all have to be there. Whole words, in any case; of Hangul, Kana and Han any two or more "
                "characters in a row."
            ),
        ),
    ] = None


async def _list_parties(call: Call) -> Response:
    query = call.query(PartiesQuery)
    looked_for = _looked_for(query)
    ledger, database = call.ledger, call.services.reader.database
    listed = f"parties in {ledger.ledger_id} {call.epoch}"
    after = place_in(listed, query.after, _PARTY_ID) if query.after else ""
    stand, as_of = await stand_and_times(call)
    found = await parties_after(database, ledger, stand, looked_for, after, query.limit + 1)
    shown = found[: query.limit]
    more = cursor_in(listed, shown[-1][0]) if len(found) > query.limit else None
    count, is_exact = counted(await count_parties(database, ledger, stand, looked_for, MAX_COUNT + 1) if query.count else None)
    await call.services.outlooks.check(ledger, stand)
    items = [_party(call, party_id, forms) for party_id, forms in shown]
    page = answers.PartyPage(items=items, as_of=as_of, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


def _looked_for(query: PartiesQuery) -> list[str]:
    found = sorted(set(words(query.text))) if query.text is not None else []
    if query.text is not None and not found:
        raise Refused("text: there is no word in it.", (MemberFault("query:text", "there is no word in it"),))
    return [*found, *([f"role={query.role}"] if query.role else [])]


async def _get_party(call: Call) -> Response:
    call.query(QueryModel)
    party_id: str = call.request.path_params["party_id"]
    if "\0" in party_id:  # which the database would not even look for
        raise PartyNotFound(f"No contract has a party {party_id[:100]!r}.")
    ledger, database = call.ledger, call.services.reader.database
    stand, _ = await stand_and_times(call)
    found = [*await forms_of(database, ledger, stand, [party_id])]
    if not found:
        # Who turned out to be another is told as that one.
        found = await parties_after(database, ledger, stand, [f"merges={party_id}"], "", 1)
    await call.services.outlooks.check(ledger, stand)
    if not found:
        raise PartyNotFound(f"No contract of ledger {ledger.name} has a party {party_id[:100]!r}.")
    return json_response(_party(call, *found[0]))


def _party(call: Call, party_id: str, forms: Forms) -> answers.PartyTold:
    """A party by all of its forms, the most frequent name first."""
    names: Counter[tuple[str, str]] = Counter()
    for form, count in forms:
        if form.name:
            names[form.name, form.language or ""] += count
    ordered = sorted(names.items(), key=lambda named: (-named[1], named[0]))
    return answers.PartyTold(
        party_id=party_id,
        names=[answers.PartyName(name=name, language=language or None, contracts=count) for (name, language), count in ordered],
        roles=sorted({role for form, _ in forms for role in form.roles}),
        identifiers=_distinct([known for form, _ in forms for known in form.identifiers]),
        relations=_distinct([form.relation for form, _ in forms if form.relation]),
        merges=sorted({form.merges for form, _ in forms if form.merges}),
        contract_count=sum(count for form, count in forms if form.stands),
        former_contract_count=sum(count for form, count in forms if form.is_former),
        contracts=f"/v1/ledgers/{call.ledger.name}/contracts?{urlencode({'party': party_id})}",
    )


def _distinct(objects: list[JsonObject]) -> list[JsonObject]:
    return [dict(members) for members in sorted({tuple(sorted(known.items())) for known in objects})]


route(
    router,
    "GET",
    PARTIES,
    "contracts:read",
    Documented(
        operation_id="list_parties",
        tag="outlook",
        summary="The parties of all contracts",
        description="In pages, by party_id. A party that turned out to be another (party.identified) is told as that one, by `merges`.",
        query=PartiesQuery,
        answers={200: ("A page of parties", answers.PartyPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked, OutlookBehind),
    ),
    _list_parties,
)
route(
    router,
    "GET",
    PARTIES + "/{party_id}",
    "contracts:read",
    Documented(
        operation_id="get_party",
        tag="outlook",
        summary="A party, over all contracts",
        description="By its party_id; a slash in it is sent as `%2F`. One that was merged into another is answered as that one.",
        answers={200: ("The party", answers.PartyTold)},
        problems=(Refused, PartyNotFound, OutlookBehind),
    ),
    _get_party,
)
