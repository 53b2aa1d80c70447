"""Two processes: one publishes single events as they arrive, the other has their effects. And an app at rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench.arrivals import arrive, latencies
from bench.measuring import Watch, measured, memory
from bench.processes import Record, said, say
from bench.workload import Shape, Shop, settings
from evenflow.work import Counters

Places = dict[str, str] | None


async def declares(folder: str, places: Places = None) -> None:
    """Make the files once, so that neither process waits for the other at its start."""
    async with Shop(Shape(handler="none")).app.running(settings=settings(folder, places)):
        pass


def publishes(folder: str, events: int, per_second: float, seed: int, places: Places = None) -> Record:
    shop = Shop(Shape(handler="none"))

    async def publish(due: float) -> None:
        await shop.app.publish(*shop.orders(1, at=due))

    return arrive(folder, shop.app.running(settings=settings(folder, places)), publish, events, per_second, seed)


class Effects(list[float]):
    """When the events were due that handlers have had; and how long each took until right after its commit."""

    def __init__(self, events: int) -> None:
        self.took: list[float] = []
        self.began = self.ended = 0.0
        self.complete = asyncio.Event()
        self._events = events

    def committed(self, handled: int) -> None:
        """So many are done, in the order in which they came."""
        self.ended = time.monotonic()
        self.began = self.began or self.ended
        self.took += [self.ended - due for due in self[len(self.took) : handled]]
        if len(self.took) == self._events:
            self.complete.set()


class Told(Counters):
    """Counters that tell at once: who looks at them every now and then would have a part in what is measured."""

    told: Callable[[int], None]

    def __init__(self, told: Callable[[int], None]) -> None:
        object.__setattr__(self, "told", told)
        super().__init__()

    def __setattr__(self, name: str, value: int) -> None:
        object.__setattr__(self, name, value)
        if name == "handled" and value:
            self.told(value)


async def effects(folder: str, events: int, places: Places = None) -> Record:
    """The effects of events of another process, until all are committed."""
    found = Effects(events)
    shop = Shop(Shape(handler="timed"), found)
    async with shop.app.running(handle=None, settings=settings(folder, places)) as running:
        (loop,) = running.loops()
        loop.counters = Told(found.committed)
        while not loop.owned:
            await asyncio.sleep(0.01)
        say(folder, "ready")
        await found.complete.wait()
        ((kept,),) = await running.stores["billing"].read("select count(*) from charges")
        assert kept == events, kept
        return {"rate": events / (found.ended - found.began), **latencies(found.took)}


async def idles(folder: str, seconds: float, places: Places = None) -> Record:
    """An app that handles, with nothing to handle."""
    shop = Shop(Shape(partitions=16))
    async with shop.app.running(handle=None, settings=settings(folder, places)) as running:
        (loop,) = running.loops()
        while len(loop.owned) < 16:
            await asyncio.sleep(0.05)
        await asyncio.sleep(6.0 if seconds > 1 else seconds)  # the pace of an app at rest
        watch = Watch()
        await asyncio.sleep(seconds)
        wall, cpu = watch.read()
        return {"percent": 100 * cpu / wall, "memory": memory()[0]}


KEYS = 10_000
LIST = 1000


async def appends(folder: str, seconds: float) -> Record:
    """Publish lists of new events for so long, while the other process handles them."""
    shop = Shop(Shape(handler="none", keys=KEYS))
    async with shop.app.running(settings=settings(folder)):
        while said(folder, "ready") is None:
            await asyncio.sleep(0.005)
        watch, count, until = Watch(), 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            await shop.app.publish(*shop.orders(LIST))
            count += LIST
        record = measured(count, watch)
        say(folder, "total", str(count))
        return record


async def handles_lists(folder: str) -> Record:
    """Add up in Python and write once per key of a list, until all that was appended is in the database."""
    shop = Shop(Shape(handler="batch", keys=KEYS))
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        while len(loop.owned) < shop.shape.partitions:
            await asyncio.sleep(0.01)
        say(folder, "ready")
        while not loop.counters.handled:
            await asyncio.sleep(0.001)
        watch = Watch()
        while (total := said(folder, "total")) is None or loop.counters.handled < int(total):
            await asyncio.sleep(0.01)
        record = measured(loop.counters.handled, watch)
        ((kept,),) = await running.stores["billing"].read("select sum(orders) from totals")
        assert kept == loop.counters.handled == int(total), (kept, loop.counters, total)
        return record
