"""What the commands share: options, and the settings, the database and the client that these lead to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.settings import Settings

if TYPE_CHECKING:
    from service.cli.client import Client
    from service.cli.deployment import Databases


def option(text: str, **more: Any) -> Any:
    """An option that means nothing where it is not said."""
    return typer.Option(help=text, show_default=False, **more)


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="LEDGER_DATA_DIR",
        help="The data folder: embedded database, first key, kept heads. ~/.local/share/contract-ledger if not said; "
        "as root /var/lib/contract-ledger.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="LEDGER_URL", help="The service. http://127.0.0.1:8000 if not said.", show_default=False),
]
LedgerName = Annotated[str, typer.Option("--ledger", help="The ledger.")]
AnyLedger = Annotated[str | None, typer.Option("--ledger", help="One ledger; all of them if not said.", show_default=False)]


def settings_of(data_dir: Path | None = None, url: str | None = None) -> Settings:
    """The settings of the environment, and what was said beside them."""
    settings = Settings.from_environment()
    return replace(settings, data_dir=data_dir or settings.data_dir, url=url or settings.url)


@contextmanager
def client_of(ledger: str, data_dir: Path | None, url: str | None) -> "Iterator[Client]":
    from service.cli.client import Client
    from service.cli.deployment import command_key

    settings = settings_of(data_dir, url)
    with Client(settings.url, command_key(settings), ledger) as client:
        yield client


@contextmanager
def databases_of(data_dir: Path | None) -> "Iterator[Databases]":
    """The database of a command, with the tables of this release."""
    from service.cli.deployment import databases
    from service.migration import check_migrated

    with databases(settings_of(data_dir)) as urls:
        check_migrated(urls.service_url)
        yield urls


@contextmanager
def connection_of(data_dir: Path | None, *, owner: bool = False) -> Iterator[Any]:
    from service.cli.deployment import connected

    with databases_of(data_dir) as urls, connected(urls.owner() if owner else urls.service_url) as connection:
        yield connection
