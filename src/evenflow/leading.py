"""What one process of a service does for all of them: the one that owns the relay's position, under its fence."""

from __future__ import annotations

import logging
from math import inf
from typing import Protocol

from evenflow.clock import Clock, Signal
from evenflow.errors import FenceLost, StoreUnavailable
from evenflow.outbox import Outbox
from evenflow.position import Owned

log = logging.getLogger("evenflow")

LOOK = 1.0
"""Seconds after which a chore is looked at again, whatever it said: other processes leave work for it."""
LOOK_ANYWAY = 5.0
"""The same while somebody sees again and again that there is none."""
AGAIN = 0.5


class Chore(Protocol):
    """Work that one process does for all. Every transaction of it begins with the guard of the leader's position."""

    async def step(self, owned: Owned) -> float:
        """Do a little; seconds until there is more to do. Raises `FenceLost` when another process leads now."""
        ...


class Leading:
    """Runs the chores of one service, as long as this process leads."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self.chores: list[Chore] = []
        self._outbox = outbox
        self._clock = clock
        self._nudged = Signal()
        self._free_until = self._again_at = self._ahead = 0.0
        self._due: float | None = None
        self._said: dict[str, str] = {}
        self.looked = False
        """Whether every chore has been looked at since this process leads."""
        self.steps = 0
        """So many steps have been begun: a chore that hangs holds up all of them."""

    def nudge(self) -> None:
        """Look at the chores at once."""
        self._nudged.set()

    def seen(self, due: float | None, *, waits: bool) -> None:
        """Somebody has looked into the store: whether an operation waits there, and when the next run is due."""
        free = min(2 * LOOK, inf if due is None else due - self._clock.now())
        ahead = self._clock.now() - self._clock.monotonic()
        turned, self._ahead = abs(ahead - self._ahead) > LOOK or due != self._due, ahead
        self._due = due
        if not (waits or turned) and free > 0:  # a chore may have to see that clock or schedules are others
            self._free_until = self._clock.monotonic() + free
        elif self._free_until:
            self._free_until = 0.0
            self.nudge()

    async def run(self, stopping: Signal) -> None:
        """Until told to stop, and nudged. A chore that fails is said, and tried again; the others go on."""
        while not stopping.is_set():
            nudged, now = self._nudged.is_set(), self._clock.monotonic()
            self._nudged.clear()
            wait, leads = LOOK, self._outbox.owned is not None
            self.steps += 1
            if self.looked and leads and not nudged and now < min(self._free_until, self._again_at):
                wait = min(wait, self._free_until - now)
            else:
                self._again_at = now + LOOK_ANYWAY
                for chore in self.chores:
                    self.steps += 1
                    wait = min(wait, await self._step(chore))
                self.looked = leads and self._outbox.owned is not None
            await self._clock.wait(self._nudged, max(wait, 0.0))

    async def _step(self, chore: Chore) -> float:
        owned, said = self._outbox.owned, ""
        try:
            return LOOK if owned is None else await chore.step(owned)
        except FenceLost:
            return LOOK  # the next tick sees who leads
        except StoreUnavailable as error:
            said = error.message
            if said != self._said.get(type(chore).__name__):
                log.warning("service %s: %s", self._outbox.source, said)
        except Exception:
            log.exception("service %s: unexpected in %s, trying again", self._outbox.source, type(chore).__name__)
        finally:
            self._said[type(chore).__name__] = said
        return AGAIN
