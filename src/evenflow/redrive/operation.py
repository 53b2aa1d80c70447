"""A redrive or a discard of many dead letters as an operation: its facts, and what it does next, decided purely.

It counts lanes: a dead letter is the head of one, and what waits behind it follows when it has passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from evenflow.errors import Refused
from evenflow.store import Row

BATCH = 200
MINIMUM = 20
Kind: TypeAlias = Literal["redrive", "discard"]
CLOSED, AT_WORK, TIDYING = 0, 1, 2
"""What is left to do for an operation: nothing, or what it is for, or to remove what was not asked for."""
ENDED = ("done", "stopped", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an operation goes on.

    rate        lanes per second at most; None: as fast as they run
    canary      so many lanes have to pass first; one that fails stops it
    stop_above  stop when more than so many per cent of those decided have failed …
    minimum     … once so many are decided
    batch       lanes that are asked for and not decided at any time, at most
    """

    rate: float | None = None
    canary: int = 0
    stop_above: float | None = None
    minimum: int = MINIMUM
    batch: int = BATCH

    def __post_init__(self) -> None:
        rules = {
            "rate": (self.rate is None or 0 < self.rate < math.inf, "use more than 0 lanes per second"),
            "canary": (self.canary >= 0, "use 0 (none) or more lanes"),
            "stop_above": (self.stop_above is None or 0 <= self.stop_above < 100, "use 0 to 99.9 per cent"),
            "minimum": (self.minimum >= 1, "use 1 lane or more"),
            "batch": (self.batch >= 1, "use 1 lane or more"),
        }
        for name, (holds, remedy) in rules.items():
            if not holds:
                raise Refused(f"an operation cannot have {name}={getattr(self, name)!r}", remedy=remedy)


class Progress(NamedTuple):
    """How far it is, in lanes. `asked` are those whose turn has come; the gone were no dead letters any more."""

    total: int
    asked: int = 0
    passed: int = 0
    failed: int = 0
    gone: int = 0

    @property
    def open(self) -> int:
        """Asked for, and not decided: they wait for their owner, or are retried."""
        return self.asked - self.passed - self.failed - self.gone

    @property
    def decided(self) -> int:
        return self.passed + self.failed


class Ask(NamedTuple):
    """Ask for the next so many lanes."""

    lanes: int


class Stop(NamedTuple):
    """Ask for no more."""

    why: str


class Done(NamedTuple):
    """All are decided."""


class Wait(NamedTuple):
    """There is nothing to do now."""


Move: TypeAlias = Ask | Stop | Done | Wait


def decide(pace: Pace, now: Progress, credit: float) -> Move:
    """What an operation that runs does next. `credit` is how many lanes its rate allows now.

    A retry that a failure has led to is not decided: it takes its place in the batch, and in the canary, until it is.
    """
    left = now.total - now.asked
    if left <= 0:
        return Done() if now.open <= 0 else Wait()
    if now.failed and now.passed < pace.canary:
        return Stop(f"the canary failed: {now.failed} of the first {now.decided}")
    limit = pace.stop_above
    if limit is not None and now.decided >= pace.minimum and now.failed * 100 > limit * now.decided:
        share = 100 * now.failed / now.decided
        return Stop(f"{share:.0f} % of {now.decided:,} have failed, more than {limit:g} %")
    room = min(pace.batch - now.open, left)
    if now.passed < pace.canary:
        room = min(room, pace.canary - now.passed - now.open)
    room = min(room, int(min(credit, room)))
    return Ask(room) if room > 0 else Wait()


def refilled(pace: Pace, credit: float, seconds: float) -> float:
    """The credit so many seconds later: never more than that of one second, and at least one lane can be saved up."""
    if pace.rate is None:
        return math.inf
    return min(max(1.0, pace.rate), credit + pace.rate * max(0.0, seconds))


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation as it stands. Times are Unix time; counts are lanes; `filter` is what was asked for.

    state   gathering, running or paused; at its end done, stopped (by its own rule) or cancelled (by a person)
    open    0 when nothing is left to do for it: one that was stopped still learns what became of its last batch
    """

    id: int
    kind: Kind
    group: str
    filter: dict[str, str]
    pace: Pace
    state: str
    reason: str
    outcome: str
    who: str
    at: float
    changed: float
    total: int
    asked: int
    passed: int
    failed: int
    gone: int
    credit: float
    credited: float
    open: int

    @property
    def progress(self) -> Progress:
        return Progress(self.total, self.asked, self.passed, self.failed, self.gone)

    @property
    def ended(self) -> bool:
        """Whether it asks for no more."""
        return self.state in ENDED

    def said(self) -> str:
        """Its figures in words."""
        verb = "passed" if self.kind == "redrive" else "given up"
        left, open_ = self.total - self.asked, self.progress.open
        parts = [f"{self.passed:,} {verb}"]
        parts += [f"{self.failed:,} failed again"] * bool(self.failed) + [f"{self.gone:,} gone"] * bool(self.gone)
        parts += [f"{open_:,} under way"] * bool(open_) + [f"{left:,} not asked for"] * bool(left)
        return ", ".join(parts)


def operation(row: Row) -> Operation:
    """A row of `operation_list` and its kin."""
    id_, kind, group, filter_, plan, *rest, open_ = row
    return Operation(
        id=id_, kind=kind, group=group, filter=msgspec.json.decode(filter_, type=dict[str, str]),
        pace=msgspec.json.decode(plan, type=Pace), **dict(zip(_REST, rest, strict=True)), open=open_,
    )  # fmt: skip


_REST = (
    "state", "reason", "outcome", "who", "at", "changed", "total", "asked", "passed", "failed", "gone",
    "credit", "credited",
)  # fmt: skip
