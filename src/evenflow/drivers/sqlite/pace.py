"""When a SQLite file is worked on: waiting for its lock, commits on a slow disk, checkpoints."""
# ruff: noqa: PTH116
# plain paths: some of this stands beside every commit

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import apsw

from evenflow.drivers.sqlite.diagnosis import is_busy

T = TypeVar("T")

LOCK_LIMIT = 5.0
"""Seconds to wait for the write lock before whoever holds it is named."""


async def patiently(attempt: Callable[[], T], *, limit: float = LOCK_LIMIT) -> T:
    """Run the attempt until it is not busy any more, for `limit` seconds at most; then its busy error is raised.

    Waits with a growing, jittered pause, on the loop's own timers: a lock of another process is real time.
    """
    try:
        return attempt()
    except Exception as error:
        if not is_busy(error):
            raise
    deadline = time.monotonic() + limit
    pause = 0.0005
    while True:
        await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311  # jitter is no secret
        try:
            return attempt()
        except Exception as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        pause = min(pause * 1.5, 0.01)


class CommitPace:
    """Runs commits inline while they are quick, and in a thread while their moving average says that the disk is slow.

    `slow` seconds of average send them to the thread; under half of it they come back.
    """

    def __init__(self, *, slow: float = 0.002) -> None:
        self.average = 0.0
        self.threaded = False
        self._slow = slow
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, commit: Callable[[], T]) -> T:
        """Run it to its end, also when the waiting task is cancelled meanwhile."""
        if not self.threaded:
            return self.timed(commit)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "evenflow-commit")
        work = asyncio.get_running_loop().run_in_executor(self._thread, self.timed, commit)
        return await to_the_end(work)

    def timed(self, commit: Callable[[], T]) -> T:
        """Run it here and now, and learn from the time it took."""
        start = time.perf_counter()
        try:
            return commit()
        finally:
            self.learn(time.perf_counter() - start)

    def learn(self, seconds: float) -> None:
        """Move the average by one commit's time. One stall alone, however long, does not change the mode."""
        self.average += 0.1 * (min(seconds, 8 * self._slow) - self.average)
        self.threaded = self.average > (self._slow / 2 if self.threaded else self._slow)

    def close(self) -> None:
        """End the thread, if there was one."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for work that cannot be stopped; a cancellation meanwhile is raised when the work is over."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
        except Exception:
            break
    if cancelled is not None:
        future.exception()
        raise cancelled
    return future.result()


class Checkpointer:
    """Moves the -wal file's content into the database in a thread, so that no commit pays for it.

    `size()` tells the bytes in the -wal that may have to be moved; `run(mode)` checkpoints through a connection of
    its own. Over `passive` bytes a PASSIVE checkpoint, which disturbs nobody; over `restart` bytes also RESTART,
    which holds writers up for the last few pages, so that the file cannot grow for ever under constant load.
    """

    def __init__(
        self, run: Callable[[str], None], size: Callable[[], int], *, passive: int = 4 << 20, restart: int = 8 << 20
    ) -> None:
        self._run = run
        self._size = size
        self._step = passive
        self._restart = restart
        self._next = passive
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None
        self.trouble: Exception | None = None

    def consider(self) -> None:
        """Call it after commits. Starts a checkpoint when one is due and none is under way."""
        size = self._size()
        if size < self._next - self._step:
            self._next = self._step  # the file was begun anew
        if size < self._next or (self._work is not None and not self._work.done()):
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "evenflow-checkpoint")
        self._next = size + self._step
        self._work = self._thread.submit(self._checkpoint, size >= self._restart)

    def _checkpoint(self, restart: bool) -> None:
        try:
            self._run("PASSIVE")
            if restart:
                self._run("RESTART")
        except Exception as error:
            if not is_busy(error):  # whoever writes next meets the same trouble, and reports it
                self.trouble = error

    def close(self) -> None:
        """Wait for the one under way."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def apsw_checkpoint(path: str) -> Callable[[str], None]:
    """A `run` for `Checkpointer` through apsw. Opens its connection at the first call, in the calling thread.

    Call it with "close" when done.
    """
    connection: apsw.Connection | None = None
    modes = {"PASSIVE": apsw.SQLITE_CHECKPOINT_PASSIVE, "RESTART": apsw.SQLITE_CHECKPOINT_RESTART}

    def run(mode: str) -> None:
        nonlocal connection
        if mode == "close":
            if connection is not None:
                connection.close()
            return
        if connection is None:
            connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
            connection.pragma("synchronous", 2)
            connection.pragma("checkpoint_fullfsync", 1)
        connection.set_busy_timeout(0 if mode == "PASSIVE" else 500)
        connection.wal_checkpoint(mode=modes[mode])

    return run


class WalGauge:
    """A `size` for `Checkpointer` from SQLite itself: the bytes in use, as of this connection's last commit."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._page = int(connection.pragma("page_size")) + 24
        self._pages = 0
        connection.set_wal_hook(self._committed)

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return 0

    def __call__(self) -> int:
        return self._pages * self._page


def wal_size(path: str) -> Callable[[], int]:
    """A `size` for `Checkpointer` by the length of the -wal file: for drivers without a hook.

    The length never shrinks by itself; give such a connection a `journal_size_limit` below the checkpointer's step.
    """

    def size() -> int:
        try:
            return os.stat(path + "-wal").st_size
        except OSError:
            return 0

    return size
