"""Verify, beside what is kept outside the database: a database that was restored from an older copy is sound in itself.

What this deployment signed is in the kept checkpoints, what it committed in the kept heads; neither is restored with the database.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.audit.book import Connection, Difference, open_connection
from service.audit.replay import Verdict
from service.errors import OperatorError, StoreUnusable
from service.log.guard import THERE, fork
from service.log.heads import Head, read_heads
from service.log.kept import open_store

_LEDGER = "SELECT l.ledger_id::text, (SELECT d.name FROM deployment d) FROM ledgers l WHERE l.name = %s"
_EVENT = "SELECT encode(e.event_hash, 'hex') FROM events e WHERE e.ledger_id = %s::uuid AND e.position = %s"


@dataclass(frozen=True, slots=True)
class Outside:
    """Where checkpoints and heads are kept, as far as it is known here."""

    checkpoint_store: str | None = None
    heads: Path | None = None

    def verify(self, verify: Callable[..., Verdict], url: str, ledger: str, *given: Any, **named: Any) -> Verdict:
        """What a verify comes to, held against what is kept where the database alone shows no difference."""
        verdict = verify(url, ledger, *given, **named)
        if verdict.difference is not None:
            return verdict
        with open_connection(url) as connection:
            return replace(verdict, difference=self.difference(connection, url, ledger))

    def difference(self, connection: Connection, url: str, ledger: str) -> Difference | None:
        """What the database lacks of a ledger, or has otherwise. OperatorError when what is kept cannot be read."""
        ledger_id, deployment = connection.execute(_LEDGER, [ledger]).fetchone() or (None, None)
        found = None
        if self.checkpoint_store is not None and deployment is not None:
            found = _signed(connection, ledger_id, deployment, self.checkpoint_store, url)
        return found or (_committed(connection, ledger_id, self.heads) if self.heads is not None else None)


def _signed(connection: Connection, ledger_id: str, deployment: str, where: str, url: str) -> Difference | None:
    try:
        kept = open_store(where, deployment, url).read(ledger_id)
    except StoreUnusable as error:
        raise OperatorError(error.detail) from error
    if kept is None:
        return None
    there = connection.execute(THERE, [json.dumps([{"ledger_id": ledger_id, "size": kept.size}])]).fetchone()
    why = fork(deployment, kept, there) if there else None
    return Difference(f"checkpoint {kept.size}, as it is kept", f"the database is not the one that was signed for: {why}") if why else None


def _committed(connection: Connection, ledger_id: str, folder: Path) -> Difference | None:
    head = read_heads(folder).get(ledger_id)
    if head is None or connection.execute(_EVENT, [ledger_id, head.position]).fetchone() == (head.event_hash,):
        return None
    return _lost(head)


def _lost(head: Head) -> Difference:
    return Difference(
        f"position {head.position}", "the event that was committed there, as it is kept, is not in the database: it is an older copy"
    )
