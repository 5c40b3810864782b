"""What a validator finds is told in sentences for whoever sent it: no words of pydantic's, no regular expressions."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from pydantic import TypeAdapter

from service.api.envelope import RecordEventsRequest, read_event, read_events, request_class
from service.api.ledgers import CreateLedgerRequest, SetPolicyRequest
from service.api.operations import OPERATIONS
from service.api.replays import StartReplayRequest
from service.api.webhooks import CreateWebhookRequest, ReplayWebhookRequest, SkipEventRequest
from service.domain import faults
from service.domain.amendments import _READERS
from service.domain.events import EVENT_TYPES
from service.domain.faults import MAX_FAULTS, MAX_LABEL
from service.errors import Refused
from tests.api.bodies import SIGNED, event, note, open_contract, record, with_key

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
_TEXT: Final = ("string_type", "string_unicode")
_MODEL: Final = ("missing", "extra_forbidden")  # the service makes the dictionary itself
FOUND_BY: Final[dict[str, tuple[str, ...]]] = {
    "bool": ("bool_type",),
    "dataclass": ("dataclass_type",),
    "dataclass-args": ("missing", "unexpected_keyword_argument"),
    "date": ("date_parsing", "date_from_datetime_parsing"),
    "datetime": ("datetime_parsing", "datetime_from_date_parsing", "timezone_aware"),
    "dict": ("dict_type",),
    "int": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "list": ("list_type",),
    "literal": ("literal_error",),
    "model-fields": _MODEL,
    "str": _TEXT,
    # What holds others, and finds nothing by itself.
    **dict.fromkeys(("any", "dataclass-field", "default", "definition-ref", "definitions", "model", "model-field", "nullable"), ()),
    # Validators of the service's own, which raise faults in its own words.
    **dict.fromkeys(("function-after", "function-before", "no-info"), ()),
}
"""By kind of schema, the types of fault that it can find; a bound finds more."""
FOUND_BY_BOUND: Final[dict[tuple[str, str], str]] = {
    ("str", "min_length"): "string_too_short",
    ("str", "max_length"): "string_too_long",
    ("str", "pattern"): "string_pattern_mismatch",
    ("list", "min_length"): "too_short",
    ("list", "max_length"): "too_long",
    ("int", "ge"): "greater_than_equal",
    ("int", "le"): "less_than_equal",
}
BOUNDS: Final = {"min_length", "max_length", "pattern", "ge", "le", "gt", "lt", "multiple_of", "min_items", "max_items"}
PYDANTICS: Final = re.compile(
    r"Input should|Value error|Extra inputs|Field required|Unexpected keyword|should match|String should|List should|"
    r"Dictionary should|dictionary or an instance|unable to|\bpydantic\b|keyword argument|\^|\[0-9|\{\w+\}|None|float|datetime",
)


def schemas() -> Iterator[dict[str, Any]]:
    """Every part of the core schemas of everything that a client sends."""
    sent = [request_class(event_type) for event_type in EVENT_TYPES] + [RecordEventsRequest, CreateLedgerRequest, SetPolicyRequest]
    sent += [StartReplayRequest, CreateWebhookRequest, ReplayWebhookRequest, SkipEventRequest]
    sent += [documented.query for _, _, documented in OPERATIONS if documented.query]
    adapters = [*map(TypeAdapter, sent), *_READERS.values()]
    left: list[Any] = [adapter.core_schema for adapter in adapters]
    met: dict[int, Any] = {}
    while left:
        part = left.pop()
        if id(part) in met:
            continue
        met[id(part)] = part
        if isinstance(part, dict):
            yield part
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part


@cache
def findable() -> tuple[set[str], set[str]]:
    """The types of fault that a validator of the service can find, and the patterns that a string may fail to match."""
    kinds: set[str] = set()
    patterns: set[str] = set()
    for part in schemas():
        kind = part.get("type")
        if not isinstance(kind, str) or kind in ("_", "class"):
            continue
        assert kind in FOUND_BY, f"a kind of schema that this test does not know: {kind}"
        bounds = {FOUND_BY_BOUND[kind, bound] for bound in BOUNDS & part.keys()}
        kinds |= {*FOUND_BY[kind], *bounds}
        patterns |= {str(part["pattern"])} if "pattern" in part else set()
    return kinds, patterns


def test_every_fault_that_can_be_found_has_a_sentence() -> None:
    kinds, patterns = findable()
    assert len(kinds) > 15
    assert kinds <= faults._SENTENCES.keys()
    assert patterns == faults._SPELLINGS.keys()


@pytest.mark.parametrize("kind", sorted(faults._SENTENCES.keys() - {"missing_argument"}))
def test_no_sentence_is_left_that_nothing_can_find(kind: str) -> None:
    assert kind in findable()[0]


HOSTILE: Final[list[Any]] = [
    *("", " ", "x" * 6_000, "\N{GRINNING FACE}", "2023-02-30", "2023-13", "P", "-1", "1e5", "https://", "/~", "KRWX"),
    *(0, -1, 2**53, 1.5, True, False, [], [[]], [1] * 600, {}, {"x": 1}),
]


def golden() -> dict[str, dict[str, Any]]:
    """A request of each event type that states every member."""
    bodies = {file.stem.rpartition(".v")[0]: json.loads(file.read_text()) for file in sorted(GOLDEN.glob("*.json"))}
    envelope = {"effective_on": "2024-01-26", "correlation_id": "01890000-0000-7000-8000-0000000000ff", "hypothetical": True}
    return {name: {member: body[member] for member in body if member != "salt"} | envelope for name, body in bodies.items()}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, member in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(member, (*path, key))


def put(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(body))
    at: Any = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return copy


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_no_word_of_pydantics_is_told_whatever_stands_in_any_member(event_type: str) -> None:
    body = golden()[event_type]
    told = set()
    for path in list(places(body))[1:]:
        for value in HOSTILE:
            try:
                read_event(event_type, put(body, path, value))
            except Refused as refused:
                told |= {fault.detail for fault in refused.errors} | {refused.detail}
    assert len(told) > 10
    assert not [sentence for sentence in told if PYDANTICS.search(sentence) or faults._OTHERWISE in sentence]


COUNTS: Final = ("", "0", "501", "1.5", "x", "9" * 30)
QUERIES: Final = [
    *(
        f"{path}?{name}={value}"
        for path in ("/contracts", "/events")
        for name in ("limit", "x")
        for value in ("", "0", "501", "1.5", "x", "9" * 30)
    ),
    *(f"/contracts?{name}=x" for name in ("effective_on", "status", "count", "sort", "value_from", "party", "reference", "after", "role")),
    *("/contracts?signed_from=2023-02-30", "/contracts?sort=", "/contracts?party=", "/contracts?currency=krw", "/events?from_position=x"),
]


@pytest.mark.parametrize("query", QUERIES)
def test_no_word_of_pydantics_is_told_of_a_query(api: httpx.Client, query: str) -> None:
    answer = api.get(query)
    if answer.status_code != 200:
        assert answer.status_code in (400, 422), answer.text
        assert not PYDANTICS.search(answer.text), answer.text
        assert faults._OTHERWISE not in answer.text


@pytest.mark.parametrize(
    ("body", "pointer", "sentence"),
    [
        (note() | {"more": 1}, "/more", "there is no such member"),
        (event({"text": "x", "about": 1}), "/data/about", "it should be an object"),
        (event({"text": ""}), "/data/text", "it should not be empty"),
        (event({"text": "x" * 5_001}), "/data/text", "it should have at most 5000 characters"),
        (event({"text": 5}), "/data/text", 'it should be a string (send decimals and dates as strings, such as "1000000000000")'),
        (event({}), "/data/text", "this member is required"),
        (note() | {"effective_on": "2023-02-30"}, "/effective_on", "there is no such day in the calendar"),
        (note() | {"source": {"kind": "rumour"}}, "/source/kind", 'it should be "party", "filing", "news" or "system"'),
        (note() | {"evidence": []}, "/evidence", "it should not be empty"),
    ],
)
def test_a_fault_is_told_in_a_sentence(api: httpx.Client, body: dict[str, Any], pointer: str, sentence: str) -> None:
    answer = record(api, open_contract(api), "note.added", body)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": pointer, "detail": sentence}]
    assert answer.json()["detail"] == f"{pointer}: {sentence}."


# Limits of what is sent back


def test_a_refusal_names_so_many_faults_and_says_how_many_there_are(api: httpx.Client) -> None:
    for count, more in ((MAX_FAULTS, f"({MAX_FAULTS - 1} more in errors)"), (5_000, f"({MAX_FAULTS - 1} more in errors, of 4999)")):
        body = SIGNED | {f"m{number}": 1 for number in range(count)}
        answer = api.post("/contracts", json=body, headers=with_key())
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) == MAX_FAULTS
        assert answer.json()["detail"] == f"/m0: there is no such member {more}."


@pytest.mark.parametrize("place", ["", "/data", "/source"])
def test_a_member_name_that_is_too_long_is_not_sent_back(api: httpx.Client, place: str) -> None:
    for length, pointer in ((MAX_LABEL, f"{place}/{'n' * MAX_LABEL}"), (MAX_LABEL + 1, place), (900_000, place)):
        body = json.loads(json.dumps(SIGNED))
        (body[place[1:]] if place else body)["n" * length] = 1
        answer = api.post("/contracts", json=body, headers=with_key())
        assert answer.status_code == 422
        (fault,) = answer.json()["errors"]
        assert fault["pointer"] == pointer
        assert fault["detail"].startswith("there is no")
        assert len(answer.content) < 2_000


@pytest.mark.parametrize("query", ["{name}=1", "{name}=1&{name}=2", "{name}=%00", "after=x&{name}"])
def test_a_parameter_name_that_is_too_long_is_not_sent_back(api: httpx.Client, query: str) -> None:
    answer = api.get("/contracts?" + query.format(name="n" * 20_000))
    assert answer.status_code == 422
    assert f"query:{'n' * MAX_LABEL}…" in [fault["pointer"] for fault in answer.json()["errors"]]
    assert len(answer.content) < 2_000


def test_several_events_are_refused_in_the_same_words() -> None:
    with pytest.raises(Refused) as refused:
        read_events({"events": [note() | {"event_type": "note.added"}, note() | {"event_type": "note.added", "data": {"text": ""}}]})
    assert [(fault.pointer, fault.detail) for fault in refused.value.errors] == [("/events/1/data/text", "it should not be empty")]
