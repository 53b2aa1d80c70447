"""The offsets that Kafka keeps for groups, by a consumer that is made for each question: 3 ms of the processor.

The library's client for administrators has the same questions, and ends the process where connections come and go
while it looks for a group's coordinator: a use after free, or an assertion (librdkafka 2.16, its issues 3663 and 4605;
found by tests/crash). And a consumer that was just made has no connection that was lost without a word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from evenflow.engines.kafka.client import ASK, Client, KafkaError, KafkaException, TopicPartition, reason_of, translated
from evenflow.engines.kafka.peek import Name
from evenflow.errors import EngineUnavailable

T = TypeVar("T")
_NOT_YET = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError._WAIT_COORD,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)
"""What a broker says that has just started, or has just become a coordinator; or one that says nothing."""
SLICE = 2.0
"""Seconds for which a thread waits before it looks whether it still should."""


class Commits:
    """Two questions at a time, in threads of their own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._closed = False
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="evenflow-kafka-commits")

    async def of(self, group: str, names: Iterable[Name]) -> list[TopicPartition]:
        """The offsets that are kept of this group in these partitions, with metadata. Raises `EngineUnavailable`."""
        wanted = [TopicPartition(*each) for each in names]

        def ask(consumer: Any) -> list[TopicPartition]:
            found = consumer.committed(wanted, timeout=SLICE)
            return [each for each in found if each.error is None and each.offset >= 0]

        return await self._asked(group, ask, f"how far is the group {group!r}")

    async def put(self, group: str, rows: Sequence[TopicPartition]) -> None:
        """Keep these; topics that are no more are left out. Raises `EngineUnavailable`."""
        asked: list[None] = []
        answers: list[tuple[KafkaError | None, Sequence[TopicPartition]]] = []

        def ask(consumer: Any) -> None:
            if not asked or answers:
                asked.append(consumer.commit(offsets=list(rows), asynchronous=True))
            answers.clear()
            until = time.monotonic() + SLICE
            while not answers:
                if time.monotonic() > until:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                consumer.poll(0.05)
            error, parts = answers[0]
            for each in (error, *(part.error for part in parts)):
                if each is not None and each.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise KafkaException(each)

        heard = {"on_commit": lambda error, parts: answers.append((error, parts))}
        await self._asked(group, ask, f"keep how far the group {group!r} is", heard)

    async def _asked(self, group: str, ask: Callable[[Any], T], what: str, more: Mapping[str, Any] | None = None) -> T:
        def work() -> T:
            consumer = self._client.made("Consumer", {"group.id": group, "enable.auto.commit": False, **(more or {})})
            try:
                return self._until_it_can(ask, consumer)
            finally:
                consumer.close()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except KafkaException as error:
            raise translated(error, what, self._client) from error
        except RuntimeError as error:  # the threads are gone
            raise EngineUnavailable("the engine is closed", remedy="open it again") from error

    def _until_it_can(self, ask: Callable[[Any], T], consumer: Any) -> T:
        """The answer of a group's coordinator; a broker that has only just become that is asked again."""
        until = time.monotonic() + ASK
        while True:
            try:
                return ask(consumer)
            except KafkaException as error:
                if reason_of(error).code() not in _NOT_YET or self._closed or time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def close(self) -> None:
        """Whoever still waits for an answer is told that there is none."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
