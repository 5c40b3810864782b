"""docs/events.md lists every event type, member and rule as the classes have them, and the type that it adds works as it says."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from service.api.catalogue import page
from service.api.envelope import _validator, request_class
from service.api.openapi import event_schemas
from service.domain import contract, options
from service.domain.events import EVENT_TYPES, UPCASTS, _body_decoder, decode_body, stated
from service.errors import NotAllowedNow
from tests.domain.histories import Sent, log_of, reported, sent, signed, told

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "events.md"
RULES = {rule for module in (contract, *contract.SUBJECTS) for rule in getattr(module, "RULES", {})}
FLAGS = {rule for module in (contract, *contract.SUBJECTS) for rule in getattr(module, "FLAGS", {})}


@cache
def made() -> str:
    return page()


def source_of(*folders: str) -> str:
    return "\n".join(file.read_text() for folder in folders for file in sorted((ROOT / "service" / folder).glob("*.py")))


def test_the_committed_page_says_what_the_code_says() -> None:
    assert PAGE.read_text() == made(), "docs/events.md says something else than the code: run `make generate`"


def test_the_page_has_every_type_with_every_member() -> None:
    sections = {part.partition("\n")[0]: part for part in re.split(r"^### ", made(), flags=re.MULTILINE)[1:]}
    assert set(EVENT_TYPES) <= set(sections)
    schemas = event_schemas()
    for event_type, cls in EVENT_TYPES.items():
        schema = schemas[f"{event_type}.v{cls.schema_version}.json"]
        assert all(f"| `{member}` |" in sections[event_type] for member in schema["properties"])


def test_every_rule_in_the_code_is_declared_and_every_declared_one_is_there() -> None:
    hard = set(re.findall(r'NotAllowedNow\(\s*"([a-z-]+)"', source_of("domain", "log")))
    soft = set(re.findall(r'(?:flag|anomaly)\(\s*"([a-z-]+)"', source_of("domain")))
    assert (hard, soft) == (RULES, FLAGS)
    assert all(f"| `{rule}` |" in made() for rule in RULES | FLAGS)


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", made(), flags=re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-").replace(".", "") for heading in headings}
    assert {target for target in re.findall(r"\]\(#([^)]+)\)", made()) if target not in anchors} == set()


CODE = re.findall(r"```python\n(.+?)```", PAGE.read_text(), flags=re.DOTALL)


def stands(code: str) -> Any:
    """The type that a piece of the page's code declares, as if the code stood in the module."""
    namespace = vars(options) | {"__name__": options.__name__}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), namespace)
    for made_from_the_class in (_body_decoder, _validator, request_class):
        made_from_the_class.cache_clear()
    return namespace["OptionTransferred"]


@pytest.fixture
def added() -> Any:
    try:
        yield stands(CODE[0])
    finally:
        del EVENT_TYPES["option.transferred"]
        del UPCASTS["option.transferred"]


def transferred(holder: str, option_id: str = "o1") -> Sent:
    return sent("option.transferred", "2025-01-01", {"option_id": option_id, "holder": holder})


def test_the_type_that_the_page_adds_works_as_it_says(added: Any) -> None:
    granted = sent("option.granted", "2024-02-01", {"option_id": "o1", "kind": "term", "holder": "isuzu"})
    log = log_of(reported(), signed(), granted, transferred("lges"))
    assert '"holder":"lges"' in next(iter(log.rows.values())).state
    for event, rule in ((transferred("nobody"), "known-party"), (transferred("lges", "o2"), "known-option")):
        with pytest.raises(NotAllowedNow) as caught:
            log.append(event)
        assert caught.value.rule == rule
    assert told(reported(), transferred("lges")).state.unplaced == [2]
    assert "### option.transferred\n\nAn option passes to another party." in page()
    assert "option.transferred.v1.json" in event_schemas()


def test_the_second_version_that_the_page_gives_the_type_reads_what_the_first_recorded(added: Any) -> None:
    body = orjson.dumps({"data": transferred("lges")["data"], "source": {"kind": "news"}, "salt": "00"})
    assert (added.schema_version, CODE[2:]) == (1, [])
    assert stands(CODE[1]).schema_version == 2
    fact, _ = decode_body("option.transferred", 1, body)
    assert stated(fact) == {"option_id": "o1", "to": "lges"}
    granted = sent("option.granted", "2024-02-01", {"option_id": "o1", "kind": "term", "holder": "isuzu"})
    passed = sent("option.transferred", "2025-01-01", {"option_id": "o1", "to": "lges", "by": "isuzu"})
    assert '"holder":"lges"' in next(iter(log_of(reported(), signed(), granted, passed).rows.values())).state
    assert "option.transferred.v2.json" in event_schemas()
