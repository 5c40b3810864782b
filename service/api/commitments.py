"""Commitments over HTTP: what the contracts of a ledger commit to, in sums that are never made across currencies, units or bases."""

import re
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from service.api import answers
from service.api.operations import Call, Documented, QueryModel, json_response, route
from service.api.operations import Limit as PageLimit
from service.api.outlook import STATUSES, LongCursor, stand_and_times
from service.api.pages import MAX_COUNT, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.commitments import STANDING, STATED, UNSCHEDULED, Line
from service.domain.money import CurrencyCode
from service.domain.value import BASES
from service.errors import HistoryForked, Malformed, MemberFault, OutlookBehind, Refused
from service.log.lists import Wanted
from service.log.outlook_lists import PLACES, WantedSums, count_sums, sums
from service.projections.outlook import lines_of

COMMITMENTS = "/v1/ledgers/{ledger}/commitments"
_BY = frozenset({"party", "product", "currency", "year"})
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PLACE = r"[^|\0]*(\|[^|\0]*){2,5}"

router = APIRouter()


def _words_of(text: str, known: tuple[str, ...]) -> str:
    """Words with commas between them, each a known one and none twice."""
    given = text.split(",")
    wrong = next((word for word in given if word not in known), None)
    if wrong is not None:
        raise PydanticCustomError("unknown_word", "{word} is none of {known}", {"word": wrong[:60], "known": ", ".join(known)})
    if len(set(given)) < len(given):
        raise PydanticCustomError("twice", "a word stands twice", {})
    return text


def _is_year(text: str) -> str:
    if text != UNSCHEDULED and not re.fullmatch("[12][0-9]{3}", text):
        raise PydanticCustomError("year", "a year such as 2024, or `unscheduled`", {})
    return text


def _is_basis(text: str) -> str:
    if text not in (*BASES, STATED):
        raise PydanticCustomError("basis", "one of {known}", {"known": ", ".join((*BASES, STATED))})
    return text


class CommitmentFilters(QueryModel):
    party: Annotated[str | None, Field(max_length=100, description="Only contracts with this party, by its party_id.")] = None
    product: Annotated[
        str | None, Field(max_length=100, description="Only this product, by its item_id; empty for money that is of several.")
    ] = None
    currency: Annotated[CurrencyCode | None, Field(description="Only money in this currency; quantities are left out.")] = None
    year: Annotated[str | None, Field(max_length=11, description="Only this year, or `unscheduled`."), AfterValidator(_is_year)] = None
    basis: Annotated[
        str | None, Field(max_length=20, description="Only this basis; that of quantities is `stated`."), AfterValidator(_is_basis)
    ] = None
    status: Annotated[
        str,
        Field(max_length=200, description="Contracts in one of these statuses, with commas between them; if not said, those that stand."),
        AfterValidator(lambda text: _words_of(text, STATUSES)),
    ] = ",".join(STANDING)

    @property
    def where(self) -> dict[str, str]:
        """The places that are told by the filters."""
        return {name: value for name in PLACES if (value := getattr(self, name, None)) is not None}


class CommitmentQuery(CommitmentFilters, PageQuery):
    after: LongCursor | None = None
    by: Annotated[
        str | None,
        Field(
            max_length=60,
            description=(
                "What sums are told apart by, besides currency or unit, and basis: `party`, `product`, `year`, with commas between them. "
                "The sums of parties are not to be added up: a contract counts for each of its parties."
            ),
        ),
        AfterValidator(lambda text: _words_of(text, tuple(sorted(_BY)))),
    ] = None


class ContractCommitmentsQuery(CommitmentFilters):
    after: LongCursor | None = None
    limit: PageLimit = 50
    unit: Annotated[str | None, Field(max_length=40, description="Only quantities in this unit.")] = None


async def _list_commitments(call: Call) -> Response:
    query = call.query(CommitmentQuery)
    by = frozenset(query.by.split(",") if query.by else ()) - {"currency"}
    wanted = WantedSums(by=by, statuses=query.status.split(","), where=query.where)
    ledger, database = call.ledger, call.services.reader.database
    listed = f"commitments in {ledger.ledger_id} {call.epoch} by {wanted.places}"
    after = place_in(listed, query.after, _PLACE).split("|") if query.after else []
    stand, as_of = await stand_and_times(call)
    rows = await sums(database, ledger, stand, wanted, after, query.limit + 1)
    shown = rows[: query.limit]
    more = cursor_in(listed, "|".join(shown[-1][name] for name in wanted.places)) if len(rows) > query.limit else None
    count, is_exact = counted(await count_sums(database, ledger, stand, wanted, MAX_COUNT + 1) if query.count else None)
    await call.services.outlooks.check(ledger, stand)
    items = [_commitment(call, row, query) for row in shown]
    page = answers.CommitmentPage(items=items, as_of=as_of, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


def _commitment(call: Call, row: dict[str, str], query: CommitmentFilters) -> answers.Commitment:
    """A sum, or a line of one contract, as it is answered. What has no product is of several."""
    told = {name: row[name] for name in PLACES if name != "basis" and row.get(name)}
    of_several = {"product": ""} if row.get("product") == "" else {}
    params = {**told, **of_several, "basis": row["basis"], "status": query.status}
    return answers.Commitment(
        basis=row["basis"],
        committed=answers.Range(low=row["committed_low"], high=row["committed_high"]),
        delivered=row["delivered"],
        remaining=answers.Range(low=row["remaining_low"], high=row["remaining_high"]),
        contracts=f"/v1/ledgers/{call.ledger.name}/commitments/contracts?{urlencode(params)}",
        **told,
    )


async def _list_contracts_of_commitments(call: Call) -> Response:
    query = call.query(ContractCommitmentsQuery)
    if query.unit is not None and query.currency is not None:
        raise Refused("unit: not with a currency.", (MemberFault("query:unit", "not with a currency"),))
    reader, ledger = call.services.reader, call.ledger
    listed = f"contracts of commitments in {ledger.ledger_id} {call.epoch}"
    place = ("", place_in(listed, query.after, _UUID)) if query.after else None
    _, as_of = await stand_and_times(call)
    terms = [f"{name}={value}" for name, value in query.where.items() if name in ("party", "product", "currency") and value]
    wanted = Wanted(terms=terms, any_term=[f"status={status}" for status in query.status.split(",")])
    rows = await reader.contracts(ledger, wanted, place, query.limit + 1)
    items = [item for row in rows[: query.limit] if (item := _of_contract(call, row[0], row[1], row[2], query)).lines]
    more = cursor_in(listed, rows[query.limit - 1][0]) if len(rows) > query.limit else None
    return json_response(answers.ContractCommitmentsPage(items=items, as_of=as_of, next=more), 200, page_headers(call.request, more))


def _of_contract(call: Call, contract_id: str, revision: int, state: str, query: ContractCommitmentsQuery) -> answers.ContractCommitments:
    told = msgspec.json.decode(state, type=_Told)
    lines = [_commitment(call, _row(line), query) for line in lines_of(state) if _is_wanted(line, query)]
    return answers.ContractCommitments(contract_id=contract_id, revision=revision, title=told.title or "", status=told.status, lines=lines)


class _Told(msgspec.Struct):
    status: str
    title: str | None = None


def _row(line: Line) -> dict[str, str]:
    return {name: getattr(line, name) for name in line.__struct_fields__}


def _is_wanted(line: Line, query: ContractCommitmentsQuery) -> bool:
    """Whether a line is part of the sums that are asked about."""
    wanted = {"product": query.product, "currency": query.currency, "unit": query.unit, "year": query.year, "basis": query.basis}
    return all(value is None or getattr(line, name) == value for name, value in wanted.items())


route(
    router,
    "GET",
    COMMITMENTS,
    "contracts:read",
    Documented(
        operation_id="list_commitments",
        tag="outlook",
        summary="What contracts commit to, what of it is delivered, and what remains",
        description=(
            "Sums over contracts, in pages. Currency or unit, and the basis of the figures, always tell sums apart: an estimate is never "
            "added to what a contract says. Without a schedule an amount is `unscheduled`, never spread; the total of a contract "
            "with several products has no product. What is hypothetical, or not signed, commits nobody."
        ),
        query=CommitmentQuery,
        answers={200: ("A page of sums", answers.CommitmentPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked, OutlookBehind),
    ),
    _list_commitments,
)
route(
    router,
    "GET",
    COMMITMENTS + "/contracts",
    "contracts:read",
    Documented(
        operation_id="list_contracts_of_commitments",
        tag="outlook",
        summary="The contracts that make a sum of commitments",
        description="In pages, by id, each with the lines that are part of the sum. A page may have fewer items than its limit.",
        query=ContractCommitmentsQuery,
        answers={200: ("A page of contracts", answers.ContractCommitmentsPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked, OutlookBehind),
    ),
    _list_contracts_of_commitments,
)
