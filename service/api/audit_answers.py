"""What the service answers of the audit of a log, as classes: checkpoints and proofs, and replays."""

import msgspec


class CheckpointKey(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A key that signs checkpoints of a ledger, as verifiers pin it (C2SP signed-note), and for how long it has signed."""

    verifier_key: str
    registered_at: str
    retired_at: str | None = None


class CheckpointKeys(msgspec.Struct, kw_only=True):
    """The keys of a ledger's checkpoints, the oldest first."""

    origin: str
    keys: list[CheckpointKey]


class Consistency(msgspec.Struct, kw_only=True):
    """The proof that the tree of `to` continues that of `from` (RFC 6962, section 2.1.2): hashes in base64."""

    from_: int = msgspec.field(name="from")
    to: int
    path: list[str]


class InclusionProof(msgspec.Struct, kw_only=True):
    """The proof that an event is in the tree of a checkpoint (RFC 6962, section 2.1.1): hashes in base64, the leaf's sibling first."""

    event_id: str
    position: int
    index: int
    size: int
    leaf_hash: str
    path: list[str]
    checkpoint: str


class Epoch(msgspec.Struct, kw_only=True):
    """An epoch that an operator began, and the signed checkpoint that it begins with."""

    epoch: int
    begun_at: str
    checkpoint: str


class Epochs(msgspec.Struct, kw_only=True):
    """The epoch of a ledger's history, and those that were begun, the oldest first."""

    epoch: int
    begun: list[Epoch]


class ReplayHead(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The last event that a replay is of: its position, and its hash unless the ledger is empty; and the root of the tree that ends there,
    where a batch ends, as a checkpoint of this size states it.

    `checkpoint` is the first signed note that covers it, of `checkpoint_size` events. Where that is more than the position,
    `checkpoint_path`, of a replay that is asked for by its id, proves that its tree continues the root (RFC 6962, section 2.1.2): hashes in
    base64.
    """

    position: int
    event_hash: str | None = None
    root: str | None = None
    checkpoint: str | None = None
    checkpoint_size: int | None = None
    checkpoint_path: list[str] | None = None


class ReplayDifference(msgspec.Struct, kw_only=True):
    """The first place at which what is stored is not what the log says."""

    where: str
    sentence: str


class Replay(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A replay: how far it is, and what it has found. `events_per_second` is the mean over the time that it was worked on.

    `book_digest` is that of a book's lines but the last, which says it too: SHA-256 of the first, and from each line to the next SHA-256 of
    the digest so far and the line.
    """

    replay_id: str
    kind: str
    status: str
    created_at: str
    software_version: str
    events_done: int
    events_total: int
    contracts_done: int
    worked_milliseconds: int
    started_at: str | None = None
    ended_at: str | None = None
    requested_by: str | None = None
    events_per_second: int | None = None
    seconds_left: int | None = None
    erased_events: int | None = None
    changed_contracts: int | None = None
    head: ReplayHead | None = None
    known_position: int | None = None
    effective_on: str | None = None
    verdict: str | None = None
    difference: ReplayDifference | None = None
    failure: str | None = None
    book_digest: str | None = None


class ReplayPage(msgspec.Struct, omit_defaults=True, kw_only=True):
    items: list[Replay]
    next: str | None = None
    count: int | None = None
    count_is_exact: bool | None = None
