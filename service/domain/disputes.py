"""Disputes and force majeure: each begins under a reference, and ends under the same one."""

from service.domain.events import EventData, Name, RecordedEvent, Text, check_room, event_type
from service.domain.parts import Dispute, ForceMajeure
from service.domain.state import Contract
from service.errors import NotAllowedNow

RULES = {
    "known-dispute": "A dispute that is resolved was raised.",
    "unique-dispute": "A dispute has a reference of its own.",
    "known-force-majeure": "A force majeure that is lifted was declared.",
    "unique-force-majeure": "A declaration of force majeure has a reference of its own.",
}


def _dispute(contract: Contract, reference: str) -> Dispute | None:
    return next((known for known in contract.facts.disputes if known.reference == reference), None)


def _force_majeure(contract: Contract, reference: str) -> ForceMajeure | None:
    return next((known for known in contract.facts.force_majeure if known.reference == reference), None)


@event_type("dispute.raised")
class DisputeRaised(EventData):
    """The parties are at odds, under a reference such as a case number."""

    reference: Name
    text: Text | None = None

    def check_whole(self, whole: Contract) -> None:
        if _dispute(whole, self.reference) is not None:
            raise NotAllowedNow("unique-dispute", f"The contract has a dispute {self.reference} already; each has a reference of its own.")
        check_room(whole.facts.disputes, "disputes")

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        raised = Dispute(reference=self.reference, status="raised", raised_on=event.effective_on, rests_on=[event.revision])
        contract.facts.disputes.append(raised)


@event_type("dispute.resolved")
class DisputeResolved(EventData):
    """A dispute is settled, decided or dropped."""

    reference: Name
    text: Text | None = None

    def check_whole(self, whole: Contract) -> None:
        if _dispute(whole, self.reference) is None:
            raise NotAllowedNow("known-dispute", f"The contract has no dispute {self.reference}; state it first with dispute.raised.")

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return _dispute(at, self.reference) is not None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (dispute := _dispute(contract, self.reference)) is not None:
            dispute.status, dispute.resolved_on = "resolved", event.effective_on
            dispute.rests_on = [dispute.rests_on[0], event.revision]


@event_type("force_majeure.declared")
class ForceMajeureDeclared(EventData):
    """A party declares that it cannot perform, for what nobody could help."""

    reference: Name
    text: Text | None = None

    def check_whole(self, whole: Contract) -> None:
        if _force_majeure(whole, self.reference) is not None:
            raise NotAllowedNow(
                "unique-force-majeure", f"The contract has a force majeure {self.reference} already; each has a reference of its own."
            )
        check_room(whole.facts.force_majeure, "declarations of force majeure")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        contract.facts.force_majeure.append(
            ForceMajeure(reference=self.reference, status="declared", declared_on=event.effective_on, rests_on=[event.revision])
        )


@event_type("force_majeure.lifted")
class ForceMajeureLifted(EventData):
    """What kept a party from performing is over."""

    reference: Name
    text: Text | None = None

    def check_whole(self, whole: Contract) -> None:
        if _force_majeure(whole, self.reference) is None:
            raise NotAllowedNow(
                "known-force-majeure",
                f"The contract has no force majeure {self.reference}; state it first with force_majeure.declared.",
            )

    def is_placed(self, at: Contract) -> bool:
        return _force_majeure(at, self.reference) is not None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (declared := _force_majeure(contract, self.reference)) is not None:
            declared.status, declared.lifted_on = "lifted", event.effective_on
            declared.rests_on = [declared.rests_on[0], event.revision]
