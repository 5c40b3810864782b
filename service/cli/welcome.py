"""What `serve` says on the terminal when it is ready: where it is, and what to try next, to be pasted as it stands."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.text import Text

from service.cli.deployment import API_KEY_FILE

_log = structlog.get_logger()
_SOURCE = {"kind": "filing", "name": "LG Energy Solution"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What there is to say about a service that is ready."""

    verifier: str | None
    url: str
    data_folder: Path
    folder_is_default: bool
    embedded: bool
    command: str
    key: str | None
    key_made: bool
    key_refused: bool


def say_welcome(welcome: Welcome, log_format: str) -> None:
    """For people as prose on stdout; for machines as one line of the log, without the key."""
    if log_format == "json":
        key_file = str(welcome.data_folder / API_KEY_FILE) if welcome.key else None
        _log.info("serving", url=welcome.url, docs=f"{welcome.url}/docs", data_folder=str(welcome.data_folder), key_file=key_file)
        return
    console = Console(highlight=False)
    for line in _lines(welcome):
        # Not wrapped: a line that is cut in two cannot be pasted.
        console.print(line, soft_wrap=True)


def say_stopped(log_format: str) -> None:
    if log_format == "json":
        _log.info("stopped")
    else:
        Console(highlight=False).print("Stopped. Everything that was acknowledged is on disk.", style="dim")


def _lines(welcome: Welcome) -> list[Text]:
    address = f"contract-ledger serves at {welcome.url} (Ctrl-C stops it)"
    lines = [Text(address, style="bold"), Text(f"  documentation  {welcome.url}/docs"), Text(f"  data           {_data(welcome)}")]
    if welcome.verifier is not None:
        lines.append(Text(f"  checkpoints    of ledger main are signed by {welcome.verifier}"))
    if welcome.key_refused:
        lines.append(Text("LEDGER_API_KEY is not a key of this database, which has others already; it was left aside.", style="yellow"))
    if welcome.key is None:
        lines.append(
            Text(f"The keys of this database are not known on this machine; `{welcome.command} keys create` makes another.", style="yellow")
        )
        return lines
    made = "a first key, with all rights, was made; " if welcome.key_made else ""
    lines += [
        Text(f"  key            {made}it is kept in {welcome.data_folder / API_KEY_FILE}"),
        Text(""),
        Text("Try, in another terminal:", style="bold"),
        Text(demo_command(welcome), style="green"),
        Text(""),
        Text("Or by hand: open a contract, revise its value, and see what a stale revision is told.", style="bold"),
    ]
    return lines + [Text(line, style="green") for line in curl_lines(welcome.url, welcome.key)]


def _data(welcome: Welcome) -> str:
    return f"{welcome.data_folder} (an embedded PostgreSQL)" if welcome.embedded else f"LEDGER_DATABASE_URL, and {welcome.data_folder}"


def demo_command(welcome: Welcome) -> str:
    """The demo against this service, with the options that it needs."""
    options = "" if welcome.url == "http://127.0.0.1:8000" else f" --url {shlex.quote(welcome.url)}"
    if not welcome.folder_is_default:
        options += f" --data-dir {shlex.quote(str(welcome.data_folder))}"
    return f"{welcome.command} demo{options}"


def curl_lines(url: str, key: str) -> list[str]:
    """Three lines for a shell, which work as they stand and in this order."""
    contracts = f"{url}/v1/ledgers/main/contracts"
    opened = _curl(f'"{contracts}"', key, "open", _opening())
    revised = f'"{contracts}/$CONTRACT/value-revised"'
    return [
        f"""CONTRACT=$({opened} | tee /dev/stderr | sed -n 's/.*"contract_id":"\\([^"]*\\)".*/\\1/p'); echo""",
        f"{_curl(revised, key, 'revise', _revision('krw-1', 'krw-2', '1100000000000'), 1)}; echo",
        f"{_curl(revised, key, 'stale', _revision('krw-2', 'krw-3', '1200000000000'), 1)}; echo",
    ]


def _curl(address: str, key: str, word: str, body: dict[str, Any], revision: int | None = None) -> str:
    # The seconds make the key a new one each time the line is pasted, in any shell.
    headers = [shlex.quote(f"Authorization: Bearer {key}"), "'Content-Type: application/json'", f'"Idempotency-Key: {word}-$(date +%s%N)"']
    if revision is not None:
        headers.append(f"""'If-Match: "{revision}"'""")
    given = " ".join(f"-H {header}" for header in headers)
    return f"curl -sS {address} {given} -d {shlex.quote(json.dumps(body))}"


def _opening() -> dict[str, Any]:
    return {
        "effective_on": "2024-01-26",
        "source": _SOURCE,
        "data": {
            "title": "Cylindrical batteries for the electric Elf truck",
            "kind": "supply",
            "parties": [
                {"party_id": "lges", "name": "LG Energy Solution", "roles": ["supplier"]},
                {"party_id": "isuzu", "name": "Isuzu Motors", "roles": ["buyer"]},
            ],
            "figures": [_figure("krw-1", "1000000000000")],
        },
    }


def _revision(replaces: str, figure_id: str, amount: str) -> dict[str, Any]:
    data = {"replaces": replaces, "reason": "renegotiation", "value": _figure(figure_id, amount)}
    return {"effective_on": "2025-03-01", "source": _SOURCE, "data": data}


def _figure(figure_id: str, amount: str) -> dict[str, str]:
    return {"figure_id": figure_id, "amount": amount, "currency": "KRW", "basis": "disclosed", "bound": "exact", "scope": "total"}
