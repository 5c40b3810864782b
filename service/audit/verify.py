#!/usr/bin/env python3
"""Verifies a bundle of contract-ledger: this one file, Python 3.9 or later and its standard library, nothing else.

    python verify.py BUNDLE --key VERIFIERKEY [--kept CHECKPOINT] [--ledger ID]

It shares no code with the service that writes bundles: docs/bundle-format.md says what a bundle is, and this reads it anew. It goes once
through the file, a line at a time, and keeps of each contract its last revision and hash. Exit status: 0 valid, 1 invalid, 2 it cannot be
told. In reading order: what is hostile in JSON, the tree (RFC 6962), signatures (RFC 8032, C2SP signed notes), the verdict, the walk.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from typing import Any, BinaryIO, Collection, Dict, NoReturn, Sequence, Tuple

Members = Dict[str, Any]
Point = Tuple[int, int, int, int]
FORMAT = "contract-ledger/bundle/v1"
HEADER_SCHEMA = "contract-ledger/header/v1"
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 4096
MAX_CHECKPOINT_BYTES = 1_000_000
MAX_PROOF_HASHES = 64
MAX_EPOCHS = 1_000
ZEROS = "0" * 64
_HEX = re.compile("[0-9a-f]{64}")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_NAME = re.compile(r"[a-z_.]{1,100}")
_EPOCH = re.compile("(.+)/([1-9][0-9]{0,8})")
_FOLLOWS = re.compile("follows ([^ ]+) (0|[1-9][0-9]{0,15}) ([A-Za-z0-9+/]{43}=)")
_DAY = re.compile(r"[0-9]{4}(-Q[1-4]|-[0-9]{2}(-[0-9]{2})?)?")


class Unusable(Exception):
    """What was given is not what this can read; the message says where and why."""


# ---- JSON that is text, with whole numbers below 2^53, without a member twice, and nothing else


def read_json(text: bytes | str, what: str) -> Members:
    """A JSON object. Unusable for anything that two readers could read differently."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_members, parse_float=_no_float, parse_constant=_no_float, parse_int=_whole)
        text.encode("utf-8")
    except RecursionError:
        raise Unusable(what + " is nested too deeply") from None
    except ValueError as error:  # of json, of UTF-8, and those raised below
        raise Unusable(f"{what} is not the JSON it should be: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Unusable(what + " is not a JSON object")
    return found


def _members(pairs: list[tuple[str, Any]]) -> Members:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:30]} is no whole number")


def _whole(text: str) -> int:
    if len(text) > 17 or not -(2**53) < int(text) < 2**53:
        raise ValueError("a number beyond 2^53")
    return int(text)


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785) of a value without floats. Unusable for text that UTF-8 cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8")
    except (ValueError, RecursionError):
        raise Unusable("a text holds half of a surrogate pair, or is nested too deeply") from None


def member(members: Members, name: str, kind: Any, what: str, pattern: re.Pattern[str] | None = None) -> Any:
    """A member that has to be there, of a type and spelt so."""
    value: Any = members.get(name)
    if type(value) is not kind or (kind is str and not _encodes(value)) or (pattern is not None and not pattern.fullmatch(value)):
        raise Unusable(f"{what} has no proper `{name}`")
    return value


def _encodes(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text) if not text.isascii() else True


def only(members: Members, allowed: Collection[str], what: str) -> None:
    unknown = sorted(name for name in members if name not in allowed)
    if unknown:
        raise Unusable(f"{what} has a member that this format does not know: {ascii(unknown[0])[:50]}")


# ---- The tree of RFC 6962, section 2.1


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path proves a leaf at an index of a tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size or any(len(one) != 32 for one in [leaf, root, *path]):
        return False
    node, at, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path proves that one tree continues another (RFC 9162, section 2.1.4.2)."""
    if not 0 <= size1 <= size2 or any(len(one) != 32 for one in [root1, root2, *path]):
        return False
    if size1 in (0, size2):
        return not path and root1 == (root2 if size1 == size2 else hashlib.sha256(b"").digest())
    nodes = [root1, *path] if size1 & (size1 - 1) == 0 else list(path)
    if not path:
        return False
    at, last = size1 - 1, size2 - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, node)
        at, last = at >> 1, last >> 1
    return last == 0 and (old, new) == (root1, root2)


class Tree:
    """A tree that grows from the left: the roots of its complete subtrees, each with its height, the greatest first."""

    def __init__(self) -> None:
        self.size = 0
        self.nodes: list[tuple[int, bytes]] = []

    def add(self, node: bytes, height: int = 0) -> None:
        """Add a complete subtree; it has to begin where one of its height may."""
        self.size += 1 << height
        while self.nodes and self.nodes[-1][0] == height:
            node, height = node_hash(self.nodes.pop()[1], node), height + 1
        self.nodes.append((height, node))

    def root(self) -> bytes:
        if not self.nodes:
            return hashlib.sha256(b"").digest()
        root = self.nodes[-1][1]
        for _, node in reversed(self.nodes[:-1]):
            root = node_hash(node, root)
        return root

    def grow(self, size: int, hashes: Sequence[bytes]) -> None:
        """Add the complete subtrees, as great as they can be, that lead to a size, given their hashes in order."""
        for node in hashes:
            if self.size >= size:
                raise Unusable("the opening line has more hashes of the tree than its size takes")
            height = (size - self.size).bit_length() - 1
            if self.size:
                height = min(height, (self.size & -self.size).bit_length() - 1)
            self.add(node, height)
        if self.size != size:
            raise Unusable("the opening line has fewer hashes of the tree than its size takes")


# ---- Ed25519 (RFC 8032, section 5.1), to verify: nothing here is secret, so nothing here is constant in time

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_1 = pow(2, (_P - 1) // 4, _P)


def _add(a: Point, b: Point) -> Point:
    """The sum of two points (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    g, h = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    i, j, k, m = f - e, h - g, h + g, f + e
    return i * j % _P, k * m % _P, j * k % _P, i * m % _P


def _multiply(scalar: int, point: Point) -> Point:
    product = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            product = _add(product, point)
        point, scalar = _add(point, point), scalar >> 1
    return product


def _point(encoded: bytes) -> Point | None:
    """The point of 32 bytes; None for those of none."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


_BASE = _point((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little")) or (0, 1, 1, 0)


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is that of the holder of a public key."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r, s = _point(public), _point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= _L:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    left, right = _multiply(s, _BASE), _add(r, _multiply(digest, a))
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (left[1] * right[2] - right[1] * left[2]) % _P == 0


# ---- Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Unusable(f"{ascii(text)[:60]} is not base64") from None


def epoch_of(origin: str) -> tuple[str, int]:
    """The log that an origin, `<deployment>/<ledger>/<epoch>`, is of, and the epoch of its history; 0 for an origin without one."""
    found = _EPOCH.fullmatch(origin)
    return (found[1], int(found[2])) if found else (origin, 0)


class Key:
    """A verifier key, `name+hash+key`, as the one who verifies has pinned it. It is one of the log in later epochs, too."""

    def __init__(self, text: str) -> None:
        parts = text.strip().split("+", 2)
        key = _base64(parts[2]) if len(parts) == 3 else b""
        if len(key) != 33 or key[0] != 1:
            raise Unusable(f"{ascii(text)[:100]} is not the verifier key of an Ed25519 signer, name+hash+key")
        self.name, self.public = parts[0], key[1:]
        if self.id_as(self.name).hex() != parts[1]:
            raise Unusable(f"the verifier key of {self.name!a} does not have the hash {ascii(parts[1])[:20]} that it names")

    def id_as(self, name: str) -> bytes:
        """What a signature by this key under a name begins with."""
        return hashlib.sha256(name.encode() + b"\n\x01" + self.public).digest()[:4]

    def signs_as(self, name: str, *, ever: bool = False) -> bool:
        """Whether signatures under a name count: its own, that of the same log in a later epoch, or `ever` in any."""
        (log, pinned), (other, epoch) = epoch_of(self.name), epoch_of(name)
        return name == self.name or (log == other and (epoch > pinned > 0 or (ever and epoch > 0 < pinned)))


class Checkpoint:
    """The head of a log as its operator signed it: origin, size and root, and who signed."""

    def __init__(self, note: str) -> None:
        body, found, signatures = note.rpartition("\n\n")
        self.text = body + "\n"
        lines = body.split("\n")
        if not found or not signatures.endswith("\n") or len(lines) < 3 or "" in lines or len(note) > MAX_CHECKPOINT_BYTES:
            raise Unusable("the checkpoint is not a signed note with origin, size and root")
        self.origin, size, self.extensions = lines[0], lines[1], lines[3:]
        if not re.fullmatch("0|[1-9][0-9]{0,15}", size):
            raise Unusable("the checkpoint's size is no number")
        self.size, self.root = int(size), _base64(lines[2])
        self.signatures = [_signature(line) for line in signatures[:-1].split("\n")]
        if len(self.root) != 32 or len(self.signatures) > 100:
            raise Unusable("the checkpoint's root is not a hash, or it has too many signatures")

    def signer(self, keys: Sequence[Key], *, ever: bool = False) -> Key | None:
        """The key, among those pinned, that signed it; None when none did. `ever` takes signatures of epochs before the pinned one."""
        text = self.text.encode("utf-8")
        for name, signed in self.signatures:
            # A signature is over the text alone, and one key signs for many logs: the name beside it is anybody's to write.
            if epoch_of(name)[1] and name != self.origin:
                continue
            for key in keys:
                if key.signs_as(name, ever=ever) and key.id_as(name) == signed[:4] and ed25519_verify(key.public, text, signed[4:]):
                    return key
        return None


def _signature(line: str) -> tuple[str, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, signature = rest.partition(" ")
    if dash != "\u2014" or not name:
        raise Unusable(f"the checkpoint has a line that is no signature: {ascii(line)[:60]}")
    return name, _base64(signature)


# ---- The verdict, check by check

CHECKS = {
    "format": "every line is there, readable, and the last counts and digests those before it",
    "signature": "the checkpoint is signed by a key that you pinned",
    "ledger": "all is of one ledger, and of one contract where the bundle is of one",
    "tree": "every event stands at its place in the tree whose root was signed",
    "epochs": "no epoch was begun since the one you know, or each by a signed note, and the tree continues the last",
    "consistency": "that tree continues the one of the checkpoint that you kept",
    "order": "no event is missing, twice, or out of order",
    "chain": "each event names the hash of the one before it in its contract",
    "bodies": "each body has the digest that its header holds",
    "sealed": "what is sealed has the digest that its header holds",
    "erasures": "each body that is missing was erased by an event of its contract",
}
NOT_PROVEN = (
    "That something was never submitted to the ledger, that what was recorded is true, or that it was recorded as soon as it was known.",
    "That nobody was shown another history under the same key: compare checkpoints with others, or ask for a witness's signature.",
    "The clock: an instant is what the ledger's operator said it was; only the order of events is proven.",
)
OF_A_PART = "That the ledger has nothing more: this bundle is a part, and later or other events stand outside it."


class Verdict:
    """What was found of each check: faults (it is invalid), doubts (it cannot be told), and remarks."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {name: [] for name in CHECKS}
        self.doubts: dict[str, list[str]] = {name: [] for name in CHECKS}
        self.remarks: dict[str, list[str]] = {name: [] for name in CHECKS}
        self.counts = dict.fromkeys(CHECKS, 0)
        self.done = False

    def fault(self, check: str, where: str, what: str) -> None:
        self.counts[check] += 1
        if self.counts[check] == 1:
            self.faults[check].append(f"{where}: {what}")

    def doubt(self, check: str, what: str) -> None:
        if len(self.doubts[check]) < 3:
            self.doubts[check].append(what)

    def of(self, check: str) -> tuple[str, str]:
        """The verdict on a check, and why."""
        if self.faults[check]:
            more = f" (and {self.counts[check] - 1} more such)" if self.counts[check] > 1 else ""
            return "invalid", self.faults[check][0] + more
        if self.doubts[check]:
            return "indeterminate", "; ".join(self.doubts[check])
        if not self.done and check not in ("signature", "format"):
            return "indeterminate", "the bundle could not be read to its end"
        if check == "consistency" and not self.remarks[check]:
            return "not asked", "no checkpoint that you kept was given (--kept)"
        return "valid", "; ".join([CHECKS[check], *self.remarks[check]])

    def overall(self) -> str:
        found = {self.of(check)[0] for check in CHECKS}
        return "invalid" if "invalid" in found else "indeterminate" if "indeterminate" in found else "valid"


# ---- The walk through a bundle

OPENING = frozenset(
    "format kind ledger_id ledger time_zone contract_id from_position to_position checkpoint keys consistency before after sealed "
    "policies made_at made_by epochs".split()
)
LINE = frozenset("header body erased proof sealed ends_batch".split())
ERASED = frozenset("position header body proof".split())
CLOSING = frozenset("end events erased contracts digest".split())
_REQUIRED = {
    "body_digest": _HEX, "contract_id": _UUID, "event_id": _UUID, "event_type": _NAME, "ledger_id": _UUID, "position": None,
    "prev": _HEX, "recorded_at": _INSTANT, "recorded_by": _UUID, "revision": None, "schema": None, "schema_version": None,
}  # fmt: skip
_OPTIONAL = {"causation_id": _UUID, "correlation_id": _UUID, "effective_on": _DAY, "hypothetical": None, "sealed_digest": _HEX}


def read_header(text: str, what: str) -> Members:
    """The members of a header. Unusable unless it is canonical, and has those that a header has."""
    header = read_json(text, what)
    only(header, _REQUIRED.keys() | _OPTIONAL.keys(), what)
    for name, pattern in {**_REQUIRED, **{name: _OPTIONAL[name] for name in _OPTIONAL if name in header}}.items():
        kind = bool if name == "hypothetical" else int if name in ("position", "revision", "schema_version") else str
        value = member(header, name, kind, what, pattern)
        if kind is not str and value < 1:
            raise Unusable(f"{what} has no proper `{name}`")
    if header["schema"] != HEADER_SCHEMA or len(text) > MAX_HEADER_BYTES or canonical(header) != text.encode("utf-8"):
        raise Unusable(f"{what} is not a canonical header by {HEADER_SCHEMA}")
    return header


def hashes(members: Members, name: str, what: str) -> list[bytes]:
    """A list of hashes in hex."""
    found = member(members, name, list, what)
    if len(found) > MAX_PROOF_HASHES or not all(type(one) is str and _HEX.fullmatch(one) for one in found):
        raise Unusable(f"`{name}` of {what} is not a list of at most {MAX_PROOF_HASHES} hashes")
    return [bytes.fromhex(one) for one in found]


class Beginning:
    """The checkpoint that an epoch begins with, signed: where it goes on, and the last that was signed before, which it follows."""

    def __init__(self, given: Any, what: str) -> None:
        if not isinstance(given, dict):
            raise Unusable(f"{what} is no object")
        only(given, ("checkpoint", "hashes"), what)
        self.checkpoint = Checkpoint(member(given, "checkpoint", str, what))
        self.hashes = hashes(given, "hashes", what) if "hashes" in given else None
        found = [_FOLLOWS.fullmatch(line) for line in self.checkpoint.extensions if line.startswith("follows ")]
        if len(found) != 1 or found[0] is None:
            raise Unusable(f"{what} does not say what it follows")
        self.follows, self.follows_size, self.follows_root = found[0][1], int(found[0][2]), _base64(found[0][3])


class Epochs:
    """The epochs of a log that its operator began, the oldest first. A new one is begun when a database was restored that lacks events,
    or has others than were signed: so what was signed before may be lost, and each says how much was signed."""

    def __init__(self, opening: Members, head: Checkpoint) -> None:
        given = member(opening, "epochs", list, "the opening line") if "epochs" in opening else []
        if len(given) > MAX_EPOCHS:
            raise Unusable(f"the opening line has more than {MAX_EPOCHS} epochs")
        self.head, (self.log, self.epoch) = head, epoch_of(head.origin)
        self.begun = [Beginning(one, f"epoch {number} of the opening line") for number, one in enumerate(given, 1)]
        known = [0, *(epoch_of(one.checkpoint.origin)[1] for one in self.begun)]
        if sorted(set(known)) != known or any(epoch_of(one.checkpoint.origin)[0] != self.log for one in self.begun):
            raise Unusable("the opening line has epochs of another log, or not in their order")
        if known[-1] > self.epoch:
            raise Unusable("the opening line has an epoch after that of the checkpoint")

    def check(self, keys: Sequence[Key], known: int, verdict: Verdict) -> None:
        """Each note since the epoch that is `known` is signed and follows the one before, and the tree continues the last beginning."""
        for one in self.begun:
            # Those before may be signed by keys that were retired since, and nothing rests on them.
            is_news = epoch_of(one.checkpoint.origin)[1] > known > 0
            if is_news and keys and one.checkpoint.signer(keys, ever=True) is None:
                verdict.fault("epochs", f"the note of {one.checkpoint.origin!a}", "it is not signed by a key that you pinned")
        last = self.begun[-1] if self.begun else None
        if last is not None and last.checkpoint.origin == self.head.origin and not self._continues(last):
            verdict.fault("epochs", "the checkpoint", "its tree does not continue the one that its epoch began with")
        if 0 < known < self.epoch:
            self._check_since(known, verdict)

    def _check_since(self, known: int, verdict: Verdict) -> None:
        """The notes lead back from the epoch of the checkpoint to the one that is known."""
        origin = self.head.origin
        for one in reversed(self.begun):
            if one.checkpoint.origin == origin and epoch_of(origin)[1] > known:
                origin = one.follows
                verdict.remarks["epochs"].append(_told(one))
        log, epoch = epoch_of(origin)
        if log != self.log or epoch < known:
            verdict.fault("epochs", "the opening line", f"its notes lead to {origin!a} and not to epoch {known}, which you know")
        elif epoch > known:
            verdict.doubt("epochs", f"no note shows how {origin!a} was begun, and you know epoch {known}")

    def _continues(self, last: Beginning) -> bool:
        first, head = last.checkpoint, self.head
        return last.hashes is not None and verify_consistency(first.size, head.size, first.root, head.root, last.hashes)

    def after(self, kept: Checkpoint) -> list[Beginning]:
        """The epochs after that of a checkpoint."""
        return [one for one in self.begun if epoch_of(one.checkpoint.origin)[1] > epoch_of(kept.origin)[1]]


def _told(one: Beginning) -> str:
    number, size = epoch_of(one.checkpoint.origin)[1], one.checkpoint.size
    return f"epoch {number} goes on from {size} events after {one.follows_size} were signed in epoch {epoch_of(one.follows)[1]}"


class Walk:
    """One way through a bundle, from its opening line to its closing one."""

    def __init__(self, opening: Members, keys: Sequence[Key], kept: Checkpoint | None, verdict: Verdict) -> None:
        what = "the opening line"
        only(opening, OPENING, what)
        if opening.get("format") != FORMAT:
            raise Unusable(f"this is not a bundle of the format {FORMAT}")
        self.kind = member(opening, "kind", str, what, re.compile("contract|range|ledger"))
        self.ledger_id = member(opening, "ledger_id", str, what, _UUID)
        self.contract_id = member(opening, "contract_id", str, what, _UUID) if self.kind == "contract" else None
        self.checkpoint = Checkpoint(member(opening, "checkpoint", str, what))
        self.opening, self.verdict, self.kept = opening, verdict, kept
        self.tree, self.events, self.erased, self.sealed, self.opened = Tree(), 0, 0, 0, 0
        self.last: Dict[bytes, Tuple[int, str]] = {}
        self.recorded_at = ""
        self.kept_root: bytes | None = None
        self.first, self.to = 1, self.checkpoint.size
        if self.kind == "range":
            self.first, self.to = member(opening, "from_position", int, what), member(opening, "to_position", int, what)
            if not 1 <= self.first <= self.to <= self.checkpoint.size:
                raise Unusable(f"the range of the bundle is none within the {self.checkpoint.size} events of its checkpoint")
            self.tree.grow(self.first - 1, hashes(opening, "before", what))
        self.position = self.first - 1
        self.epochs = Epochs(opening, self.checkpoint)
        self._check_head(keys)
        known = [epoch_of(name) for name in ([key.name for key in keys] if kept is None else [kept.origin])]
        self.epochs.check(keys, max((epoch for log, epoch in known if log == self.epochs.log), default=0), verdict)

    def _check_head(self, keys: Sequence[Key]) -> None:
        """Who signed the checkpoint, and what it says of the ledger."""
        signer = self.checkpoint.signer(keys)
        if not keys:
            self.verdict.doubt("signature", "no verifier key was given (--key), so anybody may have signed this")
        elif signer is not None and signer.name != self.checkpoint.origin and epoch_of(signer.name)[1]:
            self.verdict.remarks["signature"].append(f"in a later epoch than that of {signer.name!a}")
        elif signer is None:
            pinned = ", ".join(sorted({ascii(key.name) for key in keys}))
            self.verdict.fault("signature", "the checkpoint", f"none of its signatures is of a key that you pinned, which are of {pinned}")
        zone = member(self.opening, "time_zone", str, "the opening line")
        if [line for line in self.checkpoint.extensions if line.startswith("time zone ")] not in ([], ["time zone " + zone]):
            self.verdict.fault("ledger", "the opening line", "its time zone is not the one that the checkpoint names")
        log, epoch = epoch_of(self.checkpoint.origin)
        if epoch and log.rpartition("/")[2] != self.opening.get("ledger"):
            self.verdict.fault("ledger", "the opening line", f"its ledger is not the one of the log {self.checkpoint.origin!a}")
        if self.kept is not None:
            self._check_kept(self.kept)

    def _check_kept(self, kept: Checkpoint) -> None:
        """What was kept is of the same log; and if of an earlier epoch, what was signed since does not deny it."""
        (log, epoch), head = epoch_of(kept.origin), self.checkpoint
        if log != self.epochs.log or (epoch == 0 and kept.origin != head.origin):
            self.verdict.fault(
                "consistency", "the checkpoint", f"it is of the log {head.origin!a}, and the one you kept of {kept.origin!a}"
            )
        elif epoch > self.epochs.epoch:
            earlier = f"it is of epoch {self.epochs.epoch}, and the one you kept of epoch {epoch}: this is a history that was given up"
            self.verdict.fault("consistency", "the checkpoint", earlier)
        for one in self.epochs.after(kept):
            where, lost = f"the note of {one.checkpoint.origin!a}", kept.size - one.checkpoint.size
            if one.follows == kept.origin and one.follows_size < kept.size:
                signed = f"it says that {one.follows_size} events were signed before, and you kept a checkpoint of {kept.size}"
                self.verdict.fault("consistency", where, signed)
            elif one.follows == kept.origin and one.follows_size == kept.size and one.follows_root != kept.root:
                self.verdict.fault("consistency", where, f"two roots for one size, {kept.size}: there are two histories")
            elif lost > 0:
                went = f"the log goes on from {one.checkpoint.size} events, so {lost} of those you kept a checkpoint of are given up"
                self.verdict.fault("consistency", where, went)

    def event(self, line: Members, where: str) -> None:
        """Check the line of an event."""
        only(line, LINE, where)
        if line.get("ends_batch", True) is not True:
            raise Unusable(f"{where} has no proper `ends_batch`")
        text = member(line, "header", str, where)
        header = read_header(text, "the header in " + where)
        position, leaf = header["position"], leaf_hash(text.encode("utf-8"))
        where = f"{where} (position {position})"
        self.events += 1
        self._check_order(header, where)
        self._check_chain(header, leaf.hex(), where)
        if self.kind != "contract":
            if self.kept is not None and self.tree.size == self.kept.size:
                self.kept_root = self.tree.root()
            self.tree.add(leaf)
        elif not verify_inclusion(position - 1, self.checkpoint.size, leaf, hashes(line, "proof", where), self.checkpoint.root):
            self.verdict.fault("tree", where, "its proof does not lead to the root that was signed")
        if line.get("body", False) is None:
            self._check_erasure(line, header, where)
        else:
            self._check_body(line, header, where)

    def _check_order(self, header: Members, where: str) -> None:
        if header["ledger_id"] != self.ledger_id:
            self.verdict.fault("ledger", where, "the event is of another ledger, {}".format(header["ledger_id"]))
        if self.contract_id not in (None, header["contract_id"]):
            self.verdict.fault("ledger", where, "the event is of another contract, {}".format(header["contract_id"]))
        due = self.position + 1
        if header["position"] < due or (self.kind != "contract" and header["position"] != due):
            self.verdict.fault("order", where, f"position {header['position']} stands where {due} was due")
        if header["recorded_at"] < self.recorded_at:
            self.verdict.fault("order", where, "it was recorded before the event in front of it")
        self.position, self.recorded_at = header["position"], header["recorded_at"]

    def _check_chain(self, header: Members, event_hash: str, where: str) -> None:
        contract = bytes.fromhex(header["contract_id"].replace("-", ""))
        revision, last = self.last.get(contract, (0, ZEROS))
        begins_outside = self.kind == "range" and contract not in self.last and header["revision"] > 1
        self.opened += begins_outside
        if begins_outside:
            pass
        elif header["revision"] != revision + 1:
            self.verdict.fault("order", where, f"revision {header['revision']} of its contract stands where {revision + 1} was due")
        elif header["prev"] != last:
            self.verdict.fault("chain", where, "it does not name the hash of the event before it in its contract")
        self.last[contract] = header["revision"], event_hash

    def _check_body(self, line: Members, header: Members, where: str) -> None:
        text = member(line, "body", str, where)
        if "erased" in line:
            raise Unusable(f"{where} has both a body and its erasure")
        if hashlib.sha256(text.encode("utf-8")).hexdigest() != header["body_digest"]:
            self.verdict.fault("bodies", where, "the body is not the one whose digest the header holds")
            return
        body = read_json(text, "the body in " + where)
        digests = body.get("sealed")
        if (digests is None) != ("sealed_digest" not in header):
            self.verdict.fault("sealed", where, "body and header do not agree on whether something is sealed")
        elif digests is not None and hashlib.sha256(canonical(digests)).hexdigest() != header["sealed_digest"]:
            self.verdict.fault("sealed", where, "the map of what is sealed is not the one whose digest the header holds")
        if "sealed" in line:
            self._check_sealed(
                read_json('{{"parts":{}}}'.format(member(line, "sealed", str, where)), "what is sealed in " + where), digests, where
            )

    def _check_sealed(self, sealed: Members, digests: Any, where: str) -> None:
        """Each value that is shown, with its salt, has its digest in the body's map, and there is no other."""
        shown = {}
        for part in member(sealed, "parts", list, where):
            if not isinstance(part, dict) or part.keys() != {"path", "salt", "value"}:
                raise Unusable(f"{where} has a sealed part that is not path, salt and value")
            path = str(part["path"])
            if path in shown:
                self.verdict.fault("sealed", where, "two values are shown of one sealed member")
            shown[path] = hashlib.sha256(canonical([part["salt"], part["path"], part["value"]])).hexdigest()
        self.sealed += len(shown)
        if shown != digests:
            self.verdict.fault("sealed", where, "a sealed value or salt is not the one whose digest the body holds")

    def _check_erasure(self, line: Members, header: Members, where: str) -> None:
        """A missing body is explained by an event of the same contract that stands in the same tree and names it."""
        self.erased += 1
        if "sealed" in line:
            self.verdict.fault("sealed", where, "values are shown that were sealed in it, and its body is missing, which would prove them")
        if "erased" not in line:
            self.verdict.fault("erasures", where, "the body is missing, and no erasure explains it")
            return
        erased = member(line, "erased", dict, where)
        only(erased, ERASED, where)
        text, body = member(erased, "header", str, where), member(erased, "body", str, where)
        by = read_header(text, "the header of the erasure in " + where)
        data = read_json(body, "the body of the erasure in " + where).get("data")
        digest = hashlib.sha256(body.encode("utf-8")).hexdigest()
        names_it = by["event_type"] == "event.erased" and isinstance(data, dict) and data.get("target") == header["event_id"]
        same = by["contract_id"] == header["contract_id"] and by["ledger_id"] == header["ledger_id"]
        later = by["position"] == erased.get("position") and by["position"] > header["position"]
        if digest != by["body_digest"] or not (names_it and same and later):
            self.verdict.fault("erasures", where, "what is said to be its erasure is no later event of its contract that erases it")
        elif by["position"] > self.checkpoint.size:
            late = f"{where} was erased by position {by['position']}, after the checkpoint, which so does not prove it"
            self.verdict.doubt("erasures", late + ": ask for a bundle of a newer one")
        elif not verify_inclusion(
            by["position"] - 1, self.checkpoint.size, leaf_hash(text.encode()), hashes(erased, "proof", where), self.checkpoint.root
        ):
            self.verdict.fault("erasures", where, "its erasure is not in the tree whose root was signed")

    def close(self, line: Members, digest: str, where: str) -> None:
        """Check the closing line, and what can be told only now."""
        only(line, CLOSING, where)
        counted = {"events": self.events, "erased": self.erased, "contracts": len(self.last)}
        if line.get("end") is not True or {name: line.get(name) for name in counted} != counted:
            self.verdict.fault("format", where, f"its counts are not those of the lines before it, which are {counted}")
        if line.get("digest") != digest:
            self.verdict.fault("format", where, "its digest is not that of the lines before it")
        if self.kind == "contract" and not self.events:
            self.verdict.fault("order", where, "there is no event of the contract")
        if self.kind != "contract":
            if self.position != self.to or self.events != self.to - self.first + 1:
                message = f"the bundle goes to position {self.position} with {self.events} events, and not to {self.to}"
                self.verdict.fault("order", where, message)
            self._check_root(where)
        if self.opened:
            self.verdict.remarks["chain"].append(f"{self.opened} contracts begin before this range, which does not show it")
        if self.sealed:
            self.verdict.remarks["sealed"].append(f"{self.sealed} values shown")
        if self.kept is not None:
            self._check_consistency(self.kept)

    def _check_root(self, where: str) -> None:
        if self.kept is not None and self.tree.size == self.kept.size:
            self.kept_root = self.tree.root()
        if self.tree.size != self.to:
            self.verdict.fault("tree", where, "without all events of the bundle there is no root to compare")
            return
        if self.kind == "range":
            self.tree.grow(self.checkpoint.size, hashes(self.opening, "after", "the opening line"))
        if self.tree.root() != self.checkpoint.root:
            self.verdict.fault("tree", where, "the events of the bundle do not make the root that was signed")

    def _check_consistency(self, kept: Checkpoint) -> None:
        now, verdict = self.checkpoint, self.verdict
        given = self.opening.get("consistency")
        root = self.kept_root
        path: Sequence[bytes] | None = None
        if isinstance(given, dict) and given.get("from_size") == kept.size:
            path = hashes(given, "hashes", "the consistency proof")
        if kept.size > now.size:
            newer = "ask for a new one; if there is none, the log's tail was cut"
            verdict.doubt("consistency", f"you kept a checkpoint of {kept.size} events and this one has {now.size}: {newer}")
        elif kept.size in (0, now.size):
            if kept.size == now.size and kept.root != now.root:
                verdict.fault("consistency", "the checkpoint", f"two roots for one size, {now.size}: there are two histories")
        elif root is None and path is None:
            verdict.doubt("consistency", f"the bundle has no proof from the size {kept.size} that you kept: ask for one (from_size)")
        elif root not in (None, kept.root) or (path is not None and not verify_consistency(kept.size, now.size, kept.root, now.root, path)):
            verdict.fault(
                "consistency", "the checkpoint", f"the log was changed below the {kept.size} events that you kept a checkpoint of"
            )
        since = "" if kept.origin == now.origin else f" of {kept.origin!a}"
        verdict.remarks["consistency"].append(f"from {kept.size} events{since} to {now.size}")


def verify(stream: BinaryIO, keys: Sequence[Key], kept: Checkpoint | None = None, ledger: str | None = None) -> tuple[Verdict, Walk | None]:
    """The verdict on a bundle, and the walk through it; of a stream of bytes."""
    verdict, walk, digest, number, closed = Verdict(), None, hashlib.sha256(), 0, False
    try:
        while True:
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            number += 1
            where = f"line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise Unusable(f"{where} has more than {MAX_LINE_BYTES} bytes")
            if closed or not line.endswith(b"\n"):
                raise Unusable(where + (" stands after the closing line" if closed else " is cut off"))
            members = read_json(line, where)
            if walk is None:
                walk = Walk(members, keys, kept, verdict)
                if ledger not in (None, walk.ledger_id, walk.opening.get("ledger")):
                    verdict.fault("ledger", where, f"the bundle is of the ledger {walk.ledger_id}")
            elif "end" in members:
                walk.close(members, digest.hexdigest(), where)
                closed = True
            else:
                walk.event(members, where)
            digest.update(line)
        if not closed:
            raise Unusable(f"the bundle ends after line {number} without its closing line: it was cut off")
        verdict.done = True
    except Unusable as error:
        verdict.fault("format", "unreadable", str(error))
    if walk is None:
        verdict.doubt("signature", "there is no checkpoint")
    return verdict, walk


def tell(verdict: Verdict, walk: Walk | None) -> None:
    if walk is not None:
        head = walk.checkpoint
        print(f"{walk.kind} bundle of ledger {walk.ledger_id}: {walk.events} events, {walk.erased} erased")
        print(f"checkpoint {head.origin!a}, size {head.size}, root {head.root.hex()}")
    for check in CHECKS:
        found, why = verdict.of(check)
        print(f"{check:<11}  {found:<13}  {why}")
    print("not proven by any log:")
    for sentence in (*NOT_PROVEN, *([OF_A_PART] if walk is not None and walk.kind != "ledger" else [])):
        print("  - " + sentence)
    print(verdict.overall())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify a bundle of contract-ledger. Exit status 0 valid, 1 invalid, 2 cannot be told.")
    parser.add_argument("bundle", help="the bundle; - for standard input")
    parser.add_argument("--key", action="append", default=[], help="a verifier key that you pinned, name+hash+key; may be given twice")
    parser.add_argument("--kept", help="a file with a checkpoint that you kept")
    parser.add_argument("--ledger", help="the id or the name of the ledger that it has to be of")
    asked = parser.parse_args(arguments)
    try:
        keys = [Key(text) for text in asked.key]
        kept = None
        if asked.kept:
            with open(asked.kept, encoding="utf-8", newline="") as file:
                kept = Checkpoint(file.read(MAX_CHECKPOINT_BYTES + 1))
            if keys and kept.signer(keys, ever=True) is None:
                raise Unusable("the checkpoint that you kept is not signed by a key that you pinned")
        if asked.bundle == "-":
            verdict, walk = verify(sys.stdin.buffer, keys, kept, asked.ledger)
        else:
            with open(asked.bundle, "rb") as stream:
                verdict, walk = verify(stream, keys, kept, asked.ledger)
    except (Unusable, OSError, ValueError) as error:
        print(f"unusable: {error}", file=sys.stderr)
        return 2
    tell(verdict, walk)
    return {"valid": 0, "invalid": 1, "indeterminate": 2}[verdict.overall()]


if __name__ == "__main__":
    sys.exit(main())
