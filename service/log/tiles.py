"""The tiles of a ledger's tree, where they are stored: written as they become full, read for proofs.

A tile of level 0 holds the hashes of 256 events, one of a level above it the roots of 256 tiles below. What is not full is not stored: its
hashes stand in the events, or are the roots of the tiles below it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import orjson
import psycopg
import structlog

from service.database import Database
from service.errors import Internal
from service.log.tree import HASH_BYTES, Extension, Full, Piece, extend

BATCHES_A_STEP = 1_000
"""How many batches get their frontier in one transaction, where they have none yet."""

_FULL = """
INSERT INTO tiles (ledger_id, level, number, hashes, root)
SELECT %(ledger_id)s::uuid, t.level, t.number, h.hashes, decode(t.root, 'hex')
FROM jsonb_to_recordset(%(tiles)s::jsonb) AS t(level integer, number bigint, root text)
CROSS JOIN LATERAL ({hashes}) h
"""
_LEAVES = """
SELECT string_agg(e.event_hash, ''::bytea ORDER BY e.position) AS hashes FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position > t.number * 256 AND e.position <= (t.number + 1) * 256
"""
_ROOTS = """
SELECT string_agg(b.root, ''::bytea ORDER BY b.number) AS hashes FROM tiles b
WHERE b.ledger_id = %(ledger_id)s::uuid AND b.level = t.level - 1 AND b.number >= t.number * 256 AND b.number < (t.number + 1) * 256
"""
_LOWEST, _HIGHER = _FULL.format(hashes=_LEAVES), _FULL.format(hashes=_ROOTS)
_PIECES = """
SELECT coalesce(
    (SELECT substr(t.hashes, 32 * p.begin + 1, 32 * p.width) FROM tiles t
     WHERE t.ledger_id = %(ledger_id)s::uuid AND t.level = p.level AND t.number = p.tile),
    CASE WHEN p.level = 0
    THEN (SELECT string_agg(e.event_hash, ''::bytea ORDER BY e.position) FROM events e
          WHERE e.ledger_id = %(ledger_id)s::uuid
            AND e.position > 256 * p.tile + p.begin AND e.position <= 256 * p.tile + p.begin + p.width)
    ELSE (SELECT string_agg(b.root, ''::bytea ORDER BY b.number) FROM tiles b
          WHERE b.ledger_id = %(ledger_id)s::uuid AND b.level = p.level - 1
            AND b.number >= 256 * p.tile + p.begin AND b.number < 256 * p.tile + p.begin + p.width)
    END)
FROM ROWS FROM (jsonb_to_recordset(%(pieces)s::jsonb) AS (level integer, tile bigint, begin integer, width integer))
    WITH ORDINALITY AS p(level, tile, begin, width, place)
ORDER BY p.place
"""

Told = Callable[[int, int], None]
_log = structlog.get_logger()


def full_tiles(ledger_id: str, full: Iterable[Full]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The statements, each with its parameters, that write tiles which became full, given the lower ones first: a level needs what
    stands below it."""
    for level, tiles in groupby(full, key=lambda tile: tile.level):
        rows = [{"level": tile.level, "number": tile.number, "root": tile.root.hex()} for tile in tiles]
        yield (_HIGHER if level else _LOWEST), {"ledger_id": ledger_id, "tiles": orjson.dumps(rows).decode()}


async def read_pieces(database: Database, ledger_id: str, pieces: Sequence[Piece]) -> list[bytes]:
    """The hashes of pieces, each as they lie beside one another. Internal when the log lacks some, which `verify` can tell more of."""
    wanted = [{"level": piece.level, "tile": piece.tile, "begin": piece.offset, "width": piece.width} for piece in pieces]
    rows = await database.rows(_PIECES, {"ledger_id": ledger_id, "pieces": orjson.dumps(wanted).decode()})
    for piece, (hashes,) in zip(pieces, rows, strict=True):
        if hashes is None or len(hashes) != HASH_BYTES * piece.width:
            raise Internal("The log lacks some of its hashes; `contract-ledger verify` says where.")
    return [row[0] for row in rows]


_ENTRIES = """
SELECT e.header FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position > %(after)s AND e.position <= %(upto)s ORDER BY e.position
"""


async def read_entries(database: Database, ledger_id: str, first: int, count: int) -> list[bytes]:
    """The headers of events from an index of the tree on. Internal when the log lacks some."""
    rows = await database.rows(_ENTRIES, {"ledger_id": ledger_id, "after": first, "upto": first + count})
    if len(rows) != count:
        raise Internal("The log lacks some of its events; `contract-ledger verify` says where.")
    return [row[0] for row in rows]


# Trees of events that were recorded before there were trees


_TREELESS = """
SELECT l.ledger_id::text, l.name FROM ledgers l
WHERE EXISTS (SELECT FROM batches b WHERE b.ledger_id = l.ledger_id AND b.frontier IS NULL) ORDER BY l.name
"""
_HEADS = """
SELECT b.last_position, b.frontier FROM batches b
WHERE b.ledger_id = %(ledger_id)s::uuid AND b.last_position >= coalesce(
    (SELECT max(k.last_position) FROM batches k WHERE k.ledger_id = %(ledger_id)s::uuid AND k.frontier IS NOT NULL
     AND k.last_position < (SELECT min(n.last_position) FROM batches n WHERE n.ledger_id = %(ledger_id)s::uuid AND n.frontier IS NULL)), 0)
ORDER BY b.last_position LIMIT %(step)s + 1
"""
_HASHES = """
SELECT e.event_hash FROM events e
WHERE e.ledger_id = %(ledger_id)s::uuid AND e.position > %(after)s AND e.position <= %(upto)s ORDER BY e.position
"""
_FRONTIERS = """
UPDATE batches b SET frontier = decode(f.frontier, 'hex')
FROM jsonb_to_recordset(%(frontiers)s::jsonb) AS f(last_position bigint, frontier text)
WHERE b.ledger_id = %(ledger_id)s::uuid AND b.last_position = f.last_position AND b.frontier IS NULL
"""
_LAST = "SELECT max(last_position) FROM batches WHERE ledger_id = %(ledger_id)s::uuid"


def build_trees(connection: psycopg.Connection[Any], told: Told) -> list[str]:
    """Build what is missing of the trees of all ledgers, as the owner of the tables, a step at a time: what was built stays when this is
    ended halfway. `told` hears of the events done and those there are. The names of ledgers whose log has gaps: they get no tree."""
    damaged: list[str] = []
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('contract-ledger trees'))")
    for ledger_id, name in connection.execute(_TREELESS).fetchall():
        last = (connection.execute(_LAST, {"ledger_id": ledger_id}).fetchone() or (0,))[0]
        try:
            while (done := _build_step(connection, ledger_id)) is not None:
                told(done, max(done, last))
        except _Gap:
            _log.critical("the log has gaps, so it gets no tree and takes no appends: `contract-ledger verify` says where", ledger=name)
            damaged.append(name)
    return damaged


class _Gap(Exception):
    """Events are missing from a log."""


def _build_step(connection: psycopg.Connection[Any], ledger_id: str) -> int | None:
    """Give the next batches their frontiers, and write the tiles that become full; the position reached, or None when all is done. _Gap
    where events are missing."""
    with connection.transaction():
        connection.execute("SELECT FROM ledger_locks WHERE ledger_id = %s::uuid FOR NO KEY UPDATE", [ledger_id])
        rows = connection.execute(_HEADS, {"ledger_id": ledger_id, "step": BATCHES_A_STEP}).fetchall()
        missing: list[int] = [row[0] for row in rows if row[1] is None]
        if not missing:
            return None
        size, frontier = (rows[0][0], rows[0][1]) if rows[0][1] is not None else (0, b"")
        leaves = connection.execute(_HASHES, {"ledger_id": ledger_id, "after": size, "upto": missing[-1]}).fetchall()
        if len(leaves) != missing[-1] - size:
            raise _Gap
        grown = _grown(Extension(frontier, size, []), [row[0] for row in leaves], missing)
        frontiers = [{"last_position": one.size, "frontier": one.frontier.hex()} for one in grown]
        connection.execute(_FRONTIERS, {"ledger_id": ledger_id, "frontiers": orjson.dumps(frontiers).decode()})
        for statement, parameters in full_tiles(ledger_id, sorted(tile for one in grown for tile in one.full)):
            connection.execute(statement + " ON CONFLICT DO NOTHING", parameters)
        return missing[-1]


def _grown(tree: Extension, leaves: Sequence[bytes], sizes: Iterable[int]) -> list[Extension]:
    """The tree at each of some rising sizes, with the leaves that lead to the last of them."""
    first, grown = tree.size, []
    for size in sizes:
        tree = extend(tree.frontier, tree.size, leaves[tree.size - first : size - first])
        grown.append(tree)
    return grown
