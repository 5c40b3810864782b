"""Examples of requests, from the contract between LG Energy Solution and Isuzu; the OpenAPI document shows them."""

from typing import Any

_PRESS = {"kind": "news", "name": "Korea Economic Daily", "published_on": "2022-07-06"}
_FILING = {"kind": "filing", "name": "LG Energy Solution", "published_on": "2024-01-26"}
_ANALYST = {"kind": "system", "name": "analyst"}
_SUPPLIER = {"kind": "party", "name": "LG Energy Solution"}
_BUYER = {"kind": "party", "name": "Isuzu Motors"}
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
    return {"effective_on": effective_on, **_dayless(source, data)}


def _dayless(source: dict[str, str], data: dict[str, Any]) -> dict[str, Any]:
    """A request for an event that has no effective day of its own."""
    return {"source": source, "data": data}


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
        _SUPPLIER,
        {"delivery_id": "2024-03-a", "item_id": "cells", "quantity": "120000", "unit": "EA", "delivered_on": "2024-03-15"},
    ),
    "agreement.linked": _request(
        "2022-07-06", _PRESS, {"relation": "joint-development", "title": "Electrification of Isuzu's truck models"}
    ),
    "contract.completed": _request("2026-12-31", _FILING, {"by": "LG Energy Solution", "cause": "everything was delivered"}),
    "contract.terminated": _request("2025-09-30", _FILING, {"by": "Isuzu Motors", "cause": "notice", "notice_on": "2025-06-30"}),
    "party.added": _request("2024-02-01", _FILING, {"party": {"party_id": "trader", "name": "A trading house", "roles": ["broker"]}}),
    "party.replaced": _request(
        "2024-06-01",
        _FILING,
        {"replaces": "lges", "party": {"party_id": "lges-2", "name": "LG Energy Solution Wrocław", "roles": ["supplier"]}},
    ),
    "party.identified": _request(
        "2024-02-01",
        _ANALYST,
        {"party_id": "isuzu", "name": "Isuzu Motors Limited", "identifiers": [{"scheme": "LEI", "id": "EXAMPLE0000000000002"}]},
    ),
    "figure.withdrawn": _request("2024-02-01", _PRESS, {"figure_id": "krw-1", "reason": "the newspaper corrected its report"}),
    "option.granted": _request(
        "2024-01-26",
        _FILING,
        {
            "option_id": "longer",
            "kind": "term",
            "holder": "isuzu",
            "window": {"start_on": "2026-01", "end_on": "2026-06-30"},
            "limit": {"new_end_on": "2028-12-31", "times": 1},
        },
    ),
    "option.exercised": _request("2026-06-01", _FILING, {"option_id": "longer", "exercised_on": "2026-05-28"}),
    "option.lapsed": _request("2026-07-01", _FILING, {"option_id": "longer", "text": "it was not exercised"}),
    "terms.amended": _request(
        "2025-03-01",
        _FILING,
        {
            "amendment_id": "amendment-1",
            "rationale": "two more years",
            "changes": [{"path": "/period/end_on", "from": "2026-12-31", "to": "2028-12-31"}],
        },
    ),
    "delivery.accepted": _request(
        "2024-03-20", _BUYER, {"delivery_id": "2024-03-a", "item_id": "cells", "quantity": "119000", "unit": "EA"}
    ),
    "delivery.rejected": _request(
        "2024-03-20",
        _BUYER,
        {"delivery_id": "2024-03-a", "item_id": "cells", "quantity": "1000", "unit": "EA", "reason": "dented"},
    ),
    "delivery.suspended": _request("2024-09-01", _SUPPLIER, {"item_id": "cells", "reason": "the plant is flooded"}),
    "delivery.resumed": _request("2024-10-01", _SUPPLIER, {"item_id": "cells"}),
    "delivery.completed": _request("2026-12-15", _SUPPLIER, {"item_id": "cells", "delivered_on": "2026-12-14"}),
    "milestone.scheduled": _request("2024-01-26", _FILING, {"milestone_id": "sop", "title": "Start of production", "due_on": "2024-Q2"}),
    "milestone.met": _request("2024-06-20", _SUPPLIER, {"milestone_id": "sop"}),
    "milestone.missed": _request("2024-07-01", _BUYER, {"milestone_id": "sop", "text": "the line was not ready"}),
    "condition.satisfied": _request("2024-02-15", _FILING, {"condition_id": "board", "title": "Approval of the board"}),
    "condition.failed": _request("2024-02-15", _FILING, {"condition_id": "board", "title": "Approval of the board"}),
    "disclosure.filed": _request(
        "2024-01-26",
        _FILING,
        {
            "reference": {"scheme": "DART", "id": "20240126800001"},
            "contains": ["/title", "/parties", "/period"],
            "withheld": [{"path": "/value", "reason": "business secret", "until": "2026-12-31"}],
        },
    ),
    "disclosure.withheld": _request(
        "2024-01-26", _FILING, {"withheld": [{"path": "/quantity", "reason": "business secret", "until": "2026-12-31"}]}
    ),
    "disclosure.released": _request("2027-01-04", _FILING, {"paths": ["/value"]}),
    "dispute.raised": _request("2025-04-01", _PRESS, {"reference": "2025-1234", "text": "about the price of 2024"}),
    "dispute.resolved": _request("2025-11-01", _SUPPLIER, {"reference": "2025-1234", "text": "settled"}),
    "force_majeure.declared": _request("2024-09-01", _SUPPLIER, {"reference": "flood-2024", "text": "the plant is flooded"}),
    "force_majeure.lifted": _request("2024-09-30", _SUPPLIER, {"reference": "flood-2024"}),
    "contract.cancelled": _request("2023-12-01", _PRESS, {"by": "Isuzu Motors", "cause": "the talks failed"}),
    "contract.superseded": _request(
        "2026-03-01", _FILING, {"cause": "a new contract", "successor": {"scheme": "DART", "id": "20260301800001"}}
    ),
    "contract.labelled": _dayless(_ANALYST, {"set": ["to review"], "remove": ["unread"]}),
    "event.corrected": _dayless(
        _FILING,
        {
            "target": "01920000-0000-7000-8000-000000000002",
            "data": {"figure": {**_FIGURE, "amount": "1100000000000"}},
            "source": {**_PRESS, "via": "Reuters"},
            "effective_on": "2022-07-05",
        },
    ),
    "event.voided": _dayless(_ANALYST, {"target": "01920000-0000-7000-8000-000000000003", "reason": "the same report was recorded twice"}),
    "event.erased": _dayless(
        _ANALYST,
        {"target": "01920000-0000-7000-8000-000000000004", "legal_basis": "Regulation (EU) 2016/679, article 17(1)(a)"},
    ),
    "sealed.revealed": _dayless(
        _SUPPLIER,
        {
            "event_id": "00000000-0000-7000-8000-000000000002",
            "parts": [{"path": "/figure/amount", "value": "1000000000000", "salt": "101112131415161718191a1b1c1d1e1f"}],
        },
    ),
    "note.added": _request(
        "2024-01-26",
        _ANALYST,
        {"text": "No amount is given in the filing; the press repeats its estimate.", "about": {"kind": "figure", "id": "krw-1"}},
    ),
}


def example(event_type: str | None) -> dict[str, Any]:
    """A request for an event type; without one, a request for several events."""
    if event_type is not None:
        return EXAMPLES[event_type]
    return {"events": [{"event_type": name, **EXAMPLES[name]} for name in ("figure.stated", "delivery.started")]}
