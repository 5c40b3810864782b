"""Server-sent events: the lines of a stream, as the HTML standard has them (section 9.2)."""

from collections.abc import Sequence

import msgspec

from service.feed.shown import event_answer
from service.log.stored import StoredEvent

PIECE_BYTES = 65_536
"""How much a stream sends at once, but for one event that is larger."""
RETRY_MILLISECONDS = 1_000
"""After which a client whose stream has ended is to ask again."""


def frames(events: Sequence[StoredEvent], epoch: int) -> tuple[bytes, int]:
    """The first of some events as frames, as many as go in one piece but at least one; and how many those are."""
    made: list[bytes] = []
    size = 0
    for stored in events:
        answer = event_answer(stored, epoch)
        frame = b"id: %s\ndata: %s\n\n" % (answer.cursor.encode(), msgspec.json.encode(answer))
        if made and size + len(frame) > PIECE_BYTES:
            break
        made.append(frame)
        size += len(frame)
    return b"".join(made), len(made)


def opening() -> bytes:
    """The first frame, which no client takes for an event."""
    return b"retry: %d\n\n" % RETRY_MILLISECONDS


def heartbeat(cursor: str) -> bytes:
    """A frame that shows that the stream lives, and moves the client's place on past what its filter leaves out."""
    return b": nothing more so far\nid: %s\n\n" % cursor.encode()


def ending(problem: bytes) -> bytes:
    """The last frame of a stream that ends by a problem, an event of that name."""
    return b"event: problem\ndata: %s\n\n" % problem
