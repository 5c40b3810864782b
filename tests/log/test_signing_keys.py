"""Keys that sign: one takes the place of another, and both sign for a time."""

import asyncio
import base64
import json
import threading
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from service.cli.commands import app
from service.log.notes import Note, Verifier
from service.settings import Settings
from tests.conftest import Database, NewDatabase
from tests.guarantees.load import opening
from tests.servers import in_process, make_key, make_ledger, rows

OLD = base64.b64encode(bytes(range(32))).decode()


def run(*arguments: str) -> Result:
    """What a command comes to; in a thread, since it may run a loop of its own."""
    told: list[Result] = []
    thread = threading.Thread(target=lambda: told.append(CliRunner().invoke(app, [*arguments])))
    thread.start()
    thread.join()
    return told[0]


async def signed_by(database: Database, folder: Path, keys: str, ledger: str) -> list[bool]:
    """Whether each key that is listed has signed the checkpoint of one event more."""
    stated = Settings(database_url=database.service_url, data_dir=folder, signing_key=keys, checkpoint_store=str(folder / "kept"))
    async with in_process(stated) as make, make(ledger, make_key(database.service_url)) as api:
        assert (await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": keys[:200]})).status_code == 201
        async with asyncio.timeout(20):
            note = await covering(api)
        listed = (await api.get("/log/keys")).json()["keys"]
    return [Verifier.parse(key["verifier_key"]).signed(note) for key in listed]


async def covering(api: httpx.AsyncClient) -> Note:
    """The checkpoint of all events; at most one a second is signed."""
    while True:
        note = Note.parse((await api.get("/log/checkpoint")).text)
        events = (await api.get("/events", params={"limit": 500})).json()["items"]
        if note.text.split("\n")[1] == str(len(events)):
            return note
        await asyncio.sleep(0.05)


def new_key(rotated: Result) -> str:
    """The private key that a rotation shows."""
    return next(line for line in rotated.output.splitlines() if len(line) == 44 and line.endswith("="))


async def test_a_key_takes_the_place_of_another(new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_database() as database:
        ledger = make_ledger(database.service_url)
        monkeypatch.setenv("LEDGER_DATABASE_URL", database.service_url)
        assert "No key has signed yet" in str(run("signing-keys", "rotate").exception)
        assert await signed_by(database, tmp_path, OLD, ledger) == [True]
        old = run("signing-keys", "list").output.split()[0]
        assert "no other that signs" in str(run("signing-keys", "retire", old).exception)
        rotated = run("signing-keys", "rotate")
        assert rotated.exit_code == 0, rotated.output
        new = new_key(rotated)
        assert await signed_by(database, tmp_path, f"{OLD},{new}", ledger) == [True, True]
        assert run("signing-keys", "retire", old).exit_code == 0
        assert await signed_by(database, tmp_path, f"{OLD}, {new}", ledger) == [False, True]
        listed = run("signing-keys", "list").output.splitlines()
        assert ["retired" in line for line in listed] == [True, False]
        assert "no public key" in str(run("signing-keys", "retire", "a key").exception)


async def test_what_was_signed_before_a_rotation_is_signed_by_the_new_key_too_and_nothing_else_is(
    new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that rests meanwhile has no new checkpoint, and those who pin the new key have to verify the old one."""
    with new_database() as database:
        ledger, key = make_ledger(database.service_url), make_key(database.service_url)
        monkeypatch.setenv("LEDGER_DATABASE_URL", database.service_url)
        assert await signed_by(database, tmp_path, OLD, ledger) == [True]
        both = f"{OLD},{new_key(run('signing-keys', 'rotate'))}"
        stated = Settings(database_url=database.service_url, data_dir=tmp_path, signing_key=both, checkpoint_store=str(tmp_path / "kept"))
        async with in_process(stated) as make, make(ledger, key) as api:
            keys = [Verifier.parse(known["verifier_key"]) for known in (await api.get("/log/keys")).json()["keys"]]
            for path in ("/log/checkpoint", "/bundle"):
                text = (await api.get(path)).text
                note = Note.parse(json.loads(text.splitlines()[0])["checkpoint"] if path == "/bundle" else text)
                assert [known.signed(note) for known in keys] == [True, True]
            forge = "UPDATE checkpoints SET note = replace(note, 'time zone UTC', 'time zone GMT')"
            for statement in ("ALTER TABLE checkpoints DISABLE TRIGGER USER", forge):
                await asyncio.to_thread(rows, database.superuser_url, statement)
            forged = Note.parse((await api.get("/log/checkpoint")).text)
            assert "GMT" not in forged.text or not any(known.key_id == keys[1].key_id for known in forged.signatures)
