"""A breaker: a group whose handler fails too often pauses with what it has in hand, and tries one event at a time.

closed ── failures ──► open ── pause over, one permit ──► half-open ── probes pass ──► closed
                         ▲                                    │
                         └────────── a probe fails ───────────┘   each pause twice as long, up to a limit

Pure functions from state to state; what the processes of a group share of it stands in one row of the store.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

from evenflow.errors import DefinitionError

GROWTH = 2.0
"""Each pause is so many times as long as the one before."""
JUMP = 1.0
"""Seconds that a clock may be set back without being taken to have jumped."""
PARTS = 10
"""Parts of `within` in which calls are counted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When the group of a waiting handler pauses, and how it goes on. What fails while it is open costs no attempt.

    failures   so many failed calls ...
    within     ... in so many seconds, in one process, open it,
    share      if they are at least this part of all calls in that time
    pause      seconds until one event is tried again; each later pause is twice as long
    max_pause  no pause is longer than this, in seconds
    passes     so many probes in a row have to pass before it closes
    errors     which errors count; by default all but those that are final, and what a handler decides by itself
    """

    failures: int = 5
    within: float = 10.0
    share: float = 0.5
    pause: float = 30.0
    max_pause: float = 300.0
    passes: int = 1
    errors: tuple[type[BaseException], ...] | None = None

    def __post_init__(self) -> None:
        rules = {
            "failures": (_whole(self.failures), "use 1 or more"),
            "within": (_number(self.within), "use more than 0 seconds"),
            "share": (_number(self.share) and self.share <= 1, "use a part of all calls: more than 0, at most 1"),
            "pause": (_number(self.pause), "use more than 0 seconds"),
            "max_pause": (_number(self.max_pause), "use more than 0 seconds"),
            "passes": (_whole(self.passes), "use 1 or more"),
            "errors": (_errors(self.errors), "use a tuple of exception classes, as (ConnectionError, TimeoutError)"),
        }
        for name, (holds, remedy) in rules.items():
            if not holds:
                raise DefinitionError(f"a Breaker cannot have {name}={getattr(self, name)!r}", remedy=remedy)
        if self.max_pause < self.pause:
            raise DefinitionError(
                f"a Breaker cannot have max_pause={self.max_pause!r}", remedy=f"use at least its pause, {self.pause:g}"
            )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _errors(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, tuple)
        and bool(value)
        and all(isinstance(each, type) and issubclass(each, BaseException) for each in value)
    )


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The row that the processes of a group share. `since`, when it was changed last, and `until` are Unix times.

    until   open: when a probe may go; half-open: when the permit of the prober ends
    permit  the number of the last permit: only its holder's outcome counts
    """

    state: Literal["closed", "open", "half-open"] = "closed"
    since: float = 0.0
    until: float = 0.0
    pause: float = 0.0
    passed: int = 0
    prober: str | None = None
    permit: int = 0
    reason: str = ""

    @property
    def closed(self) -> bool:
        """Whether events go through as ever."""
        return self.state == "closed"


CLOSED = BreakerState()


def due_in(state: BreakerState, now: float) -> float:
    """Seconds until a probe may go. A clock that stands before the last change has jumped back: it may go at once."""
    return 0.0 if state.closed or now < state.since - JUMP else max(0.0, state.until - now)


def opened(state: BreakerState, rule: Breaker, now: float, reason: str) -> BreakerState:
    """Too many calls have failed. What is not closed stays as it is."""
    if not state.closed:
        return state
    pause = rule.pause
    return replace(state, state="open", since=now, until=now + pause, pause=pause, passed=0, prober=None, reason=reason)


def probing(state: BreakerState, now: float, prober: str, seconds: float) -> BreakerState:
    """The permit for one probe, for so many seconds; as it is where there is none to be had."""
    if state.closed or due_in(state, now) > 0:
        return state
    return replace(state, state="half-open", since=now, until=now + seconds, prober=prober, permit=state.permit + 1)


def passed(state: BreakerState, rule: Breaker, now: float, permit: int) -> BreakerState:
    """The probe with this permit has passed."""
    if not _holds(state, permit):
        return state
    if state.passed + 1 >= rule.passes:
        return BreakerState(since=now, until=now, permit=state.permit)
    return replace(state, since=now, until=now, passed=state.passed + 1, prober=None)


def failed(state: BreakerState, rule: Breaker, now: float, permit: int, reason: str) -> BreakerState:
    """The probe with this permit has failed: open again, for longer."""
    if not _holds(state, permit):
        return state
    pause = min(rule.max_pause, max(rule.pause, state.pause * GROWTH))
    return replace(state, state="open", since=now, until=now + pause, pause=pause, passed=0, prober=None, reason=reason)


def given_back(state: BreakerState, now: float, permit: int) -> BreakerState:
    """The permit was not used, or its event tells nothing about what the breaker looks at."""
    return replace(state, since=now, until=now, prober=None) if _holds(state, permit) else state


def forced(state: BreakerState, now: float) -> BreakerState:
    """A person has closed it."""
    return BreakerState(since=now, until=now, permit=state.permit)


def _holds(state: BreakerState, permit: int) -> bool:
    return state.state == "half-open" and state.prober is not None and state.permit == permit


def told(state: BreakerState, now: float) -> str:
    """How it stands, in a line."""
    if state.closed:
        return "breaker closed"
    because = f", because {state.reason}" if state.reason else ""
    if state.state == "half-open":
        trying = "one event is being tried" if state.prober else "the next event is tried"
        return f"breaker half-open, {trying}{because}"
    seconds = due_in(state, now)
    return f"breaker open, next probe {f'in {seconds:.0f} s' if seconds >= 0.5 else 'now'}{because}"


class Tally:
    """Calls and failures of the last `within` seconds in this process, counted in parts of that time.

    By the time of day: a machine that slept has no failures of late. A clock that jumps back begins anew.
    """

    def __init__(self, rule: Breaker) -> None:
        self._rule = rule
        self._width = rule.within / PARTS
        self._parts: deque[list[int]] = deque()  # number of the part, calls, failures

    def add(self, now: float, *, failed: bool) -> None:
        """A call has ended."""
        place = int(now // self._width)
        if self._parts and self._parts[-1][0] > place:
            self._parts.clear()
        if not self._parts or self._parts[-1][0] != place:
            self._parts.append([place, 0, 0])
            while self._parts[0][0] <= place - PARTS:
                self._parts.popleft()
        part = self._parts[-1]
        part[1] += 1
        part[2] += failed

    def counts(self, now: float) -> tuple[int, int]:
        """Calls, and how many of them have failed."""
        first = int(now // self._width) - PARTS
        recent = [part for part in self._parts if part[0] > first]
        return sum(part[1] for part in recent), sum(part[2] for part in recent)

    def trips(self, now: float) -> bool:
        """Whether that is too much."""
        calls, failures = self.counts(now)
        return failures >= self._rule.failures and failures >= self._rule.share * calls

    def clear(self) -> None:
        """Begin anew."""
        self._parts.clear()
