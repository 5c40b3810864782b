"""The server's processes: how they are ended, and what a killed service has left of them."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

STOP_SECONDS = 60
KILL_SECONDS = 10


def stop_leftovers(cluster: Path) -> None:
    """End what a killed service left running on this cluster: a postmaster, or the children of a dead one."""

    def send(number: int) -> None:
        for process in _processes_on(cluster):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def ended(seconds: float) -> bool:
        # Looked up each time: a postmaster has more children by now, and a container may never reap the dead.
        deadline = time.monotonic() + seconds
        while _processes_on(cluster):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    if not ended(0):
        shut_down(send, ended)


def _processes_on(cluster: Path) -> list[psutil.Process]:
    # Every process of a server has the cluster as its working folder. The number in postmaster.pid proves
    # nothing: after a restart of the machine or the container it may be anybody's.
    return [process for process in psutil.process_iter() if _runs_on(process, cluster)]


def _runs_on(process: psutil.Process, cluster: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == cluster
    except psutil.Error:
        return False


def forget_stale_pid(file: Path) -> None:
    """PostgreSQL will not start while any process bears the number of its dead predecessor: another's by now, or that of the dead itself
    where nobody reaps it."""
    with suppress(FileNotFoundError, ValueError):
        if psutil.pid_exists(int(file.read_text().partition("\n")[0])):
            file.unlink()


def shut_down(send: Callable[[int], None], ended: Callable[[float], bool]) -> None:
    # PostgreSQL's fast and immediate shutdowns, then the kernel's.
    steps = ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, KILL_SECONDS), (signal.SIGKILL, KILL_SECONDS))
    for number, seconds in steps:
        send(number)
        if ended(seconds):
            return


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None
