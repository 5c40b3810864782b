"""The tree: other people's vectors, and an oracle that is RFC 6962 written down."""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.log import tree
from service.log.tree import Full, Range, extend, leaf_hash, root_of, verify_consistency, verify_inclusion

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT / ".." / "shared" / "data"))
MERKLE = REFERENCE / "merkle"
VECTORS = sorted(str(file.relative_to(MERKLE)) for file in MERKLE.rglob("*.json"))
LEAVES = [leaf_hash(b"%d" % number) for number in range(700)]


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def split(count: int) -> int:
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), mth(leaves[k:])]
    return [*path(index - k, leaves[k:]), mth(leaves[:k])]


def proof(size: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """PROOF and SUBPROOF of RFC 6962, section 2.1.2."""
    if size == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if size <= k:
        return [*proof(size, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*proof(size - k, leaves[k:], whole=False), mth(leaves[:k])]


def hashed(ranges: Sequence[Range]) -> list[bytes]:
    """The hashes of ranges, from pieces as they are stored: leaves, and roots of full tiles."""
    full = {(tile.level, tile.number): tile.root for tile in extend(b"", 0, LEAVES).full}

    def piece(level: int, first: int, count: int) -> bytes:
        places = range(first, first + count)
        return b"".join(LEAVES[at] if level == 0 else full[level - 1, at] for at in places)

    return [tree.range_hash([piece(*part) for part in tree.pieces_of(one)]) for one in ranges]


@pytest.mark.skipif(not VECTORS, reason="the reference data of transparency-dev/merkle is not here")
@pytest.mark.parametrize("name", VECTORS)
def test_proofs_are_accepted_and_refused_as_transparency_dev_says(name: str) -> None:
    vector: dict[str, Any] = json.loads((MERKLE / name).read_text())

    def raw(member: str) -> bytes:
        return base64.b64decode(vector[member] or "")

    hashes = [base64.b64decode(node) for node in vector["proof"] or ()]
    if name.startswith("inclusion"):
        holds = verify_inclusion(vector["leafIdx"], vector["treeSize"], raw("leafHash"), hashes, raw("root"))
    else:
        holds = verify_consistency(vector["size1"], vector["size2"], raw("root1"), raw("root2"), hashes)
    assert holds is not vector["wantErr"], vector["desc"]


@given(st.integers(0, 700), st.integers(0, 700))
def test_a_frontier_extended_in_parts_has_the_root_of_the_rfc(one: int, other: int) -> None:
    size1, size2 = sorted((one, other))
    first = extend(b"", 0, LEAVES[:size1])
    assert root_of(first.frontier) == mth(LEAVES[:size1])
    second = extend(first.frontier, size1, LEAVES[size1:size2])
    assert (second.size, root_of(second.frontier)) == (size2, mth(LEAVES[:size2]))
    assert [*first.full, *second.full] == extend(b"", 0, LEAVES[:size2]).full


def test_tiles_become_full_with_the_root_of_their_leaves() -> None:
    assert extend(b"", 0, LEAVES[:512]).full == [Full(0, 0, mth(LEAVES[:256])), Full(0, 1, mth(LEAVES[256:512]))]


def test_a_tile_of_the_second_level_becomes_full_with_65536_leaves() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(65_536)]
    before = extend(b"", 0, leaves[:-1])
    assert [tile.level for tile in before.full] == [0] * 255
    last = extend(before.frontier, before.size, leaves[-1:])
    assert [(tile.level, tile.number) for tile in last.full] == [(0, 255), (1, 0)]
    assert last.full[1].root == root_of(last.frontier) == tree.range_hash([b"".join(t.root for t in [*before.full, last.full[0]])])


@given(st.data())
def test_inclusion_is_proven_by_the_path_of_the_rfc(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 700))
    index = data.draw(st.integers(0, size - 1))
    found = hashed(tree.inclusion_ranges(index, size))
    assert found == path(index, LEAVES[:size])
    assert verify_inclusion(index, size, LEAVES[index], found, mth(LEAVES[:size]))
    assert not verify_inclusion(index, size, LEAVES[index - 1], found, mth(LEAVES[:size])) or size == 1


@given(st.integers(0, 700), st.integers(0, 700))
def test_consistency_is_proven_by_the_proof_of_the_rfc(one: int, other: int) -> None:
    size1, size2 = sorted((one, other))
    found = hashed(tree.consistency_ranges(size1, size2))
    if size1:
        assert found == proof(size1, LEAVES[:size2])
    assert verify_consistency(size1, size2, mth(LEAVES[:size1]), mth(LEAVES[:size2]), found)
    if 0 < size1 < size2:
        assert not verify_consistency(size1, size2, mth(LEAVES[1 : size1 + 1]), mth(LEAVES[:size2]), found)


@pytest.mark.parametrize(("frontier", "size"), [(b"\x00" * 31, 1), (b"", 1), (b"\x00" * 64, 2), (b"\x00" * 32, 0)])
def test_a_frontier_of_another_size_is_refused(frontier: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="frontier"):
        extend(frontier, size, LEAVES[:1])


def test_ranges_beyond_a_tree_are_refused() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(ValueError, match="none at index"):
            tree.inclusion_ranges(index, size)
    for sizes in ((2, 1), (-1, 1)):
        with pytest.raises(ValueError, match="does not continue"):
            tree.consistency_ranges(*sizes)
