"""Runs of schedules: each due time has one, or is counted as missed by the run of the next.

An interval counts anew where the wall clock is set back; it then has another grid of due times. What differs between
two runs of one grid is excused where the clock was set back between them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

PERIODS = {"sweep": 1.0, "minutely": 60.0}
"""Seconds from one due time of a schedule to the next."""
COUNTED = 1000
"""So many missed ones are told of at most."""


class Run(NamedTuple):
    """One run: for which time, how many before it had none, whether it was asked for by hand, after how many jumps."""

    name: str
    due: float
    missed: int
    manual: bool
    epoch: int = 0


def check_runs(runs: Iterable[Run], backs: Set[int]) -> Iterator[tuple[str, str]]:
    """Kinds and words of every anomaly. `backs`: the epochs that began with a clock that was set back."""
    grids: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        if not run.manual:
            grids[run.name, round(run.due * 1000) % round(PERIODS[run.name] * 1000)].append(run)
    for (name, _), mine in grids.items():
        mine.sort(key=lambda run: (run.due, run.epoch))
        for before, run in zip(mine, mine[1:], strict=False):
            first, last = sorted((before.epoch, run.epoch))
            if not any(first < epoch <= last for epoch in backs):
                yield from _between(name, before, run)


def _between(name: str, before: Run, run: Run) -> Iterator[tuple[str, str]]:
    if run.due == before.due:
        yield "doubled", f"schedule {name}: a second run for {run.due}"
        return
    between = round((run.due - before.due) / PERIODS[name]) - 1
    if min(between, COUNTED) != min(run.missed, COUNTED):
        what = f"{between} due times before {run.due} have no run, which tells of {run.missed}"
        yield "lost" if between > run.missed else "phantom", f"schedule {name}: {what}"


def check_by_hand(
    runs: Iterable[Run], meant: Mapping[str, int], promised: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Each run that a person was promised is there; one that was only meant may be."""
    done = Counter(run.name for run in runs if run.manual)
    for name in PERIODS:
        if done[name] > meant.get(name, 0):
            yield "doubled", f"schedule {name}: {done[name]} runs by hand, of {meant.get(name, 0)} that were asked for"
        if done[name] < promised.get(name, 0):
            yield "lost", f"schedule {name}: {done[name]} runs by hand, of {promised[name]} that were promised"
