"""Forks, as an operator meets them: an older copy of a deployment is found out at its start, and goes on in a new epoch."""

import asyncio
import base64
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli.commands import app
from service.log.checkpoint import Checkpoint
from service.log.epochs import follows_of
from service.log.notes import Note, Verifier
from service.settings import Settings
from tests.audit.bundles import verified
from tests.conftest import Database, NewDatabase, Server
from tests.guarantees.load import note, opening
from tests.log.test_heads import copy_of, rename
from tests.servers import in_process, make_key, make_ledger

KEY = base64.b64encode(bytes(range(32))).decode()


def settings(database: Database, folder: Path) -> Settings:
    return Settings(
        database_url=database.service_url,
        data_dir=folder / "data",
        signing_key=KEY,
        checkpoint_store=str(folder / "kept"),
        deployment="test",
    )


async def append(api: httpx.AsyncClient, key: str, contract: str | None = None) -> httpx.Response:
    path, body = ("/contracts/reported", opening()) if contract is None else (f"/contracts/{contract}/note-added", note(key))
    return await api.post(path, json=body, headers={"Idempotency-Key": key})


async def test_an_older_copy_is_found_out_at_the_start_and_goes_on_in_a_new_epoch(
    server: Server, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_database() as database:
        ledger, key = make_ledger(database.service_url), make_key(database.service_url)
        async with in_process(settings(database, tmp_path)) as make, make(ledger, key) as api:
            contract = (await append(api, "one")).json()["contract_id"]
            cursor = (await api.get("/events")).json()["next"]
        # The data folder goes into the backup with the database; what is kept outside does not.
        shutil.copytree(tmp_path / "data", tmp_path / "backup")
        with copy_of(server, database) as copy:
            async with in_process(settings(database, tmp_path)) as make, make(ledger, key) as api:
                assert (await append(api, "two", contract)).status_code == 201
                signed = Note.parse((await api.get("/log/checkpoint")).text)
                first_key = (await api.get("/log/keys")).json()["keys"][0]["verifier_key"]
            shutil.rmtree(tmp_path / "data")
            shutil.copytree(tmp_path / "backup", tmp_path / "data")
            async with in_process(settings(copy, tmp_path)) as make, make(ledger, key) as api:
                refused = await append(api, "three", contract)
                assert (refused.status_code, refused.json()["code"]) == (409, "history-forked")
                assert "epoch begin" in refused.json()["detail"]
                assert (await api.get(f"/contracts/{contract}")).json()["revision"] == 1
            assert_found_by_verify(command(copy, tmp_path, monkeypatch, "verify", "--ledger", ledger))
            begin_epoch(copy, tmp_path, ledger, monkeypatch)
            async with in_process(settings(copy, tmp_path)) as make, make(ledger, key) as api:
                assert (await append(api, "three", contract)).status_code == 201
                assert (await api.get("/events", params={"after": cursor})).json()["code"] == "history-forked"
                (begun,) = (await api.get("/log/epochs")).json()["begun"]
                (pinned,) = (await api.get("/log/keys")).json()["keys"]
                newest = Note.parse((await api.get("/log/checkpoint")).text)
                bundle = (await api.get("/bundle")).content
    assert_told_to_an_auditor(tmp_path, bundle, signed, first_key)
    assert_followed(signed, Note.parse(begun["checkpoint"]), newest, Verifier.parse(pinned["verifier_key"]))


async def signed_of(api: httpx.AsyncClient, size: int) -> None:
    """Have a checkpoint of a size signed: one a second is."""
    deadline = time.monotonic() + 10
    while Checkpoint.parse(Note.parse((await api.get("/log/checkpoint")).text).text).size < size:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def assert_followed(before: Note, beginning: Note, newest: Note, verifier: Verifier) -> None:
    """A new epoch begins with a signed note that says what it follows, and is signed on in its own origin."""
    assert verifier.signed(beginning)
    assert verifier.signed(newest)
    ended, begun, last = (Checkpoint.parse(note.text) for note in (before, beginning, newest))
    assert begun.extensions[1] == f"follows {ended.origin} {ended.size} {base64.b64encode(ended.root).decode()}"
    assert (ended.size, begun.size, last.size) == (2, 1, 2)
    assert begun.origin == last.origin == ended.origin.removesuffix("1") + "2"


def assert_found_by_verify(looked: Result) -> None:
    assert looked.exit_code == 1
    assert "checkpoint 2, as it is kept: the database is not the one that was signed for" in " ".join(looked.output.split())


def assert_told_to_an_auditor(folder: Path, bundle: bytes, kept: Note, verifier_key: str) -> None:
    """Who pinned the key in the first epoch follows the log into the second, and finds what they kept a checkpoint of given up."""
    followed = verified(folder, bundle, "--key", verifier_key)
    assert followed.status == 0, followed.output
    assert "epoch 2 goes on from 1 events after 2 were signed in epoch 1" in followed.checks["epochs"][1]
    (folder / "kept-note").write_text(kept.format())
    lost = verified(folder, bundle, "--key", verifier_key, "--kept", "kept-note")
    assert lost.of("invalid") == {"consistency"}, lost.output
    assert "so 1 of those you kept a checkpoint of are given up" in lost.checks["consistency"][1]


def begin_epoch(database: Database, folder: Path, ledger: str, monkeypatch: pytest.MonkeyPatch, epoch: int = 2) -> None:
    told = command(database, folder, monkeypatch, "epoch", "begin", ledger)
    assert told.exit_code == 0, told.output
    assert f"test/{ledger}/{epoch} with 1 events" in told.output


def command(database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """A command of the operator, with the settings of the service."""
    stated = {
        "LEDGER_DATABASE_URL": database.service_url,
        "LEDGER_MIGRATION_URL": database.owner_url,
        "LEDGER_DATA_DIR": str(folder / "data"),
        "LEDGER_SIGNING_KEY": KEY,
        "LEDGER_CHECKPOINT_STORE": str(folder / "kept"),
    }
    for name, value in stated.items():
        monkeypatch.setenv(name, value)
    told: list[Result] = []
    # The command runs a loop of its own.
    thread = threading.Thread(target=lambda: told.append(CliRunner().invoke(app, words)))
    thread.start()
    thread.join()
    return told[0]


async def test_an_older_copy_put_beneath_a_running_service_is_refused_though_its_own_heads_know_nothing_of_what_is_lost(
    server: Server, new_database: NewDatabase, tmp_path: Path
) -> None:
    """Another machine committed and signed what is lost; this one has the same store and a data folder of its own."""
    with new_database() as database:
        ledger, key, name = make_ledger(database.service_url), make_key(database.service_url), database.name
        here, there = settings(database, tmp_path), replace(settings(database, tmp_path), data_dir=tmp_path / "other")
        async with in_process(there) as make, make(ledger, key) as api:
            contract = (await append(api, "one")).json()["contract_id"]
            assert (await api.get("/log/checkpoint")).status_code == 200
        with copy_of(server, database) as copy:
            async with in_process(there) as make, make(ledger, key) as api:
                assert (await append(api, "two", contract)).status_code == 201
                await signed_of(api, 2)
            async with in_process(here) as make, make(ledger, key) as api:
                await asyncio.to_thread(rename, server, name, f"{name}_newer")
                await asyncio.to_thread(rename, server, copy.name, name)
                refused = await append(api, "three", contract)
                assert (refused.status_code, refused.json()["code"]) == (409, "history-forked"), refused.text
                assert "it has 1 events, and the checkpoint kept is one of 2" in refused.json()["detail"]
                await asyncio.to_thread(rename, server, name, copy.name)
                await asyncio.to_thread(rename, server, f"{name}_newer", name)
                # The newer one is back, and found good with the next connection.
                assert (await append(api, "three", contract)).status_code == 201


async def test_a_history_that_another_machine_signed_otherwise_is_refused_once_this_one_signs(
    server: Server, new_database: NewDatabase, tmp_path: Path
) -> None:
    """Two primaries at once: nothing reconnects, and signing is what finds it."""
    with new_database() as database:
        ledger, key = make_ledger(database.service_url), make_key(database.service_url)
        async with in_process(settings(database, tmp_path)) as make, make(ledger, key) as api:
            contract = (await append(api, "one")).json()["contract_id"]
        with copy_of(server, database) as copy:
            there = replace(settings(copy, tmp_path), data_dir=tmp_path / "other")
            async with in_process(settings(database, tmp_path)) as make, make(ledger, key) as api:
                assert (await append(api, "here", contract)).status_code == 201
                async with in_process(there) as make_other, make_other(ledger, key) as other:
                    assert (await append(other, "there", contract)).status_code == 201
                    assert (await other.get("/log/checkpoint")).status_code == 200
                for answer in (await api.get("/log/checkpoint"), await append(api, "on", contract)):
                    assert (answer.status_code, answer.json()["code"]) == (409, "history-forked"), answer.text


async def test_a_store_emptied_between_two_epochs_is_noticed(
    server: Server, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the new epoch nothing was signed yet but its beginning."""
    with new_database() as database:
        ledger, key = make_ledger(database.service_url), make_key(database.service_url)
        async with in_process(settings(database, tmp_path)) as make, make(ledger, key) as api:
            contract = (await append(api, "one")).json()["contract_id"]
        with copy_of(server, database) as copy:
            async with in_process(settings(database, tmp_path)) as make, make(ledger, key) as api:
                assert (await append(api, "two", contract)).status_code == 201
                await signed_of(api, 2)
            begin_epoch(copy, tmp_path, ledger, monkeypatch)
            shutil.rmtree(tmp_path / "kept")
            async with in_process(settings(copy, tmp_path)) as make, make(ledger, key) as api:
                unsigned = await api.get("/log/checkpoint")
            assert (unsigned.status_code, unsigned.json()["code"]) == (503, "checkpoint-store-unusable")
            assert "the store was emptied" in capsys.readouterr().err
            begin_epoch(copy, tmp_path, ledger, monkeypatch, epoch=3)
            async with in_process(settings(copy, tmp_path)) as make, make(ledger, key) as api:
                assert (await api.get("/log/checkpoint")).status_code == 200
                begun = [Checkpoint.parse(Note.parse(one["checkpoint"]).text) for one in (await api.get("/log/epochs")).json()["begun"]]
    assert follows_of(begun[1]).startswith(f"{begun[0].origin} 1 ")
