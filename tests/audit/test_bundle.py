"""Bundles: what the service writes, verify.py finds valid; and every attack that a bundle can show is found, named and located."""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.audit import verify
from service.audit.bundle import Wanted
from service.errors import ContractNotFound, Refused
from tests.api.bodies import event, figure, note, open_and_sign, record, with_key
from tests.api.running import RunningService, running
from tests.audit.bundles import Change, Json, Operator, made, sealed_up, verified
from tests.conftest import NewDatabase

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
