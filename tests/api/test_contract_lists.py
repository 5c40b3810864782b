"""Lists of contracts by value, product, label, days, ids and words, and in the order of days."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.bodies import REPORTED, SIGNED, Json, changed, event, figure, open_contract, play_the_case, record
from tests.api.documented import check_answer
from tests.api.running import RunningService
from tests.api.test_lists import ids, pages

TITLES = ["Cylindrical batteries", "원통형 배터리 공급 계약", "円筒形電池の供給", "Cathode foil", "양극재"]


@pytest.fixture(scope="module")
def shelf(service: RunningService) -> Iterator[httpx.Client]:
    """A ledger of five contracts that the tests do not change; the last two were never signed."""
    service.make_ledger("shelf")
    with service.client(service.admin, ledger="shelf") as client:
        for index, title in enumerate(TITLES):
            body = changed(SIGNED if index < 3 else REPORTED, "/data/title", title)
            body = changed(body, "/data/items", [{"item_id": f"item-{index % 2}", "description": "Zellen"}])
            if index < 3:
                body = changed(body, "/data/signed_on", f"2024-0{3 - index}")
                body = changed(body, "/data/period", {"start_on": "2024-04", "end_on": f"2026-0{index + 1}"})
            else:
                del body["data"]["period"]
            contract_id = open_contract(client, body)
            for one in (figure("krw", f"{index + 1}000000000"), figure("usd", f"{index + 1}5000000.50", "USD", "estimated")):
                assert record(client, contract_id, "figure.stated", event({"figure": one})).status_code == 201
        yield client


def titles(client: httpx.Client, **asked: Any) -> list[int]:
    """The contracts that are listed, by the number of their title, in the order of the list."""
    return [TITLES.index(item["state"]["title"]) for page in pages(client, "/contracts", **asked) for item in page["items"]]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"currency": "KRW", "value_from": "2000000000", "value_to": "3000000000"}, {1, 2}),
        ({"currency": "KRW", "value_from": "2000000001"}, {2, 3, 4}),
        ({"currency": "KRW", "value_to": "1999999999"}, {0}),
        ({"currency": "USD", "value_from": "45000000.50", "value_to": "45000000.50"}, {3}),
        ({"currency": "USD", "value_from": "45000000.51", "value_to": "54999999"}, set()),
        ({"currency": "EUR", "value_from": "0"}, set()),
        ({"currency": "KRW", "value_from": "0", "value_to": "9" * 28}, {0, 1, 2, 3, 4}),
        ({"product": "item-1"}, {1, 3}),
        ({"product": "item"}, set()),
        ({"signed_from": "2024-02-01"}, {0, 1}),
        ({"signed_to": "2024-02-01"}, {1, 2}),
        ({"signed_from": "2024-02-01", "signed_to": "2024-02-29"}, {1}),
        ({"ends_from": "2026-02-28"}, {1, 2}),
        ({"ends_to": "2026-02-27"}, {0}),
        ({"ends_to": "9999-12-31"}, {0, 1, 2}),
        ({"text": "batteries"}, {0}),
        ({"text": "BATTERIES cylindrical"}, {0}),
        ({"text": "batter"}, set()),
        ({"text": "zellen"}, {0, 1, 2, 3, 4}),
        ({"text": "isuzu 배터리"}, {1}),
        ({"text": "배터"}, {1}),
        ({"text": "터리"}, {1}),
        ({"text": "극재"}, {4}),
        ({"text": "電池"}, {2}),
        ({"text": "筒形電"}, {2}),
        ({"text": "電筒"}, set()),
        ({"text": "batteries foil"}, set()),
        ({"text": "foil", "currency": "USD", "value_from": "40000000", "product": "item-1", "status": "reported"}, {3}),
    ],
)
def test_contracts_are_found_by_what_is_asked(shelf: httpx.Client, asked: Json, found: set[int]) -> None:
    assert set(titles(shelf, **asked)) == found
    assert set(titles(shelf, **asked, limit=1, sort="-signed_on")) == found
    assert shelf.get("/contracts", params=asked | {"count": "exact"}).json()["count"] == len(found)


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 500])
def test_contracts_are_sorted_by_the_day_they_were_signed(shelf: httpx.Client, limit: int) -> None:
    latest_first = titles(shelf, sort="-signed_on", limit=limit)
    assert latest_first[:3] == [0, 1, 2]
    assert set(latest_first[3:]) == {3, 4}
    assert titles(shelf, sort="signed_on", limit=limit) == latest_first[::-1]


@pytest.mark.parametrize("limit", [1, 3])
def test_contracts_are_sorted_by_the_end_of_their_term(shelf: httpx.Client, limit: int) -> None:
    assert titles(shelf, sort="ends_on", ends_from="2026-01-01", limit=limit) == [0, 1, 2]
    assert titles(shelf, sort="-ends_on", limit=limit)[:3] == [2, 1, 0]


def test_contracts_are_listed_by_their_ids(shelf: httpx.Client) -> None:
    known = ids(shelf)
    other = "01890a5d-ac96-774b-bcce-b302099a8057"
    assert ids(shelf, ids=",".join([known[3].upper(), other, known[1]])) == [known[1], known[3]]
    assert ids(shelf, ids=known[0], text="foil") == []
    assert ids(shelf, ids=",".join([other] * 100)) == []


def test_the_case_is_found_by_its_value_in_dollars_and_by_its_words(service: RunningService) -> None:
    service.make_ledger("cases")
    with service.client(service.admin, ledger="cases") as client:
        case = play_the_case(client)
        assert ids(client, currency="USD", value_from="764000000", value_to="764500000") == [case]
        assert ids(client, currency="USD", value_from="766000000") == []
        assert ids(client, currency="KRW", value_from="1000000000000") == [case]
        assert ids(client, text="elf TRUCK") == [case]


def test_a_label_is_a_filter(service: RunningService) -> None:
    service.make_ledger("labelled")
    with service.client(service.admin, ledger="labelled") as client:
        contract_id = open_contract(client)
        open_contract(client)
        assert record(client, contract_id, "contract.labelled", event({"set": ["key account"]}, None)).status_code == 201
        assert ids(client, label="key account") == [contract_id]
        assert ids(client, label="key") == []
        assert record(client, contract_id, "contract.labelled", event({"remove": ["key account"]}, None)).status_code == 201
        assert ids(client, label="key account") == []


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"value_from": "1"}, "query:value_from"),
        ({"reference": "20240126801"}, "query:reference"),
        ({"reference": "DART:"}, "query:reference"),
        ({"reference": ":20240126801"}, "query:reference"),
        ({"value_to": "1"}, "query:value_to"),
        ({"currency": "KRW", "value_from": "2", "value_to": "1"}, "query:value_to"),
        ({"currency": "KRW", "value_from": "-1"}, "query:value_from"),
        ({"currency": "KRW", "value_from": "1e9"}, "query:value_from"),
        ({"currency": "KRW", "value_from": "1" * 29}, "query:value_from"),
        ({"signed_from": "2024"}, "query:signed_from"),
        ({"text": ""}, "query:text"),
        ({"text": "?!"}, "query:text"),
        ({"ids": ""}, "query:ids"),
        ({"ids": "x"}, "query:ids"),
        ({"ids": ",".join(["01890a5d-ac96-774b-bcce-b302099a8057"] * 101)}, "query:ids"),
        ({"sort": "value"}, "query:sort"),
        ({"sort": "+signed_on"}, "query:sort"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_its_name(shelf: httpx.Client, asked: Json, pointer: str) -> None:
    answer = shelf.get("/contracts", params=asked)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_a_cursor_is_of_one_order(shelf: httpx.Client) -> None:
    of_days = shelf.get("/contracts", params={"sort": "-signed_on", "limit": 1}).json()["next"]
    of_ids = shelf.get("/contracts", params={"limit": 1}).json()["next"]
    for after, sort in ((of_days, "contract_id"), (of_days, "signed_on"), (of_ids, "-signed_on")):
        answer = shelf.get("/contracts", params={"after": after, "sort": sort})
        assert (answer.status_code, answer.json()["code"]) == (409, "history-forked")
        check_answer(answer)
