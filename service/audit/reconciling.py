"""The task of the service that keeps a reconciliation going, in one process for the whole deployment, and knows of its alarms."""

import asyncio
import contextlib
import subprocess

import psycopg
import structlog

from service.audit.reconcile import LOCK, STANDING
from service.audit.replaying import end_worker, start_worker
from service.background import Background
from service.database import Database
from service.errors import LedgerError

FIRST_SECONDS = 60
"""What is only just started has other things to do."""
LOOK_SECONDS = 30

_IS_DONE = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %(first)s AND objid = %(second)s AND objsubid = 2
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_log = structlog.get_logger()


class Reconciling:
    """Looks from time to time whether some process reconciles, and starts one if not."""

    def __init__(self, database: Database, url: str, contracts_per_minute: int) -> None:
        self._database = database
        self._url = url
        self._contracts_per_minute = contracts_per_minute
        self._process: subprocess.Popen[bytes] | None = None
        self._alarms = 0
        self._background = Background("the task of the reconciliation", self._run, LOOK_SECONDS)

    def alarms(self) -> int:
        """How many ledgers had a difference at the last look, which nothing had put right."""
        return self._alarms

    async def close(self) -> None:
        await self._background.close()
        if self._process is not None:
            await end_worker(self._process)

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            with contextlib.suppress(psycopg.Error, LedgerError, OSError):  # it is tried again
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        self._alarms = int((await self._database.rows(STANDING, planned_anew=True))[0][0])
        if self._process is not None and self._process.poll() is not None:
            await end_worker(self._process)
            self._process = None
        if self._process is not None or not self._contracts_per_minute:
            return
        if not (await self._database.rows(_IS_DONE, {"first": LOCK[0], "second": LOCK[1]}))[0][0]:
            self._process = start_worker(self._url, "reconcile", str(self._contracts_per_minute))
