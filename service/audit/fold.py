"""Fold: what the contracts of a bundle come to, by this package alone, with no database: the same `state_hash` as the service gives."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from service.audit.bundle_file import BundleFile, Read, opened
from service.domain.contract import encode_state
from service.domain.timeline import tell
from service.errors import OperatorError
from service.log.header import body_digest, state_hash
from service.log.ledger import zone
from service.log.stored import UNREADABLE, recorded_event


@dataclass(frozen=True, slots=True)
class Folded:
    """What a contract comes to on a day; without a state where its beginning is not in the bundle."""

    contract_id: str
    revision: int
    effective_on: date
    state: bytes | None
    erased: int
    sealed: int
    """How many of its events seal something: their state holds digests in its place."""

    @property
    def state_hash(self) -> str | None:
        return None if self.state is None else state_hash(self.effective_on.isoformat(), self.state)


def fold(file: Path, effective_on: date | None = None) -> Iterator[Folded]:
    """Fold each contract of a bundle on a day, today in the ledger's time zone if none is said, in the order of their first events.

    In two passes: the first checks that the file is whole and remembers where each line stands, eight bytes an event; the second reads the
    events of one contract after another. OperatorError for what is no bundle, or holds what this release cannot read.
    """
    with opened(file) as bundle:
        try:
            day = effective_on or datetime.now(UTC).astimezone(zone(bundle.opening.time_zone)).date()
        except (KeyError, ValueError):
            bundle.refuse(f"names a time zone that there is not: {bundle.opening.time_zone[:50]!r}")
        places: dict[str, array[int]] = {}
        for read in bundle.events():
            places.setdefault(read.header.contract_id, array("q")).append(read.offset)
        for contract_id, offsets in places.items():
            yield _folded(bundle, contract_id, [bundle.at(offset) for offset in offsets], day)


def _folded(bundle: BundleFile, contract_id: str, events: Sequence[Read], day: date) -> Folded:
    erased = sum(read.line.body is None for read in events)
    sealed = sum(read.header.sealed_digest is not None for read in events)
    state = None
    if [read.header.revision for read in events] == list(range(1, len(events) + 1)):
        state = _state(bundle, contract_id, events, day)
    return Folded(contract_id, events[-1].header.revision, day, state, erased, sealed)


def _state(bundle: BundleFile, contract_id: str, events: Sequence[Read], day: date) -> bytes:
    local = zone(bundle.opening.time_zone)
    for read in events:
        if read.line.body is not None and body_digest(read.line.body.encode()) != read.header.body_digest:
            raise OperatorError(f"Position {read.header.position}: the body is not the one that was recorded; verify.py says more.")
    try:
        told = tell((recorded_event(read.line.header.encode(), _body(read), local) for read in events), day)
        return encode_state(told.state)
    except (*UNREADABLE, ArithmeticError, AttributeError, LookupError) as error:
        raise OperatorError(f"Contract {contract_id} holds what this release cannot fold: {error!r}") from error


def _body(read: Read) -> bytes | None:
    return None if read.line.body is None else read.line.body.encode()
