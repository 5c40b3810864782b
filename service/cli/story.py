"""Stories told from the service's answers: a contract in prose with its history, and a ledger event by event."""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from service.cli.client import Client, Unreachable
from service.cli.prose import Told, event_words, listed, party_name, source_words
from service.cli.standing import left_out, standing

Json = dict[str, Any]
FOLLOW_SECONDS = 1.0
"""Between two tries while nothing answers."""
WAIT_SECONDS = 20


class _Output(Console):
    """A console that ends the command in silence when nobody reads any more, as in `tail | head`."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


def console(*, stderr: bool = False) -> Console:
    """Where the stories go; where it is no terminal, as wide as COLUMNS says, else wide enough for a table."""
    made = _Output(highlight=False, stderr=stderr)
    said = os.environ.get("COLUMNS", "")
    if not made.is_terminal:
        made.width = int(said) if re.fullmatch("[1-9][0-9]{1,3}", said) else 160
    return made


def print_table(table: Table, least: int) -> None:
    """Print a table at least so wide: a terminal that is narrower breaks its lines, where columns would vanish."""
    out = console()
    out.width = max(out.width, least)
    out.print(table)


def show(client: Client, contract_id: str, times: Json) -> None:
    """A contract's story at the times that are asked for, then its history."""
    answer = client.contract(contract_id, **times)
    events = client.contract_events(contract_id)
    out = console()
    for part in _contract(Told(answer, events), client.ledger):
        out.print(part)
    out.print()
    out.print("History", style="bold")
    for line in history(answer["as_of"], events):
        out.print(line, soft_wrap=True)


def _contract(told: Told, ledger: str) -> Iterator[RenderableType]:
    state, answer = told.state, told.answer
    hypothetical = " (hypothetical)" if state.get("hypothetical") else ""
    yield Text(f"{state.get('title', 'A contract without a title')}{hypothetical}", style="bold")
    yield Text(f"{state.get('kind', 'a contract')}, {answer['contract_id']} in ledger {ledger}, revision {answer['revision']}", style="dim")
    yield Text(as_of_words(told.as_of), style="dim")
    yield Text()
    yield from _labelled(_facts(told))
    if told.figures():
        yield Text()
        yield told.figures_table()


def as_of_words(as_of: Json) -> str:
    """The times that an answer is for."""
    published = f", of what was published by {as_of['published_by']}" if "published_by" in as_of else ""
    final = ", final" if as_of["final"] else ""
    return (
        f"as in effect on {as_of['effective_on']} ({as_of['time_zone']}), known at position {as_of['known_position']} "
        f"({as_of['known_at']}){published}{final}"
    )


def _facts(told: Told) -> Iterator[tuple[str, Iterable[str]]]:
    state = told.state
    yield "Parties", [f"{party_name(party)} ({listed(party['roles'])})" for party in state.get("parties", [])]
    yield "Former parties", [f"{party_name(party)}, now {party['became']}" for party in state.get("former_parties", [])]
    yield "References", [f"{reference['scheme']} {reference['id']}" for reference in state.get("references", [])]
    yield "Items", map(_item, state.get("items", []))
    yield "Status", [told.status(), *[f"marked: {mark}" for mark in state.get("marks", [])]]
    yield "Term", [told.term()]
    yield "Value", told.value()
    yield "Replaced", [f"{entry['figure_id']} by {entry['replaced_by']}" for entry in state.get("replaced_figures", [])]
    yield "Withdrawn", [f"{entry['figure_id']}: {entry['reason']}" for entry in state.get("withdrawn_figures", [])]
    extensions = [(told.events[entry["rests_on"][0]], entry["effective_on"]) for entry in state.get("extensions", [])]
    yield "Extensions", [f"{event_words(event)}, from {effective_on}" for event, effective_on in extensions]
    yield "Options", map(_option, state.get("options", []))
    yield "Amendments", [f"{entry['amendment_id']}, from {entry['effective_on']}" for entry in state.get("amendments", [])]
    yield "Deliveries", [told.delivery(), *told.course()]
    yield "Milestones", map(_due, [*state.get("milestones", []), *state.get("conditions", [])])
    yield "Disputes", [f"{_reference(entry)} {entry['status']}" for entry in state.get("disputes", [])]
    yield "Force majeure", [f"{_reference(entry)} {entry['status']}" for entry in state.get("force_majeure", [])]
    yield "Agreements", [f"{_agreement(entry)}, on the word of {told.word(entry['rests_on'])}" for entry in state.get("agreements", [])]
    yield "Erased", map(_gap, state.get("erased", []))
    yield "Labels", [listed(entry["label"] for entry in state["labels"])] if state.get("labels") else []
    yield "Notes", _notes(told)
    yield "Anomalies", told.anomalies()
    yield "Pending", told.pending()
    yield "Uncertain", told.uncertain()


def _item(item: Json) -> str:
    ordered = f", {item['ordered']} {item.get('unit', 'of a sealed unit')} ordered" if "ordered" in item else ""
    return f"{item['item_id']}: {item['description']}{ordered}"


def _option(entry: Json) -> str:
    holder = f", held by {entry['holder']}" if "holder" in entry else ""
    return f"{entry['option_id']} (on {entry['kind']}{holder}): {entry['status']}"


def _due(entry: Json) -> str:
    due = f", due in {entry['due_on']}" if "due_on" in entry else ""
    return f"{entry['title']}{due}: {entry['status']}, {entry['effective_on']}"


def _reference(entry: Json) -> str:
    return f"{entry['reference']}, from {entry.get('raised_on') or entry['declared_on']}:"


def _agreement(entry: Json) -> str:
    reference = entry.get("reference")
    named = entry.get("title") or (f"{reference['scheme']} {reference['id']}" if reference else "")
    return f"{entry['relation']}{f': {named}' if named else ''}"


def _gap(entry: Json) -> str:
    day = f" of {entry['effective_on']}" if "effective_on" in entry else ""
    by = f", erased by revision {entry['rests_on'][0]}" if "rests_on" in entry else ", erased later"
    return f"what revision {entry['revision']}, {entry['event_type']}{day}, said{by}"


def _notes(told: Told) -> Iterator[str]:
    for event in told.events.values():
        if event["event_type"] == "note.added" and "data" in event and not left_out(event, told.as_of):
            subject = event["data"].get("about")
            about = f" (about {subject['kind']} {subject['id']})" if subject else ""
            yield f"{event_words(event)}{about}, {source_words(event.get('source', {'kind': 'unknown'}))}"


def _labelled(facts: Iterable[tuple[str, Iterable[str]]]) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for label, lines in facts:
        for index, line in enumerate(lines):
            grid.add_row("" if index else label, Text(line))
    yield grid


def history(as_of: Json, events: Sequence[Json]) -> Iterator[Text]:
    """One line an event, in the order of recording, as it was recorded; dim where the answer above does not count it, and why."""
    for event, stands in zip(events, standing(events, as_of), strict=True):
        why = left_out(stands, as_of)
        source = source_words(event["source"]) if "source" in event else "-"
        marks = "".join(
            f" [{mark}]" for mark in ("hypothetical" if event.get("hypothetical") else None, why or stands.get("changed")) if mark
        )
        line = f"{event['position']:>6}  r{event['revision']:<4} {event.get('effective_on', '-'):<10}  {event['event_type']:<18}  {source}"
        words = event_words(event)
        yield Text(f"{line}{f': {words}' if words else ''}{marks}", style="dim" if why else "")


def feed_line(event: Json) -> str:
    """An event of the ledger as a line of `tail`."""
    source = source_words(event["source"]) if "source" in event else "erased"
    contract = f"{event['contract_id']} r{event['revision']:<4}"
    return f"{event['position']:>6}  {event['recorded_at']}  {event['event_type']:<18}  {contract}  {source}"


def tail(client: Client, *, follow: bool) -> None:
    """The ledger's events as lines, from the first; with `follow` those that come, for ever, also over a restart of the service."""
    out = console()
    cursor: str | None = None
    waiting = False
    while True:
        try:
            page = client.feed(cursor, WAIT_SECONDS if follow else 0)
        except Unreachable as error:
            if not follow or cursor is None:
                raise
            if not waiting:
                console(stderr=True).print(f"{error} Waiting for it.", style="yellow", soft_wrap=True)
            waiting = True
            time.sleep(FOLLOW_SECONDS)
            continue
        waiting = False
        for event in page["items"]:
            out.print(Text(feed_line(event)), soft_wrap=True)
        cursor = page.get("next", cursor)
        if not page["has_more"] and not follow:
            return
