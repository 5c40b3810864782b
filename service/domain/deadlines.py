"""Deadlines: the days on which something about a contract ends, opens or falls due, each told in a sentence."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import msgspec

from service.domain.dates import first_day, last_day, on
from service.domain.state import ContractState

KINDS: Final = ("term-end", "notice", "option-opens", "option-closes", "milestone", "withheld-until")


class Deadline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`due_on` is the business date as stated, and `counts_on` the day of it that counts: the last, of an opening the first."""

    kind: str
    due_on: str
    counts_on: str
    sentence: str
    rests_on: list[int]
    about: str | None = None


def deadlines_of(state: ContractState) -> list[Deadline]:
    """The deadlines of a contract, by day; after its end only those of what is withheld. Those that have passed are among them."""
    found = [*_withheld(state)]
    if state.ending is None:
        found += [*_term(state), *_options(state), *_milestones(state)]
    return sorted(found, key=lambda known: (known.counts_on, KINDS.index(known.kind), known.about or ""))


def _deadline(kind: str, due_on: str, day: date, sentence: str, rests_on: list[int], about: str | None = None) -> Deadline:
    return Deadline(kind=kind, due_on=due_on, counts_on=day.isoformat(), sentence=sentence, rests_on=rests_on, about=about)


def _term(state: ContractState) -> Iterator[Deadline]:
    end = state.term_end
    if end is None:
        return
    last = last_day(end.end_on)
    yield _deadline("term-end", end.end_on, last, f"The term ends {on(end.end_on)}.", end.rests_on)
    renewal = (state.terms or {}).get("renewal", {})
    if "notice_days" in renewal:
        days = renewal["notice_days"]
        notice = last - timedelta(days=days)
        what = "it renews itself unless notice is given" if renewal["automatic"] else "a renewal wants notice"
        sentence = f"The last day for a notice: {days} days before the term ends {on(end.end_on)}, and {what}."
        yield _deadline("notice", notice.isoformat(), notice, sentence, sorted({*end.rests_on, *state.terms_rest_on}))


def _options(state: ContractState) -> Iterator[Deadline]:
    for option in state.options:
        window = option.window or {}
        most = (option.limit or {}).get("times")
        if option.status == "lapsed" or (most is not None and option.times >= most):
            continue
        name, holder = option.option_id, f" of {option.holder}" if option.holder else ""
        if (opens := window.get("start_on")) is not None:
            sentence = f"The option {name}{holder} ({option.kind}) can be exercised from {opens} on."
            yield _deadline("option-opens", opens, first_day(opens), sentence, option.rests_on, name)
        if (closes := window.get("end_on")) is not None:
            sentence = f"The option {name}{holder} ({option.kind}) can be exercised until {closes}."
            yield _deadline("option-closes", closes, last_day(closes), sentence, option.rests_on, name)


def _milestones(state: ContractState) -> Iterator[Deadline]:
    for part in state.milestones:
        if part.due_on and part.status == "scheduled":
            sentence = f"The milestone {part.milestone_id} ({part.title}) is due {on(part.due_on)}."
            yield _deadline("milestone", part.due_on, last_day(part.due_on), sentence, part.rests_on, part.milestone_id)


def _withheld(state: ContractState) -> Iterator[Deadline]:
    for part in state.withheld:
        if part.until:
            sentence = f"{part.path} is withheld until {part.until}."
            yield _deadline("withheld-until", part.until, last_day(part.until), sentence, part.rests_on, part.path)
