"""Part B of the pre-mortem: ownership. Each case is run again with its mend taken out, and must fail then."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Service, Transaction
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.errors import FenceLost, StoreUnavailable
from evenflow.group import GroupLoop
from evenflow.ownership import Liveness, claim, create_group
from evenflow.position import guard, move
from evenflow.runtime import ServiceRuntime
from evenflow.store import Process
from evenflow.stores.sqlite.store import SqliteStore
from evenflow.unit_of_work import UnitOfWork
from evenflow.waiting import LaneLoop
from tests.on_postgres import ON, files_only

from . import stage
from .planted import fails_without, must_fail, planted
from .stage import (
    CLOCK, EFFECT, ORDERS, SPREAD, TABLE, Order, Wide, case, drained, drive, effects, ended, eventually, folder,
    killed, opened, publishing, raises, shop,
)  # fmt: skip

Patch = pytest.MonkeyPatch


# -- 7 ----------------------------------------------------------------------------------------------------------------


def a_claim_that_issues_no_fence(patch: Patch) -> None:
    async def opened(self: SqliteStore) -> None:
        await real(self)
        changed = self.sql["position_claim"].replace("set fence = fence + 1, owner", "set owner")
        assert changed != self.sql["position_claim"]
        self.sql = {**self.sql, "position_claim": changed}

    real = SqliteStore.open
    patch.setattr(SqliteStore, "open", opened)


@fails_without(a_claim_that_issues_no_fence)
def test_07_the_store_issues_the_fence_and_it_rises_for_ever() -> None:
    async def test(path: Path) -> None:
        engine, store = SqliteEngine(path / "log.db", CLOCK), SqliteStore(path / "shop.db", CLOCK)
        await engine.open()
        await store.open()
        log = await engine.declare(ORDERS)
        (partition,) = log.partitions(1)
        for start in (None, "beginning"):  # a group that is made anew goes on with what is there
            await create_group("shop.keep", log, engine, store, CLOCK, start=start, where="")
        (first,) = await claim("shop.keep", log, {partition: 0}, "a", store, engine)
        assert await claim("shop.keep", log, {partition: first.fence - 1}, "b", store, engine) == [], "too late"
        (second,) = await claim("shop.keep", log, {partition: first.fence}, "b", store, engine)
        assert second.fence > first.fence > 0
        sql = store.sql["position_guard"]
        assert await store.transact(lambda session: session.execute(*guard(sql, first))) == 0, "the late owner's write"
        assert await store.transact(lambda session: session.execute(*guard(sql, second))) == 1, "the new owner goes on"
        await store.close()
        await engine.close()

    case(test)


# -- 8 ----------------------------------------------------------------------------------------------------------------


def no_compare_and_set(patch: Patch) -> None:
    patch.setattr(GroupLoop, "guard", lambda *_: None)


@fails_without(no_compare_and_set)
def test_08_a_late_owner_writes_nothing_and_parks_nothing() -> None:
    """The new owner has applied the event while the late one was in its handler, whose write now fails."""

    async def test(path: Path) -> None:
        service, late = Service("shop"), asyncio.Event()

        @service.on(Order, group="keep", start="beginning")
        async def keep(order: Order, tx: Transaction) -> None:
            if not late.is_set():
                late.set()
                await _another_owner(running)
            tx.write("insert into taken values ($1)", order.number)

        app = App(service, events=[Order])
        async with opened(app, path) as running:
            store = running.stores["shop"]
            await store.transact(lambda session: session.execute("create table taken (number integer primary key)"))
            await app.publish(Order(key="k", number=1), Order(key="k", number=2))
            await eventually(late.is_set)
            await eventually(lambda: _position(store, 2))
            assert await store.read("select number from taken order by 1") == [(1,), (2,)]
            assert await store.read("select count(*) from evenflow_parked") == [(0,)]

    async def _another_owner(running: Any) -> None:
        """Claims the partition, applies its first event, and ends."""
        store, engine = running.stores["shop"], await running.ready("orders")
        log = await engine.log("orders")
        (partition,) = log.partitions(1)
        rows = await store.read(store.sql["position_list"], ("shop.keep",))
        (mine,) = await claim("shop.keep", log, {partition: rows[0][6]}, "another", store, engine)
        (_, envelope) = await engine.read(partition, 0)
        mine.marks.highest.setdefault(envelope.producer, {})[envelope.slot] = envelope.number

        async def work(session: Any) -> None:
            await session.execute("insert into taken values (1)")
            await session.execute(*move(store.sql["position_move"], mine, 1, envelope.id, mine.marks, []))

        await store.transact(work)

    async def _position(store: Any, next_: int) -> bool:
        return (await store.read(store.sql["position_list"], ("shop.keep",)))[0][4] == next_

    case(test)


# -- 9 ----------------------------------------------------------------------------------------------------------------


def nobody_is_named(patch: Patch) -> None:
    patch.setattr("evenflow.drivers.sqlite.diagnosis.lock_holder", lambda path: None)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not tell who holds a lock")
@fails_without(nobody_is_named)
@files_only
def test_09_a_writer_frozen_in_its_transaction_is_named_and_the_others_go_on_after_it() -> None:
    for wakes in (True, False):
        _frozen_writer(wakes)


def _frozen_writer(wakes: bool) -> None:
    async def test(path: Path) -> None:
        file = path / "shop.db"
        store = SqliteStore(file, CLOCK, wait=0.3)
        await store.open()
        await store.transact(lambda session: session.execute(TABLE))
        pid = frozen(file)
        try:
            async with raises(StoreUnavailable, naming=str(pid)):
                await store.transact(lambda session: session.execute(EFFECT, ("late", 1)))
            assert await store.read("select count(*) from effects") == [(0,)], "readers wait for nobody"
            os.kill(pid, signal.SIGCONT if wakes else signal.SIGKILL)
            assert ended(pid) == (0 if wakes else -signal.SIGKILL)
        finally:
            _end(pid)
        await store.transact(lambda session: session.execute(EFFECT, ("late", 1)))
        assert await store.read("select key from effects") == [("late",)]
        await store.close()

    case(test)


def frozen(file: Path) -> int:
    """The pid of a process that has stopped itself in the middle of its transaction."""
    program = (
        "import apsw, os, signal, sys\n"
        "c = apsw.Connection(sys.argv[1]); c.set_busy_timeout(5000); c.execute('begin immediate')\n"
        "c.execute(\"insert into effects (key) values ('frozen')\")\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        "c.execute('rollback')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(file)])
    os.waitpid(child.pid, os.WUNTRACED)
    child.returncode = 0  # whoever froze it waits for its end
    return child.pid


def _end(pid: int) -> None:
    """A child of ours that a failed case has left frozen."""
    try:
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    except ChildProcessError:
        return


def locks_last_for_ever(patch: Patch) -> None:
    """A group that meets a locked store is not tried again."""

    async def give_up(self: GroupLoop) -> None:
        self._stopping = True

    patch.setattr(GroupLoop, "_start_again", give_up)
    patch.setattr("evenflow.runtime.ServiceRuntime._ticking", _once)


async def _once(self: ServiceRuntime) -> None:
    await self.tick()


@fails_without(locks_last_for_ever)
@files_only
def test_09_groups_wait_out_a_frozen_writer_and_repeat_nothing() -> None:
    with folder() as path:
        file = path / "shop.db"

        async def prepare() -> None:
            app = publishing()
            async with opened(app, path, handle=()):
                await app.publish(*(Order(key="k", number=n) for n in range(3)))

        drive(prepare)

        async def others() -> None:
            app = shop(Order)
            url = f"sqlite:///{file}?wait=0.3"
            async with opened(app, path, store=url.replace("shop.db", "{service}.db")) as running:
                await drained(running)
                pid = frozen(file)
                try:
                    await app.publish(*(Order(key="k", number=n) for n in range(3, 6)))
                    await eventually(lambda: any(loop.trouble for loop in running.loops()))
                    assert len(await effects(running)) == 3
                finally:
                    _end(pid)
                await eventually(lambda: _all(running))
                assert await effects(running) == [("k", n) for n in range(6)]

        async def _all(running: Any) -> bool:
            return len(await effects(running)) == 6

        drive(others)


# -- 10 ---------------------------------------------------------------------------------------------------------------


class Clocks:
    """A wall clock and a monotonic one, to be moved apart."""

    def __init__(self) -> None:
        self.wall = 1e9
        self.steady = 100.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady


def by_the_wall_clock(patch: Patch) -> None:
    def alive(self: Liveness, process: Process) -> bool:
        beat, since = self._seen.get(process.id, (-1, self._clock.now()))
        if beat != process.beat:
            self._seen[process.id] = (process.beat, self._clock.now())
            return True
        return self._clock.now() - since < self._lease

    patch.setattr(Liveness, "alive", alive)


@fails_without(by_the_wall_clock)
def test_10_jumps_of_the_wall_clock_end_no_lease_and_keep_no_dead_owner() -> None:
    clocks: Any = Clocks()
    me, other = Process("me", 1, "here", 5, (), 0), Process("other", 2, "elsewhere", 5, (), 7)
    liveness = Liveness(me, clocks, 10.0)
    assert liveness.alive(other)
    clocks.wall += 86400.0
    clocks.steady += 1.0
    assert liveness.alive(other), "the clock was put forward"
    clocks.wall -= 10 * 86400.0
    clocks.steady += 8.0
    assert liveness.alive(other), "nine seconds without a beat"
    clocks.steady += 2.0
    assert not liveness.alive(other), "the clock was put back, and eleven seconds have passed"
    assert liveness.alive(Process("other", 2, "elsewhere", 5, (), 8)), "it beats again"
    assert liveness.alive(me)


def blind_time_counts(patch: Patch) -> None:
    patch.setattr(Liveness, "look", lambda _: None)


@fails_without(blind_time_counts)
def test_10_whoever_is_first_after_an_outage_takes_nobody_for_dead() -> None:
    clocks: Any = Clocks()
    other = Process("other", 2, "elsewhere", 5, (), 7)
    liveness = Liveness(Process("me", 1, "here", 5, (), 0), clocks, 10.0)
    assert liveness.alive(other)
    clocks.steady += 2.0
    liveness.look()
    assert liveness.alive(other)
    clocks.steady += 60.0  # the store was away
    liveness.look()
    assert liveness.alive(other), "two seconds without a beat in which it could have been heard"
    for _ in range(8):
        clocks.steady += 1.0
        liveness.look()
    assert not liveness.alive(other), "ten seconds"


def beats_behind_the_lock(patch: Patch) -> None:
    async def beat(self: SqliteStore, process: Process) -> None:
        async def work(session: Any) -> None:
            await session.execute("update effects set key = key")

        await self.transact(work)

    patch.setattr(SqliteStore, "beat", beat)


@fails_without(beats_behind_the_lock)
@files_only
def test_10_heartbeats_do_not_queue_behind_the_write_lock() -> None:
    async def test(path: Path) -> None:
        store = SqliteStore(path / "shop.db", CLOCK)
        await store.open()
        await store.transact(lambda session: session.execute(TABLE))
        session = store.session()
        await session.begin()
        await session.execute(EFFECT, ("k", 1))
        async with asyncio.timeout(2.0):
            await store.beat(Process("p", os.getpid(), "b", 1, (), 1))
        assert [process.beat for process in await store.processes()] == [1]
        await session.commit()
        await store.close()

    case(test)


def nobody_is_surely_gone(patch: Patch) -> None:
    patch.setattr(Liveness, "gone", lambda *_: False)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell of processes")
@fails_without(nobody_is_surely_gone)
def test_10_what_a_dead_process_held_is_free_at_once() -> None:
    with folder() as path:

        async def dies() -> None:
            app = shop(Order)
            async with opened(app, path, lease=60.0) as running:
                await app.publish(Order(key="k", number=1))
                await drained(running)
                os.kill(os.getpid(), signal.SIGKILL)

        killed(dies)

        async def after() -> None:
            app = shop(Order)
            async with opened(app, path, lease=60.0) as running:
                await app.publish(Order(key="k", number=2))
                await eventually(lambda: _both(running), 8.0)
                ids = [process.id for process in await running.stores["shop"].processes()]
                assert len(ids) == 1, "the dead one is forgotten"

        async def _both(running: Any) -> bool:
            return await effects(running) == [("k", 1), ("k", 2)]

        drive(after)


def judged_by_an_older_list(patch: Patch) -> None:
    """Who is alive is read before who owns what."""

    async def live(self: ServiceRuntime) -> list[Process]:
        return [self._me]

    patch.setattr(ServiceRuntime, "_live", live)


@fails_without(judged_by_an_older_list)
def test_10_a_process_that_began_and_claimed_between_two_looks_is_not_robbed() -> None:
    async def test(path: Path) -> None:
        first, second = shop(Wide), shop(Wide)
        async with opened(first, path, lease=60.0) as running:  # ticks of the first are ours alone from now on
            runtime = running.runtimes["shop"]
            await eventually(lambda: len(running.loops()[0].owned) == 4)
            read, opening = runtime.store.read, []

            async def read_and_meet(sql: str, args: Any = ()) -> Any:
                """The other process starts just before the owners are read."""
                if sql == runtime.store.sql["owner_list"] and not opening:
                    opening.append(opened(second, path, lease=60.0))
                    opening.append(await opening[0].__aenter__())
                    for partition in list(running.loops()[0].owned):
                        running.loops()[0].forget(partition)
                    await _hand(runtime.store, opening[1].runtimes["shop"]._me.id)
                return await read(sql, args)

            runtime.store.read = read_and_meet  # type: ignore[method-assign]
            try:
                await runtime.tick()
                rows = await read(runtime.store.sql["position_list"], ("shop.keep",))
                assert {row[7] for row in rows} == {opening[1].runtimes["shop"]._me.id}
            finally:
                runtime.store.read = read  # type: ignore[method-assign]
                if opening:
                    await opening[0].__aexit__(None, None, None)

    async def _hand(store: Any, to: str) -> None:
        sql = "update evenflow_position set owner = $1, fence = fence + 1 where group_name = 'shop.keep'"
        await store.transact(lambda session: session.execute(sql, (to,)))

    case(test)


def nothing_is_let_go(patch: Patch) -> None:
    async def keep(*_: Any) -> None:
        """What was dropped is this process's in the store, and nobody else may take it."""

    patch.setattr(ServiceRuntime, "_let_go", keep)


@fails_without(nothing_is_let_go)
def test_10_what_a_process_has_dropped_and_is_above_its_share_is_free_for_others() -> None:
    async def test(path: Path) -> None:
        first, second = shop(Wide), shop(Wide)
        async with opened(first, path) as one:
            runtime, (loop,) = one.runtimes["shop"], one.loops()
            await eventually(lambda: len(loop.owned) == 4)
            look = runtime._look
            runtime._look = _nothing  # type: ignore[method-assign]  # between two looks it drops all, and another begins
            async with opened(second, path) as other:
                for partition in list(loop.owned):
                    loop.forget(partition)
                await eventually(lambda: len(other.runtimes["shop"].live) == 2)
                runtime._look = look  # type: ignore[method-assign]
                await eventually(lambda: len(loop.owned) == len(other.loops()[0].owned) == 2)
                await first.publish(*[Wide(key=f"k{number}") for number in range(16)])
                await eventually(lambda: _handled(one, 16))

    async def _nothing() -> None:
        """It beats, and does not look."""

    async def _handled(running: Any, count: int) -> bool:
        return len(await effects(running)) == count

    case(test)


# -- 12 ---------------------------------------------------------------------------------------------------------------


def given_back_at_once(patch: Patch) -> None:
    """What is in flight goes on while another process has the partition already, and is not settled."""

    async def finished(self: LaneLoop, owned: Any) -> bool:
        window = self._windows.pop(owned.partition, None)
        if window is not None:
            window.lanes.clear()
        return window is None or True

    patch.setattr(LaneLoop, "finished", finished)


@fails_without(given_back_at_once)
def test_12_on_a_clean_hand_over_no_key_is_run_by_two_owners_and_no_call_is_repeated() -> None:
    async def test(path: Path) -> None:
        calls: list[tuple[str, int, str, float, float]] = []

        def waiting(name: str) -> App:
            service = Service("shop")

            @service.on(Wide, group="call", start="beginning", concurrency=20)
            async def call(event: Wide) -> None:
                begun = time.monotonic()
                if name == "first":
                    await gate.wait()
                calls.append((event.key, event.number, name, begun, time.monotonic()))

            return App(service, events=[Wide])

        gate = asyncio.Event()
        first, second = waiting("first"), waiting("second")
        keys = [f"k{n}" for n in range(16)]
        async with opened(first, path) as running:
            (loop,) = running.loops()
            await eventually(lambda: len(loop.owned) == SPREAD.partitions)
            for n in range(4):
                await first.publish(*(Wide(key=key, number=n) for key in keys))
            await eventually(lambda: loop.counters.in_flight == len(keys))  # one of each key
            async with opened(second, path) as other:
                await eventually(lambda: len(loop._giving) == 2 or any(call[2] == "second" for call in calls))
                await asyncio.sleep(0.3)  # the second looks six times meanwhile
                assert not calls
                assert not other.loops()[0].owned, "what is in flight is finished first"
                gate.set()
                await eventually(lambda: len(other.loops()[0].owned) == 2)
                await eventually(lambda: len(calls) >= len(keys) * 4)
        assert {call[2] for call in calls} == {"first", "second"}
        assert len(calls) == len(keys) * 4, "each is called once"
        for key in keys:
            mine = [call for call in calls if call[0] == key]
            assert [call[1] for call in mine] == list(range(4))
            assert all(before[4] <= after[3] for before, after in zip(mine, mine[1:], strict=False))

    case(test, 40.0)


@fails_without(no_compare_and_set)
def test_12_an_owner_that_has_lost_its_partition_drops_what_is_in_flight() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            loop, store = running.loops()[0], running.stores["shop"]
            owned = (await eventually(lambda: list(loop.owned.values())))[0]
            await store.transact(
                lambda session: session.execute("update evenflow_position set fence = fence + 1, owner = 'another'")
            )
            unit = UnitOfWork(running.outboxes["shop"], loop.name)
            loop.guard(unit, owned)
            unit.hand_over(EFFECT, ("late", 1))
            async with raises(FenceLost):
                await unit.commit()
            assert await effects(running) == []

    case(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    if ON and plant is no_compare_and_set:
        pytest.skip("the next look at who owns what comes before the late owner's transaction, as a rule")
    monkeypatch.setattr(stage, "PATIENCE", 4.0)
    must_fail(case, plant, monkeypatch)
