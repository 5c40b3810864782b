"""The account that runs the server: PostgreSQL refuses to run as root."""

import os
import pwd
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.errors import OperatorError


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server; `switch` says that it is not who we are."""

    name: str
    uid: int
    gid: int
    switch: bool

    def may_enter(self, path: Path) -> bool:
        if not self.switch:
            return os.access(path, os.X_OK)
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return bool(status.st_mode >> shift & stat.S_IXOTH)

    def closed_part(self, path: Path) -> Path | None:
        """The first of the path's parents, or the path itself, that this account cannot enter."""
        parts = (*reversed(path.parents), path)
        return next((part for part in parts if not self.may_enter(part)), None)

    def own(self, path: Path) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_tree(self, folder: Path) -> None:
        for parent, _, files in os.walk(folder):
            self.own(Path(parent))
            for name in files:
                self.own(Path(parent, name))

    def spawn(self, command: list[str], folder: Path, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=folder,
            # A clean environment: PGDATA, PGOPTIONS and the like would change what we start.
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal reaches the service, which stops the server after its last commit.
            start_new_session=True,
            user=self.uid if self.switch else None,
            group=self.gid if self.switch else None,
            extra_groups=[] if self.switch else None,
        )


def server_account() -> Account:
    """PostgreSQL refuses to run as root: then an ordinary account runs it."""
    if os.geteuid() != 0:
        return _account(pwd.getpwuid(os.geteuid()).pw_name, switch=False)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return _account(name, switch=True)
    raise OperatorError("PostgreSQL will not run as root and there is no account postgres or nobody: run the service as an ordinary user.")


def _account(name: str, *, switch: bool) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, switch)
