"""The case of the demo: how the world learned of a contract between LG Energy Solution and Isuzu Motors, as nine events.

`published_on` carries the day the world learned of each, so that history loaded today can be asked what was known then.
"""

import hashlib
from typing import Any

import orjson

Json = dict[str, Any]
FIRST_DAY = "2022-07-06"
LAST_DAY = "2024-01-26"
DAY_BETWEEN = "2023-07-01"
RATE_DAYS = ("2022-07-05", "2022-07-06")
"""The days whose rates make of the trillion won the 763 and the 765 million dollars."""

_KED = {"kind": "news", "name": "Korea Economic Daily", "published_on": FIRST_DAY}
_REUTERS = {"kind": "news", "name": "Reuters", "published_on": FIRST_DAY}
_LGES = "LG Energy Solution"


def _figure(figure_id: str, amount: str, currency: str, basis: str, **more: Any) -> Json:
    figure = {"figure_id": figure_id, "amount": amount, "currency": currency, "basis": basis, "bound": "about", "scope": "total"}
    return {"figure": figure | more}


def _event(event_type: str, effective_on: str, source: Json, data: Json) -> tuple[str, Json]:
    return event_type, {"effective_on": effective_on, "source": source, "data": data}


EVENTS: tuple[tuple[str, Json], ...] = (
    _event(
        "contract.reported",
        FIRST_DAY,
        _KED,
        {
            "stage": "reported",
            "title": "Cylindrical batteries for the electric Elf truck",
            "kind": "supply",
            "parties": [
                {"party_id": "lges", "name": _LGES, "roles": ["supplier"]},
                {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
            ],
            "items": [{"item_id": "cells", "description": "Cylindrical battery cells for the electric version of the Elf truck"}],
            "period": {"start_on": "2023", "duration": "P4Y"},
        },
    ),
    _event(
        "figure.stated",
        FIRST_DAY,
        {"kind": "news", "via": "Reuters", "published_on": FIRST_DAY},
        _figure("krw-1", "1000000000000", "KRW", "reported", note="may rise: Isuzu may order more batteries later"),
    ),
    _event("figure.stated", FIRST_DAY, _REUTERS, _figure("usd-763", "763000000", "USD", "reported", derived_from={"figure_id": "krw-1"})),
    _event("figure.stated", FIRST_DAY, _KED, _figure("usd-765", "765000000", "USD", "estimated", derived_from={"figure_id": "krw-1"})),
    _event(
        "agreement.linked",
        FIRST_DAY,
        {"kind": "news", "published_on": FIRST_DAY},
        {"relation": "joint-development", "title": "Electrification of Isuzu's truck models", "parties": ["lges", "isuzu"]},
    ),
    _event("contract.reported", FIRST_DAY, {"kind": "filing", "name": _LGES, "published_on": FIRST_DAY}, {"stage": "negotiating"}),
    _event(
        "contract.signed",
        LAST_DAY,
        {"kind": "filing", "name": _LGES, "published_on": LAST_DAY},
        {
            "signed_by": LAST_DAY,
            "period": {"end_on": "2026-12-31"},
            "withheld": [
                {"path": "/value", "reason": "the filing gives no amount"},
                {"path": "/quantity", "reason": "the filing gives no quantity"},
            ],
        },
    ),
    _event("delivery.started", "2023-06", {"kind": "party", "name": _LGES, "published_on": LAST_DAY}, {"partial": True}),
    _event("figure.stated", LAST_DAY, {"kind": "news", "published_on": LAST_DAY}, _figure("krw-2", "1000000000000", "KRW", "estimated")),
)

_ANALYST = {"kind": "system", "name": "what if"}


def _what_if(sentence: str, event_type: str, effective_on: str, data: Json) -> tuple[str, str, Json]:
    return sentence, event_type, {"effective_on": effective_on, "source": _ANALYST, "hypothetical": True, "data": data}


CONTINUATIONS: tuple[tuple[str, str, Json], ...] = (
    _what_if(
        "Isuzu extends the order, to the end of 2028",
        "order.extended",
        "2026-06-01",
        {
            "via": "amendment",
            "added_quantity": {"quantity": "10000000", "unit": "EA", "item_id": "cells"},
            "added_value": {"amount": "200000000000", "currency": "KRW"},
            "new_end_on": "2028-12-31",
        },
    ),
    _what_if(
        "the amount is disclosed, and the value revised",
        "value.revised",
        "2026-06-01",
        {
            "replaces": "krw-1",
            "reason": "actuals",
            "value": {
                "figure_id": "krw-3",
                "amount": "1100000000000",
                "currency": "KRW",
                "basis": "disclosed",
                "bound": "exact",
                "scope": "total",
            },
        },
    ),
    _what_if("the contract completes", "contract.completed", "2026-12-31", {"by": _LGES, "cause": "everything was delivered"}),
)


def request_key(index: int) -> str:
    """The Idempotency-Key of an event: the same for the same case, so that to play it again has no second effect."""
    return f"demo-{index + 1}-{_DIGEST}"


_DIGEST = hashlib.sha256(orjson.dumps(EVENTS, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
