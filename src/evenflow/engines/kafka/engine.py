"""Apache Kafka: topics as topics, positions in the stores of the groups, partitions given out by the stores' leases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from evenflow.checkup import Finding
from evenflow.clock import Clock
from evenflow.engine import Backlog, Bounds, Capabilities, Consumer, Log, Outcome, Partition, Told
from evenflow.engines.kafka.appends import Appends
from evenflow.engines.kafka.client import Client, KafkaError
from evenflow.engines.kafka.consumer import KafkaConsumer
from evenflow.engines.kafka.examine import examine, verify
from evenflow.engines.kafka.feeds import Feed, Feeds
from evenflow.engines.kafka.groups import Groups
from evenflow.engines.kafka.marks import Marks
from evenflow.engines.kafka.options import Address, KafkaOptions
from evenflow.engines.kafka.peek import Peek
from evenflow.engines.kafka.questions import Questions
from evenflow.engines.kafka.topics import Topics
from evenflow.engines.kafka.watch import Watch
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable, EvenflowError, GroupStopped
from evenflow.topic import Topic

__all__ = ["Address", "KafkaEngine", "KafkaOptions"]


class KafkaEngine:
    """One producer, one thread that reads for all groups, one client for questions."""

    name = "kafka"
    capabilities = Capabilities(durable=True, shared=True, atomic=False, tidies=False)

    def __init__(self, address: Address, clock: Clock, options: KafkaOptions | None = None) -> None:
        self._client = Client(address, options or KafkaOptions())
        self._clock = clock
        self._peek = Peek(self._client)
        self._marks = Marks(self._client, self._peek)
        self._topics = Topics(self._client, self._marks, self._peek, self._refuses)
        self._groups = Groups(self._client, self._marks, self._topics)
        self._questions = Questions(self._peek, self._topics)
        self._feeds = Feeds(self._client)
        self._watch = Watch(self._feeds, self._peek, clock, self._check)
        self._appends: Appends | None = None

    @property
    def trouble(self) -> str:
        """Why the last append was not stored; empty after one that was."""
        return self._appends.trouble if self._appends is not None else ""

    async def open(self) -> None:
        await verify(self._client)
        self._appends = Appends(self._client, self._topics, self._clock)
        self._watch.start()

    async def close(self) -> None:
        self._watch.stop()
        if self._appends is not None:
            await self._appends.close()
        try:
            async with asyncio.timeout(2.0):
                await self._groups.settle()
        except (TimeoutError, EvenflowError):
            pass  # the copies of positions may be behind
        self._groups.close()
        await asyncio.to_thread(self._feeds.close)
        await asyncio.to_thread(self._peek.close)
        self._client.close()

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        log = await self._topics.declare(topic, after)
        self._appending.forget(topic.name)
        return log

    async def seal(self, topic: str, goes_on: str | None = None) -> Log:
        return await self._topics.seal(topic, goes_on)

    async def log(self, topic: str) -> Log | None:
        return await self._topics.log(topic)

    async def topics(self) -> Sequence[str]:
        return await self._topics.names()

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        return await self._appending.append(topic, envelopes) if envelopes else []

    async def limit(self, topic: str) -> int | None:
        return await self._appending.limit(topic)

    def consumer(self, group: str) -> Consumer:
        return KafkaConsumer(group, self._feeds, self._questions, self._clock)

    async def bounds(self, partition: Partition) -> Bounds:
        return await self._questions.bounds(partition)

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        return await self._questions.read(partition, offset)

    async def find(self, partition: Partition, time: float) -> int:
        return await self._questions.find(partition, time)

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        return await self._questions.backlog(positions)

    async def told(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        self._groups.tell(group, store, positions)

    async def recall(self, group: str) -> Told | None:
        return await self._groups.recall(group)

    async def groups(self) -> Sequence[str]:
        return await self._client.groups()

    async def readers(self, topic: str) -> Mapping[str, Mapping[Partition, int]]:
        return await self._groups.readers(topic)

    async def examine(self, *, deep: bool) -> Sequence[Finding]:  # noqa: ARG002  # the brokers check their own files
        return await examine(self._client)

    async def maintain(self) -> None:
        await self._groups.again(self._clock.monotonic())
        await self._check([feed for reader in self._feeds.readers for feed in reader.feeds.values()])

    async def _check(self, feeds: Sequence[Feed]) -> None:
        """Where a topic was deleted, or made anew, whoever reads it is to look and to stop."""
        looked = set()
        for feed in feeds:
            partition = feed.place.partition
            try:
                place = await self._topics.place(partition, again=partition.topic not in looked)
                changed = place.incarnation != feed.place.incarnation
            except GroupStopped:
                changed = True
            looked.add(partition.topic)
            if changed:
                feed.fail(KafkaError(KafkaError.UNKNOWN_TOPIC_ID))

    async def _refuses(self, name: str, partition: int) -> bool:
        return await self._appending.refuses(name, partition)

    @property
    def _appending(self) -> Appends:
        if self._appends is None:
            raise EngineUnavailable("the engine is not open", remedy="await engine.open()")
        return self._appends
