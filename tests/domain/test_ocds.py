"""OCDS: what the ledger says of a contract there, held against the standard's schema and its own merge routine."""

import json
import os
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import ocdsmerge
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.events import RecordedEvent
from service.exchange.ocds import Exported, encode, record_package, releases_and_compiled
from tests.domain.histories import BUYER, CONTRACT, TODAY, Sent, delivered, events_of, figure, reported, revised, sent, signed, stated

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT.parent.parent / "shared" / "data")) / "ocds"
SCHEMA_FILE = DATA / "release-schema-1.1.4.json"
CASE: list[Sent] = json.loads((ROOT / "golden" / "case" / "events.json").read_text())
GOLDEN = ROOT / "golden" / "ocds" / "lges-isuzu.json"
needs_schema = pytest.mark.skipif(not SCHEMA_FILE.exists(), reason=f"no OCDS schema at {SCHEMA_FILE}")


def exported(*requests: Sent) -> Exported:
    events: list[RecordedEvent] = events_of(*requests)
    return Exported(CONTRACT, events, [f"2026-11-22T00:00:{n // 60:02}.{n % 60:06}Z" for n in range(len(events))])


def read(package: Any) -> Any:
    return json.loads(encode(package), parse_float=Decimal)


def check(given_: Exported) -> dict[str, Any]:
    """Every release is valid, and their merge is the compiled release; which is returned."""
    schema = json.loads(SCHEMA_FILE.read_text())
    releases, compiled = read(releases_and_compiled(given_))
    validator = jsonschema.Draft4Validator(schema)
    for release in releases:
        assert [error.message for error in validator.iter_errors(release)] == []
    assert ocdsmerge.Merger(schema).create_compiled_release(releases) == compiled
    said: dict[str, Any] = compiled
    return said


OTHERS: list[Sent] = [
    signed(
        "2024-01-26", signed_on="2024-01-26", items=[{"item_id": "other", "description": "packs"}], terms={"renewal": {"automatic": True}}
    ),
    stated(figure("f1")),
    revised("f1", figure("f2", "2000", basis="contractual")),
    sent("figure.withdrawn", "2024-05-01", {"figure_id": "f2", "reason": "wrong"}),
    sent("party.replaced", "2024-04-01", {"replaces": "isuzu", "party": {**BUYER, "party_id": "truck", "name": "Truck"}}),
    sent("milestone.scheduled", "2024-02-01", {"milestone_id": "m", "title": "line ready", "due_on": "2025-Q2"}),
    sent("milestone.met", "2025-05-05", {"milestone_id": "m"}),
    sent("option.granted", "2024-02-01", {"option_id": "o", "kind": "term"}),
    sent("disclosure.withheld", "2024-02-01", {"withheld": [{"path": "/value", "reason": "not said", "until": "2027"}]}),
    sent("disclosure.released", "2024-03-01", {"paths": ["/value"]}),
    delivered("d", "2024-06-01"),
    sent("contract.terminated", "2026-01-01", {"by": "isuzu", "cause": "no"}),
]


@needs_schema
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(OTHERS), max_size=8, unique_by=str))
def test_the_merge_of_the_releases_is_the_record_whatever_happened_in_whatever_order(others: list[Sent]) -> None:
    check(exported(reported(), *others))


@needs_schema
def test_the_case_is_exported_as_the_golden_file_says() -> None:
    check(exported(*CASE))
    assert read(record_package(exported(*CASE))) == json.loads(GOLDEN.read_text(), parse_float=Decimal)


@needs_schema
def test_estimates_are_never_flattened_into_one_number() -> None:
    contract = check(exported(*CASE))["contracts"][0]
    assert "value" not in contract
    assert {known["id"]: known["amount"] for known in contract["ledger"]["figures"]} == {
        "krw-1": "1000000000000", "usd-763": "763000000", "usd-765": "765000000", "krw-2": "1000000000000",
    }  # fmt: skip


@needs_schema
def test_a_contractual_value_keeps_every_digit() -> None:
    known = figure("f", "4308660000.10", currency="USD", basis="contractual")
    package = record_package(exported(reported(), stated(known)))
    assert b'"value":{"amount":4308660000.10,"currency":"USD"}' in encode(package)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(OTHERS), min_size=1, max_size=6, unique_by=str), st.data())
def test_a_release_says_the_same_for_ever_whatever_is_recorded_after_it(others: list[Sent], data: st.DataObject) -> None:
    requests = [reported(), *others]
    count = data.draw(st.integers(1, len(others)))
    earlier, _ = releases_and_compiled(exported(*requests[:count]))
    later, _ = releases_and_compiled(exported(*requests))
    assert later[:count] == earlier


def test_a_release_tells_what_is_in_effect_on_the_day_it_was_recorded() -> None:
    to_come = sent("contract.terminated", "2027-01-01", {"by": "isuzu", "cause": "no"})
    _, compiled = releases_and_compiled(exported(reported(), signed(signed_on="2024-01-26"), to_come))
    assert compiled["contracts"][0]["status"] == "active"
    later = events_of(reported(), signed(signed_on="2024-01-26"), to_come, recorded_on=date(2027, 1, 1))
    _, compiled = releases_and_compiled(Exported(CONTRACT, later, ["2027-01-01T00:00:00.000000Z"] * 3))
    assert compiled["contracts"][0]["status"] == "terminated"


def test_a_latest_possible_day_of_signing_is_not_told_as_the_day_of_signing() -> None:
    _, compiled = releases_and_compiled(exported(reported(), signed(signed_by="2024-01-26")))
    contract = compiled["contracts"][0]
    assert "dateSigned" not in contract
    assert (contract["status"], contract["ledger"]["dates"]["signed_by"]) == ("active", "2024-01-26")


def test_what_is_withheld_stands_as_its_published_extension_has_it() -> None:
    _, compiled = releases_and_compiled(exported(reported(), OTHERS[8]))
    assert compiled["withheldInformation"] == [
        {"id": "/value", "field": "/value", "rationale": "not said", "availabilityDate": "2027-12-31T23:59:59Z"}
    ]
    assert any("ocds_withheldInformation_extension" in url for url in record_package(exported(reported()))["extensions"])


def test_a_long_contract_has_a_release_for_several_revisions_in_a_row_and_always_for_the_last() -> None:
    notes = [sent("note.added", "2024-01-01", {"text": str(n)}) for n in range(300)]
    made = exported(reported(), *notes)
    releases, _ = releases_and_compiled(made)
    assert 128 < len(releases) < 140
    assert releases[-1]["id"] == made.events[-1].event_id
    assert date.fromisoformat(releases[-1]["date"][:10]) == TODAY
    shorter, _ = releases_and_compiled(exported(reported(), *notes[:250]))
    assert releases[: len(shorter) - 1] == shorter[:-1]
