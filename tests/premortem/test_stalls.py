"""What ought to move and stands still is seen, made anew, and told: each stall is planted, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from evenflow import App, Policy, Service, Transaction, testing
from evenflow.errors import EngineUnavailable
from evenflow.position import Owned
from evenflow.testing import World
from evenflow.watching.watchdog import CERTAINTY, PATIENCE, ROUNDS, Seen, Still, after, found_waiting, idle, suspicious
from .events import Paid, Placed, loop_of, placed, run, until

KINDS = ("chunk", "lanes", "list")
GROUP = "shop.keep"
Patch = pytest.MonkeyPatch


def keeping(kind: str, got: list[int], **options: Any) -> App:
    service = Service("shop")
    if kind == "chunk":

        @service.on(Placed, group="keep", **options)
        async def each(event: Placed, tx: Transaction) -> None:
            got.append(event.number)

    elif kind == "lanes":

        @service.on(Placed, group="keep", concurrency=2, **options)
        async def waiting(event: Placed) -> None:
            got.append(event.number)

    else:

        @service.on_batch(Placed, group="keep", size=2, **options)
        async def several(events: list[Placed], tx: Transaction) -> None:
            got.extend(event.number for event in events)

    return App(service, events=[Placed, Paid])


async def for_ever(*_: Any, **__: Any) -> Any:
    await asyncio.get_running_loop().create_future()


async def patiently(world: World, condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Until it holds, in virtual time."""
    for _ in range(int(seconds)):
        if condition():
            return
        await world.advance(1.0)
    raise AssertionError("it did not come true")


def deaf(loop: Any) -> None:
    loop.consumer.fetch = for_ever
    loop.consumer.wake()


def forgetful(loop: Any) -> None:
    """As when the consumer has lost the place that it was given."""
    loop.consumer._places.clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plant", [deaf, forgetful])
def test_a_consumer_that_brings_nothing_is_made_anew(
    kind: str, plant: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping(kind, got), patience=0.02) as world:
            plant(loop_of(world, GROUP))
            await world.advance(2.0)
            await world.app.publish(*placed("a", "b", "c"))
            await patiently(world, lambda: len(got) == 3)
            assert loop_of(world, GROUP).counters.rebuilt == 1
            await world.publish(*placed("d"))
            assert sorted(got) == [0, 0, 1, 2]

    run(test)
    (told,) = [record.getMessage() for record in caplog.records if "stood still" in record.getMessage()]
    assert "3 events wait in partition 0 of one" in told
    assert ("in for_ever" in told) is (plant is deaf)


def test_a_lane_that_nobody_begins_is_found() -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("lanes", got), patience=0.02) as world:
            loop_of(world, GROUP).dispatch = lambda: None
            await world.app.publish(*placed("a"))
            await patiently(world, lambda: got == [0])

    run(test)


def ended_settling(loop: Any) -> None:
    loop._settler.cancel()


def hanging_settling(loop: Any) -> None:
    loop._settle_all = for_ever


@pytest.mark.parametrize("plant", [ended_settling, hanging_settling])
def test_settling_that_has_ended_or_hangs_stops_no_group(plant: Callable[[Any], None]) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("lanes", got), patience=0.02) as world:
            loop = loop_of(world, GROUP)
            plant(loop)
            await world.app.publish(*placed("a"))
            await patiently(world, lambda: loop_of(world, GROUP) is not loop and world.running.loops()[0].held())
            await world.settle()
            await world.publish(*placed("b"))
            assert set(got) == {0}

    run(test)


def test_a_relay_that_waits_for_ever_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("chunk", got), patience=0.02) as world:
            outbox: Any = world.running.outboxes["shop"]
            append, asked = outbox._append, 0

            async def hangs_once(*args: Any) -> None:
                nonlocal asked
                asked += 1
                await (for_ever() if asked == 1 else append(*args))

            outbox._append = hangs_once
            async with world.app.transaction("shop") as tx:
                tx.publish(*placed("a"))
            await patiently(world, lambda: got == [0])

    run(test)
    assert "events wait in the outbox" in caplog.text
    assert "in test_a_relay_that_waits_for_ever_is_begun_again" in caplog.text


@pytest.mark.parametrize("name", ["ticking", "watching", "beating", "leading", "relay"])
def test_a_task_of_the_runtime_that_ends_is_begun_again(name: str, caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("chunk", got)) as world:
            runtime = world.running.runtimes["shop"]
            task = runtime.kept.task(name)
            assert task is not None
            task.cancel()
            await patiently(world, lambda: runtime.kept.task(name) is not task)
            loop = loop_of(world, GROUP)
            (owned,) = loop.held()
            loop.forget(owned.partition)
            await patiently(world, loop.held)  # who works on what is looked at again
            async with world.transaction("shop") as tx:
                tx.publish(*placed("a"))
            assert got == [0]

    run(test)
    assert f"its task '{name}' has ended, and is begun again" in caplog.text


def test_the_upkeep_of_an_app_that_ends_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with testing.world(keeping("chunk", [])) as world:
            task = world.running._upkeep
            assert task is not None
            task.cancel()
            await until(lambda: world.running._upkeep is not task)
            await world.advance(10.0)
            assert not world.running._upkeep.done()

    run(test)
    assert "its upkeep has ended, and is begun again" in caplog.text


def test_a_tick_that_hangs_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with testing.world(keeping("chunk", []), patience=0.02) as world:
            runtime: Any = world.running.runtimes["shop"]
            runtime._look = for_ever
            await patiently(world, lambda: runtime.kept.revived)
            del runtime._look
            loop = loop_of(world, GROUP)
            loop.forget(loop.held()[0].partition)
            await patiently(world, loop.held)

    run(test)
    assert "its task 'ticking' has hung for 6" in caplog.text
    assert "ServiceRuntime.tick" in caplog.text


def test_a_chore_that_hangs_holds_up_the_others_for_a_while_only(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with testing.world(keeping("chunk", []), patience=0.02) as world:
            leading, asked = world.running.runtimes["shop"].leading, 0

            class Hangs:
                async def step(self, _owned: Owned) -> float:
                    nonlocal asked
                    asked += 1
                    return float(await for_ever()) if asked == 1 else 1.0

            leading.chores.append(Hangs())
            await patiently(world, lambda: asked > 3, 300)

    run(test)
    assert "its task 'leading' has hung for 12" in caplog.text


def test_a_loop_that_has_ended_is_made_anew_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("chunk", got)) as world:
            loop = loop_of(world, GROUP)

            async def fails(*_: object) -> None:
                raise RuntimeError("no way back")

            loop._start_again = fails
            loop.consumer.fetch = fails
            loop.wake()
            await patiently(world, lambda: loop_of(world, GROUP) is not loop)
            await world.publish(*placed("a"))
            assert got == [0]

    run(test)
    assert "RuntimeError: no way back" in caplog.text


# -- what is no stall --------------------------------------------------------------------------------------------------


def quiet(caplog: pytest.LogCaptureFixture) -> None:
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not [text for text in told if "stood still" in text or "begun again" in text], told


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_idle_paused_or_waits_for_a_person_is_left_alone(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping(kind, got), patience=0.02) as world:
            loop = loop_of(world, GROUP)
            for _ in range(60):
                await world.advance(1.0)
            store = world.running.stores["shop"]
            pause = (GROUP, "", 0, -1, 0.0, "somebody", "")
            await store.transact(lambda session: session.execute(store.sql["pause_put"], pause))
            await world.advance(2.0)
            await world.app.publish(*placed("a"))
            for _ in range(60):
                await world.advance(1.0)
            assert (got, loop_of(world, GROUP)) == ([], loop)

    run(test)
    quiet(caplog)


def test_a_handler_at_work_within_its_time_is_no_stall(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is what waits behind it, in its own partition and for a free place."""
    service, got = Service("shop", policy=Policy(timeout=90.0)), list[int]()

    @service.on(Placed, group="keep", concurrency=1)
    async def slow(event: Placed) -> None:
        await world_.clock.sleep(80.0)
        got.append(event.number)

    @service.on(Paid, group="each")
    async def slow_too(event: Paid, tx: Transaction) -> None:
        await world_.clock.sleep(35.0)
        got.append(event.number)

    async def test() -> None:
        nonlocal world_
        async with testing.world(App(service), patience=0.0) as world_:
            await world_.app.publish(*placed("a", "b"), *[Paid(key="k", number=n) for n in (7, 8, 9)])
            await patiently(world_, lambda: sorted(got) == [0, 1, 7, 8, 9], 400)

    world_: Any = None
    run(test)
    quiet(caplog)


def test_a_partition_that_waits_because_its_parking_lot_is_full_is_no_stall(caplog: pytest.LogCaptureFixture) -> None:
    service, well, got = Service("shop", policy=Policy(parking=0)), False, list[int]()

    @service.on(Placed, group="keep")
    async def keep(event: Placed, tx: Transaction) -> None:
        if not well:
            raise ValueError("not now")
        got.append(event.number)

    async def test() -> None:
        nonlocal well
        async with testing.world(App(service), patience=0.02) as world:
            await world.app.publish(*placed("a"))
            for _ in range(60):
                await world.advance(1.0)
            well = True
            await patiently(world, lambda: got == [0])

    run(test)
    quiet(caplog)


def test_a_relay_that_says_why_it_waits_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("chunk", got), patience=0.02) as world:
            outbox: Any = world.running.outboxes["shop"]
            append = outbox._append

            async def away(*_: Any) -> None:
                raise EngineUnavailable("it is away")

            outbox._append = away
            async with world.app.transaction("shop") as tx:
                tx.publish(*placed("a"))
            for _ in range(60):
                await world.advance(1.0)
            outbox._append = append
            await patiently(world, lambda: got == [0])

    run(test)
    quiet(caplog)


# -- the decision ------------------------------------------------------------------------------------------------------


def looks(*each: Seen, elapsed: float = 1.0) -> Still:
    still: Still | None = None
    for seen in each:
        still = after(still, seen, elapsed)
    assert still is not None
    return still


N = int(PATIENCE) + 1
M = int(CERTAINTY) + 1


def waiting(*each: Seen, elapsed: float = 1.0) -> Still:
    """The same, where something waited at the first look."""
    still = found_waiting(after(None, each[0], elapsed))
    for seen in each[1:]:
        still = after(still, seen, elapsed)
    return still


@pytest.mark.parametrize(
    ("still", "asked"),
    [
        (looks(*[Seen(0)] * (N - 1)), False),
        (looks(*[Seen(0)] * N), True),
        (looks(*[Seen(0, rounds=n) for n in range(N)]), True),
        (looks(*[Seen(n) for n in range(N)]), False),
        (looks(*[Seen(0)] * N, Seen(1)), False),
        (looks(*[Seen(0, excuse="paused")] * N), False),
        (looks(*[Seen(0, excuse="paused")] * N, *[Seen(0)] * (N - 2)), False),
        (looks(*[Seen(0)] * 3, elapsed=3600.0), False),
        (waiting(*[Seen(0)] * N), False),
    ],
)
def test_when_it_is_asked_whether_anything_waits(still: Still, asked: bool) -> None:
    assert idle(still) is asked
    assert still.waited or suspicious(still) == "", "what waits may have come a moment ago"


@pytest.mark.parametrize(
    ("still", "found"),
    [
        (waiting(*[Seen(0)] * (N - 1)), ""),
        (waiting(*[Seen(0)] * N), "its loop hangs"),
        (found_waiting(looks(*[Seen(0)] * N)), ""),
        (waiting(*[Seen(n) for n in range(N)]), ""),
        (waiting(*[Seen(0)] * N, Seen(1)), ""),
        (waiting(*[Seen(0, busy=5.0)] * (N + 4)), ""),
        (waiting(*[Seen(0, busy=5.0)] * (N + 5)), "its loop hangs"),
        (waiting(*[Seen(0, life=n) for n in range(3 * N)]), ""),
        (waiting(*[Seen(0, rounds=2 * n) for n in range(M - 1)]), ""),
        (waiting(*[Seen(0, rounds=2 * n) for n in range(M)]), "its loop goes round and does not take them"),
        (waiting(*[Seen(0, rounds=n // 6) for n in range(2 * N)]), ""),
        (waiting(*[Seen(0)] * 3, elapsed=3600.0), ""),
    ],
)
def test_what_is_suspicious(still: Still, found: str) -> None:
    assert suspicious(still) == found


def test_with_many_partitions_more_rounds_are_waited_for() -> None:
    still = waiting(*[Seen(0, rounds=n) for n in range(2 * N)])
    assert still.rounds == 2 * N - 1 < ROUNDS + 2 * 16
    assert (bool(suspicious(still, 1)), suspicious(still, 16)) == (True, "")


def test_the_tasks_of_an_app_are_all_looked_after() -> None:
    """Whoever cancels every task that there is ends nothing for good."""
    got: list[int] = []

    async def test() -> None:
        async with testing.world(keeping("lanes", got)) as world:
            mine = {asyncio.current_task()}
            runtime = world.running.runtimes["shop"]
            ours = {*runtime.kept.tasks(), *runtime.loop_tasks.values(), *loop_of(world, GROUP).tasks()}
            for task in ours - mine:
                task.cancel()
            await until(lambda: all(task.done() for task in ours))
            await patiently(world, lambda: not any(task.done() for task in runtime.kept.tasks()))
            await patiently(world, lambda: world.running.loops()[0].held())
            async with world.transaction("shop") as tx:
                tx.publish(*placed("a"))
            assert got == [0]

    run(test)
