"""The parked events of one lane, run in order under savepoints: for handlers that take a transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from evenflow.drive import ends_us
from evenflow.errors import FenceLost, StatementFailed, StoreUnavailable
from evenflow.group import GroupLoop
from evenflow.parking import ParkedRow
from evenflow.position import Owned
from evenflow.unit_of_work import UnitOfWork, open_unit

Call = Callable[[UnitOfWork, Owned, ParkedRow, Any], Awaitable[None]]


class Lane:
    """One lane of a partition that this process owns, with due events."""

    def __init__(self, loop: GroupLoop, owned: Owned, lane: str, call: Call) -> None:
        self._loop = loop
        self._owned = owned
        self._lane = lane
        self._call = call
        self._topic = owned.partition.topic
        self._unit = UnitOfWork(loop.work.outbox, loop.lineage)
        loop.guard(self._unit, owned)

    async def run(self) -> None:
        """Until one fails or all are done, in one transaction."""
        unit, parking, lane = self._unit, self._loop.parking, self._lane
        token = open_unit.set(unit)
        try:
            session = await unit.begin()
            rows = await parking.rows(session, self._topic, lane)
            done = 0
            for row in rows:
                if not await self._event(row):
                    break
                done += 1
            unit.current = None
            await unit.flush()
            more = await parking.rows(session, self._topic, lane, 1)
            if more and done == len(rows):
                parking.head(unit, self._topic, lane, more[0])
            await self._loop.commit(unit)
        except StatementFailed as error:
            await unit.rollback()
            await self._failed(error)
        except BaseException:
            await unit.rollback()
            raise
        else:
            if not more:
                self._owned.lanes.discard(lane)
        finally:
            open_unit.reset(token)

    async def _event(self, row: ParkedRow) -> bool:
        """Run one parked event; whether it is done with."""
        unit, loop, envelope = self._unit, self._loop, row.envelope
        unit.current = None
        if row.wish == "discard":
            loop.parking.remove(unit, self._topic, self._lane, row)
            return True
        await unit.flush()
        session = await unit.begin()
        await session.savepoint()
        mark = unit.mark()
        try:
            binding = loop.work.bindings.get(envelope.type)
            if binding is not None:
                await self._call(unit, self._owned, row, binding.read(envelope, self._topic))
            unit.current = None
            await unit.flush()
            await session.release()
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            await unit.undo_to_savepoint(mark)
            self._failed_again(unit, row, error)
            return False
        loop.counters.handled += 1
        loop.parking.remove(unit, self._topic, self._lane, row)
        return True

    def _failed_again(self, unit: UnitOfWork, row: ParkedRow, error: BaseException) -> None:
        decision = self._loop.parking.failed_again(unit, self._topic, self._lane, row, error)
        self._loop.told_failure(decision, row.envelope, error)

    async def _failed(self, error: StatementFailed) -> None:
        """The commit failed: it counts as a failure of the lane's head."""
        unit = UnitOfWork(self._loop.work.outbox, self._loop.lineage)
        self._loop.guard(unit, self._owned)
        try:
            for row in await self._loop.parking.rows(await unit.begin(), self._topic, self._lane, 1):
                self._failed_again(unit, row, error)
            await unit.commit()
        except BaseException:
            await unit.rollback()
            raise
