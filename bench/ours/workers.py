"""One worker of several: how fast it is while all of them work on one backlog."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from bench.processes import Record
from bench.together import together
from bench.workload import Shape, Shop, settings


async def works(
    folder: str, number: int, workers: int, seconds: float, shape: dict[str, Any], places: dict[str, str]
) -> Record:
    """From the moment in which each has its share of the partitions."""
    shop = Shop(Shape(**shape))
    own = os.path.join(folder, str(number))
    os.mkdir(own)
    async with shop.app.running(handle=None, settings=settings(own, places)) as running:
        (loop,) = running.loops()
        while len(loop.owned) != shop.shape.partitions // workers or not loop.counters.handled:
            await asyncio.sleep(0.01)
        return await together(folder, number, workers, seconds, lambda: loop.counters.handled)
