"""Order of keys in a storm of failures, redrives and processes that come and go; and each thing that a storm found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from evenflow import App, Policy, Service, operate, testing
from evenflow.parking import ask
from evenflow.testing import World
from .events import Placed, loop_of, run
from .storm import one

FEW = Policy(attempts=1, parking=2)


def calls(*, concurrency: int, policy: Policy = FEW) -> tuple[App, list[tuple[str, int]], set[int], dict[int, float]]:
    """A waiting group: what it has done, numbers that fail, and seconds that a number takes."""
    service, done = Service("shop"), list[tuple[str, int]]()
    bad, slow = set[int](), dict[int, float]()
    worlds: list[World] = []

    @service.on(Placed, group="call", concurrency=concurrency, start="beginning", policy=policy)
    async def call(event: Placed) -> None:
        if event.number in slow:
            await worlds[0].clock.sleep(slow[event.number])
        if event.number in bad:
            raise ValueError("a bad day")
        done.append((event.key, event.number))

    app = App(service, events=[Placed])
    app.worlds = worlds  # type: ignore[attr-defined]
    return app, done, bad, slow


async def come(world: World, *numbers: tuple[str, int], seconds: float = 0.1) -> None:
    await world.app.publish(*[Placed(key=key, number=number) for key, number in numbers])
    await world.advance(seconds)


def fetch_again(loop: Any) -> None:
    """What its partition waits for may be over: it is read on."""
    for partition in list(loop._blocked):
        loop.consumer.resume(partition)


async def redrive(world: World) -> None:
    """All dead letters are to be run, whatever is going on."""
    store, loop = world.running.stores["shop"], loop_of(world, "shop.call")
    for each in await world.parked():
        if each.dead:
            await ask(store, each.group, [each], "redrive", "me", world.clock)
    loop.look()


def of(key: str, done: Sequence[tuple[str, int]]) -> list[int]:
    return [number for each, number in done if each == key]


@pytest.mark.parametrize("seed", [2, 7, 13])
def test_a_storm_breaks_no_promise(seed: int) -> None:
    asyncio.run(one(seed, steps=8))


def test_what_found_no_place_in_the_parking_lot_is_not_overtaken_by_what_comes_later() -> None:
    async def test() -> None:
        app, done, bad, slow = calls(concurrency=2)
        async with testing.world(app, patience=0.0) as world:
            app.worlds.append(world)  # type: ignore[attr-defined]
            loop = loop_of(world, "shop.call")
            bad.add(0)
            await come(world, ("a", 0), ("a", 1))
            await come(world, ("a", 2))  # there is no place for it
            bad.clear()
            slow[1] = 5.0
            await redrive(world)
            await world.advance(0.2)  # 0 is done, and 1 is being run
            assert of("a", done) == [0]
            fetch_again(loop)
            await come(world, ("a", 3))
            await world.advance(20.0)
            assert of("a", done) == [0, 1, 2, 3]

    run(test)


def test_a_key_that_is_parked_anew_is_not_overtaken_while_every_worker_is_busy() -> None:
    async def test() -> None:
        app, done, bad, slow = calls(concurrency=1)
        async with testing.world(app, patience=0.0) as world:
            app.worlds.append(world)  # type: ignore[attr-defined]
            loop = loop_of(world, "shop.call")
            bad.add(0)
            await come(world, ("a", 0), ("x", 100), seconds=0.05)
            await come(world, ("a", 5), seconds=0.05)
            await come(world, ("a", 10), seconds=0.05)  # there is no place for it
            bad.clear()
            await redrive(world)
            await world.advance(0.1)
            assert of("a", done) == [0, 5]
            slow[50] = 3.0
            fetch_again(loop)
            await come(world, ("b", 50), ("a", 11), seconds=1.2)  # 10 is parked, 11 waits for the worker
            await come(world, ("a", 12), seconds=0.5)
            await world.advance(20.0)
            assert of("a", done) == [0, 5, 10, 11, 12]

    run(test)


def test_a_partition_is_given_back_though_its_parking_lot_is_full() -> None:
    async def test() -> None:
        app, done, bad, _ = calls(concurrency=2)
        async with testing.world(app, patience=0.0) as world:
            app.worlds.append(world)  # type: ignore[attr-defined]
            loop = loop_of(world, "shop.call")
            bad |= {0, 7}
            await come(world, ("a", 0), ("a", 1))
            await come(world, ("a", 2), ("b", 7))  # there is no place for them
            for partition in list(loop.owned):
                loop.take_back(partition)
            await world.advance(5.0)
            assert not loop._giving
            bad.clear()
            await redrive(world)
            await world.advance(5.0)
            await redrive(world)  # 7 had its one attempt
            await world.advance(5.0)
            assert of("a", done) == [0, 1, 2]
            assert of("b", done) == [7]

    run(test)


def test_giving_back_costs_nothing_while_a_handler_is_waited_for() -> None:
    async def test() -> None:
        app, done, _, slow = calls(concurrency=2)
        async with testing.world(app, patience=0.0) as world:
            app.worlds.append(world)  # type: ignore[attr-defined]
            loop = loop_of(world, "shop.call")
            slow |= {0: 0.5, 2: 4.0}
            settles, settle = list[int](), loop._settle_all

            async def counted(jobs: Any) -> None:
                settles.append(len(jobs))
                assert len(settles) < 500
                await settle(jobs)

            loop._settle_all = counted
            await come(world, ("a", 0), ("a", 1), ("b", 2))
            for partition in list(loop.owned):
                loop.take_back(partition)
            await world.advance(3.0)
            assert len(settles) < 100
            await world.advance(10.0)
            assert of("a", done) == [0, 1]
            assert of("b", done) == [2]

    run(test)


def test_room_that_others_make_in_the_parking_lot_is_seen() -> None:
    async def test() -> None:
        app, done, bad, _ = calls(concurrency=2)
        async with testing.world(app, patience=0.0) as world:
            app.worlds.append(world)  # type: ignore[attr-defined]
            loop = loop_of(world, "shop.call")
            loop.parking.count = 2  # as it was seen when another process had parked so much
            bad.add(0)
            await come(world, ("a", 0), ("b", 1))
            await world.advance(5.0)
            assert [each.envelope.key for each in await world.parked()] == ["a"]
            assert of("b", done) == [1]

    run(test)


def test_what_failed_before_the_clock_was_set_back_is_redriven_at_once() -> None:
    async def test() -> None:
        app, done, bad, _ = calls(concurrency=2)
        async with testing.world(app, patience=0.0) as world:
            app.worlds.append(world)  # type: ignore[attr-defined]
            bad.add(0)
            await come(world, ("a", 0), ("a", 1), seconds=2.0)
            bad.clear()
            world.clock._now -= 3600.0
            await operate.redrive(world.running, "shop.call", None, "me")
            await world.advance(5.0)
            assert of("a", done) == [0, 1]

    run(test)
