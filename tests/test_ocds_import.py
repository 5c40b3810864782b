"""The command that imports Open Contracting releases, against a service: every file of the standard's examples, and files that are none."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.errors import OperatorError
from tests.api.running import RunningService, running
from tests.conftest import Database
from tests.servers import make_ledger

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT.parent / "shared" / "data")) / "ocds"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no OCDS examples at {DATA}")
Run = Callable[..., Result]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def service(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running(database, tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture
def ledger(service: RunningService) -> str:
    return make_ledger(service.database.service_url)


@pytest.fixture
def api(service: RunningService, ledger: str) -> Iterator[httpx.Client]:
    with service.client(service.admin, ledger=ledger) as client:
        yield client


@pytest.fixture
def run(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LEDGER_URL", service.url)
    monkeypatch.setenv("LEDGER_API_KEY", service.admin)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, OperatorError):
            raise result.exception
        return result

    return invoke


NO_CONTRACT = "it tells of no contract"
CYCLE_LANES = "ocds-213czf-000-00001/ocds-213czf-000-00001-contract-01"
REPORTED_IN_JUNE = [("contract.reported", "2010-06-10", "05-contract"), ("contract.signed", "2015-06-10", "05-contract")]
REPORTED_IN_MAY = [("contract.reported", "2010-05-10", "05-contract"), ("contract.signed", "2010-06-10", "05-contract")]
PAID = ("note.added", "2011-01-10", "06-implementation")
BEFORE_2010 = [f"/records/0/releases/{n}" for n in range(3)]
EXPECTED: dict[str, tuple[list[tuple[str, str, str]], list[tuple[str, str]]]] = {
    "change_history/tender.json": ([], [("/releases/0", NO_CONTRACT)]),
    "change_history/tenderUpdate.json": ([], [("/releases/0", NO_CONTRACT)]),
    "change_history/award.json": ([], [("/releases/0", NO_CONTRACT)]),
    "change_history/contract.json": (REPORTED_IN_JUNE, []),
    "change_history/implementation.json": ([], [("/releases/0/contracts/0", "title: it has none")]),
    "change_history/contractAmendment.json": (
        [
            ("contract.reported", "2011-04-05", "07-contractAmendment"),
            ("contract.signed", "2015-06-10", "07-contractAmendment"),
            ("note.added", "2011-04-05", "07-contractAmendment"),
        ],
        [],
    ),
    "change_history/records/tender.json": ([], [(BEFORE_2010[0], NO_CONTRACT)]),
    "change_history/records/tenderUpdate.json": ([], [(place, NO_CONTRACT) for place in BEFORE_2010[:2]]),
    "change_history/records/award.json": ([], [(place, NO_CONTRACT) for place in BEFORE_2010]),
    "change_history/records/contract.json": (REPORTED_IN_JUNE, [(place, NO_CONTRACT) for place in BEFORE_2010]),
    "change_history/records/implementation.json": ([*REPORTED_IN_JUNE, PAID], [(place, NO_CONTRACT) for place in BEFORE_2010]),
    "change_history/records/contractAmendment.json": (
        [
            *REPORTED_IN_JUNE,
            PAID,
            ("terms.amended", "2011-04-05", "07-contractAmendment"),
            ("value.revised", "2011-04-05", "07-contractAmendment"),
        ],
        [(place, NO_CONTRACT) for place in BEFORE_2010],
    ),
    "fictional-example/1.1/ocds-213czf-000-00001-01-planning.json": ([], [("/releases/0", NO_CONTRACT)]),
    "fictional-example/1.1/ocds-213czf-000-00001-02-tender.json": ([], [("/releases/0", NO_CONTRACT)]),
    "fictional-example/1.1/ocds-213czf-000-00001-03-tenderAmendment.json": ([], [("/releases/0", NO_CONTRACT)]),
    "fictional-example/1.1/ocds-213czf-000-00001-04-award.json": ([], [("/releases/0", NO_CONTRACT)]),
    "fictional-example/1.1/ocds-213czf-000-00001-05-contract.json": (REPORTED_IN_MAY, []),
    "fictional-example/1.1/ocds-213czf-000-00001-06-implementation.json": (
        [("contract.signed", "2010-06-10", "06-implementation")],
        [],
    ),
    "fictional-example/1.1/ocds-213czf-000-00001.json": (
        [*REPORTED_IN_MAY, PAID],
        [(f"/releases/{n}", NO_CONTRACT) for n in range(4)],
    ),
    "fictional-example/1.1/record/ocds-213czf-000-00001.json": ([("contract.signed", "2010-06-10", "2011-01-10T09:30:00Z")], []),
    "fictional-example/1.1/record/ocds-213czf-000-00001-withversions.json": (
        [("contract.signed", "2010-06-10", "2011-01-10T09:30:00Z")],
        [],
    ),
}
"""For each file the events that it makes, by type, day and the end of the release's id, and what is refused, by place and why."""


def events_of(api: httpx.Client) -> list[Json]:
    """The events of the one contract of the ledger; none if there is no contract."""
    contracts = api.get("/contracts").json()["items"]
    assert len(contracts) <= 1
    found: list[Json] = api.get(f"/contracts/{contracts[0]['contract_id']}/events").json()["items"] if contracts else []
    return found


def state_of(api: httpx.Client, **times: str) -> Json:
    (contract,) = api.get("/contracts", params={"reference": f"ocds-contract:{CYCLE_LANES}"}).json()["items"]
    state: Json = api.get(f"/contracts/{contract['contract_id']}", params=times).json()["state"]
    return state


@needs_data
def test_every_file_of_the_examples_is_told_of_here() -> None:
    files = {str(file.relative_to(DATA)) for file in DATA.rglob("*.json")} - {"release-schema-1.1.4.json"}
    assert files == set(EXPECTED)


@needs_data
@pytest.mark.parametrize("file", EXPECTED)
def test_a_file_is_imported_with_its_days_or_refused_with_a_reason(run: Run, api: httpx.Client, ledger: str, file: str) -> None:
    made, refused = EXPECTED[file]
    ran = run("ocds", "import", str(DATA / file), "--ledger", ledger)
    *lines, last = ran.stdout.splitlines()
    assert ran.exit_code == (1 if refused else 0), ran.stdout
    assert [line.startswith(place) and why in line for line, (place, why) in zip(lines, refused, strict=True)] == [True] * len(refused)
    assert last.startswith(f"{len({release for _, _, release in made})} releases recorded in {1 if made else 0} contract")
    events = events_of(api)
    assert [(event["event_type"], event["effective_on"]) for event in events] == [(event_type, day) for event_type, day, _ in made]
    for event, (_, _, release) in zip(events, made, strict=True):
        assert event["source"]["external_id"].endswith(release)
        assert event["source"]["published_on"] in {"2010-05-10", "2010-06-10", "2011-01-10", "2011-04-05"}
    again = run("ocds", "import", str(DATA / file), "--ledger", ledger)
    assert again.stdout.splitlines()[:-1] == lines
    assert again.exit_code == ran.exit_code
    assert [event["event_id"] for event in events_of(api)] == [event["event_id"] for event in events]


@needs_data
def test_the_amendment_changes_end_and_value_from_its_day_and_the_signing_keeps_the_day_it_was_given(
    run: Run, api: httpx.Client, ledger: str
) -> None:
    run("ocds", "import", str(DATA / "change_history/records/contractAmendment.json"), "--ledger", ledger)
    before, after, now = (state_of(api, effective_on=day) for day in ("2011-04-04", "2011-04-05", "2026-01-01"))
    assert [state["period"]["end_on"] for state in (before, after)] == ["2011-08-01", "2011-10-30"]
    assert [state["value"]["best"]["amount"] for state in (before, after)] == ["11000000", "13500000"]
    assert after["amendments"][0]["rationale"].startswith("Due to unforeseen complications")
    assert "signing" not in after
    assert now["signing"]["signed_on"] == "2015-06-10"
    assert {party["party_id"]: party["roles"] for party in now["parties"]}["GB-COH-00395826"] == ["supplier"]
    assert now["items"][0] == now["items"][0] | {"item_id": "0001", "quantity": "8", "unit": "x-miles"}
    # What the world knew before the amendment was published.
    assert state_of(api, published_by="2011-04-04")["period"]["end_on"] == "2011-08-01"


@needs_data
def test_releases_in_files_of_their_own_carry_on_the_contract_that_the_first_one_opened(run: Run, api: httpx.Client, ledger: str) -> None:
    for name in ("contract", "implementation", "contractAmendment"):
        assert run("ocds", "import", str(DATA / f"change_history/{name}.json"), "--ledger", ledger).exit_code == 0
    one_by_one = [(event["event_type"], event["effective_on"]) for event in events_of(api)]
    assert one_by_one == [(event_type, day) for event_type, day, _ in EXPECTED["change_history/records/contractAmendment.json"][0]]
    ran = run("ocds", "import", str(DATA / "change_history/records/contractAmendment.json"), "--ledger", ledger)
    assert "0 releases recorded in 1 contract of" in ran.stdout
    assert "3 recorded before" in ran.stdout
    assert len(events_of(api)) == len(one_by_one)


@needs_data
def test_a_release_of_an_earlier_day_than_what_is_recorded_is_refused(run: Run, api: httpx.Client, ledger: str) -> None:
    run("ocds", "import", str(DATA / "change_history/contractAmendment.json"), "--ledger", ledger)
    ran = run("ocds", "import", str(DATA / "change_history/records/implementation.json"), "--ledger", ledger)
    assert ran.exit_code == 1
    assert ran.stdout.count("the ledger knows a release of 2011-04-05 already") == 2
    assert len(events_of(api)) == 3


PARTIES = [{"id": "b", "name": "Buyer", "roles": ["buyer"]}, {"id": "s", "name": "Supplier", "roles": ["supplier"]}]


def release(release_id: str, day: str, contract: Json, ocid: str = "o-1") -> Json:
    told = {"id": "c", "title": "Cells", **contract}
    return {"ocid": ocid, "id": release_id, "date": f"{day}T00:00:00Z", "tag": ["contract"], "parties": PARTIES, "contracts": [told]}


def test_a_file_may_have_a_document_a_line_and_lines_that_are_none_are_named(
    run: Run, api: httpx.Client, ledger: str, tmp_path: Path
) -> None:
    lines = [json.dumps(release(f"r{n}", "2024-02-01", {}, ocid=f"o-{n}")) for n in range(3)]
    file = tmp_path / "releases.ndjson"
    file.write_text("\n".join([lines[0], "{", "", lines[1], '{"amount": NaN}', lines[2]]))
    ran = run("ocds", "import", str(file), "--ledger", ledger)
    assert ran.exit_code == 1
    assert [line.partition(":")[0] for line in ran.stdout.splitlines()[:-1]] == ["line 2", "line 5"]
    assert len(api.get("/contracts").json()["items"]) == 3


@pytest.mark.parametrize("text", ["", "null", "{", "[]x", "[" * 50_000, '"text"', '{"a":\n NaN}'])
def test_a_file_that_is_no_open_contracting_data_is_refused_in_a_sentence(run: Run, ledger: str, tmp_path: Path, text: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    ran = run("ocds", "import", str(file), "--ledger", ledger)
    assert ran.exit_code == 1
    assert ran.stdout.startswith("the file: ")


def test_a_file_that_is_not_there_is_said_so(run: Run, ledger: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        run("ocds", "import", str(tmp_path / "none.json"), "--ledger", ledger)


def test_an_opening_whose_rest_was_not_recorded_is_completed_by_the_next_import(
    run: Run, api: httpx.Client, ledger: str, tmp_path: Path
) -> None:
    milestones = [{"id": "m", "title": "Line ready", "dueDate": "2024-09-30T00:00:00Z"}]
    told = release("r1", "2024-02-01", {"dateSigned": "2024-01-26T00:00:00Z", "milestones": milestones})
    file = tmp_path / "release.json"
    file.write_text(json.dumps(told))
    run("ocds", "import", str(file), "--ledger", ledger)
    opening, milestone = events_of(api)
    assert (milestone["event_type"], milestone["data"]["due_on"]) == ("milestone.scheduled", "2024-09-30")
    # As after a client that was killed between its two requests: another ledger with the opening alone.
    half = make_ledger_with(api, opening)
    assert run("ocds", "import", str(file), "--ledger", half).exit_code == 0
    contracts = api.get(f"{api.base_url.join('/')}v1/ledgers/{half}/contracts").json()["items"]
    assert [known["revision"] for known in contracts] == [2]


def make_ledger_with(api: httpx.Client, opening: Json) -> str:
    """The name of another ledger, with a contract that the opening made."""
    root = str(api.base_url).split("/v1/")[0]
    name = "half-" + opening["event_id"][-12:]
    assert api.put(f"{root}/v1/ledgers/{name}", json={"time_zone": "UTC"}).status_code == 201
    body = {member: opening[member] for member in ("effective_on", "source", "data")}
    assert api.post(f"{root}/v1/ledgers/{name}/contracts", json=body, headers={"Idempotency-Key": "another"}).status_code == 201
    return name


MAPPED = ("title", "status", "period", "value", "items", "dateSigned", "amendments", "implementation")


def test_what_was_exported_is_imported_and_exported_again_the_same_in_what_is_mapped(
    run: Run, service: RunningService, api: httpx.Client, ledger: str, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date().isoformat()
    first = {
        "period": {"startDate": "2024-02-01T00:00:00Z", "endDate": "2025-12-31T23:59:59Z", "maxExtentDate": "2027-12-31T23:59:59Z"},
        "value": {"amount": 1000.5, "currency": "USD"},
        "items": [{"id": "i", "description": "cells", "quantity": 8, "unit": {"scheme": "UNCEFACT", "id": "EA"}}],
        "dateSigned": "2024-01-26T09:00:00Z",
        "milestones": [{"id": "m", "title": "Line ready", "dueDate": "2024-09-30T00:00:00Z"}],
    }
    amended = {
        **first,
        "title": "Packs",
        "value": {"amount": 2000, "currency": "USD"},
        "amendments": [{"id": "a1", "date": f"{today}T00:00:00Z", "rationale": "more"}],
        "milestones": [{"id": "m", "status": "met", "dateMet": "2024-09-28T00:00:00Z"}],
    }
    file = tmp_path / "file.json"
    file.write_text(json.dumps([release("r1", "2024-02-01", first), release("r2", today, amended)]))
    assert run("ocds", "import", str(file), "--ledger", ledger).exit_code == 0
    exported = run("ocds", "export", "--ledger", ledger).stdout
    file.write_text(exported)
    copy = make_ledger(service.database.service_url)
    ran = run("ocds", "import", str(file), "--ledger", copy)
    assert ran.exit_code == 0, ran.stdout
    one, other = (compiled(text) for text in (exported, run("ocds", "export", "--ledger", copy).stdout))
    assert one["parties"] == other["parties"]
    assert one["buyer"] == other["buyer"]
    there, again = one["contracts"][0], other["contracts"][0]
    assert {name: there[name] for name in MAPPED} == {name: again[name] for name in MAPPED}
    assert there["implementation"]["milestones"][0]["dateMet"] == "2024-09-28T00:00:00Z"


def compiled(text: str) -> Json:
    (record,) = json.loads(text)["records"]
    found: Json = record["compiledRelease"]
    return found


def test_all_contracts_of_a_ledger_are_exported_a_package_a_line(run: Run, ledger: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(json.dumps([release("r", "2024-02-01", {"id": f"c-{n}"}, ocid=f"o-{n}") for n in range(3)]))
    run("ocds", "import", str(file), "--ledger", ledger)
    lines = run("ocds", "export", "--ledger", ledger, "--releases").stdout.splitlines()
    assert len({json.loads(line)["releases"][0]["ocid"] for line in lines}) == 3
    out = tmp_path / "out.ndjson"
    assert run("export", "--ocds", "--ledger", ledger, "-o", str(out)).exit_code == 0
    assert out.read_text() == run("export", "--ocds", "--ledger", ledger).stdout == run("ocds", "export", "--ledger", ledger).stdout
    assert [len(json.loads(line)["records"]) for line in out.read_text().splitlines()] == [1, 1, 1]
