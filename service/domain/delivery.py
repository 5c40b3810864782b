"""Deliveries: when they started, and each that was recorded. The state keeps totals; the list is read from the events."""

from typing import Annotated

from msgspec.structs import replace
from pydantic import StrictBool

from service.domain.agreement import flag_delivery_before_signing, more_than_ordered
from service.domain.dates import BusinessDate, first_day, last_day, on
from service.domain.events import SEALABLE, EventData, Id, Name, RecordedEvent, event_type
from service.domain.money import DecimalText, Money, MoneyData, add, plain
from service.domain.parts import Delivered, DeliveredValue, Delivery, UnsignedDelivery
from service.domain.state import Anomaly, Contract, anomaly
from service.domain.terms import Unit, term_end
from service.errors import NotAllowedNow

RULES = {
    "known-item": "An item that is referred to is stated.",
    "unique-delivery": "A delivery has an id of its own.",
}
FLAGS = {
    "delivery-after-end": "A delivery came after the end.",
}

MAX_UNSIGNED_DELIVERIES = 100


@event_type("delivery.started")
class DeliveryStarted(EventData):
    """Deliveries began, perhaps only in part."""

    item_id: Id | None = None
    place: Name | None = None
    lot: Name | None = None
    partial: StrictBool | None = None

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return at.has_item(self.item_id)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        stood = contract.facts.delivery
        if stood is None or first_day(event.effective_on) < first_day(stood.started_on):
            stood = contract.facts.delivery = Delivery(
                started_on=event.effective_on,
                rests_on=[event.revision, *(stood.rests_on[-1:] if stood and stood.count else [])],
                partial=bool(self.partial),
                place=self.place,
                lot=self.lot,
                item_id=self.item_id,
                count=stood.count if stood else 0,
                totals=stood.totals if stood else [],
                values=stood.values if stood else [],
                unsigned=stood.unsigned if stood else [],
            )
        elif not self.partial:
            stood.partial = False
        _flag_days(contract, stood, event.effective_on, event.revision)


@event_type("delivery.recorded")
class DeliveryRecorded(EventData):
    """A quantity of an item was delivered on a day."""

    delivery_id: Id
    item_id: Id
    quantity: Annotated[DecimalText, SEALABLE]
    unit: Unit
    value: Money | None = None
    delivered_on: BusinessDate

    def check_whole(self, whole: Contract) -> None:
        check_known_item(whole, self.item_id)

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        return at.has_item(self.item_id)

    def delivery_ids(self) -> tuple[str, ...]:
        return (self.delivery_id,)

    def adds_to(self, whole: Contract) -> Anomaly | None:
        total = next((total for total in _totals(whole) if (total.item_id, total.unit) == (self.item_id, self.unit)), None)
        if total is None or not more_than_ordered(whole, total):
            return None
        after = replace(total, quantity=plain(add(total.quantity or "0", self.quantity or "0")))
        return anomaly("delivered-more-than-ordered", [], str(more_than_ordered(whole, after))) if after != total else None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        stood = contract.facts.delivery
        if stood is None:
            stood = contract.facts.delivery = Delivery(started_on=self.delivered_on, rests_on=[event.revision])
        elif first_day(self.delivered_on) < first_day(stood.started_on):
            stood.started_on, stood.rests_on = self.delivered_on, [event.revision]
        stood.count += 1
        stood.rests_on = list(dict.fromkeys([stood.rests_on[0], event.revision]))
        _add_total(contract, stood, self, event.revision)
        if self.value is not None:
            _add_value(stood, self.item_id, self.value, self.delivered_on[:4])
        _flag_days(contract, stood, self.delivered_on, event.revision)


def check_known_item(whole: Contract, item_id: str | None) -> None:
    if item_id is not None and whole.item(item_id) is None:
        raise NotAllowedNow(
            "known-item", f"The contract has no item {item_id}; state its items first, in contract.reported or contract.signed."
        )


def _totals(contract: Contract) -> list[Delivered]:
    return contract.facts.delivery.totals if contract.facts.delivery else []


def _add_total(contract: Contract, stood: Delivery, delivery: DeliveryRecorded, revision: int) -> None:
    key = (delivery.item_id, delivery.unit)
    total = next((total for total in stood.totals if (total.item_id, total.unit) == key), None)
    if total is None:
        total = Delivered(item_id=delivery.item_id, unit=delivery.unit)
        stood.totals.append(total)
    if not delivery.quantity:
        return  # it is sealed
    before, total.quantity = total.quantity, plain(add(total.quantity or "0", delivery.quantity))
    if (sentence := more_than_ordered(contract, total)) and not more_than_ordered(contract, replace(total, quantity=before)):
        contract.flag("delivered-more-than-ordered", [revision], sentence)


def _add_value(stood: Delivery, item_id: str, value: MoneyData, year: str) -> None:
    """A business date lies within one year."""
    key = item_id, value.currency, year
    known = next((known for known in stood.values if (known.item_id, known.currency, known.year) == key), None)
    if known is None:
        stood.values.append(DeliveredValue(item_id=item_id, currency=value.currency, year=year, amount=value.amount))
    else:
        known.amount = plain(add(known.amount, value.amount))


def _flag_days(contract: Contract, stood: Delivery, day: str, revision: int) -> None:
    if contract.facts.signing is None:
        _keep_unsigned(stood, UnsignedDelivery(delivered_on=day, rests_on=[revision]))
    else:
        flag_delivery_before_signing(contract, day, revision)
    ending, end = contract.facts.ending, term_end(contract.facts)
    if ending is not None and first_day(day) > last_day(ending.effective_on):
        sentence = f"delivery {on(day)} came after the contract was {ending.kind} {on(ending.effective_on)}"
        contract.flag("delivery-after-end", [revision, *ending.rests_on], sentence)
    elif end is not None and first_day(day) > last_day(end.end_on):
        contract.flag("delivery-after-end", [revision, *end.rests_on], f"delivery {on(day)} came after the term's end, {end.end_on}")


def _keep_unsigned(stood: Delivery, delivery: UnsignedDelivery) -> None:
    """Keep a delivery for the signing to come; of more than are kept the earliest."""
    unsigned = stood.unsigned
    unsigned.append(delivery)
    if len(unsigned) > MAX_UNSIGNED_DELIVERIES:
        unsigned.remove(max(unsigned, key=lambda kept: (first_day(kept.delivered_on), kept.rests_on[0])))
