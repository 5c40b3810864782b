"""The two commands, wherever somebody puts the clone."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_a_clone_may_stand_in_a_folder_with_a_space_in_its_name(tmp_path: Path) -> None:
    clone = tmp_path / "my clones" / "the ledger"
    own_uv = clone / ".tools" / "bin" / "uv"
    own_uv.parent.mkdir(parents=True)
    own_uv.write_text('#!/bin/bash\nmkdir -p .venv && echo "$@" > told\n')
    own_uv.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, clone)
    # A PATH without uv: the clone's own is taken.
    ran = subprocess.run(
        ["make", "install"], cwd=clone, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (clone / "told").read_text() == "sync --locked\n"
