"""The consumer of several engines: each partition is read from the engine that holds it, by a consumer there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context

from evenflow.clock import Clock, Signal
from evenflow.engine import Batch, Consumer, Engine, Partition


class RoutedConsumer:
    """Asks the engines in turn, and waits for whichever has something first. One engine alone is asked as it is.

    `holder` gives the engine of a partition that was asked about before. An error of one engine is raised for all.
    """

    def __init__(self, group: str, holder: Callable[[Partition], Engine], clock: Clock) -> None:
        self._group = group
        self._holder = holder
        self._clock = clock
        self._consumers: dict[int, Consumer] = {}
        self._of: dict[Partition, Consumer] = {}
        self._turn = 0
        self._signal = Signal()
        self._woken = False
        self._closed = False

    def assign(self, partition: Partition, offset: int) -> None:
        engine = self._holder(partition)
        consumer = self._consumers.get(id(engine))
        if consumer is None:
            consumer = self._consumers[id(engine)] = engine.consumer(self._group)
        self._of[partition] = consumer
        consumer.assign(partition, offset)
        self.wake()

    def release(self, partition: Partition) -> None:
        consumer = self._of.pop(partition, None)
        if consumer is not None:
            consumer.release(partition)

    def pause(self, partition: Partition) -> None:
        consumer = self._of.get(partition)
        if consumer is not None:
            consumer.pause(partition)

    def resume(self, partition: Partition) -> None:
        consumer = self._of.get(partition)
        if consumer is not None:
            consumer.resume(partition)

    def wake(self) -> None:
        self._woken = True
        self._signal.set()
        for consumer in self._consumers.values():
            consumer.wake()

    async def close(self) -> None:
        self._closed = True
        self._of.clear()
        for consumer in self._consumers.values():
            await consumer.close()
        self.wake()

    async def fetch(self, limit: int, size: int, wait: float | None) -> Sequence[Batch]:
        consumers = list(dict.fromkeys(self._of.values()))
        if len(consumers) == 1:
            self._woken = False
            return await consumers[0].fetch(limit, size, wait)
        self._signal.clear()
        found = await self._in_turn(consumers, limit, size)
        if not (found or self._woken or self._closed or wait == 0.0):
            if consumers:
                found = await self._first(consumers, limit, size, wait)
            else:
                await self._clock.wait(self._signal, wait)
        self._woken = False
        return found

    async def _in_turn(self, consumers: Sequence[Consumer], limit: int, size: int) -> list[Batch]:
        """What there is now. Another engine is the first one each time."""
        found: list[Batch] = []
        self._turn += 1
        for place in range(len(consumers)):
            if limit <= 0 or size <= 0:
                break
            batches = await consumers[(place + self._turn) % len(consumers)].fetch(limit, size, 0.0)
            found += batches
            limit -= sum(len(each.envelopes) for each in batches)
            size -= size // len(consumers) if batches else 0
        return found

    async def _first(self, consumers: Sequence[Consumer], limit: int, size: int, wait: float | None) -> list[Batch]:
        """Wait until one of them has something, or was woken; then none waits any longer."""
        loop, share = asyncio.get_running_loop(), max(1, limit // len(consumers))
        tasks = [
            (each, loop.create_task(each.fetch(share, size // len(consumers), wait), context=Context()))
            for each in consumers
        ]

        def over(_: asyncio.Task[Sequence[Batch]]) -> None:
            for consumer, task in tasks:
                if not task.done():
                    consumer.wake()

        for _, task in tasks:
            task.add_done_callback(over)
        answers = await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [each for answer in answers if not isinstance(answer, BaseException) for each in answer]
