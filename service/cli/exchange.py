"""Files of events by the line: sent into a ledger with their progress and fates, and written out of one."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO
from uuid import UUID, uuid5

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from service.cli.client import Client, Json, visible
from service.cli.story import console
from service.errors import OperatorError

PIECE_BYTES = 65_536
_FILES = UUID("b6a0f7a4-6a0c-5a57-8d4e-0f1f3c9a7d21")

Moved = Callable[[int], None]


def import_id_of(file: Path, ledger: str) -> str:
    """The id of an import of a file: always the same for its path, so that the same command goes on where it ended."""
    return str(uuid5(_FILES, f"{ledger}\n{file.resolve()}"))


def import_file(client: Client, file: Path, import_id: str, from_line: int, *, stop_on_refusal: bool) -> bool:
    """Send a file's lines from one on, and say what became of them; whether all of the import's are recorded."""
    with _opened(file) as (lines, size):
        skipped = sum(len(lines.readline()) for _ in range(from_line - 1))
        with _moving(f"{file.name} into {client.ledger}", size and size - skipped) as moved:
            outcome = client.send_lines(_pieces(lines, moved), import_id, from_line, stop_on_refusal=stop_on_refusal)
    out = console()
    for line in _not_recorded(client, outcome):
        out.print(Text(line), soft_wrap=True)
    out.print(Text(_sentence(outcome)), soft_wrap=True)
    return str(outcome["status"]) == "complete"


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """A file to be read and its bytes; standard input for `-`, of which nobody knows how long it is."""
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        lines = file.open("rb")
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}.") from None
    with lines:
        yield lines, os.fstat(lines.fileno()).st_size


def _pieces(lines: BinaryIO, moved: Moved) -> Iterator[bytes]:
    # What there is, not so much and no less: lines that come through a pipe go on as they come.
    read = getattr(lines, "read1", lines.read)
    while piece := read(PIECE_BYTES):
        yield piece
        moved(len(piece))


@contextmanager
def _moving(what: str, total: int | None) -> Iterator[Moved]:
    """A bar on the terminal, none elsewhere; the block is given what takes how many more bytes have gone."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.update(task, advance=size)


def _not_recorded(client: Client, outcome: Json) -> Iterator[str]:
    """A line for each that was refused or held back now: those that the answer names, or else all that are kept."""
    told = outcome["not_recorded"]
    if outcome["refused"] + outcome["held_back"] > len(told):
        told = client.lines_not_recorded(outcome["import_id"])
    for line in told:
        place = f"{line['pointer']}: " if line.get("pointer") and not line["detail"].startswith(line["pointer"]) else ""
        rule = f" ({line['rule']})" if "rule" in line else ""
        yield f"line {line['line']}: {line['code']}{rule}: {place}{line['detail']}"


def _sentence(outcome: Json) -> str:
    parts = [f"{outcome['recorded']:,} recorded"]
    for member, words in (("already_recorded", "recorded before"), ("refused", "refused"), ("held_back", "held back")):
        if outcome[member]:
            parts.append(f"{outcome[member]:,} {words}")
    said = f"Import {outcome['import_id']}: {', '.join(parts)}."
    if outcome["status"] == "complete":
        return said
    what = "It stopped before the end. " if outcome["status"] == "stopped" else ""
    return f"{said} {what}Mend the lines that are named and run the same command again: what is recorded is not recorded twice."


def ocds_packages(client: Client, contract_id: str | None, kind: str = "record") -> Iterator[bytes]:
    """A contract as an OCDS package, or all of a ledger, a package a line: every digit of the amounts as the service wrote it."""
    for known in client.contract_ids() if contract_id is None else [contract_id]:
        yield f"{client.ocds(known, kind)}\n".encode()


def export_file(client: Client, pieces: Iterable[bytes], what: str, file: Path | None) -> None:
    """Write lines of a ledger to a file, which is there whole or not at all; or to standard output. `what` a line has, in words."""
    lines = write_pieces(pieces, f"{what} of {client.ledger}", file)
    if file is not None:
        console(stderr=True).print(Text(f"{lines:,} {what} of ledger {visible(client.ledger)} are in {file}."), soft_wrap=True)


def write_pieces(pieces: Iterable[bytes], what: str, file: Path | None) -> int:
    """Write what comes in pieces to a file, which is there whole or not at all, or to standard output; how many lines it has."""
    if file is None:
        count = _write(pieces, what, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return count
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as lines:
            count = _write(pieces, what, lines)
        draft.replace(file)
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            draft.unlink()
    return count


def _write(pieces: Iterable[bytes], what: str, lines: IO[bytes]) -> int:
    count = 0
    with _moving(what, None) as moved:
        for piece in pieces:
            lines.write(piece)
            count += piece.count(b"\n")
            moved(len(piece))
    return count
