"""Handling beside a full parking lot, and redriving what is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from bench.measuring import Watch, measured, memory
from bench.ours.consuming import LIST, _check
from bench.processes import Record
from bench.workload import GROUP, Shape, Shop, settings
from evenflow.envelope import Envelope, pack
from evenflow.ids import new_id, slot_of
from evenflow.running import Running
from evenflow.store import Statement

TOPIC = "orders"
REDRIVE = "update evenflow_parked set wish = 'redrive', due = $1 where head = 1 and due is null"


async def lot(folder: str, events: int, keys: int, shape: dict[str, Any]) -> Record:
    """Dead letters of so many keys, and what stands behind them, as an owner would have parked them."""
    shop = Shop(Shape(**shape))
    async with shop.app.running(settings=settings(folder)) as running:
        watch = Watch()
        for begun in range(0, events, LIST):
            rows = list(_rows(running, shop, begun, min(LIST, events - begun), keys))
            await running.stores["billing"].transact(lambda session, rows=rows: session.run(rows))
        return measured(events, watch)


def _rows(running: Running, shop: Shop, begun: int, count: int, keys: int) -> Iterator[Statement]:
    outbox, now = running.outboxes["billing"], running.clock.now()
    sql = running.stores["billing"].sql["parked_add"]
    for place in range(begun, begun + count):
        (order,) = shop.orders(1, at=float(place))
        key = f"c{place % keys:07d}"
        fields = outbox.fields(order, new_id(), None)[1]
        envelope = Envelope(*(*fields[:8], "", 0, *fields[8:]))
        packed, slot, head = pack([envelope]), slot_of(key), int(place < keys)
        error = ("ValueError: no stock", "ValueError", now, now) if head else (None, None, None, None)
        yield sql, (GROUP, TOPIC, f"k{key}", 0, place, slot, slot % shop.shape.partitions, packed, head, None, head,
                    *error, now, envelope.type, len(packed), "0123456789ab" if head else None)  # fmt: skip


async def handles(folder: str, events: int, shape: dict[str, Any]) -> Record:
    """From the moment in which partitions are ours until all are handled, or parked behind others of their keys.

    `ms`: until they were ours, with what is parked of them; `mib`: memory then.
    """
    shop, start = Shop(Shape(**shape)), Watch()
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,) = running.loops()
        while not loop.owned:
            watch = Watch()
            await asyncio.sleep(0)
        ms, mib = 1000 * start.read()[0], memory()[0]
        while loop.counters.handled + loop.counters.behind < events:
            await asyncio.sleep(0.002)
        record = measured(events, watch, ms=ms, mib=mib, behind=loop.counters.behind)
        await _check(running, shop, loop.counters.handled, events - loop.counters.behind)
    return record


async def redrives(folder: str, events: int, keys: int, shape: dict[str, Any]) -> Record:
    """From the wish for all of them until nothing is parked; each key's order is checked."""
    shop = Shop(Shape(**shape))
    async with shop.app.running(handle=None, settings=settings(folder)) as running:
        (loop,), store = running.loops(), running.stores["billing"]
        while len(loop.owned) < shop.shape.partitions:
            await asyncio.sleep(0)
        watch = Watch()
        await store.transact(lambda session: session.execute(REDRIVE, (running.clock.now(),)))
        loop.look()
        while loop.counters.handled < events:
            await asyncio.sleep(0.002)
        record = measured(events, watch)
        assert (await store.read("select count(*) from evenflow_parked"))[0][0] == 0
        following = dict.fromkeys(range(keys), 0)
        for place in map(int, shop.handled):
            assert following[place % keys] == place // keys, "out of order"
            following[place % keys] += 1
        assert len(shop.handled) == events
    return record
