"""The `contract-ledger` command. Each command imports what it needs when it runs, so that --help stays quick."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from service import __version__
from service.errors import OperatorError
from service.settings import Settings

if TYPE_CHECKING:
    from service.client import Client
    from service.deployment import Databases

app = typer.Typer(
    help="An append-only ledger of long-term supply contracts. Begin with `contract-ledger serve`, then `contract-ledger demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys = typer.Typer(help="API keys: who may call, and may do what.", no_args_is_help=True)
ledgers = typer.Typer(help="Ledgers: books of contracts, each with a log of its own.", no_args_is_help=True)
clock = typer.Typer(help="The clock of a ledger.", no_args_is_help=True)
head = typer.Typer(help="The last committed event of a ledger, as it is kept outside the database.", no_args_is_help=True)
for _name, _group in (("keys", keys), ("ledgers", ledgers), ("clock", clock), ("head", head)):
    app.add_typer(_group, name=_name)


def _option(text: str, **more: Any) -> Any:
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


def main() -> None:
    """The entry point: a failure of the operator's concern is one sentence on stderr and exit status 1."""
    # A process that is asked to end puts its house in order, as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except OperatorError as error:
        _fail(error)
    except BrokenPipeError:
        # `tail | head`: nobody reads any more. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(error: OperatorError) -> NoReturn:
    typer.secho(str(error), fg="red", err=True)
    sys.exit(1)


def _settings(data_dir: Path | None = None, url: str | None = None) -> Settings:
    """The settings of the environment, and what was said beside them."""
    settings = Settings.from_environment()
    return replace(settings, data_dir=data_dir or settings.data_dir, url=url or settings.url)


@contextmanager
def _client(ledger: str, data_dir: Path | None, url: str | None) -> "Iterator[Client]":
    from service.client import Client
    from service.deployment import command_key

    settings = _settings(data_dir, url)
    with Client(settings.url, command_key(settings), ledger) as client:
        yield client


@contextmanager
def _databases(data_dir: Path | None) -> "Iterator[Databases]":
    """The database of a command, with the tables of this release."""
    from service.deployment import databases
    from service.migration import check_migrated

    with databases(_settings(data_dir)) as urls:
        check_migrated(urls.service_url)
        yield urls


@contextmanager
def _connection(data_dir: Path | None, *, owner: bool = False) -> Iterator[Any]:
    from service.deployment import connected

    with _databases(data_dir) as urls, connected(urls.owner() if owner else urls.service_url) as connection:
        yield connection


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"contract-ledger {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """An append-only ledger of long-term supply contracts. Begin with `contract-ledger serve`, then `contract-ledger demo`."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for every address of the machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 for any that is free.")] = 8000,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that serve; more than one pays with more than two cores.")] = 1,
) -> None:
    """Run the service: with a PostgreSQL of its own in the data folder, or on the one that LEDGER_DATABASE_URL names.

    With LEDGER_DATABASE_URL (the service's role) and LEDGER_MIGRATION_URL (the owner of the tables) it migrates first. At the first
    start it makes the ledger `main` and a first API key, which is kept in the data folder. Ctrl-C drains and stops everything cleanly.
    """
    from service.server import Address
    from service.server import serve as run

    raise typer.Exit(run(_settings(data_dir), Address(host, port, workers)))


@app.command()
def demo(url: Url = None, data_dir: DataDir = None) -> None:
    """Play the contract between LG Energy Solution and Isuzu into the ledger `demo`, and tell what the service answers about it.

    Speaks HTTP to a running service, with the key of LEDGER_API_KEY or of the data folder. Run again, it tells the same story: nothing
    is recorded twice.
    """
    from shlex import quote

    from service.demo import LEDGER
    from service.demo import demo as tell
    from service.deployment import command_name

    said = "".join(f" {option} {quote(str(value))}" for option, value in (("--url", url), ("--data-dir", data_dir)) if value)
    with _client(LEDGER, data_dir, url) as client:
        tell(client, f"{command_name()} show {{}}{said}")


@app.command()
def show(  # noqa: PLR0917 - the options of a command
    contract_id: Annotated[str, typer.Argument(metavar="ID", help="The contract_id.")],
    ledger: LedgerName = "main",
    effective_on: Annotated[str | None, _option("As in effect on this day, such as 2023-07-01; today if not said.")] = None,
    published_by: Annotated[str | None, _option("Of what its sources had published by this day.")] = None,
    known_at: Annotated[str | None, _option("As the ledger knew it at this instant, such as 2026-11-22T09:30:00Z.")] = None,
    known_position: Annotated[int | None, _option("As the ledger knew it at this position.", min=1)] = None,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Tell a contract's story in prose, as of any day and any state of knowledge, and list its history."""
    from service.story import show as tell

    times = {"effective_on": effective_on, "published_by": published_by, "known_at": known_at, "known_position": known_position}
    with _client(ledger, data_dir, url) as client:
        tell(client, contract_id, times)


@app.command()
def tail(
    ledger: LedgerName = "main",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events as they come, until Ctrl-C.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """List the events of a ledger in the order of its log, a line each: position, instant, type, contract, source."""
    from service.story import tail as tell

    with _client(ledger, data_dir, url) as client:
        try:
            tell(client, follow=follow)
        except KeyboardInterrupt:
            if not follow:
                raise


@app.command()
def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead, for an administrator to read or run.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the database to the tables of this release.

    As LEDGER_MIGRATION_URL (the owner), for the role of LEDGER_DATABASE_URL; without these, the embedded one of the data folder.
    """
    from service import migration
    from service.deployment import databases, role_name

    settings = _settings(data_dir)
    if sql:
        typer.echo(migration.migration_sql(role_name(settings)))
        return
    with databases(settings) as urls:
        reached = migration.migrate(urls.owner(), urls.service_url)
    typer.echo(f"The database is at migration {reached}.")


@app.command()
def verify(ledger: AnyLedger = None, data_dir: DataDir = None) -> None:
    """Check the whole log: every hash, every link, the order, and that each current state is exactly the fold of its events.

    Reads only. Exit status 1 at a difference, which is named.
    """
    from service.audit.replay import verify as check
    from service.report import verified

    _replay(ledger, data_dir, check, verified)


@app.command()
def rebuild(ledger: AnyLedger = None, data_dir: DataDir = None) -> None:
    """Make the current states anew from the log, beside the live ones, and put them in their place.

    On a sound ledger this changes nothing. Exit status 1 when the log itself is not sound.
    """
    from service.audit.replay import rebuild as make
    from service.report import rebuilt

    _replay(ledger, data_dir, make, rebuilt)


def _replay(ledger: str | None, data_dir: Path | None, run: Callable[..., Any], sentence: Callable[[Any], str]) -> None:
    """Run a replay over one ledger or all, with its progress, and say what came of each."""
    from service.admin import ledger_id, ledger_names
    from service.deployment import connected
    from service.report import progress

    different = False
    with _databases(data_dir) as urls:
        with connected(urls.service_url) as connection:
            names = ledger_names(connection)
            if ledger is not None:
                ledger_id(connection, ledger)
        for name in [ledger] if ledger is not None else names:
            with progress(name) as advance:
                outcome = run(urls.service_url, name, advance)
            different = different or outcome.difference is not None
            typer.secho(sentence(outcome), fg="red" if outcome.difference else "green")
    raise typer.Exit(1 if different else 0)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the service, as YAML."""
    import json

    import yaml

    from service import app as _  # noqa: F401 - to import the application declares every operation
    from service.api.openapi import document

    # Through JSON, so that parts which the document shares are written out, not as YAML aliases.
    typer.echo(yaml.safe_dump(json.loads(json.dumps(document())), sort_keys=False, allow_unicode=True, width=2**20), nl=False)


@app.command()
def schemas(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where they go, under events/.")] = Path("schemas")) -> None:
    """Write the JSON Schema of each event type's data to FOLDER/events, and remove what is there of types that are gone."""
    import json

    from service.api.openapi import event_schemas

    target = folder / "events"
    target.mkdir(parents=True, exist_ok=True)
    made = event_schemas()
    for name, schema in made.items():
        (target / name).write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    for stale in target.glob("*.json"):
        if stale.name not in made:
            stale.unlink()


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Who it is for.")] = "key",
    right: Annotated[
        list[str] | None,
        _option(
            "A right; may be said several times: contracts:read, contracts:write, sealed:read, audit:read, ledger:admin. "
            "contracts:read and contracts:write if not said."
        ),
    ] = None,
    ledger: Annotated[list[str] | None, _option("A ledger; may be said several times. All ledgers if not said.")] = None,
    expires_days: Annotated[int | None, _option("Days until it expires; never if not said.", min=1, max=36_500)] = None,
    data_dir: DataDir = None,
) -> None:
    """Make an API key. Its text is printed once, alone on stdout, and kept nowhere."""
    from service.admin import make_key

    with _connection(data_dir) as connection:
        key_id, key = make_key(connection, name, right or ["contracts:read", "contracts:write"], ledger or [], expires_days)
    typer.echo(f"Key {key_id} ({name}). Its text is not shown again:", err=True)
    typer.echo(key)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys: id, name, rights by ledger, and whether they still hold."""
    from service import admin
    from service.report import keys_table

    with _connection(data_dir) as connection:
        keys_table(admin.list_keys(connection))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a key, at once and for ever."""
    from service import admin

    with _connection(data_dir) as connection:
        admin.revoke_key(connection, key_id)
    typer.echo(f"Key {key_id} is revoked; services that remember it let go of it within 5 seconds.")


@ledgers.command("create")
def create_ledger(
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 63 lower-case letters, digits and hyphens.")],
    time_zone: Annotated[str, typer.Option(help="The IANA time zone in which its days begin and end; fixed for ever.")] = "UTC",
    data_dir: DataDir = None,
) -> None:
    """Make a ledger."""
    from service import admin

    with _connection(data_dir) as connection:
        made = admin.create_ledger(connection, name, time_zone)
    typer.echo(f"Ledger {name} ({time_zone}) is made." if made else f"Ledger {name} ({time_zone}) was there already.")


@ledgers.command("list")
def list_ledgers(data_dir: DataDir = None) -> None:
    """List the ledgers, with their time zones and numbers of events."""
    from service import admin
    from service.report import ledgers_table

    with _connection(data_dir) as connection:
        ledgers_table(admin.list_ledgers(connection))


@clock.command("accept")
def accept_clock(ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger.")], data_dir: DataDir = None) -> None:
    """Let a ledger go on after an instant that is ahead of the clock: its next instants follow that one, a microsecond apart.

    For when a clock once jumped ahead and is right again. Takes the owner (LEDGER_MIGRATION_URL). Services need no restart.
    """
    from service import admin
    from service.log.ledger import instant

    with _connection(data_dir, owner=True) as connection:
        now, last = admin.clocks(connection, ledger)
        typer.echo(f"The database's clock:           {instant(now)}\nThe last event of the ledger:   {instant(last)}")
        admin.accept_clock(connection, ledger)
    typer.echo(f"Accepted: ledger {ledger} goes on from there.")


@head.command("accept")
def accept_head(ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger.")], data_dir: DataDir = None) -> None:
    """Accept that the database lacks events which were committed before, and go on with what it has. What is lost is lost.

    For when an older copy of the database was restored and no newer one is to be had. Stop the service first, and start it afterwards.
    """
    from service import admin
    from service.app import heads_folder
    from service.deployment import data_folder

    settings = _settings(data_dir)
    folder = heads_folder(replace(settings, data_dir=data_folder(settings)))
    with _connection(data_dir) as connection:
        before, now = admin.accept_head(connection, folder, ledger)
    stands = f"event {now.position} (hash {now.event_hash})" if now else "the beginning, without any event"
    typer.echo(f"Kept before:  event {before.position} (hash {before.event_hash})\nKept now:     {stands}")
    lost = before.position - now.position if now else before.position
    gone = f"{lost} events are given up" if lost > 0 else "the events after the fork are given up"
    typer.echo(f"Ledger {ledger}: {gone}. Start the service again, so that it takes note.")
