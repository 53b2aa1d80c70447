"""Kafka by hand, on confluent-kafka: threads that poll, and whole lists between them and the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.servers import Places
from bench.twins.files import encode
from bench.workload import Shape, Shop

LIST = 500
HEADERS = [
    ("id", b"0b5e1f6a-0000-4000-8000-000000000000"),
    ("type", b"order.placed"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


def declare(places: Places, partitions: int) -> None:
    """Make the topic, and wait until the broker tells everybody about it."""
    admin = AdminClient({"bootstrap.servers": places["bootstrap"]})
    for done in admin.create_topics([NewTopic(places["log"], partitions, 1)]).values():
        done.result()
    while places["log"] not in admin.list_topics(timeout=10.0).topics:
        time.sleep(0.02)


class Publisher:
    """`publish` returns when the brokers have the event. A thread collects reports, and hands lists of them over."""

    def __init__(self, places: Places, linger: int) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": places["bootstrap"],
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": linger,
                "socket.nagle.disable": True,
            }
        )
        self._topic = places["log"]
        self._loop = asyncio.get_running_loop()
        self._reported: list[tuple[asyncio.Future[None], Any]] = []
        self._ended = False
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    async def publish(self, order: Any, headers: Any = None) -> None:
        done = self._loop.create_future()
        given = {} if headers is None else {"headers": headers}
        self._producer.produce(
            self._topic,
            encode(order),
            order.customer,
            on_delivery=lambda error, _: self._reported.append((done, error)),
            **given,
        )
        await done

    async def publish_all(self, events: Sequence[tuple[str, bytes]], headers: Any = None) -> None:
        """One future for a list of keys and data."""
        done, left = self._loop.create_future(), len(events)

        def reported(error: Any, _: Any) -> None:
            nonlocal left
            left -= 1
            if error or not left:
                self._reported.append((done, error))

        given = {} if headers is None else {"headers": headers}
        for key, data in events:
            self._producer.produce(self._topic, data, key, on_delivery=reported, **given)
        await done

    def _collect(self) -> None:
        while not self._ended:
            self._producer.poll(0.05)
            if self._reported:
                mine, self._reported = self._reported, []
                self._loop.call_soon_threadsafe(_settle, mine)

    async def close(self) -> None:
        self._ended = True
        await asyncio.to_thread(self._thread.join)


def _settle(reports: list[tuple[asyncio.Future[None], Any]]) -> None:
    for done, error in reports:
        if not done.done():
            done.set_exception(RuntimeError(str(error))) if error else done.set_result(None)


async def backlog(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:  # noqa: ARG001
    """Events with three headers."""
    shop = Shop(Shape(**{**shape, "handler": "none"}))
    declare(places, shop.shape.partitions)
    publisher, watch = Publisher(places, 5), Watch()
    for begun in range(0, events, 10_000):
        orders = shop.orders(min(10_000, events - begun))
        await publisher.publish_all([(each.customer, encode(each)) for each in orders], HEADERS)
    await publisher.close()
    return measured(events, watch, bytes=len(encode(orders[0])))


async def publishes(
    folder: str,  # noqa: ARG001
    events: int,
    at_once: int,
    way: str,
    places: Places,
    headers: bool = False,
) -> Record:
    shop, carried = Shop(Shape(handler="none")), HEADERS if headers else None
    declare(places, shop.shape.partitions)
    publisher = Publisher(places, 0)
    await publisher.publish(*shop.orders(1))
    orders = shop.orders(events)

    async def client(mine: Sequence[Any]) -> None:
        for order in mine:
            await publisher.publish(order, carried)

    watch = Watch()
    if way == "lists":
        for begun in range(0, events, at_once):
            await publisher.publish_all([(each.customer, encode(each)) for each in orders[begun : begun + at_once]])
    else:
        await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
    record = measured(events, watch)
    await publisher.close()
    return record


class Lists:
    """A thread reads, and hands lists over, of which two are under way at most. What was finished it commits lazily.

    `at_once`: what is there, instead of waiting a while for a list that is full.
    """

    def __init__(self, places: Places, *, commits: bool, partitions: Sequence[int] = (), at_once: bool = False) -> None:
        self._places, self._commits, self._partitions = places, commits, partitions
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._lists: deque[list[Any]] = deque()
        self._done: deque[dict[int, int]] = deque()
        self._wake = asyncio.Event()
        self._room = threading.Semaphore(2)
        self._ended = self._busy = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    async def __aiter__(self) -> AsyncIterator[list[Any]]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._lists:
                messages = self._lists.popleft()
                yield messages
                self._done.append({each.partition(): each.offset() + 1 for each in messages})
                self._room.release()

    async def close(self) -> None:
        self._ended = True
        await asyncio.to_thread(self._thread.join)

    def _put(self, messages: list[Any]) -> None:
        self._lists.append(messages)
        self._wake.set()

    def _read(self) -> None:
        topic = self._places["log"]
        consumer = Consumer(
            {
                "bootstrap.servers": self._places["bootstrap"],
                "group.id": self._places["schema"] or f"{topic}-by-hand",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 10,
                "queued.min.messages": 10_000,
                "queued.max.messages.kbytes": 16_384,
                "on_commit": self._committed,
            }
        )
        if self._partitions:
            consumer.assign([TopicPartition(topic, number, 0) for number in self._partitions])
        else:
            consumer.subscribe([topic])
        while not self._ended:
            if self._commits and self._done and not self._busy:
                self._commit(consumer, topic)
            if not self._room.acquire(timeout=0.1):
                continue
            messages = self._next(consumer)
            if messages:
                self._loop.call_soon_threadsafe(self._put, messages)
            else:
                self._room.release()
        consumer.close()

    def _next(self, consumer: Any) -> list[Any]:
        if not self._at_once:
            found: list[Any] = consumer.consume(LIST, 0.05)
            return found
        first = consumer.poll(0.05)
        return [] if first is None else [first, *consumer.consume(LIST - 1, 0)]

    def _commit(self, consumer: Any, topic: str) -> None:
        passed: dict[int, int] = {}
        while self._done:
            passed.update(self._done.popleft())
        self._busy = True
        offsets = [TopicPartition(topic, number, offset) for number, offset in passed.items()]
        consumer.commit(offsets=offsets, asynchronous=True)

    def _committed(self, error: Any, _: Any) -> None:
        assert error is None, error
        self._busy = False


async def handles(folder: str, events: int, shape: dict[str, Any], places: Places) -> Record:  # noqa: ARG001
    """An async handler that does nothing, for each event: three headers, key and time read, data decoded."""
    shop = Shop(Shape(**{**shape, "handler": "none"}))
    decode = msgspec.json.Decoder(shop.OrderPlaced).decode
    lists, handled, before, watch = Lists(places, commits=True), 0, 0, Watch()

    async def handle(order: Any) -> None:
        pass

    async for messages in lists:
        for each in messages:
            dict(each.headers()), each.key(), each.timestamp()
            await handle(decode(each.value()))
        if not handled:
            watch, before = Watch(), len(messages)
        handled += len(messages)
        if handled >= events:
            break
    record = measured(handled - before, watch)
    await lists.close()
    assert handled == events, handled
    return record
