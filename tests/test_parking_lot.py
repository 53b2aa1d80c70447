"""The parking lot at work: every kind of handler, in worlds."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from evenflow import App, Delivery, Policy, Reject, RetryLater, Service, Transaction, operate, testing
from evenflow.errors import WriteFailed
from evenflow.parking import SUSPECT
from evenflow.sql import load
from evenflow.stores.sqlite.schema import own_migrations
from evenflow.testing import World
from tests.premortem.events import Paid, Placed, append_raw, loop_of, placed, run, table, until

KINDS = ["chunk", "awaited", "list", "waiting"]
EFFECTS = "create table effects (id integer primary key autoincrement, key text, number integer)"
EFFECT = "insert into effects (key, number) values ($1, $2)"
Fault = Callable[[Placed], None]


def shop(kind: str, policy: Policy, fault: Fault) -> App:
    """A handler of this kind that writes its effect, publishes, and then may fail."""
    service = Service("shop", policy=policy)

    def effect(order: Placed, tx: Transaction) -> None:
        tx.write(EFFECT, order.key, order.number)
        tx.publish(Paid(key=order.key, number=order.number))
        fault(order)

    if kind == "chunk":

        @service.on(Placed, group="work")
        async def chunk(order: Placed, tx: Transaction) -> None:
            effect(order, tx)

    elif kind == "awaited":

        @service.on(Placed, group="work")
        async def awaited(order: Placed, tx: Transaction) -> None:
            await tx.fetch_value("select count(*) from effects")
            effect(order, tx)

    elif kind == "list":

        @service.on_batch(Placed, group="work", size=100)
        async def several(orders: list[Placed], tx: Transaction) -> None:
            for order in orders:
                effect(order, tx)

    else:

        @service.on(Placed, group="work", concurrency=10)
        async def wait(order: Placed, tx: Transaction) -> None:
            effect(order, tx)

    return App(service, events=[Paid])


async def effects(world: World) -> list[tuple[str, int]]:
    return [tuple(row) for row in await world.rows("shop", "select key, number from effects order by id")]  # type: ignore[misc]


async def lot_is_right(world: World) -> None:
    """What is kept by triggers is what there is: counts, bytes, no history without its event."""
    kept = await world.rows("shop", "select group_name, events, bytes from evenflow_lot where events > 0")
    there = "select group_name, count(*), sum(length(envelope)) from evenflow_parked group by 1 order by 1"
    assert list(kept) == list(await world.rows("shop", there))
    lost = (
        "select count(*) from evenflow_attempt as a where not exists (select 1 from evenflow_parked as p where "
        "p.group_name = a.group_name and p.topic = a.topic and p.lane = a.lane and p.generation = a.generation "
        'and p."offset" = a."offset")'
    )
    assert (await world.rows("shop", lost))[0][0] == 0


async def history(world: World) -> list[tuple[int, str, str]]:
    sql = "select attempt, error_type, error from evenflow_attempt order by lane, attempt"
    return [tuple(row) for row in await world.rows("shop", sql)]  # type: ignore[misc]


class Failing:
    """Fails for a key so many times, or always."""

    def __init__(self, key: str = "bad", times: int = 10**9, error: type[Exception] = ValueError) -> None:
        self.key, self.times, self.error, self.calls = key, times, error, 0

    def __call__(self, order: Placed) -> None:
        if order.key == self.key and self.times > 0:
            self.calls += 1
            self.times -= 1
            raise self.error(f"{order.key} for the {self.calls}. time")


# -- in place ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_attempt_in_place_leaves_nothing_of_the_one_before(kind: str) -> None:
    async def test() -> None:
        fault = Failing(times=2)
        async with testing.world(shop(kind, Policy(attempts=4, in_place=2), fault)) as world:
            await table(world, "shop", EFFECTS)
            fault.times = 2
            await world.publish(*placed("a", "bad", "b", "bad"))
            assert await world.parked() == []
            done = await effects(world)
            assert sorted(done) == [("a", 0), ("b", 2), ("bad", 1), ("bad", 3)]
            assert done.index(("bad", 1)) < done.index(("bad", 3))
            assert sorted((p.key, p.number) for p in world.published(Paid)) == sorted(done)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_attempts_in_place_are_counted_and_written_down(kind: str) -> None:
    async def test() -> None:
        fault = Failing()
        policy = Policy(attempts=4, in_place=2, first_delay=10.0)
        async with testing.world(shop(kind, policy, fault)) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("bad", "a", "bad"))
            head, behind = await world.parked()
            assert (head.attempts, head.dead, behind.behind) == (3, False, True)
            assert head.due == world.clock.now() + 10.0
            assert [(n, kind_) for n, kind_, _ in await history(world)] == [(n, "ValueError") for n in (1, 2, 3)]
            await lot_is_right(world)
            await world.advance(11.0)
            head = (await world.parked())[0]
            assert (head.attempts, head.dead) == (4, True) and len(await history(world)) == 4
            fault.times = 0
            await world.redrive()
            assert sorted(await effects(world)) == [("a", 1), ("bad", 0), ("bad", 2)]
            await lot_is_right(world)

    run(test)


def test_a_handler_that_waits_sees_which_attempt_it_is() -> None:
    async def test() -> None:
        service, seen = Service("shop", policy=Policy(attempts=5, in_place=1, first_delay=1.0)), []

        @service.on(Placed, group="call")
        async def call(order: Placed, delivery: Delivery) -> None:
            seen.append(delivery.attempt)
            raise ValueError

        async with testing.world(App(service)) as world:
            await world.publish(*placed("a"))
            await world.advance(1000.0)
            assert seen == [1, 2, 3, 4, 5]

    run(test)


# -- what a handler may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_reject_is_a_dead_letter_at_once_with_its_reason(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        def fault(order: Placed) -> None:
            if order.key == "bad":
                raise Reject("no such customer")

        async with testing.world(shop(kind, Policy(attempts=9, in_place=3), fault)) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("bad", "a"))
            (letter,) = await world.parked()
            assert letter.dead and letter.attempts == 1 and (letter.error or "").startswith("Reject: no such customer")
            assert await effects(world) == [("a", 1)]

    run(test)
    (told,) = [each for each in caplog.records if "is a dead letter: Reject: no such customer" in each.message]
    assert told.exc_info is None, "a traceback tells no more than the reason"


@pytest.mark.parametrize("kind", KINDS)
def test_retry_later_counts_no_attempt_but_the_deadline_holds(kind: str) -> None:
    async def test() -> None:
        calls = 0

        def fault(order: Placed) -> None:
            nonlocal calls
            if order.key == "bad":
                calls += 1
                raise RetryLater(60.0, "the bank is closed")

        async with testing.world(shop(kind, Policy(attempts=2, deadline=330.0), fault)) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("bad", "a"))
            (waiting,) = await world.parked()
            assert waiting.due == world.clock.now() + 60.0 and waiting.attempts == 0
            await world.advance(250.0)
            assert len(await history(world)) > 1 and (await world.parked())[0].attempts == 0
            await world.advance(250.0)
            (letter,) = await world.parked()
            assert letter.dead and (letter.error or "").startswith("RetryLater: the bank is closed")
            await lot_is_right(world)

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_stops_the_group_counts_nothing_and_loses_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The group stops visibly, in the store too; `resume` lets it go on, and each effect is there once."""

    async def test() -> None:
        fault = Failing(error=PermissionError)
        app = shop(kind, Policy(attempts=1, stop=(PermissionError,), in_place=0), fault)
        async with testing.world(app) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("a", "bad", "b"))
            loop = loop_of(world, "shop.work")
            assert "PermissionError: bad for the 1. time" in loop.stopped
            assert "evenflow groups resume shop.work" in loop.stopped
            assert re.search(r"for the 1. time, .*\.py:\d+ in \w+\n", loop.stopped), "where in the user's code"
            assert await world.parked() == [] and fault.calls == 1
            status = (await operate.group(world.running, "shop.work")).status
            assert status.state == "stopped"
            await world.publish(*placed("c"))
            await world.advance(60.0)
            assert fault.calls == 1
            for _ in range(4):  # as often as claims without progress make an event suspect
                await operate.resume(world.running, "shop.work", "test")
                await world.advance(2.0)
            assert fault.calls == 5 and loop.stopped
            fault.times = 0
            await operate.resume(world.running, "shop.work", "test")
            await world.advance(2.0)
            assert not loop.stopped and await world.parked() == []
            assert sorted(await effects(world)) == [("a", 0), ("b", 2), ("bad", 1), ("c", 0)]
            assert sum("is stopped" in record.message for record in caplog.records) == 5

    with caplog.at_level(logging.ERROR, "evenflow"):
        run(test)


def test_what_is_running_when_a_waiting_group_stops_is_finished_first() -> None:
    """So that no call to the outside is repeated without need; what was not begun stays."""

    async def test() -> None:
        service, gate, calls = Service("shop", policy=Policy(stop=(PermissionError,))), asyncio.Event(), []
        wrong = True

        @service.on(Placed, group="call", concurrency=2)
        async def call(order: Placed) -> None:
            calls.append(order.key)
            if order.key == "bad" and wrong:
                raise PermissionError("wrong key")
            if order.key == "slow":
                await gate.wait()

        async with testing.world(App(service), patience=0.05) as world:
            await world.app.publish(*placed("slow", "bad", "later"))
            loop = loop_of(world, "shop.call")
            await until(lambda: loop._stop is not None)
            assert calls == ["slow", "bad"] and not loop.stopped
            gate.set()
            await until(lambda: bool(loop.stopped))
            wrong = False
            await operate.resume(world.running, "shop.call", "test")
            await world.advance(2.0)
            assert calls == ["slow", "bad", "bad", "later"]

    run(test)


# -- history, counts, limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chunk", "waiting"])
def test_a_long_history_keeps_its_beginning_and_its_end(kind: str) -> None:
    async def test() -> None:
        policy = Policy(attempts=40, first_delay=1.0, factor=1.0)
        async with testing.world(shop(kind, policy, Failing())) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("bad"))
            await world.advance(60.0)
            assert [n for n, _, _ in await history(world)] == [*range(1, 6), *range(26, 41)]
            (letter,) = await world.parked()
            assert letter.dead and letter.attempts == 40
            rows = await world.rows("shop", "select type, fingerprint, size, length(envelope) from evenflow_parked")
            assert rows[0][0] == "placed" and len(rows[0][1]) == 12 and rows[0][2] == rows[0][3]
            await lot_is_right(world)

    run(test)


def test_history_and_counts_follow_a_renamed_group_and_go_with_a_dropped_one() -> None:
    """On the tables alone: what the statements of rename, drop, seek and a lost log do to them."""
    database = apsw.Connection(":memory:")
    for migration in own_migrations():
        database.execute(migration.sql)
    sql = {name: re.sub(r"\$(\d+)", r"?\1", text) for name, text in load("store", "store_sqlite").items()}
    for group, lane, offset in (("a", "k1", 1), ("a", "k1", 2), ("a", "#1/0/3", 3), ("b", "k1", 1)):
        row = (
            group,
            "t",
            lane,
            1,
            offset,
            7,
            0,
            b"x" * 10,
            int(offset != 2),
            None,
            1,
            "e",
            "E",
            1.0,
            1.0,
            1.0,
            "ty",
            10,
        )
        database.execute(sql["parked_add"], (*row, "f" * 12))
        for _ in range(2):
            database.execute(sql["attempt_add"], (group, "t", lane, 1, offset, 1.0, "host:1", "E", "e", "f" * 12))

    def lots() -> dict[str, tuple[int, int]]:
        return {group: rest for group, *rest in database.execute("select * from evenflow_lot where events")}  # type: ignore[misc]

    def attempts() -> list[tuple[str, str, int, int]]:
        found = 'select group_name, lane, generation, count(*) from evenflow_attempt group by 1, 2, 3, "offset" order by 1, 2'
        return database.execute(found).fetchall()

    assert lots() == {"a": [3, 30], "b": [1, 10]}
    database.execute(sql["parked_add"], (*row, "f" * 12))  # the log brings it again
    assert lots() == {"a": [3, 30], "b": [1, 10]}
    database.execute(sql["rename_parked"], ("a", "c"))
    assert lots() == {"c": [3, 30], "b": [1, 10]} and {each[0] for each in attempts()} == {"b", "c"}
    database.execute(sql["parked_bygone"], ("c", "t"))
    lanes = {
        (lane, generation)
        for lane, generation in database.execute("select lane, generation from evenflow_parked where group_name = 'c'")
    }
    assert {(lane, generation) for group, lane, generation, _ in attempts() if group == "c"} == lanes
    database.execute(sql["parked_remove"], ("c", "t", "k1", next(g for lane, g in lanes if lane == "k1"), 1))
    assert lots() == {"c": [2, 20], "b": [1, 10]} and len(attempts()) == 3
    database.execute(sql["drop_parked"], ("c",))
    assert lots() == {"b": [1, 10]} and len(attempts()) == 1


@pytest.mark.parametrize("kind", ["chunk", "list", "waiting"])
def test_a_parking_lot_that_is_full_in_bytes_makes_the_partition_wait_and_says_so_once(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        bad = True

        def fault(order: Placed) -> None:
            if bad and order.key.startswith("bad"):
                raise ValueError(order.key)

        app = shop(kind, Policy(attempts=1, parking_bytes=300), fault)
        async with testing.world(app, patience=0.1) as world:
            await table(world, "shop", EFFECTS)
            try:
                await world.publish(*placed(*[f"bad{n}" for n in range(6)], "good"))
            except testing.NotSettled:
                assert kind == "waiting"
            full = await world.parked()
            assert 2 <= len(full) < 6 and "which is the limit of its policy" in loop_of(world, "shop.work").trouble
            await world.advance(20.0)
            assert len(await world.parked()) == len(full)
            said = [record.message for record in caplog.records if "parking lot is full" in record.message]
            assert len(said) == 1 and "bytes" in said[0]
            assert (await operate.group(world.running, "shop.work")).status.full
            bad = False
            for _ in range(4):
                try:
                    await world.redrive()
                except testing.NotSettled:
                    assert kind == "waiting"
                await world.advance(5.0)
            assert sorted(await effects(world)) == sorted([*((f"bad{n}", n) for n in range(6)), ("good", 6)])
            await lot_is_right(world)

    with caplog.at_level(logging.INFO, "evenflow"):
        run(test)


def test_a_list_that_waits_for_room_parks_nothing_from_beyond_it() -> None:
    """An unreadable event late in a list is parked before the first of the list fails and finds no room."""

    async def test() -> None:
        bad = True

        def fault(order: Placed) -> None:
            if bad and order.key == "bad":
                raise ValueError

        app = shop("list", Policy(attempts=1, parking=1), fault)
        async with testing.world(app) as world:
            await table(world, "shop", EFFECTS)
            await operate.pause(world.running, "shop.work", "test")
            await world.advance(1.0)
            await world.publish(*placed("bad"))
            await append_raw(world, "one", "placed", b'{"key": 7}', key="unreadable")
            await operate.resume(world.running, "shop.work", "test")
            await world.advance(10.0)
            position = (
                await world.rows("shop", "select max(next) from evenflow_position where group_name='shop.work'")
            )[0][0]
            assert [each.offset for each in await world.parked() if each.offset >= position] == []
            bad = False
            await world.advance(10.0)
            assert await effects(world) == [("bad", 0)]
            assert [each.lane for each in await world.parked()] == ["kunreadable"]

    run(test)


def test_a_write_that_failed_and_was_swallowed_is_told_as_what_it_is() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(attempts=2, first_delay=1.0))

        @service.on(Placed, group="work")
        async def work(order: Placed, tx: Transaction) -> None:
            tx.write("insert into effects values ($1)", order.key)
            try:
                await tx.flush()
            except WriteFailed:
                pass

        async with testing.world(App(service)) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("a"))
            (parked,) = await world.parked()
            assert parked.error_type == "WriteFailed" and "insert into effects" in (parked.error or "")
            await world.advance(2.0)
            (parked,) = await world.parked()
            assert parked.dead and parked.attempts == 2 and parked.error_type == "WriteFailed"

    run(test)


def test_a_letter_that_is_redriven_is_no_dead_one_while_it_runs() -> None:
    """Not even where its last processes ended early, so that the attempt is counted before it is made."""

    async def test() -> None:
        service, shown, bad = Service("shop", policy=Policy(attempts=1)), [], True

        @service.on(Placed, group="work")
        async def work(order: Placed, tx: Transaction) -> None:
            if bad:
                raise ValueError
            shown.append(await tx.fetch_all("select due is null, wish, attempts, error_type from evenflow_parked"))

        async with testing.world(App(service)) as world:
            await world.publish(*placed("a"))
            for owned in loop_of(world, "shop.work").owned.values():
                owned.claims = SUSPECT
            bad = False
            await world.redrive()
            assert [tuple(row) for rows in shown for row in rows] == [(0, None, 2, "ProcessEnded")]
            assert await world.parked() == []

    run(test)


def test_an_attempt_that_never_told_its_end_was_the_last_when_no_more_are_allowed() -> None:
    """The process ended in it: the next owner makes a dead letter of it, without a call."""

    async def test() -> None:
        service, calls = Service("shop", policy=Policy(attempts=2, first_delay=1.0)), 0

        @service.on(Placed, group="work")
        async def work(order: Placed, tx: Transaction) -> None:
            nonlocal calls
            calls += 1
            raise ValueError

        async with testing.world(App(service)) as world:
            await world.publish(*placed("a"))
            (owned,) = loop_of(world, "shop.work").owned.values()
            place = (*owned.where, owned.next)
            await loop_of(world, "shop.work").parking.forewarn(
                owned, "ka", (load("store", "store_sqlite")["position_guard"], place)
            )
            assert [each for each, *_ in await history(world)] == [1, 2]
            await world.advance(100.0)
            (letter,) = await world.parked()
            assert calls == 1 and letter.dead and letter.attempts == 2 and letter.error_type == "ProcessEnded"
            await world.redrive()
            (letter,) = await world.parked()
            assert calls == 2 and letter.dead and letter.attempts == 3 and letter.error_type == "ValueError"
            assert [kind for _, kind, _ in await history(world)] == ["ValueError", "ProcessEnded", "ValueError"]

    run(test)


@pytest.mark.parametrize("kind", ["chunk", "waiting"])
def test_a_clock_that_is_set_back_holds_up_no_retry_and_no_redrive(kind: str) -> None:
    """What waits keeps its delay, counted from now; also what a handler asked for itself."""

    async def test() -> None:
        calls: list[str] = []
        bad = True

        def fault(order: Placed) -> None:
            calls.append(order.key)
            if bad:
                raise RetryLater(600.0) if order.key == "later" else ValueError(order.key)

        policy = Policy(attempts=3, first_delay=10.0, final=(KeyError,))
        async with testing.world(shop(kind, policy, fault)) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*placed("retry", "later"))
            await world.advance(5.0)
            world.clock._now -= 7200.0
            bad = False
            for _ in range(15):  # the world looked ahead to a due time that holds no more
                await world.advance(1.0)
            assert await effects(world) == [("retry", 0)]
            await world.advance(500.0)
            assert calls.count("later") == 1
            await world.advance(200.0)
            assert sorted(await effects(world)) == [("later", 1), ("retry", 0)] and await world.parked() == []

    run(test)


# -- many -------------------------------------------------------------------------------------------------------------


def test_many_small_lanes_share_a_transaction_and_keep_their_order() -> None:
    """300 lanes of two or three events: few transactions; one that fails again holds up no other."""

    async def test() -> None:
        bad = True

        def fault(order: Placed) -> None:
            if bad or (order.key == "k7" and order.number == 1):
                raise ValueError(order.key)

        async with testing.world(shop("chunk", Policy(attempts=1), fault)) as world:
            await table(world, "shop", EFFECTS)
            orders = [Placed(key=f"k{n % 300}", number=n // 300) for n in range(750)]
            await world.publish(*orders)
            loop, transactions = loop_of(world, "shop.work"), 0
            kept, bad = loop.run_lanes, False

            async def counted(*args: Any) -> None:
                nonlocal transactions
                transactions += 1
                await kept(*args)

            loop.run_lanes = counted
            heads = await world.rows("shop", "select count(*) from evenflow_parked where head = 1")
            assert heads[0][0] == 300
            await world.redrive()
            left = await world.parked()
            assert [(each.key, each.dead) for each in left] == [("k7", True), ("k7", False)]
            done = await effects(world)
            assert len(done) == 748 and transactions <= 30
            assert all(
                [n for k, n in done if k == f"k{key}"] == sorted(n for k, n in done if k == f"k{key}")
                for key in range(300)
            )
            await lot_is_right(world)

    run(test)


@pytest.mark.parametrize("kind", ["chunk", "waiting"])
def test_a_hot_parked_key_goes_in_turns_with_others(kind: str) -> None:
    """A lane of hundreds, which keeps receiving, leaves room for the small ones; nothing overtakes within a key."""

    async def test() -> None:
        bad = True

        def fault(order: Placed) -> None:
            if bad:
                raise ValueError(order.key)

        async with testing.world(shop(kind, Policy(attempts=1), fault)) as world:
            await table(world, "shop", EFFECTS)
            await world.publish(*[Placed(key="hot", number=n) for n in range(700)])
            await world.publish(*[Placed(key=f"k{n}", number=0) for n in range(50)])
            bad = False
            await world.redrive()
            await world.publish(*[Placed(key="hot", number=n) for n in range(700, 720)])
            done = await effects(world)
            assert [n for k, n in done if k == "hot"] == list(range(720))
            last = max(place for place, (k, _) in enumerate(done) if k != "hot")
            assert last < 600, "the small lanes had to wait for the hot one"
            assert await world.parked() == []

    run(test)


def test_slow_lanes_do_not_hold_up_the_ones_after_them() -> None:
    """Thirty lanes that do not end are longest due; the thirty-first runs all the same, if a place is free."""

    async def test() -> None:
        service, gate, done = Service("shop", policy=Policy(attempts=1)), asyncio.Event(), []
        bad = True

        @service.on(Placed, group="call", concurrency=40)
        async def call(order: Placed) -> None:
            if bad:
                raise ValueError
            if order.key.startswith("slow"):
                await gate.wait()
            done.append(order.key)

        async with testing.world(App(service), patience=0.05) as world:
            await world.publish(*[Placed(key=f"slow{n}") for n in range(30)])
            await world.publish(*[Placed(key=f"quick{n}") for n in range(5)])
            bad = False
            with pytest.raises(testing.NotSettled):
                await world.redrive(*[each for each in await world.parked() if (each.key or "").startswith("slow")])
            with pytest.raises(testing.NotSettled):
                await world.redrive()
            await world.advance(1.0)
            assert sorted(done) == [f"quick{n}" for n in range(5)]
            gate.set()
            await world.advance(1.0)
            assert len(done) == 35 and await world.parked() == []

    run(test)


def test_nothing_on_the_running_path_walks_through_the_parking_lot() -> None:
    """Each statement of the owner's finds its rows by an index, and by all of the columns that it can."""
    database = apsw.Connection(":memory:")
    for migration in own_migrations():
        database.execute(migration.sql)
    sql = load("store", "store_sqlite")
    by_lane = "USING PRIMARY KEY (group_name=? AND topic=? AND lane=?)"
    by_slot = "INDEX evenflow_parked_heads (group_name=? AND topic=? AND slot=?"
    by_place = "USING PRIMARY KEY (group_name=? AND topic=? AND lane=? AND generation=? AND offset=?)"
    expected = {
        "parked_slots": (by_slot + " AND due>?)", by_lane),
        "parked_due": (by_slot + " AND due<?)", by_lane),
        "parked_lanes": ("COVERING " + by_slot + ")",),
        "parked_firsts": (by_place, by_lane),
        "parked_lane": (by_lane,),
        "parked_failed": (by_place,),
        "parked_remove": (by_place,),
        "parked_head": (by_place,),
        "parked_wish": (by_lane,),
        "parked_lot": ("SEARCH evenflow_lot USING PRIMARY KEY (group_name=?)",),
    }
    for name, parts in expected.items():
        text = re.sub(r"\$(\d+)", r"?\1", sql[name])
        count = max(int(each) for each in re.findall(r"\?(\d+)", text))
        plan = [row[3] for row in database.execute(f"explain query plan {text}", (None,) * count)]
        assert not [line for line in plan if line.startswith("SCAN") and "evenflow_parked" in line], (name, plan)
        used = [line for line in plan if line.startswith("SEARCH")]
        for part in parts:
            assert any(part in line for line in used), (name, part, plan)
        assert all(any(part in line for part in parts) for line in used), (name, plan)
