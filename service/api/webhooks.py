"""Webhooks over HTTP: who is sent a ledger's events, tried out, paused, sent again, and what became of deliveries."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Response
from pydantic import Field, TypeAdapter, ValidationError
from uuid_utils import uuid7

from service.api import webhook_answers
from service.api.contracts import idempotency_key
from service.api.envelope import read_body
from service.api.operations import Call, Documented, QueryModel, json_response, route
from service.api.pages import MAX_COUNT, MAX_IDS, PageQuery, counted, cursor_in, page_headers, place_in
from service.domain.contract import EVENT_TYPES
from service.domain.events import STRICT
from service.domain.faults import refusal
from service.errors import (
    BodyTooLarge,
    ContractNotHeld,
    HistoryForked,
    KeyRequired,
    KeyReused,
    Malformed,
    MemberFault,
    Refused,
    TooManyWebhooks,
    Unavailable,
    UnsupportedMediaType,
    WebhookNotFound,
)
from service.feed import subscriptions
from service.feed.sending import MAX_URL, fault_of_url
from service.feed.subscriptions import ACTIVE, PAUSED, Attempt, Hold, Webhook, Wish
from service.log.header import canonical
from service.log.ledger import instant

WEBHOOKS = "/v1/ledgers/{ledger}/webhooks"
WEBHOOK = WEBHOOKS + "/{webhook_id}"
_RIGHT = "ledger:admin"
_ID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_CHANGES = (WebhookNotFound, Refused)

router = APIRouter()

EventTypeName = Annotated[str, Field(min_length=1, max_length=60)]
ContractId = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateWebhookRequest:
    """Who is to be sent which events, from where on."""

    __pydantic_config__ = STRICT

    url: Annotated[
        str,
        Field(
            min_length=1, max_length=MAX_URL, description="Where events are posted to, by https.", examples=["https://erp.example/events"]
        ),
    ]
    event_types: Annotated[list[EventTypeName] | None, Field(min_length=1, max_length=100, description="Only events of these types.")] = (
        None
    )
    contract_ids: Annotated[list[ContractId] | None, Field(min_length=1, max_length=MAX_IDS, description="Only of these contracts.")] = None
    from_position: Annotated[
        int | None,
        Field(
            strict=True, ge=1, le=2**53 - 1, description="From the event at this position on; without it, from the next that is recorded."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayWebhookRequest:
    """From where everything is sent again."""

    __pydantic_config__ = STRICT

    from_position: Annotated[int, Field(strict=True, ge=1, le=2**53 - 1, description="The event to begin with.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipEventRequest:
    """Which event is given up."""

    __pydantic_config__ = STRICT

    position: Annotated[
        int, Field(strict=True, ge=1, le=2**53 - 1, description="The event's position, as the list of contracts that are held tells it.")
    ]


_read_webhook = TypeAdapter(CreateWebhookRequest).validator.validate_python
_read_replay = TypeAdapter(ReplayWebhookRequest).validator.validate_python
_read_skip = TypeAdapter(SkipEventRequest).validator.validate_python


async def _create_webhook(call: Call) -> Response:
    call.query(QueryModel)
    key = idempotency_key(call)
    body = await read_body(call.request)
    wanted: CreateWebhookRequest = _validated(_read_webhook, body)
    if fault := fault_of_url(wanted.url, _task(call).sender.networks):
        raise _fault("url", fault)
    _check_types(wanted)
    wish = Wish(
        url=wanted.url,
        event_types=wanted.event_types or [],
        contract_ids=[contract_id.lower() for contract_id in wanted.contract_ids or ()],
        position=await _position_before(call, wanted.from_position),
        created_by=call.principal.principal_id,
        key=key,
        canonical=canonical(body),
    )
    webhook, replayed = await subscriptions.create(call.services.reader.database, call.ledger, wish)
    _task(call).wake()
    headers = {"Location": f"/v1/ledgers/{call.ledger.name}/webhooks/{webhook.webhook_id}"}
    if replayed:
        return json_response(_answer(webhook), 201, headers | {"Idempotent-Replayed": "true"})
    return json_response(_answer(webhook, with_secret=True), 201, headers)


async def _position_before(call: Call, from_position: int | None) -> int:
    """Where a webhook stands that is sent what comes from a position on, or what comes next; Refused for one that leaves out events which
    are still to come."""
    head, _, _ = await call.services.reader.head(call.ledger)
    position = head if from_position is None else from_position - 1
    if position > head:
        raise _fault("from_position", f"the ledger has {head} events so far, so the greatest is {head + 1}")
    return position


def _check_types(wanted: CreateWebhookRequest) -> None:
    """Refused for a type that there is not, which would leave the webhook waiting for ever."""
    for index, name in enumerate(wanted.event_types or ()):
        if name not in EVENT_TYPES:
            raise _fault(f"event_types/{index}", f"there is no event type {name}; there are {', '.join(sorted(EVENT_TYPES))}")


def _validated(validate: Callable[[Any], Any], body: Any) -> Any:
    try:
        return validate(body)
    except ValidationError as error:
        raise refusal(error) from None


def _fault(member: str, detail: str) -> Refused:
    return Refused(f"/{member}: {detail}.", (MemberFault(f"/{member}", detail),))


def _task(call: Call) -> Any:
    return call.request.app.state.webhooks


async def _found(call: Call) -> Webhook:
    return await subscriptions.find(call.services.reader.database, call.ledger, call.id_in_path("webhook", WebhookNotFound))


async def _get_webhook(call: Call) -> Response:
    call.query(QueryModel)
    return json_response(_answer(await _found(call)))


async def _delete_webhook(call: Call) -> Response:
    call.query(QueryModel)
    await subscriptions.delete(call.services.reader.database, call.ledger, call.id_in_path("webhook", WebhookNotFound))
    _task(call).wake()
    return Response(status_code=204)


async def _list_webhooks(call: Call) -> Response:
    query, ledger, database = call.query(PageQuery), call.ledger, call.services.reader.database
    listed = f"webhooks of {ledger.ledger_id} {call.epoch}"
    after = place_in(listed, query.after, _ID) if query.after else _FIRST_ID
    found = await subscriptions.webhooks_after(database, ledger, after, query.limit + 1)
    more = cursor_in(listed, found[query.limit - 1].webhook_id) if len(found) > query.limit else None
    count, is_exact = counted(await subscriptions.count_webhooks(database, ledger) if query.count else None)
    items = [_answer(webhook) for webhook in found[: query.limit]]
    page = webhook_answers.WebhookPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


async def _list_held(call: Call) -> Response:
    query, webhook, database = call.query(PageQuery), await _found(call), call.services.reader.database
    listed = f"held by {webhook.webhook_id} {call.epoch}"
    after = place_in(listed, query.after, _ID) if query.after else _FIRST_ID
    found = await subscriptions.held(database, webhook, after, query.limit + 1)
    more = cursor_in(listed, found[query.limit - 1].contract_id) if len(found) > query.limit else None
    count, is_exact = counted(await subscriptions.count_held(database, webhook, MAX_COUNT + 1) if query.count else None)
    items = [_held_answer(hold) for hold in found[: query.limit]]
    page = webhook_answers.HeldContractPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


async def _list_attempts(call: Call) -> Response:
    query, webhook, database = call.query(PageQuery), await _found(call), call.services.reader.database
    listed = f"attempts of {webhook.webhook_id} {call.epoch}"
    before = place_in(listed, query.after, _ID) if query.after else None
    found = await subscriptions.attempts_before(database, webhook, before, query.limit + 1)
    more = cursor_in(listed, found[query.limit - 1].attempt_id) if len(found) > query.limit else None
    count, is_exact = counted(await subscriptions.count_attempts(database, webhook) if query.count else None)
    items = [_attempt_answer(attempt) for attempt in found[: query.limit]]
    page = webhook_answers.DeliveryAttemptPage(items=items, next=more, count=count, count_is_exact=is_exact)
    return json_response(page, 200, page_headers(call.request, more))


def _held_answer(hold: Hold) -> webhook_answers.HeldContract:
    return webhook_answers.HeldContract(
        contract_id=hold.contract_id,
        position=hold.position,
        status=hold.status,
        attempts=hold.attempts,
        failure=hold.failure,
        next_attempt_at=instant(hold.next_attempt_at) if hold.next_attempt_at else None,
    )


def _attempt_answer(attempt: Attempt) -> webhook_answers.DeliveryAttempt:
    return webhook_answers.DeliveryAttempt(
        attempt_id=attempt.attempt_id,
        attempted_at=instant(attempt.attempted_at),
        event_id=attempt.event_id,
        contract_id=attempt.contract_id,
        position=attempt.position,
        delivered=attempt.failure is None,
        milliseconds=attempt.milliseconds,
        status_code=attempt.status_code,
        failure=attempt.failure,
    )


async def _pause_webhook(call: Call) -> Response:
    return await _changed(call, subscriptions.set_status, PAUSED)


async def _resume_webhook(call: Call) -> Response:
    return await _changed(call, subscriptions.set_status, ACTIVE)


async def _rotate_secret(call: Call) -> Response:
    return await _changed(call, subscriptions.rotate, with_secret=True)


async def _retry_contract(call: Call) -> Response:
    return await _changed(call, subscriptions.retry, call.contract_id)


async def _skip_event(call: Call) -> Response:
    wanted: SkipEventRequest = _validated(_read_skip, await read_body(call.request))
    return await _changed(call, subscriptions.retry, call.contract_id, wanted.position)


async def _replay_webhook(call: Call) -> Response:
    wanted: ReplayWebhookRequest = _validated(_read_replay, await read_body(call.request))
    return await _changed(call, subscriptions.replay, await _position_before(call, wanted.from_position))


async def _changed(call: Call, change: Callable[..., Awaitable[Webhook]], *given: Any, with_secret: bool = False) -> Response:
    call.query(QueryModel)
    webhook = await change(call.services.reader.database, call.ledger, call.id_in_path("webhook", WebhookNotFound), *given)
    _task(call).wake()
    return json_response(_answer(webhook, with_secret=with_secret))


async def _test_webhook(call: Call) -> Response:
    call.query(QueryModel)
    webhook, sender = await _found(call), _task(call).sender
    event = {
        "specversion": "1.0",
        "id": str(uuid7()),
        "source": f"/v1/ledgers/{call.ledger.name}",
        "type": "webhook.test",
        "datacontenttype": "application/json",
        "data": {"webhook_id": webhook.webhook_id},
    }
    async with sender.client() as client:
        outcome = await sender.send(client, webhook.url, webhook.secrets, event["id"], orjson.dumps(event))
    return json_response(
        webhook_answers.TestDelivery(
            delivered=outcome.delivered, milliseconds=outcome.milliseconds, status_code=outcome.status_code, failure=outcome.failure
        )
    )


def _answer(webhook: Webhook, *, with_secret: bool = False) -> webhook_answers.Webhook:
    return webhook_answers.Webhook(
        webhook_id=webhook.webhook_id,
        url=webhook.url,
        status=webhook.status,
        position=webhook.position,
        created_at=instant(webhook.created_at),
        created_by=webhook.created_by,
        event_types=webhook.event_types or None,
        contract_ids=webhook.contract_ids or None,
        ended_because=webhook.ended_because,
        failures_in_a_row=webhook.failures or None,
        secret=webhook.secret if with_secret else None,
    )


def _route(method: str, path: str, handler: Callable[[Call], Awaitable[Response]], **documented: Any) -> None:
    documented.setdefault("problems", _CHANGES)
    route(router, method, path, _RIGHT, Documented(tag="webhooks", **documented), handler)


_ONE = {200: ("The webhook", webhook_answers.Webhook)}
_route(
    "POST",
    WEBHOOKS,
    _create_webhook,
    operation_id="create_webhook",
    summary="Have events sent to an endpoint",
    description=(
        "Each event is posted as a CloudEvent (JSON), signed by Standard Webhooks: in the order of its contract, at least once. The answer "
        "tells the secret, once. A request that is sent again with its Idempotency-Key makes nothing anew, and does not tell it again."
    ),
    body="CreateWebhookRequest",
    example={"url": "https://erp.example/events", "event_types": ["value.revised", "order.extended"]},
    answers={201: ("The webhook, with its secret", webhook_answers.Webhook)},
    problems=(Malformed, KeyRequired, TooManyWebhooks, BodyTooLarge, UnsupportedMediaType, Refused, KeyReused, Unavailable),
    appends=True,
)
_route(
    "GET",
    WEBHOOKS,
    _list_webhooks,
    operation_id="list_webhooks",
    summary="The webhooks of the ledger",
    description="In the order they were made.",
    query=PageQuery,
    answers={200: ("A page of webhooks", webhook_answers.WebhookPage)},
    problems=(Malformed, Refused, HistoryForked),
    paged=True,
)
_route(
    "GET",
    WEBHOOK,
    _get_webhook,
    operation_id="get_webhook",
    summary="One webhook, and how far it is",
    description="Everything up to `position` was delivered, or belongs to a contract that is held.",
    answers=_ONE,
)
_route(
    "DELETE",
    WEBHOOK,
    _delete_webhook,
    operation_id="delete_webhook",
    summary="Send nothing more, and forget the webhook",
    description="What is on its way at this moment may still arrive.",
    answers={204: ("It is gone", None)},
)
for _word, _handler, _summary, _description in (
    ("pause", _pause_webhook, "Send nothing for a while", "Nothing is lost: once it is resumed, it goes on where it was."),
    ("resume", _resume_webhook, "Go on", "Also with a webhook that its endpoint ended with 410 Gone."),
    (
        "rotate-secret",
        _rotate_secret,
        "Give it a new secret",
        f"The answer tells it, once. For {subscriptions.BOTH_SECRETS_HOURS} hours deliveries are signed with those before too.",
    ),
):
    _route(
        "POST",
        f"{WEBHOOK}/{_word}",
        _handler,
        operation_id="rotate_webhook_secret" if _word == "rotate-secret" else f"{_word}_webhook",
        summary=_summary,
        description=_description,
        answers=_ONE,
    )
_route(
    "POST",
    WEBHOOK + "/test",
    _test_webhook,
    operation_id="test_webhook",
    summary="Send a test at once",
    description="An event of type `webhook.test`, signed like any other; the answer tells what the endpoint made of it.",
    answers={200: ("What came of it", webhook_answers.TestDelivery)},
)
_route(
    "POST",
    WEBHOOK + "/replay",
    _replay_webhook,
    operation_id="replay_webhook",
    summary="Send everything from a position on again",
    description="Also what was given up. A position beyond what was delivered changes nothing.",
    body="ReplayWebhookRequest",
    example={"from_position": 1},
    answers=_ONE,
    problems=(Malformed, *_CHANGES, BodyTooLarge, UnsupportedMediaType),
)
_route(
    "GET",
    WEBHOOK + "/held",
    _list_held,
    operation_id="list_held_contracts",
    summary="The contracts that the webhook holds back",
    description="Of each an event could not be delivered; the events of others go on.",
    query=PageQuery,
    answers={200: ("A page of contracts", webhook_answers.HeldContractPage)},
    problems=(Malformed, *_CHANGES, HistoryForked),
    paged=True,
)
_route(
    "POST",
    WEBHOOK + "/held/{contract_id}/retry",
    _retry_contract,
    operation_id="retry_held_contract",
    summary="Try a contract again now",
    description="From its first event that was not delivered on; also one that was given up.",
    answers=_ONE,
    problems=(*_CHANGES, ContractNotHeld),
)
_route(
    "POST",
    WEBHOOK + "/held/{contract_id}/skip",
    _skip_event,
    operation_id="skip_held_event",
    summary="Give up one event of a contract",
    description="The first that was not delivered, by its position: asked twice, no other is given up. What comes after it is tried.",
    body="SkipEventRequest",
    example={"position": 7},
    answers=_ONE,
    problems=(Malformed, *_CHANGES, ContractNotHeld, BodyTooLarge, UnsupportedMediaType),
)
_route(
    "GET",
    WEBHOOK + "/attempts",
    _list_attempts,
    operation_id="list_delivery_attempts",
    summary="What was sent, and what came of it",
    description=f"The newest first; of the last {subscriptions.KEPT_ATTEMPTS:,} attempts.",
    query=PageQuery,
    answers={200: ("A page of attempts", webhook_answers.DeliveryAttemptPage)},
    problems=(Malformed, *_CHANGES, HistoryForked),
    paged=True,
)
