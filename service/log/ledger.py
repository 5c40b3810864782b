"""A ledger as requests know it, and its clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Ledger:
    """One book of contracts: its own log, positions, rights and time zone."""

    ledger_id: str
    name: str
    time_zone: str
    if_match_required: bool = False
    unique_reference_schemes: Sequence[str] = ()
    public_log: bool = False


@lru_cache(256)
def zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def instant(at: datetime) -> str:
    """An instant as headers and answers hold it: UTC, always six digits."""
    in_utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return in_utc.isoformat(timespec="microseconds")[:-6] + "Z"
