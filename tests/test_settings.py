"""A setting that cannot be meant is refused in one sentence that names it; nothing is begun, and there is no traceback."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest

from service.cli.server import Address, serve
from service.errors import OperatorError
from service.settings import Settings
from tests.servers import _BYTECODE, ROOT

VARIABLES: Final = {setting.name: setting.metadata["variable"] for setting in fields(Settings)}
NUMBERS: Final = [setting.name for setting in fields(Settings) if setting.type in (int, int | None)]
ISSUER: Final = {"oidc_issuer": "https://issuer.test", "oidc_audience": "here"}
UNPRINTABLE: Final = [" ", "\t", "a\nb", "\x1b[2J", os.fsdecode(b"\xff"), "a\u202eb"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def refusal(monkeypatch: pytest.MonkeyPatch, folder: Path, **stated: str) -> str:
    """The sentence with which `serve` refuses what is stated."""
    for name, text in stated.items():
        monkeypatch.setenv(VARIABLES[name], text)
    monkeypatch.chdir(folder)
    with pytest.raises(OperatorError) as refused:
        serve(Settings.from_environment(), Address("127.0.0.1", 0, 1))
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 1_000
    assert not list(folder.iterdir())
    return sentence


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "text", ["-0", "-1", "1.5", "1e3", "0x10", "ten", "1_000", "+5", "\u0663", "9" * 30, "9" * 5_000, "NaN", *UNPRINTABLE]
)
def test_a_number_that_is_none_or_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str) -> None:
    least, most = next((setting.metadata["least"], setting.metadata["most"]) for setting in fields(Settings) if setting.name == name)
    sentence = refusal(monkeypatch, tmp_path, **{name: text})
    assert sentence.startswith(f"{VARIABLES[name]} is ")
    assert sentence.endswith(f"a whole number from {least} to {most}.")


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "reconcile_contracts_per_minute"])
def test_none_at_all_is_refused_where_it_would_mean_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    assert "from 1 to" in refusal(monkeypatch, tmp_path, **{name: "0"})


def test_reconciliation_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_RECONCILE_CONTRACTS_PER_MINUTE", "0")
    assert Settings.from_environment().reconcile_contracts_per_minute == 0


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_taken_up_to_its_bound(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    most = next(setting.metadata["most"] for setting in fields(Settings) if setting.name == name)
    for number in (1, most):
        monkeypatch.setenv(VARIABLES[name], str(number))
        assert getattr(Settings.from_environment(), name) == number
    monkeypatch.setenv(VARIABLES[name], str(most + 1))
    with pytest.raises(OperatorError, match=VARIABLES[name]):
        Settings.from_environment()


@pytest.mark.parametrize("name", sorted(VARIABLES.keys() - set(NUMBERS)))
@pytest.mark.parametrize("text", UNPRINTABLE)
def test_a_text_that_cannot_be_printed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str) -> None:
    assert refusal(monkeypatch, tmp_path, **{name: text}).startswith(VARIABLES[name])


@pytest.mark.parametrize("name", VARIABLES)
def test_an_empty_setting_is_as_if_it_were_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(VARIABLES[name], "")
    assert Settings.from_environment() == Settings()


@pytest.mark.parametrize(
    ("named", "stated"),
    [
        ("api_key", {"api_key": "a key with spaces, of thirty-two characters"}),
        ("api_key", {"api_key": "k" * 31 + "é"}),
        ("log_format", {"log_format": "xml"}),
        ("webhook_networks", {"webhook_networks": "10.0.0.0/8, everyone"}),
        ("database_url", {"database_url": "postgresql://[", "data_dir": "/dev/null"}),
        ("database_url", {"database_url": "mysql://localhost/ledger"}),
        ("database_url", {"database_url": "no url"}),
        ("migration_url", {"database_url": "postgresql://127.0.0.1:1/x", "migration_url": "no url"}),
        ("migration_url", {"migration_url": "postgresql://127.0.0.1:1/x"}),
        ("oidc_audience", {"oidc_issuer": "https://issuer.test"}),
        ("oidc_issuer", {"oidc_audience": "here"}),
        ("oidc_issuer", {"oidc_jwks_url": "https://issuer.test/keys"}),
        ("oidc_issuer", {"oidc_algorithm": "RS256"}),
        ("oidc_issuer", {"oidc_claim": "scope"}),
        *[
            ("oidc_issuer", ISSUER | {"oidc_issuer": url})
            for url in ("x", "http://issuer.test", "https://", "http://[", "https://x:y", "ftp://x")
        ],
        *[("oidc_jwks_url", ISSUER | {"oidc_jwks_url": url}) for url in ("x", "http://issuer.test", "https://x:99999999")],
        *[("oidc_algorithm", ISSUER | {"oidc_algorithm": name}) for name in ("none", "HS256", "rs256", "RS256,HS256")],
        *[("webhook_networks", {"webhook_networks": text}) for text in ("nonsense", "10.0.0.1/8", "10.0.0.0/8;10.1.0.0/16")],
        *[("signing_key", {"signing_key": text}) for text in ("x", ",", "QUJD")],
        *[("deployment", {"deployment": text}) for text in ("our ledger", "a+b", "x" * 300)],
        ("data_dir", {"data_dir": "/dev/null/x"}),
        ("data_dir", {"data_dir": "/proc/x"}),
        ("data_dir", {"data_dir": "/tmp/" + "x" * 300}),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, stated: dict[str, str]
) -> None:
    sentence = refusal(monkeypatch, tmp_path, **stated)
    assert VARIABLES[named] in sentence or (named == "data_dir" and stated["data_dir"] in sentence)


@pytest.mark.parametrize("name", ["database_url", "migration_url", "api_key", "signing_key", "checkpoint_store"])
@pytest.mark.parametrize(
    "text",
    [
        "a-secret-word\r",
        "mysql://me:a-secret-word@db.example/x",
        "postgresql://me:a-secret-word%zz@db.example/x",
        "postgresql://me:a-secret-word/@db.example/x",
        "postgresql://me:and/a-secret-word@db.example/x",
    ],
)
def test_a_secret_does_not_come_back_in_its_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str) -> None:
    stated = {"database_url": "postgresql://127.0.0.1:1/x", "data_dir": "/dev/null/x", name: text}
    assert "a-secret-word" not in refusal(monkeypatch, tmp_path, **stated)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account of an embedded server can reach, when the tests run as root."""
    made = Path(tempfile.mkdtemp(prefix="contract-ledger-settings-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def serve_with(folder: Path, *options: str, **stated: str) -> subprocess.CompletedProcess[str]:
    settings = {VARIABLES[name]: text for name, text in stated.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    bytecode = _BYTECODE if sys.dont_write_bytecode else {}
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data-dir", str(folder / "data"), *options]
    return subprocess.run(command, cwd=ROOT, env=environment | bytecode | settings, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_says_the_sentence_and_no_more(folder: Path) -> None:
    ran = serve_with(folder, "--workers", "2", oidc_issuer="https://issuer.test", oidc_audience="here", oidc_algorithm="none")
    assert (ran.returncode, ran.stdout) == (1, "")
    (sentence,) = ran.stderr.splitlines()
    assert sentence.startswith("LEDGER_OIDC_ALGORITHM is 'none', and should be one of ")


def test_what_shows_only_at_the_start_is_told_without_a_traceback(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = serve_with(folder, metrics_port=str(taken.getsockname()[1]))
    assert ran.returncode not in (0, None)
    assert "is in use; stop what uses it, or choose another." in ran.stderr
    assert "Traceback" not in ran.stderr
