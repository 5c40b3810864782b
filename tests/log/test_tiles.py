"""The tree as it is stored: by every append, for events that are older than the tree, and in the proofs that are made from it."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from service.database import Database as Connections
from service.log import proofs, tiles
from service.log.tiles import build_trees
from service.log.tree import EMPTY, extend, root_of, verify_consistency, verify_inclusion
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import note, opening
from tests.servers import in_process, make_key, make_ledger, rows, verified

EVENTS = 600
_TREE = """
SELECT (SELECT jsonb_agg(jsonb_build_array(last_position, encode(frontier, 'hex')) ORDER BY last_position) FROM batches b
        WHERE b.ledger_id = l.ledger_id),
       (SELECT jsonb_agg(jsonb_build_array(level, number, encode(hashes, 'hex'), encode(root, 'hex')) ORDER BY level, number)
        FROM tiles t WHERE t.ledger_id = l.ledger_id)
FROM ledgers l WHERE name = %s
"""


@pytest.fixture(scope="module")
async def ledger(database: Database, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a ledger with EVENTS events, in batches of many sizes."""
    settings = Settings(database_url=database.service_url, data_dir=tmp_path_factory.mktemp("data"))
    name, sizes = make_ledger(database.service_url), random.Random(7)
    async with in_process(settings) as make, make(name, make_key(database.service_url)) as api:
        opened = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"})
        left = EVENTS - 1
        while left:
            count = min(left, sizes.choice((1, 2, 3, 30, 50)))
            events = [{"event_type": "note.added", **note(f"{left - at}")} for at in range(count)]
            path = f"/contracts/{opened.json()['contract_id']}/events"
            answer = await api.post(path, json={"events": events}, headers={"Idempotency-Key": str(left)})
            assert answer.status_code == 201, answer.text
            left -= count
    return name


@pytest.fixture(scope="module")
async def connections(database: Database) -> AsyncIterator[Connections]:
    made = Connections(database.service_url, 2)
    await made.open()
    yield made
    await made.close()


def leaves_of(database: Database, ledger: str) -> list[bytes]:
    query = "SELECT event_hash FROM events JOIN ledgers USING (ledger_id) WHERE name = %s ORDER BY position"
    return [row[0] for row in rows(database.service_url, query, ledger)]


def id_of(database: Database, ledger: str) -> str:
    return str(rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", ledger)[0][0])


def test_each_batch_carries_the_frontier_of_the_tree_of_its_events(database: Database, ledger: str) -> None:
    leaves = leaves_of(database, ledger)
    assert len(leaves) == EVENTS
    query = "SELECT last_position, frontier FROM batches JOIN ledgers USING (ledger_id) WHERE name = %s"
    batches = rows(database.service_url, query, ledger)
    assert len(batches) > 15
    for size, frontier in batches:
        assert frontier == extend(b"", 0, leaves[:size]).frontier


def test_full_tiles_are_stored_with_their_hashes_and_root(database: Database, ledger: str) -> None:
    leaves = leaves_of(database, ledger)
    query = "SELECT level, number, hashes, root FROM tiles JOIN ledgers USING (ledger_id) WHERE name = %s ORDER BY number"
    assert rows(database.service_url, query, ledger) == [
        (0, number, b"".join(leaves[number * 256 : number * 256 + 256]), root_of(extend(b"", 0, leaves[number * 256 :][:256]).frontier))
        for number in range(2)
    ]


async def test_proofs_made_from_what_is_stored_hold(database: Database, ledger: str, connections: Connections) -> None:
    leaves, ledger_id = leaves_of(database, ledger), id_of(database, ledger)
    sizes = (1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 599, 600)
    roots = {size: await proofs.root_at(connections, ledger_id, size) for size in sizes}
    assert roots == {size: root_of(extend(b"", 0, leaves[:size]).frontier) for size in sizes}
    assert await proofs.root_at(connections, ledger_id, 0) == EMPTY
    for size in sizes:
        for index in {0, size // 2, size - 1}:
            path = await proofs.inclusion(connections, ledger_id, index, size)
            assert verify_inclusion(index, size, leaves[index], path, roots[size])
        for earlier in (one for one in sizes if one <= size):
            path = await proofs.consistency(connections, ledger_id, earlier, size)
            assert verify_consistency(earlier, size, roots[earlier], roots[size], path)


def test_the_tree_of_events_that_are_older_than_it_is_built_in_steps_that_stay(
    database: Database, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "BATCHES_A_STEP", 4)
    before = rows(database.service_url, _TREE, ledger)
    told: list[tuple[int, int]] = []

    def interrupted(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 2:
            raise KeyboardInterrupt

    forget_tree(database)
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        with pytest.raises(KeyboardInterrupt):
            build_trees(owner, interrupted)
        half = rows(database.service_url, "SELECT count(*) FROM batches WHERE frontier IS NOT NULL")[0][0]
        assert half == 2 * 4 + 1, "the row that a log begins with is of the first step, too"
        build_trees(owner, lambda done, total: told.append((done, total)))
    assert rows(database.service_url, _TREE, ledger) == before
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (EVENTS, EVENTS)
    verified(database.service_url, ledger)


async def test_nothing_is_appended_before_the_tree_is_built(database: Database, ledger: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database.service_url, data_dir=tmp_path)
    forget_tree(database)
    async with in_process(settings) as make, make(ledger, make_key(database.service_url)) as api:
        refused = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "early"})
        assert (refused.status_code, refused.json()["code"]) == (503, "tree-unknown")
        with psycopg.connect(database.owner_url, autocommit=True) as owner:
            build_trees(owner, lambda *_: None)
        again = await api.post("/contracts/reported?validate_only=true", json=opening())
        assert again.status_code == 200, again.text


def test_a_log_with_a_gap_gets_no_tree(database: Database, ledger: str) -> None:
    forget_tree(database)
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER TABLE events DISABLE TRIGGER USER")
        superuser.execute("CREATE TABLE one AS SELECT * FROM events WHERE position = 300")
        superuser.execute("DELETE FROM events WHERE position = 300")
        assert build_trees(superuser, lambda *_: None) == [ledger]
        superuser.execute("INSERT INTO events TABLE one")
        superuser.execute("DROP TABLE one")
        superuser.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER refuse_change, ENABLE ALWAYS TRIGGER refuse_truncate")
        assert build_trees(superuser, lambda *_: None) == []
    verified(database.service_url, ledger)


def forget_tree(database: Database) -> None:
    """As the database of a release that knew of no tree is after the migration of its tables."""
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        for table in ("batches", "tiles"):
            superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        superuser.execute("UPDATE batches SET frontier = NULL")
        superuser.execute("TRUNCATE tiles")
        for table in ("batches", "tiles"):
            superuser.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER refuse_change, ENABLE ALWAYS TRIGGER refuse_truncate")
