"""The tables, as SQLAlchemy Core knows them, and how the service connects to them.

Every key begins with `ledger_id`: the ledger is the tenant, the unit of order and the shard. The migrations write the same tables in
SQL, and a test holds the two equal. What only the migrations hold: the triggers that refuse changes, and the privileges.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, dialect

from service.errors import DatabaseUnreachable, OperatorError

metadata = MetaData(
    naming_convention={"pk": "%(table_name)s_pkey", "uq": "%(table_name)s_%(column_0_N_name)s_key", "ck": "%(constraint_name)s"}
)
_instant = DateTime(timezone=True)

ledgers = Table(
    "ledgers",
    metadata,
    Column("ledger_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("time_zone", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("1")),
    Column("generation", Integer, nullable=False, server_default=text("1")),
    Column("layout", Integer, nullable=False),
    Column("if_match_required", Boolean, nullable=False, server_default=text("false")),
    Column("unique_reference_schemes", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("clock_accepted_at", _instant),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
)
"""Books of contracts. `generation` names the rows of the projections that are live, `layout` the shape they have."""

ledger_locks = Table("ledger_locks", metadata, Column("ledger_id", Uuid, primary_key=True))
"""One static row a ledger; its lock is the order of the log. Nothing references it and nothing ever changes it."""

batches = Table(
    "batches",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column("recorded_at", _instant, nullable=False),
    PrimaryKeyConstraint("ledger_id", "last_position"),
    Index("batches_recorded_at", "ledger_id", "recorded_at"),
)
"""The heads of the log, one row a commit; the newest is the head. A ledger begins with the row of position 0."""

events = Table(
    "events",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("recorded_at", _instant, nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("event_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("ledger_id", "position"),
    UniqueConstraint("ledger_id", "contract_id", "revision"),
    UniqueConstraint("ledger_id", "event_id"),
    CheckConstraint("event_hash = sha256('\\x00'::bytea || header)", name="events_hash_check"),
    CheckConstraint("octet_length(header) <= 4096", name="events_header_check"),
)
"""The log: the header's bytes as hashed, and columns copied from them for queries."""

payloads = Table(
    "payloads",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("sealed", LargeBinary),
    PrimaryKeyConstraint("ledger_id", "position"),
)
"""The bodies of events, apart from the log, so that one can be erased while every proof stays. `sealed` holds the values and salts of
what is sealed; no other column does, and nothing reads it but for a reader with the right, and to verify."""

contracts = Table(
    "contracts",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("last_on", Date, nullable=False),
    Column("has_pending", Boolean, nullable=False),
    Column("settled_on", Date, nullable=False),
    Column("holds_until", Date),
    Column("filters", ARRAY(Text), nullable=False),
    Column("state", Text, nullable=False),
    Column("beside", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id"),
    Index("contracts_filters", "filters", postgresql_using="gin"),
    Index("contracts_signed_on", "ledger_id", "generation", text("(filters[1])"), "contract_id"),
    Index("contracts_ends_on", "ledger_id", "generation", text("(filters[2])"), "contract_id"),
    Index("contracts_holds_until", "ledger_id", "generation", "holds_until", postgresql_where=text("holds_until IS NOT NULL")),
)
"""The current state of contracts: exactly the fold of the log. `state` and `beside` are canonical JSON, kept as text. The first two of
`filters` are the days that lists are sorted by."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("delivery_id", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id", "delivery_id"),
)
"""Ids of recorded deliveries, which are too many to stand in a contract's state and must be unique in it."""

outlook_heads = Table(
    "outlook_heads",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("filled_to", Uuid),
    PrimaryKeyConstraint("ledger_id", "generation"),
)
"""How far the outlook of a ledger follows its log; while it is first filled, `filled_to` names the last contract that is in it."""

outlooks = Table(
    "outlooks",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("outlook", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id"),
)
"""What a contract has contributed to deadlines, commitments and parties, as JSON: so that it can be taken out again."""

deadlines = Table(
    "deadlines",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("counts_on", Date, nullable=False),
    Column("kind", Text, nullable=False),
    Column("deadline", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id", "number"),
    Index("deadlines_counts_on", "ledger_id", "generation", "counts_on", "contract_id", "number"),
)

commitments = Table(
    "commitments",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("by_party", Boolean, nullable=False),
    Column("by_product", Boolean, nullable=False),
    Column("party", Text(collation="C"), nullable=False),
    Column("product", Text(collation="C"), nullable=False),
    Column("currency", Text(collation="C"), nullable=False),
    Column("unit", Text(collation="C"), nullable=False),
    Column("year", Text(collation="C"), nullable=False),
    Column("basis", Text(collation="C"), nullable=False),
    Column("status", Text(collation="C"), nullable=False),
    Column("committed_low", Numeric, nullable=False),
    Column("committed_high", Numeric, nullable=False),
    Column("delivered", Numeric, nullable=False),
    Column("remaining_low", Numeric, nullable=False),
    Column("remaining_high", Numeric, nullable=False),
    Column("lines", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        "ledger_id", "generation", "by_party", "by_product", "party", "product", "currency", "unit", "year", "basis", "status"
    ),
)
"""Sums of the lines of all contracts: over all parties or by party, over all products or by product. One without lines is not kept."""

parties = Table(
    "parties",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("party_id", Text(collation="C"), nullable=False),
    Column("digest", Text(collation="C"), nullable=False),
    Column("form", Text, nullable=False),
    Column("words", ARRAY(Text), nullable=False),
    Column("contracts", BigInteger, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "party_id", "digest"),
    Index("parties_words", "words", postgresql_using="gin"),
)
"""Parties as contracts state them: each form (name, roles, identifiers, relation, as JSON) with how many contracts state it."""
unique_references = Table(
    "unique_references",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("scheme", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    PrimaryKeyConstraint("ledger_id", "scheme", "id"),
    Index("unique_references_contract_id", "ledger_id", "contract_id"),
)
"""The contract that holds a reference, for the schemes that its ledger declares unique and for no others."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("receipt", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "key"),
)
"""Receipts by key (16 bytes of SHA-256 of principal, method, path and Idempotency-Key), with the request's salted digest, which
is empty once something of the request is erased: then the key alone answers."""

imports = Table(
    "imports",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("import_id", Uuid, nullable=False),
    Column("recorded_by", Uuid, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("recorded", BigInteger, nullable=False, server_default=text("0")),
    Column("refused", BigInteger, nullable=False, server_default=text("0")),
    Column("held_back", BigInteger, nullable=False, server_default=text("0")),
    Column("last_line", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("ledger_id", "import_id"),
)
"""Imports, each with what has become of its lines so far; the counts are written with the lines."""

import_lines = Table(
    "import_lines",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("import_id", Uuid, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("position", BigInteger),
    Column("digest", LargeBinary),
    Column("contract_id", Uuid),
    Column("code", Text),
    Column("rule", Text),
    Column("pointer", Text),
    Column("detail", Text),
    PrimaryKeyConstraint("ledger_id", "import_id", "line"),
    Index("import_lines_refused", "ledger_id", "import_id", "line", postgresql_where=text("position IS NULL")),
)
"""The fate of each line: the position it was recorded at, with the line's digest under the import's salt, or why it was not. Never what
it held; an erasure clears the digest, and the number alone answers from then on."""

principals = Table(
    "principals",
    metadata,
    Column("principal_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
)
"""Who records and reads; the log knows them by id only."""

grants = Table(
    "grants",
    metadata,
    Column("principal_id", Uuid, ForeignKey("principals.principal_id", name="grants_principal_id_fkey"), nullable=False),
    Column("ledger_id", Uuid),
    Column("rights", ARRAY(Text), nullable=False),
    UniqueConstraint("principal_id", "ledger_id", postgresql_nulls_not_distinct=True),
)
"""Rights of a principal in a ledger; without a ledger, in all of them."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Uuid, primary_key=True),
    Column("principal_id", Uuid, ForeignKey("principals.principal_id", name="api_keys_principal_id_fkey"), nullable=False),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    Column("expires_at", _instant),
    Column("revoked_at", _instant),
)
"""Keys, as SHA-256 of their text."""

Found = TypeVar("Found")
_log = structlog.get_logger()
_DIALECT = dialect()  # type: ignore[no-untyped-call]


def insert_rows(table: Table, *, bytes_as_text: tuple[str, ...] = (), upsert: bool = False) -> str:
    """SQL that inserts the rows of one JSON document (a parameter named like the table), all of one ledger (`ledger_id`).

    One document through jsonb_to_recordset costs the client a fifth of arrays of parameters. Columns of bytes are given as `\\x` and
    hex digits, or, where named in `bytes_as_text`, as their UTF-8 text. Columns with a default that nothing gives are left out.
    """
    columns = [column for column in table.columns if column.name != "ledger_id"]
    types = {column.name: str(column.type.compile(dialect=_DIALECT)) for column in columns}
    chosen = [f"convert_to(r.{name}, 'UTF8')" if name in bytes_as_text else f"r.{name}" for name in types]
    record = ", ".join(f"{name} {'text' if name in bytes_as_text else types[name]}" for name in types)
    statement = (  # every part is a name of our own tables
        f"INSERT INTO {table.name} (ledger_id, {', '.join(types)}) "  # noqa: S608
        f"SELECT %(ledger_id)s::uuid, {', '.join(chosen)} FROM jsonb_to_recordset(%({table.name})s::jsonb) AS r({record})"
    )
    if upsert:
        key = [column.name for column in table.primary_key.columns]
        changes = ", ".join(f"{name} = excluded.{name}" for name in types if name not in key)
        statement += f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    return statement


def rows_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the document that `insert_rows` takes."""
    return orjson.dumps(rows).decode()


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


WAIT_SECONDS = 5
"""How long a request waits for a connection."""
RECONNECT_SECONDS = 10


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
            kwargs={
                "autocommit": True,
                "prepare_threshold": 1,
                "connect_timeout": 5,
                "application_name": "contract-ledger",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
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


def connect(url: str, **options: Any) -> psycopg.Connection[TupleRow]:
    """A connection for a command. OperatorError when the database cannot be reached."""
    try:
        connection = psycopg.connect(url, connect_timeout=10, application_name="contract-ledger", **options)
    except psycopg.OperationalError as error:
        raise _unreachable(url, error) from error
    return connection


def _unreachable(url: str, error: psycopg.OperationalError) -> OperatorError:
    where = psycopg.conninfo.make_conninfo(url, password="***")  # noqa: S106 - it hides one
    reason = str(error).strip().splitlines()[-1] if str(error) else "no answer"
    return OperatorError(f"The database cannot be reached ({where}): {reason}")
