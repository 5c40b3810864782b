"""Who may do what: API keys and access tokens, the principals they stand for, and the principals' rights in ledgers."""

import hashlib
import math
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from service.database import Database
from service.errors import Forbidden, TooManyRequests, Unauthorized
from service.remembered import Remembered

if TYPE_CHECKING:
    from service.tokens import Issuer

RIGHTS = ("contracts:read", "contracts:write", "sealed:read", "audit:read", "ledger:admin")
CACHE_SECONDS = 5
MIN_KEY_LENGTH = 32
BURST_SECONDS = 10
RATE_BUCKETS = 10_000
_PREFIX = "cl_"
_SUBJECTS = UUID("5f0b3f0e-6f0c-5c0e-9d53-3f1c0c1f6b7a")
_TOKEN = re.compile(r"eyJ[^.]*\.[^.]*\.[^.]*")
"""How every JWT looks: three parts, of which the first is a JSON object in base64."""

FIND_KEY = """
SELECT k.principal_id::text, k.expires_at, g.ledger_id::text, g.rights
FROM api_keys k LEFT JOIN grants g USING (principal_id)
WHERE k.key_hash = %(key_hash)s AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
"""
FIND_PRINCIPAL = """
SELECT g.ledger_id::text, g.rights FROM principals LEFT JOIN grants g USING (principal_id) WHERE principal_id = %(principal_id)s::uuid
"""
ADD_PRINCIPAL = """
INSERT INTO principals (principal_id, name) VALUES (%(principal_id)s::uuid, %(name)s) ON CONFLICT DO NOTHING RETURNING name
"""
LEDGER_IDS = "SELECT name, ledger_id::text FROM ledgers WHERE name = ANY(%(names)s)"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an opaque id, and rights by ledger_id (under None: in every ledger)."""

    principal_id: str
    rights: dict[str | None, frozenset[str]]

    def may(self, right: str, ledger_id: str | None) -> bool:
        return right in self.rights.get(None, ()) or (ledger_id is not None and right in self.rights.get(ledger_id, ()))

    def ledgers(self, *rights: str) -> list[str] | None:
        """The ledger_ids of the ledgers in which the principal has any of the rights; None for all ledgers."""
        if any(self.may(right, None) for right in rights):
            return None
        return [ledger_id for ledger_id, given in self.rights.items() if ledger_id is not None and not given.isdisjoint(rights)]

    def require(self, right: str, ledger_id: str | None) -> None:
        """Forbidden unless the principal has the right in the ledger."""
        if not self.may(right, ledger_id):
            raise Forbidden(
                f"This key or token lacks the right {right} here; `contract-ledger keys create --right {right}` makes a key that has it."
            )


def new_key() -> str:
    """A key with 256 random bits, shown once."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def principal_of_subject(issuer: str, subject: str) -> str:
    """The principal_id of whom an issuer names so: always the same, whatever the token."""
    return str(uuid5(_SUBJECTS, f"{issuer}\n{subject}"))


class Rates:
    """How much each principal sends: at most so many requests a second, and those of BURST_SECONDS at once."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._used_until: dict[str, float] = {}
        """By principal: the moment until which what it has sent would have taken, had it been sent evenly."""

    def __len__(self) -> int:
        return len(self._used_until)

    def take(self, principal_id: str, now: float) -> None:
        """Count a request. TooManyRequests when there is no room for it."""
        used_until = max(self._used_until.get(principal_id, now), now) + 1 / self._per_second
        wait = used_until - now - BURST_SECONDS
        if wait > 1e-6:  # what is left of adding fractions of a second is nobody's excess
            raise TooManyRequests(
                f"A principal may send {self._per_second} requests a second.",
                math.ceil(wait),
            )
        if len(self._used_until) >= RATE_BUCKETS:
            self._used_until = {name: until for name, until in self._used_until.items() if until > now}
        self._used_until[principal_id] = used_until


class Keyring:
    """Finds the principal behind a key or a token; remembers it for a few seconds, so that a revoked key ends soon."""

    def __init__(self, database: Database, rates: Rates | None = None, issuer: "Issuer | None" = None) -> None:
        self._database = database
        self._rates = rates
        self._issuer = issuer
        self._principals = Remembered(self._find)
        self._subjects = Remembered(self._find_subject)

    async def principal(self, authorization: str | None) -> Principal:
        """The caller by the Authorization header, who makes a request. Unauthorized when there is none, or its key is not valid."""
        principal = await self.known(authorization)
        if self._rates is not None:
            self._rates.take(principal.principal_id, time.monotonic())
        return principal

    async def known(self, authorization: str | None) -> Principal:
        """The same, who makes no new request, such as one whose answer goes on."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("Send a key as `Authorization: Bearer <key>`; `contract-ledger keys create` makes one.")
        key = key.strip()
        if self._issuer is not None and _TOKEN.fullmatch(key):
            return await self._subjects.get(key)
        return await self._principals.get(key_hash(key))

    async def _find(self, digest: bytes) -> tuple[Principal, float]:
        rows = await self._database.rows(FIND_KEY, {"key_hash": digest})
        if not rows:
            raise Unauthorized("This key is not known, has expired, or was revoked.")
        principal = Principal(rows[0][0], {ledger_id: frozenset(rights or ()) for _, _, ledger_id, rights in rows})
        expires_at = rows[0][1]
        return principal, CACHE_SECONDS if expires_at is None else min(CACHE_SECONDS, (expires_at - datetime.now(UTC)).total_seconds())

    async def _find_subject(self, token: str) -> tuple[Principal, float]:
        assert self._issuer is not None
        claims = await self._issuer.claims(token)
        principal_id = principal_of_subject(self._issuer.issuer, claims.subject)
        rows = await self._database.rows(FIND_PRINCIPAL, {"principal_id": principal_id})
        rights = await self._granted(claims.granted)
        if rights and not rows:
            # The log knows principals by their ids only: here it is written whose id this is.
            name = f"{claims.subject} of {self._issuer.issuer}"
            await self._database.rows(ADD_PRINCIPAL, {"principal_id": principal_id, "name": name})
        for ledger_id, given in rows:
            rights[ledger_id] = rights.get(ledger_id, frozenset()) | frozenset(given or ())
        return Principal(principal_id, rights), min(CACHE_SECONDS, claims.expires_at - time.time())

    async def _granted(self, words: Iterable[str]) -> dict[str | None, frozenset[str]]:
        """The rights that a token's claim names: `right` in all ledgers, `right@ledger` in one. Other words are for others."""
        named = [(name, right) for right, _, name in (word.partition("@") for word in words) if right in RIGHTS]
        names = {name for name, _ in named if name}
        ids: dict[str, str | None] = {row[0]: row[1] for row in await self._ledger_ids(names)}
        ids[""] = None
        rights: dict[str | None, frozenset[str]] = {}
        for name, right in named:
            if name in ids:
                rights[ids[name]] = rights.get(ids[name], frozenset()) | {right}
        return rights

    async def _ledger_ids(self, names: set[str]) -> list[tuple[str, str]]:
        if not names:
            return []
        return [(name, ledger_id) for name, ledger_id in await self._database.rows(LEDGER_IDS, {"names": sorted(names)})]
