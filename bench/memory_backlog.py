"""memory-backlog: what a consumer has in memory while millions of events wait, and whether that grows as it handles."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

from bench.measuring import Watch, folder, measured, memory, run
from bench.workload import Shape, Shop, settings

GOAL = 120.0
WAITING = 500_000
FULL = 5_000_000


async def handles(folder: str, events: int) -> dict[str, Any]:
    """Handle all of it, and note the memory of this process twenty times on the way."""
    shop = Shop(Shape())
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        watch, noted, step = Watch(), [], events // 20
        while loop.counters.handled < events:
            if loop.counters.handled >= step * len(noted):
                noted.append(round(memory()[0], 1))
            await asyncio.sleep(0.005)
        return measured(loop.counters.handled, watch, noted=noted, highest=memory()[1])


def waiting(*, full: bool) -> dict[str, Any]:
    events = FULL if full else WAITING
    with folder() as place:
        built = run("consume:backlog", folder=place, events=events, shape=vars(Shape()))
        handled = run("memory_backlog:handles", folder=place, events=events)
    noted = handled["noted"][1:]
    third = max(1, len(noted) // 3)
    growth = statistics.mean(noted[-third:]) - statistics.mean(noted[third : 2 * third] or noted)
    return {
        "events": events,
        "built_rate": built["rate"],
        "rate": handled["rate"],
        "memory": handled["highest"],
        "noted": handled["noted"],
        "growth": growth,
        "goal": GOAL,
    }
