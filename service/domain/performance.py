"""How deliveries go: accepted, rejected, suspended, resumed, completed. The state keeps totals, as it does of the deliveries."""

from decimal import Decimal
from typing import Annotated

from service.domain.dates import BusinessDate
from service.domain.delivery import check_known_item
from service.domain.events import SEALABLE, EventData, Id, RecordedEvent, Text, check_room, event_type
from service.domain.money import DecimalText, Money, add, plain
from service.domain.parts import Acceptance, Completion, Delivered, Suspension
from service.domain.state import Anomaly, Contract, Facts, anomaly
from service.domain.terms import Unit
from service.errors import NotAllowedNow

RULES = {
    "known-delivery": "What is accepted or rejected was delivered.",
    "known-suspension": "What is resumed was suspended.",
}
FLAGS = {
    "judged-more-than-delivered": "More of an item is accepted and rejected than was delivered.",
}


def _total(totals: list[Delivered], item_id: str, unit: str) -> Delivered | None:
    return next((total for total in totals if (total.item_id, total.unit) == (item_id, unit)), None)


def _delivered(contract: Contract, item_id: str, unit: str) -> Delivered | None:
    """What is delivered of an item, in a unit; None where nothing is."""
    delivery = contract.facts.delivery
    return _total(delivery.totals, item_id, unit) if delivery else None


class _Judged(EventData):
    """What a buyer says of a delivery."""

    __slots__ = ()
    delivery_id: Id
    item_id: Id
    quantity: Annotated[DecimalText, SEALABLE]
    unit: Unit

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)
        if _delivered(whole, self.item_id, self.unit) is None:
            raise NotAllowedNow(
                "known-delivery", f"No delivery of {self.item_id} in {self.unit} is recorded; record {self.delivery_id} first."
            )

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return at.has_item(self.item_id) and _delivered(at, self.item_id, self.unit) is not None

    def known_delivery_ids(self) -> tuple[str, ...]:
        return (self.delivery_id,)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        stood = contract.facts.acceptance or Acceptance(rests_on=[])
        totals = stood.accepted if self.event_type == "delivery.accepted" else stood.rejected
        total = _total(totals, self.item_id, self.unit)
        if total is None:
            total = Delivered(item_id=self.item_id, unit=self.unit)
            totals.append(total)
        if self.quantity:  # else it is sealed
            total.quantity = plain(add(total.quantity or "0", self.quantity))
        stood.rests_on = [*stood.rests_on[:1], event.revision]
        contract.facts.acceptance = stood
        self._flag_more(contract, event.revision)

    def adds_to(self, whole: Contract) -> Anomaly | None:
        judged, most = self._judged_and_delivered(whole)
        after = judged + Decimal(self.quantity or "0")
        return anomaly("judged-more-than-delivered", [], self._more(after, most)) if after > judged > most else None

    def _flag_more(self, contract: Contract, revision: int) -> None:
        """Flag the first quantity with which more is accepted and rejected than was delivered."""
        judged, most = self._judged_and_delivered(contract)
        if judged > most >= judged - Decimal(self.quantity or "0"):
            contract.flag("judged-more-than-delivered", [revision], self._more(judged, most))

    def _judged_and_delivered(self, contract: Contract) -> tuple[Decimal, Decimal]:
        """How much of the item is accepted and rejected, and how much was delivered; where that is sealed, as much."""
        stood, delivered = contract.facts.acceptance, _delivered(contract, self.item_id, self.unit)
        known = [_total(totals, self.item_id, self.unit) for totals in (stood.accepted, stood.rejected)] if stood else []
        judged = sum((Decimal(total.quantity or "0") for total in known if total), Decimal(0))
        if delivered is None:
            return judged, Decimal(0)
        return judged, judged if delivered.quantity is None else Decimal(delivered.quantity)

    def _more(self, judged: Decimal, most: Decimal) -> str:
        return f"{plain(judged)} {self.unit} of {self.item_id} accepted or rejected, {plain(most)} delivered"


@event_type("delivery.accepted")
class DeliveryAccepted(_Judged):
    """The buyer accepts a delivery, or a part of it."""

    delivery_id: Id
    item_id: Id
    quantity: Annotated[DecimalText, SEALABLE]
    unit: Unit
    value: Money | None = None
    delivered_on: BusinessDate | None = None


@event_type("delivery.rejected")
class DeliveryRejected(_Judged):
    """The buyer rejects a delivery, or a part of it."""

    delivery_id: Id
    item_id: Id
    quantity: Annotated[DecimalText, SEALABLE]
    unit: Unit
    value: Money | None = None
    delivered_on: BusinessDate | None = None
    reason: Text | None = None


class _OfItem(EventData):
    """What concerns the deliveries of an item, or all deliveries."""

    __slots__ = ()
    item_id: Id | None

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)

    def is_placed(self, at: Contract) -> bool:
        return at.has_item(self.item_id)


@event_type("delivery.suspended")
class DeliverySuspended(_OfItem):
    """Deliveries stop for a time: of an item, or all of them."""

    item_id: Id | None = None
    reason: Text | None = None

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)
        check_room(whole.facts.suspensions, "suspensions")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        contract.facts.suspensions.append(
            Suspension(item_id=self.item_id, reason=self.reason, suspended_on=event.effective_on, rests_on=[event.revision])
        )


@event_type("delivery.resumed")
class DeliveryResumed(_OfItem):
    """Deliveries go on: of an item, or all that were suspended."""

    item_id: Id | None = None
    text: Text | None = None

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)
        if not any(self._ends(suspension) for suspension in whole.facts.suspensions):
            raise NotAllowedNow(
                "known-suspension", "No delivery was suspended that could be resumed; state it first with delivery.suspended."
            )

    def is_placed(self, at: Contract) -> bool:
        return any(self._ends(suspension) and suspension.resumed_on is None for suspension in at.facts.suspensions)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        for suspension in contract.facts.suspensions:
            if self._ends(suspension) and suspension.resumed_on is None:
                suspension.resumed_on = event.effective_on
                suspension.rests_on = [*suspension.rests_on, event.revision]

    def _ends(self, suspension: Suspension) -> bool:
        return self.item_id is None or suspension.item_id == self.item_id


@event_type("delivery.completed")
class DeliveryCompleted(_OfItem):
    """All of an item is delivered, or all that was ordered. The contract may go on; contract.completed ends it."""

    item_id: Id | None = None
    delivered_on: BusinessDate | None = None

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)
        check_room(whole.facts.completions, "completions")

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        completed_on = self.delivered_on or event.effective_on
        contract.facts.completions.append(Completion(item_id=self.item_id, completed_on=completed_on, rests_on=[event.revision]))


def suspended_by(facts: Facts) -> list[Suspension]:
    """The suspensions that stop the contract as a whole: one of all deliveries, or those of every item."""
    standing = [suspension for suspension in facts.suspensions if suspension.resumed_on is None]
    if of_all := [suspension for suspension in standing if suspension.item_id is None]:
        return of_all
    stopped = {suspension.item_id for suspension in standing}
    return standing if standing and all(item.item_id in stopped for item in facts.items) else []
