"""Milestones, which have a day they are due on, and conditions, on which the contract hangs."""

from service.domain.dates import BusinessDate
from service.domain.events import EventData, Id, Name, RecordedEvent, Text, check_room, event_type
from service.domain.parts import Condition, Milestone
from service.domain.state import Contract
from service.errors import NotAllowedNow

RULES = {
    "known-milestone": "A milestone that is met or missed was scheduled.",
}
FLAGS = {
    "milestone-past-its-day": "A milestone is neither met nor missed, and its day has passed.",
}


def _milestone(contract: Contract, milestone_id: str) -> Milestone | None:
    for milestone in contract.facts.milestones:
        if milestone.milestone_id == milestone_id:
            return milestone
    return None


@event_type("milestone.scheduled")
class MilestoneScheduled(EventData):
    """A milestone is to be met, perhaps by a day; stated again, it is scheduled anew."""

    milestone_id: Id
    title: Name
    due_on: BusinessDate | None = None

    def check_whole(self, whole: Contract) -> None:
        if _milestone(whole, self.milestone_id) is None:
            check_room(whole.facts.milestones, "milestones")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        scheduled = Milestone(
            milestone_id=self.milestone_id,
            title=self.title,
            status="scheduled",
            due_on=self.due_on,
            effective_on=event.effective_on,
            rests_on=[event.revision],
        )
        milestones, stood = contract.facts.milestones, _milestone(contract, self.milestone_id)
        if stood is None:
            milestones.append(scheduled)
        else:
            milestones[milestones.index(stood)] = scheduled


class _Outcome(EventData):
    """What became of a milestone."""

    __slots__ = ()
    milestone_id: Id

    def check_whole(self, whole: Contract) -> None:
        if _milestone(whole, self.milestone_id) is None:
            raise NotAllowedNow(
                "known-milestone", f"The contract has no milestone {self.milestone_id}; state it first with milestone.scheduled."
            )

    def is_placed(self, at: Contract) -> bool:
        return _milestone(at, self.milestone_id) is not None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (milestone := _milestone(contract, self.milestone_id)) is not None:
            milestone.status = self.event_type.partition(".")[2]
            milestone.effective_on = event.effective_on
            milestone.rests_on = [milestone.rests_on[0], event.revision]


@event_type("milestone.met")
class MilestoneMet(_Outcome):
    """A milestone was met."""

    milestone_id: Id
    text: Text | None = None


@event_type("milestone.missed")
class MilestoneMissed(_Outcome):
    """A milestone was not met when it was due."""

    milestone_id: Id
    text: Text | None = None


class _Condition(EventData):
    """What became of a condition; the latest that was said of it counts."""

    __slots__ = ()
    condition_id: Id
    title: Name
    due_on: BusinessDate | None

    def check_whole(self, whole: Contract) -> None:
        if all(known.condition_id != self.condition_id for known in whole.facts.conditions):
            check_room(whole.facts.conditions, "conditions")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        facts = contract.facts
        came = Condition(
            condition_id=self.condition_id,
            title=self.title,
            status=self.event_type.partition(".")[2],
            due_on=self.due_on,
            effective_on=event.effective_on,
            rests_on=[event.revision],
        )
        facts.conditions = [*(known for known in facts.conditions if known.condition_id != self.condition_id), came]


@event_type("condition.satisfied")
class ConditionSatisfied(_Condition):
    """A condition on which the contract hangs came to pass."""

    condition_id: Id
    title: Name
    due_on: BusinessDate | None = None
    text: Text | None = None


@event_type("condition.failed")
class ConditionFailed(_Condition):
    """A condition on which the contract hangs did not come to pass."""

    condition_id: Id
    title: Name
    due_on: BusinessDate | None = None
    text: Text | None = None
