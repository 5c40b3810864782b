"""`python -m benchmarks NAME`, one of those of `What`, or all: exits 1 where a figure is below its bar."""

import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import feed, history, imports, lists, rates, replay, verify, wrk

DEFAULT_EVENTS = 1_000_000
DEFAULT_LINES = 100_000


class What(StrEnum):
    append = "append"
    read = "read"
    snapshot = "snapshot"
    history = "history"
    verify = "verify"
    replay = "replay"
    imports = "import"
    lists = "lists"
    tree = "tree"
    feed = "feed"
    all = "all"


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    what: Annotated[What, typer.Argument(help="Which benchmark.")] = What.all,
    events: Annotated[int, typer.Option(min=10, help="verify, replay: how many events the ledger has; tens of them.")] = DEFAULT_EVENTS,
    lines: Annotated[int, typer.Option(min=10, help="import: how many events the file has; tens of them.")] = DEFAULT_LINES,
    contracts: Annotated[int, typer.Option(min=1_000, help="lists: how many contracts the ledger has.")] = lists.CONTRACTS,
    keep: Annotated[
        Path | None, typer.Option(help="verify, replay: a folder to keep the ledger in, and to find it in the next time.")
    ] = None,
) -> None:
    """Measure the service beside an empty endpoint, how fast a ledger is verified, and how fast lines are imported.

    Ratios are medians of pairs of runs, made in turn. A database of its own is started for it, on a disk, and removed.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)
    whole = events // verify.EVENTS_A_CONTRACT * verify.EVENTS_A_CONTRACT
    measures: dict[What, Callable[[], bool]] = {
        What.history: history.past_reads,
        What.verify: lambda: verify.verify_rate(whole, keep),
        What.replay: lambda: replay.replay(whole, keep),
        What.imports: lambda: _imports(lines),
        What.lists: lambda: lists.list_times(contracts),
        What.tree: _tree_cost,
    }
    good = _rates(what)
    for name, measure in measures.items():
        # A replay takes half an hour by itself.
        if what == name or (what == What.all and name != What.replay):
            good = measure() and good
    if what in {What.all, What.feed}:
        good = feed.delays() and good
    if not good:
        raise typer.Exit(1)


def _rates(what: What) -> bool:
    chosen = [name for name in rates.BENCHMARKS if what in {What.all, name}]
    if not chosen:
        return True
    wrk.program()
    return rates.measure(chosen)


def _tree_cost() -> bool:
    wrk.program()
    return rates.tree_cost()


def _imports(lines: int) -> bool:
    wrk.program()
    good = imports.import_rate(lines)
    return imports.waits() and good


def _stop(number: int, _: object) -> None:
    """End, and with us everything that was started; a second signal must not interrupt that."""
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    app()
