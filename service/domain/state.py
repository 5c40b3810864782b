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


class UnsignedDelivery(Part):
    """A delivery in a contract that was not signed by then."""

    delivered_on: str
    rests_on: list[int]


class Delivery(Part):
    """`rests_on` names the events that say when deliveries started, and the latest of the recorded ones (`count` of them).

    `unsigned` are those that a signing to come is held against: of more than a hundred the earliest.
    """

    rests_on: list[int]
    started_on: str
    partial: bool = False
    place: str | None = None
    lot: str | None = None
    item_id: str | None = None
    count: int = 0
    totals: list[Delivered] = []
    unsigned: list[UnsignedDelivery] = []


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


class Notes(Part):
    """How many notes there are, and the latest of them."""

    count: int
    rests_on: list[int]


class Explanation(Part):
    """A note that explains an anomaly."""

    anomaly_id: str
    rests_on: list[int]


class Figures(Part):
    """The figures that stand: all that the fold knows of the value."""

    figures: list[StandingFigure] = []


class Facts(Part):
    """What the events in effect say, folded; nothing in it depends on the day it is read.

    `stated_in` names the revisions that stated kind and title. `unplaced_figures` are the ids that events under `unplaced` have taken.
    """

    kind: str | None = None
    title: str | None = None
    stated_in: dict[str, int] = {}
    references: list[JsonObject] = []
    opening: Report | None = None
    report: Report | None = None
    signing: Signing | None = None
    parties: list[Party] = []
    items: list[Item] = []
    period: Period | None = None
    value: Figures = msgspec.field(default_factory=Figures)
    replaced_figures: list[ReplacedFigure] = []
    withheld: list[Withheld] = []
    extensions: list[Extension] = []
    delivery: Delivery | None = None
    agreements: list[Agreement] = []
    terms: JsonObject | None = None
    terms_rest_on: list[int] = []
    ending: Ending | None = None
    notes: Notes | None = None
    explanations: list[Explanation] = []
    hypothetical: bool = False
    unplaced: list[int] = []
    unplaced_figures: list[str] = []

    @property
    def figures(self) -> list[StandingFigure]:
        return self.value.figures


class TermEnd(Part):
    """The end of the term and on whose word: stated, or counted from the start by the duration."""

    end_on: str
    by: str
    rests_on: list[int]


class Extreme(Part):
    amount: str
    figure_id: str


class Best(Part):
    """The best figure in a currency; all that is known of it stands under `figures`."""

    figure_id: str
    amount: str | None = None
    low: str | None = None
    high: str | None = None


class CurrencyRange(Part):
    currency: str
    best: Best
    low: Extreme
    high: Extreme


class Conflict(Part):
    """Two figures that differ by more than is tolerated; `difference_percent` is of the greater, to two digits."""

    figures: list[str]
    difference_percent: str
    rests_on: list[int]


class Value(Figures, kw_only=True):
    """The value as a set of figures: the best, the range in the best's currency, each currency apart. Never an average."""

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
        for figure in self.facts.value.figures:
            if figure.figure_id == figure_id:
                return figure
        return None

    def knows_figure(self, figure_id: str) -> bool:
        """Whether a figure stands or stood."""
        replaced = self.facts.replaced_figures
        return self.figure(figure_id) is not None or any(f.figure_id == figure_id for f in replaced)

    def has_heard_of_figure(self, figure_id: str) -> bool:
        """Whether an event states a figure with this id, be it that the fold could not place it."""
        return self.knows_figure(figure_id) or figure_id in self.facts.unplaced_figures

    def item(self, item_id: str) -> Item | None:
        for item in self.facts.items:
            if item.item_id == item_id:
                return item
        return None

    def has_item(self, item_id: str | None) -> bool:
        """Whether the item that an event names is there; so it is where the event names none."""
        return item_id is None or self.item(item_id) is not None


def anomaly(rule: str, events: list[int], sentence: str) -> Anomaly:
    """An anomaly with the id made of its rule and revisions."""
    revisions = sorted(set(events))
    return Anomaly(anomaly_id=".".join([rule, *map(str, revisions)]), rule=rule, events=revisions, sentence=sentence)
