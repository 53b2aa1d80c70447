"""FastStream: in memory (its TestRedisBroker; it has no other way without a broker), and on Redis streams."""
# No `from __future__ import annotations`: FastStream resolves the annotations of the handlers, which are local.

import asyncio
from collections.abc import Sequence
from typing import Any

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub, TestRedisBroker

from bench.measuring import cpu_of
from bench.processes import Record
from bench.rivals.effects import Effects
from bench.rivals.models import OrderPlaced, order
from bench.rivals.phases import Phases

STREAM, GROUP = "orders", "billing"
READ = 500


async def memory(folder: str, events: int, at_once: int) -> Record:
    """A publish runs the handler, and returns when it has."""
    broker, effects, phases = RedisBroker(logger=None), Effects(folder), Phases(events)

    @broker.subscriber(stream=StreamSub(STREAM))
    async def charge(order: OrderPlaced) -> None:
        effects.keep(order)

    orders = [order(number) for number in range(events)]
    async with TestRedisBroker(broker) as tested:
        phases.begin()
        await _publish(tested, orders, at_once)
        phases.end("published_and_handled")
    assert effects.count() == events
    return phases.record()


async def redis(folder: str, port: int, pid: int, events: int, at_once: int, lists: bool) -> Record:
    """Streams with a consumer group; an event is acknowledged after its handler."""
    broker, effects, phases = RedisBroker(f"redis://127.0.0.1:{port}/0", logger=None), Effects(folder), Phases(events)
    done = asyncio.Event()
    counted = 0

    def count(more: int) -> None:
        nonlocal counted
        counted += more
        if counted == events:
            done.set()

    if lists:

        async def charge(orders: list[OrderPlaced]) -> None:
            effects.keep_all(orders)
            count(len(orders))

    else:

        async def charge(order: OrderPlaced) -> None:
            effects.keep(order)
            count(1)

    stream = StreamSub(STREAM, group=GROUP, consumer="one", last_id=">", max_records=READ, batch=lists)
    broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR)(charge)
    await broker.connect()
    await _begin_anew(port)
    orders = [order(number) for number in range(events)]
    served = cpu_of(pid)
    phases.begin()
    await _publish(broker, orders, at_once)
    phases.end("published")
    phases.begin()
    await broker.start()
    await done.wait()
    phases.end("handled")
    await broker.stop()
    assert effects.count() == events
    return phases.record(server_cpu_us=(cpu_of(pid) - served) / events * 1e6)


async def _publish(broker: Any, orders: Sequence[OrderPlaced], at_once: int) -> None:
    async def client(mine: Sequence[OrderPlaced]) -> None:
        for each in mine:
            await broker.publish(each, stream=STREAM)

    await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))


async def _begin_anew(port: int) -> None:
    from redis.asyncio import Redis

    async with Redis(port=port) as client:
        await client.flushall()
        await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
