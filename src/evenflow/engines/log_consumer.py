"""The consumer of every engine that is a log of ours: fairness, waiting, and where reading has to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from evenflow.clock import Clock, Signal
from evenflow.engine import Batch, Bounds, Partition
from evenflow.errors import GroupStopped, Refused

RUN = 256
"""A fetch over many partitions reads runs of this length, and the rest of them next time."""


class ReadableLog(Protocol):
    """What such an engine gives its consumers."""

    async def refresh(self) -> None:
        """Make `bounds_nowait` tell of everything that was stored before this call."""
        ...

    def bounds_nowait(self, partition: Partition) -> Bounds:
        """What is kept, as of the last refresh. Raises `GroupStopped` for a partition that the log has not."""
        ...

    async def take(self, partition: Partition, offset: int, limit: int, size: int) -> tuple[Batch, int]:
        """Events from this offset on, and their bytes; at least one if any is kept. May only move `next` past gaps."""
        ...

    def waiting(self, signal: Signal, anything: Callable[[], bool]) -> AbstractContextManager[None]:
        """While this is entered, the signal is set when there is anything to read for the one who waits."""
        ...


class Waiters:
    """Who waits for events of a log: a wake-up costs far more than the question whether it is for nothing."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Signal, Callable[[], bool]]] = []

    @contextmanager
    def entered(self, signal: Signal, anything: Callable[[], bool]) -> Iterator[None]:
        """See `ReadableLog.waiting`."""
        each = (signal, anything)
        self._waiting.append(each)
        try:
            yield
        finally:
            self._waiting.remove(each)

    def wake(self) -> None:
        """Wake those who have something to read now, or an error to meet."""
        for signal, anything in self._waiting:
            if not signal.is_set() and _true_or_wrong(anything):
                signal.set()

    def wake_all(self) -> None:
        for signal, _ in self._waiting:
            signal.set()


def _true_or_wrong(anything: Callable[[], bool]) -> bool:
    try:
        return anything()
    except Exception:  # who waits meets it by himself
        return True


class Place:
    """Where a consumer is in one partition."""

    __slots__ = ("offset", "paused")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.paused = False


class LogConsumer:
    """Reads partitions of a log. Partitions that were served stand at the end of the line for the next fetch."""

    def __init__(self, group: str, log: ReadableLog, clock: Clock) -> None:
        self._group = group
        self._log = log
        self._clock = clock
        self._places: dict[Partition, Place] = {}
        self._signal = Signal()
        self._woken = False
        self._closed = False

    def assign(self, partition: Partition, offset: int) -> None:
        self._places[partition] = Place(offset)
        self._signal.set()

    def release(self, partition: Partition) -> None:
        self._places.pop(partition, None)

    def pause(self, partition: Partition) -> None:
        place = self._places.get(partition)
        if place is not None:
            place.paused = True

    def resume(self, partition: Partition) -> None:
        place = self._places.get(partition)
        if place is not None:
            place.paused = False
            self._signal.set()

    def wake(self) -> None:
        self._woken = True
        self._signal.set()

    async def close(self) -> None:
        self._closed = True
        self._places.clear()
        self.wake()

    async def fetch(self, limit: int, size: int, wait: float | None) -> Sequence[Batch]:
        deadline = None if wait is None else self._clock.monotonic() + wait
        while True:
            self._signal.clear()
            batches = await self._look(limit, size)
            if batches or self._woken or self._closed:
                self._woken = False
                return batches
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                return batches
            with self._log.waiting(self._signal, self._anything):
                if not await self._clock.wait(self._signal, left):
                    return batches

    async def _look(self, limit: int, size: int) -> list[Batch]:
        await self._log.refresh()
        ready = self._ready()
        found: list[tuple[Partition, Place, int, Batch]] = []
        for turn, (partition, place) in enumerate(ready):
            if limit <= 0 or size <= 0:
                break
            offset = place.offset
            share = fair_share(limit, len(ready) - turn)
            batch, taken = await self._log.take(partition, offset, share, max(1, size // (len(ready) - turn)))
            limit -= len(batch.envelopes)
            size -= taken
            found.append((partition, place, offset, batch))
        return self._moved(found)

    def _anything(self) -> bool:
        bounds = self._log.bounds_nowait
        return any(
            not place.paused and bounds(partition).high != place.offset for partition, place in self._places.items()
        )

    def _ready(self) -> list[tuple[Partition, Place]]:
        ready = []
        for partition, place in self._places.items():
            if not place.paused:
                bounds = self._log.bounds_nowait(partition)
                if place.offset < bounds.low or place.offset > bounds.high:
                    raise unreadable(self._group, partition, place.offset, bounds)
                if place.offset < bounds.high:
                    ready.append((partition, place))
        return ready

    def _moved(self, found: list[tuple[Partition, Place, int, Batch]]) -> list[Batch]:
        """Move on, all at once and last, so that a fetch that is cancelled has read nothing."""
        batches = []
        for partition, place, offset, batch in found:
            if self._places.get(partition) is not place or place.offset != offset or place.paused:
                continue  # assigned anew, released or paused meanwhile
            place.offset = batch.next
            self._places[partition] = self._places.pop(partition)
            if batch.envelopes:
                batches.append(batch)
        return batches


def fair_share(limit: int, partitions: int) -> int:
    """How many events one of so many waiting partitions may give, of so many that may still be taken."""
    return min(limit, max(limit // partitions, min(RUN, limit // 2), 1))


def unreadable(group: str, partition: Partition, offset: int, bounds: Bounds) -> GroupStopped:
    """The error for a position that is outside of what the log keeps."""
    where = f"partition {partition.number} (generation {partition.generation}) of topic {partition.topic!r}"
    if offset < bounds.low:
        return GroupStopped(
            f"group {group!r} has not read {where} from offset {offset} on, but retention has removed what stood "
            f"before offset {bounds.low}: up to {bounds.low - offset} events are lost to this group",
            remedy=f"evenflow groups seek {group} --to beginning   (goes on at offset {bounds.low}); "
            "then give the topic a longer retention",
        )
    return GroupStopped(
        f"group {group!r} is at offset {offset} of {where}, but the log ends at offset {bounds.high}: the position "
        "belongs to another log, or the log has lost its end",
        remedy=f"evenflow groups seek {group} --to beginning   (or --to end), after a look at which file was restored",
    )


def made_anew(group: str, partition: Partition) -> GroupStopped:
    """The error for a topic that is another one than it was when reading began."""
    return GroupStopped(
        f"the topic {partition.topic!r} was deleted and made anew while {group!r} read it: its positions belong to "
        "what it was",
        remedy=f"evenflow groups seek {group} --to beginning (or --to end), once you know who has made it anew",
    )


def no_such_partition(partition: Partition) -> GroupStopped:
    """The error for a partition that the log does not have."""
    return GroupStopped(
        f"this log does not have {partition}: the position belongs to another log",
        remedy="start the app again, so that the topic is declared; check that the engine's URL is the right one",
    )


def no_such_topic(topic: str) -> Refused:
    """The error for a topic that nobody has declared."""
    return Refused(
        f"the topic {topic!r} does not exist in this engine",
        remedy=f"say how many partitions it has, Topic({topic!r}, partitions=4), where it is yours; where another app "
        "owns it, start that once; check the spelling",
    )
