"""What proves the log over HTTP: checkpoints, their keys, and proofs against them."""

import base64
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from service.api import audit_answers
from service.api.accepting import preferred
from service.api.answers import PRIVATE
from service.api.events import EVENTS
from service.api.operations import WHOLE, Call, Documented, QueryModel, json_response, route
from service.errors import CheckpointNotFound, EventNotFound, HistoryForked, Malformed, MemberFault, NotSigned, Refused
from service.log import proofs
from service.log.cosigning import cosignatures
from service.log.epochs import epochs
from service.log.ledger import instant
from service.log.signing import Published

LOG = "/v1/ledgers/{ledger}/log"
TEXT = "text/plain; charset=utf-8"

router = APIRouter()
Size = Annotated[int, Field(ge=0, le=2**53 - 1), WHOLE]


class CheckpointQuery(QueryModel):
    pass


class ConsistencyQuery(QueryModel):
    from_: Annotated[Size, Field(alias="from", description="The size of the earlier tree: that of a checkpoint which was signed.")]
    to: Annotated[Size, Field(description="The size of the later tree: that of a checkpoint which was signed.")]


class ProofQuery(QueryModel):
    size: Annotated[
        Size | None, Field(description="The size of a checkpoint that was signed; without it the first that covers the event.")
    ] = None


async def _checkpoint(call: Call) -> Response:
    call.query(CheckpointQuery)
    published = await call.services.signing.newest(call.ledger, call.epoch)
    call.services.cosigning.ask(call.ledger.ledger_id, call.epoch, published.note)
    return Response(await _cosigned(call, published), headers=PRIVATE, media_type=TEXT)


async def _cosigned(call: Call, published: Published) -> str:
    """A checkpoint with what witnesses have added to it."""
    size = published.checkpoint.size
    return published.note + await cosignatures(call.services.reader.database, call.ledger.ledger_id, call.epoch, size)


async def _epochs(call: Call) -> Response:
    call.query(CheckpointQuery)
    found = await epochs(call.services.reader.database, call.ledger.ledger_id)
    begun = [audit_answers.Epoch(epoch=one.epoch, begun_at=instant(one.begun_at), checkpoint=one.note) for one in found]
    return json_response(audit_answers.Epochs(epoch=call.epoch, begun=begun))


async def _keys(call: Call) -> Response:
    call.query(CheckpointQuery)
    signing = call.services.signing
    keys = [
        audit_answers.CheckpointKey(
            verifier_key=str(verifier),
            registered_at=instant(key.registered_at),
            retired_at=None if key.retired_at is None else instant(key.retired_at),
        )
        for verifier, key in await signing.verifiers(call.ledger, call.epoch)
    ]
    return json_response(audit_answers.CheckpointKeys(origin=signing.origin(call.ledger, call.epoch), keys=keys))


async def _consistency(call: Call) -> Response:
    query = call.query(ConsistencyQuery)
    if query.from_ > query.to:
        fault = MemberFault("query:from", f"{query.from_} is more than to={query.to}")
        raise Refused("The earlier tree is the smaller one: exchange `from` and `to`.", (fault,))
    for name, size in (("from", query.from_), ("to", query.to)):
        await _signed(call, name, size)
    path = await proofs.consistency(call.services.reader.database, call.ledger.ledger_id, query.from_, query.to)
    return json_response(audit_answers.Consistency(from_=query.from_, to=query.to, path=_encoded(path)))


async def _signed(call: Call, name: str, size: int) -> Published:
    """The checkpoint of a size. CheckpointNotFound where none was signed."""
    published = await call.services.signing.at(call.ledger, call.epoch, size)
    if published is None:
        fault = MemberFault(f"query:{name}", f"no checkpoint of {size} events was signed")
        raise CheckpointNotFound(f"{fault.detail} of ledger {call.ledger.name} in this epoch; /log/checkpoint tells the newest.", (fault,))
    return published


async def _proof(call: Call) -> Response:
    query = call.query(ProofQuery)
    stored = await call.services.reader.event(call.ledger, call.id_in_path("event", EventNotFound))
    position = stored.header.position
    if query.size is None:
        published = await call.services.signing.covering(call.ledger, call.epoch, position)
    else:
        published = await _signed(call, "size", query.size)
    size = published.checkpoint.size
    if size < position:
        if query.size is None:
            raise NotSigned(f"Event {position} is in no checkpoint yet; ask again in a second.")
        fault = MemberFault("query:size", f"the tree of {size} events does not have event {position}")
        raise Refused(f"{fault.detail}: ask for a later checkpoint.", (fault,))
    path = await proofs.inclusion(call.services.reader.database, call.ledger.ledger_id, position - 1, size)
    if preferred(call.request, "application/json", "text/plain") == "text/plain":
        return Response(_tlog_proof(position - 1, path, await _cosigned(call, published)), headers=PRIVATE, media_type=TEXT)
    return json_response(
        audit_answers.InclusionProof(
            event_id=stored.header.event_id,
            position=position,
            index=position - 1,
            size=size,
            leaf_hash=base64.b64encode(bytes.fromhex(stored.event_hash)).decode(),
            path=_encoded(path),
            checkpoint=await _cosigned(call, published),
        )
    )


def _tlog_proof(index: int, path: Iterable[bytes], note: str) -> str:
    """The proof as C2SP tlog-proof writes it."""
    return "\n".join(("c2sp.org/tlog-proof@v1", f"index {index}", *_encoded(path), "", note))


def _encoded(hashes: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in hashes]


route(
    router,
    "GET",
    LOG + "/checkpoint",
    "audit:read",
    Documented(
        operation_id="get_checkpoint",
        tag="audit",
        summary="The newest checkpoint (C2SP tlog-checkpoint)",
        description=(
            "A signed note: the origin of the log, the number of its events, the root of their tree, the ledger's time zone, and "
            "signatures by Ed25519. Keep it: whoever holds one sees when what it covers was changed. At most one a second is signed."
        ),
        query=CheckpointQuery,
        answers={200: ("The checkpoint", str)},
        problems=(Refused, NotSigned, HistoryForked),
        opened=True,
    ),
    _checkpoint,
)
route(
    router,
    "GET",
    LOG + "/keys",
    "audit:read",
    Documented(
        operation_id="get_checkpoint_keys",
        tag="audit",
        summary="The keys that sign checkpoints",
        description="Pin them when you first see them; a key that takes the place of another signs beside it for a time.",
        query=CheckpointQuery,
        answers={200: ("The keys", audit_answers.CheckpointKeys)},
        problems=(Refused,),
        opened=True,
    ),
    _keys,
)
route(
    router,
    "GET",
    LOG + "/epochs",
    "audit:read",
    Documented(
        operation_id="get_epochs",
        tag="audit",
        summary="The epochs that an operator began after a loss",
        description=(
            "Each with the signed checkpoint that it begins with, whose extension line says what it follows: the origin, size and root of "
            "what was signed before. The first epoch is begun by nobody."
        ),
        query=CheckpointQuery,
        answers={200: ("The epochs", audit_answers.Epochs)},
        problems=(Refused,),
        opened=True,
    ),
    _epochs,
)
route(
    router,
    "GET",
    LOG + "/consistency",
    "audit:read",
    Documented(
        operation_id="get_consistency",
        tag="audit",
        summary="The proof that a later tree continues an earlier one",
        description="Between two checkpoints that were signed: nothing that the earlier one covers was changed, dropped or reordered.",
        query=ConsistencyQuery,
        answers={200: ("The proof", audit_answers.Consistency)},
        problems=(Refused, CheckpointNotFound),
        opened=True,
    ),
    _consistency,
)
route(
    router,
    "GET",
    EVENTS + "/{event_id}/proof",
    "audit:read",
    Documented(
        operation_id="get_event_proof",
        tag="audit",
        summary="The proof that an event is in the log",
        description=(
            "Against a checkpoint: the event's hash is at its index in the tree. With `Accept: text/plain` as C2SP tlog-proof writes it."
        ),
        query=ProofQuery,
        answers={200: ("The proof", (audit_answers.InclusionProof, str))},
        problems=(Malformed, Refused, EventNotFound, CheckpointNotFound, NotSigned, HistoryForked),
    ),
    _proof,
)
