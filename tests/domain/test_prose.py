"""Every event type has its words: what its golden body says, in half a line."""

import pytest

from service.cli.prose import _WORDS, Told, event_words
from service.cli.story import _facts
from service.domain.contract import encode_state
from service.domain.events import EVENT_TYPES
from service.domain.timeline import tell
from tests.domain.histories import TODAY, events_of
from tests.domain.test_golden_bodies import EFFECTIVE_ON, OF_AN_EVENT, request_of


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
def test_every_event_type_is_told_in_words_of_its_own(event_type: str) -> None:
    words = event_words(request_of(event_type))
    assert event_type in _WORDS
    assert words
    assert not set("{}[]") & set(words) or event_type == "terms.amended"


def test_a_contract_with_everything_is_told() -> None:
    import json

    life = [request_of(event_type) for event_type in EFFECTIVE_ON if event_type not in ("contract.cancelled", *OF_AN_EVENT)]
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
