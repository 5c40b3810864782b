"""The rates of the service, each in turn with what it is compared to: append and read beside the empty endpoint, and the append under a
long snapshot beside the append without."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Self

import psycopg

from benchmarks import wrk
from benchmarks.load import Plan, contract_id, load
from benchmarks.mixture import POOL
from benchmarks.report import progress, say
from benchmarks.stand import Stand, service_and_empty, settled_position, stand
from benchmarks.wrk import CONNECTIONS, Measured

PAIRS = 3
SECONDS = 8
WARM_UP_SECONDS = 3
# A run takes contracts of its own, so that the last run meets contracts as young as the first.
CONTRACTS_A_RUN = 1_500
LEAST_APPEND, LEAST_READ, LEAST_UNDER_SNAPSHOT, LEAST_WITH_TREE = 0.40, 0.45, 0.80, 0.90
TREE_PAIRS = 7


@dataclass(slots=True)
class Rates:
    """A service and an empty endpoint that run, and a pool of contracts."""

    at: Stand
    addresses: dict[str, str]
    runs: Iterator[int] = field(default_factory=count)

    @classmethod
    @contextmanager
    def ready(cls, runs: int, app: str = "service.app:create_app") -> Iterator[Self]:
        """Start everything, with contracts for so many runs."""
        with ExitStack() as stack:
            at = stack.enter_context(stand())
            _load_pool(at, runs * CONTRACTS_A_RUN)
            yield cls(at, stack.enter_context(service_and_empty(at, app)))

    def warm_up(self, what: str) -> None:
        for whom in ("empty", "service"):
            self.run(what, whom, WARM_UP_SECONDS, "checked")

    def run(self, what: str, whom: str, seconds: int = SECONDS, *more: str, counted: bool = True) -> Measured:
        """One run of wrk; after appends, the database must hold what was acknowledged, unless others append too."""
        number = next(self.runs) if whom == "service" else 0
        arguments = [what, whom, self.at.key, str(number), str(self._contracts(number)), *more]
        before = settled_position(self.at) if counted else 0
        measured = wrk.run(f"{what}, {whom}", self.addresses[whom], seconds, *arguments)
        if counted and (what, whom) == ("append", "service"):
            _check_recorded(before, settled_position(self.at), measured)
        return measured

    def _contracts(self, number: int) -> Path:
        file = self.at.folder / f"contracts-{number}"
        ids = map(contract_id, range(number * CONTRACTS_A_RUN, (number + 1) * CONTRACTS_A_RUN))
        file.write_text("".join(f"{one}\n" for one in ids))
        return file


def _load_pool(at: Stand, contracts: int) -> None:
    plan = Plan(at.ledger, at.principal_id, contracts, POOL, datetime.now(UTC) - timedelta(hours=1))
    with progress("opening contracts", plan.events) as advance:
        load(at.service_url, plan, advance)
    at.build_trees()
    at.vacuum()


def _check_recorded(before: int, after: int, measured: Measured) -> None:
    """Every 201 is an event; what wrk cut off in flight may be one."""
    recorded = after - before
    if not measured.requests <= recorded <= measured.requests + CONNECTIONS:
        raise SystemExit(f"{measured.requests} appends were acknowledged, and the database holds {recorded} events of them.")


def append_ratio(rates: Rates) -> bool:
    """Appends beside the empty POST."""
    return _ratio(rates, "append", LEAST_APPEND)


def read_ratio(rates: Rates) -> bool:
    """Current states of contracts drawn from the pool, beside the empty GET."""
    return _ratio(rates, "read", LEAST_READ)


def _ratio(rates: Rates, what: str, least: float) -> bool:
    rates.warm_up(what)
    pairs = [(rates.run(what, "empty"), rates.run(what, "service")) for _ in range(PAIRS)]
    _say_pairs(rates, "empty", what, pairs)
    return _say_figure(f"{what} ratio", median(measured.rate / empty.rate for empty, measured in pairs), least)


def under_snapshot(rates: Rates) -> bool:
    """Appends while a REPEATABLE READ snapshot is held open, beside appends without."""
    rates.warm_up("append")
    pairs = []
    for _ in range(PAIRS):
        free = rates.run("append", "service")
        with _snapshot(rates.at):
            pairs.append((free, rates.run("append", "service")))
    _say_pairs(rates, "without", "snapshot", pairs)
    return _say_figure("append rate under a long snapshot", median(held.rate / free.rate for free, held in pairs), LEAST_UNDER_SNAPSHOT)


@contextmanager
def _snapshot(at: Stand) -> Iterator[None]:
    """No row version that dies from now on can be removed, as long as the block lasts."""
    with psycopg.connect(at.superuser_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        seen: Any = connection.execute("SELECT max(last_position) FROM batches").fetchone()
        yield
        again: Any = connection.execute("SELECT max(last_position) FROM batches").fetchone()
        assert seen == again, "the snapshot was not held"


def tree_cost() -> bool:
    """Appends with the Merkle tree beside appends without, each on a database of its own, in turn and in turned order."""
    runs = TREE_PAIRS + 1
    with Rates.ready(runs) as whole, Rates.ready(runs, "benchmarks.treeless:create_app") as treeless:
        whole.warm_up("append")
        treeless.warm_up("append")
        pairs = []
        for number in range(TREE_PAIRS):
            order = (treeless, whole) if number % 2 else (whole, treeless)
            first, second = (rates.run("append", "service") for rates in order)
            pairs.append((first, second) if number % 2 else (second, first))
        _say_pairs(whole, "without", "tree", pairs)
        return _say_figure("append rate with the tree", median(grown.rate / bare.rate for bare, grown in pairs), LEAST_WITH_TREE)


def _say_pairs(rates: Rates, one: str, other: str, pairs: list[tuple[Measured, Measured]]) -> None:
    say(f"\n{other}: {CONNECTIONS} connections, on {rates.at.measured_on}")
    for first, second in pairs:
        say(f"  {one:9s}{first}\n  {other:9s}{second}   {second.rate / first.rate:.2f}")


def _say_figure(name: str, figure: float, least: float) -> bool:
    say(f"{name}: {figure:.2f}")
    if figure < least:
        say(f"  below {least:.2f}")
    return figure >= least


Benchmark = Callable[[Rates], bool]
# With how many runs each takes contracts from the pool.
BENCHMARKS: dict[str, tuple[Benchmark, int]] = {
    "append": (append_ratio, PAIRS + 1),
    "read": (read_ratio, PAIRS + 1),
    "snapshot": (under_snapshot, 2 * PAIRS + 1),
}


def measure(names: list[str]) -> bool:
    """Run benchmarks on one stand; whether all figures are as high as they have to be."""
    with Rates.ready(sum(BENCHMARKS[name][1] for name in names)) as rates:
        good = [BENCHMARKS[name][0](rates) for name in names]
        return all(good)
