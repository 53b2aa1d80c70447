"""Pause, resume, rename and drop, by the functions that the commands call; what they leave behind when they are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Policy, Service, Settings, Topic, Transaction, operate
from evenflow.clock import Signal
from evenflow.engine import Partition
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.errors import Refused
from evenflow.operate import NotFound
from evenflow.pausing import WHOLE, Pause
from evenflow.running import Running

ORDERS = Topic("orders", partitions=2)
TAKEN = Topic("taken", partitions=1)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str


class PaymentTaken(Event, type="payment.taken", topic=TAKEN, key="order_id"):
    order_id: str


class Shop:
    """Counts how often each order was applied, and publishes on. `kind` "waiting" settles each event by itself."""

    def __init__(self, folder: Path, group: str | None = "charge", *, kind: str = "", start: Any = None) -> None:
        self.settings = Settings.load({"folder": folder, "lease": 2.0}, env={}, cwd=folder)
        self.failing: set[str] = set()
        self.attempts: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.service = Service("billing", policy=Policy(attempts=50, first_delay=0.01, max_delay=0.01))

        async def charge(order: OrderPlaced, tx: Transaction) -> PaymentTaken:
            self.attempts.append(order.order_id)
            if order.order_id in self.held:
                await self.held[order.order_id].wait()
            if order.order_id in self.failing:
                raise ValueError("no card")
            tx.write(
                "insert into applied values ($1, 1) on conflict (id) do update set times = applied.times + 1",
                order.order_id,
            )
            return PaymentTaken(order_id=order.order_id)

        if group is not None:
            concurrency = 4 if kind == "waiting" else None
            self.service.on(OrderPlaced, group=group, start=start, concurrency=concurrency)(charge)
        self.app = App(self.service, events=[OrderPlaced, PaymentTaken])

    def running(self, *, join: bool = True) -> Any:
        return self.app.running(handle=None if join else (), settings=self.settings, join=join)

    async def prepare(self) -> None:
        async with self.running(join=False), self.app.transaction(self.service) as tx:
            await tx.execute("create table if not exists applied (id text primary key, times integer not null)")

    async def publish(self, *ids: str) -> None:
        await self.app.publish(*[OrderPlaced(order_id=each) for each in ids])

    async def through(self, *ids: str) -> None:
        """Publish and apply them, in a life of the app of its own."""
        async with self.running() as running:
            await self.publish(*ids)
            await until(running, running.idle)


async def applied(running: Running) -> dict[str, int]:
    return dict(await running.stores["billing"].read("select id, times from applied order by id"))


async def taken(running: Running, count: int) -> list[str]:
    """The ids of all that the group has published, once there are so many."""
    engine, partition = running.engine, Partition("taken", 1, 0)

    async def enough() -> bool:
        return await engine.log("taken") is not None and (await engine.bounds(partition)).high >= count

    await until(running, enough)
    found = [await engine.read(partition, n) for n in range((await engine.bounds(partition)).high)]
    return [each[1].id for each in found if each is not None]


async def until(running: Running, holds: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> None:
    deadline = running.clock.monotonic() + seconds
    while not await holds():
        assert running.clock.monotonic() < deadline, (await operate.groups(running), await applied(running))
        await running.clock.wait(Signal(), 0.01)


async def released(running: Running) -> bool:
    rows = await running.stores["billing"].read(
        "select 1 from evenflow_position where owner is not null and group_name like 'billing.%'"
    )
    return not rows and not any(loop.owned for loop in running.loops())


async def counts(running: Running, expected: dict[str, int]) -> bool:
    return await applied(running) == expected


async def status(running: Running, group: str = "billing.charge") -> operate.GroupStatus:
    return next(each for each in await operate.groups(running) if each.group == group)


async def audit(running: Running) -> list[tuple[str, str, str, str]]:
    return await running.stores["billing"].read("select who, what, subject, detail from evenflow_audit order by id")


# -- pause ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transactional", "waiting"])
def test_a_paused_group_finishes_what_is_in_flight_and_takes_nothing_more(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        shop = Shop(tmp_path, kind=kind)
        await shop.prepare()
        async with shop.running() as running:
            gate = shop.held["1"] = asyncio.Event()
            await shop.publish("1")
            await until(running, lambda: _is(shop.attempts == ["1"]))
            await operate.pause(running, "billing.charge", "ann", "the bank is down")
            await until(running, lambda: _is(all(loop.pauses for loop in running.loops())))
            assert not await running.idle()
            gate.set()
            await until(running, lambda: released(running))
            assert await applied(running) == {"1": 1}
            await shop.publish("2", "3")
            assert await shop.app.wait_idle(20)
            found = await status(running)
            assert (found.state, found.waiting, found.owners) == ("paused", 2, ())
            assert found.reason == "paused by ann: the bank is down"
        async with shop.running() as running:
            assert await shop.app.wait_idle(20)
            assert await applied(running) == {"1": 1}
            (pause,) = await operate.resume(running, "billing.charge", "bob")
            assert pause.who == "ann"
            await until(running, lambda: counts(running, {"1": 1, "2": 1, "3": 1}))
            assert [row[:3] for row in await audit(running)] == [
                ("ann", "group pause", "billing.charge"), ("bob", "group resume", "billing.charge"),
            ]  # fmt: skip

    asyncio.run(main())


def test_a_group_that_still_has_its_partitions_when_it_is_paused_is_not_idle(tmp_path: Path) -> None:
    """It may have fetched something already that it has not begun."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await until(running, lambda: _owned(running, 2))
            (loop,) = running.loops()
            loop.pause((Pause(WHOLE, 0.0, "ann", ""),))
            assert loop.owned and not await running.idle()

    asyncio.run(main())


def test_parked_events_of_a_paused_group_are_not_tried(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            shop.failing = {"1"}
            await shop.publish("1")
            await until(running, lambda: _is(len(shop.attempts) > 2))
            await operate.pause(running, "billing.charge", "ann")
            await until(running, lambda: released(running))
            shop.failing, tried = set(), len(shop.attempts)
            await until(running, lambda: _is(_due_and_idle(running)))
            assert len(shop.attempts) == tried and await applied(running) == {}
            await operate.resume(running, "billing.charge", "ann")
            await until(running, lambda: counts(running, {"1": 1}))

    asyncio.run(main())


async def _due_and_idle(running: Running) -> bool:
    ((due,),) = await running.stores["billing"].read("select max(due) from evenflow_parked")
    return due < running.clock.now() and await running.idle()


def test_a_paused_partition_waits_while_the_other_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        await shop.through("1")
        async with shop.running() as running:
            await operate.pause(running, "billing.charge", "ann", partition=0)
            await until(running, lambda: _is(any(loop.pauses for loop in running.loops())))
            await until(running, lambda: _owned(running, 1))
            await shop.publish(*map(str, range(2, 20)))
            assert await shop.app.wait_idle(20)
            detail = await operate.group(running, "billing.charge")
            first, second = detail.partitions
            assert (first.state, first.owner, second.state) == ("paused", None, "running")
            assert first.waiting > 0 and second.waiting == 0
            assert (detail.status.state, detail.status.reason) == ("running", "paused in partition 0 of orders by ann")
            with pytest.raises(NotFound, match="no partition 7"):
                await operate.pause(running, "billing.charge", "ann", partition=7)
            with pytest.raises(Refused, match="already paused in partition 0"):
                await operate.pause(running, "billing.charge", "ann", partition=0)
            with pytest.raises(Refused, match="is not paused in partition 1"):
                await operate.resume(running, "billing.charge", "ann", partition=1)
            await operate.resume(running, "billing.charge", "ann", partition=0)
            await until(running, lambda: counts(running, {str(n): 1 for n in range(1, 20)}))

    asyncio.run(main())


async def _owned(running: Running, count: int) -> bool:
    return sum(len(loop.owned) for loop in running.loops()) == count


def test_a_group_that_is_paused_before_it_ever_ran_begins_when_it_is_resumed(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running(join=False) as looking:
            await operate.pause(looking, "billing.charge", "ann")
        async with shop.running() as running:
            await shop.publish("1")
            assert await shop.app.wait_idle(20)
            assert await applied(running) == {}
            await operate.resume(running, "billing.charge", "ann")
            await until(running, lambda: counts(running, {"1": 1}))

    asyncio.run(main())


# -- rename -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transactional", "waiting"])
def test_a_renamed_group_goes_on_and_what_is_done_again_has_the_same_ids(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        old = Shop(tmp_path, kind=kind)
        await old.prepare()
        old.failing = {"3"}
        async with old.running() as running:
            await old.publish("1", "2", "3")
            await until(running, lambda: counts(running, {"1": 1, "2": 1}))
            await until(running, lambda: _parked(running, "billing.charge", 1))
            first = await taken(running, 2)
            await operate.pause(running, "billing.charge", "ann")
            with pytest.raises(Refused, match="is run by pid"):
                await operate.rename(running, "billing.charge", "billing.collect", "ann")
        new = Shop(tmp_path, "collect", kind=kind)
        async with new.running(join=False) as looking:
            plan = await operate.rename(looking, "billing.charge", "billing.collect", "ann")
            assert (plan.where, plan.fits, plan.replaces) == ("", True, False)
            (found,) = await operate.groups(looking)
            assert (found.group, found.state, found.waiting, found.parked) == ("billing.collect", "paused", 0, 1)
            await operate.resume(looking, "billing.collect", "ann")
        async with new.running() as running:
            await until(running, lambda: counts(running, {"1": 1, "2": 1, "3": 1}))  # from the parking lot
            await operate.seek(running, "billing.collect", "beginning", "ann")
            await until(running, lambda: counts(running, {"1": 2, "2": 2, "3": 2}))
            ids = await taken(running, 6)
            assert len(ids) == 6 and sorted(ids[3:]) == sorted(ids[:3]) and set(first) < set(ids)
            assert (await operate.group(running, "billing.collect")).lineage == "billing.charge"
            assert ("ann", "group rename", "billing.charge", "billing.collect") in await audit(running)

    asyncio.run(main())


def test_a_later_group_of_the_old_name_publishes_under_ids_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        old = Shop(tmp_path)
        await old.prepare()
        await old.through("1")
        async with old.running(join=False) as looking:
            await operate.rename(looking, "billing.charge", "billing.collect", "ann")
        again = Shop(tmp_path, start="beginning")
        async with again.running() as running:
            await until(running, lambda: counts(running, {"1": 2}))
            await until(running, running.idle)
            first, second = await taken(running, 2)
            assert first != second
        back = Shop(tmp_path, "third")
        async with back.running(join=False) as looking:
            await operate.rename(looking, "billing.charge", "billing.third", "ann")
            await operate.rename(looking, "billing.collect", "billing.charge", "ann")
            lineage = [(await operate.group(looking, f"billing.{each}")).lineage for each in ("charge", "third")]
            assert lineage[0] == "billing.charge" and lineage[1].startswith("billing.charge~")

    asyncio.run(main())


def test_a_rename_is_refused_for_what_is_not_there_and_what_is_there_already(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running(join=False) as looking:
            with pytest.raises(Refused, match="no process has run"):
                await operate.rename(looking, "billing.charge", "billing.collect", "ann")
        await shop.through("1")
        other = Shop(tmp_path, "collect", start="beginning")
        await other.through()
        async with shop.running(join=False) as looking:
            for new, why in (
                ("billing.collect", "with a position of its own"), ("stock.charge", "cannot be the name"),
                ("billing.Charge", "cannot be the name"), ("billing.charge", "has that name"),
            ):  # fmt: skip
                with pytest.raises(Refused, match=why):
                    await operate.rename(looking, "billing.charge", new, "ann")
            with pytest.raises(NotFound, match="did you mean billing.charge"):
                await operate.rename(looking, "billing.charg", "billing.x", "ann")

    asyncio.run(main())


def test_a_new_name_that_a_publishing_process_has_made_already_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        await shop.through("1", "2")
        new = Shop(tmp_path, "collect", start="beginning")
        async with new.app.open(settings=new.settings):  # the web process of the new release makes its groups
            await new.publish("3")
        async with new.running(join=False) as looking:
            assert (await operate.rename(looking, "billing.charge", "billing.collect", "ann")).replaces
        async with new.running() as running:
            await until(running, lambda: counts(running, {"1": 1, "2": 1, "3": 1}))
            await until(running, running.idle)
            assert await applied(running) == {"1": 1, "2": 1, "3": 1}

    asyncio.run(main())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(5))
def test_a_rename_that_is_killed_leaves_one_name_or_the_other(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call to the engine in turn is the last that is made."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        await shop.through("1", "2", "3")
        calls, real = [], SqliteEngine.told

        async def told(self: SqliteEngine, *args: Any) -> None:
            calls.append(args)
            if len(calls) > call:
                raise Killed
            await real(self, *args)

        new = Shop(tmp_path, "collect", start="beginning")
        async with new.running(join=False) as looking:
            with monkeypatch.context() as patch:
                patch.setattr(SqliteEngine, "told", told)
                try:
                    await operate.rename(looking, "billing.charge", "billing.collect", "ann")
                except Killed:
                    pass
                else:
                    assert call >= 3
            names = [each.group for each in await operate.groups(looking) if each.state != "new"]
        (name,) = names
        after = Shop(tmp_path, name.partition(".")[2])
        async with after.running() as running:
            await after.publish("4")
            await until(running, lambda: counts(running, {"1": 1, "2": 1, "3": 1, "4": 1}))
            assert (await status(running, name)).state == "running"
        if name == "billing.collect":  # and the old name is free for another group, which nothing stops
            other = Shop(tmp_path, "charge", start="end")
            await other.through("5")
            async with other.running() as running:
                await until(running, running.idle)
                assert (await status(running)).state == "running"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["rename", "drop"])
def test_a_process_whose_group_went_under_it_writes_nothing_more_and_says_so(tmp_path: Path, kind: str) -> None:
    """It was started in the moment between the look and the rename."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        await shop.through("1")
        async with shop.running(join=False) as looking:
            plan: Any = await operate.plan_rename(looking, "billing.charge", "billing.collect")
        gone = Shop(tmp_path, None)
        if kind == "drop":
            async with gone.running(join=False) as looking:
                plan = await operate.plan_drop(looking, "billing.charge")
        async with shop.running() as running:
            await until(running, lambda: _owned(running, 2))
            carry_out = operate.carry_out_rename if kind == "rename" else operate.carry_out_drop
            store, engine = running.stores["billing"], running.engine
            await carry_out(running, _moved(plan, store, engine), "ann")
            await shop.publish("2")
            await until(running, lambda: _is(all(loop.stopped for loop in running.loops())))
            assert "it was renamed or dropped while this process ran it" in next(iter(running.loops())).stopped
            assert await applied(running) == {"1": 1}

    asyncio.run(main())


def _moved(plan: Any, store: Any, engine: Any) -> Any:
    """The plan, for the store and the engine that are open now."""
    from dataclasses import replace

    home = replace(plan.home, store=store, engines=tuple((topic, engine) for topic, _ in plan.home.engines))
    return replace(plan, home=home)


# -- drop, and orphans ------------------------------------------------------------------------------------------------


def test_an_orphan_is_listed_shown_and_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        shop.failing = {"2"}
        async with shop.running() as running:
            await shop.publish("1", "2")
            await until(running, lambda: counts(running, {"1": 1}))
            await until(running, lambda: _parked(running, "billing.charge", 1))
        async with shop.running(join=False) as looking:
            with pytest.raises(Refused, match="the code has the group"):
                await operate.drop(looking, "billing.charge", "ann")
            await shop.publish("3")
            fence = await _fence(looking)
        without = Shop(tmp_path, None)
        async with without.running(join=False) as looking:
            found = await status(looking)
            assert (found.state, found.topics, found.waiting, found.parked) == ("orphaned", ("orders",), 1, 1)
            assert (await operate.group(looking, "billing.charge")).where == ""
            assert len(await operate.parked(looking)) == 1
            with pytest.raises(NotFound):
                await operate.seek(looking, "billing.charge", "end", "ann")
            lost = await operate.drop(looking, "billing.charge", "ann")
            assert (lost.status.waiting, lost.status.parked) == (1, 1)
            assert await operate.groups(looking) == [] and await operate.parked(looking) == []
            assert (await audit(looking))[-1][:3] == ("ann", "group drop", "billing.charge")
        again = Shop(tmp_path, start="beginning")
        async with again.running() as running:
            await until(running, lambda: counts(running, {"1": 2, "2": 1, "3": 1}))
            assert await _fence(running) > fence
            assert (await status(running)).state == "running"
        async with again.running() as running:  # the engine's old copy stops nobody
            await until(running, running.idle)
            assert (await status(running)).state == "running"

    asyncio.run(main())


# -- looking ----------------------------------------------------------------------------------------------------------


def test_what_waits_is_not_told_where_the_log_is_another(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        await shop.through("1")
        for file in tmp_path.glob("log.db*"):
            file.unlink()
        async with shop.running() as running:
            await shop.publish("2", "3")
            await until(running, lambda: _is(all(loop.stopped for loop in running.loops())))
            found = await status(running)
            assert (found.state, found.waiting, found.age) == ("stopped", None, None)
            detail = await operate.group(running, "billing.charge")
            assert "seek billing.charge" in detail.stopped["orders"] and detail.partitions == ()

    asyncio.run(main())


def test_show_tells_owners_fences_and_what_is_parked_by_partition(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            shop.failing = {"1"}
            await shop.publish("1", "2", "3", "4")
            await until(running, lambda: _parked(running, "billing.charge", 1))
            await until(running, lambda: counts(running, {"2": 1, "3": 1, "4": 1}))
            detail = await operate.group(running, "billing.charge")
            assert detail.handler.endswith("charge") and detail.where.startswith(__file__)
            assert detail.promise is not None and detail.promise.effects == "once"
            assert [(p.topic, p.partition, p.fence, p.state) for p in detail.partitions] == [
                ("orders", 0, 1, "running"), ("orders", 1, 1, "running"),
            ]  # fmt: skip
            assert sum(p.parked for p in detail.partitions) == 1
            assert all(p.owner and p.owner.startswith("pid ") and p.position == p.end for p in detail.partitions)
            with pytest.raises(NotFound, match="did you mean billing.charge"):
                await operate.group(running, "billing.chrge")

    asyncio.run(main())


async def _is(value: Any) -> bool:
    return bool(await value if asyncio.iscoroutine(value) else value)


async def _parked(running: Running, group: str, count: int) -> bool:
    return len(await operate.parked(running, group)) == count


async def _fence(running: Running) -> int:
    return max(row[0] for row in await running.stores["billing"].read("select max(fence) from evenflow_position "
                                                                      "where group_name = 'billing.charge'"))  # fmt: skip
