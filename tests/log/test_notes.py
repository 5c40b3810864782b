"""Signed notes and checkpoints: another log's, and what is none."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.log.checkpoint import Checkpoint
from service.log.notes import COSIGNATURE, Note, NoteError, Signature, Signer, Verifier, cosigned
from service.log.tree import EMPTY, extend, leaf_hash, root_of

ROOT = Path(__file__).parents[2]
TLOG = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT / ".." / "shared" / "data")) / "tlog"
TLOG_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
NOTES = sorted(file.name for file in TLOG.glob("checkpoint*"))
SIGNER = Signer(bytes(range(32)))
NAME = "ledger.example/main/1"


@pytest.mark.skipif(not NOTES, reason="the reference data of transparency-dev/tessera is not here")
@pytest.mark.parametrize("name", NOTES)
def test_the_checkpoints_of_another_log_are_read_and_their_signatures_hold(name: str) -> None:
    raw = (TLOG / name).read_bytes()
    note = Note.parse(raw)
    assert Verifier.parse(TLOG_KEY).signed(note)
    assert note.format().encode() == raw
    checkpoint = Checkpoint.parse(note.text)
    assert checkpoint.text() == note.text
    if name != "checkpoint":
        assert checkpoint.size == int(name.rpartition(".")[2])
    assert checkpoint.root == root_of(extend(b"", 0, leaves(checkpoint.size)).frontier)
    with pytest.raises(NoteError, match="does not hold"):
        Verifier.parse(TLOG_KEY).signed(note._replace(text=note.text.replace("log", "fog")))


def leaves(size: int) -> list[bytes]:
    """The first leaves of that log, from its entry bundle."""
    bundle = (TLOG / "tile" / "entries" / "000.p" / "15").read_bytes()
    found, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        found.append(leaf_hash(bundle[at + 2 : at + 2 + length]))
        at += 2 + length
    return found[:size]


def test_a_key_is_named_as_others_name_it() -> None:
    assert str(Verifier.parse(TLOG_KEY)) == TLOG_KEY


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1).map(lambda line: line + "\n"))
def test_what_is_signed_is_read_again_and_holds(text: str) -> None:
    note = Note(text, (SIGNER.sign(NAME, text),))
    again = Note.parse(note.format())
    assert again == note
    assert SIGNER.verifier(NAME).signed(again)
    assert not Signer(b"\x01" * 32).verifier(NAME).signed(again)
    assert not SIGNER.verifier("another.example").signed(again)


def test_a_cosignature_covers_the_time() -> None:
    text = Checkpoint("ledger.example/main/1", 0, EMPTY).text()
    key = Verifier("witness.example", SIGNER.public_key, COSIGNATURE)
    signature = SIGNER._key.sign(cosigned(text.encode(), 1_700_000_000))
    told = [(1_700_000_000).to_bytes(8, "big") + signature, (1_700_000_001).to_bytes(8, "big") + signature, signature]
    holds, moved, bare = (Note(text, (Signature("witness.example", key.key_id, one),)) for one in told)
    assert key.signed(holds)
    for note in (moved, bare):
        with pytest.raises(NoteError, match="does not hold"):
            key.signed(note)


LINE = SIGNER.sign(NAME, "a\n").line()


@pytest.mark.parametrize(
    "note",
    [
        *("", "a", "a\n", "a\n\n", f"a{LINE}", f"a\n{LINE}", f"a\n\n{LINE}x", f"a\n\n{LINE[:-1]}", f"a\x00\n\n{LINE}", f"a\r\n\n{LINE}"),
        *(f"a\n\n{LINE.replace('— ', '- ')}", f"a\n\n{LINE.replace('=', '')}", f"a\n\n— {NAME} AAAA\n", f"a\n\n—  {NAME} {'A' * 96}\n"),
        *("a\n\n" + LINE * 65, "a" * 65_537 + f"\n\n{LINE}", f"a\n\n{LINE.replace('ledger', 'led+ger')}"),
    ],
)
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        Note.parse(note)


def test_what_is_no_utf_8_is_no_note() -> None:
    with pytest.raises(NoteError, match="UTF-8"):
        Note.parse(b"\xff\n\n" + LINE.encode())


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a+b", "a+b+c", TLOG_KEY[1:], TLOG_KEY[:-1], TLOG_KEY.replace("33d7b496", "33d7b497"), TLOG_KEY.replace("+Ae", "+Be")),
        *(TLOG_KEY + "AA", TLOG_KEY.replace("example.com", "example com")),
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(text)


GOOD = base64.b64encode(EMPTY).decode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "a\n", "a\n1\n", f"a\n1\n{GOOD}", f"a\n01\n{GOOD}\n", f"a\n-1\n{GOOD}\n", f"a\n1e3\n{GOOD}\n", f"\n1\n{GOOD}\n"),
        *(
            f"a\n1\n{GOOD}\n\nx\n",
            f"a\n1\n{GOOD[:-4]}\n",
            f"a\n1\n{GOOD[:-2]}\n",
            f"a\n{'9' * 30}\n{GOOD}\n",
            f"a\n1\n{'!' * 44}\n",
            f"a\n٣\n{GOOD}\n",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(NoteError, match="32 bytes"):
        Signer(b"short")
