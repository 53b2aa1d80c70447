"""Ownership: which process works on which partition of a group. Leases stand in the store, beside the positions.

No lease is compared with another process's clock. A contender watches whether the owner's heartbeat counter moves, on
its own monotonic clock; a process that is gone from the same machine is free at once. A claim raises the fence, so a
late owner's next transaction writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenflow.clock import Clock
from evenflow.engine import Engine, Log, Partition
from evenflow.errors import FenceLost, GroupStopped, Refused
from evenflow.outbox import RELAY_PARTITION
from evenflow.position import NO_MARKS, NONE_SETTLED, Owned, claimed, decode_marks, encode_marks, merge
from evenflow.store import Process, Row, Session, Store

# -- pure decisions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does about one group now."""

    take: tuple[Partition, ...]
    give: tuple[Partition, ...]


def share_out(owners: Mapping[Partition, str | None], me: str, live: Sequence[str]) -> Share:
    """Divide partitions evenly among live processes, moving as few as can be.

    `owners` holds every partition in order, with its owner or None. Everybody may have the floor of the even share,
    and as many as do not divide evenly one more. Who has too much gives; who has too little takes what is free. Who
    is not heard of by now (its heartbeat was lost on the way) does neither: others would take it for dead.
    """
    if me not in live:
        return Share((), ())
    ranked = sorted(live)
    floor, extra = divmod(len(owners), len(ranked))
    held = {process: [p for p, owner in owners.items() if owner == process] for process in ranked}
    free = [p for p, owner in owners.items() if owner not in held]
    above = sum(1 for each in ranked if len(held[each]) > floor)
    mine = held[me]
    if len(mine) > floor + 1 or (len(mine) > floor and above > extra and _highest(held, floor, extra, me)):
        keep = floor + 1 if above <= extra else floor
        return Share((), tuple(mine[keep:]))
    wanted = floor + (1 if len(mine) >= floor and above < extra else 0)
    missing = max(0, wanted - len(mine))
    rank = ranked.index(me)
    start = rank * len(free) // len(ranked)
    turned = free[start:] + free[:start]  # contenders begin at different places, and seldom meet
    return Share(tuple(turned[:missing]), ())


def _highest(held: Mapping[str, list[Partition]], floor: int, extra: int, me: str) -> bool:
    """Whether this process is not among those that may keep one more."""
    over = sorted((process for process, parts in held.items() if len(parts) > floor), key=lambda p: (-len(held[p]), p))
    return me not in over[:extra]


FORGOTTEN = 100
"""Leases after which the row of a process on another machine goes that was not heard of: nobody sees its end."""


class Liveness:
    """Which processes are alive, as far as this one can tell."""

    def __init__(self, me: Process, clock: Clock, lease: float) -> None:
        self._me = me
        self._clock = clock
        self._lease = lease
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = clock.monotonic()

    def look(self) -> None:
        """Say that heartbeats are read now. While nobody could read them nobody could write them: that time is no
        lease's, or whoever is first after an outage would take all others for dead.
        """
        now = self._clock.monotonic()
        blind, self._looked = now - self._looked, now
        if blind > self._lease / 2:
            self._seen = {name: (beat, since + blind) for name, (beat, since) in self._seen.items()}

    def alive(self, process: Process) -> bool:
        """False when it is gone from this machine, or its counter has not moved for the lease time."""
        if process.id == self._me.id:
            return True
        if self.gone(process):
            return False
        now = self._clock.monotonic()
        beat, since = self._seen.get(process.id, (-1, now))
        if beat != process.beat:
            self._seen[process.id] = (process.beat, now)
            return True
        return now - since < self._lease

    def lost(self, process: Process) -> bool:
        """Whether nothing was heard of it for so long that nobody need remember it. It may come back."""
        beat, since = self._seen.get(process.id, (-1, self._clock.monotonic()))
        return beat == process.beat and self._clock.monotonic() - since > FORGOTTEN * self._lease

    def gone(self, process: Process) -> bool:
        """Whether it surely is no more: it ran where this one runs, and its pid is free or another's."""
        same = bool(process.boot) and process.boot == self._me.boot
        return same and process_start(process.pid) != process.started


def boot_id() -> str:
    """This boot of this machine, and the namespace that pids are counted in: two containers see not each other's.

    Empty where the system tells neither, and pids then say nothing.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_start(pid: int) -> int:
    """When the process was started, in kernel ticks since the boot; -1 when it is gone, 0 where nobody knows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1 if Path("/proc/self/stat").exists() else 0
    except OSError:
        return 0
    return -1 if fields[0] == "Z" else int(fields[19])


def this_process(id_: str, groups: tuple[str, ...]) -> Process:
    """The heartbeat row of this process."""
    pid = os.getpid()
    return Process(id_, pid, boot_id(), process_start(pid), groups, 0)


# -- groups and their positions ---------------------------------------------------------------------------------------


async def create_group(
    group: str, topic: Log, engine: Engine, store: Store, clock: Clock, *, start: str | None, where: str
) -> None:
    """Make a group's first positions, all partitions in one transaction, unless it is there already.

    Raises `Refused` when the topic holds events and nobody has said where the group begins.
    """
    known = await store.read(store.sql["group_list"])
    if any(row[0] == group and row[1] == topic.topic for row in known):
        return
    holds = False
    for generation in topic.generations:
        for partition in topic.partitions(generation.number):
            bounds = await engine.bounds(partition)
            holds = holds or bounds.high > bounds.low
    if holds and start is None:
        told = await engine.recall(group)
        if told is not None and told.store and told.store != store.id:
            raise new_on_this_store(group, topic.topic)
        raise new_on_old(group, topic.topic, where)
    if holds and start == "end":
        first = topic.generations[-1].number
        positions = {p: (await engine.bounds(p)).high for p in topic.partitions(first)}
    else:
        first = topic.generations[0].number
        positions = {p: (await engine.bounds(p)).low for p in topic.partitions(first)}

    async def work(session: Session) -> None:
        if await session.execute(store.sql["group_create"], (group, topic.topic, topic.incarnation, clock.now())):
            for (name, generation, number), offset in positions.items():
                args = (group, name, topic.incarnation, generation, number, offset, NO_MARKS, NONE_SETTLED)
                await session.execute(store.sql["position_create"], args)

    await store.transact(work)


def new_on_old(group: str, topic: str, where: str) -> Refused:
    """What a new group is refused with where nobody has said whether the events before it are its own."""
    return Refused(
        f"the group {group!r} is new, and the topic {topic!r} holds events already",
        remedy=f'say where it begins: start="beginning" or start="end" in its decorator ({where}); '
        f"or, if it had another name before: evenflow groups rename OLD {group}",
    )


def new_on_this_store(group: str, topic: str) -> Refused:
    """What a group is refused with that another store has known until now: beginning anew would do it all again."""
    return Refused(
        f"the group {group!r} has no positions in this store, and another store has: it has read {topic!r} before",
        remedy=f"name that store again; or, if this one takes its place: evenflow store adopt, and then "
        f"evenflow groups seek {group} --to end (or --to beginning: to handle all of it again)",
    )


async def check_belongs(group: str, topic: Log, engine: Engine, store: Store, service: str) -> None:
    """Raise `GroupStopped` where log, store and position do not belong together."""
    for name, known, incarnation, _state, _reason in await store.read(store.sql["group_list"]):
        if (name, known) == (group, topic.topic) and incarnation != topic.incarnation:
            raise GroupStopped(
                f"the log of topic {topic.topic!r} is not the one that {group!r} has read: it was made anew, or is "
                "another",
                remedy="if the engine's URL is wrong, correct it (evenflow config shows it); if the log is lost, "
                f"evenflow groups seek {group} --to beginning (or --to end)",
            )
    await check_store(group, topic, engine, store, service)


async def widen(group: str, topic: Log, engine: Engine, store: Store) -> None:
    """Give the group positions in partitions that somebody has added by hand to the generation that it reads."""
    rows = await store.read(store.sql["position_list"], (group,))
    ours = [row for row in rows if row[0] == topic.topic and row[1] == topic.incarnation]
    current = max((row[2] for row in ours), default=0)
    known = {row[3] for row in ours if row[2] == current}
    partitions = topic.partitions(current)
    lows = {p.number: (await engine.bounds(p)).low for p in partitions if p.number not in known}

    key = (group, topic.topic, topic.incarnation, current)

    async def work(session: Session) -> None:
        read = await session.fetch(store.sql["position_marks"], key)
        await _begin(session, store, key, len(partitions), lows, read)

    if lows:
        await store.transact(work)


async def _begin(
    session: Session, store: Store, key: tuple[str, str, str, int], count: int, lows: Mapping[int, int], read: list[Row]
) -> None:
    """Make positions in these of a generation's `count` partitions, with the marks of their slots, as `read` now."""
    marks = [decode_marks(row[2]) for row in read]
    for number, low in lows.items():
        slots = frozenset(slot for slot in range(256) if slot % count == number)
        args = (*key, number, low, encode_marks(merge(marks, slots)), NONE_SETTLED)
        await session.execute(store.sql["position_create"], args)


async def check_store(group: str, topic: Log, engine: Engine, store: Store, service: str) -> None:
    """Raise `GroupStopped` where the engine remembers another store of the group, or this one as further on.

    A position without an event behind it was moved by hand: the engine's copy may be ahead of it for a moment.
    """
    told = await engine.recall(group)
    if told is None:
        return
    remedy = f"evenflow store adopt {service}, if this is the store that you want to go on with"
    if told.store and told.store != store.id:
        raise GroupStopped(f"the store of {service!r} is not the one that {group!r} has used before", remedy=remedy)
    rows = await store.read(store.sql["position_list"], (group,))
    for name, log_id, generation, number, next_, last_id, *_ in rows:
        known = told.positions.get(Partition(name, generation, number), 0)
        if log_id == topic.incarnation and last_id is not None and known > next_:
            raise GroupStopped(
                f"the store of {service!r} stands behind what {group!r} has done: it was restored from a backup",
                remedy=remedy,
            )


async def check_outbox(name: str, service: str, engine: Engine, store: Store) -> None:
    """Raise `Refused` where the engine remembers another store, or numbers that this one would give out again."""
    told = await engine.recall(name)
    if told is None:
        return
    last = (await store.read(store.sql["outbox_last"]))[0][0]
    another = told.store != store.id
    if another or told.positions.get(RELAY_PARTITION, 0) > last:
        why = "is not the one that it has published from" if another else "was restored from a backup"
        raise Refused(
            f"the store of {service!r} {why}: what it publishes could be taken for repeats",
            remedy=f"evenflow store adopt {service}, if this is the store that you want to go on with",
        )


async def claim(
    group: str, topic: Log, fences: Mapping[Partition, int], me: str, store: Store, engine: Engine
) -> list[Owned]:
    """Take these partitions in one transaction: raise their fences from what was seen, and read where they stand.

    Those that another has taken meanwhile are left out. Raises `GroupStopped` when the last event that a position
    covers is not the one in the log.
    """
    sql = store.sql["position_claim"]

    async def work(session: Session) -> list[Owned]:
        taken = []
        for partition, fence in sorted(fences.items()):  # contenders take rows in one order
            name, generation, number = partition
            rows = await session.fetch(sql, (group, name, topic.incarnation, generation, number, fence, me))
            if rows:
                count = len(topic.partitions(generation)) or 1
                taken.append(claimed(group, partition, count, topic.incarnation, rows[0]))
        return taken

    taken = await store.transact(work)
    for owned in taken:
        await _check_read_back(owned, engine)
    return taken


async def _check_read_back(owned: Owned, engine: Engine) -> None:
    bounds = await engine.bounds(owned.partition)
    before = await engine.read(owned.partition, owned.next - 1) if owned.last_id is not None else None
    moved = before is not None and before[0] == owned.next - 1 and owned.last_id != before[1].id
    if owned.next > bounds.high or moved:
        raise GroupStopped(
            f"partition {owned.partition.number} of {owned.partition.topic!r} does not hold what {owned.group!r} has "
            "read of it: the log was replaced or cut",
            remedy=f"evenflow groups seek {owned.group} --to beginning (or --to end), "
            "once you know what became of the log",
        )


async def _read_to_its_end(engine: Engine, partition: Partition, position: int) -> bool:
    """Whether no event stands at this position or behind it: a log may end in records that are none."""
    bounds = await engine.bounds(partition)
    if position >= bounds.high:
        return True
    last = await engine.read(partition, bounds.high - 1) if position >= bounds.low else None
    return last is not None and last[0] < position


async def next_generation(group: str, log: Log, engine: Engine, store: Store) -> bool:
    """When a group has read all of a generation that is followed by another, let it begin the next.

    Never past one that is in an engine that is not known here.
    """
    rows = await store.read(store.sql["position_list"], (group,))
    ours = [row for row in rows if row[0] == log.topic and row[1] == log.incarnation]
    if not ours:
        return False
    current = max(row[2] for row in ours)
    later = [each for each in log.generations if each.number == current + 1]
    if not later:
        return False
    for row in ours:
        if row[2] == current and not await _read_to_its_end(engine, Partition(log.topic, current, row[3]), row[4]):
            return False
    target, seen = later[0], {row[3]: row[4] for row in ours if row[2] == current}
    lows = {p.number: (await engine.bounds(p)).low for p in log.partitions(target.number)}

    async def work(session: Session) -> None:
        key = (group, log.topic, log.incarnation, current)
        await session.execute(store.sql["position_retire"], key)  # what owners have begun is committed then
        read = await session.fetch(store.sql["position_marks"], key)
        if any(row[1] < seen[row[0]] for row in read):
            raise FenceLost(f"{group!r} was moved back in {log.topic!r} meanwhile")
        await _begin(session, store, (*key[:3], target.number), target.partitions, lows, read)

    try:
        await store.transact(work)
    except FenceLost:  # a person's seek; the next look sees where it stands
        return False
    return True
