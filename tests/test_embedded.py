"""The embedded PostgreSQL: what it keeps, what it survives, and whom it lets in."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from service.cli.deployment import make_data_folder
from service.embedded import EmbeddedPostgres, default_data_folder, wheel_binaries
from service.embedded.account import server_account
from service.errors import OperatorError

SMALL = {"shared_buffers": "16MB", "max_connections": "20"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server under another account")

RUN_AND_HANG = """
import sys, time
from pathlib import Path
from service.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), {"shared_buffers": "16MB", "max_connections": "20"})
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Not pytest's tmp_path: that one is closed to the account which runs the server for root."""
    made = Path(tempfile.mkdtemp(prefix="contract-ledger-embedded-"))
    made.chmod(0o755)
    # Short socket folders go with the rest.
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made / "data"
    shutil.rmtree(made)


def ask(server: EmbeddedPostgres, query: str) -> str:
    with psycopg.connect(server.url("postgres", server.superuser), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return "" if row is None else str(row[0])


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def runs(pid: int) -> bool:
    """A process that is dead but not yet reaped does not run."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(server: EmbeddedPostgres) -> list[psutil.Process]:
    """The postmaster and its children, of which one may end at any moment."""
    postmaster = psutil.Process(server.pid)
    return [postmaster, *postmaster.children(recursive=True)]


def service_process(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN_AND_HANG, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def note(server: EmbeddedPostgres) -> None:
    ask(server, "CREATE TABLE kept AS SELECT 'still here' AS word")


def test_data_is_kept_over_stop_and_start(folder: Path) -> None:
    server = EmbeddedPostgres(folder, SMALL)
    for _ in range(2):
        server.start()
        if not server.log.read_text().count("fast shutdown"):
            note(server)
        assert ask(server, "SELECT word FROM kept") == "still here"
        server.stop()
        assert server.pid is None
    server.stop()


def test_it_starts_again_after_its_postmaster_was_killed(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        note(server)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: server.pid is None)
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, "SELECT word FROM kept") == "still here"


def test_it_starts_again_when_another_process_has_the_dead_postmasters_number(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        note(server)
        locks = [server.cluster / "postmaster.pid", server.socket_folder / ".s.PGSQL.5432.lock"]
        number = str(server.pid)
        os.kill(int(number), signal.SIGKILL)
        wait_for(lambda: server.pid is None)
    owner = server.cluster.stat().st_uid
    bystander = subprocess.Popen(["sleep", "600"], user=None if owner == os.geteuid() else owner)
    for file in locks:
        file.write_text(file.read_text().replace(number, str(bystander.pid), 1))
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, "SELECT word FROM kept") == "still here"
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_the_postmaster_of_a_killed_service_is_stopped_and_replaced(folder: Path) -> None:
    service = service_process(folder)
    assert service.stdout is not None
    orphan = int(service.stdout.readline())
    kill(service)
    assert runs(orphan)
    with EmbeddedPostgres(folder, SMALL) as server:
        assert server.pid != orphan
        assert not runs(orphan)
        assert ask(server, "SELECT 1") == "1"


def test_backends_that_outlive_a_killed_postmaster_do_not_stop_the_next_start(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        assert server.pid is not None
        with psycopg.connect(server.url("postgres", server.superuser)) as connection:
            backend = connection.info.backend_pid
            # Stopped, it cannot notice that its postmaster is gone.
            os.kill(backend, signal.SIGSTOP)
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: server.pid is None)
            server.stop()
            os.kill(backend, signal.SIGCONT)
            with EmbeddedPostgres(folder, SMALL) as successor:
                assert ask(successor, "SELECT 1") == "1"
        assert not runs(backend)


def test_a_second_start_on_the_same_folder_is_refused_with_the_holders_number(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        with pytest.raises(OperatorError, match=f"in use by process {os.getpid()}"):
            EmbeddedPostgres(folder, SMALL).start()
        assert ask(server, "SELECT 1") == "1"


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


@pytest.mark.parametrize("moment", ["PG_VERSION", "base/1"])
def test_an_initdb_killed_half_way_leaves_no_cluster_in_use(folder: Path, moment: str) -> None:
    service = service_process(folder)
    wait_for(lambda: list(folder.glob(f"cluster.*/{moment}")))
    drafts = list(folder.glob("cluster.*"))
    initdb = psutil.Process(service.pid).children(recursive=True)
    kill(service)
    for process in initdb:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not (folder / "cluster").exists()
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, "SELECT 1") == "1"
    assert not [draft for draft in drafts if draft.exists()]


def test_an_initdb_that_outlives_its_killed_service_is_no_trouble(folder: Path) -> None:
    service = service_process(folder)
    wait_for(lambda: list(folder.glob("cluster.*/PG_VERSION")))
    kill(service)
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, "SELECT 1") == "1"


def test_it_listens_on_no_network_and_only_in_a_private_folder(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, "SHOW listen_addresses") == ""
        for process in family(server):
            with suppress(psutil.NoSuchProcess):
                assert process.net_connections("inet") == []
        assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.cluster.stat().st_mode) == 0o700


def test_a_wrong_password_is_refused(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url("postgres", server.superuser, "guess"))
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(f"host={server.socket_folder} user={server.superuser} dbname=postgres")


def test_secrets_and_log_are_readable_by_their_owner_only(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        for name in ("superuser-password", "postgres.log", "lock"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert server.password in (folder / "superuser-password").read_text()
        assert server.password not in server.log.read_text()
        assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit", "data_checksums"])
def test_durability_is_on_and_nothing_switches_it_off(folder: Path, setting: str) -> None:
    with EmbeddedPostgres(folder, {**SMALL, "fsync": "off", "synchronous_commit": "off"}) as server:
        assert ask(server, f"SHOW {setting}") == "on"
        if setting != "data_checksums":
            ask(server, f"ALTER SYSTEM SET {setting} = off")
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, f"SHOW {setting}") == "on"


def test_values_do_not_reach_the_servers_log(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        ask(server, "CREATE TABLE once (word text PRIMARY KEY)")
        ask(server, "INSERT INTO once VALUES ('a-personal-word')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            ask(server, "INSERT INTO once VALUES ('a-personal-word')")
        logged = server.log.read_text()
        assert "duplicate key value" in logged
        assert "a-personal-word" not in logged


def test_words_in_hangul_and_kana_have_trigrams(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        ask(server, "CREATE EXTENSION pg_trgm")
        assert ask(server, "SELECT cardinality(show_trgm('계약서 テスト')) > 6") == "True"


def test_a_path_too_long_for_a_socket_gets_a_short_private_one(folder: Path) -> None:
    long = folder.parent / ("long" * 30)
    used = []
    for _ in range(2):
        with EmbeddedPostgres(long, SMALL) as server:
            assert ask(server, "SELECT 1") == "1"
            assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
            used.append(server.socket_folder)
    assert used[0] == used[1]
    shutil.rmtree(used[0])
    with EmbeddedPostgres(long, SMALL) as server:
        assert ask(server, "SELECT 1") == "1"


@pytest.mark.parametrize("name", ["o'd \"d%20&x=é", "one,two"])
def test_a_folder_with_odd_characters_works(folder: Path, name: str) -> None:
    with EmbeddedPostgres(folder.parent / name, SMALL) as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_failed_start_shows_the_end_of_the_servers_log_and_frees_the_folder(folder: Path) -> None:
    with pytest.raises(OperatorError, match=r"did not start(.|\n)*invalid value for parameter"):
        EmbeddedPostgres(folder, {"shared_buffers": "a lot"}).start()
    with EmbeddedPostgres(folder, SMALL) as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_lost_password_is_told(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL):
        pass
    (folder / "superuser-password").unlink()
    with pytest.raises(OperatorError, match="password"):
        EmbeddedPostgres(folder, SMALL).start()


def test_a_cluster_of_another_major_version_is_told(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        pass
    (server.cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(OperatorError, match="made by PostgreSQL 16"):
        EmbeddedPostgres(folder, SMALL).start()


def test_a_platform_without_the_wheel_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OperatorError, match="LEDGER_DATABASE_URL"):
        wheel_binaries()


def test_the_default_folder_is_one_that_the_account_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_folder() == Path("/var/lib/contract-ledger")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_folder() == Path("/home/ada/.local/share/contract-ledger")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_folder() == Path("/data/contract-ledger")


@as_root
def test_the_server_does_not_run_as_root(folder: Path) -> None:
    with EmbeddedPostgres(folder, SMALL) as server:
        account = pwd.getpwuid(server.cluster.stat().st_uid)
        assert account.pw_uid != 0
        for process in family(server):
            with suppress(psutil.NoSuchProcess):
                assert set(process.uids()) == {account.pw_uid}
                assert set(process.gids()) == {account.pw_gid}
        status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        assert next(line for line in status if line.startswith("Groups:")).split()[1:] == []


@as_root
def test_a_folder_closed_to_the_servers_account_is_told(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with pytest.raises(OperatorError, match=f"cannot enter {folder.parent}: .*chmod a\\+x"):
        EmbeddedPostgres(folder, SMALL).start()


def test_a_file_where_the_folder_belongs_is_told(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(OperatorError, match=f"The data folder {folder} cannot be used \\(Not a directory.* choose another"):
        EmbeddedPostgres(folder, SMALL).start()


@as_root
def test_a_folder_that_was_made_beside_another_database_is_open_to_the_servers_account(folder: Path) -> None:
    made = make_data_folder(folder)
    assert server_account().closed_part(made) is None
    assert made.stat().st_mode & 0o066 == 0


@as_root
def test_binaries_closed_to_the_servers_account_are_copied_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = wheel_binaries().parents[1]
    closed = folder.parent / "closed"
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            shutil.copytree(source, closed / source.name)
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(closed)
    made = []
    for _ in range(2):
        with EmbeddedPostgres(folder, SMALL) as server:
            assert server.pid is not None
            assert Path(psutil.Process(server.pid).exe()).is_relative_to(folder)
            made.append([copy.stat().st_ino for copy in folder.glob("binaries-*")])
    assert made[0] == made[1]
    assert len(made[0]) == 1
