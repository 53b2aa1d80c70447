"""What happens after a failure: one pure function of (error, attempt, policy)."""

from __future__ import annotations

from dataclasses import dataclass

from evenflow.errors import DecodeError, DefinitionError, NewerVersion

_RULES = {
    "attempts": "use 1 (no retry) or more",
    "first_delay": "use 0 or more seconds",
    "max_delay": "use at least first_delay",
    "factor": "use 1 (every delay the same) or more",
    "timeout": "use more than 0 seconds; a long one is allowed, none is not",
    "parking": "use 0 (nothing is parked: the partition waits) or more events",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the failures of a handler are treated. A service's policy is the default of its handlers.

    attempts     how often an event is tried in all before it becomes a dead letter
    first_delay  seconds before the second attempt; each later delay is `factor` times the one before
    max_delay    no delay is longer than this, in seconds
    factor       growth of the delay
    timeout      seconds that one call of the handler may wait in all
    final        errors after which no retry can help: a dead letter at once
    parking      events that may be parked in this group before a partition with a failing event stops
    """

    attempts: int = 5
    first_delay: float = 1.0
    max_delay: float = 300.0
    factor: float = 4.0
    timeout: float = 30.0
    final: tuple[type[BaseException], ...] = ()
    parking: int = 100_000

    def __post_init__(self) -> None:
        rules = {
            "attempts": self.attempts >= 1,
            "first_delay": self.first_delay >= 0,
            "max_delay": self.max_delay >= self.first_delay,
            "factor": self.factor >= 1,
            "timeout": self.timeout > 0,
            "parking": self.parking >= 0,
        }
        for name, holds in rules.items():
            if not holds:
                raise DefinitionError(f"a Policy cannot have {name}={getattr(self, name)!r}", remedy=_RULES[name])


@dataclass(frozen=True, slots=True)
class Retry:
    """Park the event until `delay` seconds have passed."""

    delay: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Park the event for a person to decide."""


def after_failure(error: BaseException, attempt: int, policy: Policy) -> Retry | DeadLetter:
    """What to do with an event whose `attempt`-th attempt (from 1) has raised this error."""
    if isinstance(error, NewerVersion):
        return Retry(policy.max_delay)  # heals when this code is up to date: no attempts are counted
    if isinstance(error, (DecodeError, *policy.final)) or attempt >= policy.attempts:
        return DeadLetter()
    return Retry(min(policy.max_delay, policy.first_delay * policy.factor ** (attempt - 1)))
