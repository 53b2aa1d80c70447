"""The watchdog of one service: what it sees of groups and relay once a second, and how it ends a silent stall.

A look costs a few comparisons for each partition. Only where nothing has moved for a while, and nothing excuses it, is
it asked whether events wait there; if so the consumer and its loop are made anew, and it is said what was seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from typing import TYPE_CHECKING

from evenflow.clock import Clock, Timer
from evenflow.engine import Partition
from evenflow.errors import EngineUnavailable, GroupStopped, StoreUnavailable
from evenflow.group import GroupLoop
from evenflow.position import Owned
from evenflow.watching.keeping import ending, stacks
from evenflow.watching.watchdog import LOOK, PATIENCE, SLOW, Seen, Still, after, found_waiting, idle, suspicious

if TYPE_CHECKING:
    from evenflow.runtime import ServiceRuntime

log = logging.getLogger("evenflow")
Subject = tuple[str, Partition]


class Stalls:
    """Looks after one open service, by a timer of its own: it needs no task to be alive."""

    def __init__(self, runtime: ServiceRuntime, clock: Clock) -> None:
        self.ended = 0
        """Stalls that it has ended since the start."""
        self._runtime = runtime
        self._clock = clock
        self._known: dict[Subject, Still] = {}
        self._timer: Timer | None = None
        self._looked = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._asked = 0.0
        self._left: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Look from now on."""
        self._looked = self._clock.monotonic()
        self._timer = self._clock.call_later(LOOK, self._again)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._asking, *self._left):
            if task is not None:
                task.cancel()

    def _again(self) -> None:
        now = self._clock.monotonic()
        elapsed, self._looked = min(now - self._looked, 2 * LOOK), now
        self._timer = self._clock.call_later(LOOK, self._again)
        try:
            self.look(elapsed)
        except Exception:
            log.exception("service %s: unexpected in the watchdog, it looks again", self._runtime.name)

    # -- looking ----------------------------------------------------------------------------------------------------

    def look(self, elapsed: float) -> None:
        """One look at everything."""
        runtime = self._runtime
        runtime.kept.look(elapsed)
        known, self._known = self._known, {}
        doubtful: list[tuple[str, Owned, str]] = []
        for loop in list(runtime.loops.values()):
            try:
                self._revive(loop)
                doubtful += self._doubts(loop, known, elapsed)
            except Exception:
                log.exception("group %s: unexpected in the watchdog, it looks again", loop.name)
        relay = runtime.outbox.owned
        if relay is not None:
            subject = (relay.group, relay.partition)
            still = self._known[subject] = after(known.get(subject), _seen_of_relay(runtime), elapsed)
            how = "it does not move them" if suspicious(still) else ""
            if how or idle(still):
                doubtful.append((relay.group, relay, how))
        self._ask(doubtful, elapsed)

    def _doubts(self, loop: GroupLoop, known: dict[Subject, Still], elapsed: float) -> list[tuple[str, Owned, str]]:
        """Its partitions that have stood still for a while, and how, where something waits there."""
        found = []
        for owned in loop.held():
            subject = (loop.name, owned.partition)
            still = self._known[subject] = after(known.get(subject), loop.seen(owned), elapsed)
            how = suspicious(still, len(loop.owned))
            if how or idle(still):
                found.append((loop.name, owned, how))
        return found

    def _revive(self, loop: GroupLoop) -> None:
        """Begin a loop again that has ended and was not told to: a handler can cancel the task that it runs in, say."""
        task = self._runtime.loop_tasks[loop.name]
        if loop.stopping:
            return
        if task.done():
            log.error("group %s: its loop has ended, claiming its partitions anew", loop.name, exc_info=ending(task))
            self._renew(loop)
        elif any(each.done() for each in loop.tasks()):
            error = next(ending(each) for each in loop.tasks() if each.done())
            log.error("group %s: a task of its loop has ended, claiming its partitions anew", loop.name, exc_info=error)
            self._renew(loop)

    def _ask(self, doubtful: list[tuple[str, Owned, str]], elapsed: float) -> None:
        """Ask engine and store what waits there; one question at a time, and none for ever."""
        asking = self._asking
        if asking is not None and not asking.done():
            self._asked += elapsed
            longest = max((loop.spec.policy.timeout for loop in self._runtime.loops.values()), default=0.0)
            if self._asked < SLOW + longest:  # it may wait behind a transaction, and that for its handler
                return
            log.error(
                "service %s: whether events wait cannot be told, store or engine do not answer for %.0f s\n%s",
                self._runtime.name, self._asked, stacks([asking]),
            )  # fmt: skip
            asking.cancel()
            for name in {name for name, _, _ in doubtful}:
                self._stalled(name, "nothing has moved, and nobody answers what waits")
        elif doubtful:
            self._asked = 0.0
            self._asking = asyncio.create_task(self._judge(doubtful))

    async def _judge(self, doubtful: list[tuple[str, Owned, str]]) -> None:
        """End those that are stalls; for the others the time begins anew."""
        told = dict[str, str]()
        before = {(name, owned.partition): self._known.get((name, owned.partition)) for name, owned, _ in doubtful}
        for name in {name for name, _, _ in doubtful}:
            stands = [(owned, how) for each, owned, how in doubtful if each == name]
            try:
                waiting = await self._waiting(name, [owned for owned, _ in stands])
            except (EngineUnavailable, StoreUnavailable, GroupStopped):
                continue  # the loop meets it, and says it
            for owned, how in stands:
                subject, waits = (name, owned.partition), waiting.get(owned.partition)
                still, then = self._known.pop(subject, None), before[subject]
                if not waits or still is None or then is None or still.seen.moved != then.seen.moved:
                    continue
                if how:
                    told.setdefault(name, f"{waits}, nothing has moved for {still.seconds:.0f} s, and {how}")
                else:
                    self._known[subject] = found_waiting(still)
        for name, why in told.items():
            self._stalled(name, why)

    async def _waiting(self, name: str, doubtful: list[Owned]) -> dict[Partition, str]:
        """What waits in these partitions of a group, or of the relay, in words; asked for all at once."""
        loop = self._runtime.loops.get(name)
        if loop is None:
            return {each.partition: await self._of_relay() for each in doubtful}
        found = {}
        backlog = await loop.work.engine.backlog({each.partition: each.next for each in doubtful})
        for owned in doubtful:
            partition, waiting = owned.partition, backlog[owned.partition].waiting
            where = f"in partition {partition.number} of {partition.topic}"
            due = await loop.parking.next_due(owned) if owned.lanes and not waiting else None
            if waiting:
                found[partition] = f"{waiting} events wait {where}"
            elif due is not None and due < self._clock.now() - PATIENCE:
                found[partition] = f"parked events are overdue {where}"
        return found

    async def _of_relay(self) -> str:
        store, sql = self._runtime.store, self._runtime.store.sql
        if await store.read(sql["outbox_next"], (1,)):
            return "events wait in the outbox"
        due = (await store.read(sql["due_next"]))[0][0]
        return "events are overdue in the outbox" if due is not None and due < self._clock.now() - PATIENCE else ""

    # -- putting right ----------------------------------------------------------------------------------------------

    def _stalled(self, name: str, why: str) -> None:
        runtime = self._runtime
        self.ended += 1
        loop = runtime.loops.get(name)
        if loop is None:
            task = runtime.kept.task("relay")
            log.error(
                "outbox of %s: %s; its relay is begun again\n%s", runtime.name, why, stacks([task] if task else [])
            )
            runtime.outbox.owned = None
            runtime.kept.again("relay")
        elif not loop.stopping:
            tasks = [runtime.loop_tasks[name], *loop.tasks()]
            log.error("group %s stood still: %s; consumer and loop are made anew\n%s", loop.name, why, stacks(tasks))
            self._renew(loop)
        runtime.look_now()

    def _renew(self, loop: GroupLoop) -> None:
        """Another loop in its place, which claims what this one held. This one may hang for ever: it owns nothing."""
        runtime = self._runtime
        loop.leave()
        task = runtime.loop_tasks[loop.name]
        task.cancel()
        fresh = runtime.loops[loop.name] = loop.renewed()
        fresh.counters.rebuilt += 1
        runtime.loop_tasks[loop.name] = asyncio.create_task(fresh.run())
        closing = asyncio.create_task(loop.consumer.close())
        for each in (task, closing):
            self._left.add(each)
            each.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._left.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("what a stalled loop has left: %r", error)


def _seen_of_relay(runtime: ServiceRuntime) -> Seen:
    outbox = runtime.outbox
    owned = outbox.owned
    moved: Hashable = (owned.fence if owned else 0, outbox.moved, outbox.moved_to)
    return Seen(moved, excuse=outbox.trouble, busy=SLOW)
