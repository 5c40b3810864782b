"""The library `eventsourcing` on the same Postgres: contracts of ten events written by it, its own notification log read and decoded."""

import time
from collections.abc import Sequence
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from eventsourcing.application import Application, LocalNotificationLog
from eventsourcing.domain import Aggregate, event

from benchmarks.report import Advance

SCHEMA = "eventsourcing"
_SAVED_AT_ONCE = 100


class Agreement(Aggregate):
    """A contract as its guide would have it: what is recorded is kept in a list."""

    @event("Signed")
    def __init__(self, data: dict[str, object], source: dict[str, object]) -> None:
        self.recorded = [(data, source)]

    @event("Recorded")
    def record(self, data: dict[str, object], source: dict[str, object]) -> None:
        self.recorded.append((data, source))


Bodies = list[tuple[dict[str, object], dict[str, object]]]
"""Data and source of each event of a contract."""


def notification_rates(superuser_url: str, contracts: int, bodies: Bodies, sections: Sequence[int], advance: Advance) -> list[float]:
    """How many notifications are read and decoded in a second, in sections of so many; its own are of ten."""
    address = urlsplit(superuser_url)
    application = Application(
        {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": address.path.removeprefix("/"),
            "POSTGRES_HOST": parse_qs(address.query)["host"][0],
            "POSTGRES_PORT": "5432",
            "POSTGRES_USER": unquote(address.username or ""),
            "POSTGRES_PASSWORD": unquote(address.password or ""),
            "POSTGRES_SCHEMA": SCHEMA,
        }
    )
    with application:
        for first in range(0, contracts, _SAVED_AT_ONCE):
            application.save(*(_agreement(bodies) for _ in range(min(_SAVED_AT_ONCE, contracts - first))))
            advance(first * len(bodies))
        return [_rate(application, section) for section in sections]


def _rate(application: Application[UUID], size: int) -> float:
    log, began, read = LocalNotificationLog(application.recorder, section_size=size), time.monotonic(), 0
    while section := log.select(start=read, limit=size, inclusive_of_start=False):
        for notification in section:
            application.mapper.to_domain_event(notification)
        read = section[-1].id
    return read / (time.monotonic() - began)


def _agreement(bodies: Bodies) -> Agreement:
    made = Agreement(*bodies[0])
    for data, source in bodies[1:]:
        made.record(data, source)
    return made
