"""The commands that move events by the line: what they say of each line that is not recorded, and that they go on where they ended."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.errors import OperatorError
from tests.api.running import RunningService, running
from tests.api.test_imports import contracts_of, note, text_of
from tests.conftest import Database
from tests.servers import make_ledger

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def service(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running(database, tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture
def ledger(service: RunningService) -> str:
    return make_ledger(service.database.service_url)


@pytest.fixture
def run(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LEDGER_URL", service.url)
    monkeypatch.setenv("LEDGER_API_KEY", service.admin)

    def invoke(*arguments: str, **options: Any) -> Result:
        result = CliRunner().invoke(app, arguments, **options)
        if isinstance(result.exception, OperatorError):
            raise result.exception
        return result

    return invoke


def test_an_import_that_is_mended_goes_on_by_the_same_command(run: Run, ledger: str, tmp_path: Path) -> None:
    file, lines = tmp_path / "lines.ndjson", contracts_of(3)
    file.write_bytes(text_of([*lines[:5], {**lines[5], "effective_on": "soon"}, *lines[6:]]))
    ran = run("import", str(file), "--ledger", ledger)
    assert ran.exit_code == 1
    first, *_, last = ran.stdout.splitlines()
    assert first.startswith("line 6: refused: /effective_on: ")
    assert "9 recorded, 1 refused, 2 held back." in last
    file.write_bytes(text_of(lines))
    ran = run("import", str(file), "--ledger", ledger)
    assert (ran.exit_code, ran.stdout.count("\n")) == (0, 1)
    assert "3 recorded, 9 recorded before." in ran.stdout
    ran = run("import", str(file), "--ledger", ledger, "--from-line", "7")
    assert "0 recorded, 6 recorded before." in ran.stdout


def test_a_line_that_stops_an_import_is_named(run: Run, ledger: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.ndjson"
    file.write_bytes(text_of([*contracts_of(1), b"nonsense", *contracts_of(1)]))
    ran = run("import", str(file), "--ledger", ledger)
    assert ran.exit_code == 1
    assert ran.stdout.startswith("line 5: malformed: ")
    assert "4 recorded, 1 refused. It stopped before the end." in ran.stdout


def test_all_lines_that_are_missing_are_named_though_the_answer_names_the_first(run: Run, ledger: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.ndjson"
    file.write_bytes(text_of([note(f"c-{n}", "no opening") for n in range(130)]))
    named = [line for line in run("import", str(file), "--ledger", ledger).stdout.splitlines() if line.startswith("line ")]
    assert len(named) == 130
    assert named[-1].startswith("line 130: not-allowed-now (first-event-opens): ")


def test_what_is_exported_to_a_file_is_imported_elsewhere(run: Run, ledger: str, service: RunningService, tmp_path: Path) -> None:
    file, out, copy = tmp_path / "lines.ndjson", tmp_path / "out.ndjson", make_ledger(service.database.service_url)
    file.write_bytes(text_of(contracts_of(200)))
    assert run("import", str(file), "--ledger", ledger).exit_code == 0
    assert run("export", "--ledger", ledger, "-o", str(out)).exit_code == 0
    assert run("import", str(out), "--ledger", copy).exit_code == 0
    assert run("export", "--ledger", copy).stdout_bytes == out.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"lines.ndjson", "out.ndjson"}
    contract = json.loads(out.read_bytes().splitlines()[4])["contract"]
    assert run("export", "--ledger", ledger, "--contract", contract).stdout.count("\n") == 4


def test_a_key_that_may_not_write_is_told_however_long_the_file(
    run: Run, ledger: str, service: RunningService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "lines.ndjson"
    file.write_bytes(text_of(contracts_of(5_000)))
    monkeypatch.setenv("LEDGER_API_KEY", service.make_key(["contracts:read"]))
    with pytest.raises(OperatorError, match="lacks the right contracts:write"):
        run("import", str(file), "--ledger", ledger)


def test_standard_input_is_imported_under_a_name(run: Run, ledger: str) -> None:
    import_id = "0b8f3a52-6d7a-4c1e-9f53-2f0f2c3a4b5c"
    ran = run("import", "-", "--ledger", ledger, "--import-id", import_id, input=text_of(contracts_of(1)))
    assert (ran.exit_code, ran.stdout) == (0, f"Import {import_id}: 4 recorded.\n")
    with pytest.raises(OperatorError, match="--import-id"):
        run("import", "-", "--ledger", ledger)


def test_a_file_or_a_contract_that_is_not_there_is_told(run: Run, ledger: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        run("import", str(tmp_path / "missing"), "--ledger", ledger)
    with pytest.raises(OperatorError, match="no contract"):
        run("export", "--ledger", ledger, "--contract", "00000000-0000-7000-8000-000000000001", "-o", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OperatorError, match="cannot be written"):
        run("export", "--ledger", ledger, "-o", str(tmp_path / "no" / "such" / "folder"))
    with pytest.raises(OperatorError, match="a UUID"):
        run("import", "-", "--ledger", ledger, "--import-id", "mine", input=b"")


def test_an_export_with_what_is_sealed_is_imported_elsewhere_and_one_without_is_not(
    run: Run, ledger: str, service: RunningService, tmp_path: Path
) -> None:
    file, out, copy = tmp_path / "lines.ndjson", tmp_path / "out.ndjson", make_ledger(service.database.service_url)
    file.write_bytes(text_of([*contracts_of(1, 0), note("c-0", "") | {"data": {}, "sealed": [{"path": "/text", "value": "geheim"}]}]))
    assert run("import", str(file), "--ledger", ledger).exit_code == 0
    out.write_bytes(run("export", "--ledger", ledger).stdout_bytes)
    refused = run("import", str(out), "--ledger", copy)
    assert (refused.exit_code, "exported without what is sealed" in refused.stdout) == (1, True)
    assert run("export", "--ledger", ledger, "--sealed", "-o", str(out)).exit_code == 0
    assert run("import", str(out), "--ledger", copy).exit_code == 0
    assert run("export", "--ledger", copy, "--sealed").stdout_bytes == out.read_bytes()
