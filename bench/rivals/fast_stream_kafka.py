"""FastStream on Kafka, by confluent-kafka: its fastest settings per message, which are automatic commits."""
# No `from __future__ import annotations`: FastStream resolves the annotations of the handlers, which are local.

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from faststream.confluent import KafkaBroker

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.rivals.models import OrderPlaced, order
from bench.servers import Places
from bench.twins.kafka import declare
from bench.twins.postgres import kept, make_effects
from bench.workload import INSERT, UPSERT

PARTITIONS = 4
ONCE = INSERT + " on conflict do nothing"


def _broker(places: Places) -> KafkaBroker:
    return KafkaBroker(places["bootstrap"], acks="all", enable_idempotence=True, logger=None)


async def publishes(folder: str, events: int, at_once: int, places: Places) -> Record:  # noqa: ARG001
    declare(places, PARTITIONS)
    broker = _broker(places)
    await broker.connect()
    await _publish(broker, places, [order(0)], 1)
    orders = [order(number) for number in range(events)]
    watch = Watch()
    await _publish(broker, places, orders, at_once)
    record = measured(events, watch)
    await broker.stop()
    return record


async def _publish(broker: KafkaBroker, places: Places, orders: Sequence[OrderPlaced], at_once: int) -> None:
    async def client(mine: Sequence[OrderPlaced]) -> None:
        for each in mine:
            await broker.publish(each, places["log"], key=each.customer.encode())

    await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))


async def handles(folder: str, events: int, effects: bool, places: Places) -> Record:  # noqa: ARG001
    """Each message by itself, at least once; with `effects` a transaction each, which a repeat leaves as it is."""
    if effects:
        await make_effects(places, 0)
    pool: Any = None
    broker, done, handled, watch = _broker(places), asyncio.Event(), 0, Watch()

    async def charge(order: OrderPlaced) -> None:
        nonlocal handled, watch
        if effects:
            async with pool.acquire() as connection, connection.transaction():
                if await connection.execute(ONCE, order.order_id, order.customer, order.total) == "INSERT 0 1":
                    await connection.execute(UPSERT, order.customer, 1, order.total)
        handled += 1
        if handled == 1:
            watch = Watch()
        elif handled == events:
            done.set()

    group = places["schema"] or "by-itself"
    broker.subscriber(places["log"], group_id=group, auto_offset_reset="earliest")(charge)
    if effects:
        pool = await asyncpg.create_pool(
            places["database"], min_size=1, max_size=1, server_settings={"search_path": places["schema"]}
        )
    await broker.start()
    await done.wait()
    record = measured(events - 1, watch)
    await broker.stop()
    if effects:
        await pool.close()
        assert (await kept(places))[0] >= events
    return record
