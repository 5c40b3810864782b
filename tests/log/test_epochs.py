"""Epochs: what an operator begins when the database has less than was signed, or something else, and what readers meet then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from service.database import Database as Connections
from service.errors import HistoryForked, OperatorError
from service.log.checkpoint import Checkpoint, origin_of
from service.log.epochs import Authority, begin, epochs, follows_of
from service.log.heads import Head, keep_head, read_heads
from service.log.kept import FolderStore, check, keep
from service.log.notes import Note, Signer
from service.log.proofs import root_at
from service.log.tree import EMPTY
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import opening
from tests.servers import in_process, make_key, make_ledger, rows

DEPLOYMENT = "ledger.example"
SIGNER = Signer(b"\x01" * 32)
EVENTS = 3


@dataclass(frozen=True, slots=True)
class Deployment:
    """A ledger of EVENTS events, each of them a contract, and what is kept of it outside the database."""

    database: Database
    owner: Connections
    name: str
    key: str
    ledger_id: str
    authority: Authority

    @property
    def store(self) -> FolderStore:
        assert isinstance(self.authority.store, FolderStore)
        return self.authority.store

    def origin(self, epoch: int = 1) -> str:
        return origin_of(DEPLOYMENT, self.name, epoch)

    def keeps(self, size: int, root: bytes = b"\x07" * 32, epoch: int = 1) -> Checkpoint:
        """Let a checkpoint be kept, as it was signed before the database was restored."""
        kept = Checkpoint(self.origin(epoch), size, root, ("time zone UTC",))
        assert self.store.swap(self.ledger_id, self.store.read(self.ledger_id), kept)
        return kept

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        settings = Settings(database_url=self.database.service_url, data_dir=self.authority.heads_folder.parent)
        async with in_process(settings) as make, make(self.name, self.key) as api:
            yield api

    async def begin(self, signed: Checkpoint | None = None) -> Any:
        return await begin(self.owner, self.authority, self.name, signed)


@pytest.fixture
async def deployment(database: Database, tmp_path: Path) -> AsyncIterator[Deployment]:
    name, key = make_ledger(database.service_url), make_key(database.service_url)
    ledger_id = str(rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", name)[0][0])
    authority = Authority(DEPLOYMENT, [SIGNER], FolderStore(tmp_path / "kept"), tmp_path / "data" / "heads")
    owner = Connections(database.owner_url, 2)
    await owner.open()
    made = Deployment(database, owner, name, key, ledger_id, authority)
    async with made.client() as api:
        for number in range(EVENTS):
            answer = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": f"opening {number}"})
            assert answer.status_code == 201, answer.text
    yield made
    await owner.close()


async def test_a_database_behind_what_was_signed_goes_on_in_a_new_epoch(deployment: Deployment) -> None:
    lost = deployment.keeps(EVENTS + 5)
    begun = await deployment.begin()
    root = await root_at(deployment.owner, deployment.ledger_id, EVENTS)
    assert (begun.beginning.origin, begun.beginning.size, begun.beginning.root) == (deployment.origin(2), EVENTS, root)
    assert begun.follows == lost
    assert deployment.store.read(deployment.ledger_id) == begun.beginning
    (told,) = await epochs(deployment.owner, deployment.ledger_id)
    note = Note.parse(told.note)
    assert told.epoch == 2
    assert SIGNER.verifier(deployment.origin(2)).signed(note)
    assert Checkpoint.parse(note.text) == begun.beginning
    assert follows_of(begun.beginning) == f"{deployment.origin()} {EVENTS + 5} BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
    await check(deployment.owner, deployment.ledger_id, deployment.origin(2), begun.beginning)


async def test_cursors_of_the_epoch_before_are_refused_and_those_of_the_new_one_go_on(deployment: Deployment) -> None:
    async with deployment.client() as api:
        before = (await api.get("/events", params={"limit": 1})).json()
        listed = (await api.get("/contracts", params={"limit": 1})).json()["next"]
    deployment.keeps(EVENTS + 5)
    await deployment.begin()
    async with deployment.client() as api:
        for path, parameters in (("/events", {"after": before["next"]}), ("/contracts", {"after": listed})):
            refused = await api.get(path, params=parameters)
            assert (refused.status_code, refused.json()["code"]) == (409, "history-forked"), refused.text
        after = (await api.get("/events", params={"limit": 1})).json()
        assert after["items"][0]["event_id"] == before["items"][0]["event_id"]
        rest = await api.get("/events", params={"after": after["next"]})
        assert len(rest.json()["items"]) == EVENTS - 1
        assert (await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "new"})).status_code == 201


async def test_where_nothing_is_lost_no_epoch_is_begun(deployment: Deployment) -> None:
    with pytest.raises(OperatorError, match="nothing to accept"):
        await deployment.begin()
    deployment.keeps(EVENTS - 1, await root_at(deployment.owner, deployment.ledger_id, EVENTS - 1))
    with pytest.raises(OperatorError, match="nothing to accept"):
        await deployment.begin()
    assert await epochs(deployment.owner, deployment.ledger_id) == []


async def test_what_was_recorded_after_a_restore_is_another_history_too(deployment: Deployment) -> None:
    ended = deployment.keeps(EVENTS - 1)
    assert (await deployment.begin()).follows == ended


async def test_a_lost_head_is_accepted_though_nothing_was_signed(deployment: Deployment) -> None:
    keep_head(deployment.authority.heads_folder, deployment.ledger_id, Head(EVENTS + 2, "ab" * 32))
    async with deployment.client() as api:
        refused = await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "before"})
        assert (refused.status_code, refused.json()["code"]) == (503, "history-lost")
    begun = await deployment.begin()
    assert begun.follows == Checkpoint(deployment.origin(), 0, EMPTY)
    assert begun.lost == Head(EVENTS + 2, "ab" * 32)
    assert read_heads(deployment.authority.heads_folder)[deployment.ledger_id].position == EVENTS
    async with deployment.client() as api:
        assert (await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "after"})).status_code == 201


async def test_an_emptied_store_is_accepted_by_an_operator(deployment: Deployment) -> None:
    signed = Checkpoint(deployment.origin(), EVENTS, await root_at(deployment.owner, deployment.ledger_id, EVENTS))
    assert (await deployment.begin(signed)).follows == signed


async def test_an_epoch_that_was_begun_and_not_accepted_is_finished_as_it_was_begun(deployment: Deployment) -> None:
    ended = deployment.keeps(EVENTS + 5)
    begun = await deployment.begin()
    # As after a kill between the database and the store: what is kept is still the end of the epoch before.
    assert deployment.store.swap(deployment.ledger_id, begun.beginning, ended)
    with pytest.raises(HistoryForked):
        await keep(deployment.store, deployment.owner, deployment.ledger_id, begun.beginning, None)
    assert await deployment.begin() == begun
    assert deployment.store.read(deployment.ledger_id) == begun.beginning
    assert len(await epochs(deployment.owner, deployment.ledger_id)) == 1


async def test_a_copy_older_than_an_epoch_begins_one_after_it(deployment: Deployment) -> None:
    deployment.keeps(EVENTS, epoch=4)
    assert (await deployment.begin()).beginning.origin == deployment.origin(5)


async def test_no_epoch_is_begun_without_a_key_or_over_what_is_kept_of_another_ledger(deployment: Deployment) -> None:
    with pytest.raises(OperatorError, match="LEDGER_SIGNING_KEY"):
        await begin(deployment.owner, Authority(DEPLOYMENT, [], deployment.store, deployment.authority.heads_folder), deployment.name, None)
    other = Checkpoint(origin_of(DEPLOYMENT, "other", 1), 9, EMPTY)
    deployment.store.swap(deployment.ledger_id, None, other)
    with pytest.raises(OperatorError, match="not of ledger"):
        await deployment.begin()
    with pytest.raises(OperatorError, match="no ledger nowhere"):
        await begin(deployment.owner, deployment.authority, "nowhere", None)
    assert deployment.store.read(deployment.ledger_id) == other


async def test_the_service_may_not_begin_an_epoch_and_nobody_changes_one(deployment: Deployment) -> None:
    deployment.keeps(EVENTS + 5)
    await deployment.begin()
    for url, statement in (
        (deployment.database.service_url, "INSERT INTO epochs (ledger_id, epoch, note) VALUES (gen_random_uuid(), 1, '')"),
        (deployment.database.service_url, "UPDATE ledgers SET epoch = 9"),
        (deployment.database.owner_url, "UPDATE epochs SET note = ''"),
        (deployment.database.owner_url, "DELETE FROM epochs"),
    ):
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
