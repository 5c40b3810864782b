"""What comes over a connection and is no request, or never becomes one: refused as a Problem, and hung up on in time."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import orjson
import pytest

from service.api.connection import MAX_HEAD_BYTES, Connection
from tests.api.bodies import REPORTED
from tests.api.documented import validator
from tests.api.running import RunningService, exchange

HOST = b"Host: x\r\n"
POST = b"POST /v1/ledgers/main/contracts HTTP/1.1\r\n" + HOST
GET = b"GET /livez HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LOOK_SECONDS = 0.1
HUNG_UP_WITHIN_SECONDS = 5.0


def check_refusal(answer: tuple[int, dict[str, str], bytes]) -> str:
    """The answer is the one Problem for what cannot be read; its sentence."""
    status, headers, body = answer
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert int(headers["content-length"]) == len(body)
    problem = json.loads(body)
    validator("Problem").validate(problem)
    assert (problem["code"], problem["request_id"]) == ("malformed", headers["x-request-id"])
    assert headers["cache-control"] == "private, no-cache"
    sentence: str = problem["detail"]
    return sentence


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"FOO / HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\nHost: x\n\n",
        b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /livez?a=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        POST + b"Content-Length: x\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_as_a_problem_and_hung_up(service: RunningService, sent: bytes) -> None:
    assert "RFC 9112" in check_refusal(exchange(service, sent))
    with service.client(None) as client:
        assert client.get("/livez").status_code == 200


def test_chunks_that_break_after_the_head_are_refused(service: RunningService) -> None:
    with connected(service) as connection:
        connection.sendall(POST + appending(service) + CHUNKED + b"1\r\n{\r\n")
        connection.sendall(b"not a size\r\n")
        received = until_hung_up(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"x-request-id: ") == 1


@pytest.mark.parametrize(
    "head",
    [b"X-Big: " + b"x" * MAX_HEAD_BYTES, b"X-Many: x\r\n" * (MAX_HEAD_BYTES // 11)],
    ids=["one header", "many"],
)
@pytest.mark.parametrize("ends", [True, False], ids=["whole", "without an end"])
def test_a_head_that_is_too_long_is_refused(service: RunningService, head: bytes, ends: bool) -> None:
    sentence = check_refusal(exchange(service, GET + head + (b"\r\n\r\n" if ends else b"")))
    assert str(MAX_HEAD_BYTES) in sentence


def test_a_head_of_the_longest_size_is_read(service: RunningService) -> None:
    start = GET + b"Connection: close\r\nX-Big: "
    whole = start + b"x" * (MAX_HEAD_BYTES - len(start) - len("\r\n\r\n")) + b"\r\n\r\n"
    assert len(whole) == MAX_HEAD_BYTES
    assert exchange(service, whole)[0] == 200


def test_what_follows_a_request_is_not_taken_for_its_answer(service: RunningService) -> None:
    # A Content-Length that is too short leaves the rest of the body behind; the request itself is whole, and is answered.
    asked = f"GET /v1/ledgers/main/contracts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin}\r\n\r\n".encode()
    status, headers, body = exchange(service, asked + b"the rest of a body\r\n\r\n")
    assert (status, headers["content-type"], headers["connection"]) == (200, "application/json", "close")
    assert len(body) == int(headers["content-length"])


def test_pipelined_requests_are_answered_in_order(service: RunningService) -> None:
    asked = b"".join(
        f"GET /v1/ledgers/{name} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {name}\r\n\r\n".encode() for name in "abcdefgh"
    ) + GET.replace(HOST, HOST + b"Connection: close\r\nX-Request-Id: last\r\n\r\n")
    with connected(service) as connection:
        connection.sendall(asked)
        received = until_hung_up(connection).decode()
    ids = [line.removeprefix("x-request-id: ") for line in received.split("\r\n") if line.startswith("x-request-id: ")]
    assert ids == [*"abcdefgh", "last"]


def test_a_client_that_offers_another_protocol_is_answered_in_this_one(service: RunningService) -> None:
    offer = GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n\r\n"
    with connected(service) as connection:
        for asked in (offer, offer, GET + b"\r\n"):
            connection.sendall(asked)
            received = connection.recv(65_536)
            assert received.startswith(b"HTTP/1.1 200 ")
            assert received.endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 4_000_000])
def test_a_body_behind_such_an_offer_is_read(service: RunningService, *, chunked: bool, piece: int) -> None:
    # Java's client offers HTTP/2 with the first request of each connection, also with one that has a body.
    body = orjson.dumps(REPORTED)
    framing, sent = (b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)) if chunked else (b"", body)
    framing = framing or b"Content-Length: %d" % len(body)
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
    head = b"POST /v1/ledgers/main/contracts/reported HTTP/1.1\r\nHost: x\r\n" + appending(service) + offer + framing + b"\r\n\r\n"
    asked = head + sent + GET + b"Connection: close\r\n\r\n"
    with connected(service) as connection:
        for start in range(0, len(asked), piece):
            connection.sendall(asked[start : start + piece])
        received = until_hung_up(connection)
    assert received.startswith(b"HTTP/1.1 201 ")
    assert received.endswith(b"\r\n\r\nok\n")


def test_a_thousand_offers_in_one_piece_are_each_answered(service: RunningService) -> None:
    offer = GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connected(service) as connection:
        threading.Thread(target=connection.sendall, args=(offer * 1_000 + GET + b"Connection: close\r\n\r\n",)).start()
        received = until_hung_up(connection)
    assert received.count(b"HTTP/1.1 200 ") == 1_001


# Clients that hold on to a connection


@pytest.fixture
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stalled_seconds", LOOK_SECONDS)


def appending(service: RunningService) -> bytes:
    """The headers of an append, so that its body is read."""
    key = f"Authorization: Bearer {service.admin}\r\nIdempotency-Key: {uuid4()}\r\n"
    return f"{key}Content-Type: application/json\r\n".encode()


@contextmanager
def connected(service: RunningService) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=HUNG_UP_WITHIN_SECONDS) as connection:
        yield connection


def until_hung_up(connection: socket.socket) -> bytes:
    """What comes until the service hangs up, which it does in time."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def send_on(connection: socket.socket, piece: bytes) -> None:
    """Send a piece again and again, for as long as a service that hangs up in time would let it."""
    deadline = time.monotonic() + HUNG_UP_WITHIN_SECONDS
    while time.monotonic() < deadline:
        connection.sendall(piece)
        time.sleep(LOOK_SECONDS / 10)


@pytest.mark.usefixtures("looked_at_often")
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /livez HT", GET + b"X-Half: ", POST + b"KEY" + b"Content-Length: 5\r\n\r\nhel", POST + b"KEY" + CHUNKED + b"5\r\nhe"],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk"],
)
def test_a_client_that_falls_silent_is_hung_up(service: RunningService, sent: bytes) -> None:
    with connected(service) as connection:
        connection.sendall(sent.replace(b"KEY", appending(service)))
        assert until_hung_up(connection) == b""


@pytest.mark.usefixtures("looked_at_often")
def test_a_head_that_comes_by_the_byte_is_hung_up(service: RunningService) -> None:
    with connected(service) as connection:
        connection.sendall(GET + b"X-Slow: ")
        with pytest.raises(ConnectionError):
            send_on(connection, b"x")


@pytest.mark.usefixtures("looked_at_often")
def test_a_client_that_takes_no_answer_is_hung_up(service: RunningService) -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", service.port))
        connection.settimeout(HUNG_UP_WITHIN_SECONDS)
        connection.sendall(asked * 50)
        with pytest.raises(ConnectionError):
            send_on(connection, b"\r\n")


@pytest.mark.usefixtures("looked_at_often")
def test_a_body_that_comes_slowly_and_a_pause_between_requests_are_borne(service: RunningService) -> None:
    with connected(service) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        time.sleep(4 * LOOK_SECONDS)
        connection.sendall(POST + appending(service) + b"Content-Length: 20\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"x")
            time.sleep(LOOK_SECONDS / 4)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
