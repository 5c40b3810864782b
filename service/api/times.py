"""The times of a question: what the ledger knew, what its sources had published, the day it is about."""

from typing import Annotated

from pydantic import BaseModel, Field

from service.api.operations import WHOLE, Day, Instant, QueryModel
from service.errors import MemberFault, Refused
from service.log.read import Times

Position = Annotated[int, Field(ge=1, le=2**53), WHOLE]
Revision = Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE]


class TimesQuery(QueryModel):
    effective_on: Annotated[Day | None, Field(description="The day the contract is told for; today in the ledger's zone if not said.")] = (
        None
    )
    known_position: Annotated[Position | None, Field(description="As the ledger knew it at this position.")] = None
    known_at: Annotated[Instant | None, Field(description="As the ledger knew it at this instant.")] = None
    published_by: Annotated[Day | None, Field(description="Of what its sources had published by the end of this day.")] = None
    revision: Annotated[Revision | None, Field(description="As known when this was the contract's last revision.")] = None


_KNOWN = ("known_position", "known_at", "revision")


def times_of(query: BaseModel, prefix: str = "") -> Times:
    """The times among query parameters that begin with the prefix. Refused where two of them say what was known."""
    known = [prefix + name for name in _KNOWN if getattr(query, prefix + name) is not None]
    if len(known) > 1:
        raise Refused(
            f"{' and '.join(known)} exclude one another.",
            tuple(MemberFault(f"query:{name}", "only one of these") for name in known),
        )
    return Times(prefix=prefix, **{name: getattr(query, prefix + name) for name in TimesQuery.model_fields})
