"""The OpenAPI 3.1 document and the JSON Schemas of events, made from the classes.

It is written for generated clients: answers without unions or enums, and open to new members; requests strict and fully named;
decimals and dates as named strings; no null anywhere.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from service import __version__
from service.api.answers import CloudEvent, ServerSentEvents
from service.api.envelope import RecordEventsRequest, request_class
from service.api.ledgers import CreateLedgerRequest, SetPolicyRequest
from service.api.operations import OPERATIONS, Documented
from service.api.problems import Problem
from service.api.replays import StartReplayRequest
from service.api.webhooks import CreateWebhookRequest, ReplayWebhookRequest, SkipEventRequest
from service.domain.contract import EVENT_TYPES
from service.errors import Forbidden, LedgerError, LedgerNotFound, TooManyRequests, Unauthorized, Unavailable

_REF = "#/components/schemas/"
_NAMED = {"BusinessDate", "CurrencyCode", "DecimalString", "Duration", "LanguageTag", "LocalId", "UnitCode", "Uuid"}
_TAGS = {
    "contracts": "Contracts: opened and carried on by events; read as they are, were, and were believed to be.",
    "outlook": "What lies ahead over all contracts: commitments, deadlines, parties.",
    "events": "The log, event by event.",
    "imports": "Many events at once: in by the line, each with its fate, and out.",
    "webhooks": "Who is sent events as they are recorded.",
    "audit": "What proves the log: checkpoints, tiles, proofs, and replays of a whole ledger.",
    "ledgers": "Books of contracts.",
    "service": "The service itself.",
}
_DESCRIPTION = (
    "An append-only ledger of long-term supply contracts. Every change is an event that says when it takes effect and on whose word; "
    "the state of a contract is the fold of its events, for any day, as known at any time."
)
_PATH_MEMBERS: dict[str, dict[str, Any]] = {
    "ledger": {"type": "string", "minLength": 1, "maxLength": 63, "example": "main"},
    "party_id": {"$ref": _REF + "LocalId"},
    "level": {"type": "string", "pattern": "^[0-6]$", "example": "0"},
    "tile": {"type": "string", "pattern": r"^(x[0-9]{3}/)*[0-9]{3}(\.p/[1-9][0-9]{0,2})?$", "example": "000.p/1"},
}
_HEADERS: dict[str, tuple[str, str | None, bool]] = {
    "Idempotency-Key": ("A value of your own for this request; a retry with it has no second effect.", "^[ -~]{1,255}$", False),
    "If-Match": (
        "The ETag of the contract as read; 412 if it has moved on.",
        r'^(\*|(W/)?"[0-9]{1,9}(\.[0-9a-f]{16})?")$',
        False,
    ),
    "Last-Event-ID": ("The `id` of the last event that was seen: the stream goes on after it, whatever the address says.", None, False),
    "If-None-Match": ("An ETag; 304 if the answer would be the same.", None, False),
}
_TEXTS: dict[type, str] = {
    str: "text/plain",
    bytes: "application/x-ndjson",
    bytearray: "application/octet-stream",
    ServerSentEvents: "text/event-stream",
}
"""Answers that are no JSON: `str` is text, `bytes` text by the line, `bytearray` bytes."""
_MEDIA_TYPES: dict[type, str] = _TEXTS | {CloudEvent: "application/cloudevents+json"}
_RETRY_AFTER = {"Retry-After": {"description": "In how many seconds to try again.", "schema": {"type": "string"}}}
_PROBLEM_HEADERS: dict[int, dict[str, Any]] = {
    401: {"headers": {"WWW-Authenticate": {"description": "`Bearer`: send a key.", "schema": {"type": "string"}}}},
    429: {"headers": _RETRY_AFTER},
    503: {"headers": _RETRY_AFTER},
}


class _Schemas(GenerateJsonSchema):
    """JSON Schema in which a member that may be absent is not also null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


@cache
def document() -> dict[str, Any]:
    """The whole document. It is not to be changed: callers share it."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, documented in sorted(OPERATIONS, key=lambda operation: operation[1]):
        paths.setdefault(path, {})[method.lower()] = _operation(path, documented)
    schemas = _request_schemas() | _answer_schemas()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "contract-ledger",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "contact": {"name": "contract-ledger"},
        },
        "servers": [{"url": "/", "description": "This service"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {name: _on_one_line(schema) for name, schema in sorted(schemas.items())},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or an access token of the issuer that the service trusts.",
                }
            },
        },
    }


def event_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of each event type's data, by file name."""
    schemas = {}
    for event_type, cls in sorted(EVENT_TYPES.items()):
        schema = TypeAdapter(cls).json_schema(schema_generator=_Schemas, ref_template="#/$defs/{model}")
        defs = _named_scalars(schema, "#/$defs/")
        schema.setdefault("$defs", {}).update(defs)
        name = f"{event_type}.v{cls.schema_version}.json"
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:contract-ledger:events:{name[:-5]}"}
        schemas[name] = head | _tidy(schema) | {"title": event_type, "description": _doc(cls)}
    return schemas


def _operation(path: str, documented: Documented) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": documented.operation_id,
        "tags": [documented.tag],
        "summary": documented.summary,
        "description": documented.description,
        "parameters": [*_path_parameters(path), *_query_parameters(documented.query), *_header_parameters(documented)],
    }
    if not operation["parameters"]:
        del operation["parameters"]
    if documented.public:
        operation["security"] = []
    elif documented.opened:
        operation["security"] = [{"key": []}, {}]
    if documented.body:
        content: dict[str, Any] = {"schema": {"$ref": _REF + documented.body}}
        if documented.example is not None:
            content["example"] = documented.example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if documented.lines:
        lines = {"schema": {"type": "string"}, "example": documented.lines}
        operation["requestBody"] = {"required": True, "content": {"application/x-ndjson": lines}}
    operation["responses"] = _responses(path, documented)
    return operation


def _responses(path: str, documented: Documented) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (text, answer) in documented.answers.items():
        response: dict[str, Any] = {"description": text}
        if answer is not None:
            response["content"] = dict(map(_content, _each(answer)))
        if headers := _response_headers(documented, status):
            response["headers"] = headers
        responses[str(status)] = response
    problems: list[type[LedgerError]] = list(documented.problems)
    if not documented.public:
        problems += [Unauthorized, Forbidden, TooManyRequests, Unavailable] + ([LedgerNotFound] if "{ledger}" in path else [])
    for status in sorted({problem.status for problem in problems}):
        alike = dict.fromkeys(problem for problem in problems if problem.status == status)
        responses[str(status)] = {
            "description": "; ".join(f"`{problem.code}`: {problem.title}" for problem in alike),
            "content": {"application/problem+json": {"schema": {"$ref": _REF + "Problem"}}},
        } | _PROBLEM_HEADERS.get(status, {})
    return responses


def _each(answer: type | tuple[type, ...]) -> tuple[type, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _content(answer: type) -> tuple[str, dict[str, Any]]:
    """The media type of an answer, and its schema."""
    schema = {"type": "string"} if answer in _TEXTS else {"$ref": _REF + _answer_name(answer)}
    return _MEDIA_TYPES.get(answer, "application/json"), {"schema": schema}


def _response_headers(documented: Documented, status: int) -> dict[str, Any]:
    def header(text: str) -> dict[str, Any]:
        return {"description": text, "schema": {"type": "string"}}

    replayed = {"Idempotent-Replayed": header("`true` for a retry.")}
    if documented.appends and (status == 202 or documented.tag == "webhooks"):
        return replayed | {"Location": header("The address of what was made, or of how far it is.")}
    if documented.appends and status == 201:
        headers = {"ETag": header("The contract's revision, for If-Match.")} | replayed
        return headers if documented.conditional else headers | {"Location": header("The contract's address.")}
    if documented.etag:
        return {"ETag": header("A digest of the answer without `as_of`; of a contract, after its revision.")}
    if documented.paged:
        return {"Link": header('The next page, as `<...>; rel="next"`; absent from the last.')}
    return {}


def _path_parameters(path: str) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        schema = _PATH_MEMBERS.get(name, {"$ref": _REF + "Uuid"})
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(model: type[BaseModel] | None) -> Iterable[dict[str, Any]]:
    if model is None:
        return
    schema = model.model_json_schema(schema_generator=_Schemas)
    for name, member in schema["properties"].items():
        described = _tidy(member)
        text = described.pop("description", None)
        yield {"name": name, "in": "query", "required": False, "schema": described} | ({"description": text} if text else {})


def _header_parameters(documented: Documented) -> Iterable[dict[str, Any]]:
    names = (["Idempotency-Key"] if documented.appends else []) + (["If-Match"] if documented.appends and documented.conditional else [])
    names += ["Last-Event-ID"] if documented.resumable else []
    for name in [*names, *(["If-None-Match"] if documented.etag else [])]:
        text, pattern, required = _HEADERS[name]
        schema = {"type": "string", "pattern": pattern} if pattern else {"type": "string"}
        yield {"name": name, "in": "header", "required": required, "description": text, "schema": schema}


def _request_schemas() -> dict[str, Any]:
    named = [
        RecordEventsRequest,
        CreateLedgerRequest,
        SetPolicyRequest,
        StartReplayRequest,
        CreateWebhookRequest,
        ReplayWebhookRequest,
        SkipEventRequest,
    ]
    classes = [request_class(event_type) for event_type in EVENT_TYPES] + named
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [(cls.__name__, "validation", TypeAdapter(cls)) for cls in classes]
    _, schema = TypeAdapter.json_schemas(inputs, ref_template=_REF + "{model}", schema_generator=_Schemas)
    definitions = schema["$defs"]
    scalars = _named_scalars(definitions, _REF)
    # A format would make it another type than the strings of answers in some languages; its pattern says all of it.
    del scalars["Uuid"]["format"]
    return {name: _tidy(definition) for name, definition in (definitions | scalars).items()}


def _answer_schemas() -> dict[str, Any]:
    answered = [answer for _, _, documented in OPERATIONS for _, answer in documented.answers.values()]
    kinds = [kind for answer in answered if answer is not None for kind in _each(answer) if kind not in _TEXTS]
    _, schemas = msgspec.json.schema_components([*dict.fromkeys(kinds), Problem], ref_template=_REF + "{name}")
    return {name: _tidy(_open(schema)) for name, schema in schemas.items()}


def _answer_name(answer: type) -> str:
    return answer.__name__


def _open(schema: Any) -> Any:
    """An answer's schema without null: an absent member is absent. What may hold any member says so, or clients would get an object
    that they can't look into."""
    if isinstance(schema, list):
        return [_open(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
        if len(kinds) == 1:
            schema = {name: member for name, member in schema.items() if name not in ("anyOf", "default")} | kinds[0]
    if schema.get("type") == "object" and "properties" not in schema:
        schema = schema | {"additionalProperties": schema.get("additionalProperties", True)}
    return {name: _open(member) for name, member in schema.items()}


def _named_scalars(schema: Any, ref: str) -> dict[str, Any]:
    """Replace named strings wherever they stand by references, and return their definitions."""
    found: dict[str, Any] = {}
    nested = schema.items() if isinstance(schema, dict) else enumerate(schema)
    for key, member in list(nested):
        if isinstance(member, dict) and member.get("type") == "string" and member.get("title") in _NAMED:
            found[member["title"]] = member
            schema[key] = {"$ref": ref + member["title"]}
        elif isinstance(member, dict | list):
            found |= _named_scalars(member, ref)
    return found


def _tidy(schema: Any, *, properties: bool = False) -> Any:
    """A schema without the titles that only repeat a name, and with counters as 64-bit integers."""
    if isinstance(schema, list):
        return [_tidy(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: _tidy(member, properties=name in ("properties", "$defs"))
        for name, member in schema.items()
        if properties or name != "title" or not isinstance(member, str)
    }
    if kept.get("type") == "integer" and not properties:
        kept.setdefault("format", "int64")
    return kept


def _on_one_line(schema: Any) -> Any:
    """A schema whose descriptions are one line each, as the comments of clients are."""
    if isinstance(schema, list):
        return [_on_one_line(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    described = schema.get("description")
    told = {"description": " ".join(described.split())} if isinstance(described, str) else {}
    return {name: _on_one_line(member) for name, member in (schema | told).items()}


def _doc(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())
