"""Witnesses of a ledger: asked beside everything else, and what they cosigned stored for who asks for the checkpoint."""

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from service.database import Database as Connections
from service.errors import OperatorError
from service.log import cosigning
from service.log.checkpoint import Checkpoint
from service.log.cosigning import Cosigning, add_witness, cosignatures, remove_witness, witnesses_of
from service.log.notes import Note
from service.log.proofs import root_at
from service.log.witness import Witness
from service.settings import Settings
from tests.conftest import Database
from tests.guarantees.load import opening
from tests.log.test_witness import LOG, ORIGIN, VERIFIER, witnessing
from tests.servers import in_process, make_key, make_ledger, rows

EVENTS = 5


@pytest.fixture(scope="module")
async def ledger_id(database: Database, tmp_path_factory: pytest.TempPathFactory) -> str:
    settings = Settings(database_url=database.service_url, data_dir=tmp_path_factory.mktemp("data"))
    name = make_ledger(database.service_url)
    async with in_process(settings) as make, make(name, make_key(database.service_url)) as api:
        for number in range(EVENTS):
            await api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": f"{number}"})
    return str(rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", name)[0][0])


@pytest.fixture(scope="module")
async def connections(database: Database) -> AsyncIterator[Connections]:
    made = Connections(database.service_url, 4)
    await made.open()
    yield made
    await made.close()


async def checkpoint(connections: Connections, ledger_id: str, size: int) -> str:
    text = Checkpoint(ORIGIN, size, await root_at(connections, ledger_id, size)).text()
    return Note(text, (LOG.sign(ORIGIN, text),)).format()


async def asked(told: Cosigning, ledger_id: str, note: str) -> None:
    told.ask(ledger_id, 1, note)
    await told._asking[ledger_id]


async def test_witnesses_cosign_each_checkpoint_and_one_that_is_down_later(
    database: Database, connections: Connections, ledger_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Cosigning(connections)
    first, second = await checkpoint(connections, ledger_id, 2), await checkpoint(connections, ledger_id, EVENTS)
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        with witnessing(tmp_path / "state") as witness:
            add_witness(connection, ledger_id, witness)
            assert witnesses_of(connection, ledger_id) == [witness]
            await asked(told, ledger_id, first)
        assert VERIFIER.signed(Note.parse(first + await cosignatures(connections, ledger_id, 1, 2)))
        with capture_logs() as logs:
            await asked(told, ledger_id, second)
        assert [(entry["event"], entry["witness"]) for entry in logs] == [("a witness does not cosign", VERIFIER.name)]
        assert await cosignatures(connections, ledger_id, 1, EVENTS) == ""
        remove_witness(connection, ledger_id, VERIFIER.name)
        with witnessing(tmp_path / "state") as witness:
            add_witness(connection, ledger_id, witness)
            await asked(told, ledger_id, second)
            assert await cosignatures(connections, ledger_id, 1, EVENTS) == "", "asked again too soon"
            monkeypatch.setattr(cosigning, "ASK_AGAIN_SECONDS", 0)
            told._asked.clear()
            await asked(told, ledger_id, second)
        assert VERIFIER.signed(Note.parse(second + await cosignatures(connections, ledger_id, 1, EVENTS)))
    await told.close()


def test_a_witness_is_named_once_and_no_more_than_can_be(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    name = make_ledger(database.service_url)
    ledger_id = rows(database.service_url, "SELECT ledger_id::text FROM ledgers WHERE name = %s", name)[0][0]
    witness = Witness.named("https://witness.example/log", str(VERIFIER))
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        add_witness(connection, ledger_id, witness)
        with pytest.raises(OperatorError, match="has a witness"):
            add_witness(connection, ledger_id, witness)
        monkeypatch.setattr(cosigning, "MAX_WITNESSES", 1)
        with pytest.raises(OperatorError, match="at most 1"):
            add_witness(connection, ledger_id, witness)
        remove_witness(connection, ledger_id, VERIFIER.name)
        with pytest.raises(OperatorError, match="no witness"):
            remove_witness(connection, ledger_id, VERIFIER.name)
        assert witnesses_of(connection, ledger_id) == []
