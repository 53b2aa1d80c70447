"""What groups of one process share when they read, and that they do not hold each other up."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from evenflow.clock import SystemClock
from evenflow.engines.kafka import feeds as kafka_feeds
from evenflow.places import make_engine
from evenflow.testing.engine_kit import SIZE, beginning, event, events, numbers, reader, store, take
from evenflow.topic import Topic
from tests import servers


@pytest.fixture(scope="module")
def kafka():
    with servers.topics() as at:
        yield at


@asynccontextmanager
async def opened(kafka, partitions=1):
    engine = make_engine(f"kafka://{kafka.bootstrap}?allow_unsafe=single", SystemClock())
    await engine.open()
    try:
        yield engine, await engine.declare(Topic(f"{kafka.prefix}t{time.monotonic_ns()}", partitions=partitions))
    finally:
        await engine.close()


async def until(condition):
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def test_groups_at_one_place_share_one_reading(kafka):
    async def main():
        async with opened(kafka, 2) as (engine, log):
            groups = [await reader(engine, beginning(log)) for _ in range(5)]
            await store(engine, log.topic, [event(n, slot=n % 2) for n in range(100)])
            for group in groups:
                assert sorted(numbers(await take(group, 100))) == list(range(100))
            (only,) = engine._feeds.readers
            assert {len(feed.cursors) for feed in only.feeds.values()} == {5}
            late = await reader(engine, beginning(log))
            assert sorted(numbers(await take(late, 100))) == list(range(100))
            await store(engine, log.topic, [event(100, slot=0)])
            for group in (*groups, late):
                assert numbers(await take(group, 1)) == [100]
            await until(lambda: len(engine._feeds.readers) == 1)
            for group in (*groups, late):
                await group.close()
            assert not only.feeds

    asyncio.run(main())


def test_a_slow_group_holds_up_no_fast_one_and_comes_back(kafka, monkeypatch):
    monkeypatch.setattr(kafka_feeds, "EVENTS", 1000)

    async def main():
        async with opened(kafka) as (engine, log):
            slow, fast = [await reader(engine, beginning(log)) for _ in range(2)]
            await store(engine, log.topic, events(range(1)))
            assert numbers(await take(slow, 1)) == numbers(await take(fast, 1)) == [0]
            assert len(engine._feeds.readers) == 1
            for start in range(1, 10_001, 1000):
                await store(engine, log.topic, events(range(start, start + 1000), "k"))
            assert numbers(await take(fast, 10_000)) == list(range(1, 10_001))
            assert len(engine._feeds.readers) == 2
            held = sum(feed.events for each in engine._feeds.readers for feed in each.feeds.values())
            assert held < 2 * 1000 + 2 * 500 * 5, "what is read ahead is bounded"
            assert numbers(await take(slow, 10_000)) == list(range(1, 10_001))
            await store(engine, log.topic, events(range(10_001, 10_011), "k"))
            for group in (fast, slow):
                assert numbers(await take(group, 10)) == list(range(10_001, 10_011))
            await until(lambda: len(engine._feeds.readers) == 1)

    asyncio.run(main())


def test_a_partition_that_nobody_takes_holds_up_no_other(kafka, monkeypatch):
    monkeypatch.setattr(kafka_feeds, "EVENTS", 1000)

    async def main():
        async with opened(kafka, 2) as (engine, log):
            first, second = log.partitions(1)
            group = await reader(engine, beginning(log))
            await store(engine, log.topic, [event(0, slot=0), event(0, slot=1)])
            await take(group, 2)
            group.pause(first)
            for start in range(1, 5001, 1000):
                await store(engine, log.topic, [event(n, slot=0) for n in range(start, start + 1000)])
            for n in range(1, 4):
                await store(engine, log.topic, [event(n, slot=1)])
                (batch,) = await take(group, 1)
                assert (batch.partition, numbers([batch])) == (second, [n])
            group.resume(first)
            assert numbers(await take(group, 5000)) == list(range(1, 5001))

    asyncio.run(main())


def test_many_partitions_that_nobody_takes_hold_up_no_other(kafka, monkeypatch):
    """More than may be set aside."""
    monkeypatch.setattr(kafka_feeds, "EVENTS", 1000)

    async def main():
        async with opened(kafka, 8) as (engine, log):
            *others, last = log.partitions(1)
            group = await reader(engine, beginning(log))
            await store(engine, log.topic, [event(0, slot=n) for n in range(8)])
            await take(group, 8)
            for each in others:
                group.pause(each)
            await store(engine, log.topic, [event(n, slot=slot) for slot in range(7) for n in range(1, 2001)])
            for n in range(1, 4):
                await store(engine, log.topic, [event(n, slot=7)])
                (batch,) = await take(group, 1)
                assert (batch.partition, numbers([batch])) == (last, [n])
            held = sum(feed.events for each in engine._feeds.readers for feed in each.feeds.values())
            assert held < 4 * 1000 + 500 * 5, "what is read ahead is bounded"
            for each in others:
                group.resume(each)
            found = await take(group, 7 * 2000)
            for each in others:
                mine = [number for batch in found if batch.partition == each for number in numbers([batch])]
                assert mine == list(range(1, 2001))

    asyncio.run(main())


def test_upkeep_asks_once_for_a_topic_however_many_partitions_are_read(kafka):
    async def main():
        async with opened(kafka, 8) as (engine, log):
            group = await reader(engine, beginning(log))
            await store(engine, log.topic, [event(n, slot=n) for n in range(8)])
            await take(group, 8)
            asked, look = [], engine._topics._look

            async def looked(topic):
                asked.append(topic)
                return await look(topic)

            engine._topics._look = looked
            await engine.maintain()
            assert asked == [log.topic]

    asyncio.run(main())


def test_a_reader_that_stands_still_is_made_anew(kafka):
    async def main():
        async with opened(kafka) as (engine, log):
            group = await reader(engine, beginning(log))
            await store(engine, log.topic, events(range(1)))
            await take(group, 1)
            (only,) = engine._feeds.readers
            before = only.thread
            before._read = lambda consumer: time.sleep(0.01)
            await asyncio.sleep(0.2)
            await store(engine, log.topic, events(range(1, 4)))
            assert numbers(await take(group, 3)) == [1, 2, 3]
            assert only.thread is not before

    asyncio.run(main())


def test_fetch_sizes_are_kept_over_many_small_runs(kafka):
    async def main():
        async with opened(kafka) as (engine, log):
            group = await reader(engine, beginning(log))
            for n in range(60):
                await store(engine, log.topic, [event(n, data=b"x" * 1000)])
            await until(
                lambda: (
                    sum(f.events for f in engine._feeds.readers[0].feeds.values()) == 60
                    if engine._feeds.readers
                    else bool(group._begin())
                )
            )
            (batch,) = await group.fetch(7, SIZE, 1.0)
            assert numbers([batch]) == list(range(7)) and batch.next == 7
            (batch,) = await group.fetch(100, 12_500, 1.0)
            assert len(batch.offsets) == 10
            (batch,) = await group.fetch(100, 1, 1.0)
            assert len(batch.offsets) == 1
            assert numbers(await take(group, 42)) == list(range(18, 60))

    asyncio.run(main())
