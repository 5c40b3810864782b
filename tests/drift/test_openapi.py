"""The OpenAPI document: valid, complete, what `openapi.yaml` says, and such as generators of clients can read."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import yaml
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from service.app import create_app
from service.domain.events import EVENT_TYPES
from service.settings import Settings
from tests.api.documented import Operation, document, operations, walk

ROOT = Path(__file__).parents[2]
REF = "#/components/schemas/"
UNIONS = {"oneOf", "anyOf", "allOf", "not", "if", "discriminator"}
KEYWORDS = UNIONS | {
    *("$ref", "type", "format", "description", "example", "examples", "default", "title", "enum", "const"),
    *("properties", "required", "additionalProperties", "items", "propertyNames"),
    *("minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems"),
}
DECIMALS = {"amount", "low", "high", "quantity", "rate", "unit_price", "minimum", "maximum"}
# Members that hold whatever their event type says, and are checked by the server.
FREE = {"data"}
NDJSON = "application/x-ndjson"
PUBLIC = {"get_liveness", "get_readiness"}


def named(operation: Operation) -> str:
    return operation.operation_id


@cache
def schemas() -> dict[str, Any]:
    found: dict[str, Any] = document()["components"]["schemas"]
    return found


def refs(part: Any) -> set[str]:
    """The names of schemas that a part of the document refers to."""
    return {node["$ref"].removeprefix(REF) for _, node in walk(part) if isinstance(node, dict) and isinstance(node.get("$ref"), str)}


def reachable(parts: list[Any]) -> set[str]:
    """The names of the schemas that parts of the document are made of."""
    found: set[str] = set()
    waiting = set().union(*(refs(part) for part in parts))
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= refs(schemas()[name]) - found
    return found


@cache
def in_answers() -> set[str]:
    return reachable([operation.documented["responses"] for operation in operations()])


@cache
def in_requests() -> set[str]:
    return reachable([operation.documented.get("requestBody", {}) for operation in operations()])


def schema_nodes(names: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within the named ones, with a pointer to it; not the members' names, examples and defaults."""
    for name in sorted(names):
        yield from _nodes(schemas()[name], f"/{name}")


def _nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for member, nested in schema.get("properties", {}).items():
        yield from _nodes(nested, f"{path}/{member}")
    for keyword in ("items", "additionalProperties", "propertyNames", *UNIONS):
        nested = schema.get(keyword)
        for one in nested if isinstance(nested, list) else [nested]:
            if isinstance(one, dict):
                yield from _nodes(one, f"{path}/({keyword})")


# The whole


def test_the_document_is_openapi_3_1() -> None:
    errors = [f"{error.instance_path}: {error.message}" for error in OPENAPI_31_VALIDATOR.iter_errors(document())]
    assert errors == []
    assert document()["openapi"].startswith("3.1.")


def test_openapi_yaml_says_what_the_code_says() -> None:
    file = ROOT / "openapi.yaml"
    assert file.exists(), "openapi.yaml is missing: run `make generate`"
    committed = yaml.safe_load(file.read_text())
    assert committed == json.loads(json.dumps(document())), "openapi.yaml says something else than the code: run `make generate`"


async def test_the_service_serves_the_document() -> None:
    app = create_app(Settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        answer = await client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(document()))


def test_every_reference_resolves_and_every_schema_is_used() -> None:
    assert refs(document()) <= set(schemas())
    parameters = reachable([operation.documented.get("parameters", []) for operation in operations()])
    assert in_answers() | in_requests() | parameters == set(schemas())


def test_every_schema_is_valid_json_schema() -> None:
    for schema in schemas().values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)


def test_schemas_say_what_they_mean_in_words_of_json_schema() -> None:
    nodes = [node for _, node in schema_nodes(set(schemas()))]
    nodes += [parameter["schema"] for operation in operations() for parameter in operation.documented.get("parameters", [])]
    assert {keyword for node in nodes for keyword in node} - KEYWORDS == set()


def test_requests_and_answers_share_no_schema() -> None:
    # Requests are closed and answers are open: a schema of both would be wrong in one of them.
    assert in_answers() & in_requests() == set()


# Operations


def test_operation_ids_are_unique_and_read_as_methods() -> None:
    ids = [operation.operation_id for operation in operations()]
    assert len(ids) == len(set(ids))
    assert all(
        re.fullmatch(
            r"(cancel|create|delete|export|get|import|list|open|pause|record|replay|report|resume|retry|rotate|set|skip|start|stream|test)_[a-z_]+",
            operation_id,
        )
        for operation_id in ids
    )


@pytest.mark.parametrize("operation", operations(), ids=named)
def test_an_operation_is_tagged_described_and_its_parameters_are_declared(operation: Operation) -> None:
    (tag,) = operation.documented["tags"]
    assert tag in {known["name"] for known in document()["tags"]}
    assert operation.documented["summary"]
    assert operation.documented["description"].endswith(".")
    parameters = operation.documented.get("parameters", [])
    in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", operation.path))
    assert len({(parameter["in"], parameter["name"]) for parameter in parameters}) == len(parameters)
    assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")


@pytest.mark.parametrize("operation", [operation for operation in operations() if "requestBody" in operation.documented], ids=named)
def test_an_operation_with_a_body_has_an_example_that_its_schema_allows(operation: Operation) -> None:
    body = operation.documented["requestBody"]
    assert body["required"] is True
    ((media_type, content),) = body["content"].items()
    assert media_type == (NDJSON if operation.operation_id == "import_events" else "application/json")
    schema = content["schema"] | {"components": document()["components"]}
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(content["example"])


@pytest.mark.parametrize("operation", operations(), ids=named)
def test_an_operation_documents_its_problems(operation: Operation) -> None:
    responses = operation.documented["responses"]
    assert any(status.startswith("4") for status in responses)
    wanted = set() if operation.operation_id in PUBLIC else {"401", "403", "503"}
    if "{ledger}" in operation.path and operation.method != "PUT":
        wanted |= {"404"}
    if operation.method == "POST" and "requestBody" not in operation.documented:
        wanted |= {"409", "422"}
    elif operation.method == "POST":
        wanted |= {"400", "409", "415", "422"} | (set() if operation.operation_id == "import_events" else {"413"})
    if operation.documented["tags"] == ["webhooks"] and operation.operation_id != "create_webhook":
        wanted -= {"409"}  # they may be paused, tried and sent again at any time
    if operation.method == "POST" and "/contracts/{contract_id}" in operation.path:
        wanted |= {"412", "428"}
    assert wanted <= set(responses)
    for status, response in responses.items():
        assert response["description"]
        if int(status) >= 400:
            assert response["content"] == {"application/problem+json": {"schema": {"$ref": REF + "Problem"}}}


@pytest.mark.parametrize(
    "operation",
    [operation for operation in operations() if "requestBody" in operation.documented and operation.method == "POST"],
    ids=named,
)
def test_an_append_documents_its_headers(operation: Operation) -> None:
    if operation.operation_id in ("replay_webhook", "skip_held_event"):
        return  # to be asked twice changes nothing more
    sent = {parameter["name"] for parameter in operation.documented["parameters"] if parameter["in"] == "header"}
    assert sent == {"Idempotency-Key"} | ({"If-Match"} if "{contract_id}" in operation.path else set())
    if operation.operation_id == "import_events":
        return
    if operation.operation_id == "create_webhook":
        assert set(operation.documented["responses"]["201"]["headers"]) == {"Idempotent-Replayed", "Location"}
        return
    if operation.operation_id == "start_replay":
        assert set(operation.documented["responses"]["202"]["headers"]) == {"Idempotent-Replayed", "Location"}
        return
    answered = set(operation.documented["responses"]["201"]["headers"])
    assert answered == {"ETag", "Idempotent-Replayed"} | (set() if "{contract_id}" in operation.path else {"Location"})


def test_every_list_is_a_page_of_items() -> None:
    lists = [operation for operation in operations() if operation.operation_id.startswith("list_")]
    assert lists
    for operation in lists:
        schema = operation.documented["responses"]["200"]["content"]["application/json"]["schema"]
        page = schemas()[schema["$ref"].removeprefix(REF)]
        assert page["properties"]["items"]["type"] == "array"
        assert page["properties"]["next"]["type"] == "string"


def test_every_event_type_has_a_path_and_its_data_a_schema() -> None:
    by_id = {operation.operation_id: operation for operation in operations()}
    for event_type, cls in EVENT_TYPES.items():
        operation = by_id["record_" + event_type.replace(".", "_")]
        assert operation.path.endswith("/" + event_type.replace(".", "-").replace("_", "-"))
        request = schemas()[f"{cls.__name__}Request"]
        assert request["properties"]["data"] == {"$ref": REF + cls.__name__}
        assert "event_type" not in request["properties"]


# What generators of clients need


def test_answers_have_no_unions_enums_or_constants() -> None:
    odd = [(path, key) for path, node in schema_nodes(in_answers()) for key in node if key in UNIONS | {"enum", "const"}]
    assert odd == []


def test_answers_allow_members_that_are_not_named() -> None:
    assert [path for path, node in schema_nodes(in_answers()) if node.get("additionalProperties") is False] == []


def test_requests_forbid_members_that_are_not_named() -> None:
    objects = [(path, node) for path, node in schema_nodes(in_requests()) if node.get("type") == "object"]
    assert len(objects) > 20
    is_open = {path for path, node in objects if node.get("additionalProperties") is not False}
    assert {path.rpartition("/")[2] for path in is_open} <= FREE


def test_requests_have_no_unions() -> None:
    assert [(path, key) for path, node in schema_nodes(in_requests()) for key in node if key in UNIONS] == []


def test_no_schema_allows_null() -> None:
    nodes = list(schema_nodes(set(schemas())))
    assert [path for path, node in nodes if node.get("type") == "null" or node.get("nullable") or node.get("default", 0) is None] == []


def test_no_schema_is_of_several_types() -> None:
    assert [path for path, node in schema_nodes(set(schemas())) if not isinstance(node.get("type", ""), str)] == []
    # What an amendment changes may be any JSON: a text, a number, a list of prices.
    untyped = {path for path, node in schema_nodes(set(schemas())) if "type" not in node and "$ref" not in node}
    # So may what is sealed.
    assert untyped == {"/Change/from", "/Change/to", "/RevealedPart/value", "/SealedItem/value", "/SealedMember/value"}


def test_no_object_is_anonymous() -> None:
    inline = [path for path, node in schema_nodes(set(schemas())) if path.count("/") > 1 and "properties" in node]
    assert inline == []
    bodies = [content["schema"] for _, node in walk(document()["paths"]) if isinstance(node, dict) for content in contents(node)]
    assert [schema for schema in bodies if set(schema) != {"$ref"} and schema != {"type": "string"}] == []


def contents(node: dict[str, Any]) -> list[dict[str, Any]]:
    content = node.get("content")
    return list(content.values()) if isinstance(content, dict) and all("schema" in one for one in content.values()) else []


def test_every_counter_is_a_64_bit_integer() -> None:
    parameters = [parameter["schema"] for operation in operations() for parameter in operation.documented.get("parameters", [])]
    integers = [node for _, node in schema_nodes(set(schemas())) if node.get("type") == "integer"]
    integers += [schema for schema in parameters if schema.get("type") == "integer"]
    assert len(integers) > 10
    assert {node.get("format") for node in integers} == {"int64"}
    assert [path for path, node in schema_nodes(set(schemas())) if node.get("type") == "number"] == []


def test_every_id_day_and_instant_is_a_string_in_requests_as_in_answers() -> None:
    # uuid, date and date-time are types of their own in some languages: what an answer says would not fit a request.
    strings = [node for _, node in schema_nodes(set(schemas())) if node.get("type") == "string"]
    strings += [parameter["schema"] for operation in operations() for parameter in operation.documented.get("parameters", [])]
    assert {node.get("format") for node in strings if node.get("type") != "integer"} == {None}


def test_every_answer_that_may_hold_any_member_says_so() -> None:
    # Otherwise a client gets an object that it can't look into.
    free = [node for _, node in schema_nodes(in_answers()) if node.get("type") == "object" and "properties" not in node]
    assert len(free) > 10
    assert [node for node in free if "additionalProperties" not in node] == []


def test_every_description_is_one_line() -> None:
    described = [node for _, node in walk(document()) if isinstance(node, dict) and isinstance(node.get("description"), str)]
    assert [node["description"] for node in described if "\n" in node["description"]] == []


def test_every_decimal_that_is_sent_is_the_one_named_string() -> None:
    found = 0
    for path, node in schema_nodes(in_requests()):
        for name in DECIMALS & set(node.get("properties", {})):
            assert node["properties"][name] == {"$ref": REF + "DecimalString"}, f"{path}/{name}"
            found += 1
    assert found > 8
    assert schemas()["DecimalString"]["type"] == "string"


def test_days_and_currencies_that_are_sent_are_named_strings() -> None:
    for path, node in schema_nodes(in_requests()):
        for name, member in node.get("properties", {}).items():
            if name.endswith("_on"):
                assert member == {"$ref": REF + "BusinessDate"}, f"{path}/{name}"
            if name == "currency":
                assert member == {"$ref": REF + "CurrencyCode"}, f"{path}/{name}"


def test_the_problem_says_what_rfc_9457_asks_and_what_an_append_needs() -> None:
    problem = schemas()["Problem"]
    assert set(problem["required"]) == {"type", "title", "status", "detail", "instance", "code", "request_id"}
    assert {"errors", "expected_revision", "current_revision"} <= set(problem["properties"])
