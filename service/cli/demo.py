"""The demo: the case played into a ledger of its own, and the five answers that the service gives about it.

Nothing here knows an answer: every word is made from what the service says.
"""

import base64
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from service.cli.case import CONTINUATIONS, DAY_BETWEEN, EVENTS, FIRST_DAY, LAST_DAY, RATE_DAYS, request_key
from service.cli.client import Client, Problem
from service.cli.prose import Told, figure_amount, listed, money, source_words
from service.cli.story import console, history
from service.errors import OperatorError
from service.log.checkpoint import Checkpoint
from service.log.header import NO_PREVIOUS, SCHEMA, event_hash, header_bytes
from service.log.notes import Note, Verifier
from service.log.tree import verify_consistency, verify_inclusion

Json = dict[str, Any]
LEDGER = "demo"
TIME_ZONE = "Asia/Seoul"
HASH_SHOWN = 16
_NEXT_SECONDS = 0.3
_TRIES = 20
_HEADER_MEMBERS = (
    *("body_digest", "contract_id", "event_id", "event_type", "position", "prev", "recorded_at", "recorded_by", "revision"),
    *("schema_version", "causation_id", "correlation_id", "effective_on", "hypothetical"),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """The contract as of the first reports and the last; on a day between, as known by each; and in dollars, at the rates of two days."""

    first: Told
    last: Told
    then: Told
    now: Told
    in_dollars: list[Json]


def demo(client: Client, show_command: str) -> None:
    """Play the case into the ledger `demo`, once however often it is run, and tell what the service answers.

    `show_command` is how `show` has to be typed, with `{}` for what it shows.
    """
    ledger = client.make_ledger(TIME_ZONE)
    contract_id, position = play(client)
    events = client.contract_events(contract_id)
    told = _ask(client, contract_id, position, events)
    out = console()
    out.print(f"{told.last.state['title']}: {listed(_parties(told.last.state))}", style="bold")
    out.print(f"{len(EVENTS)} events in ledger {client.ledger}, contract {contract_id}", style="dim")
    for line in history(told.last.as_of, [event for event in events if event["position"] <= position]):
        out.print(line, soft_wrap=True)
    for title, parts in (
        ("1. The value, and on whose word", _value_answer(told)),
        ("2. The best figure, in each currency", _best_answer(told)),
        (f"3. What was the contract on {DAY_BETWEEN}?", _day_answer(told)),
        ("4. The end of the term", _term_answer(told)),
        ("5. What these answers rest on", _basis_answer(client, told, events, ledger["ledger_id"])),
        ("And then? Asked, not recorded", _continuations(client, contract_id)),
    ):
        out.print()
        out.print(Rule(title, align="left", style="dim"))
        for part in parts:
            out.print(part)
    out.print()
    out.print("Read on:", style="bold")
    out.print(show_command.format(f"{contract_id} --ledger {client.ledger}"), soft_wrap=True, style="green", markup=False)


def _ask(client: Client, contract_id: str, position: int, events: Sequence[Json]) -> Answers:
    """Asked as known at the position of the case's last event, the answers stay the same whatever is recorded later."""

    def told(effective_on: str, published_by: str) -> Told:
        answer = client.contract(contract_id, effective_on=effective_on, published_by=published_by, known_position=position)
        return Told(answer, events)

    return Answers(
        first=told(FIRST_DAY, FIRST_DAY),
        last=told(LAST_DAY, LAST_DAY),
        then=told(DAY_BETWEEN, FIRST_DAY),
        now=told(DAY_BETWEEN, LAST_DAY),
        in_dollars=[
            client.contract(contract_id, published_by=LAST_DAY, known_position=position, currency="USD", rate_on=day)["converted"]
            for day in RATE_DAYS
        ],
    )


def _parties(state: Json) -> list[str]:
    return [f"{party['name']} ({listed(party['roles'])})" for party in state["parties"]]


def play(client: Client) -> tuple[str, int]:
    """Append the case; the contract, and the position of its last event. A key that was used before gets its first receipt."""
    contract_id, position = "", 0
    for index, (event_type, request) in enumerate(EVENTS):
        path = f"/contracts/{contract_id}/{_path(event_type)}" if contract_id else "/contracts/reported"
        receipt = client.append(path, request, request_key(index))
        contract_id, position = receipt["contract_id"], receipt["events"][-1]["position"]
    return contract_id, position


def _path(event_type: str) -> str:
    return event_type.replace(".", "-").replace("_", "-")


def _paragraph(label: str, sentences: Iterable[str]) -> RenderableType:
    return Padding(Text.assemble((f"{label}: ", "bold"), " ".join(sentences)), (0, 0, 1, 0))


def _value_answer(answers: Answers) -> Iterator[RenderableType]:
    for told in (answers.first, answers.last):
        yield _paragraph(f"Published by {told.as_of['published_by']}", told.value())


def _best_answer(answers: Answers) -> Iterator[RenderableType]:
    last = answers.last
    value = last.state["value"]
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("", *(entry["currency"] for entry in value["by_currency"])):
        table.add_column(heading)
    for name in ("best", "low", "high"):
        table.add_row(name, *(_amount_in(entry, name, last) for entry in value["by_currency"]))
    yield table
    support, conflicts = value.get("support", 0), value.get("conflicts", [])
    count = "no conflicts" if not conflicts else f"{len(conflicts)} conflicts"
    yield Text(
        f"{support} sources support the figure in {value['best']['currency']}; {count}. "
        "Nothing in the state is converted or averaged. Shown in dollars, when it is read:"
    )
    for shown in answers.in_dollars:
        yield Text(_in_dollars(shown, value["best"]))


def _in_dollars(shown: Json, best: Json) -> str:
    if "best" not in shown:
        return f"  at the rates of {shown['asked_on']}: not shown, {shown['not_converted'][0]['reason']}"
    (rate,) = shown["rates"]
    source = f"{shown['source']['data_set']}, from {shown['source']['package']} {shown['source']['version']}"
    return (
        f"  the best, {figure_amount(best)}, is {money(shown['best']['amount'], shown['currency'])} at the rate of {shown['rate_on']}: "
        f"{rate['inverse']} {rate['base']} for 1 {rate['quote']} ({source})"
    )


def _amount_in(entry: Json, name: str, told: Told) -> str:
    part = entry[name]
    if name == "best":
        figure = next(figure for figure in told.figures() if figure["figure_id"] == part["figure_id"])
        return f"{figure_amount(figure)} ({figure['basis']}, {source_words(figure['source'])})"
    return f"{money(part['amount'], entry['currency'])} ({part['figure_id']})"


def _day_answer(answers: Answers) -> Iterator[RenderableType]:
    both = (answers.then, answers.now)
    table = Table(show_edge=False, pad_edge=False, show_lines=True)
    table.add_column("")
    for told in both:
        table.add_column(f"as published by {told.as_of['published_by']}", ratio=1)
    rows: dict[str, list[list[str]]] = {
        "status": [[told.status()] for told in both],
        "delivery": [[told.delivery()] for told in both],
        "term": [[told.term()] for told in both],
        "uncertain": [told.uncertain() for told in both],
        "pending": [told.pending() for told in both],
        "anomalies": [told.anomalies() for told in both],
    }
    for label, cells in rows.items():
        table.add_row(Text(label, style="bold"), *(Text("\n".join(lines) or "none") for lines in cells))
    yield table
    yield Text("Two answers about one day, and both stay: what the world knew then, and what it learned later.")


def _term_answer(answers: Answers) -> Iterator[RenderableType]:
    for told in (answers.first, answers.last):
        yield Text(f"Published by {told.as_of['published_by']}: the term {told.term()}.")


def _basis_answer(client: Client, told: Answers, events: Sequence[Json], ledger_id: str) -> Iterator[RenderableType]:
    answers = {
        f"1, by {FIRST_DAY}": _value_revisions(told.first.state),
        f"1 and 2, by {LAST_DAY}": _value_revisions(told.last.state),
        f"3, by {FIRST_DAY}": _day_revisions(told.then),
        f"3, by {LAST_DAY}": _day_revisions(told.now),
        f"4, by {FIRST_DAY}": set(told.first.state["term_end"]["rests_on"]),
        f"4, by {LAST_DAY}": set(told.last.state["term_end"]["rests_on"]),
    }
    for label, revisions in answers.items():
        yield Text(f"Answer {label}: positions {told.last.positions(revisions)}")
    used: set[int] = set().union(*answers.values())
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("position", "event", "on the word of", "event hash"):
        table.add_column(heading)
    for event in events:
        if event["revision"] in used:
            hash_shown = event["event_hash"][:HASH_SHOWN] + "…"
            table.add_row(str(event["position"]), event["event_type"], source_words(event["source"]), hash_shown)
    yield table
    yield Text(check_chain(events, ledger_id))
    yield Text(check_proofs(client, events))


def _value_revisions(state: Json) -> set[int]:
    parts = [*state["value"].get("figures", []), *state["value"].get("withheld", []), *state["quantity"].get("withheld", [])]
    return {revision for part in parts for revision in part["rests_on"]}


def _day_revisions(told: Told) -> set[int]:
    state = told.state
    revisions = {*state.get("status_rests_on", []), *state.get("delivery", {}).get("rests_on", [])}
    revisions |= {revision for anomaly in told.answer["anomalies"] for revision in anomaly["events"]}
    return revisions | {entry["revision"] for entry in told.answer["pending"]} | set(state.get("term_end", {}).get("rests_on", []))


def check_chain(events: Sequence[Json], ledger_id: str) -> str:
    """Check a contract's events anew: each hash is that of its header, and each names the hash before it. OperatorError if not."""
    for before, event in pairwise([{"event_hash": NO_PREVIOUS, "revision": 0}, *events]):
        members = {name: event[name] for name in _HEADER_MEMBERS if name in event}
        header = header_bytes(members | {"ledger_id": ledger_id, "schema": SCHEMA})
        where = f"position {event['position']}"
        if event_hash(header).hex() != event["event_hash"]:
            raise OperatorError(f"The event at {where} is not what its hash was made of: run `contract-ledger verify`.")
        if event["prev"] != before["event_hash"] or event["revision"] != before["revision"] + 1:
            raise OperatorError(f"The chain of the contract breaks at {where}: run `contract-ledger verify`.")
    return (
        f"Checked just now, from the answers alone: {len(events)} events; the hash of each is that of its header, and each names the "
        "hash of the one before it."
    )


def check_proofs(client: Client, events: Sequence[Json]) -> str:
    """Check what a stranger would: the checkpoint's signature, that each event is in its tree, and that it continues the checkpoint which
    first covered the contract. OperatorError if something does not hold."""
    try:
        newest = _covering(client, events[-1]["position"])
    except Problem as problem:
        return f"Nothing is proven to a stranger here: {problem}"
    if newest is None:
        return "Nothing is proven to a stranger here: no checkpoint covers these events, and none is signed any more."
    (signed, verifiers), first = _signed(client, newest), client.proof(events[0]["event_id"])
    for event in events:
        proof = client.proof(event["event_id"], signed.size)
        path, leaf = _hashes(proof["path"]), bytes.fromhex(event["event_hash"])
        _require(verify_inclusion(event["position"] - 1, signed.size, leaf, path, signed.root), f"event {event['position']} is not in it")
    (earlier, _), path = _signed(client, first["checkpoint"]), _hashes(client.consistency(first["size"], signed.size))
    continues = verify_consistency(earlier.size, signed.size, earlier.root, signed.root, path)
    _require(continues, f"it does not continue the one of {earlier.size} events")
    return (
        f"And as a stranger would, by {verifiers[-1]}: the checkpoint of {signed.size} events is signed, {len(events)} inclusion proofs "
        f"put these events into its tree, and it continues the checkpoint of {earlier.size} events."
    )


def _covering(client: Client, position: int) -> str | None:
    """The newest checkpoint, once it covers a position: at most one a second is signed. None when none comes."""
    for _ in range(_TRIES):
        note = client.checkpoint()
        if Checkpoint.parse(Note.parse(note).text).size >= position:
            return note
        time.sleep(_NEXT_SECONDS)
    return None


def _signed(client: Client, note: str) -> tuple[Checkpoint, list[Verifier]]:
    """A checkpoint by its note, and the keys that have signed it. OperatorError when none has."""
    parsed = Note.parse(note)
    verifiers = [verifier for verifier in map(Verifier.parse, client.checkpoint_keys()) if verifier.signed(parsed)]
    _require(bool(verifiers), "no key of the deployment has signed it")
    return Checkpoint.parse(parsed.text), verifiers


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise OperatorError(f"The checkpoint proves nothing: {why}. Run `contract-ledger verify`.")


def _hashes(encoded: Iterable[str]) -> list[bytes]:
    return [base64.b64decode(one) for one in encoded]


def _continuations(client: Client, contract_id: str) -> Iterator[RenderableType]:
    """What could come, marked hypothetical and only validated."""
    for sentence, event_type, request in CONTINUATIONS:
        try:
            receipt = client.validate(f"/contracts/{contract_id}/{_path(event_type)}", request)
        except Problem as problem:
            yield Text(f"{sentence} ({event_type}): would be refused. {problem}")
            continue
        flags = listed(anomaly["rule"] for anomaly in receipt["anomalies"])
        flagged = f", and flagged: {flags}" if flags else ""
        yield Text(f"{sentence} ({event_type}): would be accepted as revision {receipt['revision']}{flagged}.")
