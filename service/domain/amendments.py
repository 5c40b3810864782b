"""Amendments: title, period and terms changed by the parties, each change at a path (RFC 6901) from what stands to what shall stand."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from service.domain.dates import last_day
from service.domain.events import STRICT, EventData, Id, Name, Path, RecordedEvent, Text, check_room, event_type
from service.domain.faults import sentence
from service.domain.parts import Amendment, JsonObject, Period
from service.domain.state import Contract, Facts
from service.domain.terms import PERIOD_MEMBERS, PeriodData, TermPeriod, Terms, term_end
from service.errors import NotAllowedNow

RULES = {
    "unique-amendment": "An amendment has an id of its own.",
    "amends-what-stands": "What an amendment changes `from` is what stands at the path by then.",
    "amended-terms-fit": "What the changes make is a title, a period and terms as any contract may have them.",
}

MAX_CHANGES = 100
_ABSENT = object()
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change at a path: `from` is what stands there, absent where nothing does; `to` is what shall, absent to remove it."""

    __pydantic_config__ = STRICT

    path: Path
    from_: Annotated[Any, Field(alias="from", description="What stands at the path; absent where nothing does.")] = None
    to: Annotated[Any, Field(description="What shall stand there; absent to remove it.")] = None


def _readers() -> dict[str, TypeAdapter[Any]]:
    """What may stand at a path, as far as the path alone tells."""
    whole: dict[str, Any] = {"/title": Name, "/period": TermPeriod, "/terms": Terms}
    members = {f"/period/{name}": hint for name, hint in get_type_hints(PeriodData, include_extras=True).items()}
    members |= {f"/terms/{name}": hint for name, hint in get_type_hints(Terms, include_extras=True).items()}
    return {path: TypeAdapter(hint) for path, hint in (whole | members).items() if not path.endswith("__")}


_READERS = _readers()


def _check_change(change: Change) -> Change:
    parts = change.path.split("/")
    if (
        f"/{parts[1]}" not in _READERS
        or (len(parts) > 2 and "/".join(parts[:3]) not in _READERS)
        or (parts[1] == "period" and len(parts) > 3)
    ):
        raise PydanticCustomError("fence", "only /title, /period and /terms are amended, by the paths of their members", {"member": "path"})
    if any(len(step) > 1 and step.isdecimal() and step.startswith("0") for step in parts):
        raise PydanticCustomError("index", "an index of a list has no leading zero (RFC 6901)", {"member": "path"})
    if change.from_ is None and (change.to is None or change.path == "/title"):
        raise PydanticCustomError("no_change", "a change says what stands, in from, or what shall stand, in to", {"member": "from"})
    if change.path == "/title" and change.to is None:
        raise PydanticCustomError("no_title", "a title is changed, not removed", {"member": "to"})
    if change.to is not None and (reader := _READERS.get(change.path)):
        try:
            reader.validate_python(change.to)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise PydanticCustomError("amended_value", "{fault}", {"fault": sentence(fault), "member": "to"}) from None
    return change


Changes = Annotated[list[Annotated[Change, AfterValidator(_check_change)]], Field(min_length=1, max_length=MAX_CHANGES)]


@event_type("terms.amended")
class TermsAmended(EventData):
    """The parties amend title, period or terms; what changed stood there as `from` says, and stands as `to` says from the day on."""

    amendment_id: Id
    rationale: Text | None = None
    changes: Changes
    treatment: (
        Annotated[
            Literal["separate_contract", "prospective", "cumulative_catch_up"],
            Field(description="How the accountant treats it (IFRS 15); stated, never computed."),
        ]
        | None
    ) = None

    def check_whole(self, whole: Contract) -> None:
        if any(known.amendment_id == self.amendment_id for known in whole.facts.amendments):
            raise NotAllowedNow("unique-amendment", f"The contract has an amendment {self.amendment_id} already.")
        check_room(whole.facts.amendments, "amendments")

    def check_place(self, at: Contract) -> None:
        document = _document(at.facts)
        for index, change in enumerate(self.changes):
            pointer = f"/data/changes/{index}"
            _check_from(document, change, f"{pointer}/from")
            if not _put(document, change):
                raise NotAllowedNow("amends-what-stands", f"There is nothing that {change.path} could be a member of.", f"{pointer}/path")
        if not _is_valid(document, self._touches("period")):
            misfit = "What the changes make is no title, period and terms that a contract may have."
            raise NotAllowedNow("amended-terms-fit", misfit, "/data/changes")
        _check_latest_end(at.facts, document["period"])

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        """Where what stands is not what was amended, what shall stand does all the same, as long as it is a title, period and terms."""
        facts, revision = contract.facts, event.revision
        facts.amendments.append(
            Amendment(
                amendment_id=self.amendment_id,
                rationale=self.rationale,
                treatment=self.treatment,
                paths=[change.path for change in self.changes],
                effective_on=event.effective_on,
                rests_on=[revision],
            )
        )
        document = _document(facts)
        if all(_put(document, change) for change in self.changes) and _is_valid(document, self._touches("period")):
            _state(facts, document, revision)

    def _touches(self, member: str) -> bool:
        return any(change.path.split("/")[1] == member for change in self.changes)


def _document(facts: Facts) -> JsonObject:
    """What may be amended, as the document that the paths go through."""
    period = facts.period
    members = {name: value for name in PERIOD_MEMBERS if period and (value := getattr(period, name)) is not None}
    title = {} if facts.title is None else {"title": facts.title}
    return {**title, "period": members, "terms": deepcopy(facts.terms or {})}


def _steps(path: str) -> Sequence[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _holder(document: Any, path: str) -> tuple[Any, str]:
    """What holds the member at a path, and the member's name; _ABSENT where there is no such thing."""
    *outer, last = _steps(path)
    for step in outer:
        document = _member(document, step)
    return document, last


def _member(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step, _ABSENT)
    if isinstance(value, list) and step.isdecimal() and step.isascii() and int(step) < len(value):
        return value[int(step)]
    return _ABSENT


def _check_from(document: JsonObject, change: Change, pointer: str) -> None:
    holder, last = _holder(document, change.path)
    stands = _member(holder, last)
    nothing = stands is _ABSENT or stands == {}
    if (nothing and change.from_ is not None) or (not nothing and (change.from_ is None or _encode(stands) != _encode(change.from_))):
        raise NotAllowedNow(
            "amends-what-stands",
            f"At {change.path} stands {'nothing' if nothing else _encode(stands).decode()[:200]} by then, and `from` says otherwise.",
            pointer,
        )


def _put(document: JsonObject, change: Change) -> bool:
    """Make a change in the document. False where there is nothing that the path could be a member of."""
    holder, last = _holder(document, change.path)
    if isinstance(holder, list):
        return _put_entry(holder, last, change.to)
    if not isinstance(holder, dict):
        return False
    if change.to is not None:
        holder[last] = deepcopy(change.to)
    elif holder is document:
        holder[last] = {}
    else:
        holder.pop(last, None)
    return True


def _put_entry(entries: list[Any], step: str, value: Any) -> bool:
    """The same in a list, which grows at its end, by the index after the last or by `-`."""
    index = len(entries) if step == "-" else int(step) if step.isdecimal() and step.isascii() else -1
    if index == len(entries) and value is not None:
        entries.append(deepcopy(value))
    elif not 0 <= index < len(entries):
        return False
    elif value is None:
        del entries[index]
    else:
        entries[index] = deepcopy(value)
    return True


def _is_valid(document: JsonObject, touches_period: bool) -> bool:
    """Whether the document is a title, period and terms; a period that is not amended may be what several events made of it."""
    try:
        _READERS["/terms"].validate_python(document["terms"])
        if touches_period:
            _READERS["/period"].validate_python({name: value for name, value in document["period"].items() if name != "max_end_on"})
    except ValidationError:
        return False
    return True


def _check_latest_end(facts: Facts, period: JsonObject) -> None:
    """An end is within the latest end that stands with it, unless neither was amended."""
    amended = Period(rests_on=[], stated_in=dict.fromkeys(period, 0), **period)
    before, after = term_end(facts), term_end(Facts(period=amended))
    latest = amended.max_end_on
    if not after or not latest or last_day(after.end_on) <= last_day(latest):
        return
    if before is None or before.end_on != after.end_on or facts.period is None or facts.period.max_end_on != latest:
        raise NotAllowedNow(
            "within-max-end", f"The contract allows an end by {latest}; an amendment beyond it amends /period/max_end_on too."
        )


def _state(facts: Facts, document: JsonObject, revision: int) -> None:
    """Take the document as what stands; what changed rests on the revision."""
    if (title := document.get("title")) is not None and title != facts.title:
        facts.title, facts.stated_in["title"] = title, revision
    period = facts.period or Period(rests_on=[], stated_in={})
    for name in PERIOD_MEMBERS:
        if (value := document["period"].get(name)) != getattr(period, name):
            setattr(period, name, value)
            period.stated_in[name] = revision
            if value is None:
                del period.stated_in[name]
    period.rests_on = sorted(set(period.stated_in.values()))
    facts.period = period if period.stated_in else None
    if document["terms"] != (facts.terms or {}):
        facts.terms = document["terms"] or None
        facts.terms_rest_on = [*facts.terms_rest_on, revision] if facts.terms else []
