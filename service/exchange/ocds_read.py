"""Open Contracting data as it comes: text read strictly, and the releases found in packages, records and lists.

Numbers are decimals as they are written, never binary floats. Whatever is no release that can be read is refused, with its place and why.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NoReturn

from service.errors import Refused

JsonObject = dict[str, Any]
MAX_OCDS_BYTES: Final = 67_108_864
MAX_OCDS_DEPTH: Final = 64
MAX_OCDS_RELEASES: Final = 2_000
MAX_OCDS_ENTRIES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is not recorded, and why: its place in the document (RFC 6901) and the release's id, as far as it has one."""

    place: str
    release_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """A release that can be read: `day` is that of its date, as its publisher's clock had it."""

    place: str
    ocid: str
    release_id: str
    instant: datetime
    day: str
    said: JsonObject
    publisher: str | None


class Unreadable(Exception):
    """Text that is no Open Contracting data; the sentence says why."""


def read(text: str | bytes) -> Any:
    """The JSON in a text. Unreadable for what is none, holds a member twice or a number that is none, or is too large or too deep."""
    if len(text) > MAX_OCDS_BYTES:
        raise Unreadable(f"it has more than {MAX_OCDS_BYTES:,} bytes")
    try:
        value = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number, object_pairs_hook=_without_twins)
    except UnicodeDecodeError:
        raise Unreadable("it is no text in UTF-8") from None
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except (ValueError, ArithmeticError) as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    _check_depth(value)
    return value


_TOO_DEEP = f"objects and arrays stand within one another more than {MAX_OCDS_DEPTH} deep"


def _no_number(word: str) -> NoReturn:
    raise Unreadable(f"{word} is no number")


def _without_twins(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise Unreadable(f"the member {twin[:60]!r} stands twice in an object")
    return members


def _check_depth(value: Any) -> None:
    layer, depth = [value], 0
    while layer := [inner for outer in layer for inner in _within(outer)]:
        depth += 1
        if depth > MAX_OCDS_DEPTH:
            raise Unreadable(_TOO_DEEP)


def _within(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def releases_in(document: Any) -> tuple[list[Release], list[Refusal]]:
    """The releases of a document, in the order of their dates, and what in it is none.

    A document is a release, a record, a package of either, or a list of releases. Of a record that only names its releases by address
    the compiled release is taken, which knows the latest of everything and no history.
    """
    publisher = _publisher(document)
    taken: dict[tuple[str, str], Release] = {}
    refusals: list[Refusal] = []
    try:
        candidates = list(_candidates(document))
    except Refused as refusal:
        return [], [Refusal("", None, refusal.detail)]
    for place, said in candidates:
        try:
            release = _release(place, said, publisher)
            _check_new(release, taken)
        except Refused as refusal:
            release_id = said.get("id") if isinstance(said, dict) else None
            refusals.append(Refusal(place, release_id if isinstance(release_id, str) else None, refusal.detail))
        else:
            taken[release.ocid, release.release_id] = release
    return sorted(taken.values(), key=lambda release: release.instant), refusals


def _check_new(release: Release, taken: Mapping[tuple[str, str], Release]) -> None:
    if (release.ocid, release.release_id) in taken:
        raise Refused("another release of the document has its id")
    if len(taken) >= MAX_OCDS_RELEASES:
        raise Refused(f"a document has at most {MAX_OCDS_RELEASES:,} releases")


def _publisher(document: Any) -> str | None:
    publisher = document.get("publisher") if isinstance(document, dict) else None
    name = publisher.get("name") if isinstance(publisher, dict) else None
    return name if isinstance(name, str) and name.strip() and len(name) <= 300 else None


def _candidates(document: Any) -> Iterator[tuple[str, Any]]:
    """Everything that should be a release, with its place."""
    if isinstance(document, list):
        yield from ((f"/{index}", said) for index, said in enumerate(document))
    elif not isinstance(document, dict):
        yield "", document
    elif "records" in document:
        for index, record in enumerate(entries(document, "records", "")):
            yield from _of_record(f"/records/{index}", record)
    elif "compiledRelease" in document:
        yield from _of_record("", document)
    elif "releases" in document:
        yield from ((f"/releases/{index}", said) for index, said in enumerate(entries(document, "releases", "")))
    else:
        yield "", document


def _of_record(place: str, record: Any) -> Iterator[tuple[str, Any]]:
    releases = record.get("releases") if isinstance(record, dict) else None
    if isinstance(releases, list) and any(isinstance(said, dict) and "ocid" in said for said in releases):
        yield from ((f"{place}/releases/{index}", said) for index, said in enumerate(releases))
    elif isinstance(record, dict) and "compiledRelease" in record:
        yield f"{place}/compiledRelease", record["compiledRelease"]
    else:
        yield place, record


def _release(place: str, said: Any, publisher: str | None) -> Release:
    if not isinstance(said, dict):
        raise Refused("it is no release, which would be an object")
    if "ocid" not in said and ("releases" in said or "records" in said):
        raise Refused("it is a package, where a release is expected")
    ocid, release_id = text_of(said, "ocid"), text_of(said, "id")
    instant = _instant(said.get("date"))
    return Release(place, ocid, release_id, instant, said["date"][:10], said, publisher)


def _instant(text: Any) -> datetime:
    day_of(text, "date")
    instant = datetime.fromisoformat(text)
    # A date without an offset counts as UTC, so that all can be put in order.
    return instant if instant.tzinfo else datetime.fromisoformat(f"{instant.isoformat()}+00:00")


def day_of(text: Any, member: str) -> str:
    """The day of a date-time (RFC 3339) as it is written. Refused for what is none."""
    if text is None:
        raise Refused(f"{member}: it has none")
    try:
        datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Refused(f"{member}: it is no date, such as 2024-01-26T09:30:00Z") from None
    if not "1000" <= text[:4] <= "2999" or text[4:5] != "-" or text[7:8] != "-":
        raise Refused(f"{member}: it is no date from 1000 to 2999, such as 2024-01-26T09:30:00Z")
    return str(text[:10])


def text_of(said: JsonObject, member: str, place: str = "") -> str:
    """A member that is an id: text of at most 300 characters, or a whole number. Refused for what is none."""
    known = said.get(member)
    if isinstance(known, Decimal) and known == known.to_integral_value() and known.adjusted() < 30:
        known = format(known.to_integral_value(), "f")
    if known is None:
        raise Refused(f"{place}{member}: it has none")
    if not isinstance(known, str) or not known.strip() or len(known) > 300 or not known.isprintable():
        raise Refused(f"{place}{member}: it is no text of at most 300 characters")
    return known


def entries(said: JsonObject, member: str, place: str) -> list[Any]:
    """A member that is a list; none where it is absent or null. Refused for what is no list."""
    known = said.get(member)
    if known is None:
        return []
    if not isinstance(known, list):
        raise Refused(f"{place}{member}: it should be a list")
    return known


def objects(said: JsonObject, member: str, place: str) -> list[JsonObject]:
    """A member that is a list of objects, with ids that differ."""
    known = entries(said, member, place)
    if len(known) > MAX_OCDS_ENTRIES:
        raise Refused(f"{place}{member}: it has more than {MAX_OCDS_ENTRIES:,} entries")
    seen: set[str] = set()
    for index, entry in enumerate(known):
        if not isinstance(entry, dict):
            raise Refused(f"{place}{member}/{index}: it should be an object")
        entry_id = text_of(entry, "id", f"{place}{member}/{index}/") if entry.get("id") is not None else None
        if entry_id in seen:
            raise Refused(f"{place}{member}/{index}/id: {entry_id} stands twice")
        if entry_id is not None:
            seen.add(entry_id)
    return known


def member_of(said: JsonObject, name: str, place: str = "") -> JsonObject:
    """A member that is an object; an empty one where it is absent or null. Refused for what is no object."""
    known = said.get(name)
    if known is None:
        return {}
    if not isinstance(known, dict):
        raise Refused(f"{place}{name}: it should be an object")
    return known


def merged(stood: Any, said: Any) -> Any:
    """What is known after a release, as the standard merges them: members over members, entries of a list by id, null takes away."""
    if isinstance(said, dict):
        known = dict(stood) if isinstance(stood, dict) else {}
        for name, member in said.items():
            if member is None:
                known.pop(name, None)
            else:
                known[name] = merged(known.get(name), member)
        return known
    if isinstance(said, list) and said and all(isinstance(entry, dict) and entry.get("id") is not None for entry in said):
        before = stood if isinstance(stood, list) else []
        found = {str(entry["id"]): entry for entry in before if isinstance(entry, dict) and "id" in entry}
        for entry in said:
            found[str(entry["id"])] = merged(found.get(str(entry["id"])), entry)
        return list(found.values())
    return said
