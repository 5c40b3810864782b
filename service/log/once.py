"""Requests that take effect once: a retry is told from another request by its Idempotency-Key and the salted digest of its body."""

import hashlib
from typing import Any, LiteralString, Protocol

from service.database import Database
from service.errors import KeyReused
from service.log.header import new_salts
from service.log.ledger import Ledger


class Keyed(Protocol):
    """A request with a key: 16 bytes for who asked what under which key, and the canonical JSON of its body."""

    @property
    def key(self) -> bytes: ...

    @property
    def canonical(self) -> bytes: ...


def request_digest(salt: bytes, canonical: bytes) -> bytes:
    """What is kept of a body: without its salt, a guess at it could be tried."""
    return hashlib.sha256(salt + canonical).digest()


def check_same(salt: bytes, digest: bytes, canonical: bytes) -> None:
    """KeyReused unless a body is the one that was digested."""
    if request_digest(salt, canonical) != digest:
        raise KeyReused(
            "This Idempotency-Key came with another body before. A key stands for one request: use a new one for a new request."
        )


def kept_of(request: Keyed) -> dict[str, bytes]:
    """What is kept of a request beside what it made: the columns request_key, salt, request_digest."""
    salt = new_salts(1)[0]
    return {"request_key": request.key, "salt": salt, "request_digest": request_digest(salt, request.canonical)}


async def made_before(database: Database, statement: LiteralString, ledger: Ledger, request: Keyed) -> str | None:
    """The id of what a request made before, by a statement that finds id, salt and digest for `ledger_id` and `request_key`; None for a
    new request. KeyReused when its key came with another body."""
    rows: list[tuple[Any, ...]] = await database.rows(statement, {"ledger_id": ledger.ledger_id, "request_key": request.key})
    if not rows:
        return None
    made, salt, digest = rows[0]
    check_same(salt, digest, request.canonical)
    return str(made)
