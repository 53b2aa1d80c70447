"""Part A of the pre-mortem: producers. Each case is run again with its mend taken out, and must fail then."""

from __future__ import annotations

import asyncio
import contextvars
import time
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Service, Transaction, position
from evenflow.engine import Outcome
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.errors import FenceLost, OutboxFull, PublishRefused
from evenflow.group import GroupLoop
from evenflow.outbox import Outbox
from evenflow.position import Marks, Taking
from evenflow.unit_of_work import UnitOfWork
from . import stage
from .planted import fails_without, must_fail, planted
from .stage import (
    EFFECT, Bill, Order, case, die, drained, drive, effects, eventually, folder, killed, log_of, opened, publishing,
    raises, shop,
)  # fmt: skip

Patch = pytest.MonkeyPatch


# -- 1 ----------------------------------------------------------------------------------------------------------------


def every_number_is_new(patch: Patch) -> None:
    patch.setattr(Taking, "take", lambda *_, **__: True)


def numbers_are_drawn_by_the_relay(patch: Patch) -> None:
    async def append(self: Outbox, topic: str, envelopes: list[Any]) -> None:
        count = self.__dict__.setdefault("drawn", [time.monotonic_ns()])
        for index, each in enumerate(envelopes):
            count[0] += 1
            envelopes[index] = type(each)(
                *(count[0] if f == "number" else getattr(each, f) for f in each.__struct_fields__)
            )
        await real(self, topic, envelopes)

    real = Outbox._append
    patch.setattr(Outbox, "_append", append)


@fails_without(every_number_is_new, numbers_are_drawn_by_the_relay)
def test_01_a_relay_that_is_killed_between_append_and_removal_repeats_itself_and_nothing_is_doubled() -> None:
    with folder() as path:

        async def dies() -> None:
            Outbox._remove = die  # type: ignore[method-assign]
            app = publishing()
            async with opened(app, path):
                async with app.transaction("shop") as tx:
                    for n in range(5):
                        tx.publish(Order(key="k", number=n))
                await asyncio.sleep(10)

        killed(dies)

        async def after() -> None:
            async with opened(shop(Order), path) as running:
                await drained(running)
                numbers = [e.number for e in await log_of(running, "orders")]
                assert len(numbers) == 10, "the log holds them twice"
                assert await effects(running) == [("k", n) for n in range(5)]

        drive(after)


def the_position_moves_apart(patch: Patch) -> None:
    """The effects are one transaction, the position another, right after it."""
    late: list[tuple[str, Any]] = []

    def move(self: GroupLoop, unit: UnitOfWork, progress: Any, settled: list[int]) -> None:
        marks = progress.taking.marks(0.0)
        late.append(
            position.move(self._sql["position_move"], progress.owned, progress.next, progress.last_id, marks, settled)
        )

    async def commit(self: GroupLoop, unit: UnitOfWork) -> None:
        await unit.commit()
        for statement in late:
            await self.work.store.transact(lambda session, it=statement: session.execute(*it))
        late.clear()

    patch.setattr(GroupLoop, "move", move)
    patch.setattr(GroupLoop, "commit", commit)


@fails_without(the_position_moves_apart)
def test_01_a_kill_between_a_commit_and_its_answer_doubles_nothing() -> None:
    with folder() as path:

        async def dies() -> None:
            real = UnitOfWork.commit

            async def commit(self: UnitOfWork) -> None:
                await real(self)
                if self.group:
                    die()

            UnitOfWork.commit = commit  # type: ignore[method-assign]
            app = shop(Order)
            async with opened(app, path):
                await app.publish(*(Order(key="k", number=n) for n in range(5)))
                await asyncio.sleep(10)

        killed(dies)

        async def after() -> None:
            app = shop(Order)
            async with opened(app, path) as running:
                await app.publish(Order(key="k", number=5))
                await drained(running)
                assert await effects(running) == [("k", n) for n in range(6)]

        drive(after)


# -- 2 ----------------------------------------------------------------------------------------------------------------


def numbers_are_drawn_at_the_call(patch: Patch) -> None:
    drawn: dict[int, int] = {}
    publish, keep = Transaction.publish, Outbox.keep

    def early(self: Transaction, event: Any, **how: Any) -> None:
        publish(self, event, **how)
        drawn[id(self._unit)] = len(drawn) + 1

    async def late(self: Outbox, session: Any, units: list[UnitOfWork]) -> None:
        fetch = session.fetch

        async def given(sql: str, args: tuple[Any, ...] = ()) -> Any:
            rows = await fetch(sql, args)
            return [(rows[0][0], drawn[id(units[0])], rows[0][2])] if sql == self.store.sql["counters_draw"] else rows

        session.fetch = given
        await keep(self, session, units)

    patch.setattr(Transaction, "publish", early)
    patch.setattr(Outbox, "keep", late)


@fails_without(numbers_are_drawn_at_the_call)
def test_02_the_order_of_the_outbox_is_the_order_of_commits() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            async with app.transaction("shop") as slow:
                slow.publish(Order(key="k", number=1))  # cancelled, and committed last

                async def quick() -> None:
                    async with app.transaction("shop") as tx:
                        tx.publish(Order(key="k", number=2))  # paid, and committed first

                await asyncio.create_task(quick(), context=contextvars.Context())
            await drained(running)
            assert [e.number for e in await log_of(running, "orders")] == [1, 2]
            assert await effects(running) == [("k", 2), ("k", 1)]

    case(test)


# -- 3 ----------------------------------------------------------------------------------------------------------------


def late_numbers_are_dropped(patch: Patch) -> None:
    real = Taking.take

    def take(self: Taking, producer: str, slot: int, number: int, **how: Any) -> bool:
        last = self.slots(producer).get(slot)
        return (last is None or number > last) and real(self, producer, slot, number, **how)

    patch.setattr(Taking, "take", take)


@fails_without(late_numbers_are_dropped)
def test_03_a_missing_number_that_comes_late_is_run_and_reported_and_never_dropped() -> None:
    taking = Marks().fork()
    assert [taking.take("p", 0, n) for n in (1, 2, 5, 3, 3, 4, 4, 5)] == [
        True, True, True, True, False, True, False, False
    ]  # fmt: skip
    assert taking.late == 2
    again = taking.marks(0.0).fork()
    assert not any(again.take("p", 0, n) for n in range(1, 6))


def retried_without_the_rest(patch: Patch) -> None:
    """What follows an unknown outcome is sent before it."""

    async def append(self: Outbox, topic: str, envelopes: list[Any]) -> None:
        engine = await self._ready(topic)
        left: list[Any] = []
        for each in envelopes:
            if (await engine.append(topic, [each]))[0] is not Outcome.STORED:
                left.append(each)
        for each in left:
            await engine.append(topic, [each])

    patch.setattr(Outbox, "_append", append)


@fails_without(retried_without_the_rest)
def test_03_an_append_that_is_partly_unknown_keeps_the_order_of_each_key() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        answers = iter(["partly", "lost", "lost"])

        class Wobbly:
            """Keeps a prefix, as the contract says, and is lost for words about the rest."""

            def __init__(self, engine: SqliteEngine) -> None:
                self.real = engine.append

            async def __call__(self, topic: str, envelopes: Any) -> Any:
                answer = next(answers, "")
                if not answer:
                    return await self.real(topic, envelopes)
                keep = 2 if answer == "partly" else 0
                await self.real(topic, envelopes[:keep])
                return [Outcome.STORED] * min(keep, len(envelopes)) + [Outcome.UNKNOWN] * (len(envelopes) - keep)

        async with opened(app, path) as running:
            engine: Any = await running.ready("orders")
            engine.append = Wobbly(engine)
            async with app.transaction("shop") as tx:
                for n in range(6):
                    tx.publish(Order(key="k", number=n))
            await drained(running)
            assert await effects(running) == [("k", n) for n in range(6)]

    case(test)


# -- 4 ----------------------------------------------------------------------------------------------------------------


def nobody_waits(patch: Patch) -> None:
    patch.setattr(Outbox, "holds", lambda *_: False)


@fails_without(nobody_waits)
def test_04_a_direct_publish_comes_after_what_this_process_has_committed_before() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            outbox = running.outboxes["shop"]
            await eventually(lambda: outbox.owned)
            gate, real = asyncio.Event(), outbox._append

            async def held_up(topic: str, envelopes: list[Any]) -> None:
                await gate.wait()
                await real(topic, envelopes)

            outbox._append = held_up  # type: ignore[method-assign]
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k", number=1))
            direct = asyncio.create_task(app.publish(Order(key="k", number=2)))
            await app.publish(Order(key="another", number=9))
            gate.set()
            await direct
            await drained(running)
            assert [each for each in await effects(running) if each[0] == "k"] == [("k", 1), ("k", 2)]

    case(test)


def a_due_event_keeps_the_place_of_its_call(patch: Patch) -> None:
    publish = Transaction.publish

    def at_once(self: Transaction, event: Any, **how: Any) -> None:
        publish(self, event)

    patch.setattr(Transaction, "publish", at_once)


@fails_without(a_due_event_keeps_the_place_of_its_call)
def test_04_a_due_event_takes_its_place_when_it_is_due() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k", number=1), after=0.2)
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k", number=2))
            await eventually(lambda: _both(running))
            assert await effects(running) == [("k", 2), ("k", 1)]
            assert [e.number for e in await log_of(running, "orders")] == [1, 2]

    async def _both(running: Any) -> bool:
        return len(await effects(running)) == 2

    case(test)


# -- 5 ----------------------------------------------------------------------------------------------------------------


def never_full(patch: Patch) -> None:
    patch.setattr(Outbox, "full", property(lambda self: False, lambda self, value: None), raising=False)


@fails_without(never_full)
def test_05_while_the_engine_is_down_the_outbox_is_bounded_and_what_fills_it_pauses() -> None:
    async def test(path: Path) -> None:
        service = Service("shop")

        @service.on(Order, group="bill", start="beginning")
        async def bill(order: Order, tx: Transaction) -> Bill:
            tx.write(EFFECT, order.key, order.number)
            return Bill(key=order.key, number=order.number)

        @service.on(Order, group="count", start="beginning")
        async def count(order: Order, tx: Transaction) -> None:
            tx.write(EFFECT, "count", order.number)

        app = App(service, events=[Order, Bill])
        async with opened(app, path, outbox_events=20) as running:
            store = running.stores["shop"]
            engine: Any = await running.ready("orders")
            await app.publish(Order(key="k", number=0))
            await drained(running)
            real, engine.append = engine.append, _down
            for n in range(4):
                async with app.transaction("shop") as tx:
                    for _ in range(5):
                        tx.publish(Bill(key="x", number=n))
            await eventually(lambda: running.outboxes["shop"].full)
            async with raises(OutboxFull):
                async with app.transaction("shop", wait=0.2) as tx:
                    tx.publish(Bill(key="x", number=99))
            async with raises(PublishRefused):
                await app.publish(Order(key="k", number=99))
            await real("orders", _numbered(running, 1, 1))  # what a fetch that is under way still brings
            await eventually(lambda: _counted(running, "count", 2))
            await real("orders", _numbered(running, 2, 30))
            await eventually(lambda: _counted(running, "count", 32))
            assert len([each for each in await effects(running) if each[0] == "k"]) <= 2, "it publishes, so it pauses"
            ((rows,),) = await store.read("select coalesce(sum(count), 0) from evenflow_outbox")
            assert rows <= 21
            engine.append = real
            await drained(running, seconds=10.0)
            assert [each for each in await effects(running) if each[0] == "k"] == [("k", n) for n in range(32)]

    async def _down(topic: str, envelopes: Any) -> Any:
        return [Outcome.REFUSED] * len(envelopes)

    def _numbered(running: Any, first: int, count: int) -> list[Any]:
        encode, line = running.publisher._way(Order)
        return line.made([encode(Order(key="k", number=first + n), 1 << 20) for n in range(count)], None)

    async def _counted(running: Any, key: str, n: int) -> bool:
        return len([each for each in await effects(running) if each[0] == key]) == n

    case(test)


# -- 6 ----------------------------------------------------------------------------------------------------------------


def due_rows_stay(patch: Patch) -> None:
    async def queue(self: Outbox, owned: Any) -> int:
        stays = "select due, id, topic, envelope from evenflow_due where due <= $1 order by due, id limit $2"
        self.store.sql = {**self.store.sql, "due_take": stays}
        return await real(self, owned)

    real = Outbox._queue_due
    patch.setattr(Outbox, "_queue_due", queue)


@fails_without(due_rows_stay)
def test_06_a_due_event_is_published_once_by_two_relays_and_across_a_kill() -> None:
    with folder() as path:

        async def dies() -> None:
            Outbox._append = die  # type: ignore[method-assign]  # its place is drawn and committed; the engine has not heard of it
            app = publishing()
            async with opened(app, path):
                async with app.transaction("shop") as tx:
                    tx.publish(Order(key="k", number=1), after=0.0, name="one")
                    tx.publish(Order(key="k", number=2), after=0.0, name="two")
                    tx.publish(Order(key="k", number=3), after=0.0, name="taken back")
                    tx.cancel("taken back")
                await asyncio.sleep(10)

        killed(dies)

        async def after() -> None:
            first, second = shop(Order), publishing()
            async with opened(first, path) as running, opened(second, path) as other:
                mine, theirs = running.outboxes["shop"], other.outboxes["shop"]
                owned = await eventually(lambda: mine.owned or theirs.owned)
                async with first.transaction("shop") as tx:
                    tx.publish(Order(key="k", number=4), after=0.0)
                for outbox in (mine, theirs):  # both believe that they relay
                    for _ in range(3):
                        outbox.owned = owned
                        await outbox.step()
                await drained(running)
                assert sorted(await effects(running)) == [("k", 1), ("k", 2), ("k", 4)]

        drive(after)


def no_fence(patch: Patch) -> None:
    async def unguarded(self: UnitOfWork, session: Any) -> None:
        self._guarded = True

    patch.setattr(UnitOfWork, "_guard", unguarded)


@fails_without(no_fence)
def test_06_a_late_relay_queues_nothing_that_is_due() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path, handle=()) as running:
            outbox = running.outboxes["shop"]
            late = await eventually(lambda: outbox.owned)
            claim = (
                "update evenflow_position set fence = fence + 1, owner = 'another' where group_name = 'evenflow.relay'"
            )
            await outbox.store.transact(lambda session: session.execute(claim))
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k", number=1), after=0.0)
            async with raises(FenceLost):
                await outbox._queue_due(late)
            assert await outbox.store.read("select count(*) from evenflow_due") == [(1,)]
            async with app.transaction("shop") as tx:  # the write lock is free again
                await tx.execute("delete from evenflow_due")

    case(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stage, "PATIENCE", 2.0)
    must_fail(case, plant, monkeypatch)
