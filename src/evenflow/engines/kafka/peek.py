"""Looking into partitions by their names on Kafka: their ends, and the records from an offset on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from evenflow.engines.kafka.client import (
    ASK,
    Client,
    KafkaError,
    KafkaException,
    TopicPartition,
    administration,
    library,
    reason_of,
    translated,
)
from evenflow.engines.kafka.options import reader_settings

Name = tuple[str, int]

NONE = -1
"""The offset that a broker gives where there is none."""
_NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._NOENT)
_MOVING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
)
"""What a broker says that is about to become a partition's leader, or has just ceased to be."""


class Missing(Exception):
    """A partition that is not there."""


class _Moving(Exception):
    """A partition that has no leader just now."""


class Peek:
    """Answers come from the brokers each time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reader: Any = None

    async def ends(self, names: Iterable[Name]) -> dict[Name, tuple[int, int]]:
        """The first offset that each of these keeps, and the next that it will give. Raises `Missing`."""
        wanted = list(names)
        lows, highs = await asyncio.gather(
            self.offsets(wanted, administration.OffsetSpec.earliest()),
            self.offsets(wanted, administration.OffsetSpec.latest()),
        )
        return {each: (lows[each], highs[each]) for each in wanted}

    async def offsets(self, names: Iterable[Name], spec: Any, *, committed: bool = False) -> dict[Name, int]:
        """The offset of each of these that the library's `spec` describes, -1 for none. Raises `Missing`.

        `committed`: without what transactions that are open have written, and all behind that.
        """
        asked = {TopicPartition(*each): spec for each in names}
        until = asyncio.get_running_loop().time() + ASK
        while True:
            try:
                return await self._offsets(asked, library.IsolationLevel(int(committed)))
            except _Moving as error:
                if asyncio.get_running_loop().time() > until:
                    raise self._client.unavailable("offsets") from error
            await asyncio.sleep(0.05)

    async def _offsets(self, asked: Mapping[TopicPartition, Any], level: Any) -> dict[Name, int]:
        found = {}
        ask = self._client.admin.list_offsets
        answers = ask(asked, isolation_level=level, request_timeout=ASK) if asked else {}
        for key, future in reversed(answers.items()):  # when the last one is there all are: one wake-up
            what = f"the offsets of {key.topic!r}"
            try:
                if not future.done():
                    async with asyncio.timeout(ASK):
                        await asyncio.wrap_future(future)
                found[key.topic, key.partition] = offset = future.result().offset
                if offset < NONE:  # what the library says, without an error, where nobody could be asked
                    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
            except TimeoutError as error:
                raise self._client.unavailable(what) from error
            except KafkaException as error:
                code = reason_of(error).code()
                if code not in _NOT_THERE and code not in _MOVING:
                    raise translated(error, what, self._client) from error
                there = await self._client.described([key.topic])  # the library goes by the leaders it knew, else
                if code in _NOT_THERE and key.topic not in there:
                    raise Missing from error
                raise _Moving from error
        return found

    async def through(self, starts: Mapping[Name, int], look: Callable[[Any], bool]) -> None:
        """Show `look` the records from these offsets on, until it has seen enough, or all partitions have ended.

        It is called in a thread.
        """
        await self._client.in_thread(lambda: self._through(starts, look), "records")

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _through(self, starts: Mapping[Name, int], look: Callable[[Any], bool]) -> None:
        if self._reader is None:
            settings = {**reader_settings(self._client.options), "enable.partition.eof": True, "fetch.wait.max.ms": 10}
            self._reader = self._client.made("Consumer", settings)
        reader, ends = self._reader, 0
        reader.assign([TopicPartition(*name, offset) for name, offset in starts.items()])
        until = time.monotonic() + ASK
        try:
            while ends < len(starts):
                message = reader.poll(max(0.0, until - time.monotonic()))
                if message is None:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                error = message.error()
                if error is None:
                    if look(message):
                        return
                elif message.topic() is not None and error.code() != KafkaError._TRANSPORT:
                    ends += 1  # its end, or why nothing more comes of it
        finally:
            reader.unassign()
