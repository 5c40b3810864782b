"""Problems: every failure as RFC 9457 `application/problem+json`, by one handler."""

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.api.answers import PRIVATE
from service.errors import (
    DatabaseUnreachable,
    Internal,
    LedgerError,
    Malformed,
    MemberFault,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
_URN = "urn:problem-type:contract-ledger:"
_BY_STATUS: dict[int, type[LedgerError]] = {404: NotFound, 405: MethodNotAllowed}
_STRING_HINT = ' (send decimals and dates as strings, such as "1000000000000")'

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
        detail=error.detail,
        instance=request.url.path,
        code=error.code,
        request_id=request.scope.get("request_id", ""),
        errors=[Fault(pointer=fault.pointer, detail=fault.detail) for fault in error.errors] or None,
        **error.members,  # type: ignore[arg-type]
    )
    headers = dict(PRIVATE)
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="contract-ledger"'
    return Response(msgspec.json.encode(problem), error.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make `app` answer every failure with a problem, also those that the framework would answer by itself."""
    app.add_exception_handler(LedgerError, _on_ledger_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_http_exception)
    app.add_exception_handler(psycopg.OperationalError, _on_lost_database)
    app.add_exception_handler(Exception, _on_fault)


async def _on_ledger_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LedgerError)
    return problem_response(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework refuses: no such address or method."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    known = _BY_STATUS.get(status, Malformed)
    details: dict[type[LedgerError], str] = {
        NotFound: f"There is nothing at {request.url.path}; /docs lists every address.",
        MethodNotAllowed: f"{request.url.path} does not answer {request.method}.",
    }
    response = problem_response(request, known(details.get(known, "The request cannot be read.")))
    if status == 405:
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """Every method that the address answers; the framework names those of one route only."""
    scopes = {method: {**request.scope, "method": method} for method in ("GET", "POST", "PUT")}
    return [method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)]


async def _on_lost_database(request: Request, error: Exception) -> Response:
    """A read failed with its connection; an append has already been tried again."""
    _log.warning("the database was lost within a request", error=str(error))
    return problem_response(request, DatabaseUnreachable("The connection to the database was lost; try again."))


async def _on_fault(request: Request, error: Exception) -> Response:
    _log.error("unexpected failure", path=request.url.path, exc_info=error)
    response = problem_response(request, Internal("The fault is logged under this request_id; a retry with the same key is safe."))
    response.headers["X-Request-Id"] = request.scope.get("request_id", "")  # this answer is made outside the middleware
    return response


def faults_of(errors: Sequence[ErrorDetails], prefix: str = "") -> tuple[MemberFault, ...]:
    """What a validator found, as pointers into the body."""
    return tuple(MemberFault(prefix + _pointer(error), _detail(error)) for error in errors)


def _pointer(error: ErrorDetails) -> str:
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error["loc"])
    member: Any = (error.get("ctx") or {}).get("member")
    return f"{pointer}/{member}" if member else pointer


def _detail(error: ErrorDetails) -> str:
    if error["type"] == "unexpected_keyword_argument":
        return "there is no such member"
    if error["type"] in ("missing", "missing_argument"):
        return "this member is required"
    message = error["msg"].replace("Input should", "it should", 1)
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        return message + _STRING_HINT
    return message
