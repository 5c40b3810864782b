"""References that a contract holds: those in a scheme that its ledger declares unique are no other contract's.

What a contract holds follows from its events alone, whatever day it is: what its references are today, and on every later day that
is known of. A reference is free again when another statement replaces it that was in effect when it was recorded, or when the event that
stated it is voided or corrected. A replacement recorded ahead of its day frees nothing, since until then the reference stands.
"""

from collections.abc import Iterable

from service.domain.corrections import resolve
from service.domain.events import RecordedEvent, place_in_fold

ReferenceId = tuple[str, str]
"""A scheme, and an id in it."""


def held_references(events: Iterable[RecordedEvent]) -> set[ReferenceId]:
    """The references that a contract of these events holds, of all schemes."""
    stating = [event for event in resolve(list(events)) if not event.data.acts and event.data.reference_ids()]
    held: set[ReferenceId] = set()
    for event in sorted(stating, key=place_in_fold, reverse=True):
        held.update(event.data.reference_ids())
        if event.day <= event.recorded_on:
            break
    return held
