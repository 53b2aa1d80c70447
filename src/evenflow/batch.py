"""Batch handlers: a list of events of one partition at a time. A failing list is halved until the culprit is alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evenflow.calling import publish_all
from evenflow.chunk import ChunkLoop, part_of
from evenflow.drive import Repeat, ends_us
from evenflow.engine import Batch
from evenflow.envelope import Envelope
from evenflow.envelopes import Given
from evenflow.errors import FenceLost, StoreConflict, StoreUnavailable
from evenflow.failure import Failure
from evenflow.parking import ParkedRow, lane_of
from evenflow.passes import Item, Pass
from evenflow.position import Owned
from evenflow.unit_of_work import Transaction, UnitOfWork
from evenflow.work import Work


class BatchPass(Pass):
    """One pass over a list. A careful one halves it."""

    async def work_through(self, known: set[tuple[str, str]]) -> None:
        if self.careful:
            await self._halve(list(self.select(0, known)))
            return
        events = self._all()
        if events is not None:
            await self._first(events, 0)
        elif items := list(self.select(0, known)):
            await self._first([item[2] for item in items], items[0][1])

    def _all(self) -> list[Any] | None:
        """The events of the whole batch, where nothing about them is special: the hot path."""
        events = self.events()
        try:
            return None if events is None or self.held else list(events)
        except Exception:  # `select` tells which of them, and why
            return None

    async def _first(self, events: list[Any], cause: Envelope | int) -> None:
        try:
            await self.call_all(events, cause)
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            if isinstance(self.unit.failed, StoreConflict):
                raise self.unit.failed from error
            self.loop.parking.stop_for(error)
            raise Repeat from error
        self.progress.handled = len(events)

    async def call_all(self, events: list[Any], cause: Envelope | int) -> None:
        """Call the handler for these events."""
        unit = self.unit
        tx = unit.current = Transaction(unit, cause)
        publish_all(tx, await self.calling.drive(unit, self.calling.invoke(unit, events, tx, None)))
        if unit.failed is not None:
            raise unit.failed

    def _free(self, items: list[Item]) -> list[Item]:
        """The items to be called: not those that stand behind one that was parked since they were selected."""
        progress, free = self.progress, []
        for item in items:
            held = bool(progress.failed) and lane_of(item[1], progress.owned.partition, item[0]) in progress.failed
            if item[0] >= progress.next or (held and not self.behind(item[0], item[1])):
                break
            if not held:
                free.append(item)
        return free

    async def _halve(self, items: list[Item], earlier: Failure | None = None) -> None:
        """Call the handler under a savepoint; when it fails, with each half of the list, and park who fails alone.

        One alone is called again in place, as often as the policy says.
        """
        unit, progress = self.unit, self.progress
        items = self._free(items)
        if not items:
            return
        unit.current = None
        await unit.flush()
        session = await unit.begin()
        await session.savepoint()
        mark = unit.mark()
        try:
            await self.call_all([item[2] for item in items], items[0][1])
            await unit.flush()
            await session.release()
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            if isinstance(unit.failed, StoreConflict):
                raise unit.failed from error
            await unit.undo_to_savepoint(mark)
            attempt = 1 if earlier is None else earlier.attempt + 1
            failure = self.loop.parking.judge(error, attempt, earlier=earlier)
            if len(items) > 1:
                middle = len(items) // 2
                await self._halve(items[:middle])
                await self._halve(items[middle:])
            elif failure.again:
                await self._halve(items, failure)
            else:
                progress.failed.add(lane_of(items[0][1], progress.owned.partition, items[0][0]))
                self.park(items[0][0], items[0][1], failure)
        else:
            progress.handled += len(items)


class BatchLoop(ChunkLoop):
    """Runs a handler that takes a list of events, with or without a transaction."""

    new_pass = BatchPass
    neighbours = False  # it is one call, and one transaction, already

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.size = work.spec.size

    def _pace(self, count: int, seconds: float) -> None:  # noqa: ARG002  # the size is the user's choice
        self._careful = max(0, self._careful - 1)

    def room(self) -> int:
        return self.size * max(1, len(self.owned))

    async def handle(self, batches: Sequence[Batch]) -> None:
        """Lists of at most `size` events of one partition; lists of several partitions share a transaction."""
        for start in range(0, max((len(batch.envelopes) for batch in batches), default=0), self.size):
            parts = [part for batch in batches if (part := self._part(batch, start)) is not None]
            if parts:
                await super().handle(parts)

    def _part(self, batch: Batch, start: int) -> Batch | None:
        """The list that begins there, unless the partition is lost, waits, or is to be read anew by now."""
        owned = self.owned.get(batch.partition)
        if start >= len(batch.envelopes) or owned is None or batch.partition in self._blocked:
            return None
        if (start and owned.next != batch.offsets[start]) or batch.partition in self._giving:
            return None
        return part_of(batch, start, start + self.size)

    async def run_parked(self, unit: UnitOfWork, owned: Owned, row: ParkedRow, event: Any) -> None:
        one = Batch(owned.partition, (row.offset,), Given((row.envelope,)), row.offset + 1)
        await BatchPass(self, self.calling, unit, one, careful=True).call_all([event], row.envelope)
