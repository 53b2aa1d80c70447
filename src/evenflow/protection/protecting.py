"""A waiting group with a limit or a breaker: which of its events may begin now, and what a failure counts.

An attempt is a call whose failure counts. One that fails while the breaker is open, that opens it, or that was a probe,
is none: its event goes back to its place, at the head of its lane, and all of its key behind it stays in line. Those
that were parked for the failures that led to its opening get that attempt back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evenflow.clock import Signal, Timer
from evenflow.engine import Batch, Partition
from evenflow.errors import DecodeError, StoreUnavailable
from evenflow.failure import clean, text_of
from evenflow.group import BACK_OFF, IDLE
from evenflow.policy import HandlerTimeout, Policy, Reject, RetryLater
from evenflow.protection.breaker import BreakerState, Tally, failed, given_back, opened, passed, probing, told
from evenflow.protection.breaker_shared import SharedBreaker
from evenflow.protection.limit_shared import KeyLimit, SharedLimit
from evenflow.protection.refund import refund
from evenflow.waiting import LaneLoop
from evenflow.window import Job, Window
from evenflow.work import Work

log = logging.getLogger("evenflow")

PERMIT = 2.0
"""Seconds beyond the time-out of a call for which a probe has its permit: for what stands before and after the call."""
CHARGED = 100
"""Failed events that are remembered at least, so that their attempts can be given back."""
WHILE_OPEN = 0.2
SOON = 0.01
REASON = 300
"""Characters of an error that the breaker shows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A call that the breaker judges.

    permit   its number, where it was a probe; else 0
    counted  it has failed, with an error that the breaker looks at
    trips    with it there were too many failures
    again    the policy says to call the handler again at once
    """

    job: Job
    error: BaseException | None
    permit: int
    counted: bool
    trips: bool
    again: bool


class ProtectedLoop(LaneLoop):
    """Holds back what may not begin yet. It waits in its lane: its time-out does not run, and nothing is parked."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        spec, limit, rule = work.spec, work.spec.limit, work.spec.breaker
        self._limit = None if limit is None or limit.per_second is None else SharedLimit(work, limit, self.dispatch)
        self._keys: KeyLimit | None = None
        if limit is not None and limit.per_key is not None:
            self._keys = KeyLimit(work.clock, limit.per_key, self._go_on)
        self._breaker = None if rule is None else SharedBreaker(spec.group, rule, work.store, work.clock)
        self._tally = None if rule is None else Tally(rule)
        self._errors = None if rule is None else rule.errors
        self._tripped = False
        """Whether too many calls have failed here, and the store does not know yet."""
        self._charged: deque[tuple[float, Job]] = deque(maxlen=0 if rule is None else max(CHARGED, rule.failures))
        """What has failed while it was closed: when, and which."""
        self._was_open = False
        self._calls: dict[Job, int] = {}
        """What is being called, with the number of its permit where it is a probe."""
        self._again: dict[Job, None] = {}
        """What has failed, and is to be tried again at once."""
        self._permit = 0
        self._asking: asyncio.Task[None] | None = None
        self._timers: dict[str, Timer] = {}
        self._verdicts: list[Verdict] = []
        self._verdict = Signal()
        self._judge: asyncio.Task[None] | None = None

    async def run(self) -> None:
        if self._breaker is not None:
            self._judge = asyncio.create_task(self._judging())
        try:
            await super().run()
        finally:
            for task in (self._judge, self._asking):
                if task is not None:
                    task.cancel()
            for timer in self._timers.values():
                timer.cancel()
            for each in (self._limit, self._keys):
                if each is not None:
                    each.close()

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        return [*super().tasks(), *([] if self._judge is None else [self._judge])]

    # -- what may begin ---------------------------------------------------------------------------------------------

    def _next(self) -> Job | None:
        if not self._ready:
            return None
        breaker, limit = self._breaker, self._limit
        held = breaker is not None and not self._permit and (self._tripped or not breaker.state.closed)
        if held and self._not_yet():
            return None
        if limit is not None and not self._permit and not limit.may():  # whoever has a permit had a call as well
            limit.ask(len(self._ready))
            return None
        if held:
            self._asking = asyncio.create_task(self._ask())
            return None
        while (job := super()._next()) is not None:
            if not self._too_soon(job):
                return self._begun(job)
        return None

    def _begun(self, job: Job) -> Job:
        if self._limit is not None:
            self._limit.use()
        if self._breaker is not None:
            self._calls[job] = self._permit
            self._permit = 0
        return job

    def _too_soon(self, job: Job) -> bool:
        """Whether its key has to wait. Then it stays in line, and the others go on."""
        key = job.envelope.key
        if self._keys is None or key is None:
            return False
        window = self._windows[job.owned.partition]
        if not self._keys.too_soon((job.owned.partition.topic, key), (window, job.lane)):
            return False
        job.begun = False
        return True

    def _go_on(self, lanes: list[tuple[Window, str]]) -> None:
        self._ready.extend(lanes)
        self.dispatch()

    def _set(self, name: str, seconds: float, callback: Callable[[], object]) -> None:
        """Set the timer of this name anew."""

        def fire() -> None:
            del self._timers[name]
            callback()

        self._unset(name)
        self._timers[name] = self.work.clock.call_later(seconds, fire)

    def _unset(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # -- the permit of a probe --------------------------------------------------------------------------------------

    def _not_yet(self) -> bool:
        """Whether no probe may go now; then it is looked again when one may."""
        assert self._breaker is not None
        if self._tripped:
            return True
        if self._asking is None and "probe" not in self._timers and (wait := self._breaker.opens) > 0:
            self._set("probe", max(wait, SOON), self.dispatch)
        return self._asking is not None or "probe" in self._timers

    async def _ask(self) -> None:
        """Get the permit, and let one event through. Without it, what another process has made of it holds."""
        breaker, permit, again = self._breaker, 0, False
        assert breaker is not None

        def step(state: BreakerState, now: float) -> BreakerState:
            nonlocal permit
            after = probing(state, now, f"pid {os.getpid()}", self.spec.policy.timeout + PERMIT)
            permit = 0 if after is state else after.permit
            return after

        try:
            await breaker.change(step)
            self._permit = permit
            self.dispatch()
            if self._permit:  # nothing was there to be tried
                unused, self._permit = self._permit, 0
                await breaker.change(lambda state, now: given_back(state, now, unused))
        except StoreUnavailable as error:
            self._trouble(error.message)
            again = True
        except Exception:
            log.exception("group %s: unexpected while asking its breaker, trying again", self.name)
            again = True
        finally:
            self._asking = None
        if again:
            self._set("probe", BACK_OFF, self.dispatch)
        elif not permit:
            self._breaker_seen()

    # -- how a call has ended ---------------------------------------------------------------------------------------

    def _once_more(self, job: Job) -> bool:
        """What is tried again at once goes through the limit and the breaker like any other call."""
        error = job.error
        if super()._once_more(job):
            job.error = error
            self._again[job] = None
        return False

    def end(self, job: Job) -> None:
        permit, again = self._calls.pop(job, None), job in self._again
        self._again.pop(job, None)
        if permit is None or self._tally is None:  # not called; or nothing looks at it
            self._settle_or_repeat(job, again)
            return
        counted = job.error is not None and counts(job.error, self._errors, self.spec.policy)
        trips = False
        if not permit and not self._tripped and self._breaker is not None and self._breaker.state.closed:
            now = self.work.clock.now()
            self._tally.add(now, failed=counted)
            trips = self._tripped = counted and self._tally.trips(now)
        if counted or permit:
            self._verdicts.append(Verdict(job, job.error, permit, counted, trips, again))
            self._verdict.set()
        if not counted:
            self._settle_or_repeat(job, again)

    def _settle_or_repeat(self, job: Job, again: bool) -> None:
        if again:
            self._put_back(job, again=True)
        else:
            super().end(job)

    async def _judging(self) -> None:
        """Judge the calls that have ended since the last time. What cannot be judged now is judged later."""
        clock, breaker = self.work.clock, self._breaker
        assert breaker is not None
        while True:
            await clock.wait(self._verdict, None)
            self._verdict.clear()
            try:
                await breaker.look(force=True)
                for verdict in self._verdicts:
                    if verdict.trips:  # first of all: those that have failed beside it are put back, too
                        await self._open(breaker, _reason(verdict.error))
                self._tripped = False
                while self._verdicts:
                    await self._judged(breaker, self._verdicts[0])
                    del self._verdicts[0]
            except StoreUnavailable as error:
                self._trouble(error.message)
            except Exception:
                log.exception("group %s: unexpected in its breaker, trying again", self.name)
            if self._verdicts:
                await clock.sleep(BACK_OFF)
                self._verdict.set()
            self._breaker_seen()

    async def _open(self, breaker: SharedBreaker, reason: str) -> None:
        """Open it, and give back the attempts of those that have failed before, within its time."""
        await breaker.change(lambda state, now: opened(state, breaker.rule, now, reason))
        since = self.work.clock.now() - breaker.rule.within
        failed = [job for at, job in self._charged if at >= since]
        self._charged.clear()
        for job in [job for job in failed if job in self._finished]:
            self._finished.remove(job)
            self._put_back(job, again=False)
        async with self._writing:
            await refund(self, failed)

    async def _judged(self, breaker: SharedBreaker, verdict: Verdict) -> None:
        permit, reason = verdict.permit, _reason(verdict.error)
        if permit:
            if verdict.counted:
                await breaker.change(lambda state, now: failed(state, breaker.rule, now, permit, reason))
            elif verdict.error is None:
                await breaker.change(lambda state, now: passed(state, breaker.rule, now, permit))
            else:
                await breaker.change(lambda state, now: given_back(state, now, permit))
        if verdict.counted and (permit or not breaker.state.closed):
            if verdict.again and verdict.job.earlier is not None:
                verdict.job.earlier = verdict.job.earlier.earlier
            self._put_back(verdict.job, again=False)
        elif verdict.counted:
            self._charged.append((self.work.clock.now(), verdict.job))
            self._settle_or_repeat(verdict.job, verdict.again)

    def _put_back(self, job: Job, *, again: bool) -> None:
        """To the head of its lane, as if it had not been called. What is parked stands in the store as it was."""
        window = self._windows.get(job.owned.partition)
        if window is None or window.open.get(job.place) is not job:
            return
        if job.held:  # it is just being parked, and follows in the store
            super().end(job)
        elif job.row is not None and not again:
            del window.open[job.place]
            self.lane_done(window, job)
        else:  # another job for it: whatever has called the handler may still hold this one
            lane = window.lanes[job.lane]
            fresh = Job(job.owned, job.offset, job.envelope, job.lane, job.binding, job.row, earlier=job.earlier)
            window.open[job.place] = lane[lane.index(job)] = fresh
            self._ready.append((window, job.lane))
            self.dispatch()

    def _breaker_seen(self) -> None:
        """It may be another now: go on, or wait."""
        assert self._breaker is not None
        if self._breaker.state.closed and self._tally is not None and self._was_open:
            self._tally.clear()
            self._due_at = 0.0
            self.wake()
        self._was_open = not self._breaker.state.closed
        self._unset("probe")
        self.dispatch()

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def handle(self, batches: Sequence[Batch]) -> None:
        await self._look_at_breaker()
        await super().handle(batches)

    async def before_fetch(self) -> None:
        await self._look_at_breaker()
        if self._breaker is None or self._breaker.state.closed:  # else nothing that may have ended processes is begun
            await super().before_fetch()

    async def _look_at_breaker(self) -> None:
        if self._breaker is not None:
            before = self._breaker.state
            await self._breaker.look()
            if self._breaker.state is not before:
                self._breaker_seen()

    async def _run_due(self) -> float:
        """While the breaker is open, what is parked comes only where there is nothing else to be tried."""
        breaker = self._breaker
        if breaker is not None and not breaker.state.closed and (self._ready or self._calls or breaker.opens > 0):
            return max(WHILE_OPEN, min(IDLE, breaker.opens))
        return await super()._run_due()

    @property
    def cut_off(self) -> str:
        waits = self._breaker is not None and self._breaker.opens > 0 and not (self._running or self._verdicts)
        return self.holding if waits else ""

    @property
    def holding(self) -> str:
        if self._breaker is not None and not self._breaker.state.closed:
            return told(self._breaker.state, self.work.clock.now())
        limit = self.spec.limit
        if limit is not None and self._limit is not None and self._limit.waits and self._ready:
            return f"it has reached its limit of {limit.per_second:g} calls per second"
        if limit is not None and self._keys is not None and self._keys.waits:
            return f"it has reached its limit of {limit.per_key:g} calls per second for a key"
        return ""

    def resumes(self) -> float | None:
        waits = [each.opens for each in (self._limit, self._keys) if each is not None and each.waits]
        if self._breaker is not None and not self._breaker.state.closed:
            waits.append(self._breaker.opens)
        return self.work.clock.now() + max(0.0, min(waits)) if waits else None

    def excuse(self, partition: Partition) -> str:
        return self.holding or super().excuse(partition)


def counts(error: BaseException, errors: tuple[type[BaseException], ...] | None, policy: Policy) -> bool:
    """Whether a breaker counts this error."""
    if isinstance(error, (Reject, RetryLater)):
        return False
    if errors is None:
        return isinstance(error, Exception) and not isinstance(error, (DecodeError, *policy.final, *policy.stop))
    late = isinstance(error, HandlerTimeout) and any(issubclass(TimeoutError, each) for each in errors)
    return late or isinstance(error, errors)


def _reason(error: BaseException | None) -> str:
    return "" if error is None else clean(f"{type(error).__name__}: {text_of(error)}")[:REASON]
