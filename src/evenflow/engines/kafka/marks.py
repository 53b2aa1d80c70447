"""What must be remembered of topics beside what Kafka does: records of the compacted topic `evenflow--marks`.

It says which topics of Kafka are the generations of one of ours, with which partitions and as which log they were made,
and whether that was sealed. A topic without such a record is one generation, under its own name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from evenflow.engines.kafka.client import ASK, Client, KafkaError, administration
from evenflow.engines.kafka.peek import Missing, Peek
from evenflow.errors import EngineUnavailable

MARKS = "evenflow--marks"
"""No topic of ours can have this name."""


class Made(msgspec.Struct, frozen=True):
    """A generation: the name of its topic on Kafka, and the id of that, empty while it is being made."""

    number: int
    name: str
    id: str
    partitions: int


class Mark(msgspec.Struct, frozen=True):
    """What is remembered of one topic of ours."""

    incarnation: str
    generations: tuple[Made, ...]
    ours: bool = False
    """Whether we have made it, and not somebody else."""
    sealed: bool = False
    goes_on: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Mark).decode


class Marks:
    """Reads what is new at each question."""

    def __init__(self, client: Client, peek: Peek) -> None:
        self._client = client
        self._peek = peek
        self._found: dict[str, Mark] = {}
        self._next = 0
        self._made = False
        self._turn = asyncio.Lock()
        self._names: dict[str, tuple[str, int]] = {}

    async def of(self, topic: str) -> Mark | None:
        """The mark of a topic as it is now."""
        return (await self.all()).get(topic)

    async def all(self) -> Mapping[str, Mark]:
        """The marks of all topics as they are now."""
        async with self._turn:
            await self._refresh()
        return self._found

    async def names(self) -> Mapping[str, tuple[str, int]]:
        """By names on Kafka, topics and generations of ours; one that is not in it is generation 1 of itself."""
        async with self._turn:
            await self._refresh()
        return self._names

    async def put(self, topic: str, mark: Mark) -> None:
        """Remember this; durable when it returns."""
        await self.make()
        await asyncio.to_thread(self._put, topic, _encode(mark))

    async def drop(self, topic: str) -> None:
        """Remember nothing of it any more."""
        await asyncio.to_thread(self._put, topic, None)

    async def make(self) -> None:
        """Make the topic of marks, unless it is there."""
        if not self._made:
            await self._client.make_topic(MARKS, 1, await self._client.copies(), {"cleanup.policy": "compact"})
            self._made = True

    async def _refresh(self) -> None:
        try:
            high = (await self._peek.offsets([(MARKS, 0)], administration.OffsetSpec.latest()))[MARKS, 0]
        except Missing:
            self._found.clear()
            self._next = 0
            return
        if high < self._next:  # made anew
            self._found.clear()
            self._next = 0
        if high == self._next:
            return
        low = (await self._peek.offsets([(MARKS, 0)], administration.OffsetSpec.earliest()))[MARKS, 0]
        last = self._next

        def look(message: Any) -> bool:
            nonlocal last
            last = message.offset() + 1
            self._learn(message)
            return bool(last >= high)

        await self._peek.through({(MARKS, 0): max(low, self._next)}, look)
        self._next = max(last, high)

    def _learn(self, message: Any) -> None:
        try:
            topic = message.key().decode()
            if message.value() is None:
                self._found.pop(topic, None)
                return
            mark = _decode(message.value())
        except (AttributeError, TypeError, ValueError):
            return  # no record of ours
        self._found[topic] = mark
        self._names.update({each.name: (topic, each.number) for each in mark.generations})

    def _put(self, topic: str, value: bytes | None) -> None:
        failed: list[KafkaError | None] = []
        producer = self._client.made("Producer", {"acks": "all", "linger.ms": 0})  # a repeat does no harm
        producer.produce(MARKS, value, topic, on_delivery=lambda error, _: failed.append(error))
        producer.flush(ASK)
        if not failed:
            raise self._client.unavailable(f"remember the topic {topic!r}")
        if failed[0] is not None:
            raise EngineUnavailable(f"Kafka does not remember the topic {topic!r}: {failed[0].str()}")
