"""The statements that insert rows into the tables, many at once, and the rows as their parameters."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import dialect

_DIALECT = dialect()  # type: ignore[no-untyped-call]


def insert_rows(table: Table, *, upsert: bool = False) -> str:
    """SQL that inserts rows, all of one ledger (`ledger_id`), as `rows_of` gives them.

    They come as one JSON document, through jsonb_to_recordset, which costs the client a fifth of arrays of parameters; long columns beside
    it as an array each, since within the document they would be escaped, and read twice. Other columns of bytes are given as `\\x` and
    hex digits. Columns with a default that nothing gives are left out.
    """
    long = _long_columns(table)
    columns = [column for column in table.columns if column.name != "ledger_id"]
    types = {column.name: str(column.type.compile(dialect=_DIALECT)) for column in columns}
    names = [*(name for name in types if name not in long), *long]
    record = ", ".join(f"{name} {types[name]}" for name in names if name not in long)
    source = f"jsonb_to_recordset(%({table.name})s::jsonb) AS "
    if long:
        arrays = ", ".join(f"unnest(%({table.name}_{name})s::{types[name]}[])" for name in long)
        source = f"ROWS FROM ({source} ({record}), {arrays}) AS r({', '.join(names)})"
    else:
        source += f"r({record})"
    statement = (  # every part is a name of our own tables
        f"INSERT INTO {table.name} (ledger_id, {', '.join(names)}) "  # noqa: S608
        f"SELECT %(ledger_id)s::uuid, {', '.join(f'r.{name}' for name in names)} FROM {source}"
    )
    if upsert:
        key = [column.name for column in table.primary_key.columns]
        changes = ", ".join(f"{name} = excluded.{name}" for name in types if name not in key)
        statement += f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    return statement


def rows_of(table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[str, str | list[Any]]:
    """Rows as the parameters that `insert_rows` of the table takes, but for the ledger: by the table's name, and by table and column."""
    long = _long_columns(table)
    if not long:
        return {table.name: rows_json(rows)}
    short = [dict(row) for row in rows]
    parameters: dict[str, str | list[Any]] = {f"{table.name}_{name}": [row.pop(name) for row in short] for name in long}
    parameters[table.name] = rows_json(short)
    return parameters


@cache
def _long_columns(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.info.get("is_long"))


def rows_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as one JSON document."""
    return orjson.dumps(rows).decode()
