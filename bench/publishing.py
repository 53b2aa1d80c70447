"""publish: one at a time, many at once, in transactions, in lists; beside raw appends that share commits by hand.

The twin of a transaction writes the outbox row alone: no numbers, no relay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.measuring import Watch, folder, measured, middle, run
from bench.workload import Shape, Shop, settings

ROUNDS = 3
PLANS = (
    ("one at a time", 1, 2000, "publish"),
    ("100 at once", 100, 20_000, "publish"),
    ("1000 at once", 1000, 20_000, "publish"),
    ("transaction, one at a time", 1, 2000, "transaction"),
    ("transaction, 100 at once", 100, 10_000, "transaction"),
    ("transaction, 1000 at once", 1000, 10_000, "transaction"),
    ("lists of 1000", 1000, 100_000, "bulk"),
)


async def ours(folder: str, events: int, at_once: int, way: str) -> dict[str, Any]:
    """Until every publish has returned; for transactions also until the relay has moved all to the engine."""
    shop = Shop(Shape(handler="none"))
    app, service = shop.app, shop.service
    async with app.running(settings=settings(folder)) as running:
        await app.publish(*shop.orders(1))
        orders = shop.orders(events)

        async def client(mine: Sequence[Any]) -> None:
            for order in mine:
                await app.publish(order)

        async def transactions(mine: Sequence[Any]) -> None:
            for order in mine:
                async with app.transaction(service) as tx:
                    tx.publish(order)

        watch = Watch()
        if way == "bulk":
            for begun in range(0, events, at_once):
                await app.publish(*orders[begun : begun + at_once])
        else:
            each = client if way == "publish" else transactions
            await asyncio.gather(*(each(orders[number::at_once]) for number in range(at_once)))
        record = measured(events, watch)
        while not all(outbox.idle for outbox in running.outboxes.values()):
            await asyncio.sleep(0.005)
        return {**record, "relayed_rate": measured(events, watch)["rate"]}


def publish(*, full: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, at_once, events, way in PLANS:
        mine, theirs = [], []
        for _ in range(ROUNDS * (2 if full else 1)):
            with folder() as place:
                mine.append(run("publishing:ours", folder=place, events=events, at_once=at_once, way=way))
            with folder() as place:
                given = {"folder": place, "events": events, "at_once": at_once, "bulk": way == "bulk"}
                theirs.append(run("by_hand:publish", **given))
        rates = {"ours": middle(mine, "rate"), "twin": middle(theirs, "rate")}
        found[name] = {**rates, "ratio": rates["ours"] / rates["twin"], "cpu_us": middle(mine, "cpu_us")}
        if way == "transaction":
            found[name]["relayed"] = middle(mine, "relayed_rate")
    return found
