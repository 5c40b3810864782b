"""The Merkle tree over a ledger's log, as RFC 6962 (section 2.1) defines it: pure functions over hashes of 32 bytes.

A *frontier* is what a tree of some size leaves open: the roots of the complete subtrees that its leaves make, the greatest first, one for
each bit of the size. It is all that the next leaf needs, so a batch carries it. Subtrees of 256, 65,536, ... leaves are *tiles* (C2SP
tlog-tiles): they are stored once they are full, and every proof is made from them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
EMPTY: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""
_sha256 = hashlib.sha256


def leaf_hash(data: bytes) -> bytes:
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\x01" + left + right).digest()


class Full(NamedTuple):
    """A tile that became full: its level, its number among the tiles of that level, and its root."""

    level: int
    number: int
    root: bytes


class Extension(NamedTuple):
    """A tree after further leaves, and the tiles that these made full, lower ones first."""

    frontier: bytes
    size: int
    full: list[Full]


def extend(frontier: bytes, size: int, leaves: Iterable[bytes]) -> Extension:
    """Add leaf hashes to a tree of a size, given its frontier. ValueError when the frontier is not one of that size."""
    nodes = _nodes(frontier)
    if len(nodes) != size.bit_count():
        raise ValueError(f"a tree of {size} leaves has a frontier of {size.bit_count()} hashes, not {len(nodes)}")
    full: list[Full] = []
    for leaf in leaves:
        node, height, index = leaf, 0, size
        while index & 1:
            node = _sha256(b"\x01" + nodes.pop() + node).digest()
            height, index = height + 1, index >> 1
            if height % TILE_HEIGHT == 0:
                full.append(Full(height // TILE_HEIGHT - 1, index, node))
        nodes.append(node)
        size += 1
    return Extension(b"".join(nodes), size, sorted(full))


def root_of(frontier: bytes) -> bytes:
    """The root of the tree that has a frontier."""
    nodes = _nodes(frontier)
    return _bagged(nodes) if nodes else EMPTY


def _nodes(frontier: bytes) -> list[bytes]:
    if len(frontier) % HASH_BYTES:
        raise ValueError(f"a frontier is made of hashes of {HASH_BYTES} bytes, and this one has {len(frontier)}")
    return [frontier[at : at + HASH_BYTES] for at in range(0, len(frontier), HASH_BYTES)]


def _bagged(nodes: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees, the greatest first, as those of a frontier."""
    root = nodes[-1]
    for node in reversed(nodes[:-1]):
        root = node_hash(node, root)
    return root


# Proofs: which parts of the tree they are made of


class Range(NamedTuple):
    """The leaves from `begin` up to, and without, `end`, which a proof tells by one hash."""

    begin: int
    end: int


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """What the audit path of a leaf is made of (PATH of RFC 6962, section 2.1.1), from the leaf upwards."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has none at index {index}")
    begin, end, found = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            found.append(Range(middle, end))
            end = middle
        else:
            found.append(Range(begin, middle))
            begin = middle
    return found[::-1]


def consistency_ranges(size1: int, size2: int) -> list[Range]:
    """What the proof is made of that a tree of `size2` continues one of `size1` (PROOF of RFC 6962, section 2.1.2)."""
    if not 0 <= size1 <= size2:
        raise ValueError(f"a tree of {size2} leaves does not continue one of {size1}")
    if size1 in (0, size2):
        return []
    begin, end, found = 0, size2, []
    while size1 != end:
        middle = begin + _split(end - begin)
        if size1 <= middle:
            found.append(Range(middle, end))
            end = middle
        else:
            found.append(Range(begin, middle))
            begin = middle
    if begin:
        found.append(Range(begin, end))
    return found[::-1]


def subtree_ranges(begin: int, end: int) -> list[Range]:
    """The complete subtrees, each as great as its place allows, that lead from a tree of one size to one of another."""
    if not 0 <= begin <= end:
        raise ValueError(f"a tree of {end} leaves does not continue one of {begin}")
    found = []
    while begin < end:
        width = 1 << ((end - begin).bit_length() - 1)
        width = min(width, begin & -begin) if begin else width
        found.append(Range(begin, begin + width))
        begin += width
    return found


def _split(count: int) -> int:
    """The greatest power of two below a count."""
    return 1 << ((count - 1).bit_length() - 1)


class Piece(NamedTuple):
    """Hashes that lie beside one another at one level of tiles: leaves at level 0, the roots of tiles of the level below above it."""

    level: int
    first: int
    width: int

    @property
    def tile(self) -> int:
        return self.first // TILE_WIDTH

    @property
    def offset(self) -> int:
        return self.first % TILE_WIDTH


def pieces_of(part: Range) -> list[Piece]:
    """The pieces whose hashes make that of a range, each a complete subtree within one tile; the greatest first."""
    return [
        Piece(height // TILE_HEIGHT, index << height % TILE_HEIGHT, 1 << height % TILE_HEIGHT) for height, index in _complete_subtrees(part)
    ]


def _complete_subtrees(part: Range) -> Iterator[tuple[int, int]]:
    """The height of each complete subtree of a range, and its number among those of that height."""
    begin, end = part
    while begin < end:
        height = (end - begin).bit_length() - 1
        yield height, begin >> height
        begin += 1 << height


def range_hash(pieces: Sequence[bytes]) -> bytes:
    """The hash of a range from the hashes of its pieces, each as they lie beside one another."""
    return _bagged([_complete_root(_nodes(piece)) for piece in pieces])


def _complete_root(nodes: list[bytes]) -> bytes:
    while len(nodes) > 1:
        nodes = [node_hash(nodes[at], nodes[at + 1]) for at in range(0, len(nodes), 2)]
    return nodes[0]


# Proofs: whether they hold


def _are_hashes(*given: bytes) -> bool:
    return all(len(one) == HASH_BYTES for one in given)


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path proves a leaf hash at an index of a tree (RFC 9162, section 2.1.3.2, which says it for the same tree)."""
    if not (0 <= index < size and _are_hashes(leaf, root, *path)):
        return False
    node, at, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path proves that the tree of `root2` continues that of `root1` (RFC 9162, section 2.1.4.2)."""
    if not (0 <= size1 <= size2 and _are_hashes(root1, root2, *path)):
        return False
    if size1 == size2:
        return not path and root1 == root2
    if size1 == 0:
        return not path and root1 == EMPTY
    nodes = [root1, *path] if size1.bit_count() == 1 else path
    return bool(path) and _roots_from(size1, size2, nodes) == (root1, root2)


def _roots_from(size1: int, size2: int, nodes: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """The two roots that the nodes of a consistency proof make."""
    at, last = size1 - 1, size2 - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, node)
        at, last = at >> 1, last >> 1
    return (old, new) if last == 0 else None
