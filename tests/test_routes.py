"""Several engines as one: where a topic is, and that nothing is read or appended where it does not belong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from evenflow.clock import VirtualClock
from evenflow.engine import Capabilities, Engine, Generation, Log, Outcome, Partition
from evenflow.engines.memory import MemoryEngine
from evenflow.errors import EngineUnavailable, GroupStopped, Refused
from evenflow.routes import Part, Route, Routes, join
from evenflow.testing.engine_kit import events, numbers, store, take
from evenflow.topic import Topic

TOPIC = Topic("t", partitions=2)


def part(place: str, numbers: Sequence[int], *, sealed: bool = False, goes_on: str = "") -> Part:
    generations = tuple(Generation(number, 2) for number in numbers)
    return Part(place, None, Log("t", "i", generations, sealed, goes_on))  # type: ignore[arg-type]  # no engine is asked


def holders(route: Route) -> list[tuple[int, str]]:
    return [(number, each.place) for number, each in route.holders.items()]


@pytest.mark.parametrize(
    ("parts", "order", "complete"),
    [
        ([part("a", [1])], [(1, "a")], True),
        ([part("a", [1, 2, 3])], [(1, "a"), (2, "a"), (3, "a")], True),
        ([part("b", [2]), part("a", [1], sealed=True, goes_on="b")], [(1, "a"), (2, "b")], True),
        # made in advance, and not sealed yet; or sealed, and not opened yet
        ([part("a", [1]), part("b", [2])], [(1, "a")], True),
        ([part("a", [1], sealed=True), part("b", [2])], [(1, "a")], True),
        # the one that goes on is not known
        ([part("a", [1], sealed=True, goes_on="b")], [(1, "a")], False),
        ([part("a", [1, 3])], [(1, "a")], False),
        # there and back
        (
            [part("a", [1, 3]), part("b", [2], sealed=True, goes_on="a")],
            [(1, "a"), (2, "b"), (3, "a")],
            True,
        ),
        ([part("a", [1, 3]), part("b", [2])], [(1, "a"), (2, "b")], True),
        # a move that was broken off before the seal, and the old engine has grown since
        (
            [part("a", [1, 2], sealed=True, goes_on="b"), part("b", [2, 3])],
            [(1, "a"), (2, "a"), (3, "b")],
            True,
        ),
        # the first engine is no more
        ([part("b", [2], sealed=True, goes_on="c"), part("c", [3, 4])], [(2, "b"), (3, "c"), (4, "c")], True),
    ],
)
def test_generations_of_one_log_are_read_in_order(
    parts: list[Part], order: list[tuple[int, str]], complete: bool
) -> None:
    for given in (parts, parts[::-1]):
        route = join(given)
        assert holders(route) == order
        assert route.complete is complete
        assert [each.number for each in route.log.generations] == [number for number, _ in order]


class Engines:
    """Two engines in memory as one, the first one where topics are made."""

    def __init__(self, *, home: str = "a:") -> None:
        self.clock = VirtualClock()
        self.by_url: dict[str, Engine] = {"a:": MemoryEngine(self.clock), "b:": MemoryEngine(self.clock)}
        self.down: set[str] = set()
        self.a, self.b = self.by_url.values()
        self.one = Routes(list(self.by_url), lambda _: home, self.opened, self.by_url, self.clock)

    async def opened(self, url: str) -> Engine:
        if url in self.down:
            raise EngineUnavailable("it is down", remedy="start it")
        return self.by_url[url]

    async def move(self) -> None:
        log = await self.a.log("t")
        assert log is not None
        await self.b.declare(TOPIC, after=log)
        await self.a.seal("t", "b")


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_what_a_sealed_log_refuses_goes_on_at_once() -> None:
    async def main() -> None:
        engines = Engines()
        one = engines.one
        await one.declare(TOPIC)
        await store(one, "t", events(range(1, 5), "k"))
        await engines.move()
        assert await one.append("t", events(range(5, 8), "k")) == [Outcome.STORED] * 3
        log = await one.log("t")
        assert log is not None
        assert log.generations == (Generation(1, 2), Generation(2, 2))
        consumer = one.consumer("g")
        for generation in (1, 2):
            for each in log.partitions(generation):
                await one.bounds(each)
                consumer.assign(each, 0)
        got = await take(consumer, 7)
        assert sorted(numbers(got)) == list(range(1, 8))
        assert {(each.partition.generation, n) for each in got for n in numbers([each])} == {
            *((1, n) for n in range(1, 5)), *((2, n) for n in range(5, 8)),
        }  # fmt: skip

    run(main())


@pytest.mark.parametrize("fact", [each.name for each in fields(Capabilities)])
def test_several_engines_keep_what_each_of_them_keeps(fact: str) -> None:
    clock = VirtualClock()
    by_url: dict[str, Engine] = {"a:": MemoryEngine(clock), "b:": MemoryEngine(clock)}
    for held in ((True, True), (True, False), (False, False)):
        for engine, has in zip(by_url.values(), held, strict=True):
            engine.capabilities = replace(engine.capabilities, **{fact: has})
        one = Routes(list(by_url), lambda _: "a:", Engines().opened, by_url, clock)
        assert getattr(one.capabilities, fact) is all(held)


def test_one_that_knows_the_old_engine_alone_is_refused_with_the_remedy() -> None:
    async def main() -> None:
        engines = Engines()
        alone = Routes(["a:"], lambda _: "a:", engines.opened, {"a:": engines.a}, engines.clock)
        await alone.declare(TOPIC)
        await store(alone, "t", events(range(1, 5), "k"))
        await engines.move()
        assert await alone.append("t", events(range(5, 8), "k")) == [Outcome.REFUSED] * 3
        assert "moved to b" in alone.trouble
        assert "EVENFLOW_ENGINES__" in alone.trouble
        route = await alone.route("t")
        assert route is not None
        assert not route.complete
        with pytest.raises(
            GroupStopped, match="generation 2 of the topic 't' is in an engine that the settings do not"
        ):
            await alone.bounds(Partition("t", 2, 0))

    run(main())


def test_a_topic_stays_where_it_is_whatever_the_settings_say() -> None:
    async def main() -> None:
        engines = Engines(home="b:")
        await engines.a.declare(TOPIC)
        log = await engines.one.declare(TOPIC)
        assert log == await engines.a.log("t")
        assert await engines.b.log("t") is None
        assert (await engines.one.declare(Topic("new", partitions=1))) == await engines.b.log("new")
        await engines.b.declare(TOPIC, after=log)
        assert await engines.one.log("t") == log, "made in advance there; here it is not sealed"
        await engines.a.seal("t", "b")
        found = await engines.one.log("t")
        assert found is not None
        assert [each.number for each in found.generations] == [1, 2]

    run(main())


def test_two_logs_of_one_name_are_refused_where_neither_is_at_home() -> None:
    async def main() -> None:
        engines = Engines(home="c:")
        engines.by_url["c:"] = MemoryEngine(engines.clock)
        engines.one = Routes(list(engines.by_url), lambda _: "c:", engines.opened, engines.by_url, engines.clock)
        await engines.a.declare(TOPIC)
        await engines.b.declare(TOPIC)
        with pytest.raises(Refused, match="as another log"):
            await engines.one.log("t")

    run(main())


def test_an_engine_that_nothing_is_in_may_be_away() -> None:
    async def main() -> None:
        engines = Engines()
        engines.down = {"b:"}
        await engines.a.declare(TOPIC)
        assert await engines.one.declare(TOPIC) == await engines.a.log("t")
        with pytest.raises(EngineUnavailable, match="cannot be asked for the topic 'new'"):
            await engines.one.declare(Topic("new", partitions=1))

    run(main())


def test_publishers_wait_while_a_sealed_log_is_to_be_opened() -> None:
    async def main() -> None:
        engines = Engines()
        one, log = engines.one, await engines.one.declare(TOPIC)
        await engines.b.declare(TOPIC, after=log)
        await engines.a.seal("t")
        appending = asyncio.ensure_future(one.append("t", events(range(1, 3), "k")))
        for _ in range(5):
            await asyncio.sleep(0)
            engines.clock.advance_to(engines.clock.now() + 0.1)
        assert not appending.done()
        await engines.a.seal("t", "b")
        while not appending.done():
            await asyncio.sleep(0)
            engines.clock.advance_to(engines.clock.now() + 0.1)
        assert appending.result() == [Outcome.STORED] * 2
        assert sum([(await engines.b.bounds(Partition("t", 2, n))).high for n in range(2)]) == 2

    run(main())


def test_what_groups_tell_is_kept_by_the_engine_that_it_is_of() -> None:
    async def main() -> None:
        engines = Engines()
        one = engines.one
        await one.declare(TOPIC)
        await engines.move()
        positions = {Partition("t", 1, 0): 3, Partition("t", 2, 1): 4}
        await one.told("g", "s", positions)
        await one.told("relay", "s", {Partition("", 0, 0): 9})
        assert [told.positions if (told := await each.recall("g")) else None for each in (engines.a, engines.b)] == [
            {Partition("t", 1, 0): 3}, {Partition("t", 2, 1): 4},
        ]  # fmt: skip
        both: Mapping[str, Any] = await one.readers("t")
        assert both == {"g": positions}
        for each in (engines.a, engines.b, one):
            told = await each.recall("relay")
            assert told is not None
            assert told.positions == {Partition("", 0, 0): 9}
        told = await one.recall("g")
        assert told is not None
        assert (told.store, told.positions) == ("s", positions)
        assert await one.backlog(dict.fromkeys(positions, 0)) is not None

    run(main())


def test_a_fetch_waits_for_whichever_engine_is_first() -> None:
    async def main() -> None:
        engines = Engines()
        one = engines.one
        await one.declare(TOPIC)
        await engines.b.declare(Topic("u", partitions=1))
        log = await one.log("u")
        assert log is not None
        consumer = one.consumer("g")
        for each in (Partition("t", 1, 0), Partition("u", 1, 0)):
            await one.bounds(each)
            consumer.assign(each, 0)
        await consumer.fetch(10, 1000, 0.0)
        for topic in ("u", "t", "u"):
            waiting = asyncio.ensure_future(consumer.fetch(10, 1000, None))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
            await store(one, topic, events([1], None))
            for _ in range(20):
                await asyncio.sleep(0)
            assert waiting.done()
            assert [each.partition.topic for each in waiting.result()] == [topic]
            assert not await consumer.fetch(10, 1000, 0.0)
        waiting = asyncio.ensure_future(consumer.fetch(10, 1000, None))
        await asyncio.sleep(0)
        consumer.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        assert waiting.done()

    run(main())
