"""The `contract-ledger` command.

`commands` and `groups` are what can be typed, with `options` in common. Behind them stand `server`, `deployment` and `welcome` (serve),
`admin` (keys, ledgers, clocks, heads), and `client`, `case`, `demo`, `story`, `ocds`, `prose` and `report` (what speaks HTTP to a running
service,
and what is told to a person).
"""

from service.cli.commands import app, main

__all__ = ["app", "main"]
