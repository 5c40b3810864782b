"""The parts of a contract's state, a class each: what the events of a subject build up.

A part names in `dated` its members that hold business dates (`window/end_on` for one within an object): so the state lists the coarse
ones. Whatever a part rests on is found by its name, so that a new part is a class here and a member of `Facts`.
"""

from typing import Any, ClassVar

import msgspec

JsonObject = dict[str, Any]


class Part(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A part of the state; `rests_on` names the revisions it was folded from."""

    dated: ClassVar[tuple[str, ...]] = ()


class Report(Part):
    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    stage: str
    effective_on: str
    rests_on: list[int]


class Signing(Part):
    dated: ClassVar[tuple[str, ...]] = ("effective_on", "signed_on", "signed_by")

    effective_on: str
    rests_on: list[int]
    signed_on: str | None = None
    signed_by: str | None = None


class Party(Part):
    """A party; without a name where that is sealed."""

    party_id: str
    roles: list[str]
    rests_on: list[int]
    name: str | None = None
    language: str | None = None
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

    dated: ClassVar[tuple[str, ...]] = ("start_on", "end_on", "max_end_on")

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


class WithdrawnFigure(Part):
    """A figure that its source took back."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    figure_id: str
    reason: str
    effective_on: str
    rests_on: list[int]
    derived_from: str | None = None


class FormerParty(Part):
    """A party that stepped out (`replaced`), or turned out to be another (`identified`); `became` names who stands for it."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    party_id: str
    became: str
    by: str
    effective_on: str
    rests_on: list[int]
    name: str | None = None
    language: str | None = None


class Withheld(Part):
    dated: ClassVar[tuple[str, ...]] = ("until",)

    path: str
    reason: str
    rests_on: list[int]
    until: str | None = None


class Released(Part):
    """What was withheld, and no longer is."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    path: str
    effective_on: str
    rests_on: list[int]


class Sealed(Part):
    """A member that is kept from readers without the right: its path in the data of the event, and the digest that binds its value."""

    dated: ClassVar[tuple[str, ...]] = ("until",)

    path: str
    digest: str
    rests_on: list[int]
    until: str | None = None


class Revealed(Part):
    """What was sealed in an event, and is open since another: `rests_on` names the two."""

    path: str
    rests_on: list[int]


class Gap(Part):
    """An event whose content is erased: what is known of it, and the erasure, where that was recorded by the time asked for."""

    revision: int
    event_type: str
    effective_on: str | None = None
    rests_on: list[int] = []


class Filing(Part):
    """A filing: the members it contains, and those it keeps back."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    effective_on: str
    rests_on: list[int]
    title: str | None = None
    reference: JsonObject | None = None
    contains: list[str] | None = None
    withheld: list[str] | None = None


class Option(Part):
    """An option: `status` is open, exercised or lapsed; `used_` is what extensions took of its limit, in the limit's unit or currency."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on", "window/start_on", "window/end_on", "limit/new_end_on", "exercised_on")

    option_id: str
    kind: str
    status: str
    effective_on: str
    rests_on: list[int]
    holder: str | None = None
    window: JsonObject | None = None
    limit: JsonObject | None = None
    times: int = 0
    exercised_on: str | None = None
    used_quantity: str | None = None
    used_value: str | None = None


class Amendment(Part):
    """An amendment of title, period or terms: what changed stands there, by these paths."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    amendment_id: str
    effective_on: str
    paths: list[str]
    rests_on: list[int]
    rationale: str | None = None
    treatment: str | None = None


class Extension(Part):
    dated: ClassVar[tuple[str, ...]] = ("effective_on", "new_end_on")

    via: str
    effective_on: str
    rests_on: list[int]
    added_quantity: JsonObject | None = None
    added_value: JsonObject | None = None
    new_end_on: str | None = None
    option_id: str | None = None


class Delivered(Part):
    """A total of recorded deliveries, by item and unit (units are never converted); without a quantity where all of them seal it."""

    item_id: str
    unit: str
    quantity: str | None = None


class DeliveredValue(Part):
    """A total of the values that recorded deliveries state, by item, currency and year of delivery."""

    item_id: str
    currency: str
    year: str
    amount: str


class UnsignedDelivery(Part):
    """A delivery in a contract that was not signed by then."""

    delivered_on: str
    rests_on: list[int]


class Delivery(Part):
    """`rests_on` names the events that say when deliveries started, and the latest of the recorded ones (`count` of them).

    `unsigned` are those that a signing to come is held against: of more than a hundred the earliest.
    """

    dated: ClassVar[tuple[str, ...]] = ("started_on",)

    rests_on: list[int]
    started_on: str
    partial: bool = False
    place: str | None = None
    lot: str | None = None
    item_id: str | None = None
    count: int = 0
    totals: list[Delivered] = []
    values: list[DeliveredValue] = []
    unsigned: list[UnsignedDelivery] = []


class Acceptance(Part):
    """Totals of what the buyer accepted and rejected; `rests_on` names the latest of each."""

    rests_on: list[int]
    accepted: list[Delivered] = []
    rejected: list[Delivered] = []


class Suspension(Part):
    """Deliveries that stopped for a time, of one item or of all."""

    dated: ClassVar[tuple[str, ...]] = ("suspended_on", "resumed_on")

    suspended_on: str
    rests_on: list[int]
    item_id: str | None = None
    reason: str | None = None
    resumed_on: str | None = None


class Completion(Part):
    """The deliveries of an item, or all of them, are complete."""

    dated: ClassVar[tuple[str, ...]] = ("completed_on",)

    completed_on: str
    rests_on: list[int]
    item_id: str | None = None


class Milestone(Part):
    """`status` is scheduled, met or missed, as `effective_on` has it."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on", "due_on")

    milestone_id: str
    title: str
    status: str
    effective_on: str
    rests_on: list[int]
    due_on: str | None = None


class Condition(Part):
    """`status` is satisfied or failed."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on", "due_on")

    condition_id: str
    title: str
    status: str
    effective_on: str
    rests_on: list[int]
    due_on: str | None = None


class Dispute(Part):
    """`status` is raised or resolved."""

    dated: ClassVar[tuple[str, ...]] = ("raised_on", "resolved_on")

    reference: str
    status: str
    raised_on: str
    rests_on: list[int]
    resolved_on: str | None = None


class ForceMajeure(Part):
    """`status` is declared or lifted."""

    dated: ClassVar[tuple[str, ...]] = ("declared_on", "lifted_on")

    reference: str
    status: str
    declared_on: str
    rests_on: list[int]
    lifted_on: str | None = None


class Agreement(Part):
    dated: ClassVar[tuple[str, ...]] = ("effective_on",)

    relation: str
    effective_on: str
    rests_on: list[int]
    reference: JsonObject | None = None
    parties: list[str] | None = None
    title: str | None = None


class Ending(Part):
    """How the contract ended: `kind` is superseded, cancelled, terminated or completed."""

    dated: ClassVar[tuple[str, ...]] = ("effective_on", "notice_on")

    kind: str
    effective_on: str
    rests_on: list[int]
    by: str | None = None
    cause: str | None = None
    notice_on: str | None = None
    terminated_value: JsonObject | None = None
    delivered_value: JsonObject | None = None
    successor: JsonObject | None = None


class Label(Part):
    """A word that readers put on the contract; it holds on every day."""

    label: str
    rests_on: list[int]


class Notes(Part):
    """How many notes there are, and the latest of them."""

    count: int
    rests_on: list[int]


class Explanation(Part):
    """A note that explains an anomaly."""

    anomaly_id: str
    rests_on: list[int]
