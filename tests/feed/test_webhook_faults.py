"""Webhooks whose endpoint or whose lease fails in ways that would hold up more than they may, or lose something."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from service.feed import delivering, subscriptions, webhooks
from service.feed.delivering import FAILURES_IN_A_ROW
from tests.api.bodies import open_contract, with_key
from tests.api.running import RunningService
from tests.conftest import Database
from tests.feed.test_webhooks import Receiver, api, comes, grown, hook, in_order, receiver, service
from tests.servers import rows

__all__ = ["api", "receiver", "service"]


def held(api: httpx.Client, webhook_id: str) -> dict[str, str]:
    """What is held, by contract: retrying or dead."""
    return {item["contract_id"]: item["status"] for item in api.get(f"/webhooks/{webhook_id}/held").json()["items"]}


def test_a_contract_that_is_never_taken_holds_up_nothing_else_in_a_ledger_that_rests(
    api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "WAITS", (0.02,) * (FAILURES_IN_A_ROW + 1))
    webhook_id = hook(api, receiver)
    bad = open_contract(api)
    comes(lambda: receiver.arrived(bad) == [1], "the opening")
    receiver.answer(contracts={bad: (422, 0)})
    grown(api, 1, bad)
    comes(lambda: held(api, webhook_id) == {bad: "dead"}, "it is given up")
    good = grown(api, 1)
    comes(lambda: receiver.arrived(good) == [1, 2], "what the endpoint takes")
    receiver.answer()
    assert api.post(f"/webhooks/{webhook_id}/held/{bad}/retry").status_code == 200
    comes(lambda: receiver.arrived(bad) == [1, 2], "what was given up, after somebody spoke")
    comes(lambda: held(api, webhook_id) == {}, "nothing is held")


def test_an_endpoint_that_was_down_until_all_was_given_up_is_found_well_again(
    api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "WAITS", (0.02,))
    monkeypatch.setattr(delivering, "PROBE_SECONDS", 0.05)
    webhook_id = hook(api, receiver)
    receiver.answer(503)
    dead = [open_contract(api) for _ in range(FAILURES_IN_A_ROW + 2)]
    comes(lambda: held(api, webhook_id) == dict.fromkeys(dead, "dead"), "all of it is given up")
    receiver.answer()
    good = grown(api, 2)
    comes(lambda: receiver.arrived(good) == [1, 2, 3], "what came later")
    assert held(api, webhook_id) == dict.fromkeys(dead, "dead")


def test_nothing_is_lost_when_a_lease_runs_out_within_a_page_and_is_moved_on_before_its_end(
    api: httpx.Client, service: RunningService, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = hook(api, receiver)
    slow, other = open_contract(api), open_contract(api)
    comes(lambda: len(receiver.arrived()) == 2, "both opened")
    api.post(f"/webhooks/{webhook_id}/pause")
    grown(api, 1, slow)
    grown(api, 2, other)
    receiver.answer(contracts={slow: (200, 3), other: (200, 1)})
    api.post(f"/webhooks/{webhook_id}/resume")
    comes(lambda: len(receiver.got()) == 4, "one of each is on its way")
    # Nothing may be sent any more, though the lease is still ours.
    monkeypatch.setattr(webhooks, "LEASE_SECONDS", 1)
    deliverer = service.app.state.webhooks._deliverers[webhook_id]
    comes(lambda: time.monotonic() >= deliverer.leased_until, "nothing may be sent")
    comes(lambda: deliverer._moved.attempts, "the other contract's event was answered, and its next one not sent")
    monkeypatch.setattr(webhooks, "LEASE_SECONDS", 15)
    receiver.answer()
    comes(lambda: in_order(receiver.arrived(other)) == [1, 2, 3], "the event that was not sent")
    comes(lambda: in_order(receiver.arrived(slow)) == [1, 2], "the event that was on its way")


def test_a_cursor_in_an_older_copy_of_the_database_is_not_overwritten_by_what_a_process_knew(
    database: Database, api: httpx.Client, receiver: Receiver
) -> None:
    webhook_id = hook(api, receiver)
    contract_id = grown(api, 2)
    at = "SELECT position FROM webhooks WHERE webhook_id = %s"
    comes(lambda: rows(database.service_url, at, webhook_id) == [(3,)], "three events were sent")
    rows(database.superuser_url, "UPDATE webhooks SET position = 1 WHERE webhook_id = %s", webhook_id)
    grown(api, 1, contract_id)
    comes(lambda: receiver.arrived(contract_id) == [1, 2, 3, 4, 2, 3, 4], "what that copy had not sent")


def test_a_lease_whose_worker_does_not_know_that_it_has_it_is_taken_up(
    database: Database, api: httpx.Client, service: RunningService, receiver: Receiver
) -> None:
    webhook_id = hook(api, receiver)
    assert api.post(f"/webhooks/{webhook_id}/pause").status_code == 200
    deliverers = service.app.state.webhooks._deliverers
    comes(lambda: webhook_id not in deliverers, "nobody delivers to it")
    # As a claim leaves it whose commit came through, and whose answer was lost with the connection.
    claimed = "UPDATE webhooks SET status = 'active', worker = %s, leased_until = clock_timestamp() + '1 hour' WHERE webhook_id = %s"
    rows(database.superuser_url, claimed, service.app.state.webhooks._worker, webhook_id)
    contract_id = grown(api, 1)
    comes(lambda: receiver.arrived(contract_id) == [1, 2], "what was recorded since")


def test_with_a_new_epoch_a_webhook_goes_on_from_where_the_database_has_it(
    database: Database, api: httpx.Client, receiver: Receiver
) -> None:
    webhook_id = hook(api, receiver)
    contract_id = grown(api, 2)
    at = "SELECT position FROM webhooks WHERE webhook_id = %s"
    comes(lambda: rows(database.service_url, at, webhook_id) == [(3,)], "three events were sent")
    rows(database.superuser_url, "UPDATE webhooks SET position = 1 WHERE webhook_id = %s", webhook_id)
    query = "UPDATE ledgers SET epoch = epoch + 1 WHERE ledger_id = (SELECT ledger_id FROM webhooks WHERE webhook_id = %s)"
    rows(database.superuser_url, query, webhook_id)
    comes(lambda: receiver.arrived(contract_id) == [1, 2, 3, 2, 3], "what that copy had not sent")


def test_an_event_that_was_damaged_holds_up_its_own_contract_alone(database: Database, api: httpx.Client, receiver: Receiver) -> None:
    webhook_id = hook(api, receiver)
    assert api.post(f"/webhooks/{webhook_id}/pause").status_code == 200
    bad, good = grown(api, FAILURES_IN_A_ROW), open_contract(api)
    events = api.get(f"/contracts/{bad}/events").json()["items"]
    with body_changed(database, events[1]["event_id"]):
        assert api.post(f"/webhooks/{webhook_id}/resume").status_code == 200
        comes(lambda: receiver.arrived(good) == [1], "what is whole of another contract")
        comes(lambda: held(api, webhook_id) == {bad: "retrying"}, "the contract is held")
        assert receiver.arrived(bad) == [1]
        (hold,) = api.get(f"/webhooks/{webhook_id}/held").json()["items"]
        assert (hold["position"], hold["failure"].partition(":")[0]) == (events[1]["position"], "not sent")
        assert "contract-ledger verify" in hold["failure"]
        comes(lambda: len(api.get(f"/webhooks/{webhook_id}/attempts").json()["items"]) > 3, "it is tried again")
        endpoint = "SELECT failures FROM webhooks WHERE webhook_id = %s"
        assert rows(database.service_url, endpoint, webhook_id) == [(0,)], "the endpoint is well"
    assert api.post(f"/webhooks/{webhook_id}/held/{bad}/retry").status_code == 200
    comes(lambda: receiver.arrived(bad) == [*range(1, FAILURES_IN_A_ROW + 2)], "all of it, once it is whole again")


@contextmanager
def body_changed(database: Database, event_id: str) -> Iterator[None]:
    """An event whose body is cut off, for the time of the block."""
    change = "UPDATE payloads p SET body = %s FROM events e WHERE (e.ledger_id, e.position) = (p.ledger_id, p.position) AND e.event_id = %s"
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT body FROM payloads p JOIN events e USING (ledger_id, position) WHERE e.event_id = %s", [event_id]
        )
        (body,) = found.fetchone() or (b"",)
        connection.execute("ALTER TABLE payloads DISABLE TRIGGER USER")
        try:
            connection.execute(change, [body[:-7], event_id])
            yield
        finally:
            connection.execute(change, [body, event_id])
            connection.execute("ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_change")
            connection.execute("ALTER TABLE payloads ENABLE ALWAYS TRIGGER refuse_truncate")


def test_a_webhook_that_is_deleted_while_the_same_request_looks_for_it_is_made_anew(
    api: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, asked = with_key(), {"url": receiver.url}
    winner = api.post("/webhooks", json=asked, headers=headers).json()["webhook_id"]
    really, looks = subscriptions._asked_before, []

    async def late(*known: Any) -> Any:
        """Looks before the winner was made, and again after it was deleted."""
        looks.append(known)
        if len(looks) == 2:
            assert (await asyncio.to_thread(api.delete, f"/webhooks/{winner}")).status_code == 204
        return None if len(looks) == 1 else await really(*known)

    monkeypatch.setattr(subscriptions, "_asked_before", late)
    answer = api.post("/webhooks", json=asked, headers=headers)
    assert (answer.status_code, answer.json()["webhook_id"] != winner) == (201, True)
