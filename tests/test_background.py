"""A task beside the requests is begun again when it dies, and says so; and ends when it is told to."""

import asyncio

import structlog

from service.background import Background


class Dying:
    """Dies as often as it is told to, and then goes on."""

    def __init__(self, deaths: int) -> None:
        self.begun = 0
        self.deaths = deaths
        self.died, self.goes_on = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        self.begun += 1
        if self.begun <= self.deaths:
            self.died.set()
            raise RuntimeError("no more")
        self.goes_on.set()
        await asyncio.Event().wait()


async def test_a_task_that_dies_is_begun_again_and_said_to_have_died() -> None:
    dying = Dying(deaths=3)
    with structlog.testing.capture_logs() as said:
        task = Background("the task of a test", dying.run, 0.01)
        async with asyncio.timeout(10):
            await dying.goes_on.wait()
        assert task.has_died
        task.is_well()
        assert not task.has_died
        await task.close()
    assert [(entry["log_level"], entry["event"]) for entry in said] == [("critical", "the task of a test died and is begun again")] * 3
    assert all(isinstance(entry["exc_info"], RuntimeError) for entry in said)
    assert dying.begun == 4


async def test_a_task_that_is_closed_between_two_lives_is_not_begun_again() -> None:
    dying = Dying(deaths=1)
    task = Background("the task of a test", dying.run, 0.05)
    await dying.died.wait()
    await asyncio.sleep(0.01)
    assert task.has_died
    await task.close()
    await asyncio.sleep(0.1)
    assert dying.begun == 1
