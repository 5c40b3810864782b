"""The `contract-ledger` command. Each command imports what it needs when it runs, so that --help stays quick."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from service import __version__
from service.cli import bundles, groups, signing
from service.cli.ocds import ocds
from service.cli.options import AnyLedger, DataDir, LedgerName, Url, client_of, option, settings_of
from service.errors import OperatorError

app = typer.Typer(
    help="An append-only ledger of long-term supply contracts. Begin with `contract-ledger serve`, then `contract-ledger demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _group in (("keys", groups.keys), ("ledgers", groups.ledgers), ("clock", groups.clock), ("head", groups.head), ("ocds", ocds)):
    app.add_typer(_group, name=_name)
for _name, _group in (("signing-keys", signing.signing_keys), ("epoch", signing.epoch), ("witness", signing.witness)):
    app.add_typer(_group, name=_name)
for _command in (bundles.bundle, bundles.verifier, bundles.fold, bundles.restore):
    app.command()(_command)


# Of the disk or the device, and of no concern to the code that happens to write or read.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def main() -> None:
    """The entry point: a failure of the operator's concern is one sentence on stderr and exit status 1."""
    # A process that is asked to end puts its house in order, as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except OperatorError as error:
        _fail(error)
    except BrokenPipeError:
        # `tail | head`: nobody reads any more.
        _let_go_of_output()
    except UnicodeEncodeError as error:
        _let_go_of_output()
        text = ascii(error.object[error.start : error.end][:20])
        _fail(
            OperatorError(f"{text} cannot be written in {error.encoding}: type it in UTF-8, and set LC_ALL=C.UTF-8 PYTHONIOENCODING=utf-8.")
        )
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _let_go_of_output()
        where = f"{error.filename}: " if error.filename else ""
        _fail(OperatorError(f"The disk fails ({where}{error.strerror}): make room on it or mend it, and run this again."))


def _let_go_of_output() -> None:
    """What is still buffered must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(error: OperatorError) -> NoReturn:
    typer.secho(str(error), fg="red", err=True)
    sys.exit(1)


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
    settings = settings_of(data_dir)
    from service.cli.server import Address
    from service.cli.server import serve as run

    raise typer.Exit(run(settings, Address(host, port, workers)))


@app.command()
def demo(url: Url = None, data_dir: DataDir = None) -> None:
    """Play the contract between LG Energy Solution and Isuzu into the ledger `demo`, and tell what the service answers about it.

    Speaks HTTP to a running service, with the key of LEDGER_API_KEY or of the data folder. Run again, it tells the same story: nothing
    is recorded twice.
    """
    from shlex import quote

    from service.cli.demo import LEDGER
    from service.cli.demo import demo as tell
    from service.cli.deployment import command_name

    said = "".join(f" {option} {quote(str(value))}" for option, value in (("--url", url), ("--data-dir", data_dir)) if value)
    with client_of(LEDGER, data_dir, url) as client:
        tell(client, f"{command_name()} show {{}}{said}")


@app.command()
def show(  # noqa: PLR0917 - the options of a command
    contract_id: Annotated[str, typer.Argument(metavar="ID", help="The contract_id.")],
    ledger: LedgerName = "main",
    effective_on: Annotated[str | None, option("As in effect on this day, such as 2023-07-01; today if not said.")] = None,
    published_by: Annotated[str | None, option("Of what its sources had published by this day.")] = None,
    known_at: Annotated[str | None, option("As the ledger knew it at this instant, such as 2026-11-22T09:30:00Z.")] = None,
    known_position: Annotated[int | None, option("As the ledger knew it at this position.", min=1)] = None,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Tell a contract's story in prose, as of any day and any state of knowledge, and list its history."""
    from service.cli.story import show as tell

    times = {"effective_on": effective_on, "published_by": published_by, "known_at": known_at, "known_position": known_position}
    with client_of(ledger, data_dir, url) as client:
        tell(client, contract_id, times)


@app.command()
def tail(
    ledger: LedgerName = "main",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events as they come, until Ctrl-C.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """List the events of a ledger in the order of its log, a line each: position, instant, type, contract, source."""
    from service.cli.story import tail as tell

    with client_of(ledger, data_dir, url) as client:
        try:
            tell(client, follow=follow)
        except KeyboardInterrupt:
            if not follow:
                raise


@app.command("import")
def import_(  # noqa: PLR0917 - the options of a command
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Events, one a line (NDJSON), as `export` writes them; - for standard input.")
    ],
    ledger: LedgerName = "main",
    import_id: Annotated[
        str | None, option("The import's id, a UUID. If not said, one made of the file's path: the same command goes on where it ended.")
    ] = None,
    from_line: Annotated[int, typer.Option(min=1, help="Begin at this line of the file.")] = 1,
    stop_on_refusal: Annotated[bool, typer.Option("--stop-on-refusal", help="End at the first line that is refused.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Import events, one a line. Lines that are refused are named, and hold back those of their contract that follow them.

    Run again, it goes on: no line is recorded twice. Exit status 1 when a line is not recorded.
    """
    from service.cli.exchange import import_file, import_id_of

    if str(file) == "-" and import_id is None:
        raise OperatorError("Name the import by --import-id, a UUID of your own: standard input has no path to name it by.")
    with client_of(ledger, data_dir, url) as client:
        given = import_id or import_id_of(file, ledger)
        whole = import_file(client, file, given, from_line, stop_on_refusal=stop_on_refusal)
    raise typer.Exit(0 if whole else 1)


@app.command()
def export(  # noqa: PLR0917 - the options of a command
    ledger: LedgerName = "main",
    contract: Annotated[str | None, option("Only the events of this contract, by its contract_id.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; standard output if not said.", show_default=False)
    ] = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="With what is sealed, without which `import` refuses those lines.")] = False,
    ocds: Annotated[bool, typer.Option("--ocds", help="OCDS instead: a record package a contract, with its releases.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Export the events of a ledger or a contract, one a line, in the form that `import` takes; or its contracts as OCDS."""
    from service.cli.exchange import export_file, ocds_packages

    if ocds and sealed:
        raise OperatorError("What is sealed is no part of OCDS: say --ocds or --sealed.")
    with client_of(ledger, data_dir, url) as client:
        pieces = ocds_packages(client, contract) if ocds else client.export(contract, sealed=sealed)
        export_file(client, pieces, "OCDS packages" if ocds else "events", output)


@app.command()
def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead, for an administrator to read or run.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the database to the tables of this release.

    As LEDGER_MIGRATION_URL (the owner), for the role of LEDGER_DATABASE_URL; without these, the embedded one of the data folder, which is
    made if there is none.
    """
    from service import migration
    from service.cli.deployment import databases, role_name
    from service.cli.report import progress

    settings = settings_of(data_dir)
    if sql:
        typer.echo(migration.migration_sql(role_name(settings)))
        return
    with databases(settings, made=True) as urls, progress("migrate") as advance:
        reached = migration.migrate(urls.owner(), urls.service_url, lambda done, total: advance(done, total, "building the tree"))
    typer.echo(f"The database is at migration {reached}.")


@app.command()
def verify(ledger: AnyLedger = None, data_dir: DataDir = None) -> None:
    """Check the whole log: every hash, every link, the order, and that each current state is exactly the fold of its events.

    Then that it has what is kept outside the database: the last checkpoint that was signed, the last event that was committed. Reads
    only, and writes what came of it into the history of replays. Exit status 1 at a difference, which is named.
    """
    from functools import partial

    from service.audit.replay import verify as check
    from service.cli.replays import kept_outside, replay
    from service.cli.report import verified

    beside = partial(kept_outside(data_dir).verify, check)
    raise typer.Exit(1 if replay("verify", ledger, data_dir, beside, verified) else 0)


@app.command()
def rebuild(ledger: AnyLedger = None, data_dir: DataDir = None) -> None:
    """Make the current states anew from the log, beside the live ones, and put them in their place.

    On a sound ledger this changes nothing, else it says what it changed. Exit status 1 when the log itself is not sound.
    """
    from service.audit.rebuild import rebuild as make
    from service.cli.replays import replay
    from service.cli.report import rebuilt

    replay("rebuild", ledger, data_dir, make, rebuilt)


@app.command()
def book(
    ledger: LedgerName = "main",
    known_position: Annotated[int | None, option("As the ledger knew it at this position; its head if not said.", min=1)] = None,
    known_at: Annotated[str | None, option("As the ledger knew it at this instant, such as 2026-11-22T09:30:00Z.")] = None,
    effective_on: Annotated[str | None, option("As in effect on this day, such as 2023-07-01; today if not said.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write the whole book as it was believed to be, one contract a line (NDJSON), to standard output.

    Exit status 1 when a contract cannot be told, since its events are not what was recorded; its line says where.
    """
    from service.cli.replays import tell_book

    raise typer.Exit(0 if tell_book(ledger, data_dir, known_position, known_at, effective_on) else 1)


@app.command()
def replays(ledger: LedgerName = "main", data_dir: DataDir = None) -> None:
    """List the last replays of a ledger: what verified, rebuilt or told it, when, and what came of it."""
    from service.cli.replays import list_replays

    list_replays(ledger, data_dir)


@app.command()
def openapi(
    since: Annotated[
        Path | None, option("An earlier document: say instead what breaks its clients; exit status 1 if anything does.", metavar="FILE")
    ] = None,
) -> None:
    """Print the OpenAPI document of the service, as YAML."""
    from service.cli.openapi import print_document, report_breaking

    if since is None:
        print_document()
    else:
        report_breaking(since)


@app.command()
def events() -> None:
    """Print the page of all event types, their members and rules, as Markdown."""
    from service.api.catalogue import page

    typer.echo(page(), nl=False)


@app.command()
def operations() -> None:
    """Print the page of all operations, by the names that generated clients have for them, as Markdown."""
    from service import app as _  # noqa: F401 - to import the application declares every operation
    from service.api.operations_page import operations_page

    typer.echo(operations_page(), nl=False)


@app.command()
def schemas(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where they go, under events/.")] = Path("schemas")) -> None:
    """Write the JSON Schema of each version of each event type's data to FOLDER/events, and remove what is there of others."""
    from service.api.published import write_schemas

    write_schemas(folder)
