"""Rebuild writes the projections anew from the log: the same ones, in place of whatever stood there, while appends go on."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from service.audit import book, crew, replay
from service.audit import rebuild as rebuilding
from service.audit.rebuild import Rebuilt, rebuild
from service.cli import app
from service.errors import OperatorError
from tests.audit.conftest import Filled
from tests.guarantees.load import Work, note, opening, send_all
from tests.servers import ROOT, make_ledger, rows, verified, wait_for

_ROWS = """
    SELECT contract_id, c.revision, c.position, last_hash, last_on, has_pending, settled_on, holds_until, filters, state, beside
    FROM contracts c JOIN ledgers l USING (ledger_id, generation) WHERE name = %s ORDER BY contract_id
"""
_IDS = """
    SELECT contract_id, delivery_id, revision FROM deliveries JOIN ledgers USING (ledger_id, generation)
    WHERE name = %s ORDER BY contract_id, delivery_id
"""
_GENERATIONS = """
    SELECT DISTINCT r.generation FROM (
        SELECT ledger_id, generation FROM contracts UNION ALL SELECT ledger_id, generation FROM deliveries
    ) r JOIN ledgers l USING (ledger_id) WHERE l.name = %s ORDER BY 1
"""
STOP_HALFWAY = """
import sys
from service.audit import book
from service.audit.rebuild import rebuild

def progress(done, total, unit):
    print(done, total, flush=True)
    if 0 < done < total:
        sys.stdin.read()

book.CHUNK_EVENTS = 20
rebuild(sys.argv[1], sys.argv[2], progress)
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "CHUNK_EVENTS", 20)


@pytest.fixture
async def ledger(filled: Filled) -> str:
    """A ledger of its own, with some contracts."""
    name = make_ledger(filled.database.service_url)
    async with filled.make_client(name, filled.key) as client:
        await send_all(client, Work(urls=["http://service"], ledger=name, key=filled.key, requests=60, seed=95))
    return name


def projected(filled: Filled, ledger: str) -> tuple[list[Any], list[Any]]:
    return rows(filled.database.service_url, _ROWS, ledger), rows(filled.database.service_url, _IDS, ledger)


def rebuilt(filled: Filled, ledger: str, progress: Callable[[int, int, str], None] = lambda *_: None) -> Rebuilt:
    return rebuild(filled.database.service_url, ledger, progress)


def test_a_rebuild_writes_the_same_rows_under_a_new_generation(filled: Filled, ledger: str) -> None:
    before, (was,) = projected(filled, ledger), rows(filled.database.service_url, _GENERATIONS, ledger)
    said: list[tuple[int, int, str]] = []
    told = rebuilt(filled, ledger, lambda *progress: said.append(progress))
    assert before[0]
    assert before[1]
    assert projected(filled, ledger) == before
    assert (told.changed, told.difference, told.contracts) == (0, None, len(before[0]))
    assert rows(filled.database.service_url, _GENERATIONS, ledger) == [(was[0] + 1,)]
    # It told of every chunk on the way, and of the end.
    assert len(said) > 2
    assert said == sorted(said)
    assert said[-1] == (told.events, told.events, "events")
    verified(filled.database.service_url, ledger)


DAMAGES = {
    "a state": """UPDATE contracts SET state = replace(state, '"title":"', '"title":"x') WHERE {first}""",
    "text that is no state": "UPDATE contracts SET state = 'nothing', beside = '' WHERE {first}",
    "filters": "UPDATE contracts SET filters = '{{}}' WHERE {first}",
    "a revision": "UPDATE contracts SET revision = revision + 5 WHERE {first}",
    "a row that is gone": "DELETE FROM contracts WHERE {first}",
    "a row too many": """INSERT INTO contracts SELECT ledger_id, generation, gen_random_uuid(), revision, position, last_hash, last_on,
        has_pending, settled_on, holds_until, filters, state, beside FROM contracts WHERE {first}""",
    "every row gone": "DELETE FROM contracts WHERE {mine}",
    "a delivery id gone": "DELETE FROM deliveries WHERE {mine} AND delivery_id = (SELECT min(delivery_id) FROM deliveries WHERE {mine})",
    "a delivery id too many": "INSERT INTO deliveries SELECT ledger_id, generation, contract_id, 'never', 1 FROM contracts WHERE {first}",
    "a delivery id of no contract": (
        "INSERT INTO deliveries SELECT ledger_id, generation, gen_random_uuid(), 'never', 1 FROM contracts WHERE {first}"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_rebuild_repairs_and_counts_what_was_damaged(filled: Filled, ledger: str, damage: str) -> None:
    before = projected(filled, ledger)
    mine = f"ledger_id = (SELECT ledger_id FROM ledgers WHERE name = '{ledger}')"
    first = f"{mine} AND contract_id = (SELECT min(contract_id::text)::uuid FROM contracts WHERE {mine})"
    rows(filled.database.service_url, DAMAGES[damage].format(mine=mine, first=first))
    assert projected(filled, ledger) != before
    told = rebuilt(filled, ledger)
    assert told.changed == (len(before[0]) if damage == "every row gone" else 1)
    assert told.difference is not None
    assert projected(filled, ledger) == before
    verified(filled.database.service_url, ledger)


def test_the_command_says_what_it_repaired(filled: Filled, ledger: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", filled.database.service_url)
    monkeypatch.setenv("LEDGER_DATA_DIR", str(tmp_path))
    mine = f"ledger_id = (SELECT ledger_id FROM ledgers WHERE name = '{ledger}')"
    first = f"{mine} AND contract_id = (SELECT min(contract_id::text)::uuid FROM contracts WHERE {mine})"
    rows(filled.database.service_url, DAMAGES["filters"].format(mine=mine, first=first))
    repaired, again = (CliRunner().invoke(app, ["rebuild", "--ledger", ledger]) for _ in range(2))
    assert (repaired.exit_code, again.exit_code) == (0, 0)
    assert "made anew from the log, 1 state changed" in repaired.stdout
    assert "filters in its row is not the fold" in repaired.stdout
    assert "made anew from the log, nothing changed" in again.stdout


async def test_a_rebuild_while_appends_go_on_has_them_all(filled: Filled, ledger: str) -> None:
    loop = asyncio.get_running_loop()
    async with filled.make_client(ledger, filled.key) as api:
        events = (await api.get("/events", params={"limit": "500"})).json()["items"]
        contracts = sorted({event["contract_id"] for event in events})
        appended = 0

        async def append(number: int) -> None:
            """To the first contract, which is rebuilt already, to the last, which is not, and to a new one."""
            nonlocal appended
            paths = [f"/contracts/{contracts[0]}/note-added", f"/contracts/{contracts[-1]}/note-added", "/contracts/reported"]
            for path, body in zip(paths, (note(), note("x", "2023-03-03"), opening()), strict=True):
                answer = await api.post(path, json=body, headers={"Idempotency-Key": f"{path} {number}"})
                assert answer.status_code == 201, answer.text
                appended += 1

        def meanwhile(done: int, _total: int, _unit: str) -> None:
            asyncio.run_coroutine_threadsafe(append(done), loop).result(20)

        told = await asyncio.to_thread(rebuilt, filled, ledger, meanwhile)
        assert appended >= 9
        assert told.changed == 0
        verdict = verified(filled.database.service_url, ledger)
        assert verdict.events == len(events) + appended
        # And appends go on in the new generation.
        await append(99_999)
        verified(filled.database.service_url, ledger)


async def test_many_appends_meanwhile_are_caught_up_before_the_lock_is_taken(
    filled: Filled, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "CATCH_UP_CONTRACTS", 3)
    loop, once = asyncio.get_running_loop(), iter([True])
    async with filled.make_client(ledger, filled.key) as api:

        async def open_many() -> None:
            keys = [f"meanwhile {number}" for number in range(20)]
            answers = await asyncio.gather(
                *(api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": key}) for key in keys)
            )
            assert {answer.status_code for answer in answers} == {201}

        def meanwhile(*_: object) -> None:
            if next(once, False):
                asyncio.run_coroutine_threadsafe(open_many(), loop).result(20)

        await asyncio.to_thread(rebuilt, filled, ledger, meanwhile)
    verified(filled.database.service_url, ledger)


def test_a_second_rebuild_at_the_same_time_is_refused_and_the_first_goes_on(filled: Filled, ledger: str) -> None:
    refused: list[str] = []

    def meanwhile(*_: object) -> None:
        with pytest.raises(OperatorError) as refusal:
            rebuilt(filled, ledger)
        refused.append(str(refusal.value))
        # Of another ledger it is none of its business.
        if len(refused) == 1:
            rebuilt(filled, filled.ledger)

    told = rebuilt(filled, ledger, meanwhile)
    assert told.changed == 0
    assert set(refused) == {f"Another rebuild of ledger {ledger} runs; wait for it to end."}
    verified(filled.database.service_url, ledger)


def test_a_rebuild_that_is_killed_midway_leaves_all_as_it_was_and_the_next_one_works(filled: Filled, ledger: str) -> None:
    before, (live,) = projected(filled, ledger), rows(filled.database.service_url, _GENERATIONS, ledger)
    command = [sys.executable, "-c", STOP_HALFWAY, filled.database.service_url, ledger]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
    # Half of the next generation is there, and nobody reads it.
    assert rows(filled.database.service_url, _GENERATIONS, ledger) == [live, (live[0] + 1,)]
    assert projected(filled, ledger) == before
    verified(filled.database.service_url, ledger)

    wait_for_release(filled, ledger)
    told = rebuilt(filled, ledger)
    assert (told.changed, told.difference) == (0, None)
    assert projected(filled, ledger) == before
    assert rows(filled.database.service_url, _GENERATIONS, ledger) == [(live[0] + 1,)]
    verified(filled.database.service_url, ledger)


def wait_for_release(filled: Filled, ledger: str) -> None:
    """Postgres notices that a client is gone a moment after it is."""
    query = """
        SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    wait_for(lambda: not rows(filled.database.superuser_url, query), "the lock of the killed rebuild is gone")


def test_nothing_is_rebuilt_from_a_log_that_is_not_intact(filled: Filled, ledger: str) -> None:
    before = projected(filled, ledger)
    url = filled.database.superuser_url
    query = "SELECT max(position) / 2 FROM events JOIN ledgers USING (ledger_id) WHERE name = %s"
    position = rows(url, query, ledger)[0][0]
    change = "UPDATE payloads SET body = {} WHERE position = %s AND ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)"
    rows(url, "ALTER TABLE payloads DISABLE TRIGGER USER")
    try:
        rows(url, change.format("body || ' '::bytea"), position, ledger)
        with pytest.raises(OperatorError, match=f"not intact, so nothing is rebuilt from it: position {position}: the body"):
            rebuilt(filled, ledger)
        assert projected(filled, ledger) == before
        rows(url, change.format("substring(body FOR octet_length(body) - 1)"), position, ledger)
        assert rebuilt(filled, ledger).changed == 0
    finally:
        rows(url, "ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change; ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_truncate")


def test_rows_of_an_older_layout_are_written_anew(filled: Filled, ledger: str) -> None:
    before = projected(filled, ledger)
    rows(filled.database.owner_url, "UPDATE ledgers SET layout = 1 WHERE name = %s", ledger)
    difference = replay.verify(filled.database.service_url, ledger, lambda *_: None, processes=1).difference
    assert difference is not None
    assert "contract-ledger rebuild" in difference.sentence
    assert rebuilt(filled, ledger).changed == 0
    assert projected(filled, ledger) == before
    verified(filled.database.service_url, ledger)


def test_an_empty_ledger_is_rebuilt_to_nothing(filled: Filled) -> None:
    empty = make_ledger(filled.database.service_url)
    told = rebuilt(filled, empty)
    assert (told.contracts, told.events, told.changed) == (0, 0, 0)
    verified(filled.database.service_url, empty)


def test_a_rebuild_that_processes_share_writes_the_same_rows(filled: Filled, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SMALL_LEDGER", 0)
    before = projected(filled, ledger)
    told = rebuild(filled.database.service_url, ledger, lambda *_: None, processes=2)
    assert (told.changed, told.difference, told.contracts) == (0, None, len(before[0]))
    assert projected(filled, ledger) == before
    shared = replay.verify(filled.database.service_url, ledger, lambda *_: None, processes=2)
    alone = replay.verify(filled.database.service_url, ledger, lambda *_: None, processes=1)
    assert (shared.difference, shared.events, shared.contracts) == (None, alone.events, alone.contracts)


def test_what_one_of_several_processes_finds_damaged_ends_the_rebuild(filled: Filled, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SMALL_LEDGER", 0)
    url, before = filled.database.superuser_url, projected(filled, ledger)
    change = "UPDATE payloads SET body = {} WHERE position = 9 AND ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)"
    rows(url, "ALTER TABLE payloads DISABLE TRIGGER USER")
    try:
        rows(url, change.format("body || ' '::bytea"), ledger)
        with pytest.raises(rebuilding.LogDamaged) as damaged:
            rebuild(filled.database.service_url, ledger, lambda *_: None, processes=2)
        assert damaged.value.difference.where == "position 9"
        assert projected(filled, ledger) == before
        rows(url, change.format("substring(body FOR octet_length(body) - 1)"), ledger)
    finally:
        rows(url, "ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change; ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_truncate")


CREW = """
import sys
from service.audit.crew import Crew

with Crew(sys.argv[1], 10**9, 2):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_processes_that_share_a_walk_end_with_the_one_that_started_them(filled: Filled) -> None:
    command = [sys.executable, "-c", CREW, filled.database.service_url]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        shared = psutil.Process(process.pid).children(recursive=True)
        assert len(shared) == 2
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in shared), "all are gone")
