"""The processes that share a walk: pieces of it go out in order, and what each came to comes back in order.

While they work nothing is collected: a piece makes no cycles, and the collector would go through all of its rows again and again.
"""

import gc
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Self, TypeVar

from service.audit.book import Book, Connection, open_connection

SMALL_LEDGER = 50_000
"""Below this many events one process is quicker than starting several."""
MAX_PROCESSES = 4
AHEAD = 2
"""Pieces a process that are begun before their turn, where what they come to is large."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Crew:
    """Processes for one walk, each with a connection of its own; for a small ledger the process itself. They end with the block."""

    def __init__(self, url: str, events: int, processes: int = 0) -> None:
        """`processes` 0 means one for each core, up to MAX_PROCESSES."""
        self._url = url
        self.size = processes or min(os.cpu_count() or 1, MAX_PROCESSES)
        if events <= SMALL_LEDGER:
            self.size = 1
        self._pool: ProcessPoolExecutor | None = None
        self._own: Connection | None = None
        self._collects = False

    def __enter__(self) -> Self:
        if self.size == 1:
            self._own = open_connection(self._url)
            self._collects = gc.isenabled()
            gc.disable()
            return self
        # A forked process is there at once; one that is spawned imports everything anew, but forking is safe on Linux only, and before
        # there is a connection that the fork would share: so all are started now.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._pool = ProcessPoolExecutor(self.size, mp_context=context, initializer=_start_process, initargs=(self._url,))
        self._pool.submit(os.getpid).result()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._own is not None:
            self._own.close()
            if self._collects:
                gc.enable()

    def submit(self, work: Callable[..., Result], *given: Any) -> "Future[Result]":
        """What `work` comes to, given a connection of the crew and then what is given here."""
        if self._pool is not None:
            return self._pool.submit(_on_own_connection, work, given)
        assert self._own is not None
        done: Future[Result] = Future()
        done.set_result(work(self._own, *given))
        return done

    def in_order(self, work: Callable[[Connection, Book, Piece], Result], book: Book, pieces: Sequence[Piece]) -> Iterator[Result]:
        """What `work` comes to for each piece, in their order; only a few are done before their turn, so that what waits is bounded."""
        begun: deque[Future[Result]] = deque()
        ahead = AHEAD * self.size if self._pool is not None else 1
        for piece in pieces:
            begun.append(self.submit(work, book, piece))
            if len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


_connection: Connection | None = None


def _start_process(url: str) -> None:
    global _connection  # noqa: PLW0603 - a process of the pool keeps its connection
    gc.disable()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), name="end-with-parent", daemon=True).start()
    _connection = open_connection(url)


def _end_with(parent: Any) -> None:
    """Whoever waits for work from a process that was killed would wait for ever."""
    parent.join()
    os._exit(1)


def _on_own_connection(work: Callable[..., Result], given: Sequence[Any]) -> Result:
    assert _connection is not None
    return work(_connection, *given)
