"""Reads at other times: what is in effect on a day, what was known at a position or an instant, what was published by a day."""

from datetime import datetime, timedelta

import httpx
import pytest

from tests.api.bodies import Json, event, figure, head_of, note, open_contract, play_the_case, record


@pytest.fixture(scope="module")
def case(api: httpx.Client) -> str:
    return play_the_case(api)


@pytest.fixture(scope="module")
def log(api: httpx.Client, case: str) -> list[Json]:
    """The events of the case, by revision."""
    items: list[Json] = api.get(f"/contracts/{case}/events").json()["items"]
    return items


def told(api: httpx.Client, contract_id: str, **times: str | int) -> Json:
    answer = api.get(f"/contracts/{contract_id}", params=times)
    assert answer.status_code == 200, answer.text
    contract: Json = answer.json()
    return contract


def moved(instant: str, microseconds: int) -> str:
    at = datetime.fromisoformat(instant) + timedelta(microseconds=microseconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_contract_is_told_as_it_was_at_every_revision(api: httpx.Client, case: str, log: list[Json]) -> None:
    for entry in log:
        by_revision = told(api, case, revision=entry["revision"])
        by_position = told(api, case, known_position=entry["position"])
        by_instant = told(api, case, known_at=entry["recorded_at"])
        assert by_revision == by_position == by_instant
        assert by_revision["revision"] == entry["revision"]
        assert by_revision["as_of"]["known_position"] == entry["position"]
        assert by_revision["as_of"]["known_at"] == entry["recorded_at"]
        assert {basis["position"] for basis in by_revision["rests_on"]} <= {known["position"] for known in log[: entry["revision"]]}


def test_an_instant_is_the_last_position_recorded_by_it(api: httpx.Client, case: str, log: list[Json]) -> None:
    third, fourth = log[2], log[3]
    for known_at in (third["recorded_at"], moved(third["recorded_at"], 1), moved(fourth["recorded_at"], -1)):
        assert told(api, case, known_at=known_at)["as_of"]["known_position"] == third["position"]
    assert told(api, case, known_at=fourth["recorded_at"])["as_of"]["known_position"] == fourth["position"]


@pytest.mark.parametrize("offset", ["+00:00", "-00:00", "+09:00", "-11:30"])
def test_an_instant_may_be_told_in_any_offset(api: httpx.Client, case: str, log: list[Json], offset: str) -> None:
    sign = -1 if offset[0] == "-" else 1
    ahead = sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[4:]))
    local = (datetime.fromisoformat(log[2]["recorded_at"]) + ahead).strftime("%Y-%m-%dT%H:%M:%S.%f")
    assert told(api, case, known_at=local + offset)["revision"] == 3


def test_several_events_of_a_request_are_known_together(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    items = [{"event_type": "note.added"} | note(str(index)) for index in range(3)]
    receipt = api.post(f"/contracts/{contract_id}/events", json={"events": items}, headers={"Idempotency-Key": "together"}).json()
    recorded_at = receipt["events"][0]["recorded_at"]
    assert told(api, contract_id, known_at=recorded_at)["revision"] == 4
    assert told(api, contract_id, known_at=moved(recorded_at, -1))["revision"] == 1
    # A position within the request is a place in the log like any other.
    assert told(api, contract_id, known_position=receipt["events"][1]["position"])["revision"] == 3


def test_an_instant_in_the_future_is_refused(api: httpx.Client, case: str) -> None:
    for known_at in ("2999-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59"):
        answer = api.get(f"/contracts/{case}", params={"known_at": known_at})
        assert answer.status_code == 422
        assert [fault["pointer"] for fault in answer.json()["errors"]] == ["query:known_at"]


def test_a_position_that_is_not_there_yet_is_refused(api: httpx.Client, case: str) -> None:
    head = head_of(api)
    assert api.get(f"/contracts/{case}", params={"known_position": head}).status_code == 200
    answer = api.get(f"/contracts/{case}", params={"known_position": head + 1})
    assert answer.status_code == 422
    assert str(head) in answer.json()["detail"]


def test_before_its_first_event_a_contract_is_not_found(api: httpx.Client, case: str, log: list[Json]) -> None:
    later = open_contract(api)
    before = moved(log[0]["recorded_at"], -1)
    for path in (
        f"/contracts/{case}?known_at={before}",
        f"/contracts/{case}?known_at=1970-01-01T00:00:00Z",
        f"/contracts/{case}?known_at=0001-01-01T00:00:00%2B23:59",
        f"/contracts/{later}?known_position={log[0]['position']}",
        f"/contracts/{later}?revision=2",
    ):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "contract-not-found")


def test_an_answer_is_final_once_a_later_event_is_recorded(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    position = head_of(api)
    times = {"known_position": position, "effective_on": "2024-06-01"}
    first = told(api, contract_id, **times)
    assert first["as_of"]["final"] is False
    assert told(api, contract_id)["as_of"]["final"] is False
    open_contract(api)
    then = told(api, contract_id, **times)
    assert then["as_of"]["final"] is True
    assert record(api, contract_id, "figure.stated", event({"figure": figure("f")})).status_code == 201
    assert told(api, contract_id, **times) == then
    assert then == first | {"as_of": first["as_of"] | {"final": True}}


def test_a_final_answer_stays_though_a_truth_is_recorded_late(api: httpx.Client) -> None:
    case = play_the_case(api)
    times: dict[str, str | int] = {"known_position": head_of(api), "effective_on": "2023-07-01", "published_by": "2024-01-26"}
    open_contract(api)
    before = api.get(f"/contracts/{case}", params=times)
    assert before.json()["as_of"]["final"] is True
    late = event({"figure": figure("late", "1")}, "2022-08-01", {"kind": "news", "published_on": "2022-08-01"})
    assert record(api, case, "figure.stated", late).status_code == 201
    after = api.get(f"/contracts/{case}", params=times)
    assert after.content == before.content
    assert after.headers["etag"] == before.headers["etag"]
    now = told(api, case, effective_on="2023-07-01", published_by="2024-01-26")
    assert "late" in {known["figure_id"] for known in now["state"]["value"]["figures"]}


def test_as_of_names_what_was_asked(api: httpx.Client, case: str, log: list[Json]) -> None:
    asked = {"effective_on": "2023-07-01", "published_by": "2022-07-06", "known_position": log[8]["position"]}
    as_of = told(api, case, **asked)["as_of"]
    assert {name: as_of[name] for name in asked} == asked
    assert as_of["known_at"] == log[8]["recorded_at"]
    assert as_of["time_zone"] == "UTC"
    assert "published_by" not in told(api, case, effective_on="2023-07-01")["as_of"]


@pytest.mark.parametrize(("effective_on", "status"), [("0001-01-01", "unknown"), ("2022-07-05", "unknown"), ("9999-12-31", "expired")])
def test_any_day_has_an_answer(api: httpx.Client, effective_on: str, status: str) -> None:
    contract_id = play_the_case(api)
    contract = told(api, contract_id, effective_on=effective_on)
    assert contract["state"]["status"] == status
    assert contract["revision"] == 9
    assert len(contract["pending"]) + len(contract["rests_on"]) >= (9 if status == "unknown" else 8)


def test_an_event_that_takes_effect_later_is_pending_until_its_day(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    receipt = record(api, contract_id, "contract.completed", event({"by": "Isuzu"}, "2999-01-01")).json()
    assert receipt["anomalies"] == []
    now = told(api, contract_id)
    assert [(entry["revision"], entry["event_type"]) for entry in now["pending"]] == [(2, "contract.completed")]
    assert now["state"]["status"] != "completed"
    assert told(api, contract_id, effective_on="2998-12-31")["state"]["status"] == "expired"
    assert told(api, contract_id, effective_on="2999-01-01")["state"]["status"] == "completed"


def test_what_was_published_later_is_left_out(api: httpx.Client, case: str) -> None:
    contract = told(api, case, published_by="2024-01-25")
    assert [basis["revision"] for basis in contract["rests_on"]][-1] == 6
    # Without `published_on` the day of recording counts, which is today or before.
    contract_id = open_contract(api)
    assert told(api, contract_id, published_by="2024-12-31")["state"]["status"] == "unknown"
    today = told(api, contract_id)["as_of"]["effective_on"]
    assert told(api, contract_id, published_by=today)["state"]["status"] != "unknown"


def test_a_coarse_day_of_publishing_counts_from_its_last_day(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    stated = event({"figure": figure("f")}, "2024-02-01", {"kind": "news", "published_on": "2024-02"})
    assert record(api, contract_id, "figure.stated", stated).status_code == 201
    by_day = [told(api, contract_id, published_by=day)["state"]["value"].get("figures", []) for day in ("2024-02-28", "2024-02-29")]
    assert [len(figures) for figures in by_day] == [0, 1]


def test_the_hash_of_a_state_covers_the_state_and_its_day(api: httpx.Client, case: str) -> None:
    hashes = [told(api, case, effective_on=day)["state_hash"] for day in ("2023-07-01", "2023-07-01", "2023-07-02")]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 64
