"""Tiles over HTTP: as other people's logs lay them out, and as the tree of the events demands."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.tiles import read_tile_path
from service.errors import NotFound
from service.log.tree import extend, leaf_hash, root_of
from tests.api.bodies import with_key
from tests.api.running import RunningService
from tests.guarantees.load import note, opening

ROOT = Path(__file__).parents[2]
TLOG = Path(os.environ.get("LEDGER_REFERENCE_DATA", ROOT / ".." / "shared" / "data")) / "tlog"
EVENTS = 300


@pytest.fixture(scope="module")
def log(service: RunningService) -> Iterator[httpx.Client]:
    """A client at a ledger with EVENTS events."""
    service.make_ledger("tiled")
    with service.client(service.admin, ledger="tiled") as api:
        opened = api.post("/contracts/reported", json=opening(), headers=with_key())
        path = f"/contracts/{opened.json()['contract_id']}/events"
        for first in range(1, EVENTS, 50):
            events = [{"event_type": "note.added", **note(f"{at}")} for at in range(first, min(first + 50, EVENTS))]
            answer = api.post(path, json={"events": events}, headers=with_key())
            assert answer.status_code == 201, answer.text
        yield api


def entries_in(bundle: bytes) -> list[bytes]:
    """The entries of a bundle: each with two bytes of length before it."""
    found, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        found.append(bundle[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def test_tiles_are_the_hashes_of_the_events_and_of_full_tiles(log: httpx.Client) -> None:
    leaves = [bytes.fromhex(event["event_hash"]) for event in all_events(log)]
    full, partial = log.get("/log/tile/0/000"), log.get("/log/tile/0/001.p/44")
    assert full.content == b"".join(leaves[:256])
    assert partial.content == b"".join(leaves[256:])
    assert log.get("/log/tile/0/000.p/255").content == full.content[: 255 * 32]
    assert log.get("/log/tile/1/000.p/1").content == root_of(extend(b"", 0, leaves[:256]).frontier)
    for answer in (full, partial):
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "immutable" in answer.headers["Cache-Control"]


def all_events(log: httpx.Client) -> list[dict[str, str]]:
    events: list[dict[str, str]] = log.get("/events", params={"limit": 500}).json()["items"]
    return events


def test_entries_are_the_leaves_of_the_tree(log: httpx.Client) -> None:
    headers = entries_in(log.get("/log/tile/entries/000").content) + entries_in(log.get("/log/tile/entries/001.p/44").content)
    assert [leaf_hash(header).hex() for header in headers] == [event["event_hash"] for event in all_events(log)]


@pytest.mark.skipif(not TLOG.is_dir(), reason="the reference data of transparency-dev/tessera is not here")
def test_the_paths_of_another_log_are_read_and_its_tiles_lie_as_ours_do() -> None:
    for file in sorted((TLOG / "tile" / "0").rglob("*")):
        if file.is_file():
            tile = read_tile_path(str(file.relative_to(TLOG / "tile" / "0")))
            assert (tile.number, tile.width * 32) == (0, len(file.read_bytes()))
            entries = entries_in((TLOG / "tile" / "entries" / file.relative_to(TLOG / "tile" / "0")).read_bytes())
            assert b"".join(leaf_hash(entry) for entry in entries) == file.read_bytes()


@pytest.mark.parametrize(("path", "number"), [("067", 67), ("x001/x234/067", 1_234_067), ("x999/999", 999_999)])
def test_a_number_is_written_in_groups_of_three_digits(path: str, number: int) -> None:
    assert read_tile_path(path) == (number, 256)
    assert read_tile_path(f"{path}.p/12") == (number, 12)


@pytest.mark.parametrize(
    "path", ["", "0", "1234", "x001", "x000/067", "001/067", "067.p", "067.p/0", "067.p/256", "067.p/012", "067/", "-01", "٠٦٧", "067.P/1"]
)
def test_what_names_no_tile_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        read_tile_path(path)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("0/001", "ask for `.p/44`"),
        ("0/001.p/45", "ask for `.p/44`"),
        ("0/002.p/1", "beyond the end"),
        ("0/x999/x999/x999/x999/x999/999", "beyond the end"),
        ("1/000", "ask for `.p/1`"),
        ("2/000.p/1", "beyond the end"),
        ("7/000.p/1", "no level"),
        ("00/000", "no level"),
        ("data/000", "no level"),
        ("entries/001", "ask for `.p/44`"),
        ("entries/x001/000", "beyond the end"),
        ("0/x001/", "names no tile"),
    ],
)
def test_tiles_beyond_the_log_are_not_found_and_it_is_said_how_far_it_goes(log: httpx.Client, path: str, told: str) -> None:
    answer = log.get(f"/log/tile/{path}")
    assert answer.status_code == 404
    assert told in answer.json()["detail"]


def test_a_tile_whose_path_is_escaped_is_the_same(log: httpx.Client) -> None:
    assert log.get("/log/tile/0/001.p%2F44").content == log.get("/log/tile/0/001.p/44").content


def test_tiles_take_the_right_to_audit(service: RunningService, log: httpx.Client) -> None:
    for path in ("/log/tile/0/000", "/log/tile/entries/000"):
        assert log.get(path).status_code == 200
        with service.client(None, ledger="tiled") as stranger:
            assert stranger.get(path).status_code == 401
        with service.client(service.make_key(["contracts:read"]), ledger="tiled") as reader:
            assert reader.get(path).status_code == 403
