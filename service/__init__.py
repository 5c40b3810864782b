"""contract-ledger: an append-only, provable log of what happens in the life of supply contracts.

The house, dependencies pointing down:

    cli, app            the command, and the composition root of the HTTP service
    api                 HTTP: one module a resource
    audit               replay: verify, rebuild, the book of a past time; bundles, and verify.py, which verifies them by itself
    log                 header (canonical bytes), append (the one write path), read, imports, the turn of the day; tree and proofs;
                        signing: checkpoints, what is kept outside the database, epochs, witnesses
    projections         current state of contracts, written in the appending transaction; what is told over all of them
    exchange            contracts in the formats of others, told and read
    domain              pure: events with their rules and folds, values, days, times
    errors              every failure, once

`settings`, `database`, `tables`, `inserts`, `background`, `migration`, `embedded`, `access`, `remembered`, `telemetry` and
`reference_rates` stand beside them and are used by those that need them.

An event is judged in `log.decision` and written in `log.append`; an event type is a class in a subject module of `domain`.
"""

__version__ = "0.1.0"
