"""Holds answers against the OpenAPI document: a status that the operation documents, a body that its schema allows."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import httpx
import jsonschema_rs

from service.app import create_app
from service.settings import Settings

PROBLEM: Final = "application/problem+json"
# Answers at addresses or to methods that the document does not have: nothing there, and no such method.
OUTSIDE: Final = {404, 405}
UNDOCUMENTED_PATHS: Final = re.compile(r"/docs(/[a-z.-]+)?|/reference|/openapi\.json")
TOLD_HEADERS: Final = ("etag", "location", "link", "idempotent-replayed", "retry-after", "www-authenticate")


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the document."""

    method: str
    path: str
    documented: Mapping[str, Any]

    @property
    def operation_id(self) -> str:
        name: str = self.documented["operationId"]
        return name

    @property
    def is_public(self) -> bool:
        return self.documented.get("security") == []

    def at(self, **parts: str) -> str:
        """The operation's path with its parameters filled in."""
        return self.path.format_map(parts)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document, with everything that the application declares."""
    return create_app(Settings()).openapi()


@cache
def operations() -> tuple[Operation, ...]:
    """Every operation of the document."""
    return tuple(
        Operation(method.upper(), path, documented) for path, item in document()["paths"].items() for method, documented in item.items()
    )


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Operation], ...]:
    # A path that is spelt out goes before one with a parameter in that place.
    ordered = sorted(operations(), key=lambda operation: operation.path.count("{"))
    return tuple((re.compile(re.sub(r"{\w+}", "[^/]+", operation.path.replace("{tile}", ".+"))), operation) for operation in ordered)


def operation_of(method: str, path: str) -> Operation | None:
    """The operation that a request is for; HEAD is GET without the body."""
    wanted = "GET" if method == "HEAD" else method
    found = (operation for pattern, operation in _patterns() if operation.method == wanted and pattern.fullmatch(path))
    return next(found, None)


def check_answer(answer: httpx.Response) -> None:
    """An httpx hook: the answer is one that the document promises, and carries a request id."""
    if answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"):
        answer.close()  # It does not end: how it begins is what there is to see here.
        answer._content = b""
    answer.read()
    assert answer.headers.get("x-request-id"), "an answer without X-Request-Id"
    path = answer.request.url.raw_path.decode().partition("?")[0]
    operation = operation_of(answer.request.method, path)
    if operation is None:
        check_outside(answer, path)
        return
    told = operation.documented["responses"].get(str(answer.status_code))
    assert told is not None, f"{operation.operation_id} does not document {answer.status_code}: {answer.text}"
    if answer.status_code >= 400:
        check_problem(answer)
    _check_content(operation, told, answer)
    _check_headers(operation, told, answer)


def check_outside(answer: httpx.Response, path: str) -> None:
    if UNDOCUMENTED_PATHS.fullmatch(path) and answer.status_code == 200:
        return
    assert answer.status_code in OUTSIDE, f"{answer.request.method} {path} is not documented, and answers {answer.status_code}"
    check_problem(answer)


def check_problem(answer: httpx.Response) -> None:
    """The answer is one Problem (RFC 9457), of the status and the request that it says."""
    assert answer.headers["content-type"] == PROBLEM, answer.headers.get("content-type")
    if answer.request.method == "HEAD":
        return
    problem = answer.json()
    validator("Problem").validate(problem)
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:problem-type:contract-ledger:{problem['code']}"


def _check_content(operation: Operation, told: Mapping[str, Any], answer: httpx.Response) -> None:
    if "content" not in told:
        assert answer.content == b"", f"{operation.operation_id} documents no content for {answer.status_code}"
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in told["content"], f"{operation.operation_id} does not answer {media_type}"
    if answer.request.method == "HEAD":
        assert answer.content == b""
        return
    schema = told["content"][media_type]["schema"]
    if media_type in ("text/plain", "application/x-ndjson", "application/octet-stream", "text/event-stream"):
        assert schema["type"] == "string"
        return
    validator(schema["$ref"].rpartition("/")[2]).validate(json.loads(answer.content))


def _check_headers(operation: Operation, told: Mapping[str, Any], answer: httpx.Response) -> None:
    documented = {name.lower() for name in told.get("headers", {})}
    missing = [name for name in TOLD_HEADERS if name in answer.headers and name not in documented]
    assert not missing, f"{operation.operation_id} does not document for {answer.status_code}: {', '.join(missing)}"


@cache
def validator(name: str) -> jsonschema_rs.Validator:
    """A validator for one of the document's schemas, which also finds members that the document does not name."""
    components = {"schemas": _closed(document()["components"]["schemas"])}
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def _closed(schema: Any) -> Any:
    """Schemas that name their members allow no others: what the service answers now, it documents now."""
    if isinstance(schema, list):
        return [_closed(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(member) for name, member in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def walk(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every object and array within a document, with its JSON pointer."""
    yield path, schema
    nested = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, member in nested:
        yield from walk(member, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")
