"""Calls to the outside, as its own ledger has them: all made, in order per key, and repeated only across a fault.

A repeat is excused by what happened to the process that called first, while it called or soon after, before the end of
the call was settled: it was killed or frozen, its event loop stood still, or files, servers or connections were harmed. Or by what
happened to the one that called again: it was frozen, and did not know yet that its place was another's by then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from .books import line_of, number_of

SETTLED = 3.0
"""Seconds after the end of a call by which it is settled, in a process that nothing happens to, while no other is
frozen: that one may hold the write lock of the store."""
EARLY = 1.0
"""Seconds that a call may be on its way to the outside, when whoever made it is dead already."""
LATE = 3.0
"""Seconds after its thaw by which a process knows what was taken from it."""
STRUCK = ("kill", "freeze", "thaw", "stall", "stalled")
HARMED = ("fill", "freed", "lock", "unlocked", "harmed", "well")
ALL = -1


class Call(NamedTuple):
    uid: str
    key: str
    id: str
    pid: int
    attempt: int
    phase: str
    at: float


class Fault(NamedTuple):
    what: str
    pid: int
    at: float


class Faults:
    """When each process was struck, and when files could not be written."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._times: dict[int, list[float]] = defaultdict(list)
        self._spans: list[tuple[float, float]] = []
        self._frozen: list[tuple[float, float]] = []
        began: dict[tuple[str, int], float] = {}
        ice: dict[int, float] = {}
        for fault in sorted(faults, key=lambda fault: fault.at):
            if fault.what in STRUCK:
                self._times[fault.pid].append(fault.at)
                if fault.what == "freeze":
                    ice.setdefault(fault.pid, fault.at)
                elif fault.what in ("thaw", "kill") and fault.pid in ice:
                    self._frozen.append((ice.pop(fault.pid), fault.at))
            elif fault.what in HARMED[::2]:
                began.setdefault((fault.what, fault.pid), fault.at)
            elif fault.what in HARMED:
                start = began.pop((HARMED[HARMED.index(fault.what) - 1], fault.pid), None)
                if start is not None:
                    self._spans.append((start, fault.at))
        self._spans += [(start, float("inf")) for start in began.values()]

    def struck(self, pid: int, start: float, end: float) -> bool:
        """Whether something happened to this process in this time, or to the files of all."""
        times = self._times.get(pid, [])
        place = bisect_left(times, start)
        if place < len(times) and times[place] <= end:
            return True
        return any(first <= end and start <= last for first, last in self._spans)

    def frozen(self, start: float, end: float) -> float:
        """For how many seconds of this time somebody was frozen, at most: of two at the same time, both count."""
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in self._frozen)


class Attempt(NamedTuple):
    """One call from its beginning to its end, if it had one."""

    start: Call
    end: float
    good: bool


def attempts_of(calls: Iterable[Call]) -> list[Attempt]:
    """In the order in which they began."""
    running: dict[tuple[str, int], Call] = {}
    found = []
    for call in calls:
        place = (call.uid, call.pid)
        if call.phase == "start":
            if place in running:
                found.append(Attempt(running[place], float("inf"), False))
            running[place] = call
        elif place in running:
            found.append(Attempt(running.pop(place), call.at, call.phase == "end"))
    found += [Attempt(call, float("inf"), False) for call in running.values()]
    return sorted(found, key=lambda attempt: attempt.start.at)


def check_calls(calls: Sequence[Call], faults: Iterable[Fault], wanted: Set[str]) -> Iterator[tuple[str, str]]:
    """Kinds and words of every anomaly. `wanted`: what should have been called."""
    known, by_uid = Faults(faults), defaultdict[str, list[Attempt]](list)
    attempts = attempts_of(calls)
    for attempt in attempts:
        by_uid[attempt.start.uid].append(attempt)
    done = {uid for uid, mine in by_uid.items() if any(each.good for each in mine)}
    yield from (("lost", f"notify: {uid} was not called to its end") for uid in sorted(wanted - done))
    yield from (("phantom", f"notify: {uid} has no cause") for uid in sorted(by_uid.keys() - wanted))
    for uid, mine in by_uid.items():
        yield from _repeats(uid, mine, known)
    yield from _in_order(by_uid)
    yield from _side_by_side(attempts, known)


def _repeats(uid: str, mine: list[Attempt], faults: Faults) -> Iterator[tuple[str, str]]:
    if len({each.start.id for each in mine}) > 1:
        yield "doubled", f"notify: {uid} was called under several ids"
    for first, again in zip(mine, mine[1:], strict=False):
        failed = first.end <= again.start.at and not first.good
        if not failed and not _excused(first, again, faults):
            yield "doubled", f"notify: {uid} was called again by {again.start.pid} with no fault between"


def _excused(first: Attempt, again: Attempt, faults: Faults) -> bool:
    waited = faults.frozen(first.end, again.start.at) if first.end < again.start.at else 0.0
    end = min(first.end + SETTLED + waited, again.start.at)
    if faults.struck(first.start.pid, first.start.at - EARLY, end):
        return True
    return faults.struck(again.start.pid, again.start.at - LATE, again.start.at)


def _in_order(by_uid: dict[str, list[Attempt]]) -> Iterator[tuple[str, str]]:
    """By when each was called to its end first."""
    ends = sorted(
        (min(each.end for each in mine if each.good), uid)
        for uid, mine in by_uid.items()
        if any(each.good for each in mine)
    )
    last: dict[str, int] = {}
    for _, uid in ends:
        line, number = line_of(uid), number_of(uid)
        if number < last.get(line, 0):
            yield "order", f"notify: {uid} after number {last[line]}"
        last[line] = max(number, last.get(line, 0))


def _side_by_side(attempts: Iterable[Attempt], faults: Faults) -> Iterator[tuple[str, str]]:
    by_key: dict[str, Attempt] = {}
    for attempt in attempts:
        before = by_key.get(attempt.start.key)
        by_key[attempt.start.key] = attempt
        if before is not None and before.end > attempt.start.at and not _excused(before, attempt, faults):
            yield "order", f"notify: {attempt.start.uid} began while {before.start.uid} was running"
