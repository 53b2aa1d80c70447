"""What a reader who looked for trouble found in the code: each case failed before its mend."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Delivery, Envelope, Policy, Service, Transaction, parking, running, testing
from evenflow.engine import Outcome, Partition
from evenflow.errors import PublishUnknown, StoreConflict, StoreUnavailable
from evenflow.ids import slot_of
from evenflow.position import PROCESS_PREFIX, Marks, decode_settled
from evenflow.testing import World
from evenflow.testing.world import NotSettled
from tests.on_postgres import MEMORY_SERIAL, SERIAL

from .events import Placed, Spread, loop_of, placed, run, until
from .stage import EFFECT, TABLE, Order, case, drained, effects, eventually, opened

ONE = Partition("one", 1, 0)
PARENT = "create table parent (id integer primary key)"
CHILD = "create table child (number integer references parent (id) deferrable initially deferred)"


async def numbers(world: World, table: str = "effects") -> list[int]:
    return [row[0] for row in await world.rows("shop", f"select number from {table} order by rowid")]


async def made(world: World, *statements: str) -> None:
    async with world.transaction("shop") as tx:
        for statement in statements:
            await tx.execute(statement)


# -- where nothing is left to park in -----------------------------------------------------------------------------------


def test_a_partition_that_waits_before_the_first_event_of_a_batch_is_found_again_after_a_restart() -> None:
    """Its position names the last event before the one that waits, not the last of the batch."""
    well = False

    def shop() -> App:
        service = Service("shop", policy=Policy(parking=0))

        @service.on(Order, group="keep", start="beginning")
        async def keep(event: Order, tx: Transaction) -> None:
            if event.number == 1 and not well:
                raise ValueError("not yet")
            tx.write(EFFECT, event.key, event.number)

        return App(service)

    async def test(path: Path) -> None:
        nonlocal well
        app = shop()
        async with opened(app, path) as running:
            await app.publish(Order(key="a", number=0))
            await drained(running)
            await app.publish(Order(key="a", number=1), Order(key="b", number=2))
            (loop,) = running.loops()
            await eventually(lambda: loop._blocked)
        well = True
        async with opened(shop(), path) as running:
            (loop,) = running.loops()
            await eventually(lambda: loop.owned or loop.stopped)
            assert not loop.stopped
            await drained(running)
            assert await effects(running) == [("a", 0), ("a", 1), ("b", 2)]

    case(test)


def test_what_follows_an_event_that_waits_for_a_place_waits_too_where_each_has_its_transaction() -> None:
    well = False

    async def test() -> None:
        nonlocal well
        service = Service("shop", policy=Policy(parking=0))

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            await asyncio.sleep(0)  # the outside
            if event.number == 2 and not well:
                raise ValueError("not yet")
            tx.write(EFFECT, event.key, event.number)

        async with testing.world(App(service)) as world:
            await made(world, TABLE.replace(SERIAL, MEMORY_SERIAL))
            await world.publish(*placed(*"abcdef"))
            well = True
            await world.advance(5.0)
            assert await numbers(world) == [0, 1, 2, 3, 4, 5]

    run(test)


def test_an_event_that_fails_at_its_commit_is_not_taken_where_it_cannot_be_parked() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(parking=0))

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            tx.write("insert into child values ($1)", event.number)

        async with testing.world(App(service)) as world:
            await made(world, PARENT, CHILD, "insert into parent values (0), (2)")
            await world.publish(*placed("a", "a", "a"))
            assert await numbers(world, "child") == [0]
            await made(world, "insert into parent values (1)")
            await world.advance(5.0)
            assert await numbers(world, "child") == [0, 1, 2]

    run(test)


def test_an_event_that_ended_its_process_is_not_taken_where_it_cannot_be_parked() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(parking=0))

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            tx.write(EFFECT, event.key, event.number)

        async with testing.world(App(service)) as world:
            await made(world, TABLE.replace(SERIAL, MEMORY_SERIAL))
            owned = loop_of(world, "shop.keep").owned[ONE]
            owned.claims, owned.trying = 4, 0
            await world.publish(*placed("a"))
            assert (owned.next, owned.marks.highest) == (0, {})

    run(test)


def test_a_waiting_group_that_may_park_nothing_goes_on_after_three_kills() -> None:
    async def test() -> None:
        service, got = Service("shop", policy=Policy(parking=0)), []

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed) -> None:
            got.append(event.number)

        async with testing.world(App(service)) as world:
            loop_of(world, "shop.call").owned[ONE].claims = 4
            await world.publish(*placed("a", "b", "c"))
            await world.advance(2.0)
            assert sorted(got) == [0, 1, 2]

    run(test)


def test_what_was_rolled_back_takes_no_place_in_the_parking_lot() -> None:
    """Two that end together and fail, one of them by its statement, and one place: one of them gets it."""

    async def test() -> None:
        service = Service("shop", policy=Policy(parking=1, attempts=1))
        gate = asyncio.Event()

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed, tx: Transaction) -> None:
            await gate.wait()
            if event.number == 0:
                raise ValueError("no")
            tx.write("insert into nowhere values (1)")

        app = App(service)
        async with testing.world(app, patience=0.1) as world:
            loop = loop_of(world, "shop.call")
            await app.publish(*placed("a", "b"))
            await until(lambda: loop._running == 2)
            gate.set()
            await world.advance(5.0)
            assert len(await world.parked()) == 1

    run(test)


# -- who is parked, and runs ---------------------------------------------------------------------------------------------


def test_a_dead_letter_is_not_run_because_a_later_one_of_its_key_is_due() -> None:
    """In a list, one that cannot be read yet is parked before an earlier one of its key has failed."""

    async def test() -> None:
        service, calls = Service("shop", policy=Policy(attempts=1, max_delay=20.0)), []

        @service.on_batch(Placed, group="keep", size=10)
        async def keep(events: list[Placed], tx: Transaction) -> None:
            calls.append(len(events))
            raise ValueError("no")

        app = App(service)
        async with testing.world(app) as world:
            loop = loop_of(world, "shop.keep")
            loop.consumer.pause(ONE)
            await app.publish(*placed("k"))
            newer = Envelope("later", "shop", "placed", 2, "k", slot_of("k"), world.clock.now(), b"{}")
            await (await world.running.ready("one")).append("one", [newer])
            loop.consumer.resume(ONE)
            await world.settle()
            assert len(await world.parked()) == 2
            tried = len(calls)
            await world.advance(60.0)
            assert len(calls) == tried

    run(test)


def test_what_waits_behind_another_of_its_key_is_no_suspect() -> None:
    async def test() -> None:
        service, calls = Service("shop", policy=Policy(attempts=1)), []

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            calls.append(event.number)
            raise ValueError("no")

        async with testing.world(App(service)) as world:
            await world.publish(*placed("k"))
            owned = loop_of(world, "shop.keep").owned[ONE]
            owned.claims, owned.trying = 4, 1
            await world.publish(*placed("k"))
            assert [parked.behind for parked in await world.parked()] == [False, True]

    run(test)


def test_a_strangers_record_that_fails_at_its_commit_is_known_when_it_comes_again() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(attempts=1))

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            tx.write("insert into child values ($1)", 7)

        async with testing.world(App(service)) as world:
            await made(world, PARENT, CHILD)
            engine = await world.running.ready("one")
            data = b'{"key": "k", "number": 7}'
            record = Envelope("same", "stranger", "placed", 1, "k", slot_of("k"), world.clock.now(), data)
            for _ in range(2):
                await engine.append("one", [record])
                await world.settle()
            assert len(await world.parked()) == 1

    run(test)


def test_what_is_settled_meanwhile_is_not_parked_as_running() -> None:
    async def test() -> None:
        service, gate = Service("shop"), asyncio.Event()

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed) -> None:
            await gate.wait()

        app = App(service)
        async with testing.world(app) as world:
            loop = loop_of(world, "shop.call")
            await app.publish(*placed("a"))
            await until(lambda: loop._running == 1)
            window = loop._windows[ONE]
            (job,) = window.open.values()
            await loop._writing.acquire()
            gate.set()
            await until(lambda: bool(loop._writing._waiters))  # the settler
            holding = asyncio.create_task(loop._hold(window, job))
            await until(lambda: len(loop._writing._waiters) == 2)
            loop._writing.release()
            await holding
            await world.settle()
            assert await world.parked() == []

    run(test)


def test_an_attempt_is_counted_while_no_position_is_being_written() -> None:
    """Its guard would not hold otherwise, though the partition is ours."""

    async def test() -> None:
        service = Service("shop", policy=Policy(first_delay=1.0))

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed) -> None:
            raise ValueError("no")

        async with testing.world(App(service)) as world:
            loop = loop_of(world, "shop.call")
            forewarn, locked = loop.parking.forewarn, []

            async def seen(*args: Any) -> Any:
                locked.append(loop._writing.locked())
                return await forewarn(*args)

            loop.parking.forewarn = seen
            await world.publish(*placed("a"))
            for owned in loop.owned.values():
                owned.claims = parking.SUSPECT
            await world.advance(3.0)
            assert locked
            assert all(locked)

    run(test)


def test_an_attempt_that_was_counted_before_it_was_made_is_not_counted_again() -> None:
    async def test() -> None:
        service, attempts = Service("shop", policy=Policy(first_delay=1.0, factor=1.0)), []

        @service.on(Placed, group="call")
        async def call(event: Placed, tx: Transaction, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            raise ValueError("no")

        async with testing.world(App(service)) as world:
            loop = loop_of(world, "shop.call")
            await world.publish(*placed("a"))
            loop.owned[ONE].claims = parking.SUSPECT
            await world.advance(1.5)
            (parked,) = await world.parked()
            assert (len(attempts), parked.attempts, parked.error_type) == (2, 2, "ValueError")

    run(test)


def test_ids_of_strangers_are_forgotten_after_the_time_that_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MAINTAIN", 0.01)
    monkeypatch.setattr(running, "PRUNE", 0.0)
    service = Service("shop")

    async def test(path: Path) -> None:
        async with opened(App(service), path) as app:
            store, now = app.stores["shop"], app.clock.now()

            async def add(session: Any) -> None:
                for id_, age in (("old", running.REMEMBERED + 1), ("young", running.REMEMBERED - 60)):
                    await session.execute(store.sql["inbox_add"], ("g", "", "s", id_, now - age))

            async def left() -> list[str]:
                return [row[0] for row in await store.read("select id from evenflow_inbox")]

            await store.transact(add)

            async def pruned() -> bool:
                return await left() == ["young"]

            await eventually(pruned)

    case(test)


# -- tasks ---------------------------------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_before_its_first_step_leaves_its_place_free() -> None:
    async def test() -> None:
        service, got = Service("shop"), []

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed) -> None:
            got.append(event.number)

        app = App(service)
        async with testing.world(app) as world:
            loop = loop_of(world, "shop.call")
            dispatch = loop.dispatch

            def and_lost() -> None:
                dispatch()
                if loop._running:
                    loop.dispatch = dispatch
                    loop.forget(ONE)

            loop.dispatch = and_lost
            await app.publish(*placed("a", "b"))
            await world.advance(5.0)
            assert (sorted(got), loop._running) == ([0, 1], 0)

    run(test)


def test_a_handler_that_takes_no_cancellation_does_not_keep_its_process_from_ending() -> None:
    async def test() -> None:
        service, swallowed = Service("shop"), 0

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            nonlocal swallowed
            while swallowed < 5:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    swallowed += 1

        app = App(service)
        async with testing.world(app) as world:
            await app.publish(*placed("a"))
            await until(lambda: loop_of(world, "shop.keep").busy)
        assert swallowed == 2  # of the drain, and of its time-out

    run(test)


# -- numbers -------------------------------------------------------------------------------------------------------------


def test_a_number_that_may_be_stored_is_not_given_out_again() -> None:
    """Stored without an answer, then refused: the next event of the key would be taken for its repeat."""

    async def test() -> None:
        service, got = Service("shop"), []

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            got.append(event.number)

        app = App(service)
        async with testing.world(app) as world:
            engine: Any = await world.running.ready("one")
            append, well, asked = engine.append, False, 0

            async def doubtful(topic: str, envelopes: Any) -> Any:
                nonlocal asked
                asked += 1
                if well or asked == 1:
                    await append(topic, envelopes)
                outcome = Outcome.STORED if well else Outcome.UNKNOWN if asked == 1 else Outcome.REFUSED
                return [outcome] * len(envelopes)

            engine.append = doubtful
            publishing = asyncio.create_task(app.publish(Placed(key="a", number=1)))
            await until(lambda: asked == 1)
            for _ in range(40):
                await world.advance(1.0)
            assert isinstance(publishing.exception(), PublishUnknown)
            well = True
            await world.publish(Placed(key="a", number=2))
            assert got == [1, 2]

    run(test)


def test_the_first_number_of_a_process_may_come_after_its_second() -> None:
    """Its append was tried again while another went through."""
    taking = Marks().fork()
    process = PROCESS_PREFIX + "1"
    assert [taking.take(process, 3, number) for number in (2, 1, 1, 2, 3)] == [True, True, False, False, True]
    assert taking.late == 1
    assert [taking.take("store", 3, number) for number in (2, 1)] == [True, False]


def test_a_settle_that_somebody_else_has_cancelled_does_not_end_all_settling() -> None:
    service, got = Service("shop"), []

    @service.on(Placed, group="call", concurrency=2)
    async def call(event: Placed) -> None:
        got.append(event.number)

    async def test() -> None:
        app = App(service)
        async with testing.world(app) as world:
            loop = loop_of(world, "shop.call")
            settle_all, cancelled = loop._settle_all, []

            async def once(jobs: Any) -> None:
                if not cancelled:
                    cancelled.append(True)
                    raise asyncio.CancelledError
                await settle_all(jobs)

            loop._settle_all = once
            await app.publish(*placed("a", "b"))
            await world.advance(5.0)
            ((next_,),) = await world.rows("shop", "select next from evenflow_position where group_name = 'shop.call'")
            assert (cancelled, set(got), next_) == ([True], {0, 1}, 2)

    run(test)


# -- transactions that were undone for the sake of another --------------------------------------------------------------


def test_a_store_that_goes_away_right_behind_a_conflict_ends_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        service, seen = Service("shop"), list[str]()

        @service.on(Placed, group="keep")
        async def keep(event: Placed, tx: Transaction) -> None:
            seen.append(event.key)

        async with testing.world(App(service)) as world:
            loop, said = loop_of(world, "shop.keep"), list[str]()
            real, measure = loop._round, loop.parking.measure

            async def conflicting() -> Any:
                if not said:
                    said.append("conflict")
                    raise StoreConflict("undone for the sake of another")
                return await real()

            async def away() -> None:
                if said == ["conflict"]:
                    said.append("away")
                    raise StoreUnavailable("it is away")
                await measure()

            monkeypatch.setattr(loop, "_round", conflicting)
            monkeypatch.setattr(loop.parking, "measure", away)
            task = world.running.runtimes["shop"].loop_tasks["shop.keep"]
            with suppress(NotSettled):  # what waits for the store goes on with time
                await world.publish(*placed("a"))
            await world.advance(5.0)
            assert said == ["conflict", "away"]
            assert seen == ["a"]
            assert not task.done()

    run(test)


def test_a_partition_that_is_lost_in_the_middle_of_a_chunk_is_no_mistake_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        service, lost = Service("shop"), list[Any]()

        @service.on(Spread, group="keep")
        async def keep(event: Spread, tx: Transaction) -> None:
            loop = loop_of(world, "shop.keep")
            tx.write(EFFECT, event.key, event.number)
            if not lost and len(loop.owned) > 1:
                mine = slot_of(event.key) % 4
                lost.extend(each for each in list(loop.owned) if each.number != mine)
                for partition in lost:
                    loop.forget(partition)

        async with testing.world(App(service)) as world:
            await made(world, TABLE.replace(SERIAL, MEMORY_SERIAL))
            with suppress(NotSettled):  # partitions are claimed anew after a while
                await world.publish(*[Spread(key=key, number=number) for number, key in enumerate("abcdefgh")])
            await world.advance(30.0)
            assert lost
            assert sorted(await numbers(world)) == list(range(8))
        assert "unexpected" not in caplog.text

    run(test)


def test_what_is_parked_while_it_goes_on_is_not_brought_by_the_log_once_more() -> None:
    """Its offset is done with the commit that parks it: parked once more later, it would be run once more."""

    async def test() -> None:
        service, go_on, begun = Service("shop"), asyncio.Event(), asyncio.Event()

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed) -> None:
            begun.set()
            await go_on.wait()

        async with testing.world(App(service)) as world:
            loop: Any = loop_of(world, "shop.call")
            settle_all, kept = loop._settle_all, list[Any]()
            loop.owned[ONE].claims = parking.SUSPECT

            async def later(jobs: list[Any]) -> None:
                kept.extend(jobs)

            loop._settle_all = later
            task = asyncio.create_task(world.publish(*placed("a")))
            await begun.wait()
            (parked,) = await world.rows("shop", 'select "offset" from evenflow_parked')
            ((settled,),) = await world.rows(
                "shop", "select settled from evenflow_position where group_name = 'shop.call'"
            )
            assert decode_settled(settled) == list(parked), "who owns it next would read it again"
            loop._settle_all = settle_all
            loop._finished += kept
            go_on.set()
            await task
            assert await world.parked() == []

    run(test)


def test_what_was_given_up_while_a_settle_waited_for_its_turn_is_not_written() -> None:
    """Another transaction was in doubt: what is known of the partition may be less than what is committed."""

    async def test() -> None:
        service = Service("shop")

        @service.on(Placed, group="call", concurrency=2)
        async def call(event: Placed, tx: Transaction) -> None:
            tx.write("insert into t (id) values ($1)", event.number)

        async with testing.world(App(service)) as world:
            await made(world, "create table t (id integer)")
            loop: Any = loop_of(world, "shop.call")
            commit, stale = loop.commit, list[Any]()
            owned = loop.owned[ONE]

            async def seen(unit: Any) -> None:
                stale.append(unit.guards[0][1][5] == owned.fence)
                await commit(unit)

            loop.commit = seen
            await loop._writing.acquire()
            task = asyncio.create_task(world.publish(*placed("a")))
            await until(lambda: loop._writing._waiters)
            loop.forget(ONE)
            loop._writing.release()
            with suppress(NotSettled):  # it is claimed anew after a while
                await task
            await world.advance(2.0)
            assert await world.rows("shop", "select id from t") == [(0,)]
            assert stale == [False], "only who has claimed it anew has written"

    run(test)
