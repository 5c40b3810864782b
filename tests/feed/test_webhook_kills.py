"""A process that delivers is killed with -9 at each step of a delivery: nothing is lost, and the order of each contract stays."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import httpx
import psycopg
import pytest

from tests.api.bodies import open_contract
from tests.conftest import Database
from tests.feed.test_webhooks import LOOPBACK, Receiver, comes, grown, hook, in_order, receiver
from tests.servers import Service, client, make_key, make_ledger, rows

__all__ = ["receiver"]

RELEASED = "UPDATE webhooks SET leased_until = clock_timestamp() WHERE webhook_id = %s"
HELD = "SELECT count(*) FROM webhook_holds WHERE webhook_id = %s"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock' AND query LIKE %s"


@pytest.fixture(scope="module")
def served(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(database.service_url, tmp_path_factory.mktemp("data"), environment={"LEDGER_WEBHOOK_NETWORKS": LOOPBACK})
    service.start()
    yield service
    service.stop()


@pytest.fixture
def api(database: Database, served: Service) -> Iterator[httpx.Client]:
    with client(served, make_ledger(database.service_url), make_key(database.service_url)) as made:
        yield made


@contextmanager
def unwritten(database: Database, webhook_id: str) -> Iterator[None]:
    """While what a process does with a webhook cannot be written."""
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("SELECT FROM webhooks WHERE webhook_id = %s FOR UPDATE", [webhook_id])
        yield


def is_writing(database: Database) -> bool:
    """Whether a process waits to write how far a cursor came."""
    return rows(database.superuser_url, WAITING, database.name, "%UPDATE webhooks SET position%")[0][0] > 0


def goes_on(database: Database, served: Service, webhook_id: str) -> None:
    """Begin the service again, with what the killed one had as it would be once the lease has run out."""
    rows(database.superuser_url, RELEASED, webhook_id)
    served.start()


def is_held(database: Database, webhook_id: str) -> bool:
    return rows(database.superuser_url, HELD, webhook_id) == [(1,)]


@pytest.mark.parametrize(
    ("answer", "is_stopped"),
    [
        pytest.param((200, 30), False, id="sent and not answered"),
        pytest.param((200, 0), True, id="taken and not written"),
        pytest.param((500, 0), True, id="refused and not held"),
        pytest.param((500, 0), False, id="held"),
    ],
)
def test_a_process_killed_within_a_delivery_loses_nothing(
    database: Database, served: Service, api: httpx.Client, receiver: Receiver, answer: tuple[int, float], is_stopped: bool
) -> None:
    webhook_id = hook(api, receiver)
    one, other = open_contract(api), open_contract(api)
    at = "SELECT position FROM webhooks WHERE webhook_id = %s"
    comes(lambda: rows(database.superuser_url, at, webhook_id) == [(2,)], "the openings")
    receiver.answer(contracts={one: answer})
    with unwritten(database, webhook_id) if is_stopped else nullcontext():
        grown(api, 2, one)
        comes(lambda: len(receiver.got()) > 2, "it is sent")
        if is_stopped:
            comes(lambda: is_writing(database), "it is to be written")
        elif answer[0] == 500:
            comes(lambda: is_held(database, webhook_id), "it is held")
        served.kill()
    receiver.answer()
    goes_on(database, served, webhook_id)
    grown(api, 1, one)
    grown(api, 1, other)
    comes(lambda: in_order(receiver.arrived(one)) == [1, 2, 3, 4], "every event")
    comes(lambda: in_order(receiver.arrived(other)) == [1, 2], "every event of the other")
    comes(lambda: rows(database.superuser_url, HELD, webhook_id) == [(0,)], "nothing is held")


def test_a_process_killed_while_it_catches_up_with_a_contract_loses_nothing(
    database: Database, served: Service, api: httpx.Client, receiver: Receiver
) -> None:
    webhook_id = hook(api, receiver)
    one = open_contract(api)
    receiver.answer(contracts={one: (500, 0)})
    grown(api, 3, one)
    comes(lambda: is_held(database, webhook_id), "it is held")
    receiver.answer(sleep=0.3)
    assert api.post(f"/webhooks/{webhook_id}/held/{one}/retry").status_code == 200
    comes(lambda: receiver.arrived(one), "it is tried again")
    with unwritten(database, webhook_id):
        comes(lambda: is_writing(database), "it is to be written")
        served.kill()
    receiver.answer()
    goes_on(database, served, webhook_id)
    comes(lambda: in_order(receiver.arrived(one)) == [1, 2, 3, 4], "every event")
    comes(lambda: rows(database.superuser_url, HELD, webhook_id) == [(0,)], "nothing is held")
