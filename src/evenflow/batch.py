"""Batch handlers: a list of events of one partition at a time. A failing list is halved until the culprit is alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from evenflow.chunk import ChunkLoop, Item, ends_us, publish_all
from evenflow.drive import Repeat
from evenflow.engine import Batch
from evenflow.errors import FenceLost, StoreUnavailable
from evenflow.group import Progress, Work
from evenflow.parking import ParkedRow, lane_of
from evenflow.position import Owned
from evenflow.unit_of_work import Transaction, UnitOfWork


class BatchLoop(ChunkLoop):
    """Runs a handler that takes a list of events, with or without a transaction."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.size = work.spec.size

    def _pace(self, count: int, seconds: float) -> None:  # noqa: ARG002  # the size is the user's choice
        self._careful = max(0, self._careful - 1)

    def _foreign(self) -> None:
        """A batch handler may wait for the outside: it is one call, and one transaction, already."""

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
        owned, stop = self.owned.get(batch.partition), start + self.size
        if start >= len(batch.envelopes) or owned is None or batch.partition in self._blocked:
            return None
        if (start and owned.next != batch.offsets[start]) or batch.partition in self._giving:
            return None
        after = batch.offsets[stop] if stop < len(batch.envelopes) else batch.next
        return Batch(batch.partition, batch.offsets[start:stop], batch.envelopes[start:stop], after)

    async def work_through(
        self,
        unit: UnitOfWork,
        progress: Progress,
        batch: Batch,  # noqa: ARG002
        items: Iterable[Item],
        careful: bool,
    ) -> None:
        await (self._halve if careful else self._first_pass)(unit, progress, list(items))

    async def _first_pass(self, unit: UnitOfWork, progress: Progress, items: list[Item]) -> None:
        if not items:
            return
        try:
            await self._call(unit, items)
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            raise Repeat from error
        progress.handled = len(items)

    def _free(self, unit: UnitOfWork, progress: Progress, items: list[Item]) -> list[Item]:
        """The items to be called: not those that stand behind one that was parked since they were selected."""
        free = []
        for item in items:
            held = bool(progress.failed) and lane_of(item[1], progress.owned.partition, item[0]) in progress.failed
            if item[0] >= progress.next or (held and not self._behind(unit, progress, item[0], item[1])):
                break
            if not held:
                free.append(item)
        return free

    async def _call(self, unit: UnitOfWork, items: list[Item]) -> None:
        tx = unit.current = Transaction(unit, items[0][1])
        result = await self.drive(unit, self.invoke(unit, [item[2] for item in items], tx, None))
        if result is not None:
            publish_all(tx, result)
        if unit.failed is not None:
            raise unit.failed

    async def _halve(self, unit: UnitOfWork, progress: Progress, items: list[Item]) -> None:
        """Call the handler under a savepoint; when it fails, with each half of the list, and park who fails alone."""
        items = self._free(unit, progress, items)
        if not items:
            return
        unit.current = None
        await unit.flush()
        session = await unit.begin()
        await session.savepoint()
        mark = unit.mark()
        try:
            await self._call(unit, items)
            await unit.flush()
            await session.release()
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            await unit.undo_to_savepoint(mark)
            if len(items) == 1:
                progress.failed.add(lane_of(items[0][1], progress.owned.partition, items[0][0]))
                self.park(unit, progress, items[0][0], items[0][1], error)
                return
            middle = len(items) // 2
            await self._halve(unit, progress, items[:middle])
            await self._halve(unit, progress, items[middle:])
        else:
            progress.handled += len(items)

    async def run_parked(self, unit: UnitOfWork, owned: Owned, row: ParkedRow, event: Any) -> None:  # noqa: ARG002
        await self._call(unit, [(row.offset, row.envelope, event)])
