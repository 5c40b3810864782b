"""Examples of requests, from the contract between LG Energy Solution and Isuzu; the OpenAPI document shows them."""

from typing import Any

_PRESS = {"kind": "news", "name": "Korea Economic Daily", "published_on": "2022-07-06"}
_FILING = {"kind": "filing", "name": "LG Energy Solution", "published_on": "2024-01-26"}
_PARTIES = [
    {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
    {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
]
_ITEMS = [{"item_id": "cells", "description": "Cylindrical batteries for the electric Elf truck"}]
_FIGURE = {
    "figure_id": "krw-1",
    "amount": "1000000000000",
    "currency": "KRW",
    "basis": "reported",
    "bound": "about",
    "scope": "total",
    "note": "may rise: Isuzu may order more",
}
_REVISED = {**_FIGURE, "figure_id": "krw-3", "amount": "1100000000000", "basis": "disclosed", "bound": "exact"}
_REVISED.pop("note")


def _request(effective_on: str, source: dict[str, str], data: dict[str, Any]) -> dict[str, Any]:
    return {"effective_on": effective_on, "source": source, "data": data}


EXAMPLES: dict[str, dict[str, Any]] = {
    "contract.reported": _request(
        "2022-07-06",
        _PRESS,
        {
            "stage": "reported",
            "title": "Cylindrical batteries for the electric Elf truck",
            "kind": "supply",
            "parties": _PARTIES,
            "items": _ITEMS,
            "period": {"start_on": "2023", "duration": "P4Y"},
        },
    ),
    "contract.signed": _request(
        "2024-01-26",
        _FILING,
        {
            "signed_by": "2024-01-26",
            "title": "Cylindrical batteries for the electric Elf truck",
            "kind": "supply",
            "parties": _PARTIES,
            "items": _ITEMS,
            "period": {"end_on": "2026-12-31"},
            "withheld": [
                {"path": "/value", "reason": "not in the filing"},
                {"path": "/quantity", "reason": "not in the filing"},
            ],
        },
    ),
    "figure.stated": _request("2022-07-06", {"kind": "news", "via": "Reuters", "published_on": "2022-07-06"}, {"figure": _FIGURE}),
    "value.revised": _request("2025-03-01", _FILING, {"replaces": "krw-1", "value": _REVISED, "reason": "renegotiation"}),
    "order.extended": _request(
        "2026-06-01",
        _FILING,
        {"added_value": {"amount": "200000000000", "currency": "KRW"}, "new_end_on": "2028-12-31", "via": "amendment"},
    ),
    "delivery.started": _request(
        "2023-06", {"kind": "party", "name": "LG Energy Solution", "published_on": "2024-01-26"}, {"partial": True}
    ),
    "delivery.recorded": _request(
        "2024-03-15",
        {"kind": "party", "name": "LG Energy Solution"},
        {"delivery_id": "2024-03-a", "item_id": "cells", "quantity": "120000", "unit": "EA", "delivered_on": "2024-03-15"},
    ),
    "agreement.linked": _request(
        "2022-07-06", _PRESS, {"relation": "joint-development", "title": "Electrification of Isuzu's truck models"}
    ),
    "contract.completed": _request("2026-12-31", _FILING, {"by": "LG Energy Solution", "cause": "everything was delivered"}),
    "contract.terminated": _request("2025-09-30", _FILING, {"by": "Isuzu Motors", "cause": "notice", "notice_on": "2025-06-30"}),
    "note.added": _request(
        "2024-01-26",
        {"kind": "system", "name": "analyst"},
        {"text": "No amount is given in the filing; the press repeats its estimate.", "about": {"figure_id": "krw-1"}},
    ),
}


def example(event_type: str | None) -> dict[str, Any]:
    """A request for an event type; without one, a request for several events."""
    if event_type is not None:
        return EXAMPLES[event_type]
    return {"events": [{"event_type": name, **EXAMPLES[name]} for name in ("figure.stated", "delivery.started")]}
