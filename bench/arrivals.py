"""Events that arrive by themselves: at random moments (Poisson), whether the last one is done or not."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from bench.measuring import Watch, measured, percentile
from bench.processes import Record, said

AT_MOST = 100
"""Publishes under way at once."""


def arrive(
    folder: str,
    opened: AbstractAsyncContextManager[Any],
    publish: Callable[[float], Awaitable[None]],
    events: int,
    per_second: float,
    seed: int,
) -> Record:
    """Call `publish(due)` at each moment, once the other process is ready.

    The event loop waits by `select`, whose timers are exact to microseconds; epoll's are to milliseconds. Time begins
    when an event is due, so a publisher that is late is seen.
    """
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_arrive(folder, opened, publish, _moments(events, per_second, seed)))


def _moments(events: int, per_second: float, seed: int) -> list[float]:
    """When each is due, counted from the start. With `per_second` 0 all are due at once."""
    if per_second <= 0:
        return [0.0] * events
    chance, moment, found = random.Random(seed), 0.0, []
    for _ in range(events):
        moment += chance.expovariate(per_second)
        found.append(moment)
    return found


async def _arrive(folder: str, opened: Any, publish: Any, moments: list[float]) -> Record:
    room = asyncio.Semaphore(AT_MOST)
    tasks: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        try:
            await publish(due)
        finally:
            room.release()

    async with opened:
        while said(folder, "ready") is None:
            await asyncio.sleep(0.01)
        watch, start = Watch(), time.monotonic() + 0.05
        for moment in moments:
            pause = start + moment - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            await room.acquire()
            task = asyncio.create_task(one(start + moment))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return measured(len(moments), watch)


def latencies(took: Sequence[float]) -> Record:
    """Seconds as milliseconds, by percentile."""
    return {
        "p50_ms": percentile(took, 50) * 1000,
        "p99_ms": percentile(took, 99) * 1000,
        "p99_9_ms": percentile(took, 99.9) * 1000,
        "most_ms": max(took) * 1000,
    }
