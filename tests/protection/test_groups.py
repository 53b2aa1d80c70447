"""Groups with a limit or a breaker, in virtual time: who waits, what an attempt is, and that order holds."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evenflow import App, Breaker, Delivery, Event, Limit, Policy, Service, Topic, Transaction, operate, testing
from evenflow.protection.breaker import CLOSED
from evenflow.errors import DefinitionError
from evenflow.testing import World

TOPIC = Topic("calls", partitions=4)
START = 1_800_000_000.0


class Called(Event, type="called", topic=TOPIC, key="key"):
    key: str
    number: int = 0


class Outside:
    """What the handlers call: it keeps when, for whom and at which attempt, and may be down."""

    def __init__(self) -> None:
        self.down: BaseException | None = None
        self.bad: dict[int, BaseException] = {}
        self.calls: list[tuple[float, str, int, int]] = []
        self.done: list[tuple[str, int]] = []
        self.gate: asyncio.Event | None = None
        self.world: World

    async def call(self, event: Called, delivery: Delivery) -> None:
        self.calls.append((self.world.clock.now() - START, event.key, event.number, delivery.attempt))
        if self.gate is not None:
            await self.gate.wait()
        if event.number in self.bad:
            raise self.bad[event.number]
        if self.down is not None:
            raise self.down
        self.done.append((event.key, event.number))

    def order(self) -> dict[str, list[int]]:
        """By key the numbers of the calls that went well, in order."""
        found = defaultdict(list)
        for key, number in self.done:
            found[key].append(number)
        return dict(found)


@asynccontextmanager
async def calling(**options: Any) -> AsyncGenerator[tuple[World, Outside]]:
    outside, service = Outside(), Service("shop", policy=Policy(first_delay=1.0, jitter=0, timeout=5.0))

    @service.on(Called, group="call", start="beginning", **options)
    async def call(event: Called, delivery: Delivery) -> None:
        await outside.call(event, delivery)

    async with testing.world(App(service), patience=0.3) as world:
        outside.world = world
        yield world, outside


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def events(count: int, keys: int) -> list[Called]:
    return [Called(key=str(n % keys), number=n) for n in range(count)]


def loop_of(world: World) -> Any:
    (loop,) = world.running.loops()
    return loop


def within(times: list[float], rate: float, burst: float) -> bool:
    """Whether there are at most rate * time + burst of them over any time."""
    return all(
        last - first + 1 <= rate * (times[last] - times[first]) + burst + 1e-6
        for first in range(len(times))
        for last in range(first, len(times))
    )


# -- limits -------------------------------------------------------------------------------------------------------------


def test_a_group_makes_no_more_calls_than_its_limit_and_all_in_order() -> None:
    async def test() -> None:
        async with calling(limit=Limit(per_second=20, burst=6), concurrency=50) as (world, outside):
            await world.publish(*events(100, 7))
            assert "limit of 20" in loop_of(world).holding
            assert not await world.running.idle(), "what the limit holds is not done"
            await world.advance(20)
            times = [at for at, *_ in outside.calls]
            assert len(times) == 100
            assert within(times, 20, 6)
            assert times[-1] < 100 / 20 + 0.5, "and no less, as long as there is anything in line"
            assert all(numbers == sorted(numbers) for numbers in outside.order().values())
            assert await world.running.idle()
            assert loop_of(world).holding == ""

    run(test)


def test_a_key_over_its_limit_waits_and_holds_up_no_other() -> None:
    async def test() -> None:
        async with calling(limit=Limit(per_key=2.0), concurrency=2) as (world, outside):
            await world.publish(*(Called(key="hot", number=n) for n in range(5)), *events(20, 20))
            first = [key for _, key, *_ in outside.calls]
            assert sorted(first) == sorted(["hot", *map(str, range(20))]), "one of each key at once"
            await world.advance(10)
            hot = [at for at, key, *_ in outside.calls if key == "hot"]
            assert hot == pytest.approx([hot[0] + n / 2 for n in range(5)], abs=0.01)

    run(test)


def test_retries_and_what_is_redriven_go_through_the_limit() -> None:
    async def test() -> None:
        async with calling(limit=Limit(per_second=5, burst=2), policy=Policy(attempts=1)) as (world, outside):
            outside.down = ValueError("no")
            await world.publish(*events(20, 20))
            await world.advance(10)
            assert len([each for each in await world.parked() if each.dead]) == 20
            outside.down = None
            before = len(outside.calls)
            await world.redrive()
            await world.advance(10)
            assert len(outside.calls) - before == 20
            assert within([at for at, *_ in outside.calls[before:]], 5, 2)
            assert await world.parked() == []

    run(test)


def test_a_call_that_waits_in_line_does_not_run_out_of_time() -> None:
    async def test() -> None:
        async with calling(limit=Limit(per_second=1.0)) as (world, outside):
            await world.publish(*events(12, 12))
            await world.advance(20)
            assert [attempt for *_, attempt in outside.calls] == [1] * 12

    run(test)


def test_without_calls_nothing_is_written() -> None:
    async def test() -> None:
        async with calling(limit=Limit(per_second=20)) as (world, _):
            await world.publish(*events(1, 1))
            await world.advance(1)
            rows = await world.rows("shop", "select tat from evenflow_limit")
            await world.advance(100)
            assert await world.rows("shop", "select tat from evenflow_limit") == rows

    run(test)


# -- breakers -----------------------------------------------------------------------------------------------------------


def test_an_open_breaker_costs_no_attempts_and_keeps_order() -> None:
    async def test() -> None:
        rule = Breaker(failures=3, pause=10.0, max_pause=20.0)
        async with calling(breaker=rule, concurrency=4) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(40, 8))
            before = len(outside.calls)
            assert 3 <= before <= 3 + 4, "the third failure opens it, and what is in flight then ends"
            assert loop_of(world).holding == "breaker open, next probe in 10 s, because ConnectionError: away"
            assert await world.parked() == [], "no attempt is counted of those that failed side by side"
            await world.advance(100)
            probes = [at for at, *_ in outside.calls[before:]]
            assert probes == pytest.approx([10, 30, 50, 70, 90], abs=0.3)
            assert await world.parked() == []
            outside.down = None
            await world.advance(20)
            assert loop_of(world).holding == ""
            assert await world.parked() == []
            assert {key: len(numbers) for key, numbers in outside.order().items()} == {str(n): 5 for n in range(8)}
            assert all(numbers == sorted(numbers) for numbers in outside.order().values())
            assert {attempt for *_, attempt in outside.calls} == {1}

    run(test)


def test_failures_one_after_another_get_their_attempts_back_when_they_open_it() -> None:
    async def test() -> None:
        rule, policy = Breaker(failures=3, pause=10.0, within=10.0), Policy(attempts=1)
        async with calling(breaker=rule, concurrency=1, policy=policy) as (world, outside):
            outside.down = ConnectionError("away")
            for n in (0, 1, 2):
                heads = [each for each in await world.parked() if not each.behind]
                assert [each.dead for each in heads] == [True] * n, "as ever, before it opens"
                await world.publish(Called(key=str(n), number=n), Called(key=str(n), number=10 + n))
            assert loop_of(world).holding.startswith("breaker open")
            heads = [each for each in await world.parked() if not each.behind]
            assert [(each.attempts, each.dead) for each in heads] == [(0, False)] * 2
            outside.down = None
            await world.advance(15)
            assert await world.parked() == []
            assert outside.order() == {str(n): [n, 10 + n] for n in range(3)}

    run(test)


def test_attempts_of_long_ago_are_not_given_back() -> None:
    async def test() -> None:
        rule, policy = Breaker(failures=2, pause=10.0, within=5.0), Policy(attempts=1)
        async with calling(breaker=rule, concurrency=1, policy=policy) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(1, 1))
            await world.advance(20)
            for n in (1, 2):
                await world.publish(Called(key=str(n), number=n))
            assert loop_of(world).holding.startswith("breaker open")
            assert {each.key: each.dead for each in await world.parked()} == {"0": True, "1": False}

    run(test)


def test_attempts_in_place_go_through_the_limit_and_count_once_for_the_breaker() -> None:
    async def test() -> None:
        policy = Policy(attempts=3, in_place=2)
        async with calling(limit=Limit(per_second=5, burst=2), policy=policy) as (world, outside):
            outside.down = ValueError("no")
            await world.publish(*events(3, 3))
            await world.advance(10)
            assert len(outside.calls) == 9
            assert within([at for at, *_ in outside.calls], 5, 2)
            assert [each.attempts for each in await world.parked()] == [3] * 3
        async with calling(breaker=Breaker(failures=2, pause=10.0), policy=policy, concurrency=1) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(1, 1))
            assert [attempt for *_, attempt in outside.calls] == [1, 2], "the second opens it"
            assert await world.parked() == []
            outside.down = None
            await world.advance(11)
            assert [attempt for *_, attempt in outside.calls] == [1, 2, 2]

    run(test)


def test_probes_go_one_by_one_until_enough_have_passed() -> None:
    async def test() -> None:
        async with calling(breaker=Breaker(failures=1, pause=10.0, passes=3), concurrency=4) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(8, 8))
            outside.down, outside.gate = None, asyncio.Event()
            seen = len(outside.calls)
            await world.advance(10.5)
            assert len(outside.calls) == seen + 1, "one, though four might be called at a time"
            outside.gate.set()
            await world.settle()
            await world.advance(5)
            assert loop_of(world).holding == ""
            assert {number for *_, number, _ in outside.calls} == set(range(8))

    run(test)


def test_other_errors_neither_open_nor_close_it() -> None:
    async def test() -> None:
        rule = Breaker(failures=2, pause=10.0, errors=(ConnectionError,))
        async with calling(breaker=rule, concurrency=1, policy=Policy(attempts=1)) as (world, outside):
            outside.bad = {n: ValueError("poison") for n in range(5)}
            await world.publish(*events(5, 5))
            assert len([each for each in await world.parked() if each.dead]) == 5
            assert loop_of(world).holding == ""
            await world.advance(20)
            outside.bad, outside.down = {10: ValueError("poison")}, ConnectionError("away")
            await world.publish(*(Called(key=str(n), number=n) for n in (8, 9, 10, 11)))
            assert loop_of(world).holding.startswith("breaker open")
            outside.down = None
            await world.advance(11)
            assert loop_of(world).holding == ""
            poison = [each for each in await world.parked() if each.key == "10"]
            assert [each.dead for each in poison] == [True], "it was tried, and that was an attempt"

    run(test)


def test_an_event_that_is_parked_is_the_probe_where_there_is_no_other() -> None:
    async def test() -> None:
        async with calling(breaker=Breaker(failures=2, pause=10.0), concurrency=1) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(1, 1))  # parked, and tried again after a second: that opens it
            await world.advance(5)
            assert [attempt for *_, attempt in outside.calls] == [1, 2]
            assert loop_of(world).holding.startswith("breaker open")
            assert [each.attempts for each in await world.parked()] == [0]
            outside.down = None
            await world.advance(10)
            assert [attempt for *_, attempt in outside.calls] == [1, 2, 1]
            assert (loop_of(world).holding, await world.parked()) == ("", [])

    run(test)


def test_a_few_failures_among_many_calls_do_not_open_it() -> None:
    async def test() -> None:
        async with calling(breaker=Breaker(failures=3, share=0.5)) as (world, outside):
            outside.bad = {n: ConnectionError("now and then") for n in range(0, 100, 20)}
            await world.publish(*events(100, 100))
            assert len(outside.calls) == 100
            assert loop_of(world).holding == ""

    run(test)


def test_a_person_sees_it_and_closes_it() -> None:
    async def test() -> None:
        async with calling(breaker=Breaker(failures=1, pause=100.0), concurrency=1) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(3, 3))
            (status,) = await operate.groups(world.running)
            assert status.breaker is not None
            assert (status.state, status.breaker.state, status.breaker.next_probe) == ("running", "open", 100.0)
            assert status.breaker.told == "breaker open, next probe in 100 s, because ConnectionError: away"
            outside.down = None
            assert await operate.resume(world.running, "shop.call", "me") == []
            assert len(outside.calls) == 1
            await world.advance(3)
            assert [attempt for *_, attempt in outside.calls] == [1] * 4
            assert (await operate.groups(world.running))[0].breaker is None
            audit = await world.rows("shop", "select who, what, subject from evenflow_audit")
            assert [tuple(row) for row in audit] == [("me", "group close breaker", "shop.call")]

    run(test)


def test_what_it_holds_may_be_taken_away_and_comes_again() -> None:
    async def test() -> None:
        rule = Breaker(failures=1, pause=10.0)
        async with calling(breaker=rule, limit=Limit(per_second=10.0, per_key=1.0)) as (world, outside):
            outside.down = ConnectionError("away")
            await world.publish(*events(12, 4))
            await operate.pause(world.running, "shop.call", "me")
            await world.advance(5)
            assert loop_of(world).owned == {}
            outside.down = None
            await operate.resume(world.running, "shop.call", "me")
            await world.advance(60)
            assert {key: len(numbers) for key, numbers in outside.order().items()} == {str(n): 3 for n in range(4)}
            assert all(numbers == sorted(numbers) for numbers in outside.order().values())
            assert await world.parked() == []

    run(test)


def test_a_slow_group_holds_up_no_other() -> None:
    async def test() -> None:
        slow, fast, done = Service("slow"), Service("fast"), list[int]()

        @slow.on(Called, group="call", start="beginning", concurrency=2)
        async def hang(event: Called) -> None:
            await asyncio.Event().wait()

        @fast.on(Called, group="call", start="beginning", concurrency=2)
        async def call(event: Called) -> None:
            done.append(event.number)

        async with testing.world(App(slow, fast), patience=0.2) as world:
            await world.app.publish(*events(300, 30))
            for _ in range(2000):
                await asyncio.sleep(0)
            assert sorted(done) == list(range(300))
            hanging = next(loop for loop in world.running.loops() if loop.name == "slow.call")
            assert hanging.counters.in_flight == 2

    run(test)


# -- what makes no sense ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"limit": Limit(per_second=5)}, {"breaker": Breaker()}])
def test_they_are_for_waiting_handlers(options: dict[str, Any]) -> None:
    service = Service("shop")

    @service.on(Called, group="call", **options)
    async def call(event: Called, tx: Transaction) -> None: ...

    with pytest.raises(DefinitionError) as raised:
        service.handlers()
    assert "concurrency=" in raised.value.remedy

    waits = Service("shop")
    waits.on(Called, group="call", concurrency=5, **options)(call)
    (spec,) = waits.handlers()
    assert spec.limit or spec.breaker


def test_a_store_without_a_row_has_a_closed_breaker() -> None:
    async def test() -> None:
        async with calling(breaker=Breaker()) as (world, _):
            await world.publish(*events(3, 3))
            assert loop_of(world)._breaker.state is CLOSED
            assert await world.rows("shop", "select * from evenflow_breaker") == []

    run(test)
