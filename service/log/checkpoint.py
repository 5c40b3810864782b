"""Checkpoints (C2SP tlog-checkpoint): what a tree is at a size, as the text of a signed note."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Self

from service.log.notes import NoteError
from service.log.tree import HASH_BYTES

_SIZE = re.compile("0|[1-9][0-9]{0,18}")


def origin_of(deployment: str, ledger: str, epoch: int) -> str:
    """What names a log: the deployment, the ledger in it, and the epoch of its history."""
    return f"{deployment}/{ledger}/{epoch}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root of the tree of a log at a size; extension lines, such as the time zone of its ledger, are signed with it."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The checkpoint of a note's text. NoteError for another text."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise NoteError("a checkpoint has an origin, a size and a root, a line each, and no empty line")
        origin, size, encoded, *extensions = lines
        if not _SIZE.fullmatch(size):
            raise NoteError(f"{size[:50]!r} is no size of a tree")
        try:
            root = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            root = b""
        if len(root) != HASH_BYTES or base64.b64encode(root).decode() != encoded:
            raise NoteError(f"{encoded[:100]!r} is no root of a tree")
        return cls(origin, int(size), root, tuple(extensions))

    def text(self) -> str:
        """The text that is signed."""
        return "\n".join((self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions, ""))
