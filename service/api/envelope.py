"""The body of an append: the envelope that every event travels in, read strictly and validated by the class of its data."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from service.api.json_body import JsonFault, read_object
from service.domain.contract import EVENT_TYPES
from service.domain.dates import BusinessDate
from service.domain.events import STRICT, EventData, Evidence, Path, Source, Uuid
from service.domain.faults import MAX_FAULTS, fault_of, refusal
from service.domain.sealing import MAX_SEALED, MAX_SEALED_BYTES, NEVER_SEALED, CannotBeSealed, check_paths, lay, public_fact
from service.errors import BodyTooLarge, Malformed, MemberFault, Refused, UnsupportedMediaType
from service.log.header import SealedPart, canonical, new_salts
from service.log.requests import NewEvent

MAX_EVENTS = 100


def _only_true(value: object) -> object:
    if value is not True:
        raise PydanticCustomError("mark", "it should be true, or left out")
    return value


# A Literal alone takes 1 for True, and what is sent is what is stored.
Mark = Annotated[Literal[True], BeforeValidator(_only_true)]
EvidenceList = Annotated[list[Evidence], Field(min_length=1, max_length=20)]


def _is_ascii(path: str) -> str:
    if not path.isascii():
        raise PydanticCustomError("ascii", "names of members are ASCII")
    return path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SealedItem:
    """A member of `data` that only readers with the right may see: it stands here, by an RFC 6901 pointer into `data`, and not there.

    A day in `until` is told openly; when it has passed without a reveal, that is flagged.
    """

    __pydantic_config__ = STRICT

    path: Annotated[Path, AfterValidator(_is_ascii)]
    value: Annotated[Any, Field(description="What would stand at the path in `data`.")]
    until: BusinessDate | None = None


SealedList = Annotated[list[SealedItem], Field(min_length=1, max_length=MAX_SEALED)]
_validate_sealed = TypeAdapter(SealedList).validator.validate_python


@cache
def request_class(event_type: str) -> type:
    """The class of a request that appends one event of a type: the envelope, and its data."""
    data = EVENT_TYPES[event_type]
    more = [] if data.dayless else [("effective_on", BusinessDate)]
    return _envelope(f"{data.__name__}Request", data, f"{data.summary} Sent to the path of `{event_type}`.", *more)


def _envelope(name: str, data: type, doc: str, *more: tuple[str, Any] | tuple[str, Any, Any]) -> type:
    made = dataclasses.make_dataclass(
        name,
        [
            *more,
            ("source", Source),
            ("data", data),
            # Not one field() for all: it would take the name of the last, and the others would be unknown.
            ("evidence", EvidenceList | None, None),
            ("correlation_id", Uuid | None, None),
            ("causation_id", Uuid | None, None),
            ("hypothetical", Mark | None, None),
            ("sealed", SealedList | None, None),
        ],
        frozen=True,
        slots=True,
        kw_only=True,
    )
    made.__doc__ = doc
    made.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return made


EventItem = _envelope(
    "NewEventItem",
    dict[str, Any],
    "An event among several: its type, and its data as the schema of that type says.",
    ("event_type", Annotated[str, Field(max_length=60, examples=["figure.stated"])]),
    ("effective_on", BusinessDate | None, None),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordEventsRequest:
    """One to a hundred events of one contract, recorded together or not at all."""

    __pydantic_config__ = STRICT

    events: Annotated[list[EventItem], Field(min_length=1, max_length=MAX_EVENTS)]  # type: ignore[valid-type]


@cache
def _validator(event_type: str) -> Any:
    return TypeAdapter(request_class(event_type)).validator.validate_python


_validate_events = TypeAdapter(RecordEventsRequest).validator.validate_python


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent. Malformed or Refused, with a pointer, for what is no strict JSON object."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("Send the body as Content-Type: application/json.")
    try:
        return read_object(await _read_bytes(request))
    except JsonFault as error:
        if "content-encoding" in request.headers:
            raise UnsupportedMediaType("Send the body as it is, without Content-Encoding.") from None
        fault = error.fault
        kind = Malformed if fault.malformed else Refused
        raise kind(f"{fault.pointer or 'The body'}: {fault.detail}", (MemberFault(fault.pointer, fault.detail),)) from None
    except ClientDisconnect:
        raise Malformed("The client went away before the body was complete.") from None


async def _read_bytes(request: Request) -> bytes:
    """The body. BodyTooLarge above the limit in the settings; the framework's own limit would answer that in plain text."""
    limit: int = request.app.state.settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        if int(declared) > limit:
            raise _too_large(limit)
        return await request.body()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"A body has at most {limit} bytes; append in several requests.")


def read_event(event_type: str, body: dict[str, Any], prefix: str = "") -> NewEvent:
    """A request for one event. Refused with a pointer for each fault."""
    if "sealed" in body:
        return _read_sealing(event_type, body, prefix)
    try:
        envelope = _validator(event_type)(body)
    except ValidationError as error:
        raise refusal(error, prefix) from None
    return _new_event(envelope.data, body)


def _read_sealing(event_type: str, body: dict[str, Any], prefix: str) -> NewEvent:
    """A request for an event with sealed members: all together have to be valid, what is public has to be readable by itself."""
    if event_type in NEVER_SEALED:
        raise _fault(f"{prefix}/sealed", f"nothing of {event_type} can be sealed")
    try:
        _validate_sealed(body["sealed"])
    except ValidationError as error:
        raise refusal(error, f"{prefix}/sealed") from None
    sent: list[dict[str, Any]] = body["sealed"]
    paths, values = [item["path"] for item in sent], [item["value"] for item in sent]
    if len(canonical(values)) > MAX_SEALED_BYTES:
        raise _fault(f"{prefix}/sealed", f"sealed values have at most {MAX_SEALED_BYTES} bytes together")
    whole = body
    try:
        if isinstance(body.get("data"), dict):
            check_paths(paths, values)
            whole = {**body, "data": lay(body["data"], paths, values)}
        _validator(event_type)(whole)
        fact = public_fact(EVENT_TYPES[event_type], body["data"], paths, values)
    except CannotBeSealed as error:
        raise _fault(f"{prefix}/sealed/{error.index}/path", str(error)) from None
    except ValidationError as error:
        raise _refused_sealed(error, paths, prefix) from None
    salts = new_salts(len(sent))
    parts = [
        SealedPart(path=item["path"], value=item["value"], salt=salt.hex(), until=item.get("until"))
        for item, salt in zip(sent, salts, strict=True)
    ]
    return dataclasses.replace(_new_event(fact, body), sealed=parts)


def _fault(pointer: str, detail: str) -> Refused:
    return Refused(f"{pointer}: {detail}.", (MemberFault(pointer, detail),))


def _refused_sealed(error: ValidationError, paths: Sequence[str], prefix: str) -> Refused:
    """Faults where they were sent: what lies in a sealed value is told by the name of the rule alone, since a text may quote the value.

    So is what lies above one, where two members do not fit together.
    """
    told: list[MemberFault] = []
    for found in error.errors(include_url=False)[:MAX_FAULTS]:
        fault = fault_of(found, "")
        at = fault.pointer.removeprefix("/data")
        index = next((i for i, path in enumerate(paths) if f"{at}/".startswith(f"{path}/") or f"{path}/".startswith(f"{at}/")), None)
        if index is None or not at or not fault.pointer.startswith("/data/"):
            told.append(MemberFault(prefix + fault.pointer, fault.detail))
        else:
            inner = at[len(paths[index]) :] if len(at) > len(paths[index]) else ""
            told.append(MemberFault(f"{prefix}/sealed/{index}/value{inner}", f"what is sealed breaks the rule {found['type']}"))
    return Refused(f"{told[0].pointer}: {told[0].detail}.", tuple(told))


def read_events(body: dict[str, Any]) -> list[NewEvent]:
    """A request for several events. Refused with a pointer for each fault of the first item that has any."""
    try:
        _validate_events(body)
    except ValidationError as error:
        raise refusal(error) from None
    return [_read_item(item, f"/events/{index}") for index, item in enumerate(body["events"])]


def _read_item(item: Mapping[str, Any], prefix: str) -> NewEvent:
    event_type = item["event_type"]
    if event_type not in EVENT_TYPES:
        fault = MemberFault(f"{prefix}/event_type", f"there is no event type {event_type}; there are {', '.join(sorted(EVENT_TYPES))}")
        raise Refused(f"{fault.pointer}: {fault.detail}.", (fault,))
    return read_event(event_type, {name: member for name, member in item.items() if name != "event_type"}, prefix)


def _new_event(fact: EventData, body: dict[str, Any]) -> NewEvent:
    return NewEvent(
        fact=fact,
        effective_on=body.get("effective_on"),
        data=body["data"],
        source=body["source"],
        evidence=body.get("evidence"),
        correlation_id=body.get("correlation_id"),
        causation_id=body.get("causation_id"),
        hypothetical=body.get("hypothetical"),
    )
