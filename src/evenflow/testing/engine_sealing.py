"""Checks of engines: a log that moves. It is sealed in one engine, and goes on in another as the same log."""

from __future__ import annotations

import asyncio

from evenflow.engine import Generation, Log, Outcome
from evenflow.errors import Refused
from evenflow.ids import new_id
from evenflow.testing.engine_kit import (
    EngineFactory,
    beginning,
    events,
    need,
    numbers,
    raised,
    reader,
    store,
    take,
    topic_of,
)
from evenflow.testing.suite import expect
from evenflow.topic import Topic


def _elsewhere(topic: str, *partitions: int) -> Log:
    """A log of this topic as another engine holds it."""
    generations = tuple(Generation(number, count) for number, count in enumerate(partitions, 1))
    return Log(topic, new_id(), generations, sealed=True, goes_on="here")


async def check_sealed_takes_nothing_more(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine, 2)
        await store(engine, name, events(range(10), "k"))
        sealed = await engine.seal(name, "the other engine")
        expect(sealed.sealed and sealed.goes_on == "the other engine", f"sealed, with its words: {sealed}")
        expect(sealed.generations == log.generations, "a seal makes no generation")
        expect(await engine.log(name) == sealed, "log() tells of the seal")
        answers = await engine.append(name, events(range(10, 13), "k"))
        expect(list(answers) == [Outcome.REFUSED] * 3, f"an append behind the seal is refused, not {list(answers)}")
        expect("the other engine" in engine.trouble, f"trouble says where it goes on: {engine.trouble!r}")
        expect(numbers(await take(await reader(engine, beginning(log)), 10)) == list(range(10)), "nothing is lost")
        ends = [(await engine.bounds(each)).high for each in beginning(log)]
        expect(sum(ends) == 10, "nothing stands behind the seal")


async def check_sealed_again_says_more(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, _ = await topic_of(engine)
        first = await engine.seal(name)
        expect(first.sealed and not first.goes_on, "it may be sealed before it is known to go on")
        expect((await engine.seal(name, "there")).goes_on == "there", "and told then where")
        expect((await engine.seal(name)).goes_on == "there", "words are not forgotten")
        declared = await engine.declare(Topic(name, partitions=4))
        expect(len(declared.generations) == 1 and declared.sealed, "a sealed log gets no new generation")
        await raised(Refused, engine.seal("check.nowhere", "there"), "sealing a topic that is not there")


async def check_seal_is_for_every_process(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.shared, "one process alone uses it")
        name, log = await topic_of(engine, 4)
        async with factory() as other:
            stored: list[int] = []
            sealing = asyncio.Event()

            async def publish() -> None:
                number = 0
                while True:
                    batch = events(range(number, number + 5), f"k{number % 7}")
                    answers = await other.append(name, batch)
                    stored.extend(
                        each.number for each, answer in zip(batch, answers, strict=True) if answer is Outcome.STORED
                    )
                    number += 5
                    if Outcome.REFUSED in answers:
                        return
                    if number >= 50:
                        sealing.set()
                    await asyncio.sleep(0)

            task = asyncio.create_task(publish())
            await sealing.wait()
            await engine.seal(name, "there")
            ends = {each: (await engine.bounds(each)).high for each in beginning(log)}
            await asyncio.wait_for(task, 15.0)
            again = {each: (await engine.bounds(each)).high for each in beginning(log)}
            expect(ends == again, "once sealed, the ends of the log are final")
            got = numbers(await take(await reader(engine, beginning(log)), len(stored)))
            expect(sorted(got) == stored, "all that was answered stored stands before the seal, and nothing else")


async def check_log_goes_on_here(factory: EngineFactory) -> None:
    async with factory() as engine:
        old = _elsewhere("check.t" + new_id().replace("-", ""), 2, 4)
        topic = Topic(old.topic, partitions=8)
        log = await engine.declare(topic, after=old)
        expect(log.incarnation == old.incarnation, "it is the same log")
        expect(log.generations == (Generation(3, 8),), f"its generations are counted on: {log.generations}")
        expect(not log.sealed, "it is open here")
        expect(await engine.declare(topic, after=old) == log, "a second call finds it made")
        expect(await engine.declare(topic) == log, "so does whoever declares it without knowing")
        await store(engine, old.topic, events(range(20), "k"))
        batches = await take(await reader(engine, beginning(log)), 20)
        expect(numbers(batches) == list(range(20)), "it takes events and gives them")
        expect({each.partition.generation for each in batches} == {3}, "batches name the generation as it counts")
        later = await engine.declare(Topic(old.topic, partitions=2))
        expect(later.generations == (Generation(3, 8), Generation(4, 2)), f"and on: {later.generations}")


async def check_log_comes_back(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, first = await topic_of(engine, 2)
        await store(engine, name, events(range(5), "k"))
        await engine.seal(name, "there")
        there = Log(name, first.incarnation, (Generation(2, 4),))
        back = await engine.declare(Topic(name, partitions=2), after=there)
        expect(back.generations == (Generation(1, 2), Generation(3, 2)), f"it has a gap: {back.generations}")
        expect(not back.sealed, "and is open again")
        await store(engine, name, events(range(5, 9), "k"))
        got = await take(await reader(engine, beginning(back)), 9)
        expect(sorted(numbers(got)) == list(range(9)), "what was here before is still here")


async def check_another_log_is_not_continued(factory: EngineFactory) -> None:
    async with factory() as engine:
        name, log = await topic_of(engine)
        call = engine.declare(Topic(name, partitions=1), after=_elsewhere(name, 1))
        await raised(Refused, call, "continuing another log of this name")
        expect(await engine.log(name) == log, "it stays as it was")


async def check_seal_outlives_a_restart(factory: EngineFactory) -> None:
    async with factory() as engine:
        need(engine.capabilities.durable, "nothing outlives its process")
        name, _ = await topic_of(engine)
        await store(engine, name, events(range(3)))
        sealed = await engine.seal(name, "there")
    async with factory() as engine:
        expect(await engine.log(name) == sealed, "the seal is durable")
        answers = await engine.append(name, events(range(3, 4)))
        expect(list(answers) == [Outcome.REFUSED], "and holds")
