"""Part E of the pre-mortem: positions, logs, stores. Each case is run again with its mend taken out, and must fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Policy, Service, Topic, Transaction
from evenflow.engine import Bounds, Outcome
from evenflow.engines.sqlite import reader as sqlite_reader
from evenflow.engines.log_consumer import LogConsumer
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.engines.sqlite.log import LogFile
from evenflow.engines.packs import PackCache
from evenflow.envelope import Envelope
from evenflow.errors import Refused
from evenflow.group import GroupLoop
from evenflow.ids import key_text, slot_of
from evenflow.parking import Parking
from evenflow.position import Marks
from evenflow.stores.sqlite.store import SqliteStore
from tests.on_postgres import files_only, store_class

from . import stage
from .planted import fails_without, must_fail, planted
from .stage import (
    CLOCK, EFFECT, Order, Wide, case, drained, drive, effects, ended, eventually, folder, in_child, killed, log_of, opened,
    publishing, shop,
)  # fmt: skip

Patch = pytest.MonkeyPatch
NARROW = Topic("gen", partitions=2)
BROAD = Topic("gen", partitions=8)
SHORT = Topic("short", partitions=1, retention=0.05)
LATEST = Topic("latest", partitions=1, compacted=True)


class Before(Event, type="gen", topic=NARROW, key="key"):
    key: str
    number: int = 0


class After(Event, type="gen", topic=BROAD, key="key"):
    key: str
    number: int = 0


class Brief(Event, type="brief", topic=SHORT, key="key"):
    key: str
    number: int = 0


class Price(Event, type="price", topic=LATEST, key="key"):
    key: str
    number: int = 0


def publisher_of(event: type) -> App:
    return App(Service("shop"), events=[event])


async def handle(app: App, path: Path, *events: Any) -> list[tuple[str, int]]:
    """Open it, publish, work to the end; the effects that are there then."""
    async with opened(app, path) as running:
        if events:
            await app.publish(*events)
        await drained(running)
        return await effects(running)


async def stands_still(app: App, path: Path, because: str) -> list[tuple[str, int]]:
    """Open it: it refuses to start, or its group stops visibly and says what to do; the effects that are there."""
    try:
        async with opened(app, path) as running:
            (loop,) = running.loops()
            reason = await eventually(lambda: loop.stopped, 3.0)
            assert because in reason
            assert "evenflow " in reason, "the command is named"

            async def told() -> bool:
                sql = "select state, reason from evenflow_group where group_name = 'shop.keep'"
                return await running.stores["shop"].read(sql) == [("stopped", reason)]

            await eventually(told)  # everybody who asks the store
            return await effects(running)
    except Refused as refused:
        assert because in str(refused)
        assert "evenflow " in refused.remedy
        return []


def numbers(*which: int, key: str = "k") -> list[Order]:
    return [Order(key=key, number=n) for n in which]


def remove(path: Path, name: str) -> None:
    for file in path.glob(f"{name}*"):
        file.unlink()


def copy(path: Path, name: str, to: str) -> None:
    for file in path.glob(f"{name}*"):
        shutil.copy(file, path / f"{to}{file.name}")


def put_back(path: Path, name: str, saved: str) -> None:
    remove(path, name)
    for file in path.glob(f"{saved}{name}*"):
        file.rename(path / file.name.removeprefix(saved))


# -- 26 ---------------------------------------------------------------------------------------------------------------


async def _nothing(*_: Any, **__: Any) -> None:
    return


def nobody_compares_logs(patch: Patch) -> None:
    patch.setattr("evenflow.runtime.check_belongs", _nothing)


@fails_without(nobody_compares_logs)
def test_26_a_log_that_was_deleted_and_made_anew_stops_the_group() -> None:
    async def test(path: Path) -> None:
        await handle(shop(Order), path, *numbers(1, 2, 3))
        remove(path, "log.db")
        await _publish(path, *numbers(4))
        assert await stands_still(shop(Order), path, "made anew") == [("k", 1), ("k", 2), ("k", 3)]

    case(test)


async def _publish(path: Path, *events: Any) -> None:
    app = publisher_of(type(events[0]))
    async with opened(app, path, handle=()):
        await app.publish(*events)


def the_last_event_is_not_read_back(patch: Patch) -> None:
    async def read(*_: Any) -> None:
        return None

    patch.setattr(SqliteEngine, "read", read)


@fails_without(the_last_event_is_not_read_back)
def test_26_a_log_that_lost_its_tail_and_grew_again_stops_the_group() -> None:
    """The same incarnation, long enough for the position; but other events stand where the group has read."""

    async def test(path: Path) -> None:
        await handle(shop(Order), path, *numbers(1, 2))
        copy(path, "log.db", "saved-")
        await handle(shop(Order), path, *numbers(3, 4))
        put_back(path, "log.db", "saved-")
        await _publish(path, *numbers(5, 6, 7))
        await _forget_what_the_engine_was_told(path)
        kept = await stands_still(shop(Order), path, "does not hold what")
        assert kept == [("k", n) for n in (1, 2, 3, 4)]

    case(test)


async def _forget_what_the_engine_was_told(path: Path) -> None:
    import apsw

    connection = apsw.Connection(str(path / "log.db"))
    connection.execute("delete from evenflow_told")
    connection.close()


def ends_are_not_compared(patch: Patch) -> None:
    async def bounds(self: SqliteEngine, partition: Any) -> Bounds:
        return Bounds(0, 1 << 60)

    patch.setattr(SqliteEngine, "bounds", bounds)
    patch.setattr(SqliteEngine, "bounds_nowait", lambda *_: Bounds(0, 1 << 60))


@fails_without(ends_are_not_compared)
def test_26_a_position_beyond_the_end_of_the_log_stops_the_group() -> None:
    async def test(path: Path) -> None:
        await handle(shop(Order), path, *numbers(1, 2))
        copy(path, "log.db", "saved-")
        await handle(shop(Order), path, *numbers(3, 4))
        put_back(path, "log.db", "saved-")
        await stands_still(shop(Order), path, "does not hold what")

    case(test)


# -- 27 ---------------------------------------------------------------------------------------------------------------


def nobody_compares_stores(patch: Patch) -> None:
    patch.setattr("evenflow.ownership.check_store", _nothing)
    patch.setattr("evenflow.runtime.check_outbox", _nothing, raising=False)
    patch.setattr("evenflow.running.check_outbox", _nothing, raising=False)


@fails_without(nobody_compares_stores)
@files_only
def test_27_another_store_than_the_group_has_used_before_stops_it() -> None:
    async def test(path: Path) -> None:
        await handle(shop(Order), path, *numbers(1, 2, 3))
        remove(path, "shop.db")
        assert await stands_still(shop(Order), path, "is not the one that") == []

    case(test)


@fails_without(nobody_compares_stores)
@files_only
def test_27_a_store_that_was_restored_from_a_backup_stops_its_group() -> None:
    async def test(path: Path) -> None:
        await handle(shop(Order), path, *numbers(1, 2))
        copy(path, "shop.db", "saved-")
        await handle(shop(Order), path, *numbers(3, 4))
        put_back(path, "shop.db", "saved-")
        assert await stands_still(shop(Order), path, "backup") in ([], [("k", 1), ("k", 2)])

    case(test)


# -- 28 ---------------------------------------------------------------------------------------------------------------


def the_next_one_at_once(patch: Patch) -> None:
    from evenflow import ownership

    class Blind:
        async def bounds(self, partition: Any) -> Bounds:
            return Bounds(0, 0)

    real = ownership.next_generation

    async def impatient(group: str, log: Any, engine: Any, store: Any) -> bool:
        return await real(group, log, Blind(), store)  # type: ignore[arg-type]

    patch.setattr("evenflow.runtime.next_generation", impatient)


@fails_without(the_next_one_at_once)
def test_28_another_partition_count_while_events_wait_keeps_the_order_of_every_key() -> None:
    async def test(path: Path) -> None:
        keys = [f"k{n}" for n in range(12)]
        async with opened(shop(Before), path) as running:
            await drained(running)
        await _publish(path, *(Before(key=key, number=n) for n in range(5) for key in keys))
        await _publish(path, *(After(key=key, number=n) for n in range(5, 10) for key in keys))
        found = await handle(shop(After), path, *(After(key=key, number=10) for key in keys))
        assert len(found) == 11 * len(keys)
        for key in keys:
            assert [number for k, number in found if k == key] == list(range(11))

    case(test)


def marks_stay_behind(patch: Patch) -> None:
    patch.setattr("evenflow.ownership.merge", lambda *_: Marks())


@fails_without(marks_stay_behind)
def test_28_a_relays_repeat_across_a_change_of_the_partition_count_is_dropped() -> None:
    async def test(path: Path) -> None:
        app = shop(Before)
        async with opened(app, path) as running:
            async with app.transaction("shop") as tx:
                for n in range(6):
                    tx.publish(Before(key=f"k{n}", number=n))
            await drained(running)
            sent = await log_of(running, "gen")
            done = await effects(running)
        assert len(sent) == len(done) == 6
        wider = publisher_of(After)
        async with opened(wider, path, handle=()) as running:
            engine = await running.ready("gen")
            assert await engine.append("gen", sent) == [Outcome.STORED] * 6
        found = await handle(shop(After), path, After(key="k0", number=9))
        assert found == [*done, ("k0", 9)]

    case(test)


def lanes_stay_behind(patch: Patch) -> None:
    async def lanes(*_: Any) -> set[str]:
        return set()

    patch.setattr(Parking, "lanes", lanes)


@fails_without(lanes_stay_behind)
def test_28_parked_keys_resume_in_order_after_a_change_of_the_partition_count() -> None:
    async def test(path: Path) -> None:
        service = Service("shop", policy=Policy(first_delay=1.0))

        @service.on(Before, group="keep", start="beginning")
        async def keep(event: Before, tx: Transaction) -> None:
            if event.key == "bad":
                raise ValueError("not yet")
            tx.write(EFFECT, event.key, event.number)

        app = App(service)
        done = await handle(app, path, *(Before(key=key, number=n) for n in range(2) for key in ("bad", "good")))
        assert done == [("good", 0), ("good", 1)]
        await _publish(path, After(key="bad", number=2), After(key="good", number=2))
        mended = shop(After)
        async with opened(mended, path) as running:
            await drained(running)
            await mended.publish(After(key="bad", number=3))
            await eventually(lambda: _bad(running, 4))
            assert [number for key, number in await effects(running) if key == "bad"] == [0, 1, 2, 3]

    async def _bad(running: Any, count: int) -> bool:
        return len([key for key, _ in await effects(running) if key == "bad"]) == count

    case(test)


# -- 29 ---------------------------------------------------------------------------------------------------------------


def offsets_from_what_was_known(patch: Patch) -> None:
    """Offsets are not drawn from the partition's row under the write lock."""

    def begun(self: LogFile) -> None:
        self._pending, self._stored = {}, []

    patch.setattr(LogFile, "_begun", begun)
    patch.setattr(LogFile, "look", lambda self: False)


@fails_without(offsets_from_what_was_known)
def test_29_offsets_rise_in_commit_order_so_a_reader_skips_nothing() -> None:
    count = 150
    with folder() as path:

        async def prepare() -> None:
            async with opened(publishing(), path, handle=()) as running:
                await running.ready("orders")

        async def appends() -> None:
            engine = SqliteEngine(path / "log.db", CLOCK)
            await engine.open()
            name = str(os.getpid())
            for n in range(count):
                one = Envelope(f"{name}-{n}", "test", "order", 1, "k", slot_of("k"), 0.0, b"{}", name, n + 1)
                assert await engine.append("orders", [one]) == [Outcome.STORED]
            await engine.close()

        drive(prepare)
        children = [in_child(appends), in_child(appends)]

        async def reads() -> None:
            engine = SqliteEngine(path / "log.db", CLOCK)
            await engine.open()
            log = await engine.log("orders")
            consumer = engine.consumer("test")
            consumer.assign(log.partitions(1)[0], 0)  # type: ignore[union-attr]
            offsets, seen = [], {str(pid): 0 for pid in children}
            while len(offsets) < 2 * count:
                for batch in await consumer.fetch(50, 1 << 20, 1.0):
                    offsets += batch.offsets
                    for envelope in batch.envelopes:
                        assert envelope.number == seen[envelope.producer] + 1
                        seen[envelope.producer] = envelope.number
            assert offsets == list(range(2 * count))
            await engine.close()

        try:
            drive(reads, min(20.0, 2 * stage.PATIENCE))
        finally:
            codes = [ended(pid) for pid in children]
        assert codes == [0, 0]


# -- 30 ---------------------------------------------------------------------------------------------------------------


def made_at_the_first_save(patch: Patch) -> None:
    """What a group's start meant is forgotten with the process."""

    async def opened(self: Any) -> None:
        await real(self)
        await self.transact(_forget)

    async def _forget(session: Any) -> None:
        await session.execute("delete from evenflow_position where next > 0 and last_id is null")
        await session.execute("delete from evenflow_group")

    real = store_class().open
    patch.setattr(store_class(), "open", opened)


@fails_without(made_at_the_first_save)
def test_30_a_group_that_starts_at_the_end_has_no_gap_after_a_kill_before_its_first_event() -> None:
    with folder() as path:
        drive(lambda: _publish(path, *numbers(1, 2)))

        async def dies() -> None:
            async with opened(shop(Order, start="end"), path):
                os.kill(os.getpid(), signal.SIGKILL)

        killed(dies)

        async def after() -> None:
            await _publish(path, *numbers(3, 4))
            assert await handle(shop(Order, start="end"), path, *numbers(5)) == [("k", 3), ("k", 4), ("k", 5)]

        drive(after)


# -- 31 ---------------------------------------------------------------------------------------------------------------


def told_as_fetched(patch: Patch) -> None:
    """The engine hears how far a group has read, before what it read is kept."""

    async def tell(self: GroupLoop, *, force: bool) -> None:
        for partition in self.owned:
            high = (await self.work.engine.bounds(partition)).high
            await self.work.engine.told(self.name, self.work.store.id, {partition: high})

    patch.setattr(GroupLoop, "_tell", tell)


@fails_without(told_as_fetched)
def test_31_the_engines_copy_of_a_position_is_only_ever_behind() -> None:
    async def test(path: Path) -> None:
        app = shop(Wide)
        async with opened(app, path) as running:
            engine: Any = await running.ready("spread")
            store = running.stores["shop"]
            real, compared = engine.told, []

            async def told(group: str, store_id: str, positions: Any) -> None:
                rows = await store.read("select partition, next from evenflow_position where group_name = $1", (group,))
                kept = {number: next_ for number, next_ in rows}
                for partition, offset in positions.items():
                    compared.append((offset, kept.get(partition.number, 0)))
                await real(group, store_id, positions)

            engine.told = told
            for n in range(15):
                await app.publish(*(Wide(key=f"k{key}", number=n) for key in range(20)))
                await asyncio.sleep(0.02)
            await drained(running)
            await eventually(lambda: any(offset > 0 for offset, _ in compared))
        assert all(offset <= kept for offset, kept in compared if kept is not None)
        async with opened(shop(Wide), path, handle=(), join=False) as running:
            recalled = await running.engine.recall("shop.keep")
            assert recalled is not None
            assert sum(recalled.positions.values()) == 300, "and it is told again when the group lets go"

    case(test)


# -- 32 ---------------------------------------------------------------------------------------------------------------


def the_low_end_is_not_compared(patch: Patch) -> None:
    def ready(self: LogConsumer) -> Any:
        found = []
        for partition, place in self._places.items():
            bounds = self._log.bounds_nowait(partition)
            place.offset = max(place.offset, bounds.low)
            if not place.paused and place.offset < bounds.high:
                found.append((partition, place))
        return found

    patch.setattr(LogConsumer, "_ready", ready)


@fails_without(the_low_end_is_not_compared)
def test_32_retention_that_reaches_an_unread_event_stops_the_group_visibly() -> None:
    async def test(path: Path) -> None:
        await handle(shop(Brief), path, Brief(key="k", number=1))
        app = publisher_of(Brief)
        async with opened(app, path, handle=()) as running:
            await app.publish(Brief(key="k", number=2))
            await asyncio.sleep(0.1)  # the retention itself
            engine = await running.ready("short")
            await engine.maintain()
            await app.publish(Brief(key="k", number=3))
        assert await stands_still(shop(Brief), path, "retention has removed") == [("k", 1)]

    case(test)


def compaction_counts_as_loss(patch: Patch) -> None:
    patch.setattr("evenflow.engines.sqlite.upkeep._compact", _nothing, raising=False)
    patch.setattr(SqliteEngine, "maintain", _nothing)


@fails_without(compaction_counts_as_loss)
def test_32_a_compacted_topic_keeps_the_latest_of_each_key_and_its_groups_go_on() -> None:
    async def test(path: Path) -> None:
        await handle(shop(Price), path, Price(key="a", number=0))
        app = publisher_of(Price)
        async with opened(app, path, handle=()) as running:
            for n in range(1, 6):
                await app.publish(Price(key="a", number=n), Price(key="b", number=n))
            engine = await running.ready("latest")
            await engine.maintain()
            kept = [(envelope.key, envelope.number) for envelope in await log_of(running, "latest")]
            assert [key for key, _ in kept] == ["a", "b"]
        found = await handle(shop(Price), path, Price(key="b", number=6))
        assert found == [("a", 0), ("a", 5), ("b", 5), ("b", 6)]

    case(test)


# -- 33 ---------------------------------------------------------------------------------------------------------------


def salted(patch: Patch) -> None:
    patch.setitem(globals(), "slot_of", lambda key: hash(key) & 0xFF)


def glued(patch: Patch) -> None:
    patch.setitem(globals(), "key_text", lambda values: "".join(map(str, values)))


@fails_without(salted, glued)
def test_33_keys_and_slots_are_the_same_for_ever_and_everywhere() -> None:
    known = {"": 0, "a": 67, "order-1": 239, "Köln": 251, "123456789": 38}
    assert {key: slot_of(key) for key in known} == known
    assert key_text(("a", "bc")) == '["a","bc"]' != key_text(("ab", "c")) == '["ab","c"]'
    assert key_text(("a",)) == "a"
    assert key_text((7, "x")) == '["7","x"]'


# -- 34 ---------------------------------------------------------------------------------------------------------------


def nothing_is_shared(patch: Patch) -> None:
    patch.setattr(PackCache, "get", lambda *_: None)


@fails_without(nothing_is_shared)
def test_34_groups_of_one_process_share_what_was_decoded() -> None:
    async def test(path: Path) -> None:
        await _publish(path, *(Order(key=f"k{n % 7}", number=n) for n in range(2000)))
        service = Service("shop")
        for name in ("one", "two", "three"):

            @service.on(Order, group=name, start="beginning")
            async def keep(event: Order, tx: Transaction) -> None:
                tx.write(EFFECT, event.key, event.number)

        decoded: list[int] = []
        real = sqlite_reader.decode
        sqlite_reader.decode = lambda row: decoded.append(row[0]) or real(row)  # type: ignore[func-returns-value]
        try:
            found = await handle(App(service), path)
        finally:
            sqlite_reader.decode = real
        assert len(found) == 3 * 2000
        assert len(decoded) <= 1.5 * len(set(decoded)), "each pack was decoded about once, not once for each group"

    case(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stage, "PATIENCE", 2.0)
    must_fail(case, plant, monkeypatch)
