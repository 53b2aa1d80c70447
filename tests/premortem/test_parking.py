"""Part D of the pre-mortem: parking. Each case is run again with its mend taken out, and must fail then."""

from __future__ import annotations

from typing import Any

import pytest

from evenflow import DAY, App, Policy, Service, Transaction, testing
from evenflow.chunk import ChunkLoop
from evenflow.passes import Pass
from evenflow.work import Progress
from evenflow.errors import StoreUnavailable
from evenflow.ids import slot_of
from evenflow.parking import Parking, ask
from evenflow.unit_of_work import UnitOfWork

from .events import Placed, Spread, loop_of, placed, run, table
from .planted import fails_without, must_fail, planted

Patch = pytest.MonkeyPatch


class Fault:
    """Keys that fail now, and what was handled."""

    def __init__(self, *keys: str) -> None:
        self.keys = set(keys)
        self.done: list[tuple[str, int]] = []


def shop(fault: Fault, policy: Policy, *, waiting: bool) -> App:
    service = Service("shop", policy=policy)

    def work(order: Placed) -> None:
        if order.key in fault.keys:
            raise ValueError(order.key)
        fault.done.append((order.key, order.number))

    if waiting:

        @service.on(Placed, group="work")
        async def wait(order: Placed) -> None:
            work(order)

    else:

        @service.on(Placed, group="work")
        async def chunk(order: Placed, tx: Transaction) -> None:
            work(order)

    return App(service)


def numbers(fault: Fault, key: str) -> list[int]:
    return [number for each, number in fault.done if each == key]


# -- 22 ---------------------------------------------------------------------------------------------------------------


def whoever_asks_frees(patch: Patch) -> None:
    async def free(store: Any, group: str, heads: Any, wish: str, who: str, clock: Any) -> int:
        async def work(session: Any) -> int:
            sql = "delete from evenflow_parked where group_name = $1 and lane = $2"
            return await session.execute(sql, (group, heads[0].lane))

        return await store.transact(work)

    patch.setitem(globals(), "ask", free)


def _redrive_elsewhere(waiting: bool) -> None:
    async def test() -> None:
        fault = Fault("k")
        async with testing.world(shop(fault, Policy(attempts=1), waiting=waiting)) as world:
            await world.publish(*[Placed(key="k", number=n) for n in range(1, 6)], Placed(key="free"))
            assert len(await world.parked()) == 5 and numbers(fault, "k") == []
            fault.keys.clear()
            store = world.running.stores["shop"]
            heads = [each for each in await world.parked() if each.dead]
            assert await ask(store, "shop.work", heads, "redrive", "somebody", world.clock) >= 1
            assert numbers(fault, "k") == []  # a wish, and nothing more
            await world.app.publish(Placed(key="k", number=6))
            await world.advance(2.0)
            await world.publish(Placed(key="k", number=7))
            assert numbers(fault, "k") == [1, 2, 3, 4, 5, 6, 7]
            assert await world.parked() == []

    run(test)


@fails_without(whoever_asks_frees)
def test_22_a_redrive_by_another_process_is_a_wish_that_the_owner_takes_up() -> None:
    """What comes while it is taken up neither overtakes nor stays behind for ever."""
    _redrive_elsewhere(waiting=False)


@fails_without(whoever_asks_frees)
def test_22_a_redrive_keeps_the_order_of_a_waiting_handler_too() -> None:
    """The same with lanes."""
    _redrive_elsewhere(waiting=True)


def new_ones_overtake(patch: Patch) -> None:
    def forgotten(self: Any, *args: Any) -> bool:
        self.progress.lanes.clear()
        self.progress.owned.lanes.clear()
        return True

    patch.setattr(Pass, "behind", forgotten)


@fails_without(new_ones_overtake)
def test_22_what_comes_later_waits_behind_what_is_parked() -> None:
    """Through two failures, a retry and a dead letter, the effects of a key stay in order."""

    async def test() -> None:
        fault = Fault("k")
        async with testing.world(shop(fault, Policy(attempts=3, first_delay=1.0), waiting=False)) as world:
            for n in range(1, 4):
                await world.publish(Placed(key="k", number=n))
            await world.advance(1.0)
            await world.publish(Placed(key="k", number=4), Placed(key="free", number=1))
            await world.advance(DAY)
            assert [(p.behind, p.dead) for p in await world.parked()] == [(False, True), *[(True, False)] * 3]
            fault.keys.clear()
            await world.redrive()
            await world.publish(Placed(key="k", number=5))
            assert numbers(fault, "k") == [1, 2, 3, 4, 5] and numbers(fault, "free") == [1]

    run(test, 5.0)


# -- 23 ---------------------------------------------------------------------------------------------------------------


def one_by_one(patch: Patch) -> None:
    rows = Parking.rows

    async def one(self: Any, session: Any, topic: str, lane: str, limit: int = 1) -> Any:
        return await rows(self, session, topic, lane, 1)

    patch.setattr(Parking, "rows", one)


@fails_without(one_by_one)
def test_23_parked_events_run_in_chunks() -> None:
    """A hundred and fifty events of one key are two transactions at most, not a hundred and fifty."""

    async def test() -> None:
        fault = Fault("k")
        async with testing.world(shop(fault, Policy(attempts=1), waiting=False)) as world:
            await world.publish(*[Placed(key="k", number=n) for n in range(150)])
            assert len(await world.parked()) == 150
            fault.keys.clear()
            commits = 0
            commit = UnitOfWork.commit

            async def counted(self: Any) -> None:
                nonlocal commits
                commits += bool(self.guards)
                await commit(self)

            with Patch.context() as patch:
                patch.setattr(UnitOfWork, "commit", counted)
                await world.redrive()
            assert numbers(fault, "k") == list(range(150)) and await world.parked() == []
            assert commits <= 2

    run(test)


def freed_before_the_commit(patch: Patch) -> None:
    original = ChunkLoop.run_lanes

    async def early(self: Any, owned: Any, lanes: Any) -> None:
        owned.lanes.difference_update(lanes)
        sql = "delete from evenflow_parked where group_name = $1 and lane = $2"
        await self.work.store.transact(lambda session: session.execute(sql, (self.name, lanes[0])))
        await original(self, owned, lanes)

    patch.setattr(ChunkLoop, "run_lanes", early)


@fails_without(freed_before_the_commit)
def test_23_a_key_is_freed_in_the_transaction_of_its_last_event() -> None:
    """The commit of a lane is lost: all its events are parked still, and run once when the store is well."""

    async def test() -> None:
        service = Service("shop", policy=Policy(attempts=1))
        broken = True

        @service.on(Placed, group="work")
        async def work(order: Placed, tx: Transaction) -> None:
            if broken:
                raise ValueError
            tx.write("insert into t values ($1)", str(order.number))

        async with testing.world(App(service), patience=0.2) as world:
            await table(world, "shop")
            await world.publish(*[Placed(key="k", number=n) for n in range(10)])
            broken, lost = False, 0
            commit = UnitOfWork.commit

            async def losing(self: Any) -> None:
                nonlocal lost
                if self.group and any("insert into t" in sql for sql, _ in self.statements) and not lost:
                    lost += 1
                    raise StoreUnavailable("the disk is full")
                await commit(self)

            with Patch.context() as patch:
                patch.setattr(UnitOfWork, "commit", losing)
                with pytest.raises(testing.NotSettled, match="the disk is full"):
                    await world.redrive()
            assert lost == 1 and len(await world.parked()) == 10
            assert await world.rows("shop", "select * from t") == []
            await world.advance(5.0)
            await world.publish(Placed(key="k", number=10))
            assert [row.id for row in await world.rows("shop", "select id from t order by rowid")] == [
                str(n) for n in range(11)
            ]
            assert await world.parked() == []

    run(test)


# -- 25 ---------------------------------------------------------------------------------------------------------------


def no_limit(patch: Patch) -> None:
    add = Parking._add

    def adding(self: Any, *args: Any) -> None:
        self.count = -1000
        add(self, *args)

    patch.setattr(Parking, "_add", adding)


def what_finds_no_place_is_dropped(patch: Patch) -> None:
    patch.setattr(Progress, "block", lambda self, offset, reason: None)


@fails_without(no_limit, what_finds_no_place_is_dropped)
def test_25_a_full_parking_lot_stops_the_partition_and_no_other_and_nothing_is_lost() -> None:
    """The one exception to "a failing key holds up no other"; it is said, and it ends when there is room again."""

    async def test() -> None:
        service = Service("shop", policy=Policy(attempts=1, parking=3))
        broken, done = True, []

        @service.on(Spread, group="work")
        async def work(order: Spread, tx: Transaction) -> None:
            if broken and order.key.startswith("bad"):
                raise ValueError(order.key)
            done.append((order.key, order.number))

        async with testing.world(App(service)) as world:
            by_partition: dict[int, list[str]] = {}
            for n in range(400):
                by_partition.setdefault(slot_of(f"bad{n}") % 4, []).append(f"bad{n}")
            bad = by_partition[0][:5]
            good = next(f"good{n}" for n in range(100) if slot_of(f"good{n}") % 4 == 0)
            elsewhere = next(f"good{n}" for n in range(100) if slot_of(f"good{n}") % 4 == 1)
            await world.publish(*[Spread(key=key) for key in bad], Spread(key=good), Spread(key=elsewhere))
            assert sorted(p.key or "" for p in await world.parked()) == sorted(bad[:3])
            assert done == [(elsewhere, 0)]
            await world.advance(60.0)
            await world.publish(Spread(key=elsewhere, number=1))
            assert done == [(elsewhere, 0), (elsewhere, 1)] and len(await world.parked()) == 3
            assert "which is the limit of its policy" in loop_of(world, "shop.work").trouble
            broken = False
            await world.redrive()
            await world.advance(5.0)
            assert sorted(done) == sorted([(elsewhere, 0), (elsewhere, 1), (good, 0), *[(key, 0) for key in bad]])
            assert await world.parked() == []

    run(test)


def test_25_a_full_parking_lot_holds_up_waiting_handlers_the_same_way() -> None:
    """A failing event that finds no place is kept, and settled when there is room; nothing is lost."""

    async def test() -> None:
        fault = Fault("bad0", "bad1", "bad2")
        async with testing.world(shop(fault, Policy(attempts=1, parking=2), waiting=True), patience=0.1) as world:
            with pytest.raises(testing.NotSettled):
                await world.publish(*placed("bad0", "bad1", "bad2", "good"))
            assert len(await world.parked()) == 2
            fault.keys.clear()
            with pytest.raises(testing.NotSettled):
                await world.redrive()
            await world.advance(5.0)
            await world.redrive()
            assert sorted(key for key, _ in fault.done) == ["bad0", "bad1", "bad2", "good"]
            assert await world.parked() == []

    run(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    must_fail(case, plant, monkeypatch)
