"""What a person does to a system, running or stopped: look at groups, seek, redrive and discard, adopt a store.

All are functions of a `Running` that was opened with `join=False`. They write to stores and tell engines; a process
that runs the groups notices by itself, within a heartbeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evenflow import parking
from evenflow.engine import Engine, Log, Partition
from evenflow.errors import EvenflowError, GroupStopped, Refused
from evenflow.handler import HandlerSpec
from evenflow.ids import new_id
from evenflow.outbox import RELAY_PARTITION
from evenflow.ownership import boot_id, check_store, process_start
from evenflow.parking import Parked
from evenflow.position import NO_MARKS, NONE_SETTLED
from evenflow.running import Running
from evenflow.settings_sources import suggestion
from evenflow.store import Process, Row, Session, Store

To = Literal["beginning", "end"] | float | Mapping[int, int]
"""Where a group goes on: a word, a Unix time, or offsets by partition number."""


class NotFound(EvenflowError):
    """What was named does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """How a group stands. "new": no process has run it yet. `owners` are the live processes that work on it.

    waiting  events in the log that it has not taken
    age      seconds since the oldest of them was published, None when none waits
    parked   events set aside; `dead` of them are dead letters, which only a person brings back
    """

    group: str
    kind: str
    topics: tuple[str, ...]
    state: Literal["new", "running", "stopped"]
    reason: str
    owners: tuple[str, ...]
    waiting: int
    age: float | None
    parked: int
    dead: int


@dataclass(frozen=True, slots=True)
class Home:
    """A group with its store, and its topics with the engine of each."""

    spec: HandlerSpec
    store: Store
    engines: tuple[tuple[str, Engine], ...]


async def homes(running: Running) -> list[Home]:
    """All groups of the app."""
    found = []
    for service in running.app.services:
        for spec, declared in zip(running.specs[service.name], service.handlers(), strict=True):
            engines = [
                (placed.name, await running._engine(running.settings.engine_url(topic.name)))
                for placed, topic in zip(spec.topics, declared.topics, strict=True)
            ]
            found.append(Home(spec, running.stores[service.name], tuple(engines)))
    return found


async def home(running: Running, group: str) -> Home:
    """The group of this name, with or without the prefix of the settings. Raises `NotFound`."""
    known = {each.spec.group: each for each in await homes(running)}
    found = known.get(group) or known.get(running.settings.group_name(group))
    if found is None:
        hint = suggestion(group, known) or f"known: {', '.join(known) or 'none'}"
        raise NotFound(f"this app has no group {group!r}", remedy=hint)
    return found


# -- looking ----------------------------------------------------------------------------------------------------------


async def groups(running: Running) -> list[GroupStatus]:
    """How each group of the app stands, in the order of the code."""
    return [await _status(running, each) for each in await homes(running)]


async def _status(running: Running, home: Home) -> GroupStatus:
    group, store = home.spec.group, home.store
    rows = await store.read(store.sql["position_list"], (group,))
    states = [row for row in await store.read(store.sql["group_list"]) if row[0] == group]
    stopped = [row[4] or "" for row in states if row[3] == "stopped"]
    waiting, oldest = await _backlog(home, rows)
    everything = (2**63 - 1,)
    lot = [parking.parked(group, row) for row in await store.read(store.sql["parked_list"], (group, *everything))]
    return GroupStatus(
        group=group,
        kind=home.spec.kind.value,
        topics=tuple(topic for topic, _ in home.engines),
        state="stopped" if stopped else "running" if states else "new",
        reason=stopped[0] if stopped else "",
        owners=await _owners(store, rows),
        waiting=waiting,
        age=None if oldest is None else max(0.0, running.clock.now() - oldest),
        parked=len(lot),
        dead=sum(1 for each in lot if each.dead),
    )


async def _backlog(home: Home, rows: Sequence[Row]) -> tuple[int, float | None]:
    waiting, oldest = 0, []
    for topic, engine in home.engines:
        log = await engine.log(topic)
        if log is None:
            continue
        stands = {Partition(topic, row[2], row[3]): row[4] for row in rows if row[:2] == (topic, log.incarnation)}
        current = max((partition.generation for partition in stands), default=0)
        positions = {p: offset for p, offset in stands.items() if p.generation == current}
        for generation in log.generations:
            if generation.number > current:
                for partition in log.partitions(generation.number):
                    positions[partition] = (await engine.bounds(partition)).low
        for backlog in (await engine.backlog(positions)).values():
            waiting += backlog.waiting
            oldest += [] if backlog.oldest is None else [backlog.oldest]
    return waiting, min(oldest, default=None)


async def _owners(store: Store, rows: Sequence[Row]) -> tuple[str, ...]:
    named = {row[7] for row in rows}
    return tuple(f"pid {each.pid}" for each in await store.processes() if each.id in named and _may_live(each))


def _may_live(process: Process) -> bool:
    """False for a process that is surely gone: it ran on this machine, since it was started last."""
    return process.boot != boot_id() or process_start(process.pid) == process.started


async def parked(running: Running, group: str | None = None, limit: int = 100) -> list[Parked]:
    """What is set aside, in order per group; of one group, or of all."""
    chosen = [await home(running, group)] if group is not None else await homes(running)
    found: list[Parked] = []
    for each in chosen:
        rows = await each.store.read(each.store.sql["parked_list"], (each.spec.group, limit - len(found)))
        found += [parking.parked(each.spec.group, row) for row in rows]
    return found


# -- parked events ----------------------------------------------------------------------------------------------------


async def redrive(running: Running, group: str, lane: str | None, who: str) -> int:
    """Ask for a dead letter to be tried again, or (lane None) for all of the group. How many there were.

    `lane` is that of `Parked`, or the key. Raises `NotFound` when nothing is parked there.
    """
    return await _ask(running, group, lane, "redrive", who)


async def discard(running: Running, group: str, lane: str | None, who: str) -> int:
    """Ask for a dead letter to be given up, so that what waits behind it goes on. See `redrive`."""
    return await _ask(running, group, lane, "discard", who)


async def _ask(running: Running, group: str, lane: str | None, wish: str, who: str) -> int:
    home_ = await home(running, group)
    group, store = home_.spec.group, home_.store
    lot = await parked(running, group, 2**63 - 1)
    dead = [each.lane for each in lot if each.dead]
    if lane is not None:
        lanes = {each.lane for each in lot}
        wanted = lane if lane in lanes else f"k{lane}"
        if wanted not in lanes:
            raise NotFound(f"nothing is parked in {group!r} for {lane!r}", remedy="evenflow parked list shows what is")
        if wanted not in dead:
            raise Refused(f"{lane!r} is no dead letter: it is tried again by itself", remedy="wait for it")
        dead = [wanted]
    return sum([await parking.ask(store, group, each, wish, who, running.clock) for each in dead])


# -- seek -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a group is to go on in one topic, and where it stands (None: nowhere in this log)."""

    log: Log
    engine: Engine
    generation: int
    positions: dict[Partition, int]
    before: dict[Partition, int | None]


async def seek(running: Running, group: str, to: To, who: str) -> list[Plan]:
    """Let the group go on elsewhere; returns where. One transaction of its store, and the engine's copy with it.

    What the log brings again runs again, once: marks are cleared, and parked events that come again are dropped.
    What was parked from a log that is no more stays, before everything new. A stopped group goes on.
    Raises what `plan_seek` raises.
    """
    plans = await plan_seek(running, group, to)
    await carry_out(running, group, plans, repr(to), who)
    return plans


async def plan_seek(running: Running, group: str, to: To) -> list[Plan]:
    """What a seek would do. Raises `Refused` where the store is not the group's, or an offset is not in the log."""
    home_ = await home(running, group)
    group, store = home_.spec.group, home_.store
    rows = await store.read(store.sql["position_list"], (group,))
    plans = []
    for topic, engine in home_.engines:
        log = await engine.log(topic)
        if log is None:
            raise NotFound(f"the topic {topic!r} does not exist on the {engine.name} engine", remedy="start its owner")
        try:
            await check_store(group, log, engine, store, home_.spec.service)
        except GroupStopped as error:
            raise Refused(error.message, remedy=error.remedy) from None
        plans.append(await _plan(group, log, engine, rows, to))
    return plans


async def carry_out(running: Running, group: str, plans: Sequence[Plan], wanted: str, who: str) -> None:
    """Do what was planned; `wanted` is kept in the audit."""
    home_ = await home(running, group)
    group, store = home_.spec.group, home_.store
    for plan in plans:  # never ahead of the store: backwards before the transaction, forwards after it
        told = await plan.engine.recall(group)
        back = {p: min(offset, told.positions.get(p, 0)) for p, offset in plan.positions.items()} if told else {}
        known = told.positions if told else {}
        later = {p: 0 for p in known if p.topic == plan.log.topic and p.generation > plan.generation}
        await plan.engine.told(group, store.id, {**back, **later})
    note = (running.clock.now(), who, wanted)
    await store.transact(lambda session: _move(session, store, group, plans, note))
    for plan in plans:
        await plan.engine.told(group, store.id, plan.positions)


async def _plan(group: str, log: Log, engine: Engine, rows: Sequence[Row], to: To) -> Plan:
    if isinstance(to, Mapping):
        return await _exact(group, log, engine, rows, to)
    first, last = log.generations[0].number, log.generations[-1].number
    if to == "beginning":
        return _planned(log, engine, rows, first, {p: (await engine.bounds(p)).low for p in log.partitions(first)})
    positions: dict[Partition, int] = {}
    for generation in log.generations[-1:] if to == "end" else log.generations:
        positions, before = {}, True
        for partition in log.partitions(generation.number):
            high = (await engine.bounds(partition)).high
            positions[partition] = high if isinstance(to, str) else await engine.find(partition, to)
            before = before and positions[partition] >= high
        last = generation.number
        if not before:
            break  # the first generation that holds an event of that time or later
    return _planned(log, engine, rows, last, positions)


def _planned(log: Log, engine: Engine, rows: Sequence[Row], generation: int, positions: dict[Partition, int]) -> Plan:
    ours = {Partition(log.topic, row[2], row[3]): row[4] for row in rows if row[:2] == (log.topic, log.incarnation)}
    current = max((partition.generation for partition in ours), default=generation)
    everywhere = {p: ours.get(p) for p in (*positions, *(p for p in ours if p.generation == current))}
    return Plan(log, engine, generation, positions, everywhere)


async def _exact(group: str, log: Log, engine: Engine, rows: Sequence[Row], to: Mapping[int, int]) -> Plan:
    ours = {row[3]: row[2] for row in rows if row[:2] == (log.topic, log.incarnation)}  # sorted by generation
    generation = max(ours.values(), default=log.generations[-1].number)
    partitions = log.partitions(generation)
    unknown = sorted(set(to) - {p.number for p in partitions})
    if unknown:
        raise NotFound(f"{log.topic!r} has no partition {unknown[0]}", remedy=f"it has 0 to {len(partitions) - 1}")
    if not ours and len(to) != len(partitions):
        raise Refused(
            f"{group!r} has no position in this log of {log.topic!r} yet",
            remedy=f"name all {len(partitions)} partitions, or use --to beginning or --to end",
        )
    positions = {p: to[p.number] for p in partitions if p.number in to}
    for partition, offset in positions.items():
        low, high = await engine.bounds(partition)
        if not low <= offset <= high:
            raise Refused(
                f"partition {partition.number} of {log.topic!r} keeps the offsets from {low} to {high}, not {offset}",
                remedy=f"use one from {low} to {high}; {high} is the end",
            )
    return _planned(log, engine, rows, generation, positions)


async def _move(
    session: Session, store: Store, group: str, plans: Sequence[Plan], note: tuple[float, str, str]
) -> None:
    sql, (now, who, wanted) = store.sql, note
    known = {row[1]: row[2] for row in await session.fetch(sql["group_list"]) if row[0] == group}
    for plan in plans:
        topic, incarnation = plan.log.topic, plan.log.incarnation
        await session.execute(sql["group_create"], (group, topic, incarnation, now))
        if known.get(topic, incarnation) != incarnation:
            await session.execute(sql["parked_bygone"], (group, topic))
        for (_, generation, number), offset in plan.positions.items():
            place = (group, topic, incarnation, generation, number, offset, NO_MARKS, NONE_SETTLED)
            await session.execute(sql["position_create"], place)
            await session.execute(sql["position_seek"], place)
            await session.execute(sql["parked_unwind"], (group, topic, generation, number, offset))
        await session.execute(sql["position_drop_others"], (group, topic, incarnation, plan.generation))
        await session.execute(sql["parked_unwind_later"], (group, topic, plan.generation))
        await session.execute(sql["parked_rehead"], (group, topic, now))
        await session.execute(sql["group_log"], (group, topic, incarnation))
    await session.execute(sql["inbox_clear"], (group,))
    await session.execute(sql["audit_add"], (now, who, "group seek", group, wanted))


# -- adopt ------------------------------------------------------------------------------------------------------------


async def adopt(running: Running, service: str, who: str) -> list[str]:
    """Go on with the service's store as it is now: another one, or one restored from a backup. Returns its groups.

    Its numbers may have been used already, so it becomes a new producer; nothing that it publishes from now on is
    taken for a repeat. Raises `Refused` while a process has the store open, since that would number by the old one.
    """
    store = running.stores.get(service)
    if store is None:
        hint = suggestion(service, running.stores) or f"known: {', '.join(running.stores) or 'none'}"
        raise NotFound(f"this app has no service {service!r}", remedy=hint)
    live = await _live(running, store)
    if live:
        pids = ", ".join(str(each.pid) for each in live)
        raise Refused(f"the store of {service!r} is in use by pid {pids}", remedy="stop them, adopt, and start them")
    sql, now, producer = store.sql, running.clock.now(), new_id(running.clock.now)
    ours = [each for each in await homes(running) if each.store is store]

    async def renew(session: Session) -> None:
        await session.execute(sql["store_adopt"], (producer,))
        await session.execute(sql["audit_add"], (now, who, "store adopt", service, producer))

    async def go_on(session: Session) -> None:
        for each in ours:
            for topic, _ in each.engines:
                await session.execute(sql["group_state"], (each.spec.group, topic, "running", None))

    await store.transact(renew)  # first: an engine that believes in this store must find it with its new numbers
    for each in ours:
        await _tell_all(each)
    last = (await store.read(sql["outbox_last"]))[0][0]
    await running._main.told(running.relay_name(service), store.id, {RELAY_PARTITION: last})
    await store.transact(go_on)
    return [each.spec.group for each in ours]


async def _tell_all(home: Home) -> None:
    """Tell the engines where the group stands in this store, in place of where it stood in another."""
    rows = await home.store.read(home.store.sql["position_list"], (home.spec.group,))
    for topic, engine in home.engines:
        told = await engine.recall(home.spec.group)
        gone = {p: 0 for p in told.positions if p.topic == topic} if told else {}
        stands = {Partition(topic, row[2], row[3]): row[4] for row in rows if row[0] == topic}
        await engine.told(home.spec.group, home.store.id, {**gone, **stands})


async def _live(running: Running, store: Store) -> list[Process]:
    """Processes that have this store open. Of another machine or boot: those whose heartbeat moves now."""
    seen = {each.id: each for each in await store.processes() if _may_live(each)}
    here = boot_id()
    if any(each.boot != here for each in seen.values()):
        await running.clock.sleep(running.settings.lease / 5)
    moved = {each.id for each in await store.processes() if each.id in seen and each.beat != seen[each.id].beat}
    return [each for each in seen.values() if each.boot == here or each.id in moved]
