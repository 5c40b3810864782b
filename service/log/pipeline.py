"""Statements that are sent one after the other without waiting, and their results: libpq's pipeline mode, without a cursor for each.

psycopg's own pipeline costs the client as much for three statements as to decide a request (docs/decisions/0014). Statements are
written with named parameters, `%(name)s`, as everywhere; a statement is prepared when a connection meets it first. Parameters are text, or
lists of texts or of bytes, which go as binary arrays.
"""

import re
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from struct import pack
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from psycopg import AsyncConnection, OperationalError
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.postgres import types
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

_PARAMETER = re.compile(r"%\((\w+)\)s")
_FAILED: Final = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)
_TEXT, _BYTEA = types["text"].oid, types["bytea"].oid
_prepared: WeakKeyDictionary[AsyncConnection[Any], dict[str, bytes]] = WeakKeyDictionary()
"""The statements that each connection knows, by their text, with the names they have there."""


@cache
def _numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with numbered parameters, and their names in that order."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(statement)))
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement).encode(), names


def _array(values: Sequence[str] | Sequence[bytes]) -> bytes:
    """An array of texts, or of bytes, as PostgreSQL's array_recv reads it: the dimensions, no nulls, the type of the elements, their number
    and first index; then each with its length. An empty one as its text."""
    if not values:
        return b"{}"
    element = _BYTEA if isinstance(values[0], bytes) else _TEXT
    found = [pack(">iiiii", 1, 0, element, len(values), 1)]
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        found += (len(data).to_bytes(4, "big"), data)
    return b"".join(found)


class Pipeline:
    """A connection in pipeline mode for the time of a block. Whatever fails in it closes the connection, and with it the transaction."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._known = _prepared.setdefault(connection, {})
        self._sent: list[bool] = []
        """For each result that is due, whether somebody asked for it."""

    async def __aenter__(self) -> Self:
        self._pgconn.enter_pipeline_mode()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None:
            self._pgconn.exit_pipeline_mode()
        else:
            await self._connection.close()

    def send(self, statement: str, parameters: Mapping[str, str | list[Any]] | None = None) -> None:
        """Send a statement, as far as the socket takes it at once; its result comes with the next `results`."""
        text, names = _numbered(statement)
        name = self._known.get(statement)
        if name is None:
            name = self._known[statement] = b"append_%d" % len(self._known)
            self._pgconn.send_prepare(name, text)
            self._sent.append(False)
        given = [parameters[parameter] for parameter in names] if parameters else []
        values = [value.encode() if isinstance(value, str) else _array(value) for value in given]
        formats = [Format.BINARY if isinstance(value, list) and value else Format.TEXT for value in given]
        self._pgconn.send_query_prepared(name, values, formats)
        self._sent.append(True)
        self._pgconn.flush()

    async def results(self) -> list[PGresult]:
        """The results of the statements that were sent since the last time, in order. Raises psycopg's error of the first that failed."""
        self._pgconn.pipeline_sync()
        asked, self._sent = self._sent, []
        found = await self._connection.wait(self._receive(len(asked)))
        for result in found:
            if result.status in _FAILED:
                raise error_from_result(result)
        return [result for result, is_asked in zip(found, asked, strict=True) if is_asked]

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """For the time of the block the connection takes statements one by one, when all that were sent are done."""
        await self.results()
        self._pgconn.exit_pipeline_mode()
        yield
        self._pgconn.enter_pipeline_mode()

    def rows(self, result: PGresult) -> list[TupleRow]:
        """The rows of a result, as Python's values."""
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _receive(self, count: int) -> Generator[Wait, Ready | int, list[PGresult]]:
        """So many results, and the mark of the sync after them."""
        pgconn = self._pgconn
        found: list[PGresult] = []
        while True:
            while pgconn.flush():
                if (yield Wait.RW) & Ready.R:
                    pgconn.consume_input()
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                break
            found.append(result)
        if len(found) != count:
            raise OperationalError(f"{count} statements were sent, and {len(found)} results came")
        return found
