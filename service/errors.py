"""Every failure, declared once: a code, a status, a title; the sentence is made where the failure is met.

A `LedgerError` becomes an RFC 9457 problem of type `urn:problem-type:contract-ledger:<code>` by the one handler in `api.problems`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class OperatorError(Exception):
    """A command cannot go on; the one sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class MemberFault:
    """One fault in what was sent: where (an RFC 6901 pointer into the body, or `query:name`, `header:name`) and why."""

    pointer: str
    detail: str


class LedgerError(Exception):
    """A request fails; subclasses declare the code, the status and the title."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something failed inside the service"
    to_be_retried: ClassVar[bool] = False
    """Whether the problem goes on to say how to send the request again, which for an append is another way than for a read."""

    def __init__(self, detail: str, errors: tuple[MemberFault, ...] = (), **members: int | str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.members = members


class Malformed(LedgerError):
    code, status, title = "malformed", 400, "The request cannot be read"


class KeyRequired(LedgerError):
    code, status, title = "idempotency-key-required", 400, "An append needs an Idempotency-Key"


class Unauthorized(LedgerError):
    code, status, title = "unauthorized", 401, "A valid key is needed"


class Forbidden(LedgerError):
    code, status, title = "forbidden", 403, "The key does not carry this right"


class NotFound(LedgerError):
    code, status, title = "not-found", 404, "There is no such thing"


class LedgerNotFound(LedgerError):
    code, status, title = "ledger-not-found", 404, "There is no such ledger"


class ContractNotFound(LedgerError):
    code, status, title = "contract-not-found", 404, "There is no such contract"


class EventNotFound(LedgerError):
    code, status, title = "event-not-found", 404, "There is no such event"


class ImportNotFound(LedgerError):
    code, status, title = "import-not-found", 404, "There is no such import"


class ReplayNotFound(LedgerError):
    code, status, title = "replay-not-found", 404, "There is no such replay"


class WebhookNotFound(LedgerError):
    code, status, title = "webhook-not-found", 404, "There is no such webhook"


class ContractNotHeld(LedgerError):
    code, status, title = "contract-not-held", 404, "The webhook does not hold back this contract"


class TooManyWebhooks(LedgerError):
    code, status, title = "too-many-webhooks", 409, "The ledger has as many webhooks as it may"


class MethodNotAllowed(LedgerError):
    code, status, title = "method-not-allowed", 405, "This address does not answer that method"

    def __init__(self, detail: str, allowed: Sequence[str]) -> None:
        super().__init__(detail)
        self.allowed = allowed


class NotAllowedNow(LedgerError):
    """A hard rule of the domain refuses the event; `rule` names it."""

    code, status, title = "not-allowed-now", 409, "The contract does not allow this now"

    def __init__(self, rule: str, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail, () if pointer is None else (MemberFault(pointer, detail),), rule=rule)
        self.rule = rule


class EventExists(LedgerError):
    code, status, title = "event-exists", 409, "The ledger has an event with this id"


class ReferenceTaken(LedgerError):
    """A reference of a scheme that is unique in the ledger; `contract_id` names the holder."""

    code, status, title = "reference-taken", 409, "Another contract holds the reference"

    def __init__(self, scheme: str, reference_id: str, contract_id: str) -> None:
        detail = f"Contract {contract_id} holds the reference {scheme}:{reference_id}, and the scheme is unique in this ledger."
        super().__init__(detail, (MemberFault("/data/references", detail),), contract_id=contract_id)


class HeldBack(LedgerError):
    code, status, title = "held-back", 409, "An earlier line of this contract was refused"


class ImportOfAnother(LedgerError):
    code, status, title = "import-of-another", 409, "The import was begun by another principal"


class ReplayRuns(LedgerError):
    """A replay like the one that is asked for waits or runs; `replay_id` names it."""

    code, status, title = "replay-runs", 409, "Such a replay waits or runs already"

    def __init__(self, kind: str, replay_id: str) -> None:
        super().__init__(f"Replay {replay_id} is the same {kind}, and has not ended: wait for it, or cancel it.", (), replay_id=replay_id)


class ReplayEnded(LedgerError):
    code, status, title = "replay-ended", 409, "The replay has an outcome"


class ReplayUnfinished(LedgerError):
    code, status, title = "replay-unfinished", 409, "The replay has no book"


class TooManyReplays(LedgerError):
    code, status, title = "too-many-replays", 409, "Too many replays of the ledger wait or run"


class LedgerConflict(LedgerError):
    code, status, title = "ledger-exists", 409, "The ledger exists with other settings"


class ReferencesShared(LedgerError):
    """A scheme cannot be declared unique while contracts share a reference of it; `errors` name them."""

    code, status, title = "references-shared", 409, "Contracts share a reference of the scheme"


class HistoryForked(LedgerError):
    code, status, title = "history-forked", 409, "This belongs to another history"


class StaleRevision(LedgerError):
    code, status, title = "stale-revision", 412, "The contract has moved on"

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(
            f"If-Match names revision {expected}, and the contract is at revision {current}. Read the contract again, "
            f'decide anew, and send If-Match: "{current}" (with the same Idempotency-Key, since nothing was recorded).',
            expected_revision=expected,
            current_revision=current,
        )


class NothingToMatch(LedgerError):
    code, status, title = "nothing-to-match", 412, "An opening has no contract yet that If-Match could name"


class BodyTooLarge(LedgerError):
    code, status, title = "body-too-large", 413, "The body is too large"


class UnsupportedMediaType(LedgerError):
    code, status, title = "unsupported-media-type", 415, "The body must be application/json"


class LinesUnsupported(UnsupportedMediaType):
    title = "The body must be application/x-ndjson"


class Refused(LedgerError):
    """The content breaks the schema or a rule of data; `errors` name each place."""

    code, status, title = "refused", 422, "The content is refused"


class KeyReused(LedgerError):
    code, status, title = "idempotency-key-reused", 422, "The Idempotency-Key was used for another body"


class LineChanged(LedgerError):
    code, status, title = "line-changed", 422, "The line was recorded with another content before"


class AnomaliesRefused(LedgerError):
    code, status, title = "anomalies-refused", 422, "The event would be flagged, and a strict request or ledger refuses that"


class RevisionRequired(LedgerError):
    code, status, title = "if-match-required", 428, "This ledger requires If-Match on an append"


class TooManyRequests(LedgerError):
    """The caller sends more than a principal may; `retry_after_seconds` says when there is room again."""

    code, status, title = "too-many-requests", 429, "This principal sends too many requests"
    to_be_retried = True

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Internal(LedgerError):
    to_be_retried = True


class Unavailable(LedgerError):
    """Try again later; `retry_after_seconds` says when."""

    code, status, title = "unavailable", 503, "Not now; try again later"
    retry_after_seconds: ClassVar[int] = 1


class DatabaseUnreachable(Unavailable):
    code, title = "database-unreachable", "The database cannot be reached"
    to_be_retried = True


class IssuerUnreachable(Unavailable):
    code, title = "issuer-unreachable", "The issuer of access tokens cannot be asked for its keys"
    retry_after_seconds = 10
    to_be_retried = True


class OutlookBehind(Unavailable):
    code, title = "outlook-behind", "What is asked for is being made; ask again"


class PartyNotFound(LedgerError):
    code, status, title = "party-not-found", 404, "No contract has such a party"


class QueueFull(Unavailable):
    code, title = "queue-full", "Too many requests wait for this ledger"


class DeadlinePassed(Unavailable):
    code, title = "deadline-passed", "The request waited too long and was not begun"


class OutcomeUnknown(Unavailable):
    code, title = "outcome-unknown", "Whether the request was recorded is not known"


class ClockUntrusted(Unavailable):
    code, title = "clock-untrusted", "The clocks disagree, so nothing is recorded"
    retry_after_seconds = 30


class BooksBusy(Unavailable):
    code, title = "books-busy", "As many books are told as this process can tell at a time"
    retry_after_seconds = 10


class FeedBusy(Unavailable):
    code, title = "feed-busy", "As many requests wait for events as this process can hold"
    retry_after_seconds = 5


class HistoryLost(Unavailable):
    code, title = "history-lost", "The database lacks an event that this deployment had committed"
    retry_after_seconds = 60


class StoreUnusable(Unavailable):
    code, title = "checkpoint-store-unusable", "The store of kept checkpoints cannot be used, so nothing is signed"
    retry_after_seconds = 60


class ProjectionUnknown(Unavailable):
    code, title = "projection-unknown", "The ledger's projection has a layout that this release does not know"
    retry_after_seconds = 60


class NotSigned(Unavailable):
    code, title = "not-signed", "There is no signed checkpoint to tell of"
    retry_after_seconds = 60


class CheckpointNotFound(LedgerError):
    code, status, title = "checkpoint-not-found", 404, "No checkpoint of this size was signed"


class TreeUnknown(Unavailable):
    code, title = "tree-unknown", "The tree of the ledger's log is not built yet"
    retry_after_seconds = 60
