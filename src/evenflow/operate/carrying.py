"""Export: parked events as lines of JSON, as a copy or for good.

What is moved out for good is remembered, so that it may come back, each event once, to the place that it had. Its file
is written before the commit, so that nothing is ever in neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from evenflow.engine import Log
from evenflow.operate.carried import Line, digest, line_of
from evenflow.operate.finding import Home, home
from evenflow.operate.letters import Attempt, Letter, dead_lanes, lanes_of, rows_of
from evenflow.operate.parked_filter import Filter
from evenflow.operate.partitions import hand_on, logs_of, reads, refuse_in_flight
from evenflow.redrive.redriving import forget, learn
from evenflow.running import Running
from evenflow.store import Session

LANES = 200
"""Lanes that are read, and moved, at a time."""
EVERYTHING = 2**31

Write = Callable[[Sequence[Line]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. `left`: lanes that stay, since they changed meanwhile, or are no dead letters."""

    events: int
    lanes: int
    left: int = 0


async def export(running: Running, group: str, wanted: Filter | None, write: Write) -> Exported:
    """Write whole lanes, in order: those of the dead letters that a filter means, or (None) all. Changes nothing."""
    found = await home(running, group)
    logs = await logs_of(found)
    events = lanes = 0
    for some in _parts(await _lanes(found, wanted)):
        lines = [line for each in some for line in await _lines(found, logs, each)]
        await write(lines)
        events, lanes = events + len(lines), lanes + len(some)
    return Exported(events, lanes)


async def move_out(running: Running, group: str, wanted: Filter | None, write: Write, who: str) -> Exported:
    """`export`, and remove what was written: dead letters at rest, with all behind them. Their keys go on without them.

    `write` returns when it is safe on disk; the removal comes after it. Raises `NotFound`, `Refused`.
    """
    found = await home(running, group, orphan=False)
    await refuse_in_flight(found, "move events out")
    logs = await logs_of(found)
    events = lanes = left = 0
    for some in _parts(await dead_lanes(found, wanted or Filter(), EVERYTHING)):
        kept = [(each, await rows_of(found, each)) for each in some]
        at_rest = [(each, rows) for each, rows in kept if rows and rows[0].at_rest]
        lines = [[await _line(found, logs, row) for row in rows] for _, rows in at_rest]
        await write([line for lane in lines for line in lane])
        gone = await _remove(running, found, [rows for _, rows in at_rest], logs, who)
        lanes, left = lanes + len(gone), left + len(some) - len(gone)
        events += sum(map(len, gone))
    return Exported(events, lanes, left)


async def _remove(
    running: Running, found: Home, lanes: Sequence[Sequence[Letter]], logs: dict[str, Log], who: str
) -> list[Sequence[Letter]]:
    """Remove lanes that are as they were read, in one transaction; which."""
    sql, now = found.store.sql, running.clock.now()

    async def work(session: Session) -> list[Sequence[Letter]]:
        await session.fetch(sql["position_lock"], (found.group,))  # nobody adds to a lane from here on
        await learn(session, sql, found.group)
        rows = await session.fetch(sql["position_list"], (found.group,))
        gone = []
        for lane in lanes:
            head = lane[0]
            if await rows_of(found, (head.topic, head.lane), session) != list(lane):
                continue
            place = reads(rows, head.topic, head.slot)
            if place is None:
                continue
            for each in lane:
                args = (
                    *each.place,
                    each.partition,
                    logs[each.topic].incarnation,
                    digest(each.envelope, each.original),
                    *place,
                    now,
                )
                await session.execute(sql["carried_add"], args)
                await session.execute(sql["parked_remove"], each.place)
            count = "1 event" if len(lane) == 1 else f"{len(lane):,} events"
            note = (now, who, "parked export --remove", f"{head.group} {head.lane}", count)
            await session.execute(sql["audit_add"], note)
            gone.append(lane)
        await forget(session, sql, found.group)
        await hand_on(session, found, rows, [(lane[0].topic, lane[0].slot) for lane in gone])
        return gone

    gone = await found.store.transact(work) if lanes else []
    found.store.changed.set()
    return gone


async def _lanes(found: Home, wanted: Filter | None) -> list[tuple[str, str]]:
    return await lanes_of(found) if wanted is None else await dead_lanes(found, wanted, EVERYTHING)


async def _lines(found: Home, logs: dict[str, Log], lane: tuple[str, str]) -> list[Line]:
    return [await _line(found, logs, row) for row in await rows_of(found, lane)]


async def _line(found: Home, logs: dict[str, Log], row: Letter) -> Line:
    rows = await found.store.read(found.store.sql["attempt_list"], row.place)
    log = logs.get(row.topic)
    return line_of(row, "" if log is None else log.incarnation, [Attempt(*each) for each in rows])


def _parts(lanes: Sequence[tuple[str, str]]) -> Iterable[Sequence[tuple[str, str]]]:
    return (lanes[start : start + LANES] for start in range(0, len(lanes), LANES))
