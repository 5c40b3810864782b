"""Bundles: what the service writes, verify.py finds valid; and every attack that a bundle can show is found, named and located."""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.audit import replay, verify
from service.audit.bundle import Wanted
from service.audit.fold import Folded, fold
from service.audit.restore import restore
from service.errors import ContractNotFound, OperatorError, Refused
from tests.api.bodies import event, figure, note, open_and_sign, record, with_key
from tests.api.running import RunningService, running
from tests.audit.bundles import Change, Json, Operator, made, sealed_up, verified
from tests.conftest import NewDatabase
from tests.servers import rows

OPERATOR = Operator()
KEY = ("--key", OPERATOR.verifier_key)


@dataclass(frozen=True)
class Filled:
    """A service with a ledger of two contracts, an erased event, a sealed figure, and more events than a tile holds."""

    service: RunningService
    contract_id: str
    other_id: str
    erased_at: int

    @property
    def url(self) -> str:
        return self.service.database.service_url


@pytest.fixture(scope="module")
def filled(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with new_database() as database, running(database, tmp_path_factory.mktemp("data")) as service:
        service.make_ledger("main", "Asia/Seoul")
        with service.client(service.admin, ledger="main") as api:
            contract_id, other_id = open_and_sign(api), open_and_sign(api)
            told = _recorded(api, contract_id, "figure.stated", event({"figure": figure("krw-1", note="needle")}))
            sealed = [{"path": "/figure/amount", "value": "918273645"}, {"path": "/figure/note", "value": "Zwiebelfisch \U0001f41f"}]
            openly = {name: member for name, member in figure("krw-2").items() if name != "amount"}
            _recorded(api, contract_id, "figure.stated", event({"figure": openly}, sealed=sealed))
            for number in range(3):
                notes = [{"event_type": "note.added"} | note(f"note {number}.{index} 「注」") for index in range(90)]
                answer = api.post(f"/contracts/{other_id}/events", json={"events": notes}, headers=with_key())
                assert answer.status_code == 201, answer.text
            _recorded(api, contract_id, "event.erased", event({"target": told["event_id"], "legal_basis": "a law"}, None))
        yield Filled(service, contract_id, other_id, told["position"])


def _recorded(api: httpx.Client, contract_id: str, event_type: str, body: Json) -> Json:
    answer = record(api, contract_id, event_type, body)
    assert answer.status_code == 201, answer.text
    recorded: Json = answer.json()["events"][0]
    return recorded


def bundle_of(filled: Filled, size: int | None = None, **wanted: Any) -> tuple[list[Json], bytes]:
    return made(filled.url, "main", OPERATOR, Wanted(**wanted), size)


KINDS: dict[str, Any] = {
    "ledger": {},
    "ledger with what is sealed": {"sealed": True},
    "range": {"from_position": 4, "to_position": 200},
    "range from the beginning": {"from_position": 1, "to_position": 7},
    "range to the end": {"from_position": 256},
    "contract": {"contract_id": "the contract"},
    "contract with what is sealed": {"contract_id": "the contract", "sealed": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_of_each_kind_is_valid(filled: Filled, tmp_path: Path, kind: str) -> None:
    wanted = KINDS[kind] | ({"contract_id": filled.contract_id} if "contract" in kind else {})
    lines, bundle = bundle_of(filled, **wanted)
    said = verified(tmp_path, bundle, *KEY, "--ledger", lines[0]["ledger_id"])
    assert said.status == 0, said.output
    assert said.of("valid") == set(verify.CHECKS) - {"consistency"}
    assert said.checks["consistency"][0] == "not asked"
    assert lines[-1]["digest"] == hashlib.sha256(b"".join(bundle.splitlines(keepends=True)[:-1])).hexdigest()
    shown = "Zwiebelfisch" in bundle.decode()
    assert shown is ("sealed" in kind)
    assert "needle" not in bundle.decode()


# The fold and the restore


def folded(folder: Path, bundle: bytes, effective_on: date | None = None) -> dict[str, Folded]:
    file = folder / "bundle.ndjson"
    file.write_bytes(bundle)
    return {contract.contract_id: contract for contract in fold(file, effective_on)}


@pytest.mark.parametrize("day", [None, "2024-03-15"])
@pytest.mark.parametrize("kind", ["ledger", "ledger with what is sealed", "contract"])
def test_the_fold_of_a_bundle_has_the_state_hash_of_the_service(filled: Filled, tmp_path: Path, kind: str, day: str | None) -> None:
    wanted = KINDS[kind] | ({"contract_id": filled.contract_id} if "contract" in kind else {})
    contracts = folded(tmp_path, bundle_of(filled, **wanted)[1], None if day is None else date.fromisoformat(day))
    assert set(contracts) == {filled.contract_id} | ({filled.other_id} if kind != "contract" else set())
    assert (contracts[filled.contract_id].erased, contracts[filled.contract_id].sealed) == (1, 1)
    with filled.service.client(filled.service.admin, ledger="main") as api:
        for contract_id, contract in contracts.items():
            told = api.get(f"/contracts/{contract_id}", params={} if day is None else {"effective_on": day}).json()
            assert contract.state_hash == told["state_hash"]
            assert (contract.revision, contract.effective_on.isoformat()) == (told["revision"], told["as_of"]["effective_on"])


def test_a_contract_that_begins_before_a_range_is_not_folded(filled: Filled, tmp_path: Path) -> None:
    contracts = folded(tmp_path, bundle_of(filled, from_position=4)[1])
    assert contracts[filled.other_id].state_hash is None


def test_a_ledger_restored_into_another_database_is_the_same_byte_for_byte(
    filled: Filled, new_database: NewDatabase, tmp_path: Path
) -> None:
    lines, bundle = bundle_of(filled, sealed=True)
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(bundle)
    with new_database() as database:
        done = restore(database.service_url, file, lambda *_: None, OPERATOR.verifier_key)
        assert (done.events, done.found, done.contracts) == (len(lines) - 2, 0, 2)
        verdict = replay.verify(database.service_url, "main", lambda *_: None, processes=1)
        assert (verdict.difference, verdict.erased) == (None, 1)
        again, _ = made(database.service_url, "main", OPERATOR, Wanted(sealed=True))
        assert again[1:-1] == lines[1:-1]
        assert {**again[0], "made_at": ""} == {**lines[0], "made_at": ""}
        for table in ("events", "payloads", "batches", "tiles"):
            query = f"SELECT * FROM {table} t WHERE ledger_id = %s ORDER BY 1, 2, 3"
            assert rows(database.service_url, query, lines[0]["ledger_id"]) == rows(filled.url, query, lines[0]["ledger_id"])
        with pytest.raises(OperatorError, match="already; nothing is restored over it"):
            restore(database.service_url, file, lambda *_: None)
        with running(database, tmp_path / "data") as copied, copied.client(copied.admin, ledger="main") as api:
            answer = record(api, filled.contract_id, "note.added", note("goes on"))
            assert answer.status_code == 201, answer.text
            assert answer.json()["events"][0]["position"] == done.events + 1


def test_a_restore_that_was_ended_goes_on(filled: Filled, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, bundle = bundle_of(filled, sealed=True)
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(bundle)
    monkeypatch.setattr("service.audit.restore.STEP_EVENTS", 3)

    def end(done: int, total: int, unit: str) -> None:
        if unit == "events" and done > 5:
            raise KeyboardInterrupt

    with new_database() as database:
        with pytest.raises(KeyboardInterrupt):
            restore(database.service_url, file, end)
        with running(database, tmp_path / "data") as copied, copied.client(copied.admin, ledger="main") as api:
            assert record(api, filled.contract_id, "note.added", note()).status_code == 503
        done = restore(database.service_url, file, lambda *_: None)
        assert 5 < done.found < done.events == len(lines) - 2
        assert replay.verify(database.service_url, "main", lambda *_: None, processes=1).difference is None
