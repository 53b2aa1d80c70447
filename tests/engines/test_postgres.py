"""PostgreSQL's log: the promise of every engine, the order of offsets, retention, and what others have with it."""

import asyncio
import subprocess
import sys
import time

import psycopg
import pytest

from evenflow.checkup import Finding
from evenflow.clock import SystemClock
from evenflow.engine import Bounds, Outcome
from evenflow.engines.postgres.upkeep import Upkeep
from evenflow.errors import EngineUnavailable, GroupStopped, MissingExtra, Refused, SettingsError
from evenflow.places import make_engine
from evenflow.testing import engine_suite
from evenflow.testing.engine_kit import SIZE, batches_of, beginning, event, events, numbers, reader, store, take, until
from evenflow.testing.suite import NotApplicable
from evenflow.topic import Topic
from tests import servers
from tests.engines.postgres_log import Log, blocked


@pytest.fixture(scope="module")
def database():
    with servers.database() as url:
        yield url


@pytest.fixture
def log(database):
    made = Log(database)
    yield made
    made.sql(f"drop schema if exists {made.schema} cascade")


@pytest.fixture(scope="module")
def suite_log(database):
    return Log(database, "suite")


@pytest.mark.parametrize("check", engine_suite.checks(), ids=lambda check: check.__name__)
def test_promise(check, suite_log):
    try:
        asyncio.run(engine_suite.run_check(check, suite_log))
    except NotApplicable as reason:
        pytest.skip(str(reason))


# Offsets rise in commit order (premortem 29): the interleavings that make other logs skip events.


def test_a_slower_transaction_does_not_get_a_lower_offset_than_one_that_was_read(log):
    async def main():
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=1))
            state = engine._tables.known("t")
            consumer = await reader(engine, beginning(made))
            with log.by_hand() as slow:
                slow.execute("select pg_current_xact_id()")  # it has the lower transaction id …
                await store(engine, "t", events([1]))
                assert numbers(await take(consumer, 1)) == [1]
                log.append(slow, state, [2])  # … and appends and commits later
                faster = await blocked(engine, engine.append("t", events([3])))
                assert not batches_of(await consumer.fetch(10, SIZE, 0.05)), "what is not committed was read"
                slow.commit()
                assert (await faster)[0] is Outcome.STORED
            assert numbers(await take(consumer, 2)) == [2, 3]

    asyncio.run(main())


def test_a_transaction_that_is_rolled_back_leaves_no_gap_and_nobody_waiting(log):
    async def main():
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=1))
            (part,) = made.partitions(1)
            with log.by_hand() as other:
                log.append(other, engine._tables.known("t"), [1, 2])
                waiting = await blocked(engine, engine.append("t", events([3])))
                other.rollback()
                assert (await waiting)[0] is Outcome.STORED
            assert await engine.bounds(part) == Bounds(0, 1)
            assert numbers(await take(await reader(engine, beginning(made)), 1)) == [3]

    asyncio.run(main())


def test_a_long_transaction_elsewhere_holds_up_neither_appends_nor_readers_and_is_told(log):
    async def main():
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=2))
            with log.by_hand() as long:
                long.execute("create temporary table x (y int)")
                long.execute(f"select count(*) from {log.schema}.topics")
                for number in range(20):
                    await store(engine, "t", [event(number, slot=number % 2)])
                assert len(numbers(await take(await reader(engine, beginning(made)), 20))) == 20
                pid = long.info.backend_pid
                from evenflow.engines.postgres import examine as postgres_examine

                told = await engine.examine(deep=True)
                assert not [each for each in told if each.level == "wrong"]
                assert not [each for each in told if str(pid) in each.message], "it is not long yet"
                postgres_examine.LONG, before = 0.0, postgres_examine.LONG
                try:
                    told = await engine.examine(deep=False)
                finally:
                    postgres_examine.LONG = before
                (found,) = [each for each in told if f"process {pid}" in each.message]
                assert found.level == "warn" and f"pg_terminate_backend({pid})" in found.remedy

    asyncio.run(main())


def test_writers_of_two_partitions_do_not_wait_for_each_other(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=2))
            with log.by_hand() as other:
                log.append(other, engine._tables.known("t"), [1])
                await store(engine, "t", [event(2, slot=1)])
                waiting = await blocked(engine, engine.append("t", [event(3, slot=0)]))
                other.commit()
                assert (await waiting)[0] is Outcome.STORED

    asyncio.run(main())


def test_an_append_under_another_isolation_is_refused_rather_than_wrong(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))
            with log.by_hand() as other:
                other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                with pytest.raises(psycopg.Error, match="read committed"):
                    log.append(other, engine._tables.known("t"), [1])

    asyncio.run(main())


def test_many_writers_and_a_reader_see_every_event_once_in_offset_order(log):
    async def main():
        async with log() as one, log() as two, log() as three:
            made = await one.declare(Topic("t", partitions=4))
            for each in (two, three):
                await each.declare(Topic("t"))

            async def write(engine, first):
                for number in range(first, first + 60):
                    await store(engine, "t", [event(number * 10 + n, slot=n) for n in range(4)])

            consumer = await reader(three, beginning(made))
            writing = asyncio.gather(write(one, 0), write(two, 1000))
            got = await take(consumer, 480, limit=37)
            await writing
            assert len(set(numbers(got))) == 480
            for part in made.partitions(1):
                offsets = [offset for batch in got if batch.partition == part for offset in batch.offsets]
                assert offsets == list(range(120)), "a reader beside the writers skips nothing"

    asyncio.run(main())


def test_what_comes_between_the_events_and_the_ends_of_one_answer_is_not_skipped(log):
    async def main():
        async with log() as engine, log() as other:
            made = await engine.declare(Topic("t", partitions=1))
            (part,) = made.partitions(1)
            await other.declare(Topic("t"))
            await store(other, "t", events([1, 2]))
            consumer = await reader(engine, {part: 0})
            await engine.bounds(part)  # it knows that two wait, and asks for them
            ask = engine._tables.wire.ask

            async def slowly(statements):
                first = await ask(statements[:1])
                await store(other, "t", events([3]))
                return first + await ask(statements[1:])

            engine._tables.wire.ask = slowly
            assert numbers(await take(consumer, 2)) == [1, 2]
            engine._tables.wire.ask = ask
            assert numbers(await take(consumer, 1)) == [3]

    asyncio.run(main())


def test_who_waits_has_what_came_with_the_look_that_notices_it(log):
    async def main():
        async with log() as engine, log() as other:
            made = await engine.declare(Topic("t", partitions=2))
            await other.declare(Topic("t"))
            await store(other, "t", [event(n, slot=n) for n in range(4)])
            consumer = await reader(engine, beginning(made))
            await take(consumer, 4)
            reading: list[str] = []
            ask, read = engine._tables.wire.ask, engine._tables.read

            async def asked(statements):
                reading[:] = [*reading, "ask"] if reading else []
                return await ask(statements)

            async def watched(*args):
                reading.append("read")
                return await read(*args)

            async def waits():
                return engine._watch._count == 1

            engine._tables.wire.ask, engine._tables.read = asked, watched
            for number in range(4, 9):
                waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, 30.0))
                await until(waits, "it waits")
                await store(other, "t", [event(number, slot=number)])
                assert numbers(await waiting) == [number]
                assert reading == ["read"], "it asked once more"
                reading.clear()

    asyncio.run(main())


def test_who_has_nothing_to_read_asks_no_more_than_the_watch_while_notifications_come(log):
    async def main():
        async with log() as engine, log() as other:
            made = await engine.declare(Topic("t", partitions=2))
            await other.declare(Topic("t"))
            consumer = await reader(engine, beginning(made))
            assert not await consumer.fetch(10, SIZE, 0.01)

            async def hears():
                await consumer.fetch(10, SIZE, 0.01)
                return engine._watch.heard and engine._watch.current

            await until(hears, "notifications come")
            looks, look = [], engine._tables.look

            async def looked(places):
                looks.append(places)
                return await look(places)

            engine._tables.look = looked
            for _ in range(20):
                assert not await consumer.fetch(10, SIZE, 0.005)
            assert len(looks) <= 10
            for number in range(3):
                await store(other, "t", [event(number, slot=number)])
                assert numbers(await consumer.fetch(10, SIZE, 30.0)) == [number]
            await store(other, "t", [event(3, slot=0)])
            assert numbers(await consumer.fetch(10, SIZE, 0)) == [3], "who does not wait has to be told"

    asyncio.run(main())


def test_a_notification_that_comes_while_nobody_waits_is_not_forgotten(log):
    async def main():
        async with log() as engine:
            consumer = await reader(engine, beginning(await engine.declare(Topic("t", partitions=2))))
            watch = engine._watch

            async def rests():
                await consumer.fetch(10, SIZE, 0.01)
                return watch.current

            await until(rests, "notifications come")
            watch._heard(0, "1")
            for _ in range(10):
                await asyncio.sleep(0)
            assert not watch.current, "who asks next would not look"

    asyncio.run(main())


def test_a_log_that_has_lost_its_end_stops_a_group_that_was_waiting(log):
    """As after a fail-over to a server that lacks commits."""

    async def main():
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=1))
            await store(engine, "t", [event(n, slot=0) for n in range(3)])
            consumer = await reader(engine, beginning(made))
            await take(consumer, 3)

            async def rests():
                await consumer.fetch(10, SIZE, 0.01)
                return consumer._rests and engine._watch.current

            await until(rests, "it rests")
            waiting = asyncio.ensure_future(consumer.fetch(10, SIZE, 30.0))
            asked, ask = [], engine._tables.wire.ask

            async def asks(statements):
                asked.append(statements)
                return await ask(statements)

            engine._tables.wire.ask = asks
            log.sql(f'delete from {log.schema}."packs_1"')
            with pytest.raises(GroupStopped, match="lost its end"):
                await asyncio.wait_for(waiting, 10)
            assert len(asked) < 20, "it asked again and again"

    asyncio.run(main())


def test_others_are_told_after_the_commit_and_not_for_every_event(log, monkeypatch):
    monkeypatch.setattr("evenflow.engines.postgres.watch.GAP", 0.01)

    async def main():
        with psycopg.connect(log.database, autocommit=True) as listener:
            listener.execute(f"listen {log.schema}")
            async with log() as engine:
                await engine.declare(Topic("t", partitions=1))
                start = time.monotonic()
                for number in range(40):
                    await store(engine, "t", events([number]))
                spent = time.monotonic() - start
                await asyncio.sleep(0.05)
            told = [note for note in listener.notifies(timeout=0.2) if note.payload]
            assert 1 <= len(told) <= spent / 0.01 + 2
            state = engine._tables.known("t")
            assert {note.payload for note in told} == {str(state.id)}

    asyncio.run(main())


# Segments.


def tables(log, topic=1):
    found = log.sql(f"select c.relname from pg_inherits i join pg_class c on c.oid = inhrelid "
                    f"where inhparent = '{log.schema}.packs_{topic}'::regclass order by 1")  # fmt: skip
    return [name for (name,) in found]


async def close_segment(engine, name):
    upkeep = Upkeep(engine._tables, engine._making)
    state = await engine._tables.topic(name)
    ((last,),) = (await engine._tables.ask((f"select segment from {engine._texts.schema}.topics", ())))[0]
    await upkeep.close_segment(state, last)


def test_retention_drops_whole_segments_and_offsets_go_on(log):
    async def main():
        async with log() as engine, log() as other:
            made = await engine.declare(Topic("t", partitions=2, retention=0.2))
            await other.declare(Topic("t"))
            consumer = await reader(other, beginning(made))
            for turn in range(3):
                await store(engine, "t", [event(turn * 10 + n, slot=n) for n in range(4)])
                assert len(numbers(await take(consumer, 4))) == 4, "a reader goes on over the end of a segment"
                await close_segment(engine, "t")
            assert tables(log) == ["packs_1_1", "packs_1_2", "packs_1_3", "packs_1_4"]
            everything = beginning(made)

            async def dropped():
                await engine.maintain()
                return tables(log) == ["packs_1_4"]

            await until(dropped, "what is too old is dropped")
            for part in everything:
                assert await engine.bounds(part) == Bounds(6, 6)
            await store(other, "t", [event(99, slot=0)])
            (batch,) = await take(consumer, 1)
            assert list(batch.offsets) == [6]
            assert not [each for each in await engine.examine(deep=True) if each.level == "wrong"]

    asyncio.run(main())


def test_a_reader_from_the_beginning_passes_all_segments(log):
    async def main():
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=1, retention=3600.0))
            (part,) = made.partitions(1)
            for turn in range(4):
                await store(engine, "t", events(range(turn * 5, turn * 5 + 5)))
                await close_segment(engine, "t")
            engine._tables.cache.clear()
            assert numbers(await take(await reader(engine, {part: 0}), 20, limit=3)) == list(range(20))
            assert numbers(await take(await reader(engine, {part: 7}), 13)) == list(range(7, 20))
            found = await engine.read(part, 11)
            assert found is not None and found[1].number == 11
            assert await engine.find(part, 0.0) == 0
            assert (await engine.backlog({part: 3}))[part].waiting == 17

    asyncio.run(main())


def test_a_drop_that_would_have_to_wait_is_put_off_and_holds_up_nobody(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1, retention=0.1))
            await store(engine, "t", events([1]))
            await close_segment(engine, "t")
            with log.by_hand() as long:
                long.execute(f'select count(*) from {log.schema}."packs_1"')  # as a dump does
                await asyncio.sleep(0.15)
                start = time.monotonic()
                appending = asyncio.ensure_future(engine.append("t", events([2])))
                await asyncio.gather(engine.maintain(), appending)
                assert time.monotonic() - start < 5.0
                assert appending.result() == [Outcome.STORED]
                assert tables(log) == ["packs_1_1", "packs_1_2"]
            await engine.maintain()
            assert tables(log) == ["packs_1_2"]

    asyncio.run(main())


def test_who_falls_behind_a_dropped_segment_is_stopped_and_does_not_skip(log):
    async def main():
        async with log() as engine, log() as other:
            made = await engine.declare(Topic("t", partitions=1, retention=0.1))
            (part,) = made.partitions(1)
            await store(engine, "t", events(range(5)))
            await close_segment(engine, "t")
            await store(engine, "t", events(range(5, 8)))
            await other.declare(Topic("t"))
            consumer = await reader(other, {part: 0})
            await other.bounds(part)  # it believes that offset 0 is there
            log.sql(f"update {log.schema}.partitions set low = 5")
            log.sql(f'drop table {log.schema}."packs_1_1"')
            with pytest.raises(Exception, match="has not read"):
                await consumer.fetch(10, SIZE, 0.0)

    asyncio.run(main())


# What is refused, and how it is said.


def refusal(url):
    async def main():
        engine = make_engine(url, SystemClock())
        await engine.open()
        await engine.close()

    with pytest.raises((Refused, SettingsError)) as caught:
        asyncio.run(main())
    assert caught.value.remedy
    return str(caught.value)


def test_a_wrong_password_and_a_wrong_place_are_refused_without_the_password():
    server = servers.postgres()
    url = server.url().replace(server.password, "not-the-one")
    text = refusal(url)
    assert "password" in text and "not-the-one" not in text
    assert "no-such-database" in refusal(server.url("no-such-database"))
    assert "schema" in refusal(f"{server.url()}?schema=No;drop")
    assert "nonsense" in refusal(f"{server.url()}?nonsense=1")


def test_a_server_that_does_not_answer_is_no_reason_to_refuse_for_good():
    async def main():
        with pytest.raises(EngineUnavailable, match="cannot be opened"):
            await make_engine("postgresql://evenflow:s3cret@127.0.0.1:1/d", SystemClock()).open()

    asyncio.run(main())


def test_a_role_without_rights_is_told_the_grant(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))
        server = servers.postgres()
        name = log.database.rpartition("/")[2].partition("?")[0]
        plain = Log(server.url(name, user="evenflow_plain"), log.schema)
        text = await asyncio.to_thread(refusal, plain.url)
        assert "permission denied" in text and f"grant all on schema {log.schema}" in text
        found = await make_engine(plain.url, SystemClock()).examine(deep=False)
        assert [each for each in found if each.level == "wrong" and "grant" in each.remedy]

    asyncio.run(main())


def test_a_log_of_a_newer_version_is_refused(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))

    asyncio.run(main())
    log.sql(f"update {log.schema}.format set version = 9")
    assert "newer version of Evenflow (format 9" in refusal(log.url)


def test_unsafe_settings_are_refused_unless_allowed(log):
    name = log.database.rpartition("/")[2].partition("?")[0]
    log.sql(f"alter database {name} set synchronous_commit = off")
    try:
        assert "allow_unsafe=synchronous_commit" in refusal(log.url)

        async def main():
            allowed = Log(log.database, log.schema, allow_unsafe="synchronous_commit")
            async with allowed() as engine:
                await engine.declare(Topic("t", partitions=1))
                found = await engine.examine(deep=False)
            assert [each for each in found if each.level == "warn" and each.about == "synchronous_commit"]

        asyncio.run(main())
    finally:
        log.sql(f"alter database {name} reset synchronous_commit")


def test_ten_processes_make_the_log_at_once(log):
    async def one():
        async with log() as engine:
            return await engine.declare(Topic("t", partitions=4))

    async def main():
        made = await asyncio.gather(*(one() for _ in range(10)))
        assert len({each.incarnation for each in made}) == 1

    asyncio.run(main())


def test_broken_packs_are_found_by_a_deep_check_up(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))
            for number in range(3):
                await store(engine, "t", events([number]))
            log.sql(f'delete from {log.schema}."packs_1" where last = 1')
            found = await engine.examine(deep=True)
            assert [
                each
                for each in found
                if isinstance(each, Finding) and each.level == "wrong" and "offset 2" in each.message
            ]

    asyncio.run(main())


def test_a_position_that_cannot_be_told_spoils_nothing_that_is_asked_after_it(log):
    async def main():
        async with log() as engine:
            (part,) = (await engine.declare(Topic("t", partitions=1))).partitions(1)
            await engine.told("g", "s", {part: 1})
            log.sql(f"alter table {log.schema}.told rename to elsewhere")
            with pytest.raises(EngineUnavailable):
                await engine.told("g", "s", {part: 2})
            log.sql(f"alter table {log.schema}.elsewhere rename to told")
            assert await engine.topics() == ["t"]
            await engine.told("g", "s", {part: 3})
            assert (await engine.recall("g")).positions == {part: 3}

    asyncio.run(main())


def test_a_closed_engine_says_so(log):
    async def main():
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))
        assert await engine.append("t", events([1])) == [Outcome.REFUSED]
        assert "closed" in engine.trouble
        with pytest.raises(EngineUnavailable, match="closed"):
            await engine.log("t")

    asyncio.run(main())


def test_a_missing_client_is_one_error_with_the_command():
    code = (
        "import sys\nsys.modules['psycopg'] = None\n"
        "from evenflow.clock import SystemClock\nfrom evenflow.errors import MissingExtra\n"
        "from evenflow.places import make_engine\n"
        "try:\n    make_engine('postgresql://me:secret@127.0.0.1/x', SystemClock())\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'evenflow[postgres]'" in said and "secret" not in said
