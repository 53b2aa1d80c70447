"""What killing and freezing the small program of `tests/crash` has found: each as small as it could be made."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import apsw
import pytest

from evenflow import App, Delivery, Policy, Service, Transaction
from evenflow import group as groups
from evenflow.drivers.sqlite import file as sqlite_file
from evenflow.engine import Outcome
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.engines.sqlite.log import KIND, LogFile
from evenflow.envelope import Envelope
from evenflow.errors import StoreUnavailable

from evenflow.ids import slot_of
from evenflow.outbox import Outbox
from evenflow.position import Marks, decode_settled
from evenflow.unit_of_work import UnitOfWork
from evenflow.waiting import LaneLoop
from . import stage
from .planted import fails_without, must_fail, planted
from .stage import (
    CLOCK, EFFECT, ORDERS, Bill, Order, case, die, drained, drive, effects, eventually, folder, killed, log_of, opened,
    publishing, shop,
)  # fmt: skip

Patch = pytest.MonkeyPatch


# -- a failed event leaves nothing --------------------------------------------------------------------------------------


def only_what_was_handed_over_is_taken_back(patch: Patch) -> None:
    patch.setattr(UnitOfWork, "ran", property(lambda self: self, lambda self, value: None))


@fails_without(only_what_was_handed_over_is_taken_back)
def test_what_a_failed_event_has_executed_at_once_is_undone() -> None:
    async def test(path: Path) -> None:
        service = Service("shop", policy=Policy(first_delay=0.0))

        @service.on(Order, group="keep", start="beginning")
        async def keep(order: Order, tx: Transaction, delivery: Delivery) -> None:
            await tx.execute(EFFECT, order.key, order.number)
            if order.number == 1 and delivery.attempt == 1:
                raise ValueError("after its statement has run")

        app = App(service)
        async with opened(app, path) as running:
            await app.publish(*(Order(key="k", number=n) for n in range(3)))
            await drained(running)
            await eventually(lambda: _nothing_parked(running))
            assert await effects(running) == [("k", 0), ("k", 1), ("k", 2)]

    case(test)


async def _nothing_parked(running: Any) -> bool:
    return await running.stores["shop"].read("select count(*) from evenflow_parked") == [(0,)]


# -- waiting handlers ---------------------------------------------------------------------------------------------------


def always_due(patch: Patch) -> None:
    patch.setattr(LaneLoop, "look_again", 0.0)


@fails_without(always_due)
def test_a_parked_event_that_is_being_worked_on_keeps_no_loop_spinning() -> None:
    """It is due until it is settled: the loop looked again at once, and nobody else had a turn."""

    async def test(path: Path) -> None:
        service, gate = Service("shop", policy=Policy(first_delay=0.0)), asyncio.Event()

        @service.on(Order, group="call", start="beginning")
        async def call(order: Order, delivery: Delivery) -> None:
            if delivery.attempt == 1:
                raise ValueError("once")
            started.set()
            await gate.wait()

        started = asyncio.Event()
        app = App(service)
        async with opened(app, path) as running:
            (loop,) = running.loops()
            await app.publish(Order(key="k"))
            await started.wait()
            rounds, real = [], loop._round

            async def counted() -> bool:
                rounds.append(1)
                return await real()

            loop._round = counted  # type: ignore[method-assign]
            await asyncio.sleep(0.3)
            assert len(rounds) < 30
            gate.set()
            await eventually(lambda: _nothing_parked(running))

    case(test)


def set_aside_without_a_place(patch: Patch) -> None:
    """Nobody waits for an event that is on its way to the parking lot."""

    def queue(self: LaneLoop, window: Any, job: Any) -> None:
        window.open[job.offset] = job
        lane = window.lanes.get(job.lane)
        if job.lane in job.owned.lanes:
            self.set_aside(job)
        elif lane is None:
            window.lanes[job.lane] = deque((job,))
            self._ready.append((window, job.lane))
        else:
            lane.append(job)

    patch.setattr(LaneLoop, "_queue", queue)


def gated(loop: Any) -> tuple[list[str], asyncio.Semaphore]:
    """Every commit of this loop waits for the semaphore; the list says how many have come so far."""
    begun: list[str] = []
    gate, real = asyncio.Semaphore(0), loop.commit

    async def commit(unit: UnitOfWork) -> None:
        begun.append(unit.group)
        await gate.acquire()
        await real(unit)

    loop.commit = commit
    return begun, gate


@fails_without(set_aside_without_a_place)
def test_an_event_that_is_being_parked_is_not_overtaken_by_the_next_of_its_key() -> None:
    async def test(path: Path) -> None:
        service, done, again = Service("shop", policy=Policy(first_delay=0.0)), [], asyncio.Event()

        @service.on(Order, group="call", start="beginning")
        async def call(order: Order, delivery: Delivery) -> None:
            if order.number == 0 and delivery.attempt == 1:
                raise ValueError("once")
            if order.number == 0:
                again.set()
            done.append(order.number)

        app = App(service)
        async with opened(app, path) as running:
            (loop,) = running.loops()
            begun, gate = gated(loop)
            await app.publish(Order(key="k", number=0))
            gate.release()  # it is parked
            await again.wait()
            await eventually(lambda: len(begun) == 2)  # it is done, and about to free its key
            await app.publish(Order(key="k", number=1))
            await eventually(lambda: loop._finished)  # to be parked behind it
            gate.release()
            await eventually(lambda: len(begun) == 3)  # its key is free; the second is on its way to the parking lot
            await app.publish(Order(key="k", number=2))
            await eventually(lambda: any(2 in window.open for window in loop._windows.values()))
            await asyncio.sleep(0.05)
            for _ in range(20):
                gate.release()
            await eventually(lambda: len(done) == 3)
            assert done == [0, 1, 2]

    case(test)


def test_what_waits_behind_a_failing_event_is_parked_before_what_comes_later() -> None:
    async def test(path: Path) -> None:
        service, done = Service("shop", policy=Policy(first_delay=0.0)), []
        fail, busy, free = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @service.on(Order, group="call", start="beginning", concurrency=1)
        async def call(order: Order, delivery: Delivery) -> None:
            if order.key == "other":
                busy.set()
                await free.wait()
            elif order.number == 0 and delivery.attempt == 1:
                await fail.wait()
                raise ValueError("once")
            else:
                done.append(order.number)

        app = App(service)
        async with opened(app, path) as running:
            (loop,) = running.loops()
            real = loop.commit

            async def slowly(unit: UnitOfWork) -> None:
                await asyncio.sleep(0.02)
                await real(unit)

            loop.commit = slowly
            events = [Order(key="k", number=n) for n in range(2)]
            await app.publish(*events, Order(key="other"))
            await eventually(
                lambda: sum(len(lane) for window in loop._windows.values() for lane in window.lanes.values()) == 3
            )
            fail.set()
            await busy.wait()  # the only place is taken
            await eventually(lambda: any(owned.lanes for owned in loop.owned.values()))
            await app.publish(Order(key="k", number=2))
            await eventually(lambda: _parked(running, 3))
            free.set()
            await eventually(lambda: len(done) == 3)
            assert done == [0, 1, 2]

    async def _parked(running: Any, offset: int) -> bool:
        sql = 'select count(*) from evenflow_parked where "offset" = $1'
        return await running.stores["shop"].read(sql, (offset,)) == [(1,)]

    case(test)


def done_meanwhile_is_forgotten(patch: Patch) -> None:
    real = LaneLoop._settled

    def settled(self: LaneLoop, step: Any) -> None:
        real(self, step)
        step.window.done = {offset for offset in step.done if offset >= step.progress.next}

    patch.setattr(LaneLoop, "_settled", settled)


@fails_without(done_meanwhile_is_forgotten)
def test_a_repeat_that_comes_while_a_position_is_being_written_holds_it_back_for_no_longer() -> None:
    async def test(path: Path) -> None:
        service, gate, calls = Service("shop"), asyncio.Event(), []

        @service.on(Order, group="call", start="beginning")
        async def call(order: Order) -> None:
            calls.append(order.number)

        app = App(service)
        async with opened(app, path) as running:
            (loop,) = running.loops()
            engine = await running.ready("orders")
            real, held = loop.commit, asyncio.Event()

            async def waits(unit: UnitOfWork) -> None:
                held.set()
                await gate.wait()
                await real(unit)

            loop.commit = waits  # type: ignore[method-assign]
            await app.publish(Order(key="k", number=1))
            await held.wait()
            duplicates = loop.counters.duplicates
            assert await engine.append("orders", await log_of(running, "orders")) == [Outcome.STORED]
            await eventually(lambda: loop.counters.duplicates > duplicates)
            gate.set()
            await app.publish(Order(key="k", number=2))
            await drained(running)
            assert calls == [1, 2]

    case(test)


def settled_numbers_are_unknown(patch: Patch) -> None:
    """What stands beyond the position and is done already is only skipped."""
    patch.setattr(LaneLoop, "_passes", lambda *_: None)


@fails_without(settled_numbers_are_unknown)
def test_a_repeat_of_what_was_done_beyond_the_position_is_dropped_after_a_take_over() -> None:
    def waiting(calls: list[tuple[str, int]], stuck: str = "") -> App:
        service = Service("shop")

        @service.on(Order, group="call", start="beginning")
        async def call(order: Order) -> None:
            if order.key == stuck:
                await asyncio.sleep(60)
            calls.append((order.key, order.number))

        return App(service, events=[Order])

    with folder() as path:

        async def dies() -> None:
            app = waiting([], stuck="a")
            async with opened(app, path) as running:
                await app.publish(Order(key="a", number=0), *(Order(key="b", number=n) for n in range(3)))
                await eventually(lambda: _beyond(running, 3))
                die()

        async def _beyond(running: Any, count: int) -> bool:
            sql = "select settled from evenflow_position where group_name = 'shop.call'"
            return len(decode_settled((await running.stores["shop"].read(sql))[0][0])) == count

        killed(dies)

        async def after() -> None:
            calls: list[tuple[str, int]] = []
            app = waiting(calls)
            async with opened(publishing(), path, handle=()) as running:
                engine = await running.ready("orders")
                assert await engine.append("orders", await log_of(running, "orders")) == [Outcome.STORED] * 4
            async with opened(app, path) as running:
                await app.publish(Order(key="b", number=3))
                await drained(running)
            assert sorted(calls) == [("a", 0), ("b", 3)]

        drive(after)


# -- the files --------------------------------------------------------------------------------------------------------------


def header_in_three_looks(patch: Patch) -> None:
    def read(fetch: Any) -> sqlite_file.Header:
        ((application,),) = fetch("pragma application_id")
        ((version,),) = fetch("pragma user_version")
        ((tables,),) = fetch("select count(*) from sqlite_schema where type = 'table'")
        return sqlite_file.Header(application, version, tables)

    patch.setattr(sqlite_file, "read_header", read)


@fails_without(header_in_three_looks)
def test_a_file_that_another_process_is_making_just_now_is_no_strangers() -> None:
    async def test(path: Path) -> None:
        file = str(path / "log.db")
        reader, maker = apsw.Connection(file), apsw.Connection(file)
        made: list[bool] = []

        def fetch(sql: str) -> Any:
            rows = reader.execute(sql).fetchall()
            if not made:
                made.append(True)
                maker.execute(
                    f"begin; create table evenflow_topics (t); pragma application_id = {KIND.application_id}; commit"
                )
            return rows

        KIND.check(sqlite_file.read_header(fetch), file)
        assert KIND.check(sqlite_file.read_header(fetch), file) is False
        reader.close()
        maker.close()

    case(test)


# -- the log --------------------------------------------------------------------------------------------------------------


def blind_while_it_commits(patch: Patch) -> None:
    patch.setattr(LogFile, "_look_aside", lambda self: False)


@fails_without(blind_while_it_commits)
def test_an_engine_that_commits_in_a_thread_sees_what_others_have_stored_meanwhile() -> None:
    """A position claimed from another process seemed to lie beyond the end of the log, and the group was stopped."""

    async def test(path: Path) -> None:
        mine, other = SqliteEngine(path / "log.db", CLOCK), SqliteEngine(path / "log.db", CLOCK)
        await mine.open()
        await other.open()
        (partition,) = (await mine.declare(ORDERS)).partitions(1)
        await other.log("orders")
        assert (await mine.bounds(partition)).high == 0
        mine._file._writer.committing = True
        try:
            one = Envelope("1", "test", "order", 1, "k", slot_of("k"), 0.0, b"{}", "p", 1)
            for high in (1, 2):
                assert await other.append("orders", [one]) == [Outcome.STORED]
                assert (await mine.bounds(partition)).high == high
        finally:
            mine._file._writer.committing = False
        await mine.close()
        await other.close()

    case(test)


# -- the relay ------------------------------------------------------------------------------------------------------------


def ends_with_an_error(patch: Patch) -> None:
    async def troubled(self: Outbox, error: Exception) -> None:
        raise error

    patch.setattr(Outbox, "_troubled", troubled)


@fails_without(ends_with_an_error)
def test_no_error_ends_a_relay() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            outbox = running.outboxes["shop"]
            errors = [StoreUnavailable("for a moment"), ValueError("a mistake of ours")]
            real = outbox.step

            async def step() -> float:
                if errors:
                    raise errors.pop()
                return await real()

            outbox.step = step  # type: ignore[method-assign]
            await eventually(lambda: not errors)
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k", number=1))
            await drained(running)
            assert await effects(running) == [("k", 1)]
            assert running.runtimes["shop"].kept.revived == 0, "it has gone on by itself"

    case(test)


def sent_again_and_again(patch: Patch) -> None:
    async def remove(self: Outbox, owned: Any, to: int) -> None:
        if not refusing:
            await real(self, owned, to)

    real = Outbox._remove
    patch.setattr(Outbox, "_remove", remove)


refusing: list[str] = []


@fails_without(sent_again_and_again)
def test_while_one_topic_is_refused_what_stands_before_it_is_sent_once() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path, handle=()) as running:
            engine: Any = await running.ready("orders")
            real = engine.append

            async def append(topic: str, envelopes: Any) -> Any:
                return [Outcome.REFUSED] * len(envelopes) if topic in refusing else await real(topic, envelopes)

            engine.append = append
            refusing.append("billing")
            try:
                async with app.transaction("shop") as tx:
                    tx.publish(Order(key="k", number=1))
                    tx.publish(Bill(key="k", number=2))
                outbox = running.outboxes["shop"]
                await eventually(lambda: outbox.trouble)
                await asyncio.sleep(1.2)  # two more attempts
                assert len(await log_of(running, "orders")) == 1
            finally:
                refusing.clear()
            await drained(running)
            assert len(await log_of(running, "billing")) == 1

    case(test)


# -- marks ----------------------------------------------------------------------------------------------------------------


def never_pruned(patch: Patch) -> None:
    patch.setattr(Marks, "prune", lambda *_: None)


@fails_without(never_pruned)
def test_marks_of_processes_that_are_long_gone_are_forgotten_in_memory_too() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            (loop,) = running.loops()
            owned = (await eventually(lambda: list(loop.owned.values())))[0]
            owned.marks.highest["p-old"], owned.marks.seen["p-old"] = {1: 5}, 1.0
            owned.marks.highest["store"], owned.marks.seen["store"] = {1: 5}, 1.0
            owned.pending = groups.PRUNE_EVERY
            await app.publish(Order(key="k"))
            await drained(running)
            await app.publish(Order(key="k"))
            await drained(running)
            assert "p-old" not in owned.marks.highest
            assert "store" in owned.marks.highest, "a store's numbers are never forgotten"

    case(test)


def nobody_looks_for_what_is_in_doubt(patch: Patch) -> None:
    async def commit(self: UnitOfWork) -> None:
        await self.keep()
        self.tell()

    patch.setattr(UnitOfWork, "commit", commit)


@fails_without(nobody_looks_for_what_is_in_doubt)
def test_what_is_published_behind_a_commit_in_doubt_comes_behind_it() -> None:
    """The answer to a commit was lost, and it was done: the relay, which has not heard of it, comes too late."""

    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            store = running.stores["shop"]
            transact = store.transact
            await eventually(lambda: running.outboxes["shop"].owned)

            async def lost(*args: Any, **more: Any) -> Any:
                await transact(*args, **more)
                store.transact = transact  # type: ignore[method-assign]
                raise StoreUnavailable("the answer was lost: it may have been done or not")

            store.transact = lost  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailable):
                async with app.transaction("shop") as tx:
                    tx.publish(Order(key="k", number=1))
            await app.publish(Order(key="k", number=2))
            await drained(running)
            assert await effects(running) == [("k", 1), ("k", 2)]

    case(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stage, "PATIENCE", 3.0)
    must_fail(case, plant, monkeypatch)
