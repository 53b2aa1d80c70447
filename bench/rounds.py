"""Ours and the twin in turns, and what their rounds come to: medians, spread, and the ratio within each round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from bench.processes import Record

Measure = Callable[[], Record]


def in_turns(rounds: int, *sides: Measure) -> list[list[Record]]:
    """One after the other, never two at once; who begins changes with each round. The records of each side."""
    found: list[list[Record]] = [[] for _ in sides]
    for number in range(rounds):
        for place in range(number, number + len(sides)):
            found[place % len(sides)].append(sides[place % len(sides)]())
    return found


def line(
    name: str,
    ours: Sequence[Record],
    twin: Sequence[Record] = (),
    *,
    figure: str = "rate",
    unit: str = "events/s",
    goal: str = "",
    beside: str = "by hand",
) -> Record:
    """One line of the table. A ratio above 1 says that ours is better, whether more of the figure is better or less."""
    less = unit != "events/s"
    found: Record = {"name": name, "unit": unit, "rounds": len(ours), "ours": side(ours, figure)}
    if goal:
        found["goal"] = goal
    if twin:
        pairs = zip(ours, twin, strict=True)
        ratios = [b[figure] / a[figure] if less else a[figure] / b[figure] for a, b in pairs]
        found |= {"beside": beside, "twin": side(twin, figure)}
        found |= {"ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)]}
        if "cpu_us" in ours[0] and "cpu_us" in twin[0]:
            found["cpu_ratio"] = middle(twin, "cpu_us") / middle(ours, "cpu_us")
    return found


def side(records: Sequence[Record], figure: str) -> Record:
    values = [record[figure] for record in records]
    found: Record = {"median": statistics.median(values), "spread": [min(values), max(values)]}
    for name in ("cpu_us", "memory"):
        if name in records[0]:
            found[name] = middle(records, name)
    return found


def middle(records: Sequence[Record], name: str) -> float:
    return statistics.median(record[name] for record in records)


def case(lines: Sequence[Record], **more: Any) -> Record:
    """What a case has found: its lines, of which the first has the verdict."""
    return {"lines": list(lines), **more}
