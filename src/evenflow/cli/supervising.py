"""What a supervisor does about its workers: decided from values alone, with no process and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from evenflow.cli.failures import Code

HANG = 30.0
"""Seconds without a beat after which a worker is dumped, ended and replaced, unless the caller says otherwise."""
LOOK = 1.0
"""Seconds between two beats, and between two looks at them."""
START = 120.0
"""Seconds that a worker may take until it beats for the first time: it imports the app and opens its stores."""
STEADY = 60.0
"""A worker that has lived for so long has not failed at its start: its next end is not one in a row."""
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
PERSON = (Code.USAGE, Code.NOT_FOUND, Code.REFUSED)
"""How a worker ends that cannot start until a person has mended something."""


class Fate(Enum):
    """What follows when a worker has ended."""

    AGAIN = "start another in its place"
    GIVE_UP = "stop all, and end as it did"
    KEEP_OLD = "let the one that it was to replace go on"
    NOTHING = "it was told to"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker has ended.

    code      its exit code, or minus the signal that ended it
    told      it was told to stop
    ready     it had been ready; running: some worker has been, since the start
    replaces  it was to replace another
    """

    code: int
    told: bool = False
    ready: bool = False
    replaces: bool = False
    running: bool = False


def fate(ended: Ended) -> Fate:
    """What follows from it."""
    if ended.told:
        return Fate.NOTHING
    if ended.replaces and not ended.ready:
        return Fate.KEEP_OLD
    if not ended.running and ended.code in PERSON:
        return Fate.GIVE_UP
    return Fate.AGAIN


def delay(in_a_row: int) -> float:
    """Seconds before the next start, when so many in a row have not lived long: the first follows at once."""
    return 0.0 if in_a_row <= 1 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(in_a_row - 2, 16))


def silent(before: float, elapsed: float, *, heard: bool) -> float:
    """For how long a worker has been silent, after one more look: a machine that slept does not count."""
    return 0.0 if heard else before + min(elapsed, 2 * LOOK)


def outcome(codes: list[int]) -> int:
    """The exit code of all, when they were told to stop."""
    if Code.TIME_OVER in codes or any(code < 0 for code in codes):
        return Code.TIME_OVER
    return max(codes, default=Code.DONE)
