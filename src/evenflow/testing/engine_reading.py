"""Checks of an engine: what a consumer's fetch promises, and the questions about places in a log."""

from __future__ import annotations

import asyncio
import time

from evenflow.engine import Backlog, Partition
from evenflow.errors import GroupStopped
from evenflow.testing.engine_kit import (
    BREATH,
    SECONDS,
    SIZE,
    EngineFactory,
    batches_of,
    beginning,
    event,
    events,
    nothing,
    numbers,
    raised,
    reader,
    store,
    take,
    topic_of,
)
from evenflow.testing.suite import expect


async def check_fetch_waits_and_wakes(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        consumer = await reader(engine, beginning(log))
        waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
        await asyncio.sleep(0.02)
        expect(not waiting.done(), "a fetch without an end waits for the first event")
        await store(engine, name, events([1], "k"))
        async with asyncio.timeout(10):
            expect(numbers(batches_of(await waiting)) == [1], "an append lets a waiting fetch return with it")
        waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
        await asyncio.sleep(0.02)
        consumer.wake()
        async with asyncio.timeout(10):
            expect(len(await waiting) == 0, "wake() lets a waiting fetch return empty")


async def check_fetch_returns_empty_after_its_wait(factory: EngineFactory) -> None:
    async with factory() as engine:
        _, log = await topic_of(engine)
        consumer = await reader(engine, beginning(log))
        start = time.monotonic()
        expect(len(await consumer.fetch(10, SIZE, 0.05)) == 0, "nothing there, nothing fetched")
        expect(time.monotonic() - start >= 0.04, "a fetch waits as long as it was asked to")
        expect(len(await consumer.fetch(10, SIZE, 0.0)) == 0, "a wait of zero only looks")


async def check_wake_before_fetch_is_not_lost(factory: EngineFactory) -> None:
    async with factory() as engine:
        _, log = await topic_of(engine)
        consumer = await reader(engine, beginning(log))
        consumer.wake()
        async with asyncio.timeout(10):
            expect(len(await consumer.fetch(10, SIZE, None)) == 0, "the next fetch returns at once")
        waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, 0.05))
        await asyncio.sleep(0)
        expect(not waiting.done(), "one wake() lets one fetch return")
        await waiting


async def check_fetch_reads_nothing_before_assign(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        await store(engine, name, events(range(3)))
        consumer = engine.consumer("check.nothing")
        await nothing(consumer, "read without having been assigned")
        waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
        await asyncio.sleep(0.01)
        consumer.assign(log.partitions(log.generations[0].number)[0], 1)
        async with asyncio.timeout(10):
            expect(numbers(batches_of(await waiting)) == [1, 2], "assign() while a fetch waits is noticed")
        await consumer.close()


async def check_fetch_is_bounded_by_limit(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 4)
        await store(engine, name, [event(number, slot=number % 4) for number in range(400)])
        consumer = await reader(engine, beginning(log))
        got: list[int] = []
        deadline = time.monotonic() + SECONDS
        while len(got) < 400 and time.monotonic() < deadline:
            found = numbers(batches_of(await consumer.fetch(7, SIZE, 0.01)))
            expect(len(found) <= 7, f"a fetch of at most 7 gave {len(found)}")
            got += found
        expect(sorted(got) == list(range(400)), "small fetches give everything, once")


async def check_fetch_is_bounded_by_size(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        for number in range(50):
            await store(engine, name, [event(number, data=b"x" * 10_000)])
        consumer = await reader(engine, beginning(log))
        found = batches_of(await consumer.fetch(1000, 100_000, 1.0))
        expect(1 <= len(numbers(found)) <= 20, f"about 100 kB were asked for, {len(numbers(found))} of 10 kB came")
        found = batches_of(await consumer.fetch(1000, 1, 1.0))
        expect(len(numbers(found)) == 1, "an event larger than the size still comes, alone")


async def check_fetch_is_fair(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 8)
        await store(engine, name, [event(number, slot=0) for number in range(5000)])
        await store(engine, name, [event(slot, slot=slot) for slot in range(1, 8)])
        consumer = await reader(engine, beginning(log))
        seen: list[Partition] = []
        for _ in range(8):
            seen += [batch.partition for batch in batches_of(await consumer.fetch(100, SIZE, 1.0))]
            await asyncio.sleep(BREATH)
        expect(len(set(seen)) == 8, f"after 8 fetches a long partition still hides {8 - len(set(seen))} others")


async def check_fetch_starts_in_the_middle(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        await store(engine, name, events(range(100)))
        (part,) = log.partitions(log.generations[0].number)
        every = [offset for batch in await take(await reader(engine, {part: 0}), 100) for offset in batch.offsets]
        for start in (1, 50, 99):
            batches = await take(await reader(engine, {part: every[start]}), 100 - start, limit=13)
            expect(numbers(batches) == list(range(start, 100)), f"reading from offset {every[start]} began elsewhere")
            expect(batches[0].offsets[0] == every[start], "an offset names the same event for every reader")


async def check_next_is_where_to_read_on(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, events(range(20)))
        (batch,) = batches_of(await (await reader(engine, {part: 0})).fetch(8, SIZE, 1.0))
        batches = await take(await reader(engine, {part: batch.next}), 12)
        expect(numbers(batches) == list(range(8, 20)), "another reader goes on at `next` without gap or repeat")
        expect((await engine.bounds(part)).high == batches[-1].next, "at the end, `next` is the high end")


async def check_paused_partition_gives_nothing(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        first, second = log.partitions(log.generations[0].number)
        consumer = await reader(engine, beginning(log))
        consumer.pause(first)
        await store(engine, name, [event(0, slot=0), event(1, slot=1)])
        found = await take(consumer, 1)
        expect({each.partition for each in found} == {second}, "a paused partition gave an event")
        await nothing(consumer, "a paused partition gave an event")
        waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
        await asyncio.sleep(0.01)
        consumer.resume(first)
        async with asyncio.timeout(10):
            expect(numbers(batches_of(await waiting)) == [0], "resume() while a fetch waits is noticed")


async def check_released_partition_gives_nothing(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        first, second = log.partitions(log.generations[0].number)
        consumer = await reader(engine, beginning(log))
        consumer.release(first)
        await store(engine, name, [event(0, slot=0), event(1, slot=1)])
        expect({each.partition for each in await take(consumer, 1)} == {second}, "a released partition gave an event")
        await nothing(consumer, "a released partition gave an event")


async def check_assign_again_seeks(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, events(range(10)))
        consumer = await reader(engine, {part: 0})
        offsets = [offset for batch in await take(consumer, 10) for offset in batch.offsets]
        consumer.assign(part, offsets[4])
        expect(numbers(await take(consumer, 6)) == list(range(4, 10)), "assign() at an earlier offset seeks there")


async def check_groups_read_independently(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        await store(engine, name, [event(number, slot=number % 2) for number in range(40)])
        readers = [await reader(engine, beginning(log)) for _ in range(3)]
        for consumer in readers:
            expect(sorted(numbers(await take(consumer, 40, limit=9))) == list(range(40)), "each group reads everything")


async def check_cancelled_fetch_loses_nothing(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        consumer = await reader(engine, beginning(log))
        for number in range(10):
            waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
            await asyncio.sleep(0)
            storing = asyncio.ensure_future(store(engine, name, events([number])))
            for _ in range(number):
                await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                await storing
                expect(numbers(await take(consumer, 1)) == [number], "what a cancelled fetch looked at comes again")
            else:
                await storing
                expect(numbers(batches_of(await waiting)) == [number], "events came twice or not at all")


async def check_bounds_tell_what_is_kept(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part,) = log.partitions(log.generations[0].number)
        empty = await engine.bounds(part)
        expect(empty.low == empty.high, "an empty partition begins where it ends")
        await store(engine, name, events(range(5)))
        found = await engine.bounds(part)
        (batch,) = await take(await reader(engine, {part: found.low}), 5)
        expect((found.low, found.high) == (batch.offsets[0], batch.next), "bounds are first offset and end")


async def check_read_back_last_covered(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part,) = log.partitions(log.generations[0].number)
        expect(await engine.read(part, 5) is None, "nothing is kept, nothing is read back")
        await store(engine, name, events(range(10)))
        (batch,) = await take(await reader(engine, {part: 0}), 10)
        for place in (0, 4, 9):
            found = await engine.read(part, batch.offsets[place])
            expect(found is not None and found[0] == batch.offsets[place], "the event at an offset stands there")
            expect(found is not None and found[1] == batch.envelopes[place], "and is the one that was fetched")
        found = await engine.read(part, batch.next + 100)
        expect(found is not None and found[0] == batch.offsets[-1], "past the end, the last event is the last covered")
        expect(await engine.read(part, batch.offsets[0] - 1) is None, "before the first one stands none")


async def check_find_by_time(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part,) = log.partitions(log.generations[0].number)
        expect(await engine.find(part, 0.0) == (await engine.bounds(part)).high, "in an empty log, the end is found")
        moments = []
        for number in range(5):
            moments.append(time.time())
            await asyncio.sleep(0.02)
            await store(engine, name, events(range(number * 3, number * 3 + 3)))
            await asyncio.sleep(0.02)
        offsets = [offset for batch in await take(await reader(engine, {part: 0}), 15) for offset in batch.offsets]
        for number, moment in enumerate(moments):
            found = await engine.find(part, moment)
            expect(found == offsets[number * 3], f"what was appended since moment {number} begins at another offset")
        expect(await engine.find(part, 0.0) == offsets[0], "since ever: the first")
        expect(await engine.find(part, time.time() + 60) == (await engine.bounds(part)).high, "in future: the end")


async def check_backlog_counts_and_dates(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        first, second = log.partitions(log.generations[0].number)
        await store(engine, name, [event(number, slot=0) for number in range(10)])
        (batch,) = await take(await reader(engine, {first: 0}), 10)
        for place in (0, 3, 9):
            found = await engine.backlog({first: batch.offsets[place], second: 0})
            expect(found[first] == Backlog(10 - place, 1000.0 + place), f"from event {place} on: {found[first]}")
            expect(found[second] == Backlog(0, None), "nothing waits in an empty partition")
        found = await engine.backlog({first: batch.next})
        expect(found[first] == Backlog(0, None), "nothing waits at the end")


async def check_position_past_the_end_stops_the_group(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, events(range(3)))
        consumer = await reader(engine, {part: (await engine.bounds(part)).high + 5}, "check.ahead")
        error = await raised(GroupStopped, consumer.fetch(10, SIZE, 0.1), "a position behind the end of the log")
        expect("check.ahead" in str(error) and "evenflow groups seek" in error.remedy, "it names group and command")
