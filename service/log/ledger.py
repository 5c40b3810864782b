"""A ledger as requests know it, and its clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypedDict
from zoneinfo import ZoneInfo, available_timezones

_NO_PLACE: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Files that lie beside the zones: whatever this machine is set to, which elsewhere is another zone, and a placeholder."""


class Switches(TypedDict):
    """What the policy of a ledger switches, as members of Ledger."""

    if_match_required: bool
    public_log: bool
    strict: bool


@dataclass(frozen=True, slots=True)
class Ledger:
    """One book of contracts: its own log, positions, rights and time zone."""

    ledger_id: str
    name: str
    time_zone: str
    if_match_required: bool = False
    unique_reference_schemes: Sequence[str] = ()
    public_log: bool = False
    strict: bool = False
    """Whether it refuses what it would otherwise accept and flag."""


def is_time_zone(name: str) -> bool:
    """Whether the IANA database has a time zone of the name."""
    return name not in _NO_PLACE and name in available_timezones()


@lru_cache(256)
def zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def instant(at: datetime) -> str:
    """An instant as headers and answers hold it: UTC, always six digits."""
    in_utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[:-6] + "Z"
