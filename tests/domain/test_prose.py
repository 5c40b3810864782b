"""Every event type has its words: what its golden body says, in half a line."""

import re
from typing import Any

import pytest

from service.cli.prose import _WORDS, Told, event_words
from service.cli.story import _facts, _notes, history
from service.domain.contract import encode_state
from service.domain.events import EVENT_TYPES
from service.domain.timeline import tell
from tests.domain.histories import TODAY, events_of
from tests.domain.test_golden_bodies import ACTS, EFFECTIVE_ON, OF_AN_EVENT, request_of, required

Json = dict[str, Any]


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_every_event_type_is_told_in_words_of_its_own(event_type: str) -> None:
    words = event_words(request_of(event_type))
    assert event_type in _WORDS
    assert words
    assert not set("{}[]") & set(words) or event_type == "terms.amended"


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_what_an_event_does_not_state_leaves_no_gap_in_its_words(event_type: str) -> None:
    request = request_of(event_type)
    without_all = {name: member for name, member in request["data"].items() if name in required(EVENT_TYPES[event_type])}
    for data in [without_all, *({**request["data"], name: ...} for name in request["data"].keys() - without_all.keys())]:
        words = event_words({**request, "data": {name: member for name, member in data.items() if member is not ...}})
        assert not re.search(r"[:;,(]\s*$|[:;,(] *[;,:)]|  |None", words), words


def test_a_contract_with_everything_is_told() -> None:
    import json

    life = [request_of(event_type) for event_type in EFFECTIVE_ON if event_type not in {"contract.cancelled", *ACTS, *OF_AN_EVENT}]
    events = events_of(*life)
    state = json.loads(encode_state(tell(events, TODAY).state))
    answer = {
        "state": state,
        "as_of": {"known_position": 10**10, "effective_on": TODAY.isoformat(), "time_zone": "UTC"},
        "anomalies": [],
        "pending": [],
    }
    stored = [{**request, "revision": event.revision, "position": event.position} for request, event in zip(life, events, strict=True)]
    told = {label: list(lines) for label, lines in _facts(Told(answer, stored))}
    assert told["Options"] == ["opt-1 (on term, held by isuzu): lapsed"]
    assert told["Labels"] == ["to review and 전지"]
    assert told["Milestones"][0] == "Start of production, due in 2024-Q2: met, 2024-08-01"
    assert told["Disputes"] == ["서울중앙지법 2024가합1234, from 2024-11-01: resolved"]
    assert told["Deliveries"][1:3] == ["accepted: 110000 EA of cells", "rejected: 10000 EA of cells"]
    assert told["Withdrawn"] == ['usd-1: corrected by the newspaper: "the rate was wrong"']


def told_of(event_type: str, data: Json, revision: int, **more: Any) -> Json:
    """An event as the service answers it."""
    day = {} if event_type.startswith("event.") else {"effective_on": "2024-01-01"}
    known = {"event_id": f"e{revision}", "revision": revision, "position": revision, "recorded_at": "2026-01-01T00:00:00Z"}
    return {"event_type": event_type, "data": data, "source": {"kind": "news"}, **day, **known, **more}


def test_a_story_counts_an_event_as_it_stands_and_says_what_was_recorded() -> None:
    events = [
        told_of("note.added", {"text": "first"}, 1),
        told_of("note.added", {"text": "second"}, 2),
        told_of("event.corrected", {"target": "e1", "data": {"text": "mended"}, "effective_on": "2030-01-01"}, 3),
        told_of("event.voided", {"target": "e2", "reason": "twice"}, 4),
    ]
    as_of = {"known_position": 4, "effective_on": "2026-01-01", "time_zone": "UTC"}

    def lines(**times: Any) -> list[str]:
        return [line.plain.split("news: ")[1] for line in history(as_of | times, events)]

    assert lines(effective_on="2030-01-01")[:2] == ["first [corrected by r3]", "second [voided by r4]"]
    assert lines()[:2] == ["first [in effect later]", "second [voided by r4]"]
    assert lines()[2:] == ["event e1 stated anew: text; from 2030-01-01", "event e2: twice"]
    assert lines(known_position=2)[:2] == ["first", "second"]
    assert all(line.endswith(" [recorded later]") for line in lines(known_position=2)[2:])
    told = Told({"state": {}, "as_of": as_of | {"effective_on": "2030-01-01"}}, events)
    assert list(_notes(told)) == ["mended, news"]


def test_what_is_sealed_is_told_as_that() -> None:
    delivery = {"delivery_id": "d1", "item_id": "cells", "unit": "EA"}
    said = event_words({"event_type": "delivery.recorded", "data": delivery, "sealed": [{"path": "/quantity"}]})
    assert said == "d1: a sealed quantity (EA) of cells; sealed: /quantity"
    party = {"party": {"party_id": "p-1", "roles": ["buyer"]}}
    assert event_words({"event_type": "party.added", "data": party, "sealed": [{"path": "/party/name"}]}) == (
        "p-1 (buyer); sealed: /party/name"
    )
