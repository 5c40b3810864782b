"""What the parties agree on: who they are, what is supplied, for how long, on which terms."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal
from unicodedata import category, is_normalized

from pydantic import AfterValidator, Field, StrictBool, StrictInt
from pydantic_core import PydanticCustomError

from service.domain.dates import BusinessDate, Duration, end_of, first_day, last_day
from service.domain.events import SEALABLE, STRICT, Id, Language, Name, Path, Text, Word
from service.domain.money import CurrencyCode, DecimalText
from service.domain.parts import Period
from service.domain.state import Facts, TermEnd

Kind = Literal["supply", "framework", "joint"]
PERIOD_MEMBERS = ("start_on", "duration", "end_on", "max_end_on")
_MEMBERS = {"period": PERIOD_MEMBERS, "terms": ("payment", "incoterm", "governing_law", "renewal", "prices", "volumes")}
_PARTS_OF_CONTRACT = frozenset(
    {
        *("title", "kind", "references", "parties", "items", "period", "figures", "value", "quantity", "terms", "signed_on", "signed_by"),
        *("options", "milestones", "conditions", "delivery", "extensions", "amendments", "agreements", "disputes", "ending"),
    }
)
"""What a path of what is withheld may begin with: the members of a signing, and the parts of the state that are facts of a contract."""
Unit = Annotated[
    str,
    Field(
        pattern=r"^([A-Z0-9]{2,3}|x-[a-z0-9-]{1,30})$",
        title="UnitCode",
        description="A code of UN/ECE Recommendation 20 (`EA`, `KWH`, `TNE`), or a unit of one's own, `x-...`. Never converted.",
        examples=["EA"],
    ),
]


def distinct(*members: str) -> Any:
    """What refuses a list in which an entry stands twice: with the same value, or the same values of these members."""

    def identity(entry: Any) -> Any:
        return tuple(getattr(entry, member) for member in members) if members else entry

    def check(entries: list[Any]) -> list[Any]:
        ids = [identity(entry) for entry in entries]
        twice = next((i for i, entry_id in enumerate(ids) if entry_id in ids[:i]), None)
        if twice is not None:
            words = " ".join(ids[twice]) if members else ids[twice]
            place = f"{twice}/{members[0]}" if len(members) == 1 else str(twice)
            raise PydanticCustomError("twice", "{id} stands twice", {"id": words, "member": place})
        return entries

    return AfterValidator(check)


_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of characters that show nothing: controls, formats, separators of lines and paragraphs."""


def _bare(text: str) -> str:
    if text != text.strip():
        raise PydanticCustomError("surrounded", "white space around it, by which it would be another than the one without")
    _check_looks(text)
    return text


def _check_looks(text: str) -> None:
    """What looks like another is another, letter by letter, and would escape a unique scheme."""
    if not is_normalized("NFC", text):
        raise PydanticCustomError(
            "decomposed", "letters in parts, by which it would be another than the same in Unicode's composed form, NFC"
        )
    if any(category(letter) in _UNSEEN for letter in text):
        raise PydanticCustomError("unseen", "a character that is not seen, by which it would be another than the one without")


Key = Annotated[Name, AfterValidator(_bare)]
"""Words that are looked for and held apart letter by letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifier:
    """An identifier in a register: `{scheme: LEI, id: ...}`."""

    __pydantic_config__ = STRICT

    scheme: Key
    id: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyRelation:
    """How a party stands to another of the contract: `subsidiary` of `lges`."""

    __pydantic_config__ = STRICT

    kind: Word
    of: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyData:
    """A party and its roles, such as supplier and buyer; `language` is that of its name."""

    __pydantic_config__ = STRICT

    party_id: Id
    name: Annotated[Name, SEALABLE]
    language: Language | None = None
    roles: Annotated[list[Word], Field(min_length=1, max_length=10), distinct()]
    identifiers: Annotated[list[Identifier], Field(min_length=1, max_length=20), distinct("scheme", "id")] | None = None
    relation: PartyRelation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemData:
    """What is supplied; a quantity has a unit."""

    __pydantic_config__ = STRICT

    item_id: Id
    description: Text
    quantity: DecimalText | None = None
    unit: Unit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodData:
    """The term: a start, an end or a duration, and the latest end that the contract allows."""

    __pydantic_config__ = STRICT

    start_on: BusinessDate | None = None
    end_on: BusinessDate | None = None
    max_end_on: BusinessDate | None = None
    duration: Duration | None = None


def _of_contract(path: str) -> str:
    """A path that leads to a part of a contract; which party, item or price it is of, only a reader of the filing could say."""
    first, _, rest = path[1:].partition("/")
    if first not in _PARTS_OF_CONTRACT or (rest and first in _MEMBERS and rest.partition("/")[0] not in _MEMBERS[first]):
        raise PydanticCustomError("path", "this leads to no part of a contract, such as /value, /parties/buyer or /terms/prices")
    return path


PartPath = Annotated[Path, AfterValidator(_of_contract)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WithheldData:
    """A member that a party keeps back: `/value`, `/quantity`, `/parties/buyer`; perhaps until a day."""

    __pydantic_config__ = STRICT

    path: PartPath
    reason: Text
    until: BusinessDate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoterm:
    __pydantic_config__ = STRICT

    rule: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    place: Name | None = None
    version: Annotated[str, Field(pattern=r"^(19|20)[0-9]{2}$")] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    __pydantic_config__ = STRICT

    automatic: StrictBool
    notice_days: Annotated[StrictInt, Field(ge=0, le=3_660)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A unit price; minor units do not bind it."""

    __pydantic_config__ = STRICT

    item_id: Id
    unit_price: Annotated[DecimalText, SEALABLE]
    currency: CurrencyCode
    per_unit: Unit
    valid_from: BusinessDate | None = None
    index: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume for a period of the term; take or pay binds the buyer to the minimum."""

    __pydantic_config__ = STRICT

    item_id: Id
    period: BusinessDate
    minimum: DecimalText | None = None
    maximum: DecimalText | None = None
    take_or_pay: StrictBool | None = None


def _check_volume(volume: Volume) -> Volume:
    if volume.minimum is not None and volume.maximum is not None and Decimal(volume.minimum) > Decimal(volume.maximum):
        raise PydanticCustomError("volume_order", "the minimum is above the maximum", {"member": "minimum"})
    return volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The commercial terms, as far as they are known."""

    __pydantic_config__ = STRICT

    payment: Text | None = None
    incoterm: Incoterm | None = None
    governing_law: Name | None = None
    renewal: Renewal | None = None
    prices: Annotated[list[Price], Field(min_length=1, max_length=200)] | None = None
    volumes: Annotated[list[Annotated[Volume, AfterValidator(_check_volume)]], Field(min_length=1, max_length=200)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedQuantity:
    """What is ordered besides; `item_id` says of which item."""

    __pydantic_config__ = STRICT

    quantity: Annotated[DecimalText, SEALABLE]
    unit: Unit
    item_id: Id | None = None


def _check_item(item: ItemData) -> ItemData:
    if item.quantity is not None and item.unit is None:
        raise PydanticCustomError("quantity_unit", "a quantity needs a unit", {"member": "unit"})
    return item


def _check_period(period: PeriodData) -> PeriodData:
    if period.start_on and period.end_on and last_day(period.end_on) < first_day(period.start_on):
        raise PydanticCustomError("period_order", "the end is before the start", {"member": "end_on"})
    if period.end_on and period.max_end_on and last_day(period.max_end_on) < last_day(period.end_on):
        raise PydanticCustomError("period_order", "the latest end is before the end", {"member": "max_end_on"})
    if period.start_on and period.duration:
        try:
            end_of(period.start_on, period.duration)
        except (ValueError, OverflowError):
            raise PydanticCustomError(
                "period_duration", "start and duration make no term before the year 3000", {"member": "duration"}
            ) from None
    return period


References = Annotated[list[Identifier], Field(min_length=1, max_length=50), distinct("scheme", "id")]
Parties = Annotated[list[PartyData], Field(min_length=1, max_length=50), distinct("party_id")]
Items = Annotated[list[Annotated[ItemData, AfterValidator(_check_item)]], Field(min_length=1, max_length=500), distinct("item_id")]
TermPeriod = Annotated[PeriodData, AfterValidator(_check_period)]
WithheldList = Annotated[list[WithheldData], Field(min_length=1, max_length=50), distinct("path")]


def state_period(facts: Facts, revision: int, period: PeriodData) -> None:
    """Each member given replaces the one that stood."""
    stands = facts.period or Period(rests_on=[], stated_in={})
    for member in PERIOD_MEMBERS:
        if (value := getattr(period, member)) is not None:
            setattr(stands, member, value)
            stands.stated_in[member] = revision
    stands.rests_on = sorted(set(stands.stated_in.values()))
    facts.period = stands


def term_end(facts: Facts) -> TermEnd | None:
    """The end of the term: as stated, else the last unit that start and duration make."""
    period = facts.period
    if period is None:
        return None
    if period.end_on is not None:
        return TermEnd(end_on=period.end_on, by="stated", rests_on=[period.stated_in["end_on"]])
    if period.start_on is None or period.duration is None:
        return None
    try:
        end_on = end_of(period.start_on, period.duration)
    except (ValueError, OverflowError):
        return None  # start and duration came from two events and make no term together
    rests_on = sorted({period.stated_in["start_on"], period.stated_in["duration"]})
    return TermEnd(end_on=end_on, by="duration", rests_on=rests_on)
