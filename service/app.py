"""The composition root: settings, connections, writers, routes, and what happens at start and shutdown."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from service import __version__
from service.access import Keyring, Rates
from service.api import (
    audit,
    bundles,
    commitments,
    contracts,
    deadlines,
    event_stream,
    events,
    exports,
    feed,
    history,
    imports,
    ledgers,
    lists,
    ocds,
    parties,
    replays,
    status,
    tiles,
    webhooks,
)
from service.api.dispatch import Dispatch
from service.api.openapi import document
from service.api.operations import LedgerDirectory, Services
from service.audit.reconciling import Reconciling
from service.audit.replaying import Books, Replaying
from service.database import Database
from service.errors import OperatorError
from service.feed.pages import Feed
from service.feed.sending import Sender, read_networks
from service.feed.wakes import Wakes
from service.feed.webhooks import Webhooks
from service.log.append import Writers
from service.log.cosigning import Cosigning
from service.log.guard import Guard
from service.log.heads import Heads
from service.log.outlook import Outlooks
from service.log.read import Reader
from service.log.signing import Signing
from service.log.turn import Turning
from service.metrics import MetricsServer, Requests, Standing
from service.settings import Settings
from service.telemetry import configure_logging

GC_THRESHOLD = 50_000
_MODULES = (
    *(contracts, lists, history, ocds, commitments, deadlines, parties),
    *(feed, event_stream, events, imports, exports, audit, bundles, tiles, replays, webhooks, ledgers, status),
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, for an ASGI server; connections are made when it starts."""
    settings = settings or Settings.from_environment()
    configure_logging(settings.log_format)
    app = FastAPI(
        title="contract-ledger",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    app.openapi = document  # type: ignore[method-assign]
    for module in _MODULES:
        app.router.routes.extend(module.router.routes)  # an included router would match every request twice
    app.state.issuer = None
    if settings.oidc_issuer is not None:
        from service.tokens import trusted_issuer

        app.state.issuer = trusted_issuer(settings)
    app.state.requests = Requests() if settings.metrics_port else None
    app.middleware_stack = Dispatch(app, app.state.requests)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.database_url is None:
        raise OperatorError("LEDGER_DATABASE_URL is not set; `contract-ledger serve` runs an embedded database.")
    heads = Heads(heads_folder(settings))
    database = Database(settings.database_url, settings.pool_connections)
    database.on_connect.append(heads.check)
    services, cosigning = await _opened(app, database, heads)
    app.state.services = services
    app.state.turning = turning = Turning(database, services.reader)
    app.state.books, app.state.replaying = Books(settings.database_url), Replaying(database, settings.database_url)
    app.state.webhooks = Webhooks(services.reader, services.feed.wakes, Sender(read_networks(settings.webhook_networks)))
    reconciling = Reconciling(database, settings.database_url, settings.reconcile_contracts_per_minute)
    # With Python's defaults the collector walks the whole heap every few hundred requests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    metrics = None
    try:
        if settings.metrics_port:
            metrics = MetricsServer(settings.metrics_port, app.state.requests, _standing(app, reconciling))
        yield
    finally:
        for task in (reconciling, app.state.replaying, turning, cosigning, app.state.webhooks):
            await task.close()
        await services.writers.drain()
        await services.feed.wakes.close()
        await heads.close()
        await database.close()
        if metrics is not None:
            await asyncio.to_thread(metrics.close)


def _standing(app: FastAPI, reconciling: Reconciling) -> Standing:
    services: Services = app.state.services
    pool, webhooks = services.reader.database.pool_figures, app.state.webhooks.standing
    return Standing(services.writers.waiting, pool, reconciling.alarms, services.feed.waiting, webhooks)


async def _opened(app: FastAPI, database: Database, heads: Heads) -> tuple[Services, Cosigning]:
    """What the handlers work with; where that cannot be, no connections stay."""
    await database.open()
    try:
        return await _services(app, database, heads)
    except BaseException:
        await database.close()
        raise


async def _services(app: FastAPI, database: Database, heads: Heads) -> tuple[Services, Cosigning]:
    """What the handlers work with, once the histories of all ledgers are known to be those that were signed."""
    settings: Settings = app.state.settings
    reader, writers = Reader(database), Writers(database, settings, heads)
    rates = Rates(settings.rate_per_second) if settings.rate_per_second else None
    signing, cosigning = Signing(database, settings), Cosigning(database)
    await signing.open()
    if signing.store is not None:
        guard = Guard(signing.store, signing.deployment, heads)
        async with database.connection() as connection:
            await guard.check(connection)
        database.on_connect.append(guard.check)
        signing.on_fork = heads.refuse
    keyring, directory = Keyring(database, rates, app.state.issuer), LedgerDirectory(reader)
    assert settings.database_url is not None
    wakes = Wakes(database, settings.database_url)
    heads.on_commit.append(wakes.committed)
    return Services(reader, writers, keyring, directory, Outlooks(database), signing, cosigning, Feed(reader, wakes)), cosigning


def heads_folder(settings: Settings) -> Path:
    """Where the last committed event of each ledger is kept."""
    if settings.data_dir is None:
        raise OperatorError("LEDGER_DATA_DIR is not set; it keeps the last committed event of each ledger.")
    return settings.data_dir / "heads"
