"""contract-ledger: an append-only, provable log of what happens in the life of supply contracts.

The house, dependencies pointing down:

    cli, app            the command, and the composition root of the HTTP service
    api                 HTTP: one module a resource
    audit               replay: verify and rebuild
    log                 header (canonical bytes), append (the one write path), read
    projections         current state of contracts, written in the appending transaction
    domain              pure: events with their rules and folds, values, days, times
    errors              every failure, once

`settings`, `database`, `embedded` and `access` stand beside them and are used by those that need them.
"""

__version__ = "0.1.0"
