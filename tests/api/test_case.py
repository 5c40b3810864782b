"""The contract between LG Energy Solution and Isuzu, as the world learned of it: its questions, asked over HTTP, and their answers."""

from typing import Any

import httpx
import pytest

from tests.api.bodies import Json, play_the_case

FIRST, LAST = "2022-07-06", "2024-01-26"


@pytest.fixture(scope="module")
def case(api: httpx.Client) -> str:
    return play_the_case(api)


def told(api: httpx.Client, contract_id: str, **times: str) -> Json:
    answer = api.get(f"/contracts/{contract_id}", params=times)
    assert answer.status_code == 200, answer.text
    contract: Json = answer.json()
    return contract


def positions(contract: Json, revisions: list[int]) -> dict[int, Any]:
    """What the answer says of the events that it rests on, by revision."""
    return {basis["revision"]: basis for basis in contract["rests_on"] if basis["revision"] in revisions}


def test_the_value_by_the_first_day_is_an_estimate_on_the_word_of_reuters(api: httpx.Client, case: str) -> None:
    state = told(api, case, published_by=FIRST)["state"]
    value = state["value"]
    assert value["status"] == "estimated"
    best = {name: value["best"][name] for name in ("figure_id", "amount", "currency", "basis", "bound")}
    assert best == {"figure_id": "krw-1", "amount": "1000000000000", "currency": "KRW", "basis": "reported", "bound": "about"}
    assert value["best"]["source"] == {"kind": "news", "via": "Reuters", "published_on": FIRST}
    assert value["best"]["rests_on"] == [2]
    assert value.get("conflicts", []) == []
    assert "marks" not in state


def test_in_dollars_the_value_is_763_to_765_million_both_derived_from_the_won(api: httpx.Client, case: str) -> None:
    state = told(api, case, published_by=FIRST)["state"]
    won, dollars = state["value"]["by_currency"]
    assert (won["currency"], won["low"]["amount"], won["high"]["amount"]) == ("KRW", "1000000000000", "1000000000000")
    assert (dollars["currency"], dollars["best"]["figure_id"]) == ("USD", "usd-763")
    assert dollars["low"] == {"amount": "763000000", "figure_id": "usd-763"}
    assert dollars["high"] == {"amount": "765000000", "figure_id": "usd-765"}
    derived = {figure["figure_id"]: figure.get("derived_from") for figure in state["value"]["figures"]}
    assert derived == {"krw-1": None, "usd-763": {"figure_id": "krw-1"}, "usd-765": {"figure_id": "krw-1"}}


def test_by_the_last_day_the_best_is_the_same_with_one_estimate_more_and_the_filing_withholds(api: httpx.Client, case: str) -> None:
    first, last = (told(api, case, published_by=day)["state"] for day in (FIRST, LAST))
    assert last["value"]["best"] == first["value"]["best"]
    more = {figure["figure_id"] for figure in last["value"]["figures"]} - {figure["figure_id"] for figure in first["value"]["figures"]}
    assert more == {"krw-2"}
    assert (first["value"]["support"], last["value"]["support"]) == (1, 2)
    assert last["value"]["status"] == "estimated"
    assert last["marks"] == ["withheld"]
    assert [part["path"] for part in last["withheld"]] == ["/value", "/quantity"]
    assert [part["path"] for part in last["value"]["withheld"]] == ["/value"]
    assert last["quantity"]["status"] == "withheld"
    assert last["value"].get("conflicts", []) == []


def test_in_the_middle_of_2023_it_was_negotiated_by_what_was_published_on_the_first_day(api: httpx.Client, case: str) -> None:
    contract = told(api, case, effective_on="2023-07-01", published_by=FIRST)
    assert contract["state"]["status"] == "negotiating"
    assert contract["state"]["status_rests_on"] == [6]
    assert "delivery" not in contract["state"]
    assert contract["anomalies"] == []
    assert contract["pending"] == []


def test_in_the_middle_of_2023_it_was_delivering_by_what_was_published_on_the_last_day(api: httpx.Client, case: str) -> None:
    contract = told(api, case, effective_on="2023-07-01", published_by=LAST)
    state = contract["state"]
    assert (state["status"], state["status_rests_on"]) == ("delivering", [8])
    assert (state["delivery"]["started_on"], state["delivery"]["partial"]) == ("2023-06", True)
    assert {"path": "/delivery/started_on", "date": "2023-06", "rests_on": [8]} in state["uncertain"]
    assert {"revision": 7, "event_type": "contract.signed", "effective_on": LAST} in contract["pending"]
    (anomaly,) = contract["anomalies"]
    assert (anomaly["rule"], anomaly["events"]) == ("delivery-before-signing", [7, 8])
    assert "latest possible signing day, 2024-01-26" in anomaly["sentence"]


def test_the_term_ends_in_2026_on_the_presss_word_and_on_its_last_day_on_the_filings(api: httpx.Client, case: str) -> None:
    press, filing = told(api, case, published_by=FIRST), told(api, case, published_by=LAST)
    assert press["state"]["term_end"] == {"end_on": "2026", "by": "duration", "rests_on": [1]}
    assert positions(press, [1])[1]["source"]["kind"] == "news"
    assert filing["state"]["term_end"] == {"end_on": "2026-12-31", "by": "stated", "rests_on": [7]}
    assert positions(filing, [7])[7]["source"]["kind"] == "filing"


def test_every_answer_names_the_positions_that_it_rests_on(api: httpx.Client, case: str) -> None:
    log = {entry["revision"]: entry for entry in api.get(f"/contracts/{case}/events").json()["items"]}
    contract = told(api, case, published_by=FIRST)
    assert [basis["revision"] for basis in contract["rests_on"]] == [1, 2, 3, 4, 5, 6]
    for basis in contract["rests_on"]:
        entry = log[basis["revision"]]
        assert {name: entry[name] for name in ("position", "event_id", "event_type", "effective_on", "source")} == {
            name: basis[name] for name in ("position", "event_id", "event_type", "effective_on", "source")
        }


def test_before_the_first_report_nothing_was_known(api: httpx.Client, case: str) -> None:
    contract = told(api, case, published_by="2022-07-05")
    assert contract["state"] == {"status": "unknown", "quantity": {"status": "unknown"}, "value": {"status": "unknown"}}
    assert contract["rests_on"] == []


def test_the_order_may_grow_but_no_option_is_granted(api: httpx.Client, case: str) -> None:
    best = told(api, case, published_by=LAST)["state"]["value"]["best"]
    assert best["note"] == "may rise: Isuzu may order more"
    assert "open_above" not in told(api, case, published_by=LAST)["state"]["value"]
