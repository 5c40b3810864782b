"""Problems: every failure as RFC 9457 `application/problem+json`, by one function."""

import asyncio

import msgspec
import psycopg
import structlog
from fastapi import Request, Response

from service.api.answers import PRIVATE
from service.errors import (
    DatabaseUnreachable,
    Internal,
    LedgerError,
    MethodNotAllowed,
    OutcomeUnknown,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from service.telemetry import trace_of

MEDIA_TYPE = "application/problem+json"
_URN = "urn:problem-type:contract-ledger:"

_log = structlog.get_logger()


class Fault(msgspec.Struct, kw_only=True):
    """One fault: an RFC 6901 pointer into the body, or `query:name`, `header:name`, and why."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A problem (RFC 9457). `code` is stable; `detail` says what happened and what to do next."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    rule: str | None = None
    errors: list[Fault] | None = None
    expected_revision: int | None = None
    current_revision: int | None = None
    contract_id: str | None = None
    replay_id: str | None = None


def problem_response(request: Request, error: LedgerError) -> Response:
    """The one rendering of a failure."""
    problem = Problem(
        type=_URN + error.code,
        title=error.title,
        status=error.status,
        detail=f"{error.detail} {_advice(request)}" if error.to_be_retried else error.detail,
        instance=request.url.path,
        code=error.code,
        request_id=request.scope.get("request_id", ""),
        errors=[Fault(pointer=fault.pointer, detail=fault.detail) for fault in error.errors] or None,
        **error.members,  # type: ignore[arg-type]
    )
    headers = dict(PRIVATE)
    if isinstance(error, Unavailable | TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="contract-ledger"'
    return Response(msgspec.json.encode(problem), error.status, headers, MEDIA_TYPE)


def _advice(request: Request) -> str:
    """How to send a request again that was not at fault."""
    if request.method == "POST":
        return "Send it again later, with the same Idempotency-Key: what was recorded is not recorded twice."
    return "Send it again later."


def problem_of(request: Request, error: BaseException) -> Response:
    """The problem that any failure of a request becomes; a fault of ours is logged, and its cause told to nobody."""
    if isinstance(error, asyncio.CancelledError):
        kind = OutcomeUnknown if request.method == "POST" else Unavailable
        return problem_response(request, kind(f"The service stops, and could not wait for this request any longer. {_advice(request)}"))
    if isinstance(error, LedgerError):
        return problem_response(request, error)
    if isinstance(error, psycopg.OperationalError):
        # A read; an append has already been tried again.
        _log.warning("the database was lost within a request", error=str(error), **_named(request))
        return problem_response(request, DatabaseUnreachable("The connection to the database was lost."))
    _log.error("unexpected failure", path=request.url.path, exc_info=error, **_named(request))
    return problem_response(request, Internal("The fault is logged under this request_id."))


def _named(request: Request) -> dict[str, str]:
    """What a line of the log names a request by: its id, and its place in a trace."""
    return {"request_id": request.scope.get("request_id", "")} | trace_of(request.headers.get("traceparent"))
