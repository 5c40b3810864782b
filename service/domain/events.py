"""What an event is: the envelope every event carries, and the registry of event types.

A subject module declares a type with `@event_type("value.revised")` on a class of the event's data; routes, schemas, OpenAPI and
docs follow from the class. Stored bodies are decoded here, and nowhere else, so this is where those of earlier versions are brought to
the newest, by the upcasts that a type is registered with.
"""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache, lru_cache
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec
from pydantic import ConfigDict, Field, StringConstraints, WithJsonSchema

from service.domain.dates import BusinessDate, first_day, last_day
from service.domain.parts import JsonObject
from service.domain.state import Anomaly, Contract
from service.errors import NotAllowedNow

MAX_TEXT = 5_000
MAX_NAME = 300
MAX_PARTS = 200

Id = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$",
        title="LocalId",
        description="An id chosen by the client, unique in its contract: letters, digits and `._:/-`, at most 100.",
        examples=["krw-1"],
    ),
]
NOT_BLANK = r"\S"
"""What words are refused without; no part of the schemas, which were published before it was asked for."""
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_NAME, pattern=NOT_BLANK),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME}),
]
Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=NOT_BLANK),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_TEXT}),
]
Language = Annotated[
    str,
    Field(
        pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$",
        title="LanguageTag",
        description="A language by RFC 5646, in the spelling it recommends: the language, perhaps its script and region. `ko`, `ja-Latn`.",
        examples=["ko"],
    ),
]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,59}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$", max_length=2_000)]
Path = Annotated[str, StringConstraints(pattern=r"^(/([^~/]|~[01])*)+$", max_length=300)]
Uuid = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        title="Uuid",
        description="A lower-case hyphenated UUID.",
        json_schema_extra={"format": "uuid"},
    ),
]
STRICT = ConfigDict(extra="forbid")
SEALABLE: Final = "may be sealed"
"""Marks a member that a request must state and may seal: the fold does without it. What may be absent anyway needs no mark."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """On whose word: a party to the contract, a filing, the news, or a system; `published_on` is the day the world learned of it."""

    __pydantic_config__ = STRICT

    kind: Literal["party", "filing", "news", "system"]
    name: Name | None = None
    attributed_to: Name | None = None
    via: Name | None = None
    url: Url | None = None
    published_on: BusinessDate | None = None
    external_id: Name | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A document that bears the fact out; the ledger keeps its digest, never the document."""

    __pydantic_config__ = STRICT

    name: Name
    media_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+$", max_length=100)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    url: Url | None = None


class EventData:
    """The data of one event type, with its rules and its fold.

    `check_whole` judges by the whole contract as known (unique ids, known targets); `check_place` and `check_day` by the contract at the
    event's own place in time; they raise NotAllowedNow. `apply` folds the event in, and is total: it never fails.
    """

    __slots__ = ()
    event_type: ClassVar[str]
    schema_version: ClassVar[int]
    opens: ClassVar[bool] = False
    dayless: ClassVar[bool] = False
    """Whether the event has no effective day of its own: it is sent without `effective_on`, and holds on every day."""
    acts: ClassVar[Literal["corrects", "voids"] | None] = None
    """What the event does to another one of its contract, before anything is folded (`domain.corrections`)."""
    judged_by_day: ClassVar[bool] = False
    """Whether `check_day` has something to say."""
    folds_unfit: ClassVar[bool] = True
    """Whether the event is folded also where `check_place` or `check_day` would not allow it any more, after what was recorded later."""
    summary: ClassVar[str]
    rewrites: ClassVar[bool] = False
    """Whether the event changes what another one says, so that the contract is folded afresh."""
    extra_right: ClassVar[str | None] = None
    """The right that recording it takes beside that of writing."""
    is_erased: ClassVar[bool] = False
    """Whether this is what stands where the data of an erased event stood (`domain.erasure`)."""

    def check_whole(self, whole: Contract) -> None:
        """By default nothing of the whole contract forbids the event."""

    def check_place(self, at: Contract) -> None:
        """By default nothing at its place in time forbids the event."""

    def check_day(self, at: Contract, effective_on: str) -> None:
        """By default the day of effect forbids nothing, besides what its place in time does."""

    def allowed_after_end(self) -> bool:
        return False

    def is_placed(self, at: Contract) -> bool:  # noqa: ARG002 - for the types that refer to something
        """Whether what the event refers to is there; if not, it is kept under `unplaced`."""
        return True

    def figure_ids(self) -> tuple[str, ...]:
        """Ids of figures that the event introduces, for a type that is kept under `unplaced` as a whole."""
        return ()

    def delivery_ids(self) -> tuple[str, ...]:
        """Ids of deliveries that the event introduces; too many for the state, so unique by an index."""
        return ()

    def known_delivery_ids(self) -> tuple[str, ...]:
        """Ids of deliveries that the event refers to."""
        return ()

    def reference_ids(self) -> tuple[tuple[str, str], ...]:
        """The references (scheme, id) that the event states for its contract, in place of those before."""
        return ()

    def event_ids(self) -> tuple[str, ...]:
        """Ids of events that the event refers to; they must be of the same contract."""
        return ()

    def anomaly_id(self) -> str | None:
        """The anomaly that the event refers to; it must stand."""
        return None

    def adds_to(self, whole: Contract) -> Anomaly | None:  # noqa: ARG002 - for the types that add to something
        """An anomaly of the whole contract that the event adds to without raising another, such as a total that is too large already."""
        return None

    def apply(self, contract: Contract, event: "RecordedEvent") -> None:
        """Fold the event in."""
        raise NotImplementedError


class SealedMembers(msgspec.Struct, frozen=True, kw_only=True):
    """What of an event's data is sealed: digests by path, the days until which, and by path the revisions that revealed what was.

    `fact` is the data that this is about, as its class, and `data` the same as JSON: an event that was corrected says something else.
    """

    fact: EventData
    schema_version: int
    data: JsonObject
    digests: dict[str, str]
    until: dict[str, str]
    revealed: dict[str, int] = {}


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that has its place in the log, as the fold reads it. `day` is the first that `effective_on` may mean.

    What is dayless comes before every day. `corrected_by` is the revision of the correction that `data`, `source` and `effective_on`
    are of; None while the event stands as it was recorded.
    """

    event_id: str
    position: int
    revision: int
    recorded_on: date
    effective_on: str
    day: date
    data: EventData
    source: JsonObject
    hypothetical: bool = False
    schema_version: int = 1
    corrected_by: int | None = None
    sealed: SealedMembers | None = None

    @property
    def published_by(self) -> date:
        """The day from which it counts as published: the last day of `published_on`, else the day it was recorded.

        Of what is erased nobody can say any more, so that counts always.
        """
        if self.data.is_erased:
            return date.min
        published_on = self.source.get("published_on")
        return last_day(published_on) if published_on else self.recorded_on


place_in_fold = attrgetter("day", "revision")
"""An event's place in the fold: by the day of effect, then as recorded."""
_Class = TypeVar("_Class", bound=type[EventData])
Upcast = Callable[[JsonObject], JsonObject]
"""Data of one version as that of the next; what it gets is not to be changed, since it may be shown as stored."""
EVENT_TYPES: dict[str, type[EventData]] = {}
UPCASTS: dict[str, tuple[Upcast, ...]] = {}
"""By type, what brings version 1 to 2, 2 to 3, and so on to the version of the class."""


def more_members(data: JsonObject) -> JsonObject:
    """The upcast to a version that only knows more members, none of them required: data of the one before are data of it as they stand."""
    return data


@dataclass_transform(frozen_default=True, kw_only_default=True)
def event_type(name: str, *upcasts: Upcast) -> Callable[[_Class], _Class]:
    """Register a class of event data under its type: the class becomes a frozen, slotted, keyword-only dataclass.

    Its version is the one after those that `upcasts` start from, in their order: without any it is the first.
    """

    def register(cls: _Class) -> _Class:
        made: Any = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
        made.event_type, made.schema_version = name, len(upcasts) + 1
        made.summary = (cls.__doc__ or name).strip().splitlines()[0]
        made.__pydantic_config__ = STRICT
        EVENT_TYPES[name], UPCASTS[name] = made, upcasts
        return made  # type: ignore[no-any-return]

    return register


def decode_body(event_type: str, schema_version: int, body: bytes) -> tuple[EventData, JsonObject]:
    """The data, as of the newest version, and the source of stored body bytes. KeyError for a type or version this release does not
    know, msgspec's DecodeError for what is not its body."""
    known = _body_decoder(event_type, schema_version)(body)
    return known.data, known.source


def decode_data(event_type: str, schema_version: int, data: JsonObject) -> EventData:
    """The data of an event, given as JSON that was decoded already. KeyError as for `decode_body`."""
    known: EventData = msgspec.convert(newest(event_type, schema_version, data), _stored_form(_class_of(event_type, schema_version)))
    return known


@lru_cache(16_384)
def first_day_of(event_type: str, effective_on: str | None) -> date:
    """The day on which an event takes effect, before every day for one without any. ValueError when one that has a day lacks it."""
    known = EVENT_TYPES.get(event_type)
    # A label was sent with a day once, which said nothing.
    return date.min if known is not None and known.dayless else first_day(effective_on or "")


@cache
def _body_decoder(event_type: str, schema_version: int) -> Callable[[bytes], Any]:
    cls = _class_of(event_type, schema_version)
    body = msgspec.defstruct("Body", [("data", _stored_form(cls)), ("source", JsonObject)])
    if all(upcast is more_members for upcast in UPCASTS[event_type][schema_version - 1 :]):
        return msgspec.json.Decoder(body).decode
    stored = msgspec.json.Decoder(_StoredBody)

    def decode(text: bytes) -> Any:
        known = stored.decode(text)
        return msgspec.convert({"data": newest(event_type, schema_version, known.data), "source": known.source}, body)

    return decode


def _class_of(event_type: str, schema_version: int) -> Any:
    cls = EVENT_TYPES[event_type]
    if not 1 <= schema_version <= cls.schema_version:
        raise KeyError(f"{event_type} has no version {schema_version}")
    return cls


class _StoredBody(msgspec.Struct):
    """A body of any type and version."""

    data: JsonObject
    source: JsonObject


def newest(event_type: str, schema_version: int, data: JsonObject) -> JsonObject:
    """Data of a version as that of the newest. msgspec.ValidationError where they are no data of that version."""
    try:
        for upcast in UPCASTS[event_type][schema_version - 1 :]:
            data = upcast(data)
    except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise msgspec.ValidationError(f"no data of version {schema_version}: {error}") from None
    return data


@cache
def _stored_form(cls: Any) -> Any:
    """A dataclass of event data as a struct of the same members and methods, which is read several times as fast (decision 0012)."""
    hints, known = get_type_hints(cls), vars(cls)["__dataclass_fields__"]
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if SEALABLE in getattr(hint, "__metadata__", ()):
            hints[name] = hints[name] | None
    members: list[Any] = [
        (name, _stored_type(hints[name]), _stored_member(name, member)) for name, member in known.items() if name in cls.__slots__
    ]
    rest = {name: member for name, member in vars(cls).items() if name not in known and not name.startswith("__")}
    bases = tuple(base for base in cls.__bases__ if base is not object)
    namespace = rest | {"event_type": getattr(cls, "event_type", None), "__dataclass_fields__": known}
    return msgspec.defstruct(
        cls.__name__, members, bases=(*bases, msgspec.Struct), namespace=namespace, frozen=True, kw_only=True, gc=False
    )


def _stored_member(name: str, member: "dataclasses.Field[Any]") -> Any:
    """A member as stored: one whose name is a word of Python has an underscore after it in its class (`from_`)."""
    default = msgspec.NODEFAULT if member.default is dataclasses.MISSING else member.default
    if SEALABLE in getattr(member.type, "__metadata__", ()):
        default = None
    return msgspec.field(name=name.rstrip("_"), default=default)


def _stored_type(hint: Any) -> Any:
    if hasattr(hint, "__dataclass_fields__"):
        return _stored_form(hint)
    origin, parts = get_origin(hint), tuple(map(_stored_type, get_args(hint)))
    if origin is None or origin is Literal:
        return hint
    return Union[parts] if origin in (Union, UnionType) else origin[parts]  # noqa: UP007 - made, not written


def check_room(entries: Sequence[Any], what: str, more: int = 1) -> None:
    """Refuse what would make a list of the state longer than MAX_PARTS."""
    if len(entries) + more > MAX_PARTS:
        raise NotAllowedNow("parts-limit", f"A contract holds at most {MAX_PARTS} {what}.")


def stated(value: Any) -> Any:
    """A dataclass of the domain as JSON, without the members that were not stated."""
    if isinstance(value, (str, int, float, dict)) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [stated(element) for element in value]
    members = ((name, getattr(value, name)) for name in value.__dataclass_fields__)
    return {name: stated(member) for name, member in members if member is not None}
