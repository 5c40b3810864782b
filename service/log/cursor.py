"""Cursors: a reader's place in the log, which says too in which history it is."""

import base64
import binascii
import re

from service.errors import Malformed, MemberFault


def cursor_at(epoch: int, position: int, event_hash: str) -> str:
    """A reader's place in the log: the epoch, the position, and the first bytes of that event's hash."""
    return base64.urlsafe_b64encode(f"{epoch}.{position}.{event_hash[:16]}".encode()).decode().rstrip("=")


def parse_cursor(cursor: str, pointer: str = "query:after") -> tuple[int, int, str]:
    """The epoch, position and hash prefix of a cursor. Malformed for any other text; `pointer` says where it stood."""
    try:
        epoch, position, prefix = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(".")
        place = int(epoch), int(position), prefix
    except (ValueError, binascii.Error):
        place = 0, 0, ""
    # Of the ways to spell a number, and bytes in base64, only ours: a cursor can be compared as a text.
    if not re.fullmatch("[0-9a-f]{16}", place[2]) or not 0 <= place[1] < 2**53 or cursor_at(*place) != cursor:
        raise Malformed(f"{pointer}: not a cursor that this service gave.", (MemberFault(pointer, "not a cursor"),))
    return place
