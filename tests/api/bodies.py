"""Requests for the tests: the case of LG Energy Solution and Isuzu, and smaller ones to take apart."""

from copy import deepcopy
from typing import Any, Final
from uuid import uuid4

import httpx

Json = dict[str, Any]

PARTIES: Final = [
    {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
    {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
]
FILING: Final[Json] = {"kind": "filing", "name": "LG Energy Solution"}
REPORTED: Final[Json] = {
    "effective_on": "2022-07-06",
    "source": {"kind": "news", "name": "Korea Economic Daily"},
    "data": {
        "stage": "reported",
        "title": "Cylindrical batteries for the electric Elf truck",
        "kind": "supply",
        "parties": PARTIES,
        "items": [{"item_id": "cells", "description": "cylindrical battery cells"}],
        "period": {"start_on": "2023", "duration": "P4Y"},
    },
}
SIGNED: Final[Json] = {
    "effective_on": "2024-01-26",
    "source": FILING,
    "data": {
        "signed_on": "2024-01-26",
        "title": "Cylindrical batteries for the electric Elf truck",
        "kind": "supply",
        "parties": PARTIES,
        "items": [{"item_id": "cells", "description": "cylindrical battery cells"}],
        "period": {"start_on": "2024-02", "end_on": "2026-12-31", "max_end_on": "2028-12-31"},
    },
}


def figure(figure_id: str, amount: str = "1000000000000", currency: str = "KRW", basis: str = "reported", **more: Any) -> Json:
    return {
        "figure_id": figure_id,
        "amount": amount,
        "currency": currency,
        "basis": basis,
        "bound": "about",
        "scope": "total",
    } | more


def event(data: Json, effective_on: str | None = "2024-03-01", source: Json = FILING, **more: Any) -> Json:
    """A request for one event: its envelope and its data; without a day for what has none of its own."""
    return ({"effective_on": effective_on} if effective_on else {}) | {"source": source, "data": data} | more


def note(text: str = "a note") -> Json:
    return event({"text": text})


def delivery(delivery_id: str, quantity: str = "1000") -> Json:
    data = {"delivery_id": delivery_id, "item_id": "cells", "quantity": quantity, "unit": "EA", "delivered_on": "2024-03-15"}
    return event(data, "2024-03-15")


def changed(body: Json, pointer: str, value: Any) -> Json:
    """A copy of a request with one member set, by its JSON pointer."""
    copy = deepcopy(body)
    *places, last = [int(part) if part.isdecimal() else part for part in pointer.split("/")[1:]]
    target: Any = copy
    for place in places:
        target = target[place]
    target[last] = value
    return copy


def path_of(event_type: str) -> str:
    return event_type.replace(".", "-").replace("_", "-")


def with_key(key: str | None = None, **headers: str) -> dict[str, str]:
    """Headers with an Idempotency-Key of its own; `if_match` is spelt If-Match."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"Idempotency-Key": key or str(uuid4())} | named


def open_contract(api: httpx.Client, body: Json = SIGNED) -> str:
    """The contract_id of a new contract, opened as signed or as reported."""
    path = "/contracts/reported" if "stage" in body["data"] else "/contracts"
    answer = api.post(path, json=body, headers=with_key())
    assert answer.status_code == 201, answer.text
    contract_id: str = answer.json()["contract_id"]
    return contract_id


def record(api: httpx.Client, contract_id: str, event_type: str, body: Json, **headers: str) -> httpx.Response:
    return api.post(f"/contracts/{contract_id}/{path_of(event_type)}", json=body, headers=with_key(**headers))


def open_and_sign(api: httpx.Client) -> str:
    """The contract_id of a contract reported in 2022 and signed on 2024-01-26: its second revision."""
    contract_id = open_contract(api, REPORTED)
    answer = record(api, contract_id, "contract.signed", SIGNED)
    assert answer.status_code == 201, answer.text
    return contract_id


def revision_of(api: httpx.Client, contract_id: str) -> int:
    revision: int = api.get(f"/contracts/{contract_id}").json()["revision"]
    return revision


def head_of(api: httpx.Client) -> int:
    """The last position of the ledger."""
    position: int = api.get("/contracts", params={"limit": 1}).json()["as_of"]["known_position"]
    return position


def _news(name: str | None, published_on: str, **more: str) -> Json:
    return {"kind": "news"} | ({"name": name} if name else {}) | more | {"published_on": published_on}


_FIRST, _LAST = "2022-07-06", "2024-01-26"
THE_CASE: Final[tuple[tuple[str, Json], ...]] = (
    ("contract.reported", event(REPORTED["data"], _FIRST, _news("Korea Economic Daily", _FIRST))),
    (
        "figure.stated",
        event({"figure": figure("krw-1", note="may rise: Isuzu may order more")}, _FIRST, _news(None, _FIRST, via="Reuters")),
    ),
    (
        "figure.stated",
        event(
            {"figure": figure("usd-763", "763000000", "USD", derived_from={"figure_id": "krw-1"})},
            _FIRST,
            _news("Reuters", _FIRST),
        ),
    ),
    (
        "figure.stated",
        event(
            {"figure": figure("usd-765", "765000000", "USD", "estimated", derived_from={"figure_id": "krw-1"})},
            _FIRST,
            _news("Korea Economic Daily", _FIRST),
        ),
    ),
    (
        "agreement.linked",
        event({"relation": "joint-development", "title": "Electrification of Isuzu's trucks"}, _FIRST, _news(None, _FIRST)),
    ),
    ("contract.reported", event({"stage": "negotiating"}, _FIRST, FILING | {"published_on": _FIRST})),
    (
        "contract.signed",
        event(
            {
                "signed_by": _LAST,
                "period": {"end_on": "2026-12-31"},
                "withheld": [
                    {"path": "/value", "reason": "not in the filing"},
                    {"path": "/quantity", "reason": "not in the filing"},
                ],
            },
            _LAST,
            FILING | {"published_on": _LAST},
        ),
    ),
    (
        "delivery.started",
        event({"partial": True}, "2023-06", {"kind": "party", "name": "LG Energy Solution", "published_on": _LAST}),
    ),
    ("figure.stated", event({"figure": figure("krw-2", basis="estimated")}, _LAST, _news(None, _LAST))),
)


def play_the_case(api: httpx.Client) -> str:
    """The contract_id of the case, its nine events recorded one by one."""
    (_, opening), *others = THE_CASE
    contract_id = open_contract(api, opening)
    for event_type, body in others:
        answer = record(api, contract_id, event_type, body)
        assert answer.status_code == 201, answer.text
    return contract_id
