"""The outlook, held against the rows it is made from: each contribution, and the sums, deadlines and parties that all of them make."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from service.audit.book import Book, Connection, Difference
from service.projections.outlook import AMOUNTS, DIMENSIONS, Changes, outlook_of

_ROWS: Final = 2_000
_HEAD = "SELECT position, filled_to FROM outlook_heads WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s"
# Of a contract with events after the head the contribution is still to come.
_CONTRIBUTIONS = """
SELECT o.contract_id::text, o.outlook, c.state, c.position <= %(position)s FROM outlooks o
LEFT JOIN contracts c ON c.ledger_id = o.ledger_id AND c.generation = o.generation AND c.contract_id = o.contract_id
WHERE o.ledger_id = %(ledger_id)s::uuid AND o.generation = %(generation)s
"""
_OF_LEDGER = "WHERE ledger_id = %(ledger_id)s::uuid AND generation = %(generation)s"
_SUMS = f"SELECT {', '.join((*DIMENSIONS, *AMOUNTS, 'lines'))} FROM commitments {_OF_LEDGER}"  # noqa: S608
_PARTIES = f"SELECT party_id, form, contracts FROM parties {_OF_LEDGER}"  # noqa: S608
_DEADLINES = f"SELECT contract_id::text, number, counts_on::text, kind, deadline FROM deadlines {_OF_LEDGER}"  # noqa: S608


def check_outlook(connection: Connection, book: Book) -> Difference | None:
    """What in the outlook of a ledger is not made from its rows, in one snapshot; None also while it has no whole outlook."""
    at = {"ledger_id": book.ledger.ledger_id, "generation": book.generation}
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        head = connection.execute(_HEAD, at).fetchone()
        if head is None or head[1] is not None:
            return None
        return next(_differences(connection, at | {"position": head[0]}), None)


def _differences(connection: Connection, at: dict[str, Any]) -> Iterator[Difference]:
    made = Changes(at["generation"])
    with connection.cursor("contributions") as cursor:
        cursor.itersize = _ROWS
        for contract_id, outlook, state, is_followed in cursor.execute(_CONTRIBUTIONS, at):
            if state is None or (is_followed and outlook_of(state) != outlook):
                yield Difference(f"contract {contract_id}", "its part of the outlook is not that of its row")
            made.replace(contract_id, None, outlook)
            made.outlooks.clear()
    sums = {tuple(row[name] for name in DIMENSIONS): [*(Decimal(row[name]) for name in AMOUNTS), row["lines"]] for row in made.commitments}
    stored = {row[: len(DIMENSIONS)]: [*row[len(DIMENSIONS) :]] for row in connection.execute(_SUMS, at)}
    if sums != stored:
        yield Difference("commitments", "their sums are not those of the contracts")
    if {(row["party_id"], row["form"], row["contracts"]) for row in made.parties} != {*connection.execute(_PARTIES, at)}:
        yield Difference("parties", "they are not those of the contracts")
    members = ("contract_id", "number", "counts_on", "kind", "deadline")
    if {tuple(row[name] for name in members) for row in made.deadlines} != {*connection.execute(_DEADLINES, at)}:
        yield Difference("deadlines", "they are not those of the contracts")
