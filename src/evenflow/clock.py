"""Time as a port: what the core waits for and reads the time from, so that tests and the simulator can own it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0

WAITERS = 32
"""Waiters of a signal that is never set, after which those that were given up are forgotten."""


class Signal:
    """A flag that tasks wait for. Unlike `asyncio.Event`, setting it is cheap when nobody waits."""

    __slots__ = ("_limit", "_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[asyncio.Future[None]] = []
        self._limit = WAITERS

    def set(self) -> None:
        self._set = True
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def waiter(self) -> asyncio.Future[None]:
        """A future that is done at the next `set()`; whoever gives it up cancels it."""
        if len(self._waiters) >= self._limit:  # those that were given up: nobody else takes them out
            self._waiters = [each for each in self._waiters if not each.done()]
            self._limit = max(WAITERS, 2 * len(self._waiters))
        future = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        return future


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> object: ...


class Clock(Protocol):
    """Where time comes from. Seconds everywhere; `now` is Unix time, `monotonic` has no epoch."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...
    async def wait(self, signal: Signal, seconds: float | None) -> bool:
        """Wait until the signal is set (True) or the time is over (False). Does not clear it."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call the function after so long, unless cancelled."""
        ...


class SystemClock:
    """The machine's clocks and the event loop's timers."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def wait(self, signal: Signal, seconds: float | None) -> bool:
        if signal.is_set():
            return True
        waiter = signal.waiter()
        timer = None if seconds is None else asyncio.get_running_loop().call_later(max(0.0, seconds), _wake, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            waiter.cancel()
        return signal.is_set()


class VirtualClock:
    """Time that moves only by `advance_to` and `skip`: a test's or the simulator's."""

    LONG = 6.0
    """Seconds. No loop of the runtime waits for longer, so that whoever does waits for the sake of the application."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._monotonic = start
        self._timers: list[tuple[float, int, asyncio.Future[None], bool]] = []
        self._sequence = itertools.count()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def next_timer(self, *, long: bool = False) -> float | None:
        """When, in the time of `now`, the next waiter is due, or None; `long`: only of those that began a long wait."""
        while self._timers and self._timers[0][2].done():
            heapq.heappop(self._timers)
        waiting = [each for each in self._timers if each[3] and not each[2].done()] if long else self._timers[:1]
        return self._now + max(0.0, min(waiting)[0] - self._monotonic) if waiting else None

    def advance_to(self, when: float) -> None:
        """Move time and wake whoever waited for it. Time does not go back."""
        self._monotonic += max(0.0, when - self._now)
        self._now = max(self._now, when)
        while self._timers and self._timers[0][0] <= self._monotonic + _ROUNDING:
            _wake(heapq.heappop(self._timers)[2])

    def skip(self, seconds: float) -> None:
        """Let the time of day move on, as for a machine that slept: nobody wakes, and `monotonic` stands still.

        For long waits the time has passed; all others go on as if there had been none.
        """
        self._now += seconds
        self._timers = [
            (max(self._monotonic, at - seconds) if long else at, turn, future, long)
            for at, turn, future, long in self._timers
            if not future.done()
        ]
        heapq.heapify(self._timers)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._timer(asyncio.get_running_loop().create_future(), seconds)

    async def wait(self, signal: Signal, seconds: float | None) -> bool:
        if signal.is_set():
            return True
        waiter = signal.waiter()
        try:
            await (waiter if seconds is None else self._timer(waiter, seconds))
        finally:
            waiter.cancel()
        return signal.is_set()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        future = self._timer(asyncio.get_running_loop().create_future(), seconds)
        future.add_done_callback(lambda done: None if done.cancelled() else callback())
        return future

    def _timer(self, future: asyncio.Future[None], seconds: float) -> asyncio.Future[None]:
        if seconds <= 0:
            asyncio.get_running_loop().call_soon(_wake, future)
        else:
            heapq.heappush(self._timers, (self._monotonic + seconds, next(self._sequence), future, seconds > self.LONG))
        return future


_ROUNDING = 1e-6
"""Seconds by which a timer may be early: Unix time as a float has no finer steps than a quarter of that."""


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
