"""The agreement: reported, signed, linked to others."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from service.domain.dates import BusinessDate, first_day, last_day, on
from service.domain.disclosure import withheld_parts
from service.domain.events import EventData, Id, Name, RecordedEvent, Word, event_type, more_members, stated
from service.domain.figures import Figures, add_figure, check_new_figures, has_origin, keep_apart
from service.domain.parties import standing_party
from service.domain.parts import Agreement, Delivered, Item, Report, Signing
from service.domain.state import Contract
from service.domain.terms import (
    Identifier,
    ItemData,
    Items,
    Kind,
    Parties,
    PeriodData,
    References,
    TermPeriod,
    Terms,
    WithheldList,
    state_period,
)
from service.errors import MemberFault, NotAllowedNow, Refused

RULES = {
    "signed-once": "A contract is signed once.",
    "supplier-and-buyer": "By the signing a supplier and a buyer stand, each named or withheld.",
}
FLAGS = {
    "signed-ahead": "The day of signing is after both the day of effect and the day of recording.",
    "start-before-signing": "The period that the signing states starts before it.",
    "delivery-before-signing": "A delivery came before the signing, by `signed_on`, else by `signed_by`.",
    "delivered-more-than-ordered": "More of an item is delivered than is ordered.",
}


class _Opening(EventData):
    """What the two events that may open a contract have in common: the members they state about it."""

    __slots__ = ()
    opens = True
    title: Name | None
    kind: Kind | None
    references: References | None
    parties: Parties | None
    items: Items | None
    period: TermPeriod | None
    figures: Figures | None

    def reference_ids(self) -> tuple[tuple[str, str], ...]:
        return tuple([(reference.scheme, reference.id) for reference in self.references]) if self.references else ()

    def check_whole(self, whole: Contract) -> None:
        if whole.facts.opening is None and (faults := tuple(self._faults_of_opening())):
            sentences = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults)
            raise Refused(f"{sentences}.", faults)
        check_new_figures(whole, self.figures or [])

    def _faults_of_opening(self) -> Iterator[MemberFault]:
        """What the event lacks, or refers to in vain, if it opens a contract: faults of its data, since there is nothing else yet."""
        for name in ("title", "kind", "parties"):
            if getattr(self, name) is None:
                yield MemberFault(f"/data/{name}", "the event that opens a contract states this member")
        known = {figure.figure_id for figure in self.figures or ()}
        for index, figure in enumerate(self.figures or ()):
            if figure.derived_from and figure.derived_from.figure_id not in known:
                yield MemberFault(f"/data/figures/{index}/derived_from/figure_id", "the event that opens a contract states no such figure")

    def _state_members(self, contract: Contract, event: RecordedEvent) -> None:
        facts, revision = contract.facts, event.revision
        if self.title is not None:
            facts.title, facts.stated_in["title"] = self.title, revision
        if self.kind is not None:
            facts.kind, facts.stated_in["kind"] = self.kind, revision
        if self.references is not None:
            facts.references = [{**stated(reference), "rests_on": [revision]} for reference in self.references]
        if self.parties is not None:
            facts.parties = [standing_party(party, revision) for party in self.parties]
        if self.items is not None:
            facts.items = [_item(item, revision) for item in self.items]
            _flag_more_delivered(contract, revision)
        if self.period is not None:
            state_period(facts, revision, self.period)
        if self.figures is not None:
            _add_figures(contract, self.figures, event)


def _add_figures(contract: Contract, figures: Figures, event: RecordedEvent) -> None:
    """A figure derived from one that is absent is left out, and the rest of the event folded: it is more than its figures."""
    for figure in figures:
        if has_origin(contract, figure):
            add_figure(contract, figure, event)
        else:
            keep_apart(contract, event.revision, [figure.figure_id])


def _item(item: ItemData, revision: int) -> Item:
    return Item(
        item_id=item.item_id,
        description=item.description,
        quantity=item.quantity,
        ordered=item.quantity,
        unit=item.unit,
        rests_on=[revision],
    )


@event_type("contract.reported", more_members)
class ContractReported(_Opening):
    """A source reports a contract, or how far it has come: reported, negotiating, denied. May open a contract, and may recur."""

    stage: Literal["reported", "negotiating", "denied"]
    title: Name | None = None
    kind: Kind | None = None
    references: References | None = None
    parties: Parties | None = None
    items: Items | None = None
    period: TermPeriod | None = None
    figures: Figures | None = None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        report = Report(stage=self.stage, effective_on=event.effective_on, rests_on=[event.revision])
        contract.facts.report = report
        if event.revision == 1:
            contract.facts.opening = report
        self._state_members(contract, event)


@event_type("contract.signed", more_members)
class ContractSigned(_Opening):
    """The contract was signed, on a day or by a latest possible day. Once; may open a contract, and replaces the members it states."""

    signed_on: BusinessDate | None = None
    signed_by: BusinessDate | None = None
    title: Name | None = None
    kind: Kind | None = None
    references: References | None = None
    parties: Parties | None = None
    items: Items | None = None
    period: TermPeriod | None = None
    figures: Figures | None = None
    withheld: WithheldList | None = None
    terms: Terms | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.signed_on and self.signed_by and first_day(self.signed_on) > last_day(self.signed_by):
            raise PydanticCustomError("signing_order", "the signing is after the latest possible day of it", {"member": "signed_on"})
        return self

    def check_whole(self, whole: Contract) -> None:
        if whole.facts.signing is not None:
            raise NotAllowedNow("signed-once", "The contract is signed already; record what changed with an event of its own type.")
        # Not super(): slots make the decorator return another class than the one in this method's closure.
        _Opening.check_whole(self, whole)

    def check_place(self, at: Contract) -> None:
        named = {role for party in self.parties or at.facts.parties for role in party.roles}
        withheld = {entry.path for entry in self.withheld or ()}
        for role in ("supplier", "buyer"):
            if role not in named and not withheld & {"/parties", f"/parties/{role}"}:
                raise NotAllowedNow(
                    "supplier-and-buyer",
                    f"A signed contract has a supplier and a buyer, and no {role} stands by then: name a party with the role {role}, "
                    f'or withhold it with {{"path": "/parties/{role}", "reason": ...}}.',
                )

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        facts, revision = contract.facts, event.revision
        facts.signing = Signing(signed_on=self.signed_on, signed_by=self.signed_by, effective_on=event.effective_on, rests_on=[revision])
        if revision == 1:
            facts.opening = Report(stage="signed", effective_on=event.effective_on, rests_on=[revision])
        self._state_members(contract, event)
        if self.withheld is not None:
            facts.withheld = withheld_parts(self.withheld, revision)
        if self.terms is not None:
            facts.terms, facts.terms_rest_on = stated(self.terms), [revision]
        flag_start_before_signing(contract, self.period, revision)
        _flag_signed_ahead(contract, self.signed_on, event)
        if facts.delivery:
            for delivery in facts.delivery.unsigned:
                flag_delivery_before_signing(contract, delivery.delivered_on, delivery.rests_on[0])
            facts.delivery.unsigned = []


def more_than_ordered(contract: Contract, total: Delivered) -> str | None:
    """In words, that a total of deliveries is more than what is ordered; None where it is not, or cannot be compared."""
    item = contract.item(total.item_id)
    if item is None or item.ordered is None or item.unit != total.unit or total.quantity is None:
        return None
    if Decimal(total.quantity) <= Decimal(item.ordered):
        return None
    return f"{total.quantity} {total.unit} of {total.item_id} delivered, {item.ordered} ordered"


def _flag_more_delivered(contract: Contract, revision: int) -> None:
    totals = contract.facts.delivery.totals if contract.facts.delivery else []
    sentences = [sentence for total in totals if (sentence := more_than_ordered(contract, total))]
    if sentences:
        contract.flag("delivered-more-than-ordered", [revision], "; ".join(sentences))


def _signing_day(signing: Signing) -> date:
    """The day of signing that other days are held against."""
    if signing.signed_on:
        return first_day(signing.signed_on)
    return last_day(signing.signed_by) if signing.signed_by else first_day(signing.effective_on)


def _signing_in_words(signing: Signing) -> str:
    if signing.signed_on:
        return f"the signing {on(signing.signed_on)}"
    if signing.signed_by:
        return f"the latest possible signing day, {signing.signed_by}"
    return f"the signing, in effect {on(signing.effective_on)}"


def flag_start_before_signing(contract: Contract, period: PeriodData | None, revision: int) -> None:
    signing = contract.facts.signing
    if signing and period and period.start_on and last_day(period.start_on) < _signing_day(signing):
        sentence = f"the period starts {on(period.start_on)}, before {_signing_in_words(signing)}"
        contract.flag("start-before-signing", [revision], sentence)


def _flag_signed_ahead(contract: Contract, signed_on: str | None, event: RecordedEvent) -> None:
    """A signing may take effect before it is signed, or be announced; one that stands as made before its day does neither."""
    if signed_on and first_day(signed_on) > max(last_day(event.effective_on), event.recorded_on):
        sentence = f"signed {on(signed_on)}, after its day of effect, {event.effective_on}, and after it was recorded"
        contract.flag("signed-ahead", [event.revision], sentence)


def flag_delivery_before_signing(contract: Contract, day: str, revision: int) -> None:
    """Flag a delivery, recorded as `revision`, whose day is before the signing."""
    signing = contract.facts.signing
    if signing and first_day(day) < _signing_day(signing):
        sentence = f"delivery {on(day)} came before {_signing_in_words(signing)}"
        contract.flag("delivery-before-signing", [revision, *signing.rests_on], sentence)


@event_type("agreement.linked")
class AgreementLinked(EventData):
    """The parties made another agreement beside this one: joint development, a framework, a successor."""

    relation: Word
    title: Name | None = None
    reference: Identifier | None = None
    parties: Annotated[list[Id], Field(min_length=1, max_length=50)] | None = None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        contract.facts.agreements.append(
            Agreement(
                relation=self.relation,
                title=self.title,
                reference=stated(self.reference),
                parties=self.parties,
                effective_on=event.effective_on,
                rests_on=[event.revision],
            )
        )
