"""The end: completed, terminated before its time, cancelled before it was signed, or superseded by another contract."""

from service.domain.dates import BusinessDate
from service.domain.events import EventData, Name, RecordedEvent, Text, event_type, stated
from service.domain.money import Money
from service.domain.parts import Ending
from service.domain.state import Contract
from service.domain.terms import Identifier
from service.errors import NotAllowedNow

RULES = {
    "terminate-signed": "Only what is signed is terminated.",
    "complete-signed": "Only what is signed is completed.",
    "cancel-unsigned": "Only what is not signed is cancelled.",
}

_KINDS = ("superseded", "cancelled", "terminated", "completed")


class _Ending(EventData):
    """What the events that end a contract have in common: the first that fits ends it."""

    __slots__ = ()
    folds_unfit = False
    by: Name | None
    cause: Text | None
    notice_on: BusinessDate | None
    terminated_value: Money | None
    delivered_value: Money | None
    successor: Identifier | None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        kind, stood = self.event_type.partition(".")[2], contract.facts.ending
        if stood is not None and _KINDS.index(stood.kind) < _KINDS.index(kind):
            return  # two that take effect before the opening: the status is the first that applies
        contract.facts.ending = Ending(
            kind=kind,
            effective_on=event.effective_on,
            rests_on=[event.revision],
            by=self.by,
            cause=self.cause,
            notice_on=self.notice_on,
            terminated_value=stated(self.terminated_value),
            delivered_value=stated(self.delivered_value),
            successor=stated(self.successor),
        )


@event_type("contract.completed")
class ContractCompleted(_Ending):
    """All that was promised is done."""

    by: Name | None = None
    cause: Text | None = None
    notice_on: BusinessDate | None = None
    terminated_value: Money | None = None
    delivered_value: Money | None = None
    successor: Identifier | None = None

    def check_place(self, at: Contract) -> None:
        if at.facts.signing is None:
            raise NotAllowedNow("complete-signed", "Only a signed contract can be completed, and none is signed by then.")


@event_type("contract.terminated")
class ContractTerminated(_Ending):
    """A signed contract was ended before its time, by whom and why."""

    by: Name | None = None
    cause: Text | None = None
    notice_on: BusinessDate | None = None
    terminated_value: Money | None = None
    delivered_value: Money | None = None
    successor: Identifier | None = None

    def check_place(self, at: Contract) -> None:
        if at.facts.signing is None:
            raise NotAllowedNow("terminate-signed", "Only a signed contract can be terminated, and none is signed by then.")


@event_type("contract.cancelled")
class ContractCancelled(_Ending):
    """A contract that was never signed is given up."""

    by: Name | None = None
    cause: Text | None = None
    notice_on: BusinessDate | None = None
    terminated_value: Money | None = None
    delivered_value: Money | None = None
    successor: Identifier | None = None

    def check_place(self, at: Contract) -> None:
        if at.facts.signing is not None:
            raise NotAllowedNow("cancel-unsigned", "Only a contract that is not signed can be cancelled, and this one is signed by then.")


@event_type("contract.superseded")
class ContractSuperseded(_Ending):
    """Another contract takes the place of this one."""

    by: Name | None = None
    cause: Text | None = None
    notice_on: BusinessDate | None = None
    terminated_value: Money | None = None
    delivered_value: Money | None = None
    successor: Identifier | None = None
