"""Proofs that an event is in a ledger's tree, and that a tree continues an earlier one (RFC 6962): each made by one query."""

from collections.abc import Sequence

from service.database import Database
from service.log.tiles import read_pieces
from service.log.tree import EMPTY, Range, consistency_ranges, inclusion_ranges, pieces_of, range_hash, subtree_ranges


async def inclusion(database: Database, ledger_id: str, index: int, size: int) -> list[bytes]:
    """The audit path of a leaf in the tree of a size, which the log must have reached. ValueError when it has no such leaf."""
    return await _hashes(database, ledger_id, inclusion_ranges(index, size))


async def consistency(database: Database, ledger_id: str, size1: int, size2: int) -> list[bytes]:
    """The proof that the tree of `size2`, which the log must have reached, continues that of `size1`. ValueError when it is smaller."""
    return await _hashes(database, ledger_id, consistency_ranges(size1, size2))


async def root_at(database: Database, ledger_id: str, size: int) -> bytes:
    """The root of the tree of a size, which the log must have reached."""
    if size == 0:
        return EMPTY
    return (await _hashes(database, ledger_id, [Range(0, size)]))[0]


async def inclusions(database: Database, ledger_id: str, indices: Sequence[int], size: int) -> list[list[bytes]]:
    """The audit paths of several leaves, which share most of what they are made of. ValueError when one is beyond the size."""
    paths = [inclusion_ranges(index, size) for index in indices]
    ranges = sorted({part for path in paths for part in path})
    found = dict(zip(ranges, await _hashes(database, ledger_id, ranges), strict=True))
    return [[found[part] for part in path] for path in paths]


async def subtrees(database: Database, ledger_id: str, begin: int, end: int) -> list[bytes]:
    """The roots of the complete subtrees, each as great as its place allows, that lead from one size of the tree to another."""
    return await _hashes(database, ledger_id, subtree_ranges(begin, end))


async def _hashes(database: Database, ledger_id: str, ranges: Sequence[Range]) -> list[bytes]:
    parts = [pieces_of(one) for one in ranges]
    found = iter(await read_pieces(database, ledger_id, [piece for part in parts for piece in part]) if parts else ())
    return [range_hash([next(found) for _ in part]) for part in parts]
