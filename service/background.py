"""What the service does beside its requests, for as long as it runs: a task that is begun again when it dies."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

_log = structlog.get_logger()


class Background:
    """A task that should never end. When it does, that is said in the log as critical, and it is begun again after a while."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], again_seconds: float) -> None:
        """Begin to run. `name` is what the log calls it, `again_seconds` how long after its death it is begun again."""
        self._name = name
        self._run = run
        self._again_seconds = again_seconds
        self._again: asyncio.TimerHandle | None = None
        self.has_died = False
        """Whether it died, and has not said since that it is well."""
        self._begin()

    def is_well(self) -> None:
        """To be called by what runs, when it has come round."""
        self.has_died = False

    async def close(self) -> None:
        """End it for good; returns when it has ended."""
        self._task.remove_done_callback(self._ended)
        if self._again:
            self._again.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Future[None]") -> None:
        self.has_died = True
        _log.critical(f"{self._name} died and is begun again", exc_info=None if task.cancelled() else task.exception())
        self._again = asyncio.get_running_loop().call_later(self._again_seconds, self._begin)
