"""Settings, by environment variables `LEDGER_*`; README's table of them is held true by a test."""

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from service.errors import OperatorError

_KEY = re.compile(r"[\x21-\x7e]+")
_NEEDS = {
    "oidc_audience": "oidc_issuer",
    "oidc_algorithm": "oidc_issuer",
    "oidc_claim": "oidc_issuer",
    "oidc_jwks_url": "oidc_issuer",
    "migration_url": "database_url",
}
"""What means nothing without another: whoever sets it alone believes that it works."""
_SECRET = {"database_url", "migration_url", "api_key", "signing_key", "checkpoint_store"}
"""What is, or may hold, a password or a key: a refusal does not say it again, since it ends in logs."""


def _of(variable: str, meaning: str, most: int = 0, least: int = 1) -> Mapping[str, Any]:
    """`least` and `most` are the bounds of a number."""
    return {"variable": variable, "meaning": meaning, "most": most, "least": least}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service and the commands are told from outside; each field names its variable."""

    database_url: str | None = field(
        default=None,
        metadata=_of(
            "LEDGER_DATABASE_URL",
            "Postgres, as the service's role (it may only add to the log). Without it `serve` runs an embedded PostgreSQL.",
        ),
    )
    migration_url: str | None = field(
        default=None,
        metadata=_of("LEDGER_MIGRATION_URL", "Postgres, as the owner of the tables: for `migrate` and `clock accept`."),
    )
    data_dir: Path | None = field(
        default=None,
        metadata=_of(
            "LEDGER_DATA_DIR",
            "Folder of the embedded database, the first key and the kept heads. "
            "Default `~/.local/share/contract-ledger`; as root `/var/lib/contract-ledger`.",
        ),
    )
    api_key: str | None = field(
        default=None,
        metadata=_of(
            "LEDGER_API_KEY",
            "For `serve`: sets the first key instead of making one (at least 32 characters). For commands over HTTP: the key to use.",
        ),
    )
    url: str = field(default="http://127.0.0.1:8000", metadata=_of("LEDGER_URL", "Address of the service, for commands that speak HTTP."))
    max_body_bytes: int = field(
        default=1_048_576, metadata=_of("LEDGER_MAX_BODY_BYTES", "The largest request body; a larger one is answered 413.", 1_073_741_824)
    )
    queue_requests: int = field(
        default=4_096,
        metadata=_of(
            "LEDGER_QUEUE_REQUESTS", "Appends that may wait for one ledger in one process; beyond it the answer is 503.", 1_000_000
        ),
    )
    deadline_seconds: int = field(
        default=10,
        metadata=_of("LEDGER_DEADLINE_SECONDS", "How long an append may wait before it is begun; beyond it the answer is 503.", 3_600),
    )
    pool_connections: int = field(
        default=8, metadata=_of("LEDGER_POOL_CONNECTIONS", "Connections to Postgres that each worker process may hold.", 1_000)
    )
    oidc_issuer: str | None = field(
        default=None,
        metadata=_of(
            "LEDGER_OIDC_ISSUER",
            "The OpenID Connect issuer whose access tokens (JWT) are taken beside keys: its `iss`, an `https` URL, where discovery begins.",
        ),
    )
    oidc_audience: str | None = field(
        default=None, metadata=_of("LEDGER_OIDC_AUDIENCE", "The `aud` that its tokens must have; needed with an issuer.")
    )
    oidc_algorithm: str = field(
        default="RS256", metadata=_of("LEDGER_OIDC_ALGORITHM", "The one algorithm by which its tokens must be signed.")
    )
    oidc_claim: str = field(
        default="scope",
        metadata=_of(
            "LEDGER_OIDC_CLAIM",
            "The claim with the rights, as words or a list: `contracts:read` in all ledgers, `contracts:read@main` in one.",
        ),
    )
    oidc_jwks_url: str | None = field(
        default=None, metadata=_of("LEDGER_OIDC_JWKS_URL", "Where its keys are, if not where its discovery document says.")
    )
    rate_per_second: int | None = field(
        default=None,
        metadata=_of(
            "LEDGER_RATE_PER_SECOND",
            "Requests a second that one principal may send to one process, in bursts of ten seconds' worth; beyond it the answer is 429. "
            "Without it there is no such bound.",
            1_000_000,
        ),
    )
    metrics_port: int | None = field(
        default=None,
        metadata=_of(
            "LEDGER_METRICS_PORT",
            "Port on 127.0.0.1 for `/metrics`, as Prometheus reads it; with several workers each has one, from this port on. "
            "Without it there is none.",
            65_535,
        ),
    )
    signing_key: str | None = field(
        default=None,
        metadata=_of(
            "LEDGER_SIGNING_KEY",
            "The Ed25519 key that signs checkpoints: 32 random bytes in base64; several, separated by commas, sign together while one "
            "takes the place of another. Needed with LEDGER_DATABASE_URL; the embedded database has its own in the data folder.",
        ),
    )
    checkpoint_store: str | None = field(
        default=None,
        metadata=_of(
            "LEDGER_CHECKPOINT_STORE",
            "Folder, outside the database and the data folder, that keeps the last checkpoint of each ledger; or the `postgresql://` URL "
            "of a second database that does, for when several machines sign. Needed with "
            "LEDGER_DATABASE_URL to sign; else `$XDG_STATE_HOME/contract-ledger` (`~/.local/state/contract-ledger`).",
        ),
    )
    deployment: str | None = field(
        default=None,
        metadata=_of(
            "LEDGER_DEPLOYMENT",
            "The name in the origin of checkpoints, such as `ledger.example.com`: given at the first start, and the same for ever. "
            "Without it a random one is made.",
        ),
    )
    reconcile_contracts_per_minute: int = field(
        default=60,
        metadata=_of(
            "LEDGER_RECONCILE_CONTRACTS_PER_MINUTE",
            "Contracts a minute that one process of the deployment folds anew and compares with what is stored, over and over; a "
            "difference is an alarm. 0 for none.",
            60_000,
            least=0,
        ),
    )
    webhook_networks: str = field(
        default="",
        metadata=_of(
            "LEDGER_WEBHOOK_NETWORKS",
            "Networks in CIDR notation, with commas between them, that webhooks may be sent to though they are private (also by http). "
            "Without it deliveries go by https to public addresses only.",
        ),
    )
    log_format: str = field(default="console", metadata=_of("LEDGER_LOG_FORMAT", "`console` for people, `json` for machines."))

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings as the environment states them. OperatorError names a variable that cannot be read."""
        stated: dict[str, object] = {}
        for setting in fields(cls):
            variable = setting.metadata["variable"]
            if text := os.environ.get(variable):
                stated[setting.name] = _read(variable, text, setting)
        _check_together(stated)
        return cls(**stated)  # type: ignore[arg-type]


def _read(variable: str, text: str, setting: "Field[Any]") -> object:
    if setting.type in (int, int | None):
        return _number(variable, text, setting.metadata["least"], setting.metadata["most"])
    if not text.strip() or not text.isprintable():
        said = "" if setting.name in _SECRET else f" is {text[:100]!r}: it"
        raise OperatorError(f"{variable}{said} is blank, or holds what cannot be printed. Set it anew, or leave it out.")
    if setting.name == "api_key" and not _KEY.fullmatch(text):
        raise OperatorError(f"{variable} is no key: a key has printable ASCII characters only, and no spaces.")
    return Path(text) if "Path" in str(setting.type) else text


def _number(variable: str, text: str, least: int, most: int) -> int:
    # The length first, since Python refuses to read thousands of digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise OperatorError(f"{variable} is {text[:100]!r}, and should be a whole number from {least} to {most}.")
    return int(text)


def _check_together(stated: Mapping[str, object]) -> None:
    variables = {setting.name: setting.metadata["variable"] for setting in fields(Settings)}
    for name, needed in _NEEDS.items():
        if name in stated and needed not in stated:
            raise OperatorError(f"{variables[name]} is set, and means nothing without {variables[needed]}: set both, or neither.")
