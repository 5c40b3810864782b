"""Operations: how a route is declared, with what its document says of it, and what its handler is given.

Handlers read the request themselves: bodies must be read more strictly than a framework does, and the hot paths bear no machinery.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from service.access import Keyring, Principal
from service.api.answers import PRIVATE
from service.domain.faults import MAX_LABEL, sentence
from service.errors import ContractNotFound, LedgerError, LedgerNotFound, Malformed, MemberFault, Refused
from service.feed.pages import Feed
from service.log.append import Writers
from service.log.cosigning import Cosigning
from service.log.ledger import Ledger
from service.log.outlook import Outlooks
from service.log.read import Reader
from service.log.signing import Signing
from service.remembered import Remembered

LEDGER_SECONDS = 10
MAX_PARAMETERS = 50
LEDGER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})(?:\.[0-9a-f]{16})?"')
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
Handler = Callable[["Call"], Awaitable[Response]]
Query = TypeVar("Query", bound=BaseModel)


class QueryModel(BaseModel):
    """Query parameters; one that is not declared is refused, so that a slip of the pen is not a wrong answer."""

    model_config = ConfigDict(extra="forbid")


def _spelt(pattern: str, wanted: str) -> BeforeValidator:
    """Parameters are spelt in one way: a validator alone would also take 1688169600 for a day, and 5.0 for a count."""
    spelling = re.compile(pattern)

    def check(text: str) -> str:
        if not spelling.fullmatch(text):
            raise PydanticCustomError("spelling", "it should be {wanted}", {"wanted": wanted})
        return text

    return BeforeValidator(check)


_DAY, _TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
_INSTANT = f"{_DAY}T{_TIME}(Z|[+-][0-9]{{2}}:[0-9]{{2}})"


def _string(pattern: str, example: str) -> WithJsonSchema:
    """A string by its pattern. A format would become a type of its own in clients, which the strings of answers do not fit."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "example": example})


Day = Annotated[date, _string(_DAY, "2023-07-01"), _spelt(_DAY, "a day, such as 2023-07-01")]
Instant = Annotated[
    AwareDatetime,
    _string(_INSTANT, "2026-11-22T09:30:00.123456Z"),
    _spelt(_INSTANT, "an instant of RFC 3339, such as 2026-11-22T09:30:00.123456Z"),
]
# After the bounds, which would miss the schema of what a validator before them lets through.
WHOLE = _spelt("-?[0-9]{1,19}", "a whole number")
Flag = Literal["true", "false"]
Limit = Annotated[int, Field(ge=1, le=500, description="How many items a page has at most."), WHOLE]
Cursor = Annotated[str, Field(min_length=1, max_length=200, description="A cursor from an earlier answer.")]


@dataclass(frozen=True, slots=True)
class Services:
    """What the handlers work with."""

    reader: Reader
    writers: Writers
    keyring: Keyring
    ledgers: "LedgerDirectory"
    outlooks: Outlooks
    signing: Signing
    cosigning: Cosigning
    feed: Feed


class LedgerDirectory:
    """The ledgers by name, remembered a few seconds."""

    def __init__(self, reader: Reader, seconds: float = LEDGER_SECONDS) -> None:
        self._reader = reader
        self._seconds = seconds
        self._ledgers = Remembered(self._find)

    async def find(self, name: str) -> tuple[Ledger, int]:
        """A ledger and its epoch. LedgerNotFound for what cannot be one."""
        if not LEDGER_NAME.fullmatch(name):
            raise LedgerNotFound(f"There is no ledger {name[:100]!r}.")
        return await self._ledgers.get(name)

    def forget(self) -> None:
        """Look ledgers up anew, since one was changed here. Other processes may go by what it was for a few seconds more."""
        self._ledgers = Remembered(self._find)

    async def _find(self, name: str) -> tuple[tuple[Ledger, int], float]:
        return await self._reader.ledger(name), self._seconds


@dataclass(slots=True)
class Call:
    """A request that may do what it asks: who calls, in which ledger, with what at hand."""

    request: Request
    services: Services
    principal: Principal
    ledger: Ledger
    epoch: int

    @property
    def contract_id(self) -> str:
        """The contract of the path. ContractNotFound for what cannot be one."""
        return self.id_in_path("contract", ContractNotFound)

    def id_in_path(self, what: str, missing: type[LedgerError]) -> str:
        """The id of something in the path, such as the replay_id of a `replay`. `missing` for what cannot be one."""
        given: str = self.request.path_params[f"{what}_id"]
        if not _UUID.fullmatch(given):
            article = "an" if what[0] in "aeiou" else "a"
            raise missing(f"Ledger {self.ledger.name} has no {what} {given[:100]!r}; {article} {what}_id is a UUID.")
        return given.lower()

    def query(self, model: type[Query]) -> Query:
        """The query parameters. Refused with the name of each that is unknown, repeated or wrong."""
        return read_query(self.request, model)


def read_query(request: Request, model: type[Query]) -> Query:
    """The query parameters of a request by their model."""
    given = request.query_params.multi_items()
    names = [name for name, _ in given]
    if len(names) > MAX_PARAMETERS:
        raise Refused(f"A request has at most {MAX_PARAMETERS} query parameters.")
    if len(set(names)) != len(names):
        twice = _shown(next(name for name in names if names.count(name) > 1))
        raise Refused(f"{twice} is given twice.", (MemberFault(f"query:{twice}", "given twice"),))
    nul = next((name for name, value in given if "\0" in name + value), None)
    if nul is not None:
        raise Refused("A query parameter holds U+0000.", (MemberFault(f"query:{_shown(nul)}", "holds U+0000"),))
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        faults = tuple(MemberFault(f"query:{_shown(str(fault['loc'][0]))}", sentence(fault)) for fault in error.errors(include_url=False))
        raise Refused(f"{faults[0].pointer}: {faults[0].detail}.", faults) from None


def _shown(name: str) -> str:
    """A parameter's name, in a fault that tells of it."""
    return name if len(name) <= MAX_LABEL else f"{name[:MAX_LABEL]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """What the OpenAPI document says of an operation beyond its route."""

    operation_id: str
    tag: str
    summary: str
    description: str
    answers: dict[int, tuple[str, type | tuple[type, ...] | None]]
    """By status what it means, and the class of the answer; several where the caller's Accept chooses."""
    problems: Sequence[type[LedgerError]] = ()
    query: type[BaseModel] | None = None
    body: str | None = None
    lines: str | None = None
    """Lines such as those of a body in NDJSON."""
    example: Any = None
    opened: bool = False
    """Whether the ledger's policy `public_log` opens it to callers without a token."""
    appends: bool = False
    etag: bool = False
    paged: bool = False
    resumable: bool = False
    """Whether `Last-Event-ID` says where to go on."""
    public: bool = False
    conditional: bool = False
    rights: Sequence[str] = ()
    """One of these is needed; `route` fills it in."""


_MOST_BYTES_OF_NOTHING = 16
STRANGER = Principal("", {})
"""Who calls without a token what a ledger opens to everyone."""


def route(router: APIRouter, method: str, path: str, right: str | Sequence[str], documented: Documented, handler: Handler) -> None:
    """Declare an operation in a ledger: the caller is known and has the right, or one of several, before the handler runs, unless the
    operation is one that the ledger's policy `public_log` opens."""
    rights = (right,) if isinstance(right, str) else right
    takes_nothing = method in ("POST", "DELETE") and documented.body is None and documented.lines is None

    async def endpoint(request: Request) -> Response:
        services: Services = request.app.state.services
        if documented.opened and "authorization" not in request.headers and (known := await _public(services, request)):
            return await handler(Call(request, services, STRANGER, *known))
        principal = await services.keyring.principal(request.headers.get("authorization"))
        try:
            ledger, epoch = await services.ledgers.find(request.path_params["ledger"])
        except LedgerNotFound:
            # Which ledgers there are is nothing for one who might not enter them.
            if not principal.may("ledger:admin", None):
                principal.require(_held(principal, rights, None), None)
            raise
        principal.require(_held(principal, rights, ledger.ledger_id), ledger.ledger_id)
        if takes_nothing:
            await _check_no_body(request)
        return await handler(Call(request, services, principal, ledger, epoch))

    declare(router, method, path, replace(documented, rights=rights), endpoint)


async def _check_no_body(request: Request) -> None:
    """Refused for what an operation without a body would pass over; an empty object is none."""
    if "transfer-encoding" not in request.headers and request.headers.get("content-length", "0") == "0":
        return
    sent = b""
    try:
        async for chunk in request.stream():
            sent += chunk
            if len(sent) > _MOST_BYTES_OF_NOTHING:
                break
    except ClientDisconnect:
        raise Malformed("The client went away before the body was complete.") from None
    if sent.strip() not in (b"", b"{}"):
        raise Refused("This takes no body; leave it out.", (MemberFault("", "no body is taken"),))


async def _public(services: Services, request: Request) -> tuple[Ledger, int] | None:
    """The ledger that is asked for, if its log is open to everyone; of others a stranger does not learn that there are any."""
    try:
        ledger, epoch = await services.ledgers.find(request.path_params["ledger"])
    except LedgerNotFound:
        return None
    return (ledger, epoch) if ledger.public_log else None


def _held(principal: Principal, rights: Sequence[str], ledger_id: str | None) -> str:
    """The first of some rights that a caller has, else the first."""
    return next((right for right in rights if principal.may(right, ledger_id)), rights[0])


OPERATIONS: list[tuple[str, str, Documented]] = []
"""Every operation as (method, path, what its document says), in the order of declaration; the OpenAPI document is made from it."""


def declare(
    router: APIRouter,
    method: str,
    path: str,
    documented: Documented,
    endpoint: Callable[[Request], Awaitable[Response]],
) -> None:
    """Declare an operation whose endpoint looks after itself."""
    OPERATIONS.append((method, path.replace(":path}", "}"), documented))
    router.add_api_route(path, endpoint, methods=[method], name=documented.operation_id, response_model=None)


def json_response(answer: Any, status: int = 200, headers: dict[str, str] | None = None, media_type: str = "application/json") -> Response:
    """An answer of one of the classes in `answers`, or its bytes."""
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return Response(body, status, PRIVATE | headers if headers else PRIVATE, media_type)


def head_of_stream(headers: dict[str, str], media_type: str) -> Response:
    """What answers HEAD where GET streams: its headers. No length, since what GET will have sent is not known before it was read."""
    response = Response(headers=headers, media_type=media_type)
    del response.headers["content-length"]
    return response


def etag_response(call: Call, etag: str, answer: Any, media_type: str = "application/json") -> Response:
    """An answer under an ETag; 304 instead for a caller who has it."""
    if none_match(call.request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=PRIVATE | {"ETag": etag})
    return json_response(answer, 200, {"ETag": etag}, media_type)


def match_revision(header: str) -> int | None:
    """The revision that If-Match expects; None for `*`. Malformed for what this service never gave."""
    if header.strip() == "*":
        return None
    etag = _ETAG.fullmatch(header.strip())
    if etag is None:
        fault = MemberFault("header:If-Match", 'not an ETag of a contract, such as "3"')
        raise Malformed('If-Match is an ETag as this service gives it, such as "3" or "3.0123456789abcdef".', (fault,))
    return int(etag[1])


def none_match(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names the ETag, so that 304 is the answer (RFC 9110, section 13.1.2: weak comparison)."""
    if header is None:
        return False
    given = [candidate.strip().removeprefix("W/") for candidate in header.split(",")]
    return "*" in given or etag in given
