"""The core on a store with many writers: transactions of PostgreSQL side by side, stepped by hand.

Each case holds one transaction open where another one meets it. With one writer none of them can happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg
import pytest

from evenflow import App, Event, Policy, Service, Settings, Topic, Transaction
from evenflow.clock import SystemClock
from evenflow.engine import Outcome, Partition
from evenflow.engines.memory import MemoryEngine
from evenflow.envelope import Envelope, pack
from evenflow.errors import EngineUnavailable, EvenflowError, StoreConflict
from evenflow.operate.carrying import _remove
from evenflow.operate.finding import Home
from evenflow.operate.letters import rows_of
from evenflow.operate.seeking import Plan, _move
from evenflow.ids import slot_of
from evenflow.outbox import RELAY_GROUP, RELAY_PARTITION, Outbox
from evenflow.ownership import claim, create_group, next_generation
from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.place import conninfo_of
from evenflow.position import NO_MARKS, NONE_SETTLED, Owned, claimed
from evenflow.redrive.operation import Pace
from evenflow.redrive.redriving import learn, write
from evenflow.registry import Registry
from evenflow.store import Session, Store
from evenflow.stores.postgres.store import PostgresStore
from evenflow.stores.postgres.session import PgTransaction
from evenflow.unit_of_work import UnitOfWork

ORDERS = Topic("orders", partitions=2)
SPREAD = Topic("spread", partitions=4)
CLOCK = SystemClock()
GROUP = "shop.keep"


class Order(Event, type="order", topic=ORDERS, key="key"):
    key: str
    number: int = 0


class Wide(Event, type="wide", topic=SPREAD, key="key"):
    key: str
    number: int = 0


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30.0))


@asynccontextmanager
async def opened(url: str, name: str = "shop") -> AsyncGenerator[Store]:
    store = PostgresStore(conninfo_of(url, url), CLOCK, name=name)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < end, "it did not come true"
        await asyncio.sleep(0.005)


async def met(store: Store, task: asyncio.Task[Any]) -> None:
    """Until the task waits for another's row, or has gone past."""

    async def there() -> bool:
        waiting = (
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        return task.done() or (await store.read(waiting))[0][0] > 0

    await until(there)


# -- the outbox ---------------------------------------------------------------------------------------------------------


class Shop:
    """An outbox with its relay, and an engine in memory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.engine = MemoryEngine(CLOCK)
        self.outbox = Outbox("shop", store, self._ready, lambda name: name, Registry([Order, Wide], ()), CLOCK)
        self.outbox.producer = store.id

    async def _ready(self, _topic: str) -> MemoryEngine:
        return self.engine

    async def begin(self) -> None:
        await self.engine.open()
        for topic in (ORDERS, SPREAD):
            await self.engine.declare(topic)
        self.outbox.owned = await leader(self.store)

    def unit(self, *events: Event) -> UnitOfWork:
        unit = UnitOfWork(self.outbox)
        unit.published += [self.outbox.fields(event, "", None) for event in events]
        return unit

    async def kept(self, *events: Event) -> UnitOfWork:
        """A transaction that has drawn its numbers and added its rows, and is not committed."""
        unit = self.unit(*events)
        await unit._finish(await unit.begin())
        return unit

    async def commit(self, unit: UnitOfWork) -> None:
        assert unit.session is not None
        await unit.session.commit()
        self.outbox.added(unit.added, joined=False)

    async def relayed(self) -> list[tuple[str, int]]:
        while await self.store.read(self.store.sql["outbox_next"], (1,)):
            await self.outbox.step()
        return await self.log()

    async def log(self) -> list[tuple[str, int]]:
        found = []
        log = await self.engine.log("orders")
        assert log is not None
        for partition in log.partitions(1):
            bounds = await self.engine.bounds(partition)
            for offset in range(bounds.low, bounds.high):
                read = await self.engine.read(partition, offset)
                assert read is not None
                found.append((str(read[1].key), read[1].number))
        return sorted(found)


async def leader(store: Store) -> Owned:
    where = (RELAY_GROUP, RELAY_PARTITION.topic, "", RELAY_PARTITION.generation, RELAY_PARTITION.number)
    sql = store.sql

    async def work(session: Session) -> Owned:
        await session.execute(sql["position_create"], (*where, 0, NO_MARKS, NONE_SETTLED))
        ((*_, fence),) = await session.fetch(
            "select fence from evenflow_position where group_name = $1", (RELAY_GROUP,)
        )
        rows = await session.fetch(sql["position_claim"], (*where, fence, "me"))
        return claimed(RELAY_GROUP, RELAY_PARTITION, 1, "", rows[0])

    return await store.transact(work)


def test_a_row_that_is_committed_behind_the_relay_is_relayed(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            slow, quick = await shop.kept(Order(key="slow")), await shop.kept(Order(key="quick"))
            assert slow.added[0][0] < quick.added[0][0]
            await shop.commit(quick)
            real = shop.engine.append

            async def append(topic: str, envelopes: Any) -> Any:
                if slow.session is not None:  # after the relay has read, before it removes
                    await shop.commit(slow)
                    slow.session = None
                return await real(topic, envelopes)

            shop.engine.append = append  # type: ignore[method-assign]
            assert [key for key, _ in await shop.relayed()] == ["quick", "slow"]
            assert not shop.outbox.mine

    run(test)


def test_what_another_relay_has_moved_is_known_behind_ones_own_row_that_waits(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            shop.outbox.owned = None
            waits, moved = await shop.kept(Order(key="waits")), await shop.kept(Wide(key="moved"))
            for each in (waits, moved):
                await shop.commit(each)
            ((row, _, slots),) = moved.added
            await store.transact(lambda session: session.execute(store.sql["outbox_remove"], (f"[{row}]",)))
            await asyncio.wait_for(shop.outbox.wait_for_slots("spread", slots), 5.0)
            assert set(shop.outbox.mine) == {waits.added[0][0]}

    run(test)


def test_a_relay_is_left_to_who_knows_where_a_topic_went_on_though_another_topic_fails_too(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            for event in (Order(key="moved on"), Wide(key="not now")):
                await shop.commit(await shop.kept(event))
            await shop.engine.seal("orders", "another engine")
            append = shop.engine.append

            async def refused(topic: str, envelopes: Any) -> Any:
                return await append(topic, envelopes) if topic == "orders" else [Outcome.REFUSED]

            async def away(_topic: str) -> Any:
                raise EngineUnavailable("it is away")

            shop.engine.append = refused  # type: ignore[method-assign]
            with pytest.raises(EngineUnavailable, match="does not take events of 'orders'"):
                await shop.outbox.step()
            assert shop.outbox.elsewhere
            shop.engine.log = away  # type: ignore[method-assign, assignment]
            with pytest.raises(EngineUnavailable, match="does not take events of 'spread'"):
                await shop.outbox._append("spread", [Envelope("1", "s", "wide", 1, "k", 0, 0.0, b"{}")])

    run(test)


def test_a_commit_that_is_heard_of_late_does_not_wait_for_the_relay(postgres_url: str) -> None:
    """The relay may have moved a row before the task that has committed it goes on."""

    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            early, late = await shop.kept(Order(key="early")), await shop.kept(Order(key="late"))
            for each in (late, early):
                assert each.session is not None
                await each.session.commit()
            await shop.relayed()
            shop.outbox.added(early.added, joined=False)
            shop.outbox.added(late.added, joined=False)
            assert not shop.outbox.mine
            more = await shop.kept(Order(key="more"))
            await shop.commit(more)
            assert set(shop.outbox.mine) == {more.added[0][0]}

    run(test)


def test_what_is_committed_during_a_look_at_the_outbox_is_not_taken_for_moved(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            unit = await shop.kept(Order(key="k"))
            real = store.read

            async def read(sql: str, args: tuple[Any, ...] = ()) -> Any:
                rows = await real(sql, args)
                if unit.session is not None:  # its answer is on the way
                    await shop.commit(unit)
                    unit.session = None
                return rows

            store.read = read  # type: ignore[method-assign]
            await shop.outbox.measure()
            assert shop.outbox.holds("orders", unit.added[0][2])
            await shop.outbox.measure()
            assert shop.outbox.holds("orders", unit.added[0][2])

    run(test)


def test_numbers_of_a_slot_are_drawn_in_commit_order(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            first = await shop.kept(Order(key="a"), Order(key="b"))
            second = asyncio.create_task(shop.kept(Order(key="b", number=1), Order(key="a", number=1)))
            await met(store, second)
            assert not second.done()
            await shop.commit(first)
            await shop.commit(await second)
            assert first.added[0][0] < (await second).added[0][0]
            assert await shop.relayed() == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]

    run(test)


def test_many_that_draw_many_slots_of_several_topics_never_lock_each_other_out(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()

            async def publish(turn: int) -> None:
                keys = [f"{(turn * 7 + each * 5) % 11}" for each in range(6)]
                events = [kind(key=key) for key in keys for kind in ((Order, Wide) if turn % 2 else (Wide, Order))]
                unit = shop.unit(*events)
                await unit.begin()
                await unit.commit()

            await asyncio.gather(*map(publish, range(40)))
            numbers = await shop.relayed()
            for key in {key for key, _ in numbers}:
                ours = [number for each, number in numbers if each == key]
                assert ours == list(range(1, len(ours) + 1)), key

    run(test)


def test_an_event_that_is_put_off_while_it_falls_due_waits(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            (topic, fields) = shop.outbox.fields(Order(key="later"), "id-1", None)
            packed = pack([Envelope(*(*fields[:8], "", 0, *fields[8:]))])
            now = CLOCK.now()
            due_add = store.sql["due_add"]
            await store.transact(lambda session: session.execute(due_add, (now - 1.0, "reminder", topic, packed)))
            person = store.session()
            await person.begin()
            await person.execute(due_add, (now + 3600.0, "reminder", topic, packed))
            step = asyncio.create_task(shop.outbox.step())
            await met(store, step)
            await person.commit()
            await step
            assert await shop.relayed() == []
            ((due,),) = await store.read(store.sql["due_next"])
            assert due == now + 3600.0

    run(test)


def test_the_last_row_that_was_given_out_is_known_though_its_transaction_was_undone(postgres_url: str) -> None:
    """A store that was restored is known by what it has given out: never less than the engine was told."""

    async def test() -> None:
        async with opened(postgres_url) as store:
            shop = Shop(store)
            await shop.begin()
            assert await store.read(store.sql["outbox_last"]) == [(0,)]
            gone = await shop.kept(Order(key="gone"))
            await gone.rollback()
            unit = await shop.kept(Order(key="kept"))
            await shop.commit(unit)
            assert await shop.relayed() == [("kept", 1)]
            ((last,),) = await store.read(store.sql["outbox_last"])
            assert last == unit.added[0][0] == shop.outbox.moved_to

    run(test)


# -- ownership ----------------------------------------------------------------------------------------------------------


async def group_in(store: Store, engine: MemoryEngine, topic: Topic = ORDERS) -> dict[Partition, int]:
    """A group in this store that begins the topic at its beginning; its fences."""
    await engine.open()
    log = await engine.declare(topic)
    await create_group(GROUP, log, engine, store, CLOCK, start="beginning", where="")
    return dict.fromkeys(log.partitions(log.generations[-1].number), 0)


def test_contenders_claim_in_one_order(postgres_url: str) -> None:
    """The same rows in two orders would be a deadlock at every take-over."""

    async def test() -> None:
        async with opened(postgres_url) as store, opened(postgres_url) as other:
            engine = MemoryEngine(CLOCK)
            fences = await group_in(store, engine, SPREAD)
            log = await engine.log("spread")
            assert log is not None
            first = store.session()
            await first.begin()
            lowest = min(fences)
            where = (GROUP, lowest.topic, log.incarnation, lowest.generation, lowest.number)
            await first.fetch(store.sql["position_claim"], (*where, 0, "first"))
            backwards = dict(reversed(fences.items()))
            second = asyncio.create_task(claim(GROUP, log, backwards, "second", other, engine))
            await met(store, second)
            async with asyncio.timeout(0.5):  # less than a deadlock takes to be found
                for each in sorted(fences)[1:]:
                    place = (GROUP, each.topic, log.incarnation, each.generation, each.number)
                    assert await first.fetch(store.sql["position_claim"], (*place, 0, "first"))
            await first.commit()
            assert await second == []

    run(test)


def test_a_claim_sees_what_the_late_owner_was_committing(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            engine = MemoryEngine(CLOCK)
            fences = await group_in(store, engine)
            log = await engine.log("orders")
            assert log is not None
            (owned, _) = await claim(GROUP, log, fences, "old", store, engine)
            await engine.append("orders", [envelope(number, slot=0) for number in range(1, 6)])
            late = store.session()
            await late.begin()
            assert await late.execute(store.sql["position_guard"], (*owned.where, owned.next)) == 1
            await late.execute(store.sql["position_move"], (*owned.where, 5, None, NO_MARKS, NONE_SETTLED))
            fresh = asyncio.create_task(claim(GROUP, log, {owned.partition: owned.fence}, "new", store, engine))
            await met(store, fresh)
            assert not fresh.done()
            await late.commit()
            ((next_, fence),) = [(each.next, each.fence) for each in await fresh]
            assert (next_, fence) == (5, owned.fence + 1)
            again = store.session()
            await again.begin()
            assert await again.execute(store.sql["position_guard"], (*owned.where, 5)) == 0
            await again.rollback()

    run(test)


def envelope(number: int, slot: int = 0) -> Envelope:
    return Envelope(
        f"id-{number}", "shop", "order", 1, "k", slot, 1.0, b'{"key":"k"}', "p", number, "", "", "application/json"
    )


def test_a_group_that_is_moved_back_does_not_begin_the_next_generation(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            engine = MemoryEngine(CLOCK)
            await group_in(store, engine)
            await engine.append("orders", [envelope(1)])
            log = await engine.declare(Topic("orders", partitions=4))
            assert len(log.generations) == 2
            where = (GROUP, "orders", log.incarnation, 1, 0)
            seek = store.sql["position_seek"]
            await store.transact(lambda session: session.execute(seek, (*where, 1, NO_MARKS, NONE_SETTLED)))
            real = store.read

            async def read(sql: str, args: tuple[Any, ...] = ()) -> Any:
                rows = await real(sql, args)
                if sql == store.sql["position_list"]:  # a person, right after the look
                    store.read = real  # type: ignore[method-assign]
                    await store.transact(lambda session: session.execute(seek, (*where, 0, NO_MARKS, NONE_SETTLED)))
                return rows

            store.read = read  # type: ignore[method-assign]
            assert await next_generation(GROUP, log, engine, store) is False
            rows = await store.read(store.sql["position_list"], (GROUP,))
            assert {row[2] for row in rows} == {1}

    run(test)


def test_a_fence_that_was_given_out_during_a_seek_never_comes_back(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            engine = MemoryEngine(CLOCK)
            await group_in(store, engine)
            log = await engine.declare(Topic("orders", partitions=4))
            while not await next_generation(GROUP, log, engine, store):
                pass
            later, low = Partition("orders", 2, 0), {p: 0 for p in log.partitions(1)}
            ((fence,),) = await store.read(
                "select fence from evenflow_position where group_name = $1 and generation = 2 and partition = 0",
                (GROUP,),
            )
            given: list[int] = []

            async def owner() -> None:
                given.extend(each.fence for each in await claim(GROUP, log, {later: fence}, "other", store, engine))

            person = store.session()
            await person.begin()
            stepped = _Stepped(person, after=store.sql["position_seek"])
            plan = Plan(log, engine, 1, low, dict.fromkeys(low), low)
            seek = asyncio.create_task(_move(stepped, store, GROUP, [plan], (1.0, "me", "beginning")))
            await stepped.reached.wait()
            claiming = asyncio.create_task(owner())
            await met(store, claiming)
            stepped.go.set()
            await seek
            await person.commit()
            await claiming
            create = (GROUP, *later[:1], log.incarnation, *later[1:], 0, NO_MARKS, NONE_SETTLED)
            await store.transact(lambda session: session.execute(store.sql["position_create"], create))
            ((new,),) = await store.read(
                "select fence from evenflow_position where group_name = $1 and generation = 2", (GROUP,)
            )
            assert all(new > each for each in given)

    run(test)


class _Stepped:
    """A session that waits after one of its statements until it is told to go on."""

    def __init__(self, session: Session, *, after: str) -> None:
        self._session = session
        self._after = after
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        count = await self._session.execute(sql, args)
        if sql == self._after:
            self.reached.set()
            await self.go.wait()
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


# -- the parking lot ----------------------------------------------------------------------------------------------------


def parked(offset: int, *, head: int, slot: int = 0, lane: str = "kx") -> tuple[Any, ...]:
    """The values of `parked_add` for an event of a key: a dead letter, or one behind it."""
    packed = pack([msgspec.structs.replace(envelope(offset), key=lane[1:], slot=slot)])
    told = ("ValueError: no", "ValueError", 1.0, 1.0) if head else (None, None, None, None)
    return (
        GROUP, "orders", lane, 1, offset, slot, 0, packed, head, None, head, *told, 1.0, "order", len(packed), None,
    )  # fmt: skip


def test_nobody_is_left_behind_by_a_move_to_a_file(postgres_url: str) -> None:
    """An owner sets an event aside behind a dead letter while a person moves its lane out."""

    async def test() -> None:
        async with opened(postgres_url) as store:
            engine, sql = MemoryEngine(CLOCK), store.sql
            fences = await group_in(store, engine)
            log = await engine.log("orders")
            assert log is not None
            owned = min(await claim(GROUP, log, fences, "me", store, engine), key=lambda each: each.partition)
            await store.transact(lambda session: session.execute(sql["parked_add"], parked(1, head=1)))
            home = Home(group=GROUP, service="shop", store=store, engines=(("orders", engine),), spec=None)
            lane = await rows_of(home, ("orders", "kx"))
            owner = store.session()
            await owner.begin()
            assert await owner.execute(sql["position_guard"], (*owned.where, owned.next)) == 1
            await owner.execute(sql["parked_add"], parked(2, head=0))
            running: Any = SimpleNamespace(clock=CLOCK)
            moving = asyncio.create_task(_remove(running, home, [lane], {"orders": log}, "me"))
            await met(store, moving)
            await owner.commit()
            assert await moving == []  # it is not any more what was written
            assert len(await rows_of(home, ("orders", "kx"))) == 2

    run(test)


def test_owners_that_park_side_by_side_do_not_wait_for_each_other(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            sql = store.sql
            sessions = [store.session(), store.session()]
            for slot, session in enumerate(sessions):
                await session.begin()
                async with asyncio.timeout(2.0):
                    for turn in range(3):
                        args = parked(10 * slot + turn, head=int(not turn), slot=slot, lane=f"k{slot}")
                        await session.execute(sql["parked_add"], args)
            for session in sessions:
                await session.commit()
            size = len(parked(1, head=1)[7])
            ((events, total),) = await store.read(sql["parked_lot"], (GROUP,))
            assert (events, total) == (6, sum(size_of(slot, turn) for slot in range(2) for turn in range(3)))
            assert size
            await store.transact(lambda session: session.execute(sql["drop_parked"], (GROUP,)))
            assert await store.read(sql["parked_lot"], (GROUP,)) == [(0, 0)]

    run(test)


def size_of(slot: int, turn: int) -> int:
    return int(parked(10 * slot + turn, head=int(not turn), slot=slot, lane=f"k{slot}")[-2])


def test_two_that_learn_of_an_operation_count_once(postgres_url: str) -> None:
    async def test() -> None:
        async with opened(postgres_url) as store:
            sql = store.sql
            pace = msgspec.json.encode(Pace()).decode()

            async def make(session: Session) -> None:
                ((id_,),) = await session.fetch(sql["operation_add"], ("redrive", GROUP, "{}", pace, "", "me", 1.0))
                for place in range(2):
                    await session.execute(
                        "insert into evenflow_operation_item (operation, place, topic, lane, generation, \"offset\", seen, state)"
                        " values ($1, $2, 'orders', $3, 1, $2, '', 'asked')", (id_, place, f"k{place}"),
                    )  # fmt: skip
                await session.execute(
                    "update evenflow_operation set state = 'running', total = 2, asked = 2 where id = $1", (id_,)
                )

            await store.transact(make)
            leading = store.session()
            await leading.begin()
            (each,) = await learn(leading, sql)
            assert each.passed == 2

            async def person(session: Session) -> None:
                (each,) = await learn(session, sql)
                await write(session, sql, msgspec.structs.replace(each, state="paused"))

            pausing = asyncio.create_task(store.transact(person))
            await met(store, pausing)
            await leading.commit()
            await pausing
            rows = await store.read("select state, passed from evenflow_operation")
            assert rows == [("paused", 2)]

    run(test)


# -- conflicts are nobody's fault ---------------------------------------------------------------------------------------


MEET = """create function meet(mine bigint, other bigint) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock(mine);
    for turn in 1..40 loop
        exit when exists (select 1 from pg_locks where locktype = 'advisory' and classid = 0 and objid = other);
        perform pg_sleep(0.01);
    end loop;
end $$"""
"""Goes on when another transaction has come to the same place, or it does not come."""


async def find_deadlocks_soon(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        name = (await (await admin.execute("select current_database()")).fetchone() or ("",))[0]
        await admin.execute(f"alter database {name} set deadlock_timeout = '20ms'")


def noted(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """The conflicts that there are from now on."""
    conflicts: list[Exception] = []
    translated = PgTransaction.translated

    def noting(self: PgTransaction, error: PostgresError, sql: str = "") -> EvenflowError:
        found = translated(self, error, sql)
        conflicts.extend([found] if isinstance(found, StoreConflict) else [])
        return found

    monkeypatch.setattr(PgTransaction, "translated", noting)
    return conflicts


@pytest.mark.parametrize("way", ["awaited", "swallowed", "told otherwise", "handed over", "waiting"])
def test_a_deadlock_is_no_events_fault_and_costs_no_partition(
    postgres_url: str, tmp_path: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups change the same two rows in opposite orders."""
    shop = Service("shop")
    met_once: set[str] = set()
    conflicts = noted(monkeypatch)
    change = "update shelf set count = count + 1 where id = $1"
    options: dict[str, Any] = {"concurrency": 4} if way == "waiting" else {}

    def group(name: str, first: str, second: str) -> None:
        @shop.on(Order, group=name, start="beginning", **options)
        async def move(order: Order, tx: Transaction) -> None:
            if way in ("awaited", "swallowed", "told otherwise"):
                await tx.execute(change, first)
                await meet(name)
                try:
                    await tx.execute(change, second)
                except EvenflowError as error:
                    if way == "told otherwise":
                        raise ValueError("it did not work") from None
                    if way == "awaited":
                        raise error
            else:
                tx.write(change, first)
                tx.write("select meet($1, $2) where $3 = 0", ord(first), ord(second), order.number)
                tx.write(change, second)

        move.__name__ = name

    async def meet(name: str) -> None:
        met_once.add(name)
        for _ in range(200):
            if len(met_once) == 2:
                return
            await asyncio.sleep(0.005)

    group("there", "a", "b")
    group("back", "b", "a")
    app = App(shop, events=[Order])

    async def test() -> None:
        await find_deadlocks_soon(postgres_url)
        settings = Settings.load({"folder": str(tmp_path), "store": postgres_url}, env={})
        async with app.running(handle=("shop",), settings=settings) as running:
            store = running.stores["shop"]
            await store.transact(
                lambda session: session.execute("create table shelf (id text primary key, count bigint)")
            )
            await store.transact(lambda session: session.execute("insert into shelf values ('a', 0), ('b', 0)"))
            await store.transact(lambda session: session.execute(MEET))
            for loop in running.loops():
                loop._careful = 100 if way in ("swallowed", "told otherwise") else 0  # type: ignore[attr-defined]
            await app.publish(*[Order(key="one", number=number) for number in range(3)])

            async def done() -> bool:
                return await store.read("select count from shelf order by id") == [(6,), (6,)]

            await until(done)
            rows = await store.read("select max(fence) from evenflow_position where group_name <> $1", (RELAY_GROUP,))
            assert rows == [(1,)], "a partition was claimed anew"
            assert [loop.counters.failed for loop in running.loops()] == [0, 0]
            assert conflicts, "there was no deadlock"

    run(test)


RIVAL = """create function rival() returns void language plpgsql as $$
begin
    for turn in 1..1000 loop
        exit when exists (select 1 from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid)));
        perform pg_stat_clear_snapshot();
        perform pg_sleep(0.01);
    end loop;
end $$"""
"""Goes on when another transaction waits for what this one has locked."""


def test_a_settle_that_was_undone_for_another_is_done_again(
    postgres_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that begins by itself, to read what follows in a parked key: the store does not repeat it."""
    shop, failed = Service("shop", policy=Policy(first_delay=0.0)), set[int]()
    conflicts = noted(monkeypatch)

    @shop.on(Order, group="keep", start="beginning", concurrency=2)
    async def keep(order: Order, tx: Transaction) -> None:
        if order.number not in failed:
            failed.add(order.number)
            raise ValueError("a bad day")
        tx.write("select rival() from shelf where count = 0")
        tx.write("update shelf set count = count + 1 where id = 'a'")

    async def test() -> None:
        await find_deadlocks_soon(postgres_url)
        app = App(shop, events=[Order])
        settings = Settings.load({"folder": str(tmp_path), "store": postgres_url}, env={})
        async with app.running(handle=("shop",), settings=settings) as running, opened(postgres_url) as other:
            store, by_hand = running.stores["shop"], other.session()
            await store.transact(
                lambda session: session.execute("create table shelf (id text primary key, count bigint)")
            )
            await store.transact(lambda session: session.execute("insert into shelf values ('a', 0)"))
            await store.transact(lambda session: session.execute(RIVAL))
            await by_hand.begin()
            await by_hand.execute("set local deadlock_timeout = '60s'")
            await by_hand.execute("update shelf set count = count + 10 where id = 'a'")
            await app.publish(Order(key="one"))

            async def settling() -> bool:
                asked = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
                return bool(await other.read(asked))

            await until(settling)
            await by_hand.fetch("select 1 from evenflow_position where group_name = $1 for update", (GROUP,))
            await by_hand.commit()

            async def done() -> bool:
                return await store.read("select count from shelf") == [(11,)]

            await until(done)
            assert conflicts, "there was no deadlock"
            rows = await store.read("select max(fence) from evenflow_position where group_name = $1", (GROUP,))
            assert rows == [(1,)], "a partition was claimed anew"

            async def settled() -> bool:
                return await store.read("select count(*) from evenflow_parked") == [(0,)]

            await until(settled)

    run(test)


@pytest.mark.parametrize("when", ["between two passes", "during the commit"])
def test_a_partition_that_is_lost_in_the_middle_of_a_chunk_costs_its_neighbour_nothing(
    postgres_url: str, tmp_path: Any, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop, called = Service("shop"), list[str]()
    open_: Any = None

    @shop.on(Order, group="keep", start="beginning")
    async def keep(order: Order, tx: Transaction) -> None:
        called.append(order.key)
        if len(called) == 1:
            if when == "between two passes":
                tx.write("select 1 / 0")  # and all of it is worked through again
            else:
                await asyncio.sleep(0)  # and the chunk ends with it
        tx.write("insert into kept values ($1)", order.key)

    async def test() -> None:
        nonlocal open_
        app, open_ = App(shop, events=[Order]), asyncio.Event()
        settings = Settings.load({"folder": str(tmp_path), "store": postgres_url}, env={})
        async with app.running(handle=("shop",), settings=settings) as running:
            store = running.stores["shop"]
            loop = running.runtimes["shop"].loops[GROUP]
            await store.transact(lambda session: session.execute("create table kept (key text)"))
            fetch, measure, commit = loop.consumer.fetch, loop.parking.measure, loop.commit
            lost: list[Partition] = []

            async def brings(*args: Any) -> Any:
                await open_.wait()
                return await fetch(*args)

            async def steal() -> None:
                """As when another process has claimed the last one of those that were fetched."""
                if lost or not called:
                    return
                last = next(each for each in loop.owned.values() if each.partition.number != first)
                lost.append(last.partition)
                claimed_by = (*last.where, "another")
                await store.transact(lambda session: session.fetch(store.sql["position_claim"], claimed_by))
                loop.forget(last.partition)

            async def measures() -> None:
                if when == "between two passes":
                    await steal()
                await measure()

            async def commits(unit: UnitOfWork) -> None:
                await commit(unit)
                if when == "during the commit":
                    await steal()

            async def held() -> bool:
                return len(loop.owned) == 2

            await until(held)
            loop.consumer.fetch, loop.parking.measure, loop.commit = brings, measures, commits  # type: ignore[assignment, method-assign]
            loop.consumer.wake()
            keys = [f"k{number}" for number in range(6)]
            await app.publish(*[Order(key=key) for key in keys])
            places = {key: slot_of(key) % 2 for key in keys}
            first = min(places.values())
            assert set(places.values()) == {0, 1}
            open_.set()

            async def done() -> bool:
                return len(await store.read("select key from kept")) >= len(keys)

            await until(done)
            assert sorted(await store.read("select key from kept")) == [(key,) for key in keys]
            fences = await store.read(
                "select partition, fence from evenflow_position where group_name = $1 order by partition", (GROUP,)
            )
            assert lost == [Partition("orders", 1, 1)]
            assert fences == [(0, 1), (1, 3)], "the neighbour was claimed anew"

    run(test)
    assert "unexpected" not in caplog.text
