"""What `serve` does: a database, a first ledger and key, then uvicorn; and everything stopped cleanly at the end.

The process that was started owns the embedded PostgreSQL and the listening socket. With one worker it also serves; with several they
are processes of uvicorn's, which end when this one does, however it ends.
"""

import asyncio
import errno
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.app import create_app
from service.cli import admin
from service.cli.deployment import (
    Databases,
    command_name,
    connected,
    data_folder,
    make_data_folder,
    named_databases,
    opened,
    prepare,
    with_own_signing,
)
from service.cli.report import progress
from service.cli.welcome import Welcome, say_stopped, say_welcome
from service.database import DURABILITY, connect, refuse_unsafe
from service.embedded import EmbeddedPostgres, default_data_folder
from service.errors import OperatorError
from service.feed.sending import read_networks
from service.log.ledgers import make_ledger
from service.log.signing import first_verifier, read_deployment, read_signers
from service.metrics import check_port
from service.migration import check_migrated, migrate
from service.settings import Settings
from service.telemetry import configure_logging

BACKLOG = 2_048
GRACE_SECONDS = 30
KEEP_ALIVE_SECONDS = 75
BIND_SECONDS = 3.0
"""A killed service's workers let go of the port within this time."""
HEALTH_SECONDS = 30
READY_SECONDS = 30
WATCH_SECONDS = 0.2
MOST_REVIVALS = 5
REVIVAL_SECONDS = 60
"""An embedded database that ends by itself more often than that within this time ends the service."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and with how many processes."""

    host: str
    port: int
    workers: int


def serve(settings: Settings, address: Address) -> int:
    """Serve until told to stop; the exit status. OperatorError, before anything is served, for what stands in the way."""
    configure_logging(settings.log_format)
    _check(settings)
    _hang_up_as_terminate()
    folder = data_folder(settings)
    with _bound(address.host, address.port) as listening:
        if settings.metrics_port is not None and address.workers == 1:
            check_port(settings.metrics_port)  # of several workers each finds a port of its own
        if settings.database_url is not None:
            make_data_folder(folder)
            status = _serve_on(named_databases(settings), folder, settings, address, listening)
        else:
            status = _serve_embedded(folder, settings, address, listening)
    if status == 0:
        say_stopped(settings.log_format)
    return status


def _check(settings: Settings) -> None:
    """Refuse settings that cannot be meant, before anything is begun: workers would each find out, and be begun again."""
    if settings.database_url is not None:
        named_databases(settings)
    read_networks(settings.webhook_networks)
    if settings.signing_key is not None:
        read_signers(settings.signing_key)
    if settings.deployment is not None:
        read_deployment(settings.deployment)
    if settings.oidc_issuer is not None:
        from service.tokens import trusted_issuer

        trusted_issuer(settings)


def _serve_embedded(folder: Path, settings: Settings, address: Address, listening: socket.socket) -> int:
    with EmbeddedPostgres(folder) as server, ExitStack() as stack:
        # The database is stopped in peace: who asks once more waits for it.
        stack.callback(_ignore_signals)
        urls = prepare(server)
        watch = stack.enter_context(_DatabaseWatch(server))
        status = _serve_on(urls, folder, settings, address, listening)
        return 1 if watch.died else status


def _serve_on(urls: Databases, folder: Path, settings: Settings, address: Address, listening: socket.socket) -> int:
    _check_database(urls)
    signing = with_own_signing(settings, folder)
    welcome = _first_things(urls, folder, signing, listening)
    _tell_workers(urls, folder, signing)
    _listen(listening, address)
    return _run(listening, address.workers, lambda: say_welcome(welcome, settings.log_format))


def _check_database(urls: Databases) -> None:
    """Reachable, safe, and with the tables of this release; migrated where the owner is known."""
    if urls.owner_url is not None:
        _check_durability(urls.owner_url)
        with progress("migrate") as advance:
            migrate(urls.owner_url, urls.service_url, lambda done, total: advance(done, total, "building the tree"))
    _check_durability(urls.service_url)
    check_migrated(urls.service_url)


def _check_durability(url: str) -> None:
    with connect(url, autocommit=True) as connection:
        refuse_unsafe(connection.execute(DURABILITY).fetchone() or ())


def _first_things(urls: Databases, folder: Path, settings: Settings, listening: socket.socket) -> Welcome:
    """The ledger `main` and a first key, made if there is none; what to say about them."""
    with connected(urls.service_url) as connection:
        if admin.may_change_log(connection):
            _log.warning("LEDGER_DATABASE_URL names a role that may change the log: give the service one of its own, and migrate for it")
        make_ledger(connection, "main", "UTC")
        first = admin.first_key(connection, folder, settings.api_key)
    verifier = asyncio.run(_first_verifier(replace(settings, database_url=urls.service_url)))
    return Welcome(
        verifier=verifier,
        url=_url(listening),
        data_folder=folder,
        key=first.key,
        key_made=first.made,
        key_refused=first.refused,
        command=command_name(),
        folder_is_default=folder == default_data_folder(),
        embedded=settings.database_url is None,
    )


async def _first_verifier(settings: Settings) -> str | None:
    async with opened(settings.database_url or "") as database:
        return await first_verifier(database, settings, "main")


def _tell_workers(urls: Databases, folder: Path, signing: Settings) -> None:
    """What the workers need, and nothing of what only this process may do."""
    os.environ["LEDGER_DATABASE_URL"] = urls.service_url
    os.environ["LEDGER_DATA_DIR"] = str(folder)
    if signing.signing_key is not None:
        os.environ["LEDGER_SIGNING_KEY"] = signing.signing_key
    if signing.checkpoint_store is not None:
        os.environ["LEDGER_CHECKPOINT_STORE"] = signing.checkpoint_store
    for variable in ("LEDGER_MIGRATION_URL", "LEDGER_API_KEY"):
        os.environ.pop(variable, None)


def _run(listening: socket.socket, workers: int, ready: Callable[[], None]) -> int:
    """Serve on the socket until a signal comes; 1 if a worker could not start."""
    config = uvicorn.Config(
        "service.cli.server:worker",
        factory=True,
        workers=workers,
        loop="uvloop",
        http="service.api.connection:Connection",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=HEALTH_SECONDS,
    )
    if workers > 1:
        return _run_workers(config, listening, ready)
    # Once it has drained, uvicorn raises the signal again that told it to stop.
    with suppress(KeyboardInterrupt):
        _Server(config, ready).run([listening])
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server, which says so when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # Who asks twice does not wait for requests that are being answered, and uvicorn would leave everything else as it is.
            await self.lifespan.shutdown()


class _Workers(Multiprocess):
    """uvicorn's worker processes, which say so when all are ready."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, ready: Callable[[], None]) -> None:
        hang_up = signal.getsignal(signal.SIGHUP)
        super().__init__(config, [listening])
        signal.signal(signal.SIGHUP, hang_up)
        self._ready = ready

    def init_processes(self) -> None:
        super().init_processes()
        ready = [process.wait_until_ready(READY_SECONDS) for process in self.processes]
        if all(ready):
            self._ready()


def _run_workers(config: uvicorn.Config, listening: socket.socket, ready: Callable[[], None]) -> int:
    workers = _Workers(config, listening, ready)
    workers.run()
    return 1 if any(process.exitcode == STARTUP_FAILURE for process in workers.processes) else 0


def worker() -> FastAPI:
    """The application, for uvicorn; in a worker process it ends with the process that started it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent,), name="end-with-parent", daemon=True).start()
    settings = Settings.from_environment()
    return create_app(settings)


def _end_with(parent: Any) -> None:
    """An orphan would hold the port and the connections for ever."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


class _DatabaseWatch:
    """Starts the embedded database again when it ends by itself; ends the service when that fails, as `died` says."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.died = False
        self._server = server
        self._over = threading.Event()
        self._revived: list[float] = []
        self._thread = threading.Thread(target=self._watch, name="watch-database", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            if self._server.pid is not None:
                continue
            _log.critical("the embedded PostgreSQL ended by itself, and is started again; its log says why", log=str(self._server.log))
            try:
                self._revive()
            except OperatorError as error:
                self.died = True
                _log.critical("the service ends with its database; put right what is said, and start again", error=str(error))
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _revive(self) -> None:
        now = time.monotonic()
        self._revived = [at for at in self._revived if at > now - REVIVAL_SECONDS] + [now]
        if len(self._revived) > MOST_REVIVALS:
            raise OperatorError(f"The embedded PostgreSQL ended {len(self._revived)} times within {REVIVAL_SECONDS} s.")
        self._server.revive()


def _hang_up_as_terminate() -> None:
    """A terminal that is closed stops the service as Ctrl-C does; under nohup it goes on."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address, and not listening yet. OperatorError if it cannot be."""
    deadline = time.monotonic() + BIND_SECONDS
    while True:
        try:
            return _bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise _refused_address(error, host, port) from error
            time.sleep(0.1)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError:
        listening.close()
        raise
    return listening


def _listen(listening: socket.socket, address: Address) -> None:
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        raise _refused_address(error, address.host, address.port) from error


def _refused_address(error: OSError, host: str, port: int) -> OperatorError:
    if isinstance(error, socket.gaierror):
        return OperatorError(f"{host} is no address of this machine: choose another with --host, such as 127.0.0.1 or 0.0.0.0.")
    advice = {
        errno.EADDRINUSE: f"Port {port} on {host} is in use: stop what uses it, or choose another with --port.",
        errno.EADDRNOTAVAIL: f"{host} is no address of this machine: choose another with --host, such as 127.0.0.1 or 0.0.0.0.",
        errno.EACCES: f"This account may not use port {port}: choose one above 1023 with --port.",
    }
    return OperatorError(advice.get(error.errno or 0, f"Port {port} on {host} cannot be used ({error.strerror}): choose another."))


def _url(listening: socket.socket) -> str:
    """The address as a browser on this machine reaches it."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
