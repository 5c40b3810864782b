"""Bundles: a ledger, a range of it or a contract, with what a stranger needs to verify it, as lines (docs/bundle-format.md).

An opening line with the signed checkpoint, a line for each event with the exact text of its header and body, and a closing line that counts
and digests the others. Events are read and written page by page, so that memory is bounded by a page.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.domain.erasure import ERASED, read_target
from service.errors import ContractNotFound, Internal, MemberFault, Refused
from service.log import proofs
from service.log.checkpoint import Checkpoint
from service.log.ledger import Ledger, instant
from service.log.notes import Note
from service.log.read import Reader

FORMAT = "contract-ledger/bundle/v1"
PAGE_EVENTS = 200

# Bodies by subqueries, as everywhere: see service.log.read.
_EVENT = """
SELECT e.position, e.revision, e.event_id::text, e.contract_id::text, e.header,
       (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body,
       CASE WHEN %(sealed)s
       THEN (SELECT p.sealed FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position)
       END AS sealed,
       EXISTS (SELECT FROM batches b WHERE b.ledger_id = e.ledger_id AND b.last_position = e.position) AS ends_batch
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position <= %(upto)s AND """
_OF_LEDGER = _EVENT + "e.position > %(after)s ORDER BY e.position LIMIT %(limit)s"
_OF_CONTRACT = _EVENT + "e.contract_id = %(contract_id)s::uuid AND e.revision > %(after)s ORDER BY e.revision LIMIT %(limit)s"
_ERASURES = """
SELECT e.position, e.header,
       (SELECT p.body FROM payloads p WHERE p.ledger_id = e.ledger_id AND p.position = e.position) AS body
FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.contract_id = ANY(%(contract_ids)s::uuid[]) AND e.event_type = %(event_type)s
ORDER BY e.position
"""
_POLICIES = (
    "SELECT l.if_match_required, l.unique_reference_schemes, l.public_log, l.strict FROM ledgers l WHERE l.ledger_id = %(ledger_id)s::uuid"
)


class KeyPeriod(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A key that the ledger's checkpoints were signed by, as its operator names it. To be compared with a pinned one, never trusted."""

    verifier_key: str
    since: str | None = None
    until: str | None = None


class Consistency(msgspec.Struct, kw_only=True):
    """The proof that the checkpoint's tree continues that of an earlier size."""

    from_size: int
    hashes: list[str]


class Beginning(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The signed checkpoint that an epoch began with; of the newest epoch with the proof that the tree continues it."""

    checkpoint: str
    hashes: list[str] | None = None


class Policies(msgspec.Struct, kw_only=True):
    """What a ledger asks of those who append; no part of its log."""

    if_match_required: bool
    unique_reference_schemes: list[str]
    public_log: bool = False
    strict: bool = False


class Opening(msgspec.Struct, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """The first line."""

    format: str
    kind: str
    ledger_id: str
    ledger: str
    time_zone: str
    checkpoint: str
    keys: list[KeyPeriod]
    made_at: str
    made_by: str
    contract_id: str | None = None
    from_position: int | None = None
    to_position: int | None = None
    before: list[str] | None = None
    after: list[str] | None = None
    consistency: Consistency | None = None
    epochs: list[Beginning] | None = None
    sealed: bool | None = None
    policies: Policies | None = None


class Erasure(msgspec.Struct, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """The event that erased another; without a proof where it is newer than the checkpoint."""

    position: int
    header: str
    body: str
    proof: list[str] | None = None


class Line(msgspec.Struct, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """An event: header and body in their exact text, the body null where it was erased."""

    header: str
    body: str | None
    erased: Erasure | None = None
    proof: list[str] | None = None
    sealed: str | None = None
    ends_batch: bool | None = None


class Closing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The last line; `digest` is the SHA-256 of all bytes before it."""

    end: bool
    events: int
    erased: int
    contracts: int
    digest: str


encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint as it was signed, the size that it signs, the keys that sign for the ledger, and what its epochs began with."""

    note: str
    size: int
    keys: Sequence[KeyPeriod] = ()
    epochs: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a bundle is to hold: a contract, a range of positions, or with neither the whole ledger."""

    contract_id: str | None = None
    from_position: int | None = None
    to_position: int | None = None
    from_size: int | None = None
    sealed: bool = False

    @property
    def kind(self) -> str:
        if self.contract_id is not None:
            return "contract"
        return "ledger" if self.from_position is None and self.to_position is None else "range"


class Bundle:
    """A bundle to be written: what is asked of a ledger, as its checkpoint has it."""

    def __init__(self, reader: Reader, ledger: Ledger, signed: Signed, wanted: Wanted) -> None:
        self._database = reader.database
        self._ledger = ledger
        self._signed = signed
        self._wanted = wanted
        self._first, self._last = wanted.from_position or 1, wanted.to_position or signed.size
        self._digest = hashlib.sha256()
        self._events = self._erased = 0
        self._contracts: set[bytes] = set()
        self.shown: list[str] = []
        """The ids of the events of the page just written whose sealed values it shows."""

    async def check(self) -> None:
        """Refused for what the checkpoint does not cover, ContractNotFound for a contract that it does not know."""
        wanted, size = self._wanted, self._signed.size
        if wanted.contract_id is not None:
            for name in ("from_position", "to_position"):
                if getattr(wanted, name) is not None:
                    raise _refused(name, "a bundle is of a contract or of a range, and not of both")
            if not await self._page(0, 1):
                raise ContractNotFound(f"Ledger {self._ledger.name} has no contract {wanted.contract_id} below position {size + 1}.")
        elif wanted.kind == "range" and self._last > size:
            raise _refused("to_position", f"the checkpoint covers {size} events so far")
        elif wanted.kind == "range" and self._first > self._last:
            raise _refused("from_position", f"the range would end before it begins, at {self._last}")
        if wanted.from_size is not None and wanted.from_size > size:
            known = (
                " Since a new epoch was begun, ask without it: the bundle says what became of what was kept." if self._signed.epochs else ""
            )
            raise _refused("from_size", f"the checkpoint covers {size} events so far, so it continues none of {wanted.from_size}", known)

    async def lines(self, made_by: str) -> AsyncIterator[bytes]:
        """The bundle, page by page."""
        yield self._written([await self._opening(made_by)])
        after = 0 if self._wanted.contract_id is not None else self._first - 1
        while page := await self._page(after, PAGE_EVENTS):
            after = page[-1][1] if self._wanted.contract_id is not None else page[-1][0]
            yield self._written(await self._lines(page))
        yield self._written([self._closing()])

    async def _opening(self, made_by: str) -> Opening:
        wanted, kind = self._wanted, self._wanted.kind
        opening = Opening(
            format=FORMAT,
            kind=kind,
            ledger_id=self._ledger.ledger_id,
            ledger=self._ledger.name,
            time_zone=self._ledger.time_zone,
            checkpoint=self._signed.note,
            keys=list(self._signed.keys),
            made_at=instant(datetime.now(UTC)),
            made_by=made_by,
            contract_id=wanted.contract_id,
            consistency=await self._consistency(),
            epochs=await self._epochs() or None,
            sealed=wanted.sealed or None,
        )
        if kind == "range":
            opening.from_position, opening.to_position = self._first, self._last
            opening.before = await self._subtrees(0, self._first - 1)
            opening.after = await self._subtrees(self._last, self._signed.size)
        elif kind == "ledger":
            ((required, schemes, is_public, strict),) = await self._database.rows(_POLICIES, {"ledger_id": self._ledger.ledger_id})
            opening.policies = Policies(if_match_required=required, unique_reference_schemes=schemes, public_log=is_public, strict=strict)
        return opening

    async def _consistency(self) -> Consistency | None:
        size = self._wanted.from_size
        if size is None:
            return None
        found = await proofs.consistency(self._database, self._ledger.ledger_id, size, self._signed.size)
        return Consistency(from_size=size, hashes=_hex(found))

    async def _epochs(self) -> list[Beginning]:
        """What the epochs began with; that the tree continues it can be proven of the last, since what was before may be given up."""
        begun = [Beginning(checkpoint=note) for note in self._signed.epochs]
        last = Checkpoint.parse(Note.parse(begun[-1].checkpoint).text) if begun else None
        if last is not None and last.origin == Checkpoint.parse(Note.parse(self._signed.note).text).origin:
            found = await proofs.consistency(self._database, self._ledger.ledger_id, last.size, self._signed.size)
            begun[-1].hashes = _hex(found)
        return begun

    async def _subtrees(self, begin: int, end: int) -> list[str]:
        return _hex(await proofs.subtrees(self._database, self._ledger.ledger_id, begin, end))

    async def _page(self, after: int, limit: int) -> list[tuple[Any, ...]]:
        parameters = {
            "ledger_id": self._ledger.ledger_id,
            "contract_id": self._wanted.contract_id,
            "after": after,
            "upto": self._last,
            "limit": limit,
            "sealed": self._wanted.sealed,
        }
        return [*await self._database.rows(_OF_LEDGER if self._wanted.contract_id is None else _OF_CONTRACT, parameters)]

    async def _lines(self, page: Sequence[tuple[Any, ...]]) -> list[Line]:
        """The lines of the events of a page. Internal where a body is missing without an erasure, which `verify` can tell more of."""
        erasures = await self._erasures({event_id: contract_id for _, _, event_id, contract_id, _, body, *_ in page if body is None})
        found = await self._proofs([row[0] for row in page]) if self._wanted.contract_id is not None else [None] * len(page)
        self._events += len(page)
        self._erased += len(erasures)
        self._contracts.update(bytes.fromhex(row[3].replace("-", "")) for row in page)
        self.shown = [row[2] for row in page if row[6]]
        return [self._line(row, erasures.get(row[2]), proof) for row, proof in zip(page, found, strict=True)]

    def _line(self, row: tuple[Any, ...], erasure: Erasure | None, proof: list[str] | None) -> Line:
        _, _, _, _, header, body, sealed, ends_batch = row
        return Line(
            header=header.decode(),
            body=None if body is None else body.decode(),
            erased=erasure,
            proof=proof,
            sealed=sealed.decode() if sealed else None,
            ends_batch=True if ends_batch and self._wanted.kind == "ledger" else None,
        )

    async def _erasures(self, gaps: Mapping[str, str]) -> dict[str, Erasure]:
        """By the ids of the events that have no body, given with their contracts, what erased them."""
        if not gaps:
            return {}
        parameters = {"ledger_id": self._ledger.ledger_id, "contract_ids": sorted(set(gaps.values())), "event_type": ERASED}
        rows = {target: row for row in await self._database.rows(_ERASURES, parameters) if (target := read_target(row[2])) in gaps}
        if lost := gaps.keys() - rows.keys():
            raise Internal(f"The body of event {min(lost)} is missing, and no erasure explains it: `contract-ledger verify` says more.")
        covered = [row[0] for row in rows.values() if row[0] <= self._signed.size]
        found = dict(zip(covered, await self._proofs(covered), strict=True))
        return {
            event_id: Erasure(position=position, header=header.decode(), body=body.decode(), proof=found.get(position))
            for event_id, (position, header, body) in rows.items()
        }

    async def _proofs(self, positions: Sequence[int]) -> list[list[str]]:
        """The inclusion proof of each of some events."""
        indices = [position - 1 for position in positions]
        return [_hex(path) for path in await proofs.inclusions(self._database, self._ledger.ledger_id, indices, self._signed.size)]

    def _closing(self) -> Closing:
        return Closing(end=True, events=self._events, erased=self._erased, contracts=len(self._contracts), digest=self._digest.hexdigest())

    def _written(self, lines: Sequence[Opening | Line | Closing]) -> bytes:
        piece = b"".join(encode(line) + b"\n" for line in lines)
        self._digest.update(piece)
        return piece


def _hex(hashes: Sequence[bytes]) -> list[str]:
    return [one.hex() for one in hashes]


def _refused(parameter: str, detail: str, more: str = "") -> Refused:
    return Refused(f"{parameter}: {detail}.{more}", (MemberFault(f"query:{parameter}", detail),))
