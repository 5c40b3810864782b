"""Erasure in the database: only the owner's function takes a body away, and only for an erasure of the same transaction."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from service.audit import rebuild as rebuilding
from service.audit.replay import Verdict, verify
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import delivery, note, opening
from tests.servers import in_process, make_key, make_ledger, rows, verified

_DIGEST = """
SELECT (SELECT md5(string_agg(e::text, '|' ORDER BY ledger_id, position)) FROM events e),
       (SELECT md5(string_agg(p::text, '|' ORDER BY ledger_id, position)) FROM payloads p),
       (SELECT md5(string_agg(i::text, '|' ORDER BY ledger_id, key)) FROM idempotency i),
       (SELECT md5(string_agg(d::text, '|' ORDER BY ledger_id, contract_id, delivery_id)) FROM deliveries d)
"""
# An event of a type, as the service's role may forge it: with a body that names a target, at a position of its own.
FORGE = """
WITH made AS (SELECT convert_to(%(header)s, 'UTF8') AS header),
     e AS (
         INSERT INTO events (ledger_id, position, contract_id, revision, event_id, event_type, recorded_at, header, event_hash)
         SELECT %(ledger_id)s, %(position)s, %(contract_id)s, %(position)s, gen_random_uuid(), %(event_type)s, now(), header,
                sha256('\\x00'::bytea || header) FROM made)
INSERT INTO payloads (ledger_id, position, body)
VALUES (%(ledger_id)s, %(position)s, convert_to(%(body)s, 'UTF8'))
"""
FIRST_FORGED = 1_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """An event in the database."""

    ledger_id: str
    contract_id: str
    position: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with notes that are recorded, in two contracts and two ledgers, and an erasure."""

    database: Database
    ledger: str
    target: Stored
    of_another_contract: Stored
    of_another_ledger: Stored
    erased_before: Stored
    erasure: Stored
    body_before: bytes
    """Of `erased_before`, as it was."""


async def _recorded(api: httpx.AsyncClient, url: str, path: str, body: dict[str, Any], key: str) -> Stored:
    answer = await api.post(path, json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    query = "SELECT ledger_id::text, contract_id::text, position, event_id::text FROM events WHERE event_id = %s"
    return Stored(*rows(url, query, answer.json()["events"][0]["event_id"])[0])


async def _noted(api: httpx.AsyncClient, url: str, key: str) -> Stored:
    """A note in a new contract."""
    opened = await _recorded(api, url, "/contracts/reported", opening(), key)
    return await _recorded(api, url, f"/contracts/{opened.contract_id}/note-added", note(), key)


def erased(target: str) -> dict[str, Any]:
    return {"source": {"kind": "system"}, "data": {"target": target, "legal_basis": "asked for"}}


@pytest.fixture(scope="module")
async def filled(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    url, ledgers = database.service_url, [make_ledger(database.service_url) for _ in range(2)]
    settings = Settings(database_url=url, data_dir=tmp_path_factory.mktemp("data"))
    async with in_process(settings) as make:
        api, other = (make(ledger, make_key(url)) for ledger in ledgers)
        gone = await _noted(api, url, "gone")
        path = f"/contracts/{gone.contract_id}"
        ((body,),) = rows(url, "SELECT body FROM payloads WHERE ledger_id = %s AND position = %s", gone.ledger_id, gone.position)
        target = await _recorded(api, url, f"{path}/note-added", note("kept"), "kept")
        erasure = await _recorded(api, url, f"{path}/event-erased", erased(gone.event_id), "erased")
        return Filled(database, ledgers[0], target, await _noted(api, url, "a"), await _noted(other, url, "b"), gone, erasure, body)


@contextmanager
def service_role(filled: Filled) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of the service's role, which is undone; what it saw, and what is stored, is the same afterwards."""
    before = rows(filled.database.superuser_url, _DIGEST)
    with psycopg.connect(filled.database.service_url) as connection:
        yield connection
        connection.rollback()
    assert rows(filled.database.superuser_url, _DIGEST) == before


def forge(connection: psycopg.Connection[Any], like: Stored, target: str, event_type: str = "event.erased", more: int = 0) -> None:
    """An event of like's contract whose body names a target, as the service's role is able to write one."""
    body = '{"data":{"legal_basis":"x","target":"%s"},"salt":"00","source":{"kind":"system"}}' % target  # noqa: UP031
    place = {"ledger_id": like.ledger_id, "contract_id": like.contract_id, "position": FIRST_FORGED + more}
    connection.execute(FORGE, place | {"event_type": event_type, "header": f"{like} {target} {more}", "body": body})


def erase(connection: psycopg.Connection[Any], what: Stored, *more: int) -> None:
    connection.execute("SELECT erase(%s::uuid, %s::bigint[])", [what.ledger_id, [what.position, *more]])


def test_an_erasure_of_the_same_transaction_lets_a_body_go(filled: Filled) -> None:
    """Without this the refusals below would show nothing."""
    with service_role(filled) as connection:
        forge(connection, filled.target, filled.target.event_id)
        erase(connection, filled.target)
        query = "SELECT count(*) FROM payloads WHERE ledger_id = %s AND position = %s"
        assert connection.execute(query, [filled.target.ledger_id, filled.target.position]).fetchone() == (0,)


def test_nothing_is_erased_without_an_erasure(filled: Filled) -> None:
    for what in (filled.target, filled.of_another_ledger, filled.erasure, filled.erased_before):
        with service_role(filled) as connection, pytest.raises(InsufficientPrivilege):
            erase(connection, what)


def test_an_erasure_of_an_earlier_transaction_erases_nothing_any_more(filled: Filled) -> None:
    """Also where the body has come back meanwhile."""
    with service_role(filled) as connection:
        gone = filled.erased_before
        connection.execute("INSERT INTO payloads (ledger_id, position, body) VALUES (%s, %s, 'x')", [gone.ledger_id, gone.position])
        with pytest.raises(InsufficientPrivilege):
            erase(connection, gone)


def test_an_erasure_of_another_contract_or_ledger_erases_nothing(filled: Filled) -> None:
    for where, what in (
        (filled.of_another_contract, filled.target),
        (filled.of_another_ledger, filled.target),
        (filled.target, filled.of_another_contract),
        (filled.target, filled.of_another_ledger),
    ):
        with service_role(filled) as connection:
            forge(connection, where, what.event_id)
            with pytest.raises(InsufficientPrivilege):
                erase(connection, what)


@pytest.mark.parametrize("event_type", ["event.voided", "event.corrected", "note.added", "EVENT.ERASED"])
def test_an_event_of_another_type_erases_nothing(filled: Filled, event_type: str) -> None:
    with service_role(filled) as connection:
        forge(connection, filled.target, filled.target.event_id, event_type)
        with pytest.raises(InsufficientPrivilege):
            erase(connection, filled.target)


def test_an_erasure_and_a_void_are_not_erased(filled: Filled) -> None:
    with service_role(filled) as connection:
        forge(connection, filled.erasure, filled.erasure.event_id)
        with pytest.raises(InsufficientPrivilege):
            erase(connection, filled.erasure)


def test_with_what_may_be_erased_nothing_else_is(filled: Filled) -> None:
    with service_role(filled) as connection:
        forge(connection, filled.target, filled.target.event_id)
        with pytest.raises(InsufficientPrivilege):
            erase(connection, filled.target, filled.of_another_contract.position)
    with service_role(filled) as connection:
        forge(connection, filled.target, filled.target.event_id)
        with pytest.raises(InsufficientPrivilege):
            erase(connection, filled.target, FIRST_FORGED + 7)


SHADOWS = """
CREATE TEMP TABLE events (LIKE public.events);
CREATE TEMP TABLE payloads (LIKE public.payloads);
INSERT INTO pg_temp.events SELECT * FROM public.events;
SET LOCAL search_path = pg_temp, public;
"""


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM public.payloads WHERE position = 1",
        "UPDATE public.payloads SET body = ''",
        "SET session_replication_role = replica",
        "SELECT refuse_unless_erased()",
        "ALTER FUNCTION erase(uuid, bigint[]) SECURITY INVOKER",
        "ALTER FUNCTION erase(uuid, bigint[]) SET search_path = pg_temp",
        "DROP FUNCTION erase(uuid, bigint[])",
        "CREATE OR REPLACE FUNCTION refuse_unless_erased() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$",
        "UPDATE idempotency SET digest = ''",
        SHADOWS + "SELECT public.erase((SELECT ledger_id FROM events LIMIT 1), '{1}')",
    ],
)
def test_the_services_role_is_refused_every_other_way(filled: Filled, statement: str) -> None:
    with service_role(filled) as connection, pytest.raises((InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
        connection.execute(statement.encode())


@pytest.mark.parametrize("role", ["owner_url", "superuser_url"])
def test_nor_does_the_trigger_let_the_owner_or_a_superuser_pass(filled: Filled, role: str) -> None:
    replica = "SET session_replication_role = replica; " if role == "superuser_url" else ""
    for statement in ("DELETE FROM payloads", "UPDATE payloads SET body = body", "TRUNCATE payloads"):
        with psycopg.connect(getattr(filled.database, role), autocommit=True) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute((replica + statement).encode())


def test_who_has_no_right_to_it_cannot_call_the_function(filled: Filled) -> None:
    query = "SELECT proacl::text FROM pg_proc WHERE proname = 'erase'"
    ((rights,),) = rows(filled.database.superuser_url, query)
    assert rights == "{ledger_owner=X/ledger_owner,ledger_service=X/ledger_owner}"


# What verify says


def _found(filled: Filled, statement: str, *parameters: Any) -> str:
    """What verify finds once a superuser changed something that no one else can; it is changed back afterwards."""
    url = filled.database.superuser_url
    kept = rows(url, "SELECT ledger_id::text, position, body, sealed FROM payloads")
    unguarded = "ALTER TABLE payloads DISABLE TRIGGER refuse_change; "
    try:
        rows(url, unguarded)
        rows(url, statement, *parameters)
        return str(verdict_of(filled).difference)
    finally:
        rows(url, "DELETE FROM payloads")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.cursor().executemany("INSERT INTO payloads VALUES (%s, %s, %s, %s)", kept)
            connection.execute("ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change")


def verdict_of(filled: Filled) -> Verdict:
    return verify(filled.database.service_url, filled.ledger, lambda *_: None, processes=1)


def test_verify_tells_what_is_erased_from_what_is_missing(filled: Filled) -> None:
    assert verified(filled.database.service_url, filled.ledger).erased == 1
    gone, kept = filled.erased_before, filled.target
    of = "ledger_id = %s AND position = %s"
    missing = _found(filled, f"DELETE FROM payloads WHERE {of}", kept.ledger_id, kept.position)
    assert missing == f"position {kept.position}: the body is missing, and no erasure explains it"
    other = _found(filled, "INSERT INTO payloads VALUES (%s, %s, 'x')", gone.ledger_id, gone.position)
    assert other == f"position {gone.position}: the body is not the one whose digest the header holds"
    there = _found(filled, "INSERT INTO payloads VALUES (%s, %s, %s)", gone.ledger_id, gone.position, filled.body_before)
    assert there == f"position {gone.position}: the body is still there, and revision 4 erased it"
    lost = _found(filled, f"DELETE FROM payloads WHERE {of}", kept.ledger_id, filled.erasure.position)
    assert lost == f"position {gone.position}: the body is missing, and no erasure explains it"
    assert verdict_of(filled).difference is None


async def test_what_lost_its_body_without_an_erasure_is_neither_told_nor_added_to(filled: Filled, tmp_path: Path) -> None:
    """A body that is missing is no gap: nothing is folded without it."""
    url, other = filled.database.superuser_url, filled.of_another_contract
    place = [other.ledger_id, other.position]
    kept = rows(url, "SELECT body FROM payloads WHERE ledger_id = %s AND position = %s", *place)
    rows(url, "ALTER TABLE payloads DISABLE TRIGGER refuse_change")
    rows(url, "DELETE FROM payloads WHERE ledger_id = %s AND position = %s", *place)
    try:
        async with in_process(Settings(database_url=filled.database.service_url, data_dir=tmp_path)) as make:
            api = make(filled.ledger, make_key(filled.database.service_url))
            path = f"/contracts/{other.contract_id}"
            earlier = note(effective_on="2023-01-01")
            appended = await api.post(f"{path}/note-added", json=earlier, headers={"Idempotency-Key": "earlier"})
            answers = [appended, await api.get(path, params={"revision": 2}), await api.get(f"/events/{other.event_id}")]
            assert [answer.status_code for answer in answers] == [500, 500, 500], [answer.text for answer in answers]
            assert (await api.get("/events", params={"limit": 500})).status_code == 500
    finally:
        rows(url, "INSERT INTO payloads VALUES (%s, %s, %s)", *place, kept[0][0])
        rows(url, "ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change")
    assert verdict_of(filled).difference is None


# All or nothing


FAIL = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER fail AFTER UPDATE ON idempotency FOR EACH ROW EXECUTE FUNCTION fail();
"""


async def test_what_fails_within_an_erasure_leaves_nothing_erased_and_nothing_recorded(filled: Filled, tmp_path: Path) -> None:
    url = filled.database.superuser_url
    async with in_process(Settings(database_url=filled.database.service_url, data_dir=tmp_path)) as make:
        api = make(filled.ledger, make_key(filled.database.service_url))
        target = await _noted(api, url, "to fail")
        path = f"/contracts/{target.contract_id}"
        before = rows(url, _DIGEST), (await api.get(path)).json()["state"]
        request = {"json": erased(target.event_id), "headers": {"Idempotency-Key": "again"}}
        rows(url, FAIL)
        try:
            failed = await api.post(f"{path}/event-erased", **request)
        finally:
            rows(url, "DROP TRIGGER fail ON idempotency; DROP FUNCTION fail()")
        assert failed.status_code in {500, 503}, failed.text
        assert (rows(url, _DIGEST), (await api.get(path)).json()["state"]) == before
        again = await api.post(f"{path}/event-erased", **request)
        assert again.status_code == 201, again.text
        assert "data" not in (await api.get(f"/events/{target.event_id}")).json()
    assert verdict_of(filled).difference is None


async def test_what_is_erased_while_a_rebuild_goes_on_does_not_come_back_with_it(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuild has read the events of the contract, and has yet to write its row and its delivery, when they are erased."""
    url = filled.database.service_url
    async with in_process(Settings(database_url=url, data_dir=tmp_path)) as make:
        api = make(filled.ledger, make_key(url))
        opened = await _recorded(api, url, "/contracts/reported", opening(), "rebuilt")
        path = f"/contracts/{opened.contract_id}"
        target = await _recorded(api, url, f"{path}/delivery-recorded", delivery("nadel"), "nadel")
        loop, read = asyncio.get_running_loop(), rebuilding.read_chunk

        def read_and_erase(*arguments: Any) -> Any:
            found = read(*arguments)
            asyncio.run_coroutine_threadsafe(_recorded(api, url, f"{path}/event-erased", erased(target.event_id), "x"), loop).result(30)
            return found

        monkeypatch.setattr(rebuilding, "read_chunk", read_and_erase)
        await asyncio.to_thread(rebuilding.rebuild, url, filled.ledger, lambda *_: None)
        assert verdict_of(filled).difference is None
        assert rows(url, "SELECT count(*) FROM deliveries WHERE delivery_id = 'nadel'") == [(0,)]
        assert (await api.post(f"{path}/delivery-recorded", json=delivery("nadel"), headers={"Idempotency-Key": "y"})).status_code == 201
    assert verdict_of(filled).difference is None
