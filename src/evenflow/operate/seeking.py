"""Seek: a group goes on elsewhere in its logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evenflow.engine import Engine, Log, Partition
from evenflow.errors import GroupStopped, Refused
from evenflow.operate.finding import NotFound, home
from evenflow.ownership import check_store
from evenflow.position import NO_MARKS, NONE_SETTLED
from evenflow.redrive.redriving import forget, learn
from evenflow.running import Running
from evenflow.store import Row, Session, Store

To = Literal["beginning", "end"] | float | Mapping[int, int]
"""Where a group goes on: a word, a Unix time, or offsets by partition number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a group is to go on in one topic, and where it stands (None: nowhere in this log).

    `low` is the first offset that the log keeps.
    """

    log: Log
    engine: Engine
    generation: int
    positions: dict[Partition, int]
    before: dict[Partition, int | None]
    low: dict[Partition, int]


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
    home_ = await home(running, group, orphan=False)
    group, store = home_.group, home_.store
    rows = await store.read(store.sql["position_list"], (group,))
    plans = []
    for topic, engine in home_.engines:
        log = await engine.log(topic)
        if log is None:
            raise NotFound(f"the topic {topic!r} does not exist on the {engine.name} engine", remedy="start its owner")
        try:
            await check_store(group, log, engine, store, home_.service)
        except GroupStopped as error:
            raise Refused(error.message, remedy=error.remedy) from None
        plans.append(await _plan(group, log, engine, rows, to))
    return plans


async def carry_out(running: Running, group: str, plans: Sequence[Plan], wanted: str, who: str) -> None:
    """Do what was planned; `wanted` is kept in the audit."""
    home_ = await home(running, group, orphan=False)
    group, store = home_.group, home_.store
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
        return await _planned(
            log, engine, rows, first, {p: (await engine.bounds(p)).low for p in log.partitions(first)}
        )
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
    return await _planned(log, engine, rows, last, positions)


async def _planned(
    log: Log, engine: Engine, rows: Sequence[Row], generation: int, positions: dict[Partition, int]
) -> Plan:
    ours = {Partition(log.topic, row[2], row[3]): row[4] for row in rows if row[:2] == (log.topic, log.incarnation)}
    current = max((partition.generation for partition in ours), default=generation)
    everywhere = {p: ours.get(p) for p in (*positions, *(p for p in ours if p.generation == current))}
    low = {p: (await engine.bounds(p)).low for p in everywhere}
    return Plan(log, engine, generation, positions, everywhere, low)


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
    return await _planned(log, engine, rows, generation, positions)


async def _move(
    session: Session, store: Store, group: str, plans: Sequence[Plan], note: tuple[float, str, str]
) -> None:
    sql, (now, who, wanted) = store.sql, note
    await session.fetch(sql["position_lock"], (group,))
    known = {row[1]: row[2] for row in await session.fetch(sql["group_list"]) if row[0] == group}
    await learn(session, sql, group)  # of what is removed here nobody can tell afterwards
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
            await session.execute(sql["carried_unwind"], (group, topic, generation, number, offset))
        await session.execute(sql["position_drop_others"], (group, topic, incarnation, plan.generation))
        await session.execute(sql["parked_unwind_later"], (group, topic, plan.generation))
        await session.execute(sql["carried_unwind_later"], (group, topic, plan.generation))
        await session.execute(sql["parked_rehead"], (group, topic, now))
        await session.execute(sql["group_log"], (group, topic, incarnation))
    await forget(session, sql, group)
    await session.execute(sql["inbox_clear"], (group,))
    await session.execute(sql["audit_add"], (now, who, "group seek", group, wanted))
