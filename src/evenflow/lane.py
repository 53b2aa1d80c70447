"""Parked events that are due, run lane by lane and in order: for handlers that take a transaction.

Many lanes share one transaction. In its first run the handlers only hand over; where one of them fails with something
done, it is rolled back and run again carefully, each event under a savepoint. An error that only the commit shows
sends each lane, and then the first event of a lane, through a transaction of its own.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evenflow.drive import Repeat, ends_us
from evenflow.envelope import Envelope
from evenflow.errors import FenceLost, StatementFailed, StoreConflict, StoreUnavailable, TransactionAborted
from evenflow.failure import Failure
from evenflow.group import GroupLoop
from evenflow.parking import LANE_ROWS, ParkedRow
from evenflow.position import Owned
from evenflow.registry import Binding
from evenflow.unit_of_work import UnitOfWork, open_unit

Call = Callable[[UnitOfWork, Owned, ParkedRow, Any], Awaitable[None]]

RUN_EVENTS = 500
RUN_TIME = 0.05
"""Seconds after which a transaction of parked events takes no more."""


async def run_lanes(loop: GroupLoop, owned: Owned, lanes: Sequence[str], call: Call, *, alone: bool) -> None:
    """Run the parked events of these lanes, as far as one transaction goes; `alone`: each event has one of its own."""
    if alone:
        await _carefully(loop, owned, lanes[:1], call, 1)
        return
    try:
        await Run(loop, owned, call, careful=False).run(lanes, LANE_ROWS)
    except (Repeat, StatementFailed, TransactionAborted):
        await loop.parking.measure()
        await _carefully(loop, owned, lanes, call, LANE_ROWS)


async def _carefully(loop: GroupLoop, owned: Owned, lanes: Sequence[str], call: Call, rows: int) -> None:
    """Each event under a savepoint; after an error that only the commit shows, fewer at a time."""
    run = Run(loop, owned, call, careful=True)
    try:
        await run.run(lanes, rows)
    except (StatementFailed, TransactionAborted) as error:
        await loop.parking.measure()
        if len(lanes) > 1:
            for lane in lanes:
                await _carefully(loop, owned, (lane,), call, rows)
        elif rows > 1:
            await _carefully(loop, owned, lanes, call, 1)
        else:
            await run.failed_at_commit(lanes[0], error)


class Run:
    """One transaction of parked events of a partition that this process owns."""

    def __init__(self, loop: GroupLoop, owned: Owned, call: Call, *, careful: bool) -> None:
        self._loop = loop
        self._owned = owned
        self._call = call
        self._careful = careful
        self._topic = owned.partition.topic
        self._unit = self._new_unit()
        self._unit.traced = careful
        self._until = time.perf_counter() + RUN_TIME
        self._left = RUN_EVENTS
        self._handled = 0
        self._freed: list[str] = []
        self._failures: list[tuple[Envelope, Failure]] = []

    def _new_unit(self) -> UnitOfWork:
        unit = UnitOfWork(self._loop.work.outbox, self._loop.lineage)
        self._loop.guard(unit, self._owned)
        return unit

    async def run(self, lanes: Sequence[str], rows: int) -> None:
        """At most so many events of each lane. Nothing is done when it raises."""
        unit = self._unit
        token = open_unit.set(unit)
        try:
            for lane in lanes:
                await self._lane(lane, min(rows, self._left))
                if self._over():
                    break
            await self._loop.commit(unit)
        except BaseException:
            await unit.rollback()
            raise
        finally:
            open_unit.reset(token)
        self._owned.lanes.difference_update(self._freed)
        self._loop.counters.handled += self._handled
        for envelope, failure in self._failures:
            self._loop.told_failure(failure.decision, envelope, failure.error)

    def _over(self) -> bool:
        return self._left <= 0 or time.perf_counter() >= self._until

    async def _lane(self, lane: str, limit: int) -> None:
        """Until one fails, or enough is done for one transaction."""
        unit, parking = self._unit, self._loop.parking
        rows = await parking.rows(await unit.begin(), self._topic, lane, limit + 1)
        done = 0
        for row in rows[:limit]:
            if not await self._event(lane, row):
                return
            done += 1
            self._left -= 1
            if self._over():
                break
        unit.current = None
        if done < len(rows):
            parking.head(unit, self._topic, lane, rows[done])
        else:
            self._freed.append(lane)

    async def _event(self, lane: str, row: ParkedRow) -> bool:
        """Run one parked event; whether it is done with."""
        unit, loop, envelope = self._unit, self._loop, row.envelope
        unit.current = None
        binding = loop.work.bindings.get(envelope.type)
        if row.wish != "discard" and binding is not None:
            failure, tried = await self._attempt(row, binding), row
            while failure is not None and failure.again:
                tried = tried.tried()
                failure = await self._attempt(tried, binding, failure)
            if failure is not None:
                loop.parking.failed_again(unit, self._topic, lane, row, failure)
                self._failures.append((envelope, failure))
                return False
        self._handled += row.wish != "discard"
        loop.parking.remove(unit, self._topic, lane, row)
        return True

    async def _attempt(self, row: ParkedRow, binding: Binding, earlier: Failure | None = None) -> Failure | None:
        """Call the handler once; what follows if it fails. Raises what is not the event's fault."""
        try:
            await self._try(row, binding)
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost, Repeat)):
                raise
            return self._loop.parking.judge(error, row.attempt, first_failed=row.first_failed, earlier=earlier)
        return None

    async def _try(self, row: ParkedRow, binding: Binding) -> None:
        """Call the handler; what it did is undone where it raises. Raises `Repeat` where it cannot be."""
        unit, mark = self._unit, self._unit.mark()
        ran = unit.ran
        if self._careful:
            await unit.flush()
            await (await unit.begin()).savepoint()
        try:
            await self._call(unit, self._owned, row, binding.read(row.envelope, self._topic))
            if unit.failed is not None:  # and the handler has gone on
                raise unit.failed
            if self._careful:
                unit.current = None
                await unit.flush()
                await (await unit.begin()).release()
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            if isinstance(unit.failed, StoreConflict):
                raise unit.failed from error
            self._loop.parking.stop_for(error)
            unit.current = None
            if self._careful:
                await unit.undo_to_savepoint(mark)
            elif unit.failed is not None or unit.ran is not ran or not unit.undo(mark):
                raise Repeat from error
            raise

    async def failed_at_commit(self, lane: str, error: Exception) -> None:
        """The commit failed: it counts as a failure of the lane's head, which was alone in it."""
        loop, unit = self._loop, self._new_unit()
        try:
            for row in await loop.parking.rows(await unit.begin(), self._topic, lane, 1):
                failure = loop.parking.judge(error, row.attempt, first_failed=row.first_failed)
                loop.parking.failed_again(unit, self._topic, lane, row, failure)
                self._failures.append((row.envelope, failure))
            await unit.commit()
        except BaseException:
            await unit.rollback()
            raise
        for envelope, failure in self._failures:
            loop.told_failure(failure.decision, envelope, failure.error)
