"""What is sealed is told to nobody and decides nothing; revealed, it says in its own place what it would have said."""

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from typing import Any

import msgspec
import pytest

from service.api.envelope import read_event
from service.audit.replay import fold_row
from service.cli.prose import Told, event_words
from service.cli.story import _facts
from service.domain.contract import encode_state
from service.domain.events import EventData, RecordedEvent
from service.domain.events import stated as stated_members
from service.domain.sealing import MAX_SEALED, MAX_SEALED_BYTES, NEVER_SEALED, OPEN
from service.domain.state import ContractState
from service.domain.timeline import View, tell
from service.errors import NotAllowedNow, Refused
from service.exchange.ocds import Exported, encode, record_package
from service.projections.filters import filters_of
from service.projections.outlook import decode_form, outlook_of
from tests.domain.histories import BUYER, CONTRACT, SUPPLIER, TODAY, Log, Sent, figure, log_of, reported, revised, sent, signed, stated
from tests.domain.test_golden_bodies import EFFECTIVE_ON, OF_AN_EVENT, request_of

NEEDLE = "918273645546372819"


def sealing(request: Sent, *paths: str, until: str | None = None) -> Sent:
    """The request with members sealed."""
    copy = deepcopy(request)
    parts = []
    for path in paths:
        *steps, name = path.split("/")[1:]
        holder: Any = copy["data"]
        for step in steps:
            holder = holder[int(step)] if isinstance(holder, list) else holder[step]
        parts.append({"path": path, "value": holder.pop(name)} | ({"until": until} if until else {}))
    return {**copy, "sealed": parts}


def revealing(log: Log, revision: int, *paths: str, **changed: Any) -> Sent:
    """A reveal of what a revision sealed, all of it or at some paths."""
    event = log.history()[revision - 1]
    parts = [{**part, **changed} for part in log.sealed[event.event_id] if not paths or part["path"] in paths]
    return sent("sealed.revealed", None, {"event_id": event.event_id, "parts": parts})


def state_of(log: Log, day: date = TODAY) -> View:
    row, history = log.rows[CONTRACT], log.history()
    assert row == fold_row(CONTRACT, history, row.last_hash, row.settled_on)
    return tell(history, day)


def without_marks(view: View) -> str:
    """A state without what says that something was sealed, and what the facts rest on."""
    view.state.sealed, view.state.revealed = [], []
    return encode_state(view.state).decode()


ISSUED = sealing(stated(figure("f1", NEEDLE)), "/figure/amount")


def test_a_figure_whose_amount_is_sealed_is_listed_and_counts_for_nothing() -> None:
    state = state_of(log_of(reported(), stated(figure("open", "100")), ISSUED)).state
    assert [known.figure_id for known in state.value.figures] == ["open", "f1"]
    assert state.value.best
    assert (state.value.best.figure_id, state.value.high and state.value.high.amount, state.value.support) == ("open", "100", 1)
    assert (state.value.conflicts, state.marks) == ([], ["sealed"])
    assert [(known.path, known.rests_on, len(known.digest)) for known in state.sealed] == [("/figure/amount", [3], 64)]
    alone = state_of(log_of(reported(), ISSUED)).state
    assert (alone.value.status, alone.value.best) == ("withheld", None)


def test_a_value_revised_to_a_sealed_amount_is_not_a_fall() -> None:
    log = log_of(reported(), stated(figure("f0", "1000000")), sealing(revised("f0", figure("f1", "10")), "/value/amount"))
    assert state_of(log).anomalies == []
    log.append(revealing(log, 3))
    assert [known.rule for known in state_of(log).anomalies] == ["value-halved"]


def test_a_sealed_value_that_would_conflict_is_flagged_when_it_is_revealed() -> None:
    log = log_of(reported(), stated(figure("open", "100")), ISSUED)
    assert state_of(log).anomalies == []
    receipt = log.append(revealing(log, 3))
    assert b"figures-conflict.2.3" in receipt.body
    assert [known.anomaly_id for known in state_of(log).anomalies] == ["figures-conflict.2.3"]


def test_what_is_revealed_takes_the_place_that_its_event_has() -> None:
    """It is dated by its own event: a later revision, recorded before the reveal, still comes after it."""
    log = log_of(reported(), ISSUED)
    log.append(revised("f1", figure("f2", "500"), "2025-01-01"))
    log.append(revealing(log, 2))
    state = state_of(log).state
    assert state.value.best
    assert state.value.best.figure_id == "f2"
    assert [(known.path, known.rests_on) for known in state.revealed] == [("/figure/amount", [2, 4])]
    assert (state.sealed, state.marks) == ([], [])
    before = state_of(log, date(2024, 12, 31)).state
    assert before.value.best
    assert before.value.best.amount == NEEDLE


def test_a_reveal_by_path_leaves_the_rest_sealed_and_its_digest_as_it_was() -> None:
    log = log_of(reported(), sealing(stated({**figure("f1", NEEDLE), "note": "in words"}), "/figure/amount", "/figure/note"))
    digests = {known.path: known.digest for known in state_of(log).state.sealed}
    log.append(revealing(log, 2, "/figure/note"))
    state = state_of(log).state
    assert {known.path: known.digest for known in state.sealed} == {"/figure/amount": digests["/figure/amount"]}
    assert [known.path for known in state.revealed] == ["/figure/note"]
    assert state.value.figures[0].note == "in words"
    log.append(revealing(log, 2, "/figure/amount"))
    assert state_of(log).state.value.figures[0].amount == NEEDLE


def test_a_reveal_whose_event_is_not_there_is_unplaced() -> None:
    log = log_of(reported(), ISSUED)
    late = revealing(log, 2)
    log.append(late | {"source": {**late["source"], "published_on": "2022-07-05"}})
    assert tell(log.history(), TODAY, date(2022, 7, 5)).state.unplaced == [3]
    assert state_of(log).state.unplaced == []
    assert [known.revision for known in state_of(log).rests_on] == [3, 1, 2]


def test_a_reveal_that_was_published_later_was_not_known_before() -> None:
    log = log_of(reported(), ISSUED)
    late = revealing(log, 2)
    log.append(late | {"source": {**late["source"], "published_on": "2026-01-05"}})
    told = tell(log.history(), TODAY, date(2025, 12, 31)).state
    assert NEEDLE not in encode_state(told).decode()
    assert NEEDLE in encode_state(tell(log.history(), TODAY).state).decode()


def test_a_passed_day_is_flagged_and_reveals_nothing() -> None:
    log = log_of(reported(), sealing(stated(figure("f1", NEEDLE)), "/figure/amount", until="2025-06"), day=date(2025, 6, 30))
    before = tell(log.history(), date(2025, 6, 30))
    assert (before.anomalies, before.holds_until) == ([], date(2025, 7, 1))
    after = tell(log.history(), date(2025, 7, 1))
    assert [known.rule for known in after.anomalies] == ["sealed-past-its-day"]
    assert NEEDLE not in encode_state(after.state).decode() + after.anomalies[0].sentence
    log.at(date(2025, 7, 2)).append(revealing(log, 2))
    assert tell(log.history(), date(2025, 7, 2)).anomalies == []


# Names and quantities

ITEM = {"item_id": "cells", "description": "Cells", "quantity": "100", "unit": "EA"}
OPENED = signed(title="Cells", kind="supply", parties=[SUPPLIER, BUYER], items=[ITEM])


def test_a_party_whose_name_is_sealed_stands_in_its_role_and_is_found_by_its_id_alone() -> None:
    log = log_of(sealing(OPENED, "/parties/1/name"))
    state = state_of(log).state
    assert [(party.party_id, party.name, party.roles) for party in state.parties][1] == (BUYER["party_id"], None, ["buyer"])
    name = BUYER["name"].split()[0].casefold()
    assert not [term for term in filters_of(state) if name in term.casefold() and term.startswith("word=")]
    assert decode_form(outlook_parties(state)[1]).name == ""
    log.append(revealing(log, 1))
    assert f"word={name}" in filters_of(state_of(log).state)


def outlook_parties(state: ContractState) -> list[str]:
    parties = msgspec.json.decode(outlook_of(encode_state(state)))["parties"]
    return [msgspec.json.encode(party).decode() for party in parties]


def delivered_sealed(delivery_id: str) -> Sent:
    data = {"delivery_id": delivery_id, "item_id": "cells", "quantity": "120", "unit": "EA", "delivered_on": "2024-05-01"}
    return sealing(sent("delivery.recorded", "2024-05-01", data), "/quantity")


def test_a_sealed_quantity_is_no_delivery_of_nothing_and_is_told_when_it_is_revealed() -> None:
    log = log_of(OPENED, delivered_sealed("d1"))
    view = state_of(log)
    assert view.state.delivery
    assert [(total.item_id, total.unit, total.quantity) for total in view.state.delivery.totals] == [("cells", "EA", None)]
    assert (view.state.delivery.count, view.anomalies) == (1, [])
    judged = {"delivery_id": "d1", "item_id": "cells", "quantity": "7", "unit": "EA"}
    assert b'"anomalies":[]' in log.append(sent("delivery.accepted", "2024-05-02", judged)).body
    log.append(revealing(log, 2))
    assert [known.rule for known in state_of(log).anomalies] == ["delivered-more-than-ordered"]


def test_a_limit_of_an_option_that_is_sealed_binds_nothing() -> None:
    limit = {"added_quantity": {"quantity": "5", "unit": "EA"}}
    granted = sent("option.granted", "2024-02-01", {"option_id": "o1", "kind": "quantity", "limit": limit})
    extension = {"added_quantity": {"quantity": "6", "unit": "EA"}, "via": "option", "option_id": "o1"}
    log = log_of(OPENED, sealing(granted, "/limit/added_quantity/quantity"), sent("order.extended", "2024-03-01", extension))
    assert [known.ordered for known in state_of(log).state.items] == ["106"]
    log.append(revealing(log, 2))
    assert [known.rule for known in state_of(log).anomalies] == ["no-longer-fits"]


def test_an_extension_by_a_sealed_quantity_adds_nothing_that_is_told() -> None:
    added = sent("order.extended", "2024-03-01", {"added_quantity": {"quantity": "6", "unit": "EA"}, "via": "amendment"})
    log = log_of(OPENED, sealing(added, "/added_quantity/quantity"))
    assert [known.ordered for known in state_of(log).state.items] == ["100"]
    assert state_of(log).state.extensions[0].added_quantity == {"unit": "EA"}
    log.append(revealing(log, 2))
    assert [known.ordered for known in state_of(log).state.items] == ["106"]


# Every member that may be sealed


def members_of(data: Sent, path: str = "") -> Iterator[str]:
    """The paths of all members of objects within data."""
    for name, member in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(data, dict):
            yield f"{path}/{name}"
        if isinstance(member, dict | list):
            yield from members_of(member, f"{path}/{name}")


CASES = [(name, path) for name in EFFECTIVE_ON if name not in OF_AN_EVENT for path in members_of(request_of(name)["data"])]


def life_with(event_type: str, request: Sent) -> Log:
    """A contract in which an event comes after what most events need, as far as the rules let it."""
    log = Log().at(TODAY)
    opening = request_of("contract.reported")
    if event_type == "contract.reported" and {"title", "kind"} - request["data"].keys():
        log.append(opening)  # an opening states these openly
    log.commit(log.request(request if event_type == "contract.reported" else opening))
    if event_type not in ("contract.reported", "contract.signed"):
        for needed in ("figure.stated", "option.granted", "milestone.scheduled", "disclosure.withheld", "dispute.raised"):
            if needed != event_type:
                log.append(request_of(needed))
    if event_type != "contract.reported":
        log.commit(log.request(request))
    return log


def test_every_member_that_may_be_sealed_is_folded_without_and_after_a_reveal_as_if_it_had_been_open() -> None:
    taken, refusals = [], set()
    for event_type, path in CASES:
        request = sealing(request_of(event_type), path)
        body = {name: member for name, member in request.items() if name != "event_type"}
        try:
            read_event(event_type, body)
        except Refused as refusal:
            refusals.add(refusal.errors[0].pointer)
            continue
        taken.append((event_type, path))
        log, opened = life_with(event_type, request), life_with(event_type, request_of(event_type))
        revision = len(log.history())
        if len(opened.history()) != revision or not log.history()[-1].sealed:
            continue  # a rule lets one of the two in
        log.append(revealing(log, revision))
        assert without_marks(state_of(log)) == without_marks(state_of(opened)), (event_type, path)
    assert refusals <= {"/sealed/0/path", "/sealed"}
    assert len(taken) > 60
    assert ("figure.stated", "/figure/amount") in taken
    assert ("note.added", "/text") in taken
    assert {("party.added", "/party/name"), ("delivery.recorded", "/quantity"), ("delivery.accepted", "/quantity")} <= {*taken}
    assert {("contract.signed", "/parties/0/name"), ("contract.reported", "/parties/0/name")} <= {*taken}
    assert ("contract.signed", "/terms/prices/0/unit_price") in taken
    assert not {path.rpartition("/")[2] for name, path in taken if not path.startswith("/terms/")} & OPEN


def told_by(log: Log) -> list[str]:
    """Everything that is made of a state and its events besides: terms of lists, the outlook, OCDS, and the story by the command."""
    events, state = log.history(), state_of(log).state
    encoded = encode_state(state)
    package = record_package(Exported(CONTRACT, events, [f"2026-11-22T00:00:00.{n:06}Z" for n in range(len(events))]))
    shown = {"effective_on": TODAY.isoformat(), "time_zone": "UTC", "known_position": len(events)}
    answer = {"state": json.loads(encoded), "as_of": shown, "anomalies": [], "pending": []}
    stored = [answered(log, event) for event in events]
    story = [line for _, lines in _facts(Told(answer, stored)) for line in lines]
    return [*filters_of(state), outlook_of(encoded), encode(package).decode(), *story, *map(event_words, stored)]


def answered(log: Log, event: RecordedEvent) -> Sent:
    """An event as the service answers it to a reader without the right."""
    members = event.sealed
    data = members.data if members else stated_of(event.data)
    sealed = [{"path": path} for path in members.digests] if members else []
    known = {"event_id": event.event_id, "revision": event.revision, "position": event.position, "recorded_at": "2026-11-22T00:00:00Z"}
    return {"event_type": event.data.event_type, "data": data, "source": event.source, "sealed": sealed, **known} | (
        {"effective_on": event.effective_on} if event.effective_on else {}
    )


def stated_of(data: EventData) -> Sent:
    return {name.rstrip("_"): member for name, member in stated_members(data).items()}


def test_what_may_be_sealed_is_missed_by_nothing_that_tells_of_the_contract() -> None:
    for event_type, path in CASES:
        request = sealing(request_of(event_type), path)
        try:
            read_event(event_type, {name: member for name, member in request.items() if name != "event_type"})
        except Refused:
            continue
        assert told_by(life_with(event_type, request)), (event_type, path)


# Refusals


@pytest.mark.parametrize(
    ("paths", "pointer"),
    [
        (["/figure/figure_id"], "/sealed/0/path"),
        (["/figure"], "/sealed/0/path"),
        (["/figure/currency"], "/sealed/0/path"),
        (["/figure/derived_from"], "/sealed/0/path"),
    ],
)
def test_what_has_to_stay_open_is_refused(paths: list[str], pointer: str) -> None:
    with pytest.raises(Refused) as caught:
        log_of(reported(), sealing(stated({**figure("f1"), "derived_from": {"figure_id": "f0"}}), *paths))
    assert caught.value.errors[0].pointer == pointer


def bare(*sealed: Any, data: Sent | None = None) -> Sent:
    open_figure = {name: member for name, member in figure("f1").items() if name != "amount"}
    return {**stated(figure("f1")), "data": data or {"figure": open_figure}, "sealed": list(sealed)}


AMOUNT = {"path": "/figure/amount", "value": NEEDLE}


@pytest.mark.parametrize(
    ("request_", "pointer"),
    [
        (bare(AMOUNT, AMOUNT), "/sealed/1/path"),
        (
            bare(AMOUNT, {"path": "/figure/source", "value": {"kind": "news"}}, {"path": "/figure/source/name", "value": "x"}),
            "/sealed/2/path",
        ),
        (bare(AMOUNT, data={"figure": figure("f1")}), "/sealed/0/path"),
        (bare({"path": "/figure/amount/0", "value": "1"}), "/sealed/0/path"),
        (bare({"path": "/nowhere/amount", "value": "1"}), "/sealed/0/path"),
        (bare({"path": "figure", "value": "1"}), "/sealed/0/path"),
        (bare({"path": "/figure/값", "value": "1"}), "/sealed/0/path"),
        (bare({"path": "/figure/amount~2", "value": "1"}), "/sealed/0/path"),
        (bare({"path": "/figure/amount"}), "/sealed/0/value"),
        (bare({**AMOUNT, "salt": "0" * 32}), "/sealed/0/salt"),
        (bare({**AMOUNT, "until": "2025-13"}), "/sealed/0/until"),
        (bare(), "/sealed"),
        (bare(*[{"path": f"/figure/x{n}", "value": "1"} for n in range(MAX_SEALED + 1)]), "/sealed"),
        (bare({"path": "/figure/note", "value": "n" * MAX_SEALED_BYTES}), "/sealed"),
        (bare(AMOUNT, {"path": "/figure/unknown", "value": "1"}), "/sealed/1/value"),
        (bare({"path": "/figure/amount", "value": 918273645546372}), "/sealed/0/value"),
        (bare({"path": "/figure/amount", "value": f"-{NEEDLE}"}), "/sealed/0/value"),
        (bare({"path": "/figure/amount", "value": f"{NEEDLE}.55"}), "/sealed/0/value"),
        (bare({"path": "/figure/fx", "value": {"rate": NEEDLE, "base": "918", "quote": "KRW"}}, AMOUNT), "/sealed/0/value/base"),
        ({**stated(figure("f1")), "sealed": "all"}, "/sealed"),
        ({**reported(), "data": "none", "sealed": [AMOUNT]}, "/data"),
    ],
)
def test_a_bad_sealed_part_is_refused_with_its_place_and_never_quoted(request_: Sent, pointer: str) -> None:
    with pytest.raises(Refused) as caught:
        log_of(reported(), request_)
    assert caught.value.errors[0].pointer == pointer
    told = caught.value.detail + "".join(fault.detail for fault in caught.value.errors)
    assert "918" not in told


def test_an_entry_of_a_list_cannot_be_sealed_and_a_member_of_one_can() -> None:
    opening = signed(title="Cells", kind="supply", parties=[SUPPLIER, BUYER], figures=[figure("f1", NEEDLE)])
    kept = log_of(sealing(opening, "/figures/0/amount"))
    assert state_of(kept).state.value.figures[0].amount is None
    with pytest.raises(Refused) as caught:
        log_of({**opening, "sealed": [{"path": "/figures/1", "value": figure("f2")}]})
    assert caught.value.errors[0].pointer == "/sealed/0/path"


@pytest.mark.parametrize("event_type", sorted(NEVER_SEALED))
def test_nothing_is_sealed_of_what_opens_or_replaces(event_type: str) -> None:
    with pytest.raises(Refused) as caught:
        read_event(event_type, {"effective_on": "2025", "source": {"kind": "news"}, "data": {}, "sealed": [AMOUNT]})
    assert caught.value.errors[0].pointer == "/sealed"


def test_a_contract_seals_no_more_than_its_room() -> None:
    log = log_of(reported())
    paths = ["/figure/amount", "/figure/note", "/figure/vat"]
    for count in range(66):
        log.append(sealing(stated({**figure(f"f{count}"), "note": "n", "vat": "excluded"}), *paths))
    with pytest.raises(NotAllowedNow) as caught:
        log.append(sealing(stated({**figure("last"), "note": "n", "vat": "excluded"}), *paths))
    assert caught.value.rule == "parts-limit"


def test_a_reveal_is_refused_unless_it_states_what_was_sealed() -> None:
    log = log_of(reported(), ISSUED)
    for changed in ({"salt": "0" * 32}, {"value": "1"}):
        with pytest.raises(Refused) as wrong:
            log.append(revealing(log, 2, **changed))
        assert wrong.value.errors[0].pointer == "/data/parts/0/salt"
    for revision, changed in ((2, {"path": "/figure/note"}), (1, {})):
        reveal = revealing(log, 2, **changed)
        reveal["data"]["event_id"] = log.history()[revision - 1].event_id
        with pytest.raises(NotAllowedNow) as unknown:
            log.append(reveal)
        assert (unknown.value.rule, unknown.value.errors[0].pointer) == ("known-sealed", "/data/parts/0/path")
    twice = revealing(log, 2)
    twice["data"]["parts"] *= 2
    with pytest.raises(Refused) as doubled:
        log.append(twice)
    assert doubled.value.errors[0].pointer == "/data/parts/1/path"
    log.append(revealing(log, 2))
    with pytest.raises(NotAllowedNow, match="was revealed by revision 3"):
        log.append(revealing(log, 2))
    elsewhere = revealing(log, 2)
    elsewhere["data"]["event_id"] = "00000000-0000-7000-8000-0000000000ee"
    with pytest.raises(NotAllowedNow) as strange:
        log.append(elsewhere)
    assert strange.value.rule == "known-event"


def test_a_reveal_of_a_voided_event_is_refused_until_the_void_is_voided() -> None:
    log = log_of(reported(), ISSUED)
    issued = log.history()[1].event_id
    log.append(sent("event.voided", None, {"target": issued, "reason": "recorded twice"}))
    with pytest.raises(NotAllowedNow, match="revision 2 is voided") as voided:
        log.append(revealing(log, 2))
    assert (voided.value.rule, voided.value.errors[0].pointer) == ("known-sealed", "/data/parts/0/path")
    log.append(sent("event.voided", None, {"target": log.history()[2].event_id, "reason": "it was not"}))
    log.append(revealing(log, 2))
    best = state_of(log).state.value.best
    assert best
    assert best.amount == NEEDLE


def test_a_reveal_that_names_a_correction_or_a_void_is_refused() -> None:
    log = log_of(reported(), ISSUED, stated(figure("f2")))
    _, issued, other = log.history()
    log.append(sent("event.corrected", None, {"target": issued.event_id, "data": {"figure": figure("f1", "5")}}))
    log.append(sent("event.voided", None, {"target": other.event_id, "reason": "recorded twice"}))
    for act in log.history()[3:]:
        reveal = revealing(log, 2)
        reveal["data"]["event_id"] = act.event_id
        with pytest.raises(NotAllowedNow, match=f"revision {act.revision} seals nothing at /figure/amount") as refused:
            log.append(reveal)
        assert refused.value.rule == "known-sealed"


def test_what_was_revealed_before_a_correction_is_not_revealed_again_after_it() -> None:
    log = log_of(reported(), sealing(stated({**figure("f1", NEEDLE), "note": "n"}), "/figure/amount", "/figure/note"))
    log.append(revealing(log, 2, "/figure/amount"))
    log.append(sent("event.corrected", None, {"target": log.history()[1].event_id, "data": {"figure": figure("f1", "5")}}))
    with pytest.raises(NotAllowedNow, match="was revealed by revision 3"):
        log.append(revealing(log, 2, "/figure/amount"))
    log.append(revealing(log, 2, "/figure/note"))
    with pytest.raises(NotAllowedNow, match="was revealed by revision 5"):
        log.append(revealing(log, 2, "/figure/note"))
    best = state_of(log).state.value.best
    assert best
    assert best.amount == "5"


def test_what_is_revealed_by_supposition_is_hypothetical() -> None:
    log = log_of(reported(), ISSUED)
    assert not state_of(log).state.hypothetical
    log.append({**revealing(log, 2), "hypothetical": True})
    assert state_of(log).state.hypothetical
    assert not state_of(log, date(2023, 1, 1)).state.hypothetical


def test_what_is_sealed_decides_nothing() -> None:
    """The same requests with other sealed values have the same outcome and the same state but for the digests."""
    outcomes = []
    for amount in ("1", NEEDLE):
        log = log_of(reported(), stated(figure("f0", "1000000")), sealing(revised("f0", figure("f1", amount)), "/value/amount"))
        view = state_of(log)
        for known in view.state.sealed:
            known.digest = ""
        outcomes.append((encode_state(view.state), view.anomalies))
    assert outcomes[0] == outcomes[1]
