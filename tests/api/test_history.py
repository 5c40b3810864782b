"""What changed: from revision to revision, and between two points; every patch, applied by a reader of its own, makes the state."""

from copy import deepcopy
from typing import Any

import httpx
import pytest

from service.api import history
from tests.api.bodies import REPORTED, SIGNED, Json, event, head_of, note, open_contract, play_the_case, record
from tests.api.documented import check_answer

FIRST, LAST = "2022-07-06", "2024-01-26"


@pytest.fixture(scope="module")
def case(api: httpx.Client) -> str:
    return play_the_case(api)


def applied(patch: list[Json], document: Any) -> Any:
    """A document after a patch of RFC 6902: the operations that the service uses, and no others."""
    made = deepcopy(document)
    for operation in patch:
        *places, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        target = made
        for place in places:
            target = target[int(place)] if isinstance(target, list) else target[place]
        key: Any = int(last) if isinstance(target, list) else last
        if operation["op"] == "add" and isinstance(target, list):
            assert 0 <= key <= len(target)
            target.insert(key, operation["value"])
        elif operation["op"] == "add":
            target[key] = operation["value"]
        elif operation["op"] == "replace":
            assert isinstance(target, list) or key in target
            target[key] = operation["value"]
        else:
            assert operation["op"] == "remove"
            del target[key]
    return made


def told(api: httpx.Client, contract_id: str, **times: Any) -> Json:
    answer = api.get(f"/contracts/{contract_id}", params=times)
    assert answer.status_code == 200, answer.text
    contract: Json = answer.json()
    return contract


def changes(api: httpx.Client, contract_id: str, **asked: Any) -> list[Json]:
    """Every item of a history, page by page."""
    items: list[Json] = []
    while True:
        answer = api.get(f"/contracts/{contract_id}/history", params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        if "next" not in page:
            return items
        assert page["items"]
        asked["after"] = page["next"]


@pytest.mark.parametrize("times", [{}, {"effective_on": "2023-07-01"}, {"published_by": FIRST}, {"effective_on": "0001-01-01"}])
@pytest.mark.parametrize("limit", [1, 4, 500])
def test_the_patches_in_a_row_make_the_state_of_every_revision(api: httpx.Client, case: str, times: Json, limit: int) -> None:
    state: Json = {}
    shown = changes(api, case, **times, limit=limit)
    assert [item["revision"] for item in shown] == list(range(1, 10))
    for item in shown:
        state = applied(item["patch"], state)
        contract = told(api, case, revision=item["revision"], **times)
        assert state == contract["state"]
        assert item["state_hash"] == contract["state_hash"]


def test_a_change_names_its_event(api: httpx.Client, case: str) -> None:
    log = api.get(f"/contracts/{case}/events").json()["items"]
    shared = ("revision", "position", "event_id", "event_type", "recorded_at", "recorded_by", "effective_on", "source")
    assert [{name: item[name] for name in shared} for item in changes(api, case)] == [
        {name: entry[name] for name in shared} for entry in log
    ]


def test_a_change_is_told_in_a_sentence(api: httpx.Client, case: str) -> None:
    sentences = [item["sentence"] for item in changes(api, case, effective_on="2024-02-01")]
    assert sentences[0].startswith(
        "contract.reported of 2022-07-06, on the word of Korea Economic Daily: status from nothing to reported; added "
    )
    assert sentences[1] == "figure.stated of 2022-07-06, on the word of news via Reuters: changed value."
    assert sentences[5] == (
        "contract.reported of 2022-07-06, on the word of LG Energy Solution: status from reported to negotiating; changed report."
    )
    assert "status from negotiating to in_force; added marks, signing, withheld; changed period" in sentences[6]
    assert sentences[7].startswith("delivery.started of 2023-06, on the word of LG Energy Solution: status from ")


def test_an_event_that_does_not_count_yet_changes_nothing_and_that_is_said(api: httpx.Client, case: str) -> None:
    later = changes(api, case, effective_on="2023-07-01")[6]
    assert later["patch"] == []
    assert later["sentence"].endswith("changes nothing on 2023-07-01, since it takes effect later.")
    unpublished = changes(api, case, published_by=FIRST)[6]
    assert unpublished["patch"] == []
    assert unpublished["sentence"].endswith(f"changes nothing, since it was published after {FIRST}.")


def test_a_truth_recorded_late_changes_what_it_changes_and_not_what_came_after_it(api: httpx.Client) -> None:
    contract_id = open_contract(api, REPORTED)
    record(api, contract_id, "contract.signed", SIGNED)
    late = event({"stage": "negotiating"}, "2022-08-01")
    assert record(api, contract_id, "contract.reported", late).status_code == 201
    last = changes(api, contract_id)[-1]
    assert {operation["path"].split("/")[1] for operation in last["patch"]} == {"report"}
    assert "status from" not in last["sentence"]


def test_a_history_says_what_it_is_told_for(api: httpx.Client, case: str) -> None:
    page = api.get(f"/contracts/{case}/history", params={"effective_on": "2023-07-01", "published_by": FIRST}).json()
    assert page["as_of"] == {"effective_on": "2023-07-01", "time_zone": "UTC", "published_by": FIRST}
    today = api.get(f"/contracts/{case}/history", params={"count": "exact", "limit": 2}).json()
    assert today["as_of"] == {"effective_on": told(api, case)["as_of"]["effective_on"], "time_zone": "UTC"}
    assert (today["count"], today["count_is_exact"], len(today["items"])) == (9, True, 2)


def test_the_same_history_is_the_same_bytes(api: httpx.Client, case: str) -> None:
    first, again = [api.get(f"/contracts/{case}/history", params={"effective_on": "2024-02-01"}) for _ in range(2)]
    assert first.content == again.content
    check_answer(first)


@pytest.mark.parametrize(
    ("after", "limit", "shown"), [(0, 50, 50), (0, 500, 199), (190, 500, 85), (1_000, 50, 18), (9_990, 500, 1), (30_000, 500, 1)]
)
def test_a_page_of_a_long_contract_is_short(after: int, limit: int, shown: int) -> None:
    assert history._affordable(after, limit) == shown
    folds = after + sum(range(after + 1, after + shown + 1))
    assert shown == 1 or folds <= history.MAX_FOLDED


def test_a_history_of_several_pages_goes_on_where_it_stopped(api: httpx.Client) -> None:
    contract_id = open_contract(api)
    items = [{"event_type": "note.added"} | note(str(index)) for index in range(100)]
    for key in ("one", "two"):
        sent = api.post(f"/contracts/{contract_id}/events", json={"events": items}, headers={"Idempotency-Key": key + contract_id})
        assert sent.status_code == 201
    first = api.get(f"/contracts/{contract_id}/history", params={"limit": 500}).json()
    assert len(first["items"]) == 199
    shown = changes(api, contract_id, limit=500)
    assert [item["revision"] for item in shown] == list(range(1, 202))
    state: Json = {}
    for item in shown:
        state = applied(item["patch"], state)
    assert state == told(api, contract_id)["state"]


def test_a_cursor_of_a_history_is_of_that_history(api: httpx.Client, case: str) -> None:
    other = open_contract(api)
    of_case = api.get(f"/contracts/{case}/history?limit=1").json()["next"]
    for path in (f"/contracts/{other}/history", f"/contracts/{case}/events"):
        answer = api.get(path, params={"after": of_case})
        assert (answer.status_code, answer.json()["code"]) == (409, "history-forked")
    assert api.get(f"/contracts/{case}/history?after=x").status_code == 400


@pytest.mark.parametrize("path", ["history", "compare"])
def test_of_a_contract_that_is_not_there_nothing_is_told(api: httpx.Client, path: str) -> None:
    for contract_id in ("01890a5d-ac96-774b-bcce-b302099a8057", "no-contract"):
        answer = api.get(f"/contracts/{contract_id}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "contract-not-found")


# Between two points


def compared(api: httpx.Client, contract_id: str, **points: Any) -> Json:
    answer = api.get(f"/contracts/{contract_id}/compare", params=points)
    assert answer.status_code == 200, answer.text
    comparison: Json = answer.json()
    return comparison


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"revision": 1}, {"revision": 9}),
        ({"revision": 9}, {"revision": 2}),
        ({"published_by": FIRST}, {"published_by": LAST}),
        ({"effective_on": "2023-07-01", "published_by": FIRST}, {"effective_on": "2023-07-01", "published_by": LAST}),
        ({"effective_on": "2022-07-05"}, {"effective_on": "9999-12-31"}),
        ({}, {"effective_on": "2023-07-01"}),
        ({"revision": 6, "effective_on": "2022-07-06"}, {}),
    ],
)
def test_a_comparison_makes_one_state_from_the_other(api: httpx.Client, case: str, first: Json, second: Json) -> None:
    points = {f"from_{name}": value for name, value in first.items()} | {f"to_{name}": value for name, value in second.items()}
    comparison = compared(api, case, **points)
    one, other = told(api, case, **first), told(api, case, **second)
    assert applied(comparison["patch"], one["state"]) == other["state"]
    for side, contract in (("from", one), ("to", other)):
        assert comparison[f"{side}_revision"] == contract["revision"]
        assert comparison[f"{side}_state_hash"] == contract["state_hash"]
        assert comparison[f"{side}_as_of"] == contract["as_of"]


def test_points_may_be_positions_and_instants(api: httpx.Client, case: str) -> None:
    log = api.get(f"/contracts/{case}/events").json()["items"]
    by_revision = compared(api, case, from_revision=2, to_revision=8)
    assert compared(api, case, from_known_position=log[1]["position"], to_known_position=log[7]["position"]) == by_revision
    assert compared(api, case, from_known_at=log[1]["recorded_at"], to_known_at=log[7]["recorded_at"]) == by_revision


def test_a_comparison_is_told_in_a_sentence(api: httpx.Client, case: str) -> None:
    asked = {"from_effective_on": "2023-07-01", "to_effective_on": "2023-07-01"}
    told_of = compared(api, case, from_published_by=FIRST, to_published_by=LAST, **asked)
    assert told_of["sentence"].startswith(
        "From revision 9 on 2023-07-01 to revision 9 on 2023-07-01: status from negotiating to delivering; added delivery"
    )
    same = compared(api, case, from_revision=9)
    assert same["patch"] == []
    assert same["sentence"].endswith(": nothing differs.")


@pytest.mark.parametrize("side", ["from", "to"])
def test_a_point_says_once_what_was_known(api: httpx.Client, case: str, side: str) -> None:
    answer = api.get(f"/contracts/{case}/compare", params={f"{side}_revision": 1, f"{side}_known_position": 1})
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [f"query:{side}_known_position", f"query:{side}_revision"]


@pytest.mark.parametrize("side", ["from", "to"])
def test_a_point_that_cannot_be_is_refused_by_its_name(api: httpx.Client, case: str, side: str) -> None:
    for name, value in (
        ("known_at", "2999-01-01T00:00:00Z"),
        ("known_position", head_of(api) + 1),
        ("revision", 0),
        ("effective_on", "2023-02-30"),
        ("published_by", "2023"),
    ):
        answer = api.get(f"/contracts/{case}/compare", params={f"{side}_{name}": value})
        assert answer.status_code == 422
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [f"query:{side}_{name}"]
    gone = api.get(f"/contracts/{case}/compare", params={f"{side}_revision": 10})
    assert gone.status_code == 404
    assert api.get(f"/contracts/{case}/compare", params={"revision": 1}).status_code == 422
