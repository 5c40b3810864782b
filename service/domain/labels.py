"""Labels: words that readers put on a contract. They hold on every day, and are no part of what the parties agreed."""

from operator import attrgetter
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.domain.events import EventData, RecordedEvent, event_type
from service.domain.parts import Label
from service.domain.state import Contract
from service.errors import NotAllowedNow

RULES = {
    "labels-limit": "A contract has so many labels and no more.",
}

MAX_LABELS = 50
_label = attrgetter("label")

LabelText = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f]([^\x00-\x1f]{0,58}[^\s\x00-\x1f])?$", max_length=60)]
LabelList = Annotated[list[LabelText], Field(min_length=1, max_length=MAX_LABELS)]


@event_type("contract.labelled")
class ContractLabelled(EventData):
    """Labels are set and removed. A label has no effective day of its own: it holds on every day."""

    dayless = True
    set: LabelList | None = None
    remove: LabelList | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.set is None and self.remove is None:
            raise PydanticCustomError("labels", "labels are set, removed, or both")
        return self

    def check_whole(self, whole: Contract) -> None:
        if len(self._labels(whole)) > MAX_LABELS:
            raise NotAllowedNow("labels-limit", f"A contract has at most {MAX_LABELS} labels.")

    def allowed_after_end(self) -> bool:
        return True

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        facts, labels = contract.facts, self._labels(contract)
        kept = [stood for stood in facts.labels if stood.label in labels]
        new = labels.difference(stood.label for stood in kept)
        facts.labels = sorted([*kept, *(Label(label=label, rests_on=[event.revision]) for label in new)], key=_label)

    def _labels(self, contract: Contract) -> frozenset[str]:
        return frozenset(stood.label for stood in contract.facts.labels).difference(self.remove or ()).union(self.set or ())
