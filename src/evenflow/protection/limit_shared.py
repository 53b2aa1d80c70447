"""The limit of a group in one process: what it reserves in the store for all processes, and what it keeps per key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from evenflow.clock import Clock, Timer
from evenflow.errors import StoreUnavailable
from evenflow.protection.limiting import Allowance, Keys, Limit, Taken, take
from evenflow.store import Session
from evenflow.work import Work

L = TypeVar("L", bound=Hashable)

log = logging.getLogger("evenflow")

AGAIN = 0.5
"""Seconds until a store that did not answer is asked again."""
EARLY = 1e-6
"""Seconds by which a timer may be early."""


class SharedLimit:
    """Lets calls through. One small transaction per tenth of a second while there are calls, none without."""

    def __init__(self, work: Work, limit: Limit, go: Callable[[], object]) -> None:
        assert limit.per_second is not None
        self._work = work
        self._group = work.spec.group
        self._rate, self._burst = limit.per_second, limit.shared_burst
        self._allowance = Allowance(self._rate, self._burst)
        self._go = go
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self.waits = False
        """Whether events wait for it."""

    def may(self) -> bool:
        """Whether a call may be made now."""
        return self._allowance.may(self._work.clock.monotonic())

    def use(self) -> None:
        """A call is made."""
        self._allowance.use()
        self.waits = False

    def ask(self, in_line: int) -> None:
        """Reserve some for what is in line, as soon as there may be any; then `go` is called."""
        self.waits = True
        if self._task is None and self._timer is None:
            wait = self._allowance.ask_at - self._work.clock.monotonic()
            if wait > 0:
                self._timer = self._work.clock.call_later(wait, self._look)
            else:
                self._task = asyncio.create_task(self._reserve(in_line))

    @property
    def opens(self) -> float:
        """Seconds until there may be more."""
        return max(0.0, self._allowance.ask_at - self._work.clock.monotonic())

    def close(self) -> None:
        """Reserve nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._timer = None
        self._go()

    async def _reserve(self, in_line: int) -> None:
        wanted = self._allowance.wants(in_line)
        clock = self._work.clock
        try:
            taken, at = await self._work.store.transact(lambda session: self._take(session, wanted))
            self._allowance.got(taken, wanted, at, clock.monotonic())
        except StoreUnavailable as error:
            log.warning("group %s waits: its limit is in the store: %s", self._group, error.message)
            self._allowance.ask_at = clock.monotonic() + AGAIN
        except Exception:
            log.exception("group %s: unexpected while asking for its limit, trying again", self._group)
            self._allowance.ask_at = clock.monotonic() + AGAIN
        finally:
            self._task = None
        self._go()

    async def _take(self, session: Session, wanted: int) -> tuple[Taken, float]:
        sql, clock = self._work.store.sql, self._work.clock
        rows = await session.fetch(sql["limit_get"], (self._group,))
        tat = rows[0][0] if rows else None
        taken = take(tat, clock.now(), wanted, self._rate, self._burst)
        if await session.execute(sql["limit_put"], (self._group, taken.tat, tat)) != 1:
            taken = Taken(0, 0.0, 0.0)  # another process has been faster
        return taken, clock.monotonic()


class KeyLimit:
    """The limit of each key in one process: lanes that come too soon stand apart until their time has come."""

    def __init__(self, clock: Clock, rate: float, go: Callable[[list[L]], object]) -> None:
        self._clock = clock
        self._keys = Keys(rate)
        self._go = go
        self._line: list[tuple[float, int, Any]] = []
        self._lanes: dict[Any, None] = {}
        self._turn = count()
        self._timer: Timer | None = None

    def too_soon(self, key: tuple[str, str], lane: L) -> bool:
        """Whether this key has to wait, and its lane with it; else it is called now."""
        now = self._clock.monotonic()
        at = self._keys.at(key, now)
        if at <= now:
            self._keys.called(key, now)
            return False
        if lane not in self._lanes:
            self._lanes[lane] = None
            heappush(self._line, (at, next(self._turn), lane))
            if self._line[0][2] is lane:
                self._wait(at - now)
        return True

    @property
    def waits(self) -> bool:
        """Whether any lane waits."""
        return bool(self._line)

    @property
    def opens(self) -> float:
        """Seconds until the first of them may go on."""
        return max(0.0, self._line[0][0] - self._clock.monotonic()) if self._line else 0.0

    def close(self) -> None:
        """Let nothing go on."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self.close()
        self._timer = self._clock.call_later(seconds, self._look)

    def _look(self) -> None:
        now, ready = self._clock.monotonic() + EARLY, []
        while self._line and self._line[0][0] <= now:
            lane = heappop(self._line)[2]
            del self._lanes[lane]
            ready.append(lane)
        if self._line:
            self._wait(self.opens)
        self._go(ready)
