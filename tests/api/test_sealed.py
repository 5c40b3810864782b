"""Over HTTP what is sealed is seen by nobody without the right, at no address and in no word, until it is revealed."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import httpx
import orjson
import psycopg
import pytest
import structlog

from service.audit.rebuild import rebuild
from service.audit.replay import verify
from tests.api.bodies import SIGNED, event, figure, open_contract, record, with_key
from tests.api.documented import Operation, operations
from tests.api.running import RunningService, make_key
from tests.api.streams import until_head
from tests.servers import wait_for

Json = dict[str, Any]
AMOUNT: Final = "918273645546372819"
WORDS: Final = "Zwiebelfisch im Quellcode"
SECOND: Final = "777123999888555"
TERMS: Final = "Geheimzahlungsziel"
NEEDLES: Final = (AMOUNT, WORDS, "Zwiebelfisch", "zwiebelfisch", SECOND, TERMS, TERMS.casefold())
OPEN_FIGURE: Final = {name: member for name, member in figure("f-sealed", "1").items() if name != "amount"}
READER: Final = ("contracts:read", "contracts:write", "audit:read", "ledger:admin")
"""Every right but the one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A contract with sealed members, and clients with every right and without `sealed:read`."""

    contract_id: str
    event_ids: tuple[str, ...]
    import_id: str
    replay_id: str
    webhook_id: str
    size: str
    """Of a checkpoint that was signed."""
    reader: httpx.Client
    lines: list[Json]


def sealed_figure(amount: str = AMOUNT, **more: Any) -> Json:
    sealed = [{"path": "/figure/amount", "value": amount, "until": "2024-06"}, {"path": "/figure/note", "value": WORDS}]
    return event({"figure": OPEN_FIGURE | more}, sealed=sealed)


@pytest.fixture(scope="module")
def kept(service: RunningService, api: httpx.Client) -> Iterator[Kept]:
    opening = {**SIGNED, "sealed": [{"path": "/terms", "value": {"payment": TERMS}}]}
    lines: list[Json] = []
    processors = structlog.get_config()["processors"]

    def keep(_logger: Any, _name: str, line: Any) -> Any:
        lines.append(dict(line))
        return line

    structlog.configure(processors=[keep, *processors])
    with service.client(make_key(service.database, READER), ledger="main") as reader:
        contract_id = open_contract(reader, opening)
        first = record(reader, contract_id, "figure.stated", sealed_figure())
        revised = {"replaces": "f-sealed", "value": OPEN_FIGURE | {"figure_id": "f-next"}, "reason": "renegotiation"}
        second = record(reader, contract_id, "value.revised", event(revised, sealed=[{"path": "/value/amount", "value": SECOND}]))
        noted = record(reader, contract_id, "note.added", event({}, sealed=[{"path": "/text", "value": WORDS}]))
        answers = [first, second, noted]
        assert [answer.status_code for answer in answers] == [201, 201, 201], [answer.text for answer in answers]
        event_ids = tuple(answer.json()["events"][0]["event_id"] for answer in answers)
        import_id = imported(reader, contract_id)
        signed = reader.get("/log/checkpoint").text.split("\n")[1]
        yield Kept(contract_id, event_ids, import_id, told_book(reader), webhook_of(reader), signed, reader, lines)
    structlog.configure(processors=processors)


def told_book(client: httpx.Client) -> str:
    """The id of a replay that has told a book."""
    replay_id: str = client.post("/replays", json={"kind": "book"}, headers=with_key()).json()["replay_id"]
    wait_for(lambda: client.get(f"/replays/{replay_id}").json()["status"] == "done", "the book is told")
    return replay_id


def webhook_of(client: httpx.Client) -> str:
    """The id of a webhook that nothing can be sent to from here."""
    webhook_id: str = client.post("/webhooks", json={"url": "https://localhost:1/"}, headers=with_key()).json()["webhook_id"]
    return webhook_id


def imported(client: httpx.Client, contract_id: str) -> str:
    """The id of an import of a line that is recorded, and of one that is refused, with sealed members both."""
    import_id = str(uuid4())
    figures = ({"figure_id": "f-imported"}, {"figure_id": "f-imported"})
    lines = [sealed_figure(**figure) | {"contract": contract_id, "event_type": "figure.stated"} for figure in figures]
    content = b"\n".join(map(orjson.dumps, lines))
    answer = client.post("/imports", content=content, headers={"Idempotency-Key": import_id, "Content-Type": "application/x-ndjson"})
    assert (answer.json()["recorded"], answer.json()["refused"]) == (1, 1), answer.text
    return import_id


def assert_no_needle(answer: httpx.Response) -> None:
    told = answer.text + str(answer.headers)
    with warnings.catch_warnings():
        # The bytes of a tile may look like an escape that is none.
        warnings.simplefilter("ignore", DeprecationWarning)
        unescaped = told.encode().decode("unicode_escape", "ignore")
    found = [needle for needle in NEEDLES if needle in told or needle in unescaped]
    assert found == [], f"{answer.request.method} {answer.request.url} tells {found}"


QUERIES: Final[dict[str, tuple[str, ...]]] = {
    "text": ("Zwiebelfisch", TERMS),
    "currency": ("KRW",),
    "sort": ("-signed_on", "ends_on"),
    "min_amount": (AMOUNT,),
    "effective_on": ("2030-01-01",),
    "known_position": ("4",),
    "revision": ("3",),
    "published_by": ("2030-01-01",),
    "from_revision": ("1",),
    "to_effective_on": ("2030-01-01",),
    "count": ("exact",),
    "event_type": ("figure.stated",),
    "sealed": ("true",),
}
"""What each operation that knows the parameter is asked with, beside being asked without any."""


def filled(operation: Operation, kept: Kept) -> list[str]:
    """The addresses of an operation for what was sealed. A new parameter of a path is named here, or its operation would not be walked."""
    parts = {"ledger": "main", "contract_id": kept.contract_id}
    parts |= {
        "import_id": kept.import_id,
        "replay_id": kept.replay_id,
        "webhook_id": kept.webhook_id,
        "party_id": "lges",
        "level": "0",
        "tile": "000.p/1",
    }
    if "{event_id}" in operation.path:
        return [operation.at(**parts, event_id=event_id) for event_id in kept.event_ids]
    return [operation.at(**parts)]


READS: Final = [operation for operation in operations() if operation.method == "GET"]


def whole(client: httpx.Client, path: str, query: Json) -> httpx.Response:
    """An answer; of a stream that does not end what it tells up to the head of the log."""
    if not path.endswith("/stream"):
        return client.get(path, params=query)
    with client.stream("GET", path, params=query) as answer:
        told = "".join(frame.data for frame in until_head(answer))
    assert len(told) > 1_000
    return httpx.Response(answer.status_code, headers=dict(answer.headers), text=told, request=answer.request)


@pytest.mark.parametrize("operation", READS, ids=lambda operation: operation.operation_id)
def test_no_read_tells_what_is_sealed_to_a_reader_without_the_right(service: RunningService, kept: Kept, operation: Operation) -> None:
    known = {parameter["name"] for parameter in operation.documented.get("parameters", []) if parameter["in"] == "query"}
    needed = {"from": kept.size, "to": kept.size} if operation.operation_id == "get_consistency" else {}
    queries: list[Json] = [needed, *(needed | {name: value} for name in sorted(known & QUERIES.keys()) for value in QUERIES[name])]
    with httpx.Client(base_url=service.url, headers=dict(kept.reader.headers), trust_env=False, timeout=30) as client:
        for path in filled(operation, kept):
            for query in queries:
                answer = whole(client, path, query)
                assert_no_needle(answer)
                wanted = 403 if "sealed" in query else 200
                assert answer.status_code in (wanted, 404 if "{" in operation.path.replace("{ledger}", "") else wanted), answer.text
                if "text" in query:
                    assert answer.json()["items"] == [], "sealed words are found"


def test_the_walk_meets_what_was_sealed(api: httpx.Client, kept: Kept) -> None:
    """With the right and the wish every needle is found: else the walk could not fail."""
    told = api.get(f"/contracts/{kept.contract_id}/events", params={"sealed": "true"}).text
    assert all(needle in told for needle in (AMOUNT, WORDS, SECOND, TERMS))
    for path in (f"/events/{kept.event_ids[0]}", "/events", f"/contracts/{kept.contract_id}/events"):
        assert AMOUNT not in api.get(path).text
        assert AMOUNT in api.get(path, params={"sealed": "true"}).text


def test_no_answer_to_an_append_tells_what_is_sealed(kept: Kept) -> None:
    path = f"/contracts/{kept.contract_id}/figure-stated"
    bad = [
        sealed_figure(figure_id="f-sealed"),
        sealed_figure(f"{AMOUNT}.5", figure_id="f-bad"),
        sealed_figure(f"x{AMOUNT}", figure_id="f-bad"),
        event({"figure": {**OPEN_FIGURE, "amount": "1"}}, sealed=[{"path": "/figure/amount", "value": AMOUNT}]),
        event({"figure": OPEN_FIGURE}, sealed=[{"path": "/figure/amount", "value": AMOUNT}, {"path": "/figure/fx", "value": {"x": WORDS}}]),
        event({"figure": OPEN_FIGURE}, sealed=[{"path": "/figure/amount", "value": {WORDS: [AMOUNT]}}]),
    ]
    for body in bad:
        answer = kept.reader.post(path, json=body, headers=with_key())
        assert answer.status_code in (409, 422), answer.text
        assert_no_needle(answer)
    good = sealed_figure(figure_id="f-other")
    headers = with_key()
    for query in ({"validate_only": "true"}, {"strict": "true"}):
        answer = kept.reader.post(path, json=good, headers=headers, params=query)
        assert answer.status_code in (200, 422), answer.text
        assert_no_needle(answer)
    once, again = (kept.reader.post(path, json=good, headers=headers) for _ in range(2))
    assert (once.status_code, again.status_code, once.content) == (201, 201, again.content)
    other = kept.reader.post(path, json=sealed_figure("2", figure_id="f-other"), headers=headers)
    assert other.json()["code"] == "idempotency-key-reused"
    for answer in (once, again, other):
        assert_no_needle(answer)


@pytest.mark.parametrize("text", ["nul \x00", "half \ud83d"], ids=["NUL", "surrogate"])
def test_a_sealed_text_is_read_as_strictly_as_an_open_one(kept: Kept, text: str) -> None:
    body = json.dumps(event({"figure": OPEN_FIGURE}, sealed=[{"path": "/figure/note", "value": text}])).encode()
    path = f"/contracts/{kept.contract_id}/figure-stated"
    answer = kept.reader.post(path, content=body, headers=with_key() | {"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_the_database_holds_what_is_sealed_in_one_column_alone(service: RunningService, kept: Kept) -> None:
    places = set()
    with psycopg.connect(service.database.superuser_url) as connection:
        columns = connection.execute(
            "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
        for table, column, kind in columns:
            text = f"encode({column}, 'escape')" if kind == "bytea" else f"{column}::text"
            for needle in NEEDLES:
                # Of bytes, what is ASCII stays as it is.
                found = connection.execute(f"SELECT 1 FROM {table} WHERE position(%s in {text}) > 0 LIMIT 1", [needle]).fetchone()  # type: ignore[arg-type]
                places |= {(table, column)} if found else set()
    assert places == {("payloads", "sealed")}


def test_the_log_names_who_reads_what_is_sealed_and_never_what_it_is(api: httpx.Client, kept: Kept) -> None:
    before = len(kept.lines)
    api.get(f"/contracts/{kept.contract_id}")
    api.get(f"/events/{kept.event_ids[0]}")
    assert [line for line in kept.lines[before:] if line["event"] == "sealed data read"] == []
    api.get(f"/events/{kept.event_ids[0]}", params={"sealed": "true"})
    (line,) = [line for line in kept.lines[before:] if line["event"] == "sealed data read"]
    assert line["event_ids"] == [kept.event_ids[0]]
    assert len(line["principal_id"]) == 36
    assert not [needle for needle in NEEDLES if needle in repr(kept.lines)]


def sealed_parts(api: httpx.Client, event_id: str) -> list[Json]:
    shown = api.get(f"/events/{event_id}", params={"sealed": "true"}).json()["sealed"]
    return [{name: member for name, member in part.items() if name in ("path", "value", "salt")} for part in shown]


def test_a_digest_can_be_told_from_value_and_salt(api: httpx.Client, kept: Kept) -> None:
    import hashlib

    shown = api.get(f"/events/{kept.event_ids[0]}", params={"sealed": "true"}).json()
    for part in shown["sealed"]:
        canonical = json.dumps([part["salt"], part["path"], part["value"]], separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(canonical.encode()).hexdigest() == part["digest"]
    canonical = json.dumps({part["path"]: part["digest"] for part in shown["sealed"]}, separators=(",", ":"), sort_keys=True)
    assert hashlib.sha256(canonical.encode()).hexdigest() == shown["sealed_digest"]
    public = api.get(f"/events/{kept.event_ids[0]}")
    assert public.headers["etag"] != api.get(f"/events/{kept.event_ids[0]}", params={"sealed": "true"}).headers["etag"]
    assert [part.keys() for part in public.json()["sealed"]] == [{"path", "digest", "until"}, {"path", "digest"}]


def test_a_reveal_takes_the_right_to_read_what_is_sealed_and_then_everyone_may(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)
    stated = record(api, contract_id, "figure.stated", sealed_figure("424242424242"))
    event_id = stated.json()["events"][0]["event_id"]
    parts = sealed_parts(api, event_id)
    reveal = event({"event_id": event_id, "parts": parts}, None)
    with service.client(make_key(service.database, READER), ledger="main") as writer:
        refused = record(writer, contract_id, "sealed.revealed", reveal)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        several = {"events": [{"event_type": "sealed.revealed", **reveal}]}
        assert writer.post(f"/contracts/{contract_id}/events", json=several, headers=with_key()).status_code == 403
        wrong = event({"event_id": event_id, "parts": [{**parts[0], "salt": "0" * 32}]}, None)
        answer = record(api, contract_id, "sealed.revealed", wrong)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/data/parts/0/salt")
        assert writer.get(f"/contracts/{contract_id}").json()["state"]["value"]["status"] == "withheld"
        assert record(api, contract_id, "sealed.revealed", reveal).status_code == 201
        state = writer.get(f"/contracts/{contract_id}").json()["state"]
        assert state["value"]["best"]["amount"] == "424242424242"
        assert [part["path"] for part in state["revealed"]] == ["/figure/amount", "/figure/note"]
        # What was known before is told as it was.
        then = writer.get(f"/contracts/{contract_id}", params={"revision": 2}).json()["state"]
        assert "424242424242" not in json.dumps(then)


def test_a_reveal_of_a_voided_event_is_refused_and_costs_no_other_request_its_writer(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)
    event_id = record(api, contract_id, "figure.stated", sealed_figure("515151515151")).json()["events"][0]["event_id"]
    reveal = event({"event_id": event_id, "parts": sealed_parts(api, event_id)}, None)
    assert record(api, contract_id, "event.voided", event({"target": event_id, "reason": "recorded twice"}, None)).status_code == 201
    refused = record(api, contract_id, "sealed.revealed", reveal)
    assert (refused.status_code, refused.json()["rule"]) == (409, "known-sealed")
    assert refused.json()["errors"][0]["pointer"] == "/data/parts/0/path"
    assert "515151515151" not in refused.text
    assert record(api, contract_id, "note.added", event({"text": "the writer lives"})).status_code == 201
    with service.client(None) as anybody:
        assert anybody.get("/readyz").status_code == 200


def test_what_is_sealed_and_revealed_is_verified_and_rebuilt(service: RunningService, kept: Kept) -> None:
    def silent(_done: int, _total: int, _unit: str) -> None: ...

    url = service.database.service_url
    assert verify(url, "main", silent, processes=1).difference is None
    assert rebuild(url, "main", silent).changed == 0
    assert verify(url, "main", silent, processes=1).difference is None


CHANGES: Final = {
    "a value": "replace(convert_from(sealed, 'UTF8'), '918273645546372819', '918273645546372810')::bytea",
    "a salt": "regexp_replace(convert_from(sealed, 'UTF8'), '\"salt\":\"....', '\"salt\":\"ffff')::bytea",
    "a part": "'[]'::bytea",
    "all of it": "NULL",
    "no JSON": "'x'::bytea",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_sealed_is_found(service: RunningService, kept: Kept, change: str) -> None:
    position = kept.reader.get(f"/events/{kept.event_ids[0]}").json()["position"]
    with psycopg.connect(service.database.superuser_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE payloads DISABLE TRIGGER USER")
        was = connection.execute("SELECT sealed FROM payloads WHERE position = %s AND sealed IS NOT NULL", [position]).fetchone()
        assert was
        try:
            connection.execute(f"UPDATE payloads SET sealed = {CHANGES[change]} WHERE position = %s", [position])  # type: ignore[arg-type]
            difference = verify(service.database.service_url, "main", lambda _done, _total, _unit: None, processes=1).difference
            assert difference is not None
            assert difference.where == f"position {position}"
            assert not [needle for needle in NEEDLES if needle in difference.sentence]
        finally:
            connection.execute("UPDATE payloads SET sealed = %s WHERE position = %s", [was[0], position])
            connection.execute("ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change")
            connection.execute("ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_truncate")
