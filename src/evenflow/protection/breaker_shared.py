"""The breaker of a group as the store has it: what one process sees of it, and changes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from evenflow.clock import Clock
from evenflow.protection.breaker import CLOSED, Breaker, BreakerState, due_in, told
from evenflow.store import Row, Session, Statement, Store

log = logging.getLogger("evenflow")

LOOK = 0.05
"""Seconds for which it is taken to be as it was seen last, while events are handled."""

Step = Callable[[BreakerState, float], BreakerState]


class SharedBreaker:
    """The row of one group. Every change is a pure step from what is read in the same transaction."""

    def __init__(self, group: str, rule: Breaker, store: Store, clock: Clock) -> None:
        self.group = group
        self.rule = rule
        self.state = CLOSED
        self._store = store
        self._clock = clock
        self._seen = -LOOK

    @property
    def opens(self) -> float:
        """Seconds until a probe may go."""
        return due_in(self.state, self._clock.now())

    async def look(self, *, force: bool = False) -> None:
        """See what others have made of it. Raises `StoreUnavailable`."""
        now = self._clock.monotonic()
        if force or now - self._seen >= LOOK:
            self._seen = now
            rows = await self._store.read(self._store.sql["breaker_get"], (self.group,))
            self._see(state_of(rows[0]) if rows else CLOSED)

    async def change(self, step: Step) -> BreakerState:
        """Change it, and give what it is then. Raises `StoreUnavailable`."""
        state = await change(self._store, self.group, step, self._clock)
        self._seen = self._clock.monotonic()
        self._see(state)
        return state

    def _see(self, state: BreakerState) -> None:
        before = self.state
        if state == before:
            return
        self.state = state
        if state.state == before.state and (state.state != "open" or state.since == before.since):
            return
        if state.closed:
            log.warning("group %s: its breaker is closed again", self.group)
        elif state.state == "open":
            log.warning(
                "group %s: %s\n  → evenflow groups resume %s   (to try at once)",
                self.group, told(state, self._clock.now()), self.group,
            )  # fmt: skip
        else:
            log.info("group %s: %s", self.group, told(state, self._clock.now()))


async def change(
    store: Store, group: str, step: Step, clock: Clock, also: Callable[[BreakerState], Statement] | None = None
) -> BreakerState:
    """Change the breaker of a group by compare-and-set; what it is then. With it goes what `also` makes of the old."""

    async def work(session: Session) -> BreakerState | None:
        rows = await session.fetch(store.sql["breaker_get"], (group,))
        before, version = (state_of(rows[0]), rows[0][8]) if rows else (CLOSED, 0)
        after = step(before, clock.now())
        if after == before:
            return before
        args = (
            group, after.state, after.since, after.until, after.pause, after.passed, after.prober, after.permit,
            after.reason, version,
        )  # fmt: skip
        if await session.execute(store.sql["breaker_put"], args) != 1:
            return None
        if also is not None:
            await session.execute(*also(before))
        return after

    while True:
        state = await store.transact(work)
        if state is not None:
            return state


def state_of(row: Row) -> BreakerState:
    """A row of `breaker_get`."""
    return BreakerState(*row[:8])
