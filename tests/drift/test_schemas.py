"""The published JSON Schemas of event bodies: valid, what the classes say, and as strict as the service."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.api.examples import EXAMPLES
from service.api.openapi import event_schemas
from service.domain.events import EVENT_TYPES
from tests.api.documented import walk

FOLDER = Path(__file__).parents[2] / "schemas" / "events"
NAMES = {event_type: f"{event_type}.v{cls.schema_version}.json" for event_type, cls in EVENT_TYPES.items()}


def test_the_committed_schemas_say_what_the_code_says() -> None:
    assert FOLDER.is_dir(), "schemas/events is missing: run `make generate`"
    committed = {file.name: json.loads(file.read_text()) for file in FOLDER.iterdir()}
    made = json.loads(json.dumps(event_schemas()))
    # A version that was published stays for ever, though the code has moved on to the next.
    assert {name: committed.get(name) for name in made} == made, "schemas/ say something else than the code: run `make generate`"


def test_every_event_type_has_a_schema() -> None:
    assert set(event_schemas()) == set(NAMES.values())


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_a_schema_is_json_schema_2020_12_and_stands_alone(event_type: str) -> None:
    schema = event_schemas()[NAMES[event_type]]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == event_type
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.Draft202012Validator(schema)
    refs = {node["$ref"] for _, node in walk(schema) if isinstance(node, dict) and "$ref" in node}
    assert refs <= {f"#/$defs/{name}" for name in schema.get("$defs", {})}


def test_every_schema_has_an_id_of_its_own() -> None:
    ids = [schema["$id"] for schema in event_schemas().values()]
    assert len(set(ids)) == len(EVENT_TYPES)


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_a_schema_allows_the_example_and_nothing_besides(event_type: str) -> None:
    validator = jsonschema_rs.Draft202012Validator(event_schemas()[NAMES[event_type]], validate_formats=True)
    data: dict[str, Any] = EXAMPLES[event_type]["data"]
    validator.validate(data)
    assert not validator.is_valid(data | {"unknown": 1})
    for name in data:
        assert not validator.is_valid(data | {name: None}), f"{name} may be null"
        assert not validator.is_valid(data | {name: 3.5}), f"{name} may be a number"


@pytest.mark.parametrize(
    ("event_type", "member"), [(event_type, member) for event_type in sorted(EVENT_TYPES) for member in EXAMPLES[event_type]["data"]]
)
def test_a_schema_requires_what_the_class_requires(event_type: str, member: str) -> None:
    schema = event_schemas()[NAMES[event_type]]
    required = member in schema.get("required", [])
    data = {name: value for name, value in EXAMPLES[event_type]["data"].items() if name != member}
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(data) is not required
