"""Processes for handlers with `cpu=True`. They end with the process that they work for, however that ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any

from evenflow.drive import ends_us


class CpuPool:
    """As many processes as there are cores, started as they are needed.

    A call that is given up leaves its process behind at work. Then all begin anew in others, and these are ended when
    nobody waits for them any more: so an event that never ends holds up no other, nor the end of our own process.
    """

    def __init__(self) -> None:
        self._many: _Processes | None = None
        self._single: _Processes | None = None
        self._alone = asyncio.Lock()

    async def run(self, function: Callable[[Any], Any], event: Any) -> Any:
        """What the function returns in one of them. Raises `BrokenExecutor` when that ends its process.

        All that run beside one that does so are called once more, each alone, so that it is known which one it is.
        """
        while True:
            if self._many is None:
                self._many = _Processes()
            processes = self._many
            try:
                return await self._call(processes, function, event)
            except BrokenExecutor:
                self._leave(processes)
                break
            except asyncio.CancelledError as error:
                if ends_us(error):
                    raise  # otherwise the others were left before it was begun
        async with self._alone:
            if self._single is None:
                self._single = _Processes(1)
            single = self._single
            try:
                return await self._call(single, function, event)
            except BrokenExecutor:
                self._leave(single)
                raise

    async def _call(self, processes: _Processes, function: Callable[[Any], Any], event: Any) -> Any:
        processes.calls += 1
        try:
            future = processes.executor.submit(function, event)
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError as error:
                if ends_us(error) and not future.cancel() and not future.done():
                    self._leave(processes)
                raise
        finally:
            processes.calls -= 1
            processes.rest()

    def close(self) -> None:
        """Begin nothing more; what is begun ends by itself, or is ended when nobody waits for it."""
        for processes in (self._many, self._single):
            if processes is not None:
                self._leave(processes)

    def _leave(self, processes: _Processes) -> None:
        if self._many is processes:
            self._many = None
        if self._single is processes:
            self._single = None
        processes.left = True
        processes.executor.shutdown(wait=False, cancel_futures=True)
        processes.rest()


class _Processes(SpawnContext):
    """The processes of one executor. Spawned: a forked process would share our open SQLite files."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.calls = 0
        self.left = False
        self._made: list[BaseProcess] = []
        self.executor = ProcessPoolExecutor(most, mp_context=self, initializer=_begin)

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        made = SpawnProcess(*args, **kwargs)
        self._made.append(made)
        return made

    def rest(self) -> None:
        """End those that were left, when nobody waits for them any more."""
        if self.left and not self.calls:
            for process in self._made:
                process.kill()
            self._made.clear()


def _begin() -> None:
    """Leave Ctrl-C to the parent, which ends us when it is done; and do not outlive it.

    The processes of a parent that was killed would wait for work for ever: each holds the end of the queue that another
    one waits at.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
