"""What lists of contracts are filtered and sorted by: the terms of a row, and the terms that a question looks for.

All stand in one array with one index (docs/decisions/0009). The first two places hold the days that lists are sorted by, each with an
index of its own. Words and amounts are found by terms too: a word by itself, Hangul, Kana and Han by every two neighbouring characters,
an amount by its first two digits and its power of ten.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Final

from service.domain.dates import first_day, last_day
from service.domain.state import ContractState

SORTED_DAYS: Final = {"signed_on": 1, "ends_on": 2}
"""The days that lists are sorted by, and their places in the array; Postgres counts from 1."""
MAX_WORDS = 200
MAX_WORD_LENGTH = 40
MAX_NEAR = 30
_STEPS: Final = 90
"""First two digits that the amounts of one power of ten have: 10 to 99."""
# Zero lies before twelve digits after the point, and no sum of amounts comes near 10^45.
_ZERO, _GREATEST = -12 * _STEPS - 1, 45 * _STEPS - 1
_UNSPACED: Final = "\u3005\u3007\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_RUNS = re.compile(f"[{_UNSPACED}]+|[^\\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def filters_of(state: ContractState) -> list[str]:
    """The terms of a contract: the two days, what changes with its events, then what hardly does. A role is always that of a party."""
    figures, value = state.value.figures, state.value
    terms = [*_days(state), f"status={state.status}"]
    currencies = {figure.currency for figure in figures}
    if state.delivery and state.delivery.values:
        currencies.update([delivered.currency for delivered in state.delivery.values])
    if state.ending and state.ending.delivered_value:
        currencies.add(state.ending.delivered_value["currency"])
    terms += [f"currency={currency}" for currency in sorted(currencies)]
    for total in value.by_currency:
        terms += _total_terms(total.currency, total.low.amount, total.high.amount)
    if state.delivery and state.delivery.totals:
        # A later report or signing may state other items than those that were delivered before.
        gone = {total.item_id for total in state.delivery.totals} - {item.item_id for item in state.items}
        terms += [f"product={item_id}" for item_id in sorted(gone)]
    terms += _lasting_terms(
        state.title or "",
        tuple([(party.party_id, party.name or "", *party.roles) for party in state.parties]),
        tuple([(item.item_id, item.description) for item in state.items]),
        tuple([known.label for known in state.labels]),
        tuple([(reference["scheme"], reference["id"]) for reference in state.references]),
    )
    return terms


_Texts = tuple[tuple[str, ...], ...]


# Hardly an event changes these.
@lru_cache(4_096)
def _lasting_terms(title: str, parties: _Texts, items: _Texts, labels: tuple[str, ...], references: _Texts) -> tuple[str, ...]:
    """The terms of what a contract is about, in order; a party is its id, name and roles."""
    terms = {f"product={item_id}" for item_id, _ in items} | {f"label={label}" for label in labels}
    terms |= {f"reference={scheme}:{known}" for scheme, known in references}
    for party_id, _, *roles in parties:
        terms |= {f"party={party_id}", *(f"party={party_id} role={role}" for role in roles), *(f"role={role}" for role in roles)}
    terms.update(_word_terms((title, *(name for _, name, *_ in parties), *(description for _, description in items))))
    return tuple(sorted(terms))


def _days(state: ContractState) -> tuple[str, str]:
    """The day of the signing (or by which it was), and the last day of the term; nothing after the sign where there is none."""
    signing, end = state.signing, state.term_end
    signed = (signing.signed_on or signing.signed_by) if signing else None
    signed_on = first_day(signed).isoformat() if signed else ""
    ends_on = last_day(end.end_on).isoformat() if end else ""
    return f"signed_on={signed_on}", f"ends_on={ends_on}"


# Words


def words(text: str) -> Iterator[str]:
    """The words of a text as they are looked for: without case or width, and what is written without spaces as pairs of characters."""
    # Without case the Turkish İ is an i and a dot above it, which would end the word.
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")):
        if len(run) > 1 and _IS_UNSPACED.match(run):
            yield from (run[index : index + 2] for index in range(len(run) - 1))
        else:
            yield run[:MAX_WORD_LENGTH]


def _word_terms(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The terms of the first words of some texts."""
    found: dict[str, None] = {}
    for text in texts:
        for word in words(text):
            if len(found) == MAX_WORDS:
                return tuple(found)
            found[f"word={word}"] = None
    return tuple(found)


def terms_of_text(text: str) -> list[str]:
    """The terms that a contract has which a text finds: all its words."""
    return sorted({f"word={word}" for word in words(text)})


# Amounts


@lru_cache(4_096)
def _total_terms(currency: str, low: str, high: str) -> tuple[str, ...]:
    """The terms of a range of amounts: where it lies, by its first two digits and by powers of ten.

    The range itself is read from the state where it decides: as a term it would change with every figure, and with it the index.
    """
    near = range(_size(low), _size(high) + 1)
    if len(near) > MAX_NEAR:
        return (f"near={currency} wide",)
    return tuple(
        [f"near={currency} {size}" for size in near] + [f"near={currency} e{power}" for power in sorted({s // _STEPS for s in near})]
    )


def near_terms(currency: str, low: str | None, high: str | None) -> list[str]:
    """Terms of which a contract has one, if its range meets this one."""
    first = _ZERO if low is None else _size(low)
    last = _GREATEST if high is None else _size(high)
    return [f"near={currency} wide", *(f"near={currency} {name}" for name in _cover(first, last))]


def _cover(first: int, last: int) -> Iterable[str]:
    """Whole powers of ten by their name, and the sizes before and after them one by one."""
    size = first
    while size <= last:
        if size % _STEPS == 0 and size + _STEPS - 1 <= last:
            yield f"e{size // _STEPS}"
            size += _STEPS
        else:
            yield str(size)
            size += 1


def _size(amount: str) -> int:
    """An amount's power of ten and first two digits, as one number that rises with it."""
    number = Decimal(amount)
    first, second, *_ = (*number.as_tuple().digits, 0)
    return number.adjusted() * _STEPS + 10 * first + second - 10 if number else _ZERO
