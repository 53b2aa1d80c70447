"""Transactional handlers: many events in one transaction, called one after another, effects once.

A chunk is what one fetch brought, of one or several partitions. In its first pass the handlers only hand over, or
read and write as they go, and everything is one transaction: guards, what they did, positions. When a statement fails
there, the transaction is rolled back and the chunk is worked through again carefully, each event under a savepoint,
so that the failing one is known and parked while its neighbours pass. An error that only the commit shows sends each
event through a transaction of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Generator, Iterable, Sequence
from typing import Any

from evenflow.drive import Drive, HandlerTimeout, PassDrive, Repeat
from evenflow.engine import Batch
from evenflow.envelope import Envelope
from evenflow.errors import FenceLost, StatementFailed, StoreUnavailable
from evenflow.group import GroupLoop, Progress, Work
from evenflow.handler import Delivery
from evenflow.parking import SUSPECT, ParkedRow, ParkingFull, ProcessEnded, lane_of
from evenflow.position import Owned
from evenflow.unit_of_work import Transaction, UnitOfWork, open_unit

log = logging.getLogger("evenflow")

CHUNK = 512
CHUNK_TIME = 0.05
"""Seconds that one chunk may take before the next one is made smaller."""
CAREFUL_FOR = 8
"""Chunks that are worked through carefully at once, after one had to be repeated."""


Item = tuple[int, Envelope, Any]
"""Offset, envelope, event."""


class ChunkLoop(GroupLoop):
    """Runs a per-event handler that takes a transaction."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.size = CHUNK
        self.alone = False
        self._careful = 0

    def room(self) -> int:
        return self.size

    async def handle(self, batches: Sequence[Batch]) -> None:
        started = time.perf_counter()
        alone = self.alone or any(_suspicious(self.owned[batch.partition]) for batch in batches)
        if alone or not await self.chunk(batches, careful=self._careful > 0):
            await self._one_by_one(batches)
        self._pace(sum(len(batch.envelopes) for batch in batches), time.perf_counter() - started)

    def _pace(self, count: int, seconds: float) -> None:
        self._careful = max(0, self._careful - 1)
        if seconds > CHUNK_TIME and count > 1:
            self.size = max(20, min(self.size, count) // 2)
        elif self.size < CHUNK:
            self.size = min(CHUNK, self.size + 20)

    async def _one_by_one(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            suspect = batch.partition in self.owned and _suspicious(self.owned[batch.partition])
            for i, (offset, envelope) in enumerate(zip(batch.offsets, batch.envelopes, strict=True)):
                if self._stopping:
                    return  # what is not begun is released, for the next owner
                owned = self.owned.get(batch.partition)
                if owned is None or offset < owned.next or batch.partition in self._blocked:
                    continue
                last = i + 1 == len(batch.envelopes)
                one = Batch(batch.partition, (offset,), (envelope,), batch.next if last else batch.offsets[i + 1])
                if suspect and await self._suspect(owned, one):
                    continue
                if not await self.chunk([one], careful=True):
                    return

    async def _suspect(self, owned: Owned, one: Batch) -> bool:
        """Try an event behind a durable mark. True when it had ended a process before, and is parked for that."""
        offset, envelope = one.offsets[0], one.envelopes[0]
        if lane_of(envelope, owned.partition, offset) in owned.lanes:
            return False  # it only goes behind another of its key
        if owned.trying == offset:
            await self._park_alone(one, ProcessEnded())
            return True
        sql, args = self._sql["position_try"], (*owned.where, offset)
        if await self.work.store.transact(lambda session: session.execute(sql, args)) != 1:
            raise FenceLost("another owner has taken the partition")
        owned.trying = offset
        return False

    # -- one transaction --------------------------------------------------------------------------------------------

    async def chunk(self, batches: Sequence[Batch], *, careful: bool) -> bool:
        """Work through these batches in one transaction. False when each event needs a transaction of its own."""
        unit = UnitOfWork(self.work.outbox, self.name)
        token = open_unit.set(unit)
        progresses: list[Progress] = []
        try:
            for batch in batches:
                self.guard(unit, self.owned[batch.partition])
            unit.traced = careful
            if careful:
                await unit.begin()
            for batch in batches:
                progress = await self._wrapped(unit, batch, careful)
                self.move(unit, progress, [])
                progresses.append(progress)
                if not progress.complete:
                    break
            await self.commit(unit)
        except (Repeat, StatementFailed) as error:
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
            self.consumer.assign(batch.partition, self.owned[batch.partition].next)
        return True

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
        owned, offset, envelope = self.owned[batch.partition], batch.offsets[0], batch.envelopes[0]
        unit = UnitOfWork(self.work.outbox, self.name)
        self.guard(unit, owned)
        progress = Progress(owned, batch.next, envelope.id, owned.marks.fork())
        if envelope.producer:
            new = self.fresh(owned, progress.taking, envelope)
        else:
            new = self.first_seen(progress, offset, envelope, await self.known_strangers(batch))
        if new:
            self.park(unit, progress, offset, envelope, error)
        if progress.blocked:
            self.stop_at(progress, batch, offset, progress.blocked)
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
        coroutine = self.events(unit, batch, careful)
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            done: Progress = stop.value
            return done
        drive = PassDrive(coroutine, yielded, unit, self.work.clock, self.spec.policy.timeout, self._foreign)
        return await drive  # type: ignore[no-any-return]

    async def events(self, unit: UnitOfWork, batch: Batch, careful: bool) -> Progress:
        """Call the handler for each event of a batch, in order."""
        owned = self.owned[batch.partition]
        progress = Progress(owned, batch.next, batch.envelopes[-1].id, owned.marks.fork())
        known = await self.known_strangers(batch)
        items = self.select(unit, progress, batch, known)
        await self.work_through(unit, progress, batch, items, careful)
        unit.current = None
        if progress.blocked:
            self.stop_at(progress, batch, progress.next, progress.blocked)
        return progress

    def select(
        self, unit: UnitOfWork, progress: Progress, batch: Batch, known: set[tuple[str, str]]
    ) -> Generator[Item]:
        """What is new, asked for, readable, and behind no parked event of its key. The hot path.

        One by one, so that what the last event needed serves the next, and is not cold by then.
        """
        bindings, lanes, taking = self.work.bindings, progress.owned.lanes, progress.taking
        topic = batch.partition.topic
        producer, kind, binding = "", "", None
        slots: dict[int, int] = {}
        for offset, envelope in zip(batch.offsets, batch.envelopes, strict=True):
            if envelope.producer:
                if envelope.producer != producer:
                    producer = envelope.producer
                    slots = taking.slots(producer)
                slot = envelope.slot
                if slots.get(slot) == envelope.number - 1:
                    slots[slot] = envelope.number
                elif not self.fresh(progress.owned, taking, envelope):
                    continue
            elif not self.first_seen(progress, offset, envelope, known):
                continue
            if envelope.type != kind:
                kind = envelope.type
                binding = bindings.get(kind)
            if binding is None:
                self.counters.skipped += 1
                continue
            if (lanes or progress.lanes) and self.held(progress, offset, envelope):
                if not self._behind(unit, progress, offset, envelope):
                    break
                continue
            try:
                if envelope.version == binding.version and envelope.content_type == binding.content_type:
                    event = binding.reader(topic, envelope.headers, envelope.data)
                else:
                    event = binding.read(envelope, topic)
            except Exception as error:
                self.park(unit, progress, offset, envelope, binding.failure(error))
                if not progress.complete:
                    break
                continue
            yield offset, envelope, event

    async def work_through(
        self, unit: UnitOfWork, progress: Progress, batch: Batch, items: Iterable[Item], careful: bool
    ) -> None:
        """Call the handler for each of these events. The hot path."""
        call, function = self.work.call, self.work.direct
        plain = not careful and self.work.around_event is None and not self.spec.blocking
        wants_delivery = self.spec.delivery is not None
        statements, published, alone, delivery = unit.statements, unit.published, self.alone, None
        for offset, envelope, event in items:
            start, first = len(statements), len(published)
            tx = unit.current = Transaction(unit, envelope)
            try:
                if wants_delivery:
                    delivery = self.delivery(progress.owned, offset, envelope, 1)
                if plain:
                    result = await (function(event, tx) if function is not None else call(event, tx, delivery))
                    if result is not None:
                        publish_all(tx, result)
                else:
                    await self.slowly(unit, tx, event, delivery, careful)
                if unit.failed is not None:
                    raise Repeat from unit.failed
            except BaseException as error:
                if unit.expired is tx and isinstance(error, asyncio.CancelledError):
                    late = HandlerTimeout(f"it did not return within {self.spec.policy.timeout:g} s")
                    await self._failed(unit, progress, offset, envelope, late, (start, first), careful)
                elif ends_us(error):
                    raise
                else:
                    await self._failed(unit, progress, offset, envelope, error, (start, first), careful)
            else:
                progress.handled += 1
            if self.alone is not alone and offset != batch.offsets[-1]:
                self._cut(progress, batch, offset)
            if not progress.complete:
                break

    def held(self, progress: Progress, offset: int, envelope: Envelope) -> bool:
        """Whether an earlier event of its key is parked."""
        lane = lane_of(envelope, progress.owned.partition, offset)
        return lane in progress.owned.lanes or lane in progress.lanes

    def _cut(self, progress: Progress, batch: Batch, offset: int) -> None:
        """The chunk ends with this event: it was the first to wait for something outside."""
        if progress.complete:
            self.stop_at(progress, batch, batch.offsets[list(batch.offsets).index(offset) + 1], "")

    def _foreign(self) -> None:
        if not self.alone:
            self.alone = True
            log.warning(
                "group %s: its handler %s waits for something other than its transaction, so from now on each event "
                "has a transaction of its own. Faster, and kinder to others: a handler without tx, or concurrency=…",
                self.name,
                self.spec.where,
            )

    async def slowly(
        self, unit: UnitOfWork, tx: Transaction, event: Any, delivery: Delivery | None, careful: bool
    ) -> None:
        """Call the handler with middleware, in a thread, or under a savepoint."""
        if careful:
            unit.current = None
            await unit.flush()
            await (await unit.begin()).savepoint()
            unit.current = tx
        around = self.work.around_event
        if around is None:
            coroutine = self.invoke(unit, event, tx, delivery)
        else:
            attempt = delivery or self.delivery_of(tx)
            coroutine = around(attempt, lambda: self.invoke(unit, event, tx, delivery))
        result = await self.drive(unit, coroutine)
        if result is not None:
            publish_all(tx, result)
        if careful:
            await unit.flush()
            await (await unit.begin()).release()

    def delivery_of(self, tx: Transaction) -> Delivery:
        """A delivery for middleware, where the handler asked for none."""
        assert tx._cause is not None
        return Delivery(group=self.name, attempt=1, envelope=tx._cause, partition=-1, offset=-1)

    async def invoke(self, unit: UnitOfWork, event: Any, tx: Transaction, delivery: Delivery | None) -> Any:
        """Call the handler; a blocking one in a thread."""
        if not self.spec.blocking:
            return await self.work.call(event, tx, delivery)
        unit.waiting = "thread"
        try:
            return await asyncio.to_thread(self.work.call, event, tx, delivery)
        finally:
            unit.waiting = ""

    async def drive(self, unit: UnitOfWork, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result, within the time that the policy allows."""
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        return await self.resumed(unit, coroutine, yielded)

    async def resumed(self, unit: UnitOfWork, coroutine: Coroutine[Any, Any, Any], yielded: Any) -> Any:
        """The result of a coroutine that waits; it is seen whether for anything but its transaction."""
        drive = Drive(coroutine, yielded, unit)
        unit.driven = True
        try:
            return await drive.within(self.work.clock, self.spec.policy.timeout)
        finally:
            unit.driven = False
            if drive.foreign:
                self._foreign()

    # -- failures ---------------------------------------------------------------------------------------------------

    def _behind(self, unit: UnitOfWork, progress: Progress, offset: int, envelope: Envelope) -> bool:
        lane = lane_of(envelope, progress.owned.partition, offset)
        try:
            self.parking.behind(unit, progress.owned, offset, envelope, lane)
        except ParkingFull as full:
            self._stop_at(progress, offset, full)
            return False
        self.counters.behind += 1
        return True

    async def _failed(
        self,
        unit: UnitOfWork,
        progress: Progress,
        offset: int,
        envelope: Envelope,
        error: BaseException,
        mark: tuple[int, int],
        careful: bool,
    ) -> None:
        """Take back what the event did, and park it. Raises what is not the event's fault."""
        tx, unit.current = unit.current, None
        if isinstance(error, (StoreUnavailable, FenceLost, Repeat)):
            raise error
        if careful:
            await unit.undo_to_savepoint(mark)
        elif unit.ran is tx or not unit.undo(mark):
            raise Repeat from error
        self.park(unit, progress, offset, envelope, error)

    def park(self, unit: UnitOfWork, progress: Progress, offset: int, envelope: Envelope, error: BaseException) -> None:
        """Set a failed event aside in the same transaction; where there is no place left, the partition waits."""
        lane = lane_of(envelope, progress.owned.partition, offset)
        try:
            decision = self.parking.failed(unit, progress.owned, offset, envelope, lane, error)
        except ParkingFull as full:
            self._stop_at(progress, offset, full)
            return
        progress.lanes.add(lane)
        self.told_failure(decision, envelope, error)

    def _stop_at(self, progress: Progress, offset: int, full: ParkingFull) -> None:
        progress.next, progress.complete, progress.blocked = offset, False, full.message

    # -- parked lanes -----------------------------------------------------------------------------------------------

    async def run_lane(self, owned: Owned, lane: str) -> None:
        """Run a lane's events in order, each under a savepoint, until one fails or all are done."""
        unit = UnitOfWork(self.work.outbox, self.name)
        self.guard(unit, owned)
        token = open_unit.set(unit)
        topic = owned.partition.topic
        try:
            session = await unit.begin()
            rows = await self.parking.rows(session, topic, lane)
            done = 0
            for row in rows:
                if not await self._parked_event(unit, owned, lane, row):
                    break
                done += 1
            more = await self.parking.rows(session, topic, lane, 1) if await self._flushed(unit) else []
            if more and done == len(rows):
                self.parking.head(unit, topic, lane, more[0])
            await self.commit(unit)
        except StatementFailed as error:
            await unit.rollback()
            await self._lane_failed(owned, lane, error)
        except BaseException:
            await unit.rollback()
            raise
        else:
            if not more:
                owned.lanes.discard(lane)
        finally:
            open_unit.reset(token)

    async def _flushed(self, unit: UnitOfWork) -> bool:
        unit.current = None
        await unit.flush()
        return True

    async def _parked_event(self, unit: UnitOfWork, owned: Owned, lane: str, row: ParkedRow) -> bool:
        """Run one parked event; whether it is done with."""
        topic, envelope = owned.partition.topic, row.envelope
        unit.current = None
        if row.wish == "discard":
            self.parking.remove(unit, topic, lane, row)
            return True
        await unit.flush()
        session = await unit.begin()
        await session.savepoint()
        mark = (len(unit.statements), len(unit.published))
        try:
            binding = self.work.bindings.get(envelope.type)
            if binding is not None:
                await self.run_parked(unit, owned, row, binding.read(envelope, topic))
            unit.current = None
            await unit.flush()
            await session.release()
        except BaseException as error:
            if ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost)):
                raise
            await unit.undo_to_savepoint(mark)
            self.told_failure(self.parking.failed_again(unit, topic, lane, row, error), envelope, error)
            return False
        self.counters.handled += 1
        self.parking.remove(unit, topic, lane, row)
        return True

    async def run_parked(self, unit: UnitOfWork, owned: Owned, row: ParkedRow, event: Any) -> None:
        """Call the handler for a parked event."""
        tx = unit.current = Transaction(unit, row.envelope)
        delivery = self.delivery(owned, row.offset, row.envelope, row.attempts + 1)
        await self.slowly(unit, tx, event, delivery, careful=False)

    async def _lane_failed(self, owned: Owned, lane: str, error: StatementFailed) -> None:
        """The commit of a lane failed: it counts as a failure of its head."""
        unit = UnitOfWork(self.work.outbox, self.name)
        self.guard(unit, owned)
        try:
            rows = await self.parking.rows(await unit.begin(), owned.partition.topic, lane, 1)
            for row in rows:
                self.told_failure(
                    self.parking.failed_again(unit, owned.partition.topic, lane, row, error), row.envelope, error
                )
            await unit.commit()
        except BaseException:
            await unit.rollback()
            raise


def _suspicious(owned: Owned) -> bool:
    """Whether processes seem to end at an event of this partition."""
    return owned.claims >= SUSPECT or owned.trying is not None


def publish_all(tx: Transaction, result: Any) -> None:
    """What a handler returned: one event, or several in a list or tuple."""
    if isinstance(result, (list, tuple)):
        for event in result:
            tx.publish(event)
    else:
        tx.publish(result)


def ends_us(error: BaseException) -> bool:
    """Whether an error is meant for us, not raised by the handler for its event."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)
