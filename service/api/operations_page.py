"""The page of all operations, docs/operations.md, made from their declarations: what a client calls each, its address and right."""

from collections.abc import Iterator

from service.api.openapi import document
from service.api.operations import OPERATIONS, Documented

_HEAD = """# Operations

Made from the code by `make generate`; what is changed here by hand is lost, and a test holds the page to the code.

An operation id is the name of a method in a generated client: `get_contract`, or `getContract` and `GetContract` where a language \
writes it so. It stays: `make check` finds an id, an address, a parameter, a member or a status that was released and is no more. The \
right is the one that the caller's key or token needs in the ledger. What to send and what comes back: `/reference` of a running service, \
or [openapi.yaml](../openapi.yaml); of the data of each event type: [events.md](events.md).
"""


def operations_page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD, *(line for tag in document()["tags"] for line in _section(tag["name"], tag["description"]))])


def _section(tag: str, about: str) -> Iterator[str]:
    rows = [(documented, f"{method} {path}") for method, path, documented in sorted(OPERATIONS, key=lambda each: each[1])]
    yield from (f"## {tag.capitalize()}", "", about, "", "| operation id | request | right | |", "| --- | --- | --- | --- |")
    for documented, request in rows:
        if documented.tag == tag:
            yield f"| `{documented.operation_id}` | `{request}` | {_right(documented)} | {documented.summary} |"
    yield ""


def _right(documented: Documented) -> str:
    """The right that an operation takes, in a few words."""
    if documented.public:
        return "none, nor a key"
    rights = " or ".join(f"`{right}`" for right in documented.rights) or "any"
    return f"{rights}; none where the log is public" if documented.opened else rights
