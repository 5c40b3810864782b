"""Open Contracting data by the command: contracts of a running service, as packages, and releases into a ledger."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import DataDir, LedgerName, Url, client_of

ocds = typer.Typer(help="Open Contracting data (OCDS 1.1).", no_args_is_help=True)


@ocds.callback()
def _group() -> None:
    """Open Contracting data (OCDS 1.1)."""


@ocds.command("export")
def export(
    contract_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The contract_id; all contracts, a package a line, if not said.")
    ] = None,
    ledger: LedgerName = "main",
    releases: Annotated[bool, typer.Option("--releases", help="Release packages instead of record packages.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Print a contract as an OCDS package, or all of a ledger: every digit of the amounts as the service wrote it."""
    from service.cli.exchange import export_file, ocds_packages

    with client_of(ledger, data_dir, url) as client:
        export_file(client, ocds_packages(client, contract_id, "releases" if releases else "record"), "OCDS packages", None)


@ocds.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A release, a record, a package of either or a list of releases; or one of these a line.")
    ],
    ledger: LedgerName = "main",
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Record what OCDS releases say of contracts. What is not recorded is listed at the end, with its place and why.

    Run again, it records nothing twice. Exit status 1 when a release is not recorded.
    """
    from service.cli.ocds_import import import_releases

    with client_of(ledger, data_dir, url) as client:
        whole = import_releases(client, file)
    raise typer.Exit(0 if whole else 1)
