"""The check-up of what a system has in its engine and stores: topics, groups, outboxes, processes, the next start."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from evenflow.checkup import Finding
from evenflow.engine import Engine, Log
from evenflow.envelope import unpack
from evenflow.errors import EvenflowError, GroupStopped, Refused
from evenflow.operate.finding import Home, homes, live
from evenflow.operate.placing import placed
from evenflow.operate.recurring import Recurring, recurring
from evenflow.operate.schedules import later
from evenflow.operate.status import GroupStatus, groups
from evenflow.outbox import RELAY_GROUP, RELAY_ROWS
from evenflow.oversize import named
from evenflow.ownership import check_belongs, check_outbox, new_on_old
from evenflow.running import Running
from evenflow.topic import Topic

AHEAD = 5.0
"""Seconds by which a clock may be ahead of ours without a word."""
FULL = ", as many as its policy allows: a partition whose next event fails waits"
TOO_LARGE = 10
"""Events over the limit of their topic that are named, at most."""
LATE = 10.0
"""Seconds that an event may wait in an outbox, or past its due time, while a process relays."""


async def examine_running(running: Running) -> AsyncGenerator[Finding]:
    """All of it, for an app that was opened with `join=False`."""
    for topic in running.topics.values():
        async for finding in _topic(running, topic):
            yield finding
    async for finding in _moved(running):
        yield finding
    for status in await groups(running):
        yield _group(status)
    for service in running.stores:
        for finding in await _service(running, service):
            yield finding
    for each in await recurring(running):
        yield _schedule(each, running.clock.now())
    for finding in await _start(running):
        yield finding


# -- topics -----------------------------------------------------------------------------------------------------------


async def _topic(running: Running, topic: Topic) -> AsyncGenerator[Finding]:
    about = f"topic {topic.name}"
    engine = running.engine
    log = await engine.log(topic.name)
    if log is None and topic.owned:
        yield Finding("ok", about, "is made at the first start of this app")
    elif log is None:
        yield Finding("wrong", about, "does not exist, and nobody here declares it", "start its owner")
    else:
        count = log.generations[-1].partitions
        offsets, newest = await kept(engine, log)
        if topic.partitions not in (None, count):
            said = f"has {count} partitions, the code says {topic.partitions}"
            yield Finding("warn", about, said, "a new generation begins at the next start; or correct the code")
        else:
            yield Finding("ok", about, f"{count} partition{'' if count == 1 else 's'}, {offsets:,} offsets kept")
        allowed = running.settings.max_event_bytes
        if (limit := await engine.limit(topic.name)) is not None and limit < allowed:
            said = f"takes events of {limit:,} bytes, the settings allow {allowed:,} (max_event_bytes)"
            yield Finding("ok", about, f"{said}: larger ones are refused at publish")
        if (ahead := clock_ahead(topic.name, newest, running.clock.now())) is not None:
            yield ahead


async def _moved(running: Running) -> AsyncGenerator[Finding]:
    """What is said of topics that are in several engines, or go on in one that is unknown here."""
    for each in await placed(running):
        about, last = f"topic {each.topic}", each.parts[-1]
        if not each.complete:
            said = f"was moved to {last.goes_on}, which the settings do not name"
            yield Finding("wrong", about, said, "name it: EVENFLOW_ENGINES__NEW=its URL")
        elif last.sealed:
            yield Finding("wrong", about, "is being moved, and takes nothing", "give evenflow move once more")
        waiting = sorted({group for part in each.parts[:-1] for group, left in part.behind.items() if left})
        if waiting:
            said = f"has moved to {last.engine}; {', '.join(waiting)} still to finish what is elsewhere"
            yield Finding("warn", about, said, "evenflow move status")


async def kept(engine: Engine, log: Log) -> tuple[int, float | None]:
    """How many offsets are kept in all partitions, and the time of the newest event."""
    count, newest = 0, []
    for generation in log.generations:
        for partition in log.partitions(generation.number):
            low, high = await engine.bounds(partition)
            count += high - low
            last = await engine.read(partition, high - 1) if high > low else None
            newest += [] if last is None else [last[1].time]
    return count, max(newest, default=None)


def clock_ahead(topic: str, newest: float | None, now: float) -> Finding | None:
    """What is said where the newest event of a topic is not of the past."""
    if newest is None or newest - now <= AHEAD:
        return None
    remedy = "look whether this clock was set back, or another machine's is ahead"
    return Finding("warn", "clock", f"the newest event of {topic} is {newest - now:,.0f} s in the future", remedy)


# -- groups -----------------------------------------------------------------------------------------------------------


def _group(status: GroupStatus) -> Finding:
    about = f"group {status.group}"
    if status.state == "stopped":
        message, _, remedy = status.reason.partition("\n  → ")
        return Finding("wrong", about, f"is stopped: {message}", remedy)
    if status.state == "orphaned":
        remedy = f"evenflow groups rename {status.group} NEW\nevenflow groups drop {status.group}"
        return Finding("warn", about, "is in the store, and the code does not have it", remedy)
    backlog = "nobody can tell how many wait" if status.waiting is None else f"{status.waiting:,} waiting"
    backlog += f", the oldest {status.age:,.0f} s old" if status.age else ""
    idle = bool(status.waiting) and not status.owners
    if status.reason:
        return Finding("warn", about, f"is {status.reason}; {backlog}", f"evenflow groups resume {status.group}")
    if status.breaker is not None:
        remedy = f"evenflow groups resume {status.group}, to try at once"
        return Finding("warn", about, f"{status.breaker.told}; {backlog}", remedy)
    if status.dead:
        letters = "1 dead letter" if status.dead == 1 else f"{status.dead:,} dead letters"
        remedy = f"evenflow parked list --group {status.group}" + "\nevenflow run" * idle
        lot = f"{letters}, {status.parked:,} parked in all{FULL * status.full}"
        return Finding("warn", about, f"{lot}; {'no process works on it; ' * idle}{backlog}", remedy)
    if status.full:
        return Finding(
            "warn", about, f"{status.parked:,} parked{FULL}; {backlog}", "evenflow run" * (not status.owners)
        )
    if idle:
        return Finding("warn", about, f"no process works on it; {backlog}", "evenflow run")
    by = f", {', '.join(status.owners)}" if status.owners else ""
    parked = f", {status.parked:,} parked to be tried again" if status.parked else ""
    return Finding("ok", about, ("has not run yet" if status.state == "new" else f"{backlog}{parked}") + by)


# -- services ---------------------------------------------------------------------------------------------------------


async def _service(running: Running, service: str) -> list[Finding]:
    store, now = running.stores[service], running.clock.now()
    ((events, size, oldest, _first),) = await store.read(store.sql["outbox_size"])
    using = await live(running, store)
    relays = any(RELAY_GROUP in each.groups for each in using)
    about = f"outbox of {service}"
    age = 0.0 if oldest is None else max(0.0, now - oldest)
    found = []
    if not events:
        found.append(Finding("ok", about, "empty"))
    else:
        full = events >= running.settings.outbox_events or size >= running.settings.outbox_bytes
        late = full or age > LATE
        remedy = "look at the log of its processes" if relays else "evenflow run: it goes out when a process runs"
        said = f"{events:,} events wait, the oldest {age:,.0f} s" + (
            ", and it is full: publishing waits" if full else ""
        )
        found.append(Finding("wrong" if full and relays else "warn" if late else "ok", about, said, remedy * late))
    found += await _too_large(running, service)
    for each in await later(running):
        if each.service == service and each.next is not None:
            late = each.next < now - LATE
            when = f"the next was due {now - each.next:,.0f} s ago" if late else "evenflow schedules list shows them"
            found.append(Finding("warn" if late else "ok", about, f"{each.count:,} scheduled for later; {when}",
                                 "evenflow run" if late and not relays else ""))  # fmt: skip
    pids = ", ".join(str(each.pid) for each in using)
    found.append(Finding("ok", f"processes of {service}", f"pid {pids}" if pids else "none runs now"))
    return found


async def _too_large(running: Running, service: str) -> list[Finding]:
    """Events in the outbox that are over the limit of their topic: the relay sets them aside, so they are the first."""
    store, found = running.stores[service], list[Finding]()
    limits = dict[str, int | None]()
    for _, topic, body, _ in await store.read(store.sql["relay_next"], (RELAY_ROWS,)):
        if topic not in limits:
            limits[topic] = await running.engine.limit(topic) if await running.engine.log(topic) is not None else None
        limit = limits[topic]
        for each in unpack(body):
            if limit is not None and len(each.data) > limit and len(found) < TOO_LARGE:
                said = f"{named(each, topic)} has {len(each.data):,} bytes, the topic takes {limit:,}"
                remedy = (
                    "raise its limit (on Kafka max.message.bytes, and max_bytes= in the engine's URL): it goes out then"
                )
                behind = "it waits, with what follows it in its slot; others go on"
                found.append(Finding("wrong", f"outbox of {service}", f"{said}: {behind}", remedy))
    return found


def _schedule(each: Recurring, now: float) -> Finding:
    name = f"{each.service}.{each.name}"
    about = f"schedule {name}"
    if each.state == "orphaned":
        said = "is in the store, and the code does not have it: it does not run"
        return Finding("warn", about, said, f"evenflow groups drop {each.group}")
    if each.state == "paused":
        return Finding("warn", about, f"is {each.paused}", f"evenflow schedules resume {name}")
    if each.next is None:
        return Finding("ok", about, "has not run yet" if each.state == "new" else "has no next time")
    if each.last_due is not None and each.last_due > now + AHEAD:
        ahead = f"its last run was for a time that is {each.last_due - now:,.0f} s in the future"
        return Finding("warn", about, f"{ahead}: the clock was set back, and it waits", "look at this machine's clock")
    if each.next < now - LATE:
        said = f"was due {now - each.next:,.0f} s ago, and no process has run it"
        return Finding("warn", about, said, "evenflow run; or look at the log of its processes")
    return Finding("ok", about, f"{each.times}, next in {max(0.0, each.next - now):,.0f} s")


# -- the next start ---------------------------------------------------------------------------------------------------


async def _start(running: Running) -> list[Finding]:
    """What a start would refuse, as far as that is not said above."""
    found = []
    for service, store in running.stores.items():
        try:
            await check_outbox(running.relay_name(service), service, running.engine, store)
        except Refused as error:
            found.append(Finding("wrong", "start", error.message, error.remedy))
    for each in await homes(running):
        try:
            await _group_start(each)
        except (Refused, GroupStopped) as error:
            found.append(Finding("wrong", "start", error.message, error.remedy))
        except EvenflowError as error:
            found.append(Finding("wrong", "start", f"{each.group}: {error.message}", error.remedy))
    return found or [Finding("ok", "start", "nothing would be refused")]


async def _group_start(home: Home) -> None:
    """Raise what the start of a group would."""
    spec, store = home.spec, home.store
    assert spec is not None
    rows = [row for row in await store.read(store.sql["group_list"]) if row[0] == home.group]
    stopped = {row[1] for row in rows if row[3] == "stopped"}
    for topic, engine in home.engines:
        log = await engine.log(topic)
        if log is None or topic in stopped:
            continue
        if topic in {row[1] for row in rows}:
            await check_belongs(home.group, log, engine, store, home.service)
        elif spec.start is None and (await kept(engine, log))[0]:
            raise new_on_old(home.group, topic, spec.where)
