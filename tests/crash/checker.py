"""Was anything lost, doubled, or out of order? Knows nothing of Evenflow, and imports nothing of it.

`check(history)` is a function of a History, which `reading.read(folder)` makes of the files of a run and a test makes
by hand. It goes over everything once, in order, and keeps one small number per event: two million fit well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from .books import ACKED, PLACED, TRIED, TX, Books, applied, key_of, line_of, number_of, parked
from .calls import Call, Fault, check_calls
from .record import NAMED, OTHERS, by_kind
from .runs import Run, check_by_hand, check_runs

TOP = {"orders": ("charge", "balance", "ledger", "again"), "readings": ("tally",)}
"""Groups that see every event of a topic."""
CHAIN = {"ship": "charge", "confirm": "charge", "parcel": "ship"}
"""Groups that see what another group has published, each event of it once."""
GROUPS = (*chain(*TOP.values()), *CHAIN)
POISON = "d-poison"
SOUGHT = "again"
"""A group that a person sends back now and then: its effects are at-least-once for him."""


class Effect(NamedTuple):
    """`epoch`: of the wall clock, for due events. Their order is that of publishing as long as it has not jumped."""

    key: str
    seq: int
    uid: str
    epoch: int = 0


class Parked(NamedTuple):
    group: str
    uid: str
    head: bool
    due: float | None
    place: tuple[int, int]


class Asked(NamedTuple):
    """What the operator has asked for, or was about to when it was killed: discard, redrive, seek, run.

    "ran": a run of a schedule that was asked for, and promised. The schedule's name stands for the group.
    """

    what: str
    group: str
    uid: str


@dataclass
class History:
    """Everything that is known of a run. `placed`: what transactions have committed, in order. `left`: in words."""

    tried: Iterable[tuple[str, list[str]]] = field(default_factory=list)
    acked: Iterable[list[str]] = field(default_factory=list)
    placed: Iterable[str] = field(default_factory=list)
    effects: Mapping[str, Iterable[Effect]] = field(default_factory=dict)
    counters: dict[tuple[str, str], int] = field(default_factory=dict)
    parked: list[Parked] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Anomaly(NamedTuple):
    kind: str
    what: str


class Verdict(NamedTuple):
    """Every anomaly, of all kinds (lost, doubled, phantom, order, count, parked, left), and how many events it judged.

    `events`: those that loaders were told to be published, those of transactions that are there, and those that
    handlers and schedules have published.
    """

    anomalies: list[Anomaly]
    events: int

    def summary(self, faults: Iterable[Fault]) -> str:
        """One line for a person."""
        kinds = Counter(anomaly.kind for anomaly in self.anomalies)
        struck = by_kind(fault.what for fault in faults)
        told = ", ".join(f"{struck[kind]} {kind}" for kind in NAMED if struck[kind])
        found = f"{kinds['lost']} lost, {kinds['doubled']} doubled, {kinds['order']} out of order"
        more = "".join(f", {kinds[kind]} {kind}" for kind in ("phantom", "count", "parked", "left") if kinds[kind])
        faulty = f"{sum(struck[kind] for kind in NAMED)} faults ({told}) and {struck[OTHERS]} others"
        return f"crash: {faulty}, {self.events} events, {found}{more}"


def check(history: History) -> Verdict:
    """Judge all of it."""
    books = Books()
    found = [Anomaly("left", text) for text in history.left]
    found += _enter(books, history)
    seeks = sum(1 for each in history.asked if each.what == "seek")
    for group in (*GROUPS, *sorted(history.effects.keys() - set(GROUPS))):
        found += _effects(books, group, history.effects.get(group, ()), history.counters, seeks)
    found += _parking(books, history.parked)
    discarded: dict[str, set[str]] = defaultdict(set)
    for each in history.asked:
        if each.what == "discard":
            discarded[each.group].add(each.uid)
    events, more = _whole(books, discarded)
    found += more
    done = {uid for uid in books.having(applied("charge"))} if history.calls or "charge" in history.effects else set()
    found += [Anomaly(*each) for each in check_calls(history.calls, history.faults, done)]
    found += [Anomaly(*each) for each in check_runs(history.runs, _set_back(history.faults))]
    asked = {what: Counter(each.group for each in history.asked if each.what == what) for what in ("run", "ran")}
    found += [Anomaly(*each) for each in check_by_hand(history.runs, asked["run"], asked["ran"])]
    return Verdict(found, events + len(history.runs))


def _set_back(faults: Iterable[Fault]) -> set[int]:
    """Which jumps of the wall clock, counted from 1, went back."""
    jumps = [fault.what for fault in sorted(faults, key=lambda fault: fault.at) if fault.what in ("jump", "back")]
    return {place for place, what in enumerate(jumps, 1) if what == "back"}


def _enter(books: Books, history: History) -> Iterator[Anomaly]:
    for via, uids in history.tried:
        for uid in uids:
            books.mark(uid, TRIED | (TX if via == "tx" else 0))
    for uids in history.acked:
        for uid in uids:
            books.mark(uid, ACKED)
    for uid in history.placed:
        if books.mark(uid, PLACED) & PLACED:
            yield Anomaly("doubled", f"the business row of {uid} is there more than once")


def _effects(
    books: Books, group: str, rows: Iterable[Effect], counters: Mapping[tuple[str, str], int], seeks: int
) -> Iterator[Anomaly]:
    """In order, each once; per key the sequence numbers are 1, 2, 3, … and the counter says how many there are."""
    bit = applied(group) if group in GROUPS else 0
    may_repeat = seeks if group == SOUGHT else 0
    last: dict[str, int] = {}
    seen: Counter[str] = Counter()
    back: Counter[str] = Counter()
    for key, seq, uid, epoch in rows:
        seen[key] += 1
        if seq != seen[key]:
            yield Anomaly("count", f"{group}: effect {seen[key]} of {key} has number {seq}")
        line, number = f"{line_of(uid)} {epoch}", number_of(uid)
        if number < last.get(line, 0) or (number == last.get(line) and may_repeat):
            back[line] += 1
            if back[line] > may_repeat:
                yield Anomaly("order", f"{group}: {uid} after number {last[line]}")
        last[line] = number if may_repeat else max(number, last.get(line, 0))
        if not bit:
            yield Anomaly("phantom", f"{group}: {uid} came")
        elif books.mark(uid, bit) & bit and not may_repeat:
            yield Anomaly("doubled", f"{group}: {uid} is applied more than once")
    for key, n in seen.items():
        if counters.get((group, key), 0) != n:
            yield Anomaly("count", f"{group}: {key} has {n} effects, its counter says {counters.get((group, key))}")


def _parking(books: Books, rows: Iterable[Parked]) -> Iterator[Anomaly]:
    """Only the poisoned key is parked, in the ledger alone: its dead letter first, and everything after it behind."""
    mine: list[Parked] = []
    for row in rows:
        poisoned = row.group == "ledger" and key_of(row.uid) == POISON
        if row.group in GROUPS:
            books.mark(row.uid, parked(row.group))
        if poisoned:
            mine.append(row)
        else:
            yield Anomaly("parked", f"{row.group}: {row.uid} is still parked")
    mine.sort(key=lambda row: row.place)
    if mine and not (mine[0].head and mine[0].due is None and number_of(mine[0].uid) == 5):
        yield Anomaly("parked", f"ledger: {mine[0].uid} heads its key, and is not the dead letter")
    last: dict[str, int] = {}
    for place, row in enumerate(mine):
        if place and row.head:
            yield Anomaly("parked", f"ledger: {row.uid} is a second head")
        line, number = line_of(row.uid), number_of(row.uid)
        if number < last.get(line, 0):
            yield Anomaly("order", f"ledger, parked: {row.uid} after number {last[line]}")
        last[line] = number


def _whole(books: Books, discarded: Mapping[str, set[str]]) -> tuple[int, list[Anomaly]]:
    """What each event should have come to, event by event; and how many events there were."""
    found: list[Anomaly] = []
    events = 0
    usual = {topic: _usual(topic) for topic in TOP}
    poisoned_from: dict[str, int] = {}
    for uid, state in books.all():
        topic = "readings" if uid.startswith("r") else "orders"
        groups = TOP[topic]
        wanted = state & (ACKED | PLACED) or any(state & (applied(g) | parked(g)) for g in groups)
        if not wanted:
            found += _caused(uid, state, discarded, wanted=False)
            continue
        events += 1 + sum(1 for group in ("charge", "ship") if state & applied(group))
        if state & ~(TX | PLACED | ACKED) == usual[topic] and bool(state & TX) == bool(state & PLACED):
            continue
        found += _accepted(uid, state)
        for group in groups:
            found += _once(group, uid, state, gone=uid in discarded[group])
        if topic == "orders":
            found += _caused(uid, state, discarded, wanted=True)
        if key_of(uid) == POISON and state & parked("ledger") and number_of(uid) == 5:
            poisoned_from.setdefault(line_of(uid), 5)
    found += _past_poison(books, poisoned_from)
    return events, found


def _usual(topic: str) -> int:
    """What an event has when all is well with it."""
    groups = (*TOP[topic], *(CHAIN if topic == "orders" else ()))
    return TRIED | sum(applied(group) for group in groups)


def _accepted(uid: str, state: int) -> Iterator[Anomaly]:
    if not state & TRIED:
        yield Anomaly("phantom", f"nobody has tried to publish {uid}")
    elif state & TX and not state & PLACED:
        if state & ACKED:
            yield Anomaly("lost", f"{uid} was acknowledged, and its transaction is not there")
        else:
            yield Anomaly("phantom", f"the transaction of {uid} was not committed")


def _once(group: str, uid: str, state: int, *, gone: bool) -> Iterator[Anomaly]:
    """Applied, parked, or given up: one of them."""
    is_applied, is_parked = state & applied(group), state & parked(group)
    if not (is_applied or is_parked or gone):
        yield Anomaly("lost", f"{group}: {uid} is not applied")
    if is_applied and is_parked:
        yield Anomaly("doubled", f"{group}: {uid} is applied and parked")


def _caused(uid: str, state: int, discarded: Mapping[str, set[str]], *, wanted: bool) -> Iterator[Anomaly]:
    """Groups down the chain: each has what its source has published, and nothing else."""
    for group, source in CHAIN.items():
        if wanted and state & applied(source):
            yield from _once(group, uid, state, gone=uid in discarded[group])
        elif state & (applied(group) | parked(group)):
            yield Anomaly("phantom", f"{group}: {uid} has no cause")


def _past_poison(books: Books, lines: Mapping[str, int]) -> Iterator[Anomaly]:
    for uid in books.having(applied("ledger")) if lines else ():
        if key_of(uid) == POISON and number_of(uid) > lines.get(line_of(uid), number_of(uid)):
            yield Anomaly("order", f"ledger: {uid} went past the dead letter of its key")
