"""The current state of contracts, a row each: the fold as known now, effective on the day it was settled.

A row is written in the appending transaction, under the ledger's lock. `extend` adds one event to a row where that event is the last in
the fold; `project` makes a row from all events of a contract. Both give the same row for the same history.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import msgspec
from msgspec.structs import asdict

from service.domain.contract import decode_facts, encode_state
from service.domain.dates import first_day
from service.domain.events import RecordedEvent
from service.domain.state import Anomaly, Contract
from service.domain.timeline import Basis, Pending, View, basis, tell, view
from service.projections.filters import filters_of

LAYOUT = 4
"""The shape of the rows. A release that changes it writes its own generation, and one that does not know it refuses to write."""
RESTORING = 0
"""In place of it, of a ledger that is not restored to its end: no release writes such rows, so nothing is appended to it."""


def unknown_layout(layout: int) -> str:
    """What is the matter with rows of another layout than this release writes, and what to do."""
    if layout == RESTORING:
        return "it is not restored to its end: `contract-ledger restore` with its bundle goes on where it ended"
    return f"its rows have layout {layout}, and this release writes {LAYOUT}: run `contract-ledger rebuild`, or the release that made them"


class Beside(msgspec.Struct, kw_only=True):
    """What stands beside the state in an answer, outside `state_hash`."""

    anomalies: list[Anomaly]
    pending: list[Pending]
    rests_on: list[Basis]


class ContractRow(msgspec.Struct):
    """A row of `contracts`, without the ledger and the generation. `last_on` is the greatest day of effect of its events."""

    contract_id: str
    revision: int
    position: int
    last_hash: str
    last_on: date
    has_pending: bool
    settled_on: date
    holds_until: date | None
    filters: list[str]
    state: str
    beside: str

    def holds_on(self, day: date) -> bool:
        """Whether the row is the answer for a day as it is for the day it was settled."""
        return self.settled_on <= day and (self.holds_until is None or day < self.holds_until)

    def can_extend(self, effective_on: str, day: date) -> bool:
        """Whether an event in effect from then is the last of the fold, with nothing still to come."""
        return not self.has_pending and self.last_on <= first_day(effective_on) <= day


_beside_encoder = msgspec.json.Encoder(order="sorted")
_beside_decoder = msgspec.json.Decoder(Beside)


def decode_beside(row: ContractRow) -> Beside:
    return _beside_decoder.decode(row.beside)


def encode_beside(told: View) -> bytes:
    """The canonical JSON of what stands beside a state."""
    return _beside_encoder.encode(Beside(anomalies=told.anomalies, pending=told.pending, rests_on=told.rests_on))


def decode_contract(row: ContractRow | None) -> tuple[Contract, Beside]:
    """The contract within a row, ready for the next event of its fold, and what stood beside it; an empty one without a row."""
    if row is None:
        return Contract(), Beside(anomalies=[], pending=[], rests_on=[])
    beside = decode_beside(row)
    return Contract(decode_facts(row.state.encode()), [*beside.anomalies]), beside


def extend(known: Sequence[Basis], contract: Contract, events: Sequence[RecordedEvent], day: date) -> View:
    """The view of a contract that rested on `known`, after events that are the last of its fold and are folded in already."""
    return view(contract, contract, [*known, *map(basis, events)], (), day)


def project(events: Sequence[RecordedEvent], day: date) -> View:
    """The view that all events of a contract make on a day."""
    return tell(events, day)


def contract_row(contract_id: str, told: View, *, revision: int, position: int, last_hash: str, last_on: date, day: date) -> ContractRow:
    """The row that shows a view, settled on a day."""
    return ContractRow(
        contract_id=contract_id,
        revision=revision,
        position=position,
        last_hash=last_hash,
        last_on=last_on,
        has_pending=bool(told.pending),
        settled_on=day,
        holds_until=told.holds_until,
        filters=filters_of(told.state),
        state=encode_state(told.state).decode(),
        beside=encode_beside(told).decode(),
    )


def projected(rows: Iterable[ContractRow], generation: int) -> list[dict[str, Any]]:
    """Rows of a generation, as the table has them."""
    return [asdict(row) | {"generation": generation, "last_hash": "\\x" + row.last_hash} for row in rows]
