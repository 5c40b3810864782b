"""A contract as the Open Contracting Data Standard (OCDS 1.1) tells it: releases in the order of recording, and the record they make.

Each release is whole: it says all that is known by then, and null where something that an earlier one said no longer holds. So the merge
of the releases, by the standard's own routine, is the compiled release of the record, and both follow from the contract's state.
What OCDS has no member for stands under `ledger`, an extension of ours; docs/ocds.md names what does not survive.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from service.domain.dates import first_day, last_day
from service.domain.events import RecordedEvent
from service.domain.parts import Item, Option, Party, StandingFigure
from service.domain.state import ContractState
from service.domain.timeline import tell

EACH_REVISION = 128
EACH_64TH_REVISION = 1_024
OCID_PREFIX = "contract-ledger-"
JsonObject = dict[str, Any]
BINDING = frozenset({"contractual", "disclosed", "confirmed"})
_EXTENSION = "https://raw.githubusercontent.com/open-contracting-extensions/{}/master/extension.json"
EXTENSIONS = [_EXTENSION.format(f"ocds_{name}_extension") for name in ("lots", "options", "renewal", "withheldInformation")]
"""Those of the registry of extensions whose members stand here. `contracts/ledger` is of none: it is this service's own."""
_ENDED = {"completed": "terminated", "expired": "terminated", "terminated": "terminated", "superseded": "terminated"}
_MILESTONE = {"scheduled": "scheduled", "met": "met", "missed": "notMet"}
_TAGS = {
    "terms.amended": "contractAmendment",
    "order.extended": "contractAmendment",
    "value.revised": "contractAmendment",
    "contract.completed": "contractTermination",
    "contract.terminated": "contractTermination",
    "contract.cancelled": "contractTermination",
    "contract.superseded": "contractTermination",
}
_encoder = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Exported:
    """A contract to export: its events by revision, and the instant each was recorded at."""

    contract_id: str
    events: Sequence[RecordedEvent]
    recorded_at: Sequence[str]

    @property
    def ocid(self) -> str:
        return OCID_PREFIX + self.contract_id


def encode(package: JsonObject) -> bytes:
    """JSON with every decimal as a number of all its digits."""
    return _encoder.encode(package)


def releases_and_compiled(exported: Exported) -> tuple[list[JsonObject], JsonObject]:
    """The releases of a contract, one for each revision (of a long contract one for several in a row), and their compiled release.

    A release tells the contract as it was known then, on the day of the recording: it never says anything else, whatever is recorded later
    and whenever it is read. The last one of a long contract may give way to another when the contract goes on.
    """
    releases: list[JsonObject] = []
    compiled: JsonObject = {}
    for revision in _told_revisions(len(exported.events)):
        event = exported.events[revision - 1]
        state = tell(exported.events[:revision], event.recorded_on).state
        release = _over(compiled, {"ocid": exported.ocid, "initiationType": "tender", "language": "en", **to_ocds(exported, state)})
        compiled = _without_nulls(release)
        instant = exported.recorded_at[revision - 1]
        releases.append({**release, "id": event.event_id, "date": instant, "tag": [_tag(event, first=not releases)]})
    latest = releases[-1]["date"]
    return releases, {**compiled, "id": f"{exported.ocid}-{latest}", "date": latest, "tag": ["compiled"]}


def release_package(exported: Exported) -> JsonObject:
    """The releases as a release package."""
    releases, _ = releases_and_compiled(exported)
    return {**_package(exported, releases), "releases": releases}


def record_package(exported: Exported) -> JsonObject:
    """The record, with its releases and its compiled release, as a record package."""
    releases, compiled = releases_and_compiled(exported)
    return {**_package(exported, releases), "records": [{"ocid": exported.ocid, "releases": releases, "compiledRelease": compiled}]}


def _package(exported: Exported, releases: Sequence[JsonObject]) -> JsonObject:
    return {
        "uri": f"urn:uuid:{exported.contract_id}",
        "version": "1.1",
        "extensions": EXTENSIONS,
        "publishedDate": releases[-1]["date"],
        "publisher": {"name": "contract-ledger"},
    }


def _told_revisions(count: int) -> list[int]:
    """The revisions that have a release: the same however long the contract grows, but for the last, which always has one.

    Each is a fold of all before it, so beyond the first ones they stand ever further apart.
    """
    each = range(1, min(count, EACH_REVISION) + 1)
    further = range(EACH_REVISION + 64, min(count, EACH_64TH_REVISION) + 1, 64)
    furthest = range(2 * EACH_64TH_REVISION, count + 1, EACH_64TH_REVISION)
    return sorted({*each, *further, *furthest, count})


def _tag(event: RecordedEvent, *, first: bool) -> str:
    if first:
        return "contract"
    name = event.data.event_type
    return _TAGS.get(name) or ("implementation" if name.startswith(("delivery.", "milestone.")) else "contractUpdate")


def to_ocds(exported: Exported, state: ContractState) -> JsonObject:
    """What a state says, in the members of a release; without id, date and tag."""
    contract_id = exported.contract_id
    suppliers = [_stated({"id": party.party_id, "name": party.name}) for party in state.parties if "supplier" in party.roles]
    buyers = [_stated({"id": party.party_id, "name": party.name}) for party in state.parties if "buyer" in party.roles]
    return _stated(
        {
            "parties": [_party(party) for party in state.parties],
            "buyer": buyers[0] if len(buyers) == 1 else None,
            "tender": _tender(contract_id, state),
            "awards": [_stated({"id": contract_id, "title": state.title, "suppliers": suppliers})],
            "contracts": [_contract(contract_id, state)],
            "withheldInformation": [
                _stated({"id": part.path, "field": part.path, "rationale": part.reason, "availabilityDate": _end(part.until)})
                for part in state.withheld
            ],
        }
    )


def _party(party: Party) -> JsonObject:
    identifiers = [{"scheme": known["scheme"], "id": known["id"]} for known in party.identifiers or ()]
    return _stated(
        {
            "id": party.party_id,
            "name": party.name,
            "roles": party.roles,
            "identifier": identifiers[0] if identifiers else None,
            "additionalIdentifiers": [{**known, "id": known["id"]} for known in identifiers[1:]],
        }
    )


def _tender(contract_id: str, state: ContractState) -> JsonObject | None:
    renewal = (state.terms or {}).get("renewal")
    if not state.options and renewal is None:
        return None
    lot: JsonObject = {"id": contract_id}
    if state.options:
        lot |= {"hasOptions": True, "options": {"description": "; ".join(_option(option) for option in state.options)}}
    if renewal is not None:
        automatic = "automatic" if renewal.get("automatic") else "not automatic"
        notice = f", {renewal['notice_days']} days of notice" if "notice_days" in renewal else ""
        lot |= {"hasRenewal": True, "renewal": {"description": automatic + notice}}
    return {"id": contract_id, "lots": [lot]}


def _option(option: Option) -> str:
    return f"{option.option_id}: {option.kind}, {option.status}"


def _contract(contract_id: str, state: ContractState) -> JsonObject:
    return _stated(
        {
            "id": contract_id,
            "awardID": contract_id,
            "title": state.title,
            "status": _status(state),
            "period": _period(state),
            "value": _value(state.value.best),
            "items": [_item(item) for item in state.items],
            "dateSigned": _start(state.signing.signed_on if state.signing else None),
            "amendments": [
                _stated({"id": known.amendment_id, "date": _start(known.effective_on), "rationale": known.rationale})
                for known in state.amendments
            ],
            "implementation": _stated({"milestones": list(_milestones(state))}) or None,
            "ledger": _extension(state),
        }
    )


def _status(state: ContractState) -> str:
    if state.status in {"cancelled", "denied"}:
        return "cancelled"
    return _ENDED.get(state.status) or ("active" if state.signing else "pending")


def _period(state: ContractState) -> JsonObject | None:
    period = state.period
    end = state.term_end.end_on if state.term_end else None
    members = {
        "startDate": _start(period.start_on if period else None),
        "endDate": _end(end),
        "maxExtentDate": _end(period.max_end_on if period else None),
    }
    return _stated(members) or None


def _value(best: StandingFigure | None) -> JsonObject | None:
    """The one number that OCDS has room for: only one that the contract, a filing or a party vouches for."""
    if best is None or best.amount is None or best.basis not in BINDING or best.bound != "exact":
        return None
    return {"amount": Decimal(best.amount), "currency": best.currency}


def _item(item: Item) -> JsonObject:
    quantity = item.ordered or item.quantity
    unit = _unit(item.unit) if item.unit else None
    return _stated({"id": item.item_id, "description": item.description, "quantity": quantity and Decimal(quantity), "unit": unit})


def _unit(unit: str) -> JsonObject:
    return {"name": unit[2:]} if unit.startswith("x-") else {"scheme": "UNCEFACT", "id": unit}


def _milestones(state: ContractState) -> Iterator[JsonObject]:
    for known in state.milestones:
        met = known.effective_on if known.status == "met" else None
        yield _stated(
            {
                "id": known.milestone_id,
                "title": known.title,
                "type": "delivery",
                "status": _MILESTONE[known.status],
                "dueDate": _end(known.due_on),
                "dateMet": _start(met),
            }
        )


def _extension(state: ContractState) -> JsonObject:
    """What OCDS would flatten: every figure, the dates as they were stated, the kind, the status."""
    value, period, signing = state.value, state.period, state.signing
    dates = {name: getattr(period, name) for name in ("start_on", "end_on", "max_end_on", "duration")} if period else {}
    dates |= {name: getattr(signing, name) for name in ("signed_on", "signed_by")} if signing else {}
    return _stated(
        {
            "kind": state.kind,
            "status": state.status,
            "hypothetical": state.hypothetical or None,
            "dates": _stated(dates) or None,
            "value": _stated({"status": value.status, "best": value.best and value.best.figure_id}),
            "figures": [_figure(figure) for figure in value.figures],
        }
    )


def _figure(figure: StandingFigure) -> JsonObject:
    """A figure with its amounts as decimal strings, as the ledger has them."""
    names = ("amount", "low", "high", "currency", "basis", "bound", "scope", "vat", "effective_on", "note")
    derived = (figure.derived_from or {}).get("figure_id")
    said_by = {"according_to": figure.source.get("name"), "via": figure.source.get("via")}
    members = {name: getattr(figure, name) for name in names} | {"derived_from": derived, **said_by}
    return _stated({"id": figure.figure_id, **members})


def _start(text: str | None) -> str | None:
    return text and f"{first_day(text).isoformat()}T00:00:00Z"


def _end(text: str | None) -> str | None:
    return text and f"{last_day(text).isoformat()}T23:59:59Z"


def _stated(members: JsonObject) -> JsonObject:
    return {name: member for name, member in members.items() if member is not None and member not in ([], {})}


def _over(before: Any, now: Any) -> Any:
    """A value said over what was said before: null for what no longer holds, entries of a list in the order in which they first came."""
    if isinstance(now, dict):
        was = before if isinstance(before, dict) else {}
        gone = {name: _gone(member) for name, member in was.items() if name not in now}
        return {name: _over(was.get(name), member) for name, member in now.items()} | gone
    if _has_ids(now):
        known = {entry["id"]: entry for entry in before or ()}
        new = {entry["id"]: entry for entry in now}
        return [_over(known.get(name), new.get(name, {"id": name})) for name in known | new]
    return now


def _gone(was: Any) -> Any:
    if isinstance(was, dict):
        return {name: _gone(member) for name, member in was.items()}
    return [_over(entry, {"id": entry["id"]}) for entry in was] if _has_ids(was) else None


def _has_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) and "id" in entry for entry in value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


PACKAGES: dict[str, Callable[[Exported], JsonObject]] = {"record": record_package, "releases": release_package}
"""The packages by the name that is asked for."""
