"""The composition root: settings, connections, writers, routes, and what happens at start and shutdown."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid4

from service import __version__
from service.access import Keyring
from service.api import contracts, events, ledgers, problems, status
from service.api.openapi import document
from service.api.operations import LedgerDirectory, Services
from service.database import Database
from service.errors import OperatorError
from service.log.append import Writers
from service.log.heads import Heads
from service.log.read import Reader
from service.log.turn import keep_turning
from service.settings import Settings
from service.telemetry import configure_logging

GC_THRESHOLD = 50_000
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


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
        telemetry={"tracing": False, "metrics": False},
    )
    app.state.settings = settings
    app.openapi = document  # type: ignore[method-assign]
    for module in (contracts, events, ledgers, status):
        app.router.routes.extend(module.router.routes)  # an included router would match every request twice
    problems.install(app)
    app.add_middleware(RequestIds)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.database_url is None:
        raise OperatorError("LEDGER_DATABASE_URL is not set; `contract-ledger serve` runs an embedded database.")
    heads = Heads(heads_folder(settings))
    database = Database(settings.database_url, settings.pool_connections)
    database.on_connect.append(heads.check)
    await database.open()
    reader, writers = Reader(database), Writers(database, settings, heads)
    app.state.services = Services(reader, writers, Keyring(database), LedgerDirectory(reader))
    turning = asyncio.create_task(keep_turning(database, reader))
    # With Python's defaults the collector walks the whole heap every few hundred requests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        yield
    finally:
        turning.cancel()
        with suppress(asyncio.CancelledError):
            await turning
        await writers.drain()
        await heads.close()
        await database.close()


def heads_folder(settings: Settings) -> Path:
    """Where the last committed event of each ledger is kept."""
    if settings.data_dir is None:
        raise OperatorError("LEDGER_DATA_DIR is not set; it keeps the last committed event of each ledger.")
    return settings.data_dir / "heads"


class RequestIds:
    """Gives every request an id, or takes the caller's, and says it in the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4()).encode()
        scope["request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        await self._app(scope, receive, send_with_id)
