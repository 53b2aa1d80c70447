"""Handling by hand that publishes on: a write and an event for each, and the position, in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import msgspec
from confluent_kafka import Consumer, TopicPartition

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.servers import Places
from bench.twins.consuming import Charged
from bench.twins.effects import MOVE, from_kafka, from_table
from bench.twins.files import encode
from bench.twins.kafka import Publisher, declare
from bench.twins.postgres import LIST, Pipeline, Query, connect, in_schema, kept, make_effects
from bench.workload import INSERT, Shape, Shop

TABLE = "create table charged (id bigserial primary key, key text not null, payload text not null)"
PUBLISH = "insert into charged (key, payload) select * from unnest($1::text[], $2::text[])"
NEXT = "select id, key, payload from charged order by id limit $1"
CLEAR = "delete from charged where id <= $1"


async def handles(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:  # noqa: ARG001
    """On PostgreSQL `charged` is the log itself; on Kafka it is an outbox, which a relay empties meanwhile."""
    partitions = Shape(**shape).partitions
    decode = msgspec.json.Decoder(Shop(Shape(handler="none")).OrderPlaced).decode
    await make_effects(places, partitions)
    connection = await connect(places, places["schema"])
    await connection.execute(TABLE)
    statements = {"insert": INSERT, "publish": PUBLISH, "move": MOVE}
    pipeline = await Pipeline.open(in_schema(places, places["schema"]), statements)
    relay = Relay(connection, places, partitions) if places["bootstrap"] else None
    source = from_kafka(places, range(partitions)) if places["bootstrap"] else from_table(places)
    handled, before, watch = 0, 0, Watch()
    async for payloads, ends in source:
        changed = await pipeline.transact(_queries([decode(each) for each in payloads], ends))
        if changed[: len(ends)] != [1] * len(ends):
            raise RuntimeError("somebody else has moved the position")
        if relay is not None:
            relay.wake.set()
        if not handled:
            watch, before = Watch(), len(payloads)
        handled += len(payloads)
        if handled >= events:
            break
    if relay is not None:
        await relay.finish()
    record = measured(handled - before, watch)
    await source.aclose()
    assert await kept(places) == (events, 0)
    left = await connection.fetchval("select count(*) from charged")
    assert (left, None if relay is None else relay.stored()) == ((events, None) if relay is None else (0, events))
    await pipeline.close()
    await connection.close()
    return record


def _queries(orders: list[Any], ends: dict[int, int]) -> list[Query]:
    queries: list[Query] = [(b"move", [b"%d" % number, b"%d" % end]) for number, end in ends.items()]
    charged = []
    for order in orders:
        queries.append((b"insert", [order.order_id.encode(), order.customer.encode(), repr(order.total).encode()]))
        charged.append(Charged(order_id=order.order_id, customer=order.customer, total=order.total))
    keys, payloads = [each.customer for each in charged], [encode(each).decode() for each in charged]
    return [*queries, (b"publish", [_array(keys), _array(payloads)])]


def _array(texts: list[str]) -> bytes:
    """A `text[]`, whose elements are quoted as those of JSON are; none has a control character, which would differ."""
    return b"{" + encode(texts)[1:-1] + b"}"


class Relay:
    """Moves what was committed to Kafka, in order; at least once, since it clears what the broker has confirmed."""

    def __init__(self, connection: asyncpg.Connection, places: Places, partitions: int) -> None:
        self.wake = asyncio.Event()
        self._connection = connection
        self._places = {**places, "log": f"{places['schema']}-charges"}
        self._partitions = partitions
        declare(self._places, partitions)
        self._publisher = Publisher(self._places, 0)
        self._ending = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            rows = await self._connection.fetch(NEXT, LIST)
            if rows:
                await self._publisher.publish_all([(key, payload.encode()) for _, key, payload in rows])
                await self._connection.execute(CLEAR, rows[-1][0])
            elif self._ending:
                return
            else:
                await self.wake.wait()
                self.wake.clear()

    async def finish(self) -> None:
        """Until nothing is left."""
        self._ending = True
        self.wake.set()
        await self._task
        await self._publisher.close()

    def stored(self) -> int:
        """How many events the topic has."""
        consumer = Consumer({"bootstrap.servers": self._places["bootstrap"], "group.id": "counts"})
        parts = [TopicPartition(self._places["log"], number) for number in range(self._partitions)]
        found = sum(consumer.get_watermark_offsets(part, timeout=10.0)[1] for part in parts)
        consumer.close()
        return found
