"""Schedules by a cron line or an interval: how they stand; pause, resume, and a run by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evenflow.errors import Refused
from evenflow.handler import HandlerSpec
from evenflow.operate.finding import NotFound, known
from evenflow.running import Running
from evenflow.schedules.scheduling import Entry, entries_of, manual_run
from evenflow.store import Session
from evenflow.unit_of_work import UnitOfWork

State = Literal["new", "running", "paused", "over", "orphaned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurring:
    """How a schedule stands. Times are Unix times.

    state    "new": no process has run it yet; "over": it has no next time; "orphaned": the code does not have it
    times    its cron line with the zone, or its interval
    pending  what the code says instead, which counts from the next start of a process on
    paused   who has paused it, and why; empty where nobody has
    """

    service: str
    name: str
    group: str
    state: State
    times: str
    pending: str
    missed: str
    next: float | None
    last_due: float | None
    last_run: float | None
    runs: int
    paused: str
    paused_at: float | None
    where: str


async def recurring(running: Running, service: str | None = None) -> list[Recurring]:
    """All schedules of the code in its order, then those that only a store has; of one service, or of all."""
    found = []
    for name in running.stores:
        if service in (None, name):
            found += await _of_service(running, name)
    return found


async def _of_service(running: Running, service: str) -> list[Recurring]:
    specs = {spec.schedule.name: spec for spec in running.specs[service] if spec.schedule is not None}
    entries = {each.name: each for each in await entries_of(running.stores[service])}
    names = [*specs, *(name for name in entries if name not in specs)]
    return [_recurring(service, entries.get(name), specs.get(name)) for name in names]


def _recurring(service: str, entry: Entry | None, spec: HandlerSpec | None) -> Recurring:
    schedule = None if spec is None else spec.schedule
    said = "" if schedule is None else str(schedule.recurrence)
    if entry is None:
        assert spec is not None
        assert schedule is not None
        return Recurring(
            service=service, name=schedule.name, group=spec.group, state="new", times=said, pending="",
            missed=schedule.missed, next=None, last_due=None, last_run=None, runs=0, paused="", paused_at=None,
            where=spec.where,
        )  # fmt: skip
    times = str(entry.recurrence)
    return Recurring(
        service=service, name=entry.name, group=entry.group, state=_state(entry, spec), times=times,
        pending=said if said not in ("", times) else "", missed=entry.missed, next=entry.next_due,
        last_due=entry.last_due, last_run=entry.last_run, runs=entry.runs, paused=_paused(entry),
        paused_at=entry.paused, where="" if spec is None else spec.where,
    )  # fmt: skip


def _state(entry: Entry, spec: HandlerSpec | None) -> State:
    if spec is None:
        return "orphaned"
    if entry.paused is not None:
        return "paused"
    return "over" if entry.next_due is None else "running"


def _paused(entry: Entry) -> str:
    if entry.paused is None:
        return ""
    why = f": {entry.paused_why}" if entry.paused_why else ""
    return f"paused by {entry.paused_by}{why}"


async def find(running: Running, name: str, service: str | None = None) -> Recurring:
    """The schedule of this name, with or without its service. Raises `NotFound`, and `Refused` where two have it."""
    there = await recurring(running, service)
    found = [each for each in there if name in (each.name, f"{each.service}.{each.name}", each.group)]
    if not found:
        raise NotFound(f"there is no schedule {name!r}", remedy=known(name, [each.name for each in there]))
    if len(found) > 1:
        services = " and ".join(sorted(each.service for each in found))
        raise Refused(f"{services} have a schedule {name!r}", remedy=f"say whose: {found[0].service}.{name}")
    return found[0]


async def pause_schedule(
    running: Running, name: str, who: str, reason: str = "", service: str | None = None
) -> Recurring:
    """Let it have no runs until `resume_schedule`, over restarts. Raises `NotFound`, `Refused`."""
    found = await _stored(running, name, service)
    if found.paused:
        raise Refused(f"{found.name!r} is already {found.paused}", remedy=f"evenflow schedules resume {found.name}")
    now = running.clock.now()
    await _change(running, found, "schedule_pause", (found.name, now, who, reason), ("schedule pause", who, reason))
    return await find(running, found.name, found.service)


async def resume_schedule(running: Running, name: str, who: str, service: str | None = None) -> Recurring:
    """Let it go on; its `missed` says what becomes of the times since. Raises `NotFound`, `Refused`."""
    found = await _stored(running, name, service)
    if not found.paused:
        raise Refused(f"{found.name!r} is not paused", remedy="evenflow schedules list shows what is")
    await _change(running, found, "schedule_resume", (found.name,), ("schedule resume", who, found.paused))
    return await find(running, found.name, found.service)


async def run_schedule(running: Running, name: str, who: str, service: str | None = None) -> str:
    """Publish a run now, beside those that are due; the id of its event. Raises `NotFound`, `Refused`."""
    found = await _stored(running, name, service)
    if found.state == "orphaned":
        raise Refused(f"the code does not have the schedule {found.name!r}", remedy="evenflow schedules list")
    (entry,) = [each for each in await entries_of(running.stores[found.service]) if each.name == found.name]
    outbox, now = running.outboxes[found.service], running.clock.now()
    unit, run = UnitOfWork(outbox), manual_run(outbox, entry, now)
    id_ = str(run[1][0])
    unit.published.append(run)
    unit.hand_over(outbox.store.sql["schedule_ran"], (found.name, now))
    unit.hand_over(outbox.store.sql["audit_add"], (now, who, "schedule run", found.name, id_))
    try:
        await unit.commit()
    except BaseException:
        await unit.rollback()
        raise
    outbox.store.changed.set()
    return id_


async def _stored(running: Running, name: str, service: str | None) -> Recurring:
    found = await find(running, name, service)
    if found.state == "new":
        raise Refused(f"no process has run the schedule {found.name!r} yet", remedy="evenflow run")
    return found


async def _change(
    running: Running, found: Recurring, sql: str, args: tuple[object, ...], note: tuple[str, str, str]
) -> None:
    store, now = running.stores[found.service], running.clock.now()
    what, who, detail = note

    async def work(session: Session) -> int:
        changed = await session.execute(store.sql[sql], args)
        if changed:
            await session.execute(store.sql["audit_add"], (now, who, what, found.name, detail))
        return changed

    if not await store.transact(work):
        raise Refused(f"{found.name!r} was changed by somebody else just now", remedy="evenflow schedules list")
    store.changed.set()
