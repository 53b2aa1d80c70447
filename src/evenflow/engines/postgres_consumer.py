"""The consumer of PostgreSQL's log: many partitions in one round trip, and none while there is something at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evenflow.clock import Clock
from evenflow.engine import Batch, Bounds, Partition
from evenflow.engines.log_consumer import LogConsumer, Place, ReadableLog, fair_share, unreadable
from evenflow.engines.packs import Pack
from evenflow.engines.postgres_tables import LogTables, Wanted
from evenflow.errors import GroupStopped

EACH = 8
"""Looks of which one asks the server in any case: what is at hand may hide that other partitions have got something."""


class PostgresConsumer(LogConsumer):
    """Reads what is known to wait; the answer tells at the same time of what came meanwhile."""

    def __init__(self, group: str, log: ReadableLog, tables: LogTables, clock: Clock) -> None:
        super().__init__(group, log, clock)
        self._tables = tables
        self._looks = 0

    def partitions(self) -> Iterator[Partition]:
        """Those that it would read."""
        return (partition for partition, place in self._places.items() if not place.paused)

    async def _look(self, limit: int, size: int) -> list[Batch]:
        ready = await self._ready_now()
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
        watched = [self._tables.part(partition) for partition in self.partitions()]
        found = await self._tables.read(wanted, watched)
        self._looks += 1
        if self._looks % EACH == 0:
            await self._tables.look(self.partitions())
        return self._taken(ready, wanted, found)

    async def _ready_now(self) -> list[tuple[Partition, Place]]:
        """The partitions that have something to read: as far as is known, otherwise as the server says."""
        try:
            for partition in self.partitions():
                self._tables.part(partition)
            ready = self._ready()
        except GroupStopped:
            ready = []
        if ready:
            return ready
        await self._tables.bounds(self.partitions())
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
