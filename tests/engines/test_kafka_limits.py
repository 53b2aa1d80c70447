"""Topics that take smaller records than an app publishes: refused where that is known, else set aside, and said."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from confluent_kafka.admin import NewTopic

from evenflow import App, Event, Service, Topic, Transaction
from evenflow import oversize
from evenflow.clock import SystemClock
from evenflow.errors import EventTooLarge, Refused
from evenflow.operate.doctor_running import examine_running
from evenflow.places import make_engine
from evenflow.settings import Settings
from evenflow.testing.engine_kit import beginning, event, numbers, reader, store, take
from tests import servers

LIMIT = "max.message.bytes"


@pytest.fixture(scope="module")
def kafka():
    with servers.topics() as at:
        yield at


def named(kafka):
    return f"{kafka.prefix}notes{time.monotonic_ns()}"


async def until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


def noting(topic):
    class Note(Event, type="note", topic=topic, key="of"):
        of: str
        number: int
        text: str = ""

    shop, seen = Service("shop"), []

    @shop.on(Note, group="read", start="beginning")
    async def read(note: Note, tx: Transaction) -> None:
        seen.append((note.of, note.number))

    return App(shop, events=[Note]), shop, Note, seen


@asynccontextmanager
async def opened(kafka, tmp_path, app, name):
    given = {"engine": kafka.url, "folder": str(tmp_path), "group_prefix": f"{name}."}
    settings = Settings.load(given, env={})
    async with app.open(settings=settings, handle=True):
        yield settings


def of_another_team(name, limit):
    admin = servers.kafka().admin()
    new = NewTopic(name, num_partitions=2, replication_factor=1, config={LIMIT: str(limit)})
    admin.create_topics([new])[name].result(10)


def test_an_event_over_the_limit_of_its_topic_is_refused_where_it_is_published(kafka, tmp_path):
    async def main():
        name = named(kafka)
        of_another_team(name, 20_000)
        app, shop, note, seen = noting(Topic(name))
        async with opened(kafka, tmp_path, app, name):
            large = note(of="a", number=1, text="x" * 30_000)
            with pytest.raises(EventTooLarge, match="19,800 are allowed") as found:
                await app.publish(large)
            assert name in str(found.value) and LIMIT in found.value.remedy
            with pytest.raises(EventTooLarge):
                async with app.transaction(shop) as tx:
                    tx.publish(large)
            await app.publish(note(of="a", number=2, text="x" * 19_000))
            await until(lambda: seen == [("a", 2)])

    asyncio.run(main())


def test_who_may_only_read_a_topic_knows_no_limit(kafka):
    async def main():
        name = named(kafka)
        of_another_team(name, 20_000)
        engine = make_engine(kafka.url, SystemClock())
        await engine.open()
        await engine.declare(Topic(name))

        async def config(_):
            raise Refused("Kafka does not allow it", remedy="let its administrators grant it")

        engine._topics.config = config  # as without the right DescribeConfigs
        assert await engine.limit(name) is None
        await engine.close()

    asyncio.run(main())


def test_small_events_go_to_a_topic_that_takes_less_than_a_batch_of_ours(kafka):
    async def main():
        name = named(kafka)
        of_another_team(name, 20_000)
        engine = make_engine(kafka.url, SystemClock())
        await engine.open()
        await engine.declare(Topic(name))
        batch = [event(n, slot=0, data=b"x" * 500) for n in range(200)]
        await store(engine, name, batch)
        log = await engine.log(name)
        assert numbers(await take(await reader(engine, beginning(log)), 200)) == list(range(200))
        await engine.close()

    asyncio.run(main())


def test_a_limit_that_is_lowered_holds_up_no_other_key_and_loses_nothing(kafka, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(oversize, "AGAIN", 1.0)

    async def main():
        name = named(kafka)
        app, shop, note, seen = noting(Topic(name, partitions=1))
        async with opened(kafka, tmp_path, app, name) as settings:
            engine = make_engine(kafka.url, SystemClock())
            await engine.open()
            await app.publish(note(of="a", number=0))
            await engine._topics._configure(name, {LIMIT: "20000"})
            while await engine.limit(name) != 19_800:
                await asyncio.sleep(0.01)
            expected = {"a": [0, 1, 2], "b": [], "c": []}
            async with app.transaction(shop) as tx:  # one row of the outbox
                for key in ("b", "c"):
                    tx.publish(note(of=key, number=1))
                    expected[key].append(1)
                tx.publish(note(of="a", number=1, text="x" * 40_000))
                tx.publish(note(of="b", number=2))
                expected["b"].append(2)
            for number in range(3, 6):
                async with app.transaction(shop) as tx:
                    tx.publish(note(of="b", number=number))
                    expected["b"].append(number)
                if number == 3:
                    async with app.transaction(shop) as tx:
                        tx.publish(note(of="a", number=2))
            await until(lambda: ("b", 5) in seen and ("c", 1) in seen)
            assert [each for each in seen if each[0] == "a"] == [("a", 0)]
            async with noting(Topic(name, partitions=1))[0].running(
                handle=["shop"], settings=settings, join=False
            ) as looking:
                wrong = [each async for each in examine_running(looking) if each.level == "wrong"]
            (found,) = wrong
            assert found.about == "outbox of shop" and "key a" in found.message and "19,800" in found.message
            assert "max.message.bytes" in found.remedy
            assert sum("is not taken" in each.message for each in caplog.records) == 1
            await engine._topics._configure(name, {LIMIT: "1000000"})
            await until(lambda: ("a", 2) in seen)
            high = (await engine.bounds((await engine.log(name)).partitions(1)[0])).high
            await engine.close()
        found = {key: [number for of, number in seen if of == key] for key in expected}
        assert found == expected
        assert high == len(seen), "nothing was appended twice"

    asyncio.run(main())
