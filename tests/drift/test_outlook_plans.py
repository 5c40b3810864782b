"""The plans of commitments, deadlines and parties over 100,000 contracts: no table is read whole, and few rows are met for a page."""

from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest

from service.log.ledger import Ledger
from service.log.outlook import Stand
from service.log.outlook_lists import WantedDays, WantedSums, deadlines_query, parties_query, sums_query
from tests.conftest import Database
from tests.drift.test_query_plans import nodes, plan_of_one_use, rows_met

MOST_ROWS: Final = 6_000
LEDGER: Final = Ledger("00000000-0000-7000-8000-000000000001", "main", "UTC")
STAND: Final = Stand(1, 0)
STATUSES: Final = ("signed", "in_force", "delivering", "suspended")

# Three deadlines a contract; 5,000 parties in two forms each; sums by party and product of 500 parties with 20 products each.
FILL: Final = f"""
INSERT INTO deadlines
    SELECT '{LEDGER.ledger_id}', 1, ('00000000-0000-7000-9000-' || lpad(c::text, 12, '0'))::uuid, n,
           date '2024-01-01' + (c * 13 + n * 90) % 5000, (ARRAY['notice', 'term-end', 'milestone'])[n], repeat('d', 200)
    FROM generate_series(1, 100000) c, generate_series(1, 3) n;
INSERT INTO parties
    SELECT '{LEDGER.ledger_id}', 1, 'party-' || p, f, repeat('p', 200), ARRAY['word' || p % 300, '電池', 'role=buyer'], 10
    FROM generate_series(1, 5000) p, generate_series(1, 2) f;
INSERT INTO commitments
    SELECT '{LEDGER.ledger_id}', 1, p > 0, i > 0, CASE WHEN p > 0 THEN 'party-' || p ELSE '' END,
           CASE WHEN i > 0 THEN 'product-' || (p + i) % 50 ELSE '' END, (ARRAY['USD', 'KRW'])[k], '', 'unscheduled',
           'contractual', s, 1, 1, 1, 1, 1, 10
    FROM generate_series(0, 500) p, generate_series(0, 20) i, generate_series(1, 2) k, unnest(ARRAY['signed', 'in_force', 'expired']) s;
VACUUM ANALYZE deadlines, parties, commitments;
"""

DAYS: Final = {
    "from a day": (WantedDays(first="2026-01-01"), None),
    "from a day, from the middle": (WantedDays(first="2026-01-01"), ("2030-01-01", "00000000-0000-7000-9000-000000050000", 2)),
    "a month": (WantedDays(first="2028-03-01", last="2028-03-31"), None),
    "a kind": (WantedDays(first="2026-01-01", kind="notice"), None),
    "after all": (WantedDays(first="2999-01-01"), None),
}
WORDS: Final = {"all": [], "a word": ["word7"], "a common word": ["電池"], "a role": ["role=buyer"], "none": ["nobody"]}
SUMS: Final[dict[str, tuple[set[str], dict[str, str]]]] = {
    "all": (set(), {}),
    "by year": ({"year"}, {}),
    "by product": ({"product"}, {}),
    "by party": ({"party"}, {}),
    "by party, product and year": ({"party", "product", "year"}, {}),
    "of a party by product": ({"product"}, {"party": "party-7"}),
    "of a product by party": ({"party"}, {"product": "product-7"}),
    "in a currency": ({"party"}, {"currency": "USD"}),
}


@pytest.fixture(scope="module")
def filled(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        for statement in FILL.split(";\n")[:-1]:
            connection.execute(statement)  # type: ignore[call-overload]
        yield connection


def check(connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any]) -> None:
    plan = plan_of_one_use(connection, statement, parameters | {"limit": 51})
    assert [node["Relation Name"] for root in plan for node in nodes(root) if node["Node Type"] == "Seq Scan"] == []
    assert {step: rows for step, rows in rows_met(plan).items() if rows > MOST_ROWS} == {}


@pytest.mark.parametrize("name", DAYS)
def test_a_page_of_deadlines_meets_few_rows(filled: psycopg.Connection[Any], name: str) -> None:
    wanted, after = DAYS[name]
    check(filled, *deadlines_query(LEDGER, STAND, wanted, after))


@pytest.mark.parametrize("name", WORDS)
def test_a_page_of_parties_meets_few_rows(filled: psycopg.Connection[Any], name: str) -> None:
    check(filled, *parties_query(LEDGER, STAND, WORDS[name], ""))
    check(filled, *parties_query(LEDGER, STAND, WORDS[name], "party-2500"))


@pytest.mark.parametrize("name", SUMS)
def test_a_page_of_sums_meets_few_rows(filled: psycopg.Connection[Any], name: str) -> None:
    by, where = SUMS[name]
    check(filled, *sums_query(LEDGER, STAND, WantedSums(by=frozenset(by), statuses=STATUSES, where=where), ()))
