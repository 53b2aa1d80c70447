"""Transactions of other producers in a topic of ours: what they leave in the log is no event, and holds nothing up."""

import asyncio
import json

from confluent_kafka import Producer

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.clock import SystemClock
from evenflow.places import make_engine
from evenflow.settings import Settings

WAIT = 30.0


async def until(true):
    async with asyncio.timeout(WAIT):
        while not true():
            await asyncio.sleep(0.02)


def stranger(at, topic):
    """A producer with an open transaction."""
    made = Producer({"bootstrap.servers": at.bootstrap, "transactional.id": topic, "log_level": 0})
    made.init_transactions(WAIT)
    made.begin_transaction()
    return made


def put(producer, topic, key):
    headers = {"ce_specversion": "1.0", "ce_id": key, "ce_source": "s", "ce_type": "order"}
    producer.produce(topic, json.dumps({"key": key}).encode(), key.encode(), 0, headers=headers)
    producer.flush(WAIT)


def test_a_log_that_ends_in_the_mark_of_a_transaction_is_read_to_its_end(kafka_at, tmp_path):
    name, seen = f"{kafka_at.prefix}orders", []

    def app_of(partitions):
        class Order(Event, type="order", topic=Topic(name, partitions=partitions), key="key"):
            key: str

        shop = Service("shop")

        @shop.on(Order, group="keep")
        async def keep(order: Order, tx: Transaction) -> None:
            seen.append(order.key)

        return App(shop, events=[Order]), Order

    async def main():
        given = {"engine": kafka_at.url, "folder": str(tmp_path), "group_prefix": kafka_at.prefix}
        settings = Settings.load(given, env={})
        app, order = app_of(1)
        async with app.open(settings=settings, handle=True):
            await app.publish(order(key="1"))
            await until(lambda: seen == ["1"])
            producer = await asyncio.to_thread(stranger, kafka_at, name)
            await asyncio.to_thread(put, producer, name, "t")
            await asyncio.to_thread(producer.commit_transaction, WAIT)
            await until(lambda: seen == ["1", "t"])
        app, order = app_of(2)  # the next generation
        async with app.open(settings=settings, handle=True):
            await app.publish(*[order(key=str(n)) for n in range(2, 12)])
            await until(lambda: len(seen) == 12)
        assert sorted(seen) == sorted(["t", *map(str, range(1, 12))])

    asyncio.run(main())


def test_a_topic_is_closed_only_when_no_transaction_is_open_in_it(kafka_at):
    name = f"{kafka_at.prefix}orders"

    async def main():
        engine = make_engine(kafka_at.url, SystemClock())
        await engine.open()
        try:
            await engine.declare(Topic(name, partitions=1))
            producer = await asyncio.to_thread(stranger, kafka_at, name)
            await asyncio.to_thread(put, producer, name, "t")
            sealing = asyncio.ensure_future(engine.seal(name))
            done, _ = await asyncio.wait([sealing], timeout=1.0)
            assert not done, "what was open might still have been committed"
            await asyncio.to_thread(producer.commit_transaction, WAIT)
            assert (await asyncio.wait_for(sealing, WAIT)).sealed
        finally:
            await engine.close()

    asyncio.run(main())
