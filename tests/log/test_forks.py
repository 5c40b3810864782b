"""Forks, as an operator meets them: an older copy of a deployment is found out at its start, and goes on in a new epoch."""

import base64
import shutil
import threading
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from service.cli.commands import app
from service.log.checkpoint import Checkpoint
from service.log.notes import Note, Verifier
from service.settings import Settings
from tests.conftest import Database, NewDatabase, Server
from tests.guarantees.load import note, opening
from tests.log.test_heads import copy_of
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
            shutil.rmtree(tmp_path / "data")
            shutil.copytree(tmp_path / "backup", tmp_path / "data")
            async with in_process(settings(copy, tmp_path)) as make, make(ledger, key) as api:
                refused = await append(api, "three", contract)
                assert (refused.status_code, refused.json()["code"]) == (409, "history-forked")
                assert "epoch begin" in refused.json()["detail"]
                assert (await api.get(f"/contracts/{contract}")).json()["revision"] == 1
            begin_epoch(copy, tmp_path, ledger, monkeypatch)
            async with in_process(settings(copy, tmp_path)) as make, make(ledger, key) as api:
                assert (await append(api, "three", contract)).status_code == 201
                assert (await api.get("/events", params={"after": cursor})).json()["code"] == "history-forked"
                (begun,) = (await api.get("/log/epochs")).json()["begun"]
                (pinned,) = (await api.get("/log/keys")).json()["keys"]
                newest = Note.parse((await api.get("/log/checkpoint")).text)
    assert_followed(signed, Note.parse(begun["checkpoint"]), newest, Verifier.parse(pinned["verifier_key"]))


def assert_followed(before: Note, beginning: Note, newest: Note, verifier: Verifier) -> None:
    """A new epoch begins with a signed note that says what it follows, and is signed on in its own origin."""
    assert verifier.signed(beginning)
    assert verifier.signed(newest)
    ended, begun, last = (Checkpoint.parse(note.text) for note in (before, beginning, newest))
    assert begun.extensions[1] == f"follows {ended.origin} {ended.size} {base64.b64encode(ended.root).decode()}"
    assert (ended.size, begun.size, last.size) == (2, 1, 2)
    assert begun.origin == last.origin == ended.origin.removesuffix("1") + "2"


def begin_epoch(database: Database, folder: Path, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = {
        "LEDGER_DATABASE_URL": database.service_url,
        "LEDGER_MIGRATION_URL": database.owner_url,
        "LEDGER_DATA_DIR": str(folder / "data"),
        "LEDGER_SIGNING_KEY": KEY,
        "LEDGER_CHECKPOINT_STORE": str(folder / "kept"),
    }
    for name, value in stated.items():
        monkeypatch.setenv(name, value)
    told = []
    # The command runs a loop of its own.
    thread = threading.Thread(target=lambda: told.append(CliRunner().invoke(app, ["epoch", "begin", ledger])))
    thread.start()
    thread.join()
    assert told[0].exit_code == 0, told[0].output
    assert f"test/{ledger}/2 with 1 events" in told[0].output
