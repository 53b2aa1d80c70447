"""What a case is. The list of all of them is in `bench.cases.every`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.processes import Plan, Record


@dataclass(frozen=True)
class Case:
    """`measure` finds its lines. `apart`: too long for a run of all cases, it runs when it is named."""

    name: str
    kind: str
    what: str
    measure: Callable[[Plan], Record]
    apart: bool = False


class LeftOut(Exception):
    """This case cannot be measured here; the text says why."""
