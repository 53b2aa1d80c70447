"""The short ways through the runner do what the long ones do: a swift pass, and workers that take one event after another."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from evenflow import App, Delivery, Policy, Service, Transaction, testing
from evenflow.envelope import Envelope
from evenflow.passes import Pass
from .events import Paid, Placed, loop_of, placed, run, table


def strange_run(seed: int) -> list[Envelope]:
    """Events of two producers and of strangers: repeats, gaps, other types, versions, and what cannot be read."""
    pick, numbers, made = random.Random(seed), {"p-a": 0, "s-b": 0}, []
    usual = seed % 3 == 0
    for n in range(60):
        producer = "p-a" if usual else pick.choice(["p-a", "s-b", ""])
        number = 0
        if producer:
            step = 1 if usual or pick.random() < 0.9 else pick.choice([0, 3])
            number = numbers[producer] = max(1, numbers[producer] + step)
        odd = not usual and pick.random() < 0.1
        data = b'{"key": 7}' if odd else b'{"key": "%d", "number": %d}' % (n, n)
        kind = "placed" if usual else pick.choice(["placed"] * 8 + ["paid", "unknown"])
        version = 2 if not usual and pick.random() < 0.03 else 1
        id_ = f"{seed}-{n if producer or pick.random() < 0.8 else n - 1}"
        made.append(Envelope(id_, "shop", kind, version, pick.choice("abcd"), 5, 1.0, data, producer, number))
    return made


async def outcome(swift: bool, seed: int) -> Any:
    """What is written, parked and noted when this is handled; some events fail, in one way or another."""
    service = Service("shop", policy=Policy(attempts=1))

    def work(order: Any, tx: Transaction) -> None:
        tx.write("insert into t values ($1)", f"{type(order).__name__} {order.key}")
        if getattr(order, "number", 0) % 17 == seed % 17:
            raise ValueError("no")
        if getattr(order, "number", 0) % 23 == seed % 23:
            tx.write("insert into nowhere values (1)")

    if swift:

        @service.on(Placed, Paid, group="work")
        async def plain(order: Placed | Paid, tx: Transaction) -> None:
            work(order, tx)

    else:

        @service.on(Placed, Paid, group="work")
        async def asking(order: Placed | Paid, tx: Transaction, delivery: Delivery) -> None:
            work(order, tx)

    async with testing.world(App(service)) as world:
        await table(world, "shop", "create table t (id text)")
        engine = await world.running.ready("one")
        await engine.append("one", strange_run(seed))
        await world.settle()
        loop = loop_of(world, "shop.work")
        (owned,) = loop.owned.values()
        parked = sorted((each.offset, each.behind, each.error_type, each.attempts) for each in await world.parked())
        told = (loop.counters.handled, loop.counters.skipped, loop.counters.duplicates, loop.counters.late)
        return await world.rows("shop", "select id from t"), parked, owned.marks.highest, owned.marks.missing, told


@pytest.mark.parametrize("seed", range(18))
def test_a_swift_pass_ends_as_one_event_by_event_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, real = [], Pass.events

    def events(self: Pass) -> Any:
        found = real(self)
        begun.append(found is not None)
        return found

    async def test() -> None:
        slow = await outcome(swift=False, seed=seed)
        assert not begun
        monkeypatch.setattr(Pass, "events", events)
        quick = await outcome(swift=True, seed=seed)
        assert quick[:4] == slow[:4]
        assert begun
        if seed % 3 == 0:
            assert begun[0]

    run(test)


def test_a_worker_whose_handler_was_too_late_leaves_no_trace_in_the_next_event() -> None:
    """One takes its cancellation, one turns it into another error, one ends well too late, one does not take it."""

    async def test() -> None:
        service, done, goes_on = Service("shop", policy=Policy(timeout=5.0, attempts=1)), [], 0

        @service.on(Placed, group="call", concurrency=1)
        async def call(order: Placed) -> None:
            nonlocal goes_on
            never = asyncio.get_running_loop().create_future
            if order.key == "takes":
                await never()
            elif order.key == "turns":
                try:
                    await never()
                except asyncio.CancelledError:
                    raise ValueError("it was cancelled") from None
            elif order.key == "ends":
                try:
                    await never()
                except asyncio.CancelledError:
                    return
            elif order.key == "stays":
                while True:
                    try:
                        await never()
                    except asyncio.CancelledError:
                        goes_on += 1
            await asyncio.sleep(0)
            done.append(order.key)

        app = App(service)
        async with testing.world(app, patience=0.1) as world:
            names = ["takes", "turns", "ends", "stays"]
            await app.publish(*placed(*(each for n, name in enumerate(names) for each in (name, f"after {n}"))))
            while len(done) < 4:
                await world.advance(5.0)
            parked = await world.parked()
            assert sorted(each.key or "" for each in parked) == sorted(names)
            assert {each.error_type for each in parked} == {"HandlerTimeout"}
            assert done == [f"after {n}" for n in range(4)]
            assert (goes_on, loop_of(world, "shop.call").counters.in_flight) == (1, 0)

    run(test)


def test_handlers_that_do_not_wait_leave_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenflow.waiting.TURN", -1.0)

    async def test() -> None:
        service, others, seen = Service("shop"), 0, []

        @service.on(Placed, group="call", concurrency=1)
        async def call(order: Placed) -> None:
            seen.append(others)

        async def counts() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        app = App(service)
        async with testing.world(app) as world:
            counting = asyncio.create_task(counts())
            await app.publish(*placed(*range(20)))
            async with asyncio.timeout(5.0):
                while len(seen) < 20:
                    await asyncio.sleep(0)
            counting.cancel()
            assert len(set(seen)) == 20
            await world.settle()

    run(test)


def test_the_next_of_a_key_does_not_wait_for_the_settle_of_what_wrote_nothing() -> None:
    async def test() -> None:
        service, done = Service("shop"), []

        @service.on(Placed, group="call", concurrency=4)
        async def call(order: Placed) -> None:
            done.append(order.number)

        app = App(service)
        async with testing.world(app) as world:
            loop = loop_of(world, "shop.call")
            await loop._writing.acquire()
            await app.publish(*placed("k", "k", "k"))
            async with asyncio.timeout(5.0):
                while len(done) < 3:
                    await asyncio.sleep(0)
            assert loop.counters.handled == 0
            loop._writing.release()
            await world.settle()
            assert (done, loop.counters.handled) == ([0, 1, 2], 3)

    run(test)
