"""The store on PostgreSQL while its server is killed, frozen, cut off; and what it does not take for anybody's fault."""

import asyncio
import time
from contextlib import asynccontextmanager

import psycopg
import pytest

from evenflow.drivers.postgres import silence as postgres_silence
from evenflow.clock import SystemClock
from evenflow.errors import StoreUnavailable
from evenflow.places import make_store
from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import PostgresPlace, conninfo_of
from evenflow.drivers.postgres.silence import Silence
from evenflow.stores.postgres import control as postgres_control
from services.private import private_postgres
from services.proxy import Proxy
from tests import servers

MADE = "create table if not exists made (id bigint primary key, word text)"
ADD = "insert into made values ($1, $2)"
PATIENCE = 30.0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(postgres_silence, "SILENT", 0.5)
    monkeypatch.setattr(postgres_silence, "EVERY", 0.2)
    monkeypatch.setattr(postgres_silence, "PATIENCE", 1.0)
    monkeypatch.setattr(postgres_control, "PATIENCE", 1.0)


@asynccontextmanager
async def opened(url):
    store = make_store(url, "shop", SystemClock())
    await store.open()
    try:
        await add(store, None)
        yield store
    finally:
        await store.close()


async def add(store, number):
    async def work(session):
        if number is None:
            await session.execute(MADE)
        else:
            await session.execute(ADD, (number, "w"))

    await store.transact(work)


async def again(work, what):
    """Do this until the store is there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await work()
        except StoreUnavailable as error:
            assert time.monotonic() < deadline, f"{what}: {error}"
            await asyncio.sleep(0.02)


async def numbers(store):
    return [row[0] for row in await again(lambda: store.read("select id from made order by id"), "reading")]


def proxied(url, proxy):
    head, _, tail = url.rpartition("@")
    return f"{head}@127.0.0.1:{proxy.address.rpartition(':')[2]}/{tail.partition('/')[2]}"


@pytest.mark.parametrize("way", ["kill", "freeze"])
def test_a_server_that_is_killed_or_frozen_is_waited_for_and_found_again(way, impatient):
    servers.need("postgres")

    async def main(server):
        async with opened(server.url()) as store:
            await add(store, 1)
            session = store.session()
            await session.begin()
            await session.execute(ADD, (2, "lost"))
            await asyncio.to_thread(getattr(server, way))
            with pytest.raises(StoreUnavailable):
                async with asyncio.timeout(PATIENCE):
                    await session.commit()
            await session.rollback()
            with pytest.raises(StoreUnavailable):
                async with asyncio.timeout(PATIENCE):
                    await add(store, 3)
            await asyncio.to_thread(server.start if way == "kill" else server.thaw)
            await again(lambda: add(store, 4), "after the server was well")
            found = await numbers(store)
            assert {1, 4} <= set(found), found
            assert set(found) <= {1, 2, 3, 4}

    with private_postgres() as server:
        asyncio.run(main(server))


def test_an_answer_that_is_lost_on_the_way_is_noticed(postgres_url, impatient):
    with Proxy(servers.postgres().port) as proxy:

        async def main():
            async with opened(proxied(postgres_url, proxy)) as store:
                session = store.session()
                await session.begin()
                await session.execute(ADD, (1, "w"))
                proxy.swallow(down=True, up=False)
                with pytest.raises(StoreUnavailable, match="may have been done or not"):
                    async with asyncio.timeout(PATIENCE):
                        await session.commit()
                proxy.heal()
                await again(lambda: add(store, 2), "after the network was well")
                assert await numbers(store) == [1, 2]

        asyncio.run(main())


def test_the_answer_to_last_statements_that_is_lost_says_that_they_may_be_committed(postgres_url, impatient):
    with Proxy(servers.postgres().port) as proxy:

        async def main():
            async with opened(proxied(postgres_url, proxy)) as store:
                guard = ("select 1 from made where id = $1 for update", (1,))
                for number in (1, 2):
                    await store.transact(lambda session, n=number: session.run([(ADD, (n, "w"))], last=True))
                proxy.swallow(down=True, up=False)
                with pytest.raises(StoreUnavailable, match="may have been done or not"):
                    async with asyncio.timeout(PATIENCE):
                        await store.transact(lambda session: session.run([(ADD, (3, "w"))], [guard], last=True))
                proxy.heal()
                await again(lambda: add(store, 4), "after the network was well")
                assert await numbers(store) in ([1, 2, 4], [1, 2, 3, 4])

        asyncio.run(main())


def test_one_connection_that_is_cut_without_a_word_is_given_up(postgres_url, impatient):
    with Proxy(servers.postgres().port) as proxy:

        async def main():
            async with opened(proxied(postgres_url, proxy)) as store:
                await add(store, 1)
                proxy.forget()
                async with asyncio.timeout(PATIENCE):
                    await again(lambda: add(store, 2), "after the connection was lost")
                assert await numbers(store) == [1, 2]

        asyncio.run(main())


def test_one_connection_to_a_pooler_that_is_cut_without_a_word_is_given_up(postgres_url, impatient):
    """Behind it nobody knows which session of the server is whose."""
    with Proxy(servers.pgbouncer().port) as proxy:

        async def main():
            async with opened(proxied(postgres_url, proxy)) as store:
                await add(store, 1)
                await add(store, 2)
                proxy.forget()
                began = time.monotonic()
                await again(lambda: add(store, 3), "after the connection was lost")
                assert await numbers(store) == [1, 2, 3]
                assert time.monotonic() - began < 15.0
                slow = store.read("select pg_sleep(3)")  # what the server works on is left alone
                await slow

        asyncio.run(main())


class Owed:
    """A connection that waits for an answer."""

    pid, since = 1, 1.0

    def __init__(self):
        self.failed = asyncio.get_running_loop().create_future()

    def fail(self, reason):
        self.failed.set_result(reason)
        self.since = 0.0


@asynccontextmanager
async def asked(place):
    """A connection whose server is asked there why it does not answer, until that was done."""
    owed = Owed()
    silence = Silence(lambda: [owed], place, "the store", pooled=False)
    try:
        yield owed
    finally:
        await silence.close()


def test_a_server_that_takes_no_connections_has_given_up_the_old_ones(impatient):
    with Proxy(1) as proxy:
        proxy.cut()

        async def main():
            async with asked(PostgresPlace({"host": "127.0.0.1", "port": proxy.port})) as owed:
                async with asyncio.timeout(PATIENCE):
                    assert "refused" in await owed.failed

        asyncio.run(main())


def test_a_server_that_refuses_to_say_why_is_there_and_waited_for(impatient, caplog):
    where = conninfo_of(servers.postgres().url("nobody_made_this"), "")

    async def main():
        async with asked(PostgresPlace(where)) as owed:
            async with asyncio.timeout(PATIENCE):
                while "could not be asked" not in caplog.text:
                    await asyncio.sleep(0.02)
            assert not owed.failed.done()

    asyncio.run(main())


def test_who_holds_a_lock_is_named(postgres_url, impatient):
    async def main():
        async with opened(postgres_url + "?wait=2") as store:
            await add(store, 1)
            holder = store.session()
            await holder.begin()
            await holder.execute("update made set word = 'held'")
            with pytest.raises(StoreUnavailable, match=r"lock timeout(.|\n)*held by pid \d+ \(evenflow shop"):
                await store.transact(lambda session: session.execute("update made set word = 'wanted'"))
            await holder.rollback()

    asyncio.run(main())


def test_a_deadlock_is_nobodys_fault(postgres_url):
    async def main():
        async with opened(postgres_url) as store:
            await add(store, 1)
            await add(store, 2)
            tries = []

            async def crossing(first, second, met):
                async def work(session):
                    tries.append(first)
                    sql = "update made set word = word || $1 where id = $2"
                    await session.execute(sql, (str(first), first))
                    met[first].set()
                    await met[second].wait()
                    await session.execute(sql, (str(first), second))

                await store.transact(work)

            met = {1: asyncio.Event(), 2: asyncio.Event()}
            # on two connections: the second is asked for when the first has begun
            one = asyncio.ensure_future(crossing(1, 2, met))
            await met[1].wait()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(one, crossing(2, 1, met))
            assert len(tries) >= 3, "one of them was undone, and run again"
            words = await store.read("select word from made order by id")
            assert sorted(words[0][0] + words[1][0]) == sorted("w" + "12" + "w" + "12")

    asyncio.run(main())


def test_a_unit_that_waits_for_a_lock_holds_up_no_others(postgres_url):
    async def main():
        async with opened(postgres_url) as store:
            await add(store, 1)
            holder = store.session()
            await holder.begin()
            await holder.execute("update made set word = 'held'")
            waiting = asyncio.ensure_future(
                store.transact(lambda session: session.execute("update made set word = word || 'then' where id = 1"))
            )
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(add(store, number) for number in range(2, 40)))
            assert not waiting.done()
            await holder.commit()
            assert await waiting == 1
            assert await store.read("select word from made where id = 1") == [("heldthen",)]

    asyncio.run(main())


class Refusing:
    """The library's connection, which knows before us that it is lost, and refuses what is sent next."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def refuse(self, *_):
        raise psycopg.OperationalError("connection not in pipeline mode")

    pipeline_sync = exit_pipeline_mode = refuse


@pytest.mark.parametrize("send", [lambda link: link.run([("select 1", ())]), lambda link: link.script("select 1")])
def test_what_the_library_has_noticed_before_us_is_a_lost_connection_too(postgres_url, send):
    async def main():
        link = await Link.connect(PostgresPlace(conninfo_of(postgres_url, "")))
        link._pg = Refusing(link._pg)
        with pytest.raises(PostgresError) as caught:
            await send(link)
        assert caught.value.lost
        assert link.dead

    asyncio.run(main())
