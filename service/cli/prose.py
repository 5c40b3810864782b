"""A contract's parts in words: amounts, sources, status, term, value, and each event in a line.

Everything is made from what the service answers, as JSON; what an answer leaves out is not made up.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from rich.table import Table

from service.cli.standing import standing
from service.domain.dates import on

Json = dict[str, Any]
_BOUNDS = {"about": "about ", "at_least": "at least ", "at_most": "at most "}
_STATUSES = {
    "reported": "reported, not confirmed",
    "negotiating": "under negotiation",
    "denied": "denied",
    "signed": "signed",
    "in_force": "in force",
    "delivering": "delivering",
    "unknown": "without a fact in effect yet",
}
_UNITS = {"Y": "year", "M": "month", "W": "week", "D": "day"}


def money(amount: str, currency: str) -> str:
    return f"{currency} {format(Decimal(amount), ',f')}"


def figure_amount(figure: Json) -> str:
    """What a figure says: `about KRW 1,000,000,000,000`."""
    bound = _BOUNDS.get(figure["bound"], "")
    if "amount" in figure:
        return bound + money(figure["amount"], figure["currency"])
    if "low" not in figure or "high" not in figure:
        return f"{figure['currency']}, amount sealed"
    return f"{bound}{money(figure['low'], figure['currency'])} to {format(Decimal(figure['high']), ',f')}"


def source_words(source: Json) -> str:
    """On whose word: `Reuters (news, 2022-07-06)`, `news via Reuters (2022-07-06)`."""
    name, kind = source.get("name"), source["kind"]
    words = name or kind
    words += f", attributed to {source['attributed_to']}," if "attributed_to" in source else ""
    words += f" via {source['via']}" if "via" in source else ""
    details = ", ".join(([kind] if name else []) + ([source["published_on"]] if "published_on" in source else []))
    return f"{words} ({details})" if details else words


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    parts = list(words)
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def duration_words(duration: str) -> str:
    """`4 years` for P4Y."""
    parts = re.findall(r"(\d+)([YMWD])", duration)
    return listed(f"{count} {_UNITS[unit]}{'' if count == '1' else 's'}" for count, unit in parts)


class Told:
    """A contract as answered, with its events: what stands on which revision is said by its source."""

    def __init__(self, answer: Json, events: Sequence[Json]) -> None:
        self.answer = answer
        self.state: Json = answer["state"]
        self.as_of: Json = answer["as_of"]
        self.events = {event["revision"]: event for event in standing(events, self.as_of)}

    def word(self, revisions: Sequence[int]) -> str:
        """On whose word something stands, given the revisions that it rests on."""
        sources = (self.events[revision].get("source") for revision in revisions if revision in self.events)
        return listed(dict.fromkeys(source_words(source) for source in sources if source)) or "no source that is known"

    def positions(self, revisions: Iterable[int]) -> str:
        return ", ".join(str(self.events[revision]["position"]) for revision in sorted(set(revisions)) if revision in self.events)

    def status(self) -> str:
        """`Delivering since 2023-06, on the word of ...`."""
        status = self.state["status"]
        words = _STATUSES.get(status, status)
        since = self._since(status)
        word = f", on the word of {self.word(self.state['status_rests_on'])}" if self.state.get("status_rests_on") else ""
        return f"{words}{f' since {since}' if since else ''}{word}"

    def _since(self, status: str) -> str | None:
        state = self.state
        signing = state.get("signing", {})
        days: dict[str, str | None] = {
            "delivering": state.get("delivery", {}).get("started_on"),
            "in_force": state.get("period", {}).get("start_on"),
            "signed": signing.get("signed_on") or signing.get("signed_by") or signing.get("effective_on"),
            "expired": state.get("term_end", {}).get("end_on"),
            "suspended": next((entry["suspended_on"] for entry in state.get("suspensions", []) if "resumed_on" not in entry), None),
            "unknown": None,
        }
        part = state.get("ending") or state.get("report") or {}
        return days[status] if status in days else part.get("effective_on")

    def term(self) -> str:
        """When it begins and ends, and on whose word."""
        period, end = self.state.get("period", {}), self.state.get("term_end")
        start = f"begins {on(period['start_on'])}" if "start_on" in period else "begins on a day that is not known"
        if end is None:
            return f"{start}, and its end is not known"
        word = f"on the word of {self.word(end['rests_on'])}"
        if end["by"] == "duration":
            counted = f"{duration_words(period['duration'])} from {period['start_on']}"
            return f"{start} and ends {on(end['end_on'])}: {counted}, {word}"
        return f"{start} and ends {on(end['end_on'])}, as stated, {word}"

    def figures(self) -> list[Json]:
        """The figures that stand."""
        figures: list[Json] = self.state["value"].get("figures", [])
        return figures

    def value(self) -> list[str]:
        """The value in sentences: its status, the best figure, ranges, support, conflicts, what is withheld."""
        value = self.state["value"]
        best = value.get("best")
        if best is None:
            said = [f"The value is {value['status']}."]
        else:
            terms = f"{best['basis']}, {best['scope']}"
            said = [
                f"The value is {value['status']}.",
                f"Best: {figure_amount(best)} ({terms}), on the word of {source_words(best['source'])}.",
            ]
            said.append(self._support(value, best["currency"]))
            ranges = [
                entry
                for entry in value.get("by_currency", [])
                if entry["best"]["figure_id"] != best["figure_id"] or entry["low"] != entry["high"]
            ]
            said += map(_range_words, ranges)
        said += self._derivations() + self._conflicts(value)
        withheld = [*value.get("withheld", []), *self.state["quantity"].get("withheld", [])]
        return said + self.withheld(withheld)

    def _support(self, value: Json, currency: str) -> str:
        support = value.get("support", 0)
        ends = [word for member, word in (("open_above", "higher"), ("open_below", "lower")) if value.get(member)]
        open_words = f" It may be {listed(ends)}." if ends else ""
        return f"{support} source{'' if support == 1 else 's'} state{'s' if support == 1 else ''} it in {currency}.{open_words}"

    def _derivations(self) -> list[str]:
        derived: dict[str, list[str]] = {}
        for figure in self.figures():
            if "derived_from" in figure:
                derived.setdefault(figure["derived_from"]["figure_id"], []).append(figure["figure_id"])
        return [f"{listed(ids)} {'are' if len(ids) > 1 else 'is'} derived from {root}." for root, ids in derived.items()]

    def _conflicts(self, value: Json) -> list[str]:
        conflicts = value.get("conflicts", [])
        if not conflicts:
            return ["No figures conflict."] if self.figures() else []
        return [f"{listed(entry['figures'])} conflict: they differ by {entry['difference_percent']} %." for entry in conflicts]

    def withheld(self, parts: Sequence[Json]) -> list[str]:
        """One sentence for all that a party keeps back."""
        by_word: dict[str, list[str]] = {}
        for part in parts:
            until = f", until {part['until']}" if "until" in part else ""
            by_word.setdefault(self.word(part["rests_on"]), []).append(f"{part['path']} ({part['reason']}{until})")
        return [f"Withheld by {word}: {listed(paths)}." for word, paths in by_word.items()]

    def delivery(self) -> str:
        """When deliveries started, and what they come to."""
        delivery = self.state.get("delivery")
        if delivery is None:
            return "none"
        partial = ", in part" if delivery.get("partial") else ""
        totals = [f"{_quantity(total)} of {total['item_id']}" for total in delivery.get("totals", [])]
        recorded = f"; {delivery['count']} recorded, {listed(totals)}" if totals else ""
        return f"since {delivery['started_on']}{partial}{recorded}, on the word of {self.word(delivery['rests_on'][:1])}"

    def course(self) -> list[str]:
        """What became of the deliveries: accepted and rejected, stopped for a time, complete."""
        acceptance = self.state.get("acceptance", {})
        said = []
        for word in ("accepted", "rejected"):
            totals = [f"{_quantity(total)} of {total['item_id']}" for total in acceptance.get(word, [])]
            said += [f"{word}: {listed(totals)}"] if totals else []
        for entry in self.state.get("suspensions", []):
            resumed = f" until {entry['resumed_on']}" if "resumed_on" in entry else ""
            said.append(f"suspended {_of_item(entry)}, from {entry['suspended_on']}{resumed}")
        return said + [f"complete {_of_item(entry)}, {on(entry['completed_on'])}" for entry in self.state.get("completions", [])]

    def anomalies(self) -> list[str]:
        """What is flagged, with the notes that explain it."""
        said = []
        for anomaly in self.answer["anomalies"]:
            notes = [self.events[revision]["data"]["text"] for revision in anomaly.get("explained_by", []) if revision in self.events]
            explained = f" Explained: {' '.join(notes)}" if notes else ""
            said.append(f"{anomaly['sentence']} ({anomaly['anomaly_id']}).{explained}")
        return said

    def pending(self) -> list[str]:
        return [f"{entry['event_type']} from {entry['effective_on']} (revision {entry['revision']})" for entry in self.answer["pending"]]

    def uncertain(self) -> list[str]:
        """The coarse dates, and where they stand."""
        return [f"{entry['date']} ({entry['path']})" for entry in self.state.get("uncertain", [])]

    def figures_table(self) -> Table:
        table = Table(title="Figures", title_justify="left", show_edge=False, pad_edge=False)
        for heading in ("figure", "amount", "basis", "scope", "on the word of", "derived from", "position"):
            table.add_column(heading)
        for figure in self.figures():
            table.add_row(
                figure["figure_id"],
                figure_amount(figure),
                figure["basis"],
                figure["scope"],
                source_words(figure["source"]) + (f": {figure['note']}" if "note" in figure else ""),
                figure.get("derived_from", {}).get("figure_id", ""),
                self.positions(figure["rests_on"]),
            )
        return table


def _range_words(entry: Json) -> str:
    low, high, currency = entry["low"], entry["high"], entry["currency"]
    if low["amount"] == high["amount"]:
        return f"In {currency}: {money(low['amount'], currency)} ({low['figure_id']})."
    spread = f"{money(low['amount'], currency)} ({low['figure_id']}) to {money(high['amount'], currency)} ({high['figure_id']})"
    return f"In {currency}: {spread}."


def event_words(event: Json) -> str:
    """What an event says, in half a line."""
    data = event.get("data")
    if data is None:
        return "the content is erased"
    say = _WORDS.get(event["event_type"])
    words = say(data) if say else ", ".join(f"{name} {value}" for name, value in data.items() if isinstance(value, str))
    sealed = listed(member["path"] for member in event.get("sealed", []))
    return _joined(words, f"sealed: {sealed}") if sealed else words


def party_name(party: Json) -> str:
    """What a party is called; its id where the name is sealed."""
    return str(party.get("name", party["party_id"]))


def _quantity(data: Json) -> str:
    return f"{data['quantity']} {data['unit']}" if "quantity" in data else f"a sealed quantity ({data['unit']})"


def _opened(data: Json) -> str:
    parties = listed(f"{party_name(party)} ({', '.join(party['roles'])})" for party in data.get("parties", []))
    figures = listed(figure_amount(figure) for figure in data.get("figures", []))
    return "; ".join(part for part in (data.get("title"), parties, figures) if part)


def _reported(data: Json) -> str:
    return "; ".join(part for part in (f"stage {data['stage']}", _opened(data)) if part)


def _signed(data: Json) -> str:
    signed = on(data["signed_on"]) if "signed_on" in data else f"by {data['signed_by']}" if "signed_by" in data else ""
    end = f"until {data['period']['end_on']}" if data.get("period", {}).get("end_on") else ""
    withheld = listed(entry["path"] for entry in data.get("withheld", []))
    return "; ".join(part for part in (signed, _opened(data), end, withheld and f"withheld: {withheld}") if part)


def _stated(data: Json) -> str:
    figure = data["figure"]
    return f"{figure['figure_id']}: {figure_amount(figure)}, {figure['basis']}"


def _revised(data: Json) -> str:
    return f"{data['replaces']} becomes {data['value']['figure_id']}: {figure_amount(data['value'])} ({data['reason']})"


def _extended(data: Json) -> str:
    quantity, value = data.get("added_quantity"), data.get("added_value")
    parts = [f"{_quantity(quantity)} more"] if quantity else []
    parts += [f"{money(value['amount'], value['currency'])} more"] if value else []
    parts += [f"until {data['new_end_on']}"] if "new_end_on" in data else []
    return f"{listed(parts)} (by {data['via']})" if parts else f"by {data['via']}"


def _ended(data: Json) -> str:
    return "; ".join(part for part in (f"by {data['by']}" if "by" in data else "", data.get("cause", "")) if part)


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _named(data: Json) -> str:
    """An id or reference, with the title and the words that were said of it."""
    name = next((data[member] for member in ("milestone_id", "condition_id", "option_id", "reference") if member in data), "")
    title = f"{name}: {data['title']}" if "title" in data else str(name)
    return _joined(f"{title}, due {on(data['due_on'])}" if "due_on" in data else title, data.get("text"))


def _party(data: Json) -> str:
    return f"{party_name(data['party'])} ({listed(data['party']['roles'])})"


def _identified(data: Json) -> str:
    identifiers = listed(f"{known['scheme']} {known['id']}" for known in data.get("identifiers", []))
    merged = f"is also {listed(data['merges'])}" if "merges" in data else ""
    said = _joined(data.get("name"), identifiers, merged)
    return f"{data['party_id']}: {said}" if said else str(data["party_id"])


def _granted(data: Json) -> str:
    window = data.get("window", {})
    words = [f"{word} {window[member]}" for word, member in (("from", "start_on"), ("to", "end_on")) if member in window]
    holder = f"held by {data['holder']}" if "holder" in data else ""
    return _joined(f"{data['option_id']}, on {data['kind']}", holder, f"open {' '.join(words)}" if words else "")


def _amended(data: Json) -> str:
    changes = (f"{change['path']} from {change.get('from', 'nothing')} to {change.get('to', 'nothing')}" for change in data["changes"])
    return _joined(f"{data['amendment_id']}: {listed(changes)}", data.get("rationale"))


def _judged(data: Json) -> str:
    return _joined(f"{_quantity(data)} of {data['item_id']}, delivery {data['delivery_id']}", data.get("reason"))


def _of_item(data: Json) -> str:
    return _joined(f"of {data['item_id']}" if "item_id" in data else "of all items", data.get("reason"), data.get("text"))


def _filed(data: Json) -> str:
    contains = f"contains {listed(data['contains'])}" if "contains" in data else ""
    return _joined(data.get("title"), contains, _kept_back(data))


def _kept_back(data: Json) -> str:
    kept = [
        f"{part['path']} ({part['reason']}{', until ' + part['until'] if 'until' in part else ''})" for part in data.get("withheld", [])
    ]
    return f"withholds {listed(kept)}" if kept else ""


def _corrected(data: Json) -> str:
    moved = f"from {data['effective_on']}" if "effective_on" in data else ""
    return _joined(f"event {data['target']} stated anew: {listed(data['data'])}", moved)


def _labelled(data: Json) -> str:
    return _joined(*(f"{word} {listed(data[member])}" for word, member in (("set", "set"), ("removed", "remove")) if member in data))


_WORDS: dict[str, Callable[[Json], str]] = {
    "contract.reported": _reported,
    "contract.signed": _signed,
    "contract.completed": _ended,
    "contract.terminated": _ended,
    "contract.cancelled": _ended,
    "contract.superseded": _ended,
    "contract.labelled": _labelled,
    "party.added": _party,
    "party.replaced": lambda data: f"{_party(data)} takes the place of {data['replaces']}",
    "party.identified": _identified,
    "option.granted": _granted,
    "option.exercised": lambda data: _joined(f"{data['option_id']}, {on(data['exercised_on'])}", data.get("text")),
    "option.lapsed": _named,
    "terms.amended": _amended,
    "delivery.accepted": _judged,
    "delivery.rejected": _judged,
    "delivery.suspended": _of_item,
    "delivery.resumed": _of_item,
    "delivery.completed": _of_item,
    **dict.fromkeys(("milestone.scheduled", "milestone.met", "milestone.missed", "condition.satisfied", "condition.failed"), _named),
    **dict.fromkeys(("dispute.raised", "dispute.resolved", "force_majeure.declared", "force_majeure.lifted"), _named),
    "disclosure.filed": _filed,
    "disclosure.withheld": _kept_back,
    "disclosure.released": lambda data: listed(data["paths"]),
    "figure.withdrawn": lambda data: f"{data['figure_id']}: {data['reason']}",
    "figure.stated": _stated,
    "value.revised": _revised,
    "order.extended": _extended,
    "delivery.started": lambda data: "in part" if data.get("partial") else "",
    "delivery.recorded": lambda data: f"{data['delivery_id']}: {_quantity(data)} of {data['item_id']}",
    "agreement.linked": lambda data: ": ".join(data[name] for name in ("relation", "title") if name in data),
    "note.added": lambda data: str(data.get("text", "a note")),
    "event.corrected": _corrected,
    "event.erased": lambda data: f"event {data['target']}: {data['legal_basis']}",
    "event.voided": lambda data: f"event {data['target']}: {data['reason']}",
    "sealed.revealed": lambda data: f"{listed(part['path'] for part in data['parts'])} of event {data['event_id']}",
}
