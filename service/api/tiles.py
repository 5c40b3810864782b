"""The log as tiles (C2SP tlog-tiles): hashes of the tree, and the headers that are its leaves. What is once there never changes."""

import re
from typing import Any, NamedTuple

from fastapi import APIRouter, Response

from service.api.operations import Call, Documented, QueryModel, route
from service.errors import NotFound, Refused
from service.log.tiles import read_entries, read_pieces
from service.log.tree import TILE_HEIGHT, TILE_WIDTH, Piece

TILE = "/v1/ledgers/{ledger}/log/tile/{level}/{tile:path}"
ENTRIES = "/v1/ledgers/{ledger}/log/tile/entries/{tile:path}"
MEDIA_TYPE = "application/octet-stream"
_SECONDS = 31_536_000
_HIGHEST = 6
_PATH = re.compile(r"((?:x[0-9]{3}/){0,5})([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")

router = APIRouter()


class TileQuery(QueryModel):
    pass


class Tile(NamedTuple):
    """What a path names: the number of a tile among those of its level, and how many of its entries."""

    number: int
    width: int


def read_tile_path(path: str) -> Tile:
    """A tile's number and width, as C2SP tlog-tiles writes them (`x001/x234/067`, `067.p/12`). NotFound for any other path."""
    known = _PATH.fullmatch(path)
    if known is None or (known[1].startswith("x000/")):
        raise NotFound(f"{path[:100]!r} names no tile; a tile is written as 067, x001/x234/067, or 067.p/12 for its first 12 entries.")
    groups, last, width = known.groups()
    partial = int(width) if width else TILE_WIDTH
    if width and partial >= TILE_WIDTH:
        raise NotFound(f"A partial tile has 1 to {TILE_WIDTH - 1} entries, not {partial}; all {TILE_WIDTH} are asked for without `.p`.")
    return Tile(int(groups.replace("x", "").replace("/", "") + last), partial)


async def _tile(call: Call) -> Response:
    call.query(TileQuery)
    level, tile = _level(call.request.path_params["level"]), read_tile_path(call.request.path_params["tile"])
    await _require(call, level, tile)
    piece = Piece(level, tile.number * TILE_WIDTH, tile.width)
    (hashes,) = await read_pieces(call.services.reader.database, call.ledger.ledger_id, [piece])
    return Response(hashes, headers=_immutable(call), media_type=MEDIA_TYPE)


def _immutable(call: Call) -> dict[str, str]:
    whose = "public" if call.ledger.public_log else "private"
    return {"Cache-Control": f"{whose}, max-age={_SECONDS}, immutable", "Vary": "Authorization, Accept"}


def _level(text: str) -> int:
    if not re.fullmatch("[0-9]", text) or int(text) > _HIGHEST:
        raise NotFound(f"{text[:100]!r} is no level of tiles; those of events are 0, and above them 1 to {_HIGHEST}.")
    return int(text)


async def _require(call: Call, level: int, tile: Tile) -> None:
    """NotFound unless the log is long enough for a tile, or for so much of it."""
    size, _ = await call.services.reader.newest(call.ledger)
    there = (size >> TILE_HEIGHT * level) - tile.number * TILE_WIDTH
    if there < tile.width:
        having = f"has {there} entries so far: ask for `.p/{there}`" if there > 0 else "is beyond the end"
        raise NotFound(f"The log has {size} events, and the tile {having}.")


async def _entries(call: Call) -> Response:
    call.query(TileQuery)
    tile = read_tile_path(call.request.path_params["tile"])
    await _require(call, 0, tile)
    headers = await read_entries(call.services.reader.database, call.ledger.ledger_id, tile.number * TILE_WIDTH, tile.width)
    bundle = b"".join(part for header in headers for part in (len(header).to_bytes(2, "big"), header))
    return Response(bundle, headers=_immutable(call), media_type=MEDIA_TYPE)


_PROBLEMS: Any = (Refused, NotFound)
_PATHS = "A tile is written `067`, `x001/x234/067` for number 1,234,067, and `067.p/12` for its first 12 entries."
route(
    router,
    "GET",
    TILE,
    "audit:read",
    Documented(
        operation_id="get_tile",
        tag="audit",
        summary="A tile of the tree's hashes (C2SP tlog-tiles)",
        description=(
            f"Up to 256 hashes of 32 bytes, one after the other: of events at level 0, of 256, 65,536, ... events above it. {_PATHS} "
            "What is once there never changes."
        ),
        query=TileQuery,
        answers={200: ("The hashes", bytearray)},
        problems=_PROBLEMS,
        opened=True,
    ),
    _tile,
)
route(
    router,
    "GET",
    ENTRIES,
    "audit:read",
    Documented(
        operation_id="get_entries",
        tag="audit",
        summary="The headers of up to 256 events (C2SP tlog-tiles entry bundle)",
        description=(
            f"Each header as it was hashed, with its length before it as two bytes, the greater first. {_PATHS} "
            "SHA-256 of a zero byte and the header is the event's hash, and its leaf in the tree."
        ),
        query=TileQuery,
        answers={200: ("The headers", bytearray)},
        problems=_PROBLEMS,
        opened=True,
    ),
    _entries,
)
