"""One worker of several, measured while all of them work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bench.measuring import Watch, cpu_of_all, measured
from bench.processes import Record, said, say


async def together(folder: str, number: int, workers: int, seconds: float, handled: Callable[[], int]) -> Record:
    """From the moment in which each says that it works, for so long.

    `busy` says whether work was left; `cores` how many the whole machine was using, with its servers.
    """
    say(folder, f"ready{number}")
    while any(said(folder, f"ready{each}") is None for each in range(workers)):
        await asyncio.sleep(0.01)
    watch, before, used = Watch(), handled(), cpu_of_all()
    await asyncio.sleep(seconds)
    record = measured(max(1, handled() - before), watch)
    cores = (cpu_of_all() - used) / record["seconds"]
    last = handled()
    await asyncio.sleep(0.2)
    return {**record, "busy": handled() > last, "cores": cores}
