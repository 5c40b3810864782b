"""What lists over a ledger's outlook have in common: where it stands, and the times that an answer is of."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from service.api.operations import Call
from service.log.ledger import instant
from service.log.outlook import Stand
from service.log.read import AsOf

STATUSES = (
    *("superseded", "cancelled", "terminated", "completed", "expired", "suspended", "delivering", "in_force", "signed"),
    *("denied", "negotiating", "reported", "unknown"),
)
"""Every status that a contract may have, in the order of which the first that applies is told. `unknown`: its opening is to come."""


def _known(text: str) -> str:
    if text not in STATUSES:
        raise PydanticCustomError("unknown_status", "a status is one of {statuses}", {"statuses": ", ".join(STATUSES)})
    return text


Status = Annotated[str, Field(max_length=60), AfterValidator(_known)]
LongCursor = Annotated[str, Field(min_length=1, max_length=600, description="A cursor from an earlier answer.")]


async def stand_and_times(call: Call) -> tuple[Stand, AsOf]:
    """The outlook of the ledger, caught up with the log, and the times that it is of. Its day is that of the rows, as in every list."""
    stand = await call.services.outlooks.follow(call.ledger)
    reader, ledger = call.services.reader, call.ledger
    position, recorded_at, today = await reader.head(ledger)
    turn = await reader.next_turn(ledger)
    if stand.position < position:
        recorded_at = await reader.recorded_at(ledger, stand.position)
    return stand, AsOf(
        effective_on=min(today, turn.fromordinal(turn.toordinal() - 1) if turn else today).isoformat(),
        known_position=stand.position,
        known_at=instant(recorded_at),
        time_zone=ledger.time_zone,
        final=False,
    )
