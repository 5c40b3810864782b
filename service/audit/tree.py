"""The tree as it is stored, held against the hashes of the events, in the order of the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.audit.book import Book, Connection, Difference, Found
from service.inserts import rows_json
from service.log.checkpoint import Checkpoint, origin_of
from service.log.notes import Note, NoteError, Verifier
from service.log.tree import TILE_WIDTH, Extension, Full, extend, root_of

POSITIONS_A_STEP = 100 * TILE_WIDTH

_HASHES = """
SELECT e.event_hash FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position > %(after)s AND e.position <= %(upto)s ORDER BY e.position
"""
_BATCHES = """
SELECT b.last_position, b.frontier FROM batches b
WHERE b.ledger_id = %(ledger_id)s::uuid AND b.last_position > %(after)s AND b.last_position <= %(upto)s ORDER BY b.last_position
"""
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


def check_tree(connection: Connection, book: Book) -> Difference | None:
    """Each batch's frontier is that of the tree of the events up to it, and each tile is stored, with its hashes and root, when full."""
    try:
        _walk(connection, book)
    except Found as error:
        return error.difference
    return None


def _walk(connection: Connection, book: Book) -> None:
    parameters = {"ledger_id": book.ledger.ledger_id}
    if connection.execute(_FIRST, parameters, binary=True).fetchone() != (b"",):
        raise Found("position 0", "the row that the log begins with has another frontier than that of the empty tree")
    growing = _Growing(connection, book, [row[0] for row in connection.execute(_KEYS, binary=True)])
    growing.check_checkpoints(-1, 0, {0: b""})
    while growing.tree.size < book.head:
        growing.step()
    if outside := connection.execute(_OUTSIDE, parameters).fetchone():
        raise Found("tile {}/{}".format(*outside), "the log is not long enough for it")
    if beyond := connection.execute(_CHECKPOINTS, parameters | {"after": book.head, "upto": 2**62}).fetchone():
        raise Found(f"checkpoint {beyond[1]}", f"it was signed, and the log has {book.head} events only")


@dataclass(slots=True)
class _Growing:
    """The tree up to a position, and by level the hashes that are in no full tile yet."""

    connection: Connection
    book: Book
    keys: Sequence[bytes]
    tree: Extension = field(default_factory=lambda: Extension(b"", 0, []))
    waiting: list[list[bytes]] = field(default_factory=lambda: [[]])

    def step(self) -> None:
        """Add the next events, and hold what they make against what is stored. Found with the first difference."""
        after, upto = self.tree.size, min(self.tree.size + POSITIONS_A_STEP, self.book.head)
        parameters = {"ledger_id": self.book.ledger.ledger_id, "after": after, "upto": upto}
        leaves = [row[0] for row in self.connection.execute(_HASHES, parameters, binary=True)]
        full: list[Full] = []
        frontiers: dict[int, bytes] = {}
        for size, frontier in self.connection.execute(_BATCHES, parameters, binary=True):
            full += self._extend(leaves[self.tree.size - after : size - after], size)
            if frontier != self.tree.frontier:
                raise Found(f"position {size}", _other_frontier(frontier))
            frontiers[size] = frontier
        full += self._extend(leaves[self.tree.size - after :], upto)
        self.waiting[0] += leaves
        self._check_tiles(sorted(full))
        self.check_checkpoints(after, upto, frontiers)

    def check_checkpoints(self, after: int, upto: int, frontiers: Mapping[int, bytes]) -> None:
        """Each checkpoint of these sizes is of the end of a batch, tells the root of its tree, and is signed by a key of the deployment."""
        parameters = {"ledger_id": self.book.ledger.ledger_id, "after": after, "upto": upto}
        for epoch, size, root, note, name, time_zone, deployment in self.connection.execute(_CHECKPOINTS, parameters, binary=True):
            where = f"checkpoint {size} of epoch {epoch}"
            if size not in frontiers or root_of(frontiers[size]) != root:
                raise Found(where, "its root is not that of the tree of so many events")
            wanted = Checkpoint(origin_of(deployment, name, epoch), size, root, (f"time zone {time_zone}",))
            _check_note(where, note, wanted, self.keys)

    def _extend(self, leaves: Sequence[bytes], size: int) -> list[Full]:
        if size - self.tree.size != len(leaves):
            raise Found(f"position {self.tree.size + 1}", "from here on an event is missing, so the tree is not known")
        self.tree = extend(self.tree.frontier, self.tree.size, leaves)
        return self.tree.full

    def _check_tiles(self, full: Sequence[Full]) -> None:
        stored = self._stored(full)
        for tile in full:
            if len(self.waiting) == tile.level + 1:
                self.waiting.append([])
            hashes = b"".join(self.waiting[tile.level][:TILE_WIDTH])
            del self.waiting[tile.level][:TILE_WIDTH]
            self.waiting[tile.level + 1].append(tile.root)
            if stored.get(tile[:2]) != (hashes, tile.root):
                what = "differs from the hashes it is made of" if tile[:2] in stored else "is missing"
                raise Found(f"tile {tile.level}/{tile.number}", f"the tile {what}")

    def _stored(self, full: Sequence[Full]) -> dict[tuple[int, ...], tuple[bytes, bytes]]:
        wanted = rows_json([{"level": tile.level, "number": tile.number} for tile in full])
        parameters = {"ledger_id": self.book.ledger.ledger_id, "tiles": wanted}
        return {(row[0], row[1]): (row[2], row[3]) for row in self.connection.execute(_TILES, parameters, binary=True)}


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
