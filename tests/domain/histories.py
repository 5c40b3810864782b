"""Histories of contracts for the tests of the domain: a ledger in memory, events told in short, and events drawn at random.

The ledger is the real decision of a batch, with dictionaries where the tables are: its rows are those that the service writes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import strategies as st

from service.api.envelope import read_event
from service.domain.dates import last_day
from service.domain.events import EVENT_TYPES, RecordedEvent, decode_body, first_day_of
from service.domain.references import ReferenceId
from service.domain.timeline import View, tell
from service.errors import NotAllowedNow, Refused
from service.log.decide import Batch
from service.log.header import decode_header
from service.log.ledger import Ledger, zone
from service.log.requests import Append, Receipt
from service.log.stored import recorded_event
from service.projections.contracts import LAYOUT, ContractRow, decode_beside

Sent = dict[str, Any]
Dates = st.SearchStrategy[str]
Members = st.SearchStrategy[Sent]
TODAY = date(2026, 11, 22)
CONTRACT = "00000000-0000-7000-8000-0000000000c1"
FIRST_POSITION = 918_273_645
"""Where the ledger in memory begins: a number that stands out should a state hold it."""


def sent(event_type: str, effective_on: str | None, data: Sent, *, hypothetical: bool = False, **source: str) -> Sent:
    """A request for an event, with its type; `source` is the press unless it says otherwise."""
    request = {"event_type": event_type, "effective_on": effective_on, "source": {"kind": "news", **source}, "data": data}
    return _stated(request | ({"hypothetical": True} if hypothetical else {}))


SUPPLIER = {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]}
BUYER = {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]}
CELLS = {"item_id": "cells", "description": "cylindrical cells", "quantity": "100", "unit": "EA"}


def reported(effective_on: str = "2022-07-06", **data: Any) -> Sent:
    """The report that opens a contract; a member given as None is left out."""
    members = {"stage": "reported", "title": "Cells", "kind": "supply", "parties": [SUPPLIER, BUYER], **data}
    return sent("contract.reported", effective_on, _stated(members))


def signed(effective_on: str = "2024-01-26", **data: Any) -> Sent:
    return sent("contract.signed", effective_on, data)


def figure(figure_id: str, amount: str | None = "1000", currency: str = "KRW", **members: Any) -> Sent:
    """A figure as reported, exact, of the total; a member given as None is left out."""
    known = {"figure_id": figure_id, "amount": amount, "currency": currency, "basis": "reported", "bound": "exact", "scope": "total"}
    return _stated(known | members)


def stated(figure: Sent, effective_on: str = "2024-02-01", **source: str) -> Sent:
    return sent("figure.stated", effective_on, {"figure": figure}, **source)


def revised(replaces: str, value: Sent, effective_on: str = "2024-03-01", reason: str = "renegotiation") -> Sent:
    return sent("value.revised", effective_on, {"replaces": replaces, "value": value, "reason": reason})


def delivered(delivery_id: str, delivered_on: str, quantity: str = "10", effective_on: str | None = None, **data: Any) -> Sent:
    members = {"delivery_id": delivery_id, "item_id": "cells", "quantity": quantity, "unit": "EA", "delivered_on": delivered_on, **data}
    return sent("delivery.recorded", effective_on or delivered_on, members)


def noted(effective_on: str = "2026-01-01", **about: str) -> Sent:
    """A note, perhaps about a part of the contract, such as `figure_id="krw-1"`."""
    subjects = [{"kind": member.removesuffix("_id"), "id": subject_id} for member, subject_id in about.items()]
    return sent("note.added", effective_on, {"text": "why"} | ({"about": subjects[0]} if subjects else {}))


def _stated(members: Sent) -> Sent:
    return {name: member for name, member in members.items() if member is not None}


def events_of(*requests: Sent, recorded_on: date = TODAY) -> list[RecordedEvent]:
    """Requests as recorded events, read from their stored bodies, whatever the rules would say."""
    known: list[Known] = []
    realised = []
    for revision, request in enumerate(requests, 1):
        realised.append(realise(request, known))
        known.append((str(UUID(int=revision)), request["event_type"], realised[-1]["data"]))
    return [
        RecordedEvent(
            event_id=str(UUID(int=revision)),
            position=FIRST_POSITION + revision,
            revision=revision,
            recorded_on=recorded_on,
            effective_on=request.get("effective_on", ""),
            day=first_day_of(request["event_type"], request.get("effective_on")),
            schema_version=EVENT_TYPES[request["event_type"]].schema_version,
            data=decode_body(
                request["event_type"], EVENT_TYPES[request["event_type"]].schema_version, orjson.dumps({**request, "salt": "00"})
            )[0],
            source=request["source"],
            hypothetical=request.get("hypothetical", False),
        )
        for revision, request in enumerate(realised, 1)
    ]


Known = tuple[str, str, Sent]
"""An event that a correction or a void may name: its id, type and data."""


def corrected(like: Sent, turn: int = 0) -> Sent:
    """A correction of one of the events so far of the type of `like`, as that; where there is none, another moves to its day."""
    return sent("event.corrected", None, {"turn": turn, "like": like})


def voided(turn: int) -> Sent:
    """A void of one of the events so far, counted from 0, and around again."""
    return sent("event.voided", None, {"turn": turn})


def realise(request: Sent, known: Sequence[Known]) -> Sent:
    """A request as it is sent: what a correction or a void names is chosen among the events that there are."""
    if "turn" not in request["data"]:
        return request
    turn, like = request["data"]["turn"], request["data"].get("like")
    if like is None:
        target = known[turn % len(known)][0] if known else str(UUID(int=999))
        return request | {"data": {"target": target, "reason": "recorded twice"}}
    alike = [entry for entry in known if entry[1] == like["event_type"]] or [entry for entry in known if not EVENT_TYPES[entry[1]].acts]
    event_id, event_type, data = alike[turn % len(alike)] if alike else (str(UUID(int=999)), like["event_type"], like["data"])
    stated = dict(like["data"]) if event_type == like["event_type"] else data
    if "figure" in stated and turn % 2:
        stated["figure"] = stated["figure"] | {"figure_id": data["figure"]["figure_id"]}
    moved = {"effective_on": like["effective_on"]} if "effective_on" in like and not EVENT_TYPES[event_type].dayless else {}
    return request | {"data": {"target": event_id, "data": stated, "source": like["source"], **moved}}


def told(*requests: Sent, day: date | str = TODAY, published_by: str | None = None) -> View:
    """The view that requests make, recorded in the order given."""
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return tell(events_of(*requests), day, date.fromisoformat(published_by) if published_by else None)


@dataclass
class Log:
    """A ledger in memory."""

    time_zone: str = "Asia/Seoul"
    unique_schemes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.ledger = Ledger("00000000-0000-7000-8000-00000000001e", "main", self.time_zone)
        self.now = datetime(2020, 1, 1, tzinfo=UTC)
        self.recorded_at = self.now
        self.position = FIRST_POSITION
        self.rows: dict[str, ContractRow] = {}
        self.stored: dict[str, list[tuple[bytes, bytes | None]]] = {}
        self.delivery_ids: set[tuple[str, str]] = set()
        self.event_ids: set[tuple[str, str]] = set()
        self.sealed: dict[str, list[Sent]] = {}
        self.held: dict[str, set[ReferenceId]] = {}
        self.requests = 0

    def at(self, day: date) -> "Log":
        """Go on to the noon of a day in the ledger's zone."""
        self.now = datetime(day.year, day.month, day.day, 12, tzinfo=zone(self.time_zone)).astimezone(UTC)
        return self

    @property
    def day(self) -> date:
        return self.now.astimezone(zone(self.time_zone)).date()

    def request(self, *events: Sent, contract_id: str = CONTRACT, **options: Any) -> Append:
        self.requests += 1
        known = [self._known(header, body) for header, body in self.stored.get(contract_id, ()) if body is not None]
        events = tuple(realise(event, known) for event in events)
        bodies = [({name: member for name, member in event.items() if name != "event_type"}, event["event_type"]) for event in events]
        return Append(
            ledger=self.ledger,
            contract_id=contract_id,
            opening=contract_id not in self.rows,
            events=[read_event(event_type, body) for body, event_type in bodies],
            recorded_by="00000000-0000-7000-8000-0000000000aa",
            key=self.requests.to_bytes(16, "big"),
            canonical=orjson.dumps(events),
            **options,
        )

    @staticmethod
    def _known(header: bytes, body: bytes) -> Known:
        recorded = decode_header(header)
        return recorded.event_id, recorded.event_type, orjson.loads(body)["data"]

    def commit(self, *appends: Append) -> Batch:
        """What `log.append.transact` does, table by table."""
        batch = Batch(self.ledger, appends)
        batch.begin((self.now, self.position, self.recorded_at, 1, LAYOUT, None, self.unique_schemes, ""), self.now.timestamp())
        batch.load(
            [[getattr(row, name) for name in ContractRow.__struct_fields__] for row in self.rows.values()],
            (),
            self.delivery_ids,
            self.event_ids,
        )
        for contract_id in batch.histories_needed():
            batch.load_histories((contract_id, *stored) for stored in self.stored[contract_id])
        wanted = batch.references_needed()
        batch.holdings.load([(*known, contract_id) for contract_id, held in self.held.items() for known in held & wanted])
        batch.decide(batch.appends)
        self._keep(batch)
        return batch

    def _keep(self, batch: Batch) -> None:
        for row, payload in zip(batch.rows.events, batch.rows.payloads, strict=True):
            assert row["position"] == payload["position"]
            self.stored.setdefault(row["contract_id"], []).append((row["header"], payload["body"]))
            self.event_ids.add((row["contract_id"], row["event_id"]))
            # The column is written as bytea is in text: `\\x` and hex.
            self.sealed[row["event_id"]] = orjson.loads(bytes.fromhex(payload["sealed"][2:])) if "sealed" in payload else []
        self.delivery_ids |= {(row["contract_id"], row["delivery_id"]) for row in batch.rows.deliveries}
        self.held |= batch.holdings.changed
        for contract_id, stored in self.stored.items():
            self.stored[contract_id] = [
                (header, None if decode_header(header).position in batch.rows.erased else body) for header, body in stored
            ]
        self.rows |= {row.contract_id: row for row in batch.rows.contracts.values()}
        if batch.written:
            self.position, self.recorded_at = batch.position, batch.recorded_at

    def append(self, *events: Sent, contract_id: str = CONTRACT, **options: Any) -> Receipt:
        """Append one request; its refusal is raised."""
        (outcome,) = self.commit(self.request(*events, contract_id=contract_id, **options)).outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def history(self, contract_id: str = CONTRACT) -> list[RecordedEvent]:
        """The contract's events, read from their stored bytes."""
        return [recorded_event(header, body, zone(self.time_zone)) for header, body in self.stored.get(contract_id, ())]


def log_of(*events: Sent, day: date = TODAY) -> Log:
    """A ledger in which the events are recorded, one request each."""
    log = Log().at(day)
    for event in events:
        log.append(event)
    return log


def refused(log: Log, *events: Sent) -> str:
    """The rule that refuses a request; a refusal leaves no trace."""
    before = log.position, dict(log.rows), len(log.history())
    with pytest.raises(NotAllowedNow) as caught:
        log.append(*events)
    assert (log.position, log.rows, len(log.history())) == before
    assert caught.value.detail.endswith((".", "}."))
    return caught.value.rule


def flagged_in(log: Log) -> list[str]:
    """The ids of the anomalies in a contract's row."""
    return [known.anomaly_id for known in decode_beside(log.rows[CONTRACT]).anomalies]


# Events at random. Ids come from small sets, so that events meet.

_DAYS = st.dates(date(2022, 1, 1), date(2030, 12, 31))
DAYS = _DAYS.map(date.isoformat)
_YEARS = st.integers(2021, 2031).map(str)
_QUARTERS = st.builds("{}-Q{}".format, st.integers(2021, 2031), st.integers(1, 4))
_MONTHS = st.builds("{}-{:02}".format, st.integers(2021, 2031), st.integers(1, 12))
BUSINESS_DATES = st.one_of(DAYS, DAYS, _MONTHS, _QUARTERS, _YEARS)
NEAR_DATES = st.one_of(
    st.dates(date(2025, 12, 1), date(2026, 6, 30)).map(date.isoformat), st.sampled_from(["2025", "2026", "2026-Q1", "2026-02", "2026-05"])
)
_NAMES = st.sampled_from(["Reuters", "한국경제", "Nikkei", 'a "quote" \\ \u0001', "😀"])
_ITEM_IDS = st.sampled_from(["cells", "cells", "packs"])
_UNITS = st.sampled_from(["EA", "KWH", "x-cell"])
_QUANTITIES = st.sampled_from(["0", "1", "10", "12.5", "60", "100", "0.001"])
_FIGURE_IDS = st.sampled_from([f"f{index}" for index in range(6)])
_OPTION_IDS = st.sampled_from(["o1", "o1", "o2"])
_PARTY_IDS = st.sampled_from(["lges", "isuzu", "p1", "p2"])
_ROLES = st.sampled_from(["supplier", "buyer", "broker"])
_LANGUAGES = st.sampled_from(["ko", "ja-Latn", "pt-BR"])
_AMOUNTS = st.sampled_from(["0", "98", "100", "101", "102", "103", "104", "200", "1000000000000"])
_DURATIONS = st.sampled_from(["P1Y", "P4Y", "P6M", "P90D", "P2W"])


_MONEY = st.fixed_dictionaries({"amount": _AMOUNTS, "currency": st.sampled_from(["KRW", "USD"])})
_IDENTIFIERS = st.fixed_dictionaries({"scheme": st.just("LEI"), "id": st.sampled_from(["Reuters", "한국경제", 'a "quote" \\', "😀"])})


def _members(required: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]]) -> Members:
    return st.fixed_dictionaries(required, optional=optional)


def _some(entries: Members, by: str) -> st.SearchStrategy[list[Sent]]:
    return st.lists(entries, min_size=1, max_size=2, unique_by=lambda entry: entry[by])


def _orderly(period: Sent) -> Sent:
    """Start, end and latest end in their order."""
    given = [member for member in ("start_on", "end_on", "max_end_on") if member in period]
    return period | dict(zip(given, sorted((period[member] for member in given), key=last_day), strict=True))


def _sources(dates: Dates) -> Members:
    return _members({"kind": st.sampled_from(["party", "filing", "news"])}, {"name": _NAMES, "via": _NAMES, "published_on": dates})


def _opening_members(dates: Dates) -> dict[str, st.SearchStrategy[Any]]:
    """What a report or a signing may state about the contract."""
    counted = _members({"item_id": _ITEM_IDS, "description": _NAMES, "quantity": _QUANTITIES, "unit": _UNITS}, {})
    uncounted = _members({"item_id": _ITEM_IDS, "description": _NAMES}, {"unit": _UNITS})
    related = {**SUPPLIER, "relation": {"kind": "subsidiary", "of": "lg"}}
    period = {"start_on": dates, "end_on": dates, "max_end_on": dates, "duration": _DURATIONS}
    return {
        "title": _NAMES,
        "kind": st.sampled_from(["supply", "framework"]),
        "parties": st.sampled_from([[SUPPLIER, BUYER], [BUYER, SUPPLIER], [related, BUYER]]),
        "items": _some(counted | uncounted, "item_id"),
        "period": _members({}, period).map(_orderly),
        "figures": _some(_figures(dates), "figure_id").map(_rooted),
        "references": _some(_IDENTIFIERS, "id"),
    }


def _signing_members(dates: Dates) -> dict[str, st.SearchStrategy[Any]]:
    """What only a signing states."""
    paths = st.sampled_from(["/value", "/quantity", "/value/x", "/items", "/parties/buyer"])
    price = {"item_id": _ITEM_IDS, "unit_price": _QUANTITIES, "currency": st.just("USD"), "per_unit": _UNITS}
    terms = {
        "payment": _NAMES,
        "renewal": st.just({"automatic": True, "notice_days": 90}),
        "prices": st.lists(_members(price, {"valid_from": dates}), min_size=1, max_size=2),
        "volumes": st.lists(_members({"item_id": _ITEM_IDS, "period": dates}, {"minimum": _QUANTITIES}), min_size=1, max_size=2),
    }
    withheld = _some(_members({"path": paths, "reason": _NAMES}, {"until": dates}), "path")
    return {"signed_on": dates, "withheld": withheld, "terms": _members({}, terms)}


def _data(dates: Dates) -> dict[str, Members]:
    """For each event type a strategy for its data."""
    figures, opening = _figures(dates), _opening_members(dates)
    ending = _members({}, {"by": _NAMES, "cause": _NAMES, "notice_on": dates, "terminated_value": _MONEY, "successor": _IDENTIFIERS})
    added = _members({"quantity": _QUANTITIES, "unit": _UNITS}, {"item_id": _ITEM_IDS})
    anomaly_ids = st.sampled_from(["figures-conflict.1.2", "start-before-signing.1", "value-halved.3"])
    subjects = {"figure": _FIGURE_IDS, "item": _ITEM_IDS, "option": _OPTION_IDS, "anomaly": anomaly_ids}
    about = st.one_of(*(st.fixed_dictionaries({"kind": st.just(kind), "id": ids}) for kind, ids in subjects.items()))
    revision = {"replaces": _FIGURE_IDS, "value": figures, "reason": st.sampled_from(["quantity", "fx", "actuals"])}
    delivery = {"item_id": _ITEM_IDS, "quantity": _QUANTITIES, "unit": _UNITS, "delivered_on": dates}
    delivery_ids = st.integers(0, 9_999).map("d{}".format)
    return {
        "contract.reported": _members({"stage": st.sampled_from(["reported", "negotiating", "denied"])}, opening),
        "contract.signed": _members({}, opening | _signing_members(dates)) | _members({"signed_by": dates}, opening),
        "figure.stated": _members({"figure": figures}, {}),
        "value.revised": _members(revision, {}),
        "order.extended": _members(
            {"via": st.sampled_from(["amendment", "renewal", "option"])},
            {"added_quantity": added, "added_value": _MONEY, "new_end_on": dates, "option_id": _OPTION_IDS},
        ).filter(lambda data: not {*data} <= {"via", "option_id"}),
        "delivery.started": _members({}, {"item_id": _ITEM_IDS, "place": _NAMES, "lot": _NAMES, "partial": st.booleans()}),
        "delivery.recorded": _members({"delivery_id": delivery_ids, **delivery}, {"value": _MONEY}),
        "agreement.linked": _members({"relation": st.just("joint-development")}, {"title": _NAMES, "reference": _IDENTIFIERS}),
        "contract.completed": ending,
        "contract.terminated": ending,
        "contract.cancelled": ending,
        "contract.superseded": ending,
        "note.added": _members({"text": _NAMES}, {"about": about}),
        "contract.labelled": _members({}, {"set": _labels(), "remove": _labels()}).filter(bool),
        **_party_data(),
        **_option_data(dates),
        **_course_data(dates),
    }


def _labels() -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(["to review", "전지", "unread"]), min_size=1, max_size=2)


def _party_data() -> dict[str, Members]:
    """Who the parties are, and what of the value and the terms changes with them."""
    party = _members(
        {"party_id": _PARTY_IDS, "name": st.just("A party"), "roles": _ROLES.map(lambda role: [role])}, {"language": _LANGUAGES}
    )
    identified = {
        "name": _NAMES,
        "language": _LANGUAGES,
        "identifiers": _some(_IDENTIFIERS, "id"),
        "merges": st.lists(_PARTY_IDS, min_size=1, unique=True),
    }
    return {
        "party.added": _members({"party": party}, {}),
        "party.replaced": _members({"replaces": _PARTY_IDS, "party": party}, {}),
        "party.identified": _members({"party_id": _PARTY_IDS}, identified).filter(
            lambda data: len(data) > 1 and data["party_id"] not in data.get("merges", []) and ("name" in data or "language" not in data)
        ),
        "figure.withdrawn": _members({"figure_id": _FIGURE_IDS, "reason": _NAMES}, {}),
    }


def _option_data(dates: Dates) -> dict[str, Members]:
    """Options, and amendments of the terms."""
    most = _members({"quantity": _QUANTITIES, "unit": _UNITS}, {"item_id": _ITEM_IDS})
    limit = {"added_quantity": most, "added_value": _MONEY, "new_end_on": dates, "times": st.integers(1, 2)}
    granted = {
        "holder": st.sampled_from(["lges", "isuzu"]),
        "window": _members({}, {"start_on": dates, "end_on": dates}).map(_orderly),
        "limit": _members({}, limit),
    }
    changes = st.one_of(
        st.builds(lambda to: {"path": "/title", "from": "Cells", "to": to}, _NAMES),
        st.builds(lambda path, to: {"path": f"/period/{path}", "to": to}, st.sampled_from(["start_on", "end_on", "max_end_on"]), dates),
        st.builds(lambda to: {"path": "/terms/payment", "to": to}, _NAMES),
        st.builds(lambda day: {"path": "/terms/volumes", "to": [{"item_id": "cells", "period": day}]}, dates),
        st.builds(lambda day: {"path": "/terms/volumes/0/period", "from": day, "to": "2027"}, dates),
    )
    amended = {"amendment_id": st.integers(0, 9_999).map("a{}".format), "changes": st.lists(changes, min_size=1, max_size=2)}
    return {
        "option.granted": _members({"option_id": _OPTION_IDS, "kind": st.sampled_from(["term", "quantity", "price"])}, granted),
        "option.exercised": _members({"option_id": _OPTION_IDS, "exercised_on": dates}, {"text": _NAMES}),
        "option.lapsed": _members({"option_id": _OPTION_IDS}, {"text": _NAMES}),
        "terms.amended": _members(amended, {"rationale": _NAMES, "treatment": st.just("prospective")}),
    }


def _course_data(dates: Dates) -> dict[str, Members]:
    """How it goes: deliveries judged and stopped, milestones, disclosures, disputes."""
    judged = {"delivery_id": st.just("d1"), "item_id": _ITEM_IDS, "quantity": _QUANTITIES, "unit": _UNITS}
    ids = st.sampled_from(["m1", "m2"])
    condition = _members({"condition_id": ids, "title": _NAMES}, {"due_on": dates})
    referred = _members({"reference": st.sampled_from(["1", "2"])}, {"text": _NAMES})
    paths = st.sampled_from(["/value", "/quantity", "/terms/prices"])
    withheld = _some(_members({"path": paths, "reason": _NAMES}, {"until": dates}), "path")
    filed = {"title": _NAMES, "reference": _IDENTIFIERS, "contains": st.just(["/title"]), "withheld": withheld}
    return {
        "delivery.accepted": _members(judged, {"value": _MONEY, "delivered_on": dates}),
        "delivery.rejected": _members(judged, {"value": _MONEY, "delivered_on": dates, "reason": _NAMES}),
        "delivery.suspended": _members({}, {"item_id": _ITEM_IDS, "reason": _NAMES}),
        "delivery.resumed": _members({}, {"item_id": _ITEM_IDS, "text": _NAMES}),
        "delivery.completed": _members({}, {"item_id": _ITEM_IDS, "delivered_on": dates}),
        "milestone.scheduled": _members({"milestone_id": ids, "title": _NAMES}, {"due_on": dates}),
        "milestone.met": _members({"milestone_id": ids}, {"text": _NAMES}),
        "milestone.missed": _members({"milestone_id": ids}, {"text": _NAMES}),
        "condition.satisfied": condition,
        "condition.failed": condition,
        "disclosure.filed": _members({}, filed),
        "disclosure.withheld": _members({"withheld": withheld}, {}),
        "disclosure.released": _members({"paths": st.lists(paths, min_size=1, max_size=2, unique=True)}, {}),
        "dispute.raised": referred,
        "dispute.resolved": referred,
        "force_majeure.declared": referred,
        "force_majeure.lifted": referred,
    }


def requests_on(dates: Dates) -> dict[str, Members]:
    """For each event type a strategy for its requests, all business dates drawn from `dates`."""
    ordinary = {event_type: _requests(event_type, data, dates) for event_type, data in _data(dates).items()}
    turn = st.integers(0, 30)
    return ordinary | {
        "event.corrected": _requests("event.corrected", _members({"turn": turn, "like": st.one_of(*ordinary.values())}, {}), dates),
        "event.voided": _requests("event.voided", _members({"turn": turn}, {}), dates),
    }


def _figures(dates: Dates) -> Members:
    known = {
        "figure_id": _FIGURE_IDS,
        "currency": st.sampled_from(["KRW", "KRW", "USD"]),
        "basis": st.sampled_from(["contractual", "disclosed", "confirmed", "reported", "estimated", "computed"]),
        "bound": st.sampled_from(["exact", "about", "at_least", "at_most"]),
        "scope": st.sampled_from(["total", "total", "annual", "unit"]),
    }
    rates = _members({"rate": st.sampled_from(["0.001", "1310.95"]), "base": st.just("USD"), "quote": st.just("KRW")}, {"rate_on": dates})
    optional = {
        "vat": st.sampled_from(["excluded", "included", "unknown"]),
        "source": _sources(dates),
        "derived_from": st.fixed_dictionaries({"figure_id": _FIGURE_IDS}),
        "fx": rates,
        "note": _NAMES,
    }
    point = _members(known | {"amount": _AMOUNTS}, optional)
    span = _members(known | {"low": st.sampled_from(["0", "99", "100"]), "high": st.sampled_from(["100", "120", "300"])}, optional)
    return (point | span).map(_underived)


def _rooted(figures: list[Sent]) -> list[Sent]:
    """No figure of a body derives from one that stands after it."""
    later = [{known["figure_id"] for known in figures[index + 1 :]} for index in range(len(figures))]
    return [
        _stated({**known, "derived_from": None}) if known.get("derived_from", {}).get("figure_id") in after else known
        for known, after in zip(figures, later, strict=True)
    ]


def _underived(figure: Sent) -> Sent:
    """A figure cannot derive from itself."""
    if figure.get("derived_from") == {"figure_id": figure["figure_id"]}:
        del figure["derived_from"]
    return figure


def _requests(event_type: str, data: Members, dates: Dates) -> Members:
    required = {"event_type": st.just(event_type), "source": _sources(dates), "data": data}
    required |= {} if EVENT_TYPES[event_type].dayless else {"effective_on": dates}
    return _members(required, {"hypothetical": st.just(True)})


# Composite strategies, so that a failing test names them in a word instead of spelling them out over pages.


@cache
def _by_type(near: bool) -> dict[str, Members]:
    return requests_on(NEAR_DATES if near else BUSINESS_DATES)


@st.composite
def openings(draw: st.DrawFn, *, near: bool = False) -> Sent:
    """A request that may open a contract; most take effect before what follows. `near`: all dates about the turn of 2025."""
    request = draw(_by_type(near)[draw(st.sampled_from(["contract.reported", "contract.signed"]))])
    early = draw(st.sampled_from([None, "2020-05-05", "2021", "2021-Q3"]))
    data = {
        "title": "Cells",
        "kind": "supply",
        "parties": [SUPPLIER, BUYER],
        "items": [CELLS],
        "figures": [figure("f0")],
        **request["data"],
    }
    data["figures"] = [_stated({**member, "derived_from": None}) for member in data["figures"]]
    return request | {"effective_on": early or request["effective_on"], "data": data}


_WEIGHTS = {
    "contract.reported": 5,
    "contract.signed": 6,
    "figure.stated": 10,
    "value.revised": 10,
    "delivery.recorded": 8,
    "delivery.started": 4,
    "order.extended": 8,
    "note.added": 4,
    "option.granted": 5,
    "disclosure.withheld": 4,
    "milestone.scheduled": 4,
    "dispute.raised": 4,
    "contract.completed": 1,
    "contract.terminated": 1,
    "contract.cancelled": 1,
    "contract.superseded": 1,
    "event.corrected": 8,
}
NEEDS_AN_EVENT = {"event.erased", "sealed.revealed"}
"""Types that name an event by an id that the ledger gave; they have tests of their own."""
_TYPES = [event_type for event_type in sorted(set(EVENT_TYPES) - NEEDS_AN_EVENT, reverse=True) for _ in range(_WEIGHTS.get(event_type, 3))]


@st.composite
def requests(draw: st.DrawFn, *, near: bool = False) -> Sent:
    """A request of any event type."""
    return draw(_by_type(near)[draw(st.sampled_from(_TYPES))])


@st.composite
def histories(draw: st.DrawFn, *, near: bool = False, most: int = 10) -> list[Sent]:
    """Requests that begin with an opening; the rules may refuse any but the first."""
    return fitted([draw(openings(near=near)), *draw(st.lists(requests(near=near), min_size=2, max_size=most))])


def fitted(history: list[Sent]) -> list[Sent]:
    """The history with ids that fit, so that the rules accept most of it: new figures are new, and what is referred to is there."""
    known: list[str] = []
    delivered: list[str] = []
    return [_fitted(_judged(request, delivered), known) for request in history]


def _judged(request: Sent, delivered: list[str]) -> Sent:
    """What is accepted or rejected is the latest delivery that was recorded."""
    data = request["data"]
    if request["event_type"] == "delivery.recorded":
        delivered.append(data["delivery_id"])
    if delivered and request["event_type"] in ("delivery.accepted", "delivery.rejected"):
        data = {**data, "delivery_id": delivered[-1]}
    return request | {"data": data}


def _fitted(request: Sent, known: list[str]) -> Sent:
    data = dict(request["data"])
    if request["event_type"] == "value.revised":
        data["replaces"] = _one_of(known, data["replaces"])
        data["value"] = _fitted_figure(data["value"], known)
    if request["event_type"] == "figure.withdrawn":
        data["figure_id"] = _one_of(known, data["figure_id"])
    if "figure" in data:
        data["figure"] = _fitted_figure(data["figure"], known)
    if "figures" in data:
        data["figures"] = [_fitted_figure(member, known) for member in data["figures"]]
    return request | {"data": data}


def _fitted_figure(figure: Sent, known: list[str]) -> Sent:
    figure_id = figure["figure_id"] if figure["figure_id"] not in known else f"f{len(known) + 6}"
    origin = figure.get("derived_from", {}).get("figure_id")
    known.append(figure_id)
    fitted = figure | {"figure_id": figure_id}
    return fitted | ({"derived_from": {"figure_id": _one_of(known[:-1], origin)}} if origin else {})


def _one_of(known: Sequence[str], figure_id: str) -> str:
    return known[int(figure_id[1:]) % len(known)] if known else figure_id


def accepted(history: Iterable[Sent], day: date = TODAY) -> list[RecordedEvent]:
    """The events of a history that the rules accept, as recorded on a day."""
    log = Log().at(day)
    for request in history:
        append_if_allowed(log, request)
    return log.history()


def append_if_allowed(log: Log, *events: Sent) -> bool:
    """Append a request, unless a rule refuses it; a refusal leaves no trace."""
    before = log.position, log.recorded_at, dict(log.rows), len(log.event_ids)
    (outcome,) = log.commit(log.request(*events)).outcomes
    if isinstance(outcome, Receipt):
        return True
    assert isinstance(outcome, NotAllowedNow | Refused)
    assert before == (log.position, log.recorded_at, log.rows, len(log.event_ids))
    return False


def days_between(first: date, last: date) -> Sequence[date]:
    return [first + timedelta(days=count) for count in range((last - first).days + 1)]
