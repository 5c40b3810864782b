"""Webhooks, with a receiver in a process of its own: every event at least once, in the order of its contract, whatever is killed."""

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.feed import delivering, webhooks
from service.feed.delivering import FAILURES_IN_A_ROW
from service.feed.sending import MAX_RETRY_AFTER_SECONDS, _rest_seconds
from service.feed.subscriptions import MAX_WEBHOOKS
from tests.api.bodies import note, open_contract, record, with_key
from tests.api.running import RunningService, running
from tests.conftest import Database
from tests.servers import ROOT, Service, client, make_key, make_ledger, rows, wait_for

LOOPBACK = "127.0.0.0/8"


@dataclass
class Receiver:
    folder: Path
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    secrets: list[str] = field(default_factory=list)
    certificate: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def answer(self, status: int = 200, sleep: float = 0, contracts: Mapping[str, tuple[int, float]] | None = None, **more: Any) -> None:
        """What it answers from now on: to all, and to the events of some contracts."""
        told = {"default": [status, sleep], "contracts": contracts or {}, "secrets": self.secrets, **more}
        (self.folder / "told.new").write_text(json.dumps(told))
        (self.folder / "told.new").rename(self.folder / "told.json")

    def start(self) -> None:
        (self.folder / "port").unlink(missing_ok=True)
        command = [sys.executable, str(ROOT / "tests/feed/receiver.py"), str(self.folder), str(self.port)]
        command += [str(self.certificate)] if self.certificate else []
        self.process = subprocess.Popen(command, cwd=ROOT)
        self.port = int(wait_for(lambda: (self.folder / "port").exists() and (self.folder / "port").read_text(), "the receiver listens"))

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def got(self) -> list[dict[str, Any]]:
        file = self.folder / "got.jsonl"
        # The last line may be in the writing.
        return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []

    def arrived(self, contract_id: str | None = None) -> list[int]:
        """The revisions that were taken, in the order they came, of one contract or all."""
        told = [line["event"] for line in self.got() if 200 <= line["status"] < 300 and "subject" in line["event"]]
        return [event["data"]["revision"] for event in told if contract_id in (None, event["subject"])]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    made.answer()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def service(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running(database, tmp_path_factory.mktemp("data"), webhook_networks=LOOPBACK) as served:
        yield served


@pytest.fixture
def api(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A ledger of the test's own; what failed is tried again within moments."""
    monkeypatch.setattr(delivering, "WAITS", (0.05,) * 3 + (0.2,) * 3)
    monkeypatch.setattr(webhooks, "LOOK_SECONDS", 0.1)
    name = f"hooked-{uuid4().hex[:12]}"
    service.make_ledger(name)
    with service.client(service.admin, ledger=name) as made:
        yield made


def hook(api: httpx.Client, receiver: Receiver, **more: Any) -> str:
    answer = api.post("/webhooks", json={"url": receiver.url} | more, headers=with_key())
    assert answer.status_code == 201, answer.text
    receiver.secrets.append(answer.json()["secret"])
    receiver.answer()
    webhook_id: str = answer.json()["webhook_id"]
    return webhook_id


def grown(api: httpx.Client, notes: int, contract_id: str | None = None) -> str:
    """A contract with so many notes more."""
    contract_id = contract_id or open_contract(api)
    for number in range(notes):
        assert record(api, contract_id, "note.added", note(str(number))).status_code == 201
    return contract_id


def in_order(revisions: list[int]) -> list[int]:
    """Each revision as it came first."""
    return list(dict.fromkeys(revisions))


def comes(condition: Callable[[], object], what: str) -> None:
    wait_for(condition, what, seconds=60)


def test_events_arrive_signed_in_the_order_of_their_contract(api: httpx.Client, receiver: Receiver) -> None:
    hook(api, receiver)
    contract_id = grown(api, 5)
    comes(lambda: receiver.arrived(contract_id) == [1, 2, 3, 4, 5, 6], "six events")
    for line, item in zip(receiver.got(), api.get("/events").json()["items"], strict=True):
        assert line["signed"] == [True]
        event = line["event"]
        assert (event["specversion"], event["type"], event["subject"]) == ("1.0", item["event_type"], contract_id)
        assert line["id"] == event["id"] == item["event_id"]
        assert event["data"] == item


def test_the_request_of_the_page_makes_a_webhook(api: httpx.Client) -> None:
    (shown,) = re.findall("```http\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL)
    head, body = shown.split("\n\n")
    line, *headers = head.split("\n")
    assert line == "POST /v1/ledgers/main/webhooks"
    answer = api.post("/webhooks", json=json.loads(body), headers=dict(header.split(": ") for header in headers))
    assert answer.status_code == 201, answer.text
    made = api.get(f"/webhooks/{answer.json()['webhook_id']}").json()
    assert {name: made[name] for name in ("url", "event_types")} == {name: json.loads(body)[name] for name in ("url", "event_types")}


def test_what_is_sealed_is_not_sent(api: httpx.Client, receiver: Receiver) -> None:
    hook(api, receiver)
    contract_id = grown(api, 0)
    sealed = note() | {"data": {}, "sealed": [{"path": "/text", "value": "between us"}]}
    assert record(api, contract_id, "note.added", sealed).status_code == 201
    comes(lambda: receiver.arrived(contract_id) == [1, 2], "the sealed note")
    sent = receiver.got()[-1]["event"]
    assert [member["path"] for member in sent["data"]["sealed"]] == ["/text"]
    assert "between us" not in json.dumps(sent)


def test_only_what_is_wanted_is_sent_from_where_it_is_wanted(api: httpx.Client, receiver: Receiver) -> None:
    one, other = grown(api, 3), grown(api, 3)
    hook(api, receiver, from_position=3, event_types=["note.added"], contract_ids=[one.upper()])
    grown(api, 1, other)
    grown(api, 1, one)
    comes(lambda: receiver.arrived(one)[-1:] == [5], "the last note")
    assert receiver.arrived() == [3, 4, 5]


def test_what_fails_holds_up_its_own_contract_only_and_is_tried_again(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    bad, good = open_contract(api), open_contract(api)
    receiver.answer(contracts={bad: (500, 0)})
    grown(api, 2, bad)
    grown(api, 3, good)
    comes(lambda: receiver.arrived(good) == [1, 2, 3, 4], "what does not fail")
    (held,) = api.get(f"/webhooks/{webhook_id}/held").json()["items"]
    assert held["contract_id"] == bad
    assert held["failure"] == "answered 500"
    receiver.answer()
    comes(lambda: in_order(receiver.arrived(bad)) == [1, 2, 3], "what had failed")
    comes(lambda: api.get(f"/webhooks/{webhook_id}/held").json()["items"] == [], "nothing is held")
    failed = [attempt for attempt in api.get(f"/webhooks/{webhook_id}/attempts?limit=500").json()["items"] if not attempt["delivered"]]
    assert failed
    assert {attempt["status_code"] for attempt in failed} == {500}


def test_a_contract_that_catches_up_slowly_lets_the_others_have_their_turn(api: httpx.Client, receiver: Receiver) -> None:
    slow, other = grown(api, 0), grown(api, 0)
    receiver.answer(contracts={slow: (500, 0)})
    webhook_id = hook(api, receiver)
    receiver.answer(contracts={slow: (500, 0)})
    grown(api, 1, other)
    grown(api, 30, slow)
    held = f"/webhooks/{webhook_id}/held"
    comes(lambda: [hold["status"] for hold in api.get(held).json()["items"]] == ["dead"], "it is given up")
    receiver.answer(contracts={slow: (200, 0.2)})
    assert api.post(f"{held}/{slow}/retry", headers=with_key()).status_code == 200
    comes(lambda: receiver.arrived(slow), "the first of the slow one")
    grown(api, 1, other)
    comes(lambda: len(receiver.arrived(other)) == 2, "the second of the other")
    assert len(receiver.arrived(slow)) < 30
    comes(lambda: in_order(receiver.arrived(slow)) == [*range(2, 32)], "everything of the slow one")


def test_what_is_given_up_stays_so_until_somebody_speaks(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    bad = open_contract(api)
    comes(lambda: receiver.arrived(bad) == [1], "the opening")
    receiver.answer(contracts={bad: (500, 0)})
    grown(api, 2, bad)
    held = f"/webhooks/{webhook_id}/held"
    comes(lambda: [item["status"] for item in api.get(held).json()["items"]] == ["dead"], "it is given up")
    (dead,) = api.get(held).json()["items"]
    assert (dead["attempts"], "next_attempt_at" in dead) == (len(delivering.WAITS) + 1, False)
    receiver.answer()
    good = grown(api, 1)
    comes(lambda: receiver.arrived(good) == [1, 2], "others go on")
    assert receiver.arrived(bad) == [1]
    assert api.post(f"{held}/{good}/retry").json()["code"] == "contract-not-held"
    at = dead["position"]
    assert api.post(f"{held}/{bad}/skip", json={"position": at + 1}).json()["code"] == "contract-not-held"
    assert api.post(f"{held}/{bad}/skip", json={"position": 0}).json()["errors"][0]["pointer"] == "/position"
    assert api.post(f"{held}/{bad}/skip", json={"position": at}).status_code == 200
    assert api.post(f"{held}/{bad}/skip", json={"position": at}).json()["code"] == "contract-not-held"
    comes(lambda: receiver.arrived(bad) == [1, 3], "what comes after the event that is skipped")
    api.post(f"/webhooks/{webhook_id}/replay", json={"from_position": 1})
    comes(lambda: receiver.arrived(bad) == [1, 3, 1, 2, 3], "everything again")


def test_a_replay_from_an_event_that_there_is_not_is_refused_as_a_beginning_there_is(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    contract_id = open_contract(api)
    head = api.get(f"/contracts/{contract_id}").json()["as_of"]["known_position"]
    # It has arrived before the webhook's position says so.
    comes(lambda: api.get(f"/webhooks/{webhook_id}").json()["position"] == head, "the opening is delivered")
    assert api.post(f"/webhooks/{webhook_id}/replay", json={"from_position": head + 1}).json()["position"] == head
    refused = api.post(f"/webhooks/{webhook_id}/replay", json={"from_position": head + 2})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/from_position")


def test_an_endpoint_that_is_down_is_tried_now_and_then_and_misses_nothing(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    receiver.answer(503)
    contracts = [grown(api, 1) for _ in range(2 * FAILURES_IN_A_ROW)]
    comes(lambda: api.get(f"/webhooks/{webhook_id}").json().get("failures_in_a_row", 0) >= FAILURES_IN_A_ROW, "it counts as down")
    receiver.answer()
    for contract_id in contracts:
        comes(lambda contract_id=contract_id: in_order(receiver.arrived(contract_id)) == [1, 2], "everything")  # type: ignore[misc]


def test_an_endpoint_that_asks_to_wait_is_sent_nothing_until_then(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    receiver.answer(429, retry_after="2")
    one = open_contract(api)
    comes(lambda: len(receiver.got()) == 1, "the first")
    asked_at = time.monotonic()
    receiver.answer()
    other = grown(api, 1)
    comes(lambda: receiver.arrived(one) == [1] and receiver.arrived(other) == [1, 2], "everything")
    assert time.monotonic() - asked_at > 1
    assert len(receiver.got()) == 4
    comes(lambda: not api.get(f"/webhooks/{webhook_id}/held").json()["items"], "nothing is held")


def test_who_tries_again_by_hand_need_not_wait_for_what_an_endpoint_asked(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    receiver.answer(503, retry_after="99999999999999999999")
    contract_id = open_contract(api)
    comes(lambda: api.get(f"/webhooks/{webhook_id}/held").json()["items"], "it is held")
    (held,) = api.get(f"/webhooks/{webhook_id}/held").json()["items"]
    left = datetime.fromisoformat(held["next_attempt_at"]) - datetime.now(UTC)
    assert 0 < left.total_seconds() <= MAX_RETRY_AFTER_SECONDS
    receiver.answer()
    assert api.post(f"/webhooks/{webhook_id}/held/{contract_id}/retry").status_code < 300
    comes(lambda: receiver.arrived(contract_id) == [1], "it")


@pytest.mark.parametrize(
    ("status", "said", "seconds"),
    [
        (429, "7", 7),
        (503, " 7 ", 7),
        (503, "9" * 5_000, MAX_RETRY_AFTER_SECONDS),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_SECONDS),
        (503, "Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (503, "-7", 0),
        (503, "soon", 0),
        (503, "Fri, 99 Dec 99999 23:59:59 GMT", 0),
        (500, "7", 0),
        (200, "7", 0),
    ],
)
def test_what_an_endpoint_asks_for_is_read_within_bounds(status: int, said: str, seconds: float) -> None:
    assert _rest_seconds(httpx.Response(status, headers={"Retry-After": said})) == seconds


def test_an_endpoint_that_is_gone_ends_its_webhook(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    receiver.answer(410)
    contract_id = grown(api, 2)
    comes(lambda: api.get(f"/webhooks/{webhook_id}").json()["status"] == "ended", "it ended")
    assert api.get(f"/webhooks/{webhook_id}").json()["ended_because"] == "the endpoint answered 410 Gone"
    assert len(receiver.got()) == 1
    receiver.answer()
    assert api.post(f"/webhooks/{webhook_id}/resume").json()["status"] == "active"
    comes(lambda: receiver.arrived(contract_id) == [1, 2, 3], "it goes on")


def test_a_pause_loses_nothing_and_a_deleted_webhook_is_sent_nothing(database: Database, api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    assert api.post(f"/webhooks/{webhook_id}/pause").json()["status"] == "paused"
    # What was on its way may still have arrived.
    worker = "SELECT worker FROM webhooks WHERE webhook_id = %s"
    comes(lambda: rows(database.service_url, worker, webhook_id) == [(None,)], "nobody delivers")
    contract_id = grown(api, 2)
    test = api.post(f"/webhooks/{webhook_id}/test").json()
    assert (test["delivered"], test["status_code"]) == (True, 200)
    assert [line["event"]["type"] for line in receiver.got()] == ["webhook.test"]
    api.post(f"/webhooks/{webhook_id}/resume")
    comes(lambda: receiver.arrived(contract_id) == [1, 2, 3], "what was recorded meanwhile")
    assert api.delete(f"/webhooks/{webhook_id}").status_code == 204
    assert api.get(f"/webhooks/{webhook_id}").status_code == 404
    later = hook(api, receiver)
    grown(api, 1, contract_id)
    comes(lambda: receiver.arrived(contract_id) == [1, 2, 3, 4], "by the other webhook alone")
    comes(lambda: rows_of(api, later) == 1, "one attempt is written")


def rows_of(api: httpx.Client, webhook_id: str) -> int:
    return len(api.get(f"/webhooks/{webhook_id}/attempts").json()["items"])


def test_for_a_while_after_a_rotation_the_secrets_before_sign_too_though_an_answer_was_lost(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    made = [*receiver.secrets, *(api.post(f"/webhooks/{webhook_id}/rotate-secret").json()["secret"] for _ in range(4))]
    receiver.secrets = made
    receiver.answer()
    contract_id = grown(api, 0)
    comes(lambda: receiver.arrived(contract_id) == [1], "an event")
    assert receiver.got()[-1]["signed"] == [False, True, True, True, True]
    assert "secret" not in api.get(f"/webhooks/{webhook_id}").json()


def test_a_request_that_is_sent_again_makes_one_webhook_and_tells_no_secret_twice(api: httpx.Client, receiver: Receiver) -> None:
    headers = with_key()
    first, again = (api.post("/webhooks", json={"url": receiver.url}, headers=headers) for _ in range(2))
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {name: value for name, value in first.json().items() if name != "secret"}
    assert api.post("/webhooks", json={"url": receiver.url + "2"}, headers=headers).json()["code"] == "idempotency-key-reused"


def test_a_redirect_is_not_followed_and_an_endless_answer_is_not_read(api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    receiver.answer(307)
    test = api.post(f"/webhooks/{webhook_id}/test").json()
    assert test["failure"] == "answered 307: redirects are not followed"
    receiver.answer(200, flood=True)
    assert api.post(f"/webhooks/{webhook_id}/test").json()["delivered"]
    comes((receiver.folder / "cut").exists, "the answer is cut off")


def test_an_endpoint_that_hangs_fails_in_time_and_holds_up_nobody(
    api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feed.sending.DELIVERY_SECONDS", 0.5)
    webhook_id = hook(api, receiver)
    bad, good = open_contract(api), open_contract(api)
    comes(lambda: len(receiver.arrived()) == 2, "both opened")
    receiver.answer(contracts={bad: (200, 2)})
    grown(api, 1, bad)
    grown(api, 1, good)
    comes(lambda: receiver.arrived(good) == [1, 2], "the other")
    comes(lambda: api.get(f"/webhooks/{webhook_id}/held").json()["items"], "it is held")
    assert api.get(f"/webhooks/{webhook_id}/held").json()["items"][0]["failure"] == "no answer within 0.5 s"


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("ftp://erp.example/", "not an https URL"),
        ("https://user:secret@erp.example/", "not an https URL"),
        ("https://erp.example/#there", "not an https URL"),
        ("not a url", "not an https URL"),
        ("https://10.0.0.1/", "not a public address"),
        ("https://169.254.169.254/latest/meta-data", "not a public address"),
        ("https://[::1]/", "not a public address"),
        ("https://[::ffff:10.0.0.1]/", "not a public address"),
        ("https://[64:ff9b::a00:1]/", "not a public address"),
        ("https://[fe80::1]/", "not a public address"),
        ("https://100.64.0.1/", "not a public address"),
        ("http://8.8.8.8/", "by https only"),
        ("https://xn--a.example/", "not a URL"),
        ("https://xn--zzz-.example/", "not a URL"),
        ("https://erp.example:0/", "a port is a number from 1 to 65535"),
        ("https://erp.example:65536/", "a port is a number from 1 to 65535"),
    ],
)
def test_an_address_that_nobody_should_be_sent_to_is_refused(api: httpx.Client, url: str, detail: str) -> None:
    answer = api.post("/webhooks", json={"url": url}, headers=with_key())
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == "/url"
    assert detail in fault["detail"]


def test_a_name_that_leads_to_a_private_address_is_not_sent_to(database: Database, tmp_path: Path) -> None:
    with running(database, tmp_path) as served:
        name = f"hooked-{uuid4().hex[:12]}"
        served.make_ledger(name)
        with served.client(served.admin, ledger=name) as api:
            made = api.post("/webhooks", json={"url": "https://localhost:9/"}, headers=with_key()).json()
            test = api.post(f"/webhooks/{made['webhook_id']}/test").json()
            assert api.post("/webhooks", json={"url": "http://localhost:9/"}, headers=with_key()).status_code == 422
    assert not test["delivered"]
    assert "is not a public address" in test["failure"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": "https://erp.example/", "event_types": []}, "/event_types"),
        ({"url": "https://erp.example/", "event_types": ["note.aded"]}, "/event_types/0"),
        ({"url": "https://erp.example/", "contract_ids": ["x"]}, "/contract_ids/0"),
        ({"url": "https://erp.example/", "from_position": 99}, "/from_position"),
        ({"url": "https://erp.example/", "from_position": 0}, "/from_position"),
        ({"url": "https://erp.example/" + "x" * 2_000}, "/url"),
        ({"url": "https://erp.example/", "secret": "mine"}, "/secret"),
    ],
)
def test_a_faulty_webhook_is_refused_by_place(api: httpx.Client, body: dict[str, Any], pointer: str) -> None:
    answer = api.post("/webhooks", json=body, headers=with_key())
    assert answer.status_code == 422
    assert pointer in {fault["pointer"] for fault in answer.json()["errors"]}


def test_a_filter_that_never_matches_moves_on(api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "WRITE_SECONDS", 0)
    webhook_id = hook(api, receiver, event_types=["contract.terminated"])
    grown(api, 3)
    comes(lambda: api.get(f"/webhooks/{webhook_id}").json()["position"] == 4, "its cursor is at the head")
    assert receiver.got() == []


def test_many_webhooks_are_all_sent_to(api: httpx.Client, receiver: Receiver) -> None:
    made = [hook(api, receiver) for _ in range(60)]
    contract_id = grown(api, 1)
    comes(lambda: len(receiver.arrived(contract_id)) == 2 * len(made), "each is sent both")
    page = api.get("/webhooks?limit=40").json()
    assert [item["webhook_id"] for item in page["items"]] == made[:40]
    assert [item["webhook_id"] for item in api.get(f"/webhooks?limit=40&after={page['next']}").json()["items"]] == made[40:]


def test_a_thousand_webhooks_are_all_sent_to_within_bounds_and_there_is_no_more(
    database: Database, api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = hook(api, receiver)
    # The others are like it, but for what is their own.
    assert rows(database.service_url, LIKE_IT, MAX_WEBHOOKS - 1, webhook_id)
    refused = api.post("/webhooks", json={"url": receiver.url}, headers=with_key())
    assert (refused.status_code, refused.json()["code"]) == (409, "too-many-webhooks")
    monkeypatch.setattr(webhooks, "LOOK_SECONDS", 0.5)  # a hundred are taken up at each look
    before = resident_bytes()
    contract_id = open_contract(api)
    comes(lambda: len(receiver.got()) >= MAX_WEBHOOKS, "an event to each")
    assert receiver.arrived(contract_id) == [1] * MAX_WEBHOOKS
    assert resident_bytes() - before < 128 << 20
    assert api.get("/contracts").elapsed.total_seconds() < 2, "others are answered"
    rows(database.service_url, "DELETE FROM webhooks WHERE url = %s RETURNING webhook_id", receiver.url)


LIKE_IT = """
INSERT INTO webhooks (ledger_id, webhook_id, url, event_types, contract_ids, status, secret, position, created_by, request_key, salt,
    request_digest)
SELECT w.ledger_id, gen_random_uuid(), w.url, w.event_types, w.contract_ids, w.status, w.secret, w.position, w.created_by,
    decode(md5(n::text), 'hex'), w.salt, w.request_digest
FROM webhooks w, generate_series(1, %s) n WHERE w.webhook_id = %s::uuid RETURNING webhook_id
"""


def resident_bytes() -> int:
    """The memory that this process, and the service in it, has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_killed_services_deliver_everything_at_least_once_in_order(database: Database, receiver: Receiver, tmp_path: Path) -> None:
    ledger, key = make_ledger(database.service_url), make_key(database.service_url)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    services = [Service(database.service_url, folder, environment={"LEDGER_WEBHOOK_NETWORKS": LOOPBACK}) for folder in folders]
    first, second = services
    try:
        first.start()
        with client(first, ledger, key) as api:
            hook(api, receiver)
            contracts = [grown(api, 4) for _ in range(4)]
        receiver.answer(sleep=0.02)
        for round_number in range(3):
            # One of them is killed wherever it is; the other takes over when the lease has run out.
            dying, living = (first, second) if round_number % 2 == 0 else (second, first)
            living.start()
            with client(living, ledger, key) as api:
                for contract_id in contracts:
                    grown(api, 3, contract_id)
            dying.kill()
        wanted = list(range(1, 5 + 9 + 1))
        for contract_id in contracts:
            comes(lambda contract_id=contract_id: in_order(receiver.arrived(contract_id)) == wanted, "every event")  # type: ignore[misc]
        query = "SELECT count(*) FROM webhook_holds WHERE ledger_id = (SELECT ledger_id FROM ledgers WHERE name = %s)"
        comes(lambda: rows(database.service_url, query, ledger) == [(0,)], "nothing is held")
    finally:
        for service in services:
            service.stop()
