"""Exports over HTTP: the events of a ledger or a contract by the line, in the form that an import takes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from service.api.answers import PRIVATE
from service.api.events import check_sealed, sealed_parts
from service.api.imports import MEDIA_TYPE
from service.api.operations import Call, Documented, Flag, QueryModel, head_of_stream, route
from service.errors import ContractNotFound, Refused
from service.log.header import SealedPart
from service.log.ledger import Ledger
from service.log.read import Reader
from service.log.stored import StoredEvent

EXPORT = "/v1/ledgers/{ledger}/export"
PAGE_EVENTS = 500
UUID_PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"

router = APIRouter()


class ExportQuery(QueryModel):
    contract_id: Annotated[
        str | None, Field(pattern=UUID_PATTERN, description="Only the events of this contract; of all of them if not said.")
    ] = None
    sealed: Annotated[
        Flag,
        Field(description="With values and salts of what is sealed; takes the right `sealed:read`, and each event shown so is logged."),
    ] = "false"


class _Body(msgspec.Struct):
    """A stored body, its parts left as the bytes they are."""

    data: msgspec.Raw
    source: msgspec.Raw
    evidence: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sealed: dict[str, str] = {}
    sealed_until: dict[str, str] = {}


class ExportedSeal(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A sealed member: its value and salt, from which an import makes the same digest; or the digest, which no import can take."""

    path: str
    value: Any = msgspec.UNSET
    salt: str | None = None
    digest: str | None = None
    until: str | None = None


class ExportedLine(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line: what was sent of an event, the contract it is of, and the id it has. One that was erased has no data and no source."""

    contract: str
    event_id: str
    event_type: str
    schema_version: int
    effective_on: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    hypothetical: bool | None = None
    source: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    evidence: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sealed: list[ExportedSeal] | msgspec.UnsetType = msgspec.UNSET


_decode_body = msgspec.json.Decoder(_Body).decode
_encode_lines = msgspec.json.Encoder().encode_lines


def exported(stored: StoredEvent, parts: Sequence[SealedPart] = ()) -> ExportedLine:
    """A stored event as a line; with the given values and salts of what it seals."""
    header = stored.header
    line = ExportedLine(
        contract=header.contract_id,
        event_id=header.event_id,
        event_type=header.event_type,
        schema_version=header.schema_version,
        effective_on=header.effective_on,
        correlation_id=header.correlation_id,
        causation_id=header.causation_id,
        hypothetical=header.hypothetical,
    )
    if stored.body is not None:
        body = _decode_body(stored.body)
        line.data, line.source, line.evidence = body.data, body.source, body.evidence
        if body.sealed:
            line.sealed = _seals(body, parts)
    return line


def _seals(body: _Body, parts: Sequence[SealedPart]) -> list[ExportedSeal]:
    known = {part.path: part for part in parts}
    return [
        ExportedSeal(path=path, value=known[path].value, salt=known[path].salt, until=body.sealed_until.get(path))
        if path in known
        else ExportedSeal(path=path, digest=digest, until=body.sealed_until.get(path))
        for path, digest in body.sealed.items()
    ]


async def _export(call: Call) -> Response:
    query, reader = call.query(ExportQuery), call.services.reader
    check_sealed(call, query.sealed)
    if query.contract_id is None:
        next_page = await _of_ledger(reader, call.ledger)
    else:
        next_page = await _of_contract(reader, call.ledger, query.contract_id.lower())
    if call.request.method == "HEAD":
        return head_of_stream(PRIVATE, MEDIA_TYPE)
    return StreamingResponse(_pages(call, next_page, query), headers=PRIVATE, media_type=MEDIA_TYPE)


_NextPage = Callable[[], Awaitable[list[StoredEvent]]]


async def _of_ledger(reader: Reader, ledger: Ledger) -> _NextPage:
    """Reads the events that the ledger has now, page by page: no snapshot is held meanwhile, since nothing in the log changes."""
    last, _ = await reader.newest(ledger)
    after = 0

    async def next_page() -> list[StoredEvent]:
        nonlocal after
        found = await reader.events(ledger, after, min(PAGE_EVENTS, last - after)) if after < last else []
        after = found[-1].header.position if found else last
        return found

    return next_page


async def _of_contract(reader: Reader, ledger: Ledger, contract_id: str) -> _NextPage:
    """Reads the events of a contract, page by page. ContractNotFound if there are none."""
    last = await reader.last_revision(ledger, contract_id)
    if not last:
        raise ContractNotFound(f"Ledger {ledger.name} has no contract {contract_id}.")
    after = 0

    async def next_page() -> list[StoredEvent]:
        nonlocal after
        found = await reader.contract_events(ledger, contract_id, after, min(PAGE_EVENTS, last - after)) if after < last else []
        after = found[-1].header.revision if found else last
        return found

    return next_page


async def _pages(call: Call, next_page: _NextPage, query: ExportQuery) -> AsyncIterator[bytes]:
    while found := await next_page():
        parts = await sealed_parts(call, found) if query.sealed == "true" else {}
        yield _encode_lines([exported(stored, parts.get(stored.header.position, ())) for stored in found])


route(
    router,
    "GET",
    EXPORT,
    "contracts:read",
    Documented(
        operation_id="export_events",
        tag="imports",
        summary="Export events, one a line",
        description=(
            "NDJSON, in the order of the log: what was sent of each event, with its contract and its id. An import takes these lines as "
            "they are, and in an empty ledger makes contracts with the same `state_hash`. Of what is sealed a line has the digest, and is "
            "refused by an import; with `sealed=true` it has value and salt, and is taken."
        ),
        query=ExportQuery,
        answers={200: ("Events, one a line", bytes)},
        problems=(Refused, ContractNotFound),
    ),
    _export,
)
