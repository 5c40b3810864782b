"""What is wrong with a member, in words for whoever sent it.

pydantic finds the faults; its own words speak of types and regular expressions to programmers of Python, and are told to nobody.
"""

from collections.abc import Sequence
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from service.errors import MemberFault, Refused

MAX_FAULTS = 100
MAX_LABEL: Final = 128
"""Longest member name put into a pointer, so that a refusal does not send a large body back."""

_STRING_HINT: Final = ' (send decimals and dates as strings, such as "1000000000000")'
_OTHERWISE: Final = "it is not what this member may be"

_SENTENCES: Final = {
    "missing": "this member is required",
    "missing_argument": "this member is required",
    "unexpected_keyword_argument": "there is no such member",
    "extra_forbidden": "there is no such parameter",
    "dataclass_type": "it should be an object",
    "dict_type": "it should be an object",
    "list_type": "it should be an array",
    "too_short": "it should have at least {min_length} entries",
    "too_long": "it should have at most {max_length} entries",
    "string_type": "it should be a string",
    "string_unicode": "it should be text in UTF-8",
    "string_too_short": "it should have at least {min_length} characters",
    "string_too_long": "it should have at most {max_length} characters",
    "string_pattern_mismatch": "it should be {spelling}",
    "bool_type": "it should be true or false",
    "int_type": "it should be a whole number",
    "int_parsing": "it should be a whole number",
    "int_parsing_size": "it should be a whole number of fewer digits",
    "int_from_float": "it should be a whole number",
    "greater_than_equal": "it should be {ge} or more",
    "less_than_equal": "it should be {le} or less",
    "literal_error": "it should be {choices}",
    "date_from_datetime_parsing": "there is no such day in the calendar",
    "date_parsing": "there is no such day in the calendar",
    "datetime_parsing": "there is no such instant",
    "datetime_from_date_parsing": "there is no such instant",
    "timezone_aware": "it should name its offset from UTC, such as Z",
}
"""By pydantic's type of a fault."""

_SPELLINGS: Final = {
    r"^[12][0-9]{3}(-Q[1-4]|-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?$": (
        "a year, quarter, month or day from 1000 to 2999: 2023, 2023-Q2, 2023-06 or 2023-06-15"
    ),
    r"^P([0-9]{1,3}Y)?([0-9]{1,4}M)?([0-9]{1,4}W)?([0-9]{1,5}D)?$": "a duration in years, months, weeks and days, such as P4Y or P18M",
    r"^(0|[1-9][0-9]{0,27})(\.[0-9]{1,12})?$": (
        "a decimal number that is not negative, with at most 28 digits before the point and 12 after it, such as 1000000000000 or 12.50"
    ),
    r"\S": "text that is not blank",
    r"^[A-Z]{3}$": "three capital letters, such as KRW or FOB",
    r"^([A-Z0-9]{2,3}|x-[a-z0-9-]{1,30})$": "a unit of UN/ECE Recommendation 20, such as EA or KWH, or one of your own, such as x-truck",
    r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$": (
        "a language of RFC 5646, perhaps with its script and region, such as ko, ja-Latn or pt-BR"
    ),
    r"^[\s\S]+:[\s\S]+$": "a reference, as scheme:id, such as DART:20240126800001",
    r"^(19|20)[0-9]{2}$": "a year from 1900 to 2099",
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$": (
        "an instant of RFC 3339, such as 2026-11-22T09:30:00Z"
    ),
    r"^[0-9a-f]{64}$": "64 hexadecimal digits in lower case",
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$": (
        "a UUID in lower case, such as 01890000-0000-7000-8000-0000000000ff"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$": (
        "an id of at most 100 letters, digits and the characters . _ : / - that begins with a letter or a digit, such as krw-1"
    ),
    r"^[a-z][a-z0-9_-]{0,59}$": (
        "a word of at most 60 lower-case letters, digits, hyphens and underscores that begins with a letter, such as supplier"
    ),
    r"^https?://[^\s]+$": "an address that begins with https:// or http:// and holds no space",
    r"^(/([^~/]|~[01])*)+$": "a JSON pointer (RFC 6901), such as /figures/0/amount",
    r"^[a-z0-9.+-]+/[a-z0-9.+-]+$": "a media type in lower case, such as application/pdf",
    r"^[0-9a-f]{32}$": "32 hexadecimal digits in lower case",
    r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$": "a UUID, such as 01890000-0000-7000-8000-0000000000ff",
    r"^[^\s\x00-\x1f]([^\x00-\x1f]{0,58}[^\s\x00-\x1f])?$": (
        "a label of at most 60 characters that neither begins nor ends with a space, nor holds a control character"
    ),
}
"""By the regular expression that a string should match."""


_PYDANTICS: Final = frozenset(get_args(ErrorType))


def sentence(fault: ErrorDetails) -> str:
    """What is wrong, to be read behind the member's name. A fault that the domain found itself has its words already."""
    kind, said = fault["type"], fault.get("ctx") or {}
    if kind == "string_type" and isinstance(fault["input"], int | float):
        return _SENTENCES[kind] + _STRING_HINT
    if said.get("min_length") == 1:
        return "it should not be empty"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format_map(said | _words(said))
    return _OTHERWISE if kind in _PYDANTICS else fault["msg"]


def _words(said: dict[str, Any]) -> dict[str, str]:
    """What a sentence says of a bound, a pattern or a choice."""
    return {
        "spelling": _SPELLINGS.get(str(said.get("pattern")), "spelt in another way"),
        "choices": str(said.get("expected")).replace("'", '"'),
    }


def refusal(error: ValidationError, prefix: str = "") -> Refused:
    """The refusal of a body that a validator found faults in: the first in a sentence, and as many as are told by their pointers."""
    count = error.error_count()
    faults = tuple(fault_of(found, prefix) for found in error.errors(include_url=False)[:MAX_FAULTS])
    first = faults[0]
    more = "" if count == 1 else f" ({len(faults) - 1} more in errors{'' if count == len(faults) else f', of {count - 1}'})"
    return Refused(f"{first.pointer or 'The body'}: {first.detail}{more}.", faults)


def fault_of(error: ErrorDetails, prefix: str) -> MemberFault:
    """A fault by its pointer into the body, in a sentence."""
    place = error["loc"]
    if place and len(str(place[-1])) > MAX_LABEL:
        # Whatever its fault, the client chose that name: it is not sent back.
        return MemberFault(prefix + _pointer(place[:-1]), f"there is no member whose name has more than {MAX_LABEL} characters")
    member = (error.get("ctx") or {}).get("member")
    return MemberFault(prefix + _pointer(place) + (f"/{member}" if member else ""), sentence(error))


def _pointer(place: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)
