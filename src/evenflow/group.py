"""One group in one process: the loop that fetches, works, and gives partitions back. What work means is its kind's."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from evenflow.clock import Signal
from evenflow.engine import Assigned, Batch, Consumer, Lost, Partition, Revoking
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable, FenceLost, GroupStopped, StoreUnavailable
from evenflow.handler import Delivery
from evenflow.parking import Parking
from evenflow.pausing import Pause, covers
from evenflow.policy import DeadLetter
from evenflow.position import Owned, Taking, guard, move
from evenflow.store import Session
from evenflow.unit_of_work import UnitOfWork
from evenflow.work import Counters, Progress, Work

log = logging.getLogger("evenflow")

FETCH_BYTES = 1 << 20
IDLE = 1.0
"""Seconds that a group without events sleeps at most, before it looks at parked events and tells the engine."""
BACK_OFF = 0.5
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
        self.parking = Parking(self.name, work.store, work.spec.policy, work.clock)
        self.trouble = ""
        self.stopped = ""
        self.pauses: tuple[Pause, ...] = ()
        self.busy = False
        self.consumer: Consumer = work.engine.consumer(self.name)
        self.lost = Signal()
        self._given: list[Owned] = []
        self._giving: dict[Partition, None] = {}
        self._blocked: dict[Partition, float] = {}
        self._stopping = False
        self._publishes = False
        self._told: dict[Partition, int] = {}
        self._tell_at = 0.0
        self._due_at = 0.0
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

    def look(self) -> None:
        """There may be a new wish or a due event among the parked: look at once."""
        self._due_at = 0.0
        self.wake()

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`. Trouble is waited out; a mistake of ours is logged, and the partitions are claimed anew."""
        while True:
            try:
                if await self._round():
                    break
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
        self._take_given()
        if self._stopping:
            self._giving.update(dict.fromkeys(self.owned))
        for partition in list(self._giving):
            await self._release(partition)
        if self._stopping and not self.owned and not self._given:
            return True
        if self._publishes and self.work.outbox.full:
            return await self._wait_for_outbox()
        wait = min(await self._run_due(), self._unblock(), IDLE)
        await self._tell(force=False)
        await self.before_fetch()
        limit = self.room()
        self.busy = False
        found = await self.consumer.fetch(limit, FETCH_BYTES, wait) if limit > 0 else await self.no_room(wait)
        self.busy = True
        batches = [each for each in found if isinstance(each, Batch)]
        for notice in found:
            if not isinstance(notice, Batch):
                self._notice(notice)
        if batches:
            await self.handle([each for each in batches if each.partition in self.owned])
            if not self._blocked:
                self.trouble = ""
        await asyncio.sleep(0)  # nothing above need have waited: others have their turn
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

    def _notice(self, notice: Assigned | Revoking | Lost) -> None:
        if isinstance(notice, Assigned):
            return  # ownership claims what the engine assigns
        for partition in notice.partitions:
            self.take_back(partition) if isinstance(notice, Revoking) else self.forget(partition)

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
        log.error("group %s is stopped: %s", self.name, error)
        self.stopped = str(error)
        for partition in list(self.owned):
            self.forget(partition)

        async def say(session: Session) -> None:
            for topic in self.spec.topics:
                await session.execute(self._sql["group_state"], (self.name, topic.name, "stopped", str(error)))

        try:
            await self.work.store.transact(say)
        except StoreUnavailable as unavailable:
            self._trouble(unavailable.message)

    # -- parked events ----------------------------------------------------------------------------------------------

    async def _run_due(self) -> float:
        """Run lanes that are due; seconds until the next one is."""
        clock = self.work.clock
        if self._due_at > clock.now() or not any(owned.lanes for owned in self.owned.values()):
            return max(0.0, min(IDLE, self._due_at - clock.now())) if self._due_at > clock.now() else IDLE
        next_due = clock.now() + IDLE
        await self.parking.measure()
        for owned in list(self.owned.values()):
            if not owned.lanes:
                continue
            for lane in await self.parking.due(owned, 20):
                if owned.partition in self.owned and owned.partition not in self._giving and not self._stopping:
                    async with self._writing:
                        await self.parking.forewarn(owned, lane, guard(self._sql["position_guard"], owned))
                    await self.run_lane(owned, lane)
            due = await self.parking.next_due(owned)
            if due is not None:
                next_due = min(next_due, max(due, clock.now() + self.look_again))
        self._due_at = next_due
        return max(0.0, next_due - clock.now())

    def block(self, owned: Owned, reason: str) -> None:
        """This partition waits a while: its next event fails and there is no place left to park it."""
        self._trouble(f"partition {owned.partition.number} of {owned.partition.topic} waits: {reason}")
        self.consumer.pause(owned.partition)
        self._blocked[owned.partition] = self.work.clock.monotonic() + 2 * BACK_OFF

    def _unblock(self) -> float:
        now = self.work.clock.monotonic()
        for partition, until in list(self._blocked.items()):
            if until <= now:
                del self._blocked[partition]
                self.consumer.resume(partition)
                self._due_at = 0.0
        return min((until - now for until in self._blocked.values()), default=IDLE)

    # -- positions --------------------------------------------------------------------------------------------------

    def guard(self, unit: UnitOfWork, owned: Owned) -> None:
        """The first statement of a transaction of this partition."""
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
        self.counters.handled += progress.handled
        owned.claims, owned.trying = 0, None
        owned.pending = 0 if owned.pending >= PRUNE_EVERY else owned.pending + 1
        if progress.taking.late:
            self.counters.late += progress.taking.late
            log.warning("group %s: %d events came later than others of their slot", self.name, progress.taking.late)
        if progress.lanes:
            self._due_at = 0.0
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
        known: set[tuple[str, str]] = set()
        producers = batch.envelopes.producers
        if "" not in producers if type(producers) is list else producers:
            return known
        for envelope in batch.envelopes:
            if not envelope.producer:
                identity = (envelope.source, envelope.id)
                if await self.work.store.read(self._sql["inbox_seen"], (self.name, "", *identity)):
                    known.add(identity)
        return known

    def first_seen(self, progress: Progress, offset: int, envelope: Envelope, known: set[tuple[str, str]]) -> bool:
        """Whether a stranger's record is new to this group; if so it is remembered with the move."""
        identity = (envelope.source, envelope.id)
        if identity in known:
            self.counters.duplicates += 1
            return False
        known.add(identity)
        progress.strangers.append((offset, envelope))
        return True

    def told_failure(self, decision: object, envelope: Envelope, error: BaseException) -> None:
        """Count a failure and say it: a retry briefly, a dead letter with its traceback and what to do."""
        self.counters.failed += 1
        if isinstance(decision, DeadLetter):
            self.counters.dead += 1
            log.error(
                "group %s: %s %s is a dead letter: %r\n  → evenflow parked list --group %s",
                self.name,
                envelope.type,
                envelope.id,
                error,
                self.name,
                exc_info=error,
            )
        else:
            log.warning("group %s: %s %s is tried again: %r", self.name, envelope.type, envelope.id, error)

    def delivery(self, owned: Owned, offset: int, envelope: Envelope, attempt: int) -> Delivery:
        """What a handler may ask for beside the event."""
        number = owned.partition.number
        return Delivery(group=self.name, attempt=attempt, envelope=envelope, partition=number, offset=offset)

    # -- what a kind of group does ----------------------------------------------------------------------------------

    @abstractmethod
    async def handle(self, batches: Sequence[Batch]) -> None:
        """Work through what was fetched."""

    @abstractmethod
    async def run_lane(self, owned: Owned, lane: str) -> None:
        """Run the parked events of a lane whose head may run now."""

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

    def in_flight(self) -> bool:
        """Whether events are being worked on outside of `handle`."""
        return False

    def dropped(self, partition: Partition) -> None:  # noqa: B027  # of other kinds
        """The partition is lost: forget what is in flight."""
