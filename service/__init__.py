"""contract-ledger: an append-only, provable log of what happens in the life of supply contracts.

The house, dependencies pointing down:

    cli, app            the command, and the composition root of the HTTP service
    api                 HTTP: one module a resource
    audit               replay: verify and rebuild
    log                 header (canonical bytes), append (the one write path), read
    projections         current state of contracts, written in the appending transaction
    domain              pure: events with their rules and folds, values, days, times
    errors              every failure, once

`settings`, `database`, `migration`, `embedded`, `access`, `remembered` and `telemetry` stand beside them and are used by those that
need them. The command's parts are `server`, `deployment` and `welcome` (serve), `admin` (keys, ledgers, clocks, heads), and `client`,
`case`, `demo`, `story`, `prose` and `report` (what speaks HTTP, and what is told to a person).

An event is written in `log.append`; an event type is a class in a subject module of `domain`.
"""

__version__ = "0.1.0"
