"""The whole way, as an auditor goes it: a bundle of the running service, its key, and verify.py; who may, and the commands."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from service.audit import verify
from tests.api.bodies import event, figure, note, open_and_sign, record
from tests.api.running import RunningService, running
from tests.audit.bundles import verified
from tests.conftest import NewDatabase


@pytest.fixture(scope="module")
def service(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with new_database() as database, running(database, tmp_path_factory.mktemp("data")) as running_service:
        running_service.make_ledger("main", "Asia/Seoul")
        yield running_service


@pytest.fixture(scope="module")
def api(service: RunningService) -> Iterator[httpx.Client]:
    with service.client(service.admin, ledger="main") as client:
        yield client


@pytest.fixture(scope="module")
def contract_id(api: httpx.Client) -> str:
    contract_id = open_and_sign(api)
    openly = {name: member for name, member in figure("krw-2").items() if name != "amount"}
    sealed = [{"path": "/figure/amount", "value": "918273645"}]
    assert record(api, contract_id, "figure.stated", event({"figure": openly}, sealed=sealed)).status_code == 201
    return contract_id


def key_of(api: httpx.Client) -> str:
    key: str = api.get("/log/keys").json()["keys"][0]["verifier_key"]
    return key


def fetched(api: httpx.Client, **wanted: str) -> bytes:
    answer = api.get("/bundle", params=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return answer.content


def test_bundles_of_the_service_are_valid_and_continue_what_an_auditor_kept(api: httpx.Client, contract_id: str, tmp_path: Path) -> None:
    note_kept = api.get("/log/checkpoint").text
    (tmp_path / "kept").write_text(note_kept)
    size = note_kept.splitlines()[1]
    assert record(api, contract_id, "note.added", note()).status_code == 201
    # The next checkpoint is signed a second later at the earliest: until then the newest is the one that was kept.
    for wanted in ({}, {"contract_id": contract_id}, {"from_position": size}, {"sealed": "true"}):
        said = verified(tmp_path, fetched(api, from_size=size, **wanted), "--key", key_of(api), "--kept", "kept", "--ledger", "main")
        assert (said.status, said.of("valid")) == (0, set(verify.CHECKS)), said.output
    other = api.get("/log/keys").json()["keys"][0]["verifier_key"].rpartition("+")[0] + "+"
    said = verified(tmp_path, fetched(api), "--key", other)
    assert said.status == 2, said.output


def test_what_is_sealed_is_in_a_bundle_only_for_those_who_may_see_it_and_ask(
    service: RunningService, api: httpx.Client, contract_id: str
) -> None:
    assert b"918273645" not in fetched(api)
    assert b"918273645" in fetched(api, sealed="true")
    with service.client(service.make_key(["audit:read"]), ledger="main") as auditor:
        assert b"918273645" not in fetched(auditor)
        assert auditor.get("/bundle", params={"sealed": "true"}).status_code == 403
    with service.client(service.make_key(["contracts:read"]), ledger="main") as reader:
        assert reader.get("/bundle").status_code == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"from_position": "0"}, 422),
        ({"from_position": "9000"}, 422),
        ({"to_position": "9000"}, 422),
        ({"from_size": "9007199254740991"}, 422),
        ({"from_position": "2", "to_position": "1"}, 422),
        ({"contract_id": "00000000-0000-7000-8000-0000000000ff"}, 404),
        ({"contract_id": "x"}, 422),
        ({"contract_id": "00000000-0000-7000-8000-0000000000ff", "to_position": "1"}, 422),
        ({"sealed": "yes"}, 422),
        ({"more": "1"}, 422),
    ],
)
def test_a_bundle_that_there_cannot_be_is_refused(api: httpx.Client, contract_id: str, query: dict[str, str], status: int) -> None:
    assert api.get("/bundle", params=query).status_code == status


def test_the_commands_fetch_verify_fold_and_restore(
    service: RunningService, api: httpx.Client, contract_id: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    def command(*arguments: str, **environment: str) -> str:
        environment |= {"LEDGER_API_KEY": service.admin, "LEDGER_URL": service.url, "HOME": str(tmp_path)}
        ended = subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=Path(verify.__file__).parents[2],
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    file, kept = tmp_path / "main.ndjson", tmp_path / "kept"
    kept.write_text(api.get("/log/checkpoint").text)
    command("bundle", "--sealed", "--kept", str(kept), "--output", str(file))
    assert command("bundle", "--contract", contract_id).count("\n") == command("bundle", "--from-position", "1").count("\n")
    assert command("verifier") == Path(verify.__file__).read_text()
    said = verified(tmp_path, file.read_bytes(), "--key", key_of(api), "--kept", "kept")
    assert said.status == 0, said.output
    told, state = command("fold", str(file), "--effective-on", "2024-06-30", "--state").splitlines()
    answer = api.get(f"/contracts/{contract_id}", params={"effective_on": "2024-06-30"}).json()
    assert told.split()[:4] == [contract_id, str(answer["revision"]), "2024-06-30", answer["state_hash"]]
    assert json.loads(state)["value"] == answer["state"]["value"]
    with new_database() as database:
        done = command("restore", str(file), "--key", key_of(api), LEDGER_DATABASE_URL=database.service_url)
        assert f"{answer['revision']} events, 1 contracts" in done
        with psycopg.connect(database.service_url) as connection:
            assert connection.execute("SELECT name, time_zone, epoch FROM ledgers WHERE name = 'main'").fetchall() == [
                ("main", "Asia/Seoul", 1)
            ]


def test_the_page_for_auditors_works_as_it_is_pasted(
    service: RunningService, api: httpx.Client, contract_id: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    page = (Path(verify.__file__).parents[2] / "docs" / "auditors.md").read_text()
    blocks = re.findall("```console\n(.*?)```", page, re.DOTALL)
    with new_database() as database:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "LEDGER_API_KEY": service.admin,
            "LEDGER_URL": service.url,
            "LEDGER_DATABASE_URL": database.service_url,
            "LEDGER_MIGRATION_URL": database.owner_url,
            "VERIFIER_KEY": key_of(api),
        }
        script = "set -euo pipefail\n" + "".join(blocks)
        ended = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=tmp_path
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("\nvalid\n") == 2
    assert len(blocks) == 7
