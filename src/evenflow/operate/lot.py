"""The parked: look at what is set aside, ask for dead letters to be tried again or given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evenflow import parking
from evenflow.errors import Refused
from evenflow.operate.finding import Home, NotFound, home, homes, orphans
from evenflow.parking import Parked
from evenflow.running import Running

SHOWN = 20
AT_ONCE = 1000
"""So many wishes are one transaction: few commits, and others may write in between."""
ALL = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LaneDetail:
    """A lane of the parking lot: its first events in order, and how many it holds in all."""

    events: Sequence[Parked]
    count: int


async def parked(running: Running, group: str | None = None, limit: int = 100) -> list[Parked]:
    """What is set aside, in order per group; of one group, or of all. Raises `NotFound`."""
    everything = [*await homes(running), *await orphans(running)] if group is None else []
    found: list[Parked] = []
    for each in everything if group is None else [await home(running, group)]:
        rows = await each.store.read(each.store.sql["parked_list"], (each.group, limit - len(found)))
        found += [parking.parked(each.group, row) for row in rows]
    return found


async def lane(running: Running, group: str, lane: str, limit: int = SHOWN) -> LaneDetail:
    """The lane of this key (or as `Parked.lane` has it), its head first. Raises `NotFound`."""
    found = await home(running, group)
    for each in (lane, f"k{lane}"):
        rows = await found.store.read(found.store.sql["parked_lane_list"], (found.group, each, limit))
        if rows:
            ((count,),) = await found.store.read(found.store.sql["parked_lane_size"], (found.group, each))
            return LaneDetail([parking.parked(found.group, row) for row in rows], count)
    raise await _nothing(found, lane)


async def lane_at(running: Running, group: str, offset: int, partition: int | None = None) -> str:
    """The lane of the event that was parked from this offset. Raises `NotFound`, `Refused` where there are several."""
    found = await home(running, group)
    rows = await found.store.read(found.store.sql["parked_at"], (found.group, offset))
    rows = [row for row in rows if partition in (None, row[3])]
    if not rows:
        raise await _nothing(found, f"offset {offset}")
    if len({row[0] for row in rows}) > 1:
        places = ", ".join(f"{row[3]}/{offset}" for row in rows)
        raise Refused(f"several partitions have parked their offset {offset}", remedy=f"name one of them: {places}")
    return str(rows[0][0])


async def _nothing(home: Home, what: str) -> NotFound:
    ((count, _dead),) = await home.store.read(home.store.sql["parked_size"], (home.group,))
    remedy = f"evenflow parked list --group {home.group} shows what is" if count else "nothing at all is"
    return NotFound(f"nothing is parked in {home.group!r} for {what!r}", remedy=remedy)


# -- wishes -----------------------------------------------------------------------------------------------------------


async def redrive(running: Running, group: str, lane: str | None, who: str) -> int:
    """Ask for a dead letter to be tried again, or (lane None) for all of the group. How many there were.

    `lane` is that of `Parked`, or the key. Raises `NotFound` when nothing is parked there.
    """
    return await _ask(running, group, lane, "redrive", who)


async def discard(running: Running, group: str, lane: str | None, who: str) -> int:
    """Ask for a dead letter to be given up, so that what waits behind it goes on. See `redrive`."""
    return await _ask(running, group, lane, "discard", who)


async def _ask(running: Running, group: str, lane: str | None, wish: str, who: str) -> int:
    found = await home(running, group, orphan=False)
    lot = await parked(running, found.group, ALL)
    dead = [each for each in lot if each.dead]
    if lane is not None:
        lanes = {each.lane for each in lot}
        wanted = lane if lane in lanes else f"k{lane}"
        if wanted not in lanes:
            raise await _nothing(found, lane)
        dead = [each for each in dead if each.lane == wanted]
        if not dead:
            raise _no_letter(lane, [each.wish for each in lot if each.lane == wanted and each.wish])
    count = 0
    for place in range(0, len(dead), AT_ONCE):
        count += await parking.ask(found.store, found.group, dead[place : place + AT_ONCE], wish, who, running.clock)
    return count


def _no_letter(lane: str, wishes: Sequence[str]) -> Refused:
    if wishes:
        remedy = "the process that owns the partition takes it up; look again then"
        return Refused(f"{lane!r} waits for the {wishes[0]} that was asked for already", remedy=remedy)
    return Refused(f"{lane!r} is no dead letter: it is tried again by itself", remedy="wait for it")
