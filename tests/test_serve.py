"""`serve` as a user starts it, and the commands that speak to it: in processes of their own, on ports the system chose."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.cli.server import Address, serve
from service.cli.welcome import curl_lines
from service.errors import OperatorError
from service.settings import Settings
from tests.conftest import OWNER, Database, Server
from tests.servers import ROOT, wait_for

UNSIGNED = "no checkpoint is signed here: that takes LEDGER_SIGNING_KEY and LEDGER_CHECKPOINT_STORE"
START_SECONDS = 90
STOP_SECONDS = 60
ANY_PORT = Address("127.0.0.1", 0, 1)
# Where Python keeps no bytecode, every start would compile it all again.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / ".pytest_cache" / "bytecode")}
SETTINGS = {name: "" for name in os.environ if name.startswith("LEDGER_")}


def environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **(BYTECODE if sys.dont_write_bytecode else {}), **SETTINGS, **more}


def command(*arguments: str, status: int = 0, **more: str) -> str:
    """A command's stdout; its stderr too, where it is to fail."""
    ran = subprocess.run(
        [sys.executable, "-m", "service", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=environment(more)
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stderr if status else ran.stdout


class Serving:
    """`contract-ledger serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str, **more: str) -> None:
        self.folder = folder
        self.out = folder.parent / f"{secrets.token_hex(4)}.out"
        self.err = self.out.with_suffix(".err")
        arguments = ["serve", "--data-dir", str(folder), *options, *([] if "--port" in options else ["--port", "0"])]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", *arguments],
                cwd=ROOT,
                env=environment(more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def said(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def wait_ready(self) -> "Serving":
        def ready() -> bool:
            assert self.process.poll() is None, self.said()
            return "stale revision" in self.said() or '"serving"' in self.said()

        wait_for(ready, "the service says that it is ready", START_SECONDS)
        return self

    @property
    def url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+", self.said())
        assert found, self.said()
        return found[0]

    @property
    def key(self) -> str:
        return (self.folder / "api-key").read_text().strip()

    def client(self, ledger: str = "main") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=f"{self.url}/v1/ledgers/{ledger}", headers=headers, timeout=30, trust_env=False)

    def open_contract(self) -> str:
        """Open a contract, and its id."""
        data = {
            "stage": "reported",
            "title": "A contract",
            "kind": "supply",
            "parties": [{"party_id": "a", "name": "A", "roles": ["buyer"]}],
        }
        request = {"effective_on": "2024-01-01", "source": {"kind": "news"}, "data": data}
        with self.client() as client:
            answer = client.post("/contracts/reported", json=request, headers={"Idempotency-Key": secrets.token_hex(8)})
        assert answer.status_code == 201, answer.text + self.said()
        return str(answer.json()["contract_id"])

    def has(self, contract_id: str) -> bool:
        with self.client() as client:
            return client.get(f"/contracts/{contract_id}").status_code == 200

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def served(folder: Path, *options: str, **more: str) -> Iterator[Serving]:
    serving = Serving(folder, *options, **more)
    try:
        yield serving.wait_ready()
    finally:
        serving.end()


@contextmanager
def data_folder() -> Iterator[Path]:
    """A data folder that the account which runs the embedded server for root can reach."""
    made = Path(tempfile.mkdtemp(prefix="contract-ledger-serve-"))
    made.chmod(0o755)
    yield made / "data"
    shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    with data_folder() as made:
        yield made


@pytest.fixture(scope="module")
def one() -> Iterator[Serving]:
    """An embedded service, shared by the tests that leave it running."""
    with data_folder() as made, served(made) as serving:
        yield serving


@pytest.fixture
def unmigrated(server: Server) -> Iterator[Database]:
    """A database of the owner's, without a table."""
    name = f"ledger_{secrets.token_hex(6)}"
    server.execute("CREATE DATABASE {} OWNER {}", name, OWNER)
    yield server.database(name)
    server.execute("DROP DATABASE {} WITH (FORCE)", name)


def at(one: Serving) -> tuple[str, ...]:
    return ("--url", one.url, "--data-dir", str(one.folder))


def test_the_curl_lines_work_as_pasted(one: Serving) -> None:
    lines = [line for line in one.out.read_text().splitlines() if line.startswith(("CONTRACT=", "curl"))]
    assert lines == curl_lines(one.url, one.key)
    ran = subprocess.run(["bash", "-e", "-u"], input="\n".join(lines), capture_output=True, text=True, check=True)
    opened, revised, stale = map(json.loads, [ran.stderr, *ran.stdout.strip().splitlines()])
    assert (opened["revision"], revised["revision"]) == (1, 2)
    assert opened["contract_id"] == revised["contract_id"]
    assert stale["code"] == "stale-revision"
    assert 'send If-Match: "2"' in stale["detail"]


def test_secrets_are_for_their_owner_alone(one: Serving) -> None:
    for name in ("api-key", "passwords.json"):
        assert stat.S_IMODE((one.folder / name).stat().st_mode) == 0o600
    assert not list(one.folder.glob("*.draft"))


def test_the_demo_tells_the_five_answers_and_again_the_same(one: Serving) -> None:
    told = command("demo", *at(one))
    for words in (
        "Best: about KRW 1,000,000,000,000 (reported, total), on the word of news via Reuters (2022-07-06)",
        "USD 763,000,000 (usd-763) to USD 765,000,000 (usd-765)",
        "No figures conflict",
        "is USD 762,804,213.59 at the rate of 2022-07-05: 1310.95",
        "is USD 764,216,897.33 at the rate of 2022-07-06: 1308.529",
        "/value (the filing gives no amount) and /quantity (the filing gives no quantity)",
        "under negotiation since 2022-07-06",
        "delivering since 2023-06",
        "contract.signed from 2024-01-26",
        "delivery-before-signing.7.8",
        "ends in 2026: 4 years from 2023, on the word of Korea Economic Daily",
        "ends on 2026-12-31, as stated, on the word of LG Energy Solution (filing",
        "9 events; the hash of each is that of its header",
        "the checkpoint of 9 events is signed, 9 inclusion proofs put these events into its tree",
        "would be accepted as revision 10",
    ):
        assert words in re.sub(r"[\s│]+", " ", told), words
    assert command("demo", *at(one)) == told
    with one.client("demo") as client:
        assert len(client.get("/events").json()["items"]) == 9


def test_the_demo_is_told_the_same_after_the_contract_went_on(one: Serving) -> None:
    told = command("demo", *at(one))
    with one.client("demo") as client:
        contract_id = client.get("/events").json()["items"][0]["contract_id"]
        note = {"effective_on": "2022-07-06", "source": {"kind": "system"}, "data": {"text": "a note"}}
        client.post(f"/contracts/{contract_id}/note-added", json=note, headers={"Idempotency-Key": "a-note"})
        events = len(client.get("/events").json()["items"])
    again = command("demo", *at(one))
    assert len(again.splitlines()) == len(told.splitlines())
    assert again.split("5. What these answers rest on")[0] == told.split("5. What these answers rest on")[0]
    with one.client("demo") as client:
        assert len(client.get("/events").json()["items"]) == events


def test_show_tells_a_contract_as_of_then(one: Serving) -> None:
    command("demo", *at(one))
    with one.client("demo") as client:
        contract_id = client.get("/events").json()["items"][0]["contract_id"]
    now = command("show", contract_id, "--ledger", "demo", *at(one))
    assert "LG Energy Solution (supplier)" in now
    assert "delivering since 2023-06" in now
    assert "Electrification of Isuzu's truck models" in now
    then = command("show", contract_id, "--ledger", "demo", "--effective-on", "2023-07-01", "--published-by", "2022-07-06", *at(one))
    assert "under negotiation" in then
    assert sum("[published later]" in line for line in then.splitlines()) >= 3
    known = command("show", contract_id, "--ledger", "demo", "--known-position", "2", *at(one))
    assert sum("[recorded later]" in line for line in known.splitlines()) >= 7


def test_what_the_service_refuses_is_told_in_its_words(one: Serving) -> None:
    assert "There is no ledger nowhere" in command("tail", "--ledger", "nowhere", *at(one), status=1)
    assert "a contract_id is a UUID" in command("show", "x", *at(one), status=1)
    assert "LEDGER_API_KEY" in command("tail", *at(one), status=1, LEDGER_API_KEY="no-such-key")


def test_tail_lists_the_events_and_follows(one: Serving) -> None:
    first = one.open_contract()
    assert first in command("tail", *at(one))
    arguments = [sys.executable, "-u", "-m", "service", "tail", "--follow", *at(one)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment({})) as follower:
        try:
            assert follower.stdout is not None
            while first not in follower.stdout.readline():
                pass
            second = one.open_contract()
            assert second in follower.stdout.readline()
        finally:
            follower.send_signal(signal.SIGINT)
        assert follower.wait(STOP_SECONDS) == 0


def test_a_reader_that_goes_away_is_no_failure(one: Serving) -> None:
    one.open_contract()
    tail = f"set -o pipefail; {shlex.quote(sys.executable)} -m service tail --url {one.url} --data-dir {one.folder} | true"
    ran = subprocess.run(["bash", "-c", tail], capture_output=True, text=True, check=False, cwd=ROOT, env=environment({}))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_commands_work_on_the_database_of_a_running_service(one: Serving) -> None:
    one.open_contract()
    assert "the log is whole" in command("verify", "--ledger", "main", "--data-dir", str(one.folder))
    assert "main" in command("ledgers", "list", "--data-dir", str(one.folder))


def test_a_copy_of_a_ledger_stands_in_a_folder_of_its_own(one: Serving, folder: Path) -> None:
    contract_id, file = one.open_contract(), folder.parent / "main.ndjson"
    command("bundle", *at(one), "--output", str(file))
    assert "already, and nothing is restored over it" in command("restore", str(file), "--data-dir", str(one.folder), status=1)
    assert "`contract-ledger migrate` without" in command("restore", str(file), "--data-dir", str(folder), status=1)
    assert not folder.exists()
    assert "is at migration" in command("migrate", "--data-dir", str(folder))
    assert "Ledger main: " in command("restore", str(file), "--data-dir", str(folder))
    with served(folder) as copy:
        assert copy.has(contract_id)
        assert copy.key != one.key
        assert copy.end(signal.SIGINT) == 0


def test_a_folder_in_use_is_told(one: Serving) -> None:
    with pytest.raises(OperatorError, match=f"in use by process {one.process.pid}"):
        serve(Settings(data_dir=one.folder), ANY_PORT)


def test_a_port_in_use_is_told(one: Serving) -> None:
    port = int(one.url.rpartition(":")[2])
    with pytest.raises(OperatorError, match=f"Port {port} on 127.0.0.1 is in use: .*--port"):
        serve(Settings(data_dir=one.folder), Address("127.0.0.1", port, 1))


def test_ctrl_c_stops_everything_and_a_new_start_finds_everything(folder: Path) -> None:
    with served(folder) as first:
        key, contract_id = first.key, first.open_contract()
        postmaster = next(process for process in first.family() if process.name() == "postgres")
        assert first.end(signal.SIGINT) == 0
        assert not postmaster.is_running()
        assert first.err.read_text() == ""
        assert first.out.read_text().endswith("on disk.\n")
    assert "the log is whole" in command("verify", "--data-dir", str(folder))
    with served(folder) as second:
        assert second.key == key
        assert second.has(contract_id)
        assert second.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_twice_waits_for_no_request_and_leaves_nothing_behind(folder: Path, workers: str) -> None:
    with served(folder, "--workers", workers) as serving, serving.client() as client:
        serving.open_contract()
        headers = {"Authorization": f"Bearer {serving.key}"}
        with client.stream("GET", f"{serving.url}/v1/ledgers/main/events/stream", headers=headers) as stream:
            assert next(stream.iter_bytes())
            serving.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
            assert serving.end(signal.SIGINT) == 0
        assert serving.err.read_text() == ""
        assert serving.out.read_text().endswith("on disk.\n")


def test_a_killed_service_starts_again_on_its_port_and_leaves_no_orphan(folder: Path) -> None:
    with served(folder, "--workers", "2") as first:
        contract_id, port = first.open_contract(), first.url.rpartition(":")[2]
        workers = [process for process in first.family() if process.name() != "postgres" and "spawn_main" in " ".join(process.cmdline())]
        assert len(workers) == 2
        first.process.kill()
        first.process.wait(STOP_SECONDS)
        with served(folder, "--port", port, "--workers", "2") as second:
            assert second.has(contract_id)
            wait_for(lambda: not any(running(worker) for worker in workers), "the orphans end")
            assert second.end(signal.SIGINT) == 0


def running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_postgres_that_is_killed_is_started_again_and_has_lost_nothing(folder: Path) -> None:
    with served(folder) as serving:
        contract_id = serving.open_contract()
        next(process for process in serving.family() if process.name() == "postgres").kill()
        wait_for(lambda: "is started again" in serving.err.read_text(), "the end is noticed")
        wait_for(lambda: serving.has(contract_id), "the service answers again")
        assert serving.has(serving.open_contract())
        assert serving.end(signal.SIGINT) == 0


def test_a_service_whose_postgres_cannot_be_started_again_ends_with_status_1(folder: Path) -> None:
    with served(folder) as serving:
        (folder / "cluster").rename(folder / "away")
        next(process for process in serving.family() if process.name() == "postgres").kill()
        assert serving.process.wait(STOP_SECONDS) == 1
        assert "ends with its database" in serving.err.read_text()
        (folder / "away").rename(folder / "cluster")


def test_a_named_database_is_migrated_and_given_a_first_key(unmigrated: Database, tmp_path: Path) -> None:
    key = secrets.token_hex(16)
    urls = {"LEDGER_DATABASE_URL": unmigrated.service_url, "LEDGER_MIGRATION_URL": unmigrated.owner_url}
    with served(tmp_path / "data", LEDGER_API_KEY=key, LEDGER_LOG_FORMAT="json", **urls) as serving:
        assert serving.key == key
        assert serving.has(serving.open_contract())
        assert key not in serving.said()
        assert serving.end() == 0
        assert serving.out.read_text() == ""
        lines = [json.loads(line) for line in serving.err.read_text().splitlines()]
        assert [line["event"] for line in lines] == [UNSIGNED, "serving", "stopped"]
    # Elsewhere, another key and another folder: the database has its keys already.
    with served(tmp_path / "other", LEDGER_API_KEY="x" * 32, LEDGER_LOG_FORMAT="json", **urls) as serving:
        assert not (tmp_path / "other" / "api-key").exists()
        answer = httpx.get(f"{serving.url}/v1/ledgers", headers={"Authorization": f"Bearer {'x' * 32}"}, trust_env=False)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"database_url": "postgresql://ledger_service@127.0.0.1:1/ledger"}, "cannot be reached"),
        (
            {"database_url": "{service}&options=-csynchronous_commit%3Doff"},
            "synchronous_commit = off, so an acknowledged event could be lost",
        ),
        ({"database_url": "{service}", "api_key": "short"}, "LEDGER_API_KEY has to be at least 32"),
        ({"database_url": "{service}", "log_format": "xml"}, "should be console or json"),
        ({"database_url": "{service}", "migration_url": "{service}"}, "must name two roles"),
        ({"database_url": "{service}", "migration_url": "nonsense"}, "LEDGER_MIGRATION_URL is no URL"),
    ],
)
def test_what_stands_in_the_way_is_told_before_anything_is_served(
    database: Database, tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    stated = {name: value.replace("{service}", database.service_url) for name, value in change.items()}
    with pytest.raises(OperatorError) as refused:
        serve(Settings(data_dir=tmp_path, **stated), ANY_PORT)  # type: ignore[arg-type]
    assert sentence in str(refused.value)


def test_a_database_without_tables_is_told_what_to_run(unmigrated: Database, database: Database, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="run `contract-ledger migrate`"):
        serve(Settings(data_dir=tmp_path, database_url=unmigrated.service_url), ANY_PORT)


@pytest.mark.parametrize(
    ("host", "sentence"), [("no-such-host.invalid", "is no address of this machine"), ("192.0.2.1", "is no address of this machine")]
)
def test_an_address_of_another_machine_is_told(tmp_path: Path, host: str, sentence: str) -> None:
    with pytest.raises(OperatorError, match=sentence):
        serve(Settings(data_dir=tmp_path), Address(host, 0, 1))


def test_a_port_for_metrics_that_is_in_use_is_told_before_anything_is_begun(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OperatorError, match=f"LEDGER_METRICS_PORT: port {port} on 127.0.0.1 is in use"):
            serve(Settings(data_dir=tmp_path / "data", metrics_port=port), ANY_PORT)
    assert not (tmp_path / "data").exists()


def test_a_port_that_another_program_listens_on_is_told_after_a_moment(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        began = time.monotonic()
        with pytest.raises(OperatorError, match="is in use"):
            serve(Settings(data_dir=tmp_path), Address("127.0.0.1", other.getsockname()[1], 1))
    assert time.monotonic() - began < 10


def test_a_setting_that_cannot_be_read_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    said = command("serve", "--data-dir", str(tmp_path), "--port", "0", status=1, LEDGER_QUEUE_REQUESTS="many")
    assert said.strip() == "LEDGER_QUEUE_REQUESTS is 'many', and should be a whole number from 1 to 1000000."
