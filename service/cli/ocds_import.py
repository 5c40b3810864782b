"""Files of Open Contracting data into a ledger, over HTTP as anybody would: read, made into requests, sent once each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from rich.text import Text

from service.cli.client import Client, Json, Problem, visible
from service.cli.story import console
from service.errors import OperatorError
from service.exchange.ocds_contract import REFERENCE
from service.exchange.ocds_import import Planned, Step, from_ocds, idempotency_key
from service.exchange.ocds_read import MAX_OCDS_BYTES, Refusal, Unreadable, read

EVENTS_A_REQUEST = 100
_OPENINGS = {"contract.signed": "/contracts", "contract.reported": "/contracts/reported"}


@dataclass(slots=True)
class _Outcome:
    """How many releases became events of a contract now, or had before; and what was not recorded, by its place."""

    recorded: int = 0
    recorded_before: int = 0
    contracts: set[str] = field(default_factory=set)
    refusals: list[tuple[str, Refusal]] = field(default_factory=list)


def import_releases(client: Client, file: Path) -> bool:
    """Import a file, and say what came of it; whether every release in it is recorded."""
    outcome = _Outcome()
    for place, text in _documents(file):
        try:
            document = read(text)
        except Unreadable as error:
            outcome.refusals.append((place, Refusal("", None, str(error))))
        else:
            _import(client, place, document, outcome)
    _say(client, outcome)
    return not outcome.refusals


def _documents(file: Path) -> Iterator[tuple[str, bytes]]:
    """The documents of a file, each with its place: the whole file, or its lines where the first is a document in itself."""
    try:
        with file.open("rb") as lines:
            first = lines.readline(MAX_OCDS_BYTES + 1)
            if _is_document(first):
                yield from _lines(first, lines)
            else:
                yield "", first + lines.read(MAX_OCDS_BYTES + 1 - len(first))
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}.") from None


def _is_document(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _lines(first: bytes, lines: BinaryIO) -> Iterator[tuple[str, bytes]]:
    number, line = 1, first
    while line:
        if line.strip():
            yield f"line {number}", line
        number, line = number + 1, _line(lines)


def _line(lines: BinaryIO) -> bytes:
    """The next line; of one that is too long as much as shows that it is."""
    line = lines.readline(MAX_OCDS_BYTES + 1)
    rest = line
    while len(rest) > MAX_OCDS_BYTES and not rest.endswith(b"\n"):
        rest = lines.readline(MAX_OCDS_BYTES + 1)
    return line


def _import(client: Client, place: str, document: Any, outcome: _Outcome) -> None:
    known: dict[str, tuple[str | None, list[Json]]] = {}

    def history(reference: str) -> Sequence[Json]:
        known[reference] = _known(client, reference)
        return known[reference][1]

    planned, refusals = from_ocds(document, history, datetime.now(UTC).date())
    outcome.refusals += [(place, refusal) for refusal in refusals]
    for contract in planned:
        _send(client, place, contract, *known[contract.reference], outcome)


def _known(client: Client, reference: str) -> tuple[str | None, list[Json]]:
    """The contract with a reference and its events. OperatorError where there are several."""
    ids = list(client.contract_ids(f"{REFERENCE}:{reference}"))
    if len(ids) > 1:
        raise OperatorError(f"Ledger {client.ledger} has {len(ids)} contracts with the reference {REFERENCE}:{visible(reference)}.")
    return (ids[0], client.contract_events(ids[0])) if ids else (None, [])


def _send(client: Client, place: str, planned: Planned, contract_id: str | None, events: list[Json], outcome: _Outcome) -> None:
    """Send the steps of a contract. One that is refused holds back those that follow it."""
    before = {event.get("source", {}).get("external_id") for event in events}
    held_back: Step | None = None
    for number, step in enumerate(planned.steps):
        if held_back is not None:
            reason = f"held back: {held_back.release.release_id} was not recorded"
            outcome.refusals.append((place, Refusal(step.release.place, step.release.release_id, reason)))
            continue
        try:
            contract_id = _send_step(client, planned, step, contract_id, opens=planned.opens and number == 0)
        except Problem as problem:
            if problem.code != "idempotency-key-reused" or step.release.release_id not in before:
                held_back = step
                outcome.refusals.append((place, Refusal(step.release.place, step.release.release_id, str(problem))))
                continue
        outcome.recorded_before += step.release.release_id in before
        outcome.recorded += step.release.release_id not in before
    if contract_id is not None:
        outcome.contracts.add(contract_id)


def _send_step(client: Client, planned: Planned, step: Step, contract_id: str | None, *, opens: bool) -> str:
    """Send what a release makes, and answer whose it is. A contract that is there is not opened again."""
    requests = list(step.requests)
    if opens:
        opening = {name: member for name, member in requests[0].items() if name != "event_type"}
        if contract_id is None:
            receipt = client.append(_OPENINGS[requests[0]["event_type"]], opening, idempotency_key(planned, step, 0))
            contract_id = str(receipt["contract_id"])
        requests = requests[1:]
    assert contract_id is not None, "a contract that is not opened is known"
    for index in range(0, len(requests), EVENTS_A_REQUEST):
        part = {"events": requests[index : index + EVENTS_A_REQUEST]}
        client.append(f"/contracts/{contract_id}/events", part, idempotency_key(planned, step, index + 1))
    return contract_id


def _say(client: Client, outcome: _Outcome) -> None:
    out = console()
    for place, refusal in outcome.refusals:
        where = " ".join(part for part in (place, refusal.place) if part) or "the file"
        named = f" ({refusal.release_id})" if refusal.release_id else ""
        out.print(Text(visible(f"{where}{named}: {refusal.reason}")), soft_wrap=True)
    contracts = f"{len(outcome.contracts):,} contract{'' if len(outcome.contracts) == 1 else 's'} of ledger {client.ledger}"
    before = f", {outcome.recorded_before:,} recorded before" if outcome.recorded_before else ""
    refused = f", {len(outcome.refusals):,} not recorded" if outcome.refusals else ""
    out.print(Text(visible(f"{outcome.recorded:,} releases recorded in {contracts}{before}{refused}.")), soft_wrap=True)
