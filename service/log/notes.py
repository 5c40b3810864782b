"""Signed notes (C2SP signed-note): a text, and under it lines by keys that have names; signatures by Ed25519 (RFC 8032).

Cosignatures of witnesses (C2SP tlog-cosignature, version 1) are signatures on the same lines, over the text with the time before it.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_NOTE_BYTES: Final = 65_536
MAX_SIGNATURES: Final = 64
ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
_KEY_BYTES, _ID_BYTES, _TIME_BYTES, _SIGNATURE_BYTES = 32, 4, 8, 64
_NAME = re.compile(r"[^\s+]+")
_LINE = re.compile("— ([^ +]+) ([A-Za-z0-9+/]+={0,2})")


class NoteError(ValueError):
    """A text is no signed note, or no key of one; the message says why."""


def is_name(text: str) -> bool:
    """Whether a key of a note may have this name."""
    return _NAME.fullmatch(text) is not None


def key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """The four bytes by which a signature names its key, beside the key's name."""
    return hashlib.sha256(name.encode() + b"\n" + bytes((kind,)) + public_key).digest()[:_ID_BYTES]


class Signature(NamedTuple):
    """A line under a note: the key's name and id, and what it made."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        return f"— {self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


class Note(NamedTuple):
    """A text, with its last newline, and the signatures under it."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, note: str | bytes) -> Self:
        """A note as it is sent or stored. NoteError for anything else."""
        raw = note.encode() if isinstance(note, str) else note
        if len(raw) > MAX_NOTE_BYTES:
            raise NoteError(f"a note has at most {MAX_NOTE_BYTES} bytes")
        try:
            whole = raw.decode()
        except UnicodeDecodeError:
            raise NoteError("a note is UTF-8") from None
        if re.search(r"[\x00-\x09\x0b-\x1f]", whole):
            raise NoteError("a note holds no control characters but newlines")
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise NoteError("a note is a text, an empty line, and lines with signatures")
        given = lines[:-1].split("\n")
        if len(given) > MAX_SIGNATURES:
            raise NoteError(f"a note has at most {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(_signature(line) for line in given))

    def format(self) -> str:
        """The note as it is sent and stored."""
        return self.text + "\n" + "".join(signature.line() for signature in self.signatures)


def _signature(line: str) -> Signature:
    known = _LINE.fullmatch(line)
    raw = _decoded(known[2]) if known else b""
    if known is None or not _NAME.fullmatch(known[1]) or len(raw) <= _ID_BYTES:
        raise NoteError(f"{line[:100]!r} is no signature of a note")
    return Signature(known[1], raw[:_ID_BYTES], raw[_ID_BYTES:])


def _decoded(text: str) -> bytes:
    """What a base64 text stands for, which stands for it only; nothing for another."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name, as others pin it: `<name>+<id in hex>+<base64 of kind and key>`."""

    name: str
    public_key: bytes
    kind: int = ED25519

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.kind, self.public_key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A verifier key. NoteError for another text."""
        name, _, rest = text.strip().partition("+")
        known_id, _, encoded = rest.partition("+")
        raw = _decoded(encoded)
        if not _NAME.fullmatch(name) or len(raw) != 1 + _KEY_BYTES or raw[0] not in (ED25519, COSIGNATURE):
            raise NoteError(f"{text[:200]!r} is no verifier key by Ed25519, such as example.com/log+33d7b496+AeHTu4...")
        made = cls(name, raw[1:], raw[0])
        if made.key_id.hex() != known_id:
            raise NoteError(f"{text[:200]!r} names the key {known_id}, and is the key {made.key_id.hex()}")
        return made

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes((self.kind,)) + self.public_key).decode()}"

    def signed(self, note: Note) -> bool:
        """Whether the key signed the note. NoteError when a signature of it is there that does not hold."""
        found = [known for known in note.signatures if (known.name, known.key_id) == (self.name, self.key_id)]
        for signature in found:
            if not self._holds(note.text, signature.signature):
                raise NoteError(f"the signature of {self.name} does not hold")
        return bool(found)

    def _holds(self, text: str, signature: bytes) -> bool:
        message = text.encode()
        if self.kind == COSIGNATURE:
            if len(signature) != _TIME_BYTES + _SIGNATURE_BYTES:
                return False
            message, signature = cosigned(message, int.from_bytes(signature[:_TIME_BYTES], "big")), signature[_TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def cosigned(text: bytes, seconds: int) -> bytes:
    """What a witness signs of a checkpoint's text, at a time in seconds since 1970 (C2SP tlog-cosignature)."""
    return b"cosignature/v1\ntime %d\n%s" % (seconds, text)


class Signer:
    """A private key."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 bytes of RFC 8032. NoteError for another number."""
        if len(seed) != _KEY_BYTES:
            raise NoteError(f"an Ed25519 key is made of {_KEY_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()

    def verifier(self, name: str) -> Verifier:
        return Verifier(name, self.public_key)

    def sign(self, name: str, text: str) -> Signature:
        """The signature over a text under a name."""
        return Signature(name, self.verifier(name).key_id, self._key.sign(text.encode()))
