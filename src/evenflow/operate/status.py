"""How groups stand: all in a line each, one with its partitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evenflow.engine import Backlog, Engine, Log, Partition
from evenflow.handler import Kind
from evenflow.operate.finding import Home, home, homes, may_live, orphans
from evenflow.pausing import WHOLE, Pause, covers, pauses_of
from evenflow.policy import Policy
from evenflow.position import decode_settled
from evenflow.protection.breaker import CLOSED, due_in, told
from evenflow.protection.breaker_shared import state_of
from evenflow.protection.limiting import Limit
from evenflow.report import Promise, promise_of
from evenflow.running import Running
from evenflow.store import Process, Row, Store

State = Literal["new", "running", "stopped", "paused", "orphaned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStatus:
    """A breaker that is not closed. `next_probe`: seconds until one event is tried, 0 while one is.

    state   "open" or "half-open"
    reason  the error that it opened for last
    told    all of it in a line
    """

    state: str
    next_probe: float
    reason: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """How a group stands. `owners` are the live processes that work on it.

    state    "new": no process has run it yet; "stopped": it cannot go on without a person; "paused": a person has
             said so, of all of it; "orphaned": the code does not have it
    reason   why it is stopped, or which pauses there are
    taken    how many offsets of the log it is done with, in all its partitions: two looks give its rate
    waiting  events in the log that it is not done with; None where nobody can tell, since its log is another now
    age      seconds since the oldest of them was published, None when none waits
    parked   events set aside; `dead` of them are dead letters, which only a person brings back
    full     whether that is as many as its policy allows: a partition whose next event fails waits
    breaker  how its breaker stands, None while that is closed
    """

    group: str
    kind: str
    topics: tuple[str, ...]
    state: State
    reason: str
    owners: tuple[str, ...]
    taken: int
    waiting: int | None
    age: float | None
    parked: int
    dead: int
    full: bool
    breaker: BreakerStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """How a group stands in one partition. `position` is the next offset, `end` the one that the next event gets.

    state    "running", "paused", "free" (no live process owns it), "waits" (for an earlier generation to be read), or
             "read" (all of it, and a later generation follows); "lost" is one that the log does not hold as it was read
    claims   how often it was claimed without progress since; from 3 on its events are tried one by one
    """

    topic: str
    generation: int
    partition: int
    position: int
    low: int
    end: int
    waiting: int
    age: float | None
    owner: str | None
    fence: int
    claims: int
    parked: int
    dead: int
    state: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDetail:
    """All of a group. `where` is "file:line" of its handler; an orphan has none, and no promise.

    lineage  the name that the ids of its published events derive from: the one that it had before it was renamed
    stopped  by topic, why it is stopped there
    limit    how often its handler is called at most, as the code says
    """

    status: GroupStatus
    service: str
    handler: str
    where: str
    promise: Promise | None
    lineage: str
    pauses: tuple[Pause, ...]
    stopped: Mapping[str, str]
    partitions: tuple[PartitionStatus, ...]
    limit: Limit | None = None


async def groups(running: Running) -> list[GroupStatus]:
    """How each group stands: those of the app in the order of the code, then those that it does not have."""
    return [await _status(running, each) for each in [*await homes(running), *await orphans(running)]]


async def group(running: Running, name: str) -> GroupDetail:
    """How one group stands. Raises `NotFound`."""
    found = await home(running, name)
    spec, store = found.spec, found.store
    derives = await store.read(store.sql["lineage"], (found.group,))
    states = await _states(found)
    return GroupDetail(
        status=await _status(running, found),
        service=found.service,
        handler="" if spec is None else spec.function.__qualname__,
        where="" if spec is None else spec.where,
        promise=None if spec is None else promise_of(spec, found.engines[0][1], store),
        lineage=derives[0][0] if derives else found.group,
        pauses=pauses_of(found.group, await store.read(store.sql["pause_list"])),
        stopped={row[1]: row[4] or "" for row in states if row[3] == "stopped"},
        partitions=tuple(await _partitions(running, found)),
        limit=None if spec is None else spec.limit,
    )


async def _states(home: Home) -> list[Row]:
    return [row for row in await home.store.read(home.store.sql["group_list"]) if row[0] == home.group]


async def _status(running: Running, home: Home) -> GroupStatus:
    group, store, spec = home.group, home.store, home.spec
    rows = await store.read(store.sql["position_list"], (group,))
    states = await _states(home)
    pauses = pauses_of(group, await store.read(store.sql["pause_list"]))
    stopped = [row[4] or "" for row in states if row[3] == "stopped"]
    waiting, oldest = await _waiting(home, rows, states)
    settled = await _settled(home)
    ((parked, dead),) = await store.read(store.sql["parked_size"], (group,))
    return GroupStatus(
        group=group,
        kind="" if spec is None else spec.kind.value,
        topics=tuple(topic for topic, _ in home.engines),
        state=_state(home, stopped, pauses, states),
        reason=stopped[0] if stopped else "; ".join(map(str, pauses)),
        owners=tuple(_named(each) for each in await _owners(store, rows)),
        taken=sum(row[4] for row in rows) + settled,
        waiting=None if waiting is None else max(0, waiting - settled),
        age=None if oldest is None else max(0.0, running.clock.now() - oldest),
        parked=parked,
        dead=dead,
        full=spec is not None and parked > 0 and await _full(store, group, spec.policy),
        breaker=await _breaker(running, home),
    )


async def _breaker(running: Running, home: Home) -> BreakerStatus | None:
    rows = await home.store.read(home.store.sql["breaker_get"], (home.group,))
    state, now = state_of(rows[0]) if rows else CLOSED, running.clock.now()
    if state.closed:
        return None
    wait = due_in(state, now) if state.state == "open" else 0.0
    return BreakerStatus(state=state.state, next_probe=wait, reason=state.reason, told=told(state, now))


async def _full(store: Store, group: str, policy: Policy) -> bool:
    ((events, size),) = await store.read(store.sql["parked_lot"], (group,))
    return bool(events >= policy.parking or size >= policy.parking_bytes)


def _state(home: Home, stopped: Sequence[str], pauses: Iterable[Pause], states: Sequence[Row]) -> State:
    if home.spec is None:
        return "orphaned"
    if stopped:
        return "stopped"
    if any(pause.partition == WHOLE for pause in pauses):
        return "paused"
    return "running" if states else "new"


async def _owners(store: Store, rows: Sequence[Row]) -> list[Process]:
    named = {row[7] for row in rows}
    return [each for each in await store.processes() if each.id in named and may_live(each)]


def _named(process: Process) -> str:
    return f"pid {process.pid}"


# -- what waits -------------------------------------------------------------------------------------------------------


async def _waiting(home: Home, rows: Sequence[Row], states: Sequence[Row]) -> tuple[int | None, float | None]:
    """Events that wait, and the time of the oldest; None where the log is not the one that the group has read."""
    waiting, oldest, unknown = 0, [], False
    logs = {row[1]: row[2] for row in states}
    for topic, engine in home.engines:
        log = await engine.log(topic)
        if log is None or logs.get(topic, log.incarnation) != log.incarnation:
            unknown = unknown or topic in logs
            continue
        positions = await _positions(log, engine, rows)
        for partition, backlog in (await engine.backlog(positions)).items():
            unknown = unknown or positions[partition] > (await engine.bounds(partition)).high
            waiting += backlog.waiting
            oldest += [] if backlog.oldest is None else [backlog.oldest]
    return None if unknown else waiting, min(oldest, default=None)


async def _settled(home: Home) -> int:
    """How many events a waiting group has done beyond its positions, which stand at the oldest that is not done."""
    if home.spec is None or home.spec.kind is not Kind.LANES:
        return 0
    rows = await home.store.read(home.store.sql["position_settled"], (home.group,))
    return sum(len(decode_settled(row[0])) for row in rows)


async def _positions(log: Log, engine: Engine, rows: Sequence[Row]) -> dict[Partition, int]:
    """Where the group stands in every partition that it reads or is going to read."""
    stands = {Partition(log.topic, row[2], row[3]): row[4] for row in rows if row[:2] == (log.topic, log.incarnation)}
    current = max((partition.generation for partition in stands), default=0)
    positions = {p: offset for p, offset in stands.items() if p.generation == current}
    for generation in log.generations:
        if generation.number > current:
            for partition in log.partitions(generation.number):
                positions[partition] = (await engine.bounds(partition)).low
    held = {p for generation in log.generations for p in log.partitions(generation.number)}
    return {p: offset for p, offset in positions.items() if p in held}


# -- partitions -------------------------------------------------------------------------------------------------------


async def _partitions(running: Running, home: Home) -> list[PartitionStatus]:
    rows = await home.store.read(home.store.sql["position_list"], (home.group,))
    owners = {each.id: each for each in await _owners(home.store, rows)}
    pauses = pauses_of(home.group, await home.store.read(home.store.sql["pause_list"]))
    spread = await home.store.read(home.store.sql["parked_spread"], (home.group,))
    found = []
    for topic, engine in home.engines:
        log = await engine.log(topic)
        ours = {Partition(topic, row[2], row[3]): row for row in rows if row[0] == topic and log is not None
                and row[1] == log.incarnation}  # fmt: skip
        if log is None or not ours:
            continue
        positions = await _positions(log, engine, rows)
        backlog = await engine.backlog(positions)
        current = max(partition.generation for partition in ours)
        for partition, position in positions.items():
            row = ours.get(partition)
            low, high = await engine.bounds(partition)
            owner = None if row is None else owners.get(row[7])
            state, why = _stands(partition, position, (low, high), current, owner, pauses)
            count = len(log.partitions(partition.generation)) if partition.generation == current else 0
            lot = [each for each in spread if count and each[0] == topic and each[1] % count == partition.number]
            waits: Backlog = backlog[partition]
            found.append(PartitionStatus(
                topic=topic, generation=partition.generation, partition=partition.number,
                position=position, low=low, end=high, waiting=waits.waiting,
                age=None if waits.oldest is None else max(0.0, running.clock.now() - waits.oldest),
                owner=None if owner is None else _named(owner),
                fence=0 if row is None else row[6], claims=0 if row is None else row[8],
                parked=sum(each[2] for each in lot), dead=sum(each[3] for each in lot), state=state, why=why,
            ))  # fmt: skip
    return found


def _stands(
    partition: Partition,
    position: int,
    bounds: tuple[int, int],
    current: int,
    owner: Process | None,
    pauses: Sequence[Pause],
) -> tuple[str, str]:
    low, high = bounds
    if position > high:
        return "lost", f"the log ends at {high}: it has lost its end, or is another"
    if position < low:
        return "lost", f"retention has removed what stood before {low}: {low - position:,} events were not read"
    if covers(pauses, partition):
        return "paused", "; ".join(str(each) for each in pauses if each.partition in (WHOLE, partition))
    if partition.generation > current:
        return "waits", f"generation {current} is read first"
    return ("running", "") if owner is not None else ("free", "no live process owns it")
