"""The body of an append: the envelope that every event travels in, read strictly and validated by the class of its data."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from service.api.json_body import JsonFault, read_object
from service.domain.dates import BusinessDate
from service.domain.events import EVENT_TYPES, STRICT, EventData, Evidence, Source, Uuid
from service.domain.faults import refusal
from service.errors import BodyTooLarge, Malformed, MemberFault, Refused, UnsupportedMediaType
from service.log.decide import NewEvent

MAX_EVENTS = 100


def _only_true(value: object) -> object:
    if value is not True:
        raise PydanticCustomError("mark", "it should be true, or left out")
    return value


# A Literal alone takes 1 for True, and what is sent is what is stored.
Mark = Annotated[Literal[True], BeforeValidator(_only_true)]
EvidenceList = Annotated[list[Evidence], Field(min_length=1, max_length=20)]


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
            # Not one field() for all four: it would take the name of the last, and the others would be unknown.
            ("evidence", EvidenceList | None, None),
            ("correlation_id", Uuid | None, None),
            ("causation_id", Uuid | None, None),
            ("hypothetical", Mark | None, None),
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
    try:
        envelope = _validator(event_type)(body)
    except ValidationError as error:
        raise refusal(error, prefix) from None
    return _new_event(envelope.data, body)


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
