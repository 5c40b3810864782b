"""Imports over HTTP: each line once, each with its fate; broken lines are named, resuming doubles nothing, and an export goes back in."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import httpx
import orjson
import pytest
import structlog

from service.api import imports
from service.domain.events import EVENT_TYPES
from tests.api.running import MAX_BODY_BYTES, RunningService
from tests.domain.test_golden_bodies import ACTS, EFFECTIVE_ON, ENDS, OF_AN_EVENT, request_of
from tests.log.test_append import AS_ROWS_ARE_WRITTEN, AT_COMMIT, POISON, refusing
from tests.servers import rows, verified, wait_for

Json = dict[str, Any]
NDJSON: Final = "application/x-ndjson"
NOBODYS: Final = "00000000-0000-4000-8000-000000000000"


def signed(contract: str, **more: Any) -> Json:
    parties = [
        {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
        {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
    ]
    data = {"signed_by": "2022-07-01", "title": "Batteries", "kind": "supply", "parties": parties}
    return {
        "contract": contract,
        "event_type": "contract.signed",
        "effective_on": "2022-07-01",
        "source": {"kind": "party"},
        "data": data,
        **more,
    }


def note(contract: str, text: str, **more: Any) -> Json:
    return {
        "contract": contract,
        "event_type": "note.added",
        "effective_on": "2023-01-01",
        "source": {"kind": "system"},
        "data": {"text": text},
        **more,
    }


def contracts_of(number: int, notes: int = 3) -> list[Json]:
    """So many contracts, a signing and notes each."""
    return [line for n in range(number) for line in (signed(f"c-{n}"), *(note(f"c-{n}", f"{n} {m}") for m in range(notes)))]


def text_of(lines: Sequence[Json | bytes]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines)


class Importer:
    """Sends lines into a ledger of its own."""

    def __init__(self, service: RunningService, ledger: str) -> None:
        self.service = service
        self.ledger = ledger
        self.http = service.client(service.admin, ledger=ledger)

    def post(self, body: Any, import_id: str, **options: Any) -> httpx.Response:
        headers = {"Content-Type": NDJSON, "Idempotency-Key": import_id, **options.pop("headers", {})}
        return self.http.post("/imports", content=body, headers=headers, **options)

    def send(self, lines: Sequence[Json | bytes], import_id: str | None = None, **params: Any) -> Json:
        answer = self.post(text_of(lines), import_id or str(uuid4()), params=params)
        assert answer.status_code == 200, answer.text
        outcome: Json = answer.json()
        assert outcome["lines"] == sum(outcome[fate] for fate in ("recorded", "already_recorded", "refused", "held_back"))
        return outcome

    def lines(self, import_id: str, **params: Any) -> list[Json]:
        answer = self.http.get(f"/imports/{import_id}/lines", params={"limit": 500, **params})
        assert answer.status_code == 200, answer.text
        items: list[Json] = answer.json()["items"]
        return items

    def export(self, **params: Any) -> list[Json]:
        answer = self.http.get("/export", params=params)
        assert answer.status_code == 200, answer.text
        return [orjson.loads(line) for line in answer.content.splitlines()]

    def events(self) -> list[Json]:
        return self.http.get("/events", params={"limit": 500}).json()["items"]

    def contract(self, contract_id: str) -> Json:
        """A contract on the day that it is in UTC: a ledger elsewhere may be a day ahead, and its states then are of another day."""
        answer = self.http.get(f"/contracts/{contract_id}", params={"effective_on": datetime.now(UTC).date().isoformat()})
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found


@pytest.fixture
def importer(service: RunningService) -> Iterator[Importer]:
    made = Importer(service, f"import-{uuid4().hex[:10]}")
    service.make_ledger(made.ledger)
    with made.http:
        yield made
    verified(service.database.service_url, made.ledger)


def test_lines_are_recorded_in_their_order_and_each_tells_where(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(3)
    outcome = importer.send(lines, import_id)
    assert (outcome["status"], outcome["recorded"], outcome["refused"], outcome["last_line"]) == ("complete", 12, 0, 12)
    assert [event["event_type"] for event in importer.events()] == [line["event_type"] for line in lines]
    fates = importer.lines(import_id)
    assert [(fate["line"], fate["fate"], fate["position"]) for fate in fates] == [(n, "recorded", n) for n in range(1, 13)]
    assert [fate["revision"] for fate in fates] == [1, 2, 3, 4] * 3
    assert [fate["event_id"] for fate in fates] == [event["event_id"] for event in importer.events()]
    standing = importer.http.get(f"/imports/{import_id}").json()
    assert (standing["status"], standing["recorded"], standing["last_line"]) == ("complete", 12, 12)


def test_an_import_that_is_sent_again_records_nothing_twice(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(200)
    importer.send(lines[:300], import_id)
    outcome = importer.send(lines, import_id)
    assert (outcome["recorded"], outcome["already_recorded"]) == (500, 300)
    outcome = importer.send(lines[700:], import_id, from_line=701)
    assert (outcome["recorded"], outcome["already_recorded"], outcome["status"]) == (0, 100, "complete")
    assert len(importer.export()) == 800


def test_the_log_keeps_the_order_of_lines_of_many_contracts_across_chunks(importer: Importer) -> None:
    lines = [signed(f"c-{n}") for n in range(300)] + [note(f"c-{n % 300}", str(n)) for n in range(900)]
    assert importer.send(lines)["recorded"] == 1_200
    assert [line["data"].get("text") for line in importer.export()] == [line["data"].get("text") for line in lines]


def test_a_refused_line_is_named_and_holds_back_only_its_contract(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(3)
    broken = [*lines[:5], {**lines[5], "effective_on": "2023-02-30"}, *lines[6:]]
    outcome = importer.send(broken, import_id)
    assert (outcome["status"], outcome["recorded"], outcome["refused"], outcome["held_back"]) == ("incomplete", 9, 1, 2)
    first, *held = outcome["not_recorded"]
    assert (first["line"], first["fate"], first["code"], first["pointer"]) == (6, "refused", "refused", "/effective_on")
    assert [(line["line"], line["fate"], line["code"]) for line in held] == [(7, "held_back", "held-back"), (8, "held_back", "held-back")]
    assert [line["line"] for line in importer.lines(import_id, fate="not_recorded")] == [6, 7, 8]
    outcome = importer.send(lines, import_id)
    assert (outcome["status"], outcome["recorded"], outcome["already_recorded"]) == ("complete", 3, 9)
    assert importer.lines(import_id, fate="not_recorded") == []
    assert importer.http.get(f"/imports/{import_id}").json()["refused"] == 0
    texts = [line["data"].get("text") for line in importer.export(contract_id=first["contract_id"])]
    assert texts == [None, "1 0", "1 1", "1 2"]


def test_a_refusal_by_a_rule_is_told_with_the_rule_and_spares_the_other_lines_of_the_chunk(importer: Importer) -> None:
    import_id = str(uuid4())
    lines = [note("a", "no opening"), signed("b"), signed("b"), note("b", "held"), signed("c"), note("c", "kept")]
    outcome = importer.send(lines, import_id)
    assert (outcome["recorded"], outcome["refused"], outcome["held_back"]) == (3, 2, 1)
    told = importer.lines(import_id)
    assert [line.get("rule") for line in told] == ["first-event-opens", None, "signed-once", None, None, None]
    assert [line["fate"] for line in told] == ["refused", "recorded", "refused", "held_back", "recorded", "recorded"]


def test_a_line_from_which_the_sending_goes_on_is_held_back_while_an_earlier_one_of_its_contract_is_refused(importer: Importer) -> None:
    import_id = str(uuid4())
    lines = [signed("a"), {**note("a", "x"), "effective_on": "never"}, note("a", "y"), signed("b")]
    importer.send(lines[:2], import_id)
    outcome = importer.send(lines[2:], import_id, from_line=3)
    assert (outcome["recorded"], outcome["held_back"], outcome["status"]) == (1, 1, "incomplete")


def test_an_import_whose_line_in_the_middle_cannot_be_read_stops_there_and_goes_on_once_it_is_mended(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(400)
    broken: list[Json | bytes] = [*lines[:1_000], b'{"contract": "c-250", "event_type"', *lines[1_001:]]
    outcome = importer.send(broken, import_id)
    assert (outcome["status"], outcome["recorded"], outcome["refused"]) == ("stopped", 1_000, 1)
    named = outcome["not_recorded"][0]
    assert (named["line"], named["code"]) == (1_001, "malformed")
    assert "(column 35)" in named["detail"]
    outcome = importer.send(lines, import_id)
    assert (outcome["status"], outcome["recorded"], outcome["already_recorded"]) == ("complete", 600, 1_000)
    assert [line["data"] for line in importer.export()] == [line["data"] for line in lines]


BROKEN: Final = {
    "no JSON": b"hello",
    "half a line": b'{"contract": "c-1"',
    "an array": b"[]",
    "a byte order mark": b"\xef\xbb\xbf" + orjson.dumps(signed("c-9")),
    "bytes that are not UTF-8": orjson.dumps(signed("c-9")).replace(b"Batteries", b"\xff\xfe"),
    "NUL": orjson.dumps(signed("c-9")).replace(b"Batteries", b"a\\u0000b"),
    "a bare NUL": b"\0",
    "a duplicate member": b'{"contract":"c-9",' + orjson.dumps(signed("c-9"))[1:],
    "null": orjson.dumps(signed("c-9", evidence=None)),
    "no contract": orjson.dumps({name: member for name, member in signed("c-9").items() if name != "contract"}),
    "a contract that is no text": orjson.dumps({**signed("c-9"), "contract": 7}),
    "an empty key": orjson.dumps(signed("")),
    "a key that is too long": orjson.dumps(signed("x" * 201)),
    "a line that is too long": orjson.dumps(note("c-0", "x" * MAX_BODY_BYTES)),
    "the nil id": signed("00000000-0000-0000-0000-000000000000"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_line_that_does_not_say_whose_it_is_ends_the_import_and_is_named(importer: Importer, what: str) -> None:
    outcome = importer.send([*contracts_of(1), BROKEN[what], signed("c-2")])
    assert (outcome["status"], outcome["recorded"], outcome["refused"], outcome["held_back"]) == ("stopped", 4, 1, 0)
    assert outcome["not_recorded"][0]["line"] == 5
    assert outcome["not_recorded"][0]["detail"]


def test_empty_lines_are_counted_and_line_ends_of_other_systems_are_read(importer: Importer) -> None:
    import_id, (first, second, *_) = str(uuid4()), contracts_of(1)
    body = b"\n\r\n" + orjson.dumps(first) + b"\r\n   \n" + orjson.dumps(second)
    answer = importer.post(body, import_id)
    assert answer.json()["recorded"] == 2
    assert [line["line"] for line in importer.lines(import_id)] == [3, 5]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_lines_are_read_whole_however_the_body_is_cut(importer: Importer, size: int) -> None:
    body = text_of(contracts_of(5 if size < 100 else 150))
    answer = importer.post((body[at : at + size] for at in range(0, len(body), size)), str(uuid4()))
    assert (answer.json()["status"], answer.json()["recorded"]) == ("complete", body.count(b"\n"))


def test_a_line_that_was_recorded_with_another_content_stops_the_import(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(2)
    importer.send(lines, import_id)
    inserted = [*lines[:3], note("c-0", "put in between"), *lines[3:]]
    outcome = importer.send(inserted, import_id)
    assert (outcome["status"], outcome["already_recorded"], outcome["recorded"]) == ("stopped", 3, 0)
    assert (outcome["not_recorded"][0]["line"], outcome["not_recorded"][0]["code"]) == (4, "line-changed")
    assert [line["fate"] for line in importer.lines(import_id)] == ["recorded"] * 8
    # The same JSON written in another way is the same line.
    spelt = [orjson.dumps(line, option=orjson.OPT_SORT_KEYS).replace(b'":', b'" : ') for line in lines]
    assert importer.send(spelt, import_id)["already_recorded"] == 8


def test_stop_on_refusal_ends_at_the_first_line_that_is_refused(importer: Importer) -> None:
    outcome = importer.send([*contracts_of(1), signed("c-0"), signed("c-1")], stop_on_refusal="true")
    assert (outcome["status"], outcome["recorded"], outcome["refused"], outcome["lines"]) == ("stopped", 4, 1, 5)


def test_a_contract_of_the_ledger_is_carried_on_by_its_id_and_keys_are_those_of_their_import(importer: Importer) -> None:
    opening, other = str(uuid4()), str(uuid4())
    importer.send([signed("c-1")], opening)
    contract_id = importer.lines(opening)[0]["contract_id"]
    outcome = importer.send([note(contract_id, "by its id"), signed("c-1"), note("c-1", "of another")], other)
    assert outcome["recorded"] == 3
    assert importer.contract(contract_id)["revision"] == 2
    assert importer.lines(other)[1]["contract_id"] != contract_id
    chosen = str(uuid4())
    assert importer.send([signed(chosen)])["recorded"] == 1
    assert importer.contract(chosen)["revision"] == 1


def test_a_contract_id_in_upper_case_is_that_id_and_no_key(importer: Importer) -> None:
    contract_id, import_id = "ABCDEF00-0000-7000-8000-0000000000AA", str(uuid4())
    assert importer.send([signed(contract_id), note(contract_id.lower(), "in lower case")], import_id)["recorded"] == 2
    assert importer.lines(import_id)[0]["contract_id"] == contract_id.lower()
    assert importer.send([note(contract_id, "by another import")])["recorded"] == 1
    assert importer.contract(contract_id.lower())["revision"] == 3


def test_events_of_any_day_are_folded_as_if_they_had_been_appended_one_by_one(importer: Importer) -> None:
    days = ["2024-05-05", "2023-01-01", "2022-08", "2023", "2099-01-01", "2024-05-05"]
    lines = [signed("c-1"), *(note("c-1", day, effective_on=day) for day in days)]
    import_id = str(uuid4())
    assert importer.send(lines, import_id)["recorded"] == 7
    contract = importer.contract(importer.lines(import_id)[0]["contract_id"])
    assert (contract["state"]["notes"]["count"], len(contract["pending"])) == (5, 1)


def test_a_delivery_id_that_is_taken_is_refused_within_a_chunk_and_across(importer: Importer) -> None:
    def delivery(name: str, delivery_id: str) -> Json:
        data = {"delivery_id": delivery_id, "quantity": "5", "unit": "EA", "delivered_on": "2023-02-01", "item_id": "cells"}
        return {**note(name, ""), "event_type": "delivery.recorded", "data": data}

    opening = signed("a")
    opening["data"]["items"] = [{"item_id": "cells", "description": "Cells"}]
    contract = str(uuid4())
    outcome = importer.send([{**opening, "contract": contract}, delivery(contract, "d-1"), delivery(contract, "d-1")])
    assert (outcome["recorded"], outcome["not_recorded"][0]["rule"]) == (2, "unique-delivery")
    outcome = importer.send([delivery(contract, "d-2"), delivery(contract, "d-1")])
    assert (outcome["recorded"], outcome["not_recorded"][0]["rule"]) == (1, "unique-delivery")


def test_two_sendings_of_one_import_at_once_record_each_line_once(importer: Importer) -> None:
    import_id, body = str(uuid4()), text_of(contracts_of(500))
    outcomes: list[Json] = []

    def send() -> None:
        with importer.service.client(importer.service.admin, ledger=importer.ledger) as http:
            headers = {"Content-Type": NDJSON, "Idempotency-Key": import_id}
            outcomes.append(http.post("/imports", content=body, headers=headers, timeout=120).json())

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome["refused"] for outcome in outcomes] == [0, 0, 0]
    assert sum(outcome["recorded"] for outcome in outcomes) == 2_000
    assert sum(outcome["already_recorded"] for outcome in outcomes) == 4_000
    assert importer.http.get(f"/imports/{import_id}").json()["recorded"] == 2_000


def test_a_client_that_hangs_up_leaves_what_came_of_it_and_goes_on_later(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(300)
    body = text_of(lines)
    head = (
        f"POST /v1/ledgers/{importer.ledger}/imports HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {importer.service.admin}\r\n"
        f"Content-Type: {NDJSON}\r\nIdempotency-Key: {import_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", importer.service.port)) as caller:
        caller.sendall(head.encode() + body[: len(body) * 2 // 3])
        wait_for(lambda: _last_line(importer, import_id) > 0, "the first lines are recorded")

    def settled() -> int | None:
        last = _last_line(importer, import_id)
        return last if last == len(importer.export()) else None

    recorded = wait_for(settled, "what came is recorded")
    assert 0 < recorded < 801
    assert importer.http.get(f"/imports/{import_id}").json()["status"] == "open"
    outcome = importer.send(lines, import_id)
    assert (outcome["status"], outcome["recorded"] + outcome["already_recorded"]) == ("complete", 1_200)
    assert len(importer.export()) == 1_200


def _last_line(importer: Importer, import_id: str) -> int:
    answer = importer.http.get(f"/imports/{import_id}")
    return int(answer.json()["last_line"]) if answer.status_code == 200 else 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "application/json"}, 415, "unsupported-media-type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        ({"Idempotency-Key": ""}, 400, "idempotency-key-required"),
        ({"Idempotency-Key": "import-1"}, 400, "malformed"),
    ],
)
def test_an_import_that_cannot_be_begun_is_refused(importer: Importer, headers: dict[str, str], status: int, code: str) -> None:
    answer = importer.post(text_of(contracts_of(1)), str(uuid4()), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert importer.export() == []


def test_an_import_belongs_to_the_principal_that_began_it(importer: Importer) -> None:
    import_id = str(uuid4())
    importer.send(contracts_of(1), import_id)
    other = importer.service.make_key(["contracts:write"])
    answer = importer.post(text_of(contracts_of(1)), import_id, headers={"Authorization": f"Bearer {other}"})
    assert (answer.status_code, answer.json()["code"]) == (409, "import-of-another")
    reader = importer.service.make_key(["contracts:read"])
    answer = importer.post(text_of(contracts_of(1)), import_id, headers={"Authorization": f"Bearer {reader}"})
    assert answer.status_code == 403


def test_a_line_whose_event_takes_another_right_is_refused_without_it(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EVENT_TYPES["note.added"], "extra_right", "sealed:read")
    assert importer.send(contracts_of(1))["recorded"] == 4
    key = importer.service.make_key(["contracts:write"])
    outcome = importer.post(text_of(contracts_of(1)), str(uuid4()), headers={"Authorization": f"Bearer {key}"}).json()
    assert (outcome["recorded"], outcome["not_recorded"][0]["code"]) == (1, "forbidden")


@pytest.mark.parametrize("path", ["/imports/nothing", f"/imports/{NOBODYS}", f"/imports/{NOBODYS}/lines"])
def test_an_import_that_is_not_there_is_not_found(importer: Importer, path: str) -> None:
    assert importer.http.get(path).json()["code"] == "import-not-found"


def test_the_lines_of_an_import_come_in_pages(importer: Importer) -> None:
    import_id = str(uuid4())
    importer.send(contracts_of(30), import_id)
    page = importer.http.get(f"/imports/{import_id}/lines", params={"limit": 70, "count": "exact"}).json()
    rest = importer.http.get(f"/imports/{import_id}/lines", params={"limit": 70, "after": page["next"]}).json()
    assert [line["line"] for line in page["items"] + rest["items"]] == list(range(1, 121))
    assert (page["count"], "next" in rest) == (120, False)


def every_type() -> list[Json]:
    """The golden bodies as lines: three lives with an end each, and one that ends before it is signed."""
    lines = []
    for end in ENDS:
        life = [event_type for event_type in EFFECTIVE_ON if event_type not in {*ENDS, "contract.cancelled", *ACTS, *OF_AN_EVENT} - {end}]
        lines += [{"contract": end, **request_of(event_type)} for event_type in life]
    early = ("contract.reported", "figure.stated", "delivery.started", "contract.cancelled")
    return lines + [{"contract": "early", **request_of(event_type)} for event_type in early]


def acts_on(exported: list[Json]) -> list[Json]:
    """A correction of a figure, and a void of a note."""
    figure, noted = (next(line for line in exported if line["event_type"] == name) for name in ("figure.stated", "note.added"))
    corrected = {"figure": figure["data"]["figure"] | {"note": "as it should have been"}}
    return [
        {"contract": line["contract"], "event_type": event_type, "source": line["source"], "data": {"target": line["event_id"], **data}}
        for line, event_type, data in ((figure, "event.corrected", {"data": corrected}), (noted, "event.voided", {"reason": "not so"}))
    ]


def test_an_export_of_every_event_type_makes_the_same_states_in_an_empty_ledger(importer: Importer, service: RunningService) -> None:
    lines = every_type()
    assert {line["event_type"] for line in lines} == set(EFFECTIVE_ON) - {*ACTS, *OF_AN_EVENT}
    outcome = importer.send(lines)
    assert (outcome["status"], outcome["recorded"]) == ("complete", len(lines)), outcome["not_recorded"][:3]
    about = importer.export()[3]
    told = note(about["contract"], "about another event", effective_on="2026-03-02")
    told["data"]["about"] = {"kind": "event", "id": about["event_id"]}
    late = note(
        about["contract"], "late", effective_on="2022-08-01", hypothetical=True, correlation_id=str(uuid4()), causation_id=str(uuid4())
    )
    assert importer.send([told, late, *acts_on(importer.export())])["recorded"] == 4
    exported = importer.http.get("/export")
    assert exported.headers["content-type"] == NDJSON
    copy = Importer(service, f"copy-{uuid4().hex[:10]}")
    service.make_ledger(copy.ledger, "Asia/Seoul")
    with copy.http:
        answer = copy.post(exported.content, str(uuid4()))
        assert answer.json()["status"] == "complete", answer.text
        assert copy.http.get("/export").content == exported.content
        for contract_id in {line["contract"] for line in copy.export()}:
            first, second = importer.contract(contract_id), copy.contract(contract_id)
            assert first["state_hash"] == second["state_hash"]
            assert (first["revision"], first["state"], first["anomalies"]) == (second["revision"], second["state"], second["anomalies"])
        verified(service.database.service_url, copy.ledger)
        again = copy.post(exported.content, str(uuid4())).json()
        assert again["recorded"] == 0
        assert {line["code"] for line in again["not_recorded"]} == {"event-exists", "held-back"}


def sealing_lines() -> list[Json]:
    """A contract with a sealed amount, of which everyone sees the figure, and a sealed title, whose line is whole without it."""
    open_figure = {"figure_id": "f-1", "currency": "KRW", "basis": "contractual", "bound": "exact", "scope": "total"}
    figure = note("c", "", event_type="figure.stated", data={"figure": open_figure})
    figure["sealed"] = [{"path": "/figure/amount", "value": "918273645546", "until": "2024"}, {"path": "/figure/note", "value": "geheim"}]
    report = note("c", "", event_type="contract.reported", data={"stage": "reported"}, sealed=[{"path": "/title", "value": "geheim"}])
    return [signed("c"), figure, report]


def reveal_of(figure: Json) -> Json:
    part = {name: member for name, member in figure["sealed"][0].items() if name != "until"}
    data = {"event_id": figure["event_id"], "parts": [part]}
    return {"contract": figure["contract"], "event_type": "sealed.revealed", "source": {"kind": "party"}, "data": data}


def test_what_is_sealed_is_exported_with_its_salts_and_makes_the_same_states(importer: Importer, service: RunningService) -> None:
    assert importer.send(sealing_lines())["recorded"] == 3
    contract_id = importer.export()[0]["contract"]
    assert importer.send([reveal_of(importer.export(sealed="true")[1])])["recorded"] == 1
    copy = Importer(service, f"copy-{uuid4().hex[:10]}")
    service.make_ledger(copy.ledger, "Asia/Seoul")
    with copy.http:
        assert copy.send(importer.export(sealed="true"))["recorded"] == 4
        assert copy.contract(contract_id)["state_hash"] == importer.contract(contract_id)["state_hash"]
        assert copy.export(sealed="true") == importer.export(sealed="true")
        verified(service.database.service_url, copy.ledger)


def test_an_export_without_what_is_sealed_says_so_and_is_refused_where_that_is_missing(importer: Importer, service: RunningService) -> None:
    importer.send(sealing_lines())
    exported = importer.http.get("/export")
    assert "geheim" not in exported.text
    assert "918273645546" not in exported.text
    copy = Importer(service, f"copy-{uuid4().hex[:10]}")
    service.make_ledger(copy.ledger)
    with copy.http:
        outcome = copy.send([orjson.loads(line) for line in exported.content.splitlines()])
    told = outcome["not_recorded"]
    assert [(line["line"], line["code"], line.get("pointer")) for line in told] == [
        (2, "refused", "/sealed/0/digest"),
        (3, "refused", "/sealed/0/digest"),
    ]


def test_sealed_members_are_exported_only_to_who_may_read_them_and_that_is_logged(importer: Importer, service: RunningService) -> None:
    importer.send(sealing_lines())
    with service.client(service.make_key(["contracts:read"]), ledger=importer.ledger) as reader:
        assert reader.get("/export", params={"sealed": "true"}).status_code == 403
    with structlog.testing.capture_logs() as lines:
        importer.export(sealed="true")
    read = [line for line in lines if line["event"] == "sealed data read"]
    assert [len(line["event_ids"]) for line in read] == [2]


@pytest.mark.parametrize("salt", ["", "0" * 31, "A" * 32, 7])
def test_a_salt_that_is_none_is_refused(importer: Importer, salt: Any) -> None:
    lines = sealing_lines()
    lines[2]["sealed"][0]["salt"] = salt
    told = importer.send(lines)["not_recorded"]
    assert [(line["line"], line["pointer"]) for line in told] == [(3, "/sealed/0/salt")]


def test_a_line_of_an_earlier_version_is_recorded_as_of_the_newest(importer: Importer) -> None:
    lines = contracts_of(1)
    lines[0]["data"]["items"] = [{"item_id": "cells", "description": "Cells"}]
    noted = note(lines[0]["contract"], "as it was sent by the first release")
    noted |= {"schema_version": 1, "data": {"text": "x", "about": {"item_id": "cells"}}}
    assert importer.send([*lines, noted])["recorded"] == len(lines) + 1
    assert importer.export()[-1]["data"]["about"] == {"kind": "item", "id": "cells"}
    versions = [({"schema_version": version}, "/schema_version") for version in (3, 0, True, "2")]
    for line, pointer in (*versions, ({"data": {"text": "x", "about": {}}}, "/data")):
        told = importer.send([*lines, noted | line], str(uuid4()))["not_recorded"][-1]
        assert (told["code"], told["pointer"]) == ("refused", pointer)


def test_an_export_of_one_contract_has_its_events_and_no_others(importer: Importer) -> None:
    import_id = str(uuid4())
    importer.send(contracts_of(3), import_id)
    contract_id = importer.lines(import_id)[4]["contract_id"]
    assert [line["contract"] for line in importer.export(contract_id=contract_id)] == [contract_id] * 4
    assert importer.http.get("/export", params={"contract_id": str(uuid4())}).json()["code"] == "contract-not-found"
    assert importer.http.get("/export", params={"contract_id": "x"}).status_code == 422
    assert importer.http.head("/export").content == b""


def test_an_export_of_an_empty_ledger_is_empty_and_imports_as_nothing(importer: Importer) -> None:
    assert importer.export() == []
    outcome = importer.send([])
    assert (outcome["status"], outcome["lines"], outcome["last_line"]) == ("complete", 0, 0)


def test_a_client_that_leaves_an_export_early_hurts_nobody(importer: Importer) -> None:
    importer.send(contracts_of(1_000))
    with importer.service.client(importer.service.admin, ledger=importer.ledger) as http:
        http.event_hooks = {}
        with http.stream("GET", "/export") as answer:
            assert next(answer.iter_raw(100))
    assert len(importer.export()) == 4_000


def test_what_is_kept_of_lines_holds_nothing_of_what_they_said(importer: Importer, service: RunningService) -> None:
    import_id = str(uuid4())
    importer.send([signed("secret-key"), note("secret-key", "secret words"), note("other", "secret words")], import_id)
    kept = rows(service.database.superuser_url, f"SELECT il::text FROM import_lines il WHERE import_id = '{import_id}'")
    assert len(kept) == 3
    assert "secret" not in str(kept)


@pytest.mark.parametrize("rule", [AS_ROWS_ARE_WRITTEN, AT_COMMIT], ids=["as rows are written", "at commit"])
def test_a_line_that_the_database_refuses_hurts_no_other_of_its_chunk(importer: Importer, service: RunningService, rule: str) -> None:
    import_id, lines = str(uuid4()), contracts_of(60)
    poisoned = [{**line, "data": {"text": POISON}} if n in (1, 101, 238) else line for n, line in enumerate(lines)]
    with refusing(service.database, rule):
        outcome = importer.send(poisoned, import_id)
    assert (outcome["recorded"], outcome["refused"], outcome["held_back"]) == (232, 3, 5)
    assert [line["line"] for line in outcome["not_recorded"] if line["fate"] == "refused"] == [2, 102, 239]
    assert importer.send(lines, import_id)["status"] == "complete"


def test_an_import_has_so_many_lines_and_no_more(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MAX_LINES", 6)
    outcome = importer.send(contracts_of(2))
    assert (outcome["status"], outcome["recorded"], outcome["refused"]) == ("stopped", 6, 1)
    assert outcome["not_recorded"][0]["line"] == 7


def test_lines_that_come_slowly_are_recorded_as_they_come(importer: Importer) -> None:
    import_id, lines = str(uuid4()), contracts_of(2)

    def pieces() -> Iterator[bytes]:
        for number, line in enumerate(lines, 1):
            yield text_of([line])
            # Another connection: this one is being written to.
            with importer.service.client(importer.service.admin, ledger=importer.ledger) as http:
                wait_for(lambda n=number: http.get(f"/imports/{import_id}").json().get("last_line") == n, "the line is recorded")

    assert importer.post(pieces(), import_id).json()["recorded"] == 8


def test_a_long_contract_with_late_and_pending_events_gives_way_to_appends(importer: Importer, service: RunningService) -> None:
    """Each late line folds all events before it: the writer stops in between, and whoever waits has a turn."""
    contract = str(uuid4())
    days = [f"20{20 + (7 * n) % 30}-0{1 + n % 9}-15" for n in range(700)]
    lines = [signed(contract), *(note(contract, str(n), effective_on=day) for n, day in enumerate(days))]
    outcomes: list[Json] = []
    sending = threading.Thread(target=lambda: outcomes.append(importer.send(lines)))
    other = str(uuid4())
    importer.send([signed(other)])
    sending.start()
    waits = []
    with service.client(service.admin, ledger=importer.ledger) as http:
        while sending.is_alive():
            started = time.monotonic()
            body = {name: member for name, member in note(other, "meanwhile").items() if name not in ("contract", "event_type")}
            answer = http.post(f"/contracts/{other}/note-added", json=body, headers={"Idempotency-Key": str(uuid4())})
            assert answer.status_code == 201
            waits.append(time.monotonic() - started)
    sending.join()
    assert outcomes[0]["recorded"] == 701
    assert importer.contract(contract)["revision"] == 701
    assert len(waits) > 5
