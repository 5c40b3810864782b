"""Problems: every failure as RFC 9457 `application/problem+json`, by one function."""

import asyncio
from collections.abc import Sequence

import msgspec
import psycopg
import structlog
from fastapi import Request, Response
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.api.answers import PRIVATE
from service.api.json_body import MAX_LABEL
from service.domain.faults import sentence
from service.errors import (
    DatabaseUnreachable,
    Internal,
    LedgerError,
    MemberFault,
    MethodNotAllowed,
    OutcomeUnknown,
    Refused,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from service.telemetry import trace_of

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 100
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


def refusal(error: ValidationError, prefix: str = "") -> Refused:
    """The refusal of a body that a validator found faults in: the first in a sentence, and as many as are told by their pointers."""
    count = error.error_count()
    faults = tuple(_fault(found, prefix) for found in error.errors(include_url=False)[:MAX_FAULTS])
    first = faults[0]
    more = "" if count == 1 else f" ({len(faults) - 1} more in errors{'' if count == len(faults) else f', of {count - 1}'})"
    return Refused(f"{first.pointer or 'The body'}: {first.detail}{more}.", faults)


def _fault(error: ErrorDetails, prefix: str) -> MemberFault:
    place = error["loc"]
    if place and len(str(place[-1])) > MAX_LABEL:
        # Whatever its fault, the client chose that name: it is not sent back.
        return MemberFault(prefix + _pointer(place[:-1]), f"there is no member whose name has more than {MAX_LABEL} characters")
    member = (error.get("ctx") or {}).get("member")
    return MemberFault(prefix + _pointer(place) + (f"/{member}" if member else ""), sentence(error))


def _pointer(place: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)
