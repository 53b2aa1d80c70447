"""Rename and drop: a group passes to another name, or goes for good.

The store decides, in one transaction. What the engine was told stands at nothing meanwhile, so that it is behind
whatever became of that, and follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evenflow.engine import Engine, Partition
from evenflow.errors import Refused
from evenflow.ids import NAME_RULE, is_name, new_id
from evenflow.operate.finding import Home, home, homes, live
from evenflow.operate.status import GroupStatus
from evenflow.operate.status import group as group_of
from evenflow.running import Running
from evenflow.schedules.schedule import type_of
from evenflow.store import Row, Session

_PARTS = (
    "rename_group", "rename_parked", "rename_inbox", "rename_carried", "rename_pause", "rename_operation",
    "rename_limit", "rename_breaker",
)  # fmt: skip
_DROPS = (
    "drop_position", "drop_group", "drop_parked", "drop_operation_item", "drop_operation", "inbox_clear",
    "drop_carried", "drop_schedule", "drop_limit", "drop_breaker",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rename:
    """What a rename is going to do. `where` is "file:line" of a handler that still has the old name, or empty.

    `replaces`: the new name was made in the store already, by a process that has done nothing with it yet.
    """

    home: Home
    new: str
    where: str
    replaces: bool
    fits: bool
    """Whether the code has the new name."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What is lost with a group: how it stands, and how many strangers' ids it remembers."""

    home: Home
    status: GroupStatus
    remembered: int


async def rename(running: Running, old: str, new: str, who: str) -> Rename:
    """Let the group go on under another name: positions, marks, parked events, pauses and remembered ids pass to it.

    The ids of what it publishes derive from its old name for ever, so that what is done again is no new event. Raises
    what `plan_rename` raises.
    """
    plan = await plan_rename(running, old, new)
    await carry_out_rename(running, plan, who)
    return plan


async def plan_rename(running: Running, old: str, new: str) -> Rename:
    """What a rename would do. Raises `NotFound`, and `Refused` while one of the names is in use."""
    found = await home(running, old)
    prefix = running.settings.group_name(f"{found.service}.")
    place = new if new.startswith(prefix) else running.settings.group_name(new)
    if not place.startswith(prefix) or not is_name(place.removeprefix(prefix)):
        raise Refused(
            f"{new!r} cannot be the name of a group of {found.service!r}",
            remedy=f"it is {found.service}.NAME, with a name of {NAME_RULE}",
        )
    if place == found.group:
        raise Refused(f"{found.group!r} has that name", remedy="give another one")
    store = found.store
    if not await store.read(store.sql["position_list"], (found.group,)):
        raise Refused(
            f"no process has run {found.group!r} yet, so there is nothing that could pass to another name",
            remedy="change the name in the code",
        )
    await _refuse_live(running, found, (found.group, place), "rename")
    replaces = await _untouched(found, place)
    handlers = {each.group: each.spec for each in await homes(running)}
    spec = handlers.get(found.group)
    return Rename(found, place, "" if spec is None else spec.where, replaces, place in handlers)


async def _untouched(home: Home, name: str) -> bool:
    """False where there is no group of this name, True where it has done nothing. Raises `Refused` where it has."""
    store = home.store
    rows = await store.read(store.sql["position_list"], (name,))
    known = any(row[0] == name for row in await store.read(store.sql["group_names"]))
    ((count, _dead),) = await store.read(store.sql["parked_size"], (name,))
    if count or any(row[6] or row[5] is not None for row in rows):
        raise Refused(
            f"there is a group {name!r} already, with a position of its own",
            remedy="give another name; or, if the code has not got it any more, drop it first",
        )
    return known or bool(rows)


async def _refuse_live(running: Running, home: Home, names: Iterable[str], what: str) -> None:
    using = [each for each in await live(running, home.store) if not set(names).isdisjoint(each.groups)]
    if using:
        pids = ", ".join(str(each.pid) for each in using)
        raise Refused(f"{home.group!r} is run by pid {pids}", remedy=f"stop that process, then {what}")


async def carry_out_rename(running: Running, plan: Rename, who: str) -> None:
    """Do what was planned."""
    found, new = plan.home, plan.new
    old, store, sql = found.group, found.store, found.store.sql
    rows = await store.read(sql["position_list"], (old,))
    engines = _engines(found)
    for engine in engines:
        await _nothing(engine, old, store.id)
        await _nothing(engine, new, store.id)
    now = running.clock.now()

    async def work(session: Session) -> None:
        for each in sorted((old, new)):
            await session.fetch(sql["position_lock"], (each,))
        await session.fetch(sql["operation_lock"])
        fence = max([(await session.fetch(sql["group_fence"], (each,)))[0][0] for each in (old, new)]) + 1
        for each in _DROPS:  # of the new name, which has done nothing
            await session.execute(sql[each], (new,))
        await session.execute(sql["rename_position"], (old, new, fence))
        for each in _PARTS:
            await session.execute(sql[each], (old, new))
        await session.execute(sql["drop_pause"], (old,))  # what is paused under both names
        name = new.removeprefix(running.settings.group_name(f"{found.service}."))
        await session.execute(sql["rename_schedule"], (old, new, name, type_of(found.service, name)))
        derives = {row[0]: row[1] for row in await session.fetch(sql["lineage_list"])}
        derives |= {new: derives.pop(old, old)}
        await session.execute(sql["lineage_put"], (new, derives[new], fence))
        await session.execute(sql["lineage_put"], (old, _free(running, old, derives), fence))
        await session.execute(sql["audit_add"], (now, who, "group rename", old, new))

    await store.transact(work)
    for topic, engine in found.engines:
        await engine.told(new, store.id, _stands(topic, rows))
    for engine in engines:
        await _nothing(engine, old, "")


async def plan_drop(running: Running, name: str) -> Dropped:
    """What would be lost. Raises `NotFound`, and `Refused` where the code has the group or a process runs it."""
    found = await home(running, name)
    if found.spec is not None:
        raise Refused(
            f"the code has the group {found.group!r}, at {found.spec.where}",
            remedy=f"delete its handler first; to begin anew: evenflow groups seek {found.group} --to beginning",
        )
    await _refuse_live(running, found, (found.group,), "drop")
    ((remembered,),) = await found.store.read(found.store.sql["inbox_count"], (found.group,))
    return Dropped(found, (await group_of(running, found.group)).status, remembered)


async def drop(running: Running, name: str, who: str) -> Dropped:
    """Remove a group that the code does not have: positions, parked events, remembered ids. Raises as `plan_drop`."""
    plan = await plan_drop(running, name)
    await carry_out_drop(running, plan, who)
    return plan


async def carry_out_drop(running: Running, plan: Dropped, who: str) -> None:
    """Do what was planned."""
    found = plan.home
    group, store, sql = found.group, found.store, found.store.sql
    for engine in _engines(found):
        await _nothing(engine, group, store.id)
    now, note = running.clock.now(), f"waiting {plan.status.waiting}, parked {plan.status.parked}"

    async def work(session: Session) -> None:
        await session.fetch(sql["position_lock"], (group,))
        await session.fetch(sql["operation_lock"])
        ((fence,),) = await session.fetch(sql["group_fence"], (group,))
        derives = {row[0]: row[1] for row in await session.fetch(sql["lineage_list"])}
        for each in _DROPS:
            await session.execute(sql[each], (group,))
        await session.execute(sql["drop_pause"], (group,))
        derives.pop(group, None)
        await session.execute(sql["lineage_put"], (group, _free(running, group, derives), fence + 1))
        await session.execute(sql["audit_add"], (now, who, "group drop", group, note))

    await store.transact(work)
    for engine in _engines(found):
        await _nothing(engine, group, "")


def _free(running: Running, name: str, derives: Mapping[str, str]) -> str:
    """What a group that is to have this name one day derives ids from: what no other one does."""
    return name if name not in derives.values() else f"{name}~{new_id(running.clock.now)}"


def _engines(home: Home) -> list[Engine]:
    return list({id(engine): engine for _topic, engine in home.engines}.values())


async def _nothing(engine: Engine, group: str, store: str) -> None:
    """Let the engine's copy of a group stand at nothing. Without a store the name is anybody's."""
    told = await engine.recall(group)
    if told is not None:
        await engine.told(group, store, dict.fromkeys(told.positions, 0))


def _stands(topic: str, rows: Iterable[Row]) -> dict[Partition, int]:
    return {Partition(topic, row[2], row[3]): row[4] for row in rows if row[0] == topic}
