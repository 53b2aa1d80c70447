"""Handling a backlog, with each kind of handler."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.measuring import Watch, measured, memory
from bench.processes import Record
from bench.workload import GROUP, Shape, Shop, settings
from evenflow.running import Running

LIST = 1000


Places = dict[str, str] | None


async def backlog(folder: str, events: int, shape: dict[str, Any], places: Places = None) -> Record:
    """Publish events in lists, with nobody handling them."""
    shop = Shop(Shape(**shape))
    async with shop.app.running(settings=settings(folder, places)):
        watch = Watch()
        for begun in range(0, events, LIST):
            await shop.app.publish(*shop.orders(min(LIST, events - begun)))
        return measured(events, watch)


async def handles(folder: str, events: int, shape: dict[str, Any], places: Places = None) -> Record:
    """From the moment in which partitions are ours until so many are handled, committed, and (published on) relayed.

    On a server it begins with the first that was handled, as the twin's does: the first answer may take a while.

    It looks rarely until the end is near, since looking costs CPU. `noted` is the memory on the way, twenty times.
    """
    shop = Shop(Shape(**shape))
    async with shop.app.running(handle=None, settings=settings(folder, places)) as running:
        (loop,) = running.loops()
        assert loop.name.endswith(GROUP)
        while True:
            watch = Watch()
            await asyncio.sleep(0)
            if loop.owned:
                break
        while places and not loop.counters.handled:
            watch = Watch()
            await asyncio.sleep(0)
        before, noted = loop.counters.handled, list[float]()
        while loop.counters.handled < events:
            if loop.counters.handled >= events * len(noted) // 20:
                noted.append(round(memory()[0], 1))
            await asyncio.sleep(0.02 if loop.counters.handled < 0.9 * events else 0.002)
        while shop.shape.handler == "publishes-on" and not running.outboxes["billing"].idle:
            await asyncio.sleep(0.001)
        record = measured(loop.counters.handled - before, watch, noted=noted)
        await _check(running, shop, loop.counters.handled, events)
    return record


async def _check(running: Running, shop: Shop, handled: int, events: int) -> None:
    """What was counted as handled is in the database, once."""
    ((rows, summed),) = await running.stores["billing"].read(
        "select (select count(*) from charges), (select coalesce(sum(orders), 0) from totals)"
    )
    assert handled == events, (handled, events)
    expected = {
        "two-writes": (events, events),
        "two-awaited": (events, events),
        "one-write": (events, 0),
        "timed": (events, 0),
        "publishes-on": (events, 0),
        "batch": (0, events),
    }.get(shop.shape.handler, (0, 0))
    assert (rows, summed) == expected, (rows, summed)
    if shop.shape.handler == "waits":
        assert len(shop.handled) == events
    if shop.shape.handler == "publishes-on":
        assert running.outboxes["billing"].moved == events
