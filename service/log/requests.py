"""A request to append, and what it is answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.events import EventData
from service.log.header import (
    SealedPart,
)
from service.log.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A validated event that has no place in the log yet; `data` is what was sent, `fact` the same as its class."""

    fact: EventData
    effective_on: str | None
    data: dict[str, Any]
    source: dict[str, Any]
    evidence: list[Any] | None = None
    sealed: Sequence[SealedPart] = ()
    """What is left out of `data` and `fact`, which are what everyone sees."""
    correlation_id: str | None = None
    causation_id: str | None = None
    hypothetical: bool | None = None
    event_id: str | None = None
    """The id that an imported event had before; else it gets one when it is placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """A request to append events to one contract, all or none. `key` and `canonical` tell a retry from another request."""

    ledger: Ledger
    contract_id: str
    opening: bool
    events: Sequence[NewEvent]
    recorded_by: str
    key: bytes
    canonical: bytes
    expected_revision: int | None = None
    revision_required: bool = False
    """Whether it says no revision and its ledger requires one: then it is no more than a retry of what was recorded before that."""
    strict: bool = False
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to an append, as the bytes of its JSON; the same for every retry."""

    body: bytes
    contract_id: str
    revision: int
    replayed: bool = False
