"""A topic with a limit on its backlog: who publishes waits or is refused, handlers and the relay never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evenflow import App, Event, Service, Topic, Transaction, operate, testing
from evenflow.protection.backpressure import furthest
from evenflow.clock import VirtualClock
from evenflow.engines.memory import MemoryEngine
from evenflow.errors import BacklogFull, DefinitionError
from evenflow.publish import GatedLine
from evenflow.testing import World
from evenflow.testing.engine_kit import events, store

WAITS = Topic("waits", partitions=2, backlog=10, backlog_wait=5.0)
REFUSES = Topic("refuses", partitions=2, backlog=10, backlog_wait=0)
FREE = Topic("free", partitions=2)


class Waits(Event, type="waits", topic=WAITS, key="key"):
    key: str


class Refuses(Event, type="refuses", topic=REFUSES, key="key"):
    key: str


class Free(Event, type="free", topic=FREE, key="key"):
    key: str


class Here(Event, type="here", topic=Topic("here", partitions=1, backlog=1), key="key"):
    key: str
    left: int


class There(Event, type="there", topic=Topic("there", partitions=1, backlog=1), key="key"):
    key: str
    left: int


@asynccontextmanager
async def full(event: type, *others: Service) -> AsyncGenerator[tuple[World, list[str]]]:
    """The topic of this event is full: its group is paused, and the engine knows."""
    service, done = Service("shop"), list[str]()

    @service.on(event, group="slow", start="beginning")
    async def slow(event: Any) -> None:
        done.append(event.key)

    async with testing.world(App(service, *others, events=[Waits, Refuses, Free])) as world:
        await world.advance(2)
        await operate.pause(world.running, "shop.slow", "me")
        await world.advance(2)
        await world.publish(*(event(key=str(n)) for n in range(10)))
        await world.advance(2)
        yield world, done


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def measured(world: World, event: type) -> None:
    gate = world.running.gates.of(event.__name__.lower())
    assert gate is not None
    await gate.measure()


async def resume(world: World) -> None:
    await operate.resume(world.running, "shop.slow", "me")
    for _ in range(3):
        await world.advance(1.5)


# -- publishing ---------------------------------------------------------------------------------------------------------


def test_it_waits_for_room_in_the_order_of_the_calls() -> None:
    async def test() -> None:
        async with full(Waits) as (world, done):
            calls = [asyncio.create_task(world.app.publish(Waits(key=f"later-{n}"))) for n in range(3)]
            await world.advance(2)
            assert not any(call.done() for call in calls)
            calls.append(asyncio.create_task(world.app.publish(Waits(key="later-3"), Waits(key="later-4"))))
            await resume(world)
            await asyncio.gather(*calls)
            await world.settle()
            assert [each.key for each in world.published(Waits)][10:] == [f"later-{n}" for n in range(5)]
            assert len(done) == 15

    run(test)


def test_after_so_long_it_says_which_group_and_what_to_do() -> None:
    async def test() -> None:
        async with full(Waits) as (world, _):
            call = asyncio.create_task(world.app.publish(Waits(key="x")))
            await world.advance(6)
            with pytest.raises(BacklogFull) as raised:
                await call
            error = raised.value
            assert (error.topic, error.group, error.waiting, error.limit) == ("waits", "shop.slow", 10, 10)
            assert "also after 5 s" in error.message
            assert "evenflow groups show shop.slow" in error.remedy

    run(test)


def test_a_call_that_is_given_up_holds_up_no_other() -> None:
    async def test() -> None:
        async with full(Waits) as (world, _):
            first = asyncio.create_task(world.app.publish(Waits(key="given-up")))
            second = asyncio.create_task(world.app.publish(Waits(key="second")))
            await world.advance(1)
            first.cancel()
            await resume(world)
            await second
            assert [each.key for each in world.published(Waits)][10:] == ["second"]

    run(test)


def test_it_is_refused_at_once_and_goes_on_when_there_is_room() -> None:
    async def test() -> None:
        async with full(Refuses) as (world, _):
            before = world.clock.monotonic()
            with pytest.raises(BacklogFull, match="its limit is 10"):
                await world.app.publish(Refuses(key="x"))
            assert world.clock.monotonic() == before
            await world.app.publish(Free(key="x"))
            await resume(world)
            await world.app.publish(Refuses(key="x"))

    run(test)


def test_a_group_that_is_dropped_holds_up_nobody() -> None:
    async def test() -> None:
        engine = MemoryEngine(VirtualClock())
        log = await engine.declare(REFUSES)
        first, second = log.partitions(1)
        assert await furthest(engine, "refuses") == (0, "")
        await store(engine, "refuses", events(range(30)))
        ends = {part: (await engine.bounds(part)).high for part in (first, second)}
        await engine.told("ahead", "store", ends)
        await engine.told("behind", "store", {first: 0})
        assert await furthest(engine, "refuses") == (30, "behind"), "also in what it has not told of"
        await engine.told("behind", "", {first: 0})
        assert await furthest(engine, "refuses") == (0, "")
        await engine.declare(Topic("refuses", partitions=4))
        await store(engine, "refuses", events(range(8)))
        assert await furthest(engine, "refuses") == (8, "ahead"), "a generation that it has not begun with"

    run(test)


def test_topics_without_a_limit_are_published_as_ever() -> None:
    async def test() -> None:
        async with full(Waits) as (world, _):
            await world.publish(Free(key="x"))
            lines = world.running.publisher._lines
            assert [name for name, line in lines.items() if isinstance(line, GatedLine)] == ["waits"]

    run(test)


# -- transactions -------------------------------------------------------------------------------------------------------


def test_a_commit_waits_before_it_holds_the_write_lock() -> None:
    async def test() -> None:
        async with full(Waits) as (world, _):

            async def place() -> None:
                async with world.app.transaction("shop") as tx:
                    tx.write("insert into placed values (1)")
                    tx.publish(Waits(key="placed"))

            async with world.app.transaction("shop") as tx:
                await tx.execute("create table placed (id integer)")
            call = asyncio.create_task(place())
            await world.advance(1)
            async with asyncio.timeout(3), world.app.transaction("shop") as other:
                await other.execute("insert into placed values (2)")
            assert not call.done()
            assert await world.rows("shop", "select id from placed") == [(2,)]
            await resume(world)
            await call
            assert await world.rows("shop", "select id from placed order by id") == [(1,), (2,)]

    run(test)


def test_a_commit_that_has_waited_too_long_has_done_nothing() -> None:
    async def test() -> None:
        async with full(Waits) as (world, _):

            async def place() -> None:
                async with world.app.transaction("shop") as tx:
                    tx.write("create table placed (id integer)")
                    tx.publish(Waits(key="placed"))

            call = asyncio.create_task(place())
            await world.advance(6)
            with pytest.raises(BacklogFull):
                await call
            assert await world.rows("shop", "select name from sqlite_master where name = 'placed'") == []

    run(test)


@pytest.mark.parametrize("event", [Waits, Refuses])
def test_who_holds_the_write_lock_is_refused_where_it_publishes(event: type) -> None:
    async def test() -> None:
        async with full(event) as (world, _):
            await measured(world, event)
            async with world.app.transaction("shop") as tx:
                await tx.execute("create table placed (id integer)")
                with pytest.raises(BacklogFull):
                    tx.publish(event(key="x"))
                tx.publish(Free(key="x"))
            await world.settle()
            assert world.published(Free) == [Free(key="x")]
            assert len(world.published(event)) == 10

    run(test)


def test_it_is_refused_in_a_transaction_that_has_not_begun() -> None:
    async def test() -> None:
        async with full(Refuses) as (world, _):
            with pytest.raises(BacklogFull):  # nobody knows yet: at the commit
                async with world.app.transaction("shop") as tx:
                    tx.publish(Refuses(key="x"))
            async with world.app.transaction("shop") as tx:
                with pytest.raises(BacklogFull):
                    tx.publish(Refuses(key="x"))

    run(test)


# -- handlers -----------------------------------------------------------------------------------------------------------


def test_what_a_handler_publishes_does_not_wait() -> None:
    service, outer = Service("other"), list[App]()

    @service.on(Free, group="feed", start="beginning")
    async def feed(event: Free) -> Refuses:
        await outer[0].publish(Refuses(key="directly"))
        async with outer[0].transaction("other") as tx:
            tx.publish(Refuses(key="in a transaction"))
        return Refuses(key="returned")

    async def test() -> None:
        async with full(Refuses, service) as (world, _):
            outer.append(world.app)
            await measured(world, Refuses)
            await world.publish(Free(key="x"))
            assert [each.key for each in world.published(Refuses)][10:] == ["directly", "in a transaction", "returned"]

    run(test)


def test_groups_that_feed_each_other_are_never_held() -> None:
    """A publishes into B, B into A, and A into itself: with a limit for handlers they would wait for each other."""
    service = Service("shop")

    @service.on(Here, group="a", start="beginning")
    async def a(event: Here, tx: Transaction) -> list[Any]:
        return [There(key=event.key, left=event.left - 1) for _ in range(2)] if event.left else []

    @service.on(There, group="b", start="beginning")
    async def b(event: There, tx: Transaction) -> Here | None:
        return Here(key=event.key, left=event.left - 1) if event.left else None

    app = App(service)

    @service.on(There, group="c", start="beginning")
    async def c(event: There) -> None:
        if event.left == 2:
            await app.publish(There(key=event.key, left=0))

    async def test() -> None:
        async with testing.world(app) as world:
            await world.publish(Here(key="x", left=5))
            await world.advance(10)
            assert (len(world.published(Here)), len(world.published(There))) == (1 + 2 + 4, 2 + 4 + 8 + 4)

    run(test)


# -- what makes no sense ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        {"partitions": 4, "backlog": 0},
        {"partitions": 4, "backlog": 1.5},
        {"partitions": 4, "backlog": 10, "backlog_wait": -1},
        {"partitions": 4, "backlog": 10, "backlog_wait": float("nan")},
        {"backlog": 10},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as raised:
        Topic("orders", **facts)
    assert raised.value.remedy
