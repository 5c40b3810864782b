"""The commands of bundles: fetched over HTTP, folded and restored from a file, and the program that verifies them."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.options import DataDir, LedgerName, Url, client_of, databases_of, option
from service.errors import OperatorError

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The file of the bundle.")]


def bundle(  # noqa: PLR0913, PLR0917 - the options of a command
    ledger: LedgerName = "main",
    contract: Annotated[str | None, option("Only the events of this contract, by its contract_id.")] = None,
    from_position: Annotated[int | None, option("From this position of the ledger's log on.", min=1)] = None,
    to_position: Annotated[int | None, option("To this position.", min=1)] = None,
    kept: Annotated[Path | None, option("A file with the checkpoint that you kept: with the proof that the log continues it.")] = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="With the values and salts of what is sealed.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; standard output if not said.", show_default=False)
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Fetch the bundle of a ledger, of a range of it or of a contract: what `verifier` prints a program for, that verifies it."""
    from service.cli.exchange import write_pieces

    wanted: dict[str, Any] = {
        "contract_id": contract,
        "from_position": from_position,
        "to_position": to_position,
        "from_size": None if kept is None else _kept_size(kept),
        "sealed": "true" if sealed else None,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    with client_of(ledger, data_dir, url) as client:
        write_pieces(client.bundle(given), f"a bundle of ledger {client.ledger}", output)


def _kept_size(file: Path) -> int:
    """The size of a checkpoint in a file. OperatorError for what is none."""
    from service.log.checkpoint import Checkpoint
    from service.log.notes import Note, NoteError

    try:
        return Checkpoint.parse(Note.parse(file.read_bytes()).text).size
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}.") from None
    except NoteError as error:
        raise OperatorError(f"{file} holds no checkpoint: {error}.") from None


def verifier() -> None:
    """Print the program that verifies bundles: one file, for any Python since 3.9, which needs nothing else."""
    from service.audit import verify

    typer.echo(Path(verify.__file__).read_text(encoding="utf-8"), nl=False)


def fold(
    file: BundlePath,
    effective_on: Annotated[str | None, option("As in effect on this day, such as 2023-07-01; today if not said.")] = None,
    state: Annotated[bool, typer.Option("--state", help="With the state itself, as canonical JSON.")] = False,
) -> None:
    """Fold each contract of a bundle, with no service and no database: a line each with its id, revision and `state_hash`.

    It is the `state_hash` that the service answers for the same day. Verify the bundle first: this does not ask who signed it.
    """
    from service.audit.fold import fold as folded
    from service.cli.client import visible

    for contract in folded(file, _day(effective_on)):
        remarks = [f"{contract.erased} erased: they are gaps in the state"] if contract.erased else []
        remarks += [f"{contract.sealed} with sealed parts: the state holds their digests"] if contract.sealed else []
        told = contract.state_hash or "not whole in this bundle: it begins before it"
        typer.echo("  ".join([contract.contract_id, str(contract.revision), contract.effective_on.isoformat(), told, *remarks]))
        if state and contract.state is not None:
            typer.echo(visible(contract.state.decode()))


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise OperatorError(f"{text!r} is no day, such as 2023-07-01.") from None


def restore(
    file: BundlePath,
    key: Annotated[str | None, option("The verifier key, as you pinned it, that the bundle's checkpoint has to be signed by.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Put the whole ledger of a bundle into a database that has none of its id or name, byte for byte, and build its projection.

    Ended halfway, the same command goes on. Keys, grants and the receipts of idempotency keys are no part of a ledger's log.
    """
    from service.audit.restore import restore as put
    from service.cli.report import progress

    with databases_of(data_dir) as urls, progress("restore") as advance:
        done = put(urls.service_url, file, advance, key, urls.owner_url)
    there = f", {done.found:,} of them by an earlier run" if done.found else ""
    typer.echo(f"Ledger {done.ledger}: {done.events:,} events{there}, {done.contracts:,} contracts, in {done.seconds:.1f} s.")
