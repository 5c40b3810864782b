"""What in this OpenAPI document breaks a client that was written, or generated, by an earlier one.

Both documents are such as `service.api.openapi` makes them: every schema is named and none is a union. What a request may hold may
be loosened and what an answer holds may grow; the other way round a client breaks. So does one of whose methods, classes or arguments
the names change.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]
_REF = "#/components/schemas/"
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_LEAST = ("minimum", "minLength", "minItems")
_MOST = ("maximum", "maxLength", "maxItems")
_NEW_BREAKS = ("pattern", "enum", "const")
_NESTED = ("items", "additionalProperties", "propertyNames")
JUDGED = {"$ref", "type", "format", "default", "properties", "required", *_LEAST, *_MOST, *_NEW_BREAKS, *_NESTED}
"""The words of a schema that are compared."""
DESCRIBING = {"description", "example", "examples", "title"}
"""Those that change nothing for a client."""


def breaking_changes(earlier: Node, now: Node) -> list[str]:
    """What breaks a client of the earlier document, a sentence each; nothing of what only adds or loosens."""
    return [*dict.fromkeys(_Comparison(earlier, now).sentences())]


def may_break(earlier: Node, now: Node) -> bool:
    """Whether the version owns up to it (semver.org): the major number is raised, or while that is 0 the minor one."""
    return _leading(now) > _leading(earlier)


def _leading(document: Node) -> tuple[int, int]:
    major, minor = (int(number) for number in document["info"]["version"].split(".")[:2])
    return (major, 0) if major else (0, minor)


class _Comparison:
    """Two documents, walked side by side from the operations down."""

    def __init__(self, earlier: Node, now: Node) -> None:
        self._earlier, self._now = earlier, now
        self._walked: set[tuple[str, str, bool]] = set()

    def sentences(self) -> Iterator[str]:
        by_name = {operation["operationId"]: address for address, operation in _operations(self._now)}
        by_address = dict(_operations(self._now))
        for address, operation in _operations(self._earlier):
            name = operation["operationId"]
            found = by_name.get(name, address)
            if found not in by_address:
                yield f"{name} ({address}) is gone."
                continue
            if found != address:
                yield f"{name} was {address}, and is {found}."
            if by_address[found]["operationId"] != name:
                yield f"{name} ({address}) is called {by_address[found]['operationId']}."
            yield from self._operation(name, operation, by_address[found])
        for name in sorted(_schemas(self._earlier).keys() - _schemas(self._now).keys()):
            yield f"The schema {name} is gone, and with it a class of clients."

    def _operation(self, name: str, before: Node, after: Node) -> Iterator[str]:
        if before.get("tags") != after.get("tags"):
            # Generators make a class of methods of each tag.
            yield f"{name} was of {_named(before.get('tags'))}, and is of {_named(after.get('tags'))}."
        yield from self._parameters(name, before, after)
        yield from self._body(name, before.get("requestBody"), after.get("requestBody"))
        for status, answer in before["responses"].items():
            if status in after["responses"]:
                yield from self._answer(f"{name}, answer {status}", answer, after["responses"][status])
            else:
                yield f"{name} answers {status} no more."
        if _is_open(self._earlier, before) and not _is_open(self._now, after):
            yield f"{name} takes a key."

    def _parameters(self, name: str, before: Node, after: Node) -> Iterator[str]:
        known, given = _by_name(before), _by_name(after)
        yield from (f"{name}: {place} is gone." for place in known if place not in given)
        for place, parameter in given.items():
            if parameter.get("required") and not known.get(place, {}).get("required"):
                yield f"{name}: {place} is required."
            if place in known:
                yield from self._schema(f"{name}: {place}", known[place]["schema"], parameter["schema"], is_sent=True)

    def _body(self, name: str, before: Node | None, after: Node | None) -> Iterator[str]:
        if after is None:
            if before is not None:
                yield f"{name} takes no body."
            return
        if after.get("required") and not (before and before.get("required")):
            yield f"{name}: the body is required."
        yield from self._contents(f"{name}, body", before or {}, after, is_sent=True)

    def _answer(self, place: str, before: Node, after: Node) -> Iterator[str]:
        headers = after.get("headers", {})
        yield from (f"{place}: the header {header} is gone." for header in before.get("headers", {}) if header not in headers)
        yield from self._contents(place, before, after, is_sent=False)

    def _contents(self, place: str, before: Node, after: Node, *, is_sent: bool) -> Iterator[str]:
        given = after.get("content", {})
        for media_type, content in before.get("content", {}).items():
            if media_type not in given:
                yield f"{place}: {media_type} is gone."
            else:
                yield from self._schema(place, content["schema"], given[media_type]["schema"], is_sent=is_sent)

    def _schema(self, place: str, before: Node, after: Node, *, is_sent: bool) -> Iterator[str]:
        """Two schemas at a place; named ones once, under their name."""
        old, new = (schema.get("$ref", "").removeprefix(_REF) for schema in (before, after))
        if old and new and old != new:
            yield f"{place}: {old} is {new}."
        if old or new:
            if (old, new, is_sent) in self._walked:
                return
            self._walked.add((old, new, is_sent))
            place = old or place
            before, after = _schemas(self._earlier).get(old, before), _schemas(self._now).get(new, after)
        yield from _kind(place, before, after)
        yield from _narrowed(place, before, after) if is_sent else ()
        yield from self._members(place, before, after, is_sent=is_sent)
        for word in _NESTED:
            yield from self._nested(f"{place}/{word}", before.get(word, True), after.get(word, True), is_sent=is_sent)

    def _nested(self, place: str, before: Node | bool, after: Node | bool, *, is_sent: bool) -> Iterator[str]:
        """What items and further members may be: a schema, anything (true), nothing (false)."""
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from self._schema(place, before, after, is_sent=is_sent)
        elif is_sent and before is not False and after is not True:
            yield f"{place} allows less."
        elif not is_sent and isinstance(before, Mapping):
            yield f"{place} says another thing."

    def _members(self, place: str, before: Node, after: Node, *, is_sent: bool) -> Iterator[str]:
        members, given = before.get("properties", {}), after.get("properties", {})
        needed, needed_now = before.get("required", ()), after.get("required", ())
        for name, member in members.items():
            if name not in given:
                yield f"{place}/{name} is gone."
                continue
            if not is_sent and name in needed and name not in needed_now:
                yield f"{place}/{name} may be absent."
            yield from self._schema(f"{place}/{name}", member, given[name], is_sent=is_sent)
        yield from (f"{place}/{name} is required." for name in needed_now if is_sent and name not in needed)


def _kind(place: str, before: Node, after: Node) -> Iterator[str]:
    """What changes the type that a client has for it."""
    for word in ("type", "format"):
        if before.get(word) != after.get(word):
            yield f"{place}: {word} was {before.get(word, 'not said')}, and is {after.get(word, 'not said')}."


def _narrowed(place: str, before: Node, after: Node) -> Iterator[str]:
    """What is refused that was accepted, or means something else when it is left out."""
    for words, sign in ((_LEAST, 1), (_MOST, -1)):
        for word in words:
            if word in after and (word not in before or sign * (after[word] - before[word]) > 0):
                yield f"{place}: {word} was {before.get(word, 'not said')}, and is {after[word]}."
    for word in _NEW_BREAKS:
        if word in after and not _is_kept(before.get(word), after[word]):
            yield f"{place}: {word} was {before.get(word, 'not said')}, and is {after[word]}."
    if "default" in before and before["default"] != after.get("default"):
        yield f"{place}: default was {before['default']}, and is {after.get('default', 'not said')}."


def _is_kept(before: Any, after: Any) -> bool:
    """Whether a list of values holds all it held; what is no list has to be the same."""
    return before is not None and (set(before) <= set(after) if isinstance(after, list) else before == after)


def _operations(document: Node) -> Iterator[tuple[str, Node]]:
    for path, item in document["paths"].items():
        yield from ((f"{method.upper()} {path}", operation) for method, operation in item.items() if method in _METHODS)


def _named(tags: list[str] | None) -> str:
    return " and ".join(tags or ["no tag"])


def _schemas(document: Node) -> Node:
    schemas: Node = document["components"]["schemas"]
    return schemas


def _by_name(operation: Node) -> dict[str, Node]:
    return {f"{parameter['in']} parameter {parameter['name']}": parameter for parameter in operation.get("parameters", ())}


def _is_open(document: Node, operation: Node) -> bool:
    """Whether a caller may do without a key."""
    ways = operation.get("security", document.get("security", []))
    return not ways or {} in ways
