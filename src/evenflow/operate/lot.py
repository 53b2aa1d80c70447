"""The parked: look at what is set aside, count it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evenflow import parking
from evenflow.clock import DAY, HOUR
from evenflow.errors import Refused
from evenflow.operate.finding import Home, NotFound, home, homes, orphans
from evenflow.operate.parked_filter import Filter, condition
from evenflow.parking import Parked
from evenflow.running import Running
from evenflow.store import Row

SHOWN = 20
By = Literal["group", "fingerprint", "type", "key", "age"]


@dataclass(frozen=True, slots=True)
class LaneDetail:
    """A lane of the parking lot: its first events in order, and how many it holds in all."""

    events: Sequence[Parked]
    count: int


class Place(NamedTuple):
    """Where a page has ended: give it back to get the next one."""

    group: str
    topic: str
    lane: str
    generation: int
    offset: int


class Page(NamedTuple):
    """Some of what is parked, in order per group. `more` is where the next page begins, None for the last one."""

    events: list[Parked]
    more: Place | None


class Count(NamedTuple):
    """How much is parked of one group under one value: dead letters, retries, and what waits behind them.

    `value` is None for what has none: events without a key, or whose error is not known. `oldest` is the Unix time of
    the first failure; `error` is one of the errors, as an example.
    """

    group: str
    value: str | None
    dead: int
    retrying: int
    behind: int
    oldest: float
    error: str | None


_BEGIN = ("", "", -(2**63), 0)
_AGES = (("under 1 h", HOUR), ("1 h to 1 d", DAY), ("1 d to 7 d", 7 * DAY))
_OLDEST = "over 7 d"
_VALUES = {
    "group": "p.group_name", "fingerprint": "p.fingerprint", "type": "p.type",
    "key": "case when substr(p.lane, 1, 1) = 'k' then substr(p.lane, 2) end",
}  # fmt: skip


async def parked(running: Running, group: str | None = None, limit: int = 100) -> list[Parked]:
    """What is set aside, in order per group; of one group, or of all. Raises `NotFound`."""
    return (await find(running, Filter(group=group), limit)).events


async def find(running: Running, wanted: Filter, limit: int = 100, after: Place | None = None) -> Page:
    """What is set aside and fits, a page of it; `after` is `more` of the page before. Raises `NotFound`."""
    found: list[Parked] = []
    last: Place | None = None
    chosen = await chosen_homes(running, wanted)
    if after is not None:  # a group that is gone meanwhile has nothing more
        names = [each.group for each in chosen]
        chosen = chosen[names.index(after.group) :] if after.group in names else []
    for each in chosen:
        begin = after[1:] if after is not None and each.group == after.group else _BEGIN
        rows = await _page(each, wanted, begin, limit + 1 - len(found))
        for row in rows:
            if len(found) == limit:
                return Page(found, last)
            found.append(parking.parked(each.group, row))
            topic, lane, generation, _partition, offset = row[:5]
            last = Place(each.group, topic, lane, generation, offset)
    return Page(found, None)


async def chosen_homes(running: Running, wanted: Filter) -> list[Home]:
    """The groups that a filter means, those of the code first. Raises `NotFound`."""
    if wanted.group is not None:
        return [await home(running, wanted.group)]
    return [*await homes(running), *await orphans(running)]


async def _page(home: Home, wanted: Filter, begin: tuple[object, ...], limit: int) -> list[Row]:
    sql = home.store.sql
    columns = sql["parked_list"].partition("\nfrom ")[0]
    statement = f"{columns} {sql['parked_page']}"
    return await home.store.read(*condition(wanted, 6).into(statement, home.group, *begin, limit))


async def count_by(running: Running, by: By, wanted: Filter, limit: int = 100) -> list[Count]:
    """How much is set aside of what fits, per group and value, the most dead letters first. Raises `NotFound`.

    By fingerprint it counts what has failed; what waits behind has no error of its own.
    """
    now, found = running.clock.now(), list[Count]()
    for each in await chosen_homes(running, wanted):
        given = condition(wanted, 2)
        if by == "fingerprint" and wanted.state is None:
            given = given._replace(sql=f"p.head = 1 and {given.sql}", way="indexed by evenflow_parked_heads")
        statement, args = given.into(each.store.sql["parked_by"].replace(":value", _value(by, now)), each.group, limit)
        found += [Count(each.group, *row) for row in await each.store.read(statement, args)]
    if by == "age":
        order = [name for name, _ in _AGES]
        return sorted(found, key=lambda c: order.index(c.value) if c.value in order else len(order))
    return sorted(found, key=lambda c: (-c.dead, -c.retrying - c.behind))[:limit]


def _value(by: By, now: float) -> str:
    if by != "age":
        return _VALUES[by]
    cases = " ".join(
        f"when coalesce(p.first_failed, p.parked) > {now - seconds!r} then '{name}'" for name, seconds in _AGES
    )
    return f"case {cases} else '{_OLDEST}' end"


async def dead_head(running: Running, group: str, lane: str) -> Filter:
    """The filter for the dead letter of this lane, or key. Raises `NotFound`, and `Refused` where it is none."""
    found = await home(running, group, orphan=False)
    for each in (lane, f"k{lane}"):
        rows = await found.store.read(found.store.sql["parked_lane_list"], (found.group, each, SHOWN))
        heads = [head for head in (parking.parked(found.group, row) for row in rows) if not head.behind]
        if any(head.dead for head in heads):
            return Filter(group=found.group, key=each[1:]) if each[0] == "k" else Filter(group=found.group, lane=each)
        if rows:
            raise _no_letter(lane, next((head.wish for head in heads if head.wish), None))
    raise await _nothing(found, lane)


def _no_letter(lane: str, wish: str | None) -> Refused:
    if wish:
        remedy = "the process that owns the partition takes it up; look again then"
        return Refused(f"{lane!r} waits for the {wish} that was asked for already", remedy=remedy)
    return Refused(f"{lane!r} is no dead letter: it is tried again by itself", remedy="wait for it")


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
