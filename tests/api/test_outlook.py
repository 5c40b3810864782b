"""Commitments, deadlines and parties over all contracts of a ledger: as computed by hand, page by page, and after every change."""

import asyncio
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from service.audit.rebuild import rebuild
from service.audit.replay import verify
from tests.api.bodies import PARTIES, REPORTED, SIGNED, Json, changed, event, figure, open_contract, play_the_case, record
from tests.api.running import RunningService
from tests.servers import rows, verified


@pytest.fixture
def empty(service: RunningService, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A ledger of the test's own."""
    name = f"outlook-{abs(hash(request.node.name)) % 10**9}"
    service.make_ledger(name)
    with service.client(service.admin, ledger=name) as client:
        yield client


def answer_of(client: httpx.Client, path: str, **params: Any) -> Json:
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


def items_of(client: httpx.Client, path: str, **params: Any) -> list[Json]:
    """The items of all pages."""
    found: list[Json] = []
    while True:
        page = answer_of(client, path, **params)
        found += page["items"]
        if "next" not in page:
            return found
        params["after"] = page["next"]


def amounts(item: Json) -> tuple[str, str, str]:
    assert item["committed"]["low"] == item["committed"]["high"]
    return item["committed"]["low"], item["delivered"], item["remaining"]["low"]


def sold(api: httpx.Client, party: str, item_id: str, amount: str, basis: str = "contractual", currency: str = "USD", **item: str) -> str:
    """A signed contract of a supplier with Isuzu for one product, at a value."""
    body = changed(SIGNED, "/data/parties/0", {"party_id": party, "name": f"The {party}", "roles": ["supplier"]})
    body = changed(body, "/data/items", [{"item_id": item_id, "description": "goods"} | item])
    body = changed(body, "/data/figures", [figure("f", amount, currency, basis)])
    return open_contract(api, body)


def delivered(api: httpx.Client, contract_id: str, name: str, item_id: str, quantity: str, amount: str, day: str) -> None:
    data = {"delivery_id": name, "item_id": item_id, "quantity": quantity, "unit": "EA", "delivered_on": day}
    body = event(data | {"value": {"amount": amount, "currency": "USD"}}, day)
    assert record(api, contract_id, "delivery.recorded", body).status_code == 201


# Commitments


def test_the_estimate_of_about_a_trillion_is_no_contractual_commitment(empty: httpx.Client) -> None:
    contract_id = play_the_case(empty)
    found = items_of(empty, "/commitments", by="year")
    # What derives from the trillion in dollars is the same money, told again.
    assert [(item["basis"], item["currency"], item["year"], *amounts(item)) for item in found] == [
        ("estimated", "KRW", "unscheduled", "1000000000000", "0", "1000000000000"),
        ("reported", "KRW", "unscheduled", "1000000000000", "0", "1000000000000"),
    ]
    assert items_of(empty, "/commitments", basis="contractual") == []
    (made_of,) = httpx_items(empty, found[0]["contracts"])
    assert (made_of["contract_id"], [line["basis"] for line in made_of["lines"]]) == (contract_id, ["estimated"])


def httpx_items(client: httpx.Client, path: str) -> list[Json]:
    """The items of an address from the root of the service."""
    answer = client.get(client.base_url.join(path))
    assert answer.status_code == 200, answer.text
    items: list[Json] = answer.json()["items"]
    return items


def test_sums_are_what_is_computed_by_hand(empty: httpx.Client) -> None:
    first = sold(empty, "a", "cells", "1000.50", quantity="100", unit="EA")
    sold(empty, "a", "packs", "200")
    sold(empty, "b", "cells", "50", basis="reported")
    sold(empty, "b", "cells", "70", currency="EUR")
    delivered(empty, first, "d-1", "cells", "10", "100.25", "2024-05-01")
    delivered(empty, first, "d-2", "cells", "5", "50", "2025")
    money = {(item.get("currency"), item["basis"]): amounts(item) for item in items_of(empty, "/commitments") if "currency" in item}
    assert money == {
        ("EUR", "contractual"): ("70", "0", "70"),
        ("USD", "contractual"): ("1200.5", "150.25", "1050.25"),
        ("USD", "reported"): ("50", "0", "50"),
    }
    by_product = items_of(empty, "/commitments", by="product", currency="USD", basis="contractual")
    assert {item["product"]: amounts(item) for item in by_product} == {
        "cells": ("1000.5", "150.25", "850.25"),
        "packs": ("200", "0", "200"),
    }
    by_year = items_of(empty, "/commitments", by="year,currency", currency="USD", basis="contractual", party="a")
    assert {item["year"]: amounts(item) for item in by_year} == {
        "2024": ("0", "100.25", "0"),
        "2025": ("0", "50", "0"),
        "unscheduled": ("1200.5", "0", "1050.25"),
    }
    (quantity,) = [item for item in items_of(empty, "/commitments", product="cells") if "unit" in item]
    assert (quantity["unit"], *amounts(quantity)) == ("EA", "100", "15", "85")
    by_party = items_of(empty, "/commitments", by="party", currency="USD", basis="contractual")
    assert {item["party"]: amounts(item)[0] for item in by_party} == {"a": "1200.5", "isuzu": "1200.5"}


def test_a_sum_follows_what_happens_to_its_contracts(empty: httpx.Client) -> None:
    contract_id = sold(empty, "a", "cells", "100")
    assert [amounts(item) for item in items_of(empty, "/commitments")] == [("100", "0", "100")]
    revised = event({"replaces": "f", "reason": "renegotiation", "value": figure("g", "150", "USD", "contractual")})
    assert record(empty, contract_id, "value.revised", revised).status_code == 201
    assert [amounts(item) for item in items_of(empty, "/commitments")] == [("150", "0", "150")]
    assert record(empty, contract_id, "contract.terminated", event({"by": "Isuzu"}, "2024-06-01")).status_code == 201
    assert items_of(empty, "/commitments") == []
    assert [amounts(item) for item in items_of(empty, "/commitments", status="terminated")] == [("150", "0", "0")]


def test_what_is_hypothetical_or_unsigned_commits_nobody(empty: httpx.Client) -> None:
    reported = open_contract(empty, REPORTED)
    assert record(empty, reported, "figure.stated", event({"figure": figure("f", basis="contractual")})).status_code == 201
    contract_id = sold(empty, "a", "cells", "100")
    what_if = event({"figure": figure("h", "900", "USD", "estimated")}, hypothetical=True)
    assert record(empty, contract_id, "figure.stated", what_if).status_code == 201
    assert items_of(empty, "/commitments", status="reported,in_force") == []


def test_a_scheduled_volume_stands_in_its_year_and_the_rest_is_unscheduled(empty: httpx.Client) -> None:
    body = changed(SIGNED, "/data/items", [{"item_id": "cells", "description": "cells", "quantity": "100", "unit": "EA"}])
    volumes = [{"item_id": "cells", "period": "2024-Q4", "minimum": "30"}, {"item_id": "cells", "period": "2025", "minimum": "20"}]
    open_contract(empty, changed(body, "/data/terms", {"volumes": volumes}))
    found = items_of(empty, "/commitments", by="year")
    assert {item["year"]: item["committed"]["low"] for item in found} == {"2024": "30", "2025": "20", "unscheduled": "50"}


def test_a_figure_whose_amount_is_sealed_commits_to_no_zero_and_displaces_none_that_is_open(empty: httpx.Client) -> None:
    first, second = sold(empty, "a", "cells", "100"), sold(empty, "b", "cells", "70")
    later, other = figure("g", "900", "USD", "contractual"), figure("g", "5", "EUR", "reported")
    derived = {**figure("h", "8", "CHF", "reported"), "derived_from": {"figure_id": "g"}}
    for contract_id, sealed in ((first, later), (second, other)):
        amount = sealed.pop("amount")
        body = event({"figure": sealed}, sealed=[{"path": "/figure/amount", "value": amount}])
        assert record(empty, contract_id, "figure.stated", body).status_code == 201
    assert record(empty, second, "figure.stated", event({"figure": derived})).status_code == 201
    assert {item["currency"]: amounts(item) for item in items_of(empty, "/commitments")} == {
        "CHF": ("8", "0", "8"),
        "USD": ("170", "0", "170"),
    }


def test_the_contracts_of_each_sum_make_that_sum(empty: httpx.Client) -> None:
    first = sold(empty, "a", "cells", "100")
    sold(empty, "b", "packs", "70")
    both = [{"item_id": item_id, "description": "goods"} for item_id in ("cells", "packs")]
    open_contract(empty, changed(changed(SIGNED, "/data/items", both), "/data/figures", [figure("f", "30", "USD", "contractual")]))
    reported = open_contract(empty, changed(REPORTED, "/data/items", [{"item_id": "old", "description": "as reported"}]))
    for contract_id, product in ((first, "cells"), (reported, "old")):
        delivered(empty, contract_id, f"of-{product}", product, "10", "20", "2024-05-01")
    renamed = {"items": [{"item_id": "new", "description": "as signed"}], "figures": [figure("f", "50", "USD", "contractual")]}
    assert record(empty, reported, "contract.signed", event(renamed, "2024-06-01")).status_code == 201
    for by in ("product", "party,product", "product,year", "year"):
        for told in items_of(empty, "/commitments", by=by):
            lines = [line for made_of in httpx_items(empty, told["contracts"]) for line in made_of["lines"]]
            made = [sum(Decimal(amount) for amount in column) for column in zip(*map(amounts, lines), strict=True)]
            assert made == [Decimal(amount) for amount in amounts(told)], told
    assert [item["contract_id"] for item in items_of(empty, "/contracts", product="old")] == [reported]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_sums_show_each_once(empty: httpx.Client, limit: int) -> None:
    for party, product in (("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")):
        sold(empty, party, product, "10")
    found = items_of(empty, "/commitments", by="party,product", limit=limit)
    assert [(item["party"], item["product"]) for item in found] == [
        *(("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")),
        *(("isuzu", "x"), ("isuzu", "y"), ("isuzu", "z")),
    ]
    assert answer_of(empty, "/commitments", by="party,product", count="exact")["count"] == 7


# Deadlines


def test_deadlines_are_told_by_the_day_that_counts(empty: httpx.Client) -> None:
    body = changed(SIGNED, "/data/period", {"start_on": "2024-02", "end_on": "2030"})
    body = changed(body, "/data/terms", {"renewal": {"automatic": True, "notice_days": 90}})
    body = changed(body, "/data/withheld", [{"path": "/value", "reason": "secret", "until": "2028-Q2"}])
    contract_id = open_contract(empty, body)
    window = {"start_on": "2029-01", "end_on": "2029-06"}
    granted = event({"option_id": "more", "kind": "term", "holder": "isuzu", "window": window})
    assert record(empty, contract_id, "option.granted", granted).status_code == 201
    scheduled = event({"milestone_id": "line", "title": "The line runs", "due_on": "2027-03-31"})
    assert record(empty, contract_id, "milestone.scheduled", scheduled).status_code == 201
    found = items_of(empty, "/deadlines", **{"from": "2024-01-01"})
    assert [(item["kind"], item["due_on"], item["counts_on"]) for item in found] == [
        ("milestone", "2027-03-31", "2027-03-31"),
        ("withheld-until", "2028-Q2", "2028-06-30"),
        ("option-opens", "2029-01", "2029-01-01"),
        ("option-closes", "2029-06", "2029-06-30"),
        ("notice", "2030-10-02", "2030-10-02"),
        ("term-end", "2030", "2030-12-31"),
    ]
    assert {item["contract_id"] for item in found} == {contract_id}
    sentences = {item["kind"]: item["sentence"] for item in found}
    assert sentences["milestone"] == "The milestone line (The line runs) is due on 2027-03-31."
    assert sentences["term-end"] == "The term ends in 2030."
    within = items_of(empty, "/deadlines", **{"from": "2028-06-30", "to": "2029-06-30"}, limit=1)
    assert [item["kind"] for item in within] == ["withheld-until", "option-opens", "option-closes"]
    assert [item["kind"] for item in items_of(empty, "/deadlines", kind="notice")] == ["notice"]
    met = event({"milestone_id": "line"}, "2026-03-31")
    assert record(empty, contract_id, "milestone.met", met | {"effective_on": "2026-03-31"}).status_code == 201
    assert "milestone" not in {item["kind"] for item in items_of(empty, "/deadlines")}
    assert record(empty, contract_id, "contract.completed", event({}, "2026-04-01")).status_code == 201
    assert [item["kind"] for item in items_of(empty, "/deadlines")] == ["withheld-until"]


@pytest.mark.parametrize(
    ("path", "params", "pointer"),
    [
        ("/deadlines", {"from": "2026-01-02", "to": "2026-01-01"}, "query:to"),
        ("/deadlines", {"from": "2026"}, "query:from"),
        ("/deadlines", {"to": "2023-02-30"}, "query:to"),
        ("/deadlines", {"kind": "birthday"}, "query:kind"),
        ("/commitments", {"by": "moon"}, "query:by"),
        ("/commitments", {"by": "year,year"}, "query:by"),
        ("/commitments", {"status": "in_force,nowhere"}, "query:status"),
        ("/commitments", {"currency": "XXY"}, "query:currency"),
        ("/commitments", {"basis": "hoped"}, "query:basis"),
        ("/commitments", {"year": "soon"}, "query:year"),
        ("/commitments/contracts", {"currency": "USD", "unit": "EA"}, "query:unit"),
        ("/parties", {"text": "!!"}, "query:text"),
        ("/parties", {"role": "No role"}, "query:role"),
        ("/contracts", {"status": "nowhere"}, "query:status"),
        ("/contracts", {"currency": "XXY"}, "query:currency"),
        ("/contracts", {"role": "No role"}, "query:role"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(api: httpx.Client, path: str, params: dict[str, str], pointer: str) -> None:
    answer = api.get(path, params=params)
    assert answer.status_code == 422, answer.text
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_a_cursor_is_of_its_own_list(empty: httpx.Client) -> None:
    for party in ("a", "b"):
        sold(empty, party, "cells", "10")
    cursor = answer_of(empty, "/parties", limit=1)["next"]
    for path in ("/commitments", "/deadlines", "/commitments/contracts"):
        assert empty.get(path, params={"after": cursor}).status_code == 409
    by_party = answer_of(empty, "/commitments", by="party", limit=1)["next"]
    assert empty.get("/commitments", params={"after": by_party}).status_code == 409


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/deadlines", "2026-02-30_00000000-0000-7000-8000-000000000000_1"),
        ("/deadlines", f"2026-02-28_{'-' * 36}_1"),
        ("/commitments", "USD|\0|contractual"),
    ],
)
def test_a_cursor_with_a_place_that_there_cannot_be_is_refused(empty: httpx.Client, path: str, place: str) -> None:
    for currency in ("USD", "EUR"):
        sold(empty, "a", "cells", "10", currency=currency)
    cursor = answer_of(empty, path, limit=1)["next"]
    tag, _, _ = urlsafe_b64decode(f"{cursor}===").partition(b".")
    answer = empty.get(path, params={"after": urlsafe_b64encode(tag + b"." + place.encode()).decode().rstrip("=")})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


# Parties


def test_parties_are_told_by_id_with_all_their_names(empty: httpx.Client) -> None:
    leis = [{"scheme": "LEI", "id": "988400TFL8T2I1RBOR12"}]
    korean = {"party_id": "lges", "name": "LG에너지솔루션", "roles": ["supplier", "developer"], "identifiers": leis}
    open_contract(empty)
    open_contract(empty)
    open_contract(empty, changed(SIGNED, "/data/parties/0", korean))
    lges = answer_of(empty, "/parties/lges")
    assert lges["names"] == [{"name": "LG Energy Solution", "contracts": 2}, {"name": "LG에너지솔루션", "contracts": 1}]
    assert (lges["roles"], lges["identifiers"], lges["contract_count"]) == (["developer", "supplier"], leis, 3)
    assert len(httpx_items(empty, lges["contracts"])) == 3
    assert [item["party_id"] for item in items_of(empty, "/parties", limit=1)] == ["isuzu", "lges"]
    assert [item["party_id"] for item in items_of(empty, "/parties", text="에너지")] == ["lges"]
    assert [item["party_id"] for item in items_of(empty, "/parties", text="energy LG")] == ["lges"]
    assert [item["party_id"] for item in items_of(empty, "/parties", role="buyer")] == ["isuzu"]
    assert answer_of(empty, "/parties", count="exact")["count"] == 2


def test_names_in_several_languages_are_told_apart(empty: httpx.Client) -> None:
    for name, language in [("LG Energy Solution", "en"), ("LG에너지솔루션", "ko"), ("LG에너지솔루션", "ko"), ("LG에너지솔루션", None)]:
        party = {"party_id": "lges", "name": name, "roles": ["supplier"]} | ({"language": language} if language else {})
        open_contract(empty, changed(SIGNED, "/data/parties/0", party))
    assert answer_of(empty, "/parties/lges")["names"] == [
        {"name": "LG에너지솔루션", "language": "ko", "contracts": 2},
        {"name": "LG Energy Solution", "language": "en", "contracts": 1},
        {"name": "LG에너지솔루션", "contracts": 1},
    ]


def test_a_party_that_turned_out_to_be_another_is_told_as_that_one(empty: httpx.Client) -> None:
    parties = [*PARTIES, {"party_id": "lg/es:kr", "name": "エルジー", "roles": ["guarantor"]}]
    contract_id = open_contract(empty, changed(SIGNED, "/data/parties", parties))
    assert answer_of(empty, "/parties/lg%2Fes:kr")["party_id"] == "lg/es:kr"
    assert record(empty, contract_id, "party.identified", event({"party_id": "lges", "merges": ["lg/es:kr"]})).status_code == 201
    found = answer_of(empty, "/parties/lg%2Fes:kr")
    assert (found["party_id"], found["merges"], found["roles"]) == ("lges", ["lg/es:kr"], ["guarantor", "supplier"])
    assert [item["party_id"] for item in items_of(empty, "/parties")] == ["isuzu", "lges"]
    assert [item["party_id"] for item in items_of(empty, "/parties", text="エルジー")] == ["lges"]


def test_who_stepped_out_is_told_as_a_former_party(empty: httpx.Client) -> None:
    contract_id = open_contract(empty)
    replaced = event({"replaces": "isuzu", "party": {"party_id": "ud", "name": "UD Trucks", "roles": ["buyer"]}})
    assert record(empty, contract_id, "party.replaced", replaced).status_code == 201
    isuzu = answer_of(empty, "/parties/isuzu")
    assert (isuzu["contract_count"], isuzu["former_contract_count"]) == (0, 1)
    assert answer_of(empty, "/parties/ud")["contract_count"] == 1


def test_a_party_that_no_contract_has_is_not_found(api: httpx.Client) -> None:
    answer = api.get("/parties/nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "party-not-found")


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        ("/deadlines", "service.api.deadlines.deadlines_after"),
        ("/commitments", "service.api.commitments.sums"),
        ("/parties", "service.api.parties.parties_after"),
        ("/parties/a", "service.api.parties.forms_of"),
    ],
)
def test_what_a_rebuild_takes_away_while_it_is_read_is_not_told_as_if_it_were_all(
    service: RunningService, empty: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, reading: str
) -> None:
    sold(empty, "a", "cells", "10")
    whole = answer_of(empty, path)
    module, _, name = reading.rpartition(".")
    read = getattr(sys.modules[module], name)

    async def read_after_a_rebuild(*given: Any) -> Any:
        ledger = empty.base_url.path.strip("/").rpartition("/")[2]
        await asyncio.to_thread(rebuild, service.database.service_url, ledger, lambda *_: None)
        return await read(*given)

    with monkeypatch.context() as patched:
        patched.setattr(reading, read_after_a_rebuild)
        answer = empty.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "outlook-behind")
    again = answer_of(empty, path)
    assert again.get("items", again) == whole.get("items", whole)


def test_an_empty_ledger_has_an_empty_outlook(empty: httpx.Client) -> None:
    for path in ("/commitments", "/commitments/contracts", "/deadlines", "/parties"):
        page = answer_of(empty, path)
        assert (page["items"], page["as_of"]["known_position"]) == ([], 0)


def test_an_answer_tells_of_everything_that_was_recorded_before_it_was_asked_for(empty: httpx.Client) -> None:
    for index in range(5):
        contract_id = sold(empty, "a", "cells", "10")
        position = answer_of(empty, "/deadlines")["as_of"]["known_position"]
        assert position == index + 1 == answer_of(empty, "/parties/a")["contract_count"]
        assert contract_id in {item["contract_id"] for item in items_of(empty, "/commitments/contracts")}


# Verify


def test_verify_holds_the_outlook_against_the_rows_it_is_made_from(service: RunningService, empty: httpx.Client) -> None:
    ledger = empty.base_url.path.rstrip("/").rpartition("/")[2]
    contract_id = sold(empty, "a", "cells", "100.50")
    assert items_of(empty, "/commitments") != []
    delivered(empty, contract_id, "d", "cells", "1", "10.25", "2024-05-01")
    url = service.database.service_url
    verified(url, ledger)  # the outlook is behind, which is no fault
    assert items_of(empty, "/commitments") != []
    verified(url, ledger)
    for table, change, back in (
        ("commitments", "delivered = delivered + 1", "delivered = delivered - 1"),
        ("parties", "contracts = contracts + 1", "contracts = contracts - 1"),
        ("deadlines", "counts_on = counts_on + 1", "counts_on = counts_on - 1"),
    ):
        ledger_id = "ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)"
        rows(url, f"UPDATE {table} SET {change} WHERE {ledger_id}", ledger)
        difference = verify(url, ledger, lambda *_: None, processes=1).difference
        assert difference is not None
        assert difference.where == table
        rows(url, f"UPDATE {table} SET {back} WHERE {ledger_id}", ledger)
    verified(url, ledger)
