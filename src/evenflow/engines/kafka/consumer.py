"""The consumer of one group: it takes from the feeds of its process, fairly across partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from evenflow.clock import Clock, Signal
from evenflow.engine import Batch, Bounds, Partition
from evenflow.engines.kafka.feeds import Cursor, Feeds
from evenflow.engines.kafka.records import Place
from evenflow.engines.log_consumer import fair_share, made_anew, unreadable
from evenflow.errors import EvenflowError


class Places(Protocol):
    """What a consumer asks the brokers."""

    async def stand(self, partitions: Sequence[Partition]) -> Mapping[Partition, tuple[Place, Bounds]]:
        """Where these partitions are, and what they keep. Raises `GroupStopped` for one that is gone."""
        ...


class KafkaConsumer:
    """Nothing is read of a partition before its offset was compared with what the partition keeps."""

    def __init__(self, group: str, feeds: Feeds, places: Places, clock: Clock) -> None:
        self._group = group
        self._feeds = feeds
        self._places = places
        self._clock = clock
        self._cursors: dict[Partition, Cursor] = {}
        self._incarnations: dict[Partition, str] = {}
        self._signal = Signal()
        self._woken = False
        self._closed = False
        self._error: EvenflowError | None = None
        self._looking: asyncio.Task[None] | None = None

    def assign(self, partition: Partition, offset: int) -> None:
        self.release(partition)
        self._cursors[partition] = Cursor(partition, offset, self._signal)
        self._error = None
        self._signal.set()

    def release(self, partition: Partition) -> None:
        cursor = self._cursors.pop(partition, None)
        if cursor is not None:
            self._feeds.detach(cursor)

    def pause(self, partition: Partition) -> None:
        cursor = self._cursors.get(partition)
        if cursor is not None:
            cursor.paused = True

    def resume(self, partition: Partition) -> None:
        cursor = self._cursors.get(partition)
        if cursor is not None:
            cursor.paused = False
            self._signal.set()

    def wake(self) -> None:
        self._woken = True
        self._signal.set()

    async def close(self) -> None:
        self._closed = True
        for partition in list(self._cursors):
            self.release(partition)
        if self._looking is not None:
            self._looking.cancel()
        self.wake()

    async def fetch(self, limit: int, size: int, wait: float | None) -> Sequence[Batch]:
        deadline = None if wait is None else self._clock.monotonic() + wait
        while True:
            self._signal.clear()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            self._begin()
            batches = self._take(limit, size)
            if batches or self._woken or self._closed:
                self._woken = False
                return batches
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                await asyncio.sleep(0)  # or whoever only looks would never let anything arrive
                return batches
            self._hungry()
            await self._clock.wait(self._signal, left)

    # -- where to read ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Ask about the partitions that are not read yet, or whose reading has failed."""
        if self._looking is None and any(_unread(each) for each in self._cursors.values()):
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        cursors = [each for each in self._cursors.values() if _unread(each)]
        try:
            await self._compare(cursors)
        except EvenflowError as error:
            self._error = error
        finally:
            self._looking = None
            self._signal.set()

    async def _compare(self, cursors: Sequence[Cursor]) -> None:
        found = await self._places.stand([each.partition for each in cursors])
        for cursor in cursors:
            place, bounds = found[cursor.partition]
            if self._cursors.get(cursor.partition) is not cursor:
                continue  # assigned anew or released meanwhile
            if self._incarnations.setdefault(cursor.partition, place.incarnation) != place.incarnation:
                del self._incarnations[cursor.partition]
                raise made_anew(self._group, cursor.partition)
            if not bounds.low <= cursor.offset <= bounds.high:
                raise unreadable(self._group, cursor.partition, cursor.offset, bounds)
            self._feeds.attach(cursor, place)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _take(self, limit: int, size: int) -> list[Batch]:
        ready = [each for each in self._cursors.values() if _ready(each)]
        found: list[Batch] = []
        for turn, cursor in enumerate(ready):
            if limit <= 0 or size <= 0:
                break
            feed = cursor.feed
            assert feed is not None
            share = fair_share(limit, len(ready) - turn)
            got = feed.take(cursor, share, max(1, size // (len(ready) - turn)))
            if got is None:
                continue
            batch, taken = got
            limit -= len(batch.offsets)
            size -= taken
            cursor.offset = batch.next
            feed.forget()
            feed.reader.regulate()
            self._feeds.caught_up(cursor)
            self._cursors[cursor.partition] = self._cursors.pop(cursor.partition)
            found.append(batch)
        return found

    def _hungry(self) -> None:
        """We wait: whatever keeps our readers from reading on is to make room."""
        waiting = [each for each in self._cursors.values() if each.feed is not None and not each.paused]
        for reader in self._feeds.readers:
            if reader.full and any(each.feed is not None and each.feed.reader is reader for each in waiting):
                reader.make_room(waiting)


def _unread(cursor: Cursor) -> bool:
    return not cursor.paused and (cursor.feed is None or cursor.feed.failed is not None)


def _ready(cursor: Cursor) -> bool:
    feed = cursor.feed
    return feed is not None and not cursor.paused and feed.waiting(cursor.offset)
