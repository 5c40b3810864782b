"""What the commands print about the database: tables, progress, and the outcome of a replay in a sentence."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.cli.admin import KeyRow
from service.cli.story import console, print_table
from service.log.ledger import instant

if TYPE_CHECKING:
    from service.audit.rebuild import Rebuilt
    from service.audit.replay import Verdict

LINE_SECONDS = 5.0
KEYS_WIDTH, LEDGERS_WIDTH = 80, 60
Advance = Callable[[int, int, str], None]


@contextmanager
def progress(ledger: str) -> Iterator[Advance]:
    """A bar on the terminal; elsewhere a line every few seconds. The block is given what takes (done, total, phase)."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield _lines(ledger, out.print)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(ledger, total=None)
        yield lambda done, total, phase: bar.update(task, completed=done, total=total, description=f"{ledger}: {phase}")


def _lines(ledger: str, say: Callable[[str], None]) -> Advance:
    next_line = time.monotonic() + LINE_SECONDS

    def advance(done: int, total: int, phase: str) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + LINE_SECONDS
            say(f"{ledger}: {phase}, {done} of {total}")

    return advance


def verified(verdict: "Verdict") -> str:
    """What verify found, in a sentence."""
    walked = f"{_count(verdict.events, 'event')} of {_count(verdict.contracts, 'contract')} in {verdict.seconds:.1f} s"
    rate = f", {verdict.events / verdict.seconds:,.0f} a second" if verdict.events and verdict.seconds else ""
    cost = f"{walked}{rate}, {verdict.peak_bytes / 2**20:,.0f} MiB at most"
    if verdict.difference is None:
        erased = f", {_count(verdict.erased, 'event')} erased" if verdict.erased else ""
        return f"Ledger {verdict.ledger}: the log is whole and every state is the fold of its events ({cost}{erased})."
    return f"Ledger {verdict.ledger} differs. {verdict.difference} ({cost})"


def rebuilt(outcome: "Rebuilt") -> str:
    """What rebuild did, in a sentence."""
    walked = f"{_count(outcome.events, 'event')} in {outcome.seconds:.1f} s"
    changed = "nothing changed" if outcome.changed == 0 else f"{_count(outcome.changed, 'state')} changed"
    first = "" if outcome.difference is None else f" What stood there, first of all: {outcome.difference}."
    return f"Ledger {outcome.ledger}: {_count(outcome.contracts, 'contract')} made anew from the log, {changed} ({walked}).{first}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def keys_table(rows: Sequence[KeyRow]) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("id", "name", "rights", "made", "state"):
        table.add_column(heading, no_wrap=heading in ("id", "made"), overflow="fold")
    for row in rows:
        table.add_row(row.key_id, row.name, "\n".join(row.grants), f"{row.created_at:%Y-%m-%d}", _standing(row))
    print_table(table, KEYS_WIDTH)


def _standing(row: KeyRow) -> str:
    if row.revoked_at is not None:
        return f"revoked {_minute(row.revoked_at)}"
    if row.expires_at is None:
        return "holds"
    word = "expired" if row.expires_at <= datetime.now(UTC) else "holds until"
    return f"{word} {_minute(row.expires_at)}"


def ledgers_table(rows: Sequence[tuple[Any, ...]]) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("ledger", "time zone", "made", "events"):
        table.add_column(heading)
    for name, time_zone, created_at, events in rows:
        table.add_row(name, time_zone, _minute(created_at), f"{events:,}")
    print_table(table, LEDGERS_WIDTH)


def _minute(at: datetime) -> str:
    return instant(at)[:16].replace("T", " ") + " UTC"
