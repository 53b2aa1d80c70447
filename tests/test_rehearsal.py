"""Rehearsal: which dead letters would pass now, with nothing changed by asking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Delivery, Event, Policy, Service, Settings, Topic, Transaction, operate
from evenflow.clock import Signal
from evenflow.errors import Refused
from evenflow.operate import Filter, Rehearsal
from evenflow.running import Running
from tests import on_postgres

ORDERS = Topic("orders", partitions=2)
GROUP = "billing.charge"


class Order(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str
    number: int = 0


class Bill(Event, type="bill", topic=Topic("bills", partitions=1), key="order_id"):
    order_id: str


class Bank:
    """What a handler may ask for."""

    calls = 0


Handle = Callable[[Order, Transaction], Awaitable[Any]]


class Shop:
    """Its handler is `now`, which a test changes as a deployment does. In the beginning it fails for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings.load({"folder": folder}, env={}, cwd=folder)
        self.now: Handle = _fails
        self.service, self.stock = Service("billing", policy=Policy(attempts=1)), Service("stock")

        async def charge(order: Order, tx: Transaction) -> Any:
            return await self.now(order, tx)

        self.service.on(Order, group="charge")(charge)
        self.app = App(self.service, self.stock)

    @contextlib.asynccontextmanager
    async def running(self, *, join: bool = True) -> AsyncGenerator[Running]:
        async with self.app.running(handle=None if join else (), settings=self.settings, join=join) as running:
            yield running

    async def begin(self, *orders: Order) -> None:
        """All of these are parked: the first of each key a dead letter."""
        async with self.running() as running:
            for service in ("billing", "stock"):
                async with self.app.transaction(service) as tx:
                    await tx.execute("create table done (order_id text, number integer, unique (order_id, number))")
            await self.app.publish(*orders)
            await until(running, running.idle)

    async def rehearsed(self, now: Handle, wanted: Filter = Filter(), **how: Any) -> Rehearsal:  # noqa: B008
        self.now = now
        async with self.running(join=False) as looking:
            before = self.dump()
            try:
                return await operate.rehearse(looking, GROUP, wanted, **how)
            finally:
                assert self.dump() == before

    def dump(self) -> dict[str, Sequence[str]]:
        """All that is in the files of the app: logs and stores."""
        found: dict[str, Sequence[str]] = {}
        for file in sorted(self.folder.rglob("*.db")):
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                found[str(file)] = list(connection.iterdump())
        found |= on_postgres.dump(self.folder) if on_postgres.ON else {}
        assert len(found) == 3
        return found


async def _fails(order: Order, _: Transaction) -> None:
    raise ValueError(f"no card for {order.order_id}")


async def until(running: Running, holds: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = running.clock.monotonic() + seconds
    while not await holds():
        assert running.clock.monotonic() < deadline, await operate.groups(running)
        await running.clock.wait(Signal(), 0.01)


def run(work: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60.0))


def case(work: Callable[[Shop], Any], folder: Path) -> None:
    run(lambda: work(Shop(folder)))


ALL = [Order(order_id=key, number=number) for number in (1, 2, 3) for key in "abc"]


def test_it_tells_which_would_pass_and_changes_nothing(tmp_path: Path) -> None:
    async def now(order: Order, tx: Transaction) -> Bill:
        if order.order_id == "b":
            raise KeyError(f"no card {order.number}")
        tx.write("insert into done values ($1, $2)", order.order_id, order.number)
        count = await tx.fetch_value("select count(*) from done where order_id = $1", order.order_id)
        assert count == order.number, "those before it are done, and no other key's"
        tx.publish(Bill(order_id="later"), after=60.0, name=f"reminder {order.order_id}")
        if order.order_id == "c" and order.number == 2:
            tx.write("insert into done values ($1, $2)", order.order_id, 1)  # its error comes with the write
        return Bill(order_id=order.order_id)

    async def main(shop: Shop) -> None:
        await shop.begin(*ALL)
        found = await shop.rehearsed(now)
        assert (found.lanes, found.cut, found.gone, found.stopped) == (3, 0, 0, "")
        assert [(each.lane, each.outcome, each.behind) for each in found.tried] == [
            ("a", "passes", False), ("a", "passes", True), ("a", "passes", True),
            ("b", "fails", False),
            ("c", "passes", False), ("c", "fails", True),
        ]  # fmt: skip
        assert found.published == 2 * 4  # one now and one later, of each that passes
        assert [each.published for each in found.tried] == [2, 2, 2, 0, 2, 0]
        assert [(each.error_type, each.count) for each in found.alike()] == [("KeyError", 1), ("WriteFailed", 1)]
        assert "UNIQUE" in found.alike()[1].error.upper()
        shop.now = now
        async with shop.running() as running:  # and it is as it was told
            await operate.redrive(running, GROUP, "a", "ada")

            async def is_free() -> bool:
                return not [each for each in await operate.parked(running, GROUP) if each.key == "a"]

            await until(running, is_free)

    case(main, tmp_path)


def test_errors_are_told_by_their_kind(tmp_path: Path) -> None:
    async def main(shop: Shop) -> None:
        await shop.begin(*[Order(order_id=f"k{number}") for number in range(12)])

        async def now(order: Order, _: Transaction) -> None:
            if order.order_id == "k3":
                raise RuntimeError("another")
            raise ValueError(f"no card for {order.order_id}")

        found = await shop.rehearsed(now)
        many, one = found.alike()
        assert (many.error_type, many.count, len(many.lanes), one.count) == ("ValueError", 11, 5, 1)
        assert many.fingerprint != one.fingerprint and "test_rehearsal.py" in many.error
        async with shop.running(join=False) as looking:
            stored = (await operate.parked(looking, GROUP))[0].error
        assert stored is not None and stored.startswith("ValueError")

    case(main, tmp_path)


def test_filter_limit_and_depth_bound_it(tmp_path: Path) -> None:
    async def now(order: Order, tx: Transaction) -> None:
        tx.write("insert into done values ($1, $2)", order.order_id, order.number)

    async def main(shop: Shop) -> None:
        await shop.begin(*ALL)
        assert [each.lane for each in (await shop.rehearsed(now, Filter(lane="b"))).tried] == ["b"] * 3
        assert (await shop.rehearsed(now, Filter(type="nix"))).tried == []
        assert len((await shop.rehearsed(now, limit=2)).tried) == 6
        bounded = await shop.rehearsed(now, depth=2)
        assert (len(bounded.tried), bounded.cut) == (6, 3)
        assert (await shop.rehearsed(now, depth=3)).cut == 0
        async with shop.running(join=False) as looking:
            await operate.redrive(looking, GROUP, "a", "ada")
        asked = await shop.rehearsed(now)
        assert {each.lane for each in asked.tried} == {"b", "c"}

    case(main, tmp_path)


async def _sleeps(_: Order, __: Transaction) -> None:
    await asyncio.sleep(0)


async def _calls(_: Order, __: Transaction) -> None:
    reader, _writer = await asyncio.open_connection("localhost", 9)
    await reader.read()


async def _gathers(_: Order, __: Transaction) -> None:
    async def act() -> None:
        Bank.calls += 1

    await asyncio.gather(act(), act())


async def _starts(_: Order, __: Transaction) -> None:
    async def act() -> None:
        Bank.calls += 1

    shop_tasks.add(asyncio.create_task(act()))


shop_tasks: set[Any] = set()


@pytest.mark.parametrize("acts", [_sleeps, _calls, _gathers, _starts])
def test_a_handler_that_waits_for_something_else_is_ended_there(tmp_path: Path, acts: Handle) -> None:
    async def main(shop: Shop) -> None:
        Bank.calls = 0
        await shop.begin(*ALL[:3])
        found = await shop.rehearsed(acts)
        await asyncio.sleep(0)  # what it has started would run now
        assert [each.outcome for each in found.tried] == ["outside"] and Bank.calls == 0
        assert "order.placed of 'a'" in found.stopped and "test_rehearsal.py" in found.where
        assert found.alike() == [] and found.lanes == 1

    case(main, tmp_path)


@pytest.mark.parametrize("swallows", [False, True])
def test_another_transaction_within_the_handler_is_refused(tmp_path: Path, *, swallows: bool) -> None:
    async def main(shop: Shop) -> None:
        await shop.begin(*ALL[:3])

        async def now(order: Order, tx: Transaction) -> None:
            tx.write("insert into done values ($1, $2)", order.order_id, order.number)
            with contextlib.suppress(Exception if swallows else KeyError):
                async with shop.app.transaction(shop.stock) as other:
                    other.write("insert into done values ('x', 1)")

        found = await shop.rehearsed(now)
        assert [each.outcome for each in found.tried] == ["outside"]
        assert "opens a transaction of 'stock'" in found.stopped

    case(main, tmp_path)


def test_waiting_handlers_and_those_that_ask_for_more_are_refused(tmp_path: Path) -> None:
    service = Service("billing", policy=Policy(attempts=1))
    opened: list[str] = []

    @service.on(Order, group="tell")
    async def tell(order: Order) -> None: ...

    @service.on(Order, group="slow", concurrency=3)
    async def slow(order: Order, tx: Transaction) -> None: ...

    @service.on(Order, group="ask")
    async def ask(order: Order, tx: Transaction, bank: Bank, delivery: Delivery) -> None:
        assert (delivery.attempt, bank.calls) == (2, 0)

    @service.on(Order, group="block")
    def block(order: Order, tx: Transaction) -> Bill:
        return Bill(order_id=order.order_id)

    @service.on_batch(Order, group="many", size=10)
    async def many(orders: list[Order], tx: Transaction) -> None:
        tx.write("insert into done values ($1, $2)", orders[0].order_id, len(orders))

    app = App(service)

    @app.provide
    async def bank() -> AsyncGenerator[Bank]:
        opened.append("bank")
        yield Bank()
        opened.append("closed")

    async def main() -> None:
        settings = Settings.load({"folder": tmp_path}, env={}, cwd=tmp_path)
        async with app.running(handle=(), settings=settings) as running:
            async with app.transaction(service) as tx:
                await tx.execute("create table done (order_id text, number integer)")
        async with app.running(settings=settings, join=False) as looking:
            store = looking.stores["billing"]
            for group in ("ask", "block", "many"):
                await _park(looking, f"billing.{group}")
            for group in ("tell", "slow"):
                with pytest.raises(Refused, match="has no transaction of its own"):
                    await operate.rehearse(looking, f"billing.{group}", trust=True)
            for group, why in (("ask", "asks for Bank"), ("block", "its handler blocks")):
                with pytest.raises(Refused, match=why):
                    await operate.rehearse(looking, f"billing.{group}")
            assert opened == []
            assert (await operate.rehearse(looking, "billing.ask", trust=True)).count("passes", behind=False) == 1
            assert opened == ["bank", "closed"]
            trusted = await operate.rehearse(looking, "billing.block", trust=True)
            assert trusted.count("passes", behind=False) == 1 and trusted.published == 1
            assert (await operate.rehearse(looking, "billing.many")).count("passes", behind=False) == 1
            assert await store.read("select count(*) from done") == [(0,)]

    run(main)


async def _park(looking: Running, group: str) -> None:
    """A dead letter of this group, as if it had failed once."""
    from evenflow.envelope import Envelope, pack

    packed = pack([Envelope("1", "orders", "order.placed", 1, "a", 0, 0.0, b'{"order_id": "a"}', "p", 1)])
    sql = """insert into evenflow_parked (group_name, topic, lane, generation, "offset", slot, partition, envelope, head,
        due, attempts, error, error_type, parked, type, size)
        values ($1, 'orders', 'ka', 0, 0, 0, 0, $2, 1, null, 1, 'ValueError: x', 'ValueError', 0, 'order.placed', $3)"""
    await looking.stores["billing"].transact(lambda session: session.execute(sql, (group, packed, len(packed))))


def test_it_leaves_a_lane_in_time_and_the_lock_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a running system: each lane has a transaction of its own, no longer than it may be."""
    from evenflow.operate import rehearsal

    async def main(shop: Shop) -> None:
        await shop.begin(*ALL)
        monkeypatch.setattr(rehearsal, "HELD", 0.0)
        other = Shop(tmp_path)

        async def now(order: Order, tx: Transaction) -> None:
            await tx.execute("insert into done values ($1, $2)", order.order_id, order.number)

        shop.now = now
        async with shop.running(join=False) as looking, other.running(join=False):
            written, over = 0, list[bool]()

            async def looks() -> None:
                await asyncio.sleep(0)

            async def write() -> None:
                nonlocal written
                while not over:
                    app = (shop.app, other.app)[written % 2]  # of this process, and of another
                    async with app.transaction("billing") as tx:
                        await tx.execute("insert into done values ('other', $1)", written)
                        await asyncio.create_task(looks())  # begun while a handler waits for its turn
                    written += 1

            writing = asyncio.create_task(write())
            found = await operate.rehearse(looking, GROUP)
            over.append(True)
            await writing
            assert (len(found.tried), found.cut) == (3, 3)  # the head alone: its time was over then
            assert written and (await looking.stores["billing"].read("select count(*) from done")) == [(written,)]

    case(main, tmp_path)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="evenflow")


def test_middleware_is_around_what_is_rehearsed(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def now(order: Order, tx: Transaction) -> None:
        seen.append(order.order_id)

    async def main(shop: Shop) -> None:
        await shop.begin(*ALL[:2])

        @shop.app.middleware(per="event")
        async def watch(delivery: Delivery, call_next: Callable[[], Any]) -> Any:
            seen.append((delivery.group, delivery.attempt))
            if delivery.envelope.key == "b":
                raise PermissionError("not this one")
            return await call_next()

        found = await shop.rehearsed(now)
        assert [each.error_type for each in found.tried] == ["", "PermissionError"]
        assert seen == [(GROUP, 2), "a", (GROUP, 2)]

    case(main, tmp_path)
