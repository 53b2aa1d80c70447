"""Checks of an engine: what it removes, what it never removes, and what it remembers of groups."""

from __future__ import annotations

import asyncio

from evenflow.engine import Engine, Partition
from evenflow.errors import GroupStopped
from evenflow.ids import new_id
from evenflow.testing.engine_kit import (
    SIZE,
    TIDIES,
    EngineFactory,
    beginning,
    event,
    events,
    need,
    numbers,
    raised,
    reader,
    store,
    take,
    topic_of,
    until,
)
from evenflow.testing.suite import expect


async def _old_is_gone(engine: Engine, part: Partition, offset: int) -> None:
    async def gone() -> bool:
        await engine.maintain()
        return (await engine.bounds(part)).low >= offset

    await until(gone, f"maintain() removes what stands before offset {offset}")


async def check_a_group_that_was_given_up_is_nobodys(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        (part, *_) = log.partitions(1)
        await engine.told(name, "one", {part: 7})
        await engine.told(name, "", {part: 0})
        found = await engine.recall(name)
        expect(found is not None and (found.store, found.positions[part]) == ("", 0), f"it is still kept: {found}")


async def check_a_check_up_finds_nothing_wrong_and_changes_nothing(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        await store(engine, name, events(range(10), "k"))
        wrong = [each for each in await engine.examine(deep=True) if each.level == "wrong"]
        expect(not wrong, f"a sound engine is wrong: {wrong}")
        expect(numbers(await take(await reader(engine, beginning(log)), 10)) == list(range(10)), "events are missing")


async def check_maintain_without_facts_removes_nothing(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        await store(engine, name, events(range(10), "k"))
        await engine.maintain()
        expect(numbers(await take(await reader(engine, beginning(log)), 10)) == list(range(10)), "events are missing")


async def check_retention_by_age(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.tidies, TIDIES)
        name, log = await topic_of(engine, retention=0.3)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, events(range(10)))
        high = (await engine.bounds(part)).high
        await _old_is_gone(engine, part, high)
        expect((await engine.bounds(part)).high == high, "the end stays where it was")
        await store(engine, name, events([10]))
        batches = await take(await reader(engine, {part: high}), 1)
        expect(batches[0].offsets[0] >= high, "an offset was used again")
        expect(await engine.read(part, high - 1) is None, "what was removed is not read back")


async def check_retention_by_bytes(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.tidies, TIDIES)
        name, log = await topic_of(engine, retention_bytes=20_000)
        (part,) = log.partitions(log.generations[0].number)
        for number in range(50):
            await store(engine, name, [event(number, data=b"x" * 1000)])
        await engine.maintain()
        found = await engine.bounds(part)
        left = numbers(await take(await reader(engine, {part: found.low}), 10))
        expect(left == list(range(50 - len(left), 50)), "the oldest go first")
        expect(10 <= len(left) <= 20, f"20 kB of events of 1 kB are {len(left)} events")


async def check_retention_that_reaches_unread_stops_the_group(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.tidies, TIDIES)
        name, log = await topic_of(engine, retention=0.3)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, events(range(10)))
        consumer = await reader(engine, {part: 0}, "check.slow")
        (batch,) = await take(consumer, 4, limit=4)
        waiting = {part: batch.next}
        await _old_is_gone(engine, part, (await engine.bounds(part)).high)
        error = await raised(GroupStopped, consumer.fetch(10, SIZE, 1.0), "a fetch of events that were removed")
        for word in ("check.slow", name, str(waiting[part])):
            expect(word in str(error), f"the error does not say {word!r}: {error}")
        expect("evenflow groups seek check.slow --to beginning" in error.remedy, "the remedy is a command")
        consumer.assign(part, (await engine.bounds(part)).low)
        await store(engine, name, events([10]))
        expect(numbers(await take(consumer, 1)) == [10], "after the seek the group goes on")


async def check_retention_wakes_nobody_who_has_read_all(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.tidies, TIDIES)
        name, log = await topic_of(engine, retention=0.2)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, events(range(5)))
        consumer = await reader(engine, {part: 0})
        await take(consumer, 5)
        await _old_is_gone(engine, part, (await engine.bounds(part)).high)
        await store(engine, name, events([5]))
        expect(numbers(await take(consumer, 1)) == [5], "a group that has read everything goes on over the removal")


async def check_compaction_keeps_latest_per_key(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.tidies, TIDIES)
        name, log = await topic_of(engine, compacted=True)
        (part,) = log.partitions(log.generations[0].number)
        for start in range(0, 60, 20):
            await store(engine, name, [event(n, f"k{n % 6}", slot=0) for n in range(start, start + 20)])
        await store(engine, name, [event(60, None)])
        before = await engine.bounds(part)

        async def compacted() -> bool:
            await engine.maintain()
            return (await engine.backlog({part: 0}))[part].waiting == 7

        await until(compacted, "maintain() leaves the latest of each of six keys, and what has no key")
        batches = await take(await reader(engine, {part: 0}), 7)
        expect(numbers(batches) == [54, 55, 56, 57, 58, 59, 60], f"left are {numbers(batches)}")
        expect(await engine.bounds(part) == before, "compaction moves neither end")
        offsets = [offset for batch in batches for offset in batch.offsets]
        covered = await engine.read(part, offsets[2])
        expect(covered is not None and covered[1].number == 56, "a place is still read back")
        earlier = await engine.read(part, offsets[0] - 1)
        expect(earlier is None, "what was removed is not read back")
        await store(engine, name, [event(61, "k0", slot=0)])
        (last,) = await take(await reader(engine, {part: batches[-1].next}), 1)
        expect(last.envelopes[0].number == 61 and last.offsets[0] >= before.high, "an offset was used again")


async def check_compaction_lets_readers_pass_gaps(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, compacted=True)
        (part,) = log.partitions(log.generations[0].number)
        await store(engine, name, [event(n, "k", slot=0) for n in range(30)])
        consumer = await reader(engine, {part: 0})
        await take(consumer, 10, limit=10)
        await engine.maintain()
        got: list[int] = []
        while not got or got[-1] != 29:
            got += numbers(await take(consumer, 1, limit=4))
        expect(got == sorted(set(got)), "a reader in the middle goes on in order")
        await store(engine, name, [event(30, "k", slot=0)])
        expect(numbers(await take(consumer, 1)) == [30], "and over the gap to what is new")


async def check_compaction_under_a_new_reader_is_calm(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, compacted=True)
        (part,) = log.partitions(log.generations[0].number)
        for turn in range(6):
            appending = store(engine, name, [event(turn * 100 + n, f"k{n}", slot=0) for n in range(100)])
            await asyncio.gather(appending, engine.maintain())
        await engine.maintain()
        consumer = await reader(engine, {part: 0})
        got: list[int] = []
        while not got or got[-1] != 599:
            got += numbers(await take(consumer, 1))
        expect(got[-100:] == list(range(500, 600)), "the latest of every key is there, in order")


async def check_readers_are_the_groups_that_have_told(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        other, other_log = await topic_of(engine)
        first, second = log.partitions(log.generations[0].number)
        (elsewhere,) = other_log.partitions(other_log.generations[0].number)
        expect(await engine.readers(name) == {}, "nobody has told of this topic")
        one, two = sorted(f"check.{new_id()}" for _ in range(2))
        await engine.told(one, "store-1", {first: 5, second: 0})
        await engine.told(two, "store-2", {first: 7, elsewhere: 3})
        expect(await engine.readers(name) == {one: {first: 5, second: 0}, two: {first: 7}}, "by group, of this topic")
        expect(await engine.readers(other) == {two: {elsewhere: 3}}, "by group, of the other")
        names = list(await engine.groups())
        expect([each for each in names if each in (one, two)] == [one, two], f"both are among the groups: {names}")
        await engine.told(one, "", {first: 0, second: 0})
        expect(await engine.readers(name) == {two: {first: 7}}, "a group that was dropped is none")


async def check_told_is_recalled(factory: EngineFactory) -> None:
    async with factory() as engine:
        _, log = await topic_of(engine, 2)
        first, second = log.partitions(log.generations[0].number)
        group = f"check.{log.topic}"
        expect(await engine.recall(group) is None, "nobody has told of this group")
        await engine.told(group, "store-1", {first: 5})
        await engine.told(group, "store-1", {second: 7, first: 6})
        found = await engine.recall(group)
        expect(found is not None and found.store == "store-1", "the store's identity is kept")
        expect(found is not None and dict(found.positions) == {first: 6, second: 7}, "the last told position counts")
        await engine.told(group, "store-2", {first: 2})
        found = await engine.recall(group)
        expect(found is not None and found.store == "store-2" and found.positions[first] == 2, "a seek back is kept")


async def check_incarnation_differs_between_topics(factory: EngineFactory) -> None:
    async with factory() as engine:
        logs = [(await topic_of(engine))[1] for _ in range(5)]
        expect(len({each.incarnation for each in logs}) == 5, "each log has an incarnation of its own")
        expect(all(each.incarnation for each in logs), "an incarnation is not empty")
