import asyncio
from contextlib import asynccontextmanager

import pytest

from evenflow.clock import SystemClock, VirtualClock
from evenflow.engine import Bounds
from evenflow.engines.memory import MemoryEngine
from evenflow.testing import engine_suite
from evenflow.testing.engine_kit import beginning, event, events, numbers, reader, store, take
from evenflow.testing.suite import NotApplicable
from evenflow.topic import Topic


@asynccontextmanager
async def factory():
    engine = MemoryEngine(SystemClock())
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


@pytest.mark.parametrize("check", engine_suite.checks(), ids=lambda check: check.__name__)
def test_promise(check):
    try:
        asyncio.run(engine_suite.run_check(check, factory))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_time_is_the_clocks():
    async def main():
        clock = VirtualClock()
        engine = MemoryEngine(clock)
        log = await engine.declare(Topic("t", partitions=1, retention=3600.0))
        (part,) = log.partitions(1)
        start = clock.now()
        await store(engine, "t", events(range(3)))
        clock.advance_to(start + 1800)
        await store(engine, "t", events(range(3, 6)))
        assert await engine.find(part, start + 1) == 3
        await engine.maintain()
        assert await engine.bounds(part) == Bounds(0, 6)
        clock.advance_to(start + 3700)
        await engine.maintain()
        assert await engine.bounds(part) == Bounds(3, 6)

    asyncio.run(main())


def test_a_waiting_fetch_ends_in_virtual_time():
    async def main():
        clock = VirtualClock()
        engine = MemoryEngine(clock)
        log = await engine.declare(Topic("t", partitions=1))
        consumer = await reader(engine, beginning(log))
        waiting = asyncio.ensure_future(consumer.fetch(10, 1000, 3600.0))
        await asyncio.sleep(0.001)
        assert not waiting.done() and clock.next_timer() == clock.now() + 3600.0
        clock.advance_to(clock.now() + 3600.0)
        assert await waiting == []

    asyncio.run(main())


def test_two_engines_are_two_logs():
    async def main():
        one, two = MemoryEngine(SystemClock()), MemoryEngine(SystemClock())
        logs = [await each.declare(Topic("t", partitions=1)) for each in (one, two)]
        assert logs[0].incarnation != logs[1].incarnation
        fixed = [MemoryEngine(VirtualClock(), random=lambda count: b"\7" * count) for _ in range(2)]
        logs = [await each.declare(Topic("t", partitions=1)) for each in fixed]
        assert logs[0] == logs[1]

    asyncio.run(main())


def test_what_was_stored_outlives_close_within_the_process():
    async def main():
        engine = MemoryEngine(SystemClock())
        await engine.open()
        log = await engine.declare(Topic("t", partitions=2))
        await store(engine, "t", [event(n, slot=n) for n in range(4)])
        await engine.close()
        await engine.open()
        assert sorted(numbers(await take(await reader(engine, beginning(log)), 4))) == [0, 1, 2, 3]

    asyncio.run(main())
