"""idle-cpu, and latency: what it costs when nothing happens, and how soon another process has an event's effect."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from pathlib import Path
from typing import Any

from bench.measuring import Watch, folder, memory, result, run, start
from bench.workload import Shape, Shop, settings

EVENTS = 300
PAUSE = 0.01


async def idles(folder: str, seconds: float) -> dict[str, Any]:
    """An app that handles, with nothing to handle."""
    shop = Shop(Shape(partitions=16))
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        while len(loop.owned) < 16:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)
        watch = Watch()
        await asyncio.sleep(seconds)
        wall, cpu = watch.read()
        return {"percent": 100 * cpu / wall, "memory": memory()[0]}


def idle(*, full: bool) -> dict[str, Any]:
    with folder() as place:
        return {**run("quiet:idles", folder=place, seconds=30.0 if full else 8.0), "goal": 1.0}


async def publishes(folder: str) -> None:
    """One event every ten milliseconds or so, each alone."""
    shop = Shop(Shape(handler="none"))
    async with shop.app.running(settings=settings(folder)):
        while not _there(folder):
            await asyncio.sleep(0.01)
        for _ in range(EVENTS):
            (order,) = shop.orders(1)
            await shop.app.publish(order)
            await asyncio.sleep(PAUSE * (0.5 + random.random()))


async def effects(folder: str) -> dict[str, Any]:
    """Milliseconds from before the publish in the one process to after the commit of its effect in this one."""
    shop = Shop(Shape(handler="timed"))
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        while not loop.owned:
            await asyncio.sleep(0.05)
        _say(folder)
        changed, took, seen = running.stores["billing"].changed, [], 0
        while len(took) < EVENTS:
            changed.clear()
            await running.clock.wait(changed, 5.0)
            now = time.time()
            took += [(now - at) * 1000 for at in shop.handled[seen:]]
            seen = len(shop.handled)
        cuts = statistics.quantiles(took, n=100)
        return {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(took), "events": len(took)}


def latency(*, full: bool) -> dict[str, Any]:
    rounds = []
    for _ in range(5 if full else 3):
        with folder() as place:
            run("quiet:declares", folder=place)
            consumer, producer = start("quiet:effects", folder=place), start("quiet:publishes", folder=place)
            result(producer)
            rounds.append(result(consumer))
    found = sorted(rounds, key=lambda each: float(each["p50_ms"]))[len(rounds) // 2]
    return {**found, "goal_p99_ms": 20.0}


def _there(folder: str) -> bool:
    return Path(folder, "ready").exists()


def _say(folder: str) -> None:
    Path(folder, "ready").touch()


async def declares(folder: str) -> None:
    async with Shop(Shape(handler="none")).app.running(settings=settings(folder)):
        pass
