"""The service without its Merkle tree: what the tree costs an append is measured beside it. Its ledger can't be appended to afterwards."""

from fastapi import FastAPI

import service.app
from service.log.decide import Batch
from service.log.tree import Extension


def create_app() -> FastAPI:
    """The service, whose batches neither hash leaves into a frontier nor write tiles."""
    Batch.tree = property(lambda batch: Extension(b"", batch.position, []))  # type: ignore[assignment,method-assign]
    return service.app.create_app()
