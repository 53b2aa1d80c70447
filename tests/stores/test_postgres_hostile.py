"""What strangers, handlers, operators and crashes do to a store on PostgreSQL, and must not break."""

import asyncio
import json
import random
import uuid
from itertools import chain

import psycopg
import pytest

from evenflow import App, Event, Policy, Service, Topic, Transaction, testing
from evenflow.clock import DAY, HOUR
from evenflow.engine import Outcome
from evenflow.errors import EvenflowError, StatementFailed
from evenflow.event import KEY_LIMIT
from evenflow.testing import store_keeping, store_sharing, store_suite
from evenflow.testing.engine_kit import events
from evenflow.testing.suite import NotApplicable
from evenflow.topic import Topic as Declared
from services.private import private_postgres
from tests import servers
from tests.engines.postgres_log import Log
from tests.stores.test_postgres import factory_of

ORDERS = Topic("orders", partitions=1)
POLICY = Policy(attempts=3, first_delay=HOUR, max_delay=2 * HOUR)


class Order(Event, type="order", topic=ORDERS, key="key"):
    key: str
    n: int = 0


class Done(Event, type="done", topic=ORDERS, key="key"):
    key: str


def long_text(seed, count=4000):
    """Text that no compression makes fit into an index."""
    return "".join(random.Random(seed).choices([chr(code) for code in range(0x4E00, 0x9000)], k=count))


async def stranger(world, key, n, *, id_, source="s"):
    headers = {"ce_specversion": "1.0", "ce_id": id_, "ce_source": source, "ce_type": "order"}
    await world.receive(ORDERS, json.dumps({"key": key, "n": n}).encode(), key=key.encode(), headers=headers)


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("what", ["key", "id", "source"])
def test_what_no_index_can_hold_stops_no_partition(what, waiting, postgres_url):
    shop, seen, fails = Service("shop", policy=POLICY), [], iter([True])
    long = long_text(0) if what == "key" else "a"

    def work(order):
        if order.key == long and next(fails, False):
            raise ValueError("not yet, \x00")
        seen.append((order.key, order.n))

    if waiting:

        @shop.on(Order, group="keep", concurrency=4)
        async def wait(order: Order) -> None:
            work(order)
    else:

        @shop.on(Order, group="keep")
        async def keep(order: Order, tx: Transaction) -> None:
            work(order)

    async def main():
        async with testing.world(App(shop, events=[Order]), settings={"store": postgres_url}) as world:
            for n, key in enumerate([long, "good", long, "good"]):
                id_ = long_text(n) if what == "id" else f"id {n}"
                source = long_text(n) if what == "source" else "s"
                for _ in range(2):  # and it is known again
                    await stranger(world, key, n, id_=id_, source=source)
            assert [n for key, n in seen if key == "good"] == [1, 3]
            parked = await world.parked()
            assert len(parked) == 2
            assert all(len(each.lane.encode()) <= KEY_LIMIT + 1 for each in parked)
            await world.advance(DAY)
            assert [n for key, n in seen if key == long] == [0, 2]

    asyncio.run(asyncio.wait_for(main(), 30.0))


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
@pytest.mark.parametrize("text", ["no \x00", "no \ud800"])
def test_a_group_stops_visibly_whatever_the_reason_holds(store, text, postgres_url):
    shop = Service("shop", policy=Policy(stop=(KeyError,)))

    class Odd:
        def __repr__(self):
            return text

    @shop.on(Order, group="keep")
    async def keep(order: Order, tx: Transaction) -> None:
        raise KeyError("x", Odd())

    async def main():
        given = {"store": postgres_url} if store == "postgres" else {}
        async with testing.world(App(shop, events=[Order]), settings=given) as world:
            await world.publish(Order(key="a"))
            assert await world.rows(shop, "select state from evenflow_group") == [("stopped",)]

    asyncio.run(asyncio.wait_for(main(), 30.0))


@pytest.mark.parametrize("path", ["tenant", "billing"])
def test_a_search_path_of_the_handlers_own_leads_our_statements_nowhere_else(path, postgres_url):
    """A schema per tenant; in one of them stand the tables of another service."""
    shop, billing, done = Service("shop", policy=POLICY), Service("billing"), []

    @billing.on(Done, group="x")
    async def other(event: Done, tx: Transaction) -> None:
        done.append(event.key)

    @shop.on(Order, group="keep")
    async def keep(order: Order, tx: Transaction) -> None:
        await tx.execute(f"set local search_path = {path}, public")
        await tx.execute("insert into orders values ($1)", order.key)
        tx.publish(Done(key=order.key))

    async def main():
        async with testing.world(App(shop, billing, events=[Order, Done]), settings={"store": postgres_url}) as world:
            async with world.transaction(shop) as tx:
                await tx.execute("create schema if not exists tenant")
                await tx.execute("create table public.orders (key text)")
            await world.publish(Order(key="a"))
            await world.publish(Order(key="b"))
            assert await world.rows(shop, "select key from public.orders order by key") == [("a",), ("b",)]
            assert await world.parked() == []
            assert sorted(done) == ["a", "b"]

    asyncio.run(asyncio.wait_for(main(), 30.0))


@pytest.mark.parametrize("keys", [["a", "bad", "c"], ["a", "c", "bad"]])
def test_a_handler_that_swallows_a_failed_statement_fails_alone(keys, postgres_url, caplog):
    """PostgreSQL takes no more statements of that transaction: nothing of its neighbours may suffer."""
    shop = Service("shop", policy=Policy(attempts=2, first_delay=HOUR, max_delay=2 * HOUR))

    @shop.on(Order, group="keep")
    async def keep(order: Order, tx: Transaction) -> None:
        await tx.execute("insert into orders values ($1)", order.key)
        if order.key == "bad":
            try:
                await tx.execute("insert into orders values ($1)", order.key)
            except StatementFailed:
                pass

    async def main():
        async with testing.world(App(shop, events=[Order]), settings={"store": postgres_url}) as world:
            async with world.transaction(shop) as tx:
                await tx.execute("create table orders (key text primary key)")
            await world.publish(*[Order(key=key) for key in keys])
            assert [each.key for each in await world.parked()] == ["bad"]
            await world.advance(DAY)
            assert [each.key for each in await world.parked() if each.dead] == ["bad"]
            assert await world.rows(shop, "select key from orders order by key") == [("a",), ("c",)]

    asyncio.run(asyncio.wait_for(main(), 30.0))
    assert "unexpected" not in caplog.text


def test_after_a_crash_of_the_server_others_are_notified_again():
    """The table of the notices is unlogged: a crash empties it."""

    async def told(one, two):
        two.changed.clear()
        waiter = two.changed.waiter()

        async def work(session):
            await session.execute(two.sql["audit_add"], (1.0, "w", "w", "s", ""))

        await one.transact(work)
        await asyncio.wait_for(waiter, 10.0)

    async def main(server):
        shop = factory_of(server.url(), schema="shop")
        async with shop() as one, shop() as two:
            await told(one, two)
            server.kill()
            server.start()
            async with asyncio.timeout(30.0):
                for store in (one, two):
                    while True:
                        try:
                            await store.processes()
                            await store.transact(lambda session: session.fetch("select 1"))
                            break
                        except Exception:
                            await asyncio.sleep(0.05)
            before = await one.read("select max(number) from evenflow_change")
            await told(one, two)
            await told(one, two)
            assert await one.read("select max(number) from evenflow_change") != before

    with private_postgres() as server:
        asyncio.run(asyncio.wait_for(main(server), 90.0))


SETTINGS = {
    "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off", "bytea_output": "escape", "datestyle": "SQL, DMY", "client_encoding": "LATIN1",
    "timezone": "Asia/Kolkata", "extra_float_digits": "-15", "intervalstyle": "sql_standard",
    "plan_cache_mode": "force_generic_plan", "search_path": "pg_catalog", "array_nulls": "off",
    "transform_null_equals": "on", "check_function_bodies": "off", "row_security": "off", "enable_seqscan": "off",
}  # fmt: skip
BARE = ("search_path", "datestyle")


@pytest.fixture(scope="module")
def odd():
    """A database whose administrator has set everything otherwise."""
    with servers.database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            for name, value in SETTINGS.items():
                given = value if name in BARE else f"'{value}'"
                connection.execute(f"alter database {connection.info.dbname} set {name} to {given}".encode())
        yield url


CHOSEN = [
    check
    for check in store_suite.checks()
    if check.__module__ in (store_sharing.__name__, store_keeping.__name__) or "value" in check.__name__
]


@pytest.mark.parametrize("check", CHOSEN, ids=lambda check: check.__name__)
def test_a_store_leaves_nothing_to_what_a_database_is_set_to(check, odd):
    try:
        asyncio.run(store_suite.run_check(check, factory_of(odd, schema=f"s_{uuid.uuid4().hex}")))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_a_log_takes_appends_whatever_a_database_begins_transactions_as(odd):
    async def main():
        log = Log(odd)
        async with log() as one, log() as two:
            for engine in (one, two):
                await engine.declare(Declared("t", partitions=4))
            engines = [one, two] * 10
            answers = await asyncio.gather(
                *[engine.append("t", events(range(10 * n, 10 * n + 10))) for n, engine in enumerate(engines)]
            )
            assert set(chain.from_iterable(answers)) == {Outcome.STORED}, one.trouble or two.trouble
            await one.seal("t", "elsewhere")
            assert set(await two.append("t", events([999]))) == {Outcome.REFUSED}
            assert "sealed" in two.trouble or "elsewhere" in two.trouble
            await two.declare(Declared("u", partitions=1))
            assert await two.append("u", events([1])) == [Outcome.STORED]

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_a_standby_that_lacks_the_last_commits_gives_no_number_out_twice():
    """Nothing of what is published after it became the primary is taken for a repeat of what it does not know."""
    shop, other, seen = Service("shop"), Service("other"), []

    @other.on(Order, group="keep")
    async def keep(order: Order, tx: Transaction) -> None:
        seen.append(order.n)

    async def main(server):
        async with testing.world(App(shop, other, events=[Order]), settings={"store": server.url()}) as world:

            async def publish(n):
                async with world.transaction(shop) as tx:
                    tx.publish(Order(key="a", n=n))

            await publish(1)
            await publish(2)
            server.stop()
            (server.data / "standby.signal").touch()
            server.start()
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute("select pg_promote()")
                connection.execute("update shop.evenflow_counter set number = number - 1")  # which it has not got
            async with asyncio.timeout(30.0):
                while True:
                    try:
                        async with world.transaction(shop) as tx:
                            await tx.fetch_value("select 1")
                        break
                    except EvenflowError:
                        await asyncio.sleep(0.05)
            await publish(3)
            await publish(4)
            assert seen == [1, 2, 3, 4]

    with private_postgres() as server:
        asyncio.run(asyncio.wait_for(main(server), 90.0))
