"""Noticing that another process has committed, at next to no cost while nothing happens.

On Linux the kernel tells when the -wal file is written (inotify), which is just before a commit can be seen; then we
look often for a moment. Without that we look every 10 ms, which costs one to two per cent of a core on some machines.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress

_IN_MODIFY = 0x2
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC if sys.platform == "linux" else 0
_FIRST = 0.001
_ALERT = 2.0
_CALM = 1.0
"""Seconds between looks while no event comes: only to notice that the system tells of none."""


class FileEvents:
    """A descriptor that is readable after a file was written. Opens no file of SQLite's. Raises `OSError`."""

    def __init__(self, path: str) -> None:
        if sys.platform != "linux":
            raise OSError("no inotify here")
        library = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = library.inotify_init1(_IN_NONBLOCK_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if library.inotify_add_watch(self.descriptor, os.fsencode(path), _IN_MODIFY) < 0:
            self.close()
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)

    def drain(self) -> None:
        """Forget what has happened so far."""
        with suppress(BlockingIOError):
            os.read(self.descriptor, 65536)

    def close(self) -> None:
        os.close(self.descriptor)


class ChangeWatch:
    """Calls `look` soon after others have committed, while at least one waiter has entered: `with watch: ...`.

    `path` is the database's: with it the kernel's events are used where there are any. `look` may answer whether
    there was a change: if one is found that no event has told of, the events are given up.
    """

    def __init__(self, look: Callable[[], object], *, path: str | None = None, interval: float = 0.01) -> None:
        self._look = look
        self._path = path
        self._interval = interval
        self._waiters = 0
        self._timer: asyncio.TimerHandle | None = None
        self._events: FileEvents | None = None
        self._listening: asyncio.AbstractEventLoop | None = None
        self._pause = interval
        self._told = 0.0  # when the last event came, by the loop's time

    def __enter__(self) -> None:
        self._waiters += 1
        if self._waiters == 1:
            self._listen()
        if self._timer is None:
            self._again()

    def __exit__(self, *_: object) -> None:
        self._waiters -= 1

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deafen()
        if self._events is not None:
            self._events.close()
            self._events = None
        self._waiters = 0

    def _listen(self) -> None:
        """Have the events wake the loop. What was written since the last time wakes it at once."""
        loop = asyncio.get_running_loop()
        if self._path is None or self._listening is loop:
            return
        try:
            self._events = self._events or FileEvents(self._path + "-wal")
            loop.add_reader(self._events.descriptor, self._written)
        except (OSError, NotImplementedError, AttributeError):
            self._path = None  # not here: look at the interval
            return
        self._listening = loop

    def _deafen(self) -> None:
        if self._listening is not None and self._events is not None:
            self._listening.remove_reader(self._events.descriptor)
        self._listening = None

    def _written(self) -> None:
        if not self._waiters:
            self._deafen()  # the next waiter listens again
            return
        assert self._events is not None
        self._events.drain()
        self._told = asyncio.get_running_loop().time()
        self._pause = _FIRST
        if self._timer is not None:
            self._timer.cancel()
        self._look()
        self._again()

    def _again(self) -> None:
        pause = self._pause if self._listening is not None else self._interval
        self._timer = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._waiters:
            return
        quiet = asyncio.get_running_loop().time() - self._told > _ALERT
        self._pause = _CALM if quiet else min(self._pause * 2, self._interval)
        self._again()
        if self._look() and quiet and self._listening is not None:
            self._deafen()
            self._path = None
