"""The kept checkpoint: what a database that is behind it, or another, meets; and what becomes of it in races and without a store."""

import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.database import Database as Connections
from service.errors import HistoryForked, OperatorError, StoreUnusable
from service.log import kept
from service.log.checkpoint import Checkpoint, origin_of
from service.log.kept import CheckpointStore, FolderStore, PostgresStore, check, is_within, keep, open_store
from service.log.proofs import root_at
from service.log.tree import EMPTY
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import note, opening
from tests.servers import in_process, make_key, make_ledger, rows

EVENTS = 20
LEDGER_ID = "00000000-0000-7000-8000-00000000001e"
DEPLOYMENT = "ledger.example"
ORIGIN = origin_of(DEPLOYMENT, "main", 1)


def at(size: int, root: bytes = b"\x01" * 32, origin: str = ORIGIN) -> Checkpoint:
    return Checkpoint(origin, size, root, ("UTC",))


@pytest.fixture(scope="module")
async def ledger_id(database: Database, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ledger of EVENTS events."""
    settings = Settings(database_url=database.service_url, data_dir=tmp_path_factory.mktemp("data"))
    name = make_ledger(database.service_url)
    async with in_process(settings) as make, make(name, make_key(database.service_url)) as api:
        opened = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"})
        events = [{"event_type": "note.added", **note(f"{number}")} for number in range(EVENTS - 1)]
        path = f"/contracts/{opened.json()['contract_id']}/events"
        assert (await api.post(path, json={"events": events}, headers={"Idempotency-Key": "notes"})).status_code == 201
    return str(rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", name)[0][0])


@pytest.fixture(scope="module")
async def connections(database: Database) -> AsyncIterator[Connections]:
    made = Connections(database.service_url, 2)
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=["folder", "postgres"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> Callable[[], CheckpointStore]:
    """Makes the store anew, as another process has it."""
    if request.param == "folder":
        return lambda: FolderStore(tmp_path / "state" / "kept")
    deployment = f"{DEPLOYMENT}/{request.node.name}"
    return lambda: PostgresStore(database.owner_url, deployment)


def test_a_checkpoint_is_kept_in_place_of_the_one_known_only(make_store: Callable[[], CheckpointStore]) -> None:
    store = make_store()
    assert store.read(LEDGER_ID) is None
    assert not store.swap(LEDGER_ID, at(1), at(2))
    assert store.swap(LEDGER_ID, None, at(2))
    assert not store.swap(LEDGER_ID, None, at(3))
    assert not make_store().swap(LEDGER_ID, at(2, EMPTY), at(3))
    assert make_store().swap(LEDGER_ID, at(2), at(3))
    assert store.read(LEDGER_ID) == make_store().read(LEDGER_ID) == at(3)


def test_of_processes_that_keep_at_once_one_wins_each_time(make_store: Callable[[], CheckpointStore]) -> None:
    steps, won = 15, []

    def run() -> None:
        store = make_store()
        for size in range(1, steps + 1):
            won.extend([size] * store.swap(LEDGER_ID, at(size - 1) if size > 1 else None, at(size)))

    racers = [threading.Thread(target=run) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(won) == len(set(won)), "a step was won twice"
    kept_last = make_store().read(LEDGER_ID)
    assert kept_last is not None
    assert sorted(won) == list(range(1, kept_last.size + 1))


def test_a_file_that_holds_no_checkpoint_is_said_so_and_nothing_is_signed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / f"{LEDGER_ID}.checkpoint").write_text("half a")
    for act in (lambda: store.read(LEDGER_ID), lambda: store.swap(LEDGER_ID, None, at(1))):
        with pytest.raises(StoreUnusable, match="is no checkpoint"):
            act()


def test_a_store_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="nothing is signed"):
        FolderStore(tmp_path / "file" / "kept").swap(LEDGER_ID, None, at(1))
    for unreadable in (tmp_path / "file", tmp_path / "file" / "kept"):
        with pytest.raises(StoreUnusable, match="Not a directory"):
            FolderStore(unreadable).read_all()
    assert FolderStore(tmp_path / "not made yet").read_all() == {}
    with pytest.raises(StoreUnusable, match="second database"):
        PostgresStore(f"postgresql://nobody@/none?host={tmp_path}", DEPLOYMENT).read(LEDGER_ID)


def test_a_second_database_is_not_the_ledgers_own() -> None:
    url = "postgresql://service:secret@db.example/ledger"
    with pytest.raises(OperatorError, match="own database"):
        open_store("postgresql://other@db.example:5432/ledger", DEPLOYMENT, url)
    assert isinstance(open_store("postgresql://other@kept.example/ledger", DEPLOYMENT, url), PostgresStore)


@pytest.mark.parametrize(
    "url", ["ftp://kept.example/x", "mysql://me:a-secret-word@kept.example/x", "postgresql://me:a-secret-word/@kept.example/x"]
)
def test_a_url_of_anything_else_is_not_taken_for_a_folder(url: str) -> None:
    with pytest.raises(OperatorError, match="LEDGER_CHECKPOINT_STORE is neither a folder nor the URL of a Postgres") as refused:
        open_store(url, DEPLOYMENT, "")
    assert "a-secret-word" not in str(refused.value)


def test_a_store_within_the_data_folder_is_known_by_whatever_path(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    assert is_within(str(tmp_path / "link" / "kept"), data)
    assert is_within(str(data / ".." / "data"), data)
    for where in (tmp_path / "kept", tmp_path / "data-kept", "postgresql://kept.example/data"):
        assert not is_within(str(where), data)
    assert not is_within(str(data), None)


def test_each_deployment_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for deployment, folder in (("ledger.example/eu", "ledger.example%2Feu"), ("..", "%2E%2E")):
        assert open_store(str(tmp_path), deployment, "").swap(LEDGER_ID, None, at(1))
        assert (tmp_path / folder / f"{LEDGER_ID}.checkpoint").exists()


async def test_a_log_that_grows_is_kept_as_it_grows(connections: Connections, ledger_id: str, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for size in (0, 1, 7, 7, 16, EVENTS):
        await keep(store, connections, ledger_id, at(size, await root_at(connections, ledger_id, size)), store.read(ledger_id))
        last = store.read(ledger_id)
        assert last is not None
        assert last.size == size
        await check(connections, ledger_id, ORIGIN, last)


async def test_what_another_process_kept_beyond_it_stays(connections: Connections, ledger_id: str, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    beyond = at(EVENTS, await root_at(connections, ledger_id, EVENTS))
    store.swap(ledger_id, None, beyond)
    await keep(store, connections, ledger_id, at(5, await root_at(connections, ledger_id, 5)), None)
    assert store.read(ledger_id) == beyond


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (at(EVENTS + 1), f"has {EVENTS} events, and the checkpoint kept is one of {EVENTS + 1}"),
        (at(7), "does not go together"),
        (at(EVENTS), "does not go together"),
        (at(3, origin=origin_of(DEPLOYMENT, "main", 2)), "ledger.example/main/2"),
        (at(3, origin=origin_of(DEPLOYMENT, "other", 1)), "ledger.example/other/1"),
    ],
)
async def test_a_database_that_is_behind_or_another_is_refused_and_what_is_kept_stays(
    connections: Connections, ledger_id: str, tmp_path: Path, known: Checkpoint, said: str
) -> None:
    store = FolderStore(tmp_path)
    store.swap(ledger_id, None, known)
    with pytest.raises(HistoryForked, match=said):
        await keep(store, connections, ledger_id, at(EVENTS, await root_at(connections, ledger_id, EVENTS)), None)
    with pytest.raises(HistoryForked, match="The ledger is not the one that was signed before"):
        await check(connections, ledger_id, ORIGIN, known)
    assert store.read(ledger_id) == known


async def test_a_root_that_does_not_continue_the_kept_one_is_not_kept(connections: Connections, ledger_id: str, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    before = at(7, await root_at(connections, ledger_id, 7))
    store.swap(ledger_id, None, before)
    with pytest.raises(HistoryForked, match="does not go together"):
        await keep(store, connections, ledger_id, at(EVENTS), None)
    assert store.read(ledger_id) == before


async def test_an_emptied_store_does_not_begin_anew(connections: Connections, ledger_id: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="was emptied or is another one"):
        await keep(FolderStore(tmp_path), connections, ledger_id, at(EVENTS), at(3))
    assert FolderStore(tmp_path).read(ledger_id) is None


async def test_a_race_that_does_not_end_is_given_up(connections: Connections, ledger_id: str) -> None:
    class Lost:
        swaps = 0

        def read(self, _: str) -> None:
            return None

        def swap(self, *_: object) -> bool:
            self.swaps += 1
            return False

    store = Lost()
    with pytest.raises(StoreUnusable, match="at the same moment"):
        await keep(store, connections, ledger_id, at(EVENTS), None)
    assert store.swaps == kept.MAX_SWAPS
