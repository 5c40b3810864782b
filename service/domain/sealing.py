"""Sealing: members of an event's data that only readers with the right see, and the event that opens them to all.

What is sealed is left out of the data, by paths into it; rules and fold see the rest, as if it had not been stated. A reveal lays values
in place, in the fold of everything after: the event then says what it would have said.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn

import msgspec
from msgspec.structs import replace
from pydantic import Field

from service.domain.events import STRICT, EventData, Path, RecordedEvent, SealedMembers, Uuid, decode_body, event_type, place_in_fold
from service.domain.parts import JsonObject, Revealed, Sealed
from service.domain.state import Contract, Facts
from service.errors import MemberFault, NotAllowedNow, Refused

RULES = {
    "known-sealed": "What is revealed is sealed in the event that is named, which is not voided, and was not revealed before.",
}
FLAGS = {
    "sealed-past-its-day": "What is sealed until a day is not revealed, and the day has passed. The day alone reveals nothing.",
}

REVEALED: Final = "sealed.revealed"
MAX_SEALED = 20
MAX_SEALED_BYTES = 65_536
NEVER_SEALED: Final = frozenset({REVEALED, "event.corrected", "event.voided", "event.erased", "contract.labelled"})
"""Types whose data stay open: they open or replace what others say, or are readers' own words."""
OPEN: Final = frozenset(
    {
        *("amendment_id", "anomaly_id", "condition_id", "delivery_id", "event_id", "figure_id", "item_id", "milestone_id", "option_id"),
        *("party_id", "references", "withheld", "changes", "merges", "partial"),
    }
)
"""Members that stay open: rules must know what a thing is called, and of some the absence would itself be a statement."""

Salt = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="32 lower-case hex digits, as a reader with the right sees them.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealedPart:
    """A sealed member with the value and the salt that its digest was made of."""

    __pydantic_config__ = STRICT

    path: Path
    value: Annotated[Any, Field(description="What was sealed.")]
    salt: Salt


@event_type(REVEALED)
class SealedRevealed(EventData):
    """Members that an event of the contract sealed are open from now on, provably as they were sealed: all of them, or some by path.

    It has no day of its own: the event it names says them in its own place. `effective_on` says when they were opened.
    """

    dayless = True
    rewrites = True
    extra_right = "sealed:read"
    event_id: Uuid
    parts: Annotated[list[RevealedPart], Field(min_length=1, max_length=MAX_SEALED)]

    def event_ids(self) -> tuple[str, ...]:
        return (self.event_id,)

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:  # noqa: ARG002
        """One whose event is there is laid into it before the fold; what is folded itself has lost its event."""
        return False


# Writing


class CannotBeSealed(ValueError):
    """A path that cannot be sealed, by its index in what was sent; the sentence says why."""

    def __init__(self, index: int, sentence: str) -> None:
        super().__init__(sentence)
        self.index = index


def lay(data: JsonObject, paths: Sequence[str], values: Sequence[Any]) -> JsonObject:
    """A copy of the data with values at their paths. CannotBeSealed where a path is not that of an absent member of an object."""
    laid = deepcopy(data)
    places = [_place(laid, index, path) for index, path in enumerate(paths)]
    for (holder, name), value in zip(places, values, strict=True):
        holder[name] = value
    return laid


def _place(data: JsonObject, index: int, path: str) -> tuple[JsonObject, str]:
    """The object that the member at a path belongs to, and the member's name."""
    *steps, name = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
    holder: Any = data
    for step in steps:
        if isinstance(holder, list) and step.isdecimal() and step.isascii() and int(step) < len(holder):
            holder = holder[int(step)]
        elif isinstance(holder, dict) and step in holder:
            holder = holder[step]
        else:
            raise CannotBeSealed(index, "data holds no object there to which the member could belong")
    if not isinstance(holder, dict):
        raise CannotBeSealed(index, "a path ends at a member of an object, not at an entry of a list or within a value")
    if name in holder:
        raise CannotBeSealed(index, "data holds this member; what is sealed is left out of data")
    return holder, name


def check_paths(paths: Sequence[str], values: Sequence[Any]) -> None:
    """CannotBeSealed for a path that lies within another, or seals a member that has to stay open."""
    for index, path in enumerate(paths):
        if not path.isascii():
            raise CannotBeSealed(index, "names of members are ASCII")
        if path in paths[:index] or any(path.startswith(other + "/") for other in paths):
            raise CannotBeSealed(index, "another path is the same, or holds this one; they stand beside one another")
        first, last = path.split("/")[1], path.rpartition("/")[2]
        names = {first, last, *(() if first == "terms" else _names(values[index]))}
        if stays_open := sorted(OPEN & names):
            raise CannotBeSealed(index, f"{', '.join(stays_open)} stays open; seal the members beside it one by one")


def _names(value: Any) -> Iterator[str]:
    """The names of all members within a value."""
    if isinstance(value, dict):
        yield from value
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(member)


def public_fact(event: type[EventData], data: JsonObject, paths: Sequence[str], values: Sequence[Any]) -> EventData:
    """The public data as their class. CannotBeSealed for a member without which the event cannot be read."""

    def read_without(left_out: Iterable[int]) -> EventData:
        laid = [index for index in range(len(paths)) if index not in left_out]
        whole = lay(data, [paths[index] for index in laid], [values[index] for index in laid])
        return _read(event.event_type, event.schema_version, whole)

    try:
        return read_without(range(len(paths)))
    except msgspec.ValidationError:
        for index, path in enumerate(paths):
            try:
                read_without([index])
            except msgspec.ValidationError:
                raise CannotBeSealed(index, f"{event.event_type} cannot be read without {path}, which has to stay open") from None
        raise CannotBeSealed(0, f"{event.event_type} cannot be read without what is sealed") from None


def _read(name: str, schema_version: int, data: JsonObject) -> EventData:
    return decode_body(name, schema_version, msgspec.json.encode({"data": data, "source": {}}))[0]


# The members of a recorded event


class _SealedBody(msgspec.Struct):
    data: JsonObject
    sealed: dict[str, str]
    sealed_until: dict[str, str] = {}


_decode_sealed = msgspec.json.Decoder(_SealedBody).decode


def read_sealed_members(fact: EventData, schema_version: int, body: bytes) -> SealedMembers:
    """What an event seals, by its stored body. msgspec.DecodeError when the body has no map."""
    known = _decode_sealed(body)
    return SealedMembers(fact=fact, schema_version=schema_version, data=known.data, digests=known.sealed, until=known.sealed_until)


def sealed_members(fact: EventData, data: JsonObject, digests: dict[str, str], until: dict[str, str]) -> SealedMembers:
    """What a new event seals."""
    return SealedMembers(fact=fact, schema_version=fact.schema_version, data=data, digests=digests, until=until)


def list_sealed(facts: Facts, event: RecordedEvent) -> None:
    """Show in the facts what an event seals, and what of it was revealed; one that was corrected says something else."""
    members = event.sealed
    if members is None or members.fact is not event.data:
        return
    facts.sealed += [
        Sealed(path=path, digest=digest, until=members.until.get(path), rests_on=[event.revision])
        for path, digest in sorted(members.digests.items())
    ]
    facts.revealed += [Revealed(path=path, rests_on=[event.revision, by]) for path, by in sorted(members.revealed.items())]


# Revealing


def check_reveal(reveal: Any, history: Sequence[RecordedEvent], standing: Collection[str], given: Mapping[str, str]) -> None:
    """Refuse a reveal of what is not sealed, or not any more, and a value with a salt that do not make the digest.

    `history` is what was recorded of the contract, the event that the reveal names among it, `standing` the ids of what of it is not
    voided; `given` are the digests of what the reveal states, by path.
    """
    # As recorded: a correction says something else in the event's place, and takes back neither what was sealed nor what was revealed.
    known = with_revealed(sorted(history, key=place_in_fold), keep=True)
    target = next(event for event in known if event.event_id == reveal.event_id)
    members = target.sealed
    for index, part in enumerate(reveal.parts):
        if part.path in [other.path for other in reveal.parts[:index]]:
            _refuse(index, "path", "this path stands twice")
        if members is not None and part.path in members.revealed:
            _refuse_rule(index, f"{part.path} of revision {target.revision} was revealed by revision {members.revealed[part.path]}")
        if members is None or part.path not in members.digests:
            _refuse_rule(index, f"revision {target.revision} seals nothing at {part.path}")
        if target.event_id not in standing:
            _refuse_rule(index, f"revision {target.revision} is voided: what it seals counts no more, and would be open for good")
        if given[part.path] != members.digests[part.path]:
            _refuse(index, "salt", "value and salt do not make the digest: one of the two is not what was sealed")


def _refuse(index: int, member: str, detail: str) -> NoReturn:
    pointer = f"/data/parts/{index}/{member}"
    raise Refused(f"{pointer}: {detail}.", (MemberFault(pointer, detail),))


def _refuse_rule(index: int, detail: str) -> NoReturn:
    refusal = NotAllowedNow("known-sealed", detail + ".")
    refusal.errors = (MemberFault(f"/data/parts/{index}/path", detail),)
    raise refusal


def with_revealed(events: Iterable[RecordedEvent], *, keep: bool = False) -> list[RecordedEvent]:
    """Events in the order of the fold, with what is revealed laid in place.

    A reveal whose event is among them has said what it says, and is left out unless it is to be kept; it comes before every day, so
    that a contract without any is known by its first event.
    """
    known = list(events)
    if not known or not known[0].data.dayless:
        return known
    places = {event.event_id: index for index, event in enumerate(known)}
    done = set()
    for index, event in enumerate(known):
        if not event.data.dayless:
            break
        reveal: Any = event.data
        if reveal.event_type == REVEALED and not reveal.is_erased and (at := places.get(reveal.event_id)) is not None:
            known[at] = _laid_open(known[at], reveal, event)
            done.add(index)
    return known if keep else [event for index, event in enumerate(known) if index not in done]


def _laid_open(target: RecordedEvent, reveal: Any, act: RecordedEvent) -> RecordedEvent:
    """The event with the values in place that `act` reveals. ValueError where they make no such event, which only a forged log holds."""
    members = target.sealed
    if members is None or members.fact is not target.data:
        return target
    opened = [part for part in reveal.parts if part.path in members.digests]
    data = lay(members.data, [part.path for part in opened], [part.value for part in opened])
    try:
        fact = _read(target.data.event_type, members.schema_version, data)
    except msgspec.ValidationError as error:
        raise ValueError(f"what is revealed of revision {target.revision} does not fit it") from error
    revealed = members.revealed | {part.path: act.revision for part in opened}
    digests = {path: digest for path, digest in members.digests.items() if path not in revealed}
    sealed = replace(members, fact=fact, data=data, digests=digests, revealed=revealed)
    return replace(target, data=fact, sealed=sealed, hypothetical=target.hypothetical or act.hypothetical)
