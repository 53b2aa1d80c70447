"""Several workers by hand: who has which partition is written down, and nobody takes over from who died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from zlib import crc32

import msgspec

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.servers import Places
from bench.together import together
from bench.twins import kafka
from bench.twins.effects import Read, from_kafka, handed_over
from bench.twins.files import encode
from bench.twins.postgres import LIST, connect
from bench.workload import Shape, Shop

APPEND = "insert into log (partition, payload) select * from unnest($1::integer[], $2::text[])"
READ = "select id, payload from log where id > $1 and partition = any($2) order by id limit $3"


async def backlog(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:
    """On PostgreSQL a log whose rows know their partition: two workers must not write the same customers' totals."""
    if places["bootstrap"]:
        return await kafka.backlog(folder, events, shape, places)
    shop, watch = Shop(Shape(**{**shape, "handler": "none"})), Watch()
    connection = await connect(places, places["log"])
    await connection.execute(
        f"create schema {places['log']};"
        "create table log (id bigserial primary key, partition integer not null, payload text not null)"
    )
    for begun in range(0, events, LIST):
        orders = shop.orders(min(LIST, events - begun))
        partitions = [crc32(each.customer.encode()) % shop.shape.partitions for each in orders]
        await connection.execute(APPEND, partitions, [encode(each).decode() for each in orders])
    await connection.execute("vacuum analyze log")
    await connection.close()
    return measured(events, watch)


async def works(
    folder: str, number: int, workers: int, seconds: float, shape: dict[str, Any], places: Places
) -> Record:
    """Two writes per event and the position in one transaction, handed over."""
    decode = msgspec.json.Decoder(Shop(Shape(handler="none")).OrderPlaced).decode
    mine = range(number, Shape(**shape).partitions, workers)
    apply = await handed_over(places)
    source = from_kafka(places, mine) if places["bootstrap"] else _from_table(places, number, mine)
    handled = 0

    async def work() -> None:
        nonlocal handled
        async with aclosing(source) as found:
            async for payloads, ends in found:
                await apply([decode(each) for each in payloads], ends)
                handled += len(payloads)

    async def measure() -> Record:
        while not handled:
            await asyncio.sleep(0.01)
        return await together(folder, number, workers, seconds, lambda: handled)

    working, measuring = asyncio.create_task(work()), asyncio.create_task(measure())
    await asyncio.wait([working, measuring], return_when=asyncio.FIRST_COMPLETED)
    assert not working.done(), working
    working.cancel()
    await asyncio.wait([working])
    return measuring.result()


async def _from_table(places: Places, number: int, partitions: range) -> AsyncGenerator[Read]:
    connection, position = await connect(places, places["log"]), 0
    try:
        while True:
            rows = await connection.fetch(READ, position, list(partitions), LIST)
            if rows:
                position = rows[-1][0]
                yield [payload for _, payload in rows], {number: position}
            else:
                await asyncio.sleep(0.01)
    finally:
        await connection.close()
