"""What happens after a failure: one pure function of (error, attempt, policy, age, draw)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from evenflow.errors import DecodeError, DefinitionError, EvenflowError, NewerVersion, SchemasUnavailable

SCHEMAS_AGAIN = 5.0
"""Seconds until an event is read again whose schema could not be had."""
_RULES = {
    "attempts": "use 1 (no retry) or more",
    "first_delay": "use 0 or more seconds",
    "max_delay": "use at least first_delay",
    "factor": "use 1 (every delay the same) or more",
    "jitter": "use a share from 0 (none) to 1 (up to twice the delay)",
    "deadline": "use more than 0 seconds, or None for no deadline",
    "timeout": "use more than 0 seconds; a long one is allowed, none is not",
    "final": "use a tuple of exception classes: final=(ValueError,)",
    "stop": "use a tuple of exception classes: stop=(PermissionError,)",
    "in_place": "use 0 (none) or more, and fewer than attempts",
    "parking": "use 0 (nothing is parked: the partition waits) or more events",
    "parking_bytes": "use 0 (nothing is parked: the partition waits) or more bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the failures of a handler are treated. A service's policy is the default of its handlers.

    attempts       how often an event is tried in all before it becomes a dead letter
    first_delay    seconds before an event that was parked is tried again; each later delay is `factor` times as long
    max_delay      no delay is longer than this, in seconds, but for its jitter
    factor         growth of the delay
    jitter         each delay is lengthened by a random share of it, from 0 to this: never shortened
    deadline       seconds after its first failure beyond which no attempt begins: it is a dead letter then
    timeout        seconds that one call of the handler may wait in all
    final          errors after which no retry can help: a dead letter at once
    stop           errors that are no event's fault and that only a person can mend (wrong credentials, say): the group
                   stops visibly, no attempt is counted, and `evenflow groups resume` lets it go on
    in_place       so many of the attempts follow the first one at once, before the event is parked
    parking        events that may be parked in this group before a partition with a failing event waits
    parking_bytes  bytes of events that may be parked, likewise
    """

    attempts: int = 5
    first_delay: float = 1.0
    max_delay: float = 300.0
    factor: float = 4.0
    jitter: float = 0.2
    deadline: float | None = None
    timeout: float = 30.0
    final: tuple[type[BaseException], ...] = ()
    stop: tuple[type[BaseException], ...] = ()
    in_place: int = 0
    parking: int = 1_000_000
    parking_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            if not self._holds(field.name):
                raise _senseless(f"{field.name}={getattr(self, field.name)!r}", _RULES[field.name])
        both = [each.__name__ for each in self.final if each in self.stop]
        if both:
            raise _senseless(f"{both[0]} in both final and stop", "an error is one event's fault, or nobody's: choose")
        if self.deadline is not None and self.attempts > 1 + self.in_place and self.deadline < self.first_delay:
            raise _senseless(
                f"deadline={self.deadline!r} and first_delay={self.first_delay!r}, which leaves time for no retry",
                "use a longer deadline; or attempts=1, if there is to be none",
            )

    def _holds(self, name: str) -> bool:
        value = getattr(self, name)
        match name:
            case "attempts":
                return _whole(value) and value >= 1
            case "in_place":
                return _whole(value) and 0 <= value < self.attempts
            case "parking" | "parking_bytes":
                return _whole(value) and value >= 0
            case "final" | "stop":
                return isinstance(value, tuple) and all(map(_is_error, value))
            case "deadline":
                return value is None or (_finite(value) and value > 0)
        least = {"first_delay": 0, "max_delay": self.first_delay, "factor": 1, "jitter": 0, "timeout": 0}[name]
        most = 1 if name == "jitter" else math.inf
        return _finite(value) and least <= value <= most and (name != "timeout" or value > 0)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _senseless(what: str, remedy: str) -> DefinitionError:
    return DefinitionError(f"a Policy cannot have {what}", remedy=remedy)


# -- what a handler may raise -----------------------------------------------------------------------------------------


class Reject(EvenflowError):
    """Raised by a handler: this event is a dead letter at once, for this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(str(reason) or "the handler gave no reason")
        self.reason = self.message


class RetryLater(EvenflowError):
    """Raised by a handler: try this event again in so many seconds. It counts as no attempt; the deadline holds."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not _finite(seconds) or seconds < 0:
            raise ValueError(f"RetryLater({seconds!r}): it takes a number of seconds, 0 or more")
        super().__init__(str(reason) or f"the handler wants to be called again in {seconds:g} s")
        self.seconds = float(seconds)


class HandlerTimeout(Exception):
    """The handler waited longer than its policy allows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it did not return within {seconds:g} s")


class ProcessEnded(Exception):
    """The process ended while it worked on this event: recorded as its error, never raised by a handler."""

    def __init__(self) -> None:
        super().__init__("it was begun, and its process has not told how it ended")


# -- what follows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Again:
    """Call the handler again at once, in place, with all that the attempt did undone."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Park the event until `delay` seconds have passed. `counts`: whether the attempt is counted."""

    delay: float
    counts: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Park the event for a person to decide."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the group for a person to mend what no event can help; the event stays where it is."""


Decision = Again | Retry | DeadLetter | Stop


def after_failure(
    error: BaseException, attempt: int, policy: Policy, *, age: float = 0.0, draw: float = 0.0
) -> Decision:
    """What to do with an event whose `attempt`-th attempt (from 1) has raised this error.

    age   seconds since its first failure
    draw  a random number from 0 to 1, for the jitter
    """
    if isinstance(error, policy.stop):
        return Stop()
    if isinstance(error, NewerVersion):
        return Retry(policy.max_delay, counts=False)  # heals when this code is up to date, however long that takes
    if isinstance(error, SchemasUnavailable):
        return Retry(min(SCHEMAS_AGAIN, policy.max_delay), counts=False)
    if isinstance(error, RetryLater):
        return _within(policy, age, Retry(error.seconds, counts=False))
    if isinstance(error, (Reject, DecodeError, *policy.final)) or attempt >= policy.attempts:
        return DeadLetter()
    if attempt <= policy.in_place and not isinstance(error, (HandlerTimeout, ProcessEnded)):
        return _within(policy, age, Again())
    return _within(policy, age, Retry(_delay(attempt, policy) * (1.0 + policy.jitter * draw)))


def _within(policy: Policy, age: float, decision: Again | Retry) -> Decision:
    """A dead letter instead, where the next attempt would begin after the deadline."""
    wait = decision.delay if isinstance(decision, Retry) else 0.0
    return decision if policy.deadline is None or max(age, 0.0) + wait <= policy.deadline else DeadLetter()


def _delay(attempt: int, policy: Policy) -> float:
    """Exponential: `first_delay` before the first attempt that is not in place."""
    if not policy.first_delay:
        return 0.0
    try:
        return min(policy.max_delay, policy.first_delay * policy.factor ** max(0, attempt - 1 - policy.in_place))
    except OverflowError:
        return policy.max_delay
