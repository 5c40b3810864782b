"""A principal that sends too much is told when to come again; nobody else is."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from service.access import BURST_SECONDS, RATE_BUCKETS, RIGHTS, Rates
from service.errors import TooManyRequests
from service.settings import Settings
from tests.api.bodies import SIGNED, with_key
from tests.api.running import RunningService, make_key_of, running
from tests.conftest import NewDatabase

RATE = 2


@pytest.fixture(scope="module")
def limited(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with new_database() as database, running(database, tmp_path_factory.mktemp("limited"), rate_per_second=RATE) as served:
        served.make_ledger("main")
        yield served


def use_up(client: httpx.Client) -> tuple[int, httpx.Response]:
    """How many requests are answered before one is refused, and that refusal."""
    for sent in range(10 * RATE * BURST_SECONDS):
        answer = client.get("/v1/ledgers")
        if answer.status_code != 200:
            return sent, answer
    raise AssertionError("nothing was refused")


def test_a_principal_that_sends_too_much_is_answered_429_with_retry_after(limited: RunningService) -> None:
    started = time.monotonic()
    with limited.client(limited.make_key(RIGHTS)) as client:
        sent, refused = use_up(client)
        at_most = RATE * (BURST_SECONDS + time.monotonic() - started)
        assert RATE * BURST_SECONDS <= sent <= at_most + 1
        assert (refused.status_code, refused.json()["code"]) == (429, "too-many-requests")
        assert refused.headers["retry-after"] == "1"
        time.sleep(int(refused.headers["retry-after"]))
        assert client.get("/v1/ledgers").status_code == 200


def test_what_was_refused_for_its_number_was_not_recorded_and_is_recorded_later(limited: RunningService) -> None:
    key = limited.make_key(RIGHTS)
    with limited.client(key) as client, limited.client(key, ledger="main") as ledger:
        use_up(client)
        headers = with_key()
        assert ledger.post("/contracts", json=SIGNED, headers=headers).status_code == 429
        deadline = time.monotonic() + 10
        while (answer := ledger.post("/contracts", json=SIGNED, headers=headers)).status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers


def test_the_keys_of_a_principal_share_its_rate_and_others_have_their_own(limited: RunningService) -> None:
    with limited.client(limited.make_key(RIGHTS)) as other, limited.client(limited.admin) as client:
        principal_id = one_principal(limited)
        with limited.client(make_key_of(limited.database, principal_id)) as one:
            use_up(one)
        with limited.client(make_key_of(limited.database, principal_id)) as again:
            assert again.get("/v1/ledgers").status_code == 429
        assert other.get("/v1/ledgers").status_code == 200
        assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]


def one_principal(service: RunningService) -> str:
    with psycopg.connect(service.database.service_url) as connection:
        row = connection.execute(
            "INSERT INTO principals (principal_id, name) VALUES (gen_random_uuid(), 'two keys') RETURNING principal_id::text"
        ).fetchone()
        assert row is not None
        connection.execute("INSERT INTO grants VALUES (%s, NULL, %s)", [row[0], list(RIGHTS)])
    return str(row[0])


def test_nobody_is_held_back_if_no_rate_is_set(service: RunningService) -> None:
    assert Settings().rate_per_second is None
    with service.client(service.admin) as client, ThreadPoolExecutor(4) as pool:
        statuses = set(pool.map(lambda _: client.get("/v1/ledgers").status_code, range(200)))
    assert statuses == {200}


def test_a_rate_is_kept_over_a_long_time() -> None:
    rates, now, passed = Rates(10), 0.0, 0
    for _ in range(100 * 40):
        now += 0.025
        try:
            rates.take("a", now)
        except TooManyRequests:
            continue
        passed += 1
    assert passed == pytest.approx(10 * BURST_SECONDS + 10 * 100, abs=1)


def test_a_slow_principal_is_never_refused() -> None:
    rates = Rates(3)
    for second in range(1_000):
        for _ in range(3):
            rates.take("a", float(second))


def test_principals_that_are_through_are_forgotten() -> None:
    rates = Rates(1)
    for index in range(RATE_BUCKETS):
        rates.take(str(index), 0.0)
    rates.take("late", 100.0)
    assert len(rates) == 1
