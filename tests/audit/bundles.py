"""Bundles for tests: signed by a key of the test's own, made anew after a change, and given to verify.py as a program of its own."""

import asyncio
import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.audit import bundle as writing
from service.audit import verify
from service.audit.bundle import Bundle, KeyPeriod, Signed, Wanted
from service.database import Database
from service.log import proofs
from service.log.read import Reader

VERIFIER: Final = Path(verify.__file__)
Json = dict[str, Any]


@dataclass(frozen=True)
class Operator:
    """Who signs checkpoints, by C2SP's words and nobody's code."""

    name: str = "log.example"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def _id_and_key(self) -> tuple[bytes, bytes]:
        key = b"\x01" + self.private.public_key().public_bytes_raw()
        return hashlib.sha256(self.name.encode() + b"\n" + key).digest()[:4], key

    @property
    def verifier_key(self) -> str:
        known, key = self._id_and_key
        return f"{self.name}+{known.hex()}+{base64.b64encode(key).decode()}"

    def note(self, size: int, root: bytes, origin: str = "log.example/main/1", *extensions: str) -> str:
        text = "".join(line + "\n" for line in (origin, str(size), base64.b64encode(root).decode(), *extensions))
        signature = base64.b64encode(self._id_and_key[0] + self.private.sign(text.encode())).decode()
        return f"{text}\n— {self.name} {signature}\n"


def made(
    url: str, ledger: str, operator: Operator, wanted: Wanted, size: int | None = None, note: str | None = None
) -> tuple[list[Json], bytes]:
    """A bundle of a ledger, as lines and as bytes, by the service's own code, under a checkpoint of a size (the newest if not said), which
    is signed now unless its note is given."""

    async def make() -> bytes:
        database = Database(url, 2)
        await database.open()
        try:
            reader = Reader(database)
            known, _ = await reader.ledger(ledger)
            reached = (await reader.newest(known))[0] if size is None else size
            note_now = note or operator.note(reached, await proofs.root_at(database, known.ledger_id, reached))
            signed = Signed(note_now, reached, [KeyPeriod(verifier_key=operator.verifier_key)])
            bundle = Bundle(reader, known, signed, wanted)
            await bundle.check()
            return b"".join([piece async for piece in bundle.lines("00000000-0000-7000-8000-0000000000aa")])
        finally:
            await database.close()

    written = asyncio.run(make())
    return [json.loads(line) for line in written.splitlines()], written


def sealed_up(lines: Sequence[Json]) -> bytes:
    """Lines as a bundle whose last line counts and digests the others."""
    events = lines[1:-1]
    before = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines[:-1])
    contracts = len({json.loads(line["header"])["contract_id"] for line in events})
    closing = {
        "end": True,
        "events": len(events),
        "erased": sum(line["body"] is None for line in events),
        "contracts": contracts,
        "digest": hashlib.sha256(before).hexdigest(),
    }
    return before + json.dumps(closing).encode() + b"\n"


@dataclass(frozen=True)
class Said:
    """What verify.py said: its exit status, and of each check the verdict and the words."""

    status: int
    checks: dict[str, tuple[str, str]]
    output: str

    def of(self, verdict: str) -> set[str]:
        return {check for check, (found, _) in self.checks.items() if found == verdict}


def verified(folder: Path, bundle: bytes, *arguments: str, python: str = sys.executable) -> Said:
    """The verdict of verify.py, run from a folder that holds nothing else, by a Python without packages."""
    (folder / "verify.py").write_bytes(VERIFIER.read_bytes())
    (folder / "bundle.ndjson").write_bytes(bundle)
    command = [python, "-I", "-S", "verify.py", "bundle.ndjson", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONUTF8": "1"})
    assert "Traceback" not in ended.stderr, ended.stderr
    checks = {}
    for line in ended.stdout.splitlines():
        name, _, rest = line.partition(" ")
        if name in verify.CHECKS:
            verdict, _, words = rest.strip().partition("  ")
            checks[name] = (verdict, words.strip())
    return Said(ended.returncode, checks, ended.stdout + ended.stderr)


Change = Callable[[list[Json]], None]
assert writing.FORMAT == verify.FORMAT
