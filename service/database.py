"""How the service and its commands connect to the database: each connection checked, and lost ones replaced."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from service.errors import DatabaseUnreachable, OperatorError

Found = TypeVar("Found")
_log = structlog.get_logger()

DURABILITY = """
SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
       current_setting('server_version_num')::int
"""


async def check_durability(connection: AsyncConnection[Any]) -> None:
    """OperatorError unless a commit on this connection is on disk when it is acknowledged."""
    row = await (await connection.execute(DURABILITY)).fetchone()
    refuse_unsafe(row or ())


def refuse_unsafe(row: tuple[Any, ...]) -> None:
    fsync, full_page_writes, synchronous_commit, version = row
    for name, value in (("fsync", fsync), ("full_page_writes", full_page_writes), ("synchronous_commit", synchronous_commit)):
        if value == "off":
            raise OperatorError(
                f"Postgres runs with {name} = off, so an acknowledged event could be lost: "
                f"turn {name} on (ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()) and start again."
            )
    if version < 160000:
        raise OperatorError(f"Postgres is version {version // 10000}; contract-ledger needs 16 or later.")


_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "application_name": "contract-ledger",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
WAIT_SECONDS = 5
"""How long a request waits for a connection."""
RECONNECT_SECONDS = 10
FAILURES = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.InvalidSqlStatementName, DatabaseUnreachable, TimeoutError)
"""What is of a connection, and nothing that the next one would say again. A statement that a connection has forgotten, since something on
it ended in DEALLOCATE ALL, is there again on another."""


class Database:
    """The connections of one process. Each is checked when it is made, and runs in autocommit: transactions are explicit."""

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            url,
            min_size=2,
            max_size=max(connections, 2),
            open=False,
            timeout=WAIT_SECONDS,
            kwargs=_OPTIONS | {"prepare_threshold": 1},
            configure=self._configure,
            # After it the next request tries anew: the pool's own attempts come ever rarer, so that a long outage would be followed by
            # as long a wait.
            reconnect_timeout=RECONNECT_SECONDS,
        )
        self.on_connect: list[Callable[[AsyncConnection[TupleRow]], Awaitable[None]]] = []

    async def open(self) -> None:
        """Connect, or raise OperatorError with what stands in the way."""
        # The pool would go on trying, and keep to itself why it cannot.
        try:
            connection = await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=10)
        except psycopg.OperationalError as error:
            raise _unreachable(self._url, error) from error
        async with connection:
            await check_durability(connection)
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    def pool_figures(self) -> dict[str, int]:
        """How the pool stands, by psycopg's names."""
        return self._pool.get_stats()

    async def recover(self) -> None:
        """After a failure: let go of the connections that are broken, and make new ones."""
        with suppress(PoolTimeout):
            await self._pool.check()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """A connection for the time of the block. Unavailable when none can be had."""
        try:
            connection = await self._pool.getconn()
        except PoolTimeout as error:
            raise DatabaseUnreachable("The database cannot be reached at the moment.") from error
        try:
            yield connection
        finally:
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """A connection in a transaction for the time of the block. One that fails closes the connection: psycopg follows a ROLLBACK with
        DEALLOCATE ALL, and the appends that come next on it would miss the statements that they have prepared there."""
        async with self.connection() as connection:
            try:
                async with connection.transaction():
                    yield connection
            except BaseException:
                await connection.close()
                raise

    async def rows(self, statement: str, parameters: Mapping[str, Any] | None = None, *, planned_anew: bool = False) -> list[TupleRow]:
        """All rows of one statement, in a transaction of its own; planned for these parameters alone where no one plan suits all."""

        async def run(connection: AsyncConnection[TupleRow]) -> list[TupleRow]:
            return await (await connection.execute(statement, parameters, prepare=False if planned_anew else None)).fetchall()

        return await self.read(run)

    async def read(self, run: Callable[[AsyncConnection[TupleRow]], Awaitable[Found]]) -> Found:
        """What a read finds. It may run twice: that a restart of Postgres ended an idle connection is found out by who uses it next."""
        async with self.connection() as connection:
            try:
                return await run(connection)
            except psycopg.OperationalError as error:
                if not connection.closed:
                    raise
                _log.info("a read lost its connection and is run again", error=str(error).partition("\n")[0])
        await self.recover()
        async with self.connection() as connection:
            return await run(connection)

    async def _configure(self, connection: AsyncConnection[TupleRow]) -> None:
        await check_durability(connection)
        for check in self.on_connect:
            await check(connection)


def is_url(text: str) -> bool:
    """Whether libpq can read where it leads. What it says of one that it cannot read has the password in it, and is not told."""
    try:
        port = psycopg.conninfo.conninfo_to_dict(text).get("port")
    except psycopg.ProgrammingError:
        return False
    # A slash in a password ends the part with the port, which has the password's beginning then.
    return port is None or all(not part or part.isdecimal() for part in str(port).split(","))


def connect(url: str, **options: Any) -> psycopg.Connection[TupleRow]:
    """A connection for a command. OperatorError when the database cannot be reached."""
    try:
        connection = psycopg.connect(url, connect_timeout=10, application_name="contract-ledger", **options)
    except psycopg.OperationalError as error:
        raise _unreachable(url, error) from error
    return connection


def _unreachable(url: str, error: psycopg.OperationalError) -> OperatorError:
    where = psycopg.conninfo.make_conninfo(url, password="***")  # noqa: S106 - it hides one
    # Of several attempts the last; what follows it on lines of their own, further in, belongs to it.
    said = re.split(r"\n(?=\S)", str(error).strip())[-1]
    reason = " ".join(said.split()).rstrip(".?") or "no answer"
    return OperatorError(f"The database cannot be reached ({where}): {reason}. Start it, or set right the URL that leads to it.")
