"""Deadlines over HTTP: what ends, opens or falls due over all contracts of a ledger, from day to day."""

from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.operations import Call, Day, Documented, json_response, route
from service.api.outlook import stand_and_times
from service.api.pages import MAX_COUNT, PageQuery, counted, cursor_in, not_a_cursor, page_headers, place_in
from service.errors import HistoryForked, Malformed, MemberFault, OutlookBehind, Refused
from service.log.outlook_lists import WantedDays, count_deadlines, deadlines_after

_PLACE = "[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}_[0-9]{1,6}"

router = APIRouter()


class DeadlineQuery(PageQuery):
    first: Annotated[
        Day | None, Field(alias="from", description="From this day on; from today on if not said. An earlier day shows what has passed.")
    ] = None
    last: Annotated[Day | None, Field(alias="to", description="Up to this day.")] = None
    kind: Annotated[
        Literal["term-end", "notice", "option-opens", "option-closes", "milestone", "withheld-until"] | None,
        Field(description="Only deadlines of this kind."),
    ] = None


async def _list_deadlines(call: Call) -> Response:
    query = call.query(DeadlineQuery)
    if query.first and query.last and query.last < query.first:
        raise Refused("to: before from.", (MemberFault("query:to", "before from"),))
    ledger, database = call.ledger, call.services.reader.database
    listed = f"deadlines in {ledger.ledger_id} {call.epoch}"
    after = _place(listed, query.after) if query.after else None
    stand, as_of = await stand_and_times(call)
    first = query.first.isoformat() if query.first else as_of.effective_on
    wanted = WantedDays(first=first, last=query.last.isoformat() if query.last else None, kind=query.kind)
    rows = await deadlines_after(database, ledger, stand, wanted, after, query.limit + 1)
    shown = rows[: query.limit]
    more = cursor_in(listed, "_".join(map(str, shown[-1][:3]))) if len(rows) > query.limit else None
    count, is_exact = counted(await count_deadlines(database, ledger, stand, wanted, MAX_COUNT + 1) if query.count else None)
    await call.services.outlooks.check(ledger, stand)
    beside = answers.encode(answers.DeadlinePage(items=[], as_of=as_of, next=more, count=count, count_is_exact=is_exact))
    items = b",".join(row[3].encode() for row in shown)
    answer = b'{"items":[%s]%s' % (items, beside.removeprefix(b'{"items":[]'))
    return json_response(answer, 200, page_headers(call.request, more))


def _place(listed: str, after: str) -> tuple[str, str, int]:
    """The day, the contract and the number that a cursor stands at."""
    day, contract_id, number = place_in(listed, after, _PLACE).split("_")
    try:
        date.fromisoformat(day)
    except ValueError:
        raise not_a_cursor() from None
    return day, contract_id, int(number)


route(
    router,
    "GET",
    "/v1/ledgers/{ledger}/deadlines",
    "contracts:read",
    Documented(
        operation_id="list_deadlines",
        tag="outlook",
        summary="What ends, opens or falls due, from day to day",
        description=(
            "In pages, by day: ends of terms, days of notice, option windows, milestones, and days until which something is withheld. A "
            "coarse date counts from its last day, of an opening from its first. After the end of a contract only what is withheld counts."
        ),
        query=DeadlineQuery,
        answers={200: ("A page of deadlines", answers.DeadlinePage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked, OutlookBehind),
    ),
    _list_deadlines,
)
