"""Redrive and discard of many, as operations: ask for one, look how it goes, hold it, end it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from evenflow.envelope import unpack
from evenflow.errors import Refused
from evenflow.operate.finding import Home, NotFound, known
from evenflow.operate.lot import chosen_homes, dead_head
from evenflow.operate.parked_filter import Filter, condition
from evenflow.redrive.operation import ENDED, Kind, Operation, Pace, operation
from evenflow.redrive.redriving import Sql, learn, move_on, write
from evenflow.running import Running
from evenflow.store import Row, Session, Store

GATHERED = 10_000
"""So many lanes are gathered in one transaction, so that others may write in between."""
EXAMPLES = 5
FAILURES = 20


class Asked(NamedTuple):
    """An operation with the service whose store keeps it; `name` is what a person calls it by."""

    service: str
    operation: Operation

    @property
    def name(self) -> str:
        return f"{self.service}/{self.operation.id}"


class Lane(NamedTuple):
    """A lane with what its head is: the type and id of the event, and its error. None where it is gone since."""

    topic: str
    lane: str
    type: str | None
    id: str | None
    error: str | None


def _lane(row: Row) -> Lane:
    topic, lane, type_, packed, error = row
    return Lane(topic, lane, type_, unpack(packed)[0].id if packed is not None else None, error)


class Overlap(NamedTuple):
    """So many of these dead letters another operation has before it, or has asked for."""

    other: Asked
    waiting: int
    asked: int


class Preview(NamedTuple):
    """What an operation on one group would do: how many dead letters, the first of them, and who is at them already."""

    group: str
    service: str
    lanes: int
    first: Sequence[Lane]
    overlaps: Sequence[Overlap]


class Detail(NamedTuple):
    """An operation, and the first of those that have failed again."""

    asked: Asked
    failures: Sequence[Lane]


# -- asking -----------------------------------------------------------------------------------------------------------


async def preview(running: Running, wanted: Filter) -> list[Preview]:
    """What an operation would do, per group in which there is anything to do for it. Changes nothing.

    Raises `NotFound`, and `Refused` for a filter that means no dead letters.
    """
    return [each for home in await _homes(running, wanted) if (each := await _preview(home, wanted)) is not None]


async def _homes(running: Running, wanted: Filter) -> list[Home]:
    if wanted.state not in (None, "dead"):
        raise Refused("only dead letters are redriven or discarded", remedy="leave state away: the rest goes on itself")
    found = await chosen_homes(running, wanted)
    orphans = [each for each in found if each.spec is None]
    if orphans and wanted.group is not None:
        raise NotFound(f"the code has no group {wanted.group!r}", remedy="nobody would carry it out")
    return [each for each in found if each.spec is not None]


async def _preview(home: Home, wanted: Filter) -> Preview | None:
    store, sql, group = home.store, home.store.sql, home.group
    ((count,),) = await store.read(*condition(wanted, 1).into(sql["letters_count"], group))
    promised = await store.read(*condition(wanted, 1).into(sql["letters_promised"], group))
    if not count and not promised:
        return None
    rows = await store.read(*condition(wanted, 2).into(sql["letters_first"], group, EXAMPLES))
    overlaps = [
        Overlap(
            Asked(home.service, operation((await store.read(sql["operation_one"], (id_,)))[0])), all_ - asked, asked
        )
        for id_, all_, asked in promised
    ]
    return Preview(group, home.service, count, [_lane(row) for row in rows], overlaps)


async def ask(
    running: Running, kind: Kind, wanted: Filter, who: str, *, pace: Pace | None = None, reason: str = ""
) -> list[Asked]:
    """Redrive or discard the dead letters that fit now: one operation per group that has any. What was begun.

    The set is frozen as it is seen now. The first batch is asked for at once; the leading process goes on with the
    rest. Raises `NotFound`, `Refused`.
    """
    pace = pace or Pace()
    if kind == "discard" and (pace.canary or pace.stop_above is not None):
        raise Refused("a discard cannot fail", remedy="leave canary and stop_above away")
    found = []
    for home in await _homes(running, wanted):
        begun = await _begin(running, home, kind, wanted, (who, reason), pace)
        found += [] if begun is None else [Asked(home.service, begun)]
    return found


async def _begin(
    running: Running, home: Home, kind: Kind, wanted: Filter, note: tuple[str, str], pace: Pace
) -> Operation | None:
    store, sql, now, (who, reason) = home.store, home.store.sql, running.clock.now(), note
    if not await store.read(*condition(wanted, 2).into(sql["letters_first"], home.group, 1)):
        return None
    text = msgspec.json.encode(wanted.document()).decode(), msgspec.json.encode(pace).decode()

    async def first(session: Session) -> Operation:
        ((id_,),) = await session.fetch(sql["operation_add"], (kind, home.group, *text, reason, who, now))
        return await _gather(session, sql, id_, wanted, now)

    each = await store.transact(first)
    while each.state == "gathering":
        more = partial(_gather, sql=sql, id_=each.id, wanted=wanted, now=running.clock.now())
        each = await store.transact(more)
    store.changed.set()
    return each


async def _gather(session: Session, sql: Sql, id_: int, wanted: Filter, now: float) -> Operation:
    """Take some more into the set; with the last of them it begins."""
    await session.fetch(sql["operation_lock"])
    each = await _fetched(session, sql, id_)
    if each.state != "gathering":
        raise Refused(f"operation {id_} was cancelled before all was gathered", remedy="ask for it again")
    last = await session.fetch(sql["letters_last"], (id_,))
    until = each.at if last else sys.float_info.max  # what is there at first has failed before, whatever the clock says
    args = (id_, each.total, each.group, *(last[0] if last else ("", "")), until, GATHERED)
    count = await session.execute(*condition(wanted, 7, group=3).into(sql["letters_gather"], *args))
    state = "gathering" if count == GATHERED else "running"
    each = replace(each, total=each.total + count, changed=now, state=state)
    await write(session, sql, each)
    if state == "gathering":
        return each
    given = [f"{name} {value}" for name, value in each.filter.items() if name != "group"]
    letters = "1 dead letter" if each.total == 1 else f"{each.total:,} dead letters"
    asked = "; ".join([f"operation {id_}: {letters}", *given, *filter(None, [each.reason])])
    await session.execute(sql["audit_add"], (now, each.who, f"parked {each.kind}", each.group, asked))
    await learn(session, sql, each.group, now)
    return await move_on(session, sql, each, now)


async def redrive(running: Running, group: str, lane: str | None, who: str, reason: str = "") -> int:
    """Ask for a dead letter to be tried again, or (lane None) for all of the group. How many there were.

    `lane` is that of `Parked`, or the key. Raises `NotFound` when nothing is parked there, and `Refused`.
    """
    return await _of_lane(running, "redrive", group, lane, (who, reason))


async def discard(running: Running, group: str, lane: str | None, who: str, reason: str = "") -> int:
    """Ask for a dead letter to be given up, so that what waits behind it goes on. See `redrive`."""
    return await _of_lane(running, "discard", group, lane, (who, reason))


async def _of_lane(running: Running, kind: Kind, group: str, lane: str | None, note: tuple[str, str]) -> int:
    wanted = Filter(group=group) if lane is None else await dead_head(running, group, lane)
    begun = await ask(running, kind, wanted, note[0], reason=note[1])
    return sum(each.operation.total for each in begun)


# -- looking ----------------------------------------------------------------------------------------------------------


async def operations(running: Running, limit: int = 100, *, open_only: bool = False) -> list[Asked]:
    """The operations of all services, the latest first."""
    found = []
    for service, store in _stores(running):
        rows = await store.read(store.sql["operation_list"], (limit,))
        found += [Asked(service, operation(row)) for row in rows]
    found = [each for each in found if not (open_only and each.operation.ended)]
    return sorted(found, key=lambda each: (-each.operation.at, each.name))[:limit]


def _stores(running: Running) -> list[tuple[str, Store]]:
    """Each store once: services may share one."""
    unique = {store.id: (service, store) for service, store in reversed(running.stores.items())}
    return list(reversed(unique.values()))


async def operation_named(running: Running, name: str) -> Detail:
    """One operation, by its name (billing/3), or its number where that is enough. Raises `NotFound`, `Refused`."""
    store, found = await _named(running, name)
    given = (found.operation.id, found.operation.group, FAILURES)
    rows = await store.read(store.sql["operation_failures"], given)
    return Detail(found, [_lane(row) for row in rows])


async def _named(running: Running, name: str) -> tuple[Store, Asked]:
    service, _, number = name.rpartition("/")
    found = []
    for each, store in _stores(running):
        same = service in running.stores and running.stores[service].id == store.id
        if number.isdigit() and (same or not service):
            rows = await store.read(store.sql["operation_one"], (int(number),))
            found += [(store, Asked(each, operation(row))) for row in rows]
    if len(found) > 1:
        names = ", ".join(each.name for _, each in found)
        raise Refused(f"several services have an operation {number}", remedy=f"name one of them: {names}")
    if not found:
        there = [each.name for each in await operations(running, 20)]
        raise NotFound(f"there is no operation {name!r}", remedy=known(name, there))
    return found[0]


# -- hold and end -----------------------------------------------------------------------------------------------------


async def pause_operation(running: Running, name: str, who: str) -> Asked:
    """Ask for no more until it is resumed; what is under way goes on. Raises `NotFound`, `Refused`."""
    return await _change(running, name, who, "paused", ("running",))


async def resume_operation(running: Running, name: str, who: str) -> Asked:
    """Go on. Raises `NotFound`, and `Refused` where it is not paused."""
    return await _change(running, name, who, "running", ("paused",))


async def cancel_operation(running: Running, name: str, who: str) -> Asked:
    """End it: what is under way goes on, the rest stays as it is. Raises `NotFound`; `Refused` where it has ended."""
    return await _change(running, name, who, "cancelled", ("gathering", "running", "paused"))


_VERBS = {"paused": "pause", "running": "resume", "cancelled": "cancel"}


async def _change(running: Running, name: str, who: str, state: str, of: Sequence[str]) -> Asked:
    store, found = await _named(running, name)
    sql, now, verb = store.sql, running.clock.now(), _VERBS[state]

    async def work(session: Session) -> Operation:
        await session.fetch(sql["operation_lock"])
        each = await _fetched(session, sql, found.operation.id)
        if each.state not in of:
            raise _refused(found.name, each, verb)
        outcome = "" if state == "running" else f"{state} by {who}"
        each = replace(each, state=state, outcome=outcome, changed=now, credit=1.0, credited=now)
        await write(session, sql, each)
        note = f"operation {each.id}: {each.said()}"
        await session.execute(sql["audit_add"], (now, who, f"operation {verb}", each.group, note))
        learnt = {one.id: one for one in await learn(session, sql, each.group, now)}
        return await move_on(session, sql, learnt[each.id], now)

    each = await store.transact(work)
    store.changed.set()
    return Asked(found.service, each)


def _refused(name: str, each: Operation, verb: str) -> Refused:
    already = " already" if _VERBS.get(each.state) == verb else ""
    ended = each.state in ENDED
    remedy = "ask for a new one" if ended and not already else f"evenflow operations show {name}"
    return Refused(f"operation {name} is {each.state}{already}", remedy=remedy)


async def _fetched(session: Session, sql: Sql, id_: int) -> Operation:
    (row,) = await session.fetch(sql["operation_one"], (id_,))
    return operation(row)
