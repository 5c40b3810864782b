"""What is shipped works away from the checkout: the wheel in an empty environment, and the Dockerfile's steps in an empty folder."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.servers import ROOT, wait_for

INSTALL_SECONDS = 240
START_SECONDS = 90
STOP_SECONDS = 60
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class Place:
    """An empty folder that anyone may enter, and an ordinary account to work in it."""

    folder: Path
    account: pwd.struct_passwd | None

    def run(self, command: Sequence[str | Path], cwd: Path, **more: str) -> None:
        ran = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=self.environment(more),
            timeout=INSTALL_SECONDS,
            capture_output=True,
            text=True,
            check=False,
            **self._as_account(),  # type: ignore[arg-type]
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    @contextmanager
    def serving(self, command: Path) -> Iterator[str]:
        """`serve` from there, by its address; it must end cleanly on Ctrl-C."""
        out = self.folder / "serve.out"
        arguments = [str(command), "serve", "--port", "0", "--data-dir", str(self.folder / "data")]
        with out.open("wb") as output:
            process = subprocess.Popen(
                arguments,
                cwd=self.folder,
                env=self.environment({}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **self._as_account(),  # type: ignore[call-overload]
            )
        try:
            found = wait_for(lambda: process.poll() is not None or _ADDRESS.search(out.read_text()), "an address", START_SECONDS)
            assert isinstance(found, re.Match), out.read_text()
            yield found[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_SECONDS) == 0, out.read_text()
        finally:
            process.kill()

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "PYTHON", "VIRTUAL_ENV", "UV_"))}
        # Where Python keeps no bytecode, every start would compile it all again.
        return {**kept, "HOME": str(self.folder), "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"), "UV_SYSTEM_CERTS": "1", **more}

    def _as_account(self) -> dict[str, object]:
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="contract-ledger-artefact-"))
    folder.chmod(0o755)
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
    yield Place(folder, account)
    shutil.rmtree(folder, ignore_errors=True)


def uv(place: Place) -> Path:
    """uv, where the account can run it."""
    known = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    real = subprocess.run([known, "--version"], capture_output=True, check=False)
    if real.returncode != 0:
        pytest.skip("uv is neither on the PATH nor in .tools, and only it builds wheels and installs from the lock file")
    found = subprocess.run(
        [sys.executable, "-c", "import uv; print(uv.find_uv_bin())"], capture_output=True, text=True, check=False
    ).stdout.strip()
    copied = place.folder / "uv"
    shutil.copy(found or _binary(Path(known)), copied)
    copied.chmod(0o755)
    return copied


def _binary(known: Path) -> Path:
    """The program behind a launcher such as pyenv's."""
    if known.resolve().read_bytes()[:4] == b"\x7fELF" or sys.platform == "darwin":
        return known.resolve()
    told = subprocess.run(["pyenv", "which", "uv"], capture_output=True, text=True, check=False).stdout.strip()
    if not told:
        pytest.skip(f"{known} is a launcher, and the program behind it is not known")
    return Path(told)


def python(place: Place) -> Path:
    """A Python 3.11 or later that the account can run."""
    candidates = [sys.executable, "/usr/bin/python3.11", "/usr/bin/python3", "/usr/local/bin/python3"]
    for candidate in map(Path, candidates):
        real = candidate.resolve()
        if real.exists() and (place.account is None or all(parent.stat().st_mode & 0o001 for parent in real.parents)):
            version = subprocess.run(
                [real, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, text=True, check=True
            )
            if version.stdout.strip() == "True":
                return real
    pytest.skip("no Python 3.11 stands where an ordinary account can reach it")


def committed(folder: Path, *names: str) -> None:
    """The files of the checkout that git knows or would take, copied into a folder."""
    told = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *names], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in told.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def check_answers(address: str) -> None:
    assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
    assert httpx.get(f"{address}/openapi.json", trust_env=False).json()["openapi"].startswith("3.1")
    assert httpx.get(f"{address}/docs/swagger-ui.css", trust_env=False).status_code == 200
    assert httpx.get(f"{address}/v1/ledgers", trust_env=False).status_code == 401


def test_the_wheel_serves_from_an_empty_environment(place: Place) -> None:
    source, tool = place.folder / "source", uv(place)
    committed(source, "service", "migrations", "schemas", "pyproject.toml", "uv.lock", "README.md", "LICENSE")
    if place.account:
        shutil.chown(source, place.account.pw_uid, place.account.pw_gid)
    place.run([tool, "build", "--wheel", "--quiet", "--out-dir", place.folder / "dist"], source, UV_PYTHON=str(python(place)))
    (wheel,) = (place.folder / "dist").glob("*.whl")
    place.run([tool, "venv", "--quiet", "--python", python(place), place.folder / "environment"], place.folder)
    inside = place.folder / "environment" / "bin"
    place.run([tool, "pip", "install", "--quiet", "--python", inside / "python", wheel], place.folder)
    shutil.rmtree(source)
    with place.serving(inside / "contract-ledger") as address:
        check_answers(address)
    place.run([inside / "contract-ledger", "schemas", place.folder / "schemas"], place.folder)
    assert (place.folder / "schemas" / "events" / "value.revised.v1.json").is_file()


def test_the_dockerfiles_build_steps_make_a_service_that_answers(place: Place) -> None:
    """No Docker engine is needed: the build stage's COPY, ENV and RUN lines, in an empty folder, as an ordinary account."""
    build, target, tool = place.folder / "build", place.folder / "opt", uv(place)
    build.mkdir()
    environment = {"UV_PYTHON": str(python(place)), "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    steps = _build_stage()
    assert [step for step in steps if step[0] == "RUN"], "the Dockerfile has no build steps"
    for instruction, rest in steps:
        words = rest.split()
        if instruction == "ENV":
            environment |= dict(word.replace("/opt/contract-ledger", str(target)).split("=", 1) for word in words)
        elif instruction == "COPY" and not rest.startswith("--from"):
            committed(build, *words[:-1])
            _give(place, build)
        elif instruction == "RUN":
            place.run(["sh", "-c", rest], build, **environment)
    shutil.rmtree(build)
    with place.serving(target / "bin" / "contract-ledger") as address:
        check_answers(address)


def _build_stage() -> list[tuple[str, str]]:
    """The instructions of the stage named `build`, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    begin = next(index for index, line in enumerate(lines) if re.match(r"FROM .* AS build$", line))
    end = next(index for index, line in enumerate(lines[begin + 1 :], begin + 1) if line.startswith("FROM "))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines[begin + 1 : end]]


def _give(place: Place, folder: Path) -> None:
    if place.account:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, place.account.pw_uid, place.account.pw_gid)
