"""Whether a bundle can be restored: all that the log would be found damaged by is found in the file, before a row is written.

What is once in the log's tables can be taken away by nobody, so a restore that fails halfway must be one that can be gone on with.
"""

import hashlib
import re
from array import array
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Final

import msgspec

from service.audit.bundle_file import BundleFile, Read
from service.domain.erasure import ERASED, read_target
from service.errors import OperatorError
from service.log.header import NO_PREVIOUS, SCHEMA, event_hash, read_sealed_map, sealed_digest
from service.log.tree import Extension, extend, root_of

STEP_EVENTS: Final = 2_000
MOST_BATCH_EVENTS: Final = 100_000
MOST_BATCH_BYTES: Final = 134_217_728
"""What a batch may have, each several times what this release writes in one: a batch is written whole, from memory."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
Progress = Callable[[int, int, str], None]


class _Body(msgspec.Struct):
    sealed: dict[str, str] | None = None


_decode_body = msgspec.json.Decoder(_Body).decode


class Check:
    """One way through a bundle; of each contract it keeps the last link, of each event half of its id, and of each missing body the id
    until its erasure comes."""

    def __init__(self, bundle: BundleFile) -> None:
        self._bundle = bundle
        self._tree = Extension(b"", 0, [])
        self._last: dict[bytes, tuple[int, bytes]] = {}
        self._gaps: dict[str, str] = {}
        # By their last bits, so that each can be sorted by itself: all together would be some fifty bytes an event.
        self._halves = [array("Q") for _ in range(256)]
        self._recorded_at = ""
        self._batch_events = self._batch_bytes = 0

    def run(self, progress: Progress) -> None:
        """OperatorError for the first line that could not be restored, or events that do not make the root of the checkpoint."""
        checkpoint = self._bundle.checkpoint
        for read in self._bundle.events():
            self._check_batch(read)
            self._check_place(read)
            self._check_body(read)
            if read.header.event_type == ERASED:
                self._check_erasure(read)
            if self._tree.size % STEP_EVENTS == 0:
                progress(self._tree.size, checkpoint.size, "events checked")
        if self._batch_events:
            raise OperatorError("The last event of the bundle ends no batch (`ends_batch`), which the last one of a ledger does.")
        if (self._tree.size, root_of(self._tree.frontier)) != (checkpoint.size, checkpoint.root):
            raise OperatorError("The events of the bundle do not make the root of its checkpoint; verify.py says more.")
        if self._gaps:
            raise OperatorError(
                f"The body of event {min(self._gaps)} is missing, and no event of the bundle erases it. If it was erased after the "
                "bundle's checkpoint, fetch another bundle."
            )

    def doubtful(self) -> frozenset[int]:
        """The halves that ids of several events have in common: by chance, or since they are the same (`check_ids`)."""
        return frozenset(one for halves in self._halves for one, other in pairwise(sorted(halves)) if one == other)

    def _check_place(self, read: Read) -> None:
        header, leaf = read.header, event_hash(read.line.header.encode())
        contract = bytes.fromhex(header.contract_id.replace("-", ""))
        revision, prev = self._last.get(contract, (0, bytes.fromhex(NO_PREVIOUS)))
        if (header.ledger_id, header.schema) != (self._bundle.opening.ledger_id, SCHEMA):
            self._bundle.refuse("is an event of another ledger, or of another schema")
        if (header.position, header.revision, header.prev) != (self._tree.size + 1, revision + 1, prev.hex()):
            self._bundle.refuse(
                f"is not event {self._tree.size + 1}, with the revision {revision + 1} and the link that its contract needs"
            )
        self._last[contract] = header.revision, leaf
        self._tree = extend(self._tree.frontier, self._tree.size, (leaf,))

    def _check_batch(self, read: Read) -> None:
        """Instants never fall, and a batch ends between two requests, which have different ones."""
        header, is_first = read.header, self._batch_events == 0
        if not (_UUID.fullmatch(header.event_id) and _UUID.fullmatch(header.contract_id) and _is_instant(header.recorded_at)):
            self._bundle.refuse("has an id or an instant that is none")
        if header.recorded_at < self._recorded_at or (is_first and header.recorded_at == self._recorded_at):
            self._bundle.refuse("was recorded before the event in front of it, or by a request whose batch ended there")
        half = _half(header.event_id)
        self._halves[half & 255].append(half)
        self._recorded_at = header.recorded_at
        self._batch_events, self._batch_bytes = self._batch_events + 1, self._batch_bytes + len(read.line.body or "")
        if self._batch_events > MOST_BATCH_EVENTS or self._batch_bytes > MOST_BATCH_BYTES:
            self._bundle.refuse("is of a batch that has more events, or more bytes, than any is written with (`ends_batch`)")
        if read.line.ends_batch:
            self._batch_events = self._batch_bytes = 0

    def _check_body(self, read: Read) -> None:
        line, header = read.line, read.header
        if line.body is None:
            if line.sealed is not None:
                self._bundle.refuse("has no body, and values that were sealed in it")
            self._gaps[header.event_id] = header.contract_id
        elif hashlib.sha256(line.body.encode()).hexdigest() != header.body_digest:
            self._bundle.refuse("has a body that is not the one which was recorded")
        elif line.sealed is None and header.sealed_digest is not None:
            self._bundle.refuse("lacks what is sealed in it: what restores is a bundle that was made with what is sealed (--sealed)")
        elif line.sealed is not None and not _is_sealed(line.sealed, line.body, header.sealed_digest):
            self._bundle.refuse("has sealed values or salts that are not those which were recorded")

    def _check_erasure(self, read: Read) -> None:
        """What an erasure names has no body: it is a gap that stands before it, in the same contract."""
        try:
            target = read_target((read.line.body or "").encode())
        except msgspec.DecodeError as error:
            self._bundle.refuse(f"is an erasure that cannot be read: {error}")
        if self._gaps.pop(target, None) != read.header.contract_id:
            self._bundle.refuse(f"erases event {target}, which is no event of its contract without a body")


def check_ids(bundle: BundleFile, doubtful: frozenset[int]) -> None:
    """OperatorError for the first event with the id of one before it, among those whose ids have a half in common: the database would
    refuse it when part of the ledger is written, and no second try would go on from there."""
    seen: set[str] = set()
    for read in bundle.events():
        event_id = read.header.event_id
        if _half(event_id) in doubtful:
            if event_id in seen:
                bundle.refuse(
                    f"has the id {event_id} of an event before it, as no ledger has: the bundle was not made by a service. "
                    "Verify it by verify.py with a key that you trust, and fetch another"
                )
            seen.add(event_id)


def _half(event_id: str) -> int:
    """The second half of an id, which is random but for two bits."""
    return int(event_id[19:23] + event_id[24:], 16)


def _is_instant(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _INSTANT.fullmatch(text) is not None


def _is_sealed(sealed: str, body: str, digest: str | None) -> bool:
    """Whether values and salts are those whose digests a body has, and a header covers."""
    try:
        digests = read_sealed_map(sealed.encode())
        return digests == _decode_body(body).sealed and sealed_digest(digests) == digest
    except (msgspec.DecodeError, TypeError, ValueError):
        return False
