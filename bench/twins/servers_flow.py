"""Two processes by hand with a server between them: one publishes single events, the other has their effects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import asyncpg
import msgspec

from bench.arrivals import arrive, latencies
from bench.processes import Record, say
from bench.servers import Places
from bench.twins.effects import READ, handed_over
from bench.twins.files import encode
from bench.twins.kafka import Lists, Publisher, declare
from bench.twins.postgres import LIST, connect, kept, make_effects, make_log
from bench.workload import Shape, Shop

PARTITIONS = 4
APPEND = (
    "with added as (insert into log (type, payload) values ('order.placed', $1) returning 1) "
    "select pg_notify($2, '') from added"
)
LOOK = 0.05


async def declares(folder: str, places: Places) -> None:  # noqa: ARG001
    if places["bootstrap"]:
        declare(places, PARTITIONS)
    else:
        await (await make_log(places)).close()
    await make_effects(places, PARTITIONS)


def publishes(folder: str, events: int, per_second: float, seed: int, places: Places) -> Record:
    shop, opened = Shop(Shape(handler="none")), list[Any]()
    on_kafka = bool(places["bootstrap"])

    @asynccontextmanager
    async def publisher() -> AsyncGenerator[None]:
        opened.append(Publisher(places, 0) if on_kafka else await asyncpg.create_pool(
            places["database"], min_size=4, max_size=4, server_settings={"search_path": places["log"]}))  # fmt: skip
        yield
        await opened[0].close()

    async def publish(due: float) -> None:
        (order,) = shop.orders(1, at=due)
        if on_kafka:
            await opened[0].publish(order)
        else:
            await opened[0].execute(APPEND, encode(order).decode(), places["log"])

    return arrive(folder, publisher(), publish, events, per_second, seed)


async def effects(folder: str, events: int, places: Places) -> Record:
    """One write each and the position in one transaction, as soon as something is there."""
    decode = msgspec.json.Decoder(Shop(Shape(handler="none")).OrderPlaced).decode
    apply = await handed_over(places, upserts=False)
    took, began = list[float](), 0.0
    source = _from_kafka if places["bootstrap"] else _from_table
    async with aclosing(source(places, lambda: say(folder, "ready"))) as found:
        async for payloads, ends in found:
            orders = [decode(each) for each in payloads]
            await apply(orders, ends)
            now = time.monotonic()
            began = began or now
            took += [now - each.at for each in orders]
            if len(took) >= events:
                break
    assert (await kept(places))[0] == events
    return {"rate": events / (now - began), **latencies(took)}


Read = AsyncGenerator[tuple[list[Any], dict[int, int]]]


async def _from_kafka(places: Places, ready: Callable[[], None]) -> Read:
    lists = Lists(places, commits=False, partitions=range(PARTITIONS), at_once=True)
    await asyncio.sleep(1.0)
    ready()
    try:
        async for messages in lists:
            yield [each.value() for each in messages], {each.partition(): each.offset() + 1 for each in messages}
    finally:
        await lists.close()


async def _from_table(places: Places, ready: Callable[[], None]) -> Read:
    """Woken by NOTIFY. One publisher at a time may commit out of order, so gaps are waited for a while."""
    connection, told, position = await connect(places, places["log"]), asyncio.Event(), 0
    await connection.add_listener(places["log"], lambda *_: told.set())
    ready()
    try:
        while True:
            told.clear()
            rows = await connection.fetch(READ, position, LIST)
            dense = [row for place, row in enumerate(rows, position + 1) if row[0] == place]
            if dense:
                position = dense[-1][0]
                yield [payload for _, payload in dense], {0: position}
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), LOOK)
    finally:
        await connection.close()
