"""Pages of lists: what every list may be asked, cursors that belong to one list of one history, counts, and the link to the next page."""

import base64
import binascii
import hashlib
import re
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import Request
from pydantic import Field

from service.api.operations import Cursor, Limit, QueryModel
from service.errors import HistoryForked, Malformed, MemberFault

MAX_COUNT = 10_000
MAX_IDS = 100
_TAG_LENGTH = 12


class PageQuery(QueryModel):
    after: Cursor | None = None
    limit: Limit = 50
    count: Annotated[
        Literal["exact"] | None,
        Field(description=f"Answer `count` too: how many items the whole list has, counted up to {MAX_COUNT:,}."),
    ] = None


def cursor_in(listed: str, place: str) -> str:
    """A reader's place in a list. `listed` names the list: what it is of, and for one in a ledger the ledger_id and its epoch."""
    return base64.urlsafe_b64encode(f"{_tag(listed)}.{place}".encode()).decode().rstrip("=")


def place_in(listed: str, after: str, spelling: str) -> str:
    """The place of a cursor, spelt so. Malformed for what is no cursor, HistoryForked for one of another list, ledger or epoch."""
    try:
        text = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    tag, _, place = text.partition(".")
    if not re.fullmatch(f"[0-9a-f]{{{_TAG_LENGTH}}}", tag):
        raise not_a_cursor()
    if tag != _tag(listed):
        raise HistoryForked(
            "query:after: the cursor is of another list, of another ledger, or of this one before it was restored from an older copy. "
            "Read again from the start.",
            (MemberFault("query:after", "a cursor of another list"),),
        )
    if not re.fullmatch(spelling, place):
        raise not_a_cursor()
    return place


def counted(found: int | None) -> tuple[int | None, bool | None]:
    """How many items a list has, and whether that is exact, if it was asked for: counts end one above what is told."""
    return (None, None) if found is None else (min(found, MAX_COUNT), found <= MAX_COUNT)


def page_headers(request: Request, more: str | None) -> dict[str, str]:
    """The headers of a page: a link to the next one, if there is more."""
    if more is None:
        return {}
    params = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
    return {"Link": f'<{request.scope["path"]}?{urlencode([*params, ("after", more)])}>; rel="next"'}


def _tag(listed: str) -> str:
    return hashlib.sha256(listed.encode()).hexdigest()[:_TAG_LENGTH]


def not_a_cursor() -> Malformed:
    """The refusal of a cursor that this service did not give."""
    return Malformed("query:after: not a cursor that this list gave.", (MemberFault("query:after", "not a cursor"),))
