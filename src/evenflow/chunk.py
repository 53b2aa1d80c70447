"""Transactional handlers: many events in one transaction, called one after another, effects once.

A chunk is what one fetch brought, of one or several partitions. In its first pass the handlers only hand over, or
read and write as they go, and everything is one transaction: guards, what they did, positions. When a statement fails
there, the transaction is rolled back and the chunk is worked through again carefully, each event under a savepoint,
so that the failing one is known and parked while its neighbours pass. An error that only the commit shows sends each
event through a transaction of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from evenflow.calling import Calling
from evenflow.drive import PassDrive, Repeat
from evenflow.engine import Batch
from evenflow.envelopes import joined
from evenflow.errors import FenceLost, StatementFailed, TransactionAborted
from evenflow.group import GroupLoop
from evenflow.lane import run_lanes
from evenflow.parking import SUSPECT, ParkedRow, lane_of
from evenflow.passes import Pass
from evenflow.policy import ProcessEnded
from evenflow.position import Owned
from evenflow.unit_of_work import Transaction, UnitOfWork, open_unit
from evenflow.work import Progress, Work

CHUNK = 512
SHARED_CHUNK = 2048
"""Where others can write meanwhile, a commit is a way to a server and back: a chunk grows to this while its calls take
no longer than `CALLS_TIME`."""
CALLS_TIME = 0.01
CHUNK_TIME = 0.05
"""Seconds that one chunk may take before the next one is made smaller, where nobody else can write meanwhile."""
SHARED_CHUNK_TIME = 0.25
"""The same where others can. Most of it is spent waiting for a busy server: smaller chunks would wait more often."""
AGAIN = 0.02
"""Seconds at most until a transaction is tried again that was undone for the sake of another."""
CAREFUL_FOR = 8
"""Chunks that are worked through carefully at once, after one had to be repeated."""


class ChunkLoop(GroupLoop):
    """Runs a per-event handler that takes a transaction."""

    new_pass: type[Pass] = Pass
    neighbours = True
    """Whether a handler that waits for the outside holds up other events of its transaction."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.size = CHUNK
        self.calling = Calling(work, neighbours=self.neighbours)
        self._careful = 0
        self._called = 0.0
        self._most = SHARED_CHUNK if work.store.capabilities.writers > 1 else CHUNK
        self._longest = SHARED_CHUNK_TIME if work.store.capabilities.writers > 1 else CHUNK_TIME

    def room(self) -> int:
        return self.size

    def signs(self) -> int:
        return self.calling.waits + self.counters.chunks

    async def handle(self, batches: Sequence[Batch]) -> None:
        started = time.perf_counter()
        alone = self.calling.alone or any(_suspicious(self.owned[batch.partition]) for batch in batches)
        if alone or not await self.chunk(batches, careful=self._careful > 0):
            await self._one_by_one(batches)
        self._pace(sum(len(batch.envelopes) for batch in batches), time.perf_counter() - started)

    def _pace(self, count: int, seconds: float) -> None:
        self._careful = max(0, self._careful - 1)
        if seconds > self._longest and count > 1:
            self.size = max(20, min(self.size, count) // 2)
            return
        most = self._most if self._called < CALLS_TIME else CHUNK
        if self.size < most and count >= self.size:
            self.size = min(most, self.size + max(20, self.size // 4))

    async def _one_by_one(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            suspect = batch.partition in self.owned and _suspicious(self.owned[batch.partition])
            for place, offset in enumerate(batch.offsets):
                if self._stopping or batch.partition in self._giving:
                    break  # what is not begun is released, for the next owner
                owned = self.owned.get(batch.partition)
                if owned is None or offset < owned.next or batch.partition in self._blocked:
                    continue
                one = part_of(batch, place, place + 1)
                if suspect and await self._suspect(owned, one):
                    continue
                if not await self.chunk([one], careful=True):
                    return

    async def _suspect(self, owned: Owned, one: Batch) -> bool:
        """Try an event behind a durable mark. True when it had ended a process before, and is parked for that."""
        offset = one.offsets[0]
        if lane_of(one.envelopes[0], owned.partition, offset) in owned.lanes:
            return False  # it only goes behind another of its key
        if owned.trying == offset:
            await self._park_alone(one, ProcessEnded())
            return True
        sql, args = self._sql["position_try"], (*owned.where, offset)
        if await self.work.store.transact(lambda session: session.execute(sql, args)) != 1:
            raise FenceLost("another owner has taken the partition")
        owned.trying = offset
        return False

    async def undone(self) -> None:
        """Read on from where it stands: nothing of it was written, and nobody has taken a partition."""
        for owned in self.owned.values():
            if owned.partition not in self._blocked:
                self.consumer.assign(owned.partition, owned.next)
        self._due_at = 0.0
        await self.parking.measure()
        await self.work.clock.sleep(AGAIN * self.work.draw())

    # -- one transaction --------------------------------------------------------------------------------------------

    async def chunk(self, batches: Sequence[Batch], *, careful: bool) -> bool:
        """Work through these batches in one transaction. False when each event needs a transaction of its own.

        Partitions that are lost by now are left out.
        """
        batches = [batch for batch in batches if batch.partition in self.owned]
        unit = UnitOfWork(self.work.outbox, self.lineage)
        token = open_unit.set(unit)
        try:
            progresses = await self._worked(unit, batches, careful)
            await self.commit(unit)
        except (Repeat, StatementFailed, TransactionAborted) as error:
            await unit.rollback()
            return await self._again(batches, careful, error)
        except BaseException:
            await unit.rollback()
            raise
        finally:
            open_unit.reset(token)
        self.counters.chunks += 1
        for progress in progresses:
            self.moved(progress)
        for batch in batches[len(progresses) :]:
            if batch.partition in self.owned:
                self.consumer.assign(batch.partition, self.owned[batch.partition].next)
        return True

    async def _worked(self, unit: UnitOfWork, batches: Sequence[Batch], careful: bool) -> list[Progress]:
        """What became of the batches, up to the first that was not worked through to its end."""
        progresses: list[Progress] = []
        began = time.perf_counter()
        for batch in batches:
            self.guard(unit, self.owned[batch.partition])
        unit.traced = careful
        if careful:
            await unit.begin()
        for batch in batches:
            if batch.partition not in self.owned:
                raise FenceLost("another owner has taken a partition of this transaction")
            progress = await self._wrapped(unit, batch, careful)
            self.move(unit, progress, [])
            progresses.append(progress)
            if not progress.complete:
                break
        self._called = time.perf_counter() - began
        return progresses

    async def _again(self, batches: Sequence[Batch], careful: bool, error: Exception) -> bool:
        await self.parking.measure()
        if not careful:
            self._careful = CAREFUL_FOR
            return await self.chunk(batches, careful=True)
        if sum(len(batch.envelopes) for batch in batches) > 1:
            return False  # the commit itself failed: whose fault it is shows one by one
        await self._park_alone(batches[0], error)
        return True

    async def _park_alone(self, batch: Batch, error: Exception) -> None:
        """Park the one event of this batch without calling its handler."""
        if batch.partition not in self.owned:
            return
        unit = UnitOfWork(self.work.outbox, self.lineage)
        self.guard(unit, self.owned[batch.partition])
        if isinstance(error, Repeat) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        progress = await self.new_pass(self, self.calling, unit, batch, careful=True).park_first(error)
        self.move(unit, progress, [])
        await unit.commit()
        self.moved(progress)

    async def _wrapped(self, unit: UnitOfWork, batch: Batch, careful: bool) -> Progress:
        around = self.work.around_chunk
        if around is None:
            return await self._driven(unit, batch, careful)
        return await around(self.name, len(batch.envelopes), lambda: self._driven(unit, batch, careful))  # type: ignore[no-any-return]

    async def _driven(self, unit: UnitOfWork, batch: Batch, careful: bool) -> Progress:
        """Work through a batch, seeing what its handlers wait for and how long."""
        coroutine = self.new_pass(self, self.calling, unit, batch, careful=careful).run()
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            done: Progress = stop.value
            return done
        foreign = partial(self.calling.foreign, unit)
        drive = PassDrive(coroutine, yielded, unit, self.work.clock, self.spec.policy.timeout, foreign)
        return await drive  # type: ignore[no-any-return]

    # -- parked lanes -----------------------------------------------------------------------------------------------

    async def run_lanes(self, owned: Owned, lanes: Sequence[str]) -> None:
        await run_lanes(self, owned, lanes, self.run_parked, alone=self.calling.alone)

    async def run_parked(self, unit: UnitOfWork, owned: Owned, row: ParkedRow, event: Any) -> None:
        """Call the handler for a parked event."""
        tx = unit.current = Transaction(unit, row.envelope)
        delivery = self.delivery(owned, row.offset, row.envelope, row.attempt)
        await self.calling.call(unit, tx, event, delivery)


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """The events of a batch from one place to another, with all that lies before the next."""
    after = batch.offsets[stop] if stop < len(batch.offsets) else batch.next
    envelopes = joined([(batch.envelopes, start, min(stop, len(batch.offsets)))])
    return Batch(batch.partition, batch.offsets[start:stop], envelopes, after)


def _suspicious(owned: Owned) -> bool:
    """Whether processes seem to end at an event of this partition."""
    return owned.claims >= SUSPECT or owned.trying is not None
