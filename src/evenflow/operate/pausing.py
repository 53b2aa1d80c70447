"""Pause and resume: a group, or one partition of it, takes nothing until a person says so."""

from __future__ import annotations

from evenflow.engine import Partition
from evenflow.errors import Refused
from evenflow.operate.finding import Home, NotFound, home
from evenflow.pausing import WHOLE, Pause, covers, pauses_of
from evenflow.protection.breaker import BreakerState, forced, told
from evenflow.protection.breaker_shared import change, state_of
from evenflow.running import Running
from evenflow.store import Session, Statement


async def pause(running: Running, group: str, who: str, reason: str = "", partition: int | None = None) -> Pause:
    """Let the group take nothing more, parked events neither; kept until `resume`, over restarts.

    A process that runs it takes that up within a heartbeat, once what is in flight is committed. Raises `NotFound`,
    and `Refused` where it is paused already.
    """
    found = await home(running, group, orphan=False)
    places = await _places(found, partition)
    now = running.clock.now()
    before = await _pauses(found)
    again = [each for each in before if each.partition in (*places, WHOLE)]
    if again:
        raise Refused(f"{found.group!r} is already {again[0]}", remedy=f"evenflow groups resume {found.group}")
    sql = found.store.sql

    async def work(session: Session) -> None:
        for place in places:
            await session.execute(sql["pause_put"], (found.group, *place, now, who, reason))
        await session.execute(sql["audit_add"], (now, who, "group pause", _subject(found, partition), reason))

    await found.store.transact(work)
    found.store.changed.set()
    return Pause(places[0], now, who, reason)


async def resume(running: Running, group: str, who: str, partition: int | None = None) -> list[Pause]:
    """Let it go on; without a partition, in all that are paused. What was paused. Raises `NotFound`, `Refused`.

    Without a partition it closes the group's breaker, too: events are tried at once, and it opens again if they fail;
    and a group that is stopped is tried again by every process that has stopped it.
    """
    found = await home(running, group)
    before = await _pauses(found)
    places = await _places(found, partition) if partition is not None else []
    chosen = [each for each in before if partition is None or each.partition in places]
    closed = partition is None and await _close_breaker(running, found, who)
    freed = partition is None and await _let_go_on(running, found, who)
    if not chosen and (closed or freed):
        return []
    if not chosen:
        whole = covers(before, WHOLE) and partition is not None
        remedy = "all of it is: resume it without --partition" if whole else "evenflow groups list shows what is"
        part = "" if partition is None else f" in partition {partition}"
        raise Refused(f"{found.group!r} is not paused{part}", remedy=remedy)
    sql, now = found.store.sql, running.clock.now()

    async def work(session: Session) -> None:
        for each in chosen:
            await session.execute(sql["pause_remove"], (found.group, *each.partition))
        note = "; ".join(map(str, chosen))
        await session.execute(sql["audit_add"], (now, who, "group resume", _subject(found, partition), note))

    await found.store.transact(work)
    found.store.changed.set()
    return chosen


async def _let_go_on(running: Running, home: Home, who: str) -> bool:
    """Take back that a group is stopped; False where it is not. It stops again where its reason holds."""
    store, now = home.store, running.clock.now()
    states = [row for row in await store.read(store.sql["group_list"]) if row[0] == home.group and row[3] == "stopped"]
    if not states:
        return False

    async def work(session: Session) -> None:
        for _, topic, *_ in states:
            await session.execute(store.sql["group_state"], (home.group, topic, "running", None))
        await session.execute(store.sql["audit_add"], (now, who, "group resume", home.group, states[0][4] or ""))

    await store.transact(work)
    store.changed.set()
    return True


async def _close_breaker(running: Running, home: Home, who: str) -> bool:
    """Close the breaker of a group; False where it is closed."""
    store, now = home.store, running.clock.now()
    rows = await store.read(store.sql["breaker_get"], (home.group,))
    if not rows or state_of(rows[0]).closed:
        return False

    def audit(before: BreakerState) -> Statement:
        return store.sql["audit_add"], (now, who, "group close breaker", home.group, told(before, now))

    await change(store, home.group, forced, running.clock, audit)
    store.changed.set()
    return True


async def _pauses(home: Home) -> tuple[Pause, ...]:
    return pauses_of(home.group, await home.store.read(home.store.sql["pause_list"]))


async def _places(home: Home, number: int | None) -> list[Partition]:
    """The partition of this number in each topic that has one, in the generation that is read now."""
    if number is None:
        return [WHOLE]
    rows = await home.store.read(home.store.sql["position_list"], (home.group,))
    current: dict[str, int] = {}
    for topic, _log, generation, *_ in rows:
        current[topic] = max(generation, current.get(topic, 0))
    places = [Partition(row[0], row[2], row[3]) for row in rows if row[2] == current[row[0]] and row[3] == number]
    if not places:
        last = max((row[3] for row in rows), default=None)
        remedy = "no process has run it yet" if last is None else f"it has 0 to {last}"
        raise NotFound(f"{home.group!r} has no partition {number}", remedy=remedy)
    return list(dict.fromkeys(places))


def _subject(home: Home, partition: int | None) -> str:
    return home.group if partition is None else f"{home.group} partition {partition}"
