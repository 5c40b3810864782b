"""A contract as Open Contracting releases tell it, in the words of the ledger: parties, items, period, value, milestones, amendments."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from service.domain.money import minor_digits, plain
from service.errors import Refused
from service.exchange.ocds_read import JsonObject, Release, day_of, entries, member_of, objects, text_of

_PERIOD: Final = {"startDate": "start_on", "endDate": "end_on", "maxExtentDate": "max_end_on"}
_BIDDING: Final = frozenset({"tenderer", "enquirer", "reviewBody", "interestedParty", "invitedCandidate", "notifiedBody"})
"""Roles in the award of a contract, not in the contract."""
_KEPT: Final = frozenset(
    {"id", "awardID", "title", "status", "period", "value", "items", "dateSigned", "milestones", "amendments", "implementation"}
)
MAX_DIGITS: Final = 28


REFERENCE: Final = "ocds-contract"
"""The scheme of the references by which the ledger knows contracts of releases."""


def reference_of(ocid: str, contract_id: str) -> str:
    """The id of a contract of an ocid in that scheme."""
    return f"{ocid.replace('%', '%25').replace('/', '%2F')}/{contract_id}"


@dataclass(frozen=True, slots=True)
class Milestone:
    milestone_id: str
    title: str
    status: str | None
    due_on: str | None
    met_on: str | None


@dataclass(frozen=True, slots=True)
class Amended:
    """An amendment as OCDS knows it: that there is one, not what it changes."""

    amendment_id: str
    day: str | None
    rationale: str | None


@dataclass(frozen=True, slots=True)
class Said:
    """What is known of a contract once a release is out. `gone` names the members that the release takes back, by their OCDS paths."""

    release: Release
    contract_id: str
    title: str | None
    status: str | None
    signed_on: str | None
    parties: list[JsonObject]
    left: frozenset[str]
    items: list[JsonObject]
    period: dict[str, str]
    value: JsonObject | None
    milestones: list[Milestone]
    amendments: list[Amended]
    gone: frozenset[str]
    unkept: tuple[str, ...]

    @property
    def day(self) -> str:
        return self.release.day


def check_lists(said: JsonObject) -> None:
    """Refuse a release with lists that are none, or in which an id stands twice: a merge would make one entry of two."""
    objects(said, "parties", "")
    for index, award in enumerate(objects(said, "awards", "")):
        objects(award, "suppliers", f"awards/{index}/")
    for index, contract in enumerate(objects(said, "contracts", "")):
        place = f"contracts/{index}/"
        for member in ("items", "milestones", "amendments"):
            objects(contract, member, place)
        objects(member_of(contract, "implementation", place), "milestones", f"{place}implementation/")


def said_of(release: Release, known: JsonObject, contract_id: str, told: JsonObject) -> Said:
    """What is known of a contract by the releases so far (`known`), of which this one has `told`. Refused for what cannot be read."""
    contract = next(entry for entry in objects(known, "contracts", "") if text_of(entry, "id") == contract_id)
    implementation = member_of(contract, "implementation")
    parties = objects(known, "parties", "")
    return Said(
        release=release,
        contract_id=contract_id,
        title=_words(contract, "title"),
        status=_words(contract, "status"),
        signed_on=_day(contract, "dateSigned"),
        parties=_parties(known, parties, contract),
        left=frozenset(str(party.get("id")) for party in parties),
        items=[_item(item, f"items/{index}") for index, item in enumerate(objects(contract, "items", ""))],
        period=_period(member_of(contract, "period")),
        value=_value(member_of(contract, "value")),
        milestones=list(_milestones(contract, "")) + list(_milestones(implementation, "implementation/")),
        amendments=list(_amendments(contract)),
        gone=frozenset(_gone(told)),
        unkept=_unkept(told),
    )


def _unkept(told: JsonObject) -> tuple[str, ...]:
    """The members of a contract that the ledger has no place for."""
    done = {f"implementation/{name}" for name in member_of(told, "implementation").keys() - {"milestones"}}
    return tuple(sorted((told.keys() - _KEPT) | done))


def _words(said: JsonObject, member: str, place: str = "") -> str | None:
    known = said.get(member)
    if known is None:
        return None
    if not isinstance(known, str):
        raise Refused(f"{place}{member}: it should be text")
    return known.strip() or None


def _day(said: JsonObject, member: str, place: str = "") -> str | None:
    return day_of(said[member], place + member) if said.get(member) is not None else None


def _gone(told: JsonObject) -> Iterator[str]:
    if told.get("value", ...) is None or member_of(told, "value").get("amount", ...) is None:
        yield "value"
    period = told.get("period", {})
    for name in _PERIOD:
        if period is None or (isinstance(period, dict) and period.get(name, ...) is None):
            yield f"period/{name}"


def _period(period: JsonObject) -> dict[str, str]:
    known = {ours: day for theirs, ours in _PERIOD.items() if (day := _day(period, theirs, "period/"))}
    days = period.get("durationInDays")
    if isinstance(days, Decimal) and "end_on" not in known and days > 0 and days == days.to_integral_value() and days < 100_000:
        known["duration"] = f"P{int(days)}D"
    return known


def _value(value: JsonObject) -> JsonObject | None:
    if value.get("amount") is None:
        return None
    currency = _words(value, "currency", "value/")
    if currency is None:
        raise Refused("value/currency: it has none")
    return {"amount": _amount(value["amount"], currency), "currency": currency}


def _amount(amount: Any, currency: str) -> str:
    """An amount as plain digits; zeros beyond the currency's last digit, as in 1000.0 JPY, say nothing and are left out."""
    text = _number(amount, "value/amount")
    try:
        digits = minor_digits(currency)
    except ValueError:
        raise Refused(f"value/currency: no currency of ISO 4217 has the code {currency[:20]}") from None
    whole, _, fraction = text.partition(".")
    if len(fraction) > digits and not fraction[digits:].strip("0"):
        fraction = fraction[:digits]
    return f"{whole}.{fraction}" if fraction else whole


def _number(number: Any, place: str) -> str:
    if not isinstance(number, Decimal):
        raise Refused(f"{place}: it should be a number")
    if number < 0:
        raise Refused(f"{place}: it is below zero")
    if number.adjusted() >= MAX_DIGITS or int(number.as_tuple().exponent) < -MAX_DIGITS:
        raise Refused(f"{place}: it has too many digits")
    return plain(abs(number))  # zero may have a sign


def _parties(known: JsonObject, listed: list[JsonObject], contract: JsonObject) -> list[JsonObject]:
    """The parties of a contract: those with a role in it, of the suppliers those of its award; also those named only there, or as buyer."""
    found: dict[str, JsonObject] = {}
    gone = {str(party.get("id")) for party in listed if not party.get("roles") and party.get("name") is None}
    for index, party in enumerate(listed):
        roles = [role for role in entries(party, "roles", f"parties/{index}/") if isinstance(role, str) and role not in _BIDDING]
        if roles:
            found[text_of(party, "id", f"parties/{index}/")] = _party(party, f"parties/{index}/", roles)
    award_id = contract.get("awardID")
    award = next((entry for entry in objects(known, "awards", "") if award_id is not None and str(entry.get("id")) == str(award_id)), {})
    suppliers = objects(award, "suppliers", "awards/")
    for entry, role in [(member_of(known, "buyer"), "buyer"), *((supplier, "supplier") for supplier in suppliers)]:
        # A merge takes no entry out of a list: who left is there without a name.
        if entry.get("id") is not None and (entry.get("name") is not None or str(entry["id"]) not in gone):
            _name(found, entry, role)
    if suppliers:
        ids = {text_of(supplier, "id") for supplier in suppliers if supplier.get("id") is not None}
        found = {party_id: _without("supplier", party) if party_id not in ids else party for party_id, party in found.items()}
    return [party for party in found.values() if party["roles"]]


def _without(role: str, party: JsonObject) -> JsonObject:
    return {**party, "roles": [known for known in party["roles"] if known != role]}


def _name(found: dict[str, JsonObject], entry: JsonObject, role: str) -> None:
    """Give a party that is named elsewhere its role, and list it if it is not listed."""
    party_id = text_of(entry, "id", f"{role}/")
    party = found.get(party_id) or _party(entry, f"{role}/", [])
    found[party_id] = {**party, "roles": party["roles"] if role in party["roles"] else [*party["roles"], role]}


def _party(party: JsonObject, place: str, roles: list[str]) -> JsonObject:
    identifier = member_of(party, "identifier", place)
    name = _words(party, "name", place) or _words(identifier, "legalName", f"{place}identifier/")
    if name is None:
        raise Refused(f"{place}name: it has none")
    words = list(dict.fromkeys(_word(role) for role in roles))
    known = {"party_id": text_of(party, "id", place), "name": name, "roles": words}
    identifiers = [identifier, *objects({"additionalIdentifiers": party.get("additionalIdentifiers")}, "additionalIdentifiers", place)]
    pairs = dict.fromkeys(
        (_words(one, "scheme", place), text_of(one, "id", place))
        for one in identifiers
        if _words(one, "scheme", place) and one.get("id") is not None
    )
    return known | ({"identifiers": [{"scheme": scheme, "id": known_id} for scheme, known_id in pairs]} if pairs else {})


def _word(role: str) -> str:
    """A role as the ledger writes words: procuringEntity is procuring_entity."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", role).lower()


def _item(item: JsonObject, place: str) -> JsonObject:
    classification = member_of(item, "classification", f"{place}/")
    item_id = text_of(item, "id", f"{place}/")
    description = _words(item, "description", f"{place}/") or _words(classification, "description", f"{place}/") or item_id
    known: JsonObject = {"item_id": item_id, "description": description}
    if item.get("quantity") is not None:
        known["quantity"] = _number(item["quantity"], f"{place}/quantity")
    unit = _unit(member_of(item, "unit", f"{place}/"))
    return known | ({"unit": unit or "x-unstated"} if unit or "quantity" in known else {})


def _unit(unit: JsonObject) -> str | None:
    """A code of UN/ECE Recommendation 20 as it is; another unit by its name, as one of the ledger's own."""
    code, name = unit.get("id"), unit.get("name") or unit.get("id")
    if unit.get("scheme") == "UNCEFACT" and isinstance(code, str) and re.fullmatch(r"[A-Z0-9]{2,3}", code):
        return code
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:30] if isinstance(name, str) else ""
    return f"x-{slug}" if slug else None


def _milestones(said: JsonObject, place: str) -> Iterator[Milestone]:
    for index, entry in enumerate(objects(said, "milestones", place)):
        where = f"{place}milestones/{index}/"
        milestone_id, title = text_of(entry, "id", where), _words(entry, "title", where) or _words(entry, "description", where)
        days = _day(entry, "dueDate", where), _day(entry, "dateMet", where)
        if title is not None or entry.keys() - {"id"}:
            yield Milestone(milestone_id, (title or milestone_id)[:300], _words(entry, "status", where), *days)


def _amendments(contract: JsonObject) -> Iterator[Amended]:
    for index, entry in enumerate(objects(contract, "amendments", "")):
        where = f"amendments/{index}/"
        if entry.keys() - {"id"}:
            rationale = _words(entry, "rationale", where) or _words(entry, "description", where)
            yield Amended(text_of(entry, "id", where), _day(entry, "date", where), rationale)
