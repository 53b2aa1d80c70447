"""The consumer of PostgreSQL's log: many partitions in one round trip, and none while there is something at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evenflow.clock import Clock
from evenflow.engine import Batch, Bounds, Partition
from evenflow.engines.log_consumer import LogConsumer, Place, ReadableLog, fair_share, made_anew, unreadable
from evenflow.engines.packs import Pack
from evenflow.engines.postgres.tables import LogTables, Wanted
from evenflow.errors import GroupStopped

EACH = 8
"""Looks of which one asks the server in any case: what is at hand may hide that other partitions have got something."""


class PostgresConsumer(LogConsumer):
    """Reads what is known to wait; the answer tells at the same time of what came meanwhile."""

    def __init__(
        self, group: str, log: ReadableLog, tables: LogTables, clock: Clock, current: Callable[[], bool]
    ) -> None:
        super().__init__(group, log, clock)
        self._tables = tables
        self._current = current
        self._looks = 0
        self._incarnations: dict[str, str] = {}
        """Of topics that it reads: a log that is made anew has another one, and these offsets mean nothing in it."""
        self._rests = False
        """Whether there was nothing at the last look, which was at all that it reads, and may be nothing still."""

    def assign(self, partition: Partition, offset: int) -> None:
        super().assign(partition, offset)
        self._rests = False
        self._incarnations[partition.topic] = ""

    def resume(self, partition: Partition) -> None:
        super().resume(partition)
        self._rests = False

    async def fetch(self, limit: int, size: int, wait: float | None) -> Sequence[Batch]:
        if wait is not None and wait <= 0:  # nobody would hear a notification
            self._rests = False
        return await super().fetch(limit, size, wait)

    def _anything(self) -> bool:
        found = super()._anything()
        self._rests = self._rests and not found  # an answer that is older may hide again what it is woken for
        return found

    def places(self) -> dict[Partition, int]:
        """The partitions that it would read, and where it is in each."""
        return {partition: place.offset for partition, place in self._places.items() if not place.paused}

    async def _look(self, limit: int, size: int) -> list[Batch]:
        ready = await self._ready_now()
        self._refuse_anew()
        if not ready:
            return []
        wanted = []
        for turn, (partition, place) in enumerate(ready):
            if limit <= 0 or size <= 0:
                break
            part = self._tables.part(partition)
            left = len(ready) - turn
            share = min(fair_share(limit, left), part.next - place.offset)
            portion = max(1, size // left)
            wanted.append(Wanted(part, place.offset, share, portion))
            limit -= share
            size -= portion
        watched = [self._tables.part(partition) for partition in self.places()]
        found = await self._tables.read(wanted, watched)
        self._looks += 1
        if self._looks % EACH == 0:
            await self._tables.look(self.places())
        return self._taken(ready, wanted, found)

    def _refuse_anew(self) -> None:
        """Raise `GroupStopped` where a topic is another one than it was."""
        for topic, begun in self._incarnations.items():
            known = self._tables.known(topic)
            if known is None or begun == known.log.incarnation:
                continue
            if not begun:
                self._incarnations[topic] = known.log.incarnation
            elif read := [each for each in self._places if each.topic == topic]:
                raise made_anew(self._group, read[0])

    async def _ready_now(self) -> list[tuple[Partition, Place]]:
        """The partitions that have something to read: as far as is known, otherwise as the server says."""
        try:
            for partition in self.places():
                self._tables.part(partition)
            ready = self._ready()
        except GroupStopped:
            ready, self._rests = [], False
            await self._tables.parts(self.places())
        if ready or (self._rests and self._current()):
            self._rests = not ready
            return ready
        self._looks = 0
        self._rests = True
        await self._tables.look(self.places())
        await self._tables.parts(self.places())  # a look may find that a topic is another one now
        return self._ready()

    def _taken(
        self, ready: Sequence[tuple[Partition, Place]], wanted: Sequence[Wanted], found: Sequence[Sequence[Pack]]
    ) -> list[Batch]:
        taken = []
        for (partition, place), each, packs in zip(ready, wanted, found, strict=False):
            if each.offset < each.part.low:
                raise unreadable(self._group, partition, each.offset, Bounds(each.part.low, each.part.next))
            batch, _ = self._tables.batch(each, packs)
            taken.append((partition, place, each.offset, batch))
        return self._moved(taken)
