"""Requests that wait for what comes: they end when the caller goes away, loses the right, or the service stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.types import Receive

from service.api.connection import CONNECTION, Connection
from service.api.operations import Call
from service.errors import HistoryForked, MemberFault


@asynccontextmanager
async def until_over(request: Request) -> AsyncIterator["asyncio.Future[None]"]:
    """For the time of the block, a future that is done once nobody waits for the answer any more, or the service stops."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    gone = asyncio.create_task(_gone(request.receive))
    gone.add_done_callback(lambda _: end())
    connection: Connection | None = request.scope.get(CONNECTION)
    if connection is not None:
        connection.on_drain = end
        if connection.is_draining:
            end()
    try:
        yield over
    finally:
        if connection is not None:
            connection.on_drain = None
        gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def check_still_allowed(call: Call) -> None:
    """Look again whether the caller may what it may have been asking for a while. Unauthorized or Forbidden if not; HistoryForked when
    the ledger has begun another epoch meanwhile."""
    call.principal = await call.services.keyring.known(call.request.headers.get("authorization"))
    call.principal.require("contracts:read", call.ledger.ledger_id)
    _, epoch = await call.services.ledgers.find(call.ledger.name)
    if epoch != call.epoch:
        raise HistoryForked(
            f"Ledger {call.ledger.name} has begun epoch {epoch} since it was restored from an older copy. "
            "Read again from the start, or from a position known to be shared.",
            (MemberFault("query:after", "a cursor of another history"),),
        )
