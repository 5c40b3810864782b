"""The tree as it is stored, held against the hashes of the events, in the order of the log."""

from collections.abc import Mapping, Sequence

from service.audit.book import Book, Connection, Found
from service.inserts import rows_json
from service.log.checkpoint import Checkpoint, origin_of
from service.log.notes import Note, NoteError, Verifier
from service.log.tree import TILE_WIDTH, Extension, Full, extend, root_of

_TILES = """
SELECT t.level, t.number, t.hashes, t.root
FROM jsonb_to_recordset(%(tiles)s::jsonb) AS w(level integer, number bigint)
JOIN tiles t ON t.ledger_id = %(ledger_id)s::uuid AND t.level = w.level AND t.number = w.number
"""
_CHECKPOINTS = """
SELECT c.epoch, c.size, c.root, c.note, l.name, l.time_zone, (SELECT d.name FROM deployment d)
FROM checkpoints c JOIN ledgers l USING (ledger_id)
WHERE c.ledger_id = %(ledger_id)s::uuid AND c.size > %(after)s AND c.size <= %(upto)s ORDER BY c.size, c.epoch
"""
_KEYS = "SELECT public_key FROM signing_keys"
_FIRST = "SELECT b.frontier FROM batches b WHERE b.ledger_id = %(ledger_id)s::uuid AND b.last_position = 0"
_OUTSIDE = """
SELECT t.level, t.number FROM tiles t
WHERE t.ledger_id = %(ledger_id)s::uuid AND (t.level NOT BETWEEN 0 AND 7 OR t.number < 0 OR (t.number + 1)::numeric * 256::numeric
    ^ (t.level + 1) > (SELECT max(b.last_position) FROM batches b WHERE b.ledger_id = %(ledger_id)s::uuid))
ORDER BY t.level, t.number LIMIT 1
"""


class Growing:
    """The tree of the events up to a position, and what is stored of it: the frontiers of batches, the tiles, the checkpoints."""

    def __init__(self, connection: Connection, book: Book) -> None:
        self._connection = connection
        self._book = book
        self._keys = [row[0] for row in connection.execute(_KEYS, binary=True)]
        self._tree = Extension(b"", 0, [])
        # By level, the hashes that are in no full tile yet.
        self._waiting: list[list[bytes]] = [[]]

    def step(self, leaves: Sequence[bytes], frontiers: Mapping[int, bytes | None]) -> None:
        """Add the next events, and hold what they make against what is stored, such as the frontiers of the batches that end among them,
        by position. Found with the first difference."""
        after, full = self._tree.size, []
        for size, frontier in frontiers.items():
            full += self._extend(leaves[self._tree.size - after : size - after])
            if frontier != self._tree.frontier:
                raise Found(f"position {size}", _other_frontier(frontier))
        full += self._extend(leaves[self._tree.size - after :])
        self._waiting[0] += leaves
        self._check_tiles(sorted(full))
        self._check_checkpoints(after, self._tree.size, frontiers)

    def end(self) -> None:
        """What is stored of the empty tree is right, and nothing is stored of one that the log is too short for."""
        parameters = {"ledger_id": self._book.ledger.ledger_id}
        if self._connection.execute(_FIRST, parameters, binary=True).fetchone() != (b"",):
            raise Found("position 0", "the row that the log begins with has another frontier than that of the empty tree")
        self._check_checkpoints(-1, 0, {0: b""})
        if outside := self._connection.execute(_OUTSIDE, parameters).fetchone():
            raise Found("tile {}/{}".format(*outside), "the log is not long enough for it")
        if beyond := self._connection.execute(_CHECKPOINTS, parameters | {"after": self._book.head, "upto": 2**62}).fetchone():
            raise Found(f"checkpoint {beyond[1]}", f"it was signed, and the log has {self._book.head} events only")

    def _check_checkpoints(self, after: int, upto: int, frontiers: Mapping[int, bytes | None]) -> None:
        """Each checkpoint of these sizes is of the end of a batch, tells the root of its tree, and is signed by a key of the deployment."""
        parameters = {"ledger_id": self._book.ledger.ledger_id, "after": after, "upto": upto}
        for epoch, size, root, note, name, time_zone, deployment in self._connection.execute(_CHECKPOINTS, parameters, binary=True):
            where = f"checkpoint {size} of epoch {epoch}"
            if size not in frontiers or root_of(frontiers[size] or b"") != root:
                raise Found(where, "its root is not that of the tree of so many events")
            wanted = Checkpoint(origin_of(deployment, name, epoch), size, root, (f"time zone {time_zone}",))
            _check_note(where, note, wanted, self._keys)

    def _extend(self, leaves: Sequence[bytes]) -> list[Full]:
        self._tree = extend(self._tree.frontier, self._tree.size, leaves)
        return self._tree.full

    def _check_tiles(self, full: Sequence[Full]) -> None:
        stored = self._stored(full)
        for tile in full:
            if len(self._waiting) == tile.level + 1:
                self._waiting.append([])
            hashes = b"".join(self._waiting[tile.level][:TILE_WIDTH])
            del self._waiting[tile.level][:TILE_WIDTH]
            self._waiting[tile.level + 1].append(tile.root)
            if stored.get(tile[:2]) != (hashes, tile.root):
                what = "differs from the hashes it is made of" if tile[:2] in stored else "is missing"
                raise Found(f"tile {tile.level}/{tile.number}", f"the tile {what}")

    def _stored(self, full: Sequence[Full]) -> dict[tuple[int, ...], tuple[bytes, bytes]]:
        wanted = rows_json([{"level": tile.level, "number": tile.number} for tile in full])
        parameters = {"ledger_id": self._book.ledger.ledger_id, "tiles": wanted}
        return {(row[0], row[1]): (row[2], row[3]) for row in self._connection.execute(_TILES, parameters, binary=True)}


def _other_frontier(frontier: bytes | None) -> str:
    if frontier is None:
        return "the batch that ends here has no frontier: run `contract-ledger migrate`"
    return "the frontier of the batch that ends here is not that of the tree of the events up to it"


def _check_note(where: str, note: str, wanted: Checkpoint, keys: Sequence[bytes]) -> None:
    try:
        signed = Note.parse(note)
        holds = [Verifier(wanted.origin, key).signed(signed) for key in keys]
    except NoteError as error:
        raise Found(where, f"its note is not one that was signed: {error}") from None
    if signed.text != wanted.text():
        raise Found(where, "its note says something else than its row")
    if not any(holds):
        raise Found(where, "no key of the deployment has signed it")
