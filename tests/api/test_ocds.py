"""A contract as Open Contracting data, over HTTP."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.api.bodies import play_the_case
from tests.api.running import RunningService


@pytest.fixture(scope="module")
def case(api: httpx.Client) -> str:
    return play_the_case(api)


def test_the_record_holds_the_releases_and_their_compiled_release_with_every_figure(api: httpx.Client, case: str) -> None:
    answer = api.get(f"/contracts/{case}/ocds")
    assert answer.status_code == 200, answer.text
    (record,) = answer.json()["records"]
    events = api.get(f"/contracts/{case}/events").json()["items"]
    assert [release["id"] for release in record["releases"]] == [event["event_id"] for event in events]
    assert record["compiledRelease"]["tag"] == ["compiled"]
    contract = record["compiledRelease"]["contracts"][0]
    assert "value" not in contract
    assert [figure["id"] for figure in contract["ledger"]["figures"]] == ["krw-1", "usd-763", "usd-765", "krw-2"]


def test_the_release_package_has_the_same_releases(api: httpx.Client, case: str) -> None:
    record = api.get(f"/contracts/{case}/ocds", params={"as": "record"}).json()["records"][0]
    assert api.get(f"/contracts/{case}/ocds", params={"as": "releases"}).json()["releases"] == record["releases"]


def test_another_word_for_as_and_a_contract_that_is_not_there_are_refused(api: httpx.Client, case: str) -> None:
    assert api.get(f"/contracts/{case}/ocds", params={"as": "csv"}).status_code == 422
    assert api.get("/contracts/00000000-0000-7000-8000-000000000000/ocds").status_code == 404


def test_the_command_prints_what_the_service_answers(
    api: httpx.Client, service: RunningService, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_API_KEY", service.admin)
    said = CliRunner().invoke(app, ["ocds", "export", case, "--releases", "--url", str(api.base_url).split("/v1/")[0]])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout) == api.get(f"/contracts/{case}/ocds", params={"as": "releases"}).json()
