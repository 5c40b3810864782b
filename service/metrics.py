"""What the service counts of its own work, and how Prometheus reads it: on a port of its own that only this machine reaches.

To count is to add to a plain attribute. Everything else is done when someone asks, in a thread of its own.
"""

import errno
import multiprocessing
import socket
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from service.errors import OperatorError

if TYPE_CHECKING:
    from prometheus_client import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WORKER_PORTS = 64
_LAST_PORT = 65_535
_HOST = "127.0.0.1"
_PREFIX = "contract_ledger_"
_DIFFERENT = "Ledgers whose projections differ from their log"

_Started = TypeVar("_Started")
_log = structlog.get_logger()


class Spread:
    """How many values lie up to each of some bounds, and their sum: a histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """The bounds, each with how many values lie up to it."""
        counts, bounds = self.counts.copy(), [*map(str, self.bounds), "+Inf"]
        return [(bound, sum(counts[: index + 1])) for index, bound in enumerate(bounds)]


class Requests:
    """The answers that were given, by operation and status."""

    __slots__ = ("seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[tuple[str, int], int] = {}
        self.seconds: dict[str, Spread] = {}

    def add(self, operation: str, status: int, seconds: float) -> None:
        answered = (operation, status)
        self.statuses[answered] = self.statuses.get(answered, 0) + 1
        spread = self.seconds.get(operation)
        if spread is None:
            spread = self.seconds[operation] = Spread(SECONDS)
        spread.add(seconds)


class Commits:
    """The transactions that decided batches, and those that failed."""

    __slots__ = ("failed", "requests", "seconds")

    def __init__(self) -> None:
        self.failed = 0
        self.requests = Spread(SIZES)
        self.seconds = Spread(SECONDS)

    def add(self, requests: int, seconds: float) -> None:
        self.requests.add(requests)
        self.seconds.add(seconds)


commits = Commits()
"""Of this process."""


class Deliveries:
    """What was sent to webhooks, by what came of it: delivered, refused by its status, unanswered."""

    __slots__ = ("results", "seconds")

    def __init__(self) -> None:
        self.results = {"delivered": 0, "refused": 0, "unanswered": 0}
        self.seconds = Spread(SECONDS)

    def add(self, result: str, milliseconds: int) -> None:
        self.results[result] += 1
        self.seconds.add(milliseconds / 1_000)


deliveries = Deliveries()
"""Of this process."""


class Standing(NamedTuple):
    """How things stand when they are asked: appends that wait, figures of the pool, ledgers that differ, followers, and by state the
    webhooks and the contracts that they hold back."""

    queued: Callable[[], int]
    pool: Callable[[], dict[str, int]]
    alarms: Callable[[], int]
    followers: Callable[[], int]
    webhooks: Callable[[], tuple[dict[str, int], dict[str, int]]]


class MetricsServer:
    """Tells what was counted, and how things stand, until it is closed."""

    def __init__(self, port: int, requests: Requests, standing: Standing) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
        from prometheus_client.core import GaugeMetricFamily
        from prometheus_client.registry import Collector

        class Counted(Collector):
            def collect(self) -> Iterable["Metric"]:
                yield from _of_requests(requests)
                yield from _of_commits(commits, standing.queued())
                yield from _of_pool(standing.pool())
                yield from _of_webhooks(deliveries, *standing.webhooks())
                yield GaugeMetricFamily(f"{_PREFIX}followers", "Polls and streams that wait for what comes", value=standing.followers())
                yield GaugeMetricFamily(f"{_PREFIX}ledgers_different", _DIFFERENT, value=standing.alarms())

        registry = CollectorRegistry()
        registry.register(Counted())
        ProcessCollector(registry=registry)
        # Of several processes the first one to come has the port, the others have those after it.
        ports = range(port, min(port + (WORKER_PORTS if multiprocessing.parent_process() else 1), _LAST_PORT + 1))
        self._server, self._thread = _on_first_free(ports, lambda free: start_http_server(free, _HOST, registry))
        _log.info("metrics", url=f"http://{_HOST}:{self._server.server_port}/metrics")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def check_port(port: int) -> None:
    """OperatorError for a port that a process by itself could not tell its metrics on."""
    _on_first_free(range(port, port + 1), lambda free: socket.create_server((_HOST, free)).close())


def _on_first_free(ports: range, start: Callable[[int], _Started]) -> _Started:
    for port in ports:
        try:
            return start(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OperatorError(f"LEDGER_METRICS_PORT: port {port} on {_HOST} cannot be used ({error.strerror}).") from error
    raise OperatorError(f"LEDGER_METRICS_PORT: port {ports.start} on {_HOST} is in use; stop what uses it, or choose another.")


def _of_requests(requests: Requests) -> Iterable["Metric"]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    answered = CounterMetricFamily(f"{_PREFIX}requests", "Answers given", labels=["operation", "status"])
    for (operation, status), count in requests.statuses.copy().items():
        answered.add_metric([operation, str(status)], count)
    seconds = HistogramMetricFamily(f"{_PREFIX}request_seconds", "From a request's head to its answer", labels=["operation"])
    for operation, spread in requests.seconds.copy().items():
        seconds.add_metric([operation], spread.buckets(), spread.total)
    return answered, seconds


def _of_commits(counted: Commits, queued: int) -> Iterable["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    def histogram(name: str, about: str, spread: Spread) -> Any:
        return HistogramMetricFamily(_PREFIX + name, about, buckets=spread.buckets(), sum_value=spread.total)

    return (
        histogram("batch_requests", "Requests in a batch that was decided", counted.requests),
        histogram("commit_seconds", "A batch, from the wait for a connection to the answer to COMMIT", counted.seconds),
        CounterMetricFamily(f"{_PREFIX}failed_commits", "Batches that lost their connection or their time", value=counted.failed),
        GaugeMetricFamily(f"{_PREFIX}appends_waiting", "Appends that wait for the next batch", value=queued),
    )


def _of_pool(pool: dict[str, int]) -> Iterable["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    idle = pool.get("pool_available", 0)
    connections = GaugeMetricFamily(f"{_PREFIX}database_connections", "Connections to the database", labels=["state"])
    connections.add_metric(["idle"], idle)
    connections.add_metric(["busy"], pool.get("pool_size", 0) - idle)
    return (
        connections,
        GaugeMetricFamily(f"{_PREFIX}database_waiting", "Requests that wait for a connection", value=pool.get("requests_waiting", 0)),
        CounterMetricFamily(f"{_PREFIX}database_errors", "Requests that got no connection", value=pool.get("requests_errors", 0)),
    )


def _of_webhooks(sent: Deliveries, webhooks: dict[str, int], held: dict[str, int]) -> Iterable["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    attempts = CounterMetricFamily(f"{_PREFIX}webhook_attempts", "Events that were sent to webhooks", labels=["result"])
    for result, count in sent.results.items():
        attempts.add_metric([result], count)
    ours = GaugeMetricFamily(f"{_PREFIX}webhooks", "Webhooks that this process delivers to", labels=["state"])
    for state, count in webhooks.items():
        ours.add_metric([state], count)
    waiting = GaugeMetricFamily(f"{_PREFIX}webhook_contracts_held", "Contracts that these webhooks hold back", labels=["state"])
    for state, count in held.items():
        waiting.add_metric([state], count)
    seconds = HistogramMetricFamily(
        f"{_PREFIX}webhook_attempt_seconds",
        "From a delivery to the head of its answer, or its failure",
        buckets=sent.seconds.buckets(),
        sum_value=sent.seconds.total,
    )
    return attempts, seconds, ours, waiting
