"""Waiting handlers: events of different keys side by side, each settled by itself, at-least-once.

What is done is written by one settler: a single update of the position row holds how far everything is done, and the
few offsets beyond that are done already, so that a restart repeats only what was in flight. An event that takes so
long that it would hold the position back past the window is parked while it goes on.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from evenflow.chunk import ends_us
from evenflow.clock import Signal
from evenflow.drive import Drive
from evenflow.engine import Batch, Partition
from evenflow.envelope import Envelope
from evenflow.errors import FenceLost, StatementFailed, StoreUnavailable, TransactionError
from evenflow.group import GroupLoop, Progress, Work
from evenflow.handler import Delivery
from evenflow.parking import SUSPECT, ParkedRow, ParkingFull, lane_of, parked_row
from evenflow.position import Owned, Taking
from evenflow.store import Row
from evenflow.unit_of_work import Transaction, UnitOfWork, cause

log = logging.getLogger("evenflow")

WINDOW = 2000
"""Events of a partition that may be in flight or done beyond the first that is not."""


@dataclass(slots=True, eq=False)
class Job:
    """One event on its way through a lane. `row` is set when it comes from the parking lot."""

    owned: Owned
    offset: int
    envelope: Envelope
    lane: str
    binding: Any
    row: ParkedRow | None = None
    unit: UnitOfWork | None = None
    error: BaseException | None = None
    set_aside: bool = False


@dataclass(slots=True)
class Window:
    """What is fetched of one partition and not yet covered by its position, in order."""

    owned: Owned
    next: int
    taking: Taking
    entries: deque[tuple[int, Envelope, int]] = field(default_factory=deque)
    """Offset, envelope, offset to read on from."""
    open: dict[int, Job] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    strangers: Progress | None = None
    suspects: int = 0
    """Events before this offset may be what ended the last processes."""


class LaneLoop(GroupLoop):
    """Runs a handler that waits for the outside, several events at a time."""

    look_again = 0.05  # a lane that is being worked on is due until it is settled

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._windows: dict[Partition, Window] = {}
        self._lanes: dict[tuple[Partition, str], deque[Job]] = {}
        self._ready: deque[tuple[Partition, str]] = deque()
        self._running = 0
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._finished: list[Job] = []
        self._settle = Signal()
        self._freed = Signal()
        self._settler: asyncio.Task[None] | None = None
        self._pool: ProcessPoolExecutor | None = None

    async def run(self) -> None:
        self._settler = asyncio.create_task(self._settling())
        try:
            await super().run()
        finally:
            self._settler.cancel()
            for task in list(self._tasks):
                task.cancel()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    def room(self) -> int:
        waiting = sum(len(window.open) for window in self._windows.values())
        return max(0, self.spec.concurrency * 4 - waiting)

    async def no_room(self, wait: float) -> Sequence[Batch]:
        self._freed.clear()
        await self.work.clock.wait(self._freed, wait)
        return ()

    async def finished(self, owned: Owned) -> bool:
        window = self._windows.get(owned.partition)
        if window is None:
            return True
        for key in [key for key in self._lanes if key[0] == owned.partition]:
            jobs = self._lanes[key]
            while jobs and jobs[-1].unit is None and not jobs[-1].set_aside:
                self._drop(window, jobs.pop())
            if not jobs:
                del self._lanes[key]
        if window.open:
            self._freed.clear()
            await self.work.clock.wait(self._freed, 0.1)
        if window.open:
            return False
        del self._windows[owned.partition]
        return True

    def in_flight(self) -> bool:
        return bool(self._running or self._finished or any(window.open for window in self._windows.values()))

    def _drop(self, window: Window, job: Job) -> None:
        """Give back an event that was not begun."""
        window.open.pop(_place(job), None)
        if job.row is None and window.next > job.offset:
            window.next = job.offset

    def dropped(self, partition: Partition) -> None:
        self._windows.pop(partition, None)
        for key in [key for key in self._lanes if key[0] == partition]:
            del self._lanes[key]
        for task in [task for task, job in self._tasks.items() if job.owned.partition == partition]:
            task.cancel()

    # -- from the log into lanes ------------------------------------------------------------------------------------

    async def handle(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.partition in self._giving:
                continue  # what is given back begins with what was dropped
            owned = self.owned[batch.partition]
            window = self._window(owned)
            known = await self.known_strangers(batch)
            for i, (offset, envelope) in enumerate(zip(batch.offsets, batch.envelopes, strict=True)):
                after = batch.offsets[i + 1] if i + 1 < len(batch.offsets) else batch.next
                if offset >= window.next:
                    window.next = after
                    window.entries.append((offset, envelope, after))
                    self._enter(window, offset, envelope, known)
            if not batch.envelopes:
                window.next = max(window.next, batch.next)
        self._dispatch()
        if any(window.entries and window.entries[0][0] not in window.open for window in self._windows.values()):
            self._settle.set()
        await self._hold_back()

    def _window(self, owned: Owned) -> Window:
        window = self._windows.get(owned.partition)
        if window is None:
            window = self._windows[owned.partition] = Window(owned, owned.next, owned.marks.fork())
            window.done = set(owned.settled)
            if owned.claims >= SUSPECT:
                window.suspects = owned.next + 4 * self.spec.concurrency
        return window

    def _enter(self, window: Window, offset: int, envelope: Envelope, known: set[tuple[str, str]]) -> None:
        owned = window.owned
        if offset in owned.settled:
            self._passes(window, envelope)
            return
        binding = self.work.bindings.get(envelope.type)
        if binding is None:
            self._passes(window, envelope)
            self.counters.skipped += 1
            window.done.add(offset)
            return
        if envelope.producer:
            if not self._fresh(window, envelope):
                window.done.add(offset)
                return
        elif not self._new_stranger(window, offset, envelope, known):
            window.done.add(offset)
            return
        lane = lane_of(envelope, owned.partition, offset)
        self._queue(Job(owned, offset, envelope, lane, binding))

    def _fresh(self, window: Window, envelope: Envelope) -> bool:
        """Marks of the window run ahead of those of the position, which follow when it passes."""
        return self.fresh(window.owned, window.taking, envelope)

    def _passes(self, window: Window, envelope: Envelope) -> None:
        """Its number counts as taken, though it is not run: a repeat of it that comes later is one."""
        if envelope.producer:
            dense = window.owned.partition.topic not in self.work.compacted
            window.taking.take(envelope.producer, envelope.slot, envelope.number, dense=dense)

    def _new_stranger(self, window: Window, offset: int, envelope: Envelope, known: set[tuple[str, str]]) -> bool:
        if window.strangers is None:
            window.strangers = Progress(window.owned, window.owned.next, None, window.owned.marks.fork())
        known.update((e.source, e.id) for _, e in window.strangers.strangers)
        return self.first_seen(window.strangers, offset, envelope, known)

    def _queue(self, job: Job) -> None:
        window = self._windows[job.owned.partition]
        window.open[_place(job)] = job
        key = (job.owned.partition, job.lane)
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque((job,))
        else:
            lane.append(job)
        if job.lane in job.owned.lanes:
            self._set_aside(job)
        elif lane is None:
            self._ready.append(key)

    def _set_aside(self, job: Job) -> None:
        """It is parked behind an earlier one of its key. Until that is settled it holds its place in its lane."""
        if not job.set_aside:
            job.set_aside = True
            self._end(job)

    def _dispatch(self) -> None:
        """Start the heads of lanes that are free, as many as the concurrency allows."""
        while self._ready and self._running < self.spec.concurrency:
            key = self._ready.popleft()
            lane = self._lanes.get(key)
            if not lane or key[0] in self._giving:
                continue
            job = lane[0]
            if job.unit is not None or job.set_aside or (job.row is None and self._windows[key[0]].suspects):
                continue
            if job.row is None and job.lane in job.owned.lanes:
                self._set_aside(job)
                continue
            job.unit = UnitOfWork(self.work.outbox, self.name)
            self._running += 1
            self.counters.in_flight = self._running
            task = asyncio.create_task(self._run(job))
            self._tasks[task] = job
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """A task has ended; it may have been cancelled before its first step."""
        del self._tasks[task]
        self._running -= 1
        self.counters.in_flight = self._running
        self._dispatch()

    # -- one event --------------------------------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        cause.set(job.envelope)
        ended = False
        try:
            await self._call(job)
        except BaseException as error:
            ended, job.error = ends_us(error), error
        if not ended:  # otherwise it was in flight, and comes again
            self._end(job)

    async def _call(self, job: Job) -> None:
        assert job.unit is not None
        attempt = 1 if job.row is None else job.row.attempts + 1
        event = job.binding.read(job.envelope, job.owned.partition.topic)
        tx = job.unit.current = LaneTransaction(job.unit, job.envelope)
        delivery = self.delivery(job.owned, job.offset, job.envelope, attempt)
        try:
            await self._within(event, tx, delivery)
        finally:
            job.unit.current = None

    async def _within(self, event: Any, tx: Transaction, delivery: Delivery) -> None:
        around = self.work.around_event
        if around is None:
            coroutine = self._invoke(event, tx, delivery)
        else:
            coroutine = around(delivery, lambda: self._invoke(event, tx, delivery))
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            result = stop.value
        else:
            result = await Drive(coroutine, yielded, None).within(self.work.clock, self.spec.policy.timeout)
        if result is not None:
            for each in result if isinstance(result, (list, tuple)) else (result,):
                tx.publish(each)

    async def _invoke(self, event: Any, tx: Transaction, delivery: Any) -> Any:
        if self.spec.cpu:
            if self._pool is None:  # spawned: a forked process would share our open SQLite files
                self._pool = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
            return await asyncio.get_running_loop().run_in_executor(self._pool, self.spec.function, event)
        if self.spec.blocking:
            return await asyncio.to_thread(self.work.call, event, tx, delivery)
        return await self.work.call(event, tx, delivery)

    def _end(self, job: Job) -> None:
        self._finished.append(job)
        self._settle.set()

    # -- settling ---------------------------------------------------------------------------------------------------

    async def _settling(self) -> None:
        """Write what is done, all that has gathered at once."""
        while True:
            await self.work.clock.wait(self._settle, None)
            self._settle.clear()
            jobs, self._finished = self._finished, []
            try:
                await self._settle_all(jobs)
            except (StoreUnavailable, FenceLost) as error:
                self._trouble(error.message)
                await self._start_again()
            except Exception:
                log.exception("group %s: could not settle, claiming its partitions anew", self.name)
                await self._start_again()
            self._freed.set()
            self.consumer.wake()

    async def _settle_all(self, jobs: list[Job]) -> None:
        by_partition: dict[Partition, list[Job]] = {partition: [] for partition in self._windows}
        for job in jobs:
            window = self._windows.get(job.owned.partition)
            if window is not None and window.open.get(_place(job)) is job:
                by_partition[job.owned.partition].append(job)
        for partition, ours in by_partition.items():
            window = self._windows.get(partition)
            if window is None or not (ours or (window.entries and window.entries[0][0] not in window.open)):
                continue
            try:
                await self._settle_some(window, ours)
            except StatementFailed as error:
                await self._settle_apart(window, ours, error)

    async def _settle_apart(self, window: Window, jobs: list[Job], error: StatementFailed) -> None:
        """A statement of one of them failed: settle each alone, so that it is known whose it is."""
        if len(jobs) == 1:
            jobs[0].error = error
            await self._settle_some(window, jobs)
            return
        for job in jobs:
            try:
                await self._settle_some(window, [job])
            except StatementFailed as failure:
                job.error = failure
                await self._settle_some(window, [job])

    async def _settle_some(self, window: Window, jobs: list[Job]) -> None:
        async with self._writing:
            unit = UnitOfWork(self.work.outbox, self.name)
            try:
                await self._settle_in(unit, window, jobs)
            except BaseException:
                await unit.rollback()
                await self.parking.measure()
                raise
        self._dispatch()

    async def _settle_in(self, unit: UnitOfWork, window: Window, jobs: list[Job]) -> None:
        owned = window.owned
        self.guard(unit, owned)
        progress = Progress(owned, owned.next, owned.last_id, owned.marks.fork())
        settled = [job for job in jobs if self._settle_job(unit, progress, job)]
        done = window.done | {job.offset for job in settled if job.row is None}
        passed = self._advance(window, progress, done)
        if window.strangers is not None:
            taken = {job.offset for job in settled} | {each[0] for each in passed}
            progress.strangers = [each for each in window.strangers.strangers if each[0] in taken]
        self.move(unit, progress, sorted(offset for offset in done if offset >= progress.next))
        refill = await self._more_rows(unit, settled)
        await self.commit(unit)
        self._settled(window, progress, settled, passed, done)
        for job, more in refill:
            self._next_of_lane(job, more)

    def _settle_job(self, unit: UnitOfWork, progress: Progress, job: Job) -> bool:
        """Hand over what one event did, or its failure. False where there is no place to park it."""
        topic, row = job.owned.partition.topic, job.row
        try:
            if job.error is not None:
                if row is None:
                    decision = self.parking.failed(unit, job.owned, job.offset, job.envelope, job.lane, job.error)
                    progress.lanes.add(job.lane)
                else:
                    decision = self.parking.failed_again(unit, topic, job.lane, row, job.error)
                self.told_failure(decision, job.envelope, job.error)
                return True
            if job.set_aside:
                held = job.lane in job.owned.lanes or job.lane in progress.lanes
                add = self.parking.behind if held else self.parking.first
                add(unit, job.owned, job.offset, job.envelope, job.lane)
                progress.lanes.add(job.lane)
                self.counters.behind += 1
                return True
        except ParkingFull as full:
            self.block(job.owned, full.message)
            self.work.clock.call_later(1.0, lambda: self._end(job))
            return False
        if job.unit is not None:
            unit.statements += job.unit.statements
            unit.sites += job.unit.sites
            unit.published += job.unit.published
        if row is not None:
            self.parking.remove(unit, topic, job.lane, row)
        progress.handled += 1
        return True

    def _advance(self, window: Window, progress: Progress, done: set[int]) -> list[tuple[int, Envelope, int]]:
        """Move the position over everything that is done in order; marks follow it."""
        passed = []
        for entry in window.entries:
            offset, envelope, after = entry
            if offset not in done and offset not in window.owned.settled:
                break
            progress.next, progress.last_id = after, envelope.id
            if envelope.producer:
                dense = window.owned.partition.topic not in self.work.compacted
                progress.taking.take(envelope.producer, envelope.slot, envelope.number, dense=dense)
            passed.append(entry)
        return passed

    def _settled(
        self,
        window: Window,
        progress: Progress,
        jobs: list[Job],
        passed: list[tuple[int, Envelope, int]],
        done: set[int],
    ) -> None:
        self.moved(progress)
        window.done = {offset for offset in window.done | done if offset >= progress.next}
        window.owned.settled = set(window.done)
        for _ in passed:
            window.entries.popleft()
        if window.strangers is not None:
            known = {id(each) for each in progress.strangers}
            window.strangers.strangers = [each for each in window.strangers.strangers if id(each) not in known]
        for job in jobs:
            window.open.pop(_place(job), None)
            if job.row is None or job.error is not None:
                self._lane_done(job)
            if job.row is None and job.error is not None:  # all that wait behind it, before what comes of its key now
                for follower in self._lanes.get((job.owned.partition, job.lane), ()):
                    self._set_aside(follower)

    def _lane_done(self, job: Job) -> None:
        key = (job.owned.partition, job.lane)
        lane = self._lanes.get(key)
        if lane is None or job not in lane:
            return
        lane.remove(job)
        if lane:
            self._ready.append(key)
        else:
            del self._lanes[key]

    # -- parked lanes -----------------------------------------------------------------------------------------------

    async def run_lane(self, owned: Owned, lane: str) -> None:
        """Put the head of a parked lane in line, before what has come of its key since."""
        self._window(owned)
        key = (owned.partition, lane)
        if key in self._lanes and self._lanes[key][0].row is not None:
            return
        rows = await self.work.store.read(self._sql["parked_lane"], (self.name, owned.partition.topic, lane, 1))
        if rows:
            self._put_first(owned, lane, rows[0])
            self._dispatch()

    def _put_first(self, owned: Owned, lane: str, found: Row) -> None:
        row = parked_row(found)
        job = Job(owned, row.offset, row.envelope, lane, self.work.bindings.get(row.envelope.type), row)
        self._windows[owned.partition].open[_place(job)] = job
        key = (owned.partition, lane)
        jobs = self._lanes.setdefault(key, deque())
        running = bool(jobs) and jobs[0].unit is not None
        jobs.insert(1 if running else 0, job)
        if not running:
            self._ready.append(key)
        if row.wish == "discard" or job.binding is None:
            job.unit = UnitOfWork(self.work.outbox, self.name)
            self._ready.remove(key)
            self._end(job)

    async def _more_rows(self, unit: UnitOfWork, jobs: list[Job]) -> list[tuple[Job, bool]]:
        """For parked events that are done: whether more of their lane follow; read, and marked, in the transaction."""
        result = []
        for job in jobs:
            if job.row is None or job.error is not None:
                continue
            await unit.flush()
            topic = job.owned.partition.topic
            rows = await self.parking.rows(await unit.begin(), topic, job.lane, 1)
            for row in rows:
                self.parking.head(unit, topic, job.lane, row)
            result.append((job, bool(rows)))
        return result

    def _next_of_lane(self, job: Job, more: bool) -> None:
        if not more:
            job.owned.lanes.discard(job.lane)
        else:
            self._due_at = 0.0
        self._lane_done(job)

    async def _hold_back(self) -> None:
        """Park what holds its position back past the window, while it goes on; it is settled like a parked event."""
        for window in list(self._windows.values()):
            if len(window.entries) >= WINDOW:
                job = window.open.get(window.entries[0][0])
                if job is not None and job.unit is not None and (full := await self._hold(window, job)):
                    self.block(window.owned, full)

    async def before_fetch(self) -> None:
        """After claims without progress, what was in flight then is begun one by one, each parked before it is begun.

        So an event that ends its process is known, and counted, like any other that fails.
        """
        for partition, window in list(self._windows.items()):
            if not window.suspects:
                continue
            if any(job.unit is not None for job in window.open.values()):
                continue
            job = next((job for job in window.open.values() if job.row is None and not job.set_aside), None)
            if job is not None and job.offset < window.suspects:
                if await self._hold(window, job):
                    window.suspects = 0  # without a place to park them there is no use in one by one
            elif job is not None or window.next >= window.suspects:
                window.suspects = 0
            self._ready.extend(key for key in self._lanes if key[0] == partition and key not in self._ready)
            self._dispatch()

    async def _hold(self, window: Window, job: Job) -> str:
        """Park a job that goes on, unless it is settled by now; why there is no place for it, if there is none."""
        owned = window.owned
        async with self._writing:
            if window.open.get(job.offset) is not job:
                return ""
            unit = UnitOfWork(self.work.outbox, self.name)
            self.guard(unit, owned)
            try:
                self.parking.running(unit, owned, job.offset, job.envelope, job.lane)
            except ParkingFull as full:
                return full.message
            await unit.commit()
        if window.open.get(job.offset) is not job:
            return ""
        del window.open[job.offset]
        _topic, generation, number = owned.partition
        job.row = ParkedRow(generation, job.offset, job.envelope.slot, number, job.envelope, 0, None, None)
        window.open[_place(job)] = job
        owned.lanes.add(job.lane)
        window.done.add(job.offset)
        for follower in list(self._lanes.get((owned.partition, job.lane), ()))[1:]:
            self._set_aside(follower)
        self._settle.set()
        return ""


def _place(job: Job) -> int:
    """Its key among the open events of a window: parked ones stand apart from those of the log."""
    return job.offset if job.row is None else -1 - job.offset


class LaneTransaction(Transaction, eq=False, gc=False):
    """A transaction of a waiting handler: reads see committed data, writes are applied when the event is settled."""

    async def fetch_all(self, sql: str, *args: Any) -> list[Row]:
        """Rows of committed data: what was handed over is not among it yet."""
        self._enter().waiting = ""
        return await self._unit.outbox.store.read(sql, args)

    async def execute(self, *_: Any) -> int:
        """Refused: a waiting handler holds no transaction open."""
        raise _only_write("execute")

    async def flush(self) -> None:
        """Refused: a waiting handler holds no transaction open."""
        raise _only_write("flush")

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """Refused: a waiting handler holds no transaction open."""
        await self.flush()
        yield


def _only_write(name: str) -> TransactionError:
    return TransactionError(
        f"tx.{name} in a handler with concurrency: what it writes is applied when its event is settled",
        remedy="use tx.write; or leave out concurrency, and it has a transaction of its own",
    )
