"""/docs, /reference and /openapi.json come from the package: no page names an address outside, and the browser is told to open none."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx
import pytest

from service.app import create_app
from service.settings import Settings

OUTSIDE = re.compile(r"(https?:)?//[^\s'\"]")
REFERRING = {"src", "href", "action", "data", "poster", "srcset", "spec-url"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """The application alone: these pages need no database, nor a key."""
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


class References(HTMLParser):
    """What a page refers to, and the scripts that it holds itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if name in REFERRING and value]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("path", ["/docs", "/reference"])
async def test_a_page_refers_only_to_what_the_package_serves(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    references = References(page.text)
    assert len(references.addresses) >= 3
    for address in references.addresses:
        assert address.startswith("/docs/") or address == "/openapi.json"
        asset = await client.get(address)
        assert asset.status_code == 200
        assert len(asset.content) > 100
    assert not OUTSIDE.search(page.text)
    assert "'/openapi.json'" in references.text or "/openapi.json" in references.addresses
    assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.1.")


async def test_the_assets_have_their_media_types(client: httpx.AsyncClient) -> None:
    for name, media_type in (
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
        ("redoc.standalone.js", "text/javascript"),
        ("favicon.png", "image/png"),
    ):
        assert (await client.get(f"/docs/{name}")).headers["content-type"].partition(";")[0] == media_type


async def test_the_style_sheet_loads_nothing(client: httpx.AsyncClient) -> None:
    style = (await client.get("/docs/swagger-ui.css")).text
    loaded = re.findall(r"url\(\s*['\"]?([^'\")]+)", style)
    assert [address for address in loaded if not address.startswith("data:")] == []
    assert "@import" not in style


@pytest.mark.parametrize("path", ["/docs", "/reference"])
async def test_the_browser_is_told_to_open_no_address_outside(client: httpx.AsyncClient, path: str) -> None:
    policy = (await client.get(path)).headers["content-security-policy"]
    sources = {source for directive in policy.split(";") for source in directive.split()[1:]}
    assert policy.startswith("default-src 'self'")
    assert sources <= {"'self'", "'unsafe-inline'", "data:", "blob:", "'none'"}


async def test_nothing_else_is_served_from_the_package(client: httpx.AsyncClient) -> None:
    for path in (
        "/docs/__init__.py/redoc.standalone.js",
        "/docs/redoc.standalone.js.map",
        "/docs/__init__.py",
        "/docs/..%2f__init__.py",
        "/docs/%2e%2e",
        "/redoc",
        "/docs/oauth2-redirect",
    ):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
