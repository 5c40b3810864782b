"""A connection to a client: uvicorn's, made to bear what a stranger may send before it is a request.

What is no HTTP/1.1 is answered with a Problem, as everything else is; the line and headers of a request have a bound; and a client that
says nothing, or does not take what it is told, does not hold its connection for ever.
"""

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import httptools
from fastapi import Request, Response
from starlette.types import Scope
from uuid_utils import uuid4
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problems import problem_response
from service.errors import Malformed

MAX_HEAD_BYTES: Final = 65_536
"""The parser itself would take a line and headers without end."""
STALLED_SECONDS: Final = 30.0
CONNECTION: Final = "contract-ledger.connection"
"""Under this name a request's scope holds the connection that it came by."""
_BODILESS: Final = (204, 304)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_HTTP: Final = "What was sent is no request of HTTP/1.1 as RFC 9112 has it; the connection is closed."
_TOO_LONG: Final = f"The line and headers of a request have at most {MAX_HEAD_BYTES} bytes; the connection is closed."


class Connection(HttpToolsProtocol):
    """One connection, as uvicorn makes it when told `http="service.api.connection:Connection"`."""

    stalled_seconds = STALLED_SECONDS
    """Between two looks; a connection on which nothing happened from one to the next is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.scope = {"method": ""}  # type: ignore[typeddict-item]
        self._refused = _NOT_HTTP
        self._head_bytes = self._arriving = 0
        self._silent = True
        self._seen: tuple[Any, int] = (self, 0)
        self._answered: Any = None
        """Whose answer is due: of requests sent behind one another, the first that has none."""
        self.is_draining = False
        self.on_drain: Callable[[], None] | None = None
        """To be called when the service stops: by who has an answer under way that would go on."""
        self._next_look = self.loop.call_later(self.stalled_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self.is_draining = True
        if self.on_drain is not None:
            self.on_drain()

    def abort(self) -> None:
        """Break the connection off, with whatever of an answer the client has not taken."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._silent = False
        self._arriving = len(data)
        while data:
            self._received, self._anew = data, b""
            super().data_received(data)
            data = self._anew
        # Only while its headers are not complete does a request's scope lack the method.
        in_head = "method" not in self.scope
        if in_head:
            self._head_bytes += self._arriving
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refused = _TOO_LONG
                self.send_400_response(_TOO_LONG)

    def on_headers_complete(self) -> None:
        if self._offers_another():
            return
        # Most heads come in one piece of a few hundred bytes: to add up their headers would be a waste.
        if self._head_bytes + self._arriving > MAX_HEAD_BYTES and self._head_size() > MAX_HEAD_BYTES:
            self._refused = _TOO_LONG
            raise ValueError(_TOO_LONG)
        self._head_bytes = 0
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        # Nothing in the scope may lead back to the scope: what holds itself stays until the collector finds it, in pauses of 50 ms.
        cycle.scope[CONNECTION] = self
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def answer_whole(self, scope: Scope, response: Response) -> bool:
        """Write head and body of a request's answer at once, where nothing stands in the way; whether it was written.

        The server's own way, through two messages and a look at each header, costs more than to read an append and check it.
        """
        cycle = self._answered
        if cycle.scope is not scope or self.flow.write_paused:
            return False
        if cycle.response_started or cycle.disconnected or not cycle.keep_alive or cycle.more_body:
            return False
        if cycle.scope["method"] == "HEAD" or response.status_code in _BODILESS:
            return False
        head = [b"%s: %s" % header for header in (*self.server_state.default_headers, *response.raw_headers)]
        if _CONTROL.search(b"".join(head)):
            return False  # the server's own way refuses it
        self.transport.write(STATUS_LINE[response.status_code] + b"\r\n".join(head) + b"\r\n\r\n" + bytes(response.body))
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Refuse what is no request, in a way that no one takes for the answer to a request before it."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.write(self._refusal())
            self.transport.close()
        elif not cycle.more_body:
            # It came behind a request that is being answered: with that answer the connection ends.
            cycle.keep_alive = False
            self.flow.pause_reading()
        else:
            self._break_off(cycle)

    def _break_off(self, cycle: Any) -> None:
        """End the connection within the body of a request, which is not to be had whole any more."""
        if not self.pipeline and not cycle.response_started:
            self.transport.write(self._refusal())
        cycle.disconnected = True
        cycle.message_event.set()
        self.transport.close()

    def _refusal(self) -> bytes:
        request_id = str(uuid4())
        path = self.scope.get("path", "/")
        request = Request({"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "request_id": request_id})
        response = problem_response(request, Malformed(self._refused))
        own = [(b"x-request-id", request_id.encode()), (b"connection", b"close")]
        headers = [*self.server_state.default_headers, *response.raw_headers, *own]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return STATUS_LINE[response.status_code] + lines + b"\r\n" + bytes(response.body)

    def on_message_complete(self) -> None:
        if not self._offers_another():
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """To offer another protocol is no fault: Java's client does, to every server. It is answered in this one (RFC 9110, 7.8).

        The parser takes such a request to end with its head, and what follows for the other protocol: it is given the head anew, without
        the offer, and with it the body.
        """
        stopped = sys.exc_info()[1]
        if stopped is None or not self._offers_another():
            return
        listed = [token.strip() for name, value in self.headers if name == b"connection" for token in value.split(b",")]
        options = b", ".join(token for token in listed if token.lower() != b"upgrade")
        kept = [header for header in self.headers if header[0] not in (b"connection", b"upgrade")] + [(b"connection", options)]
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        head = line + b"".join(b"%s: %s\r\n" % header for header in kept) + b"\r\n"
        self._anew = head + self._received[stopped.args[0] :]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _offers_another(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _look(self) -> None:
        if self._has_stalled():
            self.transport.abort()
            return
        self._seen = (self.cycle, self.transport.get_write_buffer_size())
        self._silent = True
        self._next_look = self.loop.call_later(self.stalled_seconds, self._look)

    def _has_stalled(self) -> bool:
        """Whether since the last look the client took nothing of an answer, ended no head that it owes, or sent nothing of a body."""
        seen, unsent = self._seen
        cycle: Any = self.cycle
        if unsent and unsent == self.transport.get_write_buffer_size():
            return True
        if cycle is None or cycle.response_complete:
            # Between two requests uvicorn's own timer runs, up to the first byte of the next.
            return cycle is seen and self.timeout_keep_alive_task is None
        return bool(cycle.more_body and self._silent and not self.flow.read_paused)
