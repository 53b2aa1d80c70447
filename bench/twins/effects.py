"""Effects once in PostgreSQL by hand: two writes per event, and the position, in one transaction per list."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.servers import Places
from bench.twins.kafka import Lists
from bench.twins.postgres import LIST, Pipeline, Query, connect, in_schema, kept, make_effects
from bench.workload import INSERT, UPSERT, Shape, Shop

MOVE = "update position set next = $2 where partition = $1 and next <= $2"
READ = "select id, payload from log where id > $1 order by id limit $2"
Read = tuple[list[str | bytes], dict[int, int]]
"""Data, and behind which offset of each partition it ends."""


async def handles(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:  # noqa: ARG001
    """`two-writes` are handed over, `two-awaited` awaited one by one."""
    made = Shape(**shape)
    decode = msgspec.json.Decoder(Shop(Shape(handler="none")).OrderPlaced).decode
    await make_effects(places, made.partitions)
    apply = await (handed_over if made.handler == "two-writes" else _awaited)(places)
    source = from_kafka(places, range(made.partitions)) if places["bootstrap"] else from_table(places)
    handled, before, watch = 0, 0, Watch()
    async for payloads, ends in source:
        await apply([decode(each) for each in payloads], ends)
        if not handled:
            watch, before = Watch(), len(payloads)
        handled += len(payloads)
        if handled >= events:
            break
    record = measured(handled - before, watch)
    await source.aclose()
    assert await kept(places) == (events, events)
    return record


async def from_kafka(places: Places, partitions: Sequence[int]) -> AsyncGenerator[Read]:
    lists = Lists(places, commits=False, partitions=partitions)
    try:
        async for messages in lists:
            for each in messages:
                each.headers()
            yield [each.value() for each in messages], {each.partition(): each.offset() + 1 for each in messages}
    finally:
        await lists.close()


async def from_table(places: Places) -> AsyncGenerator[Read]:
    connection, position = await connect(places, places["log"]), 0
    try:
        while True:
            rows = await connection.fetch(READ, position, LIST)
            if rows:
                position = rows[-1][0]
                yield [payload for _, payload in rows], {0: position}
    finally:
        await connection.close()


Apply = Callable[[list[Any], dict[int, int]], Awaitable[None]]


async def handed_over(places: Places, *, upserts: bool = True) -> Apply:
    pipeline = await Pipeline.open(
        in_schema(places, places["schema"]), {"insert": INSERT, "upsert": UPSERT, "move": MOVE}
    )

    async def apply(orders: list[Any], ends: dict[int, int]) -> None:
        queries: list[Query] = [(b"move", [b"%d" % number, b"%d" % end]) for number, end in ends.items()]
        for order in orders:
            customer, total = order.customer.encode(), repr(order.total).encode()
            queries.append((b"insert", [order.order_id.encode(), customer, total]))
            if upserts:
                queries.append((b"upsert", [customer, b"1", total]))
        changed = await pipeline.transact(queries)
        if changed[: len(ends)] != [1] * len(ends):
            raise RuntimeError("somebody else has moved the position")

    return apply


async def _awaited(places: Places) -> Apply:
    connection = await connect(places, places["schema"])

    async def apply(orders: list[Any], ends: dict[int, int]) -> None:
        async with connection.transaction():
            for number, end in ends.items():
                if await connection.execute(MOVE, number, end) != "UPDATE 1":
                    raise RuntimeError("somebody else has moved the position")
            for order in orders:
                await connection.execute(INSERT, order.order_id, order.customer, order.total)
                await connection.execute(UPSERT, order.customer, 1, order.total)

    return apply
