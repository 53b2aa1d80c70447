"""consume-batch-two-processes: one process appends, another handles lists of a thousand, both as fast as they can."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bench.measuring import Watch, folder, measured, memory, result, run, start
from bench.workload import Shape, Shop, settings

SECONDS = 5.0
LIST = 1000
KEYS = 10_000
SHAPE = vars(Shape(handler="batch", keys=KEYS, partitions=4))


async def appends(folder: str, seconds: float) -> dict[str, Any]:
    """Publish lists of new events for so long, while the other process handles them."""
    shop = Shop(Shape(**{**SHAPE, "handler": "none"}))
    async with shop.app.running(settings=settings(folder)):
        while not _there(folder, "ready"):
            await asyncio.sleep(0.005)
        watch, count, until = Watch(), 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            await shop.app.publish(*shop.orders(LIST))
            count += LIST
        record = measured(count, watch)
        _say(folder, "total", str(count))
        return record


async def handles(folder: str) -> dict[str, Any]:
    """Aggregate in Python and write once per key of a list, until all that was appended is in the database."""
    shop = Shop(Shape(**SHAPE))
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        while len(loop.owned) < SHAPE["partitions"]:
            await asyncio.sleep(0.01)
        _say(folder, "ready", "")
        while not loop.counters.handled:
            await asyncio.sleep(0.001)
        watch, at_end = Watch(), 0
        while loop.counters.handled < _total(folder):
            await asyncio.sleep(0.01)
            if not at_end and _there(folder, "total"):
                at_end = loop.counters.handled
        record = measured(loop.counters.handled, watch, memory=[*memory()], at_end=at_end)
        ((kept,),) = await running.stores["billing"].read("select sum(orders) from totals")
        assert kept == loop.counters.handled == _total(folder), (kept, loop.counters)
        return {**record, "chunks": loop.counters.chunks}


def _there(folder: str, name: str) -> bool:
    return Path(folder, name).exists()


def _say(folder: str, name: str, text: str) -> None:
    part = Path(folder, f"{name}.part")
    part.write_text(text, "utf-8")
    part.rename(Path(folder, name))


def _total(folder: str) -> float:
    """How many were appended in all; no number reaches it before that is known."""
    return int(Path(folder, "total").read_text("utf-8")) if _there(folder, "total") else float("inf")


def two_processes(*, full: bool) -> dict[str, Any]:
    """The lower of both rates counts: events that were appended, handled and kept per second."""
    rounds = []
    for _ in range(5 if full else 3):
        with folder() as place:
            run("pair:declares", folder=place)
            consumer = start("pair:handles", folder=place)
            producer = start("pair:appends", folder=place, seconds=SECONDS)
            appended, handled = result(producer), result(consumer)
            rounds.append({"appended": appended, "handled": handled, "rate": min(appended["rate"], handled["rate"])})
    best = sorted(rounds, key=lambda each: each["rate"])[len(rounds) // 2]
    return {**best, "rates": sorted(each["rate"] for each in rounds), "goal": 150_000}


async def declares(folder: str) -> None:
    """Make the files once, so that neither process waits for the other at its start."""
    async with Shop(Shape(**{**SHAPE, "handler": "none"})).app.running(settings=settings(folder)):
        pass
