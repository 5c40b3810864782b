"""Whatever breaks a client of an earlier OpenAPI document is found, and nothing else; `make breaking` asks it of the last tag."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from service.api.breaking import DESCRIBING, JUDGED, breaking_changes, may_break
from service.cli.openapi import report_breaking
from service.errors import OperatorError
from tests.api.documented import document
from tests.drift.test_openapi import KEYWORDS, UNIONS

ROOT: Final = Path(__file__).parents[2]
CONTRACTS: Final = "/v1/ledgers/{ledger}/contracts"
CONTRACT: Final = CONTRACTS + "/{contract_id}"
Json = Any
Change = Callable[[Json], None]


def changed(*changes: Change) -> Json:
    made = copy.deepcopy(document())
    for change in changes:
        change(made)
    return made


def at(*path: str | int) -> Callable[[Json], Json]:
    """What stands at a path of a document."""

    def found(part: Json) -> Json:
        for step in path:
            part = part[step]
        return part

    return found


def put(*path: str | int, value: Json) -> Change:
    return lambda made: at(*path[:-1])(made).__setitem__(path[-1], value)


def drop(*path: str | int) -> Change:
    return lambda made: at(*path[:-1])(made).__delitem__(path[-1])


def without(*path: str | int, entry: Json) -> Change:
    return lambda made: at(*path)(made).remove(entry)


def more(*path: str | int, entry: Json) -> Change:
    return lambda made: at(*path)(made).append(entry)


def parameter(method: str, path: str, name: str, change: Callable[[Json, Json], None]) -> Change:
    """A change of the parameters of an operation, given all and the one with the name."""

    def apply(made: Json) -> None:
        parameters = made["paths"][path][method]["parameters"]
        change(parameters, next(each for each in parameters if each["name"] == name))

    return apply


def of(name: str, *path: str | int) -> tuple[str | int, ...]:
    return ("components", "schemas", name, *path)


def member(name: str, member_name: str) -> tuple[str | int, ...]:
    return of(name, "properties", member_name)


def move(before: str, after: str) -> Change:
    return lambda made: made["paths"].__setitem__(after, made["paths"].pop(before))


def rename_schema(before: str, after: str) -> Change:
    def apply(made: Json) -> None:
        text = json.dumps(made).replace(f'schemas/{before}"', f'schemas/{after}"').replace(f'"{before}": {{', f'"{after}": {{', 1)
        made.clear()
        made.update(json.loads(text))

    return apply


def rename_path_parameter(made: Json) -> None:
    for operation in made["paths"][CONTRACT].values():
        for each in operation["parameters"]:
            each["name"] = each["name"].replace("contract_id", "contract")
    move(CONTRACT, CONTRACTS + "/{contract}")(made)


BREAKING: Final[dict[str, tuple[Change, str]]] = {
    "an operation is gone": (drop("paths", CONTRACT, "get"), f"get_contract (GET {CONTRACT}) is gone."),
    "an operation is renamed": (
        put("paths", CONTRACT, "get", "operationId", value="read_contract"),
        f"get_contract (GET {CONTRACT}) is called read_contract.",
    ),
    "an operation is of another tag": (
        put("paths", CONTRACT, "get", "tags", value=["outlook"]),
        "get_contract was of contracts, and is of outlook.",
    ),
    "a path is gone": (drop("paths", CONTRACTS + "/reported"), f"report_contract (POST {CONTRACTS}/reported) is gone."),
    "a path is renamed": (
        move(CONTRACTS + "/reported", "/reports"),
        f"report_contract was POST {CONTRACTS}/reported, and is POST /reports.",
    ),
    "a parameter of a path is renamed": (rename_path_parameter, "get_contract: path parameter contract_id is gone."),
    "a parameter is gone": (
        parameter("get", CONTRACTS, "text", lambda all_, one: all_.remove(one)),
        "list_contracts: query parameter text is gone.",
    ),
    "a parameter is renamed": (
        parameter("get", CONTRACTS, "text", lambda _, one: one.update(name="words")),
        "list_contracts: query parameter text is gone.",
    ),
    "a header of a request is gone": (
        parameter("get", CONTRACT, "If-None-Match", lambda all_, one: all_.remove(one)),
        "get_contract: header parameter If-None-Match is gone.",
    ),
    "a parameter is required": (
        parameter("get", CONTRACTS, "text", lambda _, one: one.update(required=True)),
        "list_contracts: query parameter text is required.",
    ),
    "a required parameter is new": (
        more("paths", CONTRACTS, "get", "parameters", entry={"in": "query", "name": "new", "required": True, "schema": {"type": "string"}}),
        "list_contracts: query parameter new is required.",
    ),
    "a parameter is tightened": (
        parameter("get", CONTRACTS, "limit", lambda _, one: one["schema"].update(maximum=100)),
        "list_contracts: query parameter limit: maximum was 500, and is 100.",
    ),
    "a parameter has another default": (
        parameter("post", CONTRACTS, "strict", lambda _, one: one["schema"].update(default="true")),
        "open_contract: query parameter strict: default was false, and is true.",
    ),
    "a member of a request is gone": (drop(*member("NoteAdded", "about")), "NoteAdded/about is gone."),
    "a member of a request is renamed": (
        lambda made: made["components"]["schemas"]["NoteAdded"]["properties"].update(
            {"words": made["components"]["schemas"]["NoteAdded"]["properties"].pop("text")}
        ),
        "NoteAdded/text is gone.",
    ),
    "a member of a request is required": (more(*of("NoteAdded", "required"), entry="about"), "NoteAdded/about is required."),
    "a member of a request is of another type": (
        put(*member("NoteAdded", "text"), "type", value="integer"),
        "NoteAdded/text: type was string, and is integer.",
    ),
    "a text of a request is shorter": (put(*member("NoteAdded", "text"), "maxLength", value=9), "and is 9."),
    "a list of a request is shorter": (
        put(*member("RecordEventsRequest", "events"), "maxItems", value=10),
        "RecordEventsRequest/events: maxItems was 100, and is 10.",
    ),
    "a list of a request may not be empty": (
        put(*member("RecordEventsRequest", "events"), "minItems", value=2),
        "RecordEventsRequest/events: minItems was 1, and is 2.",
    ),
    "a value of a request is refused": (
        drop(*member("ContractReported", "stage"), "enum", 0),
        "ContractReported/stage: enum was ['reported', 'negotiating', 'denied'], and is ['negotiating', 'denied'].",
    ),
    "a text of a request is spelt in another way": (put(*of("DecimalString", "pattern"), value="^[0-9]+$"), "and is ^[0-9]+$."),
    "a free member of a request is closed": (
        put(*member("NewEventItem", "data"), "additionalProperties", value=False),
        "NewEventItem/data/additionalProperties allows less.",
    ),
    "what a free member of an answer holds is not said": (
        drop(*member("ContractState", "stated_in"), "additionalProperties"),
        "ContractState/stated_in/additionalProperties says another thing.",
    ),
    "a body of a request is required": (
        put("paths", CONTRACT, "get", "requestBody", value={"required": True, "content": {}}),
        "the body is required.",
    ),
    "a body of a request is gone": (drop("paths", CONTRACTS, "post", "requestBody"), "open_contract takes no body."),
    "a media type of a request is gone": (
        put("paths", CONTRACTS, "post", "requestBody", "content", value={"text/plain": {"schema": {"type": "string"}}}),
        "open_contract, body: application/json is gone.",
    ),
    "a status is gone": (drop("paths", CONTRACT, "get", "responses", "304"), "get_contract answers 304 no more."),
    "a success is another status": (
        lambda made: made["paths"][CONTRACTS]["post"]["responses"].update(
            {"202": made["paths"][CONTRACTS]["post"]["responses"].pop("201")}
        ),
        "open_contract answers 201 no more.",
    ),
    "a media type of an answer is gone": (
        put("paths", CONTRACT, "get", "responses", "200", "content", value={}),
        "get_contract, answer 200: application/json is gone.",
    ),
    "a header of an answer is gone": (
        drop("paths", CONTRACT, "get", "responses", "200", "headers", "ETag"),
        "get_contract, answer 200: the header ETag is gone.",
    ),
    "an answer is of another class": (
        put(
            "paths",
            CONTRACT,
            "get",
            "responses",
            "200",
            "content",
            "application/json",
            "schema",
            "$ref",
            value="#/components/schemas/Event",
        ),
        "get_contract, answer 200: Contract is Event.",
    ),
    "a class is renamed": (rename_schema("Event", "LogEvent"), "The schema Event is gone, and with it a class of clients."),
    "an optional member of an answer is gone": (drop(*member("Event", "evidence")), "Event/evidence is gone."),
    "a required member of an answer is gone": (drop(*member("Event", "event_hash")), "Event/event_hash is gone."),
    "a member of an answer may be absent": (without(*of("Event", "required"), entry="event_hash"), "Event/event_hash may be absent."),
    "a member of an answer is of another type": (
        put(*member("Event", "position"), "type", value="string"),
        "Event/position: type was integer, and is string.",
    ),
    "a counter of an answer is shorter": (
        put(*member("Event", "position"), "format", value="int32"),
        "Event/position: format was int64, and is int32.",
    ),
    "what a list of an answer holds is of another class": (
        put(*member("EventPage", "items"), "items", "$ref", value="#/components/schemas/Problem"),
        "EventPage/items/items: Event is Problem.",
    ),
    "an operation takes a key": (put("paths", "/livez", "get", "security", value=[{"key": []}]), "get_liveness takes a key."),
}
HARMLESS: Final[dict[str, Change]] = {
    "another text": put("paths", CONTRACT, "get", "summary", value="Another"),
    "another description of a member": put(*member("Event", "position"), "description", value="Another"),
    "a new operation": put("paths", "/new", value={"get": {"operationId": "get_new", "responses": {}}}),
    "a new parameter that may be absent": more(
        "paths", CONTRACT, "get", "parameters", entry={"in": "query", "name": "new", "required": False, "schema": {"type": "string"}}
    ),
    "a new member of an answer": put(*member("Event", "new"), value={"type": "string"}),
    "a new required member of an answer": lambda made: (
        put(*member("Event", "new"), value={"type": "string"})(made),
        more(*of("Event", "required"), entry="new")(made),
    )[0],
    "a new optional member of a request": put(*member("NoteAdded", "new"), value={"type": "string"}),
    "a member of a request that may be absent": without(*of("NoteAdded", "required"), entry="text"),
    "a longer list of a request": put(*member("RecordEventsRequest", "events"), "maxItems", value=1_000),
    "a list of a request without a bound": drop(*member("RecordEventsRequest", "events"), "maxItems"),
    "another value of a request": more(*member("ContractReported", "stage"), "enum", entry="hoped"),
    "a text of a request spelt in any way": drop(*of("DecimalString", "pattern")),
    "a new failure": put("paths", CONTRACT, "get", "responses", "418", value={"description": "A teapot"}),
    "a new media type of an answer": put(
        "paths", CONTRACT, "get", "responses", "200", "content", "text/plain", value={"schema": {"type": "string"}}
    ),
    "a new class": put(*of("New"), value={"type": "object"}),
    "an operation that takes a key no more": put("paths", CONTRACT, "get", "security", value=[]),
}


@pytest.mark.parametrize(("change", "sentence"), BREAKING.values(), ids=BREAKING)
def test_what_breaks_a_client_is_told(change: Change, sentence: str) -> None:
    told = breaking_changes(document(), changed(change))
    assert any(sentence in each for each in told), told


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_breaks_no_client_is_not_told(change: Change) -> None:
    assert changed(change) != document()
    assert breaking_changes(document(), changed(change)) == []


def test_every_word_of_the_documents_schemas_is_compared_or_describes() -> None:
    assert KEYWORDS - UNIONS == JUDGED | DESCRIBING
    assert JUDGED.isdisjoint(DESCRIBING)


def test_all_changes_at_once_are_all_told() -> None:
    made = changed()
    wanted: set[str] = set()
    for item in made["paths"].values():
        for operation in item.values():
            named = operation["operationId"]
            wanted |= {f"{named}: {each['in']} parameter {each['name']} is gone." for each in operation.get("parameters", ())}
            wanted |= {f"{named} answers {status} no more." for status in operation["responses"]}
            operation.update(parameters=[], responses={})
    assert wanted <= set(breaking_changes(document(), made))


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1.0", "0.1.9", False),
        ("0.1.0", "0.2.0", True),
        ("0.9.0", "1.0.0", True),
        ("1.2.3", "1.3.0", False),
        ("1.2.3", "2.0.0", True),
        ("2.0.0", "1.9.0", False),
    ],
)
def test_the_version_owns_up_to_what_breaks(before: str, after: str, allowed: bool) -> None:
    earlier, now = ({"info": {"version": version}} for version in (before, after))
    assert may_break(earlier, now) is allowed


class Checkout:
    """A repository with the Makefile and a document, as another one was tagged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> None:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
        subprocess.run(["git", *author, *arguments], cwd=self.folder, check=True, capture_output=True)

    def release(self, tag: str, made: Json) -> None:
        (self.folder / "openapi.yaml").write_text(yaml.safe_dump(made))
        self.git("add", "openapi.yaml")
        self.git("commit", "--quiet", "--allow-empty", "--message", tag)
        self.git("tag", tag)

    def breaking(self) -> tuple[int, str]:
        """The exit status of `make breaking`, and what it said."""
        # What is installed stays: the environment is that of the tests.
        command = ["make", "--no-print-directory", "-o", ".venv/.installed", "breaking"]
        ran = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, env=os.environ | {"MAKEFLAGS": ""})
        return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if shutil.which("make") is None or shutil.which("git") is None:
        pytest.skip("takes make and git")
    return Checkout(tmp_path)


def more_to_break(made: Json) -> None:
    put("paths", "/gone", value={"get": {"operationId": "get_gone", "responses": {}}})(made)


def test_without_a_tag_there_is_nothing_to_break(checkout: Checkout) -> None:
    status, said = checkout.breaking()
    assert status == 0
    assert "No tag v*" in said


def test_make_compares_with_the_document_of_the_last_tag(checkout: Checkout) -> None:
    checkout.release("v0.0.1", json.loads(json.dumps(changed(more_to_break))))
    status, said = checkout.breaking()
    assert status == 2
    assert "Since v0.0.1:" in said
    assert "get_gone (GET /gone) is gone." in said
    assert "This breaks clients, and the version does not say so" in said
    checkout.release("v0.0.2", json.loads(json.dumps(document())))
    status, said = checkout.breaking()
    assert (status, "Since v0.0.2:" in said, "Nothing breaks a client" in said) == (0, True, True)


@pytest.mark.parametrize("text", ["{}", "a: [", "- 1"])
def test_what_is_no_document_is_told_as_such(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(text)
    with pytest.raises(OperatorError, match=r"other\.yaml"):
        report_breaking(file)
