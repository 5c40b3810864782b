"""What a caller would have of what can be had, by the header Accept (RFC 9110, 12.5.1)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from fastapi import Request

_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class _Range(NamedTuple):
    media_type: str
    weight: float


def preferred(request: Request, *offered: str) -> str:
    """The media type of those offered that weighs most; of equals the one named first, then the one offered first, which is also the
    answer to who accepts none of them."""
    accepted = [_range(part) for part in ",".join(request.headers.getlist("accept")).split(",")]
    return max(offered, key=lambda media_type: _liking(media_type, accepted))


def _range(part: str) -> _Range:
    """A media range; its parameters but the weight distinguish nothing here. One whose weight cannot be read weighs as if it had none."""
    media_type, *parameters = (word.strip().lower() for word in part.split(";"))
    weights = [known[1] for known in map(_WEIGHT.fullmatch, parameters) if known]
    return _Range(media_type, float(weights[0]) if weights else 1.0)


def _liking(media_type: str, accepted: Sequence[_Range]) -> tuple[float, int]:
    """How much a media type weighs by the range that names it most closely, and how far to the front that stands."""
    for name in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        for place, one in enumerate(accepted):
            if one.media_type == name:
                return (one.weight, -place) if one.weight else (0.0, -len(accepted))
    return 0.0, -len(accepted)
