"""Batch handlers: a list of events of one partition at a time. A failing list is halved until the culprit is alone."""

from __future__ import annotations

from typing import Any

from evenflow.chunk import ChunkLoop, Repeat, ends_us, publish_all
from evenflow.engine import Batch
from evenflow.envelope import Envelope
from evenflow.errors import DecodeError, FenceLost, StoreUnavailable
from evenflow.group import Progress, Work
from evenflow.parking import ParkedRow, lane_of
from evenflow.position import Owned
from evenflow.unit_of_work import Transaction, UnitOfWork

Item = tuple[int, Envelope, Any]


class BatchLoop(ChunkLoop):
    """Runs a handler that takes a list of events, with or without a transaction."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.size = work.spec.size

    def _pace(self, count: int, seconds: float) -> None:  # noqa: ARG002  # the size is the user's choice
        self._careful = max(0, self._careful - 1)

    def _foreign(self) -> None:
        """A batch handler may wait for the outside: it is one call, and one transaction, already."""

    async def events(self, unit: UnitOfWork, batch: Batch, careful: bool) -> Progress:
        owned, bindings, topic = self.owned[batch.partition], self.work.bindings, batch.partition.topic
        progress = Progress(owned, batch.next, owned.last_id, owned.marks.fork())
        taking, items = progress.taking, []
        for offset, envelope in zip(batch.offsets, batch.envelopes, strict=True):
            if envelope.producer:
                slots = taking.touched.get(envelope.producer) or taking.slots(envelope.producer)
                if slots.get(envelope.slot) == envelope.number - 1:
                    slots[envelope.slot] = envelope.number
                elif not self.fresh(owned, taking, envelope):
                    continue
            elif not await self.first_seen(progress, offset, envelope):
                continue
            binding = bindings.get(envelope.type)
            if binding is None:
                self.counters.skipped += 1
                continue
            try:
                items.append((offset, envelope, binding.read(envelope, topic)))
            except DecodeError as error:
                self.park(unit, progress, offset, envelope, error)
                if not progress.complete:
                    break
        progress.last_id = batch.envelopes[-1].id if batch.envelopes else owned.last_id
        if careful:
            await self._halve(unit, progress, items)
        else:
            await self._first_pass(unit, progress, items)
        unit.current = None
        if progress.blocked:
            self.stop_at(progress, batch, progress.next, progress.blocked)
        return progress

    async def _first_pass(self, unit: UnitOfWork, progress: Progress, items: list[Item]) -> None:
        items = self._free(unit, progress, items)
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
        """The items to be called; what stands behind a parked event of its key is parked."""
        lanes = progress.owned.lanes | progress.lanes
        if not lanes:
            return [item for item in items if item[0] < progress.next]
        free = []
        for item in items:
            lane = lane_of(item[1], progress.owned.partition, item[0])
            if item[0] >= progress.next or (lane in lanes and not self._behind(unit, progress, item[0], item[1], lane)):
                break
            if lane not in lanes:
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
            unit.current, unit.failed = None, None
            await session.rollback_to()
            kept = min(len(unit.statements), max(mark[0], unit.applied))
            del unit.statements[kept:], unit.sites[kept:], unit.published[mark[1] :]
            if len(items) == 1:
                self.park(unit, progress, items[0][0], items[0][1], error)
                return
            middle = len(items) // 2
            await self._halve(unit, progress, items[:middle])
            await self._halve(unit, progress, items[middle:])
        else:
            progress.handled += len(items)

    async def run_parked(self, unit: UnitOfWork, owned: Owned, row: ParkedRow, event: Any) -> None:  # noqa: ARG002
        await self._call(unit, [(row.offset, row.envelope, event)])
