"""One real body for each published event schema, with every member: it must be read for ever, however the classes change."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema_rs
import msgspec
import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from service.api.envelope import read_event
from service.api.openapi import event_schemas
from service.domain.contract import decode_facts, encode_state, settle
from service.domain.events import EVENT_TYPES, EventData, Evidence, Source, decode_body, newest, stated
from service.domain.timeline import tell
from service.errors import Refused
from service.log.header import body_bytes, canonical
from tests.domain.histories import TODAY, Log, Sent, events_of

FOLDER = Path(__file__).parents[1] / "golden" / "events"
SCHEMAS = Path(__file__).parents[2] / "schemas" / "events"
BODIES = {tuple(file.name.removesuffix(".json").rsplit(".v", 1)): file.read_bytes().removesuffix(b"\n") for file in FOLDER.glob("*.json")}
PUBLISHED = sorted((event_type, int(version)) for event_type, version in BODIES)
CURRENT = sorted((event_type, cls.schema_version) for event_type, cls in EVENT_TYPES.items())

# Members that exclude one another, by class: a body states one of the sets.
ALTERNATIVES = {
    "FigureData": [{"amount"}, {"low", "high"}],
    # Written when no event type granted options.
    "OrderExtended": [{"option_id"}, set()],
}
NEEDED = {("party.identified", "name")}
"""Members that may be absent, but not where another is that the body states: a language is that of a name."""
EFFECTIVE_ON = {
    "contract.reported": "2022-07-06",
    "figure.stated": "2022-07-06",
    "agreement.linked": "2022-07-06",
    "delivery.started": "2023-06",
    "contract.signed": "2024-01-26",
    "disclosure.filed": "2024-01-26",
    "disclosure.withheld": "2024-01-27",
    "party.added": "2024-02-01",
    "party.identified": "2024-02-02",
    "party.replaced": "2024-02-03",
    "option.granted": "2024-02-05",
    "milestone.scheduled": "2024-02-10",
    "condition.satisfied": "2024-02-11",
    "condition.failed": "2024-02-12",
    "delivery.recorded": "2024-03-15",
    "delivery.accepted": "2024-03-20",
    "delivery.rejected": "2024-03-21",
    "note.added": "2024-03-31",
    "milestone.missed": "2024-07-01",
    "milestone.met": "2024-08-01",
    "delivery.suspended": "2024-09-01",
    "force_majeure.declared": "2024-09-01",
    "force_majeure.lifted": "2024-09-30",
    "delivery.resumed": "2024-10-01",
    "dispute.raised": "2024-11-01",
    "dispute.resolved": "2025-01-15",
    "terms.amended": "2025-02-01",
    "value.revised": "2025-03-01",
    "figure.withdrawn": "2025-03-02",
    "option.exercised": "2025-05-15",
    "order.extended": "2025-06-01",
    "disclosure.released": "2025-12-31",
    "option.lapsed": "2026-02-10",
    "delivery.completed": "2026-02-20",
    "contract.labelled": None,
    "sealed.revealed": None,
    "contract.cancelled": "2023-12-01",
    "contract.completed": "2026-03-01",
    "contract.superseded": "2026-03-01",
    "contract.terminated": "2026-03-01",
    "event.corrected": None,
    "event.voided": None,
    "event.erased": None,
}
"""A life that the bodies make, in the order of the fold; of the ends it has one."""

ENDS = ["contract.completed", "contract.superseded", "contract.terminated"]
ACTS = {"event.corrected": 2, "event.voided": 3}
"""What acts on another event of the life, on the one of which revision."""
OF_AN_EVENT = {"sealed.revealed", "event.erased"}
"""What names an event of its contract by an id that the ledger gave: those have tests of their own."""
OF_A_FIGURE = {"figure.withdrawn", "note.added", "value.revised"}
"""Notes are of a figure by their first version's body, and of an option by the second's."""
OF_A_PART = {
    *("delivery.accepted", "delivery.rejected", "delivery.resumed", "disclosure.released", "dispute.resolved", "force_majeure.lifted"),
    *("milestone.met", "milestone.missed", "option.exercised", "option.lapsed"),
}
REFERRING = {
    *("delivery.completed", "delivery.recorded", "delivery.started", "delivery.suspended", "figure.stated", "order.extended"),
    *("party.identified", "party.replaced", *OF_A_FIGURE, *OF_A_PART, *ACTS, *OF_AN_EVENT),
}
"""Those whose golden body names an item, a party, a figure or something else that another event states."""


UNFIT = {"contract.completed", "contract.terminated"}
"""Those that end only what is signed, and so are kept apart without a signing."""


APART_AFTER = OF_A_FIGURE | OF_A_PART | UNFIT | ACTS.keys() | OF_AN_EVENT | {"order.extended", "party.identified"}
"""What is kept apart after an opening that states nothing of what it names."""


def body_of(event_type: str, version: int) -> bytes:
    return BODIES[event_type, str(version)]


def request_of(event_type: str, version: int | None = None) -> Sent:
    """The request that the body was sent in; of the newest version, unless another is named."""
    version = version or EVENT_TYPES[event_type].schema_version
    body = {name: member for name, member in orjson.loads(body_of(event_type, version)).items() if name != "salt"}
    day = EFFECTIVE_ON[event_type]
    return {"event_type": event_type, **({"effective_on": day} if day else {}), **body}


def aimed(request: Sent, log: Log) -> Sent:
    """The request in a life, whose events have ids of their own."""
    if (revision := ACTS.get(request["event_type"])) is None:
        return request
    return request | {"data": request["data"] | {"target": log.history()[revision - 1].event_id}}


def test_every_event_type_and_version_has_a_golden_body() -> None:
    """For a new event type, or a new version of one, add a full body to tests/golden/events; never change one that is there."""
    assert {file.name for file in SCHEMAS.iterdir()} == {f"{event_type}.v{version}.json" for event_type, version in PUBLISHED}
    assert set(CURRENT) <= set(PUBLISHED)
    assert {event_type for event_type, _ in PUBLISHED} == set(EVENT_TYPES) == set(EFFECTIVE_ON)


@pytest.mark.parametrize(("event_type", "version"), PUBLISHED)
def test_a_golden_body_is_read_as_its_class(event_type: str, version: int) -> None:
    fact, source = decode_body(event_type, version, body_of(event_type, version))
    assert isinstance(fact, EventData)
    assert (fact.event_type, fact.schema_version) == (event_type, EVENT_TYPES[event_type].schema_version)
    assert source["kind"] in ("party", "filing", "news", "system")


@pytest.mark.parametrize(("event_type", "version"), CURRENT)
def test_a_golden_body_is_accepted_as_a_request_and_read_the_same_both_ways(event_type: str, version: int) -> None:
    request = request_of(event_type, version)
    del request["event_type"]
    new = read_event(event_type, request)
    assert stated(new.fact) == stated(decode_body(event_type, version, body_of(event_type, version))[0])
    assert new.fact == TypeAdapter(EVENT_TYPES[event_type]).validate_python(request["data"])


@pytest.mark.parametrize(("event_type", "version"), PUBLISHED)
def test_a_golden_body_is_stored_as_the_bytes_it_was_hashed_as(event_type: str, version: int) -> None:
    body = orjson.loads(body_of(event_type, version))
    assert list(body) == ["data", "evidence", "salt", "source"]
    assert canonical(body) == body_of(event_type, version)
    assert body_bytes(body["data"], body["source"], body["evidence"], body["salt"]) == body_of(event_type, version)


@pytest.mark.parametrize(("event_type", "version"), PUBLISHED)
def test_the_data_of_a_golden_body_are_valid_by_the_published_json_schema(event_type: str, version: int) -> None:
    schema = orjson.loads((SCHEMAS / f"{event_type}.v{version}.json").read_bytes())
    assert version != EVENT_TYPES[event_type].schema_version or schema == event_schemas()[f"{event_type}.v{version}.json"]
    validator = jsonschema_rs.Draft202012Validator(schema)
    data = orjson.loads(body_of(event_type, version))["data"]
    assert [str(error) for error in validator.iter_errors(data)] == []
    assert not validator.is_valid({**data, "unknown_member": "x"})
    assert not validator.is_valid({**data, next(iter(data)): None})


def dataclasses_in(value: object) -> Iterator[Any]:
    """Every dataclass within a value."""
    if isinstance(value, list):
        for element in value:
            yield from dataclasses_in(element)
    elif dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from dataclasses_in(getattr(value, field.name))


def classes_of(hint: Any) -> Iterator[type]:
    """Every dataclass that a type mentions, at any depth."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
        for member in get_type_hints(hint).values():
            yield from classes_of(member)
    for argument in get_args(hint):
        yield from classes_of(argument)


def assert_every_member_is_stated(cls: type, values: list[Any]) -> None:
    stated: dict[str, set[str]] = defaultdict(set)
    for value in values:
        for found in dataclasses_in(value):
            names = {field.name for field in dataclasses.fields(found)}
            stated[type(found).__name__] |= {name for name in names if getattr(found, name) is not None}
    for known in {known.__name__: known for known in classes_of(cls)}.values():
        missing = {field.name for field in dataclasses.fields(known)} - stated[known.__name__]
        alternatives = ALTERNATIVES.get(known.__name__, [])
        chosen = [choice for choice in alternatives if choice <= stated[known.__name__]] or [set()]
        excluded = set().union(*alternatives) - set().union(*chosen)
        assert missing - excluded == set(), f"{known.__name__} in the golden body of {cls.__name__}"


@pytest.mark.parametrize(("event_type", "version"), CURRENT)
def test_a_golden_body_states_every_member(event_type: str, version: int) -> None:
    fact, source = decode_body(event_type, version, body_of(event_type, version))
    assert_every_member_is_stated(EVENT_TYPES[event_type], [fact])
    assert set(source) == {field.name for field in dataclasses.fields(Source)}
    evidence = orjson.loads(body_of(event_type, version))["evidence"]
    assert set(evidence[0]) == {field.name for field in dataclasses.fields(Evidence)}


def required(cls: type[EventData]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}


@pytest.mark.parametrize(("event_type", "version"), CURRENT)
def test_a_request_without_a_member_that_is_required_or_with_one_too_many_is_refused(event_type: str, version: int) -> None:
    request = request_of(event_type, version)
    del request["event_type"]
    validate = TypeAdapter(EVENT_TYPES[event_type]).validate_python
    for name in request["data"]:
        data = {member: value for member, value in request["data"].items() if member != name}
        if name in required(EVENT_TYPES[event_type]) or (event_type, name) in NEEDED:
            with pytest.raises(ValidationError):
                validate(data)
        else:
            validate(data)
    for where in (request, request["data"], request["source"], request["evidence"][0]):
        where["one_too_many"] = "x"
        with pytest.raises(Refused, match="one_too_many"):
            read_event(event_type, request)
        del where["one_too_many"]


@pytest.mark.parametrize("end", ENDS)
def test_the_golden_bodies_make_one_life_that_the_rules_accept_and_the_fold_places(end: str) -> None:
    log = Log().at(TODAY)
    life = [event_type for event_type in EFFECTIVE_ON if event_type not in {*ENDS, "contract.cancelled", *OF_AN_EVENT} - {end}]
    for event_type in life:
        log.append(aimed(request_of(event_type), log))
    view = tell(log.history(), TODAY)
    assert (view.state.status, view.state.unplaced, view.pending) == (end.removeprefix("contract."), [], [])
    state = encode_state(view.state)
    assert encode_state(settle(decode_facts(state), TODAY)) == state
    assert len(log.history()) == len(life) == len(EVENT_TYPES) - 3 - len(OF_AN_EVENT)
    assert "no-longer-fits" not in {known.rule for known in view.anomalies}


def test_the_golden_bodies_make_a_life_that_ends_before_it_is_signed() -> None:
    log = Log().at(TODAY)
    for event_type in ("contract.reported", "figure.stated", "delivery.started", "contract.cancelled"):
        log.append(request_of(event_type))
    assert tell(log.history(), TODAY).state.status == "cancelled"


@pytest.mark.parametrize(("event_type", "version"), PUBLISHED)
def test_a_golden_body_folds_alone_and_after_an_opening(event_type: str, version: int) -> None:
    """Alone it is kept apart where it names something; after the opening only where another event states what it names, or where it
    does not fit: the extension goes beyond the latest end that the report states."""
    opening, request = request_of("contract.reported"), request_of(event_type)
    fact, source = decode_body(event_type, version, body_of(event_type, version))
    for event in (alone := events_of(request))[-1:] + (after := events_of(opening, request))[-1:]:
        msgspec.structs.force_setattr(event, "data", fact)
        msgspec.structs.force_setattr(event, "source", source)
    views = [tell(events, TODAY) for events in (alone, after)]
    for view in views:
        assert json.loads(encode_state(view.state))["status"] == view.state.status
    assert views[0].state.unplaced == ([1] if event_type in REFERRING - {"event.erased"} | UNFIT else [])
    assert views[1].state.unplaced == ([2] if event_type in APART_AFTER - {"event.erased"} else [])


# Earlier versions


EARLIER = [known for known in PUBLISHED if known not in CURRENT]


@pytest.mark.parametrize(("event_type", "version"), EARLIER)
def test_a_body_of_an_earlier_version_is_brought_to_what_the_newest_schema_allows(event_type: str, version: int) -> None:
    stored = orjson.loads(body_of(event_type, version))["data"]
    newer = newest(event_type, version, stored)
    jsonschema_rs.Draft202012Validator(event_schemas()[f"{event_type}.v{EVENT_TYPES[event_type].schema_version}.json"]).validate(newer)
    assert stored == orjson.loads(body_of(event_type, version))["data"]
    assert stated(decode_body(event_type, version, body_of(event_type, version))[0]) == newer
    TypeAdapter(EVENT_TYPES[event_type]).validate_python(newer)


@pytest.mark.parametrize(("event_type", "version"), EARLIER)
def test_a_request_by_an_earlier_version_is_read_by_the_newest_alone(event_type: str, version: int) -> None:
    request = request_of(event_type, version)
    del request["event_type"]
    if event_type == "note.added":
        with pytest.raises(Refused):
            read_event(event_type, request)
    else:
        assert read_event(event_type, request).fact.schema_version > version


def noted_once(about: Any) -> bytes:
    return orjson.dumps({"data": {"text": "x", "about": about}, "source": {"kind": "news"}, "salt": "00"})


@pytest.mark.parametrize("kind", ["event", "figure", "item", "anomaly"])
def test_a_note_of_the_first_version_is_about_what_it_was_about(kind: str) -> None:
    fact, _ = decode_body("note.added", 1, noted_once({f"{kind}_id": "x.1"}))
    assert stated(fact) == {"text": "x", "about": {"kind": kind, "id": "x.1"}}


@pytest.mark.parametrize("about", ["figure", [], {}, {"figure_id": "a", "item_id": "b"}, {"figure_id": 1}, {"contract_id": "a"}])
def test_a_damaged_body_of_an_earlier_version_is_damaged(about: Any) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_body("note.added", 1, noted_once(about))
