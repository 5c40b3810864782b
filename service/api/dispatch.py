"""Dispatch: from a request to the endpoint of its route, and from any failure to its problem.

It stands where the framework has a chain of six layers and tries one route after the other (docs/decisions/0010): the routes are the
framework's, found here by what stands at their end.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send
from uuid_utils import uuid4

from service.api.connection import CONNECTION, Connection
from service.api.problems import problem_of
from service.errors import Malformed, MemberFault, MethodNotAllowed, NotFound, OperatorError
from service.metrics import Requests

Endpoint = Callable[[Request], Awaitable[Response]]
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_SINGLE = frozenset((b"authorization", b"content-length", b"content-type", b"idempotency-key", b"if-match", b"if-none-match"))
_ANY: Final = ""
"""Stands for a parameter: no segment of a path that is served is empty."""
_TAIL: Final = ":path}"
_NO_OPERATION: Final = "none"


@dataclass(slots=True)
class _Place:
    """An address: its literal segments, the names of the others by their index, and what answers each method, by its name."""

    literals: list[tuple[int, str]]
    names: list[tuple[int, str]]
    endpoints: dict[str, tuple[Endpoint, str]] = field(default_factory=dict)

    def parameters(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters that the segments of a path stand for; None where the path is another."""
        for index, literal in self.literals:
            if segments[index] != literal:
                return None
        parameters = {name: segments[index] for index, name in self.names}
        return None if _ANY in parameters.values() else parameters


def _check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Malformed when a header that has one value is given twice: which of the two was meant, nobody could say."""
    names = [name for name, _ in headers]
    if len(set(names)) == len(names):
        return
    for name in _SINGLE:
        if names.count(name) > 1:
            fault = MemberFault(f"header:{name.decode().title()}", "given twice")
            raise Malformed(f"{fault.pointer} is given twice.", (fault,))


class Dispatch:
    """The application behind the server: every request gets an id, and one answer."""

    def __init__(self, app: FastAPI, counted: Requests | None = None) -> None:
        self._router = app.router
        self._counted = counted
        self._places: dict[tuple[int, str], dict[str, _Place]] = {}
        self._tails: dict[str, tuple[int, _Place]] = {}
        """By path, what has a last parameter that takes any number of segments, and which segment it begins with."""
        for route in app.router.routes:
            assert isinstance(route, APIRoute)
            self._add(route)

    def _add(self, route: APIRoute) -> None:
        names = [(index, part[1:-1]) for index, part in enumerate(route.path.split("/")) if part.startswith("{")]
        literals = [(index, part) for index, part in enumerate(route.path.split("/")) if part and not part.startswith("{")]
        segments = route.path.split("/")
        ending = _ANY if segments[-1].startswith("{") else segments[-1]
        if ending == _ANY and segments[-1].endswith(_TAIL):
            names[-1] = (names[-1][0], names[-1][1].removesuffix(_TAIL[:-1]))
            _, place = self._tails.setdefault(route.path, (len(segments) - 1, _Place(literals, names)))
            self._tails = dict(sorted(self._tails.items(), key=lambda item: -len(item[1][1].literals)))
        else:
            place = self._places.setdefault((len(segments), ending), {}).setdefault(route.path, _Place(literals, names))
        methods = route.methods or set()
        place.endpoints |= dict.fromkeys(methods, (route.endpoint, route.name))
        if "GET" in methods:
            place.endpoints.setdefault("HEAD", (route.endpoint, route.name))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._live(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4()).encode()
        scope["request_id"] = request_id.decode()
        request = Request(scope, receive, send)
        started, operation = perf_counter(), _NO_OPERATION
        try:
            endpoint, operation = self._endpoint(scope)
            _check_headers(scope["headers"])
            response = await endpoint(request)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever failed, the caller is told; a fault is logged
            response = problem_of(request, error)
        response.raw_headers.append((b"x-request-id", request_id))
        connection: Connection | None = scope.get(CONNECTION)
        if connection is None or type(response) is not Response or not connection.answer_whole(scope, response):
            await response(scope, receive, send)
        if self._counted is not None:
            self._counted.add(operation, response.status_code, perf_counter() - started)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and shutdown. What stands in the way of a start is told in its one sentence, where the framework tells a traceback."""

        async def tell(message: Message) -> None:
            if message["type"] != "lifespan.startup.failed":
                await send(message)

        try:
            await self._router(scope, receive, tell)
        except OperatorError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})

    def _endpoint(self, scope: Scope) -> tuple[Endpoint, str]:
        """What answers the request, and its name; its parameters go into the scope. NotFound, or MethodNotAllowed with what is allowed."""
        path, method = scope["path"], scope["method"]
        segments = path.split("/")
        raw = scope.get("raw_path") or b""
        if b"%2f" in raw.lower():  # a slash that is part of an id
            segments = [unquote(segment) for segment in raw.decode("latin-1").partition("?")[0].split("/")]
        allowed: set[str] = set()
        for place, parts in self._candidates(segments):
            parameters = place.parameters(parts)
            if parameters is None:
                continue
            if method in place.endpoints:
                scope["path_params"] = parameters
                return place.endpoints[method]
            allowed |= place.endpoints.keys()
        if allowed:
            raise MethodNotAllowed(f"{path[:300]} does not answer {method}.", sorted(allowed))
        raise NotFound(f"There is nothing at {path[:300]}; /docs lists every address.")

    def _candidates(self, segments: list[str]) -> Iterator[tuple[_Place, list[str]]]:
        """The places that a path of so many segments may mean, each with the segments as it has them."""
        for ending in (segments[-1], _ANY):
            for place in self._places.get((len(segments), ending), {}).values():
                yield place, segments
        for first, place in self._tails.values():
            if len(segments) > first:
                yield place, [*segments[:first], "/".join(segments[first:])]
