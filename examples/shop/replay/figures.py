"""How the shop stands, as Evenflow and the shop's own database tell it: looked at from outside, while it runs."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass

from evenflow import App, operate

from shop.orders import orders

RATE_OVER = 3.0
"""Seconds that a rate is the mean of."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One group. `rate` is in events per second, `age` in seconds (None when nothing waits)."""

    group: str
    waiting: int
    rate: float
    age: float | None
    parked: int
    dead: int


@dataclass(frozen=True, slots=True)
class Look:
    """All groups at one moment. `at_work`: each has a live process. `stopped`: why groups stopped, if they did."""

    groups: tuple[Figure, ...]
    taken: int
    at_work: bool
    stopped: tuple[str, ...]

    @property
    def waiting(self) -> int:
        return sum(group.waiting for group in self.groups)

    def longest(self, but: Collection[str]) -> int:
        """How many wait in the group where most do, but for these."""
        return max(group.waiting for group in self.groups if group.group not in but)

    @property
    def quiet(self) -> bool:
        """Whether no group has anything to do, nor ever will without something new; dead letters do not count."""
        return all(group.waiting == 0 and group.parked <= group.dead for group in self.groups)

    @property
    def dead(self) -> int:
        return sum(group.dead for group in self.groups)


class Figures:
    """Looks at the app that is open in this process."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._before: deque[tuple[float, dict[str, int]]] = deque()

    async def look(self) -> Look:
        """One look; the rates are those since earlier looks."""
        found, prefix = await operate.groups(self._app.opened), self._app.opened.settings.group_prefix
        now, taken = time.monotonic(), {each.group: each.taken for each in found}
        while len(self._before) > 1 and now - self._before[1][0] > RATE_OVER:
            self._before.popleft()
        since, then = self._before[0] if self._before else (now - 1.0, taken)
        self._before.append((now, taken))
        return Look(
            tuple(
                Figure(
                    g.group.removeprefix(prefix), g.waiting or 0, (g.taken - then[g.group]) / (now - since),
                    g.age, g.parked, g.dead,
                )
                for g in found
            ),
            sum(taken.values()),
            all(each.state == "running" and each.owners for each in found),
            tuple(f"{each.group}: {each.reason}" for each in found if each.state == "stopped"),
        )  # fmt: skip

    async def states(self) -> Counter[str]:
        """How many orders are in each state."""
        rows = await self._app.read(orders, "select state, count(*) as orders from orders group by state")
        return Counter(dict(rows))
