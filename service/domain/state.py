"""What a contract is: the parts that its events build up, and the view of them on a day.

`Facts` is what the fold accumulates, free of any day. `ContractState` adds what depends on the day or follows from the facts. Its
sorted JSON is the public state: it refers to events by revision only (`rests_on`), and holds no id of the contract, no position and
no instant, so that the same events give the same state anywhere.
"""

import msgspec

from service.domain.parts import (
    Acceptance,
    Agreement,
    Amendment,
    Completion,
    Condition,
    Delivery,
    Dispute,
    Ending,
    Explanation,
    Extension,
    Filing,
    ForceMajeure,
    FormerParty,
    Gap,
    Item,
    JsonObject,
    Label,
    Milestone,
    Notes,
    Option,
    Party,
    Period,
    Released,
    ReplacedFigure,
    Report,
    Revealed,
    Sealed,
    Signing,
    StandingFigure,
    Suspension,
    WithdrawnFigure,
    Withheld,
)

__all__ = ["Anomaly", "Contract", "ContractState", "Facts", "JsonObject"]


class _Shown(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Members at their default are left out of the JSON."""


class Figures(_Shown):
    """The figures that stand: all that the fold knows of the value."""

    figures: list[StandingFigure] = []


class Facts(_Shown):
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
    withdrawn_figures: list[WithdrawnFigure] = []
    former_parties: list[FormerParty] = []
    withheld: list[Withheld] = []
    released: list[Released] = []
    sealed: list[Sealed] = []
    revealed: list[Revealed] = []
    filings: list[Filing] = []
    options: list[Option] = []
    amendments: list[Amendment] = []
    extensions: list[Extension] = []
    delivery: Delivery | None = None
    acceptance: Acceptance | None = None
    suspensions: list[Suspension] = []
    completions: list[Completion] = []
    milestones: list[Milestone] = []
    conditions: list[Condition] = []
    disputes: list[Dispute] = []
    force_majeure: list[ForceMajeure] = []
    agreements: list[Agreement] = []
    terms: JsonObject | None = None
    terms_rest_on: list[int] = []
    ending: Ending | None = None
    labels: list[Label] = []
    notes: Notes | None = None
    explanations: list[Explanation] = []
    erased: list[Gap] = []
    hypothetical: bool = False
    unplaced: list[int] = []
    unplaced_figures: list[str] = []

    @property
    def figures(self) -> list[StandingFigure]:
        return self.value.figures


class TermEnd(_Shown):
    """The end of the term and on whose word: stated, or counted from the start by the duration."""

    end_on: str
    by: str
    rests_on: list[int]


class Extreme(_Shown):
    amount: str
    figure_id: str


class Best(_Shown):
    """The best figure in a currency; all that is known of it stands under `figures`."""

    figure_id: str
    amount: str | None = None
    low: str | None = None
    high: str | None = None


class CurrencyRange(_Shown):
    currency: str
    best: Best
    low: Extreme
    high: Extreme


class Conflict(_Shown):
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


class Quantity(_Shown):
    status: str
    withheld: list[Withheld] = []


class CoarseDate(_Shown):
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
    open_options: list[str] = []
    status_rests_on: list[int] = []
    term_end: TermEnd | None = None
    uncertain: list[CoarseDate] = []
    unsettled: list[CoarseDate] = []


class Anomaly(_Shown):
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
        if self.figure(figure_id) is not None or any(f.figure_id == figure_id for f in self.facts.replaced_figures):
            return True
        return any(f.figure_id == figure_id for f in self.facts.withdrawn_figures)

    def has_heard_of_figure(self, figure_id: str) -> bool:
        """Whether an event states a figure with this id, be it that the fold could not place it."""
        return self.knows_figure(figure_id) or figure_id in self.facts.unplaced_figures

    def party(self, party_id: str) -> Party | None:
        for party in self.facts.parties:
            if party.party_id == party_id:
                return party
        return None

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
