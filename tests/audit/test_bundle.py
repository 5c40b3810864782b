"""Bundles: what the service writes, verify.py finds valid; and every attack that a bundle can show is found, named and located."""

import base64
import copy
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.audit import replay, restorable, verify
from service.audit.book import open_connection
from service.audit.bundle import Wanted
from service.audit.fold import Folded, fold
from service.audit.rebuild import rebuild
from service.audit.reconcile import reconcile_next
from service.audit.restore import restore
from service.errors import ContractNotFound, OperatorError, Refused
from service.log.header import canonical, event_hash
from service.log.tree import extend, root_of
from tests.api.bodies import event, figure, note, open_and_sign, record, with_key
from tests.api.running import RunningService, running
from tests.audit.bundles import VERIFIER, Change, Json, Operator, made, sealed_up, verified
from tests.conftest import NewDatabase
from tests.servers import ROOT, rows

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


_made = cache(made)


def bundle_of(filled: Filled, size: int | None = None, **wanted: Any) -> tuple[list[Json], bytes]:
    lines, bundle = _made(filled.url, "main", OPERATOR, Wanted(**wanted), size)
    return copy.deepcopy(lines), bundle


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


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13", "3.14"])
def test_other_pythons_come_to_the_same_verdict(filled: Filled, tmp_path: Path, version: str) -> None:
    python = shutil.which(f"python{version}") or pytest.skip(f"there is no Python {version} here")
    # What is found may be a stand-in for one that is not there; the environment that it asks for is not the verifier's.
    found = subprocess.run([python, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"there is no Python {version} here")
    for change, verdict in ((lambda _: None, 0), (edit_body, 1)):
        lines, _ = bundle_of(filled, sealed=True)
        change(lines)
        said = verified(tmp_path, sealed_up(lines), *KEY, python=found.stdout.strip())
        assert said.status == verdict, said.output


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
        with pytest.raises(OperatorError, match="already, and nothing is restored over it"):
            restore(database.service_url, file, lambda *_: None)
        with running(database, tmp_path / "data") as copied, copied.client(copied.admin, ledger="main") as api:
            answer = record(api, filled.contract_id, "note.added", note("goes on"))
            assert answer.status_code == 201, answer.text
            assert answer.json()["events"][0]["position"] == done.events + 1


def test_a_restore_that_was_ended_goes_on(
    filled: Filled, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        for look in (rebuild, replay.verify):
            with pytest.raises(OperatorError, match=r"`contract-ledger restore` with its bundle goes on"):
                look(database.service_url, "main", lambda *_: None)
        with open_connection(database.service_url) as connection:
            assert not reconcile_next(connection, "main"), "the bodies that are missing so far would be an alarm"
        with running(database, tmp_path / "data") as copied, copied.client(copied.admin, ledger="main") as api:
            refused = record(api, filled.contract_id, "note.added", note())
            assert (refused.status_code, "contract-ledger restore" in refused.json()["detail"]) == (503, True)
        done = restore(database.service_url, file, lambda *_: None)
        assert 5 < done.found < done.events == len(lines) - 2
        assert replay.verify(database.service_url, "main", lambda *_: None, processes=1).difference is None


def invent_sealed(lines: list[Json]) -> None:
    index = next(index for index, line in enumerate(lines) if index and line.get("sealed"))
    lines[index] = {**lines[index], "sealed": lines[index]["sealed"].replace("918273645", "818273645")}


def second_sealed(lines: list[Json]) -> None:
    """Before the value that was recorded another one of the same member, which no digest covers."""
    line = next(line for line in lines[1:-1] if "sealed" in line)
    parts = json.loads(line["sealed"])
    line["sealed"] = canonical([{**parts[0], "value": "818273645"}, *parts]).decode()


def beside_what_is_sealed(lines: list[Json]) -> None:
    line = next(line for line in lines[1:-1] if "sealed" in line)
    first, *parts = json.loads(line["sealed"])
    line["sealed"] = canonical([{**first, "was": "818273645"}, *parts]).decode()


def seal_what_is_not(lines: list[Json]) -> None:
    lines[1] = {**lines[1], "sealed": "[]"}


def withhold(lines: list[Json]) -> None:
    lines[2] = {**lines[2], "body": None}


def body_for_the_erased(lines: list[Json]) -> None:
    index = next(index for index, line in enumerate(lines) if line.get("erased"))
    lines[index] = {"header": lines[index]["header"], "body": lines[1]["body"], "ends_batch": True}


def one_batch(lines: list[Json]) -> None:
    for line in lines[1:-2]:
        line.pop("ends_batch", None)


def no_last_batch(lines: list[Json]) -> None:
    del lines[-2]["ends_batch"]


def batch_within_a_request(lines: list[Json]) -> None:
    lines[-10]["ends_batch"] = True


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (invent_sealed, "sealed values or salts that are not those which were recorded"),
        (second_sealed, "sealed values or salts that are not those which were recorded"),
        (beside_what_is_sealed, "sealed values or salts that are not those which were recorded"),
        (seal_what_is_not, "sealed values or salts that are not those which were recorded"),
        (withhold, "is missing, and no event of the bundle erases it"),
        (body_for_the_erased, "a body that is not the one which was recorded"),
        (one_batch, "more events, or more bytes, than any is written with"),
        (no_last_batch, "ends no batch"),
        (batch_within_a_request, "by a request whose batch ended there"),
    ],
)
def test_what_would_damage_the_log_is_refused_before_a_row_is_written(
    filled: Filled, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, sentence: str
) -> None:
    monkeypatch.setattr(restorable, "MOST_BATCH_EVENTS", 120)
    lines, _ = bundle_of(filled, sealed=True)
    change(lines)
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(sealed_up(lines))
    with new_database() as database:
        with pytest.raises(OperatorError, match=sentence):
            restore(database.service_url, file, lambda *_: None)
        assert rows(database.service_url, "SELECT count(*) FROM ledgers WHERE name = 'main'") == [(0,)]


@pytest.mark.parametrize("is_same", [True, False])
def test_an_id_that_is_there_twice_is_refused_before_a_row_is_written_and_one_that_looks_like_another_is_not(
    filled: Filled, new_database: NewDatabase, tmp_path: Path, is_same: bool
) -> None:
    lines, _ = bundle_of(filled, sealed=True)
    known = json.loads(lines[50]["header"])["event_id"]
    headers(lines, 100, event_id=known if is_same else "0" * 8 + known[8:])
    rechained(lines)
    leaves = [event_hash(line["header"].encode()) for line in lines[1:-1]]
    lines[0]["checkpoint"] = OPERATOR.note(len(leaves), root_of(extend(b"", 0, leaves).frontier))
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(sealed_up(lines))
    with new_database() as database:
        if is_same:
            with pytest.raises(OperatorError, match=f"line 101: it has the id {known} of an event before it"):
                restore(database.service_url, file, lambda *_: None)
            assert rows(database.service_url, "SELECT count(*) FROM ledgers WHERE name = 'main'") == [(0,)]
        else:
            assert restore(database.service_url, file, lambda *_: None).events == len(leaves)


def test_a_bundle_whose_erasure_came_after_its_checkpoint_is_not_restored(
    filled: Filled, new_database: NewDatabase, tmp_path: Path
) -> None:
    size = len(bundle_of(filled)[0]) - 3
    _, bundle = bundle_of(filled, size=size, sealed=True)
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(bundle)
    with new_database() as database:
        with pytest.raises(OperatorError, match="fetch another bundle"):
            restore(database.service_url, file, lambda *_: None)
        assert rows(database.service_url, "SELECT count(*) FROM ledgers WHERE name = 'main'") == [(0,)]


@pytest.mark.parametrize("told", [{"time_zone": "Asia/Tokyo"}, {"time_zone": "time"}, {"ledger": "other"}])
def test_what_the_opening_line_says_of_a_ledger_is_what_its_checkpoint_says(filled: Filled, tmp_path: Path, told: Json) -> None:
    lines, _ = bundle_of(filled, sealed=True)
    root = verify.Checkpoint(lines[0]["checkpoint"]).root
    lines[0] |= {"checkpoint": OPERATOR.note(len(lines) - 2, root, "log.example/main/1", "time zone Asia/Seoul"), **told}
    said = verified(tmp_path, sealed_up(lines), *KEY)
    assert said.of("invalid") == {"ledger"}, said.output
    with pytest.raises(OperatorError, match=r"names (another|a) time zone"):
        restore("", tmp_path / "bundle.ndjson", lambda *_: None)


# The checkpoint that an auditor kept


def kept_file(
    folder: Path, filled: Filled, size: int, operator: Operator = OPERATOR, root: bytes | None = None, **more: Any
) -> tuple[str, str]:
    lines, _ = bundle_of(filled)
    grown = verify.Tree()
    for line in lines[1 : size + 1]:
        grown.add(verify.leaf_hash(line["header"].encode()))
    (folder / "kept").write_text(operator.note(size, root or grown.root(), **more))
    return "--kept", "kept"


@pytest.mark.parametrize(
    ("kind", "size"), [("contract", size) for size in (0, 1, 64, 255, 277)] + [("range", 3), ("range to the end", 100)]
)
def test_a_bundle_continues_the_checkpoint_that_was_kept(filled: Filled, tmp_path: Path, kind: str, size: int) -> None:
    wanted = KINDS[kind] | ({"contract_id": filled.contract_id} if "contract" in kind else {})
    kept = kept_file(tmp_path, filled, size)
    _, bundle = bundle_of(filled, from_size=size, **wanted)
    said = verified(tmp_path, bundle, *KEY, *kept)
    assert (said.status, said.of("valid")) == (0, set(verify.CHECKS)), said.output
    assert f"from {size} events to 277" in said.checks["consistency"][1]


def test_a_whole_ledger_needs_no_proof_to_continue_what_was_kept(filled: Filled, tmp_path: Path) -> None:
    said = verified(tmp_path, bundle_of(filled)[1], *KEY, *kept_file(tmp_path, filled, 100))
    assert (said.status, said.of("valid")) == (0, set(verify.CHECKS)), said.output


def test_without_a_proof_from_the_kept_size_nobody_can_tell(filled: Filled, tmp_path: Path) -> None:
    said = verified(tmp_path, bundle_of(filled, from_position=150)[1], *KEY, *kept_file(tmp_path, filled, 100))
    assert (said.status, said.of("indeterminate")) == (2, {"consistency"}), said.output
    assert "no proof from the size 100" in said.output


def test_a_log_shorter_than_what_was_kept_is_told_of(filled: Filled, tmp_path: Path) -> None:
    said = verified(tmp_path, bundle_of(filled, size=200)[1], *KEY, *kept_file(tmp_path, filled, 201))
    assert (said.status, said.of("indeterminate")) == (2, {"consistency", "erasures"}), said.output
    assert "the log's tail was cut" in said.output


@pytest.mark.parametrize("size", [100, 277])
@pytest.mark.parametrize("wanted", [{}, {"from_position": 270, "from_size": 100}])
def test_a_log_that_was_changed_below_what_was_kept_is_found(filled: Filled, tmp_path: Path, size: int, wanted: dict[str, Any]) -> None:
    said = verified(tmp_path, bundle_of(filled, **wanted)[1], *KEY, *kept_file(tmp_path, filled, size, root=bytes(32)))
    assert (said.status, said.of("invalid")) == (1, {"consistency"}), said.output


def test_a_kept_checkpoint_of_another_log_or_signer_is_told_of(filled: Filled, tmp_path: Path) -> None:
    said = verified(tmp_path, bundle_of(filled)[1], *KEY, *kept_file(tmp_path, filled, 100, origin="log.example/other/1"))
    assert (said.status, said.of("invalid")) == (1, {"consistency"}), said.output
    said = verified(tmp_path, bundle_of(filled)[1], *KEY, *kept_file(tmp_path, filled, 100, operator=Operator()))
    assert (said.status, said.checks) == (2, {}), said.output
    assert "kept is not signed by a key that you pinned" in said.output


def test_an_erasure_after_the_checkpoint_is_told_and_not_proven(filled: Filled, tmp_path: Path) -> None:
    lines, bundle = bundle_of(filled, size=276)
    assert "proof" not in next(line["erased"] for line in lines[1:-1] if line["body"] is None)
    said = verified(tmp_path, bundle, *KEY)
    assert (said.status, said.of("indeterminate")) == (2, {"erasures"}), said.output
    assert "ask for a bundle of a newer one" in said.output


def test_who_signed_is_what_the_auditor_pinned(filled: Filled, tmp_path: Path) -> None:
    _, bundle = bundle_of(filled)
    said = verified(tmp_path, bundle)
    assert (said.status, said.of("indeterminate")) == (2, {"signature"}), said.output
    said = verified(tmp_path, bundle, "--key", Operator().verifier_key)
    assert (said.status, said.of("invalid")) == (1, {"signature"}), said.output
    said = verified(tmp_path, bundle, "--key", Operator().verifier_key, *KEY)
    assert said.status == 0, said.output
    said = verified(tmp_path, bundle, "--key", OPERATOR.verifier_key.replace("log.example+", "log.example+0"))
    assert (said.status, said.checks) == (2, {}), said.output
    said = verified(tmp_path, bundle, *KEY, "--ledger", str(uuid4()))
    assert (said.status, said.of("invalid")) == (1, {"ledger"}), said.output


# Epochs

PINNED = Operator("log.example/main/1")
LATER, THIRD = Operator("log.example/main/2", PINNED.private), Operator("log.example/main/3", PINNED.private)
LAST_SIGNED = 300


def said_by(root: bytes) -> str:
    return base64.b64encode(root).decode()


class Epoch:
    """The second epoch of the ledger, which goes on from 270 events after LAST_SIGNED were signed; to be changed by a test."""

    def __init__(self, filled: Filled) -> None:
        self.roots = {size: read_root(filled, size) for size in (100, 270, 277)}
        self.size = 277
        self.lost = bytes(31) + b"\x07"
        self.notes = [self.note()]

    def note(self, of: Operator = LATER, size: int = 270, follows: str = "", by: Operator | None = None) -> Json:
        follows = follows or f"log.example/main/1 {LAST_SIGNED} {said_by(self.lost)}"
        root = self.roots[size]
        signed = (by or of).note(size, root, of.name, "time zone Asia/Seoul", f"follows {follows}")
        return {"checkpoint": signed}

    def bundle(self, filled: Filled, of: Operator = LATER, **wanted: Any) -> bytes:
        lines, _ = bundle_of(filled, size=self.size, **wanted)
        notes = [dict(one) for one in self.notes]
        if notes and "hashes" not in notes[-1]:
            notes[-1]["hashes"] = bundle_of(filled, size=self.size, from_position=277, from_size=270)[0][0]["consistency"]["hashes"]
        lines[0] |= {"checkpoint": of.note(self.size, self.roots[self.size], of.name, "time zone Asia/Seoul"), "epochs": notes}
        return sealed_up(lines)

    def kept(self, folder: Path, size: int, root: bytes | None = None, by: Operator = PINNED) -> tuple[str, str]:
        file = folder / "kept"
        file.write_text(by.note(size, root or self.roots[size], by.name, "time zone Asia/Seoul"))
        return "--kept", "kept"


@pytest.fixture
def epoch(filled: Filled) -> Epoch:
    return Epoch(filled)


def read_root(filled: Filled, size: int) -> bytes:
    return verify.Checkpoint(bundle_of(filled, size=size)[0][0]["checkpoint"]).root


def test_a_later_epoch_is_followed_by_its_signed_note_from_the_key_that_was_pinned(filled: Filled, tmp_path: Path, epoch: Epoch) -> None:
    said = verified(tmp_path, epoch.bundle(filled, from_position=260), "--key", PINNED.verifier_key)
    assert said.status == 0, said.output
    assert "epoch 2 goes on from 270 events after 300 were signed in epoch 1" in said.checks["epochs"][1]
    assert "a later epoch" in said.checks["signature"][1]
    said = verified(tmp_path, epoch.bundle(filled, from_position=260), "--key", LATER.verifier_key)
    assert said.status == 0, said.output
    assert "goes on" not in said.checks["epochs"][1]


def test_a_bundle_of_a_later_epoch_is_restored_by_the_key_that_was_pinned_and_one_of_an_earlier_is_not(
    filled: Filled, new_database: NewDatabase, tmp_path: Path, epoch: Epoch
) -> None:
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(epoch.bundle(filled, sealed=True))
    with new_database() as database:
        with pytest.raises(OperatorError, match="not signed by the key"):
            restore(database.service_url, file, lambda *_: None, THIRD.verifier_key, database.owner_url)
        with pytest.raises(OperatorError, match="set LEDGER_MIGRATION_URL"):
            restore(database.service_url, file, lambda *_: None, PINNED.verifier_key)
        assert rows(database.service_url, "SELECT count(*) FROM ledgers WHERE name = 'main'") == [(0,)]
        restore(database.service_url, file, lambda *_: None, PINNED.verifier_key, database.owner_url)
        query = "SELECT epoch FROM ledgers WHERE ledger_id = %s"
        assert rows(database.service_url, query, bundle_of(filled)[0][0]["ledger_id"]) == [(2,)]
        with running(database, tmp_path / "data") as copied, copied.client(copied.admin, ledger="main") as api:
            told = api.get("/log/epochs").json()
            assert (told["epoch"], [(one["epoch"], one["checkpoint"]) for one in told["begun"]]) == (2, [(2, epoch.notes[0]["checkpoint"])])
            # A deployment of another name signs another log, whose verifiers would know nothing of those epochs.
            key = api.get("/log/keys").json()["keys"][0]["verifier_key"]
            said = verified(tmp_path, api.get("/bundle").content, "--key", key)
            assert said.status == 0, said.output


@pytest.mark.parametrize(
    ("notes", "sentence"),
    [
        (lambda epoch: [epoch.note(by=Operator(LATER.name))], "not signed by the key that was given"),
        (lambda epoch: [epoch.note(), epoch.note()], "out of their order"),
        (lambda epoch: [epoch.note(of=THIRD)], "after that of its checkpoint"),
        (lambda epoch: [{"checkpoint": OPERATOR.note(270, epoch.roots[270])}], "does not begin one"),
        (lambda epoch: [{"checkpoint": "what"}], "a note that is none"),
    ],
)
def test_notes_of_epochs_that_lead_nowhere_are_not_restored(
    filled: Filled, new_database: NewDatabase, tmp_path: Path, epoch: Epoch, notes: Any, sentence: str
) -> None:
    epoch.notes = [one | {"hashes": []} for one in notes(epoch)]
    file = tmp_path / "bundle.ndjson"
    file.write_bytes(epoch.bundle(filled, sealed=True))
    with new_database() as database:
        with pytest.raises(OperatorError, match=sentence):
            restore(database.service_url, file, lambda *_: None, PINNED.verifier_key, database.owner_url)
        assert rows(database.service_url, "SELECT count(*) FROM ledgers WHERE name = 'main'") == [(0,)]


def test_what_was_kept_before_an_epoch_and_is_still_there_is_found_continued(filled: Filled, tmp_path: Path, epoch: Epoch) -> None:
    pinned = ("--key", PINNED.verifier_key)
    for wanted in ({}, {"from_position": 260, "from_size": 100}):
        said = verified(tmp_path, epoch.bundle(filled, **wanted), *pinned, *epoch.kept(tmp_path, 100))
        assert said.status == 0, said.output
        assert "from 100 events of 'log.example/main/1' to 277" in said.checks["consistency"][1]


@pytest.mark.parametrize(
    ("size", "root", "words"),
    [
        (290, b"\x05" * 32, "the log goes on from 270 events, so 20 of those you kept a checkpoint of are given up"),
        (301, b"\x05" * 32, "it says that 300 events were signed before, and you kept a checkpoint of 301"),
        (300, b"\x05" * 32, "two roots for one size, 300"),
        (100, b"\x05" * 32, "the log was changed below the 100 events"),
    ],
)
def test_what_an_epoch_gave_up_or_denies_of_what_was_kept_is_told(
    filled: Filled, tmp_path: Path, epoch: Epoch, size: int, root: bytes, words: str
) -> None:
    said = verified(tmp_path, epoch.bundle(filled), "--key", PINNED.verifier_key, *epoch.kept(tmp_path, size, root))
    assert (said.status, said.checks["consistency"][0]) == (1, "invalid"), said.output
    assert words in said.checks["consistency"][1]


def test_an_epoch_that_nobody_shows_the_note_of_cannot_be_told(filled: Filled, tmp_path: Path, epoch: Epoch) -> None:
    for notes, of in (([], LATER), ([epoch.note(THIRD, 270, f"log.example/main/2 277 {said_by(epoch.roots[277])}")], THIRD)):
        epoch.notes = notes
        said = verified(tmp_path, epoch.bundle(filled, of), "--key", PINNED.verifier_key)
        assert (said.status, said.of("indeterminate")) == (2, {"epochs"}), said.output
        assert "no note shows how 'log.example/main/2' was begun, and you know epoch 1" in said.checks["epochs"][1]


def test_the_notes_of_several_epochs_are_followed(filled: Filled, tmp_path: Path, epoch: Epoch) -> None:
    epoch.notes.append(epoch.note(THIRD, 270, f"log.example/main/2 277 {said_by(epoch.roots[277])}"))
    said = verified(tmp_path, epoch.bundle(filled, THIRD), "--key", PINNED.verifier_key, *epoch.kept(tmp_path, 100))
    assert said.status == 0, said.output
    epoch.notes[1] = epoch.note(THIRD, 270, f"log.example/main/1 300 {said_by(epoch.lost)}")
    said = verified(tmp_path, epoch.bundle(filled, THIRD), "--key", LATER.verifier_key)
    assert (said.status, said.checks["epochs"][0]) == (1, "invalid"), said.output
    assert "and not to epoch 2, which you know" in said.checks["epochs"][1]


@pytest.mark.parametrize("proof", [["00" * 32], []])
def test_a_note_that_is_not_signed_or_whose_tree_is_not_continued_is_invalid(
    filled: Filled, tmp_path: Path, epoch: Epoch, proof: list[str]
) -> None:
    epoch.notes[0]["hashes"] = proof
    said = verified(tmp_path, epoch.bundle(filled), "--key", PINNED.verifier_key)
    assert said.of("invalid") == {"epochs"}, said.output
    assert "does not continue the one that its epoch began with" in said.checks["epochs"][1]
    epoch.notes[0] = epoch.note(by=Operator(LATER.name))
    said = verified(tmp_path, epoch.bundle(filled), "--key", PINNED.verifier_key)
    assert said.of("invalid") == {"epochs"}, said.output
    assert "not signed by a key that you pinned" in said.checks["epochs"][1]


def test_a_history_that_was_given_up_is_not_taken_for_the_one_that_is_known(filled: Filled, tmp_path: Path, epoch: Epoch) -> None:
    epoch.notes = []
    before = epoch.bundle(filled, PINNED)
    said = verified(tmp_path, before, "--key", LATER.verifier_key)
    assert said.of("invalid") == {"signature"}, said.output
    kept = epoch.kept(tmp_path, 270, by=LATER)
    said = verified(tmp_path, before, "--key", PINNED.verifier_key, *kept)
    assert said.of("invalid") == {"consistency"}, said.output
    assert "a history that was given up" in said.checks["consistency"][1]


@pytest.mark.parametrize(
    "epochs",
    [
        {},
        [7],
        [{"checkpoint": "no note"}],
        [{"checkpoint": LATER.note(1, bytes(32), LATER.name)}],
        [{"checkpoint": LATER.note(1, bytes(32), LATER.name, "follows")}],
        [{"checkpoint": LATER.note(1, bytes(32), "elsewhere/main/2", f"follows a 1 {said_by(bytes(32))}")}],
        [{"checkpoint": THIRD.note(1, bytes(32), THIRD.name, f"follows a 1 {said_by(bytes(32))}")}],
        [{"checkpoint": LATER.note(1, bytes(32), LATER.name, f"follows a 1 {said_by(bytes(32))}")}] * 2,
    ],
)
def test_epochs_that_cannot_be_read_are_refused_in_words(filled: Filled, tmp_path: Path, epoch: Epoch, epochs: Any) -> None:
    lines, _ = bundle_of(filled, size=270)
    lines[0] |= {"checkpoint": LATER.note(270, epoch.roots[270], LATER.name), "epochs": epochs}
    said = verified(tmp_path, sealed_up(lines), "--key", PINNED.verifier_key)
    assert (said.status, said.checks["format"][0]) == (1, "invalid"), said.output
    assert "unreadable: " in said.checks["format"][1]


# Attacks that a bundle can show


def headers(lines: list[Json], index: int, **members: Any) -> Json:
    """The members of a header, some of them changed in its line."""
    header: Json = json.loads(lines[index]["header"]) | members
    lines[index]["header"] = canonical(header).decode()
    return header


def rechained(lines: list[Json]) -> None:
    """Every link is made anew, as one who may write everything would."""
    last: dict[str, str] = {}
    for index in range(1, len(lines) - 1):
        contract_id = json.loads(lines[index]["header"])["contract_id"]
        headers(lines, index, prev=last.get(contract_id, "0" * 64))
        last[contract_id] = verify.leaf_hash(lines[index]["header"].encode()).hex()


def edit_body(lines: list[Json]) -> None:
    lines[3]["body"] = lines[3]["body"].replace("1000000000", "2000000000", 1).replace("supply", "SUPPLY")


def edit_header(lines: list[Json]) -> None:
    headers(lines, 2, recorded_by=str(uuid4()))


def edit_and_rechain(lines: list[Json]) -> None:
    edit_header(lines)
    rechained(lines)


def edit_body_digest_and_rechain(lines: list[Json]) -> None:
    lines[2]["body"] = lines[2]["body"].replace("batteries", "batterieX")
    headers(lines, 2, body_digest=hashlib.sha256(lines[2]["body"].encode()).hexdigest())
    rechained(lines)


def drop_one(lines: list[Json]) -> None:
    del lines[100]


def cut_the_tail(lines: list[Json]) -> None:
    del lines[-11:-1]


def swap_two(lines: list[Json]) -> None:
    lines[100], lines[101] = lines[101], lines[100]


def repeat_one(lines: list[Json]) -> None:
    lines.insert(100, copy.deepcopy(lines[100]))


def insert_one(lines: list[Json]) -> None:
    lines.insert(100, copy.deepcopy(lines[99]))
    headers(lines, 100, event_id=str(uuid4()))
    for index in range(100, len(lines) - 1):
        header = json.loads(lines[index]["header"])
        headers(lines, index, position=index, revision=header["revision"] + (header["contract_id"] in lines[99]["header"]))
    rechained(lines)


def earlier_instant(lines: list[Json]) -> None:
    headers(lines, 100, recorded_at="2001-01-01T00:00:00.000000Z")


def other_ledger(lines: list[Json]) -> None:
    headers(lines, 100, ledger_id=str(uuid4()))


def erased(lines: list[Json]) -> Json:
    return next(line for line in lines[1:-1] if line["body"] is None)


def drop_the_erasure(lines: list[Json]) -> None:
    del erased(lines)["erased"]


def withhold_a_body(lines: list[Json]) -> None:
    lines[1] |= {"body": None, "erased": erased(lines)["erased"]}


def other_erasure(lines: list[Json]) -> None:
    """An erasure that names the event, and that nobody recorded."""
    gap, later = erased(lines), erased(lines)["erased"]
    body = json.dumps({"data": {"target": json.loads(gap["header"])["event_id"]}, "salt": "", "source": {}})
    header = json.loads(later["header"]) | {"body_digest": hashlib.sha256(body.encode()).hexdigest(), "recorded_by": str(uuid4())}
    later |= {"header": canonical(header).decode(), "body": body}


def misplace_the_erasure(lines: list[Json]) -> None:
    erased(lines)["erased"]["position"] -= 1


def show_sealed_values_without_a_body(lines: list[Json]) -> None:
    erased(lines)["sealed"] = next(line for line in lines[1:-1] if "sealed" in line)["sealed"]


def edit_sealed(lines: list[Json]) -> None:
    line = next(line for line in lines[1:-1] if "sealed" in line)
    line["sealed"] = line["sealed"].replace("918273645", "918273646")


def hide_a_sealed_part(lines: list[Json]) -> None:
    line = next(line for line in lines[1:-1] if "sealed" in line)
    line["sealed"] = json.dumps(json.loads(line["sealed"])[1:])


def edit_the_sealed_map(lines: list[Json]) -> None:
    """A body whose map seals something else, with its own digest, under the old digest of the map."""
    index = next(index for index, line in enumerate(lines) if "sealed" in line and index)
    body = json.loads(lines[index]["body"])
    body["sealed"] = dict.fromkeys(body["sealed"], "0" * 64)
    lines[index]["body"] = canonical(body).decode()
    headers(lines, index, body_digest=hashlib.sha256(lines[index]["body"].encode()).hexdigest())


def deny_the_seal(lines: list[Json]) -> None:
    index = next(index for index, line in enumerate(lines) if "sealed" in line and index)
    header = json.loads(lines[index]["header"])
    del header["sealed_digest"]
    lines[index]["header"] = canonical(header).decode()


ATTACKS: dict[Change, tuple[set[str], str]] = {
    edit_body: ({"bodies"}, "line 4 (position 3)"),
    edit_header: ({"tree", "chain"}, "position 5"),
    edit_and_rechain: ({"tree"}, "do not make the root that was signed"),
    edit_body_digest_and_rechain: ({"tree"}, "do not make the root that was signed"),
    drop_one: ({"order", "tree"}, "position 101 stands where 100 was due"),
    cut_the_tail: ({"order", "tree"}, "goes to position 267"),
    swap_two: ({"order", "tree"}, "position 101 stands where 100 was due"),
    repeat_one: ({"order", "tree"}, "position 100 stands where 101 was due"),
    insert_one: ({"order", "tree"}, "goes to position 278"),
    earlier_instant: ({"order", "tree", "chain"}, "recorded before the event in front of it"),
    other_ledger: ({"ledger", "tree", "chain"}, "of another ledger"),
    drop_the_erasure: ({"erasures"}, "no erasure explains it"),
    withhold_a_body: ({"erasures"}, "position 1"),
    other_erasure: ({"erasures"}, "not in the tree"),
    misplace_the_erasure: ({"erasures"}, "no later event of its contract that erases it"),
    show_sealed_values_without_a_body: ({"sealed"}, "its body is missing"),
    edit_sealed: ({"sealed"}, "sealed value or salt"),
    second_sealed: ({"sealed"}, "two values are shown of one sealed member"),
    hide_a_sealed_part: ({"sealed"}, "sealed value or salt"),
    edit_the_sealed_map: ({"sealed", "tree"}, "map of what is sealed"),
    deny_the_seal: ({"sealed", "tree"}, "do not agree on whether"),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_on_a_ledgers_bundle_is_found_and_named(filled: Filled, tmp_path: Path, attack: Change) -> None:
    lines, _ = bundle_of(filled, sealed=True)
    attack(lines)
    found, words = ATTACKS[attack]
    said = verified(tmp_path, sealed_up(lines), *KEY)
    assert said.status == 1, said.output
    assert found <= said.of("invalid") <= found | {"chain", "order"}, said.output
    assert words in said.output


def test_a_checkpoint_of_another_log_is_none_of_the_pinned_one_though_the_same_key_signed_it(filled: Filled, tmp_path: Path) -> None:
    """A deployment's ledgers have one key, and its signature is over the text alone: the name beside it is anybody's to write."""
    lines, _ = bundle_of(filled)
    pinned = Operator("log.example/other/1")
    tree = verify.Tree()
    for line in lines[1:-1]:
        tree.add(verify.leaf_hash(line["header"].encode()))
    lines[0]["checkpoint"] = pinned.note(tree.size, tree.root(), "log.example/main/1")
    said = verified(tmp_path, sealed_up(lines), "--key", pinned.verifier_key)
    assert (said.status, said.of("invalid")) == (1, {"signature"}), said.output
    file = tmp_path / "relabelled.ndjson"
    file.write_bytes(sealed_up(lines))
    with pytest.raises(OperatorError, match="key"):
        restore(filled.url, file, lambda *_: None, pinned.verifier_key)


def forge_the_root(lines: list[Json]) -> None:
    """Everything after an edit is recomputed, and signed by somebody else."""
    edit_and_rechain(lines)
    tree = verify.Tree()
    for line in lines[1:-1]:
        tree.add(verify.leaf_hash(line["header"].encode()))
    lines[0]["checkpoint"] = Operator().note(tree.size, tree.root())


def test_everything_recomputed_is_found_by_the_signature_and_with_the_key_stolen_by_what_was_kept(filled: Filled, tmp_path: Path) -> None:
    lines, _ = bundle_of(filled)
    forge_the_root(lines)
    del next(line for line in lines[1:-1] if line["body"] is None)["erased"]["proof"][0]
    said = verified(tmp_path, sealed_up(lines), *KEY)
    assert (said.status, "signature" in said.of("invalid")) == (1, True), said.output
    head = verify.Checkpoint(lines[0]["checkpoint"])
    lines[0]["checkpoint"] = OPERATOR.note(head.size, head.root)
    said = verified(tmp_path, sealed_up(lines), *KEY, *kept_file(tmp_path, filled, 100))
    assert {"consistency"} <= said.of("invalid") <= {"consistency", "erasures"}, said.output


def test_a_contracts_bundle_takes_no_event_of_another_and_no_wrong_proof(filled: Filled, tmp_path: Path) -> None:
    lines, _ = bundle_of(filled, contract_id=filled.contract_id)
    others, _ = bundle_of(filled, contract_id=filled.other_id)
    mixed = [*lines[:-2], others[5], *lines[-2:]]
    said = verified(tmp_path, sealed_up(mixed), *KEY)
    assert "of another contract" in said.checks["ledger"][1], said.output
    lines[2]["proof"][3] = "0" * 64
    said = verified(tmp_path, sealed_up(lines), *KEY)
    assert (said.status, said.of("invalid")) == (1, {"tree"}), said.output
    assert "line 3 (position 2)" in said.checks["tree"][1]
    del lines[1]
    assert {"order", "chain"} & verified(tmp_path, sealed_up(lines), *KEY).of("invalid")
    assert "order" in verified(tmp_path, sealed_up([lines[0], lines[-1]]), *KEY).of("invalid")


def test_a_range_with_another_frontier_makes_another_root(filled: Filled, tmp_path: Path) -> None:
    for side in ("before", "after"):
        lines, _ = bundle_of(filled, from_position=5, to_position=100)
        lines[0][side][0] = "0" * 64
        assert verified(tmp_path, sealed_up(lines), *KEY).of("invalid") == {"tree"}
        lines[0][side].append("0" * 64)
        assert "format" in verified(tmp_path, sealed_up(lines), *KEY).of("invalid")
        del lines[0][side][-2:]
        assert "format" in verified(tmp_path, sealed_up(lines), *KEY).of("invalid")


# Hostile files


def first_line(lines: list[Json], **members: Any) -> bytes:
    return sealed_up([lines[0] | members, *lines[1:]])


HOSTILE: dict[str, tuple[Any, str]] = {
    "empty": (lambda lines, whole: b"", "ends after line 0"),
    "half a file": (lambda lines, whole: whole[: len(whole) // 2], "is cut off"),
    "half a file at a line's end": (lambda lines, whole: b"".join(whole.splitlines(keepends=True)[:50]), "without its closing line"),
    "something after the end": (lambda lines, whole: whole + b"{}\n", "stands after the closing line"),
    "two bundles": (lambda lines, whole: whole + whole, "stands after the closing line"),
    "a changed byte": (lambda lines, whole: whole.replace(b'"made_by":"0', b'"made_by":"1', 1), "digest is not that"),
    "not UTF-8": (lambda lines, whole: whole.replace(b"note 1.5", b"note \xff.5", 1), "is not the JSON it should be"),
    "NaN": (lambda lines, whole: whole.replace(b'"from_size"', b'"x"').replace(b'"sealed":true', b'"sealed":NaN', 1), "no whole number"),
    "a float": (lambda lines, whole: first_line(lines, sealed=1.5), "1.5 is no whole number"),
    "a huge number": (lambda lines, whole: first_line(lines, sealed=10**400), "beyond 2^53"),
    "a member twice": (lambda lines, whole: whole.replace(b'{"format"', b'{"kind":"range","format"', 1), "stands there twice"),
    "deep JSON": (lambda lines, whole: b"[" * 200_000 + b"\n", "nested too deeply"),
    "deep JSON in a body": (lambda lines, whole: deep_body(lines), "the body in line 2 (position 1) is nested too deeply"),
    "no object": (lambda lines, whole: b"[]\n" + whole, "not a JSON object"),
    "an empty line": (lambda lines, whole: whole.replace(b"\n", b"\n\n", 1), "line 2 is not the JSON"),
    "another format": (lambda lines, whole: first_line(lines, format="contract-ledger/bundle/v2"), "not a bundle of the format"),
    "an unknown member": (lambda lines, whole: first_line(lines, more=1), "does not know: 'more'"),
    "no checkpoint": (lambda lines, whole: first_line(lines, checkpoint="x"), "not a signed note"),
    "half a pair": (lambda lines, whole: whole.replace(b'"ledger":"main"', b'"ledger":"\\ud800"', 1), ""),
    "half a pair in a body": (lambda lines, whole: half_a_pair(lines), "has no proper `body`"),
    "a range that is none": (lambda lines, whole: first_line(lines, kind="range", from_position=5, to_position=4), "is none within"),
    "a header that is not canonical": (lambda lines, whole: spaced_header(lines), "not a canonical header"),
    "a header of another schema": (lambda lines, whole: changed_header(lines, schema="v0"), "not a canonical header"),
    "a position that is text": (lambda lines, whole: changed_header(lines, position="1"), "no proper `position`"),
    "a position that is true": (lambda lines, whole: changed_header(lines, position=True), "no proper `position`"),
    "a header with one member more": (lambda lines, whole: changed_header(lines, x=1), "does not know: 'x'"),
    "a batch that ends in another way": (lambda lines, whole: whole.replace(b'"ends_batch":true', b'"ends_batch":"no"', 1), "`ends_batch`"),
    "a size that is no number": (lambda lines, whole: first_line(lines, checkpoint=OPERATOR.note(-1, bytes(32))), "size is no number"),
}


def deep_body(lines: list[Json]) -> bytes:
    lines[1]["body"] = '{"a":' + "[" * 100_000
    headers(lines, 1, body_digest=hashlib.sha256(lines[1]["body"].encode()).hexdigest())
    return sealed_up(lines)


def half_a_pair(lines: list[Json]) -> bytes:
    return sealed_up(lines).replace(b'"body": "{', b'"body": "\\udfff{', 1)


def changed_header(lines: list[Json], **members: Any) -> bytes:
    headers(lines, 1, **members)
    return sealed_up(lines)


def spaced_header(lines: list[Json]) -> bytes:
    lines[1]["header"] = lines[1]["header"].replace(",", ", ", 1)
    return sealed_up(lines)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_words(filled: Filled, tmp_path: Path, name: str) -> None:
    make, words = HOSTILE[name]
    bundle = make(*bundle_of(filled, sealed=True))
    said = verified(tmp_path, bundle, *KEY)
    assert said.status in {1, 2}, said.output
    assert said.checks["format"][0] == "invalid", said.output
    assert words in said.output


def test_an_enormous_line_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch, filled: Filled) -> None:
    monkeypatch.setattr(verify, "MAX_LINE_BYTES", 10_000)
    stream = io.BytesIO(bundle_of(filled)[1][:20_000].replace(b"\n", b" "))
    verdict, _ = verify.verify(stream, [])
    assert verdict.of("format") == ("invalid", "unreadable: line 1 has more than 10000 bytes")
    assert stream.tell() == 10_001


@pytest.mark.parametrize("after", ["", "opening", "end"])
def test_ten_gigabytes_are_refused_in_words_in_bounded_memory_and_time(filled: Filled, tmp_path: Path, after: str) -> None:
    bundle = bundle_of(filled)[1]
    file = tmp_path / "bundle.ndjson"
    file.write_bytes({"": b"", "opening": bundle[: bundle.index(b"\n") + 1], "end": bundle}[after])
    os.truncate(file, 10 << 30)  # holes: nothing is on disk
    began = time.monotonic()
    for command in ([sys.executable, "-I", "-S", str(VERIFIER)], [sys.executable, "-m", "service", "fold"]):
        # By the shell: what is done between fork and exec in a process with threads may hang.
        limited = ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "bash", *command, str(file)]
        ended = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        told = ended.stdout + ended.stderr
        assert ended.returncode != 0, told
        assert "Traceback" not in told, told[-2_000:]
        assert "more than 67108864 bytes" in told or "bundle.ndjson, line" in told, told[-2_000:]
    assert time.monotonic() - began < 30


def test_what_a_bundle_cannot_hold_is_refused(filled: Filled) -> None:
    for wanted, error in (
        ({"contract_id": str(uuid4())}, ContractNotFound),
        ({"contract_id": filled.contract_id, "from_position": 1}, Refused),
        ({"to_position": 278}, Refused),
        ({"from_position": 278}, Refused),
        ({"from_position": 9, "to_position": 8}, Refused),
        ({"from_size": 278}, Refused),
    ):
        with pytest.raises(error):
            bundle_of(filled, **wanted)
