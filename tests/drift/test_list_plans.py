"""The plans of lists over 100,000 contracts: whatever is asked, no table is read whole, and few rows are met for a page."""

from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest

from service.log.lists import Wanted, count_query, list_query
from tests.conftest import Database
from tests.drift.test_query_plans import plan_of_one_use, read_whole, rows_met

CONTRACTS: Final = 100_000
# A page of 51, of what many contracts have, is found among a few thousand rows: the rest of an index's bucket.
MOST_ROWS: Final = 6_000
LEDGER: Final = "00000000-0000-7000-8000-000000000001"

# Every contract has its amounts in won, from 10^6 to 10^13, every fourth in dollars too; half are signed, on one of 3,000 days.
FILL: Final = f"""
INSERT INTO ledgers (ledger_id, name, time_zone, layout) VALUES ('{LEDGER}', 'main', 'UTC', 1);
INSERT INTO contracts
    SELECT '{LEDGER}', 1, ('00000000-0000-7000-9000-' || lpad(c::text, 12, '0'))::uuid, 3, c, '\\x00', '2026-01-01', false,
           '2026-01-01', NULL,
           ARRAY['signed_on=' || CASE WHEN c % 2 = 0 THEN (date '2018-01-01' + c * 7 % 3000)::text ELSE '' END,
                 'ends_on=' || (date '2024-01-01' + c * 13 % 5000)::text,
                 'currency=KRW', 'near=KRW ' || size, 'near=KRW e' || size / 90,
                 'party=party-' || c % 500, 'party=party-' || c % 500 || ' role=buyer', 'product=product-' || c % 50,
                 'reference=DART:' || c, 'role=buyer', 'status=' || (ARRAY['in_force', 'signed', 'expired', 'delivering'])[c % 4 + 1],
                 'word=contract', 'word=배터', 'word=' || c % 1000, 'word=電池']
           || CASE WHEN c % 20000 = 7 THEN ARRAY['label=rare'] ELSE '{{}}' END,
           format('{{"value":{{"by_currency":[{{"currency":"KRW","high":{{"amount":"%1$s"}},"low":{{"amount":"%1$s"}}}}]}}}}', amount),
           repeat('b', 100)
    FROM generate_series(1, {CONTRACTS}) c,
         LATERAL (SELECT 540 + c * 11 % 630 AS size) s,
         LATERAL (SELECT (10 + size % 90) * power(10::numeric, size / 90 - 1)::bigint + c % 1000 AS amount) a;
VACUUM ANALYZE contracts;
"""


def at(contract: int, day: str = "") -> tuple[str, str]:
    return day, f"00000000-0000-7000-9000-{contract:012}"


LISTS: Final[dict[str, tuple[Wanted, tuple[str, str] | None]]] = {
    "all": (Wanted(), None),
    "all, from the middle": (Wanted(), at(50_000)),
    "a common term": (Wanted(terms=["status=in_force"]), None),
    "a common term, from the middle": (Wanted(terms=["status=in_force"]), at(50_000)),
    "a party in a role": (Wanted(terms=["party=party-7 role=buyer"]), None),
    "a product": (Wanted(terms=["product=product-7"]), None),
    "a rare term": (Wanted(terms=["label=rare"]), None),
    "one contract": (Wanted(terms=["reference=DART:1234"]), None),
    "nothing": (Wanted(terms=["party=nobody"]), None),
    "a common and a rare term": (Wanted(terms=["currency=KRW", "label=rare", "status=expired"]), None),
    "common words": (Wanted(terms=["word=contract", "word=배터", "word=電池"]), None),
    "a rare word": (Wanted(terms=["word=77", "word=電池"]), None),
    "ids": (Wanted(contract_ids=[at(number)[1] for number in range(100, 10_100, 100)]), None),
    "a narrow range": (Wanted(terms=["currency=KRW"], total_in="KRW", value_from="7000000000", value_to="7000000010"), None),
    "a wide range": (Wanted(terms=["currency=KRW"], total_in="KRW", value_from="1000000"), None),
    "a range that none meets": (Wanted(terms=["currency=KRW"], total_in="KRW", value_from="1", value_to="999"), None),
    "a range in a currency that few have": (Wanted(terms=["currency=EUR"], total_in="EUR", value_to="999"), None),
    "signed in a month": (Wanted(days=[("signed_on", "2022-01-01", "2022-01-31")]), None),
    "signed at any time": (Wanted(days=[("signed_on", None, None)]), None),
    "signed on a day, by a party": (Wanted(terms=["party=party-7"], days=[("signed_on", "2022-01-01", "2022-06-30")]), None),
    "ending in a week": (Wanted(days=[("ends_on", "2030-01-01", "2030-01-07")]), None),
    "the latest signed": (Wanted(sort="-signed_on"), None),
    "the latest signed, from the middle": (Wanted(sort="-signed_on"), at(50_000, "2022-01-01")),
    "the unsigned": (Wanted(sort="-signed_on"), at(50_001)),
    "the first to end": (Wanted(sort="ends_on"), None),
    "the first to end, from the middle": (Wanted(sort="ends_on"), at(50_000, "2030-01-01")),
    "the latest signed of a status": (Wanted(terms=["status=in_force"], sort="-signed_on"), None),
    "the latest signed of a party": (Wanted(terms=["party=party-7"], sort="-signed_on"), at(50_000, "2022-01-01")),
    "the latest signed of one contract": (Wanted(terms=["reference=DART:1234"], sort="-signed_on"), None),
    "the next to end from a day on": (Wanted(days=[("ends_on", "2026-11-22", None)], sort="ends_on"), None),
}


@pytest.fixture(scope="module")
def filled(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        for statement in FILL.split(";\n")[:-1]:
            connection.execute(statement)  # type: ignore[call-overload]
        yield connection


@pytest.mark.parametrize("name", LISTS)
def test_a_page_of_a_list_meets_few_of_100_000_contracts(filled: psycopg.Connection[Any], name: str) -> None:
    wanted, after = LISTS[name]
    statement, parameters = list_query(wanted, after)
    plan = plan_of_one_use(filled, statement, parameters | {"ledger_id": LEDGER, "limit": 51})
    assert read_whole(plan) == set()
    assert {step: rows for step, rows in rows_met(plan).items() if rows > MOST_ROWS} == {}


@pytest.mark.parametrize("name", ["a party in a role", "a narrow range", "signed in a month", "nothing"])
def test_what_few_contracts_have_is_counted_without_reading_all(filled: psycopg.Connection[Any], name: str) -> None:
    statement, parameters = count_query(LISTS[name][0])
    plan = plan_of_one_use(filled, statement, parameters | {"ledger_id": LEDGER, "limit": 10_001})
    assert read_whole(plan) == set()
    assert {step: rows for step, rows in rows_met(plan).items() if rows > MOST_ROWS} == {}


@pytest.mark.parametrize("name", LISTS)
def test_pages_in_a_row_are_the_whole_list(filled: psycopg.Connection[Any], name: str) -> None:
    wanted, after = LISTS[name]
    found = []
    for _ in range(3):
        statement, parameters = list_query(wanted, after)
        rows = filled.execute(statement, parameters | {"ledger_id": LEDGER, "limit": 20}).fetchall()  # type: ignore[call-overload]
        found += [row[0] for row in rows]
        if len(rows) == 20:
            after = (rows[-1][3], rows[-1][0])
    statement, parameters = list_query(wanted, LISTS[name][1])
    at_once = filled.execute(statement, parameters | {"ledger_id": LEDGER, "limit": 60}).fetchall()  # type: ignore[call-overload]
    assert found[: len(at_once)] == [row[0] for row in at_once]
    assert len(found) == len(set(found)) or len(at_once) < 60
