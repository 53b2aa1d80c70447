"""Firing schedules: the process that leads publishes a run when it is due, once, and says when the next is.

A schedule stands in the store, so that a leader can fire one that its own code does not have yet, or not any more: as
long as a process lives that handles it. What the code says is written down when a process starts that handles it; the
last to start counts, and when that one is gone, the one that leads. So old and new code side by side do not take turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from evenflow.clock import DAY, MINUTE, Clock
from evenflow.event import spec_of
from evenflow.handler import HandlerSpec
from evenflow.ids import derived_id, new_id, slot_of
from evenflow.leading import LOOK
from evenflow.outbox import Outbox
from evenflow.position import Owned, guard
from evenflow.schedules.recurrence import Recurrence
from evenflow.schedules.schedule import Due, Missed
from evenflow.store import Process, Session, Store
from evenflow.unit_of_work import UnitOfWork

log = logging.getLogger("evenflow")

GRACE = MINUTE
"""Seconds by which a run may be late and is not called missed."""
COUNTED = 1000
"""Missed times that have a run each with missed="all"; others are counted, up to this number."""
AHEAD = DAY
"""Seconds by which the clock must have been set back before a cron line goes by what it shows now: until then no time
of day comes twice."""
AHEAD_EVERY = MINUTE
"""The same for an interval, which then counts from now: its times are no times of day."""


class Entry(NamedTuple):
    """A schedule as it stands in its store."""

    name: str
    group: str
    topic: str
    type: str
    line: str
    tz: str
    seconds: float
    missed: Missed
    anchor: float
    next_due: float | None
    process: str
    paused: float | None
    paused_by: str | None
    paused_why: str | None
    last_due: float | None
    last_run: float | None
    runs: int

    @property
    def recurrence(self) -> Recurrence:
        return Recurrence(self.line, self.tz, self.seconds, self.anchor)


async def entries_of(store: Store) -> list[Entry]:
    """All schedules of a store, by name."""
    return [Entry(*row) for row in await store.read(store.sql["schedule_list"])]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a schedule now: runs, as (due, missed), and its next time. `anchor`: a new one."""

    runs: tuple[tuple[float, int], ...]
    next_due: float | None
    last_due: float
    anchor: float | None = None


def plan(entry: Entry, now: float) -> Plan | None:
    """What is to be done, or None for nothing yet."""
    recurrence, due = entry.recurrence, entry.next_due
    since = entry.anchor if entry.last_due is None else entry.last_due
    if since > now + (AHEAD if entry.line else AHEAD_EVERY):
        anchor = round(now, 3)
        return Plan((), replace(recurrence, anchor=anchor).after(anchor), anchor, anchor)
    if due is None or due > now:
        return None
    found = recurrence.until(due, now, 2 * COUNTED if entry.missed == "all" else COUNTED + 1)
    if entry.missed == "all":
        kept = found[-COUNTED:]
        runs = [(kept[0], len(found) - len(kept)), *((each, 0) for each in kept[1:])]
    else:
        late = entry.missed == "none" and now - found[-1] > GRACE
        runs = [] if late else [(found[-1], len(found) - 1)]
    return Plan(tuple(runs), recurrence.after(now), found[-1])


class Schedules:
    """The chore of the leading process. `specs` are the service's handlers; `handles`: whether they run here."""

    def __init__(
        self, outbox: Outbox, clock: Clock, process: str, live: Callable[[], Iterable[Process]],
        specs: Sequence[HandlerSpec], *, handles: bool,
    ) -> None:  # fmt: skip
        self._outbox = outbox
        self._store = outbox.store
        self._clock = clock
        self._process = process
        self._live = live
        self._specs = {spec.schedule.name: spec for spec in specs if spec.schedule is not None}
        self._handles = handles
        self._said: dict[str, str] = {}

    async def declare(self) -> None:
        """Write down what this process's code says, where it handles it. Its groups are there already."""
        if self._specs and self._handles:
            await self._store.transact(lambda session: self._declare(session, self._specs.values()))

    async def _declare(self, session: Session, specs: Iterable[HandlerSpec]) -> None:
        for spec in specs:
            assert spec.schedule is not None
            line, tz, seconds = spec.schedule.facts
            anchor = round(self._clock.now(), 3)
            following = Recurrence(line, tz, seconds, anchor).after(anchor)
            facts = (spec.group, spec.topics[0].name, spec_of(spec.events[0]).type, line, tz, seconds)
            args = (spec.schedule.name, *facts, spec.schedule.missed, anchor, following, self._process)
            await session.execute(self._store.sql["schedule_declare"], args)

    async def next_due(self) -> float | None:
        """When the next run is due, of those that are not paused."""
        found = [each.next_due for each in await entries_of(self._store) if each.paused is None]
        return min((due for due in found if due is not None), default=None)

    async def step(self, owned: Owned) -> float:
        """Fire what is due; seconds until something is. While the outbox is full, times are missed."""
        if self._outbox.full:
            return LOOK
        entries = await entries_of(self._store)
        live = list(self._live())
        stale = self._stale({each.name: each for each in entries}, {each.id for each in live})
        if stale:
            await self._guarded(owned, stale)
            return 0.0
        handled = {group for each in live for group in each.groups}
        now, moves, wait = self._clock.now(), list[tuple[Entry, Plan]](), LOOK
        for entry in entries:
            if entry.paused is None and entry.group in handled:
                found = self._planned(entry, now)
                moves += [(entry, found)] if found is not None else []
                following = entry.next_due if found is None else found.next_due
                wait = wait if following is None else min(wait, following - now)
        if moves:
            await self._fire(owned, moves, now)
        return max(0.0, wait)

    def _stale(self, entries: dict[str, Entry], live: set[str]) -> list[HandlerSpec]:
        """What the code says otherwise than the store, where nobody lives any more who said that."""
        found = []
        for name, spec in self._specs.items():
            entry = entries.get(name)
            assert spec.schedule is not None
            said = (spec.group, spec.topics[0].name, *spec.schedule.facts, spec.schedule.missed)
            if self._handles if entry is None else entry.process not in live and said != _facts(entry):
                found.append(spec)
        return found

    async def _guarded(self, owned: Owned, specs: Sequence[HandlerSpec]) -> None:
        async def work(session: Session) -> None:
            await self._declare(session, specs)

        await self._commit(owned, work, UnitOfWork(self._outbox))

    def _planned(self, entry: Entry, now: float) -> Plan | None:
        """A schedule that cannot be worked out is said once, and holds up no other."""
        try:
            found = plan(entry, now)
        except Exception as error:
            if self._said.get(entry.name) != str(error):
                self._said[entry.name] = str(error)
                log.error("schedule %s of %s does not run: %s", entry.name, self._outbox.source, error)
            return None
        if found is not None and found.anchor is not None:
            log.warning(
                "schedule %s of %s: the clock was set back; its next run is by the clock as it is",
                entry.name, self._outbox.source,
            )  # fmt: skip
        return found

    async def _fire(self, owned: Owned, moves: Sequence[tuple[Entry, Plan]], now: float) -> None:
        """The runs and the next times are real together. Who has moved on meanwhile, or was paused, has no run here."""
        unit, sql = UnitOfWork(self._outbox), self._store.sql["schedule_move"]

        async def work(session: Session) -> None:
            for entry, found in moves:
                ran = now if found.runs else None
                args = (entry.name, entry.next_due, found.next_due, found.last_due, ran, len(found.runs), found.anchor)
                if await session.execute(sql, args) == 1:
                    unit.published += [_run(self._outbox, entry, *run, now) for run in found.runs]

        await self._commit(owned, work, unit)

    async def _commit(self, owned: Owned, work: Callable[[Session], Any], unit: UnitOfWork) -> None:
        unit.guards.append(guard(self._store.sql["position_guard"], owned))
        try:
            await work(await unit.begin())
            await unit.commit()
        except BaseException:
            await unit.rollback()
            raise


def _facts(entry: Entry) -> tuple[Any, ...]:
    return (entry.group, entry.topic, entry.line, entry.tz, entry.seconds, entry.missed)


def _run(outbox: Outbox, entry: Entry, due: float, missed: int, now: float) -> tuple[str, tuple[Any, ...]]:
    id_ = derived_id("schedule", outbox.source, entry.name, str(round(due * 1000)))
    return _event(outbox, entry, id_, Due(name=entry.name, due=entry.recurrence.moment(due), missed=missed), now)


def manual_run(outbox: Outbox, entry: Entry, now: float) -> tuple[str, tuple[Any, ...]]:
    """A run that a person asks for, as `UnitOfWork.published` takes it. It has an id of its own, and moves nothing."""
    due = Due(name=entry.name, due=entry.recurrence.moment(now), manual=True)
    return _event(outbox, entry, new_id(outbox.clock.now), due, now)


def _event(outbox: Outbox, entry: Entry, id_: str, due: Due, now: float) -> tuple[str, tuple[Any, ...]]:
    """The topic and the fields of an envelope; see `Outbox.fields`."""
    data = msgspec.json.encode(due)
    fields = (id_, outbox.source, entry.type, 1, None, slot_of(id_), now, data, "", "", "application/json", None)
    return entry.topic, fields
