"""Lists of contracts: by what they are, by their value, days and words, in the order that is asked for, page by page."""

import re
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.contracts import CONTRACTS
from service.api.operations import Call, Day, Documented, json_response, route
from service.api.outlook import Status
from service.api.pages import MAX_COUNT, MAX_IDS, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.events import Word
from service.domain.money import CurrencyCode, DecimalText
from service.errors import HistoryForked, Malformed, MemberFault, Refused
from service.log.ledger import instant
from service.log.lists import Wanted
from service.log.read import AsOf
from service.projections.filters import terms_of_text

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_IDS = re.compile(f"{_UUID}(,{_UUID}){{0,{MAX_IDS - 1}}}")
_DAY = "([0-9]{4}-[0-9]{2}-[0-9]{2})?"
_TERMS = ("status", "currency", "product", "label", "reference")

router = APIRouter()


class ListQuery(PageQuery):
    party: Annotated[str | None, Field(max_length=100, description="The party_id of a party.")] = None
    role: Annotated[Word | None, Field(description="A role; with `party`, the role of that party.")] = None
    status: Annotated[Status | None, Field(description="A status, such as `in_force`.")] = None
    currency: Annotated[CurrencyCode | None, Field(description="The currency of any standing figure, or of what was delivered.")] = None
    value_from: Annotated[
        DecimalText | None,
        Field(description="With `currency`: the total value may be this much or more. As stated in that currency; nothing is converted."),
    ] = None
    value_to: Annotated[DecimalText | None, Field(description="With `currency`: the total value may be this much or less.")] = None
    product: Annotated[str | None, Field(max_length=100, description="The item_id of an item, or of one that was delivered.")] = None
    reference: Annotated[str | None, Field(max_length=601, pattern=r"^[\s\S]+:[\s\S]+$", description="A reference, as `scheme:id`.")] = None
    label: Annotated[str | None, Field(max_length=60, description="A label.")] = None
    text: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description=(
                "Words of the title, the parties' names and the items' descriptions; all have to be there. Whole words, in any case; of "
                "Hangul, Kana and Han any two or more characters in a row."
            ),
        ),
    ] = None
    signed_from: Annotated[Day | None, Field(description="Signed on this day or later (by the latest possible day).")] = None
    signed_to: Annotated[Day | None, Field(description="Signed on this day or earlier.")] = None
    ends_from: Annotated[Day | None, Field(description="The term ends on this day or later.")] = None
    ends_to: Annotated[Day | None, Field(description="The term ends on this day or earlier.")] = None
    ids: Annotated[
        str | None, Field(max_length=37 * MAX_IDS, description=f"Only these: up to {MAX_IDS} contract_ids with commas between them.")
    ] = None
    sort: Annotated[
        Literal["contract_id", "signed_on", "-signed_on", "ends_on", "-ends_on"],
        Field(description="By id, or by a day, with `-` the latest first. A contract without the day counts as earlier than all others."),
    ] = "contract_id"


async def _list_contracts(call: Call) -> Response:
    query = call.query(ListQuery)
    wanted = _wanted(query)
    reader, ledger = call.services.reader, call.ledger
    position, recorded_at, today = await reader.head(ledger)
    turn = await reader.next_turn(ledger)
    listed = f"contracts in {ledger.ledger_id} {call.epoch}" + (f" by {query.sort}" if wanted.sorted_day else "")
    rows = await reader.contracts(ledger, wanted, _place(query, wanted, listed), query.limit + 1)
    items = rows[: query.limit]
    as_of = AsOf(
        effective_on=min(today, turn.fromordinal(turn.toordinal() - 1) if turn else today).isoformat(),
        known_position=position,
        known_at=instant(recorded_at),
        time_zone=ledger.time_zone,
        final=False,
    )
    more = None
    if len(rows) > query.limit:
        contract_id, *_, day = items[-1]
        more = cursor_in(listed, f"{day}.{contract_id}" if wanted.sorted_day else contract_id)
    count, is_exact = counted(await reader.count(ledger, wanted, MAX_COUNT + 1) if query.count else None)
    body = b",".join(b'{"contract_id":"%s","revision":%d,"state":%s}' % (row[0].encode(), row[1], row[2].encode()) for row in items)
    beside = answers.encode(answers.ContractPage(items=[], as_of=as_of, next=more, count=count, count_is_exact=is_exact))
    answer = b'{"items":[%s]%s' % (body, beside.removeprefix(b'{"items":[]'))
    return json_response(answer, 200, page_headers(call.request, more))


def _place(query: ListQuery, wanted: Wanted, listed: str) -> tuple[str, str] | None:
    """The day and the id that a cursor stands at; None at the start."""
    if query.after is None:
        return None
    if wanted.sorted_day is None:
        return "", place_in(listed, query.after, _UUID)
    day, _, contract_id = place_in(listed, query.after, rf"{_DAY}\.{_UUID}").partition(".")
    return day, contract_id


def _wanted(query: ListQuery) -> Wanted:
    """What is asked for. Refused where a question makes no sense."""
    has_range = query.value_from is not None or query.value_to is not None
    if has_range and query.currency is None:
        name = "value_from" if query.value_from is not None else "value_to"
        raise _refused(name, "only with the currency of the value")
    if query.value_from is not None and query.value_to is not None and Decimal(query.value_from) > Decimal(query.value_to):
        raise _refused("value_to", "less than value_from")
    return Wanted(
        terms=[*_filter_terms(query), *_text_terms(query)],
        contract_ids=_ids(query),
        total_in=query.currency if has_range else None,
        value_from=query.value_from,
        value_to=query.value_to,
        days=[
            (name, first.isoformat() if first else None, last.isoformat() if last else None)
            for name, first, last in (
                ("signed_on", query.signed_from, query.signed_to),
                ("ends_on", query.ends_from, query.ends_to),
            )
            if first or last
        ],
        sort=query.sort,
    )


def _filter_terms(query: ListQuery) -> list[str]:
    terms = [f"{name}={value}" for name in _TERMS if (value := getattr(query, name)) is not None]
    if query.party is not None and query.role is not None:
        terms.append(f"party={query.party} role={query.role}")
    elif query.party is not None or query.role is not None:
        terms.append(f"party={query.party}" if query.party is not None else f"role={query.role}")
    return terms


def _text_terms(query: ListQuery) -> list[str]:
    terms = terms_of_text(query.text) if query.text is not None else []
    if query.text is not None and not terms:
        raise _refused("text", "there is no word in it")
    return terms


def _ids(query: ListQuery) -> list[str]:
    if query.ids is None:
        return []
    if not _IDS.fullmatch(query.ids.lower()):
        raise _refused("ids", f"1 to {MAX_IDS} contract_ids with commas between them")
    return query.ids.lower().split(",")


def _refused(name: str, detail: str) -> Refused:
    return Refused(f"{name}: {detail}.", (MemberFault(f"query:{name}", detail),))


route(
    router,
    "GET",
    CONTRACTS,
    "contracts:read",
    Documented(
        operation_id="list_contracts",
        tag="contracts",
        summary="List contracts by what they are, their value, days and words",
        description="In pages. A contract has to meet every filter that is given; its state is that of the day in `as_of`.",
        query=ListQuery,
        answers={200: ("A page of contracts", answers.ContractPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked),
    ),
    _list_contracts,
)
