"""Open Contracting data as events: what each release says of a contract that was not known before it.

A contract is what has one ocid and one contract id. The releases of an ocid are merged as the standard merges them, in the order of their
dates, and each becomes the events that make the ledger say of the contract what the release does. What is made of a release depends on
nothing but the document and what the ledger knew before the document's first release: so the same document makes the same requests.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from service.domain.contract import EVENT_TYPES
from service.domain.events import EventData, RecordedEvent, decode_data, first_day_of
from service.domain.faults import refusal
from service.domain.state import Facts
from service.domain.timeline import admit, whole_of
from service.errors import NotAllowedNow, Refused
from service.exchange.ocds_contract import Said, check_lists, reference_of, said_of
from service.exchange.ocds_read import JsonObject, Refusal, Release, merged, objects, releases_in, text_of
from service.exchange.ocds_updates import updates

_MERGED = ("parties", "buyer", "awards", "contracts")


@dataclass(frozen=True, slots=True)
class Step:
    """What a release makes of a contract: requests for events, each with its `event_type`."""

    release: Release
    requests: list[JsonObject]


@dataclass(slots=True)
class Planned:
    """A contract of a document: whose it is, the steps that make or carry it on, and whether the first of them opens it."""

    ocid: str
    contract_id: str
    opens: bool
    steps: list[Step] = field(default_factory=list)

    @property
    def reference(self) -> str:
        return reference_of(self.ocid, self.contract_id)


History = Callable[[str], Sequence[JsonObject]]
"""What the ledger has recorded of the contract with a reference: its events as the API shows them, or none."""


def idempotency_key(planned: Planned, step: Step, index: int) -> str:
    """The key of one request of a step: the same whenever the same release is imported."""
    parts = [planned.ocid, planned.contract_id, step.release.release_id, index]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def from_ocds(document: Any, history: History, today: date) -> tuple[list[Planned], list[Refusal]]:
    """The contracts of a document with the requests that record them, and what is not recorded: each by its place and why."""
    releases, refusals = releases_in(document)
    planned: list[Planned] = []
    for ocid in dict.fromkeys(release.ocid for release in releases):
        taken = _Process([release for release in releases if release.ocid == ocid], history, today)
        refusals += taken.refusals
        planned += [contract.planned for contract in taken.contracts.values() if contract.planned.steps]
    return planned, refusals


class _Process:
    """The contracts of one ocid, as its releases tell of them."""

    def __init__(self, releases: Sequence[Release], history: History, today: date) -> None:
        self.contracts: dict[str, _Contract] = {}
        self.refusals: list[Refusal] = []
        self._history, self._today = history, today
        self._release_ids = {release.release_id for release in releases}
        known: JsonObject = {}
        for release in releases:
            if self._is_sound(release):
                said = {name: release.said[name] for name in _MERGED if name in release.said}
                after = merged(known, said)
                known = after if self._take(release, after) else known

    def _is_sound(self, release: Release) -> bool:
        """Whether a release can be merged with those before it."""
        try:
            check_lists(release.said)
            _contracts_of(release)
        except Refused as fault:
            self.refusals.append(Refusal(release.place, release.release_id, fault.detail))
            return False
        return True

    def _take(self, release: Release, known: JsonObject) -> bool:
        """Take a release into each contract that it tells of; whether it is to count as said for the releases after it."""
        told = _contracts_of(release)
        if not told:
            self.refusals.append(Refusal(release.place, release.release_id, "it tells of no contract"))
            return True
        before = len(self.refusals)
        for index, (contract_id, contract) in enumerate(told):
            try:
                said = said_of(release, known, contract_id, contract)
                self._contract(release.ocid, contract_id).take(release, said)
            except (Refused, NotAllowedNow) as fault:
                self.refusals.append(Refusal(f"{release.place}/contracts/{index}", release.release_id, fault.detail))
        return len(self.refusals) == before

    def _contract(self, ocid: str, contract_id: str) -> "_Contract":
        if contract_id not in self.contracts:
            recorded = self._history(reference_of(ocid, contract_id))
            known = _before(recorded, self._release_ids, self._today)
            self.contracts[contract_id] = _Contract(Planned(ocid, contract_id, opens=not known), known, recorded, self._today)
        return self.contracts[contract_id]


def _contracts_of(release: Release) -> list[tuple[str, JsonObject]]:
    """The contracts that a release tells of, by their ids. Refused if one is without an id of its own."""
    told = objects(release.said, "contracts", "")
    return [(text_of(contract, "id", f"contracts/{index}/"), contract) for index, contract in enumerate(told)]


def _before(events: Sequence[JsonObject], release_ids: set[str], today: date) -> list[RecordedEvent]:
    """The events before the first that one of these releases made. Refused where one of them cannot be read, such as one that is erased."""
    known = []
    for event in events:
        if event.get("source", {}).get("external_id") in release_ids:
            break
        try:
            known.append(_recorded(event, today))
        except (KeyError, msgspec.ValidationError):
            raise Refused(f"what the ledger has of the contract cannot be read whole: revision {event['revision']}") from None
    return known


def _recorded(event: JsonObject, today: date) -> RecordedEvent:
    """An event as the API shows it, as one of the fold."""
    effective_on = event.get("effective_on")
    return RecordedEvent(
        event_id=event["event_id"],
        position=event["position"],
        revision=event["revision"],
        recorded_on=today,
        effective_on=effective_on or "",
        day=first_day_of(event["event_type"], effective_on),
        data=decode_data(event["event_type"], event["schema_version"], event["data"]),
        source=event["source"],
    )


@dataclass(slots=True)
class _Contract:
    """A contract while its releases are taken: what is known of it, event by event; `recorded` is all that the ledger has."""

    planned: Planned
    events: list[RecordedEvent]
    recorded: Sequence[JsonObject]
    today: date

    @property
    def facts(self) -> Facts:
        return whole_of(self.events).facts

    def take(self, release: Release, said: Said) -> None:
        """Add the step that a release makes. Refused or NotAllowedNow if it makes none; then nothing is added."""
        self._check_order(release)
        source = _source(release)
        before, requests = len(self.events), []
        try:
            for event_type, effective_on, data in updates(self.facts if self.events else None, self.events, said):
                requests.append(self._add(event_type, effective_on, data, source))
        except (Refused, NotAllowedNow):
            del self.events[before:]
            raise
        self.planned.steps.append(Step(release, requests))

    def _check_order(self, release: Release) -> None:
        """A release says what changed since those before it: one that comes late cannot be told from what stands."""
        sources = [event.get("source", {}) for event in self.recorded]
        if release.release_id in {source.get("external_id") for source in sources}:
            if not self.events and sources[0].get("external_id") != release.release_id:
                raise Refused("the ledger knows the contract from another release of that day")
            return
        latest = max((source.get("published_on", "") for source in sources if "external_id" in source), default="")
        if release.day < latest or (not self.events and sources):
            raise Refused(f"the ledger knows a release of {latest or 'that day'} already: import releases in the order of their dates")

    def _add(self, event_type: str, effective_on: str, data: JsonObject, source: JsonObject) -> JsonObject:
        revision = len(self.events) + 1
        event = RecordedEvent(
            event_id=f"00000000-0000-0000-0000-{revision:012}",
            position=revision,
            revision=revision,
            recorded_on=self.today,
            effective_on=effective_on,
            day=first_day_of(event_type, effective_on),
            data=_checked(event_type, data),
            source=source,
        )
        admit(event, self.events, self.today)
        self.events.append(event)
        return {"event_type": event_type, "effective_on": effective_on, "source": source, "data": data}


def _source(release: Release) -> JsonObject:
    """On whose word: the publisher's, by the release, which the world had on its day."""
    name = {"name": release.publisher} if release.publisher else {}
    return {"kind": "filing", **name, "via": "OCDS", "published_on": release.day, "external_id": release.release_id}


@cache
def _reader(event_type: str) -> TypeAdapter[EventData]:
    return TypeAdapter(EVENT_TYPES[event_type])


def _checked(event_type: str, data: JsonObject) -> EventData:
    """The data as the ledger would read them. Refused for what it would refuse."""
    try:
        return _reader(event_type).validate_python(data)
    except ValidationError as error:
        raise refusal(error, f"{event_type} /data") from None
