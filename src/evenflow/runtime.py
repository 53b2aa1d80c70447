"""One service in one process: its store, its outbox with the relay, its groups, and which partitions are ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from evenflow.clock import Clock, Signal
from evenflow.engine import Engine, Log, Partition
from evenflow.errors import EngineUnavailable, GroupStopped, StoreUnavailable
from evenflow.group import GroupLoop
from evenflow.leading import Leading
from evenflow.outbox import RELAY_GROUP, RELAY_PARTITION, Outbox
from evenflow.ownership import (
    Liveness,
    check_belongs,
    claim,
    next_generation,
    share_out,
    this_process,
    widen,
)
from evenflow.pausing import pauses_of
from evenflow.position import NO_MARKS, NONE_SETTLED, claimed
from evenflow.redrive.redriving import unfinished
from evenflow.store import Process, Row, Session, Store
from evenflow.watching.keeping import HANGS, Keeper
from evenflow.watching.stalls import Stalls

log = logging.getLogger("evenflow")

KNOWN = 2.0
"""Seconds that a topic's log is taken to be as it was, by a group that has partitions: it hears of a new generation,
or of a seal, so much later. Who is given its first ones has asked just then."""
BLOCKED = 1.0
"""Seconds that the event loop may be late before it is said."""


class ServiceRuntime:
    """A service that is open in this process. `handling` starts its groups."""

    def __init__(
        self,
        name: str,
        store: Store,
        outbox: Outbox,
        loops: Sequence[GroupLoop],
        ready: Callable[[str], Awaitable[Engine]],
        clock: Clock,
        *,
        process: str,
        lease: float,
    ) -> None:
        self.name = name
        self.store = store
        self.outbox = outbox
        self.leading = Leading(outbox, clock)
        self.loops = {loop.name: loop for loop in loops}
        self._ready = ready
        self._clock = clock
        self._me = this_process(process, tuple(sorted({RELAY_GROUP, *self.loops})))
        self._liveness = Liveness(self._me, clock, lease)
        self._interval = lease / 20
        self._lease = lease
        self._relay_again = 0.0
        self._led = False  # another live process leads, as of the last look
        self._stopping = Signal()
        self._tick_now = Signal()
        self.kept = Keeper(f"service {name}", clock)
        self.loop_tasks: dict[str, asyncio.Task[None]] = {}
        self.stalls = Stalls(self, clock)
        self._relay_stopping = Signal()
        self._logs: dict[str, tuple[Log, float]] = {}  # topics' logs, and when they were asked for
        self._free = 0  # partitions that nobody owned at the last look
        self._ticks = self._watches = self._beats = 0
        self.live: Sequence[Process] = ()
        """The processes that were alive at the last look."""
        self._resumed: set[str] = set()  # groups that have begun here since the start
        self._aside: dict[str, tuple[str, bool]] = {}  # groups that read what no engine here holds: why, and if now

    async def start(self) -> None:
        """Take part in sharing out, and begin to relay and handle."""
        for loop in self.loops.values():
            await self._check(loop, {})
        await self._see_pauses()
        row = (RELAY_GROUP, *_relay_key(), 0, NO_MARKS, NONE_SETTLED)
        await self.store.transact(lambda session: session.execute(self.store.sql["position_create"], row))
        await self._beat()
        self.kept.begin("relay", self._relaying)
        self.loop_tasks = {name: asyncio.create_task(loop.run()) for name, loop in self.loops.items()}
        self.kept.begin("ticking", self._ticking, rounds=lambda: self._ticks)
        self.kept.begin("watching", self._watching, rounds=lambda: self._watches)
        self.kept.begin("beating", self._beating, rounds=lambda: self._beats)
        leading, stopping = self.leading, self._stopping
        self.kept.begin("leading", lambda: leading.run(stopping), rounds=lambda: leading.steps, hangs=2 * HANGS)
        self.stalls.begin()

    def _relaying(self) -> Coroutine[Any, Any, None]:
        self._relay_stopping.set()  # the one before, if it should still be there
        self._relay_stopping = Signal()
        return self.outbox.relay(self._relay_stopping)

    def look_now(self) -> None:
        """Look at once at who works on what."""
        self._logs.clear()
        self._tick_now.set()

    async def stop(self, seconds: float) -> bool:
        """Finish what is begun, hand everything back; False when that took longer than allowed."""
        for loop in self.loops.values():
            loop.stop()
        clean = await self._ended(list(self.loop_tasks.values()), seconds)
        if clean and self.outbox.owned is not None:
            clean = await self._relay_rest(seconds)
        self.stalls.end()
        self._stopping.set()
        self._relay_stopping.set()
        self._tick_now.set()
        self.outbox.nudge()
        self.leading.nudge()
        clean = await self._ended(self.kept.tasks(), 5.0) and clean
        await self._leave_relay()
        await self.store.forget(self._me.id)
        return clean

    async def _relay_rest(self, seconds: float) -> bool:
        deadline = self._clock.monotonic() + seconds
        while not self.outbox.idle and self._clock.monotonic() < deadline and not self.outbox.trouble:
            relay = self.kept.task("relay")
            if relay is None or relay.done():
                return False
            self.outbox.nudge()
            await self._clock.sleep(0.01)
        return self.outbox.idle

    async def _ended(self, tasks: Sequence[asyncio.Task[None]], seconds: float) -> bool:
        """Wait until these tasks are over; what is not by then is cancelled."""
        late: list[asyncio.Task[None]] = []
        timer = self._clock.call_later(seconds, lambda: late.extend(t for t in tasks if not t.done() and t.cancel()))
        await asyncio.gather(*tasks, return_exceptions=True)
        timer.cancel()
        return not late

    # -- sharing out ------------------------------------------------------------------------------------------------

    async def _ticking(self) -> None:
        planned, said = self._clock.monotonic(), ""
        while not self._stopping.is_set():
            self._ticks += 1
            late = self._clock.monotonic() - planned
            if late > BLOCKED:
                busy = [loop.name for loop in self.loops.values() if loop.busy]
                log.warning(
                    "the event loop stood still for %.1f s (at work: %s): a handler blocks it, and should be a plain "
                    "def, which runs in a thread; or the process itself was stopped or starved",
                    late,
                    ", ".join(busy) or "no group of this service",
                )
            try:
                await self.tick()
                if said:
                    log.info("service %s: its store and its engine answer again", self.name)
                said = ""
            except (StoreUnavailable, EngineUnavailable) as error:
                if error.message != said:
                    log.warning("service %s: %s", self.name, error.message)
                said = error.message
            except Exception:
                log.exception("service %s: unexpected while sharing out partitions", self.name)
            self._tick_now.clear()
            planned = self._clock.monotonic() + self._interval
            await self._clock.wait(self._tick_now, self._interval)
            planned = min(planned, self._clock.monotonic()) if self._tick_now.is_set() else planned

    async def _watching(self) -> None:
        """Look for what others leave to us when the store has changed, at most ten times a second.

        That is wishes about parked events, and partitions that another process has released.
        """
        while not self._stopping.is_set():
            self._watches += 1
            parked, several = (
                any(owned.lanes for loop in self.loops.values() for owned in loop.owned.values()),
                len(self.live) > 1,
            )
            if parked or several:
                await self._clock.wait(self.store.changed, self._interval)
                self.store.changed.clear()
                for loop in self.loops.values() if parked else ():
                    loop.look()
                if several and await self._released():
                    self._tick_now.set()
                await self._clock.wait(self._stopping, 0.1)
            else:
                await self._clock.wait(self._stopping, self._interval)

    async def _released(self) -> bool:
        """Whether more partitions are free than at the last look."""
        before = self._free
        with suppress(StoreUnavailable):  # the tick says it
            ((self._free,),) = await self.store.read(self.store.sql["position_free"])
        return self._free > before

    async def _beating(self) -> None:
        """Beat while a tick takes long, too: what it waits for, another's write lock, says nothing against us."""
        while not self._stopping.is_set():
            self._beats += 1
            last = self._me.beat
            await self._clock.wait(self._stopping, 2 * self._interval)
            if self._me.beat == last:
                with suppress(StoreUnavailable):  # the tick says it
                    await self._beat()

    async def _beat(self) -> None:
        await self.store.beat(self._next_beat())

    def _next_beat(self) -> Process:
        aside = {name for name, (_, now) in self._aside.items() if now}
        ours = tuple(sorted({RELAY_GROUP, *self.loops} - aside))
        self._me = replace(self._me, beat=self._me.beat + 1, groups=ours)
        return self._me

    async def tick(self) -> None:
        """One heartbeat, and one look at who works on what.

        Processes are read after owners: each has beaten before it claimed.
        """
        unheard: StoreUnavailable | None = None
        known, owners = list(self.outbox.mine), self.store.sql["owner_list"]
        try:
            rows, processes = await self.store.beat_and_look(self._next_beat(), owners)
        except StoreUnavailable as error:  # others may take what is ours, under a higher fence; all else goes on
            unheard = error
            rows, processes = await self.store.read(owners), await self.store.processes()
        if rows:
            await self._look(rows, processes, known)
        if unheard is not None:
            raise unheard

    async def _look(self, rows: Sequence[Row], processes: Sequence[Process], known: Sequence[int]) -> None:
        """What was read once for all groups may be old when it is acted on: a claim then finds another fence."""
        *_, paused, operations, first, due, run = rows[0]
        await self.outbox.measure_from(first, known)
        self.outbox.seen(first, due)
        self.leading.seen(run, waits=bool(operations))
        if paused or any(loop.pauses for loop in self.loops.values()):
            await self._see_pauses()
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row[8], []).append(row)
        before, self.live = self.live, await self._live(processes)
        live = self.live
        if {each.id for each in before} != {each.id for each in live}:
            self.leading.nudge()  # what the code of one that is gone has said may be out of date
        for owner in sorted({row[7] for row in rows if row[7] is not None} - {each.id for each in live}):
            await self.store.end(owner)  # a claim would wait for what it holds
        self._free = sum(row[7] is None for row in rows)
        for row in groups.get(RELAY_GROUP, ()):
            await self._tick_relay(row, live)
        logs: dict[str, Log] = {}
        away: EngineUnavailable | None = None
        for loop in self.loops.values():
            ours = groups.get(loop.name, [])
            states = {row[0]: row[9] for row in ours}
            stands = [states.get(topic.name) for topic in loop.spec.topics]
            if None in stands and not loop.stopped:
                await loop.halt(_gone(loop.name))
            if loop.stopped and all(state == "running" for state in stands):
                loop.stopped = ""
            try:
                if not loop.stopped and await self._check(loop, logs):
                    sharing = [each.id for each in live if loop.name in each.groups or each.id == self._me.id]
                    await self._tick_group(loop, logs, ours, sharing)
            except EngineUnavailable as error:  # other groups may be on another engine
                away = error
        if away is not None:
            raise away

    async def _see_pauses(self) -> None:
        rows = await self.store.read(self.store.sql["pause_list"])
        for loop in self.loops.values():
            loop.pause(pauses_of(loop.name, rows))

    async def _live(self, processes: Sequence[Process]) -> list[Process]:
        """Those of these processes that are alive."""
        self._liveness.look()
        live = []
        for process in processes:
            if self._liveness.alive(process):
                live.append(process)
            elif self._liveness.gone(process) or self._liveness.lost(process):
                await self.store.end(process.id)
                await self.store.forget(process.id)
            elif any(process.id == each.id for each in self.live):  # it may own nothing, and hold a lock all the same
                await self.store.end(process.id)
        return live

    async def _check(self, loop: GroupLoop, logs: dict[str, Log]) -> bool:
        """Whether log, store and positions of the group belong together; where not, it stops visibly.

        `logs` holds those that were asked for in this look, and gets the others.
        """
        try:
            for topic in loop.spec.topics:
                engine = await self._ready(topic.name)
                found = logs.get(topic.name) or await self._log(engine, topic.name, old=bool(loop.owned))
                if found is None:
                    raise GroupStopped(f"the topic {topic.name!r} is gone", remedy="declare it again, then seek")
                logs[topic.name] = found
                if not loop.owned:
                    await check_belongs(loop.name, found, engine, self.store, self.name)
                    await widen(loop.name, found, engine, self.store)
        except GroupStopped as error:
            await loop.halt(error)
            return False
        return True

    async def _log(self, engine: Engine, topic: str, *, old: bool) -> Log | None:
        """What the engine says of a topic; with `old`, what it has said not long ago will do."""
        now = self._clock.monotonic()
        known = self._logs.get(topic)
        if old and known is not None and 0 <= now - known[1] < KNOWN:
            return known[0]
        found = await engine.log(topic)
        if found is not None:
            self._logs[topic] = (found, now)
        return found

    async def _tick_relay(self, row: Row, live: Sequence[Process]) -> None:
        fence, owner = row[6], row[7]
        outbox = self.outbox
        if outbox.owned is not None and (owner != self._me.id or fence != outbox.owned.fence):
            outbox.owned = None
        self._led = owner != self._me.id and any(owner == each.id for each in live)
        now = self._clock.monotonic()
        if outbox.elsewhere and len(live) > 1:
            outbox.elsewhere, self._relay_again = False, now + 2 * self._lease
            await self._leave_relay()
        if now < self._relay_again:
            return
        if outbox.owned is None and (owner == self._me.id or all(owner != each.id for each in live)):
            args = (RELAY_GROUP, *_relay_key(), fence, self._me.id)
            sql = self.store.sql["position_claim"]
            found = await self.store.transact(lambda session: session.fetch(sql, args))
            if found:
                outbox.owned = claimed(RELAY_GROUP, RELAY_PARTITION, 1, "", found[0])
                outbox.nudge()
                self.leading.nudge()

    async def _leave_relay(self) -> None:
        owned, self.outbox.owned = self.outbox.owned, None
        if owned is not None:
            release = self.store.sql["position_release"]
            await self.store.transact(lambda session: session.execute(release, owned.where))

    async def _tick_group(self, loop: GroupLoop, logs: Mapping[str, Log], rows: list[Row], live: list[str]) -> None:
        if self._stands_aside(loop, logs, rows):
            return
        for topic in loop.spec.topics:
            engine, found = await self._ready(topic.name), logs[topic.name]
            ours = _current(rows, found)
            behind = any(partition.generation < found.generations[-1].number for partition in ours)
            if behind and await next_generation(loop.name, found, engine, self.store):
                for partition in list(loop.owned):
                    if partition.topic == topic.name:
                        loop.forget(partition)
                self._tick_now.set()
                continue
            await self._share(loop, found, engine, ours, live)

    def _stands_aside(self, loop: GroupLoop, logs: Mapping[str, Log], rows: Sequence[Row]) -> bool:
        """Whether the group reads what is in an engine that the settings here do not name.

        Its partitions are left to processes that know all then, and this one is not counted among those that share.
        """
        why, aside = "", False
        for topic in loop.spec.topics:
            found = logs[topic.name]
            numbers = {each.number for each in found.generations}
            current = max((each.generation for each in _current(rows, found)), default=None)
            if current is not None and current not in numbers:
                why, aside = f"generation {current} of {topic.name!r}, its next, is in an engine unknown here", True
            elif found.sealed and found.goes_on and current == max(numbers):
                why = why or f"{topic.name!r} was moved to {found.goes_on}, which is unknown here"
        if why != self._aside.get(loop.name, ("", False))[0]:
            if why:
                log.error(
                    "group %s is left to other processes: %s\n  → name that engine in the settings of this process too "
                    "(EVENFLOW_ENGINES__OTHER=its URL), and start it again",
                    loop.name,
                    why,
                )
            self._aside[loop.name] = (why, aside)
        for partition in list(loop.owned) if aside else ():
            loop.take_back(partition)
        return aside

    async def _share(
        self, loop: GroupLoop, topic: Log, engine: Engine, rows: dict[Partition, Row], live: list[str]
    ) -> None:
        owners: dict[Partition, str | None] = {}
        for partition, row in rows.items():
            owner, fence = row[7], row[6]
            held = loop.owned.get(partition)
            if held is not None and (owner != self._me.id or fence != held.fence):
                loop.forget(partition)
            if loop.paused(partition):
                loop.take_back(partition)
                continue
            mine = owner == self._me.id
            owners[partition] = None if owner not in live or (mine and not loop.holds(partition)) else owner
        share = share_out(owners, self._me.id, live or [self._me.id])
        for partition in share.give:
            loop.take_back(partition)
        await self._let_go(loop, [row for partition, row in rows.items() if partition not in share.take])
        if not share.take:
            return
        fences = {partition: rows[partition][6] for partition in share.take}
        try:
            taken = await claim(loop.name, topic, fences, self._me.id, self.store, engine)
        except GroupStopped as error:
            await loop.halt(error)
            return
        self._free -= len(taken)
        if taken:  # after the claim: whoever renames the group raises its fences
            known = await self.store.read(self.store.sql["lineage"], (loop.name,))
            loop.lineage = known[0][0] if known else loop.name
        for owned in taken:
            owned.lanes = await loop.parking.lanes(owned)
            loop.give(owned)
        if taken and loop.name not in self._resumed:
            await self._resume(loop)
            self._resumed.add(loop.name)

    async def _let_go(self, loop: GroupLoop, rows: Sequence[Row]) -> None:
        """Release what is ours in the store and was dropped here, and is not taken again: others wait for it."""
        left = [row for row in rows if row[7] == self._me.id and not loop.holds(Partition(row[0], row[2], row[3]))]
        if not left:
            return

        async def work(session: Session) -> None:
            for row in left:
                await session.execute(self.store.sql["position_leave"], (loop.name, *row[:4], row[6]))

        await self.store.transact(work)

    async def _resume(self, loop: GroupLoop) -> None:
        """Take back, once per start, what an earlier start has left in the store: that the group is stopped."""
        rows = await self.store.read(self.store.sql["group_list"])
        if not any(row[0] == loop.name and row[3] == "stopped" for row in rows):
            return

        async def say(session: Session) -> None:
            if not loop.stopped:  # it may have stopped again meanwhile
                for topic in loop.spec.topics:
                    await session.execute(self.store.sql["group_state"], (loop.name, topic.name, "running", None))

        log.info("group %s was stopped, and is tried again", loop.name)
        await self.store.transact(say)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def idle(self, *, cut_off: bool = False) -> bool:
        """Whether nothing is left to do now: all read, nothing in flight, nothing due, the outbox empty.

        A group that is stopped has nothing to do, nor has what is paused, once it is released; with `cut_off` one
        whose breaker is open, until its next probe, neither.
        """
        now = self._clock.now()
        leads = self.outbox.owned is not None and self.leading.looked
        if self.loops and not (leads or self._led):
            return False
        if await self.store.read(self.store.sql["outbox_next"], (1,)):
            return False
        due = (await self.store.read(self.store.sql["due_next"]))[0][0]
        if due is not None and due <= now:
            return False
        if self.loops and await unfinished(self.store, now):
            return False
        for loop in self.loops.values():
            waits = cut_off and loop.cut_off
            if not (loop.stopped or waits) and not await self._loop_idle(loop, now):
                return False
        return True

    async def _loop_idle(self, loop: GroupLoop, now: float) -> bool:
        if loop.busy or loop.in_flight():
            return False
        if any(loop.paused(partition) for partition in loop.owned):
            return False  # what was in flight is being finished
        rows = await self.store.read(self.store.sql["position_list"], (loop.name,))
        for topic in loop.spec.topics:
            engine = await self._ready(topic.name)
            found = await engine.log(topic.name)
            if found is None:
                continue
            ours = _current(rows, found)
            paused = {partition for partition in ours if loop.paused(partition)}
            if not paused and (not ours or next(iter(ours)).generation != found.generations[-1].number):
                return False
            for partition, row in ours.items():
                if partition in paused:
                    continue
                if partition not in loop.owned and row[7] in (None, self._me.id):
                    return False  # whoever takes it looks at what is parked and due
                if row[4] < (await engine.bounds(partition)).high:
                    return False
        for owned in loop.owned.values():
            due = await loop.parking.next_due(owned) if owned.lanes else None
            if due is not None and due <= now:
                return False
        return True


def _gone(group: str) -> GroupStopped:
    return GroupStopped(
        f"the group {group!r} is gone from its store: it was renamed or dropped while this process ran it",
        remedy="start this process again, with the code that fits",
    )


def _relay_key() -> tuple[str, str, int, int]:
    return (RELAY_PARTITION.topic, "", RELAY_PARTITION.generation, RELAY_PARTITION.number)


def _current(rows: Sequence[Row], topic: Log) -> dict[Partition, Row]:
    """The position rows of the generation that the group reads now."""
    ours = [row for row in rows if row[0] == topic.topic and row[1] == topic.incarnation]
    current = max((row[2] for row in ours), default=0)
    return {Partition(row[0], row[2], row[3]): row for row in ours if row[2] == current}
