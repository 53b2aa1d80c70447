"""What happens after a failure: one pure function of (error, attempt, policy)."""

from __future__ import annotations

from dataclasses import dataclass

from evenflow.errors import DecodeError, NewerVersion


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
        if self.attempts < 1 or self.parking < 0:
            raise ValueError("a Policy needs attempts >= 1 and parking >= 0")
        if self.first_delay < 0 or self.max_delay < self.first_delay or self.factor < 1 or self.timeout <= 0:
            raise ValueError("a Policy needs 0 <= first_delay <= max_delay, factor >= 1 and timeout > 0")


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
