"""Parking: a failing event, and every later one of its key in this group, set aside in the store in log order.

A lane is a key, or a single event without one. Only the partition's owner, under its fence, adds to a lane, runs it
and frees it; a person's redrive or discard is a wish in the row of the lane's head, which the owner takes up.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from evenflow.clock import Clock
from evenflow.engine import Partition
from evenflow.envelope import Envelope, pack, unpack
from evenflow.errors import EvenflowError, FenceLost, GroupStopped
from evenflow.failure import Failure, describe, fingerprint, place_of, text_of
from evenflow.policy import Policy, ProcessEnded, Stop, after_failure
from evenflow.position import Owned
from evenflow.store import Row, Session, Statement, Store
from evenflow.unit_of_work import UnitOfWork

SUSPECT = 3
"""Claims of a partition without progress, after which an event may be what ended the processes."""
DOUBTED = 20
"""Lanes that are run one by one, each forewarned, by an owner to whom the partition came after so many claims."""
LANE_ROWS = 200
SLOT_LANES = 4
"""Due lanes of a slot that are taken at once at least, before it is another slot's turn."""


class ParkingFull(EvenflowError):
    """There is no place left to park an event: its partition waits."""


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """One parked event as its owner sees it. `told`: its present attempt was counted before it was begun."""

    generation: int
    offset: int
    slot: int
    partition: int
    envelope: Envelope
    size: int
    attempts: int
    wish: str | None
    error_type: str | None
    first_failed: float | None

    @property
    def told(self) -> bool:
        return self.error_type == ProcessEnded.__name__

    @property
    def attempt(self) -> int:
        """Which attempt its next, or present, call is."""
        return self.attempts if self.told else self.attempts + 1

    def tried(self) -> ParkedRow:
        """The same after one more attempt in place."""
        return replace(self, attempts=self.attempt, error_type=None)


@dataclass(frozen=True, slots=True)
class Due:
    """Lanes that may run now, and when there are more. `suspects`: those of them that may end their process."""

    lanes: list[str]
    suspects: set[str]
    next: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """One parked event as a person sees it. `due` None at the head of a lane: a dead letter.

    `key` is the key that it holds up, or None; `behind` tells that it waits for an earlier one of its key.
    """

    group: str
    topic: str
    key: str | None
    lane: str
    partition: int
    offset: int
    envelope: Envelope
    behind: bool
    due: float | None
    attempts: int
    error: str | None
    error_type: str | None
    wish: str | None
    first_failed: float | None
    failed: float | None
    parked: float

    @property
    def dead(self) -> bool:
        """Whether only a person can bring it back."""
        return not self.behind and self.due is None


def lane_of(envelope: Envelope, partition: Partition, offset: int) -> str:
    """What it holds up, and is held up by."""
    return f"k{envelope.key}" if envelope.key is not None else f"#{partition.generation}/{partition.number}/{offset}"


class Parking:
    """The parking lot of one group in this process: writes rows into units of work, reads them for running.

    `count` and `bytes` are of the whole group as last measured, and of what was added here since.
    """

    def __init__(self, group: str, store: Store, policy: Policy, clock: Clock, draw: Callable[[], float]) -> None:
        self.group = group
        self.store = store
        self.policy = policy
        self.clock = clock
        self.count = 0
        self.bytes = 0
        self._draw = draw
        self._process = f"{os.uname().nodename}:{os.getpid()}"
        self._served: dict[Partition, int] = {}  # the slot whose lanes were taken last

    async def measure(self) -> None:
        """See how much is parked, also by other processes."""
        ((self.count, self.bytes),) = await self.store.read(self.store.sql["parked_lot"], (self.group,))

    def full(self, share: float = 1.0) -> bool:
        """Whether the limits of the policy are reached, or this share of them."""
        policy = self.policy
        return self.count >= share * policy.parking or self.bytes >= share * policy.parking_bytes

    async def lanes(self, owned: Owned) -> set[str]:
        """All lanes of the slots that this partition stands for."""
        return {row[0] for row in await self.store.read(self.store.sql["parked_lanes"], owned.share)}

    async def due(self, owned: Owned, limit: int, without: Collection[str] = ()) -> Due:
        """Lanes whose head may run now, but for these: slot by slot in turns, in each the longest due first."""
        now, slots = self.clock.now(), await self.store.read(self.store.sql["parked_slots"], owned.share)
        waiting = sorted(slot for slot, first in slots if first <= now)
        later = min((first for _, first in slots if first > now), default=None)
        if not waiting or limit <= 0:
            return Due([], set(), now if waiting else later)
        last = self._served.get(owned.partition, -1)
        waiting.sort(key=lambda slot: (slot <= last, slot))
        share = max(SLOT_LANES, limit // len(waiting))
        due = Due([], set(), now)
        for slot in waiting:
            most = min(share, limit - len(due.lanes))
            args = (*owned.share[:2], slot, now, most + len(without))
            found = [row for row in await self.store.read(self.store.sql["parked_due"], args) if row[0] not in without]
            due.lanes.extend(lane for lane, _ in found[:most])
            due.suspects.update(lane for lane, kind in found[:most] if kind == ProcessEnded.__name__)
            self._served[owned.partition] = slot
            if len(due.lanes) >= limit:
                break
        if owned.claims >= SUSPECT and owned.doubted < DOUBTED:
            owned.doubted += len(due.lanes)
            due.suspects.update(due.lanes)
        return due

    async def next_due(self, owned: Owned) -> float | None:
        """When the next head of these slots is due, in Unix time."""
        slots = await self.store.read(self.store.sql["parked_slots"], owned.share)
        return slots[0][1] if slots else None

    async def rebase(self, owned: Owned, guard: Statement) -> None:
        """Let what waits for a time of before the clock was set back wait from now on."""

        async def work(session: Session) -> None:
            if await session.execute(*guard) != 1:
                raise FenceLost("another owner has taken the partition")
            await session.execute(self.store.sql["parked_rebase"], (*owned.share, self.clock.now()))

        await self.store.transact(work)

    def judge(
        self,
        error: BaseException,
        attempt: int = 1,
        *,
        first_failed: float | None = None,
        earlier: Failure | None = None,
    ) -> Failure:
        """What follows from an attempt that failed. Raises `GroupStopped` for an error that stops the group."""
        now = self.clock.now()
        if first_failed is None:
            first_failed = now if earlier is None else next(earlier.history()).at
        self.stop_for(error)
        decision = after_failure(error, attempt, self.policy, age=now - first_failed, draw=self._draw())
        return Failure(error, attempt, decision, now, earlier)

    def stop_for(self, error: BaseException) -> None:
        """Raise `GroupStopped` for an error that stops the group."""
        if after_failure(error, 1, self.policy) == Stop():
            place = place_of(error)
            raise GroupStopped(
                f"its handler has raised {type(error).__name__}: {text_of(error)}" + (f", {place}" if place else ""),
                remedy=f"put it right, then: evenflow groups resume {self.group}",
            ) from error

    # -- writing, into a unit of work ------------------------------------------------------------------------------

    def behind(self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str) -> None:
        """Set an event aside because an earlier one of its key is."""
        self._add(unit, owned, offset, envelope, lane, (0, None, *_NEVER))

    def first(self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str) -> None:
        """Set an event aside that was to stand behind another, which is done by now: it may run at once."""
        self._add(unit, owned, offset, envelope, lane, (1, self.clock.now(), *_NEVER))

    def failed(
        self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str, failure: Failure
    ) -> None:
        """Set an event aside that has failed for the first time."""
        told = _told(failure)
        first = next(failure.history()).at
        self._add(unit, owned, offset, envelope, lane, (1, failure.due, failure.counted, *told, first, failure.at))
        topic, generation, _ = owned.partition
        self._history(unit, (self.group, topic, lane, generation, offset), failure, told)

    def running(self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str) -> ParkedRow:
        """Set an event aside that is being worked on; it is tried again, and that counted, should this process end."""
        failure = Failure(ProcessEnded(), 1, after_failure(ProcessEnded(), 1, self.policy), self.clock.now())
        told, due = _told(failure), failure.at + self.policy.timeout
        self._add(unit, owned, offset, envelope, lane, (1, due, 1, *told, None, None))
        topic, generation, number = owned.partition
        self._history(unit, (self.group, topic, lane, generation, offset), failure, told)
        return ParkedRow(generation, offset, envelope.slot, number, envelope, 0, 1, None, told[1], None)

    async def forewarn(self, owned: Owned, lane: str, guard: Statement) -> bool:
        """Count an attempt before it is made, since the one before may have ended its process: so may this one.

        False for one that is not to be made: it was the last that the policy allows, and has not told how it ended.
        """
        topic, sql = owned.partition.topic, self.store.sql
        row = (await self.firsts(self.store.read, topic, (lane,))).get(lane)
        if row is None or row.wish == "discard":
            return True
        over = row.told and row.wish is None and row.attempts >= self.policy.attempts
        failure = self.judge(ProcessEnded(), row.attempts + (not over), first_failed=row.first_failed)
        due = None if over else failure.due or failure.at + self.policy.timeout
        place, told = (self.group, topic, lane, row.generation, row.offset), _told(failure)

        async def work(session: Session) -> None:
            if await session.execute(*guard) != 1:
                raise FenceLost("another owner has taken the partition")
            await session.execute(sql["parked_forewarned"], (*place, due, failure.attempt, *told))
            if not over:
                await session.execute(sql["attempt_add"], self._attempt(place, failure, told))

        await self.store.transact(work)
        return not over

    def _add(
        self,
        unit: UnitOfWork,
        owned: Owned,
        offset: int,
        envelope: Envelope,
        lane: str,
        state: tuple[int, float | None, int, str | None, str | None, str | None, float | None, float | None],
    ) -> None:
        if self.full():
            raise ParkingFull(f"{self._size()} of {self.group} are parked, which is the limit of its policy")
        head, due, attempts, error, kind, mark, first_failed, failed = state
        topic, generation, partition = owned.partition
        packed = pack([envelope])
        args = (
            self.group, topic, lane, generation, offset, envelope.slot, partition, packed, head, due, attempts,
            error, kind, first_failed, failed, self.clock.now(), envelope.type, len(packed), mark,
        )  # fmt: skip
        unit.hand_over(self.store.sql["parked_add"], args)
        self.count += 1
        self.bytes += len(packed)

    def _size(self) -> str:
        of_bytes = self.bytes >= self.policy.parking_bytes
        return f"{self.bytes} bytes in {self.count} events" if of_bytes else f"{self.count} events"

    def failed_again(self, unit: UnitOfWork, topic: str, lane: str, row: ParkedRow, failure: Failure) -> None:
        """The head of a lane, or the next that became its head, has failed once more."""
        place, told = (self.group, topic, lane, row.generation, row.offset), _told(failure)
        first = next(failure.history()).at
        args = (*place, failure.due, failure.counted, *told, first, failure.at)
        unit.hand_over(self.store.sql["parked_failed"], args)
        self._history(unit, place, failure, told, begun=row.told)

    def _history(self, unit: UnitOfWork, place: Place, failure: Failure, told: Told, *, begun: bool = False) -> None:
        """Write down what failed; `begun`: that the first of it was begun is written already."""
        for each in failure.history():
            sql = self.store.sql["attempt_told" if begun else "attempt_add"]
            unit.hand_over(sql, self._attempt(place, each, told if each is failure else _told(each)))
            begun = False

    def _attempt(self, place: Place, failure: Failure, told: Told) -> tuple[object, ...]:
        error, kind, mark = told
        return (*place, failure.at, self._process, kind, error, mark)

    def remove(self, unit: UnitOfWork, topic: str, lane: str, row: ParkedRow) -> None:
        """This event is done."""
        unit.hand_over(self.store.sql["parked_remove"], (self.group, topic, lane, row.generation, row.offset))
        self.count -= 1
        self.bytes -= row.size

    def undo(self, unit: UnitOfWork, owned: Owned, lane: str, offset: int) -> None:
        """Take out again what this unit has set aside: the log brings it once more."""
        topic, generation, _ = owned.partition
        unit.hand_over(self.store.sql["parked_remove"], (self.group, topic, lane, generation, offset))
        self.count -= 1

    def head(self, unit: UnitOfWork, topic: str, lane: str, row: ParkedRow) -> None:
        """This event is the first of its lane now, and may run at once."""
        now = self.clock.now()
        unit.hand_over(self.store.sql["parked_head"], (self.group, topic, lane, row.generation, row.offset, now))

    async def firsts(self, read: Read, topic: str, lanes: Sequence[str]) -> dict[str, ParkedRow]:
        """The first event of each of these lanes, as far as they hold any."""
        rows = await read(self.store.sql["parked_firsts"], (self.group, topic, _json(lanes).decode()))
        return {row[-1]: parked_row(row[:-1]) for row in rows}

    async def rows(self, session: Session, topic: str, lane: str, limit: int = LANE_ROWS) -> list[ParkedRow]:
        """The first events of a lane, in order."""
        rows = await session.fetch(self.store.sql["parked_lane"], (self.group, topic, lane, limit))
        return [parked_row(row) for row in rows]


Read = Callable[[str, tuple[object, ...]], Awaitable[list[Row]]]
_json = msgspec.json.Encoder().encode
Place = tuple[str, str, str, int, int]
"""Group, topic, lane, generation, offset."""
Told = tuple[str, str, str]
"""An error's description, its type, its fingerprint."""
_NEVER = (0, None, None, None, None, None)


def _told(failure: Failure) -> Told:
    error = failure.error
    return describe(error), type(error).__name__, fingerprint(error)


def parked_row(row: Row) -> ParkedRow:
    """A row of `parked_lane`."""
    generation, offset, slot, partition, packed, attempts, wish, error_type, first_failed = row
    envelope = unpack(packed)[0]
    return ParkedRow(
        generation, offset, slot, partition, envelope, len(packed), attempts, wish, error_type, first_failed
    )


def parked(group: str, row: Row) -> Parked:
    """A row of `parked_list`."""
    (topic, lane, _generation, partition, offset, packed, head, due, attempts, error, error_type, wish,
     first_failed, failed, at) = row  # fmt: skip
    (envelope,) = unpack(packed)
    return Parked(
        group=group, topic=topic, key=envelope.key, lane=lane, partition=partition, offset=offset, envelope=envelope,
        behind=not head, due=due, attempts=attempts, error=error, error_type=error_type, wish=wish,
        first_failed=first_failed, failed=failed, parked=at,
    )  # fmt: skip


async def ask(store: Store, group: str, heads: Sequence[Parked], wish: str, who: str, clock: Clock) -> int:
    """A person's wish for dead letters, each the head of its lane: "redrive" or "discard". How many it met."""
    now = clock.now()

    async def work(session: Session) -> int:
        count = 0
        for head in heads:
            changed = await session.execute(store.sql["parked_wish"], (group, head.topic, head.lane, wish, now))
            if changed:
                await session.execute(store.sql["audit_add"], (now, who, f"parked {wish}", f"{group} {head.lane}", ""))
            count += changed
        return count

    changed = await store.transact(work)
    store.changed.set()
    return changed
