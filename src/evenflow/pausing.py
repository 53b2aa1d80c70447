"""Pauses: a person's word that a group, or one partition of it, takes nothing until it is resumed. Kept in the store.

A paused partition has no owner: what is in flight is finished and committed, then it is released and nobody claims it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from evenflow.engine import Partition
from evenflow.store import Row

WHOLE = Partition("", 0, -1)
"""Stands for all partitions of a group, those to come too."""


class Pause(NamedTuple):
    """Who has paused what, when (Unix time) and why. `partition` is `WHOLE` for the group."""

    partition: Partition
    at: float
    who: str
    reason: str

    def __str__(self) -> str:
        part = "" if self.partition == WHOLE else f" in partition {self.partition.number} of {self.partition.topic}"
        return f"paused{part} by {self.who}" + (f": {self.reason}" if self.reason else "")


def pauses_of(group: str, rows: Iterable[Row]) -> tuple[Pause, ...]:
    """What is paused of a group, from the rows of `pause_list`."""
    return tuple(Pause(Partition(*row[1:4]), *row[4:]) for row in rows if row[0] == group)


def covers(pauses: Iterable[Pause], partition: Partition) -> bool:
    """Whether the partition is paused."""
    return any(pause.partition in (WHOLE, partition) for pause in pauses)
