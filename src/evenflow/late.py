"""The time limit of waiting handlers: one timer looks after all that are running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from evenflow.clock import Clock, Timer
from evenflow.policy import HandlerTimeout
from evenflow.window import Job

GiveUp = Callable[[asyncio.Task[None]], None]

TURNS = 2
"""Turns of the event loop in which a handler may take its cancellation, before it is dropped."""


class Late:
    """Cancels the tasks whose job takes longer than so many seconds."""

    def __init__(self, clock: Clock, seconds: float, tasks: Mapping[asyncio.Task[None], Job], give_up: GiveUp) -> None:
        self._clock = clock
        self._give_up = give_up
        self._seconds = seconds
        self._tasks = tasks
        self._timer: Timer | None = None

    def due(self) -> float:
        """When a handler that begins now has to have ended."""
        return self._clock.monotonic() + self._seconds

    def watch(self) -> None:
        """A task has begun."""
        if self._timer is None:
            self._timer = self._clock.call_later(self._seconds, self._look)

    def rest(self) -> None:
        """A task has ended."""
        if not self._tasks and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Cancel handlers whose time is over, and wait for the next."""
        self._timer = None
        now, following = self._clock.monotonic(), None
        for task, job in list(self._tasks.items()):
            if job.due <= now:
                if not job.late:
                    job.late = 1
                    task.cancel()
                    asyncio.get_running_loop().call_soon(self._drop, task, job, TURNS)
            elif following is None or job.due < following:
                following = job.due
        if following is not None:
            self._timer = self._clock.call_later(following - now, self._look)

    def _drop(self, task: asyncio.Task[None], job: Job, turns: int) -> None:
        """End a handler that has not taken its cancellation."""
        if job.coroutine is None or self._tasks.get(task) is not job:
            return
        if turns:
            asyncio.get_running_loop().call_soon(self._drop, task, job, turns - 1)
            return
        with suppress(BaseException):  # of the handler's, whatever it answers to its end
            job.coroutine.close()
        job.late += 1
        task.cancel()
        asyncio.get_running_loop().call_soon(self._leave, task, job, TURNS)

    def _leave(self, task: asyncio.Task[None], job: Job, turns: int) -> None:
        """Leave a handler that swallows even its end to itself: its event is over, and its place is free."""
        if self._tasks.get(task) is not job:
            return
        if turns:
            asyncio.get_running_loop().call_soon(self._leave, task, job, turns - 1)
        else:
            job.error = HandlerTimeout(self._seconds)
            self._give_up(task)

    def taken_back(self, job: Job, task: asyncio.Task[None]) -> bool:
        """Note that it was late, and take our cancellations back. False if somebody else has cancelled it, too."""
        for _ in range(job.late):
            task.uncancel()
        job.error = HandlerTimeout(self._seconds)
        return not task.cancelling()
