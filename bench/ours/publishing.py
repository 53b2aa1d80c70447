"""Publishing: one at a time, many at once, in lists, in transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.workload import INSERT, Shape, Shop, settings


async def publishes(folder: str, events: int, at_once: int, way: str, places: dict[str, str] | None = None) -> Record:
    """Until every publish has returned, that is, until all is durable."""
    shop = Shop(Shape(handler="none"))
    app = shop.app
    async with app.running(settings=settings(folder, places)):
        await app.publish(*shop.orders(1))
        orders = shop.orders(events)

        async def client(mine: Sequence[Any]) -> None:
            for order in mine:
                await app.publish(order)

        watch = Watch()
        if way == "lists":
            for begun in range(0, events, at_once):
                await app.publish(*orders[begun : begun + at_once])
        else:
            await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
        return measured(events, watch)


async def transacts(folder: str, events: int, at_once: int) -> Record:
    """A row and an event in one transaction each, until the relay has moved all to the engine."""
    shop = Shop(Shape(handler="none"))
    app, service = shop.app, shop.service
    async with app.running(settings=settings(folder)) as running:
        await app.publish(*shop.orders(1))
        orders = shop.orders(events)

        async def client(mine: Sequence[Any]) -> None:
            for order in mine:
                async with app.transaction(service) as tx:
                    tx.write(INSERT, order.order_id, order.customer, order.total)
                    tx.publish(order)

        watch = Watch()
        await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
        committed = measured(events, watch)
        while not all(outbox.idle for outbox in running.outboxes.values()):
            await asyncio.sleep(0.001)
        record = measured(events, watch, committed_rate=committed["rate"])
        ((kept,),) = await running.stores["billing"].read("select count(*) from charges")
        assert kept == events, kept
        return record
