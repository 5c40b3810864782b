"""Access tokens: JWTs of one OpenID Connect issuer, checked by the keys that it publishes."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import structlog

from service.errors import IssuerUnreachable, OperatorError, Unauthorized
from service.settings import Settings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Those by which only the issuer can sign; never one whose key would be a secret shared with it."""
MAX_TOKEN_LENGTH = 8_192
MAX_SUBJECT_LENGTH = 255
LEEWAY_SECONDS = 5
KEYS_SECONDS = 300
RETRY_SECONDS = 10
KEPT_SECONDS = 3_600
FETCH_SECONDS = 5
# ID tokens have no type of their own; that they are for another audience keeps them out.
_TYPES = frozenset(("at+jwt", "application/at+jwt", "jwt"))
_REQUIRED = ["iss", "aud", "sub", "exp"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says: for whom it stands, until when, and what it grants."""

    subject: str
    expires_at: float
    granted: frozenset[str]


class Issuer:
    """The one issuer whose tokens are taken, for one audience, signed by one algorithm."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        algorithm: str,
        claim: str,
        jwks_url: str | None = None,
        *,
        keys_seconds: float = KEYS_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.issuer = issuer
        self._audience = audience
        self._algorithm = algorithm
        self._claim = claim
        self._jwks_url = jwks_url
        self._keys_seconds = keys_seconds
        self._retry_seconds = retry_seconds
        self._keys: dict[str | None, Any] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def claims(self, token: str) -> Claims:
        """What a token says. Unauthorized unless it is valid here and now, IssuerUnreachable while nobody can tell."""
        try:
            key = await self._key(self._key_id(token))
            said = jwt.decode(
                token,
                key,
                [self._algorithm],
                {"require": _REQUIRED, "enforce_minimum_key_length": True},
                audience=self._audience,
                issuer=self.issuer,
                leeway=LEEWAY_SECONDS,
            )
        except jwt.PyJWTError as error:
            raise _worthless(str(error)) from None
        if not 0 < len(said["sub"]) <= MAX_SUBJECT_LENGTH or "\0" in said["sub"]:
            raise _worthless(f"Its subject should have 1 to {MAX_SUBJECT_LENGTH} characters, none of them U+0000")
        return Claims(said["sub"], float(said["exp"]), _words(said.get(self._claim)))

    def _key_id(self, token: str) -> str | None:
        """The key that a token says it is signed by. Unauthorized for what no key could make valid."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise _worthless(f"It is longer than {MAX_TOKEN_LENGTH} characters")
        head = jwt.get_unverified_header(token)
        if head.get("alg") != self._algorithm:
            raise _worthless(f"It should be signed by {self._algorithm}")
        if str(head.get("typ", "JWT")).lower() not in _TYPES:
            raise _worthless("It is no access token by its type")
        return head.get("kid")

    async def _key(self, key_id: str | None) -> Any:
        if key_id not in self._keys or time.monotonic() > self._fetched_at + self._keys_seconds:
            async with self._fetching:
                await self._refresh(key_id)
        if key_id not in self._keys:
            raise _worthless("The issuer has no such key")
        return self._keys[key_id]

    async def _refresh(self, key_id: str | None) -> None:
        """Fetch the keys, unless that was tried a moment ago: tokens that name unknown keys cost nothing to make."""
        now = time.monotonic()
        is_fresh = key_id in self._keys and now <= self._fetched_at + self._keys_seconds
        if not is_fresh and now > self._tried_at + self._retry_seconds:
            self._tried_at = now
            try:
                self._keys = await self._fetch()
                self._fetched_at = now
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError, AttributeError) as error:
                _log.warning("the issuer's keys cannot be fetched", issuer=self.issuer, error=str(error) or type(error).__name__)
        if now > self._fetched_at + self._keys_seconds + KEPT_SECONDS:
            raise IssuerUnreachable("The keys of the issuer of tokens cannot be fetched at the moment; keys of this service work.")

    async def _fetch(self) -> dict[str | None, Any]:
        # A proxy of the environment reaches others, not this machine.
        trust_env = not _is_here(self._jwks_url or self.issuer)
        async with httpx.AsyncClient(timeout=FETCH_SECONDS, trust_env=trust_env) as client:
            address = self._jwks_url or await self._discover(client)
            published = (await client.get(address)).raise_for_status().json()["keys"]
        usable = {key.get("kid"): found for key in published if (found := self._usable(key)) is not None}
        # A token need not name the key where there is no choice.
        return usable | ({None: next(iter(usable.values()))} if len(usable) == 1 else {})

    async def _discover(self, client: httpx.AsyncClient) -> str:
        address = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        told = (await client.get(address)).raise_for_status().json()
        if told["issuer"] != self.issuer:
            raise ValueError(f"{address} is of the issuer {told['issuer']!r}")
        jwks_url = str(told["jwks_uri"])
        if not _is_safe(jwks_url):
            raise ValueError(f"the keys are at {jwks_url}, which is not https")
        return jwks_url

    def _usable(self, key: dict[str, Any]) -> Any:
        """A published key, if it is to check signatures by the algorithm; else None."""
        if key.get("use", "sig") != "sig" or key.get("alg", self._algorithm) != self._algorithm:
            return None
        try:
            return jwt.PyJWK(key, self._algorithm).key
        except jwt.PyJWTError:
            return None


def trusted_issuer(settings: Settings) -> Issuer | None:
    """The issuer that the settings name, if they do. OperatorError where they cannot be meant so."""
    if settings.oidc_issuer is None:
        return None
    if settings.oidc_audience is None:
        raise OperatorError("LEDGER_OIDC_AUDIENCE is not set; without it, tokens that were made for others would be taken.")
    for variable, url in (("LEDGER_OIDC_ISSUER", settings.oidc_issuer), ("LEDGER_OIDC_JWKS_URL", settings.oidc_jwks_url)):
        if url is not None and not _is_safe(url):
            raise OperatorError(f"{variable} is {url!r}, and should begin with https:// (http:// only on this machine).")
    if settings.oidc_algorithm not in ALGORITHMS:
        raise OperatorError(f"LEDGER_OIDC_ALGORITHM is {settings.oidc_algorithm!r}, and should be one of {', '.join(ALGORITHMS)}.")
    return Issuer(settings.oidc_issuer, settings.oidc_audience, settings.oidc_algorithm, settings.oidc_claim, settings.oidc_jwks_url)


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is read to be checked
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(url)))


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


def _words(claim: object) -> frozenset[str]:
    """The words of a claim: a string with spaces between them (as OAuth's `scope` is), or a list."""
    words = claim.split(" ") if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(word for word in words if isinstance(word, str) and "\0" not in word)


def _worthless(reason: str) -> Unauthorized:
    return Unauthorized(f"This access token is not valid here: {reason}.")
