"""Checks of an engine: topics, and what an append keeps."""

from __future__ import annotations

import asyncio

from evenflow.errors import Refused
from evenflow.testing.engine_kit import (
    EngineFactory,
    batches_of,
    beginning,
    event,
    events,
    numbers,
    raised,
    reader,
    store,
    take,
    topic_of,
)
from evenflow.testing.suite import expect
from evenflow.topic import Topic


async def check_declare_twice_is_one_topic(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 4)
        again = await engine.declare(Topic(name, partitions=4))
        expect(again == log, "declaring the same topic again changed its log")
        expect(await engine.log(name) == log, "log() tells another log than declare()")
        expect([each.partitions for each in log.generations] == [4], "a new topic has one generation")


async def check_other_teams_topic_must_exist(factory: EngineFactory) -> None:
    async with factory() as engine:
        error = await raised(Refused, engine.declare(Topic("check.nobody.has.this")), "declare of a missing topic")
        expect("check.nobody.has.this" in str(error) and error.remedy, "the refusal names topic and remedy")
        expect(await engine.log("check.nobody.has.this") is None, "log() of a missing topic is None")
        name, log = await topic_of(engine, 2)
        expect(await engine.declare(Topic(name)) == log, "an existing topic of another team is found")


async def check_all_topics_are_named(factory: EngineFactory) -> None:
    async with factory() as engine:
        names = [(await topic_of(engine))[0] for _ in range(3)]
        await engine.declare(Topic(names[0], partitions=2))
        found = list(await engine.topics())
        expect(set(names) <= set(found), f"topics are missing: {sorted(set(names) - set(found))}")
        expect(found == sorted(set(found)), "each topic once, in alphabetical order, whatever its generations")


async def check_append_to_unknown_topic_is_refused(factory: EngineFactory) -> None:
    async with factory() as engine:
        error = await raised(Refused, engine.append("check.unknown", [event(1)]), "append to a missing topic")
        expect("check.unknown" in str(error), "the refusal names the topic")


async def check_append_keeps_order_per_slot(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 4)
        sent = [event(number, f"k{number % 7}") for number in range(300)]
        for start in range(0, 300, 50):
            await store(engine, name, sent[start : start + 50])
        got = [each for batch in await take(await reader(engine, beginning(log)), 300) for each in batch.envelopes]
        for slot in sorted({each.slot for each in sent}):
            expect(
                [each for each in got if each.slot == slot] == [each for each in sent if each.slot == slot],
                f"slot {slot} came in another order, or changed",
            )


async def check_append_answers_per_envelope(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, _ = await topic_of(engine, 2)
        expect(len(await engine.append(name, events(range(3)))) == 3, "one answer per envelope")
        expect(len(await engine.append(name, [])) == 0, "no envelopes, no answers")


async def check_partition_is_slot_modulo_count(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 8)
        await store(engine, name, [event(slot, slot=slot) for slot in range(256)])
        for batch in await take(await reader(engine, beginning(log)), 256):
            wrong = [each.slot for each in batch.envelopes if each.slot % 8 != batch.partition.number]
            expect(not wrong, f"slots {wrong[:3]} stand in partition {batch.partition.number} of 8")


async def check_envelopes_come_back_unchanged(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        plain = event(1, None)
        full = event(2, "schlüssel/\N{SNOWMAN}", slot=0, data=bytes(range(256)))
        from msgspec.structs import replace

        full = replace(full, correlation="c", causation="d", content_type="application/x", headers={"a": "ü", "b": ""})
        large = event(3, "big", slot=0, data=b"x" * 300_000)
        last = replace(event(4, ""), slot=0, number=2**62, time=0.1)
        await store(engine, name, [plain, full, large, last])
        got = [each for batch in await take(await reader(engine, beginning(log)), 4) for each in batch.envelopes]
        expect(got == [plain, full, large, last], "an envelope came back changed")


async def check_concurrent_appends_keep_call_order(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        calls = [engine.append(name, events([number], f"k{number % 4}")) for number in range(200)]
        await asyncio.gather(*calls)
        got = [each for batch in await take(await reader(engine, beginning(log)), 200) for each in batch.envelopes]
        for rest in range(4):
            mine = [each.number for each in got if each.number % 4 == rest]
            expect(mine == list(range(rest, 200, 4)), f"calls of one key were stored in another order: {mine[:5]}…")


async def check_one_append_may_be_large(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 1)
        await store(engine, name, events(range(5000), "k"))
        got = numbers(await take(await reader(engine, beginning(log)), 5000))
        expect(got == list(range(5000)), "a large append came back incomplete or in another order")


async def check_generations_append_to_the_last(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, _ = await topic_of(engine, 2)
        await store(engine, name, events(range(10), "k"))
        log = await engine.declare(Topic(name, partitions=8))
        expect([each.partitions for each in log.generations] == [2, 8], f"two generations, not {log.generations}")
        first, second = (each.number for each in log.generations)
        expect(first < second, "generations rise")
        await store(engine, name, events(range(10, 20), "k"))
        old = await reader(engine, dict.fromkeys(log.partitions(first), 0))
        expect(numbers(await take(old, 10)) == list(range(10)), "the old generation keeps its events, and gets no more")
        new = await reader(engine, dict.fromkeys(log.partitions(second), 0))
        batches = await take(new, 10)
        expect(numbers(batches) == list(range(10, 20)), "the new generation has what came after it")
        expect({each.partition.generation for each in batches} == {second}, "batches name their generation")
        expect(not batches_of(await old.fetch(10, 1000, 0.0)), "the old generation ends where the new one began")


async def check_facts_of_a_topic_may_change(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        await store(engine, name, events(range(4), "k"))
        again = await engine.declare(Topic(name, partitions=2, retention=3600.0, compacted=True))
        expect(again == log, "another retention is no other log")
        expect(numbers(await take(await reader(engine, beginning(log)), 4)) == [0, 1, 2, 3], "and loses nothing")
