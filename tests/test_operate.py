"""What a person does to a system: seek, redrive, discard, adopt. The numbers in brackets are those of the premortem."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Policy, Service, Settings, Topic, Transaction, operate
from evenflow.clock import Signal
from evenflow.engine import Partition
from evenflow.errors import Refused
from evenflow.operate import NotFound
from evenflow.running import Running
from tests.on_postgres import files_only

ORDERS = Topic("orders", partitions=2)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str


class Shop:
    """An app that counts in its store how often each order was applied, and fails for those in `failing`."""

    def __init__(self, folder: Path, topic: Topic = ORDERS, start: Any = None) -> None:
        self.settings = Settings.load({"folder": folder, "lease": 2.0}, env={}, cwd=folder)
        self.failing: set[str] = set()
        self.service = Service("billing", policy=Policy(attempts=1))
        event = OrderPlaced
        if topic is not ORDERS:

            class Grown(Event, type="order.placed", topic=topic, key="order_id"):
                order_id: str

            event = Grown  # type: ignore[assignment]
        self.event = event

        async def charge(order, tx):
            if order.order_id in self.failing:
                raise ValueError(f"no card for {order.order_id}")
            tx.write(
                "insert into applied values ($1, 1) on conflict (id) do update set times = applied.times + 1",
                order.order_id,
            )

        charge.__annotations__ = {"order": event, "tx": Transaction}
        self.service.on(event, group="charge", start=start)(charge)
        self.app = App(self.service)

    def running(self, *, join: bool = True) -> Any:
        return self.app.running(handle=None if join else (), settings=self.settings, join=join)

    async def prepare(self) -> None:
        async with self.running(join=False), self.app.transaction(self.service) as tx:
            await tx.execute("create table if not exists applied (id text primary key, times integer not null)")

    async def publish(self, running: Running, *ids: str) -> None:
        await self.app.publish(*[self.event(order_id=each) for each in ids])


async def applied(running: Running) -> dict[str, int]:
    return dict(await running.stores["billing"].read("select id, times from applied order by id"))


async def until(running: Running, holds: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for a condition, or fail with what it was last."""
    deadline = running.clock.monotonic() + seconds
    while not await holds():
        assert running.clock.monotonic() < deadline, (await operate.groups(running), await applied(running))
        await running.clock.wait(Signal(), 0.01)


async def idle(running: Running) -> None:
    await until(running, running.idle)


async def status(running: Running) -> operate.GroupStatus:
    (found,) = await operate.groups(running)
    return found


async def audit(running: Running) -> list[tuple[str, str, str]]:
    return await running.stores["billing"].read("select who, what, subject from evenflow_audit order by id")


def test_groups_tell_state_owners_backlog_and_parked(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running(join=False) as looking:
            assert (await status(looking)).state == "new"
        async with shop.running() as running:
            shop.failing = {"1"}
            await shop.publish(running, "1", "2", "1")
            await idle(running)
            found = await status(running)
            assert (found.group, found.kind, found.topics, found.state) == (
                "billing.charge", "transactional", ("orders",), "running",
            )  # fmt: skip
            assert (len(found.owners), found.waiting, found.age, found.parked, found.dead) == (1, 0, None, 2, 1)
        async with shop.running(join=False) as looking:
            await shop.publish(looking, "3")
            found = await status(looking)
            assert (found.owners, found.waiting) == ((), 1)
            assert found.age is not None and 0 <= found.age < 20

    asyncio.run(main())


def test_what_a_waiting_group_has_done_beyond_a_slow_event_does_not_wait(tmp_path: Path) -> None:
    async def main() -> None:
        service, slow = Service("billing"), asyncio.Event()

        @service.on(OrderPlaced, group="tell", concurrency=4)
        async def tell(order: OrderPlaced) -> None:
            if order.order_id == "slow":
                await slow.wait()

        app = App(service)
        settings = Settings.load({"folder": tmp_path}, env={}, cwd=tmp_path)
        async with app.running(handle=None, settings=settings) as running:
            await app.publish(*[OrderPlaced(order_id=each) for each in ("slow", *map(str, range(20)))])

            async def stands() -> bool:
                found = await status(running)
                return (found.taken, found.waiting) == (20, 1)

            await until(running, stands)
            slow.set()
            await idle(running)
            found = await status(running)
            assert (found.taken, found.waiting, found.age) == (21, 0, None)

    asyncio.run(main())


def test_looking_makes_no_generation(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1")
            await idle(running)
        grown = Shop(tmp_path, Topic("orders", partitions=8))
        async with grown.running(join=False) as looking:
            await operate.groups(looking)
            await operate.seek(looking, "billing.charge", "end", "ann")
            log = await next(iter(looking.engines.values())).log("orders")
            assert log is not None
            assert [each.partitions for each in log.generations] == [2]

    asyncio.run(main())


def test_seek_back_applies_each_event_once_more_and_drops_what_comes_again(tmp_path: Path) -> None:
    """[24] Marks are cleared, or the replay would be dropped; parked rows go, or they would run behind themselves."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            shop.failing = {"2"}
            await shop.publish(running, "1", "2", "2", "3")
            async with shop.app.transaction(shop.service) as tx:
                tx.publish(shop.event(order_id="4"))
            await until(running, lambda: _is(applied(running), {"1": 1, "3": 1, "4": 1}))
            await until(running, lambda: _parked(running, 2))
            shop.failing = set()
            (plan,) = await operate.seek(running, "billing.charge", "beginning", "ann")
            assert plan.positions == {Partition("orders", 1, 0): 0, Partition("orders", 1, 1): 0}
            assert sum(each or 0 for each in plan.before.values()) == 5
            assert (await status(running)).parked == 0
            await until(running, lambda: _is(applied(running), {"1": 2, "2": 2, "3": 2, "4": 2}))
            await idle(running)
            assert await applied(running) == {"1": 2, "2": 2, "3": 2, "4": 2}
            assert await audit(running) == [("ann", "group seek", "billing.charge")]
        async with shop.running() as running:  # what the engine was told fits, so nothing stops
            await shop.publish(running, "5")
            await until(running, lambda: _is(applied(running), {"1": 2, "2": 2, "3": 2, "4": 2, "5": 1}))
            assert (await status(running)).state == "running"

    asyncio.run(main())


def test_seek_to_the_end_to_a_time_and_to_offsets(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running(join=False) as looking:
            pass
        async with shop.running() as running:
            await shop.publish(running, "1", "2", "3", "4")
            await idle(running)
        async with shop.running(join=False) as looking:
            await asyncio.sleep(0.01)
            between = looking.clock.now()
            await asyncio.sleep(0.01)
            await shop.publish(looking, "1", "2", "3", "4")
            engine = next(iter(looking.engines.values()))
            ends = {n: (await engine.bounds(Partition("orders", 1, n))).high for n in (0, 1)}
            assert (await status(looking)).waiting == 4
            (plan,) = await operate.seek(looking, "billing.charge", "end", "ann")
            assert plan.positions == {Partition("orders", 1, n): end for n, end in ends.items()}
            assert (await status(looking)).waiting == 0
            await operate.seek(looking, "billing.charge", between, "ann")
            assert (await status(looking)).waiting == 4
            await operate.seek(looking, "billing.charge", {0: ends[0]}, "ann")
            assert (await status(looking)).waiting == ends[1] - ends[1] // 2
            with pytest.raises(Refused, match=f"keeps the offsets from 0 to {ends[0]}, not 99"):
                await operate.seek(looking, "billing.charge", {0: 99}, "ann")
            with pytest.raises(NotFound, match="no partition 7"):
                await operate.seek(looking, "billing.charge", {7: 0}, "ann")
            with pytest.raises(NotFound, match="did you mean billing.charge"):
                await operate.seek(looking, "billing.charg", "end", "ann")

    asyncio.run(main())


def test_seek_goes_back_over_a_generation(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1", "2")
            await idle(running)
        grown = Shop(tmp_path, Topic("orders", partitions=4))
        async with grown.running() as running:
            grown.failing = {"4"}
            await grown.publish(running, "3", "4")
            await until(running, lambda: _is(applied(running), {"1": 1, "2": 1, "3": 1}))
            await until(running, lambda: _parked(running, 1))
            grown.failing = set()
            fence = await _highest_fence(running)
            await operate.seek(running, "billing.charge", "beginning", "ann")
            assert await _highest_fence(running) > fence
            await until(running, lambda: _is(applied(running), {"1": 2, "2": 2, "3": 2, "4": 1}))
            await idle(running)
            assert await applied(running) == {"1": 2, "2": 2, "3": 2, "4": 1}
            assert await _highest_fence(running) > fence
            assert (await status(running)).state == "running"
        async with grown.running() as running:
            await idle(running)
            assert (await status(running)).state == "running"

    asyncio.run(main())


def test_a_deleted_log_stops_the_group_and_a_seek_lets_it_go_on(tmp_path: Path) -> None:
    """[26] What was parked from the old log is kept, and stands before what the new one brings of its key."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            shop.failing = {"2"}
            await shop.publish(running, "1", "2")
            await until(running, lambda: _is(applied(running), {"1": 1}))
            await until(running, lambda: _parked(running, 1))
        for file in tmp_path.glob("log.db*"):
            file.unlink()
        async with shop.running() as running:
            await shop.publish(running, "5", "2", "2")
            await until(running, lambda: _stopped(running))
            found = await status(running)
            assert "evenflow groups seek billing.charge" in found.reason
            assert await applied(running) == {"1": 1}
            await operate.seek(running, "billing.charge", "beginning", "ann")
            await until(running, lambda: _is(applied(running), {"1": 1, "5": 1}))
            await until(running, lambda: _parked(running, 3))
            lot = await operate.parked(running)
            assert [(each.behind, each.dead) for each in lot] == [(False, True), (True, False), (True, False)]
            shop.failing = set()
            assert await operate.redrive(running, "billing.charge", "2", "ann") == 1
            await until(running, lambda: _is(applied(running), {"1": 1, "2": 3, "5": 1}))
            await until(running, lambda: _parked(running, 0))
            assert (await status(running)).state == "running"
        async with shop.running() as running:
            await idle(running)
            assert (await status(running)).state == "running"

    asyncio.run(main())


def test_a_group_that_was_stopped_by_a_wrong_engine_goes_on_with_the_right_one(tmp_path: Path) -> None:
    """Nobody may be told to seek, which repeats or skips, when a wrong URL was all that was wrong."""

    async def main() -> None:
        shop = Shop(tmp_path)
        right = shop.settings
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1")
            await until(running, lambda: _is(applied(running), {"1": 1}))
        shop.settings = Settings.load(
            {"folder": tmp_path, "engine": f"sqlite:///{tmp_path}/other.db"}, env={}, cwd=tmp_path
        )
        async with shop.running() as running:
            await until(running, lambda: _stopped(running))
            assert "if the engine's URL is wrong, correct it" in (await status(running)).reason
        shop.settings = right
        async with shop.running() as running:
            await shop.publish(running, "2")
            await until(running, lambda: _is(applied(running), {"1": 1, "2": 1}))
            await until(running, lambda: _runs(running))
            assert (await status(running)).reason == ""

    asyncio.run(main())


def test_redrive_and_discard_of_dead_letters(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            shop.failing = {"1", "2", "3"}
            await shop.publish(running, "1", "2", "3", "1")
            await until(running, lambda: _parked(running, 4))
            with pytest.raises(NotFound, match="nothing is parked"):
                await operate.redrive(running, "billing.charge", "9", "ann")
            assert await operate.discard(running, "billing.charge", "k1", "ann") == 1
            await until(running, lambda: _parked(running, 3))
            shop.failing = set()
            assert await operate.redrive(running, "billing.charge", None, "ann") == 3
            await until(running, lambda: _is(applied(running), {"1": 1, "2": 1, "3": 1}))
            assert await operate.redrive(running, "billing.charge", None, "ann") == 0
            asked = ["operation done", "operation done", "parked discard", "parked redrive"]
            await until(running, lambda: _is(_audited(running), asked))

    asyncio.run(main())


@files_only
def test_a_group_that_only_another_store_knows_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """Beginning anew, as for a new group, would handle everything again."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1")
            await idle(running)
        for file in tmp_path.glob("billing.db*"):
            file.unlink()
        await shop.prepare()
        with pytest.raises(Refused, match="another store has: it has read 'orders'.*\n.*evenflow store adopt"):
            async with shop.running():
                pass
        async with shop.running(join=False) as looking:
            await operate.adopt(looking, "billing", "ann")
            await operate.seek(looking, "billing.charge", "end", "ann")
        async with shop.running() as running:
            await shop.publish(running, "2")
            await until(running, lambda: _is(applied(running), {"2": 1}))

    asyncio.run(main())


@files_only
def test_another_store_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    """[27] A replica that falls to the default store does not start from nothing."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            async with shop.app.transaction(shop.service) as tx:
                tx.publish(shop.event(order_id="1"))
            await until(running, lambda: _is(applied(running), {"1": 1}))
        for file in tmp_path.glob("billing.db*"):
            file.unlink()
        other = Shop(tmp_path, start="beginning")
        await other.prepare()
        with pytest.raises(
            Refused, match="is not the one that it has published from.*\n.*evenflow store adopt billing"
        ):
            async with other.running():
                pass
        async with other.running(join=False) as looking:
            assert await operate.adopt(looking, "billing", "ann") == ["billing.charge"]
        async with other.running() as running:
            async with other.app.transaction(other.service) as tx:
                tx.publish(other.event(order_id="2"))
            await until(running, lambda: _is(applied(running), {"1": 1, "2": 1}))

    asyncio.run(main())


@files_only
def test_another_store_of_a_service_that_only_handles_stops_its_groups(tmp_path: Path) -> None:
    """[27]"""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1")
            await until(running, lambda: _is(applied(running), {"1": 1}))
        for file in tmp_path.glob("billing.db*"):
            file.unlink()
        other = Shop(tmp_path, start="end")
        await other.prepare()
        async with other.running() as running:
            await other.publish(running, "2")
            await until(running, lambda: _stopped(running))
            assert "evenflow store adopt billing" in (await status(running)).reason
            with pytest.raises(Refused, match="evenflow store adopt billing"):  # a seek must not adopt by the way
                await operate.seek(running, "billing.charge", "beginning", "ann")
            with pytest.raises(Refused, match="in use by pid"):
                await operate.adopt(running, "billing", "ann")
        async with other.running(join=False) as looking:
            await operate.adopt(looking, "billing", "ann")
        async with other.running() as running:
            await until(running, lambda: _is(applied(running), {"2": 1}))

    asyncio.run(main())


@files_only
@pytest.mark.parametrize("handled", [True, False])
def test_a_restored_store_is_refused_and_loses_nothing_after_it_is_adopted(tmp_path: Path, handled: bool) -> None:
    """[27] Its numbers were used already by what it published after the backup: it becomes a new producer."""

    async def main() -> None:
        shop = Shop(tmp_path)
        reader = Reader(tmp_path)
        await shop.prepare()
        await reader.prepare()

        async def place(*ids: str) -> None:
            for each in ids:
                async with shop.app.transaction(shop.service) as tx:
                    tx.publish(shop.event(order_id=each))

        async with shop.running() as running:
            await place("1")
            if handled:
                await until(running, lambda: _is(applied(running), {"1": 1}))
            await idle(running)
        _copy(tmp_path, "billing", "backup")
        async with shop.running() as running:
            await place("1", "1")
            await idle(running)
        async with reader.running() as reading:
            await until(reading, lambda: _read(reading, {"1": 3}))
        _copy(tmp_path, "backup", "billing")
        with pytest.raises(Refused, match="restored from a backup.*\n.*evenflow store adopt billing"):
            async with shop.running():
                pass
        async with shop.running(join=False) as looking:
            await operate.adopt(looking, "billing", "ann")
            assert ("ann", "store adopt", "billing") in await audit(looking)
        async with shop.running() as running:
            await place("1", "1")  # with the numbers 2 and 3 of its slot, as in the life that was lost
            await idle(running)
            assert (await status(running)).state == "running"
        async with reader.running() as reading:
            await until(reading, lambda: _read(reading, {"1": 5}))

    asyncio.run(main())


class Reader(Shop):
    """Another service that reads the same topic, in a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.load({"folder": folder, "lease": 2.0}, env={}, cwd=folder)
        self.service = Service("reader")
        self.event = OrderPlaced

        @self.service.on(OrderPlaced, group="count", start="beginning")
        async def count(order: OrderPlaced, tx: Transaction) -> None:
            tx.write(
                "insert into applied values ($1, 1) on conflict (id) do update set times = applied.times + 1",
                order.order_id,
            )

        self.app = App(self.service)


async def _read(running: Running, wanted: dict[str, int]) -> bool:
    return dict(await running.stores["reader"].read("select id, times from applied")) == wanted


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


async def _audited(running: Running) -> list[str]:
    return sorted(row[1] for row in await audit(running))


async def _parked(running: Running, count: int) -> bool:
    return (await status(running)).parked == count


async def _stopped(running: Running) -> bool:
    return (await status(running)).state == "stopped"


async def _runs(running: Running) -> bool:
    return (await status(running)).state == "running"


async def _highest_fence(running: Running) -> int:
    sql = "select max(fence) from evenflow_position where group_name = 'billing.charge'"
    return int((await running.stores["billing"].read(sql))[0][0])


def _copy(folder: Path, source: str, target: str) -> None:
    for file in folder.glob(f"{target}.db*"):
        file.unlink()
    shutil.copy(folder / f"{source}.db", folder / f"{target}.db")
    if (folder / f"{source}.db-wal").exists():
        shutil.copy(folder / f"{source}.db-wal", folder / f"{target}.db-wal")


def test_the_engine_is_told_before_a_seek_back_is_real(tmp_path: Path) -> None:
    """Otherwise a crash between the two would look like a store that was restored from a backup."""

    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1", "2", "3")
            await idle(running)
        async with shop.running(join=False) as looking:
            plans = await operate.plan_seek(looking, "billing.charge", "beginning")
            engine, store = plans[0].engine, looking.stores["billing"]
            transact = store.transact

            async def killed(work: Any) -> None:
                told = await engine.recall("billing.charge")
                assert told is not None
                assert {p: told.positions.get(p, 0) for p in plans[0].positions} == dict.fromkeys(plans[0].positions, 0)
                raise KeyboardInterrupt

            store.transact = killed  # type: ignore[method-assign, assignment]
            with pytest.raises(KeyboardInterrupt):
                await operate.carry_out(looking, "billing.charge", plans, "beginning", "ann")
            store.transact = transact  # type: ignore[method-assign]
        async with shop.running() as running:
            await idle(running)
            assert await applied(running) == {"1": 1, "2": 1, "3": 1}
            assert (await status(running)).state == "running"

    asyncio.run(main())


def test_groups_and_topics_under_other_names(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        names = {"group_prefix": "prod.", "topic_prefix": "prod."}
        shop.settings = Settings.load({"folder": tmp_path, **names}, env={}, cwd=tmp_path)
        await shop.prepare()
        async with shop.running() as running:
            await shop.publish(running, "1", "2")
            await until(running, lambda: _is(applied(running), {"1": 1, "2": 1}))
            found = await status(running)
            assert (found.group, found.topics, found.waiting) == ("prod.billing.charge", ("prod.orders",), 0)
            await operate.seek(running, "billing.charge", "beginning", "ann")  # with the prefix or without
            await until(running, lambda: _is(applied(running), {"1": 2, "2": 2}))
            assert await audit(running) == [("ann", "group seek", "prod.billing.charge")]
        async with shop.running(join=False) as looking:
            assert await operate.adopt(looking, "billing", "ann") == ["prod.billing.charge"]
        async with shop.running() as running:
            await idle(running)

    asyncio.run(main())
