"""The commands in groups: keys, ledgers, and what an operator says about clocks and heads."""

from dataclasses import replace
from typing import Annotated

import typer

from service.cli.options import DataDir, connection_of, databases_of, option, settings_of

keys = typer.Typer(help="API keys: who may call, and may do what.", no_args_is_help=True)
ledgers = typer.Typer(help="Ledgers: books of contracts, each with a log of its own.", no_args_is_help=True)
clock = typer.Typer(help="The clock of a ledger.", no_args_is_help=True)
head = typer.Typer(help="The last committed event of a ledger, as it is kept outside the database.", no_args_is_help=True)


@keys.command("create")
def create_key(
    who: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Who it is for; `key` if not said.", show_default=False)] = None,
    name: Annotated[str | None, option("The same, said as an option.")] = None,
    right: Annotated[
        list[str] | None,
        option(
            "A right; may be said several times: contracts:read, contracts:write, sealed:read, audit:read, ledger:admin. "
            "contracts:read and contracts:write if not said."
        ),
    ] = None,
    ledger: Annotated[list[str] | None, option("A ledger; may be said several times. All ledgers if not said.")] = None,
    expires_days: Annotated[int | None, option("Days until it expires; never if not said.", min=1, max=36_500)] = None,
    data_dir: DataDir = None,
) -> None:
    """Make an API key. Its text is printed once, alone on stdout, and kept nowhere."""
    from service.cli.admin import make_key

    if who is not None and name is not None:
        raise typer.BadParameter("say who the key is for once: as NAME, or by --name", param_hint="--name")
    said = who or name or "key"
    with connection_of(data_dir) as connection:
        key_id, key = make_key(connection, said, right or ["contracts:read", "contracts:write"], ledger or [], expires_days)
    typer.echo(f"Key {key_id} ({said}). Its text is not shown again:", err=True)
    typer.echo(key)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys: id, name, rights by ledger, and whether they still hold."""
    from service.cli import admin
    from service.cli.report import keys_table

    with connection_of(data_dir) as connection:
        keys_table(admin.list_keys(connection))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a key, at once and for ever."""
    from service.cli import admin

    with connection_of(data_dir) as connection:
        admin.revoke_key(connection, key_id)
    typer.echo(f"Key {key_id} is revoked; services that remember it let go of it within 5 seconds.")


@ledgers.command("create")
def create_ledger(
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 63 lower-case letters, digits and hyphens.")],
    time_zone: Annotated[str, typer.Option(help="The IANA time zone in which its days begin and end; fixed for ever.")] = "UTC",
    data_dir: DataDir = None,
) -> None:
    """Make a ledger."""
    from service.cli import admin

    with connection_of(data_dir) as connection:
        made = admin.create_ledger(connection, name, time_zone)
    typer.echo(f"Ledger {name} ({time_zone}) is made." if made else f"Ledger {name} ({time_zone}) was there already.")


@ledgers.command("list")
def list_ledgers(data_dir: DataDir = None) -> None:
    """List the ledgers, with their time zones and numbers of events."""
    from service.cli import admin
    from service.cli.report import ledgers_table

    with connection_of(data_dir) as connection:
        ledgers_table(admin.list_ledgers(connection))


@ledgers.command("policy")
def set_policy(
    name: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger.")],
    unique_scheme: Annotated[
        list[str] | None,
        option("A scheme of references of which each id is that of one contract; may be said several times. None if not said."),
    ] = None,
    if_match: Annotated[bool, typer.Option("--require-if-match", help="Refuse appends to contracts that come without If-Match.")] = False,
    public_log: Annotated[bool, typer.Option("--public-log", help="Open checkpoints, keys and tiles to callers without a token.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse appends that would be accepted and flagged.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Set the policy of a ledger, whole: what is not said is as in a new ledger."""
    from service.cli import admin
    from service.log.ledger import Switches

    switches = Switches(if_match_required=if_match, public_log=public_log, strict=strict)
    with databases_of(data_dir) as urls:
        schemes = admin.set_policy(urls.service_url, name, unique_scheme or [], switches)
    typer.echo(f"Unique schemes of references in ledger {name}: {', '.join(schemes) or 'none'}.")
    typer.echo(f"Appends to its contracts {'need' if if_match else 'may do without'} If-Match.")
    typer.echo(f"What would be flagged as an anomaly is {'refused' if strict else 'accepted, and flagged'}.")
    typer.echo(f"Its checkpoints, keys and tiles are {'open to callers without a token' if public_log else 'for callers with audit:read'}.")


@clock.command("accept")
def accept_clock(ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger.")], data_dir: DataDir = None) -> None:
    """Let a ledger go on after an instant that is ahead of the clock: its next instants follow that one, a microsecond apart.

    For when a clock once jumped ahead and is right again. Takes the owner (LEDGER_MIGRATION_URL). Services need no restart.
    """
    from service.cli import admin
    from service.log.ledger import instant

    with connection_of(data_dir, owner=True) as connection:
        now, last = admin.clocks(connection, ledger)
        typer.echo(f"The database's clock:           {instant(now)}\nThe last event of the ledger:   {instant(last)}")
        admin.accept_clock(connection, ledger)
    typer.echo(f"Accepted: ledger {ledger} goes on from there.")


@head.command("accept")
def accept_head(ledger: Annotated[str, typer.Argument(metavar="LEDGER", help="The ledger.")], data_dir: DataDir = None) -> None:
    """Accept that the database lacks events which were committed before, and go on with what it has. What is lost is lost.

    For when an older copy of the database was restored and no newer one is to be had. Stop the service first, and start it afterwards.
    """
    from service.app import heads_folder
    from service.cli import admin
    from service.cli.deployment import data_folder

    settings = settings_of(data_dir)
    folder = heads_folder(replace(settings, data_dir=data_folder(settings)))
    with connection_of(data_dir) as connection:
        before, now = admin.accept_head(connection, folder, ledger)
    stands = f"event {now.position} (hash {now.event_hash})" if now else "the beginning, without any event"
    typer.echo(f"Kept before:  event {before.position} (hash {before.event_hash})\nKept now:     {stands}")
    lost = before.position - now.position if now else before.position
    gone = f"{lost} events are given up" if lost > 0 else "the events after the fork are given up"
    typer.echo(f"Ledger {ledger}: {gone}. Start the service again, so that it takes note.")
