"""Disclosure: what a filing contains and keeps back, what a party withholds and releases. What is withheld we do not know ourselves."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from service.domain.events import EventData, Name, Path, RecordedEvent, check_room, event_type, stated
from service.domain.figures import keep_apart
from service.domain.parts import Filing, Released, Withheld
from service.domain.state import Contract
from service.domain.terms import Identifier, PartPath, WithheldData, WithheldList, distinct
from service.errors import NotAllowedNow

RULES = {
    "known-withheld": "What is released was withheld.",
}
FLAGS = {
    "withheld-past-its-day": "What is withheld until a day is not released, and the day has passed.",
}

Paths = Annotated[list[Path], Field(min_length=1, max_length=50), distinct()]


@event_type("disclosure.filed")
class DisclosureFiled(EventData):
    """A filing was made: the members it contains, and those it keeps back."""

    title: Name | None = None
    reference: Identifier | None = None
    contains: Annotated[list[PartPath], Field(min_length=1, max_length=50), distinct()] | None = None
    withheld: WithheldList | None = None

    def check_whole(self, whole: Contract) -> None:
        check_room(whole.facts.filings, "filings")
        _check_withheld(whole, self.withheld or ())

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        contract.facts.filings.append(
            Filing(
                title=self.title,
                reference=stated(self.reference),
                contains=self.contains,
                withheld=[entry.path for entry in self.withheld] if self.withheld else None,
                effective_on=event.effective_on,
                rests_on=[event.revision],
            )
        )
        _withhold(contract, self.withheld or (), event.revision)


@event_type("disclosure.withheld")
class DisclosureWithheld(EventData):
    """A party keeps members of the contract back, perhaps until a day."""

    withheld: WithheldList

    def check_whole(self, whole: Contract) -> None:
        _check_withheld(whole, self.withheld)

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        _withhold(contract, self.withheld, event.revision)


@event_type("disclosure.released")
class DisclosureReleased(EventData):
    """Members are no longer withheld; what they are is told by events of their own."""

    paths: Paths

    def check_whole(self, whole: Contract) -> None:
        known = _withheld_ever(whole)
        for path in self.paths:
            if path not in known:
                raise NotAllowedNow("known-withheld", f"The contract withholds nothing at {path}.")
        check_room(whole.facts.released, "releases", len(self.paths))

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return any(part.path in self.paths for part in at.facts.withheld)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        facts = contract.facts
        if not set(self.paths) <= _withheld_ever(contract):
            keep_apart(contract, event.revision, ())  # it is withheld later; the rest of the event is folded
        released = [part for part in facts.withheld if part.path in self.paths]
        facts.withheld = [part for part in facts.withheld if part not in released]
        facts.released += [
            Released(path=part.path, effective_on=event.effective_on, rests_on=[*part.rests_on, event.revision]) for part in released
        ]


def _withheld_ever(contract: Contract) -> set[str]:
    return {part.path for part in contract.facts.withheld} | {part.path for part in contract.facts.released}


def _check_withheld(whole: Contract, entries: Sequence[WithheldData]) -> None:
    stands = {part.path for part in whole.facts.withheld}
    check_room(whole.facts.withheld, "withheld members", len({entry.path for entry in entries} - stands))


def withheld_parts(entries: Sequence[WithheldData], revision: int) -> list[Withheld]:
    return [Withheld(path=entry.path, reason=entry.reason, until=entry.until, rests_on=[revision]) for entry in entries]


def _withhold(contract: Contract, entries: Sequence[WithheldData], revision: int) -> None:
    """What is withheld anew takes the place of what was withheld at the same path."""
    if entries:
        paths = {entry.path for entry in entries}
        kept = [part for part in contract.facts.withheld if part.path not in paths]
        contract.facts.withheld = kept + withheld_parts(entries, revision)
