"""Parking: a failing event, and every later one of its key in this group, set aside in the store in log order.

A lane is a key, or a single event without one. Only the partition's owner, under its fence, adds to a lane, runs it
and frees it; a person's redrive or discard is a wish in the row of the lane's head, which the owner takes up.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from evenflow.clock import Clock
from evenflow.engine import Partition
from evenflow.envelope import Envelope, pack, unpack
from evenflow.errors import EvenflowError, FenceLost
from evenflow.policy import DeadLetter, Policy, Retry, after_failure
from evenflow.position import Owned
from evenflow.store import Row, Session, Statement, Store
from evenflow.unit_of_work import UnitOfWork

ERROR_LIMIT = 4000
SUSPECT = 3
"""Claims of a partition without progress, after which an event may be what ended the processes."""
LANE_ROWS = 200


class ProcessEnded(Exception):
    """The process ended while it worked on this event: recorded as its error, never raised by a handler."""

    def __init__(self) -> None:
        super().__init__("it was begun, and its process has not told how it ended")


class ParkingFull(EvenflowError):
    """There is no place left to park an event: its partition waits."""


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """One parked event as its owner sees it."""

    generation: int
    offset: int
    slot: int
    partition: int
    envelope: Envelope
    attempts: int
    wish: str | None
    error_type: str | None


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


def describe(error: BaseException) -> str:
    """An error as a person wants to read it: its text, and where in the user's code it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    where = "".join(f"\n  {f.filename}:{f.lineno} in {f.name}" for f in frames if _users(f.filename))
    return (f"{type(error).__name__}: {error}" + where)[:ERROR_LIMIT]


def _users(filename: str) -> bool:
    return "/evenflow/" not in filename and not filename.startswith("<")


class Parking:
    """The parking lot of one group in this process: writes rows into units of work, reads them for running."""

    def __init__(self, group: str, store: Store, policy: Policy, clock: Clock) -> None:
        self.group = group
        self.store = store
        self.policy = policy
        self.clock = clock
        self.count = 0

    async def measure(self) -> None:
        """See how many are parked, also by other processes."""
        self.count = (await self.store.read(self.store.sql["parked_count"], (self.group,)))[0][0]

    async def lanes(self, owned: Owned) -> set[str]:
        """All lanes of the slots that this partition stands for."""
        return {row[0] for row in await self.store.read(self.store.sql["parked_lanes"], owned.share)}

    async def due(self, owned: Owned, limit: int) -> list[str]:
        """Lanes whose head may run now, the longest due first."""
        sql = self.store.sql["parked_due"]
        return [row[0] for row in await self.store.read(sql, (*owned.share, self.clock.now(), limit))]

    async def next_due(self, owned: Owned) -> float | None:
        """When the next head of these slots is due, in Unix time."""
        due: float | None = (await self.store.read(self.store.sql["parked_next_due"], owned.share))[0][0]
        return due

    # -- writing, into a unit of work ------------------------------------------------------------------------------

    def behind(self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str) -> None:
        """Set an event aside because an earlier one of its key is."""
        self._add(unit, owned, offset, envelope, lane, (0, None, 0, None, None, None))

    def first(self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str) -> None:
        """Set an event aside that was to stand behind another, which is done by now: it may run at once."""
        self._add(unit, owned, offset, envelope, lane, (1, self.clock.now(), 0, None, None, None))

    def failed(
        self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str, error: BaseException
    ) -> Retry | DeadLetter:
        """Set an event aside that has failed for the first time."""
        decision = after_failure(error, 1, self.policy)
        now = self.clock.now()
        due = now + decision.delay if isinstance(decision, Retry) else None
        self._add(unit, owned, offset, envelope, lane, (1, due, 1, describe(error), type(error).__name__, now))
        return decision

    def running(self, unit: UnitOfWork, owned: Owned, offset: int, envelope: Envelope, lane: str) -> None:
        """Set an event aside that is being worked on; it is tried again, and that counted, should this process end."""
        due = self.clock.now() + self.policy.timeout
        ended = ProcessEnded()
        self._add(unit, owned, offset, envelope, lane, (1, due, 1, describe(ended), type(ended).__name__, None))

    async def forewarn(self, owned: Owned, lane: str, guard: Statement) -> None:
        """Count an attempt before it is made, where the last one may have ended the process: so may this one."""
        topic = owned.partition.topic
        rows = await self.store.read(self.store.sql["parked_lane"], (self.group, topic, lane, 1))
        if not rows or (owned.claims < SUSPECT and rows[0][7] != ProcessEnded.__name__):
            return
        row = parked_row(rows[0])
        ended = ProcessEnded()
        decision = after_failure(ended, row.attempts + 1, self.policy)
        due = self.clock.now() + decision.delay if isinstance(decision, Retry) else None
        state = (due, row.attempts + 1, describe(ended), type(ended).__name__)
        args = (self.group, topic, lane, row.generation, row.offset, *state)

        async def work(session: Session) -> None:
            if await session.execute(*guard) != 1:
                raise FenceLost("another owner has taken the partition")
            await session.execute(self.store.sql["parked_attempt"], args)

        await self.store.transact(work)

    def _add(
        self,
        unit: UnitOfWork,
        owned: Owned,
        offset: int,
        envelope: Envelope,
        lane: str,
        state: tuple[int, float | None, int, str | None, str | None, float | None],
    ) -> None:
        if self.count >= self.policy.parking:
            raise ParkingFull(f"{self.count} events of {self.group} are parked, which is the limit of its policy")
        head, due, attempts, error, kind, failed = state
        topic, generation, partition = owned.partition
        args = (
            self.group, topic, lane, generation, offset, envelope.slot, partition, pack([envelope]),
            head, due, attempts, error, kind, failed, self.clock.now(),
        )  # fmt: skip
        unit.hand_over(self.store.sql["parked_add"], args)
        self.count += 1

    def failed_again(
        self, unit: UnitOfWork, topic: str, lane: str, row: ParkedRow, error: BaseException
    ) -> Retry | DeadLetter:
        """The head of a lane, or the next that became its head, has failed once more."""
        told = row.error_type == ProcessEnded.__name__  # counted when it began
        attempts = row.attempts if told else row.attempts + 1
        decision = after_failure(error, attempts, self.policy)
        now = self.clock.now()
        due = now + decision.delay if isinstance(decision, Retry) else None
        args = (
            self.group, topic, lane, row.generation, row.offset,
            due, attempts, describe(error), type(error).__name__, now,
        )  # fmt: skip
        unit.hand_over(self.store.sql["parked_failed"], args)
        return decision

    def remove(self, unit: UnitOfWork, topic: str, lane: str, row: ParkedRow) -> None:
        """This event is done."""
        unit.hand_over(self.store.sql["parked_remove"], (self.group, topic, lane, row.generation, row.offset))
        self.count -= 1

    def head(self, unit: UnitOfWork, topic: str, lane: str, row: ParkedRow) -> None:
        """This event is the first of its lane now, and may run at once."""
        now = self.clock.now()
        unit.hand_over(self.store.sql["parked_head"], (self.group, topic, lane, row.generation, row.offset, now))

    async def rows(self, session: Session, topic: str, lane: str, limit: int = LANE_ROWS) -> list[ParkedRow]:
        """The first events of a lane, in order."""
        rows = await session.fetch(self.store.sql["parked_lane"], (self.group, topic, lane, limit))
        return [parked_row(row) for row in rows]


def parked_row(row: Row) -> ParkedRow:
    """A row of `parked_lane`."""
    generation, offset, slot, partition, packed, attempts, wish, error_type = row
    return ParkedRow(generation, offset, slot, partition, unpack(packed)[0], attempts, wish, error_type)


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
