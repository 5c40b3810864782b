"""Ledgers over HTTP: made, and listed."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from service.api import answers
from service.api.envelope import read_body
from service.api.operations import LEDGER_NAME, Call, Documented, QueryModel, Services, declare, json_response, read_query, route
from service.api.pages import MAX_COUNT, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.events import STRICT, Name
from service.domain.faults import refusal
from service.domain.terms import distinct
from service.errors import (
    BodyTooLarge,
    HistoryForked,
    LedgerConflict,
    Malformed,
    MemberFault,
    ReferencesShared,
    Refused,
    UnsupportedMediaType,
)
from service.log.ledger import Ledger, Switches, is_time_zone
from service.log.ledgers import count_ledgers, create_ledger, ledgers_after
from service.log.references import MAX_UNIQUE_SCHEMES, write_policy

LEDGERS = "/v1/ledgers"
_LIST = "ledgers"

router = APIRouter()


def _known_zone(name: str) -> str:
    if not is_time_zone(name):
        raise PydanticCustomError("time_zone", "{name} is no time zone of the IANA database", {"name": name})
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateLedgerRequest:
    """The settings of a ledger, fixed when it is made: its IANA time zone, in which its days begin and end."""

    __pydantic_config__ = STRICT

    time_zone: Annotated[str, Field(max_length=60, examples=["Asia/Seoul"]), AfterValidator(_known_zone)] = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicyRequest:
    """The policy of a ledger, whole: what is left out is as in a new ledger."""

    __pydantic_config__ = STRICT

    unique_reference_schemes: Annotated[
        list[Name],
        Field(
            max_length=MAX_UNIQUE_SCHEMES,
            examples=[["DART"]],
            description="Schemes of references of which each id is that of one contract at most.",
        ),
        distinct(),
    ] = field(default_factory=list)
    if_match_required: Annotated[bool, Field(strict=True, description="Whether an append to a contract needs If-Match (428 without).")] = (
        False
    )
    public_log: Annotated[
        bool,
        Field(strict=True, description="Whether checkpoints, their keys and the tiles of the log are open to callers without a token."),
    ] = False
    strict: Annotated[
        bool,
        Field(strict=True, description="Whether appends are refused (422) that would be accepted and flagged, as with `strict=true`."),
    ] = False


_validate = TypeAdapter(CreateLedgerRequest).validator.validate_python
_validate_policy = TypeAdapter(SetPolicyRequest).validator.validate_python


async def _create_ledger(request: Request) -> Response:
    services: Services = request.app.state.services
    principal = await services.keyring.principal(request.headers.get("authorization"))
    principal.require("ledger:admin", None)
    read_query(request, QueryModel)
    name = request.path_params["ledger"]
    if not LEDGER_NAME.fullmatch(name):
        raise Refused("A ledger's name has 1 to 63 lower-case letters, digits and hyphens.", (MemberFault("path:ledger", "not a name"),))
    try:
        wanted = _validate(await read_body(request))
    except ValidationError as error:
        raise refusal(error) from None
    ledger, created = await create_ledger(services.reader, name, wanted.time_zone)
    if not created and ledger.time_zone != wanted.time_zone:
        raise LedgerConflict(f"Ledger {name} exists, with the time zone {ledger.time_zone}, which is fixed.")
    return json_response(_answer(ledger), 201 if created else 200)


async def _list_ledgers(request: Request) -> Response:
    services: Services = request.app.state.services
    principal = await services.keyring.principal(request.headers.get("authorization"))
    query = read_query(request, PageQuery)
    visible = principal.ledgers("contracts:read", "ledger:admin")
    after = place_in(_LIST, query.after, LEDGER_NAME.pattern) if query.after else ""
    found = await ledgers_after(services.reader, after, query.limit + 1, visible)
    items = [_answer(ledger) for ledger in found[: query.limit]]
    more = cursor_in(_LIST, items[-1].name) if len(found) > query.limit else None
    count, is_exact = counted(await count_ledgers(services.reader, MAX_COUNT + 1, visible) if query.count else None)
    page = answers.LedgerPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(request, more))


async def _set_policy(call: Call) -> Response:
    read_query(call.request, QueryModel)
    try:
        wanted = _validate_policy(await read_body(call.request))
    except ValidationError as error:
        raise refusal(error) from None
    database = call.services.reader.database
    switches = Switches(if_match_required=wanted.if_match_required, public_log=wanted.public_log, strict=wanted.strict)
    ledger = await write_policy(database, call.ledger, wanted.unique_reference_schemes, switches)
    call.services.ledgers.forget()
    return json_response(_answer(ledger))


def _answer(ledger: Ledger) -> answers.LedgerAnswer:
    return answers.LedgerAnswer(
        ledger_id=ledger.ledger_id,
        name=ledger.name,
        time_zone=ledger.time_zone,
        unique_reference_schemes=list(ledger.unique_reference_schemes),
        if_match_required=ledger.if_match_required,
        public_log=ledger.public_log,
        strict=ledger.strict,
    )


declare(
    router,
    "PUT",
    LEDGERS + "/{ledger}",
    Documented(
        operation_id="create_ledger",
        tag="ledgers",
        summary="Make a ledger, or find that it is made",
        description="Takes the right ledger:admin in all ledgers. Its time zone stays; made again with the same, nothing happens.",
        body="CreateLedgerRequest",
        example={"time_zone": "Asia/Seoul"},
        answers={201: ("Made", answers.LedgerAnswer), 200: ("It was there", answers.LedgerAnswer)},
        problems=(Malformed, BodyTooLarge, UnsupportedMediaType, LedgerConflict, Refused),
        rights=("ledger:admin",),
    ),
    _create_ledger,
)
route(
    router,
    "PUT",
    LEDGERS + "/{ledger}/policy",
    "ledger:admin",
    Documented(
        operation_id="set_ledger_policy",
        tag="ledgers",
        summary="Set what a ledger demands of its contracts",
        description=(
            "The whole policy: what is left out is as in a new ledger. A scheme of references that is declared unique takes each id from "
            "one contract only, and an event that states one which another contract holds is refused (409, reference-taken). A scheme of "
            "which contracts share a reference already is not declared (409, references-shared, which names them), and nothing changes."
        ),
        body="SetPolicyRequest",
        example={"unique_reference_schemes": ["DART"]},
        answers={200: ("The ledger with its policy", answers.LedgerAnswer)},
        problems=(Malformed, BodyTooLarge, UnsupportedMediaType, ReferencesShared, Refused),
    ),
    _set_policy,
)
declare(
    router,
    "GET",
    LEDGERS,
    Documented(
        operation_id="list_ledgers",
        tag="ledgers",
        summary="The ledgers that the caller may read",
        description="In pages, by name: those in which the caller may read contracts or is an admin.",
        query=PageQuery,
        answers={200: ("A page of ledgers", answers.LedgerPage)},
        paged=True,
        problems=(Malformed, Refused, HistoryForked),
    ),
    _list_ledgers,
)
