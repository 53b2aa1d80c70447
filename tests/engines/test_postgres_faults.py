"""PostgreSQL's log when its server, the network or a process fails: what the answers say, and that all goes on."""

import asyncio
import signal
from contextlib import contextmanager

import pytest

from evenflow.drivers.postgres import silence as postgres_silence
from evenflow.engine import Outcome
from evenflow.errors import EngineUnavailable
from evenflow.testing.engine_kit import SIZE, batches_of, beginning, event, events, numbers, reader, store, take
from evenflow.topic import Topic
from services.private import private_postgres
from services.proxy import Proxy
from tests import servers
from tests.engines.children import process, said
from tests.engines.postgres_log import Log, until_stored


@pytest.fixture(scope="module")
def server():
    """A server that may be killed."""
    servers.need("postgres")
    with private_postgres() as made:
        yield made


@pytest.fixture(scope="module")
def database():
    with servers.database() as url:
        yield url


async def came(consumer, seconds=30.0):
    """The numbers of the next events, however often the engine is not there meanwhile."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        assert asyncio.get_running_loop().time() < deadline, "nothing came"
        try:
            found = numbers(batches_of(await consumer.fetch(100, SIZE, 0.5)))
        except EngineUnavailable:
            await asyncio.sleep(0.02)
            continue
        if found:
            return found


def test_after_the_server_was_killed_everything_goes_on_by_itself(server):
    async def main():
        log = Log(server.url())
        async with log() as one, log() as two:
            made = await one.declare(Topic("t", partitions=1))
            await two.declare(Topic("t"))
            await store(one, "t", events([1]))
            consumer = await reader(two, beginning(made))
            assert numbers(await take(consumer, 1)) == [1]
            waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
            await asyncio.sleep(0)
            server.kill()
            answers = await one.append("t", events([2]))
            assert answers[0] in (Outcome.REFUSED, Outcome.UNKNOWN) and one.trouble
            async with asyncio.timeout(15):
                with pytest.raises(EngineUnavailable):
                    await waiting
            assert (await one.append("t", events([2]))) == [Outcome.REFUSED], "nothing can have been sent"
            server.start()
            await until_stored(one, "t", events([2]))
            assert one.trouble == ""
            assert await came(consumer) == [2]

    asyncio.run(main())


def test_a_frozen_server_is_unknown_and_goes_on_when_it_thaws(server):
    async def main():
        log = Log(server.url(), wait=1)
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=1))
            await store(engine, "t", events([1]))
            consumer = await reader(engine, beginning(made))
            await take(consumer, 1)
            server.freeze()
            try:
                assert (await engine.append("t", events([2]))) == [Outcome.UNKNOWN]
                assert "no answer" in engine.trouble
                assert (await engine.append("t", events([2]))) == [Outcome.REFUSED]
            finally:
                server.thaw()
            await until_stored(engine, "t", events([3]))
            got = await came(consumer)
            while 3 not in got:
                got += await came(consumer)
            assert got in ([3], [2, 3], [3, 2]), "what was unknown is there once or not at all"

    asyncio.run(main())


def proxied(url, port):
    """The same database behind the proxy."""
    head, _, tail = url.rpartition("@")
    return f"{head}@127.0.0.1:{port}/{tail.partition('/')[2]}"


@contextmanager
def behind(url, **options):
    port = int(url.rpartition("@")[2].partition("/")[0].partition(":")[2])
    with Proxy(port) as proxy:
        yield proxy, Log(proxied(url, proxy.port), **options)


def test_a_lost_answer_is_unknown_and_the_same_again_is_a_repeat(database):
    async def main():
        with behind(database, wait=1) as (proxy, log):
            async with log() as engine, Log(database, log.schema)() as direct:
                made = await engine.declare(Topic("t", partitions=1))
                await direct.declare(Topic("t"))
                await store(engine, "t", events([1]))
                proxy.swallow(up=False, down=True)
                assert (await engine.append("t", events([2]))) == [Outcome.UNKNOWN]
                proxy.heal()
                await until_stored(engine, "t", events([2]))
                got = numbers(await take(await reader(direct, beginning(made)), 3))
                assert got == [1, 2, 2], "it had been stored; the group drops the repeat by its number"

    asyncio.run(main())


def test_a_cut_connection_is_refused_and_made_anew(database):
    async def main():
        with behind(database, wait=2) as (proxy, log):
            async with log() as engine, Log(database, log.schema)() as direct:
                made = await engine.declare(Topic("t", partitions=1))
                await direct.declare(Topic("t"))
                await store(engine, "t", events([1]))
                consumer = await reader(engine, beginning(made))
                await take(consumer, 1)
                proxy.cut()
                await asyncio.sleep(0.05)
                assert (await engine.append("t", events([2]))) == [Outcome.REFUSED]
                with pytest.raises(EngineUnavailable):
                    await engine.log("t")
                await store(direct, "t", events([3]))
                proxy.heal()
                assert await came(consumer) == [3]
                await until_stored(engine, "t", events([4]))
                assert await came(consumer) == [4]

    asyncio.run(main())


def test_connections_that_are_forgotten_on_the_way_are_given_up_long_before_the_wait_is_over(database, monkeypatch):
    monkeypatch.setattr(postgres_silence, "SILENT", 0.4)
    monkeypatch.setattr(postgres_silence, "EVERY", 0.1)

    async def main():
        with behind(database, wait=600) as (proxy, log):
            async with log() as engine, Log(database, log.schema)() as direct:
                made = await engine.declare(Topic("t", partitions=1))
                await direct.declare(Topic("t"))
                consumer = await reader(engine, beginning(made))
                await store(engine, "t", events([1]))
                await take(consumer, 1)
                waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
                await heard(engine, True)
                proxy.forget()
                await store(direct, "t", events([2]))
                async with asyncio.timeout(60):
                    assert numbers(batches_of(await waiting)) == [2]
                    assert (await engine.append("t", events([3]))) == [Outcome.UNKNOWN]
                    await until_stored(engine, "t", events([3]))
                    assert await came(consumer) == [3]

    asyncio.run(main())


def test_a_statement_that_takes_long_is_left_alone(database, monkeypatch):
    monkeypatch.setattr(postgres_silence, "SILENT", 0.1)
    monkeypatch.setattr(postgres_silence, "EVERY", 0.05)

    async def main():
        log = Log(database)
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))
            await store(engine, "t", events([1]))
            with log.by_hand() as other:
                other.execute(f"lock table {log.schema}.partitions")
                appending = asyncio.ensure_future(engine.append("t", events([2])))
                asking = (
                    "select count(*) from pg_stat_activity where pg_blocking_pids(pid) <> '{}' and state = 'active'"
                )
                async with asyncio.timeout(15):
                    while not log.sql(asking)[0][0] or not engine._silence._asking:
                        await asyncio.sleep(0.02)
                    await asyncio.sleep(5 * postgres_silence.SILENT)
                assert not appending.done()
            assert await appending == [Outcome.STORED]

    asyncio.run(main())


def test_who_listens_no_more_polls_and_listens_again(database, monkeypatch):
    monkeypatch.setattr("evenflow.engines.postgres.watch.AGAIN", 0.1)

    async def main():
        with behind(database) as (proxy, log):
            async with log() as engine, Log(database, log.schema)() as direct:
                made = await engine.declare(Topic("t", partitions=1))
                await direct.declare(Topic("t"))
                consumer = await reader(engine, beginning(made))
                waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
                await heard(engine, True)
                assert [each for each in await direct.examine(deep=False) if each.about == "who listens"]
                log.sql(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name like '%%listening%%' and datname = current_database()"
                )
                await store(direct, "t", events([1]))
                async with asyncio.timeout(15):
                    assert numbers(batches_of(await waiting)) == [1]
                waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
                await heard(engine, True)
                await store(direct, "t", events([2]))
                async with asyncio.timeout(15):
                    assert numbers(batches_of(await waiting)) == [2]

    asyncio.run(main())


async def heard(engine, wanted):
    async with asyncio.timeout(15):
        while engine._watch.heard is not wanted:
            await asyncio.sleep(0.01)


def test_behind_a_pooler_polling_alone_works(database, monkeypatch):
    monkeypatch.setattr("evenflow.engines.postgres.watch.ECHO", 0.3)
    name = database.rpartition("/")[2].partition("?")[0]
    pooled = Log(servers.pgbouncer().url(name))

    async def main():
        async with pooled() as engine, Log(database, pooled.schema)() as direct:
            made = await engine.declare(Topic("t", partitions=4, retention=3600.0))
            await direct.declare(Topic("t"))
            consumer = await reader(engine, beginning(made))
            for number in range(8):
                await store(engine if number % 2 else direct, "t", [event(number, slot=number)])
            assert sorted(numbers(await take(consumer, 8))) == list(range(8))
            for number in range(8, 12):
                waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, None))
                await asyncio.sleep(0.01)
                await store(direct, "t", [event(number, slot=number)])
                async with asyncio.timeout(15):
                    assert numbers(batches_of(await waiting)) == [number]
            await engine.maintain()
            assert not [each for each in await engine.examine(deep=True) if each.level == "wrong"]

    asyncio.run(main())


def test_a_killed_writer_leaves_whole_batches_and_holds_up_nobody(database):
    async def main():
        log = Log(database)
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=4))
            stored = []
            with process("append", log.url, 0, 10_000, 20) as child:
                said(child, "ready")
                while len(stored) < 15:
                    stored.append(int(said(child, "stored")[1]))
                child.send_signal(signal.SIGKILL)
            async with asyncio.timeout(15):
                await store(engine, "t", [event(-1, slot=0)])
            ends = [await engine.bounds(part) for part in made.partitions(1)]
            count = sum(end.high - end.low for end in ends)
            got = numbers(await take(await reader(engine, beginning(made)), count))
            whole = [
                batch for batch in range(max(got) // 1000 + 1) if len([n for n in got if n // 1000 == batch]) == 20
            ]
            assert set(stored) <= set(whole), "what was acknowledged is there"
            assert count == 20 * len(whole) + 1, "a batch is there as a whole or not at all"

    asyncio.run(main())


def test_a_frozen_writer_holds_up_nobody(database):
    async def main():
        log = Log(database)
        async with log() as engine:
            await engine.declare(Topic("t", partitions=4))
            with process("append", log.url, 0, 100_000, 20) as child:
                said(child, "ready")
                for turn in range(5):
                    said(child, "stored")
                    child.send_signal(signal.SIGSTOP)
                    async with asyncio.timeout(15):
                        await store(engine, "t", [event(turn, slot=n) for n in range(4)])
                    child.send_signal(signal.SIGCONT)

    asyncio.run(main())
