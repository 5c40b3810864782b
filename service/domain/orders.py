"""The order: extended in quantity, value or time."""

from typing import Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from service.domain.dates import BusinessDate, last_day, on
from service.domain.events import EventData, Id, RecordedEvent, event_type, stated
from service.domain.money import Money, add, plain
from service.domain.options import Use, check_known_option, option_of
from service.domain.parts import Extension
from service.domain.state import Contract
from service.domain.terms import (
    AddedQuantity,
    PeriodData,
    state_period,
    term_end,
)
from service.errors import NotAllowedNow

RULES = {
    "end-moves-later": "A new end is later than the end then standing.",
    "within-max-end": "An end is within `max_end_on`, unless amended.",
}


@event_type("order.extended")
class OrderExtended(EventData):
    """The order grew in quantity, value or time, by amendment, option or renewal."""

    judged_by_day = True
    folds_unfit = False
    added_quantity: AddedQuantity | None = None
    added_value: Money | None = None
    new_end_on: BusinessDate | None = None
    via: Literal["amendment", "option", "renewal"]
    option_id: Id | None = None

    @model_validator(mode="after")
    def _adds_something(self) -> Self:
        if self.added_quantity is None and self.added_value is None and self.new_end_on is None:
            raise PydanticCustomError("extension", "an extension adds something: added_quantity, added_value or new_end_on")
        return self

    def check_whole(self, whole: Contract) -> None:
        if self.via == "option" or self.option_id is not None:
            check_known_option(whole, self.option_id)
        item_id = self.added_quantity and self.added_quantity.item_id
        if item_id and whole.item(item_id) is None:
            raise NotAllowedNow("known-item", f"The contract has no item {item_id}.")

    def is_placed(self, at: Contract) -> bool:
        if self.option_id is None:
            if self.via == "option":
                return False
        elif option_of(at, self.option_id) is None:
            return False
        return self.added_quantity is None or at.has_item(self.added_quantity.item_id)

    def check_place(self, at: Contract) -> None:
        if self.new_end_on is not None:
            self._check_end(at, self.new_end_on)

    def check_day(self, at: Contract, effective_on: str) -> None:
        if self.option_id is not None:
            self._use().check(at, self.option_id, effective_on)

    def _check_end(self, at: Contract, new_end_on: str) -> None:
        stands, period = term_end(at.facts), at.facts.period
        if stands and last_day(new_end_on) <= last_day(stands.end_on):
            raise NotAllowedNow("end-moves-later", f"The term ends {on(stands.end_on)} already; a new end is later than that.")
        latest = period.max_end_on if period else None
        if latest and self.via != "amendment" and last_day(new_end_on) > last_day(latest):
            raise NotAllowedNow("within-max-end", f"The contract allows an end by {latest}; only an amendment goes beyond it.")

    def _use(self) -> Use:
        return Use(self.added_quantity, self.added_value, self.new_end_on)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        facts, revision = contract.facts, event.revision
        facts.extensions.append(
            Extension(
                via=self.via,
                effective_on=event.effective_on,
                rests_on=[revision],
                added_quantity=stated(self.added_quantity),
                added_value=stated(self.added_value),
                new_end_on=self.new_end_on,
                option_id=self.option_id,
            )
        )
        if self.option_id is not None:
            self._use().take(contract, self.option_id, event)
        if self.new_end_on is not None:
            state_period(facts, revision, PeriodData(end_on=self.new_end_on))
        if self.added_quantity is not None:
            _add_quantity(contract, self.added_quantity, revision)


def _add_quantity(contract: Contract, added: AddedQuantity, revision: int) -> None:
    items = contract.facts.items
    item = contract.item(added.item_id) if added.item_id else (items[0] if len(items) == 1 else None)
    if item is None or item.ordered is None or item.unit != added.unit or not added.quantity:
        return  # it stands under `extensions`: units are never converted, what is added to an unknown quantity is unknown, or it is sealed
    item.ordered = plain(add(item.ordered, added.quantity))
    item.rests_on = [*item.rests_on, revision]
