"""The commands that work on the database and on files: what they do, and how they say that they cannot."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import psycopg
import pytest
import typer
import yaml
from typer.testing import CliRunner

from service import __version__
from service.access import FIND_KEY, RIGHTS, key_hash
from service.api.openapi import document, event_schemas
from service.cli import app
from service.cli.admin import may_change_log
from service.cli.client import Client, visible
from service.cli.deployment import command_key, command_name, keep_secret
from service.cli.story import console
from service.domain.events import EVENT_TYPES
from service.errors import OperatorError
from service.log.heads import Head, keep_head, read_heads
from service.log.ledgers import make_ledger
from service.settings import Settings
from tests.conftest import Database

Run = Callable[..., str]
CLOSED = "http://127.0.0.1:1"


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command on the module's database: its stdout; OperatorError as it is raised."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.service_url)
    monkeypatch.setenv("LEDGER_MIGRATION_URL", database.owner_url)
    monkeypatch.setenv("LEDGER_DATA_DIR", str(tmp_path))

    def invoke(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, OperatorError):
            raise result.exception
        assert result.exit_code == status, result.output
        return result.stdout

    return invoke


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.service_url, autocommit=True) as opened:
        yield opened


def ledger_id(connection: psycopg.Connection[Any], name: str) -> str:
    make_ledger(connection, name, "UTC")
    row = connection.execute("SELECT ledger_id::text FROM ledgers WHERE name = %s", [name]).fetchone()
    assert row is not None
    return str(row[0])


def commands(group: click.Group, prefix: Sequence[str] = ()) -> Iterator[tuple[list[str], click.Command]]:
    for name, command in group.commands.items():
        path = [*prefix, name]
        if isinstance(command, type(group)):
            yield from commands(command, path)
        else:
            yield path, command


def test_help_needs_none_of_the_heavy_modules() -> None:
    heavy = ["alembic", "fastapi", "httpx", "psycopg", "pydantic", "sqlalchemy", "structlog", "uvicorn"]
    check = f"import sys, service.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_command_and_every_option_says_what_it_is() -> None:
    group: Any = typer.main.get_command(app)
    for path, command in commands(group):
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version") == f"contract-ledger {__version__}\n"


def test_a_failure_is_one_sentence_and_status_1() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "service", "tail", "--url", CLOSED],
        capture_output=True,
        text=True,
        check=False,
        env={"LEDGER_API_KEY": "k" * 32, "PATH": ""},
        cwd=Path(__file__).parents[1],
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"Nothing answers at {CLOSED}")
    assert "contract-ledger serve" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_told_in_a_sentence() -> None:
    verifier = [sys.executable, "-m", "service", "verifier"]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(verifier, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (
        1,
        "The disk fails (No space left on device): make room on it or mend it, and run this again.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "text", "encoding"),
    [(["openapi"], "'\\u0142'", "latin-1"), (["verify", "--ledger", os.fsdecode(b"\xff")], "'\\udcff'", "utf-8")],
)
def test_text_that_cannot_be_encoded_is_told_in_a_sentence(database: Database, arguments: list[str], text: str, encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "LEDGER_DATABASE_URL": database.service_url}
    ran = subprocess.run([sys.executable, "-m", "service", *arguments], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 1
    assert ran.stderr == f"{text} cannot be written in {encoding}: type it in UTF-8, and set LC_ALL=C.UTF-8 PYTHONIOENCODING=utf-8.\n"


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises((OperatorError, ValueError)) as refused:
        Client(url, "key", "main")
    assert isinstance(refused.value, OperatorError)


def test_another_program_at_the_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("http://127.0.0.1:8000", "key", "main")
    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(lambda _: httpx.Response(200, html="<p>hello")))
    with client, pytest.raises(OperatorError, match="is not contract-ledger"):
        client.feed(None)


def test_a_key_has_the_rights_it_was_made_with_until_it_is_revoked(run: Run, connection: psycopg.Connection[Any]) -> None:
    ledger_id(connection, "main")
    key = run("keys", "create", "--name", "reader", "--right", "contracts:read", "--ledger", "main", "--expires-days", "7").strip()
    rows = connection.execute(FIND_KEY, {"key_hash": key_hash(key)}).fetchall()
    assert [(row[2], row[3]) for row in rows] == [(ledger_id(connection, "main"), ["contracts:read"])]
    assert rows[0][1] - datetime.now(UTC) > timedelta(days=6)
    listed = next(line for line in run("keys", "list").splitlines() if "reader" in line)
    assert "main: contracts:read" in listed
    assert key not in listed
    run("keys", "revoke", listed.split()[0])
    assert connection.execute(FIND_KEY, {"key_hash": key_hash(key)}).fetchall() == []
    assert "revoked" in run("keys", "list")
    with pytest.raises(OperatorError, match="not revoked already"):
        run("keys", "revoke", listed.split()[0])


@pytest.mark.parametrize("said", [["analyst"], ["--name", "analyst"]])
def test_who_a_key_is_for_is_said_in_either_way_and_once(run: Run, said: list[str]) -> None:
    run("keys", "create", *said)
    assert "analyst" in run("keys", "list")
    ran = subprocess.run(
        [sys.executable, "-m", "service", "keys", "create", "analyst", "--name", "another"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "say who the key is for once" in " ".join(ran.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("columns", "width"), [("72", 72), ("", 160), ("0", 160), ("-1", 160), ("wide", 160), ("99999999999", 160)])
def test_a_story_in_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replays", "--ledger", "main"], ["replay ", "kind", "status", "position 0", "seconds", "contracts", "verify", "sound"]),
        (["keys", "list"], ["id ", "name", "narrow", "rights", "(all):", "state", "holds"]),
        (["ledgers", "list"], ["ledger", "time zone", "made", "events", "main"]),
    ],
)
def test_a_table_keeps_its_columns_on_a_narrow_terminal(
    run: Run, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    ledger_id(connection, "main")
    run("keys", "create", "narrow")
    run("verify", "--ledger", "main")
    monkeypatch.setenv("COLUMNS", "40")
    told = run(*arguments)
    assert [word for word in words if word not in told] == []


def test_a_key_without_more_said_reads_and_writes_everywhere(run: Run, connection: psycopg.Connection[Any]) -> None:
    key = run("keys", "create").strip()
    rows = connection.execute(FIND_KEY, {"key_hash": key_hash(key)}).fetchall()
    assert [(row[1], row[2], row[3]) for row in rows] == [(None, None, ["contracts:read", "contracts:write"])]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("keys", "create", "--right", "everything"), f"There is no right everything; there are {', '.join(RIGHTS)}"),
        (("keys", "create", "--ledger", "nowhere"), "There is no ledger nowhere"),
        (("keys", "revoke", "x"), "There is no key x"),
        (("ledgers", "create", "Main"), "is no name for a ledger"),
        (("ledgers", "create", "other", "--time-zone", "Mars"), "no time zone"),
        (("verify", "--ledger", "nowhere"), "There is no ledger nowhere"),
        (("rebuild", "--ledger", "nowhere"), "There is no ledger nowhere"),
        (("clock", "accept", "nowhere"), "There is no ledger nowhere"),
        (("head", "accept", "nowhere"), "There is no ledger nowhere"),
    ],
)
def test_what_cannot_be_done_is_told(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(OperatorError) as refused:
        run(*arguments)
    assert sentence in str(refused.value)


def test_a_ledgers_policy_is_set_whole(run: Run) -> None:
    run("ledgers", "create", "unique")
    assert "in ledger unique: DART, LEI." in run("ledgers", "policy", "unique", "--unique-scheme", "LEI", "--unique-scheme", "DART")
    told = run("ledgers", "policy", "unique", "--require-if-match", "--strict")
    assert "need If-Match" in told
    assert "anomaly is refused" in told
    told = run("ledgers", "policy", "unique")
    assert "in ledger unique: none." in told
    assert "without If-Match" in told
    assert "anomaly is accepted" in told
    for arguments, sentence in (
        (("nowhere",), "no ledger nowhere"),
        (("unique", "--unique-scheme", " "), "no name of a scheme"),
        (("unique", *(f"--unique-scheme=s{n}" for n in range(21))), "at most 20"),
    ):
        with pytest.raises(OperatorError, match=sentence):
            run("ledgers", "policy", *arguments)


def test_a_ledger_is_made_once_and_its_time_zone_is_fixed(run: Run) -> None:
    assert "is made" in run("ledgers", "create", "seoul", "--time-zone", "Asia/Seoul")
    assert "was there already" in run("ledgers", "create", "seoul", "--time-zone", "Asia/Seoul")
    with pytest.raises(OperatorError, match="Asia/Seoul, which is fixed"):
        run("ledgers", "create", "seoul")
    with pytest.raises(OperatorError, match="'localtime' is no time zone of the IANA database"):
        run("ledgers", "create", "here", "--time-zone", "localtime")
    assert any(line.split()[0] == "seoul" and "Asia/Seoul" in line for line in run("ledgers", "list").splitlines() if line.strip())


def test_a_clock_is_accepted_only_when_the_ledger_is_ahead_of_it(run: Run, connection: psycopg.Connection[Any]) -> None:
    ahead = ledger_id(connection, "ahead")
    with pytest.raises(OperatorError, match="there is nothing to accept"):
        run("clock", "accept", "ahead")
    last = datetime.now(UTC) + timedelta(days=365)
    connection.execute("INSERT INTO batches (ledger_id, last_position, recorded_at) VALUES (%s, 1, %s)", [ahead, last])
    said = run("clock", "accept", "ahead")
    assert last.strftime("%Y-%m-%dT%H:%M:%S.%fZ") in said
    assert connection.execute("SELECT clock_accepted_at FROM ledgers WHERE name = 'ahead'").fetchone() == (last,)


def test_a_role_that_may_change_the_log_is_noticed(database: Database) -> None:
    for url, may in ((database.service_url, False), (database.owner_url, True), (database.superuser_url, True)):
        with psycopg.connect(url) as opened:
            assert may_change_log(opened) is may


def test_to_accept_a_clock_takes_the_owner(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEDGER_MIGRATION_URL")
    with pytest.raises(OperatorError, match="set LEDGER_MIGRATION_URL"):
        run("clock", "accept", "main")


def test_a_lost_head_is_accepted_and_shown(run: Run, connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    lost = ledger_id(connection, "lost")
    with pytest.raises(OperatorError, match="there is nothing to accept"):
        run("head", "accept", "lost")
    keep_head(tmp_path / "heads", lost, Head(7, "ab" * 32))
    said = run("head", "accept", "lost")
    assert "event 7" in said
    assert "7 events are given up" in said
    assert read_heads(tmp_path / "heads") == {}


def test_migrate_says_what_is_reached_and_its_sql_names_the_role(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "The database is at migration" in run("migrate")
    assert "TO ledger_service" in run("migrate", "--sql").replace('"', "")
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://another@/ledger")
    assert "another" in run("migrate", "--sql")


def test_a_url_that_is_none_is_told_by_the_name_of_its_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "somewhere")
    with pytest.raises(OperatorError, match="LEDGER_DATABASE_URL is no URL"):
        run("ledgers", "list")


def test_a_password_does_not_come_back_in_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://ledger_service:a-secret-word@127.0.0.1:1/ledger")
    with pytest.raises(OperatorError, match="cannot be reached") as refused:
        run("ledgers", "list")
    assert "a-secret-word" not in str(refused.value)
    assert "Connection refused Is the server running" in str(refused.value)


def test_without_a_database_the_commands_say_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LEDGER_DATABASE_URL")
    with pytest.raises(OperatorError, match="LEDGER_MIGRATION_URL is set, and means nothing without LEDGER_DATABASE_URL"):
        run("verify")
    monkeypatch.delenv("LEDGER_MIGRATION_URL")
    with pytest.raises(OperatorError, match=f"There is no database in {tmp_path}: name the folder"):
        run("verify")


def test_openapi_prints_the_document(run: Run) -> None:
    printed = run("openapi")
    assert yaml.safe_load(printed) == json.loads(json.dumps(document()))
    assert printed.startswith("openapi: 3.1.0\n")


def test_schemas_are_written_and_stale_ones_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "contract.dreamt.v1.json").write_text("{}")
    run("schemas", str(tmp_path))
    written = {file.name: json.loads(file.read_text()) for file in (tmp_path / "events").iterdir()}
    assert {name: schema for name, schema in written.items() if name in event_schemas()} == event_schemas()
    earlier = {f"{name}.v{version}.json" for name, cls in EVENT_TYPES.items() for version in range(1, cls.schema_version)}
    assert written.keys() - event_schemas().keys() == earlier >= {"note.added.v1.json"}


def test_schemas_for_a_folder_that_cannot_be_written_are_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(OperatorError, match="cannot be written: "):
        run("schemas", str(taken))
    assert taken.read_text() == ""


def test_the_key_of_the_environment_goes_before_the_kept_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="There is no key"):
        command_key(Settings(data_dir=tmp_path))
    keep_secret(tmp_path / "api-key", "kept")
    assert command_key(Settings(data_dir=tmp_path)) == "kept"
    assert command_key(Settings(data_dir=tmp_path, api_key="given")) == "given"


def test_the_command_is_named_as_it_has_to_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "contract-ledger"
    program.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_name() == str(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_name() == "contract-ledger"
    monkeypatch.setattr("sys.argv", [str(tmp_path / "service" / "__main__.py")])
    assert command_name() == f"{shlex.quote(sys.executable)} -m service"


def test_what_was_recorded_drives_no_terminal_and_forges_no_line() -> None:
    recorded = {
        "na\nme": ["\x1b[31mred\x07", "two\nlines", "\u202eright to left", "\x9b2J"],
        "kept": ["아이스즈 いすゞ", "née", 7, None, True],
    }
    assert visible(recorded) == {
        "na\\nme": ["\\x1b[31mred\\x07", "two\\nlines", "\\u202eright to left", "\\x9b2J"],
        "kept": ["아이스즈 いすゞ", "née", 7, None, True],
    }
