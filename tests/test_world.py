"""`testing.world`: an app in a test, with real SQL and virtual time. The first test is the one of the README's kind."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest

from evenflow import DAY, HOUR, App, Delivery, Event, Policy, Service, Settings, Topic, Transaction, testing
from evenflow.errors import DefinitionError, Refused, TransactionError, WriteFailed
from evenflow.testing import NotSettled

ORDERS = Topic("orders", partitions=16, retention=90 * DAY)
BILLING = Topic("billing", partitions=4)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id", version=2):
    order_id: str
    customer: str
    total: Decimal = Decimal(1)


class PaymentTaken(Event, type="payment.taken", topic=BILLING, key="order_id"):
    order_id: str


class PaymentOverdue(Event, type="payment.overdue", topic=BILLING, key="order_id"):
    order_id: str


class Invoiced(Event, type="invoiced", topic=Topic("one", partitions=1), key="id"):
    id: str


class Shipped(Event, type="shipped", topic=Topic("shipping"), key="id"):
    id: str


class Returned(Event, type="returned", topic=Topic("returns"), key="id"):
    id: str


class Mailer:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    async def send(self, order_id: str, *, idempotency_key: str) -> None:
        raise AssertionError("the real mailer")


class FakeMailer(Mailer):
    async def send(self, order_id: str, *, idempotency_key: str) -> None:
        self.sent.append((order_id, idempotency_key))


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def order(number: object, customer: str = "c") -> OrderPlaced:
    return OrderPlaced(order_id=str(number), customer=customer)


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    (tmp_path / "0001_cards.sql").write_text(
        "create table cards (customer text primary key, card text not null);\n"
        "create table charges (order_id text primary key, card text not null, total numeric not null);\n"
    )
    return tmp_path


def shop(sql: Path) -> App:
    """The sample of the design, nearly to the letter."""
    billing = Service("billing", migrations=sql, policy=Policy(attempts=8, timeout=10.0))

    @billing.on(OrderPlaced, group="charge")
    async def charge(order: OrderPlaced, tx: Transaction) -> PaymentTaken | None:
        card = await tx.fetch_value("select card from cards where customer = $1", order.customer)
        if card is None:
            tx.publish(PaymentOverdue(order_id=order.order_id), after=3 * DAY, name=f"overdue:{order.order_id}")
            return None
        tx.write("insert into charges values ($1, $2, $3) on conflict do nothing", order.order_id, card, order.total)
        tx.cancel(f"overdue:{order.order_id}")
        return PaymentTaken(order_id=order.order_id)

    @billing.on(PaymentTaken, PaymentOverdue, group="notify", concurrency=50)
    async def notify(payment: PaymentTaken | PaymentOverdue, mailer: Mailer, delivery: Delivery) -> None:
        await mailer.send(payment.order_id, idempotency_key=delivery.id)

    app = App(billing, events=[PaymentOverdue])

    @app.provide
    async def mailer() -> AsyncGenerator[Mailer]:
        raise AssertionError("overridden in tests")
        yield Mailer()

    return app


def test_the_sample_of_the_design(sql: Path) -> None:
    async def test() -> None:
        mailer = FakeMailer()
        async with testing.world(shop(sql), overrides={Mailer: mailer}) as world:
            await world.publish(order("1"))
            await world.advance(3 * DAY - 1)
            assert world.published(PaymentOverdue) == []
            await world.advance(1)
            assert world.published(PaymentOverdue) == [PaymentOverdue(order_id="1")]
            assert [order_id for order_id, _ in mailer.sent] == ["1"]
            assert await world.rows("billing", "select count(*) from charges") == [(0,)]

    run(test)


def test_a_card_that_comes_in_time_cancels_what_was_to_fall_due(sql: Path) -> None:
    async def test() -> None:
        mailer = FakeMailer()
        async with testing.world(shop(sql), overrides={Mailer: mailer}) as world:
            await world.publish(order("1"))
            await world.advance(2 * DAY)
            async with world.transaction("billing") as tx:
                tx.write("insert into cards values ($1, $2)", "c", "4711")
            await world.publish(order("1"))
            await world.advance(30 * DAY)
            assert world.published(PaymentOverdue) == []
            assert world.published(PaymentTaken) == [PaymentTaken(order_id="1")]
            rows = await world.rows("billing", "select order_id, card, total from charges where card = $1", "4711")
            assert rows == [("1", "4711", Decimal(1))]
            taken = [each for each in world.envelopes() if each.type == "payment.taken"]
            assert mailer.sent == [("1", taken[0].id)]

    run(test)


def test_a_year_of_virtual_time_takes_no_time(sql: Path) -> None:
    async def test() -> None:
        started = time.process_time()
        async with testing.world(shop(sql), overrides={Mailer: FakeMailer()}) as world:
            for _ in range(4):
                await world.advance(91 * DAY)
        assert time.process_time() - started < 2.0  # a look every half second would be 63 million

    run(test)


def test_time_starts_where_it_is_told_and_moves_only_by_advance() -> None:
    async def test() -> None:
        noon = datetime(2031, 5, 4, 12, tzinfo=UTC)
        async with testing.world(App(Service("empty")), start=noon) as world:
            assert world.clock.now() == noon.timestamp()
            await world.settle()
            await world.advance(90.5)
            assert world.clock.now() == noon.timestamp() + 90.5
            await world.advance(0)
            await world.advance(3 * DAY)
            assert world.clock.now() == noon.timestamp() + 90.5 + 3 * DAY
        async with testing.world(App(Service("empty")), start=5000) as world:
            assert world.clock.now() == 5000

    run(test)


# -- failures and retries ---------------------------------------------------------------------------------------------


def failing(times: int, policy: Policy) -> tuple[App, list[tuple[str, int]]]:
    service = Service("shop", policy=policy)
    calls: list[tuple[str, int]] = []

    @service.on(OrderPlaced, group="work")
    async def work(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> PaymentTaken:
        calls.append((order.order_id, delivery.attempt))
        if order.order_id == "bad" and delivery.attempt <= times:
            raise ValueError("no card")
        return PaymentTaken(order_id=order.order_id)

    return App(service), calls


def test_retries_come_when_time_is_advanced_and_not_before() -> None:
    async def test() -> None:
        app, calls = failing(2, Policy(first_delay=10.0, factor=3.0, attempts=5))
        async with testing.world(app) as world:
            await world.publish(order("bad"), order("good"))
            assert sorted(calls) == [("bad", 1), ("good", 1)]
            (parked,) = await world.parked()
            assert (parked.group, parked.key, parked.attempts) == ("shop.work", "bad", 1)
            assert parked.due == world.clock.now() + 10.0 and not parked.dead
            assert "ValueError: no card" in (parked.error or "") and "test_world.py" in (parked.error or "")
            await world.advance(9.9)
            assert len(calls) == 2
            await world.advance(0.1)
            assert calls[2:] == [("bad", 2)]
            (parked,) = await world.parked("shop.work")
            assert parked.due == world.clock.now() + 30.0
            await world.advance(HOUR)
            assert calls[3:] == [("bad", 3)]
            assert await world.parked() == []
            assert {each.order_id for each in world.published(PaymentTaken)} == {"good", "bad"}

    run(test)


def test_each_retry_has_its_own_time_though_time_moves_in_one_leap() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(first_delay=60.0, factor=10.0, max_delay=7 * DAY, attempts=5))
        times: list[float] = []
        app = App(service)

        @service.on(OrderPlaced, group="work")
        async def work(order: OrderPlaced, tx: Transaction) -> None:
            times.append(world.clock.now() - start)
            raise ValueError("never")

        async with testing.world(app) as world:
            start = world.clock.now()
            await world.publish(order("1"))
            await world.advance(30 * DAY)
            assert times == [0.0, 60.0, 660.0, 6660.0, 66660.0]
            (parked,) = await world.parked()
            assert parked.dead and parked.attempts == 5

    run(test)


def test_a_dead_letter_is_seen_and_can_be_redriven() -> None:
    async def test() -> None:
        app, calls = failing(3, Policy(first_delay=1.0, attempts=2))
        async with testing.world(app) as world:
            await world.publish(order("bad"))
            await world.publish(order("bad"), order("good"))
            await world.advance(DAY)
            first, second = await world.parked()
            assert first.dead and not first.behind and second.behind and not second.dead
            assert [call for call in calls if call[0] == "bad"] == [("bad", 1), ("bad", 2)]
            assert await world.redrive(first) == 1
            assert calls[-1] == ("bad", 3)
            assert len(await world.parked()) == 2
            assert await world.redrive() == 1
            assert calls[-2:] == [("bad", 4), ("bad", 1)]
            (second,) = await world.parked()  # it failed as well, by itself this time
            assert not second.behind
            assert await world.redrive() == 0

    run(test)


def test_a_write_that_fails_belongs_to_its_event_and_leaves_nothing() -> None:
    async def test() -> None:
        service = Service("shop")

        @service.on(OrderPlaced, group="work")
        async def work(order: OrderPlaced, tx: Transaction) -> PaymentTaken:
            tx.write("insert into done values ($1)", order.order_id)
            tx.write("insert into done values ($1)", order.customer)  # unique
            return PaymentTaken(order_id=order.order_id)

        async with testing.world(App(service)) as world:
            async with world.transaction(service) as tx:
                await tx.execute("create table done (id text primary key)")
            await world.publish(order("1", "x"), order("2", "x"), order("3", "y"))
            rows = [row.id for row in await world.rows(service, "select id from done order by id")]
            (parked,) = await world.parked()
            assert parked.error_type == "WriteFailed" and "test_world.py" in (parked.error or "")
            assert rows == sorted({"1", "2", "3", "x", "y"} - {parked.key})
            assert [each.order_id for each in world.published(PaymentTaken)].count(parked.key or "") == 0

    run(test)


# -- kinds of handlers ------------------------------------------------------------------------------------------------


def test_a_batch_handler_gets_lists_and_the_culprit_alone_is_parked() -> None:
    async def test() -> None:
        service = Service("shop")
        lists: list[list[str]] = []

        @service.on_batch(Invoiced, group="ledger", size=100)
        async def ledger(invoices: list[Invoiced], tx: Transaction) -> None:
            if any(each.id == "7" for each in invoices):
                raise ValueError("seven")
            for each in invoices:
                tx.write("insert into ledger values ($1)", each.id)
            lists.append([each.id for each in invoices])

        async with testing.world(App(service)) as world:
            async with world.transaction(service) as tx:
                await tx.execute("create table ledger (id text primary key)")
            await world.publish(*[Invoiced(id=str(n)) for n in range(16)])
            rows = await world.rows(service, "select id from ledger")
            assert {row.id for row in rows} == {str(n) for n in range(16)} - {"7"}
            assert max(map(len, lists)) == 8
            (parked,) = await world.parked()
            assert parked.key == "7" and parked.error_type == "ValueError"

    run(test)


def test_waiting_handlers_work_side_by_side_and_in_order_per_key() -> None:
    async def test() -> None:
        service = Service("shop")
        at_once = highest = 0
        seen: list[tuple[str, str]] = []

        @service.on(OrderPlaced, group="mail", concurrency=5)
        async def mail(order: OrderPlaced) -> None:
            nonlocal at_once, highest
            at_once += 1
            highest = max(highest, at_once)
            await asyncio.sleep(0.001)  # something real
            at_once -= 1
            seen.append((order.order_id, order.customer))

        async with testing.world(App(service)) as world:
            await world.publish(*[order(n % 10, str(n)) for n in range(40)])
            assert len(seen) == 40 and highest == 5
            for key in range(10):
                assert [int(c) for o, c in seen if o == str(key)] == list(range(key, 40, 10))

    run(test)


def test_a_plain_def_runs_in_a_thread_and_is_waited_for() -> None:
    async def test() -> None:
        service = Service("shop")
        seen: list[str] = []

        @service.on(OrderPlaced, group="report")
        def report(order: OrderPlaced) -> None:
            time.sleep(0.005)
            seen.append(order.order_id)

        async with testing.world(App(service)) as world:
            await world.publish(order("1"))
            assert seen == ["1"]

    run(test)


def test_events_pass_through_several_services_each_with_its_store() -> None:
    async def test() -> None:
        orders, billing, mail = Service("orders"), Service("billing"), Service("mail")
        mails: list[str] = []

        @billing.on(OrderPlaced, group="charge")
        async def charge(order: OrderPlaced, tx: Transaction) -> PaymentTaken:
            tx.write("insert into charges values ($1)", order.order_id)
            return PaymentTaken(order_id=order.order_id)

        @orders.on(PaymentTaken, group="paid")
        async def paid(payment: PaymentTaken, tx: Transaction) -> None:
            tx.write("update orders set paid = 1 where id = $1", payment.order_id)

        @mail.on(PaymentTaken, group="thanks")
        async def thanks(payment: PaymentTaken) -> None:
            mails.append(payment.order_id)

        async with testing.world(App(orders, billing, mail)) as world:
            async with world.transaction(orders) as tx:
                await tx.execute("create table orders (id text primary key, paid integer not null default 0)")
            async with world.transaction(billing) as tx:
                await tx.execute("create table charges (id text primary key)")
            async with world.transaction(orders) as tx:
                tx.write("insert into orders (id) values ($1), ($2)", "1", "2")
                tx.publish(order("1"))
            assert await world.rows(orders, "select id, paid from orders order by id") == [("1", 1), ("2", 0)]
            assert await world.rows(billing, "select id from charges") == [("1",)]
            assert mails == ["1"]
            placed, taken = world.envelopes()
            assert (placed.source, taken.source) == ("orders", "billing")
            assert taken.causation == placed.id and taken.correlation == placed.id
            with pytest.raises(TransactionError, match="no service 'stock'"):
                await world.rows("stock", "select 1")

    run(test)


def test_middleware_goes_around_chunks_and_around_events() -> None:
    async def test() -> None:
        service = Service("shop")
        steps: list[str] = []

        @service.on(OrderPlaced, group="work")
        async def work(order: OrderPlaced, tx: Transaction) -> None:
            steps.append(f"handler {order.order_id}")

        @service.on(OrderPlaced, group="wait", concurrency=1)
        async def wait(order: OrderPlaced) -> None:
            steps.append(f"waiting {order.order_id}")

        app = App(service)

        @app.middleware(per="chunk")
        async def chunk(group: str, events: int, call_next: Callable[[], Awaitable[object]]) -> object:
            steps.append(f"chunk {group} {events}")
            return await call_next()

        @app.middleware(per="event")
        async def outer(delivery: Delivery, call_next: Callable[[], Awaitable[object]]) -> object:
            steps.append(f"> {delivery.group} {delivery.attempt}")
            try:
                return await call_next()
            finally:
                steps.append("<")

        @app.middleware(per="event")
        async def inner(delivery: Delivery, call_next: Callable[[], Awaitable[object]]) -> object:
            steps.append(f">> {delivery.envelope.key}")
            return await call_next()

        async with testing.world(app) as world:
            await world.publish(order("1"))
            transactional = [
                "chunk shop.work 1", "> shop.work 1", ">> 1", "handler 1", "<",
            ]  # fmt: skip
            waiting = ["> shop.wait 1", ">> 1", "waiting 1", "<"]
            assert [s for s in steps if s in transactional] and len(steps) == len(transactional) + len(waiting)
            for expected in (transactional, waiting):
                start = steps.index(expected[0])
                assert steps[start : start + len(expected)] == expected

    run(test)


def test_reading_and_savepoints_in_a_transaction() -> None:
    async def test() -> None:
        service = Service("shop")
        found: list[object] = []

        @service.on(OrderPlaced, group="work")
        async def work(order: OrderPlaced, tx: Transaction) -> None:
            tx.write("insert into t values ($1, $2)", order.order_id, order.total)
            found.append(await tx.fetch_value("select total from t where id = $1", order.order_id))
            found.append(await tx.fetch_one("select id, total from t"))
            found.append(await tx.fetch_one("select id from t where id = 'none'"))
            found.append(await tx.fetch_value("select id from t where id = 'none'"))
            try:
                async with tx.savepoint():
                    tx.write("insert into t values ($1, $2)", "inner", Decimal(2))
                    tx.publish(PaymentTaken(order_id="undone"))
                    assert len(await tx.fetch_all("select * from t")) == 2
                    raise KeyError("undo")
            except KeyError:
                pass
            with pytest.raises(WriteFailed):
                async with tx.savepoint():
                    tx.write("insert into t values ($1, $2)", order.order_id, order.total)
            async with tx.savepoint():
                tx.publish(PaymentTaken(order_id="kept"))
            found.append(await tx.execute("update t set total = total + 1"))
            found.append([row.id for row in await tx.fetch_all("select id from t")])

        async with testing.world(App(service)) as world:
            async with world.transaction(service) as tx:
                await tx.execute("create table t (id text primary key, total numeric not null)")
            await world.publish(order("1"))
            assert await world.parked() == []
            assert found == [Decimal(1), ("1", Decimal(1)), None, None, 1, ["1"]]
            assert await world.rows(service, "select total from t") == [(Decimal(2),)]
            assert world.published(PaymentTaken) == [PaymentTaken(order_id="kept")]

    run(test)


def test_a_transaction_that_raises_leaves_nothing() -> None:
    async def test() -> None:
        service = Service("shop")
        async with testing.world(App(service)) as world:
            async with world.transaction(service) as tx:
                await tx.execute("create table t (id text)")
            with pytest.raises(KeyError):
                async with world.transaction(service) as tx:
                    tx.write("insert into t values ('1')")
                    tx.publish(order("1"))
                    raise KeyError
            await world.settle()
            assert await world.rows(service, "select * from t") == [] and world.published(OrderPlaced) == []
            with pytest.raises(TransactionError, match="is over"):
                tx.write("insert into t values ('2')")

    run(test)


# -- what a world needs -----------------------------------------------------------------------------------------------


def test_providers_are_opened_once_closed_at_the_end_and_overridden_by_type() -> None:
    async def test() -> None:
        service = Service("shop")
        used: list[Mailer] = []
        steps: list[str] = []

        @service.on(OrderPlaced, group="one")
        async def one(order: OrderPlaced, mailer: Mailer) -> None:
            used.append(mailer)

        @service.on(OrderPlaced, group="two")
        async def two(order: OrderPlaced, tx: Transaction, mailer: Mailer) -> None:
            used.append(mailer)

        @asynccontextmanager
        async def lifespan(app: App) -> AsyncGenerator[None]:
            steps.append("up")
            yield
            steps.append("down")

        app = App(service, lifespan=lifespan)

        @app.provide
        async def mailer() -> AsyncGenerator[Mailer]:
            steps.append("open")
            yield Mailer()
            steps.append("close")

        async with testing.world(app) as world:
            await world.publish(order("1"))
            assert steps == ["up", "open"]
        assert steps == ["up", "open", "close", "down"] and len(set(used)) == 1 and len(used) == 2
        fake = FakeMailer()
        async with testing.world(app, overrides={Mailer: fake}) as world:
            await world.publish(order("1"))
        assert used[2:] == [fake, fake] and steps[4:] == ["up", "down"]

    run(test)


def test_what_nobody_provides_is_told_with_the_line_of_the_handler() -> None:
    async def test() -> None:
        service = Service("shop")

        @service.on(OrderPlaced, group="mail")
        async def mail(order: OrderPlaced, mailer: Mailer) -> None: ...

        with pytest.raises(DefinitionError, match=r"test_world.py:\d+: nothing provides Mailer"):
            async with testing.world(App(service)):
                raise AssertionError("opened")

    run(test)


def test_a_topic_of_another_team_exists_in_the_world() -> None:
    async def test() -> None:
        service = Service("shop")
        seen: list[str] = []

        @service.on(Shipped, group="note")
        async def note(shipped: Shipped, tx: Transaction) -> Returned:
            seen.append(shipped.id)
            return Returned(id=shipped.id)

        async with testing.world(App(service)) as world:
            await world.publish(Shipped(id="1"))
            assert seen == ["1"] and world.published(Returned) == [Returned(id="1")]

    run(test)


def test_the_settings_of_the_machine_are_not_read_and_some_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        app = App(Service("shop"))
        monkeypatch.setenv("EVENFLOW_ENGINE", "kafka://nowhere")
        async with testing.world(app, settings={"max_event_bytes": 100}) as world:
            assert world.running.settings.engine == "memory:"
            with pytest.raises(Exception, match="100 are allowed"):
                await world.publish(order("x" * 200))

    run(test)


def test_one_world_after_another_but_not_within_another() -> None:
    async def test() -> None:
        app, calls = failing(0, Policy())
        for _ in range(2):
            async with testing.world(app) as world:
                await world.publish(order("1"))
                with pytest.raises(TransactionError, match="open already"):
                    async with testing.world(app):
                        raise AssertionError("opened")
                await world.publish(order("2"))
        assert sorted(calls) == [("1", 1), ("1", 1), ("2", 1), ("2", 1)]
        with pytest.raises(TransactionError, match="not open"):
            await app.publish(order("3"))

    run(test)


# -- coming to rest ---------------------------------------------------------------------------------------------------


def test_a_handler_that_never_returns_is_named_and_ends_by_its_timeout() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(timeout=3600.0, attempts=1))

        @service.on(OrderPlaced, group="hang")
        async def hang(order: OrderPlaced, tx: Transaction) -> None:
            await asyncio.get_running_loop().create_future()

        async with testing.world(App(service), patience=0.02) as world:
            with pytest.raises(NotSettled, match=r"group shop.hang is at work .*test_world.py"):
                await world.publish(order("1"))
            await world.advance(3590)
            with pytest.raises(NotSettled):
                await world.settle()
            await world.advance(20)
            (parked,) = await world.parked()
            assert parked.error_type == "HandlerTimeout" and "3600 s" in (parked.error or "")

    run(test)


def test_events_that_cause_each_other_for_ever_are_an_error_and_no_endless_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        service = Service("shop")
        monkeypatch.setattr(sys.modules["evenflow.testing.world"], "TURNS", 2000)

        @service.on(PaymentTaken, group="again")
        async def again(payment: PaymentTaken, tx: Transaction) -> PaymentTaken:
            return payment

        with pytest.raises(NotSettled, match="does not come to rest"):
            async with testing.world(App(service)) as world:
                await world.publish(PaymentTaken(order_id="1"))

    run(test)


def test_a_world_ends_though_a_handler_hangs() -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(timeout=1e6))
        ended: list[str] = []

        @service.on(OrderPlaced, group="hang", concurrency=3)
        async def hang(order: OrderPlaced) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(order.order_id)

        app = App(service)
        async with testing.world(app, patience=0.01):
            await app.publish(order("1"))
            while not any(loop.in_flight() for loop in app.opened.loops()):
                await asyncio.sleep(0)
        assert ended == ["1"]

    run(test)


def test_an_event_that_is_due_is_done_before_what_comes_later() -> None:
    async def test() -> None:
        service = Service("shop")
        seen: list[tuple[str, float]] = []

        @service.on(OrderPlaced, group="work")
        async def work(order: OrderPlaced, tx: Transaction) -> None:
            seen.append((order.customer, world.clock.now() - start))
            if int(order.customer) < 3:
                tx.publish(OrderPlaced(order_id="1", customer=str(int(order.customer) + 1)), after=HOUR)

        async with testing.world(App(service)) as world:
            start = world.clock.now()
            await world.publish(order("1", "9"), after=1.5 * HOUR)
            await world.publish(order("1", "0"))
            await world.advance(DAY)
            assert seen == [("0", 0.0), ("1", HOUR), ("9", 1.5 * HOUR), ("2", 2 * HOUR), ("3", 3 * HOUR)]

    run(test)


# -- code without an event loop, and transactions of the team's own ----------------------------------------------------


def files(folder: Path, options: str = "") -> Settings:
    given = {"engine": f"sqlite:///{folder}/log.db", "store": f"sqlite:///{folder}/{{service}}.db{options}"}
    return Settings.load(given, env={}, cwd=folder)


def test_code_without_a_loop_publishes_and_transacts(tmp_path: Path) -> None:
    service = Service("shop")

    @service.on(OrderPlaced, group="work", start="beginning")
    async def work(order: OrderPlaced, tx: Transaction) -> None:
        tx.write("insert into seen values ($1, $2)", order.order_id, order.customer)

    app = App(service)
    with app.sync.open(settings=files(tmp_path)):
        with app.sync.transaction(service) as tx:
            assert tx.execute("create table seen (id text, customer text)") == 0
            tx.flush()
        with app.sync.transaction("shop") as tx:
            tx.write("insert into seen values ($1, $2)", "by hand", "x")
            tx.publish(order("1"))
            assert tx.fetch_value("select count(*) from seen") == 1
            assert tx.fetch_one("select id from seen") == ("by hand",)
            assert tx.fetch_all("select customer from seen") == [("x",)]
        with pytest.raises(KeyError), app.sync.transaction(service) as tx:
            tx.write("insert into seen values ('lost', 'x')")
            tx.publish(order("lost"))
            raise KeyError
        app.sync.publish(order("1", "d"), order("2"))
        with pytest.raises(TransactionError, match="open already"), app.sync.open():
            raise AssertionError("opened")
        with app.sync.transaction(service), pytest.raises(TransactionError, match="before its commit"):
            app.sync.publish(order("early"))
        with pytest.raises(TransactionError, match="another event loop"):
            asyncio.run(app.publish(PaymentTaken(order_id="1")))
        with pytest.raises(TransactionError, match="another event loop"):
            asyncio.run(app.read(service, "select * from seen"))
    with pytest.raises(TransactionError, match="not open"):
        app.sync.publish(order("3"))

    async def handle() -> list[tuple[str, str]]:
        async with app.running(handle=None, settings=files(tmp_path)) as running:
            deadline = time.monotonic() + 20
            while not await running.idle():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
            return await running.stores["shop"].read("select * from seen")

    rows = asyncio.run(handle())
    assert sorted(rows) == [("1", "c"), ("1", "d"), ("2", "c"), ("by hand", "x")]
    assert [customer for id_, customer in rows if id_ == "1"] == ["c", "d"]  # the transaction came first


@pytest.mark.parametrize(
    ("later", "match"),
    [({"after": timedelta(hours=1)}, r"after=datetime.timedelta"), ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "at="),
     ({"after": "5"}, "after='5'")],
)  # fmt: skip
def test_a_delay_is_a_number_and_a_moment_a_unix_time(later: Any, match: str) -> None:
    async def test() -> None:
        app = App(Service("shop"), events=[OrderPlaced])
        async with testing.world(app) as w:
            with pytest.raises(TransactionError, match=rf"(?s){match}.*total_seconds"):
                await app.publish(order("1"), **later)
            assert w.published(OrderPlaced) == []
            await app.publish(order("2"), after=-5)
            await w.settle()
            assert w.published(OrderPlaced) == [order("2")]  # it is due already

    asyncio.run(test())


def test_threads_beside_an_open_app_use_it_and_its_own_loop_is_not_blocked(tmp_path: Path) -> None:
    service = Service("shop")
    app = App(service, events=[OrderPlaced])

    def endpoint() -> int:
        with app.sync.transaction(service) as tx:
            tx.publish(order("1"))
            with pytest.raises(TransactionError, match="before its commit"):
                app.sync.publish(order("early"))
            tx.execute("create table seen (id text)")
        app.sync.publish(order("2"))
        with app.sync.transaction(service) as tx:
            return int(tx.fetch_value("select count(*) from seen"))

    async def test() -> None:
        async with app.open(settings=files(tmp_path)):
            assert await asyncio.to_thread(endpoint) == 0
            with pytest.raises(TransactionError, match="the event loop that it stands in"):
                app.sync.publish(order("3"))
            with (
                pytest.raises(TransactionError, match="the event loop that it stands in"),
                app.sync.transaction("shop"),
            ):
                raise AssertionError("begun")
        with pytest.raises(TransactionError, match="not open"):
            app.sync.publish(order("4"))

    asyncio.run(test())


@pytest.mark.parametrize("driver", ["apsw", "sqlite3"])
def test_a_connection_of_the_teams_own_is_joined_and_never_committed(tmp_path: Path, driver: str) -> None:
    async def test() -> None:
        service = Service("shop")
        app = App(service)
        settings = files(tmp_path, f"?driver={driver}")
        async with app.running(handle=None, settings=settings) as running:
            async with app.transaction(service) as tx:
                await tx.execute("create table seen (id text)")
            if driver == "apsw":
                connection: apsw.Connection | sqlite3.Connection = apsw.Connection(str(tmp_path / "shop.db"))
                connection.set_busy_timeout(2000)
            else:
                connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
            store = running.stores["shop"]

            connection.execute("begin immediate")
            connection.execute("insert into seen values ('mine')")
            async with app.transaction(service, on=connection) as tx:
                tx.write("insert into seen values ($1)", "ours")
                tx.publish(order("1"))
                assert await tx.fetch_value("select count(*) from seen") == 2
            assert connection.in_transaction if driver == "sqlite3" else not connection.getautocommit()
            assert await store.read("select count(*) from evenflow_outbox") == [(0,)]
            connection.execute("commit")
            bounds = await drained(running, "orders")
            assert bounds == 1 and len(await store.read("select * from seen")) == 2

            connection.execute("begin immediate")
            async with app.transaction(service, on=connection) as tx:
                tx.publish(order("2"))
            connection.execute("rollback")
            with pytest.raises(KeyError):
                connection.execute("begin immediate")
                async with app.transaction(service, on=connection) as tx:
                    tx.publish(order("3"))
                    raise KeyError
            assert connection.in_transaction if driver == "sqlite3" else not connection.getautocommit()
            connection.execute("rollback")
            assert await drained(running, "orders") == 1
            with pytest.raises(TransactionError, match="not in a transaction"):
                async with app.transaction(service, on=connection):
                    raise AssertionError("joined")
            connection.close()

    async def drained(running: object, topic: str) -> int:
        deadline = time.monotonic() + 10
        store = running.stores["shop"]  # type: ignore[attr-defined]
        while await store.read("select 1 from evenflow_outbox"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        engine = await running.ready(topic)  # type: ignore[attr-defined]
        log = await engine.log(topic)
        return sum([(await engine.bounds(p)).high for p in log.partitions(1)])

    run(test)


def test_the_wrong_kind_of_connection_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async def test() -> None:
        service = Service("shop")
        app = App(service)
        async with app.running(settings=files(tmp_path)):
            connection = sqlite3.connect(":memory:")
            with pytest.raises(TransactionError, match=r"\?driver=sqlite3"):
                async with app.transaction(service, on=connection):
                    raise AssertionError("joined")
            connection.close()
            with pytest.raises(TransactionError, match="a dict cannot be joined"):
                async with app.transaction(service, on={}):
                    raise AssertionError("joined")

    run(test)


def test_engine_in_memory_and_store_in_a_file_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Settings.load(
            {"engine": "memory:", "store": f"sqlite:///{tmp_path}/{{service}}.db"}, env={}, cwd=tmp_path
        )
        with pytest.raises(Refused, match="outlives this process"):
            async with App(Service("shop")).running(settings=settings):
                raise AssertionError("opened")

    run(test)
