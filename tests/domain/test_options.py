"""Options: granted to a party, exercised while they are open, used within their limit, lapsed."""

from typing import Any

import pytest

from service.domain.events import MAX_PARTS
from service.errors import Refused
from tests.domain.histories import CELLS, Sent, delivered, flagged_in, log_of, refused, reported, sent, signed, told

OPEN = [reported(items=[CELLS], period={"end_on": "2026-12-31"}), signed()]
WINDOW = {"start_on": "2025-01", "end_on": "2025-06-30"}
LIMIT = {
    "added_quantity": {"quantity": "50", "unit": "EA"},
    "added_value": {"amount": "500", "currency": "KRW"},
    "new_end_on": "2028",
    "times": 2,
}


def granted(effective_on: str = "2024-02-01", option_id: str = "o1", **data: Any) -> Sent:
    return sent("option.granted", effective_on, {"option_id": option_id, "kind": "term", **data})


def exercised(exercised_on: str, effective_on: str | None = None, option_id: str = "o1") -> Sent:
    return sent("option.exercised", effective_on or exercised_on, {"option_id": option_id, "exercised_on": exercised_on})


def lapsed(effective_on: str = "2025-07-01", option_id: str = "o1") -> Sent:
    return sent("option.lapsed", effective_on, {"option_id": option_id})


def extended(effective_on: str = "2025-07-01", option_id: str = "o1", **data: Any) -> Sent:
    return sent("order.extended", effective_on, {"via": "option", "option_id": option_id, **data})


def added(quantity: str, unit: str = "EA", **data: str) -> Sent:
    return {"added_quantity": {"quantity": quantity, "unit": unit, **data}}


def test_an_option_stands_as_granted_and_then_as_exercised_and_used() -> None:
    history = [*OPEN, granted(holder="isuzu", window=WINDOW, limit=LIMIT), exercised("2025-03"), extended(**added("20"), new_end_on="2027")]
    log_of(*history)
    option = told(*history[:3]).state.options[0]
    assert (option.status, option.holder, option.window, option.limit, option.rests_on) == ("open", "isuzu", WINDOW, LIMIT, [3])
    option = told(*history).state.options[0]
    assert (option.status, option.times, option.exercised_on, option.used_quantity) == ("exercised", 1, "2025-03", "20")
    assert option.rests_on == [3, 5]
    state = told(*history).state
    assert (state.extensions[0].option_id, state.items[0].ordered) == ("o1", "120")


@pytest.mark.parametrize(
    ("day", "rule"),
    [("2024-12-31", "option-open"), ("2025-01-01", None), ("2025-Q1", None), ("2025-06-30", None), ("2025-07", "option-open")],
)
def test_an_option_is_exercised_within_its_window(day: str, rule: str | None) -> None:
    log = log_of(*OPEN, granted(window=WINDOW))
    if rule:
        assert refused(log, exercised(day, "2025-08-01")) == rule
    else:
        assert log.append(exercised(day, "2025-08-01")).revision == 4


def test_an_option_is_exercised_no_more_often_than_its_limit_says() -> None:
    log = log_of(*OPEN, granted(limit={"times": 2}), exercised("2025-01-01"), exercised("2025-01-02"))
    assert refused(log, exercised("2025-01-03")) == "option-limit"


def test_a_lapsed_option_is_neither_exercised_nor_used_nor_lapsed_again() -> None:
    log = log_of(*OPEN, granted(), lapsed())
    for event in (exercised("2025-08-01"), extended("2025-08-01", new_end_on="2028"), lapsed("2025-08-01")):
        assert refused(log, event) == "option-open"


def test_an_option_that_was_not_exercised_is_used_within_its_window() -> None:
    log = log_of(*OPEN, granted(window=WINDOW))
    for day in ("2024-12-31", "2025-07", "2025-07-01"):
        assert refused(log, extended(day, new_end_on="2028")) == "option-open"
    log.append(extended("2025-06", new_end_on="2028"))
    assert flagged_in(log) == []


def test_a_window_binds_an_extension_by_option_whatever_it_names_as_its_way() -> None:
    log = log_of(*OPEN, granted(window=WINDOW))
    assert refused(log, extended("2025-07-01", via="amendment", new_end_on="2028")) == "option-open"


def test_what_was_exercised_in_time_is_used_after_the_rest_has_lapsed() -> None:
    log = log_of(*OPEN, granted(window=WINDOW), exercised("2025-06-30"), lapsed("2025-07-01"), extended("2027-01-01", new_end_on="2028"))
    assert flagged_in(log) == []


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (added("30"), None),
        (added("30.5"), "option-limit"),
        (added("1000", "KWH"), None),  # units are never converted
        ({"added_value": {"amount": "500", "currency": "KRW"}}, None),
        ({"added_value": {"amount": "501", "currency": "KRW"}}, "option-limit"),
        ({"added_value": {"amount": "501.00", "currency": "USD"}}, None),
        ({"new_end_on": "2028-12-31"}, None),
        ({"new_end_on": "2029-01-01"}, "option-limit"),
    ],
)
def test_extensions_take_no_more_of_an_option_than_its_limit_in_all(data: Sent, rule: str | None) -> None:
    log = log_of(*OPEN, granted(limit=LIMIT), exercised("2025-03-01"), extended("2025-04-01", **added("20")))
    if rule:
        assert refused(log, extended(**data)) == rule
    else:
        assert log.append(extended(**data)).revision == 6


def test_a_limit_of_an_item_binds_what_is_added_of_that_item() -> None:
    limit = {"added_quantity": {"quantity": "50", "unit": "EA", "item_id": "cells"}}
    log = log_of(*OPEN, granted(limit=limit))
    assert refused(log, extended(**added("51", item_id="cells"))) == "option-limit"


def test_ids_and_holders_of_options_are_known() -> None:
    log = log_of(*OPEN, granted())
    assert refused(log, granted("2025-01-01")) == "unique-option"
    assert refused(log, granted("2025-01-01", "o2", holder="nobody")) == "known-party"
    assert refused(log, exercised("2025-01-01", option_id="o2")) == "known-option"
    assert refused(log, lapsed(option_id="o2")) == "known-option"


def test_an_option_used_before_it_was_granted_is_refused() -> None:
    assert refused(log_of(*OPEN, granted("2025-02-01")), exercised("2025-01-01")) == "option-open"


def test_a_window_that_ends_before_it_starts_is_a_fault_of_the_data() -> None:
    with pytest.raises(Refused, match="the window ends before it starts") as caught:
        log_of(*OPEN).append(granted(window={"start_on": "2025-07", "end_on": "2025-06"}))
    assert [fault.pointer for fault in caught.value.errors] == ["/data/window/end_on"]


def test_a_contract_has_a_most_of_options() -> None:
    batch = [granted(option_id=f"g{number}") for number in range(MAX_PARTS)]
    log = log_of(*OPEN)
    log.append(*batch[:100])
    log.append(*batch[100:])
    assert refused(log, granted()) == "parts-limit"


def test_the_options_that_are_open_are_named_and_turn_with_their_windows() -> None:
    history = [*OPEN, granted(window=WINDOW), granted(option_id="always"), granted(option_id="once", limit={"times": 1})]
    before, inside, after = (told(*history, day=day) for day in ("2024-12-31", "2025-06-30", "2025-07-01"))
    assert before.holds_until is not None
    assert before.holds_until.isoformat() == "2025-01-01"
    assert inside.state.open_options == ["o1", "always", "once"]
    assert after.state.open_options == ["always", "once"]
    assert told(*history, exercised("2025-03-01"), exercised("2025-03-01", option_id="once")).state.open_options == ["always"]


def test_an_extension_without_its_option_is_kept_apart() -> None:
    history = [*OPEN, granted(), extended(new_end_on="2028")]
    assert told(*history, day="2024-01-31").state.extensions == []
    only = told(*OPEN, extended(new_end_on="2028"))
    assert (only.state.unplaced, only.state.term_end and only.state.term_end.end_on) == ([3], "2026-12-31")


def test_an_extension_by_option_is_one_of_the_signed_contract_as_any_other() -> None:
    log = log_of(*OPEN, delivered("d1", "2024-06-01"), granted())
    assert refused(log, extended(new_end_on="2026")) == "end-moves-later"
