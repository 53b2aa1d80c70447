"""Bad input and hostile brokers: a clear error within seconds, and nothing lost."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from evenflow.clock import SystemClock
from evenflow.engine import Bounds, Outcome, Partition
from evenflow.errors import EngineUnavailable, GroupStopped, Refused, SettingsError
from evenflow.places import make_engine
from evenflow.testing.engine_kit import SIZE, beginning, event, events, numbers, reader, store, take
from evenflow.topic import Topic
from tests import servers


@pytest.fixture(scope="module")
def kafka():
    with servers.topics() as at:
        yield at


@pytest.fixture
def admin():
    return servers.kafka().admin()


@asynccontextmanager
async def opened(kafka, more=""):
    engine = make_engine(f"kafka://{kafka.bootstrap}?allow_unsafe=single{more}", SystemClock())
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


def name(kafka, what):
    return f"{kafka.prefix}{what}{time.monotonic_ns()}"


async def refused(url, kind=Refused):
    engine = make_engine(url, SystemClock())
    start = time.monotonic()
    with pytest.raises(kind) as found:
        await engine.open()
    assert time.monotonic() - start < 8.0
    await engine.close()
    assert found.value.remedy and "secret" not in str(found.value)
    return str(found.value)


# -- at the start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("kafka:", "broker"),
        ("kafka://", "broker"),
        ("kafka://host", "host:port"),
        ("kafka://host:9092,other", "other"),
        ("kafka://host:99999", "host:port"),
        ("kafka://user@host:9092", "password"),
        ("kafka://user:secret@host", "host:port"),
        ("kafka://host:9092?tls=perhaps", "true or false"),
        ("kafka://host:9092?mechanism=gssapi", "scram-sha-512"),
        ("kafka://host:9092?replicas=3", "replication"),
    ],
)
def test_urls_that_say_nothing(url, word):
    with pytest.raises(SettingsError) as found:
        make_engine(url, SystemClock())
    assert word in str(found.value) and "secret" not in str(found.value)


def test_one_broker_is_refused_until_the_url_allows_it(kafka):
    assert "allow_unsafe=single" in asyncio.run(refused(f"kafka://{kafka.bootstrap}"))


def test_a_word_that_allows_nothing_is_refused(kafka):
    assert "allow_unsafe=sinlge" in asyncio.run(refused(f"kafka://{kafka.bootstrap}?allow_unsafe=sinlge"))


def test_nobody_there():
    asyncio.run(refused("kafka://127.0.0.1:1?allow_unsafe=single", EngineUnavailable))


def test_somebody_else_there():
    postgres = servers.postgres()  # or a web server: whoever answers in words that are not Kafka's
    assert "no plain Kafka" in asyncio.run(refused(f"kafka://127.0.0.1:{postgres.port}?allow_unsafe=single"))


def test_no_such_host():
    assert "nobody.invalid" in asyncio.run(refused("kafka://nobody.invalid:9092?allow_unsafe=single"))


def test_wrong_password(kafka):
    at = servers.kafka().sasl
    for mechanism in ("plain", "scram-sha-512"):
        said = asyncio.run(refused(f"kafka://evenflow:secret@{at}?allow_unsafe=single&mechanism={mechanism}"))
        assert "password" in said


def test_plain_against_a_port_that_asks_for_a_password_or_tls(kafka):
    for at in (servers.kafka().sasl, servers.kafka().tls):
        assert "tls=true" in asyncio.run(refused(f"kafka://{at}?allow_unsafe=single", EngineUnavailable))


def test_tls_against_plain(kafka):
    kinds = (Refused, EngineUnavailable)  # as the broker answers, or just hangs up
    assert "leave tls=true away" in asyncio.run(
        refused(f"kafka://{kafka.bootstrap}?allow_unsafe=single&tls=true", kinds)
    )


def test_a_certificate_that_nobody_trusts(kafka):
    assert "ca=" in asyncio.run(refused(f"kafka://{servers.kafka().tls}?allow_unsafe=single&tls=true"))


@pytest.mark.parametrize("option", ["ca", "certificate", "key"])
def test_a_file_that_is_not_there(option):
    assert f"ssl.{option}." in asyncio.run(refused(f"kafka://127.0.0.1:1?tls=true&{option}=/not-there"))


@pytest.mark.parametrize("mechanism", ["plain", "scram-sha-256", "scram-sha-512"])
def test_password_and_tls(kafka, mechanism):
    server = servers.kafka()

    async def main():
        url = f"kafka://evenflow:{server.password}@{server.sasl_tls}"
        engine = make_engine(f"{url}?tls=true&ca={server.ca}&mechanism={mechanism}&allow_unsafe=single", SystemClock())
        await engine.open()
        log = await engine.declare(Topic(name(kafka, "sasl"), partitions=1))
        await store(engine, log.topic, events(range(3)))
        assert numbers(await take(await reader(engine, beginning(log)), 3)) == [0, 1, 2]
        await engine.close()

    asyncio.run(main())


def test_a_check_up_answers_where_the_start_would_refuse(kafka):
    async def main():
        found = await make_engine(f"kafka://{kafka.bootstrap}", SystemClock()).examine(deep=False)
        (wrong,) = [each for each in found if each.level == "wrong"]
        assert "one broker" in wrong.message and "allow_unsafe=single" in wrong.remedy
        away = await make_engine("kafka://127.0.0.1:1", SystemClock()).examine(deep=False)
        assert [each.level for each in away] == ["wrong"]

    asyncio.run(main())


# -- topics ------------------------------------------------------------------------------------------------------------


def test_a_topic_is_made_as_declared(kafka):
    async def main():
        async with opened(kafka) as engine:
            topic = Topic(name(kafka, "facts"), partitions=4, retention=7200.0, retention_bytes=1 << 30)
            await engine.declare(topic)
            found = await engine._topics.config(topic.name)
            assert (found["retention.ms"], found["retention.bytes"]) == ("7200000", str(1 << 30))
            assert found["cleanup.policy"] == "delete" and found["message.timestamp.type"] == "LogAppendTime"
            await engine.declare(Topic(topic.name, partitions=4, compacted=True))
            while (await engine._topics.config(topic.name))["cleanup.policy"] != "compact":
                await asyncio.sleep(0.01)
            await store(engine, topic.name, [event(1, None), event(2, "k")])

    asyncio.run(main())


def test_a_topic_that_was_grown_by_hand_is_refused_until_confirmed(kafka, admin):
    async def main():
        topic = Topic(name(kafka, "grown"), partitions=2)
        async with opened(kafka) as engine:
            await engine.declare(topic)
        admin.create_partitions([NewPartitions(topic.name, 8)])[topic.name].result(10)
        for each in (topic, Topic(topic.name, partitions=8), Topic(topic.name)):
            async with opened(kafka) as engine:
                with pytest.raises(Refused) as found:
                    await engine.declare(each)
                assert "from 2 to 8" in str(found.value) and f"grown={topic.name}" in found.value.remedy
        async with opened(kafka, f"&grown={topic.name}") as engine:
            log = await engine.declare(Topic(topic.name, partitions=8))
            assert [each.partitions for each in log.generations] == [8]
        async with opened(kafka) as engine:
            assert await engine.declare(Topic(topic.name, partitions=8)) == log

    asyncio.run(main())


def test_a_topic_deleted_and_made_anew_stops_who_reads_it(kafka, admin):
    async def main():
        async with opened(kafka) as engine:
            topic = Topic(name(kafka, "anew"), partitions=1)
            log = await engine.declare(topic)
            await store(engine, topic.name, events(range(5)))
            consumer = await reader(engine, beginning(log), "a.group")
            await take(consumer, 5)
            admin.delete_topics([topic.name])[topic.name].result(10)
            with pytest.raises(GroupStopped, match="does not have"):
                for _ in range(100):
                    assert not await consumer.fetch(10, SIZE, 0.2)
            again = await engine.declare(topic)
            assert again.incarnation != log.incarnation
            await store(engine, topic.name, events(range(50)))
            consumer.assign(again.partitions(1)[0], 5)
            with pytest.raises(GroupStopped, match="made anew") as found:
                await consumer.fetch(10, SIZE, 5.0)
            assert "evenflow groups seek a.group" in found.value.remedy
            consumer.assign(again.partitions(1)[0], 0)
            assert numbers(await take(consumer, 50)) == list(range(50))

    asyncio.run(main())


def test_retention_that_reaches_unread_events_stops_the_group(kafka, admin):
    async def main():
        async with opened(kafka) as engine:
            log = await engine.declare(Topic(name(kafka, "short"), partitions=1))
            (part,) = log.partitions(1)
            await store(engine, log.topic, events(range(10)))
            admin.delete_records([TopicPartition(log.topic, 0, 8)])
            while (await engine.bounds(part)).low != 8:
                await asyncio.sleep(0.01)
            assert await engine.bounds(part) == Bounds(8, 10)
            with pytest.raises(GroupStopped) as found:
                await (await reader(engine, {part: 4}, "a.group")).fetch(10, SIZE, 5.0)
            assert "evenflow groups seek a.group --to beginning" in found.value.remedy
            assert numbers(await take(await reader(engine, {part: 8}), 2)) == [8, 9]

    asyncio.run(main())


def test_a_partition_that_is_not_there_stops_the_group(kafka):
    async def main():
        async with opened(kafka) as engine:
            log = await engine.declare(Topic(name(kafka, "few"), partitions=1))
            with pytest.raises(GroupStopped):
                await engine.bounds(Partition(log.topic, 1, 7))

    asyncio.run(main())


# -- records -----------------------------------------------------------------------------------------------------------


def test_a_record_over_the_limit_is_refused_with_both_limits_and_loses_nothing(kafka):
    async def main():
        async with opened(kafka) as engine:
            log = await engine.declare(Topic(name(kafka, "large"), partitions=2))
            large = event(2, slot=0, data=b"x" * 2_000_000)
            batch = [event(1, slot=0), large, event(3, slot=0), event(4, slot=1)]
            stored, refused = Outcome.STORED, Outcome.REFUSED
            assert await engine.append(log.topic, batch) == [stored, Outcome.OVERSIZE, refused, stored]
            assert (
                "2,000,000" in engine.trouble
                and "max.message.bytes" in engine.trouble
                and "max_bytes" in engine.trouble
            )
            assert await engine.append(log.topic, [event(5, slot=1)]) == [stored] and not engine.trouble
            assert sorted(numbers(await take(await reader(engine, beginning(log)), 3))) == [1, 4, 5]

    asyncio.run(main())


def test_the_broker_may_have_a_smaller_limit_than_was_known(kafka, admin):
    async def main():
        async with opened(kafka) as engine:
            log = await engine.declare(Topic(name(kafka, "limit"), partitions=1))
            await store(engine, log.topic, [event(1)])
            await engine._topics._configure(log.topic, {"max.message.bytes": "50000"})
            outcomes = await engine.append(log.topic, [event(2, data=b"x" * 90_000)])
            while outcomes == [Outcome.STORED]:  # the broker has not heard of it yet
                outcomes = await engine.append(log.topic, [event(2, data=b"x" * 90_000)])
            assert outcomes == [Outcome.OVERSIZE] and "50,000" in engine.trouble
            assert await engine.append(log.topic, [event(3)]) == [Outcome.STORED]

    asyncio.run(main())


def test_larger_records_and_all_compressions_where_the_url_says_so(kafka):
    async def main():
        topic = Topic(name(kafka, "squeezed"), partitions=1)
        for n, codec in enumerate(("none", "lz4", "zstd", "snappy", "gzip")):
            async with opened(kafka, f"&max_bytes=3000000&compression={codec}") as engine:
                log = await engine.declare(topic)
                await store(engine, log.topic, [event(n, data=b"x" * 2_000_000)])
        async with opened(kafka) as engine:
            found = await take(await reader(engine, beginning(log)), 5)
            assert [len(data) for batch in found for data in batch.envelopes.data] == [2_000_000] * 5
        files = (servers.kafka().folder / "data" / f"{topic.name}-0").glob("*.log")
        size = sum(each.stat().st_size for each in files)
        assert 2_000_000 < size < 2_500_000, "all but the first are squeezed"

    asyncio.run(main())


def test_a_topic_that_somebody_else_has_made_is_neither_closed_nor_configured(kafka, admin, caplog):
    async def main():
        theirs = name(kafka, "theirs")
        admin.create_topics([NewTopic(theirs, num_partitions=1, replication_factor=1)])[theirs].result(10)
        async with opened(kafka) as engine:
            with pytest.raises(Refused, match="somebody else has made") as found:
                await engine.declare(Topic(theirs, partitions=4))
            assert f"Topic({theirs!r})" in found.value.remedy
            producer, failed = Producer({"bootstrap.servers": kafka.bootstrap}), []
            producer.produce(theirs, b"1", on_delivery=lambda error, _: failed.append(error))
            producer.flush(10)
            assert failed == [None]
            caplog.clear()
            used = await engine.declare(Topic(theirs, partitions=1, retention=3600))
            assert used.generations[-1].partitions == 1
            (said,) = [each.message for each in caplog.records if "stays as it is" in each.message]
            assert "retention.ms=604800000, where the code asks for retention.ms=3600000" in said
            assert (await engine._topics.config(theirs))["retention.ms"] == "604800000"
            with pytest.raises(Refused, match="somebody else has made"):  # though it is known by now
                await engine.declare(Topic(theirs, partitions=4))

    asyncio.run(main())


def test_a_topic_that_another_process_of_ours_makes_meanwhile_is_ours(kafka):
    async def main():
        topic = name(kafka, "together")
        async with opened(kafka) as one, opened(kafka) as other:
            described = other._client.described

            async def late(names):
                other._client.described = described
                await one.declare(Topic(topic, partitions=1))
                return await described(names)

            other._client.described = late
            await other.declare(Topic(topic, partitions=1))
            assert (await one.declare(Topic(topic, partitions=2))).generations[-1].partitions == 2

    asyncio.run(main())


def test_records_of_others_are_read_and_placed_as_they_were(kafka, admin):
    async def main():
        other = name(kafka, "others")
        admin.create_topics([NewTopic(other, num_partitions=3, replication_factor=1)])[other].result(10)
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce(other, b'{"a":1}', b"k", 2, headers=[("x", b"1")])
        producer.produce(other, b'{"a":2}', None, 2)
        cloud = {"ce_specversion": b"1.0", "ce_id": b"i", "ce_source": b"s", "ce_type": b"order.paid"}
        producer.produce(other, b"{}", b"k", 2, headers=list(cloud.items()))
        producer.flush(10)
        async with opened(kafka) as engine:
            log = await engine.declare(Topic(other))
            assert [each.partitions for each in log.generations] == [3]
            found = [each for batch in await take(await reader(engine, beginning(log)), 3) for each in batch.envelopes]
            assert [each.key for each in found] == ["k", None, "k"] and found[2].type == "order.paid"
            assert {each.producer for each in found} == {""} and {each.slot % 3 for each in found} == {2}
            assert len({(each.source, each.id) for each in found}) == 3

    asyncio.run(main())


def test_other_clients_find_value_key_and_cloudevent(kafka):
    async def main():
        from confluent_kafka import Consumer

        async with opened(kafka, "&headers=cloudevents") as engine:
            log = await engine.declare(Topic(name(kafka, "shown"), partitions=4))
            await store(engine, log.topic, [event(1, "k", data=b'{"a":1}')])
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "x"})
        consumer.assign([TopicPartition(log.topic, number, 0) for number in range(4)])
        message = consumer.poll(10)
        headers = dict(message.headers())
        assert (message.key(), message.value(), headers["ce_type"]) == (b"k", b'{"a":1}', b"checked")
        consumer.close()
        producer = Producer({"bootstrap.servers": kafka.bootstrap})  # with librdkafka's own partitioner
        placed = []
        producer.produce(log.topic, b"{}", b"k", on_delivery=lambda _, record: placed.append(record.partition()))
        producer.flush(10)
        assert placed == [message.partition()]

    asyncio.run(main())


def test_told_is_what_kafkas_tools_show(kafka, admin):
    async def main():
        from confluent_kafka import ConsumerGroupTopicPartitions

        async with opened(kafka) as engine:
            log = await engine.declare(Topic(name(kafka, "told"), partitions=1))
            await store(engine, log.topic, events(range(5)))
            group = f"{kafka.prefix}group"
            await engine.told(group, "store", {log.partitions(1)[0]: 3})
            await engine.recall(group)
        (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        assert (log.topic, 0, 3) in [
            (each.topic, each.partition, each.offset) for each in future.result().topic_partitions
        ]

    asyncio.run(main())


def test_another_teams_topic_may_have_any_name_of_kafkas(kafka, admin, tmp_path):
    from evenflow import App, Event, Service, Transaction
    from evenflow.settings import Settings

    async def main():
        other = f"{kafka.prefix}Orders_V2.".ljust(249, "X")
        admin.create_topics([NewTopic(other, num_partitions=2, replication_factor=1)])[other].result(10)

        class Order(Event, type="order", topic=Topic("orders"), key="key"):
            key: str

        shop, seen = Service("shop"), []

        @shop.on(Order, group="keep")
        async def keep(order: Order, tx: Transaction) -> None:
            seen.append(order.key)

        prefix = f"{kafka.prefix}long."
        given = {
            "engine": kafka.url,
            "folder": str(tmp_path),
            "group_prefix": prefix,
            "topics": {"orders": {"name": other}},
        }
        app = App(shop)
        async with app.open(settings=Settings.load(given, env={}), handle=True):
            async with app.transaction(shop) as tx:
                tx.publish(Order(key="a"))
            async with asyncio.timeout(20):
                while seen != ["a"]:
                    await asyncio.sleep(0.02)
        async with opened(kafka) as engine:
            assert (await engine.log(other)).generations[-1].partitions == 2 and other in await engine.topics()

    asyncio.run(main())


def test_names_that_are_one_to_kafka_are_refused(kafka):
    async def main():
        async with opened(kafka) as engine:
            one = name(kafka, "a_b")
            await engine.declare(Topic(one, partitions=1))
            with pytest.raises(Refused, match="collides") as found:
                await engine.declare(Topic(one.replace("a_b", "a.b"), partitions=1))
            assert "'.' and '_'" in found.value.remedy

    asyncio.run(main())
