"""What a framework would answer by itself is a Problem too: bodies too large, other media, other methods, odd addresses, faults."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI, Request, Response
from structlog.testing import capture_logs

import service.database as connections
from service.api.dispatch import Dispatch
from service.api.status import READY_SECONDS
from tests.api.bodies import SIGNED, head_of, note, open_contract, record, revision_of, with_key
from tests.api.documented import check_answer, check_problem, operation_of, operations
from tests.api.running import MAX_BODY_BYTES, RunningService, exchange, running
from tests.conftest import NewDatabase
from tests.servers import rows

JSON = {"Content-Type": "application/json"}
RECOVERS_WITHIN_SECONDS = 15


def padded(size: int) -> bytes:
    """A request of exactly so many bytes."""
    body = json.dumps(SIGNED).encode()
    return body + b" " * (size - len(body))


def chunks(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), 65_536):
        yield body[at : at + 65_536]


@pytest.mark.parametrize(
    "body", [padded(10_000_000), padded(MAX_BODY_BYTES + 1), b"x" * 10_000_000], ids=["10 MB", "a byte more", "no JSON"]
)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_that_is_too_large_is_refused(api: httpx.Client, body: bytes, is_chunked: bool) -> None:
    head = head_of(api)
    answer = api.post("/contracts", content=chunks(body) if is_chunked else body, headers=with_key() | JSON)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body-too-large"
    assert head_of(api) == head


@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_of_the_largest_size_is_read(api: httpx.Client, is_chunked: bool) -> None:
    body = padded(MAX_BODY_BYTES)
    answer = api.post("/contracts", content=chunks(body) if is_chunked else body, headers=with_key() | JSON)
    assert answer.status_code == 201


def test_a_large_body_where_none_is_read_changes_nothing(service: RunningService) -> None:
    body = padded(2 * MAX_BODY_BYTES)
    with service.client(None) as client:
        assert client.post("/v1/ledgers/main/contracts", content=body, headers=JSON).status_code == 401
        assert client.post("/nowhere", content=body, headers=JSON).status_code == 404
        assert client.request("GET", "/livez", content=body).status_code == 200


def test_a_declared_body_that_never_comes_is_refused_at_once(service: RunningService) -> None:
    head = f"POST /v1/ledgers/main/contracts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin}\r\nIdempotency-Key: a\r\n"
    sent = head + "Content-Type: application/json\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    status, headers, body = exchange(service, sent.encode())
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(body)["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/problem+json",
        "application/jsonx",
        "",
        "json",
    ],
)
def test_a_body_of_another_media_type_is_refused(api: httpx.Client, media_type: str) -> None:
    contract_id = open_contract(api)
    for path in ("/contracts", f"/contracts/{contract_id}/note-added", f"/contracts/{contract_id}/events"):
        answer = api.post(path, content=json.dumps(SIGNED), headers=with_key() | {"Content-Type": media_type})
        assert answer.status_code == 415
        assert "application/json" in answer.json()["detail"]


def test_a_body_without_a_media_type_is_refused(api: httpx.Client) -> None:
    assert api.post("/contracts", content=json.dumps(SIGNED), headers=with_key()).status_code == 415


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;v=1"])
def test_json_is_spelt_in_any_case_with_any_parameter(api: httpx.Client, media_type: str) -> None:
    answer = api.post("/contracts", content=json.dumps(SIGNED), headers=with_key() | {"Content-Type": media_type})
    assert answer.status_code == 201


def test_a_compressed_body_is_refused_as_another_media_type(api: httpx.Client) -> None:
    content = gzip.compress(json.dumps(SIGNED).encode())
    answer = api.post("/contracts", content=content, headers=with_key() | JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["Idempotency-Key", "If-Match", "Authorization", "Content-Type"])
def test_a_header_that_is_given_twice_is_refused_by_its_name(api: httpx.Client, name: str) -> None:
    contract_id = open_contract(api)
    given = {"If-Match": '"1"', "Authorization": api.headers["authorization"]} | JSON | with_key()
    answer = api.post(f"/contracts/{contract_id}/note-added", content=json.dumps(note()), headers=[*given.items(), (name, given[name])])
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"pointer": f"header:{name}", "detail": "given twice"}]


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
PATHS = sorted({operation.path for operation in operations()})


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_an_address_does_not_answer_is_refused_with_those_that_it_does(service: RunningService, path: str) -> None:
    ids = dict.fromkeys(("event_id", "import_id", "party_id", "replay_id", "webhook_id"), "x")
    address = path.format(ledger="main", contract_id="01890000-0000-7000-8000-0000000000ff", level="0", tile="000", **ids)
    known = {method for method in METHODS if operation_of(method, address)}
    with service.client(service.admin) as client:
        for method in METHODS:
            if method in known:
                continue
            answer = client.request(method, address)
            assert answer.status_code == 405, method
            assert set(answer.headers["allow"].split(", ")) == known


def test_head_answers_what_get_answers_without_the_body(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)
    event_id = api.get(f"/contracts/{contract_id}/events").json()["items"][0]["event_id"]
    address = "/v1/ledgers/main"
    paths = [
        *(
            "/livez",
            "/readyz",
            "/docs",
            "/reference",
            "/openapi.json",
            "/v1/ledgers",
            "/v1/ledgers/nowhere/contracts",
            f"{address}/contracts",
        ),
        *(f"{address}/contracts/{contract_id}", f"{address}/contracts/{contract_id}/events", f"{address}/events/{event_id}"),
    ]
    told = ("content-type", "content-length", "etag", "link", "cache-control", "vary")
    with service.client(service.admin) as client:
        for path in paths:
            # With an id of the caller's own a problem is as long in both answers.
            head, get = (client.request(method, path, headers={"X-Request-Id": "twice"}) for method in ("HEAD", "GET"))
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert [head.headers.get(name) for name in told] == [get.headers.get(name) for name in told], path
        etag = client.get(paths[-3]).headers["etag"]
        assert client.head(paths[-3], headers={"If-None-Match": etag}).status_code == 304
    with service.client(None) as client:
        assert client.head("/v1/ledgers").status_code == 401


@pytest.mark.parametrize("path", ["bundle", "export", "events/stream"])
def test_head_of_a_stream_claims_no_length_that_get_has_not(service: RunningService, path: str) -> None:
    with service.client(service.admin, ledger="main") as client:
        open_contract(client)
        head = client.head(f"/{path}")
        with client.stream("GET", f"/{path}") as get:
            assert (head.status_code, get.status_code, head.content) == (200, 200, b"")
            for name in ("content-type", "content-length", "cache-control", "vary"):
                assert head.headers.get(name) == get.headers.get(name), name
        assert "content-length" not in head.headers
        assert client.get("/contracts").status_code == 200, "the connection goes on"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/ledgers/",
        "/v1/ledgers/main/",
        "/v2/ledgers",
        "/livez/",
        "/docs/",
        "/docs/nothing",
        "/openapi.yaml",
        "/metrics",
        "/v1/ledgers/main/contracts/",
        "/v1/ledgers/main/contracts//events",
        "//v1/ledgers",
        "/%00",
        "/%2F",
        "/%FF",
        "/%3Fa%23b",
        "/%C3%A9",
        "/a%0D%0Ab",
    ],
)
def test_an_address_where_nothing_is_answers_a_problem(service: RunningService, path: str) -> None:
    with service.client(service.admin) as client:
        answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["instance"].startswith("/")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", 404),
        (b"GET /nowhere HTTP/1.1\r\nHost: a b\xff\r\nConnection: close\r\n\r\n", 404),
        (b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /nowhere HTTP/1.0\r\n\r\n", 404),
        (b"GET http://elsewhere/nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /v1/ledgers HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/ledgers HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * 60_000 + b"\r\nConnection: close\r\n\r\n", 401),
        (b"GET /v1/ledgers HTTP/1.1\r\nHost: x\r\n" + b"X-Many: x\r\n" * 2_000 + b"Connection: close\r\n\r\n", 401),
    ],
)
def test_an_odd_request_is_answered_with_a_problem(service: RunningService, sent: bytes, status: int) -> None:
    answered, headers, body = exchange(service, sent)
    assert (answered, headers["content-type"]) == (status, "application/problem+json")
    assert json.loads(body)["request_id"] == headers["x-request-id"]


def test_a_client_that_goes_away_within_a_body_harms_nobody(service: RunningService, api: httpx.Client) -> None:
    head = f"POST /v1/ledgers/main/contracts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin}\r\nIdempotency-Key: a\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall((head + 'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"effective_on"').encode())
    open_contract(api)


# Request ids and headers of every answer


@pytest.mark.parametrize("given", ["a", "req-1/2_3:4", "x" * 128, "~!@#$%^&*()"])
def test_a_request_id_is_echoed_in_header_and_problem(api: httpx.Client, given: str) -> None:
    answer = api.get("/contracts/x", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == given
    assert api.get("/contracts", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "é", "a\tb", "x" * 60_000])
def test_an_odd_request_id_is_replaced(api: httpx.Client, given: str) -> None:
    answer = api.get("/contracts/x", headers={"X-Request-Id": given.encode("latin-1")})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] != given


def test_requests_without_an_id_get_different_ones(api: httpx.Client) -> None:
    assert api.get("/contracts").headers["x-request-id"] != api.get("/contracts").headers["x-request-id"]


def test_every_answer_is_private_and_asked_for_again(service: RunningService, api: httpx.Client) -> None:
    contract_id = open_contract(api)
    event_id = api.get(f"/contracts/{contract_id}/events").json()["items"][0]["event_id"]
    answers = [
        api.get(path)
        for path in (
            "/contracts",
            f"/contracts/{contract_id}",
            f"/contracts/{contract_id}/events",
            "/events",
            f"/events/{event_id}",
            "/contracts/x",
        )
    ]
    answers.append(record(api, contract_id, "note.added", note()))
    with service.client(service.admin) as client:
        answers += [client.get("/v1/ledgers"), client.put("/v1/ledgers/main", json={})]
    assert {answer.headers["cache-control"] for answer in answers} == {"private, no-cache"}
    assert {answer.headers["vary"] for answer in answers} == {"Authorization, Accept"}


# Faults


@pytest.fixture
def broken(new_database: NewDatabase, tmp_path: Path) -> Iterator[RunningService]:
    """A service with a database of its own, to be broken."""
    with new_database() as database, running(database, tmp_path) as served:
        served.make_ledger("main")
        yield served


def test_an_unexpected_failure_is_a_problem_with_its_request_id(broken: RunningService) -> None:
    with psycopg.connect(broken.database.owner_url) as connection:
        connection.execute("ALTER TABLE contracts RENAME TO contracts_away")
    answer = httpx.get(
        f"{broken.url}/v1/ledgers/main/contracts",
        headers={"Authorization": f"Bearer {broken.admin}", "X-Request-Id": "find-me"},
        trust_env=False,
    )
    assert answer.status_code == 500
    check_problem(answer)
    assert answer.json()["request_id"] == "find-me"
    assert "contracts" not in answer.json()["detail"]


TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("traceparent", "named"),
    [
        (f"00-{TRACE_ID}-{PARENT_ID}-01", {"trace_id": TRACE_ID, "parent_id": PARENT_ID}),
        # Of a later version is read what is known (W3C Trace Context, section 3.2.4).
        (f"cc-{TRACE_ID}-{PARENT_ID}-01-later", {"trace_id": TRACE_ID, "parent_id": PARENT_ID}),
        (None, {}),
        ("", {}),
        (f"00-{TRACE_ID}-{PARENT_ID}-01-later", {}),
        (f"ff-{TRACE_ID}-{PARENT_ID}-01", {}),
        (f"00-{TRACE_ID.upper()}-{PARENT_ID}-01", {}),
        (f"00-{'0' * 32}-{PARENT_ID}-01", {}),
        (f"00-{TRACE_ID}-{'0' * 16}-01", {}),
        (f"00-{TRACE_ID}-{PARENT_ID}-01" + "-x" * 10_000, {}),
    ],
)
def test_what_is_logged_of_a_request_names_it_and_its_trace(
    unreadable: RunningService, traceparent: str | None, named: dict[str, str]
) -> None:
    headers = {"X-Request-Id": "find-me"} | ({"traceparent": traceparent} if traceparent is not None else {})
    with capture_logs() as logged, httpx.Client(trust_env=False) as client:
        answer = client.get(
            f"{unreadable.url}/v1/ledgers/main/contracts", headers=headers | {"Authorization": f"Bearer {unreadable.admin}"}
        )
    assert answer.status_code == 500
    assert "traceparent" not in answer.headers
    (line,) = (line for line in logged if line["event"] == "unexpected failure")
    assert line["request_id"] == "find-me"
    assert {name: line[name] for name in ("trace_id", "parent_id") if name in line} == named


@pytest.fixture(scope="module")
def unreadable(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose lists fail by a fault of its own."""
    with new_database() as database, running(database, tmp_path_factory.mktemp("unreadable")) as served:
        served.make_ledger("main")
        with psycopg.connect(database.owner_url) as connection:
            connection.execute("ALTER TABLE contracts RENAME TO contracts_away")
        yield served


def test_reads_and_appends_outlive_the_loss_of_every_connection(broken: RunningService) -> None:
    with broken.client(broken.admin, ledger="main") as client:
        contract_id = open_contract(client)
        answers: list[httpx.Response] = []
        for attempt in range(5):
            cut_connections(broken)
            answers += [client.get(f"/contracts/{contract_id}"), client.get("/events"), client.get("/contracts")]
            answers.append(client.post(f"/contracts/{contract_id}/note-added", json=note(), headers=with_key(f"cut {attempt}")))
        assert {answer.status_code for answer in answers} <= {200, 201, 503}
        for attempt in range(5):
            assert until_recorded(client, f"/contracts/{contract_id}/note-added", f"cut {attempt}").status_code == 201
        assert revision_of(client, contract_id) == 6


def cut_connections(service: RunningService, url: str | None = None) -> None:
    rows(
        url or service.database.superuser_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = 'ledger_service'",
        service.database.name,
    )


def until_recorded(client: httpx.Client, path: str, key: str) -> httpx.Response:
    """The answer to an append that is sent again, with its key, while the service says to try later."""
    deadline = time.monotonic() + RECOVERS_WITHIN_SECONDS
    while True:
        answer = client.post(path, json=note(), headers=with_key(key))
        if answer.status_code != 503 or time.monotonic() > deadline:
            return answer
        assert int(answer.headers["retry-after"]) >= 1
        time.sleep(0.1)


def test_a_service_whose_ledger_holds_back_answers_503_with_retry_after(broken: RunningService) -> None:
    with psycopg.connect(broken.database.owner_url) as connection:
        connection.execute("UPDATE ledgers SET layout = 99")
    with broken.client(broken.admin, ledger="main") as client:
        answer = client.post("/contracts", json=SIGNED, headers=with_key())
        assert (answer.status_code, answer.json()["code"]) == (503, "projection-unknown")
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/contracts").status_code == 200


def test_the_service_says_that_it_lives_and_is_ready(service: RunningService) -> None:
    with service.client(None) as client:
        assert (client.get("/livez").text, client.get("/readyz").text) == ("ok\n", "ready\n")


def answer_of(**members: Any) -> httpx.Response:
    """An answer that nobody gave, to try the check on."""
    request = httpx.Request("GET", "http://x/v1/ledgers/main/contracts")
    return httpx.Response(request=request, **members)


@pytest.mark.parametrize(
    ("status", "headers", "content"),
    [
        (200, {}, {"items": [], "as_of": {}}),
        (200, {"x-request-id": "a"}, {"items": []}),
        (200, {"x-request-id": "a"}, {"items": [], "as_of": {}, "undocumented": 1}),
        (299, {"x-request-id": "a"}, {}),
        (404, {"x-request-id": "a"}, {}),
        (500, {"x-request-id": "a"}, {}),
    ],
)
def test_the_check_of_answers_finds_what_the_document_does_not_promise(status: int, headers: dict[str, str], content: Any) -> None:
    with pytest.raises(Exception, match=r".+"):
        check_answer(answer_of(status_code=status, headers=headers, json=content))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for a connection only so long that it is longer than readiness waits."""
    monkeypatch.setattr(connections, "WAIT_SECONDS", READY_SECONDS + 1)


@pytest.fixture
def away(impatient: None, broken: RunningService) -> Iterator[RunningService]:
    """A service whose database lets nobody in."""
    url = broken.database.superuser_url.replace(broken.database.name, "postgres")
    let_in = f"ALTER DATABASE {broken.database.name} ALLOW_CONNECTIONS "
    rows(url, let_in + "false")
    cut_connections(broken, url)
    yield broken
    rows(url, let_in + "true")


def test_readiness_is_denied_within_a_second_or_so_while_the_database_is_away(away: RunningService) -> None:
    with away.client(None) as client:
        for _ in range(3):
            asked_at = time.monotonic()
            answer = client.get("/readyz")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert time.monotonic() - asked_at < READY_SECONDS + 0.5
        assert client.get("/livez").status_code == 200


def test_a_read_that_fails_is_told_of_no_key_and_an_append_is(away: RunningService) -> None:
    with away.client(away.admin, ledger="main") as client:
        read, append = client.get("/contracts"), client.post("/contracts", json=SIGNED, headers=with_key())
    assert (read.status_code, read.json()["code"]) == (append.status_code, append.json()["code"]) == (503, "database-unreachable")
    assert "Send it again later" in read.json()["detail"]
    assert "Idempotency-Key" not in read.text
    assert "Idempotency-Key" in append.json()["detail"]


@pytest.mark.parametrize(("method", "code"), [("GET", "unavailable"), ("POST", "outcome-unknown")])
async def test_a_request_that_the_server_cannot_wait_for_is_answered_with_a_problem(method: str, code: str) -> None:
    begun, sent = asyncio.Event(), []

    async def endpoint(_: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        return Response()

    async def send(message: Any) -> None:
        sent.append(message)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.router.add_api_route("/", endpoint, methods=[method], response_model=None)
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": []}
    task = asyncio.ensure_future(Dispatch(app)(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
    await begun.wait()
    # As uvicorn does with what is still under way when its time for a shutdown is over.
    task.cancel()
    await task
    start, body = sent
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (503, b"application/problem+json")
    assert json.loads(body["body"])["code"] == code
