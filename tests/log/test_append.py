"""The append under faults: each statement that fails, each answer that is lost, and what waits meanwhile."""

import asyncio
import hashlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from structlog.testing import capture_logs

from service.api.envelope import read_events
from service.audit.rebuild import rebuild
from service.database import DURABILITY
from service.database import Database as Connections
from service.errors import Internal, LedgerError, OutcomeUnknown, Refused, Unavailable
from service.log import append as appending
from service.log.append import Writers
from service.log.header import canonical
from service.log.heads import Head, Heads, read_heads
from service.log.ledger import Ledger
from service.log.requests import Append, Receipt
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import delivery, envelope, note, opening
from tests.guarantees.proxy import Fault, How, Proxy, proxying
from tests.servers import in_process, make_key, make_ledger, rows, verified, wait_for

SOMEBODY = "00000000-0000-7000-8000-0000000000aa"


@dataclass(slots=True)
class Log:
    """A ledger's log through the writers of this process, and its rows as they are."""

    url: str
    ledger: Ledger
    writers: Writers

    async def append(self, contract_id: str, body: dict[str, object], *, key: str = "", opening: bool = False) -> Receipt:
        """Append the events of a body of several."""
        return await self.writers.append(
            Append(
                ledger=self.ledger,
                contract_id=contract_id,
                opening=opening,
                events=read_events(body),
                recorded_by=SOMEBODY,
                key=hashlib.sha256((key or secrets.token_hex(8)).encode()).digest()[:16],
                canonical=canonical(body),
            )
        )

    async def open(self) -> str:
        """A new contract's id."""
        contract_id = str(rows(self.url, "SELECT gen_random_uuid()::text")[0][0])
        await self.append(contract_id, several(("contract.reported", opening())), opening=True)
        return contract_id

    def event_ids(self, contract_id: str) -> list[str]:
        found = rows(self.url, "SELECT event_id::text FROM events WHERE contract_id = %s ORDER BY revision", contract_id)
        return [row[0] for row in found]

    def texts(self, contract_id: str) -> list[str]:
        """The texts of the contract's notes."""
        query = """
            SELECT convert_from(body, 'UTF8')::jsonb -> 'data' ->> 'text' FROM payloads JOIN events USING (ledger_id, position)
            WHERE contract_id = %s AND event_type = 'note.added' ORDER BY revision
        """
        return [row[0] for row in rows(self.url, query, contract_id)]


def several(*events: tuple[str, dict[str, object]]) -> dict[str, object]:
    return {"events": [{"event_type": event_type, **event} for event_type, event in events]}


def one_note(text: str) -> dict[str, object]:
    return several(("note.added", note(text)))


def event_ids(receipt: Receipt) -> list[str]:
    return [event["event_id"] for event in orjson.loads(receipt.body)["events"]]


def ledger_named(url: str, name: str) -> Ledger:
    return Ledger(*rows(url, "SELECT ledger_id::text, name, time_zone, if_match_required FROM ledgers WHERE name = %s", name)[0])


@asynccontextmanager
async def log_of(url: str, through: str, folder: Path, **settings: Any) -> AsyncIterator[Log]:
    """A new ledger of a database, written through a URL that leads there."""
    connections, heads = Connections(through, 4), Heads(folder)
    writers = Writers(connections, Settings(database_url=through, data_dir=folder, **settings), heads)
    await connections.open()
    try:
        yield Log(url, ledger_named(url, make_ledger(url)), writers)
    finally:
        await writers.drain()
        await heads.close()
        await connections.close()


@pytest.fixture(scope="module")
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    # A short path: that of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="contract-ledger-proxy-"))
    try:
        async with proxying(database.service_url, folder) as made:
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.fixture
async def log(database: Database, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Log]:
    """A new ledger, reached through the proxy."""
    proxy.fault = None
    async with log_of(database.service_url, proxy.url, tmp_path) as made:
        yield made


@pytest.fixture
def impatient(database: Database) -> Iterator[Database]:
    """The module's database, where for now no statement waits longer than 300 ms for a lock."""
    change = f"ALTER ROLE ledger_service IN DATABASE {database.name} SET lock_timeout = "
    before = rows(database.service_url, "SHOW lock_timeout")[0][0]
    rows(database.superuser_url, f"{change} '300ms'")
    yield database
    rows(database.superuser_url, f"{change} '{before}'")


FAULTS: tuple[How, ...] = ("cut before", "cut after", "refuse")


def all_statements(contract_opened: str) -> dict[str, object]:
    """A request for which every statement of both flushes runs: late, with a delivery, about an event."""
    about = envelope("2024-01-26", {"text": "about", "about": {"kind": "event", "id": contract_opened}})
    return several(("note.added", about), ("delivery.recorded", delivery("one", "2023-03-15")))


async def statements_of_an_append(log: Log, proxy: Proxy) -> list[str]:
    """Every statement of the two flushes, in their order."""
    contract_id = await log.open()
    proxy.executed.clear()
    await log.append(contract_id, all_statements(log.event_ids(contract_id)[0]))
    # The pool may make a connection meanwhile, which is looked at first.
    found = [statement for statement in proxy.executed if statement != DURABILITY]
    assert (found[0], found[-1]) == ("BEGIN", "COMMIT")
    assert sum("ledger_locks" in statement for statement in found) == 1
    for table in ("batches", "contracts", "idempotency", "deliveries", "events", "payloads"):
        assert any(table in statement for statement in found[2:-1]), f"nothing is read of {table}, or written to it"
    assert len(found) == len(set(found))
    return found


@pytest.mark.parametrize("how", FAULTS)
async def test_any_statement_that_fails_once_is_made_good_within_the_request(log: Log, proxy: Proxy, how: How) -> None:
    for statement in await statements_of_an_append(log, proxy):
        if (statement, how) == ("BEGIN", "refuse"):
            continue  # Postgres has no reason to
        contract_id = await log.open()
        body = all_statements(log.event_ids(contract_id)[0])
        proxy.fault = Fault(statement, how)
        receipt = await log.append(contract_id, body, key=contract_id)
        assert proxy.fault.met == 1
        assert event_ids(receipt) == log.event_ids(contract_id)[1:]
        # After COMMIT was carried out and its answer lost, the second run finds the key.
        assert receipt.replayed == (statement == "COMMIT" and how == "cut after")
        again = await log.append(contract_id, body, key=contract_id)
        assert (again.body, again.replayed) == (receipt.body, True)
    verified(log.url, log.ledger.name)


@pytest.mark.parametrize("how", FAULTS)
async def test_any_statement_that_fails_twice_leaves_the_outcome_to_the_retry(log: Log, proxy: Proxy, how: How) -> None:
    for statement in await statements_of_an_append(log, proxy):
        if (statement, how) == ("BEGIN", "refuse"):
            continue  # Postgres has no reason to
        contract_id = await log.open()
        body = all_statements(log.event_ids(contract_id)[0])
        proxy.fault = Fault(statement, how, times=2)
        if (statement, how) == ("COMMIT", "cut after"):
            # The first COMMIT was carried out, so the second run has nothing to commit.
            assert (await log.append(contract_id, body, key=contract_id)).replayed
        else:
            with pytest.raises(OutcomeUnknown):
                await log.append(contract_id, body, key=contract_id)
            assert proxy.fault.met == 2
            assert len(log.event_ids(contract_id)) == 1
        proxy.fault = None
        receipt = await log.append(contract_id, body, key=contract_id)
        assert event_ids(receipt) == log.event_ids(contract_id)[1:]
    verified(log.url, log.ledger.name)


async def test_a_batch_whose_commit_is_unclear_gives_each_request_its_own_receipt(log: Log, proxy: Proxy) -> None:
    contract_id = await log.open()
    proxy.fault = Fault("COMMIT", "cut after")
    receipts = await asyncio.gather(*(log.append(contract_id, one_note(str(n)), key=str(n)) for n in range(20)))
    assert proxy.fault.met == 1
    assert [receipt.revision for receipt in receipts] == list(range(2, 22))
    assert [event_ids(receipt)[0] for receipt in receipts] == log.event_ids(contract_id)[1:]
    assert all(receipt.replayed for receipt in receipts)


async def test_the_last_event_of_a_batch_whose_commit_was_unclear_is_kept(database: Database, proxy: Proxy, tmp_path: Path) -> None:
    proxy.fault = None
    async with log_of(database.service_url, proxy.url, tmp_path) as log:
        contract_id = await log.open()
        proxy.fault = Fault("COMMIT", "cut after")
        receipt = await log.append(contract_id, one_note("unclear"), key="k")
        assert receipt.replayed
    (event,) = orjson.loads(receipt.body)["events"]
    assert read_heads(tmp_path)[log.ledger.ledger_id] == Head(event["position"], event["event_hash"])


async def test_requests_that_take_long_to_decide_are_shared_among_batches(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "BATCH_SECONDS", 3)
    monkeypatch.setattr(appending, "DECIDE_SECONDS", 0.3)
    async with log_of(database.service_url, database.service_url, tmp_path, deadline_seconds=100) as log:
        contract_id = await log.open()
        for batch in range(15):
            several_of_them = (("delivery.recorded", delivery(f"{batch}-{number}", "2023-03-15")) for number in range(100))
            await log.append(contract_id, several(*several_of_them))
        # While something is pending, every event is judged by a fold of the whole contract.
        await log.append(contract_id, several(("contract.cancelled", envelope("2999-01-01", {"by": "both"}))))
        texts = [str(number) for number in range(60)]
        receipts = await asyncio.gather(*(log.append(contract_id, one_note(text)) for text in texts))
        assert [receipt.revision for receipt in receipts] == list(range(1_503, 1_563))
        assert log.texts(contract_id) == texts
    verified(log.url, log.ledger.name)


async def test_a_connection_that_goes_silent_costs_an_answer_in_time_and_nothing_once_it_is_gone(
    impatient: Database, log: Log, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "BATCH_SECONDS", 0.5)
    contract_id = await log.open()
    proxy.fault = Fault("COMMIT", "stall")
    async with asyncio.timeout(15):
        with pytest.raises(OutcomeUnknown):
            await log.append(contract_id, one_note("silence"), key="k")
    assert proxy.fault.met == 1
    assert len(log.event_ids(contract_id)) == 1
    # Until somebody finds out that the other end is gone, its transaction holds the lock.
    proxy.cut()
    receipt = await log.append(contract_id, one_note("silence"), key="k")
    assert event_ids(receipt) == log.event_ids(contract_id)[1:]


async def test_all_connections_cut_at_once_cost_nobody_an_answer(log: Log, proxy: Proxy) -> None:
    contract_id = await log.open()
    await asyncio.gather(*(log.append(contract_id, one_note("warm")) for _ in range(5)))
    proxy.cut()
    receipts = await asyncio.gather(*(log.append(contract_id, one_note(str(n))) for n in range(5)))
    assert [event_ids(receipt)[0] for receipt in receipts] == log.event_ids(contract_id)[-5:]


POISON = "poison"
AS_ROWS_ARE_WRITTEN = f"ALTER TABLE payloads ADD CONSTRAINT poison CHECK (position('{POISON}'::bytea IN body) = 0)"
AT_COMMIT = f"""
    CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF position('{POISON}'::bytea IN NEW.body) > 0 THEN RAISE check_violation; END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER poison AFTER INSERT ON payloads DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse_poison();
"""
REMOVE = "DROP FUNCTION IF EXISTS refuse_poison() CASCADE; ALTER TABLE payloads DROP CONSTRAINT IF EXISTS poison"


@contextmanager
def refusing(database: Database, rule: str) -> Iterator[None]:
    """The tables' owner has the database refuse some texts."""
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        connection.execute(rule.encode())
    try:
        yield
    finally:
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            connection.execute(REMOVE)


@pytest.mark.parametrize("rule", [AS_ROWS_ARE_WRITTEN, AT_COMMIT], ids=["as rows are written", "at commit"])
@pytest.mark.parametrize("poisoned", [{0}, {7}, {19}, {3, 4}, set(range(20))], ids=lambda found: f"{len(found)} from {min(found)}")
async def test_a_request_that_the_database_refuses_hurts_no_other_of_its_batch(
    database: Database, log: Log, rule: str, poisoned: set[int]
) -> None:
    contract_id = await log.open()
    with refusing(database, rule):
        texts = [f"{n} {POISON if n in poisoned else 'harmless'}" for n in range(20)]
        with capture_logs() as said:
            outcomes = await asyncio.gather(*(log.append(contract_id, one_note(text)) for text in texts), return_exceptions=True)
    assert {n for n, outcome in enumerate(outcomes) if isinstance(outcome, Internal)} == poisoned
    assert all(isinstance(outcome, Receipt) for n, outcome in enumerate(outcomes) if n not in poisoned)
    assert log.texts(contract_id) == [text for n, text in enumerate(texts) if n not in poisoned]
    verified(log.url, log.ledger.name)
    # What was refused is said in the service's log, and nothing of its content.
    assert sum(entry["event"] == "append refused by the database" for entry in said) == len(poisoned)
    assert "x7b22" not in str(said)


async def test_content_that_postgres_cannot_hold_is_refused_alone(log: Log) -> None:
    contract_id = await log.open()
    unholdable = envelope("2024-01-26", {"stage": "reported", "references": [{"scheme": "nul", "id": "a\0b"}]})
    bodies = [one_note("before"), several(("contract.reported", unholdable)), one_note("after")]
    outcomes = await asyncio.gather(*(log.append(contract_id, body) for body in bodies), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Receipt, Refused, Receipt]
    assert log.texts(contract_id) == ["before", "after"]
    verified(log.url, log.ledger.name)


async def test_a_refused_request_leaves_no_trace_in_its_batch(log: Log) -> None:
    contract_id = await log.open()
    about_nothing = envelope("2024-01-26", {"text": "x", "about": {"kind": "figure", "id": "unknown"}})
    bodies = [one_note("a"), several(("note.added", note("half")), ("note.added", about_nothing)), one_note("b")]
    outcomes = await asyncio.gather(*(log.append(contract_id, body) for body in bodies), return_exceptions=True)
    assert [isinstance(outcome, LedgerError) for outcome in outcomes] == [False, True, False]
    assert log.texts(contract_id) == ["a", "b"]
    verified(log.url, log.ledger.name)


# Over HTTP, in this process: what clients are told while something stands in the way.


@dataclass(frozen=True, slots=True)
class Served:
    """A service in this process, over a database whose statements wait for locks a short time only."""

    api: httpx.AsyncClient
    url: str
    superuser_url: str
    ledger: str

    async def open(self, key: str = "opening") -> str:
        """The path of a new contract."""
        answer = await self.api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": key})
        assert answer.status_code == 201, answer.text
        return f"/contracts/{answer.json()['contract_id']}"

    async def note(self, contract: str, key: str) -> httpx.Response:
        return await self.api.post(f"{contract}/note-added", json=note(key), headers={"Idempotency-Key": key})

    async def ready(self) -> int:
        return (await self.api.get("http://service/readyz")).status_code

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Another session holds the ledger's lock."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            query = "SELECT 1 FROM ledger_locks JOIN ledgers USING (ledger_id) WHERE name = %s FOR NO KEY UPDATE OF ledger_locks"
            await connection.execute(query, [self.ledger])
            yield
            await connection.rollback()


@asynccontextmanager
async def served(database: Database, folder: Path, **settings: Any) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        stated = Settings(database_url=database.service_url, data_dir=folder, **settings)
        make = await stack.enter_async_context(in_process(stated))
        ledger = make_ledger(database.service_url)
        api = await stack.enter_async_context(make(ledger, make_key(database.service_url)))
        yield Served(api, database.service_url, database.superuser_url, ledger)


def problem(answer: httpx.Response) -> tuple[int, str, bool]:
    """(status, code, whether it says when to try again)"""
    return answer.status_code, answer.json()["code"], int(answer.headers["retry-after"]) > 0


async def test_a_lock_held_too_long_is_503_outcome_unknown_and_the_retry_works(impatient: Database, tmp_path: Path) -> None:
    async with served(impatient, tmp_path) as service:
        contract = await service.open()
        async with service.locked():
            assert problem(await service.note(contract, "k")) == (503, "outcome-unknown", True)
        retried = await service.note(contract, "k")
        assert (retried.status_code, retried.json()["revision"]) == (201, 2)
        assert await service.ready() == 200


async def test_a_full_queue_is_503_queue_full_and_what_waits_is_decided(database: Database, tmp_path: Path) -> None:
    async with served(database, tmp_path, queue_requests=3) as service:
        contract = await service.open()
        async with service.locked():
            flying = asyncio.create_task(service.note(contract, "flying"))
            await _until_waiting(service)
            waiting = [asyncio.create_task(service.note(contract, f"waiting {n}")) for n in range(8)]
            done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 5:
                done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
            assert [problem(task.result()) for task in done] == [(503, "queue-full", True)] * 5
        assert (await flying).status_code == 201
        assert sorted(answer.status_code for answer in await asyncio.gather(*waiting)) == [201] * 3 + [503] * 5


async def test_a_request_that_waited_past_its_deadline_is_503_and_was_not_recorded(database: Database, tmp_path: Path) -> None:
    async with served(database, tmp_path, deadline_seconds=1) as service:
        contract = await service.open()
        async with service.locked():
            flying = asyncio.create_task(service.note(contract, "flying"))
            await _until_waiting(service)
            waiting = asyncio.create_task(service.note(contract, "waiting"))
            await asyncio.sleep(1.2)
        assert (await flying).status_code == 201
        assert problem(await waiting) == (503, "deadline-passed", True)
        retried = await service.note(contract, "waiting")
        assert (retried.status_code, retried.json()["revision"]) == (201, 3)


async def _until_waiting(service: Served) -> None:
    """Until a transaction of the service waits for the lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await asyncio.to_thread(wait_for, lambda: rows(service.superuser_url, query), "a writer waits for the lock", 5)


async def test_a_writer_that_dies_answers_what_waits_and_fails_readiness_until_it_commits_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(database, tmp_path) as service:
        contract = await service.open()
        with monkeypatch.context() as patched:
            patched.setattr(Heads, "committed", _die)
            async with service.locked():
                flying = asyncio.create_task(service.note(contract, "flying"))
                await _until_waiting(service)
                waiting = [asyncio.create_task(service.note(contract, f"waiting {n}")) for n in range(3)]
                await asyncio.sleep(0.05)
            assert [problem(await task) for task in (flying, *waiting)] == [(503, "outcome-unknown", True)] * 4
            assert await service.ready() == 503
        # The batch of the first was committed before its writer died.
        assert (await service.note(contract, "flying")).headers["idempotent-replayed"] == "true"
        assert await service.ready() == 200
        assert [(await service.note(contract, f"waiting {n}")).json()["revision"] for n in range(3)] == [3, 4, 5]
        verified(service.url, service.ledger)


def _die(*_: object) -> None:
    raise RuntimeError("the writer dies")


async def test_a_damaged_contract_fails_its_own_requests_and_no_other(database: Database, tmp_path: Path) -> None:
    async with served(database, tmp_path) as service:
        healthy, damaged = await service.open("healthy"), await service.open("damaged")
        rows(service.url, "UPDATE contracts SET state = 'no state' WHERE contract_id = %s", damaged.rpartition("/")[2])
        async with service.locked():
            flying = asyncio.create_task(service.note(healthy, "flying"))
            await _until_waiting(service)
            waiting = [asyncio.create_task(service.note(path, f"waiting {n}")) for n, path in enumerate((healthy, damaged, healthy))]
            await asyncio.sleep(0.05)
        assert [(await task).status_code for task in (flying, *waiting)] == [201, 201, 500, 201]
        assert "contract-ledger verify" in (await waiting[1]).json()["detail"]
        assert await service.ready() == 200

        await asyncio.to_thread(rebuild, service.url, service.ledger, lambda *_: None)
        assert (await service.note(damaged, "waiting 1")).status_code == 201
        verified(service.url, service.ledger)


async def test_privileges_taken_away_fail_requests_one_by_one_and_not_the_writer(database: Database, tmp_path: Path) -> None:
    async with served(database, tmp_path) as service:
        contract = await service.open()
        rows(database.owner_url, "REVOKE INSERT ON events FROM ledger_service")
        try:
            answers = await asyncio.gather(*(service.note(contract, str(n)) for n in range(3)))
        finally:
            rows(database.owner_url, "GRANT INSERT ON events TO ledger_service")
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(500, "internal")] * 3
        assert await service.ready() == 200
        assert (await service.note(contract, "0")).json()["revision"] == 2


async def test_a_shutdown_decides_what_waits_and_refuses_what_comes_later(database: Database, tmp_path: Path) -> None:
    async with log_of(database.service_url, database.service_url, tmp_path) as log:
        contract_id = await log.open()
        waiting = [asyncio.create_task(log.append(contract_id, one_note(str(n)))) for n in range(600)]
        await asyncio.sleep(0)
        await log.writers.drain()
        late = await asyncio.gather(log.append(contract_id, one_note("late")), return_exceptions=True)
        assert [task.result().revision for task in waiting] == list(range(2, 602))
        assert [type(outcome) for outcome in late] == [Unavailable]
