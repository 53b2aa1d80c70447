"""Checks of an engine: what outlives it, and what several of them do on one log."""

from __future__ import annotations

import asyncio

from evenflow.engine import Bounds
from evenflow.testing.engine_kit import (
    BREATH,
    SIZE,
    TIDIES,
    EngineFactory,
    batches_of,
    beginning,
    event,
    events,
    need,
    numbers,
    reader,
    store,
    take,
    topic_of,
    until,
)
from evenflow.testing.suite import expect
from evenflow.topic import Topic


async def check_reopen_keeps_everything(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.durable, "only durable engines keep anything")
        name, log = await topic_of(engine, 4, retention=3600.0)
        part = log.partitions(log.generations[0].number)[0]
        sent = [event(number, slot=number % 4) for number in range(100)]
        await store(engine, name, sent)
        await engine.told(name, "store", {part: 3})
        ends = [await engine.bounds(each) for each in log.partitions(log.generations[0].number)]
    async with factory() as engine:
        expect(await engine.log(name) == log, "the log is the same, with its incarnation")
        again = [await engine.bounds(each) for each in log.partitions(log.generations[0].number)]
        expect(again == ends, "bounds are the same")
        got = [each for batch in await take(await reader(engine, beginning(log)), 100) for each in batch.envelopes]
        expect(sorted(got, key=lambda each: each.number) == sent, "every event is there, unchanged")
        told = await engine.recall(name)
        expect(told is not None and dict(told.positions) == {part: 3}, "what was told is remembered")
        await store(engine, name, [event(100, slot=0)])
        expect((await engine.bounds(part)).high > ends[0].high, "appending goes on behind")


async def check_incarnation_differs_after_delete(factory: EngineFactory) -> None:
    wipe = getattr(factory, "wipe", None)
    need(wipe is not None, "the factory has no wipe()")
    assert wipe is not None
    async with factory() as engine:
        name, log = await topic_of(engine)
    await wipe()
    async with factory() as engine:
        expect(await engine.log(name) is None, "a log that was deleted is gone")
        again = await engine.declare(Topic(name, partitions=1))
        expect(again.incarnation != log.incarnation, "a log made anew has another incarnation")


async def check_two_engines_append_without_gap_or_repeat(factory: EngineFactory) -> None:
    async with factory() as one, factory() as two:
        need(one.capabilities.shared, "only shared engines may be opened twice")
        name, log = await topic_of(one, 2)
        (await two.declare(Topic(name)),)

        async def append(engine: object, first: int) -> None:
            for number in range(first, first + 60):
                await store(one if engine is one else two, name, [event(number, slot=number % 2)])

        await asyncio.gather(append(one, 0), append(two, 1000))
        batches = await take(await reader(two, beginning(log)), 120)
        got = numbers(batches)
        expect(sorted(got) == [*range(60), *range(1000, 1060)], "each event is there once")
        for part in log.partitions(log.generations[0].number):
            mine = [each for each in batches if each.partition == part]
            own = [n for n in numbers(mine) if n < 1000]
            expect(own == sorted(own), "each engine's own order is kept")
            expect(await one.bounds(part) == await two.bounds(part), "both see the same bounds")


async def check_other_engine_sees_new_events_while_it_waits(factory: EngineFactory) -> None:
    async with factory() as one, factory() as two:
        need(one.capabilities.shared, "only shared engines may be opened twice")
        name, log = await topic_of(one)
        await two.declare(Topic(name))
        consumer = await reader(two, beginning(log))
        for number in range(5):
            waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
            await asyncio.sleep(0.02)
            await store(one, name, events([number]))
            async with asyncio.timeout(10):
                expect(numbers(batches_of(await waiting)) == [number], "an idle engine sees what another one appended")


async def check_busy_engine_sees_other_partitions(factory: EngineFactory) -> None:
    async with factory() as one, factory() as two:
        need(one.capabilities.shared, "only shared engines may be opened twice")
        name, log = await topic_of(one, 2)
        await store(two, name, [event(n, slot=0) for n in range(3000)])
        consumer = await reader(two, beginning(log))
        batches_of(await consumer.fetch(10, SIZE, 1.0))
        await store(one, name, [event(9999, slot=1)])
        seen = False
        for _ in range(10):
            await asyncio.sleep(BREATH)
            seen = seen or 9999 in numbers(batches_of(await consumer.fetch(10, SIZE, 0.0)))
        expect(seen, "an engine that always has something to read never looks for other partitions")


async def check_new_generation_is_seen_by_the_other_engine(factory: EngineFactory) -> None:
    async with factory() as one, factory() as two:
        need(one.capabilities.shared, "only shared engines may be opened twice")
        name, _ = await topic_of(one, 1)
        await store(two, name, events(range(5)))
        log = await one.declare(Topic(name, partitions=4))
        await store(two, name, [event(5 + slot, slot=slot) for slot in range(4)])
        expect(await two.log(name) == log, "the other engine knows the new generation")
        last = log.generations[-1].number
        for slot, part in enumerate(log.partitions(last)):
            found = await two.bounds(part)
            expect(found.high - found.low == 1, f"slot {slot} was not appended to the last generation")


async def check_two_engines_declare_at_once(factory: EngineFactory) -> None:
    async with factory() as one, factory() as two:
        need(one.capabilities.shared, "only shared engines may be opened twice")
        name, _ = await topic_of(one, 1)
        logs = await asyncio.gather(*(each.declare(Topic(name, partitions=2)) for each in (one, two, one, two)))
        expect(len({log.generations for log in logs}) == 1, f"one new generation, not {logs}")


async def check_retention_by_the_other_engine_is_noticed(factory: EngineFactory) -> None:
    async with factory() as one, factory() as two:
        need(one.capabilities.shared, "only shared engines may be opened twice")
        need(one.capabilities.tidies, TIDIES)
        name, log = await topic_of(one, retention=0.2)
        (part,) = log.partitions(log.generations[0].number)
        await store(one, name, events(range(5)))

        async def gone() -> bool:
            await two.maintain()
            return await one.bounds(part) == Bounds(5, 5)

        await until(gone, "what the other engine has removed is known here")
