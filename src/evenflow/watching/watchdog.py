"""When something that ought to move stands still: decided from what was seen of it, look by look.

Time is counted in looks, not read from a clock between them: while the event loop is blocked nobody can move, and
nobody is looked at.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

LOOK = 1.0
"""Seconds between two looks."""
PATIENCE = 10.0
"""Seconds without any movement, and without an excuse, after which it is asked whether there is a backlog."""
CERTAINTY = 5.0
"""If there is one, so many seconds later it is a stall: what waits may have come a moment before it was asked."""
SLOW = 30.0
"""Seconds that a store or an engine may take to answer, or to say that it does not."""
ROUNDS = 5
"""Rounds of its loop in which whatever can move has moved, beside two for each partition."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look sees.

    moved   is another one after every movement
    rounds  how often its loop has gone round
    life    is another one after every sign of life of its loop
    excuse  why it may stand still, or ""
    busy    seconds that its loop may stay at what it does now; 0.0 where it only waits for events
    """

    moved: Hashable
    rounds: int = 0
    life: Hashable = None
    excuse: str = ""
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class Still:
    """For how long it has not moved, in seconds of looks, and how its loop has fared meanwhile.

    `waited`: something was there to be moved when this began.
    """

    seen: Seen
    seconds: float = 0.0
    lifeless: float = 0.0
    rounds: int = 0
    waited: bool = False


def after(before: Still | None, seen: Seen, elapsed: float) -> Still:
    """What is known after one more look, so many seconds after the one before."""
    if before is None or seen.excuse or seen.moved != before.seen.moved:
        return Still(seen)
    elapsed = min(elapsed, 2 * LOOK)
    alive = (seen.rounds, seen.life) != (before.seen.rounds, before.seen.life)
    return Still(
        seen,
        seconds=before.seconds + elapsed,
        lifeless=0.0 if alive else before.lifeless + elapsed,
        rounds=before.rounds + seen.rounds - before.seen.rounds,
        waited=before.waited,
    )


def idle(still: Still) -> bool:
    """Whether it is to be asked if anything waits there: nothing has moved for a while."""
    return not still.waited and still.seconds >= PATIENCE


def found_waiting(still: Still) -> Still:
    """Something waits there: it is looked at from now on whether it moves."""
    return Still(still.seen, lifeless=still.lifeless, waited=True)


def suspicious(still: Still, partitions: int = 1) -> str:
    """How it stands still although something waited, if it does so for too long. Empty while it may."""
    if not still.waited or still.seconds < CERTAINTY:
        return ""
    if still.lifeless >= PATIENCE + still.seen.busy:
        return "its loop hangs"
    if still.rounds >= ROUNDS + 2 * partitions:
        return "its loop goes round and does not take them"
    return ""
