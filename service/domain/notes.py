"""Notes: a person's words beside the record, about the contract or a part of it."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from service.domain.delivery import check_known_item
from service.domain.events import SEALABLE, STRICT, EventData, RecordedEvent, Text, event_type
from service.domain.figures import check_known_figure
from service.domain.options import check_known_option, option_of
from service.domain.parts import Explanation, JsonObject, Notes
from service.domain.state import Contract

_LOCAL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
_IDS = {
    "event": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "anomaly": re.compile(r"[a-z-]+(\.[0-9]+)+"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSubject:
    """What a note is about: an event, figure, item, option or anomaly of the contract, by its id."""

    __pydantic_config__ = STRICT

    kind: Literal["event", "figure", "item", "option", "anomaly"]
    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _check_id(subject: NoteSubject) -> NoteSubject:
    if not _IDS.get(subject.kind, _LOCAL_ID).fullmatch(subject.id):
        raise PydanticCustomError("note_subject", "this is no id of such a thing ({kind})", {"kind": subject.kind, "member": "id"})
    return subject


def _one_pair(data: JsonObject) -> JsonObject:
    """Version 1 had a member for each kind (`{"figure_id": "krw-1"}`), of which a note stated one; and none for options."""
    if "about" not in data:
        return data
    ((member, subject_id),) = data["about"].items()
    return {**data, "about": {"kind": member.removesuffix("_id"), "id": subject_id}}


@event_type("note.added", _one_pair)
class NoteAdded(EventData):
    """A note, perhaps about an event, a figure, an item, an option or an anomaly, which it may explain."""

    text: Annotated[Text, SEALABLE]
    about: Annotated[NoteSubject, AfterValidator(_check_id)] | None = None

    def check_whole(self, whole: Contract) -> None:
        if figure_id := self._about("figure"):
            check_known_figure(whole, figure_id)
        if item_id := self._about("item"):
            check_known_item(whole, item_id)
        if option_id := self._about("option"):
            check_known_option(whole, option_id)

    def _about(self, kind: str) -> str | None:
        """The id of what the note is about, if it is of this kind."""
        return self.about.id if self.about and self.about.kind == kind else None

    def allowed_after_end(self) -> bool:
        return True

    def is_placed(self, at: Contract) -> bool:
        """Figures, items and options are looked up; events and anomalies are not part of what is folded."""
        figure_id, option_id = self._about("figure"), self._about("option")
        if (figure_id and not at.knows_figure(figure_id)) or (option_id and option_of(at, option_id) is None):
            return False
        return at.has_item(self._about("item"))

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        stood = contract.facts.notes
        contract.facts.notes = Notes(count=stood.count + 1 if stood else 1, rests_on=[event.revision])
        if anomaly_id := self.anomaly_id():
            contract.facts.explanations.append(Explanation(anomaly_id=anomaly_id, rests_on=[event.revision]))

    def event_ids(self) -> tuple[str, ...]:
        event_id = self._about("event")
        return (event_id,) if event_id else ()

    def anomaly_id(self) -> str | None:
        return self._about("anomaly")
