"""The published JSON Schemas of event bodies: valid, what the classes say, and as strict as the service."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.api.examples import EXAMPLES
from service.api.openapi import event_schemas
from service.api.published import differences, write_schemas
from service.domain.events import EVENT_TYPES
from service.errors import OperatorError
from tests.api.documented import walk

FOLDER = Path(__file__).parents[2] / "schemas" / "events"
NAMES = {event_type: f"{event_type}.v{cls.schema_version}.json" for event_type, cls in EVENT_TYPES.items()}


def test_the_committed_schemas_say_what_the_code_says() -> None:
    assert FOLDER.is_dir(), "schemas/events is missing: run `make generate`"
    committed = {file.name: json.loads(file.read_text()) for file in FOLDER.iterdir()}
    made = json.loads(json.dumps(event_schemas()))
    assert {name: committed.get(name) for name in made} == made, "schemas/ say something else than the code: run `make generate`"


def test_what_was_published_is_what_it_was_and_is_read() -> None:
    assert list(differences(FOLDER.parent, event_schemas())) == []
    listed = json.loads((FOLDER.parent / "published.json").read_text())
    # A version that was published stays for ever, though the code has moved on to the next.
    assert set(listed) == {file.name for file in FOLDER.iterdir()} >= set(NAMES.values())


@pytest.fixture
def published(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER.parent, tmp_path / "schemas")
    return tmp_path / "schemas"


def faults(published: Path) -> list[str]:
    return list(differences(published, event_schemas()))


@pytest.mark.parametrize("name", ["note.added.v1.json", "note.added.v2.json", "value.revised.v1.json"])
def test_a_published_version_that_is_removed_is_caught(published: Path, name: str) -> None:
    (published / "events" / name).unlink()
    assert faults(published) == [f"{name} was published and is gone: what was stored by it is read for ever, so put it back."]


@pytest.mark.parametrize("name", ["note.added.v1.json", "note.added.v2.json"])
def test_a_published_file_that_is_changed_in_place_is_caught(published: Path, name: str) -> None:
    file = published / "events" / name
    schema = json.loads(file.read_text())
    schema["properties"]["text"]["maxLength"] += 1
    file.write_text(json.dumps(schema))
    assert faults(published) == [f"{name} was published and says something else now: put it back, and give note.added another version."]


@pytest.mark.parametrize(
    "change",
    [
        lambda schema: schema["required"].remove("text"),
        lambda schema: schema["properties"].update(title={"type": "string"}),
        lambda schema: schema["properties"].pop("about"),
        lambda schema: schema["$defs"]["NoteSubject"]["properties"]["kind"]["enum"].append("party"),
    ],
)
def test_a_class_that_is_changed_in_place_is_caught_and_not_published(
    published: Path, change: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    schema = json.loads(json.dumps(event_schemas()["note.added.v2.json"]))
    change(schema)
    sentence = "note.added was changed in place, and its version 2 is published: give it another, with an upcast."
    assert list(differences(published, event_schemas() | {"note.added.v2.json": schema})) == [sentence]
    monkeypatch.setattr("service.api.published.event_schemas", lambda: {"note.added.v2.json": schema})
    with pytest.raises(OperatorError, match=re.escape(sentence)):
        write_schemas(tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_published_version_that_the_code_does_not_read_any_more_is_caught(published: Path) -> None:
    manifest = published / "published.json"
    listed = json.loads(manifest.read_text())
    for name in ("note.added.v3.json", "note.dreamt.v1.json"):
        shutil.copyfile(published / "events" / "note.added.v2.json", published / "events" / name)
        listed[name] = listed["note.added.v2.json"]
    manifest.write_text(json.dumps(listed))
    assert faults(published) == [
        f"{name} was published, and the code does not read it any more: what was stored by it is read for ever."
        for name in ("note.added.v3.json", "note.dreamt.v1.json")
    ]


def test_what_only_describes_a_published_version_may_be_reworded(published: Path) -> None:
    schema = json.loads(json.dumps(event_schemas()["note.added.v2.json"]))
    schema["description"] = schema["$defs"]["NoteSubject"]["description"] = "In better words."
    assert list(differences(published, event_schemas() | {"note.added.v2.json": schema})) == []


def test_a_new_version_is_published_beside_the_old_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    schema = event_schemas()["note.added.v2.json"] | {"title": "note.added"}
    monkeypatch.setattr("service.api.published.event_schemas", lambda: event_schemas() | {"note.added.v3.json": schema})
    write_schemas(tmp_path)
    assert {f"note.added.v{version}.json" for version in (1, 2, 3)} <= {file.name for file in (tmp_path / "events").iterdir()}
    assert "note.added.v3.json" in json.loads((tmp_path / "published.json").read_text())
    first = "note.added.v1.json"
    assert (tmp_path / "events" / first).read_bytes() == (FOLDER / first).read_bytes()


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
