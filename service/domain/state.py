"""What a contract is: the parts that its events build up, and the view of them on a day.

`Facts` is what the fold accumulates, free of any day. `ContractState` adds what depends on the day or follows from the facts. Its
sorted JSON is the public state: it refers to events by revision only (`rests_on`), and holds no id of the contract, no position and
no instant, so that the same events give the same state anywhere.
"""

from typing import Any

import msgspec

JsonObject = dict[str, Any]


class Part(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A part of the state; `rests_on` names the revisions it was folded from."""


class Report(Part):
    stage: str
    effective_on: str
    rests_on: list[int]


class Signing(Part):
    effective_on: str
    rests_on: list[int]
    signed_on: str | None = None
    signed_by: str | None = None


class Party(Part):
    party_id: str
    name: str
    roles: list[str]
    rests_on: list[int]
    identifiers: list[JsonObject] | None = None
    relation: JsonObject | None = None


class Item(Part):
    """`quantity` as first stated; `ordered` with what extensions added."""

    item_id: str
    description: str
    rests_on: list[int]
    quantity: str | None = None
    ordered: str | None = None
    unit: str | None = None


class Period(Part):
    """Each member stands as last stated; `stated_in` names the revision that stated it."""

    rests_on: list[int]
    stated_in: dict[str, int]
    start_on: str | None = None
    duration: str | None = None
    end_on: str | None = None
    max_end_on: str | None = None


class StandingFigure(Part):
    """A figure that no revision has replaced, with the source on whose word it stands."""

    figure_id: str
    currency: str
    basis: str
    bound: str
    scope: str
    effective_on: str
    rests_on: list[int]
    source: JsonObject
    amount: str | None = None
    low: str | None = None
    high: str | None = None
    vat: str | None = None
    derived_from: JsonObject | None = None
    fx: JsonObject | None = None
    note: str | None = None


class ReplacedFigure(Part):
    figure_id: str
    replaced_by: str
    rests_on: list[int]
    derived_from: str | None = None


class Withheld(Part):
    path: str
    reason: str
    rests_on: list[int]
    until: str | None = None


class Extension(Part):
    via: str
    effective_on: str
    rests_on: list[int]
    added_quantity: JsonObject | None = None
    added_value: JsonObject | None = None
    new_end_on: str | None = None


class Delivered(Part):
    """A total of recorded deliveries, by item and unit (units are never converted)."""

    item_id: str
    unit: str
    quantity: str


class Delivery(Part):
    """`rests_on` names the events that say when deliveries started, and the latest of the recorded ones (`count` of them)."""

    rests_on: list[int]
    started_on: str
    partial: bool = False
    place: str | None = None
    lot: str | None = None
    item_id: str | None = None
    count: int = 0
    totals: list[Delivered] = []


class Agreement(Part):
    relation: str
    effective_on: str
    rests_on: list[int]
    reference: JsonObject | None = None
    parties: list[str] | None = None
    title: str | None = None


class Ending(Part):
    """How the contract ended: `kind` is terminated or completed."""

    kind: str
    effective_on: str
    rests_on: list[int]
    by: str | None = None
    cause: str | None = None
    notice_on: str | None = None
    terminated_value: JsonObject | None = None
    delivered_value: JsonObject | None = None
    successor: JsonObject | None = None


class Explanation(Part):
    """A note that explains an anomaly."""

    anomaly_id: str
    rests_on: list[int]


class Facts(Part):
    """What the events in effect say, folded; nothing in it depends on the day it is read."""

    kind: str | None = None
    title: str | None = None
    references: list[JsonObject] = []
    opening: Report | None = None
    report: Report | None = None
    signing: Signing | None = None
    parties: list[Party] = []
    items: list[Item] = []
    period: Period | None = None
    figures: list[StandingFigure] = []
    replaced_figures: list[ReplacedFigure] = []
    withheld: list[Withheld] = []
    extensions: list[Extension] = []
    delivery: Delivery | None = None
    agreements: list[Agreement] = []
    terms: JsonObject | None = None
    terms_rest_on: list[int] = []
    ending: Ending | None = None
    notes: int = 0
    explanations: list[Explanation] = []
    hypothetical: bool = False
    unplaced: list[int] = []


class TermEnd(Part):
    """The end of the term and on whose word: stated, or counted from the start by the duration."""

    end_on: str
    by: str
    rests_on: list[int]


class Extreme(Part):
    amount: str
    figure_id: str


class CurrencyRange(Part):
    currency: str
    best: StandingFigure
    low: Extreme
    high: Extreme


class Conflict(Part):
    """Two figures that differ by more than is tolerated; `difference_percent` is of the greater, to two digits."""

    figures: list[str]
    difference_percent: str
    rests_on: list[int]


class Value(Part):
    """The value as a set of figures: the best, the range in the best's currency, and each currency apart. Never an average."""

    status: str
    best: StandingFigure | None = None
    low: Extreme | None = None
    high: Extreme | None = None
    open_above: bool = False
    open_below: bool = False
    by_currency: list[CurrencyRange] = []
    support: int = 0
    conflicts: list[Conflict] = []
    withheld: list[Withheld] = []


class Quantity(Part):
    status: str
    withheld: list[Withheld] = []


class CoarseDate(Part):
    """A date stated as a year, quarter or month, where in the state it stands, and the events that said so."""

    path: str
    date: str
    rests_on: list[int]


class ContractState(Facts, kw_only=True):
    """The facts and what follows from them on a day."""

    status: str
    value: Value
    quantity: Quantity
    marks: list[str] = []
    status_rests_on: list[int] = []
    term_end: TermEnd | None = None
    uncertain: list[CoarseDate] = []
    unsettled: list[CoarseDate] = []


class Anomaly(Part):
    """Accepted, and flagged: the rule, the revisions concerned, and a sentence for a person."""

    anomaly_id: str
    rule: str
    events: list[int]
    sentence: str
    explained_by: list[int] = []


class Contract:
    """A contract while it is folded: its facts, and the anomalies met on the way."""

    __slots__ = ("anomalies", "facts")

    def __init__(self, facts: Facts | None = None, anomalies: list[Anomaly] | None = None) -> None:
        self.facts = facts or Facts()
        self.anomalies = anomalies or []

    def flag(self, rule: str, events: list[int], sentence: str) -> None:
        self.anomalies.append(anomaly(rule, events, sentence))

    def figure(self, figure_id: str) -> StandingFigure | None:
        return next((f for f in self.facts.figures if f.figure_id == figure_id), None)

    def knows_figure(self, figure_id: str) -> bool:
        replaced = self.facts.replaced_figures
        return self.figure(figure_id) is not None or any(f.figure_id == figure_id for f in replaced)

    def item(self, item_id: str) -> Item | None:
        return next((item for item in self.facts.items if item.item_id == item_id), None)


def anomaly(rule: str, events: list[int], sentence: str) -> Anomaly:
    """An anomaly with the id made of its rule and revisions."""
    revisions = sorted(set(events))
    return Anomaly(anomaly_id=".".join([rule, *map(str, revisions)]), rule=rule, events=revisions, sentence=sentence)
