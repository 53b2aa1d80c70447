"""The reference engine: a whole log in one process's memory, the shortest true implementation of the contract."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from evenflow.checkup import Finding
from evenflow.clock import Clock, Signal
from evenflow.engine import Backlog, Batch, Bounds, Capabilities, Consumer, Log, Outcome, Partition, Told
from evenflow.engines.compaction import latest
from evenflow.engines.generations import due_generation, sealed_words
from evenflow.engines.log_consumer import LogConsumer, Waiters, no_such_partition, no_such_topic
from evenflow.envelope import Envelope
from evenflow.envelopes import Given
from evenflow.ids import new_id
from evenflow.topic import Topic


class _Kept:
    """One partition: three lists side by side. Offsets rise, with gaps after compaction; append times never fall."""

    def __init__(self) -> None:
        self.low = 0
        self.high = 0
        self.bytes = 0
        self.clean = 0  # events that the last compaction left
        self.offsets: list[int] = []
        self.times: list[float] = []
        self.envelopes: list[Envelope] = []

    def append(self, envelope: Envelope, now: float) -> None:
        self.offsets.append(self.high)
        self.times.append(max(now, self.times[-1]) if self.times else now)
        self.envelopes.append(envelope)
        self.high += 1
        self.bytes += envelope.size

    def remove_first(self, count: int) -> None:
        """Retention: what is removed from the front moves the low end."""
        if count:
            self.bytes -= sum(each.size for each in self.envelopes[:count])
            del self.offsets[:count], self.times[:count], self.envelopes[:count]
            self.low = self.offsets[0] if self.offsets else self.high
            self.clean = max(0, self.clean - count)

    def over(self, limit: int) -> int:
        """How many of the oldest events stand over so many bytes; the last one never does."""
        count, left = 0, self.bytes
        while left > limit and count < len(self.envelopes) - 1:
            left -= self.envelopes[count].size
            count += 1
        return count

    def compact(self) -> None:
        """Keep the last event of each key. Only when as much is new as was left the last time."""
        if len(self.envelopes) - self.clean < max(1, self.clean):
            return
        keep = latest(self.envelopes, {})
        self.offsets = [self.offsets[n] for n in keep]
        self.times = [self.times[n] for n in keep]
        self.envelopes = [self.envelopes[n] for n in keep]
        self.bytes = sum(each.size for each in self.envelopes)
        self.clean = len(keep)


class MemoryEngine:
    """A complete log that ends with its process. Give it a virtual clock, and time is yours."""

    name = "memory"
    capabilities = Capabilities(durable=False, shared=False)

    def __init__(self, clock: Clock, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self.trouble = ""
        self._clock = clock
        self._random = random
        self._topics: dict[str, Topic] = {}
        self._logs: dict[str, Log] = {}
        self._kept: dict[Partition, _Kept] = {}
        self._told: dict[str, Told] = {}
        self._waiters = Waiters()

    async def open(self) -> None:
        """Nothing rests on settings here."""

    async def close(self) -> None:
        """What was stored stays with the object, so that a test may open it again."""

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        log = self._logs.get(topic.name)
        if topic.partitions is None:
            return self._existing(topic.name)
        generation = due_generation(log, topic.partitions, after)
        if generation is not None:
            known = log or after
            incarnation = new_id(self._clock.now, self._random) if known is None else known.incarnation
            log = Log(topic.name, incarnation, (*(log.generations if log else ()), generation))
            self._kept.update((partition, _Kept()) for partition in log.partitions(generation.number))
        assert log is not None
        self._topics[topic.name] = topic
        self._logs[topic.name] = log
        return log

    async def seal(self, topic: str, goes_on: str | None = None) -> Log:
        log = self._existing(topic)
        self._logs[topic] = log = replace(log, sealed=True, goes_on=log.goes_on if goes_on is None else goes_on)
        return log

    async def log(self, topic: str) -> Log | None:
        return self._logs.get(topic)

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        log = self._existing(topic)
        if log.sealed:
            self.trouble = sealed_words(log)
            return [Outcome.REFUSED] * len(envelopes)
        self.trouble = ""
        generation = log.generations[-1]
        now = self._clock.now()
        for envelope in envelopes:
            self._kept[Partition(topic, generation.number, envelope.slot % generation.partitions)].append(envelope, now)
        self._waiters.wake()
        return [Outcome.STORED] * len(envelopes)

    async def limit(self, topic: str) -> int | None:  # noqa: ARG002
        return None

    def consumer(self, group: str) -> Consumer:
        return LogConsumer(group, self, self._clock)

    async def bounds(self, partition: Partition) -> Bounds:
        return self.bounds_nowait(partition)

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        kept = self._part(partition)
        place = bisect_right(kept.offsets, offset) - 1
        return None if place < 0 else (kept.offsets[place], kept.envelopes[place])

    async def find(self, partition: Partition, time: float) -> int:
        kept = self._part(partition)
        place = bisect_left(kept.times, time)
        return kept.offsets[place] if place < len(kept.offsets) else kept.high

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        return {partition: self._waits(partition, offset) for partition, offset in positions.items()}

    async def told(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        known = self._told.get(group)
        self._told[group] = Told(store, {**(known.positions if known else {}), **positions})

    async def recall(self, group: str) -> Told | None:
        return self._told.get(group)

    async def topics(self) -> Sequence[str]:
        return sorted(self._logs)

    async def groups(self) -> Sequence[str]:
        return sorted(self._told)

    async def readers(self, topic: str) -> Mapping[str, Mapping[Partition, int]]:
        found = {
            group: {key: offset for key, offset in told.positions.items() if key.topic == topic}
            for group, told in self._told.items()
            if told.store
        }
        return {group: positions for group, positions in found.items() if positions}

    async def examine(self, *, deep: bool) -> Sequence[Finding]:  # noqa: ARG002  # there is no more to read
        return [Finding("warn", "the event log", "it is in memory: nothing outlives the process")]

    async def maintain(self) -> None:
        for partition, kept in self._kept.items():
            topic = self._topics[partition.topic]
            if topic.retention is not None:
                kept.remove_first(bisect_left(kept.times, self._clock.now() - topic.retention))
            if topic.retention_bytes is not None:
                kept.remove_first(kept.over(topic.retention_bytes))
            if topic.compacted:
                kept.compact()

    # What its consumers ask for.

    async def refresh(self) -> None:
        """Everything is known here at once."""

    def bounds_nowait(self, partition: Partition) -> Bounds:
        kept = self._part(partition)
        return Bounds(kept.low, kept.high)

    async def take(self, partition: Partition, offset: int, limit: int, size: int) -> tuple[Batch, int]:
        kept = self._part(partition)
        start = end = bisect_left(kept.offsets, offset)
        taken = 0
        while end < len(kept.envelopes) and end - start < limit and (taken < size or end == start):
            taken += kept.envelopes[end].size
            end += 1
        on = kept.offsets[end - 1] + 1 if end > start else kept.high
        return Batch(partition, kept.offsets[start:end], Given(kept.envelopes[start:end]), on), taken

    def waiting(self, signal: Signal, anything: Callable[[], bool]) -> AbstractContextManager[None]:
        return self._waiters.entered(signal, anything)

    def _existing(self, topic: str) -> Log:
        log = self._logs.get(topic)
        if log is None:
            raise no_such_topic(topic)
        return log

    def _part(self, partition: Partition) -> _Kept:
        kept = self._kept.get(partition)
        if kept is None:
            raise no_such_partition(partition)
        return kept

    def _waits(self, partition: Partition, offset: int) -> Backlog:
        kept = self._part(partition)
        place = bisect_left(kept.offsets, offset)
        waiting = len(kept.offsets) - place
        return Backlog(waiting, kept.envelopes[place].time if waiting else None)
