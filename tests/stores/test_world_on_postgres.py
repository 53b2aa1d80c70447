"""Virtual time with the stores on a server: what a team tests whose SQL is PostgreSQL's own."""

import asyncio

import pytest

from evenflow import App, Event, Policy, Service, Topic, Transaction, testing
from evenflow.clock import DAY, HOUR

ORDERS = Topic("orders", partitions=2)


class Order(Event, type="order", topic=ORDERS, key="key"):
    key: str
    tags: tuple[str, ...] = ()


class Reminded(Event, type="reminded", topic=ORDERS, key="key"):
    key: str


def test_days_pass_while_sql_is_of_the_server(postgres_url: str) -> None:
    shop = Service("shop", policy=Policy(attempts=3, first_delay=HOUR, max_delay=2 * HOUR))
    failures = iter([True, True])

    @shop.on(Order, group="keep")
    async def keep(order: Order, tx: Transaction) -> None:
        if order.key == "bad" and next(failures, False):
            raise ValueError("not yet")
        await tx.execute("insert into orders values ($1, $2)", order.key, list(order.tags))
        tx.publish(Reminded(key=order.key), after=3 * DAY, name=f"remind {order.key}")

    @shop.on(Reminded, group="remind", concurrency=4)
    async def remind(reminded: Reminded, tx: Transaction) -> None:
        tx.write("update orders set tags = tags || '[\"late\"]'::jsonb where key = $1", reminded.key)

    async def main() -> None:
        app = App(shop, events=[Order, Reminded])
        async with testing.world(app, settings={"store": postgres_url}) as world:
            async with world.transaction(shop) as tx:
                await tx.execute("create table orders (key text primary key, tags jsonb)")
            await world.publish(Order(key="good", tags=("new",)), Order(key="bad"))
            assert await world.rows(shop, "select key, tags from orders") == [("good", ["new"])]
            (waiting,) = await world.parked()
            assert waiting.due is not None
            await world.advance(DAY)
            assert await world.rows(shop, "select key from orders order by key") == [("bad",), ("good",)]
            assert world.published(Reminded) == []
            await world.advance(3 * DAY)
            assert sorted(each.key for each in world.published(Reminded)) == ["bad", "good"]
            assert await world.rows(shop, "select count(*) from orders where tags ? 'late'") == [(2,)]

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_a_failing_event_is_not_taken_for_a_handler_that_waits(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a savepoint for each event, it is the pass that waits for the server, not the handler."""
    shop = Service("shop", policy=Policy(attempts=1))

    @shop.on(Order, group="keep")
    async def keep(order: Order, tx: Transaction) -> None:
        tx.write("insert into orders values ($1)", order.key)

    async def main() -> None:
        app = App(shop, events=[Order])
        async with testing.world(app, settings={"store": postgres_url}) as world:
            async with world.transaction(shop) as tx:
                await tx.execute("create table orders (key text primary key)")
            await world.publish(Order(key="a"), Order(key="b"), Order(key="a"), Order(key="c"))
            assert await world.rows(shop, "select key from orders order by key") == [("a",), ("b",), ("c",)]

    asyncio.run(asyncio.wait_for(main(), 30.0))
    assert "waits for something other" not in caplog.text


def test_who_waits_for_the_transaction_of_a_handler_that_sleeps_holds_up_no_time(postgres_url: str) -> None:
    """It waits in the server, but not for it."""
    shop, slept = Service("shop", policy=Policy(timeout=DAY)), list[str]()
    worlds: list[testing.World] = []

    @shop.on(Order, group="sleeps")
    async def sleeps(order: Order, tx: Transaction) -> None:
        await tx.execute("update shelf set count = count + 1")
        await worlds[0].clock.sleep(120.0)
        slept.append(order.key)

    @shop.on(Order, group="waits")
    async def waits(_order: Order, tx: Transaction) -> None:
        await tx.execute("update shelf set count = count + 10")

    async def main() -> None:
        app = App(shop, events=[Order])
        async with testing.world(app, settings={"store": postgres_url}, patience=0.0) as world:
            worlds.append(world)
            async with world.app.transaction(shop) as tx:
                await tx.execute("create table shelf (count bigint)")
                await tx.execute("insert into shelf values (0)")
            await world.app.publish(Order(key="one"))
            for _ in range(140):
                await world.advance(1.0)
            assert slept == ["one"]
            await world.advance(1.0)
            assert await world.rows(shop, "select count from shelf") == [(11,)]

    asyncio.run(asyncio.wait_for(main(), 30.0))
