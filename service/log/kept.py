"""The kept checkpoints: outside the database and outside the data folder, the last checkpoint of each ledger that was to be signed.

Who restores a database restores its data folder with it; what is kept here tells that the log was longer, or another.
"""

import base64
import fcntl
from pathlib import Path
from typing import NamedTuple, TypedDict

import msgspec

from service.errors import OperatorError
from service.log.heads import replace_file, sync_folder


class Kept(NamedTuple):
    """The root of a ledger's tree at a size, in an epoch."""

    epoch: int
    size: int
    root: bytes


class _Members(TypedDict):
    """A kept checkpoint in its file."""

    epoch: int
    size: int
    root: str


class KeptElsewhere(Exception):
    """Another process has kept a checkpoint meanwhile."""


class KeptCheckpoints:
    """The kept checkpoints of a deployment: a file for each ledger in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, ledger_id: str) -> Kept | None:
        """The kept checkpoint of a ledger. OperatorError when it is there and cannot be read."""
        file = self._file(ledger_id)
        try:
            known = msgspec.json.decode(file.read_bytes(), type=_Members)
            return Kept(known["epoch"], known["size"], base64.b64decode(known["root"], validate=True))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise OperatorError(
                f"The kept checkpoint {file} cannot be read ({error}), so whether the database is the one it is of is not known. "
                "Put the file back from a backup; or, if this database is sure to be the newest copy, delete it."
            ) from error

    def keep(self, ledger_id: str, known: Kept | None, wanted: Kept) -> None:
        """Keep a checkpoint in the place of the one that is known; once it returns, a power cut leaves it.

        KeptElsewhere when another is kept by now; OperatorError when the folder cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self._folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.read(ledger_id) != known:
                    raise KeptElsewhere
                content = _Members(epoch=wanted.epoch, size=wanted.size, root=base64.b64encode(wanted.root).decode())
                replace_file(self._file(ledger_id), msgspec.json.encode(content))
                sync_folder(self._folder)
        except OSError as error:
            raise OperatorError(f"The folder of kept checkpoints {self._folder} cannot be written: {error}.") from error

    def _file(self, ledger_id: str) -> Path:
        return self._folder / f"{ledger_id}.json"
