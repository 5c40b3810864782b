"""Notes: a person's words beside the record, about the contract or a part of it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from service.domain.delivery import check_known_item
from service.domain.events import SEALABLE, STRICT, EventData, Id, RecordedEvent, Text, Uuid, event_type
from service.domain.figures import check_known_figure
from service.domain.parts import Explanation, Notes
from service.domain.state import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSubject:
    """What a note is about: one of an event, figure, item or anomaly of the contract."""

    __pydantic_config__ = STRICT

    event_id: Uuid | None = None
    figure_id: Id | None = None
    item_id: Id | None = None
    anomaly_id: Annotated[str, StringConstraints(pattern=r"^[a-z-]+(\.[0-9]+)+$", max_length=200)] | None = None


def _one_subject(subject: NoteSubject) -> NoteSubject:
    if sum(getattr(subject, name) is not None for name in subject.__dataclass_fields__) != 1:
        raise PydanticCustomError("note_subject", "a note is about exactly one thing, or says nothing of what it is about")
    return subject


@event_type("note.added")
class NoteAdded(EventData):
    """A note, perhaps about an event, a figure, an item or an anomaly, which it may explain."""

    text: Annotated[Text, SEALABLE]
    about: Annotated[NoteSubject, AfterValidator(_one_subject)] | None = None

    def check_whole(self, whole: Contract) -> None:
        if self.about and self.about.figure_id:
            check_known_figure(whole, self.about.figure_id)
        if self.about and self.about.item_id:
            check_known_item(whole, self.about.item_id)

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        """Figures and items are looked up; events and anomalies are not part of what is folded."""
        about = self.about
        if about is None:
            return True
        return (about.figure_id is None or at.knows_figure(about.figure_id)) and at.has_item(about.item_id)

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        stood = contract.facts.notes
        contract.facts.notes = Notes(count=stood.count + 1 if stood else 1, rests_on=[event.revision])
        if self.about and self.about.anomaly_id:
            explanation = Explanation(anomaly_id=self.about.anomaly_id, rests_on=[event.revision])
            contract.facts.explanations.append(explanation)

    def event_ids(self) -> tuple[str, ...]:
        return (self.about.event_id,) if self.about and self.about.event_id else ()

    def anomaly_id(self) -> str | None:
        return self.about.anomaly_id if self.about else None
