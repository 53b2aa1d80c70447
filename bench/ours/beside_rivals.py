"""Publish and handle with one durable effect per event, as the rivals do: at once, or one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.processes import Record
from bench.rivals.phases import Phases
from bench.workload import Shape, Shop, settings


async def together(folder: str, events: int, at_once: int) -> Record:
    """Publishing and handling in one process, until all effects are committed."""
    shop, phases = Shop(Shape(handler="one-write")), Phases(events)
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        while not loop.owned:
            await asyncio.sleep(0.005)
        orders = shop.orders(events)
        phases.begin()
        await _publish(shop, orders, at_once)
        while loop.counters.handled < events:
            await asyncio.sleep(0.001)
        phases.end("published_and_handled")
        await _check(running, events)
    return phases.record()


async def in_phases(folder: str, events: int, at_once: int) -> Record:
    """First all is published, then all is handled."""
    shop, phases = Shop(Shape(handler="one-write")), Phases(events)
    async with shop.app.running(settings=settings(folder)):
        orders = shop.orders(events)
        phases.begin()
        await _publish(shop, orders, at_once)
        phases.end("published")
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        phases.begin()
        while loop.counters.handled < events:
            await asyncio.sleep(0.001)
        phases.end("handled")
        await _check(running, events)
    return phases.record()


async def _publish(shop: Shop, orders: Sequence[Any], at_once: int) -> None:
    async def client(mine: Sequence[Any]) -> None:
        for order in mine:
            await shop.app.publish(order)

    await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))


async def _check(running: Any, events: int) -> None:
    ((kept,),) = await running.stores["billing"].read("select count(*) from charges")
    assert kept == events, kept
