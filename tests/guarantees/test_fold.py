"""Promise 4: current state is exactly the fold of the log; a rebuild changes nothing."""

from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from jsonpatch import apply_patch

from service.audit.rebuild import rebuild
from tests.guarantees.conftest import Pair
from tests.guarantees.load import Work, at_work, opening
from tests.servers import rows, verified

REQUESTS = 200
_ROWS = """
    SELECT contract_id, c.revision, c.position, last_hash, last_on, has_pending, holds_until, filters, state, beside
    FROM contracts c JOIN ledgers l USING (ledger_id, generation) WHERE name = %s ORDER BY contract_id
"""
_DELIVERIES = """
    SELECT contract_id, delivery_id, revision FROM deliveries JOIN ledgers USING (ledger_id, generation)
    WHERE name = %s ORDER BY contract_id, delivery_id
"""


@pytest.fixture(scope="module")
def loaded(pair: Pair, pool: ProcessPoolExecutor) -> str:
    """A ledger after random events, late, pending and refused ones among them, from two processes to a few shared contracts."""
    ledger = pair.ledger()
    with pair.clients(ledger)[0] as api:
        shared = [
            api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": str(n)}).json()["contract_id"] for n in range(3)
        ]
    works = [Work(urls=pair.urls, ledger=ledger, key=pair.key, requests=REQUESTS, seed=seed, contracts=shared) for seed in (31, 32)]
    answers = at_work(pool, works).result()
    assert {201, 409} <= {answer.status for answer in answers} <= {201, 409, 412, 422}
    return ledger


def test_the_stored_state_is_the_fold_after_random_concurrent_load(pair: Pair, loaded: str) -> None:
    verdict = verified(pair.database.service_url, loaded)
    found = rows(pair.database.service_url, _ROWS, loaded)
    assert verdict.contracts == len(found) > 10
    assert any(row[5] for row in found), "nothing was pending"


def test_a_contract_read_from_its_row_is_the_contract_folded_from_the_log(pair: Pair, loaded: str) -> None:
    first, second = pair.clients(loaded)
    with first, second:
        for contract_id, *_ in rows(pair.database.service_url, _ROWS, loaded):
            stored = first.get(f"/contracts/{contract_id}").json()
            # Asked with a time, the answer is folded from the events.
            folded = second.get(f"/contracts/{contract_id}", params={"known_position": stored["as_of"]["known_position"]}).json()
            assert folded == stored


def test_a_rebuild_changes_nothing_and_can_be_repeated(pair: Pair, loaded: str) -> None:
    url = pair.database.service_url
    before = rows(url, _ROWS, loaded), rows(url, _DELIVERIES, loaded)
    assert before[1]
    for _ in range(2):
        rebuilt = rebuild(url, loaded, lambda _done, _total, _unit: None)
        assert (rebuilt.changed, rebuilt.difference) == (0, None)
        assert (rows(url, _ROWS, loaded), rows(url, _DELIVERIES, loaded)) == before
    verified(url, loaded)


def test_lists_show_the_same_states_as_contracts_do(pair: Pair, loaded: str) -> None:
    with pair.clients(loaded)[1] as api:
        listed, params = [], {"limit": "7"}
        while True:
            page = api.get("/contracts", params=params).json()
            listed += page["items"]
            if "next" not in page:
                break
            params["after"] = page["next"]
        assert len(listed) == len(rows(pair.database.service_url, _ROWS, loaded))
        for item in listed:
            told = api.get(f"/contracts/{item['contract_id']}").json()
            assert item == {name: told[name] for name in item}


def _pages(api: httpx.Client, path: str, **params: Any) -> list[Any]:
    """The items of all pages."""
    found: list[Any] = []
    while True:
        page = api.get(path, params=params).json()
        found += page["items"]
        if "next" not in page:
            return found
        params["after"] = page["next"]


def test_each_filter_finds_the_contracts_whose_states_have_what_it_asks_for(pair: Pair, loaded: str) -> None:
    with pair.clients(loaded)[0] as api:
        states = {item["contract_id"]: item["state"] for item in _pages(api, "/contracts")}
        asked: dict[tuple[tuple[str, str], ...], set[str]] = defaultdict(set)
        for contract_id, state in states.items():
            asked[(("status", state["status"]),)].add(contract_id)
            for party in state.get("parties", ()):
                asked[(("party", party["party_id"]),)].add(contract_id)
                for role in party["roles"]:
                    asked[(("role", role),)].add(contract_id)
                    asked[("party", party["party_id"]), ("role", role)].add(contract_id)
            for item in state.get("items", ()):
                asked[(("product", item["item_id"]),)].add(contract_id)
            for figure in state["value"].get("figures", ()):
                asked[(("currency", figure["currency"]),)].add(contract_id)
            for total in state["value"].get("by_currency", ()):
                amounts = ("value_from", total["low"]["amount"]), ("value_to", total["high"]["amount"])
                asked[(("currency", total["currency"]), *amounts)] |= _worth(states, total)
        assert len(asked) > 10
        for params, expected in asked.items():
            assert {item["contract_id"] for item in _pages(api, "/contracts", limit="9", **dict(params))} == expected, params


def _worth(states: dict[str, Any], wanted: Any) -> set[str]:
    """The contracts whose range in a currency meets another's."""
    return {
        contract_id
        for contract_id, state in states.items()
        for total in state["value"].get("by_currency", ())
        if total["currency"] == wanted["currency"]
        and Decimal(total["high"]["amount"]) >= Decimal(wanted["low"]["amount"])
        and Decimal(total["low"]["amount"]) <= Decimal(wanted["high"]["amount"])
    }


def test_histories_and_comparisons_lead_to_the_states_that_contracts_show(pair: Pair, loaded: str) -> None:
    with pair.clients(loaded)[0] as api:
        for item in _pages(api, "/contracts")[:12]:
            path, state = f"/contracts/{item['contract_id']}", {}
            changes = _pages(api, f"{path}/history", limit="40")
            for change in changes:
                state = apply_patch(state, change["patch"])
            assert (state, len(changes)) == (item["state"], item["revision"])
            middle = str((item["revision"] + 1) // 2)
            then = api.get(path, params={"revision": middle, "effective_on": "2024-03-01"}).json()
            compared = api.get(f"{path}/compare", params={"from_revision": middle, "from_effective_on": "2024-03-01"}).json()
            assert apply_patch(then["state"], compared["patch"]) == item["state"]
            assert (compared["from_state_hash"], compared["to_state_hash"]) == (then["state_hash"], changes[-1]["state_hash"])


def test_each_prefix_of_the_log_has_the_state_that_was_current_then(pair: Pair) -> None:
    from tests.guarantees.load import delivery, envelope, figure, note

    steps = [
        ("figure-stated", figure("a", "1000")),
        ("figure-stated", figure("late", "900", "2022-07-07")),
        ("note-added", note("pending", "2031-01-01")),
        ("contract-signed", envelope("2023", {"signed_by": "2024-01-26"})),
        ("delivery-recorded", delivery("one", "2023-01-01")),
    ]
    with pair.clients(pair.ledger())[0] as api:
        opened = api.post("/contracts/reported", json=opening(), headers={"Idempotency-Key": "opening"})
        contract = opened.headers["location"].partition("/contracts")[2]
        then = [api.get(f"/contracts{contract}").json()]
        for number, (kind, body) in enumerate(steps):
            assert api.post(f"/contracts{contract}/{kind}", json=body, headers={"Idempotency-Key": str(number)}).status_code == 201
            then.append(api.get(f"/contracts{contract}").json())
        for revision, known in enumerate(then, 1):
            now = api.get(
                f"/contracts{contract}", params={"revision": str(revision), "effective_on": known["as_of"]["effective_on"]}
            ).json()
            assert {**now, "as_of": None} == {**known, "as_of": None}
            assert datetime.fromisoformat(now["as_of"]["known_at"]) == datetime.fromisoformat(known["as_of"]["known_at"])
