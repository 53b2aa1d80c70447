"""Appends that have to wait, for a broker or for a look at their topic: in order, and not longer than that."""

import asyncio
from contextlib import asynccontextmanager

import pytest


from evenflow.clock import SystemClock
from evenflow.engine import Outcome
from evenflow.places import make_engine
from evenflow.testing.engine_kit import beginning, event, numbers, reader, store, take
from evenflow.topic import Topic
from tests import servers

STORED, REFUSED = [Outcome.STORED], [Outcome.REFUSED]
SOON = 10.0
"""Far less than the deadline of an append."""


@asynccontextmanager
async def opened(at):
    engine = make_engine(f"kafka://{at.bootstrap}?allow_unsafe=single", SystemClock())
    await engine.open()
    try:
        log = await engine.declare(Topic(f"{at.prefix}t", partitions=1))
        await store(engine, log.topic, [event(0)])
        yield engine, log
    finally:
        await engine.close()


async def waiting(engine, log):
    """Three appends while no broker can be reached."""
    producer = engine._appends._producer
    producer.reachable(producer._reports, False)
    calls = [asyncio.ensure_future(engine.append(log.topic, [event(n)])) for n in (1, 2, 3)]
    while len(producer._turns) < 3:
        await asyncio.sleep(0)
    return producer, calls


def test_all_who_wait_for_a_broker_go_on_when_it_is_back():
    async def main():
        async with opened(at) as (engine, log):
            producer, calls = await waiting(engine, log)
            producer.reachable(producer._reports, True)
            async with asyncio.timeout(SOON):
                assert await asyncio.gather(*calls) == [STORED] * 3
            assert numbers(await take(await reader(engine, beginning(log)), 4)) == [0, 1, 2, 3]

    with servers.topics() as at:
        asyncio.run(main())


def test_who_waits_when_the_engine_is_closed_is_refused_then():
    async def main():
        async with opened(at) as (engine, log):
            _, calls = await waiting(engine, log)
        async with asyncio.timeout(SOON):
            assert await asyncio.gather(*calls) == [REFUSED] * 3
            assert await engine.append(log.topic, [event(1)]) == REFUSED

    with servers.topics() as at:
        asyncio.run(main())


def test_nobody_overtakes_who_waits_for_a_look_at_the_topic():
    async def main():
        async with opened(at) as (engine, log):
            stream = engine._appends._streams[log.topic]
            moving = asyncio.ensure_future(engine._appends._move(log.topic, stream))
            await asyncio.sleep(0)
            first = asyncio.ensure_future(engine.append(log.topic, [event(1)]))
            while stream.moving:
                await asyncio.sleep(0)
            second = await engine.append(log.topic, [event(2)])
            assert (await first, second, await moving) == (STORED, STORED, None)
            assert numbers(await take(await reader(engine, beginning(log)), 3)) == [0, 1, 2]

    with servers.topics() as at:
        asyncio.run(main())
