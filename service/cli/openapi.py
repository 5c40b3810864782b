"""The OpenAPI document on stdout, and what of it breaks clients of an earlier one."""

import json
from pathlib import Path
from typing import Any

import typer
import yaml

from service import app as _  # noqa: F401 - to import the application declares every operation
from service.api.breaking import breaking_changes, may_break
from service.api.openapi import document
from service.errors import OperatorError


def print_document() -> None:
    """Print it as YAML."""
    # Through JSON, so that parts which the document shares are written out, not as YAML aliases.
    typer.echo(yaml.safe_dump(json.loads(json.dumps(document())), sort_keys=False, allow_unicode=True, width=2**20), nl=False)


def report_breaking(earlier: Path) -> None:
    """Print what breaks clients of the document in a file, a line each. Exit status 1 when anything does, and the version is not raised
    accordingly. OperatorError for what is no such document."""
    before, now = _read(earlier), json.loads(json.dumps(document()))
    versions = f"{before['info']['version']} to {now['info']['version']}"
    found = breaking_changes(before, now)
    for sentence in found:
        typer.echo(sentence)
    if not found:
        typer.echo(f"Nothing breaks a client: {versions}.", err=True)
    elif may_break(before, now):
        typer.echo(f"This breaks clients, as the version says: {versions}.", err=True)
    else:
        typer.echo(f"This breaks clients, and the version does not say so: {versions}.", err=True)
        raise typer.Exit(1)


def _read(file: Path) -> dict[str, Any]:
    try:
        # The C parser reads a document in a tenth of the time.
        read = yaml.load(file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except (OSError, yaml.YAMLError) as error:
        raise OperatorError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict) or not {"openapi", "info", "paths", "components"} <= read.keys():
        raise OperatorError(f"{file} is no OpenAPI document of this service.")
    return json.loads(json.dumps(read, default=str))  # type: ignore[no-any-return]
