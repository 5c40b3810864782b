"""Who the parties are, as it changes: added, replaced by another, identified."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from service.domain.events import EventData, Id, Language, Name, RecordedEvent, check_room, event_type, more_members, stated
from service.domain.figures import keep_apart
from service.domain.parts import FormerParty, JsonObject, Party
from service.domain.state import Contract
from service.domain.terms import Identifier, PartyData, distinct
from service.errors import NotAllowedNow

RULES = {
    "known-party": "A party that is referred to stands or stood.",
    "unique-party": "A party has an id of its own.",
}
FLAGS = {
    "joins-twice": "A party joins that was one by then.",
}

MAX_PARTIES = 50
MAX_IDENTIFIERS = 100


def standing_party(party: PartyData, revision: int) -> Party:
    return Party(
        party_id=party.party_id,
        name=party.name,
        language=party.language,
        roles=party.roles,
        identifiers=stated(party.identifiers),
        relation=stated(party.relation),
        rests_on=[revision],
    )


def check_known_party(whole: Contract, party_id: str) -> None:
    if not _knows_party(whole, party_id):
        raise NotAllowedNow("known-party", f"The contract has no party {party_id}; add it first with party.added.")


def _knows_party(whole: Contract, party_id: str) -> bool:
    """Whether a party stands or stood."""
    return whole.party(party_id) is not None or any(former.party_id == party_id for former in whole.facts.former_parties)


def _check_new_party(whole: Contract, party: PartyData) -> None:
    if _knows_party(whole, party.party_id):
        raise NotAllowedNow("unique-party", f"The contract has a party {party.party_id} already; give the new one an id of its own.")


@event_type("party.added", more_members)
class PartyAdded(EventData):
    """A party joins the contract."""

    party: PartyData

    def check_whole(self, whole: Contract) -> None:
        _check_new_party(whole, self.party)
        if len(whole.facts.parties) >= MAX_PARTIES:
            raise NotAllowedNow("parts-limit", f"A contract holds at most {MAX_PARTIES} parties.")

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        _drop_standing(contract, self.party.party_id, event.revision)
        contract.facts.parties.append(standing_party(self.party, event.revision))


@event_type("party.replaced", more_members)
class PartyReplaced(EventData):
    """A novation: one party steps out, and another takes its place."""

    replaces: Id
    party: PartyData

    def check_whole(self, whole: Contract) -> None:
        check_known_party(whole, self.replaces)
        _check_new_party(whole, self.party)
        check_room(whole.facts.former_parties, "former parties")

    def is_placed(self, at: Contract) -> bool:
        return at.party(self.replaces) is not None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        _drop_standing(contract, self.party.party_id, event.revision)
        _leave(contract, self.replaces, self.party.party_id, "replaced", event)
        contract.facts.parties.append(standing_party(self.party, event.revision))


@event_type("party.identified", more_members)
class PartyIdentified(EventData):
    """It turned out who a party is: identifiers are added to it, and the parties that were the same are merged into it."""

    party_id: Id
    name: Name | None = None
    language: Language | None = None
    identifiers: Annotated[list[Identifier], Field(min_length=1, max_length=20), distinct("scheme", "id")] | None = None
    merges: Annotated[list[Id], Field(min_length=1, max_length=20), distinct()] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.name is None and self.identifiers is None and self.merges is None:
            raise PydanticCustomError("identification", "an identification gives a name, identifiers, or the parties it merges")
        if self.language and self.name is None:
            raise PydanticCustomError("nameless", "the language is that of a name, and none is given", {"member": "language"})
        if self.merges and self.party_id in self.merges:
            raise PydanticCustomError("merges_itself", "a party cannot be merged into itself")
        return self

    def check_whole(self, whole: Contract) -> None:
        for party_id in (self.party_id, *(self.merges or ())):
            check_known_party(whole, party_id)
        check_room(whole.facts.former_parties, "former parties", len(self.merges or ()))
        party = whole.party(self.party_id)
        if party and len(party.identifiers or ()) + len(self.identifiers or ()) > MAX_IDENTIFIERS:
            raise NotAllowedNow("parts-limit", f"A party has at most {MAX_IDENTIFIERS} identifiers.")

    def is_placed(self, at: Contract) -> bool:
        return at.party(self.party_id) is not None

    def apply(self, contract: Contract, event: RecordedEvent) -> None:
        party = contract.party(self.party_id)
        if party is None:
            return
        if self.name:
            party.name, party.language = self.name, self.language
        _identify(party, stated(self.identifiers) or [])
        for party_id in dict.fromkeys(self.merges or ()):
            if not _knows_party(contract, party_id):
                keep_apart(contract, event.revision, ())  # it joins later; the rest of the event is folded
            elif (same := contract.party(party_id)) is not None and same is not party:
                party.roles = list(dict.fromkeys([*party.roles, *same.roles]))
                _identify(party, same.identifiers or [])
                party.rests_on = [*party.rests_on, *same.rests_on]
                _leave(contract, party_id, self.party_id, "identified", event)
        party.rests_on = list(dict.fromkeys([*party.rests_on, event.revision]))


def _identify(party: Party, identifiers: Sequence[JsonObject]) -> None:
    new = [known for known in identifiers if known not in (party.identifiers or [])]
    if new:
        party.identifiers = [*(party.identifiers or []), *new]


def _leave(contract: Contract, party_id: str, became: str, by: str, event: RecordedEvent) -> None:
    """A party no longer stands: another does so for it."""
    party = contract.party(party_id)
    if party is None:
        return
    contract.facts.parties.remove(party)
    contract.facts.former_parties.append(
        FormerParty(
            party_id=party_id,
            name=party.name,
            language=party.language,
            became=became,
            by=by,
            effective_on=event.effective_on,
            rests_on=[*party.rests_on, event.revision],
        )
    )


def _drop_standing(contract: Contract, party_id: str, revision: int) -> None:
    """A party joins that stands already, by an event recorded later about an earlier day: the one that joins counts."""
    stands = contract.party(party_id)
    if stands is not None:
        contract.facts.parties.remove(stands)
        contract.flag("joins-twice", [revision, *stands.rests_on], f"{party_id} joins, and was a party by then")
