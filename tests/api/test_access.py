"""Who may do what: nothing answers without a key but what says so, and a key does only what its rights say, where they say it."""

import time
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from service.access import RIGHTS, key_hash
from service.app import create_app
from service.settings import Settings
from tests.api.bodies import SIGNED, note, open_contract, with_key
from tests.api.documented import Operation, operations
from tests.api.running import RunningService

PUBLIC = {"/livez", "/readyz"}
UNDOCUMENTED = {"/openapi.json", "/docs", "/docs/{asset}", "/reference"}
PLACES = {
    "ledger": "main",
    "contract_id": "01890000-0000-7000-8000-0000000000ff",
    "event_id": "01890000-0000-7000-8000-0000000000ff",
    "import_id": "01890000-0000-7000-8000-0000000000ff",
    "replay_id": "01890000-0000-7000-8000-0000000000ff",
    "webhook_id": "01890000-0000-7000-8000-0000000000ff",
    "party_id": "nobody",
    "level": "0",
    "tile": "000.p/1",
}
PRIVATE = [operation for operation in operations() if operation.path not in PUBLIC]
ENDS_WITHIN_SECONDS = 10


def right_for(operation: Operation) -> str | None:
    """The right that an operation needs; None where it answers with what the caller may see."""
    if operation.operation_id == "list_ledgers":
        return None
    if operation.operation_id in ("create_ledger", "set_ledger_policy"):
        return "ledger:admin"
    if operation.documented["tags"] == ["webhooks"]:
        return "ledger:admin"
    if operation.documented["tags"] == ["audit"]:
        return "audit:read"
    if "{import_id}" in operation.path:  # what was refused of an import quotes what its sender wrote
        return "contracts:write"
    return "contracts:read" if operation.method == "GET" else "contracts:write"


# What is asked of replays takes one of two rights, by their kind: tests/audit/test_replays.py.
EITHER_RIGHT = {"start_replay", "list_replays", "get_replay", "cancel_replay", "resume_replay"}
IN_A_LEDGER = [operation for operation in PRIVATE if right_for(operation) is not None]


def named(operation: Operation) -> str:
    return operation.operation_id


def test_the_document_has_every_route_but_its_own_pages() -> None:
    routes = {(method, route.path.replace(":path}", "}")) for route in create_app(Settings()).routes for method in route.methods}  # type: ignore[attr-defined]
    assert {path for _, path in routes} - UNDOCUMENTED == {operation.path for operation in operations()}
    assert {route for route in routes if route[1] not in UNDOCUMENTED} == {(operation.method, operation.path) for operation in operations()}


def test_only_liveness_and_readiness_are_documented_as_public() -> None:
    assert {operation.path for operation in operations() if operation.is_public} == PUBLIC


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/docs/swagger-ui.css", "/reference", "/openapi.json"])
def test_what_is_public_answers_without_a_key(service: RunningService, path: str) -> None:
    with service.client(None) as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("operation", PRIVATE, ids=named)
def test_nothing_else_answers_without_a_key(service: RunningService, operation: Operation) -> None:
    with service.client(None) as client:
        answer = client.request(operation.method, operation.at(**PLACES))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer cl_unknown",
        "Bearer " + "k" * 60_000,
        "Bearer {key},{key}",
        "Token {key}",
        "Bearer \xff",
    ],
)
def test_a_key_that_is_not_valid_opens_nothing(service: RunningService, authorization: str) -> None:
    sent = authorization.format(key=service.admin).encode("latin-1")
    with service.client(None) as client:
        answer = client.get("/v1/ledgers/main/contracts", headers={"Authorization": sent})
    assert answer.status_code == 401
    assert service.admin not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_spelt_in_any_case(service: RunningService, scheme: str) -> None:
    with service.client(None) as client:
        answer = client.get("/v1/ledgers", headers={"Authorization": f"{scheme} {service.admin}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("operation", [known for known in IN_A_LEDGER if known.operation_id not in EITHER_RIGHT], ids=named)
def test_an_operation_needs_its_right_and_no_other(service: RunningService, all_but: dict[str, str], operation: Operation) -> None:
    right = right_for(operation)
    assert right is not None
    with service.client(all_but[right]) as client:
        answer = client.request(operation.method, operation.at(**PLACES))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert right in answer.json()["detail"]
    with service.client(all_but["only " + right]) as client:
        assert client.request(operation.method, operation.at(**PLACES)).status_code not in (401, 403)


@pytest.fixture(scope="module")
def all_but(service: RunningService) -> dict[str, str]:
    """Keys by the one right that they lack, and by `only` the one that they have."""
    lacking = {right: service.make_key([other for other in RIGHTS if other != right]) for right in RIGHTS}
    return lacking | {f"only {right}": service.make_key([right]) for right in RIGHTS}


def test_a_key_without_any_right_opens_nothing(service: RunningService) -> None:
    with service.client(service.make_key([])) as client:
        assert client.get("/v1/ledgers/main/contracts").status_code == 403
        assert client.get("/v1/ledgers").json() == {"items": []}


def test_an_expired_key_opens_nothing(service: RunningService) -> None:
    key = service.make_key(RIGHTS, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with service.client(key) as client:
        assert client.get("/v1/ledgers").status_code == 401


def test_a_key_ends_when_it_expires_though_it_was_remembered(service: RunningService) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=1.5)
    with service.client(service.make_key(RIGHTS, expires_at=expires_at)) as client:
        assert client.get("/v1/ledgers").status_code == 200
        assert status_until(client, 401, seconds=5) == 401
    assert datetime.now(UTC) >= expires_at


def test_a_revoked_key_ends_within_seconds(service: RunningService) -> None:
    fresh, used = service.make_key(RIGHTS), service.make_key(RIGHTS)
    with service.client(used) as client:
        assert client.get("/v1/ledgers").status_code == 200
        with psycopg.connect(service.database.service_url) as connection:
            hashes = [key_hash(fresh), key_hash(used)]
            connection.execute("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_hash = ANY(%s)", [hashes])
        assert status_until(client, 401, seconds=ENDS_WITHIN_SECONDS) == 401
    with service.client(fresh) as client:
        assert client.get("/v1/ledgers").status_code == 401


def status_until(client: httpx.Client, wanted: int, seconds: float) -> int:
    """The status of a request that is sent until it has the wanted one, or the time is over."""
    deadline = time.monotonic() + seconds
    while (status := client.get("/v1/ledgers").status_code) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return status


# Ledgers


@pytest.fixture(scope="module")
def other_ledger(service: RunningService) -> str:
    """The ledger_id of the ledger `other`."""
    return service.make_ledger("other", "Asia/Seoul")


@pytest.mark.parametrize("operation", [operation for operation in IN_A_LEDGER if operation.path != "/v1/ledgers/{ledger}"], ids=named)
def test_a_key_of_one_ledger_is_refused_in_another(service: RunningService, key_of_other: str, operation: Operation) -> None:
    with service.client(key_of_other) as client:
        assert client.request(operation.method, operation.at(**PLACES)).status_code == 403
        inside = client.request(operation.method, operation.at(**PLACES | {"ledger": "other"}))
        assert inside.status_code not in (401, 403)


@pytest.fixture(scope="module")
def key_of_other(service: RunningService, other_ledger: str) -> str:
    return service.make_key(RIGHTS, other_ledger)


def test_a_key_of_one_ledger_makes_no_ledgers(service: RunningService, key_of_other: str) -> None:
    with service.client(key_of_other) as client:
        assert client.put("/v1/ledgers/third", json={}).status_code == 403
        assert client.put("/v1/ledgers/other", json={"time_zone": "Asia/Seoul"}).status_code == 403


def test_a_key_sees_the_ledgers_that_it_may_read(service: RunningService, other_ledger: str, key_of_other: str) -> None:
    with service.client(key_of_other) as client:
        items = client.get("/v1/ledgers").json()["items"]
    told = {"ledger_id": other_ledger, "name": "other", "time_zone": "Asia/Seoul"}
    assert items == [told | {"unique_reference_schemes": [], "if_match_required": False, "public_log": False, "strict": False}]
    with service.client(service.admin) as client:
        assert {"main", "other"} <= {item["name"] for item in client.get("/v1/ledgers").json()["items"]}


def test_no_request_crosses_ledgers(service: RunningService, api: httpx.Client, other_ledger: str) -> None:
    contract_id = open_contract(api)
    (event_id,) = (entry["event_id"] for entry in api.get(f"/contracts/{contract_id}/events").json()["items"])
    with service.client(service.admin, ledger="other") as other:
        answers = [
            other.get(f"/contracts/{contract_id}"),
            other.get(f"/contracts/{contract_id}?revision=1"),
            other.get(f"/contracts/{contract_id}/events"),
            other.get(f"/events/{event_id}"),
            other.post(f"/contracts/{contract_id}/note-added", json=note(), headers=with_key()),
            other.post(f"/contracts/{contract_id}/note-added?validate_only=true", json=note()),
        ]
        assert [answer.status_code for answer in answers] == [404] * len(answers)
        ids = {item["contract_id"] for item in other.get("/contracts?limit=500").json()["items"]}
    assert contract_id not in ids


def test_a_key_counts_for_one_ledger(service: RunningService, api: httpx.Client, other_ledger: str) -> None:
    headers = with_key()
    first = api.post("/contracts", json=SIGNED, headers=headers)
    with service.client(service.admin, ledger="other") as other:
        second = other.post("/contracts", json=SIGNED, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert "idempotent-replayed" not in second.headers
    assert first.json()["contract_id"] != second.json()["contract_id"]


def test_every_ledger_counts_its_own_positions(service: RunningService) -> None:
    service.make_ledger("counting")
    with service.client(service.admin, ledger="counting") as client:
        receipts = [client.post("/contracts", json=SIGNED, headers=with_key()).json() for _ in range(3)]
    assert [receipt["events"][0]["position"] for receipt in receipts] == [1, 2, 3]


def test_a_cursor_of_another_ledger_is_a_forked_history(service: RunningService, api: httpx.Client, other_ledger: str) -> None:
    open_contract(api)
    cursor = api.get("/events?limit=1").json()["next"]
    with service.client(service.admin, ledger="other") as other:
        open_contract(other)
        for path in (f"/events?after={cursor}", f"/events?after={cursor}&event_type=note.added"):
            answer = other.get(path)
            assert (answer.status_code, answer.json()["code"]) == (409, "history-forked")


def test_a_ledger_that_is_not_there_is_not_found(service: RunningService) -> None:
    with service.client(service.admin) as client:
        for name in ("nowhere", "MAIN", "main%00", "%FF", "-", "a" * 64, "..%2e", "%20main"):
            answer = client.get(f"/v1/ledgers/{name}/contracts")
            assert (answer.status_code, answer.json()["code"]) == (404, "ledger-not-found")


@pytest.mark.parametrize("operation", IN_A_LEDGER, ids=named)
def test_a_key_of_one_ledger_is_not_told_which_others_there_are(service: RunningService, key_of_other: str, operation: Operation) -> None:
    told = []
    with service.client(key_of_other) as client:
        for name in ("main", "nowhere", "MAIN", "a" * 64):
            path = operation.at(**PLACES | {"ledger": name})
            answer = client.request(
                operation.method, path, headers={"X-Request-Id": "same"}, json={} if operation.method != "GET" else None
            )
            told.append((answer.status_code, dict(answer.headers, date=""), answer.text.replace(path, "")))
    assert told[0][0] == 403
    assert [answer[::2] for answer in told] == [told[0][::2]] * 4


# Making ledgers


def test_a_ledger_is_made_once(service: RunningService) -> None:
    with service.client(service.admin) as client:
        made = client.put("/v1/ledgers/made", json={"time_zone": "Asia/Tokyo"})
        again = client.put("/v1/ledgers/made", json={"time_zone": "Asia/Tokyo"})
        assert (made.status_code, again.status_code) == (201, 200)
        assert made.json() == again.json()
        conflict = client.put("/v1/ledgers/made", json={"time_zone": "Asia/Seoul"})
        assert (conflict.status_code, conflict.json()["code"]) == (409, "ledger-exists")


def test_a_ledger_is_in_utc_if_not_said(service: RunningService) -> None:
    with service.client(service.admin) as client:
        assert client.put("/v1/ledgers/plain", json={}).json()["time_zone"] == "UTC"


@pytest.mark.parametrize(
    ("name", "body", "pointer"),
    [
        ("Upper", {}, "path:ledger"),
        ("a_b", {}, "path:ledger"),
        ("-a", {}, "path:ledger"),
        ("a" * 64, {}, "path:ledger"),
        ("%00", {}, "path:ledger"),
        ("bad", {"time_zone": "Mars/Olympus"}, "/time_zone"),
        ("bad", {"time_zone": "../etc/passwd"}, "/time_zone"),
        ("bad", {"time_zone": ""}, "/time_zone"),
        ("bad", {"time_zone": "localtime"}, "/time_zone"),
        ("bad", {"time_zone": "Factory"}, "/time_zone"),
        ("bad", {"time_zone": 9}, "/time_zone"),
        ("bad", {"time_zone": None}, "/time_zone"),
        ("bad", {"zone": "UTC"}, "/zone"),
    ],
)
def test_a_ledger_with_an_odd_name_or_zone_is_refused(service: RunningService, name: str, body: dict[str, object], pointer: str) -> None:
    with service.client(service.admin) as client:
        answer = client.put(f"/v1/ledgers/{name}", json=body)
        assert answer.status_code == 422
        assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
        assert "bad" not in {item["name"] for item in client.get("/v1/ledgers").json()["items"]}


def test_days_are_days_in_the_ledgers_zone(service: RunningService) -> None:
    service.make_ledger("east", "Pacific/Kiritimati")
    service.make_ledger("west", "Pacific/Pago_Pago")
    days = []
    for name in ("east", "west"):
        with service.client(service.admin, ledger=name) as client:
            as_of = client.get(f"/contracts/{open_contract(client)}").json()["as_of"]
            days.append((as_of["time_zone"], as_of["effective_on"]))
    # The two zones are 25 hours apart: it is never the same day in both.
    assert [zone for zone, _ in days] == ["Pacific/Kiritimati", "Pacific/Pago_Pago"]
    assert days[0][1] > days[1][1]
