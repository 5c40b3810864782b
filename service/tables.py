"""The tables, as SQLAlchemy Core knows them; `service.inserts` makes the statements that insert their rows.

Every key begins with `ledger_id`: the ledger is the tenant, the unit of order and the shard. The migrations write the same tables in
SQL, and a test holds the two equal. What only the migrations hold: the triggers that refuse changes, and the privileges.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

metadata = MetaData(
    naming_convention={"pk": "%(table_name)s_pkey", "uq": "%(table_name)s_%(column_0_N_name)s_key", "ck": "%(constraint_name)s"}
)
_instant = DateTime(timezone=True)
_LONG = {"is_long": True}
"""Of a column of texts or bytes that are inserted apart from the other values of a row (docs/decisions/0020)."""

ledgers = Table(
    "ledgers",
    metadata,
    Column("ledger_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("time_zone", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("1")),
    Column("generation", Integer, nullable=False, server_default=text("1")),
    Column("layout", Integer, nullable=False),
    Column("if_match_required", Boolean, nullable=False, server_default=text("false")),
    Column("unique_reference_schemes", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("public_log", Boolean, nullable=False, server_default=text("false")),
    Column("strict", Boolean, nullable=False, server_default=text("false")),
    Column("clock_accepted_at", _instant),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
)
"""Books of contracts. `generation` names the rows of the projections that are live, `layout` the shape they have."""

ledger_locks = Table("ledger_locks", metadata, Column("ledger_id", Uuid, primary_key=True))
"""One static row a ledger; its lock is the order of the log. Nothing references it and nothing ever changes it."""

batches = Table(
    "batches",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column("recorded_at", _instant, nullable=False),
    Column("frontier", LargeBinary),
    PrimaryKeyConstraint("ledger_id", "last_position"),
    Index("batches_recorded_at", "ledger_id", "recorded_at"),
)
"""The heads of the log, one row a commit; the newest is the head. A ledger begins with the row of position 0. `frontier` is what the tree
of so many leaves leaves open; a batch that is older than the tree has none until `migrate` has built it."""

tiles = Table(
    "tiles",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("level", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    Column("root", LargeBinary, nullable=False),
    PrimaryKeyConstraint("ledger_id", "level", "number"),
    CheckConstraint("octet_length(hashes) = 8192", name="tiles_hashes_check"),
    CheckConstraint("octet_length(root) = 32", name="tiles_root_check"),
)
"""The full tiles of the tree (C2SP tlog-tiles): 256 hashes, of events at level 0 and of the roots of tiles above it, and their own root."""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "epoch", "size"),
)
"""The checkpoints that were signed, as signed notes: one root for a size, for ever."""

signing_times = Table(
    "signing_times",
    metadata,
    Column("ledger_id", Uuid, primary_key=True),
    Column("signed_at", _instant, nullable=False),
)
"""When the last checkpoint of a ledger was signed, so that the next is not signed within a second."""

deployment = Table(
    "deployment",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("name", Text, nullable=False),
    CheckConstraint("one", name="deployment_one_check"),
)
"""The one name of what runs on this database, in the origin of every checkpoint."""

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("public_key", LargeBinary, primary_key=True),
    Column("registered_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    Column("retired_at", _instant),
)
"""The keys that sign checkpoints; a process with another key signs none."""

epochs = Table(
    "epochs",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("begun_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    Column("note", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "epoch"),
)
"""The epochs that operators began after the first, each with the signed checkpoint that it begins with."""

witnesses = Table(
    "witnesses",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("verifier_key", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "name"),
)
"""Who is asked to cosign a ledger's checkpoints: by the name in its verifier key."""

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("line", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "epoch", "size", "name"),
)
"""What witnesses cosigned, as the line that stands under the checkpoint."""

events = Table(
    "events",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("recorded_at", _instant, nullable=False),
    Column("header", LargeBinary, nullable=False, info=_LONG),
    Column("event_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("ledger_id", "position"),
    UniqueConstraint("ledger_id", "contract_id", "revision"),
    UniqueConstraint("ledger_id", "event_id"),
    CheckConstraint("event_hash = sha256('\\x00'::bytea || header)", name="events_hash_check"),
    CheckConstraint("octet_length(header) <= 4096", name="events_header_check"),
)
"""The log: the header's bytes as hashed, and columns copied from them for queries."""

payloads = Table(
    "payloads",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False, info=_LONG),
    Column("sealed", LargeBinary),
    PrimaryKeyConstraint("ledger_id", "position"),
)
"""The bodies of events, apart from the log, so that one can be erased while every proof stays. `sealed` holds the values and salts of
what is sealed; no other column does, and nothing reads it but for a reader with the right, and to verify."""

contracts = Table(
    "contracts",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("last_on", Date, nullable=False),
    Column("has_pending", Boolean, nullable=False),
    Column("settled_on", Date, nullable=False),
    Column("holds_until", Date),
    Column("filters", ARRAY(Text), nullable=False),
    Column("state", Text, nullable=False, info=_LONG),
    Column("beside", Text, nullable=False, info=_LONG),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id"),
    Index("contracts_filters", "filters", postgresql_using="gin"),
    Index("contracts_signed_on", "ledger_id", "generation", text("(filters[1])"), "contract_id"),
    Index("contracts_ends_on", "ledger_id", "generation", text("(filters[2])"), "contract_id"),
    Index("contracts_holds_until", "ledger_id", "generation", "holds_until", postgresql_where=text("holds_until IS NOT NULL")),
)
"""The current state of contracts: exactly the fold of the log. `state` and `beside` are canonical JSON, kept as text. The first two of
`filters` are the days that lists are sorted by."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("delivery_id", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id", "delivery_id"),
)
"""Ids of recorded deliveries, which are too many to stand in a contract's state and must be unique in it."""

outlook_heads = Table(
    "outlook_heads",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("filled_to", Uuid),
    PrimaryKeyConstraint("ledger_id", "generation"),
)
"""How far the outlook of a ledger follows its log; while it is first filled, `filled_to` names the last contract that is in it."""

outlooks = Table(
    "outlooks",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("outlook", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id"),
)
"""What a contract has contributed to deadlines, commitments and parties, as JSON: so that it can be taken out again."""

deadlines = Table(
    "deadlines",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("counts_on", Date, nullable=False),
    Column("kind", Text, nullable=False),
    Column("deadline", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "contract_id", "number"),
    Index("deadlines_counts_on", "ledger_id", "generation", "counts_on", "contract_id", "number"),
)

commitments = Table(
    "commitments",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("by_party", Boolean, nullable=False),
    Column("by_product", Boolean, nullable=False),
    Column("party", Text(collation="C"), nullable=False),
    Column("product", Text(collation="C"), nullable=False),
    Column("currency", Text(collation="C"), nullable=False),
    Column("unit", Text(collation="C"), nullable=False),
    Column("year", Text(collation="C"), nullable=False),
    Column("basis", Text(collation="C"), nullable=False),
    Column("status", Text(collation="C"), nullable=False),
    Column("committed_low", Numeric, nullable=False),
    Column("committed_high", Numeric, nullable=False),
    Column("delivered", Numeric, nullable=False),
    Column("remaining_low", Numeric, nullable=False),
    Column("remaining_high", Numeric, nullable=False),
    Column("lines", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        "ledger_id", "generation", "by_party", "by_product", "party", "product", "currency", "unit", "year", "basis", "status"
    ),
)
"""Sums of the lines of all contracts: over all parties or by party, over all products or by product. One without lines is not kept."""

parties = Table(
    "parties",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("party_id", Text(collation="C"), nullable=False),
    Column("digest", Text(collation="C"), nullable=False),
    Column("form", Text, nullable=False),
    Column("words", ARRAY(Text), nullable=False),
    Column("contracts", BigInteger, nullable=False),
    PrimaryKeyConstraint("ledger_id", "generation", "party_id", "digest"),
    Index("parties_words", "words", postgresql_using="gin"),
)
"""Parties as contracts state them: each form (name, roles, identifiers, relation, as JSON) with how many contracts state it."""
unique_references = Table(
    "unique_references",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("scheme", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    PrimaryKeyConstraint("ledger_id", "scheme", "id"),
    Index("unique_references_contract_id", "ledger_id", "contract_id"),
)
"""The contract that holds a reference, for the schemes that its ledger declares unique and for no others."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("receipt", Text, nullable=False, info=_LONG),
    PrimaryKeyConstraint("ledger_id", "key"),
)
"""Receipts by key (16 bytes of SHA-256 of principal, method, path and Idempotency-Key), with the request's salted digest, which
is empty once something of the request is erased: then the key alone answers."""

imports = Table(
    "imports",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("import_id", Uuid, nullable=False),
    Column("recorded_by", Uuid, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("recorded", BigInteger, nullable=False, server_default=text("0")),
    Column("refused", BigInteger, nullable=False, server_default=text("0")),
    Column("held_back", BigInteger, nullable=False, server_default=text("0")),
    Column("last_line", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("ledger_id", "import_id"),
)
"""Imports, each with what has become of its lines so far; the counts are written with the lines."""

import_lines = Table(
    "import_lines",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("import_id", Uuid, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("position", BigInteger),
    Column("digest", LargeBinary),
    Column("contract_id", Uuid),
    Column("code", Text),
    Column("rule", Text),
    Column("pointer", Text),
    Column("detail", Text),
    PrimaryKeyConstraint("ledger_id", "import_id", "line"),
    Index("import_lines_refused", "ledger_id", "import_id", "line", postgresql_where=text("position IS NULL")),
)
"""The fate of each line: the position it was recorded at, with the line's digest under the import's salt, or why it was not. Never what
it held; an erasure clears the digest, and the number alone answers from then on."""

replays = Table(
    "replays",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("replay_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("known_position", BigInteger),
    Column("effective_on", Date),
    Column("requested_by", Uuid),
    Column("request_key", LargeBinary),
    Column("salt", LargeBinary),
    Column("request_digest", LargeBinary),
    Column("software_version", Text, nullable=False),
    Column("head", BigInteger),
    Column("head_hash", LargeBinary),
    Column("head_root", LargeBinary),
    Column("events", BigInteger, nullable=False, server_default=text("0")),
    Column("total", BigInteger, nullable=False, server_default=text("0")),
    Column("contracts", BigInteger, nullable=False, server_default=text("0")),
    Column("erased", BigInteger, nullable=False, server_default=text("0")),
    Column("changed", BigInteger, nullable=False, server_default=text("0")),
    Column("difference_at", Text),
    Column("difference", Text),
    Column("failure", Text),
    Column("digest", LargeBinary),
    Column("course", Text),
    Column("seconds", Double, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("worker", Uuid),
    Column("leased_until", _instant),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    Column("started_at", _instant),
    Column("ended_at", _instant),
    PrimaryKeyConstraint("ledger_id", "replay_id"),
    Index(
        "replays_at_work",
        *("ledger_id", "kind", "known_position", "effective_on"),
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=text("status IN ('waiting', 'running')"),
    ),
    Index("replays_request_key", "ledger_id", "request_key", unique=True, postgresql_where=text("request_key IS NOT NULL")),
)
"""Replays, from the wish to the verdict: the history of all runs. No part of the log. `course` is what a walk goes on from, `worker` who
runs it, until `leased_until` unless that is moved on. They hold positions and counts, and nothing of what events say."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("webhook_id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    Column("event_types", ARRAY(Text), nullable=False),
    Column("contract_ids", ARRAY(Uuid), nullable=False),
    Column("status", Text, nullable=False),
    Column("ended_because", Text),
    Column("secret", Text, nullable=False),
    Column("previous_secrets", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("previous_until", _instant),
    Column("position", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("created_by", Uuid, nullable=False),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    Column("request_key", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("worker", Uuid),
    Column("leased_until", _instant),
    PrimaryKeyConstraint("ledger_id", "webhook_id"),
    Index("webhooks_request_key", "ledger_id", "request_key", unique=True),
)
"""Who is sent a ledger's events, from which position on: everything up to it was delivered, or its contract is held. `worker` delivers
until `leased_until`; `version` counts what was changed from outside. The secrets stand here in full, since they sign."""

webhook_holds = Table(
    "webhook_holds",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("webhook_id", Uuid, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", _instant),
    Column("failure", Text, nullable=False),
    PrimaryKeyConstraint("ledger_id", "webhook_id", "contract_id"),
)
"""The contracts that a webhook holds back: of each the position of the first event that could not be delivered, to be tried again or given
up. Positions, and nothing of what events say."""

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("ledger_id", Uuid, nullable=False),
    Column("webhook_id", Uuid, nullable=False),
    Column("attempt_id", Uuid, nullable=False),
    Column("attempted_at", _instant, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("contract_id", Uuid, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("status_code", Integer),
    Column("failure", Text),
    Column("milliseconds", Integer, nullable=False),
    PrimaryKeyConstraint("ledger_id", "webhook_id", "attempt_id"),
)
"""The newest attempts to deliver: which event, when, and what was answered."""

principals = Table(
    "principals",
    metadata,
    Column("principal_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
)
"""Who records and reads; the log knows them by id only."""

grants = Table(
    "grants",
    metadata,
    Column("principal_id", Uuid, ForeignKey("principals.principal_id", name="grants_principal_id_fkey"), nullable=False),
    Column("ledger_id", Uuid),
    Column("rights", ARRAY(Text), nullable=False),
    UniqueConstraint("principal_id", "ledger_id", postgresql_nulls_not_distinct=True),
)
"""Rights of a principal in a ledger; without a ledger, in all of them."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Uuid, primary_key=True),
    Column("principal_id", Uuid, ForeignKey("principals.principal_id", name="api_keys_principal_id_fkey"), nullable=False),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", _instant, nullable=False, server_default=text("clock_timestamp()")),
    Column("expires_at", _instant),
    Column("revoked_at", _instant),
)
"""Keys, as SHA-256 of their text."""
