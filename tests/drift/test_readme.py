"""README and docs say what is so: the tour works as pasted, tables hold what the code holds, links lead somewhere."""

import ast
import importlib
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import typer
from psycopg import sql
from pydantic import TypeAdapter

from service.api.envelope import RecordEventsRequest, request_class
from service.api.json_body import JsonFault, read_object
from service.cli import app
from service.cli.admin import may_change_log
from service.cli.case import DAY_BETWEEN, FIRST_DAY, LAST_DAY
from service.cli.client import Client
from service.cli.demo import LEDGER, TIME_ZONE, play
from service.domain.events import EVENT_TYPES
from service.migration import check_migrated
from service.tables import metadata
from tests.conftest import Server
from tests.drift.served import Served, environment
from tests.servers import ROOT

README: Final = (ROOT / "README.md").read_text()
LIMITS: Final = (ROOT / "docs" / "limits.md").read_text()
PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Numbers that bound nothing: the shape of a row, how much of a hash a story shows, a priority and an exit status.
NO_LIMITS: Final = {
    *("service.projections.contracts.LAYOUT", "service.cli.demo.HASH_SHOWN"),
    *("service.audit.worker.NICENESS", "service.audit.worker.TRY_AGAIN"),
    *("service.log.tree.HASH_BYTES", "service.log.tree.TILE_HEIGHT", "service.log.tree.TILE_WIDTH"),
    *("service.log.notes.ED25519", "service.log.notes.COSIGNATURE"),
}


def blocks(language: str) -> list[str]:
    """The code blocks of README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table(text: str, first_heading: str) -> list[list[str]]:
    """The rows, as cells, of all tables whose first column has the heading."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        inside = line.startswith("|") and (inside or cells[0] == first_heading)
        if inside and cells[0] != first_heading and set(cells[0]) != {"-"}:
            found.append(cells)
    assert found, f"no table begins with the heading {first_heading!r}"
    return found


def bare(cell: str) -> str:
    return cell.replace("`", "")


@pytest.fixture(scope="module")
def tour(served: Served) -> list[str]:
    """What the blocks of the tour print, pasted in order into a new ledger."""
    return served.paste(blocks("bash"))


def picked(output: str) -> list[tuple[str, Any]]:
    """What the tour's `pick` printed: paths, with their values."""
    lines = (line.split(" = ", 1) for line in output.splitlines())
    return [(path, json.loads(value)) for path, value in lines]


def test_the_tour_appends_as_its_text_says(tour: list[str]) -> None:
    _, opened, stated, revised, stale, several, *_ = tour
    receipt = json.loads(opened)
    assert (receipt["revision"], receipt["events"][0]["position"]) == (1, 1)
    assert stated.startswith("HTTP/1.1 201 ")
    assert 'etag: "2"' in stated
    assert "idempotent-replayed" not in stated
    assert json.loads(revised)["revision"] == 3
    refused = json.loads(stale)
    assert (refused["status"], refused["code"]) == (412, "stale-revision")
    assert 'send If-Match: "3"' in refused["detail"]
    assert json.loads(several)["revision"] == 5
    assert [anomaly["rule"] for anomaly in json.loads(several)["anomalies"]] == ["delivery-before-signing"]


def test_the_tour_reads_as_its_text_says(tour: list[str]) -> None:
    *_, read, in_dollars, changes, listed, log = tour
    shown = picked(read)
    signing = {"effective_on": "2024-01-26", "event_type": "contract.signed", "revision": 4}
    assert shown[:2] == [("state.status", "reported"), ("pending", [])]
    assert shown[2:4] == [("state.status", "delivering"), ("pending", [signing])]
    assert "delivery in 2023-06 came before the latest possible signing day, 2024-01-26" in shown[4][1]
    at_2, now = dict(shown[5:8]), dict(shown[8:])
    assert (at_2["state.value.best.source"]["via"], at_2["as_of"]["known_position"], at_2["as_of"]["final"]) == ("Reuters", 2, True)
    assert (now["revision"], now["state.value.best.amount"], now["state.hypothetical"]) == (5, "1100000000000", True)
    converted = dict(picked(in_dollars))
    assert (converted["converted.best"]["amount"], converted["converted.rate_on"]) == ("762804213.59", "2022-07-05")
    changed = dict(picked(changes))
    assert changed["items.1.sentence"] == "figure.stated of 2022-07-06, on the word of news via Reuters: changed value."
    assert "status from reported to delivering" in changed["sentence"]
    assert dict(picked(listed))["items.0.state.title"] == "Cylindrical batteries for the electric Elf truck"
    told = dict(picked(log))
    assert told["items.1.prev"] == told["items.0.event_hash"]
    assert (told["items.2.position"], told["has_more"], told["items.0.position"]) == (3, True, 4)


def test_the_tour_pasted_again_has_no_second_effect(served: Served, tour: list[str]) -> None:
    _, opened, stated, *_ = tour
    _, opened_again, stated_again, *_ = served.paste(blocks("bash"))
    assert opened_again == opened
    assert "idempotent-replayed: true" in stated_again
    assert stated_again.rpartition("\n\n")[2] == stated.rpartition("\n\n")[2]
    assert served.events() == 5


def test_the_opening_table_is_what_the_service_answers(served: Served) -> None:
    with Client(served.url, served.key, LEDGER) as client:
        client.make_ledger(TIME_ZONE)
        contract_id, position = play(client)
        asked = {"effective_on": DAY_BETWEEN, "known_position": position}
        answers = [column(client.contract(contract_id, published_by=day, **asked)) for day in (FIRST_DAY, LAST_DAY)]
    rows = [[name, *(answer[name] for answer in answers)] for name in answers[0]]
    assert table(README, f"on {DAY_BETWEEN}") == rows
    assert f"| on {DAY_BETWEEN} | as published by {FIRST_DAY} | as published by {LAST_DAY} |" in README


def column(answer: dict[str, Any]) -> dict[str, str]:
    """A column of README's first table, from an answer."""
    state = answer["state"]
    best, delivery = state["value"]["best"], state.get("delivery")
    amount = f"{best['bound']} {best['currency']} {int(best['amount']):,}"
    return {
        "status": state["status"],
        "delivery": f"since {delivery['started_on']}{', in part' if delivery.get('partial') else ''}" if delivery else "none",
        "value": f"{amount}, {best['basis']} via {best['source']['via']}",
        "end of the term": state["term_end"]["end_on"],
        "still to come": ", ".join(f"{event['event_type']} on {event['effective_on']}" for event in answer["pending"]) or "nothing",
        "flagged": ", ".join(anomaly["sentence"] for anomaly in answer["anomalies"]) or "nothing",
    }


@contextmanager
def names_of_ones_own(server: Server) -> Iterator[dict[str, str]]:
    """What README calls the database and its roles, and what they are called here; gone at the end."""
    suffix = secrets.token_hex(6)
    names = {name: f"{name}_{suffix}" for name in ("ledger_owner", "ledger_service", "ledger")}
    try:
        yield names
    finally:
        server.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", names["ledger"])
        server.execute("DROP ROLE IF EXISTS {}", names["ledger_service"])
        server.execute("DROP ROLE IF EXISTS {}", names["ledger_owner"])


def test_a_postgres_of_ones_own_is_prepared_as_written(server: Server, tmp_path: Path) -> None:
    (statements,) = blocks("sql")
    commands = next(block for block in blocks("sh") if "LEDGER_MIGRATION_URL" in block)
    with names_of_ones_own(server) as names:
        renamed = re.compile(rf"\b({'|'.join(names)})\b(?!-)")
        with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
            for statement in renamed.sub(lambda found: names[found[1]], statements).split(";")[:-1]:
                connection.execute(sql.SQL(statement))  # type: ignore[arg-type]
        # `serve` would go on for ever: it says here with which URLs it would start.
        command = (
            'contract-ledger() { if [ "$1" = serve ]; then echo "$LEDGER_DATABASE_URL ${LEDGER_MIGRATION_URL-none}";'
            f' else "{sys.executable}" -m service "$@"; fi; }}\n'
        )
        script = re.sub(
            r"(postgresql://)(\w+):([\w-]+)@db\.example/(\w+)",
            lambda url: f"{url[1]}{names[url[2]]}:{url[3]}@/{names[url[4]]}?host={server.socket_folder}",
            commands,
        )
        settings = environment(LEDGER_DATA_DIR=str(tmp_path))
        ran = subprocess.run(["bash", "-eu"], input=command + script, capture_output=True, text=True, check=False, cwd=ROOT, env=settings)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        service_url, owner_url = ran.stdout.splitlines()[-1].split()
        assert owner_url == "none"
        check_migrated(service_url)
        with psycopg.connect(service_url) as connection:
            assert not may_change_log(connection)


def test_the_table_of_commands_has_each_command_once() -> None:
    shown = [name for row in table(README, "command") for name in re.findall(r"`([a-z-]+)(?: [a-z]+)?`", row[0])]
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(set(shown)) == sorted(known)
    assert len(shown) == len(known)


def test_the_table_of_tables_has_each_table_once() -> None:
    rows = table((ROOT / "docs" / "architecture.md").read_text(), "table")
    shown = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(shown) == sorted(metadata.tables)


def constants() -> dict[str, Any]:
    """Every number that a module of the service names in capitals."""
    found: dict[str, Any] = {}
    for file in sorted((ROOT / "service").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names = [name for node in ast.parse(file.read_text()).body for name in assigned(node) if name.isupper()]
        values = {name: getattr(importlib.import_module(module), name) for name in names} if names else {}
        found |= {f"{module}.{name}": value for name, value in values.items() if type(value) in (int, float, Decimal, timedelta)}
    return found


def assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def documented_limits() -> dict[str, Decimal]:
    rows = [(bare(name), value) for name, value, _ in table(LIMITS, "constant")]
    found = {name: number(value) for name, value in rows}
    assert len(found) == len(rows), "a constant stands twice"
    return found


def number(value: Any) -> Decimal:
    """A limit as one number: seconds for a duration, without separators."""
    if isinstance(value, timedelta):
        return Decimal(str(value.total_seconds()))
    return Decimal(re.sub(r",(?=\d{3})| ?s$", "", str(value)))


def stands(name: str) -> Decimal:
    """The value of a constant by its full name, or of an entry in one."""
    path, _, entry = name.rstrip("]").partition("[")
    module, _, constant = path.rpartition(".")
    value = getattr(importlib.import_module(module), constant)
    return number(value[entry] if entry else value)


def test_every_documented_limit_is_that_of_its_constant() -> None:
    documented = documented_limits()
    assert documented == {name: stands(name) for name in documented}


def test_every_constant_limit_is_documented() -> None:
    public = {name for name in constants() if not name.rpartition(".")[2].startswith("_")}
    assert public - NO_LIMITS <= set(documented_limits())


def bounded_lists(schema: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The lists of a JSON Schema that have a bound, by their member's name."""
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, member in part.get("properties", {}).items():
            yield from ((name, either["maxItems"]) for either in (member, *member.get("anyOf", ())) if "maxItems" in either)


def test_the_table_of_lists_has_each_list_with_its_bound() -> None:
    requests = [request_class(event_type) for event_type in EVENT_TYPES] + [RecordEventsRequest]
    bounds = {bound for request in requests for bound in bounded_lists(TypeAdapter(request).json_schema())}
    assert sorted((bare(name), int(number(most))) for name, most in table(LIMITS, "list")) == sorted(bounds)


def test_the_answers_to_bodies_in_decision_7_are_given() -> None:
    rows = table((ROOT / "docs" / "decisions" / "0007-400-and-422.md").read_text(), "body")
    for body, answer, pointer in rows:
        with pytest.raises(JsonFault) as raised:
            read_object(bare(body).encode())
        fault = raised.value.fault
        assert (f"{400 if fault.malformed else 422}: {fault.detail}", fault.pointer) == (answer, bare(pointer)), body


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them from its headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not re.match(r"https?:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link
