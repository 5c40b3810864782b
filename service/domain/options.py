"""Options: granted, exercised, lapsed; and what an extension by option may take of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt
from pydantic_core import PydanticCustomError

from service.domain.dates import BusinessDate, first_day, last_day, on
from service.domain.events import STRICT, EventData, Id, RecordedEvent, Text, check_room, event_type, stated
from service.domain.money import Money, MoneyData, add, plain
from service.domain.parties import check_known_party
from service.domain.parts import JsonObject, Option
from service.domain.state import Contract
from service.domain.terms import AddedQuantity
from service.errors import NotAllowedNow

RULES = {
    "known-option": "An option that is referred to was granted.",
    "unique-option": "An option has an id of its own.",
    "option-open": (
        "An option is exercised, or used by an extension without having been exercised, only within its window; and exercised, used or "
        "lapsed only where it was granted by then and has not lapsed."
    ),
    "option-limit": "An option gives no more than its limit, in all.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionWindow:
    """The days on which an option may be exercised."""

    __pydantic_config__ = STRICT

    start_on: BusinessDate | None = None
    end_on: BusinessDate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionLimit:
    """The most that an option gives, in all: so much quantity or value, an end so late, so many times."""

    __pydantic_config__ = STRICT

    added_quantity: AddedQuantity | None = None
    added_value: Money | None = None
    new_end_on: BusinessDate | None = None
    times: Annotated[StrictInt, Field(ge=1, le=1_000)] | None = None


def _check_window(window: OptionWindow) -> OptionWindow:
    if window.start_on and window.end_on and last_day(window.end_on) < first_day(window.start_on):
        raise PydanticCustomError("window_order", "the window ends before it starts", {"member": "end_on"})
    return window


@event_type("option.granted")
class OptionGranted(EventData):
    """A party is granted an option: on a longer term, on quantity, or on a price; perhaps within a window and up to a limit."""

    option_id: Id
    kind: Literal["term", "quantity", "price"]
    holder: Id | None = None
    window: Annotated[OptionWindow, AfterValidator(_check_window)] | None = None
    limit: OptionLimit | None = None

    def check_whole(self, whole: Contract) -> None:
        if option_of(whole, self.option_id) is not None:
            raise NotAllowedNow("unique-option", f"The contract has an option {self.option_id} already; give the new one an id of its own.")
        if self.holder is not None:
            check_known_party(whole, self.holder)
        check_room(whole.facts.options, "options")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        contract.facts.options.append(
            Option(
                option_id=self.option_id,
                kind=self.kind,
                status="open",
                holder=self.holder,
                window=stated(self.window) or None,
                limit=stated(self.limit) or None,
                effective_on=event.effective_on,
                rests_on=[event.revision],
            )
        )


class _OfOption(EventData):
    """What happens to an option that was granted."""

    __slots__ = ()
    option_id: Id

    def check_whole(self, whole: Contract) -> None:
        check_known_option(whole, self.option_id)

    def is_placed(self, at: Contract) -> bool:
        return option_of(at, self.option_id) is not None


@event_type("option.exercised")
class OptionExercised(_OfOption):
    """An option is exercised, within its window. What it brings is told by an order.extended or a value.revised."""

    folds_unfit = False
    option_id: Id
    exercised_on: BusinessDate
    text: Text | None = None

    def check_place(self, at: Contract) -> None:
        option = _open_option(at, self.option_id)
        _check_window_of(option, self.exercised_on, "exercised")
        most = (option.limit or {}).get("times")
        if most is not None and option.times >= most:
            raise NotAllowedNow("option-limit", f"The option {self.option_id} is exercised at most {most} times.")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (option := option_of(contract, self.option_id)) is not None:
            option.times += 1
            option.exercised_on = self.exercised_on
            option.status = "exercised" if option.status == "open" else option.status
            _rest_on(option, event.revision)


@event_type("option.lapsed")
class OptionLapsed(_OfOption):
    """An option ends, or what was left of it."""

    option_id: Id
    text: Text | None = None

    def check_place(self, at: Contract) -> None:
        _open_option(at, self.option_id)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        if (option := option_of(contract, self.option_id)) is not None:
            option.status = "lapsed"
            _rest_on(option, event.revision)


def option_of(contract: Contract, option_id: str) -> Option | None:
    for option in contract.facts.options:
        if option.option_id == option_id:
            return option
    return None


def check_known_option(whole: Contract, option_id: str | None) -> None:
    if option_id is None or option_of(whole, option_id) is None:
        raise NotAllowedNow("known-option", f"The contract has no option {option_id or 'that was granted'}.")


def is_open(option: Option, day: date) -> bool:
    """Whether an option may be exercised on a day."""
    most = (option.limit or {}).get("times")
    return option.status != "lapsed" and (most is None or option.times < most) and _covers(option, day.isoformat())


def turning_days(options: Sequence[Option]) -> Iterator[date]:
    """The days on which windows open, and those on which they are closed."""
    for option in options:
        window = option.window or {}
        if "start_on" in window:
            yield first_day(window["start_on"])
        if "end_on" in window:
            yield last_day(window["end_on"]) + timedelta(days=1)


def _open_option(at: Contract, option_id: str) -> Option:
    """An option that has not lapsed. NotAllowedNow where it has, or is not granted by then."""
    option = option_of(at, option_id)
    if option is None or option.status == "lapsed":
        state = "is not granted by then" if option is None else "has lapsed by then"
        raise NotAllowedNow("option-open", f"The option {option_id} {state}.")
    return option


def _check_window_of(option: Option, day: str, what: str) -> None:
    if not _covers(option, day):
        raise NotAllowedNow("option-open", f"The option {option.option_id} is open {_window_words(option)}, and was {what} {on(day)}.")


def _covers(option: Option, day: str) -> bool:
    """Whether a business date may lie in the window of an option."""
    window = option.window or {}
    starts, ends = window.get("start_on"), window.get("end_on")
    return not (starts and last_day(day) < first_day(starts)) and not (ends and first_day(day) > last_day(ends))


def _window_words(option: Option) -> str:
    window = option.window or {}
    return " ".join(f"{word} {window[member]}" for word, member in (("from", "start_on"), ("to", "end_on")) if member in window)


def _rest_on(option: Option, revision: int) -> None:
    """On the grant, and on the latest of what happened to it."""
    option.rests_on = list(dict.fromkeys([option.rests_on[0], revision]))


class Use:
    """What an extension takes of an option."""

    __slots__ = ("end_on", "quantity", "value")

    def __init__(self, quantity: AddedQuantity | None, value: MoneyData | None, end_on: str | None) -> None:
        self.quantity, self.value, self.end_on = quantity, value, end_on

    def check(self, at: Contract, option_id: str, day: str) -> None:
        """Refuse to take what was not exercised and has lapsed, or is not open on the day; or more than the limit."""
        option = option_of(at, option_id)
        if option is None or not option.times:
            option = _open_option(at, option_id)
            _check_window_of(option, day, "used")
        limit = option.limit or {}
        quantity, value = self.totals(option)
        most_quantity, most_value = limit.get("added_quantity"), limit.get("added_value")
        if quantity and most_quantity and Decimal(quantity) > Decimal(most_quantity.get("quantity", quantity)):
            raise _beyond(option_id, f"{most_quantity['quantity']} {most_quantity['unit']}", quantity)
        if value and most_value and Decimal(value) > Decimal(most_value["amount"]):
            raise _beyond(option_id, f"{most_value['amount']} {most_value['currency']}", value)
        latest = limit.get("new_end_on")
        if latest and self.end_on and last_day(self.end_on) > last_day(latest):
            raise _beyond(option_id, f"an end {on(latest)}", self.end_on)

    def totals(self, option: Option) -> tuple[str | None, str | None]:
        """Quantity and value that the option has given with this use, where they are in the unit and currency of its limit."""
        limit = option.limit or {}
        quantity, value = option.used_quantity, option.used_value
        if self.quantity and self.quantity.quantity and _is_alike(limit.get("added_quantity"), self.quantity):
            quantity = plain(add(quantity or "0", self.quantity.quantity))
        if self.value and limit.get("added_value", {}).get("currency") == self.value.currency:
            value = plain(add(value or "0", self.value.amount))
        return quantity, value

    def take(self, contract: Contract, option_id: str, event: RecordedEvent) -> None:
        option = option_of(contract, option_id)
        if option is None:
            return
        option.used_quantity, option.used_value = self.totals(option)
        _rest_on(option, event.revision)


def _is_alike(limit: JsonObject | None, added: AddedQuantity) -> bool:
    """Whether a limit binds what is added: units are never converted, a limit without an item is for all of them, a sealed one for none."""
    return limit is not None and "quantity" in limit and limit["unit"] == added.unit and limit.get("item_id") in (None, added.item_id)


def _beyond(option_id: str, limit: str, wanted: str) -> NotAllowedNow:
    return NotAllowedNow("option-limit", f"The option {option_id} gives at most {limit}, and {wanted} would be taken of it.")
