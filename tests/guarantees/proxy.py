"""A proxy between the service and Postgres that reads the protocol, and breaks it at a chosen statement.

It understands the messages of PostgreSQL's protocol 3 as far as needed: which statement an Execute runs, and when that is done.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

SOCKET = ".s.PGSQL.5432"
_PROTOCOL_3 = 3 << 16
How = Literal["cut before", "cut after", "refuse", "stall"]


@dataclass(slots=True)
class Fault:
    """What happens to the next Execute of a statement: the connection is cut before the server has it; or after the
    server carried it out, before the answer is passed on; or the server refuses it with the sqlstate; or
    nothing is passed on any more, either way."""

    statement: str
    how: How
    times: int = 1
    sqlstate: str = "53100"
    met: int = 0

    def meets(self, statement: str) -> bool:
        """Whether this is the statement, and it is due; counts the meeting."""
        if self.met == self.times or statement != self.statement:
            return False
        self.met += 1
        return True


@dataclass(slots=True)
class Proxy:
    """Listens on a socket file; `url` leads through it. `fault` is what happens next, `executed` the statements that passed."""

    url: str
    fault: Fault | None = None
    executed: list[str] = field(default_factory=list)
    links: set["_Link"] = field(default_factory=set)

    def cut(self) -> None:
        """Cut every connection."""
        for link in list(self.links):
            link.cut()


@contextlib.asynccontextmanager
async def proxying(url: str, folder: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of the database of a URL, with its socket in a folder."""
    upstream = Path(str(conninfo_to_dict(url)["host"])) / SOCKET
    proxy = Proxy(make_conninfo(url, host=str(folder)))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        link = _Link(proxy, reader, writer, *(await asyncio.open_unix_connection(upstream)))
        proxy.links.add(link)
        try:
            await link.pass_on()
        finally:
            proxy.links.discard(link)
            tasks.discard(task)

    server = await asyncio.start_unix_server(serve, folder / SOCKET)
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = from_client, to_client
        self._from_server, self._to_server = from_server, to_server
        self._prepared: dict[bytes, str] = {}
        self._bound = ""
        self._sent = 0
        self._done = 0
        self._cut_when_done: int | None = None

    def cut(self) -> None:
        for writer in (self._to_client, self._to_server):
            writer.transport.abort()

    async def pass_on(self) -> None:
        """Both directions, until either side ends or the connection is cut."""
        ways = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self) -> None:
        await self._start()
        while True:
            kind, body = await _message(self._from_client)
            if kind == b"P":
                name, query, _ = body.split(b"\0", 2)
                self._prepared[name] = query.decode()
            elif kind == b"B":
                self._bound = self._prepared[body.split(b"\0", 2)[1]]
            elif kind == b"Q":
                self._bound = body[:-1].decode()
            if kind in (b"E", b"Q") and not self._execute(kind, body):
                # The server may still have to do what it was sent; `_answers` cuts then, or the connection is cut already.
                await self._to_server.drain()
                return await asyncio.Event().wait()  # type: ignore[return-value]
            if kind not in (b"E", b"Q"):
                self._send(kind, body)
            await self._to_server.drain()

    async def _start(self) -> None:
        """The first packet has no kind; those that ask for encryption do not come by a socket file."""
        length = await self._from_client.readexactly(4)
        packet = await self._from_client.readexactly(struct.unpack("!i", length)[0] - 4)
        self._to_server.write(length + packet)
        if struct.unpack("!i", packet[:4])[0] != _PROTOCOL_3:
            self._to_server.write_eof()

    def _execute(self, kind: bytes, body: bytes) -> bool:
        """Pass an Execute on, unless a fault wants otherwise; False when nothing more of this connection is passed on."""
        fault = self._proxy.fault
        met = fault is not None and fault.meets(self._bound)
        if met and fault and fault.how == "cut before":
            self.cut()
            return False
        if met and fault and fault.how == "stall":
            return False
        if met and fault and fault.how == "refuse":
            self._refuse(fault.sqlstate)
        self._send(kind, body)
        self._sent += 1
        if met and fault and fault.how == "cut after":
            self._cut_when_done = self._sent
            self._send(b"H", b"")
            return False
        self._proxy.executed.append(self._bound)
        return True

    def _refuse(self, sqlstate: str) -> None:
        """Have the server fail here: what follows in the pipeline is skipped up to the next Sync."""
        statement = f"DO $$BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{sqlstate}'; END$$"
        self._send(b"P", b"\0" + statement.encode() + b"\0\0\0")
        self._send(b"B", b"\0\0\0\0\0\0\0\0")
        self._send(b"E", b"\0\0\0\0\0")

    def _send(self, kind: bytes, body: bytes) -> None:
        self._to_server.write(kind + struct.pack("!i", len(body) + 4) + body)

    async def _answers(self) -> None:
        while True:
            kind, body = await _message(self._from_server)
            # CommandComplete, EmptyQueryResponse
            self._done += kind in (b"C", b"I")
            if self._cut_when_done is not None and self._done == self._cut_when_done:
                return
            self._to_client.write(kind + struct.pack("!i", len(body) + 4) + body)
            await self._to_client.drain()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
