"""Import: parked events that were moved out come back to the places that they had.

Only those: the store remembers what it has given away, and of anything else nobody can tell whether it was handled
since. Nothing comes back after later events of its key were handled, unless a person says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

from evenflow.engine import Log, Partition
from evenflow.envelope import pack
from evenflow.errors import Refused
from evenflow.operate.carried import Line, digest, envelope_of
from evenflow.operate.finding import Home, home
from evenflow.operate.later import Ends, LaneName, Start, ends_of, gone_on
from evenflow.operate.letters import rows_of
from evenflow.operate.partitions import hand_on, logs_of, refuse_in_flight
from evenflow.redrive.redriving import learn
from evenflow.running import Running
from evenflow.store import Row, Session

ROWS = 2000
"""Events that one transaction puts back, or a whole lane."""
TRIES = 5
"""So often it is tried to see a group that is at work stand still."""

Place = tuple[int, int]
Records = dict[tuple[str, str, int, int], Row]


class Unfit(NamedTuple):
    """A lane that cannot come back, and why."""

    lane: str
    events: int
    reason: str


@dataclass(frozen=True, slots=True)
class Import:
    """What an import would do: `lanes` come back, `unfit` ones do not. `ends`: how far the group was at this look."""

    home: Home
    logs: Mapping[str, Log]
    records: Records
    lanes: Sequence[Sequence[Line]]
    unfit: Sequence[Unfit]
    late: bool
    ends: Ends = field(default_factory=dict)

    @property
    def events(self) -> int:
        return sum(map(len, self.lanes))


async def plan_import(running: Running, lines: Sequence[Line], *, late: bool = False) -> Import:
    """What it would be to take back these events, of one group.

    A lane is refused when it is not (any more) known to be out, when it was changed in the file, or (but for `late`)
    when later events of its key were handled meanwhile. Raises `NotFound`, `Refused`.
    """
    names = sorted({line.group for line in lines})
    if len(names) != 1:
        raise Refused(f"these are events of {len(names)} groups", remedy=f"--group {' or --group '.join(names)}")
    found = await home(running, names[0], orphan=False)
    await refuse_in_flight(found, "take events back")
    store, logs = found.store, await logs_of(found)
    lanes = [sorted(some, key=_place) for some in _by_lane(lines)]
    records = {row[:4]: row for row in await store.read(store.sql["carried_list"], (found.group,))}
    went = Counter(key[:2] for key in records)
    wrong = {_lane(lane): why for lane in lanes if (why := await _unfit(found, lane, records, went, logs))}
    plan = Import(found, logs, records, [lane for lane in lanes if _lane(lane) not in wrong], [], late)
    plan.ends.update(await ends_of(found, store.read))
    if not late:
        found_late = await _gone_on(plan, plan.lanes, plan.ends, {})
        wrong |= {lane: f"{why}, and it would come after" for lane, why in found_late.items()}
    plan = replace(
        plan,
        lanes=[lane for lane in lanes if _lane(lane) not in wrong],
        unfit=[Unfit(_name(lane), len(lane), wrong[_lane(lane)]) for lane in lanes if _lane(lane) in wrong],
    )
    await _refuse_full(found, plan)
    return plan


async def _unfit(
    found: Home, lane: Sequence[Line], records: Records, went: Counter[LaneName], logs: Mapping[str, Log]
) -> str:
    (topic, name), there = _lane(lane), await _places(found, _lane(lane))
    log = logs.get(topic)
    if len({_place(line) for line in lane}) < len(lane):
        return "the file holds one of its events twice"
    for line in lane:
        if _place(line) in there:
            return "it is there already"
        record = records.get((topic, name, *_place(line)))
        if record is None:
            return "it was not moved out of this store, or was taken back already, so it may have been handled"
        if log is None or record[5] != log.incarnation:
            return "the log that it came from is another by now"
        if record[6] != digest(
            envelope_of(line.envelope), None if line.original is None else envelope_of(line.original)
        ):
            return "it was changed in the file: take it back as it was, then `evenflow parked edit`"
    missing = went[topic, name] - len(lane)
    return f"the file does not hold all of its lane: {missing:,} more went out with it" if missing else ""


def _watched(lanes: Sequence[Sequence[Line]], records: Records) -> dict[Start, set[str]]:
    """Keys by the place from which on they were not held up."""
    found: dict[Start, set[str]] = {}
    for lane in lanes:
        if (key := lane[0].envelope.key) is not None:
            generation, partition, start = records[(*_lane(lane), *_place(lane[0]))][7:10]
            found.setdefault((lane[0].topic, generation, partition, start), set()).add(key)
    return found


async def _gone_on(plan: Import, lanes: Sequence[Sequence[Line]], ends: Ends, since: Ends) -> dict[LaneName, str]:
    there = {lane: await _places(plan.home, lane) for lane in map(_lane, lanes)}

    def known(lane: LaneName, generation: int, offset: int) -> bool:
        return (*lane, generation, offset) in plan.records or (generation, offset) in there.get(lane, ())

    return await gone_on(plan.home, plan.logs, _watched(lanes, plan.records), ends, known, since)


async def _places(found: Home, lane: LaneName) -> set[Place]:
    return {(each.generation, each.offset) for each in await rows_of(found, lane)}


async def _refuse_full(found: Home, plan: Import) -> None:
    assert found.spec is not None
    ((events, size),) = await found.store.read(found.store.sql["parked_lot"], (found.group,))
    policy = found.spec.policy
    more = sum(len(line.envelope.data or line.envelope.data_base64 or "") for lane in plan.lanes for line in lane)
    if events + plan.events > policy.parking or size + more > policy.parking_bytes:
        raise Refused(
            f"{events:,} events of {found.group!r} are parked; {plan.events:,} more are over what its policy allows",
            remedy="redrive or discard some first, or raise parking= or parking_bytes= of its policy",
        )


async def carry_out_import(running: Running, plan: Import, who: str) -> int:
    """Do what was planned; how many events are back. Each transaction puts back whole lanes.

    Raises `Refused` where something has changed since the plan; what is back by then stays.
    """
    done, part = 0, list[Sequence[Line]]()
    for number, lane in enumerate(plan.lanes, 1):
        part.append(lane)
        if number == len(plan.lanes) or sum(map(len, part)) >= ROWS:
            await _bring_back(running, plan, part, who)
            done += sum(map(len, part))
            part = []
    return done


async def _bring_back(running: Running, plan: Import, lanes: Sequence[Sequence[Line]], who: str) -> None:
    """Put lanes back, if no later event of their keys is handled up to this very transaction."""
    store = plan.home.store
    for _ in range(TRIES):
        places = await store.transact(partial(_handed_on, plan.home, lanes))  # which stops their owners for a moment
        ends = await ends_of(plan.home, store.read)
        late = {} if plan.late else await _gone_on(plan, lanes, ends, plan.ends)
        if late:
            lane, why = next(iter(late.items()))
            raise Refused(f"{lane[1]!r} cannot come back: {why} the plan", remedy="plan anew")
        stands = None if plan.late else {place: ends.get(place) for place in places}
        if await store.transact(partial(_put_back, running, plan, lanes, stands, who)):
            store.changed.set()
            return
    raise Refused(
        f"{plan.home.group!r} is so busy that nobody can tell whether these keys go on meanwhile",
        remedy=f"evenflow groups pause {plan.home.group}, then this, then evenflow groups resume {plan.home.group}",
    )


async def _handed_on(found: Home, lanes: Sequence[Sequence[Line]], session: Session) -> list[Partition]:
    rows = await session.fetch(found.store.sql["position_list"], (found.group,))
    return await hand_on(session, found, rows, [(lane[0].topic, lane[0].slot) for lane in lanes])


async def _put_back(
    running: Running,
    plan: Import,
    lanes: Sequence[Sequence[Line]],
    stands: Mapping[Partition, int | None] | None,
    who: str,
    session: Session,
) -> bool:
    """Whether it was done: the group has to stand where it was seen, if it was looked at."""
    found, sql, now = plan.home, plan.home.store.sql, running.clock.now()
    await session.fetch(sql["position_lock"], (found.group,))
    places = await _handed_on(found, lanes, session)
    if stands is not None:
        ends = await ends_of(found, session.fetch)
        if {place: ends.get(place) for place in places} != stands:
            return False
    await learn(session, sql, found.group)
    for lane in lanes:
        for line in lane:
            if await session.execute(sql["carried_remove"], (found.group, *_lane(lane), *_place(line))) != 1:
                raise Refused(f"{_name(lane)!r} was taken back by somebody else meanwhile", remedy="look again")
            await _insert(session, found, line)
        await session.execute(sql["parked_unhead"], (found.group, *_lane(lane)))
        subject = f"{found.group} {_lane(lane)[1]}"
        note = "1 event" if len(lane) == 1 else f"{len(lane):,} events"
        await session.execute(sql["audit_add"], (now, who, "parked import", subject, note))
    return True


async def _insert(session: Session, found: Home, line: Line) -> None:
    sql, packed = found.store.sql, pack([envelope_of(line.envelope)])
    original = None if line.original is None else pack([envelope_of(line.original)])
    where = (found.group, line.topic, line.lane, line.generation, line.offset)
    args = (
        *where, line.slot, line.partition, packed, int(line.head), line.attempts, line.error, line.error_type,
        line.first_failed, line.failed, line.parked, line.envelope.type, line.fingerprint, len(packed), original,
    )  # fmt: skip
    await session.execute(sql["parked_put_back"], args)
    for each in line.history:
        told = (each.attempt, each.at, each.process, each.error_type, each.error, each.fingerprint)
        await session.execute(sql["attempt_put_back"], (*where, *told))


def _lane(lane: Sequence[Line]) -> LaneName:
    return (lane[0].topic, lane[0].lane)


def _name(lane: Sequence[Line]) -> str:
    key = lane[0].envelope.key
    return key if key is not None else lane[0].lane


def _place(line: Line) -> Place:
    return (line.generation, line.offset)


def _by_lane(lines: Iterable[Line]) -> list[list[Line]]:
    ordered = sorted(lines, key=lambda each: (each.topic, each.lane))
    return [list(some) for _, some in groupby(ordered, key=lambda each: (each.topic, each.lane))]
