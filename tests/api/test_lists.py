"""Lists: filters, pages by cursor, links to the next, and the log in its order."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from service.api.pages import MAX_COUNT
from tests.api.bodies import REPORTED, SIGNED, Json, changed, event, figure, note, open_contract, record
from tests.api.documented import check_answer
from tests.api.running import RunningService, running

MEMBERS = {"event_id", "event_type", "contract_id", "position", "revision", "schema_version", "recorded_at", "recorded_by"}


@pytest.fixture(scope="module")
def book(service: RunningService) -> Iterator[httpx.Client]:
    """A ledger with ten contracts, of which the tests change nothing."""
    service.make_ledger("book")
    with service.client(service.admin, ledger="book") as client:
        for index in range(10):
            fill(client, index)
        yield client


def fill(client: httpx.Client, index: int) -> None:
    """Every second contract is signed; every third is in dollars; each has a supplier of its own, and Isuzu buys from all."""
    body = changed(SIGNED if index % 2 else REPORTED, "/data/parties/0/party_id", f"supplier-{index}")
    body = changed(body, "/data/references", [{"scheme": "DART", "id": f"2024012680{index}"}])
    contract_id = open_contract(client, body)
    stated = figure("f", "100", "USD") if index % 3 == 0 else figure("f")
    assert record(client, contract_id, "figure.stated", event({"figure": stated})).status_code == 201


def pages(client: httpx.Client, path: str, **params: Any) -> Iterator[Json]:
    """Every page of a list, by the links from one to the next."""
    url = path
    given: dict[str, Any] | None = params
    for _ in range(1_000):
        answer = client.get(url, params=given)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if "next" not in answer.links:
            return
        # A link is followed as it stands, from the root of the service.
        url, given = str(answer.url.join(answer.links["next"]["url"])), None
    pytest.fail("the pages never end")


def ids(client: httpx.Client, **params: Any) -> list[str]:
    return [item["contract_id"] for page in pages(client, "/contracts", **params) for item in page["items"]]


# Contracts


@pytest.mark.parametrize("limit", [1, 3, 9, 10, 11, 500])
def test_pages_of_any_size_show_every_contract_once(book: httpx.Client, limit: int) -> None:
    shown = list(pages(book, "/contracts", limit=limit))
    found = [item["contract_id"] for page in shown for item in page["items"]]
    assert len(found) == len(set(found)) == 10
    assert [len(page["items"]) for page in shown[:-1]] == [limit] * (len(shown) - 1)
    assert ["next" in page for page in shown] == [True] * (len(shown) - 1) + [False]


def test_a_page_has_fifty_items_if_not_said(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    items = [{"event_type": "note.added"} | note()] * 60
    api.post(f"/contracts/{contract_id}/events", json={"events": items}, headers={"Idempotency-Key": "sixty"})
    for path in (f"/contracts/{contract_id}/events", "/events"):
        assert len(api.get(path).json()["items"]) == 50


def test_the_link_to_the_next_page_keeps_the_filters(book: httpx.Client) -> None:
    answer = book.get("/contracts", params={"limit": 2, "party": "isuzu", "role": "buyer"})
    link = answer.links["next"]
    assert link["rel"] == "next"
    assert link["url"] == f"/v1/ledgers/book/contracts?limit=2&party=isuzu&role=buyer&after={answer.json()['next']}"


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"party": "isuzu"}, 10),
        ({"party": "supplier-3"}, 1),
        ({"party": "nobody"}, 0),
        ({"party": "supplier"}, 0),
        ({"role": "supplier"}, 10),
        ({"role": "guarantor"}, 0),
        ({"party": "isuzu", "role": "buyer"}, 10),
        # The role is of the same party.
        ({"party": "isuzu", "role": "supplier"}, 0),
        ({"status": "reported"}, 5),
        ({"status": "in_force"}, 5),
        ({"status": "signed"}, 0),
        ({"currency": "USD"}, 4),
        ({"currency": "KRW"}, 6),
        ({"currency": "EUR"}, 0),
        ({"currency": "USD", "status": "reported"}, 2),
        ({"reference": "DART:20240126807"}, 1),
        ({"reference": "DART:2024012680"}, 0),
        ({"reference": "dart:20240126807"}, 0),
        ({"currency": "USD", "status": "reported", "party": "supplier-6", "reference": "DART:20240126806"}, 1),
    ],
)
def test_contracts_are_found_by_what_they_are(book: httpx.Client, filters: dict[str, str], count: int) -> None:
    assert len(ids(book, **filters)) == count
    assert len(ids(book, **filters, limit=1)) == count


def test_a_list_shows_contracts_as_they_are_read_one_by_one(book: httpx.Client) -> None:
    page = book.get("/contracts").json()
    for item in page["items"]:
        read = book.get(f"/contracts/{item['contract_id']}").json()
        assert item == {name: read[name] for name in ("contract_id", "revision", "state")}
        assert page["as_of"] == read["as_of"]


def test_a_contract_moves_in_the_lists_with_its_next_event(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    assert contract_id in ids(api, status="in_force", limit=500)
    assert record(api, contract_id, "contract.terminated", event({"by": "Isuzu"})).status_code == 201
    assert contract_id not in ids(api, status="in_force", limit=500)
    assert contract_id in ids(api, status="terminated", limit=500)


def test_a_contract_whose_opening_is_still_to_come_is_found_by_the_status_that_it_shows(service: RunningService) -> None:
    service.make_ledger("to-come")
    with service.client(service.admin, ledger="to-come") as client:
        opened = open_contract(client)
        to_come = open_contract(client, changed(SIGNED, "/effective_on", "2900-01-01"))
        shown = {item["contract_id"]: item["state"]["status"] for item in client.get("/contracts").json()["items"]}
        assert shown == {opened: "in_force", to_come: "unknown"}
        for contract_id, status in shown.items():
            assert ids(client, status=status) == [contract_id]
        assert client.get("/commitments", params={"status": "unknown"}).json()["items"] == []


def test_an_empty_ledger_has_empty_lists(service: RunningService) -> None:
    service.make_ledger("empty")
    with service.client(service.admin, ledger="empty") as client:
        contracts, events = client.get("/contracts").json(), client.get("/events").json()
    assert contracts["items"] == []
    assert contracts["as_of"]["known_position"] == 0
    assert "next" not in contracts
    assert (events["items"], events["has_more"]) == ([], False)


# The events of a contract


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7])
def test_a_contracts_events_are_shown_in_the_order_of_recording(api: httpx.Client, limit: int) -> None:
    contract_id = open_contract(api)
    for index in range(5):
        record(api, contract_id, "note.added", note(f"note {index}") | {"effective_on": f"2024-0{9 - index}-01"})
    shown = list(pages(api, f"/contracts/{contract_id}/events", limit=limit))
    items = [item for page in shown for item in page["items"]]
    assert [item["revision"] for item in items] == [1, 2, 3, 4, 5, 6]
    assert [item["data"].get("text") for item in items[1:]] == [f"note {index}" for index in range(5)]
    assert ["next" in page for page in shown] == [True] * (len(shown) - 1) + [False]


@pytest.mark.parametrize("path", ["/contracts", "/contracts/{contract_id}/events"])
def test_a_cursor_of_a_list_is_of_one_ledger(service: RunningService, book: httpx.Client, api: httpx.Client, path: str) -> None:
    contract_id = open_contract(api)
    record(api, contract_id, "note.added", note())
    of_book = book.get(path.format(contract_id=ids(book)[0]), params={"limit": 1}).json()["next"]
    of_main = api.get(path.format(contract_id=contract_id), params={"limit": 1}).json()["next"]
    refused_cursor(book, path.format(contract_id=ids(book)[0]), of_main)
    refused_cursor(api, path.format(contract_id=contract_id), of_book)


def test_a_cursor_of_a_list_is_of_that_list(book: httpx.Client) -> None:
    one, other, *_ = ids(book)
    of_one = book.get(f"/contracts/{one}/events?limit=1").json()["next"]
    refused_cursor(book, f"/contracts/{other}/events", of_one)
    refused_cursor(book, "/contracts", of_one)
    refused_cursor(book, f"/contracts/{one}/events", book.get("/contracts?limit=1").json()["next"])


def test_a_cursor_ends_with_the_epoch_of_its_ledger(service: RunningService, tmp_path: Path) -> None:
    ledger_id = service.make_ledger("restored")
    with service.client(service.admin, ledger="restored") as client:
        contract_id = open_contract(client)
        record(client, contract_id, "note.added", note())
        open_contract(client)
        cursors = {
            path: client.get(path, params={"limit": 1}).json()["next"] for path in ("/contracts", f"/contracts/{contract_id}/events")
        }
    with psycopg.connect(service.database.owner_url) as connection:
        connection.execute("UPDATE ledgers SET epoch = epoch + 1 WHERE ledger_id = %s", [ledger_id])
    # Another process, which does not remember the epoch before.
    with running(service.database, tmp_path) as later, later.client(later.admin, ledger="restored") as client:
        for path, cursor in cursors.items():
            refused_cursor(client, path, cursor)


def refused_cursor(client: httpx.Client, path: str, cursor: str) -> None:
    answer = client.get(path, params={"after": cursor})
    assert (answer.status_code, answer.json()["code"]) == (409, "history-forked")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["query:after"]


def test_a_list_goes_on_with_other_filters_from_the_same_place(book: httpx.Client) -> None:
    first = book.get("/contracts", params={"limit": 5}).json()
    rest = ids(book, after=first["next"], currency="USD")
    assert rest == [contract_id for contract_id in ids(book, currency="USD") if contract_id in ids(book)[5:]]


def test_the_last_page_of_a_contracts_events_may_be_empty(book: httpx.Client) -> None:
    contract_id = ids(book)[0]
    page = book.get(f"/contracts/{contract_id}/events?limit=1").json()
    assert [item["revision"] for item in book.get(f"/contracts/{contract_id}/events", params={"after": page["next"]}).json()["items"]] == [
        2
    ]


# Counts


@pytest.mark.parametrize(
    ("filters", "count"), [({}, 10), ({"currency": "USD"}, 4), ({"party": "nobody"}, 0), ({"currency": "USD", "status": "reported"}, 2)]
)
def test_a_list_is_counted_if_asked(book: httpx.Client, filters: dict[str, str], count: int) -> None:
    for page in pages(book, "/contracts", **filters, limit=3, count="exact"):
        assert (page["count"], page["count_is_exact"]) == (count, True)
    assert "count" not in book.get("/contracts", params=filters).json()


def test_the_events_of_a_contract_and_the_ledgers_are_counted_if_asked(service: RunningService, book: httpx.Client) -> None:
    for page in pages(book, f"/contracts/{ids(book)[0]}/events", limit=1, count="exact"):
        assert (page["count"], page["count_is_exact"]) == (2, True)
    with service.client(service.admin) as client:
        page = client.get("/v1/ledgers", params={"count": "exact", "limit": 500}).json()
    assert (page["count"], page["count_is_exact"]) == (len(page["items"]), True)


def test_a_list_is_counted_up_to_a_bound(service: RunningService) -> None:
    ledger_id = service.make_ledger("wide")
    with service.client(service.admin, ledger="wide") as client:
        open_contract(client)
        copies = """
            INSERT INTO contracts
            SELECT ledger_id, generation, gen_random_uuid(), revision, position, last_hash, last_on, has_pending, settled_on, holds_until,
                   filters, state, beside
            FROM (SELECT * FROM contracts WHERE ledger_id = %s LIMIT 1) one, generate_series(1, %s)
        """
        counted = []
        with psycopg.connect(service.database.owner_url, autocommit=True) as connection:
            for more in (MAX_COUNT - 1, 1):
                connection.execute(copies, [ledger_id, more])
                page = client.get("/contracts", params={"count": "exact", "limit": 1}).json()
                counted.append((page["count"], page["count_is_exact"]))
    assert counted == [(MAX_COUNT, True), (MAX_COUNT, False)]


# Ledgers


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_ledgers_are_listed_in_pages(service: RunningService, limit: int) -> None:
    made = {service.make_ledger(f"page-{limit}-{index}"): f"page-{limit}-{index}" for index in range(3)}
    with service.client(service.admin) as client:
        names = [item["name"] for page in pages(client, "/v1/ledgers", limit=limit) for item in page["items"]]
    assert names == sorted(names)
    assert set(made.values()) <= set(names)
    one = next(iter(made))
    with service.client(service.make_key(["contracts:read"], one)) as client:
        page = client.get("/v1/ledgers", params={"limit": limit, "count": "exact"}).json()
    assert ([item["ledger_id"] for item in page["items"]], page["count"]) == ([one], 1)
    assert "next" not in page


def test_a_cursor_of_another_list_says_nothing_about_ledgers(service: RunningService, book: httpx.Client) -> None:
    with service.client(service.admin) as client:
        refused_cursor(client, "/v1/ledgers", book.get("/contracts?limit=1").json()["next"])
        assert client.get("/v1/ledgers?after=x").status_code == 400


def test_an_event_is_the_same_by_whichever_way_it_is_read(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    (listed,) = api.get(f"/contracts/{contract_id}/events").json()["items"]
    assert api.get(f"/events/{listed['event_id']}").json() == listed
    assert api.get(f"/events/{listed['event_id'].upper()}").json() == listed
    fed = [item for page in pages(api, "/events", limit=500) for item in page["items"]]
    assert listed in fed
    assert set(listed) > MEMBERS


# The log


@pytest.mark.parametrize("limit", [1, 7, 20, 21, 500])
def test_the_log_is_shown_gapless_and_in_its_order(book: httpx.Client, limit: int) -> None:
    shown = list(pages(book, "/events", limit=limit))
    assert [item["position"] for page in shown for item in page["items"]] == list(range(1, 21))
    assert [page["has_more"] for page in shown] == [True] * (len(shown) - 1) + [False]


def test_a_reader_goes_on_from_the_cursor_of_any_event(book: httpx.Client) -> None:
    items = book.get("/events?limit=20").json()["items"]
    for item in items:
        following = book.get("/events", params={"after": item["cursor"]}).json()["items"]
        assert [entry["position"] for entry in following] == list(range(item["position"] + 1, 21))


def test_a_page_of_the_log_always_says_where_to_go_on(service: RunningService) -> None:
    service.make_ledger("growing")
    with service.client(service.admin, ledger="growing") as client:
        at_start = client.get("/events").json()
        assert (at_start["items"], at_start["has_more"]) == ([], False)
        # The place before the first event is a place too.
        assert client.get("/events", params={"after": at_start["next"]}).json() == at_start
        open_contract(client)
        first = client.get("/events", params={"after": at_start["next"]}).json()
        assert [item["position"] for item in first["items"]] == [1]
        at_head = client.get("/events", params={"after": first["next"]}).json()
        assert at_head == {"items": [], "has_more": False, "next": first["next"]}
        open_contract(client)
        assert [item["position"] for item in client.get("/events", params={"after": at_head["next"]}).json()["items"]] == [2]


def test_a_filter_leaves_out_events_and_still_moves_the_cursor(service: RunningService) -> None:
    service.make_ledger("filtered")
    with service.client(service.admin, ledger="filtered") as client:
        contract_id = open_contract(client)
        record(client, contract_id, "note.added", note())
        open_contract(client)
        notes = client.get("/events", params={"event_type": "note.added"}).json()
        assert [item["position"] for item in notes["items"]] == [2]
        whole = client.get("/events").json()
        assert notes["next"] == whole["next"] == whole["items"][-1]["cursor"]
        none = client.get("/events", params={"event_type": "contract.terminated"}).json()
        assert none == {"items": [], "has_more": False, "next": whole["next"]}
        record(client, contract_id, "note.added", note())
        more = client.get("/events", params={"event_type": "note.added", "after": notes["next"]}).json()
        assert [item["position"] for item in more["items"]] == [4]


def test_a_filtered_page_that_is_full_goes_on_after_its_last_event(book: httpx.Client) -> None:
    shown = list(pages(book, "/events", event_type="figure.stated", limit=3))
    assert [item["position"] for page in shown for item in page["items"]] == list(range(2, 21, 2))
    assert [page["has_more"] for page in shown] == [True, True, True, False]


def test_a_reader_that_follows_writers_misses_nothing_and_sees_nothing_twice(service: RunningService) -> None:
    service.make_ledger("followed")

    def write(_: int) -> None:
        with service.client(service.admin, ledger="followed") as client:
            contract_id = open_contract(client)
            for _ in range(5):
                record(client, contract_id, "note.added", note())

    seen: list[int] = []
    with service.client(service.admin, ledger="followed") as reader, ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, index) for index in range(4)]
        after: dict[str, str] = {}
        while not (all(future.done() for future in writing) and len(seen) >= 24):
            page = reader.get("/events", params={"limit": 7} | after).json()
            seen += [item["position"] for item in page["items"]]
            after = {"after": page["next"]}
    for future in writing:
        future.result()
    assert seen == list(range(1, 25))


FORGED = [
    "MS4xLjAwMDAwMDAwMDAwMDAwMDA",  # 1.1.0000000000000000: an event with another hash
    "Mi4xLjAwMDAwMDAwMDAwMDAwMDA",  # 2.1.0000000000000000: another epoch
    "MS45OTkuMDAwMDAwMDAwMDAwMDAwMA",  # 1.999.0000000000000000: beyond the head
    "MS4wLmZmZmZmZmZmZmZmZmZmZmY",  # 1.0.ffffffffffffffff: before the first event, with a hash
]


@pytest.mark.parametrize("cursor", FORGED)
@pytest.mark.parametrize("event_type", [None, "note.added"])
def test_a_cursor_of_another_history_is_refused(book: httpx.Client, cursor: str, event_type: str | None) -> None:
    params = {"after": cursor} | ({"event_type": event_type} if event_type else {})
    answer = book.get("/events", params=params)
    assert (answer.status_code, answer.json()["code"]) == (409, "history-forked")


def test_a_cursor_cut_short_is_malformed(book: httpx.Client) -> None:
    cursor = book.get("/events?limit=1").json()["next"]
    for length in range(1, len(cursor)):
        answer = book.get("/events", params={"after": cursor[:length]})
        assert answer.status_code == 400
        check_answer(answer)
