"""Ledgers over HTTP: made, and listed."""

from dataclasses import dataclass
from typing import Annotated
from zoneinfo import available_timezones

from fastapi import Request, Response
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from service.api import answers
from service.api.envelope import read_body
from service.api.operations import LEDGER_NAME, Documented, QueryModel, Services, declare, json_response, new_router, read_query
from service.api.problems import faults_of
from service.domain.events import STRICT
from service.errors import BodyTooLarge, LedgerConflict, Malformed, MemberFault, Refused, UnsupportedMediaType
from service.log.ledgers import all_ledgers, create_ledger

LEDGERS = "/v1/ledgers"

router = new_router()


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise PydanticCustomError("time_zone", "{name} is no time zone of the IANA database", {"name": name})
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateLedgerRequest:
    """The settings of a ledger, fixed when it is made: its IANA time zone, in which its days begin and end."""

    __pydantic_config__ = STRICT

    time_zone: Annotated[str, Field(max_length=60, examples=["Asia/Seoul"]), AfterValidator(_known_zone)] = "UTC"


_validate = TypeAdapter(CreateLedgerRequest).validator.validate_python


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
        faults = faults_of(error.errors(include_url=False))
        raise Refused(f"{faults[0].pointer}: {faults[0].detail}.", faults) from None
    ledger, created = await create_ledger(services.reader, name, wanted.time_zone)
    if not created and ledger.time_zone != wanted.time_zone:
        raise LedgerConflict(f"Ledger {name} exists, with the time zone {ledger.time_zone}, which is fixed.")
    answer = answers.LedgerAnswer(ledger_id=ledger.ledger_id, name=ledger.name, time_zone=ledger.time_zone)
    return json_response(answer, 201 if created else 200)


async def _list_ledgers(request: Request) -> Response:
    services: Services = request.app.state.services
    principal = await services.keyring.principal(request.headers.get("authorization"))
    read_query(request, QueryModel)
    items = [
        answers.LedgerAnswer(ledger_id=ledger.ledger_id, name=ledger.name, time_zone=ledger.time_zone)
        for ledger in await all_ledgers(services.reader)
        if principal.may("contracts:read", ledger.ledger_id) or principal.may("ledger:admin", ledger.ledger_id)
    ]
    return json_response(answers.LedgerPage(items=items))


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
    ),
    _create_ledger,
)
declare(
    router,
    "GET",
    LEDGERS,
    Documented(
        operation_id="list_ledgers",
        tag="ledgers",
        summary="The ledgers that the caller may read",
        description="Those in which the key may read contracts or is an admin, by name.",
        answers={200: ("The ledgers", answers.LedgerPage)},
        problems=(Refused,),
    ),
    _list_ledgers,
)
