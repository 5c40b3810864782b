"""The page of all event types, docs/events.md, made from the classes: every type, member and rule."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from service.api.openapi import event_schemas
from service.domain import contract
from service.domain.contract import EVENT_TYPES
from service.domain.events import EventData

Schemas = dict[str, dict[str, Any]]
_HEAD = """# Events

Made from the classes by `make generate`; what is changed here by hand is lost, and a test holds the page to the code.

An event is sent to the path of its type (`option.granted` to `.../contracts/{contract_id}/option-granted`), or with others of its \
contract to `.../events`. Every event carries `effective_on` (a business date: a year, quarter, month or day; labels, corrections and \
voids have none), `source` (on whose word), and `data`, whose members the tables below list; besides, if known, `evidence`, \
`correlation_id`, `causation_id` and `hypothetical`. What is absent was not stated. The data as JSON Schema: \
[schemas/events](../schemas/events); requests: [openapi.yaml](../openapi.yaml).

A **hard** rule refuses an event, with 409 `not-allowed-now` and the rule's name. Whether ids are new and targets known is judged over \
the whole contract as recorded; all else at the event's own day, so that a truth recorded late is not refused for what came after. \
A **correction** names the event that was recorded wrong, and states its data anew, whole, judged as that event would be; its source \
and its day too, where those were wrong. The last correction that is not voided counts, and the event keeps its revision in the order. A \
**void** takes out an event, or a correction, and what stood before counts again; or a void. The event that opened a contract is corrected \
and never voided, since nothing would be left that opens it; a signing may be voided while a report stands. An erasure and a reveal are \
final. Ids stay taken where deliveries have them. What was recorded stays in the log, and in every answer for a time before.

A **soft** rule accepts the event and flags it under `anomalies`; with `?strict=true`, or where the policy of the ledger is \
`strict`, it refuses too. What a late event leaves without its target is kept under `unplaced`; \
so is an extension, an exercised option or an end that no longer fits on its day, and is flagged.
"""
_SENSE = """## Data that make no sense

Refused as faulty, with 422 and a pointer, whatever the contract is; the schemas cannot say it:

| data | refused |
| --- | --- |
| names and texts | blank ones |
| `scheme` and `id` of `references` and `identifiers` | white space around them; letters not composed (NFC); characters that are not seen |
| `changes` | a path that leads elsewhere than into title, period and terms; an index with a leading zero; neither `from` nor `to` |
| amounts | more digits after the point than the currency has; `low` above `high`; neither or both of an amount and a range |
| `fx` | a rate of zero; a rate of a currency in itself |
| figures of one event | an id that stands twice; one before the figure it derives from; in an opening, one derived from none of them |
| `references`, `roles`, `identifiers`, `parties`, `merges`, `items`, `withheld`, `contains`, `paths` | an entry that stands twice |
| days | one that is not in the calendar; an end before its start; `signed_on` after `signed_by`; a term that ends after the year 2999 |
| `withheld`, `contains` | a path that begins with no part of a contract, or names no member of period or terms |
| `quantity` | one without a unit; a zero is a value |
| `unit` | what is neither two or three capitals and digits, as the codes of UN/ECE Recommendation 20 are, nor `x-...` |
| `volumes` | a minimum above its maximum |
| what opens a contract | no title, kind or parties |

The codes of Recommendation 20 are not listed here: it grows, units are never converted, and a code that only looks like one does no \
harm that a list of last year's would not do to a new one.
"""
_ADDING = '''## Adding a type

A type is one class in the module of its subject: its data, its rules, its fold. Say that an option may pass to another party. \
In `service/domain/options.py`:

```python
@event_type("option.transferred")
class OptionTransferred(_OfOption):
    """An option passes to another party."""

    option_id: Id
    holder: Id

    def check_whole(self, whole: Contract) -> None:
        check_known_option(whole, self.option_id)
        check_known_party(whole, self.holder)

    def check_place(self, at: Contract) -> None:
        _open_option(at, self.option_id)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (option := option_of(contract, self.option_id)) is not None:
            option.holder = self.holder
            _rest_on(option, event.revision)
```

The docstring's first line is the summary in the API's document. `check_whole` looks at all that is recorded, `check_place` at the \
contract on the event's day; both refuse by `NotAllowedNow`, with the name of a rule that the module lists in `RULES` (soft ones, which \
`apply` flags, in `FLAGS`). `apply` never fails: where the target is absent, `is_placed` (here that of `_OfOption`) has kept the event \
apart. The class is held by `tests/domain`, which says what is missing still:

1. a real body with every member, `tests/golden/events/option.transferred.v1.json`, which must be read for ever, and its place in the \
life that those bodies make;
2. a strategy for its data in `tests/domain/histories.py`, so that it takes part in the random histories, and what comes of it after an \
end; a test of its rules;
3. an example in `service/api/examples.py`, for the API's document;
4. `make generate`: the path, the schemas, `openapi.yaml` and this page follow.

What the state does not say yet is a new part: a class in `service/domain/parts.py`, which names its dates, and a member of `Facts`. \
Coarse dates and `rests_on` are found by it. A new subject is a new module, listed in `SUBJECTS` of `service/domain/contract.py`.

## Changing a type

A published type is never changed in place, since what was recorded by it is read for ever: it is given its next version. The class \
says the newest alone; what was stored by an earlier version is brought to it by an upcast, at the one place where events are read, \
and stays stored as it was sent. Say that a transfer is to name whom the option comes from, as far as that is known, and that `holder` \
then says too little:

```python
def _to_holder(data: JsonObject) -> JsonObject:
    """Version 1 named the new holder alone, under `holder`."""
    return {("to" if name == "holder" else name): member for name, member in data.items()}


@event_type("option.transferred", _to_holder)
class OptionTransferred(_OfOption):
    """An option passes from one party to another."""

    option_id: Id
    to: Id
    by: Id | None = None

    def check_whole(self, whole: Contract) -> None:
        check_known_option(whole, self.option_id)
        check_known_party(whole, self.to)

    def check_place(self, at: Contract) -> None:
        _open_option(at, self.option_id)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (option := option_of(contract, self.option_id)) is not None:
            option.holder = self.to
            _rest_on(option, event.revision)
```

The upcasts of a type stand in the order of the versions that they start from; the third version would be registered with two. An \
upcast is pure, makes new data of what it gets, and makes of every body that was valid one that the next schema allows. It invents \
nothing: a member that the new version requires and the old one did not have cannot be added this way; it would be optional, or a type \
of its own. Requests are read, and events recorded, by the newest version alone. Event reads show data as of the newest version, \
and with `?raw=true` as they are stored, with the bytes of header and body and the version they were recorded with. A version \
that only knows more members, all of them optional, is registered with the upcast `more_members`, as that of `party.added` is: it is \
decoded in one step, like types without upcasts.

Then `make generate` writes the new schema beside the old one. `schemas/published.json` lists what was ever published, by a digest of \
what it means; a new version needs a golden body, and the old body stays. `make check` refuses a published version that was changed in \
place (in its file or in the class), one that was removed, one that the code does not read any more, and an upcast whose result the \
newest schema does not allow. Only descriptions, titles and examples may be reworded. While a version is not published yet, its line \
in `schemas/published.json` may be taken out again. `note.added` is a real example: its first version had a member for each kind of \
thing that a note may be about, and none for options.
'''


def page() -> str:
    """The whole page, as Markdown."""
    schemas = event_schemas()
    subjects = [_subject(subject, schemas) for subject in contract.SUBJECTS]
    return "\n".join([_HEAD, _contents(), _rules(contract, "Of every event"), *subjects, _objects(schemas), _SENSE, _ADDING])


def _types_of(subject: ModuleType) -> list[type[EventData]]:
    return [cls for cls in EVENT_TYPES.values() if cls.__module__ == subject.__name__]


def _contents() -> str:
    rows = [
        f"| [`{cls.event_type}`](#{cls.event_type.replace('.', '')}) | {cls.summary} |"
        for subject in contract.SUBJECTS
        for cls in _types_of(subject)
    ]
    return "\n".join(["| event type | says |", "| --- | --- |", *rows, ""])


def _subject(subject: ModuleType, schemas: Schemas) -> str:
    name, _, about = (subject.__doc__ or "").strip().partition(":")
    heading = subject.__name__.rpartition(".")[2].capitalize()
    parts = [f"## {heading}", "", " ".join(f"{name}:{about}".split() if about else name.split()), ""]
    for cls in _types_of(subject):
        parts += [f"### {cls.event_type}", "", f"{' '.join((cls.__doc__ or '').split())}{_version(cls)}", ""]
        parts += [*_table(schemas[f"{cls.event_type}.v{cls.schema_version}.json"]), ""]
    return "\n".join([*parts, _rules(subject, None)])


def _version(cls: type[EventData]) -> str:
    """What is said of a type that has changed."""
    return f" Version {cls.schema_version}; what was recorded by an earlier one is read as this." if cls.schema_version > 1 else ""


def _rules(subject: ModuleType, heading: str | None) -> str:
    """The rules that a module declares."""
    rows = [
        f"| `{rule}` | {hardness} | {sentence} |"
        for hardness, member in (("hard", "RULES"), ("soft", "FLAGS"))
        for rule, sentence in getattr(subject, member, {}).items()
    ]
    table = ["| rule | | |", "| --- | --- | --- |", *rows, ""] if rows else []
    return "\n".join([*([f"## {heading}", ""] if heading else []), *table])


def _objects(schemas: Schemas) -> str:
    """The objects that members are of, once each."""
    known: dict[str, dict[str, Any]] = {}
    for schema in schemas.values():
        known |= {name: part for name, part in schema.get("$defs", {}).items() if part.get("type") == "object"}
    parts = ["## Objects", ""]
    for name, schema in sorted(known.items()):
        parts += [f"### {name}", "", schema.get("description", ""), "", *_table(schema), ""]
    return "\n".join(parts)


def _table(schema: dict[str, Any]) -> Iterator[str]:
    yield "| member | | |"
    yield "| --- | --- | --- |"
    for name, member in schema["properties"].items():
        needed = "required" if name in schema.get("required", ()) else "optional"
        yield f"| `{name}` | {needed} | {_kind(member)} |"


def _kind(member: dict[str, Any]) -> str:
    """What a member may be, in a few words."""
    if "$ref" in member:
        name = member["$ref"].rpartition("/")[2]
        kind = f"[{name}](#{name.lower()})" if name not in _SCALARS else _SCALARS[name]
    elif member.get("type") == "array":
        kind = f"list of {_kind(member['items'])}, at most {member['maxItems']}"
    elif "enum" in member or "const" in member:
        kind = ", ".join(f"`{value}`" for value in member.get("enum", [member.get("const")]))
    else:
        bounds = [f"at most {member['maxLength']:,} characters"] if "maxLength" in member else []
        bounds += [f"{member['minimum']} to {member['maximum']:,}"] if {"minimum", "maximum"} <= set(member) else []
        kind = ", ".join([member.get("type", "any JSON"), *bounds])
    return f"{kind}. {member['description']}" if "description" in member and "$ref" not in member else kind


_SCALARS = {
    "BusinessDate": "business date",
    "CurrencyCode": "currency (ISO 4217)",
    "DecimalString": "decimal, as a string",
    "Duration": "duration (ISO 8601)",
    "LanguageTag": "language",
    "LocalId": "id of one's own",
    "UnitCode": "unit (UN/ECE Recommendation 20, or `x-...`)",
    "Uuid": "UUID",
}
