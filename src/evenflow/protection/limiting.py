"""How often a waiting handler may be called: all calls of its group, and those of each key.

By the generic cell rate algorithm: a time (`tat`) moves on by 1/rate with each call, never behind the clock, and may
run ahead of it by as much as the burst allows. Decisions are pure; what is shared by processes stands in the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Any, NamedTuple

from evenflow.errors import DefinitionError

AHEAD = 0.1
"""Seconds for which a process reserves calls. What it has not made by then is lost."""
ROUNDING = 1e-3
"""Part of a call by which a reservation may be early: Unix time as a float is not finer."""
FORGET = 1000
"""Keys that are remembered at least, before those are looked for that are not needed any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How often a waiting handler is called at most, retries included. What is over it waits in line, and keeps order.

    per_second  calls of the whole group per second, in all its processes
    burst       calls that may come at once: over any time there are at most per_second * time + burst of them;
                by default a fifth of a second's, and 2 at least
    per_key     calls for one key per second: two of them are at least 1/per_key seconds apart
    """

    per_second: float | None = None
    burst: int | None = None
    per_key: float | None = None

    def __post_init__(self) -> None:
        if self.per_second is None and self.per_key is None:
            raise DefinitionError("a Limit without a limit", remedy="give it per_second=…, per_key=… or both")
        for name in ("per_second", "per_key"):
            value = getattr(self, name)
            if value is not None and not _positive(value):
                raise DefinitionError(
                    f"a Limit cannot have {name}={value!r}", remedy="use more than 0 calls per second"
                )
        if self.burst is None:
            return
        if self.per_second is None:
            raise DefinitionError("a Limit has burst and no per_second", remedy="burst belongs to per_second")
        least = 1 + ceil(self.per_second * AHEAD)
        if not _positive(self.burst) or self.burst < least:
            raise DefinitionError(
                f"a Limit of {self.per_second:g} per second cannot have burst={self.burst!r}",
                remedy=f"use {least} or more: processes reserve their calls for {AHEAD:g} s ahead",
            )

    @property
    def shared_burst(self) -> float:
        """What may be reserved at once, so that calls made up to `AHEAD` later keep the burst: 1 at least."""
        assert self.per_second is not None
        later = self.per_second * AHEAD
        return (max(2.0, 1 + 2 * later) if self.burst is None else self.burst) - later


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value > 0


class Taken(NamedTuple):
    """The answer to who asks for calls: how many, the new `tat`, and seconds until there is one more."""

    granted: int
    tat: float
    wait: float


def take(tat: float | None, now: float, want: int, rate: float, burst: float) -> Taken:
    """Reserve up to `want` calls now.

    A clock that has jumped back would leave `tat` far ahead of it: it counts as a burst that has just been used up.
    """
    ahead = burst / rate
    start = now if tat is None else min(max(tat, now), now + ahead)
    granted = max(0, min(want, int((now + ahead - start) * rate + ROUNDING)))
    after = start + granted / rate
    return Taken(granted, after, max(0.0, after + 1 / rate - ahead - now))


class Allowance:
    """What this process has reserved, and how much of it to ask for the next time. Times are monotonic."""

    def __init__(self, rate: float, burst: float) -> None:
        self.ask_at = -inf
        """When there may be more."""
        self._refill = min(AHEAD, (burst - 1) / rate)
        self._most = max(1, int(burst))
        self._left = self._used = 0
        self._until = -inf

    def may(self, now: float) -> bool:
        """Whether a call may be made now."""
        return self._left > 0 and now < self._until

    def use(self) -> None:
        """A call is made."""
        self._left -= 1
        self._used += 1

    def wants(self, in_line: int) -> int:
        """How many to ask for: what is in line, and as the last reservation was used, or that twice if it was short."""
        return max(1, min(self._most, max(in_line, 2 * self._used)))

    def got(self, taken: Taken, wanted: int, reserved: float, now: float) -> None:
        """What was asked for at `reserved` is known `now`. Where that took too long, one call is left of it."""
        self._used = 0
        self._left, self._until = taken.granted, reserved + AHEAD
        if now >= self._until and taken.granted:
            self._left, self._until = 1, now + AHEAD
        self.ask_at = now if taken.granted == wanted else now + max(taken.wait, self._refill)


class Keys:
    """When each key may be called again, in the process that owns its partition. A key that may is forgotten."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._next: dict[tuple[str, str], float] = {}
        self._limit = FORGET

    def __len__(self) -> int:
        return len(self._next)

    def at(self, key: tuple[str, str], now: float) -> float:
        """When it may be called: `now`, or later."""
        return max(now, self._next.get(key, now))

    def called(self, key: tuple[str, str], now: float) -> None:
        """A call for it begins."""
        if len(self._next) >= self._limit:
            self._next = {key: at for key, at in self._next.items() if at > now}
            self._limit = max(FORGET, 2 * len(self._next))
        self._next[key] = now + self._step
