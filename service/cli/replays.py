"""What the commands verify, rebuild, book and replays do: they work on the database itself, and write what they did into the history."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from service.audit import runs
from service.audit.outside import Outside
from service.audit.past import Telling, times_of
from service.audit.rebuild import LogDamaged
from service.audit.runs import Outcome, Run
from service.cli.admin import ledger_id, ledger_names
from service.cli.deployment import checkpoint_store, connected, data_folder
from service.cli.options import databases_of, settings_of
from service.cli.report import progress
from service.cli.story import print_table
from service.errors import OperatorError
from service.log.ledger import instant

MOST_LISTED = 50
_TABLE_WIDTH = 150


def replay(kind: str, ledger: str | None, data_dir: Path | None, run: Callable[..., Any], sentence: Callable[[Any], str]) -> bool:
    """Run a replay over one ledger or all, with its progress, and say what came of each; whether any differs."""
    different = False
    with databases_of(data_dir) as urls:
        for name in _named(urls.service_url, ledger):
            with progress(name) as advance:
                outcome = _recorded(kind, urls.service_url, name, partial(run, urls.service_url, name, advance))
            different = different or outcome.difference is not None
            typer.secho(sentence(outcome), fg="red" if outcome.difference else "green")
    return different


def kept_outside(data_dir: Path | None) -> Outside:
    """Where this deployment keeps what it signed and committed, as far as the settings say so."""
    from service.app import heads_folder

    settings = settings_of(data_dir)
    folder = data_folder(settings) if settings.database_url is None else settings.data_dir
    heads = None if folder is None else heads_folder(replace(settings, data_dir=folder))
    return Outside(checkpoint_store(settings), heads)


def _named(url: str, ledger: str | None) -> list[str]:
    """The ledger that was named, else all. OperatorError when there is none of the name."""
    with connected(url) as connection:
        if ledger is None:
            return ledger_names(connection)
        ledger_id(connection, ledger)
        return [ledger]


def _recorded(kind: str, url: str, ledger: str, run: Callable[[], Any]) -> Any:
    """What a replay comes to, once it stands in the history; a log that is not intact stands there, too."""
    began = time.monotonic()
    try:
        outcome = run()
    except LogDamaged as damaged:
        seconds = time.monotonic() - began
        _record(url, Outcome(kind=kind, ledger=ledger, seconds=seconds, difference=damaged.difference, failure=str(damaged)))
        raise
    members = {name: getattr(outcome, name) for name in ("events", "contracts", "seconds", "difference")}
    _record(url, Outcome(kind=kind, ledger=ledger, changed=getattr(outcome, "changed", 0), erased=getattr(outcome, "erased", 0), **members))
    return outcome


def _record(url: str, outcome: Outcome) -> None:
    with connected(url) as connection:
        runs.record(connection, outcome)


def tell_book(ledger: str, data_dir: Path | None, known_position: int | None, known_at: str | None, effective_on: str | None) -> bool:
    """Write a book to standard output; whether all of it could be told."""
    if known_position is not None and known_at is not None:
        raise OperatorError("Say --known-position or --known-at: both say what was known.")
    at, day = _instant(known_at), _day(effective_on)
    if sys.stdout.isatty():
        raise OperatorError("A book is written for machines: send it to a file, as in `contract-ledger book > book.ndjson`.")
    began = time.monotonic()
    with databases_of(data_dir) as urls, progress(ledger) as advance:
        times = times_of(urls.service_url, ledger, known_position, at, day)
        telling = Telling(urls.service_url, ledger, times)
        for piece in telling.lines(advance):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        outcome = Outcome(
            kind=runs.BOOK,
            ledger=ledger,
            events=telling.course.events,
            contracts=telling.course.contracts,
            seconds=time.monotonic() - began,
            difference=telling.course.difference,
            digest=telling.digest,
            head=times.known_position,
            known_position=times.known_position,
            effective_on=times.effective_on,
        )
        _record(urls.service_url, outcome)
    return telling.course.difference is None


def _instant(text: str | None) -> datetime | None:
    try:
        at = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min  # noqa: DTZ901 - it has no zone, which is what is looked at
    if at is not None and at.tzinfo is None:
        raise OperatorError(f"--known-at is {text!r}, and should be an instant, such as 2026-11-22T09:30:00Z.")
    return at


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise OperatorError(f"--effective-on is {text!r}, and should be a day, such as 2023-07-01.") from None


def list_replays(ledger: str, data_dir: Path | None) -> None:
    """The newest replays of a ledger, as a table."""
    with databases_of(data_dir) as urls, connected(urls.service_url) as connection:
        found = runs.listed(connection, ledger_id(connection, ledger), MOST_LISTED)
    _table(found)


def _table(found: Sequence[Run]) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("replay", "kind", "status", "of", "begun", "seconds", "events", "contracts", "what came of it"):
        table.add_column(heading, no_wrap=heading in ("replay", "begun"), overflow="fold")
    for run in found:
        table.add_row(
            *(run.replay_id, run.kind, run.status, _times(run)),
            instant(run.started_at)[:19].replace("T", " ") if run.started_at else "",
            *(f"{run.seconds:,.1f}", f"{run.events:,}", f"{run.contracts:,}", _verdict(run)),
        )
    print_table(table, _TABLE_WIDTH)


def _times(run: Run) -> str:
    day = f", {run.effective_on}" if run.effective_on else ""
    return f"position {run.head:,}{day}" if run.head is not None else day.lstrip(", ")


def _verdict(run: Run) -> str:
    if run.difference is not None:
        return f"different: {run.difference_at}: {run.difference}"
    return run.failure or ("sound" if run.status == runs.DONE else "")
