"""Part C of the pre-mortem: the runner. Each case is run again with its mend taken out, and must fail then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Policy, Service, Transaction, testing
from evenflow.batch import BatchPass
from evenflow.calling import Calling
from evenflow.chunk import ChunkLoop
from evenflow.passes import Pass
from evenflow.errors import DecodeError, StatementFailed
from evenflow.policy import DeadLetter, Decision, Retry, after_failure
from evenflow.registry import Registry
from evenflow.running import Running
from evenflow.stores.sqlite import text as sqlite_text
from evenflow.stores.sqlite.write_turns import WriteTurns
from evenflow.stores.sqlite.write_units import WriteUnits
from evenflow.testing import NotSettled
from evenflow.waiting import LaneLoop
from .events import ONE, Placed, append_raw, loop_of, placed, run, table, until
from .planted import fails_without, must_fail, planted

Patch = pytest.MonkeyPatch


# -- 14 ---------------------------------------------------------------------------------------------------------------


def not_seen_waiting(patch: Patch) -> None:
    patch.setattr(Calling, "foreign", lambda self, unit: None)


@fails_without(not_seen_waiting)
def test_14_a_neighbours_failure_does_not_repeat_what_was_done_outside() -> None:
    """A transactional handler that waits for the outside gets a transaction for each event, from its first on."""

    async def test() -> None:
        service = Service("shop", policy=Policy(first_delay=10.0))
        charged: list[str] = []

        @service.on(Placed, group="charge")
        async def charge(order: Placed, tx: Transaction) -> None:
            await tx.execute("insert into t values ($1)", order.key)
            charged.append(order.key)
            await asyncio.sleep(0)  # the card payment
            if order.key == "15":
                raise ValueError("declined")

        async with testing.world(App(service)) as world:
            await table(world, "shop")
            await world.publish(*placed(*range(20)))
            assert charged == [str(n) for n in range(20)]
            assert [parked.key for parked in await world.parked()] == ["15"]
            assert len(await world.rows("shop", "select * from t")) == 19

    run(test)


def test_14_it_is_said_that_a_handler_waits_for_the_outside(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the group, the handler's line and the remedy, once."""

    async def test() -> None:
        service = Service("shop")

        @service.on(Placed, group="charge")
        async def charge(order: Placed, tx: Transaction) -> None:
            await asyncio.sleep(0)

        async with testing.world(App(service)) as world:
            await world.publish(*placed(*range(5)))

    run(test)
    (said,) = [record.getMessage() for record in caplog.records if "waits for something other" in record.getMessage()]
    assert "group shop.charge" in said and "test_runner.py" in said and "concurrency" in said


def waits_in_the_write_transaction(patch: Patch) -> None:
    call = LaneLoop._call

    async def held(self: Any, job: Any, event: Any) -> Any:
        session = self.work.store.session()
        await session.begin()
        try:
            return await call(self, job, event)
        finally:
            await session.rollback()

    patch.setattr(LaneLoop, "_call", held)


@fails_without(waits_in_the_write_transaction)
def test_14_a_waiting_handler_holds_no_write_lock() -> None:
    """Reads of a waiting handler run outside of the write transaction, and its writes at its settle."""

    async def test() -> None:
        service = Service("shop")
        gate = asyncio.Event()
        began: list[str] = []

        @service.on(Placed, group="call", concurrency=3)
        async def call(order: Placed, tx: Transaction) -> None:
            assert await tx.fetch_value("select count(*) from t") == 0
            tx.write("insert into t values ($1)", order.key)
            began.append(order.key)
            await gate.wait()

        app = App(service)
        async with testing.world(app) as world:
            await table(world, "shop")
            await app.publish(*placed("a", "b"))
            await until(lambda: len(began) == 2, 1.0)
            async with asyncio.timeout(1.0), app.transaction(service) as tx:
                assert await tx.fetch_value("select count(*) from t") == 0
                tx.write("insert into t values ($1)", "mine")
            gate.set()
            await world.settle()
            assert [row.id for row in await world.rows("shop", "select id from t order by id")] == ["a", "b", "mine"]

    run(test, 3.0)


# -- 15 ---------------------------------------------------------------------------------------------------------------


def waits_in_the_chunk(patch: Patch) -> None:
    failed = Pass.failed

    async def wait(self: Any, *args: Any) -> None:
        await self.loop.work.clock.sleep(1.0)
        await failed(self, *args)

    patch.setattr(Pass, "failed", wait)


def one_commit_for_each(patch: Patch) -> None:
    async def alone(self: Any, *args: Any) -> bool:
        return False

    patch.setattr(ChunkLoop, "_again", alone)


@fails_without(waits_in_the_chunk, one_commit_for_each)
def test_15_a_failing_event_neither_stops_its_partition_nor_costs_its_neighbours_their_chunk() -> None:
    """The culprit is parked with a due time; the rest of its chunk is one transaction still."""

    async def test() -> None:
        service = Service("shop", policy=Policy(first_delay=60.0))

        @service.on(Placed, group="work")
        async def work(order: Placed, tx: Transaction) -> None:
            tx.write("insert into t values ($1)", order.key if order.key != "50" else "49")  # unique

        async with testing.world(App(service), patience=0.2) as world:
            await table(world, "shop")
            now = world.clock.now()
            await world.publish(*placed(*range(200)))
            assert world.clock.now() == now
            assert len(await world.rows("shop", "select * from t")) == 199
            (parked,) = await world.parked()
            assert parked.key == "50" and parked.due == now + 60.0
            assert loop_of(world, "shop.work").counters.chunks <= 5

    run(test)


def the_first_is_guilty(patch: Patch) -> None:
    async def first(self: Any, batches: Any, careful: bool, error: Exception) -> bool:
        await self._park_alone(batches[0], error)
        return True

    patch.setattr(ChunkLoop, "_again", first)


FAMILY = "create table child (id text, parent text references parent (id) deferrable initially deferred)"


@fails_without(the_first_is_guilty)
def test_15_an_error_of_the_commit_belongs_to_nobody_until_it_is_known_whose_it_is() -> None:
    """A deferred constraint fails at the commit of many events: the culprit alone is parked."""

    async def test() -> None:
        service = Service("shop")

        @service.on(Placed, group="each")
        async def each(order: Placed, tx: Transaction) -> None:
            tx.write("insert into child values ($1, $2)", order.key, "nobody" if order.key == "13" else None)

        @service.on_batch(Placed, group="list", size=64)
        async def several(orders: list[Placed], tx: Transaction) -> None:
            for order in orders:
                tx.write("insert into child values ($1, $2)", f"l{order.key}", "none" if order.key == "7" else None)

        async with testing.world(App(service)) as world:
            await table(world, "shop", "create table parent (id text primary key)")
            await table(world, "shop", FAMILY)
            await world.publish(*placed(*range(40)))
            assert [(p.group, p.key) for p in await world.parked()] == [("shop.each", "13"), ("shop.list", "7")]
            assert len(await world.rows("shop", "select * from child")) == 78

    run(test)


def a_list_fails_as_one(patch: Patch) -> None:
    async def whole(self: Any, items: Any) -> None:
        for offset, envelope, _ in items:
            self.park(offset, envelope, ValueError("one of them"))

    patch.setattr(BatchPass, "_halve", whole)


@fails_without(a_list_fails_as_one)
def test_15_batch_handlers_are_halved() -> None:
    """Two of 100 fail: those two are parked, each once, and the handler is called a few times, not a hundred."""

    async def test() -> None:
        service = Service("shop")
        calls = 0

        @service.on_batch(Placed, group="list", size=100)
        async def several(orders: list[Placed], tx: Transaction) -> None:
            nonlocal calls
            calls += 1
            for order in orders:
                tx.write("insert into t values ($1)", order.key)
            if any(order.key in ("3", "77") for order in orders):
                raise ValueError("bad")

        async with testing.world(App(service)) as world:
            await table(world, "shop")
            await world.publish(*placed(*range(100)))
            assert {parked.key for parked in await world.parked()} == {"3", "77"}
            assert len(await world.rows("shop", "select * from t")) == 98 and calls < 30

    run(test)


# -- 16 ---------------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, os, sys
from evenflow import App, Event, Policy, Service, Settings, Topic, Transaction
import evenflow.chunk
if "no-suspects" in sys.argv:
    evenflow.chunk.SUSPECT = 1 << 40
class Placed(Event, type="placed", topic=Topic("one", partitions=1), key="key"):
    key: str
service = Service("shop")
@service.on(Placed, group="work", start="beginning")
async def work(order: Placed, tx: Transaction) -> None:
    if order.key == "bad":
        os._exit(9)
    tx.write("insert into t values ($1)", order.key)
app = App(service)
async def main() -> None:
    folder = sys.argv[1]
    settings = Settings.load({"folder": folder}, env={}, cwd=folder)
    async with app.running(handle=None, settings=settings) as running:
        if "first" in sys.argv:
            async with app.transaction(service) as tx:
                await tx.execute("create table t (id text primary key)")
            await app.publish(*[Placed(key=key) for key in ["a", "b", "bad", "c", "bad", "d"]])
        while not await running.idle():
            await asyncio.sleep(0.005)
        store = running.stores["shop"]
        print(sorted(row[0] for row in await store.read("select id from t")),
              await store.read("select lane, head, error_type from evenflow_parked order by offset"))
asyncio.run(main())
"""


@pytest.mark.parametrize("mended", [True, False])
def test_16_an_event_that_kills_its_process_is_parked(tmp_path: Path, mended: bool) -> None:
    """Claims without progress are counted; then each event is tried alone behind a durable mark."""
    program = tmp_path / "program.py"
    program.write_text(CHILD)
    ended = []
    for start in range(7):
        words = [*(["first"] if start == 0 else []), *([] if mended else ["no-suspects"])]
        command = [sys.executable, str(program), str(tmp_path), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ}, check=False)
        ended.append(done.returncode)
        if done.returncode != 9:
            break
    if not mended:
        assert ended == [9] * 7  # without the count it goes on for ever
        return
    assert ended == [9, 9, 9, 0], done.stderr
    assert (
        done.stdout.strip() == "['a', 'b', 'c', 'd'] [Row(lane='kbad', head=1, error_type='ProcessEnded'), "
        "Row(lane='kbad', head=0, error_type=None)]"
    )


def starts_until_it_ends(program: Path, folder: Path, limit: int, *words: str) -> tuple[list[int], str]:
    """Start it again each time it is ended by its event; the exit codes, and what the last one said."""
    ended, said = [], ""
    for start in range(limit):
        command = [sys.executable, str(program), str(folder), *words, *(["first"] if start == 0 else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        ended.append(done.returncode)
        said = done.stdout.strip() or done.stderr
        if done.returncode != 9:
            break
    return ended, said


def endless(program: Path) -> Path:
    """The same, which goes on until the event is a dead letter."""
    text = CHILD.replace('Service("shop")', 'Service("shop", policy=Policy(attempts=3, first_delay=0.01, timeout=2.0))')
    text = text.replace(
        "        store = running.stores",
        """        dead = "select 1 from evenflow_parked where head = 1 and due is null"
        while not await running.stores["shop"].read(dead):
            await asyncio.sleep(0.005)
        store = running.stores""",
    )
    program.write_text(text)
    return program


@pytest.mark.parametrize("mended", [True, False])
def test_16_an_event_that_kills_its_process_at_every_retry_becomes_a_dead_letter(tmp_path: Path, mended: bool) -> None:
    """Where processes end at a parked event, its attempt is counted before it is made."""
    program = endless(tmp_path / "program.py")
    if not mended:
        text = program.read_text().replace(
            "class Placed",
            """
async def never(self, owned, lane, guard): return True
evenflow.parking.Parking.forewarn = never
class Placed""",
        )
        program.write_text(text)
    ended, said = starts_until_it_ends(program, tmp_path, 9)
    if not mended:
        assert ended == [9] * 9
        return
    assert ended[-1] == 0, said
    assert (
        said == "['a', 'b', 'c', 'd'] [Row(lane='kbad', head=1, error_type='ProcessEnded'), "
        "Row(lane='kbad', head=0, error_type=None)]"
    )


def test_16_an_event_that_kills_the_process_of_a_waiting_handler_is_parked(tmp_path: Path) -> None:
    """Two innocent events stand before the one that kills; all are begun side by side at each start."""
    program = tmp_path / "program.py"
    text = CHILD.replace("async def work(order: Placed, tx: Transaction)", "async def work(order: Placed)")
    program.write_text(text.replace('tx.write("insert into t values ($1)", order.key)', "pass"))
    ended, said = starts_until_it_ends(program, tmp_path, 9)
    assert ended[-1] == 0 and "lane='kbad', head=1, error_type='ProcessEnded'" in said, said


def test_16_an_event_that_failed_first_and_kills_its_process_later_becomes_a_dead_letter(tmp_path: Path) -> None:
    """Its first attempt raises, its retries end the process: after claims without progress attempts are counted first."""
    program = endless(tmp_path / "program.py")
    text = program.read_text().replace(
        "async def work(order: Placed, tx: Transaction)",
        "async def work(order: Placed, tx: Transaction, delivery: Delivery)",
    )
    text = text.replace(
        "        os._exit(9)", "        if delivery.attempt == 1: raise ValueError\n        os._exit(9)"
    ).replace("import App,", "import App, Delivery,")
    program.write_text(text)
    ended, said = starts_until_it_ends(program, tmp_path, 12)
    assert ended[-1] == 0 and "head=1, error_type='ProcessEnded'" in said, said


# -- 17 ---------------------------------------------------------------------------------------------------------------


def a_strange_type_is_a_failure(patch: Patch) -> None:
    work = Running._work

    class Strange(dict):  # type: ignore[type-arg]
        def get(self, name: str, default: Any = None) -> Any:
            return self[name] if name in self else next(iter(self.values()))

    def bound(self: Any, *args: Any) -> Any:
        made = work(self, *args)
        object.__setattr__(made, "bindings", Strange(made.bindings))
        return made

    patch.setattr(Running, "_work", bound)


def strange_apps() -> tuple[App, list[str]]:
    service, seen = Service("shop"), []

    @service.on(Placed, group="chunks")
    async def chunks(order: Placed, tx: Transaction) -> None:
        seen.append(f"chunks {order.key}")

    @service.on(Placed, group="lanes")
    async def lanes(order: Placed) -> None:
        seen.append(f"lanes {order.key}")

    @service.on_batch(Placed, group="lists")
    async def lists(orders: list[Placed]) -> None:
        seen.extend(f"lists {order.key}" for order in orders)

    return App(service), seen


@fails_without(a_strange_type_is_a_failure)
def test_17_a_type_that_the_group_did_not_ask_for_is_passed_over_and_counted() -> None:
    """A new type in a topic parks no key of a group that never asked for it."""

    async def test() -> None:
        app, seen = strange_apps()
        async with testing.world(app) as world:
            await append_raw(world, "one", "brand.new", b'{"colour": "red"}', key="a")
            await world.publish(*placed("a"))
            assert sorted(seen) == ["chunks a", "lanes a", "lists a"] and await world.parked() == []
            for name in ("chunks", "lanes", "lists"):
                assert loop_of(world, f"shop.{name}").counters.skipped == 1

    run(test)


def a_newer_version_is_a_dead_letter(patch: Patch) -> None:
    def decide(error: BaseException, attempt: int, policy: Policy, **more: float) -> Decision:
        return DeadLetter() if isinstance(error, DecodeError) else after_failure(error, attempt, policy, **more)

    patch.setattr("evenflow.parking.after_failure", decide)


class NewPlaced(Event, type="placed", topic=ONE, key="key", version=2, upcasters={1: lambda old: old}):
    key: str
    colour: str = ""


@fails_without(a_newer_version_is_a_dead_letter)
def test_17_a_newer_version_waits_until_this_code_is_up_to_date() -> None:
    """It is parked with a due time, however often it is tried, and heals when the class is brought up to date."""

    async def test() -> None:
        app, seen = strange_apps()
        async with testing.world(app) as world:
            await append_raw(world, "one", "placed", b'{"key": "a", "colour": "red"}', key="a", version=2)
            await world.publish(*placed("a", "b"))
            await world.advance(4 * 3600.0)
            assert sorted(seen) == ["chunks b", "lanes b", "lists b"]
            heads = [parked for parked in await world.parked() if not parked.behind]
            assert [head.error_type for head in heads] == ["NewerVersion"] * 3
            assert not any(head.dead for head in heads)
            assert "it has version 2, this code knows 1" in (heads[0].error or "")
            for loop in world.running.loops():
                loop.work.bindings.update(Registry([NewPlaced]).by_type)
            await world.advance(3600.0)
            assert sorted(seen) == sorted([f"{g} {k}" for g in ("chunks", "lanes", "lists") for k in ("a", "a", "b")])
            assert await world.parked() == []

    run(test)


def what_cannot_be_read_is_tried_again(patch: Patch) -> None:
    patch.setattr("evenflow.parking.after_failure", lambda error, attempt, policy, **more: Retry(60.0))


@fails_without(what_cannot_be_read_is_tried_again)
def test_17_what_cannot_be_decoded_is_a_dead_letter_at_once() -> None:
    """It claims to be ours and is not: no retry can help, and a person is told why."""

    async def test() -> None:
        app, seen = strange_apps()
        async with testing.world(app) as world:
            await append_raw(world, "one", "placed", b'{"key": 7}', key="a")
            await world.publish(*placed("b"))
            assert sorted(seen) == ["chunks b", "lanes b", "lists b"]
            parked = await world.parked()
            assert len(parked) == 3 and all(each.dead and each.attempts == 1 for each in parked)
            assert "cannot decode 'placed'" in (parked[0].error or "")

    run(test)


# -- 18 ---------------------------------------------------------------------------------------------------------------


def nobody_is_held_back(patch: Patch) -> None:
    async def nothing(self: Any) -> None:
        return

    patch.setattr(LaneLoop, "_hold_back", nothing)


@fails_without(nobody_is_held_back)
def test_18_a_straggler_does_not_hold_the_position_back_for_ever() -> None:
    """Past the window it is parked with its key while its run goes on; later ones of its key wait for it."""

    async def test() -> None:
        service = Service("shop", policy=Policy(timeout=1e6))
        gate = asyncio.Event()
        done: list[tuple[str, int]] = []

        @service.on(Placed, group="call", concurrency=4)
        async def call(order: Placed) -> None:
            if order.number == 0:
                await gate.wait()
            done.append((order.key, order.number))

        app = App(service)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evenflow.waiting.WINDOW", 20)
            async with testing.world(app, patience=0.05) as world:
                await app.publish(*placed("slow", *[f"k{n}" for n in range(50)], "slow", *[f"l{n}" for n in range(50)]))
                with pytest.raises(NotSettled):
                    await world.settle()
                ((position,),) = await world.rows(
                    "shop", "select next from evenflow_position where group_name = 'shop.call'"
                )
                assert position > 80 and len(done) == 100
                assert {parked.key for parked in await world.parked()} == {"slow"}
                gate.set()
                await world.settle()
                assert [each for each in done if each[0] == "slow"] == [("slow", 0), ("slow", 51)]
                assert await world.parked() == [] and len(done) == 102

    run(test)


# -- 20 ---------------------------------------------------------------------------------------------------------------


def anybody_writes_at_any_time(patch: Patch) -> None:
    async def take(self: Any) -> None:
        self._busy = True

    def ask(self: Any) -> asyncio.Future[None]:
        turn = asyncio.get_running_loop().create_future()
        turn.set_result(None)
        return turn

    patch.setattr(WriteTurns, "take", take)
    patch.setattr(WriteTurns, "ask", ask)


@fails_without(anybody_writes_at_any_time)
def test_20_a_rollback_takes_nothing_of_its_neighbour_with_it() -> None:
    """Transactions of one connection come whole, one after another, though they are open at the same time."""

    async def test() -> None:
        service = Service("shop")
        gate = asyncio.Event()
        inside: list[str] = []

        @service.on(Placed, group="work")
        async def work(order: Placed, tx: Transaction) -> None:
            await tx.execute("insert into t values ($1)", order.key)
            inside.append(order.key)
            await gate.wait()
            raise ValueError("rolled back")

        app = App(service)

        async def mine() -> None:
            async with app.transaction(service) as tx:
                await tx.execute("insert into t values ('mine')")

        async with testing.world(app) as world:
            await table(world, "shop")
            await app.publish(*placed("theirs"))
            await until(lambda: bool(inside))
            other = asyncio.create_task(mine())
            for _ in range(50):
                await asyncio.sleep(0)
            gate.set()
            await other
            await world.settle()
            assert await world.rows("shop", "select id from t") == [("mine",)]

    run(test)


def one_undoes_all(patch: Patch) -> None:
    undo = WriteUnits._undo
    patch.setattr(WriteUnits, "_undo", lambda self, first: undo(self, first=True))


@fails_without(one_undoes_all)
def test_20_units_that_share_a_commit_fail_alone() -> None:
    """Of a hundred units at the same moment, ten fail: the others are all there."""

    async def test() -> None:
        service = Service("shop")
        app = App(service)

        async def unit(number: int) -> None:
            async with app.transaction(service) as tx:
                tx.write("insert into t values ($1)", f"n{number}")
                tx.write("insert into t values ($1)", "taken" if number % 10 == 3 else f"m{number}")

        async with testing.world(app) as world:
            await table(world, "shop")
            async with world.transaction(service) as tx:
                tx.write("insert into t values ('taken')")
            results = await asyncio.gather(*[unit(n) for n in range(100)], return_exceptions=True)
            assert [n for n, result in enumerate(results) if result is not None] == list(range(3, 100, 10))
            assert all(isinstance(result, StatementFailed) for result in results if result is not None)
            assert len(await world.rows("shop", "select id from t")) == 181

    run(test)


# -- 21 ---------------------------------------------------------------------------------------------------------------


def placeholders_are_names(patch: Patch) -> None:
    patch.setattr(sqlite_text, "rewritten", lambda sql: sql)


@fails_without(placeholders_are_names)
def test_21_placeholders_are_numbers_whatever_their_order() -> None:
    """`set a = $2 where id = $1` binds by number; within literals, `$1` is text."""

    async def test() -> None:
        service = Service("shop")
        async with testing.world(App(service)) as world:
            await table(world, "shop", "create table t (id text primary key, a text, b text)")
            async with world.transaction(service) as tx:
                tx.write("insert into t values ($1, $2, '$2')", "id", "old")
                tx.write("update t set a = $2 where id = $1", "id", "new")
                assert (
                    await tx.fetch_value("select a from t where b = '$2' and a = $2 and id = $1", "id", "new") == "new"
                )
            assert await world.rows("shop", "select a, b from t where a = $2 and id = $1", "id", "new") == [
                ("new", "$2")
            ]

    run(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    must_fail(case, plant, monkeypatch)
