"""FastStream on Kafka, by either of its clients: its fastest settings per message, which are automatic commits."""
# No `from __future__ import annotations`: FastStream resolves the annotations of the handlers, which are local.

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from faststream import confluent, kafka

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.rivals.models import OrderCharged, OrderPlaced, order
from bench.servers import Places
from bench.twins.kafka import declare
from bench.twins.postgres import kept, make_effects
from bench.workload import INSERT, UPSERT

PARTITIONS = 4
ONCE = INSERT + " on conflict do nothing"


def _broker(places: Places, client: str) -> Any:
    module = {"confluent": confluent, "aiokafka": kafka}[client]
    return module.KafkaBroker(places["bootstrap"], acks="all", enable_idempotence=True, logger=None)


async def publishes(folder: str, events: int, at_once: int, client: str, places: Places) -> Record:  # noqa: ARG001
    declare(places, PARTITIONS)
    broker = _broker(places, client)
    await broker.start()
    await _publish(broker, places, [order(0)], 1)
    orders = [order(number) for number in range(events)]
    watch = Watch()
    await _publish(broker, places, orders, at_once)
    record = measured(events, watch)
    await broker.stop()
    return record


async def _publish(broker: Any, places: Places, orders: Sequence[OrderPlaced], at_once: int) -> None:
    async def client(mine: Sequence[OrderPlaced]) -> None:
        for each in mine:
            await broker.publish(each, places["log"], key=each.customer.encode())

    await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))


async def handles(folder: str, events: int, handler: str, client: str, places: Places) -> Record:  # noqa: ARG001
    """Each message by itself, at least once; what has effects is a transaction each, which a repeat leaves as it is.

    `publishes-on`: what the handler returns is published after its transaction, and may be lost between the two.
    """
    effects = handler != "empty"
    if effects:
        await make_effects(places, 0)
    pool: Any = None
    broker, done, handled, watch = _broker(places, client), asyncio.Event(), 0, Watch()

    def count() -> None:
        nonlocal handled, watch
        handled += 1
        if handled == 1:
            watch = Watch()
        elif handled == events:
            done.set()

    async def charge(order: OrderPlaced) -> None:
        if effects:
            async with pool.acquire() as connection, connection.transaction():
                if await connection.execute(ONCE, order.order_id, order.customer, order.total) == "INSERT 0 1":
                    await connection.execute(UPSERT, order.customer, 1, order.total)
        count()

    async def publish_on(order: OrderPlaced) -> OrderCharged:
        await pool.execute(ONCE, order.order_id, order.customer, order.total)
        count()
        return OrderCharged(order_id=order.order_id, customer=order.customer, total=order.total)

    subscribe = broker.subscriber(places["log"], group_id=places["schema"] or "by-itself", auto_offset_reset="earliest")
    if handler == "publishes-on":
        charges = {**places, "log": f"{places['schema']}-charges"}
        declare(charges, PARTITIONS)
        subscribe(broker.publisher(charges["log"])(publish_on))
    else:
        subscribe(charge)
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
