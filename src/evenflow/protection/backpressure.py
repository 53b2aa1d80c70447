"""Backpressure to publishers: a topic whose slowest group is too far behind takes no more from outside of handlers.

How far a group is, the engine knows by what it is told each second. Handlers are never held: what they handle is
already there, and one that waited for room in a topic that it reads, itself or through others, would wait for ever. Nor
is the relay.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from math import inf
from typing import Any

from evenflow.clock import Clock, Signal
from evenflow.engine import Engine
from evenflow.errors import BacklogFull, EvenflowError
from evenflow.topic import Topic
from evenflow.unit_of_work import Transaction, cause

log = logging.getLogger("evenflow")

FRESH = 0.1
"""Seconds after which the backlog is measured again, while something is published."""
STALE = 1.0
"""Seconds after which what was measured says nothing any more: who publishes then waits for the new measure."""

Ready = Callable[[str], Awaitable[Engine]]


async def furthest(engine: Engine, topic: str) -> tuple[int, str]:
    """How many events of the topic the group that is furthest behind has to go, and which that is; (0, "") for none.

    Counted in offsets: what compaction has removed counts as well.
    """
    found, who = await engine.log(topic), ""
    most = 0
    if found is None:
        return most, who
    every = [partition for each in found.generations for partition in found.partitions(each.number)]
    bounds = {partition: await engine.bounds(partition) for partition in every}
    for group, stands in (await engine.readers(topic)).items():
        current = max((partition.generation for partition in stands if partition in bounds), default=0)
        behind = sum(
            max(0, high - max(low, stands.get(partition, low)))
            for partition, (low, high) in bounds.items()
            if partition.generation >= current
        )
        if behind > most:
            most, who = behind, group
    return most, who


class Gate:
    """The way into one topic with a limit, in this process. Who has to wait stands in line, in order."""

    def __init__(self, topic: Topic, ready: Ready, clock: Clock) -> None:
        assert topic.backlog is not None
        self.topic = topic.name
        self._limit, self._wait = topic.backlog, topic.backlog_wait
        self._ready = ready
        self._clock = clock
        self._behind, self._group = 0, ""
        self._measured = -inf
        self._task: asyncio.Task[None] | None = None
        self._line: deque[Signal] = deque()

    def clear(self) -> bool:
        """Whether one may publish now, as far as is known without waiting."""
        age = self._clock.monotonic() - self._measured
        if age >= FRESH and asyncio._get_running_loop() is not None:  # a thread of `app.sync` goes by what is known
            self._measure_soon()
        return age < STALE and self._behind < self._limit and not self._line

    def refuse(self) -> None:
        """Raise `BacklogFull` where it is known to be full. Never waits."""
        if not self.clear() and self._behind >= self._limit and self._clock.monotonic() - self._measured < STALE:
            raise self._full(0.0)

    @property
    def waits(self) -> bool:
        """Whether who finds it full waits."""
        return self._wait > 0

    async def enter(self) -> None:
        """Return when there is room, in the order of the calls; raises `BacklogFull` after so long."""
        if self.clear():
            return
        if not self.waits:
            if not await self._room():
                raise self._full(0.0)
            return
        clock, mine = self._clock, Signal()
        start = clock.monotonic()
        self._line.append(mine)
        try:
            while not (self._line[0] is mine and await self._room()):
                left = start + self._wait - clock.monotonic()
                if left <= 0 and self._behind >= self._limit:
                    raise self._full(self._wait)
                mine.clear()
                await clock.wait(mine, min(left, FRESH) if left > 0 and self._line[0] is mine else max(left, FRESH))
        finally:
            self._line.remove(mine)
            if self._line:
                self._line[0].set()

    async def measure(self) -> None:
        """See how far groups are behind. An engine in trouble says so to who publishes; it is not asked here."""
        try:
            self._behind, self._group = await furthest(await self._ready(self.topic), self.topic)
        except EvenflowError as error:
            log.debug("the backlog of %s is not known: %s", self.topic, error.message)
            self._behind = 0
        self._measured = self._clock.monotonic()

    def close(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()

    async def _room(self) -> bool:
        if self._clock.monotonic() - self._measured >= FRESH:
            await asyncio.shield(self._measure_soon())
        return self._behind < self._limit

    def _measure_soon(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._measure_and_say(), context=Context())
        return self._task

    async def _measure_and_say(self) -> None:
        before = self._behind >= self._limit
        await self.measure()
        if (self._behind >= self._limit) is before:
            return
        if before:
            log.info("topic %s has room again", self.topic)
        else:
            log.warning("%s", self._full(0.0))

    def _full(self, waited: float) -> BacklogFull:
        return BacklogFull(self.topic, self._group, self._behind, self._limit, waited)


class Gates:
    """The gates of the topics that have a limit, by their names on the engine."""

    def __init__(self, ready: Ready, clock: Clock) -> None:
        self._ready = ready
        self._clock = clock
        self._gates: dict[str, Gate] = {}

    def add(self, topic: Topic) -> None:
        """A topic is known."""
        if topic.backlog is not None and topic.name not in self._gates:
            self._gates[topic.name] = Gate(topic, self._ready, self._clock)

    def of(self, topic: str) -> Gate | None:
        """The gate of a topic, where it has one."""
        return self._gates.get(topic)

    def __len__(self) -> int:
        return len(self._gates)

    @property
    def waiting(self) -> int:
        """How many calls wait for room."""
        return sum(len(gate._line) for gate in self._gates.values())

    def look(self) -> None:
        """Measure, so that it is said where only handlers publish."""
        for gate in self._gates.values():
            gate.clear()

    def close(self) -> None:
        """Measure no more."""
        for gate in self._gates.values():
            gate.close()


class GatedTransaction(Transaction, eq=False, gc=False):
    """A transaction outside of handlers, of an app with limited topics.

    Where nothing of it has run yet, its commit waits for room before it begins; where it holds the store's write lock,
    or the topic refuses at once, `publish` raises.
    """

    def publish(
        self, event: Any, *, after: float | None = None, at: float | None = None, name: str | None = None
    ) -> None:
        """See `Transaction.publish`. Raises `BacklogFull`, too."""
        super().publish(event, after=after, at=at, name=name)
        unit = self._unit
        if after is not None or at is not None or cause.get() is not None or unit.outbox.gates is None:
            return
        gate = unit.outbox.gates.of(unit.published[-1][0])
        if gate is None:
            return
        if unit.begun or not gate.waits:
            try:
                gate.refuse()
            except BacklogFull:
                unit.published.pop()
                raise
        if gate not in unit.gates:
            unit.gates = (*unit.gates, gate)
