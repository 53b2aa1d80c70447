"""Bugs, each to be found: `plant(name)` puts one into Evenflow, in this process alone.

Each is a function that changes classes or statements of Evenflow. `PLANTS` tells for each what it is and which kinds
of anomaly must give it away. Nothing here is imported by the package, and the package knows nothing of it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOMENT = 0.02
"""Seconds between two steps that should be one: a kill between them is what a bug of this kind waits for."""


@dataclass(frozen=True)
class Plant:
    """One bug. `mix`: the faults that bring it out, where the usual ones take long."""

    put: Callable[[], None]
    says: str
    kinds: frozenset[str]
    mix: dict[str, int] | None = None


PLANTS: dict[str, Plant] = {}
PARKS = re.compile(r"\s*insert into (\S+\.)?evenflow_parked\b")
"""On PostgreSQL the tables are named with their schema."""
KILLS = {"kill": 5, "several": 2, "everything": 3}
RELAY = {"loader": 4, "kill": 3, "several": 2}
"""Whoever has the relay is struck: every process that is open may have it, the loader too."""
FREEZES = {"freeze": 1}


def planted(*kinds: str, mix: dict[str, int] | None = None) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(put: Callable[[], None]) -> Callable[[], None]:
        says = " ".join((put.__doc__ or "").split())
        PLANTS[put.__name__] = Plant(put, says, frozenset(kinds), mix)
        return put

    return register


def plant(name: str) -> None:
    """Nothing for ""."""
    if name:
        PLANTS[name].put()


def statements(**changed: Callable[[str], str]) -> None:
    """Change named statements of every store that is made from now on."""
    from evenflow.stores.postgres import store as postgres
    from evenflow.stores.sqlite import store as sqlite

    for module in (postgres, sqlite):

        def load(*files: str, real: Any = module.load) -> Any:
            blocks = dict(real(*files))
            for name, change in changed.items() if files[0].startswith("store") else ():
                blocks[name] = change(blocks[name])
            return blocks

        module.load = load


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(sql: str) -> str:
        assert old in sql, f"the statement has changed: {sql}"
        return sql.replace(old, new)

    return change


# -- positions and fences -----------------------------------------------------------------------------------------------


@planted("lost", mix=KILLS)
def moves_before_it_commits() -> None:
    """The position is moved in a transaction of its own, before the one with the effects."""
    from evenflow.chunk import ChunkLoop

    real = ChunkLoop.commit

    async def commit(self: Any, unit: Any) -> None:
        move = self._sql["position_move"]
        moves = [each for each in unit.statements if each[0] == move]
        if unit.session is None and moves:
            guards, unit.guards = list(unit.guards), []

            async def first(session: Any) -> None:
                for sql, args in [*guards, *moves]:
                    await session.execute(sql, args)

            await self.work.store.transact(first)
            await asyncio.sleep(MOMENT)
            unit.statements = [each for each in unit.statements if each[0] != move]
            unit.sites = []
        await real(self, unit)

    ChunkLoop.commit = commit


@planted("doubled", "order", mix=FREEZES)
def moves_without_comparing() -> None:
    """The guard of a transaction compares neither the fence nor the position with what its process believes."""
    anyone = replaced("and fence = $6", "and $6 = $6")
    statements(position_guard=lambda sql: anyone(sql).replace("and next = $7", "and $7 = $7"), position_move=anyone)


@planted("doubled", "order", mix=FREEZES)
def ignores_the_fence_at_settle() -> None:
    """A waiting group that has lost its partition still settles what it had in hand."""
    from evenflow.settling import SettlingLoop

    statements(position_move=replaced("and fence = $6", "and ($6 = $6)"))
    SettlingLoop.guard = lambda self, unit, owned: None


# -- publishing -----------------------------------------------------------------------------------------------------------


@planted("lost")
def relay_deletes_a_gap() -> None:
    """The relay removes every row up to the last one that is there, also those that it has not appended."""
    from evenflow.outbox import Outbox

    real = Outbox._remove

    async def remove(self: Any, owned: Any, stored: Any) -> None:
        await asyncio.sleep(MOMENT)
        there = await self.store.read("select id from evenflow_outbox")
        await real(self, owned, sorted({*stored, *(row for (row,) in there)}))

    Outbox._remove = remove


@planted("doubled", mix=RELAY)
def relay_numbers_anew() -> None:
    """What the relay appends has another number each time."""
    from msgspec.structs import replace

    from evenflow.outbox import Outbox

    real, slow, drawn = Outbox._append, Outbox._remove, dict[tuple[str, int], int]()

    async def append(self: Any, topic: str, envelopes: list[Any]) -> None:
        anew = []
        for each in envelopes:
            number = drawn[topic, each.slot] = drawn.get((topic, each.slot), 0) + 1
            anew.append(replace(each, producer=f"p-{os.getpid()}", number=number))
        await real(self, topic, anew)

    async def remove(self: Any, owned: Any, to: int) -> None:
        await asyncio.sleep(MOMENT)
        await slow(self, owned, to)

    Outbox._append, Outbox._remove = append, remove


@planted("lost", mix=RELAY)
def acknowledges_before_it_is_durable() -> None:
    """An append answers at once, and is written a little later."""
    from evenflow.engine import Outcome
    from evenflow.engines.sqlite.engine import SqliteEngine

    real, kept = SqliteEngine.append, set[Any]()

    async def append(self: Any, topic: str, envelopes: Any) -> Any:
        before = getattr(self, "_last", None)

        async def later() -> None:
            if before is not None:
                await before
            await asyncio.sleep(MOMENT)
            await real(self, topic, envelopes)

        self._last = asyncio.ensure_future(later())
        kept.add(self._last)
        self._last.add_done_callback(kept.discard)
        return [Outcome.STORED] * len(envelopes)

    SqliteEngine.append = append


@planted("lost", mix=RELAY)
def due_events_leave_before_they_are_queued() -> None:
    """An event that is due is removed in a transaction of its own, before it has its row in the outbox."""
    from evenflow.outbox import Outbox

    real = Outbox._queue_due

    async def queue_due(self: Any, owned: Any) -> int:
        ready = "select id, topic, envelope from evenflow_due where due <= $1 order by due, id limit 500"
        rows = await self.store.read(ready, (self.clock.now(),))
        if not rows:
            return 0

        async def remove(session: Any) -> None:
            for row in rows:
                await session.execute("delete from evenflow_due where id = $1", (row[0],))

        async def put_back(session: Any) -> None:
            for row in rows:
                sql = "insert into evenflow_due (id, due, topic, envelope) values ($1, 0.0, $2, $3)"
                await session.execute(sql, tuple(row[:3]))

        await self.store.transact(remove)
        await asyncio.sleep(15 * MOMENT)
        await self.store.transact(put_back)
        return await real(self, owned)

    Outbox._queue_due = queue_due


@planted("lost", "phantom")
def failures_take_others_events_back() -> None:
    """When one event of a transaction fails, what its neighbours have published is forgotten as well."""
    from evenflow.unit_of_work import UnitOfWork

    real, savepoint = UnitOfWork.undo, UnitOfWork.undo_to_savepoint
    UnitOfWork.undo = lambda self, mark: real(self, (mark[0], 0))
    UnitOfWork.undo_to_savepoint = lambda self, mark: savepoint(self, (mark[0], 0))


@planted("doubled", mix=RELAY)
def schedules_fire_before_they_move_on() -> None:
    """The run of a schedule is published in one transaction, and its next time is set in another."""
    from evenflow.schedules import scheduling
    from evenflow.unit_of_work import UnitOfWork

    async def fire(self: Any, owned: Any, moves: Any, now: float) -> None:
        unit = UnitOfWork(self._outbox)
        for entry, plan in moves:
            unit.published += [scheduling._run(self._outbox, entry, *run, now) for run in plan.runs]
        await unit.commit()
        await asyncio.sleep(10 * MOMENT)

        async def move(session: Any) -> None:
            for entry, plan in moves:
                args = (entry.name, entry.next_due, plan.next_due, plan.last_due, now, len(plan.runs))
                await session.execute(self._store.sql["schedule_move"], args)

        await self._store.transact(move)

    scheduling.Schedules._fire = fire


# -- marks ----------------------------------------------------------------------------------------------------------------


@planted("lost")
def marks_outlive_a_rollback() -> None:
    """Numbers that a rolled back transaction has taken count as taken."""
    from evenflow.position import Taking

    Taking.slots = lambda self, producer: self.base.highest.setdefault(producer, {})
    real = Taking.marks

    def marks(self: Any, now: float) -> Any:
        self.touched = dict(self.base.highest)
        return real(self, now)

    Taking.marks = marks


@planted("doubled", mix=RELAY)
def marks_do_not_outlive_a_restart() -> None:
    """What a group has taken from each producer is not kept with its position."""
    from evenflow import position
    from evenflow.outbox import Outbox

    slow = Outbox._remove

    async def remove(self: Any, owned: Any, to: int) -> None:
        await asyncio.sleep(MOMENT)
        await slow(self, owned, to)

    position.encode_marks = lambda marks: position.NO_MARKS
    Outbox._remove = remove


# -- parking ----------------------------------------------------------------------------------------------------------------


@planted("order")
def successors_overtake_the_parked() -> None:
    """An event is run though an earlier one of its key is parked."""
    from evenflow.passes import Pass

    Pass._held = lambda self, offset, envelope: False
    Pass._held_places = lambda self: []


@planted("doubled", "order")
def parked_events_run_twice() -> None:
    """What was parked and has passed is not removed the first time."""
    statements(parked_remove=lambda sql: f"{sql} and (select count(*) from evenflow_parked) % 3 != 0")


@planted("lost", mix=KILLS)
def parks_after_the_commit() -> None:
    """A failed event is parked in a transaction of its own, after the one that moves the position past it."""
    from evenflow.group import GroupLoop

    real = GroupLoop.commit

    async def commit(self: Any, unit: Any) -> None:
        adds = [each for each in unit.statements[unit.applied :] if PARKS.match(each[0])]
        if adds:
            unit.statements[unit.applied :] = [each for each in unit.statements[unit.applied :] if each not in adds]
            unit.sites = []
        await real(self, unit)
        if adds:
            await asyncio.sleep(5 * MOMENT)

            async def later(session: Any) -> None:
                for sql, args in adds:
                    await session.execute(sql, args)

            await self.work.store.transact(later)

    GroupLoop.commit = commit


@planted("lost", "order", mix={"kill": 1, "freeze": 1})
def seeks_forget_the_parked() -> None:
    """A seek drops everything that is parked, also what the log will not bring again."""
    statements(parked_unwind=replaced('and "offset" >= $5', "and ($5 = $5)"))


# -- handlers that wait -------------------------------------------------------------------------------------------------------


@planted("lost", "order", mix=KILLS)
def settles_before_the_end() -> None:
    """A waiting handler is settled when it has begun, and goes on by itself."""
    from evenflow.waiting import LaneLoop

    real, kept = LaneLoop._invoke, set[Any]()

    async def invoke(self: Any, event: Any, tx: Any, delivery: Any) -> None:
        if tx is not None:
            return await real(self, event, tx, delivery)
        task = asyncio.ensure_future(real(self, event, tx, delivery))
        kept.add(task)
        task.add_done_callback(lambda done: (kept.discard(done), done.cancelled() or done.exception()))

    LaneLoop._invoke = invoke


@planted("doubled")
def calls_again_for_nothing() -> None:
    """Now and then a waiting handler is called twice for an event, though all is well."""
    from evenflow.waiting import LaneLoop

    real, count = LaneLoop._invoke, iter(range(1 << 62))

    async def invoke(self: Any, event: Any, tx: Any, delivery: Any) -> Any:
        result = await real(self, event, tx, delivery)
        if tx is None and next(count) % 50 == 0:
            await asyncio.sleep(MOMENT)
            await real(self, event, tx, delivery)
        return result

    LaneLoop._invoke = invoke
