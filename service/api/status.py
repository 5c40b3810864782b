"""The service about itself: alive, ready, and its documentation, from the package alone."""

import asyncio
import importlib.resources
from typing import Any

import psycopg
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html

from service.api.openapi import document
from service.api.operations import Documented, Services, declare, json_response
from service.database import Database
from service.errors import MethodNotAllowed, NotFound, Unavailable

READY_SECONDS = 1
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
# A reader of a contract's terms must not be told on to anyone: the browser opens no address but this service's.
_OWN_ADDRESSES_ONLY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"

router = APIRouter()


async def _live(_: Request) -> Response:
    return Response("ok\n", media_type="text/plain")


async def _ready(request: Request) -> Response:
    """Ready when the database answers and every writer lives, and so does the turn of the day."""
    services: Services = request.app.state.services
    if services.writers.failed:
        raise Unavailable(f"The writer of {', '.join(sorted(services.writers.failed))} died and has not committed since.")
    if request.app.state.turning.failed:
        raise Unavailable("The turn of the day died and has not come round since: lists may tell of an earlier day.")
    if not await _database_answers(request.app):
        raise Unavailable(f"The database does not answer within {READY_SECONDS} s.")
    return Response("ready\n", media_type="text/plain")


async def _database_answers(app: FastAPI) -> bool:
    """Whether it does in time. A question that it leaves open is not asked again meanwhile, nor given up: that would take as long."""
    asked: asyncio.Task[Any] | None = getattr(app.state, "asked", None)
    if asked is None or asked.done():
        asked = app.state.asked = asyncio.create_task(_ask(app.state.services.reader.database))
    done, _ = await asyncio.wait([asked], timeout=READY_SECONDS)
    return bool(done) and asked.result()


async def _ask(database: Database) -> bool:
    try:
        return bool(await database.rows("SELECT 1"))
    except (psycopg.Error, Unavailable):
        return False


async def _openapi(_: Request) -> Response:
    return json_response(document())


async def _docs(_: Request) -> Response:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="contract-ledger",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    page.headers["Content-Security-Policy"] = f"{_OWN_ADDRESSES_ONLY}; script-src 'self' 'unsafe-inline'"
    return page


async def _reference(_: Request) -> Response:
    page = get_redoc_html(
        openapi_url="/openapi.json",
        title="contract-ledger: reference",
        redoc_js_url="/docs/redoc.standalone.js",
        redoc_favicon_url="/docs/favicon.png",
        with_google_fonts=False,
    )
    # Its search runs in a worker that the script makes of its own text. The maker's logo, from an address outside, is not shown.
    page.headers["Content-Security-Policy"] = f"{_OWN_ADDRESSES_ONLY}; worker-src blob:"
    return page


async def _asset(request: Request) -> Response:
    name = request.path_params["asset"]
    if name not in _ASSETS:
        raise NotFound(f"There is no {name[:100]!r} in the documentation.")
    content = importlib.resources.files("fastapi_offline").joinpath("static", name).read_bytes()
    return Response(content, media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=86400"})


for path, operation_id, summary, description, endpoint in (
    ("/livez", "get_liveness", "Whether the process lives", "One word, for whoever restarts what does not live.", _live),
    ("/readyz", "get_readiness", "Whether it can serve", "One word, or 503 while the database or a writer fails.", _ready),
):
    declare(
        router,
        "GET",
        path,
        Documented(
            operation_id=operation_id,
            tag="service",
            summary=summary,
            description=description,
            answers={200: ("Yes, in one word", str)},
            problems=(MethodNotAllowed, Unavailable) if path == "/readyz" else (MethodNotAllowed,),
            public=True,
        ),
        endpoint,
    )
router.add_api_route("/openapi.json", _openapi, response_model=None)
router.add_api_route("/docs", _docs, response_model=None)
router.add_api_route("/reference", _reference, response_model=None)
router.add_api_route("/docs/{asset}", _asset, response_model=None)
