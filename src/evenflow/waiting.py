"""Waiting handlers: events of different keys side by side, each settled by itself, at-least-once.

A lane is worked through in order; as many lanes at a time as the concurrency allows, each by a worker that takes the
next lane when its event has ended. How the ended are written stands in `settling`. An event that takes so long that it
would hold the position back past the window is parked while it goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from evenflow.calling import publish_all
from evenflow.drive import ends_us
from evenflow.engine import Batch, Partition
from evenflow.envelope import Envelope
from evenflow.errors import GroupStopped
from evenflow.handler import Delivery
from evenflow.lane_transaction import LaneTransaction
from evenflow.late import Late
from evenflow.parking import SUSPECT, ParkedRow, ParkingFull, lane_of
from evenflow.policy import HandlerTimeout
from evenflow.position import Owned
from evenflow.settling import SettlingLoop
from evenflow.unit_of_work import Transaction, UnitOfWork, cause
from evenflow.window import Job, Window
from evenflow.work import Progress, Work

if TYPE_CHECKING:
    from evenflow.cpu_pool import CpuPool

log = logging.getLogger("evenflow")

WINDOW = 2000
"""Events of a partition that may be in flight or done beyond the first that is not."""
LANES = 256
"""Parked lanes that may be in hand at a time, whatever the concurrency."""
LANE_TURNS = 20
"""Parked events of a lane that follow each other, while other lanes are due, before it goes to the end of the line."""
UNSETTLED = 1000
"""Events that may have ended without being settled before no more are fetched."""
TURN = 0.01
"""Seconds that a worker goes on with handlers that, it may be, do not wait, before others have their turn."""


class LaneLoop(SettlingLoop):
    """Runs a handler that waits for the outside, several events at a time."""

    look_again = 0.05  # a lane that is being worked on is due until it is settled

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._ready: deque[tuple[Window, str]] = deque()
        self._running = 0
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._late = Late(work.clock, work.spec.policy.timeout, self._tasks, self._give_up)
        spec = work.spec
        self._plain = not (spec.transaction or spec.delivery or spec.blocking or spec.cpu or work.around_event)
        self._pool: CpuPool | None = None
        self._in_place = spec.policy.in_place
        self._settler: asyncio.Task[None] | None = None

    async def run(self) -> None:
        settler = self._settler = asyncio.create_task(self.settling())
        try:
            await super().run()
        finally:
            self._settler = None
            settler.cancel()
            for task in list(self._tasks):
                task.cancel()
            if self._pool is not None:
                self._pool.close()

    # -- room -------------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """A fetch is worth its while when half of what may be open is free."""
        most = 4 * self.spec.concurrency
        waiting = sum(len(window.open) - len(window.parked()) for window in self._windows.values())
        ended = sum(window.ended for window in self._windows.values())
        return most - waiting if 2 * waiting <= most and ended < max(most, UNSETTLED) else 0

    async def no_room(self, wait: float) -> Sequence[Batch]:
        self._starved = True
        await self.work.clock.wait(self._freed, wait)
        self._starved = False
        self._freed.clear()
        return ()

    def wake(self) -> None:
        super().wake()
        self._freed.set()

    def made_room(self) -> None:
        if self.room():
            self._freed.set()

    async def finished(self, owned: Owned) -> bool:
        window = self._windows.get(owned.partition)
        if window is None:
            return True
        for lane, jobs in list(window.lanes.items()):
            refused = lane in window.refused
            while jobs and (_not_begun(jobs[-1]) or (refused and jobs[-1].waits_to_be_parked)):
                self._drop(window, jobs.pop())
            if not jobs:
                del window.lanes[lane]
        if window.open or window.ended:
            self._urgent.set()
            self._freed.clear()
            await self.work.clock.wait(self._freed, 0.1)
        if window.open or window.ended:
            return False
        del self._windows[owned.partition]
        return True

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        return () if self._settler is None else (self._settler,)

    def moves(self, partition: Partition) -> Hashable:
        window = self._windows.get(partition)
        return None if window is None else (window.next, window.ended, len(window.done), len(window.open))

    def excuse(self, partition: Partition) -> str:
        now, full = self.work.clock.monotonic(), self._running >= self.spec.concurrency
        for job in self._tasks.values():
            if job.due > now and (full or job.owned.partition == partition):
                return "its handler is at work"
        return super().excuse(partition)

    def in_hand(self) -> bool:
        return bool(self._running or self._finished or any(window.ended for window in self._windows.values()))

    def in_flight(self) -> bool:
        return bool(
            self._running or self._finished or any(window.open or window.ended for window in self._windows.values())
        )

    def _drop(self, window: Window, job: Job) -> None:
        """Give back an event that was not begun."""
        window.open.pop(job.place, None)
        if job.row is None and window.next > job.offset:
            window.next = job.offset

    def dropped(self, partition: Partition) -> None:
        window = self._windows.pop(partition, None)
        if window is not None:
            window.lanes.clear()
        for task in [task for task, job in self._tasks.items() if job.owned.partition == partition]:
            task.cancel()

    # -- from the log into lanes ------------------------------------------------------------------------------------

    async def handle(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.partition in self._giving:
                continue  # what is given back begins with what was dropped
            self._enter_all(self._window(self.owned[batch.partition]), batch, await self.known_strangers(batch))
        self.dispatch()
        if any(window.passable for window in self._windows.values()):
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

    def _enter_all(self, window: Window, batch: Batch, known: set[tuple[str, str]]) -> None:
        """Put a batch in line. The hot path is an event whose number follows the last of its slot."""
        owned, bindings, entries, taking = window.owned, self.work.bindings, window.entries, window.taking
        open_, lanes = window.open, window.lanes
        special, held, producer, slots = bool(owned.settled), owned.lanes, "", taking.slots("")
        following = chain(islice(batch.offsets, 1, None), (batch.next,))
        for offset, envelope, after in zip(batch.offsets, batch.envelopes, following, strict=False):
            if offset < window.next:
                continue
            window.next = after
            entries.append((offset, envelope, after))
            if envelope.producer != producer:
                producer = envelope.producer
                slots = taking.slots(producer)
            binding = bindings.get(envelope.type)
            if special or not producer or binding is None or slots.get(envelope.slot) != envelope.number - 1:
                self._enter(window, offset, envelope, known)
                continue
            slots[envelope.slot] = envelope.number
            key = envelope.key
            lane = f"k{key}" if key is not None else lane_of(envelope, owned.partition, offset)
            if held and lane in held:
                self._queue(window, Job(owned, offset, envelope, lane, binding))
                continue
            job = open_[offset] = Job(owned, offset, envelope, lane, binding)
            jobs = lanes.get(lane)
            if jobs is None:
                lanes[lane] = deque((job,))
                self._ready.append((window, lane))
            else:
                jobs.append(job)
        if not batch.envelopes:
            window.next = max(window.next, batch.next)

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
        if envelope.producer:  # marks of the window run ahead of those of the position, which follow when it passes
            new = self.fresh(owned, window.taking, envelope)
        else:
            new = self._new_stranger(window, offset, envelope, known)
        if new:
            self._queue(window, Job(owned, offset, envelope, lane_of(envelope, owned.partition, offset), binding))
        else:
            window.done.add(offset)

    def _passes(self, window: Window, envelope: Envelope) -> None:
        """Its number counts as taken, though it is not run: a repeat of it that comes later is one."""
        if envelope.producer:
            dense = self.work.dense(window.owned)
            window.taking.take(envelope.producer, envelope.slot, envelope.number, dense=dense)

    def _new_stranger(self, window: Window, offset: int, envelope: Envelope, known: set[tuple[str, str]]) -> bool:
        if window.strangers is None:
            window.strangers = Progress(window.owned, window.owned.next, None, window.owned.marks.fork())
        known.update((e.source, e.id) for _, e in window.strangers.strangers)
        return self.first_seen(window.strangers, offset, envelope, known)

    def _queue(self, window: Window, job: Job) -> None:
        window.open[job.offset] = job
        lane = window.lanes.get(job.lane)
        if lane is None:
            window.lanes[job.lane] = deque((job,))
        else:
            lane.append(job)
        if job.lane in job.owned.lanes:
            self.set_aside(job)
        elif lane is None:
            self._ready.append((window, job.lane))

    def lane_done(self, window: Window, job: Job) -> None:
        jobs = window.lanes.get(job.lane)
        if jobs is None or job not in jobs:
            return
        if jobs[0] is job:
            jobs.popleft()
        else:
            jobs.remove(job)
        if jobs:
            self._ready.append((window, job.lane))
        else:
            del window.lanes[job.lane]

    # -- workers ----------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Begin the heads of lanes that are free, as many as the concurrency allows."""
        if self._stop is not None:
            self._settle.set()  # it may be that nothing is running any more
        while self._ready and self._running < self.spec.concurrency:
            job = self._next()
            if job is None:
                break
            self._running += 1
            self.counters.in_flight = self._running
            task = asyncio.create_task(self._work_on(job))
            self._tasks[task] = job
            task.add_done_callback(self._over)
            self._late.watch()

    def _next(self) -> Job | None:
        """The next event that may begin; it counts as begun."""
        ready = self._ready
        while ready and self._stop is None:
            window, lane = ready.popleft()
            jobs = window.lanes.get(lane)
            if not jobs or (self._giving and window.owned.partition in self._giving):
                continue
            job = jobs[0]
            if job.begun or job.set_aside or (window.suspects and job.row is None):
                continue
            if job.row is None and lane in job.owned.lanes:
                self.set_aside(job)
                continue
            job.begun = True
            job.due = self._late.due()
            return job
        return None

    def _over(self, task: asyncio.Task[None]) -> None:
        """A task has ended; it may have been cancelled before its first step, or by its own handler."""
        job = self._tasks.pop(task, None)
        if job is None:
            return  # it was given up
        if not job.ended:
            job.error = HandlerTimeout(self.spec.policy.timeout) if job.late else _end_of(task)
            self.end(job)
        self._running -= 1
        self.counters.in_flight = self._running
        self.dispatch()
        self._late.rest()

    def _give_up(self, task: asyncio.Task[None]) -> None:
        """This task does not end: go on without it. What its handler does from now on concerns nobody."""
        job = self._tasks.pop(task)
        log.error(
            "group %s: its handler %s swallows its cancellation and its end, so it is left to itself; it must let "
            "CancelledError and GeneratorExit pass",
            self.name, self.spec.where,
        )  # fmt: skip
        job.ended = True
        self.end(job)
        self._running -= 1
        self.counters.in_flight = self._running
        self.dispatch()

    async def _work_on(self, first: Job) -> None:
        """Work on one event after another, as long as there are any."""
        task, job, call, plain = asyncio.current_task(), first, self.work.call, self._plain
        assert task is not None
        turn = job.due
        while True:
            cause.set(job.envelope)
            try:
                event = job.binding.read(job.envelope, job.owned.partition.topic)
                coroutine = job.coroutine = call(event, None, None) if plain else self._call(job, event)
                result = await coroutine
                if result is not None:
                    self._publish(job, result)
            except BaseException as error:
                if not job.late and ends_us(error):
                    return  # it was in flight, and comes again
                if job.late and task not in self._tasks:
                    return  # it was given up
                job.error = error
            job.coroutine = None
            if job.unit is not None:
                job.unit.current = None
            if job.late and (task not in self._tasks or not self._late.taken_back(job, task)):
                return
            if job.error is not None and not job.late and self._in_place and self._once_more(job):
                continue
            job.ended = True
            self.end(job)
            following = None if job.late or task.cancelling() else self._next()
            if following is None:
                return
            job = self._tasks[task] = following
            if job.due - turn > TURN:  # it may be that none of them has waited
                turn = job.due
                await asyncio.sleep(0)

    def _once_more(self, job: Job) -> bool:
        """Whether the policy says to call the handler again at once; then all that it did is undone."""
        assert job.error is not None
        try:
            failure = self.judge(job, job.error)
        except GroupStopped:
            return False  # the settle stops it
        if failure.again:
            job.earlier, job.error, job.unit, job.due = failure, None, None, self._late.due()
        else:
            job.failure = failure
        return failure.again

    def _publish(self, job: Job, result: Any) -> None:
        unit = job.unit or self._transaction(job)._unit
        if unit.current is not None:
            publish_all(unit.current, result)

    # -- one event --------------------------------------------------------------------------------------------------

    async def _call(self, job: Job, event: Any) -> Any:
        """Call the handler with all that it asks for, and the middleware around it."""
        spec, around, tx = self.spec, self.work.around_event, None
        if spec.transaction is not None:
            tx = self._transaction(job)
        delivery = self.delivery(job.owned, job.offset, job.envelope, job.attempt)
        if around is None:
            return await self._invoke(event, tx, delivery)
        return await around(delivery, lambda: self._invoke(event, tx, delivery))

    def _transaction(self, job: Job) -> Transaction:
        job.unit = UnitOfWork(self.work.outbox, self.lineage)
        tx = job.unit.current = LaneTransaction(job.unit, job.envelope)
        return tx

    async def _invoke(self, event: Any, tx: Transaction | None, delivery: Delivery) -> Any:
        if self.spec.cpu:
            if self._pool is None:
                from evenflow.cpu_pool import CpuPool

                self._pool = CpuPool()
            return await self._pool.run(self.spec.function, event)
        if self.spec.blocking:
            return await asyncio.to_thread(self.work.call, event, tx, delivery)
        return await self.work.call(event, tx, delivery)

    # -- parked lanes -----------------------------------------------------------------------------------------------

    def lanes_in_hand(self, owned: Owned) -> Sequence[str]:
        window = self._windows.get(owned.partition)
        return () if window is None else window.parked()

    def lane_room(self) -> int:
        most = max(LANES, 4 * self.spec.concurrency)
        return most - sum(len(window.parked()) for window in self._windows.values())

    async def run_lanes(self, owned: Owned, lanes: Sequence[str]) -> None:
        """Put the heads of parked lanes in line, before what has come of their keys since."""
        found = await self.parking.firsts(self.work.store.read, owned.partition.topic, lanes)
        if self.owned.get(owned.partition) is not owned:
            return
        window = self._window(owned)
        for lane in lanes:
            if lane in found and lane not in window.open:
                self._put_first(owned, lane, found[lane])
        self.dispatch()

    def follow(self, job: Job, row: ParkedRow) -> bool:
        owned = job.owned
        if job.turns >= LANE_TURNS or owned.partition in self._giving or self.owned.get(owned.partition) is not owned:
            return False
        self._put_first(owned, job.lane, row, job.turns + 1)
        return True

    def _put_first(self, owned: Owned, lane: str, row: ParkedRow, turns: int = 0) -> None:
        window = self._windows[owned.partition]
        job = Job(owned, row.offset, row.envelope, lane, self.work.bindings.get(row.envelope.type), row, turns=turns)
        window.open[job.place] = job
        jobs = window.lanes.setdefault(lane, deque())
        running = bool(jobs) and jobs[0].begun
        jobs.insert(1 if running else 0, job)
        if row.wish == "discard" or job.binding is None:
            job.begun = True
            self.end(job)
        elif not running:
            self._ready.append((window, lane))

    async def _hold_back(self) -> None:
        """Park what holds its position back past the window, while it goes on; it is settled like a parked event."""
        for window in list(self._windows.values()):
            if len(window.entries) >= WINDOW:
                job = window.open.get(window.entries[0][0])
                if job is not None and job.begun and (full := await self._hold(window, job)):
                    self.block(window.owned, full)

    async def before_fetch(self) -> None:
        """After claims without progress, what was in flight then is begun one by one, each parked before it is begun.

        So an event that ends its process is known, and counted, like any other that fails.
        """
        for window in list(self._windows.values()):
            if not window.suspects:
                continue
            if any(job.begun for job in window.open.values()):
                continue
            job = next((job for job in window.open.values() if job.row is None and not job.set_aside), None)
            if job is not None and window.lanes[job.lane][0] is not job:
                continue  # what stands before it is being parked
            if job is not None and job.offset < window.suspects:
                if await self._hold(window, job):
                    window.suspects = 0  # without a place to park them there is no use in one by one
            elif job is not None or window.next >= window.suspects:
                window.suspects = 0
            waiting = {lane for each, lane in self._ready if each is window}
            self._ready.extend((window, lane) for lane in window.lanes if lane not in waiting)
            self.dispatch()

    async def _hold(self, window: Window, job: Job) -> str:
        """Park a job that goes on, unless it is settled by now; why there is no place for it, if there is none."""
        owned = window.owned
        async with self._writing:
            if window.open.get(job.offset) is not job:
                return ""
            unit = UnitOfWork(self.work.outbox, self.lineage)
            self.guard(unit, owned)
            try:
                row = self.parking.running(unit, owned, job.offset, job.envelope, job.lane)
            except ParkingFull as full:
                return full.message
            progress = Progress(owned, owned.next, owned.last_id, owned.marks.fork())
            self.move(unit, progress, sorted({*window.done, job.offset}))  # or the log would bring it once more
            job.held = True
            try:
                await unit.commit()
            finally:
                job.held = False
        if window.open.get(job.offset) is not job:
            return ""
        del window.open[job.offset]
        job.row = row
        window.open[job.place] = job
        owned.lanes.add(job.lane)
        window.done.add(job.offset)
        for follower in list(window.lanes.get(job.lane, ()))[1:]:
            self.set_aside(follower)
        self._settle.set()
        return ""


def _not_begun(job: Job) -> bool:
    return not job.begun and not job.set_aside


def _end_of(task: asyncio.Task[None]) -> BaseException:
    """Why a task has ended before its event was through."""
    error = None if task.cancelled() else task.exception()
    return error or asyncio.CancelledError("the task that it ran in was cancelled")
