"""Logs and stores that do not belong together, and a database that takes no writes: said, and nothing lost."""

import asyncio
import shutil
import time
from contextlib import contextmanager

import msgspec
import psycopg
import pytest

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.clock import SystemClock
from evenflow.errors import EvenflowError, PublishError, Refused, StoreUnavailable
from evenflow.operate.status import groups
from evenflow.places import make_engine
from evenflow.settings import Settings
from evenflow.testing.engine_kit import event, store
from tests import servers

SOON = 30.0


class Noted(Event, type="noted", topic=Topic("notes", partitions=2), key="key"):
    key: str
    number: int


def noting():
    shop, seen = Service("shop"), []

    @shop.on(Noted, group="note", start="beginning")
    async def note(noted: Noted, tx: Transaction) -> None:
        seen.append(noted.number)

    return App(shop, events=[Noted]), shop, seen


@contextmanager
def place(kind):
    """Settings of an engine of this kind; nobody has used it."""
    if kind == "postgres":
        with servers.database() as url:
            yield {"engine": url}
    else:
        with servers.topics() as at:
            yield {"engine": at.url, "topic_prefix": at.prefix, "group_prefix": at.prefix}


def another(number):
    return msgspec.structs.replace(event(number, "k"), type="noted", data=b'{"key":"k","number":%d}' % number)


def at(given, folder):
    folder.mkdir(exist_ok=True)
    return Settings.load({**given, "folder": str(folder)}, env={})


async def until(true, seconds=SOON):
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


async def handled(settings, numbers):
    app, shop, seen = noting()
    async with app.open(settings=settings, handle=True):
        async with app.transaction(shop) as tx:
            for number in numbers:
                tx.publish(Noted(key="k", number=number))
        await until(lambda: seen == list(numbers))


async def refused(settings):
    with pytest.raises(Refused) as found:
        async with noting()[0].open(settings=settings, handle=True):
            pass
    assert "evenflow store adopt shop" in found.value.remedy
    return found.value.message


@pytest.mark.parametrize("kind", ["kafka", "postgres"])
def test_two_stores_under_one_group_and_one_that_was_restored_are_refused(kind, tmp_path):
    async def main(given):
        first = at(given, tmp_path / "first")
        await handled(first, [1, 2])
        assert "is not the one that" in await refused(at(given, tmp_path / "second"))
        shutil.copytree(tmp_path / "first", tmp_path / "backup")
        await handled(first, [3, 4])
        assert "restored from a backup" in await refused(at(given, tmp_path / "backup"))
        await handled(first, [5])

    with place(kind) as given:
        asyncio.run(main(given))


@pytest.mark.parametrize("kind", ["kafka", "postgres"])
def test_a_topic_that_is_dropped_and_made_anew_under_a_running_group_stops_it(kind, tmp_path):
    def drop(given):
        if kind == "postgres":
            with psycopg.connect(given["engine"], autocommit=True) as connection:
                connection.execute("drop schema evenflow_log cascade")
        else:
            servers.drop(servers.kafka().admin(), given["topic_prefix"] + "notes")

    async def main(given):
        settings = at(given, tmp_path / "store")
        app, shop, seen = noting()
        async with app.running(handle=["shop"], settings=settings) as running:
            await app.publish(Noted(key="k", number=1))
            await until(lambda: seen == [1])
            await asyncio.to_thread(drop, given)
            engine = make_engine(given["engine"], SystemClock())
            await engine.open()
            topic = given.get("topic_prefix", "") + "notes"
            await engine.declare(Topic(topic, partitions=2))
            await store(engine, topic, [another(n) for n in range(100, 150)])  # it is longer than the old one
            await engine.close()
            found, began = "", time.monotonic()
            while not found.startswith("stopped") and time.monotonic() - began < SOON:
                try:
                    (status,) = await groups(running)
                    found = f"{status.state} {status.reason}"
                except EvenflowError:
                    pass
                await asyncio.sleep(0.1)
            assert found.startswith("stopped") and "seek" in found, found

    with place(kind) as given:
        asyncio.run(main(given))


def test_a_database_that_becomes_read_only_is_waited_for(postgres_url, tmp_path):
    def read_only(on):
        name = postgres_url.rpartition("/")[2]
        with psycopg.connect(servers.postgres().url(), autocommit=True) as admin:
            admin.execute(f"alter database {name} set default_transaction_read_only = {'on' if on else 'off'}")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))

    async def main():
        settings = at({"engine": postgres_url, "store": postgres_url}, tmp_path / "folder")
        app, shop, seen = noting()
        async with app.open(settings=settings, handle=True):
            await app.publish(Noted(key="k", number=1))
            await until(lambda: seen == [1])
            await asyncio.to_thread(read_only, on=True)
            said = ""
            while "read-only" not in said:  # the first answers are of connections that were ended
                with pytest.raises(StoreUnavailable) as found:
                    async with app.transaction(shop) as tx:
                        tx.publish(Noted(key="k", number=2))
                said = found.value.message
            with pytest.raises(PublishError, match="read-only"):
                await app.publish(Noted(key="k", number=2))
            await asyncio.to_thread(read_only, on=False)
            async with asyncio.timeout(SOON):
                while True:
                    try:
                        async with app.transaction(shop) as tx:
                            tx.publish(Noted(key="k", number=3))
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(0.1)
            await until(lambda: seen == [1, 3])

    asyncio.run(main())
