"""Access tokens of an OpenID Connect issuer: who they stand for, what they allow, and everything that makes one worthless."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.access import RIGHTS, principal_of_subject
from service.app import create_app
from service.errors import IssuerUnreachable, OperatorError, Unauthorized
from service.settings import Settings
from service.tokens import LEEWAY_SECONDS, MAX_TOKEN_LENGTH, Issuer
from tests.api.bodies import SIGNED, open_contract, with_key
from tests.api.running import RunningService, running
from tests.conftest import NewDatabase

AUDIENCE: Final = "https://ledger.test"
KEYS: Final = {kid: rsa.generate_private_key(public_exponent=65_537, key_size=2_048) for kid in ("one", "two", "stranger")}


def public(kid: str, key: rsa.RSAPrivateKey, **more: str) -> dict[str, Any]:
    return jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | more


@dataclass
class FakeIssuer:
    """Other people's software: it serves a discovery document and its keys, and signs what it is told to."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=lambda: [public("one", KEYS["one"])])
    named: str | None = None
    is_down: bool = False
    asked: list[str] = field(default_factory=list)

    def document(self, path: str) -> dict[str, Any] | None:
        self.asked.append(path)
        if self.is_down:
            return None
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.named or self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": self.keys},
        }
        return documents.get(path)

    def token(
        self, kid: str | None = "one", *, algorithm: str = "RS256", key: Any = None, typ: str | None = "at+jwt", **claims: Any
    ) -> str:
        now = int(time.time())
        stated = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, "scope": " ".join(RIGHTS)} | claims
        headers = {"kid": kid, "typ": typ}
        return jwt.encode(
            {name: value for name, value in stated.items() if value is not None},
            KEYS[kid or "one"] if key is None else key,
            algorithm,
            {name: value for name, value in headers.items() if value is not None},
        )


@contextmanager
def serving_issuer() -> Iterator[FakeIssuer]:
    issuer = FakeIssuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = issuer.document(self.path)
            self.send_response(503 if document is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def issuer() -> Iterator[FakeIssuer]:
    with serving_issuer() as serving:
        yield serving


@pytest.fixture(scope="module")
def trusting(issuer: FakeIssuer, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that takes the issuer's tokens."""
    folder = tmp_path_factory.mktemp("trusting")
    with new_database() as database, running(database, folder, oidc_issuer=issuer.url, oidc_audience=AUDIENCE) as served:
        served.make_ledger("main")
        yield served


def status(service: RunningService, token: str, path: str = "/v1/ledgers/main/contracts") -> int:
    with service.client(token) as client:
        return client.get(path).status_code


# Whom a token stands for


def test_a_token_reads_and_appends_as_its_subject(issuer: FakeIssuer, trusting: RunningService) -> None:
    recorded_by = []
    for subject in ("ada", "ada", "grace"):
        with trusting.client(issuer.token(sub=subject, jti=str(len(recorded_by))), ledger="main") as client:
            contract_id = open_contract(client)
            recorded_by.append(client.get(f"/contracts/{contract_id}/events").json()["items"][0]["recorded_by"])
    ada, again, grace = recorded_by
    assert ada == again == principal_of_subject(issuer.url, "ada")
    assert ada != grace == principal_of_subject(issuer.url, "grace")
    assert principal_of_subject("https://elsewhere", "ada") != ada
    with psycopg.connect(trusting.database.service_url) as connection:
        names = connection.execute("SELECT name FROM principals WHERE principal_id = %s", [ada]).fetchall()
    assert names == [(f"ada of {issuer.url}",)]


def test_a_retry_with_another_token_of_the_subject_is_a_retry(issuer: FakeIssuer, trusting: RunningService) -> None:
    headers = with_key()
    receipts = []
    for number in range(2):
        with trusting.client(issuer.token(jti=f"retry {number}"), ledger="main") as client:
            receipts.append(client.post("/contracts", json=SIGNED, headers=headers))
    assert receipts[0].json() == receipts[1].json()
    assert receipts[1].headers["idempotent-replayed"] == "true"


# What a token allows


@pytest.mark.parametrize(
    ("scope", "read", "write"),
    [
        ("contracts:read", 200, 403),
        ("contracts:write", 403, 201),
        ("openid profile contracts:read contracts:write", 200, 201),
        (["contracts:read", "contracts:write"], 200, 201),
        ("contracts:read@main", 200, 403),
        ("contracts:read@other contracts:write@main", 403, 201),
        ("contracts:read@nowhere", 403, 403),
        ("contracts", 403, 403),
        ("Contracts:Read", 403, 403),
        ("", 403, 403),
        (None, 403, 403),
        (1, 403, 403),
        ({"contracts:read": True}, 403, 403),
        ([["contracts:read"], 1], 403, 403),
        (["contracts:read@\0", "contracts:write"], 403, 201),
    ],
)
def test_a_token_allows_what_its_claim_names(issuer: FakeIssuer, trusting: RunningService, scope: Any, read: int, write: int) -> None:
    with trusting.client(issuer.token(sub="scoped", scope=scope), ledger="main") as client:
        answer = client.get("/contracts")
        assert answer.status_code == read
        assert client.post("/contracts", json=SIGNED, headers=with_key()).status_code == write


def test_a_subject_has_the_rights_that_were_granted_to_it_too(issuer: FakeIssuer, trusting: RunningService) -> None:
    principal_id = principal_of_subject(issuer.url, "granted")
    with psycopg.connect(trusting.database.service_url) as connection:
        connection.execute("INSERT INTO principals (principal_id, name) VALUES (%s, 'granted')", [principal_id])
        connection.execute("INSERT INTO grants VALUES (%s, NULL, '{contracts:write}')", [principal_id])
    with trusting.client(issuer.token(sub="granted", scope="contracts:read"), ledger="main") as client:
        assert client.get("/contracts").status_code == 200
        assert client.post("/contracts", json=SIGNED, headers=with_key()).status_code == 201


def test_who_has_no_right_is_not_kept(issuer: FakeIssuer, trusting: RunningService) -> None:
    assert status(trusting, issuer.token(sub="nobody", scope="openid")) == 403
    with psycopg.connect(trusting.database.service_url) as connection:
        found = connection.execute(
            "SELECT 1 FROM principals WHERE principal_id = %s", [principal_of_subject(issuer.url, "nobody")]
        ).fetchall()
    assert found == []


def test_the_claim_with_the_rights_may_be_another(issuer: FakeIssuer, new_database: NewDatabase, tmp_path: Path) -> None:
    settings = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, "oidc_claim": "https://ledger.test/rights"}
    with new_database() as database, running(database, tmp_path, **settings) as served:
        served.make_ledger("main")
        assert status(served, issuer.token(scope="contracts:read")) == 403
        assert status(served, issuer.token(**{"https://ledger.test/rights": ["contracts:read"]})) == 200


# What makes a token worthless


def tampered(token: str) -> str:
    head, _, signature = token.split(".")
    claims = jwt.utils.base64url_encode(json.dumps(jwt.decode(token, options={"verify_signature": False}) | {"sub": "root"}).encode())
    return f"{head}.{claims.decode()}.{signature}"


def unsigned(token: str) -> str:
    head = jwt.utils.base64url_encode(b'{"alg":"none","typ":"at+jwt","kid":"one"}').decode()
    return f"{head}.{token.split('.')[1]}."


def by_secret(token: str) -> str:
    """Signed with the public key, as if that were a secret."""
    secret = KEYS["one"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"at+jwt","kid":"one"}').decode()
    signed = f"{head}.{token.split('.')[1]}".encode()
    hmac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signed.decode()}.{jwt.utils.base64url_encode(hmac.sign(secret, signed)).decode()}"


WORTHLESS: Final[dict[str, dict[str, Any]]] = {
    "expired": {"exp": 1_700_000_000},
    "without an end": {"exp": None},
    "not yet": {"nbf": 4_000_000_000},
    "issued later": {"iat": 4_000_000_000},
    "for another audience": {"aud": "https://elsewhere"},
    "for no audience": {"aud": None},
    "for none of several audiences": {"aud": ["a", "b"]},
    "of another issuer": {"iss": "https://elsewhere"},
    "of no issuer": {"iss": None},
    "of nobody": {"sub": None},
    "of an empty name": {"sub": ""},
    "of a long name": {"sub": "x" * 256},
    "of a name with U+0000": {"sub": "a\0b"},
    "with an end that is no number": {"exp": "tomorrow"},
    "by another key under a known id": {"kid": "one", "key": KEYS["stranger"]},
    "by an unknown key": {"kid": "stranger"},
    "by another algorithm": {"algorithm": "RS512"},
    "by another kind of key": {"algorithm": "ES256", "key": ec.generate_private_key(ec.SECP256R1())},
    "of another type": {"typ": "logout+jwt"},
    "too long": {"more": "x" * MAX_TOKEN_LENGTH},
}


@pytest.mark.parametrize("stated", WORTHLESS.values(), ids=WORTHLESS)
def test_a_worthless_token_opens_nothing(issuer: FakeIssuer, trusting: RunningService, stated: dict[str, Any]) -> None:
    with trusting.client(issuer.token(**stated)) as client:
        answer = client.get("/v1/ledgers/main/contracts")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "spoil", [tampered, unsigned, by_secret, lambda token: token[:-4], lambda token: token + ".x", lambda token: token.upper()]
)
def test_a_token_that_was_changed_opens_nothing(issuer: FakeIssuer, trusting: RunningService, spoil: Any) -> None:
    token = issuer.token()
    assert status(trusting, token) == 200
    assert status(trusting, spoil(token)) == 401


def test_a_plain_jwt_without_a_key_id_is_taken_where_there_is_one_key(issuer: FakeIssuer, trusting: RunningService) -> None:
    assert status(trusting, issuer.token(kid=None, typ="JWT", aud=["elsewhere", AUDIENCE])) == 200


def test_a_token_ends_when_it_expires_though_it_was_remembered(issuer: FakeIssuer, trusting: RunningService) -> None:
    token = issuer.token(exp=int(time.time()) + 2 - LEEWAY_SECONDS)
    assert status(trusting, token) == 200
    deadline = time.monotonic() + 5
    while (found := status(trusting, token)) != 401 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == 401


def test_tokens_open_nothing_where_no_issuer_is_set(issuer: FakeIssuer, service: RunningService) -> None:
    assert status(service, issuer.token()) == 401


def test_keys_are_taken_beside_tokens(trusting: RunningService) -> None:
    assert status(trusting, trusting.admin) == 200
    assert status(trusting, "eyJ.a.key") == 401


# The issuer's keys


def checking(issuer: FakeIssuer, **more: Any) -> Issuer:
    return Issuer(issuer.url, AUDIENCE, "RS256", "scope", **({"retry_seconds": 0.0} | more))


async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    with serving_issuer() as issuer:
        checks = checking(issuer)
        assert (await checks.claims(issuer.token("one"))).subject == "ada"
        issuer.keys = [public("one", KEYS["one"]), public("two", KEYS["two"])]
        assert (await checks.claims(issuer.token("two"))).subject == "ada"
        assert issuer.asked == ["/.well-known/openid-configuration", "/keys"] * 2
        issuer.keys = [public("two", KEYS["two"])]
        with pytest.raises(Unauthorized):
            await checks.claims(issuer.token("stranger"))
        # The key that is gone was forgotten with that fetch.
        with pytest.raises(Unauthorized):
            await checks.claims(issuer.token("one"))


async def test_unknown_keys_do_not_wear_out_the_issuer() -> None:
    with serving_issuer() as issuer:
        checks = checking(issuer, retry_seconds=60.0)
        for _ in range(20):
            with pytest.raises(Unauthorized):
                await checks.claims(issuer.token("stranger"))
        assert (await checks.claims(issuer.token("one"))).subject == "ada"
        assert len(issuer.asked) == 2


async def test_keys_for_encryption_and_other_algorithms_check_no_token() -> None:
    with serving_issuer() as issuer:
        issuer.keys = [
            public("one", KEYS["one"], use="enc"),
            public("two", KEYS["two"], alg="RS512"),
            {"kty": "oct", "k": "AAAA", "kid": "three"},
            {},
        ]
        checks = checking(issuer)
        for kid in ("one", "two"):
            with pytest.raises(Unauthorized):
                await checks.claims(issuer.token(kid))


async def test_an_issuer_that_cannot_be_asked_is_unavailable_and_known_keys_still_hold() -> None:
    with serving_issuer() as issuer:
        checks = checking(issuer)
        issuer.is_down = True
        with pytest.raises(IssuerUnreachable):
            await checks.claims(issuer.token())
        issuer.is_down = False
        assert (await checks.claims(issuer.token())).subject == "ada"
        issuer.is_down = True
        stale = checking(issuer, keys_seconds=0.0)
        with pytest.raises(IssuerUnreachable):
            await stale.claims(issuer.token())
        issuer.is_down = False
        assert (await stale.claims(issuer.token())).subject == "ada"
        issuer.is_down = True
        assert (await stale.claims(issuer.token())).subject == "ada"


async def test_a_document_of_another_issuer_is_not_believed() -> None:
    with serving_issuer() as issuer:
        issuer.named = "https://elsewhere"
        with pytest.raises(IssuerUnreachable):
            await checking(issuer).claims(issuer.token())


async def test_the_address_of_the_keys_may_be_set() -> None:
    with serving_issuer() as issuer:
        checks = checking(issuer, jwks_url=f"{issuer.url}/keys")
        assert (await checks.claims(issuer.token())).subject == "ada"
        assert issuer.asked == ["/keys"]


def test_a_service_whose_issuer_is_down_answers_503_to_tokens_and_goes_on(new_database: NewDatabase, tmp_path: Path) -> None:
    with serving_issuer() as issuer, new_database() as database:
        issuer.is_down = True
        with running(database, tmp_path, oidc_issuer=issuer.url, oidc_audience=AUDIENCE) as served:
            with served.client(issuer.token()) as client:
                answer = client.get("/v1/ledgers")
                assert (answer.status_code, answer.json()["code"]) == (503, "issuer-unreachable")
                assert int(answer.headers["retry-after"]) >= 1
            assert status(served, served.admin, "/v1/ledgers") == 200
            assert httpx.get(f"{served.url}/readyz", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"oidc_issuer": "https://issuer.test"}, "LEDGER_OIDC_AUDIENCE"),
        ({"oidc_issuer": "http://issuer.test", "oidc_audience": "a"}, "LEDGER_OIDC_ISSUER"),
        ({"oidc_issuer": "issuer.test", "oidc_audience": "a"}, "LEDGER_OIDC_ISSUER"),
        ({"oidc_issuer": "https://issuer.test", "oidc_audience": "a", "oidc_jwks_url": "http://issuer.test/keys"}, "LEDGER_OIDC_JWKS_URL"),
        ({"oidc_issuer": "https://issuer.test", "oidc_audience": "a", "oidc_algorithm": "HS256"}, "LEDGER_OIDC_ALGORITHM"),
        ({"oidc_issuer": "https://issuer.test", "oidc_audience": "a", "oidc_algorithm": "none"}, "LEDGER_OIDC_ALGORITHM"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_service(settings: dict[str, str], variable: str) -> None:
    with pytest.raises(OperatorError, match=variable):
        create_app(Settings(**settings))  # type: ignore[arg-type]
