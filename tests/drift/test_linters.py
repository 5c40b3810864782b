"""openapi.yaml is without findings by the two linters that its readers use: Redocly `recommended`, and Spectral `oas`."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

OPENAPI: Final = Path(__file__).parents[2] / "openapi.yaml"
PACKAGES: Final = ("@redocly/cli@2.77.0", "@stoplight/spectral-cli@6.16.3")
INSTALL_SECONDS: Final = 180
LINT_SECONDS: Final = 90
QUIET: Final = {
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "NO_COLOR": "1",
    "npm_config_update_notifier": "false",
}


def run(folder: Path, *command: str, seconds: float = LINT_SECONDS) -> subprocess.CompletedProcess[str]:
    """A command of the packages, which npm keeps in its cache."""
    packages = [f"--package={package}" for package in PACKAGES]
    return subprocess.run(
        ["npm", "exec", "--yes", *packages, "--", *command],
        cwd=folder,
        env=os.environ | QUIET,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, in which the linters run. Where they cannot be had the tests are skipped, but for CI, which is to have them."""
    made = tmp_path_factory.mktemp("linters")
    if shutil.which("npm") is None:
        pytest.skip("the linters of OpenAPI documents take Node.js and npm")
    installed = run(made, "redocly", "--version", seconds=INSTALL_SECONDS)
    if installed.returncode != 0 and "CI" not in os.environ:
        pytest.skip(f"npm cannot install the linters: {installed.stderr.strip()[-200:]}")
    assert installed.returncode == 0, installed.stderr
    return made


@pytest.fixture(scope="module")
def spoilt(folder: Path) -> Path:
    """The document with two operations of one name: what a linter has to find."""
    made = folder / "spoilt.yaml"
    made.write_text(OPENAPI.read_text().replace("operationId: list_contracts\n", "operationId: get_contract\n", 1))
    return made


def test_redocly_recommended_finds_nothing(folder: Path, spoilt: Path) -> None:
    linted = run(folder, "redocly", "lint", "--extends", "recommended", "--format", "json", str(OPENAPI), str(spoilt))
    read, told = json.JSONDecoder(), linted.stdout.strip()
    of_ours, end = read.raw_decode(told)
    of_spoilt, _ = read.raw_decode(told[end:].strip())
    assert of_ours["problems"] == []
    assert {problem["ruleId"] for problem in of_spoilt["problems"]} == {"operation-operationId-unique"}


def test_spectral_oas_finds_nothing(folder: Path, spoilt: Path) -> None:
    (folder / "ruleset.yaml").write_text("extends: ['spectral:oas']\n")
    linted = run(folder, "spectral", "lint", "--ruleset", "ruleset.yaml", "--format", "json", "--quiet", str(OPENAPI), str(spoilt))
    found = [(Path(finding["source"]).name, finding["code"]) for finding in json.loads(linted.stdout)]
    assert found == [("spoilt.yaml", "operation-operationId-unique")]
