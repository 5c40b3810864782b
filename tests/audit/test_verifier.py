"""The verifier's own functions against other people's vectors: RFC 8032, RFC 6962 proofs, a C2SP log."""

import ast
import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audit import verify
from service.audit.verify import (
    Checkpoint,
    Key,
    Tree,
    Unusable,
    canonical,
    ed25519_verify,
    leaf_hash,
    read_json,
    verify_consistency,
    verify_inclusion,
)
from service.log import header

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT / ".." / "shared" / "data"))
VECTORS = sorted(str(file.relative_to(REFERENCE)) for file in (REFERENCE / "merkle").rglob("*.json"))
TLOG = REFERENCE / "tlog"
TLOG_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
TLOG_SIZES = (0, 1, 2, 3, 4, 5, 6, 7, 15)
_absent = pytest.mark.skipif(not VECTORS, reason="the reference data is not there (LEDGER_REFERENCE_DATA)")

# RFC 8032, section 7.1: tests 1, 2, 3 and SHA(abc): public key, message, signature.
RFC_8032 = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
)
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_the_signatures_of_rfc_8032_hold_and_no_others(public: str, message: str, signature: str) -> None:
    key, text, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert ed25519_verify(key, text, signed)
    assert not ed25519_verify(key, text + b"x", signed)
    for at in (0, 31, 32, 63):
        assert not ed25519_verify(key, text, signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :])
    greater = int.from_bytes(signed[32:], "little") + ORDER
    assert not ed25519_verify(key, text, signed[:32] + greater.to_bytes(32, "little"))
    assert not ed25519_verify(b"\xff" * 32, text, signed)
    assert not ed25519_verify(key, text, signed[:-1])


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 511))
def test_signatures_of_another_implementation_hold_until_a_bit_is_flipped(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signed = private.public_key().public_bytes_raw(), private.sign(message)
    assert ed25519_verify(public, message, signed)
    flipped = (int.from_bytes(signed, "big") ^ (1 << bit)).to_bytes(64, "big")
    assert not ed25519_verify(public, message, flipped)


@_absent
@pytest.mark.parametrize("name", VECTORS)
def test_proofs_of_other_people_are_accepted_and_refused_as_they_say(name: str) -> None:
    vector = json.loads((REFERENCE / name).read_text())
    path = [base64.b64decode(one) for one in vector["proof"] or []]
    if "leafIdx" in vector:
        found = verify_inclusion(
            vector["leafIdx"], vector["treeSize"], base64.b64decode(vector["leafHash"] or ""), path, base64.b64decode(vector["root"] or "")
        )
    else:
        roots = (base64.b64decode(vector[root] or "") for root in ("root1", "root2"))
        found = verify_consistency(vector["size1"], vector["size2"], *roots, path)
    assert found is not vector["wantErr"]


@_absent
@pytest.mark.parametrize("size", TLOG_SIZES)
def test_the_checkpoints_of_another_log_are_signed_and_its_entries_make_their_roots(size: int) -> None:
    checkpoint = Checkpoint((TLOG / f"checkpoint.{size}").read_text())
    assert (checkpoint.origin, checkpoint.size) == ("example.com/log/testdata", size)
    signer = checkpoint.signer([Key(TLOG_KEY)])
    assert signer is not None
    assert signer.name == "example.com/log/testdata"
    tree = Tree()
    if size:
        tile = (TLOG / "tile" / "0" / "000.p" / str(size)).read_bytes()
        for at in range(0, len(tile), 32):
            tree.add(tile[at : at + 32])
        entries = (TLOG / "tile" / "entries" / "000.p" / str(size)).read_bytes()
        assert _leaves(entries) == [tile[at : at + 32] for at in range(0, len(tile), 32)]
    assert (tree.size, tree.root()) == (size, checkpoint.root)


def _leaves(entries: bytes) -> list[bytes]:
    leaves = []
    while entries:
        length = int.from_bytes(entries[:2], "big")
        leaves.append(leaf_hash(entries[2 : 2 + length]))
        entries = entries[2 + length :]
    return leaves


@_absent
def test_a_checkpoint_that_was_changed_is_signed_by_nobody() -> None:
    note = (TLOG / "checkpoint.15").read_text()
    assert Checkpoint(note.replace("\n15\n", "\n14\n")).signer([Key(TLOG_KEY)]) is None
    for broken in (note[:-1], note.replace("\n\n", "\n"), note.replace("15", "015"), note.replace("\u2014", "-"), "", "\n\n\n"):
        with pytest.raises(Unusable):
            Checkpoint(broken)


@pytest.mark.parametrize("key", ["", "a", "a+b", "a+00000000+", TLOG_KEY[:-4], TLOG_KEY.replace("33d7", "33d8"), "x" + TLOG_KEY])
def test_what_is_no_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(Unusable):
        Key(key)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(_json)
def test_its_canonical_json_is_that_of_the_service(value: object) -> None:
    assert canonical(value) == header.canonical(value)
    assert read_json(b'{"value":%s}' % canonical(value), "it") == {"value": value}


@settings(max_examples=50)
@given(st.integers(0, 300), st.integers(0, 300))
def test_a_tree_grown_by_subtrees_has_the_root_of_one_grown_by_leaves(begin: int, more: int) -> None:
    size, leaves = begin + more, [leaf_hash(b"%d" % number) for number in range(begin + more)]
    whole, grown = Tree(), Tree()
    for leaf in leaves:
        whole.add(leaf)
    for leaf in leaves[:begin]:
        grown.add(leaf)
    parts = []
    at = begin
    while at < size:
        width = 1 << ((size - at).bit_length() - 1)
        width = min(width, at & -at) if at else width
        part = Tree()
        for leaf in leaves[at : at + width]:
            part.add(leaf)
        parts.append(part.root())
        at += width
    grown.grow(size, parts)
    assert grown.root() == whole.root()
    with pytest.raises(Unusable):
        grown.grow(size, [bytes(32)])


def test_the_verifier_is_one_file_for_any_python_since_3_9() -> None:
    tree = ast.parse(Path(verify.__file__).read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "argparse", "base64", "hashlib", "json", "re", "sys", "typing"}
