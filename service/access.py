"""Who may do what: API keys, the principals they stand for, and the principals' rights in ledgers."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from service.database import Database
from service.errors import Forbidden, Unauthorized
from service.remembered import Remembered

RIGHTS = ("contracts:read", "contracts:write", "sealed:read", "audit:read", "ledger:admin")
CACHE_SECONDS = 5
MIN_KEY_LENGTH = 32
_PREFIX = "cl_"

FIND_KEY = """
SELECT k.principal_id::text, k.expires_at, g.ledger_id::text, g.rights
FROM api_keys k LEFT JOIN grants g USING (principal_id)
WHERE k.key_hash = %(key_hash)s AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
"""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an opaque id, and rights by ledger_id (under None: in every ledger)."""

    principal_id: str
    rights: dict[str | None, frozenset[str]]

    def may(self, right: str, ledger_id: str | None) -> bool:
        return right in self.rights.get(None, ()) or (ledger_id is not None and right in self.rights.get(ledger_id, ()))

    def require(self, right: str, ledger_id: str | None) -> None:
        """Forbidden unless the principal has the right in the ledger."""
        if not self.may(right, ledger_id):
            raise Forbidden(f"This key lacks the right {right} here; `contract-ledger keys create --right {right}` makes one that has it.")


def new_key() -> str:
    """A key with 256 random bits, shown once."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Keyring:
    """Finds the principal behind a key; remembers it for a few seconds, so that a revoked key ends soon."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._principals = Remembered(self._find)

    async def principal(self, authorization: str | None) -> Principal:
        """The caller by the Authorization header. Unauthorized when there is none, or its key is not valid."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("Send the key as `Authorization: Bearer <key>`; `contract-ledger keys create` makes one.")
        return await self._principals.get(key_hash(key.strip()))

    async def _find(self, digest: bytes) -> tuple[Principal, float]:
        rows = await self._database.rows(FIND_KEY, {"key_hash": digest})
        if not rows:
            raise Unauthorized("This key is not known, has expired, or was revoked.")
        principal = Principal(rows[0][0], {ledger_id: frozenset(rights or ()) for _, _, ledger_id, rights in rows})
        expires_at = rows[0][1]
        return principal, CACHE_SECONDS if expires_at is None else min(CACHE_SECONDS, (expires_at - datetime.now(UTC)).total_seconds())
