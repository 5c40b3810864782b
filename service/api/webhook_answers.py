"""What is answered about webhooks."""

import msgspec


class Webhook(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Who is sent events, and how far that is: everything up to `position` was delivered, or its contract is held.

    `status` is `active`, `paused` or `ended`. `failures_in_a_row` counts events that failed when they were tried for the first
    time. `secret` is shown when it is made and never again.
    """

    webhook_id: str
    url: str
    status: str
    position: int
    created_at: str
    created_by: str
    event_types: list[str] | None = None
    contract_ids: list[str] | None = None
    ended_because: str | None = None
    failures_in_a_row: int | None = None
    secret: str | None = None


class WebhookPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[Webhook]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class HeldContract(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A contract of which nothing is sent from `position` on, since that event could not be delivered.

    `status` is `retrying` or, once it was given up, `dead`: then it stays so until somebody has it tried again.
    """

    contract_id: str
    position: int
    status: str
    attempts: int
    failure: str
    next_attempt_at: str | None = None


class HeldContractPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[HeldContract]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class DeliveryAttempt(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event that was sent once, or was to be: `failure` says why it was not delivered."""

    attempt_id: str
    attempted_at: str
    event_id: str
    contract_id: str
    position: int
    delivered: bool
    milliseconds: int
    status_code: int | None = None
    failure: str | None = None


class DeliveryAttemptPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[DeliveryAttempt]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None


class TestDelivery(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the endpoint made of a test: an event of type `webhook.test`, which is none of the ledger's."""

    delivered: bool
    milliseconds: int
    status_code: int | None = None
    failure: str | None = None
