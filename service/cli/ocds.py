"""Open Contracting data by the command: contracts of a running service, as packages."""

from typing import Annotated

import typer

from service.cli.options import DataDir, LedgerName, Url, client_of

ocds = typer.Typer(help="Open Contracting data (OCDS 1.1).", no_args_is_help=True)


@ocds.callback()
def _group() -> None:
    """Open Contracting data (OCDS 1.1)."""


@ocds.command("export")
def export(
    contract_id: Annotated[str, typer.Argument(metavar="ID", help="The contract_id.")],
    ledger: LedgerName = "main",
    releases: Annotated[bool, typer.Option("--releases", help="A release package instead of a record package.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Print a contract as an OCDS package: every digit of its amounts as the service wrote it."""
    with client_of(ledger, data_dir, url) as client:
        typer.echo(client.ocds(contract_id, "releases" if releases else "record"))
