"""A contract as Open Contracting data, over HTTP."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from service.api import answers
from service.api.contracts import CONTRACT
from service.api.operations import Call, Documented, QueryModel, json_response, route
from service.domain.contract import MAX_EVENTS
from service.errors import ContractNotFound, Refused
from service.exchange.ocds import PACKAGES, Exported, encode

router = APIRouter()


class OcdsQuery(QueryModel):
    as_: Annotated[
        Literal["record", "releases"],
        Field(alias="as", description="A record package with releases and compiled release, or a release package."),
    ] = "record"


async def _export(call: Call) -> Response:
    query, reader = call.query(OcdsQuery), call.services.reader
    stored = await reader.contract_events(call.ledger, call.contract_id, 0, MAX_EVENTS)
    if not stored:
        raise ContractNotFound(f"Ledger {call.ledger.name} has no contract {call.contract_id}.")
    events = await reader.history(call.ledger, call.contract_id, stored[-1].header.position)
    exported = Exported(call.contract_id, events, [known.header.recorded_at for known in stored])
    return json_response(await asyncio.to_thread(lambda: encode(PACKAGES[query.as_](exported))))


route(
    router,
    "GET",
    f"{CONTRACT}/ocds",
    "contracts:read",
    Documented(
        operation_id="get_contract_ocds",
        tag="contracts",
        summary="A contract as Open Contracting data (OCDS 1.1)",
        description=(
            "A release for each revision (of a long contract one for several in a row), and the record that they make: its compiled "
            "release is the standard's merge of the releases. An estimate is never the contract's value; every figure stands under "
            "`ledger/figures`. docs/ocds.md says what OCDS has no place for."
        ),
        query=OcdsQuery,
        answers={200: ("The package", answers.OcdsPackage)},
        problems=(Refused, ContractNotFound),
    ),
    _export,
)
