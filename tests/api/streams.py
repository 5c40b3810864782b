"""A client of server-sent events, which reads as the HTML standard says (section 9.2.6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson


@dataclass(slots=True)
class Frame:
    """What stood between two blank lines: a comment, an id, the name of the event, its data."""

    comment: str = ""
    cursor: str = ""
    name: str = "message"
    data: str = ""
    retry: str = ""

    @property
    def event(self) -> dict[str, Any]:
        told: dict[str, Any] = orjson.loads(self.data)
        return told


def frames(answer: httpx.Response) -> Iterator[Frame]:
    """The frames of a stream, as they come; one that is cut off is none."""
    frame = Frame()
    for line in answer.iter_lines():
        if not line:
            yield frame
            frame = Frame()
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                frame.comment = value
            case "id":
                frame.cursor = value
            case "event":
                frame.name = value
            case "data":
                frame.data += value
            case "retry":
                frame.retry = value


def until_head(answer: httpx.Response) -> list[Frame]:
    """The frames of a stream until it says that there is nothing more so far."""
    read = []
    for frame in frames(answer):
        read.append(frame)
        if frame.comment or frame.name == "problem":
            return read
    return read
