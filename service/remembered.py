"""What is looked up for every request and seldom changes: asked once for everyone who waits, and remembered for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
MOST_REMEMBERED = 10_000


class Remembered(Generic[Key, Value]):
    """Values by key. `look_up` gives a value and for how many seconds it holds; what it raises is not remembered."""

    def __init__(self, look_up: Callable[[Key], Awaitable[tuple[Value, float]]]) -> None:
        self._look_up = look_up
        self._known: dict[Key, tuple[float, Value]] = {}
        self._asked: dict[Key, asyncio.Task[Value]] = {}

    async def get(self, key: Key) -> Value:
        """The value, looked up if it is not known or holds no longer."""
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.create_task(self._ask(key))
        # Shielded: one who waits may go away without taking the answer from the others.
        return await asyncio.shield(asked)

    async def _ask(self, key: Key) -> Value:
        try:
            self._known.pop(key, None)
            value, seconds = await self._look_up(key)
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = (time.monotonic() + seconds, value)
            return value
        finally:
            del self._asked[key]
