"""A line of an import: read as strictly as a body, and validated by the class of its event type."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, cast
from uuid import UUID, uuid5

import msgspec

from service.api.envelope import read_event
from service.api.json_body import JsonFault, read_object
from service.domain.contract import EVENT_TYPES
from service.domain.events import newest
from service.errors import BodyTooLarge, LedgerError, Malformed, MemberFault, Refused
from service.log.header import canonical
from service.log.imports import Import
from service.log.lines import Line, line_digest, with_id
from service.log.requests import NewEvent

MAX_CONTRACT_KEY = 200
MOST_KEYS = 10_000
"""Keys of contracts whose ids are remembered."""
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NIL: Final = str(UUID(int=0))
_SALT = re.compile("[0-9a-f]{32}")
_OWN = frozenset(("contract", "event_type", "event_id", "schema_version"))


def read_line(of: Import, number: int, text: bytes, known: Mapping[int, bytes | None], most: int) -> Line:
    """A line to be recorded. Without `contract_id` it cannot be told whose it is; or, without a refusal, it was recorded before."""
    if len(text) > most:
        return Line(number, refusal=BodyTooLarge(f"A line has at most {most} bytes."))
    try:
        body = read_object(text)
    except JsonFault as error:
        fault = error.fault
        kind = Malformed if fault.malformed else Refused
        detail = fault.detail.replace("(line 1, ", "(")
        return Line(number, refusal=kind(f"{fault.pointer or 'The line'}: {detail}", (MemberFault(fault.pointer, detail),)))
    digest = line_digest(of.salt, canonical(body))
    if number in known and known[number] in (None, digest):
        return Line(number, digest)
    contract = body.get("contract")
    contract_id = _contract_id(of.import_id, contract) if isinstance(contract, str) else None
    if contract_id is None:
        fault_of = MemberFault("/contract", f"a contract_id, or a key of your own of at most {MAX_CONTRACT_KEY} characters, is required")
        return Line(number, digest, refusal=Refused(f"{fault_of.pointer}: {fault_of.detail}.", (fault_of,)))
    line = Line(number, digest, contract_id)
    try:
        line.new = _new_event(body)
    except LedgerError as refusal:
        line.refusal = refusal
    return line


@lru_cache(MOST_KEYS)
def _contract_id(import_id: str, contract: str) -> str | None:
    """The contract that a line names: by its id, or by a key that means a contract of this import."""
    # An id is one in upper case too, as in a path: taken for a key it would open another contract beside the one that is meant.
    named = contract.lower()
    if not 0 < len(contract) <= MAX_CONTRACT_KEY or named == _NIL:
        return None
    return named if _UUID.fullmatch(named) else str(uuid5(UUID(import_id), contract))


def _new_event(body: Mapping[str, Any]) -> NewEvent:
    """The event of a line. Refused with a pointer for each fault."""
    event_type, event_id = body.get("event_type"), body.get("event_id")
    known = EVENT_TYPES.get(event_type) if isinstance(event_type, str) else None
    if known is None:
        raise _fault("/event_type", f"there is no event type {str(event_type)[:60]}; there are {', '.join(sorted(EVENT_TYPES))}")
    if event_id is not None and not (isinstance(event_id, str) and _UUID.fullmatch(event_id)):
        raise _fault("/event_id", "it should be a lower-case hyphenated UUID")
    sent = {name: member for name, member in body.items() if name not in _OWN}
    version = body.get("schema_version", known.schema_version)
    if type(version) is not int or version != known.schema_version:
        sent["data"] = _as_of_newest(cast(str, event_type), version, sent.get("data"))
    new = _read_sealing(cast(str, event_type), sent) if "sealed" in sent else read_event(cast(str, event_type), sent)
    return new if event_id is None else with_id(new, event_id)


def _read_sealing(event_type: str, sent: dict[str, Any]) -> NewEvent:
    """The event of a line with sealed members; of those that were exported with their salts the digests stay the same."""
    members = sent["sealed"] if isinstance(sent["sealed"], list) else []
    salts = [_salt_of(index, member) if isinstance(member, dict) else None for index, member in enumerate(members)]
    bare = [{name: given for name, given in member.items() if name != "salt"} if isinstance(member, dict) else member for member in members]
    new = read_event(event_type, {**sent, "sealed": bare or sent["sealed"]})
    parts = [part if salt is None else msgspec.structs.replace(part, salt=salt) for part, salt in zip(new.sealed, salts, strict=True)]
    return replace(new, sealed=parts)


def _salt_of(index: int, member: Mapping[str, Any]) -> str | None:
    if "digest" in member:
        sentence = "this was exported without what is sealed; export it with sealed=true, which takes the right sealed:read"
        raise _fault(f"/sealed/{index}/digest", sentence)
    salt = member.get("salt")
    if salt is not None and not (isinstance(salt, str) and _SALT.fullmatch(salt)):
        raise _fault(f"/sealed/{index}/salt", "it should be 32 hexadecimal digits in lower case")
    return salt


def _as_of_newest(event_type: str, version: Any, data: Any) -> Any:
    """Data that were exported by an earlier version of their schema, as of the newest."""
    latest = EVENT_TYPES[event_type].schema_version
    if type(version) is not int or not 1 <= version < latest:
        raise _fault("/schema_version", f"this release knows {event_type} by versions 1 to {latest}")
    try:
        return newest(event_type, version, data)
    except msgspec.ValidationError as error:
        raise _fault("/data", str(error)) from None


def _fault(pointer: str, detail: str) -> Refused:
    return Refused(f"{pointer}: {detail}.", (MemberFault(pointer, detail),))
