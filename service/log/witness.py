"""Witnesses (C2SP tlog-witness): others who see every checkpoint, have it proven that it continues the last they saw, and cosign it.

What they have cosigned cannot be told to two readers in two ways, by us or by who holds our key.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from service.errors import OperatorError
from service.log.checkpoint import Checkpoint
from service.log.notes import COSIGNATURE, Note, NoteError, Signature, Verifier

ANSWER_SECONDS: Final = 10
"""How long a witness may take to answer; then it is asked again with the next checkpoint."""
MAX_ANSWER_BYTES: Final = 65_536
MAX_ASKED: Final = 3
"""How often a witness is asked for one checkpoint: it may name another size as the last it saw, and that again."""
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")

Prove = Callable[[int, int], Awaitable[list[bytes]]]
"""The consistency proof between the trees of two sizes, as `service.log.proofs.consistency` makes it."""


class WitnessError(Exception):
    """A witness did not cosign; the message says why."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: where it takes checkpoints (its submission prefix), and the key by which its cosignatures are known."""

    url: str
    verifier: Verifier

    @classmethod
    def named(cls, url: str, verifier_key: str) -> "Witness":
        """A witness as an operator names it. OperatorError for what is no address or no key of a witness."""
        try:
            known = httpx.URL(url)
            host = known.host  # brought to Unicode only now, which may fail
            verifier = Verifier.parse(verifier_key)
        except (httpx.InvalidURL, UnicodeError, NoteError) as error:
            raise OperatorError(f"This names no witness: {error}.") from None
        is_web = known.scheme in ("http", "https") and (known.port is None or 0 < known.port < 2**16)
        if not is_web or not host or known.userinfo or known.query or known.fragment:
            raise OperatorError(f"{url[:200]!r} is no submission prefix of a witness, such as https://witness.example/log.")
        if verifier.kind != COSIGNATURE:
            raise OperatorError(f"{verifier} is the key of a log: that of a witness is of type 4 (cosignature/v1).")
        return cls(url.rstrip("/"), verifier)


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What a witness answered: its cosignature, and the instant that it states, in seconds since 1970."""

    signature: Signature
    seconds: int


async def cosign(client: httpx.AsyncClient, witness: Witness, note: Note, seen: int, prove: Prove) -> Cosigned:
    """Have a witness cosign a signed checkpoint; `seen` is the size of the last that it is believed to have cosigned, 0 if none.

    WitnessError when it cannot be reached, refuses, has seen a greater tree, or answers what is no cosignature of its own on this.
    """
    checkpoint = Checkpoint.parse(note.text)
    for _ in range(MAX_ASKED):
        if seen > checkpoint.size:
            raise WitnessError(f"it has cosigned a tree of {seen} events, and this one has {checkpoint.size}")
        path = await prove(seen, checkpoint.size)
        status, answer = await _posted(client, witness, add_checkpoint(seen, path, note))
        if status == httpx.codes.OK:
            return _cosignature(witness, note, answer)
        if status != httpx.codes.CONFLICT:
            raise WitnessError(f"it answered {status}: {_shown(answer)}")
        seen = _size(answer)
    raise WitnessError("it names another size each time as the last that it has cosigned")


def add_checkpoint(old: int, path: Sequence[bytes], note: Note) -> bytes:
    """The body of `add-checkpoint`: the old size, the proof from it, and the signed checkpoint."""
    proof = "".join(base64.b64encode(node).decode() + "\n" for node in path)
    return f"old {old}\n{proof}\n{note.format()}".encode()


async def _posted(client: httpx.AsyncClient, witness: Witness, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer, of which no more is read than a witness has to say."""
    try:
        # httpx bounds each wait, and not their sum. What is read is not decompressed, which could make much of little.
        headers = {"Accept-Encoding": "identity"}
        url = f"{witness.url}/add-checkpoint"
        async with asyncio.timeout(ANSWER_SECONDS), client.stream("POST", url, content=body, headers=headers) as answer:
            read = b""
            async for part in answer.aiter_raw():
                read += part
                if len(read) > MAX_ANSWER_BYTES:
                    raise WitnessError(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
            return answer.status_code, read
    except (httpx.HTTPError, TimeoutError) as error:
        raise WitnessError(f"it cannot be asked ({type(error).__name__}: {error})") from error


def _size(answer: bytes) -> int:
    """The size that an answer 409 names."""
    text = answer.decode(errors="replace").removesuffix("\n")
    if not _SIZE.fullmatch(text):
        raise WitnessError(f"it answered 409, and names no size: {_shown(answer)}")
    return int(text)


def _cosignature(witness: Witness, note: Note, answer: bytes) -> Cosigned:
    """The witness's own cosignature among the lines of an answer. Those of keys that are not known here are ignored, as they have to be."""
    try:
        signed = Note.parse(f"{note.text}\n".encode() + answer)
        if not witness.verifier.signed(signed):
            raise WitnessError("its answer has no cosignature by its key")
    except NoteError as error:
        raise WitnessError(f"its answer is no cosignature on this checkpoint: {error}") from error
    known = (witness.verifier.name, witness.verifier.key_id)
    signature = next(one for one in signed.signatures if (one.name, one.key_id) == known)
    seconds = int.from_bytes(signature.signature[:8], "big")
    if not 0 < seconds < 1 << 63:
        raise WitnessError(f"its cosignature states no time ({seconds})")
    return Cosigned(signature, seconds)


def _shown(answer: bytes) -> str:
    return repr(answer[:200].decode(errors="replace"))
