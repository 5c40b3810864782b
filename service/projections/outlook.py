"""What contracts contribute to deadlines, commitments and parties, and the sums and rows that these contributions make.

A contribution follows from the public state alone. It is kept, so that it can be taken out of the sums when the contract changes.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from service.domain.commitments import Line, commitments_of
from service.domain.deadlines import Deadline, deadlines_of
from service.domain.money import EXACT, plain
from service.domain.parts import FormerParty, JsonObject
from service.domain.state import ContractState
from service.projections.filters import MAX_WORDS, words

AMOUNTS: Final = ("committed_low", "committed_high", "delivered", "remaining_low", "remaining_high")
DIMENSIONS: Final = ("by_party", "by_product", "party", "product", "currency", "unit", "year", "basis", "status")


class PartyForm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A party as a contract states it.

    `name` is empty where it is sealed. `merges` names a party that turned out to be this one, under which the contract had the name;
    `is_former` is one that stepped out.
    """

    party_id: str
    name: str = ""
    language: str | None = None
    roles: list[str] = []
    identifiers: list[JsonObject] = []
    relation: JsonObject | None = None
    merges: str | None = None
    is_former: bool = False

    @property
    def stands(self) -> bool:
        return self.merges is None and not self.is_former

    @property
    def words(self) -> list[str]:
        """What the form is found by: words of its id and name, roles, and the id that was merged. No word has a `=`."""
        found = [*dict.fromkeys(word for text in (self.party_id, self.name) for word in words(text))][:MAX_WORDS]
        merged = [f"merges={self.merges}"] if self.merges else []
        return sorted({*found, *(f"role={role}" for role in self.roles), *merged})


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """All that a contract contributes."""

    title: str
    status: str
    hypothetical: bool
    lines: list[Line]
    deadlines: list[Deadline]
    parties: list[PartyForm]


_state_decoder = msgspec.json.Decoder(ContractState)
_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Outlook)
_form_decoder = msgspec.json.Decoder(PartyForm)


def outlook_of(state: bytes | str) -> str:
    """The contribution of a contract by its stored state, as canonical JSON."""
    told = _state_decoder.decode(state)
    return _encoder.encode(
        Outlook(
            title=told.title or "",
            status=told.status,
            hypothetical=told.hypothetical,
            lines=commitments_of(told),
            deadlines=deadlines_of(told),
            parties=[*_forms(told)],
        )
    ).decode()


def lines_of(state: str) -> list[Line]:
    """The commitments of a contract by its stored state."""
    return commitments_of(_state_decoder.decode(state))


def decode_form(form: str) -> PartyForm:
    return _form_decoder.decode(form)


def _forms(state: ContractState) -> Iterator[PartyForm]:
    for party in state.parties:
        yield PartyForm(
            party_id=party.party_id,
            name=party.name or "",
            language=party.language,
            roles=sorted(party.roles),
            identifiers=sorted(party.identifiers or [], key=lambda known: (known["scheme"], known["id"])),
            relation=party.relation,
        )
    became = {former.party_id: former for former in state.former_parties}
    for former in became.values():
        named: dict[str, Any] = {"name": former.name or "", "language": former.language}
        if former.by == "identified":
            yield PartyForm(party_id=_now(former.party_id, became), merges=former.party_id, **named)
        else:
            yield PartyForm(party_id=former.party_id, is_former=True, **named)


def _now(party_id: str, became: Mapping[str, FormerParty]) -> str:
    """Who a party turned out to be, at last."""
    seen = {party_id}
    while (former := became.get(party_id)) and former.by == "identified" and former.became not in seen:
        party_id = former.became
        seen.add(party_id)
    return party_id


class Changes:
    """What replacing contributions writes: rows by table, and sums as differences to those that stand."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._sums: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [Decimal(0)] * len(AMOUNTS) + [0])
        self._forms: dict[tuple[str, str], int] = defaultdict(int)
        self.contract_ids: list[str] = []
        self.outlooks: list[dict[str, Any]] = []
        self.deadlines: list[dict[str, Any]] = []

    def replace(self, contract_id: str, was: str | None, now: str) -> None:
        """One contract's contribution takes the place of the one that stood."""
        if was == now:
            return
        self.contract_ids.append(contract_id)
        if was is not None:
            self._add(_decoder.decode(was), -1)
        outlook = _decoder.decode(now)
        self._add(outlook, 1)
        self.outlooks.append({"generation": self._generation, "contract_id": contract_id, "outlook": now})
        self.deadlines += (self._deadline(contract_id, number, outlook, known) for number, known in enumerate(outlook.deadlines))

    def _add(self, outlook: Outlook, sign: int) -> None:
        standing = sorted({form.party_id for form in outlook.parties if form.stands})
        for line in outlook.lines:
            amounts = [EXACT.multiply(Decimal(getattr(line, name)), sign) for name in AMOUNTS]
            for key in _cells(line, standing, outlook.status):
                total = self._sums[key]
                for index, amount in enumerate(amounts):
                    total[index] = EXACT.add(total[index], amount)
                total[-1] += sign
        for form in outlook.parties:
            self._forms[form.party_id, _encoder.encode(form).decode()] += sign

    def _deadline(self, contract_id: str, number: int, outlook: Outlook, known: Deadline) -> dict[str, Any]:
        shown = {"contract_id": contract_id, "title": outlook.title} | msgspec.to_builtins(known)
        if outlook.hypothetical:
            shown["hypothetical"] = True
        return {
            "generation": self._generation,
            "contract_id": contract_id,
            "number": number,
            "counts_on": known.counts_on,
            "kind": known.kind,
            "deadline": _encoder.encode(shown).decode(),
        }

    @property
    def commitments(self) -> list[dict[str, Any]]:
        """Differences, in the order of their keys: whoever changes the same sums takes them in one order."""
        return [
            {"generation": self._generation}
            | dict(zip(DIMENSIONS, key, strict=True))
            | {name: plain(amount) for name, amount in zip(AMOUNTS, total, strict=False)}
            | {"lines": total[-1]}
            for key, total in sorted(self._sums.items())
            if any(total)
        ]

    @property
    def parties(self) -> list[dict[str, Any]]:
        return [
            {
                "generation": self._generation,
                "party_id": party_id,
                "digest": hashlib.sha256(form.encode()).hexdigest()[:32],
                "form": form,
                "words": _form_decoder.decode(form).words,
                "contracts": count,
            }
            for (party_id, form), count in sorted(self._forms.items())
            if count
        ]


def _cells(line: Line, parties: Sequence[str], status: str) -> Iterator[tuple[Any, ...]]:
    """The sums that a line is part of: over all parties and of each, over all products and of its own."""
    rest = line.currency, line.unit, line.year, line.basis, status
    for party in (None, *parties):
        for product in (None, line.product):
            yield party is not None, product is not None, party or "", product or "", *rest
