"""Bundles as files: read a line at a time, whole or not at all.

For what works with a bundle by this package's own code, `fold` and `restore`. It checks that the file is whole and hangs together; who
signed it, and whether it is what was recorded, is for verify.py to say.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import msgspec

from service.audit.bundle import FORMAT, Closing, Line, Opening
from service.errors import OperatorError
from service.log.checkpoint import Checkpoint
from service.log.header import Header, decode_header
from service.log.notes import Note, NoteError

MAX_LINE_BYTES = 67_108_864

_decode_opening = msgspec.json.Decoder(Opening).decode
_decode_line = msgspec.json.Decoder(Line).decode
_decode_closing = msgspec.json.Decoder(Closing).decode
_CLOSING = b'{"end":'


class Read(NamedTuple):
    """An event of a bundle: its line, its header, and where in the file it begins."""

    line: Line
    header: Header
    offset: int


class BundleFile:
    """A bundle that is open: its opening line, the checkpoint in it, and its events, to be gone through once."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._digest = hashlib.sha256()
        self._number = self._events = 0
        self.opening = self._opening()
        self.checkpoint = self._checkpoint()

    def events(self) -> Iterator[Read]:
        """The events in their order. OperatorError for what is no line of one, and at the end where the file is not whole."""
        while True:
            offset, digest = self._stream.tell(), self._digest.hexdigest()
            raw = self._next()
            if raw.startswith(_CLOSING):
                self._close(raw, digest)
                return
            self._events += 1
            yield self.event(raw, offset)

    def at(self, offset: int) -> Read:
        """The event whose line begins at a place."""
        self._stream.seek(offset)
        return self.event(self._stream.readline(), offset)

    def event(self, raw: bytes, offset: int) -> Read:
        try:
            line = _decode_line(raw)
            return Read(line, decode_header(line.header), offset)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self.refuse(f"is no event of a bundle: {error}")

    def refuse(self, sentence: str) -> NoReturn:
        """OperatorError about the line that was read last."""
        raise OperatorError(f"{self._name}, line {self._number}: it {sentence}.")

    def _next(self) -> bytes:
        raw = self._stream.readline(MAX_LINE_BYTES + 1)
        self._number += 1
        if not raw.endswith(b"\n"):
            self.refuse("is not there, or not to its end: the bundle was cut off" if len(raw) <= MAX_LINE_BYTES else "is too long")
        self._digest.update(raw)
        return raw

    def _opening(self) -> Opening:
        try:
            opening = _decode_opening(self._next())
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self.refuse(f"does not open a bundle: {error}")
        if opening.format != FORMAT:
            self.refuse(f"opens a bundle of the format {opening.format!r}, and this release reads {FORMAT}")
        return opening

    def _checkpoint(self) -> Checkpoint:
        try:
            return Checkpoint.parse(Note.parse(self.opening.checkpoint).text)
        except NoteError as error:
            self.refuse(f"holds a checkpoint that is none: {error}")

    def _close(self, raw: bytes, digest: str) -> None:
        try:
            closing = _decode_closing(raw)
        except (msgspec.DecodeError, UnicodeError) as error:
            self.refuse(f"does not close a bundle: {error}")
        if not closing.end or closing.digest != digest or closing.events != self._events:
            self.refuse("does not count and digest the lines before it: the bundle was changed")
        if self._stream.readline(1):
            self._number += 1
            self.refuse("stands after the line that closes the bundle")


@contextmanager
def opened(file: Path) -> Iterator[BundleFile]:
    """A bundle to be read, for the time of the block. OperatorError for a file that cannot be read, or does not open a bundle."""
    try:
        stream = file.open("rb")
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}.") from None
    with stream:
        yield BundleFile(stream, str(file))
