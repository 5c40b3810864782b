"""What was recorded by an earlier version of an event's schema: shown as of the newest, stored as it was sent, folded and verified."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import httpx
import orjson
import psycopg
import pytest

from service.domain.events import EVENT_TYPES, decode_body
from service.domain.notes import NoteAdded
from service.log.append import transact
from service.log.heads import Heads
from service.log.ledger import Ledger
from service.log.requests import Append, NewEvent
from tests.api.bodies import FILING, event, figure, open_contract, record
from tests.api.running import RunningService
from tests.servers import rows, verified

FIRST = {"text": "the press repeats its estimate", "about": {"figure_id": "krw-1"}}
NEWEST = {"text": "the press repeats its estimate", "about": {"kind": "figure", "id": "krw-1"}}


class FirstNote(NoteAdded):
    """A note as the release that knew the first version alone wrote it."""

    schema_version: ClassVar[int] = 1


def written_by_an_earlier_release(service: RunningService, folder: Path, contract_id: str) -> None:
    fact, _ = decode_body("note.added", 1, orjson.dumps({"data": FIRST, "source": FILING}))
    fact = FirstNote(text=fact.text, about=fact.about)  # type: ignore[attr-defined]
    ledger = Ledger(*rows(service.database.service_url, "SELECT ledger_id::text, name, time_zone FROM ledgers WHERE name = 'main'")[0])
    append = Append(
        ledger=ledger,
        contract_id=contract_id,
        opening=False,
        events=[NewEvent(fact=fact, effective_on="2024-03-01", data=FIRST, source=FILING)],
        recorded_by=contract_id,
        key=secrets.token_bytes(16),
        canonical=b"{}",
    )

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(service.database.service_url) as connection:
            batch = await transact(connection, [append], Heads(folder))
            assert [type(outcome).__name__ for outcome in batch.outcomes] == ["Receipt"]

    asyncio.run(write())


@pytest.fixture(scope="module")
def contract_id(service: RunningService, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A contract with a figure, a note of the first version about it, and one of the newest."""
    opened = open_contract(api)
    record(api, opened, "figure.stated", event({"figure": figure("krw-1")}))
    written_by_an_earlier_release(service, tmp_path_factory.mktemp("heads"), opened)
    record(api, opened, "note.added", event({"text": "x", "about": {"kind": "figure", "id": "krw-1"}}))
    return opened


def by_id(api: httpx.Client, contract_id: str, raw: bool) -> Any:
    event_id = api.get(f"/contracts/{contract_id}/events").json()["items"][2]["event_id"]
    return api.get(f"/events/{event_id}", params={"raw": "true"} if raw else {}).json()


def listed(api: httpx.Client, contract_id: str, raw: bool) -> Any:
    return api.get(f"/contracts/{contract_id}/events", params={"raw": "true"} if raw else {}).json()["items"][2]


def fed(api: httpx.Client, contract_id: str, raw: bool) -> Any:
    params: dict[str, str] = {"raw": "true"} if raw else {}
    return next(item for item in api.get("/events?limit=500", params=params | {"limit": "500"}).json()["items"] if item["revision"] == 3)


WAYS = pytest.mark.parametrize("read", [by_id, listed, fed])


@WAYS
def test_what_was_sent_by_an_earlier_version_is_shown_as_of_the_newest(
    api: httpx.Client, contract_id: str, read: Callable[[httpx.Client, str, bool], Any]
) -> None:
    shown = read(api, contract_id, False)
    assert (shown["schema_version"], shown["data"]) == (2, NEWEST)
    assert "raw" not in shown


@WAYS
def test_raw_shows_the_stored_bytes_and_the_version_they_were_recorded_with(
    service: RunningService, api: httpx.Client, contract_id: str, read: Callable[[httpx.Client, str, bool], Any]
) -> None:
    shown = read(api, contract_id, True)
    assert (shown["schema_version"], shown["data"]) == (1, FIRST)
    query = "SELECT e.header, p.body FROM events e JOIN payloads p USING (ledger_id, position) WHERE e.contract_id = %s AND e.revision = 3"
    ((header, body),) = rows(service.database.service_url, query, contract_id)
    assert (shown["raw"]["header"].encode(), shown["raw"]["body"].encode()) == (header, body)
    assert hashlib.sha256(b"\0" + shown["raw"]["header"].encode()).hexdigest() == shown["event_hash"]
    assert hashlib.sha256(shown["raw"]["body"].encode()).hexdigest() == shown["body_digest"]
    assert orjson.loads(shown["raw"]["header"])["schema_version"] == 1
    without = {name: member for name, member in shown.items() if name != "raw"}
    assert without == read(api, contract_id, False) | {"schema_version": 1, "data": FIRST}


def test_raw_shows_what_is_stored_of_an_event_of_the_newest_version_too(api: httpx.Client, contract_id: str) -> None:
    for shown in api.get(f"/contracts/{contract_id}/events?raw=true").json()["items"]:
        body = orjson.loads(shown["raw"]["body"])
        assert (body["data"], body["source"]) == (shown["data"], shown["source"])
        assert len(body["salt"]) == 32


def test_an_event_and_its_raw_form_have_etags_of_their_own(api: httpx.Client, contract_id: str) -> None:
    event_id = by_id(api, contract_id, False)["event_id"]
    plain, raw = api.get(f"/events/{event_id}").headers["ETag"], api.get(f"/events/{event_id}?raw=true").headers["ETag"]
    assert plain != raw
    assert api.get(f"/events/{event_id}?raw=true", headers={"If-None-Match": raw}).status_code == 304
    assert api.get(f"/events/{event_id}?raw=true", headers={"If-None-Match": plain}).status_code == 200


@pytest.mark.parametrize("value", ["1", "True", "", "yes"])
def test_raw_is_true_or_false(api: httpx.Client, contract_id: str, value: str) -> None:
    for path in ("/events", f"/contracts/{contract_id}/events", f"/events/{by_id(api, contract_id, False)['event_id']}"):
        answer = api.get(path, params={"raw": value})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "query:raw"


def test_what_was_recorded_by_an_earlier_version_is_folded_and_verified(
    service: RunningService, api: httpx.Client, contract_id: str
) -> None:
    state = api.get(f"/contracts/{contract_id}").json()["state"]
    assert state["notes"] == {"count": 2, "rests_on": [4]}
    assert verified(service.database.service_url, "main").events == 4
    assert "unplaced" not in api.get(f"/contracts/{contract_id}", params={"effective_on": "2030-01-01"}).json()["state"]


def test_new_events_are_recorded_by_the_newest_version_alone(api: httpx.Client, contract_id: str) -> None:
    answer = api.post(f"/contracts/{contract_id}/note-added", json=event(FIRST), headers={"Idempotency-Key": "first"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/data/about")
    newer = api.get(f"/contracts/{contract_id}/events?raw=true").json()["items"][3]
    assert newer["schema_version"] == EVENT_TYPES["note.added"].schema_version == 2


@pytest.mark.parametrize("about", [FIRST, NEWEST], ids=["as-recorded", "as-shown"])
def test_what_an_earlier_version_recorded_is_corrected_by_either_version_and_survives_export_and_import(
    service: RunningService, api: httpx.Client, tmp_path: Path, about: dict[str, Any]
) -> None:
    contract_id = open_contract(api)
    record(api, contract_id, "figure.stated", event({"figure": figure("krw-1")}))
    written_by_an_earlier_release(service, tmp_path, contract_id)
    target = by_id(api, contract_id, True)["event_id"]
    corrected = event({"target": target, "data": about | {"text": "as it should have been"}}, None)
    assert record(api, contract_id, "event.corrected", corrected).status_code == 201
    lines = api.get("/export", params={"contract_id": contract_id}).content
    name = f"copy-{len(about['about'])}"
    service.make_ledger(name)
    with service.client(service.admin, ledger=name) as copy:
        headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/x-ndjson"}
        told = copy.post("/imports", content=lines, headers=headers).json()
        assert (told["status"], told["recorded"]) == ("complete", 4), told
        hashes = [client.get(f"/contracts/{contract_id}").json()["state_hash"] for client in (api, copy)]
        sentences = [client.get(f"/contracts/{contract_id}/history").json()["items"][3]["sentence"] for client in (api, copy)]
    assert (hashes[0], sentences[0]) == (hashes[1], sentences[1])
    wrong = corrected | {"data": {"target": target, "data": {"text": "x", "about": {"kind": "moon", "id": "1"}}}}
    assert record(api, contract_id, "event.corrected", wrong).status_code == 422
