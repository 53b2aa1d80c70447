"""What an attempt to break the promise found: each case failed, or hung, before its mend."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Envelope, Service, Topic, Transaction
from evenflow.clock import Signal, SystemClock
from evenflow.cpu_pool import CpuPool
from evenflow.engine import Engine, Outcome
from evenflow.engines.memory import MemoryEngine
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.stores.sqlite.store import SqliteStore
from tests.on_postgres import store_class

from .stage import EFFECT, Order, case, drained, effects, eventually, in_partition, opened, publishing, shop

LATEST = Topic("latest", partitions=1, compacted=True)
ROW = "insert into t values ($1)"


class Mailer:
    """What a provider gives."""


async def cancelled(call: asyncio.Future[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)


# -- a task of ours is cancelled, but not those that wait for it ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["chunk", "lanes", "list"])
def test_a_handler_that_cancels_its_own_task_does_not_stop_its_group(kind: str) -> None:
    async def test(path: Path) -> None:
        service, done = Service("shop"), list[int]()

        async def work(event: Order) -> None:
            if event.number == 1 and 1 not in done:
                done.append(1)
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            done.append(event.number)

        if kind == "chunk":

            @service.on(Order, group="keep", start="beginning")
            async def each(event: Order, tx: Transaction) -> None:
                await work(event)

        elif kind == "lanes":

            @service.on(Order, group="keep", concurrency=2, start="beginning")
            async def waiting(event: Order) -> None:
                await work(event)

        else:

            @service.on_batch(Order, group="keep", size=1, start="beginning")
            async def several(events: list[Order], tx: Transaction) -> None:
                await work(events[0])

        app = App(service)
        async with opened(app, path) as running:
            await app.publish(*[Order(key="a", number=n) for n in range(4)])
            await eventually(lambda: done[-1:] == [3], 15)
            await drained(running)
            assert done.count(1) == 2
            assert done[-3:] == [1, 2, 3]

    case(test, 30)


@pytest.mark.parametrize("begun", [True, False])
def test_a_store_whose_task_was_cancelled_goes_on_and_gives_the_turn_to_one_at_a_time(begun: bool) -> None:
    async def test(path: Path) -> None:
        store = SqliteStore(path / "a.db", SystemClock())
        await store.open()
        try:
            await store.transact(lambda session: session.execute("create table t (n integer)"))
            opened = store._opened()
            first = store.session()
            if begun:
                await first.begin()
            lost = asyncio.ensure_future(store.transact(lambda session: session.execute(ROW, (1,))))
            await asyncio.sleep(0)
            assert opened.units._task is not None
            opened.units._task.cancel()
            await cancelled(lost)
            if not begun:
                await asyncio.wait_for(first.begin(), 5)
            later = asyncio.ensure_future(store.transact(lambda session: session.execute(ROW, (2,))))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not later.done(), "another has the turn"
            await first.rollback()
            await asyncio.wait_for(later, 5)
            assert [row[0] for row in await store.read("select n from t")] == [2]
            assert opened.turns.idle
        finally:
            await store.close()

    case(test)


def test_a_log_whose_task_was_cancelled_goes_on_where_it_is() -> None:
    async def test(path: Path) -> None:
        engine = SqliteEngine(path / "log.db", SystemClock())
        await engine.open()
        try:
            await engine.declare(Topic("t", partitions=1))
            writer = engine._file._writer

            def append(number: int) -> asyncio.Future[Any]:
                return asyncio.ensure_future(engine.append("t", [numbered("k", number)]))

            writer._pace.threaded, writer._pace.average = True, 1.0
            lost = append(1)
            while not writer.committing:
                await asyncio.sleep(0)
            assert writer._task is not None
            writer._task.cancel()  # the commit takes place nevertheless
            await cancelled(lost)
            assert await asyncio.wait_for(append(2), 5) == [Outcome.STORED]
            lost = append(3)
            await asyncio.sleep(0)
            writer._task.cancel()  # before its first step
            await cancelled(lost)
            assert await asyncio.wait_for(append(4), 5) == [Outcome.STORED]
            log = await engine.log("t")
            assert log is not None
            assert [each.number for each in await in_partition(engine, log.partitions(1)[0])] == [1, 2, 4]
        finally:
            await engine.close()

    case(test)


def test_a_publish_whose_task_was_cancelled_before_its_first_step_holds_up_no_later_one() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            lost = asyncio.ensure_future(app.publish(Order(key="a")))
            await asyncio.sleep(0)
            (line,) = running.publisher._lines.values()
            line._task.cancel()
            await cancelled(lost)
            await asyncio.wait_for(app.publish(Order(key="a", number=2)), 5)

    case(test)


def test_an_app_can_be_closed_after_all_tasks_were_cancelled() -> None:
    """As scripts do at a signal: cancel everything, then clean up."""

    async def test(path: Path) -> None:
        app = shop(Order)
        context = opened(app, path)
        await context.__aenter__()
        others = asyncio.all_tasks()

        async def both(number: int) -> None:
            await app.publish(Order(key="a", number=number))
            async with app.transaction("shop") as tx:
                tx.write(EFFECT, "mine", number)
                tx.publish(Order(key="b", number=number))

        calls = [asyncio.ensure_future(both(number)) for number in range(20)]
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task.get_coro().__name__ != "wait_for":  # type: ignore[union-attr]
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        await asyncio.wait_for(context.__aexit__(None, None, None), 10)
        assert asyncio.all_tasks() <= others
        async with opened(shop(Order), path) as again:
            await drained(again)

    case(test, 30)


# -- heartbeats ---------------------------------------------------------------------------------------------------------


def test_a_process_that_waits_for_the_write_lock_to_claim_something_goes_on_beating() -> None:
    """It would lose all that it works on to others otherwise, once they get that lock."""

    async def test(path: Path) -> None:
        async with opened(shop(Order), path, lease=0.4) as running:
            runtime, outbox = running.runtimes["shop"], running.outboxes["shop"]
            await eventually(lambda: outbox.owned)
            session = running.stores["shop"].session()
            await session.begin()
            outbox.owned = None
            beat = runtime._me.beat
            try:
                await eventually(lambda: runtime._me.beat > beat + 3)
            finally:
                await session.rollback()
            await eventually(lambda: outbox.owned)

    case(test)


# -- closing ------------------------------------------------------------------------------------------------------------


def test_stores_and_engines_are_closed_where_a_provider_fails_at_its_end() -> None:
    async def test(path: Path) -> None:
        service = Service("shop")

        @service.on(Order, group="keep", start="beginning")
        async def keep(event: Order, tx: Transaction, mailer: Mailer) -> None:
            tx.write(EFFECT, event.key, event.number)

        app = App(service)

        @app.provide
        async def mailer() -> AsyncGenerator[Mailer]:
            yield Mailer()
            raise RuntimeError("it was gone already")

        with pytest.raises(RuntimeError, match="gone already"):
            async with opened(app, path) as running:
                store = running.stores["shop"]
        assert isinstance(store, store_class())
        assert store._open is None

    case(test)


def test_waiters_that_gave_up_are_forgotten_though_the_signal_is_never_set() -> None:
    """A process waits for its end ten times a second."""

    async def test() -> None:
        signal, clock = Signal(), SystemClock()
        for _ in range(1000):
            await clock.wait(signal, 0.0)
        assert len(signal._waiters) < 100
        waiting = [asyncio.ensure_future(clock.wait(signal, None)) for _ in range(100)]
        for _ in range(200):
            await clock.wait(signal, 0.0)
        signal.set()
        assert all(await asyncio.gather(*waiting))

    asyncio.run(test())


# -- compaction ---------------------------------------------------------------------------------------------------------


def numbered(key: str, number: int, producer: str = "s", at: float = 0.0) -> Envelope:
    return Envelope(f"{producer}{number}", "shop", "t", 1, key, 1, at or float(number), b"{}", producer, number)


@pytest.mark.parametrize("engine", [SqliteEngine, MemoryEngine])
def test_a_repeat_that_comes_behind_a_newer_event_does_not_replace_it(engine: Any) -> None:
    """A relay that was frozen before its append comes back when another has long moved on."""

    async def test(path: Path) -> None:
        made: Engine = engine(path / "log.db", SystemClock()) if engine is SqliteEngine else engine(SystemClock())
        await made.open()
        try:
            log = await made.declare(LATEST)
            await made.append("latest", [numbered("a", 1), numbered("b", 2)])
            await made.append("latest", [numbered("a", 3)])
            await made.append("latest", [numbered("a", 1), numbered("b", 2), numbered("b", 1, "other", 9.0)])
            await made.maintain()
            left = [(each.key, each.number, each.producer) for each in await in_partition(made, log.partitions(1)[0])]
            assert left == [("a", 3, "s"), ("a", 1, "s"), ("b", 1, "other")]
        finally:
            await made.close()

    case(test)


# -- cpu=True -----------------------------------------------------------------------------------------------------------


def forever(file: str) -> None:
    Path(file).touch()
    while True:
        time.sleep(0.05)


def doubled(number: int) -> int:
    return 2 * number


def test_calls_that_never_end_hold_up_no_others_and_leave_no_process() -> None:
    async def test(path: Path) -> None:
        pool = CpuPool()
        assert await pool.run(doubled, 1) == 2
        stuck = [asyncio.ensure_future(pool.run(forever, str(path / str(number)))) for number in range(8)]
        waiting = asyncio.ensure_future(pool.run(doubled, 2))
        processes = pool._many
        assert processes is not None
        await eventually(lambda: list(path.iterdir()), 20)
        for call in stuck:
            call.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert await asyncio.wait_for(waiting, 20) == 4
        assert await asyncio.wait_for(pool.run(doubled, 3), 20) == 6
        assert not processes._made, "they were ended"
        pool.close()

    case(test, 60)


def fatal(key: str) -> str:
    if key == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return key


def test_a_call_that_ends_its_process_is_no_fault_of_those_beside_it() -> None:
    async def test(_: Path) -> None:
        pool = CpuPool()
        calls = [pool.run(fatal, key) for key in ("a", "bad", "b", "c")]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [each for each in found if isinstance(each, str)] == ["a", "b", "c"]
        assert isinstance(found[1], BrokenExecutor)
        assert await pool.run(fatal, "d") == "d"
        pool.close()

    case(test, 60)
