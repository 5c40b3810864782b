"""Witnesses: what one in a process of its own cosigns, and what is made of one that is down, refuses, lies, or has seen more."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.errors import OperatorError
from service.log import witness as client_of_witnesses
from service.log.checkpoint import Checkpoint
from service.log.notes import COSIGNATURE, Note, Signature, Signer, Verifier, cosigned
from service.log.tree import consistency_ranges, extend, leaf_hash, root_of
from service.log.witness import Witness, WitnessError, add_checkpoint, cosign

ORIGIN, NAME = "ledger.example/main/1", "witness.example/w1"
LOG, OTHER_LOG = Signer(b"\x01" * 32), Signer(b"\x02" * 32)
SEED = b"\x03" * 32
VERIFIER = Verifier(NAME, Signer(SEED).public_key, COSIGNATURE)
LEAVES = [leaf_hash(f"{number}".encode()) for number in range(300)]


def signed(size: int, *, leaves: list[bytes] = LEAVES, signer: Signer = LOG, origin: str = ORIGIN) -> Note:
    text = Checkpoint(origin, size, root_of(extend(b"", 0, leaves[:size]).frontier), ("Asia/Seoul",)).text()
    return Note(text, (signer.sign(origin, text),))


async def prove(old: int, size: int) -> list[bytes]:
    return [root_of(extend(b"", 0, LEAVES[part.begin : part.end]).frontier) for part in consistency_ranges(old, size)]


@contextmanager
def witnessing(state: Path) -> Iterator[Witness]:
    """A witness that knows the log, in a process of its own."""
    arguments = [NAME, SEED.hex(), str(state), f"{ORIGIN}={LOG.verifier(ORIGIN)}"]
    script = str(Path(__file__).parent / "witness.py")
    with subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Witness.named(f"http://127.0.0.1:{int(process.stdout.readline())}/", str(VERIFIER))
        finally:
            process.kill()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as made:
        yield made


async def test_a_witness_cosigns_a_log_as_it_grows(client: httpx.AsyncClient, tmp_path: Path) -> None:
    with witnessing(tmp_path / "state") as witness:
        seen = 0
        for size in (0, 1, 5, 5, 8, 257, 300):
            note = signed(size)
            answer = await cosign(client, witness, note, seen, prove)
            whole = Note.parse(note._replace(signatures=(*note.signatures, answer.signature)).format())
            assert LOG.verifier(ORIGIN).signed(whole)
            assert VERIFIER.signed(whole)
            assert answer.seconds > 1_700_000_000
            seen = size


async def test_who_forgot_what_a_witness_has_seen_is_told_and_proves_from_there(client: httpx.AsyncClient, tmp_path: Path) -> None:
    with witnessing(tmp_path / "state") as witness:
        await cosign(client, witness, signed(7), 0, prove)
    with witnessing(tmp_path / "state") as witness:
        for believed in (0, 3, 20):
            assert await cosign(client, witness, signed(20 + believed), believed, prove)


async def test_a_log_that_was_cut_or_changed_is_not_cosigned(client: httpx.AsyncClient, tmp_path: Path) -> None:
    with witnessing(tmp_path / "state") as witness:
        await cosign(client, witness, signed(20), 0, prove)
        with pytest.raises(WitnessError, match="has cosigned a tree of 20 events, and this one has 12"):
            await cosign(client, witness, signed(12), 0, prove)
        changed = [leaf_hash(b"another"), *LEAVES[1:]]
        for size in (20, 30):
            with pytest.raises(WitnessError, match="422"):
                await cosign(client, witness, signed(size, leaves=changed), 20, prove)


async def test_a_log_that_a_witness_does_not_know_is_not_cosigned(client: httpx.AsyncClient, tmp_path: Path) -> None:
    with witnessing(tmp_path / "state") as witness:
        with pytest.raises(WitnessError, match="403"):
            await cosign(client, witness, signed(3, signer=OTHER_LOG), 0, prove)
        with pytest.raises(WitnessError, match="404"):
            await cosign(client, witness, signed(3, origin="ledger.example/main/2"), 0, prove)


async def test_a_witness_that_is_down_is_said_so(client: httpx.AsyncClient) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        witness = Witness.named(f"http://127.0.0.1:{free.getsockname()[1]}", str(VERIFIER))
        with pytest.raises(WitnessError, match="cannot be asked"):
            await cosign(client, witness, signed(3), 0, prove)


async def test_a_witness_that_never_answers_is_not_waited_for_long(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_of_witnesses, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        witness = Witness.named(f"http://127.0.0.1:{silent.getsockname()[1]}", str(VERIFIER))
        with pytest.raises(WitnessError, match="TimeoutError"):
            await cosign(client, witness, signed(3), 0, prove)


def cosignature(note: Note, seconds: int = 1_700_000_000, seed: bytes = SEED) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    made = seconds.to_bytes(8, "big") + key.sign(cosigned(note.text.encode(), seconds))
    return Signature(NAME, VERIFIER.key_id, made).line().encode()


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, b"", "no cosignature"),
        (200, b"<html>fine</html>\n", "no cosignature"),
        (200, cosignature(signed(4)), "does not hold"),
        (200, cosignature(signed(3), seed=b"\x09" * 32), "does not hold"),
        (200, cosignature(signed(3), seconds=0), "states no time"),
        (200, signed(3).signatures[0].line().encode(), "no cosignature by its key"),
        (200, b"x" * 70_000, "more than 65536 bytes"),
        (409, b"many\n", "names no size"),
        (409, b"9" * 30, "names no size"),
        (409, b"1\n", "another size each time"),
        (409, b"4\n", "has cosigned a tree of 4"),
        (500, b"\xff\xfe", "answered 500"),
    ],
)
async def test_an_answer_that_is_no_cosignature_on_this_checkpoint_is_none(status: int, answer: bytes, said: str) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(status, stream=httpx.ByteStream(answer)))) as lying:
        with pytest.raises(WitnessError, match=said):
            await cosign(lying, Witness("https://witness.example", VERIFIER), signed(3), 0, prove)


def test_the_request_is_the_one_of_the_specification() -> None:
    note = signed(3)
    assert add_checkpoint(0, [], note) == f"old 0\n\n{note.format()}".encode()
    assert add_checkpoint(2, [b"\x00" * 32], note) == f"old 2\n{'A' * 43}=\n\n{note.format()}".encode()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://witness.example",
        "witness.example",
        "https://",
        "https://a:b@w.example",
        "https://w.example/?q",
        "h ttp",
        "https://xn--a.example",
        "https://w.example:0",
        "https://w.example:65536",
    ],
)
def test_what_is_no_address_of_a_witness_is_refused(url: str) -> None:
    with pytest.raises(OperatorError):
        Witness.named(url, str(VERIFIER))


def test_the_key_of_a_log_is_no_key_of_a_witness() -> None:
    with pytest.raises(OperatorError, match="the key of a log"):
        Witness.named("https://witness.example", str(LOG.verifier(ORIGIN)))
    with pytest.raises(OperatorError, match="no verifier key"):
        Witness.named("https://witness.example", "nonsense")
