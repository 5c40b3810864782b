"""Schemes of references that a ledger declares unique: each id is that of one contract, whoever asks at the same moment."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import psycopg
import pytest

from service.audit.rebuild import rebuild
from service.audit.replay import verify
from tests.api.bodies import REPORTED, SIGNED, changed, event, open_contract, record, with_key
from tests.api.running import RunningService, running
from tests.servers import rows, verified

Json = dict[str, Any]
DART: Final = "DART"


def naming(*ids: str, body: Json = REPORTED, scheme: str = DART, **more: Any) -> Json:
    """An opening that states references."""
    return changed(body, "/data/references", [{"scheme": scheme, "id": known} for known in ids]) | more


def restating(*ids: str, effective_on: str = "2023-01-01") -> Json:
    """A later report that states references, in place of those before."""
    return event({"stage": "negotiating", "references": [{"scheme": DART, "id": known} for known in ids]}, effective_on)


def declare(api: httpx.Client, *schemes: str) -> httpx.Response:
    return api.put("/policy", json={"unique_reference_schemes": list(schemes)})


def opened(api: httpx.Client, body: Json, **params: str) -> httpx.Response:
    return api.post("/contracts/reported", json=body, headers=with_key(), params=params)


def assert_taken(answer: httpx.Response, holder: str, reference: str = "DART:1") -> None:
    assert (answer.status_code, answer.json()["code"]) == (409, "reference-taken"), answer.text
    assert answer.json()["contract_id"] == holder
    assert holder in answer.json()["detail"]
    assert reference in answer.json()["detail"]


@pytest.fixture
def ledger(service: RunningService) -> Iterator[str]:
    """A ledger that is whole at the end."""
    name = f"unique-{with_key()['Idempotency-Key'][:8]}"
    service.make_ledger(name)
    yield name
    verified(service.database.service_url, name)


@pytest.fixture
def api(service: RunningService, ledger: str) -> Iterator[httpx.Client]:
    """A ledger of which the references to DART are unique."""
    with service.client(service.admin, ledger=ledger) as client:
        answer = declare(client, DART)
        assert (answer.status_code, answer.json()["unique_reference_schemes"]) == (200, [DART]), answer.text
        yield client


def test_a_reference_that_another_contract_holds_is_refused_and_names_the_holder(api: httpx.Client) -> None:
    holder = open_contract(api, naming("0", "1"))
    answer = opened(api, naming("1", "2"))
    assert_taken(answer, holder)
    assert answer.json()["errors"][0]["pointer"] == "/data/references"
    # What is refused leaves no trace: what it named besides is free.
    assert api.get("/events").json()["has_more"] is False
    assert open_contract(api, naming("2"))


def test_another_scheme_takes_as_many_as_come(api: httpx.Client) -> None:
    assert open_contract(api, naming("1", scheme="LEI")) != open_contract(api, naming("1", scheme="LEI"))
    assert open_contract(api, naming("1"))


def test_a_contract_states_its_own_reference_again(api: httpx.Client) -> None:
    contract_id = open_contract(api, naming("1"))
    assert record(api, contract_id, "contract.reported", restating("1", "2")).status_code == 201
    assert record(api, contract_id, "contract.signed", naming("2", body=SIGNED)).status_code == 201


def test_a_reference_that_is_replaced_is_free(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2")).status_code == 201
    second = open_contract(api, naming("1"))
    assert_taken(record(api, first, "contract.reported", restating("1", effective_on="2023-02")), second)


def test_a_replacement_ahead_of_its_day_takes_and_does_not_free(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2", effective_on="2999-01-01")).status_code == 201
    assert_taken(opened(api, naming("1")), first)
    assert_taken(opened(api, naming("2")), first, "DART:2")


def test_a_reference_of_days_gone_by_takes_nothing(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2", effective_on="2023-05")).status_code == 201
    # Told late, and replaced by what is known of a later day.
    assert record(api, first, "contract.reported", restating("3", effective_on="2023-04")).status_code == 201
    assert open_contract(api, naming("3"))


def last_event(api: httpx.Client, contract_id: str) -> str:
    event_id: str = api.get(f"/contracts/{contract_id}/events").json()["items"][-1]["event_id"]
    return event_id


def voided(target: str) -> Json:
    return event({"target": target, "reason": "recorded by mistake"}, None)


def test_a_void_frees_what_was_stated_and_takes_what_stood_before(api: httpx.Client) -> None:
    first = open_contract(api, naming("1"))
    assert record(api, first, "contract.reported", restating("2")).status_code == 201
    second = open_contract(api, naming("1"))
    restated = last_event(api, first)
    # 1 would be the first contract's again, and it is the second's by now.
    assert_taken(record(api, first, "event.voided", voided(restated)), second)
    assert record(api, second, "contract.reported", restating("4")).status_code == 201
    assert record(api, first, "event.voided", voided(restated)).status_code == 201
    assert_taken(opened(api, naming("1")), first)
    assert open_contract(api, naming("2"))


def test_a_correction_takes_and_frees(api: httpx.Client) -> None:
    first, second = open_contract(api, naming("1")), open_contract(api, naming("2"))
    correction = {"target": last_event(api, first), "data": naming("2")["data"]}
    assert_taken(record(api, first, "event.corrected", event(correction, None)), second, "DART:2")
    correction["data"] = naming("3")["data"]
    assert record(api, first, "event.corrected", event(correction, None)).status_code == 201
    third = open_contract(api, naming("1"))
    assert_taken(opened(api, naming("3")), first, "DART:3")
    # To void the correction would bring 1 back.
    assert_taken(record(api, first, "event.voided", voided(last_event(api, first))), third)


def test_several_events_of_one_request_are_one_contracts(api: httpx.Client) -> None:
    holder = open_contract(api, naming("1"))
    contract_id = open_contract(api, naming("5"))
    events = [{"event_type": "contract.reported", **restating("6")}, {"event_type": "contract.reported", **restating("1")}]
    answer = api.post(f"/contracts/{contract_id}/events", json={"events": events}, headers=with_key())
    assert_taken(answer, holder)
    assert answer.json()["errors"][0]["pointer"] == "/events/1/data/references"
    assert_taken(opened(api, naming("5")), contract_id, "DART:5")
    answer = api.post(f"/contracts/{contract_id}/events", json={"events": [events[0], events[0]]}, headers=with_key())
    assert answer.status_code == 201, answer.text
    assert open_contract(api, naming("5"))


def test_validate_only_tells_what_is_taken_and_takes_nothing(api: httpx.Client) -> None:
    assert opened(api, naming("1"), validate_only="true").status_code == 200
    holder = open_contract(api, naming("1"))
    assert_taken(opened(api, naming("1"), validate_only="true"), holder)


def test_a_retry_is_answered_with_its_receipt(api: httpx.Client) -> None:
    headers = with_key()
    first = api.post("/contracts/reported", json=naming("1"), headers=headers)
    again = api.post("/contracts/reported", json=naming("1"), headers=headers)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)


def test_of_many_who_ask_two_services_at_once_one_gets_it(service: RunningService, api: httpx.Client, ledger: str, tmp_path: Path) -> None:
    with running(service.database, tmp_path) as other, other.client(other.admin, ledger=ledger) as beside, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(opened, (api, beside)[n % 2], naming(str(n // 16))) for n in range(96)]
        answers = [known.result() for known in asked]
    for reference in range(6):
        (won,) = [answer for answer in answers[16 * reference : 16 * reference + 16] if answer.status_code == 201]
        for answer in answers[16 * reference : 16 * reference + 16]:
            if answer is not won:
                assert_taken(answer, won.json()["contract_id"], f"DART:{reference}")


def imported(api: httpx.Client, lines: Sequence[Json]) -> Json:
    body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    headers = with_key() | {"Content-Type": "application/x-ndjson"}
    answer = api.post("/imports", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    outcome: Json = answer.json()
    return outcome


def line(contract: str, body: Json) -> Json:
    return {"contract": contract, "event_type": "contract.reported", **body}


def test_an_import_refuses_a_line_that_takes_what_is_held(api: httpx.Client) -> None:
    holder = open_contract(api, naming("1"))
    outcome = imported(
        api,
        [
            line("a", naming("1")),
            line("b", naming("2")),
            line("c", naming("2")),
            line("b", restating("3")),
            line("d", naming("2")),
            line("b", restating("1")),
            line("b", restating("4")),
        ],
    )
    assert (outcome["recorded"], outcome["refused"], outcome["held_back"]) == (3, 3, 1)
    told = {fate["line"]: (fate["code"], fate["detail"]) for fate in outcome["not_recorded"]}
    assert {number: code for number, (code, _) in told.items()} == {
        1: "reference-taken",
        3: "reference-taken",
        6: "reference-taken",
        7: "held-back",
    }
    assert holder in told[1][1]
    assert_taken(
        opened(api, naming("3")), api.get("/contracts", params={"reference": "DART:3"}).json()["items"][0]["contract_id"], "DART:3"
    )


def test_a_scheme_of_which_references_are_shared_is_not_declared(service: RunningService, ledger: str) -> None:
    with service.client(service.admin, ledger=ledger) as api:
        first, second = sorted(open_contract(api, naming("1", str(n), scheme="KRX")) for n in (2, 3))
        answer = declare(api, DART, "KRX")
        assert (answer.status_code, answer.json()["code"]) == (409, "references-shared")
        assert [fault["detail"] for fault in answer.json()["errors"]] == [f"KRX:1 is one of the contracts {first}, {second}"]
        # Nothing has changed, not for the other scheme either.
        assert open_contract(api, naming("1")) != open_contract(api, naming("1"))
        assert record(api, second, "contract.reported", restating("9")).status_code == 201
        assert declare(api, "KRX").json()["unique_reference_schemes"] == ["KRX"]
        assert_taken(opened(api, naming("1", scheme="KRX")), first, "KRX:1")
        # And withdrawn it binds nobody.
        assert declare(api).json()["unique_reference_schemes"] == []
        assert open_contract(api, naming("1", scheme="KRX"))


def test_what_is_declared_late_binds_what_was_recorded_before_by_all_of_its_events(service: RunningService, ledger: str) -> None:
    with service.client(service.admin, ledger=ledger) as api:
        first = open_contract(api, naming("1"))
        assert record(api, first, "contract.reported", restating("2", effective_on="2999-01-01")).status_code == 201
        second = open_contract(api, naming("3"))
        correction = {"target": last_event(api, second), "data": naming("4")["data"]}
        assert record(api, second, "event.corrected", event(correction, None)).status_code == 201
        assert declare(api, DART).status_code == 200
        for taken, holder in (("1", first), ("2", first), ("4", second)):
            assert_taken(opened(api, naming(taken)), holder, f"DART:{taken}")
        assert open_contract(api, naming("3"))


def test_the_policy_is_shown_and_is_set_by_an_admin_only(service: RunningService, ledger: str, api: httpx.Client) -> None:
    with service.client(service.admin) as client:
        shown = {
            item["name"]: item["unique_reference_schemes"] for item in client.get("/v1/ledgers", params={"limit": "500"}).json()["items"]
        }
        assert (shown[ledger], shown["main"]) == ([DART], [])
        # Made again, a ledger keeps its policy.
        again = client.put(f"/v1/ledgers/{ledger}", json={})
        assert (again.status_code, again.json()["unique_reference_schemes"]) == (200, [DART])
        assert client.put("/v1/ledgers/nowhere/policy", json={}).status_code == 404
    with service.client(service.make_key(["contracts:read", "contracts:write"]), ledger=ledger) as writer:
        assert declare(writer).status_code == 403


def test_a_policy_is_set_whole_or_not_at_all(service: RunningService, ledger: str) -> None:
    # The database refuses what is switched, whatever the reason, and not the schemes.
    rows(service.database.owner_url, "ALTER TABLE ledgers ADD CONSTRAINT lenient CHECK (NOT strict)")
    try:
        headers, wanted = {"Authorization": f"Bearer {service.admin}"}, {"unique_reference_schemes": [DART], "strict": True}
        answer = httpx.put(f"{service.url}/v1/ledgers/{ledger}/policy", json=wanted, headers=headers, trust_env=False)
        assert answer.status_code == 500
    finally:
        rows(service.database.owner_url, "ALTER TABLE ledgers DROP CONSTRAINT lenient")
    known = "SELECT unique_reference_schemes, strict FROM ledgers WHERE name = %s"
    assert rows(service.database.service_url, known, ledger) == [([], False)]


@pytest.mark.parametrize(
    ("schemes", "pointer"),
    [
        (["A", "A"], "/unique_reference_schemes/1"),
        ([""], "/unique_reference_schemes/0"),
        (["x" * 301], "/unique_reference_schemes/0"),
        ([str(n) for n in range(21)], "/unique_reference_schemes"),
        ("DART", "/unique_reference_schemes"),
        (None, "/unique_reference_schemes"),
    ],
)
def test_a_policy_that_is_none_is_refused_with_its_place(api: httpx.Client, schemes: Any, pointer: str) -> None:
    answer = api.put("/policy", json={"unique_reference_schemes": schemes})
    assert answer.status_code == 422, answer.text
    assert pointer in [fault["pointer"] for fault in answer.json()["errors"]]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM unique_references WHERE {mine} AND id = '1'",
        "UPDATE unique_references SET contract_id = (SELECT contract_id FROM unique_references WHERE {mine} AND id = '2') WHERE {mine}",
        "INSERT INTO unique_references SELECT ledger_id, scheme, '9', contract_id FROM unique_references WHERE {mine} AND id = '1'",
        "INSERT INTO unique_references SELECT ledger_id, scheme, '9', gen_random_uuid() FROM unique_references WHERE {mine} AND id = '1'",
    ],
)
def test_what_is_changed_behind_the_service_is_found_and_repaired(
    service: RunningService, ledger: str, api: httpx.Client, damage: str
) -> None:
    open_contract(api, naming("1"))
    open_contract(api, naming("2"))
    mine = f"ledger_id = (SELECT ledger_id FROM ledgers WHERE name = '{ledger}')"
    held = f"SELECT scheme, id, contract_id FROM unique_references WHERE {mine} ORDER BY id"
    before = rows(service.database.service_url, held)
    rows(service.database.superuser_url, damage.format(mine=mine))
    assert verify(service.database.service_url, ledger, lambda *_: None, processes=1).difference is not None
    assert rebuild(service.database.service_url, ledger, lambda *_: None).changed >= 1
    assert rows(service.database.service_url, held) == before


def test_the_database_itself_lets_nobody_hold_what_another_holds(service: RunningService, ledger: str, api: httpx.Client) -> None:
    open_contract(api, naming("1"))
    copy = "INSERT INTO unique_references SELECT ledger_id, scheme, id, gen_random_uuid() FROM unique_references"
    with pytest.raises(psycopg.errors.UniqueViolation):
        rows(service.database.superuser_url, copy)
