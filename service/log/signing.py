"""Signing: the checkpoints of a deployment's ledgers, each kept outside before it is published, and never two for one size.

A checkpoint is made when somebody asks for one, of the newest batch, at most once a second for each ledger.
"""

import asyncio
import base64
import binascii
import secrets
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import structlog

from service.database import Database
from service.errors import HistoryForked, NotSigned, OperatorError, TreeUnknown
from service.log.checkpoint import Checkpoint, origin_of
from service.log.epochs import Authority
from service.log.kept import CheckpointStore, is_within, keep, open_store
from service.log.ledger import Ledger
from service.log.notes import Note, NoteError, Signer, Verifier, is_name
from service.log.read import Reader
from service.log.tree import root_of
from service.settings import Settings

_FILE_NAME_BYTES = 255
_DEPLOYMENT = "INSERT INTO deployment (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"
_NAME = "SELECT name FROM deployment"
# The first key is registered by whoever comes first; no other ever is but by a rotation.
_REGISTER = """
WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('contract-ledger signing key')) AS locked)
INSERT INTO signing_keys (public_key)
SELECT %(public_key)s FROM alone WHERE NOT EXISTS (SELECT FROM signing_keys) ON CONFLICT DO NOTHING
"""
KEYS = "SELECT public_key, registered_at, retired_at FROM signing_keys ORDER BY registered_at, public_key"
_HEAD = """
SELECT b.last_position, b.frontier FROM batches b WHERE b.ledger_id = %(ledger_id)s::uuid ORDER BY b.last_position DESC LIMIT 1
"""
_LAST = """
SELECT c.size, c.note, EXISTS (
    SELECT FROM signing_times t WHERE t.ledger_id = c.ledger_id AND t.signed_at > clock_timestamp() - interval '1 second')
FROM checkpoints c
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.epoch = %(epoch)s ORDER BY c.size DESC LIMIT 1
"""
_AT = "SELECT c.note, c.root FROM checkpoints c WHERE c.ledger_id = %(ledger_id)s::uuid AND c.epoch = %(epoch)s AND c.size = %(size)s"
# What an epoch begins with was signed too; a note of another deployment, whose bundle was restored here, was not signed by this one.
_BEGINNING = """
SELECT p.note FROM epochs p
WHERE p.ledger_id = %(ledger_id)s::uuid AND p.epoch = %(epoch)s AND starts_with(p.note, %(deployment)s || '/')
"""
_COVERING = """
SELECT c.note FROM checkpoints c
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.epoch = %(epoch)s AND c.size >= %(size)s ORDER BY c.size LIMIT 1
"""
_STORE = """
INSERT INTO checkpoints (ledger_id, epoch, size, root, note) VALUES (%(ledger_id)s::uuid, %(epoch)s, %(size)s, %(root)s, %(note)s)
ON CONFLICT DO NOTHING
"""
_SIGNED = """
INSERT INTO signing_times (ledger_id, signed_at) VALUES (%(ledger_id)s::uuid, clock_timestamp())
ON CONFLICT (ledger_id) DO UPDATE SET signed_at = excluded.signed_at
"""
_log = structlog.get_logger()


class RegisteredKey(NamedTuple):
    """A key of the deployment, and from when until when it signs."""

    public_key: bytes
    registered_at: datetime
    retired_at: datetime | None


class Published(NamedTuple):
    """A signed checkpoint, and what its text says."""

    note: str
    checkpoint: Checkpoint


def read_signers(text: str) -> list[Signer]:
    """The private keys that a setting states: 32 bytes each in base64, separated by commas. OperatorError for anything else."""
    try:
        return [Signer(base64.b64decode(part.strip(), validate=True)) for part in text.split(",")]
    except (NoteError, binascii.Error, ValueError):
        raise OperatorError("LEDGER_SIGNING_KEY is no key: it is 32 random bytes in base64; several are separated by commas.") from None


def read_deployment(name: str) -> str:
    """The deployment's name that a setting states. OperatorError for one that no verifier key could have, and so no auditor pin, or that
    the folder of its kept checkpoints could not have."""
    if not is_name(name) or len(quote(name, safe="")) > _FILE_NAME_BYTES:
        raise OperatorError(
            f"LEDGER_DEPLOYMENT is {name[:100]!r}, and should be a short name without spaces and plus signs, such as ledger.example.com."
        )
    return name


def new_seed() -> str:
    """A new private key, as the setting states it."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


class Signing:
    """Makes, keeps and finds the checkpoints of all ledgers of a database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._wanted_name = read_deployment(settings.deployment) if settings.deployment else None
        self._settings = settings
        self.store: CheckpointStore | None = None
        self.on_fork: Callable[[str, str], None] = lambda _ledger_id, _why: None
        """Told the ledger, and why, when one is found not to have the history that was kept."""
        self._signers = read_signers(settings.signing_key) if settings.signing_key else []
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.deployment = ""

    async def open(self, *, told: bool = True) -> None:
        """Learn the deployment's name, or give it one, and register its first key; what stands in the way of signing is `told` in the
        log. OperatorError when the deployment has another name."""
        name = self._wanted_name or f"ledger-{secrets.token_hex(8)}"
        async with self._database.transaction() as connection:
            await connection.execute(_DEPLOYMENT, {"name": name})
        self.deployment = (await self._database.rows(_NAME))[0][0]
        if self._wanted_name not in (None, self.deployment):
            raise OperatorError(
                f"LEDGER_DEPLOYMENT is {self._wanted_name}, and this database is of the deployment {self.deployment}: "
                "set that name, or leave it out."
            )
        if self._settings.checkpoint_store is not None:
            self.store = open_store(self._settings.checkpoint_store, self.deployment, self._settings.database_url or "")
            if told and is_within(self._settings.checkpoint_store, self._settings.data_dir):
                _log.warning(
                    "checkpoints are kept within the data folder, and restored with it: LEDGER_CHECKPOINT_STORE names another place"
                )
        if self._signers and self.store is not None:
            async with self._database.transaction() as connection:
                await connection.execute(_REGISTER, {"public_key": self._signers[0].public_key})
            if told and not await self._active():
                _log.warning("no checkpoint is signed here: the key in LEDGER_SIGNING_KEY is not one that is registered and not retired")
        elif told:
            _log.info("no checkpoint is signed here: that takes LEDGER_SIGNING_KEY and LEDGER_CHECKPOINT_STORE")

    def origin(self, ledger: Ledger, epoch: int) -> str:
        return origin_of(self.deployment, ledger.name, epoch)

    async def keys(self) -> list[RegisteredKey]:
        """Every key that signs or has signed for the deployment."""
        return [RegisteredKey(*row) for row in await self._database.rows(KEYS)]

    async def verifiers(self, ledger: Ledger, epoch: int) -> list[tuple[Verifier, RegisteredKey]]:
        """The keys as verifiers of a ledger's checkpoints pin them."""
        return [(Verifier(self.origin(ledger, epoch), key.public_key), key) for key in await self.keys()]

    async def newest(self, ledger: Ledger, epoch: int) -> Published:
        """The newest checkpoint of a ledger: one of its last batch, unless one was signed within the last second.

        NotSigned when there is none and none can be made; HistoryForked when the log is not the one that was kept.
        """
        last = await self._database.rows(_LAST, {"ledger_id": ledger.ledger_id, "epoch": epoch})
        if last and last[0][2]:
            return await self._served(last[0][1])
        signers = await self._active()
        if not signers:
            if last:
                return await self._served(last[0][1])
            raise NotSigned(f"No checkpoint of ledger {ledger.name} has been signed, and this process has no key of the deployment.")
        async with self._locks[ledger.ledger_id]:
            return await self._sign(ledger, epoch, signers)

    async def at(self, ledger: Ledger, epoch: int, size: int) -> Published | None:
        """The checkpoint that was signed of a size, if one was."""
        rows = await self._database.rows(_AT, {"ledger_id": ledger.ledger_id, "epoch": epoch, "size": size})
        return await self._served(rows[0][0]) if rows else None

    async def covering(self, ledger: Ledger, epoch: int, size: int) -> Published:
        """The first checkpoint whose tree has so many leaves or more; the newest, made now if need be, where there is none yet."""
        rows = await self._database.rows(_COVERING, {"ledger_id": ledger.ledger_id, "epoch": epoch, "size": size})
        return await self._served(rows[0][0]) if rows else await self.newest(ledger, epoch)

    async def _active(self) -> list[Signer]:
        """The private keys at hand that are registered and not retired."""
        if not self._signers or self.store is None:
            return []
        active = {key.public_key for key in await self.keys() if key.retired_at is None}
        return [signer for signer in self._signers if signer.public_key in active]

    async def _sign(self, ledger: Ledger, epoch: int, signers: list[Signer]) -> Published:
        """Keep, sign and store the checkpoint of the newest batch, as `service.log.kept.keep` lets it; or the one signed a moment ago."""
        assert self.store is not None
        parameters = {"ledger_id": ledger.ledger_id, "epoch": epoch}
        last = await self._database.rows(_LAST, parameters)
        if last and last[0][2]:  # by who was asked at the same moment, and had the lock before
            return await self._served(last[0][1])
        size, frontier = (await self._database.rows(_HEAD, {"ledger_id": ledger.ledger_id}))[0]
        if frontier is None:
            raise TreeUnknown(f"The tree of ledger {ledger.name} is not built yet: run `contract-ledger migrate` to its end.")
        wanted = Checkpoint(self.origin(ledger, epoch), size, root_of(frontier), (f"time zone {ledger.time_zone}",))
        signed = [row[1] for row in last] or [
            row[0] for row in await self._database.rows(_BEGINNING, parameters | {"deployment": self.deployment})
        ]
        try:
            await keep(self.store, self._database, ledger.ledger_id, wanted, _published(signed[0]).checkpoint if signed else None)
        except HistoryForked as fork:
            self.on_fork(ledger.ledger_id, fork.detail)
            raise
        return await self._publish(ledger, epoch, wanted, signers)

    async def _publish(self, ledger: Ledger, epoch: int, wanted: Checkpoint, signers: list[Signer]) -> Published:
        text = wanted.text()
        note = Note(text, tuple(signer.sign(wanted.origin, text) for signer in signers)).format()
        parameters = {"ledger_id": ledger.ledger_id, "epoch": epoch, "size": wanted.size, "root": wanted.root, "note": note}
        async with self._database.transaction() as connection:
            await connection.execute(_STORE, parameters)
            await connection.execute(_SIGNED, parameters)
        stored, root = (await self._database.rows(_AT, parameters))[0]
        if root != wanted.root:
            raise HistoryForked(f"A checkpoint of {wanted.size} events of ledger {ledger.name} was signed with another root.")
        return await self._served(stored)

    async def _served(self, note: str) -> Published:
        """A stored checkpoint, signed by all keys that sign now: a key that was registered after it says the same of the same tree.

        Nothing is added to what none of the keys at hand has signed: whoever can write to the database has us sign nothing.
        """
        published = _published(note)
        parsed, origin = Note.parse(note), published.checkpoint.origin
        mine = [signer.verifier(origin) for signer in self._signers]
        there = {signature.key_id for signature in parsed.signatures}
        if all(verifier.key_id in there for verifier in mine) or not _signed_by_one(mine, parsed):
            return published
        added = [signer.sign(origin, parsed.text) for signer in await self._active() if signer.verifier(origin).key_id not in there]
        return published._replace(note=Note(parsed.text, (*parsed.signatures, *added)).format())


def _signed_by_one(verifiers: list[Verifier], note: Note) -> bool:
    try:
        return any(verifier.signed(note) for verifier in verifiers)
    except NoteError:
        return False


def _published(note: str) -> Published:
    return Published(note, Checkpoint.parse(Note.parse(note).text))


def default_store(state_home: str | None) -> Path:
    """Where checkpoints are kept unless a setting says otherwise: below the folder of the XDG specification for state."""
    base = Path(state_home) if state_home and Path(state_home).is_absolute() else Path.home() / ".local" / "state"
    return base / "contract-ledger"


async def authority(database: Database, settings: Settings, heads_folder: Path) -> Authority:
    """In whose name an operator begins an epoch. OperatorError where no key of the deployment, or no store, is at hand."""
    names = await database.rows(_NAME)
    if not names or settings.signing_key is None or settings.checkpoint_store is None:
        raise OperatorError(
            "A new epoch begins with a signed note, which takes LEDGER_SIGNING_KEY and LEDGER_CHECKPOINT_STORE. Where nothing has ever "
            "been signed, `contract-ledger head accept` is enough."
        )
    active = {row[0] for row in await database.rows(KEYS) if row[2] is None}
    signers = [signer for signer in read_signers(settings.signing_key) if signer.public_key in active]
    store = open_store(settings.checkpoint_store, names[0][0], settings.database_url or "")
    return Authority(names[0][0], signers, store, heads_folder)


async def first_verifier(database: Database, settings: Settings, ledger: str) -> str | None:
    """The verifier key of a ledger's checkpoints, to be pinned; None where nothing is signed."""
    signing, reader = Signing(database, settings), Reader(database)
    await signing.open(told=False)
    verifiers = await signing.verifiers(*await reader.ledger(ledger))
    return str(verifiers[-1][0]) if verifiers else None
