"""What the contracts of the benchmarks look like, and the requests that make them.

A contract of the pool is signed and has its parties, an item and a term; then come two figures, the start of deliveries and a
delivery: five events. The append benchmark carries such contracts on (see load.lua), each run with fresh ones:

    10 %  contract.signed      opens a contract
    31 %  figure.stated        a figure within a percent of the others
    14 %  value.revised        a new figure for the one stated last
    27 %  delivery.recorded
    18 %  note.added

Two in a hundred take effect before what was recorded already, so that the service reads and folds the contract's events. Over a run
a contract grows to about a dozen events with three to eight standing figures, and every key is new. The ledger of the verify
benchmark has contracts of ten events, opened and carried on in four requests spread over the whole log; one contract in ten has a
late event.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from uuid_utils import uuid7

from service.api.envelope import read_event
from service.log.ledger import Ledger
from service.log.requests import Append, NewEvent

_FILING = {"kind": "filing", "name": "LG Energy Solution", "published_on": "2024-01-26"}
_NEWS = {"kind": "news", "name": "Korea Economic Daily", "published_on": "2022-07-06"}
_TITLE = "Cylindrical batteries for the electric Elf truck"
_SIGNED = {
    "signed_by": "2022-07-01",
    "title": _TITLE,
    "kind": "supply",
    "parties": [
        {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
        {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
    ],
    "items": [{"item_id": "cells", "description": _TITLE}],
    "period": {"end_on": "2031-12-31"},
}
_OPENED_ON = date(2022, 7, 1)
_NOTE = {"text": "No amount is given in the filing; the press repeats its estimate."}


VARIANTS = 10
_LATE = 0
Variants = tuple[NewEvent, ...]
"""An event as each of the ten kinds of contract has it; their days and amounts differ."""
Request = tuple[Variants, ...]


def _figure(name: str, amount: int) -> dict[str, Any]:
    return {
        "figure_id": name,
        "amount": f"{amount}000000000",
        "currency": "KRW",
        "basis": "reported",
        "bound": "about",
        "scope": "total",
        "note": "may rise: the buyer may order more",
    }


def _event(event_type: str, days: int, source: dict[str, Any], data: dict[str, Any], late: int | None = None) -> Variants:
    """An event so many days after the opening; one kind of contract has it `late` instead."""
    return tuple(
        _variant(event_type, late if late is not None and variant == _LATE else days, source, data, variant) for variant in range(VARIANTS)
    )


def _variant(event_type: str, days: int, source: dict[str, Any], data: dict[str, Any], variant: int) -> NewEvent:
    """As the service's own edge reads it."""
    on = (_OPENED_ON + timedelta(days + 7 * variant)).isoformat()
    return read_event(event_type, {"effective_on": on, "source": source, "data": data})


def _delivery(name: str, days: int) -> Variants:
    data = {"delivery_id": name, "item_id": "cells", "quantity": "120000", "unit": "EA", "delivered_on": "2022-10-29"}
    return _event("delivery.recorded", days, _FILING, data)


_OPENED: Request = (_event("contract.signed", 0, _FILING, _SIGNED),)
_CARRIED_ON: Request = (
    _event("figure.stated", 30, _NEWS, {"figure": _figure("f-1", 995)}),
    _event("figure.stated", 60, _FILING, {"figure": _figure("f-2", 1005)}),
    _event("delivery.started", 90, _FILING, {"partial": True}),
    _delivery("d-1", 120),
)
POOL: Sequence[Request] = (_OPENED + _CARRIED_ON,)
TEN_EVENTS: Sequence[Request] = (
    _OPENED,
    _CARRIED_ON,
    (
        _event("value.revised", 150, _FILING, {"replaces": "f-2", "value": _figure("f-3", 1004), "reason": "quantity"}),
        _event("note.added", 180, _NEWS, _NOTE),
        _delivery("d-2", 210),
    ),
    (_delivery("d-3", 240), _event("figure.stated", 270, _NEWS, {"figure": _figure("f-4", 1000)}, late=45)),
)


def append(ledger: Ledger, principal_id: str, contract_id: str, number: int, request: Request, *, opening: bool) -> Append:
    """A request to contract `number`."""
    return Append(
        ledger=ledger,
        contract_id=contract_id,
        opening=opening,
        events=[variants[number % VARIANTS] for variants in request],
        recorded_by=principal_id,
        key=uuid7().bytes,
        canonical=b"",
    )
