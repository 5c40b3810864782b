"""Erasure over HTTP: who may, what is refused with which rule at which place, what is told of a gap, and that no copy is left."""

import json
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from service.audit.rebuild import rebuild
from service.audit.replay import verify
from tests.api.bodies import Json, changed, delivery, event, figure, note, open_and_sign, record, with_key
from tests.api.running import RunningService, make_key
from tests.servers import rows

NOWHERE = "01890000-0000-7000-8000-0000000000ff"
BASIS = "Regulation (EU) 2016/679, article 17"


def erased(target: str, **more: Any) -> Json:
    return event({"target": target, "legal_basis": BASIS}, None, **more)


def together(*targets: str) -> Json:
    return {"events": [{"event_type": "event.erased"} | erased(target) for target in targets]}


def corrected(target: str, data: Json) -> Json:
    return event({"target": target, "data": data}, None)


def recorded(api: httpx.Client, contract_id: str, event_type: str, body: Json) -> str:
    """The event_id of a recorded event."""
    answer = record(api, contract_id, event_type, body)
    assert answer.status_code == 201, answer.text
    event_id: str = answer.json()["events"][0]["event_id"]
    return event_id


def told(api: httpx.Client, contract_id: str, **times: Any) -> Json:
    answer = api.get(f"/contracts/{contract_id}", params=times)
    assert answer.status_code == 200, answer.text
    contract: Json = answer.json()
    return contract


def assert_whole(service: RunningService) -> int:
    """The ledger is what its log says, before and after a rebuild; how many events are erased in it."""
    url = service.database.service_url
    for _ in range(2):
        verdict = verify(url, "main", lambda *_: None, processes=1)
        assert verdict.difference is None, str(verdict.difference)
        assert rebuild(url, "main", lambda *_: None).changed == 0
    return verdict.erased


def assert_refused(answer: httpx.Response, rule: str, pointer: str = "/data/target") -> None:
    assert (answer.status_code, answer.json().get("rule")) == (409, rule), answer.text
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_an_erased_event_is_a_gap_now_and_at_any_time_before(api: httpx.Client, service: RunningService) -> None:
    contract_id = open_and_sign(api)
    before = told(api, contract_id)
    target = recorded(api, contract_id, "figure.stated", event({"figure": figure("krw-1", note="needle-one")}))
    etag = api.get(f"/events/{target}").headers["etag"]
    erasure = recorded(api, contract_id, "event.erased", erased(target))
    now = told(api, contract_id)
    gap = {"revision": 3, "event_type": "figure.stated", "effective_on": "2024-03-01"}
    assert now["state"]["erased"] == [gap | {"rests_on": [4]}]
    assert now["state"]["value"] == before["state"]["value"]
    assert now["rests_on"][0]["event_id"] == erasure
    assert told(api, contract_id, revision=3)["state"]["erased"] == [gap]
    assert "erased" not in told(api, contract_id, revision=2)["state"]
    assert told(api, contract_id, published_by="1999-01-01")["state"]["erased"] == [gap]
    answer = api.get(f"/events/{target}", params={"raw": "true"}, headers={"If-None-Match": etag})
    assert answer.status_code == 200
    assert answer.json()["erased_by"] == erasure
    assert not {"data", "source", "evidence", "sealed"} & answer.json().keys()
    assert "body" not in answer.json()["raw"]
    history = api.get(f"/contracts/{contract_id}/history").json()["items"]
    assert history[2]["sentence"] == "figure.stated of 2024-03-01, whose content is erased: added erased."
    assert history[2]["erased_by"] == erasure
    assert history[3]["target_revision"] == 3
    for path in (f"/contracts/{contract_id}", f"/contracts/{contract_id}/history", "/export", "/events?limit=500"):
        assert "needle-one" not in api.get(path).text
    # What follows finds the contract as it stands without it.
    recorded(api, contract_id, "figure.stated", event({"figure": figure("krw-1", "5")}, "2024-04-01"))
    assert assert_whole(service) >= 1


def test_an_erasure_takes_the_right_to_administer_the_ledger(api: httpx.Client, service: RunningService) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "note.added", note())
    key = make_key(service.database, ["contracts:read", "contracts:write", "sealed:read", "audit:read"])
    with service.client(key, ledger="main") as writer:
        assert record(writer, contract_id, "event.erased", erased(target)).status_code == 403
        assert writer.post(f"/contracts/{contract_id}/events", json=together(target), headers=with_key()).status_code == 403
    assert api.get(f"/events/{target}").json()["data"] == {"text": "a note"}


def test_what_cannot_be_erased_is_refused_by_its_rule(api: httpx.Client) -> None:
    contract_id, other = open_and_sign(api), open_and_sign(api)
    target, elsewhere = recorded(api, contract_id, "note.added", note()), recorded(api, other, "note.added", note())
    void = recorded(api, contract_id, "event.voided", event({"target": target, "reason": "twice"}, None))
    for unknown in (NOWHERE, elsewhere):
        assert_refused(record(api, contract_id, "event.erased", erased(unknown)), "known-event")
    assert_refused(record(api, contract_id, "event.erased", erased(void)), "never-erased")
    erasure = recorded(api, contract_id, "event.erased", erased(target))
    assert_refused(record(api, contract_id, "event.erased", erased(erasure)), "never-erased")
    assert_refused(record(api, contract_id, "event.erased", erased(target)), "erased-once")
    assert_refused(record(api, contract_id, "event.corrected", corrected(target, {"text": "x"})), "cannot-be-undone")
    for final in (target, erasure):
        answer = record(api, contract_id, "event.voided", event({"target": final, "reason": "x"}, None))
        assert_refused(answer, "cannot-be-undone")
    supposed = record(api, contract_id, "event.erased", erased(target, hypothetical=True))
    assert (supposed.status_code, supposed.json()["errors"][0]["pointer"]) == (422, "/hypothetical")
    twice = recorded(api, contract_id, "note.added", note())
    answer = api.post(f"/contracts/{contract_id}/events", json=together(twice, twice), headers=with_key())
    assert_refused(answer, "erased-once", "/events/1/data/target")
    assert api.get(f"/events/{twice}").json()["data"] == {"text": "a note"}


def test_what_quotes_an_event_is_erased_with_it(api: httpx.Client, service: RunningService) -> None:
    contract_id = open_and_sign(api)
    sealed = [{"path": "/figure/note", "value": "needle-two"}]
    target = recorded(api, contract_id, "figure.stated", event({"figure": figure("krw-1")}, sealed=sealed))
    (part,) = api.get(f"/events/{target}", params={"sealed": "true"}).json()["sealed"]
    reveal = event({"event_id": target, "parts": [{name: part[name] for name in ("path", "value", "salt")}]}, None)
    revealed = recorded(api, contract_id, "sealed.revealed", reveal)
    correction = recorded(api, contract_id, "event.corrected", corrected(target, {"figure": figure("krw-1", "7")}))
    refused = record(api, contract_id, "event.erased", erased(target))
    assert_refused(refused, "quotes-erased-too")
    assert "revisions 4, 5" in refused.json()["detail"]
    for some in ((target, revealed), (correction, target)):
        answer = api.post(f"/contracts/{contract_id}/events", json=together(*some), headers=with_key())
        assert_refused(answer, "quotes-erased-too", f"/events/{some.index(target)}/data/target")
    answer = api.post(f"/contracts/{contract_id}/events", json=together(target, correction, revealed), headers=with_key())
    assert answer.status_code == 201, answer.text
    assert [gap["revision"] for gap in told(api, contract_id)["state"]["erased"]] == [4, 5, 3]
    assert "sealed" not in told(api, contract_id)["state"]
    assert assert_whole(service) >= 3


def test_a_correction_alone_is_erased_and_what_it_corrected_counts_again(api: httpx.Client, service: RunningService) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "delivery.recorded", delivery("one"))
    again = corrected(target, changed(delivery("two"), "/data/quantity", "5")["data"])
    first, second = (recorded(api, contract_id, "event.corrected", again) for _ in range(2))
    recorded(api, contract_id, "event.erased", erased(first))
    # `two` stands in the second correction too, so it is taken still.
    assert record(api, contract_id, "delivery.recorded", delivery("two")).status_code == 409
    assert assert_whole(service) >= 1
    recorded(api, contract_id, "event.erased", erased(second))
    assert record(api, contract_id, "delivery.recorded", delivery("one")).status_code == 409
    recorded(api, contract_id, "delivery.recorded", delivery("two"))
    assert assert_whole(service) >= 2


def test_after_an_erasure_the_key_alone_answers(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    path, key = f"/contracts/{contract_id}/note-added", str(uuid4())
    first = api.post(path, json=note("needle-three"), headers=with_key(key))
    assert api.post(path, json=note("another"), headers=with_key(key)).status_code == 422
    erase, own = erased(first.json()["events"][0]["event_id"]), str(uuid4())
    receipts = [api.post(f"/contracts/{contract_id}/event-erased", json=erase, headers=with_key(own)) for _ in range(2)]
    assert [(receipt.status_code, receipt.content) for receipt in receipts] == [(201, receipts[0].content)] * 2
    for body in (note("needle-three"), note("another")):
        again = api.post(path, json=body, headers=with_key(key))
        assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (201, first.content, "true")


def test_an_erasure_that_is_only_tried_erases_nothing(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "note.added", note())
    answer = api.post(f"/contracts/{contract_id}/event-erased", json=erased(target), params={"validate_only": "true"})
    assert answer.status_code == 200, answer.text
    assert api.get(f"/events/{target}").json()["data"] == {"text": "a note"}


def test_the_opening_and_the_signing_may_be_erased_and_the_contract_goes_on(api: httpx.Client, service: RunningService) -> None:
    contract_id = open_and_sign(api)
    status = told(api, contract_id)["state"]["status"]
    opening, signing = (found["event_id"] for found in api.get(f"/contracts/{contract_id}/events").json()["items"])
    recorded(api, contract_id, "event.erased", erased(opening))
    assert told(api, contract_id)["state"]["status"] == status
    recorded(api, contract_id, "event.erased", erased(signing))
    recorded(api, contract_id, "note.added", note())
    now = told(api, contract_id)
    assert (now["state"]["status"], now["anomalies"]) == ("unknown", [])
    assert [gap["event_type"] for gap in now["state"]["erased"]] == ["contract.reported", "contract.signed"]
    assert assert_whole(service) >= 2


COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"


def places_of(url: str, *needles: str) -> set[str]:
    """The columns of the whole database that hold a needle, whatever their type, as text or as bytes."""
    found = set()
    with psycopg.connect(url, autocommit=True) as connection:
        for table, column in rows(url, COLUMNS):
            query = sql.SQL(
                "SELECT EXISTS (SELECT FROM {table} WHERE strpos({column}::text, %(text)s) > 0 OR strpos({column}::text, %(hex)s) > 0)"
            ).format(table=sql.Identifier(table), column=sql.Identifier(column))
            for needle in needles:
                holds = connection.execute(query, {"text": needle, "hex": needle.encode().hex()}).fetchone()
                if holds == (True,):
                    found.add(f"{table}.{column}")
    return found


def test_no_column_of_the_database_holds_what_is_erased(api: httpx.Client, service: RunningService) -> None:
    """A needle in every way that a client puts words into the ledger: no column of any table has one left, and none is left out."""
    url, contract_id = service.database.superuser_url, open_and_sign(api)
    needles = ("nadel-im-heu", "nadel", "987654321987")
    party = {"party_id": "nadel-im-heu", "name": "nadel-im-heu", "roles": ["carrier"]}
    sealed = [{"path": "/figure/note", "value": "nadel-im-heu"}]
    lines = [
        {"contract": contract_id, "event_type": "note.added", **note("nadel-im-heu")},
        {"contract": contract_id, "event_type": "figure.withdrawn", **event({"figure_id": "nadel-im-heu", "reason": "nadel-im-heu"})},
    ]
    targets = [
        recorded(api, contract_id, "party.added", event({"party": party})),
        recorded(api, contract_id, "figure.stated", event({"figure": figure("nadel-im-heu", "987654321987")}, sealed=sealed)),
        recorded(api, contract_id, "contract.labelled", event({"set": ["nadel-im-heu"]}, None)),
        recorded(api, contract_id, "delivery.recorded", delivery("nadel-im-heu")),
        recorded(api, contract_id, "milestone.scheduled", event({"milestone_id": "nadel-im-heu", "title": "nadel", "due_on": "2031"})),
    ]
    api.get("/parties")  # so that the outlook has taken it in
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid4())}
    body = "\n".join(json.dumps(line) for line in [lines[0], lines[1] | {"data": {"figure_id": "nadel-im-heu-2", "reason": "x"}}])
    assert api.post("/imports", content=body, headers=headers).json()["recorded"] == 1
    copies = {"payloads.body", "payloads.sealed", "contracts.state", "contracts.filters", "deliveries.delivery_id"}
    assert copies | {"parties.form", "outlooks.outlook", "deadlines.deadline"} <= places_of(url, *needles)
    targets.append(api.get(f"/contracts/{contract_id}/events", params={"limit": 500}).json()["items"][-1]["event_id"])
    assert "import_lines.detail" in places_of(url, *needles)
    positions = [api.get(f"/events/{target}").json()["position"] for target in targets]
    answer = api.post(f"/contracts/{contract_id}/events", json=together(*targets), headers=with_key())
    assert answer.status_code == 201, answer.text
    assert places_of(url, *needles) == set()
    digests = "SELECT count(digest), count(*) FROM import_lines WHERE position = ANY(%s)"
    assert rows(url, digests, positions) == [(0, 1)]
    kept = "SELECT encode(salt, 'hex'), encode(digest, 'hex') FROM idempotency WHERE receipt LIKE ANY(%s)"
    assert rows(url, kept, [f"%{target}%" for target in targets]) == [("", "")] * (len(targets) - 1)
    assert assert_whole(service) >= len(targets)


def test_an_import_does_not_erase(api: httpx.Client) -> None:
    contract_id = open_and_sign(api)
    target = recorded(api, contract_id, "note.added", note())
    line = {"contract": contract_id, "event_type": "event.erased", **erased(target)}
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid4())}
    outcome = api.post("/imports", content=json.dumps(line), headers=headers).json()
    assert (outcome["refused"], outcome["not_recorded"][0]["code"]) == (1, "refused")
    assert api.get(f"/events/{target}").json()["data"] == {"text": "a note"}


@pytest.mark.parametrize("basis", ["", " ", 5, None])
def test_an_erasure_without_a_legal_basis_is_refused(api: httpx.Client, basis: Any) -> None:
    contract_id = open_and_sign(api)
    body = event({"target": NOWHERE} | ({} if basis is None else {"legal_basis": basis}), None)
    answer = record(api, contract_id, "event.erased", body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/data/legal_basis")
