"""Settling: how a waiting group writes what is done, all of its partitions in one transaction.

A single update of the position row holds how far everything is done, and the few offsets beyond that are done
already, so that a restart repeats only what was in flight and what ended in the last moments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from evenflow.clock import Signal
from evenflow.drive import ends_us
from evenflow.engine import Partition
from evenflow.errors import FenceLost, GroupStopped, StatementFailed, StoreConflict, StoreUnavailable
from evenflow.failure import Failure
from evenflow.group import GroupLoop
from evenflow.parking import ParkedRow, ParkingFull
from evenflow.unit_of_work import UnitOfWork
from evenflow.window import Job, Window
from evenflow.work import Progress, Work

log = logging.getLogger("evenflow")

PAUSE = 0.02
"""Seconds at most from one settle to the next while events end, unless one of them cannot wait."""
REFUSED = 1.0
"""Seconds until it is tried again to park events that there was no place for."""
PACE = 16
"""So many times as long as a settle has taken nothing is settled after it: under load many share one."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one transaction settles of one window."""

    window: Window
    progress: Progress
    jobs: list[Job]
    passed: int
    done: set[int]
    ended: int


class SettlingLoop(GroupLoop):
    """Keeps windows, and settles what has ended in them."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._windows: dict[Partition, Window] = {}
        self._finished: list[Job] = []
        self._settle = Signal()
        self._urgent = Signal()
        self._freed = Signal()
        self._starved = False
        """Whether there was no room for more."""
        self._stop: GroupStopped | None = None
        """Why the group stops as soon as nothing is running. Nothing is begun meanwhile."""

    def end(self, job: Job) -> None:
        """An event has ended: if there is nothing to be written for it, it makes room at once."""
        window = self._windows.get(job.owned.partition)
        if window is not None and job.bare:
            offset, open_ = job.offset, window.open
            if open_.get(offset) is job:
                del open_[offset]
                window.done.add(offset)
                window.ended += 1
                if len(window.lanes.get(job.lane, ())) == 1:
                    del window.lanes[job.lane]
                else:
                    self.lane_done(window, job)
                if self._starved and not window.ended % 16:
                    self.made_room()
        elif self._ruled(job):
            self._finished.append(job)
            if job.error is not None or job.row is not None or (window is not None and self._waited_for(window, job)):
                self._urgent.set()
        if not self._settle.is_set():
            self._settle.set()

    def _waited_for(self, window: Window, job: Job) -> bool:
        return not job.set_aside and len(window.lanes.get(job.lane, ())) > 1

    async def settling(self) -> None:
        """Write what has ended, all that has gathered at once."""
        clock = self.work.clock
        while True:
            await clock.wait(self._settle, None)
            self._settle.clear()
            self._urgent.clear()
            started = clock.monotonic()
            jobs, self._finished = self._finished, []
            try:
                await self._settle_all([job for job in jobs if self._ruled(job)])
                if self._stop is not None and not self.in_hand():
                    await self._halt_now(self._stop)
            except GroupStopped as error:
                await self._halt_now(error)
            except StoreConflict:  # nothing of it was written: once more, with what has ended since
                self._finished = jobs + self._finished
                self._settle.set()
            except (StoreUnavailable, FenceLost) as error:
                self._trouble(error.message)
                await self._start_again()
            except (Exception, asyncio.CancelledError) as error:  # of a wait that was cancelled from elsewhere
                if ends_us(error):
                    raise
                log.exception("group %s: could not settle, claiming its partitions anew", self.name)
                await self._start_again()
            self.wake()
            pause = min(PAUSE, PACE * (clock.monotonic() - started))
            if pause > 0:
                await clock.wait(self._urgent, pause)

    # -- what follows from failures ---------------------------------------------------------------------------------

    def judge(self, job: Job, error: BaseException) -> Failure:
        """What follows from this error of the event. Raises `GroupStopped`."""
        first = None if job.row is None else job.row.first_failed
        return self.parking.judge(error, job.attempt, first_failed=first, earlier=job.earlier)

    def _ruled(self, job: Job) -> bool:
        """Judge a failure. False for one that stops the group: its event stays where it is, not settled."""
        if job.error is None or (job.failure is not None and job.failure.error is job.error):
            return True
        try:
            job.failure = self.judge(job, job.error)
        except GroupStopped as stop:
            self._stop = self._stop or stop
            job.error = job.unit = job.earlier = None
            job.begun = False
            self._urgent.set()
            return False
        return True

    async def _halt_now(self, stop: GroupStopped) -> None:
        self._stop = None
        await self.halt(stop)

    # -- one transaction --------------------------------------------------------------------------------------------

    async def _settle_all(self, jobs: list[Job]) -> None:
        by_window: dict[Window, list[Job]] = {window: [] for window in self._windows.values()}
        for job in jobs:
            window = self._windows.get(job.owned.partition)
            if window is not None and window.open.get(job.place) is job:
                by_window[window].append(job)
        work = {window: ours for window, ours in by_window.items() if ours or window.ended or window.passable}
        if not work:
            return
        if self.parking.full() and any(job.waits_to_be_parked for job in jobs):
            await self.parking.measure()  # others may have made room
        if len(work) > 1:
            try:
                await self._settle_some(work)
            except (StatementFailed, FenceLost):
                pass  # each by itself: what is wrong with one is no fault of the others
            else:
                return
        for window, ours in work.items():
            if self._windows.get(window.owned.partition) is window:
                await self._settle_one(window, ours)

    async def _settle_one(self, window: Window, jobs: list[Job]) -> None:
        try:
            await self._settle_some({window: jobs})
        except StatementFailed as error:
            await self._settle_apart(window, jobs, error)
        except FenceLost as lost:
            if self.owned.get(window.owned.partition) is window.owned:
                self._trouble(lost.message)
                self.forget(window.owned.partition)

    async def _settle_apart(self, window: Window, jobs: list[Job], error: StatementFailed) -> None:
        """A statement of one of them failed: settle each alone, so that it is known whose it is."""
        if not jobs:
            raise error
        for job in jobs:
            try:
                if len(jobs) == 1:
                    raise error
                await self._settle_some({window: [job]})
            except StatementFailed as failure:
                job.error = failure
                if self._ruled(job):
                    await self._settle_some({window: [job]})

    async def _settle_some(self, work: dict[Window, list[Job]]) -> None:
        async with self._writing:
            unit = UnitOfWork(self.work.outbox, self.lineage)
            try:
                for window in work:
                    self.guard(unit, window.owned)
                steps = [self._hand_over(unit, window, jobs) for window, jobs in work.items()]
                refill = await self._more_rows(unit, (job for step in steps for job in step.jobs))
                await self.commit(unit)
            except BaseException:
                await unit.rollback()
                await self.parking.measure()
                raise
            for step in steps:
                self._settled(step)
            for job, following in refill:
                self._next_of_lane(job, following)
        self.dispatch()

    def _hand_over(self, unit: UnitOfWork, window: Window, jobs: list[Job]) -> Step:
        owned = window.owned
        progress = Progress(owned, owned.next, owned.last_id, owned.marks.fork(), handled=window.ended)
        settled = [job for job in jobs if self._settle_job(unit, window, progress, job)]
        done = {job.offset for job in settled if job.row is None}
        passed = window.advance(progress, done, dense=self.work.dense(owned))
        if window.strangers is not None:
            progress.strangers = [each for each in window.strangers.strangers if each[0] < progress.next]
        self.move(unit, progress, sorted(offset for offset in window.done | done if offset >= progress.next))
        return Step(window, progress, settled, passed, done, window.ended)

    def _settle_job(self, unit: UnitOfWork, window: Window, progress: Progress, job: Job) -> bool:
        """Hand over what one event did, or its failure. False where there is no place to park it."""
        topic, row = job.owned.partition.topic, job.row
        if job.lane in window.refused and job.waits_to_be_parked:
            return False  # not before those that stand before it
        try:
            if job.failure is not None and job.error is not None:
                if row is None:
                    self.parking.failed(unit, job.owned, job.offset, job.envelope, job.lane, job.failure)
                    progress.lanes.add(job.lane)
                else:
                    self.parking.failed_again(unit, topic, job.lane, row, job.failure)
                progress.failures.append((job.offset, job.envelope, job.failure))
                return True
            if job.set_aside:
                held = job.lane in job.owned.lanes or job.lane in progress.lanes
                add = self.parking.behind if held else self.parking.first
                add(unit, job.owned, job.offset, job.envelope, job.lane)
                progress.due_now = progress.due_now or not held
                progress.lanes.add(job.lane)
                self.counters.behind += 1
                return True
        except ParkingFull as full:
            self.block(job.owned, full.message)
            window.refused.add(job.lane)
            self.work.clock.call_later(REFUSED, lambda: self._park_again(window, job.lane))
            return False
        if job.unit is not None:
            unit.statements += job.unit.statements
            unit.sites += job.unit.sites
            unit.published += job.unit.published
        if row is not None:
            self.parking.remove(unit, topic, job.lane, row)
        progress.handled += 1
        return True

    def _park_again(self, window: Window, lane: str) -> None:
        """Try once more to park what there was no place for, in the order of the lane."""
        window.refused.discard(lane)
        waiting = [job for job in window.lanes.get(lane, ()) if job.waits_to_be_parked]
        self._finished = [job for job in self._finished if job not in waiting]
        for job in waiting:
            self.end(job)

    async def _more_rows(self, unit: UnitOfWork, jobs: Iterable[Job]) -> list[tuple[Job, ParkedRow | None]]:
        """For parked events that are done: what follows in their lane; read, and marked, in the transaction."""
        result: list[tuple[Job, ParkedRow | None]] = []
        done: dict[str, list[Job]] = {}
        for job in jobs:
            if job.row is not None and job.error is None:
                done.setdefault(job.owned.partition.topic, []).append(job)
        if done:
            await unit.flush()
        for topic, ours in done.items():
            fetch = (await unit.begin()).fetch
            found = await self.parking.firsts(fetch, topic, [job.lane for job in ours])
            for row_lane, row in found.items():
                self.parking.head(unit, topic, row_lane, row)
            result += [(job, found.get(job.lane)) for job in ours]
        return result

    def _settled(self, step: Step) -> None:
        """It is committed."""
        window, progress = step.window, step.progress
        self.moved(progress)
        window.passed(step.passed, step.done)
        window.ended -= step.ended
        if window.strangers is not None:
            strangers = window.strangers.strangers
            window.strangers.strangers = [each for each in strangers if each[0] >= progress.next]
        parked: dict[str, None] = {}
        for job in step.jobs:
            window.open.pop(job.place, None)
            if job.row is None or job.error is not None:
                self.lane_done(window, job)
            if job.row is None and (job.set_aside or job.error is not None):
                parked[job.lane] = None
        for lane in parked:  # all that wait behind them, before what comes of their keys now
            for follower in window.lanes.get(lane, ()):
                if follower.row is None and not follower.begun:
                    self.set_aside(follower)
        if window.passable:
            self._settle.set()  # what came during the commit and is not run has found nobody to pass it

    def _next_of_lane(self, job: Job, following: ParkedRow | None) -> None:
        if following is None:
            job.owned.lanes.discard(job.lane)
        window = self._windows.get(job.owned.partition)
        if window is not None:
            self.lane_done(window, job)
        if following is not None and not (window is not None and self.follow(job, following)):
            self._due_at = 0.0

    def set_aside(self, job: Job) -> None:
        """It is parked behind an earlier one of its key. Until that is settled it holds its place in its lane."""
        if not job.set_aside:
            job.set_aside = True
            self.end(job)

    # -- what is done about lanes -----------------------------------------------------------------------------------

    def lane_done(self, window: Window, job: Job) -> None:
        """This event leaves its lane, and the next may begin."""
        raise NotImplementedError

    def follow(self, job: Job, row: ParkedRow) -> bool:
        """Put the next parked event of a lane in line at once; False where other lanes are to have their turn."""
        raise NotImplementedError

    def in_hand(self) -> bool:
        """Whether handlers are running, or have ended without being settled."""
        raise NotImplementedError

    def made_room(self) -> None:
        """Some less are open, and that was waited for."""
        raise NotImplementedError

    def dispatch(self) -> None:
        """Begin what may begin."""
        raise NotImplementedError
