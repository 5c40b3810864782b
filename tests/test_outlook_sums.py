"""The sums over all contracts are those of their contributions, however often and in whatever order contributions are replaced."""

from collections import defaultdict
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.commitments import Line
from service.projections.outlook import AMOUNTS, DIMENSIONS, Changes, Outlook, PartyForm

decimals = st.integers(0, 10**12).map(lambda number: str(Decimal(number) / 100))
lines = st.builds(
    Line,
    basis=st.sampled_from(["contractual", "estimated"]),
    year=st.sampled_from(["unscheduled", "2024"]),
    product=st.sampled_from(["", "cells", "packs"]),
    currency=st.sampled_from(["USD", "KRW"]),
    **dict.fromkeys(AMOUNTS, decimals),
)
forms = st.builds(PartyForm, party_id=st.sampled_from("abc"), name=st.sampled_from(["A", "B"]))
contributions = st.builds(
    Outlook,
    title=st.just(""),
    status=st.sampled_from(["signed", "expired"]),
    hypothetical=st.just(False),
    lines=st.lists(lines, max_size=4),
    deadlines=st.just([]),
    parties=st.lists(forms, max_size=3, unique_by=lambda form: form.party_id),
)
Sums = dict[tuple[Any, ...], tuple[Decimal, ...]]


def by_hand(standing: list[Outlook]) -> Sums:
    """Each line, for all parties and each, for all products and its own; written without the code under test."""
    found: Sums = {}
    for outlook in standing:
        for line in outlook.lines:
            told = tuple(Decimal(getattr(line, name)) for name in AMOUNTS)
            for party in [None, *(form.party_id for form in outlook.parties)]:
                for product in [None, line.product]:
                    key = (
                        *(party is not None, product is not None, party or "", product or ""),
                        *(line.currency, "", line.year, line.basis, outlook.status),
                    )
                    sums = found.get(key, (Decimal(0),) * len(AMOUNTS))
                    found[key] = tuple(one + other for one, other in zip(sums, told, strict=True))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 4), contributions), max_size=4), max_size=6))
def test_sums_are_those_of_the_contributions_that_stand(chunks: list[list[tuple[int, Outlook]]]) -> None:
    kept: dict[int, str] = {}
    stored: dict[tuple[Any, ...], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * (len(AMOUNTS) + 1))
    parties: dict[tuple[str, str], int] = defaultdict(int)
    for chunk in chunks:
        changes = Changes(1)
        for number, outlook in dict(chunk).items():
            now = msgspec.json.encode(outlook, order="sorted").decode()
            changes.replace(str(number), kept.get(number), now)
            kept[number] = now
        for row in changes.commitments:
            key = tuple(row[name] for name in DIMENSIONS)
            stored[key] = [known + Decimal(row[name]) for known, name in zip(stored[key], (*AMOUNTS, "lines"), strict=True)]
        for row in changes.parties:
            parties[row["party_id"], row["form"]] += row["contracts"]
    standing = [msgspec.json.decode(text, type=Outlook) for text in kept.values()]
    assert {key: tuple(total[:-1]) for key, total in stored.items() if total[-1]} == by_hand(standing)
    # Nothing is left of what is taken out.
    assert all(not any(total) for total in stored.values() if not total[-1])
    assert all(count >= 0 for count in parties.values())
    assert sum(parties.values()) == sum(len(outlook.parties) for outlook in standing)
