"""The commands about what is signed: the keys of a deployment, epochs that an operator begins, witnesses."""

import asyncio
import base64
import binascii
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.options import DataDir, connection_of, databases_of, settings_of
from service.errors import OperatorError

signing_keys = typer.Typer(help="The keys that sign checkpoints.", no_args_is_help=True)
epoch = typer.Typer(help="The epochs of a ledger's history.", no_args_is_help=True)
witness = typer.Typer(help="Witnesses (C2SP tlog-witness), who cosign the checkpoints of a ledger.", no_args_is_help=True)
LedgerArgument = Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger.")]
_LAST_SIGNED = """
SELECT s.note FROM (
    SELECT c.ledger_id, c.epoch, c.size, c.note FROM checkpoints c
    UNION ALL SELECT p.ledger_id, p.epoch, -1, p.note FROM epochs p  -- what an epoch begins with is the first that was signed in it
    WHERE starts_with(p.note, (SELECT d.name FROM deployment d) || '/')
) s JOIN ledgers l USING (ledger_id) WHERE l.name = %(name)s ORDER BY s.epoch DESC, s.size DESC LIMIT 1
"""
_REGISTER = "INSERT INTO signing_keys (public_key) VALUES (%s)"
_RETIRE = """
UPDATE signing_keys SET retired_at = clock_timestamp()
WHERE public_key = %(key)s AND retired_at IS NULL
  AND EXISTS (SELECT FROM signing_keys k WHERE k.retired_at IS NULL AND k.public_key <> %(key)s)
"""


@signing_keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the public keys of the deployment, the oldest first: since when each signs, and until when it did."""
    from service.log.ledger import instant
    from service.log.signing import KEYS

    with connection_of(data_dir) as connection:
        for key, registered_at, retired_at in connection.execute(KEYS).fetchall():
            until = f"retired {instant(retired_at)}" if retired_at else "signs"
            typer.echo(f"{base64.b64encode(key).decode()}  since {instant(registered_at)}  {until}")


@signing_keys.command("rotate")
def rotate(data_dir: DataDir = None) -> None:
    """Make a key that takes the place of the one there is: for a time both sign, until the old one is retired.

    With an embedded database the key goes into the data folder; with a database of yours it is printed, for LEDGER_SIGNING_KEY.
    """
    from service.cli.deployment import add_signing_key, data_folder
    from service.log.signing import KEYS, new_seed, read_signers

    settings, seed = settings_of(data_dir), new_seed()
    (signer,) = read_signers(seed)
    with connection_of(data_dir) as connection:
        if not connection.execute(KEYS).fetchall():
            raise OperatorError("No key has signed yet: the first is made, or taken, when the service starts.")
        if settings.database_url is None:
            add_signing_key(data_folder(settings), seed)
        connection.execute(_REGISTER, [signer.public_key])
    typer.echo(f"The key {base64.b64encode(signer.public_key).decode()} is registered.", err=True)
    if settings.database_url is None:
        typer.echo("It is in the data folder. Start the service again, so that both keys sign.", err=True)
    else:
        typer.echo("Add it, after a comma, to LEDGER_SIGNING_KEY of every service, and start them again; it is not shown again:", err=True)
        typer.echo(seed)
    typer.echo("When those who verify have pinned it, run `contract-ledger signing-keys retire` with the old one.", err=True)


@signing_keys.command("retire")
def retire(
    public_key: Annotated[str, typer.Argument(metavar="PUBLIC_KEY", help="The key, as `signing-keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Let a key sign no more. It stays listed, since what it signed stays signed."""
    try:
        key = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError):
        raise OperatorError(f"{public_key!r} is no public key in base64; `signing-keys list` shows those there are.") from None
    with connection_of(data_dir) as connection:
        if not connection.execute(_RETIRE, {"key": key}).rowcount:
            raise OperatorError("There is no such key that signs, or no other that signs: make one with `signing-keys rotate` first.")
    typer.echo("The key is retired; services take note when they sign next.")


@epoch.command("begin")
def begin_epoch(ledger: LedgerArgument, data_dir: DataDir = None) -> None:
    """Go on with what the database has, though more, or another history, was signed or committed before. What is lost is lost.

    For when an older copy was restored and no newer one is to be had. Stop every service first. Cursors given before are refused from
    then on, and whoever verifies sees the new origin and the signed note of what it follows.
    """
    from service.app import heads_folder
    from service.cli.deployment import data_folder, with_own_signing

    settings = settings_of(data_dir)
    folder = data_folder(settings)
    heads = heads_folder(replace(settings, data_dir=folder))
    with databases_of(data_dir) as urls:
        begun = asyncio.run(_begin(urls.owner(), with_own_signing(settings, folder), heads, ledger))
    before, now = begun.follows, begun.beginning
    typer.echo(f"Signed before:  {before.origin} with {before.size} events")
    typer.echo(f"Goes on from:   {now.origin} with {now.size} events")
    if begun.lost is not None:
        typer.echo(f"Event {begun.lost.position}, the last that was committed here, is given up.")
    typer.echo("Start the services again.")


async def _begin(owner_url: str, settings: Any, heads: Path, ledger: str) -> Any:
    from service.cli.deployment import opened
    from service.log import epochs
    from service.log.checkpoint import Checkpoint
    from service.log.notes import Note
    from service.log.signing import authority

    async with opened(owner_url) as database:
        rows = await database.rows(_LAST_SIGNED, {"name": ledger})
        signed = Checkpoint.parse(Note.parse(rows[0][0]).text) if rows else None
        return await epochs.begin(database, await authority(database, settings, heads), ledger, signed)


@witness.command("add")
def add(
    ledger: LedgerArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Its submission prefix, such as https://witness.example/log.")],
    verifier_key: Annotated[str, typer.Argument(metavar="KEY", help="Its verifier key: name+id+key.")],
    data_dir: DataDir = None,
) -> None:
    """Ask a witness for its cosignature of each checkpoint from now on. One that is down holds nothing up."""
    from service.cli.admin import ledger_id
    from service.log.cosigning import add_witness
    from service.log.witness import Witness

    named = Witness.named(url, verifier_key)
    with connection_of(data_dir) as connection:
        add_witness(connection, ledger_id(connection, ledger), named)
    typer.echo(f"Witness {named.verifier.name} is asked to cosign the checkpoints of ledger {ledger}.")


@witness.command("list")
def list_witnesses(ledger: LedgerArgument, data_dir: DataDir = None) -> None:
    """List the witnesses of a ledger."""
    from service.cli.admin import ledger_id
    from service.log.cosigning import witnesses_of

    with connection_of(data_dir) as connection:
        for known in witnesses_of(connection, ledger_id(connection, ledger)):
            typer.echo(f"{known.url}  {known.verifier}")


@witness.command("remove")
def remove(
    ledger: LedgerArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name in its verifier key.")],
    data_dir: DataDir = None,
) -> None:
    """Ask a witness no more. What it has cosigned stays."""
    from service.cli.admin import ledger_id
    from service.log.cosigning import remove_witness

    with connection_of(data_dir) as connection:
        remove_witness(connection, ledger_id(connection, ledger), name)
    typer.echo(f"Witness {name} is asked no more for ledger {ledger}.")
