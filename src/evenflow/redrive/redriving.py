"""Operations carried out: asks for dead letters batch by batch, and learns what became of them.

Each step is one transaction, and what was asked for is decided from the rows of the parking lot themselves: nothing is
remembered outside of the store, so a process that dies in the middle only delays it. A lane whose row is gone has
passed; one whose head is a dead letter again has failed; one that is tried again later is not decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from msgspec.structs import replace

from evenflow.clock import Clock
from evenflow.errors import FenceLost
from evenflow.leading import LOOK
from evenflow.position import Owned, guard
from evenflow.redrive.operation import (
    CLOSED,
    TIDYING,
    Ask,
    Done,
    Move,
    Operation,
    Stop,
    Wait,
    decide,
    operation,
    refilled,
)
from evenflow.store import Session, Store

SOON = 0.03
AGAIN = 0.2
"""Seconds until the next look at an operation that has moved, and at one that has not."""
STALE = 60.0
"""Seconds after which whoever gathers a set and adds nothing to it is taken for dead."""
LAST = 60.0
"""Seconds that a last attempt which may have ended its process is waited for, before it counts as failed."""
PRUNED = 10_000
ROUNDS = 20
"""So many times in one step others are asked for in the place of those that are gone."""
_NEVER_GATHERED = "whoever asked for it ended before all was gathered; nothing was done"

Sql: TypeAlias = Mapping[str, str]


class Redriving:
    """The chore of the leading process: every operation of its store that is open."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def step(self, owned: Owned) -> float:
        """Move every operation on; seconds until the next look. Where there is none it is one read."""
        sql = self._store.sql
        found = [operation(row) for row in await self._store.read(sql["operation_open"])]
        if not found:
            return LOOK
        now = self._clock.now()
        if not any([await _moves(self._store, each, now) for each in found]):
            return min(_rest(each, now) for each in found)

        async def work(session: Session) -> None:
            statement, args = guard(sql["position_guard"], owned)
            if await session.execute(statement, args) != 1:
                raise FenceLost("another process leads this service now")
            for each in await learn(session, sql, now=now):
                await move_on(session, sql, each, now)

        await self._store.transact(work)
        self._store.changed.set()  # owners in this process look for wishes
        return SOON


async def unfinished(store: Store, now: float) -> bool:
    """Whether there is an operation that would do something by itself, now or as its rate allows."""
    found = [operation(row) for row in await store.read(store.sql["operation_open"])]
    waits = [each for each in found if each.state == "running" and not each.progress.open and each.asked < each.total]
    return bool(waits) or any([await _moves(store, each, now) for each in found])


async def _moves(store: Store, each: Operation, now: float) -> bool:
    """Whether a step would change anything."""
    if each.state == "gathering":
        return now - each.changed > STALE
    if each.state == "running" and not isinstance(next_move(each, now), Wait):
        return True
    if each.progress.open:
        ((decided,),) = await store.read(store.sql["operation_look"], (each.id, each.group, now - LAST))
        return bool(decided)
    return each.ended


def _rest(each: Operation, now: float) -> float:
    """Seconds until the next look at an operation that does not move now."""
    if each.state == "running" and each.pace.rate is not None and not each.progress.open:
        return max(SOON, min(LOOK, (1.0 - credit(each, now)) / each.pace.rate))
    return AGAIN if each.progress.open else LOOK


def credit(each: Operation, now: float) -> float:
    """How many lanes its rate allows now. A clock that was set back says nothing of how long it has waited."""
    return refilled(each.pace, each.credit, now - each.credited if now >= each.credited else math.inf)


def next_move(each: Operation, now: float) -> Move:
    return decide(each.pace, each.progress, credit(each, now))


# -- in a transaction -------------------------------------------------------------------------------------------------


async def learn(session: Session, sql: Sql, group: str | None = None, now: float = 0.0) -> list[Operation]:
    """See what became of all that was asked for, of one group or of all; the open operations as they stand then.

    Before every wish, edit and seek, in the same transaction: afterwards a row no longer tells whose doing it is. No
    other transaction changes an operation from here on.
    """
    await session.fetch(sql["operation_lock"])
    found = [operation(row) for row in await session.fetch(sql["operation_open"])]
    found = [each for each in found if group in (None, each.group)]
    return [await _learn(session, sql, each, now) if each.progress.open else each for each in found]


async def _learn(session: Session, sql: Sql, each: Operation, now: float) -> Operation:
    place = (each.id, each.group)
    gone = await session.execute(sql["operation_gone"], place)
    failed = await session.execute(sql["operation_failed"], (*place, now - LAST))
    passed = await session.execute(sql["operation_passed"], place)
    if not (gone or failed or passed):
        return each
    learnt = replace(each, gone=each.gone + gone, failed=each.failed + failed, passed=each.passed + passed)
    await write(session, sql, learnt)
    return learnt


async def forget(session: Session, sql: Sql, group: str) -> None:
    """What was asked for and is not there any more is gone, not passed: others have removed it in this transaction."""
    for row in await session.fetch(sql["operation_open"]):
        each = operation(row)
        if each.group == group and each.progress.open:
            gone = await session.execute(sql["operation_passed"], (each.id, group))
            await write(session, sql, replace(each, gone=each.gone + gone))


async def move_on(session: Session, sql: Sql, before: Operation, now: float) -> Operation:
    """One step of an operation that has learnt: what its plan says, and its end. As it stands then."""
    each = before
    if each.state == "gathering" and now - each.changed > STALE:
        each = replace(each, state="cancelled", outcome=_NEVER_GATHERED)
    if each.state == "running":
        each = await _carry_out(session, sql, each, now)
    if each.ended and not each.progress.open:
        each = await _end(session, sql, each, now)
    if each != before:
        each = replace(each, changed=max(now, each.changed))
        await write(session, sql, each)
    return each


async def _carry_out(session: Session, sql: Sql, each: Operation, now: float) -> Operation:
    for _ in range(ROUNDS):
        allowed = credit(each, now)
        move = decide(each.pace, each.progress, allowed)
        if isinstance(move, Stop):
            return replace(each, state="stopped", outcome=move.why)
        if isinstance(move, Done):
            return replace(each, state="done")
        if not isinstance(move, Ask):
            break
        taken = await _ask(session, sql, each, move.lanes, now)
        left = 0.0 if each.pace.rate is None else allowed - taken
        gone = each.gone + move.lanes - taken
        each = replace(each, asked=each.asked + move.lanes, gone=gone, credit=left, credited=now)
    return each


async def _ask(session: Session, sql: Sql, each: Operation, count: int, now: float) -> int:
    """Let the owners know that the next so many are wanted; how many of them are dead letters still."""
    places = (each.id, each.asked, each.asked + count)
    taken = await session.execute(sql["operation_take"], (*places, each.group))
    await session.execute(sql["operation_wish"], (*places, each.group, each.kind, now))
    if taken < count:
        await session.execute(sql["operation_absent"], places)
    return taken


async def _end(session: Session, sql: Sql, each: Operation, now: float) -> Operation:
    """Tell how it went, once; then remove what was not asked for, a part at a time."""
    if each.open != TIDYING:
        why = f": {each.outcome}" if each.outcome else ""
        note = f"operation {each.id} ({each.kind}): {each.said()}{why}"
        await session.execute(sql["audit_add"], (now, each.who, f"operation {each.state}", each.group, note))
    removed = await session.execute(sql["operation_prune"], (each.id, each.asked, PRUNED))
    return replace(each, open=TIDYING if removed else CLOSED)


async def write(session: Session, sql: Sql, each: Operation) -> None:
    """Keep it as it stands."""
    await session.execute(
        sql["operation_write"],
        (each.id, each.state, each.outcome, each.changed, each.total, each.asked, each.passed, each.failed, each.gone,
         each.credit, each.credited, each.open),
    )  # fmt: skip
