"""One group in one process: the loop that fetches, works, and gives partitions back. What work means is its kind's."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

import msgspec

from evenflow.clock import Signal
from evenflow.engine import Batch, Consumer, Partition
from evenflow.envelope import BY_PLACE, Envelope
from evenflow.errors import (
    EngineUnavailable,
    FenceLost,
    GroupStopped,
    SchemasUnavailable,
    StoreConflict,
    StoreUnavailable,
)
from evenflow.failure import clean, text_of
from evenflow.handler import Delivery
from evenflow.parking import Due, Parking
from evenflow.pausing import Pause, covers
from evenflow.policy import DeadLetter, Reject
from evenflow.position import Owned, Taking, guard, move
from evenflow.store import Session
from evenflow.unit_of_work import UnitOfWork
from evenflow.watching.watchdog import SLOW, Seen
from evenflow.work import Counters, Progress, Work

log = logging.getLogger("evenflow")
_json = msgspec.json.Encoder().encode

FETCH_BYTES = 1 << 20
IDLE = 1.0
"""Seconds that a group without events sleeps at most, before it looks at parked events and tells the engine."""
BACK_OFF = 0.5
DUE_TIME = 0.1
"""Seconds after which what the log brings has its turn, however many lanes are due."""
ROOM_AGAIN = 0.9
"""Share of the parking lot below which it is said again that it is full."""
PRUNE_EVERY = 1000
FORGET_PROCESS = 86400.0


class GroupLoop(ABC):
    """Fetches for one group in one process, and does the work. Ownership gives it partitions and takes them back."""

    look_again = 0.0
    """Seconds until lanes that are still due after a look are looked at again."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.spec = work.spec
        self.name = work.spec.group
        self.lineage = self.name
        """The name that the ids of published events derive from: as it was before the group was renamed."""
        self.owned: dict[Partition, Owned] = {}
        self.counters = Counters()
        self.parking = Parking(self.name, work.store, work.spec.policy, work.clock, work.draw)
        self.trouble = ""
        self.stopped = ""
        self.pauses: tuple[Pause, ...] = ()
        self.busy = False
        self.rounds = 0
        self.consumer: Consumer = work.engine.consumer(self.name)
        self.lost = Signal()
        self._given: list[Owned] = []
        self._giving: dict[Partition, None] = {}
        self._blocked: dict[Partition, float] = {}
        self._stopping = False
        self._publishes = False
        self._unprepared = False
        self._told: dict[Partition, int] = {}
        self._tell_at = 0.0
        self._due_at = 0.0
        self._due_turn = 0
        self._last_due = 0.0
        self._full = False
        """Whether it was said that the parking lot is full."""
        self._writing = asyncio.Lock()  # one transaction of a position at a time
        self._sql = work.store.sql

    # -- what ownership asks of it ----------------------------------------------------------------------------------

    def give(self, owned: Owned) -> None:
        """This partition is ours: read it from its position."""
        self._given.append(owned)
        self.wake()

    def take_back(self, partition: Partition) -> None:
        """Finish what is begun of this partition, and release it."""
        if partition in self.owned:
            self._giving[partition] = None
            self.wake()

    def forget(self, partition: Partition) -> None:
        """This partition is another's already: drop it."""
        if self.owned.pop(partition, None) is not None:
            self.consumer.release(partition)
            self._giving.pop(partition, None)
            self._blocked.pop(partition, None)
            self.dropped(partition)
            self.lost.set()

    def stop(self) -> None:
        """Finish what is begun, release everything, and end the loop."""
        self._stopping = True
        self.wake()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    def holds(self, partition: Partition) -> bool:
        """Whether this process believes that it owns the partition."""
        return partition in self.owned or any(each.partition == partition for each in self._given)

    def pause(self, pauses: tuple[Pause, ...]) -> None:
        """What is paused of it from now on. Ownership takes it back, and gives it again when it is resumed."""
        if pauses != self.pauses:
            for each in pauses:
                if each not in self.pauses:
                    log.warning("group %s is %s\n  → evenflow groups resume %s", self.name, each, self.name)
            if not pauses:
                log.info("group %s is resumed", self.name)
        self.pauses = pauses

    def paused(self, partition: Partition) -> bool:
        """Whether a person has paused it."""
        return bool(self.pauses) and covers(self.pauses, partition)

    def wake(self) -> None:
        """Look around now, whatever is waited for."""
        self.consumer.wake()

    # -- what the watchdog asks of it -------------------------------------------------------------------------------

    def held(self) -> list[Owned]:
        """The partitions that it owns, and those that it was given and has not begun with."""
        return [*self.owned.values(), *self._given]

    def seen(self, owned: Owned) -> Seen:
        """How a partition stands."""
        counters = self.counters
        work = counters.handled + counters.failed
        moved = (owned.fence, owned.next, work if owned.lanes else 0, self.moves(owned.partition))
        life = (work, counters.skipped, counters.duplicates, self.signs())
        busy = max(self.spec.policy.timeout, SLOW) if self.busy else 0.0
        return Seen(moved, self.rounds, life, self.excuse(owned.partition), busy)

    def excuse(self, partition: Partition) -> str:
        """Why a partition may stand still now, or ""."""
        if self.stopped or self.paused(partition):
            return "it is stopped or paused"
        if partition in self._blocked or self._unprepared:
            return self.trouble or "it waits"
        return "the outbox is full" if self._publishes and self.work.outbox.full else ""

    def moves(self, partition: Partition) -> Hashable:  # noqa: ARG002  # of other kinds
        """Another one after every movement of this partition but those of its position."""
        return None

    def signs(self) -> int:
        """Another one after every sign of life of what it does, beside what it counts."""
        return 0

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """The tasks that it cannot do without, beside the one that `run` is in."""
        return ()

    def leave(self) -> None:
        """Give up everything without touching it, and end whenever it can."""
        self._stopping = True
        self._given.clear()
        for partition in list(self.owned):
            self.forget(partition)

    def renewed(self) -> GroupLoop:
        """Another loop to run in the place of this one, with a consumer of its own and no partition yet."""
        fresh = type(self)(self.work)
        fresh.counters, fresh.lineage, fresh.pauses = self.counters, self.lineage, self.pauses
        fresh.stopped, fresh.trouble, fresh._publishes = self.stopped, self.trouble, self._publishes
        return fresh

    def look(self) -> None:
        """There may be a new wish or a due event among the parked: look at once."""
        self._due_at = 0.0
        self.wake()

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`. Trouble is waited out; a mistake of ours is logged, and the partitions are claimed anew."""
        while True:
            try:
                try:
                    if await self._round():
                        break
                except StoreConflict:
                    await self.undone()
            except (EngineUnavailable, StoreUnavailable) as error:
                self._trouble(error.message)
                await self._start_again()
            except FenceLost:
                await self._start_again()
            except GroupStopped as error:
                await self.halt(error)
            except Exception as error:
                log.exception("group %s: unexpected, claiming its partitions anew", self.name)
                self._trouble(f"{type(error).__name__}: {error}")
                await self._start_again()
        await self.consumer.close()

    async def _round(self) -> bool:
        """One fetch and the work on it; whether the loop is over."""
        self.rounds += 1
        self._take_given()
        if self._stopping:
            self._giving.update(dict.fromkeys(self.owned))
        for partition in list(self._giving):
            await self._release(partition)
        if self._stopping and not self.owned and not self._given:
            return True
        if self._publishes and self.work.outbox.full:
            return await self._wait_for_outbox()
        wait = min(await self._run_due(), await self._unblock(), IDLE)
        await self._tell(force=False)
        await self.before_fetch()
        limit = self.room()
        self.busy = False
        batches = await self.consumer.fetch(limit, FETCH_BYTES, wait) if limit > 0 else await self.no_room(wait)
        self.busy = True
        if batches and (self.work.prepare is None or await self._prepared(batches)):
            await self.handle([each for each in batches if each.partition in self.owned])
            if not self._blocked:
                self.trouble = ""
        await asyncio.sleep(0)  # nothing above need have waited: others have their turn
        return False

    async def _prepared(self, batches: Sequence[Batch]) -> bool:
        """Wait for what reading these needs. False where it is to be let be: a partition is wanted back."""
        assert self.work.prepare is not None
        while True:
            try:
                await self.work.prepare(batches)
            except SchemasUnavailable as error:
                self._trouble(error.message)
                self._unprepared = True
            else:
                self._unprepared = False
                return True
            await self.work.clock.sleep(BACK_OFF)
            if self._stopping or self._giving:
                for batch in batches:
                    if batch.partition in self.owned:
                        self.consumer.assign(batch.partition, batch.offsets[0])
                return False

    async def _wait_for_outbox(self) -> bool:
        """A group that publishes pauses while the outbox is full: what it does could not be committed."""
        self._trouble(
            f"the outbox of {self.spec.service!r} is full: {self.work.outbox.trouble or 'the relay is behind'}"
        )
        await self.work.clock.sleep(BACK_OFF)
        return False

    async def commit(self, unit: UnitOfWork) -> None:
        """Make a unit of this group's work real."""
        self._publishes = self._publishes or bool(unit.published)
        await unit.commit()

    def _take_given(self) -> None:
        given, self._given = self._given, []
        for owned in given:
            self.owned[owned.partition] = owned
            self.consumer.assign(owned.partition, owned.next)
            self._due_at = 0.0

    async def _release(self, partition: Partition) -> None:
        owned = self.owned.get(partition)
        if owned is not None and not await self.finished(owned):
            return
        if owned is not None:
            await self._tell(force=True)
            self.consumer.release(partition)
            await self.work.store.transact(lambda session: session.execute(self._sql["position_release"], owned.where))
        self.owned.pop(partition, None)
        self._giving.pop(partition, None)
        self._blocked.pop(partition, None)
        self.lost.set()

    async def undone(self) -> None:
        """A transaction was undone for the sake of another: begin again from what is committed."""
        await self._start_again()

    async def _start_again(self) -> None:
        """Give up what we hold, without touching it: a claim reads where it really stands."""
        for partition in list(self.owned):
            self.forget(partition)
        await self.work.clock.sleep(BACK_OFF)

    def _trouble(self, reason: str) -> None:
        if reason != self.trouble:
            log.warning("group %s waits: %s", self.name, reason)
        self.trouble = reason

    async def halt(self, error: GroupStopped) -> None:
        """Stop visibly: in the log, in this process, and in the store for everybody who asks."""
        self.stopped = clean(str(error))
        log.error("group %s is stopped: %s", self.name, self.stopped)
        ours = [owned.where for owned in self.owned.values()]
        for partition in list(self.owned):
            self.forget(partition)

        async def say(session: Session) -> None:
            for where in ours:
                await session.execute(self._sql["position_stopped"], where)
            for topic in self.spec.topics:
                await session.execute(self._sql["group_state"], (self.name, topic.name, "stopped", self.stopped))

        try:
            await self.work.store.transact(say)
        except StoreUnavailable as unavailable:
            self._trouble(unavailable.message)

    # -- parked events ----------------------------------------------------------------------------------------------

    async def _run_due(self) -> float:
        """Run lanes that are due, for a while; seconds until the next one is."""
        now = self.work.clock.now()
        if now < self._last_due - IDLE:  # the clock was set back
            self._due_at = 0.0
            for owned in self.owned.values():
                owned.rebased = False
        self._last_due = now
        if self._due_at > now:
            return min(IDLE, self._due_at - now)
        if not any(owned.lanes for owned in self.owned.values()):
            return IDLE
        next_due = self._due_at = now + IDLE  # `look` may set it anew meanwhile
        await self.parking.measure()
        until = time.perf_counter() + DUE_TIME
        self._due_turn += 1
        turns = list(self.owned.values())
        for place in range(len(turns)):
            owned = turns[(place + self._due_turn) % len(turns)]
            if owned.lanes:
                next_due = min(next_due, await self._run_due_of(owned))
            if time.perf_counter() >= until:
                next_due = min(next_due, self.work.clock.now() + self.look_again)
                break
        self._due_at = min(self._due_at, next_due)
        return max(0.0, self._due_at - self.work.clock.now())

    async def _run_due_of(self, owned: Owned) -> float:
        """Run lanes of one partition; when to look at it again."""
        clock, due = self.work.clock, Due([], set(), None)
        if self._may_run(owned):
            if not owned.rebased:
                async with self._writing:
                    await self.parking.rebase(owned, guard(self._sql["position_guard"], owned))
                owned.rebased = True
            due = await self.parking.due(owned, self.lane_room(), self.lanes_in_hand(owned))
        for lane in due.lanes:
            if lane in due.suspects and self._may_run(owned):
                async with self._writing:
                    may = await self.parking.forewarn(owned, lane, guard(self._sql["position_guard"], owned))
                if may:
                    await self.run_lanes(owned, (lane,))
        others = [lane for lane in due.lanes if lane not in due.suspects]
        if others and self._may_run(owned):
            await self.run_lanes(owned, others)
        if due.lanes:
            return clock.now() + self.look_again
        return clock.now() + IDLE if due.next is None else max(due.next, clock.now() + self.look_again)

    def _may_run(self, owned: Owned) -> bool:
        partition = owned.partition
        return self.owned.get(partition) is owned and partition not in self._giving and not self._stopping

    def block(self, owned: Owned, reason: str) -> None:
        """This partition waits a while: its next event fails and there is no place left to park it."""
        where = f"partition {owned.partition.number} of {owned.partition.topic}"
        if not self._full:
            log.error(
                "group %s: its parking lot is full: %s; partitions whose next event fails wait, as %s does now"
                "\n  → evenflow parked list --group %s shows why; redrive or discard some, or raise the limit",
                self.name,
                reason,
                where,
                self.name,
            )
        self._full = True
        self.trouble = f"{where} waits: {reason}"
        self.consumer.pause(owned.partition)
        self._blocked[owned.partition] = self.work.clock.monotonic() + 2 * BACK_OFF

    async def _unblock(self) -> float:
        now = self.work.clock.monotonic()
        free = [partition for partition, until in self._blocked.items() if until <= now]
        if free:
            await self.parking.measure()
        for partition in free:
            if self._blocked.pop(partition, None) is not None:
                self.consumer.resume(partition)
                self._due_at = 0.0
        if self._full and not self._blocked and not self.parking.full(ROOM_AGAIN):
            self._full = False
            log.info("group %s: its parking lot has room again", self.name)
        return min((until - now for until in self._blocked.values()), default=IDLE)

    # -- positions --------------------------------------------------------------------------------------------------

    def guard(self, unit: UnitOfWork, owned: Owned) -> None:
        """The first statement of a transaction of this partition. Raises `FenceLost` where it was given up meanwhile:
        what is known of it may be less than what is committed.
        """
        if self.owned.get(owned.partition) is not owned:
            raise FenceLost("the partition was given up meanwhile")
        unit.guards.append(guard(self._sql["position_guard"], owned))

    def move(self, unit: UnitOfWork, progress: Progress, settled: list[int]) -> None:
        """Hand over the statement that moves the position, with the marks that go with it."""
        owned = progress.owned
        marks = progress.taking.marks(self.work.clock.now())
        if owned.pending >= PRUNE_EVERY:
            marks.prune(self.work.clock.now() - FORGET_PROCESS)
        for offset, envelope in progress.strangers:
            if offset < progress.next:
                args = (self.name, "", envelope.source, envelope.id, self.work.clock.now())
                unit.hand_over(self._sql["inbox_add"], args)
        sql, args = move(self._sql["position_move"], owned, progress.next, progress.last_id, marks, settled)
        unit.hand_over(sql, args)

    def moved(self, progress: Progress) -> None:
        """The transaction is committed: what we hold of the partition follows."""
        owned = progress.owned
        owned.next, owned.last_id = progress.next, progress.last_id
        owned.marks = progress.taking.marks(self.work.clock.now())
        if owned.pending >= PRUNE_EVERY:
            owned.marks.prune(self.work.clock.now() - FORGET_PROCESS)
        owned.lanes |= progress.lanes
        if progress.due_now:
            self._due_at = 0.0
        for _, envelope, failure in progress.failures:
            self._due_at = min(self._due_at, failure.due or math.inf)
            self.told_failure(failure.decision, envelope, failure.error)
        self.counters.handled += progress.handled
        owned.claims, owned.trying = 0, None
        owned.pending = 0 if owned.pending >= PRUNE_EVERY else owned.pending + 1
        if progress.taking.late:
            self.counters.late += progress.taking.late
            log.warning("group %s: %d events came later than others of their slot", self.name, progress.taking.late)
        if self.owned.get(owned.partition) is not owned:
            return  # it was lost meanwhile
        if not progress.complete:
            self.consumer.assign(owned.partition, owned.next)
        if progress.blocked:
            self.block(owned, progress.blocked)

    async def _tell(self, *, force: bool) -> None:
        """Let the engine know how far we are, every second or so."""
        now = self.work.clock.monotonic()
        if now < self._tell_at and not force:
            return
        self._tell_at = now + IDLE
        positions = {p: o.next for p, o in self.owned.items() if self._told.get(p) != o.next}
        if positions:
            await self.work.engine.told(self.name, self.work.store.id, positions)
            self._told.update(positions)

    def fresh(self, owned: Owned, taking: Taking, envelope: Envelope) -> bool:
        """Whether an event with a number of ours is to be run: not a repeat."""
        if taking.take(envelope.producer, envelope.slot, envelope.number, dense=self.work.dense(owned)):
            return True
        self.counters.duplicates += 1
        return False

    async def known_strangers(self, batch: Batch) -> set[tuple[str, str]]:
        """Of the batch's records without a number of ours, those that this group has taken already."""
        producers = batch.envelopes.producers
        if "" not in producers if type(producers) is list else producers:
            return set()
        if set(batch.envelopes.numbers) == {BY_PLACE}:
            return set()
        wanted = [(e.source, e.id) for e in batch.envelopes if not e.producer and e.number != BY_PLACE]
        if not wanted:
            return set()
        rows = await self.work.store.read(self._sql["inbox_known"], (self.name, "", _json(wanted).decode()))
        return {(source, id_) for source, id_ in rows}

    def first_seen(self, progress: Progress, offset: int, envelope: Envelope, known: set[tuple[str, str]]) -> bool:
        """Whether a stranger's record is new to this group; if so it is remembered with the move.

        One that is known by its place alone is new: the position says how far the group is.
        """
        if envelope.number == BY_PLACE:
            return True
        identity = (envelope.source, envelope.id)
        if identity in known:
            self.counters.duplicates += 1
            return False
        known.add(identity)
        progress.strangers.append((offset, envelope))
        return True

    def told_failure(self, decision: object, envelope: Envelope, error: BaseException) -> None:
        """Count a failure and say it: a retry briefly, a dead letter with its traceback and what to do.

        A handler that rejects an event has said why: no traceback tells more.
        """
        self.counters.failed += 1
        shown = clean(f"{type(error).__name__}: {text_of(error)}")
        if isinstance(decision, DeadLetter):
            self.counters.dead += 1
            log.error(
                "group %s: %s %s is a dead letter: %s\n  → evenflow parked list --group %s",
                self.name,
                envelope.type,
                envelope.id,
                shown,
                self.name,
                exc_info=None if isinstance(error, Reject) else error,
            )
        else:
            log.warning("group %s: %s %s is tried again: %s", self.name, envelope.type, envelope.id, shown)

    def delivery(self, owned: Owned, offset: int, envelope: Envelope, attempt: int) -> Delivery:
        """What a handler may ask for beside the event."""
        number = owned.partition.number
        return Delivery(group=self.name, attempt=attempt, envelope=envelope, partition=number, offset=offset)

    # -- what a kind of group does ----------------------------------------------------------------------------------

    @abstractmethod
    async def handle(self, batches: Sequence[Batch]) -> None:
        """Work through what was fetched."""

    @abstractmethod
    async def run_lanes(self, owned: Owned, lanes: Sequence[str]) -> None:
        """Run the parked events of lanes whose head may run now, as far as it goes for one look."""

    def lane_room(self) -> int:
        """How many lanes may be run in one look."""
        return 200

    def lanes_in_hand(self, owned: Owned) -> Sequence[str]:  # noqa: ARG002  # of other kinds
        """Lanes that are due still, and being worked on."""
        return ()

    async def before_fetch(self) -> None:  # noqa: B027  # of other kinds
        """What is to be done between two fetches."""

    def room(self) -> int:
        """How many events may be fetched now."""
        return 500

    async def no_room(self, wait: float) -> Sequence[Batch]:
        """Wait until there is room again."""
        await self.work.clock.sleep(wait)
        return ()

    async def finished(self, owned: Owned) -> bool:  # noqa: ARG002  # of other kinds
        """Whether nothing of this partition is in flight, so that it may be released."""
        return True

    @property
    def cut_off(self) -> str:
        """Why it handles nothing for a while, whatever waits, and nothing is in flight; or ""."""
        return ""

    @property
    def holding(self) -> str:
        """Why what it has in hand may not begin now, though nothing is wrong with this process; or ""."""
        return ""

    def resumes(self) -> float | None:
        """When, in Unix time, something of what it holds may begin."""
        return None

    def in_flight(self) -> bool:
        """Whether events are being worked on outside of `handle`."""
        return False

    def dropped(self, partition: Partition) -> None:  # noqa: B027  # of other kinds
        """The partition is lost: forget what is in flight."""
