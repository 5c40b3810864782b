"""The log's canonical bytes: what is hashed, and how.

Canonical JSON is RFC 8785 in a restricted profile (no floats, integers below 2^53, ASCII keys), in which sorted `orjson` gives the
same bytes. An event's hash is the RFC 6962 leaf of its header, and the link of its contract's chain. The body stands outside the
header, under its own salted digest, so that erasing it leaves every proof valid. See docs/log-format.md for a worked example.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

SCHEMA = "contract-ledger/header/v1"
MAX_HEADER_BYTES = 4_096
_SALT_BYTES = 16
NO_PREVIOUS = "0" * 64
LEAF = b"\x00"


class Heading(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """What the fold takes of a header."""

    event_type: str
    position: int
    schema_version: int
    effective_on: str | None = None
    hypothetical: bool | None = None
    sealed_digest: str | None = None


class Header(Heading, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """The header of an event. Members that do not apply are absent, never null."""

    body_digest: str
    contract_id: str
    event_id: str
    ledger_id: str
    prev: str
    recorded_at: str
    recorded_by: str
    revision: int
    schema: str
    causation_id: str | None = None
    correlation_id: str | None = None


decode_header = msgspec.json.Decoder(Header).decode
# Of a header that was checked already, in a third of the time.
decode_heading = msgspec.json.Decoder(Heading).decode
_encode_header = msgspec.json.Encoder(order="sorted").encode


class SealedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an event's data that only readers with the right may see; `path` is an RFC 6901 pointer into `data`."""

    path: str
    value: Any
    salt: str
    until: str | None = None
    """A day, told openly with the path; it stands in the body and is no part of the digest."""


def canonical(value: Any) -> bytes:
    """The canonical JSON (RFC 8785) of a value within the profile. TypeError for what JSON cannot hold."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def new_salts(count: int) -> list[bytes]:
    """So many times 16 random bytes, asked for at once: a system call each costs more than the hash that they go into."""
    drawn = secrets.token_bytes(_SALT_BYTES * count)
    return [drawn[first : first + _SALT_BYTES] for first in range(0, len(drawn), _SALT_BYTES)]


def header_bytes(members: Mapping[str, Any]) -> bytes:
    """The header's canonical bytes, without the members that are None. ValueError above MAX_HEADER_BYTES."""
    header = _encode_header(Header(**members))
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a header has at most {MAX_HEADER_BYTES} bytes, this one {len(header)}")
    return header


def event_hash(header: bytes) -> bytes:
    """SHA-256(0x00 || header): the leaf hash of RFC 6962, section 2.1."""
    return hashlib.sha256(LEAF + header).digest()


def body_bytes(data: Any, source: Any, evidence: Any | None, salt: str, sealed: Sequence["SealedPart"] = ()) -> bytes:
    """The body's canonical bytes: data, source and evidence as they were sent, the salt in lower-case hex, and the map of what is sealed.

    Without the salt, a round trillion could be guessed from its digest.
    """
    body = {"data": data, "salt": salt, "source": source}
    if evidence is not None:
        body["evidence"] = evidence
    if sealed:
        body["sealed"] = sealed_map(sealed)
        if until := {part.path: part.until for part in sealed if part.until}:
            body["sealed_until"] = until
    return canonical(body)


def body_digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def sealed_map(parts: Sequence[SealedPart]) -> dict[str, str]:
    """The digest of each sealed part by its path: SHA-256 of canonical [salt, path, value], in hex."""
    return {part.path: hashlib.sha256(canonical([part.salt, part.path, part.value])).hexdigest() for part in parts}


def sealed_digest(digests: Mapping[str, str]) -> str:
    """The digest of a sealed map, which goes into the header."""
    return hashlib.sha256(canonical(dict(digests))).hexdigest()


def sealed_bytes(parts: Sequence[SealedPart]) -> bytes:
    """The values and salts of an event's sealed parts, as they are stored: apart from its body, so that a body can be shown."""
    return canonical([{"path": part.path, "salt": part.salt, "value": part.value} for part in parts])


read_sealed = msgspec.json.Decoder(list[SealedPart]).decode


def read_sealed_map(stored: bytes) -> dict[str, str]:
    """The digest of each sealed part that is stored, by its path. ValueError, also as msgspec's, for bytes that `sealed_bytes` would not
    have made: what is beside a part, or a second one of its path, has no digest that covers it."""
    parts = read_sealed(stored)
    digests = sealed_map(parts)
    if len(digests) < len(parts):
        raise ValueError("one path is sealed twice")
    if sealed_bytes(parts) != stored:
        raise ValueError("it is not written as it is when it is recorded")
    return digests


def state_hash(effective_on: str, state: bytes) -> str:
    """SHA-256 of canonical {effective_on, state}, given the state's canonical bytes."""
    return hashlib.sha256(b'{"effective_on":"%s","state":%s}' % (effective_on.encode(), state)).hexdigest()
