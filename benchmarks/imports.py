"""How fast lines are imported over HTTP, beside inserts of the same rows in batches; and what appends wait while an import runs."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO
from uuid import uuid4

import httpx
import orjson
import psycopg
from psycopg.rows import dict_row

from benchmarks.mixture import TEN_EVENTS, VARIANTS
from benchmarks.rates import Rates
from benchmarks.report import progress, say
from benchmarks.stand import LEDGER, Stand, serving, settled_position, stand
from benchmarks.wrk import CONNECTIONS, Measured
from service.inserts import insert_rows, rows_of
from service.tables import contracts, deliveries, events, payloads

LEAST_RATE = 10_000
MOST_P99 = 2.0
RUNS = 3
BATCH_EVENTS = 500
EVENTS_WHILE_APPENDING = 200_000
EVENTS_A_CONTRACT = sum(len(request) for request in TEN_EVENTS)
_TABLES = (events, payloads, deliveries, contracts)
# Arrays go as the service sends them, in binary: as text they would cost more than the inserts.
_INSERTS = [insert_rows(table).replace(")s::text[]", ")b::text[]").replace(")s::bytea[]", ")b::bytea[]") for table in _TABLES]


@dataclass(frozen=True, slots=True)
class Imported:
    """A file's way in."""

    events: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.events / self.seconds


def import_rate(events: int) -> bool:
    """Import a file several times, each into the same ledger, and insert the same rows; whether it is quick enough."""
    with ExitStack() as stack:
        at = stack.enter_context(stand())
        file = at.folder / "lines.ndjson"
        write_lines(file, events)
        address = stack.enter_context(service(at))
        imported(at, address, file, "warm up", events)
        pairs = [(imported(at, address, file, f"import {run + 1}", events), _inserted(at, events)) for run in range(RUNS)]
    say(f"\nimport: {events} events in contracts of {EVENTS_A_CONTRACT}, on {at.measured_on}")
    for through, raw in pairs:
        say(f"  over HTTP {through.rate:7.0f} events/s   batch inserts {raw.rate:7.0f} events/s   {through.rate / raw.rate:.2f}")
    rate = median(through.rate for through, _ in pairs)
    say(f"import rate: {rate:.0f} events/s")
    say(f"import ratio to batch inserts: {median(through.rate / raw.rate for through, raw in pairs):.2f}")
    if rate < LEAST_RATE:
        say(f"  below {LEAST_RATE} events/s")
    return rate >= LEAST_RATE


@contextmanager
def service(at: Stand) -> Iterator[str]:
    environment = {"LEDGER_DATABASE_URL": at.service_url, "LEDGER_DATA_DIR": str(at.folder / "service")}
    with serving("service.app:create_app", "--factory", **environment) as address:
        yield address


def write_lines(file: Path, events: int) -> None:
    """Contracts of ten events, one after the other, as the lines of an import."""
    with file.open("wb") as out:
        for number in range(events // EVENTS_A_CONTRACT):
            for request in TEN_EVENTS:
                for variants in request:
                    new = variants[number % VARIANTS]
                    line = {"contract": f"c-{number}", "event_type": new.fact.event_type, "effective_on": new.effective_on}
                    out.write(orjson.dumps(line | {"source": new.source, "data": new.data}) + b"\n")


def imported(at: Stand, address: str, file: Path, what: str, events: int) -> Imported:
    """Send a file as a new import. SystemExit unless every line is recorded."""
    with progress(what, file.stat().st_size) as advance, file.open("rb") as lines:

        def pieces() -> Iterator[bytes]:
            while piece := lines.read(65_536):
                yield piece
                advance(lines.tell())

        started = time.perf_counter()
        answer = _post(at, address, pieces())
        seconds = time.perf_counter() - started
    if answer.status_code != 200 or answer.json()["recorded"] != events:
        raise SystemExit(f"The import of the benchmark failed: {answer.text[:2_000]}")
    return Imported(events, seconds)


def _post(at: Stand, address: str, lines: Iterator[bytes]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {at.key}", "Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid4())}
    return httpx.post(f"{address}/v1/ledgers/{LEDGER}/imports", content=lines, headers=headers, timeout=600, trust_env=False)


def _inserted(at: Stand, events: int) -> Imported:
    """Insert the rows of the last import again, as those of another ledger, in transactions of five hundred events."""
    with psycopg.connect(at.superuser_url, autocommit=True, prepare_threshold=1) as connection:
        batches = list(_rows_of_batches(connection, at.ledger.ledger_id, events))
        other = str(uuid4())
        started = time.perf_counter()
        for rows in batches:
            with connection.transaction(), connection.pipeline():
                for statement, table in zip(_INSERTS, _TABLES, strict=True):
                    connection.execute(statement, {"ledger_id": other, **rows_of(table, rows[table.name])})
        seconds = time.perf_counter() - started
        for table in (contracts, deliveries):
            connection.execute(f"DELETE FROM {table.name} WHERE ledger_id = %s::uuid", [other])
    return Imported(events, seconds)


def _rows_of_batches(connection: psycopg.Connection[Any], ledger_id: str, count: int) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The rows of the newest events in batches, those of a contract with its last event."""
    last: Any = connection.execute("SELECT max(position) FROM events WHERE ledger_id = %s::uuid", [ledger_id]).fetchone()
    for first in range(last[0] - count + 1, last[0] + 1, BATCH_EVENTS):
        given = {"ledger_id": ledger_id, "first": first, "last": min(first + BATCH_EVENTS - 1, last[0])}
        yield {table.name: _rows(connection, table.name, given) for table in _TABLES}


_ROWS = {
    "events": "SELECT * FROM events WHERE {of} AND position BETWEEN %(first)s AND %(last)s",
    "payloads": "SELECT * FROM payloads WHERE {of} AND position BETWEEN %(first)s AND %(last)s",
    "deliveries": """SELECT * FROM deliveries d WHERE {of} AND EXISTS (
        SELECT FROM events e WHERE e.ledger_id = d.ledger_id AND e.contract_id = d.contract_id AND e.revision = d.revision
        AND e.position BETWEEN %(first)s AND %(last)s)""",
    "contracts": "SELECT * FROM contracts WHERE {of} AND position BETWEEN %(first)s AND %(last)s",
}


def _rows(connection: psycopg.Connection[Any], table: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute(_ROWS[table].format(of="ledger_id = %(ledger_id)s::uuid"), given)
    return [{name: _plain(name, value) for name, value in row.items()} for row in cursor.fetchall()]


def _plain(name: str, value: Any) -> Any:
    """As the service gives a value; bytes that are not sent apart as hex digits."""
    return "\\x" + value.hex() if isinstance(value, bytes) and name not in ("header", "body") else value


def waits() -> bool:
    """The p99 of appends while an import runs, beside that of appends alone; whether it is low enough."""
    with Rates.ready(2 * RUNS + 1) as rates:
        rates.warm_up("append")
        file = rates.at.folder / "lines.ndjson"
        write_lines(file, EVENTS_WHILE_APPENDING)
        pairs: list[tuple[Measured, Measured, int]] = []
        for _ in range(RUNS):
            alone = rates.run("append", "service")
            before = settled_position(rates.at)
            with _importing(rates, file):
                beside = rates.run("append", "service", counted=False)
            pairs.append((alone, beside, settled_position(rates.at) - before - beside.requests))
        return _say_waits(rates.at, pairs)


def _say_waits(at: Stand, pairs: list[tuple[Measured, Measured, int]]) -> bool:
    say(f"\nappends beside an import: {CONNECTIONS} connections, on {at.measured_on}")
    for alone, beside, recorded in pairs:
        say(f"  alone             {alone}\n  beside an import  {beside}   p99 {beside.p99_ms / alone.p99_ms:.2f}")
        say(f"                    and {recorded / beside.seconds:.0f} events/s imported")
    longer = median(beside.p99_ms / alone.p99_ms for alone, beside, _ in pairs)
    say(f"append p99 beside an import: {longer:.2f}")
    if longer > MOST_P99:
        say(f"  above {MOST_P99:.2f}")
    return longer <= MOST_P99


@contextmanager
def _importing(rates: Rates, file: Path) -> Iterator[None]:
    """Imports one after the other, as long as the block lasts; the last is broken off."""
    ended = threading.Event()
    sender = threading.Thread(target=_send, args=(rates, file, ended), daemon=True)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()


class _BrokenOff(Exception):
    pass


def _send(rates: Rates, file: Path, ended: threading.Event) -> None:
    while not ended.is_set():
        with suppress(_BrokenOff), file.open("rb") as lines:
            _post(rates.at, rates.addresses["service"], _until(lines, ended))


def _until(lines: BinaryIO, ended: threading.Event) -> Iterator[bytes]:
    while piece := lines.read(65_536):
        if ended.is_set():
            raise _BrokenOff
        yield piece
