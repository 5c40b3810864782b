"""Bundles over HTTP: a ledger, a range of it or a contract, with what a stranger needs to verify it."""

from collections.abc import AsyncIterator
from typing import Annotated

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from service.api.answers import PRIVATE
from service.api.exports import UUID_PATTERN
from service.api.imports import MEDIA_TYPE
from service.api.operations import WHOLE, Call, Documented, Flag, QueryModel, head_of_stream, route
from service.audit.bundle import Bundle, KeyPeriod, Signed, Wanted
from service.errors import ContractNotFound, Forbidden, HistoryForked, NotSigned, Refused
from service.log.checkpoint import Checkpoint
from service.log.epochs import epochs
from service.log.ledger import instant
from service.log.notes import Note

BUNDLE = "/v1/ledgers/{ledger}/bundle"

router = APIRouter()
_log = structlog.get_logger()


class BundleQuery(QueryModel):
    contract_id: Annotated[
        str | None, Field(pattern=UUID_PATTERN, description="Only the events of this contract, each with its proof.")
    ] = None
    from_position: Annotated[int | None, Field(ge=1, le=2**53 - 1, description="A range of the log, from this position on."), WHOLE] = None
    to_position: Annotated[int | None, Field(ge=1, le=2**53 - 1, description="A range of the log, to this position."), WHOLE] = None
    from_size: Annotated[
        int | None,
        Field(ge=0, le=2**53 - 1, description="With the proof that the log continues a checkpoint of this size, as kept."),
        WHOLE,
    ] = None
    sealed: Annotated[
        Flag,
        Field(description="With values and salts of what is sealed; takes the right `sealed:read`, and each event shown so is logged."),
    ] = "false"


async def _bundle(call: Call) -> Response:
    query = call.query(BundleQuery)
    if query.sealed == "true":
        call.principal.require("sealed:read", call.ledger.ledger_id)
    wanted = Wanted(
        contract_id=query.contract_id.lower() if query.contract_id else None,
        from_position=query.from_position,
        to_position=query.to_position,
        from_size=query.from_size,
        sealed=query.sealed == "true",
    )
    bundle = Bundle(call.services.reader, call.ledger, await _signed(call), wanted)
    await bundle.check()
    if call.request.method == "HEAD":
        return head_of_stream(PRIVATE, MEDIA_TYPE)
    return StreamingResponse(_logged(call, bundle), headers=PRIVATE, media_type=MEDIA_TYPE)


async def _signed(call: Call) -> Signed:
    """The newest checkpoint of the ledger, and the keys that sign for it."""
    signing = call.services.signing
    published = await signing.newest(call.ledger, call.epoch)
    keys = [
        KeyPeriod(
            verifier_key=str(verifier),
            since=instant(key.registered_at),
            until=instant(key.retired_at) if key.retired_at else None,
        )
        for verifier, key in await signing.verifiers(call.ledger, call.epoch)
    ]
    # What was restored out of another deployment's bundle has had epochs of that log, which is not this one.
    log = signing.origin(call.ledger, call.epoch).rpartition("/")[0]
    told = [one.note for one in await epochs(call.services.reader.database, call.ledger.ledger_id)]
    begun = [note for note in told if Checkpoint.parse(Note.parse(note).text).origin.rpartition("/")[0] == log]
    return Signed(published.note, published.checkpoint.size, keys, begun)


async def _logged(call: Call, bundle: Bundle) -> AsyncIterator[bytes]:
    """The bundle as it goes out. Who sees what is sealed, and of which events, is logged before they see it; what they see is not."""
    principal_id = call.principal.principal_id
    async for piece in bundle.lines(principal_id):
        if bundle.shown:
            request_id = call.request.scope.get("request_id", "")
            _log.info("sealed data read", principal_id=principal_id, ledger=call.ledger.name, event_ids=bundle.shown, request_id=request_id)
            bundle.shown = []
        yield piece


route(
    router,
    "GET",
    BUNDLE,
    "audit:read",
    Documented(
        operation_id="get_bundle",
        tag="audit",
        summary="A bundle, to be verified elsewhere",
        description=(
            "NDJSON: the newest signed checkpoint, the events in the order of the log with the exact text of their headers and bodies, and "
            "what proves that they stand in the tree that was signed. Of one contract, of a range, or of the whole ledger if neither is "
            "said. `verify.py` (`contract-ledger verifier`) verifies it on any machine with Python and the verifier key; the last line "
            "counts and digests the others, so that one that was cut off is seen."
        ),
        query=BundleQuery,
        answers={200: ("The bundle, an event a line", bytes)},
        problems=(Refused, ContractNotFound, Forbidden, NotSigned, HistoryForked),
    ),
    _bundle,
)
