"""Events that wait until they are due: what they cost others, and how late they are."""

from __future__ import annotations

import asyncio
import time

from bench.measuring import Watch, measured, percentile
from bench.processes import Record
from bench.workload import Shape, Shop, settings
from evenflow import DAY, App
from evenflow.running import Running

AT_ONCE = 1000
STEP = 0.037
"""Seconds between two events that fall due: in step with nothing of ours."""


async def keep(shop: Shop, waiting: int) -> None:
    """So many events wait for another day, scattered over it."""
    due = time.time() + DAY
    for start in range(0, waiting, AT_ONCE):
        async with shop.app.transaction(shop.service) as tx:
            for number, order in enumerate(shop.orders(min(AT_ONCE, waiting - start)), start):
                tx.publish(order, at=due + number * 7919 % 86400, name=f"reminder:{number}")


async def others(folder: str, waiting: int, events: int) -> Record:
    """The rate from the first transaction to the last effect, of events that do not wait."""
    shop = Shop(Shape(handler="one-write"))
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        await keep(shop, waiting)
        (loop,) = running.loops()
        while not running.outboxes["billing"].owned or len(loop.owned) < shop.shape.partitions:
            await asyncio.sleep(0.01)
        orders = shop.orders(events)
        watch = Watch()
        for start in range(0, events, 100):
            async with shop.app.transaction(shop.service) as tx:
                for order in orders[start : start + 100]:
                    tx.publish(order)
        while loop.counters.handled < events:
            await asyncio.sleep(0.001)
        record = measured(events, watch)
        listed = await _listing(running)
        ((kept,),) = await running.stores["billing"].read("select count(*) from evenflow_due")
        assert kept == waiting, kept
        return {**record, **listed}


async def _listing(running: Running) -> Record:
    """What `schedules list` and `schedules cancel NAME` ask of the store, in milliseconds."""
    from evenflow import operate

    began = time.perf_counter()
    await operate.scheduled(running)
    await operate.later(running)
    return {"list_ms": 1000 * (time.perf_counter() - began)}


async def lateness(folder: str, waiting: int, events: int, load: bool) -> Record:
    """How late handlers begin, in milliseconds: at rest, or while transactions publish as fast as they go.

    `timer`: how late a bare timer of the same loop is for the same times, which is the share of machine and loop.
    """
    late: list[float] = []
    bare: list[float] = []

    class Late(list[float]):
        def append(self, due: float) -> None:
            if due < LATER:
                late.append(1000 * (time.time() - due))

    shop = Shop(Shape(handler="timed"), Late())
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        await keep(shop, waiting)
        (loop,) = running.loops()
        while not running.outboxes["billing"].owned or len(loop.owned) < shop.shape.partitions:
            await asyncio.sleep(0.01)
        begin = time.time() + 0.5
        async with shop.app.transaction(shop.service) as tx:
            for number in range(events):
                due = begin + number * STEP
                (order,) = shop.orders(1, at=due)
                tx.publish(order, at=due)
                asyncio.get_running_loop().call_later(due - time.time(), _rings, bare, due)
        pushing = asyncio.create_task(_push(shop.app, shop)) if load else None
        while len(late) < events:
            await asyncio.sleep(0.01)
        if pushing is not None:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
        while len(bare) < events:
            await asyncio.sleep(0.01)
        return {**_figures(late), "timer": _figures(bare)}


def _rings(bare: list[float], due: float) -> None:
    bare.append(1000 * (time.time() - due))


def _figures(late: list[float]) -> Record:
    return {"p50_ms": percentile(late, 50), "p99_ms": percentile(late, 99), "max_ms": max(late)}


LATER = 1e10
"""Unix time of events whose lateness is not asked for."""


async def _push(app: App, shop: Shop) -> None:
    while True:
        async with app.transaction(shop.service) as tx:
            for order in shop.orders(50, at=LATER):
                tx.publish(order)


async def same_moment(folder: str, waiting: int, events: int, later: bool) -> Record:
    """Thousands that are due in the same moment, or that are published in transactions then: how late the last is."""
    late: list[float] = []

    class Late(list[float]):
        def append(self, due: float) -> None:
            late.append(1000 * (time.time() - due))

    shop = Shop(Shape(handler="timed"), Late())
    async with shop.app.running(handle=None, settings=settings(folder)):
        await keep(shop, waiting)
        begin = time.time() + 1.0 + events / 5_000
        if later:
            await _transact(shop, events, begin, at=begin)
            assert time.time() < begin, "this machine was too slow to publish them before they were due"
        await asyncio.sleep(max(0.0, begin - time.time()))
        watch = Watch()
        if not later:
            await _transact(shop, events, begin, at=None)
        while len(late) < events:
            await asyncio.sleep(0.005)
        cpu = watch.read()[1] / events * 1e6
        return {"p50_ms": percentile(late, 50), "max_ms": max(late), "cpu_us": cpu}


async def _transact(shop: Shop, events: int, moment: float, at: float | None) -> None:
    for start in range(0, events, 1000):
        async with shop.app.transaction(shop.service) as tx:
            for order in shop.orders(min(1000, events - start), at=moment):
                tx.publish(order, at=at)
